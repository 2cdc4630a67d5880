"""Export stage: write cells in the formats of other programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib import imageio, provenance
from pipeline_lib.imageio.omezarr_writing import MOST_PROPERTIES, Lengths, writing_omezarr
from pipeline_lib.imageio.outlines import (
    LARGEST_COORDINATE,
    MOST_ROIS,
    Outline,
    Simplified,
    write_cell_geojson,
    write_cell_rois,
)
from pipeline_lib.instances.files import open_cells
from pipeline_lib.instances.measurement import cell_regions, measure_cells
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.kernels.outlines import pixel_outlines
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json, Stored

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
    with open_cells(labels, output, block=block) as (cells, size):
        measured = _read_table(table) if table else measure_cells(cells, pixel_size=size, block=block)
        if to == "fiji":
            _require_small(labels, cells.shape, len(measured))
        outlines = _outlines(cells, measured, table or labels, block)
        found = (write_cell_rois if to == "fiji" else write_cell_geojson)(output, outlines)
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
    """

    shape: tuple[int, int, int, int]
    cells: int | None = None
    numbered: bool = False
    properties: bool = False


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
        If a file cannot be read, image and labels differ in size, or the package zarr is missing.
    """
    shown = source if image is None else image
    record: Json = {"version": provenance.version(), "source": str(source)}
    number = imageio.inspect(shown).channels
    with ExitStack() as stack:
        pixels = stack.enter_context(imageio.open_images(shown, channels=number))
        lengths = Lengths(pixels.info.pixel_size, pixels.info.section_spacing)
        cells, size = None, None
        if image is not None:
            cells, size = stack.enter_context(open_cells(source, output, block=block))
            if cells.shape != pixels.shape[1:]:
                found, expected = (
                    f"{several(z, 'section')} of {y} x {x} px" for z, y, x in (cells.shape, pixels.shape[1:])
                )
                raise InputError(
                    f"{source}: has {found}, but its image {image} has {expected}. Name the image of these "
                    "labels; that of a volume of a run is results/dataset/NAME.h5:/raw."
                )
            lengths = lengths if lengths.pixel_size else Lengths(size)
        writer = stack.enter_context(writing_omezarr(output, version))
        writer.write_image(
            pixels.read,
            pixels.shape,
            pixels.dtype,
            lengths,
            channels=pixels.info.names,
            provenance=record | {"source": str(shown)},
        )
        if cells is None:
            return Written(pixels.shape)
        measured = _read_table(table) if table else measure_cells(cells, pixel_size=size, block=block)
        numbered = bool(measured.label.duplicated().any())
        own = _numbers(measured) if numbered else None

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            region = cells[z, rows, columns]
            return region if own is None else _renumbered(region, own.get(z, {}), table or source, z)

        few = len(measured) <= MOST_PROPERTIES
        writer.write_labels(
            "cells",
            read,
            pixels.shape[1:],
            lengths,
            properties=_properties(measured, numbered) if few else (),
            provenance=record,
        )
        return Written(pixels.shape, len(measured), numbered, few)


def _numbers(measured: pd.DataFrame) -> dict[int, dict[int, int]]:
    """Return a number of its own for each cell, by section and label: its row in the table, from 1."""
    found: dict[int, dict[int, int]] = {}
    for number, (section, label) in enumerate(zip(measured.section, measured.label, strict=True), 1):
        found.setdefault(int(section), {})[int(label)] = number
    return found


def _renumbered(region: np.ndarray, own: dict[int, int], source: str | Path, z: int) -> np.ndarray:
    """Return labels with the numbers of `own`; 0 stays."""
    labels, places = np.unique(region, return_inverse=True)
    if missing := [label for label in labels[labels > 0].tolist() if label not in own]:
        raise _no_row(source, missing[0], z)
    return np.array([own[label] if label else 0 for label in labels.tolist()])[places].reshape(region.shape)


def _properties(measured: pd.DataFrame, numbered: bool) -> list[Json]:
    """Return the properties of each label, as OME-Zarr names them; unknown values are left out."""
    found = []
    for number, row in enumerate(measured.to_dict("records"), 1):
        known = {str(name): value for name, value in row.items() if not pd.isna(value)}
        found.append({"label-value": number if numbered else int(row["label"])} | known)
    return found


def _no_row(source: str | Path, label: int, z: int) -> InputError:
    return InputError(
        f"{source}: has no row for cell {label} in section {z}. Name the table of these labels."
    )


def _outlines(cells: Stored, measured: pd.DataFrame, source: str | Path, block: int) -> Iterator[Outline]:
    """Yield the outlines of all cells, in the order of the sections and labels of each region."""
    from scipy import ndimage

    columns = [
        name
        for name in measured
        if name.partition("-")[0] not in _NO_MEASUREMENTS and pd.api.types.is_numeric_dtype(measured[name])
    ]
    kinds = measured["class"] if "class" in measured else pd.Series("cell", index=measured.index)
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
                number = rows.get((z, label))
                if number is None:
                    raise _no_row(source, label, z)
                y, x = (edge.start + at.start for edge, at in zip(place, (rows_at, columns_at), strict=True))
                moved = [
                    [[(left + x, top + y) for left, top in ring] for ring in rings]
                    for rings in pixel_outlines(region[place] == label)
                ]
                own = zip(columns, values[number].tolist(), strict=True)
                known = {name: value for name, value in own if math.isfinite(value)}
                yield Outline(z, label, moved, str(kinds.iloc[number]), known)


def _read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of cells; `InputError` if it has no sections and labels."""
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a table (CSV): {error}") from None
    if missing := [name for name in ("section", "label") if name not in table]:
        raise InputError(
            f"{path}: has no column {' and '.join(f'`{name}`' for name in missing)}. Name a table of cells, "
            "as `bordure measure` writes it."
        )
    return table


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
