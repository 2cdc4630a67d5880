"""Estimate what a run would cost: time on this machine and disk space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import h5py

from pipeline_lib import imageio, layout, networks
from pipeline_lib.data.affinities import chosen_offsets
from pipeline_lib.projects.proposal import FORWARD, JOBS, ORIENTATIONS
from pipeline_lib.runtime.log import several
from pipeline_lib.runtime.types import Json
from pipeline_lib.tasks.segmentation.classes import Classes
from pipeline_lib.training import VALIDATIONS

SCORING = 10e-6  # s per pixel: choice of the threshold, and scores of network and baselines (two cores, ISBI)
# Bytes per pixel of the files that a run writes for each kind of volume, without compression
DATASET, WEIGHT_MAP, PREDICTION, LABELS = 6, 4, 4, 4
STARTS = 15  # s for the starts of the jobs of each further model


def describe_run(
    settings: Mapping[str, Json],
    shapes: Mapping[str, tuple[int, int, int]],
    splits: Mapping[str, str],
    datasets: Mapping[str, Path],
    per_step: Mapping[str, float],
) -> str:
    """Return the number of sections and cells, and about how long and large a run would be, in one line.

    Parameters
    ----------
    settings : dict of str to dict
        Complete settings of each variant of the run.
    shapes : dict of str to tuple of int
        Shape (z, y, x) of each volume.
    splits : dict of str to str
        Split of each volume.
    datasets : dict of str to Path
        Dataset file of each volume, which exists.
    per_step : dict of str to float
        Seconds per iteration of the training of each variant, from `training.speed.measure_speed`.

    Returns
    -------
    str
        For example `60 sections, 3,431 cells: about 25 min on this machine (training: 24 min), at most 0.53
        GB of disk`.
    """
    config = next(iter(settings.values()))
    alike = (1 + len(config["seeds"])) * config.get("folds", 1)  # trainings of each variant
    averaged = bool(config.get("ensemble"))

    def pixels(*chosen: str) -> int:
        return sum(math.prod(shapes[name]) for name in shapes if splits[name] in chosen)

    held_out, new = pixels("validation", "test"), pixels("predict")
    scored = held_out * SCORING
    train = finish = 0.0
    disk = pixels(*splits.values()) * (DATASET + WEIGHT_MAP + PREDICTION + LABELS)
    for name, own in settings.items():
        training, prediction = own["training"], own["prediction"]
        classes = Classes.chosen(own["dataset"])
        channels = imageio.number_of(own["dataset"]["channels"])
        plan = networks.plan(**own["network"], image_channels=channels, classes=len(classes))
        pixels_per_step = training["batch"] * plan.geometry.output_size(training["tile"]) ** 2
        per_pixel = per_step[name] / pixels_per_step * FORWARD
        validations = math.ceil(training["iterations"] / training["validation_interval"])
        steps = training["iterations"] * per_step[name]
        if minutes := own.get("study", {}).get("minutes"):
            validations, steps = VALIDATIONS, minutes * 60
        validated = pixels("validation")
        validated += (training.get("batch_normalisation_tiles") or 0) * pixels_per_step // training["batch"]
        train += alike * (steps + validations * validated * per_pixel)
        orientations = ORIENTATIONS if prediction["average_orientations"] else 1
        finish += alike * (held_out * per_pixel * orientations + scored)
        further = (alike - 1 + averaged) * held_out  # pixels of predictions beside the first of a volume
        if own is config:  # only the first variant predicts new volumes, by one network or by all
            finish += (alike if averaged else 1) * new * per_pixel * orientations
            further += alike * averaged * new
        if classes.several:  # their target, probabilities and map
            disk += pixels(*splits.values()) * (1 + PREDICTION * len(classes) + 1)
            disk += further * PREDICTION * len(classes)
        affinities = len(chosen_offsets(training.get("affinities")))
        disk += (pixels(*splits.values()) + further) * PREDICTION * affinities
    if averaged:  # scores, and the files of the mean and the disagreement
        finish += scored
        disk += (held_out + new) * (2 * PREDICTION + LABELS) + alike * new * PREDICTION
    number = alike * len(settings)
    disk += (number + 2) * held_out * (PREDICTION + LABELS)  # 2 baselines
    sections = sum(shape[0] for shape in shapes.values())
    whole = JOBS + (number - 1) * STARTS + train + finish
    return (
        f"{several(sections, 'section')}, {several(_cells(datasets), 'cell')}: about "
        f"{_duration(whole)} on this machine (training: {_duration(train / number)}"
        f"{f' for each of {number} models' if number > 1 else ''}), at most {disk / 1e9:.2g} GB of disk"
    )


def _cells(datasets: Mapping[str, Path]) -> int:
    number = 0
    for path in datasets.values():
        with h5py.File(path) as file:
            annotation = layout.findings(file)["annotation"]
        number += annotation["cells"]["number"] if annotation else 0
    return number


def _duration(seconds: float) -> str:
    """Return a rough duration: 40 s, 12 min, 3.5 h or 4 days."""
    for limit, unit, name in ((99, 1, "s"), (5400, 60, "min"), (2 * 86_400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds / 86_400:.0f} days"
