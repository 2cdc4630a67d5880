"""Jobs of a run in the queue of a Slurm cluster: submitted, watched, cancelled, found again after a crash.

`profiles/cluster` runs this file: `cluster.py submit JOBSCRIPT` and `cluster.py status JOB`. The workflow
cancels with it what an earlier run left in the queue. All jobs of a results folder have one name, by which
the queue finds them. Only the standard library is used, so that any Python from 3.8 on runs it.
docs/howto/other-schedulers.md says what to change for another scheduler.
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
from contextlib import suppress
from pathlib import Path

# Seconds after which a job that is not in the queue and left no word of its end is taken for killed: some
# queues show a new job late, and a network file system a new file.
GRACE = 10
OUTAGE = 3600  # s for which a queue that does not answer is waited for
PAUSE = 5  # s until it is asked again
# environment variables: the name of this run's jobs, and the path of this file
NAME, PROGRAM = "BORDURE_JOBS", "BORDURE_CLUSTER"

# Prints the numbers of the jobs called {name} that are in the queue; fails where the queue does not answer.
UNFINISHED = "squeue --noheader --user=$(id -u) --name={name} --format=%A"

# Only this shell hears of the end to come: it tells all processes of the job, waits for them, leaves word.
SCRIPT = """#!/bin/sh
record={folder}/$SLURM_JOB_ID.exit
rm -f "$record"
trap 'trap "" TERM USR2; kill -TERM 0' TERM USR2
(
trap : TERM USR2  # waits for what it started, which hears as well
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
    """The queue does not answer."""


class Contended(Exception):
    """Jobs, named by their numbers, that may be another run's."""


def name_of(results: str | Path) -> str:
    """The name of all jobs that write to a results folder."""
    return f"bordure-{hashlib.sha256(os.fsencode(Path(results).resolve())).hexdigest()[:7]}"


def available() -> bool:
    """Whether this machine can submit to a cluster."""
    return shutil.which("sbatch") is not None


def unfinished(name: str) -> list[str]:
    """The numbers of the jobs called `name` that wait or run. Raises `Outage`."""
    command = UNFINISHED.format(name=name)
    try:
        answer = subprocess.run(command, shell=True, capture_output=True, text=True, check=True, timeout=60)
    except subprocess.CalledProcessError as error:
        raise Outage(error.stderr.strip()) from error
    except subprocess.TimeoutExpired as error:
        raise Outage(f"no answer within {error.timeout:g} s") from error
    return answer.stdout.split()


def patiently(ask, seconds: float = OUTAGE):
    """What `ask()` returns, asked again and again while it raises `Outage`, for so many seconds."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except Outage as outage:
            if time.monotonic() > limit:
                raise
            tell(f"the queue does not answer ({outage}); asking again")
        time.sleep(PAUSE)


def cancel_orphans(name: str, seconds: float, alone: bool) -> None:
    """Cancel the jobs called `name`, which an earlier run left behind, and wait until all have ended.

    `alone`: no other run can have such jobs. Raises `Contended` where it is not sure and there are some, and
    `Outage` where the queue does not answer for so many seconds.
    """
    if not available():
        return
    told = 0.0
    while jobs := patiently(lambda: unfinished(name), seconds):
        if not alone:
            raise Contended(" ".join(jobs))
        if not told or time.monotonic() - told > 60:
            tell(f"jobs that an earlier run left in the queue are cancelled and waited for: {' '.join(jobs)}")
            told = time.monotonic()
        cancel(*jobs)
        time.sleep(2)


def cancel(*jobs: str) -> None:
    """Cancel jobs by their numbers; those that have ended by now are no error."""
    subprocess.run(["scancel", *jobs], stderr=subprocess.DEVNULL, check=False)


def submit(jobscript: str) -> str:
    """Submit a script of Snakemake's and return its number; waits while the queue does not answer.

    Exits with the scheduler's message where it refuses the job.
    """
    folder = records()
    folder.mkdir(parents=True, exist_ok=True)
    text = Path(jobscript).read_text()
    job = json.loads(re.search(r"^# properties = (.*)$", text, re.MULTILINE)[1])
    script = Path(f"{jobscript}.submitted")
    script.write_text(SCRIPT.format(folder=shlex.quote(str(folder)), job=text))
    command = [str(word) for word in submission(job, os.environ[NAME], folder)]

    def ask() -> str:
        with open(script) as stdin:
            answer = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return re.search(r"\d+", answer.stdout)[0]
        unfinished(os.environ[NAME])  # or an outage
        sys.exit(f"error: {shlex.join(command)}: {answer.stderr.strip()}")

    return patiently(ask)


def submission(job: dict, name: str, folder: Path) -> list:
    """The command that submits a job, whose script it reads from its standard input.

    `job` is what Snakemake says of it: `threads` and `resources`, of which mem_mb (MB), runtime (minutes)
    and gpu are requested, from the queue `partition` or, with a GPU, `gpu_partition`; `cluster_options` are
    passed on.
    """
    resources = job["resources"]
    minutes, gpus = resources["runtime"], resources.get("gpu", 0)
    queue = resources.get("gpu_partition" if gpus else "partition")
    # SIGTERM before the time is up: a training takes a few seconds to write down where it stands
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
    """What became of a job, as Snakemake wants to hear it: running, success or failed.

    A queue that does not answer changes nothing: the job is running until it is known to have left. How it
    ended says the record it left; a job without one was killed. A job that ended well while the controller
    was away Slurm may hold in the queue for ever: the record counts.
    """
    folder = records()
    record, missed = folder / f"{job}.exit", folder / f"{job}.missed"
    try:
        if job in unfinished(os.environ[NAME]):
            missed.unlink(missing_ok=True)
            if not _done_long_since(record):
                return "running"
            tell(f"job {job} ended well, which the queue has missed; it is cancelled there")
            cancel(job)
    except Outage as outage:
        tell(f"the queue does not answer ({outage}); job {job} is taken to go on")
        return "running"
    os.listdir(folder)  # makes a network file system look anew
    with suppress(FileNotFoundError):
        ended = record.read_text().strip()
        if ended == "0":
            for left in folder.glob(f"{job}.*"):
                left.unlink()
            return "success"
        tell(f"job {job} ended with status {ended}; what it said is in {folder}/{job}.log")
        return "failed"
    if not missed.exists():
        missed.touch()
    if time.time() - missed.stat().st_mtime < GRACE:
        return "running"
    missed.unlink()
    tell(
        f"job {job} left the queue without a word: cancelled, killed for memory or time, or its node failed; "
        f"what it said is in {folder}/{job}.log"
    )
    return "failed"


def _done_long_since(record: Path) -> bool:
    """Whether a job left word of its success a while ago; one that starts again takes back what it left."""
    try:
        return record.read_text().strip() == "0" and time.time() - record.stat().st_mtime > GRACE
    except FileNotFoundError:
        return False


def records() -> Path:
    """Where jobs leave what they say and how they ended."""
    return Path(".snakemake/cluster").absolute()


def tell(message: str) -> None:
    print(f"cluster: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    command, argument = sys.argv[1:]
    print({"submit": submit, "status": status}[command](argument))
