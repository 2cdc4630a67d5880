"""Formats of numbers and settings on the HTML pages."""

import pytest

from pipeline_lib.pages import digits, duration, setting, size


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9087654, "0.909"),
        (0.041, "0.041"),
        (0.00123456, "0.0012"),
        (0, "0.000"),
        (1, "1.000"),
        (float("nan"), "n/a"),
    ],
)
def test_scores_have_three_decimals_and_small_ones_two_digits(value, text):
    assert digits(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "40 ms"),
        (0.0999, "0.1 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_have_a_suitable_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3400, "3.4 kB"),
        (9960, "10 kB"),
        (999_600, "1.0 MB"),
        (34e6, "34 MB"),
        (2.1e9, "2.1 GB"),
        (4e12, "4000 GB"),
    ],
)
def test_sizes_have_a_suitable_unit(count, text):
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"), [("unet", "unet"), (True, "true"), ([2, 5.0], "[2, 5.0]"), (None, "null")]
)
def test_settings_are_shown_as_in_the_configuration(value, text):
    assert setting(value) == text
