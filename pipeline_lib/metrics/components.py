"""Connected components of a section."""

from __future__ import annotations

import numba
import numpy as np

from pipeline_lib.metrics.sections import OUTSIDE, check_shapes, padded, sections_of, unpadded


def connected_components(binary: np.ndarray) -> np.ndarray:
    """Label the 4-connected components of the non-zero pixels, each section on its own.

    binary: (z, y, x) or (y, x), any dtype. Returns int32 of the same shape: 0 = background, 1..n in every section in the
    order of each component's first pixel, columns outer, rows inner. Sections are never connected with each other.
    """
    check_shapes(binary=binary)
    labels = np.empty(binary.shape, np.int32)
    for (section,), target in zip(sections_of(binary), sections_of(labels), strict=True):
        target[0][...] = unpadded(padded_components(padded(section != 0, np.uint8)))
    return labels


def padded_components(cells: np.ndarray) -> np.ndarray:
    """Labels (int32, border `OUTSIDE`) of a padded section of uint8 0/1."""
    labels = np.empty(cells.shape, np.int32)
    label_components(cells, labels)
    return labels


@numba.njit(nogil=True, cache=True)
def _root(parent, label):
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@numba.njit(nogil=True, cache=True)
def label_components(cells, labels):
    """Fill `labels` with the 4-components of the padded section `cells` and return their number (two-pass union-find)."""
    rows, columns = cells.shape
    labels[0, :] = OUTSIDE
    labels[rows - 1, :] = OUTSIDE
    labels[:, 0] = OUTSIDE
    labels[:, columns - 1] = OUTSIDE
    parent = np.zeros(1024, np.int32)
    used = 0
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            if cells[x, y] == 0:
                labels[x, y] = 0
                continue
            before = labels[x - 1, y]
            above = labels[x, y - 1]
            if before > 0 and above > 0:
                if before != above:
                    # the smaller root wins: it belongs to the earlier pixel, which keeps labels in scan order
                    first = _root(parent, before)
                    second = _root(parent, above)
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
                if used == parent.size:
                    larger = np.zeros(2 * used, np.int32)
                    larger[:used] = parent
                    parent = larger
                parent[used] = used
                labels[x, y] = used
    count = 0
    for label in range(1, used + 1):
        if parent[label] == label:
            count += 1
            parent[label] = count
        else:
            parent[label] = parent[parent[label]]  # a parent comes before its children: final already
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            labels[x, y] = parent[labels[x, y]]
    return count
