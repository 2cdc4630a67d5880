"""Boxes of the annotated objects of a volume, from files of other programs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline_lib import imageio
from pipeline_lib.data.cells import doubts_of_cells, empty_are_ignored
from pipeline_lib.imageio.boxes import SectionBoxes, read_boxes
from pipeline_lib.imageio.boxes.source import listed
from pipeline_lib.imageio.kinds import NO_CELLS
from pipeline_lib.imageio.series import LISTED
from pipeline_lib.runtime.doubts import doubt
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

#: Settings of the section `dataset` with which boxes are read.
SETTINGS = ("empty_sections", "box_coordinates", "classes", "instances")


@dataclass(frozen=True)
class VolumeBoxes:
    """Boxes of the annotated objects of a volume; `read_volume_boxes` creates it.

    Parameters
    ----------
    sections : list of SectionBoxes
        Boxes of each section, in px of the selected rows.
    found : list of str
        Classes of all boxes in the file, in alphabetical order.
    files : list of Path
        The files that were read.
    description : str
        How they were understood.
    """

    sections: list[SectionBoxes]
    found: list[str]
    files: list[Path]
    description: str

    def findings(self, ignored: float) -> Json:
        """Return what the check shows of the annotation.

        Parameters
        ----------
        ignored : float
            Share of the pixels that are not annotated.

        Returns
        -------
        dict
            `description`, `cells`, `doubts` as in `layout.findings`, and `boxes`: True. Sizes are areas of
            boxes. `share` is None, because boxes do not say which pixels belong to cells.
        """
        objects = np.concatenate([own.boxes[~own.ignored] for own in self.sections])
        sizes = (objects[:, 2:] - objects[:, :2]).prod(axis=1)
        cells: Json = {
            "number": len(sizes),
            "smallest": round(sizes.min()) if len(sizes) else 0,
            "median": float(np.median(sizes)) if len(sizes) else 0.0,
            "largest": round(sizes.max(initial=0)),
            "in_border": 0,
            "share": None,
            "ignored": ignored,
        }
        doubts = doubts_of_cells(cells, 0)
        if not len(sizes):
            text = (
                "The file has no box in these sections. That is right if they show no objects; otherwise "
                "check that the file has the names of these images."
            )
            doubts = [doubt("no_cells", 0.4, text)]
        return {"description": self.description, "cells": cells, "doubts": doubts, "boxes": True}


def read_volume_boxes(
    annotation: str | Path,
    images: str | Path,
    shape: tuple[int, int, int],
    *,
    volume: str,
    sections: str = "",
    rows: str = "",
    empty_sections: str = "ask",
    box_coordinates: str | None = None,
    classes: Mapping[str, int | list[int]] | None = None,
    instances: Collection[str] | None = None,
) -> VolumeBoxes:
    """Read the boxes of a volume, and check their classes.

    Parameters
    ----------
    annotation : str or Path
        File, folder or pattern for which `imageio.boxes.are_boxes` is true.
    images : str or Path
        Path of the images, as in the table of volumes.
    shape : tuple of int
        Shape (z, y, x) of the image files, with all sections and rows (px).
    volume : str
        Name of the volume.
    sections, rows : str, default ""
        Selected sections and rows, as in the table of volumes. A box that leaves the rows is cut off; it is
        left out if less than half a row of it remains.
    empty_sections : {"ask", "background", "ignore"}, default "ask"
        Meaning of sections without boxes in a volume with boxes in other sections, and of sections that the
        file does not mention: an error, sections without objects, or sections that are not annotated.
    box_coordinates : {"pixels_from_1", "pixels_from_0", "edges"}, optional
        What corners are, see `imageio.boxes.read_boxes`.
    classes : mapping of str to int or list of int, optional
        The known classes by name. By default, all boxes must be of one class.
    instances : collection of str, optional
        Classes of objects. Boxes of others are left out. By default all are objects.

    Returns
    -------
    VolumeBoxes
        The boxes.

    Raises
    ------
    InputError
        If the files cannot be read, do not fit the images, have an unclear meaning or unknown classes.
    """
    read = read_boxes(
        annotation,
        _image_files(images),
        shape,
        volume=volume,
        sections=sections,
        empty_sections=empty_sections,
        coordinates=box_coordinates,
    )
    found = sorted({name for own in read.sections for name in own.classes})
    require_classes({str(annotation): found}, classes)
    band = imageio.row_range(rows, shape[1]) or range(shape[1])
    kept = [_in_rows(_of_classes(own, instances), band) for own in read.sections]
    empty = [z for z, own in enumerate(kept) if not own.classes]
    numbers = imageio.parse_sections(sections, shape[0])
    ignored = empty_are_ignored(
        annotation, [numbers[z] for z in empty], len(kept), len(empty) < len(kept), empty_sections
    )
    chosen = [
        SectionBoxes(own.boxes, own.classes, own.ignored, own.scores, bool(own.classes) or not ignored)
        for own in kept
    ]
    return VolumeBoxes(chosen, found, read.files, "; ".join(read.notes))


def _image_files(images: str | Path) -> list[Path]:
    """Return the file of each section, or the one file of all sections; of the first channel."""
    first, *_ = imageio.channel_paths(images)
    return imageio.slice_files(first) if imageio.are_slices(first) else [imageio.source_file(first)]


def _of_classes(own: SectionBoxes, instances: Collection[str] | None) -> SectionBoxes:
    """Return the boxes of some classes."""
    return own if instances is None else _chosen(own, [name in instances for name in own.classes])


def _in_rows(own: SectionBoxes, rows: range) -> SectionBoxes:
    """Return boxes as far as they are in a band of rows, in px of this band."""
    boxes = own.boxes - [rows.start, 0, rows.start, 0]
    before = boxes[:, 2] - boxes[:, 0]
    boxes[:, ::2] = boxes[:, ::2].clip(0, len(rows))
    left = boxes[:, 2] - boxes[:, 0]
    moved = SectionBoxes(boxes, own.classes, own.ignored, own.scores, own.annotated)
    return _chosen(moved, (left >= np.minimum(before, 0.5)).tolist())


def _chosen(own: SectionBoxes, kept: list[bool]) -> SectionBoxes:
    """Return some of the boxes of a section."""
    names = [name for name, keep in zip(own.classes, kept, strict=True) if keep]
    at = np.array(kept, bool)
    return SectionBoxes(own.boxes[at], names, own.ignored[at], own.scores[at], own.annotated)


def require_classes(
    found: Mapping[str, Iterable[str]], classes: Mapping[str, int | list[int]] | None
) -> None:
    """Raise `InputError` unless the classes of boxes are known, or are all the same.

    Parameters
    ----------
    found : mapping of str to iterable of str
        Classes of the boxes in each file, by its path.
    classes : mapping of str to int or list of int or None
        Setting `dataset.classes`. If it is None, there may be only one class.

    Raises
    ------
    InputError
        With the setting to type.

    Examples
    --------
    >>> from pipeline_lib.data.box_files import require_classes
    >>> require_classes({"a.json": ["cell"], "b.json": ["cell"]}, None)
    >>> require_classes({"a.json": ["cell", "mitosis"]}, {"background": 0, "cell": 1, "mitosis": 2})
    """
    places: dict[str, str] = {}
    for path, names in found.items():
        for name in names:
            places.setdefault(name, path)
    if classes is None:
        if len(places) < 2:
            return
        (first, place), *_, (last, other) = places.items()
        text = (
            f"{other}: found boxes of the class {last:.80}, but {place} has {first:.80}."
            if place != other
            else f"{place}: found boxes of the classes {listed([*places])}."
        )
        setting = _setting({"background": 0} | {name: n for n, name in enumerate(places, 1)})
        raise InputError(
            f"{text} Set {setting}, so that all of them are cells. With `target: classes`, a detector tells "
            "them apart; with `instances`, only the classes in this list are cells."
        )
    known = [name for name in classes if name not in NO_CELLS]
    unknown = [name for name in places if name not in known]
    if unknown:
        numbers = [value for own in classes.values() for value in (own if isinstance(own, list) else [own])]
        more = {name: max(numbers) + n for n, name in enumerate(unknown, 1)}
        raise InputError(
            f"{places[unknown[0]]}: found boxes of the class {listed(unknown)}, but `dataset.classes` has "
            f"{listed([*known])}. Correct the name, or set {_setting({**classes, **more})}. To leave such "
            "boxes out, name the other classes in `instances`, too."
        )


def _setting(classes: Mapping[str, Any]) -> str:
    """Return the setting `dataset.classes` as a user types it."""
    if len(classes) > 2 * LISTED:
        first = dict([*classes.items()][:LISTED])
        return f"`dataset.classes` with all names, as in {_setting(first)}"
    text = yaml.safe_dump(
        {"classes": dict(classes)}, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True
    )
    return f"`dataset: {text.strip()}`"
