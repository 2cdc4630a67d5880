"""Training stage: datasets and weight maps in, `model.pt` and `history.csv` out.

The workflow starts one process for each GPU it is given, on one machine. Over several machines, which share a
disk, type on each of them, where HOST is one of them,

    python -m torch.distributed.run --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d \\
        --rdzv-endpoint HOST:29500 -m pipeline_lib.stages.training ARGUMENTS.json

with the arguments of `train` in a JSON file; `log_file` may be added. GPUs are not claimed then: nobody else
should be at work on them. A training that was interrupted resumes in any number of processes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipeline_lib import networks, provenance, tasks
from pipeline_lib.data.augment import Augmentation
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Patches, open_volumes
from pipeline_lib.inference import passes
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.processes import ALONE, Processes, launch, work
from pipeline_lib.training.loop import learn, write_history
from pipeline_lib.training.schedule import Settings
from pipeline_lib.training.state import Checkpoint
from pipeline_lib.training.step import Step
from pipeline_lib.training.validation import validate


@devices.explain_memory_errors("training")
def train(
    train: Sequence[Path],
    train_weight_maps: Sequence[Path],
    validation: Sequence[Path],
    validation_weight_maps: Sequence[Path],
    statistics: Path,
    model: Path,
    history: Path,
    *,
    network: dict[str, Any],
    training: dict[str, Any],
    augmentation: dict[str, Any],
    seed: int,
    task: str = "segmentation",
    threads: int = 1,
    processes: Processes = ALONE,
) -> None:
    """Train a network and write the best state by validation to `model`.

    The state is saved beside the model, in `<model>.checkpoint.pt`, at each validation, every few minutes,
    and when a signal asks the process to end. An interrupted training resumes from there and ends on the CPU
    with the same bytes as an uninterrupted one. The file stays: a finished training whose results are lost,
    for example because Snakemake was killed before it recorded them, is not repeated. The workflow deletes
    the file when all is done.

    Parameters
    ----------
    train, train_weight_maps, validation, validation_weight_maps : sequence of Path
        Datasets and weight maps (HDF5) of the volumes of both splits.
    statistics : Path
        Normalisation, measured on the training volumes (JSON).
    model, history : Path
        Outputs: the trained network, and a CSV with a row for each validation.
    network : dict
        Its `name` and its settings.
    training, augmentation : dict
        Arguments of `Settings` and `Augmentation`.
    seed : int
        Of everything random.
    task : str
        What the network is trained for (`tasks`).
    threads : int
        Of the CPU, which the processes of a machine share.
    processes : Processes
        Each computes the gradients of its share of each batch and validates its share of the sections. The
        result is that of one process, except for the order in which sums are taken.

    Raises
    ------
    InputError
        For a tile that the network does not take, a loss that is not finite, and settings that do not fit the
        data.
    """
    settings = Settings(**training)
    if settings.batch % processes.number:
        raise InputError(
            f"training.batch: {settings.batch} patches cannot be shared out evenly to {processes.number} "
            f"processes. Set `training.batch: {math.lcm(settings.batch, processes.number)}`, or start a "
            "number of processes that divides it."
        )
    torch.set_num_threads(max(threads // processes.on_this_machine, 1))
    passes.keep_memory()
    torch.manual_seed(seed)
    device = devices.choose_device(settings.device)
    precision = passes.choose_precision(settings.precision, device)
    normalisation = Normalisation.from_dict(read_json(statistics)["normalisation"])
    goal = tasks.load(task)
    if settings.best_by not in goal.scores:
        raise InputError(
            f"training.best_by: found `{settings.best_by}`, but the scores of {task} are "
            f"{', '.join(goal.scores)}. Choose one of them."
        )
    given = {**network, "input_channels": len(normalisation.scale), "classes": goal.classes}
    plan = networks.plan(given.pop("name"), **given)
    output = plan.geometry.output_size(settings.tile)
    net = plan.build()
    net.load_state_dict(processes.from_first(net.state_dict))  # machines of another kind draw other numbers
    net.to(device, memory_format=torch.channels_last)
    torch.backends.cudnn.benchmark = True  # every tile has one size: worth finding its fastest algorithms
    inputs = [*train, *train_weight_maps, *validation, *validation_weight_maps, statistics]
    settings_of_all = {
        "task": task,
        "network": network,
        "training": training,
        "augmentation": augmentation,
        "seed": seed,
    }
    with ExitStack() as made:
        record = processes.from_first(
            lambda: made.enter_context(
                provenance.making("train", [model, history], inputs, **settings_of_all)
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
        found = Model(plan, net, normalisation, record, task)
        path = Path(model).with_suffix(".checkpoint.pt")
        checkpoint = Checkpoint(path, key_of(record), found, settings, processes)
        state = checkpoint.state
        if state.history and processes.first:
            write_history(history, state.history)  # a failed job has lost it
        if state.finished(settings):
            logger.info("trained before, as %s says: delete it to train again", path)
        else:
            if state.iteration:
                logger.info("resuming at iteration %d", state.iteration)
            logger.info(
                "training %s of %.1f million parameters on %s in %s: %d iterations, batches of %d, "
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
            if processes.number > 1 and device.type == "cpu" and settings.device == "auto":
                logger.warning("torch sees no GPU: the processes share the CPU, which is no faster than one")
            with ExitStack() as stack:
                volumes = open_volumes(stack, goal.open, train, train_weight_maps)
                held_out = open_volumes(stack, goal.open, validation, validation_weight_maps)
                for file, volume in zip([*train, *validation], [*volumes, *held_out], strict=True):
                    normalisation.check(volume.raw, file)
                patches = Patches(
                    volumes,
                    normalisation,
                    plan.geometry.context,
                    settings.tile,
                    Augmentation(**augmentation),
                    seed,
                )
                step = Step(net, checkpoint.optimizer, goal, settings, seed, precision, processes)
                shares = map(step.share, range(state.iteration, settings.iterations))
                # a device too small for a training tile is so for validation, too
                in_halves = passes.InHalves(net)
                scores = partial(
                    validate,
                    in_halves,
                    goal,
                    held_out,
                    normalisation,
                    settings.tile,
                    device,
                    precision,
                    processes,
                )
                learn(checkpoint, step, patches.batches(shares, device), scores, history)
        if processes.first:
            net.load_state_dict(state.best)
            net.cpu()
            record |= state.account(settings)
            found.save(model)
            record["seconds"] = state.seconds


def train_on(gpus: int, log_file: Path, *, training: dict[str, Any], **arguments: Any) -> None:
    """Train as `train` does, in one process of this machine for each of the GPUs that the job has.

    Parameters
    ----------
    gpus : int
        With none or one, training runs in this process. Several processes are started and waited for.
    log_file : Path
        The log of the job.
    training : dict
        Arguments of `Settings`.
    **arguments
        The other arguments of `train`.
    """
    if gpus > 1:
        launch(__name__, gpus, training.get("device", "auto"), log_file, training=training, **arguments)
    else:
        train(training=training, **arguments)


def key_of(record: dict[str, Any]) -> str:
    """What a checkpoint belongs to, as a hash: settings, data and the arithmetic.

    Neither where files lie nor the library's commit counts, nor the number of processes and threads, which
    are others on another machine: going on with them changes the result no more than beginning with them.
    """
    environment = {k: v for k, v in record["environment"].items() if k not in ("processes", "threads")}
    decisive = [record["settings"], list(record["inputs"].values()), environment]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


if __name__ == "__main__":
    work(train)
