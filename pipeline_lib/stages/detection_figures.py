"""Figure stage of detectors: sections with boxes for the viewer, and charts of curves and counts (SVG)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib import layout, provenance
from pipeline_lib.figures.colouring import Window, raw_picture
from pipeline_lib.figures.detection_charts import save_count_chart, save_curve_chart
from pipeline_lib.figures.layers import cells_uri, gray_if_equal, picture_uri
from pipeline_lib.figures.parts import numbered
from pipeline_lib.figures.shown import choose_sections, describe_part, shown_part, write_layers
from pipeline_lib.kernels.boxes import area
from pipeline_lib.metrics import BoxMatches, pooled_matches
from pipeline_lib.metrics.detection import AT_50, LEFT_OUT, TRUE
from pipeline_lib.runtime.types import Json, Stored
from pipeline_lib.scores import read_threshold
from pipeline_lib.tasks.detection.found import Found, sections_of
from pipeline_lib.tasks.detection.scores import matched_sections
from pipeline_lib.tasks.detection.truth import IGNORED, BoxTruth


def prepare_detection_layers(
    dataset: str | Path,
    detections: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    *,
    segmentation: str | Path | None = None,
    volume: str,
    split: str,
    network: str,
    pixels: int,
) -> None:
    """Write some sections of a volume with the boxes annotated and found, for the viewer of a report (JSON).

    The format is that of `stages.layers.prepare_layers`, with `boxes` in place of pictures of cells. If
    there are many sections, those with most missed and false ones are shown, and others at even distances.
    Sections are read one by one.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume: `raw` and, if it is annotated, the boxes of its objects.
    detections : str or Path
        HDF5 file of `stages.detection.detect`.
    postprocessing : str or Path
        JSON file of `stages.detection.choose_score`.
    output : str or Path
        JSON file to write.
    segmentation : str or Path, optional
        HDF5 file with the labels of the masks (`stages.masks.predict_masks`), which are a further layer.
    volume, split, network : str
        Name and split of the volume, and name of the model.
    pixels : int
        Number of pixels to show. One section is always shown.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made.
    """
    inputs = [dataset, detections, postprocessing, *([segmentation] if segmentation else [])]
    names = {"volume": volume, "split": split, "network": network}
    with (
        provenance.making("prepare_layers", [output], inputs, **names, pixels=pixels) as record,
        layout.require(dataset, layout.RAW) as data,
        layout.require(detections, layout.BOXES, layout.BOX_SCORE) as found,
        ExitStack() as stack,
    ):
        masks = stack.enter_context(layout.require(segmentation, layout.LABELS)) if segmentation else {}
        view = _View(data, found, read_threshold(postprocessing), masks.get(layout.LABELS.name))
        counts = {z: own.counts for z, own in view.outcomes()}
        worst = sorted(counts, key=lambda z: -counts[z]["missed"] - counts[z]["false"])
        window, number = shown_part(view.shape, pixels)
        shown = {*choose_sections(view.shape[0], number, worst if view.annotated else ())}
        write_layers(
            {
                **names,
                "noun": "object",
                **describe_part(data[layout.RAW.name].shape, layout.pixel_size(data), window),
                "annotated": view.annotated,
                "scales": {},
                "classes": [],
                "shown": [view.section(z, own, window) for z, own in view.outcomes() if z in shown],
                "diameters": {},
                "counts": {
                    name: sum(own[name] for own in counts.values()) for name in ("found", "missed", "false")
                },
                "provenance": record,
            },
            output,
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


@dataclass(frozen=True)
class _Outcome:
    """Detections and objects of a section, and what became of them.

    Parameters
    ----------
    found : Found
        Detections above the threshold.
    true : (n,) array of bool
        Which of them match an object; without annotation, all.
    partner : (n,) array of int
        The object that each matches, from 1, 0 = none.
    objects : (k, 4) array of float64
        Boxes of the objects.
    score : (k,) array of float
        Score of the detection that matches each object, also below the threshold; NaN = none.
    ignored : (k,) array of bool
        Which objects are not scored.
    """

    found: Found
    true: np.ndarray
    partner: np.ndarray
    objects: np.ndarray
    score: np.ndarray
    ignored: np.ndarray
    threshold: float

    @property
    def missed(self) -> np.ndarray:
        """Which objects no detection above the threshold matches."""
        return ~self.ignored & ~(self.score >= self.threshold)

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of objects found and missed, and of false detections."""
        return {
            "found": int(np.count_nonzero(self.true)),
            "missed": int(np.count_nonzero(self.missed)),
            "false": int(np.count_nonzero(~self.true)),
        }


