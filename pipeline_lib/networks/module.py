"""Base class of the torch modules of all networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline_lib.networks import parts

if TYPE_CHECKING:
    from pipeline_lib.networks.plan import Geometry, Plan


class Network(nn.Module):
    """Base class of networks.

    A subclass defines `forward`, a function of one argument: normalised images, (n, c, y, x) Tensor of
    float32, whose height and width are valid sizes of `geometry`. It returns the logits of the classes,
    (n, classes, y - 2 context, x - 2 context) Tensor of float32, or of bfloat16 under `torch.autocast`.

    A network must have these properties, from which it follows that tiles have no seams and that results can
    be reproduced:

    - Convolutions are not padded, so an output pixel depends only on the input within `context` of it.
    - If a tile is shifted by a multiple of the stride, the output is shifted, too, and is otherwise the same.
    - Random numbers are drawn only in training mode and only by drop-out: the modules `nn.Dropout` and so on,
      or their functions in `torch.nn.functional`. The training seeds it for each patch from its own seed and
      the number of the patch, also if it processes several patches together, so drop-out is a function of
      these two.
    - Batch normalisation that follows a convolution in an `nn.Sequential` is applied to its output and to
      nothing else, because prediction folds the two into one (`networks.folding.fold`).

    Parameters
    ----------
    plan : Plan
        Settings and geometry of the network.

    Attributes
    ----------
    plan : Plan
        Settings and geometry of the network.
    checkpointing : bool
        If True, a training step keeps fewer activations and computes the others a second time for the
        gradient. This takes less memory and more time; the result is the same. A network may ignore it.
    frozen : sequence of str
        Names of the parts that are not trained, see `freeze`.
    """

    checkpointing = False
    frozen: Sequence[str] = ()

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan

    @property
    def geometry(self) -> Geometry:
        """Valid input sizes of the network, and its context."""
        return self.plan.geometry

    def move_to(self, device: torch.device) -> Self:
        """Move the network to `device`, with its parameters in the channels-last memory layout.

        Parameters
        ----------
        device : torch.device
            Device that the network will run on.

        Returns
        -------
        Network
            The network itself.
        """
        # torch accepts `memory_format` here, but its type stubs do not list it together with a device
        return self.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def freeze(self, frozen: Sequence[str]) -> None:
        """Exclude parts of the network from the training.

        Their parameters get no gradient. Their batch normalisation uses its running statistics, which stay as
        they are. Drop-out stays active.

        Parameters
        ----------
        frozen : sequence of str
            Names of parts (`networks.parts`), for example `down.0`.
        """
        self.frozen = frozen
        for name, parameter in self.named_parameters():
            if self._is_frozen(name):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, but not the batch normalisation of frozen parts.

        Parameters
        ----------
        mode : bool, default True
            False switches to evaluation mode.

        Returns
        -------
        Network
            The network itself.
        """
        super().train(mode)
        for name, module in self.named_modules():
            if isinstance(module, nn.BatchNorm2d) and self._is_frozen(name):
                module.eval()
        return self

    def _is_frozen(self, name: str) -> bool:
        """Return whether a parameter or module belongs to a frozen part."""
        return any(parts.contains(part, name) for part in self.frozen)


