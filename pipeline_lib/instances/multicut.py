"""Multicut: small regions join if the probability along all of their common boundary is high."""

from __future__ import annotations

from heapq import heappop, heappush

import numba
import numpy as np
import numpy.typing as npt
from numba.typed import Dict

from pipeline_lib.instances.regions import boundaries
from pipeline_lib.instances.watershed import LEVELS, grow_seeds, level_of
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import equal_components, root

#: Weights of pixels in a row or column for the mean whose maxima are seeds of superpixels. Patterns that
#: repeat every 2 or 4 px, which some networks make, have no maxima in it.
WEIGHTS = (1, 2, 2, 2, 1)
#: The mean is rounded down to a multiple of 1 / STEPS, so that noise gives few seeds.
STEPS = 20
#: Pixels with at most this cell probability are surely background. Probabilities of boundaries are at least
#: this far from 0 and 1, so that their odds are finite.
SURE = 1e-3
#: Gains are multiples of 1 / UNIT: sums of integers are exact, whatever their order.
UNIT = 2**16


def multicut(cell_probability: np.ndarray, beta: float = 0.5) -> npt.NDArray[np.int32]:
    """Return the regions of the multicut of a section.

    The section is divided into superpixels (`superpixels`). Two of them have a common boundary: the pairs of
    neighbouring pixels that belong to one each. The probability q that both are in the same cell is the mean
    over all pairs of the lower cell probability of the two pixels. The gain of joining them is the number of
    pairs times log(q / (1 - q)) + log((1 - beta) / beta). Superpixels are joined to regions so that the sum
    of all gains within the regions is high (`join`).

    Parameters
    ----------
    cell_probability : (y, x) array of float
        Cell probability of one section, 0..1.
    beta : float, default 0.5
        Probability q from which on joining has a gain, above 0 and below 1. Higher values give more regions.

    Returns
    -------
    (y, x) array of int32
        0 = surely background (a cell probability of at most 0.001), 1..n = regions. Each is 4-connected.

    Notes
    -----
    The multicut problem, and log odds with a prior beta as costs, are those of Andres et al. [1]_.

    References
    ----------
    .. [1] B. Andres, T. Kroeger, K. L. Briggman, W. Denk, N. Korogod, G. Knott, U. Koethe, F. A. Hamprecht,
       "Globally optimal closed-surface segmentation for connectomics", ECCV, 778-791, 2012.

    Examples
    --------
    Two cells, and a membrane with a gap between them. Their common boundary has six pairs of pixels. Four of
    them are in the membrane, so the cells are separate.

    >>> import numpy as np
    >>> from pipeline_lib.instances.multicut import multicut
    >>> probability = np.full((6, 15), 0.95)
    >>> probability[[0, 1, 4, 5], 7] = 0.05
    >>> multicut(probability)[2]
    array([1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2], dtype=int32)
    >>> int(multicut(probability, beta=0.2).max())
    1
    """
    cell_probability = np.ascontiguousarray(cell_probability, np.float32)
    regions = superpixels(cell_probability)
    ends, length, total = boundaries(regions, cell_probability)
    joined = join(int(regions.max()) + 1, ends, gains(length, total, beta))
    return joined[regions]


def superpixels(cell_probability: np.ndarray) -> npt.NDArray[np.int32]:
    """Divide a section into superpixels.

    The seeds of superpixels are the regional maxima of a mean of the cell probability: 4-connected pixels
    with the same mean, all of whose neighbours have a lower one. The mean is that over 5 x 5 px, with the
    weights 1, 2, 2, 2, 1 in both directions, rounded down to a multiple of 0.05. At the edge of the section,
    it is that of fewer pixels. Seeds then grow over all pixels with a cell probability above 0.001
    (`watershed.grow_seeds`). Where these are connected to no seed, they are a superpixel of their own.

    Parameters
    ----------
    cell_probability : (y, x) array of float
        Cell probability of one section, 0..1.

    Returns
    -------
    (y, x) array of int32
        0 = surely background, 1..n = superpixels.
    """
    cell_probability = np.ascontiguousarray(cell_probability, np.float32)
    means = _means(cell_probability)
    components = equal_components(means)
    inside = cell_probability > SURE
    seeds = _is_maximum(means, components)[components] & inside
    components = equal_components(inside.view(np.uint8))
    seeded = np.zeros(components.max() + 1, bool)
    seeded[components[seeds]] = True
    seeds |= inside & ~seeded[components]
    del means, components
    return grow_seeds(cell_probability, seeds, inside)


@compiled
def _means(probability: np.ndarray) -> np.ndarray:
    """Return the rounded mean around each pixel, plus 1 (uint8)."""
    height, width = probability.shape
    levels = np.empty((height, width), np.uint16)
    for y in range(height):
        for x in range(width):
            levels[y, x] = level_of(probability[y, x], LEVELS - 1)
    means = np.empty((height, width), np.uint8)
    columns = np.empty(width, np.int64)  # sums over the rows around a row
    for y in range(height):
        columns[:] = 0
        rows = 0  # sum of their weights
        for k in range(len(WEIGHTS)):
            row = y + k - len(WEIGHTS) // 2
            if 0 <= row < height:
                rows += WEIGHTS[k]
                for x in range(width):
                    columns[x] += WEIGHTS[k] * levels[row, x]
        for x in range(width):
            total = weight = 0
            for k in range(len(WEIGHTS)):
                column = x + k - len(WEIGHTS) // 2
                if 0 <= column < width:
                    weight += WEIGHTS[k] * rows
                    total += WEIGHTS[k] * columns[column]
            means[y, x] = 1 + STEPS * total // (weight * (LEVELS - 1))
    return means


