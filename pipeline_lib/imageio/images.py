"""Raw intensities, region by region or whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.formats import open_file
from pipeline_lib.imageio.headers import (
    ImageInfo,
    Reader,
    machine_memory,
    require_channels,
    require_memory,
    require_whole,
)
from pipeline_lib.imageio.naming import parse_sections
from pipeline_lib.runtime.errors import InputError


@dataclass(frozen=True)
class Images:
    """The chosen sections of an open image; `numbers` are theirs in the file, `info` is of the whole file.

    Regions of a row of blocks are best read one after the other: what they share is then decoded once. At
    most 256 MiB are kept for that, or one strip, tile or PNG where it is larger.
    """

    path: str | Path
    info: ImageInfo
    numbers: list[int]
    inverted: bool
    decode: Reader = field(repr=False)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths of the axes `czyx`; z counts the chosen sections."""
        return self.info.channels, len(self.numbers), self.info.height, self.info.width

    @property
    def dtype(self) -> np.dtype:
        """Type of the values read: the file's in native byte order, bool as uint8."""
        return np.dtype(np.uint8) if self.info.dtype.kind == "b" else self.info.dtype

    def read(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """A region of the chosen section `z`, (c, h, w); the slices as of an array, without step.

        Raises `InputError` for a damaged file and values that are not finite.
        """
        rows, columns = (
            slice(*part.indices(n)[:2]) for part, n in zip((rows, columns), self.shape[2:], strict=True)
        )
        region = self.read_unchecked(z, rows, columns)
        require_finite(self.path, region[:, None], [self.numbers[z]], rows.start, columns.start)
        return region

    def read_unchecked(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """As `read`, for slices with start and stop, and values that need not be finite."""
        region = self.decode(self.numbers[z], rows, columns).astype(self.dtype, copy=False)
        return np.subtract(np.iinfo(self.dtype).max, region, out=region) if self.inverted else region


@contextmanager
def open_images(path: str | Path, *, sections: str | None = None, channels: int = 1) -> Iterator[Images]:
    """Open the chosen sections (`parse_sections`) of an image to read its regions.

    Images stored with WhiteIsZero are inverted: a high value is bright whatever the file.

    Raises `InputError` for a missing, truncated or unreadable file, ambiguous axes, another number of
    channels (RGB), sections the file does not hold, and parts too large for this machine's memory.
    """
    with open_chosen(path, sections, channels) as images:
        yield images


@contextmanager
def open_chosen(
    path: str | Path, sections: str | None, channels: int, *, annotation: bool = False
) -> Iterator[Images]:
    """`open_images`; an `annotation` is told of as such, and keeps its values with WhiteIsZero."""
    with open_file(path) as (info, decode):
        require_memory(path, info, machine_memory() / 1e9)
        require_channels(path, info, channels, decode, annotation=annotation)
        try:
            numbers = parse_sections(sections, info.sections)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        yield Images(path, info, numbers, info.white_is_zero and not annotation, decode)


def read_images(path: str | Path, *, sections: str | None = None, channels: int = 1) -> np.ndarray:
    """All of the chosen sections, `czyx`, in memory; see `open_images`.

    Raises `InputError` as `open_images` and `Images.read` do, and for more than the machine's memory.
    """
    with open_images(path, sections=sections, channels=channels) as images:
        require_whole(path, images.info, math.prod(images.shape) * images.dtype.itemsize)
        array = np.empty(images.shape, images.dtype)
        for z in range(len(images.numbers)):
            array[:, z] = images.read_unchecked(z, slice(0, images.shape[2]), slice(0, images.shape[3]))
        require_finite(path, array, images.numbers)
        return array


def inspect(path: str | Path) -> ImageInfo:
    """Shape and type of an image or annotation from its headers (of a folder: all slices'); reads no pixels.

    Raises `InputError` for a missing or unreadable file, ambiguous axes, slices of different shape or type.
    """
    with open_file(path, every_slice=True) as (info, _):
        return info


def require_finite(
    path: str | Path, array: np.ndarray, numbers: Sequence[int], row: int = 0, column: int = 0
) -> None:
    """Raise `InputError` for values czyx that are not finite.

    Sections are those of `numbers`; the array begins at `row` and `column` of them.
    """
    if array.dtype.kind != "f":
        return
    bad, first = 0, None
    for z, number in enumerate(numbers):
        finite = np.isfinite(array[:, z])
        if not finite.all():
            bad += np.count_nonzero(~finite)
            _, y, x = np.argwhere(~finite)[0]
            first = first or (number, row + y, column + x)
    if first:
        raise InputError(
            "{}: {} values are NaN or infinite, the first in section {}, row {}, column {}. "
            "Replace them (numpy.nan_to_num), or leave the sections out with the table's column "
            "`sections`.".format(path, bad, *first)
        )
