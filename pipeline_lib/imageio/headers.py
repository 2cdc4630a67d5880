"""Shape and type of an image, as stated by its headers, and checks of whether the image can be used."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.errors import InputError

# Number of a section in the file, rows and columns (slices with start and stop) -> region (c, y, x)
Reader = Callable[[int, slice, slice], np.ndarray]


class Stored(NamedTuple):
    """Where consecutive sections of an image are stored, to find out whether two images share pixels.

    Parameters
    ----------
    key : str
        File, object of an HDF5 file, or set of files in which the sections are.
    first, sections : int
        First section of the image, and number of sections.
    at : int or None
        Place in `key` where the first section begins. None if the place is not known: each section may be
        anywhere.
    size : int, default 1
        Length of a section in the unit of `at`: 1 if it counts sections, else bytes.
    """

    key: str
    first: int
    sections: int
    at: int | None
    size: int = 1


@dataclass(frozen=True)
class ImageInfo:
    """Shape and type of an image, read from its headers.

    Parameters
    ----------
    channels : int
        Number of channels.
    sections : int
        Number of sections; 1 for a single image.
    height, width : int
        Size of a section in px.
    dtype : numpy.dtype
        Type of the values in native byte order.
    axes : str
        Axes of the stored array in the order of the file, for instance `QYX`, `ZCYX` or `YXS`.
    white_is_zero : bool, default False
        Whether the file is displayed inverted: `WhiteIsZero` in TIFF, an inverting LUT in Fiji.
    smallest_read : int, default 0
        Size in bytes, decoded, of the smallest part that can be read: a strip or tile of a TIFF, a chunk of
        HDF5, a whole PNG, or one pixel of an uncompressed file.
    others : tuple of Path, default ()
        Other files that contain pixels of the image, for instance those of an OME set or the sources of a
        virtual HDF5 dataset.
    stored : tuple of Stored, default ()
        Where the sections are stored; only `inspect` fills it in.
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
    stored: tuple[Stored, ...] = ()

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
    """Raise `InputError` if an image does not have the expected number of channels.

    Parameters
    ----------
    path : str or Path
        Path of the image, for the message.
    info : ImageInfo
        Shape and type of the image.
    channels : int
        Expected number of channels.
    read : callable, optional
        Region reader of the image. If given, the message states whether the first block of the first section
        has equal values in all channels, that is gray levels saved as colour.
    annotation : bool, default False
        Whether the image is an annotation. The message then does not suggest to change `dataset.channels`.

    Raises
    ------
    InputError
        If the number of channels differs.
    """
    if info.channels == channels:
        return
    found = f"{info.channels} channels (axes {info.axes})" if info.channels > 1 else "1 channel"
    if info.channels in (3, 4):
        found = f"RGB, {found}"
    if read is not None and info.channels > 1:
        corner = slice(0, min(BLOCK, info.height)), slice(0, min(BLOCK, info.width))
        first = read(0, *corner)[:3]  # a fourth channel would be transparency
        found += ", all equal: gray levels saved as colour" if (first == first[:1]).all() else ""
    expected = f"expected {channels} channel{'s' * (channels > 1)}"
    if channels > 1:
        raise InputError(
            f"{path}: found {found}, {expected}. Set `dataset.channels: {info.channels}`, or save the "
            f"image with {channels} channels (axes CZYX)."
        )
    ways = ["Convert it to grayscale (Fiji: Image > Type > 8-bit, then File > Save As > Tiff...)"]
    if info.axes.startswith("S"):  # separate planes: some programs save a stack of three sections like this
        ways.append("if these are sections, save them as a stack (tifffile: photometric='minisblack')")
    if not annotation:
        ways.append(f"set `dataset.channels: {info.channels}`")
    raise InputError(f"{path}: found {found}, {expected}. {', or '.join(ways)}.")


