"""Close-ups of the largest error of each cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_lib.figures.colouring import instances_coloured, raw_picture
from pipeline_lib.figures.errors import CLOSE_UP, around, close_up
from pipeline_lib.figures.palette import GREEN, PURPLE, SKY, VERMILLION, YELLOW
from pipeline_lib.figures.sheet import Panel, save_sheet
from pipeline_lib.figures.stored import consecutive
from pipeline_lib.figures.volume import matched_labels
from pipeline_lib.kernels.sections import without
from pipeline_lib.metrics import CAUSES_OF, Cause, section_causes
from pipeline_lib.runtime.types import Json

# Splits, mergers and false cells have these colours in the pictures of errors, too.
COLOURS = {"merged": SKY, "split": VERMILLION, "missed": GREEN, "false": PURPLE, "outline": YELLOW}
#: Name and meaning of each kind of errors, and of each cause.
CAUSE_WORDS = {
    "merged": ("merged cells", "annotated cells that were found as a part of another one"),
    "merged_touching": ("touching cells", "the annotation has no background between them"),
    "merged_thin": ("thin separation", "as thin as the thinnest quarter of the separations that were found"),
    "merged_faint": ("faint separation", "the image is more like a cell there than like most separations"),
    "merged_other": ("other mergers", "the separation is neither thin nor faint"),
    "split": ("pieces of split cells", "found cells that are a piece of an annotated one"),
    "split_neck": ("narrow neck", "the cell is narrow where it was cut"),
    "split_structure": (
        "structure inside the cell",
        "the image is like a separation there, as at an organelle",
    ),
    "split_other": ("other splits", "there is no neck, and the image is like the cell there"),
    "missed": ("missed cells", "annotated cells without a found one"),
    "missed_edge": ("cut by the edge", "the cell is at the edge of the image or of the annotated area"),
    "missed_dim": ("dim cell", "its gray level is nearer to the background than to most cells"),
    "missed_small": ("small cell", "as small as the smallest quarter of the cells"),
    "missed_other": ("other missed cells", "neither dim nor small"),
    "false": ("false cells", "found cells without an annotated one"),
    "false_like_cell": (
        "looks like a cell",
        "its gray level is that of cells: perhaps the annotation lacks it",
    ),
    "false_other": ("looks like background", "its gray level is nearer to the background than to most cells"),
    "outline": ("outlines", "wrong pixels of cells that were found"),
    "outline_border": ("separation border", "background between touching cells that was not given back"),
    "outline_rim_missing": ("rim missing", "pixels of the cell, at most 1 px from its outline"),
    "outline_rim_extra": ("rim too wide", "pixels of background, at most 1 px from the outline"),
    "outline_deep_missing": ("part missing", "pixels of the cell, more than 1 px from its outline"),
    "outline_deep_extra": ("part too much", "pixels of background, more than 1 px from the outline"),
}


class Section(NamedTuple):
    """A section in which an example is.

    Parameters
    ----------
    raw : (c, y, x) array
        Raw image.
    labels, found : (y, x) array of int
        Annotated and found cells.
    border : (y, x) array
        Separation border of the annotation.
    ignored : (y, x) array of bool or None
        Pixels that are not annotated. None if all are annotated.
    """

    raw: np.ndarray
    labels: np.ndarray
    found: np.ndarray
    border: np.ndarray
    ignored: np.ndarray | None


class Place(NamedTuple):
    """Where the largest error of a cause is.

    Parameters
    ----------
    cause : Cause
        The cause.
    volume : str
        Name of the volume.
    section, y, x : int
        Section, row and column, from 0.
    """

    cause: Cause
    volume: str
    section: int
    y: int
    x: int


def save_cause_sheet(
    places: Sequence[Place],
    read: Callable[[str, int], Section],
    output: str | Path,
    *,
    network: str,
    split: str,
    record: Json,
) -> None:
    """Draw a close-up of the largest error of each cause, and write all as PNG.

    Each close-up shows a window of 80 px of raw image, annotation and segmentation. The pixels of this cause
    are marked in the segmentation.

    Parameters
    ----------
    places : sequence of Place
        Places to show, in this order. The causes of a section are found once if its places follow each other.
    read : callable
        Takes the name of a volume and the number of a section, and returns a `Section`.
    output : str or Path
        PNG file to write.
    network, split : str
        Model and split, for the title.
    record : dict
        Provenance record to store in the picture.
    """
    panels = {}
    for volume, z in dict.fromkeys((place.volume, place.section) for place in places):
        raw, labels, found, border, ignored = read(volume, z)
        causes = section_causes(raw, labels, found, border=border, ignored=ignored).codes
        truth = without(labels, ignored)
        segments = matched_labels(truth, consecutive(found))
        for place in places:
            if (place.volume, place.section) != (volume, z):
                continue
            height, width = labels.shape
            window = around(place.y, CLOSE_UP, height), around(place.x, CLOSE_UP, width)
            views = raw_picture(raw, window), *(instances_coloured(a, window) for a in (truth, segments))
            codes = (causes[window] == place.cause).astype(np.uint8)
            kind, name = (CAUSE_WORDS[key][0] for key in (place.cause.kind, place.cause.name.lower()))
            panels[place.cause] = Panel(
                f"{kind}, {name}: {volume}, section {z + 1}",
                close_up(
                    views, codes, None if ignored is None else ignored[window], {1: COLOURS[place.cause.kind]}
                ),
            )
    ordered = [panels[place.cause] for place in places]
    save_sheet(
        [ordered[i : i + 2] for i in range(0, len(ordered), 2)],
        output,
        title=f"{network}: errors by cause, {split} split. Close-ups: raw, annotation, segmentation",
        split=split,
        provenance=record,
        words={key: [*words, COLOURS.get(key)] for key, words in CAUSE_WORDS.items()},
        causes_of={kind: [cause.name.lower() for cause in own] for kind, own in CAUSES_OF.items()},
    )
