"""Statistics of batch normalisation for prediction, estimated over many tiles."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipeline_lib.inference.passes import autocast
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.processes import ALONE, Processes


def estimate_statistics(
    net: Network,
    tiles: Iterable[tuple[int, Tensor]],
    precision: torch.dtype = torch.float32,
    processes: Processes = ALONE,
) -> None:
    """Replace the running means and variances of a network by their means over tiles.

    A training step normalises each tile with its own statistics, and mixes those of the last ten or so into
    the running ones, although the parameters change meanwhile. Here all statistics are those of the present
    parameters, and all tiles count the same. Drop-out is off. Nothing else of the network changes, and the
    result does not depend on the running statistics or on the number of processes. Statistics of frozen parts
    stay as they are.

    Parameters
    ----------
    net : Network
        Network on its device. It is in training mode afterwards.
    tiles : iterable of (int, (1, c, y, x) Tensor)
        Number and image of each tile of this process.
    precision : torch.dtype, default torch.float32
        Type of the convolutions.
    processes : Processes, default one process
        Processes that share the tiles.

    References
    ----------
    Section 3 of [1]_: "precise" batch normalisation.

    .. [1] Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, 2021.
    """
    net.train()  # except frozen parts, whose statistics stay as they are
    layers = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    seen: dict[nn.Module, Tensor] = {}  # variance and mean of each channel

    def see(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        seen[layer] = torch.stack(torch.var_mean(inputs[0].float(), (0, 2, 3)))

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    net.eval()
    for layer in layers:
        layer.train()
        layer.track_running_stats = False  # the running statistics stay as they are until all tiles are seen
    found = {}
    device = next(net.parameters()).device
    with torch.no_grad(), autocast(device, precision):
        for number, tile in tiles:
            net(tile.contiguous(memory_format=torch.channels_last))
            found[number] = [seen[layer].double().cpu() for layer in layers]
    of_tiles = processes.merge(found).values()
    for layer, *of_layer in zip(layers, *of_tiles, strict=True):
        variance, mean = torch.stack(of_layer).mean(0)
        layer.running_var.copy_(variance)
        layer.running_mean.copy_(mean)
        layer.track_running_stats = True
    for hook in hooks:
        hook.remove()
    net.train()
