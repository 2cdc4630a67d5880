"""Whether an annotation belongs to its image: the outlines of cells follow the edges of the right image.

A sample is a window of an annotated section. The correlation of its outlines with the edges of its image is
compared with that of shifted, turned and mirrored outlines, and with the edges of the other images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import fft, ndimage

#: Largest side of a window (px).
WINDOW = 512
#: Distance of outlines and edges that counts as equal (px).
TOLERANCE = 3
_SMOOTHING = 2.0  # px, standard deviation of the Gaussian with which edges are found
_WIDTH = 5  # px; outlines in the middle of a membrane are between its two edges
_STRONGEST = 95  # percentile of the edges; stronger ones count the same, so that dirt does not dominate
_NEAR = 12  # px; shorter shifts are no evidence against an annotation
_FEWEST = 40  # px of outline, below which nothing can be said
_BETTER = 1.3  # times a correlation, above which another one is clearly better
_SAME = 0.5  # correlation of two outlines, from which on they are the same for this purpose
_WEAK = 0.1  # correlation that is found by chance
_AT_A_TIME = 256  # images that are compared with all outlines at a time, to limit the memory
# The same cells in another orientation, as mistakes of axes and of the row order make them
_TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mirrored from top to bottom": lambda a: a[::-1],
    "mirrored from left to right": lambda a: a[:, ::-1],
    "turned by 180 degrees": lambda a: a[::-1, ::-1],
    "with rows and columns exchanged": lambda a: a.T,
    "turned by 90 degrees to the left": lambda a: a.T[::-1],
    "turned by 90 degrees to the right": lambda a: a.T[:, ::-1],
    "mirrored at the other diagonal": lambda a: a[::-1, ::-1].T,
}


@dataclass(frozen=True)
class Fit:
    """How well the outlines of a sample fit the edges of its image.

    Parameters
    ----------
    own : float
        Correlation with the edges of its image, at a shift of at most `TOLERANCE`.
    chance : float
        Largest correlation at other shifts and orientations.
    better : str, default ""
        What fits clearly better, in words. Empty if nothing does.
    better_fit : float, default 0.0
        Correlation of what fits better, 0 if nothing does.
    """

    own: float
    chance: float
    better: str = ""
    better_fit: float = 0.0


@dataclass(frozen=True)
class Sample:
    """Outlines of cells and edges of the image in a window of one section; `make_sample` makes it.

    Parameters
    ----------
    volume : str
        Name of the volume.
    z : int
        Number of the section in the volume, from 0.
    place : tuple of int
        Shape of the section, and first row and column of the window. Only samples of the same place can be
        exchanged.
    outlines, edges : (y / 2, x / 2) array of uint8
        Outlines and edges at half the resolution, from 0 to 255.
    fit : Fit or None
        How the outlines fit the edges. None if there are too few outlines, or no edges.
    """

    volume: str
    z: int
    place: tuple[int, int, int, int]
    outlines: np.ndarray
    edges: np.ndarray
    fit: Fit | None


def make_sample(
    volume: str,
    z: int,
    place: tuple[int, int, int, int],
    labels: np.ndarray,
    image: np.ndarray,
    ignore: np.ndarray | None = None,
) -> Sample:
    """Return a sample, with its fit in this place and in other shifts and orientations.

    Parameters
    ----------
    volume : str
        Name of the volume.
    z : int
        Number of the section in the volume.
    place : tuple of int
        Shape of the section, and first row and column of the window.
    labels : (y, x) array of int
        Instance labels in the window.
    image : (c, y, x) array
        Gray levels in the window.
    ignore : (y, x) array, optional
        Pixels other than 0 are not annotated.

    Returns
    -------
    Sample
        The sample.
    """
    marked, strength = outlines(labels, ignore), edges(image, ignore)
    thick = ndimage.maximum_filter(marked, 2) * np.uint8(255)
    return Sample(volume, z, place, _halved(thick), _halved(strength), _fit(marked, strength))


def outlines(labels: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """Find the outlines of cells.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels, 0 = background.
    ignore : (y, x) array, optional
        Pixels other than 0 are not annotated, and no outline is at their side.

    Returns
    -------
    (y, x) array of bool
        Pixels that have a neighbour (above, below, left or right) with another label.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.correspondence import outlines
    >>> outlines(np.array([[0, 0, 1, 1, 1, 2, 2]])).astype(int)
    array([[0, 1, 1, 0, 1, 1, 0]])
    """
    found = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[here] != labels[there]
        if ignore is not None:
            differ &= (ignore[here] == 0) & (ignore[there] == 0)
        found[here] |= differ
        found[there] |= differ
    return found


def edges(image: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """Measure the strength of the edges of an image.

    Parameters
    ----------
    image : (c, y, x) array
        Gray levels.
    ignore : (y, x) array, optional
        Pixels other than 0 are not annotated; they have the median strength.

    Returns
    -------
    (y, x) array of uint8
        Largest magnitude of the smoothed gradient of the mean over channels within 2 px, on a scale whose
        end is the 95th percentile.
    """
    gradient = ndimage.gaussian_gradient_magnitude(image.mean(axis=0, dtype=np.float32), _SMOOTHING)
    if ignore is not None and (ignored := ignore > 0).any() and not ignored.all():
        gradient[ignored] = np.median(gradient[~ignored])
    gradient = ndimage.maximum_filter(gradient, _WIDTH)
    end = np.percentile(gradient, _STRONGEST)
    scaled = np.minimum(gradient / end, 1) if end > 0 else np.zeros_like(gradient)
    return np.round(scaled * 255).astype(np.uint8)


def with_partners(samples: Sequence[Sample]) -> list[Sample]:
    """Compare the outlines of each sample with the images of the others of the same place.

    Parameters
    ----------
    samples : sequence of Sample
        Samples of all volumes.

    Returns
    -------
    list of Sample
        The samples. If the image of another one fits clearly better, their `fit` names it.
    """
    found = list(samples)
    groups: defaultdict[tuple[int, int, int, int], list[int]] = defaultdict(list)
    for number, sample in enumerate(samples):
        if sample.fit is not None:
            groups[sample.place].append(number)
    for numbers in groups.values():
        own, best, partner = _partners([samples[number] for number in numbers])
        for row, number in enumerate(numbers):
            sample, other = samples[number], samples[numbers[partner[row]]]
            # Neighbouring sections look alike, so that the image of another one may fit nearly as well.
            if sample.fit and best[row] > _BETTER * max(own[row], sample.fit.chance):
                of_volume = "" if other.volume == sample.volume else f" of {other.volume}"
                better = f"the image of section {other.z + 1}{of_volume}"
                fit = replace(sample.fit, better=better, better_fit=float(best[row]))
                found[number] = replace(sample, fit=fit)
    return found


def _partners(group: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each sample its correlation with its image, the largest one, and with which image."""
    marked = [_standard(sample.outlines).ravel() for sample in group]
    own, best, partner = np.zeros(len(group)), np.full(len(group), -1.0), np.zeros(len(group), int)
    for first in range(0, len(group), _AT_A_TIME):
        columns = range(first, min(first + _AT_A_TIME, len(group)))
        strength = np.stack([_standard(group[column].edges).ravel() for column in columns])
        for row, outline in enumerate(marked):
            correlation = strength @ outline
            if row in columns:
                own[row] = correlation[row - first]
            if (largest := correlation.max()) > best[row]:
                best[row], partner[row] = largest, first + correlation.argmax()
    return own, best, partner


