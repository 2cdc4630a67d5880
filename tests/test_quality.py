"""Each warning about a run appears if its reason is there, and not otherwise."""

import numpy as np
import pandas as pd
import pytest

from pipeline_lib import metrics
from pipeline_lib.pages.quality import (
    compare_with_baselines,
    still_improving,
    warn_of_biased_count,
    warn_of_constant,
    warn_of_lost_recall,
    warn_of_short_training,
    warn_of_uncovered,
    warn_of_wrong_count,
)

TRAINING = {"learning_rate": 0.001, "iterations": 600, "best_by": "loss"}


def table(values, uniform=(), annotated=5.0):
    """Scores by network, one for each volume; `uniform` networks predict one class in the first volume."""
    rows = []
    for network, own in values.items():
        for number, value in enumerate(own):
            named = {"seg": value, "uniform_sections": float(network in uniform and number == 0)}
            named |= dict.fromkeys(metrics.CELL_COUNTS, annotated)
            rows += [(f"v{number}", network, metric, one) for metric, one in named.items()]
    return pd.DataFrame(rows, columns=["volume", "network", "metric", "value"])


def compare(values, more_is_better=True, **case):
    return compare_with_baselines(
        table(values, **case),
        "unet",
        split="test",
        criterion="seg",
        name="SEG",
        more_is_better=more_is_better,
    )


def names(warned):
    return [warning.name for warning in warned]


# comparison with baselines


def test_a_network_that_is_no_better_than_the_best_baseline_is_a_warning():
    (warned,) = compare({"unet": [0.3, 0.5], "constant": [0.1, 0.2], "smoothed_raw": [0.5, 0.5]})
    assert warned.name == "worse_than_baseline"
    assert "unet is no better than the baseline smoothed raw: SEG 0.400 and 0.500 (higher" in warned.text
    assert names(compare({"unet": [0.4, 0.4], "smoothed_raw": [0.3, 0.5]})) == ["worse_than_baseline"]
    assert names(compare({"unet": [np.nan], "smoothed_raw": [0.1]})) == ["worse_than_baseline"]
    assert compare({"unet": [0.51, 0.51], "constant": [0.1, 0.2], "smoothed_raw": [0.5, 0.5]}) == []


def test_errors_are_compared_the_other_way_round():
    (warned,) = compare({"unet": [0.4], "smoothed_raw": [0.3], "b": [0.35]}, more_is_better=False)
    assert "baseline smoothed raw: SEG 0.400 and 0.300 (lower is better)" in warned.text
    assert compare({"unet": [0.3], "smoothed_raw": [0.4]}, more_is_better=False) == []


def test_baselines_that_predict_one_class_do_not_count():
    values = {"unet": [0.4, 0.4], "constant": [0.9, 0.9], "smoothed_raw": [0.1, 0.1]}
    assert names(compare(values)) == ["worse_than_baseline"]
    (warned,) = compare(values, uniform=["constant"])  # it does in the first volume only
    assert warned.name == "worse_in_volumes" and "In 1 of 2 volumes of the test split (v1)" in warned.text
    values["constant"][1] = 0.2
    assert compare(values, uniform=["constant"]) == []
    assert names(compare(values, uniform=["constant"], annotated=0.0)) == ["worse_than_baseline"]
    assert compare({"unet": [0.0], "constant": [0.0]}, uniform=["constant"]) == []


def test_single_volumes_in_which_a_baseline_is_better_are_named():
    values = {"unet": [0.9] * 5, "smoothed_raw": [0.9, 0.91, 0.95, 0.99, 0.1], "b": [0, 0, 0, 0, 0.91]}
    (warned,) = compare(values)
    assert "In 4 of 5 volumes of the test split (v1, v2, v3, ...), a baseline" in warned.text
    assert compare({"unet": [0.9, 0.9], "smoothed_raw": [0.8, np.nan]}) == []


# constant probabilities


@pytest.mark.parametrize(
    ("shares", "expected"),
    [([0.3, 0.36], False), ([1 / 3, 1 / 3], True), ([0.1, 0.6], True), ([1.0, 1.0], True)],
)
def test_constant_probabilities_are_a_warning_from_one_third_on(shares, expected):
    rows = [(f"v{n}", "unet", "constant_pixels", share) for n, share in enumerate(shares)]
    rows += [("v0", "constant", "constant_pixels", 1.0), ("v0", "unet", "seg", 1.0)]
    scores = pd.DataFrame(rows, columns=["volume", "network", "metric", "value"])
    warned = warn_of_constant(scores, "unet", split="test", training=TRAINING)
    assert names(warned) == ["constant_probability"] * expected
    if expected:
        assert f"{np.mean(shares):.0%} of the pixels inside cells" in warned[0].text
        assert "`training.learning_rate` (now 0.001)" in warned[0].text


# end of the training


def decaying(number, time_constants):
    return 0.2 + np.exp(-np.linspace(0, time_constants, number))


@pytest.mark.parametrize("number", [5, 12, 32, 80])
@pytest.mark.parametrize(("time_constants", "expected"), [(0.5, True), (1.5, True), (6, False), (20, False)])
def test_a_loss_is_still_improving_until_it_has_levelled_off(number, time_constants, expected):
    errors = decaying(number, time_constants)
    if number > 5:  # the last five of five are the whole training
        assert still_improving(errors) == expected


