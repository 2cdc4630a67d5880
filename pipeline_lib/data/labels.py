"""Separation border between touching cells, and other properties of instance labels."""

from __future__ import annotations

import numpy as np

from pipeline_lib.kernels.sections import without

#: Default of the setting `dataset.separation_border_width` (px).
BORDER_WIDTH = 2


def separation_border(labels: np.ndarray, width: int) -> np.ndarray:
    """Find the cell pixels that must become background so that touching cells are separated.

    Cells touch if pixels of them are neighbours, also diagonally. Both cells lose half of the width; if it is
    odd, the cell with the smaller label loses one pixel more. A cell loses only pixels that are close to its
    own contact with another cell. Without the border, no two cells are 8-neighbours.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of one section, 0 = background.
    width : int
        Width of the border in px; 0 gives no border.

    Returns
    -------
    (y, x) array of bool
        True on the border.

    References
    ----------
    Section 3 of [1]_: the border is "computed using morphological operations".

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    Two cells that touch lose one pixel each:

    >>> import numpy as np
    >>> from pipeline_lib.data.labels import separation_border
    >>> separation_border(np.array([[1, 1, 1, 2, 2, 2]]), width=2).astype(int)
    array([[0, 0, 1, 1, 0, 0]])

    Cells that do not touch have no border:

    >>> separation_border(np.array([[1, 1, 1, 0, 2, 2]]), width=2).any()
    np.False_
    """
    smaller, larger = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    for here, there in _neighbour_views(labels.shape):
        touching = (labels[here] != labels[there]) & (labels[here] > 0) & (labels[there] > 0)
        smaller[here] |= touching & (labels[here] < labels[there])
        larger[here] |= touching & (labels[here] > labels[there])
    return _grow(smaller, labels, (width + 1) // 2) | _grow(larger, labels, width // 2)


def border_halo(width: int) -> int:
    """Return the halo with which a block of a section has the same border as in the whole section.

    A border pixel is at most (width + 1) // 2 - 1 px away from a pixel of its cell that touches another cell.
    That cell is 1 px further away.

    Parameters
    ----------
    width : int
        Width of the border in px.

    Returns
    -------
    int
        Surroundings of a block that have to be read, in px on each side.
    """
    return (width + 1) // 2


def _grow(contact: np.ndarray, labels: np.ndarray, layers: int) -> np.ndarray:
    """Grow the border `layers` pixels deep into each cell.

    `contact` is the first layer. Each further layer is a dilation within the cell.
    """
    if layers == 0:
        return np.zeros_like(contact)
    for _ in range(layers - 1):
        grown = contact.copy()
        for here, there in _neighbour_views(labels.shape):
            grown[here] |= contact[there] & (labels[here] == labels[there])
        contact = grown
    return contact


def _neighbour_views(shape: tuple[int, int]) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Return pairs of indices that align each pixel with its neighbour, for the eight directions."""

    def part(shift: int, size: int) -> slice:
        return slice(max(shift, 0), size + min(shift, 0))

    return [
        ((part(-dy, shape[0]), part(-dx, shape[1])), (part(dy, shape[0]), part(dx, shape[1])))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if dy or dx
    ]


def count_pixels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of each label.

    Runs of equal pixels along the rows are counted: there are far fewer runs than pixels to sort.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of one section.

    Returns
    -------
    values : (n,) array
        The distinct values in ascending order, background included.
    counts : (n,) array of int64
        Number of pixels of each value.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.labels import count_pixels
    >>> values, counts = count_pixels(np.array([[0, 7, 7], [0, 0, 7]]))
    >>> values, counts
    (array([0, 7]), array([3, 3]))
    """
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values, inverse = np.unique(flat[starts], return_inverse=True)
    lengths = np.diff(starts, append=flat.size)
    return values, np.bincount(inverse, lengths).astype(np.int64)


def share_sides(labels: np.ndarray) -> bool:
    """Return whether pixels of two different instances share a side anywhere.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of one section, 0 = background.

    Returns
    -------
    bool
        False if instances touch at most diagonally.
    """
    return any(
        ((before != after) & (before > 0) & (after > 0)).any()
        for before, after in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    )


def cells_apart(
    labels: np.ndarray, separation_border: np.ndarray, ignored: np.ndarray | None = None
) -> np.ndarray:
    """Return the cells of one section for scores that treat cells as 4-connected regions.

    If two instances share a side, they would form one region; the separation border is then removed from the
    cells. Otherwise the annotation is used unchanged, as for all annotations of membranes.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels of the section, 0 = background.
    separation_border : (y, x) array
        Separation border of the section, non-zero on the border.
    ignored : (y, x) array of bool, optional
        Pixels that are not annotated. They belong to no cell.

    Returns
    -------
    (y, x) array of bool
        True inside cells.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.labels import cells_apart, separation_border
    >>> labels = np.array([[1, 1, 2, 2]])
    >>> cells_apart(labels, separation_border(labels, width=2)).astype(int)
    array([[1, 0, 0, 1]])
    """
    labels = without(labels, ignored)
    cells = labels > 0
    return cells & (separation_border == 0) if share_sides(labels) else cells
