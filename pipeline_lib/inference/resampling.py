"""Resample images to another pixel size, region by region, with the same result as for the whole section."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.types import Stored

_SIGMAS = 4.0  # radius of the Gaussian filter


class Resampled:
    """An array (..., y, x) whose sections are resampled when regions of them are read.

    The first row and column begin at the same place as those of the array. Values are interpolated
    linearly. Where pixels become larger, the array is smoothed first, by a Gaussian whose standard deviation
    is (step - 1) / 2, as `skimage.transform.resize` does, so that fine detail does not become patterns. Each
    region has exactly the values of the whole, whatever its place and size. Memory depends on the region
    read, not on the section.

    Parameters
    ----------
    array : (..., y, x) array or HDF5 dataset
        Values. Integers are rounded again.
    step : tuple of float
        Height and width of a new pixel (px of `array`).
    shape : tuple of int, optional
        Number of rows and columns. By default as many as fit best, at least 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.inference.resampling import Resampled
    >>> Resampled(np.array([[[0, 2, 4, 6]]]), (1, 0.5))[0, :, :]
    array([[0, 0, 2, 2, 4, 4, 6, 6]])
    >>> Resampled(np.array([[[0.0, 2.0, 4.0, 6.0]]]), (1, 0.5))[0, 0:1, 2:5]
    array([[1.5, 2.5, 3.5]])
    """

    def __init__(
        self, array: Stored, step: tuple[float, float], shape: tuple[int, int] | None = None
    ) -> None:
        self.array = array
        self.step = step
        self.size = array.shape[-2], array.shape[-1]
        own = (max(round(size / by), 1) for size, by in zip(self.size, step, strict=True))
        self.shape = (*array.shape[:-2], *(shape or own))
        self.dtype = array.dtype
        self.sigma = tuple(max((by - 1) / 2, 0.0) for by in step)

    def __getitem__(self, index: Any) -> np.ndarray:
        *leading, rows, columns = index
        (top, bottom), (left, right) = (
            part.indices(size)[:2] for part, size in zip((rows, columns), self.shape[-2:], strict=True)
        )
        side = max(int(BLOCK / max(*self.step, 1)), 1)  # so that about one block is read at a time
        rows, columns = (
            [slice(at, min(at + side, stop)) for at in range(start, stop, side)]
            for start, stop in ((top, bottom), (left, right))
        )
        bands = [[self._region(tuple(leading), y, x) for x in columns] for y in rows]
        return np.concatenate([np.concatenate(band, axis=-1) for band in bands], axis=-2)

    def source(self, axis: int, part: slice) -> slice:
        """Return the rows or columns of the array that determine a part of the result.

        Parameters
        ----------
        axis : int
            0 for rows, 1 for columns.
        part : slice
            Rows or columns of the result, with start and stop.

        Returns
        -------
        slice
            Rows or columns of the array.
        """
        first, last = self._positions(axis, part)[[0, -1]]
        reach = int(_SIGMAS * self.sigma[axis] + 0.5)  # as ndimage rounds it
        return slice(max(int(first) - reach, 0), min(int(last) + 2 + reach, self.size[axis]))

    def _positions(self, axis: int, part: slice) -> np.ndarray:
        """Return the middles of new pixels as positions in the array, in which pixel 0 is at 0."""
        # The same for any part. To subtract the first pixel of a region, a smaller integer, is exact.
        middle = (np.arange(part.start, part.stop) + 0.5) * self.step[axis] - 0.5
        return np.clip(middle, 0, self.size[axis] - 1)

    def _region(self, leading: tuple[Any, ...], rows: slice, columns: slice) -> np.ndarray:
        from scipy import ndimage  # takes 0.2 s, and is needed for few volumes

        source = self.source(0, rows), self.source(1, columns)
        values = self.array[(*leading, *source)].astype(np.float32)
        sigma = (0,) * (values.ndim - 2) + self.sigma
        values = ndimage.gaussian_filter(values, sigma, mode="mirror", truncate=_SIGMAS)
        y, x = self._positions(0, rows) - source[0].start, self._positions(1, columns) - source[1].start
        at = np.meshgrid(y, x, indexing="ij")
        planes = values.reshape(-1, *values.shape[-2:])
        result = np.stack([ndimage.map_coordinates(plane, at, order=1, mode="nearest") for plane in planes])
        if self.dtype.kind in "ui":
            np.rint(result, out=result)
        return result.reshape(*values.shape[:-2], len(y), len(x)).astype(self.dtype)
