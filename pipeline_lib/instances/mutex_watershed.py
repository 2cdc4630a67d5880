"""Mutex watershed: pixels join in the order of their affinities, unless a stronger edge keeps them apart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.data.affinities import NEIGHBOURS
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import root
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Offsets, Stored

#: Only pixels whose row and column are multiples of it have edges that separate (px). Neighbouring edges say
#: nearly the same. Fewer of them need less time and memory, and a wrong one is rarer.
STRIDE = 4


@dataclass(frozen=True)
class Affinities:
    """Predicted affinities.

    Parameters
    ----------
    values : (k, z, y, x) or (k, y, x) array of float32
        Probability that a pixel and the pixel at each offset from it belong to the same cell, 0..1. Numpy or
        h5py.
    offsets : tuple of (int, int)
        The k offsets (rows, columns) in px. The first two are those of `NEIGHBOURS`.
    """

    values: Stored
    offsets: Offsets

    @classmethod
    def of(cls, prediction: h5py.File) -> Affinities | None:
        """Return the affinities of a prediction file; None if the network did not learn any."""
        stored = prediction.get(layout.AFFINITIES.name)
        return None if stored is None else cls(stored, layout.offsets_of(stored))

    def __getitem__(self, z: int) -> Affinities:
        """Return the affinities of a section, in memory."""
        return Affinities(self.values[:, z], self.offsets)


def mutex_watershed(affinities: Affinities, cells: np.ndarray, stride: int = STRIDE) -> npt.NDArray[np.int32]:
    """Return the regions of the mutex watershed of a section.

    Affinities of neighbours are edges that join, with the affinity a as weight. Affinities of pixels that are
    farther apart are edges that separate, with the weight 1 - a. Edges are processed from the highest weight
    to the lowest one. An edge that joins unites the regions of its pixels, unless an earlier edge separates
    them. An edge that separates keeps the regions of its pixels apart for good, unless they are already
    united. Of equal weights, the edge of the first offset comes first, and of one offset, the first pixel.

    Parameters
    ----------
    affinities : Affinities
        Affinities of one section, (k, y, x).
    cells : (y, x) array of bool
        Pixels of cells. Others have no edges.
    stride : int, default 4
        Only pixels whose row and column are multiples of it have edges that separate (px). For a shorter
        offset, it is the length of the offset, so that no border lies between these pixels unseen.

    Returns
    -------
    (y, x) array of int32
        0 = not in a cell. Each region has a number of its own and is 4-connected.

    Raises
    ------
    InputError
        If the affinities have another shape, or 2^32 values or more.

    Notes
    -----
    This is Kruskal's algorithm for a maximum spanning forest, with constraints (algorithm 1 of [1]_).

    References
    ----------
    .. [1] S. Wolf, A. Bailoni, C. Pape, N. Rahaman, A. Kreshuk, U. Koethe, F. A. Hamprecht, "The Mutex
       Watershed and its objective: efficient, parameter-free graph partitioning", IEEE Transactions on
       Pattern Analysis and Machine Intelligence 43(10):3724-3738, 2021.

    Examples
    --------
    Neighbours are likely to belong together, but the pixels at both ends are more likely to be apart.

    >>> import numpy as np
    >>> from pipeline_lib.instances.mutex_watershed import Affinities, mutex_watershed
    >>> values = np.zeros((3, 1, 5), np.float32)
    >>> values[1] = [0, 0.9, 0.9, 0.6, 0.9]
    >>> values[2, 0, 4] = 0.2
    >>> mutex_watershed(Affinities(values, ((-1, 0), (0, -1), (0, -4))), np.ones((1, 5), bool))
    array([[2, 2, 2, 5, 5]], dtype=int32)
    """
    expected = len(affinities.offsets), *cells.shape
    if affinities.values.shape != expected or math.prod(expected) >= 2**32:
        raise InputError(
            f"a mutex watershed: found affinities of the shape {affinities.values.shape} for "
            f"{len(affinities.offsets)} offsets and a section of {cells.shape}; expected one map of the "
            "section for each offset, and less than 2^32 values. Cut the images, or train with fewer offsets."
        )
    values, offsets = np.asarray(affinities.values, np.float32), np.array(affinities.offsets, np.int64)
    cells = np.ascontiguousarray(cells, bool)
    weights, edges = _edges(values, offsets, cells, stride)
    # sorted as pairs of weight and number in one integer: no two are equal, so the order is the same on all
    # processors
    order = weights.view(np.uint32).astype(np.uint64)
    order <<= np.uint64(32)
    order |= ~edges
    del weights, edges
    order.sort()
    return _join(order, offsets, cells)


@compiled
def _edges(
    affinities: np.ndarray, offsets: np.ndarray, cells: np.ndarray, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (float32, above 0) and number (uint32: offset, row, column) of each edge."""
    height, width = cells.shape
    count = 0
    for fill in range(2):
        if fill:
            weights, numbers = np.empty(count, np.float32), np.empty(count, np.uint32)
            count = 0
        for k in range(len(offsets)):
            dy, dx = offsets[k]
            step = 1 if k < len(NEIGHBOURS) else min(stride, max(abs(dy), abs(dx)))
            for y in range(0, height, step):
                if not 0 <= y + dy < height:
                    continue
                for x in range(0, width, step):
                    if not (0 <= x + dx < width and cells[y, x] and cells[y + dy, x + dx]):
                        continue
                    weight = affinities[k, y, x]
                    if k >= len(NEIGHBOURS):
                        weight = np.float32(1) - weight
                    if weight > 0:
                        if fill:
                            weights[count] = weight
                            numbers[count] = (k * height + y) * width + x
                        count += 1
    return weights, numbers


