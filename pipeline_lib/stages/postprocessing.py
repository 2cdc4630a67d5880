"""Stage that chooses the post-processing of a model: the threshold that is best on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline_lib import layout, metrics, provenance
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.instances.postprocessing import PostProcessing, instances
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


def choose_postprocessing(
    datasets: Sequence[Path],
    predictions: Sequence[Path],
    output: Path,
    *,
    criterion: str = "rand_error",
    minimum_size: int = 0,
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Write the post-processing of a model (JSON), with the threshold that is best by `criterion`.

    The criterion is the mean over all sections of the validation volumes. If several thresholds are equally
    good, the one in the middle of them is chosen, which is farthest from where the score gets worse.

    Parameters
    ----------
    datasets, predictions : sequence of Path
        HDF5 files of the validation volumes, in the same order.
    output : Path
        The file to write, for `instances.PostProcessing.read`: `threshold` and `minimum_size`; and besides
        `criterion`, the thresholds tried (`grid`) with the mean criterion at each (`value`), and
        `provenance`.
    criterion : str
        A key of `CRITERIA`.
    minimum_size : int
        Instances of fewer pixels are removed (px).
    memory_gb : float
        Limits how many sections are held, and so how many of the `threads` are used.
    threads : int
        How many sections and thresholds are scored at a time, at most.

    Raises
    ------
    InputError
        If the criterion is unknown, or `memory_gb` has no room for one section.
    """
    inputs = [*datasets, *predictions]
    settings = {"criterion": criterion, "minimum_size": minimum_size}
    with provenance.making("choose_postprocessing", [output], inputs, **settings) as record:
        if criterion not in CRITERIA:
            raise InputError(
                f"segmentation.criterion: found `{criterion}`, expected one of {', '.join(CRITERIA)}."
            )
        candidates = [PostProcessing(threshold, minimum_size) for threshold in THRESHOLDS]
        values = [
            of_section
            for paths in zip(datasets, predictions, strict=True)
            for of_section in _values(*paths, criterion, candidates, memory_gb, threads)
        ]
        more_is_better = CRITERIA[criterion][1]
        mean = np.nanmean(values, axis=0)
        best = np.flatnonzero(mean == (mean.max() if more_is_better else mean.min()))
        chosen = candidates[best[len(best) // 2]]
        write_json(
            output,
            {
                **asdict(chosen),
                "criterion": criterion,
                "grid": THRESHOLDS,
                "value": mean.tolist(),
                "provenance": record,
            },
        )
        logger.info(
            "%s: threshold %.2f, mean %s %.4f over %d validation sections",
            output,
            chosen.threshold,
            criterion,
            mean[best[0]],
            len(values),
        )


def _values(
    dataset: Path,
    prediction: Path,
    criterion: str,
    candidates: Sequence[PostProcessing],
    memory_gb: float,
    threads: int,
) -> list[list[float]]:
    """The criterion of each section of a volume for each of the candidates."""
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
            lambda section, candidate: score(section[0], instances(section[1], candidate)),
            len(labels),
            candidates,
            threads_for(labels.shape[1:], CHOICE_BYTES_PER_PIXEL, memory_gb, threads),
        )
