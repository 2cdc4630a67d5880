"""Post-processing stage: choose the threshold that is best on the validation split, or that of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib import layout, metrics, provenance
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.instances.classes import Border
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.kernels.sections import ignored_pixels, without
from pipeline_lib.kernels.threads import over_sections
from pipeline_lib.memory import CHOICE_BYTES_PER_PIXEL, threads_for
from pipeline_lib.networks.modelfile import application, describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger

#: Thresholds that are tried: 0.05, 0.1, ..., 0.95. They are that high because after a short training only a
#: high threshold closes the gaps in the membranes.
THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))


def _v_rand_thin(labels: np.ndarray, predicted: np.ndarray, *, ignore: np.ndarray | None = None) -> float:
    return metrics.v_rand(labels, metrics.thin_borders(predicted, ignore=ignore), ignore=ignore)


# name -> (score of labels against predicted labels with `ignore`, whether higher is better)
CRITERIA: dict[str, tuple[Callable[..., float], bool]] = {
    "rand_error": (metrics.rand_error, False),
    "v_rand_thin": (_v_rand_thin, True),
    "seg": (metrics.seg, True),
}


# truth, cell probability, predicted border, ignored pixels
_Section = tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]


def choose_postprocessing(
    datasets: Sequence[str | Path],
    predictions: Sequence[str | Path],
    output: str | Path,
    *,
    criterion: str = "rand_error",
    minimum_size: int = 0,
    memory_gb: float = 8.0,
    threads: int = 1,
    targets: Sequence[str | Path] = (),
) -> None:
    """Choose the threshold of a model on the validation volumes, and write its post-processing as JSON.

    The thresholds 0.05, 0.1, ..., 0.95 (`THRESHOLDS`) are tried. Each is scored by the mean of the criterion
    over all sections of all validation volumes, and the best one is chosen. Pixels that are not annotated
    are left out. If several thresholds are equally
    good, the middle one of them is chosen, because it is farthest from the thresholds with a worse score.

    Parameters
    ----------
    datasets : sequence of str or Path
        HDF5 files of the validation volumes, with `labels` and `separation_border`.
    predictions : sequence of str or Path
        HDF5 files with the `cell_probability` of the same volumes, in the same order.
    output : str or Path
        JSON file to write, for `PostProcessing.read`. It has `threshold`, `minimum_size`, `criterion`, the
        thresholds tried (`grid`), the mean criterion at each of them (`value`), and `provenance`. If there is
        a class `border`, it also has `border_reach`.
    criterion : str, default "rand_error"
        Score by which the threshold is chosen: `rand_error`, `v_rand_thin` or `seg`.
    minimum_size : int, default 0
        Instances with fewer pixels are removed (px).
    memory_gb : float, default 8.0
        Memory limit (GB). It limits how many of the `threads` are used.
    threads : int, default 1
        Maximum number of threads; each scores one section at one threshold at a time.
    targets : sequence of str or Path, optional
        HDF5 files with what the network learned (`target`), if these are not `datasets`. They state how far
        the border is given back.

    Raises
    ------
    InputError
        If an input is missing, damaged or lacks an array, if the criterion is unknown, or if `memory_gb` is
        too small to score one section.
    """
    inputs = [*dict.fromkeys([*datasets, *targets]), *predictions]
    settings: dict[str, Any] = {"criterion": criterion, "minimum_size": minimum_size}
    with provenance.making("choose_postprocessing", [output], inputs, **settings) as record:
        if criterion not in CRITERIA:
            raise InputError(
                f"config key `segmentation.criterion`: found `{criterion}`, expected one of "
                f"{', '.join(CRITERIA)}."
            )
        reach = max(map(_border_reach, targets or datasets, predictions))
        candidates = [PostProcessing(threshold, minimum_size, reach) for threshold in THRESHOLDS]
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
                **chosen.to_dict(),
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


def _border_reach(dataset: str | Path, prediction: str | Path) -> int:
    """Return how far the border is given back to cells (px); 0 if the network has no class `border`."""
    with layout.require(dataset) as truth, layout.require(prediction) as predicted:
        return layout.border_reach(truth) if layout.CLASS_PROBABILITY.name in predicted else 0


def _values(
    dataset: str | Path,
    prediction: str | Path,
    criterion: str,
    candidates: Sequence[PostProcessing],
    memory_gb: float,
    threads: int,
) -> list[list[float]]:
    """Return the criterion of a volume, one list per section with one value per candidate."""
    score, _ = CRITERIA[criterion]
    with (
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
    ):
        labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
        probability = predicted[layout.CELL_PROBABILITY.name]
        ignore = truth.get(layout.IGNORE.name)
        border_map = Border.of(predicted)
        pixels = layout.pixels_per_model_pixel(predicted)

        def prepare(z: int) -> _Section:
            own, ignored = labels[z], ignored_pixels(ignore, z)
            if criterion != "seg":
                own = metrics.connected_components(cells_apart(own, border[z], ignored))
            return (
                own,
                without(probability[z], ignored),
                None if border_map is None else border_map[z],
                ignored,
            )

        def score_at(section: _Section, at: PostProcessing) -> float:
            own, of_cells, predicted_border, ignored = section
            found = instances(of_cells, at.scaled(pixels), border=predicted_border)
            return score(own, found, ignore=ignored)

        return over_sections(
            prepare,
            score_at,
            len(labels),
            candidates,
            threads_for(labels.shape[1:], CHOICE_BYTES_PER_PIXEL, memory_gb, threads),
        )


def unpack_postprocessing(model: str | Path, output: str | Path) -> None:
    """Write the post-processing of a complete model file as JSON, as the segmentation stage reads it.

    Parameters
    ----------
    model : str or Path
        File of `package_model`.
    output : str or Path
        JSON file to write.

    Raises
    ------
    InputError
        If the file is damaged or has no post-processing.
    """
    with provenance.making("unpack_postprocessing", [output], [model]):
        write_json(output, application(describe(model), model)["postprocessing"])
