"""Which default boxes learn which objects, and what they learn.

Every object gets a default box of its own: the pair of object and default box with the largest overlap is
matched first, then the largest pair among the others, and so on. Then every other default box is matched with
the object that it overlaps most, if their intersection over union (IoU) is at least 0.5. That is what the
authors' program does [1]_. Programs that instead take the best default box of each object lose one of two
objects with the same best default box, which is common among crowded cells.

References
----------
Section 2.2 of [1]_.

.. [1] W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, "SSD: Single shot MultiBox
   detector", ECCV, LNCS 9905:21-37, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.boxes import Boxes, overlapping
from pipeline_lib.kernels.compiled import compiled

THRESHOLD = 0.5  # IoU from which a default box learns an object that has another default box already
ENOUGH = 0.9  # share of the training objects that default boxes should cover
SMALLEST = 1e-6  # IoU from which an object can have a default box of its own
#: Offsets are divided by these numbers, so that all of them have about the same variance.
VARIANCES = (0.1, 0.1, 0.2, 0.2)
LARGEST = 1000 / 16  # a box is at most that many times as high or wide as its default box
MARGIN = 2  # pixels of the output around a patch whose default boxes take part in the matching
NOT_LEARNED = -1  # class of a default box, or of an object, that is neither learned nor background


def match(
    defaults: Boxes, objects: Boxes, claim: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """Match default boxes with objects.

    Parameters
    ----------
    defaults : (n, 4) array of float64
        Default boxes (y0, x0, y1, x1).
    objects : (m, 4) array of float64
        Boxes of the objects.
    claim : (m,) array of bool, optional
        Objects that get a default box of their own. By default all.

    Returns
    -------
    (n,) array of int64
        Number of the object that each default box is matched with, or -1.

    Examples
    --------
    The first default box is the best one of both objects. Both get a default box nevertheless.

    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.matching import match
    >>> defaults = np.array([[0.0, 0, 10, 10], [0, 8, 10, 18], [30, 30, 40, 40]])
    >>> objects = np.array([[0.0, 0, 9, 10], [0, 1, 10, 11]])
    >>> match(defaults, objects)
    array([ 0,  1, -1])
    """
    default, number, iou = overlapping(defaults, objects, SMALLEST)
    # Of equal pairs, the first default box and the first object. Default boxes that overlap an object equally
    # are common; without rounding, the position of the patch would decide between them.
    order = np.argsort(-iou.round(9), kind="stable")
    served = np.zeros(len(objects), bool) if claim is None else ~claim
    return _match(default[order], number[order], iou[order], len(defaults), served, THRESHOLD)


@compiled
def _match(
    default: np.ndarray,
    number: np.ndarray,
    iou: np.ndarray,
    defaults: int,
    served: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Match from pairs in the order of descending overlap; `served` objects need no default box."""
    matched = np.full(defaults, -1, np.int64)
    for k in range(len(iou)):
        if matched[default[k]] < 0 and not served[number[k]]:
            matched[default[k]], served[number[k]] = number[k], True
    for k in range(len(iou)):
        if iou[k] < threshold:
            break
        if matched[default[k]] < 0:
            matched[default[k]] = number[k]
    return matched


def encode(objects: Boxes, defaults: Boxes) -> npt.NDArray[np.float64]:
    """Return the offsets of boxes from their default boxes, which a network learns.

    Parameters
    ----------
    objects : (n, 4) array of float64
        Boxes (y0, x0, y1, x1).
    defaults : (n, 4) array of float64
        Default box of each of them.

    Returns
    -------
    (n, 4) array of float64
        Distance of the centres (y, x) in units of the default box, and logarithm of the ratio of the heights
        and of the widths; each divided by its number in `VARIANCES`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.matching import encode
    >>> encode(np.array([[10.0, 12, 50, 32]]), np.array([[10.0, 10, 30, 30]])).round(4)
    array([[5.    , 1.    , 3.4657, 0.    ]])
    """
    size, own = objects[:, 2:] - objects[:, :2], defaults[:, 2:] - defaults[:, :2]
    shift = (objects[:, :2] + objects[:, 2:] - defaults[:, :2] - defaults[:, 2:]) / 2
    return np.hstack([shift / own, np.log(size / own)]) / VARIANCES


def decode(offsets: npt.NDArray[np.floating], defaults: Boxes) -> npt.NDArray[np.float64]:
    """Return the boxes that offsets describe (inverse of `encode`).

    Parameters
    ----------
    offsets : (n, 4) array of float
        Offsets, as `encode` returns them.
    defaults : (n, 4) array of float64
        Default box of each of them.

    Returns
    -------
    (n, 4) array of float64
        Boxes (y0, x0, y1, x1). A box has at most 62.5 times the height and width of its default box.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.matching import decode
    >>> decode(np.array([[5.0, 1, 0, 0]]), np.array([[10.0, 10, 30, 30]]))
    array([[20., 12., 40., 32.]])
    """
    own = defaults[:, 2:] - defaults[:, :2]
    scaled = offsets.astype(np.float64) * VARIANCES
    centre = (defaults[:, :2] + defaults[:, 2:]) / 2 + scaled[:, :2] * own
    half = own * np.exp(np.minimum(scaled[:, 2:], np.log(LARGEST))) / 2
    return np.hstack([centre - half, centre + half])


