"""Weight map of the U-Net: class balance plus a term that is large in narrow gaps between two cells."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.compiled import compiled

# A key is one integer that describes a cell seen from a pixel: squared distance << 32 | label. Keys have the
# same order as distances and carry the label, and loops over them use the vector units of the processor.
PIXEL = np.int64(1 << 32)
LABEL = PIXEL - 1
LARGEST = 2.0**15  # px; the sum of two squares of it fits into the upper half of a key
STRIP = 64  # rows whose keys are held at a time, so that they stay in the cache
BLOCK = 64  # px of a row that are searched together, until no search can improve any of them

_Keys = npt.NDArray[np.int64]


def class_weights(frequencies: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the class balance w_c: the weight 1 / (K f_k) of each of K classes.

    With these weights the mean weight of a training pixel is 1.

    Parameters
    ----------
    frequencies : (k,) array_like
        Share f_k of each class in the training pixels.

    Returns
    -------
    (k,) array of float64
        Weight of each class.

    References
    ----------
    Section 3, equation 2 of [1]_: w_c.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    >>> from pipeline_lib.tasks.segmentation.weights import class_weights
    >>> class_weights([0.25, 0.75]).round(3)
    array([2.   , 0.667])
    """
    frequencies = np.asarray(frequencies, float)
    return 1.0 / (len(frequencies) * frequencies)


def weight_map(
    cells: np.ndarray, w_c: npt.ArrayLike, w0: float, sigma: float, target: np.ndarray | None = None
) -> npt.NDArray[np.float32]:
    """Return the weight map of one section.

    The weight is w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)) outside of cells and w_c in cells. d1 and d2 are
    the distances from a pixel to the nearest and to the second-nearest cell. The second term is 0 if the
    section has fewer than two cells. The result is exact to float32: the term is left out only where it is
    smaller than the rounding error of w_c.

    Parameters
    ----------
    cells : (y, x) array of int
        Instance labels without the separation border, 0 = background.
    w_c : (k,) array_like
        Weight of each class, see `class_weights`.
    w0 : float
        Factor of the second term. The paper uses 10.
    sigma : float
        Standard deviation of the second term (px). The paper uses about 5 px.
    target : (y, x) array of uint8, optional
        Class of each pixel. By default 1 in cells, 0 elsewhere.

    Returns
    -------
    (y, x) array of float32
        Weight of each pixel.

    Notes
    -----
    The two nearest different cells are found in two passes, like the separable distance transform of
    [2]_, but with two labels per pixel. The first pass goes down and up each
    column and finds the two nearest different cells in the column. The second pass goes along each row and
    combines the results of its columns. This is sufficient: the nearest pixel of the second-nearest cell lies
    in some column, and there it belongs to one of the two nearest different cells of that column.

    References
    ----------
    Section 3, equation 2 of [1]_; algorithm similar to [2]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    .. [2] P. Felzenszwalb, D. Huttenlocher, "Distance transforms of sampled functions", Theory of Computing
       8:415-428, 2012.

    Examples
    --------
    Two cells with a gap of 1 px between them, where d1 + d2 is 2 px:

    >>> import numpy as np
    >>> from pipeline_lib.tasks.segmentation.weights import weight_map
    >>> cells = np.array([[0, 0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 2, 2, 0], [0, 1, 1, 0, 2, 2, 0]])
    >>> weight_map(cells, w_c=[1.0, 1.0], w0=10, sigma=2).round(1)
    array([[1.2, 2.1, 3.7, 4.7, 3.7, 2.1, 1.2],
           [1.4, 1. , 1. , 7.1, 1. , 1. , 1.4],
           [1.4, 1. , 1. , 7.1, 1. , 1. , 1.4]], dtype=float32)
    """
    weights = np.empty(cells.shape, np.float32)
    w_c = np.asarray(w_c, float)
    reach = min(_reach(w_c, w0, sigma), 2.0 * sum(cells.shape))  # d1 + d2 never exceeds the latter
    classes = np.ascontiguousarray(cells > 0 if target is None else target, np.uint8)
    _fill(weights, np.ascontiguousarray(cells, np.uint32), classes, w_c, float(w0), float(sigma), reach)
    return weights


def halo(w_c: npt.ArrayLike, w0: float, sigma: float) -> int:
    """Return the width of the halo with which a block gets the same weights as in the whole section.

    The second term is left out where it is below 2^-26 w_c, a quarter of the rounding error of w_c in
    float32. That is where d1 + d2 > r = sigma sqrt(2 ln(2^26 w0 / w_c)). Background pixels have d1 >= 1, so
    only cells at a distance of at most r - 1 px matter. If more distant cells are left out, a sum above r can
    only grow, so its term stays negligible.

    Parameters
    ----------
    w_c : (k,) array_like
        Weight of each class.
    w0 : float
        Factor of the second term.
    sigma : float
        Standard deviation of the second term (px).

    Returns
    -------
    int
        Width of the halo on each side of a block (px).

    Examples
    --------
    >>> from pipeline_lib.tasks.segmentation.weights import halo
    >>> halo([2.0, 0.7], w0=10, sigma=5)
    30
    """
    return max(int(_reach(np.asarray(w_c, float), w0, sigma)) - 1, 0)


def _reach(w_c: npt.NDArray[np.float64], w0: float, sigma: float) -> float:
    """Return the largest d1 + d2 (px) at which the second term matters, 0 if it never does."""
    negligible = 2.0**-26 * (w_c[0] if len(w_c) == 2 else w_c.min())  # of two, w_c[1] is that of cells
    return min(sigma * math.sqrt(2 * math.log(w0 / negligible)), LARGEST) if w0 > negligible else 0.0


