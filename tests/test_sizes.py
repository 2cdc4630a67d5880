"""The chart of the sizes of cells: every cell is in one bin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.figures.sizes import BINS, sizes_chart

counts = st.lists(st.integers(0, 9), min_size=1, max_size=90)


@given(counts, counts, st.sampled_from([1.0, 0.25]))
def test_the_outline_contains_all_cells(annotated, found, scale):
    if not any(annotated + found):
        return
    chart = sizes_chart({"annotated": annotated, "found": found}, scale)
    x, y, width, height = chart["inside"]
    heights = {}
    for name in ("annotated", "found"):
        points = np.array([point.split(",") for point in chart["outlines"][name].split()], float)
        assert points[:, 0].min() == x and points[:, 0].max() == pytest.approx(x + width, abs=0.1)
        assert (points[[0, -1], 1] == y + height).all()
        heights[name] = (y + height - points[1:-1:2, 1]) / height
        assert len(heights[name]) <= BINS
        np.testing.assert_array_equal(points[1:-1:2, 1], points[2:-1:2, 1])  # level in each bin
    highest = max(own.max() for own in heights.values())
    assert highest == 1
    # the area of an outline is the number of its cells
    shares = {name: own.sum() for name, own in heights.items()}
    total = sum(annotated) * shares["found"], sum(found) * shares["annotated"]
    assert total[0] == pytest.approx(total[1], rel=0.05, abs=2)


def test_medians_are_those_of_the_cells():
    chart = sizes_chart({"annotated": [0] * 10 + [5], "found": [0, 1, 0, 1, 0, 1]}, 0.5)
    assert chart["medians"] == {"annotated": 5.25, "found": 1.75}
    assert sizes_chart({"annotated": [0, 3], "found": []})["medians"]["found"] is None


def test_ticks_are_in_the_unit_of_the_axis():
    chart = sizes_chart({"found": [1] * 40}, 0.5)
    places, labels = zip(*chart["x"], strict=True)
    steps = np.diff([float(label) for label in labels]), np.diff(places)
    x, _, width, _ = chart["inside"]
    assert steps[1] / steps[0] == pytest.approx(width / 20, rel=0.01)  # 40 px are 20 units
    assert places[0] == x
