"""Measurement stage: write a table of the cells of a label image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.imageio.images import open_chosen
from pipeline_lib.instances.measurement import measure_cells
from pipeline_lib.instances.postprocessing import PostProcessing, instances_by_block
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.pixelsize import ROUNDING, PixelSize, differs, pair, text
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json, Stored

#: Columns of `summary.csv`. Cells are found as labels, or as boxes; then there are no labels.
SUMMARY = ["image", "cells", "labels", "table", "error"]


@dataclass(frozen=True)
class _Regions:
    """An open image as an array, whose regions are read when it is indexed."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[..., np.ndarray]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.read(*index)


def measure_volume(
    dataset: str | Path,
    prediction: str | Path | None,
    segmentation: str | Path,
    output: str | Path,
    *,
    pixel_size: float | tuple[float, float] | None = None,
    block: int = BLOCK,
) -> int:
    """Write the table of the cells of a segmented volume (CSV).

    Parameters
    ----------
    dataset, prediction, segmentation : str or Path
        HDF5 files with the arrays `raw`, `cell_probability` and `labels` of the volume. If cells are of
        several classes, the prediction also has the `class_probability`, and that of an ensemble has the
        `disagreement`. It is None if the labels were made from masks of detections (`masks.predict_masks`).
    output : str or Path
        CSV file to write, with the columns of `instances.measurement.measure_cells`. For masks, the score of
        the detection (`score`) is in place of the mean probability.
    pixel_size : float or (float, float), optional
        Side of a pixel, or its height and width (um), for columns in um and um^2. By default that of the
        dataset.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the result.

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    InputError
        If an input is missing or damaged.
    """
    inputs = [path for path in (dataset, prediction, segmentation) if path]
    arrays = (layout.LABELS,) if prediction else (layout.LABELS, layout.BOX_CLASS, layout.BOX_SCORE)
    with (
        provenance.making("measure_volume", [output], inputs, pixel_size=pixel_size),
        layout.require(dataset, layout.RAW) as raw,
        layout.require(segmentation, *arrays) as found,
        replacing(output) as temporary,
        ExitStack() as stack,
    ):
        predicted = (
            stack.enter_context(layout.require(prediction, layout.CELL_PROBABILITY)) if prediction else {}
        )
        cells = measure_cells(
            found[layout.LABELS.name],
            intensity=raw[layout.RAW.name],
            probability=predicted.get(layout.CELL_PROBABILITY.name),
            disagreement=predicted.get(layout.DISAGREEMENT.name),
            class_probability=predicted.get(layout.CLASS_PROBABILITY.name),
            classes=classes_of_cells(predicted),
            pixel_size=pixel_size or layout.pixel_size(raw),
            block=block,
        )
        if not prediction:
            names, of_objects = layout.classes_of(found[layout.BOX_CLASS.name])
            cells["score"] = found[layout.BOX_SCORE.name][:].astype(float)[cells.label - 1]
            if len(of_objects) > 1:
                cells["class"] = np.array(names)[found[layout.BOX_CLASS.name][:][cells.label - 1]]
        cells.to_csv(temporary, index=False)
    return len(cells)


def classes_of_cells(prediction: Mapping[str, Any]) -> dict[int, str]:
    """Return number and name of each class of cells; empty if there is only one."""
    if layout.CLASS_PROBABILITY.name not in prediction:
        return {}
    names, cells = layout.classes_of(prediction[layout.CLASS_PROBABILITY.name])
    found = {number: name for number, name in enumerate(names) if name in cells}
    return found if len(found) > 1 else {}


def summarise(tables: Sequence[str | Path], output: str | Path, *, images: Mapping[str, str]) -> None:
    """Write a table of all images with the number of cells of each (CSV), as `bordure predict` does.

    Parameters
    ----------
    tables : sequence of str or Path
        Tables of the cells of each volume: `VOLUME_cells.csv`, or `VOLUME_detections.csv` of a detector.
    output : str or Path
        CSV file to write, with the columns `SUMMARY`.
    images : dict of str to str
        Images of each volume, in the order of the tables.
    """
    with provenance.making("summarise", [output], tables):
        rows = [
            {
                "image": image,
                "cells": len(pd.read_csv(table, usecols=[0])),
                "labels": f"{volume}_labels.tif" if Path(table).stem == f"{volume}_cells" else None,
                "table": Path(table).name,
            }
            for (volume, image), table in zip(images.items(), tables, strict=True)
        ]
        write_summary(rows, output)


def write_summary(rows: Sequence[Json], output: str | Path) -> None:
    """Write the table of segmented images (CSV).

    Parameters
    ----------
    rows : sequence of dict
        Values of the columns `SUMMARY` for each image. Missing ones stay empty.
    output : str or Path
        CSV file to write.
    """
    table = pd.DataFrame(rows, columns=SUMMARY)
    with replacing(output) as temporary:
        table.astype({"cells": "Int64"}).to_csv(temporary, index=False)


