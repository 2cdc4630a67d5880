"""Write compressed TIFF files for Fiji and napari, a few rows at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import imagecodecs
import numpy as np
import tifffile

from pipeline_lib.kernels.blocks import ALIGNMENT
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json, Stored


def write_images(path: str | Path, images: Stored, *, provenance: Json | None = None) -> None:
    """Write gray levels as compressed TIFF.

    The file opens in Fiji and napari. It is BigTIFF if it may be larger than 4 GiB.

    Parameters
    ----------
    path : str or Path
        File to write. It replaces an existing file only when it is complete.
    images : (z, y, x) array_like
        Gray levels: uint8, uint16 or float32. Array, HDF5 dataset, or any object with `shape`, `dtype` and
        `[z, rows, columns]`. 128 rows are read at a time.
    provenance : dict, optional
        Record of how the file was made, stored as JSON in the description of the first page.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    _write_tiff(path, images, images.dtype, provenance)


def write_labels(path: str | Path, labels: Stored, *, provenance: Json | None = None) -> None:
    """Write instance labels as compressed TIFF.

    The file opens in Fiji and napari. It is BigTIFF if it may be larger than 4 GiB.

    Parameters
    ----------
    path : str or Path
        File to write. It replaces an existing file only when it is complete.
    labels : (z, y, x) array_like
        Instance labels, 0 = background. They are written as uint16, or as uint32 if a label is above 65535.
        Array, HDF5 dataset, or any object with `shape` and `[z, rows, columns]`. 128 rows are read at a time.
        All are read once, and again from the start if a label above 65535 is found.
    provenance : dict, optional
        Record of how the file was made, stored as JSON in the description of the first page.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    try:
        _write_tiff(path, labels, np.dtype(np.uint16), provenance)
    except _TooLarge:
        _write_tiff(path, labels, np.dtype(np.uint32), provenance)


class _TooLarge(Exception):
    """A label does not fit into uint16."""


def write_probability(path: str | Path, probability: Stored, *, provenance: Json | None = None) -> None:
    """Write a probability map as compressed TIFF.

    The file opens in Fiji and napari. It is BigTIFF if it may be larger than 4 GiB.

    Parameters
    ----------
    path : str or Path
        File to write. It replaces an existing file only when it is complete.
    probability : (z, y, x) array_like
        Probabilities, written as float32. Array, HDF5 dataset, or any object with `shape` and
        `[z, rows, columns]`. 128 rows are read at a time.
    provenance : dict, optional
        Record of how the file was made, stored as JSON in the description of the first page.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    _write_tiff(path, probability, np.dtype(np.float32), provenance)


def _bands(stack: Stored) -> Iterator[np.ndarray]:
    """Yield bands of the full width (rows, x), as high as the chunks of HDF5 files."""
    sections, height, width = stack.shape
    for z in range(sections):
        for top in range(0, height, ALIGNMENT):
            yield stack[z, top : min(top + ALIGNMENT, height), 0:width]


def _as_type(band: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Convert a band of rows; raise `_TooLarge` if a value does not fit into uint16."""
    if dtype == np.uint16 and band.dtype != dtype and band.max() > np.iinfo(dtype).max:
        raise _TooLarge
    return band.astype(dtype, copy=False)


def _write_tiff(path: str | Path, stack: Stored, dtype: np.dtype, provenance: Json | None) -> None:
    """Write a stack (z, y, x) as TIFF with values of type `dtype`."""
    # Plain pages with zlib and no predictor: ImageJ's own reader decodes them for all of these types.
    # ImageJ's hyperstack description is not written: with it, older versions of ImageJ read all pages after
    # the first as uncompressed. Above 4 GiB only BigTIFF is possible, which ImageJ opens with Bio-Formats
    # (part of Fiji).
    rows = _strip_rows(stack.shape[2] * dtype.itemsize)
    strips = (
        _deflated(band[top : top + rows])
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


def _deflated(rows: np.ndarray) -> bytes:
    """Compress rows with libdeflate's level 1: as small as zlib's level 6, and 3 to 7 times as fast."""
    buffer = cast(bytes, np.ascontiguousarray(rows))  # any buffer will do
    return cast(bytes, imagecodecs.deflate_encode(buffer, level=1))


def needs_bigtiff(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Return whether a TIFF of this size may exceed 4 GiB if its pixels do not compress."""
    return math.prod(shape) * np.dtype(dtype).itemsize * 1.01 + 2**25 > 2**32


def _strip_rows(row_bytes: int) -> int:
    """Return the rows of a strip of about 256 KiB: a power of two, so that strips end where bands do."""
    return min(2 ** (max(2**18 // row_bytes, 1).bit_length() - 1), ALIGNMENT)
