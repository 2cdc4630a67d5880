"""Draw the pictures of docs/explanation/scores.md: `PYTHONPATH=. python docs/draw_scores.py`.

One tiny truth, a dozen predictions of it that are each wrong in one way, and what every score says of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy import ndimage
from scipy.spatial import KDTree

from pipeline_lib import metrics
from pipeline_lib.figures.palette import GREEN, PURPLE, SKY, VERMILLION, YELLOW
from pipeline_lib.metrics import Mismatch

matplotlib.use("Agg")

FOLDER = Path(__file__).parent / "images"
SIZE = (34, 48)
CENTRES = [(6, 7), (5, 25), (9, 41), (20, 14), (19, 31), (30, 5), (29, 24), (28, 42)]
MEMBRANE, CELL = 0.25, 0.8
COLOURS = {
    Mismatch.SPLIT: VERMILLION,
    Mismatch.MERGER: SKY,
    Mismatch.HOLE_ADDITION: YELLOW,
    Mismatch.HOLE_DELETION: GREEN,
    Mismatch.OBJECT_ADDITION: PURPLE,
    Mismatch.OBJECT_DELETION: "#FFFFFF",
}
PARTITION_COLOURS = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB"]


def draw_truth() -> tuple[np.ndarray, np.ndarray]:
    """Labels without membranes (y, x), and the cells between membranes of about 3 px."""
    pixels = np.indices(SIZE).reshape(2, -1).T
    distance, order = KDTree(CENTRES).query(pixels, k=2)
    labels = order[:, 0].reshape(SIZE) + 1
    cells = (distance[:, 1] - distance[:, 0]).reshape(SIZE) > 2.7
    return labels, cells


def membrane_between(first: int, second: int, labels: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """The membrane between two cells that touch no third one."""
    near = [ndimage.binary_dilation(labels == label, iterations=3) for label in (first, second)]
    return near[0] & near[1] & np.isin(labels, (first, second)) & ~cells


def draw_predictions(labels: np.ndarray, cells: np.ndarray) -> dict[str, np.ndarray]:
    """Binary predictions (y, x), each wrong in one way."""
    y, x = np.indices(SIZE)
    missed = membrane_between(4, 5, labels, cells)
    line = (labels == 5) & (x == 32)
    speck = (abs(y - 19) < 2) & (abs(x - 13) < 2)
    return {
        "the truth": cells,
        "moved by 1 px": np.roll(cells, (1, 1), (0, 1)),
        "membranes 2 px thicker": ndimage.binary_erosion(cells, border_value=1),
        "a gap of 3 px": cells | (missed & (abs(y - 20) < 2)),
        "a membrane missed": cells | missed,
        "a cell cut in two": cells & ~line,
        "a membrane that ends": cells & ~(line & (y < 22)),
        "a speck in a cell": cells & ~speck,
        "a cell missed": cells & (labels != 5),
        "all cell": np.ones_like(cells),
        "all membrane": np.zeros_like(cells),
    }


def score(cells: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """All scores of a binary prediction, as errors."""
    table = metrics.isbi_scores(cells, prediction, [0.5])
    scores = dict(zip(table.metric, table.value, strict=True))
    labels, found = metrics.connected_components(cells), metrics.connected_components(prediction)
    of_instances = metrics.instance_scores(labels, found)
    errors = {name: scores[name] for name in ("pixel_error", "rand_error")}
    errors |= {f"1 - {name}": 1 - scores[name] for name in ("v_rand_thin", "v_info_thin")}
    errors |= {
        name: scores[name] for name in ("vi_split", "vi_merge", "warping_error", "splits_mergers_error")
    }
    errors |= {
        f"1 - {name}": 1 - of_instances[name] for name in ("seg", "average_precision", "panoptic_quality")
    }
    return errors


def show(axes: Axes, image: np.ndarray, title: str = "", **settings: Any) -> None:
    """A small picture without ticks."""
    axes.imshow(image, interpolation="nearest", **settings)
    axes.set(xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


def gray(cells: np.ndarray) -> np.ndarray:
    return np.repeat(np.where(cells, CELL, MEMBRANE)[..., None], 3, axis=2)


def with_errors(cells: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The prediction in gray, residual mismatches of the warping in the report's colours."""
    image, errors = gray(prediction), metrics.error_map(cells, prediction.astype(np.float32))
    for kind, colour in COLOURS.items():
        image[errors == kind] = to_rgb(colour)
    return image


