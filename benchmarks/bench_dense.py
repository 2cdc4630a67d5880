"""Compare the ways in which a patch classifier classifies every pixel: multiply-adds and time.

    python -m benchmarks.bench_dense

Multiply-adds are those of the network N4 (Ciresan et al. 2012) per pixel of a large section. Times are those
of a smaller network (16 channels, windows of 63 px) for an output of 64 x 64 px, on one thread of the CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.harness import Row, ratio, side_by_side
from pipeline_lib import networks, tasks
from pipeline_lib.data.patches import Patch
from pipeline_lib.inference import passes
from pipeline_lib.networks.cost import multiply_adds
from pipeline_lib.networks.patch_classifier import PatchClassifierPlan, dense
from pipeline_lib.networks.patch_classifier.module import PatchClassifier
from pipeline_lib.training.schedule import Settings, make_optimizer
from pipeline_lib.training.step import Step

Way = Callable[[PatchClassifier, Tensor], Tensor]
WAYS: dict[str, Way] = {
    "sliding window": dense.sliding_window,
    "shift-and-stitch": dense.shift_and_stitch,
    "heat map": dense.heat_map,
    "dilated kernels": lambda network, x: network(x),
}
SMALL = {"channels": [16] * 4, "window": 63}
OUTPUT = 64  # px
BATCH = 64


def measure() -> list[Row]:
    torch.set_num_threads(1)
    passes.keep_memory()
    return [*costs(), *times(), training(), *map(together, ({}, SMALL))]


def costs() -> list[Row]:
    """Count the multiply-adds of the paper's network."""
    found = {way: multiply_adds(PatchClassifierPlan(), function) for way, function in WAYS.items()}
    return [
        Row(f"N4, {way}", "one pixel", count / 1e6, "M multiply-adds", details={"count": count})
        for way, count in found.items()
    ]


def times() -> list[Row]:
    """Measure the time of each way in relation to dilated kernels."""
    network = small().eval()
    x = images(network)

    def call(way: Way) -> Callable[[], Tensor]:
        return torch.inference_mode()(lambda: way(network, x))

    found = side_by_side({name: call(way) for name, way in WAYS.items()}, rounds=7)
    counts = {way: multiply_adds(network.plan, function) for way, function in WAYS.items()}
    return [
        Row(
            f"64 x 64 px, 16 channels, {way}",
            "dilated kernels",
            ratio(found, way, "dilated kernels"),
            details={"seconds": statistics.median(found[way]), "multiply_adds": counts[way]},
        )
        for way in WAYS
    ]


def training() -> Row:
    """Measure a training step by single windows in relation to one by a tile, per labelled pixel."""
    network = small().train()
    tile = images(network)
    patches = [tile[..., k : k + 63, k : k + 63].contiguous() for k in range(OUTPUT)]

    def step(inputs: list[Tensor]) -> None:
        network.zero_grad(set_to_none=True)
        for x in inputs:
            network(x).square().mean().backward()

    found = side_by_side({"windows": lambda: step(patches), "tile": lambda: step([tile])}, rounds=5)
    return Row(
        f"training step, {len(patches)} windows, per labelled pixel",
        f"one tile of {tile.shape[-1]} px",
        ratio(found, "windows", "tile") * OUTPUT**2 / len(patches),
        details={name: statistics.median(seconds) for name, seconds in found.items()},
    )


def together(settings: dict[str, Any]) -> Row:
    """Measure a training step of the workflow with 64 windows, in groups and one window at a time."""
    torch.manual_seed(0)
    task, device = tasks.load("segmentation"), torch.device("cpu")
    plan = networks.plan("patch_classifier", **settings)
    tile = plan.geometry.smallest
    precision = passes.choose_precision("auto", device)
    training = Settings(tile=tile, batch=BATCH, optimizer="adam")
    net = plan.build().move_to(device).train()
    optimizer = make_optimizer(net, training)
    in_groups, one = (Step(net, optimizer, task, training, 0, precision) for _ in range(2))
    one.at_once = 1
    patches = [Patch(torch.rand(1, 1, tile, tile), torch.ones(1, 2, 1, 1)) for _ in range(BATCH)]
    found = side_by_side({"one": lambda: one(patches, 0), "groups": lambda: in_groups(patches, 0)}, rounds=5)
    return Row(
        f"training step, {BATCH} windows of {tile} px, {plan.arguments()['channels'][0]} channels",
        "one window at a time",
        ratio(found, "one", "groups"),
        "x faster",
        details={
            **{name: statistics.median(seconds) for name, seconds in found.items()},
            "at_once": in_groups.at_once,
            "precision": str(precision),
        },
    )


def small() -> PatchClassifier:
    torch.manual_seed(0)
    plan = networks.plan("patch_classifier", **SMALL)
    assert isinstance(plan, PatchClassifierPlan)
    return plan.build().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def images(network: PatchClassifier) -> Tensor:
    """Return an image whose output has `OUTPUT` x `OUTPUT` px."""
    size = network.geometry.input_size(OUTPUT)
    return torch.rand(1, 1, size, size).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    harness.main(measure)
