"""Log to the terminal and to the log file of a rule, and run stages of the workflow as processes."""

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
from typing import Any, NoReturn, cast

from pipeline_lib.runtime import live, locks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import explained
from pipeline_lib.runtime.signals import ENDING

logger = logging.getLogger("bordure")
WORKFLOW = "BORDURE_WORKFLOW"  # environment variable, HOST:PID of the Snakemake process that starts the jobs

SECONDS_BETWEEN_SIGNALS = 3.0

#: How long threads of torch wait for each other before they sleep. By default they spin for long, which is
#: very slow on a busy machine: at a load of 5, 100 iterations of the demo took 93 s, and 21 s if they slept
#: at once. A short time is faster on an idle machine (`python -m benchmarks training`). A longer one is not
#: faster there, and costs time beside other programs.
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "2000"}
# numpy, numba and torch size their thread pools when they are imported. The variables must be set before.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@contextlib.contextmanager
def stage(log: str | Path, threads: int = 1, processes: int = 1) -> Iterator[Callable[..., None]]:
    """Set up logging and threads for one stage, and end the process when the `with` block is left.

    The last log line states wall time and memory, for instance `done in 3.20 s, 412 MB at most`: the time of
    all calls of `run` without interpreter start and imports, and the peak resident memory of this process or
    of a child process, whichever is larger.

    The exit status is 0 on success, 1 after an error, and 128 plus the signal number after a signal such as
    SIGTERM, which clusters send first. An `InputError` is logged without a traceback, any other exception
    with it.

    The log file is locked. If the same job of an earlier run is still running, on this or another machine,
    this waits for it, so that no two jobs write the same files. If the workflow that started this process is
    killed, the process ends as after SIGTERM.

    Parameters
    ----------
    log : str or Path
        Log file. New lines are appended.
    threads : int, default 1
        Number of threads of numpy, numba and torch.
    processes : int, default 1
        Number of processes that the stage starts. The threads are divided among them.

    Yields
    ------
    callable
        `run(function, *arguments, **settings)`, which calls `function`. Call it once, or once per volume. An
        `InputError` of one volume does not keep the others from being checked: all errors are logged.
    """
    set_threads(threads // max(processes, 1))
    waiting = "waiting for the same job of an earlier run to end (%s)"
    try:
        locks.hold(log, lambda holder: logger.warning(waiting, holder))
        show(log)
    except OSError as error:
        logger.error("error: %s", explained(error, Path(log)))
        leave(1)
    sys.unraisablehook = report_unraisable
    gc.disable()  # imports create many objects and no garbage; searching them takes 0.1 s
    for number in ENDING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` sets it
            signal.signal(number, _end)
    if workflow := os.getenv(WORKFLOW):
        threading.Thread(target=_end_with, args=workflow.split(":"), daemon=True).start()
    spent = 0.0
    errors: list[str] = []

    def report(error: InputError) -> None:
        if str(error) not in errors:
            logger.error("error: %s", error)
            errors.append(str(error))

    def run(function: Callable[..., Any], *arguments: Any, **settings: Any) -> None:
        nonlocal spent
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        start = time.perf_counter()
        try:
            function(*arguments, **settings)
        except InputError as error:
            report(error)
        spent += time.perf_counter() - start

    try:
        with live.job(job_of(log)):
            yield run
    except InputError as error:
        report(error)
    except SystemExit as ended:
        status = cast(int, ended.code)  # from `_end`
        logger.error("error: ended by %s. Run the same command again.", signal.Signals(status - 128).name)
        leave(status)
    except Exception:
        logger.error("%s", traceback.format_exc())
        leave(1)
    if errors:
        leave(1)
    logger.info("done in %.2f s, %.0f MB at most", spent, peak_memory() / 1e6)
    leave(0)


def set_threads(number: int) -> None:
    """Set the size of the thread pools of libraries that are imported later, here and in child processes."""
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(max(number, 1))
    set_waiting()


def set_waiting() -> None:
    """Let threads of torch sleep while they wait for each other (`WAITING`), if torch is not imported yet."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def shown_warnings() -> Iterator[None]:
    """Log warnings and the lines of `Progress` to the terminal, as the commands of `bordure` do.

    Lines of `Progress` are left out where live lines are drawn. After `show`, this does nothing.
    """
    if logger.handlers:
        yield
        return
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    terminal.addFilter(_is_shown)
    if not logging.root.handlers:
        logging.root.addHandler(terminal)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logging.root.removeHandler(terminal)


@contextlib.contextmanager
def each_warning_once() -> Iterator[None]:
    """Log each warning only once, while the same is done several times. Context manager."""
    logged: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno < logging.WARNING or text not in logged:
            logged.add(text)
            return True
        return False

    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def _is_shown(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or (hasattr(record, "live") and not live.connected())


def several(number: int, noun: str) -> str:
    """Return a number with a noun, for messages.

    Examples
    --------
    >>> from pipeline_lib.runtime.log import several
    >>> several(1, "cell"), several(1200, "cell")
    ('1 cell', '1,200 cells')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def job_of(log: str | Path) -> str:
    """Return the name of a job: the path of its log file below the folder `logs`, as words.

    Examples
    --------
    >>> from pipeline_lib.runtime.log import job_of
    >>> job_of("results/logs/train/unet.log"), job_of("results/logs/draw_figures.log")
    ('train unet', 'draw figures')
    >>> job_of("results/logs/evaluate_baselines/baselines.log")
    'evaluate baselines'
    """
    parts = Path(log).with_suffix("").parts
    below = parts[len(parts) - parts[::-1].index("logs") :] if "logs" in parts else parts[-1:]
    stage, *names = below
    return " ".join([stage.replace("_", " "), *(name for name in names if not stage.endswith(f"_{name}"))])


def _end_with(host: str, process: str) -> None:
    """Wait until the workflow has ended, then end this process, as nobody needs its results any more."""
    if host != socket.gethostname() or not hasattr(os, "pidfd_open"):  # only Linux has pidfd_open
        return
    try:
        select.select([os.pidfd_open(int(process))], [], [])
    except ProcessLookupError:
        pass  # already ended
    except OSError:  # the kernel is too old or forbids it
        return
    logger.warning("the workflow that started this job (process %s) has ended; the job ends, too", process)
    while True:  # a single signal may arrive just before the main thread enters a long call
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_BETWEEN_SIGNALS)


def _end(number: int, _: Any) -> NoReturn:
    """Raise SystemExit, so that temporary files are deleted.

    The exception is lost if it is raised in a finaliser or in code that catches all exceptions. Therefore the
    signal is sent again until the process has ended.
    """
    again = threading.Timer(SECONDS_BETWEEN_SIGNALS, os.kill, [os.getpid(), number])
    again.daemon = True
    again.start()
    sys.exit(128 + number)


def report_unraisable(found: sys.UnraisableHookArgs) -> None:
    """Print exceptions of finalisers, except signals (sent again) and h5py's on a full disk (reported)."""
    if not isinstance(found.exc_value, SystemExit) and "h5py" not in repr(found.object):
        sys.__unraisablehook__(found)


def show(log: str | Path | None = None) -> None:
    """Log to the terminal and, if given, append to the file `log`, to which other processes may write too."""
    terminal = logging.StreamHandler(sys.stderr)
    terminal.addFilter(lambda record: not (hasattr(record, "live") and live.connected()))  # drawn instead
    handlers: list[logging.Handler] = [terminal]
    if log:
        handlers.append(logging.FileHandler(log))
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full disk must not stop the stage or print a traceback per line


def show_unless_set_up() -> None:
    """Log to the terminal or notebook, unless the program has set up logging itself."""
    if not logger.hasHandlers():
        show()


def peak_memory() -> int:
    """Return the peak resident memory in bytes of this process or of a child that has ended."""
    unit = 1024 if sys.platform == "linux" else 1  # bytes on macOS
    children = unit * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    if sys.platform == "linux":  # getrusage returns the peak of the parent process if that is larger
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if peak:
            return max(1024 * int(peak[1]), children)
    return max(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, children)


def leave(status: int) -> NoReturn:
    """Exit immediately, without shutting down the Python interpreter, which takes 0.1 s, with torch 0.5 s.

    Nothing is lost, as all files are complete when the function of a stage returns. At a normal shutdown,
    HDF5 would close files and crash on a full disk.
    """
    logging.shutdown()
    sys.stdout.flush()
    os._exit(status)
