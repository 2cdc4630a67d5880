"""Progress of a long task: a live line on a terminal, else a line in the log every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pipeline_lib.runtime import live
from pipeline_lib.runtime.log import logger

SECONDS_BETWEEN_LINES = 15
SECONDS_BETWEEN_MESSAGES = 0.3


class Progress:
    """Show how many steps of a task are done, their speed and the time left.

    Parameters
    ----------
    total : int
        Number of steps.
    unit : str
        What a step is, such as `iteration`.
    first : int, default 0
        Steps that were done before, as a resumed task begins there.
    name : str, default ""
        First words of the lines in the log.
    log : bool, default True
        Whether to log lines where no live line is drawn.

    Attributes
    ----------
    done : int
        Number of steps that are done.
    """

    def __init__(self, total: int, unit: str, first: int = 0, name: str = "", log: bool = True) -> None:
        self.total, self.unit, self.first = total, unit, first
        self.name = f"{name}: " if name else ""
        self.log = log
        self.done = first
        self.start = self.logged = time.monotonic()
        self.sent = 0.0

    def update(self, done: int, values: Callable[[], Mapping[str, float]] = dict) -> bool:
        """State that `done` steps are done. Most calls return at once.

        Parameters
        ----------
        done : int
            Number of steps.
        values : callable
            Function that returns numbers to show, by name. It is called only if a line is due, because
            reading a number from a GPU waits for it.

        Returns
        -------
        bool
            Whether a line was logged, at most every `SECONDS_BETWEEN_LINES`. On a terminal with live lines it
            goes to the log file alone.
        """
        self.done = done
        now = time.monotonic()
        log = self.log and now - self.logged >= SECONDS_BETWEEN_LINES
        send = now - self.sent >= SECONDS_BETWEEN_MESSAGES and live.connected()
        if not (log or send):
            return False
        numbers = [f"{name} {value:.4f}" for name, value in values().items()]
        seconds = now - self.start
        if send:
            self.sent = now
            live.send(
                done=done, total=self.total, first=self.first, seconds=seconds, values=", ".join(numbers)
            )
        if log:
            self.logged = now
            rate = (done - self.first) / seconds
            speed = [f"{rate:.2f} {self.unit}s/s"]
            if rate > 0:
                minutes, rest = divmod(round((self.total - done) / rate), 60)
                speed.append(f"{minutes} min {rest:02d} s left")
            logger.info(
                "%s%s %d of %d: %s",
                self.name,
                self.unit,
                done,
                self.total,
                ", ".join([*numbers, *speed]),
                extra={"live": True},
            )
        return log
