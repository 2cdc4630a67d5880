"""Baseline stage: predict `cell_probability` of a baseline from a dataset and training statistics."""

from __future__ import annotations

from pathlib import Path

from pipeline_lib import layout, provenance
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.runtime.files import read_json
from pipeline_lib.tasks.segmentation.baselines import HALO, cell_probability


def predict(
    dataset: str | Path, statistics: str | Path, output: str | Path, *, network: str, block: int = BLOCK
) -> None:
    """Write the `cell_probability` of a baseline for every section of a dataset.

    Parameters
    ----------
    dataset : str or Path
        Dataset with the array `raw` (HDF5).
    statistics : str or Path
        Statistics of the training split (JSON), written by the dataset stage.
    output : str or Path
        Prediction to write (HDF5).
    network : {"constant", "smoothed_raw"}
        Name of the baseline, see `tasks.segmentation.baselines.cell_probability`.
    block : int, default 2048
        Side of the blocks in which sections are processed (px). The result does not depend on it.

    Raises
    ------
    InputError
        If an input is missing or damaged.
    """
    with (
        provenance.making("predict_baselines", [output], [dataset, statistics], network=network) as record,
        layout.require(dataset, layout.RAW) as source,
        layout.create(output, record) as file,
    ):
        measured = read_json(statistics)
        raw = source[layout.RAW.name]
        target = layout.add(file, layout.CELL_PROBABILITY, raw.shape[1:])
        layout.copy_pixel_size(source, file)
        for z in range(raw.shape[1]):
            for area in blocks(raw.shape[2:], block, HALO):
                probability = cell_probability(network, raw[:, z, *area.read], measured)
                target[z, *area.write] = probability[area.crop]
