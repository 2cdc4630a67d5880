"""Segmentation stage: turn a prediction into instance labels, and write both as TIFF.

One job can label a whole volume (`segment`). Alternatively, several jobs share the volume, each with one of
its parts (`blocks.parts`). `label_part` labels the pieces of cells in one part, `number_parts` joins and
numbers the pieces of all parts, and `relabel_part` writes the labels of one part. The joined parts
(joining.py) have the same labels as those of a single job.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.figures.palette import class_colours
from pipeline_lib.instances.classes import Border, ClassMap
from pipeline_lib.instances.labelling import Labels, Pieces, Read, find_pieces, number_components
from pipeline_lib.instances.methods import SEPARATORS, in_words
from pipeline_lib.instances.mutex_watershed import Affinities
from pipeline_lib.instances.postprocessing import PostProcessing, give_back, instances_by_block
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json, Stored

_TABLES = (layout.COMPONENT, layout.FIRST_PIXEL, layout.SIZE)  # the fields of `Pieces`


def segment(
    prediction: str | Path,
    postprocessing: str | Path,
    segmentation: str | Path,
    *,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> None:
    """Segment a volume: write the instance labels of a prediction as HDF5.

    The scores at the chosen threshold, the pictures and the TIFF stacks are made from this file.

    Parameters
    ----------
    prediction : str or Path
        HDF5 file with the `cell_probability`, the `class_probability` if there are more classes than
        background and cell, and the `affinities` if the post-processing is a mutex watershed.
    postprocessing : str or Path
        JSON file of the model's post-processing (`stages.postprocessing.choose_postprocessing`).
    segmentation : str or Path
        HDF5 file to write: `labels` (z, y, x), uint32, 0 = background. Cells are numbered 1..n through all
        sections.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the labels.
    memory_gb : float, default 8.0
        Memory limit for the tables of the connected components (GB).

    Raises
    ------
    InputError
        If an input is missing, damaged or lacks an array, or if a section has too many components for
        `memory_gb`.
    """
    with (
        provenance.making("segment", [segmentation], [prediction, postprocessing]) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as source,
        layout.create(segmentation, record) as file,
    ):
        pixels = layout.pixels_per_model_pixel(source)
        post_processing = PostProcessing.read(postprocessing).scaled(pixels)
        probability = source[layout.CELL_PROBABILITY.name]
        target = layout.add(file, layout.LABELS, probability.shape)
        layout.copy_pixel_size(source, file)
        border = Border.of(source)
        affinities = Affinities.of(source)
        with instances_by_block(
            probability,
            post_processing,
            segmentation,
            affinities=affinities,
            block=block,
            memory_gb=memory_gb,
        ) as (labels, count):
            read = None if border is None else post_processing.read_border(probability, border)
            _copy(labels, target, block, read, post_processing.border_reach)
        logger.info(
            "%s: %s in %s at %s",
            segmentation,
            several(count, "cell"),
            several(len(target), "section"),
            post_processing,
        )


def write_tiffs(
    segmentation: str | Path,
    prediction: str | Path | None,
    labels: str | Path,
    cell_probability: str | Path | None,
    *,
    classes: str | Path | None = None,
) -> None:
    """Write the labels and the probability map of a volume as TIFF stacks (z, y, x), for Fiji and napari.

    If the pixel size of the volume is known, the files state it so that Fiji and ImageJ show it.

    Parameters
    ----------
    segmentation : str or Path
        HDF5 file with the `labels`, written by `segment`, `joining.join_labels` or `masks.predict_masks`.
    prediction : str or Path or None
        HDF5 file with the `cell_probability` from which the labels were made. None if they were made from
        masks of detections; then only the labels are written.
    labels : str or Path
        TIFF file to write: labels as uint16, or as uint32 if a label exceeds 65,535.
    cell_probability : str or Path or None
        TIFF file to write: cell probability, float32, 0 to 1. None without `prediction`.
    classes : str or Path, optional
        TIFF file to write: number of the most probable class, uint8, with a palette of colours. The
        prediction must have the array `class_probability`.

    Raises
    ------
    InputError
        If an input is missing, damaged or lacks an array, or an output cannot be written.
    """
    outputs = [path for path in (labels, cell_probability, classes) if path]
    inputs = [path for path in (segmentation, prediction) if path]
    needed = [layout.CELL_PROBABILITY, *([layout.CLASS_PROBABILITY] if classes else [])]
    with (
        provenance.making("write_tiffs", outputs, inputs) as record,
        layout.require(segmentation, layout.LABELS) as found,
        ExitStack() as stack,
    ):
        predicted = stack.enter_context(layout.require(prediction, *needed)) if prediction else {}
        settings: Json = {
            "provenance": record,
            "pixel_size": layout.pixel_size(found),
            "section_spacing": layout.section_spacing(found),
            "frame_interval": layout.frame_interval(found),
        }
        imageio.write_labels(labels, found[layout.LABELS.name], **settings)
        if cell_probability:
            imageio.write_probability(cell_probability, predicted[layout.CELL_PROBABILITY.name], **settings)
        if classes:
            probability = predicted[layout.CLASS_PROBABILITY.name]
            names, _ = layout.classes_of(probability)
            colours = class_colours(len(names))
            imageio.write_classes(classes, ClassMap(probability), names=names, colours=colours, **settings)
            logger.info("%s: %s", classes, ", ".join(f"{n} {name}" for n, name in enumerate(names)))
        logger.info("%s: %d sections", labels, len(found[layout.LABELS.name]))


def label_part(
    prediction: str | Path,
    postprocessing: str | Path,
    pieces: str | Path,
    *,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> None:
    """Label the pieces of cells in one part of a volume, and write them as HDF5.

    A piece is the part of a connected component that lies in one block. The file has the array `pieces` and,
    for each section, tables of its components. If the network has a class `border`, it also has the array
    `border`.

    Parameters
    ----------
    prediction : str or Path
        HDF5 file with the `cell_probability` of the part and, with more classes, its `class_probability`.
    postprocessing : str or Path
        JSON file of the model's post-processing.
    pieces : str or Path
        HDF5 file to write, for `number_parts` and `relabel_part`.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the final labels.
    memory_gb : float, default 8.0
        Memory limit for the tables of the connected components (GB).

    Raises
    ------
    InputError
        If a section has too many components for `memory_gb`, or the post-processing needs whole sections.
    """
    with (
        provenance.making("label_part", [pieces], [prediction, postprocessing]) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as source,
        layout.create(pieces, record) as file,
    ):
        post_processing = PostProcessing.read(postprocessing)
        if post_processing.method != "components":
            setting, name = SEPARATORS[post_processing.method], in_words(post_processing.method)
            raise InputError(
                f"{postprocessing}: has a `{setting}`. A {name} needs whole sections, not parts of them. Set "
                "`segmentation.method: components`."
            )
        probability = source[layout.CELL_PROBABILITY.name]
        read = post_processing.read_foreground(probability)
        if (border := Border.of(source)) is not None:
            read_border = post_processing.read_border(probability, border)
            stored = layout.add(file, layout.BORDER, probability.shape)
            for z, area in _regions(stored.shape, block):
                stored[z, *area.write] = read_border(z, *area.write)
        target = layout.add(file, layout.PIECES, probability.shape)
        layout.copy_pixel_size(source, file)
        for z in range(len(target)):
            found = find_pieces(read, target, z, block=block, memory_gb=memory_gb)
            tables = file.create_group(str(z))
            for array, values in zip(_TABLES, (found.component, found.first, found.size), strict=True):
                layout.add(tables, array, values.shape)[:] = values
    logger.info("%s: pieces of cells at threshold %.2f", pieces, post_processing.threshold)


def number_parts(
    pieces: Sequence[str | Path],
    postprocessing: str | Path,
    numbers: str | Path,
    *,
    shape: Sequence[int],
    jobs: int,
) -> None:
    """Choose the final label of each piece of a volume that several jobs share, and write them as HDF5.

    Pieces are joined to components across the borders of the parts. Components that are too small are
    removed, and the others are numbered 1..n through all sections. If cells get a border back, the file also
    has the rows of the neighbouring parts that this needs: their labels and their border.

    Parameters
    ----------
    pieces : sequence of str or Path
        HDF5 files of `label_part`, in the order of `blocks.parts`.
    postprocessing : str or Path
        JSON file of the model's post-processing, the same as for `label_part`.
    numbers : str or Path
        HDF5 file to write, for `relabel_part`.
    shape : sequence of int
        Shape of the volume (z, y, x).
    jobs : int
        Number of jobs that share the volume.

    Raises
    ------
    InputError
        If the volume has more cells than uint32 can number.
    """
    sections, height, width = shape
    parts = list(zip(blocks.parts((sections, height, width), jobs), pieces, strict=True))
    used = 0
    with (
        provenance.making("number_parts", [numbers], [*pieces, postprocessing]) as record,
        layout.create(numbers, record) as file,
    ):
        with layout.require(pieces[0]) as part:
            pixels = layout.pixels_per_model_pixel(part)
        post_processing = PostProcessing.read(postprocessing).scaled(pixels)
        for path in pieces:
            file.create_group(Path(path).name)
        for z in range(sections):
            here = [
                (path, z - part.sections.start, part.rows.stop - part.rows.start)
                for part, path in parts
                if part.sections.start <= z < part.sections.stop
            ]
            bands = [_read_band(path, own) for path, own, _ in here]
            tables, used = number_components(
                [band.pieces for band in bands],
                [rows for _, _, rows in here],
                [(upper.last_row, lower.first_row) for upper, lower in itertools.pairwise(bands)],
                minimum_size=post_processing.minimum_size,
                before=used,
            )
            for (path, own, _), table in zip(here, tables, strict=True):
                section = file[Path(path).name].create_group(str(own))
                layout.add(section, layout.NUMBER, table.shape)[:] = table
            for upper, lower in itertools.pairwise(zip(here, tables, strict=True)):
                _exchange(file, upper, lower, post_processing.border_reach)
        file.attrs["border_reach"] = post_processing.border_reach
    logger.info("%s: %s in %s", numbers, several(used, "cell"), several(sections, "section"))


def relabel_part(
    pieces: str | Path, numbers: str | Path, segmentation: str | Path, *, block: int = BLOCK
) -> None:
    """Write the final instance labels of one part of a volume as HDF5.

    Parameters
    ----------
    pieces : str or Path
        HDF5 file of `label_part` for this part.
    numbers : str or Path
        HDF5 file of `number_parts` for the volume.
    segmentation : str or Path
        HDF5 file to write: `labels` (z, y, x) of the part, uint32, 0 = background.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the labels.

    Raises
    ------
    InputError
        If `numbers` was not made from `pieces`.
    """
    with (
        provenance.making("relabel_part", [segmentation], [pieces], [numbers]) as record,
        layout.require(pieces, layout.PIECES) as source,
        layout.require(numbers) as found,
        layout.create(segmentation, record) as file,
    ):
        if Path(pieces).name not in found:
            raise InputError(
                f"{numbers}: not made from {pieces}, but from other parts. Delete it and run the workflow "
                "again."
            )
        layout.copy_pixel_size(source, file)
        numbers_of = found[Path(pieces).name]
        labels = Labels.of(source[layout.PIECES.name], numbers_of)
        target = layout.add(file, layout.LABELS, labels.shape)
        if layout.BORDER.name not in source:
            _copy(labels, target, block)
            return
        above, below = ([numbers_of[side]] if side in numbers_of else [] for side in ("above", "below"))
        stacked, border = (
            _Stack([*(side[name] for side in above), own, *(side[name] for side in below)])
            for name, own in (
                (layout.LABELS.name, labels),
                (layout.BORDER.name, source[layout.BORDER.name]),
            )
        )
        first = sum(side[layout.LABELS.name].shape[1] for side in above)
        _copy(stacked, target, block, lambda *at: border[at], int(found.attrs["border_reach"]), first)


def _regions(shape: tuple[int, int, int], block: int) -> Iterator[tuple[int, blocks.Block]]:
    """Yield the number of the section and each block of it."""
    return ((z, area) for z in range(shape[0]) for area in blocks.blocks(shape[1:], block))


def _copy(
    labels: Labels | _Stack,
    target: h5py.Dataset,
    block: int,
    border: Read | None = None,
    reach: int = 0,
    above: int = 0,
) -> None:
    """Write `labels` to the HDF5 dataset `target`, block by block, and give the border back to cells.

    `labels` and `border` begin `above` rows before the first one of the target.
    """
    height, width = labels.shape[1:]
    for z, area in _regions(target.shape, block):
        rows, columns = area.write
        y_read, y = blocks.with_halo(slice(rows.start + above, rows.stop + above), height, reach)
        x_read, x = blocks.with_halo(columns, width, reach)
        found = labels[z, y_read, x_read]
        if reach and border is not None:
            found = give_back(found, border(z, y_read, x_read) != 0, reach)
        target[z, rows, columns] = found[y, x]


class _Stack:
    """Arrays (z, y, x), one below the other, whose rows are read when they are indexed."""

    def __init__(self, arrays: Sequence[Stored]) -> None:
        self.arrays = arrays
        sections, _, width = arrays[0].shape
        self.shape = sections, sum(array.shape[1] for array in arrays), width

    def __getitem__(self, region: tuple[int, slice, slice]) -> np.ndarray:
        z, rows, columns = region
        found, top = [], 0
        for array in self.arrays:
            first, last = max(rows.start - top, 0), min(rows.stop - top, array.shape[1])
            if first < last:
                found.append(array[z, first:last, columns])
            top += array.shape[1]
        return np.concatenate(found)


class _Band(NamedTuple):
    """The part of one section that one job labelled: its pieces, and the first and last row of `pieces`."""

    pieces: Pieces
    first_row: np.ndarray
    last_row: np.ndarray


def _read_band(path: str | Path, z: int) -> _Band:
    """Read section `z` of a part from the file of `label_part`."""
    with layout.require(path, layout.PIECES) as file:
        stored = file[layout.PIECES.name]
        tables = (file[str(z)][array.name][:] for array in _TABLES)
        return _Band(Pieces(*tables), stored[z, 0], stored[z, -1])


_Own = tuple[tuple[str | Path, int, int], np.ndarray]  # file, section in it, rows; labels of its pieces


def _exchange(numbers: h5py.File, upper: _Own, lower: _Own, reach: int) -> None:
    """Store the rows within `reach` of the border between two bands for the band on the other side."""
    for (path, z, rows), table, side, other in (
        (*upper, "above", lower[0]),
        (*lower, "below", upper[0]),
    ):
        with layout.require(path, layout.PIECES) as file:
            if layout.BORDER.name not in file or not reach:
                return
            edge = slice(max(rows - reach, 0), rows) if side == "above" else slice(0, min(reach, rows))
            labels = table[file[layout.PIECES.name][z, edge]]
            border = file[layout.BORDER.name][z, edge]
        group = numbers[Path(other[0]).name].create_group(side)
        for array, values in ((layout.LABELS, labels), (layout.BORDER, border)):
            layout.add(group, array, (1, *values.shape))[0] = values
