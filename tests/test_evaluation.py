import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from pipeline_lib import imageio, layout, metrics, provenance
from pipeline_lib.cli import main
from pipeline_lib.data.labels import cells_apart, separation_border
from pipeline_lib.imageio import apart
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.memory import SCORING_BYTES_PER_PIXEL
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.scores import COLUMNS, SECTION_COLUMNS, read_scores
from pipeline_lib.stages import evaluation
from pipeline_lib.stages.evaluation import collect_scores, evaluate, score_files
from pipeline_lib.stages.segmentation import segment
from tests.box_datasets import add_boxes

COMPARED = (*metrics.INSTANCE_METRICS, *metrics.CELL_COUNTS)  # with the predicted labels
CALIBRATION = "brier_score|calibration_error|reliability_"  # the beginning of scores of calibration
OF_BOXES = "box_|boxes_|voc_|froc|count_"  # the beginning of scores of boxes


@pytest.fixture
def folder(tmp_path):
    """Two instances that share a side, and a prediction with a border between them."""
    labels = np.zeros((2, 24, 30), np.uint32)
    labels[:, 2:22, 2:15], labels[:, 2:22, 15:28] = 4, 9
    border = np.stack([separation_border(s, 2) for s in labels])
    rng = np.random.default_rng(0)
    probability = np.where((labels > 0) & ~border, 0.86, 0.1) + rng.uniform(-0.05, 0.05, labels.shape)
    write_case(tmp_path, labels, border, probability)
    return tmp_path


