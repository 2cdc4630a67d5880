"""Model files: trained networks with all that prediction needs.

Reading a model file never runs code from the file.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline_lib import networks
from pipeline_lib.data.affinities import chosen_offsets
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.kernels.pixelsize import PixelSize, pair
from pipeline_lib.networks import Plan, modelfile
from pipeline_lib.networks.module import Network, skeleton
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing, require_file
from pipeline_lib.runtime.types import Offsets

FORMAT_VERSION = 1
LATER_VERSION = 2  # of files with several networks or affinities, so that older versions refuse them
_IS_FOLDER = 0x10  # flag in the external attributes of a ZIP entry


def write_tensors(
    path: str | Path, content: dict[str, Any], description: dict[str, Any] | None = None
) -> None:
    """Write tensors and plain values to a file that `torch.load` can read.

    The file is replaced atomically: if writing fails, an existing file is unchanged.

    Parameters
    ----------
    path : str or Path
        File to write.
    content : dict of str to object
        Tensors, numbers, strings, lists and dicts of them.
    description : dict, optional
        JSON-compatible values that `modelfile.describe` returns without torch. By default, the file gets no
        description.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    buffer = io.BytesIO()  # torch's own writer reports a full disk as a RuntimeError about file positions
    torch.save(content, buffer)
    if description:
        modelfile.add_description(buffer, description)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())  # otherwise a crash of the machine may leave an empty file


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Read a file written by `write_tensors`, without running code from it.

    The checksum (CRC-32) of every entry is verified here, because torch writes these checksums but does not
    check them.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    dict of str to object
        Content of the file, with tensors on the CPU. Empty if the file does not contain a dict.

    Raises
    ------
    InputError
        If the file is missing, damaged, or contains objects that are not tensors or plain values.
    """
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:
            # torch unpacks compressed entries of any size, and reads nothing from an entry marked as folder
            if any(entry.compress_type or entry.external_attr & _IS_FOLDER for entry in archive.infolist()):
                raise zipfile.BadZipFile("compressed entries or folders in it")
            if sum(entry.file_size for entry in archive.infolist()) > os.path.getsize(path):
                raise zipfile.BadZipFile("its entries overlap")
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        # mapped into memory, so that a wrong length in the file cannot make torch allocate or read more
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model file. Train a model, or correct the path.") from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, pickle.UnpicklingError):  # torch's message suggests to run code from the file
            reason = "it is damaged, or contains Python code or objects, which are never loaded"
        raise InputError(
            f"{path}: not a readable model file ({reason}). Copy the file again from its source, or train "
            "the model again."
        ) from error
    return content if isinstance(content, dict) else {}


@dataclass
class Model:
    """A trained network with all that prediction needs.

    Parameters
    ----------
    plan : Plan
        Settings of the network.
    network : Network
        Torch module with the trained parameters.
    normalisation : Normalisation
        Normalisation of the images, measured on the training images.
    provenance : dict, optional
        Record of the training.
    task : str, default "segmentation"
        Name of the task that decodes the output (one of `tasks.names`).
    application : dict, optional
        How to segment new images: `average_orientations` of the prediction, `postprocessing` (see
        `stages.postprocessing`), and mean `scores` by split and metric. Empty before `stages.packaging`.
    pixel_size : tuple of float, optional
        Height and width of a pixel of the training images (um). None if they are not known.
    classes : sequence of str, optional
        Names of the classes that the network distinguishes, in the order of its output.
    log_prior : sequence of float, optional
        Numbers to add to the logits of the classes. They undo that the classes had other shares in the
        patches of the training than in the images, and other weights in the loss (see `training.prior`). By
        default none.
    cells : sequence of str, optional
        Names of the classes whose pixels belong to cells.
    offsets : tuple of (int, int), optional
        Offsets (rows, columns) in px of the affinities that the network predicts after the classes. By
        default there are none.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.data.normalisation import measure
    >>> from pipeline_lib.networks import plan
    >>> from pipeline_lib.networks.model import Model
    >>> small = plan("unet", depth=1, base_channels=2)
    >>> images = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "model.pt")
    ...     Model(small, small.build(), measure("mean_std", [images])).save(path)
    ...     print(Model.load(path).plan.parameters)
    434
    """

    plan: Plan
    network: Network
    normalisation: Normalisation
    provenance: dict[str, Any] = field(default_factory=dict)
    task: str = "segmentation"
    application: dict[str, Any] = field(default_factory=dict)
    pixel_size: PixelSize | None = None
    classes: Sequence[str] = ()
    log_prior: Sequence[float] = ()
    cells: Sequence[str] = ()
    offsets: Offsets = ()

    def save(self, path: str | Path, **more: Any) -> None:
        """Write the model to a file of tensors and plain values.

        The file is replaced atomically: if writing fails, an existing file is unchanged.

        Parameters
        ----------
        path : str or Path
            File to write, usually `model.pt`.
        **more
            Further tensors and plain values for the file. `state_dict=` replaces the parameters of `network`.

        Raises
        ------
        InputError
            If the disk is full or the folder is not writable.
        """
        plain = self._plain()
        content = plain | {"state_dict": self.network.state_dict()} | more
        write_tensors(path, content, plain | {"parameters": self.plan.parameters})

    def _plain(self) -> dict[str, Any]:
        """Return what the file contains, without the parameters of the network."""
        return {
            "format": "bordure-model",
            "format_version": LATER_VERSION if self.offsets else FORMAT_VERSION,
            "name": self.plan.name,
            "arguments": self.plan.arguments(),
            "task": self.task,
            "context": self.plan.geometry.context,
            "normalisation": self.normalisation.to_dict(),
            "provenance": self.provenance,
            "application": self.application,
            "pixel_size": self.pixel_size and list(self.pixel_size),
            "classes": list(self.classes),
            **({"log_prior": list(self.log_prior)} if self.log_prior else {}),
            **({"cells": list(self.cells)} if len(self.classes) > 2 else {}),
            **({"offsets": [*map(list, self.offsets)]} if self.offsets else {}),
        }

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a model from a file, without running code from the file (`weights_only`).

        The network is in training mode, as every new torch module, so its drop-out is active. Before
        inference, call `.network.eval()`.

        Parameters
        ----------
        path : str or Path
            File written by `save`.

        Returns
        -------
        Model
            Model on the CPU.

        Raises
        ------
        InputError
            If the file is missing, damaged, not a model, an ensemble or of another format version, or if its
            settings or parameters do not match the network.
        """
        members = members_in(read_tensors(path), path)
        if len(members) > 1:
            raise InputError(modelfile.needs_one(path, len(members)))
        return cls.of(members[0], path)

    @classmethod
    def of(cls, content: dict[str, Any], path: str | Path) -> Model:
        """Return the model in the content of a file.

        Parameters
        ----------
        content : dict
            Result of `members_in`.
        path : str or Path
            The file, for messages.

        Returns
        -------
        Model
            Model on the CPU, in training mode.

        Raises
        ------
        InputError
            If its settings or parameters do not match the network.
        """
        try:
            plan = networks.plan(content["name"], **content["arguments"])
            network = skeleton(plan)
            network.load_state_dict(content["state_dict"], assign=True)
            normalisation = Normalisation.from_dict(content["normalisation"])
            provenance = dict(content["provenance"])
            task = str(content.get("task", "segmentation"))
            application = dict(content.get("application", {}))
            pixel_size = pair(content.get("pixel_size"))
            classes = [str(name) for name in content.get("classes", ())]
            log_prior = [float(value) for value in content.get("log_prior", ())]
            offsets = chosen_offsets(content.get("offsets"))
            distinguished = plan.classes - len(offsets)
            if log_prior and len(log_prior) != distinguished:
                raise ValueError(f"log_prior has {len(log_prior)} numbers for {distinguished} classes")
            if offsets and distinguished != len(classes):
                raise ValueError(
                    f"{len(classes)} classes and {len(offsets)} offsets for {plan.classes} channels"
                )
            cells = [str(name) for name in content.get("cells", classes[1:])]
            wrong = [name for name, tensor in network.state_dict().items() if not _usable(tensor)]
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except Exception as error:  # the values in the file can be anything
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{path}: its parameters do not match its network ({type(error).__name__}: {reason}). "
                "Train the model again."
            ) from error
        values = {
            "its normalisation": [normalisation.offset, normalisation.scale],
            "its log_prior": [np.array(log_prior)],
        }
        wrong += [name for name, arrays in values.items() if not all(np.isfinite(a).all() for a in arrays)]
        if wrong:
            raise InputError(
                f"{path}: {wrong[0]} contains NaN or infinite values, or is not float32. Train the model "
                "again."
            )
        return cls(
            plan,
            network,
            normalisation,
            provenance,
            task,
            application,
            pixel_size,
            classes,
            log_prior,
            cells,
            offsets,
        )


