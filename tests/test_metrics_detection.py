"""Compare scores of detections with plain loops over the definitions, and with the programs of COCO."""

import contextlib
import io
import statistics
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline_lib import metrics
from pipeline_lib.kernels.boxes import overlaps
from pipeline_lib.runtime.errors import InputError

SIZES = [(0, 3), (3, 6), (6, np.inf)]
NONE = np.empty((0, 4))


@st.composite
def drawn_section(draw, classes=2):
    """Draw true boxes and detections on few pixels, so that many overlap and many scores are equal."""

    def boxes(most):
        edges = st.tuples(*[st.integers(0, 5)] * 2, *[st.integers(1, 7)] * 2)
        rows = draw(st.lists(edges, max_size=most))
        return np.array([[y, x, y + h, x + w] for y, x, h, w in rows], float).reshape(-1, 4)

    def values(choice, count):
        return np.array(draw(st.lists(choice, min_size=count, max_size=count)))

    truth, found = boxes(5), boxes(8)
    return {
        "truth": truth,
        "found": found,
        "scores": values(st.sampled_from([0.2, 0.4, 0.6, 0.8]), len(found)).astype(float),
        "truth_class": values(st.integers(0, classes - 1), len(truth)).astype(int),
        "found_class": values(st.integers(0, classes - 1), len(found)).astype(int),
        "ignored": values(st.booleans(), len(truth)).astype(bool),
    }


several_sections = st.lists(drawn_section(), min_size=1, max_size=4)


def pooled(sections, classes=2, sizes=SIZES):
    return metrics.pooled_matches(
        [metrics.match_boxes(**section, classes=classes, sizes=sizes) for section in sections]
    )


def selections(sections):
    """Yield the matches of all, of each class and of each range of sizes, with classes and range."""
    matches = pooled(sections)
    yield matches, [0, 1], (0, np.inf)
    for number in (0, 1):
        yield matches.of_class(number), [number], (0, np.inf)
    for number, size in enumerate(SIZES):
        yield matches.of_size(number), [0, 1], size
    yield matches.of_size(1).of_class(1), [1], SIZES[1]


def size_of(box):
    y0, x0, y1, x1 = box
    return ((y1 - y0) * (x1 - x0)) ** 0.5


def plain_matching(section, label, size, threshold, pascal=False):
    """Return score and outcome of the detections of a class in a section, and the number of true objects."""
    low, high = size
    true = [k for k, other in enumerate(section["truth_class"]) if other == label]
    ignored = {k for k in true if section["ignored"][k] or not low <= size_of(section["truth"][k]) <= high}
    iou = overlaps(section["found"], section["truth"])
    taken, outcomes = set(), []
    detections = [k for k, other in enumerate(section["found_class"]) if other == label]
    for k in sorted(detections, key=lambda k: -section["scores"][k]):
        near = [g for g in true if iou[k, g] >= threshold and (pascal or g not in taken)]
        if pascal:
            choice = max(near, key=lambda g: (iou[k, g], -g), default=None)
        else:
            choice = max(near, key=lambda g: (g not in ignored, iou[k, g], g), default=None)
        if choice is None:
            outcome = False if low <= size_of(section["found"][k]) <= high else None
        elif choice in ignored:
            outcome = None
        else:
            outcome = choice not in taken
        taken.add(choice)
        outcomes.append((section["scores"][k], outcome))
    return outcomes, len(true) - len(ignored)


def plain_points(sections, label, size, threshold, pascal=False):
    """Return recall and precision after each detection of a class, by descending score."""
    parts = [plain_matching(section, label, size, threshold, pascal) for section in sections]
    n_truth = sum(count for _, count in parts)
    kept = [(score, hit) for outcomes, _ in parts for score, hit in outcomes if hit is not None]
    hits = [hit for _, hit in sorted(kept, key=lambda row: -row[0])]
    return n_truth and [(sum(hits[:k]) / n_truth, sum(hits[:k]) / k) for k in range(1, len(hits) + 1)]


def plain_average_precision(points, levels):
    best = [max((p for r, p in points if r >= level), default=0) for level in levels]
    return statistics.fmean(best)


def plain_area(points):
    steps = sorted({r for r, _ in points} | {0})
    return sum((now - before) * max(p for r, p in points if r >= now) for before, now in pairwise(steps))


