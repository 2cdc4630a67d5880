"""Read raw images, as regions or as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.display import as_numbers, displayed, displayed_type, has_colours, notes
from pipeline_lib.imageio.formats import errors_explained, open_file
from pipeline_lib.imageio.headers import (
    Channels,
    ImageInfo,
    Reader,
    as_expected,
    machine_memory,
    number_of,
    require_channels,
    require_memory,
    require_whole,
)
from pipeline_lib.imageio.naming import parse_sections, row_range
from pipeline_lib.imageio.stored import stored_sections
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger


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
        Shape and type of the whole image; its height is the number of selected rows.
    numbers : list of int
        Numbers of the selected sections in the file, ascending; the first section of a file is 0.
    channels : int
        Number of channels that are read.
    offset, scale : float or None
        Number that is subtracted from values when they are read, and factor by which they are then
        multiplied; None to keep them.
    decode : callable
        Reader of regions with this number of channels.
    first_row : int, default 0
        Number of the first selected row in the file.
    """

    path: str | Path
    info: ImageInfo
    numbers: list[int]
    channels: int
    offset: float | None
    scale: float | None
    decode: Reader = field(repr=False)
    first_row: int = 0

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes `czyx`; z counts the selected sections."""
        return self.channels, len(self.numbers), self.info.height, self.info.width

    @property
    def dtype(self) -> np.dtype:
        """Type of the values as they are read: that of the file in native byte order, uint8 for bool.

        With a `scale` it is float32.
        """
        return np.dtype(np.float32) if self.scale is not None else displayed_type(self.info)

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
            If the file is damaged, a value is NaN or infinite, transparency is not the same in all pixels, or
            one channel is expected and red, green and blue of a pixel differ.
        """
        rows, columns = (
            slice(*part.indices(n)[:2]) for part, n in zip((rows, columns), self.shape[2:], strict=True)
        )
        region = self.read_unchecked(z, rows, columns)
        require_finite(
            self.path, region[:, None], [self.numbers[z]], self.first_row + rows.start, columns.start
        )
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
            As `read`, except for NaN and infinity.
        """
        rows = slice(self.first_row + rows.start, self.first_row + rows.stop)
        region = self.decode(self.numbers[z], rows, columns)
        if self.scale is None:
            return region
        return ((region - np.float64(self.offset or 0)) * self.scale).astype(np.float32)


@contextmanager
def open_images(
    path: str | Path,
    *,
    sections: str | None = None,
    rows: str | None = None,
    channels: Channels = 1,
    offset: float | None = None,
    scale: float | None = None,
) -> Iterator[Images]:
    """Open an image to read regions of it. Context manager.

    Images are read as they are displayed: those stored with `WhiteIsZero` are inverted, so that high values
    are bright; a TIFF is turned as its tag `Orientation` says; a palette gives gray levels or colours.
    Transparency is left out, and must be the same in all pixels. Where one channel is expected, colours (RGB)
    are read as gray levels, and must be equal in each pixel.

    Parameters
    ----------
    path : str or Path
        Image file, folder or pattern of slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    rows : str, optional
        Selected rows, for instance `0-255`; all by default.
    channels : int or sequence of (int or str), default 1
        Expected number of channels; or the channels to read, by number (the first is 0) or by the name that
        the file states.
    offset : float, optional
        Gray level that becomes 0: it is subtracted before the multiplication by `scale`, which is then 1 by
        default.
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
        channels differs, a selected section does not exist, or a part of the file that must be decoded at
        once does not fit into the memory of this machine.

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
    with open_chosen(path, sections, channels, rows=rows, offset=offset, scale=scale) as images:
        yield images


@contextmanager
def open_chosen(
    path: str | Path,
    sections: str | None,
    channels: Channels,
    *,
    rows: str | None = None,
    annotation: bool = False,
    offset: float | None = None,
    scale: float | None = None,
    slices: Sequence[Path | None] | None = None,
    colours: bool = False,
) -> Iterator[Images]:
    """Open as `open_images`. Values of an `annotation` are neither inverted nor looked up in a palette.

    `slices` are read instead of all slices of a folder, as returned by `matching_slices`. With `colours`, an
    annotation of colours (8 bits) is read as their numbers, 0xRRGGBB.
    """
    with open_file(path, slices=slices) as (info, read):
        require_memory(path, info, machine_memory() / 1e9)
        require_channels(path, info, channels, annotation=annotation)
        info = as_expected(info, channels)
        try:
            numbers = parse_sections(sections, info.sections)
            chosen = row_range(rows, info.height) or range(info.height)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        for note in notes(info, channels, annotation):
            logger.info("%s: %s", path, note)
        if offset is not None and scale is None:
            scale = 1.0
        if scale is not None and not 0 < scale < math.inf:
            raise InputError(f"{path}: `scale`: found {scale:g}, expected a number above 0.")
        decode = displayed(path, info, channels, annotation, read)
        if colours and info.rgb and info.dtype == np.uint8:
            coloured = displayed(path, info, 3, annotation, read)
            if has_colours(coloured, numbers, chosen, info.width):
                info = replace(info, channels=1, rgb=False, dtype=np.dtype(np.uint32), colours=True)
                decode = as_numbers(coloured)
        info = replace(info, height=len(chosen))
        yield Images(path, info, numbers, number_of(channels), offset, scale, decode, chosen.start)


def read_images(path: str | Path, *, sections: str | None = None, channels: Channels = 1) -> np.ndarray:
    """Read an image as a whole.

    The pixels of the file can be integers or floats of any width, or bool. Images are read as they are
    displayed, see `open_images`.

    Parameters
    ----------
    path : str or Path
        Image file, folder or pattern of slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    channels : int or sequence of (int or str), default 1
        Expected number of channels; or the channels to read, by number (the first is 0) or by the name that
        the file states.

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
        Image file, folder or pattern of slices, or `file.h5:/dataset`. The headers of all slices of a folder
        are read.

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


def pixel_size(path: str | Path) -> PixelSize | None:
    """Return the size of the pixels that an image file states.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder or pattern of PNG or TIFF slices, or `file.h5:/dataset`. Only the header of
        the first slice of a folder is read.

    Returns
    -------
    tuple of float or None
        Height and width of a pixel (um). They are read from OME-XML, from ImageJ's description, from the
        attribute `element_size_um` of HDF5, and from the resolution of TIFF and PNG if it is finer than that
        of screens, printers and scanners (2.5 um). None if nothing is stated.

    Raises
    ------
    InputError
        As `inspect`.
    """
    with open_file(path) as (info, _):
        return info.pixel_size


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
