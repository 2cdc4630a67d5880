"""Which entry of a file with boxes belongs to which section, by the names of images."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from pipeline_lib.imageio.boxes.source import Source, file_name, listed, stem_of
from pipeline_lib.imageio.pairing import pair_files
from pipeline_lib.runtime.errors import InputError


def entries_of_sections(
    path: Path, source: Source, images: Sequence[str], sections: int, chosen: Sequence[int], notes: list[str]
) -> dict[int, int]:
    """Return the entry of each section that has one, by the number of the section in the image files.

    Parameters
    ----------
    path : Path
        File or folder with boxes, for messages.
    source : Source
        Its entries.
    images : sequence of str
        The image file of each section, or the one file of all sections.
    sections : int
        Number of sections in the image files.
    chosen : sequence of int
        Numbers of the selected sections.
    notes : list of str
        What was inferred is added to it.

    Raises
    ------
    InputError
        If it is not clear which entry belongs to which section.
    """
    if source.numbers is not None:
        counted = chosen if source.of_volume else range(sections)
        if largest := max((n for n in source.numbers if n >= len(counted)), default=0):
            whole = "the volume" if source.of_volume else images[0]
            raise InputError(
                f"{path}: found boxes in section {largest} (from 0), but {whole} has {len(counted)} in "
                "all. Name the images of these boxes."
            )
        if source.of_volume and len(chosen) < sections:
            notes.append("sections are those of the volume, from 0")
        return {counted[number]: entry for entry, number in enumerate(source.numbers)}
    if not source.names:
        return {}
    if source.names == [""]:
        if sections > 1:
            raise InputError(
                f"{path}: does not say to which of the {sections} sections the boxes belong. Add a column "
                "`section`, from 0, or `image`."
            )
        return {0: 0}
    states_images = source.format in ("COCO", "table")  # otherwise, a file was named for this image
    if len(images) == sections:
        return _by_names(path, source.names, images, notes, states_images)
    return _of_stack(path, source.names, images[0], sections, notes, states_images)


#: Names that say nothing but the number of a section.
_SECTION_NAMES = re.compile(r"(frame|image|img|plane|section|slice|[stz])?[-_ ]*[0-9]*", re.IGNORECASE)


def _by_names(
    path: Path, names: Sequence[str], images: Sequence[str], notes: list[str], states_images: bool
) -> dict[int, int]:
    """Return the entry of each image file: that of the same name, or else by the parts of names that vary."""
    by_key = _by_key(tuple(names))
    found = {}
    for section, image in enumerate(images):
        entries = by_key.get(file_name(image)) or by_key.get(stem_of(image)) or []
        if entries:
            found[section] = _nearest(path, names, entries, image)
    if found:
        others = sorted({*range(len(names))} - {*found.values()})
        if others:
            notes.append(f"entries of other images: {listed([names[n] for n in others])}")
        return found
    found = pair_files([Path(image) for image in images], [Path(file_name(name)) for name in names])
    if len(found) < len(names) or (states_images and len(names) == 1):  # nothing varies in a single name
        raise InputError(
            f"{path}: found boxes of {listed(names)}, but the images are "
            f"{listed([file_name(image) for image in images])}. Use the names of the image files."
        )
    pairs = [f"{file_name(images[section])} with {names[entry]}" for section, entry in sorted(found.items())]
    notes.append(f"paired by the part of the names that varies: {listed(pairs)}")
    return found


@lru_cache(maxsize=1)  # one file often has the boxes of many volumes
def _by_key(names: tuple[str, ...]) -> dict[str, list[int]]:
    """Return the entries of each name, with and without its suffix."""
    by_key: dict[str, list[int]] = {}
    for entry, name in enumerate(names):
        for key in {file_name(name), stem_of(name)}:
            by_key.setdefault(key, []).append(entry)
    return by_key


def _nearest(path: Path, names: Sequence[str], entries: Sequence[int], image: str) -> int:
    """Return the entry whose folders agree best with those of an image: `a/1.png` is not `b/1.png`."""

    def folders(name: str) -> list[str]:
        return re.split(r"[\\/]", name.casefold())[-2::-1]

    def alike(entry: int) -> int:
        pairs = zip(folders(names[entry]), folders(image), strict=False)
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    most = max(map(alike, entries))
    best = [entry for entry in entries if alike(entry) == most]
    if len(best) > 1:
        raise InputError(
            f"{path}: {len(best)} entries have the name of {file_name(image)}: "
            f"{listed([names[n] for n in best])}. Remove all but one, or write their folders into the names."
        )
    return best[0]


def _of_stack(
    path: Path, names: Sequence[str], image: str, sections: int, notes: list[str], states_images: bool
) -> dict[int, int]:
    """Return the entry of each section of a single file, by the only number in which names differ."""
    own = [entry for entry, name in enumerate(names) if stem_of(name).startswith(stem_of(image))]
    if not own:
        own = [*range(len(names))]
        if states_images and not all(_SECTION_NAMES.fullmatch(stem_of(name)) for name in names):
            raise InputError(
                f"{path}: found boxes of {listed(names)}, but the image is {file_name(image)}. Use names "
                "that begin with the name of the image file, or write a table with a column `section`, from "
                "0."
            )
    parts = [re.split(r"([0-9]{1,9})", stem_of(names[entry])) for entry in own]
    varying = {
        place
        for place in range(min(map(len, parts)))
        if len({part[place] for part in parts}) > 1 or len({*map(len, parts)}) > 1
    }
    numbers = [int(part[place]) for part in parts for place in varying if place % 2]
    first = next((n for n in (0, 1) if n in numbers and max(numbers) < sections + n), None)
    if first == 1 and sections not in numbers:
        first = None  # the first number can also mean the second section
    if len(varying) != 1 or len({*numbers}) != len(own) or first is None:
        raise InputError(
            f"{path}: the names {listed([names[entry] for entry in own])} do not say which of the {sections} "
            f"sections of {file_name(image)} they are. Use names that differ in one number, from 0 or from 1 "
            f"to {sections}, or write a table with a column `section`, from 0."
        )
    notes.append(f"sections by the numbers in names, from {first}: {listed([names[entry] for entry in own])}")
    if len(own) < len(names):
        notes.append(f"entries of other images: {len(names) - len(own)}")
    return {number - first: entry for number, entry in zip(numbers, own, strict=True)}