def crop_centre(larger: Tensor, like: Tensor) -> Tensor:
    """Crop the centre of a map to the height and width of another one, for a skip connection.

    Parameters
    ----------
    larger : (n, c, y, x) Tensor
        Map to crop.
    like : (n, k, y', x') Tensor
        Map with the height and width of the result.

    Returns
    -------
    (n, c, y', x') Tensor
        Centre of `larger`. If the difference is odd, the larger part of it is cut off at the bottom or right.
    """
    top, left = ((larger.shape[axis] - like.shape[axis]) // 2 for axis in (2, 3))
    bottom, right = larger.shape[2] - like.shape[2] - top, larger.shape[3] - like.shape[3] - left
    # The gradient of a slice would not be channels-last, which makes a training step a fifth slower.
    return nn.functional.pad(larger, (-left, -right, -top, -bottom))


def max_pool(x: Tensor) -> Tensor:
    """Halve the resolution: the maximum of each square of 2x2 pixels, without an odd last row or column.

    On the CPU, torch computes the gradient of each image of a batch on one core. In a training step, pairs of
    rows are therefore passed as images, so that all cores share the work. The result is the same.

    Parameters
    ----------
    x : (n, c, y, x) Tensor
        Values.

    Returns
    -------
    (n, c, y // 2, x // 2) Tensor
        Maxima.
    """
    if not x.requires_grad or x.device.type != "cpu":
        return nn.functional.max_pool2d(x, 2)
    count, channels, height, width = x.shape
    if height % 2 or not x.is_contiguous(memory_format=torch.channels_last):
        return nn.functional.max_pool2d(x, 2)
    pairs = x.permute(0, 2, 3, 1).reshape(count * height // 2, 2, width, channels)  # no copy
    maxima = nn.functional.max_pool2d(pairs.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    return maxima.reshape(count, height // 2, width // 2, channels).permute(0, 3, 1, 2)


class UpConvolution(nn.ConvTranspose2d):
    """2x2 transposed convolution with stride 2, which doubles the resolution.

    Its 2x2 squares do not overlap. So it equals a 1x1 convolution to four values for each channel, which are
    then put into their squares. In a training step on the CPU it is computed like this, because torch
    computes the gradient of a transposed convolution slowly. Results differ by rounding.

    Parameters
    ----------
    before, after : int
        Numbers of channels of the input and of the result.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Double the resolution.

        Parameters
        ----------
        x : (n, before, y, x) Tensor
            Values.
        output_size : list of int, optional
            Height and width of the result, see `torch.nn.ConvTranspose2d`.

        Returns
        -------
        (n, after, 2 y, 2 x) Tensor
            Result.
        """
        if output_size is not None or x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x, output_size)
        count, _, height, width = x.shape
        before, after = self.weight.shape[:2]
        weight = self.weight.permute(2, 3, 1, 0).reshape(4 * after, before, 1, 1)
        bias = None if self.bias is None else self.bias.repeat(4)
        squares = nn.functional.conv2d(x, weight, bias).permute(0, 2, 3, 1)  # last: row, column, channel
        rows = squares.reshape(count, height, width, 2, 2, after).transpose(2, 3)
        return rows.reshape(count, 2 * height, 2 * width, after).permute(0, 3, 1, 2)


def initialise(module: nn.Module) -> None:
    """Draw the weights of a convolution from a Gaussian with variance 2 / N and set its bias to 0.

    N is the number of incoming nodes of one neuron [1]_. Use it with `torch.nn.Module.apply`.

    Parameters
    ----------
    module : torch.nn.Module
        Module. Only convolutions and transposed convolutions are changed.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers: Surpassing human-level performance
       on ImageNet classification", ICCV, 1026-1034, 2015.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        incoming = module.in_channels * math.prod(module.kernel_size)
        # in a 2x2 up-convolution with stride 2, each output pixel depends on one pixel of the kernel
        if isinstance(module, nn.ConvTranspose2d):
            incoming //= math.prod(module.stride)
        nn.init.normal_(module.weight, std=math.sqrt(2 / incoming))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def skeleton(plan: Plan) -> Network:
    """Return a network whose parameters have names, shapes and types, but no values.

    It takes no memory, whatever the settings are.

    Parameters
    ----------
    plan : Plan
        Settings of the network.

    Returns
    -------
    Network
        Torch module on the device `meta`.
    """
    with torch.device("meta"), _SkipInitialisation():
        return plan.build()


class _SkipInitialisation(TorchFunctionMode):
    """Skip the random initialisation of modules that are built inside.

    The meta device would also skip it, but its first call of `normal_` imports 800 modules, which takes a
    second.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))
