"""Read boxes that were drawn in or exported from other programs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline_lib.imageio.boxes.coco import open_coco
from pipeline_lib.imageio.boxes.files import open_files
from pipeline_lib.imageio.boxes.sections import entries_of_sections
from pipeline_lib.imageio.boxes.source import COORDINATES, Source, Stated, file_name, listed, stem_of, text_of
from pipeline_lib.imageio.boxes.tables import counts_in_volume, open_table
from pipeline_lib.imageio.boxes.writing import SectionBoxes
from pipeline_lib.imageio.naming import SLICE_SUFFIXES, hdf5_path, is_pattern, parse_sections, zarr_path
from pipeline_lib.runtime.errors import InputError

_MEANING = {
    "pixels_from_1": "first and last pixels, counted from 1",
    "pixels_from_0": "first and last pixels, counted from 0",
    "edges": "edges of pixels, counted from 0",
}
_SUFFIXES = (".json", ".csv", ".tsv", ".xml", ".txt")
_ROUNDING = 0.02  # px; boxes whose rounded numbers stick out of the image by less are not reported
_LIMIT = 1e12  # px; edges beyond it are outside of any image
_FAR = 0.25  # share of its side by which a box sticks out that is not only drawn carelessly


@dataclass(frozen=True)
class BoxAnnotation:
    """Boxes of the sections of a volume; `read_boxes` creates it.

    Parameters
    ----------
    sections : list of SectionBoxes
        Boxes of each selected section.
    notes : list of str
        What was found in the files, inferred and changed, for the log.
    files : list of Path
        The files that were read.
    """

    sections: list[SectionBoxes]
    notes: list[str]
    files: list[Path]


def are_boxes(path: str | Path) -> bool:
    """Return whether a path names files of boxes, not an image.

    Parameters
    ----------
    path : str or Path
        Path of an annotation in a table of volumes.

    Returns
    -------
    bool
        True for files .json, .csv, .tsv, .xml and .txt, and for folders and patterns with such files and
        without images.

    Examples
    --------
    >>> from pipeline_lib.imageio.boxes import are_boxes
    >>> are_boxes("boxes/*.xml"), are_boxes("labels.tif")
    (True, False)
    """
    path = Path(path)
    if found := {file.suffix.lower() for file in _files_of(path)}:
        return found.isdisjoint(SLICE_SUFFIXES) and not found.isdisjoint(_SUFFIXES)
    return path.suffix.lower() in _SUFFIXES and hdf5_path(path) is None


def number_within_volume(path: str | Path) -> bool:
    """Return whether boxes belong to the sections of a volume, not to those of its image file.

    Parameters
    ----------
    path : str or Path
        File of boxes.

    Returns
    -------
    bool
        True for a table with a column `volume`, or with `section` and `bbox-0 ... bbox-3`. If other sections
        of the images are selected, such a file does not fit any more.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    return _is_table(Path(path)) and counts_in_volume(Path(path))


