"""Warnings about a finished run: signs that its network is of little use, or could easily be better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from pipeline_lib.pages import digits
from pipeline_lib.pages.scores import BOX_SCORES, SCORES
from pipeline_lib.runtime.types import Json

#: Mean `metrics.constant_pixels` over the volumes of a split from which on it is a warning.
CONSTANT = 1 / 3
#: Difference between the numbers of detections and of annotated objects from which on it is a warning, as a
#: fraction of the latter.
BIAS = 0.1
#: Difference between the recalls of training and held-out volumes from which on it is a warning.
LOST = 0.1
#: Fewest validations by which `still_improving` judges.
FEWEST = 5
_CHANCE = 0.01  # largest probability of a trend as clear as this without any
_GAIN = 0.05  # smallest part of the gain of the whole training
_NAMED = 3  # volumes in a message


class Warned(NamedTuple):
    """A warning about a run.

    Parameters
    ----------
    name : str
        `worse_than_baseline`, `worse_in_volumes`, `constant_probability`, `still_improving`, or, of
        detections, `biased_count`, `worse_than_training` or `uncovered_objects`.
    text : str
        What was found and what to try.
    """

    name: str
    text: str


def degenerate(table: pd.DataFrame) -> pd.Series:
    """Find predictions of one class: at least one section is all cell or all background.

    They can have 0 splits and mergers, or a low pixel error, without finding any cell. Volumes without any
    annotated cell do not count, because there an empty prediction is right.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores, one for each volume, network and metric.

    Returns
    -------
    pandas.Series of bool
        For each volume and network.
    """
    values = table.pivot(index=["volume", "network"], columns="metric", values="value")
    values = values.reindex(columns=["uniform_sections", "cells_annotated"])  # detections have neither
    return (values.uniform_sections > 0) & (values.cells_annotated > 0)


def still_improving(errors: Sequence[float]) -> bool:
    """Return whether a training was still improving when it ended.

    It was if, in the last quarter of the validations and at least the last five of them, later validations
    are better than earlier ones (Kendall's rank correlation, probability by chance below 0.01), and if the
    median of their second half is better than that of their first half by at least 5 % of the gain of the
    whole training. Fewer than five validations never are.

    Parameters
    ----------
    errors : sequence of float
        Error of each validation, in their order. Lower is better.

    Returns
    -------
    bool
        Whether a longer training would probably be better.

    Examples
    --------
    >>> from pipeline_lib.pages.quality import still_improving
    >>> still_improving([0.9, 0.7, 0.5, 0.4, 0.3]), still_improving([0.9, 0.5, 0.4, 0.41, 0.4, 0.39, 0.4])
    (True, False)
    """
    values = np.asarray(errors, np.float64)
    last = values[-max(len(values) // 4, FEWEST) :]
    if len(last) < FEWEST:
        return False
    from scipy import stats  # imported here because it takes half a second

    trend = stats.kendalltau(np.arange(len(last)), last, alternative="less")
    half = len(last) // 2
    gain = np.median(last[:half]) - np.median(last[-half:])
    return bool(trend.pvalue < _CHANCE and gain >= _GAIN * (values[0] - values.min()))


def compare_with_baselines(
    table: pd.DataFrame, network: str, *, split: str, criterion: str, name: str, more_is_better: bool
) -> list[Warned]:
    """Warn if a baseline is at least as good as the network, or else if one is better in single volumes.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores of one split at the chosen thresholds, one for each volume, network and
        metric.
    network : str
        Name of the trained network; all others are baselines.
    split : str
        Name of the split.
    criterion : str
        Metric to compare.
    name : str
        Its name in the warnings.
    more_is_better : bool
        Whether higher values are better.

    Returns
    -------
    list of Warned
        At most one warning. Predictions of one class (`degenerate`) by baselines do not count.
    """
    sign = 1 if more_is_better else -1
    scores = sign * table[table.metric == criterion].pivot(index="volume", columns="network", values="value")
    own, baselines = scores[network], scores.drop(columns=network)
    useless = degenerate(table).unstack()[baselines.columns]
    means = baselines.mean()[~useless.any()].dropna()
    if len(means) and not own.mean() > means.max():
        best = str(means.idxmax())
        text = (
            f"On the {split} split, {network} is no better than the baseline {best.replace('_', ' ')}: "
            f"{name} {digits(sign * own.mean())} and {digits(sign * means[best])} "
            f"({'higher' if more_is_better else 'lower'} is better). It has learned too little. Train for "
            "more iterations (`training.iterations`), add annotated images, and look at the annotations in "
            "`check.html`."
        )
        return [Warned("worse_than_baseline", text)]
    worse = list(scores.index[baselines.mask(useless).max(axis=1) > own])
    if worse:
        text = (
            f"In {len(worse)} of {len(scores)} volumes of the {split} split ({_listed(worse)}), a baseline "
            f"has a better {name} than {network}. Compare these images with the training images."
        )
        return [Warned("worse_in_volumes", text)]
    return []


def warn_of_constant(table: pd.DataFrame, network: str, *, split: str, training: Json) -> list[Warned]:
    """Warn if much of the cell probability is the same inside and outside of cells.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores of one split, with the metric constant_pixels of the network.
    network : str
        Name of the trained network.
    split : str
        Name of the split.
    training : dict
        Settings of the training.

    Returns
    -------
    list of Warned
        One warning if the mean of constant_pixels over the volumes is at least `CONSTANT`, else none.
    """
    share = table[(table.network == network) & (table.metric == "constant_pixels")].value.mean()
    if share < CONSTANT:
        return []
    text = (
        f"On the {split} split, {share:.0%} of the pixels inside cells and as many outside have the same "
        "cell probability (to within 1/256), so no threshold can separate them. Try another `seed`, a lower "
        f"`training.learning_rate` (now {training['learning_rate']:g}), or more `training.iterations` (now "
        f"{training['iterations']})."
    )
    return [Warned("constant_probability", text)]


def warn_of_short_training(history: pd.DataFrame, training: Json) -> list[Warned]:
    """Warn if a training was still improving when it ended, by the score that selects its best state.

    Parameters
    ----------
    history : pandas.DataFrame
        Training history.
    training : dict
        Settings of the training.

    Returns
    -------
    list of Warned
        One warning if it was (`still_improving`), else none.
    """
    by_loss = training["best_by"] == "loss"
    values = history[f"validation_{training['best_by']}"]
    if not still_improving((values if by_loss else -values).to_list()):
        return []
    names = {score.metric: score.name.removesuffix(" after thinning") for score in (*SCORES, *BOX_SCORES)}
    score = "loss was still falling" if by_loss else f"{names[training['best_by']]} was still rising"
    last = max(len(values) // 4, FEWEST)
    text = (
        f"The validation {score} when the training ended: from {digits(values.iloc[-last])} to "
        f"{digits(values.iloc[-1])} in the last {last} validations. A longer training will probably be "
        f"better: set `training.iterations: {2 * training['iterations']}` (now {training['iterations']})."
    )
    return [Warned("still_improving", text)]


def warn_of_wrong_count(annotated: int, found: int, *, split: str) -> list[Warned]:
    """Warn if a segmentation has far more or far fewer cells than are annotated.

    SEG, for one, does not count false cells.

    Parameters
    ----------
    annotated : int
        Number of annotated cells of a split.
    found : int
        Number of cells found there.
    split : str
        Name of the split.

    Returns
    -------
    list of Warned
        One warning if there are more than twice or fewer than half as many, else none.

    Examples
    --------
    >>> from pipeline_lib.pages.quality import warn_of_wrong_count
    >>> warn_of_wrong_count(100, 190, split="test")
    []
    >>> warn_of_wrong_count(100, 201, split="test")[0].name
    'wrong_count'
    """
    if not annotated or annotated / 2 <= found <= 2 * annotated:
        return []
    remedy = (
        "If many are specks, raise `segmentation.minimum_size`. If background is found as cells, train longer"
        if found > annotated
        else "If cells are merged, see docs/howto/touching-cells.md. If they are missing, train longer"
    )
    text = (
        f"On the {split} split, {found:,} cells are found, but {annotated:,} are annotated. {remedy}, and "
        "compare these images with the validation images."
    )
    return [Warned("wrong_count", text)]


def warn_of_biased_count(annotated: int, found: int, *, split: str, criterion: str) -> list[Warned]:
    """Warn if far more or far fewer objects are detected than are annotated.

    Parameters
    ----------
    annotated : int
        Number of annotated objects of a split.
    found : int
        Number of its detections.
    split : str
        Name of the split.
    criterion : str
        The setting `detection.criterion`.

    Returns
    -------
    list of Warned
        One warning if the numbers differ by more than `BIAS` of the annotated objects, else none.

    Examples
    --------
    >>> from pipeline_lib.pages.quality import warn_of_biased_count
    >>> warn_of_biased_count(100, 110, split="test", criterion="box_f1")
    []
    >>> warn_of_biased_count(100, 111, split="test", criterion="box_f1")[0].name
    'biased_count'
    """
    if not annotated or abs(found - annotated) <= BIAS * annotated:
        return []
    text = (
        f"On the {split} split, {found:,} objects are detected, but {annotated:,} are annotated "
        f"({abs(found / annotated - 1):.0%} {'too many' if found > annotated else 'too few'}). Compare these "
        "images with the validation images, on which the score threshold was chosen. "
        + (
            "Train longer, or add annotated validation images."
            if criterion == "count_error"
            else "Add annotated validation images, or choose the threshold by the numbers "
            "(`detection.criterion: count_error`)."
        )
    )
    return [Warned("biased_count", text)]


def warn_of_lost_recall(training: tuple[int, int], held_out: tuple[int, int], *, split: str) -> list[Warned]:
    """Warn if a detector finds far fewer of the objects of held-out volumes than of those of the training.

    Parameters
    ----------
    training, held_out : (int, int)
        Number of objects that were found, and of all annotated objects: of training volumes, and of the
        volumes of a split.
    split : str
        Name of the split.

    Returns
    -------
    list of Warned
        One warning if the recall is lower by more than `LOST`, and by more than three standard errors of the
        difference; else none, also without objects in the training volumes.

    Examples
    --------
    >>> from pipeline_lib.pages.quality import warn_of_lost_recall
    >>> warn_of_lost_recall((950, 1000), (860, 1000), split="test")
    []
    >>> warn_of_lost_recall((950, 1000), (700, 1000), split="test")[0].name
    'worse_than_training'
    """
    if not (training[1] and held_out[1]):
        return []
    learned, recall = training[0] / training[1], held_out[0] / held_out[1]
    common = (training[0] + held_out[0]) / (training[1] + held_out[1])
    error = np.sqrt(common * (1 - common) * (1 / training[1] + 1 / held_out[1]))
    if learned - recall <= max(LOST, 3 * error):
        return []
    text = (
        f"On the {split} split, {recall:.0%} of the annotated objects are found, but {learned:.0%} of those "
        "of the training volumes in the pictures. Add annotated training images that look like the images "
        "of this split, or strengthen the `augmentation`."
    )
    return [Warned("worse_than_training", text)]


def warn_of_uncovered(boxes: Json, *, enough: float) -> list[Warned]:
    """Warn if too many training objects have no default box of about their size and shape.

    Parameters
    ----------
    boxes : dict
        Content of the file of `stages.boxes.choose_boxes`.
    enough : float
        Share of the training objects that the default boxes should cover.

    Returns
    -------
    list of Warned
        One warning if they cover a smaller share, else none.
    """
    if boxes["covered"] >= enough:
        return []
    text = (
        f"The default boxes cover {boxes['covered']:.1%} of the {boxes['objects']:,} training objects (IoU "
        f"of at least 0.5), expected at least {enough:.0%}. Objects without a default box are hard to find. "
        "Add ratios to `network.aspect_ratios`, raise `network.sizes_per_level`, or add a level of higher "
        "resolution (`network.heads`)."
    )
    return [Warned("uncovered_objects", text)]


def _listed(names: Sequence[str]) -> str:
    """Return the first names, and whether there are more."""
    return ", ".join([*names[:_NAMED], *(["..."] if len(names) > _NAMED else [])])
