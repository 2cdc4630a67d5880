"""Classifiers that learn (almost) nothing: what a score means is seen beside theirs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline_lib.data.normalisation import STEP
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.layout import AnnotatedArrays
from pipeline_lib.tasks.segmentation.classes import BACKGROUND, CELL, CLASSES, target_class

BASELINES = ("constant", "smoothed_raw")
SMOOTHING = 2.0  # px, standard deviation of the Gaussian
HALO = 8  # px, four standard deviations: where scipy cuts the Gaussian off
SAMPLES = 2**20  # px of a section that its percentiles are taken from


def smooth(raw: np.ndarray) -> np.ndarray:
    """One section (c, y, x) as float32 (y, x): mean over channels, smoothed by a Gaussian."""
    from scipy import ndimage  # 0.15 s, which the dry run does without

    return ndimage.gaussian_filter(raw.mean(axis=0, dtype=np.float32), SMOOTHING)


def measure(volumes: Iterable[AnnotatedArrays]) -> dict[str, float]:
    """Gray range of the smoothed training images, and whether cells are brighter than their surroundings.

    `volumes` hold raw (c, z, y, x), labels and separation border (z, y, x), which are read block by block.
    `low` and `high` are means over the sections of their 1st and 99th percentile, taken from about `SAMPLES`
    pixels of a regular grid; `low` > `high` where cells are dark, so that one formula makes cells 1.
    """
    sections = [_measure_section(*volume, z) for volume in volumes for z in range(volume.labels.shape[0])]
    low, high = np.mean([span for span, _ in sections], axis=0)
    brighter = sum(contrast for _, contrast in sections) >= 0
    return {"low": float(low), "high": float(high)} if brighter else {"low": float(high), "high": float(low)}


def _measure_section(raw: Any, labels: Any, border: Any, z: int) -> tuple[np.ndarray, float]:
    """1st and 99th percentile of one smoothed section, and by how much its cells are brighter."""
    shape = labels.shape[1:]
    every = math.ceil(math.sqrt(shape[0] * shape[1] / SAMPLES))
    samples, sums, counts = [], np.zeros(CLASSES), np.zeros(CLASSES, int)
    for area in blocks(shape, STEP, HALO):
        gray = smooth(raw[:, z, *area.read])[area.crop]
        samples.append(gray[tuple(slice(-side.start % every, None, every) for side in area.write)].ravel())
        cell = target_class(labels[z, *area.write], border[z, *area.write])
        counts += np.bincount(cell.ravel(), minlength=CLASSES)
        sums += np.bincount(cell.ravel(), gray.ravel(), minlength=CLASSES)
    inside, outside = CELL, BACKGROUND
    contrast = float(sums[inside] / counts[inside] - sums[outside] / counts[outside]) if counts.all() else 0.0
    return np.percentile(np.concatenate(samples), (1, 99)), contrast


def cell_probability(network: str, raw: np.ndarray, statistics: dict[str, Any]) -> np.ndarray:
    """What baseline `network` says of one section, or of a block with `HALO` (c, y, x): float32 0..1 (y, x).

    `constant` gives every pixel the training split's share of cell pixels, `smoothed_raw` the smoothed gray
    level as a fraction of the training range.
    """
    if network == "constant":
        return np.full(raw.shape[1:], statistics["class_frequencies"][CELL], np.float32)
    span = statistics["smoothed_raw"]
    return np.clip((smooth(raw) - span["low"]) / (span["high"] - span["low"]), 0, 1).astype(np.float32)
