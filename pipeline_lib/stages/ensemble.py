"""Ensemble stage: the mean of the predictions of several networks, and where they disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.inference.averaging import average
from pipeline_lib.runtime.log import logger


def average_predictions(predictions: Sequence[str | Path], output: str | Path) -> None:
    """Write the mean of the predictions of several networks for one volume.

    The values are those that `stages.prediction.predict` writes for a model file with these networks as
    members, to the last bit. They are added in float64, in the given order, and rounded to float32.

    Parameters
    ----------
    predictions : sequence of str or Path
        HDF5 files of `predict`, one for each network, of the whole volume or of the same part of it.
    output : str or Path
        HDF5 file to write: the mean `cell_probability`, if there are other classes than background and cell
        the mean `class_probability`, if the networks learned affinities the mean `affinities`, and with more
        than one prediction the `disagreement`, which is the standard deviation of the cell probability over
        the networks.

    Raises
    ------
    InputError
        If a prediction is missing or damaged, or they differ in shape, classes or affinities.
    """
    with (
        provenance.making("average_predictions", [output], predictions) as record,
        layout.create(output, record) as file,
    ):
        average(predictions, file)
    logger.info("%s: the mean of %d predictions", output, len(predictions))


def write_disagreement(prediction: str | Path, output: str | Path) -> None:
    """Write the disagreement of the members of an ensemble as TIFF stack (z, y, x), for Fiji and napari.

    Parameters
    ----------
    prediction : str or Path
        HDF5 file with the `disagreement`, of `average_predictions` or of `stages.prediction.predict`.
    output : str or Path
        TIFF file to write, float32. 0 means that all members agree. 0.5 is the largest possible value: half
        of them are sure of a cell, and half of background.

    Raises
    ------
    InputError
        If the prediction is missing, damaged or that of a single network, or the output cannot be written.
    """
    with (
        provenance.making("write_disagreement", [output], [prediction]) as record,
        layout.require(prediction, layout.DISAGREEMENT) as file,
    ):
        imageio.write_probability(
            output,
            file[layout.DISAGREEMENT.name],
            provenance=record,
            pixel_size=layout.pixel_size(file),
            section_spacing=layout.section_spacing(file),
            frame_interval=layout.frame_interval(file),
            highest=0.5,
        )
