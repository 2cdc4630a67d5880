"""Boxes of detections on a picture of a section."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from pipeline_lib.figures.colouring import Window, rgb
from pipeline_lib.figures.palette import HATCH, SKY, VERMILLION, YELLOW
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.metrics import BoxMatches
from pipeline_lib.metrics.detection import AT_50, TRUE
from pipeline_lib.metrics.detection import FALSE as UNMATCHED

SMALLEST_SHOWN = 5  # px, of the inside of a box in a picture


@dataclass(frozen=True)
class Line:
    """How boxes are drawn, so that their kind is visible without colours, too.

    Parameters
    ----------
    colour : str
        Code of the colour.
    words : str
        Description of the line, for the legend.
    width : int
        Width of the line (px).
    period : int
        Approximate distance between the dashes (px); 0 for a solid line.
    """

    colour: str
    words: str
    width: int
    period: int = 0


FOUND = Line(SKY, "solid line", 2)
MISSED = Line(YELLOW, "dashed line", 3, 16)
FALSE = Line(VERMILLION, "dotted line", 4, 10)
IGNORED = Line(HATCH, "thin gray line", 1)


class Outcome(NamedTuple):
    """What became of the detections and of the annotated objects of a section.

    All boxes are (y0, x0, y1, x1), half-open, px of the section.

    Parameters
    ----------
    found : (n, 4) array of float64
        Detections that match an object; without annotation, all detections.
    missed : (m, 4) array of float64
        Annotated objects that no detection matches.
    false : (k, 4) array of float64
        Detections that match no object.
    ignored : (i, 4) array of float64
        Annotated objects that are not scored.
    """

    found: Boxes
    missed: Boxes
    false: Boxes
    ignored: Boxes

    @classmethod
    def of(
        cls,
        annotated: Boxes,
        ignored: npt.NDArray[np.bool_],
        detected: Boxes,
        matches: BoxMatches,
        threshold: float,
    ) -> Outcome:
        """Return what became of the detections and of the objects of a section, at an IoU of 0.5.

        Parameters
        ----------
        annotated : (n, 4) array of float64
            Boxes of the annotated objects (px).
        ignored : (n,) array of bool
            Which of them are not scored.
        detected : (k, 4) array of float64
            Boxes of the detections (px).
        matches : BoxMatches
            Their matches, of one section.
        threshold : float
            Smallest score of a detection that is kept.

        Returns
        -------
        Outcome
            The boxes of each kind.
        """
        outcome, kept = matches.coco[0, AT_50], matches.score >= threshold
        hits = outcome == TRUE
        met = np.zeros(len(annotated), bool)
        met[matches.partner[kept & hits]] = True
        return cls(
            found=detected[kept & hits],
            missed=annotated[~ignored & ~met],
            false=detected[kept & (outcome == UNMATCHED)],
            ignored=annotated[ignored],
        )

    @property
    def lines(self) -> list[tuple[Boxes, Line]]:
        """Boxes of each kind, and how they are drawn. Later ones are drawn over earlier ones."""
        kinds = ((self.ignored, IGNORED), (self.found, FOUND), (self.false, FALSE), (self.missed, MISSED))
        return list(kinds)


def box_overlay(
    image: np.ndarray, kinds: Iterable[tuple[Boxes, Line]], window: Window, scale: float
) -> np.ndarray:
    """Draw boxes on a picture of a part of a section.

    Lines are outside of their boxes. Those that are wider than 1 px have a dark rim of 1 px, which is visible
    on any background. Very small boxes are enlarged to be visible.

    Parameters
    ----------
    image : (h, w, 3) array of uint8
        The picture, RGB.
    kinds : iterable of ((n, 4) array of float64, Line)
        Boxes (px of the section) and their lines. Later ones are drawn over earlier ones.
    window : (slice, slice)
        Rows and columns of the section that the picture shows.
    scale : float
        Pixels of the picture for each pixel of the section.

    Returns
    -------
    (h, w, 3) array of uint8
        Copy of `image` with the boxes.
    """
    lines = list(kinds)
    size = np.array(image.shape[:2])
    origin = np.tile([edge.start for edge in window], 2)
    code = np.zeros(image.shape[:2], np.uint8)
    for number, (boxes, line) in enumerate(lines, 1):
        places = (boxes - origin) * scale
        grown = np.clip(SMALLEST_SHOWN - (places[:, 2:] - places[:, :2]), 0, None) / 2
        places += np.hstack([-grown, grown])
        visible = (places[:, 2:] > 0).all(axis=1) & (places[:, :2] < size).all(axis=1)
        for y0, x0, y1, x1 in np.round(places[visible]).astype(int):
            _draw_frame(code, _sides(y0, y1, size[0], line), _sides(x0, x1, size[1], line), number, line)
    result = image.copy()
    thick = [number for number, (_, line) in enumerate(lines, 1) if line.width > 1]
    result[binary_dilation(np.isin(code, thick))] = 0
    for number, (_, line) in enumerate(lines, 1):
        result[code == number] = rgb(line.colour)
    return result


def _sides(low: int, high: int, length: int, line: Line) -> tuple[int, int]:
    """Return where the lines of a box begin and end along an axis of a picture.

    They are outside of the box, but within the picture if the box is.
    """
    first = low - line.width if low < 0 else max(low - line.width, 0)
    last = high + line.width if high > length else min(high + line.width, length)
    return first, last


def _draw_frame(
    code: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], number: int, line: Line
) -> None:
    """Write `number` to the pixels of the lines around a box that are in the picture."""
    for canvas, across, along in ((code, rows, columns), (code.T, columns, rows)):
        part = slice(max(along[0], 0), min(along[1], canvas.shape[1]))
        drawn = _dashes(along[1] - along[0], line.period)[part.start - along[0] : part.stop - along[0]]
        for start in (across[0], across[1] - line.width):
            side = canvas[max(start, 0) : max(start + line.width, 0), part]
            side[:, drawn] = number


@lru_cache(maxsize=1024)
def _dashes(length: int, period: int) -> npt.NDArray[np.bool_]:
    """Return which pixels of a line are drawn. Both ends are, so that the corners of a box are visible."""
    if not period:
        return np.ones(length, bool)
    number = max(round(length / period), 1)
    return np.cos(2 * np.pi * number * np.arange(length) / max(length - 1, 1)) > -0.1
