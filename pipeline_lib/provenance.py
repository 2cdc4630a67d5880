"""Who wrote a file, from what, with which settings."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pipeline_lib import __version__
from pipeline_lib.files import sha256

ROOT = Path(__file__).resolve().parent.parent


@cache
def version() -> str:
    """bordure's version, and in a checkout the git commit, `-dirty` where files were edited since."""
    if not (ROOT / ".git").exists():
        return __version__
    command = ["git", "-C", ROOT, "describe", "--always", "--dirty"]
    git = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"{__version__} ({git.stdout.strip()})" if git.returncode == 0 else __version__


def record(
    inputs: Iterable[str | Path], shared: Iterable[str | Path] = (), **settings: Any
) -> dict[str, Any]:
    """What goes into an output: version, the stage's settings and the SHA-256 of each input file.

    Of `shared` inputs, HDF5 files of which many jobs read a part each, only the SHA-256 of their own record:
    else each job would read all. No time of day: the same inputs give the same bytes.
    """
    found = {
        "version": version(),
        "settings": settings,
        "inputs": {str(path): sha256(path) for path in inputs},
    }
    if shared := {str(path): _sha256_of_record(path) for path in shared}:
        found["records"] = shared
    return found


def _sha256_of_record(path: str | Path) -> str:
    from pipeline_lib import layout  # and with it h5py, which the report does without

    with layout.require(path) as file:
        return hashlib.sha256(file.attrs["provenance"].encode()).hexdigest()
