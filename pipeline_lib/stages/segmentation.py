"""Segmentation stage: the instances of a prediction, in one job or in several, and the same as TIFF.

Several jobs share a volume by parts (`blocks.parts`): each labels the pieces in its own part (`label_part`),
one joins and numbers them (`number_parts`), and each writes its part's labels (`relabel_part`), which joined
(joining.py) are those of one job (`segment`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.instances.labelling import Labels, Pieces, find_pieces, number_components
from pipeline_lib.instances.postprocessing import PostProcessing, instances_by_block
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

_TABLES = (layout.COMPONENT, layout.FIRST_PIXEL, layout.SIZE)  # the fields of `Pieces`


def segment(
    prediction: Path,
    postprocessing: Path,
    segmentation: Path,
    *,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> None:
    """Write the instances of a volume (HDF5 `labels`).

    The scores at the chosen threshold, the pictures and the TIFF stacks are made from this file.

    Parameters
    ----------
    prediction : Path
        HDF5 file with the `cell_probability`.
    postprocessing : Path
        JSON file of the model's post-processing (`instances.PostProcessing`).
    segmentation : Path
        The file to write: `labels` (z, y, x) uint32, 0 = background, numbered through the volume.
    block : int
        Side of the blocks that are in memory one at a time (px). It does not change the labels.
    memory_gb : float
        Limit for the tables of the components.

    Raises
    ------
    InputError
        If the prediction has more components than `memory_gb` holds tables of.
    """
    with (
        provenance.making("segment", [segmentation], [prediction, postprocessing]) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as source,
        layout.create(segmentation, record) as file,
    ):
        post_processing = PostProcessing.read(postprocessing)
        probability = source[layout.CELL_PROBABILITY.name]
        target = layout.add(file, layout.LABELS, probability.shape)
        with instances_by_block(
            probability, post_processing, segmentation, block=block, memory_gb=memory_gb
        ) as (labels, count):
            _copy(labels, target, block)
        logger.info(
            "%s: %d cells in %d sections at threshold %.2f",
            segmentation,
            count,
            len(target),
            post_processing.threshold,
        )


def write_tiffs(segmentation: Path, prediction: Path, labels: Path, cell_probability: Path) -> None:
    """Write the instances of a volume and its probability map as TIFF stacks (z, y, x), for Fiji and napari.

    Parameters
    ----------
    segmentation : Path
        HDF5 file with the `labels`, by `segment` or by `joining.join_labels`.
    prediction : Path
        HDF5 file with the `cell_probability` that they were made from.
    labels : Path
        The TIFF file of the labels to write: uint16, or uint32 from 65,536 cells on.
    cell_probability : Path
        The TIFF file of the probability map to write: float32, 0..1.
    """
    with (
        provenance.making("write_tiffs", [labels, cell_probability], [segmentation, prediction]) as record,
        layout.require(segmentation, layout.LABELS) as found,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
    ):
        imageio.write_labels(labels, found[layout.LABELS.name], provenance=record)
        imageio.write_probability(
            cell_probability, predicted[layout.CELL_PROBABILITY.name], provenance=record
        )
        logger.info("%s: %d sections", labels, len(found[layout.LABELS.name]))


def label_part(
    prediction: Path, postprocessing: Path, pieces: Path, *, block: int = BLOCK, memory_gb: float = 8.0
) -> None:
    """Write the pieces of cells in one part of a volume (HDF5 `pieces`), and their tables.

    Parameters
    ----------
    prediction : Path
        HDF5 file with the `cell_probability` of the part.
    postprocessing : Path
        JSON file of the model's post-processing.
    pieces : Path
        The file to write.
    block, memory_gb
        As in `segment`.

    Raises
    ------
    InputError
        If there are more pieces than `memory_gb` holds tables of.
    """
    with (
        provenance.making("label_part", [pieces], [prediction, postprocessing]) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as source,
        layout.create(pieces, record) as file,
    ):
        post_processing = PostProcessing.read(postprocessing)
        probability = source[layout.CELL_PROBABILITY.name]
        read = post_processing.read_foreground(probability)
        target = layout.add(file, layout.PIECES, probability.shape)
        for z in range(len(target)):
            found = find_pieces(read, target, z, block=block, memory_gb=memory_gb)
            tables = file.create_group(str(z))
            for array, values in zip(_TABLES, (found.component, found.first, found.size), strict=True):
                layout.add(tables, array, values.shape)[:] = values
    logger.info("%s: pieces of cells at threshold %.2f", pieces, post_processing.threshold)


def number_parts(
    pieces: Sequence[Path], postprocessing: Path, numbers: Path, *, shape: Sequence[int], jobs: int
) -> None:
    """Write the label of each piece of a volume that several jobs share (HDF5).

    Components are joined across parts, those that are too small removed, the others numbered through.

    Parameters
    ----------
    pieces : sequence of Path
        The files of `label_part`, in the order of `blocks.parts`.
    postprocessing : Path
        JSON file of the model's post-processing, the one that `label_part` was given.
    numbers : Path
        The file to write.
    shape : sequence of int
        Shape of the volume (z, y, x).
    jobs : int
        How many jobs share it.
    """
    parts = list(zip(blocks.parts(tuple(shape), jobs), pieces, strict=True))
    used = 0
    with (
        provenance.making("number_parts", [numbers], [*pieces, postprocessing]) as record,
        layout.create(numbers, record) as file,
    ):
        minimum_size = PostProcessing.read(postprocessing).minimum_size
        for path in pieces:
            file.create_group(path.name)
        for z in range(shape[0]):
            here = [
                (path, z - part.sections.start, part.rows.stop - part.rows.start)
                for part, path in parts
                if part.sections.start <= z < part.sections.stop
            ]
            bands = [_read_band(path, own) for path, own, _ in here]
            tables, used = number_components(
                [found for found, _, _ in bands],
                [height for _, _, height in here],
                [(last, first) for (_, _, last), (_, first, _) in itertools.pairwise(bands)],
                minimum_size=minimum_size,
                before=used,
            )
            for (path, own, _), table in zip(here, tables, strict=True):
                section = file[path.name].create_group(str(own))
                layout.add(section, layout.NUMBER, table.shape)[:] = table
    logger.info("%s: %d cells in %d sections", numbers, used, shape[0])


def relabel_part(pieces: Path, numbers: Path, segmentation: Path, *, block: int = BLOCK) -> None:
    """Write the instances in one part of a volume (HDF5 `labels`).

    Parameters
    ----------
    pieces : Path
        The part's file by `label_part`.
    numbers : Path
        The volume's file by `number_parts`.
    segmentation : Path
        The file to write.
    block : int
        As in `segment`.

    Raises
    ------
    InputError
        If `numbers` was made from other parts.
    """
    with (
        provenance.making("relabel_part", [segmentation], [pieces], [numbers]) as record,
        layout.require(pieces, layout.PIECES) as source,
        layout.require(numbers) as found,
        layout.create(segmentation, record) as file,
    ):
        if pieces.name not in found:
            raise InputError(
                f"{numbers}: made from other parts than {pieces}. Delete it and run the workflow again."
            )
        labels = Labels.of(source[layout.PIECES.name], found[pieces.name])
        _copy(labels, layout.add(file, layout.LABELS, labels.shape), block)


def _copy(labels: Labels, target: h5py.Dataset, block: int) -> None:
    """Write `labels` to the HDF5 dataset `target`, block by block."""
    for z in range(len(target)):
        for area in blocks.blocks(target.shape[1:], block):
            target[z, *area.write] = labels[z, *area.write]


def _read_band(path: Path, z: int) -> tuple[Pieces, np.ndarray, np.ndarray]:
    """What `label_part` found in section `z` of its part, and the first and the last row of pieces."""
    with layout.require(path, layout.PIECES) as file:
        stored = file[layout.PIECES.name]
        tables = (file[str(z)][array.name][:] for array in _TABLES)
        return Pieces(*tables), stored[z, 0], stored[z, -1]
