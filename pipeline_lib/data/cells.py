"""Number, sizes and places of the annotated cells of a volume, and the doubts that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.data.labels import count_pixels
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.kernels.sections import frame
from pipeline_lib.runtime.doubts import doubt
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json, Stored

_SPECK = 16  # px; smaller areas and holes do not count


class CellCounter:
    """Count the cells of an annotated volume, section by section and block by block.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.cells import CellCounter
    >>> counter = CellCounter()
    >>> counter.add(np.array([[1, 1, 2, 2, 2]]), border=np.array([[0, 1, 1, 0, 0]]))
    >>> counter.end_section()
    2
    >>> counter.add(np.array([[0, 0, 3, 0, 0]]), border=np.array([[0, 0, 1, 0, 0]]))
    >>> counter.end_section()
    1
    >>> found = counter.to_dict()
    >>> found["number"], found["median"], found["in_border"], found["share"]
    (3, 2.0, 1, 0.6)
    """

    def __init__(self) -> None:
        self._sizes: list[np.ndarray] = []  # of the cells of each section (px)
        self._in_border = 0
        self._pixels = 0
        self._largest = (0.0, 0, 0)  # share of a section, section, label
        self._start_section()

    def _start_section(self) -> None:
        self._counts: list[tuple[np.ndarray, np.ndarray]] = []
        self._spared: list[np.ndarray] = []

    def add(self, labels: np.ndarray, border: np.ndarray) -> None:
        """Add a block of the current section.

        Parameters
        ----------
        labels : (y, x) array of int
            Instance labels, 0 = background.
        border : (y, x) array
            Separation border, non-zero on the border.
        """
        self._counts.append(count_pixels(labels))
        self._spared.append(count_pixels(np.where(border, 0, labels))[0])

    def end_section(self) -> int:
        """End the current section.

        Returns
        -------
        int
            Number of its cells.
        """
        labels, inverse = np.unique(np.concatenate([v for v, _ in self._counts]), return_inverse=True)
        pixels = np.bincount(inverse, np.concatenate([n for _, n in self._counts])).astype(np.int64)
        cells, sizes = labels[labels > 0], pixels[labels > 0]
        self._in_border += len(np.setdiff1d(cells, np.concatenate(self._spared)))
        self._pixels += int(pixels.sum())
        if len(cells) and (share := sizes.max() / pixels.sum()) > self._largest[0]:
            self._largest = float(share), len(self._sizes), int(cells[sizes.argmax()])
        self._sizes.append(sizes)
        self._start_section()
        return len(cells)

    def to_dict(self, labels: Stored | None = None, ignored: int = 0) -> Json:
        """Return what was counted.

        Parameters
        ----------
        labels : (z, y, x) array or HDF5 dataset, optional
            All labels, to measure a cell that covers most of a section.
        ignored : int, default 0
            Number of pixels that are not annotated.

        Returns
        -------
        dict
            `number` of cells; their `smallest`, `median` and `largest` size (px), 0 without cells; number of
            cells that lie completely `in_border`; `share` of the annotated pixels in cells; share of all
            pixels that are `ignored`. `widest`, if a cell covers more than half of a section: `share` and
            number of the `section`, number of `sides` of the section that it touches, and of its `parts`:
            separate areas or holes, whichever are more.
        """
        sizes = np.concatenate([*self._sizes, np.zeros(0, np.int64)])
        found: dict[str, Any] = {
            "number": len(sizes),
            "smallest": int(sizes.min()) if len(sizes) else 0,
            "median": float(np.median(sizes)) if len(sizes) else 0.0,
            "largest": int(sizes.max(initial=0)),
            "in_border": self._in_border,
            "share": float(sizes.sum()) / max(self._pixels - ignored, 1),
            "ignored": ignored / max(self._pixels, 1),
        }
        share, section, cell = self._largest
        if share > 0.5 and labels is not None:
            rows, columns = (slice(0, size) for size in labels.shape[1:])
            lines = ((0, columns), (-1, columns), (rows, 0), (rows, -1))
            sides = sum(bool((labels[(section, *line)] == cell).any()) for line in lines)
            parts = _parts(labels[section, :BLOCK, :BLOCK] == cell)
            found["widest"] = {"share": share, "section": section, "sides": sides, "parts": parts}
        return found


def _parts(cell: np.ndarray) -> int:
    """Return the number of separate areas of a cell (y, x) or of its holes, whichever are more."""
    from scipy import ndimage  # takes 0.2 s, and is needed for few volumes

    areas, _ = ndimage.label(cell)
    around, _ = ndimage.label(~cell)
    holes = np.where(np.isin(around, frame(around)), 0, around)
    return max(int(np.count_nonzero(np.bincount(found.ravel())[1:] >= _SPECK)) for found in (areas, holes))


def doubts_of_cells(cells: Json, border_width: int) -> list[Json]:
    """Return doubts about the cells of an annotation.

    Parameters
    ----------
    cells : dict
        Result of `CellCounter.to_dict`.
    border_width : int
        Width of the separation border (px), for the text.

    Returns
    -------
    list of dict
        Doubts with `name`, `weight` (0 to 1), `text`, and the `section` where to look, or None.
    """
    if not cells["number"]:
        text = (
            "The annotation has no cell. That is right if the image shows none; otherwise check that the "
            "annotation was saved after drawing, and `dataset.annotation_kind`."
        )
        return [doubt("no_cells", 0.4, text)]
    doubts = []
    if widest := cells.get("widest"):
        # the background between cells has holes, and cells that share one label are separate areas
        around = widest["sides"] >= 3 and widest["parts"] >= 3
        text = (
            f"One cell covers {widest['share']:.0%} of section {widest['section'] + 1}. If it is the "
            "background or the membranes, the annotation is inverted or has another meaning: set "
            "`dataset.annotation_kind`, or for instance labels `dataset.background` to the value of the "
            "background. Both can also be columns of the table of volumes."
        )
        weight = 0.85 if around else 0.5
        doubts.append(doubt("whole_section", weight, text, widest["section"]))
    if lost := cells["in_border"]:
        text = (
            f"{lost} of {cells['number']} cells lie completely within the separation border between touching "
            "cells, so they are background to the network. Lower `dataset.separation_border_width` (now "
            f"{border_width})."
        )
        weight = 0.3 + 0.6 * lost / cells["number"]
        doubts.append(doubt("lost_in_border", weight, text))
    if cells["median"] < 9:
        text = (
            f"Half of the {cells['number']} cells have at most {cells['median']:g} px. Check that the "
            "annotation is not noise; enlarge images and annotations if the cells are really so small."
        )
        doubts.append(doubt("small_cells", 0.5, text))
    return doubts


def empty_are_ignored(
    path: str | Path,
    empty: Sequence[int],
    sections: int,
    any_cells: bool,
    empty_sections: str,
    *,
    blank: bool = False,
) -> bool:
    """Return whether sections without cells are not annotated.

    Parameters
    ----------
    path : str or Path
        Annotation, for messages.
    empty : sequence of int
        Numbers of its sections that have no cell.
    sections : int
        Number of all sections.
    any_cells : bool
        Whether a section has a cell.
    empty_sections : {"ask", "background", "ignore"}
        Setting of this name.
    blank : bool, default False
        Whether some of these sections are one single cell in the file.

    Returns
    -------
    bool
        True if there are such sections and they are to be ignored.

    Raises
    ------
    InputError
        If the setting has to be stated, or would ignore all sections.
    """
    if not empty or empty_sections == "background" or (empty_sections == "ask" and not any_cells):
        return False
    if empty_sections == "ignore":
        if not any_cells:
            raise InputError(
                f"{path}: no section has a cell, and `empty_sections: ignore` leaves out sections without "
                "cells. Set `dataset: {empty_sections: background}` if the images show no cells."
            )
        return True
    listed = ", ".join(map(str, empty[:12])) + (" ..." if len(empty) > 12 else "")
    raise InputError(
        f"{path}: {len(empty)} of {sections} sections have no cell"
        f"{', or one that covers them completely' if blank else ''} (section {listed}, counted from 0 as in "
        "the column `sections`). If they are not annotated, set `dataset: {empty_sections: ignore}`; if they "
        "show no cells, set `dataset: {empty_sections: background}`."
    )
