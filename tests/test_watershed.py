"""The seeded watershed, its choice on validation volumes, and its labels in all ways of segmenting."""

import csv
import itertools
import json

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from skimage.segmentation import watershed

from pipeline_lib import api, layout, metrics, provenance
from pipeline_lib.instances.postprocessing import PostProcessing, instances, instances_by_block
from pipeline_lib.instances.watershed import grow_seeds
from pipeline_lib.metrics.thinning import thin_labels
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.postprocessing import GRIDS, SEED_THRESHOLDS, THRESHOLDS, choose_postprocessing
from pipeline_lib.stages.segmentation import label_part, segment
from tests.box_datasets import add_boxes
from tests.test_workflow import CONFIG, snakemake, write

SEEDED = PostProcessing(0.3, seed_threshold=0.6)


def steps(height, width):
    """Return the pairs of neighbouring pixels, as numbers."""
    number = np.arange(height * width).reshape(height, width)
    rows = zip(number[:-1].ravel(), number[1:].ravel(), strict=True)
    return [*rows, *zip(number[:, :-1].ravel(), number[:, 1:].ravel(), strict=True)]


def lowest_on_the_best_path(probability, start):
    """Return for each pixel the lowest probability on the best path from the pixels `start` (bool)."""
    flat = probability.ravel()
    best = np.where(start.ravel(), flat, -1.0)
    pairs = steps(*probability.shape)
    while True:
        before = best.copy()
        for one, other in pairs:
            best[one] = max(best[one], min(best[other], flat[one]))
            best[other] = max(best[other], min(best[one], flat[other]))
        if (best == before).all():
            return best.reshape(probability.shape)


def random_map(seed, shape=(7, 8), levels=40):
    """Return a random probability map with some equal values."""
    return (np.random.default_rng(seed).integers(0, levels, shape) / levels).astype(np.float32)


@given(st.integers(0, 2**32 - 1), st.sampled_from([6, 40, 10_000]))
def test_each_pixel_belongs_to_a_seed_from_which_the_best_path_leads_to_it(seed, levels):
    probability = random_map(seed, levels=levels)
    seeds, cells = probability > 0.6, probability > 0.3
    found = grow_seeds(probability, seeds, cells)
    numbered = metrics.connected_components(seeds)
    reached = np.stack(
        [
            lowest_on_the_best_path(np.where(cells, probability, -1), numbered == k)
            for k in range(1, numbered.max() + 1)
        ]
        or [np.full(probability.shape, -1.0)]
    )
    best = reached.max(axis=0)
    np.testing.assert_array_equal(found > 0, cells & (best > 0))
    for y, x in np.argwhere(found > 0):
        assert reached[found[y, x] - 1, y, x] == best[y, x]
    np.testing.assert_array_equal(found[seeds], numbered[seeds])
    for label in np.unique(found[found > 0]):  # each region is connected
        assert metrics.connected_components(found == label).max() == 1


@given(st.integers(0, 2**32 - 1))
def test_regions_are_those_of_scikit_image_where_only_one_seed_has_the_best_path(seed):
    probability = random_map(seed, (12, 13), levels=2**16)
    seeds, cells = probability > 0.7, probability > 0.2
    found = grow_seeds(probability, seeds, cells)
    numbered = metrics.connected_components(seeds)
    theirs = watershed(-probability, numbered, mask=cells)
    reached = np.stack(
        [
            lowest_on_the_best_path(np.where(cells, probability, -1), numbered == k)
            for k in range(1, numbered.max() + 1)
        ]
    )
    unique = (reached == reached.max(axis=0)).sum(axis=0) == 1
    assert unique.any()
    np.testing.assert_array_equal(found[unique], theirs[unique])


def test_touching_cells_are_separated_where_the_probability_is_lowest():
    y, x = np.mgrid[:21, :41]
    probability = np.exp(-((y - 10) ** 2 + (np.minimum(abs(x - 10), abs(x - 30))) ** 2) / 120).astype(
        np.float32
    )
    assert instances(probability, PostProcessing(0.3)).max() == 1
    found = instances(probability, SEEDED)
    assert (found[:, :20].max(), found[:, 21:].min(where=found[:, 21:] > 0, initial=9)) == (1, 2)