def test_few_validations_are_judged_only_if_there_are_five():
    assert not still_improving([0.9, 0.7, 0.5, 0.3]) and not still_improving([])
    assert still_improving([0.9, 0.8, 0.7, 0.6, 0.5])
    assert not still_improving([0.9, 0.8, 0.6, 0.7, 0.5])


@pytest.mark.parametrize("number", [5, 10, 20, 40, 80])
def test_noise_is_not_improvement(number):
    """Around a constant, after a decay, and in a random walk without a trend."""
    rng = np.random.default_rng(number)
    flat = [still_improving(rng.normal(1, 0.1, number)) for _ in range(300)]
    assert np.mean(flat) <= 0.02
    if number >= 20:
        settled = [still_improving(decaying(number, 10) + rng.normal(0, 0.03, number)) for _ in range(300)]
        assert np.mean(settled) <= 0.02


def test_improvement_is_found_in_spite_of_noise():
    rng = np.random.default_rng(0)
    found = [still_improving(np.linspace(1, 0.2, 40) + rng.normal(0, 0.02, 40)) for _ in range(100)]
    assert np.mean(found) >= 0.95


def test_overfitting_and_tiny_gains_are_not_improvement():
    assert not still_improving([1.0, 0.6, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
    assert not still_improving([1.0, 0.5, 0.4, *np.linspace(0.300, 0.295, 10)])


def test_the_score_that_selects_the_model_is_judged():
    history = pd.DataFrame(
        {"validation_loss": np.linspace(1, 0.5, 6), "validation_v_rand_thin": np.linspace(0.9, 0.5, 6)}
    )
    (warned,) = warn_of_short_training(history, TRAINING)
    assert warned.name == "still_improving"
    assert "validation loss was still falling when the training ended: from 0.900 to 0.500" in warned.text
    assert "`training.iterations: 1200` (now 600)" in warned.text
    by_rand = TRAINING | {"best_by": "v_rand_thin"}
    assert warn_of_short_training(history, by_rand) == []
    (warned,) = warn_of_short_training(history[::-1], by_rand)
    assert "V-Rand was still rising when the training ended: from 0.580 to 0.900" in warned.text
    assert warn_of_short_training(history[::-1], TRAINING) == []


def test_a_score_of_boxes_can_select_the_model():
    history = pd.DataFrame({"validation_box_ap_50": np.linspace(0.5, 0.9, 6)})
    (warned,) = warn_of_short_training(history, TRAINING | {"best_by": "box_ap_50"})
    assert "Box AP at 0.5 was still rising when the training ended: from 0.580 to 0.900" in warned.text


# detections


def test_boxes_are_compared_without_signs_of_useless_segmentations():
    scores = table({"ssd": [0.9, 0.8], "constant": [0.1, 0.85]})
    scores = scores[scores.metric == "seg"].replace({"seg": "box_f1"})
    case = {"split": "test", "criterion": "box_f1", "name": "F1", "more_is_better": True}
    (warned,) = compare_with_baselines(scores, "ssd", **case)
    assert warned.name == "worse_in_volumes" and "(v1)" in warned.text
    assert compare_with_baselines(scores[scores.network == "ssd"], "ssd", **case) == []


@pytest.mark.parametrize(
    ("annotated", "found", "words"),
    [
        (200, 221, "221 objects are detected, but 200 are annotated (10% too many)"),
        (200, 179, "179 objects are detected, but 200 are annotated (10% too few)"),
        (200, 220, None),
        (200, 180, None),
        (0, 3, None),
    ],
)
def test_far_too_many_or_too_few_detections_are_a_warning(annotated, found, words):
    warned = warn_of_biased_count(annotated, found, split="validation", criterion="box_f1")
    assert names(warned) == (["biased_count"] if words else [])
    assert all(f"On the validation split, {words}." in warning.text for warning in warned)
    again = warn_of_biased_count(annotated, found, split="validation", criterion="count_error")
    assert len(again) == len(warned) and not any("count_error" in warning.text for warning in again)


@pytest.mark.parametrize(("found", "words"), [(201, "minimum_size"), (200, None), (50, None), (49, "merged")])
def test_a_segmentation_with_far_too_many_or_too_few_cells_is_a_warning(found, words):
    warned = warn_of_wrong_count(100, found, split="test")
    assert names(warned) == (["wrong_count"] if words else [])
    assert all(words in warning.text for warning in warned)
    assert warn_of_wrong_count(0, found, split="test") == []


@pytest.mark.parametrize(
    ("training", "held_out", "warned"),
    [
        ((95, 100), (70, 100), True),
        ((950, 1000), (849, 1000), True),
        ((950, 1000), (850, 1000), False),  # no more than `LOST`
        ((19, 20), (14, 20), False),  # few objects: chance
        ((70, 100), (95, 100), False),
        ((0, 0), (0, 100), False),
        ((95, 100), (0, 0), False),
    ],
)
def test_a_lower_recall_than_in_training_is_a_warning_unless_by_chance(training, held_out, warned):
    found = warn_of_lost_recall(training, held_out, split="test")
    assert names(found) == (["worse_than_training"] if warned else [])


def test_uncovered_objects_are_a_warning():
    (warned,) = warn_of_uncovered({"covered": 0.8949, "objects": 1200}, enough=0.9)
    assert warned.name == "uncovered_objects"
    assert "cover 89.5% of the 1,200 training objects" in warned.text
    assert "expected at least 90%" in warned.text
    assert warn_of_uncovered({"covered": 0.9, "objects": 1200}, enough=0.9) == []
