"""Speed stage: measure what a variant of a study costs, and how many iterations fit into a given time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib import networks, provenance, tasks
from pipeline_lib.data.affinities import chosen_offsets
from pipeline_lib.networks.cost import multiply_adds
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json
from pipeline_lib.training import VALIDATIONS
from pipeline_lib.training.speed import measure_prediction, measure_speed

ROUNDS = 3  # the fastest counts, because other programs can only make it slower


def measure(
    output: str | Path,
    *,
    network: Json,
    training: Json,
    augmentation: Json,
    channels: int = 1,
    classes: Sequence[str] = (),
    cells: Sequence[str] = (),
    minutes: float | None = None,
    threads: int = 1,
) -> None:
    """Measure the speed of training and prediction, and count parameters and operations.

    Times depend on the machine and on what else runs on it. Measure each variant once, on an idle machine:
    the training depends on the file, not on a clock, so that it can be repeated with the same result.

    Parameters
    ----------
    output : str or Path
        JSON file to write, with the keys `parameters`, `multiply_adds` (per pixel of a prediction),
        `seconds_per_iteration`, `seconds_per_megapixel` (of a prediction) and `schedule`: the settings
        `iterations` and `validation_interval` of a training that takes `minutes`, or nothing.
    network, training, augmentation : dict
        Sections of the config.
    channels : int, default 1
        Number of channels of the images.
    classes, cells : sequence of str, optional
        Names of the classes, and of those whose pixels belong to cells, as for `tasks.load`.
    minutes : float, optional
        Training time, without validations.
    threads : int, default 1
        Number of CPU threads.

    Raises
    ------
    InputError
        If the settings do not fit the network, or there is no GPU though `training.device` is `cuda`.
    """
    settings: Json = {"network": network, "training": training, "augmentation": augmentation}
    with provenance.making("measure_speed", [output], [], **settings, minutes=minutes):
        of_classes: Json = {"classes": classes, "cells": cells} if len(classes) > 2 else {}
        offsets = chosen_offsets(training.get("affinities"))
        task = tasks.load(networks.plan_type(network["name"]).task, **of_classes, offsets=offsets)
        plan = networks.plan(**network, image_channels=channels, classes=task.classes).example()
        per_iteration = min(
            measure_speed(network, training, augmentation, channels=channels, **of_classes, threads=threads)
            for _ in range(ROUNDS)
        )
        schedule = {}
        if minutes is not None:
            iterations = max(round(minutes * 60 / per_iteration), 1)
            schedule = {
                "iterations": iterations,
                "validation_interval": -(-iterations // VALIDATIONS),
            }
        found = {
            "parameters": plan.parameters,
            "multiply_adds": multiply_adds(plan),
            "seconds_per_iteration": per_iteration,
            "seconds_per_megapixel": measure_prediction(
                plan, precision=training["precision"], device=training["device"], threads=threads
            ),
            "schedule": schedule,
        }
        write_json(output, found)
    logger.info(
        "%.3g s per iteration%s, %.3g s per megapixel of a prediction",
        per_iteration,
        f", {schedule['iterations']:,} iterations in {minutes:g} min" if schedule else "",
        found["seconds_per_megapixel"],
    )
