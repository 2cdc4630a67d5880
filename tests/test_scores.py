"""Compare the scores at the chosen thresholds, and their spread, with a simple calculation."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from pipeline_lib.metrics import CHALLENGE_THRESHOLDS
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.scores import (
    COLUMNS,
    SPREAD_COLUMNS,
    at_chosen_threshold,
    read_scores,
    scores_before,
    spread,
)
from pipeline_lib.stages.evaluation import measure_spread

THRESHOLDS = {"unet": 0.3, "unet-seed2": 0.7, "unet-seed5": 0.85, "constant": 0.2}


def tidy(networks=THRESHOLDS, splits=("validation", "test"), volumes=3):
    """Return random scores at the challenge's thresholds and at 0.3 and 0.85; 0.3 is nearly one of them."""
    at = [*CHALLENGE_THRESHOLDS, 0.3, 0.85]
    keys = product(splits, range(volumes), networks, [0], ["seg", "rand_error"], at)
    table = pd.DataFrame(keys, columns=["split", "volume", "network", "fold", "metric", "threshold"])
    table["volume"] = table.split + "-" + table.volume.astype(str)
    table["value"] = np.random.default_rng(0).random(len(table))
    return table.assign(variant="unet", seed=0)[COLUMNS]


def test_rows_are_at_the_chosen_threshold_and_not_at_one_that_differs_in_the_last_digit():
    rows = at_chosen_threshold(tidy(), THRESHOLDS)
    assert 0.30000000000000004 in tidy().threshold.to_numpy()
    assert dict(zip(rows.network, rows.threshold, strict=True)) == THRESHOLDS
    assert not rows.duplicated(["volume", "network", "metric"]).any()
    assert len(rows) == 2 * 3 * 4 * 2


def test_chosen_threshold_with_rounded_digits_selects_the_nearest_one():
    rows = at_chosen_threshold(tidy(), {"unet": 0.85, "constant": 0.2 + 1e-12})
    assert dict(zip(rows.network, rows.threshold, strict=True)) == {"unet": 0.85, "constant": 0.2}


def test_networks_without_a_threshold_are_left_out():
    assert {*at_chosen_threshold(tidy(), {"constant": 0.2}).network} == {"constant"}


def test_spread_is_over_the_mean_of_each_training(tmp_path):
    networks = ("unet", "unet-seed2", "unet-seed5")
    table = tidy()
    sums = table[table.metric == "seg"].assign(metric="reliability_pixels_0.5")  # whose mean says nothing
    pd.concat([table, sums]).to_csv(tmp_path / "scores.csv", index=False)
    for name in networks:
        write_json(tmp_path / f"{name}.json", {"threshold": THRESHOLDS[name], "minimum_size": 0})
    measure_spread(
        tmp_path / "scores.csv", [tmp_path / f"{name}.json" for name in networks], tmp_path / "spread.csv"
    )
    found = pd.read_csv(tmp_path / "spread.csv", float_precision="round_trip")
    assert [*found.columns] == SPREAD_COLUMNS
    assert len(found) == 2 * 2
    scores = read_scores(tmp_path / "scores.csv")
    for row in found.itertuples():
        means = []
        for name in networks:
            where = [row.split, row.metric, name, THRESHOLDS[name]]
            values = scores.value[scores[["split", "metric", "network", "threshold"]].eq(where).all(axis=1)]
            assert len(values) == 3  # volumes
            means.append(np.mean(values))
        assert row.seeds == 3
        numbers = (row.mean, row.standard_deviation, row.minimum, row.maximum)
        expected = (np.mean(means), np.std(means, ddof=1), np.min(means), np.max(means))
        np.testing.assert_allclose(numbers, expected, rtol=1e-12)


def test_spread_ignores_seeds_without_a_score():
    table = at_chosen_threshold(tidy(["unet", "unet-seed2", "unet-seed5"]), THRESHOLDS)
    table.loc[(table.metric == "seg") & (table.network != "unet"), "value"] = np.nan
    found = spread(table).set_index(["split", "metric"])
    unet = table[(table.network == "unet") & (table.metric == "seg") & (table.split == "test")].value.mean()
    seg = found.loc["test", "seg"]
    assert (seg.seeds, seg["mean"], seg.minimum, seg.maximum) == (1, unet, unet, unet)
    assert np.isnan(seg.standard_deviation)
    assert found.loc["test", "rand_error"].seeds == 3


@pytest.mark.parametrize("name", ["NA", "None", "null", "nan", "1", "", "a b"])
def test_names_are_text_and_missing_numbers_are_not(tmp_path, name):
    table = tidy()
    table["volume"], table["variant"] = name or "x", name or "x"
    table.loc[0, "value"], table["seed"] = np.nan, pd.array([pd.NA] * len(table), "Int64")
    table.to_csv(tmp_path / "scores.csv", index=False)
    found = read_scores(tmp_path / "scores.csv")
    assert {*found.volume} == {*found.variant} == {name or "x"}
    assert found.value.isna().sum() == 1 and found.seed.isna().all()
    np.testing.assert_array_equal(found.value, table.value)
    assert found.fold.dtype.kind == "i"


def test_the_run_before_may_have_a_network_of_another_name(tmp_path):
    folder = tmp_path / "postprocessing"
    folder.mkdir()
    with pytest.raises(InputError, match=r"no chosen threshold in `postprocessing`\. Name the results"):
        scores_before(tmp_path, "ensemble", ("constant", "smoothed_raw"))
    for name in ("unet", "constant", "smoothed_raw"):
        (folder / f"{name}.json").touch()
    assert scores_before(tmp_path, "ensemble", ("constant", "smoothed_raw")) == [
        tmp_path / "scores.csv",
        folder / "unet.json",
    ]
    (folder / "fcn8s.json").touch()
    assert scores_before(tmp_path, "fcn8s", ("constant", "smoothed_raw"))[1] == folder / "fcn8s.json"
    with pytest.raises(InputError, match=r"several networks \(fcn8s, unet\), and none is called ssd"):
        scores_before(tmp_path, "ssd", ("constant", "smoothed_raw"))
    (folder / "ensemble.json").touch()
    assert scores_before(tmp_path, "ssd", ("constant", "smoothed_raw"))[1] == folder / "ensemble.json"
