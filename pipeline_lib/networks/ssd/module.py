"""Torch module of the single shot detector SSD."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.networks.module import Network, crop_centre, initialise, max_pool
from pipeline_lib.networks.ssd import MASK_CONVOLUTIONS, OFFSETS, ROI, SSDPlan
from pipeline_lib.networks.ssd.masks import MaskHead, roi_align


class SSD(Network):
    """Single shot detector without padding.

    The output has one pixel for each square of `plan.reduction` px of the image. Its channels contain, for
    each default box of the square (`plan.default_boxes`), first the logits of the classes and then four
    offsets. So tiles are joined as those of other networks.

    Parameters
    ----------
    plan : SSDPlan
        Settings of the network.

    Attributes
    ----------
    levels : nn.ModuleList of nn.Sequential
        Convolutions of each level.
    heads : nn.ModuleList of nn.Conv2d
        Convolution that predicts the boxes of a level, from the highest level.
    mask_head : MaskHead
        Predicts the masks of objects. It exists only with the setting `masks`.

    References
    ----------
    Section 2 of [1]_. Initialisation of [2]_.

    .. [1] W. Liu, D. Anguelov, D. Erhan, C. Szegedy, S. Reed, C.-Y. Fu, A. C. Berg, "SSD: Single shot
       MultiBox detector", ECCV, LNCS 9905:21-37, 2016.

    .. [2] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: Surpassing human-level performance
       on ImageNet classification", ICCV, 1026-1034, 2015.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.networks.ssd import SSDPlan
    >>> plan = SSDPlan(channels=(2, 2, 2), heads=2, convolutions=1)
    >>> plan.geometry.output_size(26), plan.boxes_per_cell * 6
    (4, 180)
    >>> plan.build()(torch.zeros(1, 1, 26, 26)).shape
    torch.Size([1, 180, 1, 1])
    """

    def __init__(self, plan: SSDPlan) -> None:
        super().__init__(plan)
        self.levels = nn.ModuleList()
        before = plan.input_channels
        for width in plan.channels:
            widths = [before] + [width] * plan.convolutions
            self.levels.append(_level(widths, plan.batch_normalisation))
            before = width
        values = plan.shapes_per_pixel * (plan.classes + OFFSETS)
        widths = [*plan.channels[-plan.heads :]]
        self.heads = nn.ModuleList(nn.Conv2d(width, values, 3) for width in widths)
        self.norm = ScaledNorm(widths[0]) if plan.scaled_norm else nn.Identity()
        self.apply(initialise)
        for head in self.heads:  # a Gaussian of He et al. is for layers before a ReLU
            nn.init.normal_(cast("nn.Conv2d", head).weight, std=0.01)
        if plan.masks:  # last, so that all other layers have the parameters that they have without masks
            self.mask_head = MaskHead(widths[0], plan.classes - 1, MASK_CONVOLUTIONS, widths[0])

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits and offsets of the default boxes of a batch of tiles.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor of float32
            Normalised images. Height and width must be valid sizes (`geometry`).

        Returns
        -------
        (n, output_channels, (y - 2 context) / reduction, (x - 2 context) / reduction) Tensor
            For each default box its logits and offsets.
        """
        return self._boxes(self._maps(x, len(self.levels)))

    def features(self, x: Tensor) -> Tensor:
        """Compute the features from which masks are predicted, and no further level.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor of float32
            Normalised images. Height and width are 2 `plan.margin` and any multiple of `plan.strides[0]`.

        Returns
        -------
        (n, channels, (y - 2 margin) / stride, (x - 2 margin) / stride) Tensor
            Highest level that predicts boxes.
        """
        return self._maps(x, len(self.levels) - len(self.heads) + 1)[0]

    def with_masks(
        self, x: Tensor, boxes: Boxes, image_of_box: npt.NDArray[np.integer]
    ) -> tuple[Tensor, Tensor]:
        """Compute the output for a batch of tiles, and the masks in some boxes, in one pass.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor of float32
            Normalised images, as for `forward`.
        boxes : (k, 4) array of float64
            Boxes (y0, x0, y1, x1), in px of the image from the first pixel of `x`.
        image_of_box : (k,) array of int
            Image that each box is in, 0 to n - 1.

        Returns
        -------
        output : Tensor
            As from `forward`.
        logits : (k, classes - 1, 28, 28) Tensor
            Logits of the masks of all classes but the background.
        """
        maps = self._maps(x, len(self.levels))
        return self._boxes(maps), self.mask_head(self.align(maps[0], boxes, image_of_box))

    def align(
        self, features: Tensor, boxes: Boxes, image_of_box: npt.NDArray[np.integer], size: int = ROI
    ) -> Tensor:
        """Return the features in boxes, as the mask head needs them.

        Parameters
        ----------
        features : Tensor
            Result of `features`.
        boxes : (k, 4) array of float64
            Boxes (y0, x0, y1, x1), in px of the image from its first pixel.
        image_of_box : (k,) array of int
            Image that each box is in.
        size : int, default 14
            Number of cells of a box along each axis.

        Returns
        -------
        (k, channels, size, size) Tensor of float32
            Result of `masks.roi_align`.
        """
        plan = cast("SSDPlan", self.plan)
        return roi_align(features, boxes, image_of_box, size, plan.strides[0], plan.margin)

    def _maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Return those of the first `count` levels that predict boxes."""
        first = len(self.levels) - len(self.heads)
        maps = []
        for number, level in enumerate(self.levels[:count]):
            x = max_pool(x) if number else x
            if self.checkpointing and self.training:
                # a level has no drop-out, so there is no random state to restore
                x = checkpoint(level, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = level(x)
            if number >= first:
                maps.append(x)
        return maps

    def _boxes(self, maps: list[Tensor]) -> Tensor:
        """Return logits and offsets of the default boxes, with one pixel for each of the lowest level."""
        maps = [self.norm(maps[0]), *maps[1:]]
        predicted = [head(each) for head, each in zip(self.heads, maps, strict=True)]
        plan = cast("SSDPlan", self.plan)
        packed = [
            _packed(each, plan.reduction // stride, predicted[-1].shape[2:], plan.shapes_per_pixel)
            for each, stride in zip(predicted, plan.strides, strict=True)
        ]
        return torch.cat(packed, dim=1)


class ScaledNorm(nn.Module):
    """Divide the features of each pixel by their Euclidean norm, and scale each channel.

    Parameters
    ----------
    channels : int
        Number of channels.
    scale : float, default 20.0
        Initial scale of all channels.

    References
    ----------
    .. [1] W. Liu, A. Rabinovich, A. C. Berg, "ParseNet: Looking wider to see better", arXiv:1506.04579, 2015.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.networks.ssd.module import ScaledNorm
    >>> features = torch.tensor([3.0, 4.0, 0.0, 0.0]).reshape(1, 4, 1, 1)
    >>> ScaledNorm(4)(features).flatten().tolist()
    [12.0, 16.0, 0.0, 0.0]
    """

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels, 1, 1), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Divide features by their norm and scale them.

        Parameters
        ----------
        x : (n, channels, y, x) Tensor
            Features.

        Returns
        -------
        (n, channels, y, x) Tensor
            Scaled features.
        """
        return nn.functional.normalize(x) * self.scale


def _packed(predicted: Tensor, factor: int, size: torch.Size, shapes: int) -> Tensor:
    """Return the predictions of a level with one pixel for each square of `factor` x `factor` pixels.

    `size` is the height and width of the result. Only the centre of `predicted` is used, because a higher
    level has more of its pixels left than the lowest one.
    """
    n = len(predicted)
    like = predicted.new_empty(()).expand(1, 1, factor * size[0], factor * size[1])
    squares = nn.functional.pixel_unshuffle(crop_centre(predicted, like), factor)
    by_shape = squares.reshape(n, shapes, -1, factor**2, *size)
    return by_shape.transpose(2, 3).reshape(n, -1, *size)


def _level(widths: list[int], normalised: bool) -> nn.Sequential:
    """Return the convolutions of a level, each with batch normalisation, if wanted, and ReLU."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers.append(nn.Conv2d(before, after, 3, bias=not normalised))
        layers += [nn.BatchNorm2d(after)] if normalised else []
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
