"""Test `isbi_scores` on unusual input, and that good scores of a useless map are reported with a warning."""

import logging
import re
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib import metrics
from pipeline_lib.kernels import sections
from pipeline_lib.metrics import challenge
from pipeline_lib.runtime.errors import InputError

METRICS = {
    "pixel_error",
    "pixel_mismatch",
    "rand_error",
    "rand_error_n2",
    "rand_error_unrestricted",
    "v_rand_thin",
    "v_info_thin",
    "warping_error",
    "splits_mergers_error",
    "vi_split",
    "vi_merge",
    "uniform_sections",
}


def drawn_stack(sections=3, side=48, seed=0):
    """Return cells between membranes, and a blurred and noisy map of them."""
    rng = np.random.default_rng(seed)
    cells = np.ones((sections, side, side), np.uint8)
    for section in cells:
        for _ in range(4):
            section[:, rng.integers(side)] = section[rng.integers(side)] = 0
    blurred = ndimage.gaussian_filter(cells.astype(float), (0, 1, 1))
    return cells, np.clip(blurred + rng.normal(0, 0.1, cells.shape), 0, 1).astype(np.float32)


def values(scores, threshold=0.5):
    return scores[np.isclose(scores.threshold, threshold)].set_index("metric").value


def test_thresholds_are_tenths_added_up():
    expected, threshold = [], 0.0
    for _ in range(11):
        expected.append(threshold)
        threshold += 0.1
    assert list(metrics.CHALLENGE_THRESHOLDS) == expected
    assert metrics.CHALLENGE_THRESHOLDS[-1] < 1


def test_table_has_each_metric_at_each_threshold_once():
    scores = metrics.isbi_scores(*drawn_stack())
    assert list(scores.columns) == ["metric", "threshold", "value"]
    assert set(scores.metric) == METRICS
    assert not scores.duplicated(["metric", "threshold"]).any()
    assert len(scores) == len(METRICS) * len(metrics.CHALLENGE_THRESHOLDS)


def test_scores_equal_those_of_the_single_functions():
    cells, probability = drawn_stack()
    predicted = probability.astype(np.float64) > 0.7
    labels, found = metrics.connected_components(cells), metrics.connected_components(predicted)
    thinned = metrics.thin_borders(predicted)
    expected = {
        "pixel_error": metrics.pixel_error(cells, predicted),
        "pixel_mismatch": np.mean((cells > 0) != predicted),
        "rand_error": metrics.rand_error(labels, found),
        "rand_error_n2": metrics.adapted_rand_error(labels, found),
        "rand_error_unrestricted": metrics.rand_error(labels + 1, found + 1),
        "v_rand_thin": metrics.v_rand(labels, thinned),
        "v_info_thin": metrics.v_info(labels, thinned),
        "warping_error": metrics.warping_error(cells, probability, 0.7),
        "splits_mergers_error": metrics.splits_mergers_error(cells, probability, 0.7),
        "vi_split": metrics.vi_split(labels, found),
        "vi_merge": metrics.vi_merge(labels, found),
        "uniform_sections": 0,
    }
    assert dict(values(metrics.isbi_scores(cells, probability, [0.7]), 0.7)) == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_truth_against_itself_is_perfect(seed):
    cells, _ = drawn_stack(2, 20, seed)
    at_half = values(metrics.isbi_scores(cells, cells.astype(np.float32)))
    errors = at_half.drop(["v_rand_thin", "v_info_thin", "uniform_sections"])
    assert errors.to_numpy() == pytest.approx(0, abs=1e-12)
    thinned = metrics.thin_borders(cells)
    labels = metrics.connected_components(cells)
    assert at_half.v_rand_thin == pytest.approx(metrics.v_rand(labels, thinned))


