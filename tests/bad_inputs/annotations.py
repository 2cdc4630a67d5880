"""Annotations that are not membranes or instance labels, or do not fit their images."""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile

from .harness import Group
from .sound import bad_row, cells, gray, sound_run, write_config

GROUP = Group("Annotations")
add, case = GROUP.add, GROUP.case


def write_annotation(array: np.ndarray, kind: str = "auto", **options: Any) -> None:
    """Write the annotation of the volume `bad`, whose section 2 is used."""
    tifffile.imwrite("a.tif", array, **({"photometric": "minisblack"} | options))
    bad_row(annotation="a.tif", sections="2", split="test")
    if kind != "auto":
        write_config(f"dataset: {{annotation_kind: {kind}}}\n")


def stack3(section: np.ndarray) -> np.ndarray:
    """Return three times the same section."""
    return np.repeat(section[None], 3, axis=0)


add("gray values", write_annotation, gray(3, 32, 32))


@case("smoothed membranes")
def _():
    smooth = cells().astype(float)
    for axis in (0, 1):
        smooth = (np.roll(smooth, 1, axis) + 2 * smooth + np.roll(smooth, -1, axis)) / 4
    write_annotation(stack3(smooth.astype(np.uint8)))


add("size different from the images", write_annotation, gray(3, 32, 31))
add("fewer sections than the images", write_annotation, gray(2, 32, 32))
add("fractions", write_annotation, stack3(cells() / np.float32(2)))
add("NaN", write_annotation, stack3(np.where(cells() > 0, np.float32(np.nan), np.float32(0))))
add("negative labels", write_annotation, stack3(cells().astype(np.int16) - 255))
add("labels of 2^32 and more", write_annotation, stack3(cells().astype(np.uint64) * 2**40))
add("only background", write_annotation, np.zeros((3, 32, 32), np.uint8))
add("only one cell", write_annotation, np.full((3, 32, 32), 255, np.uint8))
add("RGB", write_annotation, gray(3, 32, 32, 3), photometric="rgb")
add("two values, neither of them 0", write_annotation, stack3(cells() // 255 + 1))
add(
    "instance labels, but configured as membranes",
    write_annotation,
    stack3((np.arange(32) // 8 * np.ones((32, 1))).astype(np.uint8)),
    "black_membranes",
)


@case("three classes instead of cells")
def _():
    sound_run()
    wide = np.where(cells(256) == 0, 0, np.where(np.arange(256) < 128, 1, 2)).astype(np.uint8)
    tifffile.imwrite("images.tif", gray(3, 256, 256), photometric="minisblack")
    tifffile.imwrite("labels.tif", stack3(cells(256)), photometric="minisblack")
    write_annotation(stack3(wide))


@case("32-bit noise, a different label for each pixel")
def _():
    noise = np.random.default_rng(0).integers(0, 2**32, (3, 32, 32), dtype=np.uint32)
    write_annotation(noise, "instances")
