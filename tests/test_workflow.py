"""The workflow from the command line: a small run from drawing to report, re-runs, and bad input."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import warm
import yaml
from bordure import replacement

from benchmarks import bench_workflow
from pipeline_lib import networks, provenance
from pipeline_lib.data.normalisation import measure
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.modelfile import describe
from pipeline_lib.runtime.files import read_json
from pipeline_lib.scores import SUMS
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.prediction import predict
from pipeline_lib.stages.segmentation import segment, write_tiffs
from pipeline_lib.stages.synthesis import draw_volume

ROOT = Path(__file__).parents[1]
TABLE = """volume\timages\tannotation\tsections\tsplit
learn\timages.tif\tlabels.tif\t0-1\ttrain
choose\timages.tif\tlabels.tif\t2\tvalidation
score\timages.tif\tlabels.tif\t3\ttest
new\timages.tif\t\t3\tpredict
"""
CONFIG = {
    "volumes": "volumes.tsv",
    "drawing": {"sections": 4, "size": 96, "cell_diameter": 24},
    "network": {"depth": 1, "base_channels": 4},
    "training": {"tile": 80, "iterations": 4, "validation_interval": 2, "optimizer": "adam", "device": "cpu"},
    "prediction": {"device": "cpu"},
    "report": {"title": "Small run", "volumes": 3},
}
FILES = {"volumes": "volumes.tsv", "data_dir": "."}  # instead of a drawing


def snakemake(directory: Path, *arguments: str) -> subprocess.CompletedProcess:
    where = ["--snakefile", ROOT / "Snakefile", "--directory", directory, "--cores", "2"]
    return warm.snakemake(*where, *arguments)


def write(directory: Path, config: dict, table: str = TABLE) -> tuple[str, str]:
    """Write config and table, and return the arguments that run them."""
    (directory / "volumes.tsv").write_text(table)
    (directory / "my.yaml").write_text(yaml.safe_dump(config))
    return "--configfile", str(directory / "my.yaml")


def write_stacks(directory: Path) -> None:
    """Write image files whose headers differ: images, labels, small, rgb, big and truncated."""
    stack = np.zeros((4, 96, 96), np.uint8)
    for name, array in {"images": stack, "labels": stack, "small": stack[:, 1:]}.items():
        tifffile.imwrite(directory / f"{name}.tif", array, photometric="minisblack")
    tifffile.imwrite(
        directory / "channels.tif",
        np.stack([stack] * 2, axis=1),
        metadata={"axes": "ZCYX"},
        photometric="minisblack",
    )
    with h5py.File(directory / "big.h5", "w") as file:  # a header, and one chunk
        file.create_dataset("raw", (1, 20_000, 20_000), np.uint8, chunks=(1, 256, 256))[0, 0, 0] = 1
    (directory / "truncated.tif").write_bytes((directory / "images.tif").read_bytes()[:20_000])


def planned(directory: Path, *arguments: str) -> set[str]:
    """Return the names of the rules that would run."""
    return {*counts(directory, *arguments)}


def counts(directory: Path, *arguments: str) -> dict[str, int]:
    """Return how many jobs of each rule would run."""
    answer = snakemake(directory, "-n", *arguments)
    assert answer.returncode == 0, answer.stderr
    found = re.findall(r"^(\w+) +(\d+)$", answer.stdout + answer.stderr, re.MULTILINE)
    return {rule: int(number) for rule, number in found if rule not in ("total", "all", "default")}


def test_dry_run_warns_if_the_network_sees_mostly_mirrored_pixels(tmp_path):
    """And only then; the settings of lists pass through the config."""
    layers = {"channels": [4, 4, 4, 4], "convolutions": [2], "fc_channels": [4]}

    def printed(fc_size, tile):
        network = {"name": "fcn8s", **layers, "fc_size": fc_size}
        arguments = write(tmp_path, CONFIG | {"network": network, "training": {"tile": tile}})
        answer = snakemake(tmp_path, "-n", *arguments)
        assert answer.returncode == 0, answer.stderr
        return [line for line in answer.stderr.splitlines() if line.startswith("context: ")]

    assert printed(fc_size=1, tile=108) == []
    assert printed(fc_size=7, tile=204) == [
        "context: fcn8s sees 92 px to each side of a pixel. In 4 of 4 volumes more than half of that lies "
        "beyond the edges and is mirrored (73% in learn, 96 x 96 px). Choose a network with less context, "
        "for example with fewer poolings, or larger images."
    ]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A finished run: its folder, its arguments, and its output."""
    directory = tmp_path_factory.mktemp("run")
    arguments = write(directory, CONFIG)
    answer = snakemake(directory, *arguments)
    assert answer.returncode == 0, answer.stderr
    return directory, arguments, answer.stdout + answer.stderr


