"""Boxes of objects, from instance labels; and labels that stand for boxes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.boxes import Boxes, area
from pipeline_lib.runtime.types import Stored

BAND = 2**22  # pixels that are read at a time


class Objects(NamedTuple):
    """The objects of a section, in the order of their labels.

    Parameters
    ----------
    label : (n,) array of uint32
        Label of each object.
    boxes : (n, 4) array of float64
        Box (y0, x0, y1, x1) of each object (px).
    pixels : (n,) array of int64
        Number of pixels of each object.
    first : (n, 2) array of int64
        Row and column of the first pixel of each object.
    """

    label: npt.NDArray[np.uint32]
    boxes: Boxes
    pixels: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


def objects_of(labels: Stored, section: int, ignore: Stored | None = None) -> Objects:
    """Find the box of each label of a section.

    Parameters
    ----------
    labels : (z, y, x) array of unsigned integers
        Instance labels, 0 = background. Numpy or h5py; it is read in bands of rows.
    section : int
        Number of the section.
    ignore : (z, y, x) array, optional
        Pixels other than 0 belong to no object.

    Returns
    -------
    Objects
        Boxes of all labels. Pixels with the same label are one object, also if they are not connected.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.boxes import objects_of
    >>> found = objects_of(np.array([[[0, 5, 5], [7, 5, 0]]]), 0)
    >>> found.label, found.boxes.tolist(), found.pixels
    (array([5, 7], dtype=uint32), [[0.0, 1.0, 2.0, 3.0], [1.0, 0.0, 2.0, 1.0]], array([3, 1]))
    """
    _, height, width = labels.shape
    step = max(BAND // width, 1)
    bands = []
    for top in range(0, height, step):
        band = np.asarray(labels[section, top : top + step])
        if ignore is not None:
            band = np.where(ignore[section, top : top + step], 0, band)
        bands.append(_joined_runs(_runs(band, top)))
    return _joined(np.concatenate(bands))


def _runs(band: npt.NDArray[np.integer], top: int) -> npt.NDArray[np.int64]:
    """Return the runs of equal labels in the rows of a band.

    Each run is a row (label, y0, x0, y1, x1, pixels, y, x of the first pixel).
    """
    starts = np.ones(band.shape, bool)
    starts[:, 1:] = band[:, 1:] != band[:, :-1]
    y, x = np.nonzero(starts)
    length = np.diff(np.append(y * band.shape[1] + x, band.size))
    label = band[y, x].astype(np.int64)
    runs = np.stack([label, y + top, x, y + top + 1, x + length, length, y + top, x], axis=1)
    return runs[label > 0]


def _joined_runs(runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Join the rows of each label to one, in the order of the labels."""
    if not len(runs):
        return runs
    runs = runs[np.argsort(runs[:, 0], kind="stable")]  # the first run of each label stays in front
    first = np.flatnonzero(np.diff(runs[:, 0], prepend=-1))
    joined = runs[first]
    joined[:, 1:3] = np.minimum.reduceat(runs[:, 1:3], first)
    joined[:, 3:5] = np.maximum.reduceat(runs[:, 3:5], first)
    joined[:, 5] = np.add.reduceat(runs[:, 5], first)
    return joined


def _joined(runs: npt.NDArray[np.int64]) -> Objects:
    """Return the objects of runs from several bands."""
    rows = _joined_runs(runs)
    return Objects(rows[:, 0].astype(np.uint32), rows[:, 1:5].astype(float), rows[:, 5], rows[:, 6:])


class LabelsOfBoxes:
    """Labels (z, y, x) that stand for boxes where there are no masks. They are drawn where they are read.

    Of boxes that overlap, the smaller one is in front.

    Parameters
    ----------
    boxes : (n, 4) array of float64
        Boxes (y0, x0, y1, x1) of all objects (px).
    sections : (n,) array of int
        Section of each box.
    shape : tuple of int
        Shape of the volume, (z, y, x).
    inscribed : bool, default False
        Whether the ellipse inside each box is drawn, not the whole box: most cells are like it.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.boxes import LabelsOfBoxes
    >>> labels = LabelsOfBoxes(np.array([[0.0, 0, 3, 3], [1, 2, 2, 5]]), np.array([0, 0]), (1, 3, 5))
    >>> labels[0, 0:3, 0:5]
    array([[1, 1, 1, 0, 0],
           [1, 1, 2, 2, 2],
           [1, 1, 1, 0, 0]], dtype=uint32)
    """

    dtype = np.dtype(np.uint32)

    def __init__(
        self,
        boxes: Boxes,
        sections: npt.NDArray[np.integer],
        shape: tuple[int, int, int],
        inscribed: bool = False,
    ) -> None:
        self.shape = shape
        self._boxes, self._sections, self._inscribed = boxes, sections, inscribed

    def __getitem__(self, index: tuple[int, slice, slice]) -> npt.NDArray[np.uint32]:
        section, *window = index
        rows, columns = (range(size)[part] for part, size in zip(window, self.shape[1:], strict=True))
        drawn = np.zeros((len(rows), len(columns)), np.uint32)
        boxes = self._boxes - [rows.start, columns.start] * 2
        shown = (self._sections == section) & (boxes[:, 2:] > 0).all(axis=1)
        shown &= (boxes[:, :2] < drawn.shape).all(axis=1)
        numbers = np.flatnonzero(shown)
        for number in numbers[np.argsort(-area(boxes[numbers]), kind="stable")]:
            box = boxes[number]
            y, x = (
                # pixels whose middle is in the box
                np.arange(max(np.ceil(low - 0.5), 0), min(np.ceil(high - 0.5), size)).astype(int)
                for low, high, size in zip(box[:2], box[2:], drawn.shape, strict=True)
            )
            part = np.ix_(y, x)
            inside: Any = True
            if self._inscribed:
                middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
                far = [((at + 0.5 - middle[k]) / half[k]) ** 2 for k, at in enumerate((y, x))]
                inside = far[0][:, None] + far[1] <= 1
            drawn[part] = np.where(inside, number + 1, drawn[part])
        return drawn
