"""Decide what the values of an annotation mean: as settings state it, or from clear evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from pipeline_lib.imageio import meaning
from pipeline_lib.imageio.fixes import black_and_white, fill_outlines, set_tag, without_rare_colours, written
from pipeline_lib.imageio.headers import sections_hint, size
from pipeline_lib.imageio.images import Images
from pipeline_lib.imageio.meaning import Values
from pipeline_lib.imageio.naming import hdf5_path
from pipeline_lib.imageio.regions import BORDER, AnnotationRegions, ignored_pixels
from pipeline_lib.kernels.blocks import Block
from pipeline_lib.runtime.doubts import doubt
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

#: What an annotation can contain. "auto" infers it from the areas that the values form.
ANNOTATION_KINDS = ("auto", "black_membranes", "white_membranes", "instances", "classes")
#: Classes of annotations that are not cells. Each other class is a class of cells.
NO_CELLS = ("background", "border")

_MOST_LABELS = 2**25  # limit for one volume; each label takes at least 16 bytes while pixels are counted


class UnclearAnnotation(InputError):
    """Raised if the values of an annotation have no clear meaning and no setting states it.

    Parameters
    ----------
    message : str
        Evidence, and the settings to choose from.
    found : Values
        Values of the annotation.
    region : (y, x) array
        The first sampled region, which shows them.
    """

    def __init__(self, message: str, found: Values, region: np.ndarray) -> None:
        super().__init__(message)
        self.found, self.region = found, region


def check_settings(kind: str, classes: Mapping[str, int | Sequence[int]] | None) -> None:
    """Raise `InputError` unless `kind` is known and, for "classes", each value has one class."""
    if kind not in ANNOTATION_KINDS:
        raise InputError(
            f"config key `dataset.annotation_kind`: found {kind}, expected one of "
            f"{', '.join(ANNOTATION_KINDS)}."
        )
    if kind == "classes" and not classes:
        raise InputError(
            "config key `dataset.classes`: missing. With `annotation_kind: classes` it gives the values of "
            "each class, for example `classes: {background: 0, cell: 1}`."
        )
    if kind == "classes" and classes is not None:
        listed = [value for values in classes.values() for value in _listed(values)]
        twice = next((value for value in listed if listed.count(value) > 1), None)
        if twice is not None:
            raise InputError(f"config key `dataset.classes`: the value {twice} has two classes. Keep one.")
        if all(name in NO_CELLS for name in classes):
            raise InputError(
                f"config key `dataset.classes`: found only {' and '.join(classes)}; expected at least one "
                "class of cells, for example `cell: 1`."
            )


def _listed(values: int | Sequence[int]) -> tuple[int, ...]:
    return (values,) if isinstance(values, int) else tuple(values)


def count_values(images: Images, ignore: int | None, mask: Images | None) -> Values:
    """Count the pixels of each value that is not ignored."""
    counter = meaning.ValueCounter()
    for z in range(images.shape[1]):
        for part in meaning.sampled_blocks(images.shape[2:]):
            region = images.read(z, *part.read)[0]
            if ignore is not None or mask is not None:
                region = region[~ignored_pixels(images, ignore, mask, z, *part.read)]
            if counter.add(z, part, region.ravel()) > _MOST_LABELS:
                raise InputError(
                    f"{images.path}: found more than {_MOST_LABELS:,} different values, the limit for one "
                    "volume. Check that the file is an annotation, not an image. Split a large annotation "
                    "into several volumes with the column `sections` of the table of volumes."
                )
    return replace(counter.result(), colours=images.info.colours)


def masks_of_cells(images: Images, mask: Images | None) -> AnnotationRegions:
    """Return an annotation with one slice for each cell."""
    found = count_values(images, None, None)
    if len(found.values) > 2 or (len(found.values) == 2 and found.values[0] != 0):
        raise InputError(
            f"{images.path}: found {images.shape[1]} slices for one image, expected one black and white mask "
            f"for each cell; their values are {meaning.histogram(found)}. Save one image with instance "
            "labels, or name an image with as many sections."
        )
    regions = (images.read(z, *block.read)[0] for z, block in found.sample)
    if (areas := meaning.measure_areas(found, regions)).split > meaning.MOST_SPLIT:
        raise InputError(
            f"{images.path}: {areas.split:.0%} of the {images.shape[1]} slices have several separate areas, "
            "expected one cell in each, because there is one image. If the slices are classes or annotators, "
            "name one of them in the table, for example a file instead of the folder."
        )
    description = f"{images.shape[1]} masks of {images.shape[2]} x {images.shape[3]} px, each one cell"
    dtype = np.dtype(np.uint16 if images.shape[1] < 2**16 else np.uint32)
    return AnnotationRegions("masks", description, dtype, False, images, mask=mask)


@dataclass(frozen=True)
class Given:
    """An annotation whose values were counted, and what the settings say about it."""

    images: Images
    found: Values
    kind: str
    classes: Mapping[str, int | Sequence[int]]
    ignore: int | None
    mask: Images | None
    relabel: bool

    @property
    def path(self) -> str | Path:
        return self.images.path

    def regions(self) -> AnnotationRegions:
        """Return the regions of the annotation with the meaning of its values."""
        if not len(self.found.values):
            raise InputError(
                f"{self.path}: every pixel is ignored, expected some that are annotated. Correct "
                "`dataset.ignore` or the mask, or remove this volume."
            )
        if self.kind == "classes":
            return self._classes()
        nodata = self.images.info.nodata
        if nodata and nodata in self.found.values:
            raise InputError(
                f"{self.path}: found the value {nodata}, which means no data (tag GDAL_NODATA). If it means "
                f"not annotated, set `dataset: {{ignore: {nodata}}}`; if it is a label, remove its "
                f"meaning:\n{set_tag(self.path, 42113, 'nan')}"
            )
        meaning.require_labels(self.path, self.found, self.ignore)
        if self.found.colours and self.kind != "instances":
            raise self._unclear(self._unstated_colours())
        if self.kind.endswith("membranes"):
            return self._membranes(self.kind == "white_membranes", inferred=False)
        if self.kind == "instances":
            return self._instances(inferred=False)
        return self._inferred()

    @cached_property
    def _areas(self) -> meaning.Areas:
        return meaning.measure_areas(self.found, self._sample())

    @cached_property
    def _is_smoothed(self) -> bool:
        return meaning.smoothed(self.found, self._sample())

    def _unclear(self, message: str) -> UnclearAnnotation:
        return UnclearAnnotation(message, self.found, next(self._sample()))

    def _inferred(self) -> AnnotationRegions:
        """Return the regions with the meaning that the values clearly have, or raise `InputError`."""
        values = self.found.values
        if len(values) == 1:
            raise self._unclear(
                f"{self.path}: every pixel of the annotation is {meaning.plain(values[0])}; expected 0 for "
                "membranes or background, and other values for cells. Check that it was saved after drawing. "
                "If the images show no cell, or one cell covers them, set "
                "`dataset: {annotation_kind: instances}`."
            )
        if len(values) == 2 and values[0] == 0:
            cells = self._cells_of_two()
            if cells is None:
                raise self._unclear(
                    f"{self.path}: it is not clear which of two values are cells "
                    f"({self._evidence()}). "
                    f"If {meaning.plain(values[1])} are cells, set `dataset: {{annotation_kind: "
                    f"{self._drawn(black=True)}}}`; if 0 are cells, set `dataset: {{annotation_kind: "
                    f"{self._drawn(black=False)}}}`; if {meaning.plain(values[1])} is one single cell, set "
                    "`dataset: {annotation_kind: instances}`."
                )
            return self._membranes((cells == 0) != self.images.info.white_is_zero, inferred=True)
        areas = self._areas
        labels = int(np.count_nonzero(values))
        if areas.scattered(labels):
            raise self._unclear(
                f"{self.path}: found gray levels, not an annotation: the values are scattered and form areas "
                f"of {areas.median_size:.1f} px (median), as in images and after smoothing or scaling "
                f"({meaning.histogram(self.found)}). {self._threshold()}"
            )
        if areas.split <= meaning.MOST_SPLIT and (value := meaning.sentinel(self.found)) is not None:
            share = self.found.share[-1]
            raise self._unclear(
                f"{self.path}: found the value {value} in {share:.2%} of the pixels, far above the other "
                f"{len(values) - 1} values up to {meaning.plain(values[-2])}. If it means not annotated, set "
                f"`dataset: {{ignore: {value}}}`{meaning.if_background(self.found, values[-1])}; if it is a "
                "cell, set `dataset: {annotation_kind: instances}`."
            )
        if labels > meaning.FEW and areas.frame.max() > meaning.AROUND and values[0] != 0:
            background = meaning.plain(values[areas.frame.argmax()])
            raise self._unclear(
                f"{self.path}: found {labels} values, none of them 0, and {background} in "
                f"{areas.frame.max():.0%} of the pixels at the sides, like a background. If it is the "
                f"background, set `dataset: {{background: {background}}}`; if it is a cell, set "
                "`dataset: {annotation_kind: instances}`."
            )
        if not areas.like_labels(few=labels <= meaning.FEW or values[0] != 0):
            raise self._unclear(self._not_instances(areas, labels))
        if values[0] != 0 and labels <= meaning.FEW:
            raise self._unclear(
                f"{self.path}: found {labels} values, none of them 0 ({self._evidence()}); expected 0 "
                "for membranes or background. For classes of pixels, set "
                f"{meaning.class_lines(self.found, self._sample())}. If each value is one cell, set "
                "`dataset: {annotation_kind: instances}`."
            )
        if self._restarted(areas):
            raise self._unclear(self._not_instances(areas, labels))
        return self._instances(inferred=True)

    def _unstated_colours(self) -> str:
        """Return the message for colours whose meaning is not stated."""
        values, at_frame = self.found.values, self._areas.frame
        background = values[at_frame.argmax()]
        around = background != 0 and at_frame.max() > meaning.AROUND
        stated = f", background: {self.found.text(background)}" if around else ""
        several = " Add `relabel: true` if a colour is used for several cells." * (self._areas.split > 0.02)
        listed = self._seen[1] if len(values) > 8 else np.ones(len(values), bool)
        lines = ""
        if 2 <= listed.sum() <= 8 and background in values[listed]:
            kept = replace(self.found, values=values[listed], counts=self.found.counts[listed])
            regions = [
                np.where(np.isin(region, kept.values), region, background) for region in self._sample()
            ]
            lines = f" For classes of pixels, set {meaning.class_lines(kept, regions)}."
        return (
            f"{self.path}: found {len(values)} colours, whose meaning is not stated ({self._evidence()}). "
            f"{sections_hint(self.path, self.images.info)}If each colour is one cell, set "
            f"`dataset: {{annotation_kind: instances{stated}}}`.{several}{lines}"
            f"{self._anti_aliased()}"
        )

    @cached_property
    def _seen(self) -> tuple[np.ndarray, np.ndarray]:
        return meaning.fills_squares(self.found, self._sample())

    def _anti_aliased(self) -> str:
        """Return what to do about colours that are only at edges; an empty text if there are few."""
        seen, solid = self._seen
        edges = seen & ~solid
        if not self.found.colours or edges.sum() <= solid.sum():
            return ""
        share = float(self.found.share[edges].sum())
        text = f" {edges.sum()} of the colours fill no square of 3 x 3 px ({share:.2%} of the pixels), "
        if share > 0.5:
            return f"{text}as in an image. Check that this file is the annotation."
        text += "as at the edges of a drawing with anti-aliasing. "
        least = int(self.found.counts[solid].min())
        if self.images.shape[1] > 1 or not seen.all() or least <= self.found.counts[edges].max():
            return f"{text}Save it without anti-aliasing."
        line = without_rare_colours(self.path, self.images.info, least)
        return f"{text}To give these pixels the nearest of the other colours ({written(self.path)}):\n{line}"

    def _restarted(self, areas: meaning.Areas) -> bool:
        """Return whether all numbers of 8 bits are labels, and some were used again for other cells."""
        return self.images.dtype.itemsize == 1 and len(self.found.values) == 256 and areas.split > 0.02

    def _threshold(self) -> str:
        """Return how to make two values of gray levels."""
        if self._is_smoothed:
            middle = (float(self.found.values[0]) + float(self.found.values[-1])) / 2
            line = "" if hdf5_path(self.path) else black_and_white(self.path, self.images.info, middle)
            return (
                "If it is a black and white mask that was smoothed, scaled or saved as JPEG, make two "
                f"values, 0 up to {middle:g} and 255 above"
                + (f" ({written(self.path)}):\n{line}" if line else ".")
            )
        return (
            "Save the labels without smoothing, or make membranes black and white (Fiji: Image > Adjust > "
            "Threshold..., Apply)."
        )

    def _not_instances(self, areas: meaning.Areas, labels: int) -> str:
        """Return the message for values that are no instance labels."""
        described = meaning.histogram(self.found, areas)
        if labels <= 8:
            classes = meaning.class_lines(self.found, self._sample())
            smoothed = f" {self._threshold()}" if self._is_smoothed else ""
            return (
                f"{self.path}: the meaning of the values is not clear ({described}). For classes of pixels, "
                f"set {classes}, with the names that fit. If a value means not annotated, add `ignore`. If "
                f"each value is one cell, set `dataset: {{annotation_kind: instances}}`.{smoothed}"
            )
        if areas.split <= meaning.MOST_SPLIT and not self._restarted(areas):
            common = self.found.text(self.found.values[self.found.share.argmax()])
            return (
                f"{self.path}: {areas.enclosed:.0%} of the areas of {labels} labels lie inside that of "
                f"another label ({described}). If {common}, the most common value, is the background, set "
                f"`dataset: {{background: {common}}}`; if each label is one cell, set "
                "`dataset: {annotation_kind: instances}`."
            )
        return (
            f"{self.path}: {areas.split:.0%} of the {labels} labels have several separate areas in a section "
            f"({described}). If labels were used for several cells, set `dataset: {{annotation_kind: "
            "instances, relabel: true}`; if each label is one cell, set "
            "`dataset: {annotation_kind: instances}`."
        )

    def _sample(self) -> Iterator[np.ndarray]:
        """Yield the sampled regions."""
        return (self._region(z, block) for z, block in self.found.sample)

    def _region(self, z: int, block: Block) -> np.ndarray:
        """Return a region in which ignored pixels have the smallest value, mostly the background."""
        region = self.images.read(z, *block.read)[0]
        if self.ignore is not None or self.mask is not None:
            ignored = ignored_pixels(self.images, self.ignore, self.mask, z, *block.read)
            region = np.where(ignored, self.found.values[0], region)
        return region

    def _cells_of_two(self) -> int | None:
        """Return whether the pixels that are 0 (0) or the others (1) look like cells; None if unclear."""
        return meaning.cells_of_two(self._marked(z, block, [0]) for z, block in self.found.sample)

    def _marked(self, z: int, block: Block, values: Sequence[int]) -> np.ndarray:
        """Return a region that is 0 for some values, 1 for others, and -1 where it is ignored."""
        region = self.images.read(z, *block.read)[0]
        found = np.where(np.isin(region, values), np.int8(0), np.int8(1))
        if self.ignore is not None or self.mask is not None:
            found[ignored_pixels(self.images, self.ignore, self.mask, z, *block.read)] = -1
        return found

    def _evidence(self) -> str:
        return meaning.histogram(self.found, self._areas)

    def _drawn(self, *, black: bool) -> str:
        """Return the kind of membranes that are 0 (`black`), or of cells that are 0, as displayed."""
        return "black_membranes" if black != self.images.info.white_is_zero else "white_membranes"

    def _blank(self, is_cell: Callable[[float], bool]) -> tuple[int, ...]:
        """Return the sections that are one single cell, if other sections have several values."""
        whole = self.images.shape[2] * self.images.shape[3]
        if all(section.low == section.high for section in self.found.sections):
            return ()
        uniform = [s for s in self.found.sections if s.low == s.high and s.pixels == whole]
        return tuple(section.z for section in uniform if is_cell(section.low))

    def _ignored_share(self) -> str:
        total = math.prod(self.images.shape)
        ignored = total - int(self.found.counts.sum())
        if self.ignore is None and self.mask is None:
            return ""
        return f", {ignored / total:.1%} of the pixels are not annotated"

    def _two_values(self) -> str:
        """Return what to do about more than two values of an annotation of membranes."""
        if self._is_smoothed:
            return self._threshold()
        if len(self.found.values) == 3 and int(self.found.values[-1]) in meaning.SENTINELS:
            value = meaning.plain(self.found.values[-1])
            return f"If {value} means not annotated, set `dataset: {{ignore: {value}}}`."
        return "Save two values, or set `dataset: {annotation_kind: instances}` for instance labels."

    def _membranes(self, white: bool, *, inferred: bool) -> AnnotationRegions:
        """Return an annotation of membranes that are displayed as `white` or black."""
        values, kind = self.found.values, "white_membranes" if white else "black_membranes"
        if np.count_nonzero(values) > 1:
            raise InputError(
                f"{self.path}: `dataset.annotation_kind: {kind}` expects two values, 0 and another one; "
                f"found {meaning.histogram(self.found)}. {self._two_values()}"
            )
        # black and white are what Fiji displays: with WhiteIsZero, zeros are white
        cells_are_zero = white != self.images.info.white_is_zero
        cells = float(self.found.share[(values == 0) == cells_are_zero].sum())
        description = (
            f"{size(self.images.shape[1:])}, values {' and '.join(map(meaning.plain, values))}: "
            f"{'white' if white else 'black'} membranes or background, cells cover {cells:.1%} of the pixels"
            f"{self._ignored_share()}"
        )
        if self.images.info.white_is_zero:
            description += "; 0 is displayed as white"
        if inferred:
            description += "; inferred from the shapes of the areas"
        doubts = self._inverted_sections(cells_are_zero)
        if not inferred and len(values) == 2:
            seen = self._cells_of_two()
            if seen is not None and (seen == 0) != cells_are_zero:
                text = (
                    f"The annotation looks inverted: the value {meaning.plain(values[seen])} forms many "
                    f"compact areas, like cells, but `annotation_kind: {kind}` makes it the membranes."
                )
                doubts = [doubt("inverted", 0.9, text)]
        return AnnotationRegions(
            "membranes",
            description,
            np.dtype(np.uint8),
            True,
            self.images,
            cells_are_zero,
            blank=self._blank(lambda value: (value == 0) == cells_are_zero),
            ignore=self.ignore,
            mask=self.mask,
            doubts=doubts,
        )

    def _inverted_sections(self, cells_are_zero: bool) -> list[Json]:
        """Return a doubt if black and white are exchanged in some sections."""
        shares = np.array([section.not_zero / section.pixels for section in self.found.sections])
        usual = float(np.median(shares))
        numbers = []
        for section, share in zip(self.found.sections, shares, strict=True):
            if abs(share - (1 - usual)) < abs(share - usual):
                blocks = meaning.sampled_blocks(self.images.shape[2:])[: meaning.SAMPLES]
                seen = meaning.cells_of_two(self._marked(section.z, block, [0]) for block in blocks)
                if seen is not None and (seen == 0) != cells_are_zero:
                    numbers.append(section.z)
        if not numbers:
            return []
        text = (
            f"{len(numbers)} of {len(shares)} sections look inverted (the first is section {numbers[0] + 1}, "
            "counted from 1). Exchange black and white there, or leave them out with the column `sections`."
        )
        return [doubt("inverted", 0.9, text, numbers[0])]

    def _instances(self, *, inferred: bool) -> AnnotationRegions:
        """Return an annotation of instance labels."""
        values, share = self.found.values, self.found.share
        labels = values[values > 0]
        background = float(share[0]) if values[0] == 0 else 0.0
        spread = f" from {meaning.plain(labels[0])} to {meaning.plain(labels[-1])}" if len(labels) else ""
        if self.found.colours:
            spread = " of colours"
        description = (
            f"{size(self.images.shape[1:])}, instance labels: {len(labels)} values{spread}, background "
            f"covers {background:.1%} of the pixels{self._ignored_share()}"
        )
        if inferred:
            description += "; inferred from values that form one area each"
        if self.relabel:
            description += "; each connected area is one cell"
        small = self.images.dtype.kind in "iu" and self.images.dtype.itemsize <= 4
        dtype = np.dtype(f"u{self.images.dtype.itemsize}" if small else np.uint32)
        return AnnotationRegions(
            "instances",
            description,
            dtype,
            self.relabel,
            self.images,
            blank=self._blank(lambda value: value != 0),
            ignore=self.ignore,
            mask=self.mask,
            doubts=self._doubts_of_instances() if len(labels) else (),
            colours=(0, *labels.tolist()) if self.found.colours else (),
        )

    def _doubts_of_instances(self) -> list[Json]:
        doubts = []
        if (value := meaning.sentinel(self.found)) is not None:
            text = (
                f"The label {value} covers {self.found.share[-1]:.1%} of the pixels and is far above all "
                f"others. If it means not annotated, set `dataset: {{ignore: {value}}}`"
                f"{meaning.if_background(self.found, value)}."
            )
            doubts.append(doubt("sentinel", 0.85, text))
        areas = self._areas
        labels = int(np.count_nonzero(self.found.values))
        if text := self._anti_aliased():
            doubts.append(doubt("anti_aliasing", 0.95, text.strip()))
        elif areas.scattered(labels):
            text = (
                f"The labels are scattered and form areas of {areas.median_size:.1f} px (median), like the "
                "gray levels of an image."
            )
            doubts.append(doubt("gray_levels", 0.95, text))
        elif areas.split > 0.02 and not self.relabel:
            text = f"{areas.split:.0%} of the labels have several separate areas in a section. "
            several = int(areas.number[self.found.values != 0].sum())
            if labels <= meaning.FEW and areas.split > meaning.MOST_SPLIT and several > 2 * labels:
                text += (
                    f"So few labels ({labels}) for {several} areas are those of a mask or of classes: set "
                    "`relabel: true` if each area is one cell, or the right `annotation_kind`."
                )
                doubts.append(doubt("several_areas", 0.9, text))
            else:
                text += "If these are different cells, set `relabel: true`."
                restarted = self._restarted(areas)
                weight = 0.9 if restarted else 0.4 if areas.split <= meaning.MOST_SPLIT else 0.7
                doubts.append(doubt("several_areas", weight, text))
        if not self.relabel and (share := meaning.hollow(self._sample())) > 0.5:
            text = (
                f"{share:.0%} of the labels are rings around background that is larger than they are, like "
                "outlines that were not filled. The network then learns the rings."
            )
            if not hdf5_path(self.path) and not self.found.colours:
                line = fill_outlines(self.path)
                text += f" If the insides are cells, fill them ({written(self.path)}):\n{line}"
            doubts.append(doubt("hollow", 0.85, text))
        return doubts

    def _classes(self) -> AnnotationRegions:
        """Return an annotation of classes."""
        named = {name: _listed(values) for name, values in self.classes.items()}
        known = [value for values in named.values() for value in values]
        unknown = ~np.isin(self.found.values, known)
        if unknown.any():
            raise InputError(
                f"{self.path}: the values {', '.join(map(self.found.text, self.found.values[unknown][:10]))} "
                f"have no class ({meaning.histogram(self.found)}). Add them to `dataset.classes`, or set "
                f"`dataset.ignore` for a value that means not annotated.{self._anti_aliased()}"
            )
        cells = [name for name in named if name not in NO_CELLS]
        if len(cells) >= BORDER:
            raise InputError(
                f"config key `dataset.classes`: {len(cells)} classes of cells, expected fewer than {BORDER}."
            )
        numbers = [(number, named[name]) for number, name in enumerate(cells, 1)]
        numbers += [(BORDER, named["border"])] if "border" in named else []
        shares = {
            name: float(self.found.share[np.isin(self.found.values, values)].sum())
            for name, values in named.items()
        }
        described = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        doubts = []
        of_cells = [value for name in cells for value in named[name]]
        regions = (self._marked(z, block, of_cells) for z, block in self.found.sample)
        if meaning.cells_of_two(regions) == 1:
            text = (
                f"The annotation looks inverted: the pixels that are not {' or '.join(cells)} form many "
                "compact areas, like cells. Correct `dataset.classes`."
            )
            doubts = [doubt("inverted", 0.9, text)]
        return AnnotationRegions(
            "classes",
            f"{size(self.images.shape[1:])}, classes: {described}{self._ignored_share()}",
            np.dtype(np.uint8),
            True,
            self.images,
            blank=self._blank(lambda value: value in of_cells),
            classes=tuple(numbers),
            names=tuple(cells),
            ignore=self.ignore,
            mask=self.mask,
            doubts=doubts,
        )
