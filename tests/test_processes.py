"""Tests of several processes, with two processes on the CPU that are started as for two GPUs."""

import contextlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
import warm
from test_training import AUGMENTATION, NETWORK, PLAIN, TRAINING, inputs, interrupted, recorded_steps, run  # noqa: F401

from pipeline_lib.networks.model import Model
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.processes import ErrorHandler, Processes, _report, launch
from pipeline_lib.stages import training

ROOT = Path(__file__).resolve().parent.parent
TRAINING_MODULE = "pipeline_lib.stages.training"


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Return a function that runs a module, or the given code, in two processes and returns the log."""
    paths = [str(tmp_path), str(ROOT), str(ROOT / "tests")]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHON_EXEC", warm.python())  # which torchrun starts
    for name, value in warm.environment(*paths).items():
        monkeypatch.setenv(name, value)
    log_file = tmp_path / "log"

    def start(module, code=None, **arguments):
        log_file.write_text("")
        if code:
            (tmp_path / f"{module}.py").write_text(code)
        launch(module, 2, "cpu", log_file, **arguments)
        return log_file.read_text()

    yield start
    logging.getLogger("torch.distributed").setLevel(logging.NOTSET)


def arguments_of(inputs, folder, seed=0, network=NETWORK, **settings):  # noqa: F811
    folder.mkdir(exist_ok=True)
    names = ["train", "train_weight_maps", "validation", "validation_weight_maps", "statistics"]
    return {
        **dict(zip(names, inputs, strict=True)),
        "model": folder / "model.pt",
        "history": folder / "history.csv",
        "network": network,
        "training": TRAINING | settings,
        "augmentation": AUGMENTATION,
        "seed": seed,
    }


def state(folder):
    return Model.load(folder / "model.pt").network.state_dict()


def assert_alike(one, other, rtol=1e-4, atol=1e-5):
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=atol)


def history(folder):
    return pd.read_csv(folder / "history.csv")


def test_a_single_process_does_everything():
    single = Processes()
    assert single.first and [*single.share(3)] == [0, 1, 2]
    assert single.any(True, False) == (True, False)
    assert single.merge({2: "b", 1: "a"}) == {1: "a", 2: "b"}
    assert single.from_first(lambda: "x") == "x"


def test_shares_are_dealt_out_in_turn():
    assert [[*Processes(rank, 3).share(7)] for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]


def test_a_batch_that_cannot_be_divided_is_reported_with_a_remedy(inputs, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match=r"3 patches .* 2 processes. Set `training.batch: 6`"):
        training.train(**arguments_of(inputs, tmp_path, batch=3), processes=Processes(0, 2))


def test_without_torchrun_the_usage_is_printed():
    command = [sys.executable, "-m", "pipeline_lib.stages.training", "arguments.json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1 and "torch.distributed.run --nproc-per-node" in ended.stderr


TALK = """
import torch
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import work

def talk(processes, greeting):
    rank = processes.rank
    turned = torch.arange(12.0).reshape(1, 2, 2, 3).contiguous(memory_format=torch.channels_last) + rank
    rest = [torch.tensor(1.0 + rank), torch.ones(2, 2) * rank]
    processes.sum_([turned, *rest])
    assert torch.equal(turned, 2 * torch.arange(12.0).reshape(1, 2, 2, 3) + 1)
    assert rest[0] == 3 and torch.equal(rest[1], torch.ones(2, 2))
    assert processes.any(rank == 0, False, rank == 1) == (True, False, True)
    found = processes.merge({3 - rank: "second" if rank else "first", 5 + rank: rank})
    assert [*found.items()] == [(2, "second"), (3, "first"), (5, 0), (6, 1)]
    assert processes.from_first(lambda: {"rank": rank, "t": torch.ones(2)})["rank"] == 0
    logger.info("%s from %d of %d", greeting, rank, processes.number)

if __name__ == "__main__":
    work(talk)
"""


@pytest.mark.slow
def test_processes_exchange_data_and_only_the_first_logs(start):
    assert re.fullmatch(r"\d\d:\d\d:\d\d hello from 0 of 2\n", start("talk", TALK, greeting="hello"))


FAIL = """
import os, time
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.processes import work

def fail(processes, how):
    if processes.rank == 1:
        {"input error": lambda: exec("raise InputError('b.h5: empty. Copy it again.')"),
         "mistake": lambda: {}["oops"],
         "killed": lambda: os.kill(os.getpid(), 9)}[how]()
    processes.any(False)
    time.sleep(1000)

