"""Scores of a run beside those of the run before, on the same volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from pipeline_lib.pages.scores import Score

#: A difference is more than chance if it is larger than this number of standard deviations over the seeds.
DEVIATIONS = 2.0


class Change(NamedTuple):
    """A score before and after.

    Parameters
    ----------
    score : Score
        The score.
    before, after : float
        Its means over the volumes.
    gain : float
        By how much it is better; negative if it is worse.
    deviation : float
        Standard deviation over the seeds, the larger one of both runs; NaN if neither had several seeds.
    verdict : str
        "better", "worse", "within chance", or "chance unknown" without seeds.
    """

    score: Score
    before: float
    after: float
    gain: float
    deviation: float
    verdict: str


class Changes(NamedTuple):
    """Changes of the scores of one split.

    Parameters
    ----------
    volumes : list of str
        Volumes that both runs have.
    left_out : list of str
        Volumes that only one of them has.
    changes : list of Change
        The scores.
    """

    volumes: list[str]
    left_out: list[str]
    changes: list[Change]


def compare_runs(
    before: pd.DataFrame,
    after: pd.DataFrame,
    scores: Sequence[Score],
    deviations: Sequence[dict[str, float]] = (),
) -> Changes:
    """Compare the scores of a network in two runs, on the volumes that both have.

    Parameters
    ----------
    before, after : pandas.DataFrame
        Rows of the tables of scores for the network and one split, at its thresholds: `volume`, `metric` and
        `value`.
    scores : sequence of Score
        Scores to compare.
    deviations : sequence of dict of str to float
        Standard deviation of each score over the seeds, for each run with several seeds.

    Returns
    -------
    Changes
        Means, differences and verdicts.

    Examples
    --------
    >>> import pandas as pd
    >>> from pipeline_lib.pages.before import compare_runs
    >>> from pipeline_lib.pages.scores import Score
    >>> tables = [pd.DataFrame({"volume": ["a"], "metric": ["seg"], "value": [v]}) for v in (0.7, 0.8)]
    >>> (change,) = compare_runs(*tables, [Score("seg", "SEG", True, "")], [{"seg": 0.01}]).changes
    >>> round(change.gain, 3), change.verdict
    (0.1, 'better')
    """
    common = [*dict.fromkeys(name for name in after.volume if (before.volume == name).any())]
    other = {*before.volume, *after.volume} - {*common}
    means = [table[table.volume.isin(common)].groupby("metric").value.mean() for table in (before, after)]
    changes = []
    for score in scores:
        if any(score.metric not in own.index for own in means):
            continue
        old, new = (float(own[score.metric]) for own in means)
        gain = new - old if score.more_is_better else old - new
        known = [own[score.metric] for own in deviations if score.metric in own]
        deviation = max(known, default=math.nan)
        changes.append(Change(score, old, new, gain, deviation, _verdict(gain, deviation)))
    return Changes(common, sorted(other), changes)


def _verdict(gain: float, deviation: float) -> str:
    if math.isnan(deviation) or math.isnan(gain):
        return "chance unknown"
    if abs(gain) <= DEVIATIONS * deviation:
        return "within chance"
    return "better" if gain > 0 else "worse"
