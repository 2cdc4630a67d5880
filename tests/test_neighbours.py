"""Networks that see neighbouring sections: prediction, patches, plans, transfer and the checks of a run."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from bordure import study
from hypothesis import given
from hypothesis import strategies as st
from test_training import run as run_training
from test_training import write_dataset as write_dataset_of_squares
from test_workflow import CONFIG, snakemake, write
from torch.utils.flop_counter import FlopCounterMode

from pipeline_lib import cli, layout, networks, tasks
from pipeline_lib.data.augment import Augmentation, draw
from pipeline_lib.data.gray import summary
from pipeline_lib.data.normalisation import measure
from pipeline_lib.data.patches import Patches, Volume
from pipeline_lib.data.volumes import Volume as Row
from pipeline_lib.inference import passes
from pipeline_lib.inference.neighbours import Neighbours, with_neighbours
from pipeline_lib.inference.resampling import Resampled
from pipeline_lib.kernels import blocks
from pipeline_lib.networks import transfer
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.unet import UNetPlan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.dataset import build_weight_map, measure_statistics
from pipeline_lib.stages.detection import detect
from pipeline_lib.stages.joining import join_predictions
from pipeline_lib.stages.masks import predict_masks
from pipeline_lib.stages.prediction import predict
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.tasks.detection.truth import BoxTruth
from pipeline_lib.tasks.segmentation.task import PixelTruth
from pipeline_lib.training import speed

CPU = torch.device("cpu")
SMALL = {"depth": 1, "base_channels": 3}
ALL = slice(None)
STILL = Augmentation(rotate=False, mirror=False, elastic_std=0, gain=0, offset=0, gamma=0, noise=0)


def padded(stack, context):
    """The stack (c, z, y, x) with mirrored sections at both ends. The last ones are not repeated."""
    mode = "reflect" if stack.shape[1] > 1 else "edge"
    return np.pad(stack, [(0, 0), (context, context), (0, 0), (0, 0)], mode=mode)


def some(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


# ---------------------------------------------------------------------------------- reading


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_channels_are_those_of_the_sections_around_in_the_mirrored_stack(channels, depth, context, seed):
    stack = some(channels, depth, 4, 5, seed=seed)
    seen, whole = Neighbours(stack, context), padded(stack, context)
    assert seen.shape == (channels * (2 * context + 1), depth, 4, 5) and seen.dtype == stack.dtype
    for z in range(depth):
        expected = np.concatenate([whole[:, z + k] for k in range(2 * context + 1)])
        np.testing.assert_array_equal(seen[:, z, 1:3, 2:], expected[:, 1:3, 2:])
        np.testing.assert_array_equal(seen[..., z, ALL, ALL], expected)


def test_a_network_without_neighbours_reads_the_array_itself():
    stack = some(1, 2, 3, 3)
    assert with_neighbours(stack, 0) is stack


@pytest.mark.parametrize("kind", ["mean_std", "mean_image"])
def test_each_section_is_read_and_normalised_as_if_alone(tmp_path, kind):
    """Also beyond the edges of sections, from HDF5, in two channels and after resampling."""
    stack = some(2, 4, 20, 17)
    normalisation = measure(kind, [stack])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = stack
        arrays = [file["raw"]] + [Resampled(file["raw"], (1.5, 0.7))] * (kind == "mean_std")
        for array in arrays:
            for z in range(4):
                window = normalisation, (-7, 15), (3, 40)
                seen = passes.read(Neighbours(array, 1), z, *window)
                for part, number in zip(seen.chunk(3), [abs(z - 1), z, min(z + 1, 5 - z)], strict=True):
                    assert torch.equal(part, passes.read(array, number, *window))


# ---------------------------------------------------------------------------------- prediction


def write_dataset(path, stack, pixel_size=None):
    with layout.create(path, {}) as file:
        layout.write_pixel_size(file, pixel_size)
        layout.add(file, layout.RAW, stack.shape, stack.dtype)[:] = stack
        layout.write_findings(file, {"gray": summary(stack), "annotation": None})


def write_model(path, stack, offset, context):
    """Write a plain model and one that sees neighbours, but looks only at the one at `offset`."""
    torch.manual_seed(0)
    plain = networks.plan("unet", **SMALL).build()
    seeing = networks.plan("unet", **SMALL, context_sections=context).build()
    state = plain.state_dict()
    kernel = torch.zeros_like(seeing.down[0][0].weight)
    kernel[:, context + offset] = state["down.0.0.weight"][:, 0]
    seeing.load_state_dict(state | {"down.0.0.weight": kernel})
    for name, network in (("plain", plain), ("seeing", seeing)):
        Model(network.plan, network, measure("mean_std", [stack]), pixel_size=(1.0, 1.0)).save(
            path / f"{name}.pt"
        )


def probability(path):
    with layout.require(path, layout.CELL_PROBABILITY) as file:
        return file["cell_probability"][:]


def predicted(folder, model, output, dataset="dataset.h5", **settings):
    predict(folder / dataset, folder / model, folder / output, precision="float32", device="cpu", **settings)
    return probability(folder / output)


@pytest.mark.parametrize(
    ("context", "offset", "match"),
    [(1, -1, False), (1, 0, False), (1, 1, False), (2, -2, False), (2, 1, True)],
)
def test_a_network_that_looks_at_one_neighbour_predicts_what_belongs_to_that_section(
    tmp_path, context, offset, match
):
    """Also if images are resampled to the pixel size of the model."""
    stack = some(1, 4, 40, 33)
    write_dataset(tmp_path / "dataset.h5", stack, (0.6, 1.5))
    write_model(tmp_path, stack, offset, context)
    assert Model.load(tmp_path / "seeing.pt").plan.context_sections == context
    alone, found = (
        predicted(tmp_path, f"{name}.pt", f"{name}.h5", match_pixel_size=match)
        for name in ("plain", "seeing")
    )
    shown = padded(np.arange(4).reshape(1, 4, 1, 1), context).ravel()[context + offset :][:4]
    np.testing.assert_allclose(found, alone[shown], rtol=0, atol=1e-6)
    assert np.abs(alone[1:] - alone[:-1]).max(axis=(1, 2)).min() > 0.01  # sections differ


def random_model(path, stack, context=1):
    torch.manual_seed(0)
    plan = networks.plan("unet", **SMALL, context_sections=context)
    Model(plan, plan.build(), measure("mean_std", [stack])).save(path)


@pytest.mark.parametrize("jobs", [2, 3, 5])
def test_parts_of_several_jobs_and_averaged_orientations_see_the_whole_stack(tmp_path, jobs):
    """Parts are sections, or rows of them. Neighbours lie in other parts."""
    stack = some(1, 3, 260, 20)
    write_dataset(tmp_path / "dataset.h5", stack)
    random_model(tmp_path / "seeing.pt", stack)
    settings = {"tile": 60, "average_orientations": jobs == 2}
    whole = predicted(tmp_path, "seeing.pt", "whole.h5", **settings)
    shares = blocks.parts(stack.shape[1:], jobs)
    assert len(shares) > 1
    files = [tmp_path / f"parts/{number}.h5" for number in range(1, len(shares) + 1)]
    for part, (share, path) in enumerate(zip(shares, files, strict=True), 1):
        own = predicted(tmp_path, "seeing.pt", path, part=part, jobs=jobs, **settings)
        expected = whole[share.sections, share.rows]
        np.testing.assert_allclose(own, expected, rtol=0, atol=1e-6)
        if share.rows == slice(0, stack.shape[2]):  # the same tiles
            np.testing.assert_array_equal(own, expected)
    join_predictions(files, tmp_path / "joined.h5", shape=stack.shape[1:], jobs=jobs)
    np.testing.assert_allclose(probability(tmp_path / "joined.h5"), whole, rtol=0, atol=1e-6)


def test_orientations_are_averaged_with_all_channels(tmp_path):
    """A stack that is turned as a whole has the turned result."""
    stack = some(1, 3, 40, 40)
    random_model(tmp_path / "seeing.pt", stack)
    write_dataset(tmp_path / "dataset.h5", stack)
    write_dataset(tmp_path / "turned.h5", np.rot90(stack, axes=(2, 3)))
    settings = {"average_orientations": True}
    found = predicted(tmp_path, "seeing.pt", "a.h5", **settings)
    turned = predicted(tmp_path, "seeing.pt", "b.h5", "turned.h5", **settings)
    np.testing.assert_allclose(turned, np.rot90(found, axes=(1, 2)), rtol=0, atol=1e-6)
    assert np.abs(turned - predicted(tmp_path, "seeing.pt", "c.h5", "turned.h5")).max() > 1e-3


def test_a_single_section_is_its_own_neighbour_and_the_log_says_so(tmp_path, caplog):
    stack = some(1, 3, 40, 33)
    random_model(tmp_path / "seeing.pt", stack)
    write_dataset(tmp_path / "single.h5", stack[:, :1])
    write_dataset(tmp_path / "same.h5", stack[:, [0, 0, 0]])
    write_dataset(tmp_path / "stack.h5", stack)
    with caplog.at_level(logging.INFO):
        found = predicted(tmp_path, "seeing.pt", "a.h5", "single.h5")
        assert (
            "volume single: a single section, but the network was trained with 1 section before"
            in (caplog.messages[0])
        )
        caplog.clear()
        same = predicted(tmp_path, "seeing.pt", "b.h5", "same.h5")
        assert "beyond the first and last, the stack is mirrored" in caplog.messages[0]
    np.testing.assert_array_equal(found[0], same[1])
    assert np.abs(found[0] - predicted(tmp_path, "seeing.pt", "c.h5", "stack.h5")[0]).max() > 1e-3


# ---------------------------------------------------------------------------------- patches


GEOMETRY = UNetPlan(depth=1).geometry
TILE = GEOMETRY.input_size(20)
SLOPE = np.array([3.0, 1.0])  # of the gray levels along rows and columns


def patches(stacks, augmentation, context=1):
    """Return patches whose weights are the gray levels of the first channel."""
    zeros = [np.zeros(s.shape[1:], np.uint8) for s in stacks]
    truths = [PixelTruth(z, z, s[0]) for s, z in zip(stacks, zeros, strict=True)]
    volumes = [Volume(with_neighbours(s, context), t) for s, t in zip(stacks, truths, strict=True)]
    return Patches(volumes, measure("none", stacks), GEOMETRY.context, TILE, augmentation, seed=0)


def ramp(sections, size):
    """Return sections with the same slope of the gray levels; bilinear interpolation is exact in them."""
    y, x = np.mgrid[:size, :size]
    plane = SLOPE[0] * y + SLOPE[1] * x
    return np.repeat(plane[None, None], sections, axis=1).astype(np.float32)


def test_patches_have_the_neighbours_of_their_section_as_channels():
    """Gray levels are 10 z + channel."""
    stack = np.stack([np.arange(5) * 10 + c for c in range(2)]).astype(np.float32)
    stack = np.broadcast_to(stack[..., None, None], (2, 5, 40, 40))
    source = patches([stack], STILL, context=2)
    shown = padded(np.arange(5).reshape(1, 5, 1, 1), 2).ravel()
    middles = set()
    for number in range(30):
        image = source.move(source.read(number), CPU).image[0]
        assert image.shape == (10, TILE, TILE)
        z = round(float(image[4, 0, 0])) // 10
        expected = [10 * shown[z + k] + c for k in range(5) for c in range(2)]
        np.testing.assert_allclose(image, np.ones_like(image) * np.array(expected)[:, None, None], atol=1e-3)
        middles.add(z)
    assert middles == {*range(5)}


@pytest.mark.parametrize("context", [1, 2])
def test_jitter_shifts_each_neighbour_and_neither_the_middle_nor_its_truth(context):
    """In a ramp, a shift adds the same gray level to each pixel of a section."""
    stack = ramp(5, 300)
    augmentation = replace(STILL, rotate=True, mirror=True, elastic_std=2, interpolation="bilinear")
    still = patches([stack], augmentation, context)
    moving = patches([stack], replace(augmentation, section_jitter=6.0), context)
    count, sections, drawn = 0, 2 * context + 1, []
    for number in range(60):
        before, after = still.read(number), moving.read(number)
        for name in ("matrix", "nodes", "gain", "offset", "gamma", "noise"):
            assert np.array_equal(getattr(before.transform, name), getattr(after.transform, name))
        assert before.seed == after.seed and before.transform.shifts is None
        shifts = after.transform.shifts
        drawn.append(shifts)
        assert shifts.shape == (sections, 2) and (shifts[context] == 0).all()
        if not after.image.shape[1] == after.image.shape[2] == 2 * round(after.centre[0]) + 1:
            continue  # at an edge of the section, where the ramp is mirrored
        count += 1
        (image_before, truth_before), (image, truth) = still.move(before, CPU), moving.move(after, CPU)
        # the truth is that of the nearest pixel, which rounding may change where two are as near
        assert (truth != truth_before).float().mean() < 0.01
        assert torch.equal(image_before, image_before[:, :1].expand_as(image_before))  # sections are equal
        for section, shift in zip(image[0], shifts, strict=True):
            np.testing.assert_allclose(section, image_before[0, 0] + SLOPE @ shift, atol=1e-2)
        assert torch.equal(moving.move(moving.read(number), CPU).image, image)
    assert count > 20
    neighbours = np.delete(np.array(drawn), context, axis=1)
    assert neighbours.std() == pytest.approx(6, rel=0.1) and abs(neighbours.mean()) < 1
    assert np.abs(np.corrcoef(neighbours.reshape(60, -1).T) - np.eye(4 * context)).max() < 0.5


def test_jitter_changes_no_patch_of_a_network_that_sees_single_sections():
    rng = [np.random.default_rng(0) for _ in range(2)]
    plain, jittered = draw(STILL, rng[0]), draw(replace(STILL, section_jitter=5.0), rng[1])
    assert plain.shifts is None and jittered.shifts is None
    assert rng[0].random() == rng[1].random()


# ---------------------------------------------------------------------------------- plans


def test_input_channels_follow_from_images_and_neighbours():
    plan = networks.plan("unet", image_channels=2, context_sections=1)
    assert (plan.input_channels, plan.image_channels, plan.context_sections) == (6, 2, 1)
    assert networks.plan("unet", **plan.arguments()) == plan
    assert networks.plan("unet").arguments().keys() == plan.arguments().keys() - {"context_sections"}
    assert UNetPlan(input_channels=3).image_channels == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context_sections": 11}, r"context_sections: found 11, expected .* at most 10"),
        ({"context_sections": True}, r"context_sections: found True"),
        ({"context_sections": "1"}, r"context_sections: found '1'"),
        ({"context_sections": 1, "input_channels": 4}, r"input_channels: found 4, expected a multiple of 3"),
    ],
)
def test_impossible_numbers_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        networks.plan("unet", **arguments)


def test_single_sections_have_no_neighbours_to_learn_from():
    plan = networks.plan("unet", context_sections=1)
    plan.require_neighbours([1, 2])
    networks.plan("unet").require_neighbours([1, 1])
    with pytest.raises(InputError, match=r"context_sections: found 1, but each training volume has a single"):
        plan.require_neighbours([1, 1])


def test_the_dry_run_names_what_takes_the_place_of_neighbours():
    rows = {
        name: Row(name, "a.tif", None, sections, "train")
        for name, sections in (("a", ""), ("b", "5-9,0-4"), ("c", "0-3,5,8-9"), ("d", "2"), ("e", "3"))
    }
    shapes = {"a": (4, 9, 9), "b": (10, 9, 9), "c": (7, 9, 9), "d": (1, 9, 9), "e": (1, 9, 9)}
    plan = networks.plan("unet", context_sections=1)
    assert study.neighbours_note(plan, rows, shapes) == (
        "context_sections: unet sees 1 section before and after each. d and 1 more volumes have a single "
        "section, which takes the place of its neighbours. Sections that are not adjacent in the file are "
        "taken for neighbours: 3 and 5 of c and 1 more pairs."
    )
    assert study.neighbours_note(networks.plan("unet"), rows, shapes) == ""
    stacks = {name: rows[name] for name in "ab"}
    assert study.neighbours_note(plan, stacks, {name: shapes[name] for name in "ab"}) == ""


# ---------------------------------------------------------------------------------- transfer


def built(seed, channels=1, context=0):
    torch.manual_seed(seed)
    plan = networks.plan("unet", **SMALL, image_channels=channels, context_sections=context)
    return plan.build().double().eval()


def outputs(network, *sections):
    with torch.no_grad():
        return network(torch.cat(sections)[None])


# (channels, neighbours) of the source and the target; which sections the source sees instead of -2 ... 2
STARTS = [
    ((1, 0), (1, 1), [0]),
    ((2, 0), (2, 2), [0]),
    ((1, 1), (1, 2), [-1, 0, 1]),
    ((1, 1), (1, 0), [0, 0, 0]),
    ((2, 2), (2, 1), [-1, -1, 0, 1, 1]),
]


@pytest.mark.parametrize(("before", "after", "seen"), STARTS)
def test_the_first_layer_keeps_its_kernels_for_the_sections_that_both_networks_see(before, after, seen):
    source, target = built(0, *before), built(1, *after)
    found = transfer.match(source.plan, target.plan)
    transfer.transfer(found, source, target)
    assert found.sections == ["down.0.0"] and not found.initialised and not found.summed
    assert found.summary()["sections"] == ["down.0.0"] and "down.0.0" not in found.summary()["copied"]
    rng = torch.Generator().manual_seed(2)
    stack = {z: torch.rand(after[0], 40, 40, generator=rng, dtype=torch.double) for z in range(-2, 3)}
    there = [stack[z] for z in range(-after[1], after[1] + 1)]
    expected = outputs(source, *(stack[z] for z in seen))
    torch.testing.assert_close(outputs(target, *there), expected, rtol=0, atol=1e-12)


def test_kernels_of_colours_are_summed_for_the_section_in_the_middle():
    source, target = built(0, channels=3), built(1, context=1)
    found = transfer.match(source.plan, target.plan)
    transfer.transfer(found, source, target)
    assert found.sections == ["down.0.0"] and not found.initialised
    a, b, c = torch.rand(3, 1, 40, 40, dtype=torch.double)
    torch.testing.assert_close(outputs(target, a, b, c), outputs(source, b, b, b), rtol=0, atol=1e-12)


def test_sections_are_not_taken_for_colours():
    """Both first layers have three channels."""
    found = transfer.match(built(0, context=1).plan, built(1, channels=3).plan)
    assert found.initialised == ["down.0.0"] and not found.sections and not found.summed


def test_the_normalisation_is_kept_if_images_have_the_same_channels():
    plain, seeing, colours = built(0).plan, built(0, context=1).plan, built(0, channels=3).plan
    assert transfer.keeps_normalisation(plain, seeing) and transfer.keeps_normalisation(seeing, plain)
    assert not transfer.keeps_normalisation(seeing, colours)
    with pytest.raises(InputError, match=r"trained on 1 channels, and these images have 3"):
        transfer.keeps_normalisation(seeing, colours, True)


# ---------------------------------------------------------------------------------- training and detectors


def test_a_network_learns_what_only_its_neighbours_show(tmp_path):
    """Each of two sections shows the cells of the other."""
    for seed, name in enumerate(("train", "validation")):
        path = write_dataset_of_squares(tmp_path / f"{name}.h5", seed, sections=2)
        with h5py.File(path, "a") as file:
            for array in (file["raw"], file["labels"], file["separation_border"]):  # other places in each
                array[..., 1, :, :] = np.roll(array[..., 1, :, :], (4, 4), (-2, -1))
            file["raw"][:] = file["raw"][:][:, ::-1]
    measure_statistics([tmp_path / "train.h5"], tmp_path / "statistics.json")
    for name in ("train", "validation"):
        weights = tmp_path / f"{name}_weights.h5"
        build_weight_map(tmp_path / f"{name}.h5", tmp_path / "statistics.json", weights, w0=0)
    splits = [[tmp_path / f"{name}{end}.h5"] for name in ("train", "validation") for end in ("", "_weights")]
    losses = {}
    for context in (0, 1):
        network = {
            "name": "unet",
            "depth": 1,
            "base_channels": 6,
            "dropout": 0.0,
            "context_sections": context,
        }
        run_training(
            [*splits, tmp_path / "statistics.json"],
            tmp_path / f"{context}",
            network,
            iterations=200,
            validation_interval=100,
        )
        losses[context] = pd.read_csv(tmp_path / f"{context}/history.csv").validation_loss.min()
        assert Model.load(tmp_path / f"{context}/model.pt").plan.context_sections == context
    assert losses[1] < 0.4 * losses[0]


def test_a_training_on_single_sections_is_refused(tmp_path):
    path = write_dataset_of_squares(tmp_path / "one.h5", 0, sections=1)
    measure_statistics([path], tmp_path / "statistics.json")
    build_weight_map(path, tmp_path / "statistics.json", tmp_path / "weights.h5")
    inputs = [[path], [tmp_path / "weights.h5"]] * 2 + [tmp_path / "statistics.json"]
    network = {"name": "unet", **SMALL, "context_sections": 1}
    with pytest.raises(InputError, match=r"each training volume has a single section"):
        run_training(inputs, tmp_path, network)


def test_the_speed_of_a_training_is_measured_with_all_channels(monkeypatch):
    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=counter.get_total_flops))
        training = {"tile": 32, "device": "cpu", "precision": "float32"}
        found = speed.measure_speed(
            SMALL | {"context_sections": 1}, training, {"section_jitter": 2.0}, channels=2, seconds=0
        )
    with FlopCounterMode(display=False) as counter:
        networks.plan("unet", **SMALL, input_channels=6).build()(torch.zeros(1, 6, 32, 32)).sum().backward()
    assert found == counter.get_total_flops()


SSD = {"channels": [3, 4, 4], "convolutions": 1, "heads": 2, "sizes": [8, 16], "masks": True}


def test_a_detector_finds_boxes_and_masks_in_the_section_that_it_looks_at(tmp_path):
    stack = some(1, 3, 90, 70)
    write_dataset(tmp_path / "dataset.h5", stack)
    torch.manual_seed(0)
    plain = networks.plan("ssd", **SSD).build()
    seeing = networks.plan("ssd", **SSD, context_sections=1).build()
    state = plain.state_dict()
    kernel = torch.zeros_like(seeing.levels[0][0].weight)
    kernel[:, 2] = state["levels.0.0.weight"][:, 0]  # the section after the one in the middle
    seeing.load_state_dict(state | {"levels.0.0.weight": kernel})
    found = {}
    for name, network in (("plain", plain), ("seeing", seeing)):
        model = tmp_path / f"{name}.pt"
        Model(network.plan, network, measure("mean_std", [stack]), task="detection").save(model)
        predict(tmp_path / "dataset.h5", model, tmp_path / f"{name}.h5", precision="float32", device="cpu")
        boxes = tmp_path / f"{name}_boxes.h5"
        detect([tmp_path / f"{name}.h5"], boxes, shape=stack.shape[1:])
        if name == "plain":
            with h5py.File(boxes) as file:
                threshold = float(np.sort(file["box_score"][:])[-60])
            write_json(tmp_path / "score.json", {"threshold": round(threshold, 3)})
        labels = tmp_path / f"{name}_labels.h5"
        settings = {"precision": "float32", "device": "cpu"}
        predict_masks(tmp_path / "dataset.h5", model, boxes, tmp_path / "score.json", labels, **settings)
        with h5py.File(labels) as file:
            found[name] = file["labels"][:]
    assert all((section > 0).any() for section in found["plain"])
    for z, shown in enumerate((1, 2, 1)):
        numbers, expected = found["seeing"][z], found["plain"][shown]
        assert np.array_equal(numbers > 0, expected > 0)
        pairs = np.unique(np.stack([numbers, expected])[:, numbers > 0], axis=1).shape[1]
        assert pairs == len(np.unique(numbers)) - 1 == len(np.unique(expected)) - 1
    assert not np.array_equal(found["plain"][0] > 0, found["plain"][1] > 0)


def test_patches_of_a_detector_have_neighbours_that_jitter():
    """In a ramp, as above. The boxes to learn stay where they are."""
    stack = ramp(3, 300)
    boxes = np.array([[y, x, y + 12.0, x + 10] for y in range(10, 280, 30) for x in range(10, 280, 30)])
    kinds = {"kind": np.ones(len(boxes), np.uint8), "state": np.zeros(len(boxes), np.uint8)}
    truth = BoxTruth((3, 300, 300), boxes, np.ones(len(boxes), np.int64), *kinds.values(), 1)
    plan = networks.plan("ssd", **SSD | {"masks": False}, context_sections=1)
    plain = BoxAugmentation(gain=0, offset=0, gamma=0, noise=0, interpolation="bilinear")
    still, moving = (
        tasks.load("detection").patches(
            plan,
            [Volume(with_neighbours(stack, 1), truth)],
            measure("none", [stack]),
            plan.geometry.context,
            plan.geometry.input_size(40),
            augmentation,
            0,
        )
        for augmentation in (plain, replace(plain, section_jitter=6.0))
    )
    count = 0
    for number in range(30):
        before, after = still.move(still.read(number), CPU), moving.move(moving.read(number), CPU)
        assert torch.equal(before.truth, after.truth) and after.image.shape[1] == 3
        region = moving.read(number)
        if region.image.shape[1:] != (2 * (region.image.shape[1] // 2) + 1,) * 2:
            continue
        if not np.allclose(region.centre, region.image.shape[1] // 2, atol=1):
            continue  # at an edge of the section, where the ramp is mirrored
        count += 1
        for section, shift in zip(after.image[0], region.transform.shifts, strict=True):
            np.testing.assert_allclose(section, before.image[0, 1] + SLOPE @ shift, atol=1e-2)
    assert count > 5


# ---------------------------------------------------------------------------------- runs


STACK = CONFIG | {
    "drawing": CONFIG["drawing"] | {"sections": 6},
    "network": CONFIG["network"] | {"context_sections": 1},
    "augmentation": {"section_jitter": 1.5},
}
TABLE = """volume\timages\tannotation\tsections\tsplit
learn\timages.tif\tlabels.tif\t0-1\ttrain
choose\timages.tif\tlabels.tif\t2\tvalidation
score\timages.tif\tlabels.tif\t3\ttest
new\timages.tif\t\t3-5\tpredict
"""


@pytest.mark.slow
def test_a_run_with_neighbours_and_its_model_on_new_stacks(tmp_path, capfd):
    answer = snakemake(tmp_path, *write(tmp_path, STACK, TABLE))
    assert answer.returncode == 0, answer.stderr
    assert (
        "context_sections: unet sees 1 section before and after each. choose and 1 more volumes have"
        in answer.stderr
    )
    results = tmp_path / "results"
    model = Model.load(results / "model.pt")
    assert (model.plan.input_channels, model.plan.context_sections) == (3, 1)
    stack = tifffile.imread(results / "drawn/images.tif")[3:]
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    tifffile.imwrite(tmp_path / "single.tif", stack[1], photometric="minisblack")
    images = [str(tmp_path / f"{name}.tif") for name in ("stack", "single")]
    words = ["predict", str(results / "model.pt"), *images, "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(words) == 0
    assert "single: a single section, but the network was trained with 1 section" in capfd.readouterr().err
    found, alone = (
        tifffile.imread(tmp_path / f"out/{name}_cell_probability.tif") for name in ("stack", "single")
    )
    expected = tifffile.imread(results / "segmentation/new_cell_probability.tif")
    np.testing.assert_array_equal(found, expected)
    assert np.abs(alone.squeeze() - found[1]).max() > 1e-4

    apply = {"volumes": "volumes.tsv", "data_dir": ".", "model": "results/model.pt", "results": "applied"}
    rows = "volume\timages\tannotation\tsections\tsplit\na\tstack.tif\t\t0,2\tpredict\n"
    answer = snakemake(tmp_path, "-n", *write(tmp_path, apply, rows))
    assert answer.returncode == 0, answer.stderr
    assert "not adjacent in the file are taken for neighbours: 0 and 2 of a." in answer.stderr


def test_variants_of_a_study_can_see_neighbours(tmp_path):
    seeing = {"network": {"context_sections": 1}, "augmentation": {"section_jitter": 2}}
    config = CONFIG | {"study": {"variants": {"alone": {}, "seeing": seeing}, "minutes": 1}}
    answer = snakemake(tmp_path, "-n", *write(tmp_path, config))
    assert answer.returncode == 0, answer.stderr
    assert "seeing: context_sections: unet sees 1 section before and after each." in answer.stderr
    models = study.models(study.variants(config), [(["learn"], ["choose"])], 2)
    assert [model.plan.input_channels for model in models.values()] == [2, 6]
    assert models["seeing"].step["channels"] == 2
    answer = snakemake(tmp_path, "-n", *write(tmp_path, config | {"augmentation": {"section_jitter": 2}}))
    assert answer.returncode == 1
    assert "study.variants.alone: config key `augmentation.section_jitter`: found 2, but" in answer.stderr
    answer = snakemake(tmp_path, "-n", *write(tmp_path, STACK, TABLE.replace("0-1\ttrain", "0\ttrain")))
    assert answer.returncode == 1
    assert "error: network.context_sections: found 1, but each training volume has a single" in answer.stderr
