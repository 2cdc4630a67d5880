"""Connected components of a section."""

from __future__ import annotations

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.sections import OUTSIDE, check_shapes, padded, section, sections_of, unpadded


def connected_components(binary: np.ndarray) -> np.ndarray:
    """Label the 4-connected components of the non-zero pixels, each section on its own.

    binary: (z, y, x) or (y, x), any dtype. Returns int32 of the same shape: 0 = background, 1..n in every
    section, ordered by each component's first pixel, columns outer, rows inner. Nothing is connected across
    sections.
    """
    check_shapes(binary=binary)
    labels = np.empty(binary.shape, np.int32)
    for z, cells in enumerate(sections_of(binary)):
        section(labels, z)[...] = unpadded(padded_components(padded(cells != 0, np.uint8)))
    return labels


def padded_components(cells: np.ndarray) -> np.ndarray:
    """Labels (int32, border `OUTSIDE`) of a padded section of uint8 0/1."""
    labels = np.full(cells.shape, OUTSIDE, np.int32)
    _label(cells, labels)
    return labels


@compiled
def root(parent, label):
    """Root of `label` in the union-find forest `parent`, shortening the way."""
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@compiled
def _label(cells, labels):
    """Fill `labels` with the 4-components of the padded section `cells` in scan order (union-find)."""
    rows, columns = cells.shape
    parent = np.empty(cells.size // 2 + 2, np.int32)  # a checkerboard has most
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
            parent[label] = parent[parent[label]]  # a parent comes before its children: final already
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            labels[x, y] = parent[labels[x, y]]
