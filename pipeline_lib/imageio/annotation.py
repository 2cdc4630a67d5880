"""Annotations: what their values mean, inferred block by block, and their regions."""

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

ANNOTATION_KINDS = ("auto", "black_membranes", "white_membranes", "instances")

_SAMPLE = 2048  # px, side of the part of the first section whose separate areas are counted
_MOST_LABELS = 2**25  # of a volume; each takes 16 bytes while they are counted, and some more
_MAKE_ANNOTATION = (
    "Make it black and white (Fiji: Image > Adjust > Threshold..., Apply), or save instance "
    "labels (0 = background, 1..n = cells)."
)


@dataclass(frozen=True)
class Annotation:
    """An annotation with its polarity resolved.

    `kind` "membranes": `array` is uint8 zyx, 1 = cell, 0 = membrane. `kind` "instances": `array` is unsigned
    integer zyx, 0 = background, each other value one cell. `description` tells what was found and inferred.
    """

    kind: str
    array: np.ndarray
    description: str


@dataclass(frozen=True)
class AnnotationRegions:
    """An open annotation with its polarity resolved, to be read as `Images` are.

    `kind`, `description` and the values read are those of `Annotation`; `dtype` is the values' type. With
    `cells_are_zero`, the file has 0 for the cells between membranes.
    """

    kind: str
    description: str
    dtype: np.dtype
    images: Images = field(repr=False)
    cells_are_zero: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of the axes `zyx`; z counts the chosen sections."""
        return self.images.shape[1:]

    def read(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """A region of the chosen section `z`, (h, w); raises `InputError` for a damaged file."""
        region = self.images.read(z, rows, columns)[0]
        if self.kind == "membranes":
            return ((region == 0) == self.cells_are_zero).view(np.uint8)
        return region.astype(self.dtype, copy=False)


@contextmanager
def open_annotation(
    path: str | Path, *, sections: str | None = None, kind: str = "auto", block: int = BLOCK
) -> Iterator[AnnotationRegions]:
    """Open an annotation of the chosen sections to read its regions; `kind` is one of `ANNOTATION_KINDS`.

    - black_membranes: membranes are 0, cells one other value, as in the ISBI 2012 challenge
    - white_membranes: the reverse
    - instances: 0 is background, each other value a cell
    - auto: two values, one of them 0, are black membranes; more values are instances if they form areas

    Gray levels, as of smoothed or antialiased drawings, are refused: which of them are membrane is the
    annotator's decision. Black and white are meant as Fiji shows them: with WhiteIsZero, zeros are white.
    Instance labels are taken as they are.

    All values are looked at, once or twice, in blocks of `block` px; what is found does not depend on it.
    Whether values are classes rather than cells is judged on the first 2048 x 2048 px of the first section.

    Raises `InputError` as `open_images` does, and for values that cannot be what `kind` says.
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
                f"{path}: every pixel of the annotation is {values[0]:g}; expected cells (not "
                "0) and membrane or background (0). Check that it is the annotation of these "
                "images and was saved after drawing."
            )
        if kind.endswith("membranes") or (kind == "auto" and len(values) == 2 and values[0] == 0):
            yield _membranes(images, values, share, kind)
        else:
            yield _instances(images, values, share, kind, block)


def read_annotation(path: str | Path, *, sections: str | None = None, kind: str = "auto") -> Annotation:
    """All of the annotation of the chosen sections, in memory; see `open_annotation`.

    Raises `InputError` as `open_annotation` does, and for more than the machine's memory.
    """
    with open_annotation(path, sections=sections, kind=kind) as regions:
        require_whole(path, regions.images.info, math.prod(regions.shape) * regions.dtype.itemsize)
        array = np.empty(regions.shape, regions.dtype)
        for z in range(len(array)):
            array[z] = regions.read(z, slice(None), slice(None))
        return Annotation(regions.kind, array, regions.description)


