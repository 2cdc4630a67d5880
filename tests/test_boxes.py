"""Tests of overlaps of boxes and of non-maximum suppression, compared with pixels and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.kernels.boxes import area, masked_area, overlapping, overlaps, suppress


@st.composite
def some_boxes(draw, most=12, limit=9):
    """Draw boxes with whole numbers as edges; some are equal, some are far apart."""
    edges = st.tuples(*(st.integers(0, limit) for _ in range(2)), *(st.integers(1, limit) for _ in range(2)))
    rows = draw(st.lists(edges, max_size=most))
    far = draw(st.sampled_from([0, 0, 1000]))
    return np.array(
        [[y + k % 2 * far, x, y + k % 2 * far + h, x + w] for k, (y, x, h, w) in enumerate(rows)], float
    ).reshape(-1, 4)


def pixels(box):
    y0, x0, y1, x1 = box.astype(int)
    return {(y, x) for y in range(y0, y1) for x in range(x0, x1)}


def brute_force(first, second):
    sets = [[pixels(box) for box in boxes] for boxes in (first, second)]
    return np.array([[len(a & b) / len(a | b) for b in sets[1]] for a in sets[0]]).reshape(
        len(first), len(second)
    )


@given(some_boxes(), some_boxes())
def test_iou_is_that_of_the_pixels(first, second):
    np.testing.assert_allclose(overlaps(first, second), brute_force(first, second), atol=1e-15)


@given(some_boxes(), some_boxes(), st.sampled_from([1e-6, 0.3, 0.5, 1.0]))
def test_overlapping_finds_all_pairs(first, second, threshold):
    expected = overlaps(first, second)
    i, j, iou = overlapping(first, second, threshold)
    assert [*zip(i, j, strict=True)] == [*map(tuple, np.argwhere(expected >= threshold))]
    assert (iou == expected[i, j]).all()


def plain_suppression(boxes, scores, threshold, groups):
    order = sorted(range(len(boxes)), key=lambda k: (-scores[k], *boxes[k]))
    kept = []
    for k in order:
        same = [other for other in kept if groups[other] == groups[k]]
        if not same or overlaps(boxes[[k]], boxes[same]).max() <= threshold:
            kept.append(k)
    return kept


@given(some_boxes(), st.data())
def test_suppression_is_greedy(boxes, data):
    scores = np.array(
        data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=len(boxes), max_size=len(boxes)))
    )
    groups = np.arange(len(boxes)) % 2
    threshold = data.draw(st.sampled_from([0.0, 0.3, 0.45, 1.0]))
    kept = suppress(boxes, scores, threshold, groups)
    expected = plain_suppression(boxes, scores, threshold, groups)
    # of boxes that are equal in all, either can be kept
    assert [(*boxes[k], scores[k]) for k in kept] == [(*boxes[k], scores[k]) for k in expected]


@given(some_boxes(), st.permutations(range(12)))
def test_suppression_does_not_depend_on_the_order(boxes, order):
    order = [k for k in order if k < len(boxes)]
    scores = np.full(len(boxes), 0.5)
    rows = np.column_stack([boxes, np.arange(len(boxes)) % 2])  # box and group
    kept = rows[suppress(boxes, scores, 0.3, rows[:, 4].astype(int))]
    again = rows[order]
    again = again[suppress(again[:, :4], scores, 0.3, again[:, 4].astype(int))]
    np.testing.assert_array_equal(kept, again)


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = np.array([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert suppress(boxes, np.array([0.9, 0.8]), 0.5, np.zeros(2, int)).tolist() == [0, 1]
    assert suppress(boxes, np.array([0.9, 0.8]), 0.4999, np.zeros(2, int)).tolist() == [0]


@pytest.mark.parametrize("count", [0, 1])
def test_few_boxes(count):
    boxes = np.array([[0.0, 0, 1, 1]] * count).reshape(-1, 4)
    assert len(suppress(boxes, np.ones(count), 0.5, np.zeros(count, int))) == count
    assert [part.size for part in overlapping(boxes, boxes[:0], 0.5)] == [0, 0, 0]


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.45, 0.6])
@pytest.mark.parametrize("median", [0.5, 7, 60])
def test_many_boxes_of_different_sizes(threshold, median):
    rng = np.random.default_rng(0)
    sizes = median * rng.lognormal(0, 1, (400, 1)) * rng.lognormal(0, 0.2, (400, 2))
    corners = rng.uniform(-2 * median, 8 * median, (400, 2))
    boxes = np.hstack([corners, corners + sizes])
    groups = rng.integers(2, size=400)
    scores = rng.random(400)
    expected = plain_suppression(boxes, scores, threshold, groups)
    assert suppress(boxes, scores, threshold, groups).tolist() == expected
    assert 10 < len(expected) < 400


def test_one_large_box_does_not_make_the_search_slow():
    """With one grid for all sizes, this would compare all pairs of 40,000 boxes, which takes seconds."""
    y, x = np.mgrid[:200, :200] * 4.0
    boxes = np.stack([y, x, y + 5, x + 5], axis=-1).reshape(-1, 4)
    boxes = np.vstack([boxes, [0, 0, 9000, 9000]])
    i, *_ = overlapping(boxes, boxes, 0.1)
    assert len(i) == 40_001 + 2 * 2 * 200 * 199  # each box with its neighbours above, below, left and right


def test_a_box_beyond_the_section_has_the_masked_pixels_inside_only():
    mask = np.array([[[0, 0, 1], [0, 0, 1]]])
    boxes = np.array([[0.0, 0, 5, 9], [1, 2, 4, 3], [-3, -3, 0.5, 9], [4, 4, 6, 6]])
    assert masked_area(boxes, mask, 0).tolist() == [2, 1, 0.5, 0]


def test_a_box_that_ends_before_it_begins_has_no_area():
    assert area(np.array([[5.0, 5, 3, 3], [0, 0, 2, 3]])).tolist() == [0, 6]
