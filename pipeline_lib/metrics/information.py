"""Information scores: what is left to say about the truth once the prediction is known, and the other way round."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable
from pipeline_lib.metrics.counts import f_score


@dataclass(frozen=True)
class Information:
    """Entropies in nats over the pixels inside true cells; NaN where there are none.

    vi_split = H(prediction | truth): a true cell in pieces. vi_merge = H(truth | prediction): true cells grown together.
    Their sum is the variation of information (Meila 2007).
    """

    h_truth: float
    h_predicted: float
    vi_split: float
    vi_merge: float

    @property
    def f_score(self) -> float:
        """The challenge's V_info: harmonic mean of I / H(truth) and I / H(prediction).

        0 where either entropy is zero, hence also for a perfect prediction of a single cell (as the reference). Entropies
        below 1e-12 count as zero; the reference compares with exactly 0, so that rounding decides there.
        """
        if not (self.h_truth > 1e-12 and self.h_predicted > 1e-12):
            return 0.0
        shared = self.h_truth - self.vi_merge
        return f_score(shared / self.h_truth, shared / self.h_predicted)


def information(table: ContingencyTable) -> Information:
    """Entropies of one section, foreground-restricted.

    A pixel of a true cell that is predicted as background forms a segment of its own, as in the Rand scores.
    """
    sums = table.foreground
    if sums.pixels == 0:
        return Information(*[float("nan")] * 4)
    singletons = sums.unassigned / sums.pixels * np.log(1 / sums.pixels)
    h_truth = -_sum_p_log_p(sums.truth, sums.pixels)
    h_predicted = -(_sum_p_log_p(sums.predicted, sums.pixels) + singletons)
    h_joint = -(_sum_p_log_p(sums.joint, sums.pixels) + singletons)
    # differences of equal entropies can round to -1e-16
    return Information(h_truth, h_predicted, vi_split=max(h_joint - h_truth, 0.0), vi_merge=max(h_joint - h_predicted, 0.0))


def _sum_p_log_p(sizes: np.ndarray, total: int) -> float:
    p = sizes / total
    return float((p * np.log(p)).sum())
