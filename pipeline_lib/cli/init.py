"""`bordure init`: write table and config for a folder of images."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

HELP = "write table and config for a folder of images, or copy an example"
DESCRIPTION = """\
Look at the images and annotations of a folder, and write a table of volumes and
a config for them: pairs them by name, infers what the annotations mean, and
chooses settings by the size of the cells and the speed of this machine."""

EPILOG = """\
output: volumes.tsv and config.yaml in DIR. Existing files are not overwritten.

exit codes: 0 written; 1 the images cannot be used, or something is ambiguous
            and has to be stated; 2 wrong arguments
example:    bordure init nuclei --minutes 20 --to nuclei-run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("folder", type=Path, nargs="?", help="folder with images and annotations")
    parser.add_argument(
        "--example", choices=("nuclei",), help="copy an example with 12 images instead; needs no FOLDER"
    )
    parser.add_argument(
        "--to", type=Path, metavar="DIR", help="folder to write to; default: this one, or the example's name"
    )
    parser.add_argument("--images", metavar="GLOB", help="images, such as 'raw/*.tif', relative to FOLDER")
    parser.add_argument("--annotations", metavar="GLOB", help="annotations, such as 'masks/*.png'")
    parser.add_argument(
        "--preset", choices=("membranes", "nuclei", "cells"), help="kind of images; default: inferred"
    )
    parser.add_argument(
        "--minutes", type=float, default=None, metavar="N", help="time for a run; default: 30"
    )
    parser.add_argument(
        "--annotation-kind",
        choices=("auto", "instances", "black_membranes", "white_membranes", "classes"),
        default="auto",
        metavar="KIND",
        help="auto, instances, black_membranes, white_membranes or classes",
    )


def run(options: argparse.Namespace) -> int:
    """Write the files, and print what was found and what to type next.

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
        If the images cannot be used or something is ambiguous.
    """
    from pipeline_lib.projects.setup import set_up

    print("reading the images and measuring the speed of this machine ...", file=sys.stderr, flush=True)
    project = set_up(
        options.folder,
        options.to or Path(),
        images=options.images,
        annotations=options.annotations,
        preset=options.preset,
        minutes=options.minutes or 30.0,
        settings={"kind": options.annotation_kind},
        choose=_ask if sys.stdin.isatty() else None,
    )
    for name, value in project.found:
        print(f"{name:<12} {value}")
    print(f"written      {project.table} and {project.config}")
    config = shlex.quote(str(project.config))
    print(f"\nNext:\n    bordure check {config}\n    bordure run {config}")
    return 0


def _ask(message: str, choices: Sequence[str]) -> str:
    """Ask a person which of several choices is right."""
    print(f"\n{message}\n")
    for number, choice in enumerate(choices, 1):
        print(f"  {number}  {choice}")
    while True:
        try:
            answer = input("Number: ").strip()
        except EOFError:
            raise InputError("init: no answer. Give it with an option: --annotation-kind KIND.") from None
        if answer.isdigit() and 1 <= int(answer) <= len(choices):
            return choices[int(answer) - 1]
