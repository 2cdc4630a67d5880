"""Draw sections of any size with many cells for benchmarks, block by block, within seconds.

A section is a window onto an infinite plane that depends only on position and seed. Each square of a grid
contains the centre of one cell, each pixel belongs to the nearest centre, waves bend the borders, and gray
levels vary by cell, grain and pixel. All random values are hashes of positions, so a region looks the same
regardless of the blocks in which it is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from pipeline_lib.kernels.compiled import compiled

CELL_DIAMETER = 44.0  # px, side of the squares of the grid
MEMBRANE = 4  # px
SOFT = 2  # px over which the dark of a membrane fades into the cells
WAVE_HEIGHT, WAVE_LENGTH = 0.08, 1.3  # in cell diameters
CYTOPLASM, ORGANELLE, DARK = 160.0, 95.0, 60.0  # gray levels; DARK is that of membranes
RING = 5.0  # px, radius of the ring-shaped organelle at the centre of every fourth cell
NOISE = 0.09  # gray levels per unit of a sum of four random bytes (standard deviation 148)
FILE_TILE = 512  # px

NEAR = 2  # distance in squares within which the two centres nearest to a pixel lie
PATCH = 8  # px; candidate cells are determined once for each patch of this side


def draw_region(
    rows: slice, columns: slice, width: int, *, cell_diameter: float = CELL_DIAMETER, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a region of a section.

    Parameters
    ----------
    rows, columns : slice
        Region in px.
    width : int
        Width of the whole section in px. Cells are numbered row by row through the section, with gaps, and
        the numbers depend only on the width.
    cell_diameter : float
        Mean distance of cells in px.
    seed : int
        Seed of the plane.

    Returns
    -------
    image : np.ndarray
        Gray levels (y, x), uint8.
    labels : np.ndarray
        Labels (y, x), uint32, 0 on membranes.
    """
    # Patches are aligned to the plane, so whole patches are drawn and the region is cut out of them.
    start = [axis.start // PATCH * PATCH for axis in (rows, columns)]
    stop = [-(-axis.stop // PATCH) * PATCH for axis in (rows, columns)]
    shape = stop[0] - start[0], stop[1] - start[1]
    image, labels = np.empty(shape, np.uint8), np.empty(shape, np.uint32)
    first = [math.floor(n / cell_diameter) - NEAR for n in start]
    last = [math.floor(n / cell_diameter) + NEAR for n in stop]
    per_row = math.ceil(width / cell_diameter) + 2 * NEAR + 1
    cells = _place_cells(*first, *last, per_row, cell_diameter, np.uint64(seed))
    height, frequency = WAVE_HEIGHT * cell_diameter, 2 * math.pi / (WAVE_LENGTH * cell_diameter)
    waves = [height * np.sin(frequency * np.arange(*ends)) for ends in zip(start, stop, strict=True)]
    _draw(image, labels, *start, *first, *cells, *waves, cell_diameter, np.uint64(seed))
    region = tuple(
        slice(axis.start - n, axis.stop - n) for axis, n in zip((rows, columns), start, strict=True)
    )
    return image[region], labels[region]


def draw_labels(size: int, cell_diameter: float = CELL_DIAMETER, seed: int = 0) -> np.ndarray:
    """Return the labels of a whole section of `size` x `size` px (see `draw_region`)."""
    return draw_region(slice(0, size), slice(0, size), size, cell_diameter=cell_diameter, seed=seed)[1]


def draw_images(path: Path, size: int, seed: int = 0) -> None:
    """Write the image of a section of `size` x `size` px, uint8, as a BigTIFF file of compressed tiles."""
    _write(path, size, seed, np.uint8, 0)


def draw_annotation(path: Path, size: int, seed: int = 0) -> None:
    """Write the labels of the section that `draw_images` writes, uint32."""
    _write(path, size, seed, np.uint32, 1)


def draw_maps(cells: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Return three probability maps (y, x), float32 in 0..1, of `cells` (y, x): good, poor, white noise."""
    rng = np.random.default_rng(seed)
    blurred = ndimage.gaussian_filter((cells > 0).astype(float), 1.5)
    fine, coarse = (ndimage.gaussian_filter(rng.normal(0, 1, cells.shape), sigma) for sigma in (2, 4))
    maps = {
        "good": blurred + 0.15 * fine / fine.std(),
        "poor": 0.5 * blurred + 0.25 + 0.2 * coarse / coarse.std(),
        "white noise": rng.random(cells.shape),
    }
    return {name: probability.clip(0, 1).astype(np.float32) for name, probability in maps.items()}


def _write(path: Path, size: int, seed: int, dtype: type, which: int) -> None:
    def tiles() -> Iterator[np.ndarray]:
        """Yield tiles one by one; readers of the file crop those that extend beyond the section."""
        for top in range(0, size, FILE_TILE):
            for left in range(0, size, FILE_TILE):
                region = slice(top, top + FILE_TILE), slice(left, left + FILE_TILE)
                yield draw_region(*region, size, seed=seed)[which]

    tifffile.imwrite(
        path,
        tiles(),
        shape=(size, size),
        dtype=dtype,
        tile=(FILE_TILE, FILE_TILE),
        compression="zlib",
        compressionargs={"level": 1},
        bigtiff=True,
    )


# All are uint64, since numba converts the sum of a signed and an unsigned integer to float.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31 = np.uint64(27), np.uint64(30), np.uint64(31)
_8, _16, _24, _32, _BYTE, _LOW = (np.uint64(n) for n in (8, 16, 24, 32, 0xFF, 0xFFFFFFFF))
_CELLS, _GRAINS, _PIXELS = np.uint64(1), np.uint64(2), np.uint64(3)


@compiled
def _hash(seed, kind, i, j):
    """Return 64 random bits for a position: splitmix64 (Steele, Lea & Flood 2014) of its coordinates."""
    h = (np.uint64(i) << _32) + (np.uint64(j) & _LOW) + (seed << _8) * _SECOND + kind * _STEP
    h = (h ^ (h >> _30)) * _FIRST
    h = (h ^ (h >> _27)) * _SECOND
    return h ^ (h >> _31)


@compiled
def _place_cells(first_i, first_j, last_i, last_j, per_row, diameter, seed):
    """Return centre y, x (px), label, gray level and organelle (bool) for each square of a grid region."""
    shape = last_i - first_i + 1, last_j - first_j + 1
    y, x, gray = np.empty(shape), np.empty(shape), np.empty(shape)
    label, organelle = np.empty(shape, np.uint32), np.empty(shape, np.bool_)
    for i in range(first_i, last_i + 1):
        for j in range(first_j, last_j + 1):
            k = i - first_i, j - first_j
            h = _hash(seed, _CELLS, i, j)
            y[k] = (i + (h & _LOW) / 2.0**32) * diameter
            x[k] = (j + (h >> _32) / 2.0**32) * diameter
            label[k] = 1 + (i + NEAR) * per_row + j + NEAR
            gray[k] = CYTOPLASM + 40 * ((h & _BYTE) / 255 - 0.5)
            organelle[k] = (h >> _32) & _BYTE < 64
    return y, x, label, gray, organelle


@compiled
def _draw(
    image,
    labels,
    top,
    left,
    first_i,
    first_j,
    y,
    x,
    label,
    gray,
    organelle,
    row_wave,
    column_wave,
    diameter,
    seed,
):
    middle = PATCH // 2
    # If a centre is farther from the middle of the patch than the nearest centre, by more than `reach`, it
    # affects no pixel of the patch. `reach` is the diagonal, which waves stretch by less than half, plus the
    # membrane.
    reach = 1.5 * PATCH * math.sqrt(2) + MEMBRANE + SOFT
    side = 2 * NEAR + 1
    distance, chosen = np.empty((side, side)), np.empty((side * side, 2), np.int64)
    for above in range(0, image.shape[0], PATCH):
        for before in range(0, image.shape[1], PATCH):
            own_i = math.floor((top + above + middle) / diameter) - first_i - NEAR
            own_j = math.floor((left + before + middle) / diameter) - first_j - NEAR
            at_y = top + above + middle + column_wave[before + middle]
            at_x = left + before + middle + row_wave[above + middle]
            nearest = np.inf
            for i in range(side):
                for j in range(side):
                    dy, dx = y[own_i + i, own_j + j] - at_y, x[own_i + i, own_j + j] - at_x
                    distance[i, j] = math.sqrt(dy * dy + dx * dx)
                    nearest = min(nearest, distance[i, j])
            count = 0
            for i in range(side):
                for j in range(side):
                    if distance[i, j] <= nearest + reach:
                        chosen[count] = own_i + i, own_j + j
                        count += 1
            for row in range(above, above + PATCH):
                for column in range(before, before + PATCH):
                    at_y = top + row + column_wave[column]
                    at_x = left + column + row_wave[row]
                    first, second, cell = np.inf, np.inf, 0
                    for k in range(count):
                        dy, dx = y[chosen[k, 0], chosen[k, 1]] - at_y, x[chosen[k, 0], chosen[k, 1]] - at_x
                        d = dy * dy + dx * dx
                        if d < first:
                            first, second, cell = d, first, k
                        elif d < second:
                            second = d
                    here = chosen[cell, 0], chosen[cell, 1]
                    first, second = math.sqrt(first), math.sqrt(second)
                    labels[row, column] = label[here] if second - first > MEMBRANE else 0
                    value = gray[here]
                    if organelle[here] and abs(first - RING) < 1.5:
                        value = ORGANELLE
                    grain = _hash(seed, _GRAINS, (top + row) >> 1, (left + column) >> 1)
                    value += ((grain & _BYTE) / 255 - 0.5) * 30
                    light = (second - first - MEMBRANE + SOFT) / (2 * SOFT)
                    value = DARK + (value - DARK) * min(max(light, 0.0), 1.0)
                    h = _hash(seed, _PIXELS, top + row, left + column)
                    noise = (h & _BYTE) + (h >> _8 & _BYTE) + (h >> _16 & _BYTE) + (h >> _24 & _BYTE)
                    value += NOISE * (noise - 510.0)
                    image[row, column] = np.uint8(min(max(value, 0.0), 255.0))
