"""Models that trainings start from: the setting `training.start_from`, a file or another model of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bordure.study import Model, of_variant
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

# Settings of a training that depend on the model it starts from
OF_START = ("start_from", "keep_normalisation", "freeze", "learning_rate_factors")
MODEL_FILE = "<results>/models/{model}/model.pt"  # of each model of a run


def named(model: Model, models: Mapping[str, Model]) -> Model | None:
    """Return the model of the run that `training.start_from` of a model names.

    The name of a variant stands for the model of this variant with the same fold and seed, and the name of a
    model of the first fold for the one of the same fold.

    Parameters
    ----------
    model : Model
        The model.
    models : dict of str to Model
        All models of the run. They are preferred to files.

    Returns
    -------
    Model or None
        The named model; None if the setting is missing or names a file.
    """
    start = model.settings["training"].get("start_from")
    # without a study, the main model has the name of the only variant
    variants = {other.variant for other in models.values()} if "study" in model.settings else set()
    if start in variants:
        key = (start, model.fold, model.seed)
        return next(other for other in models.values() if (other.variant, other.fold, other.seed) == key)
    other = models.get(start)
    if other is None or other.fold:
        return other
    key = (other.variant, model.fold, other.seed)
    return next(own for own in models.values() if (own.variant, own.fold, own.seed) == key)


def training_of(model: Model, models: Mapping[str, Model]) -> Json:
    """Return the section `training` for one model of a run.

    A model that `start_from` names cannot start from itself. It starts from random parameters, and nothing
    of it is frozen.

    Parameters
    ----------
    model : Model
        The model.
    models : dict of str to Model
        All models of the run.

    Returns
    -------
    dict
        The section, without the settings of `OF_START` for the model that it names.
    """
    training = model.settings["training"]
    if named(model, models) is not model:
        return training
    return {key: value for key, value in training.items() if key not in OF_START}


def start_file(
    model: Model, models: Mapping[str, Model], find: Callable[[str], Path | str]
) -> Path | str | None:
    """Return the model file that the training of a model starts from.

    Parameters
    ----------
    model : Model
        The model.
    models : dict of str to Model
        All models of the run.
    find : callable
        Function that finds the file of a path in the config.

    Returns
    -------
    Path, str or None
        The file. That of a model of the run begins with `<results>`. None if the training starts from random
        parameters.
    """
    start = training_of(model, models).get("start_from")
    if start is None:
        return None
    other = named(model, models)
    return MODEL_FILE.format(model=other.name) if other else find(os.path.expanduser(start))


def require_starts(models: Mapping[str, Model], results: str, find: Callable[[str], Path | str]) -> None:
    """Check in the dry run that each model can start from the one that it names.

    Parameters
    ----------
    models : dict of str to Model
        All models of the run.
    results : str
        Results folder.
    find : callable
        As for `start_file`.

    Raises
    ------
    InputError
        If a model would start from itself, directly or over others, the file does not exist, is not a model,
        or is written by the run itself, or if nothing of it can be copied.
    """
    done = set()
    for model in models.values():
        with of_variant(model.variant, model.settings):
            _require_same_fold(model, models)
            if model.variant not in done:  # otherwise, the models of a variant start alike
                _require_start(model, models, results, find)
        done.add(model.variant)


def _require_same_fold(model: Model, models: Mapping[str, Model]) -> None:
    """Raise `InputError` if a model starts from one that learned from the volumes that validate it."""
    source = named(model, models)
    if source and source.fold != model.fold:
        raise InputError(
            f"training.start_from: {source.name} learned from volumes that validate {model.name}. Name the "
            "model of the first fold: each training then starts from the one of its own fold."
        )


def _require_start(
    model: Model, models: Mapping[str, Model], results: str, find: Callable[[str], Path | str]
) -> None:
    training = model.settings["training"]
    start, keep = training.get("start_from"), training.get("keep_normalisation")
    if start is None:
        return
    source = named(model, models)
    if source is model and _is_own(model):
        raise InputError(
            f"training.start_from: `{start}` is the model that this run trains. To start from one that it "
            "trained earlier, copy its `model.pt` to another folder and name the copy."
        )
    path = [model.name]
    for ancestor in ancestors(model, models):
        path.append(ancestor.name)
        if ancestor.name in path[:-1]:
            raise InputError(
                f"training.start_from: a circle, {' starts from '.join(path)}. One of them must start from a "
                "file, or from random parameters."
            )
    from pipeline_lib.networks import transfer  # imports torch, which takes a second

    if source:
        if source is not model:
            transfer.require_start(source.plan, model.plan, source.name, keep)
        return
    file = find(os.path.expanduser(start))
    if not Path(file).exists():
        others = [name for name in models if name != model.name]
        some = f", or one of the models {', '.join(others)} of this run" if others else ""
        raise InputError(
            f"training.start_from: found no file `{start}`. Expected the path of a model file{some}."
        )
    made = [
        f"{results}/model.pt",
        *(MODEL_FILE.format(model=m).replace("<results>", results) for m in models),
    ]
    if os.path.realpath(file) in map(os.path.realpath, made):
        raise InputError(
            f"training.start_from: {file} is a file that this run writes. Copy it to another folder and name "
            "the copy."
        )
    transfer.require_start(transfer.plan_of(file), model.plan, str(file), keep)


def ancestors(model: Model, models: Mapping[str, Model]) -> Iterator[Model]:
    """Yield the models that a model starts from, directly and over others, up to the first that repeats.

    Parameters
    ----------
    model : Model
        The model.
    models : dict of str to Model
        All models of the run.

    Yields
    ------
    Model
        The next model.
    """
    seen = [model]
    while (source := named(model, models)) and source is not model:  # else from random parameters
        yield source
        if source in seen:
            return
        seen.append(source)
        model = source


def _is_own(model: Model) -> bool:
    """Return whether `start_from` of a model is its own setting, not that of all variants."""
    variants = model.settings.get("study", {}).get("variants", {})
    own = variants.get(model.variant, {}) if variants else model.settings
    return "start_from" in (own.get("training") or {})
