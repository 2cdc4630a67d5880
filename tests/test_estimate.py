"""Estimate of time and disk space at the end of a check."""

import h5py
import pytest
from bordure import estimate
from bordure.settings import complete

SHAPES = {"learn": (4, 100, 100), "choose": (1, 100, 200), "score": (2, 100, 100), "new": (1, 50, 100)}
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
    config = complete({"volumes": "v.tsv"} | sections | settings)
    return estimate.describe_run(config, SHAPES, SPLITS, files, per_step=0.6)


def test_time_counts_training_validations_and_predictions(tmp_path):
    # a tile of 108 px gives 100 px, so a pixel takes .6 / 100^2 / 3 = 20 us
    train = 1000 * 0.6 + 10 * 20_000 * 20e-6
    rest = estimate.JOBS + (20_000 + 20_000 + 5_000) * 20e-6 + 40_000 * estimate.SCORING
    line = described(tmp_path)
    assert line.startswith("8 sections, 900 cells: about ")
    assert (
        f"about {estimate._duration(train + rest)} on this machine (training: {estimate._duration(train)})"
        in line
    )


def test_orientations_and_seeds_multiply_it(tmp_path):
    line = described(tmp_path, seeds=[1, 2], prediction={"average_orientations": True})
    train = 1000 * 0.6 + 10 * 20_000 * 20e-6
    total = 3 * (train + 8 * 45_000 * 20e-6 + 40_000 * estimate.SCORING) + estimate.JOBS
    assert f"about {estimate._duration(total)} on" in line and "for each of 3 seeds" in line


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "3 s"), (99, "99 s"), (101, "1.7 min"), (9000, "2.5 h"), (4e5, "5 days")]
)
def test_durations(seconds, text):
    assert estimate._duration(seconds) == text
