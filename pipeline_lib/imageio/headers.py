"""Shape and type of an image, as stated by its headers, and checks of whether the image can be used."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_lib.imageio.fixes import as_stack, set_tag, written
from pipeline_lib.imageio.naming import zarr_path
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.runtime.errors import InputError

# Number of a section in the file, rows and columns (slices with start and stop) -> region (c, y, x)
Reader = Callable[[int, slice, slice], np.ndarray]

#: Channels of an image: how many it must have, or which to read, by number (the first is 0) or name.
Channels = int | Sequence[int | str]

# Sides of the displayed image on which row 0 and column 0 are stored, for each Orientation of TIFF
ORIENTATIONS = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


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
    """Shape, type and meaning of the values of an image, read from its headers.

    Parameters
    ----------
    channels : int
        Number of channels, without transparency. An image with a palette has 1, its index.
    sections : int
        Number of sections; 1 for a single image.
    height, width : int
        Size of a section in px.
    dtype : numpy.dtype
        Type of the values in native byte order.
    axes : str
        Axes of the stored array in the order of the file, for instance `QYX`, `ZCYX` or `YXS`.
    white_is_zero : bool, default False
        Whether 0 is displayed as white: `WhiteIsZero` in TIFF, an inverting LUT in Fiji, a palette of gray
        levels whose brightest is the first.
    bits : int, default 0
        Bits of an unsigned integer that are used, for instance 12; 0 means all.
    rgb : bool, default False
        Whether the channels are red, green and blue.
    alpha : bool, default False
        Whether the region reader returns transparency as an additional last channel.
    unspecified : bool, default False
        Whether the last channel is an additional sample of a TIFF whose meaning is not stated. It is
        transparency where one channel less is expected, see `as_expected`.
    nodata : int, float or None, default None
        Value that means "no data", as the tag `GDAL_NODATA` of a TIFF states.
    palette : tuple of tuple of int, default ()
        Displayed colour of each value: red, green, blue and, if `alpha`, opacity.
    scattered_lut : bool, default False
        Whether ImageJ displays neighbouring values in colours without order, as in an image of 8-bit colours.
    orientation : int, default 1
        Orientation in which the file is stored, 1 to 8. Shape and regions are those that are displayed.
    smallest_read : int, default 0
        Size in bytes, decoded, of the smallest part that can be read: a strip or tile of a TIFF, a chunk of
        HDF5, a whole PNG, JPEG or BMP, or one pixel of an uncompressed file.
    others : tuple of Path, default ()
        Other files that contain pixels of the image, for instance those of an OME set or the sources of a
        virtual HDF5 dataset.
    stored : tuple of Stored, default ()
        Where the sections are stored; only `inspect` fills it in.
    pixel_size : tuple of float or None, default None
        Height and width of a pixel (um), as the file states them, see `pixel_size`.
    section_spacing : float or None, default None
        Distance between neighbouring sections (um), as the file states it.
    lossy : bool, default False
        Whether the compression has changed the values, as that of JPEG does.
    names : tuple of str, default ()
        Names of the channels, if the file states them.
    colours : bool, default False
        Whether values are colours of an annotation, 0xRRGGBB; see `display.as_numbers`.
    frames : bool, default False
        Whether the sections are the frames of a time series.
    frame_interval : float or None, default None
        Time between frames (s), as the file states it.
    """

    channels: int
    sections: int
    height: int
    width: int
    dtype: np.dtype
    axes: str
    white_is_zero: bool = False
    bits: int = 0
    rgb: bool = False
    alpha: bool = False
    unspecified: bool = False
    nodata: int | float | None = None
    palette: tuple[tuple[int, ...], ...] = ()
    scattered_lut: bool = False
    orientation: int = 1
    smallest_read: int = 0
    others: tuple[Path, ...] = ()
    stored: tuple[Stored, ...] = ()
    pixel_size: PixelSize | None = None
    section_spacing: float | None = None
    lossy: bool = False
    names: tuple[str, ...] = ()
    colours: bool = False
    frames: bool = False
    frame_interval: float | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes `czyx`."""
        return self.channels, self.sections, self.height, self.width

    @property
    def highest(self) -> int:
        """Highest value that an unsigned integer of this image can have."""
        return 2 ** (self.bits or (1 if self.dtype.kind == "b" else 8 * self.dtype.itemsize)) - 1

    def __str__(self) -> str:
        channels = f"{self.channels} channels, " if self.channels > 1 else ""
        bits = f" of {self.bits} bits" if self.bits else ""
        return f"{channels}{size(self.shape[1:])}, {self.dtype}{bits}"


