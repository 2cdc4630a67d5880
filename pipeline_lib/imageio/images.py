"""Read raw images, as regions or as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.formats import errors_explained, open_file
from pipeline_lib.imageio.headers import (
    ImageInfo,
    Reader,
    machine_memory,
    require_channels,
    require_memory,
    require_whole,
)
from pipeline_lib.imageio.naming import parse_sections
from pipeline_lib.imageio.stored import stored_sections
from pipeline_lib.runtime.errors import InputError


@dataclass(frozen=True)
class Images:
    """Selected sections of an open image; `open_images` creates it.

    Read blocks that lie in the same rows one after the other: strips, tiles and chunks that they share are
    then decoded once. At most 256 MiB of decoded data are kept for this, or one strip, tile or PNG if that is
    larger.

    Parameters
    ----------
    path : str or Path
        Path of the image, for messages.
    info : ImageInfo
        Shape and type of the whole image.
    numbers : list of int
        Numbers of the selected sections in the file, ascending; the first section of a file is 0.
    inverted : bool
        Whether values are inverted when read (`WhiteIsZero`).
    scale : float or None
        Factor by which values are multiplied when read; None to keep them.
    decode : callable
        Region reader of the file.
    """

    path: str | Path
    info: ImageInfo
    numbers: list[int]
    inverted: bool
    scale: float | None
    decode: Reader = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes `czyx`; z counts the selected sections."""
        return self.info.channels, len(self.numbers), self.info.height, self.info.width

    @property
    def dtype(self) -> np.dtype:
        """Type of the values as they are read: that of the file in native byte order, uint8 for bool.

        With a `scale` it is float32.
        """
        return np.dtype(np.float32) if self.scale else self._stored_dtype

    @property
    def _stored_dtype(self) -> np.dtype:
        return np.dtype(np.uint8) if self.info.dtype.kind == "b" else self.info.dtype

    def read(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """Return a region of one section.

        Parameters
        ----------
        z : int
            Index of the section among the selected sections.
        rows, columns : slice
            Rows and columns of the region, as for indexing an array, without step.

        Returns
        -------
        (c, y, x) array
            Gray levels of type `dtype`.

        Raises
        ------
        InputError
            If the file is damaged or a value is NaN or infinite.
        """
        rows, columns = (
            slice(*part.indices(n)[:2]) for part, n in zip((rows, columns), self.shape[2:], strict=True)
        )
        region = self.read_unchecked(z, rows, columns)
        require_finite(self.path, region[:, None], [self.numbers[z]], rows.start, columns.start)
        return region

    def read_unchecked(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """Return a region of one section without a check for NaN and infinity.

        Parameters
        ----------
        z : int
            Index of the section among the selected sections.
        rows, columns : slice
            Rows and columns of the region; both need start and stop.

        Returns
        -------
        (c, y, x) array
            Gray levels of type `dtype`.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        region = self.decode(self.numbers[z], rows, columns).astype(self._stored_dtype, copy=False)
        if self.inverted:
            np.subtract(np.iinfo(region.dtype).max, region, out=region)
        return (region * np.float64(self.scale)).astype(np.float32) if self.scale else region


@contextmanager
def open_images(
    path: str | Path, *, sections: str | None = None, channels: int = 1, scale: float | None = None
) -> Iterator[Images]:
    """Open an image to read regions of it. Context manager.

    Images stored with `WhiteIsZero` are inverted, so that high values are always bright.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder or pattern of PNG or TIFF slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    channels : int, default 1
        Expected number of channels.
    scale : float, optional
        Factor by which gray levels are multiplied. They are then read as float32.

    Yields
    ------
    Images
        The selected sections. They can be read inside the `with` statement.

    Raises
    ------
    InputError
        If the file is missing, damaged or of an unknown format, its axes are ambiguous, the number of
        channels differs (RGB), a selected section does not exist, or a part of the file that must be decoded
        at once does not fit into the memory of this machine.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio import open_images, write_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "stack.tif")
    ...     write_images(path, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    ...     with open_images(path, sections="1") as images:
    ...         print(images.shape, images.read(0, slice(0, 2), slice(0, 3)))
    (1, 1, 3, 4) [[[12 13 14]
      [16 17 18]]]
    """
    with open_chosen(path, sections, channels, scale=scale) as images:
        yield images


@contextmanager
def open_chosen(
    path: str | Path,
    sections: str | None,
    channels: int,
    *,
    annotation: bool = False,
    scale: float | None = None,
    slices: Sequence[Path | None] | None = None,
) -> Iterator[Images]:
    """Open as `open_images`; values of an `annotation` are not inverted, and messages fit an annotation.

    `slices` are read instead of all slices of a folder, as returned by `matching_slices`.
    """
    with open_file(path, slices=slices) as (info, decode):
        require_memory(path, info, machine_memory() / 1e9)
        require_channels(path, info, channels, decode, annotation=annotation)
        try:
            numbers = parse_sections(sections, info.sections)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        yield Images(path, info, numbers, info.white_is_zero and not annotation, scale, decode)


def read_images(path: str | Path, *, sections: str | None = None, channels: int = 1) -> np.ndarray:
    """Read an image as a whole.

    The pixels of the file can be integers or floats of any width, or bool. Images stored with `WhiteIsZero`
    are inverted, so that high values are always bright.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder or pattern of PNG or TIFF slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    channels : int, default 1
        Expected number of channels.

    Returns
    -------
    (c, z, y, x) array
        Gray levels in the type of the file, bool as uint8.

    Raises
    ------
    InputError
        As `open_images` and `Images.read`, and if the sections do not fit into the memory of this machine.

    Examples
    --------
    >>> from pipeline_lib.imageio import read_images
    >>> images = read_images("stack.tif", sections="0-3,8")  # doctest: +SKIP
    """
    with open_images(path, sections=sections, channels=channels) as images:
        require_whole(path, images.info, math.prod(images.shape) * images.dtype.itemsize)
        array = np.empty(images.shape, images.dtype)
        for z in range(len(images.numbers)):
            array[:, z] = images.read_unchecked(z, slice(0, images.shape[2]), slice(0, images.shape[3]))
        require_finite(path, array, images.numbers)
        return array


def inspect(path: str | Path) -> ImageInfo:
    """Return shape and type of an image or annotation from its headers, without reading pixels.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder or pattern of PNG or TIFF slices, or `file.h5:/dataset`. The headers of all
        slices of a folder are read.

    Returns
    -------
    ImageInfo
        Shape and type.

    Raises
    ------
    InputError
        If the file is missing, damaged or of an unknown format, its axes are ambiguous, or the slices of a
        folder differ in shape or type.
    """
    with open_file(path, every_slice=True) as (info, _), errors_explained(path):
        return replace(info, stored=stored_sections(path, info))


def require_finite(
    path: str | Path, array: np.ndarray, numbers: Sequence[int], row: int = 0, column: int = 0
) -> None:
    """Raise `InputError` if `array` (c, z, y, x) contains NaN or infinity.

    For the message, `numbers` are the numbers of its sections in the file, and `row` and `column` are the
    position of its first pixel in a section.
    """
    if array.dtype.kind != "f":
        return
    bad, first = 0, None
    for z, number in enumerate(numbers):
        finite = np.isfinite(array[:, z])
        if not finite.all():
            bad += int(np.count_nonzero(~finite))
            _, y, x = np.argwhere(~finite)[0]
            first = first or (number, row + y, column + x)
    if first:
        raise InputError(
            "{}: {} value{} NaN or infinite, the first in section {}, row {}, column {}. Replace such values "
            "(numpy.nan_to_num), or exclude their sections with the column `sections` of the table of "
            "volumes.".format(path, bad, "s are" if bad > 1 else " is", *first)
        )
