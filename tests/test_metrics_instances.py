"""Compare instance scores with matching object by object, and with packages of other projects."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from pipeline_lib import metrics
from pipeline_lib.runtime.errors import InputError

shapes = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5))
pairs_of_labels = shapes.flatmap(
    lambda shape: st.tuples(*[arrays(np.uint8, shape, elements=st.integers(0, 3))] * 2)
)


def objects(labels):
    return [(z, labels[z] == label) for z in range(len(labels)) for label in np.unique(labels[z]) if label]


def iou_matrix(labels, predicted):
    """Return the IoU of each true with each predicted object; 0 if they are in different sections."""
    return np.array(
        [
            [(a & b).sum() / (a | b).sum() if y == z else 0 for z, b in objects(predicted)]
            for y, a in objects(labels)
        ]
    ).reshape(len(objects(labels)), len(objects(predicted)))


def count_cells(labels, predicted):
    """Count the cells of both, and the largest number of pairs with an IoU of at least one half."""
    partners = iou_matrix(labels, predicted) >= 0.5
    matched = partners[linear_sum_assignment(partners, maximize=True)].sum()
    return dict(zip(metrics.CELL_COUNTS, (*partners.shape, matched), strict=True))


def drawn_volume(seed):
    """Return two sections of overlapping squares, and the same squares shifted, resized or missing."""
    rng = np.random.default_rng(seed)
    labels, predicted = np.zeros((2, 60, 60), np.uint16), np.zeros((2, 60, 60), np.uint16)
    for label in range(1, 30):
        z, y, x, size = rng.integers(2), *rng.integers(0, 50, 2), rng.integers(5, 15)
        labels[z, y : y + size, x : x + size] = label
        y, x, size = np.maximum(0, np.add((y, x, size), rng.integers(-2, 3, 3)))
        if rng.random() < 0.9:
            predicted[z, y : y + size, x : x + size] = label + 40
    return labels, predicted


@given(pairs_of_labels)
def test_seg_is_the_mean_iou_with_the_majority_object(labels):
    truth, predicted = labels
    assume(truth.any())
    found = [
        next(
            (
                (a & b).sum() / (a | b).sum()
                for z, b in objects(predicted)
                if y == z and 2 * (a & b).sum() > a.sum()
            ),
            0,
        )
        for y, a in objects(truth)
    ]
    assert metrics.seg(truth, predicted) == pytest.approx(np.mean(found))


@given(pairs_of_labels, st.sampled_from(metrics.IOU_THRESHOLDS))
def test_average_precision_matches_as_many_objects_as_possible(labels, threshold):
    truth, predicted = labels
    assume(truth.any() or predicted.any())
    matches = iou_matrix(truth, predicted) >= threshold
    tp = matches[linear_sum_assignment(matches, maximize=True)].sum()
    expected = tp / (len(objects(truth)) + len(objects(predicted)) - tp)
    assert metrics.average_precision(truth, predicted, [threshold]) == pytest.approx(expected)


@given(pairs_of_labels)
def test_panoptic_quality_is_quality_of_matches_times_their_f_score(labels):
    truth, predicted = labels
    assume(truth.any() or predicted.any())
    iou = iou_matrix(truth, predicted)
    matched = iou[iou > 0.5]
    f_score = 2 * matched.size / (len(objects(truth)) + len(objects(predicted)))
    expected = matched.mean() * f_score if matched.size else 0
    assert metrics.panoptic_quality(truth, predicted) == pytest.approx(expected)


@given(pairs_of_labels)
def test_iou_and_dice_are_of_the_foreground(labels):
    truth, predicted = (array > 0 for array in labels)
    assume((truth | predicted).any())
    shared = (truth & predicted).sum()
    assert metrics.iou(*labels) == pytest.approx(shared / (truth | predicted).sum())
    assert metrics.dice(*labels) == pytest.approx(2 * shared / (truth.sum() + predicted.sum()))


@given(pairs_of_labels)
def test_all_scores_at_once_equal_the_single_scores(labels):
    names = (
        "seg",
        "average_precision",
        "panoptic_quality",
        "iou",
        "dice",
        "rand_error",
        "adapted_rand_error",
        "vi_split",
        "vi_merge",
    )
    expected = {name: getattr(metrics, name)(*labels) for name in names}
    expected["average_precision_50"] = metrics.average_precision(*labels, [0.5])
    expected |= count_cells(*labels)
    assert metrics.instance_scores(*labels) == pytest.approx(expected, nan_ok=True)


def test_object_split_in_halves_is_matched_once():
    truth, halves = np.array([[1, 1, 0, 2, 2]]), np.array([[1, 2, 0, 3, 4]])
    assert metrics.average_precision(truth, halves, [0.5]) == 0.5
    assert metrics.average_precision(halves, truth, [0.5]) == 0.5
    assert metrics.seg(truth, halves) == 0  # a half is not more than half


def test_seg_punishes_missed_objects_but_not_false_ones():
    labels, _ = drawn_volume(0)
    fewer, more = labels.copy(), labels.copy()
    fewer[labels == 1], more[:, 50:, 50:] = 0, 99
    labels[:, 50:, 50:] = 0
    assert metrics.seg(labels, fewer) < 1
    assert metrics.seg(labels, more) == 1
    assert metrics.average_precision(labels, more) < 1
    assert metrics.panoptic_quality(labels, more) < 1


def test_same_label_in_two_sections_is_two_objects():
    truth = np.ones((2, 3, 3), int)
    predicted = truth.copy()
    predicted[1] = 0
    assert metrics.seg(truth, predicted) == 0.5


def test_scores_are_nan_if_there_is_nothing_to_count():
    empty, full = np.zeros((3, 3), int), np.ones((3, 3), int)
    found = metrics.instance_scores(empty, empty)
    assert {found.pop(name) for name in metrics.CELL_COUNTS} == {0}
    assert all(np.isnan(value) for value in found.values())
    scores = metrics.instance_scores(empty, full)
    assert np.isnan(scores["seg"])
    assert scores["average_precision"] == scores["panoptic_quality"] == scores["iou"] == scores["dice"] == 0
    assert metrics.seg(full, empty) == 0


@pytest.mark.parametrize("seed", range(3))
def test_cells_are_counted_in_each_section_as_object_by_object(seed):
    labels, predicted = drawn_volume(seed)
    found = metrics.instance_scores(labels, predicted)
    counts = {name: found[name] for name in metrics.CELL_COUNTS}
    assert counts == count_cells(labels, predicted)
    assert 0 < counts["cells_matched"] < min(counts["cells_annotated"], counts["cells_found"])


def test_ignored_cells_are_not_counted():
    labels = np.array([[1, 1, 0, 2, 2, 0, 3, 3]])
    found = metrics.instance_scores(labels, labels, ignore=(labels == 2) | (labels == 0))
    assert [found[name] for name in metrics.CELL_COUNTS] == [2, 2, 2]


def test_iou_threshold_below_one_half_is_rejected():
    with pytest.raises(InputError, match=r"expected 0\.5\.\.1"):
        metrics.average_precision(np.ones((2, 2), int), np.ones((2, 2), int), [0.4])


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_stardist(seed):
    matching = pytest.importorskip("stardist.matching").matching
    (truth, _), (predicted, _) = drawn_volume(seed)
    expected = matching(truth, predicted, thresh=metrics.IOU_THRESHOLDS)
    accuracy = np.mean([at_threshold.accuracy for at_threshold in expected])
    assert metrics.average_precision(truth, predicted) == pytest.approx(accuracy)
    # stardist compares in float32, and an IoU equal to the threshold is a match
    above_half = matching(truth, predicted, thresh=0.5 + 1e-6)
    assert metrics.panoptic_quality(truth, predicted) == pytest.approx(above_half.panoptic_quality)


@pytest.mark.parametrize("seed", range(5))
def test_seg_agrees_with_the_package_of_the_cell_tracking_challenge(seed, tmp_path):
    pytest.importorskip("ctc_metrics")
    import tifffile
    from ctc_metrics.metrics.technical.seg import seg
    from ctc_metrics.utils.representations import match

    truth, predicted = drawn_volume(seed)
    labels, ious = [], []
    for z in range(len(truth)):
        tifffile.imwrite(tmp_path / f"truth{z}.tif", truth[z])
        tifffile.imwrite(tmp_path / f"result{z}.tif", predicted[z])
        found = match(str(tmp_path / f"truth{z}.tif"), str(tmp_path / f"result{z}.tif"))
        labels.append(found[0])
        ious.append(found[4])
    assert metrics.seg(truth, predicted) == pytest.approx(seg(labels, ious))


def test_precision_without_thresholds_is_refused():
    labels = np.array([[1, 0]])
    with pytest.raises(InputError, match=r"thresholds are \[\], expected one or more"):
        metrics.average_precision(labels, labels, [])
