"""Locks on files, which the kernel drops with the process that holds them, however that ends."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from pipeline_lib.runtime.errors import InputError


def who() -> str:
    """This process, for others that find a file locked: its number, machine and, in Slurm, job."""
    job = os.getenv("SLURM_JOB_ID")
    return f"process {os.getpid()} on {socket.gethostname()}" + (f", Slurm job {job}" if job else "")


def hold(path: str | Path, otherwise: Callable[[str], None]) -> bool:
    """Lock the file at `path`, which is made if there is none, for as long as this process lives.

    Where another process holds it, `otherwise` is called with that one's `who`, and may raise; if it does
    not, the lock is waited for. The file is then emptied but for one line, `who`. Returns whether it is
    locked: on a file system that knows no locks nothing is. On NFS the lock counts for all machines (Linux
    2.6.12 on).
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
    os.pwrite(file, f"{who()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode(), 0)
    return locked


def hold_results(folder: str | Path) -> bool:
    """Lock the results folder for one run of the workflow; `InputError` where another is at work there.

    Returns whether it is locked (`hold`).
    """

    def refuse(holder: str) -> None:
        raise InputError(
            f"{folder}: another run is at work there ({holder}). Wait until it has ended, end it with Ctrl-C "
            "(or `kill`), or choose another folder with `results:` in the config."
        )

    Path(folder).mkdir(parents=True, exist_ok=True)
    return hold(Path(folder, ".lock"), refuse)
