"""Rand scores: do two pixels of one cell stay together, and two pixels of different cells apart."""

from __future__ import annotations

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, _sums
from pipeline_lib.metrics.counts import Counts


def foreground_pairs(table: ContingencyTable) -> Counts:
    """Pairs of pixels inside true cells; positive = both in one cell (the ISBI 2012 board, N (N - 1) / 2 normalisation).

    A pixel of a true cell that is predicted as background forms a segment of its own: with no other pixel it makes a
    predicted pair. `1 - f_score` is the Rand error (Arganda-Carreras et al. 2015); without any true cell it is 0.
    """
    sums = table.foreground
    return _counts(tp=_pairs(sums.joint), truth=_pairs(sums.truth), predicted=_pairs(sums.predicted),
                   total=_pairs(np.array([sums.pixels])))


def foreground_squares(table: ContingencyTable) -> Counts:
    """As `foreground_pairs` in the N^2 normalisation of the challenge's code since 2015: each pixel also pairs with itself.

    All counts are NaN, hence the F-score 0, where the section has no true cell.
    """
    sums = table.foreground
    if sums.pixels == 0:
        return Counts(*[float("nan")] * 4)
    return _counts(tp=_squares(sums.joint) + sums.unassigned, truth=_squares(sums.truth),
                   predicted=_squares(sums.predicted) + sums.unassigned, total=sums.pixels ** 2)


def unrestricted_pairs(table: ContingencyTable) -> Counts:
    """Pairs of all pixels, true and predicted background being clusters like any other; N (N - 1) / 2 normalisation."""
    return _counts(tp=_pairs(table.count), truth=_pairs(_sums(table.truth, table.count)),
                   predicted=_pairs(_sums(table.predicted, table.count)), total=_pairs(table.count.sum(keepdims=True)))


def _counts(tp: int, truth: int, predicted: int, total: int) -> Counts:
    return Counts(tp=tp, tn=total - truth - predicted + tp, fp=predicted - tp, fn=truth - tp)


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _squares(sizes: np.ndarray) -> int:
    return int((sizes * sizes).sum())
