"""Read the boxes of an annotation and of a prediction that belong to the same images, without the images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pipeline_lib.imageio.boxes.reading import _open, read_boxes
from pipeline_lib.imageio.boxes.source import Source, listed, stem_of
from pipeline_lib.imageio.boxes.writing import SectionBoxes
from pipeline_lib.imageio.naming import are_slices, parse_sections
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import several

_ANY = 1000  # px; side of images whose size does not matter, because all numbers are relative to it
_LARGE = 2**31  # px; side of images whose size is not known and not needed
_Size: TypeAlias = tuple[int, int]
_Pair: TypeAlias = tuple[list[SectionBoxes], list[SectionBoxes], list[str]]


def box_files(path: str | Path) -> list[Path]:
    """Return the files of single images in a folder, or of a pattern, of Pascal VOC or YOLO.

    Parameters
    ----------
    path : str or Path
        Folder or pattern for which `are_boxes` is true.

    Returns
    -------
    list of Path
        The files in natural order.

    Raises
    ------
    InputError
        If there are none, or files of both formats.
    """
    path = Path(path)
    return [(path if path.is_dir() else path.parent) / name for name in _opened(path).names]


def read_predicted(
    path: str | Path,
    images: Sequence[str | Path],
    shape: tuple[int, int, int],
    *,
    sections: str | None = None,
    coordinates: str | None = None,
) -> tuple[list[SectionBoxes], list[str]]:
    """Read the boxes of a prediction. Sections without an entry have no detections.

    A table with a column `volume` counts all sections, not only those that are selected.

    Parameters
    ----------
    path : str or Path
        File, folder or pattern, see `read_boxes`.
    images : sequence of str or Path
        The image files that the boxes belong to.
    shape : tuple of int
        Shape of the volume, (z, y, x).
    sections : str, optional
        Selected sections, for instance `0-3,8`; all by default.
    coordinates : str, optional
        What corners are, see `read_boxes`.

    Returns
    -------
    sections : list of SectionBoxes
        Boxes of each selected section.
    notes : list of str
        What was found and inferred.

    Raises
    ------
    InputError
        As `read_boxes`.
    """

    def reworded(text: str) -> str:
        """Return a text in which the settings of an annotation are those of a prediction."""
        text = re.sub(r"\b(box_)?coordinates\b", "prediction_coordinates", text)
        return re.sub(r" \(`empty_sections[^)]*\)", "", text)

    try:
        found = read_boxes(path, images, shape, empty_sections="background", coordinates=coordinates)
    except InputError as error:
        raise InputError(reworded(str(error))) from error
    chosen = parse_sections(sections, shape[0])
    return [found.sections[z] for z in chosen], [reworded(note) for note in found.notes]


def read_pair(
    truth: str | Path,
    prediction: str | Path,
    *,
    sections: str | None = None,
    empty_sections: str = "ask",
    coordinates: str | None = None,
    prediction_coordinates: str | None = None,
) -> _Pair:
    """Read the boxes of an annotation and of a prediction, both in files that `read_boxes` reads.

    The images are those that the files name, in the order of the annotation. A file that can only describe
    one image (Pascal VOC, YOLO, a table without names or of a volume with one section) is compared with this
    image alone. Otherwise, an image without an entry in the prediction has no detections. If sections of a
    volume are numbered, the last one is the last with an entry.

    Parameters
    ----------
    truth, prediction : str or Path
        Files, folders or patterns.
    sections : str, optional
        Selected images or sections, for instance `0-3,8`; all by default.
    empty_sections : {"ask", "background", "ignore"}, default "ask"
        Meaning of images that only the prediction names, see `read_boxes`.
    coordinates, prediction_coordinates : str, optional
        What corners are, see `read_boxes`.

    Returns
    -------
    truth, prediction : list of SectionBoxes
        Boxes of each selected image.
    notes : list of str
        What was found and inferred.

    Raises
    ------
    InputError
        As `read_boxes`, if it is not clear which images belong together, or if the size of the images is
        needed and not stated.
    """
    paths = Path(truth), Path(prediction)
    sources = _opened(paths[0]), _opened(paths[1])
    corners = coordinates, prediction_coordinates
    if any(max(source.numbers or [0]) > 0 for source in sources):
        return _read_volume(paths, sources, sections, empty_sections, corners)
    return _read_images(paths, sources, sections, empty_sections, corners)


def _read_volume(
    paths: tuple[Path, Path],
    sources: tuple[Source, Source],
    sections: str | None,
    empty_sections: str,
    corners: tuple[str | None, str | None],
) -> _Pair:
    """Read the boxes of a volume, whose sections at least one of the files numbers."""
    name, count = _stack(paths, sources)
    size = next((size for source in sources for size in _sizes(source).values()), None)
    shape = count, *(size or _size_not_stated(paths, sources))
    truth = read_boxes(
        paths[0], [name], shape, sections=sections, empty_sections=empty_sections, coordinates=corners[0]
    )
    found, notes = read_predicted(paths[1], [name], shape, sections=sections, coordinates=corners[1])
    return truth.sections, found, truth.notes + notes


def _read_images(
    paths: tuple[Path, Path],
    sources: tuple[Source, Source],
    sections: str | None,
    empty_sections: str,
    corners: tuple[str | None, str | None],
) -> _Pair:
    """Read the boxes of images, which are paired by their names."""
    names = _common_images(paths, sources)
    chosen = parse_sections(sections, len(names))
    known = _sizes(sources[1]) | _sizes(sources[0])
    if known and all(_of_one_image(*each) for each in zip(paths, sources, strict=True)):
        known.setdefault(stem_of(names[0]), next(iter(known.values())))  # they may have different names
    sizes = [known.get(stem_of(name)) or _size_not_stated(paths, sources) for name in names]
    stems = [{stem_of(name) for name in _names(*each)} for each in zip(paths, sources, strict=True)]
    if stems[0] and stems[1] and stems[0].isdisjoint(stems[1]):  # `read_boxes` pairs them
        stems = [{stem_of(name) for name in names}] * 2
    if empty_sections == "ask" and (
        lacking := [names[n] for n in chosen if stem_of(names[n]) not in stems[0]]
    ):
        raise InputError(
            f"{paths[0]}: no entry for {listed(lacking)}, for which {paths[1]} has boxes. If they show no "
            "objects, set `dataset: {empty_sections: background}`; if they are not annotated, set `dataset: "
            "{empty_sections: ignore}`."
        )
    notes = [f"{several(len(names), 'image')}: {listed(names)}"]
    if (_ANY, _ANY) in sizes:
        notes.append(f"the size of the images is not stated; sizes are those in images of {_ANY} px")
    read: list[dict[int, SectionBoxes]] = [{}, {}]
    for size in dict.fromkeys(sizes):
        for side, path in enumerate(paths):
            own = [n for n in chosen if sizes[n] == size and stem_of(names[n]) in stems[side]]
            if own:
                images, shape = [names[n] for n in own], (len(own), *size)
                if side == 0:
                    true = read_boxes(path, images, shape, coordinates=corners[side])
                    found, own_notes = true.sections, true.notes
                else:
                    found, own_notes = read_predicted(path, images, shape, coordinates=corners[side])
                read[side] |= zip(own, found, strict=True)
                notes += [note for note in own_notes if note not in notes and "of other images" not in note]
    annotated = empty_sections != "ignore"
    truth, predicted = (
        [boxes.get(n, _nothing(without)) for n in chosen]
        for boxes, without in zip(read, (annotated, True), strict=True)
    )
    return truth, predicted, notes


def _nothing(annotated: bool) -> SectionBoxes:
    """Return an image without boxes."""
    return SectionBoxes(np.empty((0, 4)), [], np.zeros(0, bool), np.zeros(0), annotated)


def _opened(path: Path) -> Source:
    """Open a file of unknown images. Of a table that names only one image, the sections count."""
    source = _open(path, None, ["", ""], (2, _ANY, _ANY))
    if source.format != "table" or source.numbers is not None:
        return source
    for name in source.names:
        own = _open(path, None, [name], (2, _ANY, _ANY))
        if len(source.names) == 1 or own.numbers is None:  # there is no column for sections
            return own if len(source.names) == 1 else source
        if max(own.numbers) > 0:
            raise InputError(
                f"{path}: has sections of {len(source.names)} images: {listed(source.names)}. Write one "
                "table for each image."
            )
    return source


def _names(path: Path, source: Source) -> list[str]:
    """Return the names of the images of a file whose sections are not numbered, or all have the number 0."""
    if source.numbers:
        return [source.others[0] if source.others else path.name]
    return [name or path.name for name in source.names]


def _of_one_image(path: Path, source: Source) -> bool:
    """Return whether a file can only describe one image."""
    return len(source.names) == 1 and not are_slices(path) and (source.format != "table" or _unnamed(source))


def _unnamed(source: Source) -> bool:
    return source.numbers is not None or source.names == [""]


def _sizes(source: Source) -> dict[str, _Size]:
    """Return the sizes of images that a file states, by the stems of their names."""
    if source.format == "YOLO":
        return {}
    stated = {stem_of(name): source.read(number).size for number, name in enumerate(source.names)}
    return {stem: size for stem, size in stated.items() if size is not None}


def _size_not_stated(paths: Sequence[Path], sources: Sequence[Source]) -> _Size:
    """Return a size for images of unknown size; raise `InputError` if numbers depend on it."""
    relative = [source.format == "YOLO" for source in sources]
    if any(relative) and not all(relative):
        raise InputError(
            f"{paths[relative.index(True)]}: numbers are relative to the size of the images, which "
            f"{paths[relative.index(False)]} does not state. Use a COCO or Pascal VOC file, or label images, "
            "in place of one of them."
        )
    return (_ANY, _ANY) if all(relative) else (_LARGE, _LARGE)


def _stack(paths: Sequence[Path], sources: Sequence[Source]) -> tuple[str, int]:
    """Return name and number of sections of a volume, whose sections at least one file numbers."""
    name = next(
        source.others[0] if source.others else path.stem
        for path, source in zip(paths, sources, strict=True)
        if source.numbers
    )
    counts = [0]
    for source in sources:
        own = [each for each in source.names if stem_of(each).startswith(stem_of(name))] or source.names
        counts.append(len(own) if source.numbers is None else max(source.numbers, default=-1) + 1)
    return name, max(counts)


def _common_images(paths: tuple[Path, Path], sources: tuple[Source, Source]) -> list[str]:
    """Return the names of the images to compare."""
    truth, found = (_names(*each) for each in zip(paths, sources, strict=True))
    alone = [_of_one_image(*each) for each in zip(paths, sources, strict=True)]
    if all(alone):
        return truth
    if alone[0] and found:
        _one_of(paths[0], truth, paths[1], found)
        return truth
    if alone[1] and truth:
        return [truth[_one_of(paths[1], found, paths[0], truth)]]
    stems = {*map(stem_of, truth)}
    if stems.isdisjoint(map(stem_of, found)):
        return truth or found
    return truth + [name for name in found if stem_of(name) not in stems]


def _one_of(path: Path, single: Sequence[str], other: Path, many: Sequence[str]) -> int:
    """Return which of many images has the name of a single one."""
    for place, name in enumerate(many):
        if stem_of(name) == stem_of(single[0]):
            return place
    raise InputError(
        f"{path}: has boxes of one image, whose name belongs to none of the images of {other}: "
        f"{listed(many)}. Rename it, or write a table with a column `image`."
    )
