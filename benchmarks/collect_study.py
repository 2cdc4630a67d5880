"""Collect the committed results of a study: its page, its table of differences, and the scores of each model.

    python -m benchmarks.collect_study RESULTS docs/measurements/study NAME

writes NAME.html, NAME.csv and NAME_scores.csv. The latter has the mean score of each model over the volumes
of a split, at the threshold that was chosen on the validation volumes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from pipeline_lib.runtime.files import read_json
from pipeline_lib.scores import at_chosen_threshold, read_scores


def collect(results: Path, folder: Path, name: str) -> None:
    """Write the files of a study."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(results / "comparison.html", folder / f"{name}.html")
    shutil.copyfile(results / "comparison.csv", folder / f"{name}.csv")
    scores = read_scores(results / "study_scores.csv")
    thresholds = {
        model: read_json(results / "postprocessing" / f"{model}.json")["threshold"]
        for model in scores.network.unique()
    }
    keys = ["variant", "seed", "fold", "split", "metric", "threshold"]
    means = at_chosen_threshold(scores, thresholds).groupby(keys, sort=False).value.mean()
    means.round(6).reset_index().to_csv(folder / f"{name}_scores.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Collect the committed results of a study.")
    parser.add_argument("results", type=Path, help="results folder of the study")
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("name", help="name of the files")
    collect(**vars(parser.parse_args()))
