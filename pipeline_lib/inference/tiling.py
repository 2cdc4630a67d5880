"""Overlap-tile geometry: which part of a section each tile reads, crops and writes.

This module uses integers only and imports neither torch nor h5py. All sizes and positions are in pixels (px).
Pixels outside the section are mirrored at its edges (the overlap-tile strategy of the U-Net paper, figure 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.networks.plan import Geometry
from pipeline_lib.runtime.types import Stored


@dataclass(frozen=True)
class Tile:
    """Position of one tile in a section.

    Parameters
    ----------
    read : tuple of (start, stop)
        Rows and columns of the input, in coordinates of the section (px). They may lie outside of it.
    crop : tuple of slice
        Rows and columns of the network's output that belong to the section.
    write : tuple of slice
        Rows and columns of the section where the cropped output belongs.
    """

    read: tuple[tuple[int, int], tuple[int, int]]
    crop: tuple[slice, slice]
    write: tuple[slice, slice]


def tiles(shape: tuple[int, int], tile: int, geometry: Geometry) -> Iterator[Tile]:
    """Yield tiles that cover a section, row by row.

    Tiles start at multiples of the network's stride, so that pooling sees the same 2x2 squares as in one pass
    over the whole section, and the results are equal.

    Tiles are square or elongated, so that they read as few pixels as possible in total. The cost of a forward
    pass is proportional to the pixels it reads plus those it writes (see :doc:`/measurements/performance`),
    and every pixel of the section is written once however it is divided. All tiles have the same size, so
    that memory freed by one tile fits the next. The last ones may extend beyond the section.

    Parameters
    ----------
    shape : tuple of int
        Shape of the section, (y, x) px. Without any pixel, there are no tiles.
    tile : int
        Largest input, given as the side of a square (px): a tile has at most `tile` x `tile` px. It must be a
        valid size of the network.
    geometry : Geometry
        Valid sizes and context of the network.

    Yields
    ------
    Tile
        Position of a tile.

    Raises
    ------
    InputError
        If `tile` is not a valid size.

    References
    ----------
    Section 2 and figure 2 of [1]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    A network with a context of 5 px needs two tiles of 22 x 14 px for a section of 12 x 8 px, if a tile may
    have 18 x 18 px:

    >>> from pipeline_lib.inference.tiling import tiles
    >>> from pipeline_lib.networks import Geometry
    >>> geometry = Geometry(stride=4, smallest=14, context=5)
    >>> for part in tiles((12, 8), 18, geometry):
    ...     print(part.read, part.write)
    ((-5, 17), (-5, 9)) (slice(0, 12, None), slice(0, 4, None))
    ((-5, 17), (-1, 13)) (slice(0, 12, None), slice(4, 8, None))
    """
    geometry.output_size(tile)
    if 0 in shape:
        return
    rows, columns = _division(shape, tile**2, geometry)
    for y_read, y_write in rows:
        for x_read, x_write in columns:
            crop = slice(0, y_write.stop - y_write.start), slice(0, x_write.stop - x_write.start)
            yield Tile((y_read, x_read), crop, (y_write, x_write))


class _Span(NamedTuple):
    """What a tile reads and writes along one axis."""

    read: tuple[int, int]
    write: slice


def _division(shape: tuple[int, int], area: int, geometry: Geometry) -> list[list[_Span]]:
    """Return the spans of rows and columns that read least, among all with tiles of at most `area` px."""
    tallest = min(area // geometry.smallest, geometry.input_size(shape[0]))
    steps = (
        (_step(shape[0], height, geometry), _step(shape[1], area // height, geometry))
        for height in range(geometry.smallest, tallest + 1, geometry.stride)
    )

    def pixels_read(steps: tuple[int, int]) -> int:
        total = 1
        for size, step in zip(shape, steps, strict=True):
            total *= -(-size // step) * geometry.input_size(step)
        return total

    best = min(steps, key=pixels_read)
    return [_spans(size, step, geometry) for size, step in zip(shape, best, strict=True)]


def _step(size: int, largest: int, geometry: Geometry) -> int:
    """Return the step (px) for the fewest even tiles of at most `largest` px that cover `size` px."""
    output = geometry.output_size(largest - (largest - geometry.smallest) % geometry.stride)
    if size <= output:
        return size
    count = -(-size // (output - output % geometry.stride))
    return -(-size // (count * geometry.stride)) * geometry.stride


def _spans(size: int, step: int, geometry: Geometry) -> list[_Span]:
    """Return the spans of tiles at every `step` px of an axis of `size` px."""
    spans = []
    for start in range(0, size, step):
        stop = min(start + step, size)
        first = start - geometry.context
        spans.append(_Span((first, first + geometry.input_size(step)), slice(start, stop)))
    return spans


def mirror(start: int, stop: int, size: int) -> npt.NDArray[np.int_]:
    """Return the indices of mirrored positions along an axis.

    The axis is mirrored at both edges, as often as needed. The pixel at the edge is not repeated.

    Parameters
    ----------
    start : int
        First position. It may be negative.
    stop : int
        End of the positions (exclusive). It may exceed `size`.
    size : int
        Length of the axis (px).

    Returns
    -------
    (stop - start,) array of int64
        Index into the axis for each position, 0 to `size` - 1.

    References
    ----------
    Section 2 and figure 2 of [1]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    >>> from pipeline_lib.inference.tiling import mirror
    >>> mirror(-2, 6, 4)
    array([2, 1, 0, 1, 2, 3, 2, 1])
    """
    period = max(2 * (size - 1), 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position) if size > 1 else np.zeros(stop - start, int)


def read_mirrored(array: Stored, section: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return `array[..., section, rows, columns]` for index arrays that may be unsorted and repeat.

    h5py itself accepts only sorted indices without repeats, so one contiguous block is read and then indexed.
    The block is as large as the result, if the section is large enough: memory freed by one tile fits the
    next.

    Parameters
    ----------
    array : (..., z, y, x) array
        Numpy or h5py array.
    section : int
        Index of the section.
    rows : (y,) array of int
        Indices of rows, as `mirror` returns them.
    columns : (x,) array of int
        Indices of columns.

    Returns
    -------
    (..., y, x) array
        Values of the section, with the type of `array`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.inference.tiling import mirror, read_mirrored
    >>> image = np.arange(6).reshape(1, 2, 3)
    >>> read_mirrored(image, 0, mirror(0, 2, 2), mirror(-1, 4, 3))
    array([[1, 0, 1, 2, 1],
           [4, 3, 4, 5, 4]])
    """
    top, left = (
        max(min(index.min(), size - len(index)), 0)
        for index, size in zip((rows, columns), array.shape[-2:], strict=True)
    )
    block = array[..., section, top : top + len(rows), left : left + len(columns)]
    return block.take(rows - top, -2).take(columns - left, -1)  # five times as fast as both axes at once
