"""Copy an example that is part of this package."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import sha256

FOLDER = Path(__file__).parent / "examples"
MINUTES = 5.0  # of a run on two cores
_SUMS = "SHA256SUMS"


def copy_example(name: str, to: Path) -> None:
    """Copy the images, labels and licence of an example, and check that the copies are correct.

    Parameters
    ----------
    name : str
        A folder in `FOLDER`.
    to : Path
        Folder to write to. It is created; it must not exist or must be empty.

    Raises
    ------
    InputError
        If the folder contains files, or a file of the example is damaged.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to}: exists and is not empty. Choose another folder: --to DIR.")
    source = FOLDER / name
    lines = map(str.split, (source / _SUMS).read_text().splitlines())
    sums = {file: digest for digest, file in lines}
    for file in ("LICENSE.md", _SUMS, *sums):
        target = to / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, target)
        if file in sums and sha256(target) != sums[file]:
            raise InputError(
                f"{source / file}: is damaged: its SHA-256 differs from that in {_SUMS}. Install the package "
                "again."
            )
