"""`bordure predict`: segment images with a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.api.segmenting import Options, segment_images
from pipeline_lib.cli.arguments import channel, pixel_size

HELP = "segment images with a trained model"
DESCRIPTION = """\
Segment images with a trained model, as the workflow does. Neither a table nor
the training images are needed. An image that cannot be used does not stop the
others."""

EPILOG = """\
output: for each image NAME_labels.tif (the cells, numbered), NAME_cells.csv (a
table of them) and NAME_cell_probability.tif; with a detector
NAME_detections.csv and files for Fiji, QuPath and COCO; summary.csv.

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
    parser.add_argument("--stack", action="store_true", help="a folder in IMAGES is one stack of its files")
    parser.add_argument(
        "--channels",
        type=channel,
        nargs="+",
        metavar="C",
        help="channels to read, by number or name, as `dataset.channels`",
    )
    parser.add_argument(
        "--scale", type=float, metavar="FACTOR", help="multiply gray levels, as the column `scale`"
    )
    parser.add_argument(
        "--offset", type=float, metavar="LEVEL", help="subtract first, as the column `offset`"
    )
    parser.add_argument(
        "--pixel-size",
        type=pixel_size,
        metavar="UM",
        help="side of a pixel in um; default: as the file states",
    )
    parser.add_argument(
        "--match-pixel-size", action="store_true", help="resample images to the pixel size of the model"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--at-a-time", type=int, metavar="N", help="images at a time; default: what the machine allows"
    )
    parser.add_argument("--memory", type=float, default=8.0, metavar="GB", help="memory to use; default: 8")


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
    chosen = Options(
        options.model,
        options.out,
        scale=options.scale,
        offset=options.offset,
        channels=options.channels,
        pixel_size=options.pixel_size,
        match_pixel_size=options.match_pixel_size,
        device=options.device,
        at_a_time=options.at_a_time,
        memory=options.memory,
    )
    rows = segment_images(options.images, chosen, stack=options.stack)
    return 1 if any("error" in row for row in rows) else 0
