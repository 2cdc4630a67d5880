"""Mark errors in colour on a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline_lib.data.correspondence import outlines
from pipeline_lib.figures.colouring import rgb
from pipeline_lib.figures.palette import GREEN, PURPLE, SKY, VERMILLION, YELLOW
from pipeline_lib.metrics import Mismatch

DASH = 6  # px, where two outlines coincide
TOPOLOGICAL = (Mismatch.SPLIT, Mismatch.MERGER)  # errors that split or merge cells

COLOURS = {
    Mismatch.SPLIT: VERMILLION,
    Mismatch.MERGER: SKY,
    Mismatch.HOLE_ADDITION: YELLOW,
    Mismatch.HOLE_DELETION: GREEN,
    Mismatch.OBJECT_ADDITION: PURPLE,
    Mismatch.OBJECT_DELETION: "#FFFFFF",
}


def error_overlay(
    image: np.ndarray, codes: np.ndarray, radius: int = 2, colours: Mapping[Any, str] = COLOURS
) -> np.ndarray:
    """Mark each error on a picture in the colour of its kind.

    Errors are often single pixels. Therefore each is dilated by `radius` px and gets a dark rim of 1 px,
    which is visible on any background. The inside of large errors is half transparent. Where errors overlap,
    the kinds that `colours` names first are shown: by default splits and mergers.

    Parameters
    ----------
    image : (y, x, 3) array of uint8
        The picture, RGB.
    codes : (y, x) array of uint8
        Kind of error at each pixel (`metrics.Mismatch`), 0 = none.
    radius : int, default 2
        Radius of the dilation (px).
    colours : mapping of int to str, default COLOURS
        Colour of each kind.

    Returns
    -------
    (y, x, 3) array of uint8
        Copy of `image` with the errors.
    """
    result = image.copy()
    result[near(codes > 0, radius + 1)] = 0
    for kind in reversed([*colours]):
        here = codes == kind
        if not here.any():
            continue
        result[near(here, radius)] = rgb(colours[kind])
        deep = inside(here, 2 * radius)
        result[deep] = image[deep] // 2 + rgb(colours[kind]) // 2
    return result


def outline_overlay(image: np.ndarray, *cells: tuple[np.ndarray, str]) -> np.ndarray:
    """Draw the outlines of cells on a picture, each kind of cells in one colour.

    Where outlines of two kinds coincide, they are dashed in both colours.

    Parameters
    ----------
    image : (y, x, 3) array of uint8
        The picture, RGB.
    *cells : ((y, x) array of int, str)
        One or two kinds of cells: their labels, 0 = background, and the colour of their outlines.

    Returns
    -------
    (y, x, 3) array of uint8
        Copy of `image` with lines of 2 px.
    """
    result = image.copy()
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    below = np.zeros(image.shape[:2], bool)
    for labels, colour in cells:
        line = outlines(labels)
        result[line & ~(below & ((rows + columns) // DASH % 2 == 0))] = rgb(colour)
        below |= line
    return result


def near(mask: np.ndarray, radius: int) -> np.ndarray:
    """Return the dilation of `mask` (y, x) by a disc: squared distances up to radius (radius + 0.5).

    The disc is composed of shifted rows that become wider towards its middle. At a radius of 12 px this takes
    50 passes over the image instead of 500.
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
    """Return the erosion of `mask` (y, x) by the same disc; pixels outside of the image are not in `mask`."""
    result = ~near(~mask, radius)
    edges = [slice(radius, max(length - radius, 0)) for length in mask.shape]
    kept = np.zeros_like(mask)
    kept[tuple(edges)] = result[tuple(edges)]
    return kept
