"""Annotated objects of a volume, as the detection task uses them."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.metrics import BoxMatches, match_boxes
from pipeline_lib.tasks.detection.found import Found
from pipeline_lib.tasks.detection.matching import NOT_LEARNED

CUT = 1  # state of an object that touches the edge of its section
IGNORED = 2  # state of an object that is neither learned nor scored


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
        All pixels are annotated: `stages.boxes.build_boxes` refuses other volumes.
    """

    shape: tuple[int, int, int]
    boxes: Boxes
    section: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    classes: int
    ignore: None = None

    @classmethod
    def of(cls, found: h5py.File, shape: tuple[int, int, int]) -> BoxTruth:
        """Return the truth in an open file of boxes.

        Parameters
        ----------
        found : h5py.File
            File of `stages.boxes.build_boxes`.
        shape : tuple of int
            Shape of the volume, (z, y, x).

        Returns
        -------
        BoxTruth
            The boxes.
        """
        boxes, section, kind, state = (
            found[array.name][:]
            for array in (layout.BOXES, layout.BOX_SECTION, layout.BOX_CLASS, layout.BOX_STATE)
        )
        names, _ = layout.classes_of(found[layout.BOX_CLASS.name])
        return cls(shape, boxes, section, kind, state, len(names) - 1)

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

    def matches(self, section: int, found: Found) -> BoxMatches:
        """Match detections of a section with its objects.

        Parameters
        ----------
        section : int
            Number of the section.
        found : Found
            Detections of the section.

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
        )