def mean_over_classes(score, sections, labels, *how):
    values = [plain_points(sections, label, *how) for label in labels]
    values = [score(points) for points in values if points != 0]
    return statistics.fmean(values) if values else np.nan


@given(several_sections)
@settings(max_examples=60)
def test_average_precision_follows_the_definition(sections):
    levels = np.linspace(0, 1, 101)
    for matches, labels, size in selections(sections):
        expected = [
            mean_over_classes(lambda p: plain_average_precision(p, levels), sections, labels, size, threshold)
            for threshold in metrics.BOX_IOU_THRESHOLDS
        ]
        np.testing.assert_allclose(matches.average_precision(), expected, atol=1e-12)


@given(several_sections)
def test_voc_follows_the_definition(sections):
    for matches, labels, size in selections(sections):
        how = sections, labels, size, 0.5, True
        eleven = mean_over_classes(lambda p: plain_average_precision(p, np.arange(0, 1.1, 0.1)), *how)
        expected = eleven, mean_over_classes(plain_area, *how)
        assert matches.voc_average_precision() == pytest.approx(expected, nan_ok=True)


def plain_counts(sections, labels, size, threshold):
    """Return true objects, true and false detections per section, of detections that were kept before."""
    rows = []
    for section in sections:
        kept = section["scores"] >= threshold
        part = section | {name: section[name][kept] for name in ("found", "scores", "found_class")}
        found = [plain_matching(part, label, size, 0.5) for label in labels]
        outcomes = [hit for pairs, _ in found for _, hit in pairs]
        rows.append((sum(count for _, count in found), outcomes.count(True), outcomes.count(False)))
    return np.array(rows)


@given(several_sections)
@settings(max_examples=60)
def test_curve_has_the_counts_of_the_detections_above_each_threshold(sections):
    for matches, labels, size in selections(sections):
        curve = matches.curve()
        assert curve.threshold[0] == np.inf
        assert (np.diff(curve.threshold) < 0).all()
        for threshold in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 0.9):
            counts = plain_counts(sections, labels, size, threshold)
            n_truth, matched, false = counts.sum(axis=0)
            place = curve.at(threshold)
            assert (curve.n_truth, curve.matched[place], curve.false[place]) == (n_truth, matched, false)
            assert curve.n_sections == len(sections)
            true, found = matches.counts(threshold)
            np.testing.assert_array_equal(true, counts[:, 0])
            np.testing.assert_array_equal(found, counts[:, 1:].sum(axis=1))


@given(several_sections)
def test_best_thresholds_are_the_best_of_all(sections):
    matches = pooled(sections)
    curve = matches.curve()
    errors, f1 = {}, {}
    for threshold in (np.inf, 0.8, 0.6, 0.4, 0.2):
        true, matched, false = plain_counts(sections, [0, 1], (0, np.inf), threshold).T
        errors[threshold] = np.abs(matched + false - true).mean()
        f1[threshold] = 2 * matched.sum() / max(1, (matched + false + true).sum())
    threshold, error = matches.best_count()
    assert (threshold, error) == (min(errors, key=errors.get), pytest.approx(min(errors.values())))
    assume(curve.n_truth)
    threshold, best = curve.best_f1()
    assert (threshold, best) == (max(f1, key=f1.get), pytest.approx(max(f1.values())))


@given(several_sections)
def test_froc_is_the_best_recall_with_few_false_detections(sections):
    curve = pooled(sections).curve()
    assume(curve.n_truth)
    points = [
        plain_counts(sections, [0, 1], (0, np.inf), threshold).sum(axis=0)
        for threshold in (np.inf, 0.8, 0.6, 0.4, 0.2)
    ]
    for rate, sensitivity in zip(metrics.FROC_RATES, curve.sensitivity(), strict=True):
        assert sensitivity == max(
            matched / n_truth for n_truth, matched, false in points if false <= rate * len(sections)
        )


