import json

import numpy as np
import pytest
import tifffile

from pipeline_lib import layout
from pipeline_lib.errors import InputError
from pipeline_lib.instances import instances
from pipeline_lib.labels import separation_border
from pipeline_lib.segmentation import THRESHOLDS, choose_threshold, segment


@pytest.fixture
def folder(tmp_path):
    """Two cells whose membrane has a gap that only thresholds above 0.7 close.

    Above 0.9 they vanish.
    """
    labels = np.zeros((2, 20, 30), np.uint32)
    labels[:, 2:18, 2:14], labels[:, 2:18, 16:28] = 1, 2
    probability = np.where(labels > 0, 0.9, 0.05).astype(np.float32)
    probability[:, 9, 14:16] = 0.7
    probability[:, 0, 0] = 0.99
    with layout.create(tmp_path / "dataset.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = [
            separation_border(s, 2) for s in labels
        ]
    with layout.create(tmp_path / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    return tmp_path


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin", "seg"])
def test_the_threshold_closes_the_gap_and_lies_in_the_middle_of_the_best(folder, criterion):
    choose_threshold(
        [folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", criterion=criterion
    )
    found = json.loads((folder / "t.json").read_text())
    assert (
        found["threshold"] == 0.8
    )  # of 0.7 (strictly above: the gap, at float32 0.7, is just below it), 0.75, 0.8, 0.85
    assert found["grid"] == list(THRESHOLDS) and max(THRESHOLDS) == 0.95
    at = dict(zip(found["grid"], found["value"], strict=True))
    assert at[0.8] == pytest.approx(0 if criterion == "rand_error" else 1, abs=0.02)
    assert abs(at[0.5] - at[0.8]) > 0.2 and abs(at[0.95] - at[0.8]) > 0.2


def test_components_below_the_minimum_size_do_not_count_in_the_choice(folder):
    best = []
    for size in (0, 10_000):
        choose_threshold(
            [folder / "dataset.h5"],
            [folder / "prediction.h5"],
            folder / "t.json",
            criterion="seg",
            minimum_size=size,
        )
        best.append(max(json.loads((folder / "t.json").read_text())["value"]))
    assert best[0] > 0.9 and best[1] == 0


def test_an_unknown_criterion_names_the_known(folder):
    with pytest.raises(InputError, match="found `dice`, expected one of rand_error, v_rand_thin, seg"):
        choose_threshold(
            [folder / "dataset.h5"], [folder / "prediction.h5"], folder / "t.json", criterion="dice"
        )


def test_segmentation_opens_as_labels_numbered_through_the_stack(folder):
    (folder / "t.json").write_text('{"threshold": 0.8}')
    segment(
        folder / "prediction.h5", folder / "t.json", folder / "labels.tif", folder / "p.tif", minimum_size=2
    )
    labels = tifffile.imread(folder / "labels.tif")
    assert labels.dtype == np.uint16
    assert [list(np.unique(s)) for s in labels] == [[0, 1, 2], [0, 3, 4]]
    assert tifffile.imread(folder / "p.tif").dtype == np.float32
    with tifffile.TiffFile(folder / "labels.tif") as file:
        assert file.series[0].axes == "ZYX" and file.pages[0].compression.name == "ADOBE_DEFLATE"


def test_small_components_go_and_the_others_are_renumbered():
    probability = np.array([[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 1]], np.float32)
    every = instances(probability, 0.5)
    np.testing.assert_array_equal(every > 0, probability > 0.5)
    kept = instances(probability, 0.5, minimum_size=2)
    np.testing.assert_array_equal(kept > 0, [[0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]])
    assert set(np.unique(kept)) == {0, 1, 2}


def test_thresholds_compare_in_float64():
    """float32(0.7) is below 0.7, float32(0.3) above 0.3."""
    assert not instances(np.full((2, 2), 0.7, np.float32), 0.7).any()
    assert instances(np.full((2, 2), 0.3, np.float32), 0.3).all()
    assert not instances(np.full((2, 2), 0.5, np.float32), 0.5).any()  # strictly above
