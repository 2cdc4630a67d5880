"""Masks of the objects in boxes: targets, loss, prediction, and instance labels.

A mask is a small grid of cells that divides its box evenly, whatever the size of the box. The network
(`networks.ssd.masks`) predicts for each cell the probability that it belongs to the object.

All positions are those of pixel centres: pixel i reaches from i to i + 1, and its centre is at i + 0.5. If
one of the steps rounded boxes to whole pixels, or took i as the centre, masks of small objects would lose
much of their overlap with the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.networks.ssd import MASK, MASKS_AT_ONCE
from pipeline_lib.runtime.types import Stored

TRUTH = 5 + MASK**2  # channels of the map of `pack`
CHUNK = 1024  # number of masks that are in memory at a time

Window = tuple[slice, slice]


def mask_targets(
    labels: npt.NDArray[np.integer],
    boxes: Boxes,
    label_of_box: npt.NDArray[np.integer],
    size: int = MASK,
) -> npt.NDArray[np.float32]:
    """Return which share of each cell of a box belongs to its object.

    The shares are not rounded to 0 or 1, because they say where in a cell the border of the object is. For
    discs of 100 px, `paste` gives an IoU of 0.996 with the true mask for shares, and 0.978 for rounded ones.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of an image.
    boxes : (k, 4) array of float64
        Boxes (y0, x0, y1, x1), with a height and width above 0 (px). They may reach beyond the image, where
        there is no object.
    label_of_box : (k,) array of int
        Label of the object in each box.
    size : int, default 28
        Number of cells along each axis.

    Returns
    -------
    (k, size, size) array of float32
        Share of each cell, 0 to 1.

    Examples
    --------
    The object has the columns 1 to 4. A cell is 2 px wide, so it covers half of the first and last one.

    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.masks import mask_targets
    >>> labels = np.array([[0, 7, 7, 7, 7, 0]])
    >>> mask_targets(labels, np.array([[0.0, 0, 1, 6]]), np.array([7]), size=3)[0, 0]
    array([0.5, 1. , 0.5], dtype=float32)
    """
    targets = np.zeros((len(boxes), size, size), np.float32)
    for target, (y0, x0, y1, x1), label in zip(targets, boxes, label_of_box, strict=True):
        rows, row_shares = _covered(y0, y1, size, labels.shape[0])
        columns, column_shares = _covered(x0, x1, size, labels.shape[1])
        target[:] = row_shares @ (labels[rows, columns] == label) @ column_shares.T
    return targets


def _covered(start: float, stop: float, size: int, length: int) -> tuple[slice, npt.NDArray[np.float64]]:
    """Return the pixels of an axis that a box covers, and the share of each of them in each cell."""
    first = min(max(int(np.floor(start)), 0), length)
    last = min(max(int(np.ceil(stop)), first), length)
    edges = np.linspace(start, stop, size + 1)[:, None]
    pixels = np.arange(first, last)
    shared = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return slice(first, last), shared.clip(0) * (size / (stop - start))


class MaskTruth(NamedTuple):
    """What masks learn from some objects of patches.

    Parameters
    ----------
    image : (k,) Tensor of int64
        Number of the patch of each object.
    boxes : (k, 4) Tensor of float32
        Box around each object, in px from the first pixel of the output of its patch.
    kinds : (k,) Tensor of int64
        Class of each object, from 1.
    targets : (k, 28, 28) Tensor of float32
        Share of each cell that belongs to the object, see `mask_targets`.
    """

    image: Tensor
    boxes: Tensor
    kinds: Tensor
    targets: Tensor

    @classmethod
    def of(cls, channels: Tensor, step: int) -> MaskTruth:
        """Return the objects in a map of `pack`.

        Parameters
        ----------
        channels : (n, TRUTH, rows, columns) Tensor of float32
            Results of `pack` for n patches.
        step : int
            Distance between pixels of the output (px).

        Returns
        -------
        MaskTruth
            The objects, by patch, row and column.
        """
        image, row, column = (channels[:, 0] > 0).nonzero(as_tuple=True)
        values = channels[image, :, row, column]
        corner = torch.stack([row, column, row, column], dim=1) * step
        return cls(
            image, values[:, 1:5] + corner, values[:, 0].long(), values[:, 5:].unflatten(1, (MASK, MASK))
        )


def pack(
    boxes: Boxes,
    kinds: npt.NDArray[np.integer],
    targets: npt.NDArray[np.float32],
    cells: npt.NDArray[np.integer],
    step: int,
    size: int,
) -> npt.NDArray[np.float32]:
    """Return a map that says what the masks of a patch learn, with one object for each pixel of the output.

    So patches are cut, joined and moved to a device like maps, whatever the number of their objects.

    Parameters
    ----------
    boxes : (k, 4) array of float64
        Box around each object, in px from the first pixel of the output.
    kinds : (k,) array of int
        Class of each object, from 1.
    targets : (k, 28, 28) array of float32
        Share of each cell that belongs to the object.
    cells : (k, 2) array of int
        Row and column of the output's pixel that gets the object, a different one for each.
    step : int
        Distance between pixels of the output (px).
    size : int
        Number of rows and columns of the output.

    Returns
    -------
    (TRUTH, size, size) array of float32
        Class of the object (0 = none), its box relative to the corner of the pixel, and its target.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from pipeline_lib.tasks.detection.masks import MaskTruth, pack
    >>> box, target = np.array([[20.0, 3, 41, 30]]), np.ones((1, 28, 28), np.float32)
    >>> packed = pack(box, np.array([2]), target, np.array([[1, 1]]), step=16, size=3)
    >>> packed.shape, packed[1:5, 1, 1].tolist()
    ((789, 3, 3), [4.0, -13.0, 25.0, 14.0])
    >>> truth = MaskTruth.of(torch.from_numpy(packed)[None], step=16)
    >>> truth.boxes, truth.kinds
    (tensor([[20.,  3., 41., 30.]]), tensor([2]))
    """
    packed = np.zeros((TRUTH, size, size), np.float32)
    row, column = cells.T
    packed[0, row, column] = kinds
    packed[1:5, row, column] = (boxes - np.tile(cells * step, 2)).T
    packed[5:, row, column] = targets.reshape(-1, MASK**2).T
    return packed


def rounded(boxes: Boxes) -> Boxes:
    """Return boxes whose edges are rounded to 1/256 px, so that they hardly depend on rounding before.

    Parameters
    ----------
    boxes : (k, 4) array of float64
        Boxes (px).

    Returns
    -------
    (k, 4) array of float64
        Rounded boxes.
    """
    return np.asarray(np.rint(boxes * 256) / 256)


def probabilities(
    head: nn.Module, features: Tensor, kinds: npt.NDArray[np.integer]
) -> npt.NDArray[np.float16]:
    """Return the masks of boxes for their classes.

    The head always processes the same number of boxes together. So a mask has the same bits, whatever the
    other boxes are.

    Parameters
    ----------
    head : MaskHead
        Mask head of the network.
    features : (k, channels, 14, 14) Tensor of float32
        Features in the boxes.
    kinds : (k,) array of int
        Class of each box, from 1.

    Returns
    -------
    (k, 28, 28) array of float16
        Probability that a cell belongs to the object, a multiple of 1/256.
    """
    found = [np.empty((0, MASK, MASK), np.float16)]
    for start in range(0, len(features), MASKS_AT_ONCE):
        some = features[start : start + MASKS_AT_ONCE]
        filled = nn.functional.pad(some, (0, 0) * 3 + (0, MASKS_AT_ONCE - len(some)))
        logits = head(filled.contiguous(memory_format=torch.channels_last))
        own = logits[np.arange(len(some)), kinds[start : start + len(some)].astype(np.int64) - 1]
        found.append((own.float().sigmoid().mul(256).round() / 256).cpu().numpy().astype(np.float16))
    return np.concatenate(found)


def mask_loss(logits: Tensor, targets: Tensor, classes: Tensor) -> Tensor:
    """Return the binary cross entropy of the masks of the true classes, averaged over all cells and boxes.

    Masks of other classes contribute nothing. Without boxes, the loss is 0, and so is its gradient.

    Parameters
    ----------
    logits : (k, classes, y, x) Tensor of float
        Output of `MaskHead` for boxes with an object.
    targets : (k, y, x) Tensor of float32
        Share of each cell that belongs to the object, see `mask_targets`.
    classes : (k,) Tensor of int64
        Class of the object in each box, 0 to classes - 1.

    Returns
    -------
    () Tensor of float32, or float64 for such logits
        Scalar loss.

    Examples
    --------
    With logits of 0, each cell has a probability of 1/2. The loss is log 2.

    >>> import torch
    >>> from pipeline_lib.tasks.detection.masks import mask_loss
    >>> targets = torch.tensor([[[1.0, 1, 0]]])
    >>> round(mask_loss(torch.zeros(1, 2, 1, 3), targets, torch.tensor([1])).item(), 3)
    0.693
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    own = logits[torch.arange(len(classes), device=classes.device), classes]
    total = nn.functional.binary_cross_entropy_with_logits(own, targets.to(own), reduction="sum")
    return total / max(targets.numel(), 1)


