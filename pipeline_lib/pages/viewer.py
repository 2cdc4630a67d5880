"""The viewer of the report: what it shows, and which errors are the worst."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from pipeline_lib.figures.palette import CAUSE_COLOURS, ORANGE, SKY, VERMILLION, YELLOW
from pipeline_lib.pages.causes import CAUSE_WORDS
from pipeline_lib.runtime.types import Json

#: Errors of each kind among the worst ones, at most.
WORST_OF_KIND = 6
#: Wrong pixels of the smallest error among the worst ones.
FEWEST = 10
#: Smallest and largest side of a close-up (px).
CLOSE_UP, LARGEST_CLOSE_UP = 80, 240
#: Layers from the lowest to the highest: title, whether it is shown at first, opacity, colour in the list.
LAYERS = {
    "raw": ("raw image", True, 1.0, None),
    "probability": ("cell probability", False, 1.0, None),
    "weight_map": ("weight map", False, 1.0, None),
    "disagreement": ("disagreement", False, 1.0, None),
    "classes_annotated": ("classes annotated", False, 0.6, None),
    "classes_found": ("classes found", False, 0.6, None),
    "outlines": ("wrong outlines", False, 0.7, CAUSE_COLOURS["outline"]),
    "errors": ("errors", True, 0.55, None),
    "annotation": ("cells annotated", True, 1.0, ORANGE),
    "cells": ("cells found", True, 1.0, SKY),
    "not_annotated": ("not annotated", True, 1.0, None),
}
#: Layers of detectors that differ from these.
LAYERS_OF_BOXES = {
    "masks": ("masks", False, 0.5, None),
    "annotation": ("objects annotated", True, 1.0, ORANGE),
    "cells": ("detections", True, 1.0, SKY),
}
#: Names and colours in the legend of errors: of segmentations, and of detectors.
KEY = [(CAUSE_WORDS[kind][0], colour) for kind, colour in CAUSE_COLOURS.items() if kind != "outline"]
KEY_OF_BOXES = [("missed objects, dashed", YELLOW), ("false detections, dotted", VERMILLION)]


def viewer_content(volumes: Sequence[Json]) -> Json:
    """Return the variables of the templates of the viewer.

    Parameters
    ----------
    volumes : sequence of dict
        Content of the files of `stages.layers.prepare_layers`.

    Returns
    -------
    dict
        `volumes`; `noun` ("cell" or "object"); `names` (description of each layer that occurs); `key` (name
        and colour of each kind of errors); `errors` (the worst ones, see `worst_errors`; None if nothing is
        annotated) and `worst_of_kind`; and `json` and `script`, the content of the elements of these kinds.
    """
    described = [
        {key: value for key, value in volume.items() if key not in ("provenance", "shown", "diameters")}
        | {
            "shown": [
                section | {"layers": [*section["layers"], *section.get("boxes", {})]}
                for section in volume["shown"]
            ]
        }
        for volume in volumes
    ]
    present = {layer for volume in described for section in volume["shown"] for layer in section["layers"]}
    has_boxes = any("boxes" in section for volume in volumes for section in volume["shown"])
    names = {"raw": LAYERS["raw"], **LAYERS_OF_BOXES} if has_boxes else LAYERS
    return {
        "volumes": volumes,
        "noun": "object" if has_boxes else "cell",
        "names": {name: facts for name, facts in names.items() if name in present},
        "key": KEY_OF_BOXES if has_boxes else KEY,
        "errors": worst_errors(volumes) if any(volume["annotated"] for volume in volumes) else None,
        "worst_of_kind": WORST_OF_KIND,
        "json": Markup(json.dumps(described, separators=(",", ":")).replace("<", "\\u003c")),
        "script": Markup(Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")),
    }


def worst_errors(volumes: Sequence[Json]) -> list[Json]:
    """Return the largest errors of cells in the volumes with scores, the worst first.

    Parameters
    ----------
    volumes : sequence of dict
        Content of the files of `stages.layers.prepare_layers`.

    Returns
    -------
    list of dict
        At most `WORST_OF_KIND` merged, split, missed and false cells: places of volume and section in
        `volumes`, `z`, `kind`, `cause`, `colour`, `detail` (text), `box` (x, y, width and height of a
        close-up) and `open` (volume, section, and top, left, bottom and right of the place in the viewer). Of
        a detector, missed objects come first, the largest before the others, then false detections, those
        with the highest scores first.
    """
    found = [
        (error, v, s, section["z"], volume["window"][2:])
        for v, volume in enumerate(volumes)
        if volume["split"] in ("test", "validation")
        for s, section in enumerate(volume["shown"])
        for error in section.get("errors", [])
        if error["pixels"] >= FEWEST
    ]
    found.sort(key=lambda one: -one[0].get("severity", one[0]["pixels"]))
    number = dict.fromkeys(CAUSE_COLOURS, 0)
    worst = []
    for error, v, s, z, (height, width) in found:
        kind = error["cause"].partition("_")[0]
        number[kind] += 1
        if number[kind] > WORST_OF_KIND:
            continue
        top, left, bottom, right = error["box"]
        side = min(max(1.5 * max(bottom - top, right - left), CLOSE_UP), LARGEST_CLOSE_UP, height, width)
        # a large error is shown around the place where cells were joined or cut
        y, x = (
            ((top + bottom) / 2, (left + right) / 2) if side < LARGEST_CLOSE_UP else (error["y"], error["x"])
        )
        y, x = (
            round(min(max(middle - side / 2, 0), length - side))
            for middle, length in ((y, height), (x, width))
        )
        side = round(side)
        worst.append(
            {
                "volume": v,
                "section": s,
                "z": z,
                **_words(error, kind),
                "box": [x, y, side, side],
                "open": [v, s, y, x, y + side, x + side],
            }
        )
    return worst


def _words(error: Json, kind: str) -> Json:
    """Return kind, cause, colour and detail of an error of a cell, or of a missed or false box."""
    pixels = f"{error['pixels']:,} px"
    if "score" not in error:
        cause, colour = CAUSE_WORDS[error["cause"]][0], CAUSE_COLOURS[kind]
        return {"kind": kind, "cause": cause, "colour": colour, "detail": pixels}
    if kind == "false":
        words = {"kind": "false detection", "colour": VERMILLION, "detail": f"score {error['score']:.2f}"}
    else:
        below = "no box" if error["score"] is None else f"score {error['score']:.2f}"
        words = {"kind": "missed object", "colour": YELLOW, "detail": f"box of {pixels}, {below}"}
    return words | {"cause": ""}


def place_in_viewer(volumes: Sequence[Json], name: str, z: int, y: int, x: int) -> list[int] | None:
    """Return a place as `open` of `worst_errors`: a close-up around it. None if it is not in the viewer.

    Parameters
    ----------
    volumes : sequence of dict
        Content of the files of `stages.layers.prepare_layers`.
    name : str
        Name of the volume.
    z, y, x : int
        Section, row and column.
    """
    for v, volume in enumerate(volumes):
        top, left, height, width = volume["window"]
        sections = [section["z"] for section in volume["shown"]]
        if volume["volume"] == name and z in sections and 0 <= y - top < height and 0 <= x - left < width:
            half = CLOSE_UP // 2
            return [v, sections.index(z), y - top - half, x - left - half, y - top + half, x - left + half]
    return None