@pytest.mark.slow
class TestFinishedRun:
    def test_the_last_lines_state_scores_report_and_next_step(self, run):
        directory, _, output = run
        for name in ("report.html", "scores.csv", "segmentation", "model.pt"):
            assert (directory / "results" / name).exists()
        scores = pd.read_csv(directory / "results/scores.csv")
        rows = scores[scores.split == "test"]
        texts = []
        for metric, name, best, direction in (
            ("rand_error", "Rand error", min, "lower"),
            ("v_rand_thin", "V-Rand", max, "higher"),
        ):
            means = {}
            for network in rows.network.unique():
                chosen = json.loads((directory / f"results/postprocessing/{network}.json").read_text())
                own = rows[(rows.network == network) & (rows.metric.isin([metric, "uniform_sections"]))]
                own = own[(own.threshold - chosen["threshold"]).abs() < 1e-9].groupby("metric").value.mean()
                means[network] = own
            fair = [m[metric] for n, m in means.items() if n != "unet" and m["uniform_sections"] == 0]
            beside = f"best baseline {best(fair):.4f}, " if fair else ""
            texts.append(f"{name} {means['unet'][metric]:.4f} ({beside}{direction} is better)")
        warnings = [
            found["text"]
            for found in json.loads((directory / "results/warnings.json").read_text())["warnings"]
        ]
        number = f" ({len(warnings)} warning{'s' * (len(warnings) != 1)})" if warnings else ""
        noted = "\n    ".join([number, *warnings])
        assert (
            f"scores        {', '.join(texts)}; 1 test volume\n"
            f"report        results/report.html{noted}\n"
            "next          bordure predict results/model.pt NEW.tif --out cells\n"
        ) in output

    def test_a_dry_run_says_each_thing_once(self, run, tmp_path):
        arguments = write(tmp_path, CONFIG)
        answer = snakemake(tmp_path, "-n", *arguments)
        printed = answer.stdout + answer.stderr
        assert printed.count("Job stats") == printed.count("memory: ") == 1 and "Reasons" not in printed
        assert printed.count("train_model") == printed.count("evaluate_held_out") == 1
        again = snakemake(run[0], "-n", *run[1], "--config", "seed=9", "replace=True")
        printed = again.stdout + again.stderr
        assert re.search(r"Reasons:\n    params have changed [a-z ]+: draw_volume\n", printed)
        assert printed.count("Job stats") == 1

    def test_scores_network_and_baselines_on_validation_and_test_volumes(self, run):
        scores = pd.read_csv(run[0] / "results/scores.csv")
        assert set(zip(scores.volume, scores.split, scores.network, strict=True)) == {
            (volume, split, network)
            for volume, split in (("choose", "validation"), ("score", "test"))
            for network in ("unet", "constant", "smoothed_raw")
        }

    def test_segments_all_but_the_training_volume(self, run):
        folder = run[0] / "results/segmentation"
        assert {path.name for path in folder.glob("*_labels.tif")} == {
            "choose_labels.tif",
            "score_labels.tif",
            "new_labels.tif",
        }
        assert tifffile.imread(folder / "score_labels.tif").shape[-2:] == (96, 96)
        # the same section with and without an annotation, which prediction must not use
        names = ("score_cell_probability.tif", "new_cell_probability.tif")
        assert np.array_equal(*(tifffile.imread(folder / name) for name in names))

    def test_model_undoes_the_class_weights(self, run):
        frequencies = np.array(read_json(run[0] / "results/statistics.json")["class_frequencies"])
        for path in ("models/unet/model.pt", "model.pt"):  # the latter is what `bordure predict` uses
            found = describe(run[0] / "results" / path)["log_prior"]
            assert found == pytest.approx(np.log(2 * frequencies), abs=1e-9)

    def test_model_was_trained_with_the_threads_of_its_rule(self, run):
        model = Model.load(run[0] / "results/models/unet/model.pt")
        assert model.provenance["environment"]["threads"] == 2  # the rule's 16, limited by --cores

    def test_the_model_alone_gives_the_results_of_the_workflow(self, run, tmp_path):
        shutil.copy(run[0] / "results/model.pt", tmp_path)
        with h5py.File(run[0] / "results/dataset/new.h5") as file:
            tifffile.imwrite(tmp_path / "new.tif", file["raw"][0], photometric="minisblack")
        words = ["model.pt", "new.tif", "--out", "cells", "--device", "cpu"]
        command = [warm.python(), "-m", "pipeline_lib.cli", "predict", *words]
        subprocess.run(command, cwd=tmp_path, env=os.environ | warm.environment(str(ROOT)), check=True)
        for end in ("labels", "cell_probability"):
            found = tifffile.imread(tmp_path / f"cells/new_{end}.tif")
            expected = tifffile.imread(run[0] / f"results/segmentation/new_{end}.tif")
            assert found.dtype == expected.dtype and np.array_equal(found, expected)
        scores = Model.load(tmp_path / "model.pt").application["scores"]
        every = pd.read_csv(run[0] / "results/scores.csv", float_precision="round_trip")
        own = every[(every.network == "unet") & (every.metric == "seg") & (every.split == "test")]
        assert scores["test"]["seg"] in own.value.to_numpy()
        assert "brier_score" in scores["test"]
        assert not any(name.startswith("reliability_") for name in scores["test"])

    def test_a_run_with_the_model_gives_the_same_and_predicts_a_new_row_alone(self, run, tmp_path):
        with h5py.File(run[0] / "results/dataset/new.h5") as file:
            for name in ("one", "other"):
                tifffile.imwrite(tmp_path / f"{name}.tif", file["raw"][0], photometric="minisblack")
        model = str(run[0] / "results/model.pt")
        config = {"model": model, "volumes": "volumes.tsv", "data_dir": ".", "prediction": {"device": "cpu"}}
        header, row = TABLE.splitlines()[0], "one\tone.tif\t\t\tpredict"
        arguments = write(tmp_path, config, f"{header}\n{row}\n")
        answer = snakemake(tmp_path, *arguments)
        assert answer.returncode == 0, answer.stderr
        folder, reference = (root / "results/segmentation" for root in (tmp_path, run[0]))
        for end in ("labels", "cell_probability"):
            found, expected = tifffile.imread([folder / f"one_{end}.tif", reference / f"new_{end}.tif"])
            assert np.array_equal(found, expected)
        assert (folder / "one_cells.csv").read_bytes() == (reference / "new_cells.csv").read_bytes()
        summary = pd.read_csv(folder / "summary.csv")
        cells = tifffile.imread(folder / "one_labels.tif").max()
        assert summary.to_dict("records") == [
            {"image": "one.tif", "cells": cells, "labels": "one_labels.tif", "table": "one_cells.csv"}
            | {"error": pytest.approx(np.nan, nan_ok=True)}
        ]
        write(tmp_path, config, f"{header}\nother\tother.tif\t\t\tpredict\n{row}\n")
        stages = ("build_dataset", "predict", "segment", "measure_cells", "write_tiffs")
        assert planned(tmp_path, *arguments) == {*(f"{stage}_new_2" for stage in stages), "summarise"}

    def test_report_shows_the_title(self, run):
        assert "Small run" in (run[0] / "results/report.html").read_text()

    def test_the_number_of_volumes_in_the_viewer_is_that_of_the_config(self, run):
        layers = (run[0] / "results/figures/layers").glob("*.json")
        assert {path.stem for path in layers} == {"score", "choose", "new"}

    def test_the_causes_of_all_errors_are_in_one_table_and_in_the_report(self, run):
        results = run[0] / "results"
        table = pd.read_csv(results / "scores_causes.csv")
        assert {*zip(table.volume, table.split, table.network, strict=True)} == {
            ("choose", "validation", "unet"),
            ("score", "test", "unet"),
        }
        scores = pd.read_csv(results / "scores.csv")
        threshold = read_json(results / "postprocessing/unet.json")["threshold"]
        scores = scores[(scores.network == "unet") & (abs(scores.threshold - threshold) < 1e-9)]
        for volume, own in table.groupby("volume"):
            at = scores[scores.volume == volume].drop_duplicates("metric").set_index("metric").value
            assert own.set_index("cause").seg["as_found"] == pytest.approx(at["seg"], nan_ok=True)
        report = (results / "report.html").read_text()
        assert "Errors by cause" in report

    def test_every_job_left_a_log_and_a_benchmark(self, run):
        directory, _, output = run
        results = directory / "results"
        logs, benchmarks = (
            {path.relative_to(results / folder).with_suffix("") for path in (results / folder).rglob("*.*")}
            for folder in ("logs", "benchmarks")
        )
        assert logs == benchmarks
        assert re.search(rf"^total +{len(logs) + 1}$", output, re.MULTILINE)  # with `all`, which does nothing

    def test_every_log_ends_with_time_and_memory(self, run):
        for log in (run[0] / "results/logs").rglob("*.log"):
            assert bench_workflow.DONE.search(log.read_text().splitlines()[-1]), log

    def test_second_run_does_nothing_within_15_seconds(self, run):
        start = time.monotonic()
        answer = snakemake(run[0], *run[1])
        assert "Nothing to be done" in answer.stderr
        assert time.monotonic() - start < 15

    def test_another_sigma_does_not_repeat_drawing_and_datasets(self, run):
        assert planned(run[0], *run[1], "--config", "weight_map={sigma: 3}") == {
            "build_weight_map_train",
            "build_weight_map_test",
            "train_model",
            "predict_validation",
            "predict_test",
            "predict_new",
            "choose_postprocessing",
            "segment_annotated",
            "segment_new",
            "evaluate_held_out",
            "write_tiffs_held_out",
            "write_tiffs_new",
            "measure_cells_held_out",
            "measure_cells_new",
            "collect_scores",
            "draw_figures",
            "package_model",
            "report",
        }

    def test_a_new_volume_to_predict_does_not_repeat_the_training(self, run):
        table = run[0] / "volumes.tsv"
        table.write_text(f"{TABLE}newer\timages.tif\t\t2\tpredict\n")
        try:
            rules = planned(*run[:1], *run[1])
        finally:
            table.write_text(TABLE)
        made = {f"{stage}_new_2" for stage in ("build_dataset", "predict", "segment", "write_tiffs")}
        assert made <= rules and {"check_volumes", "require_accepted", "report"} <= rules
        assert not rules & {
            "measure_statistics",
            "build_weight_map_train",
            "train_model",
            "predict_validation",
        }
        assert not {rule for rule in rules if rule.endswith(("_new", "_new_1"))}

    def test_accepted_doubts_repeat_only_the_check_and_the_report(self, run):
        accepted = ("--config", "check={accept: [context]}")
        assert planned(run[0], *run[1], *accepted) == {"check_volumes", "require_accepted", "report"}

    @pytest.mark.parametrize(
        ("setting", "rule"),
        [
            ("training={iterations: 5}", "train_model"),
            ("segmentation={minimum_size: 9}", "choose_postprocessing"),
            ("report={volumes: 2}", "draw_figures"),
        ],
    )
    def test_a_repeated_check_does_not_hide_other_changes(self, run, setting, rule):
        changed = ("--config", "check={accept: [context]}", setting, "replace=True")
        assert {"check_volumes", rule, "report"} <= planned(run[0], *run[1], *changed)

    def test_the_check_is_listed_and_linked(self, run):
        assert not re.search("^check ", run[2], re.MULTILINE)  # as there are no doubts
        report = (run[0] / "results/report.html").read_text()
        assert 'href="check.html"' in report and "no doubts" in report

    def test_another_title_repeats_only_the_report(self, run):
        assert planned(run[0], *run[1], "--config", "report={title: Other}") == {"report"}

    def test_another_learning_rate_does_not_repeat_weight_maps(self, run):
        rules = planned(run[0], *run[1], "--config", "training={learning_rate: 0.01}")
        assert {"train_model", "predict_validation"} <= rules
        earlier = {"draw_volume", "build_dataset_train", "measure_statistics", "build_weight_map_train"}
        assert not rules & earlier

    def test_a_trained_model_is_replaced_only_with_leave(self, run):
        model, other = run[0] / "results/models/unet/model.pt", ("--config", "training={iterations: 5}")
        before = model.read_bytes()
        message = (
            r"replaces results/models/unet/model.pt \(trained [-0-9]+ [0-9:]+, v_rand_thin 0\.\d+ on test\): "
        )
        message += "`training.iterations` is 5, was 4\n"
        dry = snakemake(run[0], "-n", *run[1], *other)
        assert dry.returncode == 0 and re.search(message, dry.stderr)
        refused = snakemake(run[0], *run[1], *other)
        assert refused.returncode == 1 and re.search(message, refused.stderr)
        assert (
            "this run would replace it (`training.iterations` is 5, was 4). Add `--replace`" in refused.stderr
        )
        assert model.read_bytes() == before and not (model.parent / "replaced").exists()
        assert "replaces" not in snakemake(run[0], "-n", *run[1], "--config", "report={title: Other}").stderr

    def test_changed_data_of_a_model_are_found_by_their_records(self, run, monkeypatch):
        monkeypatch.chdir(run[0])
        model = Path("results/models/unet/model.pt")
        settings = describe(model)["provenance"]["settings"]
        datasets = [Path(f"results/dataset/{name}.h5") for name in ("learn", "choose")]
        assert replacement.changes(model, settings, datasets) == ""
        assert (
            replacement.changes(model, settings, [*datasets, Path("results/dataset/score.h5")])
            == "its data changed"
        )
        assert replacement.changes(model, settings | {"seed": 7}, datasets) == "`seed` is 7, was 0"

    def test_a_replaced_model_is_kept_with_its_scores(self, run, tmp_path):
        directory = shutil.copytree(run[0], tmp_path / "again", copy_function=shutil.copy2)
        old = (directory / "results/model.pt").read_bytes()
        arguments = (*run[1], "--config", "training={iterations: 5}", "replace=True")
        assert snakemake(directory, *arguments, "--until", "train_model").returncode == 0
        (kept,) = (directory / "results/models/unet/replaced").iterdir()
        assert kept.read_bytes() == old and "scores" in describe(kept)["application"]
        assert describe(directory / "results/models/unet/model.pt")["provenance"]["best_iteration"] in (4, 5)
        assert "train_model" not in planned(directory, *arguments)  # `replace` is no setting of the results

    def test_results_without_records_of_their_settings_are_refused(self, run, tmp_path):
        """In another working folder, Snakemake would take them as they are, whatever changed."""
        results = ("--config", f"results={tmp_path / 'results'}")
        shutil.copytree(run[0] / "results", tmp_path / "results", copy_function=shutil.copy2)
        for dry in (["-n"], []):
            refused = snakemake(tmp_path, *dry, *run[1], *results, "weight_map={w0: 3}")
            assert refused.returncode == 1
            assert re.search(
                r"error: .*/results/.*: Snakemake does not know with which settings it was made.* folder of "
                rf"the earlier run, in {run[0]}\. Type the same command there\..*`--touch --forceall`",
                refused.stderr,
            )
        touched = snakemake(tmp_path, *run[1], *results, "--touch", "--forceall")
        assert touched.returncode == 0, touched.stderr
        assert "does not know" not in touched.stderr + snakemake(tmp_path, "-n", *run[1], *results).stderr
        assert "train_model" not in planned(tmp_path, *run[1], *results)
        assert "build_weight_map_train" in planned(tmp_path, *run[1], *results, "weight_map={w0: 3}")

    def test_edited_labels_are_kept_when_they_are_made_again(self, run, tmp_path):
        directory = shutil.copytree(run[0], tmp_path / "again", copy_function=shutil.copy2)
        labels = directory / "results/segmentation/score_labels.tif"
        tifffile.imwrite(labels, np.full((1, 96, 96), 7, np.uint16))
        edited, others = labels.read_bytes(), ("--forcerun", "write_tiffs_held_out")
        answer = snakemake(directory, *run[1], *others, "--until", "write_tiffs_held_out")
        assert answer.returncode == 0, answer.stderr
        (kept,) = (labels.parent / "replaced").iterdir()
        assert kept.read_bytes() == edited != labels.read_bytes()
        assert f"keeps results/segmentation/replaced/{kept.name}: edited after it was made" in answer.stderr
        snakemake(directory, *run[1], *others, "--until", "write_tiffs_held_out")
        assert len([*kept.parent.iterdir()]) == 1

    def test_a_complete_run_without_some_small_files_is_still_complete(self, run, tmp_path):
        directory = shutil.copytree(run[0], tmp_path / "again", copy_function=shutil.copy2)
        for name, line in (("check.json", "scores"), ("postprocessing/constant.json", "report")):
            (directory / "results" / name).unlink()
            answer = snakemake(directory, *run[1])
            assert answer.returncode == 0, answer.stderr
            assert f"\n{line} " in f"\n{answer.stdout}"

    def test_missing_weight_maps_are_named_as_the_reason_for_another_training(self, run, tmp_path):
        directory = shutil.copytree(run[0], tmp_path / "again", copy_function=shutil.copy2)
        (directory / "results/weight_map/learn.h5").unlink()
        answer = snakemake(directory, *run[1], "--config", "seeds=[1]")
        assert answer.returncode == 1
        assert "its input results/weight_map/learn.h5 is missing and is made again" in answer.stderr

    def test_titles_and_accepted_doubts_may_have_braces(self, run):
        arguments = ("--config", 'report={title: "Mice {2024}"}', "check={accept: ['{x}']}")
        assert planned(run[0], *run[1], *arguments) == {"check_volumes", "require_accepted", "report"}

    def test_a_run_is_not_compared_with_itself(self, run):
        answer = snakemake(run[0], "-n", *run[1], "--config", "report={before: ./results/}")
        assert answer.returncode == 1 and "is the results folder of this run" in answer.stderr

    def test_other_memory_and_blocks_repeat_only_the_report(self, run):
        assert planned(run[0], *run[1], "--config", "memory_gb=4", "block=256") == {"report"}

    def test_each_file_of_a_batch_is_made_from_its_volume_and_network(self, run):
        results = run[0] / "results"
        for table in results.glob("scores/*/*.csv"):
            network, volume = table.parent.name, table.stem
            scores = pd.read_csv(table, float_precision="round_trip")
            assert {*scores.volume} == {volume} and {*scores.network} == {network}
            evaluate(
                results / f"dataset/{volume}.h5",
                results / f"prediction/{network}/{volume}.h5",
                results / f"segmentation/{network}/{volume}.h5",
                results / f"postprocessing/{network}.json",
                run[0] / "again.csv",
                run[0] / "sections.csv",
                volume=volume,
                split=scores.split[0],
                network=network,
                variant=scores.variant[0],
                seed=None if scores.seed.isna()[0] else int(scores.seed[0]),
            )
            assert (run[0] / "again.csv").read_bytes() == table.read_bytes()
            sections = table.parent / f"sections/{volume}.csv"
            assert (run[0] / "sections.csv").read_bytes() == sections.read_bytes()
            with h5py.File(results / f"prediction/{network}/{volume}.h5") as file:
                made_from = json.loads(file.attrs["provenance"])["inputs"]
                assert f"results/dataset/{volume}.h5" in made_from
                values = np.unique(file["cell_probability"][:])
                assert (len(values) == 1) == (network == "constant")
        for threshold in results.glob("postprocessing/*.json"):
            made_from = json.loads(threshold.read_text())["provenance"]["inputs"]
            assert f"results/prediction/{threshold.stem}/choose.h5" in made_from
        for name in ("learn", "choose", "score"):
            with h5py.File(results / f"dataset/{name}.h5") as file:
                numbers = {"learn": slice(0, 2), "choose": slice(2, 3), "score": slice(3, 4)}[name]
                drawn = tifffile.imread(results / "drawn/images.tif")[numbers]
                assert np.array_equal(file["raw"][0], drawn)

    def test_another_seed_repeats_drawing_and_training(self, run):
        rules = planned(run[0], *run[1], "--config", "seed=1")
        assert {"draw_volume", "build_dataset_train", "train_model", "report"} <= rules

    def test_further_seeds_are_trained_and_scored_without_repeating_the_rest(self, run, tmp_path):
        directory = shutil.copytree(run[0], tmp_path / "seeds")
        results, arguments = directory / "results", (*run[1], "--config")
        without = {"collect_scores": 1, "draw_figures": 1, "report": 1}
        again = without | {"measure_spread": 1}
        further = (
            "train_model",
            "predict_validation",
            "predict_test",
            "choose_postprocessing",
            "segment_held_out",
            "evaluate_held_out",
        )
        assert counts(directory, *arguments, "seeds=[3, 5]") == again | dict.fromkeys(further, 2)
        before = {path: path.stat().st_mtime_ns for path in results.rglob("*.*")}
        answer = snakemake(directory, *arguments, "seeds=[3]")
        assert answer.returncode == 0, answer.stderr
        written = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
        names = ("scores.csv", "scores_sections.csv", "scores_causes.csv", "report.html", "provenance.html")
        assert {path.name for path in written if path.suffix in (".csv", ".html")} == {*names}
        assert not written & {*results.rglob("*.h5"), *results.rglob("*.pt"), *results.rglob("*.tif")}

        models = [Model.load(results / f"models/{name}/model.pt") for name in ("unet", "unet-seed3")]
        assert [model.provenance["settings"]["seed"] for model in models] == [0, 3]
        first, second = (next(iter(model.network.state_dict().values())) for model in models)
        assert not first.equal(second)
        columns = (run[0] / "results/scores.csv").read_text().splitlines()[0]
        assert (results / "scores.csv").read_text().splitlines()[0] == columns
        scores = pd.read_csv(results / "scores.csv", float_precision="round_trip")
        assert {*scores.network} == {"unet", "unet-seed3", "constant", "smoothed_raw"}
        spread = pd.read_csv(results / "scores_spread.csv", float_precision="round_trip")
        summed = scores.metric.str.startswith(SUMS)
        assert summed.any()
        assert len(spread) == len(scores[~summed][["split", "metric"]].drop_duplicates())
        for row in spread.itertuples():
            values = []
            for network in ("unet", "unet-seed3"):
                chosen = json.loads((results / f"postprocessing/{network}.json").read_text())["threshold"]
                here = scores[["split", "metric", "network"]].eq([row.split, row.metric, network]).all(axis=1)
                values += [*scores.value[here & (scores.threshold == chosen)]]
            assert len(values) == 2  # a volume in each split
            defined = pd.Series(values).dropna()  # limits of agreement, for example, need several sections
            assert row.seeds == len(defined)
            expected = defined.mean(), defined.std(), defined.min(), defined.max()
            np.testing.assert_allclose(row[4:], expected, rtol=1e-12, atol=1e-15)
        assert "2 seeds" in (results / "report.html").read_text()

        assert counts(directory, *arguments, "seeds=[3, 5]") == again | dict.fromkeys(further, 1)
        assert counts(directory, *arguments, "seeds=[]") == without

    def test_second_run_in_the_results_folder_is_rejected(self, run):
        hold = "from pipeline_lib.runtime import locks; locks.hold_results('results')"
        code = f"{hold}; print(flush=True); input()"
        holder = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=run[0],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        holder.stdout.readline()
        answer = snakemake(run[0], *run[1], "--forcerun", "report")
        holder.communicate(b"\n")
        assert answer.returncode == 1
        message = f"error: results: another run is at work there (process {holder.pid} on "
        assert message in answer.stderr and "Traceback" not in answer.stderr
        assert snakemake(run[0], *run[1], "--forcerun", "collect_scores").returncode == 0

    def test_state_of_a_training_is_deleted_only_after_a_complete_run(self, run):
        state = run[0] / "results/models/unet/model.checkpoint.pt"
        assert not state.exists()
        state.touch()
        for targets, left in (
            (["--forcerun", "collect_scores", "--", "results/scores.csv"], True),
            (["--forcerun", "report"], False),
        ):
            assert snakemake(run[0], *run[1], *targets).returncode == 0
            assert state.exists() == left

    def test_snakemake_report_contains_the_figures(self, run):
        answer = snakemake(run[0], *run[1], "--report", "workflow.html")
        assert answer.returncode == 0, answer.stderr
        page = (run[0] / "workflow.html").read_text()
        for figure in ("figures/training.svg", "figures/thresholds.svg", "report.html"):
            assert f"results/{figure}" in page


