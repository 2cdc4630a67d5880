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

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.information import mean_vi
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, pooled_error
from pipeline_lib.runtime.errors import InputError

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))


INSTANCE_METRICS = ("seg", "average_precision", "average_precision_50", "panoptic_quality", "iou", "dice")


@dataclass(frozen=True)
class Objects:
    """What the true and predicted objects of one or more sections have to do with each other.

    truth, predicted: number of the object among all, for each pair of a true and a predicted object that
    may match: of a union at least half is shared, or of the true object more than half. covered: fraction of
    the true object that the predicted one covers. iou: intersection over union. n_truth, n_predicted: how
    many objects there are. pixels: of the foreground, whatever object they are of.
    """

    truth: np.ndarray
    predicted: np.ndarray
    covered: np.ndarray
    iou: np.ndarray
    n_truth: int
    n_predicted: int
    pixels: Counts

    def scores(self) -> dict[str, float]:
        """Values of the `INSTANCE_METRICS`."""
        values = (
            self.seg(),
            self.average_precision(IOU_THRESHOLDS),
            self.average_precision([0.5]),
            self.panoptic_quality(),
            self.pixel_iou(),
            self.dice(),
        )
        return dict(zip(INSTANCE_METRICS, values, strict=True))

    def seg(self) -> float:
        return _ratio(self.iou[self.covered > 0.5].sum(), self.n_truth)

    def average_precision(self, thresholds: Sequence[float]) -> float:
        matched = np.array([self._matched(threshold) for threshold in thresholds])
        union = self.n_truth + self.n_predicted - matched
        return float(np.mean(matched / union)) if union.all() else float("nan")

    def panoptic_quality(self) -> float:
        return _ratio(2 * self.iou[self.iou > 0.5].sum(), self.n_truth + self.n_predicted)

    def pixel_iou(self) -> float:
        return _ratio(self.pixels.tp, self.pixels.tp + self.pixels.fp + self.pixels.fn)

    def dice(self) -> float:
        return _ratio(2 * self.pixels.tp, 2 * self.pixels.tp + self.pixels.fp + self.pixels.fn)

    def _matched(self, threshold: float) -> int:
        if not 0.5 <= threshold <= 1:
            raise InputError(f"IoU threshold {threshold}, expected 0.5..1: an object matches several below.")
        pairs = self.iou >= threshold
        if threshold > 0.5:
            return np.count_nonzero(pairs)
        # At exactly 0.5 an object can have two partners that have no other: such a star is one match.
        objects = np.unique(self.truth[pairs]).size + np.unique(self.predicted[pairs]).size
        return objects - np.count_nonzero(pairs)


def count_objects(table: ContingencyTable) -> Objects:
    """Return the objects in the contingency table of a section."""
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
    """The objects of all sections together."""
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
    return pooled_objects(list(map(count_objects, tables)))


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
    return _of_tables(contingency_tables(labels, predicted_labels)).seg()


def average_precision(
    labels: np.ndarray, predicted_labels: np.ndarray, thresholds: Sequence[float] = IOU_THRESHOLDS
) -> float:
    """Mean over IoU `thresholds` (0.5..1) of TP / (TP + FP + FN); objects match where their IoU reaches it.

    The score of the 2018 Data Science Bowl (Caicedo et al. 2019), over the objects of all sections together.
    """
    return _of_tables(contingency_tables(labels, predicted_labels)).average_precision(thresholds)


def panoptic_quality(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Panoptic quality (Kirillov et al. 2019): summed IoU of matches (IoU > 0.5) / (TP + FP / 2 + FN / 2)."""
    return _of_tables(contingency_tables(labels, predicted_labels)).panoptic_quality()


def iou(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Intersection over union of the foreground, TP / (TP + FP + FN), whatever instance a pixel is of."""
    return _of_tables(contingency_tables(labels, predicted_labels)).pixel_iou()


def dice(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Dice coefficient of the foreground, 2 TP / (2 TP + FP + FN), whatever instance a pixel is of."""
    return _of_tables(contingency_tables(labels, predicted_labels)).dice()


def instance_scores(labels: np.ndarray, predicted_labels: np.ndarray) -> dict[str, float]:
    """Every score of labels against labels, metric -> value, from tables counted once."""
    tables = contingency_tables(labels, predicted_labels)
    split, merge = mean_vi(tables)
    return _of_tables(tables).scores() | {
        "rand_error": pooled_error(foreground_pairs, tables),
        "adapted_rand_error": pooled_error(foreground_squares, tables),
        "vi_split": split,
        "vi_merge": merge,
    }


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else float("nan")
