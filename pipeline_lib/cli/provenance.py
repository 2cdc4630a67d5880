"""`bordure provenance`: what a file was made from, back to the raw images."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add this subcommand's parser to those of `bordure`."""
    parser = subparsers.add_parser(
        "provenance",
        help="what a file was made from, and whether that is unchanged",
        description="Show what a file was made from, back to the raw images, and whether it is unchanged.",
    )
    parser.add_argument("file", type=Path, help="a file that bordure wrote")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the chain of files; 0 if nothing has changed (intermediate files may be missing), else 1."""
    from pipeline_lib import provenance

    links = provenance.chain(options.file)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    print("\n".join(provenance.describe(links)))
    return int(not all(link.still_holds for link in links.values()))
