"""Parts of sections for pictures, and labels that agree in their colours."""

from __future__ import annotations

import numpy as np

from pipeline_lib.figures.colouring import Window, raw_picture
from pipeline_lib.figures.palette import ORANGE
from pipeline_lib.metrics.contingency import count_pairs
from pipeline_lib.runtime.types import Stored

LARGEST = 4096  # px; of larger sections only the middle is evaluated, to limit the memory
WINDOW = 512  # px; of larger sections only the middle is shown, so that membranes are visible
SMALLEST = 400  # px; smaller sections are magnified
ANNOTATED = ORANGE  # colour of outlines


def middle(shape: tuple[int, int], size: int) -> Window:
    """Return the rows and columns in the middle of a section.

    Parameters
    ----------
    shape : (int, int)
        Shape of the section (y, x).
    size : int
        Largest number of rows and of columns (px).

    Returns
    -------
    (slice, slice)
        Rows and columns.

    Examples
    --------
    >>> from pipeline_lib.figures.parts import middle
    >>> middle((10, 3), 4)
    (slice(3, 7, None), slice(0, 3, None))
    """
    starts = [max(length - size, 0) // 2 for length in shape]
    y, x = (slice(start, min(start + size, length)) for start, length in zip(starts, shape, strict=True))
    return y, x


def middle_shown(raw: Stored, z: int) -> tuple[np.ndarray, Window]:
    """Return the picture of the middle of a section, with the contrast of its middle `LARGEST` px.

    Parameters
    ----------
    raw : (c, z, y, x) array
        Raw image. It may be an HDF5 dataset; only the middle `LARGEST` px are read.
    z : int
        The section.

    Returns
    -------
    picture : (h, w, 3) array of uint8
        At most `WINDOW` px high and wide, RGB.
    window : (slice, slice)
        Rows and columns of the section that it shows.
    """
    height, width = raw.shape[2:]
    part = middle((height, width), LARGEST)
    inside = middle((part[0].stop - part[0].start, part[1].stop - part[1].start), WINDOW)
    y, x = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(part, inside, strict=True))
    return raw_picture(raw[(slice(None), z, *part)], inside), (y, x)


def matched_labels(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Rename each segment to the annotated cell with which it shares most pixels.

    Segments that share pixels only with the background get labels that no cell has.

    Parameters
    ----------
    labels : (y, x) array of int
        Annotated instance labels, 0 = background.
    found : (y, x) array of int
        Segments 0..n, 0 = background.

    Returns
    -------
    (y, x) array of int64
        Segments with their new labels.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.parts import matched_labels
    >>> matched_labels(np.array([[7, 7, 7, 7, 0, 0]]), np.array([[1, 1, 0, 2, 0, 3]]))
    array([[ 7,  7,  0,  7,  0, 10]])
    """
    names = np.arange(found.max() + 1, dtype=np.int64) + int(labels.max())
    names[0] = 0
    table = count_pairs(np.ascontiguousarray(labels, np.int32), np.ascontiguousarray(found, np.int32))
    for entry in np.lexsort((table.truth, table.count)):
        if table.truth[entry] and table.predicted[entry]:
            names[table.predicted[entry]] = table.truth[entry]  # the last one is the one with most pixels
    return names[found]


def numbered(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the labels of one section from 1 in ascending order.

    Colours depend on numbers. With these, the colours of a section do not depend on the number of cells in
    the sections before it.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels, 0 = background.

    Returns
    -------
    values : (n,) array of int64
        The labels that occur.
    numbers : (y, x) array of int32
        The number of each, 1..n, 0 = background.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.parts import numbered
    >>> numbered(np.array([[0, 7, 7, 9]]))
    (array([7, 9]), array([[0, 1, 1, 2]], dtype=int32))
    """
    values = np.unique(labels)
    values = values[values > 0]
    return values.astype(np.int64), np.searchsorted(values, labels, side="right").astype(np.int32)
