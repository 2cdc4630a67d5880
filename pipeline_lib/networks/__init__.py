"""Networks by name.

Each subfolder is one network: a torch-free plan and a module that torch runs. `plan` finds it by its name;
`Model` (networks/model.py) is a trained one in a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib import metadata
from typing import Any

from pipeline_lib.networks.plan import Geometry, Plan
from pipeline_lib.runtime.errors import InputError

ENTRY_POINTS = "bordure.networks"  # group in which other packages name the modules of their networks

__all__ = ["ENTRY_POINTS", "Geometry", "Plan", "names", "plan", "plan_type"]


def names() -> list[str]:
    """Names of all known networks, those of other packages last."""
    own = [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]
    return [*own, *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))]


def plan_type(name: str) -> type[Plan]:
    """The class of plans of the network called `name`.

    Parameters
    ----------
    name : str
        That of a folder here, or of an entry point of another package.

    Returns
    -------
    subclass of Plan

    Raises
    ------
    InputError
        For an unknown name; the message lists the known ones.
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
    """The plan of a network.

    Parameters
    ----------
    name : str
        One of `names`.
    **arguments
        Its settings, and `input_channels` and `classes` (`Plan`). What is left out has its default.

    Returns
    -------
    Plan

    Raises
    ------
    InputError
        For an unknown network or setting, and for a value that the setting does not take.

    Examples
    --------
    >>> plan("unet", depth=4).geometry.output_size(572)
    388
    """
    kind = plan_type(name)
    known = ("input_channels", "classes", *kind.schema())
    if unknown := [key for key in arguments if key not in known]:
        raise InputError(
            f"network: `{unknown[0]}` is no setting of `{name}`. Its settings are {', '.join(kind.schema())}."
        )
    return kind(**arguments)
