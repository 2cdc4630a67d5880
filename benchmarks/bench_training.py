"""Compare training with plain eager float32, and measure whether patches are ready in time.

    python -m benchmarks.bench_training

The training step is measured on the paper's network (64 to 1024 channels, 572 px tiles). The patches are
measured with a network of 16 channels, since its short steps need patches at the highest rate. All
measurements use a drawn volume and, if not stated otherwise, all threads of the machine.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from scipy import ndimage
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness
from benchmarks.harness import Row, ratio, side_by_side
from pipeline_lib import networks, tasks
from pipeline_lib.data import augment
from pipeline_lib.data.affinities import OFFSETS
from pipeline_lib.data.augment import Augmentation
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.data.patches import Patches, Volume, open_volumes
from pipeline_lib.inference import passes as inference
from pipeline_lib.networks.module import UpConvolution
from pipeline_lib.networks.unet import module as unet
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import WAITING
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.synthesis import draw_volume
from pipeline_lib.training import randomness
from pipeline_lib.training.schedule import Settings, make_optimizer
from pipeline_lib.training.step import Step

TILE = 572
PAPER = {"base_channels": 64}
SMALL = {"base_channels": 16, "dropout": 0.2}  # as in config/isbi2012.yaml
CURVE = 200  # iterations
TASK = tasks.load("segmentation")
Batch = tuple[torch.Tensor, torch.Tensor]  # image; class and weight of each pixel


def measure() -> list[Row]:
    device = devices.choose_device("auto")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        patches = drawn_patches(Path(folder), stack)
        batch = patches.move(patches.read(0), device)
        step, row = steps(batch, device)
        inference.keep_memory()  # as the stage does; not earlier, as the plain anchor does not use it
        return [
            *row,
            loss_curves(patches, device),
            waiting(patches, device),
            *([] if device.type == "cuda" else use_of_cores()),
            up_convolutions(batch, device),
            pooling(batch, device),
            dropout(batch, device),
            affinities(batch, device),
            augmentation(patches),
            *reading(patches, step),
        ]


def drawn_patches(folder: Path, stack: ExitStack) -> Patches:
    """Return patches of a volume of four sections of 512 px, made as in the workflow."""
    images, annotation = folder / "images.tif", folder / "labels.tif"
    draw_volume(
        images, annotation, sections=4, size=512, cell_diameter=44, membrane_width=(3, 6), noise=0.06, seed=0
    )
    dataset, weights, found = folder / "volume.h5", folder / "weights.h5", folder / "statistics.json"
    build_dataset(images, annotation, dataset, sections="all")
    measure_statistics([dataset], found)
    build_weight_map(dataset, found, weights)
    normalisation = Normalisation.from_dict(read_json(found)["normalisation"])
    volumes = open_volumes(stack, TASK.open, [dataset], [weights])
    return Patches(volumes, normalisation, networks.plan("unet").geometry.context, TILE, Augmentation(), 0)


def our_step(
    network: dict[str, Any], device: torch.device, optimizer: str = "sgd", task: tasks.Task = TASK
) -> Callable[[Batch], Any]:
    """Return the step of the training stage, with its precision and memory layout on this device."""
    torch.manual_seed(0)
    plan = networks.plan("unet", classes=task.classes, **network)
    net = plan.build().to(device, memory_format=torch.channels_last)
    precision = inference.choose_precision("auto", device)
    settings = Settings(optimizer=optimizer, tile=TILE)
    update = Step(net.train(), make_optimizer(net, settings), task, settings, 0, precision)
    iterations = itertools.count()
    return lambda batch: update([batch], next(iterations))[0]


def eager_step(
    network: dict[str, Any], device: torch.device, optimizer: str = "sgd", seed: int = 0
) -> Callable[[Batch], Any]:
    """Return a straightforward step for comparison: float32, contiguous memory, torch's cross entropy."""
    torch.manual_seed(seed)
    net = networks.plan("unet", **network).build().to(device).train()
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    more = {"momentum": 0.99} if optimizer == "sgd" else {}
    update = kinds[optimizer](net.parameters(), lr=1e-3, foreach=False, **more)
    torch.backends.cudnn.allow_tf32 = False
    iteration = 0

    def step(batch: Batch) -> torch.Tensor:
        nonlocal iteration
        image, target, weights = batch[0], batch[1][:, 0].long(), batch[1][:, 1]
        for group in update.param_groups:
            group["lr"] = 1e-3 * min(iteration + 1, 100) / 100  # the stage's warm-up
        iteration += 1
        loss = (weights * torch.nn.functional.cross_entropy(net(image), target, reduction="none")).mean()
        update.zero_grad()
        loss.backward()
        update.step()
        return loss.detach()

    return step


