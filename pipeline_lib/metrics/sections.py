"""How the kernels see a section: transposed, with one pixel of outside around it.

The reference scans columns (x outer, y inner). On the transposed section that scan runs along memory, and the border lets
a kernel look at all neighbours without asking where the image ends.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline_lib.errors import InputError

OUTSIDE = -1  # border of a padded label image; components are 1..n, background is 0


def padded(section: np.ndarray, dtype: type) -> np.ndarray:
    """`section` (y, x) as a contiguous (x + 2, y + 2) array of `dtype` whose border is 0."""
    height, width = section.shape
    array = np.zeros((width + 2, height + 2), dtype)
    array[1:-1, 1:-1] = section.T
    return array


def unpadded(array: np.ndarray) -> np.ndarray:
    """Undo `padded`: a (y, x) view."""
    return array[1:-1, 1:-1].T


def sections_of(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The (y, x) sections of arrays of one common shape (z, y, x) or (y, x), together.

    Anything with `shape`, `ndim` and indexing serves, so an HDF5 dataset or a memory map is read one section at a time.
    """
    if arrays[0].ndim == 2:
        yield tuple(np.asarray(array) for array in arrays)
        return
    for z in range(arrays[0].shape[0]):
        yield tuple(np.asarray(array[z]) for array in arrays)


def check_shapes(**arrays: np.ndarray) -> None:
    """Raise `InputError` unless all `arrays` share one shape (z, y, x) or (y, x) without an empty axis."""
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if len(set(shapes.values())) > 1:
        raise InputError(f"shapes differ: {found}. Give arrays of one shape (z, y, x) or (y, x), in the same order of axes.")
    shape = next(iter(shapes.values()))
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(f"cannot score {found}. Expected (z, y, x) or (y, x) with at least one pixel.")
