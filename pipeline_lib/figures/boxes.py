"""Detections of a volume: boxes on one section, and close-ups of the worst places."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline_lib.figures.colouring import Window, magnified, raw_picture, rgb
from pipeline_lib.figures.overlay import near, outline_overlay
from pipeline_lib.figures.palette import HATCH, SKY, VERMILLION, YELLOW
from pipeline_lib.figures.parts import ANNOTATED as ANNOTATED_OUTLINE
from pipeline_lib.figures.parts import FOUND as FOUND_OUTLINE
from pipeline_lib.figures.parts import WINDOW, around, numbered
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.kernels.blocks import ALIGNMENT
from pipeline_lib.kernels.boxes import Boxes, area
from pipeline_lib.metrics import BoxMatches
from pipeline_lib.metrics.detection import AT_50, TRUE
from pipeline_lib.metrics.detection import FALSE as UNMATCHED
from pipeline_lib.runtime.types import Json, Stored

OVERVIEW = 1024  # px, side of the picture of a whole section
CLOSE_UP_SHOWN = 384  # px
#: Sides of close-ups (px of the section). Each is a multiple or a divisor of `CLOSE_UP_SHOWN`.
CLOSE_UPS = (48, 64, 96, 128, 192, 384, 768, 1536, 3072)
SURROUNDINGS = 1024  # px of the section, from which the gray range of a close-up is
PLACES = 12
COLUMNS = 3  # of close-ups
SMALLEST_SHOWN = 5  # px, of the inside of a box in a picture
NUMBER = 48, 36  # px, largest width and height of the number of a place
THICK = 5  # px, line of the box in the middle of a close-up


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
    missed_score : (m,) array of float64
        Score of the detection below the threshold that matches the object, NaN if there is none.
    false : (k, 4) array of float64
        Detections that match no object.
    false_score : (k,) array of float64
        Their scores.
    ignored : (i, 4) array of float64
        Annotated objects that are not scored.
    """

    found: Boxes
    missed: Boxes
    missed_score: npt.NDArray[np.float64]
    false: Boxes
    false_score: npt.NDArray[np.float64]
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
        # the score of the detection that matches each object, also below the threshold
        score = np.full(len(annotated), np.nan)
        score[matches.partner[hits]] = matches.score[hits]
        missed = ~ignored & ~(score >= threshold)
        false = kept & (outcome == UNMATCHED)
        return cls(
            detected[kept & hits],
            annotated[missed],
            score[missed],
            detected[false],
            matches.score[false],
            annotated[ignored],
        )

    @property
    def lines(self) -> list[tuple[Boxes, Line]]:
        """Boxes of each kind, and how they are drawn. Later ones are drawn over earlier ones."""
        kinds = ((self.ignored, IGNORED), (self.found, FOUND), (self.false, FALSE), (self.missed, MISSED))
        return list(kinds)


class Place(NamedTuple):
    """An object that was missed, or a false detection.

    Parameters
    ----------
    severity : float
        Larger is worse: area of the object (px^2), or score of the detection.
    section : int
        Number of the section.
    box : (4,) array of float64
        Its box.
    score : float
        Its score.
    line : Line
        `MISSED` or `FALSE`.
    outcome : Outcome
        All boxes of the section.
    """

    severity: float
    section: int
    box: npt.NDArray[np.float64]
    score: float
    line: Line
    outcome: Outcome


