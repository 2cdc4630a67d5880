"""Sections scored at many thresholds by many threads, few of them held at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import TypeVar

Prepared, Score = TypeVar("Prepared"), TypeVar("Score")


def over_sections(
    prepare: Callable[[int], Prepared],
    score: Callable[[Prepared, float], Score],
    sections: int,
    thresholds: Sequence[float],
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[list[Score]]:
    """`score(prepare(z), threshold)` for every section and threshold, by `workers` threads.

    workers: default one for every core this process may use. `progress` wraps the iterable of finished
    sections. What `prepare` made of a section is let go after its last threshold; a section is prepared just
    early enough that no thread waits for it, so that few are held. An error ends the rest.
    """
    workers = workers or cores()
    ahead = 2 * (workers - 1)  # scores begun while a section is prepared, with room for a slow preparation

    def submit() -> list[list[Future]]:
        """One task per threshold keeps all cores busy to the end."""
        prepared: list[Future] = []
        rows: list[list[Future]] = [[] for _ in range(sections)]
        for index, (z, threshold) in enumerate(product(range(sections), thresholds)):
            while len(prepared) < min((index + ahead) // len(thresholds) + 1, sections):
                prepared.append(pool.submit(prepare, len(prepared)))
            rows[z].append(pool.submit(_score, score, prepared[z], threshold))
        return rows

    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(progress([task.result() for task in row] for row in submit()))
        finally:
            pool.shutdown(cancel_futures=True)


def _score(score: Callable[[Prepared, float], Score], prepared: Future, threshold: float) -> Score:
    return score(prepared.result(), threshold)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
