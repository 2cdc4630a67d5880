"""Files of a round of corrections, and how a person marks what was corrected."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import decode, read_json, replacing
from pipeline_lib.runtime.types import Json

#: Value of pixels in the labels that are not annotated.
NOT_ANNOTATED = 65_535
#: Folders and files of a round.
IMAGES, LABELS, PREDICTED, TODO, ROUND = "images", "labels", ".predicted", "todo.tsv", "round.json"
#: Columns of the list of crops.
COLUMNS = ["rank", "crop", "done", "reason", "score", "image", "section", "y", "x", "height", "width"]
#: Options of images that a round stores, which are also columns of a table of volumes.
OF_IMAGES = ("offset", "scale", "pixel_size")
#: Words in the column `done` that mean yes and no.
YES = ("yes", "y", "x", "1", "1.0", "true", "done", "ja", "oui", "wahr", "vrai", "vero", "verdadero")
NO = ("", "no", "n", "0", "0.0", "false", "nein", "non", "falsch", "faux", "falso")


def write_todo(rows: list[Json], path: Path) -> None:
    """Write the list of crops (TSV).

    Parameters
    ----------
    rows : list of dict
        Values of the columns `COLUMNS` of each crop.
    path : Path
        File to write.
    """
    with replacing(path) as temporary:
        pd.DataFrame(rows, columns=COLUMNS).to_csv(temporary, sep="\t", index=False)


def read_todo(folder: Path) -> pd.DataFrame:
    """Read the list of crops of a round.

    Parameters
    ----------
    folder : Path
        Folder of the round.

    Returns
    -------
    pandas.DataFrame
        Its rows; `done` is bool.

    Raises
    ------
    InputError
        If the folder is no round, or a value of `done` is neither yes nor no.
    """
    path = folder / TODO
    if not path.exists() or not (folder / ROUND).exists():
        raise InputError(
            f"{folder}: has no {TODO} and {ROUND}, so it is no round of corrections. Name the folder that "
            "`bordure suggest` wrote."
        )
    try:
        text = io.StringIO(decode(path.read_bytes()))
        table = pd.read_csv(text, sep=None, engine="python", dtype={"done": str, "crop": str})
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"{path}: cannot be read as a table ({error}). Save it as text with tabs, in UTF-8."
        ) from None
    if missing := [name for name in ("crop", "done") if name not in table]:
        raise InputError(f"{path}: has no column `{missing[0]}`. Keep the columns {', '.join(COLUMNS)}.")
    words = table["done"].fillna("").str.strip().str.casefold()
    for crop, word in zip(table["crop"], words, strict=True):
        if word not in YES and word not in NO:
            raise InputError(f"{path}: crop {crop} has `done` {word}. Write yes or no.")
    if (twice := table.crop.duplicated()).any():
        raise InputError(f"{path}: crop {table.crop[twice].iloc[0]} has two rows. Delete one.")
    return table.assign(done=words.isin(YES))


def read_round(folder: Path) -> Json:
    """Return what `bordure suggest` stored about a round; `InputError` if the file is damaged."""
    path, needed = folder / ROUND, {"model", "sha256", "margin", *OF_IMAGES}
    with suppress(InputError):
        found: Json = read_json(path)
        if isinstance(found, dict) and needed <= found.keys():
            return found
    raise InputError(f"{path}: is damaged. Copy it again, or suggest again into another folder.")


def plain(name: str) -> str:
    """Return a name with `_` instead of all that a name of a volume must not contain.

    Examples
    --------
    >>> from pipeline_lib.corrections.files import plain
    >>> plain("cells ä {1}.b")
    'cells_1_.b'
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.") or "crop"


def framed(labels: np.ndarray, inside: tuple[slice, slice]) -> np.ndarray:
    """Return labels (y, x) with `NOT_ANNOTATED` outside of a part, uint16.

    Raises `InputError` if there are too many cells in one crop.
    """
    values = np.unique(labels[inside])
    values = values[values > 0]
    if len(values) >= NOT_ANNOTATED:
        raise InputError(f"a crop has {len(values):,} cells, and at most {NOT_ANNOTATED - 1:,} are possible.")
    shown = np.full(labels.shape, NOT_ANNOTATED, np.uint16)
    shown[inside] = np.searchsorted(values, labels[inside], side="right")
    return shown
