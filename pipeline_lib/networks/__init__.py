"""Plans of networks by name.

Each subfolder is one network: a plan, which does not import torch, and a torch module. `plan` returns the
plan of the network with a given name. `networks.model.Model` is a trained network in a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib import metadata
from typing import Any

from pipeline_lib.networks.plan import Geometry, Plan
from pipeline_lib.runtime.errors import InputError

#: Group of entry points in which other packages name the modules of their networks.
ENTRY_POINTS = "bordure.networks"

__all__ = ["ENTRY_POINTS", "Geometry", "Plan", "names", "plan", "plan_type"]


def names() -> list[str]:
    """Return the names of all available networks.

    Returns
    -------
    list of str
        Networks of this package first, then those that other packages add through the entry point group
        `bordure.networks`.

    Examples
    --------
    >>> from pipeline_lib.networks import names
    >>> "unet" in names()
    True
    """
    own = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    return [*own, *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))]


def plan_type(name: str) -> type[Plan]:
    """Return the plan class of the network `name`.

    Parameters
    ----------
    name : str
        Name of a subfolder of `networks`, or of an entry point of another package.

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
    own = any(module.name == name and module.ispkg for module in pkgutil.iter_modules(__path__))
    others = () if own else metadata.entry_points(group=ENTRY_POINTS, name=name)
    if not (own or others):
        raise InputError(f"network.name: found `{name}`, expected one of {', '.join(names())}.")
    module = importlib.import_module(f"{__name__}.{name}") if own else next(iter(others)).load()
    return next(
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, Plan) and vars(found).get("name") == name
    )


def plan(name: str, **arguments: Any) -> Plan:
    """Return the plan of a network with the given settings.

    Parameters
    ----------
    name : str
        Name of the network, one of `names`.
    **arguments
        Settings of the network, and `input_channels` and `classes` (see `Plan`). Arguments that are left out
        have their default.

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
    """
    kind = plan_type(name)
    known = ("input_channels", "classes", *kind.schema())
    if unknown := [key for key in arguments if key not in known]:
        raise InputError(
            f"network: `{unknown[0]}` is not a setting of `{name}`. "
            f"Its settings are {', '.join(kind.schema())}."
        )
    return kind(**arguments)
