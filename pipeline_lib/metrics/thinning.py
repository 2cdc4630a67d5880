"""Border thinning: a watershed grows the predicted cells until one dam of membrane is left between them."""

from __future__ import annotations

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import padded_components
from pipeline_lib.kernels.sections import check_shapes, padded, section, sections_of, unpadded

DAM = 0
MEMBRANE = -2  # not reached yet
QUEUED = -3


def thin_borders(predicted_cells: np.ndarray) -> np.ndarray:
    """Grow the components of a binary prediction into its membrane until they meet.

    predicted_cells: (z, y, x) or (y, x), non-zero = cell. Returns int32 labels of the same shape, 1..n per
    section, 0 on the dams where two cells meet; a dam is thicker than one pixel where fronts meet on a
    plateau. A section that is all membrane becomes one cell, like one that is all cell (the reference's
    choice). Flooding after Vincent & Soille 1991, 4-connected, with two gray levels.
    """
    check_shapes(predicted_cells=predicted_cells)
    labels = np.empty(predicted_cells.shape, np.int32)
    for z, cells in enumerate(sections_of(predicted_cells)):
        thinned = padded_components(padded(cells != 0, np.uint8))
        flood(thinned)
        section(labels, z)[...] = unpadded(thinned)
    return labels


@compiled
def flood(labels):
    """Grow the components in the padded label image `labels` (background 0, a negative border), in place."""
    rows, columns = labels.shape
    membrane = 0
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            if labels[x, y] == 0:
                labels[x, y] = MEMBRANE
                membrane += 1
    if membrane == (rows - 2) * (columns - 2):
        for x in range(1, rows - 1):
            for y in range(1, columns - 1):
                labels[x, y] = 1
        return
    queue = np.empty(membrane, np.int32)
    tail = 0
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            if (
                labels[x, y] == MEMBRANE
                and max(labels[x - 1, y], labels[x, y - 1], labels[x + 1, y], labels[x, y + 1]) > 0
            ):
                labels[x, y] = QUEUED
                queue[tail] = x * columns + y
                tail += 1
    flat = labels.ravel()
    neighbours = (-columns, -1, columns, 1)
    head = 0
    # A pixel that became dam by meeting a dam may still be overrun by the next cell. As in the reference one
    # flag serves the whole flood, not one per pixel.
    dam_of_dam = False
    while head < tail:
        pixel = queue[head]
        head += 1
        label = QUEUED
        for step in neighbours:
            other = flat[pixel + step]
            if other > 0:
                if label == QUEUED or (label == DAM and dam_of_dam):
                    label = other
                elif label > 0 and label != other:
                    label = DAM
                    dam_of_dam = False
            elif other == DAM:
                if label == QUEUED:
                    label = DAM
                    dam_of_dam = True
            elif other == MEMBRANE:
                flat[pixel + step] = QUEUED
                queue[tail] = pixel + step
                tail += 1
        flat[pixel] = label
