"""Outlines contain exactly the pixels of a cell, and are simple polygons."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pipeline_lib.kernels.outlines import pixel_outlines

masks = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def crossings(ring, y, x):
    """Number of edges of a ring that are crossed from the middle of a pixel to the right."""
    count = 0
    for (x0, y0), (x1, y1) in zip(ring, ring[1:] + ring[:1], strict=True):
        if x0 == x1 and x0 > x + 0.5 and min(y0, y1) < y + 0.5 < max(y0, y1):
            count += 1
    return count


def area(ring):
    x, y = np.array(ring).T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y)) / 2


@given(masks)
def test_polygons_contain_exactly_the_pixels_of_their_parts(mask):
    parts, number = ndimage.label(mask)
    polygons = pixel_outlines(mask)
    assert len(polygons) == number
    found = np.zeros(mask.shape, int)
    for k, rings in enumerate(polygons, 1):
        for y, x in np.ndindex(mask.shape):
            if sum(crossings(ring, y, x) for ring in rings) % 2:
                assert not found[y, x]
                found[y, x] = k
    np.testing.assert_array_equal(found > 0, mask)
    sizes = np.bincount(found.ravel(), minlength=number + 1)[1:]
    assert (np.diff(sizes) <= 0).all()  # the largest first
    for k in range(1, number + 1):
        assert len(np.unique(parts[found == k])) == 1


@given(masks)
def test_rings_are_simple_and_the_first_one_is_the_outer_one(mask):
    for rings in pixel_outlines(mask):
        assert area(rings[0]) > 0 and all(area(ring) < 0 for ring in rings[1:])
        for ring in rings:
            assert len({*ring}) == len(ring) >= 4  # no corner twice
            steps = np.diff([*ring, ring[0]], axis=0)
            assert ((steps == 0).sum(axis=1) == 1).all()  # along rows and columns
            turns = np.roll(steps, -1, axis=0)
            assert (steps * turns == 0).all()  # only corners at which it turns
        assert sum(map(area, rings)) > 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["x"], [1]),
        (["x.", ".x"], [1, 1]),  # two parts
        (["xx", "xx"], [1]),
        (["xxx", "x.x", "xxx"], [2]),  # a hole
        (["xxxx", "x.xx", "xx.x", "xxxx"], [3]),  # two holes that touch at a corner
        (["xxx.", "x.xx", "xxx."], [2]),
        ([".xx", "x.x", "xxx"], [2]),  # the part touches itself at a corner, so it has a hole
        ([".."], []),
    ],
)
def test_numbers_of_rings(rows, expected):
    mask = np.array([[letter == "x" for letter in row] for row in rows])
    assert [len(rings) for rings in pixel_outlines(mask)] == expected
