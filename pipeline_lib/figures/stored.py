"""What the pictures show of a stored segmentation."""

from __future__ import annotations

import numpy as np

from pipeline_lib.data.labels import BORDER_WIDTH, separation_border, share_sides
from pipeline_lib.instances.postprocessing import above, largest_not_above


def consecutive(labels: np.ndarray) -> np.ndarray:
    """Return labels of one section (y, x) renumbered 1..n in their order; int32.

    Colours follow from labels, so that a section's do not depend on the sections before it.

    >>> consecutive(np.array([[0, 7, 7, 9]]))
    array([[0, 1, 1, 2]], dtype=int32)
    """
    values = np.unique(labels)
    return np.searchsorted(values[values > 0], labels, side="right").astype(np.int32)


def consistent_probability(cell_probability: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """Return a probability that is above `threshold` exactly in the segments; one section (y, x).

    The error map shows where truth and a thresholded probability differ. With this probability it shows where
    truth and segmentation differ, whatever made the segmentation. Segments that share a side are kept apart
    by a separation border, as cells of the annotation are. Pixels on which probability and segmentation
    agree already keep their value; the others get the nearest value on the other side of the threshold, so
    that the warping, which takes the surest pixels first, comes to them last.

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
