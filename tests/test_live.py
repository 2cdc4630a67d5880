"""Live lines on a terminal: what a person sees, drawn into a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from pipeline_lib.runtime import live, log, progress
from pipeline_lib.runtime.live import Line

ROOT = Path(__file__).resolve().parent.parent


class Terminal:
    """A program in a pseudo-terminal, and the screen as its escape sequences leave it."""

    def __init__(self, code, columns=80, rows=24, **variables):
        self.near, far = pty.openpty()
        fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.before = termios.tcgetattr(far)
        self.far = far
        environment = {name: text for name, text in os.environ.items() if name not in ("CI", live.CHANNEL)}
        environment |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONIOENCODING": "utf-8"} | variables
        header = "import os, sys, subprocess, time\nfrom pipeline_lib.runtime import live\n"
        self.program = subprocess.Popen(
            [sys.executable, "-c", header + code],
            stdin=subprocess.PIPE,
            stdout=far,
            stderr=far,
            env=environment,
            start_new_session=True,
        )
        self.written = b""

    def read(self, seconds):
        if select.select([self.near], [], [], seconds)[0]:
            self.written += os.read(self.near, 2**16)

    def screen(self):
        """Return the lines on the screen, without empty ones at the end."""
        lines, row, column = [""], 0, 0
        for part in re.findall(r"\x1b\[\d*[A-Z]|\r|\n|[^\x1b\r\n]+", self.written.decode()):
            if part == "\r":
                column = 0
            elif part == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif part.startswith("\x1b"):
                number, letter = part[2:-1], part[-1]
                if letter == "A":
                    row -= int(number)
                else:
                    assert letter == "J" and not number, part
                    lines = [*lines[:row], lines[row][:column]]
            else:
                lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
                column += len(part)
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def shows(self, *expected):
        """Wait until the screen has exactly these lines."""
        end = time.monotonic() + 20
        while self.screen() != [*expected]:
            assert time.monotonic() < end, self.screen()
            self.read(0.1)

    def go_on(self):
        self.program.stdin.write(b"\n")
        self.program.stdin.flush()

    def ends(self, status=0):
        """Wait until the program has ended, and check that it left the terminal as it was."""
        self.program.stdin.close()
        while self.program.poll() is None:
            self.read(0.1)
        self.read(0.1)
        assert self.program.returncode == status
        assert termios.tcgetattr(self.far) == self.before
        os.close(self.near)
        os.close(self.far)


TRAINING = 'live.send(done=30, total=120, first=0, seconds=60.0, values="loss 0.1234")'
OTHER = """
from pipeline_lib.runtime import live
with live.job("segment"):
    live.send(done=5000, total=10000, first=4000, seconds=2.0)
    print("from the other process", flush=True)
    input()
"""


def test_each_job_has_a_line_below_the_output_of_all_processes():
    terminal = Terminal(
        f"""
with live.drawn():
    print("first", flush=True)
    with live.job("train unet"):
        {TRAINING}
        input()
        other = subprocess.Popen([sys.executable, "-c", {OTHER!r}], stdin=subprocess.PIPE)
        input()
        print("error", file=sys.stderr, flush=True)
        input()
        other.kill()
        other.wait()
        input()
    input()
