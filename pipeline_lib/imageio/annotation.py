"""Read annotations. What their values mean is stated by settings, or inferred from clear evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline_lib.imageio import meaning
from pipeline_lib.imageio.headers import require_whole, size
from pipeline_lib.imageio.images import Images, open_chosen
from pipeline_lib.imageio.meaning import Values
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

#: What an annotation can contain. "auto" infers it from the areas that the values form.
ANNOTATION_KINDS = ("auto", "black_membranes", "white_membranes", "instances", "classes")
#: Classes of annotations that are not cells. Each other class is a class of cells.
NO_CELLS = ("background", "border")

BORDER = 255  # in regions of classes, pixels of the class `border`

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


@dataclass(frozen=True)
class Annotation:
    """An annotation in memory; `read_annotation` creates it.

    Parameters
    ----------
    kind : {"membranes", "instances", "classes", "masks"}
        What the file contains.
    labels : (z, y, x) array of unsigned int
        Instance labels, 0 = background. For "membranes", the 4-connected components of each section.
    ignore : (z, y, x) array of bool, or None
        True where the image is not annotated; None if all pixels are annotated.
    description : str
        What was found in the file and what was inferred, for the log.
    """

    kind: str
    labels: np.ndarray
    ignore: np.ndarray | None
    description: str


@dataclass(frozen=True)
class AnnotationRegions:
    """An open annotation, whose values have a known meaning; `open_annotation` creates it.

    Parameters
    ----------
    kind : {"membranes", "instances", "classes", "masks"}
        What the file contains. "masks" are slices that each show one cell of the same image.
    description : str
        What was found in the file and what was inferred, for the log.
    dtype : numpy.dtype
        Type of the values that `read` returns.
    separate : bool
        Whether each connected area of equal values is a cell. If False, each value is a cell.
    images : Images
        Regions of the file as they are stored.
    cells_are_zero : bool, default False
        For "membranes": whether cells are stored as 0.
    classes : tuple of (int, tuple of int), default ()
        For "classes": number of each class that `read` returns, and its values in the file.
    ignore : int or None, default None
        Value that means "not annotated".
    mask : Images or None, default None
        Image of the same size that is not 0 where the annotation is ignored.
    doubts : list of dict, default ()
        What looks wrong, although it is allowed: `name`, `weight` (0 to 1) and `text`.
    """

    kind: str
    description: str
    dtype: np.dtype
    separate: bool
    images: Images = field(repr=False)
    cells_are_zero: bool = False
    classes: tuple[tuple[int, tuple[int, ...]], ...] = ()
    ignore: int | None = None
    mask: Images | None = field(default=None, repr=False)
    doubts: Sequence[Json] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Lengths of the axes `zyx`; z counts the selected sections."""
        sections, height, width = self.images.shape[1:]
        return 1 if self.kind == "masks" else sections, height, width

    @property
    def may_ignore(self) -> bool:
        """Whether pixels may be ignored. If False, `read_ignore` is False everywhere."""
        return self.ignore is not None or self.mask is not None

    def read(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """Return a region of one section. Ignored pixels are 0.

        Parameters
        ----------
        z : int
            Index of the section among the selected sections.
        rows, columns : slice
            Rows and columns of the region, as for indexing an array, without step.

        Returns
        -------
        (y, x) array
            Values of type `dtype`. For "membranes", 1 = cell and 0 = membrane. For "classes", 0 = background,
            `BORDER` = border, and each other value a class of cells. Otherwise 0 = background and each other
            value one cell.

        Raises
        ------
        InputError
            If the file is damaged, or for "masks", if a pixel belongs to two cells.
        """
        if self.kind == "masks":
            found = self._read_masks(rows, columns)
        else:
            region = self.images.read(z, rows, columns)[0]
            found = self._meaning_of(region)
        if self.may_ignore:
            found[self.read_ignore(z, rows, columns)] = 0
        return found

    def _meaning_of(self, region: np.ndarray) -> np.ndarray:
        """Return what the values of a region mean, as a new array."""
        if self.kind == "membranes":
            return ((region == 0) == self.cells_are_zero).view(np.uint8)
        if self.kind == "classes":
            found = np.zeros(region.shape, self.dtype)
            for number, values in self.classes:
                found[np.isin(region, values)] = number
            return found
        with np.errstate(invalid="ignore"):  # ignored values may not fit
            return region.astype(self.dtype)

    def _read_masks(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the number of the slice, from 1, that is not 0 at each pixel."""
        found = np.zeros((0, 0), self.dtype)
        for number in range(self.images.shape[1]):
            own = self.images.read(number, rows, columns)[0] != 0
            found = found if number else np.zeros(own.shape, self.dtype)
            if (both := own & (found > 0)).any():
                other = int(found[both][0])
                raise InputError(
                    f"{self.images.path}: the masks number {other} and {number + 1} overlap in "
                    f"{np.count_nonzero(both)} px; expected one cell for each pixel. Remove one of them, or "
                    "save one image with instance labels."
                )
            found[own] = number + 1
        return found

    def read_ignore(self, z: int, rows: slice, columns: slice) -> np.ndarray:
        """Return where a region of one section is not annotated.

        Parameters
        ----------
        z : int
            Index of the section among the selected sections.
        rows, columns : slice
            Rows and columns of the region, as for indexing an array, without step.

        Returns
        -------
        (y, x) array of bool
            True where the image is not annotated.

        Raises
        ------
        InputError
            If a file is damaged.
        """
        return _ignored(self.images, self.ignore, self.mask, z, rows, columns, self.kind == "masks")


def _ignored(
    images: Images,
    ignore: int | None,
    mask: Images | None,
    z: int,
    rows: slice,
    columns: slice,
    masks: bool = False,
) -> np.ndarray:
    """Return where a region is not annotated; see `AnnotationRegions.read_ignore`."""
    shape = (len(range(*part.indices(n))) for part, n in zip((rows, columns), images.shape[2:], strict=True))
    found = np.zeros(tuple(shape), bool)
    if ignore is not None and not masks:
        found |= images.read(z, rows, columns)[0] == ignore
    if mask is not None:
        found |= mask.read(z, rows, columns)[0] != 0
    return found


@contextmanager
def open_annotation(
    path: str | Path,
    *,
    sections: str | None = None,
    kind: str = "auto",
    classes: Mapping[str, int | Sequence[int]] | None = None,
    ignore: int | None = None,
    ignore_mask: str | Path | None = None,
    relabel: bool = False,
    masks: bool = False,
    slices: Sequence[Path | None] | None = None,
    mask_slices: Sequence[Path | None] | None = None,
) -> Iterator[AnnotationRegions]:
    """Open an annotation to read regions of it, and find out what its values mean. Context manager.

    All values are read once when the annotation is opened. Black and white are what Fiji displays: with
    `WhiteIsZero`, zeros are white. Instance labels are never inverted.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder of PNG or TIFF slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    kind : {"auto", "black_membranes", "white_membranes", "instances", "classes"}, default "auto"
        Meaning of the values:

        - "black_membranes": membranes are 0 and cells another value, as in the ISBI 2012 challenge.
        - "white_membranes": cells are 0 and membranes another value.
        - "instances": 0 is background, each other value one cell.
        - "classes": see `classes`.
        - "auto": two values, one of them 0, are cells and membranes or background: cells are the value that
          forms many compact areas. More values are instances if most values form one area. Anything else is
          an error that lists the values, their shares and areas, and the settings to choose from.
    classes : mapping of str to int or list of int, optional
        Values of each class, for "classes". Each connected area of a class is a cell, except for the classes
        "background" and "border".
    ignore : int, optional
        Value that means "not annotated".
    ignore_mask : str or Path, optional
        Image of the same size, in the same formats; its pixels other than 0 are not annotated.
    relabel : bool, default False
        Whether each connected area of an instance label is a separate cell.
    masks : bool, default False
        Whether the file or folder has one binary slice for each cell of a single section.
    slices, mask_slices : sequence of Path or None, optional
        Files of the folder `path` and of the folder `ignore_mask` in the order in which to read them, as
        returned by `matching_slices`.

    Yields
    ------
    AnnotationRegions
        The selected sections. They can be read inside the `with` statement.

    Raises
    ------
    InputError
        As `open_images`, if the values do not fit `kind`, or if "auto" finds no clear meaning.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio import open_annotation, write_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "membranes.tif")
    ...     write_images(path, np.array([[[255, 0, 255, 255]]], np.uint8))
    ...     with open_annotation(path, kind="black_membranes") as annotation:
    ...         print(annotation.kind, annotation.read(0, slice(0, 1), slice(0, 3)))
    membranes [[1 0 1]]
    """
    _check_settings(kind, classes)
    with ExitStack() as stack:
        images = stack.enter_context(
            open_chosen(path, None if masks else sections, 1, annotation=True, slices=slices)
        )
        mask = None
        if ignore_mask is not None:
            mask = stack.enter_context(
                open_chosen(ignore_mask, sections, 1, annotation=True, slices=mask_slices)
            )
            if mask.shape[1 + masks :] != images.shape[1 + masks :]:
                raise InputError(
                    f"{ignore_mask}: the mask of ignored pixels has {size(mask.shape[1:])}, but {path} has "
                    f"{size(images.shape[1:])}. Both must show the same sections."
                )
        if masks:
            yield _masks(images, mask)
            return
        found = _count_values(images, ignore, mask)
        given = _Given(images, found, kind, classes or {}, ignore, mask, relabel)
        yield given.regions()


def _check_settings(kind: str, classes: Mapping[str, int | Sequence[int]] | None) -> None:
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


def read_annotation(path: str | Path, *, kind: str = "auto", **settings: object) -> Annotation:
    """Read an annotation as a whole, and find out what its values mean.

    Parameters
    ----------
    path : str or Path
        TIFF or PNG file, folder of PNG or TIFF slices, or `file.h5:/dataset`.
    kind : {"auto", "black_membranes", "white_membranes", "instances", "classes"}, default "auto"
        Meaning of the values, see `open_annotation`.
    **settings
        Other arguments of `open_annotation`.

    Returns
    -------
    Annotation
        The selected sections.

    Raises
    ------
    InputError
        As `open_annotation`, and if the sections do not fit into the memory of this machine.
    """
    from pipeline_lib.kernels.components import equal_components  # imports numba, which the dry run avoids

    with open_annotation(path, kind=kind, **settings) as regions:  # type: ignore[arg-type]
        require_whole(path, regions.images.info, math.prod(regions.shape) * regions.dtype.itemsize)
        everything = slice(None), slice(None)
        array = np.stack([regions.read(z, *everything) for z in range(regions.shape[0])])
        ignore = None
        if regions.may_ignore:
            ignore = np.stack([regions.read_ignore(z, *everything) for z in range(regions.shape[0])])
        if regions.separate:
            border = (array == BORDER) & (regions.kind == "classes")
            array = equal_components(np.where(border, 0, array)).astype(np.uint32)
            array = np.stack([grow(own, at) for own, at in zip(array, border, strict=True)])
        return Annotation(regions.kind, array, ignore, regions.description)


#: Largest distance of a pixel of the class `border` from its cell (px).
REACH = 32


def grow(labels: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Give each pixel of the border to the nearest cell that it is connected to within the border.

    The distance is the number of steps between pixels that share a side, at most `REACH`. If two cells are
    equally near, the pixel belongs to the one with the smaller label. A block with a halo of `REACH` has the
    same result as the whole section.

    Parameters
    ----------
    labels : (y, x) array of unsigned int
        Instance labels of one section, 0 = background.
    border : (y, x) array of bool
        Pixels of the class `border`, where `labels` is 0.

    Returns
    -------
    (y, x) array of unsigned int
        Labels that cover the border, too.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.imageio.annotation import grow
    >>> grow(np.array([[0, 0, 1, 0, 0, 2, 0]]), np.array([[0, 1, 0, 1, 1, 0, 0]], bool))
    array([[0, 1, 1, 1, 2, 2, 0]])
    """
    grown, last = labels.copy(), np.iinfo(labels.dtype).max
    for _ in range(REACH):
        nearest = np.full(grown.shape, last, grown.dtype)
        around = np.where(grown > 0, grown, last)
        for here, there in (
            (np.s_[1:], np.s_[:-1]),
            (np.s_[:-1], np.s_[1:]),
            (np.s_[:, 1:], np.s_[:, :-1]),
            (np.s_[:, :-1], np.s_[:, 1:]),
        ):
            nearest[here] = np.minimum(nearest[here], around[there])
        reached = border & (grown == 0) & (nearest < last)
        if not reached.any():
            break
        grown[reached] = nearest[reached]
    return grown


def _count_values(images: Images, ignore: int | None, mask: Images | None) -> Values:
    """Count the pixels of each value that is not ignored."""
    counter = meaning.ValueCounter()
    for z in range(images.shape[1]):
        for part in meaning.sampled_blocks(images.shape[2:]):
            region = images.read(z, *part.read)[0]
            if ignore is not None or mask is not None:
                region = region[~_ignored(images, ignore, mask, z, *part.read)]
            if counter.add(z, part, region.ravel()) > _MOST_LABELS:
                raise InputError(
                    f"{images.path}: found more than {_MOST_LABELS:,} different values, the limit for one "
                    "volume. Check that the file is an annotation, not an image. Split a large annotation "
                    "into several volumes with the column `sections` of the table of volumes."
                )
    return counter.result()


def _masks(images: Images, mask: Images | None) -> AnnotationRegions:
    """Return an annotation with one slice for each cell."""
    found = _count_values(images, None, None)
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
class _Given:
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
                ignored = _ignored(self.images, self.ignore, self.mask, z, *block.read)
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
                    meaning.doubt(
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
            doubts.append(meaning.doubt("sentinel", 0.7, text))
        areas = meaning.measure_areas(self.found, self._sample())
        if areas.scattered(int(np.count_nonzero(self.found.values))):
            text = (
                f"The labels are scattered and form areas of {areas.median_size:.1f} px (median), like the "
                "gray levels of an image."
            )
            doubts.append(meaning.doubt("gray_levels", 0.95, text))
        elif areas.split > 0.02 and not self.relabel:
            text = (
                f"{areas.split:.0%} of the labels have several separate areas in a section. If these are "
                "different cells, set `relabel: true`."
            )
            doubts.append(
                meaning.doubt("several_areas", 0.4 if areas.split <= meaning.MOST_SPLIT else 0.7, text)
            )
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