@given(drawn_section())
def test_partner_is_the_matched_box(section):
    matches = metrics.match_boxes(**section, classes=2, sizes=SIZES)
    found = matches.partner >= 0
    partner = matches.partner[found]
    iou = overlaps(section["found"], section["truth"])[found, partner]
    assert (iou >= 0.5).all()
    assert len({*partner}) == len(partner)
    np.testing.assert_array_equal(section["found_class"][found], section["truth_class"][partner])
    np.testing.assert_array_equal(
        matches.coco[0, 0] == 1, found & ~np.append(section["ignored"], 1)[matches.partner]
    )


# Golden numbers


def row(*places):
    """Return boxes of 4 x 4 px that are 10 px apart."""
    x = 10.0 * np.array(places)
    return np.stack([np.zeros_like(x), x, np.full_like(x, 4), x + 4], axis=1)


def five_objects():
    """Return the matches of five objects with the detections T F T T F T."""
    return metrics.match_boxes(row(0, 1, 2, 3, 4), row(0, 8, 1, 2, 9, 3), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])


def test_average_precision_of_five_objects():
    scores = metrics.detection_scores(five_objects(), 0.0)
    assert scores["voc_ap_2007"] == pytest.approx(0.659091, abs=1e-6)
    assert scores["voc_ap_2010"] == pytest.approx(0.633333, abs=1e-6)
    for name in ("box_ap", "box_ap_50", "box_ap_75"):
        assert scores[name] == pytest.approx(0.636964, abs=1e-6)
    curve = five_objects().curve()
    np.testing.assert_allclose(curve.recall[1:], [0.2, 0.2, 0.4, 0.6, 0.6, 0.8])
    np.testing.assert_allclose(curve.precision[1:], [1, 0.5, 2 / 3, 0.75, 0.6, 2 / 3])


def test_box_ap_50_is_not_average_precision_50_of_the_same_instances():
    truth, predicted = np.zeros((2, 4, 100), int)
    probability = np.zeros((4, 100))
    for label, place in enumerate((0, 1, 2, 3, 4), 1):
        truth[:, 10 * place : 10 * place + 4] = label
    for label, place in enumerate((0, 8, 1, 2, 9, 3), 1):
        predicted[:, 10 * place : 10 * place + 4] = label
        probability[predicted == label] = 1 - label / 10
    ((boxes, _),) = metrics.boxes_of_instances(truth)
    ((found, scores),) = metrics.boxes_of_instances(predicted, probability)
    of_boxes = metrics.detection_scores(metrics.match_boxes(boxes, found, scores), 0.0)
    assert of_boxes["box_ap_50"] == pytest.approx(0.636964, abs=1e-6)
    assert metrics.average_precision(truth, predicted, [0.5]) == pytest.approx(4 / 7)


def test_the_number_of_detections_is_not_limited():
    boxes = row(*range(300))
    assert (
        metrics.match_boxes(boxes, boxes, np.linspace(1, 0.1, 300)).average_precision().tolist() == [1] * 10
    )


def test_an_iou_of_exactly_one_half_is_a_match():
    truth, found = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 5]])
    matches = metrics.match_boxes(truth, found, [1.0])
    assert matches.average_precision().tolist() == [1] + [0] * 9
    assert matches.voc_average_precision() == (1, 1)


def test_two_detections_between_two_crowded_objects():
    truth, found = np.array([[0.0, 0, 10, 10], [0, 4, 10, 14]]), np.array([[0.0, 0, 10, 10], [0, 1, 10, 11]])
    matches = metrics.match_boxes(truth, found, [0.9, 0.8])
    assert matches.average_precision()[0] == 1
    assert matches.voc_average_precision()[1] == 0.5


def test_boxes_do_not_contain_their_last_pixel():
    # IoU 2/5, but 1/2 if each box were one pixel longer, as in the old program of Pascal VOC
    matches = metrics.match_boxes(np.array([[0.0, 0, 1, 5]]), np.array([[0.0, 0, 1, 2]]), [1.0])
    assert matches.voc_average_precision() == (0, 0)
    assert matches.average_precision()[0] == 0


@pytest.mark.parametrize("order, expected", [([0, 1], 1.0), ([1, 0], 0.5)])
def test_equal_scores_count_in_their_order(order, expected):
    found = np.concatenate([row(0), row(5)])[order]
    assert metrics.match_boxes(row(0), found, [0.5, 0.5]).average_precision()[0] == pytest.approx(expected)
    # but no threshold separates them
    assert metrics.match_boxes(row(0), found, [0.5, 0.5]).curve().matched.tolist() == [0, 1]


