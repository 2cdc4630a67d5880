"""Models that trainings start from: the setting `training.start_from`, a file or another model of the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from pipeline_lib.networks import Plan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

# Settings of a training that depend on the model it starts from
OF_START = ("start_from", "keep_normalisation", "freeze", "learning_rate_factors")
MODEL_FILE = "<results>/models/{model}/model.pt"  # of each model of a run


def training_of(model: str, config: Json) -> Json:
    """Return the section `training` for one model of a run.

    The model that `start_from` names cannot start from itself. It starts from random parameters, and nothing
    of it is frozen.

    Parameters
    ----------
    model : str
        Name of the model.
    config : dict
        Settings of the run.

    Returns
    -------
    dict
        The section, without the settings of `OF_START` for the model that it names.
    """
    training = config["training"]
    if training.get("start_from") != model:
        return training
    return {key: value for key, value in training.items() if key not in OF_START}


def start_file(
    model: str, config: Json, models: Collection[str], find: Callable[[str], Path | str]
) -> Path | str | None:
    """Return the model file that the training of a model starts from.

    Parameters
    ----------
    model : str
        Name of the model.
    config : dict
        Settings of the run.
    models : collection of str
        Names of all models that the run trains. They are preferred to files.
    find : callable
        Function that finds the file of a path in the config.

    Returns
    -------
    Path, str or None
        The file. That of a model of the run begins with `<results>`. None if the training starts from random
        parameters.
    """
    start = training_of(model, config).get("start_from")
    if start is None:
        return None
    return MODEL_FILE.format(model=start) if start in models else find(os.path.expanduser(start))


def require_start(
    model: str, config: Json, plan: Plan, models: Collection[str], find: Callable[[str], Path | str]
) -> None:
    """Check in the dry run that the main model of a run can start from another one.

    Parameters
    ----------
    model : str
        Name of the main model.
    config : dict
        Settings of the run.
    plan : Plan
        Plan of its network.
    models, find
        As for `start_file`.

    Raises
    ------
    InputError
        If a model would start from itself, the file does not exist, is not a model, or is written by the run
        itself, or if nothing of it can be copied.
    """
    start = config["training"].get("start_from")
    if start == model:
        raise InputError(
            f"training.start_from: `{model}` is the model that this run trains. To start from one that it "
            "trained earlier, copy its `model.pt` to another folder and name the copy."
        )
    file = start_file(model, config, models, find)
    if file is None or start in models:
        return
    others = [other for other in models if other != model]
    if not Path(file).exists():
        named = f", or one of the models {', '.join(others)} of this run" if others else ""
        raise InputError(
            f"training.start_from: found no file `{start}`. Expected the path of a model file{named}."
        )
    results = config["results"]
    made = [
        f"{results}/model.pt",
        *(MODEL_FILE.format(model=m).replace("<results>", results) for m in models),
    ]
    if os.path.realpath(file) in map(os.path.realpath, made):
        raise InputError(
            f"training.start_from: {file} is a file that this run writes. Copy it to another folder and name "
            "the copy."
        )
    from pipeline_lib.networks import transfer  # imports torch, which takes a second

    transfer.require_start(file, plan, config["training"].get("keep_normalisation"))
