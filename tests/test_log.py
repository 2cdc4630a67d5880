import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline_lib.runtime.log import WORKFLOW, each_warning_once, logger, shown_warnings

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "7", "PYTHONUNBUFFERED": ""}


def run(tmp_path, *statements):
    """Run a stage in its own process, as the workflow does."""
    script = tmp_path / "script.py"
    script.write_text(
        "import gc, os, signal, time\n"
        "for number in (signal.SIGINT, signal.SIGHUP):\n"  # are ignored in processes in the background
        "    signal.signal(number, signal.SIG_DFL)\n"
        "from pipeline_lib.runtime.errors import InputError\n"
        "from pipeline_lib.runtime.log import logger, stage\n"
        f"with stage({str(tmp_path / 'a.log')!r}, threads=3) as run:\n"
        + "".join(f"    {statement}\n" for statement in statements)
    )
    command = [sys.executable, script]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    process, _, log = (tmp_path / "a.log").read_text().partition("\n")
    assert re.fullmatch(r"process \d+ on \S+ since [\d-]+ [\d:]+", process)
    return ended, log


def test_a_stage_logs_to_its_file_and_the_terminal_and_sizes_thread_pools(tmp_path):
    ended, log = run(tmp_path, "run(logger.info, '%s threads', os.environ['OMP_NUM_THREADS'])")
    assert ended.returncode == 0
    assert log == ended.stderr and " 3 threads\n" in log


def test_the_last_line_states_time_and_memory_of_the_function_only(tmp_path):
    ballast = b"x" * 3 * 10**8  # memory of the parent process, which getrusage would count
    _, log = run(
        tmp_path,
        "clock = iter([10, 13.2])",  # read only before and after the function
        "time.perf_counter = lambda: next(clock)",
        "run(bytearray, 10**8)",
    )
    found = re.fullmatch(r"\d\d:\d\d:\d\d done in 3\.20 s, (\d+) MB at most\n", log)
    assert 100 <= int(found[1]) < 150 < len(ballast)


def test_the_memory_of_a_child_process_counts(tmp_path):
    _, log = run(
        tmp_path,
        "import subprocess, sys",
        "run(subprocess.run, [sys.executable, '-c', 'bytearray(2 * 10**8)'])",
    )
    assert 200 <= int(re.search(r"(\d+) MB at most", log)[1]) < 300


def test_the_times_of_several_calls_are_added(tmp_path):
    _, log = run(
        tmp_path,
        "clock = iter([10, 11, 20, 22.5])",
        "time.perf_counter = lambda: next(clock)",
        "run(print)",
        "run(print)",
    )
    assert re.fullmatch(r"\d\d:\d\d:\d\d done in 3\.50 s, \d+ MB at most\n", log)


def test_garbage_is_collected_in_the_function_but_not_during_imports(tmp_path):
    statement = "logger.info('collects: %s', gc.isenabled())"
    _, log = run(tmp_path, statement, f"run(lambda: {statement})")
    assert re.findall("collects: (.*)", log) == ["False", "True"]


def test_the_last_output_is_not_lost(tmp_path):
    ended, _ = run(tmp_path, "run(print, 'the end')")
    assert ended.stdout == "the end\n"


def test_an_input_error_is_logged_without_a_traceback(tmp_path):
    ended, log = run(tmp_path, "raise InputError('a.tif: empty. Copy it again.')")
    assert ended.returncode == 1
    assert log == ended.stderr and log.endswith("error: a.tif: empty. Copy it again.\n")
    assert "Traceback" not in log and "done" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stage_that_is_ended_by_a_signal_leaves_no_incomplete_files(tmp_path, number):
    ended, log = run(
        tmp_path,
        "from pipeline_lib.runtime.files import replacing",
        "with replacing('b.csv') as temporary:",
        "    temporary.write_text('half')",
        f"    os.kill(os.getpid(), {number:d})",
        "    time.sleep(60)",
    )
    assert ended.returncode == 128 + number
    assert log.endswith(f"error: ended by {number.name}. Run the same command again.\n")
    assert not list(ROOT.glob(".b.partial-*"))


def test_a_signal_is_not_lost_in_a_finaliser(tmp_path):
    ended, log = run(
        tmp_path,
        "class Ballast:",
        "    def __del__(self):",
        "        os.kill(os.getpid(), 15)",
        "        [0 for _ in range(10**5)]",
        "ballast = Ballast()",
        "del ballast",
        "time.sleep(60)",
    )
    assert ended.returncode == 128 + 15 and log.endswith("ended by SIGTERM. Run the same command again.\n")


