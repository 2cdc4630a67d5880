"""Kinds of the errors that remain after the truth was deformed towards the prediction (`warping`).

Each remaining pixel is a split, a merger, or an added or deleted hole or object. The rules are those of the
ISBI 2012 challenge.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import padded_components, root
from pipeline_lib.kernels.sections import (
    OUTSIDE,
    check_shapes,
    count_annotated,
    section,
    sections_of,
    unpadded,
)
from pipeline_lib.metrics.inputs import as_probability
from pipeline_lib.metrics.warping import warped_sections
from pipeline_lib.runtime.types import Stored

if TYPE_CHECKING:
    import pandas as pd

CHALLENGE_RADIUS = 20  # px; half side of the window in which the challenge looked for a split


class Mismatch(IntEnum):  # numpydoc ignore=PR01
    """Kinds of remaining errors; a pixel of the error map is 0 or one of these.

    Attributes
    ----------
    MERGER : 1
        Predicted cell that joins two or more cells.
    SPLIT : 2
        Predicted membrane that divides a cell.
    HOLE_ADDITION : 4
        Predicted hole in a cell, or predicted cell that closes a ring.
    OBJECT_DELETION : 8
        Remaining pixel of a cell that is not predicted.
    OBJECT_ADDITION : 16
        Predicted cell in the membrane.
    HOLE_DELETION : 32
        Hole of a cell that is not predicted, or a ring of cell that is predicted open.
    """

    MERGER = 1
    SPLIT = 2
    HOLE_ADDITION = 4
    OBJECT_DELETION = 8
    OBJECT_ADDITION = 16
    HOLE_DELETION = 32


def error_map(
    cells: Stored,
    cell_probability: Stored,
    threshold: float = 0.5,
    mask: Stored | None = None,
    radius: int = CHALLENGE_RADIUS,
    *,
    ignore: Stored | None = None,
) -> np.ndarray:
    """Return where the deformed truth still differs from the prediction, and the kind of each error.

    The truth is deformed by `warp`.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane is 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    threshold : float, default 0.5
        Pixels with a larger probability are predicted as cell; compared in float64. In 0..1.
    mask : array, optional
        Pixels whose errors count are not 0; same shape. By default all count, as in the challenge.
    radius : int, default 20
        Half side of a window (px) that decides about predicted membrane in a cell. It is a split if it
        separates parts of the cell within the window of 2 `radius` + 1 px, otherwise it opens a ring (hole
        deletion). If `radius` is below 1 or larger than the section, the window is the whole section.
    ignore : array, optional
        Pixels that are not part of the image are not 0; same shape. They are 0 in the error map, see `warp`.

    Returns
    -------
    array of uint8
        Error map of the same shape: 0 = no error, otherwise a `Mismatch`.

    Raises
    ------
    InputError
        If the shapes differ, the probability has NaN or values outside 0..1, or the threshold is outside
        0..1.

    Notes
    -----
    Errors are classified by the components of the deformed truth, also if a section of the truth has no
    membrane. For such a section the reference implementation treats all pixels as background.

    Examples
    --------
    A prediction without membrane merges two cells; 1 is `Mismatch.MERGER`.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import error_map
    >>> cells = np.array([[1, 1, 1, 0, 0, 1, 1]] * 2)
    >>> error_map(cells, np.ones((2, 7)))
    array([[0, 0, 0, 0, 1, 0, 0],
           [0, 0, 0, 0, 1, 0, 0]], dtype=uint8)

    A membrane through a cell splits it; 2 is `Mismatch.SPLIT`. The truth is deformed until one pixel of the
    cell is left to cut.

    >>> error_map(cells, np.array([[1.0, 0, 1, 0, 0, 1, 1]] * 2))
    array([[0, 0, 0, 0, 0, 0, 0],
           [0, 2, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    errors = np.empty(cells.shape, np.uint8)
    for z, codes in enumerate(error_maps(cells, cell_probability, threshold, mask, radius, ignore=ignore)):
        section(errors, z)[...] = codes
    return errors


def error_maps(
    cells: Stored,
    cell_probability: Stored,
    threshold: float = 0.5,
    mask: Stored | None = None,
    radius: int = CHALLENGE_RADIUS,
    *,
    ignore: Stored | None = None,
) -> Iterator[np.ndarray]:
    """Yield the `error_map` of each section, with one section in memory at a time.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane is 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    threshold : float, default 0.5
        Pixels with a larger probability are predicted as cell; compared in float64. In 0..1.
    mask : array, optional
        Pixels whose errors count are not 0; same shape. By default all count, as in the challenge.
    radius : int, default 20
        Half side of the window (px) that decides whether predicted membrane in a cell is a split; see
        `error_map`.
    ignore : array, optional
        Pixels that are not part of the image are not 0; same shape. They are 0 in the error map, see `warp`.

    Yields
    ------
    (y, x) array of uint8
        Error map of a section: 0 = no error, otherwise a `Mismatch`.

    Raises
    ------
    InputError
        If the shapes differ, the probability has NaN or values outside 0..1, or the threshold is outside
        0..1.
    """
    for found in warped_sections(cells, cell_probability, threshold, mask, ignore):
        yield unpadded(classify(*found, radius))


def splits_mergers_error(
    cells: Stored,
    cell_probability: Stored,
    threshold: float = 0.5,
    mask: Stored | None = None,
    *,
    ignore: Stored | None = None,
) -> float:
    """Return the fraction of pixels that are splits or mergers after the truth was deformed by `warp`.

    The challenge published the minimum of this score over thresholds as its warping error. Other errors of
    topology do not count, so a useless prediction can have a perfect score. Read it together with other
    scores, for instance in `summary_table`.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane is 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    threshold : float, default 0.5
        Pixels with a larger probability are predicted as cell; compared in float64. In 0..1.
    mask : array, optional
        Pixels whose errors count are not 0; same shape. By default all count, as in the challenge.
    ignore : array, optional
        Pixels that are not part of the image are not 0; same shape. They are 0 in the error map, see `warp`.

    Returns
    -------
    float
        0 (best) to 1, as a fraction of all pixels that are not ignored; NaN if all are. 0 without any true
        cell. 0 also for an empty prediction: each cell is deformed to a single pixel, whose kind is object
        deletion.

    Raises
    ------
    InputError
        If the shapes differ, the probability has NaN or values outside 0..1, or the threshold is outside
        0..1.

    Examples
    --------
    A prediction without membrane merges two cells along a line of 2 of 14 pixels. One without cells scores
    perfectly.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import splits_mergers_error
    >>> cells = np.array([[1, 1, 1, 0, 0, 1, 1]] * 2)
    >>> round(splits_mergers_error(cells, np.ones((2, 7))), 4)
    0.1429
    >>> splits_mergers_error(cells, np.zeros((2, 7)))
    0.0
    """
    errors = error_map(cells, cell_probability, threshold, mask, ignore=ignore)
    split_or_merger = (errors == Mismatch.SPLIT) | (errors == Mismatch.MERGER)
    pixels = count_annotated(cells, ignore)
    return float(np.count_nonzero(split_or_merger) / pixels) if pixels else float("nan")


def error_regions(errors: Stored, cell_probability: Stored, threshold: float = 0.5) -> pd.DataFrame:
    """Return a table of the connected errors in an `error_map`, largest first.

    Connected pixels of one kind are one error. Mergers, and holes added by predicted membrane, are
    8-connected; the other kinds are 4-connected, as in the reference.

    Parameters
    ----------
    errors : (z, y, x) or (y, x) array of uint8
        Error map.
    cell_probability : array of float
        Probability map from which `errors` was made.
    threshold : float, default 0.5
        Threshold with which `errors` was made.

    Returns
    -------
    pandas.DataFrame
        One row for each error with the columns section (number), kind (name of the `Mismatch` in lower case),
        pixels (size in px), and y and x (centre in px).

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import error_map, error_regions
    >>> cells, probability = np.array([[1, 1, 1, 0, 0, 1, 1]] * 2), np.ones((2, 7))
    >>> error_regions(error_map(cells, probability), probability)
       section    kind  pixels    y    x
    0        0  merger       2  0.5  4.0
    """
    import pandas as pd  # imported here because it takes 0.25 s,
    from scipy import ndimage  # and this 0.15 s; most stages that use a score need neither

    check_shapes(errors=errors, cell_probability=cell_probability)
    regions = []
    for z, codes in enumerate(sections_of(errors)):
        membrane = np.less_equal(as_probability(section(cell_probability, z)), np.float64(threshold))
        for kind in Mismatch:
            for side in (membrane, ~membrane):
                corners = kind is Mismatch.MERGER or (kind is Mismatch.HOLE_ADDITION and side is membrane)
                labels, _ = ndimage.label((codes == kind) & side, np.ones((3, 3)) if corners else None)
                y, x = np.nonzero(labels)
                pixels = pd.DataFrame({"region": labels[y, x], "pixels": 1, "y": y, "x": x})
                found = pixels.groupby("region").agg({"pixels": "sum", "y": "mean", "x": "mean"})
                regions.append(found.assign(section=z, kind=kind.name.lower()))
    columns = ["section", "kind", "pixels", "y", "x"]
    table = pd.concat(regions)[columns]
    return table.sort_values("pixels", ascending=False, kind="stable", ignore_index=True)


def classify(warped: np.ndarray, remaining: np.ndarray, beyond: np.ndarray | None, radius: int) -> np.ndarray:
    """Return the kinds (uint8, see `Mismatch`) of the remaining pixels of a padded section; 0 elsewhere.

    `beyond` is the result of `sections.outside`.
    """
    if not 1 <= radius <= _smaller_side(warped, beyond):
        radius = max(warped.shape)
    codes = np.zeros(warped.shape, np.uint8)
    background, parent = _background_components(warped)
    _classify(warped, padded_components(warped, beyond), background, parent, remaining, radius, codes)
    return codes


def _smaller_side(warped: np.ndarray, beyond: np.ndarray | None) -> int:
    """Return the smaller side of the smallest rectangle around the pixels of the image (px)."""
    if beyond is None:
        return min(warped.shape) - 2
    inside = (np.flatnonzero(~beyond.all(axis)) for axis in (0, 1))
    return min(int(places[-1] - places[0]) + 1 if places.size else 0 for places in inside)


@compiled
def _classify(
    warped: np.ndarray,
    labels: np.ndarray,
    background: np.ndarray,
    parent: np.ndarray,
    remaining: np.ndarray,
    radius: int,
    codes: np.ndarray,
) -> None:
    """Write the kind of each remaining pixel to `codes`.

    `labels` are the components of the deformed truth; `background` and `parent` are described at
    `_background_components`.
    """
    columns = warped.shape[1]
    flat = warped.ravel()
    label = labels.ravel()
    background = background.ravel()
    code = codes.ravel()
    ring = (1, columns + 1, columns, columns - 1, -1, -columns - 1, -columns, -columns + 1)
    visited = np.zeros(flat.size, np.uint8)
    queue = np.empty(min(flat.size, (2 * radius + 1) ** 2), np.int32)
    for pixel in remaining:
        first = second = OUTSIDE
        distinct = 0
        for step in ring:
            other = label[pixel + step]
            if other == OUTSIDE or (distinct > 0 and other == first) or (distinct > 1 and other == second):
                continue
            if distinct == 0:
                first = other
            elif distinct == 1:
                second = other
            distinct += 1
        white = flat[pixel] != 0
        if distinct < 2 and first <= 0:
            code[pixel] = Mismatch.OBJECT_DELETION if white else Mismatch.OBJECT_ADDITION
        elif distinct < 2:
            code[pixel] = Mismatch.HOLE_ADDITION if white else Mismatch.HOLE_DELETION
        elif not white:
            code[pixel] = Mismatch.HOLE_ADDITION if distinct == 2 else Mismatch.MERGER
        elif (
            distinct > 2
            or _cuts(flat, pixel, ring, background, parent)
            or _separates(flat, columns, pixel, radius, ring, visited, queue)
        ):
            code[pixel] = Mismatch.SPLIT
        else:
            code[pixel] = Mismatch.HOLE_DELETION


@compiled
def _background_components(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return provisional labels (int32) of the background, 8-connected, and the forest that joins them.

    Labels with the same root in the union-find forest are one component. The outside belongs to the
    background.
    """
    rows, columns = cells.shape
    labels = np.ones(cells.shape, np.int32)
    parent = np.arange(2 + cells.size // 4, dtype=np.int32)  # at most one new label for two pixels of a row
    used = 1
    for x in range(1, rows):
        for y in range(1, columns - 1):
            if cells[x, y]:
                continue
            if not cells[x - 1, y]:  # this pixel touches all the others
                labels[x, y] = labels[x - 1, y]
                continue
            before = after = 0
            if not cells[x, y - 1]:
                before = labels[x, y - 1]
            elif not cells[x - 1, y - 1]:
                before = labels[x - 1, y - 1]
            if not cells[x - 1, y + 1]:
                after = labels[x - 1, y + 1]
            if before and after:
                parent[root(parent, after)] = root(parent, before)
            elif not before and not after:
                used += 1
                before = used
            labels[x, y] = before if before else after
    return labels, parent


@compiled
def _cuts(
    flat: np.ndarray, pixel: int, ring: tuple[int, ...], background: np.ndarray, parent: np.ndarray
) -> bool:
    """Return whether a cell is divided in the whole section if `pixel` becomes background.

    It is if the same background component touches the pixel in two gaps between its 4-neighbours inside
    cells. Parts that are separate in the section are separate in each window, so this quick test makes
    most calls of `_separates` unnecessary.
    """
    start = -1
    for k in range(0, 8, 2):
        if flat[pixel + ring[k]]:
            start = k
    if start < 0:
        return False
    gaps = np.zeros(4, np.int32)
    found = 0
    gap = 0
    for k in range(start + 1, start + 9):
        neighbour = pixel + ring[k & 7]
        if not flat[neighbour]:
            gap = root(parent, background[neighbour])
        elif k & 1 == 0 and gap:
            if (gaps == gap).any():
                return True
            gaps[found] = gap
            found += 1
            gap = 0
    return False


@compiled
def _separates(
    flat: np.ndarray,
    columns: int,
    pixel: int,
    radius: int,
    ring: tuple[int, ...],
    visited: np.ndarray,
    queue: np.ndarray,
) -> bool:
    """Return whether the cell around `pixel` is divided within the window if `pixel` becomes background.

    The cell is flooded from all neighbours of the pixel at once. Floods that touch are joined. The search
    ends when one flood is left, or when one cannot grow any more. `visited` has the number of the flood at
    each pixel; it is 0 everywhere before and after the call.
    """
    parent = np.arange(9)
    waiting = np.zeros(9, np.int64)
    x, y = pixel // columns, pixel % columns
    tail = 0
    for step in ring:
        if flat[pixel + step]:
            queue[tail] = pixel + step
            tail += 1
            visited[pixel + step] = tail
            waiting[tail] = 1
    floods = tail
    head = 0
    apart = False
    while floods > 1 and not apart:
        current = queue[head]
        head += 1
        own = root(parent, visited[current])
        for step in (1, columns, -1, -columns):
            other = current + step
            if flat[other] == 0 or other == pixel:
                continue
            if abs(other // columns - x) > radius or abs(other % columns - y) > radius:
                continue
            if visited[other] == 0:
                visited[other] = own
                waiting[own] += 1
                queue[tail] = other
                tail += 1
                continue
            touched = root(parent, visited[other])
            if touched != own:
                parent[touched] = own
                waiting[own] += waiting[touched]
                floods -= 1
        waiting[own] -= 1
        apart = waiting[own] == 0
    for index in range(tail):
        visited[queue[index]] = 0
    return apart and floods > 1
