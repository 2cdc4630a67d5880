"""Detectors in the workflow: a study of a detector and a U-Net, and settings that are refused."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from test_workflow import CONFIG, counts, planned, snakemake, write

from pipeline_lib.api.models import Model
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
STUDY = DETECTOR | {"study": {"variants": {"ssd": {}, "unet": UNET}}}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished study whose main model is a detector: its folder and its arguments."""
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
        for network in ("ssd", "unet"):
            own = scores[scores.network == network]
            assert {*own.volume} == {"choose", "score"}
            for metric in ("box_ap_50", "box_f1", "count_error"):
                assert own[own.metric == metric].value.notna().all()
        assert {*pd.read_csv(results / "scores.csv").network} >= {"ssd", "smoothed_raw"}

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
        summary = pd.read_csv(tmp_path / "results/detection/summary.csv")
        assert summary.cells.tolist() == [len(expected)]

    def test_the_interface_for_labels_names_the_command_for_boxes(self, run):
        with pytest.raises(InputError, match="finds boxes, not labels"):
            Model(run[0] / "model.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": TRAINING | {"best_by": "v_rand_thin"}}, "`training.best_by`: found v_rand_thin"),
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


def test_boxes_of_a_volume_are_found_by_several_jobs(tmp_path):
    """One job removes the overlapping boxes of all parts."""
    large = DETECTOR | {"drawing": {"sections": 4, "size": 2560}, "jobs_per_volume": 2}
    arguments = write(tmp_path, large)
    jobs = counts(tmp_path, *arguments)
    assert jobs["predict_part"] == 2 * jobs["detect_in_parts"] > 0
    assert "join_predictions" not in jobs
    assert counts(tmp_path, *arguments, "--", "predict")["predict_part"] == jobs["predict_part"]