@given(st.integers(0, 2**32 - 1))
def test_a_sure_map_gives_its_cells_whatever_the_thresholds(seed):
    cells = np.random.default_rng(seed).random((9, 9)) > 0.4
    for threshold, seeds in itertools.combinations((0.05, 0.5, 0.95), 2):
        found = instances(cells.astype(np.float32), PostProcessing(threshold, seed_threshold=seeds))
        np.testing.assert_array_equal(found, metrics.connected_components(cells))


@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 5, 64]), st.integers(0, 6))
def test_blocks_give_the_labels_of_whole_sections(tmp_path_factory, seed, block, minimum_size):
    probability = np.stack([random_map(seed + k, (9, 11)) for k in range(3)])
    settings = PostProcessing(0.2, minimum_size, seed_threshold=0.6)
    output = tmp_path_factory.mktemp("labels") / "labels.h5"
    used = 0
    with instances_by_block(probability, settings, output, block=block) as (labels, count):
        for z, section in enumerate(probability):
            expected = instances(section, settings)
            assert (np.bincount(expected.ravel())[1:] >= minimum_size).all()
            np.testing.assert_array_equal(
                labels[z, slice(0, 9), slice(0, 11)], np.where(expected, expected + used, 0)
            )
            used += expected.max()
        assert count == used


@given(st.integers(0, 2**32 - 1))
def test_labels_are_numbered_by_their_first_pixel(seed):
    found = instances(random_map(seed), SEEDED)
    labels = found.T.ravel()
    first = [np.flatnonzero(labels == label)[0] for label in range(1, found.max() + 1)]
    assert first == sorted(first)


@pytest.mark.parametrize("value", [0.3, 0.2, 1.0, True, "0.5"])
def test_seed_threshold_must_be_above_the_threshold(value):
    with pytest.raises(
        InputError, match=r"`seed_threshold`: found .*, expected a number above the threshold, 0.3,"
    ):
        PostProcessing(0.3, seed_threshold=value)


def test_settings_at_another_threshold_have_seeds_only_below_the_seed_threshold():
    assert SEEDED.at(0.5) == PostProcessing(0.5, seed_threshold=0.6)
    assert SEEDED.at(0.6) == PostProcessing(0.6)
    assert PostProcessing(0.3).at(0.9) == PostProcessing(0.9)


def test_thinning_keeps_labels_apart_that_touch():
    labels = np.array([[2, 2, 1, 1, 0, 0, 0, 2]])
    assert thin_labels(labels).tolist() == [[1, 1, 2, 2, 2, 0, 3, 3]]
    ignore = np.array([[0, 0, 0, 1, 0, 0, 0, 0]])
    assert thin_labels(labels, ignore=ignore).tolist() == [[1, 1, 2, 0, 3, 3, 3, 3]]
    assert metrics.thin_borders(labels).tolist() == [[1, 1, 1, 1, 1, 0, 2, 2]]


