"""Compare the warping error with a slow implementation of its definition, one pixel at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib import metrics
from pipeline_lib.metrics.warping import SIMPLE
from pipeline_lib.runtime.errors import InputError

Mismatch = metrics.Mismatch
CORNERS = np.ones((3, 3))
RING = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]  # (x, y), in SIMPLE's order


def is_simple(patch):
    """Return whether the centre of a 3 x 3 patch touches one foreground and one background component."""
    around = np.ones((3, 3), bool)
    around[1, 1] = False
    cells, _ = ndimage.label(patch.astype(bool) & around)
    adjacent = {cells[0, 1], cells[1, 0], cells[1, 2], cells[2, 1]} - {0}
    _, holes = ndimage.label(~patch.astype(bool) & around, CORNERS)
    return len(adjacent) == 1 and holes == 1


def slow_warp(cells, probability, threshold, mask=None):
    """Flip simple mismatches of (y, x) arrays in passes until a pass flips nothing."""
    warped = np.pad((cells != 0).astype(int), 1)
    predicted = probability.astype(np.float64) > threshold
    distance = np.abs(probability.astype(np.float64) - threshold).astype(np.float32)
    mismatches = [
        (y, x)
        for x in range(cells.shape[1])
        for y in range(cells.shape[0])
        if (cells[y, x] != 0) != predicted[y, x] and (mask is None or mask[y, x])
    ]
    mismatches.sort(key=lambda pixel: -distance[pixel])
    flipped = True
    while flipped:
        flipped, left = False, []
        for y, x in mismatches:
            if is_simple(warped[y : y + 3, x : x + 3]):
                warped[y + 1, x + 1] ^= 1
                flipped = True
            else:
                left.append((y, x))
        mismatches = left
    return warped[1:-1, 1:-1], mismatches


def slow_error_map(cells, probability, threshold, radius, mask=True, ignore=False):
    """Ignored pixels are like those beyond the edge: membrane that neither changes nor counts."""
    inside = ~np.broadcast_to(ignore, cells.shape)
    warped, mismatches = slow_warp(cells * inside, probability, threshold, mask & inside)
    labels, _ = ndimage.label(warped)
    errors = np.zeros(cells.shape, int)
    height, width = cells.shape
    sides = [np.ptp(places) + 1 for places in np.nonzero(inside)]
    reach = radius if 1 <= radius <= min(sides) else max(height, width)
    for y, x in mismatches:
        around = [(y + dy, x + dx) for dx, dy in RING if 0 <= y + dy < height and 0 <= x + dx < width]
        near = {labels[pixel] for pixel in around if inside[pixel]}
        white = warped[y, x]
        if near in (set(), {0}):
            kind = Mismatch.OBJECT_DELETION if white else Mismatch.OBJECT_ADDITION
        elif len(near) == 1:
            kind = Mismatch.HOLE_ADDITION if white else Mismatch.HOLE_DELETION
        elif not white:
            kind = Mismatch.HOLE_ADDITION if len(near) == 2 else Mismatch.MERGER
        else:
            window = np.pad(warped, reach)[y : y + 2 * reach + 1, x : x + 2 * reach + 1].copy()
            window[reach, reach] = 0
            local, _ = ndimage.label(window)
            parts = {local[reach + dy, reach + dx] for dx, dy in RING}
            kind = Mismatch.SPLIT if len(near) > 2 or len(parts) > 2 else Mismatch.HOLE_DELETION
        errors[y, x] = kind
    return errors


def topology(cells):
    """Return the number of 4-connected components and of holes; outside of the image is background."""
    outside = np.pad(cells != 0, 1)
    return ndimage.label(outside)[1], ndimage.label(~outside, CORNERS)[1] - 1


def maps(side=12):
    """Draw random truths and probability maps with ties; smoothing gives them larger structures."""

    def draw(seed, height, width, smooth):
        rng = np.random.default_rng(seed)
        cells, probability = (ndimage.gaussian_filter(rng.random((height, width)), smooth) for _ in range(2))
        span = max(np.ptp(probability), 1e-9)
        probability = np.round((probability - probability.min()) / span * 20) / 20
        return (cells > np.median(cells)).astype(np.uint8), probability.astype(np.float32)

    sides = st.integers(1, side)
    return st.builds(draw, st.integers(0, 10**6), sides, sides, st.sampled_from([0, 0.8, 1.6]))


thresholds = st.sampled_from(metrics.CHALLENGE_THRESHOLDS)


def test_simple_point_touches_one_cell_and_one_background():
    for code in range(256):
        patch = np.zeros((3, 3), int)
        for bit, (x, y) in enumerate(RING):
            patch[1 + y, 1 + x] = code >> bit & 1
        assert SIMPLE[code] == is_simple(patch), patch


@given(maps(), thresholds)
def test_warp_flips_the_same_pixels_as_the_slow_implementation(images, threshold):
    cells, probability = images
    warped, mismatches = slow_warp(cells, probability, threshold)
    np.testing.assert_array_equal(metrics.warp(cells, probability, threshold), warped)
    errors = metrics.error_map(cells, probability, threshold)
    assert {(y, x) for y, x in zip(*np.nonzero(errors), strict=True)} == set(mismatches)


@given(maps(30), thresholds, st.sampled_from([1, 2, 3, 5, 20, -1]))
def test_errors_have_the_kinds_of_the_slow_implementation(images, threshold, radius):
    cells, probability = images
    np.testing.assert_array_equal(
        metrics.error_map(cells, probability, threshold, radius=radius),
        slow_error_map(cells, probability, threshold, radius),
    )


@given(maps(), thresholds, st.integers(0, 100))
def test_pixels_outside_the_mask_neither_change_nor_count(images, threshold, seed):
    cells, probability = images
    mask = np.random.default_rng(seed).random(cells.shape) < 0.7
    np.testing.assert_array_equal(metrics.warp(cells, probability, threshold, mask)[~mask], cells[~mask])
    np.testing.assert_array_equal(
        metrics.error_map(cells, probability, threshold, mask),
        slow_error_map(cells, probability, threshold, 20, mask),
    )


@given(
    maps(20), thresholds, st.sampled_from([1, 3, 20]), st.integers(0, 100), st.sampled_from([0.1, 0.3, 0.7])
)
def test_ignored_pixels_are_like_those_beyond_the_edge(images, threshold, radius, seed, share):
    cells, probability = images
    rng = np.random.default_rng(seed)
    ignore, mask = rng.random(cells.shape) < share, rng.random(cells.shape) < 0.7
    ignore[0, 0] = False
    other, spoiled = np.where(ignore, 1 - cells, cells), np.where(ignore, np.nan, probability)
    expected = slow_error_map(cells, probability, threshold, radius, ignore=ignore)
    found = metrics.error_map(other, spoiled, threshold, radius=radius, ignore=ignore)
    np.testing.assert_array_equal(found, expected)
    size = np.count_nonzero(~ignore)
    error = metrics.warping_error(other, spoiled, threshold, ignore=ignore)
    assert error == np.count_nonzero(expected) / size
    np.testing.assert_array_equal(
        metrics.error_map(other, spoiled, threshold, mask, radius, ignore=ignore),
        slow_error_map(cells, probability, threshold, radius, mask, ignore),
    )
    warped, _ = slow_warp(cells * ~ignore, probability, threshold, ~ignore)
    np.testing.assert_array_equal(metrics.warp(other, spoiled, threshold, ignore=ignore), warped)


@given(maps(60), thresholds)
def test_warped_truth_keeps_its_cells_and_holes_in_any_scan_order(images, threshold):
    cells, probability = images
    by_columns = metrics.warp(cells, probability, threshold)
    by_rows = metrics.warp(cells.T, probability.T, threshold).T
    assert topology(by_columns) == topology(by_rows) == topology(cells)


def test_scan_order_changes_the_warping():
    """This proves that the test above compares two different deformations."""
    rng = np.random.default_rng(0)
    cells, probability = rng.random((40, 40)) < 0.7, np.full((40, 40), 0.3, np.float32)
    by_columns = metrics.warp(cells, probability)
    by_rows = metrics.warp(cells.T, probability.T).T
    assert (by_columns != by_rows).any()


@given(maps(40))
def test_truth_against_itself_has_no_error(images):
    cells, _ = images
    assert not metrics.error_map(cells, cells.astype(np.float32)).any()
    assert metrics.warping_error(cells, cells.astype(np.float32)) == 0


def drawn(picture):
    return np.array([[character == "#" for character in line] for line in picture.split()])


@pytest.mark.parametrize(
    ("kind", "truth", "prediction"),
    [
        (Mismatch.MERGER, "####.####  ####.####  ####.####", "####.####  #########  ####.####"),
        (Mismatch.SPLIT, "#########  #########  #########", "####.####  ####.####  ####.####"),
        (
            Mismatch.HOLE_ADDITION,
            "#######  #######  #######  #######  #######",
            "#######  #######  ###.###  #######  #######",
        ),
        (
            Mismatch.HOLE_DELETION,
            "#######  #######  ###.###  #######  #######",
            "#######  #######  #######  #######  #######",
        ),
        (Mismatch.OBJECT_ADDITION, ".......  .......  .......", ".......  ...#...  ......."),
        (Mismatch.OBJECT_DELETION, ".......  ...#...  .......", ".......  .......  ......."),
    ],
)
def test_each_kind_of_error_in_a_drawing(kind, truth, prediction):
    errors = metrics.error_map(drawn(truth), drawn(prediction).astype(np.float32))
    assert set(np.unique(errors)) == {0, kind}


def test_shift_of_a_membrane_costs_nothing_up_to_its_width():
    truth = drawn("####..######\n" * 4)
    for shift in (1, 2):
        prediction = np.roll(truth, shift, axis=1)
        assert not metrics.error_map(truth, prediction.astype(np.float32)).any()
        assert metrics.pixel_error(truth, prediction) > 0
    errors = metrics.error_map(truth, np.roll(truth, 3, axis=1).astype(np.float32))
    assert {Mismatch.MERGER, Mismatch.SPLIT} == set(np.unique(errors)) - {0}


def test_loop_that_closes_outside_the_window_is_a_split():
    truth = drawn("#########\n" * 9)
    truth[3:6, 3:6] = False
    cut = truth.copy()
    cut[:3, 4] = False  # opens the ring
    near, far = (metrics.error_map(truth, cut.astype(np.float32), radius=radius) for radius in (2, 8))
    assert Mismatch.SPLIT in near and Mismatch.HOLE_DELETION not in near
    assert Mismatch.HOLE_DELETION in far and Mismatch.SPLIT not in far


def test_window_is_the_whole_image_if_it_is_larger_than_the_part_that_is_not_ignored():
    """A ring of 61 x 9 px is opened. It closes outside the window, which is whole for an image of 9 px."""
    truth = np.ones((9, 61), bool)
    truth[3:6, 3:58] = False
    cut = truth.copy()
    cut[:3, 30] = False
    cropped = metrics.error_map(truth, cut.astype(np.float32), radius=12)
    assert Mismatch.HOLE_DELETION in cropped and Mismatch.SPLIT not in cropped
    truth, cut = (np.pad(image, ((0, 40), (0, 0))) for image in (truth, cut))
    ignore = np.arange(49)[:, None] >= np.full(61, 9)
    found = metrics.error_map(truth, cut.astype(np.float32), radius=12, ignore=ignore)
    np.testing.assert_array_equal(found[:9], cropped)
    assert not found[9:].any()
    assert Mismatch.SPLIT in metrics.error_map(truth, cut.astype(np.float32), radius=12)


def test_opened_ring_with_a_corner_next_to_it_is_no_split():
    truth = drawn("....... ....... ....##. .###.#. .#.#.#. .#####. .......")
    cut = truth.copy()
    cut[3, 3] = False  # opens the ring; its upper right neighbour stays connected around the ring
    errors = metrics.error_map(truth, cut.astype(np.float32))
    assert errors[3, 3] == Mismatch.HOLE_DELETION
    np.testing.assert_array_equal(errors, slow_error_map(truth, cut.astype(np.float32), 0.5, 20))


def test_sections_are_warped_separately():
    rng = np.random.default_rng(1)
    cells, probability = rng.random((3, 9, 8)) < 0.6, rng.random((3, 9, 8)).astype(np.float32)
    separate = [metrics.error_map(*pair) for pair in zip(cells, probability, strict=True)]
    np.testing.assert_array_equal(metrics.error_map(cells, probability), separate)


@given(maps(25), thresholds)
def test_error_regions_contain_each_error_once(images, threshold):
    cells, probability = images
    errors = metrics.error_map(cells, probability, threshold)
    regions = metrics.error_regions(errors, probability, threshold)
    assert regions.pixels.sum() == np.count_nonzero(errors)
    assert list(regions.pixels) == sorted(regions.pixels, reverse=True)
    for kind in Mismatch:
        own = regions[regions.kind == kind.name.lower()]
        assert own.pixels.sum() == np.count_nonzero(errors == kind)
        y, x = np.nonzero(errors == kind)
        assert np.allclose([(own.pixels * own.y).sum(), (own.pixels * own.x).sum()], [y.sum(), x.sum()])


def test_long_passes_end():
    """Remove a spiral membrane from its end; half of the way is against the scan order."""
    side = 61
    spiral = np.ones((side, side), bool)
    y, x, dy, dx = 1, 1, 0, 1
    spiral[y, x] = False
    for _ in range(side * side):
        ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
        inside = all(0 < value < side - 1 for value in ahead)
        if not inside or not (0 <= beyond[0] < side and 0 <= beyond[1] < side) or not spiral[beyond]:
            dy, dx = dx, -dy
            ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            if not spiral[ahead] or not spiral[beyond]:
                break
        y, x = ahead
        spiral[y, x] = False
    assert np.count_nonzero(~spiral) > 1000
    full = np.ones((side, side), np.float32)
    warped = metrics.warp(spiral, full)
    assert np.count_nonzero(warped == 0) == 1  # one hole, shrunk to a pixel


def test_a_window_larger_than_the_section_is_the_whole_section():
    """A ring is open, or is split in a window that does not contain the other side of the ring."""
    cells = np.zeros((5, 40), np.uint8)
    cells[[0, -1]] = cells[:, [0, -1]] = 1
    probability = cells.astype(float)
    probability[0, 20] = 0
    kinds = [metrics.error_map(cells, probability, radius=radius)[0, 20] for radius in (5, 6, 7, 0)]
    assert kinds == [metrics.Mismatch.SPLIT, *[metrics.Mismatch.HOLE_DELETION] * 3]


def test_a_map_is_checked_as_a_whole_after_its_last_section():
    cells = np.array([[1, 1, 0, 1]], np.uint8)
    with pytest.raises(InputError, match="uint8 without values above 1"):
        metrics.warping_error(cells, cells)
