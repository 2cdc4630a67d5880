"""A trained network as a function from gray levels to the cell probability, for programs without bordure."""

from __future__ import annotations

import inspect
import re
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline_lib.networks import Plan, module
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json


class Sizes(NamedTuple):
    """Heights and widths that an exported network accepts: `smallest` + k * `step` (px).

    Parameters
    ----------
    smallest, step : int
        The smallest one, and the difference of two.
    context : int
        Pixels around a pixel on which its probability depends; the rim of a block that is wrong.
    """

    smallest: int
    step: int
    context: int


class CellProbability(nn.Module):
    """Network with mirrored edges and the correction of its probabilities.

    Parameters
    ----------
    model : Model
        Trained model with a single network for a segmentation.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from pipeline_lib.data.normalisation import measure
    >>> from pipeline_lib.networks import plan
    >>> from pipeline_lib.networks.exporting import CellProbability
    >>> from pipeline_lib.networks.model import Model
    >>> small = plan("unet", depth=1, base_channels=2)
    >>> section = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    >>> model = Model(small, small.build(), measure("mean_std", [section]))
    >>> exported = CellProbability(model)
    >>> exported(torch.zeros(1, 1, 20, 28)).shape
    torch.Size([1, 1, 20, 28])
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        if model.task != "segmentation":
            raise InputError("only models that segment can be exported, not those that find boxes.")
        self.network = model.network.eval().requires_grad_(False)
        self.context = model.plan.geometry.context
        self.classes = model.plan.classes - len(model.offsets)
        names = [*model.classes] or ["background", "cell"]
        cells = [*model.cells] or names[1:]
        self.cells = [names.index(name) for name in cells]
        prior = torch.tensor([*model.log_prior] or [0.0] * self.classes)
        self.register_buffer("log_prior", prior[None, :, None, None])

    @property
    def sizes(self) -> Sizes:
        """Heights and widths that it accepts. The smallest one is more than twice the context."""
        geometry = self.network.geometry
        first = geometry.smallest - 2 * geometry.context
        steps = max(-(-(2 * geometry.context + 1 - first) // geometry.stride), 0)
        return Sizes(first + steps * geometry.stride, geometry.stride, geometry.context)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the cell probability of images.

        Parameters
        ----------
        x : (n, c, y, x) Tensor of float32
            Normalised images. Height and width must be among the `sizes`.

        Returns
        -------
        (n, 1, y, x) Tensor of float32
            Probability that a pixel is inside a cell.
        """
        rim = self.context
        logits = self.network(nn.functional.pad(x, (rim, rim, rim, rim), mode="reflect"))
        probability = (logits[:, : self.classes] + self.log_prior).softmax(1)
        return probability[:, self.cells].sum(1, keepdim=True)

    @property
    def arguments(self) -> Json:
        """Arguments of the class `CellProbability` of `architecture_source`."""
        return {
            "settings": self.network.plan.arguments(),
            "context": self.context,
            "classes": self.classes,
            "cells": self.cells,
        }


_HEADER = '''"""U-Net of a model of bordure, as one file that needs torch alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

NEAR_MAXIMUM = {near_maximum}


class Network(nn.Module):
    """Base class."""

    checkpointing = False

    def __init__(self, plan) -> None:
        super().__init__()


def initialise(part: nn.Module) -> None:
    """Do nothing: the parameters are read from a file."""
'''
_FOOTER = '''
class CellProbability(nn.Module):
    """The network with mirrored edges and the correction of its probabilities."""

    def __init__(self, settings: dict, context: int, classes: int, cells: list[int]) -> None:
        super().__init__()
        self.network = UNet(SimpleNamespace(**settings))
        self.context, self.classes, self.cells = context, classes, cells
        self.register_buffer("log_prior", torch.zeros(1, classes, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the cell probability (n, 1, y, x) of normalised images (n, c, y, x)."""
        rim = self.context
        logits = self.network(nn.functional.pad(x, (rim, rim, rim, rim), mode="reflect"))
        probability = (logits[:, : self.classes] + self.log_prior).softmax(1)
        return probability[:, self.cells].sum(1, keepdim=True)
'''


def architecture_source(plan: Plan) -> str | None:
    """Return a Python file that builds the network of a plan and needs torch alone.

    Parameters
    ----------
    plan : Plan
        Settings of the network.

    Returns
    -------
    str or None
        The file, made from the code of the network itself. Its class `CellProbability` takes the arguments
        and the `state_dict` of the class of this name here. None if the network is no U-Net.
    """
    if plan.name != "unet":
        return None
    from pipeline_lib.networks.unet import module as unet

    parts: list[Any] = [
        module.crop_centre,
        module.UpConvolution,
        unet.MaxUnpooling,
        unet.maximum_shares,
        unet._double_convolution,
        unet._upsampling,
        unet._expand,
        unet.UNet,
    ]
    sources = "\n\n".join(inspect.getsource(part) for part in parts)
    # examples are for this library
    sources = re.sub(r'\n\n +Examples\n +-{8}\n.*?(?=\n +""")', "", sources, flags=re.DOTALL)
    return f"{_HEADER.format(near_maximum=unet.NEAR_MAXIMUM)}\n\n{sources}\n{_FOOTER}"
