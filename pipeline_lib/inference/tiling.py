"""Overlap-tile geometry: which regions of a section to read, crop and write.

Pure integer geometry, without torch and h5py. All sizes are in pixels (px); a region outside the image is
read from its mirror image (Ronneberger et al. 2015, figure 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_lib.networks.plan import Geometry


@dataclass(frozen=True)
class Tile:
    """One inference unit of a section: what to `read`, to `crop` from the output, and to `write`.

    `read` holds (start, stop) per axis in image coordinates; `crop` and `write` are slices per axis.
    """

    read: tuple[tuple[int, int], tuple[int, int]]
    crop: tuple[slice, slice]
    write: tuple[slice, slice]


def tiles(shape: tuple[int, int], tile: int, geometry: Geometry) -> Iterator[Tile]:
    """Cover a section of `shape` (y, x) by tiles of at most `tile` x `tile` px of input, row by row.

    Tiles start at multiples of the network's stride, hence pooling sees the same 2x2 squares as in one pass
    over the whole image and the results agree. They are square or long, whichever reads the fewest pixels in
    all: a forward pass costs so much per pixel of output, of which every division has as many, and so much
    per pixel of input (docs/measurements/performance.md). All are of one size, the last ones reaching past the section:
    what one tile has freed of memory fits the next.
    """
    geometry.output_size(tile)
    rows, columns = _division(shape, tile**2, geometry)
    for y_read, y_write in rows:
        for x_read, x_write in columns:
            crop = tuple(slice(0, part.stop - part.start) for part in (y_write, x_write))
            yield Tile((y_read, x_read), crop, (y_write, x_write))


_Span = tuple[tuple[int, int], slice]  # what to read and what to write along one axis


def _division(shape: tuple[int, int], area: int, geometry: Geometry) -> list[list[_Span]]:
    """Spans of rows and of columns, of all those with tiles of at most `area` px the ones that read least."""
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

    return [
        _spans(size, step, geometry) for size, step in zip(shape, min(steps, key=pixels_read), strict=True)
    ]


def _step(size: int, largest: int, geometry: Geometry) -> int:
    """From tile to tile (px), for the fewest even tiles of at most `largest` px that cover `size`."""
    output = geometry.output_size(largest - (largest - geometry.smallest) % geometry.stride)
    if size <= output:
        return size
    count = -(-size // (output - output % geometry.stride))
    return -(-size // (count * geometry.stride)) * geometry.stride


def _spans(size: int, step: int, geometry: Geometry) -> list[_Span]:
    spans = []
    for start in range(0, size, step):
        stop = min(start + step, size)
        first = start - geometry.context
        spans.append(((first, first + geometry.input_size(step)), slice(start, stop)))
    return spans


def mirror(start: int, stop: int, size: int) -> np.ndarray:
    """Indices into an axis of `size` for positions start..stop-1, mirrored at both edges as often as needed.

    >>> mirror(-2, 6, 4)
    array([2, 1, 0, 1, 2, 3, 2, 1])
    """
    period = max(2 * (size - 1), 1)
    position = np.arange(start, stop) % period
    return np.minimum(position, period - position) if size > 1 else np.zeros(stop - start, int)


def read_mirrored(array: Any, section: int, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read `array[..., section, rows, columns]` (numpy or h5py, axes ...zyx) by way of one contiguous block.

    `rows` and `columns` are index arrays as `mirror` gives them; h5py itself takes only sorted ones without
    repeats. The block is as large as the result where the section is: what one tile frees fits the next.
    """
    top, left = (
        max(min(index.min(), size - len(index)), 0)
        for index, size in zip((rows, columns), array.shape[-2:], strict=True)
    )
    block = array[..., section, top : top + len(rows), left : left + len(columns)]
    return block.take(rows - top, -2).take(columns - left, -1)  # one axis at a time: five times as fast
