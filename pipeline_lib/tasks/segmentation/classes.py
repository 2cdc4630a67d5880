"""Classes of the pixels: background and cell.

This module imports neither torch nor numba. No other folder uses the number of a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.types import Stored

NAMES = ("background", "cell")
BACKGROUND, CELL = range(2)
CLASSES = len(NAMES)

_Part_co = TypeVar("_Part_co", covariant=True)


class _ByClass(Protocol[_Part_co]):
    """A list, array or tensor whose first axis is the class."""

    def __getitem__(self, index: int, /) -> _Part_co: ...


def target_class(labels: np.ndarray, separation_border: np.ndarray) -> npt.NDArray[np.uint8]:
    """Return the class of each pixel: cell inside a cell, background outside and on the separation border.

    Parameters
    ----------
    labels : array of integers, any shape
        Instance labels, 0 = background.
    separation_border : array, same shape
        Non-zero where a pixel of a cell counts as background.

    Returns
    -------
    array, same shape, uint8
        `BACKGROUND` (0) or `CELL` (1).

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.segmentation.classes import target_class
    >>> target_class(np.array([0, 4, 4, 7, 7]), np.array([0, 0, 1, 1, 0]))
    array([0, 1, 0, 0, 1], dtype=uint8)
    """
    return ((labels > 0) & (separation_border == 0)).astype(np.uint8)


def count_classes(volumes: Iterable[tuple[Stored, Stored, Stored | None]]) -> npt.NDArray[np.int64]:
    """Count the annotated pixels of each class.

    Parameters
    ----------
    volumes : iterable of (labels, separation_border, ignore)
        Arrays (z, y, x), numpy or h5py. They are read block by block. `ignore` is non-zero where a pixel is
        not annotated, or None if all are annotated.

    Returns
    -------
    (`CLASSES`,) array of int64
        Number of pixels of each class.
    """
    counts = np.zeros(CLASSES, np.int64)
    for labels, border, ignore in volumes:
        depth, height, width = labels.shape
        for z in range(depth):
            for area in blocks((height, width)):
                target = target_class(labels[z, *area.read], border[z, *area.read])
                if ignore is not None:
                    target = target[ignore[z, *area.read] == 0]
                others = [int(np.count_nonzero(target == number)) for number in range(CELL, CLASSES)]
                counts += [target.size - sum(others), *others]
    return counts


def class_frequencies(counts: np.ndarray) -> npt.NDArray[np.float64]:
    """Return the share of each class in all pixels.

    Parameters
    ----------
    counts : (`CLASSES`,) array
        Number of pixels of each class.

    Returns
    -------
    (`CLASSES`,) array of float64
        Share of each class, 0 to 1. The shares add up to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.segmentation.classes import class_frequencies
    >>> class_frequencies(np.array([30, 90]))
    array([0.25, 0.75])
    """
    shares = counts / counts.sum()
    shares[BACKGROUND] = 1 - shares[CELL:].sum()
    return shares


def of_cells(values: _ByClass[_Part_co]) -> _Part_co:
    """Return the values of the class cell.

    Parameters
    ----------
    values : array, Tensor or list, (`CLASSES`, ...)
        Probabilities, frequencies or counts. The first axis is the class.

    Returns
    -------
    array, Tensor or number, (...)
        Part of `values` that belongs to the class cell.
    """
    return values[CELL]
