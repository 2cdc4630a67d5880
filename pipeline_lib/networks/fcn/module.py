"""Torch module of FCN-32s, FCN-16s and FCN-8s."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline_lib.networks.encoder_module import EncoderNetwork
from pipeline_lib.networks.fcn import FCNPlan
from pipeline_lib.networks.module import crop_centre


class FCN(EncoderNetwork):
    """Fully convolutional network without padding.

    The coarse map of logits is doubled once for each skip connection and then enlarged to the resolution of
    the image. Each doubling is followed by the sum with the logits of the level that has this resolution,
    cropped at its centre.

    An upsampling by f is a transposed convolution with a kernel of 2f x 2f and stride f. It starts as
    bilinear interpolation and cuts off f/2 px on each side, where pixels do not receive all their
    contributions. The layers of the skip connections start as 0, so that they change nothing at first.

    Parameters
    ----------
    plan : FCNPlan
        Settings of the network.

    Attributes
    ----------
    skip_scores : nn.ModuleList of nn.Conv2d
        Score layer of each skip connection, from the lowest level.
    doublings : nn.ModuleList
        Upsampling by 2 before each skip connection.
    enlarge : nn.Module
        Last upsampling.

    References
    ----------
    Sections 3 and 4 of [1]_. Initialisation of the encoder of [2]_.

    .. [1] E. Shelhamer, J. Long, T. Darrell, "Fully convolutional networks for semantic segmentation", IEEE
       Transactions on Pattern Analysis and Machine Intelligence 39(4):640-651, 2017.

    .. [2] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: Surpassing human-level performance
       on ImageNet classification", ICCV, 1026-1034, 2015.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.networks.fcn import FCN8sPlan
    >>> plan = FCN8sPlan(channels=(2, 2, 2, 2, 2), fc_channels=(4,))
    >>> plan.build()(torch.zeros(1, 1, 468, 468)).shape
    torch.Size([1, 2, 40, 40])
    """

    def __init__(self, plan: FCNPlan) -> None:
        super().__init__(plan)
        self.scales = plan.skip_scales
        upsampling = {"learned": _LearnedUpsampling, "fixed": _FixedUpsampling}[plan.upsampling]
        lowest_first = plan.channels[-2::-1]
        self.skip_scores = nn.ModuleList(
            nn.Conv2d(channels, plan.classes, 1)
            for channels, _ in zip(lowest_first, self.scales, strict=False)
        )
        for parameter in self.skip_scores.parameters():
            nn.init.zeros_(parameter)
        self.doublings = nn.ModuleList(upsampling(2, plan.classes) for _ in self.scales)
        self.enlarge = upsampling(plan.enlargement, plan.classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of a batch of tiles.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor of float32
            Normalised images. Height and width must be valid sizes (`geometry`).

        Returns
        -------
        (n, classes, y - 2 context, x - 2 context) Tensor
            Logits of the classes.
        """
        *skips, lowest = self.encoder(x, checkpointing=self.checkpointing and self.training)
        logits = self.score_coarse(lowest)
        for double, score, scale in zip(self.doublings, self.skip_scores, self.scales, strict=True):
            logits = double(logits)
            logits = logits + score(scale * crop_centre(skips.pop(), logits))
        return self.enlarge(logits)


class _LearnedUpsampling(nn.ConvTranspose2d):
    """Transposed convolution that starts as bilinear interpolation of each class.

    Parameters
    ----------
    factor : int
        Factor of the upsampling. A map of n px becomes (n - 1) * `factor` px.
    classes : int
        Number of channels.
    """

    def __init__(self, factor: int, classes: int) -> None:
        # this padding cuts off `factor` px on each side of the (n + 1) * `factor` px
        super().__init__(classes, classes, 2 * factor, stride=factor, padding=factor, bias=False)

    def reset_parameters(self) -> None:
        """Set the kernel to bilinear interpolation."""
        factor = self.stride[0]
        distance = torch.arange(0.5 - factor, factor)  # of the pixels under the kernel to its centre
        line = 1 - distance.abs() / factor
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(self.in_channels), range(self.in_channels)] = line[:, None] * line


class _FixedUpsampling(nn.Module):
    """Bilinear interpolation with the size of `_LearnedUpsampling`, without parameters.

    Parameters
    ----------
    factor : int
        Factor of the upsampling.
    classes : int
        Number of channels, which does not matter here.
    """

    def __init__(self, factor: int, classes: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the interpolated map without a rim of `factor` / 2 px, where it would depend on padding."""
        x = nn.functional.interpolate(x, scale_factor=self.factor, mode="bilinear")
        return nn.functional.pad(x, [-(self.factor // 2)] * 4)
