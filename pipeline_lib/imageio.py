"""Images and annotations: files <-> arrays. The one place that knows file formats, axes and polarity.

Read: TIFF (multi-page, ImageJ, OME, BigTIFF), a single PNG, a folder of PNG or TIFF slices in natural order, HDF5 as
`file.h5:/dataset`. Only the sections asked for are read. Written: compressed TIFF that Fiji and napari open.

Axes are `c` channel, `z` section, `y` row, `x` column.
"""

from __future__ import annotations

import difflib
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

TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)
READABLE = ("Readable are TIFF (.tif, .tiff), PNG, a folder of PNG or TIFF slices, and HDF5 as file.h5:/dataset; "
            "Fiji's File > Save As > Tiff... writes a readable file.")
ANNOTATION_KINDS = ("auto", "black_membranes", "white_membranes", "instances")

_HDF5 = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf))(?::/*(?P<dataset>.*))?", re.IGNORECASE)


@dataclass(frozen=True)
class ImageInfo:
    """Shape and type of an image as its headers tell them.

    `axes` are those of the file (`QYX`, `ZCYX`, `YXS` ...). `white_is_zero`: the file asks to be shown inverted (TIFF's
    WhiteIsZero, what Fiji calls an inverting LUT).
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
        """Length of the axes `czyx`."""
        return self.channels, self.sections, self.height, self.width

    def __str__(self) -> str:
        channels = f"{self.channels} channels, " if self.channels > 1 else ""
        sections = "1 section" if self.sections == 1 else f"{self.sections} sections"
        return f"{channels}{sections} of {self.height} x {self.width} px, {self.dtype}"


@dataclass(frozen=True)
class Annotation:
    """An annotation with its polarity resolved.

    `kind` "membranes": `array` is uint8 zyx, 1 = cell, 0 = membrane. `kind` "instances": `array` is unsigned integer
    zyx, 0 = background, any other value = one cell per section and value. `description` tells what was inferred.
    """

    kind: str
    array: np.ndarray
    description: str


# ---------------------------------------------------------------------------------------------------------- reading


def read_images(path: str | Path, *, sections: str | None = None, channels: int = 1) -> np.ndarray:
    """Raw intensities of the chosen sections as a `czyx` array in the file's dtype (bool becomes uint8).

    Images stored with WhiteIsZero are inverted, so that a high value is bright in every file.

    Raises `InputError` for a missing, truncated or unreadable file, another number of channels (RGB), ambiguous axes,
    sections that the file does not hold, and values that are not finite.
    """
    with _open(path) as (info, read_section):
        require_channels(path, info, channels, read_section)
        images = _read(path, info, read_section, sections)
    if info.white_is_zero and images.dtype.kind in "bu":
        np.subtract(1 if info.dtype.kind == "b" else np.iinfo(images.dtype).max, images, out=images)
    return images


def read_annotation(path: str | Path, *, sections: str | None = None, kind: str = "auto") -> Annotation:
    """Annotation of the chosen sections, polarity resolved; `kind` is one of `ANNOTATION_KINDS`.

    black_membranes: membranes are 0, cells any one other value, as in the ISBI 2012 challenge. white_membranes: the
    reverse. instances: 0 = background, every other value a cell. auto: two values, one of them 0, are black
    membranes; more values are instances where they form areas. Gray levels, smoothed or antialiased drawings are
    refused: which of their pixels are membrane is the annotator's decision.

    Black and white are meant as seen in Fiji: a file stored with WhiteIsZero shows its zeros white. Instance labels
    are taken as they are.

    Raises `InputError` as `read_images` does, and where the values cannot be what `kind` says.
    """
    if kind not in ANNOTATION_KINDS:
        raise InputError(f"dataset.annotation_kind: `{kind}` is unknown, choose one of {', '.join(ANNOTATION_KINDS)}.")
    with _open(path) as (info, read_section):
        require_channels(path, info, 1, read_section, annotation=True)
        array = _read(path, info, read_section, sections)[0]
    values, counts = _integral_values(path, array)
    share = counts / array.size
    if len(values) == 1:
        raise InputError(f"{path}: every pixel of the annotation is {values[0]:g}, expected cells (not 0) and "
                         "membrane or background (0). Check that it is the annotation of these images, and saved after "
                         "it was drawn.")
    membranes = kind.endswith("membranes") or (kind == "auto" and len(values) == 2 and values[0] == 0)
    if membranes:
        return _membranes(path, info, array, values, share, kind)
    return _instances(path, info, array, values, share, kind)


def inspect(path: str | Path) -> ImageInfo:
    """Shape and type of an image or annotation from its headers; no pixel is read. Of a folder, every slice's header.

    Raises `InputError` for a missing or unreadable file, ambiguous axes, and slices of different shape or type.
    """
    with _open(path, every_slice=True) as (info, _):
        return info


def require_channels(path: str | Path, info: ImageInfo, channels: int,
                     read_section: Callable[[int], np.ndarray] | None = None, *, annotation: bool = False) -> None:
    """Raise `InputError` unless the image has `channels` channels; the message tells how to convert it.

    With `read_section` the message also tells whether the channels of the first section are equal.
    """
    if info.channels == channels:
        return
    what = "RGB" if info.channels == 3 else "RGB and transparency" if info.channels == 4 else "several channels"
    found = f"{what} (axes {info.axes}, {info.channels} channels)" if info.channels > 1 else "1 channel"
    advice = f"set `dataset.channels: {info.channels}`"
    if channels == 1:
        if read_section is not None:
            first = read_section(0)[:3]
            if (first == first[:1]).all():
                found += ", all equal: gray levels stored as colour"
        convert = "Convert it to gray (Fiji: Image > Type > 8-bit, then File > Save As > Tiff...)"
        advice = f"{convert}." if annotation else f"{convert} or {advice}."
    else:
        advice = f"If that is right, {advice}; otherwise save it with {channels} channels (axes CZYX)."
    raise InputError(f"{path}: {found}, expected {channels} channel{'s' * (channels > 1)}. {advice}")


def source_file(path: str | Path) -> Path:
    """The file or folder behind a path as written in a table: `a.h5:/raw` -> `a.h5`."""
    match = _HDF5.fullmatch(str(path))
    return Path(match["file"]) if match else Path(path)


def slice_files(folder: Path) -> list[Path]:
    """The PNG and TIFF slices of a folder in natural order; hidden files are no slices."""
    return sorted((path for path in folder.iterdir()
                   if path.suffix.lower() in SLICE_SUFFIXES and not path.name.startswith(".")),
                  key=lambda path: natural_key(path.name))


def section_ranges(text: str | None) -> list[range] | None:
    """Ranges of a text such as `0-3,8,10-12`, ascending; None for all sections (nothing, or `all`).

    Raises `InputError` for anything else, for a range that runs backwards and for a section named twice.
    """
    text = (text or "").strip()
    if text.lower() in ("", "all"):
        return None
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise InputError(f"sections `{text}`: `{part.strip()}` is not a section number or range. Write for example "
                             "0-19, or 0-3,8,10-12, or nothing for all; the first section is 0. (A spreadsheet turns "
                             "1-3 into a date unless the column is formatted as text.)")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"sections `{text}`: {first}-{last} runs backwards; write {last}-{first}.")
        ranges.append(range(first, last + 1))
    ranges.sort(key=lambda r: r.start)
    for before, after in zip(ranges, ranges[1:], strict=False):
        if after.start < before.stop:
            raise InputError(f"sections `{text}`: section {after.start} is named twice.")
    return ranges


def parse_sections(text: str | None, available: int) -> list[int]:
    """Section numbers of a text such as `0-3,8,10-12` in ascending order, out of `available` sections.

    Nothing, or `all`, means all sections. Raises `InputError` as `section_ranges` does, and for sections out of range.
    """
    ranges = section_ranges(text)
    if ranges is None:
        return list(range(available))
    if ranges[-1].stop > available:
        held = "1 section, number 0" if available == 1 else f"{available} sections, 0-{available - 1}"
        raise InputError(f"sections `{text}`: section {ranges[-1].stop - 1} does not exist; there are {held}.")
    return [section for r in ranges for section in r]


def natural_key(name: str) -> tuple:
    """Sorting key with numbers by value: slice2 before slice10."""
    # re.split with a group alternates text, digits, text, ...; the name itself decides between a1 and a01
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def _read(path: str | Path, info: ImageInfo, read_section: Callable[[int], np.ndarray],
          sections: str | None) -> np.ndarray:
    try:
        numbers = parse_sections(sections, info.sections)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    shape = (info.channels, len(numbers), info.height, info.width)
    dtype = np.dtype(np.uint8) if info.dtype.kind == "b" else info.dtype
    _require_memory(path, info, math.prod(shape) * dtype.itemsize)
    array = np.empty(shape, dtype)
    bad, first_bad = 0, None
    for i, number in enumerate(numbers):
        section = read_section(number)
        if dtype.kind == "f":
            not_finite = ~np.isfinite(section)
            if not_finite.any():
                bad += np.count_nonzero(not_finite)
                first_bad = first_bad or (number, *(int(v) for v in np.argwhere(not_finite)[0][1:]))
        array[:, i] = section
    if bad:
        raise InputError(f"{path}: {bad} values are NaN or infinite, the first in section {first_bad[0]} at row "
                         f"{first_bad[1]}, column {first_bad[2]}. Replace them (Fiji: Process > Math > NaN..., or "
                         "numpy.nan_to_num) or leave such sections out with the table's `sections`.")
    return array


def _require_memory(path: str | Path, info: ImageInfo, needed: int) -> None:
    """Refuse what cannot fit, as a damaged header or a compressed file of zeros may ask for terabytes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if needed > memory:
        raise InputError(f"{path}: {info} need {needed / 2**30:.0f} GiB of memory, this machine has "
                         f"{memory / 2**30:.0f}. Choose fewer sections with the table's `sections`, or check the file.")


@contextmanager
def _open(path: str | Path, *, every_slice: bool = False) -> Iterator[tuple[ImageInfo, Callable[[int], np.ndarray]]]:
    """Yield an image's info and a function: section number -> `cyx` array. What any decoder raises is an `InputError`."""
    file = source_file(path)
    if not file.exists():
        near = difflib.get_close_matches(file.name, os.listdir(file.parent) if file.parent.is_dir() else [], 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{path}: no such file or folder.{hint} Check the volume table and `data_dir`.")
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
        raise InputError(f"{path}: the suffix `{suffix}` is not one of a readable image. {READABLE}")
    try:
        with opened as (info, read_section):
            if info.dtype.kind not in "buif":
                raise InputError(f"{path}: pixels are {info.dtype}, expected integers, floats or bool. {READABLE}")
            if min(info.shape) < 1:
                raise InputError(f"{path}: holds no pixels (shape {info.shape}).")
            yield info, read_section
    except (InputError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise InputError(f"{path}: cannot be read ({type(error).__name__}: {error}). The file is damaged, truncated, or "
                         f"of another format than its name says. Copy it again from its source. {READABLE}") from error


def _arrange(path: str | Path, axes: str, shape: tuple[int, ...], dtype: np.dtype,
             white_is_zero: bool = False) -> tuple[ImageInfo, int | None]:
    """Info of an array with the given axes, and the position of its section axis (None: one section)."""
    axes = axes.upper()
    long = [(axis, length) for axis, length in zip(axes, shape, strict=True) if length > 1 and axis not in "YX"]
    channels = [(axis, length) for axis, length in long if axis in "CS"]
    sections = [(axis, length) for axis, length in long if axis not in "CS"]
    if axes.count("Y") != 1 or axes.count("X") != 1 or len(channels) > 1 or len(sections) > 1:
        lengths = " x ".join(f"{axis} {length}" for axis, length in zip(axes, shape, strict=True))
        raise InputError(f"{path}: axes {axes} ({lengths}) are ambiguous; expected rows, columns, at most one axis of "
                         "sections (Z, T, Q or I) and one of channels (C or S). Save a single stack "
                         "(Fiji: Image > Hyperstacks > Make Subset...).")
    info = ImageInfo(channels=channels[0][1] if channels else 1, sections=sections[0][1] if sections else 1,
                     height=shape[axes.index("Y")], width=shape[axes.index("X")], dtype=dtype.newbyteorder("="),
                     axes=axes, white_is_zero=white_is_zero)
    return info, axes.index(sections[0][0]) if sections else None


def _cyx(array: np.ndarray, axes: str, info: ImageInfo) -> np.ndarray:
    """One section, its axes named by `axes` (those besides y, x and channel of length 1), as `cyx`."""
    plane = [axes.index("Y"), axes.index("X")]
    channels_first = np.moveaxis(array, plane, (-2, -1))  # at most one other axis is longer than 1: its order stays
    return channels_first.reshape(info.channels, info.height, info.width)


def _section_reader(array: Any, info: ImageInfo, z_axis: int | None) -> Callable[[int], np.ndarray]:
    """Sections of a sliceable array (HDF5 dataset, memory map) with the axes of `info`."""

    def read_section(number: int) -> np.ndarray:
        index = [slice(None)] * len(info.axes)
        if z_axis is not None:
            index[z_axis] = slice(number, number + 1)
        return _cyx(array[tuple(index)], info.axes, info)

    return read_section


# ------------------------------------------------------------------------------------------------------------- TIFF


class _PageErrors(logging.Handler):
    """tifffile only logs that a file's chain of pages is broken, and goes on with the pages before."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "TiffPages" in message:
            self.messages.append(message)


@contextmanager
def _open_tiff(path: Path) -> Iterator[tuple[ImageInfo, Callable[[int], np.ndarray]]]:
    errors = _PageErrors()
    logger = logging.getLogger("tifffile")
    logger.addHandler(errors)
    try:
        with tifffile.TiffFile(path) as tiff:
            series = tiff.series
            pages = len(tiff.pages)
            if errors.messages:
                raise InputError(f"{path}: truncated after page {pages} ({errors.messages[-1]}). "
                                 "Copy it again from its source.")
            if len(series) != 1:
                shapes = ", ".join(f"{s.axes} {' x '.join(map(str, s.shape))}" for s in series[:5])
                raise InputError(f"{path}: holds {len(series)} images of different kind ({shapes}), expected one stack. "
                                 "Save the one to use as its own file.")
            yield _tiff_sections(path, tiff, series[0])
    finally:
        logger.removeHandler(errors)


def _tiff_sections(path: Path, tiff: tifffile.TiffFile,
                   series: tifffile.TiffPageSeries) -> tuple[ImageInfo, Callable[[int], np.ndarray]]:
    axes, shape, pages = series.get_axes(squeeze=False), series.get_shape(squeeze=False), series.pages
    key = series.keyframe
    info, z_axis = _arrange(path, axes, shape, np.dtype(series.dtype),
                            key.photometric == tifffile.PHOTOMETRIC.MINISWHITE)
    # the leading axes run over pages, the others lie within a page
    outer = next((n for n in range(len(shape) + 1) if math.prod(shape[:n]) == len(pages)
                  and math.prod(shape[n:]) == math.prod(key.shape)), None)
    if outer is None:  # ImageJ's stacks beyond 4 GiB: one page, the others follow as plain bytes
        if series.dataoffset is None:
            raise InputError(f"{path}: {len(pages)} pages of {key.shape} do not add up to {shape} (axes {axes}). The "
                             "file is truncated, or part of a set of files of which others are missing.")
        mapped = np.memmap(path, np.dtype(series.dtype).newbyteorder(tiff.byteorder), "r", series.dataoffset, shape)
        return info, _section_reader(mapped, info, z_axis)
    page_numbers = np.arange(len(pages)).reshape(shape[:outer])

    def read_section(number: int) -> np.ndarray:
        z_is_outer = z_axis is not None and z_axis < outer
        chosen = page_numbers.take([number], axis=z_axis) if z_is_outer else page_numbers
        read = []
        for n in chosen.ravel():
            if pages[n] is None:
                raise InputError(f"{path}: section {number} lies in another file of the set, which is missing. Put the "
                                 "files of the set side by side, or save the stack as one file.")
            read.append(pages[n].asarray())
        section = np.stack(read).reshape(chosen.shape + shape[outer:])
        if z_axis is not None and not z_is_outer:
            section = section.take([number], axis=z_axis)
        return _cyx(section, info.axes, info)

    return info, read_section


# -------------------------------------------------------------------------------------------------- PNG and folders

_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour type -> samples per pixel


@contextmanager
def _open_png(path: Path) -> Iterator[tuple[ImageInfo, Callable[[int], np.ndarray]]]:
    with open(path, "rb") as file:
        header = file.read(26)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise InputError(f"{path}: not a PNG file. The file is damaged or of another format than its name says.")
    width, height, bits, colour = struct.unpack(">IIBB", header[16:26])
    if colour == 3:
        raise InputError(f"{path}: indexed colours, expected gray levels. Save it with 8 or 16 bit gray levels "
                         "(Fiji: Image > Lookup Tables > Grays, then File > Save As > Tiff...).")
    if colour == 4:
        raise InputError(f"{path}: gray levels with transparency, expected gray levels. Remove the transparency "
                         "(Fiji: Image > Type > 8-bit, then File > Save As > Tiff...).")
    channels = _PNG_CHANNELS[colour]
    info = ImageInfo(channels, 1, height, width, np.dtype(np.uint16 if bits == 16 else np.uint8),
                     "YX" if channels == 1 else "YXS")
    yield info, lambda _: _cyx(imagecodecs.png_decode(path.read_bytes()), info.axes, info)


@contextmanager
def _open_slices(folder: Path, every_slice: bool) -> Iterator[tuple[ImageInfo, Callable[[int], np.ndarray]]]:
    slices = slice_files(folder)
    if not slices:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise InputError(f"{folder}: the folder holds no PNG or TIFF slices (found: {found}).")
    kinds = {"PNG" if p.suffix.lower() == ".png" else "TIFF" for p in slices}
    if len(kinds) > 1:
        raise InputError(f"{folder}: the folder holds both PNG and TIFF slices, which may be the same sections twice. "
                         "Keep one kind.")
    first = inspect(slices[0])

    def check(path: Path, info: ImageInfo) -> None:
        if info.sections != 1:
            raise InputError(f"{path}: holds {info.sections} sections; in a folder each file is one section. Name the "
                             "file itself in the volume table.")
        if (info.shape, info.dtype, info.white_is_zero) != (first.shape, first.dtype, first.white_is_zero):
            raise InputError(f"{path}: {info}, but {slices[0].name} has {first}. All slices of a folder need one shape "
                             "and type; remove or convert the ones that differ.")

    for path in slices if every_slice else slices[:1]:
        check(path, inspect(path))

    def read_section(number: int) -> np.ndarray:
        with _open(slices[number]) as (info, read):
            check(slices[number], info)
            return read(0)

    info = ImageInfo(first.channels, len(slices), first.height, first.width, first.dtype, "Z" + first.axes,
                     first.white_is_zero)
    yield info, read_section


# ------------------------------------------------------------------------------------------------------------- HDF5


@contextmanager
def _open_hdf5(path: str | Path) -> Iterator[tuple[ImageInfo, Callable[[int], np.ndarray]]]:
    match = _HDF5.fullmatch(str(path))
    with h5py.File(match["file"], "r") as file:
        dataset = file.get(match["dataset"]) if match["dataset"] else None
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(f"{path}: {'no such dataset' if match['dataset'] else 'which dataset?'} Write one of: "
                             f"{', '.join(_hdf5_datasets(match['file'], file)) or 'none, the file holds no dataset'}.")
        info, z_axis = _arrange(path, _hdf5_axes(path, dataset), dataset.shape, dataset.dtype)
        yield info, _section_reader(dataset, info, z_axis)


def _hdf5_datasets(path: str, file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visititems(lambda name, item: found.append(f"{path}:/{name} {item.shape}")
                    if isinstance(item, h5py.Dataset) else None)
    return found[:20]


def _hdf5_axes(path: str | Path, dataset: h5py.Dataset) -> str:
    """Axes from the attribute `axes`, ilastik's `axistags`, or the number of dimensions."""
    if "axes" in dataset.attrs:
        axes = str(np.asarray(dataset.attrs["axes"]).astype(str))
    elif "axistags" in dataset.attrs:
        axes = "".join(tag["key"] for tag in json.loads(dataset.attrs["axistags"])["axes"])
    else:
        axes = {2: "yx", 3: "zyx", 4: "czyx"}.get(dataset.ndim, "")
    if len(axes) != dataset.ndim:
        raise InputError(f"{path}: {dataset.ndim} dimensions {dataset.shape}, axes `{axes}`; expected yx, zyx or czyx. "
                         "Others need the attribute `axes` with one letter per dimension "
                         "(h5py: dataset.attrs['axes'] = 'zyxc').")
    return axes


# ------------------------------------------------------------------------------------------------------ annotations


def _integral_values(path: str | Path, array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in ascending order and their pixel counts, counted section by section."""
    total: dict[float, int] = {}
    for section in array:
        values, counts = np.unique(section, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            total[value] = total.get(value, 0) + count
    values = np.array(sorted(total))
    counts = np.array([total[value] for value in values.tolist()])
    if values[0] < 0 or values[-1] >= 2**32 or (values != np.floor(values)).any():
        raise InputError(f"{path}: the annotation's values run from {values[0]:g} to {values[-1]:g}"
                         f"{'' if (values == np.floor(values)).all() else ' with fractions'}, expected whole numbers "
                         f"from 0 up ({_histogram(values, counts / array.size)}). {_MAKE_BINARY}")
    return values, counts


_MAKE_BINARY = ("Make it black and white (Fiji: Image > Adjust > Threshold..., Apply) or save instance labels "
                "(0 = background, 1..n = cells).")


def _histogram(values: np.ndarray, share: np.ndarray) -> str:
    """`histogram: 0-31: 12.0 %, ...` over at most 8 bins of equal width."""
    low, high = float(values[0]), float(values[-1])
    if len(values) <= 8:
        return "histogram: " + ", ".join(f"{v:g}: {s:.2%}" for v, s in zip(values, share, strict=True))
    edges = np.linspace(low, high, 9)
    bins, _ = np.histogram(values, edges, weights=share)
    text = ", ".join(f"{a:.4g}-{b:.4g}: {s:.2%}" for a, b, s in zip(edges, edges[1:], bins, strict=False))
    return f"{len(values)} values, histogram: {text}"


def _membranes(path: str | Path, info: ImageInfo, array: np.ndarray, values: np.ndarray, share: np.ndarray,
               kind: str) -> Annotation:
    if len(values) != 2 or values[0] != 0:
        raise InputError(f"{path}: `dataset.annotation_kind: {kind}` expects two values, 0 and one other; found "
                         f"{_histogram(values, share)}. {_MAKE_BINARY} For instance labels type "
                         "`dataset.annotation_kind: instances`.")
    cells_are_zero = (kind == "white_membranes") != info.white_is_zero
    for section in array:  # in place: the stack is in memory once
        section[...] = (section == 0) if cells_are_zero else (section != 0)
    cells = share[0] if cells_are_zero else share[1]
    drawn = "white" if kind == "white_membranes" else "black"
    description = f"{path}: {info}; values 0 and {values[1]:g}: membranes {drawn}, cells {cells:.1%} of the pixels"
    if info.white_is_zero:
        description += "; the file shows 0 as white (inverting LUT)"
    if kind == "auto":
        description += " (inferred from two values)"
        if cells < 0.5:
            description += ("; cells are the smaller part: if the membranes are drawn white, type "
                            "`dataset.annotation_kind: white_membranes`")
    return Annotation("membranes", array.astype(np.uint8, copy=False), description)


def _instances(path: str | Path, info: ImageInfo, array: np.ndarray, values: np.ndarray, share: np.ndarray,
               kind: str) -> Annotation:
    if kind == "auto" and len(values) == 2:
        raise InputError(f"{path}: two values, {values[0]:g} and {values[1]:g}, neither 0: which of them is cell? Save "
                         "membranes as 0 and cells as 255, or type `dataset.annotation_kind: instances` for two cells "
                         "without background.")
    if len(values) > 2 and _share_in_areas(array, values[np.argsort(share)[-2:]]) < 0.5:
        raise InputError(f"{path}: gray levels, not an annotation: the values other than the two most common are "
                         f"scattered, not areas, as after smoothing, scaling or antialiasing; {_histogram(values, share)}. "
                         f"{_MAKE_BINARY}")
    background = share[0] if values[0] == 0 else 0.0
    labels = len(values) - (values[0] == 0)
    description = f"{path}: {info}; instance labels, {labels} values from {values[values > 0][0]:g} to {values[-1]:g}"
    description += f", background {background:.1%} of the pixels"
    if kind == "auto":
        description += " (inferred from more than two values that form areas)"
    if array.dtype.kind == "i" and array.dtype.itemsize <= 4:
        array = array.view(array.dtype.str.replace("i", "u"))
    elif array.dtype.kind != "u" or array.dtype.itemsize > 4:
        array = array.astype(np.uint32)
    return Annotation("instances", array, description)


def _share_in_areas(array: np.ndarray, common: np.ndarray) -> float:
    """Share of the pixels besides the `common` values that belong to a 2 x 2 block of one value.

    Nearly 1 for labels, nearly 0 for the gray levels along antialiased edges, whose ramps are one pixel wide per value.
    """
    inside = others = 0
    for section in array:
        along_x = section[:, 1:] == section[:, :-1]
        block = along_x[1:] & along_x[:-1] & (section[1:, 1:] == section[:-1, 1:])
        in_block = np.zeros(section.shape, bool)
        for y in (slice(None, -1), slice(1, None)):
            for x in (slice(None, -1), slice(1, None)):
                in_block[y, x] |= block
        other = ~np.isin(section, common)
        others += np.count_nonzero(other)
        inside += np.count_nonzero(in_block & other)
    return inside / others


# ---------------------------------------------------------------------------------------------------------- writing


def write_images(path: str | Path, images: np.ndarray) -> None:
    """Write gray levels `zyx` as compressed TIFF of the same dtype (uint8, uint16 or float32)."""
    _write_tiff(path, images, images.dtype)


def write_labels(path: str | Path, labels: Any) -> None:
    """Write instance labels `zyx` as compressed TIFF: uint16, or uint32 above 65535 labels.

    `labels` is an array or whatever yields sections by index (an HDF5 dataset); one section is in memory at a time.
    """
    maximum = max(int(labels[z].max()) for z in range(len(labels)))
    _write_tiff(path, labels, np.dtype(np.uint16 if maximum < 2**16 else np.uint32))


def write_probability(path: str | Path, probability: Any) -> None:
    """Write a probability map `zyx` as compressed float32 TIFF; `probability` as in `write_labels`."""
    _write_tiff(path, probability, np.dtype(np.float32))


def _write_tiff(path: str | Path, stack: Any, dtype: np.dtype) -> None:
    # Plain pages, zlib, no predictor: what ImageJ's own reader decodes for all three types. Not ImageJ's hyperstack
    # description: with it older versions of ImageJ take the pages after the first to be uncompressed.
    with replacing(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        tiff.write((np.asarray(stack[z], dtype) for z in range(len(stack))), shape=tuple(stack.shape), dtype=dtype,
                   photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"})
