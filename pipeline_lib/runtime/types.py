"""Types that several layers share."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np

Json: TypeAlias = dict[str, Any]
"""An object of a JSON file: settings, records, descriptions. Its values are checked where they are read."""


Offsets: TypeAlias = tuple[tuple[int, int], ...]
"""Offsets (rows, columns) between pixels in px, one for each affinity that a network learns."""


class Stored(Protocol):
    """An array that is read by regions: an HDF5 dataset, an image file, or a numpy array.

    Attributes
    ----------
    shape : tuple of int
        Length of each axis.
    dtype : numpy.dtype
        Type of its values.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, index: Any, /) -> Any: ...