def number_of(channels: Channels) -> int:
    """Return the number of channels that are read.

    Parameters
    ----------
    channels : int or sequence of (int or str)
        Number of channels, or the chosen ones.

    Returns
    -------
    int
        The number of channels.
    """
    return channels if isinstance(channels, int) else len(channels)


def chosen_channels(path: str | Path, info: ImageInfo, channels: Sequence[int | str]) -> list[int]:
    """Return the numbers of the channels that are chosen by number or name.

    Raises `InputError` if one does not exist, has the name of another one, or is chosen twice.
    """
    available = 3 if is_coloured(info) else info.channels
    names = info.names or (("red", "green", "blue") if info.rgb or is_coloured(info) else ())
    listed = ", ".join(_channel_names(available, names))
    found: list[int] = []
    for channel in channels:
        text = str(channel)
        number = int(text) if text.isdecimal() else available
        exact = [n for n, name in enumerate(names) if name == text]
        named = exact or [n for n, name in enumerate(names) if name.casefold() == text.casefold()]
        # YAML reads a name such as 488 (nm) as a number, and `snakemake --config` makes texts of numbers
        by_name = isinstance(channel, str) and named
        numbers = named if by_name or number >= available else [number]
        if len(numbers) != 1:
            reason = "several channels are called" if numbers else "has no channel"
            raise InputError(
                f"{path}: {reason} {channel}. It has {listed}. Write one of these numbers or names into "
                "`dataset.channels`, or into the column `channels` of the table of volumes."
            )
        if numbers[0] in found:
            raise InputError(
                f"{path}: `dataset.channels` names the channel {channel} twice. It has {listed}. Keep one."
            )
        found += numbers
    return found


def _channel_names(number: int, names: Sequence[str]) -> list[str]:
    """Describe the channels of an image for messages: `0 DAPI`, `1 GFP`."""
    return [f"{n} {name}".strip() for n, name in enumerate(names or [""] * number)]


def require_channels(
    path: str | Path, info: ImageInfo, channels: Channels, *, annotation: bool = False
) -> None:
    """Raise `InputError` if an image cannot be read with the expected number of channels.

    Colours (RGB) are accepted where one channel is expected. `Images.read` then requires that red, green and
    blue are equal in each pixel.

    Parameters
    ----------
    path : str or Path
        Path of the image, for the message.
    info : ImageInfo
        Shape and type of the image.
    channels : int or sequence of (int or str)
        Expected number of channels, or the channels that it must have, by number or name.
    annotation : bool, default False
        Whether the image is an annotation. Then the values of a palette are its labels, and the message does
        not suggest what changes labels.

    Raises
    ------
    InputError
        If the number of channels differs, a chosen one does not exist, or the values are no gray levels: if 0
        is displayed as white and their type defines no value that is black, or if their colours in ImageJ
        have no order.
    """
    if info.scattered_lut and not annotation:
        raise InputError(
            f"{path}: neighbouring values have very different colours in ImageJ, as in an image of 8-bit "
            "colours, whose values are no gray levels. If the colours matter, save it as RGB (Fiji: Image "
            "> Type > RGB Color); if the values are gray levels, remove the colours (Image > Lookup Tables > "
            "Grays)."
        )
    if info.white_is_zero and info.dtype.kind not in "bu" and not annotation:
        raise InputError(
            f"{path}: 0 is displayed as white (WhiteIsZero, or an inverting LUT in Fiji), but {info.dtype} "
            "defines no value for black; expected unsigned integers. If high values are bright, "
            + (
                "remove `inverted` from `omero` in the metadata of the OME-Zarr."
                if zarr_path(path)
                else f"change the tag:\n{set_tag(path, 262, 1)}"
            )
        )
    if not isinstance(channels, int):
        chosen_channels(path, info, channels)
        return
    info = as_expected(info, channels)
    colours = is_coloured(info) and not annotation
    if (3 if colours else info.channels) == channels or (channels == 1 and (colours or info.rgb)):
        return
    found = f"{info.channels} channels (axes {info.axes})" if info.channels > 1 else "1 channel"
    if colours:
        found = "a palette of colours (3 channels)"
    elif info.rgb:
        found = f"RGB, {found}"
    if info.alpha:
        found += " and transparency, which is not a channel"
    expected = f"expected {channels} channel{'s' * (channels > 1)}"
    hint = sections_hint(path, info).rstrip()
    hint = f" {hint}" if hint else ""
    if annotation:
        raise InputError(
            f"{path}: found {found}, {expected}. Save one number per pixel: one image of black and white, or "
            f"of instance labels (0 = background, 1..n = cells).{hint}"
        )
    available = 3 if colours else info.channels
    choice = ""
    if channels < available:
        names = ", ".join(_channel_names(available, info.names))
        choice = f" or choose some, as in `dataset.channels: {[*range(channels)]}` (there are {names}),"
    raise InputError(
        f"{path}: found {found}, {expected}. Set `dataset.channels: {available}`,{choice} or save the image "
        f"with {channels} channel{'s' * (channels > 1)}{' (axes CZYX)' * (channels > 1)}.{hint}"
    )


