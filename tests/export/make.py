"""Run a short demo and export it in all formats, with the documented commands.

    python tests/export/make.py FOLDER

`tests/export/test_exports.py` opens the files with the programs for which they are made.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Make all files in `folder`."""
    tools = Path(sys.executable).parent
    results, labels = folder / "results", folder / "results/segmentation/test_labels.tif"
    image, probability = results / "dataset/test.h5:/raw", results / "segmentation/test_cell_probability.tif"
    settings = [
        f"results={results}",
        "dataset={pixel_size: 0.008}",
        "training={iterations: 300, validation_interval: 150}",
    ]
    run([tools / "snakemake", "--cores", "all", "--quiet", "all", "--config", *settings])
    for arguments in (
        [results / "models/unet/model.pt", folder / "model.zip", "--to", "bioimageio"],
        [labels, folder / "rois.zip", "--to", "fiji"],
        [labels, folder / "cells.geojson", "--to", "qupath"],
        [labels, folder / "v05.zarr", "--to", "ome-zarr", "--image", image],
        [labels, folder / "v04.zarr", "--to", "ome-zarr", "--image", image, "--zarr-version", "0.4"],
        [probability, folder / "probability.zarr", "--to", "ome-zarr"],
        [results, folder / "crate.zip", "--to", "ro-crate"],
    ):
        run([tools / "bordure", "export", *arguments])


def run(command: list[str | Path]) -> None:
    """Run a command; stop if it fails."""
    subprocess.run([*map(str, command)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
