"""Words for the causes of errors."""

from __future__ import annotations

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
