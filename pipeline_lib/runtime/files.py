"""Write files completely or not at all, and hash and check files."""

from __future__ import annotations

import codecs
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
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_lib.runtime.errors import InputError

# disk full, quota exceeded, file larger than the limit of the process
_FULL = {number: os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
# macOS, macOS on foreign disks, KDE, Windows, Synology, network file systems; and bordure's own records
_LEFT_BEHIND = re.compile(
    r"\.DS_Store|\._.*|\.directory|Thumbs\.db|desktop\.ini|@eaDir|\.nfs.*|\.provenance", re.IGNORECASE
)
_OTHER_FILES = 100  # open files of a stage that are not counted: models, checkpoints, libraries


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file completely or not at all. Context manager.

    A temporary file is written. It replaces `path` on success, and is deleted on error. Missing folders are
    created. Temporary files that killed processes left for the same `path` are deleted.

    Parameters
    ----------
    path : str or Path
        File to write or replace.

    Yields
    ------
    Path
        Path in the same folder to write to. It has the suffix of `path`, because some writers choose the
        format by the suffix.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable. `path` then keeps its previous content.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pipeline_lib.runtime.files import replacing
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder, "new/greeting.txt")) as temporary:
    ...         _ = temporary.write_text("hello")
    ...     print([path.name for path in Path(folder, "new").iterdir()])
    ['greeting.txt']
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.stem)}.partial-*{glob.escape(path.suffix)}"):
            if not _is_running(left.name.removesuffix(path.suffix).rpartition("-")[2]):
                left.unlink(missing_ok=True)  # left by a killed process
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # h5py raises RuntimeError if it cannot close a file
        own = {str(p) for p in (temporary, path, *path.parents)}
        name = getattr(error, "filename", None)
        if name is not None and str(name) not in own:
            raise  # about an input file, whose reader reports it
        clearer = explained(error, path)
        if clearer is error:
            raise
        raise clearer from error
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


def begins_with(path: Path, text: str) -> bool:
    """Return whether a file begins with a text.

    Parameters
    ----------
    path : Path
        File to read.
    text : str
        Text, in UTF-8.

    Returns
    -------
    bool
        Whether its first bytes are those of the text.
    """
    with path.open("rb") as file:
        return file.read(len(text.encode())) == text.encode()


def _is_running(process: str) -> bool:
    """Return whether a process of this machine, other than this one, has this number."""
    if not process.isdecimal() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def explained(error: Exception, path: Path) -> Exception:
    """Return an `InputError` that explains why `path` could not be written, or `error` for other causes.

    Parameters
    ----------
    error : Exception
        Error that was raised while `path` was being written.
    path : Path
        File that was being written.

    Returns
    -------
    Exception
        `InputError` for a full disk, for a folder that is not writable, and if a folder of the path is a
        file; `error` in all other cases.
    """
    number = getattr(error, "errno", None)
    # in some errors of h5py, only the message contains the errno
    if found := next((text for full, text in _FULL.items() if number == full or text in str(error)), ""):
        return InputError(
            f"{path}: the disk is full; nothing was written ({found}). Free space there and run the same "
            "command again."
        )
    if isinstance(error, OSError) and number in (errno.EACCES, errno.EROFS, errno.EPERM):
        return InputError(
            f"{path}: cannot be written ({error.strerror}). Choose another folder (`results:` in a config), "
            "or make this folder writable."
        )
    if isinstance(error, OSError) and number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return InputError(
            f"{path}: cannot be written ({error.strerror}): a folder of this path is a file, or the reverse. "
            "Choose another name."
        )
    return error


def require_file(path: str | Path, largest: float = math.inf) -> None:
    """Check that `path` is a regular file of at most `largest` bytes.

    Parameters
    ----------
    path : str or Path
        File to check.
    largest : float, optional
        Maximum size in bytes. By default there is no limit.

    Raises
    ------
    InputError
        If `path` is a folder, a pipe or a device (reading from these may never end), or too large.
    OSError
        If `path` does not exist.
    ValueError
        If `path` is no valid file name.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: found a folder, a pipe or a device, expected a file.")
    if status.st_size > largest:
        raise InputError(f"{path}: found {status.st_size:,} bytes, expected at most {largest:,}.")


def is_left_behind(name: str) -> bool:
    """Return whether desktops and file servers create files of this name, such as `.DS_Store`.

    Parameters
    ----------
    name : str
        Name of a file or folder.

    Returns
    -------
    bool
        Whether the file can be ignored.
    """
    return bool(_LEFT_BEHIND.fullmatch(name))


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder.

    Files that desktops and file servers create in folders, such as `.DS_Store`, are ignored. Other hidden
    files are included: Zarr stores the shape and type of an array in one.

    Parameters
    ----------
    path : str or Path
        File or folder.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    path = Path(path)
    if path.is_dir():
        digest = hashlib.sha256()
        for entry in sorted(entry for entry in path.rglob("*") if entry.is_file()):
            name = entry.relative_to(path)
            if not any(map(is_left_behind, name.parts)):
                digest.update(f"{name.as_posix()}\0{sha256(entry)}\n".encode())
        return digest.hexdigest()
    found = path.stat()
    return _sha256_of_file(path, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


@cache  # a job on many volumes hashes the same model for each of them
def _sha256_of_file(path: Path, *_as_it_is_now: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allow_open_files(number: int, what: str, remedy: str) -> None:
    """Raise the limit of open files of this process so that `number` more files can be opened.

    Parameters
    ----------
    number : int
        Number of files that will be open at the same time.
    what : str
        What needs the files; the error message begins with it.
    remedy : str
        Imperative clause that says how to need fewer files; the error message ends with it.

    Raises
    ------
    InputError
        If the system does not allow so many open files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + number + _OTHER_FILES
    unlimited = resource.RLIM_INFINITY
    if needed > hard != unlimited:
        raise InputError(
            f"{what}: {number} files must be open at the same time, {needed} including others, but this "
            f"process may open {hard}. Type `ulimit -n {needed}` and run the same command again. If the "
            f"system does not allow that, {remedy}."
        )
    if needed > soft != unlimited:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def write_json(path: str | Path, content: Any) -> None:
    """Write indented JSON, completely or not at all (see `replacing`).

    Parameters
    ----------
    path : str or Path
        File to write.
    content : object
        Values that JSON can store.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def decode(raw: bytes) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 as the "Unicode text" of a spreadsheet.

    Parameters
    ----------
    raw : bytes
        Content of the file.

    Returns
    -------
    str
        Its text without a byte order mark.

    Raises
    ------
    UnicodeDecodeError
        If it is neither.

    Examples
    --------
    >>> from pipeline_lib.runtime.files import decode
    >>> decode("a".encode("utf-16")), decode("a".encode("utf-8-sig"))
    ('a', 'a')
    """
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return raw.decode("utf-16" if utf16 else "utf-8-sig")


def read_json(path: str | Path) -> Any:
    """Return the content of a JSON file.

    Parameters
    ----------
    path : str or Path
        File to read.

    Returns
    -------
    object
        Its content.

    Raises
    ------
    InputError
        If the file is missing or not valid JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # invalid JSON or invalid UTF-8
        raise InputError(
            f"{path}: not valid JSON ({error}). Delete it and run the workflow again."
        ) from error
