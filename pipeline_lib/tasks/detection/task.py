"""Detection of objects as boxes as a task: truth, patches, loss, decoding and validation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline_lib import layout
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference import passes
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.metrics import BoxMatches, pooled_matches
from pipeline_lib.networks import Plan
from pipeline_lib.networks.module import Network
from pipeline_lib.networks.ssd import OFFSETS, SSDPlan
from pipeline_lib.networks.ssd.module import SSD
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.tasks.detection import masks, matching
from pipeline_lib.tasks.detection.found import SMALLEST_SCORE, Found, create_arrays, joined
from pipeline_lib.tasks.detection.losses import multibox_loss
from pipeline_lib.tasks.detection.patches import BoxAugmentation, BoxPatches, targets_of_objects
from pipeline_lib.tasks.detection.truth import IGNORED, BoxTruth

BOX_STEP = 2.0**-20  # predicted boxes are multiples of this (px)
#: Function of boxes (px) and their classes (from 1) that returns their masks.
Masks: TypeAlias = Callable[[Boxes, npt.NDArray[np.uint8]], npt.NDArray[np.float16]]


@dataclass(frozen=True)
class Output:
    """Output of the network for a tile.

    Parameters
    ----------
    values : (a, classes + 4, rows, columns) Tensor of float32
        Logits and offsets of each default box.
    plan : SSDPlan
        Plan of the network.
    masks : callable, optional
        Function of boxes, in px from the first pixel of the output, and their classes. It returns their masks
        (`masks.probabilities`). By default the network has no masks.
    """

    values: Tensor
    plan: SSDPlan
    masks: Masks | None = None

    def boxes(self, tile: Tile) -> Found:
        """Return the boxes whose default box has its centre in the part of the section that a tile writes.

        Parameters
        ----------
        tile : Tile
            Position of the tile.

        Returns
        -------
        Found
            All boxes with a score of at least `SMALLEST_SCORE`, not yet cut off at the edges of the section.
        """
        probability = self.values[:, :-OFFSETS].softmax(1)[:, 1:]
        places = (probability >= SMALLEST_SCORE).nonzero(as_tuple=True)
        default, kind, row, column = (part.cpu().numpy() for part in places)
        offsets = self.values[places[0], -OFFSETS:, places[2], places[3]].cpu().numpy()
        score = probability[places].cpu().numpy()
        corner = np.stack([row, column, row, column], axis=1) * float(self.plan.reduction)
        own = self.plan.default_boxes[default]
        centres = matching.centres_of(own) + corner[:, :2]
        inside = (centres < [part.stop - part.start for part in tile.write]).all(axis=1)
        # Relative to the pixel of the output, a box does not depend on the tile. After rounding, the sums
        # with the positions of pixel, tile and part are exact.
        boxes = np.rint(matching.decode(offsets, own) / BOX_STEP) * BOX_STEP
        boxes += corner + np.tile([part.start for part in tile.write], 2)
        return Found(boxes[inside], (kind[inside] + 1).astype(np.uint8), score[inside])


class SectionFound(NamedTuple):
    """Contribution of one section to the validation scores.

    Attributes
    ----------
    losses : list of (float, int)
        Sum of the loss and number of default boxes with an object in each tile.
    matches : BoxMatches
        Boxes that were found, matched with those of the truth.
    mask_ious : list of float, optional
        IoU of the masks of each object that was found and its detection. By default there are no masks.
    """

    losses: list[tuple[float, int]]
    matches: BoxMatches
    mask_ious: list[float] | None = None


class Task:
    """Detection of objects as boxes. `tasks.Task` documents the methods."""

    name: ClassVar[str] = "detection"
    pixelwise: ClassVar[bool] = False
    augmentation: ClassVar[type[BoxAugmentation]] = BoxAugmentation
    scores: ClassVar[dict[str, bool]] = {"loss": False, "box_ap_50": True, "box_ap": True}

    def __init__(
        self, classes: Sequence[str] = ("background", "cell"), cells: Sequence[str] = ("cell",)
    ) -> None:
        self.class_names, self.cell_names = ("background", *cells), tuple(cells)
        self.classes = len(self.class_names)

    def open(self, stack: ExitStack, dataset: str | Path, boxes: str | Path, cache_bytes: int) -> Volume:
        """Open raw images, and the boxes of their objects and ignored pixels as `BoxTruth`."""
        file = stack.enter_context(layout.require(dataset, layout.RAW, cache_bytes=cache_bytes))
        annotated = stack.enter_context(layout.require(boxes, layout.BOXES, cache_bytes=cache_bytes))
        return Volume(file[layout.RAW.name], BoxTruth.of(annotated))

    def example(self, shape: tuple[int, int, int]) -> BoxTruth:
        """Return the truth of a volume whose sections have an object of 24 px in each square of 40 px."""
        rows, columns = (np.arange(length) for length in shape[1:])
        inside = (rows[:, None] % 40 < 24) & (columns % 40 < 24)
        numbers = rows[:, None] // 40 * (shape[2] // 40 + 1) + columns // 40 + 1
        labels = np.broadcast_to(np.where(inside, numbers, 0).astype(np.uint32), shape)
        boxes = objects_of(labels, 0).boxes
        count = shape[0] * len(boxes)
        return BoxTruth(
            shape,
            np.tile(boxes, (shape[0], 1)),
            np.repeat(np.arange(shape[0]), len(boxes)),
            (np.arange(count) % (self.classes - 1) + 1).astype(np.uint8),
            np.zeros(count, np.uint8),
            self.classes - 1,
            labels=labels,
        )

    def patches(self, plan: Plan, *arguments: Any) -> BoxPatches:
        """Return patches of images with what their default boxes learn."""
        return BoxPatches(*arguments, plan=cast("SSDPlan", plan))

    def forward(self, network: Network, image: Tensor, truth: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the output of the network, and the masks of the objects that learn one."""
        plan = cast("SSDPlan", network.plan)
        if not plan.masks:
            return cast("Tensor", network(image))
        objects = masks.MaskTruth.of(truth[:, -masks.TRUTH :], plan.reduction)
        boxes = objects.boxes.double().cpu().numpy() + plan.geometry.context
        return cast("SSD", network).with_masks(image, boxes, objects.image.cpu().numpy())

    def loss(
        self, output: Tensor | tuple[Tensor, Tensor], truth: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Return the MultiBox loss and, if there are masks, their mean loss in each patch.

        The mean of the masks of a patch counts as often as its default boxes with an object, by whose number
        the sum is divided. So the loss of the masks is a mean over these, as those of class and place are.
        """
        output, logits = output if isinstance(output, tuple) else (output, None)
        n, channels, *size = output.shape
        values = output.reshape(n, -1, self.classes + OFFSETS, *size).transpose(1, 2)
        learned = truth[:, : 5 * (channels // (self.classes + OFFSETS))].reshape(n, 5, -1, *size)
        kinds, targets = learned.split([1, OFFSETS], dim=1)
        place_logits, offsets = values.split([self.classes, OFFSETS], dim=1)
        total = multibox_loss(place_logits, offsets, kinds[:, 0].long(), targets)
        if logits is not None:
            objects = masks.MaskTruth.of(truth[:, -masks.TRUTH :], 1)  # boxes are not needed
            for number, positive in enumerate((kinds > 0).flatten(1).sum(1)):
                own = objects.image == number
                loss = masks.mask_loss(logits[own], objects.targets[own], objects.kinds[own] - 1)
                total = total + positive * loss
        return total

    def count(self, plan: Plan, truth: Tensor) -> int:
        """Return the number of default boxes with an object."""
        return int((truth[:, : cast("SSDPlan", plan).boxes_per_cell] > 0).sum())

    def decode(
        self,
        network: Callable[[Tensor], Tensor],
        image: Tensor,
        average_orientations: bool = False,
        log_prior: Sequence[float] = (),
    ) -> Output:
        """Return logits and offsets of the default boxes of a tile, in its own orientation only."""
        if average_orientations:
            raise InputError(
                "prediction.average_orientations: found true, but boxes are not averaged. Set it to false."
            )
        batch = image[None].contiguous(memory_format=torch.channels_last)
        values = network(batch)[0].float()
        plan = cast("SSDPlan", network.plan)  # type: ignore[attr-defined]
        predict = None
        if plan.masks:
            predict = partial(_masks, cast("SSD", network), batch, passes.current_precision(batch.device))
        return Output(values.reshape(plan.boxes_per_cell, -1, *values.shape[1:]), plan, predict)

    def validate(self, truth: BoxTruth, section: int, outputs: Iterator[tuple[Tile, Output]]) -> SectionFound:
        """Return the loss of the tiles, and the boxes that were found and those of the truth."""
        boxes, kinds = truth.learned(section)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        losses, found = [], []
        heads: list[tuple[Tile, Masks]] = []
        for tile, output in outputs:
            origin = np.array([part.start for part in tile.write])
            height, width = (float(part.stop - part.start) for part in tile.write)
            values = output.values
            targets = torch.from_numpy(
                matching.targets(
                    output.plan.default_boxes,
                    output.plan.reduction,
                    (values.shape[2], values.shape[3]),
                    boxes - np.tile(origin, 2),
                    kinds,
                    ((0.0, height), (0.0, width)),
                    partial(truth.annotated, section, origin=origin),
                )
            ).to(values.device)
            loss = float(self.loss(values.flatten(0, 1)[None], targets.flatten(0, 1)[None]))
            positive = int((targets[0] > 0).sum())
            if output.masks is not None:
                heads.append((tile, output.masks))
                end = origin + np.array([height, width])
                own = np.flatnonzero((kinds > 0) & ((centre >= origin) & (centre < end)).all(axis=1))
                predicted = output.masks(boxes[own] - np.tile(origin, 2), kinds[own].astype(np.uint8))
                loss += positive * _mask_loss(predicted, targets_of_objects(truth, section, own, boxes[own]))
            losses.append((loss, positive))
            found.append(output.boxes(tile))
        kept = joined(found).suppressed(*truth.shape[1:])
        matches = truth.matches(section, kept)
        ious = _mask_ious(truth, section, kept, matches, heads) if heads else None
        return SectionFound(losses, matches, ious)

    def scores_of(self, found: list[SectionFound]) -> dict[str, float]:
        """Return the loss for each default box with an object, and COCO's average precisions.

        If there are masks, also the mean IoU of the masks of objects that were found (`mask_iou`).
        """
        losses, matches, ious = zip(*found, strict=True)
        energies, counts = zip(*itertools.chain(*losses), strict=True)
        precision = pooled_matches(matches).average_precision()
        return {
            "loss": math.fsum(energies) / max(sum(counts), 1),
            "box_ap_50": float(precision[0]),
            "box_ap": float(precision.mean()),
            **({} if ious[0] is None else {"mask_iou": _mean([*itertools.chain(*ious)])}),
        }

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> h5py.File:
        """Add the arrays of boxes, which grow with the boxes that are found."""
        create_arrays(file, self.class_names, self.cell_names)
        return file

    def write(self, target: h5py.File, section: int, tile: Tile, output: Output) -> None:
        """Write the boxes of a tile, not yet suppressed."""
        output.boxes(tile).append_to(target, section)


def _masks(
    network: SSD,
    batch: Tensor,
    precision: torch.dtype,
    boxes: Boxes,
    kinds: npt.NDArray[np.uint8],
) -> npt.NDArray[np.float16]:
    """Return the masks of boxes in a tile. Features beyond the tile are those at its edge."""
    network = getattr(network, "network", network)  # without `passes.SplitIfTooLarge`
    with torch.inference_mode(), passes.autocast(batch.device, precision):
        here = masks.rounded(boxes) + network.geometry.context
        features = network.align(network.features(batch), here, np.zeros(len(boxes), np.int64))
        return masks.probabilities(network.mask_head, features, kinds)


def _mask_loss(predicted: npt.NDArray[np.float16], targets: npt.NDArray[np.float32]) -> float:
    """Return the loss of masks, from their probabilities, which are multiples of 1/256."""
    probability = torch.from_numpy(predicted).double().clamp(1 / 512, 1 - 1 / 512)
    kinds = torch.zeros(len(predicted), dtype=torch.int64)
    return float(masks.mask_loss(probability.logit()[:, None], torch.from_numpy(targets), kinds))


def _mask_ious(
    truth: BoxTruth, section: int, found: Found, matches: BoxMatches, heads: list[tuple[Tile, Masks]]
) -> list[float]:
    """Return the IoU of the pixels of each object that was found and the mask of its detection."""
    numbers, rows = truth.numbers(section), truth.rows(section)
    counted = np.append(truth.state[rows] != IGNORED, False)
    matched = np.flatnonzero(counted[matches.partner])
    centre = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    assert truth.labels is not None  # `numbers` raises an error before
    labels = np.asarray(truth.labels[section])
    window = slice(0, labels.shape[0]), slice(0, labels.shape[1])
    ious: list[float] = []
    for tile, predict in heads:
        first, last = ([getattr(part, side) for part in tile.write] for side in ("start", "stop"))
        own = matched[((centre[matched] >= first) & (centre[matched] < last)).all(axis=1)]
        masks_found = predict(found.boxes[own] - np.tile(first, 2), found.kind[own])
        pasted = masks.paste(masks_found, masks.rounded(found.boxes[own]), window)
        for number, (y, x, probability) in zip(matches.partner[own], pasted, strict=True):
            top, left, bottom, right = truth.boxes[rows][number].astype(int)
            size = np.count_nonzero(labels[top:bottom, left:right] == numbers[number])
            inside = probability > 0.5
            shared = np.count_nonzero(inside & (labels[y, x] == numbers[number]))
            ious.append(shared / (np.count_nonzero(inside) + size - shared))
    return ious


def _mean(values: list[float]) -> float:
    """Return the mean of some numbers, NaN if there are none."""
    return math.fsum(values) / len(values) if values else math.nan
