"""`bordure export`: write cells in the formats of other programs."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from pipeline_lib.runtime.errors import InputError

HELP = "write results and models for other programs"
DESCRIPTION = """\
Write results and models for other programs.

  fiji, qupath      from a label image: the outlines of its cells for the ROI
                    Manager of Fiji (zip) or for QuPath (GeoJSON), with their
                    measurements. If NAME_cells.csv is beside NAME_labels.tif,
                    its measurements and classes are used.
  napari, ome-zarr  from an image, or from labels with --image: OME-Zarr with a
                    pyramid, for large images too. In napari, the pointer
                    shows the measurements of cells.
  bioimageio, onnx  from model.pt: a package of bioimage.io (zip) with PyTorch,
                    TorchScript and ONNX; or ONNX alone.
  ro-crate          from the results folder of a run: report, scores, model and
                    segmentations as Workflow Run RO-Crate (zip)."""

EPILOG = """\
output: OUT, by default the name of the source with another end. An existing file
is replaced, and an OME-Zarr if bordure wrote all its files: copy it first if you
edited its labels. In Fiji, open the image, then drag the zip onto the window of
Fiji. In QuPath, drag the file onto the image.

exit codes: 0 written; 1 a file cannot be used; 2 wrong arguments
example:    bordure export cells/a_labels.tif --to fiji"""

#: For each format: end and suffix of the name of the file, by default.
ENDS = {
    "fiji": ("_rois", ".zip"),
    "qupath": ("_cells", ".geojson"),
    "napari": ("", ".zarr"),
    "ome-zarr": ("", ".zarr"),
    "bioimageio": ("_bioimageio", ".zip"),
    "onnx": ("", ".onnx"),
    "ro-crate": ("_crate", ".zip"),
}
#: Two words for the same format.
OMEZARR = ("napari", "ome-zarr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument(
        "source",
        type=_path,
        metavar="SOURCE",
        help="label image, image (file or address of an OME-Zarr), model or results folder",
    )
    parser.add_argument("out", type=Path, nargs="?", help="file to write")
    parser.add_argument("--to", choices=[*ENDS], required=True, metavar="FORMAT", help="format, see above")
    parser.add_argument(
        "--table",
        type=Path,
        metavar="CSV",
        help="fiji, qupath, napari: table of the cells, for measurements",
    )
    parser.add_argument(
        "--image",
        type=_path,
        metavar="IMAGE",
        help="napari: image of the labels; bioimageio: test image, by default noise",
    )
    parser.add_argument(
        "--zarr-version",
        choices=("0.5", "0.4"),
        default="0.5",
        metavar="VERSION",
        help="napari: 0.5 (default), or 0.4 for QuPath and Bio-Formats",
    )
    parser.add_argument(
        "--license", default="CC-BY-4.0", metavar="SPDX", help="bioimageio: licence; default: CC-BY-4.0"
    )


def _path(text: str) -> Path | str:
    """Return a path; an address stays text, because `Path` would remove a slash."""
    from pipeline_lib.imageio.remote import is_address

    return text if is_address(text) else Path(text)


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
    from pipeline_lib.imageio.remote import is_address

    source = source_file(options.source)
    if is_address(options.source):
        if options.to not in OMEZARR:
            raise InputError(
                f"{options.source}: an address can only be copied. Type `--to ome-zarr`, then the same "
                "command with the copy."
            )
        source = Path(source.name)
    elif options.out is None and options.to in OMEZARR and source.suffix == ".zarr":
        raise InputError(
            f"{options.source}: the copy needs a name of its own. Type it after the source, such as "
            f"{source.stem}_copy.zarr."
        )
    source = _named(source)
    end, suffix = ENDS[options.to]
    output = options.out or _beside(source, end + suffix)
    if suffix != ".zarr" and output.is_dir():
        raise InputError(f"{output}: is a folder. Name a file to write.")
    if output.suffix != suffix:
        raise InputError(f"{output}: the name of a file for {options.to} ends with `{suffix}`.")
    if options.to in ("fiji", "qupath"):
        _export_labels(options, source, output)
    elif options.to in OMEZARR:
        _export_omezarr(options, source, output)
    elif options.to == "ro-crate":
        _export_run(options.source, output)
    else:
        _export_model(options, output)
    return 0


def _named(path: Path) -> Path:
    """Return a path whose last part is a name: neither `.` nor `..`."""
    return path if path.name.strip(".") else path.resolve()


def _beside(source: Path, end: str) -> Path:
    """Return a path beside a file, a folder, or the folder of a pattern, with its name and another end."""
    from pipeline_lib.imageio.naming import is_pattern

    folder = _named(source.parent) if is_pattern(source) else source
    if folder.is_dir() and folder.suffix != ".zarr":
        return folder.with_name(folder.name + end)
    return source.with_name(source.name.removesuffix(source.suffix) + end)


def _export_labels(options: argparse.Namespace, source: Path, output: Path) -> None:
    """Write the outlines of cells."""
    from pipeline_lib.runtime.log import several
    from pipeline_lib.stages.export import export_labels

    table = _table(options, source)
    found = export_labels(options.source, output, to=options.to, table=table)
    print(f"{output}: {several(found.cells, 'cell')}")
    simplified = []
    if found.holes:
        simplified.append(f"the holes of {several(found.holes, 'cell')} are filled")
    if found.parts:
        simplified.append(f"only the largest part of {several(found.parts, 'cell')} is written")
    if simplified:
        print(f"note: ROIs of Fiji are single areas without holes: {', and '.join(simplified)}.")


def _export_omezarr(options: argparse.Namespace, source: Path, output: Path) -> None:
    """Write an image, or labels with their image, as OME-Zarr."""
    from pipeline_lib.runtime.log import several
    from pipeline_lib.stages.export import export_omezarr

    if options.image is None and source.stem.endswith("_labels"):
        raise InputError(
            f"{source}: labels are part of their image in OME-Zarr. Add `--image IMAGE`, the image of these "
            "labels."
        )
    found = export_omezarr(
        options.source,
        output,
        image=options.image,
        table=_table(options, source) if options.image else None,
        version=options.zarr_version,
    )
    channels, sections, height, width = found.shape
    print(
        f"{output}: {several(channels, 'channel')}, {several(sections, 'section')} of {height} x {width} px"
        + (f", {several(found.cells, 'cell')} in labels/cells" if found.cells is not None else "")
    )
    if found.numbered:
        print("note: cells have new numbers, as several sections have the same; `label` is the old one.")
    if found.volumes:
        print("note: cells continue through sections. They keep their numbers, and have no measurements.")
    elif found.cells is not None and not found.properties:
        print("note: there are too many cells for measurements in OME-Zarr. They are in the table alone.")
    if options.to == "napari":
        print(f"open: napari --plugin napari-ome-zarr {shlex.quote(str(output))}")


def _table(options: argparse.Namespace, source: Path) -> Path | None:
    """Return the table of the cells: the stated one, or the one beside the labels."""
    stem = source.name.removesuffix(source.suffix)
    beside = source.with_name(stem.removesuffix("_labels") + "_cells.csv")
    if options.table is None and stem.endswith("_labels") and beside.exists():
        print(f"measurements: {beside}")
        return beside
    table: Path | None = options.table
    return table


def _export_run(results: Path, output: Path) -> None:
    """Write a run as RO-Crate."""
    from pipeline_lib.cli.workflow import snakefile
    from pipeline_lib.provenance.crate import write_crate
    from pipeline_lib.runtime.log import several

    print(f"{output}: {several(write_crate(results, output, snakefile()), 'file')}")


def _export_model(options: argparse.Namespace, output: Path) -> None:
    """Write a model."""
    from pipeline_lib.api.segmenting import channels_to_read
    from pipeline_lib.imageio import open_images
    from pipeline_lib.networks import modelfile
    from pipeline_lib.stages.export_model import export_bioimageio, export_onnx

    if options.to == "onnx":
        sizes = export_onnx(options.source, output)
        print(f"{output}: for multiples of {sizes.step} px, at least {sizes.smallest} px high and wide")
        return
    image = None
    if options.image:
        described = modelfile.describe(options.source)
        with open_images(options.image, channels=channels_to_read(None, described, options.source)) as found:
            _, _, height, width = found.shape
            image = found.read(0, slice(0, height), slice(0, width))
    formats = export_bioimageio(options.source, output, image=image, licence=options.license)
    print(f"{output}: {', '.join(formats)}")
