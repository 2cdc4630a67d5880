"""The classes of the pixels: what the network learns, and what its output says about cells.

Without torch and numba. No other folder knows the number of a class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline_lib.kernels.blocks import blocks

BACKGROUND, CELL = range(2)
CLASSES = 2


def target_class(labels: np.ndarray, separation_border: np.ndarray) -> np.ndarray:
    """The class of each pixel: cell inside a cell, background outside and on the separation border.

    Parameters
    ----------
    labels : array of integers, any shape
        Instance labels, 0 = background.
    separation_border : array, same shape
        Non-zero where a cell's pixel counts as background.

    Returns
    -------
    uint8 array of the same shape
    """
    return ((labels > 0) & (separation_border == 0)).astype(np.uint8)


def count_classes(volumes: Iterable[tuple[Any, Any]]) -> np.ndarray:
    """Number of pixels of each class.

    Parameters
    ----------
    volumes : iterable of (labels, separation_border)
        Arrays (z, y, x), numpy or h5py, which are read block by block.

    Returns
    -------
    int64 array, (`CLASSES`,)
    """
    counts = np.zeros(CLASSES, np.int64)
    for labels, border in volumes:
        for z in range(len(labels)):
            for area in blocks(labels.shape[1:]):
                target = target_class(labels[z, *area.read], border[z, *area.read])
                others = [np.count_nonzero(target == number) for number in range(CELL, CLASSES)]
                counts += [target.size - sum(others), *others]
    return counts


def class_frequencies(counts: np.ndarray) -> np.ndarray:
    """Share of each class in the pixels.

    Parameters
    ----------
    counts : array, (`CLASSES`,)
        Pixels of each class.

    Returns
    -------
    float64 array, (`CLASSES`,)
        The shares add up to 1.
    """
    shares = counts / counts.sum()
    shares[BACKGROUND] = 1 - shares[CELL:].sum()
    return shares


def of_cells(values: Any) -> Any:
    """The part of `values` that belongs to the inside of cells.

    Parameters
    ----------
    values : array or Tensor, (`CLASSES`, ...)
        Probabilities, frequencies or counts, classes first.

    Returns
    -------
    array or Tensor, (...)
    """
    return values[CELL]
