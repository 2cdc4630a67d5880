"""Gray levels of images: their range and moments, and hashes that identify sections by their pixels."""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline_lib.kernels.blocks import ALIGNMENT, blocks
from pipeline_lib.runtime.types import Json

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
        """Return range, mean and standard deviation of each channel in plain Python types, for JSON.

        Returns
        -------
        dict
            `low`, `high`, `mean` and `std`, lists with one value per channel.
        """
        size, mean, variance = (np.array(values) for values in zip(*self._moments, strict=True))
        mean_of_all = np.average(mean, axis=0, weights=size)
        std = np.sqrt(np.average(variance + (mean - mean_of_all) ** 2, axis=0, weights=size))
        return {
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "mean": mean_of_all.tolist(),
            "std": std.tolist(),
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
