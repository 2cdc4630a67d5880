"""Tables of boxes (CSV): those of bordure, and the usual ones of other programs.

The names of the columns say what the corners are. Upper and lower case, spaces and hyphens do not matter.

- `x0, y0, x1, y1`: edges in px, counted from 0, as in `detections.csv`.
- `bbox-0 ... bbox-3`: scikit-image's `regionprops_table`, and the tables of cells of bordure.
- `xmin, ymin, xmax, ymax`, `x1, y1, x2, y2` or `left, top, right, bottom`, and lines `image, x1, y1, x2, y2,
  class` without a header (keras-retinanet): edges, unless `coordinates` says otherwise.
- `left, top, width, height` or `bbox_x, bbox_y, bbox_width, bbox_height`: left and upper edge, and size.
- `BX, BY, Width, Height`: a table of measurements of ImageJ. `Slice` counts from 1.
- `index, shape-type, vertex-index, axis-0 ...`: shapes of napari. 0 is the middle of the first pixel.

A line with four empty corners says that an image has no objects.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.imageio.boxes.source import (
    DEFAULT_CLASS,
    Source,
    Stated,
    file_name,
    flag_in,
    listed,
    number_in,
    stem_of,
    text_of,
)
from pipeline_lib.runtime.errors import InputError


class _Corners(NamedTuple):
    """Four columns with the corners of boxes: left, upper, right and lower, or width and height.

    Parameters
    ----------
    columns : tuple of str
        Names of the columns.
    size : bool, default False
        Whether the last two are width and height.
    usual : str, optional
        What corners usually are, if the names do not say so.
    classes : tuple of str
        Columns that can have the class; the first that exists is used.
    """

    columns: tuple[str, str, str, str]
    size: bool = False
    usual: str | None = None
    classes: tuple[str, ...] = ("class", "class_name", "label", "label_name", "category", "name")


_IMAGEJ = _Corners(("bx", "by", "width", "height"), True, classes=("class",))  # `Label` is the image
_MEASURED = _Corners(("bbox_1", "bbox_0", "bbox_3", "bbox_2"), classes=("class",))  # `label` is a number
_KNOWN = (
    _Corners(("x0", "y0", "x1", "y1")),
    _MEASURED,
    _IMAGEJ,
    _Corners(("xmin", "ymin", "xmax", "ymax"), usual="edges"),
    _Corners(("x_min", "y_min", "x_max", "y_max"), usual="edges"),
    _Corners(("x1", "y1", "x2", "y2"), usual="edges"),
    _Corners(("left", "top", "right", "bottom"), usual="edges"),
    _Corners(("left", "top", "width", "height"), size=True),
    _Corners(("bbox_x", "bbox_y", "bbox_width", "bbox_height"), size=True),
)
_WITHOUT_HEADER = ("image", "x1", "y1", "x2", "y2", "class")
_IMAGE = ("image", "filename", "file_name", "image_name", "image_path", "path", "file")
_SCORE = ("score", "confidence", "probability")
_IGNORED = ("ignored", "difficult", "iscrowd")


class _Table(NamedTuple):
    """A table: the names of its columns, and number and cells of each line."""

    path: Path
    header: list[str]
    lines: list[tuple[int, list[str]]]

    def find(self, *names: str) -> int | None:
        """Return the place of the first of some columns that exists."""
        return next((self.header.index(name) for name in names if name in self.header), None)

    def values(self, place: int) -> set[str]:
        """Return the different values of a column."""
        return {cells[place] for _, cells in self.lines}


def open_table(path: Path, volume: str | None, images: Sequence[str], sections: int) -> Source:
    """Return the entries of a table of boxes.

    Parameters
    ----------
    path : Path
        The table: cells are separated by commas, semicolons or tabs.
    volume : str or None
        Name of the volume; lines of others are left out if there is a column `volume`.
    images : sequence of str
        Names of the image files.
    sections : int
        Number of sections in the image files.
    """
    table = _read(path)
    if {"shape_type", "vertex_index", "axis_0", "axis_1"} <= {*table.header}:
        return _shapes(table)
    found = [known for known in _KNOWN if {*known.columns} <= {*table.header}]
    if len(found) > 1:
        columns = " and ".join(f"`{', '.join(known.columns)}`" for known in found)
        raise InputError(f"{path}: found boxes in the columns {columns}. Remove those that are not meant.")
    if not found and {"x", "y", "width", "height"} <= {*table.header}:
        raise InputError(
            f"{path}: the columns `x` and `y` can be a corner or the centre of a box. Call them `left` and "
            "`top` if they are its upper left corner."
        )
    if not found:
        raise InputError(
            f"{path}: no corners of boxes in the columns {', '.join(table.header):.200}. Name four of them "
            "x0, y0, x1 and y1 (left, upper, right and lower edge in px, from 0)."
        )
    [corners] = found
    return _boxes(table, corners, volume, images, sections)


def counts_in_volume(path: Path) -> bool:
    """Return whether a table names volumes, or numbers the selected sections of a volume."""
    columns = {*_read(path).header}
    return "volume" in columns or ("section" in columns and {*_MEASURED.columns} <= columns)


def _read(path: Path) -> _Table:
    """Return the lines of a table that are not empty, with the columns in lower case."""
    return _parsed(path, text_of(path))


@lru_cache(maxsize=1)  # one file often has the boxes of many volumes
def _parsed(path: Path, text: str) -> _Table:
    """Return the lines in the text of a table."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    lines = []
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter != "\t"
    )
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                lines.append((reader.line_num, [cell.strip() for cell in row]))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: cannot be read ({error}). Correct it.") from error
    if not lines:
        raise InputError(f"{path}: the table is empty. Its first line has the names of the columns.")
    header = lines[0][1]
    if len(header) == 6 and header[0] and (not any(header[1:5]) or all(map(_is_number, header[1:5]))):
        return _full(_Table(path, [*_WITHOUT_HEADER], lines))
    names = [re.sub(r"[^a-z0-9]+", "_", name.casefold()).strip("_") for name in header]
    for name in names:
        if name and names.count(name) > 1:
            raise InputError(f"{path}: the column `{name:.60}` appears {names.count(name)} times. Keep one.")
    return _full(_Table(path, names, lines[1:]))


