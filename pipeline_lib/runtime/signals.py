"""Signals that ask a process to end, heeded when what it is at is whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# what clusters send first, Ctrl-C, and a terminal that is closed
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks this process to end; not an `Exception`, so that nobody takes it for a failure."""


class Signals:
    """While entered, a signal that asks the process to end is only noted, in `received`.

    Inside `interruptible` it breaks off what is done there by `Interrupted`. It takes effect, as if it came only
    then, when this is left, unless by another exception. For the main thread alone.
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
            self._interruptible = False  # once: tidying up is not broken off
            raise Interrupted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """What may be broken off at any place, because it will be done anew."""
        self._interruptible = True
        try:
            if self.received:
                raise Interrupted
            yield
        finally:
            self._interruptible = False
