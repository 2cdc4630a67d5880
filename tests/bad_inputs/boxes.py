"""Files of boxes that cannot be read, or do not fit their images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tifffile

from .harness import Group
from .sound import bad_row, gray, write_config

GROUP = Group("Files of boxes")
add, case = GROUP.add, GROUP.case


def use(annotation: str, images: str = "one.tif", dataset: str = "", **columns: str) -> None:
    """Write the image one.tif (30 x 40 px, height x width) and a row with boxes."""
    tifffile.imwrite("one.tif", gray(30, 40), photometric="minisblack")
    bad_row(images, annotation, **columns)
    if dataset:
        write_config(f"dataset: {dataset}\n")


def write_text(name: str, text: str, **options: str) -> None:
    """Write a file of boxes and use it."""
    Path(name).write_text(text)
    use(name, **options)


def coco(*boxes: Any, names: tuple[str, ...] = ("one.tif",), size: tuple[int, int] = (30, 40)) -> str:
    """Return a COCO file; a box is a `bbox`, or a whole annotation."""
    annotations = [
        {"id": n, "image_id": 1, "category_id": 1} | (box if isinstance(box, dict) else {"bbox": box})
        for n, box in enumerate(boxes)
    ]
    images = [
        {"id": n, "file_name": name, "height": size[0], "width": size[1]} for n, name in enumerate(names, 1)
    ]
    categories = [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "mitosis"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def voc(x0: object, y0: object, x1: object, y1: object) -> str:
    """Return a file of Pascal VOC with one box."""
    box = f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    return f"<annotation><object><name>nucleus</name><bndbox>{box}</bndbox></object></annotation>"


SOUND = [3, 4, 10, 12]
TWO = (SOUND, {"bbox": [20, 4, 10, 12], "category_id": 2})

add("file that does not exist", use, "none.json")
add("no JSON", write_text, "a.json", "boxes")
add("COCO without categories", write_text, "a.json", coco(SOUND).replace('"categories"', '"classes"'))
add("COCO without the image", write_text, "a.json", coco(SOUND, names=("a.tif", "b.tif")))
add(
    "COCO whose annotation names no image",
    write_text,
    "a.json",
    coco(SOUND, {"bbox": SOUND, "image_id": 7}),
)
add("COCO of an image of another size", write_text, "a.json", coco(SOUND, size=(60, 80)))
add("COCO with a box outside of the image", write_text, "a.json", coco(SOUND, [45, 4, 10, 12]))
add("COCO with x and y exchanged", write_text, "a.json", coco([4, 30, 12, 10], [2, 3, 5, 5]))
add("COCO with an inverted box", write_text, "a.json", coco(SOUND, [13, 4, -10, 12]))
add("COCO with a box of no size", write_text, "a.json", coco(SOUND, [3, 4, 0, 12]))
add("COCO with NaN", write_text, "a.json", coco(SOUND, [3, float("nan"), 10, 12]))
add("COCO with a text instead of a number", write_text, "a.json", coco(SOUND, [3, "4", 10, 12]))
add(
    "COCO with edges instead of width and height",
    write_text,
    "a.json",
    coco([30, 20, 38, 28], [25, 20, 33, 28]),
)
add("two classes of boxes", write_text, "a.json", coco(*TWO))
add(
    "a class of boxes that is not known",
    write_text,
    "a.json",
    coco(*TWO),
    dataset="{classes: {background: 0, nucleus: 1}}",
)
add("box that begins at pixel 0, in Pascal VOC", write_text, "one.xml", voc(0, 5, 9, 9))
add("fractions in Pascal VOC", write_text, "one.xml", voc(1.5, 5, 9, 9))
add(
    "fractions that are stated to be pixels",
    write_text,
    "one.xml",
    voc(1.5, 5, 9, 9),
    dataset="{box_coordinates: pixels_from_0}",
)
add("word instead of a number in Pascal VOC", write_text, "one.xml", voc("nan", 5, 9, 9))
add(
    "entities that expand to 10,000,000 letters (bomb)",
    write_text,
    "one.xml",
    "<!DOCTYPE a [<!ENTITY b 'bbbbbbbbbb'>"
    + "".join(f"<!ENTITY b{n} '{f'&b{n - 1};' * 10}'>" for n in range(1, 7)).replace("&b0;", "&b;")
    + "]><annotation>&b6;</annotation>",
)
add("px instead of relative numbers in YOLO", write_text, "one.txt", "0 20 15 6 8\n")
add("polygon in YOLO", write_text, "one.txt", "0 .1 .1 .2 .1 .2 .2\n")


@case("class of YOLO without a name")
def _():
    Path("classes.txt").write_text("nucleus\n")
    write_text("one.txt", "3 .5 .5 .1 .1\n")


@case("image without boxes of YOLO")
def _():
    for folder in ("stack", "boxes"):
        Path(folder).mkdir()
    for name in "abc":
        tifffile.imwrite(f"stack/{name}.tif", gray(30, 40), photometric="minisblack")
    for name in "ac":
        Path(f"boxes/{name}.txt").write_text("0 .5 .5 .1 .1\n")
    use("boxes", "stack")


@case("folder with two formats of boxes")
def _():
    Path("boxes").mkdir()
    Path("boxes/one.txt").write_text("0 .5 .5 .1 .1\n")
    Path("boxes/one.xml").write_text(voc(1, 5, 9, 9))
    use("boxes")


add("table without corners", write_text, "a.csv", "x,y\n3,4\n")
add("table with a corner or a centre", write_text, "a.csv", "x,y,width,height\n3,4,5,6\n")
add("table with relative numbers", write_text, "a.csv", "x0,y0,x1,y1\n0.1,0.2,0.3,0.4\n")
add("table with corners that can be no edges", write_text, "a.csv", "xmin,ymin,xmax,ymax\n4,2,4,9\n")
add(
    "table that does not name the section", write_text, "a.csv", "x0,y0,x1,y1\n3,4,5,6\n", images="images.tif"
)
add(
    "table with a section that does not exist",
    write_text,
    "a.csv",
    "section,x0,y0,x1,y1\n3,3,4,5,6\n",
    images="images.tif",
)
add(
    "table without boxes of some sections",
    write_text,
    "a.csv",
    "section,x0,y0,x1,y1\n0,3,4,5,6\n",
    images="images.tif",
)
add("table of another volume", write_text, "a.csv", "volume,section,x0,y0,x1,y1\nv,0,3,4,5,6\n")
add(
    "file larger than any annotation",
    lambda: (Path("a.json").touch(), os.truncate("a.json", 2**30), use("a.json")),
)
add("named pipe instead of boxes", lambda: (os.mkfifo("a.csv"), use("a.csv")))
add(
    "mask of ignored pixels of another size, with boxes",
    write_text,
    "a.csv",
    "x0,y0,x1,y1\n3,4,5,6\n",
    ignore_mask="images.tif",
)
add("size of objects in um in the table", write_text, "a.csv", "x0,y0,x1,y1\n3,4,5,6\n", minimum_size="3 um2")


@case("boxes for a network that learns pixels")
def _():
    write_text("a.json", coco(SOUND))
    bad_row("one.tif", "a.json", split="test")


@case("boxes for a network that learns masks")
def _():
    write_text("a.json", coco(SOUND))
    write_config("network: {name: ssd, masks: true}\n")
