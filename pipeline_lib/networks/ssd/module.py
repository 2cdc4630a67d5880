"""Torch module of the single shot detector SSD."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline_lib.networks.module import Network, crop_centre, initialise
from pipeline_lib.networks.ssd import OFFSETS, SSDPlan


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
        first = len(self.levels) - len(self.heads)
        maps = []
        for number, level in enumerate(self.levels):
            x = nn.functional.max_pool2d(x, 2) if number else x
            if self.checkpointing and self.training:
                # a level has no drop-out, so there is no random state to restore
                x = checkpoint(level, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = level(x)
            if number >= first:
                maps.append(x)
        maps[0] = self.norm(maps[0])
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
