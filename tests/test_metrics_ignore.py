"""Scores with ignored pixels equal those of an image that does not have these pixels."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib import metrics
from pipeline_lib.runtime.errors import InputError

THRESHOLDS = [0.0, 0.25, 0.5, 0.8]
OF_LABELS = ("rand_error", "adapted_rand_error", "v_rand", "v_info", "vi_split", "vi_merge", "pixel_error")
OF_INSTANCES = ("seg", "average_precision", "panoptic_quality", "iou", "dice")


def drawn(seed, shape=(2, 26, 30)):
    """Return cells between membranes, a noisy map with ties of them, and instance labels."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.random(shape), (0, 1, 1))
    cells = smooth > np.quantile(smooth, rng.uniform(0.2, 0.5))
    noisy = ndimage.gaussian_filter(cells + rng.normal(0, 0.6, shape), (0, 0.7, 0.7))
    probability = np.round(np.clip(noisy, 0, 1) * 20) / 20
    labels = ndimage.zoom(rng.integers(0, 9, (shape[0], 5, 5)), (1, shape[1] / 5, shape[2] / 5), order=0)
    return cells.astype(np.uint8), probability.astype(np.float32), labels


def spoiled(cells, probability, labels, ignore):
    """Change everything at the ignored pixels to values that cannot be scored."""
    return (
        np.where(ignore, 3, cells),
        np.where(ignore, np.nan, probability),
        np.where(ignore, -7, labels),
    )


def table(cells, probability, labels, ignore=None, segment=None):
    scores = metrics.isbi_scores(
        cells, probability, THRESHOLDS, labels=labels, ignore=ignore, segment=segment, workers=1
    )
    return scores.set_index(["metric", "threshold"]).value


@given(st.integers(0, 10**6), st.lists(st.integers(0, 11), min_size=4, max_size=4), st.booleans())
def test_ignoring_a_band_at_each_side_is_cropping(seed, bands, segmented):
    cells, probability, labels = drawn(seed)
    top, bottom, left, right = bands
    crop = np.s_[:, top : cells.shape[1] - bottom, left : cells.shape[2] - right]
    ignore = np.ones(cells.shape, np.uint8)
    ignore[crop] = 0
    stored = np.roll(labels, 2, axis=1)
    segment = segment_crop = None
    if segmented:
        segment, segment_crop = (lambda z, *_: stored[z]), (lambda z, *_: stored[crop][z])
    all_spoiled = spoiled(cells, probability, labels, ignore)
    found = table(*all_spoiled, ignore, segment)
    expected = table(cells[crop], probability[crop], labels[crop], segment=segment_crop)
    pd.testing.assert_series_equal(found, expected, check_exact=True)

    names = [*OF_LABELS, *OF_INSTANCES]
    for name in names:
        score = getattr(metrics, name)
        found = score(all_spoiled[2], np.where(ignore, -1, stored), ignore=ignore)
        np.testing.assert_equal(found, score(labels[crop], stored[crop]), name)
    assert metrics.splits_mergers_error(*all_spoiled[:2], ignore=ignore) == metrics.splits_mergers_error(
        cells[crop], probability[crop]
    )
    assert metrics.instance_scores(labels, stored, ignore=ignore) == pytest.approx(
        metrics.instance_scores(labels[crop], stored[crop]), abs=0, rel=0, nan_ok=True
    )


