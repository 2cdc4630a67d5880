"""`bordure init`: write table and config for a folder of images."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.cli.arguments import positive
from pipeline_lib.cli.words import add_annotation_options, as_options
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
    parser.add_argument("--annotations", metavar="GLOB", help="annotations, such as 'drawn/*.png'")
    parser.add_argument(
        "--preset", choices=("membranes", "nuclei", "cells"), help="kind of images; default: inferred"
    )
    parser.add_argument(
        "--minutes", type=positive, default=None, metavar="N", help="time for a run; default: 30"
    )
    truth = parser.add_argument_group("the annotations, if it is not clear what their values mean")
    add_annotation_options(truth)


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
    from pipeline_lib.projects.example import MINUTES, copy_example
    from pipeline_lib.projects.setup import set_up

    if (options.folder is None) == (options.example is None):
        raise InputError("init: name a folder with images, or an example: bordure init --example nuclei.")
    folder, to = options.folder, options.to or Path(options.example or "")
    if options.example:
        folder = to
        copy_example(options.example, to)
    print("reading the images and measuring the speed of this machine ...", file=sys.stderr, flush=True)
    try:
        project = set_up(
            folder,
            to,
            images=options.images,
            annotations=options.annotations,
            preset=options.preset,
            minutes=options.minutes or (MINUTES if options.example else 30.0),
            settings={
                "kind": options.annotation_kind,
                "classes": dict(options.classes) if options.classes else None,
                "background": options.background,
                "ignore": options.ignore,
                "relabel": options.relabel,
            },
            choose=_ask if sys.stdin.isatty() else None,
            command=shlex.join(["bordure", *options.words]),
        )
    except InputError as error:
        raise InputError(as_options(str(error))) from error
    for name, value in project.found:
        print(f"{name:<12} {value}")
    print(f"written      {project.table} and {project.config}")
    config = shlex.quote(str(project.config))
    print(f"\nNext:\n    bordure check {config}\n    bordure run {config}")
    return 0


def _ask(message: str, choices: Sequence[str]) -> str:
    """Ask a person which of several choices is right."""
    print(f"\n{as_options(message)}\n")
    for number, choice in enumerate(choices, 1):
        print(f"  {number}  {choice}")
    while True:
        try:
            answer = input("Number: ").strip()
        except EOFError:
            raise InputError("init: no answer. Give it with an option: --annotation-kind KIND.") from None
        if answer.isdigit() and 1 <= int(answer) <= len(choices):
            return choices[int(answer) - 1]
