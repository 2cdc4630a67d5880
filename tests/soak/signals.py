"""Send signals that end a run, as sent by a cluster, by Ctrl-C, or when a terminal is closed.

The part of a method's docstring before the colon is the name of its row in the results.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator

import psutil

from pipeline_lib.runtime.log import SECONDS_BETWEEN_SIGNALS
from tests.soak.project import Project, Reference, Run, wait_until_ended
from tests.soak.rows import Row


def terminate_stage(run: Run, stage: psutil.Process) -> None:
    """SIGTERM to a stage: end of the time limit, or preemption."""
    stage.terminate()


def terminate_all(run: Run, _: psutil.Process) -> None:
    """SIGTERM to Snakemake and its jobs: end of the allocation in which both run."""
    os.killpg(run.process.pid, signal.SIGTERM)


def interrupt(run: Run, _: psutil.Process) -> None:
    """Ctrl-C: SIGINT to all that the terminal runs."""
    os.killpg(run.process.pid, signal.SIGINT)


def hang_up(run: Run, _: psutil.Process) -> None:
    """SIGHUP to all that the terminal runs: terminal closed, or connection lost."""
    os.killpg(run.process.pid, signal.SIGHUP)


def terminate_snakemake(run: Run, _: psutil.Process) -> None:
    """SIGTERM to Snakemake alone, which lets the running jobs end first."""
    run.process.terminate()


METHODS: tuple[Callable[[Run, psutil.Process], None], ...] = (
    terminate_stage,
    terminate_all,
    interrupt,
    hang_up,
    terminate_snakemake,
)


def soak(project: Project, reference: Reference, rounds: int, rng: random.Random) -> Iterator[Row]:
    """Send each signal `rounds` times, during training and during another job."""
    for method in METHODS:
        for where in ("while training", "during another job"):
            wrong, seconds, lost = [], [0.0], [0]
            for _ in range(rounds):
                # only the longer half of the other jobs, as short ones end before a signal can be sent
                others = sorted(reference.jobs, key=lambda job: job.seconds)[len(reference.jobs) // 2 :]
                others = [job.log for job in others if job.log != "train/unet.log"]
                log = "train/unet.log" if where == "while training" else rng.choice(others)
                found = _one(project, reference, method, log, rng)
                wrong += found[0]
                seconds.append(found[1])
                lost.append(found[2])
            figures = {"ended after at most (s)": round(max(seconds), 1)}
            if where == "while training":
                figures["iterations lost at most"] = max(lost)
            yield Row(
                f"{method.__doc__.partition(':')[0].rstrip('.')}, {where}",
                rounds,
                rounds - bool(wrong),
                figures,
                wrong,
            )


def _one(
    project: Project,
    reference: Reference,
    method: Callable[[Run, psutil.Process], None],
    log: str,
    rng: random.Random,
) -> tuple[list[str], float, int]:
    """Return what was wrong, how many seconds the job took to end, and how many iterations were lost."""
    wrong = []
    within = next(job.seconds for job in reference.jobs if job.log == log)
    while True:
        project.clear()
        run = project.start()
        found = run.await_stage({log})
        if found is None:
            return [f"{log} never ran"], 0.0, 0
        time.sleep(rng.uniform(0.2, 0.9) * within)
        family, begin = run.family(), time.monotonic()
        if found[1] in family:
            break
        run.wait()
        within /= 2  # too late: the job had ended, as its duration includes the start, which is not seen here
    method(run, found[1])
    seconds = wait_until_ended([found[1]])
    answer = run.wait()
    wait_until_ended(family)
    if answer.status != 0:
        seconds = time.monotonic() - begin
    elif seconds > SECONDS_BETWEEN_SIGNALS:  # otherwise the job had nearly finished
        wrong.append(f"{log}: continued for {seconds:.1f} s after the signal")
    if re.search("Traceback|killed, most likely", answer.output):
        wrong.append(f"{log}: unexpected output\n{answer.output[-1500:]}")
    if halves := [name for name in project.files() if ".partial-" in name]:
        wrong.append(f"{log}: left {', '.join(halves)}")
    saved = re.findall(r"iteration (\d+) is saved|iteration (\d+):", answer.output)
    again = project.run()
    lost = 0
    if "training unet" in again.output:
        resumed = re.search(r"resuming at iteration (\d+)", again.output)
        reached = int(saved[-1][0] or saved[-1][1]) if saved else 0
        lost = max(0, reached - int(resumed[1] if resumed else 0))
    if lost:
        wrong.append(f"{log}: {lost} iterations lost")
    if again.status != 0:
        wrong.append(f"{log}: the same command again:\n{again.output[-1500:]}")
    elif different := reference.differences(project):
        wrong.append(f"{log}: differs from an undisturbed run: {', '.join(different)}")
    return wrong, seconds, lost
