"""Rank parts of images by how much a correction of their labels is expected to help."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

#: Pixels farther from the outline of a cell do not count (px).
REACH = 3
#: Factor of the score of a place for each place that was already chosen in the same section.
AGAIN = 0.5


class Place(NamedTuple):
    """A square part of a section.

    Parameters
    ----------
    image : str
        Name of the image.
    section, y, x : int
        Section, first row and first column, from 0.
    score : float
        Expected benefit; larger is better.
    reason : str
        Why it was chosen.
    """

    image: str
    section: int
    y: int
    x: int
    score: float
    reason: str


def uncertain_outlines(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how uncertain the pixels near the outlines of cells are.

    Parameters
    ----------
    probability : (y, x) array of float
        Cell probability.
    labels : (y, x) array of int
        Cells that were found, 0 = background.

    Returns
    -------
    (y, x) array of float32
        4 p (1 - p), from 0 (certain) to 1 (a probability of 0.5), at most `REACH` px from an outline of a
        cell; 0 elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.corrections.ranking import uncertain_outlines
    >>> probability, labels = np.array([[0.5, 0.5, 0.1, 0, 0, 0, 0.5]]), np.array([[1, 1, 0, 0, 0, 0, 0]])
    >>> uncertain_outlines(probability, labels).round(2)
    array([[1.  , 1.  , 0.36, 0.  , 0.  , 0.  , 0.  ]], dtype=float32)
    """
    from scipy import ndimage

    from pipeline_lib.data.correspondence import outlines

    near = ndimage.maximum_filter(outlines(labels), 2 * REACH - 1, mode="constant")
    return np.where(near, 4 * probability * (1 - probability), 0).astype(np.float32)


def starts(length: int, size: int) -> list[int]:
    """Return where parts of `size` px begin along an axis: every half size, and the last one at the end.

    Examples
    --------
    >>> from pipeline_lib.corrections.ranking import starts
    >>> starts(10, 4), starts(3, 4)
    ([0, 2, 4, 6], [0])
    """
    last = max(length - size, 0)
    return [*range(0, last, max(size // 2, 1)), last]


def places_of(
    image: str,
    section: int,
    top: int,
    maps: dict[str, np.ndarray],
    size: int,
) -> Iterator[Place]:
    """Yield the candidates in a band of rows, with the mean of each map as score.

    Parameters
    ----------
    image : str
        Name of the image.
    section, top : int
        Section, and first row of the band.
    maps : dict of str to (y, x) array of float
        For each reason a map of the band, which is `size` px high or less.
    size : int
        Side of the parts (px).

    Yields
    ------
    Place
        The score is the sum of the means of all maps; the reason is the map with the largest mean.
    """
    width = next(iter(maps.values())).shape[1]
    sums = {reason: np.append(0.0, np.cumsum(own.sum(0, dtype=np.float64))) for reason, own in maps.items()}
    height = next(iter(maps.values())).shape[0]
    for x in starts(width, size):
        end = min(x + size, width)
        means = {reason: (own[end] - own[x]) / (height * (end - x)) for reason, own in sums.items()}
        reason = max(means, key=lambda name: means[name])
        yield Place(image, section, top, x, float(sum(means.values())), reason)


def choose_places(candidates: Iterable[Place], number: int, size: int) -> list[Place]:
    """Choose the places with the highest scores, from different sections if possible.

    Places do not overlap. With each chosen place, the scores of all others in its section are halved, so that
    the chosen ones differ.

    Parameters
    ----------
    candidates : iterable of Place
        All places.
    number : int
        How many to choose.
    size : int
        Side of the places (px).

    Returns
    -------
    list of Place
        At most `number`, in the order in which they were chosen, with their own scores.

    Examples
    --------
    >>> from pipeline_lib.corrections.ranking import Place, choose_places
    >>> same = [Place("a", 0, 0, x, score, "") for x, score in ((0, 0.9), (5, 0.8), (20, 0.7))]
    >>> [place.x for place in choose_places([*same, Place("b", 0, 0, 7, 0.4, "")], 3, 10)]
    [0, 7, 20]
    """
    left = sorted(candidates, key=lambda place: (-place.score, place.image, *place[1:4]))
    chosen: list[Place] = []
    taken: dict[tuple[str, int], int] = {}
    while left and len(chosen) < number:
        weighted = [place.score * AGAIN ** taken.get(place[:2], 0) for place in left]
        best = left[int(np.argmax(weighted))]
        chosen.append(best)
        taken[best[:2]] = taken.get(best[:2], 0) + 1
        left = [place for place in left if not _overlap(place, best, size)]
    return chosen


def random_places(candidates: Sequence[Place], number: int, size: int, seed: int) -> list[Place]:
    """Choose places that do not overlap at random, to compare with `choose_places`.

    Parameters
    ----------
    candidates : sequence of Place
        All places.
    number : int
        How many to choose.
    size : int
        Side of the places (px).
    seed : int
        Seed of the choice.

    Returns
    -------
    list of Place
        At most `number`.
    """
    chosen: list[Place] = []
    for k in np.random.default_rng(seed).permutation(len(candidates)):
        place = candidates[k]._replace(reason="random")
        if len(chosen) < number and not any(_overlap(place, other, size) for other in chosen):
            chosen.append(place)
    return chosen


def _overlap(place: Place, other: Place, size: int) -> bool:
    return place[:2] == other[:2] and abs(place.y - other.y) < size and abs(place.x - other.x) < size
