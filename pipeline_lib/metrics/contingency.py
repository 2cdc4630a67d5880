"""Contingency tables of truth and prediction, which are counted once and used by several scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.sections import (
    OUTSIDE,
    check_shapes,
    count_sections,
    ignored_pixels,
    section,
    without,
)
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored


@dataclass(frozen=True)
class ContingencyTable:
    """Number of pixels of one section that have each pair of a true and a predicted label.

    This is the contingency table with the truth in rows and the prediction in columns. Only entries that are
    not 0 are stored, so memory grows with the pairs of labels that occur, not with cells x cells. Entries are
    in the order of their first pixel.

    Parameters
    ----------
    truth : (n,) array of int32
        True label of each entry, 0 = background.
    predicted : (n,) array of int32
        Predicted label of each entry, 0 = background.
    count : (n,) array of int32
        Number of pixels with this pair of labels.
    """

    truth: np.ndarray
    predicted: np.ndarray
    count: np.ndarray

    @cached_property
    def foreground(self) -> Foreground:
        """Sums (`Foreground`) over the pixels inside true cells, for Rand scores and entropies."""
        inside = self.truth > 0
        truth, predicted, count = self.truth[inside], self.predicted[inside], self.count[inside]
        cell = predicted > 0
        return Foreground(
            joint=count[cell].astype(np.int64),
            truth=sums_by(truth, count),
            predicted=sums_by(predicted[cell], count[cell]),
            unassigned=int(count[~cell].sum()),
        )


@dataclass(frozen=True)
class Foreground:
    """Sums of a contingency table over the pixels inside true cells.

    Parameters
    ----------
    joint : (n,) array of int64
        Pixels of each pair of a true and a predicted cell.
    truth : (n,) array of int64
        Pixels of each true cell.
    predicted : (n,) array of int64
        Pixels of each predicted cell that are inside true cells.
    unassigned : int
        Pixels of true cells that are predicted as background. In Rand scores and entropies each of them is a
        segment of one pixel.
    """

    joint: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    unassigned: int

    @property
    def pixels(self) -> int:
        """Number of pixels inside true cells."""
        return int(self.truth.sum())


def contingency_tables(
    labels: Stored, predicted_labels: Stored, *, ignore: Stored | None = None
) -> list[ContingencyTable]:
    """Return the contingency table of each section.

    Parameters
    ----------
    labels : (z, y, x) or (y, x) array of int or bool
        Labels of the truth, 0 = background.
    predicted_labels : array of int or bool
        Predicted labels of the same shape, 0 = background. Labels of both can be any integers that are not
        negative.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    list of ContingencyTable
        One table for each section, without entries if all its pixels are left out. In a section of N pixels
        whose largest label is above 4 N + 1000, the labels are renumbered from 1 in ascending order; the
        background stays 0. This changes no score.

    Raises
    ------
    InputError
        If the shapes differ, or a label is negative or not an integer.

    Examples
    --------
    Cell 1 of the truth is split into 1 and 3; cell 2 is one cell.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import contingency_tables
    >>> truth = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    >>> split = np.array([[1, 3, 2, 2], [1, 3, 2, 2]])
    >>> (table,) = contingency_tables(truth, split)
    >>> np.stack([table.truth, table.predicted, table.count])
    array([[1, 1, 2],
           [1, 3, 2],
           [2, 2, 4]], dtype=int32)
    """
    check_shapes(labels=labels, predicted_labels=predicted_labels, ignore=ignore)
    tables = []
    for z in range(count_sections(labels)):
        ignored = ignored_pixels(ignore, z)
        truth = as_labels(section(labels, z), "labels", ignored)
        tables.append(
            count_pairs(truth, as_labels(section(predicted_labels, z), "predicted_labels", ignored))
        )
    return tables


def mean_of_sections(score: Callable[[ContingencyTable], float], tables: Sequence[ContingencyTable]) -> float:
    """Return the mean of `score` over the sections that have pixels; NaN if there are none."""
    values = [score(table) for table in tables if table.count.size]
    return float(np.mean(values)) if values else float("nan")


def sums_by(labels: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the sum of `count` for each label that occurs."""
    sums = np.bincount(labels, count)  # float64, exact below 2^53 pixels
    return sums[sums > 0].astype(np.int64)


