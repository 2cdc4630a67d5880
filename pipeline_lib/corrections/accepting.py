"""Check corrected labels, and write a table and a config with which they are learned."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
import yaml

from pipeline_lib.corrections import files
from pipeline_lib.imageio import inspect
from pipeline_lib.networks import modelfile
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing, sha256
from pipeline_lib.runtime.types import Json

#: A part of a cell with fewer pixels than this, apart from the rest, is reported as a slip of the brush.
SLIP = 10
#: Factor of the learning rate of a network that is trained further; `benchmarks/corrections.py` compares it
#: with 1.
FURTHER = 0.3
#: `training.learning_rate` of a config that does not state it.
DEFAULT_RATE = 0.001
_NEUTRAL = {"offset": "0", "scale": "1"}


@dataclass(frozen=True)
class Accepted:
    """What `accept` found and wrote.

    Parameters
    ----------
    crops : list of str
        Names of the accepted crops.
    notes : list of str
        What may be wrong with their labels, and what was not changed.
    table, config : Path
        Files that were written.
    """

    crops: list[str]
    notes: list[str]
    table: Path
    config: Path


def accept(folder: str | Path, config: str | Path) -> Accepted:
    """Check the labels of a round that are marked as done, and write table and config of the next run.

    The table has the rows of the table of the config, and one for each accepted crop. The config has the same
    settings, but for a lower learning rate. It starts from the model of the round, and compares its scores
    with those of the run before.

    Parameters
    ----------
    folder : str or Path
        Folder of the round.
    config : str or Path
        Config file of the run before.

    Returns
    -------
    Accepted
        What was accepted, and the files.

    Raises
    ------
    InputError
        If nothing is marked as done, labels cannot be used, or a file that would be written exists.
    """
    folder, config = Path(folder), Path(config)
    todo, stored = files.read_todo(folder), files.read_round(folder)
    done = todo.crop[todo.done].tolist()
    if not done:
        raise InputError(
            f"{folder / files.TODO}: no crop is done. Correct the labels in {folder / files.LABELS}, write "
            "yes into the column `done`, and type the same command again."
        )
    notes = [note for crop in done for note in _check(folder, crop)]
    settings, table = _read_config(config)
    name = files.plain(folder.resolve().name)
    new_table, new_config = (path.with_name(f"{path.stem}-{name}{path.suffix}") for path in (table, config))
    for path in (new_table, new_config):
        if path.exists():
            raise InputError(f"{path}: exists, and is not overwritten. Move it away.")
    model = Path(stored["model"])
    if not model.exists() or sha256(model) != stored["sha256"]:
        raise InputError(
            f"{model}: is missing or has changed since the crops were suggested. Restore it, or suggest "
            "again."
        )
    rows = [_row(folder, name, crop, stored, settings) for crop in done]
    results = Path(settings.get("results") or "results")
    new: Json = settings | {
        "volumes": str(Path(settings["volumes"]).with_name(new_table.name)),
        "results": f"{results}-{name}",
    }
    if (results / "scores.csv").exists():
        new["report"] = (settings.get("report") or {}) | {"before": str(results)}
    else:
        notes.append(f"{results} has no scores.csv, so the report will not compare with it")
    if settings.get("folds"):
        notes.append(f"{model} learned from images of other folds, so no training starts from it")
    elif modelfile.members(modelfile.describe(model)) == 1:
        before = settings.get("training") or {}
        new["training"] = before | {"start_from": str(model)}
        if "start_from" not in before:  # the first round
            rate = float(before.get("learning_rate", DEFAULT_RATE))
            new["training"]["learning_rate"] = lower = float(f"{FURTHER * rate:.2g}")
            notes.append(f"learning rate {lower:g} instead of {rate:g}, as the network is trained further")
    else:
        notes.append(f"{model} has several networks, so the next training starts from the beginning")
    head = f"# Written by `bordure accept {folder} {config}`: {len(done)} corrected crops.\n"
    text = head + yaml.safe_dump(new, sort_keys=False, allow_unicode=True)
    _write_table(table, rows, new_table)
    with replacing(new_config) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Accepted(done, notes, new_table, new_config)


def _check(folder: Path, crop: str) -> list[str]:
    """Check the labels of a crop; return notes, or raise `InputError` if they cannot be used."""
    from scipy import ndimage

    path = folder / files.LABELS / f"{crop}.tif"
    for needed in (folder / files.PREDICTED / path.name, folder / files.IMAGES / path.name):
        if not needed.exists():
            raise InputError(f"{needed}: is missing. Copy the folder again, with hidden files.")
    before = _read(folder / files.PREDICTED / path.name)
    labels = _read(path)
    if labels.shape != before.shape:
        raise InputError(
            f"{path}: is {labels.shape[0]} x {labels.shape[1]} px, expected {before.shape[0]} x "
            f"{before.shape[1]}. Save the labels with the size of the image."
        )
    if labels.dtype.kind not in "uib" and not (np.isfinite(labels) & (labels == np.round(labels))).all():
        raise InputError(
            f"{path}: has fractions or infinite values, expected labels: whole numbers, 0 = background."
        )
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() > files.NOT_ANNOTATED:
        raise InputError(
            f"{path}: has the value {labels.min() if labels.min() < 0 else labels.max()}, expected 0 = "
            f"background, 1 to {files.NOT_ANNOTATED - 1:,} = cells, {files.NOT_ANNOTATED:,} = not annotated."
        )
    if (labels == files.NOT_ANNOTATED).all():
        raise InputError(f"{path}: nothing is annotated. Set `done` to no, or restore the labels.")
    notes = []
    margin = before == files.NOT_ANNOTATED
    if margin.any() and (labels[margin] == files.NOT_ANNOTATED).mean() < 0.5:
        most = np.bincount(labels[margin]).argmax()
        raise InputError(
            f"{path}: the margin has lost the value {files.NOT_ANNOTATED} (not annotated): most of it is "
            f"{most}, and would be learned. Correct the labels again, leave the margin as it is, and save "
            "them with 16 bits, without colours."
        )
    if (labels == before).all():
        notes.append(f"{crop}: the labels were not changed; they are learned as they were predicted")
    elif (labels[margin] != files.NOT_ANNOTATED).any():
        notes.append(f"{crop}: cells were also drawn in the margin, and are learned there, too")
    for label in np.unique(labels[(labels > 0) & (labels < files.NOT_ANNOTATED)]):
        parts, number = ndimage.label(labels == label)
        if number > 1:
            sizes = np.bincount(parts.ravel())[1:]
            small = int(sizes.argmin())
            y, x = (int(edge.start) for edge in ndimage.find_objects(parts)[small])
            kind = "a slip of the brush?" if sizes[small] < SLIP else "two cells with the same number?"
            notes.append(
                f"{crop}: cell {label} has {number} parts, the smallest with {sizes[small]} px at y {y}, x "
                f"{x}: {kind}"
            )
    return notes


def _read(path: Path) -> np.ndarray:
    """Read the labels of a crop (y, x); `InputError` if there are none."""
    try:
        labels = np.squeeze(tifffile.imread(path))
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{path}: cannot be read ({error}). Save the labels there as TIFF.") from None
    if labels.ndim != 2:
        raise InputError(
            f"{path}: has the shape {labels.shape}, expected rows and columns of one image. Save the labels "
            "as one channel without colours (Fiji: Image > Type > 16-bit)."
        )
    return labels


def _read_config(config: Path) -> tuple[Json, Path]:
    """Return the settings of a config file and the path of its table."""
    try:
        settings: Json = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{config}: cannot be read: {error}") from None
    if not isinstance(settings, dict) or "volumes" not in settings:
        raise InputError(
            f"{config}: has no key `volumes`. Name the config of the run whose model is corrected."
        )
    if other := [key for key in ("model", "drawing") if key in settings]:
        raise InputError(
            f"{config}: has the key `{other[0]}`, so it does not train on images. Name the config of the run "
            "that trained the model."
        )
    table = Path(settings["volumes"])
    if not table.is_absolute() and not table.exists():
        table = config.parent / table
    if not table.exists():
        raise InputError(f"{table}: the table of volumes of {config} does not exist.")
    return settings, table


def _row(folder: Path, name: str, crop: str, stored: Json, settings: Json) -> Json:
    """Return the row of a crop in the table of volumes."""
    data_dir = Path(settings.get("data_dir") or ".").expanduser()
    # after `..` of a link, the system continues from where the link leads
    images, labels = (
        os.path.relpath((folder / part / f"{crop}.tif").resolve(), data_dir.resolve())
        for part in (files.IMAGES, files.LABELS)
    )
    row: Json = {
        "volume": f"{name}_{crop}"[:100],
        "images": images,
        "annotation": labels,
        "split": "train",
        "annotation_kind": "instances",
        "background": "0",
        "ignore": str(files.NOT_ANNOTATED),
        "empty_sections": "background",  # all false cells of a crop may have been erased
    }
    of_all = settings.get("dataset") or {}
    for column in files.OF_IMAGES:
        if stored[column] is not None:
            row[column] = str(stored[column])
        elif column in of_all and column in _NEUTRAL:  # the crop has the gray levels of its image
            row[column] = _NEUTRAL[column]
    if of_all.get("channels", 1) != 1:  # crops have only the chosen channels
        own = inspect(folder / files.IMAGES / f"{crop}.tif").channels
        row["channels"] = str([*range(own)])
    return row


def _write_table(table: Path, rows: Sequence[Json], output: Path) -> None:
    """Write the rows of a table of volumes and further ones, with the columns of both."""
    from pipeline_lib.data.volumes import COLUMNS, table_rows

    before = table_rows(table)
    used = {name for row in (*before, *rows) for name in row}
    columns = [name for name in COLUMNS if name in used]
    with replacing(output) as temporary:
        lines = [columns, *([row.get(name, "") for name in columns] for row in (*before, *rows))]
        temporary.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
