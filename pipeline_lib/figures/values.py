"""Picture of an annotation whose meaning is not clear: its values beside the image."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

from pipeline_lib.figures.colouring import instances_coloured, magnified, raw_picture, rgb
from pipeline_lib.figures.palette import BACKGROUND, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION, YELLOW
from pipeline_lib.figures.sheet import STYLE, Panel, save_sheet

LARGEST = 512  # px, side of the part that is shown
COLOURS = (BACKGROUND, YELLOW, SKY, VERMILLION, GREEN, PURPLE, BLUE, ORANGE)


def save_values(
    raw: np.ndarray,
    annotation: np.ndarray,
    shares: dict[float, float],
    output: str | Path,
    *,
    title: str,
    colours: bool = False,
) -> None:
    """Write a picture of the raw image and of the values of its annotation, each in its own colour.

    Parameters
    ----------
    raw : (c, y, x) array
        Gray levels of a region.
    annotation : (y, x) array
        Values of the annotation in this region.
    shares : dict of float to float
        Share of each value in the pixels of the volume, in ascending order of the values.
    output : str or Path
        PNG file to write.
    title : str
        Text above the picture.
    colours : bool, default False
        Whether the values are colours, 0xRRGGBB, which are shown as they are.
    """
    raw, annotation = raw[:, :LARGEST, :LARGEST], annotation[:LARGEST, :LARGEST]
    factor = max(LARGEST // (2 * max(annotation.shape)), 1)
    listed: list[tuple[str | None, str]] = [(None, f"{len(shares)} values, in 12 colours")]
    if colours:
        image = np.stack([annotation >> shift & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)
        common = sorted(shares.items(), key=lambda item: -item[1])[: len(COLOURS)]
        listed = [
            (f"#{colour:06x}", f"0x{colour:06X}: {share:.1%} of the pixels") for colour, share in common
        ]
    elif len(shares) <= len(COLOURS):
        rank = np.searchsorted(np.array([*shares]), annotation).clip(0, len(shares) - 1)
        image = np.array([rgb(colour) for colour in COLOURS])[rank]
        listed = [
            (colour, f"{value:g}: {share:.1%} of the pixels")
            for colour, (value, share) in zip(COLOURS, shares.items(), strict=False)
        ]
    else:
        image = instances_coloured(np.unique(annotation, return_inverse=True)[1].reshape(annotation.shape))
    with matplotlib.rc_context(STYLE):
        panels = [
            Panel("raw image", magnified(raw_picture(raw), factor)),
            Panel("values of the annotation", magnified(image, factor), legend=listed),
        ]
        save_sheet([panels], output, title=title, provenance={})
