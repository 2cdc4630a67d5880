"""Connected components of sections."""

from __future__ import annotations

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.sections import (
    OUTSIDE,
    check_shapes,
    count_sections,
    ignored_pixels,
    padded,
    section,
    sections_of,
    unpadded,
    without,
)
from pipeline_lib.runtime.types import Stored


def connected_components(binary: Stored, *, ignore: Stored | None = None) -> np.ndarray:
    """Label the 4-connected components of each section.

    Pixels that touch only at a corner are not connected, and nothing is connected across sections.

    Parameters
    ----------
    binary : (z, y, x) or (y, x) array
        Binary image of any type; pixels that are not 0 are foreground.
    ignore : array, optional
        Pixels that are not part of the image are not 0; same shape. They are background in the result.

    Returns
    -------
    (z, y, x) or (y, x) array of int32
        0 = background, 1..n = components. Numbering starts again in each section. Components are ordered by
        their first pixel, with columns in the outer and rows in the inner loop.

    Raises
    ------
    InputError
        If the shape is not (z, y, x) or (y, x), an axis is empty, or the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import connected_components
    >>> connected_components(np.array([[1, 1, 0], [0, 0, 1], [1, 0, 1]]))
    array([[1, 1, 0],
           [0, 0, 3],
           [2, 0, 3]], dtype=int32)
    """
    check_shapes(binary=binary, ignore=ignore)
    labels = np.empty(binary.shape, np.int32)
    for z in range(count_sections(binary)):
        cells = without(section(binary, z) != 0, ignored_pixels(ignore, z))
        section(labels, z)[...] = unpadded(padded_components(padded(cells, np.uint8)))
    return labels


def equal_components(values: np.ndarray) -> np.ndarray:
    """Label the 4-connected components of equal values of each section; 0 is background.

    The labels (int32) are numbered as by `connected_components`.
    """
    labels = np.empty(values.shape, np.int32)
    for z, own in enumerate(sections_of(values)):
        section(labels, z)[...] = unpadded(padded_components(padded(own, own.dtype)))
    return labels


def padded_components(cells: np.ndarray, beyond: np.ndarray | None = None) -> np.ndarray:
    """Return the labels (int32) of a padded section of unsigned integers; `beyond` is that of `outside`.

    Only pixels of the same value are connected; 0 is background. The padding and ignored pixels, which must
    be 0 in `cells`, have the label `OUTSIDE`.
    """
    labels = np.full(cells.shape, OUTSIDE, np.int32)
    _label(cells, labels)
    if beyond is not None:
        labels[beyond] = OUTSIDE
    return labels


@compiled
def root(parent: np.ndarray, label: int) -> int:
    """Return the root of `label` in the union-find forest `parent`, and shorten the path to it."""
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@compiled
def _label(cells: np.ndarray, labels: np.ndarray) -> None:
    """Fill `labels` with the 4-connected components of equal values of the padded section `cells`."""
    rows, columns = cells.shape
    starts = 0  # pixels where a label begins; one in two on a checkerboard, all if no neighbours are equal
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            value = cells[x, y]
            starts += value != 0 and cells[x - 1, y] != value and cells[x, y - 1] != value
    parent = np.empty(starts + 1, np.int32)
    used = 0
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            value = cells[x, y]
            if value == 0:
                labels[x, y] = 0
                continue
            before = labels[x - 1, y] if cells[x - 1, y] == value else 0
            above = labels[x, y - 1] if cells[x, y - 1] == value else 0
            if before > 0 and above > 0:
                if before != above:
                    # The smaller root becomes the parent: it belongs to the earlier pixel, which keeps the
                    # labels in scan order.
                    first = root(parent, before)
                    second = root(parent, above)
                    if second < first:
                        first, second = second, first
                    parent[second] = first
                    before = first
                labels[x, y] = before
            elif before > 0:
                labels[x, y] = before
            elif above > 0:
                labels[x, y] = above
            else:
                used += 1
                parent[used] = used
                labels[x, y] = used
    parent[0] = count = 0
    for label in range(1, used + 1):
        if parent[label] == label:
            count += 1
            parent[label] = count
        else:
            parent[label] = parent[parent[label]]  # already final: a parent comes before its children
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            labels[x, y] = parent[labels[x, y]]
