"""Post-processing stage: choose the settings that are best on the validation split, or those of a model."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib import layout, metrics, provenance
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.instances.classes import Border
from pipeline_lib.instances.methods import METHODS, SEPARATORS, in_words
from pipeline_lib.instances.mutex_watershed import Affinities
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.kernels.components import equal_components
from pipeline_lib.kernels.sections import ignored_pixels, without
from pipeline_lib.kernels.threads import over_sections
from pipeline_lib.memory import CHOICE_BYTES_PER_PIXEL, threads_for, with_method
from pipeline_lib.metrics.thinning import thin_labels
from pipeline_lib.networks.modelfile import application, describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing, write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

#: Thresholds that are tried: 0.05, 0.1, ..., 0.95. They are that high because after a short training only a
#: high threshold closes the gaps in the membranes.
THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
#: Thresholds that are tried for a multicut and a mutex watershed, which separate cells whatever the
#: threshold. They are fewer, because each is tried with many values of another setting.
FEW_THRESHOLDS = tuple(percent / 100 for percent in range(10, 100, 10))
#: Seed thresholds of a watershed that are tried with each lower threshold.
SEED_THRESHOLDS = tuple(percent / 100 for percent in range(10, 100, 10))
#: Smallest regions of a mutex watershed that are tried (px).
REGION_SIZES = (0, 25, 50, 100, 200, 400, 800)
#: Betas of a multicut that are tried. Low ones are best if the network finds membranes where there are none.
MULTICUT_BETAS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
#: Method -> thresholds and values of its own setting (`methods.SEPARATORS`); all combinations are tried.
GRIDS: dict[str, tuple[tuple[float, ...], tuple[Any, ...]]] = {
    "watershed": (THRESHOLDS, SEED_THRESHOLDS),
    "mutex_watershed": (FEW_THRESHOLDS, REGION_SIZES),
    "multicut": (FEW_THRESHOLDS, MULTICUT_BETAS),
}
LEFT_OUT = 50  # parts of the sections in the cross-validation; each part is left out once


def _v_rand_thin(labels: np.ndarray, predicted: np.ndarray, *, ignore: np.ndarray | None = None) -> float:
    if not labels.any():
        return float("nan")  # as the other criteria
    return metrics.v_rand(labels, thin_labels(predicted, ignore=ignore), ignore=ignore)


# name -> (score of labels against predicted labels with `ignore`, whether higher is better)
CRITERIA: dict[str, tuple[Callable[..., float], bool]] = {
    "rand_error": (metrics.rand_error, False),
    "v_rand_thin": (_v_rand_thin, True),
    "seg": (metrics.seg, True),
}
#: Criteria that hardly depend on where the rims of cells are, and how much worse they may be for better rims.
#: The Rand error is lower by about that much if cells have no membranes between them.
RIM_LOSS = {"rand_error": 0.025, "v_rand_thin": 0.005}


# truth, cell probability, predicted border, affinities, ignored pixels
_Section = tuple[np.ndarray, np.ndarray, np.ndarray | None, Affinities | None, np.ndarray | None]


def choose_postprocessing(
    datasets: Sequence[str | Path],
    predictions: Sequence[str | Path],
    output: str | Path,
    *,
    tried: str | Path | None = None,
    method: str = "components",
    criterion: str = "rand_error",
    minimum_size: int = 0,
    memory_gb: float = 8.0,
    threads: int = 1,
    targets: Sequence[str | Path] = (),
) -> None:
    """Choose the post-processing of a model on the validation volumes, and write it as JSON.

    The thresholds 0.05, 0.1, ..., 0.95 (`THRESHOLDS`) are tried for components, and for another method its
    `GRIDS` of thresholds and values of its own setting; a seed threshold must be above the threshold. Each
    setting is scored by the mean of the criterion over all sections with cells of all validation volumes, and
    the best one is chosen. Cells are made as in the segmentation stage; then pixels that are not annotated
    are left out. If several settings are equally good, the
    middle one of them is chosen, because it is farthest from the settings with a worse score.

    The Rand error and V-Rand hardly tell where the rims of cells are. So with these criteria, the best
    setting of a method decides its own setting, that is, which cells there are. Of the thresholds with this
    setting, the one with the smallest pixel error is chosen, if its mean criterion is worse than the best by
    at most `RIM_LOSS`.

    More settings fit few sections better by chance. So a method is also scored by cross-validation: each
    section by the setting that is best for all other sections. It is chosen only if it is better than
    components in this score, or if this score is equal or unknown, in the mean.

    Parameters
    ----------
    datasets : sequence of str or Path
        HDF5 files of the validation volumes, with `labels` and `separation_border`.
    predictions : sequence of str or Path
        HDF5 files with the `cell_probability` of the same volumes, in the same order; for a mutex watershed
        also with `affinities`.
    output : str or Path
        JSON file to write, for `PostProcessing.read`. It has `threshold`, `minimum_size`, `criterion`, the
        thresholds tried (`grid`), the mean criterion at each of them (`value`), `cross_validated` (the
        criterion of the method by cross-validation, null for a single section), and `provenance`. With a
        class `border`, it also has `border_reach`. If another method than components is chosen, it has the
        setting of this method, and `value` is that of the best of them. If the pixel error chose the
        threshold, it has the mean `pixel_error` and the `rim_loss` (`RIM_LOSS`). If a method was tried and is
        not used, `rejected` has its `method`, its best `value` and its `cross_validated`.
    tried : str or Path, optional
        CSV file to write, one row for each setting that was tried: `threshold` and the setting of each method
        (`methods.SEPARATORS`; empty if it is not used), `sections`, the mean and the standard deviation of
        the criterion over the sections and, if it was needed, the mean `pixel_error`.
    method : {"components", "watershed", "mutex_watershed", "multicut"}, default "components"
        Which instances are tried: the connected components above the threshold, or also those of another
        method.
    criterion : str, default "rand_error"
        Score by which the settings are chosen: `rand_error`, `v_rand_thin` or `seg`.
    minimum_size : int, default 0
        Instances with fewer pixels are removed (px).
    memory_gb : float, default 8.0
        Memory limit (GB). It limits how many of the `threads` are used.
    threads : int, default 1
        Maximum number of threads; each scores one section with one setting at a time.
    targets : sequence of str or Path, optional
        HDF5 files with what the network learned (`target`), if these are not `datasets`. They state how far
        the border is given back.

    Raises
    ------
    InputError
        If an input is missing, damaged or lacks an array, if the method or the criterion is unknown, or if
        `memory_gb` is too small to score one section.
    """
    inputs = [*dict.fromkeys([*datasets, *targets]), *predictions]
    settings: dict[str, Any] = {"criterion": criterion, "minimum_size": minimum_size}
    if method != "components":
        settings["method"] = method
    outputs = [output, *([tried] if tried else [])]
    with provenance.making("choose_postprocessing", outputs, inputs, **settings) as record:
        for name, value, known in (("criterion", criterion, CRITERIA), ("method", method, METHODS)):
            if value not in known:
                raise InputError(
                    f"config key `segmentation.{name}`: found `{value}`, expected one of {', '.join(known)}."
                )
        reach = max(map(_border_reach, targets or datasets, predictions))
        candidates = [PostProcessing(threshold, minimum_size, reach) for threshold in THRESHOLDS]
        if method != "components":
            candidates += [
                PostProcessing(threshold, minimum_size, reach, **{SEPARATORS[method]: value})
                for threshold, value in product(*GRIDS[method])
                if method != "watershed" or value > threshold
            ]
        with_rims = method != "components" and criterion in RIM_LOSS
        scored = [
            of_section
            for paths in zip(datasets, predictions, strict=True)
            for of_section in _values(*paths, criterion, with_rims, candidates, memory_gb, threads)
        ]
        values, errors = np.moveaxis(np.array(scored), -1, 0)
        counted = ~np.isnan(values).all(axis=1)  # sections without cells have no such score
        if not counted.any():
            raise InputError(
                "the validation volumes: found no annotated cell, expected at least one section with cells, "
                "by which the threshold is chosen. Give other volumes the split `validation`."
            )
        values, errors = values[counted], errors[counted]
        sign = 1 if CRITERIA[criterion][1] else -1
        mean = np.nanmean(values, axis=0)
        separators = np.array([own.separator for own in candidates], float)  # NaN for components
        found, other = _choose(sign * values, errors, separators, RIM_LOSS.get(criterion, 0.0))
        chosen, of_method = candidates[found.setting], np.flatnonzero(found.of_method)
        cross_validated = _value(sign * found.cross_validated)
        rejected: Json = {}
        if other is not None and chosen.method == "components":
            rejected = {
                "method": method,
                "value": _value(mean[other.setting]),
                "cross_validated": _value(sign * other.cross_validated),
            }
        by_rims = with_rims and chosen.method != "components"
        pixel_error = float(np.nanmean(errors[:, found.setting])) if by_rims else np.nan
        thresholds = np.array([candidates[k].threshold for k in of_method])
        grid = np.unique(thresholds)
        best_at = [
            _value(sign * (sign * mean[of_method[thresholds == threshold]]).max()) for threshold in grid
        ]
        write_json(
            output,
            {
                **chosen.to_dict(),
                "criterion": criterion,
                "grid": grid.tolist(),
                "value": best_at,
                "cross_validated": cross_validated,
                **({"pixel_error": pixel_error, "rim_loss": RIM_LOSS[criterion]} if by_rims else {}),
                **({"rejected": rejected} if rejected else {}),
                "provenance": record,
            },
        )
        if tried:
            _write_tried(tried, candidates, values, errors, criterion)
        logger.info(
            "%s: %s, mean %s %.4f%s over %d validation sections%s",
            output,
            chosen,
            criterion,
            mean[found.setting],
            f" and pixel_error {pixel_error:.4f}" if by_rims else "",
            len(values),
            _left_out(cross_validated),
        )
        if rejected:
            logger.info(
                "%s: a %s was tried and is not used: mean %s %.4f%s",
                output,
                in_words(method),
                criterion,
                rejected["value"],
                _left_out(rejected["cross_validated"]),
            )


def _left_out(cross_validated: float | None) -> str:
    """Return the text for the log about the score by cross-validation."""
    if cross_validated is None:
        return ""
    return f", {cross_validated:.4f} if each is left out of the choice of its setting"


class _Choice(NamedTuple):
    """Number of the best setting, which settings its method has, and the score of the method."""

    setting: int
    of_method: npt.NDArray[np.bool_]
    cross_validated: float


def _value(number: float) -> float | None:
    """Return a number for the JSON file: null if it is NaN, and 0 instead of -0."""
    return None if np.isnan(number) else float(number) + 0.0


def _choose(
    values: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    separators: npt.NDArray[np.float64],
    rim_loss: float = 0.0,
) -> tuple[_Choice, _Choice | None]:
    """Return the choice of the better method, and that of the other one if two were tried.

    `values` (sections, settings) are higher if they are better. `errors` are the pixel errors, NaN if they do
    not count. `separators` are the settings of the method that decide how many cells there are, NaN for
    components, which come first.
    """
    choices = []
    for of_method in (np.isnan(separators), ~np.isnan(separators)):
        if not of_method.any():
            continue
        numbers = np.flatnonzero(of_method)
        own = values[:, numbers], errors[:, numbers], separators[numbers], rim_loss
        choices.append(_Choice(int(numbers[best_setting(*own)]), of_method, _cross_validated(*own)))
    if len(choices) == 1:
        return choices[0], None
    components, separated = choices
    gain = separated.cross_validated - components.cross_validated
    if gain == 0 or np.isnan(gain):  # nothing is left if the only section is left out
        means = np.nanmean(values, axis=0)
        gain = means[separated.setting] - means[components.setting]
    return (separated, components) if gain > 0 else (components, separated)


def best_setting(
    values: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    separators: npt.NDArray[np.float64],
    rim_loss: float = 0.0,
) -> int:
    """Return the number of the best setting.

    It has the highest mean value. If pixel errors count, it is the one with the smallest error among those
    with the same separator whose mean value is lower by at most `rim_loss`. If several settings are equally
    good, it is the middle one.

    Parameters
    ----------
    values : (sections, settings) array of float64
        Scores, higher if they are better.
    errors : (sections, settings) array of float64
        Pixel errors; NaN if they do not count.
    separators : (settings,) array of float64
        What decides how many cells there are. If it is NaN for the best setting, pixel errors do not count.
    rim_loss : float, default 0.0
        How much the mean value may be lower for a smaller pixel error.

    Returns
    -------
    int
        Number of the setting.
    """
    mean = np.nanmean(values, axis=0)
    best = np.flatnonzero(mean == mean.max())
    chosen = best[len(best) // 2]
    same = np.flatnonzero(separators == separators[chosen])  # none for components: NaN
    if len(same) and not np.isnan(errors).any():
        as_good = same[mean[same] >= mean[chosen] - rim_loss]
        error = errors[:, as_good].mean(axis=0)
        best = as_good[error == error.min()]
    return int(best[len(best) // 2])


def _cross_validated(
    values: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    separators: npt.NDArray[np.float64],
    rim_loss: float = 0.0,
) -> float:
    """Return the mean of each section's value with the setting that is best for the others.

    It is NaN for a single section. Of more than `LEFT_OUT` sections, several are left out at a time.
    """
    if len(values) < 2:
        return float("nan")
    parts = np.array_split(np.arange(len(values)), min(len(values), LEFT_OUT))
    own = []
    for part in parts:
        others = np.delete(values, part, 0), np.delete(errors, part, 0)
        own.append(values[part, best_setting(*others, separators, rim_loss)])
    return float(np.nanmean(np.concatenate(own)))


def _write_tried(
    path: str | Path,
    candidates: Sequence[PostProcessing],
    values: npt.NDArray[np.float64],
    errors: npt.NDArray[np.float64],
    criterion: str,
) -> None:
    """Write the table of all settings that were tried (CSV), completely or not at all."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        settings = ("threshold", *SEPARATORS.values())
        rims = [] if np.isnan(errors).all() else ["pixel_error"]
        writer.writerow([*settings, "sections", criterion, "standard_deviation", *rims])
        for each, own, error in zip(candidates, values.T, errors.T, strict=True):
            scored = own[~np.isnan(own)]
            spread = scored.std(ddof=1) if len(scored) > 1 else ""
            used = ["" if (value := getattr(each, name)) is None else value for name in settings]
            mean = scored.mean() if len(scored) else ""
            more = [float(np.nanmean(error))] if rims else []
            writer.writerow([*used, len(scored), mean, spread, *more])