if __name__ == "__main__":
    work(fail)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("input error", InputError, r"^b\.h5: empty\. Copy it again\.$"),
        ("mistake", RuntimeError, r"(?s)process 1 of 2: Traceback .*KeyError: 'oops'"),
        ("killed", InputError, r"process 1 of 2 was killed \(SIGKILL\)"),
    ],
)
def test_a_process_that_fails_ends_all_and_only_its_message_is_shown(start, capfd, how, kind, message):
    began = time.monotonic()
    with pytest.raises(kind, match=message):
        start("fail", FAIL, how=how)
    assert time.monotonic() - began < 100  # less than the time-out of a process that waits for another
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_child_processes_end_with_their_parent(tmp_path, how):
    """Otherwise they would continue to use a GPU that is no longer claimed."""
    (tmp_path / "rest.py").write_text(
        "import os, time\n"
        "from pipeline_lib.runtime.processes import work\n"
        "def rest(processes):\n"
        "    os.write(1, b'%d\\n' % os.getpid())\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__': work(rest)\n"
    )
    code = (
        "from pipeline_lib.runtime.log import stage\n"
        "from pipeline_lib.runtime.processes import launch\n"
        "with stage('log') as run: run(launch, 'rest', 2, 'cpu', 'log')"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        stdout=subprocess.PIPE,
    )
    children = [int(parent.stdout.readline()) for _ in range(2)]
    parent.send_signal(how)
    try:
        parent.communicate(timeout=30)  # returns when no process has the other end of the pipe open
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    log = (tmp_path / "log").read_text()
    assert log.endswith("error: ended by SIGTERM. Run the same command again.\n" if how == 15 else "")
    assert "Traceback" not in log


@pytest.mark.slow
def test_a_step_of_two_processes_equals_that_of_one_on_the_whole_batch(inputs, tmp_path, start):  # noqa: F811
    """With plain SGD at learning rate 1, the update is the gradient; with drop-out, batch normalisation."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "warm_up": 0, "decay": "constant"}
    settings = {**plain, "iterations": 1, "batch": 4}
    one = run(inputs, tmp_path / "one", **settings)
    start(TRAINING_MODULE, **arguments_of(inputs, tmp_path / "two", **settings))
    assert_alike(one, state(tmp_path / "two"), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_on_small_patches_as_one(inputs, tmp_path, start):  # noqa: F811
    """The patches are in other groups, and each has its own drop-out and loss mask nevertheless."""
    layers = {"channels": [4, 4], "kernel_sizes": [3], "fc_channels": [8], "dropout": 0.5, "window": 22}
    plain = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1.0, "warm_up": 0, "decay": "constant"}
    settings = {**plain, "iterations": 1, "batch": 6, "tile": 27, "loss_mask": 0.3}
    settings |= {"network": {"name": "patch_classifier", **layers}, "sampling": "class_balanced"}
    one = run(inputs, tmp_path / "one", **settings)
    start(TRAINING_MODULE, **arguments_of(inputs, tmp_path / "two", **settings))
    assert_alike(one, state(tmp_path / "two"), rtol=1e-5, atol=1e-6)
    priors = [Model.load(tmp_path / name / "model.pt").log_prior for name in ("one", "two")]
    assert priors[0] == priors[1] != []


@pytest.mark.slow
def test_two_processes_estimate_the_statistics_over_all_tiles(inputs, tmp_path, start):  # noqa: F811
    """Three tiles, so that the shares of the processes are not equal."""
    settings = {"iterations": 1, "batch": 2, "batch_normalisation_tiles": 3}
    one = run(inputs, tmp_path / "one", **settings)
    start(TRAINING_MODULE, **arguments_of(inputs, tmp_path / "two", **settings))
    assert_alike(one, state(tmp_path / "two"), rtol=1e-5, atol=1e-6)


WATCHED = """
import os
from pipeline_lib.stages import training
from pipeline_lib.runtime.processes import work

if os.environ["RANK"] == "1":
    os.replace = None  # bordure needs it to write any file

if __name__ == "__main__":
    work(training.train)
