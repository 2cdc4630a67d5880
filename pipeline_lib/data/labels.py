"""The border that keeps touching cells apart, and what it makes of instance labels."""

from __future__ import annotations

import numpy as np

BORDER_WIDTH = 2  # px between cells that touch, unless a setting says otherwise


def separation_border(labels: np.ndarray, width: int) -> np.ndarray:
    """Cell pixels to give to the background so that touching cells are `width` px apart.

    `labels` (y, x), 0 = background; returns bool (y, x). Cells that touch, also diagonally, lose half the
    width each (the one with the smaller label the odd pixel); a pixel goes only if its own cell touches
    another within that reach. Afterwards no two different cells are 8-neighbours (Ronneberger et al. 2015,
    section 3: "computed using morphological operations").

    >>> separation_border(np.array([[1, 1, 1, 2, 2, 2]]), width=2).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
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
    """Pixels around a block of a section that give it the very border it has in the whole section.

    A pixel of the border lies at most (width + 1) // 2 - 1 px inside its cell from one that touches another
    cell, which lies 1 px further on.
    """
    return (width + 1) // 2


def _grow(contact: np.ndarray, labels: np.ndarray, layers: int) -> np.ndarray:
    """`layers` pixels deep into the cell.

    `contact` is the first layer, each further one a dilation that stays in its own cell.
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
    """Pairs of views that put each pixel beside its neighbour, for the eight directions."""

    def part(shift: int, size: int) -> slice:
        return slice(max(shift, 0), size + min(shift, 0))

    return [
        ((part(-dy, shape[0]), part(-dx, shape[1])), (part(dy, shape[0]), part(dx, shape[1])))
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if dy or dx
    ]


def count_pixels(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values of `labels` (y, x), ascending, and the number of pixels of each (int64).

    By runs of equal pixels along the rows, of which there are far fewer than pixels to sort.
    """
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    values, inverse = np.unique(flat[starts], return_inverse=True)
    lengths = np.diff(starts, append=flat.size)
    return values, np.bincount(inverse, lengths).astype(np.int64)


def share_sides(labels: np.ndarray) -> bool:
    """Return whether pixels of two instances of one section (y, x) share a side anywhere."""
    return any(
        ((before != after) & (before > 0) & (after > 0)).any()
        for before, after in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    )


def cells_apart(labels: np.ndarray, separation_border: np.ndarray) -> np.ndarray:
    """The truth of one section (y, x) for scores that see cells as 4-connected regions; True = cell.

    The annotation itself where its instances are such regions, as all membrane annotations are; where two
    instances share a side they would be one region, and the separation border keeps them apart.
    """
    cells = labels > 0
    return cells & (separation_border == 0) if share_sides(labels) else cells
