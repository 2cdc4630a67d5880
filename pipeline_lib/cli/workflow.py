"""Run the workflow of this checkout from any folder."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


def run_workflow(config: Path, arguments: Sequence[str], *targets: str) -> int:
    """Print and run the command of Snakemake that makes `targets`, by default all results.

    Parameters
    ----------
    config : Path
        Config file of the run.
    arguments : sequence of str
        Further arguments of Snakemake. Without `--cores` or `-n`, all cores are used.
    *targets : str
        Rules or files.

    Returns
    -------
    int
        Exit code of Snakemake.

    Raises
    ------
    InputError
        If the workflow is not installed with this package, or there is no config file.
    """
    snakefile = REPOSITORY / "Snakefile"
    if not snakefile.exists():
        raise InputError(
            f"{snakefile}: no such file. This command needs a checkout of the repository; install the "
            "package from it with `make venv`."
        )
    if not config.is_file():
        raise InputError(f"{config}: no such config file. Write one, or correct the path.")
    command = ["snakemake", "--snakefile", str(snakefile), "--cores", "all", "--configfile", str(config)]
    command += [*arguments, *(["--", *targets] if targets else [])]
    print(shlex.join(command), file=sys.stderr, flush=True)
    return subprocess.run([sys.executable, "-m", *command], check=False).returncode
