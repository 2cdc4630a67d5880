"""Regions of TIFF files: only the strips and tiles that a region touches are read and decoded."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from pipeline_lib.errors import InputError
from pipeline_lib.imageio.headers import ImageInfo, Reader, arrange, cyx, region_index

KEPT = 256 * 2**20  # bytes of decoded strips and tiles kept for next regions: 2048 float32 rows of 32,768 px
_JPEG = (6, 7, 33007, 34892)  # compressions whose tables are stored apart
_MAPPED_ROWS = 128


@contextmanager
def open_tiff(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Info and region reader of a TIFF file that holds one stack."""
    with _broken_pages() as broken, tifffile.TiffFile(path) as tiff:
        series = tiff.series
        pages = len(tiff.pages)
        if broken:
            raise InputError(
                f"{path}: truncated or damaged after page {pages} ({broken[0]}). "
                "Copy it again from its source."
            )
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
    # one page, the others follow it as plain bytes
    in_one_piece = outer is None and series.dataoffset is not None
    decoded = 1 if in_one_piece or key.is_final else math.prod(_segment_shape(key))
    info, z_axis = arrange(
        path, axes, shape, dtype, decoded * dtype.itemsize, key.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    )
    if in_one_piece:

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
    samples = key.shaped[4]
    if key.is_tiled:
        return key.tiledepth, key.tilelength, key.tilewidth, samples
    return 1, key.rowsperstrip, key.shaped[3], samples


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
        jpeg = key.compression in _JPEG
        tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if jpeg else {}
        segment = key.decode(data, place, **tables)[0]
        if keep and (not self._kept or self._bytes + segment.nbytes <= KEPT):
            rows = range(first_row, first_row + segment.shape[1])
            self._kept[number, place] = rows, end, segment
            self._bytes += segment.nbytes
        return segment


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