def steps(batch: Batch, device: torch.device) -> tuple[float, list[Row]]:
    """Compare a step of the paper's network with the plain step and with the speed of a matrix product.

    Returns the seconds of the fastest step, with which the reading of patches is compared, and the rows. On a
    GPU, it is the step of the paper's network, on a CPU that of the small one.
    """
    ours, eager = our_step(PAPER, device), eager_step(PAPER, device)
    times = side_by_side({"ours": lambda: ours(batch), "eager": lambda: eager(batch)}, rounds=4)
    gpu = device.type == "cuda"
    with FlopCounterMode(display=False) as counter:
        ours(batch)
    taken = statistics.median(times["ours"])
    details = {
        "seconds": taken,
        "eager_seconds": statistics.median(times["eager"]),
        "teraflop_per_step": counter.get_total_flops() / 1e12,
        "precision": str(inference.choose_precision("auto", device)),
        "peak_bytes": torch.cuda.max_memory_allocated() if gpu else harness.peak_memory(),
    }
    where = "GPU" if gpu else "CPU"
    rows = [
        Row(
            f"training step of the paper's network, {where}",
            "plain eager float32",
            ratio(times, "eager", "ours"),
            "x faster",
            6.0 if gpu else 2.0,
            True,
            details,
        )
    ]
    rate = matrix_rate(device, 8192 if gpu else 2048)
    rows.append(
        Row(
            f"its arithmetic, {where}",
            "bf16 matrix product",
            counter.get_total_flops() / taken / rate,
            "of the rate",
            0.35 if gpu else None,
            True,
            {"matrix_teraflops": rate / 1e12},
        )
    )
    small = our_step(SMALL, device)
    (fast,) = side_by_side({"small": lambda: small(batch)}, rounds=7).values()
    return (taken if gpu else min(fast)), rows


