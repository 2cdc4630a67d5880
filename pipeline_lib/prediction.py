"""Prediction stage: a dataset and a model (or a baseline) in, `cell_probability` out."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pipeline_lib import baselines, inference, layout, networks, provenance
from pipeline_lib.files import read_json
from pipeline_lib.log import logger


def predict(
    dataset: Path,
    model: Path,
    output: Path,
    *,
    tile: int | str = "auto",
    average_orientations: bool = False,
    precision: str = "auto",
    device: str = "auto",
    threads: int = 1,
) -> None:
    """Write `cell_probability` of every section of `dataset` (HDF5), tile by tile.

    `tile` in px of network input, or `auto` for the largest that memory allows; the result is that of one
    pass over the whole image. `average_orientations` averages over the 8 rotations and mirror images. Raises
    `InputError` where model and images do not fit each other.
    """
    torch.set_num_threads(threads)
    found = networks.Model.load(model)
    where = inference.choose_device(device)
    kind = inference.choose_precision(precision, where)
    net = found.network.to(where, memory_format=torch.channels_last).eval()
    size = inference.choose_tile(tile, net.geometry, net.score.in_channels, where)
    record = provenance.record(
        [dataset, model], tile=tile, average_orientations=average_orientations, precision=precision
    )
    start = time.monotonic()
    with layout.require(dataset, layout.RAW) as source, layout.create(output, record) as file:
        raw = source[layout.RAW.name]
        found.normalisation.check(raw, dataset)
        target = layout.add(file, layout.CELL_PROBABILITY, raw.shape[1:])
        for z in range(raw.shape[1]):
            for part, p in inference.tile_probabilities(
                net, raw, z, found.normalisation, size, where, kind, average_orientations
            ):
                target[(z, *part.write)] = p[1].cpu().numpy()
        shape = raw.shape[1:]
    logger.info(
        "%s: %d sections of %d x %d px in %.1f s on %s (%s, tiles of up to %d px)",
        output,
        *shape,
        time.monotonic() - start,
        where,
        str(kind).removeprefix("torch."),
        size,
    )


def predict_baseline(dataset: Path, statistics: Path, output: Path, *, network: str) -> None:
    """Write `cell_probability` of baseline `network` (`constant` or `smoothed_raw`) for `dataset` (HDF5)."""
    measured = read_json(statistics)
    record = provenance.record([dataset, statistics], network=network)
    with layout.require(dataset, layout.RAW) as source, layout.create(output, record) as file:
        raw = source[layout.RAW.name]
        target = layout.add(file, layout.CELL_PROBABILITY, raw.shape[1:])
        for z in range(raw.shape[1]):
            target[z] = baselines.cell_probability(network, raw[:, z], measured)
