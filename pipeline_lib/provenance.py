"""Who made a file, from what, with which settings, and whether all of it is still there unchanged.

Every output has a record: inside, where its format has a place for it (HDF5, model, JSON, TIFF), what is the
same whenever the same is made again; beside it, in the hidden folder `.provenance`, that and what varies
(time, memory, threads), with the SHA-256 of the output itself, by which the next stage sees that it is whole.

`python -m pipeline_lib.provenance FILE` tells the way of FILE back to the raw images.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_lib import __version__
from pipeline_lib.errors import InputError
from pipeline_lib.files import read_json, sha256, write_json
from pipeline_lib.log import peak_memory

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ".provenance"
_OWN = ("file", "sha256", "bytes")  # of a record beside a file: what it says of that file alone
_VARYING = ("seconds", "peak_memory", "threads", "finished")  # and what differs from run to run
PACKAGES = ("h5py", "imagecodecs", "numba", "numpy", "pandas", "pillow", "scipy", "tifffile", "torch")


@cache
def version() -> str:
    """bordure's version, and in a checkout the git commit, `-dirty` where files were edited since.

    git says nothing of a checkout that belongs to another user, unless it is named to it as safe.
    """
    if not (ROOT / ".git").exists():
        return __version__
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", ROOT, "describe", "--always", "--dirty"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return f"{__version__} (commit unknown)"
    return f"{__version__} ({git.stdout.strip() if git.returncode == 0 else 'commit unknown'})"


@cache
def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a part of the library may be used without
    return found


@contextmanager
def making(
    stage: str,
    outputs: Sequence[str | Path],
    inputs: Iterable[str | Path],
    shared: Iterable[str | Path] = (),
    **settings: Any,
) -> Iterator[dict[str, Any]]:
    """Around all that `stage` does to make its `outputs`: yield the record that goes into them.

    The record holds what is the same whenever the same is made: stage, version, settings (the seed is one),
    the SHA-256 of each input, the versions of packages, and the device, which a stage that may use another
    than the CPU corrects. Of `shared` inputs, HDF5 files of which many jobs read a part each, it has only the
    SHA-256 of their own record: else each job would read all.

    In the end the record goes to `.provenance/NAME.json` beside each output, with the output's SHA-256, when
    and how long it was made (`seconds`, to which the stage may add those of an interrupted run), peak memory
    (bytes) and threads. Raises `InputError` for an input that is not what its own record says.
    """
    inputs, shared = list(map(Path, inputs)), list(map(Path, shared))
    for path in inputs:
        require_unchanged(path)
    unread = [*shared, *_parts_of(inputs)]
    for path in unread:
        _require_same_record(path)
    record: dict[str, Any] = {
        "stage": stage,
        "version": version(),
        "settings": settings,
        "inputs": {str(path): sha256(path) for path in inputs},
        "packages": _packages(),
        "device": "cpu",
    }
    if shared:
        record["records"] = {str(path): _sha256_of_record(path) for path in shared}
    for path in outputs:
        beside(path).unlink(missing_ok=True)  # it was of what is overwritten
    start = time.perf_counter()
    try:
        yield record
    except (OSError, RuntimeError, ValueError, KeyError):
        for path in unread:  # the likeliest cause, and not hashed before
            require_unchanged(path)
        raise
    varying = {
        "seconds": round(record.pop("seconds", 0.0) + time.perf_counter() - start, 3),
        "peak_memory": peak_memory(),
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    for path in outputs:
        own = {"file": str(path), "sha256": sha256(path), "bytes": Path(path).stat().st_size}
        write_json(beside(path), own | record | varying)


def beside(path: str | Path) -> Path:
    """Where the record of the output at `path` lies."""
    path = Path(path)
    return path.parent / FOLDER / f"{path.name}.json"


def of(path: str | Path) -> dict[str, Any] | None:
    """The record of the file at `path`: beside it or, where the file alone was handed on, inside it.

    None for a file that bordure did not make. Raises `InputError` for a record beside it that is damaged.
    """
    path = Path(path)
    if beside(path).exists():
        return _read_record(path)
    try:
        return _inside(path) if path.is_file() else None
    except Exception:  # from elsewhere, or damaged: readers raise what they like
        return None


def _read_record(path: Path) -> dict[str, Any]:
    """What lies beside the file at `path`; `InputError` where that is damaged."""
    try:
        record = read_json(beside(path))
        if isinstance(record, dict) and {"file", "sha256", "bytes", "stage", "version"} <= record.keys():
            return record
    except InputError:
        pass
    raise InputError(
        f"{beside(path)}: damaged, no record of {path} any more. Type `{_rm(beside(path))}`; the file itself "
        "then counts as it is."
    )


def _inside(path: Path) -> dict[str, Any] | None:
    """The record inside the file at `path`; its readers are imported where they are needed."""
    if path.suffix == ".h5":
        from pipeline_lib import layout

        with layout.require(path) as file:
            return layout.provenance(file)
    if path.suffix == ".pt":
        from pipeline_lib import modelfile

        return modelfile.describe(path)["provenance"]
    if path.suffix == ".json":
        content = read_json(path)
        return content.get("provenance") if isinstance(content, dict) else None
    if path.suffix in (".tif", ".tiff"):
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            return (tiff.shaped_metadata or ({},))[0].get("provenance")
    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            return json.loads(image.text["Description"]).get("provenance")
    return None


def _sha256_of_record(path: Path) -> str:
    from pipeline_lib import layout  # and with it h5py, which the report does without

    with layout.require(path) as file:
        return digest(layout.provenance(file))


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of what a record says that does not vary: of that beside a file as of that in it."""
    constant = {name: value for name, value in record.items() if name not in (*_OWN, *_VARYING)}
    return hashlib.sha256(json.dumps(constant).encode()).hexdigest()