def measure_file(
    labels: str | Path,
    output: str | Path,
    *,
    intensity: str | Path | None = None,
    channels: imageio.Channels | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    block: int = BLOCK,
) -> int:
    """Write the table of the cells in a label image of any program (CSV).

    Parameters
    ----------
    labels : str or Path
        Label image: TIFF, PNG, folder of slices or `file.h5:/dataset`; 0 = background. If it has one value
        besides 0, as a mask has, each of its connected areas is a cell.
    output : str or Path
        CSV file to write, with the columns of `instances.measurement.measure_cells`.
    intensity : str or Path, optional
        Image of the same size whose gray levels are measured.
    channels : int or sequence of (int or str), optional
        Channels of this image to measure, by number or name, see `imageio.open_images`. All by default.
    pixel_size : float or (float, float), optional
        Side of a pixel, or its height and width (um), for columns in um and um^2. By default what the
        file of the labels states, or else that of `intensity`.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the result.

    Returns
    -------
    int
        Number of cells.

    Raises
    ------
    InputError
        If a file cannot be read, the sizes differ, or a label is negative or has a fraction.
    """
    with ExitStack() as stack:
        stored, own_size = stack.enter_context(open_cells(labels, output, block=block))
        sizes = [own_size]
        gray = None
        if intensity is not None:
            image = stack.enter_context(
                imageio.open_images(intensity, channels=channels or imageio.inspect(intensity).channels)
            )
            if image.shape[1:] != stored.shape:
                raise InputError(
                    f"{intensity}: found the shape {image.shape[1:]}, but {labels} has {stored.shape} "
                    "(sections, rows, columns). Name the image of these labels."
                )
            sizes.append(image.info.pixel_size)
            gray = _Regions(
                image.shape, image.dtype, lambda _, z, rows, columns: image.read(z, rows, columns)
            )
        size = _chosen(pair(pixel_size), sizes, labels)
        cells = measure_cells(stored, intensity=gray, pixel_size=size, block=block)
        with replacing(output) as temporary:
            cells.to_csv(temporary, index=False)
    logger.info("%s: %d cells", output, len(cells))
    return len(cells)


@contextmanager
def open_cells(
    labels: str | Path, beside: str | Path, *, block: int = BLOCK
) -> Iterator[tuple[Stored, PixelSize | None]]:
    """Open a label image of any program, whose regions are read when they are indexed.

    Parameters
    ----------
    labels : str or Path
        Label image: TIFF, PNG, folder of slices or `file.h5:/dataset`; 0 = background. If it has one value
        besides 0, as a mask has, each of its connected areas is a cell.
    beside : str or Path
        A file beside which temporary files are written.
    block : int, default 2048
        Side of the square blocks in which connected areas are found (px).

    Yields
    ------
    cells : (z, y, x) array of int64
        Labels. Only regions can be read: (z, rows, columns).
    pixel_size : (float, float) or None
        Height and width of a pixel (um), if the file states them.

    Raises
    ------
    InputError
        If the file cannot be read, or a label is negative or has a fraction.
    """
    with ExitStack() as stack:
        found = stack.enter_context(open_chosen(labels, None, 1, annotation=True))

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            region = found.read(z, rows, columns)[0]
            whole = region.astype(np.int64)
            if (whole != region).any() or whole.min(initial=0) < 0:
                value = region[(whole != region) | (whole < 0)][0]
                raise InputError(
                    f"{labels}: found the value {value:g}; expected labels: 0 = background, 1, 2, ... cells."
                )
            return whole

        stored: Stored = _Regions(found.shape[1:], np.dtype(np.int64), read)
        if sections := _sections_of_mask(stored, block):
            mask = _Regions(
                stored.shape, np.dtype(np.float32), lambda *index: (read(*index) > 0).astype(np.float32)
            )
            areas, number = stack.enter_context(
                instances_by_block(mask, PostProcessing(0.5), beside, block=block)
            )
            if number > sections:
                logger.warning(
                    "%s: has one value besides 0, so each of its %d connected areas is a cell", labels, number
                )
                stored = areas
        yield stored, found.info.pixel_size


def _sections_of_mask(labels: Stored, block: int) -> int:
    """Return how many sections have pixels that are not 0, if these have one value only; otherwise 0.

    The image is read until a second value is found.
    """
    values: set[int] = set()
    sections = 0
    for z in range(labels.shape[0]):
        before = sections
        for area in blocks((labels.shape[1], labels.shape[2]), block):
            found = {*np.unique(labels[(z, *area.write)]).tolist()} - {0}
            values |= found
            if len(values) > 1:
                return 0
            if found:
                sections = before + 1
    return sections


def _chosen(
    stated: PixelSize | None, in_files: Sequence[PixelSize | None], labels: str | Path
) -> PixelSize | None:
    """Return the stated pixel size, else the first that a file states; report it, and contradictions."""
    size = stated or next(filter(None, in_files), None)
    for other in in_files:
        if differs(size, other, ROUNDING):
            logger.warning(
                "%s: a file states a pixel size of %s, but %s is used.", labels, text(other), text(size)
            )
    if size is not None:
        logger.info("%s: pixel size %s", labels, text(size))
    return size
