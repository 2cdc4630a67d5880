"""Sections of a stack, and the padded form in which the kernels read them.

The reference implementation of the scores (Fiji) scans columns: x in the outer loop, y in the inner loop. The
kernels work on the transposed section, where this scan order is the order in memory. The section is padded by
one pixel, so that kernels can read all neighbours of a pixel without checking for the edge of the image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored

LARGEST_SECTION = 2**31 - 1  # px; pixels are numbered in int32
OUTSIDE = -1  # label of the padding and of ignored pixels; components are 1..n, background is 0


class Sections:
    """A stack whose sections are read or computed when they are indexed.

    It can be scored like an array, and only one section at a time is in memory.

    Parameters
    ----------
    shape : tuple of int
        Shape (z, y, x) of the stack.
    dtype : dtype-like
        Type of its values.
    read : callable
        Takes the number of a section and returns it as a (y, x) array.
    """

    def __init__(
        self, shape: tuple[int, int, int], dtype: npt.DTypeLike, read: Callable[[int], np.ndarray]
    ) -> None:
        self.shape, self.dtype, self._read = tuple(shape), np.dtype(dtype), read

    def __getitem__(self, z: int) -> np.ndarray:
        return self._read(z)


def count_sections(array: Stored) -> int:
    """Return the number of sections of a (z, y, x) or (y, x) array."""
    return 1 if len(array.shape) == 2 else array.shape[0]


def section(array: Stored, z: int) -> np.ndarray:
    """Return section `z` (y, x) of a (z, y, x) or (y, x) array.

    Only this section is read from HDF5 datasets, memory maps and `Sections`.
    """
    return np.asarray(array if len(array.shape) == 2 else array[z])


def sections_of(array: Stored) -> Iterator[np.ndarray]:
    """Yield all sections (y, x) of a (z, y, x) or (y, x) array."""
    return (section(array, z) for z in range(count_sections(array)))


def ignored_pixels(
    ignore: Stored | None, z: int, window: tuple[slice, slice] | None = None
) -> np.ndarray | None:
    """Return the pixels of section `z`, or of a window of it, that are ignored (bool); None if none are."""
    if ignore is None:
        return None
    ignored = (section(ignore, z) if window is None else ignore[(z, *window)]) != 0
    return ignored if ignored.any() else None


def without(section: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    """Return a section with 0 at the ignored pixels; `section` itself if none are ignored."""
    if ignored is None:
        return section
    kept = section.copy()
    kept[ignored] = 0
    return kept


def frame(section: np.ndarray, sides: Sequence[bool] = (True, True, True, True)) -> np.ndarray:
    """Return the pixels at the sides of a section or region (y, x), those at the corners twice.

    `sides` says which ones: top, bottom, left and right.
    """
    every = section[0], section[-1], section[:, 0], section[:, -1]
    return np.concatenate([section[:0].ravel(), *itertools.compress(every, sides)])


def count_annotated(array: Stored, ignore: Stored | None) -> int:
    """Return the number of pixels of an array that are not ignored."""
    left_out = () if ignore is None else map(np.count_nonzero, sections_of(ignore))
    return math.prod(array.shape) - sum(map(int, left_out))


def padded(section: np.ndarray, dtype: npt.DTypeLike) -> np.ndarray:
    """Return a section (y, x) transposed and padded with 0: a contiguous (x + 2, y + 2) array of `dtype`."""
    height, width = section.shape
    array = np.zeros((width + 2, height + 2), dtype)
    array[1:-1, 1:-1] = section.T
    return array


def unpadded(array: np.ndarray) -> np.ndarray:
    """Undo `padded`: return the section as a (y, x) view."""
    return array[1:-1, 1:-1].T


def outside(ignored: np.ndarray | None) -> np.ndarray | None:
    """Return the padding and the ignored pixels of a padded section as bool; None if none are ignored.

    The kernels treat ignored pixels like pixels beyond the edge of the image, so no cell crosses them.
    """
    return None if ignored is None else ~padded(~ignored, bool)


def check_shapes(**arrays: Stored | None) -> None:
    """Raise `InputError` unless all arrays have the same shape (z, y, x) or (y, x) without an empty axis.

    Arrays that are None are optional ones that were not given.
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items() if array is not None}
    found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"shapes differ: {found}. Pass arrays of one shape (z, y, x) or (y, x), axes in the same order."
        )
    shape = next(iter(shapes.values()))
    if len(shape) in (2, 3) and (shape[-2] + 2) * (shape[-1] + 2) > LARGEST_SECTION:
        raise InputError(
            f"cannot score {found}: a section can have at most {LARGEST_SECTION} px. Crop it and score it in "
            "parts."
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"cannot score {found}. Expected (z, y, x) or (y, x) with at least one pixel.")
