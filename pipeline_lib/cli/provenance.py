"""`bordure provenance`: show what a file was made from, back to the raw images."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

HELP = "show what a file was made from, and whether it is unchanged"
DESCRIPTION = """\
Show how a file was made, back to the raw images: files, settings and versions.
All these files are read again to check whether they are unchanged."""

EPILOG = """\
output: the file and, indented below it, the files from which it was made, each
with stage, time, memory and settings. Files that have changed or are missing are
marked in capitals. The last line counts the files by state.

exit codes: 0 nothing has changed (missing results that can be made again count
            as unchanged); 1 a file has changed, a raw image is missing, or the
            file has no record; 2 wrong arguments
example:    bordure provenance results/scores.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("file", type=Path, help="file that bordure wrote")


def run(options: argparse.Namespace) -> int:
    """Print the chain of files and return the exit code.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0 if nothing has changed, else 1. Missing results that can be made again do not count as changed.

    Raises
    ------
    InputError
        If there is no such file, or it has no record.
    """
    from pipeline_lib import provenance

    links = provenance.chain(options.file)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly if the reader stops, as in `| head`
    print("\n".join(provenance.describe(links)))
    return int(not all(link.still_holds for link in links.values()))
