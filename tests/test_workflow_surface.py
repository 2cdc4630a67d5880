"""The workflow in a folder with special characters, imported by another workflow, and in parts."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import warm
import yaml
from test_workflow import CONFIG as DRAWN
from test_workflow import TABLE

ROOT = Path(__file__).parents[1]
CHECKOUT = ("Snakefile", "workflow", "pipeline_lib", "profiles", "config", "environment.yml")
FILES = {key: part for key, part in DRAWN.items() if key != "drawing"}  # the same without drawing
HOST = """
import json

module bordure:
    snakefile: {snakefile!r}
    config: config["cells"]

use rule * from bordure as bordure_*

use rule train_model from bordure as bordure_train_model with:  # reads bordure again
    threads: 1

onstart:
    open("started", "a").write("own\\n")

onsuccess:
    bordure.onsuccess()

onerror:
    bordure.onerror()

rule segment:
    input: "results/scores.csv"
    output: "segments.txt"
    shell: "false; wc -l < {{input}} > {{output}}"

rule report:
    default_target: True
    input: rules.bordure_all.input
    output: "report.txt"
    shell: "ls {{input}} > {{output}}"

with open("rules.json", "w") as file:
    local = workflow._localrules
    json.dump({{rule.name: [rule._group, rule.name in local] for rule in workflow.rules}}, file)
"""
MAIN = ("--configfile", "my.yaml")
IMPORTING = ("--snakefile", "host.smk", "--configfile", "host.yaml")


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run Snakemake as a user does in `folder`, where it finds the Snakefile."""
    return warm.snakemake("--cores", "2", *arguments, folder=folder, **environment)


def output(answer: subprocess.CompletedProcess) -> str:
    """Return the output of a run, which must have succeeded."""
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


def rules_in(text: str) -> set[str]:
    """Return the names of the rules in a table of jobs."""
    return {*re.findall(r"^(\w+) +\d+$", text, re.MULTILINE)} - {"total", "default"}


def planned(folder: Path, *arguments: str) -> set[str]:
    """Return the names of the rules that would run."""
    return rules_in(output(snakemake(folder, "-n", *arguments)))


@pytest.fixture(scope="session")
def clone(tmp_path_factory) -> Path:
    """A clone in a folder with a space and an apostrophe in its path, with a finished run.

    The run is that of the workflow `host.smk`, which imports bordure and has rules with the same names as
    rules of bordure.
    """
    folder = tmp_path_factory.mktemp("clone") / "Ana's work/bordure clone"
    folder.mkdir(parents=True)
    for name in CHECKOUT:  # including uncommitted changes
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy2)(ROOT / name, folder / name)
    (folder / "host.smk").write_text(HOST.format(snakefile=str(folder / "workflow/Snakefile")))
    (folder / "volumes.tsv").write_text(TABLE)
    (folder / "my.yaml").write_text(yaml.safe_dump(DRAWN))
    (folder / "host.yaml").write_text(yaml.safe_dump({"cells": DRAWN, "own": "setting"}))
    output(snakemake(folder, *IMPORTING))
    return folder


def test_prefix_of_paths_is_rejected(tmp_path):
    lines = (
        f"module bordure:\n    snakefile: {str(ROOT / 'workflow/Snakefile')!r}\n"
        "    config: {'volumes': 'volumes.tsv'}\n    prefix: 'here'\nuse rule * from bordure\n"
    )
    (tmp_path / "Snakefile").write_text(lines)
    answer = snakemake(tmp_path, "-n")
    assert answer.returncode == 1 and answer.stderr.endswith("with the config key `results`.\n")