@pytest.mark.slow
def test_another_annotation_with_an_older_date_is_noticed(tmp_path):
    """Copies that keep their dates look as if nothing changed."""
    images, labels = (tmp_path / name for name in ("images.tif", "labels.tif"))
    draw_volume(images, labels, sections=4, size=96, cell_diameter=24, noise=0.06, seed=0)
    config = {key: value for key, value in CONFIG.items() if key != "drawing"}
    arguments = (*write(tmp_path, config | FILES), "--", "results/dataset/learn.h5")
    answer = snakemake(tmp_path, *arguments)
    assert answer.returncode == 0, answer.stderr
    shutil.copy2(labels, tmp_path / "copy.tif")
    os.replace(tmp_path / "copy.tif", labels)  # the same content
    assert planned(tmp_path, *arguments) == set()
    other = tifffile.imread(labels)[::-1]
    tifffile.imwrite(labels, other, photometric="minisblack")
    os.utime(labels, (1.5e9, 1.5e9))
    for dry in (["-n"], []):
        answer = snakemake(tmp_path, *dry, *arguments)
        assert answer.returncode == 1
        assert re.search(r"error: \S*labels.tif: has other content.*`touch \S*labels.tif`", answer.stderr)
    labels.touch()
    assert planned(tmp_path, *arguments) == {"build_dataset_train"}


