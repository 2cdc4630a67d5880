"""`bordure export`: write cells in the formats of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

HELP = "write results for other programs"
DESCRIPTION = """\
Write results for other programs. --to fiji and --to qupath take a label image,
and write the outlines of its cells for the ROI Manager of Fiji (zip) or for
QuPath (GeoJSON), with their measurements. --to ro-crate takes the results folder
of a run, and packs report, scores, model and segmentations as a Workflow Run
RO-Crate (zip), which describes itself.

If NAME_cells.csv is beside NAME_labels.tif, as `bordure run` and `bordure
predict` write them, its measurements and classes are used."""

EPILOG = """\
output: OUT, by default the name of the source with another end. An existing file
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
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="label image (0 = background), or results folder"
    )
    parser.add_argument("out", type=Path, nargs="?", help="file to write")
    parser.add_argument("--to", choices=["fiji", "qupath", "ro-crate"], required=True, help="format")
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
    from pipeline_lib.runtime.log import several

    if options.to == "ro-crate":
        from pipeline_lib.cli.workflow import snakefile
        from pipeline_lib.provenance.crate import write_crate

        output = options.out or options.source.with_name(options.source.name + ".crate.zip")
        number = write_crate(options.source, output, snakefile())
        print(f"{output}: {several(number, 'file')}")
        return 0
    from pipeline_lib.imageio import source_file
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
