"""`bordure export`: write cells in the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

HELP = "write cells for Fiji or QuPath"
DESCRIPTION = """\
Write the cells of a label image for other programs: their outlines for the ROI
Manager of Fiji (zip) or for QuPath (GeoJSON), with their measurements.

If NAME_cells.csv is beside NAME_labels.tif, as `bordure run` and `bordure
predict` write them, its measurements and classes are used."""

EPILOG = """\
output: OUT, by default the name of the labels with another end. An existing file
is replaced. In Fiji, open the image, then drag the zip onto the window of Fiji.
In QuPath, drag the file onto the image.

exit codes: 0 written; 1 a file cannot be used; 2 wrong arguments
example:    bordure export cells/a_labels.tif --to fiji"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("source", type=Path, metavar="LABELS", help="label image, 0 = background")
    parser.add_argument("out", type=Path, nargs="?", help="file to write")
    parser.add_argument("--to", choices=["fiji", "qupath"], required=True, help="program that will read it")
    parser.add_argument("--table", type=Path, metavar="CSV", help="table of the cells, for measurements")


def run(options: argparse.Namespace) -> int:
    """Write the file and print its path.

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
        If a file cannot be used.
    """
    from pipeline_lib.imageio import source_file
    from pipeline_lib.runtime.log import several
    from pipeline_lib.stages.export import ENDS, export_labels

    source = source_file(options.source)
    stem = source.name.removesuffix(source.suffix)
    end, suffix = ENDS[options.to]
    output = options.out or source.with_name(stem + end + suffix)
    if output.suffix != suffix:
        raise InputError(f"{output}: the name of a file for {options.to} ends with `{suffix}`.")
    table = options.table
    beside = source.with_name(stem.removesuffix("_labels") + "_cells.csv")
    if table is None and stem.endswith("_labels") and beside.exists():
        table = beside
        print(f"measurements: {table}")
    found = export_labels(options.source, output, to=options.to, table=table)
    print(f"{output}: {several(found.cells, 'cell')}")
    if found.holes or found.parts:
        print(
            f"note: ROIs of Fiji are single areas without holes. The holes of {several(found.holes, 'cell')} "
            f"are filled; of {several(found.parts, 'cell')} only the largest part is written."
        )
    return 0
