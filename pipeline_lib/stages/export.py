"""Export stage: write cells in the formats of other programs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib import imageio, provenance
from pipeline_lib.imageio.headers import is_coloured
from pipeline_lib.imageio.omezarr_writing import MOST_PROPERTIES, writing_omezarr
from pipeline_lib.imageio.outlines import (
    LARGEST_COORDINATE,
    MOST_ROIS,
    Outline,
    Simplified,
    write_cell_geojson,
    write_cell_rois,
)
from pipeline_lib.imageio.pixelsize import Scale
from pipeline_lib.imageio.remote import is_address
from pipeline_lib.instances.files import open_cells
from pipeline_lib.instances.measurement import cell_regions, measure_cells
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.outlines import pixel_outlines
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json, Stored

#: Largest label in OME-Zarr.
LARGEST_LABEL = 2**32 - 1
#: Columns of a table of cells that are no measurements.
_NO_MEASUREMENTS = ("section", "label", "class", "touches_edge", "bbox")


def export_labels(
    labels: str | Path,
    output: str | Path,
    *,
    to: str,
    table: str | Path | None = None,
    block: int = BLOCK,
) -> Simplified:
    """Write the outlines of the cells of a label image for Fiji or QuPath.

    Parameters
    ----------
    labels : str or Path
        Label image of any program, see `instances.files.open_cells`.
    output : str or Path
        File to write.
    to : {"fiji", "qupath"}
        Format: ROI zip, or GeoJSON.
    table : str or Path, optional
        Table of the same cells (CSV), as `bordure measure` writes it, for measurements and classes. By
        default the shapes of the cells are measured.
    block : int, default 2048
        Side of the square blocks in which cells are read (px). It only changes the order of the cells.

    Returns
    -------
    Simplified
        Number of cells, and of those that the format cannot show completely.

    Raises
    ------
    InputError
        If a file cannot be read, a label is negative, the table is of other cells, or there are more cells,
        or larger coordinates, than Fiji can show.
    """
    with open_cells(labels, output, masks=_may_be_masks(labels), block=block) as (cells, info):
        measured = _measured(table, cells, info.pixel_size, labels, block)
        if to == "fiji":
            _require_small(labels, cells.shape, len(measured))
        outlines = _outlines(cells, measured, block)
        if to == "fiji":
            found = write_cell_rois(output, outlines)
        else:
            found = write_cell_geojson(output, outlines, frames=info.frames)
    logger.info("%s: %d cells", output, found.cells)
    return found


class Written(NamedTuple):
    """What an OME-Zarr folder contains.

    Parameters
    ----------
    shape : tuple of int
        Lengths of the axes `czyx` of the image.
    cells : int or None
        Number of cells; None without labels.
    numbered : bool
        Whether cells have other numbers than in the source, because it numbers each section from 1.
    properties : bool
        Whether the labels have measurements.
    volumes : bool
        Whether cells continue through sections. They keep their numbers, and have no measurements, which are
        those of single sections.
    """

    shape: tuple[int, int, int, int]
    cells: int | None = None
    numbered: bool = False
    properties: bool = False
    volumes: bool = False


def export_omezarr(
    source: str | Path,
    output: str | Path,
    *,
    image: str | Path | None = None,
    table: str | Path | None = None,
    version: str = "0.5",
    block: int = BLOCK,
) -> Written:
    """Write an image, or labels with their image, as OME-Zarr with a pyramid.

    Parameters
    ----------
    source : str or Path
        Image or probability map; with `image`, a label image of any program.
    output : str or Path
        Folder to write, `NAME.zarr`.
    image : str or Path, optional
        Image of the labels.
    table : str or Path, optional
        Table of the cells (CSV), as `bordure measure` writes it. By default their shapes are measured.
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    block : int, default 2048
        Side of the square blocks in which cells are measured (px).

    Returns
    -------
    Written
        What was written. If the same number is in several sections, cells get new numbers in the order of
        the table, so that each has its own; `section` and `label` are among their properties.

    Raises
    ------
    InputError
        If a file cannot be read, image and labels differ in size, the table is of other cells, the output
        would replace the source or a folder that bordure did not write, or the package zarr is missing.
    """
    _require_apart(source, output)
    if image is not None:
        _require_apart(image, output)
    shown = source if image is None else image
    record: Json = {"version": provenance.version(), "source": str(source)}
    described = imageio.inspect(shown)
    number = 3 if is_coloured(described) else described.channels
    with ExitStack() as stack:
        pixels = stack.enter_context(imageio.open_images(shown, channels=number))
        stated = pixels.info
        lengths = Scale(stated.pixel_size, stated.section_spacing, stated.frame_interval)
        cells, size = None, None
        if image is not None:
            cells, info = stack.enter_context(
                open_cells(source, output, masks=_may_be_masks(source), block=block)
            )
            if cells.shape != pixels.shape[1:]:
                found, expected = (
                    f"{several(z, 'section')} of {y} x {x} px" for z, y, x in (cells.shape, pixels.shape[1:])
                )
                raise InputError(
                    f"{source}: has {found}, but its image {image} has {expected}. Name the image of these "
                    "labels; that of a volume of a run is results/dataset/NAME.h5:/raw."
                )
            size = info.pixel_size
            lengths = Scale(
                stated.pixel_size or size,
                stated.section_spacing or info.section_spacing,
                stated.frame_interval or info.frame_interval,
            )
        writer = stack.enter_context(writing_omezarr(output, version, frames=stated.frames))
        writer.write_image(
            pixels.read,
            pixels.shape,
            pixels.dtype,
            lengths,
            channels=stated.names,
            rgb=stated.rgb or is_coloured(stated),
            provenance=record | {"source": str(shown)},
        )
        if cells is None:
            return Written(pixels.shape)
        labels = [label for _, label in _sizes(cells, block)]
        if (largest := max(labels, default=0)) > LARGEST_LABEL:
            raise InputError(
                f"{source}: has the label {largest}, and at most {LARGEST_LABEL} is possible in OME-Zarr. "
                "Number the cells again."
            )
        twice = len({*labels}) < len(labels)
        volumes = twice and _through_sections(cells, block)
        numbered, few = twice and not volumes, len(labels) <= MOST_PROPERTIES and not volumes
        measured = _measured(table, cells, size, source, block) if numbered or few else pd.DataFrame()
        own = _numbers(measured) if numbered else None

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            region = cells[z, rows, columns]
            return region if own is None else _renumbered(region, own.get(z, {}))

        writer.write_labels(
            "cells",
            read,
            pixels.shape[1:],
            lengths,
            properties=_properties(measured, numbered) if few else (),
            provenance=record,
        )
        return Written(pixels.shape, len({*labels}) if volumes else len(labels), numbered, few, volumes)


def _require_apart(source: str | Path, output: str | Path) -> None:
    """Raise `InputError` if the folder that would be written is, contains or is inside of the source."""
    if is_address(source):
        return
    own, written = imageio.source_file(source).resolve(), Path(output).resolve()
    if own == written or own in written.parents or written in own.parents:
        raise InputError(
            f"{output}: is the source itself, which would be lost. Name another folder to write."
        )


def _through_sections(cells: Stored, block: int) -> bool:
    """Return whether most labels that are in two neighbouring sections overlap there."""
    same = total = 0
    for z in range(cells.shape[0] - 1):
        for area in blocks((cells.shape[1], cells.shape[2]), block):
            here, there = cells[z, *area.write], cells[z + 1, *area.write]
            common = np.intersect1d(here[here > 0], there[there > 0])
            total += len(common)
            same += len(np.unique(here[(here == there) & (here > 0)]))
    return same > total / 2


def _numbers(measured: pd.DataFrame) -> dict[int, dict[int, int]]:
    """Return a number of its own for each cell, by section and label: its row in the table, from 1."""
    found: dict[int, dict[int, int]] = {}
    for number, (section, label) in enumerate(zip(measured.section, measured.label, strict=True), 1):
        found.setdefault(int(section), {})[int(label)] = number
    return found


def _renumbered(region: np.ndarray, own: dict[int, int]) -> np.ndarray:
    """Return labels with the numbers of `own`; 0 stays."""
    labels, places = np.unique(region, return_inverse=True)
    return np.array([own[label] if label else 0 for label in labels.tolist()])[places].reshape(region.shape)


def _properties(measured: pd.DataFrame, numbered: bool) -> list[Json]:
    """Return the properties of each label, as OME-Zarr names them; unknown values are left out."""
    found = []
    for number, row in enumerate(measured.to_dict("records"), 1):
        known = {str(name): value for name, value in row.items() if _is_known(value)}
        found.append(known | {"label-value": number if numbered else int(row["label"])})
    return found


def _is_known(value: Any) -> bool:
    """Return whether a value is neither missing nor infinite, which JSON cannot express."""
    return not pd.isna(value) and not (isinstance(value, float) and math.isinf(value))


def _outlines(cells: Stored, measured: pd.DataFrame, block: int) -> Iterator[Outline]:
    """Yield the outlines of all cells, in the order of the sections and labels of each region."""
    from scipy import ndimage

    columns = [
        name
        for name in measured
        if name.partition("-")[0] not in _NO_MEASUREMENTS and pd.api.types.is_numeric_dtype(measured[name])
    ]
    kinds = pd.Series("cell", index=measured.index)
    if "class" in measured:
        kinds = measured["class"].replace("", "cell")
    rows = {
        (int(section), int(label)): number
        for number, (section, label) in enumerate(zip(measured.section, measured.label, strict=True))
    }
    values = measured[columns].to_numpy(float)
    for z in range(cells.shape[0]):
        for (rows_at, columns_at), region in cell_regions(cells, z, block):
            names, numbers = np.unique(region, return_inverse=True)
            places = ndimage.find_objects(numbers.reshape(region.shape) + (0 if names[0] == 0 else 1))
            for label, place in zip(names[names > 0].tolist(), places, strict=True):
                number = rows[z, label]
                y, x = (edge.start + at.start for edge, at in zip(place, (rows_at, columns_at), strict=True))
                moved = [
                    [[(left + x, top + y) for left, top in ring] for ring in rings]
                    for rings in pixel_outlines(region[place] == label)
                ]
                own = zip(columns, values[number].tolist(), strict=True)
                known = {name: value for name, value in own if math.isfinite(value)}
                yield Outline(z, label, moved, str(kinds.iloc[number]), known)


def _may_be_masks(labels: str | Path) -> bool:
    """Return whether a label image may be a mask: labels of bordure are none, even of a single cell."""
    return provenance.find_record(imageio.source_file(labels)) is None


def _measured(
    table: str | Path | None, cells: Stored, size: PixelSize | None, labels: str | Path, block: int
) -> pd.DataFrame:
    """Return the measurements of the cells: those of their table, or else new ones of their shapes."""
    if table is None:
        return measure_cells(cells, pixel_size=size, block=block)
    return _read_table(table, cells, labels, block)


def _read_table(path: str | Path, cells: Stored, labels: str | Path, block: int) -> pd.DataFrame:
    """Read a table of cells; `InputError` unless it has a row for each cell of the labels and no others."""
    try:
        table = pd.read_csv(path, converters={"class": str}).dropna(how="all")  # a class can be called NA
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table (CSV): {error}") from None
    if missing := [name for name in ("section", "label") if name not in table]:
        raise InputError(
            f"{path}: has no column {' and '.join(f'`{name}`' for name in missing)}; found "
            f"{', '.join(map(str, table.columns))[:100]}. Name a table of cells, as `bordure measure` writes "
            "it, with commas between the columns."
        )
    for name in ("section", "label"):
        values = pd.to_numeric(table[name], errors="coerce")
        if len(wrong := table[name][values.isna() | (values != values.round())]):
            raise InputError(f"{path}: column `{name}` has `{wrong.iloc[0]}`, expected a whole number.")
        table[name] = values.astype(np.int64)
    files = " --csv ".join(shlex.quote(str(file)) for file in (labels, path))
    again = f"Measure these labels again: bordure measure {files}"
    if (twice := table.duplicated(["section", "label"])).any():
        row = table[twice].iloc[0]
        raise InputError(
            f"{path}: has two rows for cell {int(row.label)} in section {int(row.section)}, as "
            f"tables of several images have. {again}"
        )
    sizes = _sizes(cells, block)
    rows = {*zip(table.section.tolist(), table.label.tolist(), strict=True)}
    for kind, wrong in (("no row for", sizes.keys() - rows), ("a row for", rows - sizes.keys())):
        if wrong:
            section, label = min(wrong)
            but = "" if kind == "no row for" else f", which {labels} does not contain"
            raise InputError(f"{path}: has {kind} cell {label} in section {section}{but}. {again}")
    if "area" in table:
        pixels = np.array([sizes[key] for key in zip(table.section, table.label, strict=True)], float)
        unit = pd.to_numeric(table.area, errors="coerce").to_numpy(float) / pixels  # area of a pixel
        wrong_area = ~np.isclose(unit, np.median(unit), rtol=1e-3) if len(unit) else unit
        if wrong_area.any():
            row = table[wrong_area].iloc[0]
            raise InputError(
                f"{path}: the area of cell {int(row.label)} in section {int(row.section)} is not that of "
                f"{labels}, which may have been edited since. {again}"
            )
    return table


def _sizes(cells: Stored, block: int) -> dict[tuple[int, int], int]:
    """Return the number of pixels of each cell by section and label."""
    found: dict[tuple[int, int], int] = {}
    for z in range(cells.shape[0]):
        for area in blocks((cells.shape[1], cells.shape[2]), block):
            names, counts = np.unique(cells[z, *area.write], return_counts=True)
            for label, count in zip(names.tolist(), counts.tolist(), strict=True):
                if label:
                    found[z, label] = found.get((z, label), 0) + count
    return found


def _require_small(labels: str | Path, shape: tuple[int, ...], cells: int) -> None:
    """Raise `InputError` if there are more cells or larger coordinates than Fiji can show."""
    if cells > MOST_ROIS:
        raise InputError(
            f"{labels}: has {cells:,} cells; the ROI Manager of Fiji becomes slow above {MOST_ROIS:,}. Type "
            "`--to qupath`, or open the labels themselves in Fiji."
        )
    if max(shape[1:]) > LARGEST_COORDINATE:
        raise InputError(
            f"{labels}: is {shape[1]:,} x {shape[2]:,} px; ROIs of Fiji end at {LARGEST_COORDINATE:,} px. "
            "Type `--to qupath`."
        )
