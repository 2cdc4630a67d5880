"""Do the same for many items, several at a time, in processes that live until the last item."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from types import ModuleType
from typing import Any, TypeVar

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import report_unraisable

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Worker:
    """A process, its end of the connection, and the item that it works on."""

    process: Any
    connection: Any
    number: int | None = None


def each(
    function: Callable[[Item], Result], items: Sequence[Item], at_a_time: int, modules: Sequence[str] = ()
) -> Iterator[tuple[int, Result | InputError]]:
    """Yield the result of a function for each item, in the order in which they are complete.

    An `InputError` is a result, so that it does not stop the others. Any other exception ends all processes
    and is raised here. If the iterator is closed, or Ctrl-C is pressed, the processes end as after SIGTERM:
    the context managers of the function delete what is not complete.

    Parameters
    ----------
    function : callable
        Function of an item. With several processes, it must be importable, or a `functools.partial` of such.
    items : sequence
        Its arguments.
    at_a_time : int
        Number of processes. For a single item, the function is called in this process.
    modules : sequence of str, default ()
        Modules to import once, before the processes are started.

    Yields
    ------
    number : int
        Index of the item.
    result : object or InputError
        Result of the function. An `InputError` if it raised that, or if its process was killed.
    """
    if len(items) == 1:
        yield 0, _called(function, items[0])
        return
    context = multiprocessing.get_context("forkserver")  # a fork of this process could inherit held locks
    context.set_forkserver_preload([*modules])
    waiting = iter(range(len(items)))
    workers: list[_Worker] = []

    def start() -> None:
        number = next(waiting, None)
        if number is not None:
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, function), daemon=True)
            with _without_main():
                process.start()
            there.close()
            here.send(items[number])
            workers.append(_Worker(process, here, number))

    try:
        for _ in range(at_a_time):
            start()
        while workers:
            ready = connection.wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                assert worker.number is not None
                try:
                    result, failure = worker.connection.recv()
                except (EOFError, ConnectionError):
                    workers.remove(worker)
                    yield worker.number, _killed()
                    start()
                    continue
                if failure:
                    raise RuntimeError(f"in a process of this command:\n{failure}")
                yield worker.number, result
                worker.number = next(waiting, None)
                if worker.number is None:
                    workers.remove(worker)
                    worker.connection.close()  # the process ends
                    worker.process.join()
                else:
                    worker.connection.send(items[worker.number])
    finally:
        for worker in workers:
            worker.connection.close()  # the process ends after its item if the signal is lost in a finaliser
            worker.process.terminate()
        for worker in workers:
            worker.process.join()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Keep new processes from running the user's script again: their functions are not defined there."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _called(function: Callable[[Item], Result], item: Item) -> Result | InputError:
    try:
        return function(item)
    except InputError as error:
        return error


def _killed() -> InputError:
    return InputError(
        "the process was killed, most likely because memory ran out. Segment this image alone, or with less "
        "memory (`--memory`, in Python `memory_gb`)."
    )


def _work(channel: Any, function: Callable[[Any], Any]) -> None:
    """Answer with the result for each item that arrives, until the other process closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    sys.unraisablehook = report_unraisable  # of a signal that arrives in a finaliser
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            item = channel.recv()
            answer: tuple[Any, str | None]
            try:
                answer = _called(function, item), None
            except Exception:
                answer = None, traceback.format_exc()
            channel.send(answer)
