"""Measure memory and time of the stages on images of increasing size: `python -m benchmarks.bench_large`.

This takes 20 minutes. Each stage runs in its own process, as in the workflow, on drawn sections of each size
in `--sides`: once on images without annotation (`predict` uses a small network that is trained before), once
on images with annotation. Peak resident memory and time per pixel are compared with those on the smallest
section. Files are stored in a temporary folder in `--folder` and deleted when no stage needs them any more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.__main__ import slug
from benchmarks.harness import Row
from pipeline_lib import provenance
from pipeline_lib.instances.postprocessing import PostProcessing
from pipeline_lib.runtime.files import read_json, write_json

ROOT = Path(__file__).parents[1]
SIDES = (4096, 16384, 32768)  # px
# Maximum total size of all files without compression: image 1, prediction 4, labels 4, both as TIFF 8
BYTES_PER_PIXEL = 17
MEMORY_GB = 2.0  # for `predict`, which chooses the tile size by it
CORES = len(os.sched_getaffinity(0))

# The network is trained on one drawn section and validated on another, so that it finds about as many cells
# as were drawn. The measured sections have seed 0.
SEEDS = {"train": 1, "validation": 2}
TRAINING_SIZE = 512  # px
NETWORK = {"name": "unet", "depth": 2, "base_channels": 4, "dropout": 0.0}
TRAINING = {"tile": 220, "iterations": 400, "optimizer": "adam", "validation_interval": 400}
# Stages for images without annotation; the last two are those of `bench_detection`
TO_LABELS = ("build_dataset", "predict", "segment", "write_tiffs", "detect", "export_detections")
THRESHOLD, MINIMUM_SIZE = 0.5, 50  # px

ADAPTER = """
import json, sys
from importlib import import_module
from pathlib import Path
from pipeline_lib.runtime.log import stage

threads, function, files, settings = json.loads(sys.argv[1])
path = lambda file: [*map(Path, file)] if isinstance(file, list) else file and Path(file)
with stage("stage.log", threads) as run:
    module, _, name = function.rpartition(".")
    run(getattr(import_module(module), name), *map(path, files), **settings)
