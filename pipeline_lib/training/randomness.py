"""Random numbers of a training step, as functions of the seed and the number of each patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_DROPOUT = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
}


def loss_mask(share: float, size: tuple[int, int], device: torch.device) -> Tensor:
    """Draw the pixels of a patch that the loss takes into account, from torch's default generator.

    Each pixel is drawn with the probability `share`, independently. If no pixel is drawn, one is chosen, so
    that the mean over the drawn pixels is defined. All pixels have the same probability in both cases, so the
    expectation of this mean is the mean over all pixels. With one pixel, it is always drawn.

    Parameters
    ----------
    share : float
        Probability, 0 < `share` <= 1.
    size : tuple of int
        Height and width of the output of the network (px).
    device : torch.device
        Device of the result.

    Returns
    -------
    (y, x) Tensor of bool
        True for the pixels that were drawn.

    References
    ----------
    [1]_: sampling of patches as a random mask on the loss.

    .. [1] E. Shelhamer, J. Long, T. Darrell, "Fully convolutional networks for semantic segmentation", IEEE
       Transactions on Pattern Analysis and Machine Intelligence 39(4):640-651, 2017.

    Examples
    --------
    >>> import torch
    >>> from pipeline_lib.training.randomness import loss_mask
    >>> loss_mask(1e-9, (3, 4), torch.device("cpu")).sum()
    tensor(1)
    """
    values = torch.rand(size, device=device)
    return values <= values.min().clamp(min=share)


def generator_of(device: torch.device) -> torch.Generator:
    """Return torch's default generator of a device.

    Parameters
    ----------
    device : torch.device
        The CPU or a GPU.

    Returns
    -------
    torch.Generator
        The generator from which drop-out draws.
    """
    if device.type == "cpu":
        return torch.default_generator
    index = torch.cuda.current_device() if device.index is None else device.index
    return torch.cuda.default_generators[index]


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Compute drop-out faster than torch does on the CPU.

    torch draws a number of 53 random bits for each value, on one core. Here 16 bits are drawn, so `p` is
    rounded to a multiple of 1 / 65536. On a GPU, torch computes it.

    Parameters
    ----------
    x : Tensor of float
        Values.
    p : float, default 0.5
        Probability of a value to be set to 0.
    training : bool, default True
        If False, all values are kept.
    inplace : bool, default False
        If torch computes it, whether the result replaces `x`.

    Returns
    -------
    Tensor of float
        Each value of `x` is either replaced by 0, or divided by the probability to be kept.
    """
    dropped = round(p * 2**16)
    if not training or x.device.type != "cpu" or not 0 < dropped < 2**16:
        return functional.dropout(x, p, training, inplace)
    drawn = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = drawn[: x.numel()].as_strided(x.shape, torch.empty_like(x).stride()) >= dropped - 2**15
    return x * keep.to(x.dtype).mul_(2**16 / (2**16 - dropped))


class DropoutByPatch(TorchFunctionMode):
    """Context in which drop-out draws separately for each patch of a batch, and fast (`dropout`).

    Without it, drop-out of a batch would depend on how patches are combined to batches. With it, each patch
    gets the numbers that it would get alone.

    Parameters
    ----------
    states : sequence of Tensor
        State of the generator for each patch.
    device : torch.device
        Device of the network.
    """

    def __init__(self, states: Sequence[Tensor], device: torch.device) -> None:
        super().__init__()
        self.states, self.generator = [*states], generator_of(device)

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function not in _DROPOUT:
            return function(*args, **kwargs)
        if function is functional.dropout:
            function = dropout
        batch, *others = args
        parts = []
        for number, patch in enumerate(batch.chunk(len(self.states))):
            self.generator.set_state(self.states[number])
            parts.append(function(patch, *others, **kwargs))
            self.states[number] = self.generator.get_state()
        return torch.cat(parts) if len(parts) > 1 else parts[0]
