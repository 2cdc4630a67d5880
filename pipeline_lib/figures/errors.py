"""Where the errors are: the error map over the raw image, and its worst places as close-ups."""

from __future__ import annotations

import math
from functools import lru_cache
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline_lib import metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.figures.colouring import Window, gray, instances_coloured, magnified
from pipeline_lib.figures.overlay import COLOURS, TOPOLOGICAL, error_overlay
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.figures.stored import consecutive, consistent_probability
from pipeline_lib.figures.volume import LARGEST, matched_labels, middle, told
from pipeline_lib.kernels.sections import Sections
from pipeline_lib.metrics import Mismatch

OVERVIEW = 1024  # px, side of the picture of a whole section
CLOSE_UP = 80  # px of the section
CLOSE_UP_SHOWN = 256  # px
PLACES = 10
REACH = 4  # standard deviations; errors farther away count nothing in the density of errors

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


def save_error_sheet(
    output: Path,
    *,
    raw: np.ndarray,
    labels: np.ndarray,
    border: np.ndarray,
    probability: np.ndarray,
    segmented: np.ndarray,
    threshold: float,
    volume: str,
    record: dict[str, Any],
) -> None:
    """Write the error map of an annotated volume over its worst section, and its ten worst places (PNG).

    Errors are the pixels in which truth and segmentation differ after warping (`metrics.error_map`). The
    worst places are windows of `CLOSE_UP` px, shown beside annotation and segmentation. Worst means most
    splits and mergers, then most other errors; the section is chosen so, too. If a side of the sections is
    longer than `LARGEST` px, only their middle is searched, and the picture says so.

    An array can be an HDF5 dataset. One section is held at a time.

    Parameters
    ----------
    output : Path
        The file to write.
    raw : array
        Raw image (c, z, y, x).
    labels, border : array
        Instance labels and separation border of the annotation (z, y, x).
    probability, segmented : array
        Cell probability and predicted instance labels (z, y, x).
    threshold : float
        Chosen threshold.
    volume : str
        Name of the volume, for the title.
    record : dict
        What the picture carries as its `provenance`.
    """
    sections, part = len(labels), middle(labels.shape[1:], LARGEST)
    places, worst, worst_codes, counts = [], 0, None, dict.fromkeys(COLOURS, (0, 0))
    shape = sections, *(edge.stop - edge.start for edge in part)
    cells = Sections(shape, bool, lambda z: cells_apart(labels[(z, *part)], border[(z, *part)]))
    decided = Sections(
        shape,
        probability.dtype,
        lru_cache(maxsize=1)(
            lambda z: consistent_probability(probability[(z, *part)], segmented[(z, *part)], threshold)
        ),
    )
    for z, codes in enumerate(metrics.error_maps(cells, decided, threshold)):
        found = _counts(metrics.error_regions(codes, decided[z], threshold))
        counts = {kind: tuple(map(add, counts[kind], found[kind])) for kind in COLOURS}
        places += [
            (severity, z, window, codes[window].copy())
            for severity, window in worst_places(codes, CLOSE_UP, PLACES)
        ]
        places = sorted(places, key=lambda place: place[0], reverse=True)[:PLACES]
        if worst_codes is None or _severity(codes) > _severity(worst_codes):
            worst, worst_codes = z, codes

    frames = {str(number): window for number, (_, z, window, _) in enumerate(places, 1) if z == worst}
    title = f"section {worst + 1} of {sections}"
    title += ", the one with most splits and mergers" if sections > 1 else ""
    alone = "" if worst_codes.shape == labels.shape[1:] else f", only {told(worst_codes)} of each"
    image = gray(raw[(slice(None), worst, *part)])
    overview = Panel(title + alone, *_overview(image, worst_codes, frames), _legend(counts))
    close_ups = {}
    for z in {z for _, z, _, _ in places}:
        truth, section = labels[(z, *part)], raw[(slice(None), z, *part)]
        found = matched_labels(truth, consecutive(segmented[(z, *part)]))
        for number, (_, own, window, codes) in enumerate(places, 1):
            if own == z:
                views = [gray(section, window), *(instances_coloured(a, window) for a in (truth, found))]
                title = f"{number}. section {z + 1}: {_told(codes)}"
                close_ups[number] = Panel(title, _close_up(views, codes))
    ordered = [close_ups[number] for number in sorted(close_ups)]
    pairs = [ordered[i : i + 2] for i in range(0, len(ordered), 2)]
    save_sheet(
        [[overview], *pairs],
        output,
        volume=volume,
        threshold=threshold,
        title=f"{volume}: errors at threshold {threshold:.2f}; close-ups beside annotation and segmentation",
        part=alone,
        provenance=record,
        counts=[[NAMES[kind], MEANINGS[kind], COLOURS[kind], *counts[kind]] for kind in COLOURS],
    )


