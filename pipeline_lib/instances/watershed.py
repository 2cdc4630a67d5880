"""Seeded watershed: cells grow from where their probability is high until they meet."""

from __future__ import annotations

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import padded_components
from pipeline_lib.kernels.sections import OUTSIDE, padded, unpadded

LEVELS = 2**16  # the probability is rounded down to one of them


def grow_seeds(cell_probability: np.ndarray, seeds: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Grow the connected components of the seeds into the cells around them.

    Each pixel belongs to the seed from which a path of neighbours leads to it over the highest probability:
    the lowest value on the path counts. So cells that touch in a place of lower probability are separated
    there. Of equally good seeds, usually the nearer one gets a pixel. Probabilities that are rounded down to
    the same one of 65,536 levels are equal. Pixels of a cell without a seed become background.

    Parameters
    ----------
    cell_probability : (y, x) array of float
        Cell probability of one section, 0..1.
    seeds : (y, x) array of bool
        Pixels of seeds. Those that touch in a row or column are one seed.
    cells : (y, x) array of bool
        Pixels that seeds can grow into, including the seeds.

    Returns
    -------
    (y, x) array of int32
        0 = background, 1..n = number of the seed. Each region is 4-connected.

    Notes
    -----
    The method is the watershed by flooding from markers of Beucher and Meyer [1]_. Time and memory grow with
    the number of pixels; it needs 12 bytes for each, besides its arguments and result.

    References
    ----------
    .. [1] S. Beucher, F. Meyer, "The morphological approach to segmentation: the watershed transformation",
       Mathematical Morphology in Image Processing, 433-481, 1993.

    Examples
    --------
    Two nuclei touch at the pixel of probability 0.5, which the nearer seed gets.

    >>> import numpy as np
    >>> from pipeline_lib.instances.watershed import grow_seeds
    >>> probability = np.array([[0.6, 0.9, 0.7, 0.5, 0.9, 0.2]])
    >>> grow_seeds(probability, probability > 0.8, probability > 0.4)
    array([[1, 1, 1, 2, 2, 0]], dtype=int32)
    """
    labels = padded_components(padded(seeds, np.uint8))
    labels[~padded(cells, bool)] = OUTSIDE
    _flood(labels, padded(cell_probability, np.float32))
    return np.maximum(unpadded(labels), 0)


@compiled
def _flood(labels: np.ndarray, probability: np.ndarray) -> None:
    """Grow the labels of a padded section into the pixels with the label 0, in place.

    Each level has a queue of pixels that have a label whose neighbours were not visited yet. The queue of the
    highest level comes first. A pixel that is reached from a lower level belongs to that level.
    """
    flat, values = labels.ravel(), probability.ravel()
    columns = labels.shape[1]
    neighbours = (-columns, -1, columns, 1)
    first, last = np.full(LEVELS, -1, np.int32), np.full(LEVELS, -1, np.int32)
    following = np.empty(flat.size, np.int32)
    for pixel in range(columns, flat.size - columns):
        if flat[pixel] > 0:
            for step in neighbours:
                if flat[pixel + step] == 0:
                    _enqueue(pixel, level_of(values[pixel], LEVELS - 1), first, last, following)
                    break
    level = LEVELS - 1
    while level >= 0:
        pixel = first[level]
        if pixel < 0:
            level -= 1
            continue
        first[level] = following[pixel]
        for step in neighbours:
            other = pixel + step
            if flat[other] == 0:
                flat[other] = flat[pixel]
                _enqueue(other, level_of(values[other], level), first, last, following)


@compiled
def level_of(value: float, highest: int) -> int:
    """Return the level of a probability, at most `highest`."""
    return min(int(max(value, 0.0) * (LEVELS - 1)), highest)


@compiled
def _enqueue(pixel: int, level: int, first: np.ndarray, last: np.ndarray, following: np.ndarray) -> None:
    """Add a pixel at the end of the queue of a level."""
    following[pixel] = -1
    if first[level] < 0:
        first[level] = pixel
    else:
        following[last[level]] = pixel
    last[level] = pixel
