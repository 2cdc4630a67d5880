"""Training patches out of dataset files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline_lib import augment, layout
from pipeline_lib.labels import target_class
from pipeline_lib.normalisation import Normalisation
from pipeline_lib.tiling import Geometry, mirror, read_mirrored

PREFETCH = 4  # patches read ahead; reading is a small part of a step, a few hide its variation


@dataclass(frozen=True)
class Region:
    """What one patch needs, before it is moved.

    Image (c, s, s) float32, target (s, s) uint8, weights (s, s) float32.
    """

    image: np.ndarray
    target: np.ndarray
    weights: np.ndarray
    transform: augment.Transform
    seed: int


class Patches:
    """Random patches of `tile` px, each a pure function of (`seed`, iteration).

    A patch is centred anywhere in the volumes with equal probability; what lies outside a section is
    mirrored.
    """

    def __init__(
        self,
        volumes: Sequence[tuple[Any, Any, Any, Any]],
        normalisation: Normalisation,
        geometry: Geometry,
        tile: int,
        augmentation: augment.Augmentation,
        seed: int,
    ) -> None:
        self.volumes = volumes  # per volume raw (c, z, y, x), labels, separation border, weight map (z, y, x)
        self.normalisation = normalisation
        self.geometry = geometry
        self.tile = tile
        self.augmentation = augmentation
        self.seed = seed
        pixels = np.array([np.prod(labels.shape, dtype=float) for _, labels, _, _ in volumes])
        self.share = pixels / pixels.sum()

    def read(self, iteration: int) -> Region:
        """Draw and read the patch of `iteration`, not yet moved."""
        rng = np.random.default_rng([self.seed, iteration])
        transform = augment.draw(self.augmentation, rng)
        raw, labels, border, weights = self.volumes[rng.choice(len(self.volumes), p=self.share)]
        section, *centre = (int(rng.integers(size)) for size in labels.shape)
        reach = augment.reach(transform, self.tile)
        rows, columns = (
            mirror(c - reach, c + reach + 1, size) for c, size in zip(centre, labels.shape[1:], strict=True)
        )
        image = self.normalisation.apply(read_mirrored(raw, section, rows, columns), rows, columns)
        target = target_class(*(read_mirrored(array, section, rows, columns) for array in (labels, border)))
        return Region(
            image, target, read_mirrored(weights, section, rows, columns), transform, int(rng.integers(2**62))
        )

    def move(self, region: Region, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Augment on `device`.

        Returns image (1, c, tile, tile), target (1, out, out) int64 and weights (1, out, out).
        """
        offsets = augment.source_offsets(region.transform, self.tile, device)
        context = self.geometry.context
        inner = offsets[:, context : self.tile - context, context : self.tile - context]
        image, target, weights = (
            torch.from_numpy(array).to(device) for array in (region.image, region.target, region.weights)
        )
        generator = torch.Generator(device).manual_seed(region.seed)
        image = augment.vary_gray(augment.interpolate(image, offsets), region.transform, generator)
        return image[None], augment.pick(target, inner)[None].long(), augment.pick(weights, inner)[None]

    def batches(self, first: int, last: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The patches of iterations first..last-1, read ahead in a thread of their own."""
        with ThreadPoolExecutor(1) as reader:
            ahead = [reader.submit(self.read, i) for i in range(first, min(first + PREFETCH, last))]
            for iteration in range(first, last):
                region = ahead.pop(0).result()
                if iteration + PREFETCH < last:
                    ahead.append(reader.submit(self.read, iteration + PREFETCH))
                yield self.move(region, device)


def open_volumes(
    stack: ExitStack, datasets: Sequence[Path], weight_maps: Sequence[Path]
) -> list[tuple[Any, Any, Any, Any]]:
    """Open dataset and weight map files for as long as `stack` lives.

    Returns raw (c, z, y, x), labels, separation border and weight map (z, y, x) of each volume.
    """
    volumes = []
    for dataset, weight_map in zip(datasets, weight_maps, strict=True):
        file = stack.enter_context(
            layout.require(dataset, layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
        )
        weights = stack.enter_context(layout.require(weight_map, layout.WEIGHT_MAP))
        volumes.append(
            (
                *(file[a.name] for a in (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)),
                weights[layout.WEIGHT_MAP.name],
            )
        )
    return volumes
