"""Choose the settings of a config by what images and annotations contain."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline_lib import memory, networks
from pipeline_lib.projects.splits import Row
from pipeline_lib.projects.survey import Survey
from pipeline_lib.runtime.types import Json

ORIENTATIONS = 8
FORWARD = 0.4  # time of a prediction tile, as a share of the time of a training step on it
JOBS = 60  # s of a run outside of training and prediction: starts of jobs, scores, figures
VALIDATIONS = 16  # of a training
FEWEST, MOST = 100, 20_000  # iterations
MEMORY = 8e9  # bytes, the default of `memory_gb`


class Choice(NamedTuple):
    """A setting and the reason for its value.

    Parameters
    ----------
    section : str
        Section of the config, or "" for a key outside of sections.
    key : str
        Name of the setting.
    value : bool, int, float, str or dict
        Its value.
    reason : str
        Why it has this value, for a comment.
    """

    section: str
    key: str
    value: bool | int | float | str | Json
    reason: str


@dataclass(frozen=True)
class Network:
    """The network, tile and device that were chosen, before the speed is measured.

    Parameters
    ----------
    choices : list of Choice
        Settings of the sections `network`, `training` and `augmentation`.
    context : int
        Context of the network (px).
    output : int
        Side of the output of a training tile (px).
    """

    choices: list[Choice]
    context: int
    output: int

    def section(self, name: str) -> Json:
        """Return the settings of a section.

        Parameters
        ----------
        name : str
            Name of the section.

        Returns
        -------
        dict
            Name of each setting to its value.
        """
        return {choice.key: choice.value for choice in self.choices if choice.section == name}


def infer_preset(survey: Survey) -> tuple[str, str]:
    """Return the preset that fits, and the reason.

    Parameters
    ----------
    survey : Survey
        What the images and annotations contain.

    Returns
    -------
    tuple of str
        Kind of images: "membranes", "nuclei" or "cells", and why.
    """
    if survey.kind.endswith("membranes") and survey.share > 0.5:
        return "membranes", f"two values, and cells cover {survey.share:.0%} of the pixels"
    if survey.contrast > 1 and survey.share < 0.5 and survey.channels == 1:
        return "nuclei", f"bright objects that cover {survey.share:.0%} of dark images"
    return "cells", f"cells cover {survey.share:.0%} of the pixels and are not just bright on dark"


def choose_network(survey: Survey, preset: str, gpu: bool) -> Network:
    """Choose network, tile, optimiser and augmentation.

    Parameters
    ----------
    survey : Survey
        What the images and annotations contain.
    preset : str
        Kind of images: "membranes", "nuclei" or "cells".
    gpu : bool
        Whether this machine has a GPU that torch can use.

    Returns
    -------
    Network
        The choices.
    """
    diameter = survey.diameter
    depth = 3 if not gpu and diameter <= 80 else 4
    base = 64 if gpu else 16
    plan = networks.plan("unet", depth=depth, base_channels=base, image_channels=survey.channels)
    side = min(min(height, width) for _, height, width in survey.shapes)
    output = min(side, 388 if gpu else 212)
    tile = plan.geometry.input_size(output)
    seen = f"sees {plan.geometry.context} px around a pixel; cells are about {diameter:.0f} px wide"
    choices = [
        Choice("network", "depth", depth, seen),
        Choice(
            "network",
            "base_channels",
            base,
            "the paper's" if gpu else "a quarter of the paper's: fast on a CPU",
        ),
        Choice(
            "network",
            "dropout",
            0.5 if gpu else 0.2,
            "the paper's" if gpu else "a small network has fewer channels to lose",
        ),
    ]
    if preset == "nuclei" or survey.exposure > 2:
        why = "wide: " + (
            f"the brightest image is {survey.exposure:.1f} times as bright as the darkest"
            if survey.exposure > 2
            else "exposure differs between images of nuclei"
        )
        choices += [Choice("augmentation", "gain", 0.5, why), Choice("augmentation", "gamma", 0.3, why)]
    choices += [
        Choice(
            "training",
            "tile",
            tile,
            f"px; its output has {plan.geometry.output_size(tile)} px, the smallest image {side} px",
        ),
        Choice("training", "optimizer", "adam", "gets further than SGD in few iterations"),
        Choice("training", "learning_rate", 0.001, "usual for adam"),
        Choice(
            "training", "device", "auto" if gpu else "cpu", "a GPU was found" if gpu else "no GPU was found"
        ),
    ]
    return Network(choices, plan.geometry.context, plan.geometry.output_size(tile))


def choose_settings(
    survey: Survey,
    preset: str,
    network: Network,
    rows: Sequence[Row],
    pixels: Callable[[Row], int],
    seconds_per_iteration: float,
    minutes: float,
) -> list[Choice]:
    """Choose all settings that follow from the images, and the iterations for a given time.

    Parameters
    ----------
    survey : Survey
        What the images and annotations contain.
    preset : str
        Kind of images: "membranes", "nuclei" or "cells".
    network : Network
        Result of `choose_network`.
    rows : sequence of Row
        Table of volumes.
    pixels : callable
        Function that returns the number of pixels of a row.
    seconds_per_iteration : float
        Measured speed of the training (s).
    minutes : float
        Time that a run may take (min).

    Returns
    -------
    list of Choice
        The settings, section by section.
    """
    d = survey.diameter
    choices = [Choice("dataset", "annotation_kind", survey.kind, survey.evidence)]
    if survey.channels > 1:
        choices.append(Choice("dataset", "channels", survey.channels, "of all images"))
    border = 1 if d < 8 else 2 if d <= 80 else 4
    touch = f"px; {survey.touching:.0%} of the cells touch another one, and cells are about {d:.0f} px wide"
    choices.append(Choice("dataset", "separation_border_width", border, touch))
    if math.isnan(survey.gap):
        sigma, why = max(2.0, min(5.0, d / 4)), "px; no two cells are near each other"
    else:
        sigma = max(2.0, min(survey.gap, max(5.0, d / 10)))
        why = f"px; narrow gaps between cells measure {survey.gap:.1f} px from cell to cell"
        if sigma < survey.gap:
            why += ", but wider would reach into cells of this size"
    choices.append(Choice("weight_map", "sigma", round(sigma, 1), why))
    if preset != "membranes" and survey.share < 0.3:
        why = f"cells cover {survey.share:.0%} of the pixels; with balance they become too large"
        choices.append(Choice("weight_map", "class_balance", False, why))
    choices += network.choices
    tiles = dict.fromkeys(("validation", "test", "predict"), 0.0)
    for row in rows:
        if row.split in tiles:
            tiles[row.split] += max(pixels(row) / network.output**2, 1)
    per_tile = FORWARD * seconds_per_iteration
    predicted = sum(tiles.values()) * per_tile
    average = ORIENTATIONS * predicted < 0.25 * 60 * minutes
    left = 60 * minutes - JOBS - predicted * (ORIENTATIONS if average else 1)
    left -= VALIDATIONS * tiles["validation"] * per_tile
    wanted = left / seconds_per_iteration
    iterations = _rounded(min(max(wanted, FEWEST), MOST))
    why = f"a run of about {minutes:g} min at {seconds_per_iteration:.2g} s per iteration, measured here"
    if wanted < FEWEST:
        why = f"fewer would be useless; {minutes:g} min are too short at {seconds_per_iteration:.2g} s each"
    elif wanted > MOST:
        why = f"more rarely help; takes less than {minutes:g} min here"
    choices += [
        Choice("training", "iterations", iterations, why),
        *_warm_up(iterations),
        Choice("training", "validation_interval", _rounded(max(iterations / VALIDATIONS, 10)), "iterations"),
        Choice(
            "prediction",
            "average_orientations",
            average,
            "8 rotations and mirror images: better, and takes little of the time"
            if average
            else "8 rotations and mirror images would take 8 times as long; true for final results",
        ),
        Choice("prediction", "device", str(network.section("training")["device"]), "as above"),
    ]
    criterion = "rand_error" if preset == "membranes" else "seg"
    why = "for cells that fill the image" if preset == "membranes" else "for separate objects"
    if all(memory.labelling("", shape[1:], "watershed").bytes < MEMORY for shape in survey.shapes):
        choices.append(Choice("segmentation", "method", "watershed", "separates touching cells"))
    choices.append(Choice("segmentation", "criterion", criterion, f"selects the thresholds, {why}"))
    typical = math.pi * d**2 / 4
    if survey.smallest / 2 <= typical / 10:
        smallest, why = (
            survey.smallest / 2,
            f"half the area of small annotated cells, {survey.smallest:.0f} px",
        )
    else:
        smallest, why = typical / 10, f"a tenth of the area of an annotated cell, {typical:.0f} px"
    why = f"px; {why}"
    choices.append(Choice("segmentation", "minimum_size", round(smallest), why))
    return choices


def _warm_up(iterations: int) -> list[Choice]:
    """Return a shorter warm-up than the default of 100 iterations for a short training."""
    if iterations >= 1000:
        return []
    return [Choice("training", "warm_up", iterations // 10, "a tenth of the iterations")]


def _rounded(number: float) -> int:
    """Return a number with two significant digits."""
    return int(float(f"{number:.2g}"))
