"""Localisation: class and box of the only object of an image, the smallest case of detection."""

import dataclasses
import json

import h5py
import numpy as np
import pytest

from pipeline_lib import layout
from pipeline_lib.kernels.boxes import overlaps
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.boxes import choose_boxes
from pipeline_lib.stages.detection import choose_score, detect
from pipeline_lib.stages.prediction import predict
from pipeline_lib.stages.training import train
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.training.schedule import Settings
from tests.box_datasets import add_boxes

SECTIONS, SIDE = 80, 96
SHAPE = (SECTIONS, SIDE, SIDE)
NETWORK = {"name": "ssd", "channels": [8, 16, 16, 16], "convolutions": 2, "heads": 1, "sizes_per_level": 3}
KINDS = ("disc", "ring")


def draw(path, seed):
    """Write sections with one ellipse each, filled or hollow, at any place."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    labels, raw, kinds = np.zeros(SHAPE, np.uint32), np.zeros(SHAPE), []
    for z in range(SECTIONS):
        half = rng.uniform(10, 20, 2)
        centre = rng.uniform(half + 1, SIDE - 1 - half)
        distance = ((y - centre[0]) / half[0]) ** 2 + ((x - centre[1]) / half[1]) ** 2
        labels[z][distance < 1] = z + 1
        kinds.append(1 + z % 2)
        raw[z] = 60 + 110 * ((distance < 1) & ((distance > 0.5) | (z % 2 == 0)))
    raw += rng.normal(0, 10, SHAPE)
    with layout.create(path, {}) as file:
        layout.add(file, layout.RAW, (1, *SHAPE), np.uint8)[:] = raw.clip(0, 255)[None]
        layout.write_findings(file, {"gray": {"type": "uint8"}, "annotation": None})
        add_boxes(file, labels, kinds=kinds, cells=KINDS)


@pytest.mark.slow
def test_class_and_box_of_single_cells(tmp_path):
    for seed, name in enumerate(("train", "validation", "test")):
        draw(tmp_path / f"{name}.h5", seed)
    choose_boxes([tmp_path / "train.h5"], tmp_path / "boxes.json", network=NETWORK)
    ones = [[[100.0]]]
    normalisation = {"kind": "mean_std", "dtype": "uint8", "offset": ones, "scale": [[[50.0]]]}
    classes = {"classes": ["background", *KINDS], "cells": KINDS}
    write_json(tmp_path / "statistics.json", {"normalisation": normalisation, "pixel_size": None} | classes)
    settings = Settings(
        iterations=1000,
        validation_interval=500,
        warm_up=20,
        tile=188,
        batch=2,
        optimizer="adam",
        learning_rate=0.004,
        device="cpu",
        precision="float32",
        best_by="box_ap",
    )
    learned, held_out = [[tmp_path / f"{name}.h5"] for name in ("train", "validation")]
    train(
        learned,
        learned,
        held_out,
        held_out,
        tmp_path / "statistics.json",
        tmp_path / "model.pt",
        tmp_path / "history.csv",
        network=NETWORK,
        training=dataclasses.asdict(settings),
        augmentation=dataclasses.asdict(BoxAugmentation()),
        seed=0,
        boxes=tmp_path / "boxes.json",
    )
    for name in ("validation", "test"):
        predict(tmp_path / f"{name}.h5", tmp_path / "model.pt", tmp_path / f"{name}_p.h5", device="cpu")
        detect([tmp_path / f"{name}_p.h5"], tmp_path / f"{name}_found.h5", shape=SHAPE, one_per_section=True)
    choose_score(held_out, [tmp_path / "validation_found.h5"], tmp_path / "score.json", one_per_section=True)
    assert json.loads((tmp_path / "score.json").read_text())["threshold"] == 0
    with h5py.File(tmp_path / "test_found.h5") as found, h5py.File(tmp_path / "test.h5") as truth:
        assert found["box_section"][:].tolist() == [*range(SECTIONS)]
        assert found["box_class"][:].tolist() == truth["box_class"][:].tolist()
        iou = np.diag(overlaps(found["boxes"][:], truth["boxes"][:]))
    assert iou.mean() > 0.9
