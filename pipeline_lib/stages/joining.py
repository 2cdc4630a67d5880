"""Joining stage: present the files that several jobs wrote for one volume as a single file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib import layout, provenance
from pipeline_lib.kernels import blocks
from pipeline_lib.runtime.log import logger


def join_predictions(
    parts: Sequence[str | Path], prediction: str | Path, *, shape: Sequence[int], jobs: int
) -> None:
    """Write a prediction file that is a view of the files of its parts.

    Nothing is copied: the arrays are HDF5 virtual datasets, so the files of the parts must stay where they
    are.

    Parameters
    ----------
    parts : sequence of str or Path
        HDF5 files of the parts, in the order of `blocks.parts`, with the array `cell_probability`, with
        `class_probability` if there are other classes than background and cell, and with `affinities` if the
        network learned them. Those of an ensemble also have its `disagreement`.
    prediction : str or Path
        HDF5 file to write, with the same arrays of the whole volume.
    shape : sequence of int
        Shape of the volume (z, y, x).
    jobs : int
        Number of jobs that share the volume.

    Raises
    ------
    InputError
        If a part is missing or has another shape.
    """
    arrays = [layout.CELL_PROBABILITY, layout.CLASS_PROBABILITY, layout.AFFINITIES, layout.DISAGREEMENT]
    _join("join_predictions", arrays, parts, prediction, shape, jobs)


def join_labels(
    parts: Sequence[str | Path], segmentation: str | Path, *, shape: Sequence[int], jobs: int
) -> None:
    """Write a segmentation file that is a view of the files of its parts.

    It replaces the file that `segmentation.segment` writes for a volume that a single job handles. As in
    `join_predictions`, nothing is copied.

    Parameters
    ----------
    parts : sequence of str or Path
        HDF5 files of `segmentation.relabel_part`, in the order of `blocks.parts`.
    segmentation : str or Path
        HDF5 file to write, with the array `labels` of the whole volume.
    shape : sequence of int
        Shape of the volume (z, y, x).
    jobs : int
        Number of jobs that share the volume.

    Raises
    ------
    InputError
        If a part is missing or has another shape.
    """
    _join("join_labels", [layout.LABELS], parts, segmentation, shape, jobs)


def _join(
    stage: str,
    arrays: Sequence[layout.Array],
    parts: Sequence[str | Path],
    output: str | Path,
    shape: Sequence[int],
    jobs: int,
) -> None:
    z, y, x = shape
    with provenance.making(stage, [output], parts, jobs=jobs) as record:
        shares = blocks.parts((z, y, x), jobs)
        layout.join(output, arrays, (z, y, x), zip(shares, parts, strict=True), record)
        logger.info("%s: a view of %d parts", output, len(parts))
