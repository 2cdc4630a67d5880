"""Scores of instance labels: is each true cell found as one cell of the right shape.

An object is a label within one section; the objects of all sections count together. Labels are integers of
one shape (z, y, x) or (y, x), 0 = background; other dtypes, negative labels and different shapes raise
`InputError`. A score without anything to count is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.errors import InputError
from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.information import mean_vi
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, pooled_error

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


@dataclass(frozen=True)
class Overlaps:
    """Every pair of a true and a predicted object that share a pixel, over all sections.

    truth, predicted: number of the object among all. covered: fraction of the true object that the predicted
    one covers. iou: intersection over union. n_truth, n_predicted: how many objects there are.
    """

    truth: np.ndarray
    predicted: np.ndarray
    covered: np.ndarray
    iou: np.ndarray
    n_truth: int
    n_predicted: int

    def seg(self) -> float:
        return _ratio(self.iou[self.covered > 0.5].sum(), self.n_truth)

    def average_precision(self, thresholds: Sequence[float]) -> float:
        matched = np.array([self._matched(threshold) for threshold in thresholds])
        union = self.n_truth + self.n_predicted - matched
        return float(np.mean(matched / union)) if union.all() else float("nan")

    def panoptic_quality(self) -> float:
        return _ratio(2 * self.iou[self.iou > 0.5].sum(), self.n_truth + self.n_predicted)

    def _matched(self, threshold: float) -> int:
        if not 0.5 <= threshold <= 1:
            raise InputError(f"IoU threshold {threshold}, expected 0.5..1: an object matches several below.")
        pairs = self.iou >= threshold
        # At exactly 0.5 an object can have two partners that have no other: such a star is one match.
        objects = np.unique(self.truth[pairs]).size + np.unique(self.predicted[pairs]).size
        return objects - np.count_nonzero(pairs)


def overlaps(tables: Sequence[ContingencyTable]) -> Overlaps:
    """The overlapping objects in the contingency tables of the sections."""
    parts, n_truth, n_predicted = [], 0, 0
    for table in tables:
        truth, truth_size = _objects(table.truth, table.count)
        predicted, predicted_size = _objects(table.predicted, table.count)
        pair = (table.truth > 0) & (table.predicted > 0)
        i, j, shared = truth[pair], predicted[pair], table.count[pair]
        parts.append(
            (
                i + n_truth,
                j + n_predicted,
                shared / truth_size[i],
                shared / (truth_size[i] + predicted_size[j] - shared),
            )
        )
        n_truth += truth_size.size
        n_predicted += predicted_size.size
    return Overlaps(*map(np.concatenate, zip(*parts, strict=True)), n_truth, n_predicted)


def _objects(labels: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each entry's object (-1 = background), and the sizes of the objects."""
    values, position = np.unique(labels, return_inverse=True)
    background = int(values[0] == 0)
    return position - background, np.bincount(position, count)[background:]


def seg(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """SEG of the cell tracking challenge (Maska et al. 2014): mean over true objects of their IoU.

    A true object counts with the predicted one that covers more than half of it, and as 0 where there is
    none. Predicted objects without a partner cost nothing.
    """
    return overlaps(contingency_tables(labels, predicted_labels)).seg()


def average_precision(
    labels: np.ndarray, predicted_labels: np.ndarray, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> float:
    """Mean over IoU `thresholds` (0.5..1) of TP / (TP + FP + FN); objects match where their IoU reaches it.

    The score of the 2018 Data Science Bowl (Caicedo et al. 2019), over the objects of all sections together.
    """
    return overlaps(contingency_tables(labels, predicted_labels)).average_precision(thresholds)


def panoptic_quality(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Panoptic quality (Kirillov et al. 2019): summed IoU of matches (IoU > 0.5) / (TP + FP / 2 + FN / 2)."""
    return overlaps(contingency_tables(labels, predicted_labels)).panoptic_quality()


def iou(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Intersection over union of the foreground, TP / (TP + FP + FN), whatever instance a pixel is of."""
    return _iou(_pixels(contingency_tables(labels, predicted_labels)))


def dice(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Dice coefficient of the foreground, 2 TP / (2 TP + FP + FN), whatever instance a pixel is of."""
    return _dice(_pixels(contingency_tables(labels, predicted_labels)))


def instance_scores(labels: np.ndarray, predicted_labels: np.ndarray) -> dict[str, float]:
    """Every score of labels against labels, metric -> value, from tables counted once."""
    tables = contingency_tables(labels, predicted_labels)
    objects, pixels = overlaps(tables), _pixels(tables)
    split, merge = mean_vi(tables)
    return {
        "seg": objects.seg(),
        "average_precision": objects.average_precision(IOU_THRESHOLDS),
        "average_precision_50": objects.average_precision([0.5]),
        "panoptic_quality": objects.panoptic_quality(),
        "iou": _iou(pixels),
        "dice": _dice(pixels),
        "rand_error": pooled_error(foreground_pairs, tables),
        "adapted_rand_error": pooled_error(foreground_squares, tables),
        "vi_split": split,
        "vi_merge": merge,
    }


def _pixels(tables: Sequence[ContingencyTable]) -> Counts:
    return reduce(add, map(pixel_counts, tables))


def _iou(pixels: Counts) -> float:
    return _ratio(pixels.tp, pixels.tp + pixels.fp + pixels.fn)


def _dice(pixels: Counts) -> float:
    return _ratio(2 * pixels.tp, 2 * pixels.tp + pixels.fp + pixels.fn)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
