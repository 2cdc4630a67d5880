"""Differences between variants: intervals by the formulas, and no mark without a reason."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pipeline_lib.metrics.differences import (
    FEWEST_SECTIONS,
    bootstrap_interval,
    compare_variants,
    welch_interval,
)

NAN = float("nan")


def table(values):
    """Table of scores from {variant: {model: scores of the sections}}; NaN is a score that is not defined."""
    rows = [
        (variant, model, "test", "v", z, "seg", value)
        for variant, models in values.items()
        for model, scores in models.items()
        for z, value in enumerate(scores)
    ]
    return pd.DataFrame(rows, columns=["variant", "model", "split", "volume", "section", "metric", "value"])


def compare(values):
    return compare_variants(table(values), [*values]).set_index("variant")


# intervals


@pytest.mark.parametrize("number", [30, 200])
def test_the_bootstrap_interval_of_many_sections_is_nearly_that_of_a_normal_mean(number):
    values = np.random.default_rng(number).normal(0.2, 1, number)
    margin = stats.norm.ppf(0.975) * values.std() / number**0.5
    expected = values.mean() - margin, values.mean() + margin
    np.testing.assert_allclose(bootstrap_interval(values), expected, rtol=0, atol=0.08 * margin)


def test_the_bootstrap_interval_is_that_of_all_resamples():
    """All 5**5 resamples of five differences instead of 10,000 at random."""
    values = np.array([-0.3, 0.1, 0.2, 0.25, 1.0])
    means = np.mean([*product(values, repeat=5)], axis=1)
    expected = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose(bootstrap_interval(values), expected, rtol=0, atol=0.02)
    assert bootstrap_interval(values)[0] < np.quantile(means, 0.05)


def test_many_comparisons_have_the_intervals_of_single_ones():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 4))
    values[2, 1] = values[5, 3] = values[6, 3] = NAN
    found = bootstrap_interval(values)
    for column in range(4):
        known = values[:, column][~np.isnan(values[:, column])]
        np.testing.assert_allclose(found[:, column], bootstrap_interval(known), rtol=1e-12)


def test_a_large_table_is_resampled_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(0.3, 1, (40, 2))
    whole = bootstrap_interval(values)
    monkeypatch.setattr("pipeline_lib.metrics.differences._AT_ONCE", 999)
    np.testing.assert_allclose(bootstrap_interval(values), whole, rtol=1e-12)


@pytest.mark.parametrize(("one", "other"), [(3, 3), (2, 5), (8, 2)])
def test_the_interval_of_the_trainings_is_that_of_welch(one, other):
    """The formulas of the paper: variances of both means, and degrees of freedom from both."""
    rng = np.random.default_rng(one)
    a, b = rng.normal(0.9, 0.01, one), rng.normal(0.85, 0.04, other)
    of_a, of_b = np.var(a) / (one - 1), np.var(b) / (other - 1)
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (one - 1) + of_b**2 / (other - 1))
    margin = stats.t.ppf(0.975, freedom) * (of_a + of_b) ** 0.5
    middle = a.mean() - b.mean()
    np.testing.assert_allclose(welch_interval(a, b), (middle - margin, middle + margin), rtol=1e-10)


def test_one_training_has_no_interval_and_equal_ones_have_an_exact_one():
    assert np.isnan(welch_interval([0.9], [0.8, 0.7])).all()
    assert np.isnan(welch_interval([0.9, 0.8], [0.8])).all()
    assert welch_interval([0.75, 0.75], [0.5, 0.5]) == (0.25, 0.25)


# table


def test_the_table_is_that_of_a_slow_twin():
    """With several splits and metrics, folds with other volumes, and scores that are not defined."""
    rng = np.random.default_rng(5)
    variants = {"b": ["b0", "b1"], "a": ["a0", "a1", "a2"], "c": ["c0"]}
    rows = []
    for variant, split, metric in product(variants, ("test", "validation"), ("seg", "vi_split")):
        for number, model in enumerate(variants[variant]):
            volumes = "xy" if split == "test" else "xyz"[number]  # each fold has its own validation volume
            for volume, z in product(volumes, range(4)):
                value = rng.normal() if rng.random() > 0.1 else NAN
                rows.append((variant, model, split, volume, z, metric, value))
    scores = pd.DataFrame(rows, columns=["variant", "model", "split", "volume", "section", "metric", "value"])
    found = compare_variants(scores, ["a", "b", "c"]).set_index(["split", "metric", "variant"])
    assert len(found) == 2 * 2 * 3
    values = {row[:6]: row[6] for row in rows}

    def mean(numbers):
        known = [number for number in numbers if not np.isnan(number)]
        return sum(known) / len(known) if known else NAN

    for (split, metric, variant), row in found.iterrows():
        places = [*dict.fromkeys(row[3:5] for row in rows if row[2] == split)]

        def scores_at(name, place, split=split, metric=metric):
            return [values.get((name, m, split, *place, metric), NAN) for m in variants[name]]

        reference = {place: mean(scores_at("a", place)) for place in places}
        differences = [mean(scores_at(variant, place)) - reference[place] for place in places]
        known = [d for d in differences if not np.isnan(d)]
        assert row.models == len(variants[variant]) and row.sections == len(known)
        assert row.difference == pytest.approx(sum(known) / len(known), abs=1e-11)
        np.testing.assert_allclose([row.low, row.high], bootstrap_interval(known), atol=1e-11)
        of_models = {
            name: [
                mean(scores_at(name, place)[number] - reference[place] for place in places)
                for number, _ in enumerate(variants[name])
            ]
            for name in (variant, "a")
        }
        expected = welch_interval(of_models[variant], of_models["a"])
        np.testing.assert_allclose([row.spread_low, row.spread_high], expected, atol=1e-11)


SECTIONS = np.random.default_rng(1).normal(0, 0.002, (12, 8))  # small chance in each model and section


def variant(better, luck, number=3, first=0):
    """Scores of models that are better by `better`, with chance in the training of up to `luck`."""
    lucky = np.linspace(-luck, luck, number)
    return {f"{better}-{n}": 0.7 + better + lucky[n] + SECTIONS[first + n] for n in range(number)}


def test_a_clear_difference_is_marked_with_its_sign():
    found = compare({"a": variant(0, 0.01), "b": variant(0.1, 0.01, first=3), "c": variant(-0.1, 0.01)})
    assert found.differs.to_dict() == {"a": 0, "b": 1, "c": -1}
    assert found.difference.b == pytest.approx(0.1, abs=0.005)


def test_a_difference_within_the_spread_of_the_trainings_is_not_marked():
    """Every section is better, but so are some models of the first variant."""
    row = compare({"a": variant(0, 0.1), "b": variant(0.03, 0.1, first=3)}).loc["b"]
    assert row.low > 0 and row.spread_low < 0 < row.spread_high and row.differs == 0


def test_a_difference_that_depends_on_the_sections_is_not_marked():
    """All models agree, but only two sections of eight are better."""
    first, other = variant(0, 0.001), variant(0, 0.001, first=3)
    for scores in other.values():
        scores[[2, 5]] += 0.2
        scores[[0, 1]] -= 0.1
    row = compare({"a": first, "b": other}).loc["b"]
    assert row.spread_low > 0 and row.low < 0 < row.high and row.differs == 0


def test_a_single_model_or_few_sections_are_never_marked():
    assert compare({"a": variant(0, 0.01), "b": variant(0.3, 0.01, 1)}).differs.b == 0
    assert compare({"a": variant(0, 0.01, 1), "b": variant(0.3, 0.01)}).differs.b == 0
    for number, expected in ((FEWEST_SECTIONS - 1, 0), (FEWEST_SECTIONS, 1)):
        both = {"a": variant(0, 0.01), "b": variant(0.3, 0.01, first=3)}
        few = {name: {m: scores[:number] for m, scores in own.items()} for name, own in both.items()}
        assert compare(few).differs.b == expected


def test_without_scores_of_the_first_variant_no_difference_is_stated():
    found = compare({"a": {}, "b": variant(0, 0.01), "c": variant(0.3, 0.01)})
    assert [*found.index] == ["b", "c"] and found.models.to_list() == [3, 3]
    assert found[["difference", "low", "high", "spread_low", "spread_high"]].isna().all(axis=None)
    assert not found.differs.any()


@settings(max_examples=25)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=9),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_identical_variants_never_differ(scores, one, other):
    """Also if one of them has more copies, so that means differ by rounding."""
    copies = {"a": one, "b": other}
    found = compare({name: {f"{name}{n}": scores for n in range(copies[name])} for name in copies})
    assert not found.differs.any() and (found.difference == 0).all()


def test_a_worse_variant_within_the_spread_of_the_trainings_is_not_marked():
    """The other direction of `test_a_difference_within_the_spread_of_the_trainings_is_not_marked`."""
    row = compare({"a": variant(0, 0.1), "b": variant(-0.03, 0.1, first=3)}).loc["b"]
    assert row.high < 0 and row.spread_low < 0 < row.spread_high and row.differs == 0


def test_models_without_a_defined_score_do_not_count():
    first, other = variant(0, 0.01), variant(0.1, 0.01, first=3)
    without = {"undefined": [NAN] * 8}
    found = compare({"a": first | without, "b": other})
    assert found.models.to_list() == [3, 3]
    pd.testing.assert_frame_equal(found, compare({"a": first, "b": other}))


def test_two_sections_have_a_bootstrap_interval_and_one_has_none():
    np.testing.assert_allclose(bootstrap_interval([0.1, 0.3]), [0.1, 0.3])
    assert np.isnan(bootstrap_interval([0.1, NAN])).all()


def test_one_training_has_no_interval_also_beside_equal_ones():
    assert np.isnan(welch_interval([0.9], [0.8, 0.8])).all()
    assert np.isnan(welch_interval([0.8, 0.8], [0.9])).all()
