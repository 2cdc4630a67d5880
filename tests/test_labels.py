import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline_lib.labels import cells_apart, label_cells, separation_border, target_class

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
    """Pixel by pixel: walk from each contact through its own cell, half the width deep."""
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
def test_border_equals_its_slow_twin(labels, width):
    np.testing.assert_array_equal(separation_border(labels, width), slow_border(labels, width))


@settings(deadline=None)
@given(SMALL_LABELS, st.integers(1, 6))
def test_after_the_border_no_two_cells_touch_even_diagonally(labels, width):
    apart = np.where(separation_border(labels, width), 0, labels)
    for y, x in np.ndindex(apart.shape):
        assert all(apart[p] in (0, apart[y, x]) for p in neighbours(apart, y, x)) or apart[y, x] == 0


def test_the_gap_between_two_flat_cells_is_as_wide_as_asked():
    labels = np.repeat([[1] * 8 + [2] * 8], 5, axis=0)
    for width in range(1, 8):
        assert (separation_border(labels, width).sum(axis=1) == width).all()


def test_a_cell_that_is_merely_close_keeps_its_pixels():
    labels = np.array([[1, 1, 2, 2, 0, 3, 3]])
    assert not separation_border(labels, 6)[0, 5:].any()


def test_membranes_become_one_label_per_cell_and_section():
    cells = np.array([[[1, 1, 0, 1], [0, 0, 1, 0]], [[1, 0, 0, 1], [1, 0, 0, 1]]])
    np.testing.assert_array_equal(
        label_cells(cells), [[[1, 1, 0, 3], [0, 0, 2, 0]], [[4, 0, 0, 5], [4, 0, 0, 5]]]
    )


def test_target_is_cell_less_border():
    labels, border = np.array([[0, 5, 5, 7]]), np.array([[0, 0, 1, 0]], np.uint8)
    np.testing.assert_array_equal(target_class(labels, border), [[0, 1, 0, 1]])


def test_truth_for_scores_is_the_annotation_unless_cells_share_a_side():
    diagonal = np.array([[1, 0], [0, 2]])
    np.testing.assert_array_equal(cells_apart(diagonal, separation_border(diagonal, 2)), diagonal > 0)
    beside = np.array([[1, 1, 2, 2]])
    np.testing.assert_array_equal(cells_apart(beside, separation_border(beside, 2)), [[1, 0, 0, 1]])
