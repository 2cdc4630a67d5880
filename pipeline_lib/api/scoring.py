"""Score and measure segmentations of any tool."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_lib.api.arrays import Image, files
from pipeline_lib.runtime.log import logger, show_unless_set_up

if TYPE_CHECKING:
    import pandas as pd

    from pipeline_lib.imageio import Channels


def evaluate(truth: Image, prediction: Image, **settings: Any) -> pd.DataFrame:
    """Score a probability map, labels or boxes against an annotation, as `bordure evaluate` does.

    Parameters
    ----------
    truth : (y, x) or (z, y, x) array_like, str or Path
        Annotation: labels with 0 = background, membranes or classes, or a file of boxes.
    prediction : array of the same shape, str or Path
        Instance labels, or the probability that a pixel is inside a cell: 0 to 1, or uint8 from 0 to 255, or
        a file of boxes.
    **settings
        Settings of `stages.evaluation.score_files`, for example `annotation_kind`, `ignore`, `ignore_mask`,
        `prediction_kind`.

    Returns
    -------
    pandas.DataFrame
        Columns `metric`, `threshold` and `value`. `metrics.summary_table` shows the best value of each score
        of a probability map. For labels the threshold is NaN.

    Raises
    ------
    InputError
        If a file cannot be read, the shapes differ, or the meaning of the values is not clear.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib import api
    >>> truth = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]])
    >>> scores = api.evaluate(truth, truth, annotation_kind="instances", prediction_kind="labels")
    >>> scores.value[scores.metric == "seg"].item()
    1.0
    """
    from pipeline_lib.stages.evaluation import score_files

    show_unless_set_up()
    with files(section="dataset") as written:
        if "ignore_mask" in settings:
            settings["ignore_mask"] = written.path(settings["ignore_mask"], "ignore_mask", labels=True)
        return score_files(
            written.path(truth, "truth", labels=True),
            written.path(prediction, "prediction"),
            show=logger.info,
            **settings,
        )


def measure(
    labels: Image,
    *,
    intensity: Image | None = None,
    pixel_size: float | None = None,
    channels: Channels | None = None,
) -> pd.DataFrame:
    """Measure the cells of labels, as `bordure measure` does.

    Parameters
    ----------
    labels : (y, x) or (z, y, x) array_like, str or Path
        Instance labels, 0 = background.
    intensity : (y, x), (z, y, x) or (c, z, y, x) array_like, str or Path, optional
        Image of the same size whose gray levels are measured.
    pixel_size : float, optional
        Length of the side of a pixel (um), for columns in um and um^2.
    channels : int or sequence of (int or str), optional
        Channels of `intensity` to measure, by number or name. All by default.

    Returns
    -------
    pandas.DataFrame
        One row per section and cell, with the columns of `instances.measurement.measure_cells`.

    Raises
    ------
    InputError
        If a file cannot be read, the sizes differ, or a label is negative or has a fraction.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib import api
    >>> api.measure(np.array([[1, 1, 0, 2], [1, 1, 0, 0]]))[["section", "label", "area"]]
       section  label  area
    0        0      1   4.0
    1        0      2   1.0
    """
    import pandas as pd

    from pipeline_lib.stages.measurement import measure_file

    show_unless_set_up()
    with files() as written:
        table = written.folder / "cells.csv"
        measure_file(
            Path(written.path(labels, "labels", labels=True)),
            table,
            intensity=None if intensity is None else Path(written.path(intensity, "intensity")),
            channels=channels,
            pixel_size=pixel_size,
        )
        return pd.read_csv(table, float_precision="round_trip")
