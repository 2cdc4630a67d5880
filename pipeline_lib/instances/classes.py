"""The most probable class of each pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.types import Stored


class ClassMap:
    """The most probable class of each pixel, computed when a section or a region of it is read.

    Of equally probable classes, it is the one with the smallest number.

    Parameters
    ----------
    probability : (k, z, y, x) array of float
        Probability of each class, numpy or h5py.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.classes import ClassMap
    >>> probability = np.array([[0.2, 0.4], [0.5, 0.4], [0.3, 0.2]]).reshape(3, 1, 1, 2)
    >>> ClassMap(probability)[0]
    array([[1, 0]], dtype=uint8)
    """

    def __init__(self, probability: Stored) -> None:
        self.probability = probability
        _, depth, height, width = probability.shape
        self.shape = depth, height, width
        self.dtype = np.dtype(np.uint8)

    def __getitem__(self, region: int | tuple[int, slice, slice]) -> npt.NDArray[np.uint8]:
        """Return a section, or a region (z, rows, columns) of one, (y, x) uint8."""
        if isinstance(region, tuple):
            return self.probability[:, *region].argmax(0).astype(np.uint8)
        found = np.empty(self.shape[1:], np.uint8)
        for area in blocks(self.shape[1:]):  # so that the memory is that of a block
            found[area.write] = self[region, *area.write]
        return found
