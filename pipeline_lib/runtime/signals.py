"""Delay signals that end a process until its work is in a consistent state."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# first signal of clusters, Ctrl-C, closed terminal
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised if a signal ends this process. Not an `Exception`, so that it is not handled as an error."""


class Signals:
    """Context in which a signal that ends the process is only stored, in `received`.

    Inside `interruptible`, the signal raises `Interrupted`. On exit from this context the signal is raised
    again, unless another exception is propagating. Use it only in the main thread.

    Attributes
    ----------
    received : int or None
        Number of the last signal, None if there was none.
    """

    received: int | None = None
    _interruptible = False

    def __enter__(self) -> Signals:
        heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received and kind in (None, Interrupted):
            signal.raise_signal(self.received)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if self._interruptible:
            self._interruptible = False  # only once: cleaning up is not interrupted
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Context that a signal may interrupt anywhere, because its work will be repeated."""
        self._interruptible = True
        try:
            if self.received:
                raise Interrupted
            yield
        finally:
            self._interruptible = False
