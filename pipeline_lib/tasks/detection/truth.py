"""Annotated objects of a volume, as the detection task uses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.kernels.boxes import Boxes, area, masked_area
from pipeline_lib.metrics import BoxMatches, match_boxes
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored
from pipeline_lib.tasks.detection.found import Found
from pipeline_lib.tasks.detection.matching import NOT_LEARNED

CUT = 1  # state of an object that touches the edge of its section
IGNORED = 2  # state of an object that is neither learned nor scored
#: Part of the area of a detection from which it is left out if that part is not annotated.
NOT_ANNOTATED = 0.5


def box_writer(file: h5py.File, cells: Sequence[str]) -> Callable[..., None]:
    """Return a function that adds the boxes of annotated objects to a new dataset file.

    An object is ignored, too, if a pixel that is not annotated is in its box or less than a pixel away from
    it: the object can continue there, and its box would be too small. An object without any annotated pixel
    in its box is left out.

    Parameters
    ----------
    file : h5py.File
        File with `raw` and, if pixels are not annotated, `ignore`, open for writing.
    cells : sequence of str
        Names of the classes of objects.

    Returns
    -------
    callable
        Function of a section, and of the boxes, the classes (from 1) and which are ignored of its objects. It
        must be called for ascending sections.
    """
    arrays = [layout.add_growing(file, array, row) for array, row in layout.BOX_ARRAYS]
    layout.write_classes(file[layout.BOX_CLASS.name], ["background", *cells], cells)
    size = np.array(file[layout.RAW.name].shape[2:])
    ignore = file.get(layout.IGNORE.name)

    def append(
        section: int, boxes: Boxes, kind: npt.NDArray[np.uint8], ignored: npt.NDArray[np.bool_]
    ) -> None:
        if ignore is not None:
            known, cut_off = visible(boxes, ignore, section)
            boxes, kind, ignored = boxes[known], kind[known], (ignored | cut_off)[known]
        cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= size).any(axis=1)
        state = np.where(ignored, IGNORED, np.where(cut, CUT, 0))
        rows: list[np.ndarray] = [boxes, np.full(len(boxes), section), kind, state]
        for array, values in zip(arrays, rows, strict=True):
            layout.append(array, values)

    return append


def visible(
    boxes: Boxes, ignore: Stored, section: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which objects have an annotated pixel, and which can continue in pixels that are not annotated.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes of the objects (px).
    ignore : (z, y, x) array
        Non-zero where a pixel is not annotated; numpy or h5py.
    section : int
        Number of their section.

    Returns
    -------
    known : (n,) array of bool
        Whether a pixel in the box is annotated.
    cut_off : (n,) array of bool
        Whether a pixel in the box, or less than a pixel away from it, is not annotated.
    """
    first, last = np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])
    pixels, around = np.hstack([first, last]), np.hstack([first - 1, last + 1])
    hidden, near = masked_area(np.vstack([pixels, around]), ignore, section).reshape(2, -1)
    return hidden < area(pixels), near > 0