class TestDeployed:
    """The rules are fetched from a server, as `snakedeploy deploy-workflow` writes it."""

    @pytest.fixture
    def fetched(self, tmp_path):
        """A folder to run in, with the rules of this checkout as the content of a repository of GitHub."""
        shutil.copytree(ROOT / "workflow", tmp_path / "made/workflow")
        shutil.copy2(ROOT / "environment.yml", tmp_path / "made")
        (tmp_path / "made/pipeline_lib").mkdir()
        shutil.copy2(ROOT / "pipeline_lib/__init__.py", tmp_path / "made/pipeline_lib")
        (tmp_path / "Snakefile").write_text(
            'configfile: "my.yaml"\nmodule bordure:\n    snakefile: github("owner/bordure", '
            'path="workflow/Snakefile", tag="v1.0.0")\n    config: config\nuse rule * from bordure\n'
        )
        (tmp_path / "volumes.tsv").write_text(TABLE)
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(DRAWN))
        return tmp_path

    def run(self, folder, *words):
        """Publish `made` as v1.0.0, and run Snakemake."""
        cache = folder / "cache/snakemake/snakemake/source-cache/snakemake-git-cache/github.com/owner/bordure"
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        for git in (
            ("init", "--quiet", "made"),
            ("-C", "made", "add", "."),
            ("-C", "made", *who, "commit", "--quiet", "--message", "a"),
            ("-C", "made", "tag", "v1.0.0"),
            ("clone", "--quiet", "--bare", "made", str(cache)),
        ):
            subprocess.run(["git", *git], cwd=folder, check=True)
        return snakemake(folder, *words, XDG_CACHE_HOME=str(folder / "cache"))

    def test_jobs_run(self, fetched):
        output(self.run(fetched, "--", "results/weight_map/learn.h5"))
        assert (fetched / "results/weight_map/learn.h5").exists()

    @pytest.mark.parametrize(
        "name", ["workflow/rules/check.smk", "workflow/scripts/train.py", "pipeline_lib/__init__.py"]
    )
    def test_other_rules_than_those_of_the_installed_library_are_rejected(self, fetched, name):
        file = fetched / "made" / name
        file.write_text(file.read_text() + "# changed\n")
        answer = self.run(fetched, "-n")
        assert answer.returncode == 1
        assert f"{file.name} differs from that of the installed library" in answer.stderr
        assert "pip install 'git+https://github.com/owner/bordure@v1.0.0'`." in answer.stderr


