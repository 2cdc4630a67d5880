"""Compare the weight map with distance transforms: `python -m benchmarks.bench_weight_map`.

Everything runs on one thread, since `scipy.ndimage.distance_transform_edt` uses one thread. The environment
variable BORDURE_ANNOTATION may name an image file with membranes (TIFF, ...); its first section is then
measured in addition to the drawn sections.
"""

from __future__ import annotations

import os
import statistics
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from benchmarks import harness
from benchmarks.drawing import draw_labels
from pipeline_lib import imageio
from pipeline_lib.data.labels import separation_border
from pipeline_lib.tasks.segmentation.weights import weight_map

W_C, W0, SIGMA = np.array([2.0, 0.7]), 10, 5
# width of the section -> diameters of the cells, px
DIAMETERS = {512: [44, 29], 1024: [44], 2048: [120, 44, 14], 4096: [29]}
ROUNDS = {512: 15, 1024: 9, 2048: 5, 4096: 3}
SAMPLED = 10  # number of cells that represent all; a distance transform for every cell would take hours


def measure() -> list[harness.Row]:
    drawn = {
        (size, diameter): draw_labels(size, diameter) for size in DIAMETERS for diameter in DIAMETERS[size]
    }
    check(drawn[512, 44])
    sections = [against_transforms(f"drawn, {size} px", cells) for (size, _), cells in drawn.items()]
    if annotation := os.environ.get("BORDURE_ANNOTATION"):
        sections.append(against_transforms(Path(annotation).stem, first_section(annotation)))
    large, small, many, few = (drawn[key] for key in ((4096, 29), (512, 29), (2048, 14), (2048, 120)))
    fewer_labels = np.where(many, 1 + many % count(few), 0)
    return [
        harness.Row(
            "weight map, the slowest section",
            "one distance_transform_edt",
            max(section["in_transforms"] for section in sections),
            aim=0.5,
            details={"sections": sections},
        ),
        harness.Row(
            "weight map, the slowest section",
            "one distance_transform_edt per cell",
            min(section["times_faster_than_one_per_cell"] for section in sections),
            unit="x faster",
            aim=200,
            higher_is_better=True,
        ),
        harness.Row("weight map per pixel, 4096 px", "512 px", per_pixel(large, small), aim=1.25),
        harness.Row(
            f"weight map, {count(many):,} cells",
            f"{count(few):,} labels for the same pixels",
            per_pixel(many, fewer_labels),
            aim=1.1,
        ),
        harness.Row(
            f"weight map, {count(many):,} cells",
            f"{count(few):,} cells, among which there is less background",
            per_pixel(many, few),
            details={"background": [float(np.mean(cells == 0)) for cells in (many, few)]},
        ),
    ]


def check(cells: np.ndarray) -> None:
    """Check that the direct computation gives the same values to float32 precision.

    It keeps only the two smallest distances, so that it fits into memory.
    """
    nearest = second = np.full(cells.shape, np.inf)
    for k in np.unique(cells)[1:]:
        d = ndimage.distance_transform_edt(cells != k)
        second = np.minimum(second, np.maximum(nearest, d))
        nearest = np.minimum(nearest, d)
    term = W0 * np.exp(-((nearest + second) ** 2) / (2 * SIGMA**2))
    expected = np.where(cells > 0, W_C[1], W_C[0] + term)
    np.testing.assert_allclose(weight_map(cells, W_C, W0, SIGMA), expected, rtol=1.2e-7)


def against_transforms(name: str, cells: np.ndarray) -> dict[str, Any]:
    """Compare the weight map of one section with one distance transform, and with one transform per cell."""
    labels = np.unique(cells)[1:]
    sampled = cycle(np.random.default_rng(0).choice(labels, SAMPLED))
    times = harness.side_by_side(
        {
            "ours": lambda: weight_map(cells, W_C, W0, SIGMA),
            "one": lambda: ndimage.distance_transform_edt(cells == 0),
            "a cell's": lambda: ndimage.distance_transform_edt(cells != next(sampled)),
        },
        ROUNDS.get(len(cells), 9),
    )
    own = statistics.median(times["ours"])
    return {
        "section": name,
        "cells": labels.size,
        "milliseconds": 1e3 * own,
        "ns_per_pixel": 1e9 * own / cells.size,
        "in_transforms": harness.ratio(times, "ours", "one"),
        "times_faster_than_one_per_cell": labels.size * harness.ratio(times, "a cell's", "ours"),
    }


def first_section(annotation: str) -> np.ndarray:
    labels = imageio.read_annotation(annotation, sections="0").labels[0]
    return np.where(separation_border(labels, 2), 0, labels)


def per_pixel(cells: np.ndarray, anchor: np.ndarray) -> float:
    """Return the time per pixel of the weight map of `cells` in units of that of `anchor`."""
    times = harness.side_by_side(
        {
            "cells": lambda: weight_map(cells, W_C, W0, SIGMA),
            "anchor": lambda: weight_map(anchor, W_C, W0, SIGMA),
        },
        rounds=7,
    )
    return harness.ratio(times, "cells", "anchor") * anchor.size / cells.size


def count(cells: np.ndarray) -> int:
    return len(np.unique(cells)) - 1


if __name__ == "__main__":
    harness.main(measure)
