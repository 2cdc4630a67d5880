"""Prediction stage: a dataset and a model (or a baseline) in, `cell_probability` out."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch

from pipeline_lib import layout, provenance, tasks
from pipeline_lib.inference import passes
from pipeline_lib.kernels import blocks
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.log import logger


@devices.explain_memory_errors("prediction")
def predict(
    dataset: Path,
    model: Path,
    output: Path,
    *,
    tile: int | str = "auto",
    average_orientations: bool = False,
    precision: str = "auto",
    device: str = "auto",
    part: int = 1,
    jobs: int = 1,
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Write `cell_probability` of every section of `dataset` (HDF5), tile by tile.

    `tile` is the side in px of the network's input, or of a square of as many, or `auto` for the largest that
    memory allows; the result is that of one pass over the whole image. `average_orientations` averages over
    the 8 rotations and mirror images. Where several `jobs` share the volume, the share numbered `part` (from
    1, `blocks.parts`) is written alone. `memory_gb` bounds the tiles on the CPU. Raises `InputError` where
    model and images do not fit each other.
    """
    settings = {"tile": tile, "average_orientations": average_orientations, "precision": precision}
    inputs, shared = ([model], [dataset]) if jobs > 1 else ([dataset, model], [])
    with provenance.making("predict", [output], inputs, shared, **settings, part=part, jobs=jobs) as record:
        torch.set_num_threads(threads)
        passes.keep_memory()
        found = Model.load(model)
        where = devices.choose_device(device)
        kind = passes.choose_precision(precision, where)
        task = tasks.load(found.task)
        net = passes.InHalves(found.network.to(where, memory_format=torch.channels_last).eval())
        size = passes.choose_tile(tile, found.plan, where, kind, memory_gb)
        decode = partial(task.decode, average_orientations=average_orientations)
        start = time.monotonic()
        record |= {"device": where.type, "precision": str(kind).removeprefix("torch.")}
        with layout.require(dataset, layout.RAW) as source, layout.create(output, record) as file:
            raw = source[layout.RAW.name]
            found.normalisation.check(raw, dataset)
            share = blocks.parts(raw.shape[1:], jobs)[part - 1]
            sections = range(raw.shape[1])[share.sections]
            shape = (len(sections), share.rows.stop - share.rows.start, raw.shape[3])
            target = task.create(file, shape)
            for number, z in enumerate(sections):
                for region, decoded in passes.tile_outputs(
                    net, raw, z, found.normalisation, size, where, kind, decode, share.rows
                ):
                    task.write(target, number, region, decoded)
        logger.info(
            "%s: %d sections of %d x %d px in %.1f s on %s (%s, tiles of up to %d px)",
            output,
            *shape,
            time.monotonic() - start,
            where,
            str(kind).removeprefix("torch."),
            size,
        )
