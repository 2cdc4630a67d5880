"""Models of a run: variants of the settings (`study`), folds and seeds."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bordure.settings import complete, read_schema
from pipeline_lib import networks
from pipeline_lib.data.affinities import chosen_offsets
from pipeline_lib.data.volumes import Volume
from pipeline_lib.imageio import section_ranges
from pipeline_lib.networks import Plan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import several
from pipeline_lib.runtime.types import Json, Offsets
from pipeline_lib.tasks.segmentation.baselines import BASELINES
from pipeline_lib.tasks.segmentation.classes import Classes

# What a variant can change. All variants have the same volumes, so that their scores can be compared.
CHANGEABLE = {
    "normalisation",
    "weight_map",
    "network",
    "training",
    "augmentation",
    "prediction",
    "segmentation",
    "detection",
    "dataset.target",
    "dataset.instances",
    "dataset.separation_border_width",
}
# Settings of a training on which the time of an iteration depends
OF_STEP = ("tile", "batch", "loss_mask", "affinities", "freeze", "precision", "device")
DEFAULT = "unet"  # network of a config that names none
ENSEMBLE = "ensemble"  # name of the mean of several models
RESERVED = (*BASELINES, "baselines", ENSEMBLE)  # names in paths of results


@dataclass(frozen=True)
class Model:
    """One training of a run, or the mean of several.

    Parameters
    ----------
    name : str
        Its name, the value of the wildcard {model}.
    variant : str
        Variant of the settings. Without a study, the name of the network.
    seed : int
        Seed of its training.
    fold : int
        Fold of the cross-validation, which is its validation split; 0 without folds.
    settings : dict
        Complete settings of the variant.
    train, validation : sequence of str
        Names of the volumes that it learns from, and by which model and threshold are chosen.
    classes : Classes
        Classes that it distinguishes.
    plan : Plan
        Plan of its network.
    dataset, statistics, weight_map, boxes, speed : str
        Names of the folders of its datasets and weight maps, and of the files of its statistics, of its
        default boxes and of its measured speed, without suffix. Models with the same settings share them.
        Those of the main model have the names of a run without a study; the others end with a hash of the
        settings. A detector learns from the boxes in the datasets, which are in place of its weight maps.
    members : sequence of Model
        Models whose mean it is, in the order in which they are added. Empty for a training.
    """

    name: str
    variant: str
    seed: int
    fold: int
    settings: Json
    train: Sequence[str]
    validation: Sequence[str]
    classes: Classes
    plan: Plan
    dataset: str = "dataset"
    statistics: str = "statistics"
    weight_map: str = "weight_map"
    boxes: str = "boxes"
    speed: str = "step"
    members: Sequence[Model] = ()

    def predicting(self, volume: str) -> list[Model]:
        """Return the members that predict a volume: those that are validated on it, or all if none is.

        So with folds, no annotated volume is predicted by a model that learned from it.

        Parameters
        ----------
        volume : str
            Name of the volume.

        Returns
        -------
        list of Model
            The members.
        """
        return [own for own in self.members if volume in own.validation] or [*self.members]

    @property
    def detects(self) -> bool:
        """Whether it finds boxes, instead of the class of each pixel."""
        return self.plan.task == "detection"

    @property
    def step(self) -> Json:
        """What the time of an iteration depends on: the arguments of `stages.speed.measure`."""
        training = self.settings["training"]
        return {
            "network": self.settings["network"],
            "training": {key: training[key] for key in OF_STEP if key in training},
            "augmentation": self.settings["augmentation"],
            "channels": self.plan.image_channels,
            "classes": [*self.classes.names],
            "cells": [*self.classes.cells],
        }

    @property
    def paths(self) -> dict[str, str]:
        """Values of wildcards that depend on the model."""
        return {
            "model": self.name,
            "variant": self.variant,
            "dataset": self.dataset,
            "statistics": self.statistics,
            "weight_map": self.weight_map,
            "boxes": self.boxes,
            "speed": self.speed,
        }


def variants(given: Json) -> dict[str, Json]:
    """Return the complete settings of each variant.

    Parameters
    ----------
    given : dict
        Settings as read from a config file.

    Returns
    -------
    dict of str to dict
        Settings by the name of the variant. The first one is the main one. Without a study there is only one,
        named after the network.

    Raises
    ------
    InputError
        If the settings of a variant are not valid, or would change the volumes.
    """
    whole = complete(given)
    if "study" not in whole:
        return {whole["network"]["name"]: whole}
    found: dict[str, Json] = {}
    for name, changes in given["study"]["variants"].items():
        _require_name(name, [*found])
        _require_changeable(name, changes or {})
        with of_variant(name, given):
            found[name] = complete(merged(given, changes or {}))
    return found


def _require_name(name: object, others: Sequence[str]) -> None:
    """Raise `InputError` unless a variant can have this name, which becomes part of file names."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_]{1,40}", name):
        problem = "expected a text of letters, digits and `_`"
    elif name.lower() in RESERVED:
        problem = "which is a name of the workflow"
    elif name.lower() in map(str.lower, others):
        problem = "which differs from another one only in capital letters"
    else:
        return
    raise InputError(f"config key `study.variants`: found the name `{name}`, {problem}. Rename it.")


