"""A small project in its own folder, its runs, and checks of the files that they write."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import psutil
import tifffile
import yaml
from PIL import Image

from pipeline_lib.stages.synthesis import draw_volume

ROOT = Path(__file__).parents[2]
# Names of files and folders that are not compared: those that contain times, and the checkpoint of a
# training, which is deleted at the end of a run, but not if the run had nothing to do.
VARYING = {"logs", "benchmarks", ".provenance", "provenance.html", ".lock", "model.checkpoint.pt"}
PATIENCE = 600  # s, after which a run or an orphan is regarded as hanging

DRAWN = {
    "volumes": "volumes.tsv",
    "drawing": {"sections": 5, "size": 128, "cell_diameter": 24},
    "network": {"depth": 1, "base_channels": 4},
    "training": {
        "tile": 80,
        "iterations": 400,
        "validation_interval": 20,
        "optimizer": "adam",
        "device": "cpu",
    },
    "prediction": {"device": "cpu"},
    "report": {"title": "Soak", "volumes": 3},
}
ROWS = """volume\timages\tannotation\tsections\tsplit
learn\timages.tif\tlabels.tif\t0-1\ttrain
choose\timages.tif\tlabels.tif\t2\tvalidation
score\timages.tif\tlabels.tif\t3\ttest
"""
SHARED = {key: value for key, value in DRAWN.items() if key != "drawing"} | {
    "data_dir": ".",
    "jobs_per_volume": 2,
    "block": 512,
}


@dataclass(frozen=True)
class Answer:
    """Result of a run: exit status, text of stdout and stderr, and duration in seconds."""

    status: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Job:
    """One job of a run: its log, relative to the folder of logs, and its duration in seconds."""

    log: str
    seconds: float

    @property
    def name(self) -> str:
        """Name of the log without slashes and suffix, such as `train_unet`."""
        return self.log.removesuffix(".log").replace("/", "_")


class Project:
    """A config and its table in `folder`, with the results folder `results` inside it.

    Runs make everything, or only `targets`.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        rows: str,
        results: str = "results",
        targets: tuple[str, ...] = (),
    ) -> None:
        self.targets = targets
        self.folder, self.results, self.config = folder, folder / results, {**config, "results": results}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "volumes.tsv").write_text(rows)
        self.configfile = folder / f"{results.replace('/', '-')}.yaml"
        self.configfile.write_text(yaml.safe_dump(self.config))

    def command(self, *arguments: str) -> list[str]:
        """Return the command that a user types, with explicit Snakefile and folder."""
        program = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        where = ["--directory", str(self.folder), "--configfile", str(self.configfile)]
        targets = ["--", *self.targets] if self.targets else []
        return [*program, *where, "--cores", "2", *arguments, *targets]

    def start(self, *arguments: str, before: Callable[[], None] | None = None) -> Run:
        """Start a run. `before` is called in its process first and affects all processes that it starts."""
        return Run(self, self.command(*arguments), before)

    def run(self, *arguments: str) -> Answer:
        return self.start(*arguments).wait()

    def clear(self) -> None:
        """Delete all results and all metadata of Snakemake."""
        for path in (*self.results.glob("*"), self.results / ".lock", self.folder / ".snakemake"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def jobs(self) -> list[Job]:
        """Return the jobs of a finished run, ordered by the last change of their logs."""
        logs = sorted((self.results / "logs").rglob("*.log"), key=lambda path: path.stat().st_mtime)
        names = [str(path.relative_to(self.results / "logs")) for path in logs]
        return [Job(name, self._seconds(name)) for name in names]

    def _seconds(self, log: str) -> float:
        table = pd.read_csv((self.results / "benchmarks" / log).with_suffix(".tsv"), sep="\t")
        return float(table["s"].iloc[0])

    def files(self) -> dict[str, Path]:
        """Return all files of the results that are compared, by path relative to the results folder."""
        found = (path for path in self.results.rglob("*") if path.is_file())
        named = {str(path.relative_to(self.results)): path for path in found}
        return {name: path for name, path in sorted(named.items()) if not {*Path(name).parts} & VARYING}

    def digests(self) -> dict[str, str]:
        return {name: digest(path) for name, path in self.files().items()}

    def name_of(self, name: str) -> str:
        """Return the path of a file of the results as Snakemake names it."""
        return str((self.results / name).relative_to(self.folder))

    def incomplete(self) -> set[str]:
        """Return the outputs that Snakemake has marked as unfinished and will make again."""
        names = (path.name for path in (self.folder / ".snakemake/incomplete").rglob("*") if path.is_file())
        paths = (self.folder / base64.b64decode(name).decode() for name in names)
        return {str(path.relative_to(self.results)) for path in paths if self.results in path.parents}

    def left_over(self) -> list[str]:
        """List what must not remain after a run: temporary files, and marks of unfinished jobs."""
        temporary = [str(path) for path in self.results.rglob(".*.partial-*")]
        return [*temporary, *(f"unfinished: {name}" for name in sorted(self.incomplete()))]

    def log(self, name: str) -> str:
        path = self.results / "logs" / name
        return path.read_text(errors="replace") if path.exists() else ""


class Run:
    """A running Snakemake process, the leader of its own process group."""

    def __init__(self, project: Project, command: list[str], before: Callable[[], None] | None) -> None:
        def prepare() -> None:
            for number in (signal.SIGINT, signal.SIGHUP):  # `nohup` and `&` ignore them
                signal.signal(number, signal.SIG_DFL)
            if before:
                before()

        self.project, self.begin = project, time.monotonic()
        # not in the folder of the project, which may be on a full disk
        self.output_file = project.folder.parent / f"output-{time.time_ns()}"
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=project.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=prepare,
            )

    def family(self) -> list[psutil.Process]:
        """Return Snakemake and all its child processes."""
        try:
            snakemake = psutil.Process(self.process.pid)
            return [snakemake, *snakemake.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stages(self) -> dict[str, psutil.Process]:
        """Return the running processes of stages, by log relative to the folder of logs."""
        logs = str(self.project.results / "logs") + "/"
        found = {}
        for process in self.family()[1:]:
            with suppress(psutil.Error):
                names = (file.path for file in process.open_files())
                found |= {name.removeprefix(logs): process for name in names if name.startswith(logs)}
        return found

    def await_stage(self, wanted: Collection[str]) -> tuple[str, psutil.Process] | None:
        """Wait for a job whose log is one of `wanted`; return log and process, or None if the run ends."""
        while self.process.poll() is None:
            for log, process in self.stages().items():
                if log in wanted:
                    return log, process
            time.sleep(0.01)
        return None

    def wait(self) -> Answer:
        """Wait until the run ends, and return its result. A run that hangs is killed and has status None."""
        try:
            status = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            for process in self.family():
                process.kill()
            status = self.process.wait() and None
        output = self.output_file.read_text(errors="replace")
        self.output_file.unlink()
        return Answer(status, output, time.monotonic() - self.begin)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wait_until_ended(processes: list[psutil.Process]) -> float:
    """Wait until all `processes` have ended; return the seconds, infinite if one does not end."""
    begin = time.monotonic()
    _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    return float("inf") if alive else time.monotonic() - begin


def _read_hdf5(path: Path) -> None:
    def read(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            item[:]

    with h5py.File(path, "r", locking=False) as file:
        file.visititems(read)


def _read_png(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def _read_model(path: Path) -> None:
    import torch

    torch.load(path, map_location="cpu", weights_only=True)


def _read_page(path: Path) -> None:
    if not path.read_text().rstrip().endswith("</html>"):
        raise ValueError("the page has no end")


READERS: dict[str, Callable[[Path], Any]] = {
    ".h5": _read_hdf5,
    ".tif": tifffile.imread,
    ".png": _read_png,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": pd.read_csv,
    ".pt": _read_model,
    ".html": _read_page,
}


def is_complete(path: Path) -> bool:
    """Return whether the whole file can be read with a reader of its format."""
    try:
        READERS[path.suffix](path)
    except Exception:
        return False
    return True


@dataclass(frozen=True)
class Reference:
    """The files and jobs of an undisturbed run."""

    digests: dict[str, str]
    jobs: list[Job]
    seconds: float

    @classmethod
    def of(cls, project: Project, *arguments: str) -> Reference:
        answer = project.run(*arguments)
        if answer.status != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{answer.output}")
        return cls(project.digests(), project.jobs(), answer.seconds)

    def differences(self, project: Project) -> list[str]:
        """List files that are missing, different or unexpected in a run that should equal this one."""
        files = project.files()
        wrong = sorted([*self.unlike(files), *(self.digests.keys() - files.keys())])
        return [*wrong, *project.left_over()]

    def unlike(self, files: Mapping[str, Path]) -> list[str]:
        """Return the names of the `files` that differ from those of the undisturbed run."""
        return [name for name, path in files.items() if digest(path) != self.digests.get(name)]


def drawn(folder: Path, results: str = "results", targets: tuple[str, ...] = (), **training: Any) -> Project:
    """Return a small project with drawn volumes. It uses all rules except those for shared volumes."""
    config = DRAWN | {"training": DRAWN["training"] | training}
    return Project(folder, config, ROWS + "new\timages.tif\t\t4\tpredict\n", results, targets)


def shared(folder: Path, results: str = "results") -> Project:
    """Return a small project with a volume that two jobs share, and with images in TIFF and HDF5 files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawing = {"sections": 4, "size": 128, "cell_diameter": 24, "seed": 0}
    draw_volume(folder / "images.tif", folder / "labels.tif", membrane_width=(2.5, 6), noise=0.06, **drawing)
    large = np.tile(tifffile.imread(folder / "images.tif")[3], (17, 17))
    with h5py.File(folder / "large.h5", "w") as file:
        file.create_dataset("raw", data=large, chunks=(256, 256))
    return Project(folder, SHARED, ROWS + "large\tlarge.h5:/raw\t\t\tpredict\n", results)


def demo(folder: Path, **training: Any) -> Project:
    """Return the project of `make demo`, with the given settings of training."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    changed = {"volumes": "volumes.tsv", "training": config["training"] | training}
    return Project(folder, config | changed, (ROOT / config["volumes"]).read_text())
