"""The data sets of the comparison, and their export as images that each peer reads."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import yaml

from benchmarks.peers.shared.contract import SPLITS
from pipeline_lib import layout
from pipeline_lib.data.volumes import read_table
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.dataset import build_dataset

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class DataSet:
    """One data set of the comparison.

    Parameters
    ----------
    name : str
        Its name, and that of its config in `config/`.
    kind : {"membranes", "objects"}
        What is annotated: membranes between cells that fill the image, or separate objects.
    criterion : str
        Score by which a threshold is chosen on the validation split (`postprocessing.CRITERIA`).
    metrics : sequence of str
        Scores in the table, the most important first.
    """

    name: str
    kind: str
    criterion: str
    metrics: tuple[str, ...]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Settings of bordure for these data."""
        return yaml.safe_load((ROOT / "config" / f"{self.name}.yaml").read_text())

    @property
    def minimum_size(self) -> int:
        """Instances with fewer pixels are removed from components (px)."""
        return self.config.get("segmentation", {}).get("minimum_size", 0)


DATA_SETS = {
    data.name: data
    for data in (
        DataSet("isbi2012", "membranes", "v_rand_thin", ("v_rand_thin", "pixel_error", "rand_error")),
        DataSet("nuclei", "objects", "seg", ("seg", "average_precision", "average_precision_50")),
    )
}


def export(data: DataSet, data_dir: Path, folder: Path, truth: Path, table: Path | None = None) -> None:
    """Write the images of a data set for the peers, and the truth of all splits elsewhere.

    Parameters
    ----------
    data : DataSet
        The data set.
    data_dir : Path
        Folder that paths in its table of volumes refer to.
    folder : Path
        Folder to write to, as described in `shared/contract.py`. It has no annotation of the test split.
    truth : Path
        Folder for the datasets of bordure (HDF5), with the annotations of all splits, by which the
        predictions are scored.
    table : Path, optional
        Table of volumes. By default that of the config.
    """
    names: dict[str, list[str]] = defaultdict(list)
    volumes: dict[str, list[list[str]]] = defaultdict(list)
    for volume in read_table(table or ROOT / data.config["volumes"], data_dir):
        if volume.split not in SPLITS:
            continue
        path = truth / f"{volume.volume}.h5"
        settings = data.config.get("dataset", {})
        build_dataset(volume.images, volume.annotation, path, sections=volume.sections, **settings)
        with layout.require(path, layout.RAW, *layout.PIXEL_ARRAYS) as file:
            raw, labels, border = (
                file[array.name] for array in (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
            )
            own = [f"{volume.volume}_{z:03}" for z in range(len(labels))]
            for z, name in enumerate(own):
                arrays = {"images": raw[0, z]}
                if volume.split != "test":
                    smallest = np.uint16 if labels[z].max() < 2**16 else np.uint32
                    arrays["labels"] = labels[z].astype(smallest)
                    arrays["cells"] = ((labels[z] > 0) & (border[z] == 0)).astype(np.uint8)
                for what, array in arrays.items():
                    to = folder / volume.split / what / f"{name}.tif"
                    to.parent.mkdir(parents=True, exist_ok=True)
                    tifffile.imwrite(to, array)
        names[volume.split] += own
        volumes[volume.split].append([volume.volume, *own])
    write_json(folder / "data.json", {"name": data.name, "kind": data.kind, "images": names})
    write_json(truth / "volumes.json", volumes)
