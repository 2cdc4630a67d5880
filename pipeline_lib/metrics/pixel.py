"""Pixel scores: is each pixel on the right side."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import Counts


def pixel_counts(table: ContingencyTable) -> Counts:
    """Pixels of true and predicted cell and background; cell is positive.

    `1 - f_score` is the challenge's pixel error, `mismatch` the fraction of pixels on the wrong side.
    """
    truth, predicted, count = table.truth > 0, table.predicted > 0, table.count
    return Counts(
        tp=int(count[truth & predicted].sum()),
        tn=int(count[~truth & ~predicted].sum()),
        fp=int(count[~truth & predicted].sum()),
        fn=int(count[truth & ~predicted].sum()),
    )


def pixel_error(cells: np.ndarray, predicted_cells: np.ndarray) -> float:
    """The challenge's pixel error of a binary prediction: 1 - F of the cell pixels, pooled over sections.

    cells, predicted_cells: integer or boolean, one shape (z, y, x) or (y, x), non-zero = cell.
    """
    return 1 - reduce(add, map(pixel_counts, contingency_tables(cells, predicted_cells))).f_score
