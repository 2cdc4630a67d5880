"""Infer what the values of an annotation mean from the areas that they form."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_lib.imageio.fixes import renumbered, written
from pipeline_lib.kernels.blocks import Block, blocks
from pipeline_lib.kernels.sections import frame
from pipeline_lib.runtime.errors import InputError

#: Side of the blocks whose values are counted, and of those whose areas are measured (px).
SIDE = 1024
SAMPLES = 8  # number of blocks whose areas are measured

FEW = 4  # labels; so few values may also be classes
MOST_SPLIT = 0.5  # largest `Areas.split` of instance labels

_SPLIT_OF_FEW = 0.1  # the same for few labels
_MOST_ENCLOSED = 0.3  # largest `Areas.enclosed` of instance labels
_MADE_OF_GRAY = 4.0  # px; a smaller median of the areas means gray levels
_LARGEST_LABEL = 2**32 - 1
SENTINELS = {2**bits - 1 for bits in (8, 15, 16, 31, 32, 63, 64)}  # values that often mean "not annotated"
_SPECK = 0.05  # an area counts if it has at least this share of the pixels of the largest area of its value
_SMALL = 16  # px; smaller areas of two values are noise
_MANY = 4  # areas; fewer may as well be parts of a background
_LINE = 1.5  # px; largest `_Shape.thickness` of lines of 1 or 2 px
AROUND = 0.5  # smallest share of the frame that a background has
_SOLID = 0.6  # smallest solidity of cells: above 0.8 for most, below 0.5 for the gaps between touching ones
_LARGEST = 30  # areas of a region whose solidity is measured
_COMPACT = 12.0  # largest elongation of cells; it is 2 for most, 8 for rods, above 20 for membranes


class Section(NamedTuple):
    """Smallest and largest value of a section, its number of pixels, and how many of them are not 0."""

    z: int
    low: float
    high: float
    pixels: int
    not_zero: int


@dataclass(frozen=True)
class Values:
    """Values of an annotation, without those that are ignored.

    Parameters
    ----------
    values : (n,) array
        Distinct values in ascending order, in the type of the file.
    counts : (n,) array of int64
        Number of pixels of each value.
    sample : list of (int, Block)
        Section and block of the regions with the most pixels other than 0, in the order of the file. Regions
        of one single value, which show no areas, are left out if there are others.
    sections : list of Section
        What each section has, in the order of the file; only those with pixels that count.
    colours : bool, default False
        Whether the values are colours, 0xRRGGBB.
    """

    values: np.ndarray
    counts: np.ndarray
    sample: list[tuple[int, Block]]
    sections: list[Section]
    colours: bool = False

    def text(self, value: float | np.generic) -> str:
        """Return a value as text, as it can be written into a config."""
        return f"0x{int(value):06X}" if self.colours else plain(value)

    @property
    def share(self) -> np.ndarray:
        """Share of each value in the pixels."""
        return self.counts / self.counts.sum()


@dataclass(frozen=True)
class Areas:
    """Connected areas of each value in the sampled regions; pixels that touch at a corner are connected.

    Parameters
    ----------
    number : (n,) array of int
        Number of areas of each value.
    split : float
        Share of the occurrences of labels in a region where the label has several areas.
    enclosed : float
        Share of the areas of labels that are enclosed by one area of another label.
    median_size : float
        Median number of pixels of an area of a label (px).
    frame : (n,) array of float
        Share of each value in the pixels at the frame of the regions.
    """

    number: np.ndarray
    split: float
    enclosed: float
    median_size: float
    frame: np.ndarray

    def scattered(self, labels: int) -> bool:
        """Return whether the values of so many labels are scattered, like the gray levels of an image."""
        return self.median_size < _MADE_OF_GRAY and labels > FEW

    def like_labels(self, *, few: bool) -> bool:
        """Return whether each value is one object: most form one area, and few areas enclose another one.

        With `few` labels, hardly any may have several areas, because classes of pixels are few, too.
        """
        return self.split <= (_SPLIT_OF_FEW if few else MOST_SPLIT) and self.enclosed <= _MOST_ENCLOSED


class ValueCounter:
    """Count the values of an annotation, region by region."""

    def __init__(self) -> None:
        self._found: list[tuple[np.ndarray, np.ndarray]] = []
        # pixels other than 0, whether there are several values, section, block
        self._sample: list[tuple[int, bool, int, Block]] = []
        self._sections: dict[int, Section] = {}

    def add(self, z: int, block: Block, region: np.ndarray) -> int:
        """Add the pixels of a region that are not ignored, and return the number of distinct values so far.

        Parameters
        ----------
        z : int
            Section of the region.
        block : Block
            Place of the region in the section.
        region : (n,) array
            Values of its pixels.
        """
        if region.size:
            values, counts = _count(region)
            self._found.append((values, counts))
            not_zero = int(counts[values != 0].sum())
            known = self._sections.get(z, Section(z, np.inf, -np.inf, 0, 0))
            self._sections[z] = Section(
                z,
                min(known.low, values[0].item()),
                max(known.high, values[-1].item()),
                known.pixels + region.size,
                known.not_zero + not_zero,
            )
            self._sample.append((not_zero, len(values) > 1, z, block))
            self._sample.sort(key=lambda found: (not found[1], -found[0], _place(*found[2:])))
            del self._sample[SAMPLES:]
            if sum(len(values) for values, _ in self._found[1:]) > 2 * len(self._found[0][0]):
                self._found = [_joined(self._found)]
        return len(self._found[0][0]) if self._found else 0

    def result(self) -> Values:
        """Return what was counted."""
        values, counts = _joined(self._found) if self._found else (np.zeros(0, int), np.zeros(0, np.int64))
        kept = [found for found in self._sample if found[1]] or self._sample
        sample = sorted(((z, block) for *_, z, block in kept), key=lambda found: _place(*found))
        return Values(values, counts, sample, [self._sections[z] for z in sorted(self._sections)])


def _place(z: int, block: Block) -> tuple[int, int, int]:
    return z, block.read[0].start, block.read[1].start


def _count(region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values of a region in ascending order and the number of pixels of each."""
    low, high = region.min(), region.max()
    if region.dtype.kind in "iu" and int(high) - int(low) < 2**22:  # a table of 32 MB
        above = (region - low).astype(np.int64) if region.dtype.kind == "u" else region.astype(np.int64) - low
        counts = np.bincount(above.ravel())
        values = np.flatnonzero(counts)
        return (values.astype(region.dtype) + low).astype(region.dtype), counts[values]
    return np.unique(region, return_counts=True)


