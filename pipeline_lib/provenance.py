"""Who wrote a file, from what, with which settings."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline_lib.files import sha256

ROOT = Path(__file__).resolve().parent.parent


@cache
def version() -> str:
    """bordure's version, with the git commit where it runs from a checkout (`+` a mark for uncommitted
    changes).
    """
    try:
        release = metadata.version("bordure")
    except metadata.PackageNotFoundError:
        release = "unreleased"
    git = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f"{release} ({git.stdout.strip()})" if git.returncode == 0 else release


def record(inputs: Iterable[str | Path], **settings: Any) -> dict[str, Any]:
    """What goes into an output: version, the stage's settings and the SHA-256 of each input file. No time of
    day: same
    inputs give the same bytes."""
    return {
        "version": version(),
        "settings": settings,
        "inputs": {str(path): sha256(path) for path in inputs},
    }
