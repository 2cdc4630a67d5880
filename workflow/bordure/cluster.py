"""Submit, monitor and cancel the jobs of a run on a Slurm cluster, and find them again after a crash.

`profiles/cluster` runs this file as `cluster.py submit JOBSCRIPT` and `cluster.py status JOB`. The workflow
imports it to cancel jobs that an earlier run left in the queue. All jobs of one results folder have the same
name, so that they can be found in the queue. The file needs only the standard library and runs with Python
3.8 or newer. docs/howto/other-schedulers.md explains the changes for another scheduler.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")

# A job that is not in the queue and has no exit record counts as killed after this many seconds. Some queues
# show a new job late, and network file systems show a new file late.
GRACE = 10
OUTAGE = 3600  # s to wait for a queue that does not answer
PAUSE = 5  # s between two attempts to reach the queue
# Environment variables with the name of this run's jobs and with the path of this file.
NAME, PROGRAM = "BORDURE_JOBS", "BORDURE_CLUSTER"

# Prints the numbers of the jobs called {name} that are in the queue. Fails if the queue does not answer.
UNFINISHED = "squeue --noheader --user=$(id -u) --name={name} --format=%A"

# Slurm signals only this shell before the time limit. The shell passes SIGTERM on to all processes of the
# job, waits for them and writes the exit status to the exit record.
SCRIPT = """#!/bin/sh
record={folder}/$SLURM_JOB_ID.exit
rm -f "$record"
trap 'trap "" TERM USR2; kill -TERM 0' TERM USR2
(
trap : TERM USR2  # wait for the commands, which receive the signal as well
{job}
) &
while :; do
    wait $!
    status=$?
    kill -0 $! 2>/dev/null || break
done
echo $status > "$record.partial" && mv "$record.partial" "$record"
exit $status
"""


class Outage(Exception):
    """Raised if the queue does not answer."""


class Contended(Exception):
    """Raised with the numbers of jobs in the queue that may belong to another run."""


def name_of(results: str | Path) -> str:
    """Return the name of all jobs that write to a results folder, 15 characters with a hash of its path."""
    return f"bordure-{hashlib.sha256(os.fsencode(Path(results).resolve())).hexdigest()[:7]}"


def available() -> bool:
    """Return whether this machine can submit jobs to a cluster."""
    return shutil.which("sbatch") is not None


def unfinished(name: str) -> list[str]:
    """Return the numbers of the jobs called `name` that wait or run.

    Raises
    ------
    Outage
        If the queue does not answer.
    """
    command = UNFINISHED.format(name=name)
    try:
        answer = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60)
    except subprocess.CalledProcessError as error:
        raise Outage(error.stderr.strip()) from error
    except subprocess.TimeoutExpired as error:
        raise Outage(f"no answer within {error.timeout:g} s") from error
    return answer.stdout.split()


def retried(ask: Callable[[], Value], seconds: float = OUTAGE) -> Value:
    """Return `ask()`; if it raises `Outage`, repeat it for up to `seconds`."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Outage as outage:
            if time.monotonic() > limit:
                raise
            log(f"the queue does not answer ({outage}); trying again")
        time.sleep(PAUSE)


def cancel_orphans(name: str, seconds: float, exclusive: bool) -> None:
    """Cancel jobs that an earlier run left in the queue, and wait until all have ended.

    Parameters
    ----------
    name : str
        Name of the jobs (`name_of`).
    seconds : float
        Time to wait for a queue that does not answer.
    exclusive : bool
        Whether this run holds the lock of the results folder, so that no other run can have such jobs.

    Raises
    ------
    Contended
        If there are such jobs and `exclusive` is false.
    Outage
        If the queue does not answer within `seconds`.
    """
    if not available():
        return
    logged = 0.0
    while jobs := retried(lambda: unfinished(name), seconds):
        if not exclusive:
            raise Contended(" ".join(jobs))
        if not logged or time.monotonic() - logged > 60:
            log(f"cancelling jobs that an earlier run left in the queue: {' '.join(jobs)}")
            logged = time.monotonic()
        cancel(*jobs)
        time.sleep(2)


def cancel(*jobs: str) -> None:
    """Cancel jobs by their numbers. Jobs that have ended meanwhile are ignored."""
    subprocess.run(["scancel", *jobs], stderr=subprocess.DEVNULL, check=False)


