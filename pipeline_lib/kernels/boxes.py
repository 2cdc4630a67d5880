"""Overlaps of boxes, and non-maximum suppression.

A box is a row (y0, x0, y1, x1) of an array: the first row and column of pixels that belong to it, and the
first ones after it (px). Its edges may lie between pixels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.runtime.types import Stored

Boxes = npt.NDArray[np.float64]
_REMOVED, _KEPT, _UNDECIDED = range(3)  # states of boxes


def overlaps(first: Boxes, second: Boxes) -> npt.NDArray[np.float64]:
    """Return the intersection over union (IoU) of all pairs of boxes.

    Parameters
    ----------
    first : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    second : (m, 4) array of float64
        Boxes (y0, x0, y1, x1).

    Returns
    -------
    (n, m) array of float64
        IoU of each pair, 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.kernels.boxes import overlaps
    >>> overlaps(np.array([[0.0, 0, 2, 2]]), np.array([[0.0, 1, 2, 3], [5, 5, 6, 6]])).round(3)
    array([[0.333, 0.   ]])
    """
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (bottom_right - top_left).clip(0).prod(axis=2)
    areas = (area(first)[:, None] + area(second)[None]) - shared
    return np.divide(shared, areas, out=np.zeros_like(shared), where=shared > 0)


def area(boxes: Boxes) -> npt.NDArray[np.float64]:
    """Return the area of each box.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).

    Returns
    -------
    (n,) array of float64
        Area (px). A box whose end lies before its beginning has none.
    """
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(axis=1)


def masked_area(boxes: Boxes, mask: Stored, section: int) -> npt.NDArray[np.float64]:
    """Return the part of the area of each box that the pixels of a mask cover.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    mask : (z, y, x) array
        Pixels other than 0 count. Numpy or h5py; it is read in blocks, and only where there are boxes.
    section : int
        Number of the section that the boxes are in.

    Returns
    -------
    (n,) array of float64
        Area (px). Pixels that a box contains partly count by this part; there are none beyond the section.

    Examples
    --------
    The box has half of the masked pixel.

    >>> import numpy as np
    >>> from pipeline_lib.kernels.boxes import masked_area
    >>> masked_area(np.array([[0.0, 0, 2, 2.5]]), np.array([[[0, 0, 1], [0, 0, 0]]]), 0)
    array([0.5])
    """
    found = np.zeros(len(boxes))
    for block in blocks((mask.shape[1], mask.shape[2])):
        rows, columns = block.write
        size = rows.stop - rows.start, columns.stop - columns.start
        y0, x0, y1, x1 = (boxes - 2 * [rows.start, columns.start]).clip(0, 2 * size).T
        inside = np.flatnonzero((y0 < y1) & (x0 < x1))
        if not len(inside):
            continue
        sums = np.zeros((size[0] + 1, size[1] + 1), np.int32)  # of all pixels above and to the left
        np.cumsum(np.asarray(mask[section, rows, columns]) != 0, axis=0, out=sums[1:, 1:])
        np.cumsum(sums, axis=1, out=sums)
        corners = [(y1, x1, 1), (y0, x1, -1), (y1, x0, -1), (y0, x0, 1)]
        for y, x, sign in corners if sums[-1, -1] else ():
            found[inside] += sign * _between(sums, y[inside], x[inside])
    return found


def _between(
    sums: np.ndarray, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate linearly between the values of an array, up to its last row and column."""
    i, j = (np.minimum(at.astype(int), side - 2) for at, side in zip((y, x), sums.shape, strict=True))
    above = sums[i, j] * (1 - x + j) + sums[i, j + 1] * (x - j)
    below = sums[i + 1, j] * (1 - x + j) + sums[i + 1, j + 1] * (x - j)
    return np.asarray(above * (1 - y + i) + below * (y - i))


