"""Files of a run without faults, and changes of them that several kinds of input need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

HEADER = "volume\timages\tannotation\tsections\tsplit\n"
SOUND_ROWS = "learn\timages.tif\tlabels.tif\t0\ttrain\nchoose\timages.tif\tlabels.tif\t1\tvalidation\n"
CONFIG = "volumes: volumes.tsv\ndata_dir: .\nnetwork: {depth: 1, base_channels: 2}\ntraining: {tile: 44}\n"


def sound_run(dtype: type = np.uint8) -> None:
    """Write images, labels, table and config of a run without faults into the working folder."""
    stack = np.random.default_rng(0).integers(0, 120, (3, 32, 32)).astype(dtype)
    tifffile.imwrite("images.tif", stack, photometric="minisblack")
    tifffile.imwrite("labels.tif", np.repeat(cells()[None], 3, axis=0), photometric="minisblack")
    Path("volumes.tsv").write_text(HEADER + SOUND_ROWS)
    Path("my.yaml").write_text(CONFIG)


def cells(size: int = 32) -> np.ndarray:
    """Return square cells in a grid, uint8 (size, size): membranes 0, cells 255."""
    y, x = np.mgrid[:size, :size]
    return np.where((y % 16 < 3) | (x % 16 < 3), 0, 255).astype(np.uint8)


def gray(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    """Return random gray values from 0 to 119."""
    return np.random.default_rng(1).integers(0, 120, shape).astype(dtype)


def write_table(content: str | bytes) -> None:
    """Replace the table of volumes."""
    Path("volumes.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())


def bad_row(
    images: str = "images.tif",
    annotation: str = "",
    sections: str = "",
    split: str = "predict",
    name: str = "bad",
    **columns: str,
) -> None:
    """Add a volume to the table, by default the volume `bad`, and further `columns` with its values."""
    header = "\t".join([HEADER.strip(), *columns])
    cells = "\t".join([name, images, annotation, sections, split, *columns.values()])
    write_table(f"{header}\n{SOUND_ROWS}{cells}\n")


def bad_image(name: str, content: bytes) -> None:
    """Write a file and use it as the images of the volume `bad`."""
    Path(name).write_bytes(content)
    bad_row(name)


def write_config(more: str, sound: str = CONFIG) -> None:
    """Replace the config by `sound` and `more` lines."""
    Path("my.yaml").write_text(sound + more)
