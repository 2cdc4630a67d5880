"""Annotations that are not membranes or instance labels, or do not fit their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from .harness import Group
from .sound import bad_row, cells, gray, sound_run, write_config

GROUP = Group("Annotations")
add, case = GROUP.add, GROUP.case


def write_annotation(array: np.ndarray, dataset: str = "", mask: str = "", **options: Any) -> None:
    """Write the annotation of the volume `bad`; `dataset` is the section of the config."""
    tifffile.imwrite("a.tif", array, **({"photometric": "minisblack"} | options))
    columns = {"ignore_mask": mask} if mask else {}
    bad_row(annotation="a.tif", sections="2", split="test", **columns)
    if dataset:
        write_config(f"dataset: {dataset}\n")


def stack3(section: np.ndarray) -> np.ndarray:
    """Return three times the same section."""
    return np.repeat(section[None], 3, axis=0)


def noise() -> np.ndarray:
    """Return a stack in which each pixel has its own value."""
    return np.random.default_rng(0).integers(0, 2**32, (3, 32, 32), dtype=np.uint32)


def discs(background: int, inside: int, border: int) -> np.ndarray:
    """Return a section of four cells, each a disc with a ring of another value."""
    y, x = np.mgrid[:32, :32] % 16 - 8
    radius = np.hypot(y, x)
    return np.where(radius < 4, inside, np.where(radius < 6, border, background)).astype(np.uint8)


def labels_and(value: int, dtype: type) -> np.ndarray:
    """Return a stack of 12 labels and one other value on the right."""
    labels = np.zeros((3, 32, 32), dtype)
    for number in range(12):
        labels[:, 8 * (number // 3) : 8 * (number // 3) + 6, 8 * (number % 3) : 8 * (number % 3) + 6] = (
            number + 1
        )
    labels[:, :, 26:] = value
    return labels


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


def coloured(section: np.ndarray) -> np.ndarray:
    """Return a stack of a section with a colour for each of its values."""
    return stack3(np.array([[255, 255, 255], [255, 0, 0], [0, 160, 0]], np.uint8)[section])


add("colours of classes", write_annotation, coloured(discs(0, 1, 2)), photometric="rgb")
add(
    "a colour without a class",
    write_annotation,
    coloured(discs(0, 1, 2)),
    "{annotation_kind: classes, classes: {background: 0xFFFFFF, cell: 0xFF0000}}",
    photometric="rgb",
)


@case("gray levels saved as JPEG")
def _():
    tifffile.imwrite("one.tif", gray(32, 32))
    Path("a.jpg").write_bytes(imagecodecs.jpeg8_encode(gray(32, 32)))
    bad_row("one.tif", "a.jpg", split="test")


add("four channels", write_annotation, gray(3, 32, 32, 4), photometric="rgb", extrasamples=["unspecified"])
add("two values, neither of them 0", write_annotation, stack3(cells() // 255 + 1))
add(
    "instance labels, but configured as membranes",
    write_annotation,
    stack3((np.arange(32) // 8 * np.ones((32, 1))).astype(np.uint8)),
    "{annotation_kind: black_membranes}",
)


@case("three classes instead of cells")
def _():
    sound_run()
    wide = np.where(cells(256) == 0, 0, np.where(np.arange(256) < 128, 1, 2)).astype(np.uint8)
    tifffile.imwrite("images.tif", gray(3, 256, 256), photometric="minisblack")
    tifffile.imwrite("labels.tif", stack3(cells(256)), photometric="minisblack")
    write_annotation(stack3(wide))


add("32-bit noise, a different label for each pixel", write_annotation, noise())
add("class mask with interior and border of 8 cells", write_annotation, stack3(discs(0, 1, 2)))
add("classes 1, 2, 3 of ilastik", write_annotation, stack3(discs(1, 2, 3)))
add("labels and 255", write_annotation, labels_and(255, np.uint8))
add("labels and -1", write_annotation, labels_and(-1, np.int32))
add("labels and 2^64 - 1", write_annotation, labels_and(2**64 - 1, np.uint64))
add("two values of equal shapes", write_annotation, stack3(np.arange(32) // 4 % 2 * np.full((32, 1), 255)))
add(
    "labels that are used for several cells",
    write_annotation,
    stack3(np.arange(64).reshape(8, 8).repeat(4, 0).repeat(4, 1) % 12),
)
add(
    "a value without a class",
    write_annotation,
    stack3(discs(0, 1, 2)),
    "{annotation_kind: classes, classes: {background: 0, cell: 1}}",
)
add("classes without values", write_annotation, stack3(discs(0, 1, 2)), "{annotation_kind: classes}")
add("every pixel ignored", write_annotation, np.full((3, 32, 32), 9, np.uint8), "{ignore: 9}")


@case("stack with sections that have no cell")
def _():
    labels = labels_and(0, np.uint16)
    labels[1] = 0
    write_annotation(labels)
    tifffile.imwrite("i.tif", gray(3, 32, 32), photometric="minisblack")
    bad_row("i.tif", "a.tif", split="test")


@case("mask of ignored pixels of another size")
def _():
    tifffile.imwrite("mask.tif", gray(3, 32, 31), photometric="minisblack")
    write_annotation(stack3(cells()), mask="mask.tif")


@case("masks of cells that overlap")
def _():
    tifffile.imwrite("image.tif", gray(16, 16), photometric="minisblack")
    Path("masks").mkdir()
    for name in "ab":
        tifffile.imwrite(f"masks/{name}.tif", discs(0, 0, 255)[:16, :16], photometric="minisblack")
    bad_row("image.tif", annotation="masks", split="test")


@case("sections that are one single cell")
def _():
    labels = labels_and(0, np.uint16)
    labels[1] = 5
    write_annotation(labels)
    tifffile.imwrite("i.tif", gray(3, 32, 32), photometric="minisblack")
    bad_row("i.tif", "a.tif", split="test")


@case("masks of two classes instead of one cell each")
def _():
    tifffile.imwrite("image.tif", gray(32, 32), photometric="minisblack")
    Path("masks").mkdir()
    y, x = np.mgrid[:32, :32] % 16
    for name, column in (("nuclei", 0), ("cytoplasm", 8)):
        here = (y < 12) & (x >= column) & (x < column + 6)
        tifffile.imwrite(f"masks/{name}.tif", np.uint8(here) * 255, photometric="minisblack")
    bad_row("image.tif", annotation="masks", split="test")


add("outlines of cells", write_annotation, stack3(discs(0, 0, 255) & ~np.roll(discs(0, 0, 255), 1, 0)))
add(
    "a fibre across the image",
    write_annotation,
    stack3(np.uint8(np.arange(32)[:, None] // 9 == 1) * np.full(32, 255, np.uint8)),
)
add("background 1", write_annotation, labels_and(0, np.uint16) + 1)
add("background 32768", write_annotation, labels_and(0, np.uint16) + 32768)
add("labels of 16-bit floats above 2048", write_annotation, np.float16(labels_and(0, np.uint16) * 300))
add("a background that the type cannot have", write_annotation, labels_and(0, np.uint8), "{background: 300}")