@pytest.mark.slow
def test_change_of_a_virtual_dataset_source_repeats_its_dataset(tmp_path):
    write_stacks(tmp_path)
    shown = h5py.VirtualLayout((4, 96, 96), np.uint8)
    shown[:] = h5py.VirtualSource("part.h5", "raw", (4, 96, 96))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("raw", shown)

    def fill(value):
        with h5py.File(tmp_path / "part.h5", "w") as file:
            file["raw"] = np.full((4, 96, 96), value, np.uint8)

    fill(1)
    arguments = write(tmp_path, FILES, TABLE.replace("new\timages.tif", "new\tall.h5:/raw"))
    target = "--", "results/dataset/new.h5"
    assert snakemake(tmp_path, *arguments, *target).returncode == 0
    assert planned(tmp_path, *arguments, *target) == set()
    fill(2)
    (rule,) = planned(tmp_path, *arguments, *target)
    assert rule.startswith("build_dataset_")


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    draw_volume(
        folder / "images.tif",
        folder / "labels.tif",
        sections=3,
        size=96,
        cell_diameter=24,
        membrane_width=(2.5, 6.0),
        noise=0.06,
        seed=0,
    )
    large = np.tile(tifffile.imread(folder / "images.tif")[2], (24, 24))
    tifffile.imwrite(folder / "large.tif", large, photometric="minisblack", tile=(256, 256))
    table = "\n".join(TABLE.splitlines()[:3]) + "\nlarge\tlarge.tif\t\t\tpredict\n"
    config = {key: value for key, value in CONFIG.items() if key != "drawing"}
    config |= {"data_dir": ".", "prediction": {"device": "cpu", "precision": "float32"}}
    arguments = write(folder, config | {"jobs_per_volume": 2, "block": 256}, table)
    prediction, threshold = "results/prediction/unet/large.h5", "results/postprocessing/unet.json"
    answer = snakemake(folder, *arguments, "--", prediction, threshold)
    assert answer.returncode == 0, answer.stderr
    with h5py.File(folder / prediction) as file:  # after so little training, everything is cell
        middle = float(np.median(file["cell_probability"][:]))
    threshold = folder / threshold
    threshold.write_text(json.dumps(json.loads(threshold.read_text()) | {"threshold": middle}))
    provenance.record_path(threshold).unlink()  # edited on purpose
    answer = snakemake(folder, *arguments, "--", "results/segmentation/large_labels.tif")
    assert answer.returncode == 0, answer.stderr
    return folder, arguments