@dataclass(frozen=True)
class BoxTruth:
    """Boxes of the objects of a volume. All of them are in memory: 40 bytes each.

    Parameters
    ----------
    shape : tuple of int
        Shape of the volume, (z, y, x).
    boxes : (n, 4) array of float64
        Box (y0, x0, y1, x1) of each object (px), in the order of the sections.
    section : (n,) array of int64
        Section of each object, ascending.
    kind : (n,) array of uint8
        Class of each object, from 1.
    state : (n,) array of uint8
        0, `CUT` or `IGNORED`.
    classes : int
        Number of classes of objects.
    ignore : (z, y, x) array or None, optional
        Non-zero where a pixel is not annotated; numpy or h5py. None if all are annotated.
    labels : (z, y, x) array of uint32 or None, optional
        Instance labels, from which masks are learned. Numpy or h5py.
    """

    shape: tuple[int, int, int]
    boxes: Boxes
    section: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    classes: int
    ignore: Stored | None = None
    labels: Stored | None = None
    _numbers: dict[int, npt.NDArray[np.uint32]] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, file: h5py.File) -> BoxTruth:
        """Return the boxes of an annotated volume.

        Parameters
        ----------
        file : h5py.File
            Dataset of the volume, open for reading. It must stay open for ignored pixels and for masks.

        Returns
        -------
        BoxTruth
            The boxes.

        Raises
        ------
        InputError
            If the file has no boxes.
        """
        if layout.BOXES.name not in file:
            raise InputError(
                f"{file.filename}: has no `boxes`, so it was written by an older version of bordure. Delete "
                "it and run the workflow again."
            )
        boxes, section, kind, state = (file[array.name][:] for array, _ in layout.BOX_ARRAYS)
        names, _ = layout.classes_of(file[layout.BOX_CLASS.name])
        shape = file[layout.RAW.name].shape[1:]
        ignore, labels = file.get(layout.IGNORE.name), file.get(layout.LABELS.name)
        return cls(shape, boxes, section, kind, state, len(names) - 1, ignore, labels)

    def rows(self, section: int) -> slice:
        """Return where the objects of a section are in the arrays.

        Parameters
        ----------
        section : int
            Number of the section.

        Returns
        -------
        slice
            Rows of the arrays.
        """
        first, last = np.searchsorted(self.section, [section, section + 1])
        return slice(int(first), int(last))

    def learned(self, section: int) -> tuple[Boxes, npt.NDArray[np.int64]]:
        """Return the objects of a section as `matching.targets` needs them.

        Parameters
        ----------
        section : int
            Number of the section.

        Returns
        -------
        boxes : (n, 4) array of float64
            Boxes (px).
        kinds : (n,) array of int64
            Class of each object; `matching.NOT_LEARNED` if it is ignored.
        """
        rows = self.rows(section)
        kinds = self.kind[rows].astype(np.int64)
        kinds[self.state[rows] == IGNORED] = NOT_LEARNED
        return self.boxes[rows], kinds

    def annotated(
        self, section: int, points: npt.NDArray[np.float64], origin: npt.ArrayLike = 0.0
    ) -> npt.NDArray[np.bool_]:
        """Return which points of a section lie in an annotated pixel.

        Parameters
        ----------
        section : int
            Number of the section.
        points : (n, 2) array of float64
            Row and column of each point (px). One beyond the section is moved to its edge.
        origin : (2,) array_like of float, optional
            Position from which points count (px). By default the first pixel of the section.

        Returns
        -------
        (n,) array of bool
            True for points in an annotated pixel.
        """
        if self.ignore is None or not len(points):
            return np.ones(len(points), bool)
        pixels = np.floor(points + np.asarray(origin)).astype(int).clip(0, np.array(self.shape[1:]) - 1)
        (top, left), (bottom, right) = pixels.min(axis=0), pixels.max(axis=0) + 1
        window = np.asarray(self.ignore[section, top:bottom, left:right])
        return np.asarray(window[tuple((pixels - [top, left]).T)] == 0)

    def numbers(self, section: int) -> npt.NDArray[np.uint32]:
        """Return the label of each object of a section.

        Parameters
        ----------
        section : int
            Number of the section.

        Returns
        -------
        (n,) array of uint32
            Value of the object's pixels in `labels`.

        Raises
        ------
        InputError
            If there are no labels, or their objects have other boxes.
        """
        if section not in self._numbers:
            stored, found = self.boxes[self.rows(section)], np.zeros(0, np.uint32)
            if self.labels is not None:
                objects = objects_of(self.labels, section, self.ignore)
                if np.array_equal(objects.boxes, stored):
                    found = objects.label
            if len(found) != len(stored):
                raise InputError(
                    "network.masks: found true, but some volumes are annotated with boxes alone, without the "
                    "pixels of the objects. Set it to false, or annotate instances."
                )
            self._numbers[section] = found
        return self._numbers[section]

    def matches(self, section: int, found: Found, sizes: Sequence[tuple[float, float]] = ()) -> BoxMatches:
        """Match detections of a section with its objects.

        A detection that matches no object is left out if at least half of its area is not annotated.

        Parameters
        ----------
        section : int
            Number of the section.
        found : Found
            Detections of the section.
        sizes : sequence of (float, float), optional
            Ranges of the size of an object, see `metrics.match_boxes`.

        Returns
        -------
        BoxMatches
            The matches, for the scores. Without sections and detections if no pixel is annotated.
        """
        rows, hidden = self.rows(section), np.zeros(len(found.score), bool)
        if self.ignore is not None:
            whole = np.array([[0.0, 0, *self.shape[1:]]])
            *parts, of_section = masked_area(np.vstack([found.boxes, whole]), self.ignore, section)
            if of_section == area(whole)[0]:
                none = np.empty((0, 4))
                empty = match_boxes(none, none, [], classes=self.classes, sizes=sizes)
                return replace(empty, truth=empty.truth[:0])
            hidden = np.array(parts) >= NOT_ANNOTATED * area(found.boxes)
        return match_boxes(
            self.boxes[rows],
            found.boxes,
            found.score,
            truth_class=self.kind[rows] - 1,
            found_class=found.kind - 1,
            ignored=self.state[rows] == IGNORED,
            left_out=hidden,
            classes=self.classes,
            sizes=sizes,
        )
