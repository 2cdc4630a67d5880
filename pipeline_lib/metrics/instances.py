"""Scores of instance labels: is each true cell found as one cell of the right shape.

An object is a label within one section; objects of all sections count together. Every function takes integer labels of one
shape (z, y, x) or (y, x), 0 = background, and raises `InputError` for other dtypes, negative labels and different shapes.
A score without anything to count is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.errors import InputError
from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.information import information
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


@dataclass(frozen=True)
class Overlaps:
    """Every pair of a true and a predicted object that share a pixel, over all sections.

    truth, predicted: which object, numbered through all sections. shared: pixels in common, as a fraction of the true
    object. iou: intersection over union. n_truth, n_predicted: number of objects.
    """

    truth: np.ndarray
    predicted: np.ndarray
    shared: np.ndarray
    iou: np.ndarray
    n_truth: int
    n_predicted: int

    def seg(self) -> float:
        covered = self.shared > 0.5
        return _ratio(self.iou[covered].sum(), self.n_truth)

    def average_precision(self, iou: Sequence[float]) -> float:
        return float(np.mean([_ratio(tp, self.n_truth + self.n_predicted - tp) for tp in map(self._matched, iou)]))

    def panoptic_quality(self) -> float:
        return _ratio(2 * self.iou[self.iou > 0.5].sum(), self.n_truth + self.n_predicted)

    def _matched(self, iou: float) -> int:
        if not 0.5 <= iou <= 1:
            raise InputError(f"IoU threshold {iou}: expected 0.5..1, below which an object can match more than one.")
        pairs = self.iou >= iou
        # At exactly 0.5 an object can have two partners, never in a longer chain; a star of n pairs holds one match.
        return np.unique(self.truth[pairs]).size + np.unique(self.predicted[pairs]).size - np.count_nonzero(pairs)


def overlaps(tables: Sequence[ContingencyTable]) -> Overlaps:
    """Pairs of overlapping objects from the contingency table of each section."""
    parts, n_truth, n_predicted = [], 0, 0
    for table in tables:
        truth, truth_size = _objects(table.truth, table.count)
        predicted, predicted_size = _objects(table.predicted, table.count)
        pair = (table.truth > 0) & (table.predicted > 0)
        i, j, count = truth[pair], predicted[pair], table.count[pair]
        parts.append((i + n_truth, j + n_predicted, count / truth_size[i],
                      count / (truth_size[i] + predicted_size[j] - count)))
        n_truth += truth_size.size
        n_predicted += predicted_size.size
    return Overlaps(*(np.concatenate(column) for column in zip(*parts, strict=True)), n_truth, n_predicted)


def _objects(labels: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position of each entry's label among the objects (-1 = background), and the objects' sizes."""
    values, position = np.unique(labels, return_inverse=True)
    background = int(values[0] == 0)
    return position - background, np.bincount(position, count)[background:]


