"""Causes of the errors of a segmentation: of merged, split, missed and false cells, and of wrong outlines.

Each pixel at which the found cells differ from the true ones belongs to exactly one cause. To repair a cause
is to replace its pixels with the truth.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.sections import OUTSIDE, check_shapes, padded, unpadded
from pipeline_lib.metrics.contingency import ContingencyTable, as_labels_with_values, count_pairs

#: Widest background between two cells that is a separation, px. It is twice the sigma of the weight map.
SEPARATION = 10
#: A cell, or a place of a separation, is compared with the others of its section if there are as many.
FEWEST = 4


class Cause(IntEnum):  # numpydoc ignore=PR01
    """Causes of errors; a pixel of a map of causes is 0 or one of these.

    The first part of a name is the kind of the error: a true cell that is merged with another one or missed,
    a found cell that is a piece of a split one or false, or the outline of a cell that was found.

    Attributes
    ----------
    MERGED_TOUCHING : 1
        The true cells touch: the annotation has no background between them.
    MERGED_THIN : 2
        The background between the true cells is thin.
    MERGED_FAINT : 3
        The image shows the separation only faintly.
    MERGED_OTHER : 4
        None of these.
    SPLIT_NECK : 5
        The true cell is narrow where it was cut.
    SPLIT_STRUCTURE : 6
        Inside of the cell there is a structure that is as dark as a separation.
    SPLIT_OTHER : 7
        None of these.
    MISSED_EDGE : 8
        The cell is cut by the edge of the image, or by pixels that are not annotated.
    MISSED_DIM : 9
        The cell differs little from the background.
    MISSED_SMALL : 10
        The cell is small.
    MISSED_OTHER : 11
        None of these.
    FALSE_LIKE_CELL : 12
        The image looks like a cell there.
    FALSE_OTHER : 13
        The image looks like background there.
    OUTLINE_BORDER : 14
        Separation border between touching cells that the cell did not get back.
    OUTLINE_RIM_MISSING : 15
        Missing pixels of the cell, at most 1 px from its outline.
    OUTLINE_RIM_EXTRA : 16
        Pixels of background that were added to the cell, at most 1 px from its outline.
    OUTLINE_DEEP_MISSING : 17
        Missing pixels of the cell, deeper inside.
    OUTLINE_DEEP_EXTRA : 18
        Added pixels of background, farther outside.
    """

    MERGED_TOUCHING = 1
    MERGED_THIN = 2
    MERGED_FAINT = 3
    MERGED_OTHER = 4
    SPLIT_NECK = 5
    SPLIT_STRUCTURE = 6
    SPLIT_OTHER = 7
    MISSED_EDGE = 8
    MISSED_DIM = 9
    MISSED_SMALL = 10
    MISSED_OTHER = 11
    FALSE_LIKE_CELL = 12
    FALSE_OTHER = 13
    OUTLINE_BORDER = 14
    OUTLINE_RIM_MISSING = 15
    OUTLINE_RIM_EXTRA = 16
    OUTLINE_DEEP_MISSING = 17
    OUTLINE_DEEP_EXTRA = 18

    @property
    def kind(self) -> str:
        """Kind of the error: `merged`, `split`, `missed`, `false` or `outline`."""
        return self.name.partition("_")[0].lower()


#: Causes of each kind of error.
CAUSES_OF = {
    kind: tuple(cause for cause in Cause if cause.kind == kind)
    for kind in dict.fromkeys(cause.kind for cause in Cause)
}


class CellError(NamedTuple):
    """A single error in a section.

    Parameters
    ----------
    cause : Cause
        Its cause.
    pixels : int
        Its wrong pixels.
    y, x : int
        Its place: where cells were joined or cut, else the middle of its pixels.
    box : (int, int, int, int)
        First row, first column, and the row and column after the last of its pixels.
    """

    cause: Cause
    pixels: int
    y: int
    x: int
    box: tuple[int, int, int, int]


class Links(NamedTuple):
    """To which cells of the other side the true or the found cells of a section belong.

    Parameters
    ----------
    label : (n,) array of int64
        Label of each cell, ascending.
    match : (n,) array of int64
        Label of the cell that it matches, 0 = none.
    part_of : (n,) array of int64
        For a true cell without match, the found cell into which it was merged; for a found cell, the true
        cell of which it is a piece. 0 = none.
    known : (n,) array of bool
        Whether this is certain. It is not if the cell, or one that decides about its match, is incomplete.
    """

    label: np.ndarray
    match: np.ndarray
    part_of: np.ndarray
    known: np.ndarray


@dataclass(frozen=True)
class SectionCauses:
    """Causes of the errors in one section.

    Parameters
    ----------
    codes : (y, x) array of uint8
        `Cause` of each wrong pixel; 0 where the segmentation is right, or not annotated.
    cells : dict of Cause to int
        Number of errors of each cause; for an outline, number of cells with such pixels.
    outlined : int
        Number of cells with wrong pixels of any cause of outlines.
    errors : tuple of CellError
        All errors of cells that have pixels: merged, split, missed and false ones.
    examples : dict of Cause to CellError
        The largest error of each cause that has pixels; for an outline, the pixels of one cell.
    truth : (y, x) array of int32
        True labels 1..n, 0 = background, -1 = not annotated.
    matched : (y, x) array of int32
        Found cells: with the label of the true cell to which they belong, or with a label above n.
    true_links, found_links : Links
        To which found cells the true ones belong, and the reverse.
    """

    codes: np.ndarray
    cells: dict[Cause, int]
    outlined: int
    errors: tuple[CellError, ...]
    examples: dict[Cause, CellError]
    truth: np.ndarray
    matched: np.ndarray
    true_links: Links
    found_links: Links

    def repaired(self, causes: Collection[Cause]) -> np.ndarray:
        """Return the found cells with the truth at all pixels of some causes.

        Parameters
        ----------
        causes : collection of Cause
            Causes to repair.

        Returns
        -------
        (y, x) array of int32
            Labels, 0 = background, -1 = not annotated. With all causes, they are the true labels.
        """
        table = np.zeros(len(Cause) + 1, bool)
        table[[*causes]] = True
        return np.where(table[self.codes], self.truth, self.matched)


def section_causes(
    raw: np.ndarray,
    labels: np.ndarray,
    found: np.ndarray,
    *,
    border: np.ndarray | None = None,
    ignored: np.ndarray | None = None,
    incomplete: tuple[npt.ArrayLike, npt.ArrayLike] = ((), ()),
) -> SectionCauses:
    """Find the cause of each error in one section.

    Parameters
    ----------
    raw : (y, x) or (c, y, x) array
        Raw image. The mean over its channels is used.
    labels : (y, x) array of int
        Instance labels of the truth, 0 = background.
    found : (y, x) array of int
        Found instance labels, 0 = background.
    border : (y, x) array, optional
        Separation border between touching true cells, non-zero on the border.
    ignored : (y, x) array of bool, optional
        Pixels that are not annotated. Nothing is an error there.
    incomplete : (array-like of int, array-like of int), optional
        Labels of the true and of the found cells that continue outside, if the arrays are a part of a
        section. Their errors are left out, and errors that would differ if these cells were complete.

    Returns
    -------
    SectionCauses
        Causes, numbers of errors, and the largest error of each cause.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    Notes
    -----
    The page :doc:`/explanation/error-causes` states all rules. A true and a found cell are *linked* if they
    share at least half of the pixels of one of them. They *match* if each shares more pixels with the other
    one than with any further cell that it is linked with; of equals, the smallest counts. True cells without
    a match are merged, or missed if they have no link. Found cells without a match are pieces of a split
    cell, or false if they have no link.

    Examples
    --------
    The cells touch in the annotation, and were found as one.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import section_causes
    >>> labels = np.array([[1, 1, 1, 2, 2], [1, 1, 1, 2, 2]])
    >>> causes = section_causes(255 * (labels > 0), labels, labels > 0)
    >>> causes.codes
    array([[0, 0, 0, 1, 1],
           [0, 0, 0, 1, 1]], dtype=uint8)
    >>> {cause.name: number for cause, number in causes.cells.items() if number}
    {'MERGED_TOUCHING': 1}
    """
    gray = raw if raw.ndim == 2 else raw.mean(axis=0, dtype=np.float32)
    check_shapes(raw=gray, labels=labels, found=found, border=border, ignored=ignored)
    own, true_values = as_labels_with_values(labels, "labels", ignored)
    other, found_values = as_labels_with_values(found, "found", ignored)
    pairs = _Pairs.of(count_pairs(own, other))
    truth, predicted = _numbered(own, pairs.true_labels), _numbered(other, pairs.found_labels)
    pairs = pairs.with_labels(true_values, found_values)
    del own, other
    image = padded(gray, np.float32)
    shades = _Shades.of(image, truth, predicted, pairs)
    cells = _Cells(truth, predicted, *_nearest(truth, predicted))
    joins, cuts, separations = _measure(
        cells,
        image,
        pairs.merged_into,
        pairs.piece_of,
        shades.true,
        shades.found_part,
        shades.sign,
        SEPARATION,
    )
    del image
    of_true = _causes_of_true(pairs, joins, separations, shades, _at_edge(truth, len(pairs.true_size)))
    of_found = _causes_of_found(pairs, cuts, separations, shades)
    known_true, known_found = pairs.known(*incomplete)
    errors = _assign(
        cells,
        np.zeros(truth.shape, np.uint8) if border is None else padded(border != 0, np.uint8),
        pairs.merged_into,
        pairs.piece_of,
        pairs.match_of_true,
        of_true,
        of_found,
    )
    del cells
    matched = np.where(predicted > 0, pairs.matched_labels()[predicted], predicted)
    of_cell = np.where(truth > 0, truth, matched)
    causes, places = np.concatenate([of_true, of_found[1:]]), np.concatenate([joins[:, -2:], cuts[1:, -2:]])
    known = np.concatenate([known_true, known_found[1:]])
    if not known.all():
        causes[~known] = 0
        errors[(errors > 0) & ~known.take(errors, mode="clip")] = 0
    counts, single, examples = _single_errors(errors, causes, of_cell, places)
    outlined = len(np.unique(of_cell[errors < 0]))
    del of_cell
    codes = np.where(errors > 0, causes.take(errors, mode="clip"), (-errors).astype(np.uint8))
    del errors
    codes, truth, matched = (np.ascontiguousarray(unpadded(array)) for array in (codes, truth, matched))
    return SectionCauses(
        codes, counts, outlined, single, examples, truth, matched, *pairs.links(known_true, known_found)
    )


@dataclass(frozen=True)
class _Pairs:
    """Links and matches between true and found cells, which are numbered from 1.

    Arrays have one element per cell, and one for the background in front: its label, size (px), match,
    and the cell that it was `merged_into` or is a `piece_of`; 0 = none.
    """

    true_labels: np.ndarray
    found_labels: np.ndarray
    true_size: np.ndarray
    found_size: np.ndarray
    match_of_true: np.ndarray
    match_of_found: np.ndarray
    merged_into: np.ndarray
    piece_of: np.ndarray
    shared: np.ndarray  # pixels that a piece shares with the cell that it belongs to

    @classmethod
    def of(cls, table: ContingencyTable) -> _Pairs:
        true_labels, i = np.unique(np.append(table.truth, 0), return_inverse=True)
        found_labels, j = np.unique(np.append(table.predicted, 0), return_inverse=True)
        count = np.append(table.count, 0).astype(np.int64)
        true_size = np.bincount(i, count, len(true_labels)).astype(np.int64)
        found_size = np.bincount(j, count, len(found_labels)).astype(np.int64)
        linked = (i > 0) & (j > 0) & (2 * count >= np.minimum(true_size[i], found_size[j]))
        i, j, count = i[linked], j[linked], count[linked]
        of_true, _ = _most_shared(i, j, count, len(true_size), found_size)
        of_found, shared = _most_shared(j, i, count, len(found_size), true_size)
        match_of_true = np.where(of_found[of_true] == np.arange(len(of_true)), of_true, 0)
        match_of_found = np.where(of_true[of_found] == np.arange(len(of_found)), of_found, 0)
        return cls(
            true_labels,
            found_labels,
            true_size,
            found_size,
            match_of_true,
            match_of_found,
            merged_into=np.where(match_of_true > 0, 0, of_true),
            piece_of=np.where(match_of_found > 0, 0, of_found),
            shared=shared,
        )

    def with_labels(self, true: np.ndarray | None, found: np.ndarray | None) -> _Pairs:
        """Return the pairs with the labels that numbers stand for; without an array, numbers are labels."""
        return replace(
            self,
            true_labels=self.true_labels if true is None else true[self.true_labels],
            found_labels=self.found_labels if found is None else found[self.found_labels],
        )

    def links(self, known_true: np.ndarray, known_found: np.ndarray) -> tuple[Links, Links]:
        """Return to which found cells the true ones belong, and the reverse."""
        true, found = self.true_labels, self.found_labels
        return (
            Links(true[1:], found[self.match_of_true[1:]], found[self.merged_into[1:]], known_true[1:]),
            Links(found[1:], true[self.match_of_found[1:]], true[self.piece_of[1:]], known_found[1:]),
        )

    def known(self, true: npt.ArrayLike, found: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return which true and found cells have links that are certain, given the labels of incomplete ones.

        A cell, the one that it belongs to, and the one that this one belongs to decide about its links. If
        these are complete, the links are certain: the rest of an incomplete cell shares no pixel with a
        complete one, so it adds no link between them.
        """
        partner_of_true = self.match_of_true + self.merged_into
        partner_of_found = self.match_of_found + self.piece_of
        cut_true, cut_found = np.isin(self.true_labels, true), np.isin(self.found_labels, found)
        near_true, near_found = cut_true | cut_found[partner_of_true], cut_found | cut_true[partner_of_found]
        return ~(cut_true | near_found[partner_of_true]), ~(cut_found | near_true[partner_of_found])

    def matched_labels(self) -> np.ndarray:
        """Return the label (int32) of each found cell: that of its match, or one that no true cell has."""
        new = len(self.true_size) + np.arange(len(self.found_size)) - 1
        new[0] = 0
        return np.where(self.match_of_found > 0, self.match_of_found, new).astype(np.int32)


