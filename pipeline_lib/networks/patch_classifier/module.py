"""Torch module of the patch classifier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from pipeline_lib.networks.encoder_module import EncoderNetwork
from pipeline_lib.networks.patch_classifier import PatchClassifierPlan

# oneDNN, which computes convolutions on CPUs with AVX-512 for bfloat16, crashes in the weight gradient of
# dilated bfloat16 convolutions if the number of input channels is not a multiple of this (torch 2.13).
CHANNELS_OF_DILATED = 16


class PatchClassifier(EncoderNetwork):
    """Network that classifies each pixel from the window around it [1]_.

    Fully connected layers are convolutions: the weight (o, c * n * n) of the first one is stored as
    `weight.view(o, c, n, n)`. So the same parameters classify one window, or many windows of a tile at once:

    - A tile with an output of one pixel is one window, and its poolings have stride 2. Training with tiles of
      this size is patch-wise training.
    - With a larger tile, poolings have stride 1, and each pooling doubles the dilation of all later kernels
      ("a trous", filter dilation; section 3.2 of [2]_). Each pixel gets the result of its own window, and
      windows share what they have in common.

    `networks.patch_classifier.dense` has other, slower ways to the same result.

    Parameters
    ----------
    plan : PatchClassifierPlan
        Settings of the network.

    References
    ----------
    .. [1] D. C. Ciresan, A. Giusti, L. M. Gambardella, J. Schmidhuber, "Deep neural networks segment neuronal
       membranes in electron microscopy images", NIPS, 2843-2851, 2012.

    .. [2] E. Shelhamer, J. Long, T. Darrell, "Fully convolutional networks for semantic segmentation", IEEE
       Transactions on Pattern Analysis and Machine Intelligence 39(4):640-651, 2017.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.networks.patch_classifier import PatchClassifierPlan
    >>> from pipeline_lib.networks.patch_classifier.module import PatchClassifier
    >>> network = PatchClassifier(PatchClassifierPlan()).eval()
    >>> tile = torch.rand(1, 1, 98, 98)
    >>> network(tile).shape
    torch.Size([1, 2, 4, 4])
    >>> bool((network(tile[..., 3:, 3:])[..., 0, 0] - network(tile)[..., 3, 3]).abs().max() < 1e-5)
    True
    """

    plan: PatchClassifierPlan

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits of each pixel of a batch of tiles.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor of float32
            Normalised images. Height and width must be valid sizes (`geometry`).

        Returns
        -------
        (n, classes, y - 2 context, x - 2 context) Tensor
            Logits of the classes.
        """
        x = self.without_margin(x)
        side = self.plan.window
        return self.score_windows(x) if x.shape[2:] == (side, side) else self._score_pixels(x)

    def without_margin(self, x: Tensor) -> Tensor:
        """Cut off the pixels that no window contains.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor
            Images of a valid size (`geometry`).

        Returns
        -------
        (n, input_channels, y', x') Tensor
            Images whose first window is that of the first output pixel: without the first row and column if
            windows are even, because there are fewer pixels to the left of their centre than to the right.
        """
        margin = self.geometry.context - (self.plan.window - 1) // 2
        return x[..., margin:, margin:]

    def score_windows(self, x: Tensor) -> Tensor:
        """Compute the logits of the windows at every `plan.output_stride` px.

        Parameters
        ----------
        x : (n, input_channels, window + i output_stride, window + j output_stride) Tensor
            Normalised images that consist of whole windows.

        Returns
        -------
        (n, classes, i + 1, j + 1) Tensor
            Logits of the classes. Pixel (a, b) belongs to the window with its first pixel at row
            a * `output_stride` and column b * `output_stride`.
        """
        return self.score_coarse(self.encoder(x)[-1])

    def _score_pixels(self, x: Tensor) -> Tensor:
        """Compute the logits of the windows at every pixel, with dilated kernels."""
        dilation = 1
        for level in cast("Iterable[Iterable[nn.Conv2d]]", self.encoder.levels):
            for convolution in level:
                x = _dilated(convolution, x, dilation)
            x = nn.functional.max_pool2d(x, 2, stride=1, dilation=dilation)
            dilation *= 2
        for layer in cast("Iterable[nn.Conv2d]", self.fc):
            # the dilation has no effect on the 1x1 kernels after the first layer
            x = self.dropout(_dilated(layer, x, dilation))
        return self.score(x)


def _dilated(convolution: nn.Conv2d, x: Tensor, dilation: int) -> Tensor:
    """Apply a convolution with another dilation, and ReLU."""
    weight = convolution.weight
    extra = -x.shape[1] % CHANNELS_OF_DILATED
    if extra and dilation > 1 and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
        # channels of zeros: the gradient of the weights would read beyond the end of the image
        x, weight = (nn.functional.pad(values, (0, 0, 0, 0, 0, extra)) for values in (x, weight))
    x = nn.functional.conv2d(x, weight, convolution.bias, dilation=dilation)
    return nn.functional.relu(x, inplace=True)