def paste(
    masks: npt.NDArray[np.floating], boxes: Boxes, window: Window
) -> Iterator[tuple[slice, slice, npt.NDArray[np.float64]]]:
    """Yield the probabilities of the pixels in each box.

    The pixels are those whose centre is in the box. The mask is interpolated bilinearly at their centres. It
    is 0 outside of its box, so it falls to half of its value at the edge of the box.

    Only one result is in memory at a time. The probability of a pixel has the same bits in any window.

    Parameters
    ----------
    masks : (k, size, size) array of float
        Probability of each cell.
    boxes : (k, 4) array of float64
        Boxes (y0, x0, y1, x1) in the section (px).
    window : tuple of slice
        Rows and columns of the section to return; both slices need a start and a stop.

    Yields
    ------
    rows : slice
        Rows of the window with a pixel of the box.
    columns : slice
        Columns of the window with a pixel of the box.
    probability : (y, x) array of float64
        Probability of each of these pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.masks import paste
    >>> for rows, columns, probability in paste(
    ...     np.ones((1, 2, 2)), np.array([[1.0, 1, 2, 5]]), (slice(0, 4), slice(0, 4))
    ... ):
    ...     print(rows, columns, probability)
    slice(1, 2, None) slice(1, 4, None) [[0.75 1.   1.  ]]
    """
    framed = np.zeros(np.add(masks.shape[1:], 2))
    for mask, (y0, x0, y1, x1) in zip(masks, boxes, strict=True):
        framed[1:-1, 1:-1] = mask
        rows, above, down = _interpolated(y0, y1, len(mask), window[0])
        columns, left, right = _interpolated(x0, x1, len(mask), window[1])
        lines = framed[above] * (1 - down)[:, None] + framed[above + 1] * down[:, None]
        yield rows, columns, lines[:, left] * (1 - right) + lines[:, left + 1] * right


