"""Measure the cells in label images of any size, with the names of scikit-image's `regionprops_table`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.pixelsize import is_square, pair, side
from pipeline_lib.runtime.types import Stored

if TYPE_CHECKING:
    import pandas as pd

#: Properties of the shape of a cell, in px where they have a unit.
SHAPE = (
    "label",
    "area",
    "centroid",
    "bbox",
    "axis_major_length",
    "axis_minor_length",
    "orientation",
    "eccentricity",
    "solidity",
    "perimeter",
    "equivalent_diameter_area",
)
#: Properties of the gray levels of a cell.
INTENSITY = ("intensity_mean", "intensity_min", "intensity_max", "intensity_std")
#: Columns that are lengths (px).
LENGTHS = ("axis_major_length", "axis_minor_length", "perimeter", "equivalent_diameter_area")


def measure_cells(
    labels: Stored,
    *,
    intensity: Stored | None = None,
    probability: Stored | None = None,
    disagreement: Stored | None = None,
    class_probability: Stored | None = None,
    classes: Mapping[int, str] | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    block: int = BLOCK,
) -> pd.DataFrame:
    """Measure each cell in each section.

    A region is read that contains the cells that begin in one block, so memory depends on the block and the
    largest cell.

    Parameters
    ----------
    labels : (z, y, x) array or HDF5 dataset
        Instance labels, 0 = background.
    intensity : (c, z, y, x) array or HDF5 dataset, optional
        Gray levels. With several channels, each column gets the number of its channel.
    probability : (z, y, x) array or HDF5 dataset, optional
        Cell probability.
    disagreement : (z, y, x) array or HDF5 dataset, optional
        Disagreement of the members of an ensemble.
    class_probability : (k, z, y, x) array or HDF5 dataset, optional
        Probability of each class.
    classes : mapping of int to str, optional
        Number and name of each class of cells in `class_probability`. The class of a cell is the one with the
        highest mean probability, the first of several.
    pixel_size : float or (float, float), optional
        Side of a pixel, or its height and width (um), for further columns in um and um^2. Columns of lengths
        that depend on the direction exist only if pixels are square.
    block : int, default 2048
        Side of the blocks (px). It does not change the result.

    Returns
    -------
    pandas.DataFrame
        One row per section and label, ordered by both: `section` (from 0), the columns of `SHAPE` and
        `INTENSITY` as `skimage.measure.regionprops_table` names them (rows come first: `centroid-0` is the
        row), `touches_edge`, `probability_mean`, `disagreement_mean` and `class`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.measurement import measure_cells
    >>> cells = measure_cells(np.array([[[1, 1, 0, 0], [1, 1, 0, 2]]]), pixel_size=0.5)
    >>> cells[["label", "area", "area_um2", "touches_edge"]]
       label  area  area_um2  touches_edge
    0      1   4.0      1.00          True
    1      2   1.0      0.25          True
    """
    import pandas as pd

    of_class = classes or {}
    given = {"probability_mean": probability, "disagreement_mean": disagreement}
    maps = {column: values for column, values in given.items() if values is not None}
    parts = [
        part
        for z in range(labels.shape[0])
        for part in _parts_of_section(labels, z, intensity, maps, class_probability, of_class, block)
    ]
    if not parts:  # only the columns
        nothing = np.zeros((1, 1), np.uint8)
        gray = None if intensity is None else np.zeros((1, 1, intensity.shape[0]))
        parts = [_measured(nothing, gray, dict.fromkeys(maps, nothing))]
        parts[0] = parts[0].assign(**({"class": ""} if of_class else {}))
    table = pd.concat(parts, ignore_index=True).sort_values(["section", "label"], ignore_index=True)
    if (size := pair(pixel_size)) is not None:
        table["area_um2"] = table["area"] * (size[0] * size[1])
        for column in LENGTHS if is_square(size) else ("equivalent_diameter_area",):
            table[f"{column}_um"] = table[column] * side(size)
        for axis, length in enumerate(size):
            table[f"centroid-{axis}_um"] = table[f"centroid-{axis}"] * length
    return table


def cell_regions(
    labels: Stored, z: int, block: int = BLOCK
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Yield the cells of a section, those that begin in each block together.

    Parameters
    ----------
    labels : (z, y, x) array or HDF5 dataset
        Instance labels, 0 = background.
    z : int
        Number of the section.
    block : int, default 2048
        Side of the blocks (px).

    Yields
    ------
    window : (slice, slice)
        Rows and columns.
    region : (y, x) array of int
        Labels of whole cells there, 0 elsewhere. Each cell is in one region.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.measurement import cell_regions
    >>> [(window, region.tolist()) for window, region in cell_regions(np.array([[[0, 5, 5, 6]]]), 0, block=3)]
    [((slice(0, 1, None), slice(1, 3, None)), [[5, 5]]), ((slice(0, 1, None), slice(3, 4, None)), [[6]])]
    """
    names, top, left, bottom, right = _boxes(labels, z, block)
    for area in blocks((labels.shape[1], labels.shape[2]), block):
        rows, columns = area.write
        own = (top >= rows.start) & (top < rows.stop) & (left >= columns.start) & (left < columns.stop)
        if own.any():
            at = (
                slice(int(top[own].min()), int(bottom[own].max())),
                slice(int(left[own].min()), int(right[own].max())),
            )
            region = labels[(z, *at)]
            yield at, np.where(np.isin(region, names[own]), region, 0)


