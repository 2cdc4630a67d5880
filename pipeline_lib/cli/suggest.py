"""`bordure suggest`: choose the parts of images whose correction helps most."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pipeline_lib.cli.arguments import add_reading, at_least, options_of

HELP = "choose the parts of new images to correct"
DESCRIPTION = """\
Segment images with a trained model, and choose the parts whose correction is
expected to help most: where the outlines of cells are uncertain or, with an
ensemble, where its networks disagree. The chosen parts differ: they do not
overlap, and are taken from different sections if possible."""

EPILOG = """\
output: in DIR, images/ and labels/ with a TIFF of each part, and todo.tsv with
their order and reasons. Correct the labels in Fiji or napari, and write yes into
the column `done`. The value 65535 means `not annotated`: use it for cells that
you leave out. Then type `bordure accept DIR`.

exit codes: 0 written; 1 a file cannot be used; 2 wrong arguments
example:    bordure suggest results/model.pt new/*.tif --out corrections/round1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("model", type=Path, help="`model.pt` in the results folder of a run")
    parser.add_argument("images", type=Path, nargs="+", help="image files or stacks without annotation")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--crops", type=at_least(1), default=10, metavar="N", help="number of parts; default: 10"
    )
    parser.add_argument(
        "--size", type=at_least(1), default=256, metavar="PX", help="side of a part; default: 256"
    )
    parser.add_argument("--random", type=at_least(0), metavar="SEED", help="choose at random, to compare")
    add_reading(parser)


def run(options: argparse.Namespace) -> int:
    """Write the parts and print their list.

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
        If the folder exists, or the model or an image cannot be used.
    """
    from pipeline_lib.corrections.files import LABELS, TODO
    from pipeline_lib.corrections.suggesting import suggest

    places = suggest(
        options.images,
        options_of(options),
        number=options.crops,
        size=options.size,
        seed=options.random,
        stack=options.stack,
    )
    for rank, place in enumerate(places, 1):
        at = f"section {place.section}, y {place.y}, x {place.x}"
        print(f"{rank:3} {place.image}, {at}: {place.reason} ({place.score:.3f})")
    print(f"correct: {options.out / LABELS}")
    print(f"mark:    {options.out / TODO}")
    print(f"then:    bordure accept {shlex.quote(str(options.out))}")
    return 0
