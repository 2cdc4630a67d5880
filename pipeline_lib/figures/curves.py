"""Geometry of learning curves for an SVG chart inside a page, where a reader can emphasise single lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from pipeline_lib.figures.palette import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from pipeline_lib.runtime.types import Json

WIDTH, HEIGHT = 560, 320  # of the chart with its labels, in units of the drawing
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 10, 44  # margins
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
DASHES = ("none", "7 3", "2 3", "9 3 2 3")


class Curve(NamedTuple):
    """A line of a chart.

    Parameters
    ----------
    x, y : array of float
        Coordinates of its points.
    """

    x: np.ndarray
    y: np.ndarray


def line_style(number: int) -> tuple[str, str]:
    """Return colour and dashes of a line; those of the first 24 numbers differ."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def curves_chart(curves: Mapping[str, Sequence[Curve]], *, logarithmic: bool = False) -> Json:
    """Return the lines and ticks of a chart as coordinates of a drawing of `WIDTH` x `HEIGHT`.

    Parameters
    ----------
    curves : dict of str to sequence of Curve
        Lines of each variant.
    logarithmic : bool, default False
        Whether the y axis is logarithmic. Otherwise it leaves out the tenth of the values that is lowest, but
        not the last value of a line, so that the end of the curves is visible.

    Returns
    -------
    dict
        `lines` (variant -> list of points as text), `x` and `y` (lists of position and label of each tick),
        and `inside` (x, y, width and height of the area of the lines).
    """
    drawn = [curve for own in curves.values() for curve in own]
    across = np.concatenate([curve.x for curve in drawn])
    up = np.concatenate([curve.y for curve in drawn])
    up = up[np.isfinite(up)]
    scale = np.log10 if logarithmic else np.asarray
    ends = [curve.y[np.isfinite(curve.y)][-1:] for curve in drawn]
    least = up if logarithmic else np.append(np.concatenate(ends), np.quantile(up, 0.1))
    low, high = least.min(), up.max()
    if low == high:
        low, high = low * 0.9, high * 1.1 or 1.0
    end = across.max() or 1.0
    inside = [LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM]

    def place(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = (scale(y) - scale(low)) / (scale(high) - scale(low))
        return inside[0] + x / end * inside[2], inside[1] + (1 - share) * inside[3]

    def points(curve: Curve) -> str:
        known = np.isfinite(curve.y)
        return " ".join(
            f"{x:.1f},{y:.1f}" for x, y in zip(*place(curve.x[known], curve.y[known]), strict=True)
        )

    locator = LogLocator(subs=(1, 2, 5)) if logarithmic else MaxNLocator(6)
    ticks = [t for t in locator.tick_values(low, high) if low <= t <= high]
    x_ticks = [t for t in MaxNLocator(6).tick_values(0, end) if 0 <= t <= end]
    return {
        "lines": {name: [points(curve) for curve in own] for name, own in curves.items()},
        "x": [(round(float(place(np.array(t), np.array(low))[0]), 1), f"{t:,g}") for t in x_ticks],
        "y": [(round(float(place(np.array(0), np.array(t))[1]), 1), f"{t:g}") for t in ticks],
        "inside": inside,
    }
