"""Overlap-tile geometry: which sizes a network takes, and which regions to read, crop and write.

Pure integer geometry, without torch and h5py, so that the workflow checks a tile size before anything runs.
All sizes are in pixels (px); a region outside the image is read from its mirror image (Ronneberger et al.
2015, figure 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_lib.runtime.errors import InputError

# px lost per up-sampling step so that nothing depends on what lies beyond the edge (see networks/unet.py)
UPSAMPLING_LOSS = {"up_convolution": 0, "nearest": 2, "bilinear": 4}


@dataclass(frozen=True)
class Geometry:
    """Input sizes a network takes, `smallest + k * stride`, and the `context` lost on either side (px)."""

    stride: int
    smallest: int
    context: int

    def output_size(self, input_size: int) -> int:
        """Output size (px) for a valid `input_size`; `InputError` names the nearest valid sizes otherwise."""
        steps, rest = divmod(input_size - self.smallest, self.stride)
        if rest or steps < 0:
            below = self.smallest + max(steps, 0) * self.stride
            raise InputError(
                f"a tile of {input_size} px does not fit this network: each 2x2 pooling needs an even size. "
                f"Expected {self.smallest}, {self.smallest + self.stride}, "
                f"{self.smallest + 2 * self.stride}, ...; use {below} or {below + self.stride}."
            )
        return input_size - 2 * self.context

    def input_size(self, output_size: int) -> int:
        """Smallest valid input size (px) whose output covers `output_size`."""
        steps = -(-(output_size + 2 * self.context - self.smallest) // self.stride)
        return self.smallest + max(steps, 0) * self.stride


def unet_geometry(depth: int, upsampling: str = "up_convolution") -> Geometry:
    """Geometry of the unpadded U-Net: depth 4 takes 572 and gives 388 (Ronneberger et al. 2015, figure 1)."""

    def sizes(bottom: int) -> tuple[int, int]:
        before, after = bottom, bottom - 4  # two unpadded 3x3 convolutions at the bottom
        for _ in range(depth):
            before = 2 * before + 4
            after = 2 * after - UPSAMPLING_LOSS[upsampling] - 4
        return before, after

    bottom = 5
    while sizes(bottom)[1] < 2**depth:  # tiles move on by whole strides
        bottom += 1
    before, after = sizes(bottom)
    return Geometry(stride=2**depth, smallest=before, context=(before - after) // 2)


def check_tile(tile: int, depth: int, upsampling: str = "up_convolution", key: str = "training.tile") -> None:
    """Raise `InputError` unless a U-Net of this depth takes a square tile of `tile` px.

    `key` is named in the message.
    """
    try:
        unet_geometry(depth, upsampling).output_size(tile)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


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
    per pixel of input (docs/PERFORMANCE.md). All are of one size, the last ones reaching past the section:
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
