"""Prediction stage: predict `cell_probability` from a dataset and a model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import h5py
import torch

from pipeline_lib import layout, provenance, tasks
from pipeline_lib.inference import passes, tiling
from pipeline_lib.inference.averaging import average
from pipeline_lib.inference.neighbours import with_neighbours
from pipeline_lib.inference.resampling import Resampled
from pipeline_lib.inference.tiling import Tile
from pipeline_lib.instances.methods import method_of
from pipeline_lib.kernels import blocks
from pipeline_lib.kernels.pixelsize import PixelSize, differs, require_ratio, side, text
from pipeline_lib.networks.folding import fold
from pipeline_lib.networks.model import Model, members_in, read_tensors
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import each_warning_once, logger, several
from pipeline_lib.runtime.progress import Progress
from pipeline_lib.runtime.types import Json

BOXES_AT_ONCE = 2**18  # boxes that are scaled at a time


@devices.explain_memory_errors("prediction")
def predict(
    dataset: str | Path,
    model: str | Path,
    output: str | Path,
    *,
    tile: int | Literal["auto"] = "auto",
    average_orientations: bool = False,
    precision: str = "auto",
    match_pixel_size: bool = False,
    device: str = "auto",
    part: int = 1,
    jobs: int = 1,
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Write the `cell_probability` of every section of a dataset, tile by tile.

    The result is that of one pass over each whole section, up to rounding (1e-5). So it does not depend on
    the size of the tiles or on the number of jobs.

    If the model file is an ensemble, its members predict one after the other into temporary files next to
    `output`, which then gets their mean, as `stages.ensemble.average_predictions` writes it. This takes as
    many times as long as there are members, and the memory of one.

    Parameters
    ----------
    dataset : str or Path
        Dataset with the array `raw` (HDF5).
    model : str or Path
        Model file.
    output : str or Path
        Prediction to write (HDF5).
    tile : int or "auto", default "auto"
        Largest tile, given as the side of a square (px): a tile has at most `tile` x `tile` px. "auto" is the
        largest size that memory allows, see `inference.passes.choose_tile`.
    average_orientations : bool, default False
        If True, average the probabilities over the 8 rotations and mirror images of each tile.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Type of the convolutions, see `inference.passes.choose_precision`.
    match_pixel_size : bool, default False
        Whether images whose pixel size differs by more than 10 % from that of the training images are
        resampled for the network. The result is resampled again, and boxes are scaled, so that it has the
        pixels of the image. If False, there is a warning.
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
        size, if pixel sizes are to be matched and one is not known or the model predicts affinities, or if an
        input is missing or damaged.
    """
    settings: Json = {"tile": tile, "average_orientations": average_orientations, "precision": precision}
    settings |= {"match_pixel_size": True} if match_pixel_size else {}
    inputs, shared = ([model], [dataset]) if jobs > 1 else ([dataset, model], [])
    with provenance.making("predict", [output], inputs, shared, **settings, part=part, jobs=jobs) as record:
        torch.set_num_threads(threads)
        passes.keep_memory()
        chosen_device = devices.choose_device(device)
        dtype = passes.choose_precision(precision, chosen_device)
        record |= {"device": chosen_device.type, "precision": str(dtype).removeprefix("torch.")}
        file = Path(model).resolve(), Path(model).stat().st_mtime_ns
        number = len(_members(*file))
        load = partial(_load, *file, chosen_device)
        write = partial(
            _write,
            dataset=dataset,
            tile=tile,
            average_orientations=average_orientations,
            dtype=dtype,
            match_pixel_size=match_pixel_size,
            device=chosen_device,
            part=part,
            jobs=jobs,
            memory_gb=memory_gb,
        )
        if number == 1:
            write(load(0), output=output, record=record)
            return
        start = time.monotonic()
        members = [Path(output).with_suffix(f".member{member + 1}.h5") for member in range(number)]
        try:
            with each_warning_once():
                for member, path in enumerate(members):  # one after the other: the memory is that of one
                    write(load(member), output=path, record=record)
            with layout.create(output, record) as mean:
                average(members, mean)
        finally:
            for path in members:
                path.unlink(missing_ok=True)
        logger.info("%s: the mean of %d networks, %.1f s in all", output, number, time.monotonic() - start)


