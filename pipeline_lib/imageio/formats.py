"""Open an image of any readable format: its info, and a reader of its regions."""

from __future__ import annotations

import difflib
import os
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.display import displayed, displayed_info
from pipeline_lib.imageio.fixes import without_alpha, without_palette
from pipeline_lib.imageio.hdf5 import open_hdf5
from pipeline_lib.imageio.headers import ImageInfo, Reader
from pipeline_lib.imageio.naming import (
    PILLOW_SUFFIXES,
    TIFF_SUFFIXES,
    are_slices,
    channel_paths,
    check_numbers,
    hdf5_path,
    is_pattern,
    natural_key,
    other_images,
    slice_files,
    source_file,
    zarr_path,
)
from pipeline_lib.imageio.omezarr import METADATA, open_omezarr
from pipeline_lib.imageio.pairing import matching_slices
from pipeline_lib.imageio.pillow import open_pillow
from pipeline_lib.imageio.png import open_png
from pipeline_lib.imageio.remote import is_address, require_local, require_plain
from pipeline_lib.imageio.series import pattern_of, require_one_stack
from pipeline_lib.imageio.tiff import open_tiff
from pipeline_lib.imageio.tokens import composed
from pipeline_lib.kernels.pixelsize import ROUNDING, differs, text
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

_READABLE = (
    "Use TIFF (Fiji: File > Save As > Tiff...), PNG, JPEG or BMP, a folder of such slices, HDF5 as "
    "file.h5:/dataset, or OME-Zarr as image.zarr"
)


