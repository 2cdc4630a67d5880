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
from pipeline_lib.inference.passes import orient, orient_back, turned_back
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.kernels.sections import count_annotated, ignored_pixels
from pipeline_lib.networks import Plan
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Offsets, Stored
from pipeline_lib.tasks.segmentation.classes import TWO, Classes, target_class
from pipeline_lib.tasks.segmentation.losses import (
    affinity_loss,
    dice_loss,
    dice_sums,
    true_affinities,
    weighted_cross_entropy,
)

# Scoring at these thresholds takes a few hundredths of a second per section of 512 px. They are float64, so
# that ties are decided in float64.
VALIDATION_THRESHOLDS = tuple(np.arange(1, 10) / 10)
EVERYWHERE = slice(None), slice(None)
EXACT = 2**24  # float32 represents smaller integers exactly


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
    with_labels : bool, default False
        Whether `read` also returns the labels, from which affinities are made.
    """

    labels: Stored
    separation_border: Stored
    weight_map: Stored
    ignore: Stored | None = None
    target: Stored | None = None
    class_weights: npt.NDArray[np.float64] | None = None
    with_labels: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the volume, (z, y, x)."""
        depth, height, width = self.labels.shape
        return depth, height, width

    def read(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.float32]:
        """Return class and weight of each pixel in a window of a section, (2, y, x) float32.

        With labels, (3, y, x): the third number is that of the cell, and 0 in the background.
        """
        own = [self.classes(section, window), self.weight_map[section, *window]]
        if self.with_labels:
            labels = self.labels[section, *window]
            if labels.max(initial=0) >= EXACT:
                _, found = np.unique(np.append(labels, 0), return_inverse=True)
                labels = found[:-1].reshape(labels.shape)
            own.append(labels)
        return np.stack(own, dtype=np.float32)

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
    with_labels : bool, default False
        Whether `read` also returns labels, as that of `PixelTruth`.
    """

    shape: tuple[int, int, int]
    ignore: None = None
    class_weights: None = None
    with_labels: bool = False

    def read(self, section: int, window: tuple[slice, slice]) -> npt.NDArray[np.float32]:
        """Return class, weight and, with labels, cell of each pixel in a window, (2 or 3, y, x) float32."""
        background = self.classes(section, window).astype(np.float32)
        return np.stack([background, background + 1, *([background] if self.with_labels else [])])

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
    affinity_loss : float, default 0.0
        Loss of the affinities of the section.
    """

    energies: list[float]
    v_rand: list[float]
    pixels: int
    affinity_loss: float = 0.0


