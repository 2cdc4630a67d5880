"""Baseline stage: a dataset and the training statistics in, `cell_probability` of a baseline out."""

from __future__ import annotations

from pathlib import Path

from pipeline_lib import layout, provenance
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.runtime.files import read_json
from pipeline_lib.tasks.segmentation.baselines import HALO, cell_probability


def predict(dataset: Path, statistics: Path, output: Path, *, network: str, block: int = BLOCK) -> None:
    """Write `cell_probability` of baseline `network` (`constant` or `smoothed_raw`) for `dataset` (HDF5)."""
    with (
        provenance.making("predict_baselines", [output], [dataset, statistics], network=network) as record,
        layout.require(dataset, layout.RAW) as source,
        layout.create(output, record) as file,
    ):
        measured = read_json(statistics)
        raw = source[layout.RAW.name]
        target = layout.add(file, layout.CELL_PROBABILITY, raw.shape[1:])
        for z in range(raw.shape[1]):
            for area in blocks(raw.shape[2:], block, HALO):
                probability = cell_probability(network, raw[:, z, *area.read], measured)
                target[z, *area.write] = probability[area.crop]
