"""Compare all scores with those of the challenge's reference software, for drawn cells and for real cases.

tests/golden has drawn cells and the values of fiji/Trainable_Segmentation for them; see
docs/explanation/scores.md. The environment variable BORDURE_GOLDEN names a folder with the same for crops of
real data, which we may not publish. Without this folder the real cases are skipped.
"""

import json
import os
import zlib
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib import metrics
from pipeline_lib.metrics.information import information
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares, unrestricted_pairs

DRAWN = Path(__file__).parent / "golden"
REAL = Path(os.environ.get("BORDURE_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
TYPES = {f"{kind.name.lower()}s": kind for kind in metrics.Mismatch}

no_real_cases = pytest.param(
    None,
    id="real",
    marks=pytest.mark.skip(reason=f"no real cases in {REAL}; set BORDURE_GOLDEN to the folder that has them"),
)
real_cases = [pytest.param(path, id=path.stem) for path in sorted(REAL.glob("c*_*.json"))] or [no_real_cases]
cases = [pytest.param(path, id=path.stem) for path in sorted(DRAWN.glob("*.json"))] + real_cases


@pytest.fixture(scope="module", params=cases)
def case(request):
    reference = json.loads(request.param.read_text())
    arrays = np.load(request.param.with_suffix(".npz"))
    probability = arrays["proposal"].astype(np.float32) / np.float32(arrays["scale"])
    cells, mask = (np.atleast_3d(arrays[key].T).T if key in arrays else None for key in ("label", "mask"))
    return reference, cells, np.atleast_3d(probability.T).T, mask


def close(value, reference):
    return value == pytest.approx(np.nan if reference is None else reference, rel=1e-9, abs=1e-9, nan_ok=True)


def check_ratios(counts, reference):
    for name, key in (("precision", "precision"), ("recall", "recall"), ("f_score", "fscore")):
        assert close(getattr(counts, name), reference[key]), key


def check_integers(counts, reference):
    assert counts == type(counts)(*(reference[key] for key in ("tp", "tn", "fp", "fn")))


def check_fractions(counts, reference):
    """Compare N^2 counts as fractions of n^2, which is how the reference computes and rounds them."""
    total = counts.tp + counts.tn + counts.fp + counts.fn
    for key in ("tp", "tn", "fp", "fn"):
        expected = None if reference[key] is None else reference[key] / total
        assert close(getattr(counts, key) / total, expected), key


def crc(section, dtype):
    return zlib.crc32(np.ascontiguousarray(section, dtype).tobytes())


def test_challenge_summary_equals_the_reference(case):
    reference, cells, probability, mask = case
    scores = metrics.isbi_scores(cells, probability, mask=mask)
    summary = metrics.challenge_summary(scores)
    assert summary.keys() == reference["challenge_summary"].keys()
    for key, value in reference["challenge_summary"].items():
        assert close(summary[key], value), key
    for position, threshold in enumerate(metrics.CHALLENGE_THRESHOLDS):
        values = scores[scores.threshold == threshold].set_index("metric").value
        entry = reference["per_threshold"][position]
        expected = {
            "pixel_error": 1 - entry["pixel"]["fscore"],
            "pixel_mismatch": entry["pixel"]["metric_value"],
            "rand_error": 1 - entry["rand_2012"]["fscore"],
            "rand_error_n2": 1 - entry["rand_fr"]["fscore"],
            "rand_error_unrestricted": 1 - entry["rand_standard"]["fscore"],
            "v_rand_thin": entry["vrand_thinned"],
            "v_info_thin": entry["vinfo_thinned"],
            "warping_error": entry["warping"]["error"],
        }
        if not all_cell(cells):
            expected["splits_mergers_error"] = entry["warping"]["splits_mergers_error_radius20"]
        for metric, value in expected.items():
            assert close(values[metric], value), (metric, threshold)
        assert close(values.vi_split + values.vi_merge, entry["vi_fr"])


def all_cell(cells):
    """Return whether a section is all cell: there the reference has no components and names wrong kinds."""
    return any(section.all() for section in cells)


def test_components_and_watershed_equal_the_reference(case):
    reference, cells, probability, _ = case
    for entry in reference["per_threshold"]:
        predicted = probability.astype(np.float64) > entry["threshold"]
        thinned = metrics.thin_borders(predicted)
        for labels, count in (
            (metrics.connected_components(cells), entry["n_components_label"]),
            (metrics.connected_components(predicted), entry["n_components_proposal"]),
            (thinned, entry["watershed"]["n_labels"]),
        ):
            assert [section.max() for section in labels] == count
        assert [np.count_nonzero(section == 0) for section in thinned] == entry["watershed"]["n_dam_pixels"]
        assert [crc(section, "<u2") for section in thinned] == entry["watershed"]["crc32_uint16le"]


def test_rand_and_information_scores_equal_the_reference(case):
    reference, cells, probability, _ = case
    labels = metrics.connected_components(cells)
    for entry in reference["per_threshold"]:
        predicted = probability.astype(np.float64) > entry["threshold"]
        tables = metrics.contingency_tables(labels, metrics.connected_components(predicted))
        thinned = metrics.contingency_tables(labels, metrics.thin_borders(predicted))
        pixels, pairs, all_pairs, squares = (
            [count(table) for table in tables]
            for count in (pixel_counts, foreground_pairs, unrestricted_pairs, foreground_squares)
        )
        for counts, key in ((pixels, "pixel"), (pairs, "rand_2012"), (all_pairs, "rand_standard")):
            check_integers(reduce(add, counts), entry[key])
            check_ratios(reduce(add, counts), entry[key])
        thinned_squares = map(foreground_squares, thinned)
        for counts, key in ((squares, "rand_fr"), (thinned_squares, "rand_fr_thinned_micro")):
            total = reduce(add, counts)
            check_fractions(total, entry[key])
            check_ratios(total, entry[key])
        assert close(np.mean([counts.mismatch for counts in pixels]), entry["pixel"]["metric_value"])
        for counts, key in ((pairs, "rand_2012"), (all_pairs, "rand_standard"), (squares, "rand_fr")):
            assert close(1 - np.mean([c.mismatch for c in counts]), entry[key]["metric_value"])
        assert close(np.mean([counts.mismatch for counts in pairs]), entry["rand_fr_error_nchoose2"])

        assert close(metrics.v_rand(labels, metrics.thin_borders(predicted)), entry["vrand_thinned"])
        assert close(metrics.v_info(labels, metrics.thin_borders(predicted)), entry["vinfo_thinned"])
        assert close(metrics.v_info(labels, metrics.connected_components(predicted)), entry["vinfo_fr"])
        for position, table in enumerate(thinned):
            assert close(foreground_squares(table).f_score, entry["vrand_thinned_per_slice"][position])
            assert close(information(table).f_score, entry["vinfo_thinned_per_slice"][position])
        for table, expected in zip(tables, entry["info_fr_stats_per_slice"], strict=True):
            if expected["h_seg"] is None:
                continue  # a section without cells, for which the reference has only H(truth)
            entropies = information(table)
            assert close(entropies.h_truth, expected["h_gt"])
            assert close(entropies.h_predicted, expected["h_seg"])
            assert close(entropies.vi_merge, expected["h_gt_given_seg"])
            assert close(entropies.vi_split, expected["h_seg_given_gt"])
            assert close(entropies.f_score, expected["fscore"])
            if entropies.f_score:  # the reference reports a precision of 1 for a section with recall 0
                assert close(entropies.precision, expected["precision"])
                assert close(entropies.recall, expected["recall"])


def test_warped_truth_and_its_errors_equal_the_reference(case):
    reference, cells, probability, mask = case
    for entry in reference["per_threshold"]:
        threshold, expected = entry["threshold"], entry["warping"]
        warped = metrics.warp(cells, probability, threshold, mask)
        assert [crc(section, "u1") for section in warped] == expected["warped_crc32_u8"]
        errors = metrics.error_map(cells, probability, threshold, mask)
        assert [np.count_nonzero(section) for section in errors] == expected["mismatches_per_slice"]
        assert close([np.mean(section != 0) for section in errors], expected["error_per_slice"])
        assert close(metrics.warping_error(cells, probability, threshold, mask), expected["error"])
        assert close(np.mean(errors != 0), expected["all_flags_error_radius20"])
        if all_cell(cells):
            continue
        assert [crc(section, "u1") for section in errors] == expected["mismatch_image_radius20_crc32_u8"]
        assert close(
            metrics.splits_mergers_error(cells, probability, threshold, mask),
            expected["splits_mergers_error_radius20"],
        )
        for name, kind in TYPES.items():
            assert np.count_nonzero(errors == kind) == expected["by_type_radius20"][name]
        regions = metrics.error_regions(errors, probability, threshold).kind.value_counts()
        for name, kind in TYPES.items():
            assert regions.get(kind.name.lower(), 0) == expected["by_error_radius20"][name]
        tears = regions.get("split", 0) + regions.get("merger", 0)
        assert close(tears / cells.size, expected["splits_mergers_error_radius20_by_error"])
        if "by_type_global" in expected:
            whole = metrics.error_map(cells, probability, threshold, mask, radius=-1)
            for name, kind in TYPES.items():
                assert np.count_nonzero(whole == kind) == expected["by_type_global"][name]
