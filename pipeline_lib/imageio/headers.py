"""What the headers of an image tell: its shape, its type, and whether it can be used."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.errors import InputError

# number of a section in the file, rows, columns, both with start and stop -> cyx
Reader = Callable[[int, slice, slice], np.ndarray]


@dataclass(frozen=True)
class ImageInfo:
    """Shape and type of an image as its headers tell them.

    `axes` are those of the file (`QYX`, `ZCYX`, `YXS` ...). `white_is_zero`: the file asks to be shown
    inverted (TIFF's WhiteIsZero, in Fiji an inverting LUT). `smallest_read`: bytes to be decoded at once, in
    memory, for a single pixel: a strip or tile of a TIFF, a chunk of HDF5, the whole of a PNG; one pixel
    where the file holds plain bytes. `others`: files besides the one named that hold its pixels (an OME set,
    a virtual HDF5 dataset).
    """

    channels: int
    sections: int
    height: int
    width: int
    dtype: np.dtype
    axes: str
    white_is_zero: bool = False
    smallest_read: int = 0
    others: tuple[Path, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes `czyx`."""
        return self.channels, self.sections, self.height, self.width

    def __str__(self) -> str:
        channels = f"{self.channels} channels, " if self.channels > 1 else ""
        return f"{channels}{size(self.shape[1:])}, {self.dtype}"


def require_channels(
    path: str | Path, info: ImageInfo, channels: int, read: Reader | None = None, *, annotation: bool = False
) -> None:
    """Raise `InputError` unless the image has `channels` channels.

    With `read`, the message tells whether the channels are all equal, judged on the first block of the first
    section.
    """
    if info.channels == channels:
        return
    found = f"{info.channels} channels (axes {info.axes})" if info.channels > 1 else "1 channel"
    if info.channels in (3, 4):
        found = f"RGB, {found}"
    if read is not None and info.channels > 1:
        corner = slice(0, min(BLOCK, info.height)), slice(0, min(BLOCK, info.width))
        first = read(0, *corner)[:3]  # a fourth would be transparency
        found += ", all equal: gray levels saved as colour" if (first == first[:1]).all() else ""
    expected = f"expected {channels} channel{'s' * (channels > 1)}"
    if channels > 1:
        raise InputError(
            f"{path}: {found}, {expected}. Set `dataset.channels: {info.channels}`, or save the "
            f"image with {channels} channels (axes CZYX)."
        )
    convert = "Convert it to gray (Fiji: Image > Type > 8-bit, then File > Save As > Tiff...)"
    if info.axes.startswith("S"):  # planes one after the other: what some writers make of a stack of three
        convert += (
            ", or if these are sections and no colours save them as a stack (tifffile: "
            "photometric='minisblack')"
        )
    otherwise = "" if annotation else f" or set `dataset.channels: {info.channels}`"
    raise InputError(f"{path}: {found}, {expected}. {convert}{otherwise}.")


def require_memory(path: str | Path, info: ImageInfo, memory_gb: float) -> None:
    """Raise `InputError` where the file's parts are so large that one of them does not fit into `memory_gb`.

    Decoding holds a part about twice: as it is decoded and as it is put in place.
    """
    if 2 * info.smallest_read > memory_gb * 1e9:
        raise InputError(
            f"{path}: {info}: the file is compressed in parts of {info.smallest_read / 1e9:.2g} GB, each "
            f"decoded at once and held twice, but `memory_gb` is {memory_gb:.4g}. Save it with tiles, with "
            "few rows per strip, or uncompressed (Fiji: File > Save As > Tiff...), or convert it to HDF5 "
            "with small chunks; or raise `memory_gb` where the machine has more."
        )


def require_plausible(path: str | Path, info: ImageInfo, stored: int, most: int = 5000) -> None:
    """Raise `InputError` where more than 1 GiB of pixels are claimed and `stored` bytes cannot hold them.

    No compression packs more than `most` bytes into one, not even of zeros: deflate 1,032, LZW 1,400, but
    Zstandard and LZMA ten thousands.
    """
    claimed = math.prod(info.shape) * info.dtype.itemsize
    if claimed > max(most * stored, 2**30):
        raise InputError(
            f"{path}: its header claims {info}, {claimed / 1e9:.3g} GB, but {stored:,} bytes are stored: "
            "damaged, truncated or a decompression bomb. Copy it again from its source."
        )


def require_whole(path: str | Path, info: ImageInfo, needed: int) -> None:
    """Refuse to read `needed` bytes that cannot fit: a damaged header may claim terabytes."""
    if needed > (memory := machine_memory()):
        raise InputError(
            f"{path}: {info}: {needed / 2**30:.0f} GiB to read, this machine has "
            f"{memory / 2**30:.0f} GiB of memory. Choose fewer sections with the table's column "
            "`sections`."
        )


def machine_memory() -> float:
    """Bytes of memory of this machine, infinite where the system does not tell."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def size(shape: tuple[int, ...]) -> str:
    """Lengths zyx in words."""
    sections, height, width = shape
    return f"{sections} section{'s' * (sections != 1)} of {height} x {width} px"


def arrange(
    path: str | Path,
    axes: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    smallest_read: int,
    white_is_zero: bool = False,
) -> tuple[ImageInfo, int | None]:
    """Info of an array with the axes named by `axes`, and the position of the one that runs over sections."""
    axes = axes.upper()
    others = [i for i, axis in enumerate(axes) if axis not in "YX" and shape[i] > 1]
    channel = [i for i in others if axes[i] in "CS"]
    section = [i for i in others if axes[i] not in "CS"]
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(channel) > 1 or len(section) > 1:
        lengths = ", ".join(f"{axis} = {length}" for axis, length in zip(axes, shape, strict=True))
        raise InputError(
            f"{path}: axes {axes} ({lengths}) are ambiguous; expected rows, columns, at most "
            "one axis of sections (Z, or T, Q, I) and one of channels (C or S). Save a single "
            "stack (Fiji: Image > Duplicate..., one channel or frame, then File > Save As > "
            "Tiff...)."
        )
    # tifffile declares every bool array WhiteIsZero when it writes it, meaning nothing by it
    info = ImageInfo(
        channels=shape[channel[0]] if channel else 1,
        sections=shape[section[0]] if section else 1,
        height=shape[axes.index("Y")],
        width=shape[axes.index("X")],
        dtype=dtype.newbyteorder("="),
        axes=axes,
        white_is_zero=white_is_zero and dtype.kind == "u",
        smallest_read=smallest_read,
    )
    return info, section[0] if section else None


def region_index(info: ImageInfo, z_axis: int | None, z: int, rows: slice, columns: slice) -> list[slice]:
    """Index of a region of one section, all channels, into an array with the axes `info.axes`."""
    index = [slice(None)] * len(info.axes)
    index[info.axes.index("Y")], index[info.axes.index("X")] = rows, columns
    if z_axis is not None:
        index[z_axis] = slice(z, z + 1)
    return index


def cyx(array: np.ndarray, info: ImageInfo) -> np.ndarray:
    """A region with the axes `info.axes` as `cyx`; those besides y, x and channel have length 1."""
    array = np.moveaxis(array, (info.axes.index("Y"), info.axes.index("X")), (-2, -1))
    return array.reshape(info.channels, *array.shape[-2:])
