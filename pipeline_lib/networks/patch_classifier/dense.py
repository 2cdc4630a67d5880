"""Ways to classify each pixel of an image with a patch classifier.

`sliding_window` and `shift_and_stitch` give the result of the network itself, which uses dilated kernels and
is much faster (:doc:`/measurements/performance`). `heat_map` is an approximation. All functions take the
images that the network takes and return maps of the size that it returns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline_lib.networks.patch_classifier.module import PatchClassifier


def sliding_window(network: PatchClassifier, x: Tensor) -> Tensor:
    """Classify each pixel from its own window [1]_, one row of windows at a time.

    Parameters
    ----------
    network : PatchClassifier
        Network in evaluation mode.
    x : (n, input_channels, y, x) Tensor
        Normalised images of a valid size (`network.geometry`).

    Returns
    -------
    (n, classes, y - 2 context, x - 2 context) Tensor
        Logits of the classes.

    References
    ----------
    .. [1] D. C. Ciresan, A. Giusti, L. M. Gambardella, J. Schmidhuber, "Deep neural networks segment neuronal
       membranes in electron microscopy images", NIPS, 2843-2851, 2012.
    """
    x = network.without_margin(x)
    side = network.plan.window
    rows = []
    for top in range(x.shape[2] - side + 1):
        windows = x[:, :, top : top + side].unfold(3, side, 1).permute(0, 3, 1, 2, 4)  # n, columns, c, y, x
        scores = network.score_windows(windows.flatten(0, 1))
        rows.append(scores.view(*windows.shape[:2], -1).transpose(1, 2))
    return torch.stack(rows, dim=2)


def shift_and_stitch(network: PatchClassifier, x: Tensor) -> Tensor:
    """Classify each pixel by coarse maps of shifted images, which are interlaced.

    A coarse map has the classes of every s-th pixel, where s is the factor of all poolings together. It is
    computed for each of the s * s shifts of the image.

    Parameters
    ----------
    network : PatchClassifier
        Network in evaluation mode.
    x : (n, input_channels, y, x) Tensor
        Normalised images of a valid size (`network.geometry`).

    Returns
    -------
    (n, classes, y - 2 context, x - 2 context) Tensor
        Logits of the classes.

    References
    ----------
    Section 3.2 of [1]_.

    .. [1] E. Shelhamer, J. Long, T. Darrell, "Fully convolutional networks for semantic segmentation", IEEE
       Transactions on Pattern Analysis and Machine Intelligence 39(4):640-651, 2017.
    """
    x = network.without_margin(x)
    step = network.plan.output_stride
    height, width = (size - network.plan.window + 1 for size in x.shape[2:])
    result = x.new_empty(len(x), network.plan.classes, height, width)
    for top in range(min(step, height)):
        for left in range(min(step, width)):
            result[..., top::step, left::step] = _coarse_map(network, x[..., top:, left:])
    return result


def heat_map(network: PatchClassifier, x: Tensor) -> Tensor:
    """Classify every s-th pixel and interpolate bilinearly between them.

    s is the factor of all poolings together. The result is exact at every s-th row and column. Pixels beyond
    the last of them have its value.

    Parameters
    ----------
    network : PatchClassifier
        Network in evaluation mode.
    x : (n, input_channels, y, x) Tensor
        Normalised images of a valid size (`network.geometry`).

    Returns
    -------
    (n, classes, y - 2 context, x - 2 context) Tensor
        Approximate logits of the classes.

    References
    ----------
    Section 3.1 of [1]_.

    .. [1] E. Shelhamer, J. Long, T. Darrell, "Fully convolutional networks for semantic segmentation", IEEE
       Transactions on Pattern Analysis and Machine Intelligence 39(4):640-651, 2017.
    """
    x = network.without_margin(x)
    coarse = _coarse_map(network, x)
    height, width = ((size - 1) * network.plan.output_stride + 1 for size in coarse.shape[2:])
    fine = nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    bottom, right = (size - network.plan.window + 1 for size in x.shape[2:])
    return nn.functional.pad(fine, (0, right - width, 0, bottom - height), mode="replicate")


def _coarse_map(network: PatchClassifier, x: Tensor) -> Tensor:
    """Compute the logits of the windows at every `output_stride` px that lie in the image."""
    height, width = (size - (size - network.plan.window) % network.plan.output_stride for size in x.shape[2:])
    return network.score_windows(x[..., :height, :width])
