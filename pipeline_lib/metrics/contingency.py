"""The contingency table of two labelled sections: counted once, scored many times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from pipeline_lib.errors import InputError
from pipeline_lib.metrics.sections import check_shapes, sections_of


@dataclass(frozen=True)
class ContingencyTable:
    """Non-zero entries of the table of one section: `count` pixels have truth label `truth` and predicted label `predicted`.

    Three int64 arrays of one length, ordered by first appearance. Rows are truth, columns are prediction, 0 is background
    in both. Its size is the number of overlapping pairs, never cells x cells.
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
        return Foreground(joint=count[cell], truth=_sums(truth, count), predicted=_sums(predicted[cell], count[cell]),
                          unassigned=int(count[~cell].sum()))


@dataclass(frozen=True)
class Foreground:
    """The foreground-restricted table: pixels of the true background are left out.

    joint: c[i, j] for i, j > 0. truth: pixels of each true cell, those predicted as background included. predicted: pixels
    of each predicted cell inside true cells. unassigned: pixels of true cells predicted as background; the Rand scores and
    entropies treat each of them as a segment of its own.
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

    labels, predicted_labels: integer or boolean labels of one shape (z, y, x) or (y, x), 0 = background. Raises
    `InputError` for different shapes, other dtypes and negative labels.
    """
    check_shapes(labels=labels, predicted_labels=predicted_labels)
    return [contingency_table(*section) for section in sections_of(labels, predicted_labels)]


def contingency_table(labels: np.ndarray, predicted_labels: np.ndarray) -> ContingencyTable:
    """The contingency table of two label images (y, x)."""
    return ContingencyTable(*count_pairs(_as_labels(labels, "labels"), _as_labels(predicted_labels, "predicted_labels")))


def _as_labels(section: np.ndarray, name: str) -> np.ndarray:
    if section.dtype.kind not in "uib":
        raise InputError(f"{name} holds {section.dtype} values, expected integer labels with 0 = background. "
                         "Label a binary or probability map first, e.g. connected_components(probability > 0.5).")
    if section.dtype.kind == "i" and section.min() < 0:
        raise InputError(f"{name} holds the negative label {section.min()}. Labels are 0 = background, 1..n = cells.")
    if section.max() > 4 * section.size + 1000:  # sums over labels are arrays as long as the largest label
        values, inverse = np.unique(section, return_inverse=True)
        section = (inverse + (values[0] > 0)).reshape(section.shape)
    return np.ascontiguousarray(section, np.int32)


def _sums(labels: np.ndarray, count: np.ndarray) -> np.ndarray:
    sums = np.bincount(labels, count)  # float64: exact below 2^53 pixels
    return sums[sums > 0].astype(np.int64)


@numba.njit(nogil=True, cache=True)
def count_pairs(labels, predicted_labels):
    """Entries (truth, predicted, count) of the table of two int32 label images; negative predictions are outside."""
    labels = labels.ravel()
    predicted_labels = predicted_labels.ravel()
    entries = np.empty((512, 3), np.int64)
    pixel, used = 0, 0
    while pixel < labels.size:
        if used == len(entries):
            entries = np.concatenate((entries, np.empty_like(entries)))
        slots = np.full(2 * len(entries), -1, np.int32)
        for known in range(used):
            slots[_slot(entries[known, 0], entries[known, 1], slots, entries)] = known
        pixel, used = _count(labels, predicted_labels, pixel, slots, entries, used)
    return entries[:used, 0].copy(), entries[:used, 1].copy(), entries[:used, 2].copy()


@numba.njit(nogil=True, cache=True)
def _count(labels, predicted_labels, pixel, slots, entries, used):
    """Count from `pixel` on until the end or until `entries` are full; returns where it stopped and the entries used."""
    entry = -1
    for pixel in range(pixel, labels.size):
        i, j = labels[pixel], predicted_labels[pixel]
        if j < 0:
            continue
        if entry < 0 or entries[entry, 0] != i or entries[entry, 1] != j:  # neighbours mostly share their pair
            slot = _slot(i, j, slots, entries)
            entry = slots[slot]
            if entry < 0:
                if used == len(entries):
                    return pixel, used
                entry = used
                used += 1
                slots[slot] = entry
                entries[entry, 0], entries[entry, 1], entries[entry, 2] = i, j, 0
        entries[entry, 2] += 1
    return labels.size, used


@numba.njit(nogil=True, cache=True)
def _slot(truth, predicted, slots, entries):
    """Where the hash table `slots` (a power of two, -1 = free) holds the pair, or the free slot it belongs into."""
    key = np.uint64(truth) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(predicted) * np.uint64(0xC2B2AE3D27D4EB4F)
    slot = np.int64(key >> np.uint64(32)) & (slots.size - 1)
    while slots[slot] >= 0 and (entries[slots[slot], 0] != truth or entries[slots[slot], 1] != predicted):
        slot = (slot + 1) & (slots.size - 1)
    return slot
