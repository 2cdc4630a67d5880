"""Errors of a segmentation: a map of them over the raw image, and close-ups of the worst places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from pipeline_lib import metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.figures.colouring import (
    Window,
    hatch_legend,
    hatched,
    instances_coloured,
    magnified,
    raw_picture,
)
from pipeline_lib.figures.overlay import COLOURS, TOPOLOGICAL, error_overlay
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.figures.stored import consecutive, consistent_probability
from pipeline_lib.figures.volume import LARGEST, describe_middle, matched_labels, middle
from pipeline_lib.kernels.sections import Sections, ignored_pixels, without
from pipeline_lib.metrics import Mismatch
from pipeline_lib.runtime.types import Json, Stored

OVERVIEW = 1024  # px, side of the picture of a whole section
CLOSE_UP = 80  # px of the section
CLOSE_UP_SHOWN = 256  # px
PLACES = 10
REACH = 4  # standard deviations; errors farther away do not contribute to the density of errors

Severity = tuple[int, int]  # pixels of splits and mergers, pixels of all errors; larger is worse


class Count(NamedTuple):
    """Number of errors of one kind, and of their pixels."""

    places: int
    pixels: int


NAMES = {
    Mismatch.SPLIT: "split",
    Mismatch.MERGER: "merger",
    Mismatch.HOLE_ADDITION: "hole added",
    Mismatch.HOLE_DELETION: "hole deleted",
    Mismatch.OBJECT_ADDITION: "object added",
    Mismatch.OBJECT_DELETION: "object deleted",
}
MEANINGS = {
    Mismatch.SPLIT: "predicted background cuts a cell in two",
    Mismatch.MERGER: "a gap in the predicted background joins two cells",
    Mismatch.HOLE_ADDITION: "background is predicted inside a cell",
    Mismatch.HOLE_DELETION: "background inside a cell is missed",
    Mismatch.OBJECT_ADDITION: "a cell is predicted where there is none",
    Mismatch.OBJECT_DELETION: "a cell is missed",
}


def save_error_sheet(
    output: str | Path,
    *,
    raw: Stored,
    labels: Stored,
    border: Stored,
    ignore: Stored | None = None,
    probability: Stored,
    segmented: Stored,
    threshold: float,
    volume: str,
    record: Json,
) -> None:
    """Draw where the segmentation of an annotated volume is wrong, and write it as PNG.

    Errors are the pixels in which truth and segmentation differ after warping (`metrics.error_map`). The
    first picture shows the errors in the worst section. The others are close-ups of the ten worst places of
    the volume, windows of `CLOSE_UP` px, each with raw image, annotation and segmentation. The worst places
    and the worst section have most pixels of splits and mergers; if equal, most pixels of all errors. If a
    side of the sections is longer than `LARGEST` px, only their middle is searched, as the picture states.

    Arrays may be HDF5 datasets. One section is in memory at a time.

    Parameters
    ----------
    output : str or Path
        PNG file to write.
    raw : (c, z, y, x) array
        Raw image.
    labels : (z, y, x) array
        Instance labels of the annotation.
    border : (z, y, x) array
        Separation border of the annotation.
    ignore : (z, y, x) array or None, optional
        Non-zero where a pixel is not annotated. There are no errors there, and it is hatched.
    probability : (z, y, x) array
        Cell probability.
    segmented : (z, y, x) array
        Predicted instance labels.
    threshold : float
        Chosen threshold.
    volume : str
        Name of the volume, for the title.
    record : dict
        Provenance record to store in the picture.
    """
    sections, part = labels.shape[0], middle((labels.shape[1], labels.shape[2]), LARGEST)
    rows, columns = (edge.stop - edge.start for edge in part)
    shape = sections, rows, columns
    places: list[tuple[Severity, int, Window, np.ndarray]] = []
    counts = dict.fromkeys(COLOURS, Count(0, 0))
    worst, worst_codes, worst_severity = 0, np.zeros((rows, columns), np.uint8), (-1, -1)

    def ignored(z: int) -> np.ndarray | None:
        return ignored_pixels(ignore, z, part)

    def annotated(z: int) -> np.ndarray:
        return without(labels[(z, *part)], ignored(z))

    cells = Sections(shape, bool, lambda z: cells_apart(annotated(z), border[(z, *part)]))
    left_out = None if ignore is None else Sections(shape, ignore.dtype, lambda z: ignore[(z, *part)])
    decided = Sections(
        shape,
        probability.dtype,
        lru_cache(maxsize=1)(
            lambda z: consistent_probability(probability[(z, *part)], segmented[(z, *part)], threshold)
        ),
    )
    for z, codes in enumerate(metrics.error_maps(cells, decided, threshold, ignore=left_out)):
        found = _counts(metrics.error_regions(codes, decided[z], threshold))
        counts = {
            kind: Count(before.places + found[kind].places, before.pixels + found[kind].pixels)
            for kind, before in counts.items()
        }
        places += [
            (severity, z, window, codes[window].copy())
            for severity, window in worst_places(codes, CLOSE_UP, PLACES)
        ]
        places = sorted(places, key=lambda place: place[0], reverse=True)[:PLACES]
        if _severity(codes) > worst_severity:
            worst, worst_codes, worst_severity = z, codes, _severity(codes)

    frames = {str(number): window for number, (_, z, window, _) in enumerate(places, 1) if z == worst}
    title = f"section {worst + 1} of {sections}"
    title += ", with the most splits and mergers" if sections > 1 else ""
    searched = (
        "" if worst_codes.shape == labels.shape[1:] else f", only {describe_middle(worst_codes)} of each"
    )
    image = raw_picture(raw[(slice(None), worst, *part)])
    legend = [*_legend(counts), *hatch_legend(ignored(worst))]
    overview = Panel(title + searched, *_overview(image, worst_codes, frames, ignored(worst)), legend)
    close_ups = {}
    for z in {z for _, z, _, _ in places}:
        truth, section, hidden = annotated(z), raw[(slice(None), z, *part)], ignored(z)
        segments = matched_labels(truth, consecutive(segmented[(z, *part)]))
        for number, (_, own, window, codes) in enumerate(places, 1):
            if own == z:
                views = [
                    raw_picture(section, window),
                    *(instances_coloured(a, window) for a in (truth, segments)),
                ]
                title = f"{number}. section {z + 1}: {_pixels_by_kind(codes)}"
                close_ups[number] = Panel(
                    title, close_up(views, codes, None if hidden is None else hidden[window])
                )
    ordered = [close_ups[number] for number in sorted(close_ups)]
    pairs = [ordered[i : i + 2] for i in range(0, len(ordered), 2)]
    save_sheet(
        [[overview], *pairs],
        output,
        volume=volume,
        threshold=threshold,
        title=f"{volume}: errors at threshold {threshold:.2f}. Close-ups: raw, annotation, segmentation",
        part=searched,
        provenance=record,
        counts=[[NAMES[kind], MEANINGS[kind], COLOURS[kind], *counts[kind]] for kind in COLOURS],
    )


def worst_places(codes: np.ndarray, size: int, number: int) -> list[tuple[Severity, Window]]:
    """Find the windows with most errors in one section.

    The search is greedy. A window is centred where the density of errors is highest; its errors are then
    removed, and the search continues. Splits and mergers come first, because one pixel of them changes to
    which cell a thousand others belong.

    Parameters
    ----------
    codes : (y, x) array of uint8
        Kind of error at each pixel (`metrics.Mismatch`), 0 = none.
    size : int
        Side of the windows (px).
    number : int
        Maximum number of windows.

    Returns
    -------
    list of ((int, int), (slice, slice))
        For each window, the pixels of splits and mergers and of all errors that it adds; and its rows and
        columns.
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
            window = around(float(y), size, height), around(float(x), size, width)
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
    """Return `window` extended by `by` px on each side, limited to `shape`."""
    y, x = (
        slice(max(edge.start - by, 0), min(edge.stop + by, length))
        for edge, length in zip(window, shape, strict=True)
    )
    return y, x


