"""Record for each output how it was made, and check that files have not changed since.

Every output has two records:

- The embedded record is part of the file, if its format allows it (HDF5, model, JSON, TIFF, PNG). It contains
  only what is the same each time the file is made from the same inputs with the same settings.
- The record in the hidden folder `.provenance` next to the output also contains what varies between runs
  (time, memory, threads) and the SHA-256 of the output. The next stage compares the output with it.
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
from typing import Any, cast

from pipeline_lib import __version__
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, sha256, write_json
from pipeline_lib.runtime.log import peak_memory
from pipeline_lib.runtime.types import Json

ROOT = Path(__file__).resolve().parents[2]
#: Name of the folder of the records, next to the files that they describe.
FOLDER = ".provenance"
_OWN = ("file", "sha256", "bytes")  # entries that describe the file itself
_VARYING = ("seconds", "peak_memory", "threads", "finished")  # entries that differ between runs
PACKAGES = ("h5py", "imagecodecs", "numba", "numpy", "pandas", "pillow", "scipy", "tifffile", "torch")


@cache
def version() -> str:
    """Return bordure's version and, in a git checkout, the commit, with `-dirty` if files were edited.

    Returns
    -------
    str
        For example "1.0.0 (3f2a91c-dirty)".
    """
    # git refuses to read a checkout that belongs to another user unless it is declared safe
    if not (ROOT / ".git").exists():
        return __version__
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "describe", "--always", "--dirty"]
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
            continue  # parts of the library work without this package
    return found


@contextmanager
def making(
    stage: str,
    outputs: Sequence[str | Path],
    inputs: Iterable[str | Path],
    shared: Iterable[str | Path] = (),
    **settings: Any,
) -> Iterator[Json]:
    """Check the inputs of a stage and write the records of its outputs. Context manager.

    Run everything that the stage does inside this `with` statement. The record contains the stage, the
    version of bordure, the settings (including the seed), the SHA-256 of each input, the versions of
    packages, and the device. On success, it is written to `.provenance/NAME.json` next to each output,
    together with the SHA-256 and size of the output, the time it was finished, `seconds`, the peak memory in
    bytes and the number of threads.

    Parameters
    ----------
    stage : str
        Name of the stage.
    outputs : sequence of str or Path
        Files that the stage writes. Their previous records are deleted.
    inputs : iterable of str or Path
        Files that the stage reads.
    shared : iterable of str or Path, optional
        HDF5 inputs of which many jobs read one part each. So that not every job has to read the whole file,
        only its size and embedded record are compared, and the SHA-256 of the embedded record is recorded.
    **settings
        Settings of the stage, as values that JSON can store.

    Yields
    ------
    dict
        The record. The stage may change it: set `device` if it is not the CPU, add further entries, and set
        `seconds` to the time that an interrupted run has already spent.

    Raises
    ------
    InputError
        If an input is missing or differs from its own record.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pipeline_lib import provenance
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     output = Path(folder, "sum.txt")
    ...     with provenance.making("add", [output], [], first=1, second=2):
    ...         _ = output.write_text("3")
    ...     print(provenance.find_record(output)["settings"])
    {'first': 1, 'second': 2}
    """
    hashed, unhashed = list(map(Path, inputs)), list(map(Path, shared))
    for source in hashed:
        require_unchanged(source)
    unread = [*unhashed, *_parts_of(hashed)]
    for source in unread:
        _require_same_record(source)
    record: Json = {
        "stage": stage,
        "version": version(),
        "settings": settings,
        "inputs": {str(source): sha256(source) for source in hashed},
        "packages": _packages(),
        "device": "cpu",
    }
    if unhashed:
        record["records"] = {str(source): _sha256_of_record(source) for source in unhashed}
    for path in outputs:
        record_path(path).unlink(missing_ok=True)  # it describes the content that is overwritten
    start = time.perf_counter()
    try:
        yield record
    except (OSError, RuntimeError, ValueError, KeyError):
        for source in unread:  # not hashed before, so damage in one of these is the likeliest cause
            require_unchanged(source)
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
    """Return the path of the record of a file.

    Parameters
    ----------
    path : str or Path
        Any file.

    Returns
    -------
    Path
        `.provenance/NAME.json` next to the file. It need not exist.

    Examples
    --------
    >>> from pipeline_lib.provenance import record_path
    >>> record_path("results/scores.csv").as_posix()
    'results/.provenance/scores.csv.json'
    """
    path = Path(path)
    return path.parent / FOLDER / f"{path.name}.json"


def find_record(path: str | Path) -> Json | None:
    """Return the record of a file: the one in `.provenance` or, if there is none, the embedded one.

    Parameters
    ----------
    path : str or Path
        Any file.

    Returns
    -------
    dict or None
        The record, or None for a file that bordure did not make.

    Raises
    ------
    InputError
        If the record in `.provenance` is damaged.
    """
    path = Path(path)
    if record_path(path).exists():
        return read_record(path)
    try:
        return embedded_record(path) if path.is_file() else None
    except Exception:  # foreign or damaged file: readers raise many kinds of exceptions
        return None


def is_result(path: str | Path) -> bool:
    """Return whether a file is as bordure wrote it.

    Parameters
    ----------
    path : str or Path
        Any file.

    Returns
    -------
    bool
        Whether the file has a record in `.provenance` and was not changed since.
    """
    path = Path(path)
    return record_path(path).exists() and read_record(path)["sha256"] == sha256(path)


def read_record(path: Path) -> Json:
    """Return the record of the file at `path` from `.provenance`; raises `InputError` if it is damaged."""
    try:
        record = read_json(record_path(path))
        if isinstance(record, dict) and {"file", "sha256", "bytes", "stage", "version"} <= record.keys():
            return record
    except InputError:
        pass
    raise InputError(
        f"{record_path(path)}: damaged, expected the record of {path}. To accept the file without its "
        f"record, type `{_rm(record_path(path))}`."
    )


def embedded_record(path: Path) -> Json | None:
    """Return the record that is embedded in a file.

    Parameters
    ----------
    path : Path
        File that bordure wrote. If it is damaged, the exception depends on the format.

    Returns
    -------
    dict or None
        The record, or None if there is none or if the format has no records. HDF5, model files, JSON, TIFF
        and PNG have records.
    """
    # packages that read files are imported only when needed
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
            if tiff.is_imagej:  # with a pixel size
                return json.loads((tiff.imagej_metadata or {}).get("provenance", "null"))
            return (tiff.shaped_metadata or ({},))[0].get("provenance")
    if path.suffix == ".png":
        from PIL import Image
        from PIL.PngImagePlugin import PngImageFile

        with Image.open(path) as image:
            return json.loads(cast(PngImageFile, image).text["Description"]).get("provenance")
    return None


def _sha256_of_record(path: Path) -> str:
    from pipeline_lib import layout  # imports h5py, which the report does not need

    with layout.require(path) as file:
        return digest(layout.provenance(file))


def digest(record: Json) -> str:
    """Return the SHA-256 of the constant entries of a record, the same for both records of a file.

    Parameters
    ----------
    record : dict
        Embedded record of a file, or its record in `.provenance`.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    constant = {name: value for name, value in record.items() if name not in (*_OWN, *_VARYING)}
    return hashlib.sha256(json.dumps(constant).encode()).hexdigest()


