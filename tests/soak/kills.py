"""Send kill -9 at random moments: to a stage, to Snakemake, to both together."""

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

from tests.soak.project import Answer, Job, Project, Reference, Run, is_complete, wait_until_ended
from tests.soak.rows import Row

STARTING = 6.0  # s, about the time that Snakemake needs before its first job
TRAINING = "train.log"
ITSELF = "Snakemake itself"


class Victim(NamedTuple):
    """The log of the running job and its process; no process before the first job."""

    log: str
    stage: psutil.Process | None


def kill_stage(run: Run, stage: psutil.Process) -> None:
    """Kill the stage, as the system does when memory runs out."""
    stage.kill()


def kill_snakemake(run: Run, _: psutil.Process | None) -> None:
    """Kill only Snakemake, so that its jobs become orphans."""
    run.process.kill()


def kill_group(run: Run, _: psutil.Process | None) -> None:
    """Kill Snakemake and its jobs together, as when a container is stopped."""
    os.killpg(run.process.pid, signal.SIGKILL)


METHODS: tuple[Callable[[Run, psutil.Process], None], ...] = (kill_stage, kill_snakemake, kill_group)


def soak(projects: Sequence[tuple[Project, Reference]], kills: int, rng: random.Random) -> Row:
    """Kill runs of `projects` in turn, `kills` times in total, each job of a run once."""
    seen = Kills(rng)
    while seen.number < kills:
        project, reference = projects[seen.turns % len(projects)]
        seen.kill_a_run(project, reference, kills)
    return seen.row("kill -9 at a random moment")


def kill_training(project: Project, reference: Reference, kills: int, rng: random.Random) -> Row:
    """Kill one training `kills` times."""
    seen = Kills(rng)
    training = next(job for job in reference.jobs if job.log == TRAINING)
    seen.kill_a_run(project, reference, kills, [replace(training, seconds=2 * training.seconds / kills)])
    return seen.row("the demo's training, kill -9 again and again")


class Kills:
    """Counts of what was killed, and what was found afterwards."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.wrong, self.turns, self.identical = rng, [], 0, 0
        self.methods, self.logs = Counter(), Counter()
        self.made_again = self.resumed = 0
        self.lost, self.orphans = [0.0], [0.0]  # s

    @property
    def number(self) -> int:
        return self.methods.total()

    def row(self, fault: str) -> Row:
        figures = {
            **self.methods,
            "jobs hit": dict(sorted(self.logs.items())),
            "runs, byte-identical in the end": self.identical,
            "unfinished files made anew": self.made_again,
            "trainings resumed": self.resumed,
            "training lost at most (s)": round(max(self.lost), 1),
            "orphans gone after at most (s)": round(max(self.orphans), 1),
        }
        return Row(fault, self.number, max(self.number - len(self.wrong), 0), figures, self.wrong)

    def kill_a_run(
        self, project: Project, reference: Reference, limit: int, only: Sequence[Job] = ()
    ) -> None:
        """Run from beginning to end with the same command, killed each time in another job (of `only`)."""
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
            self.wrong.append(f"the same command again failed:\n{answer.output[-3000:]}")
        elif different := reference.differences(project):
            self.wrong.append(f"differs from an undisturbed run: {', '.join(different)}")
        else:
            self.identical += 1

    def _moment(self, run: Run, method: Callable, jobs: Collection[Job]) -> Victim | None:
        """Wait for a random moment in one of `jobs` or before them; None if the run ends before."""
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
        # that job has finished
        return self._moment(run, method, [job for job in jobs if job.log != found[0]])

    def _kill(self, project: Project, run: Run, method: Callable, victim: Victim) -> None:
        family, state, now = run.family(), _state(project), time.time()
        try:
            method(run, victim.stage)
        except (psutil.NoSuchProcess, ProcessLookupError):
            return  # it has just ended normally
        self.methods[_name(method)] += 1
        self.logs[victim.log.removesuffix(".log")] += 1
        print(f"{self.number}: {_name(method)} during {victim.log}", file=sys.stderr)
        if victim.log == TRAINING and state:
            self.lost.append(now - state)
        if self.rng.random() < 0.5:  # otherwise the same command starts while the jobs are still running
            run.process.wait()
            self.orphans.append(wait_until_ended(family[1:]))

    def _after(self, project: Project, reference: Reference, answer: Answer, state: float) -> None:
        """Check that no incomplete file is regarded as complete and that training did not restart."""
        unfinished, files = project.incomplete(), project.files()
        self.made_again += len(unfinished & files.keys())
        known = {name: files[name] for name in reference.digests.keys() & files.keys() - unfinished}
        if half := [
            *reference.unlike(known),
            *(name for name, path in known.items() if not is_complete(path)),
        ]:
            self.wrong.append(f"incomplete after a kill, but regarded as complete: {', '.join(half)}")
        if "training unet" in answer.output:
            self.resumed += "resuming at" in answer.output
            if state and "resuming at" not in answer.output:
                self.wrong.append("training restarted although its state was saved")


def _state(project: Project) -> float:
    """Return when an interrupted training wrote its state; 0 if there is none."""
    checkpoint = project.results / "models/unet/model.checkpoint.pt"
    return checkpoint.stat().st_mtime if checkpoint.exists() else 0.0


def _name(method: Callable) -> str:
    return method.__name__.replace("_", " ")