def _border_reach(dataset: str | Path, prediction: str | Path) -> int:
    """Return how far the border is given back to cells (px); 0 if the network has no class `border`."""
    with layout.require(dataset) as truth, layout.require(prediction) as predicted:
        return layout.border_reach(truth) if layout.CLASS_PROBABILITY.name in predicted else 0


def _values(
    dataset: str | Path,
    prediction: str | Path,
    criterion: str,
    with_rims: bool,
    candidates: Sequence[PostProcessing],
    memory_gb: float,
    threads: int,
) -> list[list[tuple[float, float]]]:
    """Return a list per section of a volume, with the criterion and the pixel error of each candidate.

    The pixel error is NaN unless `with_rims`.
    """
    score, _ = CRITERIA[criterion]
    with (
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
    ):
        labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
        probability = predicted[layout.CELL_PROBABILITY.name]
        ignore = truth.get(layout.IGNORE.name)
        border_map = Border.of(predicted)
        method = candidates[-1].method
        affinities = Affinities.of(predicted) if method == "mutex_watershed" else None
        offsets = () if affinities is None else affinities.offsets
        per_pixel = with_method(CHOICE_BYTES_PER_PIXEL, method, offsets)
        pixels = layout.pixels_per_model_pixel(predicted)

        def prepare(z: int) -> _Section:
            own, ignored = labels[z], ignored_pixels(ignore, z)
            if criterion != "seg":
                own = metrics.connected_components(cells_apart(own, border[z], ignored))
            return (
                own,
                probability[z],
                None if border_map is None else border_map[z],
                None if affinities is None else affinities[z],
                ignored,
            )

        def score_at(section: _Section, at: PostProcessing) -> tuple[float, float]:
            own, of_cells, predicted_border, of_pairs, ignored = section
            found = instances(of_cells, at.scaled(pixels), border=predicted_border, affinities=of_pairs)
            if ignored is not None and criterion != "seg":  # what they cut is two, as in `own`
                found = equal_components(without(found, ignored).view(np.uint32))
            error = metrics.pixel_error(own, found, ignore=ignored) if with_rims else np.nan
            return score(own, found, ignore=ignored), error

        return over_sections(
            prepare,
            score_at,
            len(labels),
            candidates,
            threads_for(labels.shape[1:], per_pixel, memory_gb, threads),
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
