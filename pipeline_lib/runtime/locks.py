"""Locks on files. The kernel releases them when the process ends, even if it is killed."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline_lib.runtime.errors import InputError


def this_process() -> str:
    """Return a description of this process for lock files: its ID, machine and, in Slurm, job."""
    job = os.getenv("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {job}" if job else "")


def hold(path: str | Path, otherwise: Callable[[str], None]) -> bool:
    """Lock the file at `path` until this process ends.

    The file is created if necessary. Its content is replaced by one line: this process (`this_process`) and
    the time. On NFS, the lock holds across all machines (since Linux 2.6.12).

    Parameters
    ----------
    path : str or Path
        File to lock.
    otherwise : callable
        Called with the description of the process that holds the lock, if another process does. It may raise
        an exception; if it returns, this waits for the lock.

    Returns
    -------
    bool
        True if the file is locked; False on a file system without locks.
    """
    locked = True
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        otherwise(os.pread(file, 200, 0).decode(errors="replace").partition("\n")[0] or "another process")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # ENOLCK, EOPNOTSUPP, ...
        locked = False
    os.ftruncate(file, 0)
    os.pwrite(file, f"{this_process()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
    return locked


def earlier_folder(results: str | Path) -> str | None:
    """Return the working folder of the last run with a results folder; None if that is not known.

    Parameters
    ----------
    results : str or Path
        Results folder.

    Returns
    -------
    str or None
        The second line of its lock file.
    """
    try:
        _, _, folder = Path(results, ".lock").read_text(encoding="utf-8", errors="replace").partition("\n")
    except OSError:
        return None
    return folder.strip() or None


@contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Let only one process at a time do what is in the `with` statement; others wait.

    Parameters
    ----------
    path : str or Path
        File to lock. It is created if necessary. On a file system without locks, nobody waits.
    """
    with open(path, "a", encoding="utf-8") as file:
        with suppress(OSError):  # ENOLCK, EOPNOTSUPP, ...
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold_results(folder: str | Path) -> bool:
    """Lock the results folder for this run of the workflow, and return whether it is locked (see `hold`).

    The second line of the lock file is the working folder, see `earlier_folder`.

    Raises `InputError` if another run is using the folder.
    """

    def refuse(holder: str) -> None:
        raise InputError(
            f"{folder}: another run is at work there ({holder}). Wait until it ends, stop it with Ctrl-C (or "
            "`kill`), or choose another folder with `results:` in the config."
        )

    Path(folder).mkdir(parents=True, exist_ok=True)
    is_locked = hold(Path(folder, ".lock"), refuse)
    with open(Path(folder, ".lock"), "a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(f"{os.getcwd()}\n")
    return is_locked
