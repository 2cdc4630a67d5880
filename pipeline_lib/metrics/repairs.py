"""The scores that a segmentation would have if each cause of its errors alone was repaired."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline_lib.kernels.components import padded_components
from pipeline_lib.kernels.sections import (
    check_shapes,
    count_sections,
    ignored_pixels,
    outside,
    padded,
    section,
    without,
)
from pipeline_lib.kernels.threads import over_sections
from pipeline_lib.metrics.causes import CAUSES_OF, Cause, CellError, SectionCauses, section_causes
from pipeline_lib.metrics.contingency import count_pairs
from pipeline_lib.metrics.counts import Counts
from pipeline_lib.metrics.instances import IOU_THRESHOLDS, Objects, count_objects, pooled_objects
from pipeline_lib.metrics.pixel import pixel_counts
from pipeline_lib.metrics.rand import foreground_pairs, foreground_squares
from pipeline_lib.metrics.thinning import flood
from pipeline_lib.runtime.types import Stored

if TYPE_CHECKING:
    import pandas as pd

#: Scores that the table of `error_causes` has.
REPAIRED_SCORES = ("seg", "average_precision", "v_rand_thin", "rand_error", "pixel_error")
#: Columns of the table of `error_causes`.
CAUSE_COLUMNS = ["cause", "cells", "pixels", *REPAIRED_SCORES, "section", "y", "x"]
#: Name of the first row of the table of `error_causes`, whose scores are those without any repair.
AS_FOUND = "as_found"


def error_causes(
    raw: Stored,
    labels: Stored,
    found: Stored,
    cells: Stored,
    *,
    border: Stored | None = None,
    ignore: Stored | None = None,
    workers: int | None = None,
) -> pd.DataFrame:
    """Return how many errors each cause has, and the scores if each cause alone was repaired.

    Parameters
    ----------
    raw : (c, z, y, x), (z, y, x) or (y, x) array
        Raw image, with channels if it has one axis more than `labels`.
    labels : (z, y, x) or (y, x) array of int
        Instance labels of the truth, 0 = background.
    found : array of int
        Found instance labels of the same shape, 0 = background.
    cells : array
        Truth of V-Rand and of the Rand error: cell is not 0, and its cells do not touch; same shape.
    border : array, optional
        Separation border between touching true cells, non-zero on the border; same shape.
    ignore : array, optional
        Pixels that are not annotated are not 0; same shape.
    workers : int, optional
        Number of threads. By default one for each core that this process may use.

    Returns
    -------
    pandas.DataFrame
        Table with the `CAUSE_COLUMNS`. Its first row, `AS_FOUND`, has the number of all cell errors, of all
        wrong pixels, and the scores of `found`. Then follow a row for each kind of error and one for each of
        its causes: number of errors (for an outline, of cells with such pixels), wrong pixels, and the scores
        if these pixels had the truth. `section`, `y` and `x` are the place of the largest error of a cause.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    Notes
    -----
    The scores are pooled over the sections as by `isbi_scores`. The Rand scores compare `cells` with the
    4-connected areas of equal labels. Sections are read one by one.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import error_causes
    >>> labels = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]])
    >>> table = error_causes(255 * (labels > 0), labels, labels == 1, labels > 0)
    >>> shown = table[table.cause.isin(["as_found", "missed", "missed_edge", "false"])]
    >>> print(shown[["cause", "cells", "pixels", "seg"]].to_string(index=False))
          cause  cells  pixels  seg
       as_found      1       4  0.5
         missed      1       4  1.0
    missed_edge      1       4  1.0
          false      0       0  0.5
    """
    import pandas as pd

    check_shapes(labels=labels, found=found, cells=cells, border=border, ignore=ignore)

    def prepare(z: int) -> _Prepared | None:
        ignored = ignored_pixels(ignore, z)
        if ignored is not None and ignored.all():
            return None
        causes = section_causes(
            _gray(raw, z, len(labels.shape)),
            section(labels, z),
            section(found, z),
            border=None if border is None else section(border, z),
            ignored=ignored,
        )
        return _Prepared.of(causes, section(cells, z), ignored)

    def score(prepared: _Prepared | None, repair: _Repair) -> _Repaired | None:
        return None if prepared is None else _Repaired(prepared.summary, prepared.score(repair))

    scored = over_sections(prepare, score, count_sections(labels), _REPAIRS, workers)
    annotated = {z: [own for own in row if own] for z, row in enumerate(scored) if row[0]}
    rows = [_row(number, annotated) for number in range(len(_REPAIRS))]
    return pd.DataFrame(rows, columns=CAUSE_COLUMNS).astype({"section": "Int64", "y": "Int64", "x": "Int64"})


def _gray(raw: Stored, z: int, axes: int) -> np.ndarray:
    """Return section `z` of an image whose labels have `axes` axes, as mean over its channels, if any."""
    if len(raw.shape) == axes:
        return section(raw, z)
    channels = raw.shape[0]
    total = np.zeros(raw.shape[-2:], np.float32)
    for channel in range(channels):  # one at a time is in memory
        total += raw[channel] if axes == 2 else raw[channel, z]
    return total / np.float32(channels)


class _Scored(NamedTuple):
    """Contribution of a section to the scores of a segmentation."""

    objects: Objects
    v_rand_thin: float
    pairs: Counts
    pixels: Counts


class _Repair(NamedTuple):
    """A row of the table: its name, and the causes that are repaired."""

    name: str
    causes: tuple[Cause, ...]


_REPAIRS = [
    _Repair(AS_FOUND, ()),
    *(
        repair
        for kind, causes in CAUSES_OF.items()
        for repair in (_Repair(kind, causes), *(_Repair(own.name.lower(), (own,)) for own in causes))
    ),
]
_NUMBER = {repair.name: number for number, repair in enumerate(_REPAIRS)}


@dataclass(frozen=True)
class _Summary:
    """Numbers of errors by the names of the rows, wrong pixels by cause, and examples of a section."""

    cells: dict[str, int]
    pixels: np.ndarray
    examples: dict[Cause, CellError]

    @classmethod
    def of(cls, causes: SectionCauses) -> _Summary:
        numbers = {cause.name.lower(): number for cause, number in causes.cells.items()}
        for kind, group in CAUSES_OF.items():
            numbers[kind] = sum(causes.cells[cause] for cause in group)
        numbers["outline"] = causes.outlined  # a cell can have wrong pixels of several causes
        numbers[AS_FOUND] = sum(numbers[kind] for kind in CAUSES_OF if kind != "outline")
        pixels = np.bincount(causes.codes.ravel(), minlength=len(Cause) + 1)
        return cls(numbers, pixels, causes.examples)

    def occurring(self, repair: _Repair) -> list[Cause]:
        """Return those causes of a repair that have pixels."""
        return [cause for cause in repair.causes if self.pixels[cause]]


class _Repaired(NamedTuple):
    """Summary of a section, and its scores after a repair; None if another row has them."""

    summary: _Summary
    scored: _Scored | None


@dataclass(frozen=True)
class _Prepared:
    """A section whose repairs are to be scored; `components` are the padded cells of the Rand scores."""

    summary: _Summary
    causes: SectionCauses
    components: np.ndarray
    beyond: np.ndarray | None

    @classmethod
    def of(cls, causes: SectionCauses, cells: np.ndarray, ignored: np.ndarray | None) -> _Prepared:
        beyond = outside(ignored)
        components = padded_components(padded(without(cells != 0, ignored), np.uint8), beyond)
        return cls(_Summary.of(causes), causes, components, beyond)

    def score(self, repair: _Repair) -> _Scored | None:
        """Return the scores after a repair; None if it changes nothing, or the same as that of one cause."""
        occurring = self.summary.occurring(repair)
        if len(occurring) < min(len(repair.causes), 2):
            return None
        labels = self.causes.repaired(occurring) if occurring else self.causes.matched
        objects = count_objects(count_pairs(self.causes.truth, labels))
        areas = padded_components(padded(np.maximum(labels, 0), np.int32), self.beyond)
        table = count_pairs(self.components, areas)
        flood(areas)
        v_rand_thin = foreground_squares(count_pairs(self.components, areas)).f_score
        return _Scored(objects, v_rand_thin, foreground_pairs(table), pixel_counts(table))


def _row(number: int, sections: dict[int, list[_Repaired]]) -> list[object]:
    """Return a row of the table over all sections, each with its results for all repairs."""
    name, causes = repair = _REPAIRS[number]
    summaries = {z: own[number].summary for z, own in sections.items()}
    cells = sum(own.cells[name] for own in summaries.values())
    counted = [*(causes or Cause)]
    pixels = sum(int(own.pixels[counted].sum()) for own in summaries.values())
    after: list[_Scored] = []
    for own in sections.values():
        same = own[number].summary.occurring(repair)
        found = own[number].scored or own[_NUMBER[same[0].name.lower()] if same else 0].scored
        after += [found] if found else []
    scores: tuple[float, ...] = (math.nan,) * len(REPAIRED_SCORES)
    if after:
        objects = pooled_objects([own.objects for own in after])
        scores = (
            objects.seg(),
            objects.average_precision(IOU_THRESHOLDS),
            float(np.mean([own.v_rand_thin for own in after])),
            1 - reduce(add, (own.pairs for own in after)).f_score,
            1 - reduce(add, (own.pixels for own in after)).f_score,
        )
    places: list[tuple[int, int, int, int]] = []
    if len(causes) == 1:
        places = [
            (example.pixels, z, example.y, example.x)
            for z, own in summaries.items()
            if (example := own.examples.get(causes[0]))
        ]
    largest = max(places, key=lambda place: place[0], default=(None, None, None, None))
    return [name, cells, pixels, *scores, *largest[1:]]