def read_boxes(
    path: str | Path,
    images: Sequence[str | Path],
    shape: tuple[int, int, int],
    *,
    volume: str | None = None,
    sections: str | None = None,
    empty_sections: str = "ask",
    coordinates: str | None = None,
) -> BoxAnnotation:
    """Read the boxes of a volume from COCO, Pascal VOC, YOLO or CSV files.

    Boxes are assigned to sections by the names of the images. Entries for other images are left out if the
    names of all sections are there. Otherwise names are compared in the way of `matching_slices`. Boxes that
    stick out of the image are cut off at its edges.

    Parameters
    ----------
    path : str or Path
        COCO file (.json), table (.csv, .tsv), Pascal VOC (.xml) or YOLO (.txt) file of a single image, or a
        folder or pattern of such files, one for each image.
    images : sequence of str or Path
        The image file of each section in order (see `slice_files`), or the one file of all sections.
    shape : (int, int, int)
        Number of sections, height and width (px) of the images.
    volume : str, optional
        Name of the volume, for tables with a column `volume`.
    sections : str, optional
        Selected sections, for instance `0-3,8` (see `parse_sections`); all by default.
    empty_sections : {"ask", "background", "ignore"}, default "ask"
        Meaning of selected sections that the files do not mention: an error, sections without objects, or
        sections that are not annotated.
    coordinates : {"pixels_from_1", "pixels_from_0", "edges"}, optional
        What corners are in Pascal VOC files and in tables with `xmin ... ymax`, `x1 ... y2` or
        `left ... bottom`: the first and last pixels of an object, or edges. By default pixels from 1 in
        Pascal VOC files, and edges in tables. Other formats define it.

    Returns
    -------
    BoxAnnotation
        The boxes of each selected section, and notes.

    Raises
    ------
    InputError
        If a file cannot be read, does not fit the images, or has an unclear meaning.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pipeline_lib.imageio.boxes import read_boxes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.txt")
    ...     _ = path.write_text("0 0.5 0.5 0.2 0.4")
    ...     found = read_boxes(path, ["a.tif"], (1, 10, 20))
    >>> found.sections[0].boxes, found.sections[0].classes
    (array([[ 3.,  8.,  7., 12.]]), ['0'])
    """
    path = Path(path)
    names = [str(image) for image in images]
    if len(names) not in (1, shape[0]) or coordinates not in (None, *COORDINATES):
        raise ValueError(f"{len(names)} images for {shape[0]} sections, coordinates {coordinates!r}")
    chosen = parse_sections(sections, shape[0])
    source = _open(path, volume, names, shape)
    notes = [*source.notes]
    entries = entries_of_sections(path, source, names, shape[0], chosen, notes)
    _require_all(path, source, names, chosen, entries, empty_sections, notes)
    found = {z: source.read(entries[z]) for z in chosen if z in entries}
    _require_images(found, names, shape, notes)
    boxes = _edges(source, [*found.values()], coordinates, shape, notes)
    boxes = _inside(source, [*found.values()], boxes, shape, notes)
    read = []
    for z in chosen:
        own = found.get(z, Stated(path))
        part, boxes = np.split(boxes, [len(own.boxes)])
        ignored, scores = np.array(own.ignored, bool), np.array(own.scores, float)
        read.append(
            SectionBoxes(part, own.classes, ignored, scores, z in found or empty_sections != "ignore")
        )
    rows = [
        (z, name, *box)
        for z, own in enumerate(read)
        for name, box in zip(own.classes, own.boxes.tolist(), strict=True)
    ]
    if copies := len(rows) - len({*rows}):
        notes.append(f"boxes that are copies of others: {copies}")
    files = [*(stated.file for stated in found.values()), *source.files]
    files += [] if _is_several(path) else [path]
    return BoxAnnotation(read, notes, [*dict.fromkeys(files)])


def _is_several(path: Path) -> bool:
    """Return whether a path is a folder or a pattern; an OME-Zarr is an image."""
    return (os.path.isdir(path) and not zarr_path(path)) or is_pattern(path)


def _files_of(path: Path) -> list[Path]:
    """Return the files of a folder or pattern, without hidden ones; nothing for other paths."""
    if not _is_several(path):
        return []
    folder, pattern = (path, "*") if os.path.isdir(path) else (path.parent, path.name)
    return [file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith(".")]


def _is_table(path: Path) -> bool:
    """Return whether a path names a table. A file .txt of numbers is one of YOLO."""
    suffix = path.suffix.lower()
    numbers = suffix == ".txt" and re.match(r"[0-9.eE+\-\s]*$", text_of(path).strip(), re.MULTILINE)
    return suffix in (".csv", ".tsv", ".txt") and not numbers and not _is_several(path)


