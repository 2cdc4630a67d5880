"""Warping error: the errors that remain after the truth was deformed towards the prediction.

The deformation keeps the topology of the truth: no cell or hole appears, vanishes, splits or merges. So the
remaining errors are errors of topology. The method is that of Jain et al. 2010, as the ISBI 2012 challenge
computed it: cells are 4-connected, background is 8-connected, and outside of the image is membrane.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.sections import (
    count_annotated,
    count_sections,
    ignored_pixels,
    outside,
    padded,
    section,
    unpadded,
)
from pipeline_lib.metrics.inputs import MapChecker, checked_thresholds
from pipeline_lib.runtime.types import Stored


def _simple_points() -> np.ndarray:
    """Return for each of the 256 neighbourhoods whether its centre is a simple point.

    Flipping a simple point creates, removes, splits and merges no component and no hole. Bit k of a
    neighbourhood is the k-th pixel of the ring around the centre; even bits are its 4-neighbours. The centre
    is simple if exactly one 4-connected component of the ring's foreground touches it (Yokoi et al. 1975).
    """
    ring = np.arange(256)[:, None] >> np.arange(8) & 1
    adjacent = ring[:, ::2]
    joined_to_next = adjacent & ring[:, 1::2] & np.roll(adjacent, -1, axis=1)
    return (adjacent - joined_to_next).sum(axis=1) == 1


SIMPLE = _simple_points()
ONE, TEN_BITS = np.uint32(0x3F800000), np.uint32(1023)  # the bits of 1.0 in float32; a digit of the sort
REMAINING, READY, FLIPPED = 256, 512, 1024  # bits of a pixel's state, above the eight of its neighbourhood


def warp(
    cells: Stored,
    cell_probability: Stored,
    threshold: float = 0.5,
    mask: Stored | None = None,
    *,
    ignore: Stored | None = None,
) -> np.ndarray:
    """Deform the true cells towards the prediction without changing their topology.

    Pixels that differ from the prediction `cell_probability > threshold` are flipped if they are simple
    points, which means that no cell or hole appears, vanishes, splits or merges. The pixels whose probability
    is farthest from the threshold are flipped first; ties are resolved column by column. Passes are repeated
    until none of the remaining pixels is simple.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane is 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    threshold : float, default 0.5
        Pixels with a larger probability are predicted as cell; compared in float64. In 0..1.
    mask : array, optional
        Pixels that can be flipped are not 0; same shape. By default all can, as in the challenge.
    ignore : array, optional
        Pixels that are not part of the image are not 0; same shape. Like pixels beyond the edge of the image
        they are membrane that cannot change, so they are 0 in the result.

    Returns
    -------
    array of uint8
        Deformed truth of the same shape, 0 or 1, with as many cells and holes as `cells`.

    Raises
    ------
    InputError
        If the shapes differ, the probability has NaN or values outside 0..1, or the threshold is outside
        0..1.

    References
    ----------
    The method is described in [1]_. The order of the pixels is that of the challenge's reference
    implementation.

    .. [1] V. Jain et al., "Boundary learning by optimization with topological constraints", IEEE Conference
       on Computer Vision and Pattern Recognition, 2488-2495, 2010.

    Examples
    --------
    The membrane between two cells moves by one pixel to where it is predicted.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import warp
    >>> cells = np.array([[1, 1, 1, 0, 0, 1, 1]] * 2)
    >>> predicted = np.array([[1.0, 1, 0, 0, 1, 1, 1]] * 2)
    >>> warp(cells, predicted)
    array([[1, 1, 0, 0, 1, 1, 1],
           [1, 1, 0, 0, 1, 1, 1]], dtype=uint8)

    It cannot vanish, because that would merge the cells. A line of one pixel remains.

    >>> warp(cells, np.ones((2, 7)))
    array([[1, 1, 1, 1, 0, 1, 1],
           [1, 1, 1, 1, 0, 1, 1]], dtype=uint8)
    """
    warped_cells = np.empty(cells.shape, np.uint8)
    for z, found in enumerate(warped_sections(cells, cell_probability, threshold, mask, ignore)):
        section(warped_cells, z)[...] = unpadded(found.warped)
    return warped_cells


def warping_error(
    cells: Stored,
    cell_probability: Stored,
    threshold: float = 0.5,
    mask: Stored | None = None,
    *,
    ignore: Stored | None = None,
) -> float:
    """Return the warping error: the fraction of pixels that remain wrong after the truth was deformed.

    The truth is deformed towards the prediction by `warp`. A membrane that is predicted at another place
    costs nothing if the truth can be deformed to it, that is up to a shift by its own width. Remaining pixels
    are errors of topology of any kind; see `error_map`.

    Parameters
    ----------
    cells : (z, y, x) or (y, x) array
        Truth: cell is not 0, membrane is 0.
    cell_probability : array of float
        Probability of cell in 0..1, of the same shape. A uint8 map is divided by 255.
    threshold : float, default 0.5
        Pixels with a larger probability are predicted as cell; compared in float64. In 0..1.
    mask : array, optional
        Pixels whose errors count are not 0; same shape. By default all count, as in the challenge.
    ignore : array, optional
        Pixels that are not part of the image are not 0; same shape. Like pixels beyond the edge of the image
        they are membrane that cannot change, and they do not count.

    Returns
    -------
    float
        0 (best) to 1, as a fraction of all pixels that are not ignored; NaN if all are. Without any true
        cell, each predicted cell pixel is an error. For an empty prediction, each cell without holes is
        deformed to a single pixel, which is an error.

    Raises
    ------
    InputError
        If the shapes differ, the probability has NaN or values outside 0..1, or the threshold is outside
        0..1.

    References
    ----------
    The score is defined in [1]_.

    .. [1] V. Jain et al., "Boundary learning by optimization with topological constraints", IEEE Conference
       on Computer Vision and Pattern Recognition, 2488-2495, 2010.

    Examples
    --------
    A prediction without membrane merges two cells along a line of 2 of 14 pixels.

    >>> import numpy as np
    >>> from pipeline_lib.metrics import warping_error
    >>> cells = np.array([[1, 1, 1, 0, 0, 1, 1]] * 2)
    >>> round(warping_error(cells, np.ones((2, 7))), 4)
    0.1429

    The shift of a membrane costs nothing.

    >>> warping_error(cells, np.array([[1.0, 1, 0, 0, 1, 1, 1]] * 2))
    0.0
    """
    found = warped_sections(cells, cell_probability, threshold, mask, ignore)
    errors, pixels = sum(remaining.size for _, remaining, _ in found), count_annotated(cells, ignore)
    return errors / pixels if pixels else float("nan")


class Warped(NamedTuple):
    """The deformed truth of a section, the pixels that remain wrong (flat indices), and `sections.outside`.

    The arrays are padded.
    """

    warped: np.ndarray
    remaining: np.ndarray
    beyond: np.ndarray | None


def warped_sections(
    cells: Stored, cell_probability: Stored, threshold: float, mask: Stored | None, ignore: Stored | None
) -> Iterator[Warped]:
    """Check, deform and yield one section after the other."""
    (threshold,) = checked_thresholds([threshold])
    check = MapChecker(cells, cell_probability, mask=mask, ignore=ignore)
    for z in range(count_sections(cells)):
        ignored = ignored_pixels(ignore, z)
        truth, probability = check(z, section(cells, z), section(cell_probability, z), ignored)
        warped, probability = padded(truth, np.uint8), padded(probability, np.float32)
        remaining = warp_section(warped, probability, threshold, allowed(mask, z))
        yield Warped(warped, remaining, outside(ignored))
    check.finish()


def allowed(mask: Stored | None, z: int) -> np.ndarray:
    """Return the padded 0/1 map of the pixels that can change in section `z`; an empty array if all can."""
    return np.empty((0, 0), np.uint8) if mask is None else padded(section(mask, z) != 0, np.uint8)


def warp_section(
    warped: np.ndarray, probability: np.ndarray, threshold: float, mask: np.ndarray
) -> np.ndarray:
    """Deform the padded truth in place and return the flat indices (int32) of the remaining mismatches."""
    return _warp(warped, *_mismatches(warped, probability, threshold, mask))


@compiled
def _mismatches(
    warped: np.ndarray, probability: np.ndarray, threshold: float, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the state of each pixel and the mismatches by descending |probability - threshold|.

    The state of a mismatch is REMAINING and the code of its neighbourhood; that of other pixels is 0. The
    mismatches are flat indices, sorted by a radix sort, which leaves ties in scan order. The keys are the
    bits of the distances: read as integers they have the order of the distances and are below 2^30, which is
    three digits of ten bits. The lowest digit is sorted while scanning.
    """
    rows, columns = warped.shape
    everywhere = mask.size == 0
    state = np.zeros(warped.shape, np.uint16)
    places = np.zeros((3, 1025), np.int32)
    distance = np.empty(1, np.float32)
    bits = distance.view(np.uint32)
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            p = np.float64(probability[x, y])
            if (warped[x, y] != 0) != (p > threshold) and (everywhere or mask[x, y]):
                state[x, y] = REMAINING
                distance[0] = abs(p - threshold)
                key = ONE - bits[0]
                for digit in range(3):
                    places[digit, (key >> np.uint32(10 * digit) & TEN_BITS) + 1] += 1
    for digit in range(3):
        for bucket in range(1024):
            places[digit, bucket + 1] += places[digit, bucket]
    count = places[0, 1024]
    pixels, keys = np.empty(count, np.int32), np.empty(count, np.uint32)
    for x in range(1, rows - 1):
        for y in range(1, columns - 1):
            if state[x, y]:
                state[x, y] |= (
                    warped[x, y + 1]
                    | warped[x + 1, y + 1] << 1
                    | warped[x + 1, y] << 2
                    | warped[x + 1, y - 1] << 3
                    | warped[x, y - 1] << 4
                    | warped[x - 1, y - 1] << 5
                    | warped[x - 1, y] << 6
                    | warped[x - 1, y + 1] << 7
                )
                distance[0] = abs(np.float64(probability[x, y]) - threshold)
                key = ONE - bits[0]
                place = places[0, key & TEN_BITS]
                places[0, key & TEN_BITS] += 1
                pixels[place] = x * columns + y
                keys[place] = key
    other_pixels, digits = np.empty(count, np.int32), np.empty(count, np.uint16)
    for index in range(count):
        bucket = keys[index] >> np.uint32(10) & TEN_BITS
        place = places[1, bucket]
        places[1, bucket] += 1
        other_pixels[place] = pixels[index]
        digits[place] = keys[index] >> np.uint32(20)
    for index in range(count):
        place = places[2, digits[index]]
        places[2, digits[index]] += 1
        pixels[place] = other_pixels[index]
    return state, pixels


