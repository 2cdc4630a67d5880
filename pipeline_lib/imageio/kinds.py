"""Decide what the values of an annotation mean: as settings state it, or from clear evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_lib.imageio import meaning
from pipeline_lib.imageio.headers import size
from pipeline_lib.imageio.images import Images
from pipeline_lib.imageio.meaning import Values
from pipeline_lib.imageio.regions import BORDER, AnnotationRegions, ignored_pixels
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
        Values of the annotation, with sampled regions that show them.
    """

    def __init__(self, message: str, found: Values) -> None:
        super().__init__(message)
        self.found = found


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
    return counter.result()


def masks_of_cells(images: Images, mask: Images | None) -> AnnotationRegions:
    """Return an annotation with one slice for each cell."""
    found = count_values(images, None, None)
    if len(found.values) > 2 or (len(found.values) == 2 and found.values[0] != 0):
        raise InputError(
            f"{images.path}: found {images.shape[1]} slices for one image, expected one black and white mask "
            f"for each cell; their values are {meaning.histogram(found)}. Save one image with instance "
            "labels, or name an image with as many sections."
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
        meaning.require_labels(self.path, self.found, self.ignore)
        if self.kind.endswith("membranes"):
            return self._membranes(self.kind == "white_membranes", inferred=False)
        if self.kind == "instances":
            return self._instances(inferred=False)
        return self._inferred()

    def _unclear(self, message: str) -> UnclearAnnotation:
        return UnclearAnnotation(message, self.found)

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
        areas = meaning.measure_areas(self.found, self._sample())
        labels = int(np.count_nonzero(values))
        if areas.scattered(labels):
            raise self._unclear(
                f"{self.path}: found gray levels, not an annotation: the values are scattered and form areas "
                f"of {areas.median_size:.1f} px (median), as in images and after smoothing or scaling "
                f"({meaning.histogram(self.found)}). Save the labels without smoothing, or make membranes "
                "black and white (Fiji: Image > Adjust > Threshold..., Apply)."
            )
        if areas.split <= meaning.MOST_SPLIT and (value := meaning.sentinel(self.found)) is not None:
            share = self.found.share[-1]
            raise self._unclear(
                f"{self.path}: found the value {value} in {share:.2%} of the pixels, far above the other "
                f"{len(values) - 1} values up to {meaning.plain(values[-2])}. If it means not annotated, set "
                f"`dataset: {{ignore: {value}}}`; if it is a cell, set "
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
        return self._instances(inferred=True)

    def _not_instances(self, areas: meaning.Areas, labels: int) -> str:
        """Return the message for values that are no instance labels."""
        described = meaning.histogram(self.found, areas)
        if labels <= 8:
            classes = meaning.class_lines(self.found, self._sample())
            return (
                f"{self.path}: the meaning of the values is not clear ({described}). For classes of pixels, "
                f"set {classes}, with the names that fit. If a value means not annotated, add `ignore`. If "
                "each value is one cell, set `dataset: {annotation_kind: instances}`."
            )
        return (
            f"{self.path}: {areas.split:.0%} of the {labels} labels have several separate areas in a section "
            f"({described}). If labels were used for several cells, set `dataset: {{annotation_kind: "
            "instances, relabel: true}`; if each label is one cell, set "
            "`dataset: {annotation_kind: instances}`."
        )

    def _sample(self) -> Iterator[np.ndarray]:
        """Yield the sampled regions; ignored pixels have the smallest value, mostly the background."""
        for z, block in self.found.sample:
            region = self.images.read(z, *block.read)[0]
            if self.ignore is not None or self.mask is not None:
                ignored = ignored_pixels(self.images, self.ignore, self.mask, z, *block.read)
                region = np.where(ignored, self.found.values[0], region)
            yield region

    def _cells_of_two(self) -> int | None:
        """Return whether the pixels that are 0 (0) or the others (1) look like cells; None if unclear."""
        return meaning.cells_of_two(region != 0 for region in self._sample())

    def _evidence(self) -> str:
        return meaning.histogram(self.found, meaning.measure_areas(self.found, self._sample()))

    def _drawn(self, *, black: bool) -> str:
        """Return the kind of membranes that are 0 (`black`), or of cells that are 0, as displayed."""
        return "black_membranes" if black != self.images.info.white_is_zero else "white_membranes"

    def _ignored_share(self) -> str:
        total = math.prod(self.images.shape)
        ignored = total - int(self.found.counts.sum())
        if self.ignore is None and self.mask is None:
            return ""
        return f", {ignored / total:.1%} of the pixels are not annotated"

    def _membranes(self, white: bool, *, inferred: bool) -> AnnotationRegions:
        """Return an annotation of membranes that are displayed as `white` or black."""
        values, kind = self.found.values, "white_membranes" if white else "black_membranes"
        if np.count_nonzero(values) > 1:
            raise InputError(
                f"{self.path}: `dataset.annotation_kind: {kind}` expects two values, 0 and another one; "
                f"found {meaning.histogram(self.found)}. Save two values, or set "
                "`dataset: {annotation_kind: instances}` for instance labels."
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
        doubts = []
        if not inferred and len(values) == 2:
            seen = self._cells_of_two()
            if seen is not None and (seen == 0) != cells_are_zero:
                doubts.append(
                    doubt(
                        "inverted",
                        0.9,
                        f"The annotation looks inverted: the value {meaning.plain(values[seen])} forms many "
                        f"compact areas, like cells, but `annotation_kind: {kind}` makes it the membranes.",
                    )
                )
        return AnnotationRegions(
            "membranes",
            description,
            np.dtype(np.uint8),
            True,
            self.images,
            cells_are_zero,
            ignore=self.ignore,
            mask=self.mask,
            doubts=doubts,
        )

    def _instances(self, *, inferred: bool) -> AnnotationRegions:
        """Return an annotation of instance labels."""
        values, share = self.found.values, self.found.share
        labels = values[values > 0]
        background = float(share[0]) if values[0] == 0 else 0.0
        spread = f" from {meaning.plain(labels[0])} to {meaning.plain(labels[-1])}" if len(labels) else ""
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
            ignore=self.ignore,
            mask=self.mask,
            doubts=self._doubts_of_instances() if len(labels) else (),
        )

    def _doubts_of_instances(self) -> list[Json]:
        doubts = []
        if (value := meaning.sentinel(self.found)) is not None:
            text = (
                f"The label {value} covers {self.found.share[-1]:.1%} of the pixels and is far above all "
                f"others. If it means not annotated, set `ignore: {value}`."
            )
            doubts.append(doubt("sentinel", 0.7, text))
        areas = meaning.measure_areas(self.found, self._sample())
        if areas.scattered(int(np.count_nonzero(self.found.values))):
            text = (
                f"The labels are scattered and form areas of {areas.median_size:.1f} px (median), like the "
                "gray levels of an image."
            )
            doubts.append(doubt("gray_levels", 0.95, text))
        elif areas.split > 0.02 and not self.relabel:
            text = (
                f"{areas.split:.0%} of the labels have several separate areas in a section. If these are "
                "different cells, set `relabel: true`."
            )
            doubts.append(doubt("several_areas", 0.4 if areas.split <= meaning.MOST_SPLIT else 0.7, text))
        return doubts

    def _classes(self) -> AnnotationRegions:
        """Return an annotation of classes."""
        named = {name: _listed(values) for name, values in self.classes.items()}
        known = [value for values in named.values() for value in values]
        unknown = ~np.isin(self.found.values, known)
        if unknown.any():
            raise InputError(
                f"{self.path}: the values {', '.join(map(meaning.plain, self.found.values[unknown][:10]))} "
                f"have no class ({meaning.histogram(self.found)}). Add them to `dataset.classes`, or set "
                "`dataset.ignore` for a value that means not annotated."
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
        return AnnotationRegions(
            "classes",
            f"{size(self.images.shape[1:])}, classes: {described}{self._ignored_share()}",
            np.dtype(np.uint8),
            True,
            self.images,
            classes=tuple(numbers),
            ignore=self.ignore,
            mask=self.mask,
        )
