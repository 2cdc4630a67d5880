"""Arrays into colours (RGB uint8) that a colour-blind reader can tell apart."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.colors import Normalize, to_rgb

# Okabe & Ito 2008, "Color universal design"
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
BACKGROUND = "#23272e"


@dataclass(frozen=True)
class Scale:
    """A colour scale, a colour map of matplotlib from `low` to `high`; `mark` is a value to point at."""

    colour_map: str
    low: float
    high: float
    label: str
    mark: float | None = None


def rgb(colour: str) -> np.ndarray:
    """A colour by name or code as uint8 (3,)."""
    return np.round(np.array(to_rgb(colour)) * 255).astype(np.uint8)


Window = tuple[slice, slice]  # rows, columns
WHOLE: Window = np.s_[:, :]


def gray(section: np.ndarray, window: Window = WHOLE) -> np.ndarray:
    """Gray levels (c, y, x) as RGB: mean over channels, stretched from its 0.5th to its 99.5th percentile.

    Percentiles are those of the whole, of which `window` is shown.
    """
    mean = section.mean(axis=0, dtype=np.float64)
    low, high = np.percentile(mean, (0.5, 99.5))
    level = np.clip((mean[window] - low) / (high - low if high > low else 1), 0, 1)
    return np.repeat(np.round(level * 255).astype(np.uint8)[..., None], 3, axis=2)


def coloured(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Scalars (y, x) as RGB of a colour scale; what lies outside has the colour of its end."""
    level = Normalize(scale.low, scale.high)(values)
    return matplotlib.colormaps[scale.colour_map](level, bytes=True)[..., :3]


def instances_coloured(labels: np.ndarray, window: Window = WHOLE) -> np.ndarray:
    """Instance labels (y, x) as RGB: pale tints on dark background, dark lines between cells that touch.

    The tint follows from the label alone, and none comes near the colour of a split or a merger. Of a
    `window` only as much as is shown is coloured, and no line goes missing at its edge.
    """
    y, x = (range(length)[part] for length, part in zip(labels.shape, window, strict=True))
    above, left = min(y.start, 1), min(x.start, 1)
    labels = labels[y.start - above : y.stop, x.start - left : x.stop]
    hues = [rgb(colour) for colour in (GREEN, PURPLE, ORANGE, "gray")]
    tints = np.array([hue * share + 255 * (1 - share) for share in (0.2, 0.4, 0.6) for hue in hues], np.uint8)
    image = tints[(labels.astype(np.int64) * 2654435761 >> 8) % len(tints)]
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        image[here][labels[here] != labels[there]] = rgb(BACKGROUND)
    image[labels == 0] = rgb(BACKGROUND)
    return image[above:, left:]


def magnified(array: np.ndarray, factor: int) -> np.ndarray:
    """Every pixel of `array` (y, x, ...) as a square of `factor` px."""
    return array.repeat(factor, axis=0).repeat(factor, axis=1)