def worst_places(codes: np.ndarray, size: int, number: int) -> list[tuple[Severity, Window]]:
    """Up to `number` windows of `size` px with most errors in `codes` (y, x), and those counted there.

    Greedy: a window is centred where errors lie densest, and what it shows counts nowhere else. Splits and
    mergers come first, because one pixel of them changes which cell a thousand others belong to.
    """
    height, width = codes.shape
    left = codes.copy()
    places: list[tuple[Severity, Window]] = []
    reach = math.ceil(REACH * size / 6)
    for kinds in (TOPOLOGICAL, tuple(Mismatch)):
        if len(places) == number or not (errors := np.isin(left, kinds)).any():
            continue
        density = _density(errors, size)
        while len(places) < number and errors.any():
            y, x = np.unravel_index(density.argmax(), density.shape)
            window = _window(int(y), size, height), _window(int(x), size, width)
            places.append((_severity(left[window]), window))
            left[window] = 0
            errors[window] = False
            changed, read = (_grown(window, by, codes.shape) for by in (reach, 2 * reach))
            inside = tuple(
                slice(a.start - b.start, a.stop - b.start) for a, b in zip(changed, read, strict=True)
            )
            density[changed] = _density(errors[read], size)[inside]
    return places


def _density(errors: np.ndarray, size: int) -> np.ndarray:
    return ndimage.gaussian_filter(errors.astype(np.float32), size / 6, mode="constant", truncate=REACH)


def _grown(window: Window, by: int, shape: tuple[int, int]) -> Window:
    """`window` with `by` px around it, within `shape`."""
    y, x = (
        slice(max(edge.start - by, 0), min(edge.stop + by, length))
        for edge, length in zip(window, shape, strict=True)
    )
    return y, x


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
    return [
        (COLOURS[kind], f"{NAMES[kind]}: {places:,} place{'' if places == 1 else 's'}, {pixels:,} px")
        for kind, (places, pixels) in counts.items()
    ]


def _told(codes: np.ndarray) -> str:
    counted = [(NAMES[kind], np.count_nonzero(codes == kind)) for kind in COLOURS]
    return ", ".join(f"{name} {pixels:,} px" for name, pixels in counted if pixels)


def _overview(
    image: np.ndarray, codes: np.ndarray, windows: dict[str, Window]
) -> tuple[np.ndarray, list[tuple[int, int, int, int, str]]]:
    """The section with its errors at about `OVERVIEW` px, and the frames of `windows` in it."""
    side = max(codes.shape)
    larger, smaller = max(OVERVIEW // side, 1), math.ceil(side / OVERVIEW)
    shown = error_overlay(magnified(image, larger), magnified(codes, larger), radius=3 * smaller)
    frames = [
        [edge * larger // smaller for edge in (x.start, y.start, x.stop - x.start, y.stop - y.start)]
        for y, x in windows.values()
    ]
    return shown[::smaller, ::smaller], [(*frame, text) for frame, text in zip(frames, windows, strict=True)]


def _close_up(views: list[np.ndarray], codes: np.ndarray) -> np.ndarray:
    """The three views beside each other, enlarged, the last one with the errors on it."""
    factor = math.ceil(CLOSE_UP_SHOWN / max(codes.shape))
    raw, annotation, segmentation = (magnified(view, factor) for view in views)
    gap = np.full((len(raw), 8, 3), 255, np.uint8)
    return np.hstack([raw, gap, annotation, gap, error_overlay(segmentation, magnified(codes, factor))])