def members_in(content: dict[str, Any], path: str | Path) -> list[dict[str, Any]]:
    """Return the content of each network in a model file: one, or the members of an ensemble in their order.

    Parameters
    ----------
    content : dict
        Result of `read_tensors`.
    path : str or Path
        The file, for messages.

    Returns
    -------
    list of dict
        For `Model.of`. Each has the `application` of the file.

    Raises
    ------
    InputError
        If the file is not a model, or is of another format version.
    """
    if content.get("format") != "bordure-model":
        raise InputError(f"{path}: not a bordure model. Expected a `model.pt` written by the training stage.")
    members = content.get("members", [content])
    expected = LATER_VERSION if "members" in content or "offsets" in content else FORMAT_VERSION
    if content.get("format_version") != expected:
        raise InputError(
            f"{path}: model format version {content.get('format_version')}, expected {expected}. "
            "Train the model again with this version of bordure, or predict with the version that its "
            "provenance names."
        )
    if not (isinstance(members, list) and members and all(isinstance(own, dict) for own in members)):
        raise InputError(f"{path}: not a bordure model: its `members` are no networks. Train them again.")
    return [own | {"application": content.get("application", {})} for own in members]


def _kind(model: Model) -> tuple[Any, ...]:
    """Return what all members of an ensemble have in common."""
    of_output = list(model.classes), list(model.cells), model.offsets
    return model.plan.name, model.plan.arguments(), model.task, *of_output


