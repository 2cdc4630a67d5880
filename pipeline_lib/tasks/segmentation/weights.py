"""The U-Net's weight map: class balance plus a term that rises where two cells come close."""

from __future__ import annotations

import math

import numpy as np

from pipeline_lib.kernels.compiled import compiled

# A cell seen from a pixel is one integer, its key: squared distance << 32 | label. Keys compare as distances
# do and carry the label along, and loops over them run on the processor's vector units.
PIXEL = np.int64(1 << 32)
LABEL = PIXEL - 1
LARGEST = 2.0**15  # px; two squares of it fit into the upper half of a key
STRIP = 64  # rows whose keys are held at a time: they stay in the cache
BLOCK = 64  # px of a row that are searched together, as far as one of them needs


def class_weights(frequencies: np.ndarray) -> np.ndarray:
    """w_c per class, 1 / (K f_k): the mean weight of a training pixel is 1.

    `frequencies` (K,) are the classes' shares f_k of the training pixels.
    """
    return 1.0 / (len(frequencies) * np.asarray(frequencies, float))


def weight_map(cells: np.ndarray, w_c: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """w = w_c + w0 exp(-(d1 + d2)^2 / 2 sigma^2) of one section, float32 (y, x).

    Ronneberger et al. 2015, equation 2.

    `cells` (y, x) are instance labels without the separation border, 0 = background; `w_c` holds the weights
    of background and cell; d1, d2 are the distances (px) to the nearest and second-nearest cell, `sigma` in
    px. The second term is that of background pixels; where there are fewer than two cells it is 0. Exact to
    float32: the term is left out only where it is below the rounding of w_c.

    Two passes (the separable scheme of Felzenszwalb & Huttenlocher 2012, kept for two labels): down and up
    each column for its two nearest different cells, then along each row over those. The nearest pixel that is
    not of the nearest cell lies in some column, and there in one of the two nearest different cells.
    """
    weights = np.empty(cells.shape, np.float32)
    w_c = np.asarray(w_c, float)
    reach = min(_reach(w_c, w0, sigma), 2.0 * sum(cells.shape))  # no sum exceeds the second
    _weigh(weights, np.ascontiguousarray(cells, np.uint32), w_c, float(w0), float(sigma), reach)
    return weights


def halo(w_c: np.ndarray, w0: float, sigma: float) -> int:
    """Pixels around a block of a section that give it the very weights it has in the whole section.

    The term is left out where it is below 2^-26 w_c, a quarter of the rounding of w_c in float32: where
    d1 + d2 > r = sigma sqrt(2 ln(2^26 w0 / w_c)). On background d1 >= 1, so a term that counts is one of
    cells at most r - 1 px away. Without the others, sums beyond r only become longer.

    >>> halo(np.array([2.0, 0.7]), w0=10, sigma=5)
    30
    """
    return max(int(_reach(w_c, w0, sigma)) - 1, 0)


def _reach(w_c: np.ndarray, w0: float, sigma: float) -> float:
    """The largest d1 + d2 (px) whose term counts; 0 where none does."""
    negligible = 2.0**-26 * w_c[0]
    return min(sigma * math.sqrt(2 * math.log(w0 / negligible)), LARGEST) if w0 > negligible else 0.0


@compiled
def _weigh(weights, cells, w_c, w0, sigma, reach):
    """Fill `weights`, a strip of rows and its halo at a time."""
    height, width = cells.shape
    halo = max(int(reach) - 1, 0)
    nothing = PIXEL * (halo + 1) ** 2
    too_far = PIXEL * (int(max(reach - 1, 0) ** 2) + 1)  # for a second cell
    strip = min(max(STRIP, halo), height)
    one = np.full((strip, width + 2 * halo), nothing)  # with a halo at both sides
    two = one.copy()
    first, second = np.empty(width, np.int64), np.empty(width, np.int64)
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        _along_columns(cells, top, bottom, halo, one, two)
        for y in range(top, bottom):
            for x in range(width):
                first[x] = nothing
                second[x] = 0 if cells[y, x] else too_far
            _along_row(first, second, one[y - top], two[y - top])
            for x in range(width):
                d = math.sqrt(first[x] >> 32) + math.sqrt(second[x] >> 32)
                if cells[y, x]:
                    weights[y, x] = w_c[1]
                elif d > reach:
                    weights[y, x] = w_c[0]
                else:
                    weights[y, x] = w_c[0] + w0 * math.exp(-(d**2) / (2 * sigma**2))


@compiled
def _along_columns(cells, top, bottom, halo, one, two):
    """Keys of the nearest two different cells in its column for each pixel of the rows `top` to `bottom`."""
    height, width = cells.shape
    inside = slice(halo, halo + width)
    last, before = np.full(width, PIXEL * (halo + 1)), np.full(width, PIXEL * (halo + 1))
    for y in range(max(top - halo, 0), bottom):
        _step(last, before, cells[y], halo)
        if y >= top:
            one[y - top, inside], two[y - top, inside] = last, before
    last[:] = before[:] = PIXEL * (halo + 1)
    for y in range(min(bottom + halo, height) - 1, top - 1, -1):
        _step(last, before, cells[y], halo)
        if y < bottom:
            _join(one[y - top, inside], two[y - top, inside], last, before)


@compiled
def _step(last, before, row, halo):
    """Go on by one pixel to `row` with the keys, of plain distances, of the last two different cells met."""
    for x in range(row.size):
        near = min(last[x] + PIXEL, PIXEL * (halo + 1))
        far = min(before[x] + PIXEL, PIXEL * (halo + 1))
        label = np.int64(row[x])
        if label:
            if near & LABEL != label:
                far = near
            near = label
        last[x], before[x] = near, far


@compiled
def _join(one, two, last, before):
    """Put together what was met from above and from below, and square the distances."""
    for x in range(one.size):
        near, far = _meet(one[x], two[x], last[x])
        near, far = _meet(near, far, before[x])
        one[x] = (near >> 32) ** 2 << 32 | near & LABEL
        two[x] = (far >> 32) ** 2 << 32 | far & LABEL


@compiled
def _along_row(first, second, one, two):
    """Lower the keys `first`, `second` of a row to those of the nearest two different cells.

    `one`, `two` are those within each column, with a halo at both sides. Where `second` is 0 it stays.
    """
    halo = (one.size - first.size) // 2
    for start in range(0, first.size, BLOCK):
        stop = min(start + BLOCK, first.size)
        offset = 0
        farthest = PIXEL if _two_cells(one, two, start, stop + 2 * halo) else 0
        while PIXEL * offset**2 < farthest:
            farthest = _look_aside(first, second, one, two, start, stop, halo, offset)
            offset += 1


@compiled
def _two_cells(one, two, start, stop):
    """Whether the keys of two different cells are among these."""
    lowest, highest, second = LABEL, np.int64(0), np.int64(0)
    for i in range(start, stop):
        x = np.uint64(i)  # an index that might be negative would keep the loop from the vector units
        label = one[x] & LABEL
        lowest = min(lowest, label if label else LABEL)
        highest = max(highest, label)
        second |= two[x] & LABEL
    return lowest < highest or second > 0


@compiled
def _look_aside(first, second, one, two, start, stop, halo, offset):
    """Meet the keys `offset` px to the left and to the right; returns the largest second key."""
    farthest = np.int64(0)
    squared = PIXEL * offset**2
    for i in range(start, stop):
        x, left, right = np.uint64(i), np.uint64(i + halo - offset), np.uint64(i + halo + offset)
        near, far = _meet(first[x], second[x], one[left] + squared)
        near, far = _meet(near, far, two[left] + squared)
        near, far = _meet(near, far, one[right] + squared)
        near, far = _meet(near, far, two[right] + squared)
        first[x], second[x] = near, far
        farthest = max(farthest, far)
    return farthest


@compiled
def _meet(first, second, key):
    """The lowest keys of two different cells among three; `first` and `second` are of different ones."""
    if (first ^ key) & LABEL:
        second = min(second, max(first, key))
    return min(first, key), second
