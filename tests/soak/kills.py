"""kill -9 at random moments: of a stage, of Snakemake, of both and all at once."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import psutil

from tests.soak.project import Answer, Job, Project, Reference, Run, gone, whole
from tests.soak.rows import Row

STARTING = 6.0  # s, about what Snakemake works for itself before its first job
TRAINING = "train.log"
ITSELF = "Snakemake itself"


class Victim(NamedTuple):
    """The job at work, by its log, and its process; before the first one, none."""

    log: str
    stage: psutil.Process | None


def kill_stage(run: Run, stage: psutil.Process) -> None:
    """What the system does where memory runs out."""
    stage.kill()


def kill_snakemake(run: Run, _: psutil.Process | None) -> None:
    """Snakemake alone: its jobs are orphans then."""
    run.process.kill()


def kill_group(run: Run, _: psutil.Process | None) -> None:
    """Snakemake and its jobs at once, as the end of a container does."""
    os.killpg(run.process.pid, signal.SIGKILL)


METHODS: tuple[Callable[[Run, psutil.Process], None], ...] = (kill_stage, kill_snakemake, kill_group)


def soak(projects: Sequence[tuple[Project, Reference]], kills: int, rng: random.Random) -> Row:
    """Kill `kills` times, each job of a run once; `projects` take turns."""
    seen = Kills(rng)
    while seen.number < kills:
        project, reference = projects[seen.turns % len(projects)]
        seen.of_a_run(project, reference, kills)
    return seen.row("kill -9 at a random moment")


def of_training(project: Project, reference: Reference, kills: int, rng: random.Random) -> Row:
    """Kill one training `kills` times."""
    seen = Kills(rng)
    training = next(job for job in reference.jobs if job.log == TRAINING)
    seen.of_a_run(project, reference, kills, [replace(training, seconds=2 * training.seconds / kills)])
    return seen.row("the demo's training, kill -9 again and again")


class Kills:
    """What was killed, and what was found afterwards."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.wrong, self.turns, self.identical = rng, [], 0, 0
        self.methods, self.logs = Counter(), Counter()
        self.made_anew = self.resumed = 0
        self.lost, self.orphans = [0.0], [0.0]  # s

    @property
    def number(self) -> int:
        return self.methods.total()

    def row(self, fault: str) -> Row:
        figures = {
            **self.methods,
            "jobs hit": dict(sorted(self.logs.items())),
            "runs, byte-identical in the end": self.identical,
            "unfinished files made anew": self.made_anew,
            "trainings resumed": self.resumed,
            "training lost at most (s)": round(max(self.lost), 1),
            "orphans gone after at most (s)": round(max(self.orphans), 1),
        }
        return Row(fault, self.number, max(self.number - len(self.wrong), 0), figures, self.wrong)

    def of_a_run(self, project: Project, reference: Reference, limit: int, only: Sequence[Job] = ()) -> None:
        """From nothing to the end by the same command, each time killed in another job, or one of `only`."""
        project.clear()
        hit: set[str] = set()
        while True:
            state = _state(project)
            run = project.start()
            method = min(METHODS, key=lambda one: (self.methods[_name(one)], self.rng.random()))
            jobs = only or [job for job in reference.jobs if job.log not in hit]
            victim = self._moment(run, method, jobs)
            if victim is None or self.number == limit:
                break
            hit.add(victim.log)
            self._kill(project, run, method, victim)
            self._after(project, reference, run.wait(), state)
        answer = run.wait()
        self._after(project, reference, answer, state)
        self.turns += 1
        if answer.status != 0:
            self.wrong.append(f"the same command again did not end well:\n{answer.said[-3000:]}")
        elif different := reference.differences(project):
            self.wrong.append(f"not as in an undisturbed run: {', '.join(different)}")
        else:
            self.identical += 1

    def _moment(self, run: Run, method: Callable, jobs: Collection[Job]) -> Victim | None:
        """Wait for a random moment, in one of `jobs` or before them; None where the run ends before."""
        seconds = {job.log: job.seconds for job in jobs}
        if method is not kill_stage and len(jobs) > 1 and self.rng.random() < 0.2:
            time.sleep(self.rng.uniform(0, STARTING))
            return Victim(ITSELF, None) if run.process.poll() is None else None
        found = run.await_stage(seconds)
        if found is None:
            return None
        time.sleep(self.rng.uniform(0, seconds[found[0]]))
        if found[1].is_running() or (method is not kill_stage and run.process.poll() is None):
            return Victim(*found)
        return self._moment(run, method, [job for job in jobs if job.log != found[0]])  # that one is done

    def _kill(self, project: Project, run: Run, method: Callable, victim: Victim) -> None:
        family, state, now = run.family(), _state(project), time.time()
        try:
            method(run, victim.stage)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return  # it ended by itself a moment before
        self.methods[_name(method)] += 1
        self.logs[victim.log.removesuffix(".log")] += 1
        print(f"{self.number}: {_name(method)} during {victim.log}", file=sys.stderr)
        if victim.log == TRAINING and state:
            self.lost.append(now - state)
        if self.rng.random() < 0.5:  # else the same command comes while they are still at work
            run.process.wait()
            self.orphans.append(gone(family[1:]))

    def _after(self, project: Project, reference: Reference, answer: Answer, state: float) -> None:
        """After a run, killed or not: no half file is taken for whole, a training did not start over."""
        unfinished, files = project.incomplete(), project.files()
        self.made_anew += len(unfinished & files.keys())
        known = {name: files[name] for name in reference.digests.keys() & files.keys() - unfinished}
        if half := [*reference.unlike(known), *(name for name, path in known.items() if not whole(path))]:
            self.wrong.append(f"after a kill, taken for whole: {', '.join(half)}")
        if "training unet" in answer.said:
            self.resumed += "resuming at" in answer.said
            if state and "resuming at" not in answer.said:
                self.wrong.append("a training started over, though it had left its state")


def _state(project: Project) -> float:
    """When a training that was interrupted wrote its state; 0 if none was."""
    checkpoint = project.results / "models/unet/model.checkpoint.pt"
    return checkpoint.stat().st_mtime if checkpoint.exists() else 0.0


def _name(method: Callable) -> str:
    return method.__name__.replace("_", " ")
