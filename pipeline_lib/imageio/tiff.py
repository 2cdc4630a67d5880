"""Read regions of TIFF files. Only the strips and tiles that a region touches are read and decoded."""

from __future__ import annotations

import itertools
import logging
import math
import os
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast
from xml.etree import ElementTree

import numpy as np
import tifffile

from pipeline_lib.imageio.fixes import set_description, set_tag, without_marked_pages
from pipeline_lib.imageio.headers import (
    ORIENTATIONS,
    ImageInfo,
    Reader,
    arrange,
    cyx,
    is_inverted,
    region_index,
    require_plausible,
    turned,
)
from pipeline_lib.imageio.pixelsize import of_tiff
from pipeline_lib.runtime.errors import InputError

CACHE_BYTES = 256 * 2**20  # limit of decoded data kept for later regions: 2048 float32 rows of 32,768 px
_JPEG = (6, 7, 33007, 34892)  # compressions whose tables are stored separately
_MAPPED_ROWS = 128
# Compressions that can be decoded up to a given size: none, CCITT, LZW, deflate, PackBits, LZMA, Zstandard
_BOUNDED = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
_IMAGE_CODECS = {
    7: "JPEG",
    33007: "JPEG",
    34892: "JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34933: "PNG",
}  # image formats whose size is known before decoding; not JPEG XR: its decoder crashes on damaged images

_SIZES = re.compile(r'Size[ZCT]="\d+"')
_COMPANION = re.compile(r'<(?:\w+:)?BinaryOnly\b[^>]*\bMetadataFile="([^"]*)"')
_MOST_TAGS = 4096  # the limit of tifffile
_PAGE_KIND = 254  # NewSubfileType
_COPY_OR_MASK = 1 | 4  # bits of it: a smaller copy, a mask of transparency
_NODATA = 42113  # GDAL_NODATA
_HEIGHT, _PHOTOMETRIC_TAG, _ORIENTATION, _ROWS_PER_STRIP = 257, 262, 274, 278
# Tags that must be alike in all pages of a stack, with the values that are used if they are absent
_ALIKE = {
    256: ("ImageWidth", 0),
    257: ("ImageLength", 0),
    258: ("BitsPerSample", 1),
    259: ("Compression", 1),
    262: ("PhotometricInterpretation", 1),
    266: ("FillOrder", 1),
    274: ("Orientation", 1),
    277: ("SamplesPerPixel", 1),
    278: ("RowsPerStrip", 2**32 - 1),
    284: ("PlanarConfiguration", 1),
    317: ("Predictor", 1),
    322: ("TileWidth", 0),
    323: ("TileLength", 0),
    339: ("SampleFormat", 1),
}
_LUT_STEP = 0.125  # mean step between the colours of a ramp, at most
_GRAY_LEVELS = (0, 1)  # PhotometricInterpretation: WhiteIsZero, BlackIsZero
_RGB, _PALETTE, _YCBCR = 2, 3, 6

_Page: TypeAlias = tifffile.TiffPage | tifffile.TiffFrame
_Tags: TypeAlias = dict[int, int]


