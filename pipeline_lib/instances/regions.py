"""Regions of a section: their common boundaries, and joining small ones with a neighbour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline_lib.instances.watershed import LEVELS, level_of
from pipeline_lib.kernels.compiled import compiled


@compiled
def boundaries(regions: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the common boundaries of the regions of a section.

    Parameters
    ----------
    regions : (y, x) array of int32
        0 = surely background, without boundaries; 1..n = regions.
    probability : (y, x) array of float
        Cell probability, 0..1.

    Returns
    -------
    ends : (b, 2) array of int32
        The two regions of each boundary, the smaller number first.
    length : (b,) array of int64
        Number of pairs of neighbouring pixels, one in each region.
    total : (b,) array of int64
        Sum over these pairs of the lower probability, as one of 65,536 levels.
    """
    height, width = regions.shape
    count = regions.max() + 1
    start = np.zeros(count + 1, np.int64)  # of the pairs of each region that is the smaller one
    for fill in range(2):
        if fill:
            start[1:] = np.cumsum(start[1:])
            beyond, values = np.empty(start[-1], np.int32), np.empty(start[-1], np.uint16)
            used = start[:-1].copy()
        for y in range(height):
            for x in range(width):
                for dy, dx in ((0, 1), (1, 0)):
                    if not (y + dy < height and x + dx < width):
                        continue
                    one, two = regions[y, x], regions[y + dy, x + dx]
                    small, large = min(one, two), max(one, two)
                    if small == large or small == 0:
                        continue
                    if fill:
                        lower = min(probability[y, x], probability[y + dy, x + dx])
                        beyond[used[small]], values[used[small]] = large, level_of(lower, LEVELS - 1)
                        used[small] += 1
                    else:
                        start[small + 1] += 1
    seen = np.full(count, -1, np.int64)  # last boundary of each region that is the larger one
    found = 0
    for fill in range(2):
        if fill:
            ends = np.empty((found, 2), np.int32)
            length, total = np.zeros(found, np.int64), np.zeros(found, np.int64)
            seen[:], found = -1, 0
        for small in range(count):
            first = found
            for pair in range(start[small], start[small + 1]):
                large = beyond[pair]
                if seen[large] < first:
                    seen[large] = found
                    if fill:
                        ends[found, 0], ends[found, 1] = small, large
                    found += 1
                if fill:
                    length[seen[large]] += 1
                    total[seen[large]] += values[pair]
    return ends, length, total


def join_small(regions: np.ndarray, cell_probability: np.ndarray, smallest: int) -> npt.NDArray[np.int32]:
    """Join regions that are too small with a neighbour.

    In each round, each region with fewer than `smallest` pixels joins the region with which it has the
    longest common boundary. Of equally long ones, it is the boundary with the higher cell probability, then
    the region with the smaller number. Rounds are repeated until no region that has a neighbour is too small.
    Two regions that are large enough never become one.

    Parameters
    ----------
    regions : (y, x) array of int32
        0 = background; 1..n = regions, 4-connected.
    cell_probability : (y, x) array of float
        Cell probability of the section, 0..1.
    smallest : int
        Number of pixels from which on a region stays as it is.

    Returns
    -------
    (y, x) array of int32
        0 = background; regions that were joined have the number of one of them.

    Examples
    --------
    The regions 2 and 3 are too small and join each other, as their boundary is the longest one. Region 4 has
    no neighbour.

    >>> import numpy as np
    >>> from pipeline_lib.instances.regions import join_small
    >>> regions = np.array([[1, 1, 2, 3, 3, 0, 4], [1, 1, 2, 2, 3, 0, 0]], np.int32)
    >>> join_small(regions, np.ones((2, 7)), smallest=4)
    array([[1, 1, 2, 2, 2, 0, 4],
           [1, 1, 2, 2, 2, 0, 0]], dtype=int32)
    """
    ends, length, total = boundaries(regions, cell_probability)
    size = np.bincount(regions.ravel())
    table = np.arange(len(size), dtype=np.int32)
    while True:
        one, two = np.concatenate([ends, ends[:, ::-1]]).T  # both directions
        boundary = np.tile(np.arange(len(ends)), 2)
        small = size[one] < smallest
        if not small.any():
            return table[regions]
        one, two, boundary = one[small], two[small], boundary[small]
        order = np.lexsort((-two, total[boundary], length[boundary], one))
        best = order[np.append(np.diff(one[order]) > 0, True)]  # the last one of each region
        parent = np.arange(len(size), dtype=np.int32)
        parent[one[best]] = two[best]
        both = parent[parent] == np.arange(len(size))  # two that chose each other: the first one stays
        parent = np.where(both, np.minimum(parent, np.arange(len(size))), parent).astype(np.int32)
        while (parent[parent] != parent).any():
            parent = parent[parent]
        table, size = parent[table], np.bincount(parent, size, len(size)).astype(np.int64)
        ends = np.sort(parent[ends], axis=1)
        apart = ends[:, 0] != ends[:, 1]
        ends, same = np.unique(ends[apart], axis=0, return_inverse=True)
        length, total = (
            np.bincount(same.ravel(), old[apart], len(ends)).astype(np.int64) for old in (length, total)
        )