def _parts_of(inputs: Iterable[Path]) -> list[Path]:
    from pipeline_lib import layout

    return [part for path in inputs if path.suffix == ".h5" for part in layout.sources(path)]


def require_unchanged(path: Path) -> None:
    """Raise `InputError` unless the file at `path` is what its record says; raw images have none."""
    if not path.exists():
        remedy = _again(path) if beside(path).exists() else "Check the path, or run the workflow to make it."
        raise InputError(f"{path}: no such file. {remedy}")
    if not beside(path).exists():
        return
    record = _read_record(path)
    if (found := sha256(path)) != record["sha256"]:
        raise InputError(
            f"{path}: not what {record['stage']} wrote (SHA-256 {found[:12]}..., expected "
            f"{record['sha256'][:12]}...): damaged or edited since. If it was edited on purpose, take its "
            f"record away: `{_rm(beside(path))}`. {_again(path)}"
        )


def _require_same_record(path: Path) -> None:
    """Raise `InputError` where the HDF5 file at `path`, which is not hashed, is another than it was."""
    if not beside(path).exists() or not path.exists():
        return
    expected = _read_record(path)
    try:
        found = _inside(path)
    except Exception:  # damaged
        found = None
    if (
        not found
        or path.stat().st_size != expected["bytes"]
        or found != {name: expected.get(name) for name in found}
    ):
        raise InputError(f"{path}: not what {expected['stage']} wrote, but another file. {_again(path)}")


def _rm(path: Path) -> str:
    return f"rm -f {shlex.quote(str(path))}"


def _again(path: Path) -> str:
    """How to make a file anew; one of another run, proof-read labels say, only that run can make."""
    if _read_record(path)["file"] != str(path):
        return "Else copy it again from where it was made."
    return (
        f"To make it anew and nothing else, type `{_rm(path)}` and run the same command with "
        f"` -- {shlex.quote(str(path))}` at its end; then run the same command again."
    )


@dataclass
class Link:
    """A file of a chain, as `chain` found it.

    `record` is its own (None for raw images), `state` what it is now: `unchanged`, `changed`, `missing` or
    `unknown` (never hashed); `inputs` are what it was made from, with whether each is, as far as is known,
    what it was made from.
    """

    path: Path
    record: dict[str, Any] | None
    state: str
    inputs: dict[str, bool] = field(default_factory=dict)  # path as recorded -> still that

    @property
    def still_holds(self) -> bool:
        """Whether nothing speaks against it: what can be made anew may be missing, a raw image may not."""
        lost = self.state == "missing" and self.record is None
        return self.state != "changed" and not lost and all(self.inputs.values())


def chain(path: str | Path) -> dict[str, Link]:
    """All that the file at `path` was made from, back to the raw images: recorded path -> `Link`.

    The file itself comes first. Paths are taken as they were recorded, from the folder in which the workflow
    ran; those of results that were moved or copied since, as they lie to `path`. Raises `InputError` where
    there is no such file, or it has no record.
    """
    path = Path(path)
    if not path.exists() and not beside(path).exists():
        raise InputError(f"{path}: no such file. Name a file that bordure wrote, such as results/scores.csv.")
    record = of(path)
    if path.is_dir():
        raise InputError(f"{path}: a folder. Name a file in it, such as {path / 'scores.csv'}.")
    if record is None:
        raise InputError(
            f"{path}: has no record: raw, not made by bordure, or handed on without the folder `{FOLDER}` "
            "beside it, which holds those of tables and pictures."
        )
    name = record.get("file", str(path))
    links: dict[str, Link] = {}
    waiting = [name]
    while waiting:
        name = waiting.pop(0)
        if name in links:
            continue
        link = _look(_now(name, path, record.get("file")) if links else path)
        links[name] = link
        made_from = (link.record or {}).get("inputs", {}) | (link.record or {}).get("records", {})
        waiting += made_from
        link.inputs = dict.fromkeys(made_from, True)
    for link in links.values():
        recorded, records = ((link.record or {}).get(kind, {}) for kind in ("inputs", "records"))
        for source in link.inputs:
            now = links[source]
            if source in recorded:
                same = not now.path.exists() or sha256(now.path) == recorded[source]
            else:
                same = now.record is None or digest(now.record) == records[source]
            link.inputs[source] = same and now.state != "changed"
            if now.state == "unknown" and source in recorded:
                now.state = "unchanged" if same else "changed"
    return links


