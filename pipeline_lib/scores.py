"""The table of scores: its columns, its rows at the chosen thresholds, and the spread over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["volume", "split", "network", "fold", "metric", "threshold", "value"]
SPREAD_COLUMNS = ["split", "metric", "seeds", "mean", "standard_deviation", "minimum", "maximum"]


def read_scores(path: str | Path) -> pd.DataFrame:
    """Return a table of scores (`COLUMNS`) from a CSV file, with all digits of the numbers."""
    import pandas as pd  # imported here because it takes 0.25 s; joining tables does not need it

    return pd.read_csv(path, dtype={"volume": str}, float_precision="round_trip")


def at_chosen_threshold(scores: pd.DataFrame, thresholds: dict[str, float]) -> pd.DataFrame:
    """Return the rows of `scores` at the threshold of their network: one per volume, network and metric.

    `thresholds` has the chosen threshold of each network. Rows of other networks are left out.
    """
    distance = (scores.threshold - scores.network.map(thresholds)).abs()
    # the nearest, because a threshold can differ in the last digits after it was written to CSV
    return scores[distance == distance.groupby(scores.network).transform("min")]


def spread(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how the mean score of each split and metric varies over networks (`SPREAD_COLUMNS`).

    `scores` has one row per volume, network and metric; one network was trained for each seed. A network's
    score is the mean over its volumes. `seeds` is the number of networks for which the score is defined.
    `standard_deviation` is the square root of the unbiased variance (n - 1), and NaN for a single network.
    """
    means = scores.groupby(["split", "metric", "network"], sort=False).value.mean()
    over_seeds = means.groupby(["split", "metric"], sort=False).agg(["count", "mean", "std", "min", "max"])
    return over_seeds.reset_index().set_axis(SPREAD_COLUMNS, axis=1)