def _require_changeable(name: str, changes: Json) -> None:
    """Raise `InputError` if a variant changes a setting that must be the same for all."""
    schema = read_schema("config")["properties"]
    known = {*schema, *(f"dataset.{key}" for key in schema["dataset"]["properties"])} - {"dataset"}
    dataset = changes.get("dataset")
    for key in [*changes, *(f"dataset.{own}" for own in (dataset if isinstance(dataset, dict) else ()))]:
        if key in known - CHANGEABLE:
            raise InputError(
                f"config key `study.variants.{name}.{key}`: the same for all variants. Variants can change "
                f"{', '.join(sorted(CHANGEABLE))}."
            )


@contextmanager
def of_variant(name: str, settings: Json) -> Iterator[None]:
    """Name the variant of a study in errors.

    Parameters
    ----------
    name : str
        Name of the variant.
    settings : dict
        Settings of the run. Without `study`, errors remain as they are.

    Raises
    ------
    InputError
        For each error inside the `with` statement.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"study.variants.{name}: {error}") if "study" in settings else error from None


def merged(settings: Json, changes: Json) -> Json:
    """Return settings with changes.

    Parameters
    ----------
    settings : dict
        Settings, with sections as dicts.
    changes : dict
        Some of the settings with other values. A setting with the value None is removed, so that it has its
        default. A `network` of another name replaces the whole section, because its settings are others.

    Returns
    -------
    dict
        The changed settings.

    Examples
    --------
    >>> merged({"network": {"name": "unet", "depth": 3}, "seed": 1}, {"network": {"depth": 4}})
    {'network': {'name': 'unet', 'depth': 4}, 'seed': 1}
    >>> merged({"network": {"name": "unet", "depth": 3}}, {"network": {"name": "fcn8s"}})
    {'network': {'name': 'fcn8s'}}
    >>> merged({"training": {"tile": 300, "loss_mask": 0.5}}, {"training": {"loss_mask": None}})
    {'training': {'tile': 300}}
    """
    found = dict(settings)
    for key, value in changes.items():
        before = found.get(key)
        if isinstance(before, dict) and value is None:  # a section with all lines commented out
            continue
        if value is None:
            found.pop(key, None)
        elif not isinstance(before, dict) or not isinstance(value, dict):
            found[key] = merged({}, value) if isinstance(value, dict) else value
        else:
            name = before.get("name", DEFAULT)
            other = key == "network" and value.get("name", name) != name
            found[key] = merged({} if other else before, value)
    return found


def models(
    settings: Mapping[str, Json],
    folds: Sequence[tuple[Sequence[str], Sequence[str]]],
    channels: int,
    classes: Classes | None = None,
    name: str | None = None,
) -> dict[str, Model]:
    """Return all models of a run.

    Parameters
    ----------
    settings : dict of str to dict
        Complete settings of each variant, with lengths in pixels.
    folds : sequence of (sequence of str, sequence of str)
        Training and validation volumes of each fold.
    channels : int
        Number of channels of the images.
    classes : Classes, optional
        Classes of a trained model. By default each variant has those of its settings.
    name : str, optional
        Name of a trained model.

    Returns
    -------
    dict of str to Model
        Models by name. The first one is the main model: first variant, fold 0, `seed`. The names of the
        others are VARIANT[-foldK][-seedN], where fold 0 and `seed` are left out.

    Raises
    ------
    InputError
        If the network of a variant is not possible, or `seeds` contains `seed`.
    """
    config = next(iter(settings.values()))
    seed, seeds = config["seed"], config["seeds"]
    if seed in seeds:
        raise InputError(
            f"config key `seeds`: contains {seed}, which is already the value of `seed`. Remove it from "
            "`seeds`."
        )
    found: list[Model] = []
    for variant, own in settings.items():
        with of_variant(variant, own):
            distinguished = classes or Classes.chosen(own["dataset"])
            plan = _plan(own["network"], channels, distinguished, offsets_of(own))
        for fold, (train, validation) in enumerate(folds):
            for number in [seed, *seeds]:
                parts = [f"-fold{fold}"] * bool(fold) + [f"-seed{number}"] * (number != seed)
                title = "".join([name or variant, *parts])
                found.append(Model(title, variant, number, fold, own, train, validation, distinguished, plan))
    shared: tuple[tuple[str, Callable[[Model], list[object]]], ...] = (
        ("dataset", lambda model: [model.settings["dataset"]]),
        ("statistics", lambda model: [model.dataset, model.fold, model.settings["normalisation"]]),
        ("weight_map", lambda model: [model.statistics, model.settings["weight_map"]]),
        ("boxes", lambda model: [model.dataset, model.fold, model.settings["network"]]),
        ("speed", lambda model: [model.step]),
    )
    for attribute, settings_of in shared:
        main = settings_of(found[0])
        for number, model in enumerate(found):
            if (key := settings_of(model)) != main:
                named: Json = {attribute: f"{getattr(model, attribute)}-{_hash(key)}"}
                found[number] = dataclasses.replace(model, **named)
    found = [dataclasses.replace(m, weight_map=m.dataset) if m.detects else m for m in found]
    return {model.name: model for model in found}


def ensemble(trained: Mapping[str, Model]) -> Model:
    """Return the mean of all models of the first variant: of its seeds, or folds, or both.

    Parameters
    ----------
    trained : dict of str to Model
        All trainings of the run, by name.

    Returns
    -------
    Model
        The ensemble. It has no training volumes, because its members learned from different ones. Its
        validation volumes are those of all members, so with folds all annotated volumes that are not of
        split `test`.

    Raises
    ------
    InputError
        If there is one model, or the models find boxes.
    """
    first = next(iter(trained.values()))
    members = [model for model in trained.values() if model.variant == first.variant]
    if first.detects:
        raise InputError(
            f"config key `ensemble`: the network {first.plan.name} finds boxes, and boxes of several models "
            "have no mean. Remove the key, or choose a network that finds the class of each pixel."
        )
    if len(members) == 1:
        raise InputError(
            "config key `ensemble`: there is only one training, so there is nothing to average. Add further "
            "ones, as `seeds: [1, 2]` or `folds: 5`, or remove the key."
        )
    validation = [*dict.fromkeys(name for member in members for name in member.validation)]
    return dataclasses.replace(
        first, name=ENSEMBLE, variant=ENSEMBLE, train=[], validation=validation, members=members
    )


def offsets_of(settings: Json) -> Offsets:
    """Return the offsets of the affinities that the network of a variant learns.

    Parameters
    ----------
    settings : dict
        Complete settings of the variant.

    Returns
    -------
    tuple of (int, int)
        Offsets (rows, columns) in px, empty if it learns none.
    """
    return chosen_offsets(settings["training"].get("affinities"))


def _plan(network: Json, channels: int, classes: Classes, offsets: Offsets) -> Plan:
    """Return the plan of a network. A detector distinguishes the classes of cells from the background."""
    detects = networks.plan_type(network["name"]).task == "detection"
    outputs = 1 + len(classes.cells) if detects else len(classes) + len(offsets)
    return networks.plan(**network, image_channels=channels, classes=outputs)


def require_task(settings: Json, plan: Plan) -> None:
    """Check that the settings of a variant are settings of the task of its network.

    Parameters
    ----------
    settings : dict
        Complete settings of the variant.
    plan : Plan
        Plan of its network.

    Raises
    ------
    InputError
        If a setting would have no effect, or the wrong one.
    """
    training, detects = settings["training"], plan.task == "detection"
    what = f"the network {plan.name} finds {'boxes' if detects else 'the class of each pixel'}"
    if training["best_by"] != "loss" and training["best_by"].startswith("box_") != detects:
        expected = "loss, box_ap_50 or box_ap" if detects else "loss or v_rand_thin"
        raise InputError(
            f"config key `training.best_by`: found {training['best_by']}, but {what}. Expected {expected}."
        )
    if detects:
        from pipeline_lib.tasks.detection.scores import SIZES  # imports numba

        ratios = settings["network"].get("aspect_ratios") or ()
        if turned := [b for n, b in enumerate(ratios) if any(b in (a, 1 / a) for a in ratios[:n])]:
            raise InputError(
                f"config key `network.aspect_ratios`: {turned[0]:g} is there twice, because boxes are also "
                "turned by 90 degrees. Remove it."
            )

        if taken := [name for name in settings["dataset"].get("classes") or () if name in SIZES]:
            raise InputError(
                f"config key `dataset.classes`: {taken[0]} is the name of a size of objects in the scores of "
                "boxes. Choose another name for the class."
            )
    pixelwise = {
        "training.loss_mask": training.get("loss_mask") is not None,
        "training.sampling": training.get("sampling") == "class_balanced",
        "training.affinities": bool(training.get("affinities")),
    }
    boxes = {"augmentation.smallest_window": "smallest_window" in settings["augmentation"]}
    if (jitter := settings["augmentation"].get("section_jitter")) and not plan.context_sections:
        raise InputError(
            f"config key `augmentation.section_jitter`: found {jitter:g}, but the network sees no "
            "neighbouring sections. Remove it, or set `network: {context_sections: 1}`."
        )
    for key, chosen in (pixelwise if detects else boxes).items():
        if chosen:
            raise InputError(f"config key `{key}`: not possible here, because {what}. Remove it.")
    if detects:
        return
    if offsets := offsets_of(settings):
        plan.require_tile(training["tile"], "training.tile")
        output = plan.geometry.output_size(training["tile"])
        longest = max(offsets, key=lambda offset: max(map(abs, offset)))
        if max(map(abs, longest)) >= output:
            raise InputError(
                f"config key `training.affinities`: found the offset {[*longest]}, expected offsets shorter "
                f"than the output of a training tile ({output} px), because no pair would be learned. "
                "Increase `training.tile`, or write a list of shorter offsets."
            )
    learned = bool(training.get("affinities"))
    mutex = settings["segmentation"]["method"] == "mutex_watershed"
    if mutex and not learned:
        raise InputError(
            "config key `segmentation.method`: found mutex_watershed, which needs affinities that the "
            "network learned. Add `training: {affinities: true}`, or choose another method."
        )
    predicted = learned and (mutex or "model" not in settings)
    if predicted and settings["prediction"]["match_pixel_size"]:
        raise InputError(
            "config key `prediction.match_pixel_size`: not possible with affinities, which belong to "
            "distances in pixels and cannot be resampled. Set it to false, or train without affinities."
        )


def warnings(models: Mapping[str, Model], given: Json) -> list[str]:
    """Return what users should know about the settings of a run, one line each.

    Parameters
    ----------
    models : dict of str to Model
        All models of the run.
    given : dict
        Settings as read from a config file.

    Returns
    -------
    list of str
        Settings without effect, and settings that do the same thing twice.
    """
    study = given.get("study") or {}
    found = []
    sections = [
        given.get("training"),
        *(own.get("training") for own in study.get("variants", {}).values() if own),
    ]
    unused = {key for section in sections if section for key in section} & {
        "iterations",
        "validation_interval",
    }
    if study.get("minutes") and unused:
        names = " and ".join(f"training.{key}" for key in sorted(unused))
        found.append(f"study.minutes: {names} {'has' if len(unused) == 1 else 'have'} no effect")
    for name, model in first_with(models, "variant").items():
        if model.detects:
            continue
        training, weights = model.settings["training"], model.settings["weight_map"]
        if training.get("sampling") == "class_balanced" and weights["class_balance"]:
            of = f"study.variants.{name}: " if study else ""
            found.append(
                f"warning: {of}rare classes count more by `training.sampling: class_balanced`, and again by "
                "`weight_map.class_balance`. Set `weight_map: {class_balance: false}`."
            )
    return found


def neighbours_note(plan: Plan, volumes: Mapping[str, Volume], shapes: Mapping[str, Sequence[int]]) -> str:
    """Return what a network sees instead of neighbouring sections that volumes do not have.

    Parameters
    ----------
    plan : Plan
        Plan of the network.
    volumes : dict of str to Volume
        Rows of the table of volumes.
    shapes : dict of str to (z, y, x)
        Shape of each volume.

    Returns
    -------
    str
        One line for the user. Empty if the network sees each section alone, or all volumes are stacks of
        adjacent sections.
    """
    single = [name for name, shape in shapes.items() if shape[0] == 1]
    apart = [
        f"{before.stop - 1} and {after.start} of {name}"
        for name, volume in volumes.items()
        for before, after in itertools.pairwise(section_ranges(volume.sections) or ())
        if before.stop < after.start
    ]
    if not plan.context_sections or not (single or apart):
        return ""
    number = several(plan.context_sections, "section")
    found = f"context_sections: {plan.name} sees {number} before and after each."
    if single:
        some = f"{single[0]} and {len(single) - 1} more volumes have" if single[1:] else f"{single[0]} has"
        found += f" {some} a single section, which takes the place of its neighbours."
    if apart:
        more = f" and {len(apart) - 1} more pairs" if apart[1:] else ""
        found += f" Sections that are not adjacent in the file are taken for neighbours: {apart[0]}{more}."
    return found


def _hash(settings: object) -> str:
    """Return a short name of settings, which does not depend on other models of the run."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def first_with(models: Mapping[str, Model], attribute: str) -> dict[str, Model]:
    """Return the first model that has each value of an attribute, by value.

    Parameters
    ----------
    models : dict of str to Model
        All models.
    attribute : str
        Name of the attribute, such as `weight_map`.

    Returns
    -------
    dict of str to Model
        The models.
    """
    found: dict[str, Model] = {}
    for model in models.values():
        found.setdefault(getattr(model, attribute), model)
    return found
