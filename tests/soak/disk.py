"""Test a full disk and read-only folders, with a small file system in memory."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.soak.project import Answer, Project, Reference
from tests.soak.rows import Row

SIZE = 256  # MB
# Message of Snakemake for files that it writes itself: benchmarks, and metadata in `.snakemake`.
SNAKEMAKE_MESSAGE = "[Errno 28] No space left on device"
STAGE_TRACEBACK = re.compile(r'File ".*/(pipeline_lib|scripts)/.*", line')  # a line of a traceback


class Disk:
    """A separate file system, mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / ".filler"
        folder.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", f"size={SIZE}m", "none", str(folder))

    def fill(self, left: int) -> None:
        """Fill the disk until at most `left` bytes are free."""
        with self.filler.open("wb") as file:
            while (surplus := self._free_bytes() - left) > 0:
                with contextlib.suppress(OSError):  # another process wrote in between
                    os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size + surplus)

    def _free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def free(self) -> None:
        self.filler.unlink(missing_ok=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)


def namespace() -> list[str]:
    """Return a command prefix that hides mounts from other processes; empty if that is not possible."""
    command = ["unshare", "--mount", *(["--map-root-user"] if os.getuid() else [])]
    usable = shutil.which("unshare") and not subprocess.run([*command, "true"], check=False).returncode
    return command if usable else []


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True, text=True)


def possible(folder: Path) -> str:
    """Return why nothing can be mounted here; empty if it can."""
    try:
        Disk(folder / "try").unmount()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"nothing can be mounted here ({getattr(error, 'stderr', error)})".replace("\n", " ")
    return ""


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make `folder` read-only, even for root."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("--bind", str(folder), str(folder))
    mount("-o", "remount,bind,ro", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def full_under_each_job(
    disk: Disk, project: Project, reference: Reference, rng: random.Random, what: str
) -> Row:
    """Run from the beginning; fill the disk once during each job, and free it before the next run."""
    project.clear()
    wrong, failed, hit = [], [], set()
    while True:
        run = project.start()
        found = run.await_stage({job.log for job in reference.jobs} - hit)
        left = rng.choice((0, 4096, rng.randrange(65536)))
        if found:
            hit.add(found[0])
            disk.fill(left)
        answer = run.wait()
        disk.free()
        if answer.status == 0:
            break
        failed += re.findall(r"logs/(\S+)\.log\)", answer.output) or ["Snakemake"]
        wrong += _check_full_disk(project, reference, answer, f"{failed[-1]}, {left} bytes left")
        if not found:
            break
    if answer.status != 0:
        wrong.append(f"with the disk free again: {answer.output[-1500:]}")
    elif different := reference.differences(project):
        wrong.append(f"not as in an undisturbed run: {', '.join(different)}")
    figures = {"jobs": dict(Counter(failed))}
    return Row(f"disk full: {what}", len(failed), max(len(failed) - len(wrong), 0), figures, wrong)


def _check_full_disk(project: Project, reference: Reference, answer: Answer, where: str) -> Iterator[str]:
    """Yield what is wrong after a job ran into the full disk."""
    last = answer.output.rpartition("Exiting because")[2]  # users read this first
    clear = "disk is full" in last and str(project.config["results"]) in last and "Traceback" not in last
    if not (clear or SNAKEMAKE_MESSAGE in answer.output):
        yield f"{where}: no clear message:\n{answer.output[-2500:]}"
    logs = (path.read_text(errors="replace") for path in (project.results / "logs").rglob("*.log"))
    if any(STAGE_TRACEBACK.search(text) for text in (answer.output, *logs)):
        yield f"{where}: a stage's traceback:\n{answer.output[-2500:]}"
    unfinished, files = project.incomplete(), project.files()
    whole = {name: path for name, path in files.items() if name in reference.digests.keys() - unfinished}
    if half := [*reference.unlike(whole), *(name for name in files if ".partial-" in name)]:
        yield f"{where}: half-written: {', '.join(half)}"


def _refused_and_mended(project: Project, reference: Reference, answer: Answer, where: str) -> list[str]:
    """Return what was wrong with `answer`, and with the same command when there is space again."""
    wrong = list(_check_full_disk(project, reference, answer, where))
    if answer.status == 0:
        wrong.append(f"{where}: no error")
    again = project.run()
    if again.status != 0 or reference.differences(project):
        wrong.append(f"{where}, then space again: {again.output[-1500:]} {reference.differences(project)}")
    return wrong


def full_from_the_start(disk: Disk, project: Project, reference: Reference) -> Row:
    """Start with no free byte: neither logs nor Snakemake's metadata can be written."""
    project.clear()
    disk.fill(0)
    answer = project.run()
    disk.free()
    wrong = _refused_and_mended(project, reference, answer, "no byte left")
    return Row(
        "disk full from the start", 1, int(not wrong), {"said last": answer.output.strip()[-300:]}, wrong
    )


def files_too_large(project: Project, reference: Reference) -> Row:
    """Limit files to 16 kB, as `ulimit -f` does and similar to a quota, then run without the limit."""
    project.clear()
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (16384, 16384))
    answer = project.start(before=limit).wait()
    wrong = _refused_and_mended(project, reference, answer, "files of 16 kB at most")
    return Row("no file may grow beyond 16 kB", 1, int(not wrong), {}, wrong)


def read_only_folders(project: Project, reference: Reference) -> Row:
    """Make each folder of the results read-only while a file in it is to be made, then writable again."""
    project.clear()
    project.run()
    made_in = {str(Path(name).parent): name for name in reference.digests}
    made_in |= {"logs": "scores.csv", "benchmarks": "scores.csv"}  # any job writes there
    wrong = []
    for folder, name in sorted(made_in.items()):
        (project.results / name).unlink()
        target = project.name_of(name)
        with read_only(project.results / folder):
            answer = project.run("--", target)
        message = re.search(
            rf"{project.config['results']}.*cannot be written|is not a writable folder|"
            rf"Read-only file system: '{project.config['results']}/{folder}",
            answer.output,
        )
        if answer.status == 0:
            wrong.append(f"{folder}: read-only, but no error")
        elif "Traceback" in answer.output or not message:
            wrong.append(f"{folder}: no clear message:\n{answer.output[-2500:]}")
        if project.run("--", target).status != 0 or reference.differences(project):
            wrong.append(f"{folder}: writable again: {reference.differences(project)}")
    figures = {"folders": ", ".join(sorted(made_in))}
    return Row("read-only folder", len(made_in), max(len(made_in) - len(wrong), 0), figures, wrong)
