"""Run the workflow on a real Slurm with two nodes, with faults of jobs, nodes and controller.

Run with `make test-cluster`. As root, everything runs without access to a network.
"""

import csv
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from slurm import Slurm, install, processes_of, wait_for, with_pid

ROOT = Path(__file__).parents[2]
CLUSTER, SLURM = PROFILES = ("cluster", "slurm")  # the generic executor, and the Slurm plugin
TABLE = """volume\timages\tannotation\tsections\tsplit
learn\timages.tif\tlabels.tif\t0-1\ttrain
choose\timages.tif\tlabels.tif\t2\tvalidation
score\timages.tif\tlabels.tif\t3\ttest
"""
CONFIG = {
    "volumes": "volumes.tsv",
    "drawing": {"sections": 4, "size": 96, "cell_diameter": 24},
    "network": {"depth": 1, "base_channels": 4},
    # requests a GPU; as the GPU of the test cluster is not real, training uses the CPU
    "training": {
        "tile": 80,
        "iterations": 250,
        "validation_interval": 50,
        "optimizer": "adam",
        "device": "auto",
    },
    "prediction": {"device": "cpu"},
    "memory_gb": 2,
}
MODEL = "results/models/unet/model.pt"
LOCAL = {"default", "package_model", "report"}  # rules that run without a node
# contain dates, wall times or process IDs
VARYING = {".provenance", "provenance.html", "logs", "benchmarks", ".lock", "model.checkpoint.pt"}
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP = 0x8914, 0x8916, 1
HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"  # addresses reserved for documentation

pytestmark = pytest.mark.cluster


def leave_the_network() -> bool:
    """Move this process and its children into a separate network without connections. Needs root."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
        # Slurm does not start on a machine whose only address is 127.0.0.1
        address = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(HERE))
        fcntl.ioctl(any_socket, SIOCSIFADDR, struct.pack("16s", b"lo:1") + address)
    return True


class Run:
    """A folder with config and table of a small demo, in which the workflow runs on `slurm`."""

    def __init__(self, slurm: Slurm, folder: Path, profile: str) -> None:
        self.slurm, self.folder, self.profile = slurm, folder, profile
        self.results = folder / "results"
        self.output = folder / "output.txt"
        folder.mkdir(exist_ok=True)
        (folder / "volumes.tsv").write_text(TABLE)
        (folder / "my.yaml").write_text(yaml.safe_dump(CONFIG))

    def start(self, *options: str) -> subprocess.Popen:
        # check more often than the profiles do, as most tests are about one job
        own = {CLUSTER: ["--seconds-between-status-checks", "1"], SLURM: ["--slurm-keep-successful-logs"]}
        command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            ROOT / "Snakefile",
            "--configfile",
            "my.yaml",
            "--workflow-profile",
            ROOT / "profiles" / self.profile,
            "--max-threads",
            "2",
            *own[self.profile],
        ]
        with open(self.output, "a") as output:
            process = subprocess.Popen(
                [*command, *options],
                cwd=self.folder,
                env=self.slurm.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.slurm.started.append(process)
        return process

    def finish(self, process: subprocess.Popen, seconds: float = 400) -> None:
        assert process.wait(seconds) == 0, self.output.read_text()[-3000:]

    def jobs(self) -> list[dict[str, str]]:
        """Return Slurm's description of all jobs of this run, ended or not, by number."""
        lines = self.slurm.run("scontrol", "show", "jobs", "--oneliner").stdout.splitlines()
        jobs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]
        return sorted(
            (job for job in jobs if job.get("WorkDir") == str(self.folder)), key=lambda job: int(job["JobId"])
        )

    def trainings(self) -> list[dict[str, str]]:
        return [job for job in self.jobs() if rule_of(job) == "train_model"]

    def training(self) -> str:
        """Wait until the training is running, and return the number of its job."""
        log = self.results / "logs/train/unet.log"

        def running() -> str | None:
            found = re.search(r"Slurm job (\d+) since[^\n]*\n.*iteration 50:", log.read_text(), re.DOTALL)
            return found and found[1] in self.slurm.jobs("%A", "--states=running") and found[1]

        wait_for(lambda: log.exists() and running(), 240, "training")
        return running()

    def train_log(self) -> str:
        return (self.results / "logs/train/unet.log").read_text()

    def outputs(self) -> dict[str, bytes]:
        """Return the contents of all results by path, except files that differ between any two runs."""
        files = (path for path in self.results.rglob("*") if path.is_file())
        named = {path.relative_to(self.results): path for path in files}
        return {str(name): path.read_bytes() for name, path in named.items() if not VARYING & {*name.parts}}