def _write(
    trained: Model,
    *,
    dataset: str | Path,
    output: str | Path,
    record: Json,
    tile: int | Literal["auto"],
    average_orientations: bool,
    dtype: torch.dtype,
    match_pixel_size: bool,
    device: torch.device,
    part: int,
    jobs: int,
    memory_gb: float,
) -> None:
    """Write the prediction of one network; for the arguments see `predict`."""
    offsets = trained.offsets if _needs_affinities(trained) else ()
    task = tasks.load(trained.task, trained.classes, trained.cells, offsets)
    net = passes.SplitIfTooLarge(trained.network)
    size = passes.choose_tile(tile, trained.plan, device, dtype, memory_gb)
    decode = partial(task.decode, average_orientations=average_orientations, log_prior=trained.log_prior)
    start = time.monotonic()
    with layout.require(dataset, layout.RAW) as source, layout.create(output, record) as file:
        raw = source[layout.RAW.name]
        step = _step(layout.pixel_size(source), trained.pixel_size, match_pixel_size, dataset)
        if step is not None and offsets:
            raise InputError(
                f"{dataset}: has pixels of another size than the training images, but the model predicts "
                "affinities, which belong to distances in pixels and cannot be resampled. Scale the images "
                "first, and leave out `--match-pixel-size`."
            )
        images = raw if step is None else Resampled(raw, step)
        trained.normalisation.check(images, dataset, layout.findings(source)["gray"])
        images = with_neighbours(images, trained.plan.context_sections)
        _log_neighbours(dataset, trained.plan.context_sections, raw.shape[1])
        share = blocks.parts(raw.shape[1:], jobs)[part - 1]
        sections = range(raw.shape[1])[share.sections]
        shape = (len(sections), share.rows.stop - share.rows.start, raw.shape[3])
        target = task.create(file, shape)
        layout.copy_pixel_size(source, file)

        def progress_in(rows: slice) -> Progress:
            band = len(range(images.shape[2])[rows]), images.shape[3]
            tiles = sum(1 for _ in tiling.tiles(band, size, net.geometry))
            return Progress(len(sections) * tiles, "tile", name=str(output))

        def outputs(z: int, rows: slice, progress: Progress) -> Iterator[tuple[Tile, Any]]:
            for found in passes.tile_outputs(
                net, images, z, trained.normalisation, size, device, dtype, decode, rows
            ):
                yield found
                progress.update(progress.done + 1)

        stride = trained.plan.geometry.stride
        if step is not None:
            layout.write_pixel_size(file, None, pixels_per_model_pixel=step[0] * step[1])
        if step is None or not task.pixelwise:
            rows = share.rows
            if step is not None:
                rows = _rows_of_model(share.rows, images.shape[2], step[0], stride)
            progress = progress_in(rows)
            for number, z in enumerate(sections):
                for region, decoded in outputs(z, rows, progress):
                    task.write(target, number, region, decoded)
            if step is not None:
                _scale_boxes(file[layout.BOXES.name], step, rows.start, share.rows.start)
        else:
            with _section(output, task, (images.shape[2], images.shape[3])) as (section, arrays):
                resample = partial(Resampled, step=(1 / step[0], 1 / step[1]), shape=raw.shape[2:])
                backs = {name: resample(array) for name, array in arrays.items()}
                needed = next(iter(backs.values())).source(0, share.rows)
                rows = slice(needed.start - needed.start % stride, needed.stop)
                progress = progress_in(rows)
                for number, z in enumerate(sections):
                    for region, decoded in outputs(z, rows, progress):
                        task.write(section, 0, _shifted(region, rows.start), decoded)
                    for area in blocks.blocks(shape[1:]):
                        at = _moved(area.write[0], share.rows.start), area.write[1]
                        for name, back in backs.items():
                            classes = (slice(None),) * (len(back.shape) - 3)
                            found = back[*classes, 0, *at].clip(0, 1)
                            file[name][*classes, number, *area.write] = found
    logger.info(
        "%s: %d sections of %d x %d px in %.1f s on %s (%s, tiles of up to %d px)",
        output,
        *shape,
        time.monotonic() - start,
        device,
        str(dtype).removeprefix("torch."),
        size,
    )


def _log_neighbours(dataset: str | Path, context_sections: int, depth: int) -> None:
    """Log what takes the place of neighbouring sections that a network sees."""
    if context_sections and depth == 1:
        logger.warning(
            "volume %s: a single section, but the network was trained with %s before and after each. The "
            "section itself takes their place, and the result may be worse than in a stack.",
            Path(dataset).stem,
            several(context_sections, "section"),
        )
    elif context_sections:
        logger.info(
            "%s: the network sees %s before and after each; beyond the first and last, the stack is mirrored",
            dataset,
            several(context_sections, "section"),
        )


