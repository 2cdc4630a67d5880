"""Networks by name, and model files that describe themselves."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipeline_lib import modelfile
from pipeline_lib.errors import InputError
from pipeline_lib.files import replacing
from pipeline_lib.networks.unet import UNet
from pipeline_lib.normalisation import Normalisation

FORMAT_VERSION = 1
NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}


def build(name: str, **arguments: Any) -> nn.Module:
    """A new network; `InputError` names the known ones or the argument that does not fit."""
    if name not in NETWORKS:
        raise InputError(f"network.name: found `{name}`, expected one of {', '.join(NETWORKS)}.")
    try:
        return NETWORKS[name](**arguments)
    except TypeError as error:
        raise InputError(f"network: {error}.") from error


def write_tensors(
    path: str | Path, content: dict[str, Any], description: dict[str, Any] | None = None
) -> None:
    """Write tensors and plain types, whole or not at all, with what `modelfile.describe` gives back."""
    buffer = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError about positions
    torch.save(content, buffer)
    if description:
        modelfile.add_description(buffer, description)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class _Undrawn(TorchFunctionMode):
    """Modules built inside draw no initial parameters, because theirs will be loaded.

    The meta device would do so too, but its first `normal_` takes a second to import 800 modules.
    """

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"]
        return function(*args, **(kwargs or {}))


@dataclass
class Model:
    """What prediction needs: a network, how it is built, and how its input was normalised."""

    name: str
    arguments: dict[str, Any]
    network: nn.Module
    normalisation: Normalisation
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write tensors and plain types only; whole or not at all."""
        plain = {
            "format": "bordure-model",
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "arguments": self.arguments,
            "context": self.network.geometry.context,
            "normalisation": self.normalisation.to_dict(),
            "provenance": self.provenance,
        }
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        content = plain | {"state_dict": self.network.state_dict()}
        write_tensors(path, content, plain | {"parameters": parameters})

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model without running code from the file (`weights_only`).

        Raises `InputError` for a missing or foreign file, another format version, and parameters that do not
        fit the network.
        """
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such model. Train one, or correct the path.") from error
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
            raise InputError(f"{path}: not a readable model file ({str(error).splitlines()[0]}).") from error
        if not isinstance(content, dict) or content.get("format") != "bordure-model":
            raise InputError(
                f"{path}: not a bordure model; expected a `model.pt` written by the training stage."
            )
        if content.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{path}: model format version {content.get('format_version')}, expected {FORMAT_VERSION}. "
                "Train it again with this version of bordure, or predict with the version named in its "
                f"provenance: {content.get('provenance', {}).get('version', 'unknown')}."
            )
        try:
            with _Undrawn():
                network = build(content["name"], **content["arguments"])
            network.load_state_dict(content["state_dict"], assign=True)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except RuntimeError as error:
            raise InputError(f"{path}: its parameters do not fit the network it names: {error}") from error
        return cls(
            content["name"],
            content["arguments"],
            network,
            Normalisation.from_dict(content["normalisation"]),
            content["provenance"],
        )
