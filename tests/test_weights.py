import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.tasks.segmentation.weights import class_weights, halo, weight_map

LABELS = hnp.arrays(
    np.int32,
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    elements=st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 3, 9]),
)
W_C = np.array([2.0, 0.7])
SEEDS = st.integers(0, 2**32 - 1)


def slow_weight_map(labels, w_c, w0, sigma):
    """Compute one distance transform per cell and use the two smallest distances."""
    cells = [k for k in np.unique(labels) if k]
    weights = np.where(labels > 0, w_c[1], w_c[0])
    if len(cells) < 2:
        return weights
    distances = np.sort([ndimage.distance_transform_edt(labels != k) for k in cells], axis=0)
    term = w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return weights + np.where(labels > 0, 0, term)


def scattered(seed):
    """Draw a random number of rectangles on a section that is larger than a strip and a block."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(rng.integers(100, 200, 2), np.int32)
    for k in range(rng.integers(2, 40)):
        y, x = rng.integers(0, labels.shape)
        labels[y : y + rng.integers(1, 30), x : x + rng.integers(1, 30)] = k + 1
    return labels


@settings(deadline=None, max_examples=300)
@given(LABELS, st.floats(0.2, 30), st.floats(0, 20), st.floats(0.05, 0.95))
def test_weight_map_is_exact_to_float32(labels, sigma, w0, cell_share):
    w_c = class_weights(np.array([1 - cell_share, cell_share]))
    expected = slow_weight_map(labels, w_c, w0, sigma)
    np.testing.assert_allclose(weight_map(labels, w_c, w0, sigma), expected, rtol=1.2e-7)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.5, 40))
def test_weight_map_of_larger_sections_is_exact_to_float32(seed, sigma):
    labels = scattered(seed)
    np.testing.assert_allclose(
        weight_map(labels, W_C, 10, sigma), slow_weight_map(labels, W_C, 10, sigma), rtol=1.2e-7
    )


@pytest.mark.parametrize("sigma", [1e3, 1e6])
def test_sigma_may_be_larger_than_the_section(sigma):
    labels = np.zeros((3, 90), np.int32)
    labels[0, 0], labels[2, -1] = 1, 2
    expected = slow_weight_map(labels, W_C, 10, sigma)
    np.testing.assert_allclose(weight_map(labels, W_C, 10, sigma), expected, rtol=1.2e-7)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.5, 8), st.data())
def test_block_with_its_halo_has_the_weights_of_the_whole_section(seed, sigma, data):
    labels = scattered(seed)
    margin = halo(W_C, 10, sigma)
    (top, bottom), (left, right) = (
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True)))
        for n in labels.shape
    )
    y, x = max(top - margin, 0), max(left - margin, 0)
    around = weight_map(labels[y : bottom + margin, x : right + margin], W_C, 10, sigma)
    block = around[top - y : bottom - y, left - x : right - x]
    np.testing.assert_array_equal(block, weight_map(labels, W_C, 10, sigma)[top:bottom, left:right])


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.floats(0.5, 8), st.integers(3, 120))
def test_weights_do_not_depend_on_the_blocks(seed, sigma, side):
    labels = scattered(seed)
    found = np.empty(labels.shape, np.float32)
    for block in blocks(labels.shape, side, halo(W_C, 10, sigma)):
        found[block.write] = weight_map(labels[block.read], W_C, 10, sigma)[block.crop]
    np.testing.assert_array_equal(found, weight_map(labels, W_C, 10, sigma))


def test_labels_may_be_as_large_as_uint32_allows():
    labels = np.zeros((1, 30), np.uint32)
    labels[0, 0], labels[0, 9], labels[0, 19] = 1, 2, 3
    large = np.where(labels > 1, labels + np.uint32(2**32 - 4), labels)
    assert large.max() == 2**32 - 1
    np.testing.assert_array_equal(weight_map(large, W_C, 10, 5), weight_map(labels, W_C, 10, 5))


def test_cell_at_the_edge_of_the_halo_counts():
    labels = np.zeros((1, 60), np.int32)
    labels[0, 0], labels[0, halo(W_C, 10, 5) - 1 :] = 1, 2
    assert weight_map(labels, W_C, 10, 5)[0, 1] > W_C[0]


def test_weight_is_highest_in_the_narrowest_gap():
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
