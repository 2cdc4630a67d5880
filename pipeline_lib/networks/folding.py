"""Folding of batch normalisation into convolutions, which makes prediction faster."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold(network: nn.Module) -> None:
    """Fold each batch normalisation into the convolution directly before it, in place.

    In evaluation mode, batch normalisation multiplies each channel by a constant and adds another one. A
    convolution can do both, with kernels w' = w g / s and biases b' = beta + (b - mean) g / s, where
    s = sqrt(variance + eps), and g and beta are the learned scale and shift. This is computed in float64. The
    output is the same up to rounding.

    A folded network is for prediction. It cannot be trained further, and its parameters no longer have the
    names of the model file.

    Parameters
    ----------
    network : nn.Module
        Network in evaluation mode. Layers are found in each `nn.Sequential` of it. Folded convolutions are
        new modules of the same dtype; `nn.Identity` replaces batch normalisation.

    References
    ----------
    Batch normalisation: section 3.1 of [1]_.

    .. [1] S. Ioffe, C. Szegedy, "Batch normalization: Accelerating deep network training by reducing internal
       covariate shift", ICML, 448-456, 2015.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from pipeline_lib.networks.folding import fold
    >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).eval()
    >>> fold(layers)
    >>> [type(layer).__name__ for layer in layers]
    ['Conv2d', 'Identity', 'ReLU']
    """
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for number, (layer, following) in enumerate(pairwise(layers)):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and isinstance(following, nn.BatchNorm2d):
                transposed = isinstance(layer, nn.ConvTranspose2d)
                if transposed and layer.groups > 1:
                    continue  # torch confuses the axes of these kernels (its issue 180995)
                exact = deepcopy(layer).double(), deepcopy(following).double()
                layers[number] = fuse_conv_bn_eval(*exact, transposed).to(layer.weight.dtype)
                layers[number + 1] = nn.Identity()
