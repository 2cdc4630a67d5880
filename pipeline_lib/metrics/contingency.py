"""The contingency table of two labelled sections: counted once, scored many times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.sections import check_shapes, sections_of
from pipeline_lib.runtime.errors import InputError


@dataclass(frozen=True)
class ContingencyTable:
    """How many pixels of one section have each pair of labels.

    truth, predicted, count: three int32 arrays of one length, ordered by first appearance; `count` pixels
    have the truth label `truth` and the predicted label `predicted`, 0 being background in both. Rows of the
    table are truth, columns are prediction; only its non-zero entries exist, never cells x cells.
    """

    truth: np.ndarray
    predicted: np.ndarray
    count: np.ndarray

    @cached_property
    def foreground(self) -> Foreground:
        """Sums over the pixels inside true cells."""
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
    """Sums of a table without the pixels of the true background.

    joint: entries c[i, j] with i, j > 0. truth: pixels of each true cell. predicted: pixels of each predicted
    cell that lie in true cells. unassigned: pixels of true cells predicted as background; Rand scores and
    entropies take each of them for a segment of its own.
    """

    joint: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    unassigned: int

    @property
    def pixels(self) -> int:
        return int(self.truth.sum())


def contingency_tables(labels: np.ndarray, predicted_labels: np.ndarray) -> list[ContingencyTable]:
    """The contingency table of each section.

    labels, predicted_labels: integer or boolean labels of one shape (z, y, x) or (y, x), 0 = background.
    Raises `InputError` for different shapes, other dtypes and negative labels.
    """
    check_shapes(labels=labels, predicted_labels=predicted_labels)
    return list(map(_table, sections_of(labels), sections_of(predicted_labels)))


def sums_by(labels: np.ndarray, count: np.ndarray) -> np.ndarray:
    """`count` summed over equal `labels`, without the labels that do not occur."""
    sums = np.bincount(labels, count)  # float64, exact below 2^53 pixels
    return sums[sums > 0].astype(np.int64)


def _table(labels: np.ndarray, predicted_labels: np.ndarray) -> ContingencyTable:
    return count_pairs(as_labels(labels, "labels"), as_labels(predicted_labels, "predicted_labels"))


def as_labels(section: np.ndarray, name: str) -> np.ndarray:
    """A section as the kernels take it, contiguous int32; `InputError` for what are no labels."""
    if section.dtype.kind not in "uib":
        raise InputError(
            f"{name} holds {section.dtype} values, expected integer labels with 0 = background. "
            "Label a probability map first, e.g. connected_components(cell_probability > 0.5)."
        )
    if section.dtype.kind == "i" and section.min() < 0:
        raise InputError(
            f"{name} holds the negative label {section.min()}, expected 0 = background and 1..n = cells."
        )
    if section.max() > 4 * section.size + 1000:  # `sums_by` needs memory for every label up to the largest
        values, inverse = np.unique(section, return_inverse=True)
        section = (inverse + (values[0] > 0)).reshape(section.shape)
    return np.ascontiguousarray(section, np.int32)


def count_pairs(labels: np.ndarray, predicted_labels: np.ndarray) -> ContingencyTable:
    """The table of two int32 label images of one shape; pixels of negative predicted labels are left out."""
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
def _count(labels, predicted_labels, start, entries, used):
    """Count from pixel `start` on, until the end or until `entries` are full: returns where, and how many."""
    truth, predicted, count = entries
    slots = np.full(2 * count.size, -1, np.int32)
    for entry in range(used):
        slots[_slot(truth[entry], predicted[entry], slots, truth, predicted)] = entry
    entry = -1
    for pixel in range(start, labels.size):
        i, j = labels[pixel], predicted_labels[pixel]
        if j < 0:
            continue
        if entry < 0 or truth[entry] != i or predicted[entry] != j:  # not the pair of the pixel before
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
def _slot(i, j, slots, truth, predicted):
    """Where `slots`, a hash table whose size is a power of two (-1 = free), has the pair or room for it."""
    key = np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    key += np.uint64(j) * np.uint64(0xC2B2AE3D27D4EB4F)
    slot = np.int64(key >> np.uint64(32)) & (slots.size - 1)
    while slots[slot] >= 0 and (truth[slots[slot]] != i or predicted[slots[slot]] != j):
        slot = (slot + 1) & (slots.size - 1)
    return slot
