import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_lib.runtime import locks
from pipeline_lib.runtime.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
HOLD = "from pipeline_lib.runtime import locks; locks.hold_results"


@pytest.fixture
def holder(tmp_path):
    """A process that has locked the results folder."""
    code = f"{HOLD}({str(tmp_path)!r}); print('held', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_run_in_a_results_folder_is_refused_and_names_the_first(tmp_path, holder):
    with pytest.raises(
        InputError, match=rf"^{tmp_path}: another run .*\(process {holder.pid} on .* since .*\)"
    ):
        locks.hold_results(tmp_path)


def test_a_killed_run_releases_its_lock(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert locks.hold_results(tmp_path)
    assert (tmp_path / ".lock").read_text().startswith(locks.this_process())


def test_the_description_of_a_process_names_the_slurm_job(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert locks.this_process().endswith(", Slurm job 42")


def test_without_an_exception_the_lock_is_waited_for(tmp_path, holder):
    descriptions = []

    def release(description):
        descriptions.append(description)
        holder.communicate("\n")

    locks.hold(tmp_path / ".lock", release)
    assert descriptions[0].startswith(f"process {holder.pid} on ")
    again = subprocess.run(
        [sys.executable, "-c", f"{HOLD}({str(tmp_path)!r})"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert "another run is at work" in again.stderr
