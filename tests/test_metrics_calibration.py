"""Compare the calibration of probability maps with a count pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline_lib import metrics
from pipeline_lib.metrics.calibration import BINS
from pipeline_lib.runtime.errors import InputError

SHAPE = 2, 3, 4
EDGES = [np.float32(k / BINS) for k in range(BINS + 1)]
probabilities = st.sampled_from(
    [*EDGES, *(np.nextafter(edge, np.float32(0)) for edge in EDGES[1:])]
) | st.floats(0, 1, width=32)


def counted(cells, probability, ignore):
    """Return the sums of each bin, one pixel at a time, and both scores."""
    sums = np.zeros((4, BINS))
    for place in np.ndindex(cells.shape):
        if ignore is not None and ignore[place]:
            continue
        p, y = float(probability[place]), int(cells[place])
        [k] = [k for k in range(BINS) if k <= p * BINS < k + 1 or (p == 1 and k == BINS - 1)]
        sums[:, k] += 1, y, p, (p - y) ** 2
    total = sums[0].sum()
    if not total:
        return sums, {"brier_score": math.nan, "calibration_error": math.nan}
    error = 0.0
    for pixels, inside, p, _ in sums.T:
        if pixels:
            error += pixels / total * abs(p / pixels - inside / pixels)
    return sums, {"brier_score": sums[3].sum() / total, "calibration_error": error}


@given(
    arrays(bool, SHAPE),
    arrays(np.float32, SHAPE, elements=probabilities),
    arrays(bool, SHAPE),
    st.booleans(),
)
def test_bins_and_scores_equal_a_count_pixel_by_pixel(cells, probability, ignore, with_ignore):
    ignore = ignore if with_ignore else None
    sums, scores = counted(cells, probability, ignore)
    found = metrics.reliability(cells, probability, ignore=ignore)
    np.testing.assert_allclose(list(vars(found).values()), sums, atol=1e-12)
    assert found.scores() == pytest.approx(scores, abs=1e-12, nan_ok=True)
    again = metrics.Reliability.from_rows(found.to_rows() | {"seg": 1.0})
    assert all(np.array_equal(a, b) for a, b in zip(vars(again).values(), vars(found).values(), strict=True))
    parts = [
        metrics.reliability(cells[z], probability[z], ignore=None if ignore is None else ignore[z])
        for z in range(2)
    ]
    for whole, *pair in zip(*(vars(own).values() for own in (found, *parts)), strict=True):
        np.testing.assert_allclose(whole, sum(pair), atol=1e-12)


def test_a_true_probability_has_no_calibration_error_and_a_wrong_one_its_size():
    rng = np.random.default_rng(0)
    p = rng.random((1, 1000, 1000))
    cells = rng.random(p.shape) < p
    right = metrics.reliability(cells, p).scores()
    assert right["calibration_error"] < 2e-3
    assert right["brier_score"] == pytest.approx(1 / 6, abs=1e-3)  # the mean of p (1 - p)
    low = metrics.reliability(cells, p**2).scores()
    assert low["calibration_error"] == pytest.approx(1 / 6, abs=2e-3)  # the mean of p - p^2
    assert low["brier_score"] > right["brier_score"]


def test_maps_of_8_bits_and_values_that_are_not_annotated_are_accepted():
    cells = np.array([[1, 1, 0, 0]])
    found = metrics.reliability(cells, np.array([[255, 51, 0, 26]], np.uint8))
    np.testing.assert_array_equal(found.pixels, [1, 1, 1, 0, 0, 0, 0, 0, 0, 1])
    probability = np.array([[0.4, np.nan, 0.4, 0.4]])
    found = metrics.reliability(cells, probability, ignore=np.array([[0, 1, 0, 0]]))
    assert found.pixels.sum() == 3 and found.cells.sum() == 1
    assert metrics.Reliability.from_rows({"seg": 1.0}) is None
    with pytest.raises(InputError, match="shape"):
        metrics.reliability(cells, probability[:, :2])


def test_large_sections_are_counted_in_bands_of_rows():
    rng = np.random.default_rng(0)
    cells, p, ignore = (rng.random((600, 7)) for _ in range(3))
    cells, ignore = cells < p, ignore < 0.3
    found = metrics.reliability(cells, p, ignore=ignore)
    known = p[~ignore].astype(np.float32)
    np.testing.assert_array_equal(found.pixels, np.histogram(known, np.linspace(0, 1, BINS + 1))[0])
    assert found.cells.sum() == cells[~ignore].sum()
    assert found.probability.sum() == pytest.approx(known.sum(dtype=float))


@pytest.mark.parametrize("score", [metrics.reliability, metrics.constant_pixels])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([65535, 100], np.uint16), "dtype uint16, expected floats in 0..1"),
        (np.array([-5.0, 250.0]), "at row 300, column 1 of section 0"),
        (np.array([np.nan, 0.5]), "NaN or infinite values in section 0"),
    ],
)
def test_maps_of_other_values_are_refused(score, values, message):
    cells = np.zeros((301, 2), bool)
    probability = np.zeros(cells.shape, values.dtype)
    probability[300] = values
    with pytest.raises(InputError, match=message):
        score(cells, probability)
    if values.dtype.kind == "f":  # nothing is read where pixels are ignored
        ignored = np.zeros(cells.shape, bool)
        ignored[300] = True
        score(cells, probability, ignore=ignored)


def test_a_table_without_one_of_the_rows_has_no_reliability():
    rows = metrics.reliability(np.array([[1, 0]]), np.array([[0.9, 0.2]])).to_rows()
    assert metrics.Reliability.from_rows(rows) is not None
    for name in rows:
        assert metrics.Reliability.from_rows({key: rows[key] for key in rows if key != name}) is None