@contextmanager
def open_file(
    path: str | Path, *, every_slice: bool = False, slices: Sequence[Path | None] | None = None
) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield an image's info and its region reader; any exception of a decoder becomes an `InputError`.

    With `every_slice`, the headers of all slices of a folder are checked, not only that of the first.
    `slices` are read instead of all slices of a folder; None stands for a section that is not read.
    """
    file = source_file(path)
    remote = "://" in str(path) and is_address(path)
    (require_plain if remote else require_local)(path)
    pattern = not remote and is_pattern(path)
    parts = channel_paths(path)
    is_folder = not remote and not pattern and len(parts) == 1 and _require_readable(path, file)
    suffix = file.suffix.lower()
    if len(parts) > 1:
        opened = _open_channels(parts, every_slice)
    elif not pattern and (stored := zarr_path(path)):
        opened = open_omezarr(path, stored, every_chunk=every_slice)
    elif remote:
        raise InputError(f"{path}: only OME-Zarr is read from addresses, as image.zarr. Download the file.")
    elif pattern or (is_folder and not hdf5_path(path)):
        opened = _open_slices(file, slices, every_slice)
    elif named := hdf5_path(path):
        if is_folder:
            raise InputError(f"{path}: {file} is a folder, expected an HDF5 file. {_READABLE}.")
        opened = open_hdf5(path, named)
    elif suffix in TIFF_SUFFIXES:
        opened = open_tiff(file)
    elif suffix == ".png":
        opened = open_png(file)
    elif suffix in PILLOW_SUFFIXES:
        opened = open_pillow(file)
    else:
        raise InputError(f"{path}: unknown image format with suffix `{suffix}`. {_READABLE}.")
    with ExitStack() as stack:
        with errors_explained(path):
            info, read = stack.enter_context(opened)
        if info.dtype.kind not in "buif" or min(info.shape) < 1:
            raise InputError(
                f"{path}: found {info}; expected integer, float or bool values and at least one pixel. Save "
                "one number per pixel with one of these types, as TIFF, PNG or HDF5."
            )

        def read_region(z: int, rows: slice, columns: slice) -> np.ndarray:
            with errors_explained(path):
                return read(z, rows, columns)

        yield info, read_region


def _require_readable(path: str | Path, file: Path) -> bool:
    """Return whether `file` is a folder; raise `InputError` unless it is a folder or a file with content.

    Pipes and devices are not opened, because reading them may never end.
    """
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        present = os.listdir(file.parent) if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, present, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        if same := [name for name in present if composed(name) == composed(file.name)]:
            hint = (
                f" The folder has {same[0]}, whose accents are stored in another way, as macOS does. Copy "
                "the name from a list of the folder (`ls`), or rename the file without accents."
            )
        if file.is_symlink():
            hint = f" It is a link to {os.readlink(file)}, which does not exist."
        raise InputError(
            f"{path}: no such file or folder.{hint} Check the path; paths in a table of volumes are relative "
            "to `data_dir`."
        ) from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long or with a NUL, no permission
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path!s:.300}: cannot be opened ({reason}). Check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        return True
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            f"{path}: found a pipe, a socket or a device, expected a file or a folder. Save the image as a "
            "file."
        )
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    return False


@contextmanager
def errors_explained(path: str | Path) -> Iterator[None]:
    """Turn any exception of a decoder into an `InputError` that names the file."""
    try:
        yield
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{path}: you have no permission to read it ({error.strerror}). Type `chmod u+r "
            f"{source_file(path)}`, or ask its owner."
        ) from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        what = "not enough memory" if isinstance(error, MemoryError) else _one_line(error)
        if is_address(path):
            what = what.partition(" Debug source:")[0]
            raise InputError(
                f"{path}: cannot be read ({what}). Check the address and the network, then type the same "
                "command again."
            ) from error
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {what}). The file is truncated or damaged, or "
            "its suffix does not match its format. Copy it again from its source, or save the image as TIFF "
            "(Fiji: File > Save As > Tiff...)."
        ) from error


def _one_line(error: Exception) -> str:
    """Return the first 300 characters of a message, as one line; a decoder may put a whole file into it."""
    return " ".join(str(error)[:300].split())


@contextmanager
def _open_slices(
    path: Path, chosen: Sequence[Path | None] | None, every_slice: bool
) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of a folder or pattern of slices, or of the `chosen` ones."""
    slices = slice_files(path)
    if is_pattern(path):
        if not slices:
            raise InputError(_no_match(path))
    elif not slices:
        if any((path / name).exists() for name in METADATA):
            raise InputError(
                f"{path}: found a Zarr folder; expected a name that ends with .zarr. Rename it:\n"
                f"mv {shlex.quote(str(path))} {shlex.quote(f'{path}.zarr')}"
            )
        found = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
        raise InputError(f"{path}: the folder contains no images (found: {found}). {_READABLE}.")
    else:
        require_one_stack(path, slices)
    if folders := [file for file in slices if file.is_dir()]:
        raise InputError(
            f"{folders[0]}: found a folder among the slices of {path}, expected only files. Move it "
            "elsewhere."
        )
    if every_slice:
        check_numbers(path, slices)
        _require_no_others(path, slices)
    places = [*slices] if chosen is None else [*chosen]
    slices = [file for file in places if file is not None]
    first = _info(slices[0])
    told: list[Path] = []

    def check(file: Path, info: ImageInfo) -> None:
        if info.sections != 1:
            raise InputError(
                f"{file}: found {info.sections} sections; expected one section per file in a folder of "
                "slices. To read this stack, name the file itself in the table of volumes."
            )
        if info.palette != first.palette:
            raise InputError(
                f"{file}: its palette differs from that of {slices[0].name}, so the same value has another "
                "meaning. Remove all palettes of the folder (this overwrites its files), for labels:\n"
                f"{without_palette(path, 'L')}\nor for an image:\n{without_palette(path, 'RGB')}"
            )
        if info.alpha != first.alpha:
            raise InputError(
                f"{file}: only some slices of {path} have transparency. To keep the stored colours and "
                f"remove it (this overwrites the files):\n{without_alpha(path, info)}"
            )
        if _kind(info) != _kind(first):
            raise InputError(
                f"{file}: found {info}, but {slices[0].name} has {first}. All slices of a folder must have "
                "the same size and type. Convert or remove those that differ."
            )

        if differs(info.pixel_size, first.pixel_size, ROUNDING) and not told:
            told.append(file)
            logger.warning(
                "%s: pixels of %s, but %s of the same stack has %s, which is used. If it is wrong, state "
                "`pixel_size`.",
                file,
                text(info.pixel_size),
                slices[0].name,
                text(first.pixel_size),
            )

    smallest_read = first.smallest_read
    for file in slices if every_slice else slices[:1]:
        info = _info(file)
        check(file, info)
        smallest_read = max(smallest_read, info.smallest_read)

    with ExitStack() as opened:  # keeps the last slice open, with its decoded strips or tiles
        current: dict[int, Reader] = {}

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            if z not in current:
                current.clear()
                opened.close()
                file = places[z]
                if file is None:
                    raise InputError(f"{path}: section {z} has no annotation. Leave it out of `sections`.")
                info, read_slice = opened.enter_context(open_file(file))
                check(file, info)
                current[z] = read_slice
            return current[z](0, rows, columns)

        yield replace(first, sections=len(places), axes=f"Z{first.axes}", smallest_read=smallest_read), read


