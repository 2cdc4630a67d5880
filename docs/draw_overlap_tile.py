"""Draw the picture of docs/explanation/overlap-tile.md: `PYTHONPATH=. python docs/draw_overlap_tile.py`.

A drawn section of 240 x 240 px, extended by its mirror image, and the tiles that the library cuts it into
for a U-Net of depth 3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from pipeline_lib import networks
from pipeline_lib.figures.palette import BLUE, ORANGE
from pipeline_lib.inference.tiling import Tile, mirror, tiles
from pipeline_lib.stages.synthesis import draw_section

matplotlib.use("Agg")

PICTURE = Path(__file__).parent / "images" / "overlap_tile.png"
SIZE, TILE, DEPTH = 240, 172, 3
CORNER, CENTRE = 0, 4  # of the nine tiles


def rectangle(axes: Axes, rows: tuple[int, int], columns: tuple[int, int], **style: Any) -> None:
    """Draw the outline of a region, given as start and stop in px of the section."""
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    axes.add_patch(Rectangle((columns[0] - 0.5, rows[0] - 0.5), width, height, **{"fill": False, **style}))


def draw_panel(axes: Axes, image: np.ndarray, margin: int, cut: list[Tile], chosen: Tile, title: str) -> None:
    """Show the extended section with all output tiles, and one tile with the input it needs."""
    end = SIZE + margin
    axes.imshow(
        image, cmap="gray", vmin=0, vmax=255, extent=(-margin - 0.5, end - 0.5, end - 0.5, -margin - 0.5)
    )
    veil = {"fill": True, "facecolor": "white", "alpha": 0.45, "edgecolor": "none"}
    for rows, columns in (
        ((-margin, 0), (-margin, end)),
        ((SIZE, end), (-margin, end)),
        ((0, SIZE), (-margin, 0)),
        ((0, SIZE), (SIZE, end)),
    ):
        rectangle(axes, rows, columns, **veil)
    rectangle(axes, (0, SIZE), (0, SIZE), edgecolor="black", linewidth=1)
    for tile in cut:
        rows, columns = ((part.start, part.stop) for part in tile.write)
        rectangle(axes, rows, columns, edgecolor=BLUE, linewidth=1, linestyle=":")
    rectangle(axes, *chosen.read, edgecolor=ORANGE, linewidth=3)
    rows, columns = ((part.start, part.stop) for part in chosen.write)
    rectangle(axes, rows, columns, edgecolor=BLUE, linewidth=3)
    rectangle(axes, rows, columns, fill=True, facecolor=BLUE, alpha=0.3, edgecolor="none")
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=11, loc="left")


def main() -> None:
    image, *_ = draw_section(
        SIZE, cell_diameter=40.0, membrane_width=(2.5, 6.0), noise=0.02, rng=np.random.default_rng([0, 10])
    )
    geometry = networks.plan("unet", depth=DEPTH).geometry
    cut = list(tiles(image.shape, TILE, geometry))
    margin = geometry.context + 6
    index = mirror(-margin, SIZE + margin, SIZE)
    extended = image[np.ix_(index, index)]
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 4.3), layout="constrained")
    draw_panel(axes[0], extended, margin, cut, cut[CENTRE], "a tile in the middle")
    draw_panel(axes[1], extended, margin, cut, cut[CORNER], "a tile in the corner")
    handles = [
        Rectangle(
            (0, 0), 1, 1, fill=False, edgecolor=ORANGE, linewidth=3, label="input: what the network reads"
        ),
        Rectangle((0, 0), 1, 1, facecolor=BLUE, alpha=0.5, edgecolor=BLUE, label="output: what it predicts"),
        Rectangle((0, 0), 1, 1, facecolor="#CCCCCC", edgecolor="black", label="pale: mirror image"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10, frameon=False)
    figure.savefig(PICTURE, dpi=110)
    with Image.open(PICTURE) as picture:
        few_colours = picture.convert("RGB").quantize(112, dither=Image.Dither.NONE)
    few_colours.save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
