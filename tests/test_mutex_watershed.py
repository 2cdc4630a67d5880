"""Affinities that a network learns, and the mutex watershed that makes instances from them."""

import csv
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import api, layout, memory, metrics, networks, provenance, tasks
from pipeline_lib.data.affinities import NEIGHBOURS, OFFSETS, chosen_offsets
from pipeline_lib.data.gray import summary
from pipeline_lib.data.normalisation import measure
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.instances.mutex_watershed import STRIDE, Affinities, mutex_watershed
from pipeline_lib.instances.postprocessing import PostProcessing, instances, instances_by_block
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.components import equal_components
from pipeline_lib.networks.model import Model, members_in, read_tensors, save_ensemble
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.ensemble import average_predictions
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.joining import join_predictions
from pipeline_lib.stages.postprocessing import (
    FEW_THRESHOLDS,
    GRIDS,
    REGION_SIZES,
    THRESHOLDS,
    choose_postprocessing,
)
from pipeline_lib.stages.prediction import predict
from pipeline_lib.stages.segmentation import label_part, segment
from pipeline_lib.tasks.segmentation.baselines import BASELINES
from pipeline_lib.tasks.segmentation.losses import affinity_loss, true_affinities
from pipeline_lib.tasks.segmentation.task import EVERYWHERE, EXACT, PixelTruth
from pipeline_lib.training.prior import log_prior
from tests.box_datasets import add_boxes
from tests.test_training import NETWORK, inputs, run  # noqa: F401 (a fixture)
from tests.test_workflow import CONFIG, TABLE, snakemake, write, write_stacks

FEW = (*NEIGHBOURS, (-2, 0), (0, -3), (-2, -2), (2, -1))
SEEDS = st.integers(0, 2**32 - 1)


def same_partition(one, other):
    """Return whether two arrays have the same regions, whatever their numbers."""
    pairs = {*zip(np.ravel(one).tolist(), np.ravel(other).tolist(), strict=True)}
    return len(pairs) == len(np.unique(one)) == len(np.unique(other))


def by_definition(values, offsets, cells, stride):
    """Return the regions: an edge after the other, all pairs of regions that are kept apart in a set."""
    height, width = cells.shape
    edges = []
    for k, (dy, dx) in enumerate(offsets):
        step = min(stride, max(abs(dy), abs(dx)))
        for y, x in np.argwhere(cells):
            if not (0 <= y + dy < height and 0 <= x + dx < width and cells[y + dy, x + dx]):
                continue
            affinity = values[k, y, x]
            if k < 2:
                weight = affinity
            elif y % step or x % step or affinity == 1:
                continue
            else:
                weight = np.float32(1) - affinity
            if weight > 0:
                edges.append((-weight, k, y, x, (y + dy, x + dx)))
    labels = np.where(cells, np.arange(1, cells.size + 1).reshape(cells.shape), 0)
    apart = set()
    for _, k, y, x, there in sorted(edges):
        one, two = labels[y, x], labels[there]
        if one == two:
            continue
        if k >= 2:
            apart |= {(one, two), (two, one)}
        elif (one, two) not in apart:
            labels[labels == two] = one
            apart = {tuple(one if label == two else label for label in pair) for pair in apart}
    return labels


@given(SEEDS, st.sampled_from([3, 20, 10_000]), st.sampled_from([1, 2, 4]))
def test_regions_are_those_of_the_definition(seed, levels, stride):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 2))
    values = (rng.integers(0, levels + 1, (len(FEW), *shape)) / levels).astype(np.float32)
    values[2:] **= rng.choice([0.3, 1.0])
    cells = rng.random(shape) < 0.9
    found = mutex_watershed(Affinities(values, FEW), cells, stride)
    np.testing.assert_array_equal(found > 0, cells)
    assert same_partition(found, by_definition(values, FEW, cells, stride))
    for label in np.unique(found[found > 0]):
        assert metrics.connected_components(found == label).max() == 1


def test_regions_are_those_of_another_implementation():
    """Golden labels of `agglom` of the package mwatershed 0.5.4, with 1 - a as weights that separate."""
    k, y, x = np.mgrid[:6, :8, :10].astype(np.uint64)
    number = k * 7919 + y * 104729 + x * 1299709 + 12345
    for _ in range(2):
        number = (number * 2654435761 + 97) % 2**32
        number ^= number >> np.uint64(15)
    values = number / 2**32
    values[:2] **= 0.5
    found = mutex_watershed(Affinities(values.astype(np.float32), FEW), np.ones((8, 10), bool), stride=1)
    expected = "aabbbccddd aabccccddd eacccccdfd aaacddddff gaaahdddff ggggiiiiif ggggiiiiii ggjjiiikkk"
    assert same_partition(found, np.array([[*row] for row in expected.split()]))


