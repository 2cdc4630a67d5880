import os
import subprocess
import sys
from pathlib import Path

from pipeline_lib.log import logger, stage

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def test_a_stage_logs_to_its_file_and_the_terminal_and_sizes_thread_pools(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with stage(tmp_path / "a.log", threads=3):
        assert os.environ["OMP_NUM_THREADS"] == "3"
        logger.info("42 cells")
    assert "42 cells" in (tmp_path / "a.log").read_text()
    assert "42 cells" in capsys.readouterr().err
    logger.info("afterwards")
    assert "afterwards" not in (tmp_path / "a.log").read_text()


def run(tmp_path, statement):
    """A stage in a process of its own, as the workflow runs it."""
    script = tmp_path / "script.py"
    script.write_text(
        "from pipeline_lib.errors import InputError\n"
        "from pipeline_lib.log import stage\n"
        f"with stage({str(tmp_path / 'a.log')!r}):\n    {statement}\n"
    )
    command = [sys.executable, script]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT)
    return ended, (tmp_path / "a.log").read_text()


def test_what_a_user_can_put_right_is_told_without_a_traceback(tmp_path):
    ended, log = run(tmp_path, "raise InputError('a.tif: empty. Copy it again.')")
    assert ended.returncode == 1
    assert log == ended.stderr and log.endswith("error: a.tif: empty. Copy it again.\n")
    assert "Traceback" not in log


def test_what_is_our_mistake_is_told_with_its_place(tmp_path):
    ended, log = run(tmp_path, "raise KeyError('oops')")
    assert ended.returncode == 1
    assert "script.py" in log and "KeyError: 'oops'" in log
