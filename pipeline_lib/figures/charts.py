"""Charts: training curves and error against threshold, under each other for phones."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_lib.figures.colouring import BLUE, GREEN, ORANGE, VERMILLION
from pipeline_lib.figures.sheet import INK, PAPER, STYLE, new_figure, save_png

WIDTH, HEIGHT = 720, 300  # px, of one chart
NAMES = {
    "rand_error": "Rand error",
    "pixel_error": "pixel error",
    "warping_error": "warping error",
    "v_rand_thin": "V-Rand after thinning",
    "seg": "SEG",
}
ERRORS = ("rand_error", "pixel_error", "warping_error")
LINES = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))


def save_training_chart(history: pd.DataFrame, output: Path, *, record: dict[str, Any]) -> None:
    """Write the `training_chart` of `history` (PNG), with `record` as its `provenance`."""
    facts = {"title": "Training curves", "provenance": record}
    with matplotlib.rc_context(STYLE):
        save_png(training_chart(history), output, facts)


def save_threshold_chart(
    scores: pd.DataFrame, chosen: dict[str, dict[str, Any]], output: Path, *, record: dict[str, Any]
) -> None:
    """Write the `threshold_chart` of `scores` (PNG), with `record` as its `provenance`."""
    facts = {"title": "Error against threshold", "provenance": record}
    with matplotlib.rc_context(STYLE):
        save_png(threshold_chart(scores, chosen), output, facts)


def training_chart(history: pd.DataFrame) -> Figure:
    """Three charts: losses, validation V-Rand, learning rate."""
    table = history.set_index("iteration")
    marker = "o" if len(table) < 20 else ""
    figure, (loss, v_rand, rate) = _charts(3)
    loss.plot(table.training_loss, color=BLUE, marker=marker, label="training")
    loss.plot(table.validation_loss, "--", color=VERMILLION, marker=marker, label="validation")
    loss.set(title="loss", ylim=(0, None))
    v_rand.plot(table.validation_v_rand_thin, "--", color=VERMILLION, marker=marker)
    v_rand.set(title="validation V-Rand, thinned, at its best threshold", ylim=(None, 1))
    rate.plot(table.learning_rate, color=INK, marker=marker)
    rate.set(title="learning rate", ylim=(0, None), xlabel="iteration")
    figure.legend(*loss.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


def threshold_chart(scores: pd.DataFrame, chosen: dict[str, dict[str, Any]]) -> Figure:
    """One chart of the criterion by which thresholds were chosen on the validation split, and one per error.

    `chosen` has, by network, what choosing its threshold wrote. Errors are means over the volumes of the test
    split in `scores` or, without one, of the validation split.
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
        f"{NAMES[found['criterion']]}, validation split: chosen here",
        *(f"{NAMES[metric]}, {split} split" for metric in ERRORS),
    ]
    for axes, title in zip(charts, titles, strict=True):
        axes.set(title=title, xlim=(0, 1), ylim=(0, None))
    charts[-1].set_xlabel("threshold of the cell probability")
    figure.legend(*charts[0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _charts(number: int) -> tuple[Figure, list[Axes]]:
    """Charts under each other that share their x axis."""
    figure = new_figure(WIDTH, HEIGHT * number + 80)
    figure.set_layout_engine("constrained", h_pad=0.12)
    return figure, list(figure.subplots(number, 1, sharex=True))
