"""Blocks and parts of a volume, as integer geometry in pixels (px).

A *block* is the region that a stage holds in memory at a time. Each block is written separately. It can be
read with a *halo*: the surrounding pixels that its result depends on. At the edges of the section there is no
halo. A *part* is one job's share of a volume.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

#: Default side of a block (px): 4 million pixels, a few hundred megabytes in the largest stage.
BLOCK = 2048
#: Blocks and bands of rows start at multiples of it (px). It is the side of HDF5 chunks: each is written
#: once.
ALIGNMENT = 128


@dataclass(frozen=True)
class Block:
    """A region of a section to compute: what to read, what to keep of the result, and where to write it.

    Parameters
    ----------
    read : tuple of slice
        Rows and columns to read: the block and its halo.
    crop : tuple of slice
        Rows and columns to keep of what was computed from the region read, relative to `read`.
    write : tuple of slice
        Rows and columns of the section that the kept result belongs to: the block itself.
    """

    read: tuple[slice, slice]
    crop: tuple[slice, slice]
    write: tuple[slice, slice]


def blocks(shape: tuple[int, int], side: int = BLOCK, halo: int = 0) -> Iterator[Block]:
    """Yield square blocks that cover a section, row by row.

    Parameters
    ----------
    shape : tuple of int
        Shape (y, x) of the section (px).
    side : int, default 2048
        Side of a block (px). Blocks at the end of a row or column can be smaller.
    halo : int, default 0
        Width of the surrounding to read with each block (px).

    Yields
    ------
    Block
        Regions whose `write` parts cover each pixel exactly once.

    Examples
    --------
    >>> from pipeline_lib.kernels.blocks import blocks
    >>> [block.read for block in blocks((3, 5), side=3, halo=1)]
    [(slice(0, 3, None), slice(0, 4, None)), (slice(0, 3, None), slice(2, 5, None))]
    """
    rows, columns = (list(_spans(size, side, halo)) for size in shape)
    for y_read, y_crop, y_write in rows:
        for x_read, x_crop, x_write in columns:
            yield Block((y_read, x_read), (y_crop, x_crop), (y_write, x_write))


@dataclass(frozen=True)
class Part:
    """One job's share of a volume: several whole sections, or a band of rows of one section.

    Parameters
    ----------
    sections : slice
        Sections of the part.
    rows : slice
        Rows of these sections. A part always has the whole width.
    """

    sections: slice
    rows: slice


def parts(shape: tuple[int, int, int], number: int) -> list[Part]:
    """Divide a volume into about `number` parts of similar size.

    If the volume has at least `number` sections, parts are whole sections. Otherwise each section is divided
    into bands of rows, which start at multiples of `ALIGNMENT`. All sections get the same number of bands, so
    there can be more parts than `number`. There can be fewer, because bands have at least `ALIGNMENT` rows.

    Parameters
    ----------
    shape : tuple of int
        Shape (z, y, x) of the volume (px).
    number : int
        Desired number of parts.

    Returns
    -------
    list of Part
        Parts in the order of sections and rows. Together they cover the volume exactly once.

    Examples
    --------
    >>> from pipeline_lib.kernels.blocks import parts
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


def with_halo(part: slice, size: int, halo: int) -> tuple[slice, slice]:
    """Return what to read of an axis for a part of it, and which of what was read is the part.

    Parameters
    ----------
    part : slice
        Pixels of the part.
    size : int
        Length of the axis (px).
    halo : int
        Width of the surroundings to read on both sides (px).

    Returns
    -------
    read : slice
        Pixels to read.
    crop : slice
        The part, relative to `read`.

    Examples
    --------
    >>> from pipeline_lib.kernels.blocks import with_halo
    >>> with_halo(slice(2, 5), size=6, halo=3)
    (slice(0, 6, None), slice(2, 5, None))
    """
    first = max(part.start - halo, 0)
    return slice(first, min(part.stop + halo, size)), slice(part.start - first, part.stop - first)


def _spans(size: int, side: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Yield what to read, crop and write along one axis of `size` px."""
    for start in range(0, size, side):
        write = slice(start, min(start + side, size))
        yield *with_halo(write, size, halo), write
