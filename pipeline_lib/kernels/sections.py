"""Sections of a stack, and how the kernels see one: transposed, with one pixel of outside around it.

The reference scans columns (x outer, y inner). On the transposed section that scan runs along memory, and the
border lets a kernel look at all neighbours without asking where the image ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pipeline_lib.runtime.errors import InputError

LARGEST_SECTION = 2**31 - 1  # px; pixels are numbered in int32
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


def check_shapes(**arrays: np.ndarray) -> None:
    """Raise `InputError` unless all `arrays` share one shape (z, y, x) or (y, x) without an empty axis."""
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"shapes differ: {found}. Give arrays of one shape (z, y, x) or (y, x), axes in the same order."
        )
    shape = next(iter(shapes.values()))
    if len(shape) in (2, 3) and (shape[-2] + 2) * (shape[-1] + 2) > LARGEST_SECTION:
        raise InputError(f"cannot score {found}: a section may have {LARGEST_SECTION} px. Score it in parts.")
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"cannot score {found}. Expected (z, y, x) or (y, x) with at least one pixel.")