def _full(table: _Table) -> _Table:
    """Return a table whose lines have a cell for each column."""
    columns = len(table.header)
    for line, cells in table.lines:
        if any(cells[columns:]):
            raise InputError(
                f"{table.path}, line {line}: found {len(cells)} cells, expected {columns}. Put quotes around "
                "names that contain the separator."
            )
    lines = [(line, (cells + [""] * columns)[:columns]) for line, cells in table.lines]
    return table._replace(lines=lines)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", text) is not None


def _boxes(
    table: _Table, corners: _Corners, volume: str | None, images: Sequence[str], sections: int
) -> Source:
    """Return the entries of a table with one box in each line."""
    path = table.path
    place_of = {
        "class": table.find(*corners.classes),
        "score": table.find(*_SCORE),
        "ignored": table.find(*_IGNORED),
    }
    of_volume = table.find("volume")
    others = sorted(table.values(of_volume) - {volume}) if of_volume is not None else []
    if corners is _IMAGEJ:
        table, image, section = _labels_of_imagej(table, sections)
    else:
        table, image, section = _addresses(table, volume, images, sections)
    first = int(corners is _IMAGEJ)  # number of the first section
    entries: dict[str | int, list[tuple[int, list[str]]]] = {}
    for line, cells in table.lines:
        key: str | int = "" if image is None else cells[image]
        if section is not None:
            key = _section(f"{path}, line {line}, `{table.header[section]}`", cells[section], first)
        entries.setdefault(key, []).append((line, cells))
    keys = [*entries]

    places = [table.header.index(name) for name in corners.columns]

    def read(number: int) -> Stated:
        lines = entries[keys[number]]
        stated = Stated(path, _size(table, lines[0][1], corners))
        for line, cells in lines:
            own = {key: cells[place] for key, place in place_of.items() if place is not None}
            _add(stated, line, [cells[place] for place in places], corners, own)
        return stated

    used = [
        *corners.columns,
        *(table.header[n] for n in (of_volume, image, section, *place_of.values()) if n is not None),
    ]
    notes = [f"table with the columns {', '.join(used)}"]
    if section is not None:
        notes.append(f"`{table.header[section]}` counts from {first}")
    if corners is _IMAGEJ:
        notes.append("whole numbers, so in px")
    if place_of["class"] is None:
        notes.append(f"no column `{corners.classes[0]}`: all are of the class {DEFAULT_CLASS}")
    numbers = None if section is None else [int(key) for key in keys]
    selected = of_volume is not None or corners is _MEASURED
    names = [str(key) for key in keys]
    written = "size" if corners.size else "corners"
    return Source("table", names, read, notes, numbers, selected, corners.usual, written, others)


