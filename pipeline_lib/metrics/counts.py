"""True and false positives and negatives, and the F-score made of them."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Counts:
    """True/false positives/negatives of pixels or of pixel pairs; add them to pool sections.

    As in the reference, precision is 1 without false positives, recall is 1 without false negatives, and an
    F-score that cannot be formed is 0.
    """

    tp: float
    tn: float
    fp: float
    fn: float

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    @property
    def precision(self) -> float:
        return 1.0 if self.fp == 0 else self.tp / (self.tp + self.fp)

    @property
    def recall(self) -> float:
        return 1.0 if self.fn == 0 else self.tp / (self.tp + self.fn)

    @property
    def f_score(self) -> float:
        return f_score(self.precision, self.recall)

    @property
    def mismatch(self) -> float:
        """Fraction that is false: 1 - (tp + tn) / all; NaN where nothing was counted."""
        total = self.tp + self.tn + self.fp + self.fn
        return (self.fp + self.fn) / total if total else float("nan")


def f_score(precision: float, recall: float) -> float:
    """Harmonic mean of precision and recall; 0 where it is undefined."""
    total = precision + recall
    return 2 * precision * recall / total if total > 0 else 0.0  # also False for NaN