@compiled
def _warp(warped: np.ndarray, state: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Flip simple pixels of `order` in passes until none is simple; return the others in the same order.

    A pixel that is not simple can only become simple if a neighbour flips. Therefore each flip updates the
    state of its eight neighbours, and a pass visits only pixels that are `ready`.
    """
    columns = warped.shape[1]
    ring = (1, columns + 1, columns, columns - 1, -1, -columns - 1, -columns, -columns + 1)
    state = state.ravel()
    rank_of = np.empty(state.size, np.int32)
    ready_by_eight = np.zeros(order.size // 8 + 1, np.uint64)
    ready = ready_by_eight.view(np.bool_)
    ahead = 0
    for rank in range(order.size):
        pixel = order[rank]
        rank_of[pixel] = rank
        if SIMPLE[state[pixel] & 255]:
            state[pixel] |= READY
            ready[rank] = True
            ahead += 1
    rank = 0
    behind = 0
    lowest_behind = order.size
    flips = 0
    while ahead + behind > 0:
        if ahead == 0:  # the next pass starts at its first ready pixel
            rank = lowest_behind
            ahead = behind
            behind = 0
            lowest_behind = order.size
        while not ready[rank]:  # terminates because a pixel ahead is ready
            rank += 1
            while rank & 7 == 0 and ready_by_eight[rank >> 3] == 0:
                rank += 8
        ready[rank] = False
        ahead -= 1
        pixel = order[rank]
        if not SIMPLE[state[pixel] & 255]:
            state[pixel] &= ~READY
            continue
        state[pixel] = FLIPPED
        flips += 1
        for k in range(8):
            neighbour = pixel + ring[k]
            changed = state[neighbour] ^ (1 << ((k + 4) & 7))
            if changed & (REMAINING | READY) == REMAINING and SIMPLE[changed & 255]:
                changed |= READY
                other = rank_of[neighbour]
                ready[other] = True
                if other > rank:
                    ahead += 1
                else:
                    behind += 1
                    lowest_behind = min(lowest_behind, other)
            state[neighbour] = changed
    flat = warped.ravel()
    remaining = np.empty(order.size - flips, np.int32)
    found = 0
    for pixel in order:
        if state[pixel] & FLIPPED:
            flat[pixel] ^= 1
        else:
            remaining[found] = pixel
            found += 1
    return remaining