def _addresses(
    table: _Table, volume: str | None, images: Sequence[str], sections: int
) -> tuple[_Table, int | None, int | None]:
    """Return the lines of a volume, and the columns with the image and with the section that count."""
    of_volume, image, section = table.find("volume"), table.find(*_IMAGE), table.find("section")
    if of_volume is not None:
        found = table.values(of_volume)
        if volume is None and len(found) > 1:
            raise InputError(
                f"{table.path}: found boxes of the volumes {listed(sorted(found))}. Say which one is wanted."
            )
        lines = [(line, cells) for line, cells in table.lines if volume in (None, cells[of_volume])]
        return table._replace(lines=lines), None if section is not None else image, section
    if image is None or section is None:
        return table, image, section
    if len(images) > 1 or sections == 1:  # an image is a section
        return table, image, None
    titles = table.values(image)
    known = bool(Path(images[0]).suffix)  # otherwise it is the name of a table, as the image is not known
    if known and len(titles) == 1 and stem_of(*titles) not in ("", stem_of(images[0])):
        raise InputError(
            f"{table.path}: found boxes of {listed(sorted(titles))}, but the image is "
            f"{file_name(images[0])}. Use the name of the image file, or remove this column."
        )
    if len(titles) > 1:
        lines = [line for line in table.lines if stem_of(line[1][image]) == stem_of(images[0])]
        table = table._replace(lines=lines)
    return table, None, section


def _labels_of_imagej(table: _Table, sections: int) -> tuple[_Table, int | None, int | None]:
    """Return the same for measurements of ImageJ. Its `Label` is the title of the image, `:` and more."""
    label, section = table.find("label"), table.find("slice")
    if label is not None:
        lines = [
            (n, [*cells[:label], cells[label].partition(":")[0], *cells[label + 1 :]])
            for n, cells in table.lines
        ]
        table = table._replace(lines=lines)
    if section is None or sections == 1:
        return table, label, None
    titles = set() if label is None else table.values(label)
    if len(titles) < 2:
        return table, None, section
    if table.values(section) - {"1", ""}:
        raise InputError(
            f"{table.path}: the column `Label` names several images: {listed(sorted(titles))}. Save one "
            "table for each stack."
        )
    return table, label, None


def _size(table: _Table, cells: Sequence[str], corners: _Corners) -> tuple[int, int] | None:
    """Return height and width of the image, if these columns are not those of a box."""
    places = table.find("height"), table.find("width")
    if corners.size or None in places:
        return None
    height, width = (cells[place] for place in places if place is not None)
    whole = all(re.fullmatch(r"[1-9][0-9]{0,8}", text) for text in (height, width))
    return (int(height), int(width)) if whole else None


def _section(where: str, text: str, first: int) -> int:
    found = int(float(text)) if re.fullmatch(r"[0-9]{1,9}(\.0*)?", text) else -1
    if found < first:
        raise InputError(f"{where}: found `{text:.60}`, expected the number of a section, from {first}.")
    return found - first


