"""`bordure accept`: check corrected labels and prepare the next run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

HELP = "check corrected labels and prepare the next run"
DESCRIPTION = """\
Check the labels in a folder that `bordure suggest` wrote, as far as they are
marked as done in its todo.tsv, and write a table of volumes and a config with
which they are learned."""

EPILOG = """\
output: beside the table and the config, files with the name of the folder added:
volumes-round1.tsv and config-round1.yaml. The next run starts from the old model
and reports old and new scores on the same validation volumes.

exit codes: 0 written; 1 labels cannot be used; 2 wrong arguments
example:    bordure accept corrections/round1 && bordure run config-round1.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("round", type=Path, metavar="DIR", help="folder of the corrections")
    parser.add_argument(
        "config",
        type=Path,
        nargs="?",
        default=Path("config.yaml"),
        help="config of the run before; default: config.yaml",
    )


def run(options: argparse.Namespace) -> int:
    """Write the files and print their paths.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0.

    Raises
    ------
    InputError
        If nothing is done, labels cannot be used, or a file that would be written exists.
    """
    from pipeline_lib.corrections.accepting import accept
    from pipeline_lib.runtime.log import several

    found = accept(options.round, options.config)
    for note in found.notes:
        print(f"note: {note}")
    print(f"{several(len(found.crops), 'crop')} accepted")
    print(f"table:  {found.table}")
    print(f"config: {found.config}")
    print(f"next:   bordure run {shlex.quote(str(found.config))}")
    return 0
