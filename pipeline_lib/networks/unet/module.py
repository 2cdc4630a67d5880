"""The U-Net (Ronneberger, Fischer & Brox 2015, figure 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline_lib.networks.module import Network
from pipeline_lib.networks.unet import UNetPlan


class UNet(Network):
    """Unpadded U-Net: (n, `input_channels`, y, x) -> logits (n, `classes`, y - 2 context, x - 2 context).

    `dropout` is the rate at the end of the contracting path (its two lowest levels), `batch_normalisation`
    follows each 3x3 convolution. `upsampling` halves the channels on the way up:

    - `up_convolution`: 2x2 transposed convolution of stride 2, the paper's
    - `nearest`: nearest neighbour, then a 2x2 convolution
    - `bilinear`: bilinear interpolation, then a 3x3 convolution

    The last two give up a rim of 1 and 2 px per step, where the result would depend on what lies beyond the
    tile's edge.

    With `checkpointing` set, training keeps only what goes in and out of each level: about a third less
    memory, a third more slowly.
    """

    def __init__(self, plan: UNetPlan) -> None:
        super().__init__(plan)
        widths = [plan.base_channels * 2**level for level in range(plan.depth + 1)]
        self.down = nn.ModuleList(
            _double_convolution(before, after, plan.batch_normalisation)
            for before, after in zip([plan.input_channels, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout(plan.dropout)
        self.up = nn.ModuleList(
            _upsampling(2 * width, width, plan.upsampling) for width in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(
            _double_convolution(2 * width, width, plan.batch_normalisation) for width in reversed(widths[:-1])
        )
        self.score = nn.Conv2d(plan.base_channels, plan.classes, 1)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        depth = len(self.up)
        for level, block in enumerate(self.down):
            x = self._run(block, x)
            if level >= depth - 1:
                x = self.dropout(x)
            if level < depth:
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = self._run(partial(_rise, up, merge), skips.pop(), x)
        return self.score(x)

    def _run(self, level: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            # no drop-out inside, hence no random state to restore
            return checkpoint(level, *inputs, use_reentrant=False, preserve_rng_state=False)
        return level(*inputs)


def _double_convolution(before: int, after: int, batch_normalisation: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        # Batch normalisation brings a bias of its own.
        layers.append(nn.Conv2d(channels, after, 3, bias=not batch_normalisation))
        if batch_normalisation:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _upsampling(before: int, after: int, kind: str) -> nn.Module:
    if kind == "up_convolution":
        return nn.ConvTranspose2d(before, after, 2, stride=2)
    if kind == "nearest":
        # 2n - 1 px after the convolution; without the first, n - 1 on either side of the centre, aligned with
        # the skip
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(before, after, 2),
            nn.ZeroPad2d((-1, 0, -1, 0)),
        )
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(-1), nn.Conv2d(before, after, 3)
    )


def _rise(up: nn.Module, merge: nn.Module, skip: Tensor, x: Tensor) -> Tensor:
    x = up(x)
    return merge(torch.cat([_centre(skip, x), x], dim=1))


def _centre(skip: Tensor, like: Tensor) -> Tensor:
    top, left = ((skip.shape[axis] - like.shape[axis]) // 2 for axis in (2, 3))
    bottom, right = skip.shape[2] - like.shape[2] - top, skip.shape[3] - like.shape[3] - left
    # Not a slice: its gradient would lose the channels-last layout, and a training step a fifth of its speed.
    return nn.functional.pad(skip, (-left, -right, -top, -bottom))


def _initialise(module: nn.Module) -> None:
    """Gaussian of standard deviation sqrt(2 / N) (He et al. 2015), biases 0.

    N is the number of incoming nodes of one neuron.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        incoming = module.in_channels
        if isinstance(
            module, nn.Conv2d
        ):  # in the 2x2 up-convolution of stride 2 each output sees one kernel pixel
            incoming *= math.prod(module.kernel_size)
        nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