@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.8]), st.sampled_from([0, 1.5]))
def test_scores_with_any_ignored_pixels_equal_those_of_the_other_pixels_in_a_row(seed, share, smooth):
    """Labels and errors are made one by one, then only the pixels that are not ignored are scored."""
    cells, probability, labels = drawn(seed, (3, 14, 13))
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(cells.shape), (0, smooth, smooth))
    ignore = noise < np.quantile(noise, share)
    threshold = 0.5
    found = table(*spoiled(cells, probability, labels, ignore), ignore)[:, threshold]

    annotated = [z for z in range(len(cells)) if not ignore[z].all()]
    rows, thinned, errors, topological, uniform = [], [], 0, 0, []
    for z in annotated:
        inside, predicted = ~ignore[z], (probability[z] > threshold) & ~ignore[z]
        truth = metrics.connected_components((cells[z] > 0) & inside)
        grown = metrics.thin_borders(predicted, ignore=ignore[z])
        rows.append((truth[inside], metrics.connected_components(predicted)[inside], labels[z][inside]))
        thinned.append((truth[inside], grown[inside]))
        own = metrics.error_map(cells[z], probability[z], threshold, ignore=ignore[z])
        errors += np.count_nonzero(own)
        topological += np.isin(own, [metrics.Mismatch.SPLIT, metrics.Mismatch.MERGER]).sum()
        uniform.append(predicted[inside].all() or not predicted.any())
    size = sum(len(truth) for truth, _, _ in rows)

    def mean(score, pairs):
        return np.mean([score(a[None], b[None]) for a, b in pairs])

    # sections of different size, scored as one: labels of each section are other labels
    truth, predicted, instances = (
        np.concatenate([np.where(row[k] > 0, row[k] + 1000 * z, 0) for z, row in enumerate(rows)])[None]
        for k in range(3)
    )
    expected = {
        "pixel_error": metrics.pixel_error(truth, predicted),
        "pixel_mismatch": np.mean((truth > 0) != (predicted > 0)),
        "v_rand_thin": mean(metrics.v_rand, thinned),
        "v_info_thin": mean(metrics.v_info, thinned),
        "warping_error": errors / size,
        "splits_mergers_error": topological / size,
        "uniform_sections": np.mean(uniform),
        "seg": metrics.seg(instances, predicted),
        "average_precision": metrics.average_precision(instances, predicted),
        "panoptic_quality": metrics.panoptic_quality(instances, predicted),
        "iou": metrics.iou(instances, predicted),
        "dice": metrics.dice(instances, predicted),
    }
    with_cells = [(a, b) for a, b, _ in rows if a.any()]
    if with_cells:
        expected["vi_split"] = mean(metrics.vi_split, with_cells)
        expected["vi_merge"] = mean(metrics.vi_merge, with_cells)
    assert {name: found[name] for name in expected} == pytest.approx(expected, nan_ok=True)
    if len(annotated) == 1 and with_cells:  # pairs of pixels are within a section
        assert found["rand_error"] == pytest.approx(metrics.rand_error(truth, predicted), nan_ok=True)


@given(st.integers(0, 10**6))
def test_rand_errors_of_one_section_with_ignored_pixels(seed):
    cells, probability, labels = (array[0] for array in drawn(seed))
    ignore = np.random.default_rng(seed).random(cells.shape) < 0.3
    cells[0, 0], ignore[0, 0], ignore[-1, -1] = 1, False, True
    found = table(*spoiled(cells, probability, labels, ignore), ignore)[:, 0.5]
    inside = ~ignore
    truth = metrics.connected_components(cells * inside)[inside][None]
    predicted = metrics.connected_components((probability > 0.5) & inside)[inside][None]
    assert found["rand_error"] == pytest.approx(np.nan_to_num(metrics.rand_error(truth, predicted)))
    assert found["rand_error_n2"] == pytest.approx(metrics.adapted_rand_error(truth, predicted))
    unrestricted = metrics.rand_error(truth + 1, predicted + 1)
    assert found["rand_error_unrestricted"] == pytest.approx(unrestricted)


def test_objects_in_two_parts_of_the_image_stay_one():
    """Labels are given, so they are only restricted; components are made, so nothing joins the parts."""
    labels, ignore = np.array([[1, 1, 1, 1, 1]]), np.array([[0, 0, 1, 0, 0]])
    assert metrics.seg(labels, labels, ignore=ignore) == 1
    assert metrics.seg(labels, np.array([[1, 1, 0, 2, 2]]), ignore=ignore) == 0
    found = metrics.isbi_scores(labels, labels.astype(float), [0.5], labels=labels, ignore=ignore)
    found = found.set_index("metric").value
    assert found.rand_error == 0 and found.seg == 0 and found.average_precision_50 == 0.5


def test_no_ignored_pixel_changes_nothing():
    stack = drawn(0)
    assert table(*stack, np.zeros(stack[0].shape, bool)).equals(table(*stack))


def test_section_that_is_ignored_as_a_whole_is_left_out():
    stack = drawn(1, (3, 26, 30))
    ignore = np.zeros(stack[0].shape, bool)
    ignore[1] = True
    assert table(*spoiled(*stack, ignore), ignore).equals(table(*(array[::2] for array in stack)))
    labels, predicted = stack[2], np.roll(stack[2], 1, axis=2)
    for name in ("v_rand", "v_info", "vi_split", "seg", "rand_error"):
        score = getattr(metrics, name)
        assert score(labels, predicted, ignore=ignore) == score(labels[::2], predicted[::2])


