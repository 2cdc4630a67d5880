"""One section of a volume through all stages."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib import layout, metrics
from pipeline_lib.figures.colouring import (
    BACKGROUND,
    ORANGE,
    Scale,
    coloured,
    gray,
    instances_coloured,
    magnified,
    rgb,
)
from pipeline_lib.figures.overlay import COLOURS, TOPOLOGICAL, error_overlay
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.files import read_json
from pipeline_lib.instances import instances
from pipeline_lib.labels import cells_apart

WINDOW = 512  # px; of larger sections the middle is shown, at a size that lets membranes be seen
SMALLEST = 400  # px; smaller sections are magnified


def draw_volume_strip(dataset: Path, weight_map: Path | None, prediction: Path, threshold: Path, output: Path,
                      *, volume: str, split: str, minimum_size: int = 0) -> None:
    """Draw the middle section of a volume as a strip of pictures (PNG).

    Raw image, annotation, separation border, weight map, cell probability, segmentation; without annotation
    or `weight_map` (None) fewer. Segments have the colour of the annotated cell they share most pixels with:
    a difference in colour is an error. `minimum_size` (px) as in the segmentation.
    """
    t = read_json(threshold)["threshold"]
    with layout.require(prediction, layout.CELL_PROBABILITY) as file:
        sections, height, width = file[layout.CELL_PROBABILITY.name].shape
        z = sections // 2
        probability = file[layout.CELL_PROBABILITY.name][z]
    with layout.require(dataset, layout.RAW) as file:
        raw = file[layout.RAW.name][:, z]
        annotated = layout.LABELS.name in file
        if annotated:
            labels, border = file[layout.LABELS.name][z], file[layout.SEPARATION_BORDER.name][z]

    y, x = _middle(height), _middle(width)
    factor = math.ceil(SMALLEST / max(y.stop - y.start, x.stop - x.start))
    panels = []

    def add(title: str, image: np.ndarray, *legend: tuple[str | None, str], scale: Scale | None = None):
        panels.append(Panel(title, magnified(image[y, x], factor), legend=legend, scale=scale))

    whole = max(height, width) <= WINDOW
    add("raw image", gray(raw), (None, ("" if whole else "the middle of ") + f"{height} x {width} px"))
    if annotated:
        touching = f"{np.count_nonzero(border[y, x]):,} px between cells that touch"
        add("annotation", instances_coloured(labels), (None, _counted(labels[y, x])))
        add("separation border", _bordered(labels, border), (ORANGE, touching))
    if weight_map is not None:
        with layout.require(weight_map, layout.WEIGHT_MAP) as file:
            weights = file[layout.WEIGHT_MAP.name][z]
        scale = Scale("viridis", 0, float(weights[y, x].max()), "loss weight")
        add("weight map", coloured(weights, scale), scale=scale)
    scale = Scale("gray", 0, 1, f"threshold {t:.2f}", mark=t)
    add("cell probability", coloured(probability, scale), scale=scale)
    found = instances(probability, t, minimum_size)
    if annotated:
        codes = metrics.error_map(cells_apart(labels, border), probability, t)[y, x]
        codes[~np.isin(codes, TOPOLOGICAL)] = 0
        add("segmentation", instances_coloured(matched_labels(labels, found)),
            *((COLOURS[k], f"{k.name.lower()}s: {(codes == k).sum():,} px") for k in TOPOLOGICAL))
        marked = error_overlay(panels[-1].image, magnified(codes, factor))
        panels[-1] = replace(panels[-1], image=marked)
    else:
        add("segmentation", instances_coloured(found), (None, _counted(found[y, x])))
    title = f"{volume}: section {z + 1} of {sections}, {split} split"
    save_sheet([panels], output, title=title, volume=volume)


def _middle(length: int) -> slice:
    start = max(length - WINDOW, 0) // 2
    return slice(start, min(start + WINDOW, length))


def matched_labels(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """`found` (y, x) with each segment renamed to the cell of `labels` it shares most pixels with; int64.

    Segments on background alone get names of their own.

    >>> matched_labels(np.array([[7, 7, 7, 7, 0, 0]]), np.array([[1, 1, 0, 2, 0, 3]]))
    array([[ 7,  7,  0,  7,  0, 10]])
    """
    inside = found > 0
    pairs = np.stack([labels[inside], found[inside]]).astype(np.int64)
    pairs, count = np.unique(pairs, axis=1, return_counts=True)
    names = np.arange(found.max(initial=0) + 1, dtype=np.int64) + int(labels.max(initial=0))
    names[0] = 0
    for truth, predicted in pairs[:, np.argsort(count, kind="stable")].T:
        if truth:
            names[predicted] = truth  # the last one is the one with most pixels
    return names[found]


def _bordered(labels: np.ndarray, border: np.ndarray) -> np.ndarray:
    image = np.where((labels > 0)[..., None], rgb("lightgray"), rgb(BACKGROUND))
    image[border > 0] = rgb(ORANGE)
    return image


def _counted(labels: np.ndarray) -> str:
    count = np.count_nonzero(np.unique(labels))
    return f"{count:,} cell{'' if count == 1 else 's'}"
