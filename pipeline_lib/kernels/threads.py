"""Score sections with many settings in parallel threads, holding few sections in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from typing import TypeVar

Prepared = TypeVar("Prepared")
Setting = TypeVar("Setting")
Score = TypeVar("Score")


def over_sections(
    prepare: Callable[[int], Prepared],
    score: Callable[[Prepared, Setting], Score],
    sections: int,
    settings: Sequence[Setting],
    workers: int | None = None,
    progress: Callable[[Iterable[list[Score]]], Iterable[list[Score]]] = iter,
) -> list[list[Score]]:
    """Return `score(prepare(z), setting)` for each section `z` and each setting.

    A prepared section is released after its last setting. Sections are prepared just early enough that no
    thread waits for them, so that few are in memory. After an error no further task is started.

    Parameters
    ----------
    prepare : callable
        Takes the number of a section and returns what `score` needs of it.
    score : callable
        Takes a prepared section and a setting and returns the result.
    sections : int
        Number of sections.
    settings : sequence
        Settings to score each section with, usually thresholds.
    workers : int, optional
        Number of threads. By default one for each core that this process may use.
    progress : callable
        Wraps the iterable of finished sections, for instance `tqdm.tqdm`.

    Returns
    -------
    list of list
        One list for each section, with one result for each setting.
    """
    workers = workers or cores()
    ahead = 2 * (workers - 1)  # scores started while a section is prepared; 2 because preparing can be slow

    def submit() -> list[list[Future[Score]]]:
        """Submit one task for each section and setting, which keeps all cores busy until the end."""
        prepared: list[Future[Prepared]] = []
        rows: list[list[Future[Score]]] = [[] for _ in range(sections)]
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


def _score(
    score: Callable[[Prepared, Setting], Score], prepared: Future[Prepared], setting: Setting
) -> Score:
    """Wait for the prepared section and score it."""
    return score(prepared.result(), setting)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
