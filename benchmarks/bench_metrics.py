"""Compare the scores with one distance transform, and measure scaling: `python -m benchmarks.bench_metrics`.

The parts are measured on one drawn section of 512 x 512 px at all thresholds of the challenge, on one thread,
since `scipy.ndimage.distance_transform_edt` uses one thread. The stack is measured on all cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile

import numpy as np
from scipy import ndimage

from benchmarks import harness
from benchmarks.drawing import draw_labels, draw_maps
from pipeline_lib import metrics
from pipeline_lib.metrics.information import information
from pipeline_lib.metrics.rand import foreground_squares

CORES = len(os.sched_getaffinity(0))


def measure() -> list[harness.Row]:
    return [*parts(), scaling(), growth(), memory()]


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


def parts() -> list[harness.Row]:
    """Measure the time of each part in units of one distance transform, on the slowest probability map."""
    limits = {warping: 12, v_rand_v_info: 6, everything: 25}
    cells = draw_labels(512)
    ratios: dict = {part: {} for part in limits}
    for name, probability in draw_maps(cells).items():
        calls = {part: (lambda part=part, p=probability: part(cells, p)) for part in limits}
        times = harness.side_by_side({"transform": lambda: ndimage.distance_transform_edt(cells), **calls}, 9)
        for part in limits:
            ratios[part][name] = harness.ratio(times, part, "transform")
    return [
        harness.Row(
            f"scores of 512 x 512 px, {part.__name__.replace('_', ' ')}, worst map",
            "one distance_transform_edt",
            max(ratios[part].values()),
            aim=limit,
            details=ratios[part],
        )
        for part, limit in limits.items()
    ]


def scaling() -> harness.Row:
    """Compare a stack of 30 sections on all cores with the same sections one by one on one core."""
    cells = np.stack([draw_labels(512, seed=z) for z in range(30)])
    probability = np.stack([draw_maps(section, z)["good"] for z, section in enumerate(cells)])
    times = harness.side_by_side(
        {
            "stack": lambda: metrics.isbi_scores(cells, probability, workers=CORES),
            "sections": lambda: list(map(everything, cells, probability)),
        },
        rounds=5,
    )
    return harness.Row(
        f"scores of 30 sections, speed-up on {CORES} cores per core",
        "the sum of single sections on one core",
        harness.ratio(times, "sections", "stack") / CORES,
        unit="x the cores",
        aim=0.8,
        higher_is_better=True,
        details={name: statistics.median(seconds) for name, seconds in times.items()},
    )


def growth() -> harness.Row:
    """Measure the time per pixel for larger sections and more cells."""
    rows, calls = [], {}
    for size, diameter in ((512, 44), (1024, 44), (2048, 44), (2048, 120), (2048, 19)):
        cells = draw_labels(size, diameter)
        probability = draw_maps(cells)["good"]
        rows.append({"size": size, "cells": int(metrics.connected_components(cells).max())})
        calls[len(calls)] = lambda cells=cells, probability=probability: everything(cells, probability)
    times = harness.side_by_side(calls, rounds=3)
    for k, row in enumerate(rows):
        tested = row["size"] ** 2 * len(metrics.CHALLENGE_THRESHOLDS)
        row["ns_per_pixel_and_threshold"] = 1e9 * statistics.median(times[k]) / tested
    return harness.Row(
        "scores per pixel, 2048 x 2048 px",
        "512 x 512 px",
        harness.ratio(times, 2, 0) * (rows[0]["size"] / rows[2]["size"]) ** 2,
        details={"sections": rows},
    )


def memory() -> harness.Row:
    """Measure the peak memory minus the inputs for 10 sections of 2048 x 2048 px, per worker and pixel."""
    labels = draw_labels(2048)
    maps = draw_maps(labels)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/cells.npy", np.stack([labels > 0] * 10))
        np.save(f"{folder}/probability.npy", np.stack([maps["white noise"], *[maps["good"]] * 9]))
        for workers in sorted({1, CORES}):
            fresh = [sys.executable, "-m", "benchmarks.bench_metrics", folder, str(workers)]
            rows.append(json.loads(subprocess.run(fresh, capture_output=True, text=True, check=True).stdout))
    return harness.Row(
        "scores of 2048 x 2048 px, peak memory per worker",
        "one pixel of a section",
        max(row["bytes_per_pixel"] for row in rows),
        unit="bytes",
        aim=30,
        details={"workers": rows},
    )


def score_in_fresh_process(folder: str, workers: int) -> dict[str, float]:
    cells, probability = np.load(f"{folder}/cells.npy"), np.load(f"{folder}/probability.npy")
    harness.seconds(lambda: everything(cells[0, :64, :64], probability[0, :64, :64]))  # loads compiled code
    harness.forget_peak()
    before = harness.peak_memory()
    taken = harness.seconds(lambda: metrics.isbi_scores(cells, probability, workers=workers))
    used = (harness.peak_memory() - before) / workers / cells[0].size
    return {"workers": workers, "seconds": taken, "bytes_per_pixel": used}


if __name__ == "__main__":
    if len(sys.argv) == 3:  # started by `memory`
        print(json.dumps(score_in_fresh_process(sys.argv[1], int(sys.argv[2]))))
    else:
        harness.main(measure)
