"""Number of operations of a network."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pipeline_lib.kernels.blocks import ALIGNMENT
from pipeline_lib.networks import Plan
from pipeline_lib.networks.module import Network, skeleton


def multiply_adds(plan: Plan, way: Callable[[Network, Tensor], Tensor] | None = None) -> float:
    """Return the multiply-adds of a prediction per pixel of a large section.

    Nothing is computed: torch counts the operations of tensors without values. The count is a quadratic
    polynomial in the side of the section; its second difference is free of the margin.

    Parameters
    ----------
    plan : Plan
        Plan of the network.
    way : callable, optional
        Function that computes the output of the network from an image. By default the network itself.

    Returns
    -------
    float
        Multiplications with additions in convolutions and matrix products.

    Examples
    --------
    The U-Net of the paper:

    >>> from pipeline_lib.networks import plan
    >>> from pipeline_lib.networks.cost import multiply_adds
    >>> round(multiply_adds(plan("unet")))
    733888
    """
    network = skeleton(plan).eval()

    def count(blocks: int) -> int:
        size = plan.geometry.input_size(blocks * ALIGNMENT)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            image = torch.empty(1, plan.input_channels, size, size, device="meta")
            way(network, image) if way else network(image)
        return counter.get_total_flops() // 2

    one, two, three = map(count, (1, 2, 3))
    return (three - 2 * two + one) / (2 * ALIGNMENT**2)
