"""A detector from drawn discs to counted objects: training, prediction by tiles and jobs, detections."""

import csv
import dataclasses
import json
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import layout, metrics, networks
from pipeline_lib.inference.resampling import Resampled
from pipeline_lib.inference.tiling import tiles
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.boxes import overlaps
from pipeline_lib.metrics import detection_scores
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.boxes import choose_boxes
from pipeline_lib.stages.detection import choose_score, detect
from pipeline_lib.stages.masks import predict_masks
from pipeline_lib.stages.prediction import _rows_of_model, predict
from pipeline_lib.stages.training import train
from pipeline_lib.tasks.detection.patches import BoxAugmentation
from pipeline_lib.tasks.detection.scores import matched_sections
from pipeline_lib.training.schedule import Settings
from tests.box_datasets import add_boxes

SHAPE = (2, 150, 140)
NETWORK = {"name": "ssd", "channels": [8, 12, 12], "convolutions": 1, "heads": 2, "aspect_ratios": [1.0]}
PLAN = networks.plan(**NETWORK, sizes=[9, 12, 14, 16])


def draw(path, seed):
    """Write a dataset of bright discs of several sizes on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[1], : SHAPE[2]]
    labels = np.zeros(SHAPE, np.uint32)
    for z in range(SHAPE[0]):
        for number in range(1, 26):
            radius = rng.uniform(4, 8)
            centre = rng.uniform(0, SHAPE[1:])
            disc = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            near = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (radius + 1) ** 2
            if not labels[z][near].any():
                labels[z][disc] = number
    raw = np.where(labels > 0, 170, 60) + rng.normal(0, 12, SHAPE)
    with layout.create(path, {}) as file:
        layout.add(file, layout.LABELS, SHAPE)[:] = labels
        layout.add(file, layout.RAW, (1, *SHAPE), np.uint8)[:] = raw.clip(0, 255)[None]
        layout.write_findings(file, {"gray": {"type": "uint8"}, "annotation": None})
        add_boxes(file, labels, minimum_size=9)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detector")
    for number, name in enumerate(("train", "validation", "test")):
        draw(folder / f"{name}.h5", number)
    choose_boxes([folder / "train.h5"], folder / "boxes.json", network=NETWORK)
    statistics = {"normalisation": {}, "pixel_size": [0.5, 0.5]}
    with h5py.File(folder / "train.h5") as file:
        raw = file["raw"][:]
    statistics["normalisation"] = {
        "kind": "mean_std",
        "dtype": "uint8",
        "offset": [[[float(raw.mean())]]],
        "scale": [[[float(raw.std())]]],
    }
    write_json(folder / "statistics.json", statistics)
    return folder, Settings(
        iterations=120,
        validation_interval=60,
        warm_up=10,
        tile=102,
        optimizer="adam",
        learning_rate=0.004,
        batch=2,
        device="cpu",
        precision="float32",
        best_by="box_ap_50",
    )


def train_in(folder, settings, **network):
    train(
        [folder / "train.h5"],
        [folder / "train.h5"],
        [folder / "validation.h5"],
        [folder / "validation.h5"],
        folder / "statistics.json",
        folder / "model.pt",
        folder / "history.csv",
        network=NETWORK | network,
        training=dataclasses.asdict(settings),
        augmentation=dataclasses.asdict(BoxAugmentation()),
        seed=0,
        boxes=folder / "boxes.json",
    )


@pytest.fixture(scope="module")
def run(prepared):
    train_in(*prepared)
    return prepared[0]


@pytest.mark.parametrize("change", [{"loss_mask": 0.5}, {"sampling": "class_balanced"}])
def test_choices_of_pixels_are_refused(prepared, change):
    folder, settings = prepared
    with pytest.raises(InputError, match="choose pixels, but ssd learns boxes"):
        train_in(folder, dataclasses.replace(settings, **change))


def test_a_loss_of_pixels_is_refused(prepared):
    folder, settings = prepared
    with pytest.raises(InputError, match=r"training\.loss: ssd learns boxes, whose loss cannot be chosen"):
        train_in(folder, dataclasses.replace(settings, loss="focal"))


def detections(folder, name, tag, shape=SHAPE, **settings):
    """Predict a volume in one or several jobs, and return the boxes and scores of its detections."""
    jobs = settings.pop("jobs", 1)
    parts = [folder / f"{name}{tag}{k}.h5" for k, _ in enumerate(blocks.parts(shape, jobs))]
    for number, path in enumerate(parts, 1):
        predict(
            folder / f"{name}.h5",
            folder / "model.pt",
            path,
            part=number,
            jobs=jobs,
            device="cpu",
            precision="float32",
            **settings,
        )
    detect(parts, folder / f"{name}{tag}.h5", shape=shape, jobs=jobs)
    with h5py.File(folder / f"{name}{tag}.h5") as file:
        return np.column_stack([file["box_section"][:], file["boxes"][:], file["box_score"][:]])


def test_discs_are_found_and_counted(run):
    paths = {}
    for name in ("validation", "test"):
        detections(run, name, "_found")
        paths[name] = [[run / f"{name}{part}.h5"] for part in ("", "_found")]
    choose_score(*paths["validation"], run / "score.json")
    threshold = json.loads((run / "score.json").read_text())["threshold"]
    matches = metrics.pooled_matches([*matched_sections(*(path for (path,) in paths["test"]))])
    scores = detection_scores(matches, threshold)
    assert scores["box_ap_50"] > 0.9
    assert scores["box_f1"] > 0.9
    assert abs(scores["boxes_found"] - scores["boxes_annotated"]) <= 0.1 * scores["boxes_annotated"]


def test_detections_do_not_depend_on_tiles_and_jobs(run):
    geometry = Model.load(run / "model.pt").plan.geometry
    whole = detections(run, "test", "_whole")
    assert len(whole) > 30
    for tag, settings in {
        "_small": {"tile": geometry.smallest},
        "_other": {"tile": geometry.smallest + 5 * geometry.stride},
        "_jobs": {"jobs": 3},
    }.items():
        require_same(detections(run, "test", tag, **settings), whole)


def require_same(found, whole):
    # boxes with a score near the smallest one can appear or disappear by rounding
    assert abs(len(found) - len(whole)) <= 2
    strong = [each[each[:, -1] > 0.011] for each in (whole, found)]
    assert len(strong[0]) == len(strong[1])
    order = [np.lexsort(each[:, :5].round(2).T) for each in strong]
    np.testing.assert_allclose(strong[1][order[1]], strong[0][order[0]], atol=2e-3)


class TestOtherPixelSize:
    """Pixels of the volume are smaller than those of the model, and their width more than their height."""

    STEP = (1.25, 2.0)
    SHAPE = (2, 187, 280)

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, run):
        """Write the test volume with smaller pixels, and what the network sees of it as a volume."""
        with h5py.File(run / "test.h5") as file:
            small = Resampled(file["raw"], (1 / 1.25, 1 / 2), cls.SHAPE[1:])[:, :, :, :]
        for name, raw in (("small", small), ("seen", Resampled(small, cls.STEP)[:, :, :, :])):
            with layout.create(run / f"{name}.h5", {}) as file:
                layout.add(file, layout.RAW, raw.shape, np.uint8)[:] = raw
                layout.write_findings(file, {"gray": {"type": "uint8"}, "annotation": None})
                if name == "small":
                    layout.write_pixel_size(file, (0.5 / 1.25, 0.5 / 2))
        return run

    def test_boxes_are_those_of_the_resampled_image_in_pixels_of_the_volume(self, folder):
        detections(folder, "small", "_matched", self.SHAPE, match_pixel_size=True)
        detections(folder, "seen", "_plain")
        with (
            h5py.File(folder / "small_matched0.h5") as found,
            h5py.File(folder / "seen_plain0.h5") as expected,
        ):
            assert len(found["boxes"]) > 1000
            np.testing.assert_allclose(found["boxes"][:], expected["boxes"][:] * (2 * self.STEP), rtol=1e-12)
            for array in ("box_section", "box_score", "box_class"):
                np.testing.assert_array_equal(found[array][:], expected[array][:])

    def test_objects_are_found_at_their_places(self, folder):
        found = detections(folder, "small", "_matched", self.SHAPE, match_pixel_size=True)
        whole = detections(folder, "test", "_whole")
        for z in range(2):
            matched, true = (each[(each[:, 0] == z) & (each[:, -1] > 0.3)] for each in (found, whole))
            shared = overlaps(true[:, 1:5] * (2 * self.STEP), matched[:, 1:5])
            assert len(true) > 10 and np.mean(shared.max(axis=1) > 0.6) > 0.9

    def test_detections_do_not_depend_on_tiles_and_jobs(self, folder):
        geometry = Model.load(folder / "model.pt").plan.geometry
        whole = detections(folder, "small", "_matched", self.SHAPE, match_pixel_size=True)
        assert len(whole) > 30
        tile = geometry.smallest + 5 * geometry.stride
        for tag, settings in {"_small": {"tile": tile}, "_jobs": {"jobs": 4}}.items():
            found = detections(folder, "small", tag, self.SHAPE, match_pixel_size=True, **settings)
            require_same(found, whole)

    @given(st.data())
    def test_each_row_of_the_model_belongs_to_one_part(self, data):
        height, step = data.draw(st.integers(1, 2000)), data.draw(st.floats(0.1, 10))
        stride, of_model = data.draw(st.sampled_from([1, 4, 64])), max(round(height / step), 1)
        parts = [part.rows for part in blocks.parts((1, height, 9), data.draw(st.integers(1, 20)))]
        rows = [_rows_of_model(part, of_model, step, stride) for part in parts]
        assert [row for own in rows for row in range(of_model)[own]] == [*range(of_model)]
        assert all(own.start <= own.stop and own.start % stride == 0 for own in rows if own.start < of_model)
        for part, own in zip(parts, rows, strict=True):  # near the rows that it writes
            assert own.start >= min(part.start / step, of_model)
            assert own.start < part.start / step + stride + 1

    def test_a_part_without_rows_has_no_tiles(self):
        assert [*tiles((0, 9), PLAN.geometry.smallest, PLAN.geometry)] == []


def test_model_file_has_its_default_boxes(run):
    model = Model.load(run / "model.pt")
    assert model.task == "detection"
    assert list(model.plan.sizes) == json.loads((run / "boxes.json").read_text())["sizes"]
    assert list(model.classes) == ["background", "cell"]


def test_model_has_the_sizes_of_the_formula(prepared, tmp_path):
    folder, settings = prepared
    for name in ("train.h5", "validation.h5", "statistics.json"):
        shutil.copy(folder / name, tmp_path)
    formula = {"size_range": [9, 14]}
    choose_boxes([tmp_path / "train.h5"], tmp_path / "boxes.json", network=NETWORK | formula)
    short = dataclasses.replace(settings, iterations=2, validation_interval=2, warm_up=1)
    train_in(tmp_path, short, **formula)
    plan = Model.load(tmp_path / "model.pt").plan
    assert [*plan.sizes] == json.loads((tmp_path / "boxes.json").read_text())["sizes"] == [9, 11.2, 14, 16.3]


def test_orientations_are_not_averaged(run):
    refusal = "average_orientations: found true, but boxes are not averaged"
    with pytest.raises(InputError, match=refusal):
        detections(run, "test", "_turned", average_orientations=True)
    with pytest.raises(InputError, match=refusal):  # in the dry run
        PLAN.require_prediction({"average_orientations": True})
    PLAN.require_prediction({"average_orientations": False})
    networks.plan("unet").require_prediction({"average_orientations": True})


# masks


@pytest.fixture(scope="module")
def masked(prepared, tmp_path_factory):
    """A run with masks, up to the score threshold."""
    folder = tmp_path_factory.mktemp("masks")
    for name in ("train.h5", "validation.h5", "test.h5", "boxes.json", "statistics.json"):
        shutil.copy(prepared[0] / name, folder)
    train_in(folder, prepared[1], masks=True)
    for name in ("validation", "test"):
        detections(folder, name, "_found")
    choose_score([folder / "validation.h5"], [folder / "validation_found.h5"], folder / "score.json")
    return folder


def labels_of(folder, tag="_found", name="test", **settings):
    """Predict the masks of the detections of a volume, and return its labels."""
    path = folder / f"{name}{tag}_labels.h5"
    inputs = [folder / part for part in (f"{name}.h5", "model.pt", f"{name}{tag}.h5", "score.json")]
    predict_masks(*inputs, path, **{"device": "cpu", "precision": "float32"} | settings)
    assert not path.with_suffix(".masks.h5").exists()
    with h5py.File(path) as file:
        assert file["labels"].dtype == np.uint32
        return file["labels"][:]


def test_masks_are_the_pixels_of_discs(masked):
    labels = labels_of(masked)
    with h5py.File(masked / "test.h5") as file:
        truth = file["labels"][:]
    assert metrics.seg(truth, labels) > 0.8  # the mean over all discs; those that are not found count as 0
    used = [np.unique(section[section > 0]).tolist() for section in labels]
    assert used[0] + used[1] == [*range(1, len(used[0]) + len(used[1]) + 1)]
    threshold = json.loads((masked / "score.json").read_text())["threshold"]
    with h5py.File(masked / "test_found.h5") as file:
        kept = file["box_score"][:] >= threshold
        section, boxes = file["box_section"][kept], file["boxes"][kept]
    assert len(kept) > np.count_nonzero(kept) >= labels.max() > 0.9 * np.count_nonzero(kept)
    for z in range(SHAPE[0]):  # no object reaches beyond a box
        near = np.zeros(SHAPE[1:], bool)
        for y0, x0, y1, x1 in np.rint(boxes[section == z]).astype(int):
            near[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = True
        assert not labels[z][~near].any()


def test_validation_scores_masks(masked, run):
    with open(masked / "history.csv") as file:
        rows = [*csv.DictReader(file)]
    with open(run / "history.csv") as file:
        assert "validation_mask_iou" not in file.read()
    assert 0.8 < float(rows[-1]["validation_mask_iou"]) < 1


@pytest.mark.parametrize("settings", [{"block": 128}, {"block": 61}])
def test_labels_have_the_same_bits_with_other_settings(masked, settings):
    np.testing.assert_array_equal(labels_of(masked, **settings), labels_of(masked))


def test_labels_do_not_depend_on_tiles_and_jobs(masked):
    whole = labels_of(masked)
    geometry = Model.load(masked / "model.pt").plan.geometry
    for tag, settings in {"_small": {"tile": geometry.smallest}, "_jobs": {"jobs": 3}}.items():
        detections(masked, "test", tag, **settings)
        # boxes are rounded, so only a box near the middle of two steps of 1/256 px can change
        assert np.count_nonzero(labels_of(masked, tag) != whole) <= 2


def test_masks_match_pixel_sizes(masked):
    """The pixels of the volume are half as high, and their width differs."""
    shape = (2, 300, 210)
    with h5py.File(masked / "test.h5") as file, layout.create(masked / "fine.h5", {}) as fine:
        raw = Resampled(file["raw"], (1 / 2, 1 / 1.5), shape[1:])[:, :, :, :]
        layout.add(fine, layout.RAW, raw.shape, np.uint8)[:] = raw
        layout.write_findings(fine, {"gray": {"type": "uint8"}, "annotation": None})
        layout.write_pixel_size(fine, (0.5 / 2, 0.5 / 1.5))
        rows, columns = (np.arange(300) // 2, (np.arange(210) / 1.5).astype(int))
        truth = file["labels"][:][:, rows][:, :, columns]
    detections(masked, "fine", "_found", shape, match_pixel_size=True)
    labels = labels_of(masked, name="fine")
    assert metrics.seg(truth, labels) > 0.75


def test_models_without_masks_are_refused(run):
    detections(run, "test", "_found")
    write_json(run / "some.json", {"threshold": 0.5})
    inputs = [run / name for name in ("test.h5", "model.pt", "test_found.h5", "some.json")]
    with pytest.raises(
        InputError, match=r"model\.pt: the network ssd predicts no masks. Train .*masks: true"
    ):
        predict_masks(*inputs, run / "labels.h5")
    assert not (run / "labels.h5").exists()
