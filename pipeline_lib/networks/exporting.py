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
    """Heights and widths that an exported network accepts: multiples of `step` from `smallest` (px).

    Parameters
    ----------
    smallest, step : int
        The smallest one, and the difference of two.
    overlap : int
        Overlap of blocks on each side, a multiple of `step`. Blocks that also begin at multiples of `step`
        have the same probabilities as the whole image.
    """

    smallest: int
    step: int
    overlap: int


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
    >>> exported.sizes
    Sizes(smallest=18, step=2, overlap=8)
    >>> exported(torch.zeros(1, 1, 20, 28)).shape
    torch.Size([1, 1, 20, 28])
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        if model.task != "segmentation":
            raise InputError("only models that segment can be exported, not those that find boxes.")
        self.network = model.network.eval().requires_grad_(False)
        geometry = model.plan.geometry
        # the network needs more pixels than multiples of its stride, so the far edges get a wider rim
        self.context = geometry.context
        self.extra = (geometry.smallest - 2 * geometry.context) % geometry.stride
        self.classes = model.plan.classes - len(model.offsets)
        names = [*model.classes] or ["background", "cell"]
        cells = [*model.cells] or names[1:]
        self.cells = [names.index(name) for name in cells]
        prior = torch.tensor([*model.log_prior] or [0.0] * self.classes)
        self.register_buffer("log_prior", prior[None, :, None, None])

    @property
    def sizes(self) -> Sizes:
        """Heights and widths that it accepts. The smallest one is more than twice the overlap."""
        stride = self.network.geometry.stride
        overlap = -(-self.context // stride) * stride
        return Sizes(2 * overlap + stride, stride, overlap)

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
        near, far = self.context, self.context + self.extra
        logits = self.network(nn.functional.pad(x, (near, far, near, far), mode="reflect"))
        logits = logits[:, : self.classes, : x.shape[2], : x.shape[3]] + self.log_prior
        return logits.softmax(1)[:, self.cells].sum(1, keepdim=True)

    @property
    def arguments(self) -> Json:
        """Arguments of the class `CellProbability` of `architecture_source`."""
        return {
            "settings": self.network.plan.arguments(),
            "context": self.context,
            "extra": self.extra,
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

    def __init__(self, settings: dict, context: int, extra: int, classes: int, cells: list[int]) -> None:
        super().__init__()
        self.network = UNet(SimpleNamespace(**settings))
        self.context, self.extra, self.classes, self.cells = context, extra, classes, cells
        self.register_buffer("log_prior", torch.zeros(1, classes, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the cell probability (n, 1, y, x) of normalised images (n, c, y, x)."""
        near, far = self.context, self.context + self.extra
        logits = self.network(nn.functional.pad(x, (near, far, near, far), mode="reflect"))
        logits = logits[:, : self.classes, : x.shape[2], : x.shape[3]] + self.log_prior
        return logits.softmax(1)[:, self.cells].sum(1, keepdim=True)
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
        module.max_pool,
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