def as_labels(section: np.ndarray, name: str, ignored: np.ndarray | None = None) -> np.ndarray:
    """Return a section of labels as contiguous int32, with `OUTSIDE` at the ignored pixels.

    Very large labels are numbered in ascending order. Raises `InputError` if the values of the other pixels
    cannot be labels.
    """
    return as_labels_with_values(section, name, ignored)[0]


def as_labels_with_values(
    section: np.ndarray, name: str, ignored: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return `as_labels` and, if the labels were numbered, which label each number was (0 is 0)."""
    section = without(section, ignored)
    if section.dtype.kind not in "uib":
        raise InputError(
            f"{name} has dtype {section.dtype}, expected integer labels with 0 = background. Label a "
            "probability map first, for instance connected_components(cell_probability > 0.5)."
        )
    if section.dtype.kind == "i" and section.min() < 0:
        raise InputError(
            f"{name} has the negative label {section.min()}, expected 0 = background and 1..n = cells. "
            "Replace it, for instance by 0."
        )
    # `sums_by` needs memory for all labels up to the largest, and larger ones than 2^31 - 1 are not int32.
    values = None
    if section.max() > min(4 * section.size + 1000, 2**31 - 1):
        values, inverse = np.unique(section, return_inverse=True)
        if values[0] > 0:
            values, inverse = np.append(values.dtype.type(0), values), inverse + 1
        section = inverse.reshape(section.shape)
    checked = np.ascontiguousarray(section, np.int32)
    if ignored is not None:
        checked[ignored] = OUTSIDE  # `checked` is a copy, made by `without`
    return checked, values


def count_pairs(labels: np.ndarray, predicted_labels: np.ndarray) -> ContingencyTable:
    """Return the table of two int32 label images; pixels with negative predicted labels are left out."""
    labels, predicted_labels = labels.ravel(), predicted_labels.ravel()
    entries = np.empty((3, 512), np.int32)
    pixel, used = _count(labels, predicted_labels, 0, entries, 0)
    while pixel < labels.size:
        larger = np.empty((3, 2 * used), np.int32)
        larger[:, :used] = entries
        entries = larger
        pixel, used = _count(labels, predicted_labels, pixel, entries, used)
    return ContingencyTable(*entries[:, :used])


@compiled
def _count(
    labels: np.ndarray, predicted_labels: np.ndarray, start: int, entries: np.ndarray, used: int
) -> tuple[int, int]:
    """Count pixels from `start` until the end or until `entries` are full.

    Returns the next pixel and the number of entries used.
    """
    truth, predicted, count = entries
    slots = np.full(2 * count.size, -1, np.int32)
    for entry in range(used):
        slots[_slot(truth[entry], predicted[entry], slots, truth, predicted)] = entry
    entry = -1
    for pixel in range(start, labels.size):
        i, j = labels[pixel], predicted_labels[pixel]
        if j < 0:
            continue
        if entry < 0 or truth[entry] != i or predicted[entry] != j:  # not the previous pixel's pair
            slot = _slot(i, j, slots, truth, predicted)
            entry = slots[slot]
            if entry < 0:
                if used == count.size:
                    return pixel, used
                entry = used
                used += 1
                slots[slot] = entry
                truth[entry], predicted[entry], count[entry] = i, j, 0
        count[entry] += 1
    return labels.size, used


@compiled
def _slot(i: int, j: int, slots: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.int64:
    """Return the place of a pair in the hash table `slots`, or a free place for it.

    The size of `slots` is a power of two; -1 marks a free place.
    """
    key = np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    key += np.uint64(j) * np.uint64(0xC2B2AE3D27D4EB4F)
    slot = np.int64(key >> np.uint64(32)) & (slots.size - 1)
    while slots[slot] >= 0 and (truth[slots[slot]] != i or predicted[slots[slot]] != j):
        slot = (slot + 1) & (slots.size - 1)
    return slot