def require_memory(path: str | Path, info: ImageInfo, memory_gb: float) -> None:
    """Raise `InputError` if the smallest part of a file that can be decoded does not fit into memory.

    A part needs about twice its size: once where it is decoded and once in the array that is returned.

    Parameters
    ----------
    path : str or Path
        Path of the image, for the message.
    info : ImageInfo
        Shape and type of the image.
    memory_gb : float
        Available memory in GB (10^9 bytes).

    Raises
    ------
    InputError
        If twice `info.smallest_read` is more than `memory_gb`.
    """
    if 2 * info.smallest_read > memory_gb * 1e9:
        raise InputError(
            f"{path}: {info}: compressed in parts of {info.smallest_read / 1e9:.2g} GB. Decoding a part "
            f"takes twice as much memory, but `memory_gb` is {memory_gb:.4g}. Save the image uncompressed "
            "(Fiji: File > Save As > Tiff...) or with small tiles, strips or HDF5 chunks, or raise "
            "`memory_gb` if the machine has more memory."
        )


def require_plausible(path: str | Path, info: ImageInfo, stored: int, most: int = 5000) -> None:
    """Raise `InputError` if a header claims more than 1 GiB of pixels and `stored` bytes cannot contain them.

    No compression packs more than `most` bytes into one, not even zeros: deflate reaches 1,032 and LZW 1,400.
    For Zstandard and LZMA, which reach several ten thousand, callers pass a larger value.
    """
    claimed = math.prod(info.shape) * info.dtype.itemsize
    if claimed > max(most * stored, 2**30):
        raise InputError(
            f"{path}: the header claims {info} ({claimed / 1e9:.3g} GB), but only {stored:,} bytes are "
            "stored. The file is damaged, truncated or a decompression bomb. Copy it again from its source."
        )


def require_whole(path: str | Path, info: ImageInfo, needed: int) -> None:
    """Raise `InputError` if `needed` bytes exceed the memory: a damaged header may claim terabytes."""
    if needed > (memory := machine_memory()):
        raise InputError(
            f"{path}: {info}: reading it takes {needed / 2**30:.0f} GiB, but this machine has "
            f"{memory / 2**30:.0f} GiB of memory. Choose fewer sections with the column `sections` of the "
            "table of volumes."
        )


def machine_memory() -> float:
    """Return the memory of this machine in bytes; infinity if the system does not report it."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf


def size(shape: tuple[int, ...]) -> str:
    """Describe a shape (z, y, x) for messages."""
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
    """Return the info of an array with the given axes, and which of its axes is that of the sections, if any.

    Raises `InputError` if `axes` are not rows, columns, at most one axis of sections and one of channels.
    """
    axes = axes.upper()
    others = [i for i, axis in enumerate(axes) if axis not in "YX" and shape[i] > 1]
    channel = [i for i in others if axes[i] in "CS"]
    section = [i for i in others if axes[i] not in "CS"]
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(channel) > 1 or len(section) > 1:
        lengths = ", ".join(f"{axis} = {length}" for axis, length in zip(axes, shape, strict=True))
        raise InputError(
            f"{path}: axes {axes} ({lengths}) are ambiguous. Expected rows (Y), columns (X), at most one "
            "axis of sections (Z, T, Q or I) and at most one of channels (C or S). Save a single stack "
            "(Fiji: Image > Duplicate... with one channel or frame, then File > Save As > Tiff...)."
        )
    # tifffile marks every bool array as WhiteIsZero when it writes it; this is no request to invert it
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
    """Return the index of a region of one section, all channels, in an array with the axes `info.axes`."""
    index = [slice(None)] * len(info.axes)
    index[info.axes.index("Y")], index[info.axes.index("X")] = rows, columns
    if z_axis is not None:
        index[z_axis] = slice(z, z + 1)
    return index


def cyx(array: np.ndarray, info: ImageInfo) -> np.ndarray:
    """Return a region with the axes `info.axes` as (c, y, x); all other axes must have length 1."""
    array = np.moveaxis(array, (info.axes.index("Y"), info.axes.index("X")), (-2, -1))
    return array.reshape(info.channels, *array.shape[-2:])
