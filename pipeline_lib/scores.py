"""The table of scores: its columns, its rows at the chosen thresholds, and the spread over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

#: Columns of a table of scores.
COLUMNS = ["volume", "split", "network", "variant", "seed", "fold", "metric", "threshold", "value"]
#: Columns of a table of the scores of sections.
SECTION_COLUMNS = [*COLUMNS, "section"]
#: Columns of the table of `spread`.
SPREAD_COLUMNS = ["split", "metric", "seeds", "mean", "standard_deviation", "minimum", "maximum"]


def read_scores(path: str | Path) -> pd.DataFrame:
    """Return a table of scores from a CSV file, with all digits of the numbers.

    Parameters
    ----------
    path : str or Path
        CSV file that the evaluation stage wrote, for example `results/scores.csv`.

    Returns
    -------
    pandas.DataFrame
        Table with the columns of the file, usually `COLUMNS`. The seed is missing for baselines.
    """
    import pandas as pd  # imported here because it takes 0.25 s; joining tables does not need it

    # a variant may be named 1 or NA
    types = {"volume": str, "network": str, "variant": str, "seed": "Int64"}
    return pd.read_csv(path, dtype=types, float_precision="round_trip")


def at_chosen_threshold(scores: pd.DataFrame, thresholds: dict[str, float]) -> pd.DataFrame:
    """Return the rows of a table of scores at the threshold of their network.

    Parameters
    ----------
    scores : pandas.DataFrame
        Scores at several thresholds, with the `COLUMNS`.
    thresholds : dict of str to float
        Chosen threshold of each network.

    Returns
    -------
    pandas.DataFrame
        One row for each volume, network and metric. Networks that are not in `thresholds` are left out.
    """
    distance = (scores.threshold - scores.network.map(thresholds)).abs()
    # the nearest, because a threshold can differ in the last digits after it was written to CSV
    return scores[distance == distance.groupby(scores.network).transform("min")]


def spread(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how the mean score of each split and metric varies over networks.

    Parameters
    ----------
    scores : pandas.DataFrame
        One row for each volume, network and metric. One network was trained for each seed. The score of a
        network is the mean over its volumes.

    Returns
    -------
    pandas.DataFrame
        Table with the `SPREAD_COLUMNS`. `seeds` is the number of networks for which the score is defined.
        `standard_deviation` is the square root of the unbiased variance (n - 1), and NaN for a single
        network.
    """
    means = scores.groupby(["split", "metric", "network"], sort=False).value.mean()
    over_seeds = means.groupby(["split", "metric"], sort=False).agg(["count", "mean", "std", "min", "max"])
    return over_seeds.reset_index().set_axis(SPREAD_COLUMNS, axis=1)
