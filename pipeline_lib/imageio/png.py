"""Read regions of PNG files. PNG can only be decoded as a whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np

from pipeline_lib.imageio.headers import ImageInfo, Reader, require_plausible
from pipeline_lib.runtime.errors import InputError

_CHANNELS = {0: (1, "YX"), 2: (3, "YXS"), 6: (4, "YXS")}  # by colour type
_OTHER_COLOURS = {3: "indexed colours", 4: "gray levels with transparency"}


@contextmanager
def open_png(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of a PNG file with gray levels or colours."""
    with open(path, "rb") as file:
        header = file.read(33)
        if header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR" or len(header) < 33:
            raise InputError(
                f"{path}: not a PNG file. It is damaged, or its suffix does not match its format. Copy it "
                "again from its source, or rename it."
            )
        if zlib.crc32(header[12:29]) != int.from_bytes(header[29:33], "big"):
            raise InputError(
                f"{path}: the header is damaged (wrong checksum). Copy the file again from its source."
            )
        _require_end(path, file)
    width, height, bits, colour_type = struct.unpack(">IIBB", header[16:26])
    if colour_type not in _CHANNELS | _OTHER_COLOURS:
        raise InputError(
            f"{path}: found colour type {colour_type}, which PNG does not define. The file is damaged. Copy "
            "it again from its source."
        )
    if colour_type in _OTHER_COLOURS:
        raise InputError(
            f"{path}: found {_OTHER_COLOURS[colour_type]}, expected gray levels. Convert it to grayscale "
            "(Fiji: Image > Type > 8-bit, then File > Save As > Tiff...)."
        )
    channels, axes = _CHANNELS[colour_type]
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    decoded_bytes = height * width * channels * dtype.itemsize
    info = ImageInfo(channels, 1, height, width, dtype, axes, smallest_read=decoded_bytes)
    require_plausible(path, info, path.stat().st_size)
    decoded: list[np.ndarray] = []  # filled by the first region, reused by all others

    def read(_: int, rows: slice, columns: slice) -> np.ndarray:
        if not decoded:
            image = np.empty((height, width, channels)[: len(axes)], dtype)
            try:
                imagecodecs.png_decode(path.read_bytes(), out=image)
            except imagecodecs.PngError:
                image.resize(0, refcheck=False)  # free it: imagecodecs keeps a reference
                raise
            decoded.append(np.moveaxis(image.reshape(height, width, channels), -1, 0))
        return decoded[0][:, rows, columns].copy()

    yield info, read


def _require_end(path: Path, file: BinaryIO) -> None:
    """Raise `InputError` unless the chain of chunks reaches the one that ends a PNG."""
    at, size = 8, os.fstat(file.fileno()).st_size
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        at += 12 + length
        if kind == b"IEND" and at <= size:
            return
    raise InputError(f"{path}: the file is truncated: its end is missing. Copy it again from its source.")