def test_order_of_sections_and_number_of_workers_do_not_matter():
    cells, probability = drawn_stack()
    expected = metrics.isbi_scores(cells, probability, workers=1)
    for workers in (2, 5):
        assert metrics.isbi_scores(cells, probability, workers=workers).equals(expected)
    turned = metrics.isbi_scores(cells[::-1], probability[::-1])
    assert np.allclose(turned.value, expected.value, rtol=1e-12)


def test_one_section_is_a_stack_of_one():
    cells, probability = drawn_stack(1)
    assert metrics.isbi_scores(cells[0], probability[0]).equals(metrics.isbi_scores(cells, probability))


def test_hdf5_is_read_section_by_section(tmp_path):
    cells, probability = drawn_stack()
    with h5py.File(tmp_path / "maps.h5", "w") as file:
        truth, map_ = file.create_dataset("cells", data=cells), file.create_dataset("map", data=probability)
        assert metrics.isbi_scores(truth, map_).equals(metrics.isbi_scores(cells, probability))


def test_any_array_indexed_by_section_can_be_scored():
    class Sections:
        def __init__(self, array):
            self.array, self.shape, self.dtype = array, array.shape, array.dtype

        def __getitem__(self, z):
            assert isinstance(z, int)
            return self.array[z]

    cells, probability = drawn_stack()
    arguments = [cells, probability, metrics.connected_components(cells)]
    expected = metrics.isbi_scores(*arguments[:2], labels=arguments[2])
    cells, probability, labels = map(Sections, arguments)
    assert metrics.isbi_scores(cells, probability, labels=labels).equals(expected)


def test_memory_layout_and_byte_order_do_not_matter():
    cells, probability = drawn_stack()
    expected = metrics.isbi_scores(cells, probability)
    assert metrics.isbi_scores(np.asfortranarray(cells), np.asfortranarray(probability)).equals(expected)
    assert metrics.isbi_scores(cells.astype(">u4"), probability.astype(">f8")).equals(expected)
    assert metrics.isbi_scores(cells > 0, probability).equals(expected)


def test_progress_receives_each_section():
    seen = []

    def progress(sections):
        for section in sections:
            seen.append(section)
            yield section

    metrics.isbi_scores(*drawn_stack(), [0.5], progress=progress)
    assert len(seen) == 3


def test_few_sections_are_in_memory_at_a_time(monkeypatch):
    held, most = [], []

    def padded(*arguments):
        array = sections.padded(*arguments)
        held.append(weakref.ref(array))
        most.append(sum(ref() is not None for ref in held))
        return array

    monkeypatch.setattr(challenge, "padded", padded)
    arrays_per_section = 2
    for workers, sections_held in ((1, 1), (2, 3)):  # two are scored, one is prepared
        held.clear()
        most.clear()
        metrics.isbi_scores(*drawn_stack(20), [0.3, 0.5, 0.7], workers=workers)
        assert len(held) == 20 * arrays_per_section
        assert max(most) <= sections_held * arrays_per_section


def test_interrupt_stops_scoring(monkeypatch):
    warping, scored = challenge._warping, []

    def interrupt(sections):
        raise KeyboardInterrupt

    monkeypatch.setattr(challenge, "_warping", lambda *arguments: scored.append(1) or warping(*arguments))
    stack = [np.broadcast_to(array, (500, 48, 48)) for array in drawn_stack(1)]
    with pytest.raises(KeyboardInterrupt):
        metrics.isbi_scores(*stack, workers=1, progress=interrupt)
    assert len(scored) < 500


def test_all_values_but_zero_are_cells_of_the_truth():
    """The reference compares the truth with the threshold, too, so a truth of 0 and 1 has no cells at 1."""
    cells, probability = drawn_stack()
    assert metrics.isbi_scores(cells * 255, probability).equals(metrics.isbi_scores(cells, probability))


