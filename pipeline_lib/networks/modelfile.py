"""What a model file tells about itself, for readers that need no torch: a second to import."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import require_file

LARGEST = 256 * 2**20  # bytes of a description, which holds a mean image where that is taken off
KEYS = ("format", "name", "arguments", "context", "normalisation", "provenance", "parameters")
NAME = "description.json"  # in the folder of a model file, which is a ZIP archive; torch ignores it


def add_description(file: BinaryIO, description: dict[str, Any]) -> None:
    """Put `description` into the file of a model that `torch.save` wrote. No time of day goes with it."""
    with zipfile.ZipFile(file, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(zipfile.ZipInfo(f"{folder}/{NAME}"), json.dumps(description))


def describe(path: str | Path) -> dict[str, Any]:
    """What is plain in the model at `path`: name, arguments, context (px), normalisation, provenance, and its
    number of `parameters`.

    Raises `InputError` for a missing, damaged or foreign file, and for one by an older version of bordure.
    """
    try:
        require_file(path)
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(f"/{NAME}")]
            if entries and (entries[0].file_size > LARGEST or entries[0].compress_type):
                raise zipfile.BadZipFile(f"a description of {entries[0].file_size:,} bytes")
            description = json.loads(archive.read(entries[0])) if entries else None
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such model. Train one, or correct the path.") from error
    except Exception as error:  # a damaged or hostile file can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path}: not a readable model file ({reason}). Copy it again from its source, or train it again."
        ) from error
    if isinstance(description, dict):
        if missing := [key for key in KEYS if key not in description]:
            raise InputError(f"{path}: not a bordure model: its description lacks `{missing[0]}`.")
        return description
    raise InputError(
        f"{path}: says nothing about itself: not a model, or one by an older version of bordure. `python -c "
        f"\"from pipeline_lib.networks.model import Model; Model.load('{path}').save('{path}')\"` writes it "
        "again."
    )
