"""Regions of TIFF files: only the strips and tiles that a region touches are read and decoded."""

from __future__ import annotations

import itertools
import logging
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import tifffile

from pipeline_lib.imageio.headers import ImageInfo, Reader, arrange, cyx, region_index, require_plausible
from pipeline_lib.runtime.errors import InputError

KEPT = 256 * 2**20  # bytes of decoded strips and tiles kept for next regions: 2048 float32 rows of 32,768 px
_JPEG = (6, 7, 33007, 34892)  # compressions whose tables are stored apart
_MAPPED_ROWS = 128
# Compressions that unpack no more than asked for: none, CCITT, LZW, deflate, PackBits, LZMA, Zstandard
_BOUNDED = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
_IMAGE_CODECS = {
    7: "JPEG",
    33007: "JPEG",
    34892: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34933: "PNG",
}  # of which the size can be told before they are decoded; JPEG XR's decoder crashes on damaged images


@contextmanager
def open_tiff(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Info and region reader of a TIFF file that holds one stack."""
    _require_chain(path)
    with _broken_pages() as broken, tifffile.TiffFile(path) as tiff:
        _require_own_pages(path, tiff)
        series = tiff.series
        pages = len(tiff.pages)
        if broken:
            raise InputError(
                f"{path}: truncated or damaged after page {pages} ({broken[0]}). "
                "Copy it again from its source."
            )
        if not series:
            raise InputError(f"{path}: a TIFF file without an image. Copy it again from its source.")
        if len(series) != 1:
            found = ", ".join(f"{s.axes} {s.shape}" for s in series[:5])
            raise InputError(
                f"{path}: holds {len(series)} images of different kind ({found}), expected "
                "one stack. Save the one to use as a file of its own."
            )
        yield _region_reader(path, tiff, series[0])


@contextmanager
def _broken_pages() -> Iterator[list[str]]:
    """Collect what tifffile only logs: that a file's chain of pages breaks off and the rest is missing."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "TiffPages" in (message := record.getMessage()):
                messages.append(message)

    handler, logger = Collect(logging.ERROR), logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def _region_reader(
    path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> tuple[ImageInfo, Reader]:
    axes, shape, pages = series.get_axes(squeeze=False), series.get_shape(squeeze=False), series.pages
    dtype, key = np.dtype(series.dtype), series.keyframe
    # the first `outer` axes run over pages, the others lie within each page
    outer = next(
        (
            n
            for n in range(len(shape) + 1)
            if math.prod(shape[:n]) == len(pages) and math.prod(shape[n:]) == math.prod(key.shape)
        ),
        None,
    )
    _require_codec(path, key)
    # one page, the others follow it as plain bytes
    in_one_piece = outer is None and series.dataoffset is not None
    decoded = 1 if in_one_piece or key.is_final else math.prod(_segment_shape(key))
    info, z_axis = arrange(
        path, axes, shape, dtype, decoded * dtype.itemsize, key.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    )
    stored = tiff.filehandle.size
    if in_one_piece:
        _require_end(path, series.dataoffset + math.prod(shape) * dtype.itemsize, stored)

        def read_piece(z: int, rows: slice, columns: slice) -> np.ndarray:
            index = region_index(info, z_axis, z, rows, columns)
            stored = dtype.newbyteorder(tiff.byteorder)
            return cyx(_mapped(path, stored, series.dataoffset, shape, index, info.axes.index("Y")), info)

        return info, read_piece
    places = None if outer is None else _places(shape[outer:], key.shaped)
    if places is None or any(page is None for page in pages):
        raise InputError(
            f"{path}: lacks pages for axes {axes} {shape}. It is truncated, or one file of a "
            "set whose others are missing: put them beside it, or save the stack as one file."
        )
    _require_segments(path, pages, key)
    files = {page.parent.filehandle.path: page.parent.filehandle.size for page in pages}
    named = Path(path)
    others = sorted({*map(os.path.basename, files)} - {named.name})
    info = replace(info, others=tuple(map(named.with_name, others)))
    dense = key.compression in (34925, 50000)  # LZMA, Zstandard
    require_plausible(path, info, sum(files.values()), 1_000_000 if dense else 5000)
    numbers = np.arange(len(pages)).reshape(shape[:outer])
    segments = _Segments()

    def read(z: int, rows: slice, columns: slice) -> np.ndarray:
        index = region_index(info, z_axis, z, rows, columns)
        chosen = numbers[tuple(index[:outer])]
        within = [slice(None)] * 5
        for place, part in zip(places, index[outer:], strict=True):
            if place is not None:
                within[place] = part
        own_rows, own_columns = (range(*within[i].indices(key.shaped[i])) for i in (2, 3))
        segments.keep_only(chosen.ravel().tolist(), own_rows, own_columns)
        region = np.stack([segments.read(pages[n], n, within) for n in chosen.flat])
        lengths = [len(range(*part.indices(n))) for part, n in zip(index, shape, strict=True)]
        return cyx(region.reshape(lengths), info)

    return info, read


def _require_chain(path: Path) -> None:
    """Refuse a chain of pages that bites its tail, or leaves the file: tifffile may follow it for ever."""
    with open(path, "rb") as file:
        head = file.read(16)
        order, version = {b"II": "<", b"MM": ">"}.get(head[:2], ""), head[2:4]
        classic, big = (struct.pack(f"{order}H", number) for number in (42, 43))
        if not order or version not in (classic, big):
            raise InputError(
                f"{path}: not a TIFF file. It is damaged, or of another format than its name says."
            )
        # lengths of: number of entries, an entry; types of: number of entries, an offset
        lengths, kinds = ((2, 12), ("H", "I")) if version == classic else ((8, 20), ("Q", "Q"))
        at, seen = 4 if version == classic else 8, set()
        while True:
            offset = _number(path, file, at, f"{order}{kinds[1]}", len(seen))
            if not offset:
                return
            if offset in seen:
                raise InputError(
                    f"{path}: damaged: after page {len(seen)}, its chain of pages runs in a circle. Copy it "
                    "again from its source."
                )
            seen.add(offset)
            entries = _number(path, file, offset, f"{order}{kinds[0]}", len(seen) - 1)
            at = offset + lengths[0] + entries * lengths[1]


def _number(path: Path, file: BinaryIO, at: int, kind: str, pages: int) -> int:
    """The number at byte `at`; `InputError` past the end, where tifffile would take other bytes for it."""
    length = struct.calcsize(kind)
    file.seek(min(at, 2**62))
    data = file.read(length)
    if len(data) < length:
        raise InputError(
            f"{path}: truncated or damaged after page {pages}: its list of pages goes on at byte {at:,}, "
            "past the end of the file. Copy it again from its source."
        )
    return struct.unpack(kind, data)[0]


def _require_own_pages(path: Path, tiff: tifffile.TiffFile) -> None:
    """Refuse OME metadata that name others than files beside this one: tifffile would open them."""
    root = ElementTree.fromstring(tiff.ome_metadata or "<OME/>")
    others = (part for part in root.iter() if part.tag.endswith("UUID") and part.text != root.get("UUID"))
    for name in (part.get("FileName", "") for part in others):
        if os.path.basename(name) != name or not (path.parent / name).is_file():
            raise InputError(
                f"{path}: its OME metadata name {name!r:.100}, which is no file beside it. Put the files of "
                "the set together, or save the stack as one file."
            )


def _require_codec(path: Path, key: tifffile.TiffPage) -> None:
    """Refuse compressions whose decoded size is not known before they are decoded."""
    if key.compression not in _BOUNDED and key.compression not in _IMAGE_CODECS:
        name = getattr(key.compression, "name", key.compression)
        raise InputError(
            f"{path}: compressed with {name}; expected none, deflate, LZW, PackBits, LZMA, Zstandard, CCITT, "
            f"{', '.join(dict.fromkeys(_IMAGE_CODECS.values()))}. Save it uncompressed (Fiji: File > "
            "Save As > Tiff...)."
        )


def _require_segments(path: Path, pages: Sequence[Any], key: tifffile.TiffPage) -> None:
    """Refuse strips and tiles that the file does not hold: it ends early, or its tables are damaged."""
    sizes = (1, *_segment_shape(key)[:3])
    expected = math.prod(-(-n // size) for n, size in zip(key.shaped, sizes, strict=False))
    plain = math.prod(key.shaped) * key.dtype.itemsize
    for number, page in enumerate(pages):
        offsets, counts, size = page.dataoffsets, page.databytecounts, page.parent.filehandle.size
        if key.is_final:  # read as one piece
            ends = [offsets[0] + plain] if offsets else [2 * size]
        else:
            ends = [offset + count for offset, count in zip(offsets, counts, strict=True)]
            if len(ends) < expected:
                raise InputError(
                    f"{path}: page {number} lists {len(ends)} of its {expected} strips or tiles: damaged. "
                    "Copy it again from its source."
                )
        _require_end(path, max(ends), size)


def _require_end(path: Path, end: int, size: int) -> None:
    if end > size:
        raise InputError(
            f"{path}: truncated: its pixels end at byte {end:,}, the file at byte {size:,}. Copy it again "
            "from its source."
        )


def _places(shape: Sequence[int], shaped: Sequence[int]) -> list[int | None] | None:
    """Which axis of a page, `shaped` (planes, depth, rows, columns, samples), is each axis of `shape`.

    None for axes of length 1, and for all where they do not fit.
    """
    places, left = [], [place for place in range(5) if shaped[place] > 1]
    for length in shape:
        if length > 1 and (not left or shaped[left[0]] != length):
            return None
        places.append(left.pop(0) if length > 1 else None)
    return places


def _segment_shape(key: tifffile.TiffPage) -> tuple[int, int, int, int]:
    """Depth, rows, columns and samples of a strip or tile."""
    tile = key.tiledepth, key.tilelength, key.tilewidth
    shape = *(tile if key.is_tiled else (1, key.rowsperstrip, key.shaped[3])), key.shaped[4]
    if not all(isinstance(length, int) for length in shape):  # a product with bytes may fill the memory
        kinds = ", ".join(type(length).__name__ for length in shape)
        raise ValueError(f"depth, rows, columns and samples of its strips or tiles are {kinds}")
    return shape


class _Segments:
    """Regions of pages, from decoded strips and tiles.

    Regions are mostly read along a row of blocks. Strips, and tiles wider than their region, reach into the
    next block of that row: they are kept until regions with other rows, or past them, are asked for, so that
    each is decoded once. At most `KEPT` bytes of them, or one: once full, further ones are decoded again for
    each block.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[range, int, np.ndarray]] = {}
        self._bytes = 0

    def keep_only(self, pages: Sequence[int], rows: range, columns: range) -> None:
        """Forget what lies outside the `rows` of these `pages`, or to the left of `columns`."""
        self._kept = {
            at: (own, end, segment)
            for at, (own, end, segment) in self._kept.items()
            if at[0] in pages and own.start < rows.stop and rows.start < own.stop and end > columns.start
        }
        self._bytes = sum(segment.nbytes for _, _, segment in self._kept.values())

    def read(self, page: Any, number: int, index: Sequence[slice]) -> np.ndarray:
        """`page[index]`, index and result with the axes of `TiffPage.shaped`; `number` names the page."""
        key = page.keyframe
        if key.is_final:  # plain bytes
            stored = np.dtype(key.parent.byteorder + key.dtype.char)
            file = Path(page.parent.filehandle.path)
            return _mapped(file, stored, page.dataoffsets[0], key.shaped, index, 2)
        sizes = (1, *_segment_shape(key)[:3])
        counts = [-(-n // size) for n, size in zip(key.shaped, sizes, strict=False)]
        spans = [range(*part.indices(n)) for part, n in zip(index, key.shaped, strict=True)]
        touched = [
            range(span.start // size, -(-span.stop // size)) for span, size in zip(spans, sizes, strict=False)
        ]
        region = np.full([len(span) for span in spans[:4]] + [key.shaped[4]], key.nodata, key.dtype)
        for at in itertools.product(*touched):
            firsts = [i * size for i, size in zip(at, sizes, strict=True)]
            last = min(firsts[3] + sizes[3], key.shaped[3])
            wider = firsts[3] < spans[3].start or last > spans[3].stop
            place = int(np.ravel_multi_index(at, counts))
            segment = self._segment(page, number, place, firsts[2], last, wider)
            if segment is None:  # stored as nothing at all
                continue
            source, target = [], [firsts[0] - spans[0].start]
            for first, span, size in zip(firsts[1:], spans[1:], segment.shape[:3], strict=False):
                start, stop = max(first, span.start), min(first + size, span.stop)
                source.append(slice(start - first, stop - first))
                target.append(slice(start - span.start, stop - span.start))
            region[tuple(target)] = segment[tuple(source)]
        return region[..., index[4]]

    def _segment(
        self, page: Any, number: int, place: int, first_row: int, end: int, keep: bool
    ) -> np.ndarray | None:
        """Decoded segment (depth, rows, columns, samples) at `place` of the page, None where it is empty."""
        if (number, place) in self._kept:
            return self._kept[number, place][2]
        offset, length = page.dataoffsets[place], page.databytecounts[place]
        if not offset or not length:
            return None
        key, file = page.keyframe, page.parent.filehandle
        if file.closed:  # another file of an OME set
            file.open()
        file.seek(offset)
        data = file.read(length)
        if key.compression in _IMAGE_CODECS:
            _require_size(data, key, place)
        jpeg = key.compression in _JPEG
        tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if jpeg else {}
        segment = key.decode(data, place, **tables)[0]
        if keep and (not self._kept or self._bytes + segment.nbytes <= KEPT):
            rows = range(first_row, first_row + segment.shape[1])
            self._kept[number, place] = rows, end, segment
            self._bytes += segment.nbytes
        return segment


def _require_size(data: bytes, key: tifffile.TiffPage, place: int) -> None:
    """Refuse an image in a strip or tile that claims other than the strip's or tile's size: a bomb."""
    kind = _IMAGE_CODECS[key.compression]
    _, rows, columns, _ = _segment_shape(key)
    found = _encoded_size(kind, data)
    if found is None or found[0] > columns or found[1] > max(rows, 1):
        raise ValueError(
            f"{kind} of {found or 'unknown size'} in strip or tile {place} of {columns} x {rows} px"
        )


def _encoded_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """Width and height (px) that an encoded image claims, None where it is no such image."""
    if kind == "PNG" and data[12:16] == b"IHDR":
        return struct.unpack(">II", data[16:24])
    if kind == "JPEG 2000":
        at = 0
        while data[at : at + 4] != b"\xff\x4f\xff\x51":  # boxes, up to the one that holds the image
            length, box = struct.unpack(">I4s", data[at : at + 8])
            at += 8 if box == b"jp2c" else max(length, 8)
        right, bottom, left, top = struct.unpack(">IIII", data[at + 8 : at + 24])
        return right - left, bottom - top
    at = 2
    while kind == "JPEG" and data[:2] == b"\xff\xd8" and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        marker, length = struct.unpack(">BH", data[at + 1 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _mapped(
    path: Path, dtype: np.dtype, offset: int, shape: Sequence[int], index: Sequence[slice], y: int
) -> np.ndarray:
    """Copy, in native byte order, of `array[index]` for an array in plain bytes with rows along axis `y`.

    The file is mapped anew every few rows, since the pages of a mapping count as the process's memory.
    """
    rows = range(*index[y].indices(shape[y]))
    parts = []
    for top in range(rows.start, rows.stop, _MAPPED_ROWS):
        part = list(index)
        part[y] = slice(top, min(top + _MAPPED_ROWS, rows.stop))
        mapping = np.memmap(path, dtype, "r", offset, tuple(shape))
        parts.append(np.array(mapping[tuple(part)], dtype.newbyteorder("=")))
        del mapping
    return np.concatenate(parts, axis=y)
