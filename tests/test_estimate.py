"""Estimate of time and disk space at the end of a check."""

import h5py
import pytest
from bordure import estimate
from bordure.study import variants

SHAPES = {
    "learn": (4, 1000, 1000),
    "choose": (1, 1000, 2000),
    "score": (2, 1000, 1000),
    "new": (1, 500, 1000),
}
SPLITS = {"learn": "train", "choose": "validation", "score": "test", "new": "predict"}


def described(tmp_path, **settings):
    files = {}
    for name in SHAPES:
        files[name] = tmp_path / f"{name}.h5"
        annotation = "null" if name == "new" else '{"cells": {"number": 300}}'
        with h5py.File(files[name], "w") as file:
            file.attrs["findings"] = f'{{"annotation": {annotation}}}'
    sections = {
        "network": {"depth": 1},
        "training": {"tile": 108, "iterations": 1000, "validation_interval": 100},
    }
    found = variants({"volumes": "v.tsv"} | sections | settings)
    return estimate.describe_run(found, SHAPES, SPLITS, files, dict.fromkeys(found, 0.6))


# A tile of 108 px gives 92 px with a depth of 1. Validation, prediction and scoring take long enough that
# each changes the text.
PIXEL = 0.6 / 92**2 * estimate.FORWARD  # s


def test_time_counts_training_validations_and_predictions(tmp_path):
    train = 1000 * 0.6 + 10 * 2_000_000 * PIXEL
    rest = estimate.JOBS + 4_500_000 * PIXEL + 4_000_000 * estimate.SCORING
    assert (round(train / 60), round((train + rest) / 60)) == (19, 23)
    line = described(tmp_path)
    assert line.startswith("8 sections, 900 cells: about 23 min on this machine (training: 19 min), at most ")
    # all volumes: 18 bytes; the scored ones: 8 bytes more for each of the 3 methods
    assert line.endswith(f"at most {(8_500_000 * 18 + 4_000_000 * 24) / 1e9:.2g} GB of disk")


def test_disk_space_counts_target_probabilities_and_map_of_classes(tmp_path):
    dataset = {
        "annotation_kind": "classes",
        "classes": {"background": 0, "a": 1, "b": 2},
        "target": "classes",
    }
    found = described(tmp_path, dataset=dataset, seeds=[1])
    # the first model predicts all volumes, that of the other seed those that are scored
    more = 8_500_000 * (1 + 3 * 4 + 1) + 4_000_000 * 3 * 4
    assert found.endswith(f"at most {(8_500_000 * 18 + 4_000_000 * 32 + more) / 1e9:.2g} GB of disk")


def test_disk_space_counts_mean_disagreement_and_labels_of_an_ensemble(tmp_path):
    found = described(tmp_path, seeds=[1], ensemble=True)
    disk = 8_500_000 * 18 + 4_000_000 * 32 + 4_500_000 * 12 + 2 * 500_000 * 4
    assert found.endswith(f"at most {disk / 1e9:.2g} GB of disk")


@pytest.mark.parametrize("ensemble", [False, True])
def test_disk_space_counts_affinities(tmp_path, ensemble):
    training = {"tile": 108, "iterations": 1000, "validation_interval": 100, "affinities": True}
    found = described(tmp_path, training=training, seeds=[1], ensemble=ensemble)
    disk = 8_500_000 * 18 + 4_000_000 * 32 + ensemble * (4_500_000 * 12 + 2 * 500_000 * 4)
    disk += (8_500_000 + (1 + ensemble) * 4_000_000 + ensemble * 2 * 500_000) * 12 * 4
    assert found.endswith(f"at most {disk / 1e9:.2g} GB of disk")


def test_orientations_and_seeds_multiply_it(tmp_path):
    line = described(tmp_path, seeds=[1, 2], prediction={"average_orientations": True})
    train = 1000 * 0.6 + 10 * 2_000_000 * PIXEL
    total = 3 * (train + 8 * 4_000_000 * PIXEL + 4_000_000 * estimate.SCORING)
    total += 8 * 500_000 * PIXEL  # only one network predicts new volumes
    total += estimate.JOBS + 2 * estimate.STARTS
    assert f"about {total / 3600:.2g} h on" in line and "for each of 3 models" in line


def test_a_study_of_equal_time_takes_that_time_for_each_model(tmp_path):
    study = {"minutes": 30, "variants": {"a": {}, "b": {"training": {"iterations": 10**6}}}}
    line = described(tmp_path, seeds=[1], folds=3, study=study)
    train = 30 * 60 + 10 * 2_000_000 * PIXEL
    assert f"(training: {train / 60:.2g} min for each of 12 models)" in line
    other = {"variants": {"a": {}, "b": {"training": {"iterations": 3000}}}}
    validations = 10 * 2_000_000 * PIXEL
    train = (1000 * 0.6 + validations + 3000 * 0.6 + 3 * validations) / 2
    assert f"(training: {train / 60:.2g} min for each of 2 models)" in described(tmp_path, study=other)


def test_a_larger_batch_needs_fewer_steps_for_the_same_pixels(tmp_path):
    batch = {"tile": 108, "iterations": 1000, "validation_interval": 100, "batch": 4}
    train = 1000 * 0.6 + 10 * 2_000_000 * PIXEL / 4
    assert f"(training: {train / 60:.2g} min)" in described(tmp_path, training=batch)


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (98.9, "99 s"), (101, "1.7 min"), (9000, "2.5 h"), (4e5, "5 days")]
)
def test_durations(seconds, text):
    assert estimate._duration(seconds) == text
