"""Segmentations and detections are scored as boxes in one table."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import layout, metrics
from pipeline_lib.kernels.boxes import overlaps
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.scores import COLUMNS, SECTION_COLUMNS, read_scores, read_threshold
from pipeline_lib.stages.detection import evaluate_detections
from pipeline_lib.stages.evaluation import collect_scores, evaluate, measure_spread
from pipeline_lib.tasks.detection.found import Found, create_arrays
from tests.box_datasets import add_boxes
from tests.test_metrics_detection import plain_average_precision, plain_points, size_of

OVERALL = (*metrics.DETECTION_METRICS, *metrics.COUNT_ERRORS, *metrics.BOX_COUNTS)
NAMED = {"volume": "a", "split": "test", "network": "unet"}
LEVELS = np.linspace(0, 1, 101)


def drawn(seed, sections=3, side=80):
    """Draw labels of rectangles that may cut each other, and similar ones as a prediction."""
    rng = np.random.default_rng(seed)
    truth, found = np.zeros((2, sections, side, side), np.uint32)
    for z in range(sections):
        for number in range(1, rng.integers(2, 12)):
            y, x, height, width = *rng.integers(0, side - 10, 2), *rng.integers(1, 45, 2)
            truth[z, y : y + height, x : x + width] = number
            y, x = np.maximum(np.array([y, x]) + rng.integers(-3, 4, 2), 0)
            if rng.random() < 0.8:
                found[z, y : y + height, x : x + width] = 100 * z + number
    return truth, found, rng.random(truth.shape, np.float32)


def write_volume(folder, truth, found, probability, *, border=None, **boxes):
    with layout.create(folder / "dataset.h5", {}) as file:
        layout.add(file, layout.LABELS, truth.shape)[:] = truth
        layout.add(file, layout.SEPARATION_BORDER, truth.shape)[:] = 0 if border is None else border
        add_boxes(file, truth, **boxes)
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, truth.shape)[:] = probability
    with layout.create(folder / "segmentation.h5", {}) as file:
        layout.add(file, layout.LABELS, truth.shape)[:] = found
    write_json(folder / "unet.json", {"threshold": 0.45, "minimum_size": 0})


def score_segmentation(folder, **names):
    """Return the scores at the chosen threshold, and those of sections."""
    files = ("dataset.h5", "prediction.h5", "segmentation.h5", "unet.json", "scores.csv", "sections.csv")
    evaluate(*(folder / name for name in files), **NAMED | names)
    table = read_scores(folder / "scores.csv")
    at = table[table.threshold == 0.45].set_index("metric").value
    return at, read_scores(folder / "sections.csv").set_index(["section", "metric"]).value


def plain_boxes(labels, values):
    """Return the box of each label and the mean of the values there, pixel by pixel."""
    boxes, means = [], []
    for label in sorted({*labels.ravel().tolist()} - {0}):
        y, x = np.nonzero(labels == label)
        boxes.append([y.min(), x.min(), y.max() + 1, x.max() + 1])
        means.append(float(values[labels == label].astype(float).mean()))
    return np.array(boxes, float).reshape(-1, 4), np.array(means)


def plain_sections(truth, found, probability, minimum_size=0):
    sections = []
    for own, predicted, values in zip(truth, found, probability, strict=True):
        boxes, pixels = plain_boxes(own, np.ones(own.shape))[0], np.unique(own, return_counts=True)[1]
        other, scores = plain_boxes(predicted, values)
        sections.append(
            {
                "truth": boxes,
                "found": other,
                "scores": scores,
                "truth_class": np.zeros(len(boxes), int),
                "found_class": np.zeros(len(other), int),
                "ignored": pixels[1 if (own == 0).any() else 0 :] < minimum_size,
            }
        )
    return sections


@pytest.mark.parametrize("seed", range(4))
def test_instances_are_scored_as_boxes_like_plain_loops(tmp_path, seed):
    truth, found, probability = drawn(seed)
    write_volume(tmp_path, truth, found, probability, minimum_size=30)
    scores, by_section = score_segmentation(tmp_path)
    sections = plain_sections(truth, found, probability, minimum_size=30)
    ranges = {"": (0, np.inf), "_small": (0, 32), "_medium": (32, 96), "_large": (96, np.inf)}
    for name, size in ranges.items():
        points = [plain_points(sections, 0, size, t) for t in metrics.BOX_IOU_THRESHOLDS]
        if points[0] == 0:  # no object has this size
            assert f"box_ap{name}" not in scores
            continue
        ap = [plain_average_precision(own, LEVELS) for own in points]
        assert scores[f"box_ap_50{name}"] == pytest.approx(ap[0])
        assert scores[f"box_ap{name}"] == pytest.approx(np.mean(ap))
        recall, precision = points[0][-1] if points[0] else (0, np.nan)
        assert scores[f"box_recall{name}"] == pytest.approx(recall)
        assert scores[f"box_precision{name}"] == pytest.approx(precision, nan_ok=True)
    counts = [(np.count_nonzero(~own["ignored"]), len(own["found"])) for own in sections]
    assert scores["boxes_annotated"] == sum(n for n, _ in counts)
    for z, (own, (n_truth, n_found)) in enumerate(zip(sections, counts, strict=True)):
        left_out = n_found - by_section[z, "boxes_found"]
        assert 0 <= left_out <= np.count_nonzero(own["ignored"])
        assert by_section[z, "count_error"] == abs(n_found - left_out - n_truth)
        expected = plain_points([own], 0, (0, np.inf), 0.5)
        assert by_section[z, "box_ap_50"] == pytest.approx(plain_average_precision(expected, LEVELS))
    assert scores["count_error"] == pytest.approx(np.mean([by_section[z, "count_error"] for z in range(3)]))
    assert not {"count_limit_low", "box_ap_small"} & {*by_section.index.get_level_values(1)}


def test_instances_that_equal_the_truth_have_perfect_boxes(tmp_path):
    """Whatever their probability, which may be below the threshold as at a border that is given back."""
    truth, _, probability = drawn(0)
    write_volume(tmp_path, truth, np.where(truth > 0, truth + 7, 0), probability / 9)
    scores, by_section = score_segmentation(tmp_path)
    for name in metrics.DETECTION_METRICS:
        assert scores[name] == 1
        assert {by_section[z, name] for z in range(3)} == {1}
    assert {scores[name] for name in metrics.COUNT_ERRORS} == {0}
    assert len({scores[name] for name in metrics.BOX_COUNTS}) == 1


def test_only_instances_that_exist_count(tmp_path):
    """Cells below the threshold are no detections with low scores: AP is at most the recall."""
    truth, _, _ = drawn(0)
    found = np.where(truth % 2, truth, 0)
    write_volume(tmp_path, truth, found, np.where(truth > 0, 0.4, 0.1))
    scores, _ = score_segmentation(tmp_path)
    assert scores["box_ap_50"] == pytest.approx(scores["box_recall"], abs=0.01) and scores["box_recall"] < 0.7


def test_the_class_of_an_instance_has_the_highest_mean_probability(tmp_path):
    truth = np.zeros((1, 30, 30), np.uint32)
    for number, place in enumerate((2, 12, 22), 1):
        truth[0, place : place + 6, 3:9] = number
    classes = ["background", "a", "b", "fibre"]
    probability = np.zeros((4, *truth.shape), np.float32)
    probability[0] = 0.1
    probability[1], probability[2] = np.where(truth == 1, 0.6, 0.3), np.where(truth == 1, 0.3, 0.6)
    probability[1, truth == 2] = 0.1
    probability[1:3, 0, 12:14, 3:9] = [[[0.9]], [[0.05]]]  # some pixels of the second one are rather `a`
    write_volume(tmp_path, truth, truth, probability[1:3].sum(0), kinds=[1, 2, 1], cells=["a", "b"])
    without, _ = score_segmentation(tmp_path)
    assert not [name for name in without.index if "box" in name]  # nothing tells the classes apart
    with h5py.File(tmp_path / "prediction.h5", "a") as file:
        layout.add(file, layout.CLASS_PROBABILITY, probability.shape)[:] = probability
        layout.write_classes(file[layout.CLASS_PROBABILITY.name], classes, ["a", "b"])
    scores, by_section = score_segmentation(tmp_path)
    # the third one is of class `a`, but found as `b`
    assert (scores["boxes_annotated_a"], scores["boxes_found_a"], scores["boxes_matched_a"]) == (2, 1, 1)
    assert (scores["boxes_annotated_b"], scores["boxes_found_b"], scores["boxes_matched_b"]) == (1, 2, 1)
    assert scores["box_ap"] == pytest.approx((scores["box_ap_a"] + scores["box_ap_b"]) / 2)
    assert by_section[0, "box_f1_a"] == scores["box_f1_a"] == pytest.approx(2 / 3)


def test_boxes_at_ignored_pixels_do_not_count(tmp_path):
    truth, _, probability = drawn(0)
    found = np.where(truth > 0, truth, 0)
    write_volume(tmp_path, truth, found, probability)
    whole, _ = score_segmentation(tmp_path)
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        ignore = layout.add(file, layout.IGNORE, truth.shape)
        ignore[:, :9], ignore[2] = 1, 1
        for array, _ in layout.BOX_ARRAYS:
            del file[array.name]
        add_boxes(file, truth)
    scores, by_section = score_segmentation(tmp_path)
    assert 0 < scores["boxes_annotated"] < whole["boxes_annotated"]
    assert scores["box_f1"] == scores["box_ap"] == 1
    assert {z for z, metric in by_section.index if metric == "box_f1"} == {0, 1}


def test_a_dataset_of_an_older_version_is_named(tmp_path):
    truth, found, probability = drawn(0)
    write_volume(tmp_path, truth, found, probability)
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        del file["boxes"]
    with pytest.raises(InputError, match=r"dataset\.h5: has no `boxes`, so it was written by an older"):
        score_segmentation(tmp_path)


# detections


def write_detections(folder, boxes, kind, score, section, cells=("cell",)):
    with layout.create(folder / "detections.h5", {}) as file:
        create_arrays(file, ["background", *cells], cells)
        for z in np.unique(section):
            own = section == z
            Found(boxes[own], kind[own].astype(np.uint8), score[own].astype(np.float32)).append_to(file, z)


def score_detections(folder, threshold, **names):
    write_json(folder / "ssd.json", {"threshold": threshold, "criterion": "box_f1"})
    files = ("dataset.h5", "detections.h5", "ssd.json", "ssd_scores.csv", "ssd_sections.csv")
    evaluate_detections(*(folder / name for name in files), **NAMED | {"network": "ssd"} | names)
    table, by_section = (read_scores(folder / f"ssd_{name}.csv") for name in ("scores", "sections"))
    assert [*table.columns] == COLUMNS and [*by_section.columns] == SECTION_COLUMNS
    assert {*table.threshold, *by_section.threshold} == {threshold}
    return table.set_index("metric").value, by_section.set_index(["section", "metric"]).value


@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_detections_have_the_scores_of_metrics(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("random")
    truth, _, probability = drawn(seed)
    rng = np.random.default_rng(seed)
    kinds, cells = rng.integers(1, 3, 12), ["a", "b"]
    write_volume(folder, truth, truth, probability, minimum_size=60, kinds=kinds, cells=cells)
    with h5py.File(folder / "dataset.h5") as file:
        true, place, kind, state = (file[array.name][:] for array, _ in layout.BOX_ARRAYS)
    chosen = np.sort(rng.integers(0, len(true), 30))
    found = true[chosen] + rng.integers(-4, 5, (30, 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
    label = np.where(rng.random(30) < 0.8, kind[chosen], 3 - kind[chosen])
    score = (rng.integers(1, 20, 30) / 20).astype(np.float32)
    write_detections(folder, found, label, score, place[chosen], cells)
    threshold = float(score[rng.integers(30)])
    scores, by_section = score_detections(folder, threshold)

    sizes = [(0, 32), (32, 96), (96, np.inf)]
    matches = [
        metrics.match_boxes(
            true[place == z],
            found[place[chosen] == z],
            score[place[chosen] == z],
            truth_class=kind[place == z] - 1,
            found_class=label[place[chosen] == z] - 1,
            ignored=state[place == z] == 2,
            classes=2,
            sizes=sizes,
        )
        for z in range(3)
    ]
    whole = metrics.pooled_matches(matches)
    expected = metrics.detection_scores(whole, threshold)
    parts = {"a": whole.of_class(0), "b": whole.of_class(1)}
    counted = true[state != 2]
    for number, (name, (low, high)) in enumerate(zip(("small", "medium", "large"), sizes, strict=True)):
        if any(low <= size_of(box) <= high for box in counted):
            parts[name] = whole.of_size(number)
    for name, part in parts.items():
        own = metrics.detection_scores(part, threshold)
        expected |= {f"{metric}_{name}": value for metric, value in own.items()}
    np.testing.assert_equal(scores.to_dict(), expected)
    for z, own in enumerate(matches):
        expected = metrics.detection_scores(own, threshold)
        for name, number in (("a", 0), ("b", 1)):
            of_class = metrics.detection_scores(own.of_class(number), threshold)
            expected |= {f"{metric}_{name}": value for metric, value in of_class.items()}
        expected = {name: value for name, value in expected.items() if "limit" not in name}
        np.testing.assert_equal(by_section[z].to_dict(), expected)


def test_a_class_cannot_take_the_name_of_another_score(tmp_path):
    """`box_ap_50` is also how AP of a class `50` would be called."""
    truth, _, probability = drawn(1)
    write_volume(tmp_path, truth, truth, probability, kinds=[1, 2] * 6, cells=["50", "b"])
    with h5py.File(tmp_path / "dataset.h5") as file:
        true, place, kind, _ = (file[array.name][:] for array, _ in layout.BOX_ARRAYS)
    write_detections(tmp_path, true + 1.0, kind, np.ones(len(true)), place, ["50", "b"])
    scores, _ = score_detections(tmp_path, 0.5)
    each = [overlaps(box[None], box[None] + 1)[0, 0] for box in true]
    assert min(each) < 0.5 < scores["box_ap_50"] < 1
    assert scores["box_ap_50"] > scores["box_ap"]
    assert scores["box_f1_50"] != scores["box_f1"]


def test_detections_of_other_classes_are_refused(tmp_path):
    truth, found, probability = drawn(0)
    write_volume(tmp_path, truth, found, probability)
    write_detections(tmp_path, np.array([[0.0, 0, 4, 4]]), *np.ones((2, 1)), np.zeros(1, int), ["nucleus"])
    with pytest.raises(InputError, match=r"detections\.h5: found the classes nucleus, but .* has cell"):
        score_detections(tmp_path, 0.5)
    assert not (tmp_path / "ssd_scores.csv").exists()


# both


def test_segmentations_and_detections_stand_in_one_table(tmp_path):
    truth, found, probability = drawn(2)
    write_volume(tmp_path, truth, found, probability)
    instances, _ = score_segmentation(tmp_path)
    sections = metrics.boxes_of_instances(found, probability)
    boxes, score = (np.concatenate(parts) for parts in zip(*sections, strict=True))
    place = np.repeat(range(3), [len(own) for own, _ in sections])
    write_detections(tmp_path, boxes, np.ones(len(boxes)), score, place)
    detected, _ = score_detections(tmp_path, 0.01)
    for name, value in detected.items():  # the same boxes
        assert instances[name] == pytest.approx(value, nan_ok=True, abs=1e-6)

    tables = [tmp_path / "scores.csv", tmp_path / "ssd_scores.csv"]
    collect_scores(tables, tmp_path / "all.csv")
    tables = [tmp_path / "sections.csv", tmp_path / "ssd_sections.csv"]
    collect_scores(tables, tmp_path / "all_sections.csv", SECTION_COLUMNS)
    measure_spread(tmp_path / "all.csv", [tmp_path / "unet.json", tmp_path / "ssd.json"], tmp_path / "s.csv")
    spread = pd.read_csv(tmp_path / "s.csv").set_index("metric")
    assert (spread.seeds["box_ap_50"], spread.seeds["seg"]) == (2, 1)
    assert spread["mean"]["box_ap_50"] == pytest.approx(detected["box_ap_50"], abs=1e-6)


@pytest.mark.parametrize("content", ["{}", '{"threshold": "0.5"}', '{"threshold": 1.5}', "[0.5]", "{"])
def test_a_file_without_threshold_is_named(tmp_path, content):
    (tmp_path / "ssd.json").write_text(content)
    with pytest.raises(InputError, match=r"ssd\.json: "):
        read_threshold(tmp_path / "ssd.json")


def test_the_threshold_of_any_model_is_read(tmp_path):
    for value in (0, 0.35, 1):
        (tmp_path / "a.json").write_text(json.dumps({"threshold": value, "criterion": "seg"}))
        assert read_threshold(tmp_path / "a.json") == value
