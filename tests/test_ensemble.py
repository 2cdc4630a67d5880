"""The mean of several networks: in one model file, and in the workflow."""

import itertools
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import warm
import yaml
from bordure import starts, study
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import cli, layout, networks, provenance
from pipeline_lib.data.gray import summary
from pipeline_lib.data.normalisation import measure
from pipeline_lib.inference import averaging
from pipeline_lib.kernels import blocks
from pipeline_lib.networks import modelfile, transfer
from pipeline_lib.networks.model import Model, save_ensemble
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.ensemble import average_predictions, write_disagreement
from pipeline_lib.stages.joining import join_predictions
from pipeline_lib.stages.prediction import predict

ROOT = Path(__file__).parents[1]
ARRAYS = ("cell_probability", "disagreement")


def write_prediction(path, probability, classes=(), of_classes=None):
    with layout.create(path, {}) as file:
        if of_classes is not None:
            array = layout.add(file, layout.CLASS_PROBABILITY, of_classes.shape)
            array[:] = of_classes
            layout.write_classes(array, classes, classes[1:])
        layout.add(file, layout.CELL_PROBABILITY, probability.shape)[:] = probability
        layout.write_pixel_size(file, (0.5, 0.25), 3.0)
    return path


def arrays(path):
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file}


@given(
    st.lists(
        st.lists(st.floats(0, 1, width=32), min_size=6, max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_mean_and_deviation_are_those_of_numpy(values):
    members = [np.array(own, np.float32).reshape(2, 3) for own in values]
    mean, deviation = averaging.mean_and_deviation(members, np.s_[:, 1:])
    stacked = np.array(members, np.float64)[:, :, 1:]
    np.testing.assert_allclose(mean, stacked.mean(0), atol=1e-15)
    np.testing.assert_allclose(deviation, stacked.std(0), atol=1e-15)
    equal, none = averaging.mean_and_deviation([members[0]] * 7, np.s_[:])
    assert np.array_equal(equal.astype(np.float32), members[0]) and not none.any()


def test_blocks_are_the_mean_of_whole_sections_also_of_classes(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    found = []
    for number in range(3):
        of_classes = rng.dirichlet([1, 1, 1], (2, 40, 50)).transpose(3, 0, 1, 2).astype(np.float32)
        path = tmp_path / f"{number}.h5"
        write_prediction(path, of_classes[1:].sum(0), ["background", "a", "b"], of_classes)
        found.append(arrays(path))
    paths = [tmp_path / f"{number}.h5" for number in range(3)]
    monkeypatch.setattr(averaging, "SIDE", 16)
    average_predictions(paths, tmp_path / "mean.h5")
    mean = arrays(tmp_path / "mean.h5")
    for name in ("cell_probability", "class_probability"):
        expected = (sum(own[name].astype(float) for own in found) / 3).astype(np.float32)
        np.testing.assert_array_equal(mean[name], expected)
    np.testing.assert_allclose(
        mean["disagreement"], np.std([own["cell_probability"].astype(float) for own in found], 0), atol=1e-7
    )
    with layout.require(tmp_path / "mean.h5") as file:
        assert layout.classes_of(file["class_probability"]) == (["background", "a", "b"], ["a", "b"])
        assert layout.pixel_size(file) == (0.5, 0.25) and layout.section_spacing(file) == 3.0
    write_disagreement(tmp_path / "mean.h5", tmp_path / "d.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "d.tif"), mean["disagreement"])

    average_predictions(paths[:1], tmp_path / "one.h5")
    assert "disagreement" not in arrays(tmp_path / "one.h5")
    with pytest.raises(InputError, match=r"one\.h5: has no `disagreement`"):
        write_disagreement(tmp_path / "one.h5", tmp_path / "none.tif")


def test_predictions_of_other_volumes_or_classes_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    a = write_prediction(tmp_path / "a.h5", rng.random((1, 9, 8)))
    b = write_prediction(tmp_path / "b.h5", rng.random((1, 8, 9)))
    c = write_prediction(tmp_path / "c.h5", rng.random((1, 9, 8)), ["x", "y"], rng.random((2, 1, 9, 8)))
    with pytest.raises(InputError, match=r"b\.h5: found the shape \(1, 8, 9\), but .*a\.h5 has the shape"):
        average_predictions([a, b], tmp_path / "mean.h5")
    with pytest.raises(InputError, match=r"c\.h5: found .* and the classes x, y, but .*a\.h5 has"):
        average_predictions([a, c], tmp_path / "mean.h5")
    assert not (tmp_path / "mean.h5").exists()


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_networks_of_other_pixel_sizes_have_the_mean_scale_in_any_order(tmp_path, order):
    for number, pixels in enumerate((1.0, 1.0, 1.6)):
        path = write_prediction(tmp_path / f"{number}.h5", np.zeros((1, 4, 4)))
        with h5py.File(path, "r+") as file:
            layout.write_pixel_size(file, None, pixels_per_model_pixel=pixels)
    average_predictions([tmp_path / f"{number}.h5" for number in order], tmp_path / "mean.h5")
    with layout.require(tmp_path / "mean.h5") as file:
        assert layout.pixels_per_model_pixel(file) == pytest.approx(1.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset, three networks with their own normalisation, and the ensemble of them."""
    folder = tmp_path_factory.mktemp("ensemble")
    raw = np.random.default_rng(0).integers(0, 255, (1, 2, 300, 51), np.uint8)
    with layout.create(folder / "dataset.h5", {}) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        layout.write_findings(file, {"gray": summary(raw), "annotation": None})
    plan = networks.plan("unet", depth=1, base_channels=4)
    members = []
    for number in range(3):
        torch.manual_seed(number)
        normalisation = measure("mean_std", [raw[..., : 20 + 10 * number]])
        prior = [] if number else [0.5, -0.5]
        members.append(
            Model(plan, plan.build(), normalisation, classes=["background", "cell"], log_prior=prior)
        )
        members[-1].save(folder / f"{number}.pt")
    save_ensemble(members, folder / "model.pt", provenance={}, application={})
    save_ensemble([members[1]] * 3, folder / "same.pt", provenance={}, application={})
    return folder


def predicted(folder, model, name, **settings):
    predict(
        folder / "dataset.h5", folder / model, folder / name, precision="float32", device="cpu", **settings
    )
    return arrays(folder / name)


def test_a_model_file_predicts_the_mean_of_its_members_to_the_last_bit(folder):
    found = predicted(folder, "model.pt", "ensemble.h5")
    for number in range(3):
        predicted(folder, f"{number}.pt", f"{number}.h5")
    average_predictions([folder / f"{number}.h5" for number in range(3)], folder / "mean.h5")
    expected = arrays(folder / "mean.h5")
    assert found.keys() == expected.keys() == {*ARRAYS}
    for name in ARRAYS:
        np.testing.assert_array_equal(found[name], expected[name])
    assert expected["disagreement"].max() > 0.01
    assert not [*folder.glob("*member*")]


def test_equal_members_are_one_of_them_to_the_last_bit(folder):
    found, one = predicted(folder, "same.pt", "same.h5"), predicted(folder, "1.pt", "one.h5")
    np.testing.assert_array_equal(found["cell_probability"], one["cell_probability"])
    assert not found["disagreement"].any()


@pytest.mark.parametrize("jobs", [2, 5])
def test_joined_parts_are_the_whole_prediction(folder, jobs):
    whole = predicted(folder, "model.pt", "whole.h5", tile=92)
    number = len(blocks.parts((2, 300, 51), jobs))
    for part in range(1, number + 1):
        predicted(folder, "model.pt", f"{jobs}-{part}.h5", tile=92, part=part, jobs=jobs)
    parts = [folder / f"{jobs}-{part}.h5" for part in range(1, number + 1)]
    join_predictions(parts, folder / "joined.h5", shape=(2, 300, 51), jobs=jobs)
    joined = arrays(folder / "joined.h5")
    for name in ARRAYS:
        np.testing.assert_allclose(joined[name], whole[name], atol=1e-5)


def test_one_member_is_prepared_at_a_time(folder, monkeypatch):
    """So memory does not grow with their number. Each is applied to all sections before the next one."""
    from pipeline_lib.stages import prediction

    loaded = []
    load = Model.of.__func__
    monkeypatch.setattr(Model, "of", classmethod(lambda cls, *given: loaded.append(1) or load(cls, *given)))
    prediction._load.cache_clear()
    predicted(folder, "model.pt", "again.h5")
    assert len(loaded) == 3 and prediction._load.cache_info().maxsize == 1


def test_where_one_network_is_needed_an_ensemble_is_refused(folder):
    message = r"model\.pt: is an ensemble of 3 networks, expected a single one. Name the file of one of its"
    with pytest.raises(InputError, match=message):
        Model.load(folder / "model.pt")
    with pytest.raises(InputError, match=r"training\.start_from: .*" + message):
        transfer.plan_of(folder / "model.pt")
    described = modelfile.describe(folder / "model.pt")
    assert modelfile.members(described) == 3 and modelfile.members(modelfile.describe(folder / "0.pt")) == 1
    assert described["parameters"] == 3 * modelfile.describe(folder / "0.pt")["parameters"]


def test_networks_of_other_settings_or_tasks_are_no_ensemble(folder, tmp_path):
    one = Model.load(folder / "0.pt")
    other = networks.plan("unet", depth=1, base_channels=5)
    wider = Model(other, other.build(), one.normalisation, classes=one.classes)
    with pytest.raises(InputError, match="the members 1 and 2 of the ensemble differ in the settings"):
        save_ensemble([one, wider], tmp_path / "model.pt", provenance={}, application={})
    one.task = "detection"
    with pytest.raises(InputError, match="finds boxes, and boxes have no mean"):
        save_ensemble([one, one], tmp_path / "model.pt", provenance={}, application={})
    assert not (tmp_path / "model.pt").exists()


def trained(folds=(([], []),), **given):
    base = {"volumes": "my.tsv", "training": {"tile": 204, "iterations": 4}}
    return study.models(study.variants(base | given), [*folds], channels=1)


def test_each_volume_is_predicted_by_members_that_did_not_learn_from_it():
    folds = [(["b", "c"], ["a"]), (["a", "c"], ["b"]), (["a", "b"], ["c"])]
    found = study.ensemble(
        trained(folds, seeds=[1], study={"variants": {"plain": None, "other": {"training": {"tile": 188}}}})
    )
    assert [member.name for member in found.members] == [
        "plain", "plain-seed1", "plain-fold1", "plain-fold1-seed1", "plain-fold2", "plain-fold2-seed1"
    ]  # fmt: skip
    assert (found.name, found.variant, [*found.validation], found.train) == (
        "ensemble",
        "ensemble",
        ["a", "b", "c"],
        [],
    )
    for volume in "abc":
        chosen = found.predicting(volume)
        assert len(chosen) == 2 and not any(volume in member.train for member in chosen)
    assert found.predicting("new") == [*found.members]


def test_refusals_in_the_dry_run():
    with pytest.raises(InputError, match="`ensemble`: there is only one training, so there is nothing to"):
        study.ensemble(trained())
    with pytest.raises(InputError, match="`ensemble`: the network ssd finds boxes, and boxes of several"):
        study.ensemble(trained(network={"name": "ssd"}, seeds=[1]))
    with pytest.raises(InputError, match="found the name `ensemble`, which is a name of the workflow"):
        trained(study={"variants": {"ensemble": None}})
    assert starts.training_of(study.ensemble(trained(seeds=[1])), trained(seeds=[1]))


TABLE = """volume\timages\tannotation\tsections\tsplit
first\timages.tif\tlabels.tif\t0-3\ttrain
score\timages.tif\tlabels.tif\t4\ttest
new\timages.tif\t\t4\tpredict
"""
CONFIG = {
    "volumes": "volumes.tsv",
    "drawing": {"sections": 5, "size": 96, "cell_diameter": 24},
    "network": {"depth": 1, "base_channels": 4},
    "training": {"tile": 80, "iterations": 4, "validation_interval": 2, "optimizer": "adam", "device": "cpu"},
    "prediction": {"device": "cpu"},
    "ensemble": True,
}


def snakemake(directory, *arguments):
    where = ["--snakefile", ROOT / "Snakefile", "--directory", directory, "--cores", "2"]
    return warm.snakemake(*where, *arguments)


def write(directory, config, table=TABLE):
    (directory / "volumes.tsv").write_text(table)
    (directory / "my.yaml").write_text(yaml.safe_dump(config))
    return "--configfile", str(directory / "my.yaml")


def planned(directory, *arguments):
    answer = snakemake(directory, *arguments, "-n")
    assert answer.returncode == 0, answer.stderr
    found = re.findall(r"^(\w+) +(\d+)$", answer.stdout, re.MULTILINE)
    return {rule: int(number) for rule, number in found}, answer.stderr


def models_behind(directory, file):
    """Return the model files from which a file was made, by its records."""
    links = provenance.chain(directory / file)
    return [directory / path for path in links if Path(path).name == "model.pt"]


def learned_from(model):
    """Return the volumes that a network was trained on: in its record, before those that validate it."""
    inputs = map(Path, provenance.find_record(model)["inputs"])
    return {path.stem for path in itertools.takewhile(lambda path: path.parent.name == "dataset", inputs)}


@pytest.mark.slow
class TestRun:
    """Two folds, whose mean segments the test volume and new images."""

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, tmp_path_factory):
        directory = tmp_path_factory.mktemp("run")
        arguments = write(directory, CONFIG | {"folds": 2})
        answer = snakemake(directory, *arguments)
        assert answer.returncode == 0, answer.stderr
        return directory, arguments, answer

    def test_the_report_is_that_of_the_ensemble(self, run):
        page = (run[0] / "results/report.html").read_text()
        assert "<b>ensemble</b> has a Rand error of" in page and "; its members have" in page
        assert "<td>validation</td>" in page and "<td>train</td>" not in page
        assert "disagreement" in page
        table = pd.read_csv(run[0] / "results/scores_spread.csv")
        assert {*table.seeds} <= {0, 1, 2} and table.seeds.max() == 2  # of the members alone

    def test_the_cost_is_stated(self, run):
        assert "ensemble: the mean of unet, unet-fold1; its prediction takes 2 times as long" in run[2].stderr
        assert (
            "its prediction takes 2 times as long as that of one"
            in (run[0] / "results/report.html").read_text()
        )

    def test_no_image_is_predicted_by_a_network_that_learned_from_it(self, run):
        """Shown by the records of the files, which name what the networks of a prediction learned from."""
        for name in ("first-fold0", "first-fold1"):
            [model] = models_behind(run[0], f"results/prediction/ensemble/{name}.h5")
            assert learned_from(model) and name not in learned_from(model)
        for name in ("score", "new"):
            models = models_behind(run[0], f"results/prediction/ensemble/{name}.h5")
            assert [*map(learned_from, models)] == [{"first-fold1"}, {"first-fold0"}]

    def test_the_threshold_is_chosen_on_all_folds_together(self, run):
        results = run[0] / "results"
        chosen = json.loads((results / "postprocessing/ensemble.json").read_text())
        used = {Path(path).stem for path in chosen["provenance"]["inputs"]}
        assert used == {"first-fold0", "first-fold1"}
        table = pd.read_csv(results / "scores/ensemble/first-fold1.csv")
        assert {*table.split} == {"validation"} and table.seed.isna().all()

    def test_the_disagreement_is_that_of_the_networks(self, run):
        results = run[0] / "results"
        members = [
            arrays(results / f"prediction/{name}/new.h5")["cell_probability"]
            for name in ("unet", "unet-fold1")
        ]
        found = tifffile.imread(results / "segmentation/new_disagreement.tif")
        np.testing.assert_allclose(found, np.std(members, 0, dtype=float), atol=1e-7)
        assert found.max() > 0
        cells = pd.read_csv(results / "segmentation/new_cells.csv")
        labels = tifffile.imread(results / "segmentation/new_labels.tif")
        expected = [found[labels == label].mean() for label in cells.label]
        np.testing.assert_allclose(cells.disagreement_mean, expected, rtol=1e-5)
        assert not (results / "segmentation/first-fold1_disagreement.tif").exists()

    def test_the_model_alone_gives_the_results_of_the_workflow(self, run, tmp_path):
        results = run[0] / "results"
        tifffile.imwrite(tmp_path / "new.tif", tifffile.imread(results / "drawn/images.tif")[4])
        words = ["predict", str(results / "model.pt"), str(tmp_path / "new.tif"), "--out", str(tmp_path)]
        assert cli.main([*words, "--device", "cpu"]) == 0
        for name in ("labels", "cell_probability", "disagreement"):
            found, expected = (
                tifffile.imread(path / f"new_{name}.tif") for path in (tmp_path, results / "segmentation")
            )
            np.testing.assert_array_equal(found, expected)

    def test_a_run_with_the_model_gives_the_same(self, run, tmp_path):
        results = run[0] / "results"
        (tmp_path / "new.tif").write_bytes((results / "drawn/images.tif").read_bytes())
        table = "volume\timages\tannotation\tsections\tsplit\nnew\tnew.tif\t\t4\tpredict\n"
        config = {
            "model": str(results / "model.pt"),
            "volumes": "volumes.tsv",
            "prediction": {"device": "cpu"},
        }
        answer = snakemake(tmp_path, *write(tmp_path, config, table))
        assert answer.returncode == 0, answer.stderr
        for name in ("labels", "disagreement"):
            found, expected = (
                tifffile.imread(path / f"segmentation/new_{name}.tif")
                for path in (tmp_path / "results", results)
            )
            np.testing.assert_array_equal(found, expected)

    def test_without_the_ensemble_nothing_is_trained_again(self, run):
        directory, _, _ = run
        config = CONFIG | {"folds": 2}
        del config["ensemble"]
        (directory / "single.yaml").write_text(yaml.safe_dump(config))
        jobs, _ = planned(directory, "--configfile", str(directory / "single.yaml"))
        assert "train_model" not in jobs and jobs["package_model"] == 1


@pytest.mark.slow
def test_parts_of_large_volumes_are_averaged_by_the_members_of_their_fold(tmp_path):
    config = CONFIG | {"folds": 2, "seeds": [1], "jobs_per_volume": 2, "memory_gb": 64}
    config["drawing"] = {"sections": 5, "size": 3000}
    jobs, _ = planned(tmp_path, *write(tmp_path, config))
    # two volumes of folds by two seeds each, test and new volume by all four networks, two parts each
    assert jobs["predict_part"] == (2 * 2 + 2 * 4) * 2
    assert jobs["average_part"] == 4 * 2
    # the ensemble joins all volumes, its members those on which they are scored
    assert jobs["join_predictions"] == 4 + 4 * 2
    assert "average_test" not in jobs and jobs["write_joined_tiffs"] == 4
    assert sum(number for rule, number in jobs.items() if rule.startswith("write_disagreement")) >= 2


def test_a_warning_that_concerns_all_members_is_logged_once(folder, tmp_path, caplog):
    members = [Model.load(folder / f"{number}.pt") for number in range(2)]
    for member in members:
        member.pixel_size = (1.0, 1.0)
    save_ensemble(members, tmp_path / "model.pt", provenance={}, application={})
    shutil.copy(folder / "dataset.h5", tmp_path)
    with h5py.File(tmp_path / "dataset.h5", "a") as file:
        layout.write_pixel_size(file, (0.5, 0.5))
    predicted(tmp_path, "model.pt", "found.h5")
    assert caplog.text.count("pixels of 0.5 um, but the model was trained with 1 um") == 1