def test_of_objects_with_equal_iou_coco_takes_the_last_and_pascal_the_first():
    left, right = np.array([0.0, 0, 10, 10]), np.array([0.0, 2, 10, 12])
    found = np.array([[0.0, 1, 10, 11], [0, -3, 10, 7]])  # between both, and near the left one alone
    matches = metrics.match_boxes(np.stack([left, right]), found, [0.9, 0.8])
    assert (matches.coco[0, 0].tolist(), matches.pascal[0].tolist()) == ([1, 1], [1, 0])
    matches = metrics.match_boxes(np.stack([right, left]), found, [0.9, 0.8])
    assert (matches.coco[0, 0].tolist(), matches.pascal[0].tolist()) == ([1, 0], [1, 1])


def test_froc_of_two_sections():
    one = metrics.match_boxes(row(0, 1), row(0, 1, 8), [0.9, 0.7, 0.6])
    two = metrics.match_boxes(row(0), row(8, 0, 9), [0.8, 0.5, 0.4])
    curve = metrics.pooled_matches([one, two]).curve()
    np.testing.assert_allclose(curve.false_per_section[1:], [0, 0.5, 0.5, 1, 1, 1.5])
    np.testing.assert_allclose(curve.recall[1:], np.array([1, 1, 2, 2, 3, 3]) / 3)
    np.testing.assert_allclose(curve.sensitivity(), np.array([1, 1, 2, 3, 3, 3, 3]) / 3)
    scores = metrics.detection_scores(metrics.pooled_matches([one, two]), 0.5)
    assert scores["froc"] == pytest.approx(0.761905, abs=1e-6)


# What the scores mean


def test_an_ignored_object_neither_counts_nor_makes_detections_false():
    truth, found = row(0, 1), row(1, 0)
    matches = metrics.match_boxes(truth, found, [0.9, 0.8], ignored=[False, True])
    assert matches.coco[0, 0].tolist() == [-1, 1]
    scores = metrics.detection_scores(matches, 0.0)
    assert [scores[name] for name in metrics.BOX_COUNTS] == [1, 1, 1]
    assert [scores[name] for name in metrics.DETECTION_METRICS] == [1] * len(metrics.DETECTION_METRICS)


def test_a_detection_prefers_an_object_that_counts():
    truth = np.array([[0.0, 0, 10, 10], [0, 3, 10, 13]])
    matches = metrics.match_boxes(truth, truth[:1], [0.9], ignored=[True, False])
    assert matches.partner.tolist() == [1]  # IoU 7/13
    # at 0.55 only the ignored one is near enough
    assert matches.coco[0, :2, 0].tolist() == [1, -1]
    assert matches.pascal[0].tolist() == [-1]


def test_a_second_detection_of_an_ignored_object_is_false_in_coco_and_left_out_in_pascal():
    matches = metrics.match_boxes(row(0), row(0, 0), [0.9, 0.8], ignored=[True])
    assert matches.coco[0, 0].tolist() == [-1, 0]
    assert matches.pascal[0].tolist() == [-1, -1]


def test_ranges_of_sizes_include_both_ends():
    sizes = [(0, 4), (4, 9), (4.01, 9)]
    matches = metrics.match_boxes(row(0), row(0, 5), [0.9, 0.8], sizes=sizes)
    assert [matches.of_size(k).truth.sum() for k in range(3)] == [1, 1, 0]
    assert [matches.of_size(k).coco[0, 0].tolist() for k in range(3)] == [[1, 0], [1, 0], [-1, -1]]


def test_a_class_without_objects_is_left_out_of_the_mean():
    how = {"truth_class": [0, 2], "found_class": [0, 1, 2], "classes": 3}
    matches = metrics.match_boxes(row(0, 1), row(0, 5, 6), [0.9, 0.8, 0.7], **how)
    assert matches.average_precision()[0] == 0.5
    assert matches.voc_average_precision() == (0.5, 0.5)
    assert [matches.of_class(k).average_precision()[0] for k in (0, 2)] == [1, 0]
    assert np.isnan(matches.of_class(1).average_precision()).all()
    assert matches.curve().f1[-1] == pytest.approx(2 / 5)  # all boxes together


