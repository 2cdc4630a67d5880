"""Live lines at the bottom of a terminal: one for each running job, below the output of all processes.

One process draws (`drawn`). Until it ends, its output and that of all processes it starts go through a pipe
to this process, which prints them above the live lines. So the lines are never mixed with other output. A job
sends its progress through the same pipe, which is its standard error (`job`, `send`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from pipeline_lib.runtime.types import Json

# Environment variable with device and inode of the pipe. A job compares them with its standard error. So it
# notices if its output goes elsewhere, for instance on another machine of a cluster, to which the environment
# is copied. systemd's JOURNAL_STREAM works in the same way.
CHANNEL = "BORDURE_LIVE"
JOB = "BORDURE_LIVE_JOB"  # environment variable, PID/NAME of the job whose line the process changes
MARK = b"\x1e"  # first byte of a message; other lines are output to print

SECONDS_BETWEEN_DRAWINGS = 1.0  # at least, so that the times go on
SHORTEST_BAR = 6
BLOCKS = "▏▎▍▌▋▊▉█"


def connected() -> bool:
    """Return whether the standard error of this process leads to a process that draws live lines."""
    try:
        status = os.fstat(2)
    except OSError:  # closed
        return False
    return os.environ.get(CHANNEL) == f"{status.st_dev}:{status.st_ino}"


@contextlib.contextmanager
def job(name: str) -> Iterator[None]:
    """Give this process a live line while the `with` block runs. It has no effect if no lines are drawn.

    Jobs can be nested. `send` changes the line of the innermost.

    Parameters
    ----------
    name : str
        First words of the line.
    """
    outer = os.environ.get(JOB)
    os.environ[JOB] = f"{os.getpid()}/{name}"
    send()
    try:
        yield
    finally:
        send(ended=True)
        os.environ.pop(JOB)
        if outer is not None:
            os.environ[JOB] = outer


def send(**message: float | str | bool) -> None:
    """Send a message about the current job (`job`) to the process that draws. Fields are those of `Line`."""
    if connected() and JOB in os.environ:
        text = json.dumps({"job": os.environ[JOB], **message}).encode()
        with contextlib.suppress(OSError):  # the drawing process has ended
            os.write(2, MARK + text + b"\n")  # in one piece: shorter than PIPE_BUF


@dataclass
class Line:
    """The live line of a job.

    Parameters
    ----------
    name : str
        First words of the line.
    start : float
        Time at which the job began (`time.monotonic`), in s.
    done, total, first : int
        Steps that are done, of all, and that were done when the job began.
    seconds : float
        Time that the steps from `first` to `done` took.
    values : str
        Text at the end of the line, for instance `loss 0.2123`.
    """

    name: str
    start: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int = 0
    first: int = 0
    seconds: float = 0.0
    values: str = ""

    def text(self, columns: int, width: int, bar: Callable[[float, int], str]) -> str:
        """Return the line, at most `columns` wide.

        Parameters
        ----------
        columns : int
            Characters in a line.
        width : int
            Characters to which the name is padded.
        bar : callable
            Function of a fraction and a number of characters that returns a bar.

        Returns
        -------
        str
            Name, bar, steps, steps per second, time left and `values`. Name and time for a job that has not
            stated its number of steps.
        """
        if self.total < 2:
            return f"{self.name:<{width}} {interval(time.monotonic() - self.start)}"[:columns]
        words = [f"{self.done:,}/{self.total:,}"]
        if self.done > self.first and self.seconds > 0:
            rate = (self.done - self.first) / self.seconds
            left = interval((self.total - self.done) / rate)
            words += [f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s", f"{left} left"]
        rest = " " + ", ".join([*words, *filter(None, [self.values])])
        size = max(columns - width - 1 - len(rest), SHORTEST_BAR)
        return f"{self.name:<{width}} {bar(self.done / self.total, min(size, 40))}{rest}"[:columns]


def bar(fraction: float, size: int, blocks: str = BLOCKS) -> str:
    """Return a bar of `size` characters, filled by a fraction.

    The last of the characters `blocks` is full; the others are parts of it, in equal steps.

    Examples
    --------
    >>> from pipeline_lib.runtime.live import bar
    >>> bar(0.45, 10)
    '████▌     '
    """
    full, part = divmod(int(min(fraction, 1.0) * size * len(blocks)), len(blocks))
    return (blocks[-1] * full + (blocks[part - 1] if part else "")).ljust(size)


def interval(seconds: float) -> str:
    """Return a time as minutes and seconds, with hours if there are any.

    Examples
    --------
    >>> from pipeline_lib.runtime.live import interval
    >>> interval(192), interval(7384.4)
    ('03:12', '2:03:04')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"