@pytest.mark.slow
class TestLargeVolume:
    """A volume that is large enough for several jobs, together with small ones, all from files."""

    def test_jobs_that_share_a_volume_give_the_result_of_one_job(self, large):
        folder, _ = large
        results = folder / "results"
        parts = sorted(results.glob("prediction/unet/parts/large/*.h5"))
        assert [part.name for part in parts] == ["1.h5", "2.h5"]
        assert not [*results.glob("prediction/unet/parts/[!l]*")]  # the small ones are not shared
        predict(
            results / "dataset/large.h5",
            results / "models/unet/model.pt",
            folder / "one.h5",
            precision="float32",
            device="cpu",
        )
        segment(folder / "one.h5", results / "postprocessing/unet.json", folder / "labels.h5")
        write_tiffs(folder / "labels.h5", folder / "one.h5", folder / "l.tif", folder / "p.tif")
        with h5py.File(results / "segmentation/unet/large.h5") as file:
            joined = file["labels"][:]
        in_one, in_two = (
            tifffile.imread(path) for path in (folder / "l.tif", results / "segmentation/large_labels.tif")
        )
        assert len(np.unique(in_two)) > 10 and np.array_equal(joined, in_two)
        assert (in_one != in_two).mean() < 1e-3  # except for values equal to the threshold
        in_one, in_two = (
            tifffile.imread(path)
            for path in (folder / "p.tif", results / "segmentation/large_cell_probability.tif")
        )
        np.testing.assert_allclose(in_one, in_two, atol=1e-5)

    def test_only_a_missing_part_is_made_again(self, large):
        folder, arguments = large
        joined = folder / "results/prediction/unet/large.h5"
        (folder / "results/prediction/unet/parts/large/2.h5").unlink()
        joined.unlink()
        answer = snakemake(folder, "-n", *arguments, "--", str(joined.relative_to(folder)))
        assert re.search(r"^predict_part +1$", answer.stdout, re.MULTILINE), answer.stdout + answer.stderr

    def test_a_watershed_joins_the_parts_before_it_labels_the_volume(self, large):
        folder, arguments = large
        method = ["--config", "segmentation={method: watershed}", "replace=True"]
        rules = planned(folder, *arguments, *method, "--", "results/segmentation/large_labels.tif")
        assert {"segment_new", "write_joined_tiffs"} <= rules
        assert not rules & {"label_part", "number_parts", "relabel_part", "join_labels"}

    def test_new_images_to_predict_do_not_repeat_the_training(self, large):
        folder, arguments = large
        with (folder / "volumes.tsv").open("a") as table:
            table.write("another\timages.tif\t\t2\tpredict\n")
        target = "results/segmentation/another_labels.tif"
        rules = planned(folder, *arguments, "--", target)
        checked = {"check_volumes", "require_accepted"}
        # the shared volume is in the first batch of all stages, so the new one is in the second
        new = {f"{stage}_new_2" for stage in ("build_dataset", "predict", "segment", "write_tiffs")}
        assert rules == checked | new, rules


