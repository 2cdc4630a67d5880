"""Jobs in a cluster queue, with scripts that replace Slurm's commands. tests/cluster uses a real Slurm."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from bordure import cluster

ROOT = Path(__file__).parents[1]
JOB = {
    "rule": "train_model",
    "threads": 4,
    "resources": {
        "mem_mb": 8000,
        "runtime": 90,
        "gpu": 1,
        "partition": "short",
        "gpu_partition": "gpus",
        "cluster_options": "'--account=a b'",
    },
}
PREFIX = re.search(r'before_commands\("(.*)"\)', (ROOT / "workflow/rules/cluster.smk").read_text())[1]


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A function that writes a command of Slurm into a folder on PATH. The working folder is empty."""
    commands = tmp_path / "commands"
    commands.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv(cluster.NAME, "bordure-1234567")
    monkeypatch.setattr(cluster, "GRACE", 0.2)
    monkeypatch.setattr(cluster, "PAUSE", 0.1)

    def write(command: str, text: str) -> None:
        (commands / command).write_text(f"#!/bin/sh\n{text}\n")
        (commands / command).chmod(0o755)

    cluster.records().mkdir(parents=True)
    return write


def test_name_of_jobs_depends_on_the_resolved_folder_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = cluster.name_of("results")
    assert len(name) == 15 and name == cluster.name_of(tmp_path / "other/../results")
    assert name != cluster.name_of("results2")


def test_without_scheduler_there_are_no_orphans(queue, tmp_path, monkeypatch):
    queue("squeue", "exit 1")
    monkeypatch.setenv("PATH", str(tmp_path / "commands"))  # without the Slurm of this machine
    cluster.cancel_orphans("bordure-1234567", 0, exclusive=True)


def test_job_is_submitted_with_its_resources(queue, tmp_path):
    queue("sbatch", f'printf "%s\\n" "$@" > {tmp_path}/request; cat > {tmp_path}/script; echo 17')
    jobscript = tmp_path / "job.sh"
    jobscript.write_text(f"#!/bin/sh\n# properties = {json.dumps(JOB)}\ntrue && exit 0 || exit 1\n")
    assert cluster.submit(str(jobscript)) == "17"
    request = (tmp_path / "request").read_text().split("\n")
    assert {
        "--job-name=bordure-1234567",
        "--comment=train_model",
        "--time=90",
        "--mem=8000",
        "--cpus-per-task=4",
        "--gpus=1",
        "--partition=gpus",
        "--account=a b",
    } <= {*request}


@pytest.mark.parametrize("status", [0, 3])
def test_job_records_its_exit_status(queue, status):
    script = cluster.SCRIPT.format(folder=cluster.records(), job=f"exit {status}")
    environment = {"SLURM_JOB_ID": "17", "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh"], input=script, text=True, env=environment, check=False)
    assert (cluster.records() / "17.exit").read_text() == f"{status}\n"


