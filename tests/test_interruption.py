"""A training that is interrupted at critical moments resumes and ends with the same bytes."""

import multiprocessing
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest
import torch
import warm
from test_processes import arguments_of
from test_training import PLAIN, inputs  # noqa: F401

from pipeline_lib.networks.model import read_tensors
from pipeline_lib.runtime import log, processes, progress
from pipeline_lib.stages import training
from pipeline_lib.training import state

ROOT = Path(__file__).resolve().parent.parent
# Code that is executed before the training. It makes the training send itself the signal HOW at a critical
# moment, here between the two halves of an update.
MIDDLE_OF_AN_UPDATE = """
class Halves(torch.optim.Adam):
    def step(self):
        parameters = [p for p in self.param_groups[0]["params"]]
        gradients = [p.grad for p in parameters]
        for first in (True, False):
            for number, p in enumerate(parameters):
                p.grad = gradients[number] if (number < 3) == first else None
            super().step()
            if first and self.state[parameters[0]]["step"] == 6:
                os.kill(os.getpid(), HOW)

state.make_optimizer = lambda net, settings: Halves(net.parameters(), fused=True)
"""
# The same during a validation that never ends.
VALIDATION = """
def endless(*_):
    calls.append(None)
    if len(calls) == 2:
        os.kill(os.getpid(), HOW)
        while True:
            time.sleep(0.01)
    return validate(*_)

calls, validate = [], training.validate
training.validate = endless
"""
# The same when the new state is written but has not yet replaced the old one.
CHECKPOINT = """
def interrupted(file):
    fsync(file)
    calls.append(None)
    if len(calls) == 2:
        os.kill(os.getpid(), HOW)

calls, fsync = [], os.fsync
os.fsync = interrupted
"""
MODEL = CHECKPOINT.replace("len(calls) == 2", "len(calls) == 4")
MOMENTS = {"update": MIDDLE_OF_AN_UPDATE, "validation": VALIDATION, "checkpoint": CHECKPOINT, "model": MODEL}


def train(folder, arguments, sabotage="", how=signal.SIGTERM):
    """Do the same as the script of the workflow, after executing `sabotage`."""
    os.chdir(folder)
    progress.SECONDS_BETWEEN_LINES = state.SECONDS_BETWEEN_SAVES = 0
    with log.stage("log", 1) as run:
        modules = {"os": os, "time": time, "torch": torch, "training": training, "state": state}
        exec(sabotage, {"HOW": how} | modules)
        run(training.train, **arguments)


@pytest.fixture(scope="module")
def start():
    """`start(folder, arguments, ...)` starts a training in a process that has imported its modules."""
    context = multiprocessing.get_context("forkserver")
    modules = ["pipeline_lib.stages.training", "pipeline_lib.runtime.processes", "pandas", "pytest"]
    modules += ["torch._dynamo"]  # which the first optimizer imports
    context.set_forkserver_preload(modules)

    def start(folder, arguments, *given, target=train):
        (folder / "log").write_text("")
        process = context.Process(target=target, args=(folder, arguments, *given))
        process.start()
        return process

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHON_EXEC", warm.python())  # which torchrun starts
        for name, value in warm.environment(str(ROOT), str(ROOT / "tests")).items():
            patch.setenv(name, value)
        yield start


def end(process, folder):
    """Wait until a process has ended, and return its status and log."""
    process.join(400)
    process.kill()
    process.join()
    return process.exitcode, (folder / "log").read_text()


def results(folder):
    return [(folder / name).read_bytes() for name in ("model.pt", "history.csv")]