def test_scores_are_nan_if_there_is_nothing_to_count():
    scores = metrics.detection_scores(metrics.match_boxes(NONE, NONE, []), 0.5)
    assert all(np.isnan(scores[name]) for name in (*metrics.DETECTION_METRICS, "count_error_relative"))
    assert scores["count_error"] == scores["boxes_found"] == 0
    missed = metrics.detection_scores(metrics.match_boxes(row(0), NONE, []), 0.5)
    assert np.isnan(missed.pop("box_precision"))
    assert [missed[name] for name in metrics.DETECTION_METRICS if name in missed] == [0] * 8
    false = metrics.match_boxes(NONE, row(0), [0.9])
    assert np.isnan(metrics.detection_scores(false, 0.5)["box_ap"])
    assert metrics.detection_scores(false, 0.5)["count_difference"] == 1
    assert false.curve().best_f1()[0] == false.best_count()[0] == np.inf


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=8))
def test_count_errors_follow_the_definition(pairs):
    difference = [found - truth for truth, found in pairs]
    errors = metrics.count_errors(*zip(*pairs, strict=True))
    mean, spread = statistics.fmean(difference), statistics.stdev(difference)
    relative = [abs(found - truth) / truth for truth, found in pairs if truth]
    assert errors == pytest.approx(
        {
            "count_error": statistics.fmean(map(abs, difference)),
            "count_error_relative": statistics.fmean(relative) if relative else np.nan,
            "count_difference": mean,
            "count_limit_low": mean - 1.96 * spread,
            "count_limit_high": mean + 1.96 * spread,
        },
        nan_ok=True,
    )


def test_all_scores_are_those_of_their_functions():
    matches = five_objects()
    scores = metrics.detection_scores(matches, 0.6)
    assert scores["box_f1"] == pytest.approx(2 * 3 / (5 + 4))
    assert [scores[name] for name in metrics.BOX_COUNTS] == [5, 4, 3]
    assert [*scores] == [*metrics.DETECTION_METRICS, *metrics.COUNT_ERRORS, *metrics.BOX_COUNTS]
    assert scores["count_difference"] == -1
    near = metrics.match_boxes(np.array([[0.0, 0, 10, 25]]), np.array([[0.0, 0, 10, 18]]), [1.0])
    scores = metrics.detection_scores(near, 0.5)  # IoU 0.72
    assert (scores["box_ap"], scores["box_ap_50"], scores["box_ap_75"]) == (0.5, 1, 0)


def test_a_hundred_thousand_objects():
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(np.arange(320), np.arange(320)), axis=-1).reshape(-1, 2) * 10.0
    truth = np.hstack([corners, corners + 9])
    found = truth + rng.choice([0, 2, 5], len(truth))[:, None]  # IoU 1, 49/113 and 16/146
    matches = metrics.match_boxes(truth, found, rng.random(len(truth)), sizes=[(0, 8), (8, 32)])
    exact = (found == truth).all(axis=1)
    assert (matches.coco[0] == exact).all()
    assert matches.curve().recall[-1] == exact.mean()
    np.testing.assert_array_equal(matches.partner, np.where(exact, np.arange(len(truth)), -1))
    assert (matches.of_size(0).coco == -1).all()


# Boxes of instances


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6)).flatmap(
        lambda shape: st.tuples(
            arrays(np.int64, shape, elements=st.sampled_from([0, 0, 3, 4, 70])),
            arrays(np.float32, shape, elements=st.floats(0, 1, width=16)),
        )
    )
)
def test_boxes_of_instances_contain_their_pixels(volume):
    labels, probability = volume
    sections = metrics.boxes_of_instances(labels, probability)
    assert len(sections) == len(labels)
    for z, (boxes, scores) in enumerate(sections):
        expected = []
        for label in sorted({*labels[z].ravel().tolist()} - {0}):
            y, x = np.nonzero(labels[z] == label)
            mean = float(probability[z, y, x].astype(float).mean())
            expected.append([y.min(), x.min(), y.max() + 1, x.max() + 1, pytest.approx(mean)])
        assert np.column_stack([boxes, scores]).tolist() == expected


