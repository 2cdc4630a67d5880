import re

import numpy as np
import pandas as pd
import pytest
import tifffile

from pipeline_lib import imageio, layout, metrics
from pipeline_lib.errors import InputError
from pipeline_lib.evaluation import COLUMNS, collect_scores, evaluate, main
from pipeline_lib.files import write_json
from pipeline_lib.labels import separation_border


@pytest.fixture
def folder(tmp_path):
    """Instances that share a side, and a prediction that finds the border between them."""
    labels = np.zeros((2, 24, 30), np.uint32)
    labels[:, 2:22, 2:15], labels[:, 2:22, 15:28] = 4, 9
    border = np.stack([separation_border(s, 2) for s in labels])
    rng = np.random.default_rng(0)
    probability = np.where((labels > 0) & ~border, 0.86, 0.1) + rng.uniform(-0.05, 0.05, labels.shape)
    with layout.create(tmp_path / "dataset.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = border
    with layout.create(tmp_path / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    write_json(tmp_path / "threshold.json", {"threshold": 0.55})
    return tmp_path


def scores(folder, **names):
    names = {"volume": "007", "split": "test", "network": "unet"} | names
    evaluate(
        folder / "dataset.h5",
        folder / "prediction.h5",
        folder / "threshold.json",
        folder / "scores.csv",
        **names,
    )
    return pd.read_csv(folder / "scores.csv", dtype={"volume": str})


def test_scores_are_tidy_over_the_challenges_thresholds_and_the_chosen_one(folder):
    table = scores(folder)
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["metric", "threshold"]).any()
    assert sorted(table.threshold.unique()) == pytest.approx(sorted([*metrics.CHALLENGE_THRESHOLDS, 0.55]))
    at = table[table.threshold == 0.55].set_index("metric").value
    for metric in ("pixel_error", "rand_error", "warping_error"):
        assert at[metric] == 0
    assert at["v_rand_thin"] > 0.9
    assert at["seg"] == at["iou"] == pytest.approx(24 / 26)  # both cells lack their column of the border
    assert table[table.threshold == 0].set_index("metric").value["rand_error"] > 0.3


def test_shapes_that_differ_are_named(folder):
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, (2, 24, 31))
    with pytest.raises(InputError, match=r"shape \(2, 24, 31\), but .* has \(2, 24, 30\)"):
        scores(folder)


def test_tables_are_joined_whole(folder):
    first = scores(folder)
    (folder / "scores.csv").rename(folder / "a.csv")
    scores(folder, volume="b", split="validation").to_csv(folder / "b.csv", index=False)
    collect_scores([folder / "a.csv", folder / "b.csv"], folder / "all.csv")
    joined = pd.read_csv(folder / "all.csv", dtype={"volume": str})
    assert len(joined) == 2 * len(first) and set(joined.volume) == {"007", "b"}
    written = pd.read_csv(folder / "all.csv", float_precision="round_trip")
    assert set(metrics.CHALLENGE_THRESHOLDS) < set(written.threshold)  # to the last digit


@pytest.fixture
def images(folder):
    """Truth and prediction of `folder` as images, the way another tool would leave them."""
    with layout.require(folder / "dataset.h5") as truth, layout.require(folder / "prediction.h5") as file:
        tifffile.imwrite(folder / "truth.tif", truth["labels"][:].astype(np.uint16), photometric="minisblack")
        imageio.write_probability(folder / "p.tif", file["cell_probability"])
    return folder / "truth.tif", folder / "p.tif"


def test_any_tools_output_is_scored_from_the_command_line_as_in_the_workflow(folder, images, capsys):
    write_json(folder / "threshold.json", {"threshold": metrics.CHALLENGE_THRESHOLDS[5]})
    assert main([*map(str, images), "--csv", str(folder / "out.csv")]) == 0
    found = pd.read_csv(folder / "out.csv").set_index(["metric", "threshold"]).value
    expected = scores(folder).set_index(["metric", "threshold"]).value
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index())
    printed = capsys.readouterr().out
    assert "truth.tif: 2 sections of 24 x 30 px" in printed
    assert "Instances, at the threshold with the best SEG (0.2):" in printed


def test_the_command_line_ends_on_one_sentence_and_writes_nothing(folder, images, capsys):
    truth, _ = images
    tifffile.imwrite(folder / "small.tif", np.zeros((2, 24, 29), np.float32), photometric="minisblack")
    assert main([str(truth), str(folder / "small.tif"), "--csv", str(folder / "out.csv")]) == 1
    message = r"error: .*small\.tif: shape \(z, y, x\) \(2, 24, 29\), but .*truth\.tif"
    assert re.match(message, capsys.readouterr().err)
    assert not (folder / "out.csv").exists()
