"""Fingerprints of sections, which find copies and overlaps whatever their type, scale or orientation.

They depend on the order of gray levels only, so they are the same after multiplication, addition of an offset
and conversion to another type, as long as different gray levels remain different.
"""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline_lib.kernels.blocks import ALIGNMENT, blocks

HASH_BYTES = 32  # of SHA-256
#: Largest number of windows that are kept of a section.
WINDOWS = 512
RADIUS = 4  # px, of a window
_LEVELS = 12  # gray levels that a window must have: fewer are noise of dark areas, or edges of drawings
_MOST_LEVELS = 1 << 16  # of sections that are hashed as a whole; others have many windows
# random weights of the pixels of a window, the same in its 8 orientations
_HALF = np.random.default_rng(0).integers(0, 2**60, (2 * RADIUS + 1,) * 2, np.uint64)
_WEIGHTS = np.sum([np.rot90(half, turn) for half in (_HALF, _HALF.T) for turn in range(4)], axis=0).ravel()


class Fingerprint:
    """Fingerprint of a section, which is added region by region. It does not depend on the regions.

    Parameters
    ----------
    channels : int
        Number of channels.
    shape : tuple of int
        Shape (y, x) of the section (px).
    """

    def __init__(self, channels: int, shape: tuple[int, int]) -> None:
        self._shape = shape
        self._levels: list[tuple[np.ndarray, np.ndarray]] = [(np.empty(0), np.empty(0))] * channels
        self._windows = np.empty(0, np.uint64)

    def add(self, region: np.ndarray, first_row: int, first_column: int) -> None:
        """Add a region.

        Parameters
        ----------
        region : (c, y, x) array
            Gray levels.
        first_row, first_column : int
            Position of the region in the section, multiples of `blocks.ALIGNMENT` (px).
        """
        y, x = (
            _mixed(np.abs(2 * (first + np.arange(length)) + 1 - size))  # distance from the middle
            for first, length, size in zip(
                (first_row, first_column), region.shape[1:], self._shape, strict=True
            )
        )
        place = 1 + (y[:, None] * x >> 20)
        self._levels = [
            _sums(gray, place, *known) if len(known[0]) <= _MOST_LEVELS else known
            for gray, known in zip(region, self._levels, strict=True)
        ]
        for area in blocks((region.shape[1], region.shape[2]), ALIGNMENT):
            for gray in region[:, *area.write]:
                # the smallest are a random choice that is the same in copies
                self._windows = np.unique(np.concatenate([self._windows, window_codes(gray)]))[:WINDOWS]

    def hash(self) -> np.ndarray:
        """Return the hash of the section.

        Returns
        -------
        (32,) array of uint8
            SHA-256 that is the same for all orientations and types of the section. 0 if each channel has one
            single gray level, because such sections are equal without being copies, or more than 65536.
        """
        numbers = [len(levels) for levels, _ in self._levels]
        if max(numbers) == 1 or max(numbers) > _MOST_LEVELS:
            return np.zeros(HASH_BYTES, np.uint8)
        found = hashlib.sha256(repr((sorted(self._shape), numbers)).encode())
        for _, sums in self._levels:
            found.update(sums.astype("<i8").data)
        return np.frombuffer(found.digest(), np.uint8)

    def windows(self) -> np.ndarray:
        """Return the codes of small windows of the section, see `window_codes`.

        Returns
        -------
        (512,) array of uint64
            The smallest codes, ascending, without repetition. Missing ones at the end are 0.
        """
        return np.pad(self._windows, (0, WINDOWS - len(self._windows)))


def window_codes(tile: np.ndarray) -> np.ndarray:
    """Return a code for each window of 9 x 9 px with the brightest pixel in its middle.

    The content decides where windows are, so two images of one place have the same windows, also if they are
    shifted, mirrored or turned. Windows with few gray levels are left out.

    Parameters
    ----------
    tile : (y, x) array
        Gray levels.

    Returns
    -------
    (n,) array of uint64
        Sums of the ranks of the gray levels in each window, with random weights.
    """
    from scipy import ndimage  # takes 0.2 s, which is needed only where images are read

    side = 2 * RADIUS + 1
    if min(tile.shape) < side:
        return np.empty(0, np.uint64)
    if tile.dtype == np.float16:  # which scipy does not filter
        tile = tile.astype(np.float32)
    peak = tile == ndimage.maximum_filter(tile, side)
    for axis in (0, 1):  # not the inside of saturated or empty areas
        peak &= (tile > np.roll(tile, 1, axis)) & (tile > np.roll(tile, -1, axis))
    around = np.lib.stride_tricks.sliding_window_view(tile, (side, side))
    windows = around[peak[RADIUS:-RADIUS, RADIUS:-RADIUS]].reshape(-1, side**2)
    order = windows.argsort(axis=1)
    ascending = np.take_along_axis(windows, order, axis=1)
    steps = np.zeros(windows.shape, np.uint64)
    steps[:, 1:] = (ascending[:, 1:] > ascending[:, :-1]).cumsum(axis=1)
    ranks = np.empty_like(steps)
    np.put_along_axis(ranks, order, steps, axis=1)
    codes: np.ndarray = (ranks @ _WEIGHTS)[steps[:, -1] >= _LEVELS]
    return codes


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Return pseudo-random numbers of 20 bits for numbers (multiplicative hashing)."""
    return ((numbers + 1) * 2654435761 & 0xFFFFFFFF) >> 12


def _sums(
    gray: np.ndarray, values: np.ndarray, levels: np.ndarray, sums: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add the sum of `values` at each gray level to `sums` of known `levels`; return both for all levels."""
    if gray.dtype.kind in "iu" and gray.dtype.itemsize <= 2:
        low = int(gray.min())
        added = np.bincount((gray.astype(np.int32) - low).ravel(), values.ravel())
        found = np.flatnonzero(added)
        gray, values = found + low, added[found]
    levels, place = np.unique(np.concatenate([levels, gray.ravel()]), return_inverse=True)
    return levels, np.bincount(place, np.concatenate([sums, values.ravel()]))
