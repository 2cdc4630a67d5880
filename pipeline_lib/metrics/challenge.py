"""The scores of the ISBI 2012 challenge for a stack, at all thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline_lib.kernels.components import padded_components
from pipeline_lib.kernels.sections import count_sections, ignored_pixels, outside, padded, section, unpadded
from pipeline_lib.kernels.threads import over_sections
from pipeline_lib.metrics.contingency import as_labels, count_pairs
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.information import Information, information
from pipeline_lib.metrics.inputs import MapChecker, checked_thresholds
from pipeline_lib.metrics.instances import Objects, count_objects, pooled_objects
from pipeline_lib.metrics.mismatches import CHALLENGE_RADIUS, Mismatch, classify
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, unrestricted_pairs
from pipeline_lib.metrics.thinning import flood
from pipeline_lib.metrics.warping import allowed, warp_section
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Stored

if TYPE_CHECKING:
    import pandas as pd

#: Thresholds of the challenge, 0, 0.1, ..., 0.9999999999999999. The reference adds up 0.1 in floating point,
#: so the last threshold is just below 1, and a probability of 1 is above it.
CHALLENGE_THRESHOLDS = tuple(float(t) for t in np.cumsum([0.0] + [0.1] * 10))
SPLITS_MERGERS_LIMIT = 0.9  # the challenge's minimum of splits and mergers is over thresholds up to 0.9

# Number of the section, its cell probability (y, x), threshold, and the 4-connected components of the pixels
# above the threshold (int32) -> instance labels (y, x)
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
    """Section `z` in the form that the kernels need: padded, except for `ignored` and `labels`."""

    z: int
    truth: np.ndarray
    components: np.ndarray
    probability: np.ndarray
    may_change: np.ndarray
    ignored: np.ndarray | None
    beyond: np.ndarray | None
    labels: np.ndarray | None


class _Partition(NamedTuple):
    """Counts and scores of one section at one threshold that follow from contingency tables."""

    pixels: Counts
    pairs: Counts
    squares: Counts
    all_pairs: Counts
    entropies: Information
    v_rand_thin: float
    v_info_thin: float
    objects: Objects | None


class _Warping(NamedTuple):
    """Number of remaining pixels of one section at one threshold, and how many are splits or mergers."""

    remaining: int
    splits_mergers: int


class _Section(NamedTuple):
    """Contribution of one section to the scores of one threshold."""

    partition: _Partition
    warping: _Warping


def isbi_scores(
    cells: Stored,
    cell_probability: Stored,
    thresholds: Sequence[float] = CHALLENGE_THRESHOLDS,
    *,
    ignore: Stored | None = None,
    mask: Stored | None = None,
    labels: Stored | None = None,
    segment: Segment | None = None,
    regions: bool = False,
    workers: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> pd.DataFrame:
    """Return all scores of a cell probability map at several thresholds, as the ISBI 2012 challenge did.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane is 0. Cells that touch count as one cell.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    thresholds : sequence of float, optional
        The prediction at a threshold is `cell_probability > threshold`, compared in float64. In 0..1. The
        default is the challenge's: 0, 0.1, ..., 0.9999999999999999.
    ignore : array, optional
        Pixels that are not annotated are not 0; same shape. All scores are computed as if these pixels were
        not in the image, so no cell, thinned border or deformation crosses them. Values of the other arrays
        at these pixels are not used.
    mask : array, optional
        Pixels that can change and whose errors count in the warping errors are not 0; same shape. By default
        all pixels count, as in the challenge. Unlike `ignore`, it affects no other score.
    labels : array of int, optional
        Instance labels of the truth, 0 = background; same shape. If they are given, the table also has the
        `INSTANCE_METRICS` and the `CELL_COUNTS`.
    segment : callable, optional
        Makes the instances that are compared with `labels`. It takes the number of a section, its cell
        probability (y, x), the threshold and the 4-connected components above it (int32), and returns
        instance labels (y, x). By default the components are the instances. Other scores do not depend on it,
        unless `regions` is true. Ignored pixels have probability 0 there, and labels at them are not used.
    regions : bool, default False
        Whether the instances of `segment` are also the prediction of all other scores but the warping errors,
        instead of the pixels above the threshold and their components. For instances that are not components,
        such as those of a watershed.
    workers : int, optional
        Number of threads. By default one for each core that this process may use.
    progress : callable, optional
        Wraps the iterable of finished sections, for instance `tqdm.tqdm`.

    Returns
    -------
    pandas.DataFrame
        One row for each metric and threshold, with the columns metric, threshold and value.

    Raises
    ------
    InputError
        If the shapes differ, the probability has NaN or values outside 0..1, a label is negative
        or not an integer, a threshold is outside 0..1, or all pixels are ignored.

    Notes
    -----
    Without `labels`, all values are errors, where 0 is perfect, except for v_rand_thin and v_info_thin, where
    1 is perfect, and uniform_sections. With `labels`, the `INSTANCE_METRICS` are added, where 1 is perfect,
    and the `CELL_COUNTS`; `instance_scores` describes both. The other metrics are:

    =========================  ===================================================================
    metric                     definition
    =========================  ===================================================================
    `pixel_error`              `metrics.pixel_error`: 1 - F-score of the cell pixels
    `pixel_mismatch`           fraction of wrongly classified pixels
    `rand_error`               `metrics.rand_error` of the components: the leader board of 2012
    `rand_error_n2`            `metrics.adapted_rand_error`: the challenge's code since 2015
    `rand_error_unrestricted`  1 - F-score of all pairs, where background is one more cluster
    `v_rand_thin`              `metrics.v_rand` after `metrics.thin_borders`
    `v_info_thin`              `metrics.v_info` after `metrics.thin_borders`
    `warping_error`            `metrics.warping_error`
    `splits_mergers_error`     `metrics.splits_mergers_error`; read it in `summary_table`
    `vi_split`, `vi_merge`     `metrics.vi_split` and `metrics.vi_merge` (nats)
    `uniform_sections`         fraction of sections that are predicted as all cell or all membrane
    =========================  ===================================================================

    Sections without true cells are left out of rand_error_n2, vi_split and vi_merge; they count as 0 in
    v_rand_thin and v_info_thin. A stack without any true cell is logged; it has a rand_error of 0, a
    rand_error_n2 of 1, v_rand_thin and v_info_thin of 0, and vi_split and vi_merge of NaN. A map that is
    anticorrelated with the truth is logged and scored as it is. For a stack without true cells, the function
    `metrics.rand_error` returns NaN instead of 0.

    A section whose pixels are all ignored is left out. Probabilities up to 1e-6 beyond 0..1 are clipped,
    which is logged.

    The truth is `cells != 0` at all thresholds; the reference compares it with the threshold, too.

    Numpy arrays, memory maps, HDF5 datasets and other arrays that can be indexed by section are read one
    section at a time.

    References
    ----------
    The challenge and its scores are described in [1]_.

    .. [1] I. Arganda-Carreras et al., "Crowdsourcing the creation of image segmentation algorithms for
       connectomics", Frontiers in Neuroanatomy 9:142, 2015.

    Examples
    --------
    The membrane between two cells has a gap (0.7), which merges them at a threshold of 0.5 but not at 0.75.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import isbi_scores
    >>> cells = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    >>> probability = np.array([[0.8, 0.8, 0.1, 0.8, 0.8], [0.8, 0.8, 0.7, 0.8, 0.8]])
    >>> scores = isbi_scores(cells, probability, thresholds=[0.5, 0.75])
    >>> shown = scores[scores.metric.isin(["pixel_error", "rand_error", "v_rand_thin", "warping_error"])]
    >>> print(shown.to_string(index=False, float_format="%.3f"))
           metric  threshold  value
      pixel_error      0.500  0.059
       rand_error      0.500  0.400
      v_rand_thin      0.500  0.667
    warping_error      0.500  0.100
      pixel_error      0.750  0.000
       rand_error      0.750  0.000
      v_rand_thin      0.750  1.000
    warping_error      0.750  0.000
    """
    found = _score_sections(
        cells,
        cell_probability,
        thresholds,
        ignore=ignore,
        mask=mask,
        labels=labels,
        segment=segment,
        regions=regions,
        workers=workers,
        progress=progress,
    )
    return _stack_table(found, instances=labels is not None)


def isbi_scores_with_sections(
    cells: Stored,
    cell_probability: Stored,
    thresholds: Sequence[float],
    at: float,
    *,
    labels: Stored,
    ignore: Stored | None = None,
    segment: Segment | None = None,
    regions: bool = False,
    workers: int | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores of a stack at several thresholds, and those of each section at one of them.

    Every section is scored once at each threshold.

    Parameters
    ----------
    cells, cell_probability, thresholds, labels, ignore, segment, regions, workers
        See `isbi_scores`.
    at : float
        The one of `thresholds` for the scores of the sections.

    Returns
    -------
    stack : pandas.DataFrame
        The table of `isbi_scores`.
    sections : pandas.DataFrame
        One row for each section and metric, with the columns section, metric, threshold and value. The values
        are those of `isbi_scores` for a stack of this section only. There is no uniform_sections, and no
        section whose pixels are all ignored.

    Raises
    ------
    InputError
        As `isbi_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics.challenge import isbi_scores_with_sections
    >>> labels = np.array([[[1, 1, 0, 2, 2]], [[1, 1, 0, 2, 2]]])
    >>> probability = np.array([[[0.8, 0.8, 0.1, 0.8, 0.8]], [[0.8, 0.8, 0.7, 0.8, 0.8]]])
    >>> _, sections = isbi_scores_with_sections(labels, probability, [0.5, 0.75], 0.5, labels=labels)
    >>> print(sections[sections.metric == "seg"].to_string(index=False))
     section metric  threshold  value
           0    seg        0.5    1.0
           1    seg        0.5    0.4
    """
    import pandas as pd

    found = _score_sections(
        cells,
        cell_probability,
        thresholds,
        ignore=ignore,
        labels=labels,
        segment=segment,
        regions=regions,
        workers=workers,
    )
    rows = [
        (z, metric, at, value)
        for z, scores in found[at].items()
        for metric, value in (_pooled([scores]) | _pooled_objects([scores])).items()
        if metric != "uniform_sections"
    ]
    sections = pd.DataFrame(rows, columns=["section", "metric", "threshold", "value"])
    return _stack_table(found, instances=True), sections


