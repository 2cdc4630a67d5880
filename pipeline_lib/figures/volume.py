"""One section of a volume through all stages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib import metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.figures.colouring import (
    BACKGROUND,
    ORANGE,
    Scale,
    Window,
    coloured,
    gray,
    instances_coloured,
    magnified,
    rgb,
)
from pipeline_lib.figures.overlay import COLOURS, TOPOLOGICAL, error_overlay
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.figures.stored import consecutive, consistent_probability
from pipeline_lib.metrics.contingency import count_pairs

LARGEST = 4096  # px; of sections with a longer side the middle is looked at, which bounds the memory
WINDOW = 512  # px; of larger sections the middle is shown, at a size that lets membranes be seen
SMALLEST = 400  # px; smaller sections are magnified


def save_volume_strip(
    output: Path,
    *,
    raw: np.ndarray,
    labels: np.ndarray | None,
    border: np.ndarray | None,
    weights: np.ndarray | None,
    probability: np.ndarray,
    segmented: np.ndarray,
    threshold: float,
    volume: str,
    split: str,
    record: dict[str, Any],
) -> None:
    """Write the middle section of a volume as a strip of pictures (PNG).

    Raw image, annotation, separation border, weight map, cell probability, segmentation; fewer without
    annotation or weight map. Segments have the colour of the annotated cell they share most pixels with: a
    difference in colour is an error. Gray levels and errors are those of the section or, if a side is
    longer than `LARGEST`, of its middle.

    An array can be an HDF5 dataset. Only that section is read, or its middle.

    Parameters
    ----------
    output : Path
        The file to write.
    raw : array
        Raw image (c, z, y, x).
    labels, border : array or None
        Instance labels and separation border of the annotation (z, y, x); None without annotation.
    weights : array or None
        Loss weights (z, y, x), if there are any.
    probability, segmented : array
        Cell probability and predicted instance labels (z, y, x).
    threshold : float
        Chosen threshold, which is marked in the scale of the probability.
    volume, split : str
        Name and split of the volume, for the title.
    record : dict
        What the picture carries as its `provenance`.
    """
    sections, height, width = probability.shape
    z = sections // 2
    part = middle((height, width), LARGEST)
    probability = probability[(z, *part)]
    found = consecutive(segmented[(z, *part)])
    window = middle(probability.shape, WINDOW)  # within `part`
    factor = math.ceil(SMALLEST / max(edge.stop - edge.start for edge in window))
    panels = []

    def add(title: str, image: np.ndarray, *legend: tuple[str | None, str], scale: Scale | None = None):
        panels.append(Panel(title, magnified(image, factor), legend=legend, scale=scale))

    size = ("" if max(height, width) <= WINDOW else "the middle of ") + f"{height} x {width} px"
    add("raw image", gray(raw[(slice(None), z, *part)], window), (None, size))
    if labels is not None:
        labels, border = labels[(z, *part)], border[(z, *part)]
        touching = f"{np.count_nonzero(border[window]):,} px between cells that touch"
        add("annotation", instances_coloured(labels, window), (None, _counted(labels[window])))
        add("separation border", _bordered(labels[window], border[window]), (ORANGE, touching))
    if weights is not None:
        place = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(part, window, strict=True))
        weights = weights[(z, *place)]
        scale = Scale("viridis", 0, float(weights.max()), "loss weight")
        add("weight map", coloured(weights, scale), scale=scale)
    scale = Scale("gray", 0, 1, f"threshold {threshold:.2f}", mark=threshold)
    add("cell probability", coloured(probability[window], scale), scale=scale)
    alone = () if probability.shape == (height, width) else ((None, f"found in {told(probability)}"),)
    if labels is not None:
        decided = consistent_probability(probability, found, threshold)
        codes = metrics.error_map(cells_apart(labels, border), decided, threshold)[window]
        codes[~np.isin(codes, TOPOLOGICAL)] = 0
        counts = [(COLOURS[k], f"{k.name.lower()}s: {(codes == k).sum():,} px") for k in TOPOLOGICAL]
        add("segmentation", instances_coloured(matched_labels(labels, found), window), *counts, *alone)
        marked = error_overlay(panels[-1].image, magnified(codes, factor))
        panels[-1] = replace(panels[-1], image=marked)
    else:
        add("segmentation", instances_coloured(found, window), (None, _counted(found[window])), *alone)
    title = f"{volume}: section {z + 1} of {sections}, {split} split"
    save_sheet([panels], output, title=title, volume=volume, provenance=record)


def middle(shape: tuple[int, int], size: int) -> Window:
    """The middle of a section of `shape` (y, x), at most `size` px in either direction.

    >>> middle((10, 3), 4)
    (slice(3, 7, None), slice(0, 3, None))
    """
    starts = [max(length - size, 0) // 2 for length in shape]
    y, x = (slice(start, min(start + size, length)) for start, length in zip(starts, shape, strict=True))
    return y, x


def told(part: np.ndarray) -> str:
    """Which part of a section `middle` took."""
    return "the middle {:,} x {:,} px".format(*part.shape)


def matched_labels(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """`found` (y, x) with each segment renamed to the cell of `labels` it shares most pixels with; int64.

    Segments on background alone get names of their own.

    >>> matched_labels(np.array([[7, 7, 7, 7, 0, 0]]), np.array([[1, 1, 0, 2, 0, 3]]))
    array([[ 7,  7,  0,  7,  0, 10]])
    """
    names = np.arange(found.max() + 1, dtype=np.int64) + int(labels.max())
    names[0] = 0
    table = count_pairs(np.ascontiguousarray(labels, np.int32), np.ascontiguousarray(found, np.int32))
    for entry in np.lexsort((table.truth, table.count)):
        if table.truth[entry] and table.predicted[entry]:
            names[table.predicted[entry]] = table.truth[entry]  # the last one is the one with most pixels
    return names[found]


def _bordered(labels: np.ndarray, border: np.ndarray) -> np.ndarray:
    image = np.where((labels > 0)[..., None], rgb("lightgray"), rgb(BACKGROUND))
    image[border > 0] = rgb(ORANGE)
    return image


def _counted(labels: np.ndarray) -> str:
    count = np.count_nonzero(np.unique(labels))
    return f"{count:,} cell{'' if count == 1 else 's'}"