"""
DONE = re.compile(r"done in ([\d.]+) s, (\d+) MB at most")
CELLS = re.compile(r" ([\d,]+) (?:cells|detections)")


@dataclass(frozen=True)
class Job:
    """One stage to run.

    `function` is given as `module.name`, `files` in the order of its arguments, `settings` by name. The files
    in `unneeded` are deleted afterwards.
    """

    name: str
    function: str
    files: Sequence[str | Sequence[str] | None]
    settings: dict[str, Any] = field(default_factory=dict)
    unneeded: Sequence[str] = ()


@dataclass(frozen=True)
class Figures:
    """Time, memory and disk space that one job needed."""

    stage: str
    side: int  # px
    seconds: float
    megabytes: int  # peak resident memory
    bytes_per_pixel: float  # of the files written
    cells: int | None

    @property
    def per_second(self) -> float:
        """Million pixels per second."""
        return self.side**2 / 1e6 / self.seconds


def training_data() -> list[Job]:
    """Return the jobs that make a dataset for the training and one for the validation, and the statistics."""
    found = []
    for name, seed in SEEDS.items():
        drawn = {"size": TRAINING_SIZE, "seed": seed}
        images, labels, dataset = f"{name}.tif", f"{name}-labels.tif", f"{name}.h5"
        found += [
            Job("draw", "benchmarks.drawing.draw_images", [images], drawn),
            Job("draw", "benchmarks.drawing.draw_annotation", [labels], drawn),
            Job("build_dataset", "pipeline_lib.stages.dataset.build_dataset", [images, labels, dataset]),
        ]
    statistics = "pipeline_lib.stages.dataset.measure_statistics"
    return [*found, Job("statistics", statistics, [["train.h5"], "statistics.json"])]


def preparation() -> list[Job]:
    """Return the jobs that make `model.pt` and `statistics.json`."""
    found, sets = training_data(), []
    for name in SEEDS:
        files = [f"{name}.h5", "statistics.json", f"{name}-weights.h5"]
        found.append(Job("weight map", "pipeline_lib.stages.dataset.build_weight_map", files))
        sets += [[files[0]], [files[2]]]
    settings = {"network": NETWORK, "training": TRAINING, "augmentation": {}, "seed": 0, "threads": CORES}
    files = [*sets, "statistics.json", "model.pt", "history.csv"]
    return [*found, Job("train", "pipeline_lib.stages.training.train", files, settings)]


def measured(side: int) -> list[Job]:
    """Return the jobs to measure on a section of `side` x `side` px, in order."""
    return [
        Job("draw images", "benchmarks.drawing.draw_images", ["images.tif"], {"size": side}),
        Job("build_dataset", "pipeline_lib.stages.dataset.build_dataset", ["images.tif", None, "dataset.h5"]),
        Job(
            "predict",
            "pipeline_lib.stages.prediction.predict",
            ["dataset.h5", "model.pt", "prediction.h5"],
            {"memory_gb": MEMORY_GB, "threads": CORES},
            unneeded=["dataset.h5"],
        ),
        Job(
            "segment",
            "pipeline_lib.stages.segmentation.segment",
            ["prediction.h5", "postprocessing.json", "segmentation.h5"],
        ),
        Job(
            "write_tiffs",
            "pipeline_lib.stages.segmentation.write_tiffs",
            ["segmentation.h5", "prediction.h5", "labels.tif", "cell_probability.tif"],
            unneeded=["segmentation.h5", "prediction.h5", "labels.tif", "cell_probability.tif"],
        ),
        Job("draw annotation", "benchmarks.drawing.draw_annotation", ["annotation.tif"], {"size": side}),
        Job(
            "build_dataset, annotated",
            "pipeline_lib.stages.dataset.build_dataset",
            ["images.tif", "annotation.tif", "dataset.h5"],
            unneeded=["images.tif", "annotation.tif"],
        ),
        Job(
            "measure_statistics",
            "pipeline_lib.stages.dataset.measure_statistics",
            [["dataset.h5"], "large-statistics.json"],
        ),
        Job(
            "build_weight_map",
            "pipeline_lib.stages.dataset.build_weight_map",
            ["dataset.h5", "large-statistics.json", "weight_map.h5"],
            unneeded=["dataset.h5", "weight_map.h5"],
        ),
    ]


def run(job: Job, folder: Path) -> tuple[float, int, int, int | None]:
    """Run a job; return seconds, megabytes of memory, bytes written and, if logged, the number of cells."""
    before = {*folder.iterdir()}
    arguments = json.dumps([CORES, job.function, job.files, job.settings])
    log = call([sys.executable, "-c", ADAPTER, arguments], folder)
    written = sum(path.stat().st_size for path in {*folder.iterdir()} - before)
    for name in job.unneeded:
        (folder / name).unlink()
    seconds, megabytes = DONE.search(log).groups()
    cells = CELLS.search(log)
    return float(seconds), int(megabytes), written, int(cells[1].replace(",", "")) if cells else None


def call(command: Sequence[str | Path], folder: Path) -> str:
    """Run `command` in `folder` and return its stderr, or exit with its stderr as the message if it fails."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(ended.stderr.strip() or f"error: {command}: exit status {ended.returncode}")
    return ended.stderr


