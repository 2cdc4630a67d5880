"""True and false positives and negatives, and their F-score."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Counts:
    """True and false positives and negatives of pixels or of pairs of pixels.

    Counts of several sections can be added. As in the reference, precision is 1 without false positives,
    recall is 1 without false negatives, and an undefined F-score is 0.

    Parameters
    ----------
    tp, tn, fp, fn : float
        True positives, true negatives, false positives and false negatives.
    """

    tp: float
    tn: float
    fp: float
    fn: float

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def precision(self) -> float:
        """TP / (TP + FP); 1 without false positives."""
        return 1.0 if self.fp == 0 else self.tp / (self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN); 1 without false negatives."""
        return 1.0 if self.fn == 0 else self.tp / (self.tp + self.fn)

    @property
    def f_score(self) -> float:
        """Harmonic mean of precision and recall; 0 if it is undefined."""
        return f_score(self.precision, self.recall)

    @property
    def total(self) -> float:
        """TP + TN + FP + FN."""
        return self.tp + self.tn + self.fp + self.fn

    @property
    def mismatch(self) -> float:
        """Fraction that is wrong, (FP + FN) / (TP + TN + FP + FN); NaN if nothing was counted."""
        return (self.fp + self.fn) / self.total if self.total else float("nan")


def f_score(precision: float, recall: float) -> float:
    """Return the harmonic mean of precision and recall; 0 if it is undefined."""
    total = precision + recall
    return 2 * precision * recall / total if total > 0 else 0.0  # also if the total is NaN
