"""The weight map against distance transforms: `python benchmarks/bench_weight_map.py [ANNOTATION]`.

Drawn sections, and with a file of membranes (TIFF, ...) its first section too. Each round times all of them
in turn on the same section, so that a machine whose speed drifts does not decide; the table has the medians
of the ratios. Compilation of just-in-time code is left out.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from scipy import ndimage

from pipeline_lib import imageio
from pipeline_lib.labels import label_cells, separation_border
from pipeline_lib.synthesis import draw_section
from pipeline_lib.weights import weight_map

RESULTS = Path(__file__).parent / "results"
W_C = np.array([2.0, 0.7])


def one_transform_per_cell(cells: np.ndarray) -> np.ndarray:
    """The obvious way; two running minima instead of a stack, so that it fits into memory."""
    nearest = second = np.full(cells.shape, np.inf)
    for k in np.unique(cells)[1:]:
        d = ndimage.distance_transform_edt(cells != k)
        second = np.minimum(second, np.maximum(nearest, d))
        nearest = np.minimum(nearest, d)
    weights = np.where(cells > 0, W_C[1], W_C[0])
    return (weights + np.where(cells > 0, 0, 10 * np.exp(-((nearest + second) ** 2) / 50))).astype(np.float32)


def seconds(call, *arguments) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def drawn(size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return draw_section(size, cell_diameter=44, membrane_width=(2.5, 6), noise=0.06, rng=rng)[1]


def measure(name: str, labels: np.ndarray, rounds: int) -> dict[str, float]:
    cells = np.where(separation_border(labels, 2), 0, labels)
    ours = weight_map(cells, W_C, 10, 5)
    count = len(np.unique(cells)) - 1
    row = {"section": name, "size": len(cells), "cells": count}
    times = [
        (seconds(weight_map, cells, W_C, 10, 5), seconds(ndimage.distance_transform_edt, cells == 0))
        for _ in range(rounds)
    ]
    row["milliseconds"] = 1000 * statistics.median(own for own, _ in times)
    row["of_one_distance_transform"] = statistics.median(own / other for own, other in times)
    if len(cells) <= 512:  # beyond, the obvious way takes minutes to hours
        np.testing.assert_allclose(ours, one_transform_per_cell(cells), rtol=1.2e-7)
        row["times_faster_than_one_per_cell"] = seconds(one_transform_per_cell, cells) / statistics.median(
            own for own, _ in times
        )
    return row


def main() -> None:
    weight_map(np.zeros((8, 8), int), W_C, 10, 5)
    sections = [("drawn", drawn(size), rounds) for size, rounds in ((512, 15), (1024, 9), (2048, 5))]
    for path in sys.argv[1:]:
        cells = imageio.read_annotation(path, sections="0").array
        sections.append((Path(path).stem, label_cells(cells)[0], 15))
    rows = [measure(*section) for section in sections]
    print(f"{'section':<14} {'px':>5} {'cells':>6} {'ms':>8} {'/ one EDT':>10} {'EDT per cell /':>15}")
    for row in rows:
        slow = row.get("times_faster_than_one_per_cell")
        print(
            f"{row['section'][:14]:<14} {row['size']:>5} {row['cells']:>6} {row['milliseconds']:>8.1f} "
            f"{row['of_one_distance_transform']:>10.2f} {f'{slow:.0f}' if slow else '-':>15}"
        )
    RESULTS.mkdir(exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "numpy": np.__version__}
    (RESULTS / "weight_map.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
