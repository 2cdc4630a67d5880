"""Picture stage: draw volumes, errors, training curves and scores as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import h5py
import pandas as pd

from pipeline_lib import layout, provenance
from pipeline_lib.figures.causes import Place, Section, save_cause_sheet
from pipeline_lib.figures.charts import save_threshold_chart, save_training_chart
from pipeline_lib.figures.errors import save_error_sheet
from pipeline_lib.figures.volume import save_volume_strip
from pipeline_lib.instances.classes import ClassMap
from pipeline_lib.instances.postprocessing import PostProcessing
from pipeline_lib.kernels.sections import ignored_pixels
from pipeline_lib.metrics import Cause
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.scores import read_scores


def draw_volume_strip(
    dataset: str | Path,
    weight_map: str | Path | None,
    prediction: str | Path,
    segmentation: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    *,
    volume: str,
    split: str,
) -> None:
    """Draw the middle section of a volume as two rows of pictures (PNG).

    The first row shows what was found: raw image, outlines of the cells that were found and annotated, and
    segmentation. The second row shows how: annotation, separation border, weight map, cell probability and,
    of an ensemble, the disagreement of its members. Without annotation or weight map there are fewer. If
    there are more classes than background and cell, a row between them shows the classes annotated and found.
    A segment has the colour of the annotated cell with which it shares most pixels, so a difference in colour
    is an error. Pixels that are not annotated are hatched; if that is all of the middle section, another one
    is drawn. If a section is larger than 4096 px, only its middle is read.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume: `raw` and, if it is annotated, `labels`, `separation_border` and `ignore`.
    weight_map : str or Path or None
        HDF5 file with the `weight_map`. None if the volume has none.
    prediction : str or Path
        HDF5 file with the `cell_probability`.
    segmentation : str or Path
        HDF5 file with the predicted `labels`.
    postprocessing : str or Path
        JSON file of the model's post-processing. Its threshold is marked in the colour scale of the
        probability.
    output : str or Path
        PNG file to write.
    volume : str
        Name of the volume, for the title.
    split : str
        Split of the volume, for the title.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made, or if prediction and
        segmentation differ in shape.
    """
    weight_file: AbstractContextManager[Any] = (
        layout.require(weight_map, layout.WEIGHT_MAP) if weight_map else nullcontext({})
    )
    inputs = [dataset, *([weight_map] if weight_map else []), prediction, segmentation, postprocessing]
    with (
        provenance.making("draw_figures", [output], inputs, volume=volume, split=split) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
        layout.require(segmentation, layout.LABELS) as segmented,
        layout.require(dataset, layout.RAW) as data,
        weight_file as weighted,
    ):
        probability = predicted[layout.CELL_PROBABILITY.name]
        annotated = layout.LABELS.name in data
        save_volume_strip(
            output,
            raw=data[layout.RAW.name],
            labels=data[layout.LABELS.name] if annotated else None,
            border=data[layout.SEPARATION_BORDER.name] if annotated else None,
            ignore=data.get(layout.IGNORE.name),
            weights=weighted.get(layout.WEIGHT_MAP.name),
            probability=probability,
            segmented=_stored_labels(segmented, probability.shape),
            threshold=PostProcessing.read(postprocessing).threshold,
            volume=volume,
            split=split,
            record=record,
            disagreement=predicted.get(layout.DISAGREEMENT.name),
            **_classes(data, predicted),
        )


def draw_errors(
    dataset: str | Path,
    prediction: str | Path,
    segmentation: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    *,
    volume: str,
) -> None:
    """Draw where the segmentation of an annotated volume is wrong (PNG).

    The picture shows the errors in the worst section and close-ups of the ten worst places of the volume.
    Errors are the pixels in which truth and segmentation differ after warping (`metrics.error_map`). The
    worst places and the worst section have most pixels of splits and mergers; if equal, most pixels of all
    errors. Pixels that are not annotated are hatched; there are no errors there. If sections are larger than
    4096 px, only their middle is searched. Sections are read one by one.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume with `raw`, `labels`, `separation_border` and, if there is one, `ignore`.
    prediction : str or Path
        HDF5 file with the `cell_probability`.
    segmentation : str or Path
        HDF5 file with the predicted `labels`.
    postprocessing : str or Path
        JSON file of the model's post-processing, with the chosen threshold.
    output : str or Path
        PNG file to write.
    volume : str
        Name of the volume, for the title.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made, or if prediction and
        segmentation differ in shape.
    """
    inputs = [dataset, prediction, segmentation, postprocessing]
    with (
        provenance.making("draw_figures", [output], inputs, volume=volume) as record,
        layout.require(dataset, layout.RAW, layout.LABELS, layout.SEPARATION_BORDER) as data,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
        layout.require(segmentation, layout.LABELS) as segmented,
    ):
        probability = predicted[layout.CELL_PROBABILITY.name]
        save_error_sheet(
            output,
            raw=data[layout.RAW.name],
            labels=data[layout.LABELS.name],
            border=data[layout.SEPARATION_BORDER.name],
            ignore=data.get(layout.IGNORE.name),
            probability=probability,
            segmented=_stored_labels(segmented, probability.shape),
            threshold=PostProcessing.read(postprocessing).threshold,
            volume=volume,
            record=record,
        )


def draw_causes(
    causes: str | Path,
    files: Mapping[str, tuple[str | Path, str | Path]],
    output: str | Path,
    *,
    network: str,
    split: str = "validation",
) -> None:
    """Draw a close-up of an error of each cause (PNG).

    The largest error of a cause in each volume is known from the table. Of these, the one is drawn in whose
    volume the cause has most wrong pixels.

    Parameters
    ----------
    causes : str or Path
        Table of the causes of errors (CSV) of the evaluation stage.
    files : mapping of str to (str or Path, str or Path)
        For each volume of the split: HDF5 file with `raw`, `labels`, `separation_border` and, if there is
        one, `ignore`; and HDF5 file with the predicted `labels`.
    output : str or Path
        PNG file to write.
    network : str
        Name of the model, as in the column of this name.
    split : str, default "validation"
        Split whose errors are drawn.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made.
    """
    table = read_scores(causes)
    table = table[(table.network == network) & (table.split == split) & table.section.notna()]
    table = table.sort_values("pixels", ascending=False, kind="stable").drop_duplicates("cause")
    drawn = sorted({*table.volume})
    inputs = [causes, *(path for name in drawn for path in files[name])]
    with provenance.making("draw_figures", [output], inputs, network=network, split=split) as record:
        rows = {row.cause: row for row in table.itertuples()}
        places = [
            Place(cause, row.volume, int(row.section), int(row.y), int(row.x))
            for cause in Cause
            if (row := rows.get(cause.name.lower())) is not None
        ]

        def read(volume: str, z: int) -> Section:
            dataset, segmentation = files[volume]
            with (
                layout.require(dataset, layout.RAW, layout.LABELS, layout.SEPARATION_BORDER) as data,
                layout.require(segmentation, layout.LABELS) as segmented,
            ):
                labels = data[layout.LABELS.name]
                return Section(
                    data[layout.RAW.name][:, z],
                    labels[z],
                    _stored_labels(segmented, labels.shape)[z],
                    data[layout.SEPARATION_BORDER.name][z],
                    ignored_pixels(data.get(layout.IGNORE.name), z),
                )

        save_cause_sheet(places, read, output, network=network, split=split, record=record)


def draw_training(history: str | Path, output: str | Path) -> None:
    """Draw losses, validation scores and learning rate over the iterations of a training (PNG).

    Parameters
    ----------
    history : str or Path
        Training history (CSV), written by the training stage.
    output : str or Path
        PNG file to write.

    Raises
    ------
    InputError
        If `history` has changed since it was made.
    """
    with provenance.making("draw_figures", [output], [history]) as record:
        save_training_chart(pd.read_csv(history), output, record=record)


def draw_thresholds(scores: str | Path, thresholds: Sequence[str | Path], output: str | Path) -> None:
    """Draw error against threshold for the network and the baselines, and mark the chosen thresholds (PNG).

    Parameters
    ----------
    scores : str or Path
        Table of the scores of the network and of the baselines (CSV).
    thresholds : sequence of str or Path
        JSON files of the post-processing: first that of the network, then those of the baselines. A file is
        named after its model, as in the column `network` of `scores`.
    output : str or Path
        PNG file to write.

    Raises
    ------
    InputError
        If a file of `thresholds` is not readable JSON, or if a file has changed since it was made.
    """
    with provenance.making("draw_figures", [output], [scores, *thresholds]) as record:
        chosen = {Path(path).stem: read_json(path) for path in thresholds}
        save_threshold_chart(pd.read_csv(scores), chosen, output, record=record)


def _classes(data: h5py.File, predicted: h5py.File) -> dict[str, Any]:
    """Return the names of the classes and their maps, as arguments; nothing without other classes."""
    if layout.CLASS_PROBABILITY.name not in predicted:
        return {}
    probability = predicted[layout.CLASS_PROBABILITY.name]
    names, _ = layout.classes_of(probability)
    return {"classes": names, "target": data.get(layout.TARGET.name), "class_map": ClassMap(probability)}


def _stored_labels(file: h5py.File, shape: tuple[int, int, int]) -> h5py.Dataset:
    """Return the `labels` of an open segmentation file; `InputError` if their shape is not `shape`."""
    labels = file[layout.LABELS.name]
    if labels.shape != shape:
        path = Path(file.filename)
        raise InputError(
            f"{path}: shape {labels.shape}, but the prediction has {shape}. Delete {path} and run the "
            "workflow again."
        )
    return labels
