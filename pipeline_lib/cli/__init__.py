"""The command `bordure`.

Each subcommand is a module of this package with its texts (`HELP`, `DESCRIPTION`, `EPILOG`) and the functions
`add_arguments` and `run`. It calls the library and prints the result.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from pipeline_lib import __version__
from pipeline_lib.cli import accept, check, evaluate, export, init, measure, predict, provenance, run, suggest
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import set_waiting, shown_warnings

COMMANDS = (init, check, run, predict, suggest, accept, evaluate, measure, export, provenance)

DESCRIPTION = """\
Segment microscope images and score segmentations.

`bordure run` runs the workflow, from raw images to the report, and `bordure
check` its first part. The other commands work on single files."""

EPILOG = """\
exit codes: 0 success; 1 a file cannot be used or has changed; 2 wrong arguments
example:    bordure evaluate truth.tif probability.tif

Type `bordure COMMAND --help` for the help of a command."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `bordure` with those of all its subcommands.

    Returns
    -------
    argparse.ArgumentParser
        The parser. Its results have the function to call in the attribute `run`.
    """
    parser = argparse.ArgumentParser(
        prog="bordure",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"bordure {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in COMMANDS:
        add_command(subparsers, command)
    return parser


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], command: ModuleType
) -> argparse.ArgumentParser:
    """Add the parser of a subcommand to those of `bordure`.

    Parameters
    ----------
    subparsers : argparse._SubParsersAction
        Result of `ArgumentParser.add_subparsers`.
    command : module
        One of `COMMANDS`.

    Returns
    -------
    argparse.ArgumentParser
        The new parser. It can be shown in the documentation without running the command.
    """
    parser = subparsers.add_parser(
        command.__name__.rpartition(".")[2],
        help=command.HELP,
        description=command.DESCRIPTION,
        epilog=command.EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after `bordure`. By default those of this process.

    Returns
    -------
    int
        0 for success, 1 if a file cannot be used or has changed, 130 after Ctrl-C. Wrong arguments end the
        process with exit code 2.
    """
    words = sys.argv[1:] if arguments is None else [*arguments]
    options = make_parser().parse_args(words)
    options.words = words
    set_waiting()
    try:
        with shown_warnings():
            code: int = options.run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return code
