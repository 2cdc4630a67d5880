"""Learning curve of corrections on ISBI 2012: suggested crops against crops at random.

    python -m benchmarks.corrections --data-dir PATH --work FOLDER

A network learns from two sections. In each round, eight crops of the other training sections are chosen, get
the annotation as labels, as if a perfect person corrected them, and the network is trained further. `none` is
trained further without crops, `full_rate` with the learning rate of the beginning. Validation sections are
scored after each round; held-out sections are never read. A command that was stopped continues. The table is
printed and written to FOLDER/corrections.csv.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import yaml
from scipy import ndimage

from pipeline_lib import cli, imageio
from pipeline_lib.corrections import files
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.types import Json
from pipeline_lib.scores import at_chosen_threshold, read_scores

SECTIONS = "0-1"  # learned from the beginning
POOL = range(2, 20)  # sections from which crops are chosen
STRATEGIES = ("suggested", "random", "none", "full_rate")
RATE, FACTOR = 0.002, 0.3  # learning rate of the first training, and its factor in the rounds
METRICS = ("v_rand_thin", "rand_error", "pixel_error", "seg")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corrections", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with isbi2012/")
    parser.add_argument("--work", type=Path, required=True, help="folder to work in")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--crops", type=int, default=8, help="crops of a round")
    parser.add_argument("--size", type=int, default=192, help="side of a crop (px)")
    parser.add_argument("--iterations", type=int, nargs=2, default=[1000, 400], help="first, and in a round")
    given = parser.parse_args()
    work, data = given.work.resolve(), given.data_dir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    pool = _pool(data, work)
    rows = []
    for seed in given.seeds:
        base = work / f"seed{seed}"
        config = _first_config(base, data, seed, given.iterations[0])
        rows.append(_run(config) | {"seed": seed, "strategy": "none", "round": 0})
        for strategy in STRATEGIES:
            before = config
            for number in range(1, given.rounds + 1):
                folder = base / strategy / f"round{number}"
                after = _corrected(folder, before, pool, data, given, seed, strategy)
                scores = _run(after) | {"seed": seed, "strategy": strategy, "round": number}
                rows.append(scores)
                print(scores, file=sys.stderr, flush=True)
                before = after
    table = pd.DataFrame(rows)
    table.to_csv(work / "corrections.csv", index=False)
    print(table.groupby(["round", "strategy"])[["loss", *METRICS]].agg(["mean", "std"]).round(4).to_string())
    return 0


def _pool(data: Path, work: Path) -> list[Path]:
    """Write the sections of the pool as single images, and return their paths."""
    folder = work / "pool"
    folder.mkdir(exist_ok=True)
    with imageio.open_images(data / "isbi2012/train-volume.tif") as images:
        _, _, height, width = images.shape
        for z in POOL:
            if not (path := folder / f"s{z:02}.tif").exists():
                tifffile.imwrite(path, images.read(z, slice(0, height), slice(0, width))[0])
    return [folder / f"s{z:02}.tif" for z in POOL]


def _first_config(folder: Path, data: Path, seed: int, iterations: int) -> Path:
    """Write table and config of the first run."""
    folder.mkdir(parents=True, exist_ok=True)
    volumes = "volume\timages\tannotation\tsections\tsplit\n" + "".join(
        f"{name}\tisbi2012/train-volume.tif\tisbi2012/train-labels.tif\t{sections}\t{name}\n"
        for name, sections in (("train", SECTIONS), ("validation", "20-23"))
    )
    (folder / "volumes.tsv").write_text(volumes)
    config = folder / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "volumes": str(folder / "volumes.tsv"),
                "data_dir": str(data),
                "results": str(folder / "results"),
                "seed": seed,
                "network": {"base_channels": 16, "dropout": 0.2},
                "training": {
                    "iterations": iterations,
                    "optimizer": "adam",
                    "learning_rate": RATE,
                    "validation_interval": 250,
                    "device": "cpu",
                },
                "prediction": {"average_orientations": True, "device": "cpu"},
                "segmentation": {"method": "watershed", "criterion": "v_rand_thin"},
            }
        )
    )
    return config


def _corrected(
    folder: Path,
    before: Path,
    pool: list[Path],
    data: Path,
    given: argparse.Namespace,
    seed: int,
    strategy: str,
) -> Path:
    """Suggest crops with the model of the run before, correct them perfectly, and accept them."""
    settings = yaml.safe_load(before.read_text())
    after = before.with_name(f"{before.stem}-{strategy}-{folder.name}.yaml")
    if after.exists():
        return after
    if strategy == "none":
        training = settings["training"] | {"start_from": str(Path(settings["results"]) / "model.pt")}
        _write_next(settings | {"training": training}, after, given, strategy, folder)
        return after
    chance = ["--random", str(100 * seed + int(folder.name[5:]))] if strategy == "random" else []
    model = Path(settings["results"]) / "model.pt"
    words = ["suggest", str(model), *map(str, pool), "--out", str(folder), "--size", str(given.size)]
    if cli.main([*words, "--crops", str(given.crops), "--device", "cpu", *chance]):
        raise SystemExit("error: suggest failed")
    todo = pd.read_csv(folder / files.TODO, sep="\t", dtype={"done": str})
    margin = files.read_round(folder)["margin"]
    with imageio.open_annotation(data / "isbi2012/train-labels.tif", kind="black_membranes") as truth:
        for row in todo.itertuples():
            path = folder / files.LABELS / f"{row.crop}.tif"
            labels = np.squeeze(tifffile.imread(path))
            top, left = max(row.y - margin, 0), max(row.x - margin, 0)
            cells, _ = ndimage.label(truth.read(int(row.image[1:]), slice(0, 512), slice(0, 512)))
            own = cells[top : top + labels.shape[0], left : left + labels.shape[1]]
            tifffile.imwrite(path, np.where(labels == files.NOT_ANNOTATED, labels, own).astype(np.uint16))
    todo.assign(done="yes").to_csv(folder / files.TODO, sep="\t", index=False)
    if cli.main(["accept", str(folder), str(before)]):
        raise SystemExit("error: accept failed")
    written = before.with_name(f"{before.stem}-{folder.name}.yaml")
    new = yaml.safe_load(written.read_text())
    table = Path(new["volumes"])
    named = table.with_name(f"{table.stem}-{strategy}{table.suffix}")
    table.rename(named)
    written.unlink()
    new["results"] = settings["results"]
    _write_next(new | {"volumes": str(named)}, after, given, strategy, folder)
    return after


def _write_next(settings: Json, after: Path, given: argparse.Namespace, strategy: str, folder: Path) -> None:
    """Write the config of a round."""
    rate = RATE if strategy == "full_rate" else RATE * FACTOR
    settings["training"] |= {"iterations": given.iterations[1], "learning_rate": rate}
    settings["results"] += f"-{strategy}-{folder.name}"
    after.write_text(yaml.safe_dump(settings))


def _run(config: Path) -> dict[str, float]:
    """Run the workflow, and return the validation scores of the network."""
    results = Path(yaml.safe_load(config.read_text())["results"])
    if not (results / "report.html").exists():
        command = [sys.executable, "-m", "pipeline_lib.cli", "run", str(config)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    threshold = {"unet": read_json(results / "postprocessing/unet.json")["threshold"]}
    table = at_chosen_threshold(read_scores(results / "scores.csv"), threshold)
    own = table[(table.network == "unet") & (table.split == "validation")]
    means = own.groupby("metric").value.mean()
    loss = pd.read_csv(results / "models/unet/history.csv").validation_loss.min()
    return {"loss": float(loss)} | {metric: float(means[metric]) for metric in METRICS}


if __name__ == "__main__":
    raise SystemExit(main())