def _open(path: Path, volume: str | None, images: Sequence[str], shape: tuple[int, int, int]) -> Source:
    """Open a file or folder of any format."""
    if _is_several(path):
        return open_files(path, _files_of(path), shape[1:])
    suffix = path.suffix.lower()
    if suffix == ".json":
        return open_coco(path)
    if _is_table(path):
        return open_table(path, volume, images, shape[0])
    if suffix in (".xml", ".txt"):
        return open_files(path, [path], shape[1:])
    raise InputError(
        f"{path}: boxes are read from COCO (.json), tables (.csv, .tsv), Pascal VOC (.xml) and YOLO (.txt). "
        "Export one of these."
    )


def _require_all(
    path: Path,
    source: Source,
    images: Sequence[str],
    chosen: Sequence[int],
    entries: Mapping[int, int],
    empty_sections: str,
    notes: list[str],
) -> None:
    """Raise `InputError` if a selected section has no entry and it was not said what this means."""
    missing = [z for z in chosen if z not in entries]
    if not missing:
        return
    names = [Path(images[z]).name if len(images) > 1 else f"section {z}" for z in missing]
    if empty_sections == "ask":
        unused = [] if source.numbers else [n for n in range(len(source.names)) if n not in entries.values()]
        others = source.others or [source.names[n] for n in unused]
        more = f" There are boxes of {listed(others)}." if others else ""
        ignore = "; if they are not annotated, set `dataset: {empty_sections: ignore}`"
        raise InputError(
            f"{path}: no entry for {len(missing)} of {len(chosen)} sections: {listed(names)}.{more} If these "
            "sections show no objects, set `dataset: {empty_sections: background}`"
            f"{ignore if len(missing) < len(chosen) else ''}."
        )
    meaning = "no objects" if empty_sections == "background" else "not annotated"
    notes.append(f"no entry for {listed(names)}: {meaning} (`empty_sections: {empty_sections}`)")


def _require_images(
    found: Mapping[int, Stated], images: Sequence[str], shape: tuple[int, int, int], notes: list[str]
) -> None:
    """Raise `InputError` if a file states the name of another section, or another size of the images."""
    stems = [stem_of(image) for image in images]
    different = []
    for z, stated in found.items():
        own = z if len(images) > 1 else 0
        if stated.image and not {stem_of(stated.image), file_name(stated.image)} & {
            stems[own],
            stem_of(stated.file.name),
        }:
            different.append(f"{stated.image} in {stated.file.name}")
            if stem_of(stated.image) in stems:
                raise InputError(
                    f"{stated.file}: by its name it belongs to {images[own]}, but its `filename` is "
                    f"{stated.image:.80}. Rename the file or correct `filename`."
                )
        if stated.size is not None and stated.size != tuple(shape[1:]):
            height, width = stated.size
            raise InputError(
                f"{stated.file}: the boxes were drawn on an image of {width} x {height} px (width x height), "
                f"but {images[own]} has {shape[2]} x {shape[1]}. Name the images that they were drawn on."
            )
    if different:
        notes.append(f"paired by the names of files, not by `filename`: {listed(different)}")


def _edges(
    source: Source,
    found: Sequence[Stated],
    coordinates: str | None,
    shape: tuple[int, int, int],
    notes: list[str],
) -> npt.NDArray[np.float64]:
    """Return the edges of all boxes (n, 4); raise `InputError` if corners contradict what they should be."""
    boxes = np.array([box for stated in found for box in stated.boxes], float).reshape(-1, 4)
    if source.corners is None or not len(boxes):
        return boxes
    meaning = coordinates or source.corners
    first, last = boxes[:, :2], boxes[:, 2:]
    fraction = (boxes != np.floor(boxes)).any(axis=1)
    contradicted = {
        "pixels_from_1": fraction | ((first >= 0) & (first < 1)).any(axis=1),
        "pixels_from_0": fraction | (last == shape[1:]).any(axis=1),
        "edges": (first == last).any(axis=1),
    }
    if contradicted[meaning].any():
        possible = [name for name in COORDINATES if not contradicted[name].any()]
        choices = " or ".join(
            f"`dataset: {{box_coordinates: {name}}}` ({_MEANING[name]})" for name in possible
        )
        fix = f"Set {choices}." if possible else "Export the boxes again, for example as COCO."
        place = _place(found, contradicted[meaning])
        raise InputError(f"{place}: corners cannot be {_MEANING[meaning]}. {fix}")
    notes.append(f"corners are {_MEANING[meaning]} (`box_coordinates: {meaning}`)")
    before, after = COORDINATES[meaning]
    return boxes + np.repeat([before, after], 2)