@pytest.mark.slow
class TestClone:
    def test_runs_to_the_end(self, clone):
        made = (clone / "report.txt").read_text().splitlines()
        assert {"results/report.html", "results/segmentation/new_labels.tif"} <= {*made}
        assert (clone / "started").read_text() == "own\n"  # the host's own hook runs, too
        assert [path.name for path in (clone / "results/models/unet").glob("*.pt")] == ["model.pt"]

    def test_groups_and_local_rules_apply_only_to_rules_of_bordure(self, clone):
        rules = json.loads((clone / "rules.json").read_text())
        assert rules["segment"] == rules["report"] == [None, False]
        assert rules["bordure_segment_new"] == ["finish", False]
        assert rules["bordure_build_dataset_train"] == ["prepare", False]
        assert rules["bordure_train_model"] == [None, False]
        assert rules["bordure_report"] == [None, True]

    def test_shell_of_the_host_stays_strict(self, clone):
        answer = snakemake(clone, *IMPORTING, "--", "segment")  # fails at `false`
        assert answer.returncode == 1 and "error: the run is incomplete" in answer.stderr

    def test_second_run_in_the_results_folder_is_rejected(self, clone):
        hold = "from pipeline_lib.runtime import locks; locks.hold_results('results')"
        code = f"{hold}; print(flush=True); input()"
        holder = subprocess.Popen(
            [sys.executable, "-c", code], cwd=clone, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        holder.stdout.readline()
        lock = (clone / "results/.lock").read_text()
        again = (*IMPORTING, "--forcerun", "report")
        for options in (["-n"], ["--unlock"], ["--rulegraph", "mermaid-js"]):  # these only read
            output(snakemake(clone, *again, *options))
        assert (clone / "results/.lock").read_text() == lock
        answer = snakemake(clone, *again)
        holder.communicate(b"\n")
        assert answer.returncode == 1
        assert f"error: results: another run is at work there (process {holder.pid} on " in answer.stderr
        output(snakemake(clone, *again))

    @pytest.mark.parametrize(
        "options",
        [MAIN, IMPORTING, (*MAIN, "--rerun-triggers", "code", "mtime")],
        ids=["main", "imported", "other triggers"],
    )
    def test_new_dates_of_scripts_repeat_nothing(self, clone, options):
        for script in (clone / "workflow/scripts").iterdir():
            script.touch()
        assert "Nothing to be done" in output(snakemake(clone, "-n", *options))

    def test_changed_script_repeats_its_rule(self, clone):
        adapter = clone / "workflow/scripts/choose_postprocessing.py"
        text = adapter.read_text()
        adapter.write_text(f"{text}# changed\n")
        try:
            rules = planned(clone, *MAIN)
        finally:
            adapter.write_text(text)
        assert {"choose_postprocessing", "choose_postprocessing_baselines", "report"} <= rules
        assert not {rule for rule in rules if rule.startswith(("train", "predict", "build"))}

    def test_finished_parts_have_nothing_to_do(self, clone):
        parts = ("dataset", "train", "predict", "segment", "evaluate")
        assert "Nothing to be done" in output(snakemake(clone, "-n", *MAIN, "--", *parts))

    @pytest.mark.parametrize("options", [("--", "predict"), ("--until", "train")])
    def test_only_a_part_runs(self, clone, options):
        """With another learning rate, a complete run would repeat everything from the training on."""
        rules = planned(clone, *MAIN, "--config", "training={learning_rate: 0.02}", *options)
        models = {"train_model"}
        predictions = {f"predict_{group}" for group in ("validation", "test", "new")}
        part = options[-1]
        assert rules - {"train", "predict"} == models | (predictions if part == "predict" else set())

    def test_documented_command_forces_all_predictions(self, clone):
        line = "--forcerun $(snakemake --list-rules | grep ^predict_)"
        assert line in (ROOT / "config/README.md").read_text()
        command = f"{warm.python()} -m snakemake --cores 2 {' '.join(MAIN)}"
        answer = subprocess.run(
            f"{command} -n {line.replace('snakemake', command)}",
            shell=True,
            cwd=clone,
            env=os.environ | warm.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        rules = rules_in(output(answer))
        assert {"predict_validation", "predict_test", "predict_new", "predict_baselines", "report"} <= rules
        assert not rules & {"train_model", "build_dataset_train"}

    def test_profile_cluster_submits_jobs_and_makes_the_report(self, clone, tmp_path):
        """Commands that replace Slurm's run each job immediately."""
        commands = tmp_path / "commands"
        commands.mkdir()
        for name, text in {
            "sbatch": f'echo "$@" >> {tmp_path}/requests; SLURM_JOB_ID=7 sh > /dev/null 2>&1; echo 7',
            "squeue": "true",
            "scancel": "true",
        }.items():
            (commands / name).write_text(f"#!/bin/sh\n{text}\n")
            (commands / name).chmod(0o755)
        path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
        (clone / "results/report.html").unlink()
        options = ("--workflow-profile", "profiles/cluster", "--latency-wait", "5")
        output(snakemake(clone, *MAIN, *options, "--forcerun", "evaluate_held_out", PATH=path))
        assert (clone / "results/report.html").exists()
        (request,) = (tmp_path / "requests").read_text().splitlines()
        assert "--comment=finish" in request


def write_many(folder: Path, number: int) -> None:
    """Write a table with this number of volumes, which are sections of one image."""
    for name in ("images", "labels"):
        stack = np.zeros((number, 80, 80), np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", stack, photometric="minisblack")
    table = TABLE.splitlines()[:1]
    for k in range(number):
        split = ("train", "validation", "test", "test", "predict")[k % 5]
        annotation = "" if split == "predict" else "labels.tif"
        table.append(f"image{k}\timages.tif\t{annotation}\t{k}\t{split}")
    (folder / "volumes.tsv").write_text("\n".join([*table, ""]))
    (folder / "my.yaml").write_text(yaml.safe_dump(FILES | {"data_dir": "."}))


def test_batches_are_named_by_their_volumes_and_drawn_as_one_node(tmp_path):
    """With as many images as BBBC038: several batches of a kind have numbers, a single one has none."""
    write_many(tmp_path, 670)
    arguments = ("--snakefile", str(ROOT / "Snakefile"), *MAIN)
    rules = output(snakemake(tmp_path, *arguments, "--list-rules")).split()
    assert {"predict_test_1", "predict_test_2", "build_dataset_train_1", "evaluate_held_out_1"} <= {*rules}
    assert {"draw_figures", "build_weight_map_test", "train_model"} <= {*rules}  # of one batch
    graph = output(snakemake(tmp_path, *arguments, "--rulegraph"))
    names = re.findall(r'label = "(\w+)"', graph)
    assert len(names) == len({*names}) <= 28 and {"predict_test", "train_model"} <= {*names}
    assert not [name for name in names if re.search("_[0-9]+$", name)]
