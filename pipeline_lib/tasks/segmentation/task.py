"""Semantic segmentation as a task: truth, loss, decoding and validation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline_lib import layout, metrics
from pipeline_lib.data.augment import Augmentation
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.data.patches import Patches, Volume
from pipeline_lib.inference.passes import orient, orient_back
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.kernels.sections import count_annotated, ignored_pixels
from pipeline_lib.networks import Plan
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored
from pipeline_lib.tasks.segmentation.classes import TWO, Classes, target_class
from pipeline_lib.tasks.segmentation.losses import weighted_cross_entropy

# Scoring at these thresholds takes a few hundredths of a second per section of 512 px. They are float64, so
# that ties are decided in float64.
VALIDATION_THRESHOLDS = tuple(np.arange(1, 10) / 10)
EVERYWHERE = slice(None), slice(None)


@dataclass(frozen=True)
class PixelTruth:
    """Truth of a volume for the loss and the validation.

    Parameters
    ----------
    labels : (z, y, x) array of uint32
        Instance labels, 0 = background. Numpy or h5py, as the other arrays.
    separation_border : (z, y, x) array of uint8
        1 where a pixel of a cell counts as background.
    weight_map : (z, y, x) array of float32
        Weight of each pixel in the loss. It is 0 where `ignore` is not.
    ignore : (z, y, x) array of uint8 or None, optional
        1 where a pixel is not annotated. None if all are annotated.
    target : (z, y, x) array of uint8 or None, optional
        Class of each pixel. If None, it follows from `labels` and `separation_border`.
    class_weights : (classes,) array of float64 or None, optional
        Weight w_c of each class that `weight_map` contains. None if it is 1 for all classes.
    """

    labels: Stored
    separation_border: Stored
    weight_map: Stored
    ignore: Stored | None = None
    target: Stored | None = None
    class_weights: npt.NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the volume, (z, y, x)."""
        depth, height, width = self.labels.shape
        return depth, height, width

    def read(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.float32]:
        """Return class and weight of each pixel in a window of a section, (2, y, x) float32."""
        weights = self.weight_map[section, *window]
        return np.stack([self.classes(section, window), weights], dtype=np.float32)

    def classes(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel in a window of a section, (y, x) uint8."""
        region = (section, *window)
        if self.target is None:
            return target_class(self.labels[region], self.separation_border[region])
        return np.asarray(self.target[region])


@dataclass(frozen=True)
class Background:
    """Truth of a volume without cells: class 0 with the weight 1 everywhere.

    Parameters
    ----------
    shape : tuple of int
        Shape of the volume, (z, y, x).
    """

    shape: tuple[int, int, int]
    ignore: None = None
    class_weights: None = None

    def read(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.float32]:
        """Return class and weight of each pixel in a window of a section, (2, y, x) float32."""
        background = self.classes(section, window).astype(np.float32)
        return np.stack([background, background + 1])

    def classes(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.uint8]:
        """Return the class of each pixel in a window of a section, (y, x) uint8."""
        rows, columns = (len(range(*part.indices(n))) for part, n in zip(window, self.shape[1:], strict=True))
        return np.zeros((rows, columns), np.uint8)


class SectionScores(NamedTuple):
    """Contribution of one section to the validation scores.

    Attributes
    ----------
    energies : list of float
        Sum of the weighted cross entropy over the pixels of each tile.
    v_rand : list of float
        V-Rand after thinning at each of `VALIDATION_THRESHOLDS`. Empty if the section has no cells.
    pixels : int
        Number of annotated pixels.
    """

    energies: list[float]
    v_rand: list[float]
    pixels: int


class Task:
    """Segmentation of the pixels into classes. `tasks.Task` documents the methods."""

    name: ClassVar[str] = "segmentation"
    pixelwise: ClassVar[bool] = True
    augmentation: ClassVar[type[Augmentation]] = Augmentation
    scores: ClassVar[dict[str, bool]] = {"loss": False, "v_rand_thin": True}

    def __init__(self, classes: Sequence[str] = TWO.names, cells: Sequence[str] = TWO.cells) -> None:
        self.of = Classes(classes, cells)
        self.classes = len(self.of)
        self.class_names, self.cell_names = tuple(classes), tuple(cells)

    def open(self, stack: ExitStack, dataset: str | Path, weight_map: str | Path, cache_bytes: int) -> Volume:
        """Open raw images, and labels, separation border, weight map and ignored pixels as `PixelTruth`."""
        arrays = (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
        file = stack.enter_context(layout.require(dataset, *arrays, cache_bytes=cache_bytes))
        weights = stack.enter_context(layout.require(weight_map, layout.WEIGHT_MAP, cache_bytes=cache_bytes))
        found = layout.annotated(file)
        weighted = weights[layout.WEIGHT_MAP.name]
        w_c = layout.class_weights(weighted)
        if len(w_c) != self.classes:
            raise InputError(
                f"{weight_map}: has weights of {len(w_c)} classes, but the network learns {self.classes}. "
                "Delete the file and run the workflow again."
            )
        truth = PixelTruth(
            found.labels,
            found.separation_border,
            weighted,
            found.ignore,
            found.target,
            None if (w_c == 1).all() else w_c,
        )
        return Volume(found.raw, truth)

    def example(self, shape: tuple[int, int, int]) -> Background:
        """Return the truth of a volume without cells, because the time does not depend on them."""
        return Background(shape)

    def patches(self, plan: Plan, *arguments: Any) -> Patches:
        """Return patches of images with class and weight of each pixel."""
        return Patches(*arguments)

    def forward(self, network: Network, image: Tensor, truth: Tensor) -> Tensor:
        """Return the output of the network."""
        return cast("Tensor", network(image))

    def loss(self, output: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weighted cross entropy of the logits `output` (n, classes, y, x)."""
        return weighted_cross_entropy(output, truth[:, 0].long(), truth[:, 1], mask) * len(output)

    def count(self, plan: Plan, truth: Tensor) -> int:
        """Return the number of patches."""
        return len(truth)

    def count_classes(self, truth: Tensor) -> Tensor:
        """Return the number of pixels of each class that have a weight."""
        annotated = truth[:, 1] > 0
        return truth[:, 0][annotated].long().bincount(minlength=self.classes)

    def decode(
        self,
        network: Callable[[Tensor], Tensor],
        image: Tensor,
        average_orientations: bool = False,
        log_prior: Sequence[float] = (),
    ) -> Tensor:
        """Return the probabilities of the classes, (classes, y, x) float32."""
        total: Tensor | float = 0.0
        orientations = range(8) if average_orientations else range(1)
        for orientation in orientations:
            batch = orient(image, orientation)[None].contiguous(memory_format=torch.channels_last)
            logits = network(batch)[0].float()
            if log_prior:
                logits = logits + logits.new_tensor(log_prior)[:, None, None]
            total = total + orient_back(logits.softmax(0), orientation)
        return cast("Tensor", total) / len(orientations)

    def validate(
        self, truth: PixelTruth, section: int, outputs: Iterator[tuple[Tile, Tensor]]
    ) -> SectionScores:
        """Return the energies of the tiles and V-Rand of a section."""
        ignored = ignored_pixels(truth.ignore, section)
        labels, border = truth.labels[section], truth.separation_border[section]
        target, weights = truth.classes(section, EVERYWHERE), truth.weight_map[section]
        probability = np.empty(labels.shape, np.float32)
        energies: list[float] = []
        scores: list[float] = []
        for tile, output in outputs:
            p = output[(slice(None), *tile.crop)].cpu().numpy()
            learned = p if truth.class_weights is None else _weighted(p, truth.class_weights)
            own = np.take_along_axis(learned, target[None, *tile.write].astype(np.intp), 0)[0]
            energies.append(-float((weights[tile.write] * np.log(np.maximum(own, 1e-12))).sum(dtype=float)))
            probability[tile.write] = self.of.of_cells(p)
        apart = cells_apart(labels, border, ignored)
        if apart.any():
            cells = metrics.connected_components(apart)
            thinned = (metrics.thin_borders(probability > t, ignore=ignored) for t in VALIDATION_THRESHOLDS)
            scores = [metrics.v_rand(cells, predicted) for predicted in thinned]
        return SectionScores(energies, scores, count_annotated(target, ignored))

    def scores_of(self, found: list[SectionScores]) -> dict[str, float]:
        """Return the weighted cross entropy per pixel, and V-Rand after thinning at its best threshold.

        Only annotated pixels count. V-Rand is the mean over the sections that have cells. It is NaN if no
        section has cells.
        """
        energies, scores, pixels = zip(*found, strict=True)
        with_cells = [row for row in scores if row]
        v_rand = float(np.max(np.mean(with_cells, axis=0))) if with_cells else math.nan
        return {"loss": sum(itertools.chain(*energies)) / sum(pixels), "v_rand_thin": v_rand}

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> h5py.Dataset:
        """Add `cell_probability` to a prediction file, and `class_probability` if there are more classes."""
        if self.of.several:
            all_classes = layout.add(file, layout.CLASS_PROBABILITY, (self.classes, *shape))
            layout.write_classes(all_classes, self.class_names, self.cell_names)
        return layout.add(file, layout.CELL_PROBABILITY, shape)

    def write(self, target: h5py.Dataset, section: int, tile: Tile, output: Tensor) -> None:
        """Write the probability that a pixel is inside a cell, and those of all classes."""
        probability = output[(slice(None), *tile.crop)].cpu().numpy()
        target[(section, *tile.write)] = self.of.of_cells(probability)
        if self.of.several:
            target.parent[layout.CLASS_PROBABILITY.name][(slice(None), section, *tile.write)] = probability


def _weighted(
    probability: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Return the probabilities for which a loss with weights of the classes is smallest.

    They are proportional to p_k w_k. So the validation loss stays that of the training, whose minimum is not
    at the corrected probabilities.
    """
    found = probability * weights.astype(np.float32)[:, None, None]
    return cast("npt.NDArray[np.float32]", found / found.sum(0))
