import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline_lib.weights import class_weights, distance_sum, weight_map

LABELS = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    elements=st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 3, 9]),
)


def slow_distance_sum(labels):
    """One distance transform per cell, then the two smallest."""
    cells = [k for k in np.unique(labels) if k]
    if len(cells) < 2:
        return np.full(labels.shape, np.inf)
    distances = np.sort([ndimage.distance_transform_edt(labels != k) for k in cells], axis=0)
    return np.where(labels > 0, np.inf, distances[0] + distances[1])


@settings(deadline=None, max_examples=300)
@given(LABELS)
def test_two_passes_equal_one_distance_transform_per_cell(labels):
    np.testing.assert_allclose(distance_sum(labels), slow_distance_sum(labels), rtol=1e-15)


@settings(deadline=None)
@given(LABELS, st.floats(0.5, 8), st.floats(0, 20), st.floats(0.05, 0.95))
def test_weight_map_is_exact_to_float32(labels, sigma, w0, cell_share):
    w_c = class_weights(np.array([1 - cell_share, cell_share]))
    with np.errstate(over="ignore"):
        term = np.where(labels > 0, 0, w0 * np.exp(-(slow_distance_sum(labels) ** 2) / (2 * sigma**2)))
    expected = np.where(labels > 0, w_c[1], w_c[0]) + term
    np.testing.assert_allclose(weight_map(labels, w_c, w0, sigma), expected, rtol=1.2e-7)


def test_many_cells_over_a_wide_gap():
    rng = np.random.default_rng(0)
    labels = np.zeros((150, 130), np.int32)
    for k, (y, x) in enumerate(rng.integers(0, 120, (60, 2))):
        labels[y : y + 3, x : x + 4] = k + 1
    labels[40:100] = 0
    np.testing.assert_allclose(distance_sum(labels), slow_distance_sum(labels), rtol=1e-15)


def test_the_weight_is_highest_in_the_narrowest_gap():
    labels = np.zeros((9, 30), np.int32)
    labels[:, :5], labels[:, 6:15], labels[:, 22:] = 1, 2, 3
    w = weight_map(labels, np.array([1.0, 1.0]), 10.0, 5.0)[4]
    assert w[5] == pytest.approx(1 + 10 * np.exp(-((1 + 1) ** 2) / 50))
    assert w[5] > w[18] > 1
    assert (w[labels[4] > 0] == 1).all()


def test_class_weights_average_to_one_over_the_training_pixels():
    frequencies = np.array([0.22, 0.78])
    assert class_weights(frequencies) @ frequencies == pytest.approx(1)
    assert class_weights(frequencies)[0] == pytest.approx(0.5 / 0.22)
