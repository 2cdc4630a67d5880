"""Compressed TIFF for Fiji and napari, written a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from pipeline_lib.kernels.blocks import ALIGNMENT
from pipeline_lib.runtime.files import replacing


def write_images(path: str | Path, images: Any, *, provenance: dict[str, Any] | None = None) -> None:
    """Write gray levels `zyx` (uint8, uint16, float32) as compressed TIFF; the rest as in `write_labels`."""
    _write_tiff(path, images, images.dtype, provenance)


def write_labels(path: str | Path, labels: Any, *, provenance: dict[str, Any] | None = None) -> None:
    """Write instance labels `zyx` as compressed TIFF: uint16, or uint32 for labels above 65535.

    `labels` is an array, an HDF5 dataset, or anything with `shape` and `[z, rows, columns]`, read 128 rows at
    a time. It is read once, or once more if there is a label above 65535. `provenance` goes into the
    description of the first page.
    """
    try:
        _write_tiff(path, labels, np.dtype(np.uint16), provenance)
    except _TooLarge:
        _write_tiff(path, labels, np.dtype(np.uint32), provenance)


class _TooLarge(Exception):
    """A label does not fit the type that labels are written as."""


def write_probability(
    path: str | Path, probability: Any, *, provenance: dict[str, Any] | None = None
) -> None:
    """Write a probability map `zyx` as compressed float32 TIFF; the rest as in `write_labels`."""
    _write_tiff(path, probability, np.dtype(np.float32), provenance)


def _bands(stack: Any) -> Iterator[np.ndarray]:
    """The stack in bands over the whole width, (rows, x), as high as the chunks of HDF5 files."""
    sections, height, width = stack.shape
    for z in range(sections):
        for top in range(0, height, ALIGNMENT):
            yield stack[z, top : min(top + ALIGNMENT, height), 0:width]


def _as_type(band: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype == np.uint16 and band.dtype != dtype and band.max() > np.iinfo(dtype).max:
        raise _TooLarge
    return band.astype(dtype, copy=False)


def _write_tiff(path: str | Path, stack: Any, dtype: np.dtype, provenance: dict[str, Any] | None) -> None:
    # Plain pages, zlib, no predictor: what ImageJ's own reader decodes for all of these types. Not ImageJ's
    # hyperstack description: from that, older versions take all pages after the first to be uncompressed.
    # Beyond 4 GiB there is only BigTIFF, which ImageJ opens through Bio-Formats (Fiji has it), not by itself.
    rows = _strip_rows(stack.shape[2] * dtype.itemsize)
    # libdeflate's level 1: as small as zlib's level 6 and 3 to 7 times as fast
    strips = (
        imagecodecs.deflate_encode(np.ascontiguousarray(band[top : top + rows]), level=1)
        for band in map(partial(_as_type, dtype=dtype), _bands(stack))
        for top in range(0, len(band), rows)
    )
    with (
        replacing(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=needs_bigtiff(stack.shape, dtype)) as tiff,
    ):
        tiff.write(
            strips,
            shape=stack.shape,
            dtype=dtype,
            rowsperstrip=rows,
            photometric="minisblack",
            compression="zlib",
            metadata={"axes": "ZYX"} | ({"provenance": provenance} if provenance else {}),
        )


def needs_bigtiff(shape: tuple[int, int, int], dtype: np.dtype) -> bool:
    """Whether a TIFF of this size may pass 4 GiB: pixels that do not compress, and tables."""
    return math.prod(shape) * np.dtype(dtype).itemsize * 1.01 + 2**25 > 2**32


def _strip_rows(row_bytes: int) -> int:
    """Rows of a strip: about 256 KiB, a power of two, so that strips end where bands do."""
    return min(2 ** (max(2**18 // row_bytes, 1).bit_length() - 1), ALIGNMENT)
