"""Read headers of images and boxes in a separate process, so that a damaged file cannot crash the caller."""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from pipeline_lib.imageio.headers import ImageInfo
from pipeline_lib.imageio.images import inspect
from pipeline_lib.runtime.errors import InputError

SECONDS = 60  # limit of CPU time for the headers of one image; 10,000 slices take 2 s
Answer = TypeVar("Answer")


def inspect_apart(paths: Sequence[str | Path], memory_gb: float) -> Generator[ImageInfo, None, None]:
    """Yield shape and type of images, inspected in a separate process with limits of time and memory.

    All images are read by one forked process. The caller survives a file that makes a decoder crash or run
    forever, as some damaged HDF5 files do.

    Parameters
    ----------
    paths : sequence of str or Path
        Paths of images or annotations, as for `inspect`.
    memory_gb : float
        How much memory the process may use in addition to that of the caller, in GB (10^9 bytes). The limit
        is set only on Linux.

    Yields
    ------
    ImageInfo
        Shape and type of each image, in the order of `paths`.

    Raises
    ------
    InputError
        As `inspect`, and if reading the headers of a file crashes, takes more than 60 s of CPU time, or needs
        more memory.
    """
    yield from run_apart(
        [(f"{path}: reading its headers", partial(inspect, path)) for path in paths], memory_gb
    )


def run_apart(
    calls: Sequence[tuple[str, Callable[[], Answer]]], memory_gb: float
) -> Generator[Answer, None, None]:
    """Yield what functions return, called in a separate process with limits of time and memory.

    Parameters
    ----------
    calls : sequence of (str, callable)
        For each function without arguments, the beginning of the message if it crashes, such as `a.tif:
        reading its headers`.
    memory_gb : float
        How much memory the process may use in addition to that of the caller, in GB (10^9 bytes). The limit
        is set only on Linux.

    Yields
    ------
    object
        What each function returns.

    Raises
    ------
    InputError
        That of a function; and if it crashes, takes more than 60 s of CPU time, or needs more memory.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns about threads; the child uses none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _call_all(calls, writing, memory_gb)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as answers:
            for title, _ in calls:
                try:
                    answer = pickle.load(answers)
                except EOFError:
                    raise InputError(
                        f"{title} {_ended(child)}. The file is damaged or malicious. "
                        "Copy it again from its source, or save it again with the program that made it."
                    ) from None
                if isinstance(answer, InputError):
                    raise answer
                yield answer
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # `_ended` has waited for it


def _call_all(calls: Sequence[tuple[str, Callable[[], object]]], writing: int, memory_gb: float) -> None:
    """Write what each function returns, or its error, to the pipe `writing`; runs in the child process."""
    if sys.platform == "linux":
        present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = present + int(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.disable()  # the parent process reports a crash
    with open(writing, "wb") as answers:
        for title, call in calls:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                answer = call()
            except InputError as error:
                answer = error
            except MemoryError:
                answer = InputError(
                    f"{title} needs more than `memory_gb` ({memory_gb:g} GB). Raise it if the machine has "
                    "more memory, or divide the file."
                )
            pickle.dump(answer, answers)
            answers.flush()


def _ended(child: int) -> str:
    """Return how the child process ended, as a part of an error message."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return f"took more than {SECONDS} seconds of CPU time"
    if os.WIFSIGNALED(status):
        return f"crashed the library that reads them ({signal.Signals(os.WTERMSIG(status)).name})"
    return "ended the process that read them"