def around(centre: float, size: int, length: int) -> slice:
    """Return `size` px around `centre`, shifted to be within 0..`length`.

    Parameters
    ----------
    centre : float
        Row or column in the middle.
    size : int
        Number of rows or columns.
    length : int
        Number of rows or columns of the section.

    Returns
    -------
    slice
        Rows or columns; all of them if there are fewer than `size`.
    """
    start = max(min(int(centre) - size // 2, length - size), 0)
    return slice(start, min(start + size, length))


def _severity(codes: np.ndarray) -> Severity:
    return int(np.count_nonzero(np.isin(codes, TOPOLOGICAL))), int(np.count_nonzero(codes))


def _counts(regions: pd.DataFrame) -> dict[Mismatch, Count]:
    """Count places and pixels of each kind of error in the regions of `metrics.error_regions`."""
    pixels = {kind: regions.pixels[regions.kind == kind.name.lower()] for kind in COLOURS}
    return {kind: Count(len(found), int(found.sum())) for kind, found in pixels.items()}


def _legend(counts: dict[Mismatch, Count]) -> list[tuple[str, str]]:
    return [
        (COLOURS[kind], f"{NAMES[kind]}: {places:,} place{'' if places == 1 else 's'}, {pixels:,} px")
        for kind, (places, pixels) in counts.items()
    ]


def _pixels_by_kind(codes: np.ndarray) -> str:
    counted = [(NAMES[kind], np.count_nonzero(codes == kind)) for kind in COLOURS]
    return ", ".join(f"{name} {pixels:,} px" for name, pixels in counted if pixels)


def _overview(
    image: np.ndarray, codes: np.ndarray, windows: dict[str, Window], ignored: np.ndarray | None
) -> tuple[np.ndarray, list[tuple[int, int, int, int, str]]]:
    """Return the section with its errors, resized to about `OVERVIEW` px, and the frames of `windows`."""
    side = max(codes.shape)
    larger, smaller = max(OVERVIEW // side, 1), math.ceil(side / OVERVIEW)
    shown = hatched(magnified(image, larger), ignored, scale=smaller)
    shown = error_overlay(shown, magnified(codes, larger), radius=3 * smaller)
    frames = [
        [edge * larger // smaller for edge in (x.start, y.start, x.stop - x.start, y.stop - y.start)]
        for y, x in windows.values()
    ]
    return shown[::smaller, ::smaller], [(*frame, text) for frame, text in zip(frames, windows, strict=True)]


def close_up(
    views: Sequence[np.ndarray],
    codes: np.ndarray,
    ignored: np.ndarray | None,
    colours: Mapping[Any, str] = COLOURS,
) -> np.ndarray:
    """Return three enlarged views next to each other, with the errors marked on the last one.

    Parameters
    ----------
    views : sequence of (y, x, 3) array of uint8
        Raw image, annotation and segmentation of the same window, RGB.
    codes : (y, x) array of uint8
        Kind of error at each pixel, 0 = none.
    ignored : (y, x) array of bool or None
        Pixels that are not annotated, which are hatched. None if all are annotated.
    colours : mapping of int to str, default overlay.COLOURS
        Colour of each kind.

    Returns
    -------
    (h, w, 3) array of uint8
        Picture, about three times `CLOSE_UP_SHOWN` px wide.
    """
    factor = math.ceil(CLOSE_UP_SHOWN / max(codes.shape))
    raw, annotation, segmentation = (magnified(view, factor) for view in views)
    annotation, segmentation = hatched(annotation, ignored), hatched(segmentation, ignored)
    gap = np.full((len(raw), 8, 3), 255, np.uint8)
    return np.hstack(
        [raw, gap, annotation, gap, error_overlay(segmentation, magnified(codes, factor), colours=colours)]
    )
