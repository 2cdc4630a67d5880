"""Gray levels of images: their range and moments, and hashes that identify sections by their pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np

from pipeline_lib.kernels.blocks import ALIGNMENT, blocks
from pipeline_lib.runtime.types import Json, Stored

HASH_BYTES = 32  # of SHA-256


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
        self._section = _Section()

    def add(self, region: np.ndarray, first_row: int, first_column: int) -> None:
        """Add a region of the current section.

        Parameters
        ----------
        region : (c, y, x) array
            Gray levels.
        first_row, first_column : int
            Position of the region in the section, multiples of `blocks.ALIGNMENT` (px).
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
        self._section.add(region, low, high, first_row, first_column)

    def end_section(self) -> np.ndarray:
        """End the current section.

        Returns
        -------
        (32,) array of uint8
            SHA-256 of its gray levels, which does not depend on the regions. 0 if each channel has one single
            gray level, because such sections are equal without being copies.
        """
        digest, self._section = self._section.digest(), _Section()
        return np.frombuffer(digest, np.uint8)

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
            gray.add(volume[:, z, *area.write], area.write[0].start, area.write[1].start)
        gray.end_section()
    return gray.to_dict() | {"dtype": str(volume.dtype), "scale": None}


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


class _Section:
    """Hash of a section. The hashes of its tiles of `ALIGNMENT` px are hashed in the order of the tiles."""

    def __init__(self) -> None:
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.range: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, region: np.ndarray, low: np.ndarray, high: np.ndarray, row: int, column: int) -> None:
        self.range.append((low, high))
        for tile in blocks((region.shape[1], region.shape[2]), ALIGNMENT):
            rows, columns = tile.write
            part = np.ascontiguousarray(region[:, rows, columns])
            at = row + rows.start, column + columns.start
            named = hashlib.sha256(repr((at, part.shape, part.dtype.str)).encode())
            named.update(part.data)
            self.tiles[at] = named.digest()

    def digest(self) -> bytes:
        low, high = (np.array(values) for values in zip(*self.range, strict=True))
        if (low.min(axis=0) == high.max(axis=0)).all():
            return bytes(HASH_BYTES)
        return hashlib.sha256(b"".join(digest for _, digest in sorted(self.tiles.items()))).digest()
