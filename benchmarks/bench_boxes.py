"""Measure non-maximum suppression and the matching of boxes: `python -m benchmarks.bench_boxes`.

Boxes are drawn as a detector finds them: about 20 around each object, whose number grows with the area. All
times are processor time on one thread, so other programs hardly change them.

torchvision is measured, too, if it can be imported. `BORDURE_TORCHVISION=PYTHON` names the Python of another
environment that has it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import harness
from pipeline_lib.kernels.boxes import Boxes, overlaps, suppress
from pipeline_lib.networks.ssd import SSDPlan
from pipeline_lib.tasks.detection.found import SUPPRESSION
from pipeline_lib.tasks.detection.matching import grid, match

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
LARGEST_PLAIN = 10_000  # boxes of the plain loop, which compares each kept box with all others
LARGEST_TORCHVISION = 100_000
FOR_EACH = 20  # boxes around each object
DISTANCE = 44  # px between objects
OBJECTS, DEFAULTS = 1_000, 50_000  # of the matching

TORCHVISION = """
import json, sys, time
import numpy as np, torch, torchvision
from torchvision.ops import nms
torch.set_num_threads(1)
folder, threshold, counts = sys.argv[1], float(sys.argv[2]), map(int, sys.argv[3:])
found = {"version": torchvision.__version__, "seconds": {}, "kept": {}}
for count in counts:
    boxes = torch.from_numpy(np.load(f"{folder}/{count}.npy"))
    times = []
    for _ in range(3):
        start = time.process_time()
        kept = nms(boxes[:, [1, 0, 3, 2]], boxes[:, 4], threshold)
        times.append(time.process_time() - start)
    found["seconds"][count], found["kept"][count] = min(times), len(kept)
print(json.dumps(found))
"""


def measure() -> list[harness.Row]:
    # the matching first, because `peak_memory` also counts child processes that have ended
    return [matching(), *suppression()]


def draw(count: int, seed: int = 0) -> tuple[Boxes, np.ndarray]:
    """Return boxes (count, 4) and scores (count,) of a square section."""
    rng = np.random.default_rng(seed)
    objects = max(count // FOR_EACH, 1)
    centres = rng.uniform(0, DISTANCE * objects**0.5, (objects, 2))
    sizes = rng.uniform(20, 40, (objects, 1))
    own = rng.integers(objects, size=count)
    centre = centres[own] + rng.normal(0, 3, (count, 2))
    half = sizes[own] * rng.lognormal(0, 0.15, (count, 2)) / 2
    return np.hstack([centre - half, centre + half]), rng.random(count)


def processor_time(call: Callable[[], Any], rounds: int = 3) -> float:
    """Return the smallest processor time of some calls, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def plain(boxes: Boxes, scores: np.ndarray) -> np.ndarray:
    """Return what `suppress` returns, by the usual loop."""
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        left = left[overlaps(boxes[[best]], boxes[left])[0] <= SUPPRESSION]
    return np.array(kept)


def suppression() -> list[harness.Row]:
    """Measure the time for increasing numbers of boxes, beside a plain loop and torchvision."""
    sections = {count: draw(count) for count in COUNTS}

    def ours(count: int) -> np.ndarray:
        return suppress(*sections[count], SUPPRESSION, np.zeros(count, np.uint8))

    ours(COUNTS[0])  # loads the compiled code
    seconds = {count: processor_time(lambda count=count: ours(count)) for count in COUNTS}
    kept = {count: len(ours(count)) for count in COUNTS}
    slow = {}
    for count in COUNTS:
        if count <= LARGEST_PLAIN:
            np.testing.assert_array_equal(plain(*sections[count]), ours(count))
            slow[count] = processor_time(lambda count=count: plain(*sections[count]), rounds=2)
    other = torchvision(sections)
    details = {"seconds": seconds, "kept": kept, "plain": slow, "torchvision": other}
    per_box = {count: seconds[count] / (count * math.log(count)) for count in COUNTS}
    what = "non-maximum suppression"
    rows = [
        harness.Row(f"{what}, 100,000 boxes", "", seconds[100_000], "s", aim=0.8, details=details),
        *(
            harness.Row(
                f"{what}, time / (n log n), {count:,} boxes", "10,000 boxes", per_box[count] / per_box[10_000]
            )
            for count in COUNTS[2:]
        ),
        harness.Row(
            f"{what}, {LARGEST_PLAIN:,} boxes",
            "a plain loop in numpy",
            slow[LARGEST_PLAIN] / seconds[LARGEST_PLAIN],
            "x faster",
        ),
    ]
    if isinstance(other, dict):
        for count, taken in other["seconds"].items():
            name = f"torchvision {other['version']}"
            rows.append(
                harness.Row(f"{what}, {int(count):,} boxes", name, taken / seconds[int(count)], "x faster")
            )
    else:
        print(f"torchvision was not measured: {other}", file=sys.stderr)
    return rows


def torchvision(sections: dict[int, tuple[Boxes, np.ndarray]]) -> dict[str, Any] | str:
    """Return the version of torchvision, the seconds and the numbers of kept boxes, or why there are none."""
    python = os.environ.get("BORDURE_TORCHVISION", sys.executable)
    counts = [str(count) for count in sections if count <= LARGEST_TORCHVISION]
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            np.save(f"{folder}/{count}.npy", np.column_stack(sections[int(count)]))
        command = [python, "-c", TORCHVISION, folder, str(SUPPRESSION), *counts]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(ended.stdout) if ended.returncode == 0 else ended.stderr.strip().rpartition("\n")[2]


def matching() -> harness.Row:
    """Measure time and memory of matching many objects with many default boxes."""
    plan = SSDPlan(channels=(8,) * 5, sizes=(6, 13, 20, 26, 31, 58))
    cells = math.ceil((DEFAULTS / plan.boxes_per_cell) ** 0.5)
    defaults = grid(plan.default_boxes, plan.reduction, range(cells), range(cells)).reshape(-1, 4)
    defaults = np.ascontiguousarray(defaults[:DEFAULTS])
    rng = np.random.default_rng(0)
    corners, sizes = rng.uniform(0, plan.reduction * cells, (OBJECTS, 2)), rng.uniform(6, 50, (OBJECTS, 2))
    objects = np.hstack([corners, corners + sizes])
    match(defaults[:100], objects[:10])  # loads the compiled code
    before = _resident()
    harness.forget_peak()
    taken = processor_time(lambda: match(defaults, objects), rounds=1)
    used = harness.peak_memory() - before
    matrix = OBJECTS * len(defaults) * 8
    details = {"seconds": taken, "bytes": used, "matrix": matrix}
    what = f"matching {OBJECTS:,} objects with {len(defaults):,} default boxes, peak memory"
    return harness.Row(what, "the matrix of all IoU", used / matrix, "x the memory", 0.25, details=details)


def _resident() -> int:
    """Return the memory that this process has now, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    harness.main(measure)