@dataclass(frozen=True)
class _View:
    """A volume with its detections."""

    data: h5py.File
    found: h5py.File
    threshold: float
    masks: Stored | None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the volume."""
        _, sections, height, width = self.data[layout.RAW.name].shape
        return sections, height, width

    @property
    def annotated(self) -> bool:
        """Whether the volume has an annotation."""
        return layout.BOXES.name in self.data

    def outcomes(self) -> Iterator[tuple[int, _Outcome]]:
        """Yield the number of each section, and what became of its detections and objects."""
        truth = BoxTruth.of(self.data) if self.annotated else None
        for z, own in sections_of(self.found, self.shape[0]):
            kept = own.score.astype(float) >= self.threshold
            if truth is None:
                nothing = np.zeros((0, 4))
                true, none = np.ones(np.count_nonzero(kept), bool), np.zeros(0)
                partner = np.zeros(len(true), int)
                yield z, _Outcome(own.at(kept), true, partner, nothing, none, none > 0, self.threshold)
                continue
            rows, matches = truth.rows(z), truth.matches(z, own)
            hits = matches.coco[0, AT_50] == TRUE
            score = np.full(len(truth.boxes[rows]), np.nan)
            score[matches.partner[hits]] = matches.score[hits]
            left_out = matches.coco[0, AT_50] == LEFT_OUT
            shown = kept & ~left_out
            yield (
                z,
                _Outcome(
                    own.at(shown),
                    hits[shown],
                    np.where(hits, matches.partner + 1, 0)[shown],
                    truth.boxes[rows],
                    score,
                    truth.state[rows] == IGNORED,
                    self.threshold,
                ),
            )

    def section(self, z: int, own: _Outcome, window: Window) -> Json:
        """Return layers, boxes and errors of a section; boxes are (x0, y0, x1, y1), px of the window."""
        layers = {"raw": picture_uri(gray_if_equal(raw_picture(self.data[layout.RAW.name][:, z, *window])))}
        section: Json = {"z": z, "layers": layers}
        if self.masks is not None:
            labels, numbers = numbered(self.masks[z, *window])
            layers["masks"], section["masks_bits"] = cells_uri(numbers, np.arange(len(labels)))
        names, of_objects = layout.classes_of(self.found[layout.BOX_CLASS.name])
        size = own.found.boxes[:, 2:] - own.found.boxes[:, :2]
        columns: Json = {
            "label": [*range(1, len(size) + 1)],
            "score": own.found.score.astype(float).round(4).tolist(),
            "height": size[:, 0].round(1).tolist(),
            "width": size[:, 1].round(1).tolist(),
        }
        if len(of_objects) > 1:
            columns["class"] = [names[number] for number in own.found.kind]
        kinds = np.where(own.true, "found", "false")
        section["boxes"] = {"cells": _shifted(own.found.boxes, kinds, window)}
        if self.annotated:
            missed = own.missed
            matched = np.zeros(len(own.objects), int)
            known = own.partner > 0
            matched[own.partner[known] - 1] = np.flatnonzero(known) + 1
            columns |= {"match": own.partner.tolist(), "part_of": [0] * len(size)}
            kinds = np.select([own.ignored, missed], ["ignored", "missed"], "found")
            section["boxes"] = {"annotation": _shifted(own.objects, kinds, window), **section["boxes"]}
            section["annotated_cells"] = {
                "label": [*range(1, len(matched) + 1)],
                "area": area(own.objects).round().astype(int).tolist(),
                "match": matched.tolist(),
                "part_of": [0] * len(matched),
            }
            section["errors"] = [
                *_errors("missed", own.objects[missed], own.score[missed], area(own.objects[missed]), window),
                *_errors(
                    "false",
                    own.found.boxes[~own.true],
                    own.found.score[~own.true],
                    own.found.score[~own.true],
                    window,
                ),
            ]
        return section | {"found_cells": columns}


def _shifted(boxes: np.ndarray, kinds: np.ndarray, window: Window) -> list[list[Any]]:
    """Return boxes as x0, y0, x1, y1 (px of the window) and kind."""
    top, left = (edge.start for edge in window)
    moved = boxes[:, [1, 0, 3, 2]] - [left, top, left, top]
    return [[*box, kind] for box, kind in zip(moved.round(1).tolist(), kinds.tolist(), strict=True)]


def _errors(
    cause: str, boxes: np.ndarray, scores: np.ndarray, severity: np.ndarray, window: Window
) -> list[Json]:
    """Return missed objects or false detections in the window, the worst first."""
    (rows, columns), errors = window, []
    for k in np.argsort(-severity, kind="stable"):
        y0, x0, y1, x1 = boxes[k] - [rows.start, columns.start] * 2
        y, x = (y0 + y1) / 2, (x0 + x1) / 2
        if 0 <= y < rows.stop - rows.start and 0 <= x < columns.stop - columns.start:
            errors.append(
                {
                    "cause": cause,
                    "severity": float(severity[k]),
                    "pixels": round((y1 - y0) * (x1 - x0)),
                    "score": None if np.isnan(scores[k]) else round(float(scores[k]), 4),
                    "y": round(y),
                    "x": round(x),
                    "box": [round(max(y0, 0)), round(max(x0, 0)), round(y1), round(x1)],
                }
            )
    return errors
