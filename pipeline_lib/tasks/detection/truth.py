"""Annotated objects of a volume, as the detection task uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.metrics import BoxMatches, match_boxes
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.tasks.detection.found import Found
from pipeline_lib.tasks.detection.matching import NOT_LEARNED

CUT = 1  # state of an object that touches the edge of its section
IGNORED = 2  # state of an object that is neither learned nor scored


@contextmanager
def box_writer(file: h5py.File, cells: Sequence[str]) -> Iterator[Callable[..., None]]:
    """Add the boxes of annotated objects to a new dataset file. Context manager.

    Parameters
    ----------
    file : h5py.File
        File with `raw`, open for writing.
    cells : sequence of str
        Names of the classes of objects.

    Yields
    ------
    callable
        Function of a section, and of the boxes, the classes (from 1) and which are ignored of its objects. It
        must be called for ascending sections.
    """
    arrays = [layout.add_growing(file, array, row) for array, row in layout.BOX_ARRAYS]
    layout.write_classes(file[layout.BOX_CLASS.name], ["background", *cells], cells)
    size = np.array(file[layout.RAW.name].shape[2:])

    def append(
        section: int, boxes: Boxes, kind: npt.NDArray[np.uint8], ignored: npt.NDArray[np.bool_]
    ) -> None:
        cut = (boxes[:, :2] <= 0).any(axis=1) | (boxes[:, 2:] >= size).any(axis=1)
        state = np.where(ignored, IGNORED, np.where(cut, CUT, 0))
        for array, values in zip(arrays, (boxes, np.full(len(boxes), section), kind, state), strict=True):
            layout.append(array, values)

    yield append


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
    ignore : None
        All pixels are annotated: `BoxTruth.of` refuses other volumes.
    """

    shape: tuple[int, int, int]
    boxes: Boxes
    section: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    classes: int
    ignore: None = None

    @classmethod
    def of(cls, file: h5py.File) -> BoxTruth:
        """Return the boxes of an annotated volume.

        Parameters
        ----------
        file : h5py.File
            Dataset of the volume, open for reading.

        Returns
        -------
        BoxTruth
            The boxes.

        Raises
        ------
        InputError
            If some pixels are not annotated, or the file has no boxes.
        """
        if layout.BOXES.name not in file:
            raise InputError(
                f"{file.filename}: has no `boxes`, so it was written by an older version of bordure. Delete "
                "it and run the workflow again."
            )
        if layout.IGNORE.name in file:
            raise InputError(
                f"{file.filename}: some pixels are not annotated, which detectors cannot learn from yet. "
                "Annotate all pixels, or leave these sections out (column `sections` in the table)."
            )
        boxes, section, kind, state = (file[array.name][:] for array, _ in layout.BOX_ARRAYS)
        names, _ = layout.classes_of(file[layout.BOX_CLASS.name])
        return cls(file[layout.RAW.name].shape[1:], boxes, section, kind, state, len(names) - 1)

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

    def matches(self, section: int, found: Found, sizes: Sequence[tuple[float, float]] = ()) -> BoxMatches:
        """Match detections of a section with its objects.

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
            The matches, for the scores.
        """
        rows = self.rows(section)
        return match_boxes(
            self.boxes[rows],
            found.boxes,
            found.score,
            truth_class=self.kind[rows] - 1,
            found_class=found.kind - 1,
            ignored=self.state[rows] == IGNORED,
            classes=self.classes,
            sizes=sizes,
        )
