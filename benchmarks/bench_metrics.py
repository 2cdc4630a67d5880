"""The scores against one distance transform: `python benchmarks/bench_metrics.py`.

One drawn section of 512 x 512 px, all thresholds of the challenge, one thread, code compiled before. Each
round times all of them in turn, so that a machine whose speed drifts does not decide; the table has the
medians of the ratios. Then: cost per pixel as the section and the number of its cells grow, peak memory of 10
sections of 2048 x 2048 px, all cores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import KDTree

from pipeline_lib import metrics
from pipeline_lib.metrics.information import information
from pipeline_lib.metrics.rand import foreground_squares

RESULTS = Path(__file__).parent / "results"
ROUNDS = 9
LIMITS = {"warping": 12, "v_rand_v_info": 6, "everything": 25}  # times one distance transform


def draw(size: int, cell_diameter: float = 44, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cells (y, x) between membranes of 4 px; probability maps of them: a good one, a poor one, and noise."""
    rng = np.random.default_rng(seed)
    centres = rng.random((round((size / cell_diameter) ** 2), 2)) * size
    pixels = np.indices((size, size)).reshape(2, -1).T
    nearest, second = KDTree(centres).query(pixels, k=2)[0].T.reshape(2, size, size)
    cells = second - nearest > 4
    blurred = ndimage.gaussian_filter(cells.astype(float), 1.5)
    fine, coarse = (ndimage.gaussian_filter(rng.normal(0, 1, cells.shape), sigma) for sigma in (2, 4))
    maps = {
        "good": blurred + 0.15 * fine / fine.std(),
        "poor": 0.5 * blurred + 0.25 + 0.2 * coarse / coarse.std(),
        "white noise": rng.random(cells.shape),
    }
    return cells, {name: probability.clip(0, 1).astype(np.float32) for name, probability in maps.items()}


def warping(cells: np.ndarray, probability: np.ndarray) -> None:
    for threshold in metrics.CHALLENGE_THRESHOLDS:
        metrics.error_map(cells, probability, threshold)


def v_rand_v_info(cells: np.ndarray, probability: np.ndarray) -> None:
    labels = metrics.connected_components(cells)
    for threshold in metrics.CHALLENGE_THRESHOLDS:
        thinned = metrics.thin_borders(probability > np.float64(threshold))
        (table,) = metrics.contingency_tables(labels, thinned)
        assert foreground_squares(table).f_score >= 0 and information(table).f_score >= 0


def everything(cells: np.ndarray, probability: np.ndarray) -> None:
    metrics.isbi_scores(cells, probability, workers=1)


def seconds(call: Callable, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def ratios(cells: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Median over the rounds of each part's time over that of a distance transform in the same round."""
    parts = (warping, v_rand_v_info, everything)
    rounds = []
    for _ in range(ROUNDS):
        transform = seconds(ndimage.distance_transform_edt, cells)
        rounds.append([transform, *(seconds(part, cells, probability) / transform for part in parts)])
    transform, *of_parts = map(statistics.median, zip(*rounds, strict=True))
    return {"distance_transform_ms": 1000 * transform} | {
        part.__name__: ratio for part, ratio in zip(parts, of_parts, strict=True)
    }


def growth() -> list[dict[str, float]]:
    """Nanoseconds per pixel and threshold of all scores, as sections and their number of cells grow."""
    rows = []
    for size, diameter in ((512, 44), (1024, 44), (2048, 44), (2048, 120), (2048, 19)):
        cells, maps = draw(size, diameter)
        best = min(seconds(everything, cells, maps["good"]) for _ in range(3))
        rows.append(
            {
                "size": size,
                "cells": int(metrics.connected_components(cells).max()),
                "ns_per_pixel": best / cells.size / len(metrics.CHALLENGE_THRESHOLDS) * 1e9,
            }
        )
    return rows


def large_stack() -> list[dict[str, float]]:
    """Time for 10 sections of 2048 x 2048, and peak memory above them per pixel of one section and worker."""
    cells, maps = draw(2048)
    stacks = {"cells": [cells] * 10, "probability": [maps["white noise"], *[maps["good"]] * 9]}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, sections in stacks.items():
            np.save(f"{folder}/{name}.npy", np.stack(sections))
        for workers in sorted({1, len(os.sched_getaffinity(0))}):
            fresh = [sys.executable, __file__, folder, str(workers)]
            rows.append(json.loads(subprocess.run(fresh, capture_output=True, text=True, check=True).stdout))
    return rows


def score_large_stack(folder: str, workers: int) -> dict[str, float]:
    """What the fresh process of `large_stack` does."""
    cells, probability = np.load(f"{folder}/cells.npy"), np.load(f"{folder}/probability.npy")
    metrics.isbi_scores(cells[0, :64, :64], probability[0, :64, :64])  # loads the compiled code
    before = peak_memory()
    taken = seconds(lambda: metrics.isbi_scores(cells, probability, workers=workers))
    used = (peak_memory() - before) / workers / cells[0].size
    return {"workers": workers, "seconds": taken, "bytes_per_pixel": used}


def peak_memory() -> int:
    """Bytes of memory this process had at most; getrusage would tell that of the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def print_rows(rows: list[dict]) -> None:
    print("  ".join(f"{name:>22}" for name in rows[0]))
    for row in rows:
        values = (f"{value:.4g}" if isinstance(value, float) else value for value in row.values())
        print("  ".join(f"{value:>22}" for value in values))
    print()


def main() -> None:
    cells, maps = draw(64)
    for part in (warping, v_rand_v_info, everything):  # compiles
        part(cells, maps["good"])
    cells, maps = draw(512)
    result = {
        "machine": platform.processor() or platform.machine(),
        "rounds": ROUNDS,
        "limits": LIMITS,
        "ratios": [{"map": name, **ratios(cells, probability)} for name, probability in maps.items()],
    }
    print_rows([*result["ratios"], {"map": "at most", "distance_transform_ms": "", **LIMITS}])
    result["growth"] = growth()
    print_rows(result["growth"])
    result["large_stack"] = large_stack()
    print_rows(result["large_stack"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "metrics.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(score_large_stack(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
