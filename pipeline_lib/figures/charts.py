"""Charts: training curves and error against threshold, under each other for phones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline_lib.figures.colouring import BLUE, GREEN, ORANGE, VERMILLION
from pipeline_lib.figures.sheet import INK, PAPER, STYLE, new_figure, save_png
from pipeline_lib.files import read_json

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


def draw_training(history: Path, output: Path) -> None:
    """Draw losses, validation Rand error and learning rate of `history` (CSV) over the iterations (PNG)."""
    table = pd.read_csv(history).set_index("iteration")
    marker = "o" if len(table) < 20 else ""
    with matplotlib.rc_context(STYLE):
        figure, (loss, rand_error, rate) = _charts(3)
        loss.plot(table.training_loss, color=BLUE, marker=marker, label="training")
        loss.plot(table.validation_loss, "--", color=VERMILLION, marker=marker, label="validation")
        loss.set(title="loss", ylim=(0, None))
        figure.legend(*loss.get_legend_handles_labels(), loc="outside upper left", ncols=2)
        rand_error.plot(table.validation_rand_error, "--", color=VERMILLION, marker=marker)
        rand_error.set(title="validation Rand error at threshold 0.5", ylim=(0, None))
        rate.plot(table.learning_rate, color=INK, marker=marker)
        rate.set(title="learning rate", ylim=(0, None), xlabel="iteration")
        save_png(figure, output, {"title": "Training curves"})


def draw_thresholds(scores: Path, thresholds: Sequence[Path], output: Path) -> None:
    """Draw error against threshold for each classifier, the threshold chosen for it marked (PNG).

    `thresholds` are files <network>.json, the network's first. The first chart has the criterion by which
    they were chosen on the validation split, the others have `scores` (CSV), means over the volumes of the
    test split or, without one, of the validation split.
    """
    table = pd.read_csv(scores)
    split = "test" if (table.split == "test").any() else "validation"
    means = table[table.split == split].groupby(["metric", "network", "threshold"]).value.mean()
    with matplotlib.rc_context(STYLE):
        figure, (chosen_by, *charts) = _charts(1 + len(ERRORS))
        for (colour, line), path in zip(cycle(LINES), thresholds, strict=False):
            found, name = read_json(path), path.stem
            t = found["threshold"]
            curves = [pd.Series(found["value"], found["grid"]), *(means[metric, name] for metric in ERRORS)]
            for axes, curve in zip((chosen_by, *charts), curves, strict=True):
                axes.plot(curve, line, color=colour, label=name.replace("_", " "))
                at = np.interp(t, curve.index, curve)
                axes.plot(t, at, "o", color=colour, markersize=11, markeredgecolor=PAPER)
        chosen_by.set(title=f"{NAMES[found['criterion']]}, validation split: chosen here")
        figure.legend(*chosen_by.get_legend_handles_labels(), loc="outside upper left", ncols=3)
        for axes, metric in zip(charts, ERRORS, strict=True):
            axes.set(title=f"{NAMES[metric]}, {split} split")
        for axes in (chosen_by, *charts):
            axes.set(xlim=(0, 1), ylim=(0, None))
        axes.set_xlabel("threshold of the cell probability")
        save_png(figure, output, {"title": "Error against threshold"})


def _charts(number: int) -> tuple[Figure, list[Axes]]:
    """Charts under each other that share their x axis."""
    figure = new_figure(WIDTH, HEIGHT * number + 80)
    figure.set_layout_engine("constrained", h_pad=0.12)
    return figure, list(figure.subplots(number, 1, sharex=True))