def _place(found: Sequence[Stated], wrong: npt.ArrayLike) -> str:
    """Return the file of the first wrong box, and where it is there."""
    places = [(stated.file, place) for stated in found for place in stated.places]
    file, place = places[int(np.argmax(wrong))]
    return f"{file}, {place()}"


def _inside(
    source: Source,
    found: Sequence[Stated],
    boxes: npt.NDArray[np.float64],
    shape: tuple[int, int, int],
    notes: list[str],
) -> npt.NDArray[np.float64]:
    """Return boxes cut off at the edges of the image; raise `InputError` if they do not fit into it."""
    if not len(boxes):
        return boxes
    boxes = boxes.clip(-_LIMIT, _LIMIT)  # so that differences are finite
    size = np.array(shape[1:], float)
    image = f"the image of {shape[2]} x {shape[1]} px (width x height)"
    if np.abs(boxes).max() <= 1 < size.min() and (boxes != np.floor(boxes)).any():
        raise InputError(
            f"{_place(found, [True])}: no number is larger than 1, but px are expected. Multiply relative "
            "numbers by the width or height of the image."
        )
    first, last = boxes[:, :2], boxes[:, 2:]
    over = np.maximum(-first, last - size)
    far = ((over > _ROUNDING) & (over > _FAR * (last - first))).any(axis=1)
    several = far & (2 * np.count_nonzero(far) > max(len(boxes), 2))
    reach = "The boxes reach to x = {1:.10g} and y = {0:.10g} px. Is it another image, or another size of it?"
    for wrong, text, otherwise in (
        (
            (last <= first).any(axis=1),
            "the box has no size or ends before it begins",
            "Correct or remove it.",
        ),
        (((last <= 0) | (first >= size)).any(axis=1), f"the box is outside of {image}", reach),
        (several, f"{np.count_nonzero(far)} of {len(boxes)} boxes stick far out of {image}", reach),
    ):
        if wrong.any():
            cause = _cause(source, boxes, size) or otherwise.format(*last.max(axis=0))
            raise InputError(f"{_place(found, wrong)}: {text}. {cause}")
    out = (over > _ROUNDING).any(axis=1)
    if out.any():
        notes.append(
            f"{np.count_nonzero(out)} of {len(boxes)} boxes stick out of the image and were cut off, the "
            f"first: {_place(found, out)}"
        )
    return np.clip(boxes, 0, np.tile(size, 2))


def _cause(source: Source, boxes: npt.NDArray[np.float64], size: npt.NDArray[np.float64]) -> str:
    """Return the likely cause of boxes that do not fit into an image of a size (height, width), or ""."""
    first, last = boxes[:, :2], boxes[:, 2:]
    changed = {
        "Are x and y exchanged?": boxes[:, [1, 0, 3, 2]],
        "Do the numbers count from 1?": boxes - 1,
    }
    if source.written == "size":
        edges = np.hstack([first, last - first])
        changed["Are the last two numbers the right and lower edge, not width and height?"] = edges
    if source.written == "corners":
        edges = np.hstack([first, first + last])
        changed["Are the last two numbers width and height, not the right and lower edge?"] = edges
    for cause, moved in changed.items():
        within = (moved[:, :2] > -_ROUNDING) & (moved[:, 2:] < size + _ROUNDING)
        if (within & (moved[:, :2] < moved[:, 2:])).all():
            return cause
    return ""
