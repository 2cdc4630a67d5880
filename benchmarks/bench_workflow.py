"""Measure the overhead of the workflow over its stages: `python -m benchmarks.bench_workflow`.

Imports: the time of the imports of each adapter in `workflow/scripts` in a new process, except torch.
Interpreter start is not included. Imports inside functions take at most 0.4 s and are part of the own time of
their stage.

Demo: the wall time of the whole workflow on one core, so that no two jobs overlap, relative to the sum of the
own times of the stages. The own time of a stage is the time in its function, without interpreter start,
imports and Snakemake. Training uses one thread. Kernels are compiled beforehand. Skipped if Snakemake is not
installed.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.harness import Row
from pipeline_lib import metrics
from pipeline_lib.tasks.segmentation.weights import weight_map

ROOT = Path(__file__).parents[1]
ROUNDS = 3
IMPORT = """
import json, sys, tempfile, time
from types import SimpleNamespace
start = time.perf_counter()
import numpy  # before torch, whose time would otherwise include it
if {with_torch}:
    pause = time.perf_counter()
    import torch
    start += time.perf_counter() - pause
snakemake = SimpleNamespace(log=[tempfile.mktemp()], threads=1, resources=SimpleNamespace(gpu=0))
{imports}
    print(json.dumps([time.perf_counter() - start, "torch" in sys.modules]))
"""  # the print is inside the adapter's `with stage(...)`
DONE = re.compile(r"done in ([\d.]+) s, (\d+) MB at most")


def measure() -> list[Row]:
    rows = [imports()]
    if find_spec("snakemake"):
        rows += demo()
    return rows


def imports() -> Row:
    """Measure the imports of the slowest stage, as the median over rounds in which all stages take turns."""
    adapters = {path.stem: imports_of(path) for path in sorted((ROOT / "workflow/scripts").glob("*.py"))}
    with_torch = {name: import_in_new_process(adapter, False)[1] for name, adapter in adapters.items()}
    times = defaultdict(list)
    for _ in range(ROUNDS):
        for name, adapter in adapters.items():
            times[name].append(import_in_new_process(adapter, with_torch[name])[0])
    seconds = {name: statistics.median(found) for name, found in times.items()}
    details = {"seconds": seconds, "with torch": [name for name, needed in with_torch.items() if needed]}
    if not find_spec("snakemake"):
        details["demo"] = "not run: Snakemake is not installed"
    slowest = max(seconds, key=seconds.get)
    what = "imports of a stage, torch aside"
    return Row(what, f"slowest: {slowest}", seconds[slowest], "s", aim=1.5, details=details)


def imports_of(adapter: Path) -> str:
    """Return the source code of an adapter up to and including its imports."""
    tree = ast.parse(adapter.read_text())
    stage = tree.body[-1]
    stage.body = [node for node in stage.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return ast.unparse(tree)


def import_in_new_process(adapter: str, with_torch: bool) -> tuple[float, bool]:
    """Return the seconds of the imports, and whether torch was imported."""
    code = IMPORT.format(imports=adapter, with_torch=with_torch)
    return tuple(json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)))


def demo() -> list[Row]:
    """Measure the wall time of the demo on one core relative to the own times of stages and to job times."""
    compile_kernels()
    with tempfile.TemporaryDirectory() as folder:
        where = ["--snakefile", ROOT / "Snakefile", "--directory", folder]
        command = [sys.executable, "-m", "snakemake", *where, "--cores", "1", "--quiet", "all"]
        wall = harness.seconds(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
        stages = read_stages(Path(folder, "results"))
    own = sum(stage["seconds"] for stage in stages.values())
    details = {"seconds": wall, "own seconds": own, "stages": stages}
    jobs = sum(stage["start to end"] for stage in stages.values())
    return [
        Row("demo on one core", "sum of the stages' own times", wall / own, aim=1.2, details=details),
        Row("demo on one core", "sum of the jobs' times, from start to end", wall / jobs),
    ]


def compile_kernels() -> None:
    """Compile the kernels beforehand, so that the stages only load machine code."""
    cells = np.kron(np.arange(4).reshape(1, 2, 2), np.ones((1, 16, 16))).astype(np.uint32)
    metrics.instance_scores(cells, cells)
    metrics.isbi_scores(cells, (cells > 0).astype(np.float32))
    weight_map(cells[0], np.ones(2), 10, 5)


def read_stages(results: Path) -> dict[str, dict[str, Any]]:
    """Return for each stage the number of jobs, own time, time from start to end, and peak memory."""
    stages = defaultdict(lambda: {"jobs": 0, "seconds": 0.0, "start to end": 0.0, "megabytes": 0})
    logs, benchmarks = results / "logs", results / "benchmarks"
    for log in sorted(logs.rglob("*.log")):
        job = log.relative_to(logs)
        seconds, megabytes = DONE.search(log.read_text()).groups()
        measured = (benchmarks / job).with_suffix(".tsv").read_text().splitlines()[1].split()
        stage = stages["/".join(job.parts[:-1]) or job.stem]
        stage["jobs"] += 1
        stage["seconds"] += float(seconds)
        stage["start to end"] += float(measured[0])
        stage["megabytes"] = max(stage["megabytes"], int(megabytes))
    return dict(stages)


if __name__ == "__main__":
    harness.main(measure)
