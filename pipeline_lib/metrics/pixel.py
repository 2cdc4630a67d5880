"""Scores of pixels: how many are wrong, and how many have the same probability in cells and background."""

from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.inputs import checked_pixels
from pipeline_lib.runtime.types import Stored

_LEVELS = 256  # of probability; two values of the same level differ by less than 1/256


def pixel_counts(table: ContingencyTable) -> Counts:
    """Count pixels of true and predicted cell and background; cell is positive.

    `1 - f_score` is the challenge's pixel error, `mismatch` the fraction of wrongly classified pixels.
    """
    truth, predicted, count = table.truth > 0, table.predicted > 0, table.count
    return Counts(
        tp=int(count[truth & predicted].sum()),
        tn=int(count[~truth & ~predicted].sum()),
        fp=int(count[~truth & predicted].sum()),
        fn=int(count[truth & ~predicted].sum()),
    )


def pixel_error(cells: Stored, predicted_cells: Stored, *, ignore: Stored | None = None) -> float:
    """Return the pixel error of a binary prediction: 1 - F-score of the cell pixels.

    Pixels of all sections are counted together. The score does not depend on which cell a pixel belongs to:
    a gap of a few pixels that merges two cells costs little.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array of int or bool
        Truth: cell is not 0, membrane and background are 0.
    predicted_cells : array of int or bool
        Prediction of the same shape, with the same meaning.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 (best) to 1. Without any true cell: 0 if no cell is predicted, otherwise 1. With true cells but an
        empty prediction: 1. NaN if all pixels are ignored.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    Pixel error of the ISBI 2012 challenge [1]_.

    .. [1] I. Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
       connectomics", Frontiers in Neuroanatomy 9:142, 2015.

    Examples
    --------
    Two of eight cell pixels are missed: precision 1, recall 3/4, F-score 6/7.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import pixel_error
    >>> cells = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    >>> predicted = np.array([[1, 1, 0, 0, 1], [1, 1, 0, 0, 1]])
    >>> round(pixel_error(cells, predicted), 4)
    0.1429
    """
    counts = reduce(add, map(pixel_counts, contingency_tables(cells, predicted_cells, ignore=ignore)))
    return 1 - counts.f_score if counts.total else float("nan")


def constant_pixels(cells: Stored, cell_probability: Stored, *, ignore: Stored | None = None) -> float:
    """Return how many pixels have the same probability inside and outside of cells.

    This is the largest fraction f for which a fraction f of the cell pixels and a fraction f of the
    background pixels have the same probability to within 1/256. No threshold can separate such pixels. A
    large value is typical of a network in which units have died, or that was hardly trained.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane and background are 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 (best) to 1. 0 without cell or without background pixels.

    Raises
    ------
    InputError
        If the shapes differ, or the map has other values than probabilities.

    Examples
    --------
    Three of four cell pixels and one of two background pixels have the probability 0.6.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import constant_pixels
    >>> cells = np.array([[1, 1, 1, 1, 0, 0]])
    >>> constant_pixels(cells, np.array([[0.6, 0.6, 0.6, 0.9, 0.6, 0.1]]))
    0.5
    """
    counts = np.zeros((2, _LEVELS), np.int64)  # of background and cells
    for truth, probability in checked_pixels(cells, cell_probability, ignore):
        level = np.minimum(probability * _LEVELS, _LEVELS - 1).astype(np.intp) + _LEVELS * truth
        counts += np.bincount(level, minlength=2 * _LEVELS).reshape(2, _LEVELS)
    pixels = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(pixels, 1)
    return float(shares.min(axis=0).max())
