"""Compare tiled prediction with one pass over the whole image, bf16 with float32, and both with MONAI.

    python -m benchmarks.bench_prediction

The network has the size of `config/isbi2012.yaml` (16 channels, depth 4). It is trained for half a minute on
drawn sections, so that differences are those of a trained network. All threads of the machine are used. All
candidates, including the pass over the whole image, keep freed memory (`passes.keep_memory`); one row shows
the effect of that.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import harness
from benchmarks.harness import Row, ratio, side_by_side
from pipeline_lib import layout, metrics, networks, tasks
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.inference import passes as inference
from pipeline_lib.inference.tiling import mirror, read_mirrored, tiles
from pipeline_lib.networks.folding import fold
from pipeline_lib.networks.model import Model
from pipeline_lib.runtime import devices
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.stages.synthesis import draw_section, draw_volume
from pipeline_lib.stages.training import train
from pipeline_lib.tasks.segmentation import classes

SHAPES = [(2048, 2048), (2000, 3001)]
TILES = (572, 1052, 2044)  # px, in addition to `auto`
WINDOW = 576  # px, of MONAI's inferer: the valid size for four poolings that is closest to 572
DRAWING = {"cell_diameter": 44, "membrane_width": (3, 6), "noise": 0.06}
SMALL = {"base_channels": 16, "dropout": 0.2}
PAPER = {"base_channels": 64}
FLOAT, BF16 = torch.float32, torch.bfloat16
DEVICE = devices.choose_device("auto")
TASK = tasks.load("segmentation")


def measure() -> list[Row]:
    inference.keep_memory()
    inference.choose_precision("float32", DEVICE)  # no TF32
    with tempfile.TemporaryDirectory() as folder:
        file, test = trained(Path(folder))
        model = on_device(Model.load(file))
        rows = against_one_pass(model, drawn(SHAPES[0]), ("auto", *TILES))
        rows += against_one_pass(model, drawn(SHAPES[1]), ("auto", TILES[-1]))
        if inference.choose_precision("auto", DEVICE) == BF16:
            rows += [half_precision(model, drawn(SHAPES[0]), "16 channels", 4), change_of_scores(model, test)]
            rows.append(half_precision(untrained(PAPER), drawn((1024, 1024)), "the paper's network", 2))
        rows += folding(drawn((1024, 1024)))
        if find_spec("monai"):
            rows += against_monai(model, drawn(SHAPES[0]))
    if DEVICE.type == "cpu":
        rows += memory()
    return [*rows, loading()]


def trained(folder: Path) -> tuple[Path, Path]:
    """Return the paths of a trained model and of a dataset of sections that it was not trained on."""
    for name, sections in (("train", 8), ("validation", 1), ("test", 4)):
        images, labels = folder / f"{name}.tif", folder / f"{name}-labels.tif"
        draw_volume(images, labels, sections=sections, size=512, seed=sections, **DRAWING)
        build_dataset(images, labels, folder / f"{name}.h5", sections="all")
    measure_statistics([folder / "train.h5"], folder / "statistics.json")
    for name in ("train", "validation"):
        build_weight_map(folder / f"{name}.h5", folder / "statistics.json", folder / f"{name}-weights.h5")
    sets = [
        [folder / f"{name}.h5"] for name in ("train", "train-weights", "validation", "validation-weights")
    ]
    train(
        *sets,
        folder / "statistics.json",
        folder / "model.pt",
        folder / "history.csv",
        network={"name": "unet", **SMALL},
        training={"tile": 300, "iterations": 400, "optimizer": "adam", "validation_interval": 400},
        augmentation={},
        seed=0,
        threads=torch.get_num_threads(),
    )
    return folder / "model.pt", folder / "test.h5"


def untrained(arguments: dict[str, Any]) -> Model:
    torch.manual_seed(0)
    normalisation = Normalisation("none", "uint8", np.float32([[[0]]]), np.float32([[[255]]]))
    plan = networks.plan("unet", **arguments)
    return on_device(Model(plan, plan.build(), normalisation))


def on_device(model: Model) -> Model:
    model.network.to(DEVICE, memory_format=torch.channels_last).eval()
    return model


def drawn(shape: tuple[int, int]) -> np.ndarray:
    """Return a section (1, 1, y, x), uint8: one drawing of 512 px and its mirror images."""
    image, *_ = draw_section(512, rng=np.random.default_rng(0), **DRAWING)
    return np.pad(image, [(0, size - 512) for size in shape], mode="symmetric")[None, None]


def tile_size(model: Model, tile: int | str, precision: torch.dtype) -> int:
    return inference.choose_tile(tile, model.plan, DEVICE, precision, memory_gb=8)


def tiled(model: Model, raw: np.ndarray, tile: int | str, precision: torch.dtype) -> Callable[[], np.ndarray]:
    """Return a function that computes `cell_probability` (y, x) by tiles, as the prediction stage does."""
    size = tile_size(model, tile, precision)

    def predict() -> np.ndarray:
        probability = np.empty(raw.shape[2:], np.float32)
        for part, p in inference.tile_outputs(
            model.network, raw, 0, model.normalisation, size, DEVICE, precision, TASK.decode
        ):
            probability[part.write] = classes.of_cells(p)[part.crop].cpu().numpy()
        return probability

    return predict


def one_pass(model: Model, raw: np.ndarray, precision: torch.dtype) -> Callable[[], Tensor]:
    """Return a function that runs only the network on the whole image, which is prepared beforehand.

    Preparation means mirroring, normalising and copying to the device.
    """
    geometry = model.network.geometry
    axes = [mirror(-geometry.context, geometry.input_size(n) - geometry.context, n) for n in raw.shape[2:]]
    image = normalised(model, raw, *axes)

    def predict() -> Tensor:
        with torch.inference_mode(), inference.autocast(DEVICE, precision):
            return model.network(image)

    return predict


def normalised(model: Model, raw: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    image = model.normalisation.apply(read_mirrored(raw, 0, rows, columns), rows, columns)
    return torch.from_numpy(image)[None].to(DEVICE)


def probability(logits: Tensor, raw: np.ndarray) -> np.ndarray:
    height, width = raw.shape[2:]
    return logits.float().softmax(1)[0, 1, :height, :width].cpu().numpy()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def against_one_pass(model: Model, raw: np.ndarray, sizes: tuple[int | str, ...]) -> list[Row]:
    """Compare tiles of `sizes` (px, or `auto`) with one pass over the whole image, in time and in values."""
    whole = one_pass(model, raw, FLOAT)
    calls = {tile: tiled(model, raw, tile, FLOAT) for tile in sizes}
    expected = probability(whole(), raw)
    differences = {str(tile): difference(call(), expected) for tile, call in calls.items()}
    times = side_by_side({"whole": whole, **calls}, rounds=4)
    shape, geometry = raw.shape[2:], model.network.geometry
    what = "prediction of {} x {} px, float32".format(*shape)
    rows = [
        Row(
            f"{what}, tile {tile}",
            "one forward pass of the whole image",
            ratio(times, tile, "whole"),
            aim=1.08 if tile in ("auto", TILES[-1]) else None,
            details={
                "seconds": statistics.median(times[tile]),
                "seconds_of_one_pass": statistics.median(times["whole"]),
                "tiles": len(list(tiles(shape, tile_size(model, tile, FLOAT), geometry))),
            },
        )
        for tile in sizes
    ]
    largest = max(differences.values())
    return [
        *rows,
        Row(f"{what}, largest difference", "one forward pass", largest, "", 1e-5, details=differences),
    ]


def half_precision(model: Model, raw: np.ndarray, name: str, rounds: int) -> Row:
    calls = {str(precision): tiled(model, raw, "auto", precision) for precision in (FLOAT, BF16)}
    times = side_by_side(calls, rounds)
    return Row(
        f"prediction of {raw.shape[2]} x {raw.shape[3]} px, bf16, {name}",
        "float32",
        ratio(times, str(FLOAT), str(BF16)),
        "x faster",
        1.7 if DEVICE.type == "cpu" else None,
        True,
        {f"seconds_{name}": statistics.median(seconds) for name, seconds in times.items()},
    )


def folding(raw: np.ndarray) -> list[Row]:
    """Compare a network whose batch normalisation is folded into the convolutions with the original one."""
    plain = untrained(SMALL | {"batch_normalisation": True})
    folded = copy.deepcopy(plain)
    fold(folded.network)
    rows = []
    for precision in dict.fromkeys((FLOAT, inference.choose_precision("auto", DEVICE))):
        calls = {
            name: tiled(model, raw, "auto", precision)
            for name, model in (("plain", plain), ("folded", folded))
        }
        times = side_by_side(calls, rounds=9)
        rows.append(
            Row(
                f"prediction with batch normalisation, {str(precision).removeprefix('torch.')}, folded",
                "not folded",
                ratio(times, "plain", "folded"),
                "x faster",
                details={f"seconds_{name}": statistics.median(found) for name, found in times.items()},
            )
        )
    return rows


def change_of_scores(model: Model, test: Path) -> Row:
    """Compare the challenge's scores of the test sections between predictions in float32 and bfloat16."""
    with layout.require(test, layout.RAW, layout.LABELS, layout.SEPARATION_BORDER) as file:
        raw, labels, border = (
            file[array.name][:] for array in (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
        )
    cells = np.stack([cells_apart(*section) for section in zip(labels, border, strict=True)])
    maps = {
        str(precision): np.stack(
            [tiled(model, raw[:, z : z + 1], "auto", precision)() for z in range(len(cells))]
        )
        for precision in (FLOAT, BF16)
    }
    scores = {name: metrics.challenge_summary(metrics.isbi_scores(cells, p)) for name, p in maps.items()}
    before, after = scores.values()
    return Row(
        "prediction in bf16: change of V-Rand (thinned)",
        "float32",
        float(after["vrand_thinned_max"] - before["vrand_thinned_max"]),
        "",
        details={**scores, "largest_difference_of_a_probability": difference(*maps.values())},
    )


def against_monai(model: Model, raw: np.ndarray) -> list[Row]:
    """Compare speed and seams with MONAI's `sliding_window_inference`.

    MONAI runs the same network with padded convolutions.
    """
    from monai.inferers import sliding_window_inference

    padded = copy.deepcopy(model.network)
    for layer in padded.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            layer.padding = (1, 1)
    image = normalised(model, raw, *map(np.arange, raw.shape[2:]))

    def windows(overlap: float, precision: torch.dtype) -> np.ndarray:
        with torch.inference_mode(), inference.autocast(DEVICE, precision):
            logits = sliding_window_inference(image, WINDOW, 1, padded, overlap=overlap, mode="gaussian")
        return probability(logits, raw)

    rows = []
    for precision in (FLOAT, BF16) if inference.choose_precision("auto", DEVICE) == BF16 else (FLOAT,):
        ours = tiled(model, raw, "auto", precision)
        calls = {overlap: lambda o=overlap, p=precision: windows(o, p) for overlap in (0.25, 0.5)}
        times = side_by_side({"ours": ours, **calls}, rounds=3)
        rows += [
            Row(
                f"prediction of {raw.shape[2]} x {raw.shape[3]} px, {str(precision).removeprefix('torch.')}",
                f"MONAI, overlap {overlap}",
                ratio(times, overlap, "ours"),
                "x faster",
                aim,
                True,
                {
                    "seconds": statistics.median(times["ours"]),
                    "seconds_of_monai": statistics.median(times[overlap]),
                },
            )
            for overlap, aim in ((0.25, 1.0), (0.5, 1.8))
        ]
    with torch.inference_mode():
        whole = probability(padded(image), raw)
    expected = probability(one_pass(model, raw, FLOAT)(), raw)
    seams = {
        f"MONAI, overlap {overlap}": difference(windows(overlap, FLOAT), whole) for overlap in (0.25, 0.5)
    }
    ours = difference(tiled(model, raw, WINDOW - 4, FLOAT)(), expected)
    return [
        *rows,
        Row(
            "seams of the tiles: largest difference to one pass",
            "those of MONAI in the details",
            ours,
            "",
            1e-5,
            details=seams,
        ),
    ]


# Runs in separate processes, to measure their peak memory: tile size, and whether freed memory is kept.
RUNS = {"one pass, memory given back": (None, False), "one pass": (None, True)}
RUNS |= {f"tile {tile}": (tile, True) for tile in ("auto", TILES[0], TILES[-1])}


def memory() -> list[Row]:
    """Measure time and peak memory of passes and tiles in separate processes, in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for _ in range(2):
        for name, runs in found.items():
            command = [sys.executable, "-m", "benchmarks.bench_prediction", "--run", name]
            ended = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append(json.loads(ended.stdout))

    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in found[name])

    shape = "{} x {} px".format(*SHAPES[0])
    rows = [
        Row(
            f"forward pass of {shape} that keeps freed memory",
            "one that gives it back",
            median("one pass", "seconds") / median("one pass, memory given back", "seconds"),
            details=found,
        )
    ]
    for tile in ("auto", TILES[0], TILES[-1]):
        peak = median(f"tile {tile}", "peak")
        rows.append(
            Row(
                f"peak memory, {shape}, tile {tile}",
                "one forward pass",
                peak / median("one pass", "peak"),
                "x the memory",
                details={"bytes": peak},
            )
        )
    return rows


def run(name: str) -> None:
    """Print the time in seconds and the peak memory in bytes of one of `RUNS`."""
    tile, keep = RUNS[name]
    if keep:
        inference.keep_memory()
    model, raw = untrained(SMALL), drawn(SHAPES[0])
    call = tiled(model, raw, tile, FLOAT) if tile else one_pass(model, raw, FLOAT)
    before = harness.peak_memory()
    seconds = min(side_by_side({name: call}, 2)[name])
    print(json.dumps({"seconds": seconds, "peak": harness.peak_memory() - before}))


def loading() -> Row:
    """Measure the time to load the paper's network of 31 million parameters from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt")
        untrained(PAPER).save(path)
        calls = {"ours": lambda: Model.load(path), "build": networks.plan("unet", **PAPER).build}
        times = side_by_side(calls, rounds=5)
    return Row("loading the paper's network", "drawing its initial parameters", ratio(times, "ours", "build"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(sys.argv[2])
    else:
        harness.main(measure)
