"""Draw the picture of docs/explanation/weight-map.md: `PYTHONPATH=. python docs/draw_weight_map.py`.

Two cells that touch and a third one nearby: annotation, separation border, target and weights, all computed
by the library, and the weights along one row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

from pipeline_lib.data.labels import separation_border
from pipeline_lib.figures.palette import BLUE, ORANGE, SKY, VERMILLION
from pipeline_lib.tasks.segmentation.classes import class_frequencies, count_classes, target_class
from pipeline_lib.tasks.segmentation.weights import class_weights, weight_map

matplotlib.use("Agg")

IMAGE = Path(__file__).parent / "images" / "weight_map.png"
SIZE = (48, 76)
ROW = 23  # the row whose weights are drawn as a curve
W0, SIGMA, BORDER_WIDTH = 10.0, 5.0, 2
PAPER, INK = "#E8E8E8", "#333333"


def draw_labels() -> np.ndarray:
    """Instance labels (y, x): cells 1 and 2 touch, cell 3 is 6 px away from cell 2."""
    y, x = np.indices(SIZE)
    labels = np.zeros(SIZE, np.uint16)
    labels[((y - 24) / 17) ** 2 + ((x - 20) / 14) ** 2 < 1] = 1
    labels[(((y - 22) / 15) ** 2 + ((x - 41) / 13) ** 2 < 1) & (x > 30)] = 2
    labels[((y - 25) / 13) ** 2 + ((x - 67) / 7) ** 2 < 1] = 3
    return labels


def show(axes: Axes, image: np.ndarray, title: str, **settings: Any) -> None:
    """Show an image without ticks, the row of the curve marked by a dashed line."""
    axes.imshow(image, interpolation="nearest", **settings)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=11, loc="left")


def main() -> None:
    labels = draw_labels()
    border = separation_border(labels, BORDER_WIDTH)
    target = target_class(labels, border)
    w_c = class_weights(class_frequencies(count_classes([(labels[None], border[None], None, None)])))
    weights = weight_map(np.where(border, 0, labels), w_c, W0, SIGMA)

    figure, axes = plt.subplot_mosaic(
        [["annotation", "border"], ["target", "weights"], ["curve", "curve"]],
        figsize=(7.2, 6.6),
        height_ratios=(1, 1, 0.85),
        layout="constrained",
    )
    cells = ListedColormap([PAPER, SKY, ORANGE, BLUE])
    show(axes["annotation"], labels, "1  annotation", cmap=cells)
    with_border = ListedColormap([PAPER, SKY, ORANGE, BLUE, INK])
    show(axes["border"], np.where(border, 4, labels), "2  separation border (dark)", cmap=with_border)
    two_classes = ListedColormap([INK, PAPER])
    show(axes["target"], target, "3  classes to learn", cmap=two_classes)
    show(axes["weights"], weights, "4  weight map", cmap="viridis", vmin=0)
    axes["weights"].axhline(ROW, color="white", linestyle="--", linewidth=1.2)
    figure.colorbar(axes["weights"].images[0], ax=axes["weights"], shrink=0.85, label="weight")

    curve = axes["curve"]
    columns = np.arange(SIZE[1])
    curve.step(columns, weights[ROW], where="mid", color=INK, linewidth=1.8)
    for value, name, place in (
        (w_c[0], "w_c of background", (1, w_c[0] - 0.7)),
        (w_c[1], "w_c of cell", (8, w_c[1] + 0.2)),
    ):
        curve.axhline(value, color=VERMILLION, linestyle=":", linewidth=1.2)
        curve.text(*place, name, fontsize=10, color=VERMILLION)
    gap = np.flatnonzero(border[ROW])
    curve.annotate(
        "border between\ntouching cells",
        (gap.mean(), weights[ROW, gap].max()),
        (gap.mean() - 5, weights[ROW, gap].max() - 1.2),
        ha="right",
        va="center",
        fontsize=10,
        arrowprops={"arrowstyle": "->"},
    )
    wide = np.flatnonzero((labels[ROW] == 0) & (columns > 41) & (columns < 67))
    curve.annotate(
        "wider gap",
        (wide.mean(), weights[ROW, wide].min()),
        (wide.mean() - 3.5, weights[ROW, wide].max() + 2),
        ha="right",
        va="center",
        fontsize=10,
        arrowprops={"arrowstyle": "->"},
    )
    curve.set(
        xlim=(0, SIZE[1] - 1), ylim=(0, None), xlabel="column (px), along the dashed line", ylabel="weight"
    )
    curve.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGE, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