def _count_values(images: Images, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values, ascending, and how many pixels have each, both int64.

    Raises `InputError` for what cannot be labels, with the histogram of the first block that holds any.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for z in range(images.shape[1]):
        for part in blocks(images.shape[2:], block):
            values, counts = _count(images.read(z, *part.read)[0])
            if values[0] < 0 or values[-1] >= 2**32 or (values != np.floor(values)).any():
                raise InputError(
                    f"{images.path}: the annotation holds negative, too large or broken numbers "
                    f"({_histogram(values, counts / counts.sum())}); expected whole numbers "
                    f"from 0. {_MAKE_ANNOTATION}"
                )
            found.append((values.astype(np.int64), counts))
            if sum(len(values) for values, _ in found[1:]) > 2 * len(found[0][0]):
                found = [_joined(found)]
            if len(found[0][0]) > _MOST_LABELS:
                raise InputError(
                    f"{images.path}: more than {_MOST_LABELS:,} different values: noise, or more cells than "
                    "a volume may have. Cut it into several volumes with the table's column `sections`."
                )
    return _joined(found)


def _count(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of a region, ascending, and how many pixels have each."""
    low, high = region.min(), region.max()
    if region.dtype.kind in "iu" and high < 2**32 and int(high) - int(low) < 2**22:  # a table of 32 MB
        above = region.astype(np.int64)
        above -= int(low)
        counts = np.bincount(above.ravel())
        values = np.flatnonzero(counts)
        return values + int(low), counts[values]
    return np.unique(region, return_counts=True)


def _joined(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    values, place = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
    total = np.zeros(len(values), np.int64)
    np.add.at(total, place, np.concatenate([counts for _, counts in found]))
    return values, total


def _histogram(values: np.ndarray, share: np.ndarray) -> str:
    """Each value's share of the pixels, or that of 8 ranges of equal width."""
    if len(values) <= 8:
        return ", ".join(f"{v:g}: {s:.2%}" for v, s in zip(values, share, strict=True))
    edges = np.linspace(float(values[0]), float(values[-1]), 9)
    bins, _ = np.histogram(values, edges, weights=share)
    ranges = zip(itertools.pairwise(edges), bins, strict=True)
    return f"{len(values)} values, " + ", ".join(f"{a:g} to {b:g}: {s:.2%}" for (a, b), s in ranges)


def _membranes(images: Images, values: np.ndarray, share: np.ndarray, kind: str) -> AnnotationRegions:
    if len(values) != 2 or values[0] != 0:
        raise InputError(
            f"{images.path}: `dataset.annotation_kind: {kind}` expects two values, 0 and another "
            f"one; found {_histogram(values, share)}. {_MAKE_ANNOTATION} Instance labels need "
            "`dataset.annotation_kind: instances`."
        )
    # black and white are as shown: with WhiteIsZero, zeros are the white pixels
    cells_are_zero = (kind == "white_membranes") != images.info.white_is_zero
    cells = share[0] if cells_are_zero else share[1]
    drawn = "white" if kind == "white_membranes" else "black"
    description = (
        f"{size(images.shape[1:])}, values 0 and {values[1]:g}: membranes {drawn}, {cells:.1%} of "
        "the pixels cells"
    )
    if images.info.white_is_zero:
        description += "; the file shows 0 as white"
    if kind == "auto":
        description += "; inferred from the two values"
        if cells < 0.5:
            description += (
                ". Cells are the smaller part: if the membranes are drawn white, set "
                "`dataset.annotation_kind: white_membranes`; if these are sparse cells, "
                "`instances`"
            )
    return AnnotationRegions("membranes", description, np.dtype(np.uint8), images, cells_are_zero)


def _instances(
    images: Images, values: np.ndarray, share: np.ndarray, kind: str, block: int
) -> AnnotationRegions:
    few = 2 if kind == "auto" else 4  # where said to be instances, a few labels may be of very narrow cells
    if len(values) > few and _share_in_areas(images, values[np.argsort(share)[-2:]], block) < 0.7:
        raise InputError(
            f"{images.path}: gray levels, not an annotation: besides the two most common "
            "ones, values are scattered and form no areas, as after smoothing, scaling or "
            f"antialiasing ({_histogram(values, share)}). {_MAKE_ANNOTATION}"
        )
    if kind == "auto" and len(values) == 2:
        raise InputError(
            f"{images.path}: two values, {values[0]:g} and {values[1]:g}: which is cell? Save "
            "membranes as 0 and cells as 255, or set `dataset.annotation_kind: instances` for "
            "two cells without background."
        )
    labels = values[values > 0]
    if kind == "auto" and _areas(images.read(0, slice(_SAMPLE), slice(_SAMPLE))[0]) > 10 * len(labels):
        raise InputError(
            f"{images.path}: {len(labels)} values besides 0 ({_histogram(values, share)}) with "
            f"many separate areas each: classes, not cells? {_MAKE_ANNOTATION} If each value is "
            "one cell, set `dataset.annotation_kind: instances`."
        )
    background = share[0] if values[0] == 0 else 0.0
    description = (
        f"{size(images.shape[1:])}, instance labels: {len(labels)} values from {labels[0]:g} to "
        f"{labels[-1]:g}, {background:.1%} of the pixels background"
    )
    if kind == "auto":
        description += "; inferred from values that form areas"
    small = images.dtype.kind in "iu" and images.dtype.itemsize <= 4
    dtype = np.dtype(f"u{images.dtype.itemsize}" if small else np.uint32)
    return AnnotationRegions("instances", description, dtype, images)


def _share_in_areas(images: Images, common: np.ndarray, block: int) -> float:
    """Share of the pixels with other than the `common` values that lie in a 2 x 2 square of one value.

    Above 0.99 for instance labels, below 0.1 for antialiased membranes, below 0.5 for very smooth raw images.
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
        others += np.count_nonzero(other)
        inside += np.count_nonzero(in_square[part.crop] & other)
    return inside / others


def _areas(section: np.ndarray) -> int:
    """Number of 4-connected areas of equal non-zero value."""
    from scipy import ndimage  # 0.2 s, which no stage but the one that reads annotations should pay

    return sum(ndimage.label(section == value)[1] for value in np.unique(section)[:50] if value)
