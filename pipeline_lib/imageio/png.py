"""Read regions of PNG files. PNG can only be decoded as a whole."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from pipeline_lib.imageio.fixes import frames_as_tiff
from pipeline_lib.imageio.headers import ImageInfo, Reader, is_inverted, require_plausible
from pipeline_lib.imageio.pixelsize import of_png
from pipeline_lib.runtime.errors import InputError

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # samples per pixel by colour type
_PALETTE = 3  # colour type
_WITH_ALPHA = (4, 6)  # colour types


class _Chunk(NamedTuple):
    """A part of a PNG file: kind, position of the first and number of its bytes, without the frame of 12."""

    kind: bytes
    at: int
    length: int


@contextmanager
def open_png(path: Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of a PNG file."""
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
        chunks = _chunks(path, file)
        colours, transparent = (_content(file, chunks, kind) for kind in (b"PLTE", b"tRNS"))
        frames = _content(file, chunks, b"acTL")[:4]
        stated = of_png(_content(file, chunks, b"pHYs"))
    width, height, bits, colour_type = struct.unpack(">IIBB", header[16:26])
    if colour_type not in _SAMPLES:
        raise InputError(
            f"{path}: found colour type {colour_type}, which PNG does not define. The file is damaged. Copy "
            "it again from its source."
        )
    if int.from_bytes(frames, "big") > 1:
        raise InputError(
            f"{path}: found an animation of {int.from_bytes(frames, 'big')} images, expected one. Save its "
            f"images as sections of a TIFF file, and name that:\n{frames_as_tiff(path)}"
        )
    samples = _SAMPLES[colour_type] + bool(transparent and colour_type != _PALETTE)  # the decoder adds alpha
    alpha = colour_type in _WITH_ALPHA or bool(transparent)
    dtype = np.dtype(np.uint16 if bits == 16 else np.uint8)
    axes = "YX" if samples == 1 else "YXS"
    info = ImageInfo(
        samples, 1, height, width, dtype, axes, smallest_read=height * width * samples * dtype.itemsize
    )
    require_plausible(path, info, path.stat().st_size)
    palette = _palette(colours, transparent) if colour_type == _PALETTE else ()
    if colour_type == _PALETTE and not palette:
        raise InputError(
            f"{path}: the file is damaged: its palette is missing. Copy it again from its source."
        )
    decoded: list[np.ndarray] = []  # filled by the first region, reused by all others

    def read(_: int, rows: slice, columns: slice) -> np.ndarray:
        if not decoded:
            image = np.empty((height, width, samples)[: len(axes)], dtype)
            data = _as_gray(path, chunks) if palette else path.read_bytes()
            try:
                imagecodecs.png_decode(data, out=image)
            except imagecodecs.PngError:
                image.resize(0, refcheck=False)  # free it: imagecodecs keeps a reference
                raise
            if palette:
                image //= 255 // (2**bits - 1)  # numbers of colours; the decoder scales gray levels to 8 bits
            decoded.append(np.moveaxis(image.reshape(height, width, samples), -1, 0))
        return decoded[0][:, rows, columns].copy()

    yield (
        replace(
            info,
            channels=samples - (alpha and not palette),
            rgb=samples >= 3,
            alpha=alpha,
            palette=palette,
            white_is_zero=is_inverted(palette),
            pixel_size=stated.pixel_size,
        ),
        read,
    )


def _chunks(path: Path, file: BinaryIO) -> list[_Chunk]:
    """Return the chunks; raise `InputError` unless they reach the one that ends a PNG."""
    chunks = []
    at, size = 8, os.fstat(file.fileno()).st_size
    while at + 12 <= size:
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        chunks.append(_Chunk(kind, at + 8, length))
        at += 12 + length
        if kind == b"IEND" and at <= size:
            return chunks
    raise InputError(f"{path}: the file is truncated: its end is missing. Copy it again from its source.")


def _content(file: BinaryIO, chunks: list[_Chunk], kind: bytes) -> bytes:
    """Return the bytes of the first chunk of a kind, at most 768; no bytes if there is none."""
    chunk = next((chunk for chunk in chunks if chunk.kind == kind), None)
    if chunk is None:
        return b""
    file.seek(chunk.at)
    return file.read(min(chunk.length, 768))


def _palette(colours: bytes, opacities: bytes) -> tuple[tuple[int, ...], ...]:
    """Return the colours of a palette with their opacity, if that of any is stored."""
    entries = zip(colours[::3], colours[1::3], colours[2::3], strict=False)
    if not opacities:
        return tuple(entries)
    return tuple(
        (*colour, opacity) for colour, opacity in zip(entries, opacities.ljust(256, b"\xff"), strict=False)
    )


def _as_gray(path: Path, chunks: list[_Chunk]) -> bytes:
    """Return the file as one of gray levels: the decoder returns them, but not the numbers of colours."""
    data = path.read_bytes()
    header = b"IHDR" + data[16:25] + b"\0" + data[26:29]
    kept = [data[:12] + header + zlib.crc32(header).to_bytes(4, "big")]
    kept += [data[at - 8 : at + length + 4] for kind, at, length in chunks if kind in (b"IDAT", b"IEND")]
    return b"".join(kept)
