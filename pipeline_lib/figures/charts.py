"""Charts of a training and of scores at all thresholds, one below the other to be readable on phones."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_lib.figures.palette import BLUE, GREEN, ORANGE, VERMILLION
from pipeline_lib.figures.sheet import INK, PAPER, STYLE, new_figure, save_chart
from pipeline_lib.runtime.types import Json

WIDTH, HEIGHT = 720, 300  # px, of one chart
NAMES = {
    "rand_error": "Rand error",
    "pixel_error": "pixel error",
    "warping_error": "warping error",
    "v_rand_thin": "V-Rand after thinning",
    "seg": "SEG",
}
#: Validation scores in the history of a training, and their charts.
VALIDATED = {
    "validation_v_rand_thin": "validation V-Rand after thinning, at its best threshold",
    "validation_box_ap_50": "validation AP at an IoU of 0.5",
    "validation_box_ap": "validation AP, mean over IoU 0.5 to 0.95",
}
ERRORS = ("rand_error", "pixel_error", "warping_error")
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))


def save_training_chart(history: pd.DataFrame, output: str | Path, *, record: Json) -> None:
    """Write the charts of `training_chart` as SVG.

    Parameters
    ----------
    history : pandas.DataFrame
        Training history.
    output : str or Path
        SVG file to write.
    record : dict
        Provenance record to store in the picture.
    """
    facts = {"title": "Training curves", "provenance": record}
    with matplotlib.rc_context(STYLE):
        save_chart(training_chart(history), output, facts)


def save_threshold_chart(
    scores: pd.DataFrame, chosen: dict[str, Json], output: str | Path, *, record: Json
) -> None:
    """Write the chart of `threshold_chart` as SVG.

    Parameters
    ----------
    scores : pandas.DataFrame
        Table of scores.
    chosen : dict of str to dict
        Chosen threshold of each network, as for `threshold_chart`.
    output : str or Path
        SVG file to write.
    record : dict
        Provenance record to store in the picture.
    """
    facts = {"title": "Error against threshold", "provenance": record}
    with matplotlib.rc_context(STYLE):
        save_chart(threshold_chart(scores, chosen), output, facts)


def training_chart(history: pd.DataFrame) -> Figure:
    """Draw losses, validation scores and learning rate over the iterations.

    Parameters
    ----------
    history : pandas.DataFrame
        Training history, one row per validation.

    Returns
    -------
    matplotlib.figure.Figure
        A chart of the losses, one of each of the scores `VALIDATED` in the history, and one of the learning
        rate.
    """
    table = history.set_index("iteration")
    marker = "o" if len(table) < 20 else ""
    validated = {column: title for column, title in VALIDATED.items() if column in table}
    figure, (loss, *scores, rate) = _charts(2 + len(validated))
    loss.plot(table.training_loss, color=BLUE, marker=marker, label="training")
    loss.plot(table.validation_loss, "--", color=VERMILLION, marker=marker, label="validation")
    loss.set(title="loss", ylim=(0, None))
    for axes, (column, title) in zip(scores, validated.items(), strict=True):
        axes.plot(table[column], "--", color=VERMILLION, marker=marker)
        axes.set(title=title, ylim=(None, 1))
    rate.plot(table.learning_rate, color=INK, marker=marker)
    rate.set(title="learning rate", ylim=(0, None), xlabel="iteration")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def threshold_chart(scores: pd.DataFrame, chosen: dict[str, Json]) -> Figure:
    """Draw scores against the threshold, and mark the chosen thresholds.

    The first chart shows the criterion by which the thresholds were chosen on the validation split. One chart
    for each of `ERRORS` follows: the mean over the volumes of the test split or, without test volumes, of the
    validation split.

    Parameters
    ----------
    scores : pandas.DataFrame
        Table of scores with the columns `scores.COLUMNS`.
    chosen : dict of str to dict
        Content of the post-processing file of each network: `threshold`, `criterion`, `grid`, `value`.

    Returns
    -------
    matplotlib.figure.Figure
        The charts, one below the other.
    """
    split = "test" if (scores.split == "test").any() else "validation"
    means = scores[scores.split == split].groupby(["metric", "network", "threshold"]).value.mean()
    figure, charts = _charts(1 + len(ERRORS))
    for (colour, line), (network, found) in zip(cycle(LINES), chosen.items(), strict=False):
        t = found["threshold"]
        curves = [pd.Series(found["value"], found["grid"]), *(means[metric, network] for metric in ERRORS)]
        for axes, curve in zip(charts, curves, strict=True):
            axes.plot(curve, line, color=colour, label=network.replace("_", " "))
            at = np.interp(t, curve.index, curve)
            axes.plot(t, at, "o", color=colour, markersize=11, markeredgecolor=PAPER)
    titles = [
        f"{NAMES[found['criterion']]}, validation split: used for the choice",
        *(f"{NAMES[metric]}, {split} split" for metric in ERRORS),
    ]
    for axes, title in zip(charts, titles, strict=True):
        axes.set(title=title, xlim=(0, 1), ylim=(0, None))
    charts[-1].set_xlabel("threshold of the cell probability")
    figure.legend(*charts[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _charts(number: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with `number` empty charts, one below the other, that share their x axis."""
    figure = new_figure(WIDTH, HEIGHT * number + 80)
    figure.set_layout_engine("constrained", h_pad=0.12)
    return figure, list(figure.subplots(number, 1, sharex=True))
