"""Several items at a time in processes: results, errors, killed processes."""

import os
import signal
import time
from functools import partial

import pytest

from pipeline_lib.runtime import workers
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing


def task(folder, item):
    if item == "refused":
        raise InputError("refused: wrong.")
    if item == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "bug":
        raise KeyError("bug")
    if item == "slow":
        with replacing(folder / "slow.txt") as temporary:
            temporary.write_text("half")
            (folder / "begun").touch()
            time.sleep(60)
    return item * 2, os.getpid()


@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_item_has_its_result(tmp_path, number):
    items = [*range(7), "refused", 8]
    found = dict(workers.each(partial(task, tmp_path), items, number))
    assert str(found.pop(7)) == "refused: wrong."
    assert {n: double for n, (double, _) in found.items()} == {n: 2 * n for n in (*range(7), 8)}
    processes = {process for _, process in found.values()}
    assert len(processes) <= number and os.getpid() not in processes


def test_a_single_item_needs_no_process(tmp_path):
    assert dict(workers.each(partial(task, tmp_path), [3], 4)) == {0: (6, os.getpid())}


def test_a_killed_process_does_not_stop_the_others(tmp_path):
    found = dict(workers.each(partial(task, tmp_path), [1, "killed", 3, "killed", 5], 2))
    assert [found[n][0] for n in (0, 2, 4)] == [2, 6, 10]
    assert all("the process was killed, most likely because memory ran out" in str(found[n]) for n in (1, 3))


def test_other_exceptions_are_raised_with_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match=r"(?s)in task\n.*KeyError: 'bug'"):
        list(workers.each(partial(task, tmp_path), [1, "bug", 3], 2))


def test_processes_that_are_ended_early_leave_no_half_written_file(tmp_path):
    results = workers.each(partial(task, tmp_path), [1, "slow", 3, 4], 2)
    next(results)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 30
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]
