"""Segmentation stage: the instances of a prediction at the chosen threshold, in one job or in several.

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
from pipeline_lib.instances.labelling import Labels, Pieces, Read, find_pieces, labelled, number_components
from pipeline_lib.instances.postprocessing import above
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger

_TABLES = (layout.COMPONENT, layout.FIRST_PIXEL, layout.SIZE)  # the fields of `Pieces`


def segment(
    prediction: Path,
    threshold: Path,
    labels: Path,
    cell_probability: Path,
    *,
    minimum_size: int = 0,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> None:
    """Write the instances of `prediction` (HDF5) at the chosen threshold, and its probability map.

    Both TIFF stacks (z, y, x): `labels` uint16 (uint32 from 65,536 cells on), numbered through the volume,
    0 = background, without components smaller than `minimum_size` px; `cell_probability` float32 in 0..1.
    Raises `InputError` where there are more components than `memory_gb` holds tables of.
    """
    with (
        provenance.making(
            "segment", [labels, cell_probability], [prediction, threshold], minimum_size=minimum_size
        ) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as file,
    ):
        t = read_json(threshold)["threshold"]
        probability = file[layout.CELL_PROBABILITY.name]
        with labelled(
            _cells(probability, t),
            probability.shape,
            labels,
            minimum_size=minimum_size,
            block=block,
            memory_gb=memory_gb,
        ) as (found, count):
            imageio.write_labels(labels, found, maximum=count, provenance=record)
        imageio.write_probability(cell_probability, probability, provenance=record)
        logger.info("%s: %d cells in %d sections at threshold %.2f", labels, count, len(probability), t)


def label_part(
    prediction: Path, threshold: Path, output: Path, *, block: int = BLOCK, memory_gb: float = 8.0
) -> None:
    """Write the `pieces` of cells that are in `prediction`, one part of a volume, and their tables (HDF5).

    Raises `InputError` where there are more pieces than `memory_gb` holds tables of.
    """
    with (
        provenance.making("label_part", [output], [prediction, threshold]) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as source,
        layout.create(output, record) as file,
    ):
        t = read_json(threshold)["threshold"]
        probability = source[layout.CELL_PROBABILITY.name]
        pieces = layout.add(file, layout.PIECES, probability.shape)
        for z in range(len(pieces)):
            found = find_pieces(_cells(probability, t), pieces, z, block=block, memory_gb=memory_gb)
            tables = file.create_group(str(z))
            for array, values in zip(_TABLES, (found.component, found.first, found.size), strict=True):
                layout.add(tables, array, values.shape)[:] = values
    logger.info("%s: pieces of cells at threshold %.2f", output, t)


def number_parts(
    pieces: Sequence[Path], output: Path, *, shape: Sequence[int], jobs: int, minimum_size: int = 0
) -> None:
    """Write the label of each piece (HDF5) for the files of `label_part`, which are those of a whole volume.

    The volume of `shape` (z, y, x) was shared by `jobs`; `pieces` are in the order of `blocks.parts`.
    Components are joined across parts, those below `minimum_size` px left out, the others numbered through.
    """
    parts = list(zip(blocks.parts(tuple(shape), jobs), pieces, strict=True))
    used = 0
    with (
        provenance.making("number_parts", [output], pieces, minimum_size=minimum_size) as record,
        layout.create(output, record) as file,
    ):
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
    logger.info("%s: %d cells in %d sections", output, used, shape[0])


def relabel_part(pieces: Path, numbers: Path, output: Path, *, block: int = BLOCK) -> None:
    """Write the `labels` (HDF5) of one part of a volume from what `label_part` and `number_parts` found."""
    with (
        provenance.making("relabel_part", [output], [pieces], [numbers]) as record,
        layout.require(pieces, layout.PIECES) as source,
        layout.require(numbers) as found,
        layout.create(output, record) as file,
    ):
        if pieces.name not in found:
            raise InputError(
                f"{numbers}: made from other parts than {pieces}. Delete it and run the workflow again."
            )
        labels = Labels(source[layout.PIECES.name], found[pieces.name])
        target = layout.add(file, layout.LABELS, labels.shape)
        for z in range(len(target)):
            for area in blocks.blocks(target.shape[1:], block):
                target[z, *area.write] = labels[z, *area.write]


def _cells(probability: h5py.Dataset, threshold: float) -> Read:
    return lambda z, rows, columns: above(probability[z, rows, columns], threshold)


def _read_band(path: Path, z: int) -> tuple[Pieces, np.ndarray, np.ndarray]:
    """What `label_part` found in section `z` of its part, and the first and the last row of pieces."""
    with layout.require(path, layout.PIECES) as file:
        stored = file[layout.PIECES.name]
        tables = (file[str(z)][array.name][:] for array in _TABLES)
        return Pieces(*tables), stored[z, 0], stored[z, -1]