def as_expected(info: ImageInfo, channels: Channels) -> ImageInfo:
    """Return the info with a sample of unknown meaning as transparency, if this gives `channels`."""
    if not isinstance(channels, int):
        return info
    rgb = info.channels == 4
    if not info.unspecified or not (info.channels == channels + 1 or (rgb and channels == 1)):
        return info
    return replace(info, channels=info.channels - 1, rgb=rgb, alpha=True)


def sections_hint(path: str | Path, info: ImageInfo) -> str:
    """Return how to correct a stack whose sections were saved as channels or planes of a colour image.

    tifffile does this by default for ImageJ and OME files, and for three or four sections.
    """
    planes = info.axes.startswith("S") or "C" in info.axes.partition("Y")[0]
    tiff = Path(path).suffix.lower() in (".tif", ".tiff")
    if not (tiff and planes) or info.sections > 1 or info.others or info.names:  # names are those of channels
        return ""
    return f"If these are sections, save them as a stack ({written(path)}):\n{as_stack(path)}\n"


def is_coloured(info: ImageInfo) -> bool:
    """Return whether the palette of an image contains colours, not only gray levels."""
    return any(len({*entry[:3]}) > 1 for entry in info.palette)


def is_inverted(palette: tuple[tuple[int, ...], ...]) -> bool:
    """Return whether a palette has only gray levels, of which the first is the brightest."""
    grays = [entry[0] for entry in palette if len({*entry[:3]}) == 1]
    return 1 < len(grays) == len(palette) and grays[0] > max(grays[1:])


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
    fix: str,
) -> tuple[ImageInfo, int | None]:
    """Return the info of an array with the given axes, and which of its axes is that of the sections, if any.

    Raises `InputError` if `axes` are not rows, columns, at most one axis of sections and one of channels;
    `fix` is the end of its message.
    """
    axes = axes.upper()
    others = [i for i, axis in enumerate(axes) if axis not in "YX" and shape[i] > 1]
    channel = [i for i in others if axes[i] in "CS"]
    section = [i for i in others if axes[i] not in "CS"]
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(channel) > 1 or len(section) > 1:
        lengths = ", ".join(f"{axis} = {length}" for axis, length in zip(axes, shape, strict=True))
        raise InputError(
            f"{path}: axes {axes} ({lengths}) are ambiguous. Expected rows (Y), columns (X), at most one "
            f"axis of sections (Z, T, Q or I) and at most one of channels (C or S). {fix}"
        )
    info = ImageInfo(
        channels=shape[channel[0]] if channel else 1,
        sections=shape[section[0]] if section else 1,
        height=shape[axes.index("Y")],
        width=shape[axes.index("X")],
        dtype=dtype.newbyteorder("="),
        axes=axes,
        smallest_read=smallest_read,
        frames=bool(section) and axes[section[0]] == "T",
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


def turned(info: ImageInfo, read: Reader, orientation: int) -> tuple[ImageInfo, Reader]:
    """Return the info and the reader of an image that is displayed as its `orientation` says."""
    row, column = ORIENTATIONS[orientation]
    transposed = row in ("left", "right")
    flips = row in ("bottom", "right"), column in ("bottom", "right")
    lengths = info.height, info.width

    def read_turned(z: int, rows: slice, columns: slice) -> np.ndarray:
        parts = (columns, rows) if transposed else (rows, columns)
        stored = (
            slice(length - part.stop, length - part.start) if flip else part
            for part, flip, length in zip(parts, flips, lengths, strict=True)
        )
        region = np.flip(read(z, *stored), tuple(axis for axis, flip in enumerate(flips, 1) if flip))
        return region.swapaxes(1, 2) if transposed else region

    if transposed:
        pixel_size = info.pixel_size and (info.pixel_size[1], info.pixel_size[0])
        info = replace(info, height=info.width, width=info.height, pixel_size=pixel_size)
    return replace(info, orientation=orientation), read_turned
