"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import re
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_lib.runtime.errors import InputError

# the disk, the user's share of it, and the largest file that a process may write
_FULL = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
# macOS, its files on other systems' disks, KDE, Windows, Synology, network file systems; and our own records
_LEFT_BEHIND = re.compile(
    r"\.DS_Store|\._.*|\.directory|Thumbs\.db|desktop\.ini|@eaDir|\.nfs.*|\.provenance", re.IGNORECASE
)
_OTHER_FILES = 100  # that a stage opens besides: models, checkpoints, libraries


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, moved over `path` on success and deleted on error.

    The temporary name keeps the suffix, for writers that choose the format by it. Raises `InputError` where
    the disk is full or the folder cannot be written; `path` keeps its former content then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.stem)}.partial-*{glob.escape(path.suffix)}"):
            left.unlink(missing_ok=True)  # by a process that was killed: a file has one writer
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # HDF5 raises the latter where it cannot close a file
        own = {str(p) for p in (temporary, path, *path.parents)}
        name = getattr(error, "filename", None)
        if name is not None and str(name) not in own:
            raise  # of an input, which the reader tells of
        told = explained(error, path)
        if told is error:
            raise
        raise told from error
    finally:
        temporary.unlink(missing_ok=True)


def explained(error: Exception, path: Path) -> Exception:
    """An `InputError` about `error`, which came up while `path` was being written; else `error` itself."""
    number = getattr(error, "errno", None)
    # h5py raises errors whose errno is only in their text
    if found := next((text for full, text in _FULL.items() if number == full or text in str(error)), ""):
        return InputError(
            f"{path}: the disk is full; nothing was written ({found}). Free space there and run the same "
            "command again."
        )
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return InputError(
            f"{path}: cannot be written ({error.strerror}). Choose another folder with `results:` in the "
            "config, or make this one writable."
        )
    return error


def require_file(path: str | Path, largest: float = math.inf) -> None:
    """Raise `InputError` for pipes and devices, which may never end, folders, and more than `largest` bytes.

    Raises OSError where there is nothing, and ValueError for a name that no file can have.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: a folder, a pipe or a device, expected a file.")
    if status.st_size > largest:
        raise InputError(f"{path}: {status.st_size:,} bytes, expected {largest:,} at most.")


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits; of a folder, of the names and bytes of all files below it.

    Files that a desktop or file server leaves in folders do not count (`_LEFT_BEHIND`). Other hidden files
    do: Zarr keeps shape and type of an array in one.
    """
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for entry in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            name = entry.relative_to(path)
            if not any(_LEFT_BEHIND.fullmatch(part) for part in name.parts):
                digest.update(f"{name.as_posix()}\0{sha256(entry)}\n".encode())
        return digest.hexdigest()
    found = path.stat()
    return _sha256_of_file(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@cache  # a job that takes many volumes meets the same model with each
def _sha256_of_file(path: Path, *_as_it_is_now: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allow_open_files(number: int, what: str, remedy: str) -> None:
    """Raise this process's own limit of open files for `number` more, as far as the system lets it.

    Raises `InputError` that names `what` needs them and the `remedy` where that is not enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + number + _OTHER_FILES
    unlimited = resource.RLIM_INFINITY
    if needed > hard != unlimited:
        raise InputError(
            f"{what}: {number} files have to be open at once, with others {needed}, but this process may "
            f"open {hard}. Type `ulimit -n {needed}` and run the same command again, where the system allows "
            f"it, or {remedy}."
        )
    if needed > soft != unlimited:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; `InputError` where it is missing or not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # of JSON, or of text
        raise InputError(
            f"{path}: not valid JSON ({error}). Delete it and run the workflow again."
        ) from error