def wanted() -> bool:
    """Return whether to draw: standard error is a terminal that can move its cursor, and nothing of a CI."""
    return os.isatty(2) and os.getenv("TERM", "dumb") != "dumb" and not os.getenv("CI")


@contextlib.contextmanager
def drawn() -> Iterator[None]:
    """Draw the live lines of this process and of those that it starts, while the `with` block runs.

    Without a terminal (see `wanted`) this does nothing: output goes where it went before, and jobs log lines.
    """
    if not wanted() or connected():
        yield
        return
    screen = _Screen()
    try:
        yield
    finally:
        screen.close()


class _Screen:
    """The terminal with output and, at its end, live lines. A thread reads the pipe and draws."""

    def __init__(self) -> None:
        self.encoding = sys.stderr.encoding or "ascii"
        self.bar = partial(bar, blocks=BLOCKS if self.encoding.lower().startswith("utf") else "#")
        self.lines: dict[str, Line] = {}
        self.shown = 0  # live lines on the terminal, above the cursor
        sys.stdout.flush()
        sys.stderr.flush()
        self.saved = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        self.terminal = self.saved[2]
        self.source, pipe = os.pipe()
        for number in self.saved:
            os.dup2(pipe, number)
        os.close(pipe)
        status = os.fstat(2)
        os.environ[CHANNEL] = f"{status.st_dev}:{status.st_ino}"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Print what was written so far, remove the live lines, and let output go to the terminal again."""
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(2, MARK + b"\n")  # the end; children that still run may keep the pipe open
        self.thread.join()
        for number, terminal in self.saved.items():
            os.dup2(terminal, number)
            os.close(terminal)
        os.close(self.source)
        os.environ.pop(CHANNEL, None)

    def _run(self) -> None:
        pending, ended = b"", False
        while not ended:
            ready, _, _ = select.select([self.source], [], [], SECONDS_BETWEEN_DRAWINGS)
            *lines, pending = (pending + (os.read(self.source, 2**16) if ready else b"")).split(b"\n")
            output = b""
            for line in lines:
                before, mark, message = line.partition(MARK)
                if not mark:
                    output += line + b"\n"
                    continue
                output += before  # an unfinished line of another process
                if message:
                    self._receive(json.loads(message))
                else:
                    ended = True
                    self.lines.clear()
            self._drop_killed()
            self._draw(output)

    def _receive(self, message: Json) -> None:
        key = message.pop("job")
        if message.pop("ended", False):
            self.lines.pop(key, None)
            return
        line = self.lines.setdefault(key, Line(key.partition("/")[2]))
        for name, value in message.items():
            setattr(line, name, value)

    def _drop_killed(self) -> None:
        """Remove the lines of processes that ended without saying so."""
        for key in [*self.lines]:
            try:
                os.kill(int(key.partition("/")[0]), 0)
            except ProcessLookupError:
                del self.lines[key]

    def _draw(self, output: bytes) -> None:
        """Replace the live lines by `output` and new live lines."""
        try:
            columns, rows = os.get_terminal_size(self.terminal)
        except OSError:
            columns, rows = 80, 24
        width = max((len(line.name) for line in self.lines.values()), default=0)
        # one column and one row less, since the cursor must stay on the screen
        texts = [line.text(columns - 1, width, self.bar) for line in self.lines.values()][: max(rows - 2, 0)]
        # first to column 0, as the terminal itself may have written `^C` after the cursor
        back = f"\r\x1b[{self.shown}A\x1b[J" if self.shown else ""
        live = "".join(f"{text}\n" for text in texts)
        self.shown = len(texts)
        content = back.encode() + output + live.encode(self.encoding, "replace")
        with contextlib.suppress(OSError):  # the terminal is gone
            while content:
                content = content[os.write(self.terminal, content) :]
