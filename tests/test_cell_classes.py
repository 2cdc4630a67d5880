"""Instances of several classes and of cells with a border: whole, by blocks, by parts and by brute force."""

import json

import numpy as np
import pytest
from scipy import ndimage

from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import border_halo, separation_border
from pipeline_lib.imageio.regions import BORDER, REACH, grow
from pipeline_lib.instances.classes import CellClasses
from pipeline_lib.instances.postprocessing import PostProcessing, give_back, instances
from pipeline_lib.kernels.blocks import parts
from pipeline_lib.stages.dataset import build_dataset
from pipeline_lib.stages.joining import join_labels, join_predictions
from pipeline_lib.stages.measurement import measure_volume
from pipeline_lib.stages.postprocessing import choose_postprocessing
from pipeline_lib.stages.segmentation import label_part, number_parts, relabel_part, segment
from pipeline_lib.tasks.segmentation.classes import Classes

NAMES, CELLS = ("background", "glia", "cell", "border"), ("glia", "cell")


def write_prediction(path, probability, names=NAMES, cells=CELLS):
    with layout.create(path, {}) as file:
        numbers = [names.index(name) for name in cells]
        layout.add(file, layout.CELL_PROBABILITY, probability.shape[1:])[:] = probability[numbers].sum(0)
        stored = layout.add(file, layout.CLASS_PROBABILITY, probability.shape)
        stored[:] = probability
        layout.write_classes(stored, names, cells)
    return path


def write_postprocessing(path, threshold, minimum_size, border_reach):
    names = ("threshold", "minimum_size", "border_reach")
    path.write_text(json.dumps(dict(zip(names, (threshold, minimum_size, border_reach), strict=True))))
    return path


def read_labels(path):
    with layout.require(path, layout.LABELS) as file:
        return file["labels"][:]


def brute_force(probability, threshold, minimum_size, reach):
    """Label one section pixel by pixel, and give the border back by walks from each pixel."""
    glia, cell, border = probability[1], probability[2], probability[3]
    inside = (glia + cell) > np.float32(threshold)
    is_border = ~inside & (border > probability[0])
    values = np.where(inside, np.where(glia >= cell, 1, 2), 0)
    labels, firsts = np.zeros(values.shape, int), {}
    for value in (1, 2):
        found, count = ndimage.label(values == value)
        for own in range(1, count + 1):
            where = found == own
            if where.sum() >= minimum_size:
                x, y = np.argwhere(where.T)[0]
                firsts[x, y] = where
    for number, first in enumerate(sorted(firsts), 1):
        labels[firsts[first]] = number
    result = labels.copy()
    for y, x in np.argwhere(is_border):
        ring, seen = {(y, x)}, {(y, x)}
        for _ in range(reach):  # all pixels that are one step further within the border
            around = {(a + i, b + j) for a, b in ring for i in (-1, 0, 1) for j in (-1, 0, 1)} - seen
            around = {at for at in around if 0 <= at[0] < values.shape[0] and 0 <= at[1] < values.shape[1]}
            seen |= around
            if near := {labels[at] for at in around} - {0}:
                result[y, x] = min(near)
                break
            ring = {at for at in around if is_border[at]}
    return result


def noisy(shape, seed=0):
    """Blurred noise, so that cells of both classes touch and borders of several widths lie between them."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.standard_normal(shape), (0, 3, 3)) for _ in NAMES]
    power = np.exp(12 * np.array(fields) / np.std(fields[0]) / 6)
    return (power / power.sum(0)).astype(np.float32)


def expected_labels(probability, *settings):
    found = [brute_force(probability[:, z], *settings) for z in range(probability.shape[1])]
    before = np.cumsum([0, *(own.max() for own in found)])
    return np.stack([np.where(own > 0, own + add, 0) for own, add in zip(found, before, strict=False)])


@pytest.mark.parametrize("reach", [0, 1, 3, 40])
def test_instances_of_classes_with_border_equal_brute_force(tmp_path, reach):
    probability = noisy((2, 300, 40))
    write_prediction(tmp_path / "p.h5", probability)
    postprocessing = write_postprocessing(tmp_path / "t.json", 0.6, 5, reach)
    expected = expected_labels(probability, 0.6, 5, reach)
    for z, own in enumerate(probability.swapaxes(0, 1)):
        classes = CellClasses(own[:, None], NAMES, CELLS)[0]
        found = instances(own[1] + own[2], PostProcessing(0.6, 5, reach), classes=classes)
        assert np.array_equal(found, brute_force(own, 0.6, 5, reach)), z
    for block in (7, 128, 2048):
        segment(tmp_path / "p.h5", postprocessing, tmp_path / "s.h5", block=block)
        assert np.array_equal(read_labels(tmp_path / "s.h5"), expected)
    # cells of different classes touch, and borders are wider than the reach
    touching = (expected[:, 1:] != expected[:, :-1]) & (expected[:, 1:] > 0) & (expected[:, :-1] > 0)
    assert touching.sum() > 20
    assert (expected_labels(probability, 0.6, 5, reach + 1) != expected).any() == (reach < 40)


@pytest.mark.parametrize("reach", [1, 40])
@pytest.mark.parametrize("jobs", [2, 4, 6])
def test_jobs_that_share_a_volume_make_the_same_instances(tmp_path, jobs, reach):
    probability = noisy((2, 300, 40), seed=1)
    write_prediction(tmp_path / "p.h5", probability)
    postprocessing = write_postprocessing(tmp_path / "t.json", 0.6, 5, reach)
    segment(tmp_path / "p.h5", postprocessing, tmp_path / "s.h5")
    shared = parts(probability.shape[1:], jobs)
    pieces, labels = ([tmp_path / f"{i}_{name}.h5" for i in range(len(shared))] for name in "ab")
    for part, path in zip(shared, pieces, strict=True):
        own = write_prediction(tmp_path / "part.h5", probability[:, part.sections, part.rows])
        label_part(own, postprocessing, path, block=32)
    shape = probability.shape[1:]
    number_parts(pieces, postprocessing, tmp_path / "n.h5", shape=shape, jobs=jobs)
    for piece, path in zip(pieces, labels, strict=True):
        relabel_part(piece, tmp_path / "n.h5", path, block=48)
    join_labels(labels, tmp_path / "joined.h5", shape=shape, jobs=jobs)
    assert np.array_equal(read_labels(tmp_path / "joined.h5"), read_labels(tmp_path / "s.h5"))
