"""Baselines: classifiers that learn almost nothing. Their scores show what the scores of a network mean."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from pipeline_lib.data.normalisation import STEP
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.layout import AnnotatedArrays
from pipeline_lib.runtime.types import Json
from pipeline_lib.tasks.segmentation.classes import BACKGROUND, CELL, cell_share, target_class

#: Names of the baselines.
BASELINES = ("constant", "smoothed_raw")
#: Standard deviation of the Gaussian that smooths the gray levels (px).
SMOOTHING = 2.0
#: Width of the surrounding that smoothing depends on (px): four standard deviations, where scipy truncates
#: the Gaussian.
HALO = 8
#: Approximate number of pixels of a section from which its percentiles are computed.
SAMPLES = 2**20


def smooth(raw: np.ndarray) -> npt.NDArray[np.float32]:
    """Return the mean over the channels of a section, smoothed by a Gaussian.

    Parameters
    ----------
    raw : (c, y, x) array
        Gray levels.

    Returns
    -------
    (y, x) array of float32
        Smoothed gray levels.
    """
    from scipy import ndimage  # takes 0.15 s, which the dry run does not need

    return ndimage.gaussian_filter(raw.mean(axis=0, dtype=np.float32), SMOOTHING)


def measure(volumes: Iterable[AnnotatedArrays]) -> dict[str, float]:
    """Measure the gray range of the smoothed training images.

    The range is the mean over all sections of the 1st and the 99th percentile. The percentiles are computed
    from about `SAMPLES` pixels on a regular grid. If cells are darker than the background, the two are
    swapped, so that (gray - low) / (high - low) is near 1 in cells in both cases.

    Parameters
    ----------
    volumes : iterable of AnnotatedArrays
        Arrays of the training volumes, numpy or h5py. They are read block by block.

    Returns
    -------
    dict of str to float
        Gray levels `low` and `high`.
    """
    sections = [_measure_section(volume, z) for volume in volumes for z in range(volume.labels.shape[0])]
    low, high = np.mean([span for span, _ in sections], axis=0)
    brighter = sum(contrast for _, contrast in sections) >= 0
    return {"low": float(low), "high": float(high)} if brighter else {"low": float(high), "high": float(low)}


def _measure_section(volume: AnnotatedArrays, z: int) -> tuple[np.ndarray, float]:
    """Return the 1st and 99th percentile of a smoothed section, and mean of cells minus background.

    Pixels that are not annotated count in the percentiles, which do not depend on the annotation.
    """
    raw, labels, border, ignore, _ = volume
    shape = labels.shape[1], labels.shape[2]
    every = math.ceil(math.sqrt(shape[0] * shape[1] / SAMPLES))
    samples, sums, counts = [], np.zeros(2), np.zeros(2, int)
    for area in blocks(shape, STEP, HALO):
        gray = smooth(raw[:, z, *area.read])[area.crop]
        samples.append(gray[tuple(slice(-side.start % every, None, every) for side in area.write)].ravel())
        cell = target_class(labels[z, *area.write], border[z, *area.write])
        annotated = np.ones(cell.shape, bool) if ignore is None else ignore[z, *area.write] == 0
        counts += np.bincount(cell[annotated], minlength=2)
        sums += np.bincount(cell[annotated], gray[annotated], minlength=2)
    inside, outside = CELL, BACKGROUND
    contrast = float(sums[inside] / counts[inside] - sums[outside] / counts[outside]) if counts.all() else 0.0
    gray = np.concatenate(samples)
    span = np.percentile(gray, (1, 99))
    # few cells on a background of one gray level are in neither percentile
    return (span if span[0] < span[1] else np.percentile(gray, (0, 100))), contrast


def cell_probability(network: str, raw: np.ndarray, statistics: Json) -> npt.NDArray[np.float32]:
    """Return the cell probability that a baseline predicts.

    Parameters
    ----------
    network : {"constant", "smoothed_raw"}
        `constant` returns the share of cell pixels in the training split for every pixel. `smoothed_raw`
        returns the smoothed gray level as a fraction of the gray range of the training split.
    raw : (c, y, x) array
        Gray levels of a section, or of a block with a halo of `HALO` px.
    statistics : dict
        Statistics of the training split: `class_frequencies`, `classes` and `cells` if there are others than
        background and cell, and `smoothed_raw` as `measure` returns it.

    Returns
    -------
    (y, x) array of float32
        Cell probability, 0 to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.segmentation.baselines import cell_probability
    >>> cell_probability("constant", np.zeros((1, 1, 3)), {"class_frequencies": [0.25, 0.75]})
    array([[0.75, 0.75, 0.75]], dtype=float32)
    """
    span = statistics["smoothed_raw"] if network == "smoothed_raw" else None
    if span is None or span["low"] == span["high"]:  # constant, or images of one gray level
        return np.full(raw.shape[1:], cell_share(statistics), np.float32)
    return np.clip((smooth(raw) - span["low"]) / (span["high"] - span["low"]), 0, 1).astype(np.float32)
