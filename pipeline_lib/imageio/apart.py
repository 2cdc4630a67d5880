"""Read the headers of images in a separate process, so that a damaged file cannot crash the caller."""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import sys
import warnings
from collections.abc import Generator, Sequence
from pathlib import Path

from pipeline_lib.imageio.headers import ImageInfo
from pipeline_lib.imageio.images import inspect
from pipeline_lib.runtime.errors import InputError

SECONDS = 60  # limit of CPU time for the headers of one image; 10,000 slices take 2 s


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
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # Python 3.12 warns about threads; the child uses none of them
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
                        f"{path}: reading its headers {_ended(child)}. The file is damaged or malicious. "
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


def _inspect_all(paths: Sequence[str | Path], writing: int, memory_gb: float) -> None:
    """Write the info of each image, or its error, to the pipe `writing`; runs in the child process."""
    if sys.platform == "linux":
        present = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = present + int(memory_gb * 1e9)
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    faulthandler.disable()  # the parent process reports a crash
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
    """Return how the child process ended, as a part of an error message."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        return f"took more than {SECONDS} seconds of CPU time"
    if os.WIFSIGNALED(status):
        return f"crashed the library that reads them ({signal.Signals(os.WTERMSIG(status)).name})"
    return "ended the process that read them"