def random_cells(seed, shape=(12, 14)):
    """Return labels of cells that touch each other, and background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 5, tuple(-(-size // 3) for size in shape))
    labels = np.kron(coarse, np.ones((3, 3), int))[: shape[0], : shape[1]]
    labels[rng.random(shape) < 0.1] = 0
    return equal_components(labels.astype(np.uint32)).astype(np.int64)


def perfect(labels, offsets=OFFSETS):
    """Return the true affinities of a section."""
    own = torch.from_numpy(labels)[None]
    return Affinities(true_affinities(own, own >= 0, offsets)[0][0].float().numpy(), offsets)


@given(SEEDS)
def test_true_affinities_give_the_cells(seed):
    labels = random_cells(seed)
    # a map without any gap between the cells, and one in which nothing is certain
    for probability in (labels > 0, np.where(labels > 0, 0.6, 0.4)):
        found = instances(
            probability.astype(np.float32),
            PostProcessing(0.5, smallest_region=0),
            affinities=perfect(labels, FEW),
        )
        np.testing.assert_array_equal(found, equal_components(labels.astype(np.uint32)))


@given(SEEDS)
def test_true_affinities_do_not_depend_on_the_numbers_of_the_cells(seed):
    labels, rng = random_cells(seed), np.random.default_rng(seed)
    numbers = np.append(0, 1 + rng.permutation(labels.max()) * 1000)
    np.testing.assert_array_equal(perfect(labels).values, perfect(numbers[labels]).values)


@given(SEEDS)
def test_true_affinities_are_those_of_pairs_of_known_pixels(seed):
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 3, (2, 4, 5)))
    known = torch.from_numpy(rng.random((2, 4, 5)) < 0.8)
    offsets = ((-1, 0), (0, -1), (3, -2), (0, -5), (-9, 1))
    affinities, counted = true_affinities(labels, known, offsets)
    for n, k, y, x in np.ndindex(2, len(offsets), 4, 5):
        there = y + offsets[k][0], x + offsets[k][1]
        inside = 0 <= there[0] < 4 and 0 <= there[1] < 5
        pair = bool(inside and known[n, y, x] and known[n, *there])
        assert counted[n, k, y, x] == pair
        same = pair and labels[n, y, x] == labels[n, *there] and labels[n, y, x] > 0
        assert affinities[n, k, y, x] == same


def test_affinity_loss_is_the_mean_of_two_dice_losses_of_each_patch_and_offset():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.double, requires_grad=True)
    affinities, counted = (torch.rand(2, 3, 4, 5, generator=generator) < 0.6 for _ in range(2))
    counted[1, 2] = False
    expected = 0.0
    for n, k in np.ndindex(2, 3):
        p, t = logits[n, k].sigmoid()[counted[n, k]], affinities[n, k][counted[n, k]].double()
        if len(p):
            for a, b in ((p, t), (1 - p, 1 - t)):
                expected += (1 - 2 * (a * b).sum() / ((a**2).sum() + (b**2).sum())) / 2 / 3
    loss = affinity_loss(logits, affinities, counted)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert (logits.grad[~counted] == 0).all() and (logits.grad[counted] != 0).all()
    torch.testing.assert_close(
        affinity_loss(20 * (2 * affinities.float() - 1), affinities, counted), torch.tensor(0.0)
    )


def test_loss_counts_annotated_pixels_in_the_mask_and_adds_that_of_the_classes():
    task, plain = tasks.load("segmentation", offsets=FEW), tasks.load("segmentation")
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(2, 2 + len(FEW), 9, 9, generator=generator)
    labels = torch.randint(0, 3, (2, 9, 9), generator=generator).float()
    weights = torch.rand(2, 9, 9, generator=generator) * (torch.rand(2, 9, 9, generator=generator) < 0.8)
    truth = torch.stack([(labels > 0).float(), weights, labels], 1)
    mask = torch.rand(2, 9, 9, generator=generator) < 0.5
    for own in (None, mask):
        affinities, counted = true_affinities(labels, weights > 0, FEW)
        counted = counted if own is None else counted & own[:, None]
        expected = plain.loss(output[:, :2], truth, own) + affinity_loss(output[:, 2:], affinities, counted)
        torch.testing.assert_close(task.loss(output, truth, own), expected)
    assert (task.classes, task.class_names) == (2 + len(FEW), ("background", "cell"))
    np.testing.assert_array_equal(task.count_classes(truth), plain.count_classes(truth))


@pytest.mark.parametrize("w_c", [None, np.array([0.4, 2.5])])
def test_validation_loss_is_that_of_the_training_whatever_the_tiles(w_c):
    """With weights of the classes, probabilities of classes are corrected, and affinities are not."""
    task, rng = tasks.load("segmentation", offsets=FEW), np.random.default_rng(0)
    labels = np.stack([random_cells(seed, (20, 24)) for seed in (1, 2)]).astype(np.uint32)
    labels[labels == 1] = 2**32 - 1
    weights = (rng.random(labels.shape) * (rng.random(labels.shape) < 0.8)).astype(np.float32)
    ignore = (weights == 0).astype(np.uint8)
    border = np.zeros(labels.shape, np.uint8)
    truth = PixelTruth(labels, border, weights, ignore, with_labels=True, class_weights=w_c)
    logits = torch.randn(2, 2 + len(FEW), 20, 24, generator=torch.Generator().manual_seed(0))
    prior = [] if w_c is None else log_prior([1, 1], [0.5, 0.5], w_c)
    output = torch.stack([task.decode(lambda _, own=own: own[None], own, False, prior) for own in logits])
    torch.testing.assert_close(output[:, 2:], logits[:, 2:].sigmoid())
    whole = torch.from_numpy(np.stack([truth.read(z, EVERYWHERE) for z in range(2)]))
    for size in (7, 100):
        found = []
        for z in range(2):
            tiles = [Tile(((0, 0), (0, 0)), EVERYWHERE, area.write) for area in blocks.blocks((20, 24), size)]
            outputs = ((tile, output[z][(slice(None), *tile.write)]) for tile in tiles)
            found.append(task.validate(truth, z, outputs))
        assert (len(tiles) == 1) == (size == 100)
        plain, known = tasks.load("segmentation"), (weights > 0).sum((1, 2))
        of_classes = [plain.loss(logits[z : z + 1, :2], whole[z : z + 1, :2]) * known[z] for z in range(2)]
        of_pairs = [
            affinity_loss(
                logits[z : z + 1, 2:], *true_affinities(whole[z : z + 1, 2], whole[z : z + 1, 1] > 0, FEW)
            )
            for z in range(2)
        ]
        expected = sum(of_classes) / known.sum() + sum(of_pairs) / 2
        assert task.scores_of(found)["loss"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("first", [1, EXACT])
def test_labels_of_a_window_are_exact_in_float32(first):
    labels = np.array([[[0, 0, 1, 2, 3, 1]]], np.uint32)
    labels[labels > 0] += np.uint32(first - 1)
    ones = np.ones(labels.shape)
    truth = PixelTruth(labels, 0 * ones, ones, with_labels=True)
    found = truth.read(0, (slice(0, 1), slice(0, 6)))
    assert found.dtype == np.float32 and found.shape == (3, 1, 6)
    assert same_partition(found[2], labels) and (found[2, 0, :2] == 0).all()


class Similar(torch.nn.Module):
    """A network without context whose affinities are those of gray values, on a torus."""

    def forward(self, image):
        there = [image.roll((-dy, -dx), (2, 3)) for dy, dx in FEW]
        return torch.cat([image, -image, *(4 - (image - other).abs() for other in there)], 1)


def test_average_over_orientations_uses_offsets_in_the_original_orientation():
    """Each orientation says the same here, so the average changes nothing."""
    task = tasks.load("segmentation", offsets=FEW)
    image = torch.randn(1, 11, 11, generator=torch.Generator().manual_seed(0))
    once, averaged = (task.decode(Similar(), image, average) for average in (False, True))
    assert once.shape == (2 + len(FEW), 11, 11)
    torch.testing.assert_close(once, averaged, rtol=0, atol=1e-6)
    torch.testing.assert_close(once[2], (4 - (image - image.roll((1, 0), (1, 2)))[0].abs()).sigmoid())


@pytest.fixture
def trained(tmp_path):
    """Write a dataset of two sections and a model that predicts affinities."""
    raw = np.random.default_rng(0).integers(0, 255, (1, 2, 270, 51), np.uint8)
    with layout.create(tmp_path / "dataset.h5", {}) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        layout.write_findings(file, {"gray": summary(raw), "annotation": None})
    torch.manual_seed(0)
    plan = networks.plan("unet", depth=2, base_channels=4, classes=2 + len(FEW))
    names = {"classes": ("background", "cell"), "cells": ("cell",)}
    model = Model(plan, plan.build(), measure("mean_std", [raw]), offsets=FEW, **names)
    model.save(tmp_path / "model.pt")
    return tmp_path


def predicted(folder, name, **settings):
    """Predict and return the cell probability and the affinities."""
    arguments = {"precision": "float32", "device": "cpu"} | settings
    predict(folder / "dataset.h5", folder / "model.pt", folder / name, **arguments)
    return stored(folder / name)


def stored(path):
    with layout.require(path, layout.CELL_PROBABILITY, layout.AFFINITIES) as file:
        affinities = Affinities.of(file)
        assert affinities.offsets == FEW
        return file["cell_probability"][:], affinities.values[:]


@pytest.mark.parametrize("average", [False, True])
def test_affinities_have_no_seams_between_tiles_and_parts(trained, average):
    probability, affinities = predicted(trained, "whole.h5", average_orientations=average)
    assert affinities.shape == (len(FEW), 2, 270, 51) and affinities.std(axis=(1, 2, 3)).min() > 1e-3
    assert describe(trained / "model.pt")["offsets"] == [*map(list, FEW)]
    for found, whole in zip(
        predicted(trained, "small.h5", average_orientations=average, tile=60),
        (probability, affinities),
        strict=True,
    ):
        np.testing.assert_allclose(found, whole, atol=1e-5)
    parts = [trained / f"{part}.h5" for part, _ in enumerate(blocks.parts((2, 270, 51), 3), 1)]
    for part, path in enumerate(parts, 1):
        predicted(trained, path.name, average_orientations=average, part=part, jobs=3)
    join_predictions(parts, trained / "joined.h5", shape=(2, 270, 51), jobs=3)
    for found, whole in zip(stored(trained / "joined.h5"), (probability, affinities), strict=True):
        np.testing.assert_allclose(found, whole, atol=1e-5)


def test_affinities_are_not_resampled(trained):
    model = Model.load(trained / "model.pt")
    model.pixel_size = (2.0, 2.0)
    model.save(trained / "model.pt")
    with layout.h5py.File(trained / "dataset.h5", "a") as file:
        layout.write_pixel_size(file, (1.0, 1.0))
    with pytest.raises(InputError, match=r"predicts affinities, .* cannot be resampled"):
        predicted(trained, "found.h5", match_pixel_size=True)


def test_affinities_are_left_out_if_the_model_makes_cells_without_them(trained):
    probability, _ = predicted(trained, "whole.h5")
    model = Model.load(trained / "model.pt")
    for settings, used in ((PostProcessing(0.5), False), (PostProcessing(0.5, smallest_region=0), True)):
        model.application = {"postprocessing": settings.to_dict()}
        model.save(trained / "model.pt")
        predict(
            trained / "dataset.h5", trained / "model.pt", trained / "p.h5", precision="float32", device="cpu"
        )
        with layout.require(trained / "p.h5") as file:
            np.testing.assert_array_equal(file["cell_probability"][:], probability)
            assert ("affinities" in file) == used


@given(SEEDS, st.sampled_from([2, 5, 64]), st.integers(0, 6))
def test_blocks_give_the_labels_of_whole_sections(tmp_path_factory, seed, block, minimum_size):
    rng = np.random.default_rng(seed)
    probability = rng.random((3, 9, 11), np.float32)
    affinities = Affinities(rng.random((len(FEW), 3, 9, 11), np.float32) ** 0.5, FEW)
    settings = PostProcessing(0.2, minimum_size, smallest_region=5)
    output = tmp_path_factory.mktemp("labels") / "labels.h5"
    used = 0
    with instances_by_block(probability, settings, output, affinities=affinities, block=block) as (
        labels,
        count,
    ):
        for z, section in enumerate(probability):
            expected = instances(section, settings, affinities=affinities[z])
            assert (np.bincount(expected.ravel())[1:] >= minimum_size).all()
            found = labels[z, slice(0, 9), slice(0, 11)]
            np.testing.assert_array_equal(found, np.where(expected, expected + used, 0))
            used += expected.max()
        assert count == used


@pytest.mark.parametrize("value", [-1, 1.0, True, "5"])
def test_smallest_region_must_be_a_number_of_pixels(value):
    with pytest.raises(InputError, match=r"`smallest_region`: found .*, expected an integer of at least 0"):
        PostProcessing(0.3, smallest_region=value)
    several = "`seed_threshold` and `smallest_region`: found several, expected one"
    with pytest.raises(InputError, match=several):
        PostProcessing(0.3, seed_threshold=0.5, smallest_region=0)
    scaled = PostProcessing(0.3, 7, smallest_region=10).scaled(4.0)
    assert (scaled.minimum_size, scaled.smallest_region) == (28, 40)
    assert PostProcessing(0.3, smallest_region=0).scaled(4.0).smallest_region == 0
    assert PostProcessing(0.3).scaled(4.0).smallest_region is None


def write_members(folder):
    """Write three models that predict affinities, and return them."""
    members = []
    for number in range(3):
        model = Model.load(folder / "model.pt")
        torch.manual_seed(number)
        members.append(Model(**vars(model) | {"network": model.plan.build(), "application": {}}))
        members[-1].save(folder / f"member{number}.pt")
    return members


def test_an_ensemble_averages_affinities(trained):
    members = write_members(trained)
    predictions = [trained / f"{number}.h5" for number in range(3)]
    for number, path in enumerate(predictions):
        predict(
            trained / "dataset.h5", trained / f"member{number}.pt", path, precision="float32", device="cpu"
        )
    found = [stored(path) for path in predictions]
    assert np.std([affinities for _, affinities in found], 0).mean() > 0.01
    average_predictions(predictions, trained / "mean.h5")
    mean = stored(trained / "mean.h5")
    for k in range(2):
        expected = sum(own[k].astype(float) for own in found) / 3
        np.testing.assert_array_equal(mean[k], expected.astype(np.float32))
    mutex = PostProcessing(0.5, smallest_region=0)
    for settings, used in ((None, True), (PostProcessing(0.5), False), (mutex, True)):
        application = {"postprocessing": settings.to_dict()} if settings else {}
        save_ensemble(members, trained / "model.pt", provenance={}, application=application)
        assert describe(trained / "model.pt")["offsets"] == [*map(list, FEW)]
        predict(
            trained / "dataset.h5", trained / "model.pt", trained / "p.h5", precision="float32", device="cpu"
        )
        with layout.require(trained / "p.h5") as file:
            np.testing.assert_array_equal(file["cell_probability"][:], mean[0])
            assert ("affinities" in file) == used and "disagreement" in file
        if used:
            np.testing.assert_array_equal(stored(trained / "p.h5")[1], mean[1])
    parts = [trained / f"part{part}.h5" for part, _ in enumerate(blocks.parts((2, 270, 51), 3), 1)]
    for part, path in enumerate(parts, 1):
        predicted(trained, path.name, part=part, jobs=3)
    join_predictions(parts, trained / "joined.h5", shape=(2, 270, 51), jobs=3)
    np.testing.assert_allclose(stored(trained / "joined.h5")[1], mean[1], atol=1e-5)


def test_affinities_of_other_offsets_have_no_mean(trained):
    one, other, _ = write_members(trained)
    other.offsets = (*FEW[:2], (-3, 1), *FEW[3:])
    with pytest.raises(InputError, match=r"the members 1 and 2 of the ensemble differ .* their offsets"):
        save_ensemble([one, other], trained / "model.pt", provenance={}, application={})
    other.save(trained / "member1.pt")
    paths = [trained / f"{number}.h5" for number in range(2)]
    for number, path in enumerate(paths):
        predict(
            trained / "dataset.h5", trained / f"member{number}.pt", path, precision="float32", device="cpu"
        )
    message = r"1\.h5: found .* affinities at .*\[-3, 1\], .*0\.h5 has .*\[-2, 0\], "
    with pytest.raises(InputError, match=message):
        average_predictions(paths, trained / "mean.h5")


SHORT = {"iterations": 2, "validation_interval": 2, "affinities": [*map(list, FEW)]}


@pytest.mark.parametrize("sampling", ["uniform", "class_balanced"])
def test_a_training_corrects_the_classes_alone_and_sees_neighbours(inputs, tmp_path, sampling):  # noqa: F811
    network = NETWORK | {"context_sections": 1}
    run(inputs, tmp_path, network=network, sampling=sampling, **SHORT)
    path = tmp_path / "model.pt"
    model = Model.load(path)
    assert (model.offsets, model.plan.classes, model.plan.input_channels) == (FEW, 2 + len(FEW), 3)
    if sampling == "uniform":
        expected = np.log(2 * np.array(read_json(inputs[4])["class_frequencies"]))
        assert model.log_prior == pytest.approx(expected, abs=1e-12)
    predict(inputs[2][0], path, tmp_path / "corrected.h5", precision="float32", device="cpu")
    prior, model.log_prior = model.log_prior, ()
    model.save(tmp_path / "plain.pt")
    predict(inputs[2][0], tmp_path / "plain.pt", tmp_path / "plain.h5", precision="float32", device="cpu")
    (corrected, affinities), (plain, same) = (stored(tmp_path / f"{n}.h5") for n in ("corrected", "plain"))
    ratio = corrected / (1 - corrected) / (plain / (1 - plain))
    np.testing.assert_allclose(ratio, np.exp(prior[1] - prior[0]), rtol=1e-3)
    np.testing.assert_array_equal(affinities, same)


def test_the_output_is_copied_from_a_network_with_the_same_affinities_only(inputs, tmp_path):  # noqa: F811
    def initialised(name, start):
        run(inputs, tmp_path / name, **SHORT, start_from=str(tmp_path / start / "model.pt"))
        return Model.load(tmp_path / name / "model.pt").provenance["start"]["initialised"]

    other = [*SHORT["affinities"][:-1], [3, -1]]
    run(inputs, tmp_path / "plain", **SHORT | {"affinities": None})
    run(inputs, tmp_path / "other", **SHORT | {"affinities": other})
    run(inputs, tmp_path / "own", **SHORT)
    for start, expected in (("plain", ["score"]), ("other", ["score"]), ("own", [])):
        assert initialised(f"from {start}", start) == expected


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 8, 7), (3, 40_000, 40_000)])
def test_affinities_of_another_shape_and_too_many_are_refused(shape):
    cells = np.broadcast_to(True, (8, 8) if shape[1] == 8 else shape[1:])
    affinities = Affinities(np.broadcast_to(np.float32(0.5), shape), (*NEIGHBOURS, (-4, 0)))
    with pytest.raises(InputError, match=r"found affinities of the shape .* less than 2\^32 values"):
        mutex_watershed(affinities, cells)


def test_versions_without_affinities_refuse_a_model_that_has_them(trained):
    path = trained / "model.pt"
    path = trained / "model.pt"
    content = read_tensors(path)
    assert (content["format_version"], "offsets" in content) == (2, True)
    del content["offsets"]  # what they see
    with pytest.raises(InputError, match="model format version 2, expected 1"):
        members_in(content, path)


def test_settings_are_stored_without_those_of_other_methods(tmp_path):
    for settings, method in (
        (PostProcessing(0.3), "components"),
        (PostProcessing(0.3, seed_threshold=0.5), "watershed"),
        (PostProcessing(0.3, smallest_region=0), "mutex_watershed"),
    ):
        (tmp_path / "chosen.json").write_text(json.dumps(settings.to_dict()))
        assert PostProcessing.read(tmp_path / "chosen.json") == settings
        assert settings.method == method
    assert PostProcessing(0.3, smallest_region=0).at(0.7) == PostProcessing(0.7, smallest_region=0)
    assert "smallest_region" not in PostProcessing(0.3).to_dict()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([[-9, 0], [0, -9], [-1, 0]], r"expected \[-1, 0\] and \[0, -1\], then"),
        ([[-1, 0], [0, -1]], r"expected \[-1, 0\] and \[0, -1\], then"),
        ([[-1, 0], [0, -1], [9, 4], [-9, -4]], r"found \[-9, -4\], expected offsets other than"),
        ([[-1, 0], [0, -1], [0, 1]], r"found \[0, 1\], expected offsets other than"),
        ([[-1, 0], [0, -1], [0, 0]], r"found \[0, 0\], expected offsets other than"),
    ],
)
def test_offsets_must_be_neighbours_and_others(setting, message):
    with pytest.raises(InputError, match=message):
        chosen_offsets(setting)


def volume(folder, name, sections, *, offsets=FEW):
    """Write a dataset and a prediction with pairs of cells that touch, without a gap in the probability."""
    labels = np.zeros((sections, 24, 44), np.uint32)
    labels[:, 4:20, 4:21], labels[:, 4:20, 21:39] = 1, 2
    rng = np.random.default_rng(sections)
    probability = np.where(labels > 0, 0.8, 0.1)
    probability[:, 4:6, 4:39] = 0.6  # one side of the cells is weaker
    probability += rng.uniform(-0.02, 0.02, labels.shape)
    true = np.stack([perfect(section.astype(np.int64), offsets).values for section in labels], 1)
    affinities = 0.05 + 0.9 * true + rng.uniform(-0.05, 0.05, true.shape)
    dataset, prediction = folder / f"{name}.h5", folder / f"{name}_prediction.h5"
    with layout.create(dataset, {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = False
        add_boxes(file, labels)
    with layout.create(prediction, {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
        array = layout.add(file, layout.AFFINITIES, affinities.shape)
        array[:] = affinities
        layout.write_offsets(array, offsets)
    return dataset, prediction


def test_settings_are_chosen_stored_segmented_and_scored(tmp_path):
    dataset, prediction = volume(tmp_path, "volume", 3)
    chosen, tried = tmp_path / "chosen.json", tmp_path / "tried.csv"
    choose_postprocessing(
        [dataset], [prediction], chosen, tried=tried, method="mutex_watershed", criterion="seg"
    )
    found, settings = json.loads(chosen.read_text()), PostProcessing.read(chosen)
    assert (settings.method, found["grid"]) == ("mutex_watershed", [*FEW_THRESHOLDS])
    assert found["cross_validated"] > 0.95 and "rejected" not in found
    with layout.require(prediction) as file, layout.require(dataset) as truth:
        maps, affinities, labels = file["cell_probability"][:], Affinities.of(file)[0], truth["labels"][:]
        with tried.open() as table:
            rows = {
                (float(row["threshold"]), row["smallest_region"]): float(row["seg"])
                for row in csv.DictReader(table)
                if not row["seed_threshold"]
            }
    sizes = [f"{size}" for size in REGION_SIZES]
    assert {*rows} == {*itertools.product(FEW_THRESHOLDS, sizes), *((at, "") for at in THRESHOLDS)}
    own = instances(maps[0], PostProcessing(0.4, smallest_region=0), affinities=affinities)
    assert metrics.seg(labels[0], own) == pytest.approx(rows[0.4, "0"], abs=0.02)
    assert rows[0.4, "0"] > 0.95 > 0.6 > rows[0.4, ""]
    segment(prediction, chosen, tmp_path / "found.h5")
    with layout.require(tmp_path / "found.h5") as file:
        stored_labels = file["labels"][:]
    for section, probability, z in zip(stored_labels, maps, range(3), strict=True):
        with layout.require(prediction) as file:
            expected = instances(probability, settings, affinities=Affinities.of(file)[z])
        assert same_partition(section, expected) and expected.max() >= 2
    names = {"volume": "volume", "split": "test", "network": "unet"}
    scores = tmp_path / "scores.csv", tmp_path / "sections.csv"
    evaluate(dataset, prediction, tmp_path / "found.h5", chosen, *scores, **names)
    table = pd.read_csv(scores[0]).set_index(["metric", "threshold"]).value
    assert table["seg", settings.threshold] == pytest.approx(
        np.mean([metrics.seg(*pair) for pair in zip(labels, stored_labels, strict=True)])
    )
    # the same method at the other thresholds; the challenge's scores are those of the labels
    cells = np.stack([metrics.connected_components(section) for section in labels])
    for threshold in (0.5, 0.7):
        at = []
        with layout.require(prediction) as file:
            for z, section in enumerate(maps):
                at.append(instances(section, settings.at(threshold), affinities=Affinities.of(file)[z]))
        assert table["rand_error", threshold] == pytest.approx(metrics.rand_error(cells, np.stack(at)))


@pytest.mark.parametrize("criterion", ["rand_error", "v_rand_thin"])
def test_rims_of_a_mutex_watershed_are_chosen_by_pixels(tmp_path, criterion):
    dataset, prediction = volume(tmp_path, "volume", 3)
    with layout.h5py.File(dataset, "a") as file:
        file["separation_border"][:, 4:20, 20:22] = 1
    outputs = tmp_path / "chosen.json", tmp_path / "tried.csv"
    method = {"method": "mutex_watershed", "criterion": criterion}
    with pytest.MonkeyPatch.context() as patched:  # below 0.08, cells fill the background
        patched.setitem(GRIDS, "mutex_watershed", ((0.05, 0.07, 0.4), (0,)))
        choose_postprocessing([dataset], [prediction], outputs[0], tried=outputs[1], **method)
    found, chosen = json.loads(outputs[0].read_text()), PostProcessing.read(outputs[0])
    assert (chosen.method, chosen.threshold) == ("mutex_watershed", 0.4)
    table = pd.read_csv(outputs[1]).query("smallest_region == 0").set_index("threshold")
    assert found["pixel_error"] == pytest.approx(table.pixel_error[0.4])
    assert table.pixel_error[0.4] < 0.05 < table.pixel_error[0.07]
    values = table[criterion] if criterion == "rand_error" else -table[criterion]
    assert values[0.07] == pytest.approx(values[0.4], abs=0.02)  # so the criterion does not decide


def test_a_mutex_watershed_that_is_not_used_is_recorded(tmp_path, caplog):
    dataset, prediction = volume(tmp_path, "volume", 3)
    with layout.h5py.File(prediction, "a") as file, layout.require(dataset) as truth:
        file["cell_probability"][:] = truth["labels"][:] > 0
        file["cell_probability"][:, :, 20:22] = 0  # components are right
        file["affinities"][:] = 1 - file["affinities"][:]
    with caplog.at_level("INFO"), pytest.MonkeyPatch.context() as patched:
        patched.setitem(GRIDS, "mutex_watershed", (FEW_THRESHOLDS, (0,)))  # else small regions join again
        choose_postprocessing(
            [dataset], [prediction], tmp_path / "chosen.json", method="mutex_watershed", criterion="seg"
        )
    found = json.loads((tmp_path / "chosen.json").read_text())
    assert PostProcessing.read(tmp_path / "chosen.json").method == "components"
    assert found["rejected"]["method"] == "mutex_watershed" and found["grid"] == [*THRESHOLDS]
    assert found["rejected"]["value"] < 0.5 < max(found["value"])
    assert "a mutex watershed was tried and is not used: mean seg 0." in caplog.text


def test_affinities_parts_and_memory_that_are_missing_are_refused(tmp_path):
    dataset, prediction = volume(tmp_path, "volume", 2)
    (tmp_path / "chosen.json").write_text(json.dumps(PostProcessing(0.4, smallest_region=0).to_dict()))
    with pytest.raises(InputError, match=r"has a `smallest_region`\. A mutex watershed needs whole sections"):
        label_part(prediction, tmp_path / "chosen.json", tmp_path / "pieces.h5")
    with pytest.raises(InputError, match=r"the mutex watershed of .*24 x 44 px, each as a whole"):
        segment(prediction, tmp_path / "chosen.json", tmp_path / "found.h5", memory_gb=0.25)
    with layout.h5py.File(prediction, "a") as file:
        del file["affinities"]
    missing = r"prediction has no `affinities`. Train the network with `training: {affinities: true}`"
    with pytest.raises(InputError, match=missing):
        segment(prediction, tmp_path / "chosen.json", tmp_path / "found.h5")
    with pytest.raises(InputError, match=missing):
        choose_postprocessing([dataset], [prediction], tmp_path / "chosen.json", method="mutex_watershed")
    # not less than measured (docs/measurements/performance.md)
    short = (*NEIGHBOURS, (-1, -1), (1, -1))
    measured = {OFFSETS[:4]: 65, OFFSETS: 109, short: 97, (*short, *[(2, x) for x in range(-2, 4)]): 153}
    for offsets, per_pixel in measured.items():
        need = memory.labelling("a", (1000, 1000), "mutex_watershed", offsets).bytes - memory.PROCESS_BYTES
        assert per_pixel * 1e6 <= need <= 1.2 * per_pixel * 1e6
    assert memory.EDGE_STRIDE == STRIDE


@pytest.mark.parametrize(("method", "needed"), [("watershed", r"8\.[0-9]"), ("mutex_watershed", r"46\.6")])
def test_dry_run_states_the_memory_of_a_whole_section(tmp_path, method, needed):
    write_stacks(tmp_path)
    training = CONFIG["training"] | {"affinities": True}
    config = CONFIG | {"training": training, "segmentation": {"method": method}}
    del config["drawing"]
    table = "\n".join([*TABLE.splitlines()[:3], "wide\tbig.h5:/raw\t\t\tpredict\n"])
    answer = snakemake(tmp_path, "-n", *write(tmp_path, config | {"data_dir": "."}, table))
    assert answer.returncode == 1
    assert re.search(
        rf"`memory_gb`: 8, but the {method.replace('_', ' ')} of volume wide \(sections of 20,000 x 20,000 "
        rf"px, each as a whole\) needs {needed} GB",
        answer.stderr,
    )


@pytest.mark.slow
def test_workflow_learns_affinities_and_its_model_uses_them(tmp_path):
    few = [*map(list, FEW)]
    config = CONFIG | {
        "training": CONFIG["training"] | {"affinities": few},
        "prediction": {"device": "cpu", "average_orientations": True},
        "segmentation": {"method": "mutex_watershed", "criterion": "seg"},
    }
    arguments = write(tmp_path, config)
    chosen = tmp_path / "results/postprocessing/unet.json"
    answer = snakemake(tmp_path, *arguments, "--", str(chosen.relative_to(tmp_path)))
    assert answer.returncode == 0, answer.stderr
    with layout.require(tmp_path / "results/prediction/unet/choose.h5") as file:
        low = float(np.quantile(file["cell_probability"][:], 0.3))  # of a network that learned nothing
    edited = json.loads(chosen.read_text()) | {"threshold": low, "smallest_region": 9}
    chosen.write_text(json.dumps(edited))
    provenance.record_path(chosen).unlink()  # edited on purpose
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    for baseline in BASELINES:  # they have no affinities
        assert "smallest_region" not in json.loads(chosen.with_name(f"{baseline}.json").read_text())
    assert (
        "Regions with fewer than 9 pixels join the neighbour"
        in (tmp_path / "results/report.html").read_text()
    )
    labels = tifffile.imread(tmp_path / "results/segmentation/new_labels.tif")
    with layout.require(tmp_path / "results/prediction/unet/new.h5") as file:
        probability, affinities = file["cell_probability"][0], Affinities.of(file)[0]
    expected = instances(probability, PostProcessing(low, smallest_region=9), affinities=affinities)
    np.testing.assert_array_equal(labels[0], expected)
    assert labels.max() > instances(probability, PostProcessing(low)).max()
    with layout.require(tmp_path / "results/dataset/new.h5") as file:
        tifffile.imwrite(tmp_path / "image.tif", file["raw"][0], photometric="minisblack")
    model = api.load(tmp_path / "results/model.pt", device="cpu")
    assert "mutex watershed, regions of at least 9 px" in repr(model)
    np.testing.assert_array_equal(model.predict(tifffile.imread(tmp_path / "image.tif")), labels)
    # a run with the model knows the affinities, and that it needs whole sections
    table = "volume\timages\tsplit\none\timage.tif\tpredict\n"
    again = {"model": "results/model.pt", "volumes": "volumes.tsv", "data_dir": ".", "results": "again"}
    arguments = write(tmp_path, again | {"prediction": {"device": "cpu"}}, table)
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "again/segmentation/one_labels.tif"), labels)
