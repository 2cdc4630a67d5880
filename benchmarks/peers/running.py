"""Make the environments of the peers, and run their training programs with a fixed number of threads."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from pipeline_lib import provenance
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.runtime.types import Json

FOLDER = Path(__file__).parent
#: Data sets of each peer. StarDist finds star-convex objects only.
PEERS = {
    "bordure": ("isbi2012", "nuclei"),
    "nnunet": ("isbi2012", "nuclei"),
    "torch_em": ("isbi2012", "nuclei"),
    "basicunet": ("isbi2012", "nuclei"),
    "stardist": ("nuclei",),
}
_INTERVAL = 1.0  # s between two measurements of memory


def python_of(peer: str, folder: Path) -> Path:
    """Return the Python of a peer. Its environment is made if it is missing or has other requirements.

    Parameters
    ----------
    peer : str
        Name of the peer. bordure has no requirements of its own, and runs in this environment.
    folder : Path
        Folder of all environments.

    Returns
    -------
    Path
        The interpreter.

    Raises
    ------
    InputError
        If the requirements cannot be installed.
    """
    requirements = FOLDER / peer / "requirements.txt"
    if not requirements.exists():
        return Path(sys.executable)
    environment = folder / peer
    mark = environment / "requirements.sha256"
    python = environment / "bin/python"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not (mark.exists() and mark.read_text() == digest):
        print(f"installing {requirements} into {environment} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", environment], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "-r", requirements]
        if subprocess.run(install, check=False).returncode:
            raise InputError(f"{requirements}: pip failed, see its messages above. Correct the versions.")
        mark.write_text(digest)
    return python


def run(
    peer: str,
    python: Path,
    data: Path,
    out: Path,
    *,
    minutes: float,
    seed: int,
    threads: int,
    iterations: int | None = None,
) -> Json:
    """Run the training program of a peer, unless `out` already has its result; return `run.json`.

    Parameters
    ----------
    peer : str
        Name of the peer.
    python : Path
        Its interpreter.
    data, out : Path
        Folder with the images, and folder to write to (`shared/contract.py`).
    minutes : float
        Time of its training steps (min).
    seed : int
        Seed.
    threads : int
        Number of cores that all its processes share.
    iterations : int, optional
        Number of training steps, instead of as many as fit into the minutes.

    Returns
    -------
    dict
        Content of `run.json`, with the largest memory of all processes together (`peak_memory_mb`), the time
        on all cores and the wall time (s), what was `asked`, and the version of `bordure`.

    Raises
    ------
    InputError
        If the program fails; the message names its log. If `out` has the result of another program, or of
        other settings.
    """
    described = out / "run.json"
    asked = {"threads": threads, "iterations": iterations, "program": _digest(peer)}
    if described.exists() and "peak_memory_mb" in (found := read_json(described)):
        before = found.get("asked", {})
        differ = [key for key in ("threads", "program") if before.get(key) != asked[key]]
        if iterations not in (None, before.get("iterations"), found["iterations"]):
            differ.append("iterations")
        if differ:
            raise InputError(
                f"{out}: was made with other {' and '.join(differ)}. Delete the folder to train again, or "
                "name another one by `--work`."
            )
        return found
    shutil.rmtree(out, ignore_errors=True)  # of a run that was stopped
    out.mkdir(parents=True)
    cores = sorted(os.sched_getaffinity(0))[:threads]
    if len(cores) < threads:
        raise InputError(f"--threads {threads}: this process may use {len(cores)} cores only. Lower it.")
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    environment["PYTHONPATH"] = str(FOLDER / "shared")
    command = [python, FOLDER / peer / "train.py", data, out, "--minutes", minutes, "--seed", seed]
    command += ["--threads", threads, *(("--iterations", iterations) if iterations else ())]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with (
        open(out / "log.txt", "w", encoding="utf-8") as log,
        subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, cores)), *map(str, command)],
            env=environment,
            cwd=out,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        memory = Memory(process.pid)
        process.wait()
        peak = memory.stop()
    if process.returncode or not described.exists():
        raise InputError(f"{peer}: ended with status {process.returncode}. Read {out / 'log.txt'}.")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = read_json(described) | {
        "asked": asked,
        "bordure": provenance.version(),
        "peak_memory_mb": round(peak / 1e6),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": time.monotonic() - start,
    }
    write_json(described, found)
    return found


def _digest(peer: str) -> str:
    """Return the SHA-256 of the files that decide what a training program does."""
    programs = [*sorted((FOLDER / "shared").glob("*.py")), FOLDER / peer / "train.py"]
    requirements = FOLDER / peer / "requirements.txt"
    content = [path.read_bytes() for path in (*programs, requirements) if path.exists()]
    return hashlib.sha256(b"\0".join(content)).hexdigest()


class Memory:
    """Measure the memory of a process with its children, in a thread; shared pages count once (PSS).

    Parameters
    ----------
    pid : int
        Number of the process.
    """

    def __init__(self, pid: int) -> None:
        self._process, self._peak = psutil.Process(pid), 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._measure, daemon=True)
        self._thread.start()

    def _measure(self) -> None:
        while not self._ended.wait(_INTERVAL):
            total = 0
            try:
                for process in (self._process, *self._process.children(recursive=True)):
                    total += process.memory_full_info().pss
            except psutil.Error:  # a process ended in between
                continue
            self._peak = max(self._peak, total)

    def stop(self) -> int:
        """Stop measuring, and return the largest memory (bytes)."""
        self._ended.set()
        self._thread.join()
        return self._peak