def test_every_process_of_a_job_receives_sigterm(queue, tmp_path):
    (tmp_path / "job.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), open('received', 'w'), sys.exit(7)))\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    script = cluster.SCRIPT.format(
        folder=cluster.records(), job=f"bash -c '{PREFIX}{sys.executable} job.py; exit $?'"
    )
    (tmp_path / "script").write_text(script)
    job = subprocess.Popen(
        ["sh", "script"],
        env={"SLURM_JOB_ID": "5", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert job.stdout.readline() == "up\n"
    job.terminate()  # only the shell
    job.wait()
    assert (tmp_path / "received").exists()  # the shell has waited for it
    assert (cluster.records() / "5.exit").read_text().strip() != "0"


class TestStatus:
    def test_job_in_the_queue(self, queue):
        queue("sbatch", "")
        queue("squeue", "echo 16; echo 17")
        assert cluster.status("17") == "running"
        assert cluster.status("7") == "running"  # at first, since the queue may show it later
        assert [path.name for path in cluster.records().iterdir()] == ["7.missed"]

    def test_job_with_an_exit_record(self, queue):
        queue("sbatch", "")
        queue("squeue", "true")
        for job, ended in {"17": "0", "18": "143"}.items():
            (cluster.records() / f"{job}.exit").write_text(f"{ended}\n")
            (cluster.records() / f"{job}.log").touch()
        assert [cluster.status("17"), cluster.status("18")] == ["success", "failed"]
        assert {path.name for path in cluster.records().iterdir()} == {"18.exit", "18.log"}

    def test_succeeded_job_that_stays_in_the_queue(self, queue):
        queue("sbatch", "")
        queue("squeue", "echo 17; echo 18")
        queue("scancel", "echo $* >> cancelled")
        for job, ended in {"17": "0", "18": "143"}.items():  # 18 was preempted and will start again
            (cluster.records() / f"{job}.exit").write_text(f"{ended}\n")
        assert [cluster.status("17"), cluster.status("18")] == ["running"] * 2  # it may leave the queue soon
        time.sleep(0.3)
        assert [cluster.status("17"), cluster.status("18")] == ["success", "running"]
        assert Path("cancelled").read_text() == "17\n"

    def test_killed_job(self, queue):
        queue("sbatch", "")
        queue("squeue", "true")
        assert cluster.status("17") == "running"
        time.sleep(0.3)
        assert cluster.status("17") == "failed"

    def test_job_while_the_queue_does_not_answer(self, queue, capsys):
        queue("sbatch", "")
        queue("squeue", "echo away >&2; exit 1")
        (cluster.records() / "17.exit").write_text("1\n")  # of a job that starts again
        assert cluster.status("17") == "running"
        assert "away" in capsys.readouterr().err


def test_rejected_job_is_not_submitted_again(queue, tmp_path):
    queue("sbatch", "echo once >> requests; echo no such partition >&2; exit 1")
    queue("squeue", "true")
    (tmp_path / "job.sh").write_text(f"# properties = {json.dumps(JOB)}\n")
    with pytest.raises(SystemExit, match="no such partition"):
        cluster.submit("job.sh")
    assert (tmp_path / "requests").read_text() == "once\n"


def test_job_is_submitted_when_the_queue_answers_again(queue, tmp_path):
    queue("sbatch", "[ -e back ] && echo 17")
    queue("squeue", "[ -e back ] || { touch back; exit 1; }")
    (tmp_path / "job.sh").write_text(f"# properties = {json.dumps(JOB)}\n")
    assert cluster.submit("job.sh") == "17"


def test_job_that_starts_again_removes_its_exit_record(queue, tmp_path):
    record = cluster.records() / "5.exit"
    record.write_text("143\n")
    script = cluster.SCRIPT.format(folder=cluster.records(), job=f"[ ! -e {record} ]")
    environment = {"SLURM_JOB_ID": "5", "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh"], input=script, text=True, env=environment, check=False)
    assert record.read_text() == "0\n"


def test_orphans_are_cancelled_until_the_queue_is_empty(queue, tmp_path):
    queue("sbatch", "")
    queue("squeue", "cat jobs 2>/dev/null || true")
    queue("scancel", 'echo "$@" >> cancelled; [ $(wc -l < cancelled) -lt 2 ] || rm jobs')
    (tmp_path / "jobs").write_text("3\n4\n")
    cluster.cancel_orphans("bordure-1234567", 0, exclusive=True)
    assert (tmp_path / "cancelled").read_text() == "3 4\n3 4\n"


def test_jobs_that_may_belong_to_another_run_are_not_cancelled(queue, tmp_path):
    """Without locks it is unknown whether another run is active."""
    queue("sbatch", "")
    queue("squeue", "cat jobs")
    queue("scancel", "rm jobs")
    (tmp_path / "jobs").write_text("3\n4\n")
    with pytest.raises(cluster.Contended, match=r"^3 4$"):
        cluster.cancel_orphans("bordure-1234567", 0, exclusive=False)
    assert (tmp_path / "jobs").exists()


def test_runs_without_installed_packages(queue, tmp_path):
    """In any folder, with a Python that has only the standard library, such as that of a cluster."""
    queue("sbatch", "")
    queue("squeue", "echo 17")
    command = [sys.executable, "-I", "-S", cluster.__file__, "status", "17"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.stdout == "running\n", answer.stderr


@pytest.mark.parametrize("profile", ["cluster", "slurm"])
def test_dry_run_of_the_demo_with_each_profile(profile, tmp_path):
    arguments = ["-n", "--snakefile", ROOT / "Snakefile", "--workflow-profile", ROOT / "profiles" / profile]
    answer = warm.snakemake(*arguments, folder=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert "Job stats" in answer.stdout + answer.stderr


@pytest.mark.parametrize("profile", ["cluster", "slurm"])
def test_each_value_of_a_profile_has_its_reason(profile):
    """Each block of lines starts with a comment."""
    blocks = (ROOT / "profiles" / profile / "profile.yaml").read_text().strip().split("\n\n")
    assert all(block.startswith("#") for block in blocks), blocks
