"""Headers looked at in a process of their own, which alone goes down with what a damaged file does to it."""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline_lib.imageio.headers import ImageInfo
from pipeline_lib.imageio.images import inspect
from pipeline_lib.runtime.errors import InputError

SECONDS = 60  # of computing that the headers of one image may take; those of 10,000 slices take two


def inspect_apart(paths: Sequence[str | Path], memory_gb: float) -> Iterator[ImageInfo]:
    """`inspect` each of `paths`, in one forked process that may take `memory_gb` more than this one has.

    Raises `InputError` as `inspect` does, and where a file makes a decoder crash (HDF5's library may), go on
    for ever, or take more memory.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # of threads, which Python 3.12 warns of: the child uses none of theirs
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _inspect_all(paths, writing, memory_gb)
        finally:
            os._exit(0)
    os.close(writing)
    try:
        with open(reading, "rb") as answers:
            for path in paths:
                try:
                    answer = pickle.load(answers)
                except EOFError:
                    raise InputError(
                        f"{path}: looking at its headers {_ended(child)}. It is damaged, or made to do harm. "
                        "Copy it again from its source, or save it anew with the program that made it."
                    ) from None
                if isinstance(answer, InputError):
                    raise answer
                yield answer
    finally:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # waited for already


def _inspect_all(paths: Sequence[str | Path], writing: int, memory_gb: float) -> None:
    if sys.platform == "linux":
        present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = present + int(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.disable()  # a crash is told by the process that waits for this one
    with open(writing, "wb") as answers:
        for path in paths:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                answer: ImageInfo | InputError = inspect(path)
            except InputError as error:
                answer = error
            pickle.dump(answer, answers)
            answers.flush()


def _ended(child: int) -> str:
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return f"took more than {SECONDS} seconds of computing"
    if os.WIFSIGNALED(status):
        return f"crashed the library that reads them ({signal.Signals(os.WTERMSIG(status)).name})"
    return "ended the process that read them"
