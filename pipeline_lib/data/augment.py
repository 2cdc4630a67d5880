"""Augmentation of training patches: rigid motion, elastic deformation and gray values.

Ronneberger et al. 2015, section 3.1.

A transform is a handful of numbers, drawn on the CPU; the pixels are moved on the device the training runs
on. Images are interpolated, bicubically, for bilinear interpolation blurs: a network trained on blurred
patches meets sharper images in prediction. Labels and weights are picked whole from the nearest pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# The largest possible sum of absolute bicubic weights (a = -0.75) per axis, 1.375, squared: how far
# interpolation overshoots
_BICUBIC_OVERSHOOT = 1.375**2


@dataclass(frozen=True)
class Augmentation:
    """Ranges to draw from.

    `rotate` by any angle and `mirror`; `elastic_std` px, the Gaussian displacement of each node of a grid of
    `elastic_grid` x `elastic_grid` over the patch; gray values, in units of the normalised image: `gain` and
    `gamma` are drawn from 1 / (1 + g) to 1 + g, `offset` from -o to o, `noise` is the largest standard
    deviation of Gaussian noise.
    """

    rotate: bool = True
    mirror: bool = True
    elastic_std: float = 10.0
    elastic_grid: int = 3
    gain: float = 0.2
    offset: float = 0.2
    gamma: float = 0.2
    noise: float = 0.1


@dataclass(frozen=True)
class Transform:
    """One draw.

    `matrix` (2, 2) maps patch to image offsets in px (row, column); `nodes` (2, grid, grid) are displacements
    in px.
    """

    matrix: np.ndarray
    nodes: np.ndarray
    gain: float
    offset: float
    gamma: float
    noise: float


def draw(settings: Augmentation, rng: np.random.Generator) -> Transform:
    """Draw a transform.

    Every number is drawn whatever the settings, so that one setting does not shift the others' draws.
    """
    angle = settings.rotate * rng.uniform(0, 2 * math.pi)
    flip = -1.0 if rng.random() < 0.5 and settings.mirror else 1.0
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    nodes = rng.normal(0, 1, (2, settings.elastic_grid, settings.elastic_grid)) * settings.elastic_std
    gain, gamma = ((1 + limit) ** rng.uniform(-1, 1) for limit in (settings.gain, settings.gamma))
    return Transform(
        rotation @ np.diag([flip, 1.0]),
        nodes,
        gain,
        settings.offset * rng.uniform(-1, 1),
        gamma,
        settings.noise * rng.random(),
    )


def reach(transform: Transform, tile: int) -> int:
    """How far (px, either way) from the centre pixel a patch of `tile` px looks."""
    half = tile / 2 + _BICUBIC_OVERSHOOT * np.abs(transform.nodes).max(initial=0)
    return math.ceil(np.abs(transform.matrix).sum(axis=1).max() * half) + 1


@lru_cache(maxsize=4)
def basis(tile: int, grid: int, device: torch.device) -> Tensor:
    """The functions of row, or of column, that positions are sums of: float32 (tile, grid + 2).

    The bicubic weight of each of `grid` nodes, the distance from the centre pixel, and 1. With `placement`,
    `basis @ placement @ basis.T` are the positions in the image (2, tile, tile) of all pixels of a patch.
    """
    cubic = functional.interpolate(
        torch.eye(grid)[None, None], size=(tile, grid), mode="bicubic", align_corners=True
    )[0, 0]
    distance = torch.arange(tile)[:, None] - tile // 2
    return torch.cat([cubic, distance, torch.ones(tile, 1)], dim=1).to(device)


def placement(transform: Transform, centre: tuple[int, int]) -> np.ndarray:
    """Coefficients (2, grid + 2, grid + 2) of the positions (row, column) of a patch around `centre`."""
    grid = transform.nodes.shape[-1]
    terms = np.zeros((2, grid + 2, grid + 2))
    terms[:, :grid, :grid] = transform.nodes
    terms[0, grid, -1] = terms[1, -1, grid] = 1
    terms = np.tensordot(transform.matrix, terms, 1)
    terms[:, -1, -1] += centre
    return terms


def sample(image: Tensor, terms: np.ndarray, basis: Tensor, mode: str) -> Tensor:
    """Values (c, y, x) of `image` (c, h, w), mirrored at its edges, at the positions of `terms` and `basis`.

    `mode` is `bicubic` or, which leaves values as they are, `nearest`.
    """
    last = np.maximum(np.array(image.shape[1:]) - 1, 1)[:, None, None]
    terms = terms * (2 / last)
    terms[:, -1, -1] -= 1  # from 0..last to -1..1, and columns first, as grid_sample takes them
    grid = basis @ torch.as_tensor(terms[::-1].copy(), dtype=torch.float32, device=image.device) @ basis.T
    return functional.grid_sample(
        image[None], grid.permute(1, 2, 0)[None], mode, padding_mode="reflection", align_corners=True
    )[0]


def vary_gray(image: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
    """Gamma over the patch's own range, then gain, offset and Gaussian noise.

    `image` (c, y, x) float32, normalised.
    """
    low, high = image.aminmax()
    span = (high - low).clamp(min=1e-6)
    gain, offset = transform.gain, transform.offset
    noise = torch.randn(image.shape, generator=generator, device=image.device).mul_(transform.noise)
    varied = image.sub(low).div_(span).pow_(transform.gamma).mul_(span * gain)
    return varied.add_(low * gain + offset).add_(noise)
