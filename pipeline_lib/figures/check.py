"""Pictures of the check: the outlines of annotated cells on the image, and histograms of gray levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from pipeline_lib.figures.colouring import (
    hatch_legend,
    hatched,
    instances_coloured,
    magnified,
    outline_overlay,
)
from pipeline_lib.figures.palette import BLUE, GREEN, ORANGE, PURPLE, VERMILLION
from pipeline_lib.figures.parts import SMALLEST, WINDOW, middle_shown
from pipeline_lib.figures.sheet import INK, STYLE, Panel, new_figure, save_png, save_sheet
from pipeline_lib.runtime.types import Json, Stored

OUTLINE = ORANGE
CHART = 720, 420  # px
MOST_CURVES = 300  # in a chart; of more volumes, every second, third ... is drawn
TINT = 0.3  # share of the colour of a cell
SPLITS = {"train": BLUE, "validation": GREEN, "test": VERMILLION, "predict": PURPLE}


def save_check_picture(
    output: str | Path,
    *,
    raw: Stored,
    labels: Stored | None,
    ignore: Stored | None,
    z: int,
    volume: str,
    split: str,
) -> None:
    """Draw one section with the outline of every annotated cell, and write it as PNG.

    Cells are tinted, so that one sees on which side of the outline they are, and which ones share a label.
    Pixels that are not annotated are hatched. Of a large section, a window of `WINDOW` px in its middle is
    shown, with the contrast of its middle `LARGEST` px. Arrays may be HDF5 datasets; only this is read.

    Parameters
    ----------
    output : str or Path
        PNG file to write.
    raw : (c, z, y, x) array
        Raw image.
    labels : (z, y, x) array or None
        Instance labels of the annotation. None without annotation.
    ignore : (z, y, x) array or None
        Pixels that are not annotated. None if all are.
    z : int
        Section to draw.
    volume, split : str
        Name and split of the volume, for the title.
    """
    sections, height, width = raw.shape[1:]
    image, place = middle_shown(raw, z)
    factor = math.ceil(SMALLEST / max(image.shape[:2]))
    image = magnified(image, factor)
    legend: list[tuple[str | None, str]] = []
    if labels is not None:
        shown = labels[(z, *place)]
        cells = magnified(shown, factor)
        tinted = (1 - TINT) * image + TINT * instances_coloured(cells)
        image = np.where((cells > 0)[..., None], tinted, image).astype(np.uint8)
        image = outline_overlay(image, cells, OUTLINE)
        count = np.count_nonzero(np.unique(shown))
        legend = [(OUTLINE, f"{count:,} annotated cell{'' if count == 1 else 's'}")]
    if ignore is not None:
        ignored = ignore[(z, *place)] > 0
        image = hatched(image, ignored)
        legend += hatch_legend(ignored)
    shown_gray = raw[(slice(None), z, *place)]
    legend.append((None, f"gray levels {shown_gray.min():g} to {shown_gray.max():g}"))
    size = f"{'' if max(height, width) <= WINDOW else 'the middle of '}{height} x {width} px"
    title = f"{volume}: section {z + 1} of {sections}" if sections > 1 else volume
    panel = Panel(title, image, legend=[*legend, (None, f"{split} split, {size}")])
    save_sheet([[panel]], output, title=volume, volume=volume)


def save_gray_chart(
    curves: Sequence[tuple[str, str, np.ndarray, np.ndarray]],
    output: str | Path,
    *,
    marked: Sequence[str],
    record: Json,
) -> None:
    """Draw the histograms of the gray levels of all volumes in one chart, and write it as PNG.

    Parameters
    ----------
    curves : sequence of (str, str, array, array)
        For each volume its name, its split, the edges of the bins (gray levels), and the share of its pixels
        in each bin.
    output : str or Path
        PNG file to write.
    marked : sequence of str
        Volumes that are drawn thick and named in the legend.
    record : dict
        Provenance record to store in the picture.
    """
    with matplotlib.rc_context(STYLE):
        figure = new_figure(*CHART)
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        faint = max(0.1, min(1.0, 6 / len(curves)))
        seen: set[str] = set()
        for _, split, edges, share in curves[:: -(-len(curves) // MOST_CURVES)]:
            label = None if split in seen else split
            seen.add(split)
            axes.plot(*_curve(edges, share), color=SPLITS[split], alpha=faint, linewidth=2, label=label)
        for line, name in zip(("--", ":", "-."), marked, strict=False):
            _, _, edges, share = next(curve for curve in curves if curve[0] == name)
            axes.plot(*_curve(edges, share), color=INK, linewidth=3, linestyle=line, label=name)
        axes.set(xlabel="gray level", ylabel="share of the pixels (logarithmic)", yscale="log")
        axes.set_yticks([])
        legend = figure.legend(loc="outside upper left", ncols=3)
        for handle in legend.get_lines():
            handle.set_alpha(1)
        save_png(figure, output, {"title": "Gray levels of all volumes", "provenance": record})


def _curve(edges: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the bins that are not empty, and the share of the pixels per gray level."""
    middles = (edges[1:] + edges[:-1]) / 2
    return middles[share > 0], (share / np.diff(edges))[share > 0]
