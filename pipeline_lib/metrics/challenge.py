"""The scores of the ISBI 2012 challenge over its thresholds, for a whole stack at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING

import numpy as np

from pipeline_lib.kernels.components import padded_components
from pipeline_lib.kernels.sections import count_sections, padded, section, unpadded
from pipeline_lib.kernels.threads import over_sections
from pipeline_lib.metrics.contingency import as_labels, count_pairs
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.information import Information, information
from pipeline_lib.metrics.inputs import MapsChecked, as_probability, checked_thresholds
from pipeline_lib.metrics.instances import Objects, count_objects, pooled_objects
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, unrestricted_pairs
from pipeline_lib.metrics.thinning import flood
from pipeline_lib.metrics.warping import CHALLENGE_RADIUS, Mismatch, allowed, classify, warp_section
from pipeline_lib.runtime.log import logger

if TYPE_CHECKING:
    import pandas as pd

# The reference adds 0.1 again and again: the last threshold is just below 1, so that 1 exceeds it.
CHALLENGE_THRESHOLDS = tuple(float(t) for t in np.cumsum([0.0] + [0.1] * 10))
SPLITS_MERGERS_LIMIT = 0.9  # the challenge took the minimum of splits and mergers over thresholds up to here

# Section number, cell probability (y, x), threshold, 4-connected components above it (int32) -> labels
Segment = Callable[[int, np.ndarray, float, np.ndarray], np.ndarray]

_HIGHER_IS_BETTER = ("v_rand_thin", "v_info_thin")
_SUMMARISED = [
    "pixel_error",
    "rand_error",
    "rand_error_n2",
    "v_rand_thin",
    "v_info_thin",
    "warping_error",
    "splits_mergers_error",
]


@dataclass(frozen=True)
class _Prepared:
    """Section `z` as the kernels take it: padded, but for the instance labels."""

    z: int
    truth: np.ndarray
    components: np.ndarray
    probability: np.ndarray
    may_change: np.ndarray
    labels: np.ndarray | None


@dataclass(frozen=True)
class _Section:
    """What one section adds to the scores of one threshold."""

    pixels: Counts
    pairs: Counts
    squares: Counts
    all_pairs: Counts
    entropies: Information
    v_rand_thin: float
    v_info_thin: float
    objects: Objects | None
    residual: int
    splits_mergers: int


def isbi_scores(
    cells: np.ndarray,
    cell_probability: np.ndarray,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    *,
    mask: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    segment: Segment | None = None,
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> pd.DataFrame:
    """Score a cell probability map as the ISBI 2012 challenge did.

    cells: truth, (z, y, x) or (y, x), non-zero = cell, zero = membrane; cells that touch count as one.
    cell_probability: same shape, 0..1, 1 = cell. mask: same shape, non-zero where the warping may change the
    truth and its errors count; the challenge used none. labels: same shape, instance labels, 0 = background:
    with them the table also has the `INSTANCE_METRICS`. These are scores of the predicted components or, with
    `segment`, of the instance labels (y, x) that it returns for a section and a threshold; all other scores
    are those of the probability map. Numpy arrays, memory maps, HDF5 datasets and whatever else has
    `shape`, `dtype` and sections by index are read section by section; sections and thresholds are scored
    by `workers` threads (default: one for every core this process may use). `progress` wraps the iterable
    of finished sections, e.g. `tqdm`.

    Returns columns metric, threshold, value. A prediction is `cell_probability > threshold`, compared in
    float64. All values are errors (0 = perfect) but v_rand_thin and v_info_thin (1 = perfect):

    pixel_error               1 - F of the cell pixels, counts pooled over sections
    pixel_mismatch            fraction of pixels on the wrong side
    rand_error                1 - F of foreground-restricted pairs, N (N - 1) / 2, pooled: the 2012 board
    rand_error_n2             the same with N^2: the challenge's code since 2015
    rand_error_unrestricted   1 - F of all pairs, background being a cluster as any other
    v_rand_thin, v_info_thin  F after border thinning, mean over sections; 0 for a section without cells
    warping_error             residual mismatches / pixels
    splits_mergers_error      residual splits and mergers (radius 20) / pixels; 0 for some useless maps: read
                              it beside the others (`summary_table`)
    vi_split, vi_merge        H(prediction | truth), H(truth | prediction) in nats, mean over sections that
                              have cells
    uniform_sections          fraction of sections whose prediction is all one class

    A stack without any cell is logged and has rand_error 0, rand_error_n2 1, v_* 0 and vi_* NaN. The truth is
    `cells != 0` at every threshold; the reference compares it with the threshold too. Raises `InputError` for
    what `inputs.MapsChecked` refuses and for thresholds outside 0..1. A uint8 map is divided by 255. A map
    that is anticorrelated with the truth is logged and scored as it is.
    """
    import pandas as pd  # 0.25 s; most stages need a metric and no table

    thresholds = checked_thresholds(thresholds)
    arrays = {"mask": mask, "labels": labels}
    check = MapsChecked(cells, cell_probability, **{k: a for k, a in arrays.items() if a is not None})

    def prepare(z: int) -> _Prepared:
        truth, probability = section(cells, z), section(cell_probability, z)
        check(z, truth, probability)
        truth, probability = padded(truth != 0, np.uint8), padded(as_probability(probability), np.float32)
        own = None if labels is None else as_labels(section(labels, z), "labels")
        return _Prepared(z, truth, padded_components(truth), probability, allowed(mask, z), own)

    def score(prepared: _Prepared, threshold: float) -> _Section:
        return _Section(**_partition(prepared, threshold, segment), **_warping(prepared, threshold))

    per_section = over_sections(prepare, score, count_sections(cells), thresholds, workers, progress)
    check.finish()
    at_threshold = dict(zip(thresholds, zip(*per_section, strict=True), strict=True))
    kinds = [_pooled] if labels is None else [_pooled, _pooled_objects]
    rows = [
        (metric, threshold, value)
        for pooled in kinds
        for threshold, sections in at_threshold.items()
        for metric, value in pooled(sections).items()
    ]
    return pd.DataFrame(rows, columns=["metric", "threshold", "value"])


def _partition(section: _Prepared, threshold: float, segment: Segment | None) -> dict:
    """What follows from the tables of a section, counted before and after thinning."""
    predicted = padded_components(np.greater(section.probability, np.float64(threshold)).view(np.uint8))
    table = count_pairs(section.components, predicted)
    scores = {
        "pixels": pixel_counts(table),
        "pairs": foreground_pairs(table),
        "squares": foreground_squares(table),
        "all_pairs": unrestricted_pairs(table),
        "entropies": information(table),
    }
    del table  # of a noisy map it is large, and the flood needs room
    objects = None
    if section.labels is not None:
        found = np.ascontiguousarray(unpadded(predicted))
        if segment is not None:
            found = segment(section.z, unpadded(section.probability), threshold, found)
            found = as_labels(found, "the segmentation")
        objects = count_objects(count_pairs(section.labels, found))
        del found
    flood(predicted)
    table = count_pairs(section.components, predicted)
    return scores | {
        "objects": objects,
        "v_rand_thin": foreground_squares(table).f_score,
        "v_info_thin": information(table).f_score,
    }


def _warping(section: _Prepared, threshold: float) -> dict:
    """What follows from warping the truth of a section."""
    warped = section.truth.copy()
    remaining = warp_section(warped, section.probability, threshold, section.may_change)
    codes = classify(warped, remaining, CHALLENGE_RADIUS).ravel()[remaining]
    split_or_merger = (codes == Mismatch.SPLIT) | (codes == Mismatch.MERGER)
    return {"residual": remaining.size, "splits_mergers": np.count_nonzero(split_or_merger)}


def _pooled(sections: Sequence[_Section]) -> dict[str, float]:
    """The scores of one threshold over all sections."""
    pixels = reduce(add, (s.pixels for s in sections))
    size = pixels.tp + pixels.tn + pixels.fp + pixels.fn
    with_cells = [s for s in sections if s.pixels.tp + s.pixels.fn] or sections
    uniform = [s.pixels.tp + s.pixels.fp == 0 or s.pixels.tn + s.pixels.fn == 0 for s in sections]
    return {
        "pixel_error": 1 - pixels.f_score,
        "pixel_mismatch": pixels.mismatch,
        "rand_error": 1 - reduce(add, (s.pairs for s in sections)).f_score,
        "rand_error_n2": 1 - reduce(add, (s.squares for s in with_cells)).f_score,
        "rand_error_unrestricted": 1 - reduce(add, (s.all_pairs for s in sections)).f_score,
        "v_rand_thin": float(np.mean([s.v_rand_thin for s in sections])),
        "v_info_thin": float(np.mean([s.v_info_thin for s in sections])),
        "warping_error": sum(s.residual for s in sections) / size,
        "splits_mergers_error": sum(s.splits_mergers for s in sections) / size,
        "vi_split": float(np.mean([s.entropies.vi_split for s in with_cells])),
        "vi_merge": float(np.mean([s.entropies.vi_merge for s in with_cells])),
        "uniform_sections": float(np.mean(uniform)),
    }


def _pooled_objects(sections: Sequence[_Section]) -> dict[str, float]:
    """The instance scores of one threshold over all sections."""
    return pooled_objects([section.objects for section in sections]).scores()


def challenge_summary(scores: pd.DataFrame) -> dict[str, float]:
    """The best value of each score over the thresholds in `scores`, under the reference's names.

    scores: the table `isbi_scores` made of one stack. F-scores (1 - error) and V scores are maxima over all
    thresholds; warping errors are minima, that of splits and mergers over thresholds up to 0.9 as in the
    challenge: read it in `summary_table`, never alone.
    """

    def values(metric: str) -> pd.Series:
        return scores.loc[scores.metric == metric].set_index("threshold").value

    splits_mergers = values("splits_mergers_error")
    return {
        "pixel_max_fscore": 1 - values("pixel_error").min(),
        "rand_standard_max_fscore": 1 - values("rand_error_unrestricted").min(),
        "rand_2012_max_fscore": 1 - values("rand_error").min(),
        "rand_fr_max_fscore": 1 - values("rand_error_n2").min(),
        "vrand_thinned_max": values("v_rand_thin").max(),
        "vinfo_thinned_max": values("v_info_thin").max(),
        "warping_min": values("warping_error").min(),
        "warping_splits_mergers_min_0_0.9": splits_mergers[
            splits_mergers.index <= SPLITS_MERGERS_LIMIT
        ].min(),
    }


def summary_table(scores: pd.DataFrame) -> pd.DataFrame:
    """The best value of each score in `scores` and what the others say at the same threshold.

    scores: the table `isbi_scores` made of one stack. One row per score: metric, best, threshold (the first
    one with the best value), then every score at that threshold. So the minimum of splits_mergers_error,
    which a prediction of membrane alone brings to 0, never stands alone; scores found best where the
    prediction of a section is all one class are logged.
    """
    import pandas as pd

    at = scores.pivot(index="threshold", columns="metric", values="value")
    rows = []
    for metric in _SUMMARISED:
        limit = SPLITS_MERGERS_LIMIT if metric == "splits_mergers_error" else 1
        values = at.loc[at.index <= limit, metric]
        if values.empty:
            continue
        threshold = values.idxmax() if metric in _HIGHER_IS_BETTER else values.idxmin()
        rows.append(
            {
                "metric": metric,
                "best": values[threshold],
                "threshold": threshold,
                **at.loc[threshold, [*_SUMMARISED, "uniform_sections"]],
            }
        )
    table = pd.DataFrame(rows)
    uniform = table[table.uniform_sections > 0]
    if len(uniform):
        logger.warning(
            "the best %s were found where the prediction of a section is all one class (threshold "
            "%s): they do not tell a useful map from a useless one.",
            ", ".join(uniform.metric),
            ", ".join(f"{t:.2f}" for t in sorted(set(uniform.threshold))),
        )
    return table
