"""Boxes in files of Pascal VOC and YOLO, one for each image.

- Pascal VOC: XML. Corners are the first and last pixels of an object, counted from 1, in the files of the
  challenge. Many programs write edges instead.
- YOLO: text, with `class centre_x centre_y width height` in each line, relative to the size of the image.
  Classes are numbers from 0. An image without objects may have no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

import yaml

from pipeline_lib.imageio.boxes.source import Source, Stated, content_of, flag_in, number_in, text_of
from pipeline_lib.imageio.naming import natural_key
from pipeline_lib.runtime.errors import InputError

_LARGEST = 16 * 2**20  # bytes; 200,000 boxes of an image
_NAMES_FILES = ("classes.txt", "obj.names", "data.yaml")
_NO_LABELS = re.compile(r"classes|labels|train|val|valid|validation|test|readme.*", re.IGNORECASE)
_OTHER_SCALE = 1.1  # a relative number above this is in px, not an object that the edge of the image cuts


def read_voc(path: Path) -> Stated:
    """Return the boxes of an XML file of Pascal VOC."""
    root = _xml(path)
    found = root.find("size")
    numbers = [found.findtext(key, "") if found is not None else "" for key in ("height", "width")]
    size = None
    if all(re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", number) for number in numbers):
        size = int(numbers[0]), int(numbers[1])
    stated = Stated(path, size, root.findtext("filename", "").strip())
    for number, item in enumerate(root.findall("object"), 1):
        name = item.findtext("name", "").strip()
        where = f"object {number} ({name:.60})"
        if not name:
            raise InputError(f"{path}, object {number}: `name` is empty or missing; expected the class.")
        corners = item.find("bndbox")
        if corners is None:
            inner = ", ".join(child.tag for child in item)
            raise InputError(f"{path}, {where}: no `bndbox` (found: {inner:.100}). Export boxes.")
        texts = {key: corners.findtext(key, "").strip() for key in ("xmin", "ymin", "xmax", "ymax")}
        x0, y0, x1, y1 = (
            number_in(text, partial("{}, {}, `{}`".format, path, where, key)) for key, text in texts.items()
        )
        stated.add(
            (y0, x0, y1, x1),
            name,
            partial("{}, {}".format, where, ", ".join(f"{key} {text:.40}" for key, text in texts.items())),
            flag_in(item.findtext("difficult", "0"), partial("{}, {}, `difficult`".format, path, where)),
        )
    return stated


def _xml(path: Path) -> ElementTree.Element:
    """Return the root of an XML file. A document type is refused: its entities can fill the memory."""
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()

    def refuse(*_: object) -> None:
        raise InputError(f"{path}: found a document type (`<!DOCTYPE`), which is not read. Remove it.")

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(content_of(path, _LARGEST), True)
        root = builder.close()
    except InputError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as error:  # a damaged file, an unknown encoding
        raise InputError(f"{path}: not valid XML ({error}). Export the annotation again.") from error
    if root.tag != "annotation":
        raise InputError(f"{path}: found `<{root.tag:.60}>`, expected `<annotation>`. Export Pascal VOC.")
    return root


def read_yolo(path: Path, shape: tuple[int, int], names: Sequence[str] | None) -> Stated:
    """Return the boxes of a text file of YOLO; `shape` is the height and width of the image."""
    stated = Stated(path)
    for number, line in enumerate(text_of(path, _LARGEST).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        where = partial("{}, line {}".format, path, number)
        if len(cells) not in (5, 6):
            more = " Longer lines are polygons or key points; export boxes." if len(cells) > 6 else ""
            raise InputError(
                f"{where()}: found {len(cells)} values, expected 5 (class, centre x, centre y, width, "
                f"height) or 6 with a score.{more}"
            )
        if not re.fullmatch(r"[0-9]{1,6}", cells[0]):
            raise InputError(f"{where()}: found the class `{cells[0]:.60}`, expected its number, from 0.")
        own = int(cells[0])
        if names is not None and own >= len(names):
            raise InputError(
                f"{where()}: found the class {own} (from 0), but there are names for {len(names)} classes. "
                f"Correct {' or '.join(_NAMES_FILES)}."
            )
        x, y, width, height = (number_in(cell, where) for cell in cells[1:5])
        if max(map(abs, (x, y, width, height))) > _OTHER_SCALE:
            raise InputError(
                f"{where()}: found `{line.strip():.80}`, expected a centre and a size relative to the image, "
                "from 0 to 1. Divide x by the width and y by the height of the image, if these are px."
            )
        y, x, height, width = y * shape[0], x * shape[1], height * shape[0], width * shape[1]
        stated.add(
            (y - height / 2, x - width / 2, y + height / 2, x + width / 2),
            str(own) if names is None else names[own],
            partial("line {}, `{:.80}`".format, number, line.strip()),
            score=number_in(cells[5], where) if len(cells) == 6 else math.nan,
        )
    return stated


def _class_names(folder: Path) -> tuple[list[str] | None, list[Path], str]:
    """Return the names of YOLO's classes, their files and a note.

    They are in the folder of the labels or up to two folders above.
    """
    for place in (folder, *folder.absolute().parents[:2]):
        found = {file.name: _names_in(file) for name in _NAMES_FILES if (file := place / name).is_file()}
        if len({*map(tuple, found.values())}) > 1:
            raise InputError(f"{place}: {' and '.join(found)} name different classes. Remove one of them.")
        for name, names in found.items():
            files = [place / other for other in found]
            return names, files, f"names of {len(names)} classes from {place / name}"
    return None, [], f"classes are numbers, because none of {', '.join(_NAMES_FILES)} was found"


def _names_in(path: Path) -> list[str]:
    text = text_of(path, 2**20)
    if path.suffix != ".yaml":
        return [line.strip() for line in text.strip().splitlines()]
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML ({error}).") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and {*names} == {*range(len(names))}:
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, (str, int)) for name in names):
        raise InputError(f"{path}: found no `names`, expected the name of each class, from class 0.")
    return [str(name) for name in names]


def open_files(path: Path, files: Sequence[Path], shape: tuple[int, int]) -> Source:
    """Return the entries of files of Pascal VOC or YOLO, one for each image."""
    files = sorted(files, key=lambda file: natural_key(file.name))
    voc = [file for file in files if file.suffix.lower() == ".xml"]
    texts = [file for file in files if file.suffix.lower() == ".txt"]
    yolo = [file for file in texts if file == path or not _NO_LABELS.fullmatch(file.stem)]
    if voc and yolo:
        raise InputError(
            f"{path}: found files .xml (Pascal VOC: {len(voc)}) and .txt (YOLO: {len(yolo)}). Choose one "
            "kind with a pattern: add /*.xml or /*.txt to the path."
        )
    if voc:
        return Source(
            "Pascal VOC",
            [file.name for file in voc],
            lambda number: read_voc(voc[number]),
            [f"files of Pascal VOC: {len(voc)}"],
            corners="pixels_from_1",
            written="corners",
        )
    if not yolo:
        other = [file.name for file in files if file.suffix.lower() in (".json", ".csv", ".tsv")]
        fix = f"Add a name to the path: /{other[0]}." if other else "Check the path."
        raise InputError(f"{path}: found no files .xml (Pascal VOC) or .txt (YOLO). {fix}")
    names, of_names, note = _class_names(yolo[0].parent)
    return Source(
        "YOLO",
        [file.name for file in yolo],
        lambda number: read_yolo(yolo[number], shape, names),
        [f"files of YOLO: {len(yolo)}", note],
        files=of_names,
    )
