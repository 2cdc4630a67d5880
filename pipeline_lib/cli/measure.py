"""`bordure measure`: write a table of the cells in a label image."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.cli.arguments import channel, pixel_size
from pipeline_lib.runtime.errors import InputError

HELP = "measure the cells of a label image"
DESCRIPTION = """\
Write a table of the cells in a label image of any program: area, position,
shape, and the gray levels of an image of the same size."""

EPILOG = """\
output: a CSV file with one row per cell and section. The columns have the names
of scikit-image's `regionprops_table`, in px; `centroid-0` is the row. If the
pixel size is known, further columns end in _um and _um2.

exit codes: 0 measured; 1 a file cannot be used; 2 wrong arguments
example:    bordure measure a_labels.tif --intensity a.tif --pixel-size 0.65"""

TABLE = "section,label,area"  # the beginning of a table of cells; other files are not replaced


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("labels", type=Path, nargs="+", help="label images, 0 = background")
    parser.add_argument("--intensity", type=Path, metavar="IMAGE", help="image of the same size to measure")
    parser.add_argument(
        "--channels",
        type=channel,
        nargs="+",
        metavar="C",
        help="its channels, by number or name; default: all",
    )
    parser.add_argument(
        "--pixel-size",
        type=pixel_size,
        metavar="UM",
        help="side of a pixel in um; default: as the file states",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="file to write; default: LABELS with .csv")


def run(options: argparse.Namespace) -> int:
    """Write the table and print its path.

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
        If a file cannot be read or does not fit, or another file would be replaced.
    """
    from pipeline_lib.imageio import source_file
    from pipeline_lib.runtime.files import begins_with
    from pipeline_lib.runtime.log import several
    from pipeline_lib.stages.measurement import measure_file

    if len(options.labels) > 1 and (options.csv or options.intensity):
        raise InputError("measure: `--csv` and `--intensity` belong to one label image. Measure each alone.")
    outputs: dict[Path, Path] = {}
    for labels in options.labels:
        output = options.csv or source_file(labels).with_suffix(".csv")
        if output in outputs:
            raise InputError(
                f"measure: the tables of {outputs[output]} and {labels} would both be {output}. Measure each "
                "alone, with `--csv FILE`."
            )
        if not options.csv and output.exists() and not begins_with(output, TABLE):
            raise InputError(f"{output}: exists and is no table of cells. Name another file: --csv FILE.")
        outputs[output] = labels
    for output, labels in outputs.items():
        cells = measure_file(
            labels,
            output,
            intensity=options.intensity,
            channels=options.channels,
            pixel_size=options.pixel_size,
        )
        print(f"{output}: {several(cells, 'cell')}")
    return 0
