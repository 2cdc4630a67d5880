"""Opening a path of any readable format: its info, and a reader of its regions."""

from __future__ import annotations

import difflib
import json
import math
import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import imagecodecs
import numpy as np

from pipeline_lib.blocks import BLOCK
from pipeline_lib.errors import InputError
from pipeline_lib.imageio.headers import ImageInfo, Reader, arrange, cyx, region_index
from pipeline_lib.imageio.naming import HDF5, TIFF_SUFFIXES, slice_files, source_file
from pipeline_lib.imageio.tiff import KEPT, open_tiff

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
    if not file.exists():
        beside = os.listdir(file.parent) if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, beside, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{path}: no such file or folder.{hint} Check the path; in a table of volumes it "
            "starts from `data_dir`."
        )
    if file.is_file() and file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    suffix = file.suffix.lower()
    if file.is_dir():
        opened = _open_slices(file, every_slice)
    elif HDF5.fullmatch(str(path)):
        opened = _open_hdf5(path)
    elif suffix in TIFF_SUFFIXES:
        opened = open_tiff(file)
    elif suffix == ".png":
        opened = _open_png(file)
    else:
        raise InputError(f"{path}: no image format is known by the suffix `{suffix}`. {_READABLE}")
    with ExitStack() as stack:
        with _damage_told(path):
            info, read = stack.enter_context(opened)
        if info.dtype.kind not in "buif" or min(info.shape) < 1:
            raise InputError(f"{path}: {info}; expected integers, floats or bool, and some pixels.")

        def read_region(z: int, rows: slice, columns: slice) -> np.ndarray:
            with _damage_told(path):
                return read(z, rows, columns)

        yield info, read_region


@contextmanager
def _damage_told(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). It is truncated, "
            "damaged, or of another format than its name says. Copy it again from its source. "
            f"{_READABLE}"
        ) from error


@contextmanager
def _open_png(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    with open(path, "rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise InputError(f"{path}: not a PNG file. It is damaged, or of another format than its name says.")
    width, height, bits, colour_type = struct.unpack(">IIBB", header[16:26])
    if colour_type in (3, 4):
        found = "indexed colours" if colour_type == 3 else "gray levels with transparency"
        raise InputError(
            f"{path}: {found}, expected gray levels. Convert it (Fiji: Image > Type > 8-bit, "
            "then File > Save As > Tiff...)."
        )
    channels, axes = {0: (1, "YX"), 2: (3, "YXS"), 6: (4, "YXS")}[colour_type]
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    decoded: list[np.ndarray] = []  # PNG can only be decoded whole: done once for all regions

    def read(_: int, rows: slice, columns: slice) -> np.ndarray:
        if not decoded:
            image = imagecodecs.png_decode(path.read_bytes())
            decoded.append(np.moveaxis(image.reshape(height, width, channels), -1, 0))
        return decoded[0][:, rows, columns].copy()

    yield (
        ImageInfo(
            channels, 1, height, width, dtype, axes, smallest_read=height * width * channels * dtype.itemsize
        ),
        read,
    )


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


@contextmanager
def _open_hdf5(path: str | Path) -> Iterator[tuple[ImageInfo, Reader]]:
    match = HDF5.fullmatch(str(path))
    with h5py.File(match["file"], "r") as file:
        dataset = file.get(match["dataset"]) if match["dataset"] else None
        if not isinstance(dataset, h5py.Dataset):
            held: list[str] = []
            file.visititems(
                lambda name, item: (
                    held.append(f"{match['file']}:/{name}") if isinstance(item, h5py.Dataset) else None
                )
            )
            raise InputError(
                f"{path}: {'no such' if match['dataset'] else 'names no'} dataset in this HDF5 "
                f"file. Write one of: {', '.join(held[:20]) or '(the file holds none)'}."
            )
        chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        info, z_axis = arrange(path, _hdf5_axes(path, dataset), dataset.shape, dataset.dtype, chunk_bytes)
        cache = _cache(dataset.chunks, info)
    with h5py.File(match["file"], "r", **cache) as file:
        dataset = file[match["dataset"]]

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            return cyx(dataset[tuple(region_index(info, z_axis, z, rows, columns))], info)

        yield info, read


def _cache(chunks: tuple[int, ...] | None, info: ImageInfo) -> dict[str, int]:
    """Settings of a file whose chunks are wider than blocks: room for those that a row of blocks shares."""
    high, wide = (chunks[info.axes.index(axis)] for axis in "YX") if chunks else (1, 1)
    if wide <= BLOCK:
        return {}
    rows = -(-BLOCK * 5 // 4 // high) + 1  # of chunks, for a block with its halo
    needed = rows * -(-info.width // wide) * info.channels * info.smallest_read
    return {"rdcc_nbytes": min(needed, KEPT), "rdcc_nslots": 100_003}


def _hdf5_axes(path: str | Path, dataset: h5py.Dataset) -> str:
    """Axes from the attribute `axes`, from ilastik's `axistags`, or from the number of dimensions."""
    if "axes" in dataset.attrs:
        axes = str(np.asarray(dataset.attrs["axes"]).astype(str))
    elif "axistags" in dataset.attrs:
        axes = "".join(tag["key"] for tag in json.loads(dataset.attrs["axistags"])["axes"])
    else:
        axes = {2: "yx", 3: "zyx", 4: "czyx"}.get(dataset.ndim, "")
    if len(axes) != dataset.ndim:
        raise InputError(
            f"{path}: {dataset.ndim} dimensions {dataset.shape}, axes `{axes}`; expected yx, "
            "zyx or czyx, or an attribute with one letter for each (h5py: "
            "dataset.attrs['axes'] = 'zyxc')."
        )
    return axes
