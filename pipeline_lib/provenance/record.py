"""Who made a file, from what, with which settings, and whether all of it is still there unchanged.

Every output has a record: inside, where its format has a place for it (HDF5, model, JSON, TIFF), what is the
same whenever the same is made again; beside it, in the hidden folder `.provenance`, that and what varies
(time, memory, threads), with the SHA-256 of the output itself, by which the next stage sees that it is whole.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_lib import __version__
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, sha256, write_json
from pipeline_lib.runtime.log import peak_memory

ROOT = Path(__file__).resolve().parents[2]
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
        record_path(path).unlink(missing_ok=True)  # it was of what is overwritten
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
        write_json(record_path(path), own | record | varying)


def record_path(path: str | Path) -> Path:
    """Where the record of the output at `path` lies."""
    path = Path(path)
    return path.parent / FOLDER / f"{path.name}.json"


def find_record(path: str | Path) -> dict[str, Any] | None:
    """The record of the file at `path`: beside it or, where the file alone was handed on, inside it.

    None for a file that bordure did not make. Raises `InputError` for a record beside it that is damaged.
    """
    path = Path(path)
    if record_path(path).exists():
        return read_record(path)
    try:
        return embedded_record(path) if path.is_file() else None
    except Exception:  # from elsewhere, or damaged: readers raise what they like
        return None


def read_record(path: Path) -> dict[str, Any]:
    """What lies beside the file at `path`; `InputError` where that is damaged."""
    try:
        record = read_json(record_path(path))
        if isinstance(record, dict) and {"file", "sha256", "bytes", "stage", "version"} <= record.keys():
            return record
    except InputError:
        pass
    raise InputError(
        f"{record_path(path)}: damaged, no record of {path} any more. Type `{_rm(record_path(path))}`; the file itself "
        "then counts as it is."
    )


def embedded_record(path: Path) -> dict[str, Any] | None:
    """The record inside the file at `path`; its readers are imported where they are needed."""
    if path.suffix == ".h5":
        from pipeline_lib import layout

        with layout.require(path) as file:
            return layout.provenance(file)
    if path.suffix == ".pt":
        from pipeline_lib.networks import modelfile

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
        remedy = (
            _again(path) if record_path(path).exists() else "Check the path, or run the workflow to make it."
        )
        raise InputError(f"{path}: no such file. {remedy}")
    if not record_path(path).exists():
        return
    record = read_record(path)
    if (found := sha256(path)) != record["sha256"]:
        raise InputError(
            f"{path}: not what {record['stage']} wrote (SHA-256 {found[:12]}..., expected "
            f"{record['sha256'][:12]}...): damaged or edited since. If it was edited on purpose, take its "
            f"record away: `{_rm(record_path(path))}`. {_again(path)}"
        )


def _require_same_record(path: Path) -> None:
    """Raise `InputError` where the HDF5 file at `path`, which is not hashed, is another than it was."""
    if not record_path(path).exists() or not path.exists():
        return
    expected = read_record(path)
    try:
        found = embedded_record(path)
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
    if read_record(path)["file"] != str(path):
        return "Else copy it again from where it was made."
    return (
        f"To make it anew and nothing else, type `{_rm(path)}` and run the same command with "
        f"` -- {shlex.quote(str(path))}` at its end; then run the same command again."
    )
