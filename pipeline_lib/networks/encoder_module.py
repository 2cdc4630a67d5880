"""Torch modules of an encoder and fully connected layers, which several networks share."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline_lib.networks.encoder import EncoderPlan
from pipeline_lib.networks.module import Network, initialise, max_pool


class Encoder(nn.Module):
    """Levels of unpadded convolutions with ReLU; a 2x2 max pooling ends each level.

    Parameters
    ----------
    plan : EncoderPlan
        Settings of the network.

    Attributes
    ----------
    levels : nn.ModuleList of nn.ModuleList of nn.Conv2d
        Convolutions of each level.
    """

    def __init__(self, plan: EncoderPlan) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        before = plan.input_channels
        for level in plan.levels:
            widths = [before] + [level.channels] * level.convolutions
            self.levels.append(nn.ModuleList(nn.Conv2d(a, b, level.kernel_size) for a, b in pairwise(widths)))
            before = level.channels

    def forward(self, x: Tensor, checkpointing: bool = False) -> list[Tensor]:
        """Return the result of each level.

        Parameters
        ----------
        x : (n, input_channels, y, x) Tensor
            Normalised images.
        checkpointing : bool, default False
            Whether to keep only the results of the levels, and compute the rest again for the gradient.

        Returns
        -------
        list of (n, channels, y, x) Tensor
            Pooled map of each level. Its resolution halves from level to level.
        """
        results = []
        for level in self.levels:
            # a level has no drop-out, so there is no random state to restore
            x = (
                checkpoint(_pooled, level, x, use_reentrant=False, preserve_rng_state=False)
                if checkpointing
                else _pooled(level, x)
            )
            results.append(x)
        return results


def _pooled(level: nn.Module, x: Tensor) -> Tensor:
    """Compute the convolutions of a level and the pooling after them."""
    for convolution in level.children():
        x = nn.functional.relu(convolution(x), inplace=True)
    return max_pool(x)


class EncoderNetwork(Network):
    """Base class of networks with an encoder, fully connected layers and a score layer.

    All of them have the same names of parameters, so that one network can start from the trained parameters
    of another one.

    Parameters
    ----------
    plan : EncoderPlan
        Settings of the network.

    Attributes
    ----------
    encoder : Encoder
        Levels of convolutions.
    fc : nn.ModuleList of nn.Conv2d
        Fully connected layers, as convolutions.
    score : nn.Conv2d
        1x1 convolution that computes the logits.
    """

    def __init__(self, plan: EncoderPlan) -> None:
        super().__init__(plan)
        self.encoder = Encoder(plan)
        widths = [plan.channels[-1], *plan.fc_channels]
        kernels = [plan.fc_size] + [1] * (len(plan.fc_channels) - 1)
        self.fc = nn.ModuleList(
            nn.Conv2d(a, b, kernel) for (a, b), kernel in zip(pairwise(widths), kernels, strict=True)
        )
        self.dropout = nn.Dropout(plan.dropout)
        self.score = nn.Conv2d(widths[-1], plan.classes, 1)
        self.apply(initialise)

    def score_coarse(self, x: Tensor) -> Tensor:
        """Compute the logits from the result of the last level.

        Parameters
        ----------
        x : (n, channels, y, x) Tensor
            Pooled map of the last level.

        Returns
        -------
        (n, classes, y - fc_size + 1, x - fc_size + 1) Tensor
            Logits of the classes, as a coarse map.
        """
        for layer in self.fc:
            x = self.dropout(nn.functional.relu(layer(x), inplace=True))
        return self.score(x)
