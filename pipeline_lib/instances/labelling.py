"""Connected components of sections of any size: block by block, or band by band in several jobs.

Each block is labelled by itself; what it sees of a component is a *piece*. Pieces that meet at block borders
are joined by union-find into components, and these are numbered as in a whole section: by their first pixel,
columns outer, rows inner. In memory are one block, the borders of all, and tables with a row for each piece
of a section.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib import layout
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import padded_components, root
from pipeline_lib.kernels.sections import padded, unpadded
from pipeline_lib.memory import PROCESS_BYTES
from pipeline_lib.runtime.errors import InputError

BYTES_PER_PIECE = 100  # of the tables while they are joined; 95 to 106 were measured

Read = Callable[[int, slice, slice], np.ndarray]  # section, rows, columns -> (h, w)


@dataclass(frozen=True)
class Pieces:
    """What one job knows of the pieces 1..p of a section, or of its band of rows.

    They belong to its components 1..c; index 0 is the background. `component` (p + 1,) uint32 is that of each
    piece. `first` (c + 1,) int64 is the place of a component's first pixel, x * rows + y within the band;
    `size` (c + 1,) int64 its number of px.
    """

    component: np.ndarray
    first: np.ndarray
    size: np.ndarray


def find_pieces(read: Read, stored: Any, z: int, *, block: int = BLOCK, memory_gb: float = 8.0) -> Pieces:
    """Label section `z` of a volume, or of a band of its rows, block by block.

    `read` gives the foreground (bool, or uint8 not 0). `stored` (z, y, x; numpy or h5py) takes the pieces,
    uint32, numbered from 1 in the order of the blocks. Raises `InputError` where the tables of so many take
    more than `memory_gb`.
    """
    shape = stored.shape[1:]
    first, size, meeting = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], []
    above = np.zeros(shape[1], np.uint32)  # the last row of the blocks above
    left = np.zeros(0, np.uint32)  # the last column of the block to the left
    used = 0
    for area in blocks(shape, block):
        rows, columns = area.write
        labels = padded_components(padded(read(z, rows, columns), np.uint8)).view(np.uint32)
        inside = labels[1:-1, 1:-1]
        count = int(inside.max())
        _require_memory(used + count, memory_gb)
        first.append(np.empty(count, np.int64))
        size.append(np.zeros(count, np.int64))
        _measure(labels, used, columns.start * shape[0] + rows.start, shape[0], first[-1], size[-1])
        if rows.start:
            meeting.append(_touching(above[columns], inside[:, 0]))
        if columns.start:
            meeting.append(_touching(left, inside[0]))
        above[columns], left = inside[:, -1], inside[-1].copy()
        stored[z, rows, columns] = unpadded(labels)
        used += count
    return _join(_joined(first), _joined(size), meeting)


def number_components(
    bands: Sequence[Pieces],
    heights: Sequence[int],
    seams: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    *,
    minimum_size: int = 0,
    before: int = 0,
) -> tuple[list[np.ndarray], int]:
    """The label of each piece of a section, for each band (p + 1,) uint32, and the last label given.

    `bands` lie one below the other and have `heights` rows; of each two, `seams` holds the pieces in the last
    row of the upper and the first row of the lower. Components below `minimum_size` px get 0, the others are
    numbered from `before` + 1. Raises `InputError` where uint32 does not hold their number.
    """
    offsets = np.cumsum([0, *(len(band.size) - 1 for band in bands)])
    joined = _join_bands(bands, heights, seams, offsets) if len(bands) > 1 else _unjoined(bands[0])
    kept = np.flatnonzero(joined.size >= max(minimum_size, 1))
    _require_uint32(before + len(kept))
    final = np.zeros(len(joined.size), np.uint32)
    final[kept[np.argsort(joined.first[kept])]] = np.arange(before + 1, before + len(kept) + 1)
    lookups = []
    for band, offset in zip(bands, offsets[:-1], strict=True):
        of_component = final[joined.component[offset : offset + len(band.size)]]
        of_component[0] = 0
        lookups.append(of_component[band.component])
    return lookups, before + len(kept)


def _unjoined(band: Pieces) -> Pieces:
    """The components of a single band, each a piece of its own."""
    return Pieces(np.arange(len(band.size), dtype=np.uint32), band.first, band.size)


def _join_bands(
    bands: Sequence[Pieces],
    heights: Sequence[int],
    seams: Sequence[tuple[np.ndarray, np.ndarray]],
    offsets: np.ndarray,
) -> Pieces:
    """The components of a section, whose pieces are those of its bands, numbered on by `offsets`."""
    height = sum(heights)
    first, size, meeting = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], []
    for i, (band, rows) in enumerate(zip(bands, heights, strict=True)):
        x, y = np.divmod(band.first[1:], rows)
        first.append(x * height + y + sum(heights[:i]))
        size.append(band.size[1:])
    for i, seam in enumerate(seams):
        pairs = zip(_touching(*seam), bands[i : i + 2], offsets[i : i + 2], strict=True)
        meeting.append(np.stack([band.component[pieces] + offset for pieces, band, offset in pairs]))
    return _join(_joined(first), _joined(size), meeting)


class Labels:
    """Labels (z, y, x) uint32, made from pieces when they are read: by `read`, or at [z, rows, columns].

    `pieces` is an array or an HDF5 dataset. `number` returns the label of each piece of a section; the
    table of the section last read is kept.
    """

    def __init__(self, pieces: Any, number: Callable[[int], np.ndarray]) -> None:
        self.pieces, self.shape, self.dtype = pieces, pieces.shape, pieces.dtype
        self.table = lru_cache(maxsize=1)(number)

    @classmethod
    def of(cls, pieces: h5py.Dataset, numbers: h5py.Group) -> Labels:
        """Return the labels of pieces in a file, whose tables are in one group for each section."""
        return cls(pieces, lambda z: numbers[str(z)][layout.NUMBER.name][:])

    def read(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        return self.table(z)[self.pieces[z, rows, columns]]

    def __getitem__(self, region: tuple[int, slice, slice]) -> np.ndarray:
        return self.read(*region)


@contextmanager
def labelled(
    read: Read,
    shape: tuple[int, int, int],
    beside: Path,
    *,
    minimum_size: int = 0,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> Iterator[tuple[Labels, int]]:
    """Yield the labels of a volume of `shape` (z, y, x), numbered through, and how many there are.

    `read` gives the foreground (bool, or uint8 not 0). Components below `minimum_size` px are left out. The
    pieces of a volume with more pixels than a block are in a temporary file `beside` the one that the labels
    are for. Raises `InputError` as `find_pieces` does.
    """

    def number(pieces: Any, keep: Callable[[int, np.ndarray], None]) -> int:
        """Fill `pieces`, keep the table of each section, and return the number of labels."""
        count = 0
        for z in range(shape[0]):
            found = find_pieces(read, pieces, z, block=block, memory_gb=memory_gb)
            (table,), count = number_components([found], [shape[1]], minimum_size=minimum_size, before=count)
            keep(z, table)
        return count

    if math.prod(shape) <= block**2:
        pieces, tables = np.empty(shape, np.uint32), {}
        count = number(pieces, tables.__setitem__)
        yield Labels(pieces, tables.__getitem__), count
        return
    path = beside.with_name(f".{beside.stem}.pieces.h5")
    try:
        with layout.create(path, {}) as file:

            def keep(z: int, table: np.ndarray) -> None:
                layout.add(file.create_group(str(z)), layout.NUMBER, table.shape)[:] = table

            count = number(layout.add(file, layout.PIECES, shape), keep)
        with layout.require(path, layout.PIECES) as file:
            yield Labels.of(file[layout.PIECES.name], file), count
    finally:
        path.unlink(missing_ok=True)


def _require_memory(pieces: int, memory_gb: float) -> None:
    needed = PROCESS_BYTES + pieces * BYTES_PER_PIECE
    if needed > memory_gb * 1e9:
        raise InputError(
            f"{pieces:,} connected components and more in one section take {needed / 1e9:.1f} GB, but "
            f"`memory_gb` is {memory_gb:g}: what is labelled is probably noise. Look at the annotation or "
            "the prediction, or raise `memory_gb`."
        )


def _require_uint32(count: int) -> None:
    if count >= 2**32:
        raise InputError(
            f"{count} connected components, more than 32 bits can number: what is labelled is noise. Raise "
            "`segmentation.minimum_size`, or look at the annotation or the prediction."
        )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The arrays in a list as one; the list is emptied, for there may be gigabytes of them."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _touching(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The pairs (2, n) of pieces that face each other in two lines of pixels."""
    both = (one > 0) & (other > 0)
    return np.stack([one[both], other[both]])


