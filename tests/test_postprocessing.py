"""Test the choice of the post-processing on cells that only a high threshold separates."""

import json

import numpy as np
import pytest

from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import cells_apart, separation_border
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.postprocessing import CRITERIA, THRESHOLDS, choose_postprocessing


def cells_with_a_gap():
    """Return labels and probability of two cells with a gap in their membrane.

    Thresholds from 0.7 on close the gap. From 0.9 on there are no cells.
    """
    labels = np.zeros((2, 20, 30), np.uint32)
    labels[:, 2:18, 2:14], labels[:, 2:18, 16:28] = 1, 2
    probability = np.where(labels > 0, 0.9, 0.05).astype(np.float32)
    probability[:, 9, 14:16] = 0.7
    probability[:, 0, 0] = 0.99
    return labels, probability


@pytest.fixture
def folder(tmp_path):
    labels, probability = cells_with_a_gap()
    with layout.create(tmp_path / "dataset.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = [
            separation_border(s, 2) for s in labels
        ]
    with layout.create(tmp_path / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    return tmp_path


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin", "seg"])
def test_chosen_threshold_is_in_the_middle_of_those_that_close_the_gap(folder, criterion):
    choose_postprocessing(
        [folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", criterion=criterion
    )
    found = json.loads((folder / "t.json").read_text())
    # of 0.7, 0.75, 0.8 and 0.85; the gap is 0.7 in float32, which is just below 0.7 in float64
    assert found["threshold"] == 0.8
    assert PostProcessing.read(folder / "t.json") == PostProcessing(0.8, 0)
    assert found["grid"] == list(THRESHOLDS) and max(THRESHOLDS) == 0.95
    at = dict(zip(found["grid"], found["value"], strict=True))
    assert at[0.8] == pytest.approx(0 if criterion == "rand_error" else 1, abs=0.02)
    assert abs(at[0.5] - at[0.8]) > 0.2 and abs(at[0.95] - at[0.8]) > 0.2


def test_choice_ignores_components_below_the_minimum_size(folder):
    best = []
    for size in (0, 10_000):
        choose_postprocessing(
            [folder / "dataset.h5"],
            [folder / "prediction.h5"],
            folder / "t.json",
            criterion="seg",
            minimum_size=size,
        )
        found = json.loads((folder / "t.json").read_text())
        assert found["minimum_size"] == size
        best.append(max(found["value"]))
    assert best[0] > 0.9 and best[1] == 0


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin", "seg"])
def test_values_are_means_over_the_sections_of_all_volumes(folder, criterion):
    datasets, predictions = [folder / "dataset.h5"] * 2, [folder / "prediction.h5", folder / "other.h5"]
    with layout.require(folder / "dataset.h5") as file:
        labels, border = file["labels"][:], file["separation_border"][:]
    with layout.require(folder / "prediction.h5") as file:
        probability = file["cell_probability"][:]
    with layout.create(folder / "other.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability[:, ::-1] * 0.9
    choose_postprocessing(
        datasets, predictions, folder / "t.json", criterion=criterion, minimum_size=3, threads=3
    )

    score, values = CRITERIA[criterion][0], []
    for p in (*probability, *(probability[:, ::-1] * np.float32(0.9))):
        truth = labels[0]
        if criterion != "seg":
            truth = metrics.connected_components(cells_apart(truth, border[0]))
        values.append([score(truth, instances(p, PostProcessing(t, 3))) for t in THRESHOLDS])
    assert json.loads((folder / "t.json").read_text())["value"] == np.mean(values, axis=0).tolist()


def test_memory_for_less_than_one_section_is_rejected(folder):
    with pytest.raises(InputError, match=r"`memory_gb` is 0\.2"):
        choose_postprocessing(
            [folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", memory_gb=0.2
        )


def test_error_for_an_unknown_criterion_lists_the_known_ones(folder):
    with pytest.raises(InputError, match="found `dice`, expected one of rand_error, v_rand_thin, seg"):
        choose_postprocessing(
            [folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", criterion="dice"
        )


def write_case(folder, labels, probability, ignore=None):
    with layout.create(folder / "dataset.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = 0
        if ignore is not None:
            layout.add(file, layout.IGNORE, labels.shape)[:] = ignore
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability


def chosen(folder, **settings):
    choose_postprocessing([folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", **settings)
    return json.loads((folder / "t.json").read_text())


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin", "seg"])
def test_cells_across_ignored_pixels_are_made_before_pixels_are_left_out(tmp_path, criterion):
    labels, _ = cells_with_a_gap()
    ignore = np.zeros(labels.shape, np.uint8)
    ignore[:, 9:11] = 1  # a band through both cells, whose halves are smaller than 150 px
    write_case(tmp_path, np.where(ignore, 0, labels), np.where(labels > 0, 0.9, 0.05), ignore)
    found = chosen(tmp_path, criterion=criterion, minimum_size=150)
    at = dict(zip(found["grid"], found["value"], strict=True))
    assert at[0.5] == pytest.approx(0 if criterion == "rand_error" else 1, abs=0.02)


def test_sections_without_annotated_cells_do_not_count(tmp_path, caplog):
    labels, _ = cells_with_a_gap()
    probability = np.where(labels > 0, 0.4, 0.05)  # rims that are as high as the gap: a watershed is better
    probability[:, 9, 14:16], probability[:, 5:15, 5:11], probability[:, 5:15, 19:25] = 0.4, 0.9, 0.9
    settings = {"method": "watershed", "criterion": "rand_error", "tried": tmp_path / "tried.csv"}
    write_case(tmp_path, labels[:1], probability[:1])
    alone, table = chosen(tmp_path, **settings), (tmp_path / "tried.csv").read_text()
    assert alone["pixel_error"] < 0.2
    labels[1], probability[1] = 0, 0.9  # a second section, in which all that is found is false
    write_case(tmp_path, labels, probability)
    with caplog.at_level("INFO"):
        assert chosen(tmp_path, **settings) | {"provenance": 0} == alone | {"provenance": 0}
    assert (tmp_path / "tried.csv").read_text() == table
    assert "over 1 validation sections" in caplog.text


def test_validation_volumes_without_any_cell_are_refused(tmp_path):
    labels, probability = cells_with_a_gap()
    write_case(tmp_path, np.zeros_like(labels), probability)
    with pytest.raises(InputError, match="found no annotated cell"):
        chosen(tmp_path)


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin", "seg"])
def test_a_section_without_cells_does_not_change_the_values(tmp_path, criterion):
    labels, probability = cells_with_a_gap()
    write_case(tmp_path, labels[:1], probability[:1])
    alone = chosen(tmp_path, criterion=criterion)
    labels[1] = 0
    write_case(tmp_path, labels, probability)
    assert chosen(tmp_path, criterion=criterion)["value"] == alone["value"]


def test_cells_do_not_grow_through_ignored_pixels_before_v_rand(tmp_path):
    labels = np.array([[1] * 6 + [0] * 2 + [2] * 8])
    ignore = np.zeros(labels.shape, bool)
    ignore[:, 6:8] = True
    found = np.array([[1] * 6 + [0] * 9 + [2]])  # the second cell is found at its end only
    assert CRITERIA["v_rand_thin"][0](labels, found, ignore=ignore) == 1


def test_pixel_errors_are_listed_only_if_they_were_needed(folder):
    choose_postprocessing(
        [folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", tried=folder / "tried.csv"
    )
    header = (folder / "tried.csv").read_text().partition("\n")[0]
    assert header.endswith(",sections,rand_error,standard_deviation")


def test_settings_for_another_pixel_size_are_rounded_up_and_limited():
    assert PostProcessing(0.5, border_reach=3).scaled(2.0).border_reach == 5
    assert PostProcessing(0.5, border_reach=100).scaled(4.0).border_reach == 128


def test_pixels_at_the_seed_threshold_are_no_seeds():
    probability = np.array([[0.5, 0.5, 0.3, 0.75]])
    found = instances(probability, PostProcessing(0.25, seed_threshold=0.5))
    assert found.tolist() == [[1, 1, 1, 1]]
    assert not instances(probability[:, :3], PostProcessing(0.25, seed_threshold=0.5)).any()
