"""Cells to measure with: many of them, on sections of any size, drawn within seconds."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

MEMBRANE = 4  # px
ROWS = 256  # drawn at a time, which bounds the memory


def draw_labels(size: int, cell_diameter: float = 44, seed: int = 0) -> np.ndarray:
    """Cells between membranes of 4 px: labels (y, x), uint32, 0 = background, diameters (px) on average."""
    centres = np.random.default_rng(seed).random((round((size / cell_diameter) ** 2), 2)) * size
    tree = KDTree(centres)
    labels = np.empty((size, size), np.uint32)
    for top in range(0, size, ROWS):
        rows = labels[top : top + ROWS]
        y, x = np.indices(rows.shape)
        distance, cell = tree.query(np.stack([y + top, x], axis=-1), k=2, workers=-1)
        rows[...] = np.where(distance[..., 1] - distance[..., 0] > MEMBRANE, cell[..., 0] + 1, 0)
    return labels


def draw_maps(cells: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Probability maps (y, x), float32 in 0..1, of `cells` (y, x): a good one, a poor one, and noise."""
    rng = np.random.default_rng(seed)
    blurred = ndimage.gaussian_filter((cells > 0).astype(float), 1.5)
    fine, coarse = (ndimage.gaussian_filter(rng.normal(0, 1, cells.shape), sigma) for sigma in (2, 4))
    maps = {
        "good": blurred + 0.15 * fine / fine.std(),
        "poor": 0.5 * blurred + 0.25 + 0.2 * coarse / coarse.std(),
        "white noise": rng.random(cells.shape),
    }
    return {name: probability.clip(0, 1).astype(np.float32) for name, probability in maps.items()}