@pytest.mark.slow
def test_training_runs_in_one_process_per_gpu_of_its_job(tmp_path):
    config = CONFIG | {"training": CONFIG["training"] | {"batch": 2}}  # on the CPU in place of GPUs
    options = ("--resources", "gpu=2", "--set-resources", "train_model:gpu=2")
    answer = snakemake(tmp_path, *write(tmp_path, config), *options, "--", "results/models/unet/model.pt")
    assert answer.returncode == 0, answer.stderr
    assert "in 2 processes" in (tmp_path / "results/logs/train/unet.log").read_text()
    assert Model.load(tmp_path / "results/models/unet/model.pt").provenance["environment"]["processes"] == 2


def test_large_volume_is_shared_by_jobs_for_each_seed(tmp_path):
    write_stacks(tmp_path)
    large = "big.h5:/raw\tbig.h5:/raw\t0"
    table = TABLE.replace("images.tif\tlabels.tif\t3", large)
    found = counts(
        tmp_path, *write(tmp_path, FILES | {"memory_gb": 64, "jobs_per_volume": 3, "seeds": [1, 2]}, table)
    )
    assert found["predict_part"] == 3 * 3 and found["join_predictions"] == 3
    assert found["label_part"] == 3 * 3 and found["join_labels"] == 3


def test_dry_run_of_the_demo_works_in_any_folder(tmp_path):
    assert {"draw_volume", "train_model", "report"} <= planned(tmp_path)


def test_pixel_sizes_and_lengths_in_um(tmp_path):
    write_stacks(tmp_path)
    table = TABLE.replace("split\n", "split\tpixel_size\n").replace("predict\n", "predict\t0.7\n")
    config = FILES | {
        "dataset": {"pixel_size": 0.5, "separation_border_width": "2 um"},
        "weight_map": {"sigma": "1.5 um"},
        "segmentation": {"minimum_size": "10 um2"},
    }
    arguments = ["-n", "--printshellcmds", *write(tmp_path, config, table)]
    lines = snakemake(tmp_path, *arguments).stderr.splitlines()
    assert (
        "pixel size: 0.5 um; dataset.separation_border_width: 2 um = 4 px; weight_map.sigma: 1.5 um = 3 px; "
        "segmentation.minimum_size: 10 um2 = 40 px"
    ) in lines
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert warning.startswith(
        "warning: volume new: pixels of 0.7 um, but those of the training volumes are 0.5"
    )


def test_configfile_replaces_the_demo(tmp_path):
    write_stacks(tmp_path)
    assert "draw_volume" not in planned(tmp_path, *write(tmp_path, FILES))


def test_training_can_start_from_another_model_of_the_run(tmp_path):
    """That model is trained before, and starts from random parameters."""
    training = CONFIG["training"] | {"start_from": "unet-seed1", "freeze": ["down"]}
    arguments = write(tmp_path, CONFIG | {"seeds": [1, 2], "training": training})
    for model, trainings in (("unet-seed1", 1), ("unet", 2), ("unet-seed2", 2)):
        found = counts(tmp_path, *arguments, "--", f"results/models/{model}/model.pt")
        assert found["train_model"] == trainings


