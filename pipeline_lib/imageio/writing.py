"""Write compressed TIFF files for Fiji and napari, a few rows at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import imagecodecs
import numpy as np
import tifffile

from pipeline_lib.imageio.pixelsize import Scale
from pipeline_lib.kernels.blocks import ALIGNMENT
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json, Stored

_IMAGEJ_TYPES = (np.uint8, np.uint16, np.float32)  # of images that ImageJ's description can describe
_HIGHEST = b"@" * 16  # in a description, until the largest value is known
_SEARCHED = 2**20  # bytes; the description is before the pixels


def write_images(
    path: str | Path,
    images: Stored,
    *,
    provenance: Json | None = None,
    pixel_size: PixelSize | None = None,
    section_spacing: float | None = None,
    frame_interval: float | None = None,
) -> None:
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
    pixel_size : tuple of float, optional
        Height and width of a pixel (um), for Fiji, ImageJ and other programs.
    section_spacing : float, optional
        Distance between neighbouring sections (um). It is written only together with `pixel_size`.
    frame_interval : float, optional
        If sections are the frames of a time series: time between frames (s), 0 if it is not known.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    _write_tiff(path, images, images.dtype, provenance, Scale(pixel_size, section_spacing, frame_interval))


def write_channels(path: str | Path, image: np.ndarray, *, pixel_size: PixelSize | None = None) -> None:
    """Write the channels of a section as compressed TIFF that Fiji and napari open.

    Parameters
    ----------
    path : str or Path
        File to write. It replaces an existing file only when it is complete.
    image : (c, y, x) array
        Gray levels.
    pixel_size : tuple of float, optional
        Height and width of a pixel (um).

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    scale = Scale(pixel_size)
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            compression="zlib",
            photometric="minisblack",
            metadata={"axes": "CYX"} | _own(scale),
            **_resolution(scale, False),
        )


def write_classes(
    path: str | Path,
    classes: Stored,
    *,
    names: Sequence[str],
    colours: Sequence[str],
    provenance: Json | None = None,
    pixel_size: PixelSize | None = None,
    section_spacing: float | None = None,
    frame_interval: float | None = None,
) -> None:
    """Write the numbers of classes as compressed TIFF with a palette, in which Fiji shows them in colours.

    The values are the numbers. Libraries such as tifffile, and napari, read them and ignore the palette. The
    names are in the description of the first page ("Image > Show Info" in Fiji).

    Parameters
    ----------
    path : str or Path
        File to write. It replaces an existing file only when it is complete.
    classes : (z, y, x) array_like
        Number of the class of each pixel, uint8. Array, HDF5 dataset, or any object with `shape`, `dtype` and
        `[z, rows, columns]`. 128 rows are read at a time.
    names : sequence of str
        Name of each class.
    colours : sequence of str
        Colour of each class, such as "#56b4e9".
    provenance : dict, optional
        Record of how the file was made, stored as JSON in the description of the first page.
    pixel_size : tuple of float, optional
        Height and width of a pixel (um), for Fiji, ImageJ and other programs.
    section_spacing : float, optional
        Distance between neighbouring sections (um). It is written only together with `pixel_size`.
    frame_interval : float, optional
        If sections are the frames of a time series: time between frames (s), 0 if it is not known.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    palette = np.zeros((3, 256), np.uint16)
    for number, colour in enumerate(colours):
        palette[:, number] = [part * 257 for part in bytes.fromhex(colour.removeprefix("#"))]
    described = [
        f"{number} {name} {colour}" for number, (name, colour) in enumerate(zip(names, colours, strict=True))
    ]
    shown = _Palette(palette, ", ".join(described))
    scale = Scale(pixel_size, section_spacing, frame_interval)
    # a display range of 0 to 255 makes ImageJ take each colour by its number
    _write_tiff(path, classes, np.dtype(np.uint8), provenance, scale, 255.0, shown)


class _Palette(NamedTuple):
    """Colours of the values 0 to 255, (3, 256) uint16, and what the values mean."""

    colours: np.ndarray
    classes: str


def write_labels(
    path: str | Path,
    labels: Stored,
    *,
    provenance: Json | None = None,
    pixel_size: PixelSize | None = None,
    section_spacing: float | None = None,
    frame_interval: float | None = None,
) -> None:
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
    pixel_size : tuple of float, optional
        Height and width of a pixel (um), for Fiji, ImageJ and other programs.
    section_spacing : float, optional
        Distance between neighbouring sections (um). It is written only together with `pixel_size`.
    frame_interval : float, optional
        If sections are the frames of a time series: time between frames (s), 0 if it is not known.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    scale = Scale(pixel_size, section_spacing, frame_interval)
    try:
        _write_tiff(path, labels, np.dtype(np.uint16), provenance, scale)
    except _TooLarge:
        _write_tiff(path, labels, np.dtype(np.uint32), provenance, scale)


class _TooLarge(Exception):
    """A label does not fit into uint16."""


def write_probability(
    path: str | Path,
    probability: Stored,
    *,
    provenance: Json | None = None,
    pixel_size: PixelSize | None = None,
    section_spacing: float | None = None,
    frame_interval: float | None = None,
    highest: float = 1.0,
) -> None:
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
    pixel_size : tuple of float, optional
        Height and width of a pixel (um), for Fiji, ImageJ and other programs.
    section_spacing : float, optional
        Distance between neighbouring sections (um). It is written only together with `pixel_size`.
    frame_interval : float, optional
        If sections are the frames of a time series: time between frames (s), 0 if it is not known.
    highest : float, default 1.0
        ImageJ shows this value as white.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.
    """
    scale = Scale(pixel_size, section_spacing, frame_interval)
    _write_tiff(path, probability, np.dtype(np.float32), provenance, scale, highest)


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