def _needs_affinities(trained: Model) -> bool:
    """Return whether cells are made from affinities, or may be: the file of a training has no method."""
    chosen = trained.application.get("postprocessing")
    return chosen is None or method_of(chosen) == "mutex_watershed"


def _step(
    own: PixelSize | None, of_model: PixelSize | None, match: bool, dataset: str | Path
) -> tuple[float, float] | None:
    """Return the height and width of a pixel of the model (px of the image), if images are resampled to it.

    If `match` is False, a difference is only reported.
    """
    if match and (own is None or of_model is None):
        whose = "of the images" if own is None else "of the training images of the model"
        remedy = (
            "State it: column `pixel_size` of the table of volumes, or `--pixel-size`."
            if own is None
            else "Set `prediction: {match_pixel_size: false}`, or leave out `--match-pixel-size`."
        )
        raise InputError(
            f"volume {Path(dataset).stem}: pixel sizes are to be matched, but that {whose} is not known. "
            f"{remedy}"
        )
    if own is None or of_model is None or not differs(own, of_model):
        return None
    step = of_model[0] / own[0], of_model[1] / own[1]
    if not match:
        logger.warning(
            "volume %s: pixels of %s, but the model was trained with %s. Cells look %.2g times as large to "
            "it. To resample the images, add `--match-pixel-size`, or set `prediction: {match_pixel_size: "
            "true}`.",
            Path(dataset).stem,
            text(own),
            text(of_model),
            side(step),
        )
        return None
    require_ratio(own, of_model, f"volume {Path(dataset).stem}")
    logger.info("%s: resampled from pixels of %s to %s for the network", dataset, text(own), text(of_model))
    return step


@contextmanager
def _section(
    output: str | Path, task: tasks.Task, size: tuple[int, int]
) -> Iterator[tuple[Any, dict[str, h5py.Dataset]]]:
    """Yield the target of a task for one section, and its arrays, in a temporary file next to `output`."""
    path = Path(output).with_suffix(".resampled.h5")
    try:
        with h5py.File(path, "w", locking=False) as file:
            yield task.create(file, (1, *size)), {name: file[name] for name in file}
    finally:
        path.unlink(missing_ok=True)


def _rows_of_model(part: slice, height: int, step: float, stride: int) -> slice:
    """Return the rows of a resampled image of some height whose boxes a part of the volume has, if any.

    Rows of each part begin at a multiple of the stride, as tiles must, and end where those of the next part
    begin. So each box belongs to exactly one part.
    """
    first, last = (
        min(-(-math.ceil(row / step) // stride) * stride, height) for row in (part.start, part.stop)
    )
    return slice(first, last)


def _scale_boxes(boxes: h5py.Dataset, step: tuple[float, float], first_of_model: int, first: int) -> None:
    """Convert boxes from pixels of the model to pixels of the volume.

    Parameters
    ----------
    boxes : (n, 4) HDF5 dataset
        Boxes (y0, x0, y1, x1), which are changed.
    step : tuple of float
        Height and width of a pixel of the model (px of the volume).
    first_of_model, first : int
        Row that boxes count from, in the resampled image and in the volume.
    """
    for start in range(0, len(boxes), BOXES_AT_ONCE):
        part = slice(start, start + BOXES_AT_ONCE)
        boxes[part] = (boxes[part] + 2 * [first_of_model, 0]) * (2 * step) - 2 * [first, 0]


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _shifted(tile: Tile, rows: int) -> Tile:
    """Return a tile whose result is written `rows` further down."""
    return replace(tile, write=(_moved(tile.write[0], rows), tile.write[1]))


@lru_cache(maxsize=1)
def _members(path: str | Path, _changed: int) -> list[Json]:
    """Read the networks in a model file, once for all volumes that a process predicts with it.

    Their parameters are mapped into memory, and not read before a network is prepared.
    """
    return members_in(read_tensors(path), path)


@lru_cache(maxsize=1)
def _load(path: str | Path, changed: int, device: torch.device, member: int) -> Model:
    """Prepare a network of a model file on a device. It is kept until another one is needed."""
    model = Model.of(_members(path, changed)[member], path)
    fold(model.network.eval())
    model.network.move_to(device)
    return model