def draw_overview(cells: np.ndarray, predictions: dict[str, np.ndarray]) -> Figure:
    """Rows: predictions with their residual mismatches; columns: scores as errors, darker where larger."""
    scores = {name: score(cells, prediction) for name, prediction in predictions.items()}
    values = np.array([list(row.values()) for row in scores.values()])
    figure, axes = plt.subplots(len(scores), 2, figsize=(12, 0.92 * len(scores) + 1.1), width_ratios=(1, 6.6))
    figure.subplots_adjust(0.15, 0.045, 0.93, 0.94, wspace=0.015, hspace=0.05)
    for (picture, row), (name, prediction), value in zip(axes, predictions.items(), values, strict=True):
        show(picture, with_errors(cells, prediction))
        picture.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        shade = np.sqrt(value / values.max(axis=0))[None]  # small errors are seen too
        show(row, shade, cmap="Blues", vmin=0, vmax=2, aspect="auto")
        for column, number in enumerate(value):
            text = "0" if abs(number) < 1e-12 else f"{number:.3f}" if number >= 0.001 else f"{number:.0e}"
            row.text(column, 0, text, ha="center", va="center", fontsize=9)
    top = axes[0, 1]
    top.set_xticks(
        range(values.shape[1]), list(next(iter(scores.values()))), fontsize=7.5, rotation=18, ha="left"
    )
    top.xaxis.tick_top()
    handles = [
        Patch(facecolor=colour, edgecolor="black", label=kind.name.lower().replace("_", " "))
        for kind, colour in COLOURS.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def draw_pair(
    cells: np.ndarray,
    predictions: dict[str, np.ndarray],
    name: str,
    forgiven: str,
    punished: str,
) -> Figure:
    """Truth, a prediction that the score `name` forgives and one that it punishes."""
    figure, axes = plt.subplots(1, 3, figsize=(6.6, 1.75), layout="constrained")
    show(axes[0], gray(cells), "truth")
    for panel, verb, which in ((axes[1], "forgives", forgiven), (axes[2], "punishes", punished)):
        value = score(cells, predictions[which])[name]
        show(panel, gray(predictions[which]), f"{verb}: {which}\n{name} = {value:.4f}")
    return figure


def draw_thinning(predictions: dict[str, np.ndarray]) -> Figure:
    """A prediction with thick membranes, its components, and the cells after thinning."""
    prediction = predictions["membranes 2 px thicker"]
    figure, axes = plt.subplots(1, 3, figsize=(6.6, 1.75), layout="constrained")
    show(axes[0], gray(prediction), "prediction")
    for panel, labels, title in (
        (axes[1], metrics.connected_components(prediction), "components"),
        (axes[2], metrics.thin_borders(prediction), "after thinning"),
    ):
        palette = np.array([(MEMBRANE,) * 3, *map(to_rgb, PARTITION_COLOURS)])
        show(panel, palette[labels], title)
    return figure


def draw_warping(cells: np.ndarray, predictions: dict[str, np.ndarray]) -> Figure:
    """Truth, a prediction with several errors, the truth warped to it, and what still differs."""
    labels = metrics.connected_components(cells)
    prediction = np.roll(predictions["a membrane missed"], 1, axis=1)
    prediction[18:21, 12:15] = False  # a speck in a cell,
    prediction[:14, 25] = False  # one cut in two,
    prediction[ndimage.binary_dilation(labels == labels[30, 5], iterations=2)] = False  # one missed,
    prediction[27, 33] = True  # one invented
    probability = prediction.astype(np.float32)
    figure, axes = plt.subplots(1, 4, figsize=(8.8, 1.95), layout="constrained")
    show(axes[0], gray(cells), "truth")
    show(axes[1], gray(prediction), "prediction")
    show(axes[2], gray(metrics.warp(cells, probability)), "truth, warped")
    show(axes[3], with_errors(cells, prediction), "prediction, errors coloured")
    found = np.unique(metrics.error_map(cells, probability))
    handles = [
        Patch(facecolor=colour, edgecolor="black", label=kind.name.lower().replace("_", " "))
        for kind, colour in COLOURS.items()
        if kind in found
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def draw_objects() -> Figure:
    """One true object, and predicted objects with what each instance score makes of them."""
    y, x = np.indices((24, 32))
    disc = ((y - 12) ** 2 + (x - 13) ** 2 < 81).astype(int)
    shifted = ((y - 12) ** 2 + (x - 17) ** 2 < 81).astype(int)
    examples = {
        "moved": shifted,
        "two thirds of it": disc * (y < 15),
        "in two halves": disc * (1 + (x > 12)),
        "and a second one": disc + 2 * ((y - 12) ** 2 + (x - 27) ** 2 < 9),
    }
    figure, axes = plt.subplots(1, 4, figsize=(8.8, 2.5), layout="constrained")
    for panel, (name, found) in zip(axes, examples.items(), strict=True):
        scores = metrics.instance_scores(disc, found)
        image = np.full((*disc.shape, 3), 1.0)
        for label in range(1, 4):
            image[found == label] = to_rgb(PARTITION_COLOURS[label])
        show(
            panel,
            image,
            f"{name}: IoU {scores['iou']:.2f}\nSEG {scores['seg']:.2f}, "
            f"AP {scores['average_precision']:.2f}\nPQ {scores['panoptic_quality']:.2f}",
        )
        panel.contour(disc, [0.5], colors="black", linewidths=1.2)
    return figure


def main() -> None:
    labels, cells = draw_truth()
    predictions = draw_predictions(labels, cells)
    pictures = {
        "overview": draw_overview(cells, predictions),
        "pixel_error": draw_pair(
            cells, predictions, "pixel_error", "a gap of 3 px", "membranes 2 px thicker"
        ),
        "rand_error": draw_pair(cells, predictions, "rand_error", "a speck in a cell", "a gap of 3 px"),
        "v_rand_thin": draw_pair(
            cells, predictions, "1 - v_rand_thin", "membranes 2 px thicker", "a gap of 3 px"
        ),
        "v_info_thin": draw_pair(
            cells, predictions, "1 - v_info_thin", "a membrane that ends", "a cell cut in two"
        ),
        "vi_split": draw_pair(cells, predictions, "vi_split", "a gap of 3 px", "a cell cut in two"),
        "vi_merge": draw_pair(cells, predictions, "vi_merge", "a cell cut in two", "a gap of 3 px"),
        "warping_error": draw_pair(cells, predictions, "warping_error", "moved by 1 px", "a speck in a cell"),
        "splits_mergers_error": draw_pair(
            cells, predictions, "splits_mergers_error", "all membrane", "a membrane missed"
        ),
        "thinning": draw_thinning(predictions),
        "warping": draw_warping(cells, predictions),
        "objects": draw_objects(),
    }
    FOLDER.mkdir(exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(FOLDER / f"scores_{name}.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
