"""Run the workflow of this checkout from any folder."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add config file and arguments of Snakemake to the parser of a command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("config", type=Path, help="config file of a run")
    parser.add_argument(
        "snakemake", nargs=argparse.REMAINDER, metavar="...", help="further arguments of Snakemake"
    )


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