def measure(
    sides: Sequence[int],
    folder: Path,
    before: Callable[[], list[Job]] = preparation,
    stages: Callable[[int], list[Job]] = measured,
) -> list[Figures]:
    """Measure all stages on sections of `sides` px, smallest first; print and return the figures."""
    require_disk(folder, max(sides))
    write_json(folder / "postprocessing.json", asdict(PostProcessing(THRESHOLD, MINIMUM_SIZE)))
    for job in before():
        run(job, folder)
    print(f"{'stage':<26}{'side, px':>10}{'s':>9}{'Mpx/s':>8}{'MB':>7}{'bytes/px':>10}{'cells':>10}")
    found = []
    for side in sorted(sides):
        for job in stages(side):
            seconds, megabytes, written, cells = run(job, folder)
            taken = Figures(job.name, side, seconds, megabytes, written / side**2, cells)
            count = "" if cells is None else f"{cells:,}"
            print(
                f"{job.name:<26}{side:>10,}{seconds:>9.1f}{taken.per_second:>8.1f}"
                f"{megabytes:>7,}{taken.bytes_per_pixel:>10.2f}{count:>10}",
                flush=True,
            )
            found.append(taken)
    return found


def require_disk(folder: Path, side: int) -> None:
    """Print the maximum size of all files, and exit with an error if the disk has less free space."""
    needed, free = BYTES_PER_PIXEL * side**2, shutil.disk_usage(folder).free
    space = (
        f"{folder}: at most {needed / 1e9:.1f} GB for sections of {side:,} px, {free / 1e9:.1f} GB are free"
    )
    if needed > free:
        sys.exit(f"error: {space}. Choose another --folder, or smaller --sides.")
    print(space, file=sys.stderr)


def rows(found: Sequence[Figures]) -> list[Row]:
    """Return memory and time per pixel relative to the smallest section, and the largest memory."""
    smallest = {figures.stage: figures for figures in reversed(found)}
    table = []
    for figures in found:
        anchor = smallest[figures.stage]
        if figures is anchor:
            continue
        details = {"of": asdict(figures), "anchor": asdict(anchor)}
        what = f"{figures.stage}, {figures.side:,} px"
        memory = figures.megabytes / anchor.megabytes
        time = anchor.per_second / figures.per_second
        table += [
            Row(f"{what}: peak memory", f"{anchor.side:,} px", memory, "x the memory", details=details),
            Row(f"{what}: time per pixel", f"{anchor.side:,} px", time, aim=1.25),
        ]
    peaks = {
        side: max((f.megabytes for f in found if f.side == side and f.stage in TO_LABELS), default=0)
        for side in sorted({figures.side for figures in found})
    }
    least, *others = peaks
    for side in others if peaks[least] else ():
        what, anchor = f"from image to results, {side:,} px: peak memory", f"{least:,} px"
        table.append(Row(what, anchor, peaks[side] / peaks[least], "x the memory", 1.1))
    most = max(found, key=lambda figures: figures.megabytes)
    every = {"stages": [asdict(figures) for figures in found]}
    where = f"{most.stage}, {most.side:,} px"
    return [
        *table,
        Row("largest peak memory of a stage", where, most.megabytes / 1e3, "GB", 2, details=every),
    ]


def keep(name: str, table: Sequence[Row]) -> None:
    """Print `table` and store it as `name` in the results of the long benchmarks of this machine."""
    machine = harness.machine()
    path = harness.RESULTS / f"large-{slug(machine)}.json"
    command = f"python -m benchmarks.bench_{name}"
    entries = [row.as_dict() for row in table]
    entry = {"bordure": provenance.version(), "machine": machine, "command": command, "rows": entries}
    write_json(path, (read_json(path) if path.exists() else {}) | {name: entry})
    harness.print_table(entries)
    print(f"stored in {path}")


def main(
    name: str = "large",
    before: Callable[[], list[Job]] = preparation,
    stages: Callable[[int], list[Job]] = measured,
) -> None:
    """Measure the stages that follow from the arguments of the command, and store the figures as `name`."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, metavar="PX")
    parser.add_argument("--folder", type=Path, default=harness.RESULTS, help="folder for temporary files")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-", dir=chosen.folder) as folder:
        found = measure(chosen.sides, Path(folder), before, stages)
    keep(name, rows(found))


if __name__ == "__main__":
    main()
