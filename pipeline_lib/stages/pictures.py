"""Picture stage: datasets, predictions, segmentations and tables in, pictures (PNG) of them out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import h5py
import pandas as pd

from pipeline_lib import layout, provenance
from pipeline_lib.figures.charts import save_threshold_chart, save_training_chart
from pipeline_lib.figures.errors import save_error_sheet
from pipeline_lib.figures.volume import save_volume_strip
from pipeline_lib.instances.postprocessing import PostProcessing
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json


def draw_volume_strip(
    dataset: Path,
    weight_map: Path | None,
    prediction: Path,
    segmentation: Path,
    postprocessing: Path,
    output: Path,
    *,
    volume: str,
    split: str,
) -> None:
    """Draw the middle section of a volume as a strip of pictures (PNG).

    `figures.volume.save_volume_strip` describes what the strip shows. Only that section is read or, if it is
    large, its middle.

    Parameters
    ----------
    dataset, prediction, segmentation : Path
        HDF5 files of the volume: raw image with or without truth, `cell_probability`, and the instance
        `labels` of the stage `segment`.
    weight_map : Path or None
        HDF5 file of the weight map, if there is one.
    postprocessing : Path
        JSON file of the model's post-processing. Its threshold is marked in the scale of the probability.
    output : Path
        The file to write.
    volume, split : str
        Name and split of the volume, for the title.

    Raises
    ------
    InputError
        If a file cannot be read, lacks an array, or has changed since it was made, or if prediction and
        segmentation differ in shape.
    """
    inputs = [dataset, *([weight_map] if weight_map else []), prediction, segmentation, postprocessing]
    with (
        provenance.making("draw_figures", [output], inputs, volume=volume, split=split) as record,
        layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
        layout.require(segmentation, layout.LABELS) as segmented,
        layout.require(dataset, layout.RAW) as data,
        layout.require(weight_map, layout.WEIGHT_MAP) if weight_map else nullcontext({}) as weighted,
    ):
        probability = predicted[layout.CELL_PROBABILITY.name]
        annotated = layout.LABELS.name in data
        save_volume_strip(
            output,
            raw=data[layout.RAW.name],
            labels=data[layout.LABELS.name] if annotated else None,
            border=data[layout.SEPARATION_BORDER.name] if annotated else None,
            weights=weighted.get(layout.WEIGHT_MAP.name),
            probability=probability,
            segmented=_stored_labels(segmented, probability.shape),
            threshold=PostProcessing.read(postprocessing).threshold,
            volume=volume,
            split=split,
            record=record,
        )


def draw_errors(
    dataset: Path,
    prediction: Path,
    segmentation: Path,
    postprocessing: Path,
    output: Path,
    *,
    volume: str,
) -> None:
    """Draw the error map of an annotated volume over its worst section, and its ten worst places (PNG).

    `figures.errors.save_error_sheet` describes what errors are and which places are the worst. Sections are
    read one by one.

    Parameters
    ----------
    dataset, prediction, segmentation : Path
        HDF5 files of the volume: raw image and truth, `cell_probability`, and the instance `labels` of the
        stage `segment`.
    postprocessing : Path
        JSON file of the model's post-processing, with the chosen threshold.
    output : Path
        The file to write.
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
            probability=probability,
            segmented=_stored_labels(segmented, probability.shape),
            threshold=PostProcessing.read(postprocessing).threshold,
            volume=volume,
            record=record,
        )


def draw_training(history: Path, output: Path) -> None:
    """Draw losses, validation V-Rand and learning rate over the iterations of a training (PNG).

    Parameters
    ----------
    history : Path
        Training history (CSV).
    output : Path
        The file to write.

    Raises
    ------
    InputError
        If `history` has changed since it was made.
    """
    with provenance.making("draw_figures", [output], [history]) as record:
        save_training_chart(pd.read_csv(history), output, record=record)


def draw_thresholds(scores: Path, thresholds: Sequence[Path], output: Path) -> None:
    """Draw error against threshold for each classifier, with its chosen threshold marked (PNG).

    Parameters
    ----------
    scores : Path
        Table of the scores of all classifiers (CSV).
    thresholds : sequence of Path
        Files {model}.json of the post-processing, one for each classifier, the trained network's first.
    output : Path
        The file to write.

    Raises
    ------
    InputError
        If a file of `thresholds` is not readable JSON, or a file has changed since it was made.
    """
    with provenance.making("draw_figures", [output], [scores, *thresholds]) as record:
        chosen = {path.stem: read_json(path) for path in thresholds}
        save_threshold_chart(pd.read_csv(scores), chosen, output, record=record)


def _stored_labels(file: h5py.File, shape: tuple[int, int, int]) -> h5py.Dataset:
    """Return the `labels` in an open segmentation file.

    Raises `InputError` if they do not have the `shape` (z, y, x) of the prediction.
    """
    labels = file[layout.LABELS.name]
    if labels.shape != shape:
        path = Path(file.filename)
        raise InputError(
            f"{path}: shape {labels.shape}, but the prediction has {shape}. Delete {path} and run the "
            "workflow again."
        )
    return labels