def test_a_signal_is_not_lost_in_code_that_catches_all_exceptions(tmp_path):
    ended, log = run(
        tmp_path,
        "try:",
        "    os.kill(os.getpid(), 15)",
        "    time.sleep(1)",
        "except BaseException:",
        "    time.sleep(60)",
    )
    assert ended.returncode == 128 + 15 and log.endswith("ended by SIGTERM. Run the same command again.\n")


def test_other_exceptions_are_logged_with_a_traceback(tmp_path):
    ended, log = run(tmp_path, "raise KeyError('oops')")
    assert ended.returncode == 1
    assert "script.py" in log and "KeyError: 'oops'" in log


def test_a_job_waits_for_the_same_job_of_an_earlier_run(tmp_path):
    """Otherwise both jobs would write the same file, for instance after Snakemake was killed."""
    code = (
        "import time, pathlib; from pipeline_lib.runtime.log import stage\n"
        f"with stage({str(tmp_path / 'a.log')!r}) as run:\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'begun').touch(); run(time.sleep, 1)\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'ended').touch()\n"
    )
    earlier = subprocess.Popen([sys.executable, "-c", code], env=ENVIRONMENT)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    ended, log = run(tmp_path, f"run(logger.info, os.path.exists({str(tmp_path / 'ended')!r}))")
    assert earlier.wait() == 0 and ended.returncode == 0
    assert f"waiting for the same job of an earlier run to end (process {earlier.pid} on " in ended.stderr
    assert " True\n" in log and "waiting" not in log


def test_a_job_ends_with_the_workflow_that_started_it(tmp_path, monkeypatch):
    workflow = subprocess.Popen(["sleep", "60"])
    monkeypatch.setitem(ENVIRONMENT, WORKFLOW, f"{socket.gethostname()}:{workflow.pid}")
    ended, log = run(tmp_path, f"os.kill({workflow.pid}, 9)", "run(time.sleep, 60)")
    workflow.wait()
    assert ended.returncode == 128 + 15
    assert (
        f"the workflow that started this job (process {workflow.pid}) has ended; the job ends, too\n" in log
    )


def test_a_log_on_a_full_disk_is_reported_without_a_traceback(tmp_path):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "from pipeline_lib.runtime.log import stage\n"
        f"with stage({str(tmp_path / 'a.log')!r}): pass"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT)
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        f"error: {tmp_path}/a.log: the disk is full; nothing was written (File too large)"
    )
    assert ended.stderr.count("\n") == 1


def test_a_job_whose_workflow_has_already_ended_does_not_start(tmp_path, monkeypatch):
    workflow = subprocess.Popen(["true"])
    workflow.wait()
    monkeypatch.setitem(ENVIRONMENT, WORKFLOW, f"{socket.gethostname()}:{workflow.pid}")
    ended, _ = run(tmp_path, "run(time.sleep, 60)")
    assert ended.returncode == 128 + 15


def test_a_workflow_on_another_machine_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, WORKFLOW, "elsewhere:999999")
    assert run(tmp_path, "run(time.sleep, 0.5)")[0].returncode == 0


def test_what_is_done_several_times_warns_once(caplog):
    caplog.set_level("INFO", logger.name)
    with each_warning_once():
        for number in (1, 1, 2):
            logger.warning("volume %d", number)
            logger.info("done")
    logger.warning("volume %d", 1)
    assert caplog.messages == ["volume 1", "done", "done", "volume 2", "done", "volume 1"]


def test_warnings_are_shown_while_a_command_runs_and_no_longer(capfd, monkeypatch):
    """So each command writes to the terminal of its time, and a program that calls it keeps its own log."""
    monkeypatch.setattr(logging.root, "handlers", [])
    for _ in range(2):
        with shown_warnings():
            logger.warning("cells touch")
        assert capfd.readouterr().err == "WARNING: cells touch\n"
        assert logging.root.handlers == [] and logger.level == logging.NOTSET
    own = logging.StreamHandler(sys.stdout)
    monkeypatch.setattr(logging.root, "handlers", [own])
    with shown_warnings():
        logger.warning("cells touch")
    assert capfd.readouterr() == ("cells touch\n", "") and logging.root.handlers == [own]