def matrix_rate(device: torch.device, size: int) -> float:
    """Return the floating-point operations per second of a product of two bfloat16 matrices."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = side_by_side({"product": lambda: a @ b}, rounds=9)
    return 2 * size**3 / min(times["product"])


def loss_curves(patches: Patches, device: torch.device, network: dict[str, Any] = SMALL) -> Row:
    """Compare the loss on the same patches between our step, eager float32, and another initial state.

    With the paper's network (`PAPER`) this takes half an hour on two cores; that is not part of `measure`.
    """
    candidates = {
        "ours": our_step(network, device, "adam"),
        "eager": eager_step(network, device, "adam"),
        "eager, another seed": eager_step(network, device, "adam", seed=1),
    }
    losses: dict[str, list[float]] = {name: [] for name in candidates}
    for (batch,) in patches.batches(([i] for i in range(CURVE)), device):
        for name, step in candidates.items():
            losses[name].append(float(step(batch)))
    ours, eager, other = (np.array(values)[CURVE // 2 :] for values in losses.values())
    return Row(
        f"loss of iterations {CURVE // 2}-{CURVE}, ours - eager float32",
        "spread over seeds",
        abs(ours.mean() - eager.mean()) / abs(other.mean() - eager.mean()),
        "of the spread",
        1.0,
        details={name: [round(v, 4) for v in values] for name, values in losses.items()},
    )


def waiting(patches: Patches, device: torch.device, count: int = 10) -> Row:
    """Measure how much longer steps of the small network take on new patches than on the same patch."""
    step, fresh = our_step(SMALL, device), endless(patches, device)
    one = patches.move(patches.read(0), device)

    def many(source: Callable[[], Batch]) -> None:
        for _ in range(count):
            step(source())

    candidates = {"fresh": lambda: many(lambda: next(fresh)), "one": lambda: many(lambda: one)}
    times = side_by_side(candidates, rounds=7)
    return Row(
        "data and augmentation, 16 channels",
        "the step itself",
        1 - ratio(times, "one", "fresh"),
        "of a step",
        0.05 if device.type == "cuda" else 0.10,
        details={"iterations_per_second": count / statistics.median(times["fresh"])},
    )


def use_of_cores(rounds: int = 3) -> list[Row]:
    """Measure how much of the cores a training with the small network uses, with its augmentation.

    Each measurement is a process of its own, in which threads wait for each other as in the training stage,
    or sleep at once.
    """
    found: dict[str, list[list[float]]] = {"stage": [], "asleep": []}
    for _ in range(rounds):
        for name, more in (("stage", {}), ("asleep", {"GOMP_SPINCOUNT": "0"})):
            command = [sys.executable, "-c", "from benchmarks import bench_training as b; b.print_use()"]
            environment = os.environ | WAITING | more
            printed = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout
            found[name].append(json.loads(printed))
    (rate, cores), (rate_asleep, cores_asleep) = (np.median(runs, axis=0) for runs in found.values())
    threads = torch.get_num_threads()
    return [
        Row(
            "processor time of a training, 16 channels",
            f"time on {threads} cores",
            cores / threads,
            "of the cores",
            0.95,
            True,
            {"iterations_per_second": rate},
        ),
        Row(
            "training, threads wait for each other as in the stage",
            "asleep",
            rate / rate_asleep,
            "x faster",
            details={"of_the_cores_asleep": cores_asleep / threads},
        ),
    ]


def print_use(count: int = 60) -> None:
    """Print the iterations per second of a training with the small network, and how many cores it used."""
    device = torch.device("cpu")
    inference.keep_memory()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        step, fresh = our_step(SMALL, device, "adam"), endless(drawn_patches(Path(folder), stack), device)
        for _ in range(10):
            step(next(fresh))
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(count):
            step(next(fresh))
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(json.dumps([count / wall, processor / wall]))


def faster(what: str, anchor: str, ours: Callable[[], Any], plain: Callable[[], Any]) -> Row:
    """Return how many times faster a step is than the same without one of its means."""
    times = side_by_side({"ours": ours, "plain": plain}, rounds=25)
    medians = {name: statistics.median(own) for name, own in times.items()}
    return Row(what, anchor, ratio(times, "plain", "ours"), "x faster", 1.0, True, medians)


def dropout(batch: Batch, device: torch.device) -> Row:
    """Compare the small network's step with one whose drop-out is that of torch."""
    ours = our_step(SMALL, device, "adam")

    def by_torch() -> None:
        with patch.object(randomness, "dropout", functional.dropout):
            ours(batch)

    return faster(
        "training step, drop-out with 16 bits for each value",
        "drop-out of torch",
        lambda: ours(batch),
        by_torch,
    )


