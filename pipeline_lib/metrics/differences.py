"""Differences between the scores of variants, and whether they are beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import stats

if TYPE_CHECKING:
    import pandas as pd

#: Probability with which an interval contains the true difference.
LEVEL = 0.95
#: Fewest sections by which a difference can be called beyond chance. If there were none, fewer sections would
#: all agree in its sign in more than 5 % of the cases: five of them in 2 * 0.5 ** 5 = 6 %.
FEWEST_SECTIONS = 6
#: Columns of the table of `compare_variants`.
DIFFERENCE_COLUMNS = [
    "variant",
    "split",
    "metric",
    "models",
    "sections",
    "difference",
    "low",
    "high",
    "spread_low",
    "spread_high",
    "differs",
]
_AT_ONCE = 2**20  # numbers in memory per step of the bootstrap
_DIGITS = 12  # smaller differences are rounding errors of means


def bootstrap_interval(
    differences: npt.ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Return the 95 % bootstrap interval of the mean of paired differences, by the method of percentiles.

    Parameters
    ----------
    differences : (n,) or (n, k) array_like
        Difference of each of n sections, for one or k comparisons. NaN are left out.
    resamples : int, default 10000
        How often n differences are drawn with replacement.
    seed : int, default 0
        Seed of the draws, which are the same for all comparisons with the same NaN.

    Returns
    -------
    (2,) or (2, k) array of float
        Ends of the interval. NaN if fewer than two differences are known.

    References
    ----------
    The method is described in section 13.3 of [1]_.

    .. [1] B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", Chapman & Hall, 1993.

    Examples
    --------
    >>> from pipeline_lib.metrics.differences import bootstrap_interval
    >>> bootstrap_interval([0.1, 0.1, 0.1])
    array([0.1, 0.1])
    """
    values = np.asarray(differences, float)
    columns = values.reshape(len(values), -1)
    ends = np.full((2, columns.shape[1]), np.nan)
    known = ~np.isnan(columns)
    for pattern in np.unique(known, axis=1).T:
        if pattern.sum() > 1:
            alike = (known == pattern[:, None]).all(0)
            own = columns[pattern][:, alike]
            ends[:, alike] = stats.bootstrap(
                (own,),
                np.mean,
                n_resamples=resamples,
                batch=max(1, _AT_ONCE // own.size),
                confidence_level=LEVEL,
                method="percentile",
                rng=seed,
            ).confidence_interval
    return ends.reshape(2, *values.shape[1:])


def welch_interval(values: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of Welch's t-test for the difference of two means.

    Parameters
    ----------
    values, reference : array_like
        Scores of independently trained models of a variant and of the reference.

    Returns
    -------
    tuple of (float, float)
        Ends of the interval of mean(values) - mean(reference); NaN if one of them has fewer than two scores.

    References
    ----------
    The interval is that of [1]_.

    .. [1] B. L. Welch, "The generalization of 'Student's' problem when several different population variances
       are involved", Biometrika 34:28-35, 1947.

    Examples
    --------
    >>> from pipeline_lib.metrics.differences import welch_interval
    >>> low, high = welch_interval([0.91, 0.93, 0.92], [0.81, 0.85, 0.83])
    >>> round(low, 3), round(high, 3)
    (0.048, 0.132)
    """
    a, b = np.asarray(values, float), np.asarray(reference, float)
    if min(a.size, b.size) < 2:
        return math.nan, math.nan
    if np.ptp(a) == np.ptp(b) == 0:  # for which scipy returns NaN
        difference = float(a.mean() - b.mean())
        return difference, difference
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    return float(low), float(high)


def compare_variants(scores: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Compare each variant with the first one, for each split and metric.

    The difference is the mean over the sections of: mean score of the variant's models minus mean score of
    the models of the first variant, in the same section. It has two 95 % intervals. The first one
    (`bootstrap_interval`) shows how far it depends on which sections were scored. The second one
    (`welch_interval`) shows how far it depends on chance in the trainings: it is made from one number per
    model, the mean difference of its sections to the first variant. A difference counts as beyond chance only
    if both intervals exclude 0 and there are at least `FEWEST_SECTIONS` sections.

    Parameters
    ----------
    scores : pandas.DataFrame
        One row for each model, section and metric, with the columns variant, model, split, volume, section,
        metric and value.
    variants : sequence of str
        Names of the variants. The first one is the reference.

    Returns
    -------
    pandas.DataFrame
        Table with the `DIFFERENCE_COLUMNS`, one row for each split, metric and variant with scores. `models`
        and `sections` are the numbers of models and of compared sections. Differences and intervals are NaN
        if they cannot be stated: `difference`, `low` and `high` without a score of both variants in the same
        sections, `spread_low` and `spread_high` also for a single model. `differs` is 1 or -1, the sign of
        the difference, if it is beyond chance, and 0 otherwise.

    Examples
    --------
    Two models of each variant are scored in the same six sections. `b` is better in all of them by about 0.1.

    >>> import pandas as pd
    >>> from pipeline_lib.metrics.differences import compare_variants
    >>> rows = [
    ...     (variant, variant + seed, "test", "v", z, "seg", 0.7 + 0.01 * z + better + 0.001 * int(seed))
    ...     for variant, better in (("a", 0.0), ("b", 0.1))
    ...     for seed in "01"
    ...     for z in range(6)
    ... ]
    >>> columns = ["variant", "model", "split", "volume", "section", "metric", "value"]
    >>> table = compare_variants(pd.DataFrame(rows, columns=columns), ["a", "b"])
    >>> print(table[["variant", "models", "difference", "differs"]].round(3).to_string(index=False))
    variant  models  difference  differs
          a       2         0.0        0
          b       2         0.1        1
    """
    import pandas as pd

    first, rows = variants[0], []
    for (split, metric), own in scores.groupby(["split", "metric"], sort=False):
        values = own.pivot(index=["volume", "section"], columns=["variant", "model"], values="value")
        # a model without scores of a split has no column; one without a defined score has only NaN
        values = values.dropna(axis=1, how="all")
        present = [name for name in variants if name in values.columns.get_level_values(0)]
        if not present:
            continue
        means = pd.DataFrame({name: values[name].mean(axis=1) for name in present})
        reference = means[first] if first in present else pd.Series(np.nan, means.index)
        differences = means.sub(reference, axis=0).round(_DIGITS)
        of_models = values.sub(reference, axis=0).mean().round(_DIGITS)
        counts = differences.count()
        intervals = bootstrap_interval(differences.to_numpy())
        for name, (low, high) in zip(present, intervals.T, strict=True):
            spread = (
                welch_interval(of_models[name].dropna(), of_models[first].dropna())
                if first in present
                else (math.nan, math.nan)
            )
            enough = counts[name] >= FEWEST_SECTIONS
            above = enough and low > 0 and spread[0] > 0
            below = enough and high < 0 and spread[1] < 0
            rows.append(
                (
                    name,
                    split,
                    metric,
                    values[name].shape[1],
                    counts[name],
                    differences[name].mean(),
                    low,
                    high,
                    *spread,
                    int(above) - int(below),
                )
            )
    return pd.DataFrame(rows, columns=DIFFERENCE_COLUMNS)
