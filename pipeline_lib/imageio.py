"""Images and annotations: files <-> arrays. The one place that knows file formats, axes and polarity.

Read: TIFF (multi-page, ImageJ, OME, BigTIFF), a single PNG, a folder of PNG or TIFF slices in natural order,
and HDF5 as `file.h5:/dataset`. Only the sections asked for are read. Written: compressed TIFF for Fiji and
napari.

Axes are `c` channel, `z` section, `y` row, `x` column.
"""

from __future__ import annotations

import difflib
import itertools
import json
import logging
import math
import os
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import tifffile

from pipeline_lib.errors import InputError
from pipeline_lib.files import replacing

ANNOTATION_KINDS = ("auto", "black_membranes", "white_membranes", "instances")

TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)
_HDF5 = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf))(?::/*(?P<dataset>.*))?", re.IGNORECASE)
_READABLE = ("Readable are TIFF, PNG, a folder of PNG or TIFF slices, and HDF5 as file.h5:/dataset; "
             "Fiji writes TIFF with File > Save As > Tiff...")
_MAKE_ANNOTATION = ("Make it black and white (Fiji: Image > Adjust > Threshold..., Apply), or save instance "
                    "labels (0 = background, 1..n = cells).")

SectionReader = Callable[[int], np.ndarray]  # section number -> cyx


@dataclass(frozen=True)
class ImageInfo:
    """Shape and type of an image as its headers tell them.

    `axes` are those of the file (`QYX`, `ZCYX`, `YXS` ...). `white_is_zero`: the file asks to be shown
    inverted (TIFF's WhiteIsZero, in Fiji an inverting LUT).
    """

    channels: int
    sections: int
    height: int
    width: int
    dtype: np.dtype
    axes: str
    white_is_zero: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes `czyx`."""
        return self.channels, self.sections, self.height, self.width

    def __str__(self) -> str:
        channels = f"{self.channels} channels, " if self.channels > 1 else ""
        return f"{channels}{_size(self.shape[1:])}, {self.dtype}"


@dataclass(frozen=True)
class Annotation:
    """An annotation with its polarity resolved.

    `kind` "membranes": `array` is uint8 zyx, 1 = cell, 0 = membrane. `kind` "instances": `array` is unsigned
    integer zyx, 0 = background, each other value one cell. `description` tells what was found and inferred.
    """

    kind: str
    array: np.ndarray
    description: str


# ---------------------------------------------------------------------------------------------------- reading


def read_images(path: str | Path, *, sections: str | None = None, channels: int = 1) -> np.ndarray:
    """Raw intensities of the chosen sections (`parse_sections`), `czyx` in the file's dtype, bool as uint8.

    Images stored with WhiteIsZero are inverted: a high value is bright whatever the file.

    Raises `InputError` for a missing, truncated or unreadable file, ambiguous axes, another number of
    channels (RGB), sections the file does not hold, and values that are not finite.
    """
    with _open(path) as (info, read_section):
        require_channels(path, info, channels, read_section)
        images = _read(path, info, read_section, sections)
    if info.white_is_zero:
        np.subtract(np.iinfo(images.dtype).max, images, out=images)
    return images


def read_annotation(path: str | Path, *, sections: str | None = None, kind: str = "auto") -> Annotation:
    """Annotation of the chosen sections with its polarity resolved; `kind` is one of `ANNOTATION_KINDS`.

    - black_membranes: membranes are 0, cells one other value, as in the ISBI 2012 challenge
    - white_membranes: the reverse
    - instances: 0 is background, each other value a cell
    - auto: two values, one of them 0, are black membranes; more values are instances if they form areas

    Gray levels, as of smoothed or antialiased drawings, are refused: which of them are membrane is the
    annotator's decision. Black and white are meant as Fiji shows them: with WhiteIsZero, zeros are white.
    Instance labels are taken as they are.

    Raises `InputError` as `read_images` does, and for values that cannot be what `kind` says.
    """
    if kind not in ANNOTATION_KINDS:
        raise InputError(f"config key `dataset.annotation_kind`: found {kind}, expected one of "
                         f"{', '.join(ANNOTATION_KINDS)}.")
    with _open(path) as (info, read_section):
        require_channels(path, info, 1, read_section, annotation=True)
        array = _read(path, info, read_section, sections)[0]
    values, counts = _count_values(path, array)
    share = counts / array.size
    if len(values) == 1:
        raise InputError(f"{path}: every pixel of the annotation is {values[0]:g}; expected cells (not 0) "
                         "and membrane or background (0). Check that it is the annotation of these images "
                         "and was saved after drawing.")
    if kind.endswith("membranes") or (kind == "auto" and len(values) == 2 and values[0] == 0):
        return _membranes(path, info, array, values, share, kind)
    return _instances(path, array, values, share, kind)


def inspect(path: str | Path) -> ImageInfo:
    """Shape and type of an image or annotation from its headers (of a folder: all slices'); reads no pixels.

    Raises `InputError` for a missing or unreadable file, ambiguous axes, slices of different shape or type.
    """
    with _open(path, every_slice=True) as (info, _):
        return info


def require_channels(path: str | Path, info: ImageInfo, channels: int,
                     read_section: SectionReader | None = None, *, annotation: bool = False) -> None:
    """Raise `InputError` unless the image has `channels` channels.

    With `read_section`, the message tells whether the channels of the first section are all equal.
    """
    if info.channels == channels:
        return
    found = f"{info.channels} channels (axes {info.axes})" if info.channels > 1 else "1 channel"
    if info.channels in (3, 4):
        found = f"RGB, {found}"
    if read_section is not None and info.channels > 1:
        first = read_section(0)[:3]  # a fourth would be transparency
        found += ", all equal: gray levels saved as colour" if (first == first[:1]).all() else ""
    expected = f"expected {channels} channel{'s' * (channels > 1)}"
    if channels > 1:
        raise InputError(f"{path}: {found}, {expected}. Set `dataset.channels: {info.channels}`, or save the "
                         f"image with {channels} channels (axes CZYX).")
    convert = "Convert it to gray (Fiji: Image > Type > 8-bit, then File > Save As > Tiff...)"
    if info.axes.startswith("S"):  # planes one after the other: what some writers make of a stack of three
        convert += (", or if these are sections and no colours save them as a stack (tifffile: "
                    "photometric='minisblack')")
    otherwise = "" if annotation else f" or set `dataset.channels: {info.channels}`"
    raise InputError(f"{path}: {found}, {expected}. {convert}{otherwise}.")


def source_file(path: str | Path) -> Path:
    """The file or folder behind a path as a table has it: `a.h5:/raw` -> `a.h5`."""
    match = _HDF5.fullmatch(str(path))
    return Path(match["file"]) if match else Path(path)


def slice_files(folder: Path) -> list[Path]:
    """The PNG and TIFF slices of a folder in natural order; hidden files are no slices."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    slices = (path for path in visible if path.suffix.lower() in SLICE_SUFFIXES)
    return sorted(slices, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> tuple:
    """Sorting key that takes numbers by value: slice2 before slice10."""
    # re.split with a group alternates text, digits, text; the name itself decides between a1 and a01
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def section_ranges(text: str | None) -> list[range] | None:
    """The ranges of a text such as `0-3,8,10-12`, ascending; None for all sections (empty, or `all`).

    Raises `InputError` for anything else, a range that runs backwards, and a section named twice.
    """
    text = (text or "").strip()
    if text.lower() in ("", "all"):
        return None
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise InputError(f"sections `{text}`: `{part.strip()}` is neither a number nor a range. Write "
                             "for example 0-19, or 0-3,8,10-12, or nothing for all; the first section is 0. "
                             "(Spreadsheets turn 1-3 into a date unless the column is formatted as text.)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"sections `{text}`: {first}-{last} runs backwards. Write {last}-{first}.")
        ranges.append(range(first, last + 1))
    ranges.sort(key=lambda r: r.start)
    for before, after in itertools.pairwise(ranges):
        if after.start < before.stop:
            raise InputError(f"sections `{text}`: section {after.start} is named twice. Name it once.")
    return ranges


def parse_sections(text: str | None, available: int) -> list[int]:
    """The section numbers of a text such as `0-3,8,10-12`, ascending; empty or `all`: all that are available.

    Raises `InputError` as `section_ranges` does, and for a section that is not available.
    """
    ranges = section_ranges(text)
    if ranges is None:
        return list(range(available))
    if ranges[-1].stop > available:
        held = "1 section, number 0" if available == 1 else f"{available} sections, 0-{available - 1}"
        raise InputError(f"sections `{text}`: there is no section {ranges[-1].stop - 1}, only {held}.")
    return [section for r in ranges for section in r]


def _read(path: str | Path, info: ImageInfo, read_section: SectionReader, sections: str | None) -> np.ndarray:
    try:
        numbers = parse_sections(sections, info.sections)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    dtype = np.dtype(np.uint8) if info.dtype.kind == "b" else info.dtype
    shape = (info.channels, len(numbers), info.height, info.width)
    _require_memory(path, info, math.prod(shape) * dtype.itemsize)
    array = np.empty(shape, dtype)
    bad, first = 0, None
    for i, number in enumerate(numbers):
        section = read_section(number)
        if dtype.kind == "f" and not (finite := np.isfinite(section)).all():
            bad += np.count_nonzero(~finite)
            first = first or (number, *np.argwhere(~finite)[0][1:])
        array[:, i] = section
    if first:
        raise InputError("{}: {} values are NaN or infinite, the first in section {}, row {}, column {}. "
                         "Replace them (numpy.nan_to_num), or leave the sections out with the table's column "
                         "`sections`.".format(path, bad, *first))
    return array


def _require_memory(path: str | Path, info: ImageInfo, needed: int) -> None:
    """Refuse what cannot fit: a damaged header, or a compressed file of zeros, may claim terabytes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > memory:
        raise InputError(f"{path}: {info}: {needed / 2**30:.0f} GiB to read, this machine has "
                         f"{memory / 2**30:.0f} GiB of memory. Choose fewer sections with the table's column "
                         "`sections`.")


def _size(shape: tuple[int, ...]) -> str:
    sections, height, width = shape
    return f"{sections} section{'s' * (sections != 1)} of {height} x {width} px"


# ---------------------------------------------------------------------------------------------------- formats


@contextmanager
def _open(path: str | Path, *, every_slice: bool = False) -> Iterator[tuple[ImageInfo, SectionReader]]:
    """Yield an image's info and its section reader; whatever a decoder raises becomes an `InputError`."""
    file = source_file(path)
    if not file.exists():
        beside = os.listdir(file.parent) if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, beside, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{path}: no such file or folder.{hint} Check the path; in a table of volumes it "
                         "starts from `data_dir`.")
    if file.is_file() and file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes). Copy it again from its source.")
    suffix = file.suffix.lower()
    if file.is_dir():
        opened = _open_slices(file, every_slice)
    elif _HDF5.fullmatch(str(path)):
        opened = _open_hdf5(path)
    elif suffix in TIFF_SUFFIXES:
        opened = _open_tiff(file)
    elif suffix == ".png":
        opened = _open_png(file)
    else:
        raise InputError(f"{path}: no image format is known by the suffix `{suffix}`. {_READABLE}")
    try:
        with opened as (info, read_section):
            if info.dtype.kind not in "buif" or min(info.shape) < 1:
                raise InputError(f"{path}: {info}; expected integers, floats or bool, and some pixels.")
            yield info, read_section
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}). It is truncated, "
                         "damaged, or of another format than its name says. Copy it again from its source. "
                         f"{_READABLE}") from error


def _arrange(path: str | Path, axes: str, shape: tuple[int, ...], dtype: np.dtype,
             white_is_zero: bool = False) -> tuple[ImageInfo, int | None]:
    """Info of an array with the axes named by `axes`, and the position of the one that runs over sections."""
    axes = axes.upper()
    others = [i for i, axis in enumerate(axes) if axis not in "YX" and shape[i] > 1]
    channel = [i for i in others if axes[i] in "CS"]
    section = [i for i in others if axes[i] not in "CS"]
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(channel) > 1 or len(section) > 1:
        lengths = ", ".join(f"{axis} = {length}" for axis, length in zip(axes, shape, strict=True))
        raise InputError(f"{path}: axes {axes} ({lengths}) are ambiguous; expected rows, columns, at most "
                         "one axis of sections (Z, or T, Q, I) and one of channels (C or S). Save a single "
                         "stack (Fiji: Image > Duplicate..., one channel or frame, then File > Save As > "
                         "Tiff...).")
    # tifffile declares every bool array WhiteIsZero when it writes it, meaning nothing by it
    info = ImageInfo(
        channels=shape[channel[0]] if channel else 1, sections=shape[section[0]] if section else 1,
        height=shape[axes.index("Y")], width=shape[axes.index("X")], dtype=dtype.newbyteorder("="), axes=axes,
        white_is_zero=white_is_zero and dtype.kind == "u")
    return info, section[0] if section else None


def _cyx(array: np.ndarray, axes: str, info: ImageInfo) -> np.ndarray:
    """One section with the axes named by `axes` as `cyx`; those besides y, x and channel have length 1."""
    array = np.moveaxis(array, (axes.index("Y"), axes.index("X")), (-2, -1))
    return array.reshape(info.channels, info.height, info.width)


def _section_reader(array: Any, info: ImageInfo, z_axis: int | None) -> SectionReader:
    """Sections of an array that reads only what is indexed (HDF5 dataset, memory map)."""

    def read_section(number: int) -> np.ndarray:
        index = [slice(None)] * len(info.axes)
        if z_axis is not None:
            index[z_axis] = slice(number, number + 1)
        return _cyx(array[tuple(index)], info.axes, info)

    return read_section


class _BrokenPages(logging.Handler):
    """Collects what tifffile only logs: that a file's chain of pages breaks off and the rest is missing."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "TiffPages" in (message := record.getMessage()):
            self.messages.append(message)


@contextmanager
def _open_tiff(path: Path) -> Iterator[tuple[ImageInfo, SectionReader]]:
    broken = _BrokenPages()
    logger = logging.getLogger("tifffile")
    logger.addHandler(broken)
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series
            pages = len(tiff.pages)
            if broken.messages:
                raise InputError(f"{path}: truncated or damaged after page {pages} ({broken.messages[0]}). "
                                 "Copy it again from its source.")
            if len(series) != 1:
                found = ", ".join(f"{s.axes} {s.shape}" for s in series[:5])
                raise InputError(f"{path}: holds {len(series)} images of different kind ({found}), expected "
                                 "one stack. Save the one to use as a file of its own.")
            yield _tiff_sections(path, tiff, series[0])
    finally:
        logger.removeHandler(broken)


def _tiff_sections(path: Path, tiff: tifffile.TiffFile,
                   series: tifffile.TiffPageSeries) -> tuple[ImageInfo, SectionReader]:
    axes, shape, pages = series.get_axes(squeeze=False), series.get_shape(squeeze=False), series.pages
    dtype, key = np.dtype(series.dtype), series.keyframe
    info, z_axis = _arrange(path, axes, shape, dtype, key.photometric == tifffile.PHOTOMETRIC.MINISWHITE)
    # the first `outer` axes run over pages, the others lie within each page
    outer = next((n for n in range(len(shape) + 1) if math.prod(shape[:n]) == len(pages)
                  and math.prod(shape[n:]) == math.prod(key.shape)), None)
    if outer is None and series.dataoffset is not None:  # one page, the others follow it as plain bytes
        stack = np.memmap(path, dtype.newbyteorder(tiff.byteorder), "r", series.dataoffset, shape)
        return info, _section_reader(stack, info, z_axis)
    if outer is None or any(page is None for page in pages):
        raise InputError(f"{path}: lacks pages for axes {axes} {shape}. It is truncated, or one file of a "
                         "set whose others are missing: put them beside it, or save the stack as one file.")
    numbers = np.arange(len(pages)).reshape(shape[:outer])
    z_over_pages = z_axis is not None and z_axis < outer

    def read_section(number: int) -> np.ndarray:
        chosen = numbers.take([number], axis=z_axis) if z_over_pages else numbers
        section = np.stack([pages[n].asarray() for n in chosen.flat]).reshape(chosen.shape + shape[outer:])
        if z_axis is not None and not z_over_pages:
            section = section.take([number], axis=z_axis)
        return _cyx(section, info.axes, info)

    return info, read_section


@contextmanager
def _open_png(path: Path) -> Iterator[tuple[ImageInfo, SectionReader]]:
    with open(path, "rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise InputError(f"{path}: not a PNG file. It is damaged, or of another format than its name says.")
    width, height, bits, colour_type = struct.unpack(">IIBB", header[16:26])
    if colour_type in (3, 4):
        found = "indexed colours" if colour_type == 3 else "gray levels with transparency"
        raise InputError(f"{path}: {found}, expected gray levels. Convert it (Fiji: Image > Type > 8-bit, "
                         "then File > Save As > Tiff...).")
    channels, axes = {0: (1, "YX"), 2: (3, "YXS"), 6: (4, "YXS")}[colour_type]
    info = ImageInfo(channels, 1, height, width, np.dtype(np.uint16 if bits == 16 else np.uint8), axes)

    def read_section(_: int) -> np.ndarray:
        image = imagecodecs.png_decode(path.read_bytes())
        return np.moveaxis(image.reshape(height, width, channels), -1, 0)

    yield info, read_section


@contextmanager
def _open_slices(folder: Path, every_slice: bool) -> Iterator[tuple[ImageInfo, SectionReader]]:
    slices = slice_files(folder)
    if not slices:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(f"{folder}: the folder holds no PNG or TIFF slices (found: {found}).")
    if len({path.suffix.lower() == ".png" for path in slices}) > 1:
        raise InputError(f"{folder}: the folder holds both PNG and TIFF slices, maybe the same sections "
                         "twice. Keep one kind.")
    first = inspect(slices[0])

    def check(path: Path, info: ImageInfo) -> None:
        if info.sections != 1:
            raise InputError(f"{path}: holds {info.sections} sections; in a folder each file is one section. "
                             "Name this file itself in the table of volumes.")
        if (info.shape, info.dtype, info.white_is_zero) != (first.shape, first.dtype, first.white_is_zero):
            raise InputError(f"{path}: {info}, but {slices[0].name} has {first}. The slices of a folder must "
                             "agree; convert or remove those that differ.")

    for path in slices if every_slice else slices[:1]:
        check(path, inspect(path))

    def read_section(number: int) -> np.ndarray:
        with _open(slices[number]) as (info, read):
            check(slices[number], info)
            return read(0)

    yield ImageInfo(first.channels, len(slices), first.height, first.width, first.dtype, f"Z{first.axes}",
                    first.white_is_zero), read_section


@contextmanager
def _open_hdf5(path: str | Path) -> Iterator[tuple[ImageInfo, SectionReader]]:
    match = _HDF5.fullmatch(str(path))
    with h5py.File(match["file"], "r") as file:
        dataset = file.get(match["dataset"]) if match["dataset"] else None
        if not isinstance(dataset, h5py.Dataset):
            held: list[str] = []
            file.visititems(lambda name, item: held.append(f"{match['file']}:/{name}")
                            if isinstance(item, h5py.Dataset) else None)
            raise InputError(f"{path}: {'no such' if match['dataset'] else 'names no'} dataset in this HDF5 "
                             f"file. Write one of: {', '.join(held[:20]) or '(the file holds none)'}.")
        info, z_axis = _arrange(path, _hdf5_axes(path, dataset), dataset.shape, dataset.dtype)
        yield info, _section_reader(dataset, info, z_axis)


def _hdf5_axes(path: str | Path, dataset: h5py.Dataset) -> str:
    """Axes from the attribute `axes`, from ilastik's `axistags`, or from the number of dimensions."""
    if "axes" in dataset.attrs:
        axes = str(np.asarray(dataset.attrs["axes"]).astype(str))
    elif "axistags" in dataset.attrs:
        axes = "".join(tag["key"] for tag in json.loads(dataset.attrs["axistags"])["axes"])
    else:
        axes = {2: "yx", 3: "zyx", 4: "czyx"}.get(dataset.ndim, "")
    if len(axes) != dataset.ndim:
        raise InputError(f"{path}: {dataset.ndim} dimensions {dataset.shape}, axes `{axes}`; expected yx, "
                         "zyx or czyx, or an attribute with one letter for each (h5py: "
                         "dataset.attrs['axes'] = 'zyxc').")
    return axes


# ------------------------------------------------------------------------------------------------ annotations


def _count_values(path: str | Path, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, ascending, and how many pixels have each."""
    total: dict[float, int] = {}
    for section in array:
        values, counts = np.unique(section, return_counts=True)
        if values[0] < 0 or values[-1] >= 2**32 or (values != np.floor(values)).any():
            raise InputError(f"{path}: the annotation holds negative, too large or broken numbers "
                             f"({_histogram(values, counts / section.size)}); expected whole numbers from 0. "
                             f"{_MAKE_ANNOTATION}")
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            total[value] = total.get(value, 0) + count
    return np.array(sorted(total)), np.array([total[value] for value in sorted(total)])


def _histogram(values: np.ndarray, share: np.ndarray) -> str:
    """Each value's share of the pixels, or that of 8 ranges of equal width."""
    if len(values) <= 8:
        return ", ".join(f"{v:g}: {s:.2%}" for v, s in zip(values, share, strict=True))
    edges = np.linspace(float(values[0]), float(values[-1]), 9)
    bins, _ = np.histogram(values, edges, weights=share)
    ranges = zip(itertools.pairwise(edges), bins, strict=True)
    return f"{len(values)} values, " + ", ".join(f"{a:g} to {b:g}: {s:.2%}" for (a, b), s in ranges)


def _membranes(path: str | Path, info: ImageInfo, array: np.ndarray, values: np.ndarray, share: np.ndarray,
               kind: str) -> Annotation:
    if len(values) != 2 or values[0] != 0:
        raise InputError(f"{path}: `dataset.annotation_kind: {kind}` expects two values, 0 and another one; "
                         f"found {_histogram(values, share)}. {_MAKE_ANNOTATION} Instance labels need "
                         "`dataset.annotation_kind: instances`.")
    # black and white are as shown: with WhiteIsZero, zeros are the white pixels
    cells_are_zero = (kind == "white_membranes") != info.white_is_zero
    for section in array:  # in place: the stack is in memory once
        section[...] = (section == 0) == cells_are_zero
    cells = share[0] if cells_are_zero else share[1]
    drawn = "white" if kind == "white_membranes" else "black"
    description = (f"{_size(array.shape)}, values 0 and {values[1]:g}: membranes {drawn}, {cells:.1%} of the "
                   "pixels cells")
    if info.white_is_zero:
        description += "; the file shows 0 as white"
    if kind == "auto":
        description += "; inferred from the two values"
        if cells < 0.5:
            description += (". Cells are the smaller part: if the membranes are drawn white, set "
                            "`dataset.annotation_kind: white_membranes`; if these are sparse cells, "
                            "`instances`")
    return Annotation("membranes", array.astype(np.uint8, copy=False), description)


def _instances(path: str | Path, array: np.ndarray, values: np.ndarray, share: np.ndarray,
               kind: str) -> Annotation:
    few = 2 if kind == "auto" else 4  # where said to be instances, a few labels may be of very narrow cells
    if len(values) > few and _share_in_areas(array, values[np.argsort(share)[-2:]]) < 0.7:
        raise InputError(f"{path}: gray levels, not an annotation: besides the two most common ones, values "
                         "are scattered and form no areas, as after smoothing, scaling or antialiasing "
                         f"({_histogram(values, share)}). {_MAKE_ANNOTATION}")
    if kind == "auto" and len(values) == 2:
        raise InputError(f"{path}: two values, {values[0]:g} and {values[1]:g}: which is cell? Save "
                         "membranes as 0 and cells as 255, or set `dataset.annotation_kind: instances` for "
                         "two cells without background.")
    labels = values[values > 0]
    if kind == "auto" and _areas(array[0]) > 10 * len(labels):
        raise InputError(f"{path}: {len(labels)} values besides 0 ({_histogram(values, share)}) with many "
                         f"separate areas each: classes, not cells? {_MAKE_ANNOTATION} If each value is one "
                         "cell, set `dataset.annotation_kind: instances`.")
    background = share[0] if values[0] == 0 else 0.0
    description = (f"{_size(array.shape)}, instance labels: {len(labels)} values from {labels[0]:g} to "
                   f"{labels[-1]:g}, {background:.1%} of the pixels background")
    if kind == "auto":
        description += "; inferred from values that form areas"
    if array.dtype.kind == "i" and array.dtype.itemsize <= 4:
        array = array.view(f"u{array.dtype.itemsize}")
    elif array.dtype.kind != "u" or array.dtype.itemsize > 4:
        array = array.astype(np.uint32)
    return Annotation("instances", array, description)


def _share_in_areas(array: np.ndarray, common: np.ndarray) -> float:
    """Share of the pixels with other than the `common` values that lie in a 2 x 2 block of one value.

    Above 0.99 for instance labels, below 0.1 for antialiased membranes, below 0.5 for very smooth raw images.
    """
    inside = others = 0
    for section in array:
        along_x = section[:, 1:] == section[:, :-1]
        block = along_x[1:] & along_x[:-1] & (section[1:, 1:] == section[:-1, 1:])
        in_block = np.zeros(section.shape, bool)
        for y, x in itertools.product((slice(None, -1), slice(1, None)), repeat=2):
            in_block[y, x] |= block
        other = ~np.isin(section, common)
        others += np.count_nonzero(other)
        inside += np.count_nonzero(in_block & other)
    return inside / others


def _areas(section: np.ndarray) -> int:
    """Number of 4-connected areas of equal non-zero value."""
    from scipy import ndimage  # 0.2 s, which no stage but the one that reads annotations should pay

    return sum(ndimage.label(section == value)[1] for value in np.unique(section)[:50] if value)


# ---------------------------------------------------------------------------------------------------- writing


def write_images(path: str | Path, images: np.ndarray) -> None:
    """Write gray levels `zyx` (uint8, uint16 or float32) as compressed TIFF."""
    _write_tiff(path, images, images.dtype)


def write_labels(path: str | Path, labels: Any) -> None:
    """Write instance labels `zyx` as compressed TIFF: uint16, or uint32 for labels above 65535.

    `labels` is an array or HDF5 dataset; one section of it is in memory at a time.
    """
    maximum = max(int(labels[z].max()) for z in range(len(labels)))
    _write_tiff(path, labels, np.dtype(np.uint16 if maximum < 2**16 else np.uint32))


def write_probability(path: str | Path, probability: Any) -> None:
    """Write a probability map `zyx`, array or HDF5 dataset, as compressed float32 TIFF."""
    _write_tiff(path, probability, np.dtype(np.float32))


def _write_tiff(path: str | Path, stack: Any, dtype: np.dtype) -> None:
    # Plain pages, zlib, no predictor: what ImageJ's own reader decodes for all of these types. Not ImageJ's
    # hyperstack description: from that, older versions take all pages after the first to be uncompressed.
    with replacing(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        tiff.write((np.asarray(stack[z], dtype) for z in range(len(stack))), shape=stack.shape, dtype=dtype,
                   photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"})
