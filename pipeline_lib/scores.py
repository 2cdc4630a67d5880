"""The table of scores: its columns, its rows at the chosen thresholds, and the spread over seeds."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, replacing

if TYPE_CHECKING:
    import pandas as pd

#: Columns of a table of scores.
COLUMNS = ["volume", "split", "network", "variant", "seed", "fold", "metric", "threshold", "value"]
#: Columns of a table of the scores of sections.
SECTION_COLUMNS = [*COLUMNS, "section"]
#: Columns of a table of scores that name the model and what it was scored on.
NAME_COLUMNS = COLUMNS[: COLUMNS.index("metric")]
#: Columns of the table of `spread`.
SPREAD_COLUMNS = ["split", "metric", "seeds", "mean", "standard_deviation", "minimum", "maximum"]

#: Beginning of the names of sums over the pixels of a volume, whose mean over volumes or models says nothing.
SUMS = "reliability_"


def write_scores(
    output: str | Path,
    sections: str | Path,
    names: dict[str, Any],
    scores: pd.DataFrame,
    by_section: pd.DataFrame,
) -> None:
    """Write the scores of a volume and those of its sections (CSV).

    Parameters
    ----------
    output : str or Path
        File to write, with the `COLUMNS`.
    sections : str or Path
        File to write, with the `SECTION_COLUMNS`.
    names : dict
        Values of the columns that are the same in all rows: volume, split, network, variant, seed and fold.
    scores : pandas.DataFrame
        Columns metric, threshold and value.
    by_section : pandas.DataFrame
        Columns section, metric, threshold and value.
    """
    import pandas as pd

    for path, rows, columns in ((output, scores, COLUMNS), (sections, by_section, SECTION_COLUMNS)):
        # in one step, which takes a fifth of the time of `assign`
        table = pd.DataFrame(names | dict(rows.items()), columns=columns)
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)


def read_threshold(path: str | Path) -> float:
    """Return the threshold of a model: of its cell probability, or of the scores of its boxes.

    Parameters
    ----------
    path : str or Path
        JSON file of the stage that chose the threshold, for a network of any task or a baseline.

    Returns
    -------
    float
        The threshold, 0 to 1.

    Raises
    ------
    InputError
        If the file cannot be read, or has no threshold.

    Examples
    --------
    >>> from pipeline_lib.scores import read_threshold
    >>> read_threshold("results/postprocessing/unet.json")  # doctest: +SKIP
    0.45
    """
    content = read_json(path)
    found = content.get("threshold") if isinstance(content, dict) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found <= 1:
        raise InputError(
            f"{path}: found {found!r} as `threshold`, expected a number from 0 to 1. Delete the file and run "
            "the workflow again."
        )
    return float(found)


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

    types = {"volume": str, "network": str, "variant": str, "seed": "Int64"}
    names = ("volume", "split", "network", "variant", "metric")  # may be 1 or NA
    with Path(path).open(encoding="utf-8") as file:
        numbers = [column for column in file.readline().rstrip("\n").split(",") if column not in names]
    missing = {column: [""] for column in numbers}
    return pd.read_csv(
        path, dtype=types, float_precision="round_trip", keep_default_na=False, na_values=missing
    )


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
        network. `SUMS` are left out.
    """
    scores = scores[~scores.metric.str.startswith(SUMS)]
    means = scores.groupby(["split", "metric", "network"], sort=False).value.mean()
    over_seeds = means.groupby(["split", "metric"], sort=False).agg(["count", "mean", "std", "min", "max"])
    return over_seeds.reset_index().set_axis(SPREAD_COLUMNS, axis=1)


def scores_before(folder: str | Path, network: str, baselines: Collection[str]) -> list[Path]:
    """Return the files with the scores of a run: the scores, the chosen threshold, and the spread over seeds.

    Parameters
    ----------
    folder : str or Path
        Its results folder.
    network : str
        Name of the trained network. If it had another name in this run, its only network or its ensemble is
        taken.
    baselines : collection of str
        Names that are no networks.

    Returns
    -------
    list of Path
        Two files, or three if it had several seeds.

    Raises
    ------
    InputError
        If the run has no network, or several and none has this name.
    """
    scores = Path(folder, "scores.csv")
    every = {path.stem: path for path in sorted(Path(folder, "postprocessing").glob("*.json"))}
    networks = [name for name in every if name not in baselines]
    name = next((name for name in (network, "ensemble") if name in networks), None)
    if name is None and len(networks) == 1:
        (name,) = networks
    if name is None:
        raise InputError(
            f"config key `report.before`: {folder} has several networks ({', '.join(networks)}), and none "
            f"is called {network}, so it is not known which to compare with. Remove the key, or name the "
            "results folder of another run."
            if networks
            else f"config key `report.before`: {folder} has no chosen threshold in `postprocessing`. Name "
            "the results folder of a complete run."
        )
    chosen = every[name]
    spread = Path(folder, "scores_spread.csv")
    return [scores, chosen, *([spread] if spread.exists() else [])]