def write_case(folder, labels, border, probability):
    with layout.create(folder / "dataset.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = border
        add_boxes(file, labels)
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability


def scores(folder, threshold=0.55, minimum_size=0, segmentation=None, **settings):
    """The table that `evaluate` writes for `segmentation`, by default for the labels of `segment`."""
    settings = {"volume": "007", "split": "test", "network": "unet"} | settings
    write_json(folder / "unet.json", {"threshold": threshold, "minimum_size": minimum_size})
    if segmentation is None:
        segment(folder / "prediction.h5", folder / "unet.json", folder / "segmentation.h5")
    else:
        with layout.create(folder / "segmentation.h5", {}) as file:
            layout.add(file, layout.LABELS, segmentation.shape)[:] = segmentation
        provenance.record_path(folder / "segmentation.h5").unlink(missing_ok=True)
    evaluate(
        *(folder / name for name in ("dataset.h5", "prediction.h5", "segmentation.h5", "unet.json")),
        folder / "scores.csv",
        folder / "sections.csv",
        **settings,
    )
    return pd.read_csv(folder / "scores.csv", dtype={"volume": str}, float_precision="round_trip")


def test_the_table_has_the_thresholds_of_the_challenge_and_the_chosen_one(folder):
    table = scores(folder)
    assert list(table.columns) == COLUMNS
    assert not table.duplicated(["metric", "threshold"]).any()
    assert sorted(table.threshold.unique()) == pytest.approx(sorted([*metrics.CHALLENGE_THRESHOLDS, 0.55]))
    at = table[table.threshold == 0.55].set_index("metric").value
    for metric in ("pixel_error", "rand_error", "warping_error"):
        assert at[metric] == 0
    assert at["v_rand_thin"] > 0.9
    assert at["seg"] == at["iou"] == pytest.approx(24 / 26)  # each cell lost one column to the border
    assert table[table.threshold == 0].set_index("metric").value["rand_error"] > 0.3


@pytest.mark.parametrize("threshold", [0.55, metrics.CHALLENGE_THRESHOLDS[4]])
def test_instance_scores_at_the_chosen_threshold_use_the_stored_labels(folder, threshold):
    """Also if cells share a side or labels are large. No other score depends on the stored labels."""
    before = scores(folder, threshold)
    with layout.require(folder / "dataset.h5") as file:
        labels = file["labels"][:]
    found = np.where(labels > 0, labels + 4_000_000_000, 0).astype(np.uint32)
    found[:, 20:] = 0
    table = scores(folder, threshold, segmentation=found)
    of_boxes = table.metric.str.match(OF_BOXES)
    stored = (table.threshold == threshold) & table.metric.isin(COMPARED)
    assert stored.sum() == len(COMPARED)
    pd.testing.assert_frame_equal(table[~stored & ~of_boxes], before[~stored & ~of_boxes])
    at = table[stored].set_index("metric").value
    expected = metrics.instance_scores(labels, found)
    assert {name: at[name] for name in at.index} == {name: expected[name] for name in at.index}
    assert at["average_precision_50"] == 1 and (at != before[stored].set_index("metric").value).any()


@pytest.mark.parametrize("minimum_size", [0, 200])
def test_cells_across_ignored_pixels_are_whole_at_all_thresholds(tmp_path, minimum_size):
    labels = np.zeros((1, 24, 30), np.uint32)
    labels[0, 2:22, 2:14], labels[0, 2:22, 16:28] = 1, 2
    probability = np.where(labels > 0, 0.95, 0.05)
    ignore = np.zeros(labels.shape, np.uint8)
    ignore[0, 10:12] = 1  # each half of a cell is smaller than 200 px
    write_case(tmp_path, np.where(ignore, 0, labels), 0, probability)
    with h5py.File(tmp_path / "dataset.h5", "r+") as file:
        layout.add(file, layout.IGNORE, ignore.shape)[:] = ignore
    table = scores(tmp_path, minimum_size=minimum_size).set_index("metric")
    seg = table.loc["seg"]
    inside = seg.threshold.between(0.06, 0.94)
    assert inside.sum() == 10 and (seg.value[inside] == 1).all()
    assert (table.loc["cells_found"].value[inside.to_numpy()] == 2).all()


@pytest.mark.parametrize("minimum_size", [0, 6])
def test_scores_by_section_equal_scores_of_the_whole_stack(tmp_path, minimum_size):
    rng = np.random.default_rng(minimum_size)
    labels = rng.integers(0, 4, (4, 3, 4)).repeat(12, axis=1).repeat(10, axis=2).astype(np.uint32)
    border = np.stack([separation_border(s, 2) for s in labels])
    probability = np.where((labels > 0) & ~border, 0.75, 0.3) + rng.normal(0, 0.2, labels.shape)
    write_case(tmp_path, labels, border, probability.clip(0, 1).astype(np.float32))
    found = scores(tmp_path, minimum_size=minimum_size, threads=3)
    found = found[~found.metric.str.match(f"{OF_BOXES}|{CALIBRATION}")]
    found = found.set_index(["metric", "threshold"]).value

    with layout.require(tmp_path / "prediction.h5") as file:
        probability = file["cell_probability"][:]
    thresholds = sorted([*metrics.CHALLENGE_THRESHOLDS, 0.55])
    cells = np.stack([cells_apart(*section) for section in zip(labels, border, strict=True)])
    whole = metrics.isbi_scores(cells, probability, thresholds)
    assert len(found) == len(whole) + len(thresholds) * len(COMPARED) + 1
    assert found["constant_pixels"].to_dict() == {0.55: metrics.constant_pixels(cells, probability)}
    for metric, t, value in whole.itertuples(index=False):
        assert found[metric].iloc[thresholds.index(t)] == value
    for k, t in enumerate(thresholds):
        segments = np.stack([instances(section, PostProcessing(t, minimum_size)) for section in probability])
        expected = metrics.instance_scores(labels, segments)
        for metric in COMPARED:
            assert found[metric].iloc[k] == expected[metric], (metric, t)


def test_calibration_is_that_of_the_probability_map(folder, tmp_path):
    """Compared with the cells that the network learned, which may differ from those of the dataset."""
    with h5py.File(folder / "dataset.h5") as file:
        labels, border = file["labels"][:], file["separation_border"][:]
    with layout.require(folder / "prediction.h5") as file:
        probability = file["cell_probability"][:]
    with layout.create(tmp_path / "wide.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = labels == 1
    with layout.create(tmp_path / "classes.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = border
        target = layout.add(file, layout.TARGET, labels.shape)
        layout.write_classes(target, ["background", "a", "b", "c"], ["a", "c"])
        classes = np.random.default_rng(0).integers(0, 4, labels.shape)
        target[:] = classes
    for learned, cells in (
        (folder / "dataset.h5", (labels > 0) & (border == 0)),
        (tmp_path / "wide.h5", (labels > 0) & (labels != 1)),
        (tmp_path / "classes.h5", classes % 2),
    ):
        table = scores(folder, target=learned)
        found = table[table.metric.str.match(CALIBRATION)].set_index("metric").value
        expected = metrics.reliability(cells, probability)
        assert found.to_dict() == pytest.approx(expected.scores() | expected.to_rows(), rel=1e-12)


def test_memory_gb_limits_the_number_of_threads(folder, monkeypatch):
    used = []
    score = evaluation.isbi_scores_with_sections
    monkeypatch.setattr(
        evaluation,
        "isbi_scores_with_sections",
        lambda *a, workers, **k: used.append(workers) or score(*a, **k),
    )
    monkeypatch.setattr("pipeline_lib.memory.PROCESS_BYTES", 0)
    section = 24 * 30 * SCORING_BYTES_PER_PIXEL / 1e9
    scores(folder, threads=4, memory_gb=2.5 * section)
    scores(folder, threads=2)
    assert used == [2, 2]
    with pytest.raises(InputError, match="memory_gb"):
        scores(folder, memory_gb=0.9 * section)


def test_different_shapes_are_an_error(folder):
    with pytest.raises(InputError, match=r"segmentation\.h5: shape \(2, 20, 30\), but .* has \(2, 24, 30\)"):
        scores(folder, segmentation=np.zeros((2, 20, 30), np.uint32))
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, (2, 24, 31))
    with pytest.raises(InputError, match=r"prediction\.h5: shape \(2, 24, 31\), but .* has \(2, 24, 30\)"):
        scores(folder)


def test_tables_are_concatenated_without_loss_of_digits(folder):
    first = scores(folder)
    (folder / "scores.csv").rename(folder / "a.csv")
    scores(folder, volume="b", split="validation").to_csv(folder / "b.csv", index=False)
    collect_scores([folder / "a.csv", folder / "b.csv"], folder / "all.csv")
    joined = pd.read_csv(folder / "all.csv", dtype={"volume": str}, float_precision="round_trip")
    assert len(joined) == 2 * len(first) and set(joined.volume) == {"007", "b"}
    written = pd.read_csv(folder / "all.csv", float_precision="round_trip")
    assert set(metrics.CHALLENGE_THRESHOLDS) < set(written.threshold)  # all digits are kept
    pd.testing.assert_frame_equal(joined[joined.volume == "007"].reset_index(drop=True), first)


def test_a_table_of_another_version_is_an_error(folder):
    scores(folder)
    (folder / "old.csv").write_text("volume,metric,value\na,seg,1\n")
    with pytest.raises(InputError, match=r"old\.csv: columns volume,metric,value, expected volume,split,"):
        collect_scores([folder / "scores.csv", folder / "old.csv"], folder / "all.csv")
    assert not (folder / "all.csv").exists()


@pytest.fixture
def images(folder):
    """Truth and prediction of `folder` as TIFF files, as another tool would write them."""
    with layout.require(folder / "dataset.h5") as truth, layout.require(folder / "prediction.h5") as file:
        tifffile.imwrite(folder / "truth.tif", truth["labels"][:].astype(np.uint16), photometric="minisblack")
        imageio.write_probability(folder / "p.tif", file["cell_probability"])
    return folder / "truth.tif", folder / "p.tif"


def test_the_command_gives_the_scores_of_the_workflow(folder, images, capsys):
    assert main(["evaluate", *map(str, images), "--csv", str(folder / "out.csv")]) == 0
    found = pd.read_csv(folder / "out.csv").set_index(["metric", "threshold"]).value
    expected = scores(folder, metrics.CHALLENGE_THRESHOLDS[5])
    expected = expected[~expected.metric.str.match(f"constant_pixels|{CALIBRATION}|{OF_BOXES}")]
    expected = expected.set_index(["metric", "threshold"]).value
    pd.testing.assert_series_equal(found.sort_index(), expected.sort_index())
    printed = capsys.readouterr().out
    assert "truth.tif: 2 sections of 24 x 30 px" in printed
    assert "Instance scores at the threshold with the best SEG (0.2):" in printed


def test_the_command_reports_an_error_and_writes_nothing(folder, images, capsys):
    truth, _ = images
    tifffile.imwrite(folder / "small.tif", np.zeros((2, 24, 29), np.float32), photometric="minisblack")
    assert main(["evaluate", str(truth), str(folder / "small.tif"), "--csv", str(folder / "out.csv")]) == 1
    message = r"error: .*small\.tif: shape \(z, y, x\) \(2, 24, 29\), but .*truth\.tif"
    assert re.match(message, capsys.readouterr().err)
    assert not (folder / "out.csv").exists()


def drawn_labels(seed=0, shape=(2, 96, 96), number=40):
    """Return sections of cells around random points, with membranes between them."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int64)
    for section in labels:
        points = rng.uniform(0, shape[1:], (number, 2))
        y, x = np.indices(section.shape)
        distance = np.stack([np.hypot(y - a, x - b) for a, b in points])
        first, second = np.sort(distance, axis=0)[:2]
        section[...] = np.where(second - first > 3, distance.argmin(axis=0) + 1, 0)
    return labels


def blurred(labels, sigma=1.5):
    return ndimage.gaussian_filter((labels > 0).astype(float), (0, sigma, sigma))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda a: a.astype(np.uint8), "labels"),
        (lambda a: a.astype(np.uint16) * 100, "labels"),
        (lambda a: a * 2**40, "labels"),
        (lambda a: a.astype(np.float32), "labels"),
        (lambda a: np.round(blurred(a) * 255).astype(np.uint8), "probability"),
        (lambda a: np.round(blurred(a, 4) * 255).astype(np.uint8), "probability"),
        (lambda a: np.round(blurred(a) * 65535).astype(np.uint16), "probability"),
        (lambda a: np.random.default_rng(0).integers(0, 65536, a.shape, np.uint16), "probability"),
        (lambda a: np.round(blurred(a) * 255).astype(np.int64), "probability"),
        (lambda a: np.round(blurred(a) * 65535).astype(np.uint32), "probability"),
        (lambda a: blurred(a).astype(np.float32), "probability"),
        (lambda a: (np.round(blurred(a) * 255) / 255).astype(np.float32), "probability"),
        (lambda a: (np.digitize(blurred(a), [0.2, 0.5, 0.9]) / 3).astype(np.float32), "probability"),
        (lambda a: (a > 0).astype(np.float32), "probability"),
        (lambda a: (a > 0).astype(np.int64), "probability"),
        (lambda a: (a > 0).astype(np.uint8) * 255, "probability"),
        (lambda a: a > 0, "probability"),
    ],
)
def test_labels_and_probabilities_are_recognised(make, kind):
    assert imageio.kind_of_prediction("p.tif", make(drawn_labels())) == kind


def test_small_specks_that_are_numbered_are_labels():
    """Most segments of a bad network have one or two pixels, as do the areas of gray levels."""
    specks = np.random.default_rng(0).random((1, 128, 128)) < 0.1
    labels = ndimage.label(specks)[0]
    assert np.median(np.bincount(labels.ravel())[1:]) < 3
    for dtype in (np.uint16, np.int64, np.float32):
        assert imageio.kind_of_prediction("p.tif", labels.astype(dtype)) == "labels"
    assert imageio.kind_of_prediction("p.tif", np.where(specks, labels % 250, 0)) == "probability"


def classes_of(labels):
    """Return 0 outside, 1 at the border and 2 inside cells."""
    return np.digitize(blurred(labels), [0.5, 0.9]).astype(np.uint8)


WHITE = {"photometric": "miniswhite"}


@pytest.mark.parametrize(
    ("make", "written", "right"),
    [  # what another tool may write, how, and answers to the question with their results
        (
            lambda a: np.where(a > 0, a % 7 + 1, 0).astype(np.uint8),
            {},
            {"labels": lambda a: np.where(a > 0, a % 7 + 1, 0)},
        ),
        (lambda a: np.where(a > 0, a % 7 + 1, 0).astype(np.int32), {}, {"labels": None}),
        (lambda a: (a + 1).astype(np.uint16), {}, {"labels --prediction-background 1": lambda a: a}),
        (lambda a: (a - 1).astype(np.int32), {}, {"labels --prediction-background -1": lambda a: a}),
        (lambda a: (a - 1).astype(np.float32), {}, {"labels --prediction-background -1": lambda a: a}),
        (
            lambda a: np.where(np.indices(a.shape)[2] < 9, 65535, a).astype(np.uint16),
            {},
            {
                "labels": lambda a: np.where(np.indices(a.shape)[2] < 9, 65535, a),
                "labels --prediction-background 0 65535": lambda a: np.where(
                    np.indices(a.shape)[2] < 9, 0, a
                ),
            },
        ),
        (lambda a: (a / 65535).astype(np.float32), {}, {"labels": lambda a: a, "probability": None}),
        (lambda a: (a / a.max()).astype(np.float32), {}, {"labels": lambda a: a, "probability": None}),
        (classes_of, {}, {"classes": lambda a: classes_of(a) > 0}),
        (lambda a: classes_of(a) * 127, {}, {"classes": lambda a: classes_of(a) > 0}),
        (
            lambda a: np.where(np.indices(a.shape)[2] < 48, 1, 2).astype(np.uint8),
            {},
            {"classes --prediction-background 1": lambda a: np.indices(a.shape)[2] >= 48},
        ),
        (
            lambda a: np.where(a > 0, 2, 1).astype(np.uint8),
            {},
            {"classes --prediction-background 1": np.sign},
        ),
        (
            lambda a: np.where(a > 0, 1, 2).astype(np.uint8),
            {},
            {"classes --prediction-background 2": np.sign},
        ),
        (
            lambda a: np.where(a > 0, 254, 255).astype(np.uint8),
            {},
            {"classes --prediction-background 255": np.sign},
        ),
        (
            lambda a: np.where(a > 0, 255, 0).astype(np.uint8),
            WHITE,
            {"classes": np.sign, "classes --prediction-background 255": lambda a: a == 0},
        ),
    ],
)
def test_unclear_predictions_are_asked_for_and_each_answer_works(folder, make, written, right, capsys):
    labels = drawn_labels()
    edge = ndimage.grey_dilation(labels, (1, 3, 3)) != labels  # no cell touches another one or the frame
    labels[edge | (labels == labels[:, :1, :1])] = 0
    labels[:, 0] = labels[:, -1] = labels[:, :, 0] = labels[:, :, -1] = 0
    tifffile.imwrite(folder / "truth.tif", labels.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite(folder / "p.tif", make(labels), **({"photometric": "minisblack"} | written))
    command = ["evaluate", str(folder / "truth.tif"), str(folder / "p.tif")]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert "p.tif: it is not clear what the values mean" in message
    answers = re.findall(r"^(--[^:]+): ", message, re.MULTILINE)
    assert {f"--prediction {answer}" for answer in right} <= {*answers}
    for answer in answers:
        assert main([*command, *answer.split(), "--csv", str(folder / "out.csv")]) == 0, answer
        found = pd.read_csv(folder / "out.csv", float_precision="round_trip")
        if expected := right.get(answer.removeprefix("--prediction ")):
            if "labels" in answer:
                own = metrics.instance_scores(labels, expected(labels))
                assert dict(zip(found.metric, found.value, strict=True)) == own
            else:
                cells = np.stack([cells_apart(own, separation_border(own, 2)) for own in labels])
                own = metrics.isbi_scores(cells, expected(labels) > 0, labels=labels)
                pd.testing.assert_frame_equal(found, own, check_exact=True)


@pytest.mark.parametrize(
    ("dtype", "highest", "asked"),
    [
        (np.uint8, 100, "`--highest 100` or `--highest 255`"),
        (np.float32, 100, "`--highest 100` or `--highest 255`"),
        (np.uint16, 255, "`--highest 255`"),
        (np.uint16, 4095, "`--highest 4095`"),
        (np.uint16, 65535, "`--highest 65535`"),
        (np.int64, 255, "`--highest 255`"),
        (np.uint32, 65535, "`--highest 65535`"),
        (np.float32, 255, "`--highest 255`"),
    ],
)
@pytest.mark.parametrize("stated", [(), ("--prediction", "probability")])
def test_probabilities_of_another_scale_are_asked_for(folder, dtype, highest, asked, stated, capsys):
    labels = drawn_labels(shape=(1, 64, 64), number=16)
    p = blurred(labels)
    p = np.round(p / p.max() * highest).astype(dtype)
    tifffile.imwrite(folder / "truth.tif", labels.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite(folder / "p.tif", p, photometric="minisblack")
    tifffile.imwrite(folder / "unit.tif", (p / highest).astype(np.float32), photometric="minisblack")
    command = ["evaluate", str(folder / "truth.tif"), str(folder / "p.tif"), *stated]
    assert main(command) == 1
    message = capsys.readouterr().err
    assert f"values up to {highest}; expected 0 to 1" in message and asked in message
    expected = score_files(folder / "truth.tif", folder / "unit.tif")
    for option in re.findall(r"`(--highest \d+)`", message):
        assert main([*command, *option.split(), "--csv", str(folder / "out.csv")]) == 0
        found = pd.read_csv(folder / "out.csv", float_precision="round_trip")
        assert found.equals(expected) == (option == f"--highest {highest}")
    assert main([*command, "--highest", str(highest - 1)]) == 1
    assert f"has values up to {highest}" in capsys.readouterr().err


def test_unfit_options_of_the_prediction_are_refused(folder, images, capsys):
    for options, words in (
        ("--highest 1 --prediction labels", "`--highest` is for probabilities"),
        ("--prediction-background 0", "`--prediction-background` needs `labels` or `classes`"),
        ("--prediction labels --prediction-background 7", "found no pixel with the value 7"),
        ("--channel 1", r"there is no channel 1; found 1 (axes "),
    ):
        files = [images[0], images[0] if "labels" in options else images[1]]
        assert main(["evaluate", *map(str, files), *options.split()]) == 1
        assert words in capsys.readouterr().err
    tifffile.imwrite(folder / "n.tif", np.int16([[-1, 0], [2, 2]]), photometric="minisblack")
    with pytest.raises(InputError, match=r"negative label -1.*add `--prediction-background -1`"):
        imageio.read_prediction(folder / "n.tif", kind="labels")
    found = imageio.read_prediction(folder / "n.tif", kind="labels", background=[-1, 0])
    assert found.array.tolist() == [[[0, 0], [1, 1]]]
    found = imageio.read_prediction(folder / "n.tif", kind="classes", background=[-1])
    assert found.array.tolist() == [[[0, 1], [1, 1]]] and found.description == "classes, 0 and 2 is cell"


def test_predicted_labels_are_read_as_stored(folder):
    """WhiteIsZero is not inverted, and the values of a palette are its numbers; maps are as displayed."""
    labels, p = drawn_labels(), np.round(blurred(drawn_labels()) * 255).astype(np.uint8)
    tifffile.imwrite(folder / "w.tif", labels.astype(np.uint16), photometric="miniswhite")
    colours = np.random.default_rng(0).integers(0, 65536, (3, 256), np.uint16)
    tifffile.imwrite(folder / "c.tif", labels.astype(np.uint8), photometric="palette", colormap=colours)
    for name in ("w", "c"):
        found = imageio.read_prediction(folder / f"{name}.tif")
        numbers = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
        assert found.kind == "labels" and np.array_equal(found.array, numbers)
    tifffile.imwrite(folder / "p.tif", 255 - p, photometric="miniswhite")
    for kind in ("auto", "probability"):
        found = imageio.read_prediction(folder / "p.tif", kind=kind)
        assert found.kind == "probability" and np.array_equal(found.array, p)


def test_coloured_labels_and_maps_of_several_channels(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    labels, p = drawn_labels(), blurred(drawn_labels())
    tifffile.imwrite("truth.tif", labels.astype(np.uint16), photometric="minisblack")
    with h5py.File("p.h5", "w") as file:
        file["map"] = np.stack([1 - p, p], axis=-1).astype(np.float32)
        file["map"].attrs["axes"] = "zyxc"
    tifffile.imwrite("p.tif", p.astype(np.float32), photometric="minisblack")
    assert main(["evaluate", "truth.tif", "p.h5:/map"]) == 1
    message = capsys.readouterr().err
    assert re.findall(r"`(--\S+ \d)`", message) == ["--channel 0", "--channel 1"]
    expected = score_files("truth.tif", "p.tif")
    pd.testing.assert_frame_equal(score_files("truth.tif", "p.h5:/map", channel=1), expected)
    assert not score_files("truth.tif", "p.h5:/map", channel=0).equals(expected)

    colours = np.random.default_rng(0).integers(30, 256, (labels.max() + 1, 3), np.uint8)
    colours[0] = 0
    tifffile.imwrite("rgb.tif", colours[labels], photometric="rgb")
    assert main(["evaluate", "truth.tif", "rgb.tif"]) == 1
    message = capsys.readouterr().err
    assert "dataset" not in message and "`--channel 1`" in message
    red = imageio.read_prediction("rgb.tif", channel=0, kind="labels").array
    assert np.array_equal(red, np.unique(colours[labels][..., 0], return_inverse=True)[1].reshape(red.shape))
    (line,) = re.findall("^python .*$", message, re.MULTILINE)
    subprocess.run([sys.executable, *shlex.split(line)[1:]], check=True)
    found = score_files("truth.tif", "rgb.tif")
    assert found.set_index("metric").value["average_precision"] == 1


def write_slices(folder, arrays):
    folder.mkdir(parents=True)
    for name, array in arrays.items():
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack")


@pytest.fixture
def slices(tmp_path, monkeypatch):
    """Four sections of labels, and folders of slices in which the order of names is another one."""
    monkeypatch.chdir(tmp_path)
    labels = drawn_labels(shape=(4, 64, 64), number=12).astype(np.uint16)
    mask = np.zeros(labels.shape, np.uint8)
    for z in range(4):
        mask[z, : 10 * z] = 1
    write_slices(tmp_path / "T", {f"cell{'ABCD'[z]}": labels[z] for z in range(4)})
    write_slices(tmp_path / "P", {f"{9 - z}_cell{'ABCD'[z]}_masks": labels[z] for z in range(4)})
    write_slices(tmp_path / "M", {f"{(z + 2) % 4}_cell{'ABCD'[z]}": mask[z] for z in range(4)})
    return labels, mask


def test_slices_of_folders_are_paired_by_their_names(slices):
    labels, mask = slices
    found = score_files("T", "P").set_index("metric").value
    assert found["seg"] == found["average_precision"] == 1
    order = score_files("T", "P", pairing="order").set_index("metric").value
    assert order.to_dict() == metrics.instance_scores(labels, labels[::-1])
    other = labels[::-1].copy()
    write_slices(Path("Q"), {f"cell{'DCBA'[z]}": labels[z] for z in range(4)})
    found = score_files("T", "Q", ignore_mask="M").set_index("metric").value
    expected = metrics.instance_scores(labels, other, ignore=mask > 0)
    assert found.to_dict() == expected != metrics.instance_scores(labels, other, ignore=mask[::-1] > 0)


@pytest.mark.parametrize(
    ("truth", "prediction", "fix"),
    [
        ("ABCD", "ABCE", "`(--pairing order)`"),
        ("AC", "ABCD", "add `(--sections 0,2)`"),
        ("ABCD", "AC", r"add a pattern to the path of the annotation: (/\S+)\."),
    ],
)
def test_slices_without_a_partner_are_refused_with_an_option_that_works(
    slices, truth, prediction, fix, capsys
):
    for folder, names in (("A", truth), ("B", prediction)):
        write_slices(Path(folder), {f"cell{name}": slices[0]["ABCDE".index(name) % 4] for name in names})
    assert main(["evaluate", "A", "B"]) == 1
    message = capsys.readouterr().err
    assert "column" not in message and "dataset" not in message and "no image" not in message
    answer = re.search(fix, message)[1]
    words = ["A" + answer, "B"] if answer.startswith("/") else ["A", "B", *answer.split()]
    assert main(["evaluate", *words]) == 0
    kept = [["ABCDE".index(name) % 4 for name in names] for names in (truth, prediction)]
    if "order" not in answer:
        kept[0] = kept[1] = [0, 2]
    expected = metrics.instance_scores(slices[0][kept[0]], slices[0][kept[1]])
    assert f"seg {expected['seg']:.4f}" in re.sub(" +", " ", capsys.readouterr().out)


def test_sections_are_chosen_in_stacks_and_folders(slices, capsys):
    labels, _ = slices
    tifffile.imwrite("t.tif", labels, photometric="minisblack")
    tifffile.imwrite("p.tif", labels[::-1], photometric="minisblack")
    expected = metrics.instance_scores(labels[1:3], labels[::-1][1:3])
    found = score_files("t.tif", "p.tif", sections="1-2").set_index("metric").value
    assert found.to_dict() == expected
    assert main(["evaluate", "t.tif", "p.tif", "--sections", "9"]) == 1
    assert "`--sections 9`: there is no section 9, only 4 sections" in capsys.readouterr().err


def test_masks_of_cells_are_one_section(tmp_path):
    labels = drawn_labels(shape=(1, 64, 64), number=12)[0]
    values = np.unique(labels[labels > 0])
    write_slices(tmp_path / "M", {f"{n:02}": np.uint8(255) * (labels == n) for n in values})
    tifffile.imwrite(tmp_path / "p.tif", labels.astype(np.uint16), photometric="minisblack")
    masks = np.stack([np.uint8(255) * (labels == n) for n in values])
    tifffile.imwrite(tmp_path / "M.tif", masks, photometric="minisblack")
    for truth in ("M", "M.tif"):
        found = score_files(tmp_path / truth, tmp_path / "p.tif").set_index("metric").value
        assert found["average_precision"] == 1


@pytest.mark.parametrize("empty", ["background", "ignore"])
def test_sections_without_cells_are_asked_for_and_each_answer_works(slices, empty, capsys):
    labels, mask = slices
    truth = labels.copy()
    truth[[0, 2]] = 0
    mask[0] = 1
    for name, array in (("t", truth), ("p", labels), ("m", mask)):
        tifffile.imwrite(f"{name}.tif", array, photometric="minisblack")
    assert main(["evaluate", "t.tif", "p.tif"]) == 1
    message = capsys.readouterr().err
    assert "2 of 4 sections have no cell (section 0, 2, counted from 0 as in `--sections`)" in message
    assert "dataset" not in message
    assert re.findall("set `(.*?)`", message) == [
        "--empty-sections ignore",
        "--empty-sections background",
    ]
    with pytest.raises(InputError, match=r"1 of 4 sections have no cell \(section 2,"):
        score_files("t.tif", "p.tif", ignore_mask="m.tif")  # section 0 is ignored as a whole
    ignored = np.zeros(truth.shape, bool)
    ignored[[0, 2]] = empty == "ignore"
    for masks in ({}, {"ignore_mask": "m.tif"}):
        found = score_files("t.tif", "p.tif", empty_sections=empty, **masks).set_index("metric").value
        both = ignored | (mask > 0) if masks else ignored
        assert found.to_dict() == metrics.instance_scores(truth, labels, ignore=both)


def test_doubts_of_the_annotation_are_logged_with_options_that_work(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    labels = drawn_labels()
    reused = np.where(labels > 0, labels % 20 + 1, 0).astype(np.uint8)
    for name, array in (("t", reused), ("p", labels.astype(np.uint16))):
        tifffile.imwrite(f"{name}.tif", array, photometric="minisblack")
    command = ["evaluate", "t.tif", "p.tif", "--annotation-kind", "instances"]
    assert main(command) == 0
    (warning,) = [record.getMessage() for record in caplog.records]
    assert re.match(r"t\.tif: \d+% of the labels have several separate areas", warning)
    assert re.findall("`(.*?)`", warning) == ["--relabel"]
    caplog.clear()
    assert main([*command, "--relabel"]) == 0 and not caplog.records
    few = np.where(labels > 36, labels - 36, labels).astype(np.uint16)  # some labels have two cells
    tifffile.imwrite("p.tif", few, photometric="minisblack")
    assert score_files("p.tif", "p.tif", annotation_kind="instances", relabel=True) is not None
    (warning,) = [record.getMessage() for record in caplog.records]
    assert re.match(r"p\.tif: \d+% of the labels .* Each label is scored as one object", warning)


def test_a_file_that_crashes_the_hdf5_library_is_an_error(images, monkeypatch, capsys):
    """Damaged HDF5 files can do so."""
    sound = apart.inspect

    def inspect(path):
        return os.kill(os.getpid(), signal.SIGSEGV) if str(path).endswith("p.h5:/map") else sound(path)

    monkeypatch.setattr(apart, "inspect", inspect)
    for options in (["p.h5:/map"], [str(images[1]), "--ignore-mask", "p.h5:/map"]):
        assert main(["evaluate", str(images[0]), *options]) == 1
        message = capsys.readouterr().err
        assert message.startswith("error: p.h5:/map: reading its headers crashed the library")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64, np.float32])
def test_predicted_labels_are_scored_as_labels(folder, dtype, capsys):
    truth, predicted = drawn_labels(0), drawn_labels(1)
    predicted[0, :50] = truth[0, :50]
    tifffile.imwrite(folder / "truth.tif", truth.astype(np.uint16), photometric="minisblack")
    tifffile.imwrite(folder / "p.tif", predicted.astype(dtype), photometric="minisblack")
    files = [str(folder / name) for name in ("truth.tif", "p.tif")]
    assert main(["evaluate", *files, "--csv", str(folder / "out.csv")]) == 0
    found = pd.read_csv(folder / "out.csv", float_precision="round_trip")
    assert found.threshold.isna().all()
    assert dict(zip(found.metric, found.value, strict=True)) == metrics.instance_scores(truth, predicted)
    number = np.unique(predicted).size - 1
    printed = capsys.readouterr().out
    assert f"p.tif: labels, {number} values; inferred from the values" in printed
    assert re.search(
        rf"cells_found +{metrics.instance_scores(truth, predicted)['cells_found']:.0f}\n", printed
    )


def test_binary_map_of_integers_is_a_probability_of_0_and_1(folder, capsys):
    labels = drawn_labels()
    tifffile.imwrite(folder / "truth.tif", labels.astype(np.uint16), photometric="minisblack")
    tables = []
    for name, map_ in (("a", (labels > 0).astype(np.uint8)), ("b", (labels > 0).astype(np.float32))):
        tifffile.imwrite(folder / f"{name}.tif", map_, photometric="minisblack")
        tables.append(score_files(folder / "truth.tif", folder / f"{name}.tif"))
    pd.testing.assert_frame_equal(*tables)
    assert "a.tif: binary map, 1 is cell; inferred from the values" in capsys.readouterr().out


@pytest.mark.parametrize("predicted_labels", [False, True])
def test_ignored_pixels_of_files_are_left_out(folder, predicted_labels):
    truth, other = drawn_labels(0), drawn_labels(1)
    prediction = other.astype(np.uint16) if predicted_labels else blurred(other).astype(np.float32)
    marked, mask = truth.copy(), np.zeros(truth.shape, np.uint8)
    marked[:, :, 60:], mask[:, :, 60:] = 255, 1
    for name, array in (
        ("marked", marked.astype(np.uint8)),
        ("plain", truth.astype(np.uint8)),
        ("mask", mask),
        ("p", prediction),
        ("cropped", truth[..., :60].astype(np.uint8)),
        ("p_cropped", prediction[..., :60]),
    ):
        tifffile.imwrite(folder / f"{name}.tif", array, photometric="minisblack")
    expected = score_files(folder / "cropped.tif", folder / "p_cropped.tif", annotation_kind="instances")
    for name, settings in (("marked", {"ignore": 255}), ("plain", {"ignore_mask": folder / "mask.tif"})):
        found = score_files(folder / f"{name}.tif", folder / "p.tif", annotation_kind="instances", **settings)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize(
    ("annotate", "options"),
    [
        (lambda a: np.where(np.indices(a.shape)[2] > 70, 255, a), "--ignore 255"),
        (lambda a: np.where(np.indices(a.shape)[2] > 70, -1, a), "--ignore -1"),
        (lambda a: np.where(a > 0, a % 20 + 1, 0), "--annotation-kind instances --relabel"),
        (lambda a: np.where(a > 0, a, 255), "--background 255"),
        (
            lambda a: np.digitize(blurred(a), [0.5, 0.9]),
            r"--annotation-kind classes --classes( \w+=\d){3}",
        ),
    ],
)
def test_command_line_that_an_error_names_works_on_this_file(folder, annotate, options, capsys):
    labels = drawn_labels()
    tifffile.imwrite(folder / "truth.tif", annotate(labels).astype(np.int16), photometric="minisblack")
    tifffile.imwrite(folder / "p.tif", blurred(labels).astype(np.float32), photometric="minisblack")
    command = ["evaluate", str(folder / "truth.tif"), str(folder / "p.tif")]
    assert main(command) == 1
    message = capsys.readouterr().err
    found = re.search(f"`({options})`", message)
    assert found and "dataset" not in message
    assert main([*command, *found[1].split()]) == 0
    assert main([*command, "--annotation-kind", "classes"]) == 1
    assert "error: `--classes`: missing" in capsys.readouterr().err


def squares(*sides):
    """Return labels of one square for each side, in a row."""
    labels = np.zeros((12, 12 * len(sides)), np.uint8)
    for number, side in enumerate(sides):
        labels[1 : 1 + side, 12 * number + 1 : 12 * number + 1 + side] = number + 1
    return labels


def write_many(folder, truths, predictions):
    for name, arrays in (("masks", truths), ("found", predictions)):
        (folder / name).mkdir()
        for stem, array in arrays.items():
            tifffile.imwrite(folder / name / stem, array)


def test_many_predictions_are_paired_by_name_and_scored_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truths = {"img_2.tif": squares(8, 8), "img_10.tif": squares(6, 6, 6)}  # of different sizes
    found = {"img_10_labels.tif": squares(6, 6, 0), "img_2_labels.tif": squares(8, 4)}
    write_many(tmp_path, truths, found)
    words = [*(f"found/{name}" for name in found), "--csv", "scores.csv", "--prediction", "labels"]
    assert main(["evaluate", "masks", *words, "--annotation-kind", "instances"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    # SEG: 2 of 3 cells are exact; one cell is exact, and a quarter of the other is too little
    assert ["found/img_10_labels.tif", "3", "2", "2", "0.6667"] in [line[:5] for line in lines]
    assert ["found/img_2_labels.tif", "2", "2", "1", "0.5000"] in [line[:5] for line in lines]
    assert lines[-1][-8:-4] == ["5", "4", "3", "0.5833"]
    table = pd.read_csv("scores.csv")
    seg = table[table.metric == "seg"].set_index("prediction").value
    assert seg["found/img_2_labels.tif"] == 0.5 and len(seg) == 2
    # two folders as two stacks have sections of different sizes
    assert main(["evaluate", "masks", "found"]) == 1
    assert (
        main(["evaluate", "--images", "masks", "found", *words[-2:], "--annotation-kind", "instances"]) == 0
    )


def test_probability_maps_share_one_threshold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truths = {f"{n}.tif": squares(8, 8) for n in (1, 2, 3)}
    cells = squares(8, 8) > 0  # alone, the first two would be cut at 0.5, and the third at 0.0
    maps = {f"{n}.tif": np.where(cells, 0.9, 0.45).astype(np.float32) for n in (1, 2)}
    maps["3.tif"] = np.where(cells, np.float32(0.35), 0)
    write_many(tmp_path, truths, maps)
    words = ["--prediction", "probability", "--annotation-kind", "instances"]
    assert main(["evaluate", "masks", *(f"found/{name}" for name in maps), *words]) == 0
    assert "at the threshold 0.5, which has the best mean SEG" in capsys.readouterr().out


def test_one_annotation_serves_several_predictions_and_an_error_stops_no_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_many(
        tmp_path,
        {"t.tif": squares(8, 8)},
        {"a.tif": squares(8, 8), "b.tif": squares(8), "c.tif": squares(8, 8)},
    )
    words = [
        "found/a.tif",
        "found/b.tif",
        "found/c.tif",
        "--prediction",
        "labels",
        "--annotation-kind",
        "instances",
    ]
    assert main(["evaluate", "masks/t.tif", *words]) == 1
    output = capsys.readouterr()
    assert "found/b.tif: shape (z, y, x) (1, 12, 12)" in output.err and "1 of 3 predictions" in output.err
    assert output.out.count(" 1.0000") >= 3 and "found/c.tif" in output.out


def test_predictions_without_partner_are_refused_by_name(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    write_many(tmp_path, {f"{n}.tif": squares(8) for n in "ab"}, {f"{n}.tif": squares(8) for n in "ac"})
    assert main(["evaluate", "masks", "found/a.tif", "found/c.tif"]) == 1
    assert "none of its 2 files belongs by name to c.tif." in capsys.readouterr().err
    assert main(["evaluate", "masks", "found/a.tif", "masks/a.tif", "--prediction", "labels"]) == 1  # twice
    (tmp_path / "found/c.tif").rename(tmp_path / "found/b.tif")
    tifffile.imwrite(tmp_path / "masks/z.tif", squares(8))
    words = ["found/a.tif", "found/b.tif", "--prediction", "labels", "--annotation-kind", "instances"]
    assert main(["evaluate", "masks", *words]) == 0
    assert "1 of 3 annotations have no prediction and are not scored: z.tif" in caplog.text


def test_each_section_is_scored_like_a_stack_of_its_own(tmp_path):
    """Also a section without cells; one whose pixels are all ignored has no scores."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, (5, 3, 4)).repeat(12, axis=1).repeat(10, axis=2).astype(np.uint32)
    labels[3] = 0
    ignore = np.zeros(labels.shape, np.uint8)
    ignore[2], ignore[1, :, 30:] = 1, 1
    border = np.stack([separation_border(s, 2) for s in labels])
    probability = np.where((labels > 0) & ~border, 0.75, 0.3) + rng.normal(0, 0.2, labels.shape)
    probability = probability.clip(0, 1).astype(np.float32)
    write_case(tmp_path, labels, border, probability)
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        layout.add(file, layout.IGNORE, labels.shape)[:] = ignore
    scores(tmp_path, minimum_size=6, threads=2, variant="1", seed=5)
    found = read_scores(tmp_path / "sections.csv")
    assert [*found.columns] == SECTION_COLUMNS
    assert {*zip(found.volume, found.variant, found.seed, found.fold, found.threshold, strict=True)} == {
        ("007", "1", 5, 0, 0.55)
    }
    assert {*found.section} == {0, 1, 3, 4}
    found = found[~found.metric.str.match(OF_BOXES)]
    for z, rows in found.groupby("section"):
        keep = [slice(z, z + 1)]
        cells = np.stack(
            [cells_apart(*one) for one in zip(labels[*keep], border[*keep], ignore[*keep] > 0, strict=True)]
        )
        expected = metrics.isbi_scores(cells, probability[*keep], [0.55], ignore=ignore[*keep])
        expected = expected.set_index("metric").value.drop("uniform_sections").to_dict()
        segments = instances(np.where(ignore[z], 0, probability[z]), PostProcessing(0.55, 6))[None]
        compared = metrics.instance_scores(labels[*keep], segments, ignore=ignore[*keep])
        expected |= {metric: compared[metric] for metric in COMPARED}
        expected |= metrics.reliability(cells, probability[*keep], ignore=ignore[*keep]).scores()
        np.testing.assert_equal(rows.set_index("metric").value.to_dict(), expected)


def test_ignored_pixels_do_not_enlarge_the_last_segment(tmp_path):
    """At no threshold: the last segment has 2 px, and segments of less than 5 px are removed."""
    labels = np.zeros((1, 12, 12), np.uint32)
    labels[:, 2:8, 1:5] = 1
    probability = np.where(labels > 0, 0.9, 0.1)
    probability[:, 4:6, 10] = 0.9
    write_case(tmp_path, labels, np.zeros_like(labels), probability)
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        layout.add(file, layout.IGNORE, labels.shape)[:, :, 11:] = 1
    table = scores(tmp_path, minimum_size=5).set_index(["metric", "threshold"]).value
    assert {table["cells_found", threshold] for threshold in (0.2, 0.5, 0.55)} == {1}


def test_the_classes_of_each_section_are_scored(tmp_path):
    """The confusion matrix of the volume is the sum of those of its sections."""
    rng = np.random.default_rng(2)
    labels = np.zeros((3, 20, 20), np.uint32)
    labels[:, 2:9, 2:9] = 1
    write_case(tmp_path, labels, np.zeros_like(labels), np.where(labels > 0, 0.9, 0.1))
    target = rng.integers(0, 3, labels.shape).astype(np.uint8)
    target[2] = 0  # the other classes have no score there
    probability = rng.random((3, *labels.shape), np.float32)
    probability[:, 2] = np.array([0.6, 0.3, 0.1])[:, None, None]
    ignore = np.zeros(labels.shape, np.uint8)
    ignore[:, :3] = 1
    names = ["background", "cell", "nucleus"]
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        layout.add(file, layout.TARGET, labels.shape)[:] = target
        layout.write_classes(file[layout.TARGET.name], names, ["cell"])
        layout.add(file, layout.IGNORE, labels.shape)[:] = ignore
    with h5py.File(tmp_path / "prediction.h5", "a") as file:
        layout.add(file, layout.CLASS_PROBABILITY, probability.shape)[:] = probability
        layout.write_classes(file[layout.CLASS_PROBABILITY.name], names, ["cell"])
    whole = scores(tmp_path).set_index("metric").value
    found = read_scores(tmp_path / "sections.csv").set_index(["section", "metric"]).value
    inside = ignore[0] == 0
    total = np.zeros((3, 3))
    for z in range(3):
        confusion = np.zeros((3, 3))
        np.add.at(confusion, (target[z][inside], probability[:, z].argmax(0)[inside]), 1)
        total += confusion
        expected = metrics.class_scores(confusion, names)
        np.testing.assert_equal({metric: found[z, metric] for metric in expected}, expected)
    assert np.isnan(found[2, "iou_nucleus"]) and found[2, "pixel_accuracy"] == 1
    stored = [[whole[f"confusion_{true}_{predicted}"] for predicted in names] for true in names]
    assert np.array_equal(stored, total)


@pytest.mark.parametrize("number", [1, 2])
def test_a_map_beside_an_annotation_without_cells_is_scored(tmp_path, monkeypatch, capsys, number):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "t").mkdir()
    for name in "ab"[:number]:
        tifffile.imwrite(f"t/{name}.tif", np.zeros((16, 16), np.uint8))
        tifffile.imwrite(f"{name}.tif", rng.random((16, 16), np.float32))
    truth = "t/a.tif" if number == 1 else "t"
    words = [truth, *(f"{name}.tif" for name in "ab"[:number]), "--annotation", "instances"]
    assert main(["evaluate", *words, "--empty-sections", "background", "--csv", "out.csv"]) == 0
    assert "The annotation has no cells, so no threshold has the best SEG" in capsys.readouterr().out
    assert Path("out.csv").exists()
