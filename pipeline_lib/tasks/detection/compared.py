"""Compare boxes of any program with those of an annotation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_lib.imageio.boxes import SectionBoxes
from pipeline_lib.metrics import BoxMatches, boxes_of_instances, match_boxes
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored
from pipeline_lib.tasks.detection.scores import SIZES

#: Class of the objects of label images, which do not state one. No file has a class of this name.
ANY_CLASS = ""


def boxes_of_labels(labels: Stored, annotated: Sequence[bool] | None = None) -> list[SectionBoxes]:
    """Return the boxes of the objects in labels, which are all of the class `ANY_CLASS`.

    Parameters
    ----------
    labels : (z, y, x) array of int
        Instance labels, 0 = background.
    annotated : sequence of bool, optional
        Whether each section is annotated. By default all are.

    Returns
    -------
    list of SectionBoxes
        Boxes of each section, without scores.
    """
    found = [boxes for boxes, _ in boxes_of_instances(labels)]
    return [
        SectionBoxes(own, [ANY_CLASS] * len(own), np.zeros(len(own), bool), np.full(len(own), np.nan), known)
        for own, known in zip(found, annotated or [True] * len(found), strict=True)
    ]


def match_sections(
    truth: Sequence[SectionBoxes], found: Sequence[SectionBoxes], paths: tuple[str | Path, str | Path]
) -> tuple[list[BoxMatches], list[str], list[str]]:
    """Match the boxes of a prediction with those of an annotation.

    Classes are compared by their names. If both files have a single class, or one is a label image, boxes are
    compared whatever their class. Boxes without scores all have the score 1.

    Parameters
    ----------
    truth, found : sequence of SectionBoxes
        Boxes of each section. Those of sections that are not annotated are left out.
    paths : tuple of (str or Path, str or Path)
        Files of both, for messages.

    Returns
    -------
    matches : list of BoxMatches
        Matches of each annotated section.
    classes : list of str
        Names of the classes.
    notes : list of str
        What was inferred.

    Raises
    ------
    InputError
        If no section is annotated, the classes of both have nothing in common, or only some boxes have a
        score.
    """
    pairs = [(own, other) for own, other in zip(truth, found, strict=True) if own.annotated]
    if not pairs:
        raise InputError(f"{paths[0]}: no section is annotated, so there is nothing to score.")
    classes, notes = _classes(pairs, paths)
    scores = np.concatenate([other.scores for _, other in pairs])
    unknown = np.isnan(scores)
    if unknown.any() and not unknown.all():
        raise InputError(
            f"{paths[1]}: {np.count_nonzero(unknown)} of {len(unknown)} boxes have no score. Write a score "
            "for all of them or for none."
        )
    if unknown.any():
        notes.append("boxes have no scores: AP counts all as equally sure")

    def numbers(boxes: SectionBoxes) -> list[int]:
        return [classes.index(name) if len(classes) > 1 else 0 for name in boxes.classes]

    matches = [
        match_boxes(
            own.boxes,
            other.boxes,
            np.nan_to_num(other.scores, nan=1.0),
            truth_class=numbers(own),
            found_class=numbers(other),
            ignored=own.ignored,
            classes=len(classes),
            sizes=[*SIZES.values()],
        )
        for own, other in pairs
    ]
    return matches, classes, notes


def _classes(
    pairs: Sequence[tuple[SectionBoxes, SectionBoxes]], paths: tuple[str | Path, str | Path]
) -> tuple[list[str], list[str]]:
    """Return the names of the classes to compare, and what was inferred."""
    true, found = ({name for pair in pairs for name in pair[side].classes} for side in (0, 1))
    every = sorted(true | found)
    if ANY_CLASS in every or (len(true) <= 1 and len(found) <= 1):
        others = [name for name in every if name != ANY_CLASS]
        note = f"classes are not compared: {', '.join(others)}"
        return [ANY_CLASS], [note] if len(others) > 1 else []
    if true and found and not true & found:
        raise InputError(
            f"{paths[1]}: found the classes {', '.join(sorted(found))}, but {paths[0]} has "
            f"{', '.join(sorted(true))}. Give them the same names."
        )
    return every, []
