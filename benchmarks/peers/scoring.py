"""Score what a peer predicted, by the scores of bordure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from benchmarks.peers.data import DataSet
from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.kernels.sections import OUTSIDE, padded, unpadded
from pipeline_lib.metrics.thinning import flood
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.postprocessing import RIM_LOSS, THRESHOLDS, best_setting


class Volume(NamedTuple):
    """Truth and prediction of a volume: labels (z, y, x), cells (z, y, x) of bool, and files of sections."""

    labels: np.ndarray
    cells: np.ndarray
    files: list[Path]


def score(data: DataSet, truth: Path, out: Path, splits: tuple[str, ...]) -> dict[str, Any]:
    """Return the scores of a peer.

    Parameters
    ----------
    data : DataSet
        The data set.
    truth : Path
        Folder with the annotations, written by `data.export`.
    out : Path
        Folder that the peer wrote.
    splits : sequence of str
        Splits to score: `validation`, `test` or both.

    Returns
    -------
    dict
        `threshold`, None if the peer makes its own instances, and for each split a dictionary of all scores:
        means over volumes, as in the tables of bordure.

    Raises
    ------
    InputError
        If the prediction of an image is missing, or has another shape than the image.
    """
    validation = [*_volumes(truth, out, "validation")]
    threshold = None
    if validation[0].files[0].name.endswith("_probability.tif"):
        tried = {at: _mean(data, validation, at) for at in THRESHOLDS}
        threshold = chosen_threshold(tried, data.criterion)
    found = {}
    for split in splits:
        volumes = validation if split == "validation" else [*_volumes(truth, out, split)]
        found[split] = _mean(data, volumes, threshold)
    return {"threshold": threshold, **found}


def chosen_threshold(tried: dict[float, dict[str, float]], criterion: str) -> float:
    """Return the threshold with the best mean scores, by the rule by which bordure chooses its own."""
    values, errors = (
        np.array([[own[name] for own in tried.values()]]) for name in (criterion, "pixel_error")
    )
    if criterion not in RIM_LOSS:
        errors[:] = np.nan
    chosen = best_setting(values, errors, np.zeros(len(tried)), RIM_LOSS.get(criterion, 0.0))
    return [*tried][chosen]


def _volumes(truth: Path, out: Path, split: str) -> Iterator[Volume]:
    for volume, *sections in read_json(truth / "volumes.json")[split]:
        with layout.require(truth / f"{volume}.h5", *layout.PIXEL_ARRAYS) as file:
            labels, border = (file[array.name][:] for array in layout.PIXEL_ARRAYS)
        cells = np.stack([cells_apart(*pair) for pair in zip(labels, border, strict=True)])
        yield Volume(labels, cells, [_file(out / split, name) for name in sections])


def _file(folder: Path, name: str) -> Path:
    kinds = ("labels", "probability")
    for path in (folder / f"{name}_{kind}.tif" for kind in kinds):
        if path.exists():
            return path
    raise InputError(
        f"{folder}: has no prediction of {name}, expected {name}_labels.tif or _probability.tif."
    )


def _mean(data: DataSet, volumes: list[Volume], threshold: float | None) -> dict[str, float]:
    each = [scores_of(volume, _instances(data, volume, threshold)) for volume in volumes]
    return {metric: float(np.mean([scores[metric] for scores in each])) for metric in each[0]}


def _instances(data: DataSet, volume: Volume, threshold: float | None) -> np.ndarray:
    """Return the predicted instances (z, y, x), at a threshold if the prediction is a probability."""
    predicted = []
    for path, truth in zip(volume.files, volume.labels, strict=True):
        found = tifffile.imread(path)
        if found.shape != truth.shape:
            raise InputError(f"{path}: found the shape {found.shape}, expected {truth.shape}.")
        if threshold is not None:
            found = instances(found, PostProcessing(threshold, data.minimum_size))
        predicted.append(found.astype(np.int32))
    return np.stack(predicted)


def scores_of(volume: Volume, predicted: np.ndarray) -> dict[str, float]:
    """Return all scores of predicted instances (z, y, x).

    For the scores of the ISBI challenge, true cells are 4-connected regions. Predicted instances that touch
    are not merged, unlike in a map of probabilities.
    """
    regions = metrics.connected_components(volume.cells)
    return metrics.instance_scores(volume.labels, predicted) | {
        "pixel_error": metrics.pixel_error(volume.cells, predicted),
        "rand_error": metrics.rand_error(regions, predicted),
        "v_rand_thin": metrics.v_rand(regions, thinned(predicted)),
    }


def thinned(predicted: np.ndarray) -> np.ndarray:
    """Grow predicted instances (z, y, x) until they touch, like `metrics.thin_borders`, without merging."""
    grown = np.empty(predicted.shape, np.int32)
    for z, section in enumerate(predicted):
        labels = padded(section, np.int32)
        labels[[0, -1]] = labels[:, [0, -1]] = OUTSIDE
        flood(labels)
        grown[z] = unpadded(labels)
    return grown
