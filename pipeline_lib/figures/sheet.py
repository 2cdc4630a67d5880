"""Sheets of titled panels: PNG files that are complete pictures and also describe where their panels are."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from pipeline_lib.figures.colouring import Scale, coloured
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Sizes in px of the PNG file. Pages show it at about two thirds of its size.
DPI = 100
FONT = 20
LINE = 30
MARGIN = 24
GAP = 8
LEGEND_COLUMN = 400
LETTER = 13  # of the title, on average
INK, FAINT_INK, GRID, PAPER = "#1b1f24", "#57606a", "#e4e7eb", "#ffffff"

STYLE: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so letters are the same on every machine
    "font.size": FONT * 72 / DPI,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT_INK,
    "xtick.color": FAINT_INK,
    "ytick.color": FAINT_INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": "medium",
    "lines.linewidth": 2.5,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Panel:
    """A picture with a title and a legend.

    Parameters
    ----------
    title : str
        Text above the picture.
    image : (y, x, 3) array of uint8
        The picture, RGB, drawn without interpolation.
    legend : sequence of (str or None, str)
        Lines below the picture: colour or None, and text.
    """

    title: str
    image: np.ndarray
    legend: Sequence[tuple[str | None, str]] = ()

    @property
    def width(self) -> int:
        """Width of picture and legend (px)."""
        return max(self.image.shape[1], LEGEND_COLUMN)

    @property
    def legend_columns(self) -> int:
        """Number of columns of the legend."""
        return self.width // LEGEND_COLUMN

    @property
    def height(self) -> int:
        """Height of title, picture and legend (px)."""
        legend = LINE * math.ceil(len(self.legend) / self.legend_columns)
        return LINE + GAP + self.image.shape[0] + GAP + legend


def save_sheet(rows: Sequence[Sequence[Panel]], output: str | Path, *, title: str, **facts: Any) -> None:
    """Write rows of panels as one PNG file that describes itself.

    Parameters
    ----------
    rows : sequence of sequence of Panel
        Panels, row by row.
    output : str or Path
        PNG file to write.
    title : str
        Text above the panels.
    **facts
        Further entries of the description, which `describe` returns. They must be valid in JSON.
    """
    widths = [sum(panel.width + MARGIN for panel in row) for row in rows]
    width = max([*widths, LETTER * len(title) + MARGIN]) + MARGIN
    height = 2 * MARGIN + LINE + sum(max(panel.height for panel in row) + MARGIN for row in rows)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, height)
        _text(figure, MARGIN, MARGIN, title, weight="bold")
        places, top = [], 2 * MARGIN + LINE
        for row in rows:
            left = MARGIN
            for panel in row:
                places.append(_draw_panel(figure, panel, left, top))
                left += panel.width + MARGIN
            top += max(panel.height for panel in row) + MARGIN
        save_png(figure, output, {"title": title, "size": [width, height], "panels": places, **facts})


def new_figure(width: int, height: int) -> Figure:
    """Return an empty figure of `width` x `height` px, without the global state of pyplot."""
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, output: str | Path, description: Json) -> None:
    """Write `figure` as PNG with `description` inside, and without anything that differs between runs."""
    with replacing(output) as temporary:
        metadata = {"Software": None, "Description": json.dumps(description)}
        figure.savefig(temporary, dpi=DPI, metadata=metadata)


def save_chart(figure: Figure, output: str | Path, description: Json) -> None:
    """Write a chart as SVG with `description` inside, and without anything that differs between runs.

    Text stays text. The colours of ink and lines are those of the page that contains the chart, if it defines
    the CSS variables `--ink`, `--faint` and `--line`.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The chart.
    output : str or Path
        SVG file to write.
    description : dict
        What `figures.describe` returns. It must be valid in JSON.
    """
    with (
        replacing(output) as temporary,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bordure"}),
    ):
        metadata = {"Date": None, "Creator": None, "Description": json.dumps(description)}
        figure.savefig(temporary, format="svg", metadata=metadata, transparent=True)
        text = temporary.read_text(encoding="utf-8")
        for colour, name in ((INK, "ink"), (FAINT_INK, "faint"), (GRID, "line"), (PAPER, "paper")):
            text = text.replace(f": {colour}", f": var(--{name}, {colour})")
        temporary.write_text(text, encoding="utf-8")


def _draw_panel(figure: Figure, panel: Panel, left: int, top: int) -> Json:
    """Draw one panel and return its description."""
    _text(figure, left, top, panel.title)
    top += LINE + GAP
    height, width = panel.image.shape[:2]
    bottom = figure.bbox.height - top - height
    figure.figimage(panel.image, left, bottom, origin="upper")
    box = [left, top, width, height]
    top += height + GAP
    for index, (colour, text) in enumerate(panel.legend):
        x = left + panel.width // panel.legend_columns * (index % panel.legend_columns)
        y = top + LINE * (index // panel.legend_columns)
        if colour:
            _text(figure, x, y, "\N{BLACK SQUARE}", color=colour, rim=1.5)
        _text(figure, x + (26 if colour else 0), y, text, color=FAINT_INK)
    return {"title": panel.title, "box": box, "legend": list(map(list, panel.legend))}


def colours_of(scale: Scale) -> list[str]:
    """Return 11 colours of `scale`, enough to draw it as a gradient."""
    return [to_hex(colour / 255) for colour in coloured(np.linspace(scale.low, scale.high, 11), scale)]


def _text(figure: Figure, x: float, y: float, text: str, rim: float = 0, **style: Any) -> None:
    across, up = figure.bbox.size
    if rim:
        style["path_effects"] = [withStroke(linewidth=rim, foreground=INK)]
    figure.text(x / across, 1 - y / up, text, va="top", parse_math=False, **style)