def _interpolated(
    start: float, stop: float, size: int, window: slice
) -> tuple[slice, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the pixels of a box along one axis, and between which cells of a framed mask they are.

    Returns
    -------
    pixels : slice
        Pixels of the window whose centre is in the box.
    cell : array of int64
        For each of them, the cell whose centre is to the left of the pixel's centre.
    share : array of float64
        How far to the right of it the pixel's centre is, 0 to 1 (cells).
    """
    first = max(int(np.ceil(start - 0.5)), window.start)
    last = max(min(int(np.ceil(stop - 0.5)), window.stop), first)
    # the centre of the first cell of the frame is half a cell before the box
    position = (np.arange(first, last) + 0.5 - start) * (size / (stop - start) if last > first else 0) + 0.5
    cell = position.astype(np.int64)
    return slice(first - window.start, last - window.start), cell, position - cell


@dataclass(frozen=True, eq=False)
class Instances:
    """Instances of a section that `resolve` made from boxes with masks.

    Parameters
    ----------
    row : (n,) array of int64
        Row of the box of each instance. The instance of the box in row `row[i]` has the label i + 1.
    sizes : (n,) array of int64
        Number of pixels of each instance.
    boxes : (k, 4) array of float64
        All boxes (px).
    masks : (k, size, size) array of float or HDF5 dataset
        Mask of each box.
    ranks : (k,) array of uint32
        Place of each box in the order of scores; 0 is the highest score.
    """

    row: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    boxes: Boxes
    masks: Stored
    ranks: npt.NDArray[np.uint32]

    def labels(self, window: Window) -> npt.NDArray[np.uint32]:
        """Return the instance labels of a window of the section.

        Parameters
        ----------
        window : tuple of slice
            Rows and columns; both slices need a start and a stop.

        Returns
        -------
        (y, x) array of uint32
            Label of each pixel; 0 = background.
        """
        label_of_rank = np.zeros(len(self.ranks) + 1, np.uint32)
        label_of_rank[self.ranks[self.row]] = np.arange(1, len(self.row) + 1)
        return label_of_rank[_ranks_in(window, self.boxes, self.masks, self.ranks)]


def resolve(
    shape: tuple[int, int],
    boxes: Boxes,
    masks: Stored,
    scores: npt.NDArray[np.floating],
    classes: npt.NDArray[np.integer],
    block: int = BLOCK,
) -> Instances:
    """Decide which box each pixel of a section belongs to.

    A pixel belongs to the box with the highest score, among those whose mask has a probability above 1/2
    there. Boxes that are left with no pixel are no instances. Of equal scores, that of the box whose edges
    (y0, x0, y1, x1), then whose class, come first counts as the higher one. So the instances do not depend on
    the order of the boxes.

    Instances are numbered as components are (`instances.labelling`): by their first pixel, with columns in
    the outer and rows in the inner loop. Memory holds a block of the section and `CHUNK` masks at a time.

    Parameters
    ----------
    shape : tuple of int
        Shape (y, x) of the section (px).
    boxes : (k, 4) array of float64
        Boxes (y0, x0, y1, x1) in the section (px). They may reach beyond it.
    masks : (k, size, size) array of float or HDF5 dataset
        Probability of each cell, for the class of the box.
    scores : (k,) array of float
        Score of each box.
    classes : (k,) array of int
        Class of each box.
    block : int, default 2048
        Side of the blocks that are in memory one at a time (px). The result does not depend on it.

    Returns
    -------
    Instances
        Rows and sizes of the instances. Its method `labels` returns the labels of any window.

    Examples
    --------
    The second box has the higher score, so it keeps the pixel that both contain.

    >>> import numpy as np
    >>> from pipeline_lib.tasks.detection.masks import resolve
    >>> boxes = np.array([[0.0, 0, 2, 3], [0, 2, 2, 4]])
    >>> instances = resolve((2, 5), boxes, np.ones((2, 28, 28)), np.array([0.8, 0.9]), np.zeros(2, int))
    >>> instances.labels((slice(0, 2), slice(0, 5)))
    array([[1, 1, 2, 2, 0],
           [1, 1, 2, 2, 0]], dtype=uint32)
    >>> instances.row, instances.sizes
    (array([0, 1]), array([4, 4]))
    """
    order = np.lexsort((classes, *boxes.T[::-1], -scores))
    ranks = np.empty(len(boxes), np.uint32)
    ranks[order] = np.arange(len(boxes), dtype=np.uint32)
    first, sizes = np.full(len(boxes), np.iinfo(np.int64).max), np.zeros(len(boxes), np.int64)
    for area in blocks(shape, block):
        rows, columns = area.write
        _measure(
            _ranks_in(area.write, boxes, masks, ranks), rows.start, columns.start, shape[0], first, sizes
        )
    by_position = np.argsort(first)[: np.count_nonzero(sizes)]
    return Instances(order[by_position], sizes[by_position], boxes, masks, ranks)


def _ranks_in(window: Window, boxes: Boxes, masks: Stored, ranks: np.ndarray) -> npt.NDArray[np.uint32]:
    """Return the rank of the box that each pixel of a window belongs to; the number of boxes where none."""
    rows, columns = window
    found = np.full((rows.stop - rows.start, columns.stop - columns.start), len(boxes), np.uint32)
    y0, x0, y1, x1 = boxes.T
    near = np.flatnonzero((y0 < rows.stop) & (y1 > rows.start) & (x0 < columns.stop) & (x1 > columns.start))
    for start in range(0, len(near), CHUNK):
        chosen = near[start : start + CHUNK]
        pasted = paste(masks[chosen], boxes[chosen], window)
        for rank, (y, x, probability) in zip(ranks[chosen], pasted, strict=True):
            region = found[y, x]
            np.minimum(region, rank, out=region, where=probability > 0.5)
    return found


@compiled
def _measure(
    ranks: np.ndarray, top: int, left: int, height: int, first: np.ndarray, sizes: np.ndarray
) -> None:
    """Add the pixels of a block to the sizes and to the positions (x * height + y) of first pixels."""
    for y in range(ranks.shape[0]):
        for x in range(ranks.shape[1]):
            rank = ranks[y, x]
            if rank < len(sizes):
                sizes[rank] += 1
                first[rank] = min(first[rank], (left + x) * height + top + y)