def volume(folder, name, sections, *, gap=0.5):
    """Write a dataset and a prediction in which pairs of cells touch, with a probability of `gap` between."""
    labels = np.zeros((sections, 24, 44), np.uint32)
    labels[:, 4:20, 4:21], labels[:, 4:20, 22:39] = 1, 2
    probability = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    probability[:, 4:20, 21] = gap
    probability[:, 4:20, [4, 38]] = 0.45  # the rims of the cells are weaker than the gap
    probability += np.random.default_rng(sections).uniform(-0.02, 0.02, probability.shape).astype(np.float32)
    dataset, prediction = folder / f"{name}.h5", folder / f"{name}_prediction.h5"
    with layout.create(dataset, {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = False
        add_boxes(file, labels)
    with layout.create(prediction, {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    return dataset, prediction


def test_a_watershed_is_chosen_if_it_is_better_for_sections_left_out(tmp_path):
    dataset, prediction = volume(tmp_path, "volume", 4)
    outputs = tmp_path / "chosen.json", tmp_path / "tried.csv"
    choose_postprocessing(
        [dataset], [prediction], outputs[0], tried=outputs[1], method="watershed", criterion="seg"
    )
    chosen, found = PostProcessing.read(outputs[0]), json.loads(outputs[0].read_text())
    assert chosen.threshold < 0.45 and 0.5 < chosen.seed_threshold < 0.9
    assert found["grid"] == [t for t in THRESHOLDS if t < max(SEED_THRESHOLDS)]
    assert max(found["value"]) == pytest.approx(found["cross_validated"])
    assert found["cross_validated"] > 0.95
    with outputs[1].open() as file:
        rows = list(csv.DictReader(file))
    tried = {(float(row["threshold"]), float(row["seed_threshold"] or 0)): row for row in rows}
    pairs = [(t, s) for t in THRESHOLDS for s in SEED_THRESHOLDS if s > t]
    assert len(rows) == len(tried) and {*tried} == {*pairs, *((t, 0) for t in THRESHOLDS)}
    for t, value in zip(found["grid"], found["value"], strict=True):
        assert value == max(float(tried[pair]["seg"]) for pair in pairs if pair[0] == t)
    with layout.require(prediction) as file, layout.require(dataset) as truth:
        maps, labels = file["cell_probability"][:], truth["labels"][:]
    for t, seeds in [(0.4, 0.6), (0.55, 0), (0.4, 0.9)]:
        settings = PostProcessing(t, seed_threshold=seeds or None)
        values = [metrics.seg(own, instances(map_, settings)) for own, map_ in zip(labels, maps, strict=True)]
        row = tried[t, seeds]
        assert int(row["sections"]) == 4
        assert float(row["seg"]) == pytest.approx(np.mean(values))
        assert float(row["standard_deviation"]) == pytest.approx(np.std(values, ddof=1))


def test_components_are_chosen_if_a_watershed_is_better_by_chance_only():
    """Each section has its own best watershed, which is worse for the others."""
    from pipeline_lib.stages.postprocessing import _choose

    seeds = np.array([np.nan, np.nan, 0.6, 0.7, 0.8])
    none = np.full((3, 5), np.nan)
    values = np.array([[0.6, 0.5, 0.9, 0.1, 0.5], [0.6, 0.5, 0.1, 0.9, 0.5], [0.6, 0.5, 0.9, 0.9, 0.5]])
    found, other = _choose(values, none, seeds)
    assert values[:, 2].mean() > values[:, 0].mean()
    assert other.setting in (2, 3)
    assert (found.setting, found.of_method.tolist()) == (0, [True, True, False, False, False])
    assert found.cross_validated == pytest.approx(0.6)
    better, _ = _choose(values + np.where(np.isnan(seeds), 0, 0.5), none, seeds)
    assert better.setting in (2, 3)
    assert better.cross_validated == pytest.approx((0.1 + 0.1 + 0.9) / 3 + 0.5)
    # components are better in the mean, but each section has its own best threshold
    values = np.array([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5], [0.8, 0.8, 0.5]])
    seeds = np.array([np.nan, np.nan, 0.6])
    found, other = _choose(values, none[:, :3], seeds)
    assert (found.setting, found.cross_validated) == (2, 0.5)
    assert other.setting in (0, 1) and other.cross_validated == pytest.approx((0.1 + 0.1 + 0.8) / 3)
    # equal in the cross-validation, or not known: the mean decides
    assert _choose(np.full((3, 3), 0.5), none[:, :3], seeds)[0].setting in (0, 1)
    seeds_better = np.array([0, 0, 0.5])
    assert _choose(values[:1], none[:1, :3], seeds)[0].setting == 0
    assert _choose(values[:1] + seeds_better, none[:1, :3], seeds)[0].setting == 2


def test_a_watershed_that_is_not_used_is_recorded(tmp_path, caplog):
    dataset, prediction = volume(tmp_path, "volume", 3, gap=0.1)  # nothing to separate
    with caplog.at_level("INFO"):
        choose_postprocessing(
            [dataset], [prediction], tmp_path / "chosen.json", method="watershed", criterion="seg"
        )
    found = json.loads((tmp_path / "chosen.json").read_text())
    assert "seed_threshold" not in found and found["grid"] == list(THRESHOLDS)
    assert {*found["rejected"]} == {"method", "value", "cross_validated"}
    assert found["rejected"]["method"] == "watershed"
    assert found["rejected"]["value"] <= max(found["value"])
    assert "a watershed was tried and is not used: mean seg " in caplog.text


def test_pixel_errors_choose_the_threshold_for_the_seeds_that_the_criterion_chose():
    from pipeline_lib.stages.postprocessing import _cross_validated, best_setting

    seeds = np.array([0.6, 0.6, 0.6, 0.8, 0.8])
    values = np.array([[0.9, 0.85, 0.74, 0.8, 0], [0.8, 0.75, 0.74, 0.7, 0], [0.7, 0.65, 0.74, 0.75, 0]])
    errors = np.array([[0.5, 0.2, 0.3, 0.1, 0.0], [0.5, 0.38, 0.3, 0.1, 0.0], [0.5, 0.2, 0.3, 0.1, 0.0]])
    assert best_setting(values, np.full(values.shape, np.nan), seeds, 0.06) == 0
    assert best_setting(values, errors, seeds, 0.061) == 1
    assert best_setting(values - [0, 0.02, 0, 0, 0], errors, seeds, 0.061) == 2
    assert best_setting(values, errors, seeds, 0.04) == best_setting(values, errors, seeds) == 0
    assert best_setting(np.where(errors == 0, 1, values)[2:], errors[2:], seeds, 1.0) == 4
    assert best_setting(values[:1], errors[:1], seeds, 0.061) == 1
    without_score = np.concatenate([values, np.full((1, 5), np.nan)])
    assert best_setting(without_score, np.concatenate([errors, errors[:1]]), seeds, 0.061) == 1
    assert best_setting(values, errors, np.full(5, np.nan), 1.0) == 0  # components
    expected = [values[0, best_setting(values[1:], errors[1:], seeds, 0.061)]]
    expected += [values[1, best_setting(values[[0, 2]], errors[[0, 2]], seeds, 0.061)]]
    expected += [values[2, best_setting(values[:2], errors[:2], seeds, 0.061)]]
    assert _cross_validated(values, errors, seeds, 0.061) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin"])
def test_thresholds_of_seeds_are_chosen_by_the_criterion_and_rims_by_pixels(tmp_path, criterion):
    dataset, prediction = volume(tmp_path, "volume", 4, gap=0.7)
    outputs = tmp_path / "chosen.json", tmp_path / "tried.csv"
    with pytest.MonkeyPatch.context() as patched:  # only high thresholds separate the cells
        few = (0.05, 0.2, 0.4, 0.5)
        patched.setattr("pipeline_lib.stages.postprocessing.THRESHOLDS", few)
        patched.setitem(GRIDS, "watershed", (few, SEED_THRESHOLDS))
        choose_postprocessing(
            [dataset], [prediction], outputs[0], tried=outputs[1], method="watershed", criterion=criterion
        )
    found, chosen = json.loads(outputs[0].read_text()), PostProcessing.read(outputs[0])
    assert chosen.seed_threshold == 0.8
    assert chosen.threshold in (0.2, 0.4)  # 0.05 adds background, and 0.5 loses rims
    with outputs[1].open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed_threshold"] == "0.8"]
    errors = {float(row["threshold"]): float(row["pixel_error"]) for row in rows}
    assert found["pixel_error"] == errors[chosen.threshold] == min(errors.values())
    with layout.require(prediction) as file, layout.require(dataset) as truth:
        pairs = zip(truth["labels"][:], file["cell_probability"][:], strict=True)
        values = [metrics.pixel_error(own > 0, instances(map_, chosen) > 0) for own, map_ in pairs]
    assert found["pixel_error"] == pytest.approx(np.mean(values))


@given(st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_parts_of_many_sections_are_left_out_together(parts, seed):
    from pipeline_lib.stages.postprocessing import _cross_validated

    values = np.random.default_rng(seed).random((23, 4))
    more = np.full((23, 4), np.nan), np.full(4, np.nan)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pipeline_lib.stages.postprocessing.LEFT_OUT", parts + 1)
        found = _cross_validated(values, *more)
    expected = []
    for part in np.array_split(np.arange(23), parts + 1):
        others = [z for z in range(23) if z not in part]
        best = values[others].mean(axis=0).argmax()
        expected += [values[z, best] for z in part]
    assert found == pytest.approx(np.mean(expected))


def test_one_section_is_not_cross_validated(tmp_path):
    dataset, prediction = volume(tmp_path, "volume", 1)
    choose_postprocessing(
        [dataset], [prediction], tmp_path / "chosen.json", method="watershed", criterion="seg"
    )
    assert json.loads((tmp_path / "chosen.json").read_text())["cross_validated"] is None
    assert PostProcessing.read(tmp_path / "chosen.json").seed_threshold is not None


def test_scores_are_those_of_the_labels(tmp_path):
    dataset, prediction = volume(tmp_path, "volume", 2)
    with layout.require(dataset) as file:
        labels = file["labels"][:]
    (tmp_path / "chosen.json").write_text(json.dumps(PostProcessing(0.4, seed_threshold=0.6).to_dict()))
    segment(prediction, tmp_path / "chosen.json", tmp_path / "found.h5")
    with layout.require(tmp_path / "found.h5") as file:
        found = file["labels"][:]
    assert [len(np.unique(section)) for section in found] == [3, 3]
    import pandas as pd

    evaluate(
        dataset,
        prediction,
        tmp_path / "found.h5",
        tmp_path / "chosen.json",
        tmp_path / "scores.csv",
        tmp_path / "sections.csv",
        volume="volume",
        split="test",
        network="unet",
    )
    table = pd.read_csv(tmp_path / "scores.csv").query("threshold == 0.4").set_index("metric").value
    cells = metrics.connected_components(labels)
    assert table["v_rand_thin"] == pytest.approx(
        np.mean([metrics.v_rand(*pair) for pair in zip(cells, thin_labels(found), strict=True)])
    )
    assert table["rand_error"] == pytest.approx(metrics.rand_error(cells, found))
    assert table["seg"] == pytest.approx(
        np.mean([metrics.seg(*pair) for pair in zip(labels, found, strict=True)])
    )
    assert table["pixel_error"] == pytest.approx(metrics.pixel_error(labels > 0, found > 0))


def test_parts_of_sections_and_large_sections_are_refused(tmp_path):
    _, prediction = volume(tmp_path, "volume", 1)
    (tmp_path / "chosen.json").write_text(json.dumps(SEEDED.to_dict()))
    with pytest.raises(InputError, match="A watershed needs whole sections"):
        label_part(prediction, tmp_path / "chosen.json", tmp_path / "pieces.h5")
    with pytest.raises(InputError, match=r"the watershed of .*24 x 44 px, each as a whole"):
        segment(prediction, tmp_path / "chosen.json", tmp_path / "found.h5", memory_gb=0.25)
    assert not (tmp_path / "found.h5").exists()


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"`segmentation\.method`: found `otsu`, expected one of components, watershed"
    ):
        choose_postprocessing([], [], tmp_path / "chosen.json", method="otsu")


@pytest.mark.slow
def test_workflow_report_and_model_use_the_seeds(tmp_path):
    config = CONFIG | {"segmentation": {"method": "watershed", "criterion": "seg"}}
    arguments = write(tmp_path, config)
    chosen = tmp_path / "results/postprocessing/unet.json"
    answer = snakemake(tmp_path, *arguments, "--", str(chosen.relative_to(tmp_path)))
    assert answer.returncode == 0, answer.stderr
    assert (
        len((tmp_path / "results/postprocessing/unet_tried.csv").read_text().splitlines())
        > len(THRESHOLDS) + 1
    )
    with layout.require(tmp_path / "results/prediction/unet/choose.h5") as file:
        low, high = np.quantile(file["cell_probability"][:], [0.3, 0.7])  # of a network that learned nothing
    edited = json.loads(chosen.read_text()) | {"threshold": float(low), "seed_threshold": float(high)}
    chosen.write_text(json.dumps(edited))
    provenance.record_path(chosen).unlink()  # edited on purpose
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    assert "seeds" in (tmp_path / "results/report.html").read_text()
    labels = tifffile.imread(tmp_path / "results/segmentation/new_labels.tif")
    with layout.require(tmp_path / "results/prediction/unet/new.h5") as file:
        probability = file["cell_probability"][0]
    settings = PostProcessing(float(low), seed_threshold=float(high))
    np.testing.assert_array_equal(labels[0], instances(probability, settings))
    assert labels.max() > instances(probability, PostProcessing(float(low))).max()
    with layout.require(tmp_path / "results/dataset/new.h5") as file:
        tifffile.imwrite(tmp_path / "image.tif", file["raw"][0], photometric="minisblack")
    model = api.load(tmp_path / "results/model.pt", device="cpu")
    assert f"seeds above {high:.2f}" in repr(model)
    np.testing.assert_array_equal(model.predict(tifffile.imread(tmp_path / "image.tif")), labels)
    # a run with the model knows that it needs whole sections
    table = "volume\timages\tsplit\none\timage.tif\tpredict\n"
    config = {"model": "results/model.pt", "volumes": "volumes.tsv", "data_dir": ".", "results": "again"}
    arguments = write(tmp_path, config | {"prediction": {"device": "cpu"}}, table)
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "again/segmentation/one_labels.tif"), labels)


def test_the_mean_decides_between_methods_that_are_equal_in_the_cross_validation():
    from pipeline_lib.stages.postprocessing import _choose

    seeds, none = np.array([np.nan, 0.6, 0.7]), np.full((2, 3), np.nan)
    found, other = _choose(np.array([[0.5, 0.25, 0.75], [0.5, 1.0, 0.75]]), none, seeds)
    assert found.cross_validated == other.cross_validated == 0.5
    assert found.setting == 2


def test_the_middle_one_of_equally_good_separators_is_chosen():
    from pipeline_lib.stages.postprocessing import best_setting

    values, errors = np.full((2, 6), 0.5), np.full((2, 6), 0.1)
    seeds = np.array([0.5, 0.5, 0.6, 0.6, 0.7, 0.7])
    assert seeds[best_setting(values, errors, seeds, 0.01)] == 0.6


def test_values_of_errors_are_the_smallest_of_each_threshold(tmp_path):
    dataset, prediction = volume(tmp_path, "volume", 4)
    outputs = tmp_path / "chosen.json", tmp_path / "tried.csv"
    choose_postprocessing(
        [dataset], [prediction], outputs[0], tried=outputs[1], method="watershed", criterion="rand_error"
    )
    found = json.loads(outputs[0].read_text())
    with outputs[1].open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed_threshold"]]
    assert PostProcessing.read(outputs[0]).method == "watershed"
    for threshold, value in zip(found["grid"], found["value"], strict=True):
        assert value == min(float(row["rand_error"]) for row in rows if float(row["threshold"]) == threshold)


def test_the_nearer_one_of_equally_good_seeds_gets_a_pixel():
    probability = np.array([[0.9, *[0.5] * 6, 0.9]])
    found = grow_seeds(probability, probability > 0.8, probability > 0.4)
    assert found.tolist() == [[1] * 4 + [2] * 4]
