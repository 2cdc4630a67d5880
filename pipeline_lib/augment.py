"""Augmentation of training patches: rigid motion, elastic deformation and gray values.

Ronneberger et al. 2015, section 3.1.

A transform is a handful of numbers, drawn on the CPU; the pixels are moved on the device the training runs
on. Images are interpolated; labels and weights are picked whole from the nearest pixel, and so never blurred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """How far (px, either way) from the centre pixel a patch of `tile` px looks.

    The region to read is 2 reach + 1 px wide.
    """
    half = tile / 2 + _BICUBIC_OVERSHOOT * np.abs(transform.nodes).max(initial=0)
    return math.ceil(np.abs(transform.matrix).sum(axis=1).max() * half) + 1


def source_offsets(transform: Transform, tile: int, device: torch.device) -> Tensor:
    """Where each pixel of the patch comes from: float32 offsets (2, tile, tile) in px.

    Rows, then columns, counted from the centre pixel of the region.
    """
    position = torch.arange(tile, device=device, dtype=torch.float32) - tile // 2
    patch = torch.stack(torch.meshgrid(position, position, indexing="ij"))
    if transform.nodes.any():
        nodes = torch.as_tensor(transform.nodes, dtype=torch.float32, device=device)
        patch = (
            patch
            + functional.interpolate(nodes[None], size=(tile, tile), mode="bicubic", align_corners=True)[0]
        )
    matrix = torch.as_tensor(transform.matrix, dtype=torch.float32, device=device)
    return torch.einsum("ij,jyx->iyx", matrix, patch)


def interpolate(region: Tensor, offsets: Tensor) -> Tensor:
    """Bilinear values of `region` (c, 2r + 1, 2r + 1) at `offsets` (2, y, x); float32 (c, y, x)."""
    grid = offsets.flip(0).permute(1, 2, 0) / (region.shape[-1] // 2)  # grid_sample wants (x, y) in -1..1
    return functional.grid_sample(
        region[None], grid[None], mode="bilinear", padding_mode="border", align_corners=True
    )[0]


def pick(region: Tensor, offsets: Tensor) -> Tensor:
    """Nearest pixels of `region` (..., 2r + 1, 2r + 1) at `offsets` (2, y, x), values unchanged."""
    row, column = (offsets.round().long() + region.shape[-1] // 2).clamp_(0, region.shape[-1] - 1)
    return region[..., row, column]


def vary_gray(image: Tensor, transform: Transform, generator: torch.Generator) -> Tensor:
    """Gamma over the patch's own range, then gain, offset and Gaussian noise.

    `image` (c, y, x) float32, normalised.
    """
    low, high = image.amin(), image.amax()
    span = (high - low).clamp(min=1e-6)
    image = ((image - low) / span).pow(transform.gamma) * span + low
    noise = torch.randn(image.shape, generator=generator, device=image.device)
    return image * transform.gain + transform.offset + noise * transform.noise
