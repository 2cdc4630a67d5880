"""Checks of the arrays and thresholds that are to be scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pipeline_lib.kernels.sections import check_shapes, count_sections, ignored_pixels, section, without
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Stored

ROWS = 256  # that are counted at a time, to limit the memory
ROUNDING = 1e-6  # probabilities up to this far beyond 0..1 are clipped: other programs compute in float32
INVERTED = -0.05  # a map with a lower correlation with the truth is probably inverted; noise stays above


class MapChecker:
    """Check a truth and a probability map, section by section.

    Raises `InputError` at once for different shapes and for integer probabilities other than uint8, for NaN
    and probabilities outside 0..1 when their section is checked, and at the end for a uint8 map of 0 and 1.
    At the end it logs what was changed (a uint8 map is divided by 255, values up to `ROUNDING` beyond 0..1
    are clipped), and what is probably a mistake: a truth without cells, and a map that is anticorrelated with
    the truth.

    Values at ignored pixels are not checked; they may be NaN.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0.
    cell_probability : array
        Probability map of the same shape.
    **others : array or None
        Further arrays that must have the same shape, by the name to use in errors.
    """

    def __init__(self, cells: Stored, cell_probability: Stored, **others: Stored | None) -> None:
        check_shapes(cells=cells, cell_probability=cell_probability, **others)
        self._dtype = np.dtype(cell_probability.dtype)
        _require_type(self._dtype)
        sections = count_sections(cells)
        self._highest, self._moments = np.zeros(sections), np.zeros((sections, 5))
        self._clipped = np.zeros(sections, bool)

    def __call__(
        self, z: int, truth: np.ndarray, probability: np.ndarray, ignored: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Check section `z`; several threads can check different sections at a time.

        Returns the cells of the truth (bool) and the probability (float32), both 0 at ignored pixels.
        """
        truth, probability = without(truth, ignored), without(probability, ignored)
        if truth.dtype.kind == "f" and np.isnan(truth).any():
            raise InputError(
                f"cells has NaN in section {z}, expected 0 for membrane and other numbers for cells. Replace "
                "the NaN, for instance by 0."
            )
        if self._dtype.kind == "f":
            self._clipped[z] = _check_values(probability, z)
        self._highest[z] = probability.max()
        cells, probability = truth != 0, as_probability(probability)
        self._moments[z] = _moments(cells, probability)
        if ignored is not None:
            self._moments[z, 0] -= np.count_nonzero(ignored)
        return cells, probability

    def finish(self) -> None:
        """Check the stack as a whole, after all sections were checked."""
        sums = self._moments.sum(axis=0)
        if self._dtype == np.uint8 and self._highest.max() == 1:
            raise InputError(
                "cell_probability is uint8 without values above 1, expected 0..255. For a binary map pass "
                "cell_probability > 0, otherwise floats in 0..1."
            )
        if self._dtype == np.uint8:
            logger.warning("cell_probability is uint8 and was divided by 255.")
        if self._clipped.any():
            logger.warning("cell_probability has values up to %g beyond 0..1, which were clipped.", ROUNDING)
        if sums[0] > 0 and sums[1] == 0:
            logger.warning(
                "the truth has no cells, so rand_error is 0 by definition and has no meaning. Check the "
                "annotation."
            )
        correlation = _correlation(*sums)
        if correlation < INVERTED:
            logger.warning(
                "cell_probability is anticorrelated with the truth (r = %.2f) and was scored as it is. If it "
                "is the probability of membrane, pass 1 - cell_probability.",
                correlation,
            )


def checked_thresholds(thresholds: Sequence[float]) -> list[float]:
    """Return the thresholds as floats; raise `InputError` if there are none or one is outside 0..1."""
    checked = [float(t) for t in thresholds]
    if not checked or not all(0 <= t <= 1 for t in checked):
        raise InputError(f"thresholds are {checked}, expected one or more values in 0..1.")
    return checked


def checked_pixels(
    cells: Stored, cell_probability: Stored, ignore: Stored | None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pixels that are not ignored, some rows at a time: whether each is cell, and its probability.

    Raises `InputError` if the shapes differ, or the map has other values than probabilities.
    """
    check_shapes(cells=cells, cell_probability=cell_probability, ignore=ignore)
    _require_type(np.dtype(cell_probability.dtype))
    for z in range(count_sections(cells)):
        ignored = ignored_pixels(ignore, z)
        truth, probability = section(cells, z) != 0, section(cell_probability, z)
        for top in range(0, len(truth), ROWS):
            rows = np.s_[top : top + ROWS]
            hidden = None if ignored is None else ignored[rows]
            known = np.s_[:] if hidden is None else ~hidden
            values = without(probability[rows], hidden)
            if values.dtype.kind == "f":
                _check_values(values, z, top)
            yield truth[rows][known].ravel(), as_probability(values)[known].ravel()


def _require_type(dtype: np.dtype) -> None:
    if dtype.kind not in "fb" and dtype != np.uint8:
        raise InputError(
            f"cell_probability has dtype {dtype}, expected floats in 0..1. Divide it by its largest possible "
            "value, for instance cell_probability / 65535 for a 16-bit map."
        )


def as_probability(probability: np.ndarray) -> np.ndarray:
    """Return a section of a probability map as float32 in 0..1, with uint8 divided by 255."""
    if probability.dtype == np.uint8:
        return probability.astype(np.float32) / np.float32(255)
    return np.clip(probability.astype(np.float32, copy=False), 0, 1)


def _check_values(probability: np.ndarray, z: int, first_row: int = 0) -> bool:
    """Return whether values of section `z` are slightly beyond 0..1; raise `InputError` for all others."""
    lowest, highest = float(probability.min()), float(probability.max())
    if not np.isfinite([lowest, highest]).all():
        count = np.count_nonzero(~np.isfinite(probability))
        raise InputError(
            f"cell_probability has {count} NaN or infinite values in section {z}. Check the program that "
            "wrote the map, or pass np.nan_to_num(cell_probability), which scores NaN as membrane."
        )
    if lowest < -ROUNDING or highest > 1 + ROUNDING:
        place = probability.argmin() if -lowest > highest - 1 else probability.argmax()
        row, column = np.unravel_index(place, probability.shape)
        raise InputError(
            f"cell_probability is {probability[row, column]} at row {first_row + row}, column {column} of "
            f"section {z} (values from {lowest:.6g} to {highest:.6g}), expected 0..1. Divide it by its "
            "largest possible value, apply the sigmoid to logits, or clip it."
        )
    return lowest < 0 or highest > 1


def _moments(truth: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the pixels and the sums of truth, probability, its square, and the product of both."""
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
    """Return the correlation of truth and probability from `_moments`; 0 if one of them is constant."""
    variance = (n * truth - truth**2) * (n * squares - probability**2)
    return (n * product - truth * probability) / variance**0.5 if variance > 0 else 0.0
