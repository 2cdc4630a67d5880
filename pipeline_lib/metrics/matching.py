"""Match detections with true boxes, by the rules of COCO and of Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.boxes import Boxes, area, overlapping
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.metrics.detection import AT_50, BOX_IOU_THRESHOLDS, FALSE, LEFT_OUT, TRUE, BoxMatches
from pipeline_lib.runtime.errors import InputError


def match_boxes(
    truth: Boxes,
    found: Boxes,
    scores: npt.ArrayLike,
    *,
    truth_class: npt.ArrayLike | None = None,
    found_class: npt.ArrayLike | None = None,
    ignored: npt.ArrayLike | None = None,
    left_out: npt.ArrayLike | None = None,
    classes: int = 1,
    sizes: Sequence[tuple[float, float]] = (),
) -> BoxMatches:
    """Match the detections of one section with its true boxes.

    Detections match only objects of their class. COCO's rule: detections choose by descending score, those
    with equal scores in their order. Each takes the object with the largest IoU that is not taken, if this
    IoU is at least the threshold (the last of several). It takes an ignored object only if there is no other,
    and is then left out. An object can be taken once.

    The rule of Pascal VOC differs: each detection chooses the object with the largest IoU, even if it is
    taken (the first of several). If this IoU is at least 0.5, the first detection of an object is true and
    all others are false. Any number of detections can choose an ignored object; they are left out.

    Parameters
    ----------
    truth : (n, 4) array of float64
        True boxes (y0, x0, y1, x1), px.
    found : (m, 4) array of float64
        Boxes of the detections, px.
    scores : (m,) array_like of float
        Score of each detection.
    truth_class, found_class : array_like of int, optional
        Class of each true box and of each detection, 0 to `classes` - 1. The default is 0.
    ignored : (n,) array_like of bool, optional
        Objects that are neither counted nor, if a detection matches them, make it false: for example those
        that are too small or not completely annotated. The default is none.
    left_out : (m,) array_like of bool, optional
        Detections that are left out if they match no object: for example those where most pixels are not
        annotated. The default is none.
    classes : int, optional
        Number of classes.
    sizes : sequence of (float, float), optional
        Ranges of the size of an object for `BoxMatches.of_size`: smallest and largest square root of its
        area (px), both included. Objects outside a range are ignored, and so are detections without a match
        that are outside.

    Returns
    -------
    BoxMatches
        Outcome of each detection, in their order.

    Raises
    ------
    InputError
        If an array has another shape, a box or score is not finite, a box ends before it begins, or a class
        is not one of the classes.

    References
    ----------
    The rules are those of the evaluation programs of COCO [1]_ and Pascal VOC [2]_. Boxes of the latter
    include their last pixel; those here do not. COCO's program keeps at most 100 detections of an image; here
    all are kept.

    .. [1] T.-Y. Lin et al., "Microsoft COCO: common objects in context", ECCV, 740-755, 2014.
    .. [2] M. Everingham et al., "The Pascal visual object classes (VOC) challenge", International Journal of
       Computer Vision 88:303-338, 2010.

    Examples
    --------
    Both detections have the largest IoU with the first object. By COCO's rule, the second detection takes the
    second object; in Pascal VOC it is false.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import match_boxes
    >>> truth = np.array([[0.0, 0, 10, 10], [0, 4, 10, 14]])
    >>> found = np.array([[0.0, 0, 10, 10], [0, 1, 10, 11]])
    >>> matches = match_boxes(truth, found, [0.9, 0.8])
    >>> matches.partner
    array([0, 1])
    >>> float(matches.average_precision()[0]), matches.voc_average_precision()[1]
    (1.0, 0.5)
    """
    truth, found = _checked_boxes(truth, "truth"), _checked_boxes(found, "found")
    of_truth = _checked_classes(truth_class, "truth_class", len(truth), classes)
    of_found = _checked_classes(found_class, "found_class", len(found), classes)
    score = _checked_values(scores, "scores", len(found)).astype(np.float64)
    not_counted = _checked_values(ignored, "ignored", len(truth)).astype(bool)
    unknown = _checked_values(left_out, "left_out", len(found)).astype(bool)

    order = np.argsort(-score, kind="stable")
    i, j, iou = overlapping(found[order], truth, BOX_IOU_THRESHOLDS[0])
    same = of_found[order][i] == of_truth[j]
    i, j, iou = i[same], j[same], iou[same]
    first = np.searchsorted(i, np.arange(len(order) + 1))
    uncounted = _outside(truth, sizes) | not_counted
    partner = _greedy(first, j, iou, uncounted, np.array(BOX_IOU_THRESHOLDS))
    chosen, again = _chosen(first, i, j, iou)

    outside = _outside(found[order], sizes) | unknown[order]
    coco = np.stack([_outcomes(*size) for size in zip(partner, uncounted, outside, strict=True)])
    pascal = np.stack([_outcomes(chosen, *size) for size in zip(uncounted, outside, strict=True)])
    pascal[again & (pascal == TRUE)] = FALSE
    counted = [np.bincount(of_truth[~without], minlength=classes) for without in uncounted]
    rank = np.argsort(order)
    return BoxMatches(
        np.zeros(len(order), np.int64),
        of_found,
        score,
        partner[0, AT_50, rank],
        coco[:, :, rank],
        pascal[:, rank],
        np.stack(counted)[None],
    )


@compiled
def _greedy(
    first: np.ndarray, truth: np.ndarray, iou: np.ndarray, uncounted: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """Return the true box that each detection takes by COCO's rule (-1 = none).

    The detections are in the order of their scores, and the pairs of detection i are `first[i]` to
    `first[i + 1]`. The result has the axes range of sizes (as `uncounted`), threshold and detection.
    """
    partner = np.full((len(uncounted), len(thresholds), len(first) - 1), -1)
    for size in range(len(uncounted)):
        for level in range(len(thresholds)):
            free = np.ones(uncounted.shape[1], np.bool_)
            for i in range(len(first) - 1):
                best = -1
                for pair in range(first[i], first[i + 1]):
                    j = truth[pair]
                    if not free[j] or iou[pair] < thresholds[level]:
                        continue
                    if best >= 0:
                        worse = uncounted[size, j] and not uncounted[size, truth[best]]
                        same = uncounted[size, j] == uncounted[size, truth[best]]
                        # of equal overlaps, that of the last true box, as in COCO's program
                        if worse or (same and iou[pair] < iou[best]):
                            continue
                    best = pair
                if best >= 0:
                    partner[size, level, i] = truth[best]
                    free[truth[best]] = False
    return partner


def _chosen(
    first: np.ndarray, i: np.ndarray, truth: np.ndarray, iou: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the true box that each detection chooses in Pascal VOC, and whether one before chose it, too."""
    chosen, again = np.full(len(first) - 1, -1), np.ones(len(first) - 1, bool)
    paired = np.flatnonzero(np.diff(first))
    chosen[paired] = truth[np.lexsort((truth, -iou, i))[first[paired]]]
    again[np.unique(chosen, return_index=True)[1]] = False
    return chosen, again


