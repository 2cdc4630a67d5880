"""Names of files and sections, as tables have them."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)
HDF5 = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf))(?::/*(?P<dataset>.*))?", re.IGNORECASE)


def source_file(path: str | Path) -> Path:
    """The file or folder behind a path as a table has it: `a.h5:/raw` -> `a.h5`."""
    match = HDF5.fullmatch(str(path))
    return Path(match["file"]) if match else Path(path)


def identity(path: str | Path) -> tuple[str, str]:
    """What two paths have in common that name the same images: the real file, and the dataset in it.

    Hard links of one file share its number; copies are different files.
    """
    match = HDF5.fullmatch(str(path))
    file = os.path.realpath(source_file(path))
    with suppress(OSError):
        status = os.stat(file)
        file = f"{status.st_dev}:{status.st_ino}"
    return file, (match["dataset"] or "").strip("/") if match else ""


def slice_files(folder: Path) -> list[Path]:
    """The PNG and TIFF slices of a folder in natural order; hidden files are no slices."""
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    slices = (path for path in visible if path.suffix.lower() in SLICE_SUFFIXES)
    return sorted(slices, key=lambda path: natural_key(path.name))


def check_numbers(folder: Path, slices: list[Path]) -> None:
    """Raise `InputError` where two slices have one number, and warn where a number seems to be missing.

    A slice that was lost would shift all after it against the annotation; one left out on purpose is fine.
    Numbers with equal steps lack none, and names that differ in more than one number are not judged.
    """
    names = [re.split(r"([0-9]+)", path.stem) for path in slices]
    if len({len(name) for name in names}) > 1 or len(names) < 2:
        return
    differing = [n for n, found in enumerate(zip(*names, strict=True)) if len(set(found)) > 1]
    if len(differing) > 1 or (differing and differing[0] % 2 == 0):
        return
    numbers = [int(name[differing[0]]) if differing else 0 for name in names]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    least = min(steps)
    place, step = next(((n, step) for n, step in enumerate(steps) if step != least or step == 0), (0, least))
    if step == 0:
        raise InputError(
            f"{folder}: {slices[place].name} and {slices[place + 1].name} have one number. Keep one."
        )
    if step != least:
        logger.warning(
            "%s: between %s and %s, slice %d is missing. If it was not left out on purpose, of the "
            "annotation too, copy it.",
            folder,
            slices[place].name,
            slices[place + 1].name,
            numbers[place] + least,
        )


def natural_key(name: str) -> tuple:
    """Sorting key that takes numbers by value: slice2 before slice10."""
    # re.split with a group alternates text, digits, text; the name itself decides between a1 and a01
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def section_ranges(text: str | None) -> list[range] | None:
    """The ranges of a text such as `0-3,8,10-12`, ascending; None for all sections (empty, or `all`).

    Raises `InputError` for anything else, a range that runs backwards, and a section named twice.
    """
    text = (text or "").strip()
    if text.lower() in ("", "all"):
        return None
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise InputError(
                f"sections `{text}`: `{part.strip()}` is neither a number nor a range. Write "
                "for example 0-19, or 0-3,8,10-12, or nothing for all; the first section is 0. "
                "(Spreadsheets turn 1-3 into a date unless the column is formatted as text.)"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"sections `{text}`: {first}-{last} runs backwards. Write {last}-{first}.")
        ranges.append(range(first, last + 1))
    ranges.sort(key=lambda r: r.start)
    for before, after in itertools.pairwise(ranges):
        if after.start < before.stop:
            raise InputError(f"sections `{text}`: section {after.start} is named twice. Name it once.")
    return ranges


def parse_sections(text: str | None, available: int) -> list[int]:
    """The section numbers of a text such as `0-3,8,10-12`, ascending; empty or `all`: all that are available.

    Raises `InputError` as `section_ranges` does, and for a section that is not available.
    """
    ranges = section_ranges(text)
    if ranges is None:
        return list(range(available))
    if ranges[-1].stop > available:
        held = "1 section, number 0" if available == 1 else f"{available} sections, 0-{available - 1}"
        raise InputError(f"sections `{text}`: there is no section {ranges[-1].stop - 1}, only {held}.")
    return [section for r in ranges for section in r]
