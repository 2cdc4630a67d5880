"""Pixels that are not annotated change nothing: dataset, statistics, training, threshold and scores."""

import json
from contextlib import ExitStack
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from scipy import ndimage

from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import separation_border
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.postprocessing import CRITERIA, THRESHOLDS, choose_postprocessing
from pipeline_lib.stages.training import train
from pipeline_lib.tasks.segmentation import baselines
from pipeline_lib.tasks.segmentation.classes import count_classes, target_class
from pipeline_lib.tasks.segmentation.task import VALIDATION_THRESHOLDS, PixelTruth, Task
from tests.box_datasets import add_boxes

SHAPE = (2, 60, 64)


def drawn(seed):
    """Return gray levels, labels of cells that touch, and 30 % ignored pixels: a band, a patch and specks."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint16)
    for section in labels:
        for label, (y, x) in enumerate(np.ndindex(5, 5), 1):
            section[2 + 11 * y : 12 + 11 * y, 2 + 11 * x : 13 + 11 * x - rng.integers(3)] = label
    raw = np.clip((labels > 0) * 90 + rng.normal(80, 20, SHAPE), 0, 255).astype(np.uint8)
    ignore = ndimage.gaussian_filter(rng.random(SHAPE), (0, 3, 3))
    ignore = (ignore < np.quantile(ignore, 0.15)) | (rng.random(SHAPE) < 0.02)
    ignore[:, :, 54:] = True
    assert 0.25 < ignore.mean() < 0.35
    return raw, labels, ignore


def run(folder, annotate):
    """Run all stages on files; `annotate` takes labels and ignored pixels and returns the annotation."""
    folder.mkdir()
    for seed, name in enumerate(("learn", "check")):
        raw, labels, ignore = drawn(seed)
        for kind, array in (("raw", raw), ("truth", annotate(labels, ignore)), ("mask", ignore.astype("u1"))):
            tifffile.imwrite(folder / f"{name}_{kind}.tif", array, photometric="minisblack")
        paths = (str(folder / f"{name}_{kind}.tif") for kind in ("raw", "truth", "mask"))
        images, truth, mask = paths
        build_dataset(images, truth, folder / f"{name}.h5", ignore_mask=mask, annotation_kind="instances")
    measure_statistics([folder / "learn.h5"], folder / "statistics.json")
    for name in ("learn", "check"):
        build_weight_map(folder / f"{name}.h5", folder / "statistics.json", folder / f"{name}_weights.h5")
    train(
        [folder / "learn.h5"],
        [folder / "learn_weights.h5"],
        [folder / "check.h5"],
        [folder / "check_weights.h5"],
        folder / "statistics.json",
        folder / "model.pt",
        folder / "history.csv",
        network={"name": "unet", "depth": 1, "base_channels": 4, "dropout": 0.0, "batch_normalisation": True},
        training={
            "tile": 52,
            "iterations": 4,
            "optimizer": "adam",
            "learning_rate": 1e-2,
            "warm_up": 1,
            "validation_interval": 2,
            "precision": "float32",
            "device": "cpu",
        },
        augmentation={"elastic_std": 3.0},
        seed=0,
    )
    return folder


def same_file(one, other, name):
    with h5py.File(one / name) as a, h5py.File(other / name) as b:
        assert set(a) == set(b)
        for array in a:
            np.testing.assert_array_equal(a[array][:], b[array][:], f"{name}: {array}")


def test_annotation_at_ignored_pixels_changes_no_byte_of_dataset_statistics_and_model(tmp_path):
    """Also where cells of the annotation touch or end at ignored pixels."""
    rng = np.random.default_rng(9)
    one = run(tmp_path / "one", lambda labels, ignore: labels)
    other = run(
        tmp_path / "other",
        lambda labels, ignore: np.where(ignore, rng.integers(0, 40, SHAPE), labels).astype("u2"),
    )
    for name in ("learn.h5", "check.h5", "learn_weights.h5", "check_weights.h5"):
        same_file(one, other, name)
    with layout.require(one / "learn.h5") as file, layout.require(one / "learn_weights.h5") as weighted:
        ignored = file["ignore"][:] > 0
        assert 0.25 < ignored.mean() < 0.35
        assert not weighted["weight_map"][:][ignored].any() and weighted["weight_map"][:][~ignored].all()
    with ExitStack() as stack:
        opened = Task().open(stack, one / "learn.h5", one / "learn_weights.h5", 2**20).truth
        np.testing.assert_array_equal(opened.ignore[:] > 0, ignored)
    a, b = (json.loads((folder / "statistics.json").read_text()) for folder in (one, other))
    assert a.pop("provenance") and b.pop("provenance") and a == b
    with layout.require(one / "learn.h5") as file:
        target = target_class(file["labels"][:], file["separation_border"][:])[~ignored]
    assert a["class_frequencies"] == pytest.approx([1 - target.mean(), target.mean()])
    assert (one / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
    a, b = (Model.load(folder / "model.pt").network.state_dict() for folder in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def volume():
    """Arrays of a volume as in a dataset file, and the same with anything at the ignored pixels."""
    raw, labels, ignore = drawn(0)
    rng = np.random.default_rng(1)
    labels = np.where(ignore, 0, labels).astype(np.uint32)
    border = np.stack([separation_border(section, 2) for section in labels]).astype(np.uint8)
    spoiled = np.where(ignore, rng.integers(1, 40, SHAPE), labels).astype(np.uint32)
    spoiled_border = np.where(ignore, rng.integers(0, 2, SHAPE), border).astype(np.uint8)
    ignore = ignore.astype(np.uint8)
    return (
        layout.AnnotatedArrays(raw[None], labels, border, ignore),
        layout.AnnotatedArrays(raw[None], spoiled, spoiled_border, ignore),
    )


def test_statistics_count_annotated_pixels(volume):
    clean, spoiled = volume
    target = target_class(clean.labels, clean.separation_border)[clean.ignore == 0]
    for arrays in volume:
        counts = count_classes([arrays[1:]])
        assert counts.tolist() == [np.count_nonzero(target == 0), np.count_nonzero(target == 1)]
    assert baselines.measure([clean]) == baselines.measure([spoiled])
    # the annotated pixels say that cells are bright, all others that they are dark
    dark = spoiled._replace(labels=np.where(spoiled.ignore, spoiled.raw[0] < 128, spoiled.labels))
    assert baselines.measure([dark])["low"] < baselines.measure([dark])["high"]
    only = dark._replace(labels=np.where(spoiled.ignore, spoiled.raw[0] < 60, 0))
    assert baselines.measure([only._replace(ignore=None)])["low"] > baselines.measure([only])["low"]


def test_validation_scores_annotated_pixels(volume):
    rng = np.random.default_rng(2)
    probability = np.clip(
        ndimage.gaussian_filter((volume[0].labels[1] > 0).astype(float), 1) + rng.normal(0, 0.1, SHAPE[1:]),
        0.01,
        0.99,
    ).astype(np.float32)
    weights = (rng.uniform(1, 5, SHAPE) * (volume[0].ignore == 0)).astype(np.float32)
    whole = SimpleNamespace(crop=np.s_[:, :], write=np.s_[:, :])
    outputs = torch.from_numpy(np.stack([1 - probability, probability]))
    found = []
    for arrays in volume:
        truth = PixelTruth(*arrays[1:3], weights, arrays.ignore)
        found.append(Task().validate(truth, 1, iter([(whole, outputs)])))
    assert found[0] == found[1]

    inside = volume[0].ignore[1] == 0
    target = target_class(volume[0].labels[1], volume[0].separation_border[1])
    own = np.where(target == 1, probability, 1 - probability)
    scores = Task().scores_of(found[:1])
    expected = -(weights[1] * np.log(own))[inside].sum() / np.count_nonzero(inside)
    assert scores["loss"] == pytest.approx(expected, rel=1e-5)
    cells = (volume[0].labels[1] > 0) & (volume[0].separation_border[1] == 0)
    table = metrics.isbi_scores(cells, probability, VALIDATION_THRESHOLDS, ignore=volume[0].ignore[1])
    assert scores["v_rand_thin"] == table[table.metric == "v_rand_thin"].value.max()


def write(path, **arrays):
    """Write an HDF5 file with arrays of `layout`, by the names of the constants."""
    with layout.create(path, {}) as file:
        for name, values in arrays.items():
            layout.add(file, getattr(layout, name), SHAPE)[:] = values
        if "IGNORE" in arrays:
            add_boxes(file, arrays["LABELS"])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_threshold_and_scores_of_cells_that_are_made_before_pixels_are_left_out(volume, tmp_path, criterion):
    """Only which cells are connected, and scores of cells, can depend on the prediction at ignored pixels."""
    rng = np.random.default_rng(3)
    noisy = ndimage.gaussian_filter((volume[0].labels > 0).astype(float), (0, 1, 1))
    probability = np.clip(noisy + rng.normal(0, 0.15, SHAPE), 0, 1).astype(np.float32)
    segments = metrics.connected_components(probability > 0.6)
    found = []
    for number, (_, labels, border, ignore, *_) in enumerate(volume):
        paths = [tmp_path / f"{name}{number}" for name in ("d.h5", "p.h5", "s.h5", "unet.json", "scores.csv")]
        anything = ignore * number > 0
        write(paths[0], LABELS=labels, SEPARATION_BORDER=border, IGNORE=ignore)
        write(paths[1], CELL_PROBABILITY=np.where(anything, rng.random(SHAPE), probability))
        write(paths[2], LABELS=np.where(anything, rng.integers(0, 900, SHAPE), segments))
        choose_postprocessing(paths[:1], paths[1:2], paths[3], criterion=criterion)
        evaluate(*paths, tmp_path / "sections.csv", volume="v", split="test", network="unet")
        chosen = json.loads(paths[3].read_text())
        found.append((chosen["threshold"], chosen["value"], pd.read_csv(paths[4])))
    if criterion != "seg":
        assert found[0][:2] == found[1][:2]
    _, labels, border, ignore, *_ = volume[0]
    own = labels if criterion == "seg" else metrics.connected_components(np.where(border > 0, 0, labels))
    values = []
    for z in range(len(labels)):
        inside = ignore[z] == 0
        cells = instances(probability[z], PostProcessing(found[0][0]))
        if criterion != "seg":  # a cell that ignored pixels cut is two
            cells = metrics.connected_components(np.where(inside, cells, 0))
        if criterion == "v_rand_thin":
            cells = metrics.thin_borders(cells, ignore=~inside)
        score = getattr(metrics, criterion.removesuffix("_thin"))
        values.append(score(own[z][inside][None], cells[inside][None]))
    assert found[0][1][THRESHOLDS.index(found[0][0])] == pytest.approx(np.mean(values))
    first, second = (
        table[(table.threshold == at) | ~table.metric.isin((*metrics.INSTANCE_METRICS, *metrics.CELL_COUNTS))]
        for at, _, table in found
    )
    if criterion != "seg":
        pd.testing.assert_frame_equal(first, second, check_exact=True)

    at = found[0][2].set_index(["metric", "threshold"]).value[:, found[0][0]]
    inside = ignore == 0  # and the scores are those of the annotated pixels
    expected = metrics.instance_scores(*(np.where(inside, a, 0) for a in (labels, segments)))
    assert at["seg"] == pytest.approx(expected["seg"]) and at["dice"] == pytest.approx(expected["dice"])
    assert at["pixel_mismatch"] == pytest.approx(
        np.mean(
            ((labels > 0) & (volume[0].separation_border == 0))[inside]
            != (probability.astype(float) > found[0][0])[inside]
        )
    )


def test_cells_that_share_a_side_at_ignored_pixels_do_not_change_other_cells(tmp_path):
    """The cells touch at a corner only, so their border is not removed from them for the scores."""
    labels, border, ignore = (np.zeros(SHAPE, np.uint8) for _ in range(3))
    labels[:, 10:20, 10:20], labels[:, 20:30, 20:30] = 1, 2
    border[:] = [separation_border(section, 2) for section in labels]
    ignore[:, 40:] = 1
    assert border.any()
    paths = [tmp_path / name for name in ("d.h5", "p.h5", "s.h5", "unet.json", "scores.csv")]
    write_json(paths[3], {"threshold": 0.5, "minimum_size": 0})
    write(paths[1], CELL_PROBABILITY=labels > 0)
    write(paths[2], LABELS=labels)
    labels[:, 40:] = np.arange(64)
    write(paths[0], LABELS=labels, SEPARATION_BORDER=border, IGNORE=ignore)
    evaluate(*paths, tmp_path / "sections.csv", volume="v", split="test", network="unet")
    table = pd.read_csv(paths[4])
    assert table[(table.threshold == 0.5) & (table.metric == "pixel_error")].value.item() == 0
