"""Classes of the pixels of a prediction: the class map, and the classes of cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
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


class PixelClasses(NamedTuple):
    """What the classes of the pixels of a region say about cells.

    Attributes
    ----------
    cell : (y, x) array of uint8
        Number of the most probable class of those whose pixels belong to cells.
    border : (y, x) array of bool
        Whether the class `border` is the most probable one of the other classes.
    """

    cell: npt.NDArray[np.uint8]
    border: npt.NDArray[np.bool_]


class CellClasses:
    """The classes of cells and the border between cells, computed when a region is read.

    Which pixels are in cells is not part of it, because this depends on a threshold. Of equally probable
    classes, the one with the smallest number is taken.

    Parameters
    ----------
    probability : (k, z, y, x) array of float
        Probability of each class, numpy or h5py.
    names : sequence of str
        Name of each class.
    cells : sequence of str
        Names of the classes whose pixels belong to cells.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.classes import CellClasses
    >>> probability = np.array([[0.1, 0.2], [0.5, 0.1], [0.3, 0.3], [0.1, 0.4]]).reshape(4, 1, 1, 2)
    >>> CellClasses(probability, ["background", "cell", "glia", "border"], ["cell", "glia"])[0]
    PixelClasses(cell=array([[1, 2]], dtype=uint8), border=array([[False,  True]]))
    """

    def __init__(self, probability: Stored, names: Sequence[str], cells: Sequence[str]) -> None:
        self.probability = probability
        self.cells = [number for number, name in enumerate(names) if name in cells]
        self.others = [number for number, name in enumerate(names) if name not in cells]
        self.border = [*names].index("border") if "border" in names else -1

    @classmethod
    def of(cls, prediction: h5py.File) -> CellClasses | None:
        """Return the classes of a prediction file.

        Parameters
        ----------
        prediction : h5py.File
            Prediction file.

        Returns
        -------
        CellClasses or None
            None if all cells are of one class and there is no border, so that the cell probability suffices.
        """
        if layout.CLASS_PROBABILITY.name not in prediction:
            return None
        stored = prediction[layout.CLASS_PROBABILITY.name]
        found = cls(stored, *layout.classes_of(stored))
        return found if len(found.cells) > 1 or found.border > 0 else None

    def __getitem__(self, region: int | tuple[int, slice, slice]) -> PixelClasses:
        """Return the classes of a section, or of a region (z, rows, columns) of one."""
        if isinstance(region, tuple):
            probability = self.probability[:, *region]
            border = _likeliest(probability, self.others) == self.border
            return PixelClasses(_likeliest(probability, self.cells), border)
        shape = self.probability.shape[2:]
        found = PixelClasses(np.empty(shape, np.uint8), np.empty(shape, bool))
        for area in blocks(shape):  # so that the memory is that of a block
            for whole, part in zip(found, self[region, *area.write], strict=True):
                whole[area.write] = part
        return found


def _likeliest(probability: np.ndarray, numbers: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return the number of the most probable one of some classes, (y, x)."""
    return np.array(numbers, np.uint8)[probability[numbers].argmax(0)]
