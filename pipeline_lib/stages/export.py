"""Export stage: write cells in the formats of other programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

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
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Stored

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
                    raise InputError(
                        f"{source}: has no row for cell {label} in section {z}. Name the table of these "
                        "labels."
                    )
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
