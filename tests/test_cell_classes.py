"""Instances of cells with a border and of several classes: whole, by blocks, by parts and by brute force."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import separation_border
from pipeline_lib.imageio.regions import REACH, grow
from pipeline_lib.instances.classes import Border
from pipeline_lib.instances.postprocessing import PostProcessing, give_back, instances
from pipeline_lib.kernels.blocks import parts
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.dataset import build_dataset
from pipeline_lib.stages.joining import join_labels
from pipeline_lib.stages.measurement import measure_volume
from pipeline_lib.stages.postprocessing import choose_postprocessing
from pipeline_lib.stages.segmentation import label_part, number_parts, relabel_part, segment
from pipeline_lib.stages.synthesis import draw_section
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
    """Label the areas of one section, and give the border back by walks from each pixel."""
    background, glia, cell, border = probability
    inside = (glia + cell) > np.float32(threshold)
    is_border = ~inside & (border > background)
    labels, firsts = np.zeros(inside.shape, int), {}
    found, count = ndimage.label(inside)
    for own in range(1, count + 1):
        where = found == own
        if where.sum() >= minimum_size:
            firsts[tuple(np.argwhere(where.T)[0])] = where
    for number, first in enumerate(sorted(firsts), 1):
        labels[firsts[first]] = number
    result = labels.copy()
    for y, x in np.argwhere(is_border):
        ring, seen = {(y, x)}, {(y, x)}
        for _ in range(reach):  # all pixels that are one step further within the border
            around = {(a + i, b + j) for a, b in ring for i in (-1, 0, 1) for j in (-1, 0, 1)} - seen
            around = {at for at in around if 0 <= at[0] < inside.shape[0] and 0 <= at[1] < inside.shape[1]}
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
def test_instances_with_their_border_equal_brute_force(tmp_path, reach):
    probability = noisy((2, 300, 40))
    write_prediction(tmp_path / "p.h5", probability)
    postprocessing = write_postprocessing(tmp_path / "t.json", 0.6, 5, reach)
    expected = expected_labels(probability, 0.6, 5, reach)
    for z, own in enumerate(probability.swapaxes(0, 1)):
        border = Border(own[:, None], NAMES, CELLS)[0]
        found = instances(own[1] + own[2], PostProcessing(0.6, 5, reach), border=border)
        assert np.array_equal(found, brute_force(own, 0.6, 5, reach)), z
    for block in (7, 128, 2048):
        segment(tmp_path / "p.h5", postprocessing, tmp_path / "s.h5", block=block)
        assert np.array_equal(read_labels(tmp_path / "s.h5"), expected)
    # borders are wider than the reach
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


def test_touching_cells_of_two_classes_are_two_cells_with_their_class(tmp_path):
    annotation = np.zeros((1, 16, 24), np.uint8)
    annotation[0, 2:10, 2:10], annotation[0, 2:10, 10:18], annotation[0, 12:, 12:] = 1, 2, 2
    for name in "ia":
        tifffile.imwrite(tmp_path / f"{name}.tif", annotation)
    named = {"background": 0, "glia": 1, "cell": 2}
    build_dataset(
        *(tmp_path / name for name in ("i.tif", "a.tif", "d.h5")),
        annotation_kind="classes",
        classes=named,
        target="classes",
    )
    with h5py.File(tmp_path / "d.h5") as file:
        target = file["target"][:]
    probability = np.where(np.arange(3)[:, None, None, None] == target, 0.8, 0.1).astype(np.float32)
    probability[1:, 0, 12:, 12:17] = np.array([0.55, 0.35])[:, None, None]  # a part looks like glia
    prediction = write_prediction(tmp_path / "p.h5", probability, [*named])
    segment(prediction, write_postprocessing(tmp_path / "t.json", 0.5, 2, 0), tmp_path / "s.h5")
    for block in (2, 2048):
        measure_volume(tmp_path / "d.h5", prediction, tmp_path / "s.h5", tmp_path / "c.csv", block=block)
        cells = pd.read_csv(tmp_path / "c.csv")
        assert cells["area"].tolist() == [56, 56, 48]  # 8 px of each belong to the separation border
        assert cells["class"].tolist() == ["glia", "cell", "cell"]
    # of a single class there is no column
    one = write_prediction(tmp_path / "one.h5", probability, [*named], cells=("cell",))
    segment(one, tmp_path / "t.json", tmp_path / "s.h5")
    measure_volume(tmp_path / "d.h5", one, tmp_path / "s.h5", tmp_path / "c.csv")
    assert "class" not in pd.read_csv(tmp_path / "c.csv")
    # without cells there are columns
    empty = write_prediction(tmp_path / "empty.h5", probability * 0, [*named])
    segment(empty, tmp_path / "t.json", tmp_path / "s.h5")
    measure_volume(tmp_path / "d.h5", empty, tmp_path / "s.h5", tmp_path / "c.csv")
    assert pd.read_csv(tmp_path / "c.csv").columns.tolist() == cells.columns.tolist()


@pytest.fixture(scope="module")
def drawn():
    """Cells that touch each other, without membranes between them."""
    _, labels, _ = draw_section(
        192, cell_diameter=24, membrane_width=(0.1, 0.2), noise=0, rng=np.random.default_rng(0)
    )
    return labels


@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_perfect_class_map_gives_the_annotated_cells(drawn, width):
    classes = Classes.chosen({"target": "cell_border"})
    target = classes.target(drawn, separation_border(drawn, width))
    perfect = (np.arange(3)[:, None, None] == target).astype(np.float32)
    border = Border(perfect[:, None], classes.names, classes.cells)[0]

    def found(reach):
        return instances(perfect[1], PostProcessing(0.5, 0, reach), border=border)

    reach, cores = width // 2, found(0)
    cells = found(reach)
    assert metrics.seg(drawn, cores) < metrics.seg(drawn, cells) > {2: 0.98, 3: 0.9, 4: 0.85}[width]
    # cells have their outlines back, and no pixel of their neighbours
    given = (cells > 0) & (cores == 0)
    assert given.sum() > 0.9 * np.count_nonzero(target == 2) * reach / (width / 2)
    owner = np.zeros(cores.max() + 1, int)
    owner[cores] = drawn
    assert np.array_equal(owner[cells[given]], drawn[given])


DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them")
def test_the_ceiling_of_the_real_nuclei():
    """The figures of docs/howto/classes.md: SEG of a perfect map, without and with its border."""
    classes, whole, without = Classes.chosen({"target": "cell_border"}), [], []
    for path in sorted((DATA / "nuclei/labels").glob("*.tif")):
        labels = tifffile.imread(path).astype(np.uint32)
        target = classes.target(labels, separation_border(labels, 2))
        perfect = (np.arange(3)[:, None, None] == target).astype(np.float32)
        border = Border(perfect[:, None], classes.names, classes.cells)[0]
        for reach, found in ((0, without), (1, whole)):
            found.append(
                metrics.seg(labels, instances(perfect[1], PostProcessing(0.5, 0, reach), border=border))
            )
    assert (round(np.mean(without), 3), round(np.mean(whole), 3)) == (0.983, 0.998)


def test_the_reach_of_the_border_goes_from_the_dataset_to_the_segmentation(tmp_path, drawn):
    tifffile.imwrite(tmp_path / "i.tif", np.where(drawn, 200, 0)[None].astype(np.uint8))
    tifffile.imwrite(tmp_path / "l.tif", drawn[None])
    names, cells = ("background", "cell", "border"), ("cell",)
    for width, reach in ((4, 2), (3, 1), (2, 1)):
        settings = {"annotation_kind": "instances", "separation_border_width": width}
        build_dataset(
            tmp_path / "i.tif", tmp_path / "l.tif", tmp_path / "d.h5", target="cell_border", **settings
        )
        with h5py.File(tmp_path / "d.h5") as file:
            target = file["target"][:]
        perfect = (np.arange(3)[:, None, None, None] == target).astype(np.float32)
        write_prediction(tmp_path / "p.h5", perfect, names, cells)
        files = [tmp_path / "d.h5"], [tmp_path / "p.h5"]
        choose_postprocessing(*files, tmp_path / "t.json", criterion="seg")
        chosen = json.loads((tmp_path / "t.json").read_text())
        assert chosen["border_reach"] == reach
        segment(tmp_path / "p.h5", tmp_path / "t.json", tmp_path / "s.h5")
        found = read_labels(tmp_path / "s.h5")[0]
        assert metrics.seg(drawn, found) == pytest.approx(max(chosen["value"]))
        assert max(chosen["value"]) > 0.85
    # a baseline has no border
    with layout.create(tmp_path / "b.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, target.shape)[:] = target == 1
    choose_postprocessing([tmp_path / "d.h5"], [tmp_path / "b.h5"], tmp_path / "t.json")
    assert "border_reach" not in json.loads((tmp_path / "t.json").read_text())


def test_the_border_of_an_annotation_reaches_as_far_as_its_labels(tmp_path):
    annotation = np.zeros((1, 20, 60), np.uint8)
    annotation[0, 4:16, 3:50], annotation[0, 8:12, 6:20] = 3, 1
    tifffile.imwrite(tmp_path / "a.tif", annotation)
    tifffile.imwrite(tmp_path / "i.tif", annotation)
    build_dataset(
        tmp_path / "i.tif",
        tmp_path / "a.tif",
        tmp_path / "d.h5",
        annotation_kind="classes",
        classes={"background": 0, "cell": 1, "border": 3},
        target="classes",
    )
    with h5py.File(tmp_path / "d.h5") as file:
        assert layout.border_reach(file) == REACH == 32
        labels = file["labels"][0]
    assert labels.max() == 1 and labels[8, 49] and (labels > 0).sum() > 14 * 4


def test_growing_over_corners_counts_corners_as_steps():
    labels = np.zeros((3, 3), int)
    labels[0, 0] = 5
    border = labels == 0
    assert grow(labels, border, 1).tolist() == [[5, 5, 0], [5, 0, 0], [0, 0, 0]]
    assert give_back(labels, border, 1).tolist() == [[5, 5, 0], [5, 5, 0], [0, 0, 0]]


def test_a_border_of_jobs_that_share_a_section_reaches_128_px():
    assert PostProcessing(0.5, border_reach=128).border_reach == 128
    with pytest.raises(InputError, match=r"found 129, expected at most 128\. Lower `dataset\.separation_bo"):
        PostProcessing(0.5, border_reach=129)


def test_a_class_as_probable_as_the_border_is_no_border():
    probability = np.array([0.4, 0.2, 0.4, 0.3, 0.2, 0.5]).reshape(2, 3).T.reshape(3, 1, 1, 2)
    assert Border(probability, ["background", "cell", "border"], ["cell"])[0].tolist() == [[False, True]]


def test_the_reach_of_the_border_is_that_of_the_datasets_that_the_network_learned_from(tmp_path, drawn):
    tifffile.imwrite(tmp_path / "i.tif", np.where(drawn, 200, 0)[None].astype(np.uint8))
    tifffile.imwrite(tmp_path / "l.tif", drawn[None])
    settings = {"annotation_kind": "instances", "separation_border_width": 4}
    images = tmp_path / "i.tif", tmp_path / "l.tif"
    build_dataset(*images, tmp_path / "learned.h5", target="cell_border", **settings)
    build_dataset(*images, tmp_path / "scored.h5", annotation_kind="instances")
    with h5py.File(tmp_path / "learned.h5") as file:
        perfect = (np.arange(3)[:, None, None, None] == file["target"][:]).astype(np.float32)
    write_prediction(tmp_path / "p.h5", perfect, ("background", "cell", "border"), ("cell",))
    for targets, reach in (([], 0), ([tmp_path / "learned.h5"], 2)):
        choose_postprocessing(
            [tmp_path / "scored.h5"],
            [tmp_path / "p.h5"],
            tmp_path / "t.json",
            criterion="seg",
            targets=targets,
        )
        assert PostProcessing.read(tmp_path / "t.json").border_reach == reach