def _most_shared(
    cells: np.ndarray, others: np.ndarray, count: np.ndarray, number: int, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the linked cell with which each cell shares most pixels, and how many.

    Of equals, it is the smaller one by `size`, then the first one.
    """
    partner, shared = np.zeros(number, np.int64), np.zeros(number, np.int64)
    order = np.lexsort((-others, -size[others], count))  # the last one that is written stays
    partner[cells[order]], shared[cells[order]] = others[order], count[order]
    return partner, shared


def _numbered(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return padded labels with the place of each in `values`; `OUTSIDE` in the padding and if ignored."""
    table = np.zeros(int(values[-1]) + 2, np.int32)
    table[values] = np.arange(len(values))
    table[-1] = OUTSIDE
    array = padded(table[labels], np.int32)
    array[[0, -1]] = array[:, [0, -1]] = OUTSIDE
    return array


@dataclass(frozen=True)
class _Shades:
    """Mean gray levels of true and found cells, whether cells are brighter (`sign`), and their contrasts.

    A contrast is the difference to the mean of the true background of the section, and positive if a cell
    differs as most cells do. It is NaN without background.
    """

    sign: float
    true: np.ndarray
    found_part: np.ndarray  # of the pixels of true cells that are in any found one
    true_contrast: np.ndarray
    found_contrast: np.ndarray

    @classmethod
    def of(cls, image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, pairs: _Pairs) -> _Shades:
        sums, found_sums, parts, part_size = _add_levels(
            image, truth, predicted, len(pairs.true_size), len(pairs.found_size)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            means, found_means = sums / pairs.true_size, found_sums / pairs.found_size
            of_cells = sums[1:].sum() / pairs.true_size[1:].sum()
            part = parts / part_size
        sign = -1.0 if of_cells < means[0] else 1.0
        return cls(sign, means, part, sign * (means - means[0]), sign * (found_means - means[0]))


@compiled
def _add_levels(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, number: int, number_found: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return sums of gray levels: of true cells, of found cells, and of the found part of true cells.

    The last array is the number of pixels of these parts. Element 0 is the background.
    """
    sums, found_sums, parts = np.zeros(number), np.zeros(number_found), np.zeros(number)
    part_size = np.zeros(number, np.int64)
    for x in range(truth.shape[0]):
        for y in range(truth.shape[1]):
            true, found = truth[x, y], predicted[x, y]
            if true < 0:
                continue
            sums[true] += image[x, y]
            found_sums[found] += image[x, y]
            if found > 0:
                parts[true] += image[x, y]
                part_size[true] += 1
    return sums, found_sums, parts, part_size


def _low(own: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return which of `own` are in the lowest quarter of `values`, and also lower than half of them."""
    if len(values) < FEWEST:
        return np.zeros(len(own), bool)
    # the quartile is the same as the median if most values are equal
    return (own <= np.quantile(values, 0.25, method="inverted_cdf")) & (own < np.median(values))


def _halfway(contrasts: np.ndarray) -> float:
    """Return half of the median contrast; NaN for few values, or if the image does not show most of them."""
    known = contrasts[np.isfinite(contrasts)]
    median = float(np.median(known)) if len(known) >= FEWEST else math.nan
    return median / 2 if median > 0 else math.nan


def _causes_of_true(
    pairs: _Pairs, joins: np.ndarray, separations: np.ndarray, shades: _Shades, at_edge: np.ndarray
) -> np.ndarray:
    """Return the cause (uint8) of each true cell that is merged or missed; 0 for the others."""
    edges, width, contrast, touching = joins[:, :4].T
    with np.errstate(invalid="ignore", divide="ignore"):
        width, contrast = width / edges, contrast / edges
    merged = np.select(
        [touching > 0, _low(width, separations[:, 0]), contrast < _halfway(separations[:, 1])],
        [Cause.MERGED_TOUCHING, Cause.MERGED_THIN, Cause.MERGED_FAINT],
        Cause.MERGED_OTHER,
    )
    dim = shades.true_contrast < _halfway(shades.true_contrast[1:])
    missed = np.select(
        [at_edge, dim, _low(pairs.true_size, pairs.true_size[1:])],
        [Cause.MISSED_EDGE, Cause.MISSED_DIM, Cause.MISSED_SMALL],
        Cause.MISSED_OTHER,
    )
    causes = np.where(pairs.merged_into > 0, merged, missed)
    causes[(pairs.match_of_true > 0) | (np.arange(len(causes)) == 0)] = 0
    return causes.astype(np.uint8)


def _causes_of_found(pairs: _Pairs, cuts: np.ndarray, separations: np.ndarray, shades: _Shades) -> np.ndarray:
    """Return the cause (uint8) of each found cell that is a piece or false; 0 for the others."""
    edges, _, contrast = cuts[:, :3].T
    with np.errstate(invalid="ignore", divide="ignore"):
        contrast = contrast / edges
    smaller = np.minimum(pairs.shared, pairs.true_size[pairs.piece_of] - pairs.shared)
    diameter = 2 * np.sqrt(np.maximum(smaller, 0) / np.pi)
    like_separation, like_cell = (
        _halfway(values) for values in (separations[:, 1], shades.true_contrast[1:])
    )
    split = np.select(
        [(edges > 0) & (edges <= diameter / 2), contrast >= like_separation],
        [Cause.SPLIT_NECK, Cause.SPLIT_STRUCTURE],
        Cause.SPLIT_OTHER,
    )
    false = np.where(shades.found_contrast >= like_cell, Cause.FALSE_LIKE_CELL, Cause.FALSE_OTHER)
    causes = np.where(pairs.piece_of > 0, split, false)
    causes[(pairs.match_of_found > 0) | (np.arange(len(causes)) == 0)] = 0
    return causes.astype(np.uint8)


def _at_edge(truth: np.ndarray, number: int) -> np.ndarray:
    """Return which true cells are next to the edge of the image or an ignored pixel."""
    found = np.zeros(number, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        for a, b in ((truth[here], truth[there]), (truth[there], truth[here])):
            found[a[(a > 0) & (b == OUTSIDE)]] = True
    return found


def _single_errors(
    errors: np.ndarray, causes: np.ndarray, cells: np.ndarray, places: np.ndarray
) -> tuple[dict[Cause, int], tuple[CellError, ...], dict[Cause, CellError]]:
    """Return number, all errors of cells, and largest error of each cause; `errors` are those of `_assign`.

    `cells` are the cells to which pixels of outlines belong, and `places` are known places (row and column of
    the padded section, 0 = unknown) of the other errors.
    """
    rows = errors.shape[1]
    flat, of_cell = errors.ravel(), cells.ravel()
    wrong = np.flatnonzero(flat)
    numbers = flat[wrong]
    counts: dict[Cause, int] = {}
    examples: dict[Cause, CellError] = {}

    def error(cause: int, pixels: np.ndarray, place: Sequence[float] = (0, 0)) -> CellError:
        x, y = pixels // rows, pixels % rows  # the padded section is transposed
        middle_x, middle_y = place if place[0] else (float(x.mean()), float(y.mean()))
        box = int(y.min()) - 1, int(x.min()) - 1, int(y.max()), int(x.max())
        return CellError(Cause(cause), len(pixels), round(middle_y) - 1, round(middle_x) - 1, box)

    order = np.argsort(numbers, kind="stable")
    of_cells = order[np.searchsorted(numbers[order], 1) :]
    starts = np.flatnonzero(np.diff(numbers[of_cells], prepend=0))
    single = tuple(
        error(causes[number], wrong[own], places[number].tolist())
        for own in np.split(of_cells, starts[1:])
        if len(own)
        for number in [numbers[own[0]]]
    )
    for cause in Cause:
        if cause.kind == "outline":
            own = wrong[numbers == -cause]
            per_cell = np.bincount(of_cell[own]) if len(own) else np.zeros(0, np.int64)
            counts[cause] = int(np.count_nonzero(per_cell))
            if len(own):
                examples[cause] = error(cause, own[of_cell[own] == per_cell.argmax()])
        else:
            # all pixels of a piece can belong to the error of a true cell, so it has no error of its own
            counts[cause] = int(np.count_nonzero(causes == cause))
            if of_cause := [one for one in single if one.cause == cause]:
                examples[cause] = max(of_cause, key=lambda one: one.pixels)
    return counts, single, examples


class _Cells(NamedTuple):
    """True and found cells of a padded section (int32), and for the other pixels what is next to them.

    `nearest` is the nearest true cell at background of the truth. At a pixel of a true cell it is the found
    cell there, or else the nearest one inside of the true cell. 0 = none. `distance` is the number of steps
    to it, 0 where a true cell was found.
    """

    truth: np.ndarray
    predicted: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray


@compiled
def _nearest(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `nearest` and `distance` of `_Cells`. Steps go to 4-neighbours with the same true label."""
    columns = truth.shape[1]
    steps = (-columns, -1, 1, columns)
    nearest, distance = np.zeros(truth.shape, np.int32), np.zeros(truth.shape, np.int32)
    true, found, near, far = truth.ravel(), predicted.ravel(), nearest.ravel(), distance.ravel()
    open_pixels = 0
    for pixel in range(true.size):
        if true[pixel] < 0:
            near[pixel] = OUTSIDE
        elif true[pixel] > 0 and found[pixel] > 0:
            near[pixel] = found[pixel]
        else:
            open_pixels += 1
    queue = np.empty(open_pixels, np.int32)
    head = tail = 0
    for pixel in range(true.size):
        if near[pixel] != 0:
            continue
        for step in steps:
            other = pixel + step
            source = true[other] if true[pixel] == 0 else found[other]
            if source > 0 and (true[pixel] == 0 or true[other] == true[pixel]):
                near[pixel], far[pixel] = source, 1
                queue[tail] = pixel
                tail += 1
                break
    while head < tail:
        pixel = queue[head]
        head += 1
        for step in steps:
            other = pixel + step
            if near[other] == 0 and true[other] == true[pixel]:
                near[other], far[other] = near[pixel], far[pixel] + 1
                queue[tail] = other
                tail += 1
    return nearest, distance


@compiled
def _smooth(image: np.ndarray, truth: np.ndarray, x: int, y: int, i: int, j: int) -> float:
    """Return the mean gray level at two pixels: of the annotated ones among each and its eight neighbours."""
    level = 0.0
    for row, column in ((x, y), (i, j)):
        total, pixels = 0.0, 0
        for u in range(row - 1, row + 2):
            for v in range(column - 1, column + 2):
                if truth[u, v] != OUTSIDE:
                    total += image[u, v]
                    pixels += 1
        level += total / pixels / 2
    return level


@compiled
def _add(sums: np.ndarray, cell: int, width: int, contrast: float, x: int, y: int) -> None:
    """Add a place to the sums of a cell, and remember the narrowest place."""
    if sums[cell, 0] == 0 or width < sums[cell, 4]:
        sums[cell, 4], sums[cell, 5], sums[cell, 6] = width, x, y
    sums[cell, 0] += 1
    sums[cell, 1] += width
    sums[cell, 2] += contrast
    if width == 0:
        sums[cell, 3] += 1


@compiled
def _true_cell(cells: _Cells, x: int, y: int) -> int:
    """Return the true cell at a pixel or nearest to it; 0 = none."""
    true = cells.truth[x, y]
    return true if true != 0 else cells.nearest[x, y]


@compiled
def _width(cells: _Cells, x: int, y: int, i: int, j: int) -> int:
    """Return the number of background pixels on the way between two true cells that meet here."""
    here = cells.distance[x, y] if cells.truth[x, y] == 0 else 0
    return here + cells.distance[i, j] if cells.truth[i, j] == 0 else here


@compiled
def _measure(
    cells: _Cells,
    image: np.ndarray,
    merged_into: np.ndarray,
    piece_of: np.ndarray,
    shades: np.ndarray,
    found_part: np.ndarray,
    sign: float,
    widest: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure the places where true cells were joined and cut, and where they were kept apart.

    A place is a pair of 4-neighbours that are nearest to two cells. Returns for each true cell the sums over
    the places where it was joined (number, width, contrast, number of places without background), the
    smallest width, and its row and column; the same for each found cell, where it was cut off; and width and
    contrast of the places where cells were kept apart.
    """
    truth, predicted, nearest, distance = cells
    rows, columns = truth.shape
    joins, cuts = np.zeros((merged_into.size, 7)), np.zeros((piece_of.size, 7))
    separations = np.empty((0, 2))
    kept = 0
    for filling in range(2):  # the separations are counted first
        if filling:
            separations = np.empty((kept, 2))
            kept = 0
        for x in range(1, rows - 1):
            for y in range(1, columns - 1):
                for i, j in ((x + 1, y), (x, y + 1)):
                    true, found = truth[x, y], predicted[x, y]
                    if true > 0 and true == truth[i, j]:
                        a, b = nearest[x, y], nearest[i, j]
                        if filling or a <= 0 or b <= 0 or a == b:
                            continue
                        for piece in (a, b):
                            if piece_of[piece] == true:
                                contrast = sign * (found_part[true] - _smooth(image, truth, x, y, i, j))
                                _add(cuts, piece, distance[x, y] + distance[i, j], contrast, x, y)
                        continue
                    a, b = _true_cell(cells, x, y), _true_cell(cells, i, j)
                    if a <= 0 or b <= 0 or a == b:
                        continue
                    width = _width(cells, x, y, i, j)
                    if found > 0 and found == predicted[i, j]:
                        for cell in (a, b):
                            if not filling and merged_into[cell] == found:
                                middle = _smooth(image, truth, x, y, i, j)
                                _add(joins, cell, width, sign * ((shades[a] + shades[b]) / 2 - middle), x, y)
                    elif 1 <= width <= widest:
                        if filling:
                            middle = _smooth(image, truth, x, y, i, j)
                            separations[kept, 0] = width
                            separations[kept, 1] = sign * ((shades[a] + shades[b]) / 2 - middle)
                        kept += 1
    return joins, cuts, separations


@compiled
def _assign(
    cells: _Cells,
    border: np.ndarray,
    merged_into: np.ndarray,
    piece_of: np.ndarray,
    match_of_true: np.ndarray,
    of_true: np.ndarray,
    of_found: np.ndarray,
) -> np.ndarray:
    """Return the error (int32) to which each wrong pixel belongs; 0 = right.

    Errors are the number of a true cell without match, or that of a found one plus the number of true cells.
    Pixels of outlines are - `Cause`.
    """
    truth, predicted, nearest, _ = cells
    rows, columns = truth.shape
    before_found = of_true.size - 1
    errors = np.zeros(truth.shape, np.int32)
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            for i, j in ((x + 1, y), (x, y + 1)):
                true, found = truth[x, y], predicted[x, y]
                if true > 0 and true == truth[i, j]:
                    a, b = nearest[x, y], nearest[i, j]
                    if a > 0 and b > 0 and a != b:
                        if piece_of[a] == true and piece_of[b] != true:
                            _walk(errors, before_found + a, cells, 0, i, j)
                        elif piece_of[b] == true and piece_of[a] != true:
                            _walk(errors, before_found + b, cells, 0, x, y)
                elif found > 0 and found == predicted[i, j]:
                    a, b = _true_cell(cells, x, y), _true_cell(cells, i, j)
                    if a > 0 and b > 0 and a != b:
                        if merged_into[a] == found and merged_into[b] != found:
                            _walk(errors, a, cells, found, i, j)
                        elif merged_into[b] == found and merged_into[a] != found:
                            _walk(errors, b, cells, found, x, y)
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            true, found, near = truth[x, y], predicted[x, y], nearest[x, y]
            if true < 0 or (true == 0 and found == 0) or (true > 0 and match_of_true[true] == found > 0):
                errors[x, y] = 0
            elif true > 0 and of_true[true]:
                errors[x, y] = true
            elif found > 0 and of_found[found]:
                errors[x, y] = before_found + found
            elif true == 0 and near > 0 and merged_into[near] == found:
                errors[x, y] = near
            elif found == 0 and near > 0 and piece_of[near] == true:
                errors[x, y] = before_found + near
            elif errors[x, y] == 0:  # else it is on the way between two cells
                rim = False
                for i in range(x - 1, x + 2):
                    for j in range(y - 1, y + 2):
                        rim |= truth[i, j] >= 0 and truth[i, j] != true
                if true == 0:
                    errors[x, y] = -Cause.OUTLINE_RIM_EXTRA if rim else -Cause.OUTLINE_DEEP_EXTRA
                elif found == 0 and border[x, y]:
                    errors[x, y] = -Cause.OUTLINE_BORDER
                else:
                    errors[x, y] = -Cause.OUTLINE_RIM_MISSING if rim else -Cause.OUTLINE_DEEP_MISSING
    return errors


@compiled
def _walk(errors: np.ndarray, error: int, cells: _Cells, found: int, x: int, y: int) -> None:
    """Mark the shortest way from a pixel to its nearest cell as an error, where the label `found` was found.

    The way is in the background, or inside of a true cell. Nothing is marked if it starts at its end.
    """
    truth, predicted, nearest, distance = cells
    if truth[x, y] > 0 and found > 0:
        return  # two true cells meet here, and this pixel is in one of them
    left = distance[x, y]
    while left > 0 and errors[x, y] != error:  # else the rest of the way is marked
        if predicted[x, y] == found:
            errors[x, y] = error
        left -= 1
        for i, j in ((x - 1, y), (x, y - 1), (x, y + 1), (x + 1, y)):
            if truth[i, j] == truth[x, y] and nearest[i, j] == nearest[x, y] and distance[i, j] == left:
                x, y = i, j
                break
