"""The table of scores: its columns, what it says at the chosen thresholds, and its spread over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["volume", "split", "network", "fold", "metric", "threshold", "value"]
SPREAD_COLUMNS = ["split", "metric", "seeds", "mean", "standard_deviation", "minimum", "maximum"]


def read_scores(path: str | Path) -> pd.DataFrame:
    """The table of scores at `path` (CSV), `COLUMNS`, to the last digit."""
    import pandas as pd  # 0.25 s that joining tables does without

    return pd.read_csv(path, dtype={"volume": str}, float_precision="round_trip")


def at_chosen_threshold(scores: pd.DataFrame, thresholds: dict[str, float]) -> pd.DataFrame:
    """Rows of `scores` at the threshold chosen for their network: one per volume, network and metric.

    Networks that `thresholds` does not have are left out.
    """
    distance = (scores.threshold - scores.network.map(thresholds)).abs()
    # the nearest: a threshold may have lost its last digit on its way through CSV
    return scores[distance == distance.groupby(scores.network).transform("min")]


def spread(scores: pd.DataFrame) -> pd.DataFrame:
    """How the mean score of each split and metric varies over the networks of `scores` (`SPREAD_COLUMNS`).

    `scores` has one row per volume, network and metric; networks count alike, as one was trained per seed.
    `seeds` is the number of those for which the score is defined, `standard_deviation` the square root of the
    unbiased variance (n - 1); NaN of a single one.
    """
    means = scores.groupby(["split", "metric", "network"], sort=False).value.mean()
    over_seeds = means.groupby(["split", "metric"], sort=False).agg(["count", "mean", "std", "min", "max"])
    return over_seeds.reset_index().set_axis(SPREAD_COLUMNS, axis=1)
