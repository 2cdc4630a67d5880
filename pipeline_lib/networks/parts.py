"""Parts of networks and their names, without torch.

A part is a module of a network. Its name is the beginning of the names of its parameters, up to a dot: the
part `down.0` of a U-Net has the parameters `down.0.0.weight`, `down.0.0.bias` and so on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pipeline_lib.runtime.errors import InputError


def contains(part: str, name: str) -> bool:
    """Return whether a parameter or a smaller part belongs to a part.

    Parameters
    ----------
    part : str
        Name of the part.
    name : str
        Name of the parameter or smaller part.

    Returns
    -------
    bool
        True if it belongs to the part, or is the part.

    Examples
    --------
    >>> from pipeline_lib.networks.parts import contains
    >>> contains("down.1", "down.1.0.weight"), contains("down.1", "down.10.0.weight")
    (True, False)
    """
    return f"{name}.".startswith(f"{part}.")


def value_of(name: str, values: Mapping[str, float], default: float) -> float:
    """Return the value of a parameter, from values of parts. That of the smallest part counts.

    Parameters
    ----------
    name : str
        Name of the parameter.
    values : dict of str to float
        Name of each part to its value.
    default : float
        Value of parameters of other parts.

    Returns
    -------
    float
        Value of the parameter.

    Examples
    --------
    >>> from pipeline_lib.networks.parts import value_of
    >>> factors = {"down": 0.1, "down.0": 0.01}
    >>> [value_of(name, factors, 1.0) for name in ("down.0.0.bias", "down.1.0.bias", "score.bias")]
    [0.01, 0.1, 1.0]
    """
    found = [part for part in values if contains(part, name)]
    return values[max(found, key=len)] if found else default


def summarise(layers: Iterable[str], all_layers: Collection[str]) -> list[str]:
    """Return the names of layers, with a single name for each part whose layers are all listed.

    Parameters
    ----------
    layers : iterable of str
        Names to summarise.
    all_layers : collection of str
        Names of all layers of the network.

    Returns
    -------
    list of str
        Names of the largest parts that contain no other layer, in the order of `layers`.

    Examples
    --------
    >>> from pipeline_lib.networks.parts import summarise
    >>> summarise(["a.0", "a.1", "b.0"], ["a.0", "a.1", "b.0", "b.1"])
    ['a', 'b.0']
    """
    listed = set(layers := list(layers))
    others = [layer for layer in all_layers if layer not in listed]
    largest = (
        next(part for part in _around(layer) if not any(contains(part, other) for other in others))
        for layer in layers
    )
    return list(dict.fromkeys(largest))


def require(key: str, parts: Iterable[str], names: Collection[str]) -> None:
    """Check that each part has a parameter.

    Parameters
    ----------
    key : str
        Name of the setting with the parts, for the error message.
    parts : iterable of str
        Names of parts.
    names : collection of str
        Names of the parameters.

    Raises
    ------
    InputError
        If a part has no parameter. The message names the part and those that exist.
    """
    for part in parts:
        if not any(contains(part, name) for name in names):
            inside = [around for around in _around(part) if any(contains(around, name) for name in names)]
            outer = inside[-1] if inside else ""
            known = dict.fromkeys(  # one level below `outer`
                ".".join(name.split(".")[: len(inside) + 1])
                for name in names
                if not outer or contains(outer, name)
            )
            raise InputError(
                f"{key}: found `{part}`, but no trained parameter has a name that begins so. The parts "
                f"{f'of `{outer}`' if outer else 'of this network'} are {', '.join(known)}."
            )


def _around(name: str) -> list[str]:
    """Return the parts that contain the part `name`, from the largest, and `name` itself."""
    pieces = name.split(".")
    return [".".join(pieces[:number]) for number in range(1, len(pieces) + 1)]
