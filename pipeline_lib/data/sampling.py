"""Centres of training patches with equal shares of all classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.blocks import ALIGNMENT

if TYPE_CHECKING:
    from pipeline_lib.data.patches import PixelwiseTruth

MOST_BLOCKS = 2**20  # whose classes are counted separately, of all volumes together: 8 MB for each class


class ClassBalanced:
    """Random pixels of volumes: first a class, all equally likely, then a pixel of it, all equally likely.

    Pixels that are not annotated are never drawn. Classes that do not occur are not drawn either.

    Pixels are not listed, because a list would grow with the volumes. Instead, the classes are counted in
    each block of a section, once, and a pixel is found by reading the block that contains it.

    Parameters
    ----------
    truths : sequence of PixelwiseTruth
        Truth of each volume.
    classes : int
        Number of classes.

    Attributes
    ----------
    pixels : (classes,) array of int64
        Number of annotated pixels of each class in all volumes.
    shares : (classes,) array of float64
        Probability of each class to be drawn.
    """

    def __init__(self, truths: Sequence[PixelwiseTruth], classes: int) -> None:
        self._truths, self._classes = truths, classes
        self._side = ALIGNMENT
        self._grids = _grids(truths, self._side)
        while sum(map(math.prod, self._grids)) > MOST_BLOCKS:
            self._side *= 2
            self._grids = _grids(truths, self._side)
        self._first = np.cumsum([0, *map(math.prod, self._grids)])  # number of the first block of each volume
        counts = np.empty((classes, self._first[-1]), np.int64)
        for block in range(counts.shape[1]):
            counts[:, block] = np.bincount(self._read(block).ravel(), minlength=classes)[:classes]
        self._up_to = counts.cumsum(axis=1)  # pixels of each class up to and including each block
        self.pixels: npt.NDArray[np.int64] = self._up_to[:, -1]
        self.shares: npt.NDArray[np.float64] = (self.pixels > 0) / np.count_nonzero(self.pixels)

    def draw(self, rng: np.random.Generator) -> tuple[int, tuple[int, int, int]]:
        """Draw a pixel.

        Parameters
        ----------
        rng : numpy.random.Generator
            Source of the random numbers.

        Returns
        -------
        volume : int
            Number of the volume.
        pixel : tuple of int
            Section, row and column of the pixel.
        """
        kind = int(rng.choice(np.flatnonzero(self.pixels)))
        index = int(rng.integers(self.pixels[kind]))
        block = int(np.searchsorted(self._up_to[kind], index, side="right"))
        found = self._read(block)
        from_end = index - self._up_to[kind, block]  # -1 is the last pixel of the class in the block
        row, column = divmod(int(np.flatnonzero(found == kind)[from_end]), found.shape[1])
        volume, section, (rows, columns) = self._place(block)
        return volume, (section, rows.start + row, columns.start + column)

    def _place(self, block: int) -> tuple[int, int, tuple[slice, slice]]:
        """Return volume, section, and rows and columns of a block, from its number in all volumes."""
        volume = int(np.searchsorted(self._first, block, side="right")) - 1
        section, *corner = np.unravel_index(block - self._first[volume], self._grids[volume])
        rows, columns = (slice(int(k) * self._side, (int(k) + 1) * self._side) for k in corner)
        return volume, int(section), (rows, columns)

    def _read(self, block: int) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel of a block; pixels that are not annotated have the next number."""
        volume, section, window = self._place(block)
        truth = self._truths[volume]
        found = truth.classes(section, window)
        if truth.ignore is not None:
            found[truth.ignore[section, *window] != 0] = self._classes
        return found


def _grids(truths: Sequence[PixelwiseTruth], side: int) -> list[tuple[int, int, int]]:
    """Return the number of blocks of each volume in z, y and x."""
    sizes = [truth.shape for truth in truths]
    return [(depth, -(-height // side), -(-width // side)) for depth, height, width in sizes]
