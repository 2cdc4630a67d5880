"""Scores of the boxes of a volume and of its sections, as they are written to the tables of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline_lib import layout
from pipeline_lib.metrics import BoxMatches, detection_scores, pooled_matches
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.tasks.detection.found import sections_of
from pipeline_lib.tasks.detection.truth import BoxTruth

#: COCO's ranges of the size of an object: the square root of the area of its box (px).
SIZES = {"small": (0.0, 32.0), "medium": (32.0, 96.0), "large": (96.0, np.inf)}
_OF_SEVERAL = ("count_limit_low", "count_limit_high")  # which a single section does not have


def matched_sections(dataset: str | Path, detections: str | Path) -> Iterator[BoxMatches]:
    """Yield the matches of the detections of each section with the annotated objects.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume.
    detections : str or Path
        HDF5 file of `stages.detection.detect`.

    Yields
    ------
    BoxMatches
        Matches of one section, empty if none of its pixels is annotated (`BoxTruth.matches`).

    Raises
    ------
    InputError
        If a file is missing or damaged, or the classes differ.
    """
    with (
        layout.require(dataset, layout.BOXES) as annotated,
        layout.require(detections, layout.BOXES, layout.BOX_SCORE) as found,
    ):
        (_, true), (_, own) = (layout.classes_of(file[layout.BOX_CLASS.name]) for file in (annotated, found))
        if own != true:
            raise InputError(
                f"{detections}: found the classes {', '.join(own)}, but {dataset} has {', '.join(true)}. "
                f"Delete {detections} and run the workflow again."
            )
        truth = BoxTruth.of(annotated)
        for z, boxes in sections_of(found, truth.shape[0]):
            yield truth.matches(z, boxes, [*SIZES.values()])


def score_boxes(
    sections: Sequence[BoxMatches], threshold: float, classes: Sequence[str]
) -> tuple[dict[str, float], list[tuple[int, str, float]]]:
    """Return the scores of the boxes of a volume, and those of each section.

    Parameters
    ----------
    sections : sequence of BoxMatches
        Matches of each section with the ranges `SIZES`. Those of a section without annotated pixels are
        empty (`BoxTruth.matches`).
    threshold : float
        Smallest score of a box that is kept.
    classes : sequence of str
        Names of the classes of objects.

    Returns
    -------
    scores : dict of str to float
        Scores of `metrics.detection_scores`. The same scores of a class have the names `box_ap_CLASS`, if
        there are several classes. Those of a range of sizes have the names `box_ap_small`, `box_ap_medium`
        and `box_ap_large`, if objects of this size are annotated.
    of_sections : list of (int, str, float)
        Number of the section, name and value of each score of a section with annotated pixels, without those
        of sizes, and without limits of agreement, which need several sections.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import match_boxes
    >>> from pipeline_lib.tasks.detection.scores import SIZES, score_boxes
    >>> boxes = np.array([[0.0, 0, 20, 20], [30, 0, 70, 40]])
    >>> matches = match_boxes(boxes, boxes[:1], [0.9], sizes=[*SIZES.values()])
    >>> scores, _ = score_boxes([matches], 0.5, ["cell"])
    >>> {name: round(value, 2) for name, value in scores.items() if name.startswith("box_f1")}
    {'box_f1': 0.67, 'box_f1_small': 1.0, 'box_f1_medium': 0.0}
    """
    matches = pooled_matches(sections)
    annotated = matches.truth.sum(axis=(0, 2))[1:]
    of_sizes = {name: matches.of_size(number) for number, name in enumerate(SIZES) if annotated[number]}
    rows = [
        (z, metric, value)
        for z, own in enumerate(sections)
        if len(own.truth)
        for metric, value in _scores(own, threshold, _of_classes(own, classes)).items()
        if not metric.startswith(_OF_SEVERAL)
    ]
    return _scores(matches, threshold, _of_classes(matches, classes) | of_sizes), rows


def _of_classes(matches: BoxMatches, classes: Sequence[str]) -> dict[str, BoxMatches]:
    """Return the matches of each class; empty if there is only one."""
    if len(classes) == 1:
        return {}
    return {name: matches.of_class(number) for number, name in enumerate(classes)}


def _scores(matches: BoxMatches, threshold: float, parts: dict[str, BoxMatches]) -> dict[str, float]:
    """Return the scores of all boxes, and with a name at their end those of parts."""
    found = detection_scores(matches, threshold)
    for name, part in parts.items():
        for metric, value in detection_scores(part, threshold).items():
            found.setdefault(f"{metric}_{name}", value)  # a class can have the name `50`
    return found
