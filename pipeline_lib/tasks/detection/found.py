"""Boxes that a detector found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.kernels.boxes import Boxes, area, suppress

SMALLEST_SCORE = 0.01  # boxes with a lower score are not kept
#: IoU above which the box with the lower score is removed.
SUPPRESSION = 0.45
#: Arrays of a prediction, one row for each box.
ARRAYS = (layout.BOXES, layout.BOX_SECTION, layout.BOX_CLASS, layout.BOX_SCORE)


class Found(NamedTuple):
    """Boxes with scores, before or after the suppression of those that overlap.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1), px of the section.
    kind : (n,) array of uint8
        Class of each box, from 1.
    score : (n,) array of float
        Score of each box, 0 to 1.
    """

    boxes: Boxes
    kind: npt.NDArray[np.uint8]
    score: npt.NDArray[np.floating[Any]]

    def suppressed(self, height: int, width: int) -> Found:
        """Return the boxes without those that overlap a box of the same class with a higher score.

        Parameters
        ----------
        height, width : int
            Size of the section (px), at whose edges boxes are cut off before.

        Returns
        -------
        Found
            The remaining boxes, by descending score.
        """
        boxes = self.boxes.clip(0, [height, width, height, width])
        cut = self._replace(boxes=boxes).at(np.flatnonzero(area(boxes)))
        return cut.at(suppress(cut.boxes, cut.score, SUPPRESSION, cut.kind))

    def at(self, rows: slice | npt.NDArray[Any]) -> Found:
        """Return some of the boxes.

        Parameters
        ----------
        rows : slice, array of int or of bool
            Their numbers, or whether each is returned.

        Returns
        -------
        Found
            These boxes.
        """
        return Found(self.boxes[rows], self.kind[rows], self.score[rows])

    def append_to(self, file: h5py.File, section: int) -> None:
        """Add the boxes to an HDF5 file with the `ARRAYS`.

        Parameters
        ----------
        file : h5py.File
            File, open for writing.
        section : int
            Number of their section.
        """
        values: list[npt.NDArray[Any]] = [
            self.boxes,
            np.full(len(self.score), section),
            self.kind,
            self.score,
        ]
        for array, own in zip(ARRAYS, values, strict=True):
            layout.append(file[array.name], own)

    @classmethod
    def of_rows(cls, file: h5py.File, rows: slice) -> Found:
        """Return the boxes in some rows of an HDF5 file with the `ARRAYS`.

        Parameters
        ----------
        file : h5py.File
            File, open for reading.
        rows : slice
            Rows.

        Returns
        -------
        Found
            The boxes.
        """
        return cls(*(file[array.name][rows] for array in (layout.BOXES, layout.BOX_CLASS, layout.BOX_SCORE)))


def create_arrays(file: h5py.File, classes: Sequence[str], cells: Sequence[str]) -> None:
    """Add the `ARRAYS` to a new HDF5 file, without rows.

    Parameters
    ----------
    file : h5py.File
        File, open for writing.
    classes : sequence of str
        Names of the classes, beginning with the background.
    cells : sequence of str
        Names of the classes of objects.
    """
    for array in ARRAYS:
        layout.add_growing(file, array, (4,) if array is layout.BOXES else ())
    layout.write_classes(file[layout.BOX_CLASS.name], classes, cells)


def sections_of(found: h5py.File, depth: int) -> Iterator[tuple[int, Found]]:
    """Yield the number and the boxes of each section of a file of `detect` or of a prediction.

    Parameters
    ----------
    found : h5py.File
        File with the `ARRAYS`, whose sections ascend, open for reading.
    depth : int
        Number of sections.

    Yields
    ------
    section : int
        Number of the section.
    boxes : Found
        Its boxes, in their order in the file.
    """
    ends = np.searchsorted(found[layout.BOX_SECTION.name][:], np.arange(depth + 1))
    for z in range(depth):
        yield z, Found.of_rows(found, slice(int(ends[z]), int(ends[z + 1])))
