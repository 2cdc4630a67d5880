"""Errors in their colours over a picture."""

from __future__ import annotations

import math

import numpy as np

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
    result[near(codes > 0, radius + 1)] = 0
    for kind in reversed(COLOURS):
        here = codes == kind
        if not here.any():
            continue
        result[near(here, radius)] = rgb(COLOURS[kind])
        deep = inside(here, 2 * radius)
        result[deep] = image[deep] // 2 + rgb(COLOURS[kind]) // 2
    return result


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    """Whether one of `mask` (y, x) lies within `radius` px: squared distances up to radius (radius + 0.5).

    A dilation by a disc, put together from shifted rows that widen towards its middle: 50 passes over the
    image at a radius of 12 px instead of 500.
    """
    height = len(mask)
    result, row, width = mask.copy(), mask.copy(), 0
    for dy in range(radius, -1, -1):
        while width < math.isqrt((2 * radius + 1) * radius // 2 - dy * dy):
            width += 1
            row[:, width:] |= mask[:, :-width]
            row[:, :-width] |= mask[:, width:]
        shown = max(height - dy, 0)
        result[dy:] |= row[:shown]
        result[:shown] |= row[dy:]
    return result


def inside(mask: np.ndarray, radius: int) -> np.ndarray:
    """Whether all pixels within `radius` px are of `mask`; outside of the image none is."""
    result = ~near(~mask, radius)
    edges = [slice(radius, max(length - radius, 0)) for length in mask.shape]
    kept = np.zeros_like(mask)
    kept[tuple(edges)] = result[tuple(edges)]
    return kept
