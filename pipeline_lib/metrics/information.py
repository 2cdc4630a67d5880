"""Information scores: V_info and the variation of information of two segmentations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.metrics.contingency import ContingencyTable, contingency_tables, mean_of_sections
from pipeline_lib.metrics.counts import f_score
from pipeline_lib.runtime.types import Stored

# Smaller entropies count as zero. The reference compares with exactly 0, so that rounding decides there.
ZERO_ENTROPY = 1e-12


@dataclass(frozen=True)
class Information:
    """Entropies of one section over the pixels inside true cells, in nats; NaN if there are none.

    The sum of `vi_split` and `vi_merge` is the variation of information (Meila 2007).

    Parameters
    ----------
    h_truth : float
        Entropy of the truth, H(truth).
    h_predicted : float
        Entropy of the prediction, H(prediction).
    vi_split : float
        Conditional entropy H(prediction | truth), which rises if true cells are split.
    vi_merge : float
        Conditional entropy H(truth | prediction), which rises if true cells are merged.
    """

    h_truth: float
    h_predicted: float
    vi_split: float
    vi_merge: float

    @property
    def precision(self) -> float:
        """I / H(truth), which falls with mergers; 0 if the truth is a single cell. I = mutual information."""
        return (self.h_truth - self.vi_merge) / self.h_truth if self.h_truth > ZERO_ENTROPY else 0.0

    @property
    def recall(self) -> float:
        """I / H(prediction), which falls with splits; 0 if the prediction is a single cell."""
        return (self.h_truth - self.vi_merge) / self.h_predicted if self.h_predicted > ZERO_ENTROPY else 0.0

    @property
    def f_score(self) -> float:
        """V_info; 0 if either entropy is 0, even if a single cell is predicted perfectly."""
        return f_score(self.precision, self.recall)


def v_info(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return V_info: the F-score of the information that truth and prediction share, averaged over sections.

    Precision is I / H(truth), which falls with mergers. Recall is I / H(prediction), which falls with splits.
    I is the mutual information and H the entropy over the pixels inside true cells. Cells are not weighted by
    the square of their size as in `v_rand`. The challenge's "V_info(thinned)" is
    `v_info(labels, thin_borders(predicted_cells))`.

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
        0 to 1 (best). A section counts as 0 if it has no true cell, and also if truth or prediction is a
        single cell there, even if that cell is predicted perfectly. An empty prediction has precision 1 and a
        low recall.

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
    Two touching cells of 4 px, one of them split: H(truth) = I = ln 2, H(prediction) = 3/2 ln 2.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import v_info
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> round(v_info(truth, split), 4)
    0.8

    Merged, the prediction is a single cell and shares no information with the truth.

    >>> v_info(truth, np.ones_like(truth))
    0.0
    """
    tables = contingency_tables(labels, predicted_labels, ignore=ignore)
    return mean_of_sections(lambda table: information(table).f_score, tables)


def vi_split(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the split part of the variation of information, H(prediction | truth), in nats.

    It is the entropy of the predicted label of a pixel if its true cell is known. It rises if true cells are
    split, and is not affected by mergers. The score is the mean over the sections that have true cells.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background. Background pixels of the truth do not count.
    predicted_labels : array of int
        Predicted instance labels of the same shape. A pixel of a true cell that is predicted as background
        counts as a segment of one pixel, so thick predicted membranes raise the score, too.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    float
        0 (best) to ln N, where N is the number of pixels inside true cells. NaN without any true cell. An
        empty prediction has the largest possible value, ln N - H(truth).

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    Together with `vi_merge` it is the variation of information [1]_.

    .. [1] M. Meila, "Comparing clusterings: an information based distance", Journal of Multivariate Analysis
       98(5):873-895, 2007.

    Examples
    --------
    One of two equal cells is split in halves: half of the pixels need ln 2 nats more.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import vi_split
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> round(vi_split(truth, split), 4), round(float(np.log(2)) / 2, 4)
    (0.3466, 0.3466)
    >>> vi_split(truth, np.ones_like(truth))
    0.0
    """
    return mean_vi(contingency_tables(labels, predicted_labels, ignore=ignore))[0]


def vi_merge(labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None) -> float:
    """Return the merge part of the variation of information, H(truth | prediction), in nats.

    It is the entropy of the true cell of a pixel if its predicted label is known. It rises if true cells are
    merged, and is not affected by splits. The score is the mean over the sections that have true cells.

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
        0 (best) to H(truth). NaN without any true cell. 0 for an empty prediction, which merges nothing.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    References
    ----------
    Together with `vi_split` it is the variation of information [1]_.

    .. [1] M. Meila, "Comparing clusterings: an information based distance", Journal of Multivariate Analysis
       98(5):873-895, 2007.

    Examples
    --------
    Two touching cells of one size are merged: each pixel needs ln 2 nats more.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import vi_merge
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> round(vi_merge(truth, np.ones_like(truth)), 4), round(float(np.log(2)), 4)
    (0.6931, 0.6931)
    >>> vi_merge(truth, np.array([[1, 3, 2, 2], [1, 3, 2, 2]]))
    0.0
    """
    return mean_vi(contingency_tables(labels, predicted_labels, ignore=ignore))[1]


def mean_vi(tables: Sequence[ContingencyTable]) -> tuple[float, float]:
    """Return the means of `vi_split` and `vi_merge` over sections with true cells; NaN if there are none."""
    entropies = [information(table) for table in tables if table.foreground.pixels]
    if not entropies:
        return float("nan"), float("nan")
    return float(np.mean([e.vi_split for e in entropies])), float(np.mean([e.vi_merge for e in entropies]))


def information(table: ContingencyTable) -> Information:
    """Return the entropies of one section over the pixels inside true cells.

    A pixel of a true cell that is predicted as background is a segment of one pixel, as in the Rand scores.
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
