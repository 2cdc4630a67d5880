"""Measure how long a training takes on this machine."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from pipeline_lib import networks, tasks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Volume
from pipeline_lib.inference import passes
from pipeline_lib.inference.neighbours import with_neighbours
from pipeline_lib.networks import Plan
from pipeline_lib.networks.folding import fold
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.types import Json
from pipeline_lib.training.schedule import Settings
from pipeline_lib.training.step import Step

SECTION = 512  # px, side of the section whose prediction is timed
FEWEST_STEPS = 3  # steps that are timed even if they take longer than `seconds`


def measure_speed(
    network: Json,
    training: Json,
    augmentation: Json | None = None,
    *,
    channels: int = 1,
    classes: Sequence[str] = (),
    cells: Sequence[str] = (),
    threads: int | None = None,
    seconds: float = 3.0,
) -> float:
    """Return the time that an iteration of a training takes, measured with real training steps.

    The patches are noise, but they are read, augmented and learned from as in a training. A detector learns
    objects of 24 px, one in 40 x 40 px. Validations and the
    saving of the state are not included. Freed memory stays with the process afterwards, as in a training
    (`inference.passes.keep_memory`). A GPU that is used stays reserved for this process.

    Parameters
    ----------
    network : dict
        Name of the network (`name`, by default `unet`) and its settings.
    training : dict
        Arguments of `training.schedule.Settings`, by name.
    augmentation : dict, optional
        Arguments of `data.augment.Augmentation`, by name.
    channels : int, default 1
        Number of channels of the images.
    classes, cells : sequence of str, optional
        Names of the classes, and of those whose pixels belong to cells, as for `tasks.load`.
    threads : int, optional
        Number of CPU threads of the training. By default that of this process.
    seconds : float, default 3.0
        Time after which the measurement ends, apart from a first step that is not timed (s). At least 3 steps
        are timed.

    Returns
    -------
    float
        Seconds per iteration.

    Raises
    ------
    InputError
        If a setting of the network is not valid, the tile does not fit the network, or `training.device` is
        `cuda` and there is no GPU.

    Examples
    --------
    >>> from pipeline_lib.training.speed import measure_speed
    >>> measure_speed({"base_channels": 16}, {"tile": 300}) * 4000 / 60  # min  # doctest: +SKIP
    14.0
    """
    settings = Settings(**training)
    network = {"name": "unet"} | network
    name = networks.plan_type(network["name"]).task
    task = tasks.load(name, classes, cells, settings.offsets, settings.loss)
    plan = networks.plan(**network, image_channels=channels, classes=task.classes).example()
    plan.require_tile(settings.tile, "training.tile")
    device = devices.choose_device(settings.device)
    precision = passes.choose_precision(settings.precision, device)
    passes.keep_memory()
    with _threads(threads), torch.random.fork_rng():
        net = plan.build()
        if settings.deep_supervision:
            net.supervise()
        net.move_to(device)
        net.freeze(settings.freeze or ())
        net.train()
        optimizer = torch.optim.Adam(net.parameters(), settings.learning_rate)
        step = Step(net, optimizer, task, settings, seed=0, precision=precision)
        raw = np.random.default_rng(0).integers(256, size=(channels, 1, *2 * [2 * settings.tile]))
        images = with_neighbours(raw.astype(np.uint8), plan.context_sections)
        one = np.ones((channels, 1, 1), np.float32)
        patches = task.patches(
            plan,
            [Volume(images, task.example((1, *raw.shape[2:])))],
            Normalisation("mean_std", "uint8", 128 * one, 74 * one),
            plan.geometry.context,
            settings.tile,
            task.augmentation(**augmentation or {}),
            0,
        )
        batches = patches.batches(map(step.share, itertools.count()), device)
        step(next(batches), 0)  # the first step also requests memory and chooses algorithms
        start, done = time.perf_counter(), 0
        while done < FEWEST_STEPS or time.perf_counter() - start < seconds:
            loss, _ = step(next(batches), done + 1)
            loss.item()  # waits for a GPU
            done += 1
        taken = time.perf_counter() - start
        batches.close()  # type: ignore[attr-defined]  # ends the thread that prepares patches
        return taken / done


def measure_prediction(
    plan: Plan,
    *,
    precision: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    seconds: float = 3.0,
) -> float:
    """Return the time that a network takes for the pixels of a section, without reading and writing files.

    The network processes a tile of noise whose output has about 512 x 512 px.

    Parameters
    ----------
    plan : Plan
        Plan of the network.
    precision : {"auto", "float32", "bfloat16"}, default "auto"
        Number format of the convolutions.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device of the prediction.
    threads : int, optional
        Number of CPU threads. By default that of this process.
    seconds : float, default 3.0
        Time after which the measurement ends, apart from a first tile that is not timed (s). At least one
        tile is timed.

    Returns
    -------
    float
        Seconds per megapixel (10^6 px) of the output.

    Raises
    ------
    InputError
        If `device` is `cuda` and there is no GPU.
    """
    chosen = devices.choose_device(device)
    number_format = passes.choose_precision(precision, chosen)
    passes.keep_memory()
    with _threads(threads), torch.random.fork_rng(), torch.inference_mode():
        net = plan.build().eval()
        fold(net)
        net.move_to(chosen)
        size = plan.geometry.input_size(SECTION)
        image = torch.randn(1, plan.input_channels, size, size, device=chosen)

        def predict() -> None:
            with passes.autocast(chosen, number_format):
                net(image).sum().item()  # waits for a GPU

        predict()
        start, done = time.perf_counter(), 0
        while not done or time.perf_counter() - start < seconds:
            predict()
            done += 1
        taken = time.perf_counter() - start
    return taken / done / plan.geometry.output_size(size) ** 2 * 1e6


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Let torch use a number of threads inside the `with` statement."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