def spoiled(probability, value):
    probability = probability.copy()
    probability[1, 2, 3] = value
    return probability


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p[:2], r"shapes differ: cells \(3, 48, 48\), cell_probability \(2, 48, 48\)"),
        (lambda p: p.T[:-1], "same order"),
        (lambda p: spoiled(p, np.nan), "1 NaN or infinite values in section 1"),
        (lambda p: spoiled(p, np.inf), "1 NaN or infinite values in section 1"),
        (lambda p: spoiled(p, 1.5), r"is 1.5 at row 2, column 3 of section 1 .* to 1.5\), expected 0..1"),
        (lambda p: spoiled(p.astype(np.float64), 1 + 2e-6), r"is 1.000002 at row 2, column 3 of section 1"),
        (lambda p: spoiled(p, -0.25), "is -0.25 at row 2, column 3 of section 1 .values from -0.25 to"),
        (lambda p: (p * 65535).astype(np.uint16), "cell_probability / 65535"),
        (lambda p: (p > 0.5).astype(np.uint8), "binary map"),
        (lambda p: p.astype(complex), "complex128"),
    ],
)
def test_error_for_an_invalid_map_states_what_to_do(spoil, message):
    cells, probability = drawn_stack()
    for score in (metrics.isbi_scores, metrics.error_map):
        with pytest.raises(InputError, match=message):
            score(cells, spoil(probability))


def test_invalid_arguments_are_rejected():
    cells, probability = drawn_stack()
    for thresholds in ([], [0.5, 1.5], [np.nan]):
        with pytest.raises(InputError, match="thresholds"):
            metrics.isbi_scores(cells, probability, thresholds)
    for score in (metrics.warp, metrics.error_map, metrics.warping_error, metrics.splits_mergers_error):
        with pytest.raises(InputError, match=r"thresholds are \[255.0\]"):
            score(cells, probability, 255)
    with pytest.raises(InputError, match="mask"):
        metrics.isbi_scores(cells, probability, mask=cells[0])
    with pytest.raises(InputError, match="NaN in section 0"):
        metrics.isbi_scores(np.full(cells.shape, np.nan), probability)
    with pytest.raises(InputError, match="at least one pixel"):
        metrics.isbi_scores(cells[:0], probability[:0])
    with pytest.raises(InputError, match="in parts"):
        metrics.isbi_scores(*[np.broadcast_to(np.float32(1), (1, 50_000, 50_000))] * 2)


def test_eight_bit_map_is_divided_by_255_and_logged(caplog):
    cells, probability = drawn_stack()
    bytes_ = np.round(probability * 255).astype(np.uint8)
    expected = metrics.isbi_scores(cells, bytes_.astype(np.float32) / np.float32(255))
    assert not caplog.records
    assert metrics.isbi_scores(cells, bytes_).equals(expected)
    assert "divided by 255" in caplog.text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_errors_beyond_0_and_1_are_clipped_and_logged(dtype, caplog):
    cells, probability = drawn_stack()
    clean = probability.astype(dtype)
    clean[:, 5], clean[:, 9] = 1, 0
    rounded = clean.copy()
    rounded[:, 5], rounded[1, 9] = np.nextafter(dtype(1), dtype(2)), -9e-7
    expected = metrics.isbi_scores(cells, clean, [0.0, 0.5, 1.0])
    assert not caplog.records
    assert metrics.isbi_scores(cells, rounded, [0.0, 0.5, 1.0]).equals(expected)
    assert [record.message for record in caplog.records] == [
        "cell_probability has values up to 1e-06 beyond 0..1, which were clipped."
    ]
    np.testing.assert_array_equal(metrics.error_map(cells, rounded, 1), metrics.error_map(cells, clean, 1))


def test_inverted_map_is_logged_and_scored_as_it_is(caplog):
    cells, probability = drawn_stack()
    errors = values(metrics.isbi_scores(cells, 1 - probability))
    assert "anticorrelated" in caplog.text
    assert errors.rand_error > values(metrics.isbi_scores(cells, probability)).rand_error


@pytest.mark.parametrize("odd_one", [0, 2])
def test_warnings_depend_on_the_whole_stack(caplog, odd_one):
    cells, probability = drawn_stack()
    cells[odd_one] = 0
    probability[odd_one, 10] = 0.9
    metrics.isbi_scores(cells, probability)
    assert not caplog.records


