"""Descriptions of model files, which are read without torch (importing torch takes a second)."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import BinaryIO

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import require_file
from pipeline_lib.runtime.types import Json

LARGEST = 256 * 2**20  # bytes of a description; with normalisation `mean_image` it contains that image
KEYS = ("format", "name", "arguments", "context", "normalisation", "provenance", "parameters")
NAME = "description.json"  # a model file is a ZIP archive with one folder; torch ignores this entry in it


def add_description(file: BinaryIO, description: Json) -> None:
    """Add a description to a model file.

    The entry has a fixed time stamp, so that the same model always gives the same bytes.

    Parameters
    ----------
    file : binary file
        Model file written by `torch.save`, open for reading and writing.
    description : dict
        JSON-compatible values.
    """
    with zipfile.ZipFile(file, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{folder}/{NAME}"), json.dumps(description))


def describe(path: str | Path) -> Json:
    """Read the description of a model file.

    Parameters
    ----------
    path : str or Path
        File written by `networks.model.Model.save`.

    Returns
    -------
    dict
        All plain values of the model, among them `name` and `arguments` of the network, `task`, `context`
        (px), `normalisation`, `pixel_size` (um), `classes`, `provenance` and the number of `parameters`.
        Models with corrected probabilities also have `log_prior`. An ensemble has its number of `members`,
        the `normalisation` of the first one, and the `parameters` of all.

    Raises
    ------
    InputError
        If the file is missing, damaged or not a model, or was written by an older version of bordure.
    """
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(f"/{NAME}")]
            if entries and (entries[0].file_size > LARGEST or entries[0].compress_type):
                raise zipfile.BadZipFile(
                    f"its description has {entries[0].file_size:,} bytes or is compressed"
                )
            description = json.loads(archive.read(entries[0])) if entries else None
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model file. Train a model, or correct the path.") from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: not a readable model file ({reason}). Copy the file again from its source, or train "
            "the model again."
        ) from error
    if isinstance(description, dict):
        if missing := [key for key in KEYS if key not in description]:
            raise InputError(
                f"{path}: not a bordure model: its description has no `{missing[0]}`. Correct the path."
            )
        number = description.get("members", 1)
        if not isinstance(number, int) or number < 1:
            raise InputError(
                f"{path}: not a bordure model: found {number!r:.20} as the number of its `members`. Train it "
                "again."
            )
        return description
    raise InputError(
        f"{path}: has no description: it is not a model, or was written by an older version of bordure. "
        'To add the description to an older model, run `python -c "from pipeline_lib.networks.model import '
        f"Model; Model.load('{path}').save('{path}')\"`."
    )


def application(described: Json, path: str | Path) -> Json:
    """Return what a complete model file says about its use on new images.

    Parameters
    ----------
    described : dict
        Result of `describe`.
    path : str or Path
        The file, for messages.

    Returns
    -------
    dict
        `average_orientations`, `postprocessing` and `scores`, see `stages.packaging.package_model`.

    Raises
    ------
    InputError
        If the file is that of the training alone.
    """
    found = described.get("application")
    if not (isinstance(found, dict) and {"average_orientations", "postprocessing"} <= {*found}):
        raise InputError(
            f"{path}: has no threshold, because it is the file of the training alone. Name `model.pt` in the "
            "results folder itself, which a complete run writes."
        )
    return found


def members(described: Json) -> int:
    """Return how many networks a model file contains.

    Parameters
    ----------
    described : dict
        Result of `describe`.

    Returns
    -------
    int
        1, or the number of the members of an ensemble.
    """
    return int(described.get("members", 1))


def needs_one(path: str | Path, number: int) -> str:
    """Return the message that a single network is needed, and a file is an ensemble.

    Parameters
    ----------
    path : str or Path
        The file.
    number : int
        Number of its members.

    Returns
    -------
    str
        The message.
    """
    return (
        f"{path}: is an ensemble of {number} networks, expected a single one. Name the file of one of its "
        "members, `models/MODEL/model.pt` in the results folder."
    )
