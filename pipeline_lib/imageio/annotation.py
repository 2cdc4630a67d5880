"""Read annotations. What their values mean is inferred block by block, or given by a setting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.headers import require_whole, size
from pipeline_lib.imageio.images import Images, open_chosen
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.runtime.errors import InputError

#: What an annotation can contain. "auto" infers it from the values.
ANNOTATION_KINDS = ("auto", "black_membranes", "white_membranes", "instances")

_SAMPLE = 2048  # px, side of the square in the first section in which separate areas are counted
_MOST_LABELS = 2**25  # limit for one volume; each label takes at least 16 bytes while pixels are counted
_MAKE_ANNOTATION = (
    "Make it black and white (Fiji: Image > Adjust > Threshold..., Apply), or save instance "
    "labels (0 = background, 1..n = cells)."
)


@dataclass(frozen=True)
class Annotation:
    """An annotation in memory; `read_annotation` creates it. It is known which of its values are cells.

    Parameters
    ----------
    kind : {"membranes", "instances"}
        What `array` contains.
    array : (z, y, x) array
        For "membranes" uint8, 1 = cell and 0 = membrane. For "instances" unsigned integers, 0 = background
        and each other value one cell.
    description : str
        What was found in the file and what was inferred, for the log.
    """

    kind: str
    array: np.ndarray
    description: str


@dataclass(frozen=True)
class AnnotationRegions:
    """An open annotation; `open_annotation` creates it. It is known which of its values are cells.

    Parameters
    ----------
    kind : {"membranes", "instances"}
        What the values mean, see `Annotation`.
    description : str
        What was found in the file and what was inferred, for the log.
    dtype : numpy.dtype
        Type of the values that `read` returns.
    images : Images
        Regions of the file as they are stored.
    cells_are_zero : bool, default False
        For "membranes": whether cells are stored as 0.
    """

    kind: str
    description: str
    dtype: np.dtype
    images: Images = field(repr=False)
    cells_are_zero: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of the axes `zyx`; z counts the selected sections."""
        return self.images.shape[1:]

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
        (y, x) array
            Values of type `dtype`, with the meaning given by `kind`.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        region = self.images.read(z, rows, columns)[0]
        if self.kind == "membranes":
            return ((region == 0) == self.cells_are_zero).view(np.uint8)
        return region.astype(self.dtype, copy=False)


@contextmanager
def open_annotation(
    path: str | Path, *, sections: str | None = None, kind: str = "auto", block: int = BLOCK
) -> Iterator[AnnotationRegions]:
    """Open an annotation to read regions of it, and find out what its values mean. Context manager.

    All values are read once or twice when the annotation is opened. Black and white are what Fiji displays:
    with `WhiteIsZero`, zeros are white. Instance labels are never inverted. Gray levels, as in smoothed or
    antialiased drawings, are an error, because only the annotator knows which of them are membrane.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder of PNG or TIFF slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    kind : {"auto", "black_membranes", "white_membranes", "instances"}, default "auto"
        Meaning of the values:

        - "black_membranes": membranes are 0 and cells another value, as in the ISBI 2012 challenge.
        - "white_membranes": cells are 0 and membranes another value.
        - "instances": 0 is background, each other value one cell.
        - "auto": two values, one of them 0, are black membranes. More values are instances if they form
          areas. They are classes, which is an error, if the first 2048 x 2048 px of the first section have
          more than ten separate areas per value.
    block : int, default 2048
        Side in px of the blocks in which the values are read. The result does not depend on it.

    Yields
    ------
    AnnotationRegions
        The selected sections. They can be read inside the `with` statement.

    Raises
    ------
    InputError
        As `open_images`, and if the values do not fit `kind`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio import open_annotation, write_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "membranes.tif")
    ...     write_images(path, np.array([[[255, 0, 255, 255]]], np.uint8))
    ...     with open_annotation(path) as annotation:
    ...         print(annotation.kind, annotation.read(0, slice(0, 1), slice(0, 3)))
    membranes [[1 0 1]]
    """
    if kind not in ANNOTATION_KINDS:
        raise InputError(
            f"config key `dataset.annotation_kind`: found {kind}, expected one of "
            f"{', '.join(ANNOTATION_KINDS)}."
        )
    with open_chosen(path, sections, 1, annotation=True) as images:
        values, counts = _count_values(images, block)
        share = counts / math.prod(images.shape)
        if len(values) == 1:
            raise InputError(
                f"{path}: every pixel of the annotation is {values[0]:g}; expected 0 for membranes or "
                "background, and other values for cells. Check that this is the annotation of these images "
                "and that it was saved after drawing."
            )
        if kind.endswith("membranes") or (kind == "auto" and len(values) == 2 and values[0] == 0):
            yield _membranes(images, values, share, kind)
        else:
            yield _instances(images, values, share, kind, block)


