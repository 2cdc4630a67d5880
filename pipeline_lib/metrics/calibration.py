"""Calibration: whether a share p of the pixels with the cell probability p are cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from pipeline_lib.metrics.inputs import checked_pixels
from pipeline_lib.runtime.types import Stored

BINS = 10  # of the probability; also the steps of the challenge's thresholds


@dataclass(frozen=True)
class Reliability:
    """Pixels by their predicted cell probability, in `BINS` bins of equal width.

    Bin k has the probabilities from k / `BINS` to below (k + 1) / `BINS`, the last bin also 1. Several
    sections can be added.

    Parameters
    ----------
    pixels : (bins,) array of float64
        Number of pixels.
    cells : (bins,) array of float64
        Number of pixels that are cell.
    probability : (bins,) array of float64
        Sum of the cell probabilities.
    squared_error : (bins,) array of float64
        Sum of the squared differences between the cell probability and the truth, 1 in cells and 0 elsewhere.

    References
    ----------
    The diagram of observed shares over predicted probabilities is described in [1]_.

    .. [1] A. Niculescu-Mizil, R. Caruana, "Predicting good probabilities with supervised learning", ICML,
       625-632, 2005.
    """

    pixels: npt.NDArray[np.float64]
    cells: npt.NDArray[np.float64]
    probability: npt.NDArray[np.float64]
    squared_error: npt.NDArray[np.float64]

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(*(getattr(self, own.name) + getattr(other, own.name) for own in fields(self)))

    def scores(self) -> dict[str, float]:
        """Return the scores of all pixels together.

        Returns
        -------
        dict of str to float
            `brier_score` [1]_: the mean squared difference between the cell probability and the truth.
            `calibration_error`, the expected calibration error [2]_: the mean over all pixels of the
            difference, in the bin of the pixel, between the mean cell probability and the observed share of
            cells. Both are 0 (best) to 1, and NaN without any pixel.

        References
        ----------
        .. [1] G. W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather
           Review 78(1):1-3, 1950. The sum over both classes there is twice this number.

        .. [2] M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining well calibrated probabilities using
           Bayesian binning", AAAI, 2901-2907, 2015.
        """
        total = float(self.pixels.sum()) or float("nan")
        return {
            "brier_score": float(self.squared_error.sum()) / total,
            "calibration_error": float(np.abs(self.probability - self.cells).sum()) / total,
        }

    def to_rows(self) -> dict[str, float]:
        """Return the sums as rows of a table of scores.

        Returns
        -------
        dict of str to float
            `reliability_pixels_0.0`, `reliability_pixels_0.1`, and so on; the number at the end is the lowest
            probability of the bin.
        """
        return {
            name: float(value)
            for field, names in _row_names().items()
            for name, value in zip(names, getattr(self, field), strict=True)
        }

    @classmethod
    def from_rows(cls, rows: Mapping[str, float]) -> Reliability | None:
        """Return what `to_rows` returned.

        Parameters
        ----------
        rows : mapping of str to float
            Values of a table of scores by metric. There may be others.

        Returns
        -------
        Reliability or None
            None if a row is missing.
        """
        names = _row_names()
        if not all(name in rows for own in names.values() for name in own):
            return None
        return cls(**{field: np.array([rows[name] for name in own]) for field, own in names.items()})


def _row_names() -> dict[str, list[str]]:
    return {
        field.name: [f"reliability_{field.name}_{k / BINS:.1f}" for k in range(BINS)]
        for field in fields(Reliability)
    }


def reliability(cells: Stored, cell_probability: Stored, *, ignore: Stored | None = None) -> Reliability:
    """Return pixels by their predicted cell probability, beside the share of them that are cell.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane and background are 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    Reliability
        Sums over all pixels.

    Raises
    ------
    InputError
        If the shapes differ, or the map has other values than probabilities.

    Examples
    --------
    Four pixels have a probability of 0.25, and one of them is cell. The two with 0.75 are both cell.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import reliability
    >>> cells = np.array([[1, 0, 0, 0, 1, 1]])
    >>> found = reliability(cells, np.array([[0.25, 0.25, 0.25, 0.25, 0.75, 0.75]]))
    >>> found.pixels[[2, 7]], found.cells[[2, 7]]
    (array([4., 2.]), array([1., 2.]))
    >>> {name: round(value, 4) for name, value in found.scores().items()}
    {'brier_score': 0.1458, 'calibration_error': 0.0833}
    """
    sums = np.zeros((len(fields(Reliability)), BINS))
    for truth, probability in checked_pixels(cells, cell_probability, ignore):
        p = probability.astype(np.float64)
        bins = np.minimum(p * BINS, BINS - 1).astype(np.intp)
        for own, values in zip(sums, (None, truth, p, (p - truth) ** 2), strict=True):
            own += np.bincount(bins, values, BINS)
    return Reliability(*sums)
