"""Read the channels of an image as they are displayed: inverted, with the colours of a palette, opaque."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.fixes import numbered, set_tag, without_alpha, written
from pipeline_lib.imageio.headers import (
    ORIENTATIONS,
    Channels,
    ImageInfo,
    Reader,
    chosen_channels,
    is_coloured,
    sections_hint,
)
from pipeline_lib.imageio.naming import zarr_path
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.kernels.pixelsize import text
from pipeline_lib.runtime.errors import InputError


def displayed(
    path: str | Path, info: ImageInfo, channels: Channels | None, annotation: bool, read: Reader
) -> Reader:
    """Return a reader of channels as they are displayed or, for an annotation, as they are stored.

    Parameters
    ----------
    path : str or Path
        Path of the image, for messages.
    info : ImageInfo
        Its shape and type, see `headers.as_expected`.
    channels : int, sequence of (int or str) or None
        Number of channels, or those to read in this order; None for all. With 1, red, green and blue must be
        equal in each pixel.
    annotation : bool
        Whether values are neither inverted nor looked up in a palette.
    read : callable
        Reader of the file.
    """
    dtype = displayed_type(info)
    alpha = info.alpha and not (annotation and info.palette)
    table = np.array(() if annotation else info.palette, dtype).T
    inverted = info.white_is_zero and not annotation and not info.palette
    chosen = None if channels is None or isinstance(channels, int) else chosen_channels(path, info, channels)
    opacity: list[np.generic] = []  # that of the first pixel

    def read_displayed(z: int, rows: slice, columns: slice) -> np.ndarray:
        region = read(z, rows, columns).astype(dtype, copy=False)
        at = z, rows.start, columns.start
        if info.nodata is not None and not annotation:
            _require_data(path, info.nodata, region, at)
        if table.size:
            if region.max() >= table.shape[1]:
                raise InputError(
                    f"{path}: found the value {region.max()}, but its palette has only {table.shape[1]} "
                    "colours. The file is damaged. Copy it again from its source."
                )
            region = table[:, region[0]]
        if alpha:
            opacity[:] = opacity or [region[-1, 0, 0]]
            _require_constant(path, info, region[-1], opacity[0], at, annotation)
            region = region[:-1]
        if inverted:
            np.subtract(info.highest, region, out=region)
        if chosen is not None:
            return region[chosen]
        if channels == 1 < len(region):
            _require_gray(path, info, region, at, annotation)
            region = region[:1]
        return region

    return read_displayed


def has_colours(read: Reader, sections: Sequence[int], rows: range, width: int) -> bool:
    """Return whether red, green and blue differ in any pixel of some sections and rows."""
    regions = (
        read(z, slice(rows.start + block.read[0].start, rows.start + block.read[0].stop), block.read[1])
        for z in sections
        for block in blocks((len(rows), width), BLOCK)
    )
    return any(bool((region != region[:1]).any()) for region in regions)


def as_numbers(read: Reader) -> Reader:
    """Return a reader of colours (red, green, blue in 8 bits) as one number each, 0xRRGGBB."""

    def read_numbers(z: int, rows: slice, columns: slice) -> np.ndarray:
        red, green, blue = read(z, rows, columns).astype(np.uint32)
        return (red << 16 | green << 8 | blue)[None]

    return read_numbers


def notes(info: ImageInfo, channels: Channels, annotation: bool) -> Iterator[str]:
    """Yield what is inferred from the metadata of an image, for the log."""
    if info.orientation != 1:
        row, column = ORIENTATIONS[info.orientation]
        where = f"row 0 is at the {row}, column 0 at the {column}"
        yield f"turned as its tag Orientation says ({info.orientation}: {where})"
    if info.palette:
        meaning = "labels are the numbers of its colours" if annotation else "its colours are read"
        yield f"has a palette; {meaning}"
    elif info.white_is_zero and not annotation:
        yield "inverted, because 0 is displayed as white"
    if info.alpha and (not info.palette or not annotation):
        yield "transparency is left out; it must be the same in all pixels"
    if annotation and info.nodata == 0:
        yield "the tag GDAL_NODATA states that 0 means no data; it is read as background"
    if info.pixel_size and not annotation:
        yield f"pixel size {text(info.pixel_size)}"
    if info.rgb and channels == 1 and not annotation:
        yield "colours are read as gray levels; red, green and blue must be equal in all pixels"


def displayed_info(info: ImageInfo) -> ImageInfo:
    """Return the info of an image as `displayed` reads all its channels."""
    channels = 3 if is_coloured(info) else info.channels
    plain = replace(info, channels=channels, dtype=displayed_type(info), alpha=False, unspecified=False)
    return replace(plain, white_is_zero=False, palette=(), nodata=None)


def displayed_type(info: ImageInfo) -> np.dtype:
    """Return the type of values that are read."""
    return np.dtype(np.uint8) if info.dtype.kind == "b" else info.dtype


def _first(wrong: np.ndarray, at: tuple[int, int, int]) -> tuple[tuple[int, int], str]:
    """Return where `wrong` (y, x) is first true, as an index and as words; `at` is its first pixel."""
    y, x = np.unravel_index(np.argmax(wrong), wrong.shape)
    return (int(y), int(x)), f"the first in section {at[0]}, row {at[1] + y}, column {at[2] + x}"


def _require_data(path: str | Path, nodata: float, region: np.ndarray, at: tuple[int, int, int]) -> None:
    """Raise `InputError` if a pixel has the value that means "no data".

    `at` are section, row and column of the first pixel.
    """
    if not (wrong := (region == nodata).any(0)).any():
        return
    raise InputError(
        f"{path}: found the value {nodata}, {_first(wrong, at)[1]}, which means no data (tag GDAL_NODATA). "
        "Crop the images, or exclude such sections with the column `sections`. If the value is a gray level, "
        f"remove its meaning:\n{set_tag(path, 42113, 'nan')}"
    )


def _require_constant(
    path: str | Path,
    info: ImageInfo,
    alpha: np.ndarray,
    expected: np.generic,
    at: tuple[int, int, int],
    annotation: bool,
) -> None:
    """Raise `InputError` unless all pixels are equally opaque, so that transparency has no meaning."""
    if not (wrong := alpha != expected).any():
        return
    index, where = _first(wrong, at)
    found = f"{where} ({alpha[index]:g}, but {expected:g} in the first pixel)"
    if info.unspecified:
        channel = "" if annotation else f"If it is a channel, set `dataset.channels: {info.channels + 1}`. "
        raise InputError(
            f"{path}: found an additional sample without a stated meaning that varies, {found}. {channel}"
            f"To remove it ({written(path)}):\n{without_alpha(path, info)}"
        )
    raise InputError(
        f"{path}: found transparency that varies, {found}. What such pixels show depends on the program. "
        f"{sections_hint(path, info)}To keep the stored colours and remove the transparency "
        f"({written(path)}):\n{without_alpha(path, info)}"
    )


def _require_gray(
    path: str | Path, info: ImageInfo, region: np.ndarray, at: tuple[int, int, int], annotation: bool
) -> None:
    """Raise `InputError` if channels differ; `at` are section, row and column of the first pixel."""
    if not (wrong := (region != region[:1]).any(0)).any():
        return
    index, where = _first(wrong, at)
    colour = ", ".join(f"{value:g}" for value in region[:, *index])
    found = f"{path}: found colours (RGB), {where} ({colour}); expected"
    if annotation and zarr_path(path):  # no line can write it
        raise InputError(
            f"{found} one number per pixel. Write it again with the program that made it: 0 for the "
            "background, and one number for each cell."
        )
    if annotation:
        ends = {"black": 0, "white": 1 if info.dtype.kind == "f" else info.highest}
        seen = [name for name, value in ends.items() if (region == value).all(0).any()]
        name = "white" if seen == ["white"] else "black"
        raise InputError(
            f"{found} one number per pixel. {sections_hint(path, info)}If each colour is one cell and {name} "
            f"is background, write numbers ({written(path)}):\n{numbered(path, info, ends[name])}"
        )
    raise InputError(
        f"{found} gray levels. {sections_hint(path, info)}Set `dataset.channels: 3` if all images of the "
        "table have colours, `dataset.channels: [red]` to use one of them, or convert it to grayscale (Fiji: "
        "Image > Type > 8-bit, then File > Save As > Tiff...)."
    )
