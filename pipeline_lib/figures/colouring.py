"""Colours for arrays (RGB, uint8), which colour-blind readers can distinguish."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import Normalize, to_rgb

from pipeline_lib.data.correspondence import outlines
from pipeline_lib.figures.palette import BACKGROUND, GREEN, HATCH, ORANGE, PURPLE

HATCH_PERIOD, HATCH_WIDTH = 14, 4  # px, stripes on pixels that are not annotated, along a row of the picture


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Parameters
    ----------
    colour_map : str
        Name of a colour map of matplotlib.
    low, high : float
        Values with the first and the last colour.
    label : str
        Text below the scale.
    """

    colour_map: str
    low: float
    high: float
    label: str


def rgb(colour: str) -> np.ndarray:
    """Return a colour, given by name or code, as uint8 (3,)."""
    return np.round(np.array(to_rgb(colour)) * 255).astype(np.uint8)


Window = tuple[slice, slice]  # rows, columns
WHOLE: Window = np.s_[:, :]


def raw_picture(section: np.ndarray, window: Window = WHOLE) -> np.ndarray:
    """Return one section of a raw image as RGB, with stretched contrast.

    Three channels of uint8 or uint16 are shown as red, green and blue, with one contrast for all three, so
    that the hues remain. Other images are shown in gray, as the mean over their channels.

    Parameters
    ----------
    section : (c, y, x) array
        Gray levels of each channel.
    window : (slice, slice), optional
        Rows and columns to show. By default the whole section.

    Returns
    -------
    (h, w, 3) array of uint8
        The 0.5th percentile of the whole section is 0, its 99.5th percentile 255.
    """
    in_colour = len(section) == 3 and section.dtype in (np.uint8, np.uint16)
    values = section if in_colour else section.mean(axis=0, dtype=np.float64)[None]
    low, high = np.percentile(values, (0.5, 99.5))
    level = np.clip((values[:, *window] - low) / (high - low if high > low else 1), 0, 1)
    picture = np.round(np.moveaxis(level, 0, -1) * 255).astype(np.uint8)
    return picture if in_colour else np.repeat(picture, 3, axis=2)


def coloured(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Return scalars (y, x) as RGB (y, x, 3); values outside the scale get the colour of the nearer end."""
    level = Normalize(scale.low, scale.high)(values)
    return matplotlib.colormaps[scale.colour_map](level, bytes=True)[..., :3]


def instances_coloured(labels: np.ndarray) -> np.ndarray:
    """Return instance labels as RGB: pale cells on dark background, with dark lines between touching cells.

    The colour depends only on the label; 12 colours repeat. None of them resembles the colours of splits and
    mergers.

    Parameters
    ----------
    labels : (y, x) array of int
        Instance labels, 0 = background.

    Returns
    -------
    (y, x, 3) array of uint8
        Colours of the pixels.
    """
    pale = tints()
    image = pale[(labels.astype(np.int64) * 2654435761 >> 8) % len(pale)]
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        image[here][labels[here] != labels[there]] = rgb(BACKGROUND)
    image[labels == 0] = rgb(BACKGROUND)
    return image


def outline_overlay(image: np.ndarray, labels: np.ndarray, colour: str) -> np.ndarray:
    """Draw the outlines of cells on a picture.

    Parameters
    ----------
    image : (y, x, 3) array of uint8
        The picture, RGB.
    labels : (y, x) array of int
        Instance labels of the cells, 0 = background.
    colour : str
        Colour of the outlines.

    Returns
    -------
    (y, x, 3) array of uint8
        Copy of `image` with lines of 2 px.
    """
    result = image.copy()
    result[outlines(labels)] = rgb(colour)
    return result


def tints() -> np.ndarray:
    """Return 12 pale colours for cells (12, 3), uint8. None resembles the colours of splits and mergers."""
    hues = [rgb(colour) for colour in (GREEN, PURPLE, ORANGE, "gray")]
    return np.array([hue * share + 255 * (1 - share) for share in (0.2, 0.4, 0.6) for hue in hues], np.uint8)


def hatched(image: np.ndarray, ignored: np.ndarray | None) -> np.ndarray:
    """Return a picture, darker and with diagonal gray stripes on the pixels that are not annotated.

    Parameters
    ----------
    image : (y, x, 3) array of uint8
        The picture, RGB, magnified to its final size.
    ignored : (y, x) array of bool or None
        Pixels of the section that are not annotated; the picture has a multiple of their number. None if all
        are annotated.

    Returns
    -------
    (y, x, 3) array of uint8
        `image` itself if all pixels are annotated.
    """
    if ignored is None:
        return image
    where = magnified(ignored, len(image) // len(ignored))
    rows, columns = np.ogrid[: where.shape[0], : where.shape[1]]
    result = image.copy()
    result[where] = image[where] // 2 + rgb(BACKGROUND) // 2
    result[where & ((rows + columns) % HATCH_PERIOD < HATCH_WIDTH)] = rgb(HATCH)
    return result


def hatch_legend(ignored: np.ndarray | None) -> list[tuple[str | None, str]]:
    """Return the line of the legend that explains `hatched`; none if all pixels are annotated."""
    if ignored is None or not ignored.any():
        return []
    return [(HATCH, f"hatched: not annotated, {np.count_nonzero(ignored):,} px")]


def magnified(array: np.ndarray, factor: int) -> np.ndarray:
    """Return `array` (y, x, ...) with every pixel enlarged to a square of `factor` px."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)
