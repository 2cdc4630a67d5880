"""What all networks share that torch runs."""

from __future__ import annotations

from torch import nn

from pipeline_lib.networks.plan import Geometry, Plan


class Network(nn.Module):
    """Base class of networks: (n, c, y, x) -> (n, classes, y - 2 context, x - 2 context).

    Convolutions are not padded: an output pixel depends on its context alone, wherever in a tile it lies.

    With `checkpointing` set, training keeps fewer activations and computes them again for the gradient: the
    same numbers with less memory, more slowly. A network that cannot do so ignores it.
    """

    checkpointing = False

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    @property
    def geometry(self) -> Geometry:
        """Which sizes the network takes, and how much context it needs."""
        return self.plan.geometry
