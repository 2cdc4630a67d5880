"""Run the workflow from any folder: that of this checkout, or else the one in the installed package."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

CONFIG = "config.yaml"  # as `bordure init` calls it
PACKAGE = Path(__file__).resolve().parents[1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add config file and arguments of Snakemake to the parser of a command.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument(
        "config", type=Path, nargs="?", default=Path(CONFIG), help=f"config file of a run; default: {CONFIG}"
    )
    rest = parser.add_argument(
        "snakemake", nargs=argparse.REMAINDER, metavar="...", help="further arguments of Snakemake"
    )
    rest.required = False  # argparse would name it in the message if the config is missing


def snakefile() -> Path:
    """Return the main file of the workflow: in the checkout, or in the package, where setup.py puts it.

    Returns
    -------
    Path
        The file.
    """
    checkout = PACKAGE.parent / "Snakefile"
    return checkout if checkout.exists() else PACKAGE / "workflow/Snakefile"


def run_workflow(config: Path, arguments: Sequence[str], *targets: str) -> int:
    """Print and run the command of Snakemake that makes `targets`, by default all results.

    Parameters
    ----------
    config : Path
        Config file of the run.
    arguments : sequence of str
        Further arguments of Snakemake. The profile `default` uses all cores.
    *targets : str
        Rules or files.

    Returns
    -------
    int
        Exit code of Snakemake.

    Raises
    ------
    InputError
        If there is no config file.
    """
    profile = snakefile().parent / "profiles/default"
    if not profile.exists():
        profile = PACKAGE / "profiles/default"
    if not config.is_file():
        raise InputError(
            f"{config}: no such config file. Name another, or write one with `bordure init FOLDER`."
        )
    command = ["snakemake", "--snakefile", str(snakefile()), "--configfile", str(config)]
    command += ["--workflow-profile", str(profile)]  # here, since --configfile takes all words that follow
    command += [*arguments, *(["--", *targets] if targets else [])]
    print(shlex.join(command), file=sys.stderr, flush=True)
    process = subprocess.Popen([sys.executable, "-m", *command])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # Snakemake has received Ctrl-C, too, and ends its jobs
            continue
