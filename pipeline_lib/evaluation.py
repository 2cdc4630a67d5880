"""Evaluation stage: truth and prediction in, a tidy table of scores out.

`python -m pipeline_lib.evaluation TRUTH PROBABILITY` scores any tool's output, without the workflow.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from pipeline_lib import imageio, layout, metrics
from pipeline_lib.errors import InputError
from pipeline_lib.files import read_json, replacing
from pipeline_lib.instances import instances
from pipeline_lib.labels import cells_apart, separation_border
from pipeline_lib.log import logger

COLUMNS = ["volume", "split", "network", "fold", "metric", "threshold", "value"]
SHOWN = ["metric", "best", "threshold", "pixel_error", "rand_error", "v_rand_thin", "warping_error"]
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
        scores = metrics.isbi_scores(cells, probability, thresholds, workers=threads)
        objects = _instance_scores(labels[:], probability[:], thresholds, minimum_size)
    table = pd.concat([scores, objects]).assign(volume=volume, split=split, network=network, fold=fold)
    with replacing(output) as temporary:
        table[COLUMNS].to_csv(temporary, index=False)
    logger.info("%s (%s, %s): %d scores", volume, split, network, len(table))


def _instance_scores(
    labels: np.ndarray, probability: np.ndarray, thresholds: Sequence[float], minimum_size: int
) -> pd.DataFrame:
    rows = []
    for t in thresholds:
        found = np.stack([instances(section, t, minimum_size) for section in probability])
        scores = metrics.instance_scores(labels, found)
        rows += [(metric, t, scores[metric]) for metric in INSTANCE_METRICS]
    return pd.DataFrame(rows, columns=["metric", "threshold", "value"])


def collect_scores(scores: Sequence[Path], output: Path) -> None:
    """Join the tables of all volumes into one (CSV: `COLUMNS`)."""
    with replacing(output) as temporary:
        # round_trip: the challenge's thresholds differ from round numbers in the last digit, and keep it
        tables = [pd.read_csv(path, dtype={"volume": str}, float_precision="round_trip") for path in scores]
        pd.concat(tables).to_csv(temporary, index=False)


def score_files(truth: Path, cell_probability: Path, *, annotation_kind: str = "auto") -> pd.DataFrame:
    """Score a probability map in a file against an annotation in a file; columns metric, threshold, value.

    Both in any form that `imageio` reads, (z, y, x) or (y, x); the map 0..1, or uint8 0..255. Cells of an
    instance annotation that touch are parted by a separation border of 2 px for the challenge's scores, as
    the workflow does by default. Raises `InputError` for files that cannot be read or scored.
    """
    annotation = imageio.read_annotation(truth, kind=annotation_kind)
    probability = imageio.read_images(cell_probability)[0]
    if annotation.array.shape != probability.shape:
        raise InputError(
            f"{cell_probability}: shape (z, y, x) {probability.shape}, but {truth} has "
            f"{annotation.array.shape}. Both must show the same sections at the same size."
        )
    print(f"{truth}: {annotation.description}")
    cells, labels = annotation.array, annotation.array
    if annotation.kind == "instances":
        cells = np.stack([cells_apart(section, separation_border(section, 2)) for section in cells])
    else:
        labels = metrics.connected_components(cells)
    progress = partial(tqdm, total=len(cells), unit="section", leave=False)
    scores = metrics.isbi_scores(cells, probability, progress=progress)
    as_float = probability / 255 if probability.dtype == np.uint8 else probability
    return pd.concat([scores, _instance_scores(labels, as_float, metrics.CHALLENGE_THRESHOLDS, 0)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; prints the best scores and what the others say there. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.evaluation", description="Score a probability map against an annotation."
    )
    parser.add_argument("truth", type=Path, help="annotation: membranes or instance labels")
    parser.add_argument("cell_probability", type=Path, help="probability of cell, 0..1 or 0..255")
    parser.add_argument("--csv", type=Path, help="write every score at every threshold here")
    parser.add_argument("--annotation-kind", choices=imageio.ANNOTATION_KINDS, default="auto")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        scores = score_files(options.truth, options.cell_probability, annotation_kind=options.annotation_kind)
        if options.csv:
            with replacing(options.csv) as temporary:
                scores.to_csv(temporary, index=False)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\nThe best of each score over the thresholds, and what the others say there:\n")
    print(metrics.summary_table(scores)[SHOWN].to_string(index=False, float_format="%.4f"))
    of_instances = scores[scores.metric.isin(INSTANCE_METRICS)]
    at = of_instances.pivot(index="threshold", columns="metric", values="value")
    print(f"\nInstances, at the threshold with the best SEG ({at.seg.idxmax():.1f}):\n")
    print(at.loc[[at.seg.idxmax()], list(INSTANCE_METRICS)].to_string(index=False, float_format="%.4f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
