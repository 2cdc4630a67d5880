"""Training patches out of dataset files."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.data import augment
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.memory import CHUNK_CACHE_BYTES
from pipeline_lib.runtime.files import allow_open_files

PREFETCH = 4  # batches prepared ahead; that is a small part of a step, a few hide its variation


class Truth(Protocol):
    """What a task compares the network's output with; `tasks` make it."""

    shape: tuple[int, int, int]  # (z, y, x)

    def read(self, section: int, window: tuple[slice, slice]) -> np.ndarray:
        """Numbers for each pixel of a window of a section, float32 (k, h, w)."""


class Volume(NamedTuple):
    """An annotated volume: `raw` (c, z, y, x), numpy or h5py, and its `truth`."""

    raw: Any
    truth: Truth


@dataclass(frozen=True)
class Region:
    """What one patch needs, before it is moved: the part of a section that it looks at.

    `image` (c, h, w) and `truth` (k, h, w), both float32; `centre` (row, column) is
    where in it the patch's centre lies. What lies beyond it is its mirror image: it ends only where the
    section does.
    """

    image: Tensor
    truth: Tensor
    centre: tuple[int, int]
    transform: augment.Transform
    seed: int

    def pinned(self) -> Region:
        """The same in page-locked memory, from which a GPU copies by itself."""
        return replace(self, image=self.image.pin_memory(), truth=self.truth.pin_memory())


class Patches:
    """Random patches of `tile` px, each a pure function of (`seed`, its number).

    A patch is centred anywhere in the volumes with equal probability; what lies outside a section is
    mirrored.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        normalisation: Normalisation,
        context: int,
        tile: int,
        augmentation: augment.Augmentation,
        seed: int,
    ) -> None:
        self.volumes = volumes
        self.normalisation = normalisation
        self.context = context  # px that the network's output is smaller by, on either side
        self.tile = tile
        self.augmentation = augmentation
        self.seed = seed
        pixels = np.array([np.prod(truth.shape, dtype=float) for _, truth in volumes])
        self.share = pixels / pixels.sum()

    def read(self, number: int) -> Region:
        """Draw and read the patch of this number, not yet moved."""
        rng = np.random.default_rng([self.seed, number])
        transform = augment.draw(self.augmentation, rng)
        raw, truth = self.volumes[rng.choice(len(self.volumes), p=self.share)]
        section, *centre = (int(rng.integers(size)) for size in truth.shape)
        reach = augment.reach(transform, self.tile)
        window = tuple(slice(max(c - reach, 0), c + reach + 1) for c in centre)
        rows, columns = (np.arange(size)[part] for size, part in zip(truth.shape[1:], window, strict=True))
        image = self.normalisation.apply(raw[(slice(None), section, *window)], rows, columns)
        return Region(
            torch.from_numpy(image),
            torch.from_numpy(truth.read(section, window)),
            tuple(c - part.start for c, part in zip(centre, window, strict=True)),
            transform,
            int(rng.integers(2**62)),
        )

    def move(self, region: Region, device: torch.device) -> tuple[Tensor, Tensor]:
        """Augment on `device`.

        Returns image (1, c, tile, tile) and truth (1, k, out, out), where out = tile - 2 `context`.
        """
        transform, context = region.transform, self.context
        terms = augment.placement(transform, region.centre)
        basis = augment.basis(self.tile, transform.nodes.shape[-1], device)
        inner = basis[context : self.tile - context]
        image = augment.sample(region.image.to(device, non_blocking=True), terms, basis, "bicubic")
        truth = augment.sample(region.truth.to(device, non_blocking=True), terms, inner, "nearest")
        generator = torch.Generator(device).manual_seed(region.seed)
        return augment.vary_gray(image, transform, generator)[None], truth[None]

    def batches(
        self, numbers: Iterable[Sequence[int]], device: torch.device
    ) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """For each batch of `numbers` its patches, prepared ahead in a thread of their own.

        On the CPU that thread takes the core which a step leaves idle here and there.
        """

        def prepare(batch: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
            regions = map(self.read, batch)
            # from page-locked memory a GPU copies by itself
            pinned = (region.pinned() for region in regions) if device.type == "cuda" else regions
            return [self.move(region, device) for region in pinned]

        with ThreadPoolExecutor(1) as preparer:
            ahead: deque[Future] = deque()
            for batch in numbers:
                ahead.append(preparer.submit(prepare, batch))
                if len(ahead) > PREFETCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def open_volumes(
    stack: ExitStack,
    open_volume: Callable[[ExitStack, Path, Path, int], Volume],
    datasets: Sequence[Path],
    weight_maps: Sequence[Path],
) -> list[Volume]:
    """Open dataset and weight map files, by a task's `open`, for as long as `stack` lives.

    Raises
    ------
    InputError
        If the system lets this process open too few files.
    """
    allow_open_files(2 * len(datasets), "training", "make the images sections of fewer volumes")
    # for chunks of all volumes together, unpacked once and met again by many patches
    cache = CHUNK_CACHE_BYTES // max(4 * len(datasets), 1)
    return [open_volume(stack, *paths, cache) for paths in zip(datasets, weight_maps, strict=True)]