def _outcomes(partner: np.ndarray, uncounted: np.ndarray, outside: np.ndarray) -> npt.NDArray[np.int8]:
    """Return what becomes of each detection in a range of sizes: true, false or left out.

    `partner` is the true box of each (-1 = none), `uncounted` says for each true box whether it is ignored,
    `outside` for each detection whether it is left out without a partner.
    """
    left_out = np.append(uncounted, False)[partner] | ((partner < 0) & outside)
    return np.where(left_out, LEFT_OUT, np.where(partner >= 0, TRUE, FALSE)).astype(np.int8)


def _outside(boxes: Boxes, sizes: Sequence[tuple[float, float]]) -> npt.NDArray[np.bool_]:
    """Return whether each box is outside of each range of sizes; the first range contains all."""
    areas = area(boxes)
    return np.array([(areas < low**2) | (areas > high**2) for low, high in ((0, np.inf), *sizes)])


def _checked_boxes(boxes: Boxes, name: str) -> Boxes:
    """Return the boxes as float64; raise `InputError` if they are not boxes."""
    checked = np.asarray(boxes, np.float64)
    if checked.ndim != 2 or checked.shape[1] != 4:
        raise InputError(
            f"{name}: found an array {checked.shape}, expected boxes (n, 4). Without any box, pass "
            "np.empty((0, 4))."
        )
    wrong = ~(np.isfinite(checked).all(axis=1) & (checked[:, :2] <= checked[:, 2:]).all(axis=1))
    if wrong.any():
        at = int(wrong.argmax())
        raise InputError(
            f"{name}: box {at} is {checked[at].tolist()}, expected finite y0, x0, y1, x1 with y0 <= y1 and "
            "x0 <= x1 (px). Check the order of the columns."
        )
    return checked


def _checked_classes(values: npt.ArrayLike | None, name: str, count: int, classes: int) -> np.ndarray:
    """Return the class of each box; raise `InputError` if one is not 0 to `classes` - 1."""
    checked = _checked_values(values, name, count)
    wrong = (checked < 0) | (checked >= classes) | (checked % 1 != 0)
    if wrong.any():
        raise InputError(
            f"{name}: box {int(wrong.argmax())} is of class {checked[wrong][0]}, expected whole numbers "
            f"from 0 to {classes - 1}. Pass the number of classes as `classes`."
        )
    return checked.astype(np.int64)


def _checked_values(values: npt.ArrayLike | None, name: str, count: int) -> np.ndarray:
    """Return a value for each box, 0 if there are none; raise `InputError` if one is not a finite number."""
    checked = np.zeros(count) if values is None else np.asarray(values)
    if checked.shape != (count,) or checked.dtype.kind not in "biuf" or not np.isfinite(checked).all():
        unknown = " with NaN or infinite values" if checked.dtype.kind == "f" else ""
        raise InputError(
            f"{name}: found an array {checked.shape} of {checked.dtype}{unknown}, expected a finite number "
            f"for each of {count} boxes. Pass both from the same table."
        )
    return checked
