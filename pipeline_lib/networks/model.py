"""Trained networks in files that describe themselves; reading one runs no code from it."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from pipeline_lib import networks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.networks import Plan, modelfile
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing, require_file

FORMAT_VERSION = 1
_IS_FOLDER = 0x10  # among the attributes of an entry of a ZIP archive


def write_tensors(
    path: str | Path, content: dict[str, Any], description: dict[str, Any] | None = None
) -> None:
    """Write tensors and plain types, whole or not at all, with what `modelfile.describe` gives back."""
    buffer = io.BytesIO()  # torch's own writer turns a full disk into a RuntimeError about positions
    torch.save(content, buffer)
    if description:
        modelfile.add_description(buffer, description)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # else a machine that goes down may leave an empty file in its place


def read_tensors(path: str | Path) -> dict[str, Any]:
    """What `write_tensors` wrote; no code from the file runs.

    Raises `InputError` for a missing file, and for a byte that is not as it was written: torch does not look
    at the checksums (CRC-32) that it writes beside every tensor.
    """
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:
            # torch would unpack without end, and reads nothing where one is marked as a folder
            if any(entry.compress_type or entry.external_attr & _IS_FOLDER for entry in archive.infolist()):
                raise zipfile.BadZipFile("compressed or folders inside")
            if sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path):
                raise zipfile.BadZipFile("files inside overlap")
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"damaged: wrong checksum of {damaged}")
        # mapped, a tensor cannot reach beyond the file, whatever length is claimed for it
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model. Train one, or correct the path.") from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run what is in the file
            reason = "code or objects of Python, which are not loaded, or damaged"
        raise InputError(
            f"{path}: not a readable model file ({reason}). Copy it again from its source, or train it again."
        ) from error
    return content if isinstance(content, dict) else {}


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
    """What prediction needs: a network, what it was trained for, and how its input was normalised.

    Parameters
    ----------
    plan : Plan
        How the network is built.
    network : Network
        The network itself.
    normalisation : Normalisation
        Measured on the training images.
    provenance : dict
        Record of the training.
    task : str
        Name of the task (`tasks`) that decodes the output.
    """

    plan: Plan
    network: Network
    normalisation: Normalisation
    provenance: dict[str, Any] = field(default_factory=dict)
    task: str = "segmentation"

    def save(self, path: str | Path, **more: Any) -> None:
        """Write tensors and plain types only, with `more` of them; whole or not at all."""
        plain = {
            "format": "bordure-model",
            "format_version": FORMAT_VERSION,
            "name": self.plan.name,
            "arguments": self.plan.arguments(),
            "task": self.task,
            "context": self.plan.geometry.context,
            "normalisation": self.normalisation.to_dict(),
            "provenance": self.provenance,
        }
        content = plain | {"state_dict": self.network.state_dict()} | more
        write_tensors(path, content, plain | {"parameters": self.plan.parameters})

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model without running code from the file (`weights_only`).

        Raises
        ------
        InputError
            For a missing or foreign file, another format version, settings that the network does not take,
            and parameters that do not fit it.
        """
        content = read_tensors(path)
        if content.get("format") != "bordure-model":
            raise InputError(
                f"{path}: not a bordure model; expected a `model.pt` written by the training stage."
            )
        if content.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{path}: model format version {content.get('format_version')}, expected {FORMAT_VERSION}. "
                "Train it again with this version of bordure, or predict with the version named in its "
                "provenance."
            )
        try:
            plan = networks.plan(content["name"], **content["arguments"])
            with torch.device("meta"), _Undrawn():  # which allocates nothing, whatever size is claimed
                network = plan.build()
            network.load_state_dict(content["state_dict"], assign=True)
            normalisation = Normalisation.from_dict(content["normalisation"])
            provenance = dict(content["provenance"])
            task = str(content.get("task", "segmentation"))
            wrong = [name for name, tensor in network.state_dict().items() if not _usable(tensor)]
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except Exception as error:  # what it holds may be of any kind
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: its parameters do not fit the network it names ({type(error).__name__}: {reason}). "
                "Train it again."
            ) from error
        if wrong or not (np.isfinite(normalisation.offset).all() and np.isfinite(normalisation.scale).all()):
            raise InputError(
                f"{path}: holds numbers that are NaN or infinite, or of another type than float32 (in "
                f"{wrong[0] if wrong else 'its normalisation'}). Train it again."
            )
        return cls(plan, network, normalisation, provenance, task)


def _usable(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.int64 or (tensor.dtype == torch.float32 and bool(tensor.isfinite().all()))
