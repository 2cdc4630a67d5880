"""The command `bordure`. A subcommand is one module here; it calls the library and prints what it returns."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial

from pipeline_lib import __version__
from pipeline_lib.cli import evaluate, provenance
from pipeline_lib.runtime.errors import InputError

COMMANDS = (evaluate, provenance)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `bordure`; by default those of this process.

    Returns
    -------
    int
        0, or 1 for an input that cannot be used or is not what its record says. Unknown words end the process
        with 2.
    """
    parser = argparse.ArgumentParser(
        prog="bordure",
        description="From raw microscope images to scored segmentations.",
        formatter_class=partial(argparse.HelpFormatter, max_help_position=28),
    )
    parser.add_argument("--version", action="version", version=f"bordure {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers).set_defaults(run=command.run)
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        return options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
