"""`bordure predict`: segment images with a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.api.segmenting import segment_images
from pipeline_lib.cli.arguments import add_reading, options_of

HELP = "segment images with a trained model"
DESCRIPTION = """\
Segment images with a trained model, as the workflow does. Neither a table nor
the training images are needed. An image that cannot be used does not stop the
others."""

EPILOG = """\
output: for each image NAME_labels.tif (the cells, numbered), NAME_cells.csv (a
table of them) and NAME_cell_probability.tif; with several networks
NAME_disagreement.tif; with a detector NAME_detections.csv and files for Fiji,
QuPath and COCO; summary.csv.

exit codes: 0 all images are segmented; 1 at least one cannot be used; 2 wrong
            arguments
example:    bordure predict results/model.pt new/*.tif --out cells"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("model", type=Path, help="`model.pt` in the results folder of a run")
    parser.add_argument(
        "images", type=Path, nargs="+", help="image files or stacks; `FILE.h5:/DATASET` for HDF5"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    add_reading(parser)


def run(options: argparse.Namespace) -> int:
    """Segment the images and print a line for each.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0 if all images are segmented, else 1.

    Raises
    ------
    InputError
        If the model cannot be used or the names of two images are equal.
    """
    rows = segment_images(options.images, options_of(options), stack=options.stack)
    return 1 if any("error" in row for row in rows) else 0
