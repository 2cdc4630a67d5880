"""A run's jobs in the queue of a cluster: submitted, looked after, cancelled, found again after a crash.

`profiles/cluster` submits through it, and Snakefile has it end what an earlier run left in the queue. All
jobs of a results folder have one name, so that the queue itself says which they are. Only the standard
library, so that any Python 3.8 runs it. Slurm's commands are tested (tests/cluster); those of PBS, SGE and
LSF were not tried.
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
NAME = "BORDURE_JOBS"  # the environment variable that has the name of this run's jobs

# scheduler -> a command that those before it have not: SGE has qselect, too
KNOWN_BY = {"slurm": "sbatch", "lsf": "bsub", "sge": "qconf", "pbs": "qselect"}
# Prints the numbers of the jobs called {name} that are in the queue; fails where the queue does not answer.
UNFINISHED = {
    "slurm": "squeue --noheader --user=$(id -u) --name={name} --format=%A",
    "lsf": "found=$(bjobs -noheader -o jobid -J {name} 2>&1); status=$?; case $found in "
    "*'is not found'*|*'No unfinished job'*) ;; *) echo \"$found\"; exit $status ;; esac",
    "pbs": "qselect -u $(id -un) -N {name}",
    "sge": "found=$(qstat -u $(id -un) -r) || exit; echo \"$found\" | "
    'awk \'$1 ~ /^[0-9]+$/ {{id = $1}} $2 == "jobname:" && $3 == "{name}" {{print id}}\'',
}
CANCEL = {
    "slurm": "scancel",
    "lsf": "bkill",
    "pbs": "qdel",
    "sge": "qdel",
}  # SIGTERM first, some time later SIGKILL

# Only this shell hears of the end to come: it tells all processes of the job, waits for them, leaves word.
SCRIPT = """#!/bin/sh
record={folder}/${{SLURM_JOB_ID:-${{PBS_JOBID:-${{LSB_JOBID:-$JOB_ID}}}}}}.exit
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
    """The name of all jobs that write to a results folder; 15 characters, the most that PBS takes."""
    return f"bordure-{hashlib.sha256(os.fsencode(Path(results).resolve())).hexdigest()[:7]}"


def scheduler() -> str | None:
    """Which of the schedulers there is here."""
    return next((name for name, command in KNOWN_BY.items() if shutil.which(command)), None)


def unfinished(name: str) -> list[str]:
    """The numbers of the jobs called `name` that wait or run. Raises `Outage`."""
    command = UNFINISHED[scheduler()].format(name=name)
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
    if scheduler() is None:
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
    subprocess.run([CANCEL[scheduler()], *jobs], stderr=subprocess.DEVNULL, check=False)


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
        with open(script) as stdin:  # LSF wants it there, the others take it
            answer = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return re.search(r"\d[^\s;>]*", answer.stdout)[0]
        unfinished(os.environ[NAME])  # or an outage
        sys.exit(f"error: {shlex.join(command)}: {answer.stderr.strip()}")

    return patiently(ask)


def submission(job: dict, name: str, folder: Path) -> list:
    """The command that submits a job, of which it reads the script from its standard input.

    `job` is what Snakemake tells of it: `threads` and `resources`, of which mem_mb (MB), runtime (minutes)
    and gpu are asked for, from the queue `partition` or, with a GPU, `gpu_partition`; `cluster_options` are
    passed on.
    """
    resources, threads = job["resources"], job["threads"]
    memory, minutes, gpus = resources["mem_mb"], resources["runtime"], resources.get("gpu", 0)
    queue = resources.get("gpu_partition" if gpus else "partition")
    what = job.get("rule") or job["groupid"]
    more = shlex.split(resources.get("cluster_options", ""))
    # SIGTERM before the time is up: a training takes a few seconds to write down where it stands
    warning = min(90, 15 * minutes)
    here = scheduler()
    if here == "slurm":
        return [
            "sbatch",
            "--parsable",
            f"--job-name={name}",
            f"--comment={what}",
            f"--output={folder}/%j.log",
            "--open-mode=append",
            f"--time={minutes}",
            f"--mem={memory}",
            "--ntasks=1",
            f"--cpus-per-task={threads}",
            *([f"--gpus={gpus}"] if gpus else []),
            *([f"--partition={queue}"] if queue else []),
            f"--signal=B:TERM@{warning}",
            "--requeue",
            *more,
        ]
    if here == "pbs":
        chunk = f"select=1:ncpus={threads}:mem={memory}mb" + (f":ngpus={gpus}" if gpus else "")
        return [
            "qsub",
            "-V",
            "-N",
            name,
            "-j",
            "oe",
            "-o",
            folder,
            "-l",
            chunk,
            "-l",
            f"walltime={60 * minutes}",
            *(["-q", queue] if queue else []),
            *more,
        ]
    if here == "sge":
        return [
            "qsub",
            "-terse",
            "-V",
            "-cwd",
            "-S",
            "/bin/sh",
            "-N",
            name,
            "-j",
            "y",
            "-o",
            folder,
            "-notify",
            "-pe",
            "smp",
            threads,
            "-l",
            f"h_vmem={memory // threads}M,h_rt={60 * minutes}",
            *(["-l", f"gpu={gpus}"] if gpus else []),
            *(["-q", queue] if queue else []),
            *more,
        ]
    return [
        "bsub",
        "-J",
        name,
        "-o",
        f"{folder}/%J.log",
        "-n",
        threads,
        "-R",
        "span[hosts=1]",
        "-R",
        f"rusage[mem={memory}]",
        "-M",
        f"{memory}MB",
        "-W",
        minutes,
        "-wa",
        "TERM",
        "-wt",
        "2",
        *(["-gpu", f"num={gpus}"] if gpus else []),
        *(["-q", queue] if queue else []),
        *more,
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