@contextmanager
def open_tiff(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of a TIFF file that contains one stack."""
    tags = _page_tags(path)
    with _broken_pages() as broken, tifffile.TiffFile(path) as tiff:
        _require_own_pages(path, tiff)
        series = _all_series(tiff)
        pages = len(tiff.pages)
        if broken:
            raise InputError(
                f"{path}: the file is truncated or damaged after page {pages} ({broken[0]}). Copy it again "
                "from its source."
            )
        if not series:
            raise InputError(f"{path}: the TIFF file contains no image. Copy it again from its source.")
        levels = [level for one in series for level in one.levels[1:]]
        series += [level for level in levels if not (level.keyframe.is_reduced or level.keyframe.is_subifd)]
        marked = {at for at, found in tags.items() if max(found.get(_PAGE_KIND, 0), 0) & _COPY_OR_MASK}
        series = [one for one in series if one.keyframe.offset not in marked] or series
        if len(series) != 1:
            found = [" ".join(map(str, _axes_and_shape(own, squeeze=True))) for own in series]
            if len({(one, own.dtype) for one, own in zip(found, series, strict=True)}) == 1:
                raise InputError(
                    f"{path}: found {len(series)} separate images ({found[0]}), "
                    "expected one stack. If they are its sections, remove the description that separates "
                    f"them:\n{set_description(path, '')}"
                )
            raise InputError(
                f"{path}: found {len(series)} images of different size or type ({', '.join(found[:5])}), "
                "expected one stack. Save the one to use as a separate file."
            )
        left_out = set()
        if marked:
            own = {page.offset for page in series[0].pages if page}
            _require_no_marks(
                path, series[0], [number for number, at in enumerate(tags) if at in own & marked]
            )
            left_out = marked - {page.offset for level in series[0].levels for page in level.pages if page}
        _require_same_pages(path, series[0], tags, left_out)
        _require_stated_pages(path, tiff, series[0], len(left_out))
        yield _region_reader(path, tiff, series[0])


def _all_series(tiff: tifffile.TiffFile) -> list[tifffile.TiffPageSeries]:
    """Return all series of pages, with axes of length 1 since tifffile 2026.5.2."""
    series: Any = tiff.series
    return [*(series(squeeze=False) if callable(series) else series)]


def _axes_and_shape(series: tifffile.TiffPageSeries, squeeze: bool = False) -> tuple[str, tuple[int, ...]]:
    """Return the axes and their lengths; with `squeeze`, Y, X and those that are longer than 1."""
    if hasattr(series, "get_axes"):  # before tifffile 2026.5.2
        axes, shape = series.get_axes(squeeze=False), series.get_shape(squeeze=False)
    else:
        axes, shape = series.axes, series.shape
    if not squeeze:
        return axes, shape
    kept = [n for n, axis in enumerate(axes) if shape[n] > 1 or axis in "YX"]
    return "".join(axes[n] for n in kept), tuple(shape[n] for n in kept)


@contextmanager
def _broken_pages() -> Iterator[list[str]]:
    """Collect messages that tifffile only logs: the list of pages breaks off and the rest is missing."""
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
    """Return the info and the region reader of a stack."""
    axes, shape = _axes_and_shape(series)
    pages = series.pages
    dtype, key = np.dtype(series.dtype), series.keyframe
    # the first `outer` axes count pages, the others are within each page
    outer = next(
        (
            n
            for n in range(len(shape) + 1)
            if math.prod(shape[:n]) == len(pages) and math.prod(shape[n:]) == math.prod(key.shape)
        ),
        None,
    )
    _require_codec(path, key)
    # offset of the stack if the file has a single page, which the other sections follow as plain bytes
    start = series.dataoffset if outer is None else None
    decoded = 1 if start is not None or key.is_final else math.prod(_segment_shape(key))
    fix = (
        "Save a single stack (Fiji: Image > Duplicate... with one channel or frame, then File > Save As > "
        "Tiff...)."
    )
    info, z_axis = arrange(path, axes, shape, dtype, decoded * dtype.itemsize, fix)
    if start is not None:
        _require_end(path, start + math.prod(shape) * dtype.itemsize, tiff.filehandle.size)

        def read_piece(z: int, rows: slice, columns: slice) -> np.ndarray:
            index = region_index(info, z_axis, z, rows, columns)
            stored = dtype.newbyteorder(tiff.byteorder)
            return cyx(_mapped(path, stored, start, shape, index, info.axes.index("Y")), info)

        return _displayed(path, tiff, key, info, read_piece)
    places = None if outer is None else _places(shape[outer:], key.shaped)
    if places is None or any(page is None for page in pages):
        raise InputError(
            f"{path}: some pages of a stack with axes {axes} and shape {shape} are missing. The file is "
            "truncated, or other files of its set are missing. Put all files of the set into one folder, or "
            "save the stack as one file."
        )
    complete = cast("Sequence[_Page]", pages)
    _require_segments(path, complete, key)
    files = {page.parent.filehandle.path: page.parent.filehandle.size for page in complete}
    named = Path(path)
    others = sorted({*map(os.path.basename, files)} - {named.name, named.resolve().name})
    info = replace(info, others=tuple(map(named.with_name, others)))
    dense = key.compression in (34925, 50000)  # LZMA, Zstandard
    require_plausible(path, info, sum(files.values()), 1_000_000 if dense else 5000)
    numbers = np.arange(len(pages)).reshape(shape[:outer])
    segments = _Segments()

    def read(z: int, rows: slice, columns: slice) -> np.ndarray:
        index = region_index(info, z_axis, z, rows, columns)
        chosen = numbers[tuple(index[:outer])].ravel().tolist()
        within = [slice(None)] * 5
        for place, part in zip(places, index[outer:], strict=True):
            if place is not None:
                within[place] = part
        own_rows, own_columns = (range(*within[i].indices(key.shaped[i])) for i in (2, 3))
        segments.keep_only(chosen, own_rows, own_columns)
        region = np.stack([segments.read(complete[n], n, within) for n in chosen])
        lengths = [len(range(*part.indices(n))) for part, n in zip(index, shape, strict=True)]
        return cyx(region.reshape(lengths), info)

    return _displayed(path, tiff, key, info, read)


def _is_scattered(lut: np.ndarray) -> bool:
    """Return whether the colours (3, values) of neighbouring values differ much, unlike those of a ramp."""
    used = lut[:, : np.flatnonzero(lut.any(axis=0)).max(initial=0) + 1].astype(float)
    steps = np.abs(np.diff(used)).max(axis=0)  # 1 to 10 of 255 in a ramp, above 80 for 8-bit colours
    return bool(len(steps) > 1 and steps.mean() > _LUT_STEP * np.iinfo(lut.dtype).max)


def _displayed(
    path: Path, tiff: tifffile.TiffFile, key: tifffile.TiffPage, info: ImageInfo, read: Reader
) -> tuple[ImageInfo, Reader]:
    """Add the meaning of values, which the tags of a page state, and turn the image as displayed."""
    photometric = key.photometric
    colours = photometric == _RGB or (photometric == _YCBCR and key.compression in _JPEG)  # decoded as RGB
    indexed = photometric == _PALETTE and info.channels == 1
    if not (colours or indexed or photometric in _GRAY_LEVELS):
        name = getattr(photometric, "name", photometric)
        raise InputError(
            f"{path}: found values of the kind {name} (tag PhotometricInterpretation), expected gray levels, "
            "RGB or a palette. Save it as gray levels or RGB with the program that made it."
        )
    # tifffile marks every bool array as WhiteIsZero when it writes it; 1 is white nevertheless
    own = info.dtype.kind == "b" and (tiff.is_shaped or (key.software or "").startswith("tifffile"))
    palette: tuple[tuple[int, ...], ...] = ()
    lut = indexed and tiff.is_imagej
    if indexed and not lut:
        if key.colormap is None:
            raise InputError(
                f"{path}: the file is damaged: its palette is missing. Copy it again from its source."
            )
        table = np.asarray(key.colormap) >> (8 if info.dtype.itemsize == 1 else 0)
        palette = tuple(map(tuple, table.T.tolist()))
    extra = info.channels > 1 and len(key.extrasamples) == 1
    alpha = extra and key.extrasamples[0] in (1, 2)
    bits = key.bitspersample if isinstance(key.bitspersample, int) and info.dtype.kind == "u" else 0
    orientation = int(key.tags.valueof(_ORIENTATION, 1))
    stated = of_tiff(tiff, key)
    info = replace(
        info,
        channels=info.channels - alpha,
        white_is_zero=is_inverted(palette) or (photometric == _GRAY_LEVELS[0] and not own),
        bits=bits if bits < 8 * info.dtype.itemsize else 0,
        rgb=colours and info.channels - alpha == 3,
        alpha=alpha,
        unspecified=extra and key.extrasamples[0] == 0 and not palette,
        nodata=_nodata(key.tags.valueof(_NODATA)),
        names=_channel_names(tiff, info.channels - alpha),
        palette=palette,
        scattered_lut=lut and key.colormap is not None and _is_scattered(np.asarray(key.colormap)),
        pixel_size=stated.pixel_size,
        section_spacing=stated.section_spacing,
        frame_interval=stated.frame_interval if info.frames else None,
    )
    return turned(info, read, orientation) if orientation != 1 else (info, read)


def _channel_names(tiff: tifffile.TiffFile, channels: int) -> tuple[str, ...]:
    """Return the names of the channels that OME or ImageJ metadata state; none if they are not complete."""
    names: list[str] = []
    if tiff.ome_metadata:
        root = ElementTree.fromstring(tiff.ome_metadata)
        image = next((part for part in root.iter() if part.tag.endswith("}Pixels")), root)
        names = [part.get("Name", "") for part in image if part.tag.endswith("}Channel")]
    elif tiff.imagej_metadata:
        labels = tiff.imagej_metadata.get("Labels", [])  # of all planes, the channels of a section first
        if all(label == labels[n % channels] for n, label in enumerate(labels)):
            names = labels[:channels]
    return tuple(names) if channels > 1 and len(names) == channels and all(names) else ()


def _nodata(text: object) -> int | float | None:
    """Return the number in the tag GDAL_NODATA; None if it is absent or not a finite number."""
    text = str(text).strip("\0 ").replace(",", ".")
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        value = float(text)
        return value if math.isfinite(value) else None
    return None


def _page_tags(path: Path) -> dict[int, _Tags]:
    """Return the tags of each page by its offset: integers that are stored in the list of tags itself.

    Raises `InputError` if the list of pages is circular or leaves the file: tifffile may never finish.
    """
    with open(path, "rb") as file:
        head = file.read(16)
        order, version = {b"II": "<", b"MM": ">"}.get(head[:2], ""), head[2:4]
        classic, big = (struct.pack(f"{order}H", number) for number in (42, 43))
        if not order or version not in (classic, big):
            raise InputError(
                f"{path}: not a TIFF file. It is damaged, or its suffix does not match its format. Copy it "
                "again from its source, or rename it."
            )
        # lengths of the number of entries and of one entry; types of the number of entries and of an offset
        lengths, kinds = ((2, 12), ("H", "I")) if version == classic else ((8, 20), ("Q", "Q"))
        at = 4 if version == classic else 8
        pages: dict[int, _Tags] = {}
        while True:
            offset = _number(path, file, at, f"{order}{kinds[1]}", len(pages))
            if not offset:
                return pages
            if offset in pages:
                raise InputError(
                    f"{path}: the file is damaged: its list of pages is circular after page {len(pages)}. "
                    "Copy it again from its source."
                )
            entries = _number(path, file, offset, f"{order}{kinds[0]}", len(pages))
            at = offset + lengths[0] + entries * lengths[1]
            table = file.read(min(entries, _MOST_TAGS) * lengths[1])
            pages[offset] = dict(_integers(table, lengths[1], order, kinds[1]))


def _integers(table: bytes, length: int, order: str, count: str) -> Iterator[tuple[int, int]]:
    """Yield code and value, -1 if it is not one integer, of the tags of a page that are compared."""
    formats = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
    entry = struct.Struct(f"{order}HH{count}")
    for at in range(0, len(table) - length + 1, length):
        code, kind, number = entry.unpack_from(table, at)
        if code in _ALIKE or code == _PAGE_KIND:
            single = number == 1 and kind in formats and not (kind == 16 and length == 12)
            yield code, struct.unpack_from(order + formats[kind], table, at + entry.size)[0] if single else -1


def _number(path: Path, file: BinaryIO, at: int, kind: str, pages: int) -> int:
    """Return the number at byte `at`. Beyond the end, raise `InputError`: tifffile would read other bytes."""
    length = struct.calcsize(kind)
    file.seek(min(at, 2**62))
    data = file.read(length)
    if len(data) < length:
        raise InputError(
            f"{path}: the file is truncated or damaged after page {pages}: its list of pages continues at "
            f"byte {at:,}, beyond the end of the file. Copy it again from its source."
        )
    return struct.unpack(kind, data)[0]


def _require_own_pages(path: Path, tiff: tifffile.TiffFile) -> None:
    """Raise `InputError` if OME metadata name files outside the folder: tifffile would open them."""
    root = ElementTree.fromstring(tiff.ome_metadata or "<OME/>")
    others = (part for part in root.iter() if part.tag.endswith("UUID") and part.text != root.get("UUID"))
    for name in (part.get("FileName", "") for part in others):
        if os.path.basename(name) != name or not (path.parent / name).is_file():
            raise InputError(
                f"{path}: its OME metadata refer to the file {name!r:.100}, which is not in the same folder. "
                "Put all files of the set into one folder, or save the stack as one file."
            )


def _require_no_marks(path: Path, series: tifffile.TiffPageSeries, marked: Sequence[int]) -> None:
    """Raise `InputError` if some pages of a stack are `marked` as a smaller copy or a mask."""
    if not marked or len(marked) == len(series.pages):
        return
    fix = "Save the stack without such pages."
    if (photometric := series.keyframe.photometric) in (*_GRAY_LEVELS, _RGB):
        fix = f"To remove such pages (this overwrites the file):\n{without_marked_pages(path, photometric)}"
    raise InputError(
        f"{path}: page {marked[0]} is marked as a smaller copy or a mask (tag NewSubfileType), but has the "
        f"size and type of the others. Expected only sections. {fix}"
    )


def _require_same_pages(
    path: Path, series: tifffile.TiffPageSeries, tags: dict[int, _Tags], left_out: set[int]
) -> None:
    """Raise `InputError` if tags of a page differ from those of the first: tifffile reads only the latter.

    Pages that are `left_out` are not compared.
    """
    smaller = left_out | {
        page.offset for level in series.levels[1:] for page in level.pages if page is not None
    }
    pages = [(path, number, found) for number, (at, found) in enumerate(tags.items()) if at not in smaller]
    files = {page.parent.filehandle.path for page in series.pages if page} if series.is_multifile else set()
    for file in sorted(map(Path, files)):  # of an OME set
        if file.name != path.name:
            pages += [(file, number, found) for number, found in enumerate(_page_tags(file).values())]
    first: _Tags = {}
    for file, number, found in pages:
        own = {code: found.get(code, default) for code, (_, default) in _ALIKE.items()}
        own[_ROWS_PER_STRIP] = min(own[_ROWS_PER_STRIP], own[_HEIGHT])
        if own[_ORIENTATION] not in ORIENTATIONS:
            raise InputError(
                f"{file}: the tag Orientation is {own[_ORIENTATION]}, which TIFF does not define (1 to 8). "
                f"If row 0 is at the top and column 0 on the left, write 1:\n{set_tag(file, _ORIENTATION, 1)}"
            )
        first = first or own
        code = next((code for code in _ALIKE if own[code] != first[code]), None)
        if code is not None:
            fix = "Save the stack again with the program that made it, uncompressed."
            if code == _ORIENTATION:
                wrong = file if first[code] == 1 else path
                fix = f"If row 0 is at the top and column 0 on the left, write 1:\n{set_tag(wrong, code, 1)}"
            elif code == _PHOTOMETRIC_TAG:
                fix = f"If all pages are like the first, change the tag:\n{set_tag(file, code, first[code])}"
            raise InputError(
                f"{file}: {_ALIKE[code][0]} of page {number} is {own[code]}, but that of the first is "
                f"{first[code]}. All pages of a stack must be stored in the same way. {fix}"
            )
    if first.get(_PHOTOMETRIC_TAG) == _PALETTE:
        _require_same_palette(path, series)


def _require_same_palette(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Raise `InputError` if pages have other palettes: the same value would be another gray level or cell."""
    pages = (page.aspage() for page in series.pages if page is not None)
    palettes = (np.asarray(page.colormap) for page in pages)
    first = next(palettes)
    for number, palette in enumerate(palettes, 1):
        if not np.array_equal(palette, first):
            raise InputError(
                f"{path}: the palette of page {number} differs from that of the first. Expected one palette, "
                "or gray levels or colours without a palette. Save the stack without palettes (Fiji: Image > "
                "Type > RGB Color, or 8-bit for gray levels)."
            )


def _require_stated_pages(
    path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, left_out: int
) -> None:
    """Raise `InputError` if the description of a stack states another number of images than it has pages.

    `left_out` is the number of pages that are not counted.
    """
    if tiff.is_ome and (companion := _COMPANION.search(tiff.ome_metadata or "")):
        raise InputError(
            f"{path}: what its pages are is stated in another file, {companion[1]}, which is not read. "
            "Convert both into one OME-TIFF, for example by Fiji (Plugins > Bio-Formats) or by `bfconvert`."
        )
    key = series.keyframe
    if not math.prod(key.shape):
        return  # damaged, which is reported later
    files = {page.parent for page in series.pages if page} if series.is_multifile else {tiff}
    smaller = sum(len(level.pages) for level in series.levels[1:] if not level.keyframe.is_subifd)
    pages = sum(len(file.pages) for file in files) - smaller - left_out
    images = math.prod(_axes_and_shape(series)[1]) // math.prod(key.shape)
    described = any((tiff.is_shaped, tiff.is_ome, tiff.is_imagej))
    ignored = described and series.kind in ("generic", "uniform")  # tifffile did not understand it
    stated = {images}
    if tiff.is_imagej and series.kind != "ome":
        stated |= _stated_by_imagej(tiff, key)
    one_piece = pages == 1 and series.dataoffset is not None  # the other images follow the first
    if not ignored and (
        (stated == {pages} and (series.is_multifile or all(series.pages))) or (one_piece and len(stated) == 1)
    ):
        return
    comment = (
        (key.description or "") if not tiff.is_ome else " ".join(_SIZES.findall(tiff.ome_metadata or ""))
    )
    description = ""
    if one_piece and not ignored:  # without a description, only the first would be read
        count = max(stated, key=lambda n: (_fits(key, n), n))
        description = f"ImageJ=1.54f\nimages={count}\nslices={count}\n"
    raise InputError(
        f"{path}: the description `{' '.join(comment.split())[:100]}` does not fit its {pages} "
        f"page{'s' * (pages != 1)}. If the file is truncated, copy it again from its source. If its pages "
        f"are right, correct the description:\n{set_description(path, description)}"
    )


def _stated_by_imagej(tiff: tifffile.TiffFile, key: tifffile.TiffPage) -> set[int]:
    """Return the numbers of images that the description of ImageJ states: `images`, and that of its axes."""
    meta = tiff.imagej_metadata or {}
    channels = meta.get("channels", 1)
    if channels in (key.shaped[0], key.shaped[4]):  # the samples of RGB
        channels = 1
    axes = channels * meta.get("slices", 1) * meta.get("frames", 1)
    return ({axes} if axes > 1 else set()) | ({meta["images"]} if "images" in meta else set())


def _fits(key: tifffile.TiffPage, images: int) -> bool:
    """Return whether so many images of plain bytes fit into the file."""
    return key.dataoffsets[0] + images * key.nbytes <= key.parent.filehandle.size


def _require_codec(path: Path, key: tifffile.TiffPage) -> None:
    """Raise `InputError` for a compression whose decoded size is unknown before decoding."""
    if key.compression not in _BOUNDED and key.compression not in _IMAGE_CODECS:
        name = getattr(key.compression, "name", key.compression)
        raise InputError(
            f"{path}: compressed with {name}, expected no compression or deflate, LZW, PackBits, LZMA, "
            f"Zstandard, CCITT, {', '.join(dict.fromkeys(_IMAGE_CODECS.values()))}. Save it uncompressed "
            "(Fiji: File > Save As > Tiff...)."
        )


def _require_segments(path: Path, pages: Sequence[_Page], key: tifffile.TiffPage) -> None:
    """Raise `InputError` if strips or tiles are missing: the file is truncated, or its tables are damaged."""
    sizes = (1, *_segment_shape(key)[:3])
    expected = math.prod(-(-n // size) for n, size in zip(key.shaped, sizes, strict=False))
    plain = math.prod(key.shaped) * cast(np.dtype, key.dtype).itemsize
    for number, page in enumerate(pages):
        offsets, counts, size = page.dataoffsets, page.databytecounts, page.parent.filehandle.size
        if key.is_final:  # the page is read as one piece
            ends = [offsets[0] + plain] if offsets else [2 * size]
        else:
            ends = [offset + count for offset, count in zip(offsets, counts, strict=True)]
            if len(ends) < expected:
                raise InputError(
                    f"{path}: the file is damaged: page {number} lists only {len(ends)} of {expected} strips "
                    "or tiles. Copy it again from its source."
                )
        _require_end(path, max(ends), size)


def _require_end(path: Path, end: int, size: int) -> None:
    """Raise `InputError` if pixels end at byte `end`, beyond the `size` of the file."""
    if end > size:
        raise InputError(
            f"{path}: the file is truncated: its pixels end at byte {end:,}, but the file ends at byte "
            f"{size:,}. Copy it again from its source."
        )


def _places(shape: Sequence[int], shaped: Sequence[int]) -> list[int | None] | None:
    """Return for each axis of `shape` which axis of a page it is.

    The axes of a page are `shaped`: planes, depth, rows, columns, samples. An axis of length 1 gives None. If
    the axes do not match, the whole result is None.
    """
    places: list[int | None] = []
    left = [place for place in range(5) if shaped[place] > 1]
    for length in shape:
        if length > 1 and (not left or shaped[left[0]] != length):
            return None
        places.append(left.pop(0) if length > 1 else None)
    return places


def _segment_shape(key: tifffile.TiffPage) -> tuple[int, int, int, int]:
    """Return depth, rows, columns and samples of a strip or tile."""
    tile = key.tiledepth, key.tilelength, key.tilewidth
    shape = *(tile if key.is_tiled else (1, key.rowsperstrip, key.shaped[3])), key.shaped[4]
    if not all(isinstance(length, int) for length in shape):  # bytes times a number may fill the memory
        kinds = ", ".join(type(length).__name__ for length in shape)
        raise ValueError(f"depth, rows, columns and samples of strips or tiles have the types {kinds}")
    return shape


class _Segments:
    """Read regions of pages from decoded strips and tiles, with a cache.

    Regions are mostly read along a row of blocks. A strip, or a tile that is wider than the region, reaches
    into the next block of the row. It is kept until a region with other rows or to the right of it is read,
    so that it is decoded only once. The cache contains at most `CACHE_BYTES`, or one strip or tile. If it is
    full, further strips and tiles are decoded again for each block.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[range, int, np.ndarray]] = {}
        self._bytes = 0

    def keep_only(self, pages: Sequence[int], rows: range, columns: range) -> None:
        """Remove from the cache what is outside the `rows` of these `pages`, or to the left of `columns`."""
        self._kept = {
            at: (own, end, segment)
            for at, (own, end, segment) in self._kept.items()
            if at[0] in pages and own.start < rows.stop and rows.start < own.stop and end > columns.start
        }
        self._bytes = sum(segment.nbytes for _, _, segment in self._kept.values())

    def read(self, page: _Page, number: int, index: Sequence[slice]) -> np.ndarray:
        """Return `page[index]`, with the axes of `TiffPage.shaped`; `number` is that of the page."""
        key = cast(tifffile.TiffPage, page.keyframe)
        if key.is_final:  # plain bytes
            stored = np.dtype(key.parent.byteorder + cast(np.dtype, key.dtype).char)
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
            if segment is None:  # not stored: keeps the fill value
                continue
            source: list[slice] = []
            target: list[int | slice] = [firsts[0] - spans[0].start]
            for first, span, size in zip(firsts[1:], spans[1:], segment.shape[:3], strict=False):
                start, stop = max(first, span.start), min(first + size, span.stop)
                source.append(slice(start - first, stop - first))
                target.append(slice(start - span.start, stop - span.start))
            region[tuple(target)] = segment[tuple(source)]
        return region[..., index[4]]

    def _segment(
        self, page: _Page, number: int, place: int, first_row: int, end: int, keep: bool
    ) -> np.ndarray | None:
        """Return the strip or tile (depth, rows, columns, samples) at `place`; None if not stored."""
        if (number, place) in self._kept:
            return self._kept[number, place][2]
        offset, length = page.dataoffsets[place], page.databytecounts[place]
        if not offset or not length:
            return None
        key, file = cast(tifffile.TiffPage, page.keyframe), page.parent.filehandle
        if file.closed:  # page in another file of an OME set
            file.open()
        file.seek(offset)
        data = file.read(length)
        if key.compression in _IMAGE_CODECS:
            _require_size(data, key, place)
        jpeg = key.compression in _JPEG
        tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader} if jpeg else {}
        segment = cast(np.ndarray, key.decode(data, place, **tables)[0])
        if keep and (not self._kept or self._bytes + segment.nbytes <= CACHE_BYTES):
            rows = range(first_row, first_row + segment.shape[1])
            self._kept[number, place] = rows, end, segment
            self._bytes += segment.nbytes
        return segment


def _require_size(data: bytes, key: tifffile.TiffPage, place: int) -> None:
    """Raise ValueError if the encoded image in a strip or tile is larger than it: a decompression bomb."""
    kind = _IMAGE_CODECS[key.compression]
    _, rows, columns, _ = _segment_shape(key)
    found = _encoded_size(kind, data)
    if found is None or found[0] > columns or found[1] > max(rows, 1):
        raise ValueError(
            f"{kind} of {found or 'unknown size'} in strip or tile {place} of {columns} x {rows} px"
        )


def _encoded_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """Return width and height (px) in the header of an encoded image; None if it is no such image."""
    if kind == "PNG" and data[12:16] == b"IHDR":
        return struct.unpack(">II", data[16:24])
    if kind == "JPEG 2000":
        at = 0
        while data[at : at + 4] != b"\xff\x4f\xff\x51":  # skip boxes up to the one with the image
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
    """Return a copy of `array[index]` in native byte order, for an array of plain bytes with row axis `y`.

    Every few rows the file is mapped again, because the pages of a mapping count as memory of the process.
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
