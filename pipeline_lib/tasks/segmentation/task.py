"""Semantic segmentation as a task: target, loss, validation and decoding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from torch import Tensor

from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference.passes import turned, turned_back
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.tasks.segmentation.classes import CLASSES, of_cells, target_class
from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy

# What costs a few hundredths of a second per section of 512 px; float64, in which ties are decided
VALIDATION_THRESHOLDS = tuple(np.arange(1, 10) / 10)


@dataclass(frozen=True)
class PixelTruth:
    """The truth of a volume: instance labels, separation border and weight map (z, y, x), numpy or h5py."""

    labels: Any
    separation_border: Any
    weight_map: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x)."""
        return self.labels.shape

    def read(self, section: int, window: tuple[slice, slice]) -> np.ndarray:
        """Class and weight of each pixel of a window, float32 (2, h, w)."""
        region = (section, *window)
        target = target_class(self.labels[region], self.separation_border[region])
        return np.stack([target, self.weight_map[region]], dtype=np.float32)


class Task:
    """Segmentation into `classes.CLASSES` classes; see `tasks.Task` for what each method is for."""

    name: ClassVar[str] = "segmentation"
    classes: ClassVar[int] = CLASSES
    scores: ClassVar[dict[str, bool]] = {"loss": False, "v_rand_thin": True}

    def open(self, stack: ExitStack, dataset: Path, weight_map: Path, cache_bytes: int) -> Volume:
        """Raw images, and labels, separation border and weight map as `PixelTruth`."""
        arrays = (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
        file = stack.enter_context(layout.require(dataset, *arrays, cache_bytes=cache_bytes))
        weights = stack.enter_context(layout.require(weight_map, layout.WEIGHT_MAP, cache_bytes=cache_bytes))
        found = layout.AnnotatedArrays(*(file[array.name] for array in arrays))
        truth = PixelTruth(found.labels, found.separation_border, weights[layout.WEIGHT_MAP.name])
        return Volume(found.raw, truth)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """Weighted cross entropy; `output` are logits (1, classes, y, x)."""
        return weighted_cross_entropy(output, truth[:, 0].long(), truth[:, 1])

    def decode(
        self, network: Callable[[Tensor], Tensor], image: Tensor, average_orientations: bool = False
    ) -> Tensor:
        """Probabilities of the classes, float32 (classes, y, x)."""
        total: Tensor | float = 0.0
        orientations = range(8) if average_orientations else range(1)
        for orientation in orientations:
            batch = turned(image, orientation)[None].contiguous(memory_format=torch.channels_last)
            total = total + turned_back(network(batch)[0].float().softmax(0), orientation)
        return total / len(orientations)

    def validate(
        self, truth: PixelTruth, section: int, outputs: Iterator[tuple[Tile, Tensor]]
    ) -> tuple[list[float], list[float], int]:
        """Energy of each tile, V-Rand at each of `VALIDATION_THRESHOLDS` (none without cells), pixels."""
        labels, border = truth.labels[section], truth.separation_border[section]
        target, weights = target_class(labels, border), truth.weight_map[section]
        probability = np.empty(labels.shape, np.float32)
        energies, scores = [], []
        for tile, output in outputs:
            p = output[(slice(None), *tile.crop)].cpu().numpy()
            own = np.take_along_axis(p, target[None, *tile.write].astype(np.intp), 0)[0]
            energies.append(-float((weights[tile.write] * np.log(np.maximum(own, 1e-12))).sum(dtype=float)))
            probability[tile.write] = of_cells(p)
        if target.any():
            cells = metrics.connected_components(cells_apart(labels, border))
            thinned = (metrics.thin_borders(probability > t) for t in VALIDATION_THRESHOLDS)
            scores = [metrics.v_rand(cells, predicted) for predicted in thinned]
        return energies, scores, target.size

    def scores_of(self, found: list[tuple[list[float], list[float], int]]) -> dict[str, float]:
        """Weighted cross entropy per pixel, and V-Rand after thinning at its best threshold.

        V-Rand is averaged over the sections that have cells, and NaN where none has.
        """
        energies, scores, pixels = zip(*found, strict=True)
        scores = [row for row in scores if row]
        v_rand = float(np.max(np.mean(scores, axis=0))) if scores else math.nan
        return {"loss": sum(itertools.chain(*energies)) / sum(pixels), "v_rand_thin": v_rand}

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> h5py.Dataset:
        """The array `cell_probability`."""
        return layout.add(file, layout.CELL_PROBABILITY, shape)

    def write(self, target: h5py.Dataset, section: int, tile: Tile, output: Tensor) -> None:
        """The probability of being inside a cell."""
        target[(section, *tile.write)] = of_cells(output[(slice(None), *tile.crop)]).cpu().numpy()
