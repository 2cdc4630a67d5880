"""The U-Net's weight map: class balance plus a term that rises where two cells come close."""

from __future__ import annotations

import math

import numba
import numpy as np

_FAR = np.int32(1 << 30)  # px, farther than any image reaches


def class_weights(frequencies: np.ndarray) -> np.ndarray:
    """w_c per class, 1 / (K f_k): the mean weight of a training pixel is 1.

    `frequencies` (K,) are the classes' shares f_k of the training pixels.
    """
    return 1.0 / (len(frequencies) * np.asarray(frequencies, float))


def weight_map(cells: np.ndarray, w_c: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """w = w_c + w0 exp(-(d1 + d2)^2 / 2 sigma^2) of one section, float32 (y, x).

    Ronneberger et al. 2015, equation 2.

    `cells` (y, x) are instance labels without the separation border, 0 = background; `w_c` holds the weights
    of background and cell; d1, d2 are the distances (px) to the nearest and second-nearest cell, `sigma` in
    px. The second term is that of background pixels; where there are fewer than two cells it is 0. Exact to
    float32: a distance is left out only where the term is below the rounding of w_c.
    """
    weights = np.where(cells > 0, w_c[1], w_c[0])
    if w0 > 0:
        negligible = 2.0**-26 * w_c[0] / w0
        reach = sigma * math.sqrt(max(-2 * math.log(negligible), 0.0))
        distance = distance_sum(np.ascontiguousarray(cells, np.int32), reach)
        near = np.isfinite(distance)
        weights[near] += w0 * np.exp(-(distance[near] ** 2) / (2 * sigma**2))
    return weights.astype(np.float32)


def distance_sum(labels: np.ndarray, reach: float = math.inf) -> np.ndarray:
    """d1 + d2 of each background pixel of `labels` (y, x) int32: float64 px, inf on cells and beyond `reach`.

    Two passes (the separable scheme of Felzenszwalb & Huttenlocher 2012, kept for two labels): down and up
    each column for its two nearest different labels, then along each row over those. The nearest pixel that
    is not of the nearest cell lies in some column, and there among the two nearest of different labels; hence
    the result is exact.
    """
    return _along_rows(labels, *_along_columns(labels), reach)


@numba.njit(cache=True, nogil=True)
def _along_columns(labels):
    height, width = labels.shape
    distance = np.full((2, height, width), _FAR, np.int32)  # to the nearest label, to the nearest other one
    label = np.zeros((2, height, width), np.int32)
    for direction in (1, -1):
        row = np.full((2, width), -direction * _FAR, np.int32)  # where the last two different labels were met
        last = np.zeros((2, width), np.int32)
        for step in range(height):
            y = step if direction == 1 else height - 1 - step
            for x in range(width):
                current = labels[y, x]
                if current:
                    if current != last[0, x]:
                        row[1, x], last[1, x] = row[0, x], last[0, x]
                        last[0, x] = current
                    row[0, x] = y
                for k in range(2):
                    candidate, d = last[k, x], abs(y - row[k, x])
                    if candidate == 0:
                        continue
                    if candidate == label[0, y, x]:
                        distance[0, y, x] = min(d, distance[0, y, x])
                    elif d < distance[0, y, x]:
                        distance[1, y, x], label[1, y, x] = distance[0, y, x], label[0, y, x]
                        distance[0, y, x], label[0, y, x] = d, candidate
                    elif d < distance[1, y, x]:
                        distance[1, y, x], label[1, y, x] = d, candidate
    return distance, label


@numba.njit(cache=True, nogil=True)
def _along_rows(labels, distance, label, reach):
    height, width = labels.shape
    total = np.full((height, width), np.inf)
    for y in range(height):
        for x in range(width):
            if labels[y, x]:
                continue
            nearest, first, second = (
                0,
                np.inf,
                np.inf,
            )  # squared distances to the nearest cell and to the next other
            for offset in range(width):
                squared = offset * offset
                # Whatever is still to be met is at least `offset` away, and so is d2.
                if squared >= second or min(math.sqrt(first), offset) + offset > reach:
                    break
                for side in (-1, 1):
                    column = x + side * offset
                    if column < 0 or column >= width or (offset == 0 and side == 1):
                        continue
                    for k in range(2):
                        candidate = label[k, y, column]
                        if candidate == 0:
                            break
                        d = squared + distance[k, y, column] * distance[k, y, column]
                        if candidate == nearest:
                            first = min(first, d)
                        elif d < first:
                            nearest, first, second = candidate, d, first
                        elif d < second:
                            second = d
            d = math.sqrt(first) + math.sqrt(second)
            if d <= reach:
                total[y, x] = d
    return total
