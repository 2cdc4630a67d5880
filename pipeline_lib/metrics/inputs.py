"""What can be scored, and what to do about the rest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline_lib.kernels.sections import check_shapes, count_sections
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

INVERTED = -0.05  # correlation with the truth below which a map is probably inverted; noise stays above


class MapsChecked:
    """Raises `InputError` for maps that cannot be scored, and logs what is probably a mistake.

    Refused: different shapes and integer probabilities other than uint8 at once, NaN and probabilities
    outside 0..1 when their section is met, a uint8 map of 0 and 1 in the end. Logged in the end: a uint8 map
    (divided by 255), a truth without any cell, a map that is anticorrelated with the truth.
    """

    def __init__(self, cells: np.ndarray, cell_probability: np.ndarray, **others: np.ndarray) -> None:
        check_shapes(cells=cells, cell_probability=cell_probability, **others)
        self._dtype = np.dtype(cell_probability.dtype)
        if self._dtype.kind not in "fb" and self._dtype != np.uint8:
            raise InputError(
                f"cell_probability holds {self._dtype} values, expected floats in 0..1. Divide it by the "
                "value that means certain, e.g. cell_probability / 65535 for a 16-bit map."
            )
        sections = count_sections(cells)
        self._highest, self._moments = np.zeros(sections), np.zeros((sections, 5))

    def __call__(self, z: int, truth: np.ndarray, probability: np.ndarray) -> None:
        """Look at section `z`; threads may look at several at a time."""
        if truth.dtype.kind == "f" and np.isnan(truth).any():
            raise InputError(f"cells holds NaN in section {z}. Give 0 for membrane, non-zero for cells.")
        if self._dtype.kind == "f":
            _check_values(probability, z)
        self._highest[z] = probability.max()
        self._moments[z] = _moments(truth != 0, as_probability(probability))

    def finish(self) -> None:
        """Judge the stack, all sections of which were looked at."""
        if self._dtype == np.uint8 and self._highest.max() == 1:
            raise InputError(
                "cell_probability is uint8 with no value above 1: a binary map, not probabilities "
                "of 0..255. Give cell_probability > 0, or floats in 0..1."
            )
        if self._dtype == np.uint8:
            logger.warning("cell_probability is uint8: divided by 255.")
        sums = self._moments.sum(axis=0)
        if sums[1] == 0:
            logger.warning("the truth has no cell: rand_error is 0 by definition then and says nothing.")
        correlation = _correlation(*sums)
        if correlation < INVERTED:
            logger.warning(
                "cell_probability is anticorrelated with the truth (r = %.2f): is it the probability "
                "of membrane? Scored as it is; give 1 - cell_probability if so.",
                correlation,
            )


def checked_thresholds(thresholds: Sequence[float]) -> list[float]:
    """`thresholds` as floats; `InputError` where there is none or one is outside 0..1."""
    checked = [float(t) for t in thresholds]
    if not checked or not all(0 <= t <= 1 for t in checked):
        raise InputError(f"thresholds are {checked}, expected at least one value, all within 0..1.")
    return checked


def as_probability(probability: np.ndarray) -> np.ndarray:
    """A section as the kernels take it: float32, uint8 divided by 255."""
    if probability.dtype == np.uint8:
        return probability.astype(np.float32) / np.float32(255)
    return probability.astype(np.float32, copy=False)


def _check_values(probability: np.ndarray, z: int) -> None:
    lowest, highest = float(probability.min()), float(probability.max())
    if not np.isfinite([lowest, highest]).all():
        count = np.count_nonzero(~np.isfinite(probability))
        raise InputError(
            f"cell_probability holds {count} NaN or infinite values in section {z}. Look at "
            "what wrote the map; np.nan_to_num(cell_probability) scores NaN as membrane."
        )
    if lowest < 0 or highest > 1:
        raise InputError(
            f"cell_probability spans {lowest:.6g} to {highest:.6g} in section {z}, not 0..1. "
            "Divide by the value that means certain, apply the sigmoid to logits, or clip."
        )


def _moments(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Pixels, sum of truth, of probability, of probability squared and of their product."""
    return np.array(
        [
            truth.size,
            np.count_nonzero(truth),
            probability.sum(dtype=np.float64),
            np.vdot(probability, probability),
            probability.sum(dtype=np.float64, where=truth),
        ]
    )


def _correlation(n: float, truth: float, probability: float, squares: float, product: float) -> float:
    variance = (n * truth - truth**2) * (n * squares - probability**2)
    return (n * product - truth * probability) / variance**0.5 if variance > 0 else 0.0
