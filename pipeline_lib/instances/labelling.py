"""Connected components of sections of any size, block by block, or band by band in several jobs.

Each block is labelled separately. The part of a component that is in one block is a *piece*. Pieces that
touch at the borders of blocks are joined into components by union-find. Components are numbered as in a whole
section: by their first pixel, with columns in the outer and rows in the inner loop. Memory holds one block,
the borders of blocks, and tables with one row for each piece of a section.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np

from pipeline_lib import layout
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import padded_components, root
from pipeline_lib.kernels.sections import padded, unpadded
from pipeline_lib.memory import PROCESS_BYTES
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored

BYTES_PER_PIECE = 100  # memory of the tables while they are joined; 95 to 106 were measured

Read = Callable[[int, slice, slice], np.ndarray]  # number of the section, rows, columns -> (y, x) array


@dataclass(frozen=True)
class Pieces:
    """Tables of the pieces 1..p and components 1..c of a section, or of one job's band of rows of it.

    Index 0 of each table is the background.

    Parameters
    ----------
    component : (p + 1,) array of uint32
        Component that each piece belongs to.
    first : (c + 1,) array of int64
        Position of the first pixel of each component: x * rows + y, where rows is the height of the band.
    size : (c + 1,) array of int64
        Size of each component (px).
    """

    component: np.ndarray
    first: np.ndarray
    size: np.ndarray


def find_pieces(
    read: Read,
    stored: np.ndarray | h5py.Dataset,
    z: int,
    *,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> Pieces:
    """Label one section of a volume, or of a band of its rows, block by block.

    Parameters
    ----------
    read : callable
        Takes the number of the section, rows and columns (slices), and returns this region as bool or
        unsigned integers. Only pixels of the same value are connected; 0 is background.
    stored : (z, y, x) array of uint32 or HDF5 dataset
        Output: the pieces of section `z`, numbered from 1 in the order of the blocks; 0 = background.
    z : int
        Number of the section.
    block : int, default 2048
        Side of the blocks that are in memory one at a time (px).
    memory_gb : float, default 8.0
        Limit for the tables of the pieces (GB).

    Returns
    -------
    Pieces
        Tables of the pieces, joined within this section or band.

    Raises
    ------
    InputError
        If the tables need more than `memory_gb`.

    Examples
    --------
    Blocks of 2 px cut the only component into two pieces.

    >>> import numpy as np
    >>> from pipeline_lib.instances.labelling import find_pieces
    >>> foreground = np.array([[[1, 1, 1], [0, 0, 1]]], bool)
    >>> pieces = np.zeros((1, 2, 3), np.uint32)
    >>> found = find_pieces(lambda z, rows, columns: foreground[z, rows, columns], pieces, 0, block=2)
    >>> pieces[0]
    array([[1, 1, 2],
           [0, 0, 2]], dtype=uint32)
    >>> found.component, found.size
    (array([0, 1, 1], dtype=uint32), array([0, 4]))
    """
    shape = stored.shape[1:]
    first, size, contacts = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], []
    # pieces and values of the last row of the blocks above, and of the last column of the block to the left
    above, above_values = np.zeros(shape[1], np.uint32), np.zeros(shape[1], np.uint32)
    left, left_values = np.zeros(0, np.uint32), np.zeros(0, np.uint32)
    used = 0
    for area in blocks(shape, block):
        rows, columns = area.write
        values = read(z, rows, columns)
        values = values.view(np.uint8) if values.dtype.kind == "b" else values
        labels = padded_components(padded(values, values.dtype)).view(np.uint32)
        inside = labels[1:-1, 1:-1]
        count = int(inside.max())
        _require_memory(used + count, memory_gb)
        first.append(np.empty(count, np.int64))
        size.append(np.zeros(count, np.int64))
        _measure(labels, used, columns.start * shape[0] + rows.start, shape[0], first[-1], size[-1])
        if rows.start:
            contacts.append(_touching(above[columns], inside[:, 0], above_values[columns] == values[0]))
        if columns.start:
            contacts.append(_touching(left, inside[0], left_values == values[:, 0]))
        above[columns], left = inside[:, -1], inside[-1].copy()
        above_values[columns], left_values = values[-1], values[:, -1].copy()
        stored[z, rows, columns] = unpadded(labels)
        used += count
    return _join(_joined(first), _joined(size), contacts)


def number_components(
    bands: Sequence[Pieces],
    heights: Sequence[int],
    seams: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    *,
    minimum_size: int = 0,
    before: int = 0,
) -> tuple[list[np.ndarray], int]:
    """Join the components of a section across its bands, and number them.

    Parameters
    ----------
    bands : sequence of Pieces
        Tables of the bands of the section, from top to bottom; a single one for a whole section.
    heights : sequence of int
        Number of rows of each band.
    seams : sequence of tuple of array, optional
        For each two neighbouring bands, the pieces in the last row of the upper band and those in the first
        row of the lower band.
    minimum_size : int, default 0
        Components with fewer pixels get the label 0 (px).
    before : int, default 0
        Last label of the sections before; the first label is `before` + 1.

    Returns
    -------
    list of (p + 1,) array of uint32
        For each band, the label of each piece; index 0 is the background.
    int
        The last label, or `before` if there is no component.

    Raises
    ------
    InputError
        If there are more components than uint32 can number.
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
    """Return the components of a single band as pieces that are already joined."""
    return Pieces(np.arange(len(band.size), dtype=np.uint32), band.first, band.size)


