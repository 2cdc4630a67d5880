"""Annotated objects of a volume, as the detection task uses them."""

from __future__ import annotations

from dataclasses import dataclass

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.runtime.types import Stored

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
    ignore : (z, y, x) array of uint8 or None, optional
        1 where a pixel is not annotated.
    """

    shape: tuple[int, int, int]
    boxes: Boxes
    section: npt.NDArray[np.int64]
    kind: npt.NDArray[np.uint8]
    state: npt.NDArray[np.uint8]
    ignore: Stored | None = None

    @classmethod
    def of(cls, found: h5py.File, shape: tuple[int, int, int], ignore: Stored | None) -> BoxTruth:
        """Return the truth in an open file of boxes.

        Parameters
        ----------
        found : h5py.File
            File of `stages.boxes.build_boxes`.
        shape : tuple of int
            Shape of the volume, (z, y, x).
        ignore : (z, y, x) array of uint8 or None
            1 where a pixel is not annotated.

        Returns
        -------
        BoxTruth
            The boxes.
        """
        boxes, section, kind, state = (
            found[array.name][:]
            for array in (layout.BOXES, layout.BOX_SECTION, layout.BOX_CLASS, layout.BOX_STATE)
        )
        return cls(shape, boxes, section, kind, state, ignore)

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