def overlapping(
    first: Boxes, second: Boxes, threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the pairs of boxes with an IoU of at least a threshold.

    The time grows with the number of boxes and pairs, not with the product of the numbers of boxes.

    Parameters
    ----------
    first : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    second : (m, 4) array of float64
        Boxes (y0, x0, y1, x1).
    threshold : float
        Smallest IoU of a pair, above 0.

    Returns
    -------
    i : (k,) array of int64
        Number of the box in `first` of each pair, ascending.
    j : (k,) array of int64
        Number of the box in `second`, ascending for equal `i`.
    iou : (k,) array of float64
        IoU of each pair.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.kernels.boxes import overlapping
    >>> boxes = np.array([[0.0, 0, 2, 2], [0, 1, 2, 3], [5, 5, 6, 6]])
    >>> i, j, iou = overlapping(boxes, boxes, 0.3)
    >>> [*zip(i.tolist(), j.tolist(), iou.round(3).tolist())]
    [(0, 0, 1.0), (0, 1, 0.333), (1, 0, 0.333), (1, 1, 1.0), (2, 2, 1.0)]
    """
    sizes = (second[:, 2:] - second[:, :2]).max(axis=1, initial=1)
    octave = np.ceil(np.log2(sizes)).astype(int)
    found = [_of_octave(first, second, np.flatnonzero(octave == k), threshold) for k in np.unique(octave)]
    nothing = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    i, j, iou = (np.concatenate(parts) for parts in zip(nothing, *found, strict=True))
    ascending = np.lexsort((j, i))
    return i[ascending], j[ascending], iou[ascending]


def _of_octave(
    first: Boxes, second: Boxes, chosen: npt.NDArray[np.int64], threshold: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the pairs with some boxes of `second`, whose sizes differ by a factor of two at most.

    The corners of these are sorted by the cell of a grid that they lie in. No box is larger than a cell, so
    the corner of one that shares pixels with another box lies in few cells. With a single grid for boxes of
    all sizes, one large box would make all cells large.
    """
    own = second[chosen]
    side = max(float((own[:, 2:] - own[:, :2]).max()), 1.0)
    origin = np.minimum(first[:, :2].min(axis=0, initial=np.inf), own[:, :2].min(axis=0)) - side
    cells = ((own[:, :2] - origin) // side).astype(np.int64)
    columns = int(cells[:, 1].max()) + 1
    keys = cells[:, 0] * columns + cells[:, 1]
    order = np.argsort(keys, kind="stable")
    last = int(cells[:, 0].max())
    grid = first, own[order], keys[order], origin, side, last, columns, threshold
    count = _pairs(*grid, *(np.empty(0, np.int64),) * 2, np.empty(0))
    i, j, iou = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    _pairs(*grid, i, j, iou)
    return i, chosen[order[j]], iou


def suppress(
    boxes: Boxes, scores: npt.NDArray[np.floating], threshold: float, groups: npt.NDArray[np.integer]
) -> npt.NDArray[np.int64]:
    """Remove boxes that overlap a box with a higher score (greedy non-maximum suppression).

    Of equal scores, that of the box whose edges (y0, x0, y1, x1) come first counts as the higher one, and of
    equal boxes that of the smaller group. So the result does not depend on the order of the boxes. The time
    grows with the number of boxes, not with its square, if the threshold is well above 0.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    scores : (n,) array of float
        Score of each box.
    threshold : float
        A box is removed if its IoU with a kept box exceeds this number.
    groups : (n,) array of int
        Only boxes of the same group suppress each other, for example those of the same class.

    Returns
    -------
    (k,) array of int64
        Numbers of the boxes that are kept, by descending score.

    Examples
    --------
    The second box overlaps the first one. The third one overlaps only the second one, so it is kept.

    >>> import numpy as np
    >>> from pipeline_lib.kernels.boxes import suppress
    >>> boxes = np.array([[0.0, 0, 4, 4], [0, 1, 4, 5], [0, 3, 4, 7]])
    >>> suppress(boxes, np.array([0.9, 0.8, 0.7]), 0.3, np.zeros(3, int))
    array([0, 2])
    """
    return decide(boxes, scores, threshold, groups, np.zeros(len(boxes), bool))[0]


def decide(
    boxes: Boxes,
    scores: npt.NDArray[np.floating],
    threshold: float,
    groups: npt.NDArray[np.integer],
    unsure: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Do what `suppress` does while some boxes are not known yet, as far as their result is certain.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    scores : (n,) array of float
        Score of each box.
    threshold : float
        As for `suppress`.
    groups : (n,) array of int
        As for `suppress`.
    unsure : (n,) array of bool
        Boxes that can overlap a box that is not known yet.

    Returns
    -------
    kept : (k,) array of int64
        Numbers of the boxes that are kept, whatever the other boxes are, by descending score.
    undecided : (m,) array of int64
        Numbers of the boxes that have to be decided together with the other boxes, by descending score.

    Examples
    --------
    The first box can be removed by a box that is not known yet, and then the second one is kept.

    >>> import numpy as np
    >>> from pipeline_lib.kernels.boxes import decide
    >>> boxes = np.array([[0.0, 0, 4, 4], [0, 1, 4, 5], [9, 9, 12, 12]])
    >>> unsure = np.array([True, False, False])
    >>> decide(boxes, np.array([0.9, 0.8, 0.7]), 0.3, np.zeros(3, int), unsure)
    (array([2]), array([0, 1]))
    """
    order = np.lexsort((groups, *boxes.T[::-1], -scores))
    ranked = np.ascontiguousarray(boxes[order], np.float64)
    sizes = (ranked[:, 2:] - ranked[:, :2]).max(axis=1, initial=1)
    octaves = np.ceil(np.log2(sizes)).astype(np.int64)
    state = _greedy(ranked, octaves, groups[order], threshold, unsure[order])
    return order[state == _KEPT], order[state == _UNDECIDED]


def touches(boxes: Boxes, areas: Boxes) -> npt.NDArray[np.bool_]:
    """Return which boxes share pixels with one of some areas.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    areas : (m, 4) array of float64
        Areas, in the same form.

    Returns
    -------
    (n,) array of bool
        True for boxes that share pixels with an area.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.kernels.boxes import touches
    >>> touches(np.array([[0.0, 0, 4, 4], [4, 0, 8, 4]]), np.array([[0.0, 0, 4, 9]]))
    array([ True, False])
    """
    near = areas[areas[:, 0] < boxes[:, 2].max(initial=-np.inf)]
    return _touches(boxes, near)


@compiled
def _touches(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    found = np.zeros(len(boxes), np.bool_)
    for i in range(len(boxes)):
        y0, x0, y1, x1 = boxes[i]
        for j in range(len(areas)):
            if y0 < areas[j, 2] and areas[j, 0] < y1 and x0 < areas[j, 3] and areas[j, 1] < x1:
                found[i] = True
                break
    return found


@compiled
def _greedy(
    boxes: np.ndarray, octaves: np.ndarray, groups: np.ndarray, threshold: float, unsure: np.ndarray
) -> np.ndarray:
    """Return the state of each box; boxes with a higher score come first.

    A box is compared only with boxes near it that are not removed. For each octave of sizes there is a grid
    whose cells are as large as the largest of these boxes, and a box is in the cell of its first corner. So
    those that share pixels with a box are in a few cells. Cells with the same hash share a list: its other
    boxes share no pixels with the box, or are compared with it twice.
    """
    count = len(boxes)
    state = np.where(unsure, _UNDECIDED, _KEPT)
    lists = 1
    while lists < 2 * count:
        lists *= 2
    first, following = np.full(lists, -1, np.int32), np.empty(count, np.int32)
    present = np.unique(octaves)
    for i in range(count):
        box = boxes[i]
        size = max(box[2] - box[0], box[3] - box[1], 1.0)
        for octave in present:
            side = 2.0**octave
            # the IoU of two boxes is at most the ratio of their heights, and that of their widths
            if side < threshold * size or threshold * side / 2 > size:
                continue
            for row in range(math.floor(box[0] / side) - 1, math.floor(box[2] / side) + 1):
                for column in range(math.floor(box[1] / side) - 1, math.floor(box[3] / side) + 1):
                    j = first[_hash(octave, row, column, lists)]
                    while j >= 0 and state[i] != _REMOVED:
                        if groups[j] == groups[i] and _iou(box, boxes[j]) > threshold:
                            state[i] = _REMOVED if state[j] == _KEPT else _UNDECIDED
                        j = following[j]
                    if state[i] == _REMOVED:
                        break
                if state[i] == _REMOVED:
                    break
            if state[i] == _REMOVED:
                break
        if state[i] != _REMOVED:
            side = 2.0 ** octaves[i]
            own = _hash(octaves[i], math.floor(box[0] / side), math.floor(box[1] / side), lists)
            following[i], first[own] = first[own], i
    return state


@compiled
def _hash(octave: int, row: int, column: int, lists: int) -> int:
    """Return the number of the list of a cell, which is next to those of its neighbours in the same row.

    The number of lists is a power of two. So neighbours are near each other in memory, too.
    """
    return (row * 73856093 + column + octave * 83492791) & (lists - 1)


@compiled
def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two boxes."""
    height = min(a[2], b[2]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[1], b[1])
    if height <= 0 or width <= 0:
        return 0.0
    shared = height * width
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@compiled
def _pairs(
    first: np.ndarray,
    second: np.ndarray,
    keys: np.ndarray,
    origin: np.ndarray,
    side: float,
    last: int,
    columns: int,
    threshold: float,
    i_of: np.ndarray,
    j_of: np.ndarray,
    iou_of: np.ndarray,
) -> int:
    """Count the pairs of boxes, and write as many as the last three arrays have room for."""
    count = 0
    for i in range(len(first)):
        box = first[i]
        top, left = int((box[0] - origin[0]) // side) - 1, int((box[1] - origin[1]) // side) - 1
        bottom, right = int((box[2] - origin[0]) // side), int((box[3] - origin[1]) // side)
        left, right = max(left, 0), min(right, columns - 1)
        for row in range(max(top, 0), min(bottom, last) + 1 if left <= right else 0):
            begin = np.searchsorted(keys, row * columns + left)
            end = np.searchsorted(keys, row * columns + right, side="right")
            for j in range(begin, end):
                iou = _iou(box, second[j])
                if iou >= threshold:
                    if count < len(i_of):
                        i_of[count], j_of[count], iou_of[count] = i, j, iou
                    count += 1
    return count
