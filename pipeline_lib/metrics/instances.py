"""Scores of instance labels: whether each true object is predicted as one object of the right shape.

An object is a label within one section. Objects of all sections are counted together. A score is NaN if there
is nothing to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.information import mean_vi
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, pooled_error
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored

#: Default thresholds of `average_precision`.
IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
#: Scores of instance labels in which higher is better, in the order of `instance_scores`.
INSTANCE_METRICS = ("seg", "average_precision", "average_precision_50", "panoptic_quality", "iou", "dice")
#: Numbers of objects that `instance_scores` returns: true, predicted, and matched at an IoU of 0.5.
CELL_COUNTS = ("cells_annotated", "cells_found", "cells_matched")


@dataclass(frozen=True)
class Objects:
    """Overlaps between the true and predicted objects of one or more sections.

    The arrays have one element for each pair of a true and a predicted object that can match: their
    intersection over union (IoU) is at least one half, or more than half of the true object is covered.

    Parameters
    ----------
    truth : (n,) array of int
        Number of the true object, from 0.
    predicted : (n,) array of int
        Number of the predicted object, from 0.
    covered : (n,) array of float
        Fraction of the true object that the predicted object covers.
    iou : (n,) array of float
        Intersection over union of the two objects.
    n_truth : int
        Number of true objects.
    n_predicted : int
        Number of predicted objects.
    pixels : Counts
        Pixels of the foreground, without regard to which object they belong to.
    """

    truth: np.ndarray
    predicted: np.ndarray
    covered: np.ndarray
    iou: np.ndarray
    n_truth: int
    n_predicted: int
    pixels: Counts

    def scores(self) -> dict[str, float]:
        """Return the values of the `INSTANCE_METRICS`."""
        values = (
            self.seg(),
            self.average_precision(IOU_THRESHOLDS),
            self.average_precision([0.5]),
            self.panoptic_quality(),
            self.pixel_iou(),
            self.dice(),
        )
        return dict(zip(INSTANCE_METRICS, values, strict=True))

    def counts(self) -> dict[str, float]:
        """Return the values of the `CELL_COUNTS`, as floats like all scores."""
        counts = self.n_truth, self.n_predicted, self._matched(0.5)
        return dict(zip(CELL_COUNTS, map(float, counts), strict=True))

    def seg(self) -> float:
        """Return SEG; see the function `seg`."""
        return _ratio(self.iou[self.covered > 0.5].sum(), self.n_truth)

    def average_precision(self, thresholds: Sequence[float]) -> float:
        """Return the average precision; see the function `average_precision`."""
        if not len(thresholds):
            raise InputError("thresholds are [], expected one or more IoU thresholds in 0.5..1.")
        matched = np.array([self._matched(threshold) for threshold in thresholds])
        union = self.n_truth + self.n_predicted - matched
        return float(np.mean(matched / union)) if union.all() else float("nan")

    def panoptic_quality(self) -> float:
        """Return the panoptic quality; see the function `panoptic_quality`."""
        return _ratio(2 * self.iou[self.iou > 0.5].sum(), self.n_truth + self.n_predicted)

    def pixel_iou(self) -> float:
        """Return the intersection over union of the foreground."""
        return _ratio(self.pixels.tp, self.pixels.tp + self.pixels.fp + self.pixels.fn)

    def dice(self) -> float:
        """Return the Dice coefficient of the foreground."""
        return _ratio(2 * self.pixels.tp, 2 * self.pixels.tp + self.pixels.fp + self.pixels.fn)

    def _matched(self, threshold: float) -> int:
        """Return the number of matches at an IoU threshold."""
        if not 0.5 <= threshold <= 1:
            raise InputError(
                f"IoU threshold is {threshold}, expected 0.5..1. Below, an object can have several matches."
            )
        pairs = self.iou >= threshold
        if threshold > 0.5:
            return int(np.count_nonzero(pairs))
        # At exactly 0.5 an object can have two partners, each of which has no other: this is one match.
        objects = np.unique(self.truth[pairs]).size + np.unique(self.predicted[pairs]).size
        return objects - int(np.count_nonzero(pairs))


def count_objects(table: ContingencyTable) -> Objects:
    """Return the overlaps of the objects in the contingency table of a section."""
    truth, truth_size = _objects(table.truth, table.count)
    predicted, predicted_size = _objects(table.predicted, table.count)
    pair = (table.truth > 0) & (table.predicted > 0)
    i, j, shared = truth[pair], predicted[pair], table.count[pair]
    covered, iou = shared / truth_size[i], shared / (truth_size[i] + predicted_size[j] - shared)
    match = (covered > 0.5) | (iou >= 0.5)
    return Objects(
        i[match],
        j[match],
        covered[match],
        iou[match],
        truth_size.size,
        predicted_size.size,
        pixel_counts(table),
    )


def pooled_objects(sections: Sequence[Objects]) -> Objects:
    """Return the overlaps of the objects of all sections."""
    n_truth, n_predicted = (
        np.cumsum([0, *(getattr(part, name) for part in sections)]) for name in ("n_truth", "n_predicted")
    )
    return Objects(
        np.concatenate([part.truth + before for part, before in zip(sections, n_truth, strict=False)]),
        np.concatenate(
            [part.predicted + before for part, before in zip(sections, n_predicted, strict=False)]
        ),
        np.concatenate([part.covered for part in sections]),
        np.concatenate([part.iou for part in sections]),
        int(n_truth[-1]),
        int(n_predicted[-1]),
        reduce(add, (part.pixels for part in sections)),
    )


def _of_tables(tables: Sequence[ContingencyTable]) -> Objects:
    """Return the overlaps of the objects of all sections, from their contingency tables."""
    return pooled_objects(list(map(count_objects, tables)))


def _objects(labels: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each entry's object (-1 = background) and the sizes of all objects (px)."""
    values, position = np.unique(labels, return_inverse=True)
    background = int(np.count_nonzero(values[:1] == 0))
    return position - background, np.bincount(position, count)[background:]


