"""Read regions of JPEG and BMP files with Pillow. They can only be decoded as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pipeline_lib.imageio.headers import (
    ORIENTATIONS,
    ImageInfo,
    Reader,
    is_inverted,
    require_plausible,
    turned,
)
from pipeline_lib.runtime.errors import InputError

_CHANNELS = {"1": 1, "L": 1, "P": 1, "RGB": 3, "RGBA": 4}  # by mode of Pillow
_STORED = {1: 1, 3: 4, 4: 4}  # bytes in which Pillow keeps a pixel, by number of channels
_ORIENTATION = 274  # tag of EXIF, as in TIFF
_ROWS = 128


@contextmanager
def open_pillow(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of a JPEG or BMP file.

    Values are those that are displayed, in 8 bits; a file of one bit has 0 and 255.
    """
    is_bmp = path.suffix.lower() == ".bmp"
    name = "BMP" if is_bmp else "JPEG"
    try:
        # not `Image.open`, which guesses the format and limits the size; memory is checked by the caller
        image = BmpImageFile(path) if is_bmp else JpegImageFile(path)
    except SyntaxError as error:  # raised by Pillow for another format
        raise InputError(
            f"{path}: not a {name} file. It is damaged, or its suffix does not match its format. "
            "Copy it again from its source, or rename it."
        ) from error
    with image:
        if image.mode not in _CHANNELS:
            raise InputError(
                f"{path}: found values of the kind {image.mode}, expected gray levels, RGB or a palette. "
                "Save it as gray levels or RGB with the program that made it."
            )
        if is_bmp:
            _require_bits(path, image.mode)
        samples, palette = _CHANNELS[image.mode], _palette(image) if image.mode == "P" else ()
        info = ImageInfo(
            channels=min(samples, 3),
            sections=1,
            height=image.height,
            width=image.width,
            dtype=np.dtype(np.uint8),
            axes="YX" if samples == 1 else "YXS",
            white_is_zero=is_inverted(palette),
            rgb=samples >= 3,
            alpha=samples == 4,
            palette=palette,
            smallest_read=image.height * image.width * _STORED[samples],
            lossy=not is_bmp,
        )
        require_plausible(path, info, path.stat().st_size)
        decoded: list[np.ndarray] = []  # filled by the first region, reused by all others

        def read(_: int, rows: slice, columns: slice) -> np.ndarray:
            if not decoded:
                decoded.append(_decoded(image, samples))
            return decoded[0][:, rows, columns].copy()

        orientation = image.getexif().get(_ORIENTATION, 1)
        if orientation == 1 or orientation not in ORIENTATIONS:  # programs show others unturned
            yield info, read
        else:
            yield turned(info, read, orientation)


def _require_bits(path: Path, mode: str) -> None:
    """Raise `InputError` if Pillow would take several pixels for one: it expects 1 or 8 bits of gray."""
    with open(path, "rb") as file:
        header = file.read(30)
    size = int.from_bytes(header[14:18], "little")
    bits = int.from_bytes(header[28:30] if size > 12 else header[24:26], "little")
    if bits != {"1": 1, "L": 8}.get(mode, bits):
        raise InputError(
            f"{path}: found a palette of gray levels for {bits} bits, a kind of BMP that is not read. Save "
            "it as PNG."
        )


def _decoded(image: BmpImageFile | JpegImageFile, samples: int) -> np.ndarray:
    """Return the pixels (c, y, x) of an open file; those of Pillow are freed."""
    pixels = np.empty((image.height, image.width, samples), np.uint8)
    image.load()
    for top in range(0, image.height, _ROWS):  # `np.asarray` of the whole would copy it twice
        band = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
        if band.dtype == bool:
            band = band * np.uint8(255)
        pixels[top : top + _ROWS] = band.reshape(-1, image.width, samples)
    image.close()
    return np.moveaxis(pixels, -1, 0)


def _palette(image: BmpImageFile | JpegImageFile) -> tuple[tuple[int, ...], ...]:
    """Return the colours of a palette."""
    levels = image.getpalette("RGB") or []
    return tuple(zip(levels[::3], levels[1::3], levels[2::3], strict=True))
