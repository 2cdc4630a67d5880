"""Compare the fraction of constant pixels with a count level by level."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline_lib import metrics
from pipeline_lib.runtime.errors import InputError

SHAPE = 2, 3, 4
levels = st.sampled_from([0, 1, 127, 128, 254, 255])


@given(
    arrays(bool, SHAPE),
    arrays(np.uint8, SHAPE, elements=levels),
    arrays(bool, SHAPE),
    st.booleans(),
)
def test_the_fraction_is_that_of_the_level_most_common_in_both_classes(cells, level, ignore, with_ignore):
    """A probability of level / 256 plus less than 1/256 has this level."""
    ignore = ignore if with_ignore else None
    counted = np.ones(SHAPE, bool) if ignore is None else ~ignore
    expected = 0.0
    for value in range(256):
        here = (level == value) & counted
        inside, outside = (counted & cells).sum(), (counted & ~cells).sum()
        if inside and outside:
            fractions = (here & cells).sum() / inside, (here & ~cells).sum() / outside
            expected = max(expected, min(fractions))
    probability = (level + np.linspace(0, 0.99, level.size).reshape(SHAPE)) / 256
    assert metrics.constant_pixels(cells, probability, ignore=ignore) == expected


def test_large_sections_are_counted_in_bands_of_rows():
    rng = np.random.default_rng(0)
    cells, probability = rng.random((600, 7)) < 0.5, np.full((600, 7), 0.4)
    ignore = np.zeros((600, 7))
    ignore[300:] = 1
    assert metrics.constant_pixels(cells, probability) == 1
    probability[500:] = 0.7
    expected = min((probability[cells] == 0.4).mean(), (probability[~cells] == 0.4).mean())
    assert metrics.constant_pixels(cells, probability) == expected
    assert metrics.constant_pixels(cells, probability, ignore=ignore) == 1


def test_maps_of_8_bits_and_values_that_are_not_annotated_are_accepted():
    cells = np.array([[1, 1, 0, 0]])
    assert metrics.constant_pixels(cells, np.array([[90, 9, 90, 90]], np.uint8)) == 0.5
    probability = np.array([[0.4, np.nan, 0.4, 0.4]])
    assert metrics.constant_pixels(cells, probability, ignore=np.array([[0, 1, 0, 0]])) == 1
    with pytest.raises(InputError, match="shape"):
        metrics.constant_pixels(cells, probability[:, :2])


def test_a_stack_whose_pixels_are_all_ignored_has_no_pixel_error():
    cells = np.ones((2, 3, 4), np.uint8)
    assert np.isnan(metrics.pixel_error(cells, cells, ignore=cells))
