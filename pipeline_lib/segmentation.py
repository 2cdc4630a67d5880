"""Segmentation stage: a threshold chosen on the validation split, and the instances it gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_lib import imageio, layout, metrics, provenance
from pipeline_lib.errors import InputError
from pipeline_lib.files import read_json, write_json
from pipeline_lib.instances import instances
from pipeline_lib.labels import cells_apart, number_through
from pipeline_lib.log import logger

# Up to 0.95: the membranes of a model trained briefly have gaps that only a high threshold closes.
THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))

# name -> (score of labels against predicted labels, whether more is better)
CRITERIA = {
    "rand_error": (metrics.rand_error, False),
    "v_rand_thin": (lambda labels, predicted: metrics.v_rand(labels, metrics.thin_borders(predicted)), True),
    "seg": (metrics.seg, True),
}


def choose_threshold(
    datasets: Sequence[Path],
    predictions: Sequence[Path],
    output: Path,
    *,
    criterion: str = "rand_error",
    minimum_size: int = 0,
) -> None:
    """Write the threshold best by `criterion`, averaged over the sections of the validation volumes (JSON).

    The grid and its values are written too. Ties take the threshold in the middle of the tied ones, farthest
    from where the score falls off.
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"segmentation.criterion: found `{criterion}`, expected one of {', '.join(CRITERIA)}."
        )
    score, more_is_better = CRITERIA[criterion]
    values = []
    for dataset, prediction in zip(datasets, predictions, strict=True):
        with (
            layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
            layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
        ):
            for z, probability in enumerate(predicted[layout.CELL_PROBABILITY.name]):
                labels = truth[layout.LABELS.name][z]
                if criterion != "seg":
                    labels = metrics.connected_components(
                        cells_apart(labels, truth[layout.SEPARATION_BORDER.name][z])
                    )
                values.append([score(labels, instances(probability, t, minimum_size)) for t in THRESHOLDS])
    mean = np.nanmean(values, axis=0)
    best = np.flatnonzero(mean == (mean.max() if more_is_better else mean.min()))
    threshold = THRESHOLDS[best[len(best) // 2]]
    write_json(
        output,
        {
            "threshold": threshold,
            "criterion": criterion,
            "grid": THRESHOLDS,
            "value": mean.tolist(),
            "provenance": provenance.record(
                [*datasets, *predictions], criterion=criterion, minimum_size=minimum_size
            ),
        },
    )
    logger.info(
        "threshold %.2f: mean %s %.4f over %d validation sections",
        threshold,
        criterion,
        mean[best[0]],
        len(values),
    )


def segment(
    prediction: Path, threshold: Path, labels: Path, cell_probability: Path, *, minimum_size: int = 0
) -> None:
    """Write the instances of `prediction` (HDF5) at the chosen threshold, and its probability map.

    Both TIFF stacks (z, y, x): `labels` uint16 (uint32 from 65,536 cells on), numbered through the volume,
    0 = background, without components smaller than `minimum_size` px; `cell_probability` float32 in 0..1.
    """
    t = read_json(threshold)["threshold"]
    with layout.require(prediction, layout.CELL_PROBABILITY) as file:
        probability = file[layout.CELL_PROBABILITY.name]
        found = number_through(np.stack([instances(section, t, minimum_size) for section in probability]))
        imageio.write_labels(labels, found)
        imageio.write_probability(cell_probability, probability)
    logger.info("%s: %d cells in %d sections at threshold %.2f", labels, found.max(), len(found), t)
