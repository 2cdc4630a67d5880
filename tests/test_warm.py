"""Processes that are forked from the server of the tests end as others do."""

import os
import signal
import subprocess

import psutil
import pytest
import warm


def start(folder, code):
    (folder / "job.py").write_text(code)
    environment = os.environ | warm.environment()
    return subprocess.Popen(
        [warm.python(), "job.py"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('wrong')", 1),
        *(
            (f"import os; os.kill(os.getpid(), {number:d})", -number)
            for number in (signal.SIGTERM, signal.SIGKILL)
        ),
    ],
)
def test_the_exit_status_is_that_of_the_job(tmp_path, code, status):
    assert start(tmp_path, code).wait(60) == status


def test_a_signal_reaches_the_job_and_a_killed_client_ends_it(tmp_path):
    sleep = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(100)\n"
    for how in (signal.SIGTERM, signal.SIGKILL):
        client = start(tmp_path, sleep)
        job = psutil.Process(int(client.stdout.readline()))
        client.send_signal(how)
        assert client.wait(60) == -how
        job.wait(60)