def seg(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """SEG of the cell tracking challenge (Maska et al. 2014): mean IoU of the true objects.

    A true object is compared with the predicted one that covers more than half of it and scores 0 where there is none.
    Predicted objects that match nothing cost nothing.
    """
    return overlaps(contingency_tables(labels, predicted_labels)).seg()


def average_precision(labels: np.ndarray, predicted_labels: np.ndarray, iou: Sequence[float] = IOU_THRESHOLDS) -> float:
    """Mean over `iou` of TP / (TP + FP + FN), objects matching where their IoU reaches the threshold (0.5..1).

    As in the 2018 Data Science Bowl (Caicedo et al. 2019), with objects pooled over sections.
    """
    return overlaps(contingency_tables(labels, predicted_labels)).average_precision(iou)


def panoptic_quality(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Panoptic quality (Kirillov et al. 2019): summed IoU of matches (IoU > 0.5) / (TP + FP / 2 + FN / 2)."""
    return overlaps(contingency_tables(labels, predicted_labels)).panoptic_quality()


def iou(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Intersection over union of the foreground, which instance a pixel belongs to left aside."""
    return _iou(_pooled(pixel_counts, contingency_tables(labels, predicted_labels)))


def dice(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Dice coefficient of the foreground, 2 TP / (2 TP + FP + FN): the F-score of its pixels."""
    return _dice(_pooled(pixel_counts, contingency_tables(labels, predicted_labels)))


def rand_error(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Foreground-restricted Rand error, 1 - F over pixel pairs pooled over sections; see `rand.foreground_pairs`.

    NaN without any true cell, where `isbi_scores` reports the reference's 0.
    """
    return _rand_error(foreground_pairs, contingency_tables(labels, predicted_labels))


def adapted_rand_error(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Adapted Rand error of SNEMI3D, 1 - F in the N^2 normalisation, pooled over sections; see `rand.foreground_squares`.

    Pixels of true cells predicted as background are segments of their own, as SNEMI3D and CREMI define it; scikit-image's
    function of this name takes them together as one more segment. NaN without any true cell.
    """
    return _rand_error(foreground_squares, contingency_tables(labels, predicted_labels))


def v_rand(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """V_rand, F in the N^2 normalisation, mean over sections; `v_rand_thin` after `thin_borders`."""
    return float(np.mean([foreground_squares(table).f_score for table in contingency_tables(labels, predicted_labels)]))


def v_info(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """V_info, F of the shared information, mean over sections; `v_info_thin` after `thin_borders`."""
    return float(np.mean([information(table).f_score for table in contingency_tables(labels, predicted_labels)]))


def vi_split(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """H(prediction | truth) in nats inside true cells, mean over sections with cells: true cells in pieces."""
    return _vi(contingency_tables(labels, predicted_labels))[0]


def vi_merge(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """H(truth | prediction) in nats inside true cells, mean over sections with cells: true cells grown together."""
    return _vi(contingency_tables(labels, predicted_labels))[1]


def instance_scores(labels: np.ndarray, predicted_labels: np.ndarray) -> dict[str, float]:
    """All scores of this module from one count: metric -> value."""
    tables = contingency_tables(labels, predicted_labels)
    objects, pixels, (split, merge) = overlaps(tables), _pooled(pixel_counts, tables), _vi(tables)
    return {
        "seg": objects.seg(),
        "average_precision": objects.average_precision(IOU_THRESHOLDS),
        "average_precision_50": objects.average_precision([0.5]),
        "panoptic_quality": objects.panoptic_quality(),
        "iou": _iou(pixels),
        "dice": _dice(pixels),
        "rand_error": _rand_error(foreground_pairs, tables),
        "adapted_rand_error": _rand_error(foreground_squares, tables),
        "vi_split": split,
        "vi_merge": merge,
    }


def _with_cells(tables: Sequence[ContingencyTable]) -> list[ContingencyTable]:
    return [table for table in tables if table.foreground.pixels]


def _pooled(counts: Callable[[ContingencyTable], Counts], tables: Sequence[ContingencyTable]) -> Counts:
    return reduce(add, map(counts, tables))


def _rand_error(counts: Callable[[ContingencyTable], Counts], tables: Sequence[ContingencyTable]) -> float:
    tables = _with_cells(tables)
    return 1 - _pooled(counts, tables).f_score if tables else float("nan")


def _vi(tables: Sequence[ContingencyTable]) -> tuple[float, float]:
    entropies = [information(table) for table in _with_cells(tables)]
    if not entropies:
        return float("nan"), float("nan")
    return float(np.mean([e.vi_split for e in entropies])), float(np.mean([e.vi_merge for e in entropies]))


def _iou(pixels: Counts) -> float:
    return _ratio(pixels.tp, pixels.tp + pixels.fp + pixels.fn)


def _dice(pixels: Counts) -> float:
    return _ratio(2 * pixels.tp, 2 * pixels.tp + pixels.fp + pixels.fn)


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