def grid(defaults: Boxes, step: int, rows: range, columns: range) -> Boxes:
    """Return the default boxes of an area of the network's output.

    Parameters
    ----------
    defaults : (a, 4) array of float64
        Default boxes of the output's pixel (0, 0).
    step : int
        Distance between pixels of the output (px).
    rows, columns : range
        Pixels of the output. They may be negative.

    Returns
    -------
    (a, rows, columns, 4) array of float64
        Default boxes, in px of the image.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.matching import grid
    >>> grid(np.array([[2.0, 2, 6, 6]]), 16, range(1), range(-1, 2))[0, 0, :, 1]
    array([-14.,   2.,  18.])
    """
    y, x = np.meshgrid(np.array(rows) * float(step), np.array(columns) * float(step), indexing="ij")
    return defaults[:, None, None] + np.stack([y, x, y, x], axis=-1)


def centres_of(defaults: Boxes) -> npt.NDArray[np.float64]:
    """Return the centres of default boxes, without rounding errors.

    Parameters
    ----------
    defaults : (n, 4) array of float64
        Default boxes, whose centres are multiples of half a pixel.

    Returns
    -------
    (n, 2) array of float64
        Row and column of the centre (px).
    """
    return np.asarray((defaults[:, :2] + defaults[:, 2:]).round() / 2)


def targets(
    defaults: Boxes,
    step: int,
    size: tuple[int, int],
    objects: Boxes,
    classes: npt.NDArray[np.integer],
    inside: tuple[tuple[float, float], tuple[float, float]] = ((-np.inf, np.inf), (-np.inf, np.inf)),
    annotated: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.bool_]] | None = None,
) -> npt.NDArray[np.float32]:
    """Return what the default boxes of a patch learn.

    A default box learns the same in all patches that contain it: default boxes around the patch take part in
    the matching, and an object gets a default box of its own only where its centre is. An object at the edge
    of a patch has its complete box, because the network sees the image beyond the edge. Only among objects
    that overlap each other, default boxes far away can decide which one has which default box.

    Parameters
    ----------
    defaults : (a, 4) array of float64
        Default boxes of the output's pixel (0, 0).
    step : int
        Distance between pixels of the output (px).
    size : tuple of int
        Number of rows and columns of the output.
    objects : (m, 4) array of float64
        Boxes of the objects in and around the patch, in px of the image from the first pixel of the output.
    classes : (m,) array of int
        Class of each object, from 1; -1 for an object that is neither learned nor background.
    inside : ((top, bottom), (left, right)), optional
        Rows and columns of the image. Default boxes whose centre lies beyond them learn nothing.
    annotated : callable, optional
        Function of the centres (row, column) of default boxes, in the same coordinates as `objects`, that
        returns which of them are annotated. Others learn nothing. By default all are annotated.

    Returns
    -------
    (5, a, rows, columns) array of float32
        Class of each default box (0 = background, -1 = learns nothing), and offsets of its object (0 for
        others).
    """
    boxes = grid(defaults, step, *(range(-MARGIN, count + MARGIN) for count in size))
    flat = boxes.reshape(-1, 4)
    middle = (objects[:, :2] + objects[:, 2:]) / 2
    first, last = -MARGIN * step, (np.array(size) + MARGIN) * step
    here = np.logical_and(middle >= first, middle < last)
    matched = match(flat, objects, np.asarray(here.all(axis=1)))
    has = matched >= 0
    found = np.zeros((5, len(flat)), np.float32)
    found[0, has] = classes[matched[has]]
    centres = centres_of(flat)
    for axis, (low, high) in enumerate(inside):
        found[0, (centres[:, axis] < low) | (centres[:, axis] >= high)] = NOT_LEARNED
    if annotated is not None:
        found[0, ~annotated(centres)] = NOT_LEARNED
    learned = np.flatnonzero(found[0] > 0)
    found[1:, learned] = encode(objects[matched[learned]], flat[learned]).T
    rows, columns = (slice(MARGIN, MARGIN + count) for count in size)
    return found.reshape(5, *boxes.shape[:3])[:, :, rows, columns]


def covered(
    strides: Sequence[int], shapes: Sequence[npt.NDArray[np.float64]], objects: Boxes
) -> npt.NDArray[np.bool_]:
    """Return which objects a default box covers with an IoU of at least 0.5.

    Of the default boxes with the same shape, the one whose centre is nearest has the largest IoU.

    Parameters
    ----------
    strides : sequence of int
        Distance between the default boxes of each level (px).
    shapes : sequence of (s, 2) array of float64
        Height and width of the default boxes of each level (px).
    objects : (n, 4) array of float64
        Boxes of the objects (px).

    Returns
    -------
    (n,) array of bool
        True for covered objects.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.matching import covered
    >>> covered([8], [np.array([[8.0, 8.0]])], np.array([[8.0, 8, 16, 16], [12, 12, 20, 20]]))
    array([ True, False])
    """
    centre, size = (objects[:, :2] + objects[:, 2:]) / 2, objects[:, 2:] - objects[:, :2]
    found = np.zeros(len(objects), bool)
    for stride, own in zip(strides, shapes, strict=True):
        nearest = (centre // stride + 0.5) * stride
        for shape in own:
            apart = np.abs(centre - nearest)
            shared = np.minimum((size + shape) / 2 - apart, np.minimum(size, shape)).clip(0).prod(axis=1)
            found |= shared >= THRESHOLD * (size.prod(axis=1) + shape.prod() - shared)
    return found