class Task:
    """Segmentation of the pixels into classes. `tasks.Task` documents the methods.

    With `offsets`, the network also learns an affinity for each of them, in further channels of its output.
    Their sigmoid is the probability that a pixel and the one at the offset belong to the same cell.
    """

    name: ClassVar[str] = "segmentation"
    pixelwise: ClassVar[bool] = True
    augmentation: ClassVar[type[Augmentation]] = Augmentation
    scores: ClassVar[dict[str, bool]] = {"loss": False, "v_rand_thin": True}

    def __init__(
        self,
        classes: Sequence[str] = TWO.names,
        cells: Sequence[str] = TWO.cells,
        offsets: Offsets = (),
    ) -> None:
        self.of, self.offsets = Classes(classes, cells), offsets
        self.classes = len(self.of) + len(offsets)
        self.class_names, self.cell_names = tuple(classes), tuple(cells)

    def open(self, stack: ExitStack, dataset: str | Path, weight_map: str | Path, cache_bytes: int) -> Volume:
        """Open raw images, and labels, separation border, weight map and ignored pixels as `PixelTruth`."""
        arrays = (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
        file = stack.enter_context(layout.require(dataset, *arrays, cache_bytes=cache_bytes))
        weights = stack.enter_context(layout.require(weight_map, layout.WEIGHT_MAP, cache_bytes=cache_bytes))
        found = layout.annotated(file)
        weighted = weights[layout.WEIGHT_MAP.name]
        w_c = layout.class_weights(weighted)
        if len(w_c) != len(self.of):
            raise InputError(
                f"{weight_map}: has weights of {len(w_c)} classes, but the network learns {len(self.of)}. "
                "Delete the file and run the workflow again."
            )
        truth = PixelTruth(
            found.labels,
            found.separation_border,
            weighted,
            found.ignore,
            found.target,
            None if (w_c == 1).all() else w_c,
            bool(self.offsets),
        )
        return Volume(found.raw, truth)

    def example(self, shape: tuple[int, int, int]) -> Background:
        """Return the truth of a volume without cells, because the time does not depend on them."""
        return Background(shape, with_labels=bool(self.offsets))

    def patches(self, plan: Plan, *arguments: Any) -> Patches:
        """Return patches of images with class and weight of each pixel."""
        return Patches(*arguments)

    def forward(self, network: Network, image: Tensor, truth: Tensor) -> Tensor:
        """Return the output of the network."""
        return cast("Tensor", network(image))

    def loss(self, output: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the weighted cross entropy of the logits of classes, plus the loss of affinities.

        Both are means over the annotated pixels of each patch, which have a weight above 0. So a pixel of a
        small annotated area, which fewer patches contain, counts as much as all others.
        """
        classes = len(self.of)
        annotated = truth[:, 1] > 0
        share = annotated.float().mean((1, 2), keepdim=True).clamp(min=1 / annotated[0].numel())
        loss = weighted_cross_entropy(output[:, :classes], truth[:, 0].long(), truth[:, 1] / share, mask)
        loss = loss * len(output)
        if self.offsets:
            affinities, counted = true_affinities(truth[:, 2], annotated, self.offsets)
            counted = counted if mask is None else counted & mask[:, None]
            loss = loss + affinity_loss(output[:, classes:], affinities, counted)
        return loss

    def count(self, plan: Plan, truth: Tensor) -> int:
        """Return the number of patches."""
        return len(truth)

    def count_classes(self, truth: Tensor) -> Tensor:
        """Return the number of pixels of each class that have a weight."""
        annotated = truth[:, 1] > 0
        return truth[:, 0][annotated].long().bincount(minlength=len(self.of))

    def decode(
        self,
        network: Callable[[Tensor], Tensor],
        image: Tensor,
        average_orientations: bool = False,
        log_prior: Sequence[float] = (),
    ) -> Tensor:
        """Return the probabilities of the classes and the affinities, (classes, y, x) float32.

        An affinity is averaged over those orientations in which its offset is one of the offsets.
        """
        total: Tensor | float = 0.0
        affinities: list[Tensor | float] = [0.0] * len(self.offsets)
        counts = [0] * len(self.offsets)
        orientations = range(8) if average_orientations else range(1)
        for orientation in orientations:
            batch = orient(image, orientation)[None].contiguous(memory_format=torch.channels_last)
            output = network(batch)[0].float()
            logits = output[: len(self.of)]
            if log_prior:
                logits = logits + logits.new_tensor(log_prior)[:, None, None]
            total = total + orient_back(logits.softmax(0), orientation)
            # a prediction without affinities leaves them out
            for own, offset in zip(output[len(self.of) :], self.offsets, strict=False):
                if (turned := turned_back(offset, orientation)) in self.offsets:
                    k = self.offsets.index(turned)
                    affinities[k] = affinities[k] + orient_back(own.sigmoid(), orientation)
                    counts[k] += 1
        mean = cast("Tensor", total) / len(orientations)
        if not self.offsets:
            return mean
        means = [cast("Tensor", own) / count for own, count in zip(affinities, counts, strict=True)]
        return torch.cat([mean, torch.stack(means)])

    def validate(
        self, truth: PixelTruth, section: int, outputs: Iterator[tuple[Tile, Tensor]]
    ) -> SectionScores:
        """Return the energies of the tiles, V-Rand and the loss of the affinities of a section."""
        ignored = ignored_pixels(truth.ignore, section)
        labels, border = truth.labels[section], truth.separation_border[section]
        target, weights = truth.classes(section, EVERYWHERE), truth.weight_map[section]
        probability = np.empty(labels.shape, np.float32)
        energies: list[float] = []
        scores: list[float] = []
        sums = torch.zeros(2, 3, 1, len(self.offsets), dtype=torch.float64)
        of_pairs: tuple[Tensor, ...] = ()
        if self.offsets:
            numbers, known = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(weights > 0)
            of_pairs = true_affinities(numbers[None], known[None], self.offsets)
        for tile, output in outputs:
            found = output[(slice(None), *tile.crop)].cpu()
            if self.offsets:
                true, counted = (part[(..., *tile.write)] for part in of_pairs)
                sums += dice_sums(found[None, len(self.of) :].double(), true, counted)
            p = found[: len(self.of)].numpy()
            learned = p if truth.class_weights is None else _weighted(p, truth.class_weights)
            own = np.take_along_axis(learned, target[None, *tile.write].astype(np.intp), 0)[0]
            energies.append(-float((weights[tile.write] * np.log(np.maximum(own, 1e-12))).sum(dtype=float)))
            probability[tile.write] = self.of.of_cells(p)
        del of_pairs
        apart = cells_apart(labels, border, ignored)
        if apart.any():
            cells = metrics.connected_components(apart)
            thinned = (metrics.thin_borders(probability > t, ignore=ignored) for t in VALIDATION_THRESHOLDS)
            scores = [metrics.v_rand(cells, predicted) for predicted in thinned]
        of_affinities = dice_loss(sums).item() if self.offsets else 0.0
        return SectionScores(energies, scores, count_annotated(target, ignored), of_affinities)

    def scores_of(self, found: list[SectionScores]) -> dict[str, float]:
        """Return the loss, and V-Rand after thinning at its best threshold.

        The loss is the weighted cross entropy per pixel and the mean loss of the affinities of the sections.
        Only annotated pixels count. V-Rand is the mean over the sections that have cells. It is NaN if no
        section has cells.
        """
        energies, scores, pixels, of_affinities = zip(*found, strict=True)
        with_cells = [row for row in scores if row]
        v_rand = float(np.max(np.mean(with_cells, axis=0))) if with_cells else math.nan
        loss = sum(itertools.chain(*energies)) / sum(pixels) + sum(of_affinities) / len(found)
        return {"loss": loss, "v_rand_thin": v_rand}

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> h5py.Dataset:
        """Add `cell_probability` to a prediction file, and those of more classes and affinities, if any."""
        if self.of.several:
            all_classes = layout.add(file, layout.CLASS_PROBABILITY, (len(self.of), *shape))
            layout.write_classes(all_classes, self.class_names, self.cell_names)
        if self.offsets:
            affinities = layout.add(file, layout.AFFINITIES, (len(self.offsets), *shape))
            layout.write_offsets(affinities, self.offsets)
        return layout.add(file, layout.CELL_PROBABILITY, shape)

    def write(self, target: h5py.Dataset, section: int, tile: Tile, output: Tensor) -> None:
        """Write the probability that a pixel is inside a cell, those of all classes, and affinities."""
        found = output[(slice(None), *tile.crop)].cpu().numpy()
        probability, affinities = np.split(found, [len(self.of)])
        target[(section, *tile.write)] = self.of.of_cells(probability)
        for used, array, values in (
            (self.of.several, layout.CLASS_PROBABILITY, probability),
            (self.offsets, layout.AFFINITIES, affinities),
        ):
            if used:
                target.parent[array.name][(slice(None), section, *tile.write)] = values


def _weighted(
    probability: npt.NDArray[np.float32], weights: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    """Return the probabilities for which a loss with weights of the classes is smallest.

    They are proportional to p_k w_k. So the validation loss stays that of the training, whose minimum is not
    at the corrected probabilities.
    """
    found = probability * weights.astype(np.float32)[:, None, None]
    return cast("npt.NDArray[np.float32]", found / found.sum(0))
