"""A mosaic of 2,048 x 2,048 px with 1,000 objects has the same detections to the bit, however it is shared.

The network is set by hand, and computes with multiples of powers of two that float32 holds exactly. So its
outputs have the same bits in tiles of any size, and any difference comes from a later step.
"""

import h5py
import numpy as np
import pytest
import torch

from pipeline_lib import layout, networks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.kernels.boxes import overlaps
from pipeline_lib.networks.model import Model
from pipeline_lib.stages.detection import detect
from pipeline_lib.stages.prediction import predict
from pipeline_lib.tasks.detection.found import AT_ONCE

SIDE, GRID, OBJECTS = 2048, 32, 1000
STEP = SIDE // GRID  # px between the centres of objects
PLAN = networks.plan("ssd", channels=[2, 2, 2, 2], convolutions=1, heads=2, sizes=[20, 28, 32, 40])
BRIGHT = 0.5  # gray level after normalisation that only objects have
ARRAYS = ("box_section", "boxes", "box_class", "box_score")


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Draw the mosaic, and write a model that finds boxes in bright pixels, at places of noise."""
    folder = tmp_path_factory.mktemp("mosaic")
    rng = np.random.default_rng(0)
    # an object near the middle of each square of a grid; many lie on borders of tiles
    squares = rng.permutation(GRID**2)[:OBJECTS]
    centres = (np.stack(np.divmod(squares, GRID), axis=1) + 0.5) * STEP + rng.integers(-10, 11, (OBJECTS, 2))
    raw = rng.integers(20, 108, (SIDE, SIDE))
    for (y, x), radius in zip(centres.astype(int), rng.uniform(10, 20, OBJECTS), strict=True):
        rows, columns = np.ogrid[-20:21, -20:21]
        disc = rows**2 + columns**2 < radius**2
        own = slice(max(y - 20, 0), y + 21), slice(max(x - 20, 0), x + 21)
        raw[own][disc[: raw[own].shape[0], : raw[own].shape[1]]] += 108
    with layout.create(folder / "mosaic.h5", {}) as file:
        layout.add(file, layout.RAW, (1, 1, SIDE, SIDE), np.uint8)[:] = raw
        layout.write_findings(file, {"gray": {"type": "uint8"}, "annotation": None})
    network = PLAN.build()
    with torch.no_grad():
        for level in network.levels:
            level[0].weight.zero_()
            level[0].bias.zero_()
            for channel in range(
                2
            ):  # the image, and the image moved by a pixel, both without negative values
                level[0].weight[channel, min(channel, level[0].weight.shape[1] - 1), 1, 1 + channel] = 1
        for head in network.heads:
            each = (-1, 6, 2, 3, 3)  # two logits and four offsets of each default box, of two features
            head.weight.copy_(torch.from_numpy(rng.integers(-8, 9, head.weight.shape) / 64))
            head.bias.zero_()
            weight, bias = head.weight.view(each), head.bias.view(each[:2])
            weight[:, 0] = 0
            weight[:, 1] = weight[:, 1] / 4
            weight[:, 1, 0, 1, 1] = 12
            bias[:, 1] = -12 * BRIGHT - 3
    of_gray = [np.full((1, 1, 1), value, np.float32) for value in (128, 64)]
    names = {"task": "detection", "classes": ("background", "cell"), "cells": ("cell",)}
    Model(PLAN, network, Normalisation("mean_std", "uint8", *of_gray), **names).save(folder / "model.pt")
    return folder


def found(folder, tag, tile, jobs=1):
    """Predict the mosaic and return the number of boxes of all tiles, and the detections."""
    parts = [folder / f"{tag}{number}.h5" for number in range(jobs)]
    settings = {"tile": tile, "jobs": jobs, "device": "cpu", "precision": "float32"}
    for number, path in enumerate(parts, 1):
        predict(folder / "mosaic.h5", folder / "model.pt", path, part=number, **settings)
    return sum(count(path) for path in parts), detected(folder, parts)


def count(path):
    with h5py.File(path) as file:
        return len(file["boxes"])


def detected(folder, parts):
    detect(parts, folder / "found.h5", shape=(1, SIDE, SIDE), jobs=len(parts))
    with h5py.File(folder / "found.h5") as file:
        return [file[name][:] for name in ARRAYS]


@pytest.fixture(scope="module")
def whole(folder):
    return found(folder, "whole", "auto")


def test_boxes_overlap_and_cross_the_borders_of_tiles(whole):
    boxes, (_, kept, _, scores) = whole
    assert boxes > 100_000 > 5 * OBJECTS
    assert 1.5 * len(kept) < boxes
    ends = kept // 248
    assert np.count_nonzero((ends[:, :2] != ends[:, 2:]).any(axis=1)) > 1000
    assert (np.diff(scores) <= 0).all()
    middle = kept[: 10 * OBJECTS]
    for start in range(0, len(middle), 2000):  # none of those that remain overlap
        shared = overlaps(middle[start : start + 2000], middle)
        assert np.count_nonzero(shared > 0.45) == len(shared)  # each with itself


@pytest.mark.parametrize(("tile", "jobs"), [(248, 1), (520, 3)])
def test_detections_have_the_same_bits_for_all_tiles_and_jobs(folder, whole, tile, jobs):
    tile = tile if tile == "auto" else PLAN.geometry.input_size(tile)
    boxes, detections = found(folder, f"{tile}_{jobs}_", tile, jobs)
    assert boxes == whole[0]
    for array, expected in zip(detections, whole[1], strict=True):
        np.testing.assert_array_equal(array, expected)


def test_detections_have_the_same_bits_however_many_boxes_are_read_at_a_time(folder, whole, monkeypatch):
    assert whole[0] > 3 * AT_ONCE
    monkeypatch.setattr("pipeline_lib.tasks.detection.found.AT_ONCE", 2**30)
    for array, own in zip(detected(folder, [folder / "whole0.h5"]), whole[1], strict=True):
        np.testing.assert_array_equal(array, own)