def test_boxes_of_a_uint8_map_and_of_labels_alone():
    labels = np.array([[0, 2, 2], [5, 0, 0]])
    probability = np.array([[9, 255, 0], [51, 0, 0]], np.uint8)
    ((_, scores),) = metrics.boxes_of_instances(labels, probability)
    assert scores.tolist() == pytest.approx([0.5, 0.2])
    ((boxes, ones),) = metrics.boxes_of_instances(labels)
    assert boxes.tolist() == [[0, 1, 1, 3], [1, 0, 2, 1]]
    assert ones.tolist() == [1, 1]


# Errors

WRONG = [
    ({"truth": np.zeros((2, 3))}, r"truth: found an array \(2, 3\)"),
    ({"found": np.array([0.0, 0, 1, 1])}, r"found: found an array \(4,\)"),
    ({"found": np.array([[0.0, 0, np.nan, 1]])}, r"found: box 0 is \[0.0, 0.0, nan, 1.0\]"),
    ({"truth": np.array([[0.0, 0, 1, 1], [0, 5, 1, 4]])}, "truth: box 1 is .* expected finite y0"),
    ({"scores": [0.5, 0.5]}, r"scores: found an array \(2,\) .* each of 1 boxes"),
    ({"scores": [np.nan]}, "scores: .* NaN"),
    ({"scores": ["a"]}, "scores: .* finite number"),
    ({"truth_class": [2]}, "truth_class: box 0 is of class 2, expected whole numbers from 0 to 1"),
    ({"found_class": [-1]}, "found_class: box 0 is of class -1"),
    ({"found_class": [0.5]}, "found_class: box 0 is of class 0.5"),
    ({"ignored": [True, False]}, r"ignored: found an array \(2,\)"),
]


@pytest.mark.parametrize("wrong, message", WRONG, ids=[message for _, message in WRONG])
def test_wrong_arrays_are_named(wrong, message):
    right = {"truth": row(0), "found": row(0), "scores": [0.5], "classes": 2}
    with pytest.raises(InputError, match=message):
        metrics.match_boxes(**right | wrong)


def test_labels_and_probabilities_are_checked():
    with pytest.raises(InputError, match="shapes differ"):
        metrics.boxes_of_instances(np.ones((2, 2), int), np.ones((2, 3)))
    with pytest.raises(InputError, match="expected integer labels"):
        metrics.boxes_of_instances(np.ones((2, 2)))
    with pytest.raises(InputError, match=r"expected 0\.\.1"):
        metrics.boxes_of_instances(np.ones((2, 2), int), np.full((2, 2), 7.0))


# Programs of COCO


def crowded_sections(seed):
    """Return sections with objects of three classes, some ignored, and detections near them; one is empty."""
    rng = np.random.default_rng(seed)
    sections = []
    for z in range(5):
        n = 0 if z == 2 else rng.integers(1, 40)
        corners = rng.integers(0, 30, (n, 2))
        truth = np.hstack([corners, corners + rng.integers(2, 14, (n, 2))]).astype(float)
        near = rng.integers(0, n, 60) if n and z != 3 else np.empty(0, int)
        found = truth[near] + rng.choice([-1, 0, 0, 0, 1], (len(near), 4))
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        truth_class = rng.integers(0, 3, n)
        mistaken = rng.integers(0, 3, len(near))
        sections.append(
            {
                "truth": truth,
                "found": found,
                "scores": rng.integers(1, 20, len(near)) / 20,
                "truth_class": truth_class,
                "found_class": np.where(rng.random(len(near)) < 0.8, truth_class[near], mistaken),
                "ignored": rng.random(n) < 0.2,
            }
        )
    return sections