def submit(jobscript: str) -> str:
    """Submit a job script that Snakemake wrote, and return the number of the job.

    If the queue does not answer, the submission is repeated. If the scheduler refuses the job, the process
    exits with its message.
    """
    folder = records()
    folder.mkdir(parents=True, exist_ok=True)
    text = Path(jobscript).read_text()
    job = json.loads(_found(re.search(r"^# properties = (.*)$", text, re.MULTILINE))[1])
    script = Path(f"{jobscript}.submitted")
    script.write_text(SCRIPT.format(folder=shlex.quote(str(folder)), job=text))
    command = [str(word) for word in submission(job, os.environ[NAME], folder)]

    def ask() -> str:
        with open(script) as stdin:
            answer = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return _found(re.search(r"\d+", answer.stdout))[0]
        unfinished(os.environ[NAME])  # raises Outage if the queue is the reason
        sys.exit(f"error: {shlex.join(command)}: {answer.stderr.strip()}")

    return retried(ask)


def submission(job: dict[str, Any], name: str, folder: Path) -> list[Any]:
    """Return the command that submits a job. The command reads the job's script from standard input.

    Parameters
    ----------
    job : dict
        Properties of the job from Snakemake: `threads` and `resources`. The resources `mem_mb` (MB),
        `runtime` (minutes) and `gpu` (number) are requested from the queue `partition` or, with a GPU,
        `gpu_partition`. The options in `cluster_options` are passed to the command.
    name : str
        Name of the job in the queue.
    folder : Path
        Folder for the job's output.
    """
    resources = job["resources"]
    minutes, gpus = resources["runtime"], resources.get("gpu", 0)
    queue = resources.get("gpu_partition" if gpus else "partition")
    # SIGTERM comes this many seconds before the time limit, since a training needs a few to save its state
    warning = min(90, 15 * minutes)
    return [
        "sbatch",
        "--parsable",
        f"--job-name={name}",
        f"--comment={job.get('rule') or job['groupid']}",
        f"--output={folder}/%j.log",
        "--open-mode=append",
        f"--time={minutes}",
        f"--mem={resources['mem_mb']}",
        "--ntasks=1",
        f"--cpus-per-task={job['threads']}",
        *([f"--gpus={gpus}"] if gpus else []),
        *([f"--partition={queue}"] if queue else []),
        f"--signal=B:TERM@{warning}",
        "--requeue",
        *shlex.split(resources.get("cluster_options", "")),
    ]


def status(job: str) -> str:
    """Return the status of a job in Snakemake's terms: `running`, `success` or `failed`.

    The exit record that the job writes decides whether it succeeded; a job without a record was killed. While
    the queue does not answer, the job counts as running. If a job succeeds while the controller is away,
    Slurm may keep it in the queue forever: such a job is cancelled, and its record counts.
    """
    folder = records()
    record, missed = folder / f"{job}.exit", folder / f"{job}.missed"
    try:
        if job in unfinished(os.environ[NAME]):
            missed.unlink(missing_ok=True)
            if not _succeeded_earlier(record):
                return "running"
            log(f"job {job} succeeded but is still in the queue; it is cancelled there")
            cancel(job)
    except Outage as outage:
        log(f"the queue does not answer ({outage}); job {job} counts as running")
        return "running"
    os.listdir(folder)  # makes a network file system refresh its view of the folder
    with suppress(FileNotFoundError):
        ended = record.read_text().strip()
        if ended == "0":
            for left in folder.glob(f"{job}.*"):
                left.unlink()
            return "success"
        log(f"job {job} failed with status {ended}; its output is in {folder}/{job}.log")
        return "failed"
    if not missed.exists():
        missed.touch()
    if time.time() - missed.stat().st_mtime < GRACE:
        return "running"
    missed.unlink()
    log(
        f"job {job} ended without an exit status: it was cancelled, exceeded its memory or time limit, or "
        f"its node failed; its output is in {folder}/{job}.log"
    )
    return "failed"


def _succeeded_earlier(record: Path) -> bool:
    """Return whether a job recorded its success more than `GRACE` seconds ago.

    A job that is started again removes its record.
    """
    try:
        return record.read_text().strip() == "0" and time.time() - record.stat().st_mtime > GRACE
    except FileNotFoundError:
        return False


def records() -> Path:
    """Return the folder in which jobs leave their output and exit records."""
    return Path(".snakemake/cluster").absolute()


def _found(match: re.Match[str] | None) -> re.Match[str]:
    """Return `match`, which is known to exist."""
    if match is None:
        raise ValueError("the scheduler or Snakemake wrote text in an unknown format")
    return match


def log(message: str) -> None:
    """Print a message to standard error."""
    print(f"cluster: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    print({"submit": submit, "status": status}[command](argument))