def _parts_of_section(
    labels: Stored,
    z: int,
    intensity: Stored | None,
    maps: Mapping[str, Stored],
    class_probability: Stored | None,
    classes: Mapping[int, str],
    block: int,
) -> Iterator[pd.DataFrame]:
    """Yield the table of the cells that begin in each block of a section."""
    height, width = labels.shape[1:]
    for at, region in cell_regions(labels, z, block):
        part = _measured(
            region,
            None if intensity is None else np.moveaxis(intensity[(slice(None), z, *at)], 0, -1),
            {column: values[(z, *at)] for column, values in maps.items()},
        )
        for axis, start in enumerate((at[0].start, at[1].start)):
            part[f"centroid-{axis}"] += start
            part[f"bbox-{axis}"] += start
            part[f"bbox-{axis + 2}"] += start
        if class_probability is not None and classes:
            of_cells = np.stack([class_probability[(number, z, *at)] for number in classes])
            part["class"] = _likeliest(region, part["label"], of_cells, [*classes.values()])
        part["section"] = z
        part["touches_edge"] = (
            (part["bbox-0"] == 0)
            | (part["bbox-1"] == 0)
            | (part["bbox-2"] == height)
            | (part["bbox-3"] == width)
        )
        yield part


def _likeliest(
    region: np.ndarray, labels: pd.Series[int], probability: np.ndarray, names: Sequence[str]
) -> np.ndarray:
    """Return the name of the class with the highest mean probability (k, y, x) for each label."""
    from scipy import ndimage

    return np.array(names)[np.argmax([ndimage.mean(own, region, labels) for own in probability], axis=0)]


def _boxes(labels: Stored, z: int, block: int) -> tuple[np.ndarray, ...]:
    """Return the labels of a section and the first and last rows and columns of each (ends exclusive)."""
    from scipy import ndimage

    found = [np.zeros((5, 0), np.int64)]
    for area in blocks((labels.shape[1], labels.shape[2]), block):
        region = labels[(z, *area.write)]
        names, rank = np.unique(region, return_inverse=True)
        boxes = ndimage.find_objects(rank.reshape(region.shape) + 1)
        row, column = area.write[0].start, area.write[1].start
        found.append(
            np.array(
                [
                    (name, rows.start + row, columns.start + column, rows.stop + row, columns.stop + column)
                    for name, (rows, columns) in zip(names.tolist(), boxes, strict=True)
                    if name
                ],
                np.int64,
            )
            .reshape(-1, 5)
            .T
        )
    every, top, left, bottom, right = np.concatenate(found, axis=1)
    names, rank = np.unique(every, return_inverse=True)
    first = [np.full(len(names), np.iinfo(np.int64).max) for _ in range(2)]
    last = [np.zeros(len(names), np.int64) for _ in range(2)]
    for into, values in zip(first, (top, left), strict=True):
        np.minimum.at(into, rank, values)
    for into, values in zip(last, (bottom, right), strict=True):
        np.maximum.at(into, rank, values)
    return names, *first, *last


def _measured(
    region: np.ndarray, intensity: np.ndarray | None, maps: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Return the table of the cells in a region (y, x), with the mean of each map in a column of its name."""
    import pandas as pd
    from skimage import measure  # takes 0.3 s

    names = None
    if region.max(initial=0) > region.size:  # scikit-image needs memory in proportion to the largest number
        names, region = _numbered(region)
    properties = SHAPE if intensity is None else (*SHAPE, *INTENSITY)
    if intensity is not None and intensity.shape[-1] == 1:
        intensity = intensity[..., 0]
    table = pd.DataFrame(
        measure.regionprops_table(region, intensity, properties=properties)  # type: ignore[no-untyped-call]
    )
    table.insert(0, "section", 0)
    table["touches_edge"] = False
    for column, values in maps.items():
        mean = measure.regionprops_table(region, values, properties=("intensity_mean",))  # type: ignore[no-untyped-call]
        table[column] = mean["intensity_mean"]
    if names is not None:
        table["label"] = names[table["label"] - 1]
    return table


def _numbered(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels above 0 of a region in ascending order, and the region with 1, 2, ... for them."""
    names, numbers = np.unique(region, return_inverse=True)
    return names[names > 0], numbers.reshape(region.shape) + (names[0] > 0)
