"""What a model file tells about itself, for readers that need no torch: a second to import."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from pipeline_lib.errors import InputError

NAME = "description.json"  # in the folder of a model file, which is a ZIP archive; torch ignores it


def add_description(file: BinaryIO, description: dict[str, Any]) -> None:
    """Put `description` into the file of a model that `torch.save` wrote. No time of day goes with it."""
    with zipfile.ZipFile(file, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{folder}/{NAME}"), json.dumps(description))


def describe(path: str | Path) -> dict[str, Any]:
    """What is plain in the model at `path`: name, arguments, context (px), normalisation, provenance, and its
    number of `parameters`.

    Raises `InputError` for a missing or foreign file, and for one by an older version of bordure.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            name = next((name for name in archive.namelist() if name.endswith(f"/{NAME}")), None)
            if name:
                return json.loads(archive.read(name))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model. Train one, or correct the path.") from error
    except (zipfile.BadZipFile, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not a readable model file ({error}).") from error
    raise InputError(
        f"{path}: says nothing about itself: not a model, or one by an older version of bordure. `python -c "
        f"\"from pipeline_lib.networks import Model; Model.load('{path}').save('{path}')\"` writes it anew."
    )
