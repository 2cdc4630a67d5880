"""Several classes of pixels: targets, weights, probabilities, class maps and scores."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import warm
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from pipeline_lib import layout, metrics, tasks
from pipeline_lib.cli import main
from pipeline_lib.data.labels import separation_border
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.instances.classes import ClassMap
from pipeline_lib.kernels.blocks import parts
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.joining import join_predictions
from pipeline_lib.stages.segmentation import write_tiffs
from pipeline_lib.stages.synthesis import draw_volume
from pipeline_lib.tasks.segmentation.classes import TWO, Classes
from pipeline_lib.tasks.segmentation.weights import class_weights, weight_map

VALUES = {"background": 0, "wall": 1, "core": [2, 3], "border": 4}
# two cores of the same class that touch a border, one core of two values, a wall, and ignored pixels
ANNOTATION = np.array(
    [
        [0, 0, 0, 0, 0, 0, 0, 0],
        [2, 2, 4, 2, 2, 0, 1, 1],
        [2, 2, 4, 2, 2, 0, 1, 1],
        [0, 0, 0, 0, 0, 0, 9, 9],
        [3, 3, 2, 2, 0, 0, 9, 9],
    ],
    np.uint8,
)


@given(
    st_numpy.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 3)),
    st_numpy.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 3)),
    st_numpy.arrays(bool, (2, 3, 4)),
)
def test_confusion_and_scores_equal_counting_pixel_by_pixel(truth, predicted, ignore):
    counts = [[0] * 4 for _ in range(4)]
    for i, j, ignored in zip(truth.flat, predicted.flat, ignore.flat, strict=True):
        counts[i][j] += not ignored
    found = metrics.class_confusion(truth, predicted, 4, ignore=ignore)
    assert found.tolist() == counts
    if ignore.all():
        return
    scores = metrics.class_scores(found, "abcd")
    pairs = [*zip(truth[~ignore], predicted[~ignore], strict=True)]
    ious, accuracies, weighted = [], [], 0.0
    for k, name in enumerate("abcd"):
        both = sum(i == j == k for i, j in pairs)
        either = sum(k in pair for pair in pairs)
        true, own = sum(i == k for i, _ in pairs), sum(j == k for _, j in pairs)
        assert scores[f"iou_{name}"] == pytest.approx(both / either if either else np.nan, nan_ok=True)
        dice = 2 * both / (true + own) if either else np.nan
        assert scores[f"dice_{name}"] == pytest.approx(dice, nan_ok=True)
        ious += [both / either] if either else []
        accuracies += [both / true] if true else []
        weighted += true * both / either if either else 0
    assert scores["mean_iou"] == pytest.approx(np.mean(ious))
    assert scores["mean_accuracy"] == pytest.approx(np.mean(accuracies))
    assert scores["frequency_weighted_iou"] == pytest.approx(weighted / len(pairs))
    assert scores["pixel_accuracy"] == pytest.approx(np.mean([i == j for i, j in pairs]))


@pytest.mark.parametrize("seed", range(3))
def test_scores_agree_with_scikit_learn(seed):
    learn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth, ignore = rng.integers(0, 4, (2, 30, 20)), rng.random((2, 30, 20)) < 0.2
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 3, truth.shape))
    pair = truth[~ignore], predicted[~ignore]
    found = metrics.class_confusion(truth, predicted, 4, ignore=ignore)
    assert np.array_equal(found, learn.confusion_matrix(*pair, labels=range(4)))
    scores = metrics.class_scores(found, "abcd")
    for name, score in (("iou", learn.jaccard_score), ("dice", learn.f1_score)):
        of_classes = score(*pair, labels=range(4), average=None)
        assert [scores[f"{name}_{own}"] for own in "abcd"] == pytest.approx(of_classes)
    assert scores["pixel_accuracy"] == pytest.approx(learn.accuracy_score(*pair))
    assert scores["mean_accuracy"] == pytest.approx(learn.balanced_accuracy_score(*pair))
    assert scores["mean_iou"] == pytest.approx(learn.jaccard_score(*pair, average="macro"))
    weighted = learn.jaccard_score(*pair, average="weighted")
    assert scores["frequency_weighted_iou"] == pytest.approx(weighted)


def test_evaluate_compares_class_maps_of_any_tool(tmp_path, capsys):
    truth = np.repeat(ANNOTATION, 4, 0).repeat(4, 1)
    predicted = np.roll(truth, 1, 1)
    predicted[predicted == 9] = 1
    files = [str(tmp_path / name) for name in ("truth.tif", "map.tif", "more.tif", "scores.csv")]
    for path, values in zip(files, (truth, predicted), strict=False):
        tifffile.imwrite(path, values)
    stated = ["background=0", "wall=1", "core=2,3", "border=4"]
    command = ["evaluate", *files[:2], "--annotation-kind", "classes", "--classes", *stated, "--ignore", "9"]
    assert main([*command, "--prediction", "classes", "--csv", files[3]]) == 0
    number = np.array([0, 1, 2, 2, 3])
    kept = truth != 9
    expected = metrics.class_confusion(number[truth * kept], number[predicted], 4, ignore=~kept)
    names = ["background", "wall", "core", "border"]
    stored = pd.read_csv(files[3]).set_index("metric").value
    assert [[stored[f"confusion_{true}_{own}"] for own in names] for true in names] == expected.tolist()
    printed = capsys.readouterr().out
    scores = metrics.class_scores(expected, names)
    assert f"frequency-weighted IoU  {scores['frequency_weighted_iou']:.4f}" in printed
    shares = " +".join(f"{100 * share:.1f}" for share in expected[2] / expected[2].sum())
    assert re.search(rf"core +{shares} +{scores['iou_core']:.4f} +{scores['dice_core']:.4f}", printed)
    # several maps: their pixels are counted together
    tifffile.imwrite(files[2], predicted)
    assert main([*command[:3], files[2], *command[3:], "--prediction", "classes"]) == 0
    assert f"frequency-weighted IoU  {scores['frequency_weighted_iou']:.4f}" in capsys.readouterr().out
    # a map of other values is scored as cells
    tifffile.imwrite(files[2], np.where(truth == 2, 7, 0).astype(np.uint8))
    assert main(["evaluate", files[0], files[2], *command[3:], "--prediction", "classes"]) == 0
    assert "Classes" not in capsys.readouterr().out


def test_a_value_that_is_no_class_is_refused():
    with pytest.raises(InputError, match="predicted: found values from 0 to 3, expected classes from 0 to 2"):
        metrics.class_confusion(np.zeros((1, 2), int), np.array([[0, 3]]), 3)
    with pytest.raises(InputError, match=r"predicted has dtype float64, expected the number of a class"):
        metrics.class_confusion(np.zeros((1, 2), int), np.array([[0.9, 0.2]]), 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "classes"}, "`dataset.classes` is missing"),
        ({"target": "classes", "classes": {"background": 0, "border": 1}}, "`dataset.classes` is missing"),
        (
            {"classes": VALUES, "instances": ["cor"]},
            "`dataset.instances`: found cor, expected some of wall, core",
        ),
        ({"instances": ["core"]}, "expected some of the names in `dataset.classes`, which is missing"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Classes.chosen(settings)


def test_the_settings_choose_names_and_cells():
    assert Classes.chosen({"classes": VALUES}) == Classes.chosen({"target": "cells"}) == TWO
    assert not TWO.several
    assert Classes.chosen({"target": "cell_border"}) == Classes(("background", "cell", "border"), ("cell",))
    of_annotation = {"target": "classes", "classes": VALUES}
    chosen = Classes.chosen(of_annotation | {"instances": ["core"]})
    assert chosen == Classes(("background", "wall", "core", "border"), ("core",))
    assert chosen.cell_numbers == [2] and chosen.several
    assert Classes.chosen(of_annotation).cells == ("wall", "core")
    probability = np.arange(8.0).reshape(4, 2)
    assert Classes.chosen(of_annotation).of_cells(probability).tolist() == [2 + 4, 3 + 5]


def test_a_model_with_other_classes_is_refused():
    dataset = {"target": "classes", "classes": VALUES, "instances": ["core"]}
    of_model = {"classes": ["background", "wall", "core", "border"], "cells": ["core"]}
    found, chosen = Classes.of_model("m.pt", of_model, dataset), Classes.chosen(dataset)
    assert tuple(found.names) == tuple(chosen.names) and tuple(found.cells) == tuple(chosen.cells)
    assert Classes.of_model("m.pt", of_model, {"classes": {"background": 0, "nerve": 1}}).cells == ["core"]
    swapped = of_model | {"classes": ["background", "core", "wall", "border"]}
    found = "m.pt: found the classes background, core, wall, border, but `dataset.target`"
    with pytest.raises(InputError, match=f"{found} .* means background, wall, core, border"):
        Classes.of_model("m.pt", swapped, dataset)
    with pytest.raises(InputError, match=r"found the classes wall, core, but `dataset.instances`"):
        Classes.of_model("m.pt", of_model | {"cells": ["wall", "core"]}, dataset)
    with pytest.raises(InputError, match=r"found the classes background, cell, but `dataset.target`"):
        Classes.of_model("m.pt", {}, {"target": "cell_border"})


def build(folder, target, name="v", **settings):
    tifffile.imwrite(folder / "i.tif", np.arange(40, dtype=np.uint8).reshape(1, 5, 8))
    tifffile.imwrite(folder / "a.tif", ANNOTATION[None])
    settings = {"annotation_kind": "classes", "classes": VALUES, "ignore": 9} | settings
    path = folder / f"{name}.h5"
    build_dataset(folder / "i.tif", folder / "a.tif", path, target=target, **settings)
    return path


def test_the_target_has_the_classes_of_the_annotation(tmp_path):
    path = build(tmp_path, "classes", instances=["core"])
    with h5py.File(path) as file:
        labels, border, target = (file[name][0] for name in ("labels", "separation_border", "target"))
        assert layout.classes_of(file["target"]) == (["background", "wall", "core", "border"], ["core"])
    assert {*labels[1, :5]} == {labels[1, 0], labels[1, 4]}  # the border belongs to a core
    assert len(np.unique(labels)) == 4  # background and three cores
    assert not labels[:, 5:].any()  # the wall is no cell
    assert border[1:3].any()
    # pixels that separate cells are of the class border; of the background where that is no class
    expected = np.array(
        [
            [0, 0, 0, 0, 0, 0, 0, 0],
            [2, 2, 3, 2, 2, 0, 1, 1],
            [2, 2, 3, 2, 2, 0, 1, 1],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [2, 2, 2, 2, 0, 0, 0, 0],
        ]
    )
    expected[(border > 0) & (labels > 0)] = 3
    assert np.array_equal(target, expected)


def test_cells_with_border_are_three_classes(tmp_path):
    labels = np.array([[[1, 1, 1, 2, 2, 2, 0, 3], [1, 1, 1, 2, 2, 2, 0, 3]]], np.uint8)
    tifffile.imwrite(tmp_path / "i.tif", np.arange(16, dtype=np.uint8).reshape(1, 2, 8))
    tifffile.imwrite(tmp_path / "l.tif", labels)
    path = tmp_path / "v.h5"
    settings = {"annotation_kind": "instances", "target": "cell_border"}
    build_dataset(tmp_path / "i.tif", tmp_path / "l.tif", path, **settings)
    with h5py.File(path) as file:
        assert file["target"][0, 0].tolist() == [1, 1, 2, 2, 1, 1, 0, 1]
        assert np.array_equal(file["target"][:] == 2, file["separation_border"][:] > 0)
        assert np.array_equal(file["labels"][:], labels)
    with pytest.raises(InputError, match=r"`dataset.target: classes` needs an annotation of classes"):
        build_dataset(
            tmp_path / "i.tif",
            tmp_path / "l.tif",
            path,
            annotation_kind="instances",
            target="classes",
            classes=VALUES,
        )


def test_statistics_and_weights_follow_the_frequencies_of_the_classes(tmp_path):
    path = build(tmp_path, "classes", instances=["core"])
    measure_statistics([path], tmp_path / "s.json")
    statistics = json.loads((tmp_path / "s.json").read_text())
    with h5py.File(path) as file:
        labels, border, target, ignore = (
            file[name][0] for name in ("labels", "separation_border", "target", "ignore")
        )
    counts = np.array([np.count_nonzero((target == k) & (ignore == 0)) for k in range(4)])
    assert statistics["classes"] == ["background", "wall", "core", "border"]
    assert statistics["class_frequencies"] == pytest.approx(counts / counts.sum())
    build_weight_map(path, tmp_path / "s.json", tmp_path / "w.h5", w0=10, sigma=2)
    w_c = class_weights(counts / counts.sum())
    cells = np.where(border > 0, 0, labels)
    # the term of the gaps by brute force
    ys, xs = np.mgrid[:5, :8]
    distances = np.sort(
        [
            np.min([np.hypot(ys - y, xs - x) for y, x in np.argwhere(cells == n)], axis=0)
            for n in np.unique(cells[cells > 0])
        ],
        axis=0,
    )
    term = np.where(cells > 0, 0, 10 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * 2**2)))
    expected = np.where(ignore > 0, 0, w_c[target] + term)
    with h5py.File(tmp_path / "w.h5") as file:
        assert file["weight_map"][0] == pytest.approx(expected, rel=1e-6)


def test_a_class_without_pixels_and_different_names_are_refused(tmp_path):
    one = build(tmp_path, "classes", "one")
    other = build(tmp_path, "classes", "other", classes={"background": 0, "a": 1, "b": [2, 3], "border": 4})
    with pytest.raises(InputError, match=r"classes background, a, b, border, but .*one.h5 has"):
        measure_statistics([one, other], tmp_path / "s.json")
    missing = build(tmp_path, "classes", "missing", classes=VALUES | {"nerve": 7})
    with pytest.raises(InputError, match="no pixel is nerve"):
        measure_statistics([missing], tmp_path / "s.json")


def test_a_border_that_hardly_exists_is_refused_and_other_rare_classes_are_named(tmp_path, caplog):
    """One pixel of 40,000 would have the weight of thousands of others."""
    labels = np.zeros((1, 200, 200), np.uint16)
    labels[0, 10:50, 10:50], labels[0, 100:140, 100:140] = 1, 2
    tifffile.imwrite(tmp_path / "i.tif", labels.astype(np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    given = {"annotation_kind": "instances", "target": "cell_border"}
    build_dataset(tmp_path / "i.tif", tmp_path / "l.tif", tmp_path / "apart.h5", **given)
    with pytest.raises(
        InputError, match=r"only 0 of 40,000 px are border, because hardly any cells touch\. Use"
    ):
        measure_statistics([tmp_path / "apart.h5"], tmp_path / "s.json")
    labels[0, 150, 150:153] = 3
    tifffile.imwrite(tmp_path / "l.tif", labels, photometric="minisblack")
    given = {
        "annotation_kind": "classes",
        "target": "classes",
        "classes": {"background": 0, "a": 1, "b": 2, "rare": 3},
    }
    build_dataset(tmp_path / "i.tif", tmp_path / "l.tif", tmp_path / "rare.h5", **given)
    measure_statistics([tmp_path / "rare.h5"], tmp_path / "s.json")
    assert (
        "only 3 of 40,000 px are rare. With `weight_map.class_balance`, each of them counts 3,333"
        in caplog.text
    )


def test_two_classes_have_the_weights_that_they_had():
    rng = np.random.default_rng(0)
    cells = np.kron(rng.integers(0, 3, (8, 8)), np.ones((4, 4), int))
    assert np.array_equal(weight_map(cells, [2, 0.5], 10, 3), weight_map(cells, [2, 0.5], 10, 3, cells > 0))


def predict(folder, name, rows, probability):
    """Write a prediction of two tiles of `rows` through the task."""
    task = tasks.load("segmentation", ("background", "wall", "core"), ("wall", "core"))
    with layout.create(folder / name, {}) as file:
        target = task.create(file, (1, rows.stop - rows.start, 8))
        for left, right in ((0, 3), (3, 8)):
            output = torch.from_numpy(probability[:, rows, left:right])
            size = rows.stop - rows.start, right - left
            crop = tuple(slice(0, n) for n in size)
            write = slice(0, size[0]), slice(left, right)
            task.write(target, 0, Tile(read=write, write=write, crop=crop), output)
    return folder / name


def test_probabilities_of_all_classes_are_stored_and_joined_and_become_a_map(tmp_path):
    rng = np.random.default_rng(0)
    probability = rng.dirichlet(np.ones(3), (256, 8)).astype(np.float32).transpose(2, 0, 1)
    whole = predict(tmp_path, "whole.h5", slice(0, 256), probability)
    shares = parts((1, 256, 8), 2)
    files = [predict(tmp_path, f"{n}.h5", share.rows, probability) for n, share in enumerate(shares)]
    join_predictions(files, tmp_path / "joined.h5", shape=(1, 256, 8), jobs=2)
    for path in (whole, tmp_path / "joined.h5"):
        with h5py.File(path) as file:
            assert np.array_equal(file["class_probability"][:, 0], probability)
            assert file["cell_probability"][0] == pytest.approx(probability[1] + probability[2], abs=1e-7)
            assert layout.classes_of(file["class_probability"]) == (
                ["background", "wall", "core"],
                ["wall", "core"],
            )
            classes = ClassMap(file["class_probability"])
            assert np.array_equal(classes[0], probability.argmax(0))
            assert np.array_equal(classes[0, 3:9, 2:5], probability.argmax(0)[3:9, 2:5])
    with layout.create(tmp_path / "s.h5", {}) as file:
        layout.add(file, layout.LABELS, (1, 256, 8))
    names = [tmp_path / name for name in ("l.tif", "p.tif", "c.tif")]
    write_tiffs(tmp_path / "s.h5", tmp_path / "joined.h5", *names[:2], classes=names[2])
    written = tifffile.imread(names[2])
    assert written.dtype == np.uint8 and np.array_equal(written.reshape(256, 8), probability.argmax(0))


def test_the_border_of_an_annotation_is_that_of_the_library():
    labels = np.array([[1, 1, 2, 2]])
    three = Classes.chosen({"target": "cell_border"})
    assert three.target(labels, separation_border(labels, 2)).tolist() == [[1, 2, 2, 1]]
    assert TWO.target(labels, separation_border(labels, 2)).tolist() == [[1, 0, 0, 1]]


ORGANELLES = {"background": 0, "cell": 1, "mitochondrion": 2, "synapse": 3, "glia": 4}
TABLE = """volume\timages\tannotation\tsections\tsplit
learn\timages.tif\tclasses.tif\t0-1\ttrain
choose\timages.tif\tclasses.tif\t2\tvalidation
score\timages.tif\tclasses.tif\t3\ttest
new\timages.tif\t\t3\tpredict
"""
CONFIG = {
    "volumes": "volumes.tsv",
    "data_dir": ".",
    "dataset": {
        "annotation_kind": "classes",
        "classes": ORGANELLES,
        "ignore": 255,
        "target": "classes",
        "instances": ["mitochondrion"],
        "channels": 3,
    },
    "check": {"stop_above": 1},
    "network": {"depth": 1, "base_channels": 4},
    "training": {"tile": 80, "iterations": 4, "validation_interval": 4, "optimizer": "adam", "device": "cpu"},
    "prediction": {"device": "cpu"},
    "report": {"volumes": 1},
}


def snakemake(folder: Path, *arguments: str):
    where = ["--snakefile", Path(__file__).parents[1] / "Snakefile", "--cores", "2"]
    answer = warm.snakemake(*where, *arguments, folder=folder)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout + answer.stderr


@pytest.mark.slow
def test_the_workflow_with_five_classes_colour_images_and_ignored_pixels(tmp_path):
    """From RGB images and annotated organelles to class maps, scores and the report."""
    drawn = tmp_path / "gray.tif", tmp_path / "drawn.tif"
    draw_volume(*drawn, sections=4, size=128, organelles=True)
    gray, classes = map(tifffile.imread, drawn)
    tifffile.imwrite(tmp_path / "images.tif", np.stack([gray, 255 - gray, gray // 2], -1), photometric="rgb")
    classes = classes.astype(np.uint8)
    classes[:, :10] = 255
    tifffile.imwrite(tmp_path / "classes.tif", classes, photometric="minisblack")
    (tmp_path / "volumes.tsv").write_text(TABLE)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    snakemake(tmp_path, "--configfile", "my.yaml")
    results = tmp_path / "results"
    for name in ("choose", "score", "new"):
        found = tifffile.imread(results / f"segmentation/{name}_classes.tif")
        assert found.dtype == np.uint8 and found.max() < 5
    with h5py.File(results / "prediction/unet/score.h5") as file:
        probability = file["class_probability"][:, 0]
        [written] = tifffile.imread(results / "segmentation/score_classes.tif")
        assert np.array_equal(written, probability.argmax(0))
        assert np.array_equal(file["cell_probability"][0], probability[2])
        assert probability.sum(0) == pytest.approx(1, abs=1e-5)
    with h5py.File(results / "dataset/score.h5") as file:
        target, ignored = file["target"][0], file["ignore"][0] > 0
        assert ignored[:10].all() and not ignored[10:].any()
        apart = file["separation_border"][0] > 0
        assert np.array_equal(target[10:][~apart[10:]], classes[3, 10:][~apart[10:]])
        assert {*np.unique(file["labels"][0] > 0)} == {False, True}
        assert np.array_equal(file["labels"][0, 10:] > 0, classes[3, 10:] == 2)
    frequencies = json.loads((results / "statistics.json").read_text())["class_frequencies"]
    assert describe(results / "model.pt")["log_prior"] == pytest.approx(np.log(5 * np.array(frequencies)))
    scores = pd.read_csv(results / "scores.csv")
    of_test = scores[(scores.network == "unet") & (scores.volume == "score")].set_index("metric").value
    expected = np.zeros((5, 5))
    np.add.at(expected, (target[~ignored], probability.argmax(0)[~ignored]), 1)
    names = [*ORGANELLES]
    stored = [[of_test[f"confusion_{true}_{found}"] for found in names] for true in names]
    assert np.array_equal(stored, expected)
    assert of_test["pixel_accuracy"] == pytest.approx(np.trace(expected) / expected.sum())
    report = (results / "report.html").read_text()
    assert "2 mitochondrion" in report and "4 glia" in report
    # a run with the model has the same classes
    model = CONFIG | {"model": str(results / "model.pt"), "results": "again", "dataset": {"channels": 3}}
    for key in ("network", "training"):
        del model[key]
    (tmp_path / "apply.yaml").write_text(yaml.safe_dump(model))
    (tmp_path / "volumes.tsv").write_text(TABLE.splitlines()[0] + "\nnew\timages.tif\t\t3\tpredict\n")
    snakemake(tmp_path, "--configfile", "apply.yaml")
    assert np.array_equal(
        *(tifffile.imread(tmp_path / f"{name}/segmentation/new_classes.tif") for name in ("again", "results"))
    )


def test_the_jobs_that_share_a_volume_write_a_class_map(tmp_path):
    drawing = {"sections": 4, "size": 3000, "cell_diameter": 300, "organelles": True}
    shared = {key: value for key, value in CONFIG.items() if key not in ("data_dir", "dataset")}
    dataset = CONFIG["dataset"] | {"channels": 1}
    shared |= {"drawing": drawing, "dataset": dataset, "jobs_per_volume": 2}
    (tmp_path / "volumes.tsv").write_text(TABLE.replace("classes.tif", "labels.tif"))
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(shared))
    target = "results/segmentation/score_classes.tif"
    printed = snakemake(tmp_path, "-n", "--configfile", "my.yaml", "--", target)
    assert "write_joined_tiffs" in printed and "join_predictions" in printed


@pytest.mark.parametrize("wrong", [-1, 3])
def test_numbers_that_are_no_class_are_refused(wrong):
    right = np.array([[0, 1, 2, 1]])
    other = np.array([[0, 1, 2, wrong]])
    for pair in ((right, other), (other, right)):
        with pytest.raises(InputError, match=r"expected classes from 0 to 2"):
            metrics.class_confusion(*pair, classes=3)