def _joined(found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up the counts of equal values."""
    values, place = np.unique(np.concatenate([values for values, _ in found]), return_inverse=True)
    total = np.zeros(len(values), np.int64)
    np.add.at(total, place, np.concatenate([counts for _, counts in found]))
    return values, total


def histogram(found: Values, areas: Areas | None = None) -> str:
    """Describe the share of each value and its number of areas, or the share of 8 ranges of more values."""
    values, share = found.values, found.share
    numbers = [""] * len(values) if areas is None else [_areas(int(n)) for n in areas.number]
    listed = [
        f"{found.text(v)}: {s:.2%}{number}" for v, s, number in zip(values, share, numbers, strict=True)
    ]
    if len(values) <= 8:
        return ", ".join(listed)
    if found.colours:
        common = np.argsort(-share, kind="stable")[:8]
        rest = 1 - float(share[common].sum())
        return f"{', '.join(listed[n] for n in common)}, {len(values) - 8} others: {rest:.2%}"
    edges = np.linspace(float(values[0]), float(values[-1]), 9)
    bins, _ = np.histogram(values.astype(float), edges, weights=share)
    ranges = zip(itertools.pairwise(edges), bins, strict=True)
    return f"{len(values)} values, " + ", ".join(f"{a:g} to {b:g}: {s:.2%}" for (a, b), s in ranges)


def _areas(number: int) -> str:
    return f" in {number} area{'s' * (number != 1)}"


def plain(value: float | np.generic) -> str:
    """Return a value as text: whole numbers with all digits."""
    number = value.item() if isinstance(value, np.generic) else value
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


def require_labels(path: str | Path, found: Values, ignore: int | None) -> None:
    """Raise `InputError` unless all values are whole numbers from 0 to 4,294,967,295.

    The message names the key that declares a value which often means "not annotated".
    """
    values = found.values
    fractional = values.dtype.kind == "f" and bool((values != np.floor(values)).any())
    if values.dtype.kind == "f" and values[-1] >= 2 ** (np.finfo(values.dtype).nmant + 1):
        most = 2 ** (np.finfo(values.dtype).nmant + 1)
        raise InputError(
            f"{path}: found the value {plain(values[-1])} in {values.dtype}, which has only every second or "
            f"fourth number above {most:,}, so that different cells may have the same label. Save the labels "
            "as uint32."
        )
    if not fractional and values[0] >= 0 and float(values[-1]) <= _LARGEST_LABEL:
        return
    odd = values[0] if values[0] < 0 else values[-1]
    only = int(np.count_nonzero((values < 0) | (values > _LARGEST_LABEL))) == 1
    sentinel_like = len(values) > 2 and (odd < 0 or int(odd) in SENTINELS or int(odd) >= 2**63)
    if not fractional and only and ignore is None and sentinel_like:
        share = float(found.share[values == odd][0])
        raise InputError(
            f"{path}: found the value {plain(odd)} in {share:.2%} of the pixels, which cannot be a label. If "
            f"it means not annotated, set `dataset: {{ignore: {plain(odd)}}}`{if_background(found, odd)}. "
            "Otherwise save labels from 0 to 4,294,967,295."
        )
    if not fractional and values[0] >= 0:
        raise InputError(
            f"{path}: found labels up to {plain(values[-1])} ({histogram(found)}); expected at most "
            f"4,294,967,295. To number them from 1 ({written(path)}):\n{renumbered(path, ignore)}"
        )
    raise InputError(
        f"{path}: found negative, fractional or too large values in the annotation ({histogram(found)}). "
        "Expected whole numbers from 0 to 4,294,967,295: 0 and one other value for membranes, or one value "
        "per cell. Save labels, not gray levels or probabilities."
    )


def if_background(found: Values, value: float | np.generic) -> str:
    """Return how to state that a value is the background, if it is more common than 0."""
    if found.share[found.values == value].sum() <= found.share[found.values == 0].sum():
        return ""
    return f"; if it is the background, set `dataset: {{background: {plain(value)}}}`"


def sentinel(found: Values) -> int | None:
    """Return the largest value if it probably means "not annotated": 255, 65535 ... far above all others."""
    values = found.values
    if found.colours or len(values) < 4 or int(values[-1]) not in SENTINELS:
        return None
    gaps = np.diff(values.astype(float))
    return int(values[-1]) if gaps[-1] > max(16, 4 * gaps[:-1].max()) else None


def measure_areas(found: Values, regions: Iterable[np.ndarray]) -> Areas:
    """Measure the areas of each value in the sampled `regions` (y, x)."""
    from skimage import measure  # takes 0.3 s, which is needed only where annotations are read

    number = np.zeros(len(found.values), np.int64)
    at_frame = np.zeros(len(found.values), np.int64)
    occurrences = split = labels = enclosed = 0
    sizes: list[np.ndarray] = []
    for region in regions:
        rank = np.searchsorted(found.values, region)
        at_frame += np.bincount(frame(rank), minlength=len(number))
        area_of = measure.label(rank + 1, connectivity=2)  # type: ignore[no-untyped-call]
        size = np.bincount(area_of.ravel())[1:]
        value_of = np.zeros(len(size) + 1, np.intp)
        value_of[area_of.ravel()] = rank.ravel()
        largest = np.zeros(len(found.values), np.int64)
        np.maximum.at(largest, value_of[1:], size)
        counted = size >= _SPECK * largest[value_of[1:]]
        of_value = np.bincount(value_of[1:][counted], minlength=len(number))
        number += of_value
        of_label = of_value[found.values != 0]
        occurrences += int(np.count_nonzero(of_label))
        split += int(np.count_nonzero(of_label > 1))
        is_label = np.append(False, found.values[value_of[1:]] != 0)
        labels += int(is_label.sum())
        enclosed += int(np.count_nonzero(_enclosed(area_of, is_label)))
        sizes.append(size[is_label[1:]])
    listed = np.concatenate(sizes)
    median = float(np.median(listed)) if len(listed) else 0.0
    share = at_frame / max(at_frame.sum(), 1)
    return Areas(number, split / max(occurrences, 1), enclosed / max(labels, 1), median, share)


def _enclosed(area_of: np.ndarray, is_label: np.ndarray) -> np.ndarray:
    """Return which areas of labels are enclosed by one other area of a label."""
    pairs = []
    for one, other in ((area_of[1:], area_of[:-1]), (area_of[:, 1:], area_of[:, :-1])):
        differ = one != other
        a, b = one[differ].astype(np.int64), other[differ].astype(np.int64)
        pairs += [a * len(is_label) + b, b * len(is_label) + a]
    listed = np.sort(np.concatenate(pairs))  # much faster than `np.unique`, which hashes
    both = np.divmod(listed[np.diff(listed, prepend=-1) > 0], len(is_label))
    neighbours = np.bincount(both[0], minlength=len(is_label))
    neighbour = np.zeros(len(is_label), np.intp)
    neighbour[both[0]] = both[1]
    found = is_label & (neighbours == 1) & is_label[neighbour]
    found[frame(area_of)] = False
    return found


def hollow(regions: Iterable[np.ndarray]) -> float:
    """Return the share of labels that enclose more background than they have pixels, like outlines.

    Parameters
    ----------
    regions : iterable of (y, x) array of int
        Sampled regions, 0 = background.
    """
    from scipy import ndimage  # takes 0.2 s, which is needed only where annotations are read

    rings = labels = 0
    for region in regions:
        names, label = np.unique(region, return_inverse=True)
        # background whose pixels share a side, so that outlines whose pixels touch at corners are closed
        hole, number = ndimage.label(region == 0)
        pairs = [np.zeros(0, np.int64)]
        for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            for one, other in ((here, there), (there, here)):
                contact = (hole[one] > 0) & (region[other] != 0)
                pairs.append(hole[one][contact].astype(np.int64) * len(names) + label[other][contact])
        holes, around = np.divmod(np.unique(np.concatenate(pairs)), len(names))
        enclosed_by_one = np.bincount(holes, minlength=number + 1)[holes] == 1
        closed = enclosed_by_one & ~np.isin(holes, frame(hole))
        enclosed = np.zeros(len(names), np.int64)
        np.add.at(enclosed, around[closed], np.bincount(hole.ravel())[holes[closed]])
        is_label = names != 0
        pixels = np.bincount(label.ravel(), minlength=len(names))
        labels += int(np.count_nonzero(is_label))
        rings += int(np.count_nonzero(is_label & (enclosed > pixels)))
    return rings / max(labels, 1)


def fills_squares(found: Values, regions: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return which values fill a square of 3 x 3 px somewhere, unlike the colours of anti-aliased edges.

    Parameters
    ----------
    found : Values
        Values of the annotation.
    regions : iterable of (y, x) array
        Sampled regions.

    Returns
    -------
    seen, filling : (n,) array of bool
        Whether each value is in the regions at all, and whether it fills a square.
    """
    from scipy import ndimage  # takes 0.2 s, which is needed only where annotations are read

    seen, filling = np.zeros(len(found.values), bool), np.zeros(len(found.values), bool)
    for region in regions:
        rank = np.searchsorted(found.values, region)
        seen[np.unique(rank)] = True
        whole = ndimage.minimum_filter(rank, 3) == ndimage.maximum_filter(rank, 3)
        filling[np.unique(rank[1:-1, 1:-1][whole[1:-1, 1:-1]])] = True
    return seen, filling


def smoothed(found: Values, regions: Iterable[np.ndarray]) -> bool:
    """Return whether values between the smallest and the largest are edges, as in a smoothed mask.

    Parameters
    ----------
    found : Values
        Values of the annotation.
    regions : iterable of (y, x) array
        Sampled regions.
    """
    from scipy import ndimage  # takes 0.2 s, which is needed only where annotations are read

    low, high = float(found.values[0]), float(found.values[-1])
    place = (found.values - low) / (high - low)
    between = at_edge = 0
    for region in regions:
        part = (region - low) / (high - low)
        middle = (part >= 0.25) & (part <= 0.75)
        edge = (ndimage.minimum_filter(part, 3) < 0.25) & (ndimage.maximum_filter(part, 3) > 0.75)
        between += int(np.count_nonzero(middle))
        at_edge += int(np.count_nonzero(middle & edge))
    ends = float(found.share[(place < 0.25) | (place > 0.75)].sum())
    return ends > 0.8 and (at_edge > 0.8 * between if between else len(place) > 2 * FEW)


def cells_of_two(regions: Iterable[np.ndarray]) -> int | None:
    """Return which of two values is that of cells: 0, 1, or None if the shapes do not tell.

    Cells are many compact areas, or some in front of a background. Membranes and background are few areas,
    and membranes are thinner than cells. Lines are no cells, nor are areas if one is like a background, nor
    the gaps between cells that touch, whose sides are hollow.

    Parameters
    ----------
    regions : iterable of (y, x) array of bool or int
        Sampled regions of 0 and 1. Pixels with other values are ignored.
    """
    regions = [*regions]
    parts = [[_areas_of(region == value) for value in (0, 1)] for region in regions]
    shapes = [_shape(of_value) for of_value in zip(*parts, strict=True)]
    like_cells = []
    for value in (1, 0):
        own, other = shapes[value], shapes[1 - value]
        compact = own.number > 0 and own.elongation < _COMPACT and own.thickness > _LINE
        many = own.number >= max(2 * other.number, _MANY) and own.around < AROUND
        # in an inverted drawing the membranes are thinner; white background with dark cells stays unclear
        thin = other.thickness < 0.75 * own.thickness
        alone = value == 1 and own.frame < 0.05
        likely = compact and ((many and (thin or value == 1)) or alone)
        if likely and (thin or _solidity(region == value for region in regions) > _SOLID):
            like_cells.append(value)
    return like_cells[0] if len(like_cells) == 1 else None


class _Part(NamedTuple):
    """Areas of one value in one region: size and elongation of the larger ones, and as in `_Shape`."""

    size: np.ndarray
    elongation: np.ndarray
    thickness: float
    frame: float
    around: float


class _Shape(NamedTuple):
    """Shape of the areas of one of two values.

    `elongation` is the median of size / (pi r^2), where r is the radius of the largest circle in the area;
    `thickness` is the 95th percentile of the distance to the edge (px), `frame` the share of the frame, and
    `around` the share of the frame that belongs to one area, at most.
    """

    number: int
    elongation: float
    thickness: float
    frame: float
    around: float


def _areas_of(mask: np.ndarray) -> _Part:
    from scipy import ndimage  # takes 0.2 s, which is needed only where annotations are read

    # the image continues beyond its edge, so that areas there are not thinner
    distance = ndimage.distance_transform_edt(np.pad(mask, 1, mode="edge"))[1:-1, 1:-1]
    area_of, number = ndimage.label(mask)
    size = np.bincount(area_of.ravel(), minlength=number + 1)[1:]
    radius = ndimage.maximum(distance, area_of, np.arange(1, number + 1)) if number else np.zeros(0)
    elongation = size / (np.pi * np.maximum(radius, 0.5) ** 2)
    kept = size >= _SMALL
    thickness = float(np.percentile(distance[mask], 95)) if mask.any() else 0.0
    at_frame = frame(area_of)
    around = np.bincount(at_frame, minlength=2)[1:].max() / len(at_frame)
    return _Part(size[kept], elongation[kept], thickness, float((at_frame > 0).mean()), float(around))


def _solidity(masks: Iterable[np.ndarray]) -> float:
    """Return the median share of an area in its convex hull, weighted by size, of the largest areas."""
    from skimage import measure  # takes 0.3 s, which is needed only where annotations are read

    size, solidity = [0], [0.0]
    for mask in masks:
        area_of = measure.label(mask, connectivity=1)  # type: ignore[no-untyped-call]
        pixels = np.bincount(area_of.ravel())
        largest = np.argsort(-pixels[1:], kind="stable")[:_LARGEST] + 1
        kept = largest[pixels[largest] >= _SMALL]
        found = measure.regionprops(np.where(np.isin(area_of, kept), area_of, 0))  # type: ignore[no-untyped-call]
        size += [int(area.area) for area in found]
        solidity += [float(area.solidity) for area in found]
    order = np.argsort(solidity)
    total = np.cumsum(np.array(size)[order])
    return solidity[order[np.searchsorted(total, total[-1] / 2)]]


def _shape(parts: Sequence[_Part]) -> _Shape:
    size = np.concatenate([part.size for part in parts])
    elongation = np.concatenate([part.elongation for part in parts])
    if not len(size):
        return _Shape(0, np.inf, 0.0, 0.0, 0.0)
    order = np.argsort(elongation)
    middle = np.searchsorted(np.cumsum(size[order]), size.sum() / 2)
    return _Shape(
        len(size),
        float(elongation[order][middle]),
        float(np.mean([part.thickness for part in parts])),
        float(np.mean([part.frame for part in parts])),
        max(part.around for part in parts),
    )


def class_lines(found: Values, regions: Iterable[np.ndarray]) -> str:
    """Return the settings to type for an annotation of classes, with a guess that the user can correct.

    The background is the most common value at the frame, or of two values, the one that does not look like
    cells. Of two other values, the one that has no contact with the background is the inside of the cells,
    and the other one their border. A largest value such as 255 that is far above all others is ignored.
    """
    values, ignored, regions = found.values, "", [*regions]
    two = [np.select([region == value for value in values[:2]], [0, 1], -1) for region in regions]
    if not found.colours and int(values[-1]) in SENTINELS and values[-1] > 100 > 16 >= values[-2]:
        ignored = f", ignore: {plain(values[-1])}"
        regions = [np.where(region == values[-1], values[0], region) for region in regions]
        values = values[:-1]
    at_frame = np.zeros(len(values), np.int64)
    contact = np.zeros((len(values), len(values)), np.int64)
    for region in regions:
        rank = np.searchsorted(values, region)
        at_frame += np.bincount(frame(rank), minlength=len(values))
        for one, other in ((rank[1:], rank[:-1]), (rank[:, 1:], rank[:, :-1])):
            pairs = np.bincount((one * len(values) + other).ravel(), minlength=len(values) ** 2)
            contact += pairs.reshape(contact.shape)
    contact = contact + contact.T
    background = int(at_frame.argmax())
    if len(values) == 2:
        cells = cells_of_two(two)
        background = background if cells is None else 1 - cells
    others = [n for n in range(len(values)) if n != background]
    names = {others[0]: "cell"} if len(others) == 1 else {n: f"cell_{k}" for k, n in enumerate(others, 1)}
    if len(others) == 2:
        share = [contact[n, background] / max(contact[n].sum() - contact[n, n], 1) for n in others]
        if min(share) < 0.1 < max(share):
            names = {others[int(np.argmin(share))]: "cell", others[int(np.argmax(share))]: "border"}
    listed = [f"background: {found.text(values[background])}"]
    listed += [f"{name}: {found.text(values[n])}" for n, name in names.items()]
    return f"`dataset: {{annotation_kind: classes, classes: {{{', '.join(listed)}}}{ignored}}}`"


def sampled_blocks(shape: tuple[int, int]) -> list[Block]:
    """Return the blocks in which values are counted. They are fixed, so that the result is, too."""
    return list(blocks(shape, SIDE))
