"""Sections of a stack, and how the kernels see one: transposed, with one pixel of outside around it.

The reference scans columns (x outer, y inner). On the transposed section that scan runs along memory, and the
border lets a kernel look at all neighbours without asking where the image ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

OUTSIDE = -1  # border of a padded label image; components are 1..n, background is 0


class Sections:
    """A stack of `shape` (z, y, x) whose sections are read, or made, when they are asked for."""

    ndim = 3

    def __init__(
        self, shape: tuple[int, int, int], dtype: np.typing.DTypeLike, read: Callable[[int], np.ndarray]
    ) -> None:
        self.shape, self.dtype, self._read = tuple(shape), np.dtype(dtype), read

    def __getitem__(self, z: int) -> np.ndarray:
        return self._read(z)


def count_sections(array: np.ndarray) -> int:
    """Number of sections of a (z, y, x) or (y, x) array."""
    return 1 if array.ndim == 2 else array.shape[0]


def section(array: np.ndarray, z: int) -> np.ndarray:
    """Section `z` (y, x) of a (z, y, x) or (y, x) array.

    Anything with `shape`, `ndim` and indexing serves, so an HDF5 dataset or a memory map is read one section
    at a time.
    """
    return np.asarray(array if array.ndim == 2 else array[z])


def sections_of(array: np.ndarray) -> Iterator[np.ndarray]:
    """All sections of a (z, y, x) or (y, x) array."""
    return (section(array, z) for z in range(count_sections(array)))


def padded(section: np.ndarray, dtype: type) -> np.ndarray:
    """`section` (y, x) as a contiguous (x + 2, y + 2) array of `dtype` whose border is 0."""
    height, width = section.shape
    array = np.zeros((width + 2, height + 2), dtype)
    array[1:-1, 1:-1] = section.T
    return array


def unpadded(array: np.ndarray) -> np.ndarray:
    """Undo `padded`: a (y, x) view."""
    return array[1:-1, 1:-1].T
