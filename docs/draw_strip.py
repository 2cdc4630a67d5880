"""Draw the pictures of the README, the front page and the tutorials from finished runs.

    PYTHONPATH=. python docs/draw_strip.py demo results
    PYTHONPATH=. python docs/draw_strip.py nuclei results-nuclei

The first command reads the demo (`make demo`), the second the run of the nuclei tutorial. Both write to
`docs/images`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline_lib.figures.colouring import (
    BACKGROUND,
    ORANGE,
    Scale,
    coloured,
    gray,
    instances_coloured,
    magnified,
    rgb,
)
from pipeline_lib.figures.volume import matched_labels

IMAGES = Path(__file__).parent / "images"
SIDE = 320  # px of a panel
GAP = 12  # px between panels
TITLE = 34  # px above a panel
COLOURS = 192  # of the palette, which keeps the files small; rare colours, as of errors, are kept


def section(results: Path, volume: str, model: str = "unet") -> dict[str, np.ndarray]:
    """Return the middle section of a volume: raw, labels, border, weights, probability and segmentation.

    There are no weights of a volume that neither training nor the report uses.
    """
    paths = {
        "raw": ("dataset", "raw"),
        "labels": ("dataset", "labels"),
        "border": ("dataset", "separation_border"),
        "weights": ("weight_map", "weight_map"),
        "probability": (f"prediction/{model}", "cell_probability"),
        "segmented": (f"segmentation/{model}", "labels"),
    }
    found = {}
    for name, (folder, array) in paths.items():
        path = results / folder / f"{volume}.h5"
        if name == "weights" and not path.exists():
            continue
        with h5py.File(path) as file:
            stored = file[array]
            found[name] = stored[..., stored.shape[-3] // 2, :, :]
    return found


def draw_strip(results: Path, volume: str, output: Path, second: str = "weight map") -> None:
    """Draw raw image, weight map or annotation, cell probability and cells of a section side by side."""
    found = section(results, volume)
    weights = found["weights"]
    views = {
        "raw image": gray(found["raw"]),
        "weight map": coloured(weights, Scale("viridis", 0, float(weights.max()), "")),
        "annotation": instances_coloured(found["labels"]),
        "cell probability": coloured(found["probability"], Scale("gray", 0, 1, "")),
        "cells": instances_coloured(matched_labels(found["labels"], found["segmented"])),
    }
    titles = ["raw image", second, "cell probability", "cells"]
    _save([[(title, views[title]) for title in titles]], output)


def draw_steps(results: Path, volume: str, output: Path) -> None:
    """Draw the steps of a section in two rows: what the network learns from, and what it finds."""
    found = section(results, volume)
    weights = found["weights"]
    border = np.where(found["labels"][..., None] > 0, rgb("lightgray"), rgb(BACKGROUND))
    border[found["border"] > 0] = rgb(ORANGE)
    learned = [
        ("1. raw image", gray(found["raw"])),
        ("2. annotation", instances_coloured(found["labels"])),
        ("3. separation border", border),
    ]
    steps = [
        ("4. weight map", coloured(weights, Scale("viridis", 0, float(weights.max()), ""))),
        ("5. cell probability", coloured(found["probability"], Scale("gray", 0, 1, ""))),
        ("6. segmentation", instances_coloured(matched_labels(found["labels"], found["segmented"]))),
    ]
    _save([learned, steps], output)


def draw_examples(results: Path, volumes: list[str], output: Path) -> None:
    """Draw a row for each volume: raw image, annotation, cells."""
    rows = []
    for volume in volumes:
        found = section(results, volume)
        cells = instances_coloured(matched_labels(found["labels"], found["segmented"]))
        annotation = instances_coloured(found["labels"])
        rows.append([("raw image", gray(found["raw"])), ("annotation", annotation), ("cells found", cells)])
    _save(rows, output)


def _save(rows: list[list[tuple[str, np.ndarray]]], output: Path) -> None:
    width = max(len(row) for row in rows) * (SIDE + GAP) - GAP
    height = len(rows) * (SIDE + TITLE + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for y, row in enumerate(rows):
        for x, (title, view) in enumerate(row):
            left, top = x * (SIDE + GAP), y * (SIDE + TITLE + GAP)
            pen.text((left, top + 4), title, fill="#1b1f24", font=font)
            sheet.paste(_square(view), (left, top + TITLE))
    _write(sheet, output)


def _square(view: np.ndarray) -> Image.Image:
    """Return the middle square of a view at `SIDE` px."""
    side = min(view.shape[:2])
    top, left = ((length - side) // 2 for length in view.shape[:2])
    view = magnified(view[top : top + side, left : left + side], max(SIDE // side, 1))
    return Image.fromarray(view).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def copy_figure(figure: Path, output: Path, width: int) -> None:
    """Copy a figure of the report at `width` px."""
    with Image.open(figure) as image:
        _write(_resized(image.convert("RGB"), width), output)


def copy_errors(figure: Path, output: Path, width: int) -> None:
    """Copy the overview of an error sheet, with the first close-ups next to it."""
    with Image.open(figure) as image:
        overview, *close_ups = [panel["box"] for panel in json.loads(image.info["Description"])["panels"]]
        parts = [
            image.convert("RGB").crop((left, top - 42, left + across, top + down))
            for left, top, across, down in [overview, *close_ups[:4]]
        ]
    first, *others = parts
    others = [_resized(part, 640) for part in others]
    sheet = Image.new("RGB", (first.width + 2 * GAP + others[0].width, first.height), "white")
    sheet.paste(first, (0, 0))
    for number, part in enumerate(others):
        sheet.paste(part, (first.width + 2 * GAP, number * first.height // len(others)))
    _write(_resized(sheet, width), output)


def _resized(image: Image.Image, width: int) -> Image.Image:
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def _write(sheet: Image.Image, output: Path) -> None:
    sheet.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(output, optimize=True)
    print(f"{output}: {sheet.width} x {sheet.height} px, {output.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["demo", "nuclei"])
    parser.add_argument("results", type=Path, help="folder of the finished run")
    options = parser.parse_args()
    figures = options.results / "figures"
    if options.what == "demo":
        draw_strip(options.results, "test", IMAGES / "strip.png")
        draw_steps(options.results, "test", IMAGES / "demo_steps.png")
        copy_errors(figures / "errors/test.png", IMAGES / "demo_errors.png", 1100)
        copy_figure(figures / "training.png", IMAGES / "demo_training.png", 600)
        copy_figure(figures / "thresholds.png", IMAGES / "demo_thresholds.png", 600)
    else:
        draw_examples(
            options.results, ["nuclei_010", "nuclei_040", "nuclei_055"], IMAGES / "nuclei_cells.png"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
