"""Protect trained models: say which ones a run would replace and why, ask for leave, and keep them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_lib import provenance
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json

FOLDER = "replaced"  # in the folder of a file: copies of those that it has replaced


def changes(model: Path, settings: Json, datasets: Iterable[Path] = ()) -> str:
    """Return what changed since a model was trained, so that a run would train it again.

    Parameters
    ----------
    model : Path
        Model file of an earlier training.
    settings : dict
        Settings of the new training, as in the provenance of a model file: `network`, `training` and so on.
    datasets : iterable of Path
        Datasets of the new training that exist already.

    Returns
    -------
    str
        Each changed setting with both values, or that the data changed. Empty if no change is known.
    """
    try:
        record = describe(model)["provenance"]
        earlier, inputs = record["settings"], record["inputs"]
    except (InputError, KeyError, TypeError):
        return "the file cannot be read"
    changed = [
        f"`{key}` is {new!r}, was {old!r}" for key, old, new in _changes(earlier, settings) if old != new
    ]
    if not changed and any(inputs.get(str(path)) != _sha256(path) for path in datasets):
        changed = ["its data changed"]
    return ", ".join(changed)


def _sha256(path: Path) -> str | None:
    record = provenance.find_record(path)
    return record["sha256"] if record else None


def _changes(
    earlier: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key in now:
        if key in earlier and isinstance(now[key], Mapping) and isinstance(earlier[key], Mapping):
            yield from _changes(earlier[key], now[key], f"{prefix}{key}.")
        elif key in earlier:
            yield f"{prefix}{key}", earlier[key], now[key]


def title(model: Path, packaged: Path | None) -> str:
    """Return path, date and scores of a trained model, for people.

    Parameters
    ----------
    model : Path
        Model file of the training.
    packaged : Path or None
        Model file with the scores, which exists if the run was complete. None for the models of `seeds`.

    Returns
    -------
    str
        For example `results/models/unet/model.pt (trained 2026-11-28 23:10, v_rand_thin 0.951 on test)`.
    """
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime(model.stat().st_mtime))
    try:
        application = describe(packaged)["application"] if packaged else {}
        split, scores = next(iter(application["scores"].items()))
        criterion = application["postprocessing"]["criterion"]
        metric = criterion if criterion in scores and criterion != "rand_error" else "v_rand_thin"
        score = f", {metric} {scores[metric]:.3f} on {split}"
    except (InputError, KeyError, StopIteration, TypeError):
        score = ""
    return f"{model} (trained {date}{score})"


def require_leave(titles: Mapping[Path, str], reasons: Mapping[Path, str], allowed: bool) -> None:
    """End the run unless the user allows it to replace trained models.

    Parameters
    ----------
    titles, reasons : dict of Path to str
        Results of `title` and `changes` for each model that the run would train again.
    allowed : bool
        Whether the user has allowed it already. Otherwise the question is asked if there is a terminal.

    Raises
    ------
    InputError
        If it is not allowed.
    """
    if allowed:
        return
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(
            "Train again? A copy of the old model is kept; report, scores and labels are overwritten. [y/N] ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        if input().strip().lower() in ("y", "yes"):
            return
        raise InputError("stopped. The model and all results are as they were.")
    model = next(iter(titles))
    raise InputError(
        f"{model}: this run would replace it ({reasons[model]}). Add `--replace` to `bordure run`, or "
        "`--config replace=True` to `snakemake`, to train again; the old model is kept. To keep all results, "
        "choose another folder with `results:`."
    )


def keep_file(path: Path) -> Path:
    """Copy a file that a person has edited into `replaced/` beside it, and return the copy.

    Parameters
    ----------
    path : Path
        File that is about to be replaced.

    Returns
    -------
    Path
        The copy, with the date of the file in its name. An existing copy is not made again.
    """
    return _copy(path, path, f"{path.stem}_")


def keep(model: Path, packaged: Path | None) -> Path:
    """Copy a model that is about to be replaced into `replaced/` beside it.

    Parameters
    ----------
    model : Path
        Model file of the training.
    packaged : Path or None
        As for `title`.

    Returns
    -------
    Path
        The copy, named after the date of the training. An existing copy is not made again.
    """
    complete = packaged and packaged.exists() and packaged.stat().st_mtime >= model.stat().st_mtime
    source = packaged if packaged and complete else model
    return _copy(source, model, "")


def _copy(source: Path, dated: Path, begin: str) -> Path:
    """Copy `source` into `replaced/` beside `dated`, named after its date, and return the copy."""
    date = time.strftime("%Y-%m-%dT%H-%M-%S", time.localtime(dated.stat().st_mtime))
    copy = dated.parent / FOLDER / f"{begin}{date}{dated.suffix}"
    if not copy.exists():
        with replacing(copy) as temporary:
            shutil.copy2(source, temporary)
    return copy