@contextmanager
def _open_channels(parts: Sequence[str], every_slice: bool) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of an image whose channels are in the files `parts`."""
    infos: list[ImageInfo] = []
    readers: list[Reader] = []
    with ExitStack() as stack:
        for part in parts:
            slices = _slices_of_channel(parts[0], part)
            info, read = stack.enter_context(open_file(part, every_slice=every_slice, slices=slices))
            infos.append(displayed_info(info))
            readers.append(displayed(part, info, None, False, read))
            if (infos[0].shape[1:], infos[0].dtype) != (infos[-1].shape[1:], infos[-1].dtype):
                raise InputError(
                    f"{part}: found {infos[-1]}, but the channel {parts[0]} has {infos[0]}. The channels of "
                    "an image must have the same sections, size and type. Check that they belong together."
                )

        def read_all(z: int, rows: slice, columns: slice) -> np.ndarray:
            return np.concatenate([read(z, rows, columns) for read in readers])

        yield (
            replace(
                infos[0],
                channels=sum(info.channels for info in infos),
                axes="ZYXC",
                bits=max(info.bits or 8 * info.dtype.itemsize for info in infos),
                rgb=False,
                orientation=1,
                smallest_read=sum(info.smallest_read for info in infos),
                others=tuple(other for info in infos for other in info.others),
                names=tuple(name for info in infos for name in info.names or [""] * info.channels),
                lossy=any(info.lossy for info in infos),
            ),
            read_all,
        )


def _slices_of_channel(first: str, path: str) -> Sequence[Path | None] | None:
    """Return the slices of a channel in the order of those of the first channel; None if it has none."""
    if path == first or not (are_slices(first) and are_slices(path)):
        return None
    own, others = slice_files(path), slice_files(first)
    if len(own) == len(others) == 1:
        return None
    with suppress(InputError):
        if len(own) == len(others) and (slices := matching_slices(first, path)):
            return slices
    raise InputError(
        f"{path}: the names of its {len(own)} files do not pair them with the {len(others)} files of the "
        f"channel {first}. Rename the files so that all channels of a section have the same number or name, "
        "or save one file with all channels (Fiji: Image > Color > Merge Channels...)."
    )


def _no_match(path: Path) -> str:
    """Return a message about a pattern that matches no file."""
    folder = path.parent
    if not folder.is_dir():
        return (
            f"{path}: there is no folder {folder}. Check the path; only the name of a file, not that of a "
            "folder, may contain *, ? or [."
        )
    present = sorted((file.name for file in slice_files(folder)), key=natural_key)
    near = difflib.get_close_matches(path.name, present, 3, 0.3) or present[:3]
    found = f"it has {len(present)}, such as {', '.join(near)}" if near else "it has none"
    return (
        f"{path}: no image in the folder matches this pattern; {found}. * stands for any text, ? for one "
        "letter, [0-4] for one of several; upper and lower case differ."
    )


def _require_no_others(path: Path, slices: Sequence[Path]) -> None:
    """Raise `InputError` if a folder or pattern also has images of formats that are not read."""
    if others := other_images(path):
        folder = slices[0].parent
        every = [file.name for file in (*slice_files(folder), *other_images(folder))]
        pattern = pattern_of([file.name for file in slices], every)
        rest = f"name the others with the pattern {folder}/{pattern}" if pattern else "move it elsewhere"
        raise InputError(
            f"{others[0]}: found {len(others)} image{'s' * (len(others) > 1)} with the suffix "
            f"`{others[0].suffix}` among {len(slices)} slices; this format is not read. If it is a slice, "
            f"save it as {slices[0].suffix}; if not, {rest}."
        )


def _kind(info: ImageInfo) -> tuple[object, ...]:
    """Return what the slices of a folder must have in common."""
    return info.shape, info.dtype, info.bits, info.white_is_zero, info.nodata, info.unspecified


def _info(path: Path) -> ImageInfo:
    """Return the info of one slice."""
    with open_file(path) as (info, _):
        return info
