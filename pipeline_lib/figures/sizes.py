"""Geometry of a chart of the sizes of cells, for an SVG inside a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline_lib.runtime.types import Json

WIDTH, HEIGHT = 560, 260  # of the chart with its labels, in units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 46  # margins
BINS = 24
SHOWN = 0.98  # share of the cells in the bins; the last bin also has all larger ones


def sizes_chart(counts: Mapping[str, Sequence[int]], scale: float = 1.0) -> Json:
    """Return outlines of histograms of diameters as coordinates of a drawing of `WIDTH` x `HEIGHT`.

    Parameters
    ----------
    counts : dict of str to sequence of int
        How many cells of each kind have a diameter of 0, 1, 2 ... px.
    scale : float, default 1
        Unit of the axis per px.

    Returns
    -------
    dict
        `outlines` (kind -> points as text), `medians` (kind -> median diameter in units, None without cells),
        `x` and `y` (lists of position and label of each tick), and `inside` (x, y, width and height of the
        area of the histograms).

    Examples
    --------
    >>> from pipeline_lib.figures.sizes import sizes_chart
    >>> sizes_chart({"found": [0, 0, 3, 1]}, scale=0.5)["medians"]
    {'found': 1.25}
    """
    kinds = {name: np.asarray(own, np.int64) for name, own in counts.items()}
    longest = max(map(len, kinds.values()))
    kinds = {name: np.pad(own, (0, longest - len(own))) for name, own in kinds.items()}
    total = np.sum([*kinds.values()], axis=0)
    end = int(np.searchsorted(np.cumsum(total), SHOWN * total.sum())) + 1
    width = max(-(-end // BINS), 1)
    number = -(-end // width)
    bins = {
        name: np.append(own[: number * width], np.zeros(max(number * width - longest, 0), np.int64))
        .reshape(number, width)
        .sum(1)
        for name, own in kinds.items()
    }
    for name, own in kinds.items():
        bins[name][-1] += own[number * width :].sum()
    highest = max(int(own.max()) for own in bins.values()) or 1
    inside = [LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM]

    def across(diameter: float) -> float:
        return round(LEFT + inside[2] * diameter / (number * width), 1)

    def up(count: float) -> float:
        return round(TOP + inside[3] * (1 - count / highest), 1)

    def outline(own: np.ndarray) -> str:
        corners = [(across(0), up(0))]
        for k, count in enumerate(own):
            corners += [(across(k * width), up(count)), (across((k + 1) * width), up(count))]
        return " ".join(f"{x},{y}" for x, y in [*corners, (across(number * width), up(0))])

    def median(own: np.ndarray) -> float | None:
        if not own.sum():
            return None
        return float(scale * (np.searchsorted(np.cumsum(own), own.sum() / 2) + 0.5))

    last = number * width * scale
    return {
        "outlines": {name: outline(own) for name, own in bins.items()},
        "medians": {name: median(own) for name, own in kinds.items()},
        "x": [(across(t / scale), f"{t:g}") for t in _ticks(last, 7)],
        "y": [(up(t), f"{t:,.0f}") for t in _ticks(highest, 4, least=1)],
        "inside": inside,
    }


def _ticks(end: float, most: int, least: float = 0.0) -> list[float]:
    """Return at most `most` + 1 ticks from 0 to `end`, at steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(end / most))
    step = max(next(digit * power for digit in (1, 2, 5, 10) if digit * power * most >= end), least)
    return [round(k * step, 10) for k in range(int(end / step * (1 + 1e-9)) + 1)]
