"""Rand scores: do two pixels of one cell stay together, and two pixels of different cells apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables, sums_by
from pipeline_lib.metrics.counts import Counts


def rand_error(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Foreground-restricted Rand error of labels (z, y, x) or (y, x).

    1 - F of `foreground_pairs` over all sections; NaN without any true cell, where `isbi_scores` reports the
    reference's 0.
    """
    return pooled_error(foreground_pairs, contingency_tables(labels, predicted_labels))


def adapted_rand_error(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """Adapted Rand error of SNEMI3D for labels (z, y, x) or (y, x).

    1 - F of `foreground_squares` over all sections; NaN without any true cell. Pixels of true cells predicted
    as background are segments of their own, as SNEMI3D and CREMI define it; scikit-image's function of this
    name takes them for one segment and counts N (N - 1) / 2 pairs.
    """
    return pooled_error(foreground_squares, contingency_tables(labels, predicted_labels))


def v_rand(labels: np.ndarray, predicted_labels: np.ndarray) -> float:
    """V_rand of labels (z, y, x) or (y, x): F of `foreground_squares`, mean over sections.

    0 for a section without cells. The challenge's V_rand(thinned) is that of `thin_borders(prediction)`.
    """
    tables = contingency_tables(labels, predicted_labels)
    return float(np.mean([foreground_squares(table).f_score for table in tables]))


def pooled_error(counts: Callable[[ContingencyTable], Counts], tables: Sequence[ContingencyTable]) -> float:
    """1 - F of `counts` summed over the sections that have true cells; NaN where none has."""
    with_cells = [counts(table) for table in tables if table.foreground.pixels]
    return 1 - reduce(add, with_cells).f_score if with_cells else float("nan")


def foreground_pairs(table: ContingencyTable) -> Counts:
    """Pairs of pixels inside true cells, N (N - 1) / 2; positive = both in one cell: the ISBI 2012 board.

    A pixel of a true cell predicted as background is a segment of its own and forms no predicted pair. `1 -
    f_score` is the Rand error (Arganda-Carreras et al. 2015); by its definition it is 0 without any true
    cell.
    """
    sums = table.foreground
    return _counts(
        tp=_pairs(sums.joint),
        truth=_pairs(sums.truth),
        predicted=_pairs(sums.predicted),
        total=_pairs(np.array([sums.pixels])),
    )


def foreground_squares(table: ContingencyTable) -> Counts:
    """As `foreground_pairs` with N^2, where a pixel also pairs with itself: the challenge's code since 2015.

    Without any true cell all counts are NaN and the F-score is 0.
    """
    sums = table.foreground
    if sums.pixels == 0:
        return Counts(*[float("nan")] * 4)
    return _counts(
        tp=_squares(sums.joint) + sums.unassigned,
        truth=_squares(sums.truth),
        predicted=_squares(sums.predicted) + sums.unassigned,
        total=sums.pixels**2,
    )


def unrestricted_pairs(table: ContingencyTable) -> Counts:
    """Pairs of all pixels, N (N - 1) / 2; true and predicted background are clusters like any other."""
    return _counts(
        tp=_pairs(table.count.astype(np.int64)),
        truth=_pairs(sums_by(table.truth, table.count)),
        predicted=_pairs(sums_by(table.predicted, table.count)),
        total=_pairs(table.count.sum(keepdims=True, dtype=np.int64)),
    )


def _counts(tp: int, truth: int, predicted: int, total: int) -> Counts:
    return Counts(tp=tp, tn=total - truth - predicted + tp, fp=predicted - tp, fn=truth - tp)


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _squares(sizes: np.ndarray) -> int:
    return int((sizes * sizes).sum())