def save_detection_sheet(
    output: str | Path,
    *,
    raw: Stored,
    outcomes: Iterable[Outcome],
    annotated: bool,
    labels: Stored | None = None,
    segmented: Stored | None = None,
    threshold: float,
    volume: str,
    split: str,
    record: Json,
) -> None:
    """Draw the detections of a volume as boxes on one section, with close-ups of the worst places, as PNG.

    Found objects, missed objects and false detections differ in colour and line. The section is the one with
    most missed and false ones, or the one nearest to the middle. If it is larger than `OVERVIEW`, it is shown
    smaller, with a further picture of the `WINDOW` px with most missed and false ones in full size. The
    close-ups show the largest missed objects and the false detections with the highest scores, up to `PLACES`
    together. Without annotation there are no close-ups, and all detections are drawn. With labels of masks,
    a further picture shows their outlines and those of the annotated objects.

    The image may be a HDF5 dataset. It is read in bands of rows, and only the boxes of the sections with the
    worst places are kept, so the memory does not grow with the size of the volume.

    Parameters
    ----------
    output : str or Path
        PNG file to write.
    raw : (c, z, y, x) array
        Raw image.
    outcomes : iterable of Outcome
        What became of the detections and objects of each section, from the first to the last one.
    annotated : bool
        Whether the volume is annotated.
    labels : (z, y, x) array, optional
        Annotated instance labels.
    segmented : (z, y, x) array, optional
        Instance labels of the masks.
    threshold : float
        Smallest score of the detections.
    volume, split : str
        Name and split of the volume, for the title.
    record : dict
        Provenance record to store in the picture.
    """
    counts, z, own, places = _gathered(outcomes, raw.shape[1] // 2)
    row, window = _overview(raw, z, own, places, annotated)
    if segmented is not None:
        row.append(_outlines(raw, z, window, labels, segmented))
    close_ups = [_close_up(raw, place, number) for number, place in enumerate(places, 1)]
    found, lost, wrong = counts
    total = (
        f"{found:,} of {found + lost:,} found, {lost:,} missed, {wrong:,} false"
        if annotated
        else f"{found:,} detection{'' if found == 1 else 's'}"
    )
    save_sheet(
        [row, *(close_ups[i : i + COLUMNS] for i in range(0, len(close_ups), COLUMNS))],
        output,
        title=f"{volume}: {total} at a score of at least {threshold:.2f}, {split} split",
        volume=volume,
        split=split,
        threshold=threshold,
        counts={"found": found, "missed": lost, "false": wrong} if annotated else {"found": found},
        section=z,
        row_length=len(row),
        provenance=record,
    )


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
    result[near(np.isin(code, thick), 1)] = 0
    for number, (_, line) in enumerate(lines, 1):
        result[code == number] = rgb(line.colour)
    return result


def reduced(raw: Stored, section: int, window: Window, factor: int) -> np.ndarray:
    """Return a part of a section of an image, with the mean of each square of `factor` px as one pixel.

    Parameters
    ----------
    raw : (c, z, y, x) array or HDF5 dataset
        Raw image. It is read in bands of `ALIGNMENT` rows.
    section : int
        Number of the section.
    window : (slice, slice)
        Rows and columns.
    factor : int
        Side of the squares (px). Those at the ends of rows and columns can be smaller.

    Returns
    -------
    (c, h, w) array
        Means, of the type of `raw`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.boxes import reduced
    >>> reduced(np.arange(15.0).reshape(1, 1, 3, 5), 0, (slice(0, 3), slice(0, 5)), 2)
    array([[[ 3. ,  5. ,  6.5],
            [10.5, 12.5, 14. ]]])
    """
    rows, columns = window
    height, width = rows.stop - rows.start, columns.stop - columns.start
    starts = np.arange(0, width, factor)
    total = np.zeros((raw.shape[0], math.ceil(height / factor), len(starts)))
    for top in range(rows.start, rows.stop, ALIGNMENT):
        band = raw[:, section, top : min(top + ALIGNMENT, rows.stop), columns]
        place = (np.arange(band.shape[1]) + top - rows.start) // factor
        first = np.flatnonzero(np.diff(place, prepend=-1))
        sums = np.add.reduceat(band, first, axis=1, dtype=np.float64)
        total[:, place[0] : place[-1] + 1] += np.add.reduceat(sums, starts, axis=2)
    pixels = np.outer(np.diff(np.arange(0, height, factor), append=height), np.diff(starts, append=width))
    mean = total / pixels
    return (np.round(mean) if np.issubdtype(raw.dtype, np.integer) else mean).astype(raw.dtype)


def _gathered(outcomes: Iterable[Outcome], middle: int) -> tuple[list[int], int, Outcome, list[Place]]:
    """Return what a sheet shows of all sections.

    These are the numbers of found, missed and false ones of the volume, number and outcome of the section
    with most missed and false ones (of several, the one nearest to `middle`), and the worst places, first
    those of missed objects.
    """
    counts = np.zeros(3, int)
    chosen: tuple[tuple[int, int], int, Outcome] | None = None
    missed: list[Place] = []
    false: list[Place] = []
    for z, own in enumerate(outcomes):
        counts += [len(own.found), len(own.missed), len(own.false)]
        rank = (len(own.missed) + len(own.false), -abs(z - middle))
        if chosen is None or rank > chosen[0]:
            chosen = rank, z, own
        missed = _worst([*missed, *_places(z, own, MISSED)])
        false = _worst([*false, *_places(z, own, FALSE)])
    assert chosen is not None, "a volume has at least one section"
    missed = missed[: max(PLACES // 2, PLACES - len(false))]
    return counts.tolist(), *chosen[1:], missed + false[: PLACES - len(missed)]


def _places(z: int, own: Outcome, line: Line) -> list[Place]:
    """Return the worst places of one kind in a section."""
    boxes, scores = (own.missed, own.missed_score) if line is MISSED else (own.false, own.false_score)
    severity = area(boxes) if line is MISSED else scores
    worst = np.argsort(-severity, kind="stable")[:PLACES]
    return [Place(float(severity[i]), z, boxes[i], float(scores[i]), line, own) for i in worst]


def _worst(places: list[Place]) -> list[Place]:
    return sorted(places, key=lambda place: -place.severity)[:PLACES]


def _overview(
    raw: Stored, z: int, own: Outcome, places: list[Place], annotated: bool
) -> tuple[list[Panel], Window]:
    """Return a section with its boxes and the numbers of the worst places; of a large one, a part, too.

    The second result is what the last picture shows.
    """
    sections, height, width = raw.shape[1:]
    larger, factor = max(OVERVIEW // max(height, width), 1), math.ceil(max(height, width) / OVERVIEW)
    scale = larger / factor
    whole = slice(0, height), slice(0, width)
    title = f"section {z + 1} of {sections}" if sections > 1 else f"{height} x {width} px"
    title += (
        ", with the most missed and false ones" if sections > 1 and len(own.missed) + len(own.false) else ""
    )
    title += f", shown at 1:{factor}" if factor > 1 else ""
    # These frames have no size, so that only the number is visible: to the right of the box, in the picture.
    numbers = [
        (
            min(int(scale * place.box[3]), int(scale * width) - NUMBER[0]),
            min(int(scale * place.box[0]), int(scale * height) - NUMBER[1]),
            0,
            0,
            str(number),
        )
        for number, place in enumerate(places, 1)
        if place.section == z
    ]
    lines = own.lines
    if factor > 1:  # thousands of boxes would hide the others
        lines = [(boxes, replace(line, width=1) if line is FOUND else line) for boxes, line in lines]
    image = magnified(raw_picture(reduced(raw, z, whole, factor)), larger)
    panels = [Panel(title, box_overlay(image, lines, whole, scale), numbers, _legend(own, annotated))]
    if factor > 1:
        window = _busiest(own, (height, width))
        part = box_overlay(raw_picture(reduced(raw, z, window, 1)), own.lines, window, 1)
        panels.append(Panel(f"{WINDOW} px at x {window[1].start}, y {window[0].start}", part))
        return panels, window
    return panels, whole


def _outlines(raw: Stored, z: int, window: Window, labels: Stored | None, segmented: Stored) -> Panel:
    """Return a part of a section with the outlines of masks, and of annotated objects if there are any."""
    kinds = [(segmented, FOUND_OUTLINE, "masks")]
    if labels is not None:
        kinds.insert(0, (labels, ANNOTATED_OUTLINE, "annotated"))
    larger = max(OVERVIEW // max(edge.stop - edge.start for edge in window), 1)
    own = [(numbered(stored[(z, *window)])[1], colour, words) for stored, colour, words in kinds]
    picture = outline_overlay(
        magnified(raw_picture(reduced(raw, z, window, 1)), larger),
        *((magnified(part, larger), colour) for part, colour, _ in own),
    )
    return Panel(
        "outlines of the masks" + (" and of the annotated objects" if labels is not None else ""),
        picture,
        legend=[(colour, f"{words}: {part.max():,}") for part, colour, words in own],
    )


def _legend(own: Outcome, annotated: bool) -> list[tuple[str | None, str]]:
    """Return the lines of the legend: colour, and kind, number and line in words."""
    kinds = [("found", own.found, FOUND), ("missed", own.missed, MISSED), ("false", own.false, FALSE)]
    if not annotated:
        kinds = [("detections", own.found, FOUND)]
    if len(own.ignored):
        kinds.append(("not scored", own.ignored, IGNORED))
    return [(line.colour, f"{name}: {len(boxes):,} ({line.words})") for name, boxes, line in kinds]


def _busiest(own: Outcome, shape: tuple[int, int]) -> Window:
    """Return the square of a grid of `WINDOW` px with most missed and false ones; without any, most boxes."""
    boxes = np.concatenate([own.missed, own.false])
    if not len(boxes):
        boxes = np.concatenate([own.found, own.ignored])
    cells = ((boxes[:, :2] + boxes[:, 2:]) / (2 * WINDOW)).astype(int)
    columns = math.ceil(shape[1] / WINDOW)
    counts = np.bincount(cells @ [columns, 1], minlength=1)
    row, column = divmod(int(counts.argmax()), columns)
    return around((row + 0.5) * WINDOW, WINDOW, shape[0]), around((column + 0.5) * WINDOW, WINDOW, shape[1])


def _close_up(raw: Stored, place: Place, number: int) -> Panel:
    """Return the surroundings of a place, with its box in a thicker line."""
    height, width = raw.shape[2:]
    y0, x0, y1, x1 = place.box
    least = 3 * max(y1 - y0, x1 - x0)
    side = next((side for side in CLOSE_UPS if side >= least), CLOSE_UPS[-1])
    factor, larger = max(side // CLOSE_UP_SHOWN, 1), max(CLOSE_UP_SHOWN // side, 1)
    # with its surroundings, so that the gray range is that of the image
    window, region = (
        (around((y0 + y1) / 2, length, height), around((x0 + x1) / 2, length, width))
        for length in (side, max(side, SURROUNDINGS))
    )
    inner = tuple(
        slice((own.start - outer.start) // factor, -(-(own.stop - outer.start) // factor))
        for own, outer in zip(window, region, strict=True)
    )
    picture = raw_picture(reduced(raw, place.section, region, factor), (inner[0], inner[1]))
    thick = replace(place.line, width=THICK, period=place.line.period * THICK // place.line.width)
    others = [(boxes[(boxes != place.box).any(axis=1)], line) for boxes, line in place.outcome.lines]
    lines = [*others, (place.box[None], thick)]
    shown = box_overlay(magnified(picture, larger), lines, window, larger / factor)
    known = f"score {place.score:.2f}" if np.isfinite(place.score) else "no detection"
    if place.line is MISSED:
        title = f"{number}. missed, {x1 - x0:.0f} x {y1 - y0:.0f} px, {known}"
    else:
        title = f"{number}. false, {known}"
    where = f"section {place.section + 1}, " if raw.shape[1] > 1 else ""
    return Panel(title, shown, legend=[(None, f"{where}x {(x0 + x1) / 2:.0f}, y {(y0 + y1) / 2:.0f}")])


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