def _write_tiff(
    path: str | Path,
    stack: Stored,
    dtype: np.dtype,
    provenance: Json | None,
    scale: Scale,
    highest: float = 0.0,
    palette: _Palette | None = None,
) -> None:
    """Write a stack (z, y, x) as TIFF with values of type `dtype`; ImageJ shows values up to `highest`.

    If a value is larger, ImageJ shows values up to that.
    """
    # Plain pages with zlib and no predictor: ImageJ's own reader decodes them for all of these types. Above
    # 4 GiB only BigTIFF is possible, which ImageJ opens with Bio-Formats (part of Fiji).
    rows = _strip_rows(stack.shape[2] * dtype.itemsize)
    bigtiff = needs_bigtiff(stack.shape, dtype)

    def bands() -> Iterator[np.ndarray]:
        nonlocal highest
        for band in map(partial(_as_type, dtype=dtype), _bands(stack)):
            highest = max(highest, float(band.max()))
            yield band

    strips = (_deflated(band[top : top + rows]) for band in bands() for top in range(0, len(band), rows))
    own = {"classes": palette.classes} if palette else {}
    axes = "ZYX" if scale.frame_interval is None else "TYX"
    described = b""
    if dtype in _IMAGEJ_TYPES and not bigtiff:
        described = _imagej(stack.shape, scale, provenance, own)
    with replacing(path) as temporary:
        with tifffile.TiffWriter(temporary, bigtiff=bigtiff) as tiff:
            tiff.write(
                strips,
                shape=stack.shape,
                dtype=dtype,
                rowsperstrip=rows,
                photometric="palette" if palette else "minisblack",
                colormap=palette.colours if palette else None,
                compression="zlib",
                **(
                    {"description": described, "metadata": None}
                    if described
                    else {"metadata": {"axes": axes} | own | _own(scale) | _if_any(provenance=provenance)}
                ),
                **_resolution(scale, bool(described)),
            )
        if described:
            _replace(temporary, _HIGHEST, f"{highest:.9g}".rjust(len(_HIGHEST)).encode())


def _imagej(shape: tuple[int, ...], scale: Scale, provenance: Json | None, own: Mapping[str, str]) -> bytes:
    """Return a description for ImageJ, in which the largest value is not yet known; b"" without a scale.

    Without a scale the description is tifffile's. Old versions of ImageJ read all pages after the first of a
    compressed stack with ImageJ's own description as uncompressed; version 1.52 does not.
    """
    if scale.pixel_size is None:
        return b""
    sections = "slices" if scale.frame_interval is None else "frames"
    lines = ["ImageJ=1.54f", f"images={shape[0]}", f"{sections}={shape[0]}", "unit=um", "loop=false"]
    lines += [f"finterval={scale.frame_interval!r}"] if scale.frame_interval else []
    lines += [f"spacing={scale.section_spacing!r}"] if scale.section_spacing else []
    lines += ["min=0.0", f"max={_HIGHEST.decode()}"]  # without them, ImageJ shows the range of one section
    lines += [f"{name}={text}" for name, text in own.items()]
    lines += [f"provenance={json.dumps(provenance)}"] if provenance else []
    return "".join(f"{line}\n" for line in lines).encode("ascii", "backslashreplace")


def _own(scale: Scale) -> Json:
    """Return the scale as entries of tifffile's description, which `imageio.pixel_size` reads."""
    return _if_any(
        pixel_size=scale.pixel_size,
        section_spacing=scale.pixel_size and scale.section_spacing,
        frame_interval=scale.frame_interval,
    )


def _if_any(**entries: object) -> Json:
    return {name: value for name, value in entries.items() if value}


def _resolution(scale: Scale, imagej: bool) -> Json:
    """Return the tags of the resolution: pixels per cm, or per unit of ImageJ's description, which is um."""
    if scale.pixel_size is None:
        return {}
    y, x = scale.pixel_size
    per = 1 if imagej else 10_000
    return {"resolution": (per / x, per / y), "resolutionunit": "NONE" if imagej else "CENTIMETER"}


def _replace(path: Path, old: bytes, new: bytes) -> None:
    """Replace bytes near the start of a file by as many others."""
    with open(path, "r+b") as file:
        file.seek(file.read(_SEARCHED).index(old))
        file.write(new)


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
