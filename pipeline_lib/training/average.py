"""Average of the parameters of a network over its training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of the parameters of a network.

    After update number t = 0, 1, 2, ..., the average becomes d average + (1 - d) parameters with
    d = min(`decay`, (1 + t) / (10 + t)). So the first updates do not keep the random initial parameters.
    Buffers, which are statistics of batch normalisation, are not averaged.

    Parameters
    ----------
    net : torch.nn.Module
        Network in training, on its device.
    decay : float
        Largest weight d of the average so far, 0 < `decay` < 1.

    Attributes
    ----------
    values : list of Tensor
        Average of each parameter.

    References
    ----------
    Averages of the parameters as the result: [1]_.

    .. [1] B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM Journal
       on Control and Optimization 30(4):838-855, 1992.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.training.average import Average
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.zeros_(net.weight)
    >>> average = Average(net, 0.9)
    >>> _ = torch.nn.init.ones_(net.weight)
    >>> average.update(0)  # d is 1 / 10
    >>> with average.used():
    ...     round(net.weight.item(), 3)
    0.9
    >>> net.weight.item()
    1.0
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net, self.decay = net, decay
        self.values = [parameter.detach().clone() for parameter in net.parameters()]

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Add the present parameters to the average.

        Parameters
        ----------
        number : int
            Number t of the update, from 0.
        """
        decay = min(self.decay, (1 + number) / (10 + number))
        for value, parameter in zip(self.values, self.net.parameters(), strict=True):
            value.lerp_(parameter, 1 - decay)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Give the network the average as its parameters inside the `with` statement.

        Yields
        ------
        None
            Nothing.
        """
        own = [parameter.detach().clone() for parameter in self.net.parameters()]
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        """Copy values to the parameters of the network."""
        for parameter, value in zip(self.net.parameters(), values, strict=True):
            parameter.copy_(value)