def rule_of(job: dict[str, str]) -> str:
    """Return the rule or group of a job, without `rule_` and wildcards, which the Slurm plugin adds."""
    return job["Comment"].removeprefix("rule_").partition("_wildcards_")[0]


def assert_one_at_a_time(jobs: list[dict[str, str]]) -> None:
    """Check by the times of Slurm that no two of the jobs ran at the same time."""
    times = [
        [datetime.fromisoformat(job[key]) for key in ("StartTime", "EndTime")]
        for job in jobs
        if job["StartTime"] != "Unknown" and job["RunTime"] != "00:00:00"
    ]
    assert all(end <= start for (_, end), (start, _) in pairwise(times)), times


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    install()
    offline = leave_the_network()
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # pytest's folder is too long for a socket
    slurm = Slurm(folder, nodes=2)
    slurm.offline, slurm.started = offline, []
    try:
        yield slurm
    finally:
        slurm.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def undisturbed(slurm, tmp_path_factory) -> dict[str, Run]:
    """Return a finished run with each profile; both run at the same time."""
    runs = {profile: Run(slurm, tmp_path_factory.mktemp(profile), profile) for profile in PROFILES}
    started = [(run, run.start()) for run in runs.values()]
    for run, process in started:
        run.finish(process, 600)
    return runs


@pytest.fixture
def prepared(undisturbed, tmp_path):
    """Return a function that copies the finished run without its model, so that it must be trained again."""

    def prepare(profile: str, name: str = "run") -> Run:
        source = undisturbed[profile]
        shutil.copytree(source.folder, tmp_path / name)
        run = Run(source.slurm, tmp_path / name, profile)
        run.output.unlink()
        shutil.rmtree(run.results / "models")
        (run.results / "logs/train/unet.log").unlink()
        return run

    return prepare


@pytest.fixture(autouse=True)
def nothing_left(slurm) -> Iterator[None]:
    """Clean up after each test, also if it failed."""
    yield
    for process in slurm.started:
        process.kill()
    if "slurmctld" not in slurm.daemons:
        slurm.start_controller()
    slurm.run("scancel", "--user", str(os.geteuid()))
    wait_for(lambda: not slurm.jobs(), 60, "jobs to end")


def assert_model_is(run: Run, undisturbed: dict[str, Run]) -> None:
    assert (run.folder / MODEL).read_bytes() == (undisturbed[CLUSTER].folder / MODEL).read_bytes()


