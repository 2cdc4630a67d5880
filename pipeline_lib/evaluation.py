"""Evaluation stage: truth and prediction in, a tidy table of scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline_lib import layout, metrics
from pipeline_lib.errors import InputError
from pipeline_lib.files import read_json, replacing
from pipeline_lib.instances import instances
from pipeline_lib.labels import cells_apart
from pipeline_lib.log import logger

COLUMNS = ["volume", "split", "network", "fold", "metric", "threshold", "value"]
INSTANCE_METRICS = ("seg", "average_precision", "average_precision_50", "panoptic_quality", "iou", "dice")


def evaluate(
    dataset: Path,
    prediction: Path,
    threshold: Path,
    output: Path,
    *,
    volume: str,
    split: str,
    network: str,
    fold: int = 0,
    minimum_size: int = 0,
    threads: int = 1,
) -> None:
    """Score one volume over the challenge's thresholds and at the chosen one (CSV: `COLUMNS`).

    The challenge's scores see the cells as 4-connected regions and the prediction as it is; the instance
    scores compare the annotated labels with the predicted instances of at least `minimum_size` px. Raises
    `InputError` where dataset and prediction differ in shape.
    """
    thresholds = sorted({*metrics.CHALLENGE_THRESHOLDS, read_json(threshold)["threshold"]})
    with (
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
    ):
        probability = predicted[layout.CELL_PROBABILITY.name]
        labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
        if probability.shape != labels.shape:
            raise InputError(
                f"{prediction}: shape {probability.shape}, but {dataset} has {labels.shape}. Delete the "
                "prediction and run the workflow again."
            )
        cells = np.stack([cells_apart(labels[z], border[z]) for z in range(len(labels))])
        scores = [metrics.isbi_scores(cells, probability, thresholds, workers=threads)]
        for t in thresholds:
            found = np.stack([instances(section, t, minimum_size) for section in probability])
            own = metrics.instance_scores(labels[:], found)
            scores.append(
                pd.DataFrame(
                    {"metric": INSTANCE_METRICS, "threshold": t, "value": [own[m] for m in INSTANCE_METRICS]}
                )
            )
    table = pd.concat(scores).assign(volume=volume, split=split, network=network, fold=fold)
    with replacing(output) as temporary:
        table[COLUMNS].to_csv(temporary, index=False)
    logger.info("%s (%s, %s): %d scores", volume, split, network, len(table))


def collect_scores(scores: Sequence[Path], output: Path) -> None:
    """Join the tables of all volumes into one (CSV: `COLUMNS`)."""
    with replacing(output) as temporary:
        # round_trip: the challenge's thresholds differ from round numbers in the last digit, and keep it
        tables = [pd.read_csv(path, dtype={"volume": str}, float_precision="round_trip") for path in scores]
        pd.concat(tables).to_csv(temporary, index=False)
