"""Mask stage: predict the pixels of each detection, and write them as instance labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline_lib import layout, provenance
from pipeline_lib.inference import passes
from pipeline_lib.inference.neighbours import with_neighbours
from pipeline_lib.inference.resampling import Resampled
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.networks.folding import fold
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.ssd import MASK, MASK_WINDOW, MASKS_AT_ONCE, ROI, SSDPlan
from pipeline_lib.networks.ssd.module import SSD
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.progress import Progress
from pipeline_lib.runtime.types import Stored
from pipeline_lib.scores import read_threshold
from pipeline_lib.tasks.detection import masks
from pipeline_lib.tasks.detection.found import create_arrays, sections_of

PIECE = 256  # larger boxes are divided (px)
CELL = MASK_WINDOW - PIECE  # boxes that begin in the same square of this side share a forward pass (px)
#: Numbers of pieces along each axis that a box can be divided into: those that divide the cells of `ROI`.
DIVISIONS = tuple(k for k in range(1, ROI + 1) if ROI % k == 0)


@devices.explain_memory_errors("prediction of masks")
def predict_masks(
    dataset: str | Path,
    model: str | Path,
    detections: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    *,
    precision: str = "auto",
    device: str = "auto",
    threads: int = 1,
    block: int = BLOCK,
) -> None:
    """Predict the mask of each detection of a volume, and write instance labels as HDF5.

    The labels are like those of `stages.segmentation.segment`: instance scores, tables of cells and TIFFs are
    made from them in the same way. A pixel belongs to the detection with the highest score, among those whose
    mask has a probability above 1/2 there.

    The network passes the image a second time, around the detections. The features that a mask needs are
    always complete, and the parts of the section that are passed together follow from the boxes alone. So on
    one machine, the same detections have labels with the same bits, whatever `block` is, and whatever tiles
    and jobs found them. Tiles and jobs can change detections by rounding (1e-5). Boxes are rounded to 1/256
    px, which undoes such a change with few exceptions. In these, the box of a mask is moved by 1/256 px.

    If the prediction matched pixel sizes, so does this function.

    Memory holds the features of at most 640 x 640 px, 1,024 masks, and a block of labels at a time. Besides,
    it holds the boxes of a section. The masks of a section are stored in a temporary file next to `output`.

    Parameters
    ----------
    dataset : str or Path
        Dataset with the array `raw` (HDF5).
    model : str or Path
        Model file of a detector with the setting `masks`.
    detections : str or Path
        HDF5 file of `stages.detection.detect`.
    postprocessing : str or Path
        JSON file of `stages.detection.choose_score`. Only detections that reach its threshold get a mask.
    output : str or Path
        HDF5 file to write: `labels` (z, y, x), uint32, 0 = background. Objects are numbered 1..n through all
        sections. Detections that are left with no pixel are no objects. Row i of `boxes`, `box_section`,
        `box_class` and `box_score` is the detection from which the object i + 1 was made.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Type of the convolutions, see `inference.passes.choose_precision`.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device that computes. "auto" uses a GPU if there is one.
    threads : int, default 1
        Number of CPU threads.
    block : int, default 2048
        Side of the square blocks of labels that are in memory one at a time (px).

    Raises
    ------
    InputError
        If the model has no masks, the images do not have the type or channels that it needs, or an input is
        missing or damaged.
    """
    inputs = [dataset, model, detections, postprocessing]
    with (
        provenance.making("predict_masks", [output], inputs, precision=precision) as record,
        layout.require(dataset, layout.RAW) as source,
        layout.require(detections, layout.BOXES, layout.BOX_SCORE) as found,
        layout.create(output, record) as file,
    ):
        threshold = read_threshold(postprocessing)
        torch.set_num_threads(threads)
        passes.keep_memory()
        chosen_device = devices.choose_device(device)
        dtype = passes.choose_precision(precision, chosen_device)
        record |= {"device": chosen_device.type, "precision": str(dtype).removeprefix("torch.")}
        trained = Model.load(model)
        if not (isinstance(trained.plan, SSDPlan) and trained.plan.masks):
            raise InputError(
                f"{model}: the network {trained.plan.name} predicts no masks. Train a network `ssd` with "
                "`masks: true`."
            )
        fold(trained.network.eval())
        raw = source[layout.RAW.name]
        step = _step(found, layout.pixel_size(source), trained.pixel_size)
        images = raw if step == (1, 1) else Resampled(raw, step)
        trained.normalisation.check(images, dataset, layout.findings(source)["gray"])
        window = _Window(trained, with_neighbours(images, trained.plan.context_sections), chosen_device)
        depth, height, width = raw.shape[1:]
        target = layout.add(file, layout.LABELS, (depth, height, width))
        create_arrays(file, *layout.classes_of(found[layout.BOX_CLASS.name]))
        layout.copy_pixel_size(source, file)
        scores = found[layout.BOX_SCORE.name][:].astype(float)
        progress = Progress(int((scores >= threshold).sum()), "mask", name=str(output))
        count = 0
        for z, every in sections_of(found, depth):
            kept = every.score.astype(float) >= threshold
            own = every.at(kept)._replace(boxes=masks.rounded(every.boxes[kept]))
            with _stored_masks(output, len(own.score)) as stored:
                with torch.inference_mode(), passes.autocast(chosen_device, dtype):
                    for rows, features in window.features(z, own.boxes / (2 * step)):
                        order = np.argsort(rows)  # HDF5 writes ascending rows only
                        predicted = masks.probabilities(window.network.mask_head, features, own.kind[rows])
                        stored[rows[order]] = predicted[order]
                        progress.update(progress.done + len(rows))
                instances = masks.resolve((height, width), own.boxes, stored, own.score, own.kind, block)
                for area in blocks.blocks((height, width), block):
                    labels = instances.labels(area.write)
                    target[z, *area.write] = np.where(labels > 0, labels + np.uint32(count), labels)
            every.at(np.flatnonzero(kept)[instances.row]).append_to(file, z)
            count += len(instances.row)
    logger.info("%s: %s in %s", output, several(count, "object"), several(depth, "section"))


def _step(found: h5py.File, own: PixelSize | None, of_model: PixelSize | None) -> tuple[float, float]:
    """Return the height and width of a pixel of the images in which boxes were found (px of the volume)."""
    if own is None or of_model is None or "pixels_per_model_pixel" not in found.attrs:
        return 1.0, 1.0
    return of_model[0] / own[0], of_model[1] / own[1]


@contextmanager
def _stored_masks(output: str | Path, count: int) -> Iterator[h5py.Dataset]:
    """Yield an array for the masks of a section, in a temporary file next to `output`."""
    path = Path(output).with_suffix(".masks.h5")
    try:
        with h5py.File(path, "w", locking=False) as file:
            yield file.create_dataset("masks", (count, MASK, MASK), np.float16)
    finally:
        path.unlink(missing_ok=True)


class _Window:
    """Features of the boxes of a volume, from forward passes over parts of a section around them."""

    def __init__(self, trained: Model, images: Stored, device: torch.device) -> None:
        self.network = cast("SSD", trained.network.move_to(device))
        self.plan, self.normalisation = cast("SSDPlan", trained.plan), trained.normalisation
        self.images, self.device = images, device

    def features(self, section: int, boxes: Boxes) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Yield the numbers of some boxes and their features, the input of the mask head."""
        pieces = -(-(boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) // PIECE)
        small = np.flatnonzero(pieces <= 1)
        for rows, features in self._of_small(section, boxes[small], ROI):
            yield small[rows], features
        large = np.flatnonzero(pieces > 1)
        for start in range(0, len(large), MASKS_AT_ONCE):
            rows = large[start : start + MASKS_AT_ONCE]
            yield rows, torch.stack([self._of_large(section, boxes[row], int(pieces[row])) for row in rows])

    def _of_large(self, section: int, box: npt.NDArray[np.float64], pieces: int) -> Tensor:
        """Return the features of a box, (c, 14, 14), joined from those of pieces of it."""
        k = next((k for k in DIVISIONS if k >= pieces), ROI)
        edges = np.linspace(box[:2], box[2:], k + 1)
        y0, x0 = np.meshgrid(edges[:-1, 0], edges[:-1, 1], indexing="ij")
        y1, x1 = np.meshgrid(edges[1:, 0], edges[1:, 1], indexing="ij")
        grid = np.stack([y0, x0, y1, x1], axis=-1).reshape(-1, 4)
        found = list(self._of_small(section, grid, ROI // k))
        order = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in found]))).to(self.device)
        parts = torch.cat([features for _, features in found])[order].unflatten(0, (k, k))
        return parts.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)

    def _of_small(
        self, section: int, boxes: Boxes, size: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor]]:
        """Yield the numbers of some boxes and their features. Boxes of a square share a forward pass."""
        square = np.unique(boxes[:, :2] // CELL, axis=0, return_inverse=True)[1].ravel()
        order = np.argsort(square, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(square[order])) + 1) if len(order) else ():
            stride, margin = self.plan.strides[0], self.plan.margin
            # from the features before the first points in the boxes to those after the last ones
            first = np.floor(boxes[rows, :2].min(axis=0) / stride - 0.5).astype(int)
            last = np.floor(boxes[rows, 2:].max(axis=0) / stride - 0.5).astype(int) + 1
            # few different sizes, so that memory is used again
            size_read = -(-(last + 1 - first) // 8) * 8 * stride + 2 * margin
            start = first * stride - margin
            y, x = zip(start.tolist(), (start + size_read).tolist(), strict=True)
            image = passes.read(self.images, section, self.normalisation, y, x).to(self.device)
            features = self.network.features(image[None].contiguous(memory_format=torch.channels_last))
            for k in range(0, len(rows), MASKS_AT_ONCE):
                some = rows[k : k + MASKS_AT_ONCE]
                here = boxes[some] - np.tile(start, 2)
                yield some, self.network.align(features, here, np.zeros(len(some), np.int64), size)
