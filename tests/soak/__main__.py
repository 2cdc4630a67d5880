"""Inject real faults into running workflows and check the outcome: `python -m tests.soak [PARTS]`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks import harness
from benchmarks.__main__ import slug
from pipeline_lib import layout, provenance
from pipeline_lib.runtime.files import read_json, write_json
from tests.soak import damage, disk, kills, locks, signals, threads, twice
from tests.soak.project import ROOT, Reference, demo, drawn, shared
from tests.soak.rows import Row, print_row

CODE = (  # copied, so that edits during the test have no effect
    "Snakefile",
    "environment.yml",
    "workflow",
    "pipeline_lib",
    "profiles",
    "config",
    "tests",
    "benchmarks",
)
RESULTS = Path(__file__).parent / "results"
VERSION = "BORDURE_SOAK_VERSION"  # environment variable: version of the copied code
HERE = "--here"  # this process runs the copy, in its own mount namespace if the machine allows it


def main() -> int:
    options = _options()
    if options.here:
        return _inject(options)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        try:
            return _run_on_a_copy(Path(folder), options)
        finally:
            _end_all_of(folder)


def _options() -> argparse.Namespace:
    parts = "; ".join(f"{name} ({part.__doc__})" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PARTS", help=f"parts to run, default all: {parts}")
    parser.add_argument("--kills", type=int, default=100, help="how often kill -9 is sent (100)")
    parser.add_argument("--rounds", type=int, default=1, help="how often other faults are injected (1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of random choices (0)")
    parser.add_argument("--results", type=Path, help="JSON file for the figures (in tests/soak/results/)")
    parser.add_argument(HERE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}")
    return options


def _run_on_a_copy(folder: Path, options: argparse.Namespace) -> int:
    """Run this program on a copy of the code, so that edits during the test have no effect.

    It runs in a mount namespace, in which a small disk can be mounted without effect on the rest of the
    machine.
    """
    code = folder / "code"
    code.mkdir()
    for name in CODE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, code / name)
    results = options.results or RESULTS / f"{slug(harness.machine())}.json"
    command = [*disk.namespace(), sys.executable, "-m", "tests.soak", HERE, *sys.argv[1:]]
    command += ["--results", str(results.absolute())]
    environment = os.environ | {"TMPDIR": str(folder), VERSION: provenance.version()}
    return subprocess.run(command, cwd=code, env=environment, check=False).returncode


def _end_all_of(folder: str) -> None:
    """Kill all processes that use `folder`, so that none outlives the test."""
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            process.kill()


def _inject(options: argparse.Namespace) -> int:
    """Inject the faults of each part, and store the figures after each row."""
    rows, stored = [], read_json(options.results) if options.results.exists() else {}
    options.results.parent.mkdir(exist_ok=True)
    for name in options.parts or PARTS:
        command = f"python -m tests.soak {name} --seed {options.seed} --rounds {options.rounds}"
        print(command, file=sys.stderr)
        start, found = time.monotonic(), []
        folder = Path(tempfile.mkdtemp(prefix=name))
        for row in _rows(name, folder, options):
            print_row(row)
            found.append(row)
            stored[name] = {
                "bordure": os.environ[VERSION],
                "machine": harness.machine(),
                "command": f"{command} --kills {options.kills}" if name in ("kills", "demo") else command,
                "seconds": round(time.monotonic() - start),
                "rows": [row.as_dict() for row in found],
            }
            write_json(options.results, stored)
        rows += found
    print(f"\n{sum(row.holds for row in rows)} of {len(rows)} passed; stored in {options.results}")
    return 0 if all(row.holds for row in rows) else 1


def _rows(name: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows of a part. If it raises an exception, that is reported as a row, and later parts run."""
    try:
        yield from PARTS[name](folder, options, random.Random(options.seed))
    except Exception:
        yield Row(f"part {name} raised an exception", 0, 0, wrong=[traceback.format_exc()])


Part = Callable[[Path, argparse.Namespace, random.Random], Iterator[Row]]


def _kills(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """kill -9 of a stage, of Snakemake, of both together"""
    projects = [drawn(folder / "drawn"), shared(folder / "shared")]
    yield kills.soak([(project, Reference.of(project)) for project in projects], options.kills, rng)


def _demo(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """training of the demo, killed repeatedly, a tenth of the times"""
    project = demo(folder)
    yield kills.kill_training(project, Reference.of(project), max(options.kills // 10, 1), rng)


def _signals(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """SIGTERM, Ctrl-C, a closed terminal"""
    project = drawn(folder)
    yield from signals.soak(project, Reference.of(project), options.rounds, rng)


def _disk(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """a full disk, read-only folders"""
    project = drawn(folder / "limit")
    yield disk.files_too_large(project, Reference.of(project))
    if reason := disk.possible(folder):
        yield Row("disk full, read-only folders", 0, 0, left_out=reason)
        return
    for name, make in {"drawn": drawn, "shared": shared}.items():
        small = disk.Disk(folder / name / "disk")
        project = make(folder / name, "disk/results")
        reference = Reference.of(project)
        for _ in range(options.rounds):
            yield disk.full_under_each_job(small, project, reference, rng, f"{name} volumes")
        yield disk.read_only_folders(project, reference)
    small = disk.Disk(folder / "everything")  # the disk also contains Snakemake's metadata
    project = drawn(folder / "everything")
    reference = Reference.of(project)
    yield disk.full_under_each_job(small, project, reference, rng, "Snakemake's notes on it, too")
    yield disk.full_from_the_start(small, project, reference)


def _damage(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """files changed, truncated, exchanged, removed"""
    small, large = drawn(folder / "drawn"), shared(folder / "shared")
    snapshots = (
        damage.Snapshot(small, folder / "kept-drawn"),
        damage.Snapshot(large, folder / "kept-shared", only="large"),
    )
    for snapshot in snapshots:
        yield from damage.soak(snapshot, options.rounds, rng)
    snapshots[1].restore()
    part = large.results / "segmentation/unet/parts/large/1.h5"
    yield damage.flip_bits_of_hdf5_unhashed(part, layout.LABELS, 600 * options.rounds, rng)
    yield damage.flip_bits_of_final_files(snapshots[0], rng)
    yield damage.damage_training_state(small, snapshots[0].reference, options.rounds, rng)


def _twice(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """two runs at the same time"""
    project = drawn(folder)
    yield from twice.soak(project, Reference.of(project), drawn(folder, "other"))


def _locks(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """a file system without locks"""
    project = shared(folder)
    yield from locks.soak(project, Reference.of(project))


def _threads(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """the demo with other numbers of threads"""
    yield from threads.soak(lambda name, **training: demo(folder / name, **training))


PARTS: dict[str, Part] = {
    "kills": _kills,
    "demo": _demo,
    "signals": _signals,
    "disk": _disk,
    "damage": _damage,
    "twice": _twice,
    "locks": _locks,
    "threads": _threads,
}

if __name__ == "__main__":
    sys.exit(main())
