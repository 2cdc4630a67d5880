"""Boxes in files of COCO (JSON).

A `bbox` is [x, y, width, height] in px, floats. x and y are edges counted from 0: the box of the first pixel
is [0, 0, 1, 1]. Ids may have gaps. An image without annotations has no objects. Annotations can have a
`score`, as those of `write_coco`.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from reprlib import repr as shown  # of at most 60 letters, also of nested lists
from typing import Any

from pipeline_lib.imageio.boxes.source import Place, Source, Stated, text_of
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json


def open_coco(path: Path) -> Source:
    """Return the entries of a COCO file (JSON)."""
    return _entries(path, text_of(path))


@lru_cache(maxsize=1)  # one file often has the boxes of many volumes
def _entries(path: Path, text: str) -> Source:
    """Return the entries in the text of a COCO file."""

    def refuse(constant: str) -> float:
        raise InputError(f"{path}: found {constant}, expected finite numbers. Correct it or export again.")

    try:
        content = json.loads(text, parse_constant=refuse)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). Export the annotations again.") from error
    if isinstance(content, list):
        raise InputError(
            f"{path}: found a list, expected `images`, `annotations` and `categories`. COCO's lists of "
            "results do not name the images; export annotations (instances), or write a CSV."
        )
    images, annotations, categories = (
        _records(path, content, key) for key in ("images", "annotations", "categories")
    )
    image_of = _by_id(path, "images", images)
    names = {
        key: _text(path, "categories", key, own, "name")
        for key, own in _by_id(path, "categories", categories).items()
    }
    of_image: dict[Hashable, list[int]] = defaultdict(list)
    for place, annotation in enumerate(annotations):
        key = annotation.get("image_id")
        if not isinstance(key, (int, str)) or key not in image_of:
            raise InputError(
                f"{path}, {_place(annotation, place)}: no image has the id {shown(key)} (`image_id`). "
                "Export the file again with all images, or remove this annotation."
            )
        of_image[key].append(place)
    keys = [*image_of]

    def read(number: int) -> Stated:
        stated = Stated(path, _size(image_of[keys[number]]))
        for place in of_image[keys[number]]:
            annotation, where = annotations[place], partial(_place, annotations[place], place)
            x, y, width, height = _bbox(path, annotation.get("bbox"), where)
            category = annotation.get("category_id")
            if not isinstance(category, (int, str)) or category not in names:
                raise InputError(
                    f"{path}, {where()}: no category has the id {shown(category)} (`category_id`). Export "
                    "the file again with all `categories`."
                )
            crowd = annotation.get("iscrowd", 0)
            if not isinstance(crowd, int) or crowd not in (0, 1):
                raise InputError(f"{path}, {where()}: found `iscrowd` {shown(crowd)}, expected 0 or 1.")
            box = (y, x, y + height, x + width)
            stated.add(box, names[category], where, bool(crowd), _score(path, annotation, where))
        return stated

    file_names = [_text(path, "images", key, own, "file_name") for key, own in image_of.items()]
    return Source("COCO", file_names, read, [f"COCO file, images: {len(images)}"], written="size")


def _records(path: Path, content: Any, key: str) -> list[Json]:
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        keys = f" (found: {', '.join(map(str, content))[:100]})" if isinstance(content, dict) else ""
        raise InputError(
            f"{path}: no list `{key}` of objects{keys}. A COCO file has `images`, `annotations` and "
            "`categories`."
        )
    return found


def _by_id(path: Path, key: str, records: Sequence[Json]) -> dict[Hashable, Json]:
    found: dict[Hashable, Json] = {}
    for place, record in enumerate(records):
        own = record.get("id")
        if not isinstance(own, (int, str)):
            raise InputError(
                f"{path}, `{key}` number {place}: found the id {shown(own)}, expected a number. Export again."
            )
        if own in found:
            raise InputError(f"{path}: two of `{key}` have the id {shown(own)}. Export the file again.")
        found[own] = record
    return found


def _place(annotation: Json, number: int) -> str:
    """Return where a box is in the file, and what is written there."""
    box = annotation.get("bbox")
    return f"annotation number {number} (id {shown(annotation.get('id'))}) with the `bbox` {shown(box)}"


def _text(path: Path, key: str, own: object, record: Json, name: str) -> str:
    found = record.get(name)
    if not isinstance(found, str) or not found.strip():
        raise InputError(
            f"{path}, `{key}` with id {shown(own)}: found `{name}` {shown(found)}, expected a text."
        )
    return found.strip()


def _size(image: Json) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if isinstance(height, int) and isinstance(width, int) and height > 0 < width:
        return height, width
    return None


def _score(path: Path, annotation: Json, where: Place) -> float:
    score = annotation.get("score", math.nan)
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise InputError(f"{path}, {where()}: found the `score` {shown(score)}, expected a number.")
    return float(score)


def _bbox(path: Path, found: object, where: Place) -> list[float]:
    try:
        if isinstance(found, list) and len(found) == 4 and not any(isinstance(v, (bool, str)) for v in found):
            numbers = [float(value) for value in found]
            if all(map(math.isfinite, numbers)):
                return numbers
    except (TypeError, OverflowError):
        pass
    raise InputError(f"{path}, {where()}: expected [x, y, width, height], four numbers in px.")