class TestUndisturbed:
    @pytest.mark.parametrize("profile", PROFILES)
    def test_slurm_ran_every_job_that_needs_a_node(self, undisturbed, profile):
        run = undisturbed[profile]
        ended = {record["JobId"]: record for record in run.slurm.records()}
        logs = {
            path.stem: path.read_text()
            for path in (run.folder / ".snakemake").rglob("*.log")
            if path.stem in ended
        }
        started = {job["JobId"] for job in run.jobs()}
        assert started and all(ended[job]["JobState"] == "COMPLETED" for job in started)
        output = run.output.read_text()
        planned = set(re.findall(r"^(\w+) +1$", output.partition("Select jobs")[0], re.MULTILINE)) - LOCAL
        if profile == SLURM:  # this profile keeps the output of jobs
            ran = {
                rule for job in started for rule in re.findall(r"^\s*rule (\w+):", logs[job], re.MULTILINE)
            }
            assert ran == planned
        # the log of each stage names the job that ran it
        for log in (run.results / "logs").rglob("*.log"):
            holder = re.search(r"Slurm job (\d+) since", log.read_text())
            stage = log.relative_to(run.results / "logs").parts[0].removesuffix(".log")
            assert (stage in LOCAL) == (holder is None), log
            assert holder is None or holder[1] in started, log
        assert {"prepare", "train", "finish"} <= {
            name for job in run.jobs() for name in job["Comment"].split("_")
        }

    @pytest.mark.parametrize("profile", PROFILES)
    def test_only_training_requests_a_gpu(self, undisturbed, profile):
        requested = {rule_of(job): job.get("TresPerJob", "") for job in undisturbed[profile].jobs()}
        assert requested.pop("train_model") == "gres:gpu:1"
        assert requested and not any(requested.values())
        queues = {rule_of(job): job["Partition"] for job in undisturbed[profile].jobs()}
        assert queues.pop("train_model") == "gpu"
        assert {*queues.values()} == {"cpu"}

    def test_both_executors_give_the_same_bytes(self, undisturbed):
        one, other = (undisturbed[profile].outputs() for profile in PROFILES)
        assert {"report.html", "scores.csv", "models/unet/model.pt", "dataset/learn.h5"} <= one.keys()
        assert one.keys() == other.keys()
        assert [name for name in one if one[name] != other[name]] == []

    def test_no_job_can_reach_a_network(self, slurm, undisturbed):
        if not slurm.offline:
            pytest.skip("a separate network needs root")
        command = f"import socket; socket.create_connection(('{ELSEWHERE}', 443), 5)"
        answer = slurm.run("srun", sys.executable, "-c", command, check=False)
        assert "Network is unreachable" in answer.stderr

    def test_nothing_remains_after_the_run(self, undisturbed, slurm):
        assert slurm.jobs() == []
        assert list((undisturbed[CLUSTER].folder / ".snakemake/cluster").iterdir()) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_a_cancelled_training_resumes(prepared, undisturbed, slurm, profile):
    run = prepared(profile)
    process = run.start("--", MODEL)
    slurm.run("scancel", run.training())
    run.finish(process)
    assert "resuming at iteration" in run.train_log()
    assert_model_is(run, undisturbed)
    first, second = run.trainings()
    assert first["JobState"] != "COMPLETED" and second["JobState"] == "COMPLETED"
    assert_one_at_a_time([first, second])


def test_a_job_that_exceeded_its_memory_gets_more(prepared, undisturbed):
    run = prepared(CLUSTER)
    run.finish(run.start("--set-resources", "train_model:mem_mb=250 * attempt ** 3", "--", MODEL))
    assert_model_is(run, undisturbed)
    first, *_, last = run.trainings()
    assert (first["MinMemoryNode"], first["JobState"]) == ("250M", "FAILED")
    assert last["MinMemoryNode"] == "2000M" or last["MinMemoryNode"] == "6750M"
    assert_one_at_a_time(run.trainings())


def stop_training(run: Run) -> None:
    for pid in processes_of([run.training()]):
        if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes():
            with_pid(pid, signal.SIGSTOP)


def test_a_job_that_exceeded_its_time_gets_more(prepared, undisturbed):
    """Both profiles at the same time, as this takes minutes. Training is paused until its time is up."""
    runs = [prepared(profile, profile) for profile in PROFILES]
    options = ("--set-resources", "train_model:runtime=1 * attempt", "--default-resources", "mem_mb=2000")
    started = [(run, run.start(*options, "--", MODEL)) for run in runs]
    with ThreadPoolExecutor() as pool:
        list(pool.map(stop_training, runs))
    for run, process in started:
        run.finish(process)
        first, *_, last = run.trainings()
        # with profiles/cluster, the job gets a signal before its time is up, up to a minute earlier than
        # requested
        assert first["JobState"] == "TIMEOUT" if run.profile == SLURM else first["JobState"] != "COMPLETED"
        assert last["JobState"] == "COMPLETED"
        assert first["TimeLimit"] == "00:01:00" < last["TimeLimit"]
        assert "resuming at iteration" in run.train_log()
        assert_model_is(run, undisturbed)
        assert_one_at_a_time(run.trainings())


