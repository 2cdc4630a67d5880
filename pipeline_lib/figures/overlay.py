"""Errors in their colours over a picture."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from pipeline_lib.figures.colouring import GREEN, PURPLE, SKY, VERMILLION, YELLOW, rgb
from pipeline_lib.metrics import Mismatch

TOPOLOGICAL = (Mismatch.SPLIT, Mismatch.MERGER)  # errors that part or join cells

COLOURS = {
    Mismatch.SPLIT: VERMILLION,
    Mismatch.MERGER: SKY,
    Mismatch.HOLE_ADDITION: YELLOW,
    Mismatch.HOLE_DELETION: GREEN,
    Mismatch.OBJECT_ADDITION: PURPLE,
    Mismatch.OBJECT_DELETION: "#FFFFFF",
}


def error_overlay(image: np.ndarray, codes: np.ndarray, radius: int = 2) -> np.ndarray:
    """`image`, RGB (y, x, 3), with each error of `codes` (y, x; see `metrics.Mismatch`) in its colour.

    Errors are often single pixels: each is grown by `radius` px, with a dark rim of 1 px that stands out from
    any ground. The inside of broad ones lets the image shine through. Splits and mergers cover other errors.
    """
    result = image.copy()
    result[ndimage.binary_dilation(codes > 0, _disc(radius + 1))] = 0
    for kind in reversed(COLOURS):
        here = codes == kind
        if not here.any():
            continue
        result[ndimage.binary_dilation(here, _disc(radius))] = rgb(COLOURS[kind])
        inside = ndimage.binary_erosion(here, _disc(2 * radius))
        result[inside] = image[inside] // 2 + rgb(COLOURS[kind]) // 2
    return result


def _disc(radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return y * y + x * x <= radius * (radius + 0.5)
