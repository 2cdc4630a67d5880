"""Scores of classes of pixels: confusion matrix, accuracy, IoU and Dice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.sections import check_shapes, count_sections, ignored_pixels, section
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Stored


def class_confusion(
    truth: Stored, predicted: Stored, classes: int, *, ignore: Stored | None = None
) -> npt.NDArray[np.int64]:
    """Count the pixels of each true and predicted class.

    Parameters
    ----------
    truth : (z, y, x) or (y, x) array of int
        True class of each pixel, 0 to `classes` - 1.
    predicted : array of int
        Predicted class of each pixel, of the same shape.
    classes : int
        Number of classes.
    ignore : array, optional
        Pixels that are left out are not 0; same shape.

    Returns
    -------
    (`classes`, `classes`) array of int64
        Number of pixels. Row: true class, column: predicted class.

    Raises
    ------
    InputError
        If the shapes differ, or a value is not one of the classes.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.metrics import class_confusion
    >>> class_confusion(np.array([[0, 0, 1, 2]]), np.array([[0, 1, 1, 1]]), classes=3)
    array([[1, 1, 0],
           [0, 1, 0],
           [0, 1, 0]])
    """
    check_shapes(truth=truth, predicted=predicted, ignore=ignore)
    counts = np.zeros(classes**2, np.int64)
    for z in range(count_sections(truth)):
        ignored = ignored_pixels(ignore, z)
        pair = []
        for name, array in (("truth", truth), ("predicted", predicted)):
            values = section(array, z)
            values = values.ravel() if ignored is None else values[~ignored]
            if values.dtype.kind not in "uib":
                raise InputError(
                    f"{name} has dtype {values.dtype}, expected the number of a class for each pixel. For "
                    "probabilities, take the most probable class (argmax over the classes)."
                )
            if values.size and not 0 <= values.min() <= values.max() < classes:
                raise InputError(
                    f"{name}: found values from {values.min()} to {values.max()}, expected classes from 0 to "
                    f"{classes - 1}. Correct the number of classes, or ignore the pixels with other values."
                )
            pair.append(values.astype(np.intp))
        counts += np.bincount(pair[0] * classes + pair[1], minlength=classes**2)
    return counts.reshape(classes, classes)


def class_scores(confusion: npt.ArrayLike, names: Sequence[str]) -> dict[str, float]:
    """Return the scores of a segmentation into classes.

    With n_ij the number of pixels of class i that are predicted as class j, t_i the sum of row i and p_i that
    of column i, the scores are those of [1]_: pixel accuracy sum n_ii / sum t_i, mean accuracy (the mean of
    n_ii / t_i over the classes), mean IoU (the mean of n_ii / (t_i + p_i - n_ii)), and frequency-weighted
    IoU (the mean of the IoU with weights t_i). The Dice coefficient of a class is 2 n_ii / (t_i + p_i).

    Parameters
    ----------
    confusion : (k, k) array_like of int
        Numbers of pixels, see `class_confusion`. Those of several sections or volumes can be added.
    names : sequence of str
        Name of each class.

    Returns
    -------
    dict of str to float
        `pixel_accuracy`, `mean_accuracy`, `mean_iou`, `frequency_weighted_iou`, and `iou_NAME` and
        `dice_NAME` of each class. Each is 0 (worst) to 1. The IoU and the Dice coefficient of a class that is
        neither true nor predicted anywhere are NaN. Means leave out such a class, and the mean accuracy each
        class without a true pixel.

    References
    ----------
    Section 5 of [1]_.

    .. [1] J. Long, E. Shelhamer, T. Darrell, "Fully convolutional networks for semantic segmentation", CVPR,
       3431-3440, 2015.

    Examples
    --------
    >>> from pipeline_lib.metrics import class_scores
    >>> scores = class_scores([[1, 1], [0, 2]], ["background", "cell"])
    >>> {name: round(value, 3) for name, value in scores.items() if "cell" not in name}
    {'pixel_accuracy': 0.75, 'mean_accuracy': 0.75, 'mean_iou': 0.583, 'frequency_weighted_iou': 0.583, \
'iou_background': 0.5, 'dice_background': 0.667}
    """
    counts = np.asarray(confusion, float)
    right, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        accuracy, iou = right / true, right / (true + predicted - right)
        dice = 2 * right / (true + predicted)
        overall = {
            "pixel_accuracy": right.sum() / true.sum(),
            "mean_accuracy": _mean(accuracy),
            "mean_iou": _mean(iou),
            "frequency_weighted_iou": (true * np.nan_to_num(iou)).sum() / true.sum(),
        }
    each = {f"iou_{name}": value for name, value in zip(names, iou, strict=True)}
    each |= {f"dice_{name}": value for name, value in zip(names, dice, strict=True)}
    return {name: float(value) for name, value in (overall | each).items()}


def _mean(values: npt.NDArray[np.float64]) -> float:
    """Return the mean of the values that are not NaN, or NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
