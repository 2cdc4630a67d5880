"""Draw the pictures of the README, the front page and the tutorials from finished runs.

    PYTHONPATH=. python docs/draw_strip.py strip results-long
    PYTHONPATH=. python docs/draw_strip.py nuclei results-nuclei
    PYTHONPATH=. python docs/draw_strip.py classes results-classes

The second command reads the run of the nuclei tutorial, the last one a run with the section `dataset` of
docs/howto/classes.md, and with `drawing: {sections: 12, size: 256, organelles: true}`, `network: {depth: 3,
base_channels: 16}` and `training: {tile: 180, iterations: 2500, optimizer: adam}`, whose volume `score` is
the last section. The first command reads a demo with a longer
training:

    snakemake --cores all --config results=results-long \\
        'training={iterations: 6000, validation_interval: 500}'

All write to `docs/images`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import h5py
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from pipeline_lib.figures.colouring import Scale, coloured, magnified, raw_picture, rgb
from pipeline_lib.figures.palette import BACKGROUND, class_colours
from pipeline_lib.figures.parts import matched_labels

IMAGES = Path(__file__).parent / "images"
SIDE = 320  # px of a panel
GAP = 12  # px between panels
TITLE = 46  # px above a panel
FONT = 30  # px
PALETTE = ("#66c2a5", "#fc8d62", "#8da0cb", "#e78ac3", "#a6d854", "#ffd92f", "#e5c494", "#7cc7e8")  # of cells
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


def cells_coloured(labels: np.ndarray, found: np.ndarray | None = None) -> np.ndarray:
    """Return annotated cells, or the cells found, as RGB. Neighbours have different colours.

    Each cell found has the colour of the annotated cell with which it shares most pixels, or else is white.
    """
    colours = _colours_of(labels)
    shown = labels if found is None else matched_labels(labels, found)
    image = np.full((*shown.shape, 3), 255, np.uint8)
    for label, colour in colours.items():
        image[shown == label] = colour
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        image[here][shown[here] != shown[there]] = rgb(BACKGROUND)
    image[shown == 0] = rgb(BACKGROUND)
    return image


def _colours_of(labels: np.ndarray) -> dict[int, np.ndarray]:
    """Return the colour of each label. Two labels whose areas would meet if they grew differ in colour."""
    rows, columns = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    grown = labels[rows, columns]
    neighbours: dict[int, set[int]] = {int(label): set() for label in np.unique(labels[labels > 0])}
    for here, there in ((grown[1:], grown[:-1]), (grown[:, 1:], grown[:, :-1])):
        for pair in np.unique(np.stack([here[here != there], there[here != there]]), axis=1).T:
            one, other = map(int, pair)
            neighbours[one].add(other)
            neighbours[other].add(one)
    numbers: dict[int, int] = {}
    for place, label in enumerate(sorted(neighbours, key=lambda label: -len(neighbours[label]))):
        used = {numbers.get(other) for other in neighbours[label]}
        order = [(place + shift) % len(PALETTE) for shift in range(len(PALETTE))]
        numbers[label] = next((number for number in order if number not in used), place % len(PALETTE))
    return {label: rgb(PALETTE[number]) for label, number in numbers.items()}


def draw_strip(results: Path, volume: str) -> None:
    """Draw raw image, weight map, cell probability and cells of a section side by side, and one by one."""
    found = section(results, volume)
    weights = found["weights"]
    panels = [
        ("raw image", raw_picture(found["raw"])),
        ("weight map", coloured(weights, Scale("viridis", 0, float(weights.max()), ""))),
        ("cell probability", coloured(found["probability"], Scale("gray", 0, 1, ""))),
        ("cells", cells_coloured(found["labels"], found["segmented"])),
    ]
    _save([panels], IMAGES / "strip.png")
    for title, view in panels:
        _write(_square(view), IMAGES / f"strip_{title.replace(' ', '_')}.png")


def draw_examples(results: Path, volumes: list[str], output: Path) -> None:
    """Draw a row for each volume: raw image, annotation, cells."""
    rows = []
    for volume in volumes:
        found = section(results, volume)
        cells = cells_coloured(found["labels"], found["segmented"])
        annotation = cells_coloured(found["labels"])
        rows.append(
            [("raw image", raw_picture(found["raw"])), ("annotation", annotation), ("cells found", cells)]
        )
    _save(rows, output)


def draw_tiffs(results: Path, volume: str, output: Path) -> None:
    """Draw a raw image and its two TIFFs."""
    found = section(results, volume)
    labels = cells_coloured(found["labels"], found["segmented"])
    probability = coloured(found["probability"], Scale("gray", 0, 1, ""))
    _save(
        [[("raw image", raw_picture(found["raw"])), ("labels", labels), ("cell probability", probability)]],
        output,
    )


def draw_classes(results: Path, volume: str, output: Path) -> None:
    """Draw a raw image, its classes annotated and found, and the cells found."""
    found = section(results, volume)
    with (
        h5py.File(results / f"dataset/{volume}.h5") as data,
        h5py.File(results / f"prediction/unet/{volume}.h5") as predicted,
    ):
        probability = predicted["class_probability"]
        middle = probability.shape[1] // 2
        maps = data["target"][middle], probability[:, middle].argmax(0)
        colours = np.array([rgb(colour) for colour in class_colours(len(probability))])
        annotated, classes = (colours[numbers] for numbers in maps)
    panels = [
        ("raw image", raw_picture(found["raw"])),
        ("classes annotated", annotated),
        ("classes found", classes),
        ("cells found", cells_coloured(found["labels"], found["segmented"])),
    ]
    _save([panels], output)


def _save(rows: list[list[tuple[str, np.ndarray]]], output: Path) -> None:
    width = max(len(row) for row in rows) * (SIDE + GAP) - GAP
    height = len(rows) * (SIDE + TITLE + GAP) - GAP
    sheet = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT)
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


def _write(sheet: Image.Image, output: Path) -> None:
    sheet.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(output, optimize=True)
    print(f"{output}: {sheet.width} x {sheet.height} px, {output.stat().st_size / 1000:.0f} kB")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["strip", "nuclei", "classes"])
    parser.add_argument("results", type=Path, help="folder of the finished run")
    options = parser.parse_args()
    if options.what == "strip":
        draw_strip(options.results, "test")
    elif options.what == "classes":
        draw_classes(options.results, "score", IMAGES / "classes.png")
    else:
        draw_tiffs(options.results, "nuclei_010", IMAGES / "nuclei_tiffs.png")
        draw_examples(
            options.results, ["nuclei_010", "nuclei_040", "nuclei_055"], IMAGES / "nuclei_cells.png"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
