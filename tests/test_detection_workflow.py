"""Detectors in the workflow: a study of a detector and a U-Net, and settings that are refused."""

import json
import re
from itertools import product

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import yaml
from test_workflow import CONFIG, ROOT, counts, planned, snakemake, write

from pipeline_lib import metrics
from pipeline_lib.api import load, train
from pipeline_lib.cli import main
from pipeline_lib.networks import model as networks
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.errors import InputError

SSD = {"name": "ssd", "channels": [4, 6, 8], "convolutions": 1, "heads": 2, "aspect_ratios": [1.0]}
TRAINING = CONFIG["training"] | {"tile": 66, "batch": 2, "iterations": 30, "validation_interval": 15}
DETECTOR = CONFIG | {
    "network": SSD,
    "training": TRAINING | {"best_by": "box_ap_50", "learning_rate": 0.004, "warm_up": 5},
    "dataset": {"minimum_size": 9},
}
UNET = {"network": CONFIG["network"] | {"name": "unet"}, "training": CONFIG["training"] | {"best_by": "loss"}}
MASKS = {"network": SSD | {"masks": True}}
STUDY = (
    DETECTOR
    | MASKS
    | {"study": {"variants": {"ssd": {}, "unmasked": {"network": {"masks": False}}, "unet": UNET}}}
)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished study whose main model is a detector with masks: its folder and its arguments."""
    directory = tmp_path_factory.mktemp("detection")
    arguments = write(directory, STUDY)
    answer = snakemake(directory, *arguments)
    assert answer.returncode == 0, answer.stderr
    return directory / "results", arguments


@pytest.mark.slow
class TestFinishedRun:
    def test_the_table_has_the_detections_above_the_threshold(self, run):
        results, _ = run
        table = pd.read_csv(results / "detections.csv")
        threshold = json.loads((results / "postprocessing/ssd.json").read_text())["threshold"]
        expected = []
        for volume in ("choose", "score", "new"):
            with h5py.File(results / f"detection/ssd/{volume}.h5") as file:
                kept = file["box_score"][:] >= threshold
                expected.append(file["boxes"][:][kept])
            own = pd.read_csv(results / f"detection/{volume}_detections.csv")
            pd.testing.assert_frame_equal(own, table[table.volume == volume].reset_index(drop=True))
        expected = np.concatenate(expected)
        assert len(expected) > 0
        np.testing.assert_allclose(table[["y0", "x0", "y1", "x1"]], expected, rtol=1e-15)

    def test_detector_unet_and_baselines_stand_in_one_table(self, run):
        results, _ = run
        scores = pd.read_csv(results / "study_scores.csv")
        for network in ("ssd", "unmasked", "unet"):
            own = scores[scores.network == network]
            assert {*own.volume} == {"choose", "score"}
            for metric in ("box_ap_50", "box_f1", "count_error"):
                assert own[own.metric == metric].value.notna().all()
        assert {*pd.read_csv(results / "scores.csv").network} >= {"ssd", "smoothed_raw"}

    def test_labels_are_the_masks_of_the_detections(self, run):
        results, _ = run
        threshold = json.loads((results / "postprocessing/ssd.json").read_text())["threshold"]
        scores = pd.read_csv(results / "study_scores.csv")
        for volume in ("choose", "score", "new"):
            labels = tifffile.imread(results / f"segmentation/{volume}_labels.tif")
            path = results / f"segmentation/{volume}_cells.csv"
            cells = pd.read_csv(path, float_precision="round_trip")
            with h5py.File(results / f"segmentation/ssd/{volume}.h5") as file:
                np.testing.assert_array_equal(file["labels"][:], labels)
                boxes, score = file["boxes"][:], file["box_score"][:]
            detections = pd.read_csv(results / f"detection/{volume}_detections.csv")
            assert 0 < len(cells) == len(boxes) <= len(detections)
            numbers = cells.label.to_numpy()
            np.testing.assert_array_equal(numbers, np.arange(1, len(cells) + 1))
            np.testing.assert_allclose(cells.score, score[numbers - 1])
            assert (cells.score >= threshold).all()
            # each object is in the box of its detection, and pixels whose centre is in it are
            for edge, side in (("bbox-0", 0), ("bbox-1", 1)):
                assert (cells[edge] + 0.5 >= boxes[:, side] - 1 / 256).all()
            for edge, side in (("bbox-2", 2), ("bbox-3", 3)):
                assert (cells[edge] - 0.5 <= boxes[:, side] + 1 / 256).all()
            if volume == "new":
                continue
            with h5py.File(results / f"dataset/{volume}.h5") as file:
                expected = metrics.instance_scores(file["labels"][:], labels)
            own = scores[(scores.network == "ssd") & (scores.volume == volume)].set_index("metric").value
            for metric in (*metrics.INSTANCE_METRICS, *metrics.CELL_COUNTS):
                assert own[metric] == pytest.approx(expected[metric])

    def test_a_detector_without_masks_has_no_labels(self, run):
        results, _ = run
        assert not (results / "segmentation/unmasked").exists()
        scores = pd.read_csv(results / "study_scores.csv")
        assert not scores[(scores.network == "unmasked") & (scores.metric == "seg")].size

    def test_the_comparison_draws_the_boxes_that_are_scored(self, run):
        results, _ = run
        html = (results / "comparison.html").read_text()
        scores = pd.read_csv(results / "study_scores.csv").query("metric == 'box_f1'")
        scores = scores.set_index(["volume", "network"]).value
        drawn = re.findall(r"<p>(\d+) found, (\d+) missed, (\d+) false</p>", html)
        assert any(int(found) for found, _, _ in drawn)
        for key, numbers in zip(
            product(("score", "choose"), ("ssd", "unet", "unmasked")), drawn, strict=True
        ):
            found, missed, false = map(int, numbers)
            assert 2 * found / (2 * found + missed + false) == pytest.approx(scores[key])

    def test_default_boxes_are_those_of_the_training_volume(self, run):
        results, _ = run
        chosen = json.loads((results / "boxes.json").read_text())
        with h5py.File(results / "dataset/learn.h5") as file:
            assert chosen["objects"] == np.count_nonzero(file["box_state"][:] != 2)
        model = describe(results / "models/ssd/model.pt")
        assert model["arguments"]["sizes"] == chosen["sizes"]

    def test_nothing_is_weighed_for_the_detector(self, run):
        results, _ = run
        weighed = [path.name for path in results.glob("weight_map*/*.h5")]
        assert sorted(weighed) == ["choose.h5", "learn.h5"]  # for the U-Net

    def test_second_run_does_nothing(self, run):
        results, arguments = run
        assert planned(results.parent, *arguments) == set()

    def test_another_criterion_repeats_only_what_depends_on_the_threshold(self, run):
        results, arguments = run
        again = planned(results.parent, *arguments, "--config", "detection={criterion: count_error}")
        assert "choose_score" in again
        assert not {"train_model", "detect_annotated", "choose_boxes"} & again

    def test_the_model_alone_finds_the_same(self, run, tmp_path):
        results, _ = run
        arguments = write(
            tmp_path,
            {"model": str(results / "model.pt"), "volumes": "volumes.tsv", "prediction": {"device": "cpu"}},
            f"volume\timages\tsections\tsplit\nnew\t{results}/drawn/images.tif\t3\tpredict\n",
        )
        answer = snakemake(tmp_path, *arguments)
        assert answer.returncode == 0, answer.stderr
        table = pd.read_csv(tmp_path / "results/detections.csv")
        expected = pd.read_csv(results / "detection/new_detections.csv")
        pd.testing.assert_frame_equal(table, expected)
        for name in ("new_labels.tif", "new_cells.csv"):
            own, other = (folder / f"segmentation/{name}" for folder in (tmp_path / "results", results))
            if name.endswith("csv"):
                assert own.read_bytes() == other.read_bytes()
            else:
                np.testing.assert_array_equal(tifffile.imread(own), tifffile.imread(other))
        summary = pd.read_csv(tmp_path / "results/segmentation/summary.csv")
        assert summary.cells.tolist() == [len(pd.read_csv(results / "segmentation/new_cells.csv"))]

    def test_the_command_finds_the_same(self, run, tmp_path):
        results, _ = run
        images = tifffile.imread(results / "drawn/images.tif")
        tifffile.imwrite(tmp_path / "new.tif", images[3], photometric="minisblack")
        assert (
            main(["predict", str(results / "model.pt"), str(tmp_path / "new.tif"), "--out", str(tmp_path)])
            == 0
        )
        expected = tifffile.imread(results / "segmentation/new_labels.tif")
        np.testing.assert_array_equal(
            tifffile.imread(tmp_path / "new_labels.tif").squeeze(), expected.squeeze()
        )
        (row,) = pd.read_csv(tmp_path / "summary.csv").to_dict("records")
        assert (row["cells"], row["labels"], row["table"]) == (
            expected.max(),
            "new_labels.tif",
            "new_cells.csv",
        )

    def test_python_trains_the_same_model_and_finds_the_same_boxes(self, run, tmp_path):
        results, _ = run
        images, labels = (tifffile.imread(results / f"drawn/{name}.tif") for name in ("images", "labels"))
        settings = {key: STUDY[key] for key in ("network", "training", "dataset", "prediction")}
        path = tmp_path / "model.pt"
        validation = images[2], labels[2]
        model = train(images[:2], labels[:2], validation=validation, model=path, threads=2, **settings)
        weights, expected = (
            networks.Model.load(own).network.state_dict() for own in (path, results / "models/ssd/model.pt")
        )
        assert all(torch.equal(weights[key], expected[key]) for key in expected)
        assert model.threshold == json.loads((results / "postprocessing/ssd.json").read_text())["threshold"]
        table = pd.read_csv(results / "detection/new_detections.csv", float_precision="round_trip")
        assert len(table)
        pd.testing.assert_frame_equal(model.detect(images[3]), table.drop(columns="volume"))
        expected = tifffile.imread(results / "segmentation/new_labels.tif").squeeze()
        np.testing.assert_array_equal(model.predict(images[3]), expected)
        with pytest.raises(InputError, match="without a cell probability"):
            model.predict(images[3], return_probability=True)
        unmasked = load(results / "variants/unmasked.pt", device="cpu")
        with pytest.raises(InputError, match=r"finds boxes, not labels. Write `model.detect\(image\)`"):
            unmasked.predict(images[3])
        segmenting = load(results / "variants/unet.pt", device="cpu")
        with pytest.raises(InputError, match=r"finds labels, not boxes. Write `model.predict\(image\)`"):
            segmenting.detect(images[3])


def test_masks_are_predicted_between_the_threshold_and_the_scores(tmp_path):
    """As a job of its own; a group of jobs must not depend on itself over it."""
    rules = planned(tmp_path, *write(tmp_path, DETECTOR | MASKS))
    assert {"choose_score", "predict_masks_annotated", "predict_masks_new", "write_tiffs_new"} <= rules
    assert not {name for name in planned(tmp_path, *write(tmp_path, DETECTOR)) if "mask" in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": TRAINING | {"best_by": "v_rand_thin"}}, "`training.best_by`: found v_rand_thin"),
        ({"network": SSD | {"aspect_ratios": [1, 2, 0.5]}}, "`network.aspect_ratios`: 0.5 is there twice"),
        ({"dataset": {"classes": {"background": 0, "small": 1}}}, "small is the name of a size of objects"),
        ({"network": SSD | {"size_range": [20, 9]}}, "network.size_range: found [20, 9], expected"),
        ({"training": TRAINING | {"loss_mask": 0.5}}, "`training.loss_mask`: not possible here"),
        ({"prediction": {"average_orientations": True}}, "prediction.average_orientations: found true"),
        (CONFIG | {"augmentation": {"smallest_window": 0.5}}, "`augmentation.smallest_window`: not possible"),
        (CONFIG | {"training": TRAINING | {"best_by": "box_ap"}}, "`training.best_by`: found box_ap, but"),
    ],
)
def test_settings_of_another_task_stop_the_dry_run(tmp_path, change, message):
    answer = snakemake(tmp_path, "-n", *write(tmp_path, DETECTOR | change))
    assert answer.returncode == 1
    assert message in answer.stderr


def test_a_detector_can_be_a_further_variant(tmp_path):
    """Then the results are those of the U-Net, and the detector is only scored."""
    config = CONFIG | {"study": {"variants": {"main": {}, "ssd": {"network": SSD, "training": TRAINING}}}}
    jobs = counts(tmp_path, *write(tmp_path, config))
    assert jobs["train_model"] == 2
    assert jobs["choose_boxes"] == jobs["choose_score"] == jobs["choose_postprocessing"] == 1
    assert "collect_detections" not in jobs


def test_the_example_trains_both_kinds_for_the_same_time(tmp_path):
    config = yaml.safe_load((ROOT / "config/study-detection.yaml").read_text())
    *_, shown = re.findall("```yaml\n(.*?)```", (ROOT / "docs/howto/detection.md").read_text(), re.DOTALL)
    shown = yaml.safe_load(shown)
    assert {key: config[key] for key in shown} == shown
    table = (ROOT / config["volumes"]).read_text()
    jobs = counts(tmp_path, *write(tmp_path, config | {"volumes": "volumes.tsv"}, table))
    assert (jobs["train_model"], jobs["measure_speed"]) == (6, 2)
    assert jobs["choose_score"] == jobs["choose_postprocessing"] == 3
    assert jobs["compare"] == 1


def test_boxes_of_a_volume_are_found_by_several_jobs(tmp_path):
    """One job removes the overlapping boxes of all parts."""
    large = DETECTOR | {"drawing": {"sections": 4, "size": 2560}, "jobs_per_volume": 2}
    arguments = write(tmp_path, large)
    jobs = counts(tmp_path, *arguments)
    assert jobs["predict_part"] == 2 * jobs["detect_in_parts"] > 0
    assert "join_predictions" not in jobs
    assert counts(tmp_path, *arguments, "--", "predict")["predict_part"] == jobs["predict_part"]