def test_model_to_start_from_must_fit_and_not_be_made_by_the_run(tmp_path):
    def refused(start, **more):
        training = CONFIG["training"] | {"start_from": start}
        answer = snakemake(tmp_path, "-n", *write(tmp_path, CONFIG | {"training": training} | more))
        assert answer.returncode == 1
        return answer.stderr.strip().splitlines()[-1]

    assert "`unet` is the model that this run trains" in refused("unet")
    assert "found no file `old.pt`. Expected the path of a model file." in refused("old.pt")
    assert "or one of the models unet-seed1 of this run" in refused("old.pt", seeds=[1])
    for path in ("results/model.pt", "results/models/unet/../unet/model.pt"):
        (tmp_path / "results/models/unet").mkdir(parents=True, exist_ok=True)
        write_model(tmp_path / path, "patch_classifier")
        assert "is a file that this run writes. Copy it" in refused(path)
        shutil.rmtree(tmp_path / "results")
    write_model(tmp_path / "old.pt", "patch_classifier")
    assert "training.start_from: old.pt: no layer of this patch_classifier has the same" in refused("old.pt")


def write_model(path: Path, name: str, **arguments) -> None:
    """Write a model with random parameters."""
    plan = networks.plan(name, **arguments)
    images = np.arange(64, dtype=np.uint8).reshape(1, 1, 8, 8)
    Model(plan, plan.build(), measure("mean_std", [images])).save(path)


@pytest.mark.slow
def test_training_starts_again_if_the_model_to_start_from_changes(tmp_path):
    """A relative path is also found beside the config."""
    (tmp_path / "configs").mkdir()
    write_model(tmp_path / "configs/old.pt", "unet", depth=1, base_channels=4)
    training = CONFIG["training"] | {"start_from": "old.pt", "freeze": ["down"], "iterations": 2}
    arguments = write(tmp_path, CONFIG | {"training": training})
    shutil.move(tmp_path / "my.yaml", tmp_path / "configs/my.yaml")
    arguments = ("--configfile", str(tmp_path / "configs/my.yaml"))
    target = ("--", "results/models/unet/model.pt")
    answer = snakemake(tmp_path, *arguments, *target)
    assert answer.returncode == 0, answer.stderr
    log = (tmp_path / "results/logs/train/unet.log").read_text()
    assert "old.pt (unet): copied: down, up, merge, score" in log
    old, new = (
        Model.load(tmp_path / path).network.state_dict()
        for path in ("configs/old.pt", "results/models/unet/model.pt")
    )
    assert {name for name in new if torch.equal(old[name], new[name])} == {
        name for name in new if name.startswith("down.")
    }
    assert "train_model" not in planned(tmp_path, *arguments, *target)
    write_model(tmp_path / "configs/old.pt", "unet", depth=1, base_channels=4)
    assert "train_model" in planned(tmp_path, *arguments, *target)


def test_channels_in_separate_files_are_inputs_and_one_image(tmp_path):
    write_stacks(tmp_path)
    table = TABLE.replace("split", "split\tchannels").replace("train", "train\t[1]")
    arguments = write(tmp_path, FILES, table.replace("images.tif", "images.tif + labels.tif", 1))
    plan = snakemake(tmp_path, *arguments, "-n", "--quiet", "reason", "--", "results/dataset/learn.h5").stdout
    # the two channels and the annotation of `learn`, and the files of `choose`
    assert "input: images.tif, labels.tif, labels.tif, images.tif, labels.tif\n" in plan
    table = table.replace("[1]", "[1, 0]")
    arguments = write(tmp_path, FILES, table.replace("images.tif", "images.tif + labels.tif", 1))
    refused = snakemake(tmp_path, *arguments, "-n")
    assert "volume choose: `channels` chooses 1 of images.tif, but 2 for volume learn" in refused.stderr


def _without(split: str) -> str:
    return "".join(line for line in TABLE.splitlines(keepends=True) if not line.endswith(f"\t{split}\n"))