print("last")
"""
    )
    two = (
        f"train unet {'███████▎':<29} 30/120, 0.5/s, 03:00 left, loss 0.1234",
        f"segment    {'█' * 18:<36} 5,000/10,000, 500/s, 00:10 left",
    )
    terminal.shows("first", two[0])
    terminal.go_on()
    terminal.shows("first", "from the other process", *two)
    terminal.go_on()
    terminal.shows("first", "from the other process", "error", *two)
    terminal.go_on()
    terminal.shows("first", "from the other process", "error", two[0])
    terminal.go_on()
    terminal.shows("first", "from the other process", "error")
    terminal.go_on()
    terminal.shows("first", "from the other process", "error", "last")
    terminal.ends()


@pytest.mark.parametrize("variables", [{"CI": "true"}, {"TERM": "dumb"}])
def test_nothing_is_drawn_where_lines_cannot_be_replaced(variables):
    code = f"with live.drawn(), live.job('a'):\n    {TRAINING}\n    print('plain', flush=True)"
    terminal = Terminal(code, **variables)
    terminal.shows("plain")
    terminal.ends()
    assert b"\x1b" not in terminal.written and b"\x1e" not in terminal.written


def test_a_pipe_gets_plain_output_and_no_messages(tmp_path):
    """Also if the environment, but not the output, is that of a run with live lines, as on a cluster node."""
    code = (
        f"from pipeline_lib.runtime import live\nwith live.drawn(), live.job('a'):\n    {TRAINING}; print(1)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), live.CHANNEL: "1:2"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=True)
    assert (answer.stdout, answer.stderr) == (b"1\n", b"")


def test_the_terminal_is_usable_after_an_exception_and_after_a_kill():
    terminal = Terminal(f"with live.drawn(), live.job('a'):\n    {TRAINING}\n    input()\n    1 / 0")
    line = f"a {'█████████▌':<38} 30/120, 0.5/s, 03:00 left, loss 0.1234"
    terminal.shows(line)
    terminal.go_on()
    terminal.ends(1)
    assert terminal.screen()[0] == "Traceback (most recent call last):"
    terminal = Terminal(f"with live.drawn(), live.job('a'):\n    {TRAINING}\n    input()")
    terminal.shows(line)
    terminal.program.kill()
    terminal.ends(-9)
    assert terminal.screen() == [line] and terminal.written.endswith(b"\n")


def test_no_more_lines_are_drawn_than_fit():
    code = "\n".join(
        [
            "import contextlib",
            "with live.drawn(), contextlib.ExitStack() as stack:",
            "    for number in range(9):",
            "        stack.enter_context(live.job(str(number)))",
            "        live.send(done=0, total=9)",
            "    input()",
        ]
    )
    terminal = Terminal(code, columns=30, rows=6)
    terminal.shows(*(f"{number} {' ' * 23} 0/9" for number in range(4)))
    terminal.go_on()
    terminal.ends()
    assert terminal.screen() == []


def bar(fraction, size):
    return "#" * round(fraction * size) + "." * (size - round(fraction * size))


@pytest.mark.parametrize(
    ("columns", "bar_shown", "end"),
    [
        (119, "###############" + "." * 25, ", loss 0.2123, V-Rand 0.9621"),  # not longer than 40
        (79, "####......", ", loss 0.2123, V-Rand 0.9621"),
        (60, "##....", ", loss 0.2123"),  # cut off
    ],
)
def test_a_line_fits_the_terminal(columns, bar_shown, end):
    line = Line("train unet", 0, 1500, 4000, 500, 40.0, "loss 0.2123, V-Rand 0.9621")
    text = line.text(columns, 10, bar)
    assert text == f"train unet {bar_shown} 1,500/4,000, 25/s, 01:40 left{end}" and len(text) <= columns


def test_times_and_speeds():
    assert live.interval(59.4) == "00:59" and live.interval(3599.6) == "1:00:00"
    assert Line("a", 0, 1, 10, 0, 4.0).text(40, 1, bar) == "a #............ 1/10, 0.25/s, 00:36 left"
    assert Line("a", 0, 0, 10, 0, 0.0).text(12, 1, bar) == "a ...... 0/1"
    assert re.fullmatch(r"a  00:0[01]", Line("a").text(40, 2, bar))
    assert re.fullmatch(r"a  00:0[01]", Line("a", total=1, done=1).text(40, 2, bar))


def test_a_job_is_named_after_its_log():
    assert log.job_of("/a/logs/b/results/logs/predict/unet/test_1.log") == "predict unet test_1"
    assert log.job_of("results/logs/build_weight_map/test.log") == "build weight map test"
    assert log.job_of("other.log") == "other"


def test_progress_is_logged_in_lines_with_speed_and_time_left(monkeypatch, caplog):
    caplog.set_level("INFO", "bordure")
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.Progress(4000, "iteration", first=1000)
    answers, asked = [], []
    for seconds, done in ((114.9, 1149), (115.0, 1150), (129.9, 1299), (130.0, 1600)):
        now[0] = seconds
        answers.append(shown.update(done, lambda: asked.append(1) or {"loss": 0.25}))
    assert answers == [False, True, False, True] and len(asked) == 2
    assert caplog.messages == [
        "iteration 1150 of 4000: loss 0.2500, 10.00 iterations/s, 4 min 45 s left",
        "iteration 1600 of 4000: loss 0.2500, 20.00 iterations/s, 2 min 00 s left",
    ]
    silent = progress.Progress(4, "image", log=False)
    now[0] = 1000.0
    assert not silent.update(1)


STAGE = """
import time
from pipeline_lib.runtime import progress
from pipeline_lib.runtime.log import logger, stage
progress.SECONDS_BETWEEN_LINES = progress.SECONDS_BETWEEN_MESSAGES = 0
with stage("logs/train/unet.log") as run:
    def steps():
        logger.info("begins")
        progress.Progress(2, "step").update(1, lambda: {"loss": 0.5})
        input()
    run(steps)
"""


def test_the_lines_of_a_stage_go_to_its_log_and_its_live_line(tmp_path):
    (tmp_path / "logs/train").mkdir(parents=True)
    terminal = Terminal(
        f"""
os.chdir({str(tmp_path)!r})
with live.drawn():
    subprocess.run([sys.executable, "-c", {STAGE!r}])
"""
    )
    end = time.monotonic() + 20
    while not (found := [line for line in terminal.screen() if line.startswith("train unet ██")]):
        assert time.monotonic() < end, terminal.screen()
        terminal.read(0.1)
    assert re.fullmatch(r"train unet █+\S? +1/2, [\d,.e+]+/s, 00:00 left, loss 0\.5000", found[0])
    terminal.go_on()
    terminal.ends()
    begins, done = terminal.screen()
    assert begins.endswith(" begins") and " done in " in done
    written = (tmp_path / "logs/train/unet.log").read_text()
    assert re.search(r" step 1 of 2: loss 0\.5000, [\d.]+ steps/s, 0 min 00 s left\n", written)