@given(st.integers(0, 1000))
def test_noise_is_not_reported_as_inverted(seed):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger("bordure").addHandler(handler)
    try:
        cells, _ = drawn_stack(2, 64, seed)
        metrics.error_map(cells, np.random.default_rng(seed).random(cells.shape))
    finally:
        logging.getLogger("bordure").removeHandler(handler)
    assert not records


def test_truth_without_cells_is_logged_and_has_documented_values(caplog):
    cells, probability = drawn_stack()
    at_half = values(metrics.isbi_scores(np.zeros_like(cells), probability))
    assert "no cell" in caplog.text
    assert at_half.rand_error == 0
    assert at_half.rand_error_n2 == at_half.pixel_error == 1
    assert at_half.v_rand_thin == at_half.v_info_thin == at_half.splits_mergers_error == 0
    assert np.isnan(at_half.vi_split) and np.isnan(at_half.vi_merge)
    assert at_half.warping_error == at_half.pixel_mismatch > 0


def test_pooled_scores_ignore_sections_without_cells():
    cells, probability = drawn_stack()
    without_empty = values(metrics.isbi_scores(cells, probability))
    cells, probability = (np.concatenate([array, np.zeros_like(array[:1])]) for array in (cells, probability))
    with_empty = values(metrics.isbi_scores(cells, probability))
    for metric in ("pixel_error", "rand_error", "rand_error_n2", "vi_split", "vi_merge"):
        assert with_empty[metric] == pytest.approx(without_empty[metric])
    assert with_empty.v_rand_thin == pytest.approx(without_empty.v_rand_thin * 3 / 4)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_good_score_of_a_constant_map_is_logged(value, caplog):
    cells, probability = drawn_stack()
    table = metrics.summary_table(metrics.isbi_scores(cells, np.full_like(probability, value)))
    assert (table.uniform_sections == 1).all()
    assert "splits_mergers_error" in caplog.text and "all one class" in caplog.text
    if value < 0.9:  # all membrane at some threshold, where this score is 0
        row = table.set_index("metric").loc["splits_mergers_error"]
        assert row.best == row.splits_mergers_error == 0
        assert row.pixel_error == row.rand_error == 1


def test_summary_table_shows_the_other_scores_at_the_same_threshold(caplog):
    scores = metrics.isbi_scores(*drawn_stack(), [0.2, 0.5, 0.8])
    table = metrics.summary_table(scores).set_index("metric")
    at = scores.pivot(index="threshold", columns="metric", values="value")
    for metric, row in table.iterrows():
        best = at[metric].max() if metric.startswith("v_") else at[metric].min()
        assert row.best == row[metric] == best
        others = row.drop(["best", "threshold"])
        assert others.to_dict() == at.loc[row.threshold, others.index].to_dict()
    assert not caplog.records


def test_summary_uses_splits_and_mergers_up_to_a_threshold_of_0_9():
    cells, probability = drawn_stack()
    scores = metrics.isbi_scores(cells, probability, [0.9, 0.99])
    summary = metrics.challenge_summary(scores)
    assert summary["warping_splits_mergers_min_0_0.9"] == values(scores, 0.9).splits_mergers_error
    lowest = scores[scores.metric == "pixel_error"].value.min()
    assert summary["pixel_max_fscore"] == 1 - lowest
    above = metrics.isbi_scores(cells, probability, [0.99])
    assert np.isnan(metrics.challenge_summary(above)["warping_splits_mergers_min_0_0.9"])
    assert "splits_mergers_error" not in set(metrics.summary_table(above).metric)


def test_import_loads_no_heavy_package():
    code = "import sys, pipeline_lib.metrics; print({'torch', 'matplotlib', 'skimage'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


