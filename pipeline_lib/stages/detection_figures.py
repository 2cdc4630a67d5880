"""Picture stage of detectors: draw boxes on images, curves and counts as PNG files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib import layout, provenance
from pipeline_lib.figures.boxes import Outcome, save_detection_sheet
from pipeline_lib.figures.detection_charts import save_count_chart, save_curve_chart
from pipeline_lib.metrics import BoxMatches, pooled_matches
from pipeline_lib.scores import read_threshold
from pipeline_lib.tasks.detection.found import sections_of
from pipeline_lib.tasks.detection.scores import matched_sections
from pipeline_lib.tasks.detection.truth import IGNORED, BoxTruth


def draw_detections(
    dataset: str | Path,
    detections: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    *,
    segmentation: str | Path | None = None,
    volume: str,
    split: str,
) -> None:
    """Draw the detections of a volume on one of its sections, and close-ups of the worst places (PNG).

    If the volume is annotated, objects that were found, those that were missed and false detections differ in
    colour and line. The section is the one with most missed and false ones. The close-ups show the largest
    missed objects and the false detections with the highest scores. Without annotation, all detections of the
    middle section are drawn. Sections are read one by one, in bands of rows.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume: `raw` and, if it is annotated, the boxes of its objects.
    detections : str or Path
        HDF5 file of `stages.detection.detect`.
    postprocessing : str or Path
        JSON file of `stages.detection.choose_score`.
    output : str or Path
        PNG file to write.
    segmentation : str or Path, optional
        HDF5 file with the labels of the masks (`stages.masks.predict_masks`), whose outlines are drawn, too.
    volume : str
        Name of the volume, for the title.
    split : str
        Split of the volume, for the title.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made.
    """
    inputs = [dataset, detections, postprocessing, *([segmentation] if segmentation else [])]
    with (
        provenance.making("draw_figures", [output], inputs, volume=volume, split=split) as record,
        layout.require(dataset, layout.RAW) as data,
        layout.require(detections, layout.BOXES, layout.BOX_SCORE) as found,
        ExitStack() as stack,
    ):
        masks = stack.enter_context(layout.require(segmentation, layout.LABELS)) if segmentation else {}
        threshold = read_threshold(postprocessing)
        annotated = layout.BOXES.name in data
        save_detection_sheet(
            output,
            raw=data[layout.RAW.name],
            outcomes=_outcomes(found, threshold, BoxTruth.of(data) if annotated else None, data),
            annotated=annotated,
            labels=data.get(layout.LABELS.name),
            segmented=masks.get(layout.LABELS.name),
            threshold=threshold,
            volume=volume,
            split=split,
            record=record,
        )


def draw_detection_charts(
    volumes: Sequence[Mapping[str, Any]],
    postprocessing: str | Path,
    curves: str | Path,
    counts: str | Path,
) -> None:
    """Draw precision, recall and FROC at all score thresholds, and the numbers of objects (SVG).

    Parameters
    ----------
    volumes : sequence of dict
        Annotated volumes: `split`, and the files `dataset` and `detections`.
    postprocessing : str or Path
        JSON file of `stages.detection.choose_score`. Its threshold is marked.
    curves : str or Path
        SVG file to write: precision against recall, and recall against false detections per section.
    counts : str or Path
        SVG file to write: numbers of detections against numbers of annotated objects, and their difference.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made.
    """
    inputs = [file for own in volumes for file in (own["dataset"], own["detections"])]
    with provenance.making("draw_figures", [curves, counts], [*inputs, postprocessing]) as record:
        threshold = read_threshold(postprocessing)
        sections: dict[str, list[BoxMatches]] = {}
        for own in volumes:
            sections.setdefault(own["split"], []).extend(matched_sections(own["dataset"], own["detections"]))
        matches = {split: pooled_matches(found) for split, found in sections.items()}
        save_curve_chart(matches, threshold, curves, record=record)
        save_count_chart(matches, threshold, counts, record=record)


def _outcomes(
    found: h5py.File, threshold: float, truth: BoxTruth | None, data: h5py.File
) -> Iterator[Outcome]:
    """Yield what became of the detections and objects of each section."""
    none, no_score = np.empty((0, 4)), np.empty(0)
    for z, own in sections_of(found, data[layout.RAW.name].shape[1]):
        if truth is None:
            kept = own.score.astype(float) >= threshold
            yield Outcome(own.boxes[kept], none, no_score, none, no_score, none)
        else:
            rows = truth.rows(z)
            ignored = truth.state[rows] == IGNORED
            yield Outcome.of(truth.boxes[rows], ignored, own.boxes, truth.matches(z, own), threshold)
