"""Torch module of the U-Net."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline_lib.networks.module import Network, UpConvolution, crop_centre, initialise, max_pool
from pipeline_lib.networks.unet import UNetPlan

# Values of a 2x2 square that are so close to its maximum share an unpooled value. Activations are about 1.
NEAR_MAXIMUM = 0.01


class UNet(Network):
    """U-Net with unpadded convolutions.

    Each level of the contracting path has two 3x3 convolutions with ReLU, and a 2x2 max pooling leads to the
    next level, which has twice as many channels. Each level of the expanding path doubles the resolution,
    halves the number of channels, concatenates the result with the cropped output of the contracting path at
    the same level, and has two 3x3 convolutions with ReLU. A 1x1 convolution computes the logits.

    The setting `upsampling` selects how the resolution is doubled:

    - `up_convolution`: 2x2 transposed convolution with stride 2, as in the paper.
    - `nearest`: nearest-neighbour interpolation, then a 2x2 convolution.
    - `bilinear`: bilinear interpolation, then a 3x3 convolution.
    - `bed_of_nails`: zeros between the pixels, then a 4x4 convolution. This is the learned up-sampling of
      [3]_, which can become bilinear interpolation.
    - `max_unpooling`: a 1x1 convolution, then each value is put where the 2x2 square of the contracting path
      has its maximum, and zeros elsewhere [4]_. Pixels that equal the maximum (within 0.01) share the value.
      If only the first of them had it, rounding would decide where areas of one gray value are, and tiles
      would have seams.

    In each step, `nearest` and `bed_of_nails` cut off a rim of 1 px and `bilinear` one of 2 px, where the
    result would depend on padding.

    If `checkpointing` is True, a training step keeps only the inputs and outputs of the levels. This takes
    about a third less memory and a third more time.

    Parameters
    ----------
    plan : UNetPlan
        Settings of the network.

    References
    ----------
    Section 2 and figure 1 of [1]_; initialisation of [2]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    .. [2] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: Surpassing human-level performance
       on ImageNet classification", ICCV, 1026-1034, 2015.

    .. [3] J. Long, E. Shelhamer, T. Darrell, "Fully convolutional networks for semantic segmentation", CVPR,
       3431-3440, 2015.

    .. [4] M. D. Zeiler, G. W. Taylor, R. Fergus, "Adaptive deconvolutional networks for mid and high level
       feature learning", ICCV, 2018-2025, 2011.

    Examples
    --------
    The network of the paper, here with only one base channel, maps a tile of 572 px to 388 px:

    >>> import torch
    >>> from pipeline_lib.networks.unet import UNetPlan
    >>> from pipeline_lib.networks.unet.module import UNet
    >>> network = UNet(UNetPlan(base_channels=1))
    >>> network(torch.zeros(1, 1, 572, 572)).shape
    torch.Size([1, 2, 388, 388])
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
        self.apply(initialise)

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
        skips = []
        depth = len(self.up)
        for level, block in enumerate(self.down):
            x = self._run(block, x)
            if level >= depth - 1:
                x = self.dropout(x)
            if level < depth:
                skips.append(x)
                x = max_pool(x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = self._run(partial(_expand, up, merge), skips.pop(), x)
        return self.score(x)

    def _run(self, level: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Compute a level, with checkpointing if it is on."""
        if self.checkpointing and self.training:
            # a level has no drop-out inside, so there is no random state to restore
            return checkpoint(level, *inputs, use_reentrant=False, preserve_rng_state=False)
        return level(*inputs)


class MaxUnpooling(nn.Module):
    """1x1 convolution, then unpooling to where the contracting path had the maxima of its 2x2 squares.

    Parameters
    ----------
    before : int
        Number of channels of the input.
    after : int
        Number of channels of the result and of the level of the contracting path.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.halve = nn.Conv2d(before, after, 1)

    def forward(self, x: Tensor, pooled: Tensor) -> Tensor:
        """Double the resolution.

        Parameters
        ----------
        x : (n, before, y, x) Tensor
            Values of the lower level.
        pooled : (n, after, ..., ...) Tensor
            Input of the max pooling. It is cropped to the centre; no gradient flows back to it.

        Returns
        -------
        (n, after, 2 y, 2 x) Tensor
            The values at the maxima, and zeros.
        """
        values = nn.functional.interpolate(self.halve(x), scale_factor=2, mode="nearest")
        with torch.no_grad():
            shares = maximum_shares(crop_centre(pooled, values))
        return values * shares


def maximum_shares(x: Tensor) -> Tensor:
    """Return which share each pixel has in the maximum of its 2x2 square.

    Parameters
    ----------
    x : (n, c, y, x) Tensor
        Values with even height and width.

    Returns
    -------
    (n, c, y, x) Tensor
        Shares, which add up to 1 in each square. The share falls linearly to 0 at `NEAR_MAXIMUM` below the
        maximum. So rounding errors change it little.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.networks.unet.module import maximum_shares
    >>> maximum_shares(torch.tensor([[[[1.0, 2, 6, 6], [3, 5, 2, 1]]]]))
    tensor([[[[0.0000, 0.0000, 0.5000, 0.5000],
              [0.0000, 1.0000, 0.0000, 0.0000]]]])
    """
    double = partial(nn.functional.interpolate, scale_factor=2, mode="nearest")
    near = nn.functional.relu(1 - (double(nn.functional.max_pool2d(x, 2)) - x) / NEAR_MAXIMUM)
    return near / double(4 * nn.functional.avg_pool2d(near, 2))


def _double_convolution(before: int, after: int, batch_normalisation: bool) -> nn.Sequential:
    """Two unpadded 3x3 convolutions with ReLU, from `before` to `after` channels."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        # batch normalisation has its own bias
        layers.append(nn.Conv2d(channels, after, 3, bias=not batch_normalisation))
        if batch_normalisation:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _upsampling(before: int, after: int, kind: str) -> nn.Module:
    """Layers that double the resolution, from `before` to `after` channels."""
    if kind == "up_convolution":
        return UpConvolution(before, after)
    if kind == "nearest":
        # The convolution gives 2n - 1 px. Without the first row and column, n - 1 px remain on each side of
        # the centre, so the result is aligned with the skip connection.
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(before, after, 2),
            nn.ZeroPad2d((-1, 0, -1, 0)),
        )
    if kind == "bed_of_nails":
        # A transposed convolution gives the same without multiplying zeros. `padding` cuts off what depends
        # on pixels beyond the tile. The nails are at the top left of 2x2 squares, and a kernel of even size
        # moves them to the centre, so the result is aligned with the skip connection.
        return nn.ConvTranspose2d(before, after, 4, stride=2, padding=2)
    if kind == "max_unpooling":
        return MaxUnpooling(before, after)
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.ZeroPad2d(-1), nn.Conv2d(before, after, 3)
    )


def _expand(up: nn.Module, merge: nn.Module, skip: Tensor, x: Tensor) -> Tensor:
    """One level of the expanding path: up-sample, concatenate with the skip connection, convolve twice."""
    x = up(x, skip) if isinstance(up, MaxUnpooling) else up(x)
    return merge(torch.cat([crop_centre(skip, x), x], dim=1))