def read_annotation(path: str | Path, *, sections: str | None = None, kind: str = "auto") -> Annotation:
    """Read an annotation as a whole, and find out what its values mean.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder of PNG or TIFF slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    kind : {"auto", "black_membranes", "white_membranes", "instances"}, default "auto"
        Meaning of the values, see `open_annotation`.

    Returns
    -------
    Annotation
        The selected sections.

    Raises
    ------
    InputError
        As `open_annotation`, and if the sections do not fit into the memory of this machine.
    """
    with open_annotation(path, sections=sections, kind=kind) as regions:
        require_whole(path, regions.images.info, math.prod(regions.shape) * regions.dtype.itemsize)
        array = np.empty(regions.shape, regions.dtype)
        for z in range(len(array)):
            array[z] = regions.read(z, slice(None), slice(None))
        return Annotation(regions.kind, array, regions.description)


def _count_values(images: Images, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values in ascending order and the number of pixels of each, both int64.

    Raises `InputError` for values that cannot be labels, with the histogram of the first block with any.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for z in range(images.shape[1]):
        for part in blocks(images.shape[2:], block):
            values, counts = _count(images.read(z, *part.read)[0])
            if values[0] < 0 or values[-1] >= 2**32 or (values != np.floor(values)).any():
                raise InputError(
                    f"{images.path}: found negative, fractional or too large values in the annotation "
                    f"({_histogram(values, counts / counts.sum())}). Expected whole numbers from 0 to "
                    f"4,294,967,295. {_MAKE_ANNOTATION}"
                )
            found.append((values.astype(np.int64), counts))
            if sum(len(values) for values, _ in found[1:]) > 2 * len(found[0][0]):
                found = [_joined(found)]
            if len(found[0][0]) > _MOST_LABELS:
                raise InputError(
                    f"{images.path}: found more than {_MOST_LABELS:,} different values, the limit for one "
                    "volume. Check that the file is an annotation, not an image. Split a large annotation "
                    "into several volumes with the column `sections` of the table of volumes."
                )
    return _joined(found)


def _count(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a region in ascending order and the number of pixels of each."""
    low, high = region.min(), region.max()
    if region.dtype.kind in "iu" and high < 2**32 and int(high) - int(low) < 2**22:  # a table of 32 MB
        above = region.astype(np.int64)
        above -= int(low)
        counts = np.bincount(above.ravel())
        values = np.flatnonzero(counts)
        return values + int(low), counts[values]
    return np.unique(region, return_counts=True)


def _joined(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up the counts of equal values."""
    values, place = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
    total = np.zeros(len(values), np.int64)
    np.add.at(total, place, np.concatenate([counts for _, counts in found]))
    return values, total


def _histogram(values: np.ndarray, share: np.ndarray) -> str:
    """Describe which share of the pixels each value has, or each of 8 equal ranges of more values."""
    if len(values) <= 8:
        return ", ".join(f"{v:g}: {s:.2%}" for v, s in zip(values, share, strict=True))
    edges = np.linspace(float(values[0]), float(values[-1]), 9)
    bins, _ = np.histogram(values, edges, weights=share)
    ranges = zip(itertools.pairwise(edges), bins, strict=True)
    return f"{len(values)} values, " + ", ".join(f"{a:g} to {b:g}: {s:.2%}" for (a, b), s in ranges)


def _membranes(images: Images, values: np.ndarray, share: np.ndarray, kind: str) -> AnnotationRegions:
    """Return an annotation of membranes; `share` is that of each of `values` in the pixels."""
    if len(values) != 2 or values[0] != 0:
        raise InputError(
            f"{images.path}: `dataset.annotation_kind: {kind}` expects two values, 0 and another one; found "
            f"{_histogram(values, share)}. {_MAKE_ANNOTATION} For instance labels, set "
            "`dataset.annotation_kind: instances`."
        )
    # black and white are what Fiji displays: with WhiteIsZero, zeros are white
    cells_are_zero = (kind == "white_membranes") != images.info.white_is_zero
    cells = share[0] if cells_are_zero else share[1]
    drawn = "white" if kind == "white_membranes" else "black"
    description = (
        f"{size(images.shape[1:])}, values 0 and {values[1]:g}: {drawn} membranes, cells cover {cells:.1%} "
        "of the pixels"
    )
    if images.info.white_is_zero:
        description += "; 0 is displayed as white"
    if kind == "auto":
        description += "; inferred from the two values"
        if cells < 0.5:
            description += (
                ". Cells cover less than half: if the membranes are white, set "
                "`dataset.annotation_kind: white_membranes`; if the cells are sparse, set "
                "`dataset.annotation_kind: instances`"
            )
    return AnnotationRegions("membranes", description, np.dtype(np.uint8), images, cells_are_zero)


def _instances(
    images: Images, values: np.ndarray, share: np.ndarray, kind: str, block: int
) -> AnnotationRegions:
    """Return an annotation of instance labels; `share` is that of each of `values` in the pixels."""
    few = 2 if kind == "auto" else 4  # if the setting says instances, a few labels may be very narrow cells
    if len(values) > few and _share_in_areas(images, values[np.argsort(share)[-2:]], block) < 0.7:
        raise InputError(
            f"{images.path}: found gray levels, not an annotation. All but the two most common values are "
            "scattered and form no areas, as after smoothing, scaling or antialiasing "
            f"({_histogram(values, share)}). {_MAKE_ANNOTATION}"
        )
    if kind == "auto" and len(values) == 2:
        raise InputError(
            f"{images.path}: found two values, {values[0]:g} and {values[1]:g}; one of them must be 0 to "
            "tell cells from membranes. Save membranes as 0 and cells as 255. For two cells without "
            "background, set `dataset.annotation_kind: instances`."
        )
    labels = values[values > 0]
    if kind == "auto" and _areas(images.read(0, slice(_SAMPLE), slice(_SAMPLE))[0]) > 10 * len(labels):
        raise InputError(
            f"{images.path}: found {len(labels)} values other than 0 ({_histogram(values, share)}) with many "
            f"separate areas each, like classes of pixels; expected one value per cell. {_MAKE_ANNOTATION} "
            "If each value is one cell, set `dataset.annotation_kind: instances`."
        )
    background = share[0] if values[0] == 0 else 0.0
    description = (
        f"{size(images.shape[1:])}, instance labels: {len(labels)} values from {labels[0]:g} to "
        f"{labels[-1]:g}, background covers {background:.1%} of the pixels"
    )
    if kind == "auto":
        description += "; inferred from values that form areas"
    small = images.dtype.kind in "iu" and images.dtype.itemsize <= 4
    dtype = np.dtype(f"u{images.dtype.itemsize}" if small else np.uint32)
    return AnnotationRegions("instances", description, dtype, images)


def _share_in_areas(images: Images, common: np.ndarray, block: int) -> float:
    """Return the share of pixels in a 2 x 2 square of one value, among pixels without the `common` values.

    It is above 0.99 for instance labels, below 0.1 for antialiased membranes, and below 0.5 for very smooth
    raw images.
    """
    inside = others = 0
    for z, part in itertools.product(range(images.shape[1]), blocks(images.shape[2:], block, halo=1)):
        region = images.read(z, *part.read)[0]
        along_x = region[:, 1:] == region[:, :-1]
        square = along_x[1:] & along_x[:-1] & (region[1:, 1:] == region[:-1, 1:])
        in_square = np.zeros(region.shape, bool)
        for y, x in itertools.product((slice(None, -1), slice(1, None)), repeat=2):
            in_square[y, x] |= square
        other = ((region != common[0]) & (region != common[1]))[part.crop]
        others += int(np.count_nonzero(other))
        inside += int(np.count_nonzero(in_square[part.crop] & other))
    return inside / others


def _areas(section: np.ndarray) -> int:
    """Count the 4-connected areas of equal value, for non-zero values among the 50 smallest."""
    from scipy import ndimage  # takes 0.2 s, so it is imported only where annotations are read

    return sum(ndimage.label(section == value)[1] for value in np.unique(section)[:50] if value)
