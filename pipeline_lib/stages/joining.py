"""Joining stage: the files of a volume that several jobs share, shown as one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib import layout, provenance
from pipeline_lib.kernels import blocks
from pipeline_lib.runtime.log import logger


def join_predictions(parts: Sequence[Path], prediction: Path, *, shape: Sequence[int], jobs: int) -> None:
    """Write a prediction that is a view of the files of its parts (HDF5 `cell_probability`).

    Nothing is copied (an HDF5 virtual dataset): the files of the parts must stay where they are.

    Parameters
    ----------
    parts : sequence of Path
        The files of the parts, in the order of `blocks.parts`.
    prediction : Path
        The file to write.
    shape : sequence of int
        Shape of the volume (z, y, x).
    jobs : int
        How many jobs share it.

    Raises
    ------
    InputError
        If a part is missing or has another shape.
    """
    _join("join_predictions", layout.CELL_PROBABILITY, parts, prediction, tuple(shape), jobs)


def join_labels(parts: Sequence[Path], segmentation: Path, *, shape: Sequence[int], jobs: int) -> None:
    """Write a segmentation that is a view of the files of its parts (HDF5 `labels`).

    It takes the place of the file that `segmentation.segment` writes if one job does it all. Parameters and
    errors are those of `join_predictions`.
    """
    _join("join_labels", layout.LABELS, parts, segmentation, tuple(shape), jobs)


def _join(
    stage: str,
    array: layout.Array,
    parts: Sequence[Path],
    output: Path,
    shape: tuple[int, int, int],
    jobs: int,
) -> None:
    with provenance.making(stage, [output], parts, jobs=jobs) as record:
        layout.join(output, array, shape, zip(blocks.parts(shape, jobs), parts, strict=True), record)
        logger.info("%s: %d parts as one", output, len(parts))