@pytest.mark.parametrize("cache_is_writable", [True, False])
def test_kernels_work_if_the_package_folder_is_not_writable(tmp_path, cache_is_writable):
    """Compiled code is cached in the user's cache folder, or not at all.

    A file in place of a folder makes it not writable for root, too.
    """
    package = Path(metrics.__file__).parents[1]
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / package.name / "kernels" / "__pycache__").touch()
    cache = tmp_path / "cache"
    if not cache_is_writable:
        cache.touch()
    code = "import numpy, pipeline_lib.metrics as m; print(m.connected_components(numpy.eye(2)).max())"
    environment = {"XDG_CACHE_HOME": str(cache), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (run.stdout, run.returncode) == ("2\n", 0), run.stderr
    assert cache_is_writable == any(cache.rglob("*.nbi"))


def test_every_score_is_explained_in_the_docs():
    page = Path(__file__).parents[1] / "docs" / "explanation" / "scores.md"
    text = page.read_text()
    instances = metrics.instance_scores(np.eye(3, dtype=int), np.eye(3, dtype=int))
    kinds = {kind.name.lower().replace("_", " ") for kind in metrics.Mismatch}
    for name in [*METRICS, *instances]:
        assert f"`{name}`" in text, name
    for kind in kinds:
        assert f"| {kind} |" in text, kind
    for picture in re.findall(r"\(([^()]*images/.*?)\)", text):
        assert (page.parent / picture).exists(), picture


def test_a_uint8_map_may_have_sections_of_0_and_1(caplog):
    cells, probability = drawn_stack()
    levels = (255 * probability).round().astype(np.uint8)
    levels[0] = levels[0] > 127
    metrics.isbi_scores(cells, levels, [0.5])
    assert "divided by 255" in caplog.text
    with pytest.raises(InputError, match="uint8 without values above 1"):
        metrics.isbi_scores(cells, (levels > 127).astype(np.uint8), [0.5])


@pytest.mark.parametrize("value", [-9e-7, 1 + 9e-7])
def test_values_beyond_either_end_are_logged(value, caplog):
    cells, probability = drawn_stack()
    probability = probability.astype(float).clip(0.1, 0.9)
    probability[0, 3, 3] = value
    metrics.isbi_scores(cells, probability, [0.5])
    assert "which were clipped" in caplog.text


def test_sections_in_which_no_cell_was_found_count():
    cells, probability = drawn_stack(sections=2)
    probability[1] = 0
    scores = metrics.isbi_scores(cells, probability, [0.5]).set_index("metric").value
    truth, found = metrics.connected_components(cells), metrics.connected_components(probability > 0.5)
    assert scores.rand_error_n2 == pytest.approx(metrics.adapted_rand_error(truth, found))
    assert scores.vi_split == pytest.approx(metrics.vi_split(truth, found))
    assert scores.vi_merge == pytest.approx(metrics.vi_merge(truth, found))


def test_a_section_in_which_only_false_cells_were_found_is_not_uniform():
    cells = np.array([[[1, 1, 0, 0]]])
    assert metrics.isbi_scores(cells, 1.0 - cells, [0.5]).set_index("metric").value.uniform_sections == 0
    assert metrics.isbi_scores(cells, 0.0 * cells, [0.5]).set_index("metric").value.uniform_sections == 1


def test_the_frame_of_a_region_has_the_pixels_of_the_chosen_sides():
    region = np.arange(12).reshape(3, 4)
    expected = ([0, 1, 2, 3], [8, 9, 10, 11], [0, 4, 8], [3, 7, 11])
    for side, pixels in enumerate(expected):
        assert sections.frame(region, [side == other for other in range(4)]).tolist() == pixels
    assert sections.frame(region).tolist() == np.concatenate(expected).tolist()


def test_a_best_value_with_one_uniform_section_is_logged(caplog):
    scores = metrics.isbi_scores(*drawn_stack(), [0.5])
    scores.loc[scores.metric == "uniform_sections", "value"] = 0.5
    metrics.summary_table(scores)
    assert "the prediction of a section is all one class" in caplog.text
