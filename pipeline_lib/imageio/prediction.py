"""Read predictions of other programs: tell instance labels from probability maps, or ask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_lib.imageio import meaning
from pipeline_lib.imageio.formats import open_file
from pipeline_lib.imageio.headers import ImageInfo, is_coloured, require_whole
from pipeline_lib.imageio.images import open_chosen
from pipeline_lib.imageio.meaning import Areas, Values
from pipeline_lib.kernels.sections import frame
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

#: What a prediction can contain. "auto" infers it from the areas that the values form.
PREDICTION_KINDS = ("auto", "labels", "classes", "probability")

_SMOOTH = 16  # a smaller median difference between unequal neighbours means gray levels
_FULL_SCALES = (1, 100, 255, 4095, 65535, 2**32 - 1)  # values that programs write for a probability of 1
_PERCENT = 100
_ROUNDING = 1e-6  # a probability may be so far beyond 0..1
_MOST_CLASSES = 8
_SPLIT = 0.02  # a larger share of labels with several areas is logged


@dataclass(frozen=True)
class Prediction:
    """A prediction in memory; `read_prediction` creates it.

    Parameters
    ----------
    kind : {"labels", "probability"}
        What the array contains. Classes of pixels become a binary map, which is a "probability".
    array : (z, y, x) array
        Labels from 1, 0 = background; or the probability of cell: floats from 0 to 1, uint8 from 0 to 255, or
        bool.
    description : str
        What was found in the file and what was inferred, for the log.
    """

    kind: str
    array: np.ndarray
    description: str


def read_prediction(
    path: str | Path,
    *,
    sections: str | None = None,
    kind: str = "auto",
    background: Sequence[int] = (),
    highest: float | None = None,
    channel: int | None = None,
) -> Prediction:
    """Read a prediction of any program as a whole, and find out what its values mean.

    Labels and classes are the stored values: they are not inverted, and those of a palette are the numbers of
    its colours. Probabilities are read as they are displayed, unless a palette has colours.

    Parameters
    ----------
    path : str or Path
        Image file, folder or pattern of slices, or `file.h5:/dataset`.
    sections : str, optional
        Selected sections, for instance `0-3,8`; all by default.
    kind : {"auto", "labels", "classes", "probability"}, default "auto"
        Meaning of the values:

        - "labels": each value is one object.
        - "classes": cells are all pixels that are not background.
        - "probability": the probability that a pixel is inside a cell.
        - "auto": see `kind_of_prediction`.
    background : sequence of int, default ()
        Values of the background, for "labels" and "classes"; 0 if there are none.
    highest : float, optional
        Value that means a probability of 1: by default 1 for floats and 255 for uint8. It implies the kind
        "probability".
    channel : int, optional
        Number of the channel to read, from 0. Needed if the file has several channels.

    Returns
    -------
    Prediction
        The selected sections.

    Raises
    ------
    InputError
        As `open_images`, if the channel is not stated, or if the meaning of the values is not clear. The
        message lists the options of `bordure evaluate` that state it.
    """
    if highest is not None and kind == "auto":
        kind = "probability"
    if (highest is not None and kind != "probability") or (background and kind not in ("labels", "classes")):
        wrong = "`--prediction-background` needs `labels` or `classes`"
        if highest is not None:
            wrong = "`--highest` is for probabilities"
        raise InputError(f"`--prediction {kind}`: {wrong}. Leave one of the two out.")
    with open_file(path) as (info, _):
        _require_channel(path, info, channel)
    array = _read(path, info, sections, channel)
    inferred = ""
    if kind == "auto":
        kind = kind_of_prediction(path, array, white_is_zero=info.white_is_zero)
        inferred = "; inferred from the values"
    if kind == "labels":
        array = _numbered(path, array, background or (0,))
        return Prediction(kind, array, f"labels, {array.max()} values{inferred}")
    if kind == "classes":
        numbers = _numbered(path, array, background or (0,))
        cells = " and ".join(map(meaning.plain, np.unique(array[numbers > 0])))
        return Prediction("probability", numbers > 0, f"classes, {cells or 'no value'} is cell")
    if (info.white_is_zero or info.palette) and not is_coloured(info):
        array = _read(path, info, sections, channel, displayed=True)
    if highest is None and array.dtype.kind != "f" and np.unique(array[array != 0]).size == 1:
        return Prediction(kind, array != 0, f"binary map, {array.max()} is cell{inferred}")
    return Prediction(kind, _scaled(path, array, highest), f"probability map{inferred}")


def kind_of_prediction(path: str | Path, prediction: np.ndarray, *, white_is_zero: bool = False) -> str:
    """Return whether a prediction has instance labels or probabilities.

    One or two values, one of them 0, are a binary map, which is a probability. Other whole numbers are labels
    if most of them form one area, or if they are numbered without a gap and nearly all form one area. They
    are probabilities if they are scattered or change smoothly, as gray levels do. Values with a fractional
    part are probabilities, unless they form areas like labels.

    Parameters
    ----------
    path : str or Path
        File of the prediction, for the error.
    prediction : (z, y, x) array
        Its values.
    white_is_zero : bool, default False
        Whether 0 is displayed as white. It is then not clear which of two values is cell.

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
    >>> kind_of_prediction("labels.tif", labels)
    'labels'
    >>> kind_of_prediction("map.tif", np.linspace(0, 1, 320).reshape(1, 8, 40))
    'probability'
    """
    fractions = False
    if prediction.dtype.kind == "f":
        fractions = bool((prediction != np.floor(prediction)).any())
        binary = not fractions and prediction.min() >= 0 and prediction.max() <= 1
        if binary or (fractions and not _is_flat(prediction)):
            return "probability"
    found = _values(prediction)
    values, labels = found.values, int(np.count_nonzero(found.values))
    sample = [prediction[(z, *block.read)] for z, block in found.sample]
    if labels <= 1 and not (white_is_zero and len(values) == 2):
        return "probability"
    areas = meaning.measure_areas(found, sample)
    few = labels <= meaning.FEW or values[0] != 0
    like_labels = areas.like_labels(few=few) and not areas.scattered(labels)
    if fractions and (labels <= meaning.FEW or not like_labels):
        return "probability"
    clear = labels > 1 and values[0] >= 0 and not fractions
    # numbered without a gap, each value one area: labels, however small they are
    if clear and values[0] == 0 and values[-1] == labels > meaning.FEW and areas.split <= _SPLIT:
        return "labels"
    if clear and areas.scattered(labels):
        return "probability"
    if clear and like_labels and meaning.sentinel(found) is None and (values[0] == 0 or labels > meaning.FEW):
        if areas.split > _SPLIT:
            logger.warning(
                "%s: %.0f%% of the labels have several separate areas in a section. Each label is scored as "
                "one object.",
                path,
                100 * areas.split,
            )
        return "labels"
    if clear and areas.split > meaning.MOST_SPLIT and labels > _SMOOTH and _step(sample) < _SMOOTH:
        return "probability"
    raise InputError(_question(path, prediction, found, areas, sample))


def _require_channel(path: str | Path, info: ImageInfo, channel: int | None) -> None:
    """Raise `InputError` if the channel to read is not stated or does not exist."""
    if channel is not None and not 0 <= channel < info.channels:
        raise InputError(
            f"{path}: there is no channel {channel}; found {info.channels} (axes {info.axes}), counted from "
            "0. Correct `--channel`."
        )
    if channel is None and info.channels > 1 and not info.rgb:
        listed = ", ".join(f"`--channel {n}`" for n in range(min(info.channels, 4)))
        raise InputError(
            f"{path}: found {info.channels} channels (axes {info.axes}). Choose the one that shows cells: "
            f"{listed}{' ...' * (info.channels > 4)}."
        )


def _read(
    path: str | Path,
    info: ImageInfo,
    sections: str | None,
    channel: int | None,
    *,
    displayed: bool = False,
) -> np.ndarray:
    """Return one channel (z, y, x), as stored or as `displayed`."""
    channels = 1 if channel is None else info.channels
    with open_chosen(path, sections, channels, annotation=not displayed) as images:
        require_whole(path, info, math.prod(images.shape[1:]) * images.dtype.itemsize)
        array = np.empty(images.shape[1:], images.dtype)
        try:
            for z in range(len(array)):
                array[z] = images.read(z, slice(None), slice(None))[channel or 0]
        except InputError as error:
            if not info.rgb or channel is not None:
                raise
            raise InputError(
                f"{error}\nIf one colour is the map, add `--channel 0`, `--channel 1` or `--channel 2`."
            ) from error
        return array


def _numbered(path: str | Path, array: np.ndarray, background: Sequence[int]) -> np.ndarray:
    """Return labels from 1 in the order of the values, and 0 for values of the background."""
    values = _values(array).values
    is_label = ~np.isin(values, background)
    if background != (0,) and is_label.all():
        raise InputError(
            f"{path}: found no pixel with the value {' or '.join(map(str, background))}; found "
            f"{meaning.plain(values[0])} to {meaning.plain(values[-1])}. Correct `--prediction-background`."
        )
    if (negative := values[is_label & (values < 0)]).size:
        value = meaning.plain(negative[0])
        raise InputError(
            f"{path}: found the negative label {value}. If it means background, add "
            f"`--prediction-background {value}`, with all other values of the background."
        )
    number = np.where(is_label, np.cumsum(is_label), 0).astype(np.uint32)
    return number[np.searchsorted(values, array)]


def _scaled(path: str | Path, array: np.ndarray, highest: float | None) -> np.ndarray:
    """Return a probability map as floats up to 1, or as uint8 up to 255."""
    largest = array.max()
    if highest is not None:
        if not 0 < highest >= largest:
            raise InputError(f"`--highest {highest:g}`: {path} has values up to {meaning.plain(largest)}.")
        return np.divide(array, highest, dtype=np.float64).astype(np.float32)
    if array.dtype == np.uint8 and largest != _PERCENT:
        return array
    if array.dtype.kind == "f" and (largest <= 1 + _ROUNDING or array.min() < -_ROUNDING):
        return array  # logits are refused by the scores
    scales = " or ".join(f"`--highest {scale}`" for scale in _full_scales(largest.item()))
    raise InputError(
        f"{path}: found a probability map of {array.dtype} values up to {meaning.plain(largest)}; expected 0 "
        f"to 1, or uint8 from 0 to 255. State the value that means a probability of 1, such as {scales}; "
        "or state `--prediction labels` if each value is one object."
    )


def _full_scales(largest: float) -> list[int]:
    """Return the likely values of a probability of 1. For exactly 100 they are 100 and 255."""
    scale = next((scale for scale in _FULL_SCALES if scale >= largest), math.ceil(largest))
    return [scale, 255] if scale == largest == _PERCENT else [scale]


def _is_flat(prediction: np.ndarray) -> bool:
    """Return whether most neighbours in a row are equal, where values are neither lowest nor highest."""
    left, right = prediction[..., :-1], prediction[..., 1:]
    inside = (left > prediction.min()) & (left < prediction.max())
    return bool(np.count_nonzero(inside & (left == right)) > np.count_nonzero(inside) / 2)


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


def _question(
    path: str | Path, prediction: np.ndarray, found: Values, areas: Areas, sample: list[np.ndarray]
) -> str:
    """Return the message that asks what the values are: a list of options to choose from."""
    values, labels = found.values, int(np.count_nonzero(found.values))
    # probably background: negative values, one far above all others, and the most common one at the frame
    common, counts = np.unique(np.concatenate([*map(frame, sample)]), return_counts=True)
    odd = {meaning.sentinel(found), common[counts.argmax()].item(), *values[values < 0].tolist()} - {None}
    stated = f" --prediction-background {' '.join(map(meaning.plain, sorted(odd)))}" if odd != {0} else ""
    where = f"background is {' and '.join(map(meaning.plain, sorted(odd)))}"
    fractions = bool((values != np.floor(values)).any())
    lines = []
    if values[0] >= 0 and labels > 1:
        lines.append("--prediction labels: each value is one object, background is 0")
    if stated and not fractions and labels > 1:
        lines.append(f"--prediction labels{stated}: each value is one object, {where}")
    if labels <= _MOST_CLASSES and not fractions:
        lines.append(f"--prediction classes{stated}: all other pixels are cells, {where}")
    if labels == 1:
        value = meaning.plain(values[-1])
        answers = {"--prediction classes": f"{value} is cell"}
        answers[f"--prediction classes --prediction-background {value}"] = "0 is cell"
        lines = [f"{option}: {text}" for option, text in answers.items()]
    elif prediction.dtype.kind == "f" and values[-1] <= 1:
        lines.append("--prediction probability: probabilities from 0 to 1")
    elif values[0] >= 0 and values[-1] > _MOST_CLASSES:
        lines += [
            f"--highest {scale}: probabilities, {scale} means 1"
            for scale in _full_scales(max(values[-1].item(), _PERCENT))
        ]
    white = "; 0 is displayed as white" if labels == 1 else ""
    return (
        f"{path}: it is not clear what the values mean ({meaning.histogram(found, areas)}; {areas.split:.0%} "
        f"of them form several areas in a section{white}). Add one of these options:\n" + "\n".join(lines)
    )
