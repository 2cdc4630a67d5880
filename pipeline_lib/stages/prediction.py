"""Prediction stage: predict `cell_probability` from a dataset and a model."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Literal

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
    tile: int | Literal["auto"] = "auto",
    average_orientations: bool = False,
    precision: str = "auto",
    device: str = "auto",
    part: int = 1,
    jobs: int = 1,
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Write the `cell_probability` of every section of a dataset, tile by tile.

    The result is that of one pass over each whole section, up to rounding (1e-5). So it does not depend on
    the size of the tiles or on the number of jobs.

    Parameters
    ----------
    dataset : Path
        Dataset with the array `raw` (HDF5).
    model : Path
        Model file.
    output : Path
        Prediction to write (HDF5).
    tile : int or "auto", default "auto"
        Largest tile, given as the side of a square (px): a tile has at most `tile` x `tile` px. "auto" is the
        largest size that memory allows, see `inference.passes.choose_tile`.
    average_orientations : bool, default False
        If True, average the probabilities over the 8 rotations and mirror images of each tile.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Type of the convolutions, see `inference.passes.choose_precision`.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device that computes. "auto" uses a GPU if there is one.
    part : int, default 1
        Number of the part of the volume that this job writes, from 1 (see `kernels.blocks.parts`). `output`
        then contains only the sections and rows of this part; `stages.joining.join_predictions` joins them.
    jobs : int, default 1
        Number of jobs that share the volume. With 1, `output` contains the whole volume.
    memory_gb : float, default 8.0
        Memory that the process may use on the CPU, in GB (10^9 bytes). It limits the size of the tiles.
    threads : int, default 1
        Number of CPU threads.

    Raises
    ------
    InputError
        If the images do not have the type, channels or size that the model needs, if `tile` is not a valid
        size, or if an input is missing or damaged.
    """
    settings = {"tile": tile, "average_orientations": average_orientations, "precision": precision}
    inputs, shared = ([model], [dataset]) if jobs > 1 else ([dataset, model], [])
    with provenance.making("predict", [output], inputs, shared, **settings, part=part, jobs=jobs) as record:
        torch.set_num_threads(threads)
        passes.keep_memory()
        trained = Model.load(model)
        chosen_device = devices.choose_device(device)
        dtype = passes.choose_precision(precision, chosen_device)
        task = tasks.load(trained.task)
        net = passes.SplitIfTooLarge(trained.network.move_to(chosen_device).eval())
        size = passes.choose_tile(tile, trained.plan, chosen_device, dtype, memory_gb)
        decode = partial(task.decode, average_orientations=average_orientations)
        start = time.monotonic()
        record |= {"device": chosen_device.type, "precision": str(dtype).removeprefix("torch.")}
        with layout.require(dataset, layout.RAW) as source, layout.create(output, record) as file:
            raw = source[layout.RAW.name]
            trained.normalisation.check(raw, dataset, layout.findings(source)["gray"])
            share = blocks.parts(raw.shape[1:], jobs)[part - 1]
            sections = range(raw.shape[1])[share.sections]
            shape = (len(sections), share.rows.stop - share.rows.start, raw.shape[3])
            target = task.create(file, shape)
            layout.copy_pixel_size(source, file)
            for number, z in enumerate(sections):
                for region, decoded in passes.tile_outputs(
                    net, raw, z, trained.normalisation, size, chosen_device, dtype, decode, share.rows
                ):
                    task.write(target, number, region, decoded)
        logger.info(
            "%s: %d sections of %d x %d px in %.1f s on %s (%s, tiles of up to %d px)",
            output,
            *shape,
            time.monotonic() - start,
            chosen_device,
            str(dtype).removeprefix("torch."),
            size,
        )
