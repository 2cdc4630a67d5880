"""Instances out of a probability map."""

from __future__ import annotations

import numpy as np

from pipeline_lib.metrics import connected_components


def instances(cell_probability: np.ndarray, threshold: float, minimum_size: int = 0) -> np.ndarray:
    """4-connected components above `threshold` of one section (y, x); int32 labels 1..n, 0 = background.

    Those smaller than `minimum_size` px are left out.
    """
    labels = connected_components(above(cell_probability, threshold))
    if minimum_size > 1:
        kept = np.bincount(labels.ravel()) >= minimum_size
        kept[0] = False
        labels = (np.cumsum(kept) * kept).astype(np.int32)[labels]
    return labels


def above(cell_probability: np.ndarray, threshold: float) -> np.ndarray:
    """Where floats exceed `threshold`, compared in float64 as the challenge did; bool, any shape.

    A float32 0.7 is not the 0.7 of the setting. Without a copy in float64: a float32 exceeds the setting
    where it exceeds the largest float32 that does not.
    """
    largest = cell_probability.dtype.type(threshold)
    if float(largest) > threshold:
        largest = np.nextafter(largest, -np.inf, dtype=largest.dtype)
    return cell_probability > largest