@pytest.mark.parametrize("profile", [CLUSTER])
def test_a_job_is_restarted_on_another_node_when_its_node_fails(prepared, undisturbed, slurm, profile):
    run = prepared(profile)
    process = run.start("--", MODEL)
    job = run.training()
    (node,) = slurm.jobs("%N", f"--jobs={job}")
    slurm.cut_power(node)
    try:
        run.finish(process)
    finally:
        slurm.start_node(node)
        slurm.wait_for_idle_nodes()
    assert_model_is(run, undisturbed)
    *_, last = run.trainings()
    assert last["JobState"] == "COMPLETED" and last["NodeList"] != node


def test_the_workflow_waits_for_a_controller_that_is_down(prepared, undisturbed, slurm):
    """The controller is down when the run starts, and again while a job runs and ends."""
    run = prepared(CLUSTER)
    shutil.rmtree(run.results / "prediction/unet")
    slurm.stop_controller()
    process = run.start("--", "results/prediction/unet/score.h5")
    wait_for(lambda: "the queue does not answer" in run.output.read_text(), 120, "complaint")
    slurm.start_controller()
    run.training()
    slurm.stop_controller()
    wait_for(lambda: "done in" in run.train_log(), 240, "trained model")
    time.sleep(5)
    slurm.start_controller()
    run.finish(process)
    assert_model_is(run, undisturbed)
    ended = [job["JobState"] for job in run.jobs() if rule_of(job) in ("train_model", "predict_test")]
    # Slurm may hold a job if it missed its end; the job is then cancelled and does not start again
    assert len(ended) == 2 and set(ended) <= {"COMPLETED", "CANCELLED"}


@pytest.mark.parametrize("profile", PROFILES)
def test_jobs_of_a_killed_snakemake_are_ended_before_others_start(prepared, undisturbed, slurm, profile):
    """Snakemake is killed twice: while its job is in the queue, and while the job is running."""
    run = prepared(profile)
    script = [
        "sbatch",
        "--parsable",
        "--job-name=bordure-1234567",
        "--output=/dev/null",
        "--wrap",
        "sleep 600",
    ]
    foreign = slurm.run(*script).stdout.strip()
    slurm.run("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    try:
        process = run.start("--", MODEL)
        wait_for(run.trainings, 120, "job in the queue")
        process.kill()
        (waiting,) = run.trainings()
        assert waiting["JobState"] == "PENDING"
    finally:
        slurm.run("scontrol", "update", "PartitionName=gpu", "State=UP")
    process = run.start("--", MODEL)
    running = run.training()
    process.kill()
    run.finish(run.start("--", MODEL))
    assert slurm.jobs("%A %T") == [f"{foreign} RUNNING"]
    slurm.run("scancel", foreign)
    assert "resuming at iteration" in run.train_log()
    assert_model_is(run, undisturbed)
    states = {job["JobId"]: job["JobState"] for job in run.trainings()}
    last = states.popitem()[1]
    assert {waiting["JobId"], running} <= states.keys()
    assert last == "COMPLETED" and "COMPLETED" not in states.values()
    assert_one_at_a_time(run.trainings())


def test_history_is_complete(undisturbed):
    with open(undisturbed[CLUSTER].results / "models/unet/history.csv") as file:
        assert [int(row["iteration"]) for row in csv.DictReader(file)] == [50, 100, 150, 200, 250]
