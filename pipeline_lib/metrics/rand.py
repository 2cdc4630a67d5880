"""Rand scores: do predicted cells keep pixels of one true cell together and pixels of different cells apart?

Reference for all of them: Arganda-Carreras et al. 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables, mean_of_sections, sums_by
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.runtime.types import Stored


def rand_error(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the foreground-restricted Rand error: 1 - F-score of pairs of pixels.

    A pair of different pixels inside true cells is positive if both are in the same cell. Precision falls
    with mergers, recall with splits. Pairs of all sections are counted together. Pairs grow with the square
    of the size of a cell: merging two large cells costs much, missing small cells costs little. This is not
    the adjusted Rand index.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background. Background pixels of the truth do not count.
    predicted_labels : array of int
        Predicted instance labels of the same shape. A pixel of a true cell that is predicted as background
        counts as a segment of one pixel.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 (best) to 1. 1 if nothing is predicted. NaN without any true cell. The table of `isbi_scores` has 0
        in that case, as the reference does.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    See Also
    --------
    adapted_rand_error : The same with N^2 pairs, as in SNEMI3D.
    v_rand : The F-score itself, averaged over sections.

    References
    ----------
    Rand error of the leader board of the ISBI 2012 challenge [1]_.

    .. [1] I. Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
       connectomics", Frontiers in Neuroanatomy 9:142, 2015.

    Examples
    --------
    Two touching cells of 4 px have 6 pairs each. Merged, they have 28: precision 12/28, recall 1.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import rand_error
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> merged = np.ones_like(truth)
    >>> rand_error(truth, merged)
    0.4

    If one of them is split in halves, 8 of 12 pairs are left: precision 1, recall 8/12.

    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> round(rand_error(truth, split), 4)
    0.2
    """
    return pooled_error(foreground_pairs, contingency_tables(labels, predicted_labels, ignore=ignore))


def adapted_rand_error(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the adapted Rand error of SNEMI3D and CREMI: 1 - F-score of N^2 pairs of pixels.

    Like `rand_error`, but each pixel is also paired with itself, and each pair counts in both orders. The
    difference is small unless cells have few pixels. scikit-image's function of the same name is different:
    it counts N (N - 1) / 2 pairs and treats predicted background as one segment.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background. Background pixels of the truth do not count.
    predicted_labels : array of int
        Predicted instance labels of the same shape. A pixel of a true cell that is predicted as background
        counts as a segment of one pixel.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 (best) to 1. NaN without any true cell. If nothing is predicted it is below 1, because each pixel
        is paired with itself; it approaches 1 as cells get larger.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    The N^2 normalisation is that of the challenge's code since 2015 [1]_.

    .. [1] I. Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
       connectomics", Frontiers in Neuroanatomy 9:142, 2015.

    Examples
    --------
    Two touching cells of 4 px, merged: precision (16 + 16) / 64, recall 1.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import adapted_rand_error
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> round(adapted_rand_error(truth, np.ones_like(truth)), 4)
    0.3333
    """
    return pooled_error(foreground_squares, contingency_tables(labels, predicted_labels, ignore=ignore))


def v_rand(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return V_rand: the F-score of pairs of pixels, averaged over sections.

    All pairs of pixels inside true cells are counted, in both orders and with each pixel paired with itself:
    N^2 pairs for N pixels. A pair is positive if both pixels are in the same cell. With p_ij pixels in the
    true cell i and the predicted segment j, t_i pixels in the true cell i, and s_j pixels in the predicted
    segment j, precision is sum p_ij^2 / sum s_j^2, recall is sum p_ij^2 / sum t_i^2, and
    V_rand = 2 sum p_ij^2 / (sum s_j^2 + sum t_i^2).

    The challenge's "V_rand(thinned)" is `v_rand(labels, thin_borders(predicted_cells))`.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background. Background pixels of the truth do not count.
    predicted_labels : array of int
        Predicted instance labels of the same shape. A pixel of a true cell that is predicted as background
        counts as a segment of one pixel.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 to 1 (best). A section without true cells counts as 0; one that is ignored as a whole does not
        count. If nothing is predicted it is above 0, because each pixel is paired with itself.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    The score was introduced by [1]_.

    .. [1] I. Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
       connectomics", Frontiers in Neuroanatomy 9:142, 2015.

    Examples
    --------
    Two touching cells of 4 px, merged: precision 32/64, recall 1. One of them split: precision 1, recall
    (4 + 4 + 16) / 32.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import v_rand
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> merged = np.ones_like(truth)
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> round(v_rand(truth, merged), 4), round(v_rand(truth, split), 4)
    (0.6667, 0.8571)
    """
    tables = contingency_tables(labels, predicted_labels, ignore=ignore)
    return mean_of_sections(lambda table: foreground_squares(table).f_score, tables)


def pooled_error(counts: Callable[[ContingencyTable], Counts], tables: Sequence[ContingencyTable]) -> float:
    """Return 1 - F-score of the summed `counts` of sections with true cells; NaN if there are none."""
    with_cells = [counts(table) for table in tables if table.foreground.pixels]
    return 1 - reduce(add, with_cells).f_score if with_cells else float("nan")


def foreground_pairs(table: ContingencyTable) -> Counts:
    """Count pairs of different pixels inside true cells; positive = both in one cell.

    There are N (N - 1) / 2 of them, as on the leader board of ISBI 2012. A pixel of a true cell that is
    predicted as background is a segment of one pixel, which has no pairs. `1 - f_score` is the Rand error;
    by this definition it is 0 without any true cell.
    """
    sums = table.foreground
    return _counts(
        tp=_pairs(sums.joint),
        truth=_pairs(sums.truth),
        predicted=_pairs(sums.predicted),
        total=_pairs(np.array([sums.pixels])),
    )


def foreground_squares(table: ContingencyTable) -> Counts:
    """Count pairs as `foreground_pairs`, in both orders and with each pixel paired with itself (N^2).

    This is the challenge's code since 2015. Without any true cell all counts are NaN and the F-score is 0.
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
    """Count all N (N - 1) / 2 pairs of pixels; true and predicted background are clusters like any other."""
    return _counts(
        tp=_pairs(table.count.astype(np.int64)),
        truth=_pairs(sums_by(table.truth, table.count)),
        predicted=_pairs(sums_by(table.predicted, table.count)),
        total=_pairs(table.count.sum(keepdims=True, dtype=np.int64)),
    )


def _counts(tp: int, truth: int, predicted: int, total: int) -> Counts:
    """Return counts from the pairs together in both, in the truth, in the prediction, and all pairs."""
    return Counts(tp=tp, tn=total - truth - predicted + tp, fp=predicted - tp, fn=truth - tp)


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _squares(sizes: np.ndarray) -> int:
    return int((sizes * sizes).sum())
