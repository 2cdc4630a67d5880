"""Where the errors are: the error map over the raw image, and its worst places as close-ups."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline_lib import layout, metrics
from pipeline_lib.figures.colouring import gray, instances_coloured, magnified
from pipeline_lib.figures.overlay import COLOURS, TOPOLOGICAL, error_overlay
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.figures.volume import matched_labels
from pipeline_lib.files import read_json
from pipeline_lib.instances import instances
from pipeline_lib.labels import cells_apart
from pipeline_lib.metrics import Mismatch

OVERVIEW = 1024  # px, side of the picture of a whole section
CLOSE_UP = 80  # px of the section
CLOSE_UP_SHOWN = 256  # px
PLACES = 10

Window = tuple[slice, slice]  # rows, columns
Severity = tuple[int, int]  # pixels of splits and mergers, of all errors: the worse compares as larger

NAMES = {
    Mismatch.SPLIT: "split",
    Mismatch.MERGER: "merger",
    Mismatch.HOLE_ADDITION: "hole added",
    Mismatch.HOLE_DELETION: "hole deleted",
    Mismatch.OBJECT_ADDITION: "object added",
    Mismatch.OBJECT_DELETION: "object deleted",
}
MEANINGS = {
    Mismatch.SPLIT: "background that cuts a cell in two",
    Mismatch.MERGER: "a gap that joins two cells",
    Mismatch.HOLE_ADDITION: "background inside a cell",
    Mismatch.HOLE_DELETION: "background inside a cell not seen",
    Mismatch.OBJECT_ADDITION: "a cell where there is none",
    Mismatch.OBJECT_DELETION: "a cell not seen",
}


def draw_errors(dataset: Path, prediction: Path, threshold: Path, output: Path, *, volume: str) -> None:
    """Draw the error map of an annotated volume over its worst section, and its ten worst places (PNG).

    Errors are the pixels in which truth and prediction differ after warping (`metrics.error_map`). The worst
    places are windows of `CLOSE_UP` px, shown beside annotation and segmentation. Worst means most splits and
    mergers, then most other errors; the section is chosen so, too.
    """
    t = read_json(threshold)["threshold"]
    with (layout.require(dataset, layout.RAW, layout.LABELS, layout.SEPARATION_BORDER) as data,
          layout.require(prediction, layout.CELL_PROBABILITY) as predicted):
        raw, labels, border = (data[a.name] for a in (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER))
        probability = predicted[layout.CELL_PROBABILITY.name]
        sections = range(len(labels))
        cells = np.stack([cells_apart(labels[z], border[z]) for z in sections])
        codes = metrics.error_map(cells, probability, t)
        counts = _counts(metrics.error_regions(codes, probability, t))

        places = [(severity, z, window) for z in sections
                  for severity, window in worst_places(codes[z], CLOSE_UP, PLACES)]
        places = sorted(places, key=lambda place: place[0], reverse=True)[:PLACES]
        worst = max(sections, key=lambda z: _severity(codes[z]))
        frames = {str(number): window for number, (_, z, window) in enumerate(places, 1) if z == worst}
        title = f"section {worst + 1} of {len(sections)}"
        title += ", the one with most splits and mergers" if len(sections) > 1 else ""
        overview = Panel(title, *_overview(gray(raw[:, worst]), codes[worst], frames), _legend(counts))
        close_ups = []
        for number, (_, z, window) in enumerate(places, 1):
            found = matched_labels(labels[z], instances(probability[z], t))
            views = gray(raw[:, z]), instances_coloured(labels[z]), instances_coloured(found)
            title = f"{number}. section {z + 1}: {_told(codes[z][window])}"
            close_ups.append(Panel(title, _close_up([view[window] for view in views], codes[z][window])))
    pairs = [close_ups[i:i + 2] for i in range(0, len(close_ups), 2)]
    save_sheet([[overview], *pairs], output, volume=volume, threshold=t,
               title=f"{volume}: errors at threshold {t:.2f}; close-ups beside annotation and segmentation",
               counts=[[NAMES[kind], MEANINGS[kind], COLOURS[kind], *counts[kind]] for kind in COLOURS])


def worst_places(codes: np.ndarray, size: int, number: int) -> list[tuple[Severity, Window]]:
    """Up to `number` windows of `size` px with most errors in `codes` (y, x), and those counted there.

    Greedy: a window is centred where errors lie densest, and what it shows counts nowhere else. Splits and
    mergers come first, because one pixel of them changes which cell a thousand others belong to.
    """
    height, width = codes.shape
    left = codes.copy()
    places: list[tuple[Severity, Window]] = []
    for kinds in (TOPOLOGICAL, tuple(Mismatch)):
        while len(places) < number and (errors := np.isin(left, kinds)).any():
            density = ndimage.gaussian_filter(errors.astype(np.float32), size / 6, mode="constant")
            y, x = np.unravel_index(density.argmax(), density.shape)
            window = _window(int(y), size, height), _window(int(x), size, width)
            places.append((_severity(left[window]), window))
            left[window] = 0
    return places


def _window(centre: int, size: int, length: int) -> slice:
    """`size` px around `centre`, moved into 0..`length`."""
    start = max(min(centre - size // 2, length - size), 0)
    return slice(start, min(start + size, length))


def _severity(codes: np.ndarray) -> Severity:
    return np.count_nonzero(np.isin(codes, TOPOLOGICAL)), np.count_nonzero(codes)


def _counts(regions: pd.DataFrame) -> dict[Mismatch, tuple[int, int]]:
    """Places and pixels of each kind of error in the regions of `metrics.error_regions`."""
    pixels = {kind: regions.pixels[regions.kind == kind.name.lower()] for kind in COLOURS}
    return {kind: (len(found), int(found.sum())) for kind, found in pixels.items()}


def _legend(counts: dict[Mismatch, tuple[int, int]]) -> list[tuple[str, str]]:
    return [(COLOURS[kind], f"{NAMES[kind]}: {places:,} place{'' if places == 1 else 's'}, {pixels:,} px")
            for kind, (places, pixels) in counts.items()]


def _told(codes: np.ndarray) -> str:
    counted = [(NAMES[kind], np.count_nonzero(codes == kind)) for kind in COLOURS]
    return ", ".join(f"{name} {pixels:,} px" for name, pixels in counted if pixels)


def _overview(image: np.ndarray, codes: np.ndarray,
              windows: dict[str, Window]) -> tuple[np.ndarray, list[tuple[int, int, int, int, str]]]:
    """The section with its errors at about `OVERVIEW` px, and the frames of `windows` in it."""
    side = max(codes.shape)
    larger, smaller = max(OVERVIEW // side, 1), math.ceil(side / OVERVIEW)
    shown = error_overlay(magnified(image, larger), magnified(codes, larger), radius=3 * smaller)
    frames = [[edge * larger // smaller for edge in (x.start, y.start, x.stop - x.start, y.stop - y.start)]
              for y, x in windows.values()]
    return shown[::smaller, ::smaller], [(*frame, text) for frame, text in zip(frames, windows, strict=True)]


def _close_up(views: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """The three views beside each other, enlarged, the last one with the errors on it."""
    factor = math.ceil(CLOSE_UP_SHOWN / max(codes.shape))
    raw, annotation, segmentation = (magnified(view, factor) for view in views)
    gap = np.full((len(raw), 8, 3), 255, np.uint8)
    return np.hstack([raw, gap, annotation, gap, error_overlay(segmentation, magnified(codes, factor))])
