"""Logging: one logger, to the terminal and to the log file of the rule."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import resource
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from pipeline_lib.runtime import locks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import explained
from pipeline_lib.runtime.signals import ENDING

logger = logging.getLogger("bordure")
WORKFLOW = "BORDURE_WORKFLOW"  # environment variable: HOST:PROCESS of the Snakemake that starts jobs

SECONDS_BETWEEN_SIGNALS = 3.0

# Thread pools are sized when numpy, numba and torch are first imported, hence by environment and before the
# import.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextlib.contextmanager
def stage(log: str | Path, threads: int = 1, processes: int = 1) -> Iterator[Callable[..., None]]:
    """Run one stage and end the process: log to `log` and the terminal, use `threads` threads.

    If the stage starts several `processes`, each gets its share of the threads.

    Yields `run(function, *arguments, **settings)`, which calls the stage's function, once or for each of
    several volumes. What it took is logged in the end: `done in 3.2 s, 412 MB at most`, the wall time of all
    calls without interpreter start and imports, and the largest resident memory of the process, or of one
    that it started. The exit status is 0, or 1 after an error: an `InputError` is printed as its message
    alone, any other exception with its traceback. A signal, such as the SIGTERM that clusters send first,
    ends it with 128 and its number.

    The log is locked meanwhile: the same job of an earlier run that is still at work, here or on another
    machine, is waited for, so that no two write the same files. Where the workflow that started this process
    is killed, the process ends as by SIGTERM.
    """
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(max(threads // max(processes, 1), 1))
    # Threads that spin while they wait bring a busy machine to a crawl: at a load of 5, 100 iterations of the
    # demo took 93 s, with this 21 s.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    waiting = "waiting for the same job of an earlier run to end (%s)"
    try:
        locks.hold(log, lambda holder: logger.warning(waiting, holder))
        show(log)
    except OSError as error:
        logger.error("error: %s", explained(error, Path(log)))
        leave(1)
    sys.unraisablehook = _tell_unraisable
    gc.disable()  # imports leave a lot behind, none of it garbage, and searching it takes 0.1 s
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` sets it
            signal.signal(number, _end)
    if workflow := os.getenv(WORKFLOW):
        threading.Thread(target=_end_with, args=workflow.split(":"), daemon=True).start()
    spent = 0.0

    def run(function: Callable[..., Any], *arguments: Any, **settings: Any) -> None:
        nonlocal spent
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        start = time.perf_counter()
        function(*arguments, **settings)
        spent += time.perf_counter() - start

    try:
        yield run
    except InputError as error:
        logger.error("error: %s", error)
        leave(1)
    except SystemExit as ended:
        logger.error("error: ended by %s. Run the same command again.", signal.Signals(ended.code - 128).name)
        leave(ended.code)
    except Exception:
        logger.error("%s", traceback.format_exc())
        leave(1)
    logger.info("done in %.2f s, %.0f MB at most", spent, peak_memory() / 1e6)
    leave(0)


def _end_with(host: str, process: str) -> None:
    """Wait until the workflow has ended, and end this process: nobody waits for its results."""
    if host != socket.gethostname() or not hasattr(os, "pidfd_open"):  # Linux has it
        return
    try:
        select.select([os.pidfd_open(int(process))], [], [])
    except ProcessLookupError:
        pass  # gone already
    except OSError:  # an old kernel, or one that forbids it
        return
    logger.warning("the workflow that started this job (process %s) is gone", process)
    while True:  # one signal may come just before the main thread enters a call that takes long
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_BETWEEN_SIGNALS)


def _end(number: int, _: Any) -> NoReturn:
    """End by SystemExit, so that temporary files go.

    It is lost where Python just then runs what cannot fail, a finaliser say, or a library what catches all:
    the signal is sent again as long as the process lives.
    """
    again = threading.Timer(SECONDS_BETWEEN_SIGNALS, os.kill, [os.getpid(), number])
    again.daemon = True
    again.start()
    sys.exit(128 + number)


def _tell_unraisable(found: Any) -> None:
    """Nothing of a signal, which is sent again, nor of files that HDF5 cannot close on a full disk."""
    if not isinstance(found.exc_value, SystemExit) and "h5py" not in repr(found.object):
        sys.__unraisablehook__(found)


def show(log: str | Path | None = None) -> None:
    """Log to the terminal and to the end of the file `log`, to which other processes may write too."""
    for handler in (logging.StreamHandler(sys.stderr), *([logging.FileHandler(log)] if log else [])):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a log on a full disk is no reason to stop, nor for a traceback per line


def peak_memory() -> int:
    """Bytes of memory that this process, or one it started and that has ended, had resident at most."""
    unit = 1024 if sys.platform == "linux" else 1  # bytes on macOS
    children = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if sys.platform == "linux":  # getrusage would tell that of the process that started it, if that had more
        status = Path("/proc/self/status").read_text()
        return max(1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]), children)
    return max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children)


def leave(status: int) -> NoReturn:
    """End at once, without taking Python down module by module: 0.1 s, with torch 0.5 s.

    Nothing is lost: files are whole when a stage's function returns. And HDF5, which closes files as Python
    ends, would crash on a full disk.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
