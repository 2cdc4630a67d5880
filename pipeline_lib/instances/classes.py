"""Classes of the pixels of a prediction: the class map, and the border between cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


class Border:
    """The predicted border between cells, computed when a section or a region of it is read.

    Pixels are border if the class `border` is the most probable one of the classes that are not cells. Which
    pixels are in cells depends on a threshold, and has to be left out.

    Parameters
    ----------
    probability : (k, z, y, x) array of float
        Probability of each class, numpy or h5py.
    names : sequence of str
        Name of each class; one of them is `border`.
    cells : sequence of str
        Names of the classes whose pixels belong to cells.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.instances.classes import Border
    >>> probability = np.array([[0.1, 0.3], [0.6, 0.3], [0.3, 0.4]]).reshape(3, 1, 1, 2)
    >>> Border(probability, ["background", "cell", "border"], ["cell"])[0]
    array([[ True,  True]])
    """

    def __init__(self, probability: Stored, names: Sequence[str], cells: Sequence[str]) -> None:
        self.probability = probability
        self.others = [number for number, name in enumerate(names) if name not in {*cells, "border"}]
        self.border = [*names].index("border")

    @classmethod
    def of(cls, prediction: h5py.File) -> Border | None:
        """Return the border of a prediction file; None if the network has no class `border`."""
        if layout.CLASS_PROBABILITY.name not in prediction:
            return None
        stored = prediction[layout.CLASS_PROBABILITY.name]
        names, cells = layout.classes_of(stored)
        return cls(stored, names, cells) if "border" in names else None

    def __getitem__(self, region: int | tuple[int, slice, slice]) -> npt.NDArray[np.bool_]:
        """Return a section, or a region (z, rows, columns) of one, (y, x) bool."""
        if isinstance(region, tuple):
            probability = self.probability[:, *region]
            found: npt.NDArray[np.bool_] = probability[self.border] > probability[self.others].max(0)
            return found
        found = np.empty(self.probability.shape[2:], bool)
        for area in blocks(found.shape):  # so that the memory is that of a block
            found[area.write] = self[region, *area.write]
        return found


def classes_of_cells(prediction: Mapping[str, Any]) -> dict[int, str]:
    """Return the classes of cells that a prediction distinguishes.

    Parameters
    ----------
    prediction : mapping
        Open HDF5 file of a prediction.

    Returns
    -------
    dict of int to str
        Number and name of each; empty if there is only one.
    """
    if layout.CLASS_PROBABILITY.name not in prediction:
        return {}
    names, cells = layout.classes_of(prediction[layout.CLASS_PROBABILITY.name])
    found = {number: name for number, name in enumerate(names) if name in cells}
    return found if len(found) > 1 else {}
