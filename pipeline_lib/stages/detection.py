"""Detection stage: from the boxes of all tiles to detections, their score threshold, and files of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib import layout, provenance
from pipeline_lib.imageio.boxes import (
    SectionBoxes,
    write_coco,
    write_counts,
    write_detections,
    write_geojson,
    write_rois,
)
from pipeline_lib.kernels import blocks
from pipeline_lib.metrics import contingency_tables, pooled_matches
from pipeline_lib.metrics.instances import count_objects, pooled_objects
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json
from pipeline_lib.scores import read_threshold, write_scores
from pipeline_lib.tasks.detection.found import (
    NOTHING,
    SMALLEST_SCORE,
    Found,
    Stored,
    create_arrays,
    joined,
    rows_of_sections,
    suppressed,
)
from pipeline_lib.tasks.detection.scores import matched_sections, score_boxes

#: How the score threshold is chosen: the best F1 at an IoU of 0.5, or the smallest error of the number of
#: objects in a section.
CRITERIA = ("box_f1", "count_error")


def detect(
    predictions: Sequence[str | Path],
    output: str | Path,
    *,
    shape: Sequence[int],
    jobs: int = 1,
    one_per_section: bool = False,
) -> None:
    """Remove the boxes of a volume that overlap boxes with a higher score, and write the others as HDF5.

    The result is that for each section as a whole. So it does not depend on tiles, or on the jobs that share
    a volume, and the number of boxes is not limited.

    Parameters
    ----------
    predictions : sequence of str or Path
        HDF5 files of `stages.prediction.predict`, one for each part, in the order of `blocks.parts`.
    output : str or Path
        HDF5 file to write: `boxes`, `box_section`, `box_class` and `box_score`, by section, band of 2,048
        rows in which the box begins, and descending score.
    shape : sequence of int
        Shape of the volume (z, y, x).
    jobs : int, default 1
        Number of jobs that shared the volume.
    one_per_section : bool, default False
        Whether only the box with the highest score of each section is kept.

    Raises
    ------
    InputError
        If a file is missing, damaged or lacks an array.
    """
    sections, height, width = shape
    parts = blocks.parts((sections, height, width), jobs)
    with (
        provenance.making("detect", [output], [*predictions], one_per_section=one_per_section) as record,
        layout.create(output, record) as file,
        ExitStack() as stack,
    ):
        opened = [
            stack.enter_context(layout.require(path, layout.BOXES, layout.BOX_SCORE)) for path in predictions
        ]
        create_arrays(file, *layout.classes_of(opened[0][layout.BOX_CLASS.name]))
        layout.copy_pixel_size(opened[0], file)
        of_parts = [
            rows_of_sections(source, part.sections.stop - part.sections.start)
            for source, part in zip(opened, parts, strict=True)
        ]
        count = 0
        for z in range(sections):
            pieces = []
            for source, part, rows in zip(opened, parts, of_parts, strict=True):
                if part.sections.start <= z < part.sections.stop:
                    own = rows[z - part.sections.start]
                    pieces += Stored(source, own, part.rows.start).pieces()
            bands = suppressed(pieces, height, width)
            for kept in [_best(bands)] if one_per_section else bands:
                kept.append_to(file, z)
                count += len(kept.score)
    numbers = several(count, "detection"), SMALLEST_SCORE, several(sections, "section")
    logger.info("%s: %s with a score of at least %g in %s", output, *numbers)


def _best(bands: Iterable[Found]) -> Found:
    """Return the box with the highest score."""
    best = NOTHING
    for kept in bands:
        every = joined([best, kept])
        best = every.at(np.argsort(-every.score, kind="stable")[:1])
    return best


def choose_score(
    datasets: Sequence[str | Path],
    detections: Sequence[str | Path],
    output: str | Path,
    *,
    criterion: str = "box_f1",
    one_per_section: bool = False,
) -> None:
    """Choose the score threshold of a detector on the validation volumes, and write it as JSON.

    Parameters
    ----------
    datasets : sequence of str or Path
        HDF5 files of the validation volumes.
    detections : sequence of str or Path
        HDF5 files of `detect` for the same volumes, in the same order.
    output : str or Path
        JSON file to write: `threshold`, `criterion`, `value` of the criterion there, `one_per_section`, and
        all thresholds that were tried (`grid`) with precision, recall and F1.
    criterion : {"box_f1", "count_error"}, default "box_f1"
        How the threshold is chosen.
    one_per_section : bool, default False
        Whether `detect` kept one box of each section. Then the threshold is 0, so that it remains.

    Raises
    ------
    InputError
        If a file is missing or damaged, the criterion is not known, or no threshold is better than none.
    """
    if criterion not in CRITERIA:
        raise InputError(
            f"config key `detection.criterion`: found `{criterion}`, expected one of {', '.join(CRITERIA)}."
        )
    inputs = [*datasets, *detections]
    settings: Json = {"criterion": criterion, "one_per_section": one_per_section}
    with provenance.making("choose_score", [output], inputs, **settings) as record:
        matches = pooled_matches(
            [
                section
                for paths in zip(datasets, detections, strict=True)
                for section in matched_sections(*paths)
            ]
        )
        curve = matches.curve()
        if one_per_section:
            threshold, value, criterion = 0.0, float(curve.f1[-1]), "box_f1"
        else:
            threshold, value = curve.best_f1() if criterion == "box_f1" else matches.best_count()
        if not np.isfinite(threshold):
            raise InputError(
                f"{output}: in the validation volumes, no threshold is better than to keep no box at all. "
                "Train longer, or check the annotations of the training volumes."
            )
        finite = np.isfinite(curve.threshold)
        write_json(
            output,
            {
                "threshold": threshold,
                "criterion": criterion,
                "value": value,
                "one_per_section": one_per_section,
                "grid": curve.threshold[finite].tolist(),
                "precision": curve.precision[finite].tolist(),
                "recall": curve.recall[finite].tolist(),
                "f1": curve.f1[finite].tolist(),
                "provenance": record,
            },
        )
    kept = "the best box of each section" if one_per_section else f"score of at least {threshold:.3f}"
    logger.info("%s: %s, %s %.4f", output, kept, criterion, value)


def evaluate_detections(
    dataset: str | Path,
    detections: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    sections: str | Path,
    *,
    segmentation: str | Path | None = None,
    volume: str,
    split: str,
    network: str,
    variant: str | None = None,
    seed: int | None = None,
    fold: int = 0,
) -> None:
    """Score the detections of one annotated volume, and write the scores as a table.

    The tables are those of `stages.evaluation.evaluate`, so that detectors and segmentations are compared in
    one table. All rows are at the chosen threshold.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume with the boxes of its objects.
    detections : str or Path
        HDF5 file of `detect`.
    postprocessing : str or Path
        JSON file of `choose_score`.
    output : str or Path
        CSV file to write, with the columns `scores.COLUMNS` and the scores of
        `tasks.detection.scores.score_boxes`.
    sections : str or Path
        CSV file to write, with the columns `scores.SECTION_COLUMNS` and the scores of each section, from 0.
    segmentation : str or Path, optional
        HDF5 file with the labels of the masks (`stages.masks.predict_masks`). With it, the tables also have
        the `metrics.INSTANCE_METRICS` and the `metrics.CELL_COUNTS`, unless the volume is annotated by boxes.
    volume : str
        Name of the volume, for the column of this name.
    split : str
        Split of the volume, for the column of this name.
    network : str
        Name of the model, for the column of this name.
    variant : str, optional
        Name of the settings with which the model was trained, for the column of this name. By default that of
        the network.
    seed : int, optional
        Seed of the training, for the column of this name. By default it is empty.
    fold : int, default 0
        Number of the cross-validation fold, for the column of this name.

    Raises
    ------
    InputError
        As `tasks.detection.scores.matched_sections`, or if `postprocessing` has no threshold, or the shape of
        `segmentation` is another one.
    """
    names: dict[str, Any] = {
        "volume": volume,
        "split": split,
        "network": network,
        "variant": variant or network,
        "seed": seed,
        "fold": fold,
    }
    inputs = [dataset, detections, postprocessing, *([segmentation] if segmentation else [])]
    with provenance.making("evaluate_detections", [output, sections], inputs, **names):
        import pandas as pd  # takes 0.25 s, and no other function needs it

        threshold = read_threshold(postprocessing)
        with layout.require(dataset, layout.BOXES) as annotated:
            _, classes = layout.classes_of(annotated[layout.BOX_CLASS.name])
        found, of_sections = score_boxes([*matched_sections(dataset, detections)], threshold, classes)
        of_masks, masks_of_sections = _mask_scores(dataset, segmentation) if segmentation else ({}, [])
        table = pd.DataFrame((found | of_masks).items(), columns=["metric", "value"])
        rows = of_sections + masks_of_sections
        by_section = pd.DataFrame(rows, columns=["section", "metric", "value"])
        tables = (each.assign(threshold=threshold) for each in (table, by_section))
        write_scores(output, sections, names, *tables)
    logger.info("%s (%s, %s): %d scores", volume, split, network, len(table))


def _mask_scores(
    dataset: str | Path, segmentation: str | Path
) -> tuple[dict[str, float], list[tuple[int, str, float]]]:
    """Return the scores of the labels of a volume and of each section; none without annotated labels."""
    with layout.require(dataset) as truth, layout.require(segmentation, layout.LABELS) as found:
        if layout.LABELS.name not in truth:
            return {}, []
        labels, stored = truth[layout.LABELS.name], found[layout.LABELS.name]
        if stored.shape != labels.shape:
            raise InputError(
                f"{segmentation}: shape {stored.shape}, but {dataset} has {labels.shape}. Delete "
                f"{segmentation} and run the workflow again."
            )
        tables = contingency_tables(labels, stored, ignore=truth.get(layout.IGNORE.name))
    objects = {z: count_objects(table) for z, table in enumerate(tables) if len(table.count)}
    if not objects:  # nothing is annotated
        return {}, []
    rows = [
        (z, metric, value)
        for z, own in objects.items()
        for metric, value in (own.scores() | own.counts()).items()
    ]
    pooled = pooled_objects([*objects.values()])
    return pooled.scores() | pooled.counts(), rows


def export_detections(
    detections: str | Path,
    postprocessing: str | Path,
    table: str | Path,
    counts: str | Path,
    rois: str | Path,
    geojson: str | Path,
    coco: str | Path,
    *,
    volume: str,
    shape: Sequence[int],
) -> int:
    """Write the detections of a volume whose score reaches the threshold, for people and for other programs.

    Parameters
    ----------
    detections : str or Path
        HDF5 file of `detect`.
    postprocessing : str or Path
        JSON file of `choose_score`.
    table : str or Path
        CSV file to write, one row for each detection, see `imageio.boxes.COLUMNS`.
    counts : str or Path
        CSV file to write, the number of detections of each section and class, see
        `imageio.boxes.COUNT_COLUMNS`.
    rois : str or Path
        Rectangles for ImageJ and Fiji to write (.zip).
    geojson : str or Path
        Detections for QuPath to write (.geojson).
    coco : str or Path
        COCO file to write (.json).
    volume : str
        Name of the volume.
    shape : sequence of int
        Shape of the volume (z, y, x).

    Returns
    -------
    int
        Number of detections.

    Raises
    ------
    InputError
        If a file is missing or damaged, or a file cannot be written.
    """
    threshold = read_threshold(postprocessing)
    outputs, inputs = [table, counts, rois, geojson, coco], [detections, postprocessing]
    with (
        provenance.making("export_detections", outputs, inputs, volume=volume) as record,
        layout.require(detections, layout.BOXES, layout.BOX_SCORE) as found,
    ):
        _, classes = layout.classes_of(found[layout.BOX_CLASS.name])
        # each function reads the sections itself, so that one section is in memory at a time
        sections = partial(_kept, found, threshold, volume, shape[0])
        count = write_detections(table, sections())
        write_counts(counts, sections(), classes)
        write_rois(rois, sections())
        write_geojson(geojson, sections(), frames=layout.frame_interval(found) is not None)
        write_coco(coco, sections(), shape=shape, classes=classes, provenance=record)
    logger.info("%s: %s in %s", table, several(count, "object"), several(shape[0], "section"))
    return count


def _kept(
    found: h5py.File, threshold: float, volume: str, depth: int
) -> Iterator[tuple[str, int, SectionBoxes]]:
    """Yield volume, number and detections of each section, without those below the threshold."""
    names, _ = layout.classes_of(found[layout.BOX_CLASS.name])
    for z, rows in enumerate(rows_of_sections(found, depth)):
        pieces = (piece.read() for piece in Stored(found, rows).pieces())
        # many boxes have a low score, so only a piece of them is read at a time
        own = joined([piece.at(piece.score.astype(float) >= threshold) for piece in pieces])
        classes = [names[number] for number in own.kind]
        ignored = np.zeros(len(classes), bool)
        yield volume, z, SectionBoxes(own.boxes, classes, ignored, own.score.astype(float))
