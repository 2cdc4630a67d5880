"""Information scores: what is left to say about the truth once the prediction is known, and the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import f_score

# Entropies below are zero. The reference compares with exactly 0, so that rounding decides there.
NOTHING = 1e-12


@dataclass(frozen=True)
class Information:
    """Entropies in nats over the pixels inside true cells; NaN where there are none.

    vi_split = H(prediction | truth): a true cell in pieces. vi_merge = H(truth | prediction): true cells
    grown together. Their sum is the variation of information (Meila 2007).
    """

    h_truth: float
    h_predicted: float
    vi_split: float
    vi_merge: float

    @property
    def precision(self) -> float:
        """I / H(truth), which falls with mergers; 0 where the truth is a single cell."""
        return (self.h_truth - self.vi_merge) / self.h_truth if self.h_truth > NOTHING else 0.0

    @property
    def recall(self) -> float:
        """I / H(prediction), which falls with splits; 0 where the prediction is a single cell."""
        return (self.h_truth - self.vi_merge) / self.h_predicted if self.h_predicted > NOTHING else 0.0

    @property
    def f_score(self) -> float:
        """The challenge's V_info; 0 where either entropy is, even for a single cell found perfectly."""
        return f_score(self.precision, self.recall)


def v_info(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """V_info of labels (z, y, x) or (y, x): `Information.f_score`, mean over sections.

    0 for a section without cells. The challenge's V_info(thinned) is that of `thin_borders(prediction)`.
    """
    tables = contingency_tables(labels, predicted_labels)
    return float(np.mean([information(table).f_score for table in tables]))


def vi_split(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """H(prediction | truth) in nats of labels (z, y, x) or (y, x): mean over sections with cells, or NaN."""
    return mean_vi(contingency_tables(labels, predicted_labels))[0]


def vi_merge(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """H(truth | prediction) in nats of labels (z, y, x) or (y, x): mean over sections with cells, or NaN."""
    return mean_vi(contingency_tables(labels, predicted_labels))[1]


def mean_vi(tables: Sequence[ContingencyTable]) -> tuple[float, float]:
    """Mean vi_split and vi_merge over the sections that have true cells; NaN where none has."""
    entropies = [information(table) for table in tables if table.foreground.pixels]
    if not entropies:
        return float("nan"), float("nan")
    return float(np.mean([e.vi_split for e in entropies])), float(np.mean([e.vi_merge for e in entropies]))


def information(table: ContingencyTable) -> Information:
    """Entropies of one section, foreground-restricted.

    A pixel of a true cell predicted as background is a segment of its own, as in the Rand scores.
    """
    sums = table.foreground
    if sums.pixels == 0:
        return Information(*[float("nan")] * 4)
    singletons = sums.unassigned / sums.pixels * np.log(1 / sums.pixels)
    h_truth = -_sum_p_log_p(sums.truth, sums.pixels)
    h_predicted = -(_sum_p_log_p(sums.predicted, sums.pixels) + singletons)
    h_joint = -(_sum_p_log_p(sums.joint, sums.pixels) + singletons)
    # the difference of equal entropies can round to -1e-16
    return Information(
        h_truth, h_predicted, vi_split=max(h_joint - h_truth, 0.0), vi_merge=max(h_joint - h_predicted, 0.0)
    )


def _sum_p_log_p(sizes: np.ndarray, total: int) -> float:
    p = sizes / total
    return float((p * np.log(p)).sum())
