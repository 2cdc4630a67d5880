"""Gray levels of images: their range and moments."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline_lib.kernels.blocks import ALIGNMENT, blocks
from pipeline_lib.runtime.types import Json, Stored


class GrayLevels:
    """Summary of the gray levels of a volume, which are added region by region.

    Parameters
    ----------
    channels : int
        Number of channels.
    """

    def __init__(self, channels: int) -> None:
        self.low, self.high = np.full(channels, np.inf), np.full(channels, -np.inf)
        self._moments: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._differences: list[tuple[int, np.ndarray]] = []

    def add(self, region: np.ndarray) -> None:
        """Add a region of a section.

        Parameters
        ----------
        region : (c, y, x) array
            Gray levels. Its position in the section is a multiple of `blocks.ALIGNMENT` (px).
        """
        low, high = region.min(axis=(1, 2)), region.max(axis=(1, 2))
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self._moments.append(
            (region[0].size, region.mean(axis=(1, 2), dtype=float), region.var(axis=(1, 2), dtype=float))
        )
        difference = np.diff(region.astype(np.float32), axis=2)
        difference[:, :, ALIGNMENT - 1 :: ALIGNMENT] = 0  # not across tiles, as they may be added separately
        pairs = region.shape[1] * (region.shape[2] - math.ceil(region.shape[2] / ALIGNMENT))
        self._differences.append((pairs, (difference**2).sum(axis=(1, 2), dtype=float)))

    def to_dict(self) -> Json:
        """Return range, mean, standard deviation and roughness of each channel, for JSON.

        Returns
        -------
        dict
            `low`, `high`, `mean`, `std` and `roughness`, lists with one value per channel. The roughness is
            half the mean squared difference of horizontal neighbours, divided by the variance: 1 for noise,
            and the smaller, the larger the structures are. It is 0 for one single gray level.
        """
        size, mean, variance = (np.array(values) for values in zip(*self._moments, strict=True))
        mean_of_all = np.average(mean, axis=0, weights=size)
        variance_of_all = np.average(variance + (mean - mean_of_all) ** 2, axis=0, weights=size)
        pairs, squares = (np.array(values) for values in zip(*self._differences, strict=True))
        divisor = 2 * max(pairs.sum(), 1) * variance_of_all
        roughness = np.divide(squares.sum(axis=0), divisor, np.zeros_like(divisor), where=divisor > 0)
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "mean": mean_of_all.tolist(),
            "std": np.sqrt(variance_of_all).tolist(),
            "roughness": roughness.tolist(),
        }


def summary(volume: Stored) -> Json:
    """Return the summary of a volume that was not multiplied by a stated scale.

    Parameters
    ----------
    volume : (c, z, y, x) array or HDF5 dataset
        Gray levels.

    Returns
    -------
    dict
        As `gray` in `layout.findings`.
    """
    gray = GrayLevels(volume.shape[0])
    for z in range(volume.shape[1]):
        for area in blocks((volume.shape[2], volume.shape[3]), 8 * ALIGNMENT):
            gray.add(volume[:, z, *area.write])
    return gray.to_dict() | {"dtype": str(volume.dtype), "scale": None, "offset": None}


def pool(summaries: Sequence[Json], pixels: Sequence[int]) -> Json:
    """Return the summary of several volumes together.

    Parameters
    ----------
    summaries : sequence of dict
        `low`, `high`, `mean` and `std` of each volume, as `GrayLevels.to_dict` returns them.
    pixels : sequence of int
        Number of pixels of each volume.

    Returns
    -------
    dict
        `low`, `high`, `mean` and `std` of all pixels, lists with one value per channel.

    Examples
    --------
    >>> from pipeline_lib.data.gray import pool
    >>> dark = {"low": [0], "high": [2], "mean": [1], "std": [1]}
    >>> pool([dark, {"low": [0], "high": [6], "mean": [3], "std": [3]}], [10, 10])
    {'low': [0], 'high': [6], 'mean': [2.0], 'std': [2.449489742783178]}
    """
    low, high, mean, std = (np.array([s[key] for s in summaries]) for key in ("low", "high", "mean", "std"))
    mean_of_all = np.average(mean, axis=0, weights=pixels)
    variance = np.average(std**2 + (mean - mean_of_all) ** 2, axis=0, weights=pixels)
    return {
        "low": low.min(axis=0).tolist(),
        "high": high.max(axis=0).tolist(),
        "mean": mean_of_all.tolist(),
        "std": np.sqrt(variance).tolist(),
    }
