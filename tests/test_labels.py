import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline_lib.data.labels import (
    border_halo,
    cells_apart,
    count_pixels,
    separation_border,
)
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.tasks.segmentation.classes import target_class

SMALL_LABELS = hnp.arrays(
    np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)
)


def neighbours(labels, y, x):
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            if (dy or dx) and 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]:
                yield y + dy, x + dx


def contacts(labels, smaller):
    return {
        (y, x)
        for y, x in np.ndindex(labels.shape)
        if labels[y, x]
        and any(
            labels[p] and (labels[y, x] < labels[p] if smaller else labels[y, x] > labels[p])
            for p in neighbours(labels, y, x)
        )
    }


def slow_border(labels, width):
    """The border pixel by pixel: from each contact half the width deep into its own cell."""
    border = np.zeros(labels.shape, bool)
    for smaller, layers in ((True, (width + 1) // 2), (False, width // 2)):
        reached = contacts(labels, smaller) if layers else set()
        for _ in range(layers - 1):
            reached |= {p for y, x in reached for p in neighbours(labels, y, x) if labels[p] == labels[y, x]}
        for p in reached:
            border[p] = True
    return border


@settings(deadline=None)
@given(SMALL_LABELS, st.integers(1, 6))
def test_border_equals_a_slow_implementation(labels, width):
    np.testing.assert_array_equal(separation_border(labels, width), slow_border(labels, width))


@settings(deadline=None)
@given(SMALL_LABELS, st.integers(1, 6))
def test_without_the_border_no_two_cells_touch_even_diagonally(labels, width):
    apart = np.where(separation_border(labels, width), 0, labels)
    for y, x in np.ndindex(apart.shape):
        assert all(apart[p] in (0, apart[y, x]) for p in neighbours(apart, y, x)) or apart[y, x] == 0


def test_the_gap_between_two_flat_cells_has_the_requested_width():
    labels = np.repeat([[1] * 8 + [2] * 8], 5, axis=0)
    for width in range(1, 8):
        assert (separation_border(labels, width).sum(axis=1) == width).all()


def cells_of_few_labels(seed):
    """Cells that touch along lines and at corners; a label may occur in several places."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(rng.integers(1, 50, 2), np.uint32)
    for _ in range(rng.integers(1, 40)):
        y, x = rng.integers(0, labels.shape)
        label = rng.choice([0, 1, 2, 3, 2**31, 2**32 - 1])
        labels[y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = label
    return labels


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(1, 50))
def test_blocks_with_their_halo_have_the_border_of_the_whole_section(seed, width, side):
    labels = cells_of_few_labels(seed)
    expected, found = separation_border(labels, width), np.zeros(labels.shape, bool)
    for block in blocks(labels.shape, side, border_halo(width)):
        found[block.write] = separation_border(labels[block.read], width)[block.crop]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("width", range(1, 8))
def test_every_pixel_of_the_halo_is_needed(width):
    labels = np.array([[1] * 20 + [2] * 20])
    last = 20 - border_halo(width)  # column of the border in the first cell
    assert separation_border(labels, width)[0, last]
    assert separation_border(labels[:, : last + border_halo(width) + 1], width)[0, last]
    assert not separation_border(labels[:, : last + border_halo(width)], width)[0, last]


@given(SMALL_LABELS)
def test_pixels_are_counted_label_by_label(labels):
    for found, expected in zip(count_pixels(labels), np.unique(labels, return_counts=True), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_cell_that_is_close_but_does_not_touch_keeps_its_pixels():
    labels = np.array([[1, 1, 2, 2, 0, 3, 3]])
    assert not separation_border(labels, 6)[0, 5:].any()


def test_target_is_cell_without_border():
    labels, border = np.array([[0, 5, 5, 7]]), np.array([[0, 0, 1, 0]], np.uint8)
    np.testing.assert_array_equal(target_class(labels, border), [[0, 1, 0, 1]])


def test_truth_for_scores_is_the_annotation_unless_cells_share_a_side():
    diagonal = np.array([[1, 0], [0, 2]])
    np.testing.assert_array_equal(cells_apart(diagonal, separation_border(diagonal, 2)), diagonal > 0)
    adjacent = np.array([[1, 1, 2, 2]])
    np.testing.assert_array_equal(cells_apart(adjacent, separation_border(adjacent, 2)), [[1, 0, 0, 1]])
    ignored, touching = np.array([[0, 0, 0], [0, 0, 1]]) > 0, np.array([[1, 0, 0], [0, 2, 3]])
    found = cells_apart(touching, separation_border(touching, 2), ignored)
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 1, 0]])
