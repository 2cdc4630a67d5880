"""Draw the picture of docs/explanation/architecture.md: `PYTHONPATH=. python docs/draw_workflow.py`.

The stages of a run as boxes, and the files that they exchange on the arrows between them.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from pipeline_lib.figures.palette import BLUE

matplotlib.use("Agg")

PICTURE = Path(__file__).parent / "images" / "workflow.png"
WIDTH, HEIGHT = 2.5, 0.62
STAGES = {  # name -> centre; y grows upwards
    "dataset": (1.5, 5.0),
    "weight map": (5.0, 5.0),
    "check": (5.0, 4.0),
    "training": (8.5, 4.0),
    "prediction": (1.5, 3.0),
    "post-processing": (5.0, 2.0),
    "segmentation": (1.5, 1.0),
    "scores, pictures": (5.0, 0.0),
    "report": (8.5, 0.0),
}
FILES = {  # name -> left end
    "dataset/*.h5": (1.62, 4.45),
    "weight_map/*.h5": (6.35, 5.2),
    "models/unet/model.pt": (4.6, 3.2),
    "prediction/unet/*.h5": (1.62, 2.45),
    "postprocessing/unet.json": (5.12, 1.3),
    "segmentation/unet/*.h5": (1.62, 0.45),
}


def draw_box(axes: Axes, text: str, centre: tuple[float, float], colour: str) -> None:
    """Draw a rounded box with a text."""
    x, y = centre
    corner = (x - WIDTH / 2, y - HEIGHT / 2)
    axes.add_patch(
        FancyBboxPatch(corner, WIDTH, HEIGHT, "round,pad=0,rounding_size=0.12", fc=colour, ec="none")
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=12, color="white", weight="bold")


def draw_arrow(axes: Axes, *points: tuple[float, float]) -> None:
    """Draw an arrow along `points`."""
    for start, end in itertools.pairwise(points[:-1]):
        axes.plot(*zip(start, end, strict=True), color="#444444", linewidth=1.4, solid_capstyle="round")
    style = {"arrowstyle": "-|>", "color": "#444444", "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=style)


def main() -> None:
    figure, axes = plt.subplots(figsize=(7.2, 5.6))
    figure.subplots_adjust(0.01, 0.01, 0.99, 0.99)
    axes.set(xlim=(0, 10.1), ylim=(-0.45, 6.45))
    axes.axis("off")
    axes.text(1.5, 6.15, "raw images, annotations", fontsize=12, ha="center", va="center", color=BLUE)
    for name, centre in STAGES.items():
        draw_box(axes, name, centre, BLUE)
    half, side = HEIGHT / 2, WIDTH / 2
    draw_arrow(axes, (1.5, 5.95), (1.5, 5 + half))
    draw_arrow(axes, (1.5 + side, 5), (5 - side, 5))
    draw_arrow(axes, (1.5, 5 - half), (1.5, 3 + half))
    draw_arrow(axes, (5 + side, 5), (8.5, 5), (8.5, 4 + half))
    draw_arrow(axes, (1.5, 4), (5 - side, 4))
    draw_arrow(axes, (5 + side, 4), (8.5 - side, 4))
    draw_arrow(axes, (8.5, 4 - half), (8.5, 3), (1.5 + side, 3))
    draw_arrow(axes, (1.5, 3 - half), (1.5, 1 + half))
    draw_arrow(axes, (1.5, 2), (5 - side, 2))
    draw_arrow(axes, (5, 2 - half), (5, 1), (1.5 + side, 1))
    draw_arrow(axes, (1.5, 1 - half), (1.5, 0), (5 - side, 0))
    draw_arrow(axes, (1.5, 0), (1.0, 0))
    draw_arrow(axes, (5 + side, 0), (8.5 - side, 0))
    for name, place in FILES.items():
        axes.text(*place, name, fontsize=10.5, va="center", family="monospace", color="#222222")
    axes.text(0.95, 0, "TIFFs", fontsize=12, ha="right", va="center", color=BLUE)
    figure.savefig(PICTURE, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
