"""Inject faults for real, see what becomes of them: `python -m tests.soak [PARTS]`, or `make soak`."""

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

CODE = (  # what the soak runs
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
VERSION = "BORDURE_SOAK_VERSION"  # environment variable: of the code that was copied
HERE = "--here"  # the copy is running, in a mount namespace of its own where the machine allows it


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
    told = "; ".join(f"{name} ({part.__doc__})" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PARTS", help=f"all, or some of: {told}")
    parser.add_argument("--kills", type=int, default=100, help="how often kill -9 strikes (100)")
    parser.add_argument("--rounds", type=int, default=1, help="how often each other fault is injected (1)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments and positions (0)")
    parser.add_argument("--results", type=Path, help="the JSON file for the figures (tests/soak/results/)")
    parser.add_argument(HERE, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := {*options.parts} - {*PARTS}:
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return options


def _run_on_a_copy(folder: Path, options: argparse.Namespace) -> int:
    """Run this on a copy of the code, so that an edit meanwhile disturbs nothing.

    And in a mount namespace, in which a small disk can be mounted without touching the machine's.
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
    """Nothing that runs in `folder` outlives the soak, however that ends."""
    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            process.kill()


def _inject(options: argparse.Namespace) -> int:
    """Inject the faults of each part, and keep the figures as they come."""
    rows, kept = [], read_json(options.results) if options.results.exists() else {}
    options.results.parent.mkdir(exist_ok=True)
    for name in options.parts or PARTS:
        command = f"python -m tests.soak {name} --seed {options.seed} --rounds {options.rounds}"
        print(command, file=sys.stderr)
        start, found = time.monotonic(), []
        folder = Path(tempfile.mkdtemp(prefix=name))
        for row in _rows(name, folder, options):
            print_row(row)
            found.append(row)
            kept[name] = {
                "bordure": os.environ[VERSION],
                "machine": harness.machine(),
                "command": f"{command} --kills {options.kills}" if name in ("kills", "demo") else command,
                "seconds": round(time.monotonic() - start),
                "rows": [row.as_dict() for row in found],
            }
            write_json(options.results, kept)
        rows += found
    print(f"\n{sum(row.holds for row in rows)} of {len(rows)} hold; kept in {options.results}")
    return 0 if all(row.holds for row in rows) else 1


def _rows(name: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of a part; one that breaks off is told, and the parts after it still run."""
    try:
        yield from PARTS[name](folder, options, random.Random(options.seed))
    except Exception:
        yield Row(f"the part {name} broke off", 0, 0, wrong=[traceback.format_exc()])


Part = Callable[[Path, argparse.Namespace, random.Random], Iterator[Row]]


def _kills(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """kill -9 of a stage, of Snakemake, of all at once"""
    projects = [drawn(folder / "drawn"), shared(folder / "shared")]
    yield kills.soak([(project, Reference.of(project)) for project in projects], options.kills, rng)


def _demo(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """the training of the real demo, killed again and again, a tenth as often"""
    project = demo(folder)
    yield kills.of_training(project, Reference.of(project), max(options.kills // 10, 1), rng)


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
    small = disk.Disk(folder / "everything")  # Snakemake's own notes, too
    project = drawn(folder / "everything")
    reference = Reference.of(project)
    yield disk.full_under_each_job(small, project, reference, rng, "Snakemake's notes on it, too")
    yield disk.full_from_the_start(small, project, reference)


def _damage(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """files changed, cut short, exchanged, removed"""
    small, large = drawn(folder / "drawn"), shared(folder / "shared")
    snapshots = (
        damage.Snapshot(small, folder / "kept-drawn"),
        damage.Snapshot(large, folder / "kept-shared", only="large"),
    )
    for snapshot in snapshots:
        yield from damage.soak(snapshot, options.rounds, rng)
    snapshots[1].lay_back()
    part = large.results / "segmentation/unet/parts/large/1.h5"
    yield damage.of_hdf5_unhashed(part, layout.LABELS, 600 * options.rounds, rng)
    yield damage.of_what_nothing_is_made_of(snapshots[0], rng)
    yield damage.of_a_training_under_way(small, snapshots[0].reference, options.rounds, rng)


def _twice(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """two runs at once"""
    project = drawn(folder)
    yield from twice.soak(project, Reference.of(project), drawn(folder, "other"))


def _locks(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """a file system without locks"""
    project = shared(folder)
    yield from locks.soak(project, Reference.of(project))


def _threads(folder: Path, options: argparse.Namespace, rng: random.Random) -> Iterator[Row]:
    """the demo on other numbers of threads"""
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