def _now(name: str, path: Path, recorded: str | None) -> Path:
    """Where the file recorded as `name` lies, as far as the file at `path`, recorded as `recorded`, tells."""
    if recorded is None or Path(name).is_absolute() != Path(recorded).is_absolute():
        return Path(name)
    then, now = Path(recorded).parts, path.absolute().parts
    while then and then[-1] == now[-1]:  # what both end in was moved as one
        then, now = then[:-1], now[:-1]
    parts = Path(name).parts
    return Path(*now, *parts[len(then) :]) if parts[: len(then)] == then else Path(name)


def _look(path: Path) -> Link:
    if not path.exists():
        return Link(path, _read_record(path) if beside(path).exists() else None, "missing")
    record = of(path)
    if record is None or "sha256" not in record:
        return Link(path, record, "unknown")
    return Link(path, record, "unchanged" if sha256(path) == record["sha256"] else "changed")


_STATES = {
    "unchanged": "",
    "changed": "CHANGED since it was written",
    "missing": "no longer there",
    "unknown": "no SHA-256 to compare with",
}


def describe(links: dict[str, Link]) -> Iterator[str]:
    """Lines that tell the chain `links`: each file with its record, and below it what it was made from."""
    first = next(iter(links))
    common = links[first].record or {}
    packages = common.get("packages", {})
    yield f"bordure {common.get('version')}; " + ", ".join(" ".join(pair) for pair in packages.items())
    yield ""
    told: set[str] = set()

    def tell(name: str, here: str, below: str, same: bool) -> Iterator[str]:
        link = links[name]
        state = _STATES[link.state] or ("" if same else "CHANGED since this was made of it")
        again = "(see above)" if name in told and link.inputs else ""
        yield here + "   ".join(
            filter(None, [name, state.upper() if link.state == "missing" else state, again])
        )
        if name in told:
            return
        told.add(name)
        rim = below + ("| " if link.inputs else "  ")
        for line in _told(link.record, common):
            yield rim + line
        for number, (source, same) in enumerate(link.inputs.items(), 1):
            last = number == len(link.inputs)
            yield from tell(
                source, below + ("`-- " if last else "|-- "), below + ("    " if last else "|   "), same
            )

    yield from tell(first, "", "", True)
    states = [link.state for link in links.values()]
    counted = {word: states.count(word) for word in ("unchanged", "changed", "missing", "unknown")}
    yield ""
    yield f"{len(links)} files: " + ", ".join(f"{n} {word}" for word, n in counted.items() if n)


def _told(record: dict[str, Any] | None, common: dict[str, Any]) -> Iterator[str]:
    """What a record says, but for what all have in common."""
    if record is None:
        return
    precision = (record | record.get("environment", {})).get("precision", "")
    did = [record.get("stage", "written"), record.get("device", ""), precision]
    if "seconds" in record:
        did += [
            f"{record['threads']} threads" if record["threads"] > 1 else "1 thread",
            f"{record['seconds']:.2f} s",
            f"{record['peak_memory'] / 1e6:.0f} MB",
            f"finished {record['finished']}",
        ]
    yield ", ".join(filter(None, did))
    if settings := record.get("settings"):
        yield json.dumps(settings)
    if record.get("version") != common.get("version"):
        yield f"by bordure {record.get('version')}"
    if record.get("packages") != common.get("packages"):
        yield f"with {json.dumps(record.get('packages'))}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 where all is as it was recorded (what bordure made may be gone), else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline_lib.provenance",
        description="What a file was made from, back to the raw images, and whether that is still unchanged.",
    )
    parser.add_argument("file", type=Path, help="a file that bordure wrote")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        links = chain(options.file)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    print("\n".join(describe(links)))
    return int(not all(link.still_holds for link in links.values()))


if __name__ == "__main__":
    sys.exit(main())
