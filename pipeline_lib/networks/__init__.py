"""Plans of networks by name.

Each subfolder has one network, or several that share a torch module: a plan of each, which does not import
torch, and the torch module. `plan` returns the plan of the network with a given name. `networks.model.Model`
is a trained network in a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib import metadata
from types import ModuleType
from typing import Any

from pipeline_lib.networks.plan import Geometry, Plan, sections_seen
from pipeline_lib.runtime.errors import InputError

#: Group of entry points in which other packages name the modules of their networks.
ENTRY_POINTS = "bordure.networks"

__all__ = ["ENTRY_POINTS", "Geometry", "Plan", "names", "plan", "plan_type"]


def names(task: str | None = None) -> list[str]:
    """Return the names of all available networks.

    Parameters
    ----------
    task : str, optional
        Only networks for this task (one of `tasks.names`). By default all.

    Returns
    -------
    list of str
        Networks of this package first, then those that other packages add through the entry point group
        `bordure.networks`.

    Examples
    --------
    >>> from pipeline_lib.networks import names
    >>> "unet" in names(), "unet" in names("detection")
    (True, False)
    """
    every = [*_own(), *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))]
    return [name for name in every if task in (None, plan_type(name).task)]


def plan_type(name: str) -> type[Plan]:
    """Return the plan class of the network `name`.

    Parameters
    ----------
    name : str
        Name of a network of this package, or of an entry point of another package.

    Returns
    -------
    type
        Subclass of `Plan` whose attribute `name` is `name`.

    Raises
    ------
    InputError
        If no network has this name. The message lists the available names.

    Examples
    --------
    >>> from pipeline_lib.networks import plan_type
    >>> plan_type("unet").__name__
    'UNetPlan'
    """
    own = _own()
    if name in own:
        return own[name]
    others = [*metadata.entry_points(group=ENTRY_POINTS, name=name)]
    if not others:
        raise InputError(f"network.name: found `{name}`, expected one of {', '.join(names())}.")
    return _plans(others[0].load())[name]


def _own() -> dict[str, type[Plan]]:
    """Return the plan classes of this package by the names of their networks."""
    folders = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    modules = [importlib.import_module(f"{__name__}.{folder}") for folder in folders]
    return {name: kind for module in modules for name, kind in _plans(module).items()}


def _plans(module: ModuleType) -> dict[str, type[Plan]]:
    """Return the plan classes in `module` by the names of their networks. A base class has no name."""
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Plan)]
    return {kind.name: kind for kind in kinds if "name" in vars(kind)}


def plan(name: str, *, image_channels: int = 1, **arguments: Any) -> Plan:
    """Return the plan of a network with the given settings.

    Parameters
    ----------
    name : str
        Name of the network, one of `names`.
    image_channels : int, default 1
        Number of channels of the images. `input_channels` follows from it, unless it is given.
    **arguments
        Settings of the network, and `input_channels`, `classes` and `context_sections` (see `Plan`).
        Arguments that are left out have their default.

    Returns
    -------
    Plan
        Plan of the network. Its method `build` makes the torch module.

    Raises
    ------
    InputError
        If the network or a setting is unknown, or a value has the wrong type or is out of range.

    Examples
    --------
    >>> from pipeline_lib.networks import plan
    >>> plan("unet", depth=4).geometry.output_size(572)
    388

    One that sees three sections in colours:

    >>> plan("unet", image_channels=3, context_sections=1).input_channels
    9
    """
    kind = plan_type(name)
    known = ("input_channels", "classes", "context_sections", *kind.schema())
    if unknown := [key for key in arguments if key not in known]:
        raise InputError(
            f"network: `{unknown[0]}` is not a setting of `{name}`. "
            f"Its settings are {', '.join(kind.schema())}."
        )
    if "input_channels" not in arguments:
        context = arguments.get("context_sections", 0)
        valid = type(context) is int  # otherwise the plan raises an error
        arguments["input_channels"] = image_channels * (sections_seen(context) if valid else 1)
    return kind(**arguments)