"""


@pytest.mark.slow
def test_two_processes_train_as_one_and_only_the_first_writes(inputs, tmp_path, start, capfd):  # noqa: F811
    one = run(inputs, tmp_path / "one", network=PLAIN, batch=2)
    capfd.readouterr()
    log = start("watched", WATCHED, **arguments_of(inputs, tmp_path / "two", network=PLAIN, batch=2))
    assert_alike(one, state(tmp_path / "two"))
    pd.testing.assert_frame_equal(history(tmp_path / "one"), history(tmp_path / "two"), rtol=1e-3)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {
        "model.pt",
        "history.csv",
        "model.checkpoint.pt",
        ".provenance",
    }
    assert capfd.readouterr().err == log
    assert re.findall(r"iteration (\d+):", log) == ["4", "8", "12"]
    assert "12 iterations, batches of 2, tiles of 52 -> 36 px, in 2 processes" in log
    assert Model.load(tmp_path / "two/model.pt").provenance["environment"]["processes"] == 2


@pytest.mark.slow
def test_training_resumes_with_another_number_of_processes(
    inputs,  # noqa: F811
    tmp_path,
    start,
    monkeypatch,
):
    whole = run(inputs, tmp_path / "whole", network=PLAIN, batch=2)
    with monkeypatch.context() as patch:
        interrupted(patch, after=7)
        with pytest.raises(KeyboardInterrupt):
            run(inputs, tmp_path / "more", network=PLAIN, batch=2)
    log = start(TRAINING_MODULE, **arguments_of(inputs, tmp_path / "more", network=PLAIN, batch=2))
    assert "resuming at iteration 4" in log
    assert_alike(whole, state(tmp_path / "more"))

    fewer = arguments_of(inputs, tmp_path / "fewer", network=PLAIN, batch=2)
    fewer["history"].mkdir()
    with pytest.raises((RuntimeError, InputError), match=r"(?i)is a directory"):  # after the first validation
        start(TRAINING_MODULE, **fewer)
    fewer["history"].rmdir()
    steps = recorded_steps(monkeypatch)
    assert_alike(whole, run(inputs, tmp_path / "fewer", network=PLAIN, batch=2))
    assert steps == [*range(4, 12)]
    pd.testing.assert_frame_equal(history(tmp_path / "whole"), history(tmp_path / "fewer"), rtol=1e-3)


CRAMPED = """
import os
from pipeline_lib.networks.unet import module
from pipeline_lib.stages import training
from pipeline_lib.runtime.processes import work
from test_training import Cramped

Cramped.limit = 150_000 if os.environ["RANK"] == "1" else 10**9
module.UNet = Cramped
if __name__ == "__main__":
    work(training.train)
"""


@pytest.mark.slow
def test_if_one_gpu_is_too_small_all_processes_use_smaller_tiles(inputs, tmp_path, start):  # noqa: F811
    small = arguments_of(inputs, tmp_path / "two", network=PLAIN, batch=2, iterations=4)
    log = start("cramped", CRAMPED, **small)
    assert "(another process ran out of memory). Activations are now computed twice" in log
    (size,) = re.findall(r"Set `training.tile: (\d+)`", log)

    class Small(training.Step):
        """Step of one process that uses equally small patches from the beginning."""

        def __init__(self, *args):
            super().__init__(*args)
            self.rim = (52 - int(size)) // 2

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "Step", Small)
        assert_alike(
            run(inputs, tmp_path / "one", network=PLAIN, batch=2, iterations=4), state(tmp_path / "two")
        )


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_reported_once(inputs, tmp_path, start):  # noqa: F811
    """All processes detect it, but there is only one message."""
    settings = {"learning_rate": 1e30, "warm_up": 0, "optimizer": "sgd", "batch": 2}
    with pytest.raises(InputError, match=r"loss became nan .*training\.learning_rate. \(now 1e\+30\)"):
        start(TRAINING_MODULE, **arguments_of(inputs, tmp_path / "a", network=PLAIN, **settings))


@pytest.mark.slow
def test_training_can_be_started_with_torchrun(inputs, tmp_path):  # noqa: F811
    arguments = arguments_of(inputs, tmp_path / "a", network=PLAIN, batch=2, iterations=1)
    (tmp_path / "a.json").write_text(json.dumps(arguments, default=str))
    command = [warm.python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, "-m", "pipeline_lib.stages.training", tmp_path / "a.json"],
        cwd=ROOT,
        env=os.environ | warm.environment(str(ROOT)) | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0 and "iteration 1: training loss" in ended.stderr
    assert state(tmp_path / "a")


def test_a_reason_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    """torchrun ends this process while it writes, and then reads what is there."""
    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    errors = ErrorHandler()
    with monkeypatch.context() as broken:
        broken.setattr(json, "dump", lambda *arguments: exec("raise SystemExit"))
        with pytest.raises(SystemExit):
            _report(errors, ValueError("a"))
    assert not path.exists()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    _report(errors, ValueError("a"))
    assert json.loads(path.read_text())["message"]["message"] == "ValueError: a"
