"""Boxes that a detector found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.kernels.boxes import Boxes, area, decide, touches

SMALLEST_SCORE = 0.01  # boxes with a lower score are not kept
#: IoU above which the box with the lower score is removed.
SUPPRESSION = 0.45
AT_ONCE = 2**17  # boxes that are read together
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
            The remaining boxes, in the order of `suppressed`.
        """
        return joined([*suppressed([self], height, width)])

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

    def cut(self, height: int, width: int) -> Found:
        """Return the boxes cut off at the edges of their section, without those beyond it.

        Parameters
        ----------
        height, width : int
            Size of the section (px).

        Returns
        -------
        Found
            Boxes with an area in the section.
        """
        boxes = self.boxes.clip(0, [height, width, height, width])
        return self._replace(boxes=boxes).at(np.flatnonzero(area(boxes)))

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


class Stored(NamedTuple):
    """Boxes of a section in a file, a piece of which is read at a time.

    Parameters
    ----------
    file : h5py.File
        File with the `ARRAYS`, open for reading.
    rows : slice
        Their rows.
    top : int, default 0
        Row of the section from which they count (px).
    """

    file: h5py.File
    rows: slice
    top: int = 0

    def pieces(self) -> list[Stored]:
        """Return the boxes in pieces of at most `AT_ONCE`.

        Returns
        -------
        list of Stored
            The pieces, in their order.
        """
        starts = range(self.rows.start, self.rows.stop, AT_ONCE)
        return [self._replace(rows=slice(k, min(k + AT_ONCE, self.rows.stop))) for k in starts]

    def read(self) -> Found:
        """Return the boxes, in px of the section.

        Returns
        -------
        Found
            The boxes.
        """
        found = Found.of_rows(self.file, self.rows)
        found.boxes[:, ::2] += self.top
        return found


def suppressed(pieces: Sequence[Found | Stored], height: int, width: int) -> Iterator[Found]:
    """Yield the boxes of a section without those that overlap a box of the same class with a higher score.

    The result is that for all boxes at once. But only one piece is in memory, with the boxes that further
    pieces can still remove or precede: those that overlap an area of another piece, those that overlap one of
    these, and those in the same band of `BLOCK` rows. The memory is small if the boxes of a piece are near
    each other and the pieces go down the section, as those of tiles do.

    Parameters
    ----------
    pieces : sequence of Found or Stored
        The boxes of the section.
    height, width : int
        Size of the section (px), at whose edges boxes are cut off before.

    Yields
    ------
    Found
        The remaining boxes of some bands of `BLOCK` rows, from top to bottom. A box belongs to the band in
        which it begins. The boxes of a band are in the order of descending score.
    """

    def cut(piece: Found | Stored) -> Found:
        return (piece.read() if isinstance(piece, Stored) else piece).cut(height, width)

    areas = [_areas_of(cut(piece).boxes) for piece in pieces[1:]]
    kept, waiting = NOTHING, NOTHING
    for number, piece in enumerate(pieces):
        found = joined([waiting, cut(piece)])
        ahead = np.concatenate([NOTHING.boxes, *areas[number:]])
        unsure = touches(found.boxes, ahead)
        certain, undecided = decide(found.boxes, found.score, SUPPRESSION, found.kind, unsure)
        kept, waiting = joined([kept, found.at(certain)]), found.at(undecided)
        to_come = np.concatenate([waiting.boxes[:, 0], ahead[:, 0]])
        complete = _band(kept.boxes[:, 0]) < _band(to_come).min(initial=np.inf)
        yield _ordered(kept.at(np.flatnonzero(complete)))
        kept = kept.at(np.flatnonzero(~complete))


def _band(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the number of the band of `BLOCK` rows in which each row is."""
    return rows // BLOCK


def _ordered(found: Found) -> Found:
    """Return the boxes by band and descending score; those of equal score by their edges and class."""
    edges = found.boxes.T
    return found.at(np.lexsort((found.kind, *edges[::-1], -found.score, _band(edges[0]))))


def _areas_of(boxes: Boxes) -> Boxes:
    """Return areas that contain some boxes: one for those that begin in the same square of `BLOCK` px.

    A single area could span the whole section, if the boxes are those of the last and of the first tile of
    two rows of tiles.
    """
    _, square = np.unique(boxes[:, :2] // BLOCK, axis=0, return_inverse=True)
    areas = np.full((square.max(initial=-1) + 1, 4), [np.inf, np.inf, -np.inf, -np.inf])
    np.minimum.at(areas[:, :2], square, boxes[:, :2])
    np.maximum.at(areas[:, 2:], square, boxes[:, 2:])
    return areas


def joined(parts: Sequence[Found]) -> Found:
    """Return the boxes of all parts.

    Parameters
    ----------
    parts : sequence of Found
        Parts.

    Returns
    -------
    Found
        Their boxes.
    """
    return Found(*(np.concatenate(columns) for columns in zip(NOTHING, *parts, strict=True)))


#: No boxes.
NOTHING = Found(np.zeros((0, 4)), np.zeros(0, np.uint8), np.zeros(0, np.float32))


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
    for z, rows in enumerate(rows_of_sections(found, depth)):
        yield z, Found.of_rows(found, rows)


def rows_of_sections(found: h5py.File, depth: int) -> list[slice]:
    """Return where the boxes of each section are in the `ARRAYS` of a file.

    Parameters
    ----------
    found : h5py.File
        File with the `ARRAYS`, whose sections ascend, open for reading.
    depth : int
        Number of sections.

    Returns
    -------
    list of slice
        Rows of each section.
    """
    sections, counts = found[layout.BOX_SECTION.name], np.zeros(depth, np.int64)
    for start in range(0, len(sections), AT_ONCE):
        counts += np.bincount(sections[start : start + AT_ONCE], minlength=depth)
    ends = [0, *np.cumsum(counts).tolist()]
    return [slice(*span) for span in pairwise(ends)]
