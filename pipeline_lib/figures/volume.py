"""One section of a volume at all stages, from raw image to segmentation, as a row of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib import metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.figures.colouring import (
    Scale,
    Window,
    classes_coloured,
    coloured,
    hatch_legend,
    hatched,
    instances_coloured,
    magnified,
    raw_picture,
    rgb,
)
from pipeline_lib.figures.overlay import COLOURS, TOPOLOGICAL, error_overlay, outline_overlay
from pipeline_lib.figures.palette import BACKGROUND, BLUE, ORANGE, class_colours
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.figures.stored import consecutive, consistent_probability
from pipeline_lib.kernels.sections import ignored_pixels, without
from pipeline_lib.metrics.contingency import count_pairs
from pipeline_lib.runtime.types import Json, Stored

LARGEST = 4096  # px; of larger sections only the middle is evaluated, to limit the memory
WINDOW = 512  # px; of larger sections only the middle is shown, so that membranes are visible
SMALLEST = 400  # px; smaller sections are magnified
RESULTS = 3  # first pictures, which show what was found; the others show how
ANNOTATED, FOUND = ORANGE, BLUE  # colours of outlines


def save_volume_strip(
    output: str | Path,
    *,
    raw: Stored,
    labels: Stored | None,
    border: Stored | None,
    ignore: Stored | None = None,
    weights: Stored | None,
    probability: Stored,
    segmented: Stored,
    threshold: float,
    volume: str,
    split: str,
    record: Json,
    classes: Sequence[str] = (),
    target: Stored | None = None,
    class_map: Stored | None = None,
    disagreement: Stored | None = None,
) -> None:
    """Draw the middle section of a volume as two rows of pictures, and write it as PNG.

    If nothing is annotated in the middle section, the nearest one with annotated pixels is drawn.

    The pictures are raw image, outlines of the cells that were found and annotated, segmentation, annotation,
    separation border, weight map, cell probability and, of an ensemble, the disagreement of its members.
    Without annotation or weight map there are fewer. A segment has the colour of the annotated cell with
    which it shares most pixels, so a difference in colour is an error. If a side of the section is longer
    than `LARGEST`, gray range and errors are those of its middle.

    Arrays may be HDF5 datasets. Only one section is read, or its middle.

    Parameters
    ----------
    output : str or Path
        PNG file to write.
    raw : (c, z, y, x) array
        Raw image.
    labels : (z, y, x) array or None
        Instance labels of the annotation. None without annotation.
    border : (z, y, x) array or None
        Separation border of the annotation. None without annotation.
    ignore : (z, y, x) array or None, optional
        Non-zero where a pixel is not annotated. Such pixels are hatched in the pictures of truth and errors.
    weights : (z, y, x) array or None
        Weight map. None if there is none.
    probability : (z, y, x) array
        Cell probability.
    segmented : (z, y, x) array
        Predicted instance labels.
    threshold : float
        Chosen threshold, which is marked in the scale of the probability.
    volume, split : str
        Name and split of the volume, for the title.
    record : dict
        Provenance record to store in the picture.
    classes : sequence of str, optional
        Name of each class. With it, a further row shows the classes of the annotation and those found.
    target, class_map : (z, y, x) array, optional
        Number of the annotated and of the predicted class of each pixel.
    disagreement : (z, y, x) array, optional
        Disagreement of the members of an ensemble, for a further picture.
    """
    sections, height, width = probability.shape
    part = middle((height, width), LARGEST)
    z = _annotated_section(ignore, sections, part)
    shown_probability: np.ndarray = probability[(z, *part)]
    found = consecutive(segmented[(z, *part)])
    window = middle((shown_probability.shape[0], shown_probability.shape[1]), WINDOW)  # within `part`
    factor = math.ceil(SMALLEST / max(edge.stop - edge.start for edge in window))
    panels: list[Panel] = []

    ignored = ignored_pixels(ignore, z, part)
    hidden = None if ignored is None else ignored[window]

    def add(
        title: str, image: np.ndarray, *legend: tuple[str | None, str], scale: Scale | None = None
    ) -> None:
        panels.append(Panel(title, magnified(image, factor), legend=legend, scale=scale))

    def hatch() -> None:
        """Hatch the pixels of the last panel that are not annotated."""
        panel = panels[-1]
        legend = [*panel.legend, *hatch_legend(hidden)]
        panels[-1] = replace(panel, image=hatched(panel.image, hidden), legend=legend)

    size = ("" if max(height, width) <= WINDOW else "the middle of ") + f"{height} x {width} px"
    picture = raw_picture(raw[(slice(None), z, *part)], window)
    add("raw image", picture, (None, size))
    cut = shown_probability.shape != (height, width)
    note = ((None, f"found in {describe_middle(shown_probability)}"),) if cut else ()
    outlined = [(found, FOUND, f"found: {_counted(found[window])}")]
    annotated = labels is not None and border is not None
    if labels is not None and border is not None:
        truth, separating = without(labels[(z, *part)], ignored), border[(z, *part)]
        outlined = [(truth, ANNOTATED, f"annotated: {_counted(truth[window])}"), *outlined]
    title = "cells found and annotated" if annotated else "cells found"
    add(title, picture, *((colour, text) for _, colour, text in outlined))
    lines = [(magnified(own[window], factor), colour) for own, colour, _ in outlined]
    panels[-1] = replace(panels[-1], image=outline_overlay(panels[-1].image, *lines))
    if annotated:
        hatch()
        decided = consistent_probability(shown_probability, found, threshold)
        cells = cells_apart(truth, separating)
        codes = metrics.error_map(cells, decided, threshold, ignore=ignored)[window]
        codes[~np.isin(codes, TOPOLOGICAL)] = 0
        counts = [(COLOURS[k], f"{k.name.lower()}s: {(codes == k).sum():,} px") for k in TOPOLOGICAL]
        add("segmentation", instances_coloured(matched_labels(truth, found), window), *counts, *note)
        hatch()
        marked = error_overlay(panels[-1].image, magnified(codes, factor))
        panels[-1] = replace(panels[-1], image=marked)
        add("annotation", instances_coloured(truth, window), (None, _counted(truth[window])))
        hatch()
        touching = f"{np.count_nonzero(separating[window]):,} px between touching cells"
        add("separation border", _bordered(truth[window], separating[window]), (ORANGE, touching))
        hatch()
    else:
        add("segmentation", instances_coloured(found, window), (None, _counted(found[window])), *note)
    for heading, numbers in (("classes annotated", target), ("classes found", class_map)):
        if numbers is not None:
            shown = numbers[(z, *part)][window]
            add(heading, classes_coloured(shown, len(classes)), *_class_legend(shown, classes))
            if numbers is target:
                hatch()
    place = tuple(slice(a.start + b.start, a.start + b.stop) for a, b in zip(part, window, strict=True))
    if weights is not None:
        shown_weights = weights[(z, *place)]
        scale = Scale("viridis", 0, float(shown_weights.max()), "loss weight")
        add("weight map", coloured(shown_weights, scale), scale=scale)
        hatch()
    scale = Scale("gray", 0, 1, f"threshold {threshold:.2f}", mark=threshold)
    add("cell probability", coloured(shown_probability[window], scale), scale=scale)
    if disagreement is not None:
        scale = Scale("magma", 0, 0.5, "standard deviation of the members")
        add("disagreement", coloured(disagreement[(z, *place)], scale), scale=scale)
    title = f"{volume}: section {z + 1} of {sections}, {split} split"
    rows = [panels[:RESULTS], panels[RESULTS:]] if annotated else [panels]
    facts: Json = {"volume": volume, "provenance": record}
    if classes:  # in a row of their own
        of_classes = [panel for panel in panels if panel.title.startswith("classes ")]
        rows = [[panel for panel in row if not panel.title.startswith("classes ")] for row in rows]
        rows.insert(1, of_classes)
        facts["row_lengths"] = [*map(len, rows)]
    save_sheet(rows, output, title=title, **facts)


def _annotated_section(ignore: Stored | None, sections: int, part: Window) -> int:
    """Return the section with annotated pixels that is nearest to the middle; the middle one if none has."""
    for z in sorted(range(sections), key=lambda z: abs(z - sections // 2)):
        ignored = ignored_pixels(ignore, z, part)
        if ignored is None or not ignored.all():
            return z
    return sections // 2


def middle(shape: tuple[int, int], size: int) -> Window:
    """Return the rows and columns in the middle of a section.

    Parameters
    ----------
    shape : (int, int)
        Shape of the section (y, x).
    size : int
        Largest number of rows and of columns (px).

    Returns
    -------
    (slice, slice)
        Rows and columns.

    Examples
    --------
    >>> from pipeline_lib.figures.volume import middle
    >>> middle((10, 3), 4)
    (slice(3, 7, None), slice(0, 3, None))
    """
    starts = [max(length - size, 0) // 2 for length in shape]
    y, x = (slice(start, min(start + size, length)) for start, length in zip(starts, shape, strict=True))
    return y, x


def describe_middle(part: np.ndarray) -> str:
    """Return the size of a part that `middle` selected, as text."""
    return "the middle {:,} x {:,} px".format(*part.shape)


def matched_labels(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Rename each segment to the annotated cell with which it shares most pixels.

    Segments that share pixels only with the background get labels that no cell has.

    Parameters
    ----------
    labels : (y, x) array of int
        Annotated instance labels, 0 = background.
    found : (y, x) array of int
        Segments 0..n, 0 = background.

    Returns
    -------
    (y, x) array of int64
        Segments with their new labels.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.volume import matched_labels
    >>> matched_labels(np.array([[7, 7, 7, 7, 0, 0]]), np.array([[1, 1, 0, 2, 0, 3]]))
    array([[ 7,  7,  0,  7,  0, 10]])
    """
    names = np.arange(found.max() + 1, dtype=np.int64) + int(labels.max())
    names[0] = 0
    table = count_pairs(np.ascontiguousarray(labels, np.int32), np.ascontiguousarray(found, np.int32))
    for entry in np.lexsort((table.truth, table.count)):
        if table.truth[entry] and table.predicted[entry]:
            names[table.predicted[entry]] = table.truth[entry]  # the last one is the one with most pixels
    return names[found]


def _bordered(labels: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Return cells in gray and their separation border in colour, RGB."""
    image = np.where((labels > 0)[..., None], rgb("lightgray"), rgb(BACKGROUND))
    image[border > 0] = rgb(ORANGE)
    return image


def _class_legend(numbers: np.ndarray, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the colour of each class, and its number, name and share of the pixels."""
    shares = np.bincount(numbers.ravel(), minlength=len(names)) / numbers.size
    lines = (f"{number} {name}: {100 * shares[number]:.1f} %" for number, name in enumerate(names))
    return [*zip(class_colours(len(names)), lines, strict=True)]


def _counted(labels: np.ndarray) -> str:
    """Return the number of cells, as text."""
    count = np.count_nonzero(np.unique(labels))
    return f"{count:,} cell{'' if count == 1 else 's'}"