def test_nothing_to_score_is_an_error_or_nan():
    stack = drawn(2)
    everywhere = np.ones(stack[0].shape, bool)
    with pytest.raises(InputError, match="every pixel is ignored"):
        metrics.isbi_scores(*stack[:2], ignore=everywhere)
    assert not metrics.error_map(*stack[:2], ignore=everywhere).any()
    for score in (metrics.warping_error, metrics.splits_mergers_error):
        assert np.isnan(score(*stack[:2], ignore=everywhere))
    found = metrics.instance_scores(*stack[::2], ignore=everywhere)
    assert {found.pop(name) for name in metrics.CELL_COUNTS} == {0}
    assert all(np.isnan(value) for value in found.values())
    assert np.isnan(metrics.v_rand(*stack[::2], ignore=everywhere))


def test_ignored_pixels_do_not_hide_invalid_values():
    cells, probability, labels = drawn(3)
    ignore = np.zeros(cells.shape, bool)
    ignore[0, 0, 0], probability[0, 5, 6] = True, 1.5
    with pytest.raises(InputError, match=r"is 1\.5 at row 5, column 6 of section 0"):
        metrics.isbi_scores(cells, probability, ignore=ignore)
    with pytest.raises(InputError, match=r"shapes differ: .* ignore \(26, 30\)"):
        metrics.isbi_scores(cells, probability, ignore=ignore[0])
    with pytest.raises(InputError, match=r"shapes differ: .* ignore \(26, 30\)"):
        metrics.instance_scores(labels, labels, ignore=ignore[0])


def test_map_is_compared_with_the_truth_only_where_it_is_annotated(caplog):
    """The map is right in the annotated half and inverted in the other."""
    cells, _, _ = drawn(4)
    probability, ignore = cells.astype(float), np.zeros(cells.shape, bool)
    ignore[:, 10:] = True
    probability[ignore] = 1 - probability[ignore]
    metrics.isbi_scores(cells, probability, [0.5])
    assert "anticorrelated" in caplog.text
    caplog.clear()
    metrics.isbi_scores(cells, probability, [0.5], ignore=ignore)
    assert not caplog.records


def test_ignored_pixels_do_not_hide_an_inverted_map(caplog):
    cells, _, _ = drawn(4)
    ignore = np.zeros(cells.shape, bool)
    ignore[:, 4:] = True
    metrics.isbi_scores(cells, 0.6 - 0.2 * (cells != 0), [0.5], ignore=ignore)
    assert "anticorrelated" in caplog.text


def test_scores_do_not_change_their_arguments():
    cells, probability, labels = drawn(4)
    ignore = np.zeros(cells.shape, np.uint8)
    ignore[:, 4:9] = 1
    arguments = cells, probability, labels, ignore
    before = [array.copy() for array in arguments]
    metrics.isbi_scores(cells, probability, [0.5], labels=labels, ignore=ignore)
    metrics.instance_scores(labels, labels, ignore=ignore)
    metrics.reliability(cells, probability, ignore=ignore)
    metrics.constant_pixels(cells, probability, ignore=ignore)
    metrics.thin_borders(cells, ignore=ignore)
    metrics.connected_components(cells, ignore=ignore)
    for array, expected in zip(arguments, before, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_instances_are_made_from_components_in_which_ignored_pixels_are_background():
    cells, probability, labels = drawn(4)
    ignore, lowest = np.zeros(cells.shape, bool), []
    ignore[:, 4:9] = True

    def segment(z, probability, threshold, components):
        lowest.append(int(components.min()))
        assert not components[ignore[z]].any()
        return components

    metrics.isbi_scores(cells, probability, [0.5], labels=labels, ignore=ignore, segment=segment)
    assert {*lowest} == {0}


def test_components_given_as_regions_have_the_scores_of_components():
    cells, probability, labels = drawn(4)
    ignore = np.zeros(cells.shape, bool)
    ignore[:, 4:9] = True
    arguments = {"labels": labels, "ignore": ignore}
    expected = metrics.isbi_scores(cells, probability, [0.3, 0.6], **arguments)
    found = metrics.isbi_scores(
        cells, probability, [0.3, 0.6], segment=lambda *of_section: of_section[3], regions=True, **arguments
    )
    assert found.equals(expected)
