"""Third head of a detector: the mask of the object in each box.

A mask is a small grid of cells that divides its box evenly, whatever the size of the box. The head predicts
for each cell the probability that it belongs to the object. `tasks.detection.masks` makes the targets, and
labels of the masks.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.networks.module import UpConvolution, initialise
from pipeline_lib.networks.ssd import ROI


def roi_align(
    features: Tensor,
    boxes: Boxes,
    image_of_box: npt.NDArray[np.integer],
    size: int = ROI,
    stride: float = 1,
    offset: float = 0,
) -> Tensor:
    """Return the features in each box as a grid of cells (RoIAlign [1]_).

    A cell is the mean of 2 x 2 points in it, and the features are interpolated bilinearly at these points.
    Beyond the map, the features at its edge continue.

    The result has the same bits for a tile as for the whole image, if the features and the positions of the
    boxes are the same. `torch.nn.functional.grid_sample` would not give this, because it takes positions as
    shares of the map, in single precision: the rounding depends on the size of the map.

    Parameters
    ----------
    features : (n, c, y, x) Tensor of float
        Maps of features. The result is differentiable in them, but not in the boxes.
    boxes : (k, 4) array of float64
        Boxes (y0, x0, y1, x1), in the coordinates of `offset` (px).
    image_of_box : (k,) array of int
        Map that each box is in, 0 to n - 1.
    size : int, default 14
        Number of cells along each axis.
    stride : float, default 1
        Distance of the centres of features (px).
    offset : float, default 0
        Where the maps begin (px): the centre of the feature (i, j) is at `offset` + (i + 0.5) `stride` and
        `offset` + (j + 0.5) `stride`.

    Returns
    -------
    (k, c, size, size) Tensor of float32, or float64 for such features
        Features of each box.

    References
    ----------
    .. [1] K. He, G. Gkioxari, P. Dollar, R. Girshick, "Mask R-CNN", ICCV, 2961-2969, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from pipeline_lib.networks.ssd.masks import roi_align
    >>> features = torch.arange(64.0).view(1, 1, 8, 8)
    >>> roi_align(features, np.array([[1.0, 1, 5, 5]]), np.zeros(1, int), size=2)
    tensor([[[[13.5000, 15.5000],
              [29.5000, 31.5000]]]])
    """
    channels, height, width = features.shape[1:]
    boxes = (np.asarray(boxes, np.float64) - offset) / stride
    rows, row_weights = _sampled(boxes[:, 0], boxes[:, 2], size, height)
    columns, column_weights = _sampled(boxes[:, 1], boxes[:, 3], size, width)
    rows += (np.asarray(image_of_box, np.int64) * height)[:, None, None]
    # (k, row of cells, column of cells, row of features, column of features)
    index = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    # With one map, `reshape` can give a view with other strides, which are slower and rounded differently.
    table = features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    # a cell is a weighted sum of features, which this function computes without a copy of them for each box
    cells = nn.functional.embedding_bag(
        torch.from_numpy(index.reshape(-1, 16)).to(table.device),
        table,
        mode="sum",
        per_sample_weights=torch.from_numpy(weights.reshape(-1, 16)).to(table),
    )
    return cells.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def _sampled(
    start: np.ndarray, stop: np.ndarray, size: int, length: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return which features a row of cells is made of, along one axis.

    Parameters
    ----------
    start, stop : (k,) array of float64
        Edges of the boxes, in units of features.
    size : int
        Number of cells.
    length : int
        Number of features along the axis.

    Returns
    -------
    index : (k, size, 4) array of int64
        Features to the left and right of the two points in each cell.
    weights : (k, size, 4) array of float64
        Weight of each.
    """
    # The whole part is split off first. So points are rounded in the same way, wherever the map begins.
    whole = np.floor(start - 0.5)
    points = (np.arange(2 * size) + 0.5) * ((stop - start) / (2 * size))[:, None]
    points += (start - 0.5 - whole)[:, None]
    left = np.floor(points)
    share = points - left
    index = (whole[:, None] + left).astype(np.int64)[..., None] + [0, 1]
    weights = np.stack([1 - share, share], axis=2) / 2
    return index.clip(0, length - 1).reshape(-1, size, 4), weights.reshape(-1, size, 4)


class MaskHead(nn.Module):
    """Third head of Mask R-CNN [1]_: predicts the mask of the object in a box from the features of the box.

    Several 3x3 convolutions with ReLU, a 2x2 transposed convolution with stride 2 and ReLU, which doubles the
    number of cells, and a 1x1 convolution. Each class has its own masks, which do not compete: the class is
    that of the box.

    The convolutions are padded, unlike those of the networks. This makes no seams between tiles: their input
    is the grid of a box, which ends where the box ends, whatever tile the box is in.

    Parameters
    ----------
    channels : int
        Number of channels of the features.
    classes : int
        Number of classes, without background.
    convolutions : int, default 4
        Number of 3x3 convolutions.
    width : int, default 256
        Number of channels of the hidden layers.

    References
    ----------
    Figure 4, right, of [1]_, which the defaults are those of.

    .. [1] K. He, G. Gkioxari, P. Dollar, R. Girshick, "Mask R-CNN", ICCV, 2961-2969, 2017.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.networks.ssd.masks import MaskHead
    >>> head = MaskHead(channels=64, classes=2, width=16)
    >>> head(torch.zeros(5, 64, 14, 14)).shape
    torch.Size([5, 2, 28, 28])
    """

    def __init__(self, channels: int, classes: int, convolutions: int = 4, width: int = 256) -> None:
        super().__init__()
        widths = [channels, *[width] * convolutions]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
        self.convolutions = nn.Sequential(*layers)
        self.up = UpConvolution(widths[-1], width)
        self.score = nn.Conv2d(width, classes, 1)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the masks of boxes.

        Parameters
        ----------
        x : (k, channels, size, size) Tensor of float32
            Features of boxes, see `roi_align`.

        Returns
        -------
        (k, classes, 2 size, 2 size) Tensor
            Logits of the masks of all classes. Their sigmoid is the probability.
        """
        return self.score(nn.functional.relu(self.up(self.convolutions(x))))