@pytest.fixture(scope="module")
def uninterrupted(inputs, tmp_path_factory, start):  # noqa: F811
    """The results of a training that is not interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    status, output = end(start(folder, arguments_of(inputs, folder)), folder)
    assert status == 0, output
    return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "iteration"), [("update", 6), ("validation", 8), ("checkpoint", 3), ("model", None)]
)
def test_sigterm_at_a_critical_moment(inputs, tmp_path, start, uninterrupted, moment, iteration):  # noqa: F811
    """The update is finished, the validation is repeated, and files that were being written are complete."""
    arguments = arguments_of(inputs, tmp_path)
    status, output = end(start(tmp_path, arguments, MOMENTS[moment]), tmp_path)
    assert status == 128 + signal.SIGTERM and "Traceback" not in output
    checkpoint = tmp_path / "model.checkpoint.pt"
    if iteration:
        assert f"interrupted: iteration {iteration} is saved in {checkpoint}. Run the same command" in output
        assert read_tensors(checkpoint)["training"]["iteration"] == iteration
    assert not list(tmp_path.glob(".*partial*")) and not (tmp_path / "model.pt").exists()
    status, output = end(start(tmp_path, arguments), tmp_path)
    assert status == 0 and (f"resuming at iteration {iteration}" in output or not iteration)
    assert results(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill_at_a_critical_moment(inputs, tmp_path, start, uninterrupted, moment):  # noqa: F811
    arguments = arguments_of(inputs, tmp_path)
    killed = start(tmp_path, arguments, MOMENTS[moment], signal.SIGKILL)
    assert end(killed, tmp_path)[0] == -signal.SIGKILL
    assert not (tmp_path / "model.pt").exists()
    status, output = end(start(tmp_path, arguments), tmp_path)
    assert status == 0 and ("resuming at iteration" in output or "a finished training" in output)
    assert results(tmp_path) == uninterrupted and not list(tmp_path.glob(".*partial*"))


@pytest.mark.slow
def test_sigkill_at_random_moments(inputs, tmp_path, start, uninterrupted):  # noqa: F811
    """Soon after an iteration. Each run resumes later than the one before."""
    rng = random.Random(0)
    arguments = arguments_of(inputs, tmp_path)
    resumed = []
    for _ in range(3):
        process = start(tmp_path, arguments)
        iterations = rng.randint(2, 4)
        while process.is_alive() and (tmp_path / "log").read_text().count(" of 12: ") < iterations:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        _, output = end(process, tmp_path)
        resumed += map(int, re.findall(r"resuming at iteration (\d+)", output))
    assert resumed == sorted(set(resumed))
    assert end(start(tmp_path, arguments), tmp_path)[0] == 0
    assert results(tmp_path) == uninterrupted


@pytest.mark.slow
def test_sigterm_does_not_replace_a_good_state_by_an_infinite_one(inputs, tmp_path, start):  # noqa: F811
    sabotage = MOMENTS["update"].replace("os.kill", "parameters[0].data.fill_(torch.inf); os.kill")
    status, output = end(start(tmp_path, arguments_of(inputs, tmp_path), sabotage), tmp_path)
    assert status == 1 and "parameters became infinite in iteration 6" in output
    assert read_tensors(tmp_path / "model.checkpoint.pt")["training"]["iteration"] == 5


IN_PROCESSES = """
import os, signal
from pipeline_lib.stages import training
from pipeline_lib.runtime.processes import work

launcher = int(os.environ["LAUNCHER"])
step = training.Step.__call__
def interrupted(self, patches, iteration, *arguments):
    if iteration == 6 and os.environ["RANK"] == "1":
        os.kill({"launcher": launcher, "one": os.getpid()}[os.environ["WHOM"]], signal.SIGTERM)
    return step(self, patches, iteration, *arguments)

def endless(*arguments):
    calls.append(None)
    if len(calls) == 2 and os.environ["RANK"] == "1":
        os.kill(launcher, signal.SIGTERM)
    while len(calls) == 2:
        os.sched_yield()
    return validate(*arguments)

if os.environ["WHOM"] == "validation":
    calls, validate = [], training.validate
    training.validate = endless
else:
    training.Step.__call__ = interrupted
if __name__ == "__main__":
    work(training.train)
"""


def launch_two(folder, arguments, module, whom, environment):
    """Do the same as the script of the workflow if its job has two GPUs; standard error goes to a file."""
    os.chdir(folder)
    os.environ.update(environment)  # the server may be older: another module started it
    paths = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    os.environ.update(PYTHONPATH=paths, WHOM=whom, LAUNCHER=str(os.getpid()))
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    with log.stage("log", 1) as run:
        run(processes.launch, module, 2, "cpu", "log", **arguments)


@pytest.fixture(scope="module")
def launch(start):
    """`launch(folder, arguments, module)` runs two processes; returns status and standard error."""

    def launch(folder, arguments, module, whom=""):
        (folder / "interrupted.py").write_text(IN_PROCESSES)
        status, _ = end(start(folder, arguments, module, whom, dict(os.environ), target=launch_two), folder)
        return status, (folder / "stderr").read_text()

    return launch


@pytest.fixture(scope="module")
def uninterrupted_two(inputs, tmp_path_factory, launch):  # noqa: F811
    folder = tmp_path_factory.mktemp("two")
    arguments = arguments_of(inputs, folder, network=PLAIN, batch=2)
    status, output = launch(folder, arguments, "pipeline_lib.stages.training")
    assert status == 0, output
    return results(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("whom", "iterations"), [("launcher", {7, 8}), ("one", {7}), ("validation", {8})])
def test_sigterm_to_several_processes(inputs, tmp_path, launch, uninterrupted_two, whom, iterations):  # noqa: F811
    """Either the launcher or one process receives the signal. All processes end at the same iteration."""
    arguments = arguments_of(inputs, tmp_path, network=PLAIN, batch=2)
    status, output = launch(tmp_path, arguments, "interrupted", whom)
    assert status == 128 + signal.SIGTERM and "Traceback" not in output
    saved = re.search(r"interrupted: iteration (\d+) is saved in \S+model\.checkpoint\.pt\.", output)
    assert int(saved[1]) in iterations
    assert output.endswith("error: ended by SIGTERM. Run the same command again.\n")
    assert launch(tmp_path, arguments, "pipeline_lib.stages.training")[0] == 0
    assert results(tmp_path) == uninterrupted_two
