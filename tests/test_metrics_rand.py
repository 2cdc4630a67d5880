"""Compare contingency tables, Rand and information scores with counts of single pixels or pairs."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import adapted_rand_error, variation_of_information

from pipeline_lib import metrics
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, unrestricted_pairs
from pipeline_lib.runtime.errors import InputError

shapes = st.tuples(st.integers(1, 6), st.integers(1, 7))
pairs_of_labels = shapes.flatmap(
    lambda shape: st.tuples(*[arrays(np.uint16, shape, elements=st.integers(0, 4))] * 2)
)
LABELS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 0, 0], [3, 3, 3, 3]])


def one_table(labels, predicted):
    (table,) = metrics.contingency_tables(labels, predicted)
    return table


def singletons(labels, predicted):
    """Return truth and prediction inside true cells; each pixel predicted as background is a segment."""
    inside = labels > 0
    own = predicted[inside].astype(int)
    return labels[inside].astype(int), np.where(own > 0, own, -1 - np.arange(own.size))


def count_each_pair(truth, predicted):
    pixels = zip(truth, predicted, strict=True)
    together = Counter((a == b, c == d) for (a, c), (b, d) in combinations(pixels, 2))
    return [together[key] for key in ((True, True), (False, False), (False, True), (True, False))]


def entropy(*labels):
    counts = np.array(list(Counter(zip(*labels, strict=True)).values()))
    p = counts / counts.sum()
    return -(p * np.log(p)).sum()


@given(pairs_of_labels)
def test_table_counts_each_pair_of_labels_once(labels):
    table = one_table(*labels)
    entries = dict(zip(zip(table.truth, table.predicted, strict=True), table.count, strict=True))
    assert len(entries) == len(table.count)
    assert entries == Counter(zip(*(array.ravel().tolist() for array in labels), strict=True))


def test_table_grows_with_pairs_of_labels_not_with_their_product():
    """300 000 cells on each side: a dense table would take 720 GB."""
    labels = np.arange(300_000, dtype=np.int32).reshape(600, 500)
    table = one_table(labels, labels[::-1])
    assert table.count.size == 300_000
    assert (table.count == 1).all()
    np.testing.assert_array_equal(table.truth, labels.ravel())
    np.testing.assert_array_equal(table.predicted, labels[::-1].ravel())


@pytest.mark.parametrize("offset", [0, 1])
def test_scores_do_not_depend_on_the_size_of_labels(offset):
    small = np.array([[offset, 1 + offset, 1 + offset], [2, 2, 3]])
    huge = small.astype(np.uint64) * np.uint64(2**60)
    for other in (small, np.array([[1, 1, 0], [2, 0, 2]])):
        assert metrics.instance_scores(huge, other) == metrics.instance_scores(small, other)
        assert metrics.instance_scores(other, huge) == metrics.instance_scores(other, small)


@given(pairs_of_labels)
def test_pairs_equal_those_counted_one_by_one(labels):
    counts = foreground_pairs(one_table(*labels))
    assert [counts.tp, counts.tn, counts.fp, counts.fn] == count_each_pair(*singletons(*labels))
    counts = unrestricted_pairs(one_table(*labels))
    expected = count_each_pair(*(array.ravel() for array in labels))
    assert [counts.tp, counts.tn, counts.fp, counts.fn] == expected


@given(pairs_of_labels)
def test_squares_count_ordered_pairs_and_each_pixel_with_itself(labels):
    truth, predicted = singletons(*labels)
    assume(truth.size)
    tp, tn, fp, fn = count_each_pair(truth, predicted)
    counts = foreground_squares(one_table(*labels))
    assert [counts.tp, counts.tn, counts.fp, counts.fn] == [2 * tp + truth.size, 2 * tn, 2 * fp, 2 * fn]


@given(pairs_of_labels)
def test_pixels_equal_those_counted_one_by_one(labels):
    truth, predicted = (array > 0 for array in labels)
    counts = pixel_counts(one_table(*labels))
    expected = [truth & predicted, ~truth & ~predicted, ~truth & predicted, truth & ~predicted]
    assert [counts.tp, counts.tn, counts.fp, counts.fn] == [which.sum() for which in expected]


@given(pairs_of_labels)
def test_variation_of_information_equals_that_of_the_pixels(labels):
    truth, predicted = singletons(*labels)
    assume(truth.size)
    joint = entropy(truth, predicted)
    assert metrics.vi_split(*labels) == pytest.approx(joint - entropy(truth), abs=1e-12)
    assert metrics.vi_merge(*labels) == pytest.approx(joint - entropy(predicted), abs=1e-12)


@given(pairs_of_labels)
def test_agrees_with_scikit_image_without_predicted_background(labels):
    """scikit-image treats predicted background as one segment; without it the definitions are the same.

    Its adapted Rand error counts pairs as `rand_error` does. It is NaN if no two pixels have the same label.
    """
    truth, predicted = labels[0], labels[1] + 1
    assume(np.bincount(truth[truth > 0], minlength=1).max() > 1)
    assume(np.bincount(predicted[truth > 0]).max() > 1)
    assert metrics.rand_error(truth, predicted) == pytest.approx(adapted_rand_error(truth, predicted)[0])
    merge, split = variation_of_information(predicted[truth > 0], truth[truth > 0]) * np.log(2)
    assert metrics.vi_split(truth, predicted) == pytest.approx(split, abs=1e-12)
    assert metrics.vi_merge(truth, predicted) == pytest.approx(merge, abs=1e-12)


def test_predicted_background_is_not_one_segment_as_in_scikit_image():
    predicted = np.zeros_like(LABELS)
    assert metrics.rand_error(LABELS, predicted) == 1
    assert adapted_rand_error(LABELS, predicted)[0] < 1


@given(pairs_of_labels, st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_numbers_of_labels(labels, random):
    truth, predicted = labels
    renamed = np.array([0, *random.sample(range(1, 1000), 4)])
    expected = pytest.approx(metrics.instance_scores(truth, predicted), nan_ok=True)
    assert metrics.instance_scores(renamed[truth], predicted) == expected
    assert metrics.instance_scores(truth, renamed[predicted]) == expected


def test_truth_against_itself_is_perfect():
    assert metrics.rand_error(LABELS, LABELS) == metrics.adapted_rand_error(LABELS, LABELS) == 0
    assert metrics.vi_split(LABELS, LABELS) == metrics.vi_merge(LABELS, LABELS) == 0
    assert metrics.v_rand(LABELS, LABELS) == metrics.v_info(LABELS, LABELS) == 1
    assert metrics.pixel_error(LABELS, LABELS) == 0


def test_pure_split_costs_only_recall():
    predicted = LABELS.copy()
    predicted[3, 2:] = 4
    table = one_table(LABELS, predicted)
    for counts in (foreground_pairs(table), foreground_squares(table)):
        assert counts.precision == 1
        assert counts.recall < 1
    assert metrics.vi_split(LABELS, predicted) == pytest.approx(np.log(2) / 3)
    assert metrics.vi_merge(LABELS, predicted) == 0


def test_pure_merge_costs_only_precision():
    predicted = np.where(LABELS == 2, 1, LABELS)
    table = one_table(LABELS, predicted)
    for counts in (foreground_pairs(table), foreground_squares(table)):
        assert counts.recall == 1
        assert counts.precision < 1
    assert metrics.vi_merge(LABELS, predicted) == pytest.approx(np.log(2) * 2 / 3)
    assert metrics.vi_split(LABELS, predicted) == 0


def test_prediction_on_the_true_background_costs_nothing():
    spilled = np.where(LABELS == 0, 1, LABELS)
    assert metrics.rand_error(LABELS, spilled) == metrics.adapted_rand_error(LABELS, spilled) == 0
    assert metrics.vi_merge(LABELS, spilled) == 0


def test_sections_are_pooled_for_rand_and_averaged_for_information():
    truth, predicted = np.stack([LABELS, LABELS]), np.stack([LABELS, np.minimum(LABELS, 1)])
    merged = foreground_pairs(one_table(LABELS, np.minimum(LABELS, 1)))
    perfect = foreground_pairs(one_table(LABELS, LABELS))
    assert metrics.rand_error(truth, predicted) == pytest.approx(1 - (merged + perfect).f_score)
    assert metrics.vi_merge(truth, predicted) == pytest.approx(metrics.vi_merge(truth[1], predicted[1]) / 2)
    assert metrics.v_rand(truth, predicted) == pytest.approx((1 + metrics.v_rand(truth[1], predicted[1])) / 2)


def test_sections_without_cells_are_left_out():
    empty = np.zeros_like(LABELS)
    truth, predicted = np.stack([empty, LABELS]), np.stack([LABELS, np.minimum(LABELS, 1)])
    for score in (metrics.rand_error, metrics.adapted_rand_error, metrics.vi_split, metrics.vi_merge):
        assert score(truth, predicted) == score(truth[1], predicted[1])
        assert np.isnan(score(empty, LABELS))


def test_v_info_of_a_single_cell_is_zero():
    """As in the reference. The entropy is 1e-16 here because of rounding, which counts as zero."""
    one = np.ones((3, 7), int)
    assert metrics.v_info(one, one) == 0
    assert metrics.v_info(one, np.arange(21).reshape(3, 7)) == 0


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        (LABELS, LABELS[:3], "shapes differ"),
        (LABELS[0], LABELS[0], "Expected \\(z, y, x\\) or \\(y, x\\)"),
        (LABELS[:0], LABELS[:0], "at least one pixel"),
        (LABELS, LABELS / 3, "connected_components"),
        (-LABELS, LABELS, "negative label -3"),
    ],
)
def test_error_for_invalid_labels_states_what_to_do(labels, predicted, message):
    with pytest.raises(InputError, match=message):
        metrics.instance_scores(labels, predicted)


def test_pairs_of_large_segments_are_exact():
    """The pairs of 300 x 400 px exceed the range of int32."""
    pixels = 300 * 400
    (table,) = metrics.contingency_tables(np.zeros((300, 400), int), np.zeros((300, 400), int))
    counts = unrestricted_pairs(table)
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (pixels * (pixels - 1) // 2, 0, 0, 0)
    (table,) = metrics.contingency_tables(np.ones((300, 400), int), np.ones((300, 400), int))
    assert foreground_pairs(table).tp == pixels * (pixels - 1) // 2
    assert foreground_squares(table).tp == pixels**2


def test_very_large_labels_need_no_table_of_their_size():
    (table,) = metrics.contingency_tables(np.array([[0, 10**9, 5]]), np.array([[10**9, 7, 10**9]]))
    assert (table.truth.tolist(), table.predicted.tolist()) == ([0, 2, 1], [2, 1, 2])


def test_rounding_gives_no_negative_information():
    labels = np.array([[4, 2, 1, 2, 2, 4, 2, 1, 2, 3, 4, 3]])
    assert metrics.vi_split(labels, (labels + 1) // 2) >= 0
    assert metrics.vi_merge((labels + 1) // 2, labels) >= 0
