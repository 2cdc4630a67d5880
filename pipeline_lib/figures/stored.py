"""Prepare a stored segmentation for the pictures."""

from __future__ import annotations

import numpy as np

from pipeline_lib.data.labels import BORDER_WIDTH, separation_border, share_sides
from pipeline_lib.instances.postprocessing import above, largest_not_above


def consecutive(labels: np.ndarray) -> np.ndarray:
    """Renumber the labels of one section 1..n in ascending order.

    Colours depend on labels. With consecutive labels, the colours of a section do not depend on the number of
    cells in the sections before it.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels, 0 = background.

    Returns
    -------
    (y, x) array of int32
        Labels 0..n.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.stored import consecutive
    >>> consecutive(np.array([[0, 7, 7, 9]]))
    array([[0, 1, 1, 2]], dtype=int32)
    """
    values = np.unique(labels)
    return np.searchsorted(values[values > 0], labels, side="right").astype(np.int32)


def consistent_probability(cell_probability: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """Adjust a cell probability so that it is above the threshold exactly in the segments.

    The error map shows where the truth differs from a thresholded probability. With the adjusted probability
    it shows where the truth differs from the segmentation, however the segmentation was made. Segments that
    share a side are separated by a border, like the cells of the annotation. Pixels where probability and
    segmentation already agree keep their value. The others get the nearest value on the other side of the
    threshold. The warping starts with the most certain pixels, so it changes these last.

    Parameters
    ----------
    cell_probability : (y, x) array of float
        Probability of one section.
    labels : (y, x) array of int
        Segments of this section, 0 = background.
    threshold : float
        Threshold at which the error map is made.

    Returns
    -------
    (y, x) array of float
        Adjusted probability; `cell_probability` itself if nothing has to change.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.stored import consistent_probability
    >>> consistent_probability(np.array([[0.2, 0.9, 0.3, 0.75]]), np.array([[0, 5, 0, 0]]), threshold=0.5)
    array([[0.2, 0.9, 0.3, 0.5]])
    """
    cells = labels > 0
    if share_sides(labels):
        cells &= ~separation_border(labels, BORDER_WIDTH)
    wrong = above(cell_probability, threshold) != cells
    if not wrong.any():
        return cell_probability
    below = largest_not_above(threshold, cell_probability.dtype)
    nearest = np.where(cells, np.nextafter(below, np.inf, dtype=below.dtype), below)
    return np.where(wrong, nearest, cell_probability)
