"""Boxes of a section, and the tables of boxes that bordure writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline_lib.runtime.files import replacing

#: Columns of `detections.csv`. Corners and centres are in px, and sections count from 0.
COLUMNS = ("volume", "section", "class", "x0", "y0", "x1", "y1", "score", "centre_x", "centre_y")
#: Columns of a table of the numbers of boxes.
COUNT_COLUMNS = ("volume", "section", "class", "count")
#: End of the name of each file with the detections of a volume, as in `nuclei_rois.zip`.
EXPORTS = {
    "table": "detections.csv",
    "counts": "counts.csv",
    "rois": "rois.zip",
    "geojson": "detections.geojson",
    "coco": "coco.json",
}


@dataclass(frozen=True)
class SectionBoxes:
    """Boxes of objects in one section.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1) in px: upper and left edge, and the edges after the last row and column. The
        edges of the first pixel are 0 and 1.
    classes : list of str
        Class of each box.
    ignored : (n,) array of bool
        Boxes that count neither as objects nor as background: COCO's `iscrowd`, `difficult` of Pascal VOC.
    scores : (n,) array of float64
        Score of each box; NaN where none is stated, as in annotations.
    annotated : bool, default True
        Whether objects without a box would be background. False for sections that are not annotated.
    """

    boxes: npt.NDArray[np.float64]
    classes: list[str]
    ignored: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    annotated: bool = True


def write_detections(path: str | Path, sections: Iterable[tuple[str, int, SectionBoxes]]) -> int:
    """Write a table of boxes (CSV) with the columns `COLUMNS`, completely or not at all.

    Numbers are written with all digits, so that `read_boxes` returns the same boxes.

    Parameters
    ----------
    path : str or Path
        CSV file to write.
    sections : iterable of (str, int, SectionBoxes)
        Name of the volume, number of the section among those of the volume (from 0), and its boxes. One
        section is in memory at a time.

    Returns
    -------
    int
        Number of boxes.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio.boxes import SectionBoxes, write_detections
    >>> boxes = SectionBoxes(np.array([[2.0, 0, 6, 3]]), ["cell"], np.array([False]), np.array([0.9]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "detections.csv")
    ...     _ = write_detections(path, [("a", 0, boxes)])
    ...     print(path.read_text())
    volume,section,class,x0,y0,x1,y1,score,centre_x,centre_y
    a,0,cell,0.0,2.0,3.0,6.0,0.9,1.5,4.0
    <BLANKLINE>
    """
    count = 0
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for volume, section, found in sections:
            writer.writerows(
                (
                    *(volume, section, name, x0, y0, x1, y1),
                    *("" if math.isnan(score) else score, (x0 + x1) / 2, (y0 + y1) / 2),
                )
                for name, x0, y0, x1, y1, score in rows_of(found)
            )
            count += len(found.boxes)
    return count


def write_counts(
    path: str | Path, sections: Iterable[tuple[str, int, SectionBoxes]], classes: Sequence[str]
) -> None:
    """Write the number of boxes of each section and class (CSV), completely or not at all.

    Parameters
    ----------
    path : str or Path
        CSV file to write, with the columns `COUNT_COLUMNS`. Each section has a row for each class, also if
        there are no boxes.
    sections : iterable of (str, int, SectionBoxes)
        Name of the volume, number of the section (from 0), and its boxes.
    classes : sequence of str
        Names of all classes.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pipeline_lib.imageio.boxes import SectionBoxes, write_counts
    >>> boxes = SectionBoxes(np.array([[2.0, 0, 6, 3]]), ["cell"], np.array([False]), np.array([0.9]))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "counts.csv")
    ...     write_counts(path, [("a", 0, boxes)], ["cell", "mitosis"])
    ...     print(path.read_text())
    volume,section,class,count
    a,0,cell,1
    a,0,mitosis,0
    <BLANKLINE>
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COUNT_COLUMNS)
        for volume, section, found in sections:
            writer.writerows((volume, section, name, found.classes.count(name)) for name in classes)


def rows_of(found: SectionBoxes) -> Iterator[tuple[str, float, float, float, float, float]]:
    """Return an iterator over class, x0, y0, x1, y1 and score of each box."""
    y0, x0, y1, x1 = found.boxes.T.tolist()
    return zip(found.classes, x0, y0, x1, y1, found.scores.tolist(), strict=True)
