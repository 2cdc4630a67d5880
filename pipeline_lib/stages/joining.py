"""Joining stage: the files of a volume that several jobs share, shown as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.kernels import blocks
from pipeline_lib.runtime.log import logger


def join_predictions(parts: Sequence[Path], output: Path, *, shape: Sequence[int], jobs: int) -> None:
    """Show the `cell_probability` in the files of all `parts` of a volume of `shape` (z, y, x) as one (HDF5).

    `jobs` is the number of jobs that the volume was cut up for (`blocks.parts`). Nothing is copied: `parts`
    must stay. Raises `InputError` for a missing part, or one of another shape.
    """
    with provenance.making("join_predictions", [output], parts, jobs=jobs) as record:
        _join(parts, output, layout.CELL_PROBABILITY, shape, jobs, record)


def join_labels(
    parts: Sequence[Path],
    prediction: Path,
    joined: Path,
    labels: Path,
    cell_probability: Path,
    *,
    shape: Sequence[int],
    jobs: int,
) -> None:
    """Show the `labels` in the files of all `parts` as one (HDF5, `joined`), and write the TIFF stacks.

    `labels` and `cell_probability` are those that `segmentation.segment` writes where one job does it all.
    """
    outputs = [joined, labels, cell_probability]
    with provenance.making("join_labels", outputs, [*parts, prediction], jobs=jobs) as record:
        _join(parts, joined, layout.LABELS, shape, jobs, record)
        _write_tiffs(joined, prediction, labels, cell_probability, record)


def _write_tiffs(
    joined: Path, prediction: Path, labels: Path, cell_probability: Path, record: dict[str, Any]
) -> None:
    with (
        layout.require(joined, layout.LABELS) as found,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
    ):
        imageio.write_labels(labels, found[layout.LABELS.name], provenance=record)
        imageio.write_probability(
            cell_probability, predicted[layout.CELL_PROBABILITY.name], provenance=record
        )


def _join(
    parts: Sequence[Path],
    output: Path,
    array: layout.Array,
    shape: Sequence[int],
    jobs: int,
    record: dict[str, Any],
) -> None:
    shape = tuple(shape)
    layout.join(output, array, shape, zip(blocks.parts(shape, jobs), parts, strict=True), record)
    logger.info("%s: %d parts as one", output, len(parts))
