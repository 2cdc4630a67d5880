"""Start of a network from the trained parameters of another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from pipeline_lib import networks
from pipeline_lib.networks import Plan, modelfile, parts
from pipeline_lib.networks.module import Network, skeleton
from pipeline_lib.networks.plan import sections_seen
from pipeline_lib.runtime.errors import InputError

# Name of each layer to the shapes of its tensors by name
_Shapes: TypeAlias = dict[str, dict[str, torch.Size]]


@dataclass(frozen=True)
class Match:
    """What becomes of each layer if a network starts from another one. Result of `match`.

    A layer is a module that has parameters or buffers of its own.

    Parameters
    ----------
    copied : list of str
        Layers that are copied: those with the same name and shapes in both networks.
    summed : list of str
        Layers that are copied with the sum of their kernels over the input channels.
    initialised : list of str
        Other layers of the new network, which keep their initialisation.
    left_out : list of str
        Layers of the old network that the new one does not have.
    sections : list of str
        Layers that are copied with kernels for other neighbouring sections, see `match`.
    """

    copied: list[str]
    summed: list[str]
    initialised: list[str]
    left_out: list[str]
    sections: list[str]

    def summary(self) -> dict[str, list[str]]:
        """Return the names of the layers, with a single name for each part that is treated as one.

        Returns
        -------
        dict of str to list of str
            Name of each field to names of parts (`networks.parts`). `sections` is left out if it is empty.
        """
        new = [*self.copied, *self.summed, *self.sections, *self.initialised]
        old = [*new, *self.left_out]
        fields = dataclasses.asdict(self)
        if not self.sections:
            del fields["sections"]
        return {
            name: parts.summarise(layers, old if name == "left_out" else new)
            for name, layers in fields.items()
        }


def match(source: Plan, target: Plan, same_classes: bool = True) -> Match:
    """Find the layers of a network that can start from the parameters of another one.

    These are the layers with the same name and the same shapes. Layers whose shapes depend on the number of
    classes, such as the last one, are not copied if the classes differ. If only the input channels differ, 1
    instead of 3, the kernels of the first layer are summed over the channels: a gray image gives what it
    would give as red, green and blue.

    If the networks see other numbers of neighbouring sections, the first layer keeps its kernels for the
    sections that both see. Kernels for further neighbours are 0 at first: the network gives what the old one
    gives for the section alone. Kernels for neighbours that the new network does not see are added to those
    for the nearest section that it sees.

    Parameters
    ----------
    source : Plan
        Plan of the trained network.
    target : Plan
        Plan of the network that starts from it.
    same_classes : bool, default True
        Whether both networks distinguish the same classes.

    Returns
    -------
    Match
        Layers that are copied, initialised and left out.

    Raises
    ------
    InputError
        If no layer can be copied.

    Examples
    --------
    A U-Net for another number of classes:

    >>> from pipeline_lib.networks import plan
    >>> from pipeline_lib.networks.transfer import match
    >>> match(plan("unet", classes=2), plan("unet", classes=5)).summary()
    {'copied': ['down', 'up', 'merge'], 'summed': [], 'initialised': ['score'], 'left_out': []}
    """
    old, new = _shapes(source), _shapes(target)
    of_classes: set[str] = set()
    if not same_classes:
        more = _shapes(dataclasses.replace(target, classes=target.classes + 1))
        of_classes = {layer for layer, shapes in new.items() if more.get(layer) != shapes}
    # layers that the old network would have for the input of the new one, if kernels can be adapted to it
    adapted: _Shapes = {}
    other_channels = source.image_channels != target.image_channels
    other_sections = source.context_sections != target.context_sections
    if not other_channels or (source.image_channels, target.image_channels) == (3, 1):
        seen = {"input_channels": target.input_channels, "context_sections": target.context_sections}
        adapted = _shapes(dataclasses.replace(source, **seen))
    of_input: set[str] = set()
    if other_channels or other_sections:  # the same shape could mean sections instead of colours
        more = _shapes(dataclasses.replace(target, input_channels=2 * target.input_channels))
        of_input = {layer for layer, shapes in new.items() if more.get(layer) != shapes}
    fitting = {layer: shapes for layer, shapes in new.items() if layer not in of_classes}
    copied = [
        layer for layer, shapes in fitting.items() if old.get(layer) == shapes and layer not in of_input
    ]
    adaptable = [
        layer for layer, shapes in fitting.items() if layer not in copied and adapted.get(layer) == shapes
    ]
    summed, sections = ([], adaptable) if other_sections else (adaptable, [])
    if not copied:
        raise InputError(
            f"no layer of this {source.name} has the same name and shape in the {target.name} of this "
            f"config. Its parts are {_parts(old)}; those of the {target.name} are {_parts(new)}. Set "
            "`network` as for that model, or start from another one."
        )
    return Match(
        copied,
        summed,
        [layer for layer in new if layer not in {*copied, *adaptable}],
        [layer for layer in old if layer not in new],
        sections,
    )


def transfer(found: Match, source: Network, target: Network) -> None:
    """Copy the parameters and buffers of layers to another network.

    Parameters
    ----------
    found : Match
        Result of `match` for the plans of both networks.
    source : Network
        Trained network, on the CPU.
    target : Network
        Network that starts from it, on the CPU.
    """
    tensors, started = source.state_dict(), target.state_dict()  # `started` shares the memory of `target`
    for name, tensor in started.items():
        if _layer(name) in found.copied:
            tensor.copy_(tensors[name])
        elif _layer(name) in (*found.summed, *found.sections):
            is_bias = tensor.ndim == 1
            tensor.copy_(tensors[name] if is_bias else _adapted(tensors[name], source.plan, target.plan))


def plan_of(path: str | Path) -> Plan:
    """Return the plan of a network from a model file, without reading its parameters.

    Parameters
    ----------
    path : str or Path
        Model file.

    Returns
    -------
    Plan
        The plan.

    Raises
    ------
    InputError
        If the file is not a model.
    """
    try:
        described = modelfile.describe(path)
        if (number := modelfile.members(described)) > 1:
            raise InputError(modelfile.needs_one(path, number))
        return networks.plan(described["name"], **described["arguments"])
    except InputError as error:
        raise InputError(f"training.start_from: {error}") from None


def require_start(source: Plan, target: Plan, name: str, keep_normalisation: bool | None = None) -> None:
    """Check that a network can start from another one.

    Parameters
    ----------
    source : Plan
        Plan of the trained network.
    target : Plan
        Plan of the network that starts from it.
    name : str
        Name or file of the trained network, for messages.
    keep_normalisation : bool, optional
        Setting `training.keep_normalisation`.

    Raises
    ------
    InputError
        If no layer can be copied, or the normalisation cannot be kept.
    """
    try:
        match(source, target)
    except InputError as error:
        raise InputError(f"training.start_from: {name}: {error}") from None
    keeps_normalisation(source, target, keep_normalisation)


def keeps_normalisation(source: Plan, target: Plan, setting: bool | None = None) -> bool:
    """Return whether a network that starts from another one also keeps its normalisation.

    Parameters
    ----------
    source : Plan
        Plan of the trained network.
    target : Plan
        Plan of the network that starts from it.
    setting : bool, optional
        Setting `training.keep_normalisation`. By default it is kept if it has the right number of channels.

    Returns
    -------
    bool
        True if it is kept, False if it is measured on the new images.

    Raises
    ------
    InputError
        If it is to be kept and the numbers of channels differ.
    """
    fits = source.image_channels == target.image_channels
    if setting and not fits:
        raise InputError(
            f"training.keep_normalisation: the model to start from was trained on {source.image_channels} "
            f"channels, and these images have {target.image_channels}. Remove the key, so that the "
            "normalisation is measured on these images."
        )
    return fits if setting is None else setting


def same_classes(source: Sequence[str], target: Sequence[str]) -> bool:
    """Return whether two networks distinguish the same classes.

    Parameters
    ----------
    source : sequence of str
        Names of the classes of the trained network. Empty if they are not known, as in older model files.
    target : sequence of str
        Names of the classes of the network that starts from it.

    Returns
    -------
    bool
        True if the names are the same and have the same order, or are not known.
    """
    return not source or list(source) == list(target)


def _layer(name: str) -> str:
    """Return the layer of a parameter. A parameter of the network itself counts as a layer."""
    return name.rpartition(".")[0] or name


def _shapes(plan: Plan) -> _Shapes:
    """Return the shapes of all tensors of a network, by layer."""
    shapes: _Shapes = {}
    for name, tensor in skeleton(plan).state_dict().items():
        shapes.setdefault(_layer(name), {})[name] = tensor.shape
    return shapes


def _parts(shapes: _Shapes) -> str:
    """Return the names of the largest parts with these layers."""
    return ", ".join(parts.summarise(shapes, shapes))


def _adapted(kernel: Tensor, source: Plan, target: Plan) -> Tensor:
    """Return the kernel of a first layer for the sections and channels of the images of another network."""
    by_section = kernel.unflatten(1, (-1, source.image_channels))
    if target.image_channels < source.image_channels:
        by_section = by_section.sum(2, keepdim=True)
    new = kernel.new_zeros(len(kernel), sections_seen(target.context_sections), *by_section.shape[2:])
    for offset, own in enumerate(by_section.unbind(1), -source.context_sections):
        nearest = min(max(offset, -target.context_sections), target.context_sections)
        new[:, target.context_sections + nearest] += own
    return new.flatten(1, 2)