def save_ensemble(
    members: Sequence[Model], path: str | Path, *, provenance: dict[str, Any], application: dict[str, Any]
) -> None:
    """Write several networks to one file. Their mean prediction is that of the file.

    The file is replaced atomically: if writing fails, an existing file is unchanged.

    Parameters
    ----------
    members : sequence of Model
        Networks with the same settings, classes and offsets, trained with other seeds or on other images.
        Predictions are added in this order. Each keeps its own normalisation and `log_prior`.
    path : str or Path
        File to write, usually `model.pt`.
    provenance : dict
        Record of how the file is made.
    application : dict
        As in `Model`, chosen for the mean.

    Raises
    ------
    InputError
        If the networks differ in settings, task, classes or offsets, or the file cannot be written.
    """
    first = members[0]
    if first.task != "segmentation":
        raise InputError(f"{path}: the network {first.plan.name} finds boxes, and boxes have no mean.")
    for number, member in enumerate(members, 1):
        if _kind(member) != _kind(first):
            raise InputError(
                f"{path}: the members 1 and {number} of the ensemble differ in the settings of their "
                "networks, in their classes or in their offsets. Expected networks that differ only in what "
                "they learned."
            )
    plain = first._plain() | {
        "format_version": LATER_VERSION,
        "provenance": provenance,
        "application": application,
    }
    plain.pop("log_prior", None)  # each member has its own
    contents = [member._plain() | {"state_dict": member.network.state_dict()} for member in members]
    described = {"members": len(members), "parameters": sum(member.plan.parameters for member in members)}
    write_tensors(path, plain | {"members": contents}, plain | described)


def _usable(tensor: torch.Tensor) -> bool:
    """Return whether all values of `tensor` are finite float32 numbers, or counts (int64)."""
    return tensor.dtype == torch.int64 or (tensor.dtype == torch.float32 and bool(tensor.isfinite().all()))
