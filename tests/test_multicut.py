"""The multicut of superpixels, its choice on validation volumes, and its labels in all ways of segmenting."""

import csv
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib import api, layout, metrics, provenance
from pipeline_lib.instances.methods import METHODS, SEPARATORS
from pipeline_lib.instances.multicut import SURE, gains, join, multicut, superpixels
from pipeline_lib.instances.postprocessing import PostProcessing, instances, instances_by_block
from pipeline_lib.instances.regions import boundaries
from pipeline_lib.instances.watershed import grow_seeds
from pipeline_lib.kernels.components import equal_components
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.postprocessing import (
    FEW_THRESHOLDS,
    GRIDS,
    MULTICUT_BETAS,
    THRESHOLDS,
    choose_postprocessing,
)
from pipeline_lib.stages.segmentation import label_part, segment
from tests.box_datasets import add_boxes
from tests.test_watershed import random_map, steps
from tests.test_workflow import CONFIG, TABLE, snakemake, write, write_stacks

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 9))


def smooth_map(seed, shape=(24, 31)):
    """Return a random probability map with maxima some pixels apart, and certain background."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return np.clip((noise - 0.4) * 5, 0, 1).astype(np.float32)


def slow_seeds(probability):
    """Return the seeds of superpixels by their definition, pixel by pixel."""
    height, width = probability.shape
    levels = np.floor(probability.astype(np.float32) * np.float32(65535)).astype(int)
    means = np.empty(probability.shape, int)
    for y, x in np.ndindex(height, width):
        total = weights = 0
        for dy, dx in itertools.product(range(-2, 3), repeat=2):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                weight = (1 if abs(dy) == 2 else 2) * (1 if abs(dx) == 2 else 2)
                weights += weight
                total += weight * levels[y + dy, x + dx]
        means[y, x] = 20 * total // (weights * 65535)
    inside = probability > np.float32(SURE)
    seeds = np.zeros(probability.shape, bool)
    for level in np.unique(means):
        parts, count = ndimage.label(means == level)
        for part in range(1, count + 1):
            own = parts == part
            around = ndimage.binary_dilation(own) & ~own
            if (means[around] < level).all():
                seeds |= own & inside
    parts, count = ndimage.label(inside)
    for part in range(1, count + 1):
        if not seeds[parts == part].any():
            seeds |= parts == part
    return seeds


@given(SEEDS, SHAPES, st.sampled_from([1, 3, 20, 10_000]), st.booleans())
def test_superpixels_grow_from_the_maxima_of_the_mean(seed, shape, levels, smooth):
    probability = smooth_map(seed, shape) if smooth else random_map(seed, shape, levels)
    found, inside = superpixels(probability), probability > np.float32(SURE)
    np.testing.assert_array_equal(found, grow_seeds(probability, slow_seeds(probability), inside))
    np.testing.assert_array_equal(found > 0, inside)


def test_patterns_of_two_and_four_pixels_have_no_maxima_of_their_own():
    y, x = np.indices((40, 40))
    for pattern in ((y + x) % 2, (y % 2) * (x % 2), y % 4 < 2, (y % 4 < 2) ^ (x % 4 < 2)):
        assert superpixels(0.1 + 0.8 * pattern).max() <= 40  # at the edges only, instead of up to 800
    assert superpixels(0.1 + 0.8 * (y // 6 % 2 ^ x // 6 % 2)).max() > 20


def slow_boundaries(regions, probability):
    """Return a dictionary from the two regions of each boundary to its length and its sum of levels."""
    found, flat, values = {}, regions.ravel(), probability.ravel()
    for one, two in steps(*regions.shape):
        pair = tuple(sorted((int(flat[one]), int(flat[two]))))
        if pair[0] != pair[1] and pair[0] > 0:
            length, total = found.get(pair, (0, 0))
            lower = np.float32(min(values[one], values[two]))
            found[pair] = length + 1, total + int(lower * np.float32(65535))
    return found


@given(SEEDS, SHAPES, st.integers(1, 8))
def test_boundaries_are_pairs_of_neighbours_in_two_regions(seed, shape, regions):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, regions + 1, shape).astype(np.int32)
    probability = random_map(seed, shape)
    ends, length, total = boundaries(labels, probability)
    assert len(np.unique(ends, axis=0)) == len(ends)
    found = {tuple(pair): own for pair, *own in zip(ends.tolist(), length, total, strict=True)}
    expected = slow_boundaries(labels, probability)
    assert {pair: tuple(own) for pair, own in found.items()} == expected


def test_the_gain_is_the_length_times_the_log_odds_above_those_of_beta():
    length, q = np.array([1, 3, 10, 2, 2]), np.array([0.5, 0.8, 0.2, 0, 1])
    for beta in (0.1, 0.5, 0.8):
        clipped = np.clip(q, SURE, 1 - SURE)
        expected = length * (np.log(clipped / (1 - clipped)) - np.log(beta / (1 - beta)))
        found = gains(length, (length * q * 65535).astype(int), beta)
        assert found.dtype == np.int64
        np.testing.assert_allclose(found / 65536, expected, rtol=1e-3, atol=1e-3)


def random_graph(seed, nodes, density=0.6, limit=4):
    """Return the ends and gains of a random graph; with few different gains, which are often equal."""
    rng = np.random.default_rng(seed)
    pairs = [pair for pair in itertools.combinations(range(nodes), 2) if rng.random() < density]
    ends = np.array([pair[:: rng.choice([-1, 1])] for pair in pairs], np.int32).reshape(-1, 2)
    rng.shuffle(ends)
    return ends, rng.integers(-limit, limit + 1, len(ends))


def slow_join(nodes, ends, gains):
    """Return the joined nodes by the definition: all edges are compared before each contraction."""
    labels = np.arange(nodes)
    edges = {frozenset(pair): (gain, k) for k, (*pair, gain) in enumerate(np.c_[ends, gains].tolist())}
    while edges:
        best = min(edges, key=lambda pair: (-edges[pair][0], edges[pair][1]))
        if edges[best][0] <= 0:
            break
        one, two = sorted(best)
        labels[labels == two] = one
        joined = {}
        for pair, (gain, k) in edges.items():
            pair = frozenset(one if node == two else node for node in pair)
            if len(pair) == 2:
                before = joined.get(pair)
                joined[pair] = (gain, k) if before is None else (gain + before[0], min(k, before[1]))
        edges = joined
    return labels


def in_order(labels):
    """Return the labels, numbered 0, 1, ... in their order."""
    seen = {}
    return [seen.setdefault(label, len(seen)) for label in np.asarray(labels).tolist()]


@given(SEEDS, st.integers(1, 12), st.floats(0.1, 1), st.sampled_from([1, 4, 1000]))
def test_nodes_join_as_by_the_definition(seed, nodes, density, limit):
    ends, own = random_graph(seed, nodes, density, limit)
    assert join(nodes, ends, own).tolist() == in_order(slow_join(nodes, ends, own))


def partitions(nodes):
    """Yield the labels of each partition of some nodes."""
    if nodes == 0:
        yield ()
    for rest in partitions(nodes - 1) if nodes else ():
        yield from ((*rest, label) for label in range(max(rest, default=-1) + 2))


def objective(labels, ends, gains):
    """Return the sum of the gains within the same label."""
    labels = np.asarray(labels)
    return int(gains[labels[ends[:, 0]] == labels[ends[:, 1]]].sum())


@given(SEEDS, st.integers(1, 7))
def test_the_sum_of_gains_is_near_the_best_of_all_partitions(seed, nodes):
    ends, own = random_graph(seed, nodes)
    best = max(objective(labels, ends, own) for labels in partitions(nodes))
    found = join(nodes, ends, own)
    reached = objective(found, ends, own)
    assert max(0, own.sum()) <= reached <= best  # all separate, all together
    for one, two in itertools.combinations(np.unique(found), 2):  # no two regions gain by joining
        assert objective(np.where(found == two, one, found), ends, own) <= reached
    truth = np.random.default_rng(seed).integers(0, 3, nodes)
    same = truth[ends[:, 0]] == truth[ends[:, 1]]
    consistent = np.where(same, abs(own) + 1, -abs(own) - 1)  # each gain says the truth
    assert objective(join(nodes, ends, consistent), ends, consistent) == consistent[same].sum()
    tree = np.array([(k, np.random.default_rng([seed, k]).integers(k)) for k in range(1, nodes)], np.int32)
    tree, of_tree = tree.reshape(-1, 2), np.random.default_rng(seed).integers(-3, 4, nodes - 1)
    assert objective(join(nodes, tree, of_tree), tree, of_tree) == of_tree[of_tree > 0].sum()


def test_greedy_joins_are_not_always_the_best():
    """The highest gain joins 0 and 1, after which nobody wants to join them."""
    ends, own = np.array([[0, 1], [0, 2], [1, 3], [0, 3], [1, 2]], np.int32), np.array([5, 4, 4, -8, -8])
    assert join(4, ends, own).tolist() == [0, 0, 1, 2]
    assert max(objective(labels, ends, own) for labels in partitions(4)) == 8


@given(SEEDS)
def test_joined_nodes_do_not_depend_on_their_numbers(seed):
    """If no sums of gains are equal, the numbers of nodes and edges only order the result."""
    rng = np.random.default_rng(seed)
    ends, _ = random_graph(seed, 12)
    own = rng.integers(-(2**40), 2**40, len(ends))
    nodes, edges = rng.permutation(12).astype(np.int32), rng.permutation(len(ends))
    found = join(12, nodes[ends][edges], own[edges])
    assert in_order(found[nodes]) == join(12, ends, own).tolist()


@given(SEEDS, SHAPES, st.sampled_from([0.05, 0.3, 0.5, 0.8]))
def test_regions_join_superpixels_that_touch(seed, shape, beta):
    probability = smooth_map(seed, tuple(3 * side for side in shape))
    own, found = superpixels(probability), multicut(probability, beta)
    ends, length, total = boundaries(own, probability)
    expected = slow_join(own.max() + 1, ends, gains(length, total, beta))
    assert in_order(found.ravel()) == in_order(expected[own].ravel())
    for label in np.unique(found[found > 0]):
        assert metrics.connected_components(found == label).max() == 1


@given(SEEDS, st.sampled_from([0.01, 0.5, 0.99]), st.sampled_from([0.4, 0.8]))
def test_a_sure_map_gives_its_cells_whatever_the_settings(seed, beta, share):
    """Also cells of one pixel, and cells whose arms have background between them."""
    cells = np.random.default_rng(seed).random((17, 19)) < share
    for threshold in (0.0, 0.5, 0.95):
        found = instances(cells.astype(np.float32), PostProcessing(threshold, multicut_beta=beta))
        np.testing.assert_array_equal(found, metrics.connected_components(cells))


def test_a_gap_in_a_membrane_does_not_merge_two_cells():
    probability = np.full((30, 41), 0.95, np.float32)
    probability[:, 19:22] = 0.05
    probability[13:16, 19:22] = 0.93  # a gap
    probability[10, 30:] = 0.05  # a dark line that ends in a cell
    assert instances(probability, PostProcessing(0.5)).max() == 1
    assert instances(probability, PostProcessing(0.5, seed_threshold=0.92)).max() == 1
    found = instances(probability, PostProcessing(0.5, multicut_beta=0.5))
    assert (found[0, 0], found[-1, 0], found[0, -1], found[-1, -1]) == (1, 1, 2, 2)
    assert instances(probability, PostProcessing(0.5, multicut_beta=0.05)).max() == 1


@given(SEEDS, st.sampled_from([2, 5, 64]), st.integers(0, 6))
def test_blocks_give_the_labels_of_whole_sections(tmp_path_factory, seed, block, minimum_size):
    probability = np.stack([smooth_map(seed + k, (13, 17)) for k in range(3)])
    settings = PostProcessing(0.2, minimum_size, multicut_beta=0.4)
    output = tmp_path_factory.mktemp("labels") / "labels.h5"
    used = 0
    with instances_by_block(probability, settings, output, block=block) as (labels, count):
        for z, section in enumerate(probability):
            expected = instances(section, settings)
            assert (np.bincount(expected.ravel())[1:] >= minimum_size).all()
            found = labels[z, slice(0, 13), slice(0, 17)]
            np.testing.assert_array_equal(found, np.where(expected, expected + used, 0))
            used += expected.max()
        assert count == used


@pytest.mark.parametrize("value", [0, 1.0, True, "0.5"])
def test_beta_must_be_between_0_and_1(value):
    message = r"`multicut_beta`: found .*, expected a number above 0 and below 1"
    with pytest.raises(InputError, match=message):
        PostProcessing(0.3, multicut_beta=value)


@pytest.mark.parametrize("pair", [*itertools.combinations(SEPARATORS.values(), 2)])
def test_settings_of_two_methods_are_refused(pair):
    with pytest.raises(InputError, match="`{}` and `{}`: found several, expected one".format(*pair)):
        PostProcessing(0.3, **{name: 9 if name == "smallest_region" else 0.5 for name in pair})


def test_each_method_has_a_setting_of_its_own(tmp_path):
    chosen = tmp_path / "chosen.json"
    for method in METHODS:
        own = (
            {} if method == "components" else {SEPARATORS[method]: 9 if method == "mutex_watershed" else 0.5}
        )
        settings = PostProcessing(0.3, **own)
        assert settings.to_dict() == {"threshold": 0.3, "minimum_size": 0} | own
        assert (settings.method, settings.separator) == (method, own.get(SEPARATORS.get(method)))
        chosen.write_text(json.dumps(settings.to_dict()))
        assert PostProcessing.read(chosen) == settings
    assert str(PostProcessing(0.3, multicut_beta=0.5)) == "threshold 0.30, multicut with a beta of 0.5"
    assert settings.at(0.7) == PostProcessing(0.7, multicut_beta=0.5)
    assert {*GRIDS} == {*SEPARATORS}


def volume(folder, name, sections, gap=slice(11, 13)):
    """Write a dataset and a prediction with pairs of cells and a membrane between them, which has a gap."""
    labels = np.zeros((sections, 24, 44), np.uint32)
    labels[:, 2:22, 2:21], labels[:, 2:22, 23:42] = 1, 2
    probability = np.where(labels > 0, 0.95, 0.1)
    probability[:, gap, 21:23] = 0.95
    probability[:, 2:4][labels[:, 2:4] > 0] = 0.55  # one side of the cells is weaker
    probability[:, :2] = probability[:, 22:] = 0.0
    rng = np.random.default_rng(sections)
    probability += rng.uniform(0, 0.04, probability.shape)
    dataset, prediction = folder / f"{name}.h5", folder / f"{name}_prediction.h5"
    with layout.create(dataset, {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = False
        add_boxes(file, labels)
    with layout.create(prediction, {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    return dataset, prediction


@pytest.mark.parametrize("criterion", ["seg", "rand_error"])
def test_settings_are_chosen_stored_segmented_and_scored(tmp_path, criterion):
    dataset, prediction = volume(tmp_path, "volume", 3)
    chosen, tried = tmp_path / "chosen.json", tmp_path / "tried.csv"
    choose_postprocessing(
        [dataset], [prediction], chosen, tried=tried, method="multicut", criterion=criterion
    )
    found, settings = json.loads(chosen.read_text()), PostProcessing.read(chosen)
    assert settings.method == "multicut" and found["grid"] == [*FEW_THRESHOLDS]
    assert "rejected" not in found and 0.1 < settings.threshold < 0.6
    assert ("pixel_error" in found) == (criterion == "rand_error")  # with it, the criterion ignores rims
    with layout.require(prediction) as file, layout.require(dataset) as truth:
        maps, labels = file["cell_probability"][:], truth["labels"][:]
    rows = pd.read_csv(tried)
    assert [*rows.columns[:4]] == ["threshold", "seed_threshold", "smallest_region", "multicut_beta"]
    of_method = rows.dropna(subset="multicut_beta").set_index(["threshold", "multicut_beta"])[criterion]
    assert {*of_method.index} == {*itertools.product(FEW_THRESHOLDS, MULTICUT_BETAS)}
    assert [*rows.threshold[rows.multicut_beta.isna()]] == [*THRESHOLDS]
    score = getattr(metrics, criterion)
    for setting in ((0.3, 0.5), (0.6, 0.05)):
        own = [instances(map_, PostProcessing(setting[0], multicut_beta=setting[1])) for map_ in maps]
        expected = np.mean([score(*pair) for pair in zip(labels, own, strict=True)])
        assert of_method[setting] == pytest.approx(expected)
    segment(prediction, chosen, tmp_path / "found.h5")
    with layout.require(tmp_path / "found.h5") as file:
        stored = file["labels"][:]
    for section, map_ in zip(stored, maps, strict=True):
        np.testing.assert_array_equal(equal_components(section), instances(map_, settings))
        assert section[12, 4] != section[12, 40]
    scores = tmp_path / "scores.csv", tmp_path / "sections.csv"
    names = {"volume": "volume", "split": "test", "network": "unet"}
    evaluate(dataset, prediction, tmp_path / "found.h5", chosen, *scores, **names)
    table = pd.read_csv(scores[0]).set_index(["metric", "threshold"]).value
    for threshold in (settings.threshold, 0.7):
        at = np.stack([instances(section, settings.at(threshold)) for section in maps])
        for metric, expected in (
            ("rand_error", metrics.rand_error(labels, at)),
            ("pixel_error", metrics.pixel_error(labels > 0, at > 0)),
        ):
            assert table[metric, threshold] == pytest.approx(expected)


def test_a_multicut_that_is_not_used_is_recorded(tmp_path, caplog):
    dataset, prediction = volume(tmp_path, "volume", 3, gap=slice(0, 0))  # components are right
    with caplog.at_level("INFO"):
        choose_postprocessing(
            [dataset], [prediction], tmp_path / "chosen.json", method="multicut", criterion="seg"
        )
    assert PostProcessing.read(tmp_path / "chosen.json").method == "components"
    found = json.loads((tmp_path / "chosen.json").read_text())
    assert found["rejected"]["method"] == "multicut" and "multicut_beta" not in found
    assert "a multicut was tried and is not used: mean seg " in caplog.text


def test_parts_of_sections_and_large_sections_are_refused(tmp_path):
    _, prediction = volume(tmp_path, "volume", 1)
    chosen = tmp_path / "chosen.json"
    chosen.write_text(json.dumps(PostProcessing(0.3, multicut_beta=0.5).to_dict()))
    with pytest.raises(InputError, match=r"has a `multicut_beta`\. A multicut needs whole sections"):
        label_part(prediction, chosen, tmp_path / "pieces.h5")
    with pytest.raises(InputError, match=r"the multicut of .*24 x 44 px, each as a whole"):
        segment(prediction, chosen, tmp_path / "found.h5", memory_gb=0.25)


def test_dry_run_states_the_memory_of_a_whole_section(tmp_path):
    write_stacks(tmp_path)
    config = CONFIG | {"segmentation": {"method": "multicut"}}
    del config["drawing"]
    table = "\n".join([*TABLE.splitlines()[:3], "wide\tbig.h5:/raw\t\t\tpredict\n"])
    answer = snakemake(tmp_path, "-n", *write(tmp_path, config | {"data_dir": "."}, table))
    assert answer.returncode == 1
    needed = (
        r"but the multicut of volume wide \(sections of 20,000 x 20,000 px, each as a whole\) needs 16\.2 GB"
    )
    assert re.search(needed, answer.stderr)


@pytest.mark.slow
def test_workflow_report_and_model_use_the_multicut(tmp_path):
    config = CONFIG | {"segmentation": {"method": "multicut", "criterion": "seg"}}
    arguments = write(tmp_path, config)
    chosen = tmp_path / "results/postprocessing/unet.json"
    answer = snakemake(tmp_path, *arguments, "--", str(chosen.relative_to(tmp_path)))
    assert answer.returncode == 0, answer.stderr
    with (tmp_path / "results/postprocessing/unet_tried.csv").open() as table:
        assert any(row["multicut_beta"] for row in csv.DictReader(table))
    with layout.require(tmp_path / "results/prediction/unet/choose.h5") as file:
        low, beta = np.quantile(file["cell_probability"][:], [0.3, 0.6])  # of a network that learned nothing
    edited = json.loads(chosen.read_text()) | {"threshold": float(low), "multicut_beta": float(beta)}
    chosen.write_text(json.dumps(edited))
    provenance.record_path(chosen).unlink()  # edited on purpose
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    assert f"multicut, with a beta of {beta:g}" in (tmp_path / "results/report.html").read_text()
    labels = tifffile.imread(tmp_path / "results/segmentation/new_labels.tif")
    with layout.require(tmp_path / "results/prediction/unet/new.h5") as file:
        probability = file["cell_probability"][0]
    settings = PostProcessing(float(low), multicut_beta=float(beta))
    np.testing.assert_array_equal(labels[0], instances(probability, settings))
    assert labels.max() > instances(probability, PostProcessing(float(low))).max()
    with layout.require(tmp_path / "results/dataset/new.h5") as file:
        tifffile.imwrite(tmp_path / "image.tif", file["raw"][0], photometric="minisblack")
    model = api.load(tmp_path / "results/model.pt", device="cpu")
    assert f"multicut with a beta of {beta:g}" in repr(model)
    np.testing.assert_array_equal(model.predict(tifffile.imread(tmp_path / "image.tif")), labels)
    # a run with the model knows that it needs whole sections
    table = "volume\timages\tsplit\none\timage.tif\tpredict\n"
    again = {"model": "results/model.pt", "volumes": "volumes.tsv", "data_dir": ".", "results": "again"}
    arguments = write(tmp_path, again | {"prediction": {"device": "cpu"}}, table)
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "again/segmentation/one_labels.tif"), labels)