def _add(
    stated: Stated, line: int, cells: Sequence[str], corners: _Corners, optional: Mapping[str, str]
) -> None:
    """Append the box of a line; nothing if its corners are empty."""
    if not any(cells):
        return
    where = partial("{}, line {}, {}".format, stated.file, line)
    x0, y0, x1, y1 = (
        number_in(cell, partial(where, column)) for cell, column in zip(cells, corners.columns, strict=True)
    )
    if corners is _IMAGEJ and not all(value.is_integer() for value in (x0, y0, x1, y1)):
        raise InputError(
            f"{where(', '.join(cells))[:200]}: expected whole numbers in px. In ImageJ, remove the scale of "
            "the image (Analyze > Set Scale > Click to Remove Scale) and measure again."
        )
    if corners.size:
        x1, y1 = x0 + x1, y0 + y1
    name = optional.get("class", DEFAULT_CLASS)
    if not name:
        raise InputError(f"{where('class')}: the cell is empty. Write the class, or remove the column.")
    ignored, score = optional.get("ignored", ""), optional.get("score", "")
    stated.add(
        (y0, x0, y1, x1),
        name,
        partial(_place, line, cells, corners),
        flag_in(ignored, partial(where, "ignored")),
        number_in(score, partial(where, "score")) if score else math.nan,
    )


def _place(line: int, cells: Sequence[str], corners: _Corners) -> str:
    """Return where a box is in the table, and what is written there."""
    shown = ", ".join(f"{column} {cell:.40}" for column, cell in zip(corners.columns, cells, strict=True))
    return f"line {line}, {shown}"


def _shapes(table: _Table) -> Source:
    """Return the entries of a table of napari's shapes, with one vertex in each line."""
    path = table.path
    columns = sorted(name for name in table.header if re.fullmatch(r"axis_[0-9]", name))
    axes = [table.header.index(name) for name in columns]
    kind, index = table.header.index("shape_type"), table.find("index")
    if index is None:
        raise InputError(
            f"{path}: no column `index`. Save the shapes in napari again (File > Save Selected Layers)."
        )
    shapes: dict[str, list[tuple[int, list[float]]]] = {}
    for number, cells in table.lines:
        where = partial("{}, line {}".format, path, number)
        if cells[kind] not in ("rectangle", "ellipse", "polygon"):
            raise InputError(
                f"{where()}: found the shape `{cells[kind]:.60}`. Draw rectangles, ellipses or polygons."
            )
        shapes.setdefault(cells[index], []).append((number, [number_in(cells[axis], where) for axis in axes]))
    sections: dict[int, Stated] = {}
    leading = {tuple(vertex[:-3]) for vertices in shapes.values() for _, vertex in vertices}
    if len(leading) > 1:
        raise InputError(
            f"{path}: shapes lie at several places of {columns[0]}. Save one file for each of them."
        )
    for name, vertices in shapes.items():
        *_, ys, xs = zip(*(vertex for _, vertex in vertices), strict=True)
        # napari draws in a section even if its number is not whole, such as 2.0000001
        of_section = {math.floor(vertex[-3] + 0.5) if len(axes) > 2 else 0 for _, vertex in vertices}
        if len(of_section) > 1 or min(of_section) < 0:
            raise InputError(
                f"{path}, shape {name:.60}: its vertices are in the sections {sorted(of_section)}. Draw each "
                "shape in one section."
            )
        sections.setdefault(of_section.pop(), Stated(path)).add(
            (min(ys) + 0.5, min(xs) + 0.5, max(ys) + 0.5, max(xs) + 0.5),
            DEFAULT_CLASS,
            partial(
                "line {}, shape {:.60}, rows {:.10g} to {:.10g}, columns {:.10g} to {:.10g}".format,
                vertices[0][0],
                name,
                *(min(ys), max(ys), min(xs), max(xs)),
            ),
        )
    found = [*sections.values()]
    note = f"shapes of napari: {len(shapes)}; 0 is the middle of the first pixel; class {DEFAULT_CLASS}"
    numbers = [*sections] if len(axes) > 2 else None
    return Source("shapes", ["" for _ in found], found.__getitem__, [note], numbers)
