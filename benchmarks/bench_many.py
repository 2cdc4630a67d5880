"""Measure the cost of a table with many small volumes: `python -m benchmarks.bench_many`, some minutes.

The volumes are drawn sections of 64 x 64 px: a tenth for training, a tenth for validation, half of the others
with an annotation to score, half without. The network is trained for two iterations only. Planning
(`snakemake -n`, before and after the run) and the run itself are measured. The overhead of the run is its
time minus the own times of the stages divided by the number of cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import tifffile

from benchmarks import harness
from benchmarks.bench_large import CORES, DONE, ROOT, call, keep
from benchmarks.drawing import draw_region
from benchmarks.harness import Row

VOLUMES = 1000
SIZE = 64  # px
PER_ROW = 1000  # volumes in a row of the drawn plane
CONFIG = {
    "volumes": "volumes.tsv",
    "network": {"depth": 2, "base_channels": 4},
    "training": {"tile": 60, "iterations": 2, "validation_interval": 2, "device": "cpu"},
    "prediction": {"device": "cpu"},
}


def draw(folder: Path, volumes: int) -> Path:
    """Write images, annotations, table and config; return the config's path."""
    table = ["volume\timages\tannotation\tsections\tsplit"]
    for k in range(volumes):
        row, column = divmod(k, PER_ROW)
        region = [slice(n * SIZE, (n + 1) * SIZE) for n in (row, column)]
        image, labels = draw_region(*region, PER_ROW * SIZE)
        tifffile.imwrite(folder / f"{k}.tif", image)
        split = {0: "train", 1: "validation"}.get(k % 10, "test" if k % 2 else "predict")
        annotation = "" if split == "predict" else f"{k}-labels.tif"
        if annotation:
            tifffile.imwrite(folder / annotation, labels)
        table.append(f"v{k}\t{k}.tif\t{annotation}\t\t{split}")
    (folder / "volumes.tsv").write_text("\n".join(table) + "\n")
    config = folder / "config.yaml"  # JSON is YAML
    config.write_text(json.dumps(CONFIG | {"data_dir": str(folder), "results": str(folder / "results")}))
    return config


def measure(volumes: int, folder: Path) -> list[Row]:
    config = draw(folder, volumes)
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", folder]
    snakemake += ["--configfile", config, "--cores", str(CORES), "--quiet", "all"]

    def seconds(*options: str) -> float:
        return harness.seconds(lambda: call([*snakemake, *options], folder))

    planned, ran, replanned = seconds("-n"), seconds(), seconds("-n")
    logs = [path.read_text() for path in (folder / "results/logs").rglob("*.log")]
    own = sum(float(found[1]) for log in logs for found in DONE.finditer(log))
    details = {"volumes": volumes, "seconds": ran, "own seconds": own, "jobs": len(logs), "cores": CORES}
    what = f"{volumes:,} volumes of {SIZE} x {SIZE} px"
    return [
        Row(f"{what}: planning", "", planned, "s"),
        Row(f"{what}: planning, nothing to do", "", replanned, "s"),
        Row(f"{what}: run, per volume", "", ran / volumes, "s", details=details),
        Row(f"{what}: overhead, per volume", "run less own times", (ran - own / CORES) / volumes, "s"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--volumes", type=int, default=VOLUMES)
    parser.add_argument("--folder", type=Path, default=harness.RESULTS, help="folder for temporary files")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="many-", dir=chosen.folder) as folder:
        table = measure(chosen.volumes, Path(folder).absolute())
    keep("many", table)


if __name__ == "__main__":
    main()