def _fit(marked: np.ndarray, strength: np.ndarray) -> Fit | None:
    if np.count_nonzero(marked) < _FEWEST or strength.min() == strength.max():
        return None
    of_edges, of_marked = fft.rfft2(_standard(strength)), fft.rfft2(_standard(marked))
    shape = strength.shape
    near, far = _shifts(shape)
    at_shift = _correlations(of_edges, of_marked, shape)
    own = float(at_shift[near].max())
    # Outlines that look the same when they are shifted or turned, as those of a grid, fit there as well.
    with_itself = _correlations(of_marked, of_marked, shape)
    other = ndimage.maximum_filter(with_itself, 2 * TOLERANCE + 1, mode="wrap") < _SAME
    turned = {}
    for words, turn in _TURNS.items():
        if turn(marked).shape == shape:
            of_turned = fft.rfft2(_standard(turn(marked)))
            if _correlations(of_marked, of_turned, shape)[near].max() < _SAME:
                fit = _correlations(of_edges, of_turned, shape)[near].max()
                turned[f"the annotation {words}"] = float(fit)
    chance = max(float(at_shift[far & other].max(initial=0)), *turned.values(), 0.0)
    candidates = [(0.0, ""), (0.0, ""), *((fit, words) for words, fit in turned.items())]
    if (shifted := ~near & other).any():
        at = np.where(shifted, at_shift, 0)
        y, x = divmod(int(at.argmax()), shape[1])
        rows, columns = (n - size if n > size // 2 else n for n, size in zip((y, x), shape, strict=True))
        words = f"the annotation shifted by {rows:+d} rows and {columns:+d} columns"
        candidates.append((float(at[y, x]), words))
        candidates.append((float(at[np.roll(far, (y, x), (0, 1))].max(initial=0)), ""))  # another shift
    (best, words), (second, _) = sorted(candidates, reverse=True)[:2]
    if words and best > _BETTER * max(own, second, _WEAK):
        return Fit(own, chance, words, best)
    return Fit(own, chance)


def _shifts(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return which shifts (y, x), as `_correlations` orders them, are near zero and far from it."""
    y, x = (np.minimum(np.arange(size), size - np.arange(size)) for size in shape)
    longest = np.maximum(y[:, None], x[None])
    return longest <= TOLERANCE, longest > _NEAR


def _standard(values: np.ndarray) -> np.ndarray:
    """Return values with mean 0 and length 1 as float32."""
    centred = values - values.mean(dtype=np.float32)
    length = np.sqrt((centred**2).sum())
    return np.asarray(centred / length if length > 0 else centred, np.float32)


def _correlations(of_one: np.ndarray, of_other: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the correlation of one image with another at all shifts of the other.

    Both are Fourier transforms of `_standard`.
    """
    return np.asarray(fft.irfft2(of_one * np.conj(of_other), s=shape))


def _halved(values: np.ndarray) -> np.ndarray:
    """Return the mean of each 2 x 2 px as uint8, which is enough to compare smooth edges."""
    height, width = (size // 2 * 2 for size in values.shape)
    even = values[:height, :width].astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) // 4).astype(np.uint8)
