"""Check that two runs have bit-identical results, even if file names differ between versions.

    python -m benchmarks.compare_results BEFORE AFTER

BEFORE and AFTER are results folders. Arrays, tensors, tables and pictures are compared; records of provenance
are not. The exit status is 1 if anything differs or is missing. Results of bordure 0.1 are supported, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image

# kind of file -> its location in bordure 0.1 and in later versions
PLACES = {
    "dataset": ("dataset/*.h5",),
    "weight map": ("weight_map/*.h5",),
    "statistics": ("statistics.json",),
    "model": ("model/**/model.pt", "models/*/model.pt"),
    "history": ("model/**/history.csv", "models/*/history.csv"),
    "probability": ("prediction/*/*.h5",),
    "post-processing": ("threshold/*.json", "postprocessing/*.json"),
    "TIFF": ("segmentation/*.tif",),
    "scores": ("scores*.csv",),
    "picture": ("figures/**/*.png",),
}


def name(kind: str, path: Path, folder: Path) -> str:
    """Return a name that is the same in all versions: the model's name, or the path without first folder."""
    parts = path.relative_to(folder).parts
    if kind in ("model", "history"):
        seed = parts[1:-1] if parts[0] == "model" else ()
        return f"unet-{seed[0]}" if seed else "unet" if parts[0] == "model" else parts[1]
    return "/".join(parts[1:] if len(parts) > 1 else parts)


def read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """Return all arrays of an HDF5 file."""
    with h5py.File(path) as file:
        return {name: item[()] for name, item in file.items() if isinstance(item, h5py.Dataset)}


def read_table(path: Path) -> bytes:
    """Return the text of a table without the columns `variant` and `seed`, which are new in 0.3."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return table.drop(columns=["variant", "seed"], errors="ignore").to_csv(index=False).encode()


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file without its record and `minimum_size`, which is new in 0.2."""
    content = json.loads(path.read_text())
    return {key: value for key, value in content.items() if key not in ("provenance", "minimum_size")}


READERS: dict[str, Callable[[Path], Any]] = {
    ".h5": read_hdf5,
    ".pt": lambda path: torch.load(path, weights_only=True)["state_dict"],
    ".json": read_json,
    ".tif": tifffile.imread,
    ".csv": read_table,
    ".png": lambda path: np.asarray(Image.open(path)),
}


def same(one: Any, other: Any) -> bool:
    """Return whether two contents are of equal type and bit-identical."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return one == other


def size(content: Any) -> str:
    """Describe how much was compared."""
    if isinstance(content, bytes):
        return f"{content.count(bytes([10])) - 1} rows"
    if isinstance(content, np.ndarray):
        return f"{content.shape} {content.dtype}"
    arrays = [value for value in content.values() if isinstance(value, np.ndarray | torch.Tensor)]
    count = sum(int(np.prod(array.shape)) for array in arrays)
    return f"{count:,} numbers in {len(arrays)} arrays" if arrays else f"{len(content)} entries"


def compare(before: Path, after: Path) -> Iterator[tuple[str, str, str, bool]]:
    """Yield for every file of either folder its kind, name, size and whether it is the same."""
    for kind, patterns in PLACES.items():
        found = [
            {name(kind, path, folder): path for pattern in patterns for path in sorted(folder.glob(pattern))}
            for folder in (before, after)
        ]
        for key in sorted(found[0].keys() | found[1].keys()):
            if missing := [
                str(folder) for folder, files in zip((before, after), found, strict=True) if key not in files
            ]:
                yield kind, key, f"missing in {missing[0]}", False
                continue
            one, other = (READERS[files[key].suffix](files[key]) for files in found)
            yield kind, key, size(one), same(one, other)


def main() -> int:
    """Print a line per file and return the exit status."""
    before, after = map(Path, sys.argv[1:3])
    different = 0
    for kind, key, what, equal in compare(before, after):
        different += not equal
        print(f"{'identical' if equal else 'DIFFERENT':<10} {kind:<16} {key:<40} {what}")
    print(f"{different} different" if different else "all identical")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
