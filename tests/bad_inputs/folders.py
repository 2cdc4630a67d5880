"""Folders of slices that do not form a stack, and paths that are not regular files."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import tifffile

from .harness import Group
from .png_images import png_bytes
from .sound import HEADER, SOUND_ROWS, bad_row, cells, gray, write_table
from .tiff_images import write_tiff

GROUP = Group("Images: folders and special files")
add, case = GROUP.add, GROUP.case


def write_slices(names: list[str], shape: tuple[int, ...] = (32, 32)) -> None:
    """Write a folder of files with these names, and use it as the images of the volume `bad`."""
    Path("slices").mkdir()
    for name in names:
        if name.endswith(".tif"):
            tifffile.imwrite(f"slices/{name}", gray(*shape), photometric="minisblack")
        else:
            Path("slices", name).write_bytes(png_bytes(gray(*shape)))
    bad_row("slices")


add("empty folder", write_slices, [])
add("folder without images", write_slices, ["notes.txt"])
add("folder with PNG and TIFF", write_slices, ["s1.png", "s2.tif"])
add("folder in which a number appears twice", write_slices, ["s1.png", "s01.png", "s2.png"])
add("folder with a mask beside each image", write_slices, ["s1.png", "s1_mask.png", "s2.png", "s2_mask.png"])
add(
    "folder with one file per channel",
    write_slices,
    ["s1_ch00.png", "s1_ch01.png", "s2_ch00.png", "s2_ch01.png"],
)
add("folder with an overview beside the slices", write_slices, ["overview.tif", "s1.tif", "s2.tif"])
add("folder with a GIF among the slices", write_slices, ["s1.png", "s2.png", "s3.gif"])
add("folder of files with several sections each", write_slices, ["s1.tif", "s2.tif"], (2, 32, 32))


@case("pattern that matches no file")
def _():
    write_slices(["s1_ch00.png"])
    bad_row("slices/*_ch1.png")


def pair(images: list[str], labels: list[str]) -> None:
    """Write a folder of images and a folder of labels."""
    write_slices(images)
    Path("truth").mkdir()
    for name in labels:
        tifffile.imwrite(f"truth/{name}", cells(), photometric="minisblack")
    bad_row("slices", "truth", split="test")


add("annotation of another slice", pair, ["cellA.tif", "cellB.tif"], ["cellA.tif", "cellC.tif"])
add(
    "annotation of a part of the slices",
    pair,
    ["t0.tif", "t1.tif", "t2.tif"],
    ["man_seg0.tif", "man_seg2.tif"],
)


add(
    "annotation whose names have other words for two numbers",
    pair,
    ["x1_y2.tif", "x2_y1.tif"],
    ["row1_col2.tif", "row2_col1.tif"],
)


@case("slice of a folder in two splits")
def _():
    write_slices(["s1.tif", "s2.tif"])
    rows = "one\tslices\tlabels.tif\t\ttrain\ntwo\tslices/s1.tif\tlabels.tif\t\ttest\n"
    tifffile.imwrite("labels.tif", np.stack([cells()] * 2), photometric="minisblack")
    tifffile.imwrite("images.tif", gray(2, 32, 32), photometric="minisblack")
    write_table(HEADER + SOUND_ROWS + rows.replace("slices/s1.tif\tlabels.tif", "slices/s1.tif\ttruth.tif"))
    tifffile.imwrite("truth.tif", cells(), photometric="minisblack")


@case("folder of slices of two sizes")
def _():
    write_slices(["s1.png", "s2.png"])
    Path("slices/s2.png").write_bytes(png_bytes(gray(16, 32)))


@case("folder with a damaged slice")
def _():
    write_slices(["s1.png", "s2.png"])
    Path("slices/s2.png").write_bytes(b"broken")


@case("folder inside the folder of slices")
def _():
    write_slices(["s1.png", "s2.png"])
    Path("slices/s3.png").mkdir()


@case("named pipe")
def _():
    os.mkfifo("a.tif")
    bad_row("a.tif")


@case("device that never ends")
def _():
    os.symlink("/dev/zero", "a.tif")
    bad_row("a.tif")


@case("socket")
def _():
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("a.tif")
    bad_row("a.tif")


@case("link to itself")
def _():
    os.symlink("a.tif", "a.tif")
    bad_row("a.tif")


@case("link to a deleted file")
def _():
    os.symlink("gone.tif", "a.tif")
    bad_row("a.tif")


@case("file without read permission", user=65534)
def _():
    write_tiff()
    os.chmod("a.tif", 0)


add("file name of 5,000 characters", bad_row, f"{'a' * 5000}.tif")