@compiled
def _is_maximum(means: np.ndarray, components: np.ndarray) -> np.ndarray:
    """Return for each component (bool) whether all pixels next to it have a lower mean."""
    height, width = means.shape
    highest = np.ones(components.max() + 1, np.bool_)
    for y in range(height):
        for x in range(width):
            for dy, dx in ((0, 1), (1, 0)):
                if y + dy < height and x + dx < width:
                    one, two = means[y, x], means[y + dy, x + dx]
                    if one < two:
                        highest[components[y, x]] = False
                    elif two < one:
                        highest[components[y + dy, x + dx]] = False
    return highest


def gains(length: np.ndarray, total: np.ndarray, beta: float) -> npt.NDArray[np.int64]:
    """Return the gain of joining the two regions of each boundary, in units of 1 / 65,536.

    Parameters
    ----------
    length : (n,) array of int64
        Number of pairs of pixels of each boundary.
    total : (n,) array of int64
        Sum of the lower cell probability of each pair, as one of 65,536 levels.
    beta : float
        Probability from which on joining has a gain.

    Returns
    -------
    (n,) array of int64
        Gains.
    """
    together = np.clip(total / (length * (LEVELS - 1)), SURE, 1 - SURE)
    odds = np.log(together / (1 - together)) + np.log((1 - beta) / beta)
    return np.rint(UNIT * odds).astype(np.int64) * length


@compiled
def join(nodes: int, ends: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Join the nodes of a graph so that the sum of gains within the joined ones is high.

    This is greedy additive edge contraction: the two nodes whose edge has the highest gain become one, and
    their edges to the same node become one edge with the sum of their gains, until no gain is above 0. Of
    equal gains, the edge with the smallest number comes first; a sum has the smaller one of its numbers.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    ends : (n, 2) array of int32
        The two nodes of each edge. Each pair of nodes has at most one edge.
    gains : (n,) array of int64
        Gain if the two nodes of each edge are joined.

    Returns
    -------
    (nodes,) array of int32
        For each node a number, the same one for joined nodes. The numbers are 0, 1, ... in the order of the
        nodes.

    Notes
    -----
    The algorithm is that of Keuper et al. [1]_. The node with fewer edges gives them to the other one, so
    each edge moves at most log n times, and the time is at most of the order n (log n)^2.

    References
    ----------
    .. [1] M. Keuper, E. Levinkov, N. Bonneel, G. Lavoue, T. Brox, B. Andres, "Efficient decomposition of
       image and mesh graphs by lifted multicuts", ICCV, 1751-1759, 2015.
    """
    ends, gains = ends.copy(), gains.copy()
    parent = np.arange(nodes).astype(np.int32)
    first, degree = np.full(nodes, -1, np.int32), np.zeros(nodes, np.int32)
    following = np.empty(2 * len(ends), np.int32)  # in the list of a node: edge and side, as 2 * edge + side
    number = Dict.empty(numba.int64, numba.int32)  # of the edge of two nodes
    heap = [(np.int64(0), np.int32(0)) for _ in range(0)]
    for edge in range(len(ends)):
        number[_pair(ends[edge, 0], ends[edge, 1])] = np.int32(edge)
        for side in range(2):
            _link(2 * edge + side, ends[edge, side], first, following, degree)
        if gains[edge] > 0:
            heappush(heap, (-gains[edge], np.int32(edge)))
    while len(heap):
        negative, best = heappop(heap)
        one, two = ends[best]
        if one < 0 or gains[best] != -negative:  # it became part of another edge, or its gain changed
            continue
        kept, gone = (one, two) if degree[one] >= degree[two] else (two, one)
        parent[gone] = kept
        number.pop(_pair(one, two))
        ends[best] = -1
        item = first[gone]
        while item >= 0:
            edge, side, after = item // 2, item % 2, following[item]
            other = ends[edge, 1 - side]
            if other >= 0:
                number.pop(_pair(gone, other))
                pair = _pair(kept, other)
                same = number.get(pair, np.int32(edge))
                if edge <= same:
                    number[pair] = np.int32(edge)
                    ends[edge, side] = kept
                    _link(item, kept, first, following, degree)
                if edge != same:
                    first_one, second = min(edge, same), max(edge, same)
                    gains[first_one] += gains[second]
                    ends[second] = -1
                    if gains[first_one] > 0:
                        heappush(heap, (-gains[first_one], np.int32(first_one)))
            item = after
    joined = np.full(nodes, -1, np.int32)
    used = 0
    for node in range(nodes):
        own = root(parent, node)
        if joined[own] < 0:
            joined[own] = used
            used += 1
        parent[node] = own
    return joined[parent]


@compiled
def _pair(one: int, two: int) -> int:
    """Return one integer for two nodes, in any order."""
    return (min(one, two) << 32) | max(one, two)


@compiled
def _link(item: int, node: int, first: np.ndarray, following: np.ndarray, degree: np.ndarray) -> None:
    """Add an edge and side to the list of a node."""
    following[item] = first[node]
    first[node] = item
    degree[node] += 1
