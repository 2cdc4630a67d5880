"""Change, truncate, exchange or remove files between two stages."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline_lib import layout
from pipeline_lib.runtime.errors import InputError
from tests.soak.project import ROOT, Answer, Project, Reference
from tests.soak.rows import Row

KEEP = "--notemp"  # so that temporary files can be damaged, too
REMEDY = re.compile(r"type `(rm -f [^`]+)` and run the same command with ` (-- [^`]+)` at its end")


def flip_a_bit(path: Path, rng: random.Random) -> str:
    """Flip one bit at a random position."""
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"byte {place} of {len(content)}"


def cut_short(path: Path, rng: random.Random) -> str:
    """Truncate the file at a random position."""
    size = rng.randrange(path.stat().st_size)
    os.truncate(path, size)
    return f"cut after {size} bytes"


def exchange(path: Path, _: random.Random) -> str:
    """Replace the file by another one of the same kind, or reverse its bytes if there is none."""
    others = sorted(other for other in path.parent.glob(f"*{path.suffix}") if other != path)
    if not others:
        path.write_bytes(path.read_bytes()[::-1])
        return "its bytes in reverse order"
    shutil.copyfile(others[0], path)
    return f"a copy of {others[0].name}"


def remove(path: Path, _: random.Random) -> str:
    path.unlink()
    return "removed"


DAMAGES: tuple[Callable[[Path, random.Random], str], ...] = (flip_a_bit, cut_short, exchange, remove)


class Snapshot:
    """Copy of a finished run, to restore before each damage; files with `only` in their names are damaged."""

    def __init__(self, project: Project, folder: Path, only: str = "") -> None:
        self.project, self.reference = project, Reference.of(project, KEEP)
        metadata = project.folder / ".snakemake"
        self.pairs = [(project.results, folder / "results"), (metadata, folder / "metadata")]
        for here, kept in self.pairs:
            shutil.copytree(here, kept, symlinks=True)
        self.names = {project.name_of(name): name for name in self.reference.digests}
        self.made_of = self._made_of(only)

    def _made_of(self, only: str) -> dict[str, list[str]]:
        """Return for each compared file the compared files made directly from it, according to records."""
        found: dict[str, list[str]] = {}
        for record in map(json.loads, map(Path.read_text, self.project.results.rglob(".provenance/*.json"))):
            for source in {*record["inputs"], *record.get("records", {})} & self.names.keys():
                if record["file"] in self.names and only in source:
                    found.setdefault(source, []).append(record["file"])
        return {source: sorted(files) for source, files in sorted(found.items())}

    def restore(self) -> None:
        self.project.clear()
        for here, kept in self.pairs:
            shutil.copytree(kept, here, symlinks=True, dirs_exist_ok=True)

    def run(self, *targets: str) -> Answer:
        return self.project.run(KEEP, "--", *targets)


def kinds(made_of: dict[str, list[str]], rng: random.Random) -> Iterator[str]:
    """Yield one random input file of each kind, that is folder and end of name."""
    groups: dict[tuple, list[str]] = {}
    for name in made_of:
        path = Path(name)
        groups.setdefault((path.parent, path.suffix, path.stem.partition("_")[2]), []).append(name)
    yield from (rng.choice(names) for names in groups.values())


def soak(snapshot: Snapshot, rounds: int, rng: random.Random) -> Iterator[Row]:
    """Apply each kind of damage to a file of each kind, then make the files that depend on it again."""
    for damage in DAMAGES:
        wrong, done, idle = [], [], []
        for _ in range(rounds):
            for name in kinds(snapshot.made_of, rng):
                done.append(name)
                wrong += _one(snapshot, damage, name, rng, idle)
        figures = {"without effect, for nobody reads it there": ", ".join(idle) or "none"}
        figures["files"] = ", ".join(dict.fromkeys(done))
        yield Row(damage.__name__.replace("_", " "), len(done), len(done) - len(wrong), figures, wrong)


def flip_bits_of_final_files(snapshot: Snapshot, rng: random.Random) -> Row:
    """Flip one bit in each file that no stage reads; `bordure provenance` must report it."""
    project, wrong = snapshot.project, []
    snapshot.restore()
    last = sorted(snapshot.names.keys() - snapshot.made_of.keys())
    for name in last:
        what = flip_a_bit(project.folder / name, rng)
        command = [sys.executable, "-m", "pipeline_lib.cli", "provenance", str(project.folder / name)]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if answer.returncode != 1 or "CHANGED" not in answer.stdout:
            wrong.append(f"{name}: {what}: {answer.stdout}{answer.stderr}")
    return Row(
        "flip a bit of what nothing is made of",
        len(last),
        len(last) - len(wrong),
        {"files": ", ".join(map(str, last))},
        wrong,
    )


def flip_bits_of_hdf5_unhashed(path: Path, array: layout.Array, times: int, rng: random.Random) -> Row:
    """Flip one bit of an HDF5 file and read it without checking its SHA-256: an error or equal numbers."""
    kept, right, wrong, detected = path.read_bytes(), _numbers(path, array), [], 0
    for _ in range(times):
        what = flip_a_bit(path, rng)
        try:
            if _numbers(path, array) != right:
                wrong.append(f"{path.name}: {what}: read as other numbers")
        except (InputError, OSError, RuntimeError, ValueError, KeyError):
            detected += 1
        path.write_bytes(kept)
    figures = {"met": detected, "without effect": times - detected - len(wrong)}
    return Row("flip a bit of an HDF5 file, unhashed", times, times - len(wrong), figures, wrong)


def _numbers(path: Path, array: layout.Array) -> bytes:
    with layout.require(path, array) as file:
        return hashlib.sha256(file[array.name][:].tobytes()).digest()


def damage_training_state(project: Project, reference: Reference, rounds: int, rng: random.Random) -> Row:
    """Damage the checkpoint of a killed training. The state may be lost, but must not change the result."""
    wrong, done = [], []
    checkpoint = project.results / "models/unet/model.checkpoint.pt"
    for damage in (flip_a_bit, cut_short, remove) * rounds:
        project.clear()
        run = project.start()
        _, training = run.await_stage({"train/unet.log"})
        while not checkpoint.exists() and training.is_running():
            time.sleep(0.01)
        training.kill()
        run.wait()
        what = f"the state of a training: {damage(checkpoint, rng)}"
        done.append(damage.__name__.replace("_", " "))
        answer = project.run()
        if answer.status != 0 or reference.differences(project):
            wrong.append(f"{what}: {reference.differences(project)}\n{answer.output[-1500:]}")
    return Row(
        "the state of a killed training damaged",
        len(done),
        len(done) - len(wrong),
        {"how": ", ".join(done)},
        wrong,
    )


def _one(snapshot: Snapshot, damage: Callable, name: str, rng: random.Random, idle: list[str]) -> list[str]:
    """Damage the file, run, follow the instructions of the message, run again; return at most one problem.

    Damage that changes no result is added to `idle`, since jobs that read only a part of a file do not hash
    it.
    """
    snapshot.restore()
    project, path = snapshot.project, snapshot.project.folder / name
    targets = snapshot.made_of[name]
    for target in targets:
        (project.folder / target).unlink(missing_ok=True)
    before = path.stat()
    what = f"{name}: {damage(path, rng)}"
    print(what, file=sys.stderr)
    if path.exists():
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    answer = snapshot.run(*targets)
    if damage is remove:
        return _ended_well(snapshot, what, answer, targets)
    if answer.status == 0:
        difference = _difference(snapshot, targets)
        idle += [] if difference else [what]
        return [f"{what}: NOT DETECTED, {difference}"] if difference else []
    remedy = REMEDY.search(answer.output)
    if name not in answer.output or not remedy or "Traceback" in answer.output:
        return [f"{what}: detected, but the message is\n{answer.output[-1500:]}"]
    command, end = remedy.groups()
    for removed in command.removeprefix("rm -f ").split():
        (project.folder / removed).unlink(missing_ok=True)
    again = snapshot.run(*end.removeprefix("-- ").split())
    if again.status != 0:
        return [f"{what}: the instructions of the message do not help:\n{again.output[-1500:]}"]
    return _ended_well(snapshot, what, snapshot.run(*targets), targets)


def _ended_well(snapshot: Snapshot, what: str, answer: Answer, targets: list[str]) -> list[str]:
    if answer.status != 0:
        return [f"{what}: the run failed:\n{answer.output[-1500:]}"]
    difference = _difference(snapshot, targets)
    return [f"{what}: {difference}"] if difference else []


def _difference(snapshot: Snapshot, targets: list[str]) -> str:
    """Name the `targets` that differ from those of the undisturbed run; empty if none does."""
    files = {snapshot.names[target]: snapshot.project.folder / target for target in targets}
    missing = [name for name, path in files.items() if not path.exists()]
    unlike = missing or snapshot.reference.unlike(files)
    return f"another result: {', '.join(unlike)}" if unlike else ""