def _join_bands(
    bands: Sequence[Pieces],
    heights: Sequence[int],
    seams: Sequence[tuple[np.ndarray, np.ndarray]],
    offsets: np.ndarray,
) -> Pieces:
    """Join the components of the bands of a section; those of each band are numbered from its offset."""
    height = sum(heights)
    first, size, contacts = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], []
    for i, (band, rows) in enumerate(zip(bands, heights, strict=True)):
        x, y = np.divmod(band.first[1:], rows)
        first.append(x * height + y + sum(heights[:i]))
        size.append(band.size[1:])
    for i, seam in enumerate(seams):
        pairs = zip(_touching(*seam), bands[i : i + 2], offsets[i : i + 2], strict=True)
        contacts.append(np.stack([band.component[pieces] + offset for pieces, band, offset in pairs]))
    return _join(_joined(first), _joined(size), contacts)


class Labels:
    """Labels (z, y, x) that are computed from pieces when a region is read.

    Read a region by `read`, or as `labels[z, rows, columns]`. The table of the section that was read last is
    kept in memory.

    Parameters
    ----------
    pieces : (z, y, x) array of uint32 or HDF5 dataset
        Pieces, as stored by `find_pieces`.
    number : callable
        Takes the number of a section and returns the label of each of its pieces, as `number_components`.
    """

    def __init__(self, pieces: Stored, number: Callable[[int], np.ndarray]) -> None:
        self.pieces, self.shape, self.dtype = pieces, pieces.shape, pieces.dtype
        self.table = lru_cache(maxsize=1)(number)

    @classmethod
    def of(cls, pieces: h5py.Dataset, numbers: h5py.Group) -> Labels:
        """Return the labels of the pieces in a file.

        Parameters
        ----------
        pieces : h5py.Dataset
            Pieces (z, y, x).
        numbers : h5py.Group
            Has one group for each section, by its number, with the label of each piece.

        Returns
        -------
        Labels
            The labels, which can be read while the files are open.
        """
        return cls(pieces, lambda z: numbers[str(z)][layout.NUMBER.name][:])

    def read(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """Return the labels of a region of one section.

        Parameters
        ----------
        z : int
            Number of the section.
        rows, columns : slice
            Region of the section.

        Returns
        -------
        (y, x) array of uint32
            Labels of the region, 0 = background.
        """
        return self.table(z)[self.pieces[z, rows, columns]]

    def __getitem__(self, region: tuple[int, slice, slice]) -> np.ndarray:
        return self.read(*region)


@contextmanager
def labelled(
    read: Read,
    shape: tuple[int, int, int],
    output: str | Path,
    *,
    minimum_size: int = 0,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> Iterator[tuple[Labels, int]]:
    """Label the connected components of a volume, numbered through its sections. Context manager.

    The pieces of a volume with more pixels than one block are in a temporary file, which is removed on exit.

    Parameters
    ----------
    read : callable
        Takes the number of a section, rows and columns (slices), and returns this region as bool or
        unsigned integers. Only pixels of the same value are connected; 0 is background.
    shape : tuple of int
        Shape (z, y, x) of the volume.
    output : str or Path
        File that the labels are for. The temporary file is in the same folder.
    minimum_size : int, default 0
        Components with fewer pixels are left out (px).
    block : int, default 2048
        Side of the blocks that are in memory one at a time (px). It does not change the labels.
    memory_gb : float, default 8.0
        Limit for the tables of the pieces of one section (GB).

    Yields
    ------
    labels : Labels
        The labels, uint32, 0 = background.
    count : int
        Number of labels.

    Raises
    ------
    InputError
        If the tables need more than `memory_gb`, or there are more components than uint32 can number.

    Examples
    --------
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.instances.labelling import labelled
    >>> cells = np.array([[[1, 0, 1], [1, 0, 0]]], bool)
    >>> read = lambda z, rows, columns: cells[z, rows, columns]
    >>> with labelled(read, cells.shape, Path("labels.h5")) as (labels, count):
    ...     labels[0, :, :], count
    (array([[1, 0, 2],
           [1, 0, 0]], dtype=uint32), 2)
    """

    def number(pieces: np.ndarray | h5py.Dataset, keep: Callable[[int, np.ndarray], None]) -> int:
        """Fill `pieces`, pass the table of each section to `keep`, and return the number of labels."""
        count = 0
        for z in range(shape[0]):
            found = find_pieces(read, pieces, z, block=block, memory_gb=memory_gb)
            (table,), count = number_components([found], [shape[1]], minimum_size=minimum_size, before=count)
            keep(z, table)
        return count

    if math.prod(shape) <= block**2:
        pieces = np.empty(shape, np.uint32)
        tables: dict[int, np.ndarray] = {}
        count = number(pieces, tables.__setitem__)
        yield Labels(pieces, tables.__getitem__), count
        return
    path = Path(output).with_name(f".{Path(output).stem}.pieces.h5")
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
    """Raise `InputError` if the tables of so many pieces need more than `memory_gb`."""
    needed = PROCESS_BYTES + pieces * BYTES_PER_PIECE
    if needed > memory_gb * 1e9:
        raise InputError(
            f"a section has at least {pieces:,} connected components, which need {needed / 1e9:.1f} GB, but "
            f"`memory_gb` is {memory_gb:g}. So many are usually noise: check the annotation or the "
            "prediction, or raise `memory_gb`."
        )


def _require_uint32(count: int) -> None:
    """Raise `InputError` if uint32 cannot number so many components."""
    if count >= 2**32:
        raise InputError(
            f"the volume has at least {count} connected components, but the largest label is {2**32 - 1}. So "
            "many are noise: raise `segmentation.minimum_size`, or check the annotation or the prediction."
        )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Join the arrays of a list. The list is emptied, because the arrays can need gigabytes."""
    whole = np.concatenate(parts)
    parts.clear()
    return whole


def _touching(one: np.ndarray, other: np.ndarray, equal: np.ndarray | bool = True) -> np.ndarray:
    """Return the pairs (2, n) of pieces that touch in two neighbouring lines, at pixels that are `equal`."""
    both = (one > 0) & (other > 0) & equal
    return np.stack([one[both], other[both]])


def _join(first: np.ndarray, size: np.ndarray, contacts: Sequence[np.ndarray]) -> Pieces:
    """Join pieces that are in pairs of `contacts` into components; `first` and `size` are overwritten."""
    parent = np.arange(len(first))
    for pairs in contacts:
        _unite(parent, pairs)
    component = np.zeros(len(first), np.uint32)
    count = _collect(parent, component, first, size)
    return Pieces(component, first[: count + 1].copy(), size[: count + 1].copy())


@compiled
def _measure(
    labels: np.ndarray, used: int, start: int, height: int, first: np.ndarray, size: np.ndarray
) -> None:
    """Number the pieces of a padded block from `used` + 1; fill in their first pixels and sizes."""
    seen = 0
    for x in range(1, labels.shape[0] - 1):
        for y in range(1, labels.shape[1] - 1):
            label = labels[x, y]
            if label:
                if label > seen:  # the first pixel of this piece: labels are in scan order
                    first[seen] = start + (x - 1) * height + y - 1
                    seen = label
                size[label - 1] += 1
                labels[x, y] = label + used


@compiled
def _unite(parent: np.ndarray, pairs: np.ndarray) -> None:
    """Join the trees of each pair; the smaller root becomes the parent, so parents precede children."""
    for i in range(pairs.shape[1]):
        one, other = root(parent, pairs[0, i]), root(parent, pairs[1, i])
        parent[max(one, other)] = min(one, other)


@compiled
def _collect(parent: np.ndarray, component: np.ndarray, first: np.ndarray, size: np.ndarray) -> int:
    """Number the trees, and collect their first pixels and sizes at the start of `first` and `size`."""
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
