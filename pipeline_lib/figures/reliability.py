"""Geometry of a reliability diagram for an SVG chart inside a page."""

from __future__ import annotations

import math

from pipeline_lib.metrics import Reliability
from pipeline_lib.runtime.types import Json

WIDTH, HEIGHT = 440, 510  # of the chart with its labels, in units of the drawing
LEFT, TOP = 64, 12  # margins
SIDE = 364  # of the square in which both axes go from 0 to 1
BARS = 72  # height of the bars below it
GAP = 16  # between square and bars
LEAST = 1e-4  # share of the pixels at which a bar has the height 0; the scale is logarithmic


def reliability_chart(found: Reliability) -> Json:
    """Return the parts of a chart as coordinates of a drawing of `WIDTH` x `HEIGHT`.

    Parameters
    ----------
    found : Reliability
        Sums over the pixels of each bin.

    Returns
    -------
    dict
        `inside` and `below` (x, y, width and height of the square and of the area of the bars), `ticks`
        (position from the left, position from the top, and label, for both axes of the square), `shares`
        (position from the top and label of the ticks of the bars), and `bins`: for each bin its `low` and
        `high` end, `pixels` and their share `of_all`, the `bar` (x, y, width and height), and, if it has
        pixels, the mean `predicted` probability, the `observed` share of cells, and their place `at` (x, y).
    """
    inside, below = [LEFT, TOP, SIDE, SIDE], [LEFT, TOP + SIDE + GAP, SIDE, BARS]
    floor = below[1] + BARS

    def across(p: float) -> float:
        return round(LEFT + p * SIDE, 1)

    def up(share: float) -> float:
        return round(TOP + (1 - share) * SIDE, 1)

    def top_of_bar(share: float) -> float:
        height = 1 - math.log(max(share, LEAST)) / math.log(LEAST)
        return round(floor - height * BARS, 1)

    total, number = found.pixels.sum(), len(found.pixels)
    bins = []
    for k, (pixels, cells, probability) in enumerate(
        zip(found.pixels, found.cells, found.probability, strict=True)
    ):
        low, high, of_all = k / number, (k + 1) / number, pixels / total
        top = top_of_bar(of_all)
        one: Json = {"low": low, "high": high, "pixels": int(pixels), "of_all": float(of_all)}
        one["bar"] = [across(low) + 1, top, round(SIDE / number - 2, 1), round(floor - top, 1)]
        if pixels:
            one |= {"predicted": float(probability / pixels), "observed": float(cells / pixels)}
            one["at"] = [across(one["predicted"]), up(one["observed"])]
        bins.append(one)
    values = [k / 5 for k in range(6)]
    return {
        "inside": inside,
        "below": below,
        "ticks": [(across(value), up(value), f"{value:g}") for value in values],
        "shares": [(top_of_bar(share), f"{100 * share:g} %") for share in (1, 1e-2, LEAST)],
        "bins": bins,
    }