def seg(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return SEG of the Cell Tracking Challenge: the mean intersection over union (IoU) of true objects.

    Each true object is compared with the predicted object that covers more than half of it. It counts as 0 if
    there is none. Predicted objects without a true partner are not punished.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    predicted_labels : array of int
        Predicted instance labels of the same shape, 0 = background.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 to 1 (best). NaN without any true object. 0 for an empty prediction.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    SEG is defined in [1]_. Here an object of one section is not connected with those of other sections, and
    the mean is over the objects of all sections.

    .. [1] M. Maska et al., "A benchmark for comparison of cell tracking algorithms", Bioinformatics
       30(11):1609-1617, 2014.

    Examples
    --------
    The merged object covers both cells, with an IoU of 1/2 each. Neither half of the split cell covers more
    than half of it.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import seg
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> merged = np.ones_like(truth)
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> seg(truth, merged), seg(truth, split)
    (0.5, 0.5)
    """
    return _of_tables(contingency_tables(labels, predicted_labels, ignore=ignore)).seg()


def average_precision(
    labels: Stored,
    predicted_labels: Stored,
    thresholds: Sequence[float] = IOU_THRESHOLDS,
    *,
    ignore: Stored | None = None,
) -> float:
    """Return the mean of TP / (TP + FP + FN) over thresholds of the intersection over union (IoU).

    A true and a predicted object match if their IoU is at least the threshold. TP is the number of matches,
    FP the number of predicted and FN of true objects without a match. The default thresholds punish inexact
    outlines strongly; `thresholds=[0.5]` only asks whether each object is found.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    predicted_labels : array of int
        Predicted instance labels of the same shape, 0 = background.
    thresholds : sequence of float, optional
        IoU thresholds in 0.5..1. The default is 0.5, 0.55, ..., 0.95.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 to 1 (best). NaN if truth and prediction both have no object, 0 if only one of them has none.

    Raises
    ------
    InputError
        If the shapes differ, a label is negative or not an integer, or a threshold is outside 0.5..1.

    References
    ----------
    Score of the 2018 Data Science Bowl [1]_. There, scores of images are averaged; here, objects of all
    sections are counted together.

    .. [1] J. C. Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science
       Bowl", Nature Methods 16:1247-1253, 2019.

    Examples
    --------
    The merged object has an IoU of 1/2 with both cells and matches one of them: TP 1, FP 0, FN 1. The
    halves of the split cell have an IoU of 1/2 with it, and one of them matches: TP 2, FP 1, FN 0.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import average_precision
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> merged = np.ones_like(truth)
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> average_precision(truth, merged, [0.5])
    0.5
    >>> round(average_precision(truth, split, [0.5]), 4)
    0.6667
    >>> round(average_precision(truth, merged), 4), round(average_precision(truth, split), 4)
    (0.05, 0.2917)
    """
    return _of_tables(contingency_tables(labels, predicted_labels, ignore=ignore)).average_precision(
        thresholds
    )


def panoptic_quality(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the panoptic quality: the summed IoU of matches / (TP + FP / 2 + FN / 2).

    A true and a predicted object match if their intersection over union (IoU) is above one half. TP is the
    number of matches, FP the number of predicted and FN of true objects without a match. The score is the
    mean IoU of the matches multiplied by the F-score of the matching.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    predicted_labels : array of int
        Predicted instance labels of the same shape, 0 = background.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 to 1 (best). NaN if truth and prediction both have no object, 0 if only one of them has none.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    The score is defined in [1]_; here all objects are of one class.

    .. [1] A. Kirillov et al., "Panoptic segmentation", IEEE/CVF Conference on Computer Vision and Pattern
       Recognition, 9404-9413, 2019.

    Examples
    --------
    An IoU of exactly one half is no match: the merged object matches nothing, and only the cell that is not
    split matches, 1 / (1 + 2 / 2 + 1 / 2).

    >>> import numpy as np
    >>> from pipeline_lib.metrics import panoptic_quality
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> merged = np.ones_like(truth)
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> panoptic_quality(truth, merged), panoptic_quality(truth, split)
    (0.0, 0.4)
    """
    return _of_tables(contingency_tables(labels, predicted_labels, ignore=ignore)).panoptic_quality()


def iou(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the intersection over union (Jaccard index) of the foreground, TP / (TP + FP + FN) in pixels.

    The score does not depend on which object a pixel belongs to, so splits and mergers cost nothing. Pixels
    of all sections are counted together.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    predicted_labels : array of int
        Predicted instance labels of the same shape, 0 = background.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 to 1 (best). NaN if truth and prediction both have no foreground, 0 if only one of them has none.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import iou
    >>> truth = np.array([[1, 1, 0, 2, 2]])
    >>> iou(truth, np.array([[1, 1, 1, 1, 1]]))
    0.8
    """
    return _of_tables(contingency_tables(labels, predicted_labels, ignore=ignore)).pixel_iou()


def dice(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the Dice coefficient of the foreground, 2 TP / (2 TP + FP + FN) in pixels.

    The score does not depend on which object a pixel belongs to, so splits and mergers cost nothing. Pixels
    of all sections are counted together. It is the F-score of the foreground, 2 IoU / (1 + IoU).

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    predicted_labels : array of int
        Predicted instance labels of the same shape, 0 = background.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 to 1 (best). NaN if truth and prediction both have no foreground, 0 if only one of them has none.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import dice
    >>> truth = np.array([[1, 1, 0, 2, 2]])
    >>> round(dice(truth, np.array([[1, 1, 1, 1, 1]])), 4)
    0.8889
    """
    return _of_tables(contingency_tables(labels, predicted_labels, ignore=ignore)).dice()


def instance_scores(
    labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None
) -> dict[str, float]:
    """Return all scores of predicted instance labels at once, from contingency tables that are counted once.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    predicted_labels : array of int
        Predicted instance labels of the same shape, 0 = background.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    dict of str to float
        The `INSTANCE_METRICS` seg, average_precision, average_precision_50 (at an IoU of 0.5 only),
        panoptic_quality, iou and dice, where higher is better; and rand_error, adapted_rand_error, vi_split
        and vi_merge, where lower is better. Each is described at the function of its name. The `CELL_COUNTS`
        are numbers of objects in all sections: cells_annotated, cells_found, and cells_matched as in
        `average_precision` at an IoU of 0.5. Missed cells are cells_annotated - cells_matched, and false ones
        cells_found - cells_matched.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import instance_scores
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> merged = np.ones_like(truth)
    >>> for name, value in instance_scores(truth, merged).items():
    ...     print(name, round(value, 4))
    seg 0.5
    average_precision 0.05
    average_precision_50 0.5
    panoptic_quality 0.0
    iou 1.0
    dice 1.0
    rand_error 0.4
    adapted_rand_error 0.3333
    vi_split 0.0
    vi_merge 0.6931
    cells_annotated 2.0
    cells_found 1.0
    cells_matched 1.0
    """
    tables = contingency_tables(labels, predicted_labels, ignore=ignore)
    split, merge = mean_vi(tables)
    objects = _of_tables(tables)
    rand = {
        "rand_error": pooled_error(foreground_pairs, tables),
        "adapted_rand_error": pooled_error(foreground_squares, tables),
    }
    return objects.scores() | rand | {"vi_split": split, "vi_merge": merge} | objects.counts()


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
