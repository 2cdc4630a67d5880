"""The mean of the predictions of several networks, block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored

SIDE = 1024  # px of a block: some arrays of 8 MB are in memory, whatever the number of predictions is
# as in a prediction file, see `Task.create`
_AVERAGED = (layout.CLASS_PROBABILITY, layout.AFFINITIES, layout.CELL_PROBABILITY)


def mean_and_deviation(
    members: Sequence[Stored], region: tuple[Any, ...]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of a region over several arrays.

    Values are added in the order of the arrays, in float64. So the mean of equal float32 values is this value
    to the last bit, and their deviation is 0. One region of one array is in memory at a time.

    Parameters
    ----------
    members : sequence of array or HDF5 dataset
        Arrays of the same shape.
    region : tuple
        Index of the region.

    Returns
    -------
    mean : array of float64
        Mean of the region.
    deviation : array of float64
        Its standard deviation. The sum of squares is divided by the number of arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.inference.averaging import mean_and_deviation
    >>> mean_and_deviation([np.array([0.2, 0.5]), np.array([0.8, 0.5])], np.s_[:])
    (array([0.5, 0.5]), array([0.3, 0. ]))
    """
    mean = np.asarray(members[0][region], np.float64)
    for member in members[1:]:
        mean = mean + member[region]
    mean = mean / len(members)
    squares = np.zeros_like(mean)
    for member in members:
        squares += (member[region] - mean) ** 2
    return mean, np.sqrt(squares / len(members))


def average(predictions: Sequence[str | Path], file: h5py.File) -> None:
    """Fill a new prediction file with the mean of other predictions of the same volume.

    Memory does not depend on the size of the volume or on the number of predictions.

    Parameters
    ----------
    predictions : sequence of str or Path
        HDF5 files with the `cell_probability` of a volume, or of the same part of it. If there are other
        classes than background and cell, also with the `class_probability`, and if the networks learned
        affinities, with the `affinities`.
    file : h5py.File
        File to fill, open for writing. It gets the same arrays and, if there is more than one prediction, the
        `disagreement`: the standard deviation of the cell probability over the predictions.

    Raises
    ------
    InputError
        If a prediction is missing or damaged, or they differ in shape, classes or affinities.
    """
    with ExitStack() as stack:
        members = [stack.enter_context(layout.require(path, layout.CELL_PROBABILITY)) for path in predictions]
        _require_alike(predictions, members)
        layout.copy_pixel_size(members[0], file)
        sizes = [layout.pixels_per_model_pixel(member) for member in members]
        if len({*sizes}) > 1:  # networks of folds, whose images have other pixel sizes
            layout.write_pixel_size(file, None, pixels_per_model_pixel=math.fsum(sizes) / len(sizes))
        for array in _AVERAGED:
            if array.name not in members[0]:
                continue
            sources = [member[array.name] for member in members]
            shape = sources[0].shape
            target = layout.add(file, array, shape)
            if array is layout.CLASS_PROBABILITY:
                layout.write_classes(target, *layout.classes_of(sources[0]))
            if array is layout.AFFINITIES:
                layout.write_offsets(target, layout.offsets_of(sources[0]))
            disagrees = array is layout.CELL_PROBABILITY and len(members) > 1
            deviations = layout.add(file, layout.DISAGREEMENT, shape) if disagrees else None
            for outer in np.ndindex(shape[:-2]):
                for area in blocks(shape[-2:], SIDE):
                    region = (*outer, *area.write)
                    target[region], deviation = mean_and_deviation(sources, region)
                    if deviations is not None:
                        deviations[region] = deviation


def _require_alike(paths: Sequence[str | Path], members: Sequence[h5py.File]) -> None:
    """Raise `InputError` unless all predictions have the same shape, classes and affinities."""

    def described(member: h5py.File) -> str:
        text = f"the shape {member[layout.CELL_PROBABILITY.name].shape}"
        if layout.CLASS_PROBABILITY.name in member:
            classes, _ = layout.classes_of(member[layout.CLASS_PROBABILITY.name])
            text += f" and the classes {', '.join(classes)}"
        if layout.AFFINITIES.name in member:
            text += f" and affinities at {[*map(list, layout.offsets_of(member[layout.AFFINITIES.name]))]}"
        return text

    expected = described(members[0])
    for path, member in zip(paths, members, strict=True):
        if (found := described(member)) != expected:
            raise InputError(
                f"{path}: found {found}, but {paths[0]} has {expected}. Delete both and run the workflow "
                "again."
            )
