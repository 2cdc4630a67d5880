"""Train bordure and other packages for the same time, score all, and write the table of the documentation.

    python -m benchmarks.peers --data-dir PATH --minutes 10 60 --threads 2 --seeds 0 1 2 --test

docs/measurements/peers.md explains it. A run that was stopped continues with the same command.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks import harness
from benchmarks.__main__ import slug
from benchmarks.peers import running, table
from benchmarks.peers.data import DATA_SETS, export
from benchmarks.peers.scoring import score
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.runtime.types import Json

#: Data set, peer, minutes and seed: what distinguishes a training from the others.
Key = tuple[str, str, float, int]


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status, 1 if a peer failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with isbi2012/ and nuclei/")
    parser.add_argument(
        "--work", type=Path, default=Path("benchmarks/.cache/peers"), help="folder to work in"
    )
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60], help="training times")
    parser.add_argument("--threads", type=int, default=2, help="cores of each training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peers", nargs="+", choices=running.PEERS, default=[*running.PEERS])
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=[*DATA_SETS])
    parser.add_argument(
        "--times-of",
        type=float,
        metavar="MINUTES",
        help="take the time of a step from the runs of this training time, here or in the stored results, so "
        "that other work on this machine does not change longer ones",
    )
    parser.add_argument(
        "--test",
        action="store_true",
        help="score the held-out images, and write the results into the repository, where those of other "
        "runs stay. Without it, only the validation images are scored, and printed.",
    )
    given = parser.parse_args(arguments)
    work = given.work.resolve()
    machine = harness.machine()
    results = harness.RESULTS / f"peers-{slug(machine)}.json"
    stored = {key_of(row): row for row in (read_json(results)["rows"] if results.exists() else ())}
    for name in given.data:
        source, folder = work / name / "source.txt", str(given.data_dir.resolve())
        if not (work / name / "truth/volumes.json").exists():
            export(DATA_SETS[name], given.data_dir, work / name / "images", work / name / "truth")
            source.write_text(folder, encoding="utf-8")
        elif source.exists() and source.read_text(encoding="utf-8") != folder:
            parser.error(
                f"{work / name} has the images of {source.read_text(encoding='utf-8')}, not of {folder}. "
                "Name another folder by --work."
            )
    done, failed = [], []
    trainings = itertools.product(sorted(given.minutes), given.seeds, given.data, given.peers)
    for minutes, seed, name, peer in trainings:
        if name not in running.PEERS[peer]:
            continue
        runs = work / name / "runs"
        out = runs / f"{peer}-{minutes:g}min-seed{seed}"
        print(f"{out.name}, {name} ... ", end="", file=sys.stderr, flush=True)
        try:
            iterations = None
            if given.times_of and (minutes != given.times_of or (name, peer, minutes, seed) in stored):
                known = iterations_of((name, peer, given.times_of, seed), runs, stored)
                iterations = round(known * minutes / given.times_of)
            found = running.run(
                peer,
                running.python_of(peer, work / "environments"),
                work / name / "images",
                out,
                minutes=minutes,
                seed=seed,
                threads=given.threads,
                iterations=iterations,
            )
        except InputError as error:
            failed.append(str(error))
            print("failed", file=sys.stderr)
            continue
        print(f"{found['wall_seconds']:.0f} s", file=sys.stderr)
        key: Json = {"data": name, "peer": peer, "minutes": minutes, "seed": seed}
        done.append((key | {"threads": given.threads}, found, out))
    # all are scored at the end, so that nothing can be chosen by a score of the test split
    splits = ("validation", "test") if given.test else ("validation",)
    rows = []
    for key, found, out in done:
        name = key["data"]
        scores = score(DATA_SETS[name], work / name / "truth", out, splits)
        rows.append(key | found | {"scores": scores})
    if rows and given.test:
        rows = [*(stored | {key_of(row): row for row in rows}).values()]
        write_json(results, {"machine": machine, "rows": rows})
        table.write(rows, table.PAGE)
        print(f"stored in {results} and {table.PAGE}")
    elif rows:
        print(table.markdown(rows, "validation"))
    for message in failed:
        print(f"error: {message}", file=sys.stderr)
    return 1 if failed else 0


def iterations_of(key: Key, runs: Path, stored: Mapping[Key, Json]) -> int:
    """Return the iterations of a training in the folder `runs` or, if it is not there, in the stored results.

    Raises
    ------
    InputError
        If there is no such training.
    """
    data, peer, minutes, seed = key
    path = runs / f"{peer}-{minutes:g}min-seed{seed}/run.json"
    if path.exists():
        return read_json(path)["iterations"]
    if key not in stored:
        raise InputError(
            f"--times-of {minutes:g}: found no training of {peer} on {data} with seed {seed}, neither {path} "
            f"nor in {harness.RESULTS}. Train it first: --minutes {minutes:g}."
        )
    return stored[key]["iterations"]


def key_of(row: Json) -> Key:
    """Return the key of a row of the results."""
    return row["data"], row["peer"], row["minutes"], row["seed"]


if __name__ == "__main__":
    sys.exit(main())
