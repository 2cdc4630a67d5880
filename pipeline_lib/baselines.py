"""Classifiers that learn (almost) nothing: what a score means is seen beside theirs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib import layout, provenance
from pipeline_lib.files import read_json
from pipeline_lib.labels import target_class

BASELINES = ("constant", "smoothed_raw")
SMOOTHING = 2.0  # px, standard deviation of the Gaussian


def smooth(raw: np.ndarray) -> np.ndarray:
    """One section (c, y, x) as float32 (y, x): mean over channels, smoothed by a Gaussian."""
    from scipy import ndimage  # 0.15 s, which the dry run does without

    return ndimage.gaussian_filter(raw.mean(axis=0, dtype=np.float32), SMOOTHING)


def measure(volumes: Iterable[tuple[Any, Any, Any]]) -> dict[str, float]:
    """Gray range of the smoothed training images, and whether cells are brighter than their surroundings.

    `volumes` hold raw (c, z, y, x), labels and separation border (z, y, x). `low` and `high` are means over
    the sections of their 1st and 99th percentile; `low` > `high` where cells are dark, so that one formula
    makes cells 1.
    """
    ranges, contrast = [], 0.0
    for raw, labels, border in volumes:
        for z in range(labels.shape[0]):
            gray = smooth(raw[:, z])
            cell = target_class(labels[z], border[z]) == 1
            ranges.append(np.percentile(gray, (1, 99)))
            contrast += (
                float(gray[cell].mean() - gray[~cell].mean()) if cell.any() and not cell.all() else 0.0
            )
    low, high = np.mean(ranges, axis=0)
    return (
        {"low": float(low), "high": float(high)}
        if contrast >= 0
        else {"low": float(high), "high": float(low)}
    )


def cell_probability(network: str, raw: np.ndarray, statistics: dict[str, Any]) -> np.ndarray:
    """What baseline `network` says of one section (c, y, x): float32 (y, x) in 0..1.

    `constant` gives every pixel the training split's share of cell pixels, `smoothed_raw` the smoothed gray
    level as a fraction of the training range.
    """
    if network == "constant":
        return np.full(raw.shape[1:], statistics["class_frequencies"][1], np.float32)
    span = statistics["smoothed_raw"]
    return np.clip((smooth(raw) - span["low"]) / (span["high"] - span["low"]), 0, 1).astype(np.float32)


def predict(dataset: Path, statistics: Path, output: Path, *, network: str) -> None:
    """Write `cell_probability` of baseline `network` (`constant` or `smoothed_raw`) for `dataset` (HDF5)."""
    measured = read_json(statistics)
    record = provenance.record([dataset, statistics], network=network)
    with layout.require(dataset, layout.RAW) as source, layout.create(output, record) as file:
        raw = source[layout.RAW.name]
        target = layout.add(file, layout.CELL_PROBABILITY, raw.shape[1:])
        for z in range(raw.shape[1]):
            target[z] = cell_probability(network, raw[:, z], measured)
