"""Training patches with boxes: sampled, turned, mirrored and enlarged parts of sections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline_lib.data import augment
from pipeline_lib.data.patches import Patch, Patches, Region
from pipeline_lib.kernels.boxes import Boxes, overlaps
from pipeline_lib.networks.ssd import SSDPlan
from pipeline_lib.tasks.detection import masks, matching
from pipeline_lib.tasks.detection.truth import BoxTruth

#: Smallest IoU of a sampled window with an object, for each kind of sample; 0 for any window.
OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
TRIALS = 50  # windows that are tried for each kind of sample
LARGEST_RATIO = 2.0  # of width and height of a sampled window, and of its inverse
#: How far the edges of a box are moved at most before its mask is learned, in units of its height or width.
MOVED = 0.1


@dataclass(frozen=True)
class BoxAugmentation(augment.Augmentation):
    """Ranges from which transforms are drawn, for patches with boxes.

    Parameters
    ----------
    rotate : bool, default True
        Whether to rotate by multiples of 90 degrees.
    mirror : bool, default True
        As in `data.augment.Augmentation`.
    elastic_std : float
        Not used: boxes are not deformed.
    elastic_grid : int
        Not used.
    gain, offset, gamma, noise : float
        As in `data.augment.Augmentation`.
    interpolation : {"bicubic", "bilinear"}, optional
        As in `data.augment.Augmentation`.
    section_jitter, blur : float, optional
        As in `data.augment.Augmentation`.
    smallest_window : float, optional
        Side of the smallest part of a patch that is sampled and enlarged to the size of the patch, relative
        to the side of the patch. By default nothing is enlarged.
    """

    smallest_window: float | None = None


class BoxPatches(Patches):
    """Random training patches with what their default boxes learn. See `data.patches.Patches`.

    Patches are turned by multiples of 90 degrees and mirrored, so that boxes remain boxes. There is no
    elastic deformation. With `BoxAugmentation.smallest_window` below 1, a part of the patch is sampled and
    enlarged to its size: one of several windows that are drawn as in the paper, each with a smallest overlap
    with an object [1]_.

    If the network predicts masks, patches also say what these learn: those of objects whose centre is in the
    output, at most one for each pixel of the output, drawn at random. So crowded patches do not take more
    memory. The edges of their boxes are moved at random by up to 10 %, because boxes in a prediction are not
    exact either.

    Parameters
    ----------
    *arguments
        Those of `data.patches.Patches`; `balanced` must be None.
    plan : SSDPlan
        Plan of the network, with sizes of default boxes.

    References
    ----------
    Section 2.2 of [1]_, "Data augmentation".

    .. [1] W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, "SSD: Single shot
       MultiBox detector", ECCV, LNCS 9905:21-37, 2016.
    """

    def __init__(self, *arguments: Any, plan: SSDPlan) -> None:
        super().__init__(*arguments)
        assert isinstance(self.augmentation, BoxAugmentation)
        self.smallest = self.augmentation.smallest_window or 1.0
        self.plan = plan
        self.output = plan.geometry.output_size(self.tile)
        self.defaults = plan.default_boxes

    def read(self, number: int) -> Region:
        """Draw a patch, read its pixels, and find what its default boxes learn; `move` augments the pixels.

        Parameters
        ----------
        number : int
            Number of the patch, from 0.

        Returns
        -------
        Region
            The pixels and the transform of the patch. `truth` is that of the augmented patch: the result of
            `matching.targets`, (5 a, rows, columns) for a default boxes, and that of `masks.pack`.
        """
        rng = np.random.default_rng([self.seed, number])
        gray = augment.draw(self.augmentation, rng, self.sections)
        (raw, truth), (section, *pixel) = self._centre(rng)
        assert isinstance(truth, BoxTruth)
        boxes, kinds = truth.learned(section)
        # with this middle, pixels of the patch are pixels of the section, and nothing is interpolated
        middle, size = self._window(np.array(pixel) + self.output % 2 / 2, boxes[kinds > 0], rng)
        middle = middle.clip(0, truth.shape[1:])  # the region must contain what is mirrored at the edges
        turned = self._turned(rng)
        matrix = np.diag(size / self.output) @ turned
        # pixel `tile // 2` of the patch is `offset` px from the middle of its output
        offset = self.tile // 2 + 0.5 - self.context - self.output / 2
        centre = middle + matrix @ np.full(2, offset) - 0.5
        transform = replace(gray, matrix=matrix, nodes=np.zeros_like(gray.nodes))
        reach = augment.reach(transform, self.tile)
        first = np.maximum(np.floor(centre).astype(int) - reach, 0)
        last = np.ceil(centre).astype(int) + reach + 1
        window = tuple(slice(a, max(b, a + 1)) for a, b in zip(first, last, strict=True))
        inside = tuple(np.arange(side)[part] for side, part in zip(truth.shape[1:], window, strict=True))
        image = self.normalisation.apply(raw[(slice(None), section, *window)], *inside)
        inverse, half = np.linalg.inv(matrix).astype(np.float64), np.full(2, self.output / 2)
        edges = moved(np.array([[0.0, 0, *truth.shape[1:]]]), inverse, middle, half)[0]
        boxes = moved(boxes, inverse, middle, half)
        targets = matching.targets(
            self.defaults,
            self.plan.reduction,
            2 * (self.output // self.plan.reduction,),
            boxes,
            kinds,
            ((edges[0], edges[2]), (edges[1], edges[3])),
            lambda centres: truth.annotated(section, middle + (centres - self.output / 2) @ matrix.T),
        )
        learned, seed = targets.reshape(-1, *targets.shape[2:]), int(rng.integers(2**62))
        if self.plan.masks:
            learned = np.concatenate(
                [learned, self._masks(truth, section, boxes, kinds, matrix, middle, rng)]
            )
        return Region(
            torch.from_numpy(image),
            torch.from_numpy(learned),
            tuple((centre - first).tolist()),
            transform,
            seed,
        )

    def move(self, region: Region, device: torch.device) -> Patch:
        """Move a patch to a device and augment its pixels there.

        Parameters
        ----------
        region : Region
            Result of `read`.
        device : torch.device
            Device of the training.

        Returns
        -------
        Patch
            Image of the patch, and what its default boxes and masks learn, (1, k, rows, columns).
        """
        image = self.image(region, device)
        return Patch(image[None], region.truth.to(device, non_blocking=True)[None])

    def _turned(self, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        """Draw one of the rotations by multiples of 90 degrees, with or without mirroring."""
        turns, flip = int(rng.integers(4)), rng.random() < 0.5
        matrix = np.diag([-1.0 if flip and self.augmentation.mirror else 1.0, 1.0])
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        return np.linalg.matrix_power(quarter, turns * self.augmentation.rotate) @ matrix

    def _window(
        self, middle: npt.NDArray[np.float64], objects: Boxes, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Draw the middle and the size (px) of the part of the section that becomes the output of a patch."""
        whole = middle, np.full(2, float(self.output))
        if self.smallest == 1:
            return whole
        found = [whole]
        corner = middle - self.output / 2
        for least in OVERLAPS:
            scale = rng.uniform(self.smallest, 1, TRIALS)
            limit = np.minimum(LARGEST_RATIO, 1 / scale**2)
            ratio = np.exp(rng.uniform(-np.log(limit), np.log(limit)))
            size = self.output * (scale[:, None] * np.stack([ratio**-0.5, ratio**0.5], axis=1))
            first = corner + rng.random((TRIALS, 2)) * (self.output - size)
            windows = np.hstack([first, first + size])
            reached = overlaps(windows, objects).max(axis=1, initial=0) >= least
            if reached.any():
                k = int(np.argmax(reached))
                found.append((first[k] + size[k] / 2, size[k]))
        return found[int(rng.integers(len(found)))]

    def _masks(
        self,
        truth: BoxTruth,
        section: int,
        boxes: Boxes,
        kinds: npt.NDArray[np.int64],
        matrix: npt.NDArray[np.float64],
        middle: npt.NDArray[np.float64],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.float32]:
        """Return what the masks of a patch learn (`masks.pack`).

        `boxes` are those of the objects of the section, in px of the output.
        """
        step = self.plan.reduction
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centre >= 0) & (centre < self.output)).all(axis=1)
        drawn = rng.permutation(np.flatnonzero(inside & (kinds > 0)))
        cells, first = np.unique((centre[drawn] // step).astype(int), axis=0, return_index=True)
        drawn = drawn[first]
        size = np.tile(boxes[drawn, 2:] - boxes[drawn, :2], 2)
        around = boxes[drawn] + size * rng.uniform(-MOVED, MOVED, size.shape)
        there = moved(around, matrix, np.full(2, self.output / 2), middle)
        targets = targets_of_objects(truth, section, drawn, there)
        # The matrix has one number other than 0 in each row, so the cells of a mask are turned, too.
        down, right = np.sign(matrix.sum(axis=1)).astype(int)
        targets = targets[:, ::down, ::right]
        targets = targets if matrix[0, 0] else targets.swapaxes(1, 2)
        return masks.pack(around, kinds[drawn], targets, cells, step, self.output // step)


def targets_of_objects(
    truth: BoxTruth, section: int, objects: npt.NDArray[np.integer], boxes: Boxes
) -> npt.NDArray[np.float32]:
    """Return which share of each cell of some boxes of a section belongs to one of its objects.

    Parameters
    ----------
    truth : BoxTruth
        Objects of a volume with their labels.
    section : int
        Number of the section.
    objects : (n,) array of int
        Number of the object of each box, among those of the section.
    boxes : (n, 4) array of float64
        Boxes (px).

    Returns
    -------
    (n, 28, 28) array of float32
        Result of `masks.mask_targets`.
    """
    numbers = truth.numbers(section)[objects]
    if not len(boxes):
        return masks.mask_targets(np.zeros((0, 0), np.uint32), boxes, numbers)
    size = truth.shape[1:]
    top, left = np.floor(boxes[:, :2].min(axis=0)).clip(0, size).astype(int)
    bottom, right = np.ceil(boxes[:, 2:].max(axis=0)).clip(0, size).astype(int)
    assert truth.labels is not None  # `numbers` raises an error before
    labels = np.asarray(truth.labels[section, top:bottom, left:right])
    return masks.mask_targets(labels, boxes - np.array([top, left] * 2), numbers)


def moved(
    boxes: Boxes,
    matrix: npt.NDArray[np.float64],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
) -> Boxes:
    """Return boxes in other coordinates, for example those of a section in the output of a patch.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1), px.
    matrix : (2, 2) array of float64
        Matrix of the transform, with a single number other than 0 in each row.
    before, after : (2,) array of float64
        A point before and after the transform (px).

    Returns
    -------
    (n, 4) array of float64
        Boxes in the new coordinates (px).

    Examples
    --------
    A quarter turn around the middle of a patch of 8 px at (10, 20):

    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.patches import moved
    >>> quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> moved(np.array([[9.0, 20, 12, 22]]), quarter, np.array([10.0, 20]), np.array([4.0, 4]))
    array([[4., 2., 6., 5.]])
    """
    corners = (boxes.reshape(-1, 2, 2) - before) @ matrix.T + after
    return np.hstack([corners.min(axis=1), corners.max(axis=1)])
