"""Tell instance labels from probability maps in predictions of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline_lib.imageio import meaning
from pipeline_lib.imageio.meaning import Areas, Values
from pipeline_lib.runtime.errors import InputError

#: What a prediction can contain. "auto" infers it from the areas that the values form.
PREDICTION_KINDS = ("auto", "labels", "probability")

_SMOOTH = 16  # a smaller median difference between unequal neighbours means gray levels


def kind_of_prediction(path: str | Path, prediction: np.ndarray) -> str:
    """Return whether a prediction has instance labels or probabilities.

    Values with a fractional part are probabilities, and so are one or two values, one of them 0: a binary
    map. Other whole numbers are labels if most of them form one area or the file has integers of more than 16
    bits. They are probabilities if they are scattered or change smoothly, as gray levels do.

    Parameters
    ----------
    path : str or Path
        File of the prediction, for the error.
    prediction : (z, y, x) array
        Its values.

    Returns
    -------
    {"labels", "probability"}
        What the values are.

    Raises
    ------
    InputError
        If neither is clear.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.imageio import kind_of_prediction
    >>> labels = np.repeat(np.arange(8, dtype=np.uint8), 40).reshape(1, 8, 40)
    >>> kind_of_prediction("labels.tif", labels), kind_of_prediction("map.tif", labels / 8)
    ('labels', 'probability')
    """
    if prediction.dtype.kind == "f":
        whole = np.isfinite(prediction).all() and (prediction == np.floor(prediction)).all()
        if not whole or prediction.max() <= 1:
            return "probability"
    found = _values(prediction)
    labels = int(np.count_nonzero(found.values))
    if labels <= 1:
        return "probability"
    if prediction.dtype.kind in "iu" and prediction.dtype.itemsize > 2:
        return "labels"
    sample = [prediction[(z, *block.read)] for z, block in found.sample]
    areas = meaning.measure_areas(found, sample)
    if areas.scattered(labels):
        return "probability"
    if areas.like_labels(few=labels <= meaning.FEW):
        return "labels"
    if areas.split > meaning.MOST_SPLIT and labels > _SMOOTH and _step(sample) < _SMOOTH:
        return "probability"
    raise InputError(_question(path, prediction, found, areas))


def _values(prediction: np.ndarray) -> Values:
    counter = meaning.ValueCounter()
    for z, section in enumerate(prediction):
        for block in meaning.sampled_blocks((section.shape[0], section.shape[1])):
            counter.add(z, block, section[block.read].ravel())
    return counter.result()


def _step(sample: list[np.ndarray]) -> float:
    """Return the median difference between neighbours in a row that are not equal."""
    steps = np.concatenate([np.abs(np.diff(region.astype(float), axis=1)).ravel() for region in sample])
    return float(np.median(steps[steps > 0])) if steps.any() else 0.0


def _question(path: str | Path, prediction: np.ndarray, found: Values, areas: Areas) -> str:
    """Return the message that asks what the values are."""
    question = (
        f"{path}: the values could be labels or a probability map ({meaning.histogram(found, areas)}; "
        f"{areas.split:.0%} of them form several areas in a section). If each value is one object, add "
        "`--prediction labels`"
    )
    if prediction.dtype == np.uint8:
        return f"{question}; if they are probabilities from 0 to 255, add `--prediction probability`."
    return f"{question}; if they are probabilities, save them as floats from 0 to 1."