BAD = {
    "unknown key": (CONFIG | {"weight_map": {"sigm": 3}}, TABLE, "weight_map.sigm`", "`weight_map.sigma`"),
    "value out of range": (CONFIG | {"seed": -1}, TABLE, "seed", "found -1"),
    "seed twice": (CONFIG | {"seed": 2, "seeds": [1, 2]}, TABLE, "`seeds`: contains 2", "Remove it"),
    "impossible training tile": (CONFIG | {"training": {"tile": 81}}, TABLE, "training.tile", "Use 80 or 82"),
    "impossible prediction tile": (CONFIG | {"prediction": {"tile": 81}}, TABLE, "prediction.tile", "Use 80"),
    "drawing and data": (CONFIG | {"data_dir": "."}, TABLE, "drawing", "data_dir"),
    "missing table": (CONFIG | {"volumes": "none.tsv"}, TABLE, "none.tsv", "`volumes:`"),
    "empty table": (CONFIG, TABLE.splitlines()[0] + "\n", "volumes.tsv", "no volumes"),
    "no training volume": (CONFIG, _without("train"), "volumes.tsv", "split` train"),
    "no validation volume": (CONFIG, _without("validation"), "volumes.tsv", "split` validation"),
    "duplicate volume": (CONFIG, TABLE.replace("score", "choose"), "volumes.tsv, line 4", "choose"),
    "missing file": (FILES, TABLE.replace("images.tif", "absent.tif"), "absent.tif", "volume learn"),
    "truncated TIFF": (FILES, TABLE.replace("images.tif", "truncated.tif"), "truncated.tif", "volume learn"),
    "channels": (FILES, TABLE.replace("images.tif", "channels.tif"), "channels.tif", "2 channels"),
    "too large": (
        FILES | {"memory_gb": 1},
        TABLE.replace("images.tif\tlabels.tif\t3", "big.h5:/raw\tbig.h5:/raw\t0"),
        "memory_gb`: 1, but scoring volume score",
        "20,000 x 20,000 px",
    ),
    "different shapes": (FILES, TABLE.replace("labels.tif", "small.tif"), "small.tif", "96 x 96"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_the_dry_run_with_one_message(case, tmp_path):
    config, table, *words = BAD[case]
    write_stacks(tmp_path)
    answer = snakemake(tmp_path, "-n", *write(tmp_path, config, table))
    assert answer.returncode == 1
    profile, message = answer.stderr.strip().splitlines()
    assert profile.startswith("Using workflow specific profile")
    assert message.startswith("error: ")
    assert all(word in message for word in words), message
    assert not (tmp_path / "results").exists()


def test_bad_input_detected_by_a_job_is_reported_last_and_leaves_no_output(tmp_path):
    write_stacks(tmp_path)  # an annotation of one value
    target = "results/dataset/learn.h5"
    answer = snakemake(tmp_path, *write(tmp_path, FILES), "--", target)
    assert answer.returncode == 1
    after = answer.stderr.partition("Exiting because a job execution failed")[2]
    assert re.search(r"error: \S*volumes\.tsv, line 2, volume learn: labels\.tif: ", after)
    assert "results/logs/build_dataset/train.log" in after
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / target).exists()
    assert list((tmp_path / "results").rglob("*.h5")) == []


FIGURES = {"draw_figures", "draw_detections", "compare"}
# library -> stages that may import it; each import takes a fifth of a second or more, torch a second
STAGES_OF = {
    "torch": {"train", "predict", "predict_part", "predict_masks", "package_model", "measure_speed"},
    "matplotlib": {"check_volumes"} | FIGURES,
    "pandas": {"train", "evaluate", "measure_spread", "measure_cells", "summarise", "report"} | FIGURES,
    "scipy.ndimage": {"check_volumes", "draw_volume", "measure_cells", "summarise"} | FIGURES,
}
ADAPTERS = sorted((ROOT / "workflow/scripts").glob("*.py"))


@pytest.mark.slow
def test_a_volume_can_be_added_before_the_run_is_complete(tmp_path):
    """The weight maps of test volumes are not made yet, but the statistics are."""
    table = "".join(f"{line}\n" for line in TABLE.splitlines() if not line.startswith("new"))
    arguments = write(tmp_path, CONFIG, table)
    answer = snakemake(tmp_path, *arguments, "--", "results/models/unet/model.pt")
    assert answer.returncode == 0, answer.stderr
    rules = planned(tmp_path, *write(tmp_path, CONFIG))
    assert {"build_dataset_new", "build_weight_map_test", "predict_new"} <= rules
    assert not rules & {"measure_statistics", "train_model"}


def test_shared_volumes_do_not_change_the_batches_of_others(tmp_path):
    """Jobs on a cluster read the table again when the batches of the run are stored."""
    write_stacks(tmp_path)
    table = f"{TABLE}large\tbig.h5:/raw\t\t\tpredict\nlast\timages.tif\t\t3\tpredict\n"
    config = {key: value for key, value in CONFIG.items() if key != "drawing"}
    arguments = write(tmp_path, config | FILES | {"jobs_per_volume": 2}, table)
    first = counts(tmp_path, *arguments)
    assert {"predict_new_1", "predict_new_3"} < {*first} and "predict_new_2" not in first
    (tmp_path / "results").mkdir()
    (tmp_path / "results/.batches.json").write_text('{"new": [["new"], ["large"], ["last"]]}')
    assert first == counts(tmp_path, *arguments)


def test_jobs_on_a_cluster_refuse_a_config_that_was_edited(tmp_path, monkeypatch):
    arguments = write(tmp_path, CONFIG)
    job = ("--mode", "remote", "--allowed-rules", "draw_volume", "--", "results/drawn/images.tif")
    code = "import os; print('settings', os.environ.get('BORDURE_SETTINGS'))"
    (tmp_path / "print.smk").write_text(f"include: {str(ROOT / 'Snakefile')!r}\n{code}\n")
    printing = ["--snakefile", tmp_path / "print.smk", "--directory", tmp_path, "-n", *arguments]
    answer = warm.snakemake("--cores", "1", *printing)
    (stated,) = {*re.findall("settings ([0-9a-f]{64})", answer.stdout + answer.stderr)}
    monkeypatch.setenv("BORDURE_SETTINGS", stated)
    answer = snakemake(tmp_path, *arguments, *job)
    assert answer.returncode == 0, answer.stderr
    write(tmp_path, CONFIG | {"drawing": {"sections": 5, "size": 96, "cell_diameter": 24}})
    answer = snakemake(tmp_path, *arguments, *job)
    assert answer.returncode == 1 and "was edited after this run had started" in answer.stderr
    write(tmp_path, CONFIG, TABLE.replace("score\timages.tif", "other\timages.tif"))
    assert "was edited after this run had started" in snakemake(tmp_path, *arguments, *job).stderr


def test_results_may_be_the_working_folder(tmp_path):
    answer = snakemake(tmp_path, "-n", *write(tmp_path, CONFIG | {"results": "."}))
    assert answer.returncode == 0 and "starts with" not in answer.stdout + answer.stderr


def test_volumes_that_several_jobs_share_need_no_further_settings(tmp_path):
    """Their rules are in no group, so no job of a group can depend on one that depends on the group."""
    config = CONFIG | {"drawing": {"sections": 4, "size": 3000}, "jobs_per_volume": 2}
    assert {"label_part", "join_labels", "predict_part"} <= planned(tmp_path, *write(tmp_path, config))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda path: path.stem)
def test_stage_imports_no_library_that_it_does_not_need(adapter, tmp_path):
    code = (
        "import sys\nfrom types import SimpleNamespace\n"
        f"snakemake = SimpleNamespace(log=['{tmp_path}/log'], threads=1, resources=SimpleNamespace(gpu=0))\n"
        f"{bench_workflow.imports_of(adapter)}\n"
        "    print(*sys.modules)"
    )
    modules = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    allowed = {library for library, stages in STAGES_OF.items() if adapter.stem in stages}
    assert STAGES_OF.keys() & {*modules} <= allowed


def test_table_next_to_the_config_is_found_from_any_folder(tmp_path):
    folder, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    assert "draw_volume" in planned(elsewhere, *write(folder, CONFIG))


def test_results_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "results").write_text("taken")
    answer = snakemake(tmp_path, "-n", *write(tmp_path, CONFIG))
    assert answer.returncode != 0
    assert re.search(r"error: config key `results`: .*results is not a writable folder", answer.stderr)
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_doubts_stop_the_run_before_the_training_and_the_page_remains(tmp_path):
    config = FILES | {key: CONFIG[key] for key in ("network", "training", "prediction")}
    arguments = write(tmp_path, config)
    images, labels = tmp_path / "images.tif", tmp_path / "labels.tif"
    draw_volume(images, labels, sections=4, size=96, cell_diameter=24, seed=0)
    cells = tifffile.imread(labels)
    cells[:2] = cells[:2, ::-1]  # the training volume
    tifffile.imwrite(labels, cells, photometric="minisblack")
    provenance.record_path(labels).unlink()

    answer = snakemake(tmp_path, *arguments, "--", "train")
    assert answer.returncode == 1
    assert "mirrored from top to bottom fits better" in answer.stderr
    assert (tmp_path / "results/check.html").exists()
    assert not (tmp_path / "results/statistics.json").exists()
    typed = re.search(r"`(check: \{accept: \[learn:wrong_pair\]\})`", answer.stderr)[1]

    (tmp_path / "my.yaml").write_text(f"{yaml.safe_dump(config)}{typed}\n")
    command = [warm.python(), "-m", "pipeline_lib.cli", "check", *arguments[1:], "--quiet"]
    environment = os.environ | warm.environment(str(ROOT))
    answer = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert "check         results/check.html (1 doubt)" in answer.stdout
    assert "train_model" in planned(tmp_path, *arguments)