def _parts_of(inputs: Iterable[Path]) -> list[Path]:
    from pipeline_lib import layout

    return [part for path in inputs if path.suffix == ".h5" for part in layout.sources(path)]


def require_unchanged(path: Path) -> None:
    """Check that a file is unchanged since its record was written.

    Parameters
    ----------
    path : Path
        Any file. If it has no record, as raw images, only its existence is checked.

    Raises
    ------
    InputError
        If the file is missing, or differs from its record.
    """
    if not path.exists():
        remedy = (
            _remedy(path) if record_path(path).exists() else "Check the path, or run the workflow to make it."
        )
        raise InputError(f"{path}: no such file. {remedy}")
    if not record_path(path).exists():
        return
    record = read_record(path)
    if (found := sha256(path)) != record["sha256"]:
        raise InputError(
            f"{path}: not what {record['stage']} wrote, damaged or edited since (SHA-256 {found[:12]}..., "
            f"expected {record['sha256'][:12]}...). If it was edited on purpose, delete its record: "
            f"`{_rm(record_path(path))}`. {_remedy(path)}"
        )


def _require_same_record(path: Path) -> None:
    """Raise `InputError` if size or embedded record of the HDF5 file at `path` differ from its record."""
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
        raise InputError(f"{path}: not what {expected['stage']} wrote, but another file. {_remedy(path)}")


def _rm(path: Path) -> str:
    return f"rm -f {shlex.quote(str(path))}"


def _remedy(path: Path) -> str:
    """Say how to make a file again; a file of another run, such as proof-read labels, must be copied."""
    if read_record(path)["file"] != str(path):
        return "Otherwise, copy it again from where it was made."
    return (
        f"To make only this file again, type `{_rm(path)}` and run the same command with "
        f"` -- {shlex.quote(str(path))}` at its end; then run the same command again."
    )
