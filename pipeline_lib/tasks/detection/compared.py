"""Compare boxes of any program with those of an annotation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import layout
from pipeline_lib.imageio.boxes import SectionBoxes
from pipeline_lib.kernels.boxes import Boxes, area, masked_area
from pipeline_lib.kernels.sections import ignored_pixels, without
from pipeline_lib.metrics import BoxMatches, boxes_of_instances, match_boxes
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored
from pipeline_lib.tasks.detection.found import Found
from pipeline_lib.tasks.detection.scores import SIZES
from pipeline_lib.tasks.detection.truth import NOT_ANNOTATED, visible

#: Class of the objects of label images, which do not state one. No file has a class of this name.
ANY_CLASS = ""


def boxes_of_labels(labels: Stored, ignore: Stored | None = None) -> list[SectionBoxes]:
    """Return the boxes of the objects in labels, which are all of the class `ANY_CLASS`.

    Parameters
    ----------
    labels : (z, y, x) array of int
        Instance labels, 0 = background.
    ignore : (z, y, x) array, optional
        Non-zero where a pixel is not annotated. Objects are restricted to other pixels, and ignored as in a
        dataset if they can continue there (`truth.visible`).

    Returns
    -------
    list of SectionBoxes
        Boxes of each section, without scores.
    """
    sections = []
    for z in range(labels.shape[0]):
        ignored = ignored_pixels(ignore, z)
        ((boxes, _),) = boxes_of_instances(without(labels[z], ignored))
        cut_off, annotated = np.zeros(len(boxes), bool), True
        if ignore is not None and ignored is not None:
            (_, cut_off), annotated = visible(boxes, ignore, z), not ignored.all()
        names, scores = [ANY_CLASS] * len(boxes), np.full(len(boxes), np.nan)
        sections.append(SectionBoxes(boxes, names, cut_off, scores, annotated))
    return sections


def instances_as_found(
    truth: h5py.File, predicted: h5py.File, labels: Stored
) -> Callable[[int], Found] | None:
    """Return a function that finds the boxes of the instances of a section, as those of a detector.

    The score of a box is the mean cell probability of its instance. If objects are of several classes, its
    class is that with the highest mean probability. Instances are restricted to annotated pixels.

    Parameters
    ----------
    truth : h5py.File
        Dataset of the volume, with the boxes of its objects.
    predicted : h5py.File
        Prediction of the volume.
    labels : (z, y, x) array of int
        Instance labels that were made from it.

    Returns
    -------
    callable or None
        Function of the number of the section. None if the prediction lacks the classes of the objects.
    """
    probability, ignore = predicted[layout.CELL_PROBABILITY.name], truth.get(layout.IGNORE.name)
    of_classes = predicted.get(layout.CLASS_PROBABILITY.name)
    _, cells = layout.classes_of(truth[layout.BOX_CLASS.name])
    numbers: list[int] = []
    if len(cells) > 1:
        names, found = ([], []) if of_classes is None else layout.classes_of(of_classes)
        if found != cells:
            return None
        numbers = [names.index(name) for name in cells]

    def of_section(z: int) -> Found:
        section = without(labels[z], ignored_pixels(ignore, z))
        ((boxes, score),) = boxes_of_instances(section, probability[z])
        kind = np.ones(len(score), np.uint8)
        if numbers:
            means = [boxes_of_instances(section, of_classes[n, z])[0][1] for n in numbers]
            kind += np.argmax(means, axis=0).astype(np.uint8)
        return Found(boxes, kind, score)

    return of_section


def match_sections(
    truth: Sequence[SectionBoxes],
    found: Sequence[SectionBoxes],
    paths: tuple[str | Path, str | Path],
    ignore: Stored | None = None,
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
    ignore : (z, y, x) array, optional
        Non-zero where a pixel is not annotated. Boxes of the prediction there are left out if they match no
        object, as in `BoxTruth.matches`.

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
    annotated = [z for z, own in enumerate(truth) if own.annotated]
    pairs = [(truth[z], found[z]) for z in annotated]
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

    def hidden(z: int, boxes: Boxes) -> npt.NDArray[np.bool_] | None:
        return None if ignore is None else masked_area(boxes, ignore, z) >= NOT_ANNOTATED * area(boxes)

    matches = [
        match_boxes(
            own.boxes,
            other.boxes,
            np.nan_to_num(other.scores, nan=1.0),
            truth_class=numbers(own),
            found_class=numbers(other),
            ignored=own.ignored,
            left_out=hidden(z, other.boxes),
            classes=len(classes),
            sizes=[*SIZES.values()],
        )
        for z, (own, other) in zip(annotated, pairs, strict=True)
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
