"""Measurement stage: write a table of the cells of a label image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.instances.classes import classes_of_cells
from pipeline_lib.instances.files import Regions, open_cells
from pipeline_lib.instances.measurement import measure_cells
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.kernels.pixelsize import ROUNDING, PixelSize, differs, pair, text
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

#: Columns of `summary.csv`. Cells are found as labels, or as boxes; then there are no labels.
SUMMARY = ["image", "cells", "labels", "table", "error"]


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
        masks = provenance.find_record(imageio.source_file(labels)) is None  # labels of bordure are none
        stored, info = stack.enter_context(open_cells(labels, output, masks=masks, block=block))
        sizes = [info.pixel_size]
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
            gray = Regions(image.shape, image.dtype, lambda _, z, rows, columns: image.read(z, rows, columns))
        size = _chosen(pair(pixel_size), sizes, labels)
        cells = measure_cells(stored, intensity=gray, pixel_size=size, block=block)
        with replacing(output) as temporary:
            cells.to_csv(temporary, index=False)
    logger.info("%s: %d cells", output, len(cells))
    return len(cells)


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
