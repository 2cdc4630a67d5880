"""Regions of an annotation whose values have a known meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline_lib.imageio.images import Images
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

BORDER = 255  # in regions of classes, pixels of the class `border`
#: Largest distance of a pixel of the class `border` from its cell (px).
REACH = 32


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
    colours : tuple of int, default ()
        For "instances" of colours: the colour of each label, 0xRRGGBB, ascending; that of label 0 is 0.
    blank : tuple of int, default ()
        Sections that would be one single cell although others show more: probably not annotated. `read`
        returns 0 there.
    names : tuple of str, default ()
        For "classes": names of the classes 1, 2, ... that `read` returns, without background and border.
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
    colours: tuple[int, ...] = ()
    blank: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

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
            found = self._meaning_of(region) if z not in self.blank else np.zeros(region.shape, self.dtype)
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
        if self.colours:
            return np.searchsorted(self.colours, region).astype(self.dtype)
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
        return ignored_pixels(self.images, self.ignore, self.mask, z, rows, columns, self.kind == "masks")


def ignored_pixels(
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


_SIDES = [(-1, 0), (1, 0), (0, -1), (0, 1)]
_CORNERS = [(-1, -1), (-1, 1), (1, -1), (1, 1)]


def grow(labels: np.ndarray, border: np.ndarray, reach: int = REACH, *, corners: bool = False) -> np.ndarray:
    """Give each pixel of the border to the nearest cell that it is connected to within the border.

    The distance is the number of steps between neighbouring pixels, at most `reach`. If two cells are equally
    near, the pixel belongs to the one with the smaller label. A block with a halo of `reach` has the same
    result as the whole section.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of one section, 0 = background.
    border : (y, x) array of bool
        Pixels of the class `border`, where `labels` is 0.
    reach : int, default 32
        Largest distance between a pixel of the border and its cell (px).
    corners : bool, default False
        Whether pixels that touch only at a corner are neighbours, too.

    Returns
    -------
    (y, x) array of int
        Labels that cover the border, too.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.imageio.annotation import grow
    >>> grow(np.array([[0, 0, 1, 0, 0, 2, 0]]), np.array([[0, 1, 0, 1, 1, 0, 0]], bool))
    array([[0, 1, 1, 1, 2, 2, 0]])
    """
    grown, last = labels.copy(), np.iinfo(labels.dtype).max
    height, width = labels.shape
    for _ in range(reach):
        nearest = np.full(grown.shape, last, grown.dtype)
        around = np.pad(np.where(grown > 0, grown, last), 1, constant_values=last)
        for dy, dx in _SIDES + _CORNERS * corners:
            np.minimum(nearest, around[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width], out=nearest)
        reached = border & (grown == 0) & (nearest < last)
        if not reached.any():
            break
        grown[reached] = nearest[reached]
    return grown
