"""Charts of detections: precision, recall and FROC at all score thresholds, and numbers of objects."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline_lib.figures.charts import LINES, WIDTH
from pipeline_lib.figures.sheet import FAINT_INK, PAPER, STYLE, new_figure, save_chart
from pipeline_lib.metrics import FROC_RATES, BoxMatches, count_errors, detection_scores
from pipeline_lib.runtime.types import Json

HEIGHT = 440  # px, of one chart
MARKERS = ("o", "s", "^")


def save_curve_chart(
    matches: Mapping[str, BoxMatches], threshold: float, output: str | Path, *, record: Json
) -> None:
    """Write the chart of `curve_chart` as SVG.

    Parameters
    ----------
    matches : dict of str to BoxMatches
        Matches of all sections of each split.
    threshold : float
        Chosen score threshold.
    output : str or Path
        SVG file to write. Its description has the `scores` of each split, all sections together.
    record : dict
        Provenance record to store in the picture.
    """
    scores = {split: detection_scores(own, threshold) for split, own in matches.items()}
    facts = {"title": "Precision, recall and false detections", "scores": scores, "provenance": record}
    with matplotlib.rc_context(STYLE):
        save_chart(curve_chart(matches, threshold), output, facts)


def save_count_chart(
    matches: Mapping[str, BoxMatches], threshold: float, output: str | Path, *, record: Json
) -> None:
    """Write the chart of `count_chart` as SVG.

    Parameters
    ----------
    matches : dict of str to BoxMatches
        Matches of all sections of each split.
    threshold : float
        Chosen score threshold.
    output : str or Path
        SVG file to write.
    record : dict
        Provenance record to store in the picture.
    """
    with matplotlib.rc_context(STYLE):
        facts = {"title": "Numbers of objects", "provenance": record}
        save_chart(count_chart(matches, threshold), output, facts)


def curve_chart(matches: Mapping[str, BoxMatches], threshold: float) -> Figure:
    """Draw precision against recall, and recall against the false detections of a section (FROC).

    Parameters
    ----------
    matches : dict of str to BoxMatches
        Matches of all sections of each split.
    threshold : float
        Score threshold, which is marked on each curve.

    Returns
    -------
    matplotlib.figure.Figure
        The two charts, one below the other.
    """
    figure, (precision, froc) = _charts()
    lowest = FROC_RATES[0] / 2
    rightmost = 2 * FROC_RATES[-1]
    for (colour, line), marker, (split, own) in zip(cycle(LINES), cycle(MARKERS), matches.items()):
        curve = own.curve()
        at = curve.at(threshold)
        precision.plot(curve.recall, curve.precision, line, color=colour, label=split)
        # the highest recall with each number of false detections
        last = np.flatnonzero(np.diff(curve.false, append=curve.false[-1] + 1))
        rates = np.append(curve.false_per_section[last], rightmost).clip(lowest)
        recall = np.append(curve.recall[last], curve.recall[-1])
        froc.plot(rates, recall, line, color=colour, drawstyle="steps-post")
        for axes, x, y in (
            (precision, curve.recall[at], curve.precision[at]),
            (froc, max(curve.false_per_section[at], lowest), curve.recall[at]),
        ):
            axes.plot(x, y, marker, color=colour, markersize=11, markeredgecolor=PAPER)
    precision.set(
        title=f"precision against recall; markers: score threshold {threshold:.2f}",
        xlabel="recall: share of the annotated objects that are found",
        ylabel="share of true detections",
        xlim=(0, 1.01),
        ylim=(0, 1.02),
    )
    froc.set(
        title="FROC: recall against false detections",
        xlabel="false detections in a section, mean",
        ylabel="recall",
        xscale="log",
        xlim=(lowest, rightmost),
        ylim=(0, 1.02),
    )
    froc.set_xticks(FROC_RATES, [f"{rate:g}" if rate >= 1 else f"1/{1 / rate:g}" for rate in FROC_RATES])
    froc.minorticks_off()
    figure.legend(*precision.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def count_chart(matches: Mapping[str, BoxMatches], threshold: float) -> Figure:
    """Draw the number of detections of each section against that of its annotated objects, and Bland-Altman.

    Parameters
    ----------
    matches : dict of str to BoxMatches
        Matches of all sections of each split. The lines of the second chart are those of the first split.
    threshold : float
        Smallest score of the detections that are counted.

    Returns
    -------
    matplotlib.figure.Figure
        Detections against objects, with the diagonal; and below it their difference against their mean, with
        the mean difference and the limits of agreement (`metrics.count_errors`).
    """
    figure, (scatter, agreement) = _charts()
    counts = {split: own.counts(threshold) for split, own in matches.items()}
    highest = max(max(truth.max(), found.max()) for truth, found in counts.values())
    scatter.plot([0, highest], [0, highest], "-", color=FAINT_INK, linewidth=1.5)
    for (colour, _), marker, (split, (truth, found)) in zip(cycle(LINES), cycle(MARKERS), counts.items()):
        style: dict[str, Any] = {"color": colour, "markersize": 9, "markeredgecolor": PAPER, "alpha": 0.8}
        scatter.plot(truth, found, marker, label=split, **style)
        agreement.plot((truth + found) / 2, found - truth, marker, **style)
    first = next(iter(counts))
    errors = count_errors(*counts[first])
    mean, low, high = (errors[name] for name in ("count_difference", "count_limit_low", "count_limit_high"))
    agreement.axhline(0, color=FAINT_INK, linewidth=1.5)
    colour = LINES[0][0]
    agreement.axhline(mean, color=colour, linestyle="-")
    title = f"difference, {first} split: mean {mean:+.2f}"
    if np.isfinite(low):
        agreement.axhline(low, color=colour, linestyle="--")
        agreement.axhline(high, color=colour, linestyle="--")
        title += f", 95 % limits {low:+.1f} and {high:+.1f}"
    scatter.set(
        title="objects in each section",
        xlabel="annotated",
        ylabel="detected",
        xlim=(0, None),
        ylim=(0, None),
    )
    agreement.set(title=title, xlabel="mean of annotated and detected", ylabel="detected - annotated")
    agreement.set_xlim(0, None)
    for axis in (scatter.xaxis, scatter.yaxis, agreement.xaxis, agreement.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True))
    figure.legend(*scatter.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _charts() -> tuple[Figure, list[Axes]]:
    """Return a figure with two empty charts, one below the other."""
    figure = new_figure(WIDTH, 2 * HEIGHT + 80)
    figure.set_layout_engine("constrained", h_pad=0.12)
    return figure, list(figure.subplots(2, 1))