@compiled
def _join(order: np.ndarray, offsets: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Process sorted edges, the last one first, and return the number of a pixel of its region for each.

    Each region has a list of the edges that separate it from others, as pixels on the other side.
    """
    height, width = cells.shape
    pixels = height * width
    separating = 0
    for edge in order:
        separating += (np.uint64(2**32 - 1) - (edge & np.uint64(2**32 - 1))) >= len(NEIGHBOURS) * pixels
    parent = np.arange(pixels).astype(np.int32)
    size = np.ones(pixels, np.int32)
    first, last = np.full(pixels, -1, np.int32), np.full(pixels, -1, np.int32)
    length = np.zeros(pixels, np.int32)
    following, beyond = np.empty(2 * separating, np.int32), np.empty(2 * separating, np.int32)
    used = 0
    for position in range(order.size - 1, -1, -1):
        number = np.int64(np.uint64(2**32 - 1) - (order[position] & np.uint64(2**32 - 1)))
        k, pixel = number // pixels, number % pixels
        other = pixel + offsets[k, 0] * width + offsets[k, 1]
        one, two = root(parent, pixel), root(parent, other)
        if one == two:
            continue
        if k >= len(NEIGHBOURS):
            for region, there in ((one, other), (two, pixel)):
                beyond[used], following[used] = there, first[region]
                if first[region] < 0:
                    last[region] = used
                first[region] = used
                length[region] += 1
                used += 1
            continue
        shorter, longer = (one, two) if length[one] < length[two] else (two, one)
        item = first[shorter]
        while item >= 0 and root(parent, beyond[item]) != longer:
            item = following[item]
        if item >= 0:  # an edge separates them
            continue
        large, small = (one, two) if size[one] >= size[two] else (two, one)
        parent[small] = large
        size[large] += size[small]
        if first[small] >= 0:
            following[last[small]] = first[large]
            if first[large] < 0:
                last[large] = last[small]
            first[large] = first[small]
            length[large] += length[small]
    labels = np.zeros((height, width), np.int32)
    for y in range(height):
        for x in range(width):
            if cells[y, x]:
                labels[y, x] = root(parent, y * width + x) + 1
    return labels
