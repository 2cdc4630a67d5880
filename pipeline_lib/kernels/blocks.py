"""Blocks, which a stage holds in memory one at a time, and parts, which are one job's share of a volume.

Pure integer geometry in pixels (px). A block is written by itself and may be read with a halo, the
surroundings that its result depends on; at the section's edges there is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

BLOCK = 2048  # px, side of a square block: 4 million pixels, some hundred megabytes in the hungriest stage
ALIGNMENT = 128  # px; blocks begin where the chunks of HDF5 files do, so that each chunk is written once


@dataclass(frozen=True)
class Block:
    """What to `read` of a section, to `crop` from what was computed there, and to `write`.

    Each is a pair of slices, of rows and of columns; `crop` is relative to `read`.
    """

    read: tuple[slice, slice]
    crop: tuple[slice, slice]
    write: tuple[slice, slice]


def blocks(shape: tuple[int, int], side: int = BLOCK, halo: int = 0) -> Iterator[Block]:
    """Cover a section of `shape` (y, x) by blocks of `side` x `side` px, row by row; the last are smaller.

    >>> [block.read for block in blocks((3, 5), side=3, halo=1)]
    [(slice(0, 3, None), slice(0, 4, None)), (slice(0, 3, None), slice(2, 5, None))]
    """
    rows, columns = (list(_spans(size, side, halo)) for size in shape)
    for y_read, y_crop, y_write in rows:
        for x_read, x_crop, x_write in columns:
            yield Block((y_read, x_read), (y_crop, x_crop), (y_write, x_write))


@dataclass(frozen=True)
class Part:
    """One job's share of a volume: some of its sections, or some rows of one, over the whole width."""

    sections: slice
    rows: slice


def parts(shape: tuple[int, int, int], number: int) -> list[Part]:
    """Cut a volume of `shape` (z, y, x) into about `number` parts of about one size.

    Whole sections as long as there are enough of them; else each section into bands of rows, which begin
    where blocks may. There are fewer than `number` where the volume has no more rows to share out, and more
    where it does not divide otherwise.

    >>> parts((1, 1000, 500), 3)  # doctest: +NORMALIZE_WHITESPACE
    [Part(sections=slice(0, 1, None), rows=slice(0, 384, None)),
     Part(sections=slice(0, 1, None), rows=slice(384, 768, None)),
     Part(sections=slice(0, 1, None), rows=slice(768, 1000, None))]
    """
    sections, height, _ = shape
    bands = -(-number // sections)
    if bands == 1:
        edges = [sections * k // number for k in range(number + 1)]
        return [Part(slice(a, b), slice(0, height)) for a, b in itertools.pairwise(edges)]
    band = -(-height // (bands * ALIGNMENT)) * ALIGNMENT
    return [
        Part(slice(z, z + 1), slice(top, min(top + band, height)))
        for z in range(sections)
        for top in range(0, height, band)
    ]


def _spans(size: int, side: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    for start in range(0, size, side):
        stop = min(start + side, size)
        first, last = max(start - halo, 0), min(stop + halo, size)
        yield slice(first, last), slice(start - first, stop - first), slice(start, stop)
