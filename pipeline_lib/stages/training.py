"""Training stage: train a network on datasets and weight maps, and write `model.pt` and `history.csv`.

The workflow starts one process for each GPU of a job, on one machine. To train on several machines that share
a file system, run the following command on each of them. HOST is the name of one of the machines::

    python -m torch.distributed.run --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d \\
        --rdzv-endpoint HOST:29500 -m pipeline_lib.stages.training ARGUMENTS.json

The JSON file contains the arguments of `train`, and optionally `log_file`. The GPUs are not reserved in this
case, so no other process should use them. An interrupted training can resume with any number of processes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline_lib import layout, networks, provenance, tasks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import PixelwiseTruth, Volume, open_volumes
from pipeline_lib.data.sampling import ClassBalanced
from pipeline_lib.inference import passes
from pipeline_lib.inference.neighbours import with_neighbours
from pipeline_lib.kernels.pixelsize import pair
from pipeline_lib.networks import Plan, transfer
from pipeline_lib.networks.model import Model
from pipeline_lib.networks.module import Network
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import ALONE, Processes, launch, work
from pipeline_lib.runtime.types import Json, Stored
from pipeline_lib.training.loop import learn, write_history
from pipeline_lib.training.prior import log_prior, trained_shares
from pipeline_lib.training.schedule import Settings
from pipeline_lib.training.state import Checkpoint
from pipeline_lib.training.statistics import estimate_statistics
from pipeline_lib.training.step import Step
from pipeline_lib.training.validation import validate


@devices.explain_memory_errors("training")
def train(
    train: Sequence[str | Path],
    train_weight_maps: Sequence[str | Path],
    validation: Sequence[str | Path],
    validation_weight_maps: Sequence[str | Path],
    statistics: str | Path,
    model: str | Path,
    history: str | Path,
    *,
    network: Json,
    training: Json,
    augmentation: Json,
    seed: int,
    start: str | Path | None = None,
    boxes: str | Path | None = None,
    threads: int = 1,
    processes: Processes = ALONE,
) -> None:
    """Train a network and write the best state by validation to a model file.

    The state of the training is saved in `<model>.checkpoint.pt`, next to the model: at each validation,
    every few minutes, and when a signal asks the process to end. An interrupted training resumes from this
    file. On the CPU, the result has the same bytes as that of an uninterrupted training. The file remains
    after the training, so that a finished training is not repeated if its results are lost, for example
    because Snakemake was killed before it recorded them. The workflow deletes the file at the end.

    Parameters
    ----------
    train : sequence of str or Path
        Datasets of the training volumes (HDF5).
    train_weight_maps : sequence of str or Path
        Weight maps of the training volumes (HDF5), in the same order; for a detector their boxes.
    validation : sequence of str or Path
        Datasets of the validation volumes (HDF5).
    validation_weight_maps : sequence of str or Path
        Weight maps of the validation volumes (HDF5), in the same order; for a detector their boxes.
    statistics : str or Path
        Normalisation, measured on the training volumes (JSON).
    model : str or Path
        Model file to write.
    history : str or Path
        CSV file to write, with one row for each validation.
    network : dict
        Name of the network (`name`) and its settings.
    training : dict
        Arguments of `training.schedule.Settings`, by name.
    augmentation : dict
        Arguments of `data.augment.Augmentation`, by name.
    seed : int
        Seed of all random numbers.
    start : str or Path, optional
        Model file whose parameters the network starts from. By default `training["start_from"]`, or none.
    boxes : str or Path, optional
        Sizes of the default boxes (JSON), written by `stages.boxes.choose_boxes`. Only detectors need it.
    threads : int, default 1
        Number of CPU threads, shared by the processes of a machine.
    processes : Processes, default one process
        Processes that train together. Each computes the gradients of its share of each batch and validates
        its share of the sections. The result is that of one process, except for the order of summation.

    Raises
    ------
    InputError
        If the tile is not a valid size of the network, the loss is not finite, the settings or the model to
        start from do not match the network or the data, or an input is missing or damaged.
    """
    settings = Settings(**training)
    start = start or settings.start_from
    if settings.batch % processes.number:
        raise InputError(
            f"training.batch: {settings.batch} patches cannot be divided evenly among {processes.number} "
            f"processes. Set `training.batch: {math.lcm(settings.batch, processes.number)}`, or use a number "
            "of processes that divides the batch."
        )
    torch.set_num_threads(max(threads // processes.on_this_machine, 1))
    passes.keep_memory()
    torch.manual_seed(seed)
    device = devices.choose_device(settings.device)
    precision = passes.choose_precision(settings.precision, device)
    measured = read_json(statistics)
    normalisation = Normalisation.from_dict(measured["normalisation"])
    task = networks.plan_type(network["name"]).task
    sizes: Json = {"sizes": read_json(boxes)["sizes"], "size_range": []} if boxes else {}
    trained_task = _load_task(network["name"], measured, settings)
    plan = networks.plan(
        **network | sizes, image_channels=len(normalisation.scale), classes=trained_task.classes
    )
    plan.require_training(dataclasses.asdict(settings))
    output = plan.geometry.output_size(settings.tile)
    net = plan.build()
    started: Json = {}
    if start:
        normalisation, started = _start(net, start, trained_task, normalisation, settings)
    net.freeze(settings.freeze or ())
    # machines of different kinds may draw different random numbers
    net.load_state_dict(processes.from_first(net.state_dict))
    net.move_to(device)
    torch.backends.cudnn.benchmark = True  # tiles have one size, so the search for fast algorithms pays off
    inputs = [*train, *train_weight_maps, *validation, *validation_weight_maps, statistics]
    inputs += [path for path in (start, boxes) if path]
    all_settings: Json = {
        "task": task,
        "network": network,
        "training": training,
        "augmentation": augmentation,
        "seed": seed,
    }
    with ExitStack() as recording:
        record = processes.from_first(
            lambda: recording.enter_context(
                provenance.making("train", [model, history], inputs, **all_settings)
            )
        )
        record["environment"] = {
            "torch": str(torch.__version__),
            "device": device.type,
            "precision": str(precision).removeprefix("torch."),
            "threads": threads,
            "processes": processes.number,
        }
        record["device"] = device.type
        if start:
            record["start"] = started
        trained = Model(
            plan,
            net,
            normalisation,
            record,
            task,
            pixel_size=pair(measured.get("pixel_size")),
            classes=trained_task.class_names,
            cells=trained_task.cell_names,
            offsets=settings.offsets,
        )
        path = Path(model).with_suffix(".checkpoint.pt")
        checkpoint = Checkpoint(path, key_of(record), trained, settings, processes)
        state = checkpoint.state
        if state.history and processes.first:
            write_history(history, state.history)  # Snakemake deleted it when the job failed
        if state.finished(settings):
            logger.info("%s contains a finished training. Delete this file to train again.", path)
        else:
            if state.iteration:
                logger.info("resuming at iteration %d", state.iteration)
            elif start:
                _log_start(started, start, normalisation)
            _log_training(plan, settings, output, device, precision, processes)
            with ExitStack() as stack:
                volumes = open_volumes(stack, trained_task.open, train, train_weight_maps)
                validation_volumes = open_volumes(
                    stack, trained_task.open, validation, validation_weight_maps
                )
                for file, volume in zip([*train, *validation], [*volumes, *validation_volumes], strict=True):
                    with layout.require(file) as source:
                        gray = layout.findings(source)["gray"]
                    _check_gray_levels(normalisation, volume.raw, file, gray, started)
                plan.require_neighbours(volume.truth.shape[0] for volume in volumes)
                volumes, validation_volumes = _as_seen(plan, volumes), _as_seen(plan, validation_volumes)
                classes = len(trained_task.class_names)
                balanced, w_c = None, np.ones(classes)
                if trained_task.pixelwise:
                    truths = [cast("PixelwiseTruth", volume.truth) for volume in volumes]
                    w_c = _class_weights(truths, train_weight_maps, classes)
                    if settings.sampling == "class_balanced":
                        balanced = ClassBalanced(truths, classes)
                patches = trained_task.patches(
                    plan,
                    volumes,
                    normalisation,
                    plan.geometry.context,
                    settings.tile,
                    trained_task.augmentation(**augmentation),
                    seed,
                    balanced,
                )
                if balanced:
                    learned_from = trained_shares(patches, cast("tasks.PixelwiseTask", trained_task))
                    trained.log_prior = log_prior(balanced.pixels, learned_from, w_c)
                    logger.info("%s", _describe_shares(trained_task, balanced.pixels, learned_from))
                elif (w_c != 1).any():  # the classes have the same shares in patches and images
                    frequencies = measured["class_frequencies"]
                    trained.log_prior = log_prior(frequencies, frequencies, w_c)
                step = Step(net, checkpoint.optimizer, trained_task, settings, seed, precision, processes)
                shares = map(step.share, range(state.iteration, settings.iterations))
                # a device that is too small for a training tile is also too small for it in validation;
                # tiles that are hardly more than context, as in patch-wise training, would make it slow
                of_volumes = partial(
                    validate,
                    passes.SplitIfTooLarge(net),
                    trained_task,
                    validation_volumes,
                    normalisation,
                    max(settings.tile, plan.geometry.input_size(plan.geometry.context)),
                    device,
                    precision,
                    processes,
                    trained.log_prior,
                )

                def scores() -> dict[str, float]:
                    if settings.batch_normalisation_tiles:
                        # not needed for training steps, so they may replace the running statistics
                        numbers = processes.share(settings.batch_normalisation_tiles)
                        images = (patches.move(patches.read(number), device).image for number in numbers)
                        tiles = zip(numbers, map(step.without_rim, images), strict=True)
                        estimate_statistics(net, tiles, precision, processes)
                    return of_volumes()

                learn(checkpoint, step, patches.batches(shares, device), scores, history)
        if processes.first:
            net.load_state_dict(cast("dict[str, Tensor]", state.best))  # set by the last validation
            net.cpu()
            record |= state.provenance_entries(settings)
            trained.save(model)
            record["seconds"] = state.seconds


def _load_task(network: str, measured: Json, settings: Settings) -> tasks.Task:
    """Return the task of a network; raise `InputError` if it does not have a setting of the training."""
    kind = networks.plan_type(network).task
    if settings.offsets and kind != "segmentation":
        raise InputError(
            f"training.affinities: {network} learns boxes, which have no affinities. Remove the key."
        )
    task = tasks.load(kind, measured.get("classes", ()), measured.get("cells", ()), settings.offsets)
    if settings.best_by not in task.scores:
        raise InputError(
            f"training.best_by: found `{settings.best_by}`, expected a score of the task {kind}: "
            f"{', '.join(task.scores)}."
        )
    chooses_pixels = settings.loss_mask is not None or settings.sampling == "class_balanced"
    if chooses_pixels and not task.pixelwise:
        raise InputError(
            f"training: `loss_mask` and `sampling: class_balanced` choose pixels, but {network} learns "
            "boxes. Remove these settings."
        )
    return task


def _log_training(
    plan: Plan,
    settings: Settings,
    output: int,
    device: torch.device,
    precision: torch.dtype,
    processes: Processes,
) -> None:
    """Log what is trained, and warn of settings that do not help."""
    logger.info(
        "training %s with %.1f million parameters on %s in %s: %d iterations, batches of %d, "
        "tiles of %d -> %d px%s",
        plan.name,
        plan.parameters / 1e6,
        device,
        str(precision).removeprefix("torch."),
        settings.iterations,
        settings.batch,
        settings.tile,
        output,
        f", in {processes.number} processes" if processes.number > 1 else "",
    )
    if settings.warm_up >= settings.iterations:
        logger.warning(
            "training.warm_up: %d iterations, of %d. The learning rate does not reach %g. Set a smaller "
            "`warm_up`, or train longer.",
            settings.warm_up,
            settings.iterations,
            settings.learning_rate,
        )
    if processes.number > 1 and device.type == "cpu" and settings.device == "auto":
        logger.warning(
            "torch finds no GPU. The processes share the CPU, which is not faster than one process."
        )


def _class_weights(
    truths: Sequence[PixelwiseTruth], weight_maps: Sequence[str | Path], classes: int
) -> npt.NDArray[np.float64]:
    """Return the weight of each class in the loss.

    Raises
    ------
    InputError
        If the volumes have different weights.
    """
    found = [np.ones(classes) if truth.class_weights is None else truth.class_weights for truth in truths]
    for own, path in zip(found, weight_maps, strict=True):
        if not np.array_equal(own, found[0]):
            raise InputError(
                f"{path}: its classes have the weights {own.tolist()}, but those of {weight_maps[0]} have "
                f"{found[0].tolist()}. All training volumes need the same. Delete both files and run the "
                "workflow again."
            )
    return found[0]


def _as_seen(plan: Plan, volumes: Sequence[Volume]) -> list[Volume]:
    """Return volumes whose images have the neighbouring sections that a network sees as channels."""
    return [volume._replace(raw=with_neighbours(volume.raw, plan.context_sections)) for volume in volumes]


def _describe_shares(task: tasks.Task, pixels: np.ndarray, trained: np.ndarray) -> str:
    """Return the shares of the classes in the images and in the training, in one line for the log."""
    shares = zip(task.class_names, pixels / pixels.sum(), trained, strict=True)
    return "class-balanced patches: " + ", ".join(
        f"{name} {there:.1%} of annotated pixels and {here:.1%} of those in patches"
        for name, there, here in shares
    )


def _start(
    net: Network, path: str | Path, task: tasks.Task, measured: Normalisation, settings: Settings
) -> tuple[Normalisation, Json]:
    """Let a network start from a model file. Return its normalisation, and what was copied for the record."""
    source = Model.load(path)
    same = transfer.same_classes(source.classes, task.class_names) and source.offsets == settings.offsets
    found = transfer.match(source.plan, net.plan, same)
    transfer.transfer(found, source.network, net)
    kept = transfer.keeps_normalisation(source.plan, net.plan, settings.keep_normalisation)
    started = {"network": source.plan.name, "kept_normalisation": kept, **found.summary()}
    return source.normalisation if kept else measured, started


def _log_start(started: Json, path: str | Path, normalisation: Normalisation) -> None:
    """Log what a network has taken over from the model that it started from."""
    for what, title in (
        ("copied", "copied"),
        ("summed", "copied, with kernels summed over the channels"),
        ("sections", "copied, with kernels for other neighbouring sections"),
        ("initialised", "not in the model, or of another shape; initialised"),
        ("left_out", "left out"),
    ):
        layers = started.get(what, [])
        if layers or what not in ("summed", "sections"):
            logger.info(
                "starting from %s (%s): %s: %s",
                path,
                started["network"],
                title,
                ", ".join(layers) or "none",
            )
    logger.info(
        "normalisation (%s): %s",
        normalisation.kind,
        "that of the model to start from. For one of the new images, set `training.keep_normalisation: false`"
        if started["kept_normalisation"]
        else "measured on the training images",
    )


def _check_gray_levels(
    normalisation: Normalisation, raw: Stored, path: str | Path, gray: Json, started: Json
) -> None:
    """Raise `InputError` unless images fit the normalisation, which may be that of an earlier model."""
    try:
        normalisation.check(raw, path, gray)
    except InputError as error:
        if not started.get("kept_normalisation"):
            raise
        raise InputError(
            f"{error} The training images meant here are those of the model in `training.start_from`, whose "
            "normalisation is kept: `training.keep_normalisation: false` measures it on the new images."
        ) from None


def train_on(gpus: int, log_file: str | Path, *, training: Json, **arguments: Any) -> None:
    """Train like `train`, with one process of this machine for each GPU of the job.

    Parameters
    ----------
    gpus : int
        Number of GPUs. With 0 or 1, training runs in this process. With more, this function starts one
        process for each GPU and waits for them.
    log_file : str or Path
        Log file of the job.
    training : dict
        Arguments of `training.schedule.Settings`, by name.
    **arguments
        Other arguments of `train`.

    Raises
    ------
    InputError
        As for `train`, and if one of several processes was killed.
    """
    if gpus > 1:
        launch(__name__, gpus, training.get("device", "auto"), log_file, training=training, **arguments)
    else:
        train(training=training, **arguments)


def key_of(record: Json) -> str:
    """Return the key of a checkpoint: a hash of the settings, the data and the arithmetic.

    Paths of files and the version of the library are not part of the key. The number of processes and threads
    is not part of it either, because it may differ on another machine: resuming with another number changes
    the result as little as starting with that number.

    Parameters
    ----------
    record : dict
        Provenance record of the training, with `settings`, `inputs` and `environment`.

    Returns
    -------
    str
        SHA-256 hash as hexadecimal digits.
    """
    environment = {k: v for k, v in record["environment"].items() if k not in ("processes", "threads")}
    training = {k: v for k, v in record["settings"]["training"].items() if k != "start_from"}  # a path
    decisive = [record["settings"] | {"training": training}, list(record["inputs"].values()), environment]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    work(train)
