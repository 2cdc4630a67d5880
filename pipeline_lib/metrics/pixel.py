"""Pixel scores: is each pixel on the right side."""

from __future__ import annotations

from pipeline_lib.metrics.contingency import ContingencyTable
from pipeline_lib.metrics.counts import Counts


def pixel_counts(table: ContingencyTable) -> Counts:
    """Pixels of true and predicted cell and background; cell is positive.

    `1 - f_score` is the challenge's pixel error, `mismatch` the fraction of pixels on the wrong side.
    """
    truth, predicted, count = table.truth > 0, table.predicted > 0, table.count
    return Counts(tp=int(count[truth & predicted].sum()), tn=int(count[~truth & ~predicted].sum()),
                  fp=int(count[~truth & predicted].sum()), fn=int(count[truth & ~predicted].sum()))