@compiled
def _fill(
    weights: npt.NDArray[np.float32],
    cells: npt.NDArray[np.uint32],
    target: npt.NDArray[np.uint8],
    w_c: npt.NDArray[np.float64],
    w0: float,
    sigma: float,
    reach: float,
) -> None:
    """Fill `weights`, one strip of rows with its halo at a time."""
    height, width = cells.shape
    halo = max(int(reach) - 1, 0)
    nothing = PIXEL * (halo + 1) ** 2  # key of a pixel that no cell is near to
    too_far = PIXEL * (int(max(reach - 1, 0) ** 2) + 1)  # the same for the second-nearest cell
    strip = min(max(STRIP, halo), height)
    one = np.full((strip, width + 2 * halo), nothing)  # with a halo on both sides
    two = one.copy()
    first, second = np.empty(width, np.int64), np.empty(width, np.int64)
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        _search_columns(cells, top, bottom, halo, one, two)
        for y in range(top, bottom):
            for x in range(width):
                first[x] = nothing
                second[x] = 0 if cells[y, x] else too_far
            _search_row(first, second, one[y - top], two[y - top])
            for x in range(width):
                d = math.sqrt(first[x] >> 32) + math.sqrt(second[x] >> 32)
                own = w_c[target[y, x]]
                if cells[y, x] or d > reach:
                    weights[y, x] = own
                else:
                    weights[y, x] = own + w0 * math.exp(-(d**2) / (2 * sigma**2))


@compiled
def _search_columns(
    cells: npt.NDArray[np.uint32], top: int, bottom: int, halo: int, one: _Keys, two: _Keys
) -> None:
    """Write the keys of the two nearest different cells in each column, for rows `top` to `bottom`."""
    height, width = cells.shape
    inside = slice(halo, halo + width)
    last, before = np.full(width, PIXEL * (halo + 1)), np.full(width, PIXEL * (halo + 1))
    for y in range(max(top - halo, 0), bottom):
        _advance(last, before, cells[y], halo)
        if y >= top:
            one[y - top, inside], two[y - top, inside] = last, before
    last[:] = before[:] = PIXEL * (halo + 1)
    for y in range(min(bottom + halo, height) - 1, top - 1, -1):
        _advance(last, before, cells[y], halo)
        if y < bottom:
            _merge_directions(one[y - top, inside], two[y - top, inside], last, before)


@compiled
def _advance(last: _Keys, before: _Keys, row: npt.NDArray[np.uint32], halo: int) -> None:
    """Move on by one pixel to `row` and update the keys of the last two different cells that were passed.

    These keys contain the distance, not its square.
    """
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
def _merge_directions(one: _Keys, two: _Keys, last: _Keys, before: _Keys) -> None:
    """Merge the keys found above (`one`, `two`) and below (`last`, `before`), and square the distances."""
    for x in range(one.size):
        near, far = _two_nearest(one[x], two[x], last[x])
        near, far = _two_nearest(near, far, before[x])
        one[x] = (near >> 32) ** 2 << 32 | near & LABEL
        two[x] = (far >> 32) ** 2 << 32 | far & LABEL


@compiled
def _search_row(first: _Keys, second: _Keys, one: _Keys, two: _Keys) -> None:
    """Lower the keys `first` and `second` of a row to those of the two nearest different cells.

    `one` and `two` are the keys found in each column, with a halo on both sides. Pixels whose `second` is 0
    lie in a cell; it stays 0 there.
    """
    halo = (one.size - first.size) // 2
    for start in range(0, first.size, BLOCK):
        stop = min(start + BLOCK, first.size)
        offset = 0
        farthest = PIXEL if _has_two_cells(one, two, start, stop + 2 * halo) else 0
        while PIXEL * offset**2 < farthest:
            farthest = _compare_columns(first, second, one, two, start, stop, halo, offset)
            offset += 1


@compiled
def _has_two_cells(one: _Keys, two: _Keys, start: int, stop: int) -> np.bool:
    """Return whether the keys of columns `start` to `stop` belong to two different cells or more."""
    lowest, highest, second = LABEL, np.int64(0), np.int64(0)
    for i in range(start, stop):
        x = np.uint64(i)  # an index that could be negative would prevent vector instructions
        label = one[x] & LABEL
        lowest = min(lowest, label if label else LABEL)
        highest = max(highest, label)
        second |= two[x] & LABEL
    return lowest < highest or second > 0


@compiled
def _compare_columns(
    first: _Keys, second: _Keys, one: _Keys, two: _Keys, start: int, stop: int, halo: int, offset: int
) -> np.int64:
    """Compare each pixel with the columns `offset` px left and right, and return the largest second key."""
    farthest = np.int64(0)
    squared = PIXEL * offset**2
    for i in range(start, stop):
        x, left, right = np.uint64(i), np.uint64(i + halo - offset), np.uint64(i + halo + offset)
        near, far = _two_nearest(first[x], second[x], one[left] + squared)
        near, far = _two_nearest(near, far, two[left] + squared)
        near, far = _two_nearest(near, far, one[right] + squared)
        near, far = _two_nearest(near, far, two[right] + squared)
        first[x], second[x] = near, far
        farthest = max(farthest, far)
    return farthest


@compiled
def _two_nearest(first: np.int64, second: np.int64, key: np.int64) -> tuple[np.int64, np.int64]:
    """Return the two lowest keys of different cells among three. The first two are of different cells."""
    if (first ^ key) & LABEL:
        second = min(second, max(first, key))
    return min(first, key), second
