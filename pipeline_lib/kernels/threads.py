"""Sections scored at many thresholds by many threads, few of them held at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import TypeVar

Prepared, Setting, Score = TypeVar("Prepared"), TypeVar("Setting"), TypeVar("Score")


def over_sections(
    prepare: Callable[[int], Prepared],
    score: Callable[[Prepared, Setting], Score],
    sections: int,
    settings: Sequence[Setting],
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[list[Score]]:
    """`score(prepare(z), setting)` for every section and setting, mostly a threshold, by `workers` threads.

    workers: default one for every core this process may use. `progress` wraps the iterable of finished
    sections. What `prepare` made of a section is let go after its last setting; a section is prepared just
    early enough that no thread waits for it, so that few are held. An error ends the rest.
    """
    workers = workers or cores()
    ahead = 2 * (workers - 1)  # scores begun while a section is prepared, with room for a slow preparation

    def submit() -> list[list[Future]]:
        """One task per setting keeps all cores busy to the end."""
        prepared: list[Future] = []
        rows: list[list[Future]] = [[] for _ in range(sections)]
        for index, (z, setting) in enumerate(product(range(sections), settings)):
            while len(prepared) < min((index + ahead) // len(settings) + 1, sections):
                prepared.append(pool.submit(prepare, len(prepared)))
            rows[z].append(pool.submit(_score, score, prepared[z], setting))
        return rows

    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(progress([task.result() for task in row] for row in submit()))
        finally:
            pool.shutdown(cancel_futures=True)


def _score(score: Callable[[Prepared, Setting], Score], prepared: Future, setting: Setting) -> Score:
    return score(prepared.result(), setting)


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
