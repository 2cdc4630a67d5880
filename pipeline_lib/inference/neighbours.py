"""Read sections together with their neighbours in the stack, as channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline_lib.inference.tiling import mirror
from pipeline_lib.networks.plan import sections_seen
from pipeline_lib.runtime.types import Stored


class Neighbours:
    """An array (c, z, y, x) whose sections are read with those before and after them, as further channels.

    The channels are in the order of the stack, with those of the section itself in the middle. The stack is
    mirrored at both ends, as sections are at their edges: before the first section comes the second. A single
    section is its own neighbour.

    Only the requested region is read, so memory depends on its size.

    Parameters
    ----------
    array : (c, z, y, x) array or HDF5 dataset
        Gray levels of a volume.
    context_sections : int
        Number of neighbours on each side, at least 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.inference.neighbours import Neighbours
    >>> stack = np.array([10, 11, 12, 13]).reshape(1, 4, 1, 1)
    >>> seen = Neighbours(stack, 1)
    >>> [seen[:, z, :, :].ravel().tolist() for z in range(4)]
    [[11, 10, 11], [10, 11, 12], [11, 12, 13], [12, 13, 12]]
    """

    def __init__(self, array: Stored, context_sections: int) -> None:
        self.array, self.context = array, context_sections
        channels, *size = array.shape
        self.shape = (channels * sections_seen(context_sections), *size)
        self.dtype = array.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        """Return a region of a section. The index is (`:` or `...`, section, rows, columns)."""
        _, section, rows, columns = index
        numbers = mirror(section - self.context, section + self.context + 1, self.shape[1])
        return np.concatenate([self.array[:, int(z), rows, columns] for z in numbers])


def with_neighbours(array: Stored, context_sections: int) -> Stored:
    """Return the images of a volume as a network reads them.

    Parameters
    ----------
    array : (c, z, y, x) array or HDF5 dataset
        Gray levels of the volume.
    context_sections : int
        Number of neighbouring sections on each side that the network sees.

    Returns
    -------
    Neighbours, or `array` itself
        The array with neighbouring sections as channels, if the network sees any.
    """
    return Neighbours(array, context_sections) if context_sections else array
