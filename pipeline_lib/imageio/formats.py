"""Opening a path of any readable format: its info, and a reader of its regions."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.hdf5 import open_hdf5
from pipeline_lib.imageio.headers import ImageInfo, Reader
from pipeline_lib.imageio.naming import HDF5, TIFF_SUFFIXES, check_numbers, slice_files, source_file
from pipeline_lib.imageio.png import open_png
from pipeline_lib.imageio.tiff import open_tiff
from pipeline_lib.runtime.errors import InputError

_READABLE = (
    "Readable are TIFF, PNG, a folder of PNG or TIFF slices, and HDF5 as file.h5:/dataset; "
    "Fiji writes TIFF with File > Save As > Tiff..."
)


@contextmanager
def open_file(path: str | Path, *, every_slice: bool = False) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield an image's info and its region reader; whatever a decoder raises becomes an `InputError`.

    `every_slice`: of a folder, look at the headers of all slices, not the first one's alone.
    """
    file = source_file(path)
    is_folder = _require_readable(path, file)
    suffix = file.suffix.lower()
    if HDF5.fullmatch(str(path)):
        if is_folder:
            raise InputError(f"{path}: {file} is a folder, expected an HDF5 file. {_READABLE}")
        opened = open_hdf5(path)
    elif is_folder:
        opened = _open_slices(file, every_slice)
    elif suffix in TIFF_SUFFIXES:
        opened = open_tiff(file)
    elif suffix == ".png":
        opened = open_png(file)
    else:
        raise InputError(f"{path}: no image format is known by the suffix `{suffix}`. {_READABLE}")
    with ExitStack() as stack:
        with _damage_told(path):
            info, read = stack.enter_context(opened)
        if info.dtype.kind not in "buif" or min(info.shape) < 1:
            raise InputError(
                f"{path}: {info}; expected integers, floats or bool, and some "
                "pixels. Save the images as one of these."
            )

        def read_region(z: int, rows: slice, columns: slice) -> np.ndarray:
            with _damage_told(path):
                return read(z, rows, columns)

        yield info, read_region


def _require_readable(path: str | Path, file: Path) -> bool:
    """Raise `InputError` unless `file` is a folder or a file with content; returns whether it is a folder.

    Pipes and devices are refused unopened: they may never end.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        beside = os.listdir(file.parent) if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, beside, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        if file.is_symlink():
            hint = f" It is a link to {os.readlink(file)}, which is not there."
        raise InputError(
            f"{path}: no such file or folder.{hint} Check the path; in a table of volumes it "
            "starts from `data_dir`."
        ) from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long or with a NUL, no permission
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path!s:.300}: cannot be opened ({reason}). Check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        return True
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{path}: neither a file nor a folder but a pipe, a socket or a device. Save the images as "
            "a file."
        )
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    return False


@contextmanager
def _damage_told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{path}: may not be read by this user ({error.strerror}). Type `chmod u+r`, or ask its owner."
        ) from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        what = "more memory than there is" if isinstance(error, MemoryError) else _one_line(error)
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {what}). It is truncated, "
            "damaged, or of another format than its name says. Copy it again from its source. "
            f"{_READABLE}"
        ) from error


def _one_line(error: Exception) -> str:
    """The first 300 characters of its message; a decoder may put a whole file into it."""
    return " ".join(str(error)[:300].split())


@contextmanager
def _open_slices(folder: Path, every_slice: bool) -> Iterator[tuple[ImageInfo, Reader]]:
    slices = slice_files(folder)
    if not slices:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(f"{folder}: the folder holds no PNG or TIFF slices (found: {found}).")
    if len({path.suffix.lower() == ".png" for path in slices}) > 1:
        raise InputError(
            f"{folder}: the folder holds both PNG and TIFF slices, maybe the same sections "
            "twice. Keep one kind."
        )
    if folders := [path for path in slices if path.is_dir()]:
        raise InputError(f"{folders[0]}: a folder among the slices of {folder}. Move it elsewhere.")
    if every_slice:
        check_numbers(folder, slices)
    first = _info(slices[0])

    def check(path: Path, info: ImageInfo) -> None:
        if info.sections != 1:
            raise InputError(
                f"{path}: holds {info.sections} sections; in a folder each file is one section. "
                "Name this file itself in the table of volumes."
            )
        if (info.shape, info.dtype, info.white_is_zero) != (first.shape, first.dtype, first.white_is_zero):
            raise InputError(
                f"{path}: {info}, but {slices[0].name} has {first}. The slices of a folder must "
                "agree; convert or remove those that differ."
            )

    smallest_read = first.smallest_read
    for path in slices if every_slice else slices[:1]:
        info = _info(path)
        check(path, info)
        smallest_read = max(smallest_read, info.smallest_read)

    with ExitStack() as opened:  # holds the slice read last, and what it keeps for its next region
        current: dict[int, Reader] = {}

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            if z not in current:
                current.clear()
                opened.close()
                info, read_slice = opened.enter_context(open_file(slices[z]))
                check(slices[z], info)
                current[z] = read_slice
            return current[z](0, rows, columns)

        yield replace(first, sections=len(slices), axes=f"Z{first.axes}", smallest_read=smallest_read), read


def _info(path: Path) -> ImageInfo:
    with open_file(path) as (info, _):
        return info
