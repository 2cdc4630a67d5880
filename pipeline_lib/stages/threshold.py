"""Threshold stage: the threshold of the cell probability that is best on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_lib import layout, metrics, provenance
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.instances.postprocessing import instances
from pipeline_lib.kernels.threads import over_sections
from pipeline_lib.memory import CHOICE_BYTES_PER_PIXEL, threads_for
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger

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
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Write the threshold best by `criterion`, averaged over the sections of the validation volumes (JSON).

    The grid and its values are written too. Ties take the threshold in the middle of the tied ones, farthest
    from where the score falls off. Sections are read one by one and scored by as many of `threads` as
    `memory_gb` has room for; `InputError` where it has room for none.
    """
    inputs = [*datasets, *predictions]
    settings = {"criterion": criterion, "minimum_size": minimum_size}
    with provenance.making("choose_threshold", [output], inputs, **settings) as record:
        if criterion not in CRITERIA:
            raise InputError(
                f"segmentation.criterion: found `{criterion}`, expected one of {', '.join(CRITERIA)}."
            )
        values = [
            of_section
            for paths in zip(datasets, predictions, strict=True)
            for of_section in _values(*paths, **settings, memory_gb=memory_gb, threads=threads)
        ]
        more_is_better = CRITERIA[criterion][1]
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
                "provenance": record,
            },
        )
        logger.info(
            "%s: threshold %.2f, mean %s %.4f over %d validation sections",
            output,
            threshold,
            criterion,
            mean[best[0]],
            len(values),
        )


def _values(
    dataset: Path, prediction: Path, criterion: str, minimum_size: int, memory_gb: float, threads: int
) -> list[list[float]]:
    """The criterion of each section of a volume at each threshold."""
    score, _ = CRITERIA[criterion]
    with (
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
    ):
        labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
        probability = predicted[layout.CELL_PROBABILITY.name]

        def prepare(z: int) -> tuple[np.ndarray, np.ndarray]:
            own = labels[z]
            if criterion != "seg":
                own = metrics.connected_components(cells_apart(own, border[z]))
            return own, probability[z]

        return over_sections(
            prepare,
            lambda section, t: score(section[0], instances(section[1], t, minimum_size)),
            len(labels),
            THRESHOLDS,
            threads_for(labels.shape[1:], CHOICE_BYTES_PER_PIXEL, memory_gb, threads),
        )