def _join(first: np.ndarray, size: np.ndarray, meeting: Sequence[np.ndarray]) -> Pieces:
    """Components of pieces, of which pairs are `meeting`; `first` and `size` are overwritten."""
    parent = np.arange(len(first))
    for pairs in meeting:
        _unite(parent, pairs)
    component = np.zeros(len(first), np.uint32)
    count = _collect(parent, component, first, size)
    return Pieces(component, first[: count + 1].copy(), size[: count + 1].copy())


@compiled
def _measure(labels, used, start, height, first, size):
    """Number the pieces of a padded block on from `used`; find their first pixels and sizes."""
    seen = 0
    for x in range(1, labels.shape[0] - 1):
        for y in range(1, labels.shape[1] - 1):
            label = labels[x, y]
            if label:
                if label > seen:  # the kernel numbers them in this order
                    first[seen] = start + (x - 1) * height + y - 1
                    seen = label
                size[label - 1] += 1
                labels[x, y] = label + used


@compiled
def _unite(parent, pairs):
    """Join the trees of each pair; the smaller root wins, so that a parent comes before its children."""
    for i in range(pairs.shape[1]):
        one, other = root(parent, pairs[0, i]), root(parent, pairs[1, i])
        parent[max(one, other)] = min(one, other)


@compiled
def _collect(parent, component, first, size):
    """Number the trees, and gather what is known of their pieces at the front of `first` and `size`."""
    count = 0
    for piece in range(1, parent.size):
        if parent[piece] == piece:
            count += 1
            component[piece] = count
            first[count], size[count] = first[piece], size[piece]
        else:
            joined = component[parent[piece]]
            component[piece] = joined
            first[joined] = min(first[joined], first[piece])
            size[joined] += size[piece]
    return count
