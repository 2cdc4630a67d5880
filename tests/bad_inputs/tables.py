"""Malformed tables of volumes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from .harness import Group
from .hdf5_images import write_hdf5
from .sound import HEADER, SOUND_ROWS, bad_row, gray, write_table

GROUP = Group("Tables of volumes")
add, case = GROUP.add, GROUP.case


add("missing file", lambda: Path("volumes.tsv").unlink())
add("empty file", write_table, "")
add("header only", write_table, HEADER)
add("folder instead of a file", lambda: (Path("volumes.tsv").unlink(), Path("volumes.tsv").mkdir()))
add("named pipe instead of a file", lambda: (Path("volumes.tsv").unlink(), os.mkfifo("volumes.tsv")))
add("file larger than any table", lambda: os.truncate("volumes.tsv", 2**30))
add("columns separated by commas", write_table, (HEADER + SOUND_ROWS).replace("\t", ","))
add("columns separated by spaces", write_table, (HEADER + SOUND_ROWS).replace("\t", "  "))


@case("Excel workbook named .tsv")
def _():
    with zipfile.ZipFile("volumes.tsv", "w") as workbook:
        workbook.writestr(zipfile.ZipInfo("xl/worksheets/sheet1.xml"), np.random.default_rng(0).bytes(300))


add("Latin-1 encoding", write_table, (HEADER + SOUND_ROWS).replace("images", "bildér").encode("latin-1"))
add("UTF-16 cut off within a character", write_table, (HEADER + SOUND_ROWS).encode("utf-16")[:-1])
add("missing column", write_table, (HEADER + SOUND_ROWS).replace("images\t", "").replace("images.tif\t", ""))
add("unknown column", write_table, (HEADER + SOUND_ROWS).replace("sections", "section"))
add("duplicate column", write_table, (HEADER + SOUND_ROWS).replace("annotation\t", "images\t", 1))
add("extra cell", write_table, HEADER + SOUND_ROWS.replace("train\n", "train\tx\n"))
add("duplicate volume", lambda: bad_row(split="test", annotation="labels.tif", sections="2", name="Learn"))
for case_name, name in {
    "name that leads to another folder (`..`)": "..",
    "name with a slash": "../../etc/passwd",
    "name with a space": "a b",
    "name with a non-ASCII letter": "zelle_ä",
    "name reserved by Windows": "con",
    "name of 300 characters": "a" * 300,
    "name that starts with a dash": "-rf",
    "name that starts with a dot": ".a",
    "name that ends with a dot": "a.",
    "wildcard as name": "*",
    "braces in a name": "{volume}",
    "shell command in a name": "a;rm -rf x",
    "quote in a name": "a'b",
    "empty name": "",
}.items():
    add(case_name, bad_row, name=name)
add("unmatched quote", lambda: bad_row(name='"bad'))
add("NUL in a path", bad_row, "a\0b.tif")
add("braces in a path", bad_row, "{volume}.tif")
add("cell of 200,000 characters", bad_row, "a" * 200_000)
add("no images", bad_row, "")
add("unknown split", bad_row, split="tset")
add("pixel size that is no number", bad_row, pixel_size="0,5")
add("training volume without annotation", bad_row, split="train")
add("no training volume", write_table, HEADER + SOUND_ROWS.replace("train", "test"))
add("no validation volume", write_table, HEADER + SOUND_ROWS.replace("validation", "test"))
for case_name, sections in {
    "sections that do not exist": "2-9",
    "descending range of sections": "2-1",
    "duplicate section": "1-2,2",
    "sections that a spreadsheet converted to a date": "02. Jan",
    "negative sections": "-3",
    "range of a thousand million sections": "0-999999999",
}.items():
    add(case_name, bad_row, sections=sections)
add("section used for training and test", bad_row, annotation="labels.tif", sections="0,2", split="test")
add(
    "section used for training and test, through a symbolic link",
    lambda: (os.symlink("images.tif", "other.tif"), bad_row("other.tif", "labels.tif", "0", "test")),
)
add(
    "section used for training and test, through a hard link",
    lambda: (os.link("images.tif", "other.tif"), bad_row("other.tif", "labels.tif", "0", "test")),
)
for case_name, cells in {
    "row that does not exist": "2\ttest\t0-99",
    "rows that are no range": "2\ttest\t0,5",
    "descending range of rows": "2\ttest\t9-5",
    "row used for training and test": "0\ttest\t8-15",
}.items():
    bad = f"bad\timages.tif\tlabels.tif\t{cells}\n"
    add(case_name, write_table, HEADER.replace("\n", "\trows\n") + SOUND_ROWS + bad)


@case("section used for training and test, with two spellings of an HDF5 dataset")
def _():
    with write_hdf5() as file:
        file["raw"] = gray(3, 32, 32)
    rows = SOUND_ROWS.replace("images.tif\tlabels.tif\t0", "a.h5:/raw\tlabels.tif\t0")
    write_table(f"{HEADER}{rows}bad\ta.h5:raw\tlabels.tif\t0\ttest\n")