def precision_of_coco(sections, program, classes, sizes=(), most=10**6):
    """Return AP by a program of COCO: (threshold, class, range of sizes)."""
    coco_type, evaluation_type = program

    def annotation(z, box, label):
        y0, x0, y1, x1 = box.tolist()
        return {"image_id": z, "category_id": int(label), "bbox": [x0, y0, x1 - x0, y1 - y0]}

    everything = 1e10
    truth, found = [], []
    for z, section in enumerate(sections):
        for box, label, ignored in zip(
            section["truth"], section["truth_class"], section["ignored"], strict=True
        ):
            # the programs ignore what is outside all ranges; a crowd would be another rule
            area = 2 * everything if ignored else round(size_of(box) ** 2)
            truth.append(annotation(z, box, label) | {"id": len(truth) + 1, "area": area, "iscrowd": 0})
        for box, label, score in zip(
            section["found"], section["found_class"], section["scores"], strict=True
        ):
            found.append(annotation(z, box, label) | {"score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        reference = coco_type()
        reference.dataset = {
            "images": [{"id": z, "width": 999, "height": 999} for z in range(len(sections))],
            "categories": [{"id": label, "name": str(label)} for label in range(classes)],
            "annotations": truth,
        }
        reference.createIndex()
        evaluation = evaluation_type(reference, reference.loadRes(found), "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.params.areaRng = [
            [low**2, min(high**2, everything)] for low, high in [(0, np.inf), *sizes]
        ]
        evaluation.params.areaRngLbl = ["all", *map(str, sizes)]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    return np.where(precision == -1, np.nan, precision).mean(axis=1)


@pytest.fixture(params=["pycocotools", "faster_coco_eval"])
def program(request):
    package = pytest.importorskip(request.param)
    if request.param == "faster_coco_eval":
        return package.COCO, package.COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_the_programs_of_coco(program, seed):
    sections = crowded_sections(seed)
    sizes = [(0, 6), (6, 9), (9, np.inf)]
    expected = precision_of_coco(sections, program, 3, sizes)
    matches = pooled(sections, 3, sizes)
    of_sizes = [matches, *map(matches.of_size, range(len(sizes)))]
    for a, of_size in enumerate(of_sizes):
        for k in range(3):
            found = of_size.of_class(k).average_precision()
            np.testing.assert_allclose(found, expected[:, k, a], atol=1e-12)
        mean = np.nanmean(expected[:, :, a], axis=1)
        np.testing.assert_allclose(of_size.average_precision(), mean, atol=1e-12)
    assert 0.05 < matches.average_precision().mean() < 0.95


def test_the_programs_of_coco_limit_the_number_of_detections(program):
    boxes = row(*range(300))
    zeros = np.zeros(300, int)
    section = {"truth": boxes, "found": boxes, "scores": np.linspace(1, 0.1, 300), "ignored": zeros == 1}
    section |= {"truth_class": zeros, "found_class": zeros}
    limited = precision_of_coco([section], program, 1, most=100)
    np.testing.assert_allclose(limited, 34 / 101)  # 0.337
    np.testing.assert_allclose(precision_of_coco([section], program, 1), 1)


def test_pooling_keeps_all_fields():
    section = metrics.match_boxes(row(0, 1), row(1, 0), [0.9, 0.8])
    both = metrics.pooled_matches([section, section])
    assert both.section.tolist() == [0, 0, 1, 1]
    nested = metrics.pooled_matches([both, section])
    flat = metrics.pooled_matches([section] * 3)
    for field in fields(flat):
        np.testing.assert_array_equal(getattr(nested, field.name), getattr(flat, field.name))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int8])
def test_count_errors_of_any_integers(dtype):
    truth, found = np.array([5, 3], dtype), np.array([3, 4], dtype)
    assert metrics.count_errors(truth, found) == metrics.count_errors([5, 3], [3, 4])


def test_without_a_threshold_all_boxes_are_kept():
    boxes = np.array([[0.0, 0, 4, 4], [9, 9, 12, 12]])
    matches = metrics.match_boxes(boxes, boxes, [0.9, 0.2])
    kept, none = (metrics.detection_scores(matches, threshold) for threshold in (0.0, np.nan))
    assert {name: str(value) for name, value in kept.items()} == {name: str(v) for name, v in none.items()}
    assert none["count_error"] == 0 and none["boxes_found"] == 2


def test_detections_that_are_left_out_are_those_of_the_caller_whatever_their_scores():
    found = np.array([[0.0, 0, 4, 4], [9, 9, 12, 12], [20, 20, 24, 24]])
    matches = metrics.match_boxes(found[:1], found, [0.5, 0.7, 0.9], left_out=[False, False, True])
    assert matches.coco[0, 0].tolist() == [1, 0, -1]
    assert matches.pascal[0].tolist() == [1, 0, -1]