def up_convolutions(batch: Batch, device: torch.device) -> Row:
    """Compare the small network with one whose up-convolutions are computed by torch."""

    class Plain(UpConvolution):
        def forward(self, x: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
            return nn.ConvTranspose2d.forward(self, x, output_size)

    ours = our_step(SMALL, device, "adam")
    with patch.object(unet, "UpConvolution", Plain):
        plain = our_step(SMALL, device, "adam")
    return faster(
        "training step, up-convolution as 1x1 convolution",
        "transposed convolution",
        lambda: ours(batch),
        lambda: plain(batch),
    )


def pooling(batch: Batch, device: torch.device) -> Row:
    """Compare the small network with one whose poolings are computed by torch, image by image."""
    step, torch_pool = our_step(SMALL, device, "adam"), partial(nn.functional.max_pool2d, kernel_size=2)

    def plain() -> None:
        with patch.object(unet, "max_pool", torch_pool):
            step(batch)

    return faster(
        "training step, pooling of pairs of rows",
        "of images",
        lambda: step(batch),
        plain,
    )


def affinities(batch: Batch, device: torch.device) -> Row:
    """Compare a step that also learns the default affinities with one that does not."""
    task = tasks.load("segmentation", offsets=OFFSETS)
    image, truth = batch
    # the third number is that of the cell: here squares of 44 px
    squares = torch.arange(truth.shape[-1], device=device) // 44
    cells = (1 + squares[:, None] * (squares.max() + 1) + squares) * (truth[:, :1] > 0)
    with_cells = image, torch.cat([truth, cells], 1)
    learning, plain = our_step(SMALL, device, "adam", task), our_step(SMALL, device, "adam")
    times = side_by_side({"with": lambda: learning(with_cells), "without": lambda: plain(batch)}, rounds=25)
    return Row(
        "training step with 12 affinities",
        "without",
        ratio(times, "with", "without"),
        "x the time",
        1.15,
        details={name: statistics.median(own) for name, own in times.items()},
    )


def endless(patches: Patches, device: torch.device) -> Iterator[Batch]:
    for (batch,) in patches.batches(([i] for i in range(10**9)), device):
        yield batch


def augmentation(patches: Patches) -> Row:
    """Compare the augmentation of one patch (image, target, weights) by torch and by scipy, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    region, cpu = patches.read(0), torch.device("cpu")
    functions = augment.basis(TILE, region.transform.nodes.shape[-1], cpu).numpy()
    shared = functions @ augment.placement(region.transform, region.centre) @ functions.T
    image, target, weights = twin(region, patches, shared)
    ours = patches.move(region, cpu)
    # not equal: a cubic spline and cubic convolution differ between the pixels
    difference = np.abs(ours[0][0].numpy() - image).mean() / image.std()
    # a pixel whose source lies midway between two pixels may be rounded to either of them
    differing = max(np.mean(a != b) for a, b in zip(ours[1][0].numpy(), (target, weights), strict=True))
    assert difference < 0.05 and differing < 1e-3, (difference, differing)
    candidates = {
        "ours": lambda: patches.move(region, cpu),
        "twin": lambda: twin(region, patches, twin_positions(region)),
        "twin, positions given": lambda: twin(region, patches, shared),
    }
    times = side_by_side(candidates, rounds=15)
    torch.set_num_threads(threads)
    return Row(
        "augmentation of a 572 px patch, one thread",
        "scipy map_coordinates",
        ratio(times, "twin", "ours"),
        "x faster",
        5.0,
        True,
        {
            "milliseconds": 1000 * statistics.median(times["ours"]),
            "times_faster_with_the_positions_given_to_the_twin": ratio(
                times, "twin, positions given", "ours"
            ),
            "mean_difference_of_image_in_its_standard_deviations": float(difference),
            "share_of_labels_that_differ": float(differing),
        },
    )


def twin_positions(region: Any) -> np.ndarray:
    """Return the source position of each pixel (2, y, x): displacement by cubic splines, then rotation."""
    nodes, patch = region.transform.nodes, np.indices((TILE, TILE))
    node = patch * (nodes.shape[-1] - 1) / (TILE - 1)
    moved = [
        axis - TILE // 2 + ndimage.map_coordinates(of_nodes, node, order=3, mode="nearest")
        for axis, of_nodes in zip(patch, nodes, strict=True)
    ]
    return np.tensordot(region.transform.matrix, moved, 1) + np.array(region.centre)[:, None, None]


def twin(region: Any, patches: Patches, place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the same augmentation with numpy and scipy."""
    transform, context = region.transform, patches.context
    inner = place[:, context : TILE - context, context : TILE - context]
    image = np.stack(
        [ndimage.map_coordinates(c, place, order=3, mode="mirror") for c in region.image.numpy()]
    )
    target, weights = (
        ndimage.map_coordinates(array.numpy(), inner, order=0, mode="mirror") for array in region.truth
    )
    low, span = image.min(), image.max() - image.min()
    image = ((image - low) / span) ** transform.gamma * span + low
    generator = torch.Generator().manual_seed(region.seed)
    noise = torch.randn(image.shape, generator=generator).numpy()
    return image * transform.gain + transform.offset + noise * transform.noise, target, weights


def reading(patches: Patches, step: float) -> list[Row]:
    """Measure reading random patches from the dataset file (already cached) and from arrays in memory."""
    in_memory = Patches(
        [
            Volume(
                raw[...],
                replace(truth, **{name: a[...] for name, a in vars(truth).items() if hasattr(a, "shape")}),
            )
            for raw, truth in patches.volumes
        ],
        patches.normalisation,
        patches.context,
        TILE,
        patches.augmentation,
        patches.seed,
    )

    def many(source: Patches) -> None:
        for iteration in range(20):
            source.read(iteration)

    times = side_by_side({"file": lambda: many(patches), "memory": lambda: many(in_memory)}, rounds=9)
    each = statistics.median(times["file"]) / 20
    return [
        Row(
            "reading random patches from the file, one thread",
            "what the fastest step consumes",
            step / each,
            "x as many",
            3.0,
            True,
            {"milliseconds": 1000 * each, "step_milliseconds": 1000 * step},
        ),
        Row("reading random patches from the file", "from memory", ratio(times, "file", "memory")),
    ]


if __name__ == "__main__":
    harness.main(measure)