def _score_sections(
    cells: Stored,
    cell_probability: Stored,
    thresholds: Sequence[float],
    *,
    ignore: Stored | None = None,
    mask: Stored | None = None,
    labels: Stored | None = None,
    segment: Segment | None = None,
    regions: bool = False,
    workers: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> dict[float, dict[int, _Section]]:
    """Return the contribution of each section with annotated pixels, by threshold and section number."""
    thresholds = checked_thresholds(thresholds)
    check = MapChecker(cells, cell_probability, ignore=ignore, mask=mask, labels=labels)

    def prepare(z: int) -> _Prepared:
        ignored = ignored_pixels(ignore, z)
        truth, probability = check(z, section(cells, z), section(cell_probability, z), ignored)
        truth, probability = padded(truth, np.uint8), padded(probability, np.float32)
        return _Prepared(
            z=z,
            truth=truth,
            components=padded_components(truth),
            probability=probability,
            may_change=allowed(mask, z),
            ignored=ignored,
            beyond=outside(ignored),
            labels=None if labels is None else as_labels(section(labels, z), "labels", ignored),
        )

    def score(prepared: _Prepared, threshold: float) -> _Section:
        return _Section(_partition(prepared, threshold, segment, regions), _warping(prepared, threshold))

    per_section = over_sections(prepare, score, count_sections(cells), thresholds, workers, progress)
    check.finish()
    annotated = {z: scores for z, scores in enumerate(per_section) if scores[0].partition.pixels.total}
    if not annotated:
        raise InputError(
            "every pixel is ignored, so there is nothing to score. Check the value or the mask that means "
            "`not annotated`."
        )
    return {
        threshold: {z: scores[index] for z, scores in annotated.items()}
        for index, threshold in enumerate(thresholds)
    }


def _stack_table(found: dict[float, dict[int, _Section]], *, instances: bool) -> pd.DataFrame:
    """Return the scores over all sections as a table, with those of instances if these were compared."""
    import pandas as pd  # imported here because it takes 0.25 s; most stages that use a score need no table

    kinds = [_pooled, _pooled_objects] if instances else [_pooled]
    rows = [
        (metric, threshold, value)
        for pooled in kinds
        for threshold, sections in found.items()
        for metric, value in pooled([*sections.values()]).items()
    ]
    return pd.DataFrame(rows, columns=["metric", "threshold", "value"])


def _partition(section: _Prepared, threshold: float, segment: Segment | None, regions: bool) -> _Partition:
    """Score a section from contingency tables, which are counted before and after thinning."""
    above = np.greater(section.probability, np.float64(threshold)).view(np.uint8)
    predicted = padded_components(above, section.beyond)
    del above
    objects = None
    if section.labels is not None:
        found = np.ascontiguousarray(unpadded(predicted))
        if segment is not None:
            # ignored pixels are `OUTSIDE`, which is no label of a segmentation
            np.maximum(found, 0, out=found)
            found = segment(section.z, unpadded(section.probability), threshold, found)
            found = as_labels(found, "the segmentation", section.ignored)
        objects = count_objects(count_pairs(section.labels, found))
        if regions:
            own = padded(np.maximum(found, 0), np.int32)
            predicted = padded_components(own, section.beyond)
            del own
        del found
    table = count_pairs(section.components, predicted)
    pixels, pairs, squares = pixel_counts(table), foreground_pairs(table), foreground_squares(table)
    all_pairs, entropies = unrestricted_pairs(table), information(table)
    del table  # for a noisy map it is large, and `flood` needs memory
    flood(predicted)
    thinned = count_pairs(section.components, predicted)
    return _Partition(
        pixels=pixels,
        pairs=pairs,
        squares=squares,
        all_pairs=all_pairs,
        entropies=entropies,
        v_rand_thin=foreground_squares(thinned).f_score,
        v_info_thin=information(thinned).f_score,
        objects=objects,
    )


def _warping(section: _Prepared, threshold: float) -> _Warping:
    """Deform the truth of a section and count the remaining errors."""
    warped = section.truth.copy()
    remaining = warp_section(warped, section.probability, threshold, section.may_change)
    codes = classify(warped, remaining, section.beyond, CHALLENGE_RADIUS).ravel()[remaining]
    split_or_merger = (codes == Mismatch.SPLIT) | (codes == Mismatch.MERGER)
    return _Warping(remaining.size, int(np.count_nonzero(split_or_merger)))


def _pooled(sections: Sequence[_Section]) -> dict[str, float]:
    """Return the scores of one threshold over all sections."""
    partitions = [s.partition for s in sections]
    pixels = reduce(add, (p.pixels for p in partitions))
    with_cells = [p for p in partitions if p.pixels.tp + p.pixels.fn] or partitions
    uniform = [p.pixels.tp + p.pixels.fp == 0 or p.pixels.tn + p.pixels.fn == 0 for p in partitions]
    return {
        "pixel_error": 1 - pixels.f_score,
        "pixel_mismatch": pixels.mismatch,
        "rand_error": 1 - reduce(add, (p.pairs for p in partitions)).f_score,
        "rand_error_n2": 1 - reduce(add, (p.squares for p in with_cells)).f_score,
        "rand_error_unrestricted": 1 - reduce(add, (p.all_pairs for p in partitions)).f_score,
        "v_rand_thin": float(np.mean([p.v_rand_thin for p in partitions])),
        "v_info_thin": float(np.mean([p.v_info_thin for p in partitions])),
        "warping_error": sum(s.warping.remaining for s in sections) / pixels.total,
        "splits_mergers_error": sum(s.warping.splits_mergers for s in sections) / pixels.total,
        "vi_split": float(np.mean([p.entropies.vi_split for p in with_cells])),
        "vi_merge": float(np.mean([p.entropies.vi_merge for p in with_cells])),
        "uniform_sections": float(np.mean(uniform)),
    }


def _pooled_objects(sections: Sequence[_Section]) -> dict[str, float]:
    """Return the instance scores and numbers of cells of one threshold over all sections."""
    objects = [s.partition.objects for s in sections]
    pooled = pooled_objects([found for found in objects if found is not None])
    return pooled.scores() | pooled.counts()


def challenge_summary(scores: pd.DataFrame) -> dict[str, float]:
    """Return the best value of each score over the thresholds, under the names of the reference.

    Parameters
    ----------
    scores : pandas.DataFrame
        Table of one stack, as returned by `isbi_scores`.

    Returns
    -------
    dict of str to float
        Maxima over all thresholds of pixel_max_fscore, rand_standard_max_fscore, rand_2012_max_fscore and
        rand_fr_max_fscore (1 - pixel_error, rand_error_unrestricted, rand_error and rand_error_n2), and of
        vrand_thinned_max and vinfo_thinned_max. Minima of warping_min over all thresholds, and of
        warping_splits_mergers_min_0_0.9 over thresholds up to 0.9 as in the challenge (NaN if there are
        none). The last one can be perfect for a useless map; `summary_table` shows it with other scores.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import challenge_summary, isbi_scores
    >>> cells = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    >>> probability = np.array([[0.8, 0.8, 0.1, 0.8, 0.8], [0.8, 0.8, 0.7, 0.8, 0.8]])
    >>> for name, value in challenge_summary(isbi_scores(cells, probability, [0.5, 0.9])).items():
    ...     print(name, round(float(value), 3))
    pixel_max_fscore 0.941
    rand_standard_max_fscore 0.49
    rand_2012_max_fscore 0.6
    rand_fr_max_fscore 0.667
    vrand_thinned_max 0.667
    vinfo_thinned_max 0.0
    warping_min 0.1
    warping_splits_mergers_min_0_0.9 0.0
    """

    def values(metric: str) -> pd.Series:
        """Return the values of a metric by threshold."""
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
    """Return the best value of each score over the thresholds, with the other scores at the same threshold.

    The other scores show whether a good value means a good map. For instance, splits_mergers_error is 0 for
    a prediction that is all membrane. A score is logged if its best value is at a threshold where the
    prediction of a section is all one class.

    Parameters
    ----------
    scores : pandas.DataFrame
        Table of one stack, as returned by `isbi_scores`.

    Returns
    -------
    pandas.DataFrame
        One row for each score, with the columns metric, best (its best value), threshold (the first with
        this value), and all scores at this threshold. The best splits_mergers_error is that of the thresholds
        up to 0.9, as in the challenge; its row is missing if there are none.

    Examples
    --------
    The prediction merges two cells at a threshold of 0.5. It is all membrane at 0.9, where
    splits_mergers_error is 0; the pixel error and the Rand error in this row show that it is useless there.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import isbi_scores, summary_table
    >>> cells = np.array([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    >>> probability = np.array([[0.8, 0.8, 0.1, 0.8, 0.8], [0.8, 0.8, 0.7, 0.8, 0.8]])
    >>> table = summary_table(isbi_scores(cells, probability, [0.5, 0.9]))
    >>> shown = table[["metric", "best", "threshold", "pixel_error", "rand_error"]]
    >>> print(shown.to_string(index=False, float_format="%.3f"))
                  metric  best  threshold  pixel_error  rand_error
             pixel_error 0.059      0.500        0.059       0.400
              rand_error 0.400      0.500        0.059       0.400
           rand_error_n2 0.333      0.500        0.059       0.400
             v_rand_thin 0.667      0.500        0.059       0.400
             v_info_thin 0.000      0.500        0.059       0.400
           warping_error 0.100      0.500        0.059       0.400
    splits_mergers_error 0.000      0.900        1.000       1.000
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
            "the best values of %s are at thresholds (%s) where the prediction of a section is all one "
            "class. A useless map can reach them, too; compare the other scores.",
            ", ".join(uniform.metric),
            ", ".join(f"{t:.2f}" for t in sorted(set(uniform.threshold))),
        )
    return table
