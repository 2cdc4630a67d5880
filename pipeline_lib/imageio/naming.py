"""Names of files, slices and sections as they appear in a table of volumes."""

from __future__ import annotations

import itertools
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

TIFF_SUFFIXES = (".tif", ".tiff")
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES)
_HDF5 = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf))(?::/*(?P<dataset>.*))?", re.IGNORECASE)


class HDF5Path(NamedTuple):
    """The two parts of a path `file.h5:/dataset`; `dataset` is empty if the path names only the file."""

    file: str
    dataset: str


def hdf5_path(path: str | Path) -> HDF5Path | None:
    """Split a path `file.h5:/dataset`; None if the path does not name an HDF5 file."""
    match = _HDF5.fullmatch(str(path))
    return HDF5Path(match["file"], (match["dataset"] or "").strip("/")) if match else None


def source_file(path: str | Path) -> Path:
    """Return the file or folder of a path in a table of volumes.

    Parameters
    ----------
    path : str or Path
        Path of a file or folder, or `file.h5:/dataset`.

    Returns
    -------
    Path
        The path without the name of a dataset.

    Examples
    --------
    >>> from pipeline_lib.imageio import source_file
    >>> source_file("a.h5:/raw").name
    'a.h5'
    """
    named = hdf5_path(path)
    return Path(named.file) if named else Path(path)


def identity(path: str | Path) -> tuple[str, str]:
    """Return a value that is equal for two paths of the same images.

    Symbolic links and hard links to one file have the same identity; copies of a file differ.

    Parameters
    ----------
    path : str or Path
        Path of a file or folder, or `file.h5:/dataset`.

    Returns
    -------
    tuple of str
        Device and inode number of the file (its real path if it does not exist), and the name of the dataset,
        which is empty for other formats than HDF5.
    """
    named = hdf5_path(path)
    file = os.path.realpath(source_file(path))
    with suppress(OSError):
        status = os.stat(file)
        file = f"{status.st_dev}:{status.st_ino}"
    return file, named.dataset if named else ""


def slice_files(folder: Path) -> list[Path]:
    """Return the PNG and TIFF files of a folder in natural order, without hidden files.

    Parameters
    ----------
    folder : Path
        Folder with one file per section.

    Returns
    -------
    list of Path
        The slices; `slice2.tif` comes before `slice10.tif`.
    """
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    slices = (path for path in visible if path.suffix.lower() in SLICE_SUFFIXES)
    return sorted(slices, key=lambda path: natural_key(path.name))


def is_folder_of_masks(annotation: str | Path, image_sections: int) -> bool:
    """Return whether an annotation has one slice for each cell of a single image.

    Parameters
    ----------
    annotation : str or Path
        Path of the annotation.
    image_sections : int
        Number of sections in the file of the images.

    Returns
    -------
    bool
        True for a folder of several slices and an image with one section.
    """
    folder = source_file(annotation)
    return image_sections == 1 and folder.is_dir() and len(slice_files(folder)) > 1


def check_numbers(folder: Path, slices: list[Path]) -> None:
    """Raise `InputError` if two slices have the same number; log a warning if a number seems to be missing.

    A lost slice would shift all following slices against the annotation. A gap is only a warning, because
    slices may have been left out on purpose. Numbers with a constant step have no gap. Names that differ in
    more than one number are not checked.
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
            f"{folder}: {slices[place].name} and {slices[place + 1].name} have the same number; expected a "
            "different number for each slice. Keep one of them."
        )
    if step != least:
        logger.warning(
            "%s: slice %d is missing between %s and %s. Copy it into the folder, or ignore this warning if "
            "the annotation lacks it, too.",
            folder,
            numbers[place] + least,
            slices[place].name,
            slices[place + 1].name,
        )


def natural_key(name: str) -> tuple[list[int | str], str]:
    """Return a sorting key that compares numbers within names by their value.

    Parameters
    ----------
    name : str
        Name of a file.

    Returns
    -------
    tuple
        Key for `sorted`.

    Examples
    --------
    >>> from pipeline_lib.imageio import natural_key
    >>> sorted(["slice10.tif", "slice2.tif"], key=natural_key)
    ['slice2.tif', 'slice10.tif']
    """
    # re.split with a group alternates text, digits, text; the name itself decides between a1 and a01
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], name


def section_ranges(text: str | None) -> list[range] | None:
    """Return the ranges in a selection of sections such as `0-3,8,10-12`.

    Parameters
    ----------
    text : str or None
        Section numbers and ranges, separated by commas. The first section is 0 and both ends of a range are
        included. None, an empty text or `all` selects all sections.

    Returns
    -------
    list of range, or None
        The ranges in ascending order; None for all sections.

    Raises
    ------
    InputError
        If a part is neither a number nor a range, a range runs backwards, or a section is named twice.

    Examples
    --------
    >>> from pipeline_lib.imageio import section_ranges
    >>> section_ranges("8,0-3")
    [range(0, 4), range(8, 9)]
    """
    text = (text or "").strip()
    if text.lower() in ("", "all"):
        return None
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", part)
        if not match:
            raise InputError(
                f"sections `{text}`: `{part.strip()}` is neither a number nor a range. Write for example "
                "0-19 or 0-3,8,10-12 (the first section is 0), or leave it empty for all sections. "
                "Spreadsheets turn 1-3 into a date unless the column is formatted as text."
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
    """Return the section numbers in a selection such as `0-3,8,10-12`.

    Parameters
    ----------
    text : str or None
        Selection of sections as in `section_ranges`. None, an empty text or `all` selects all sections.
    available : int
        Number of sections of the image.

    Returns
    -------
    list of int
        The section numbers in ascending order; the first section of an image is 0.

    Raises
    ------
    InputError
        If the selection is malformed (see `section_ranges`) or names a section that does not exist.

    Examples
    --------
    >>> from pipeline_lib.imageio import parse_sections
    >>> parse_sections("0-2,5", available=9)
    [0, 1, 2, 5]
    """
    ranges = section_ranges(text)
    if ranges is None:
        return list(range(available))
    if ranges[-1].stop > available:
        held = "1 section, number 0" if available == 1 else f"{available} sections, 0-{available - 1}"
        raise InputError(f"sections `{text}`: there is no section {ranges[-1].stop - 1}, only {held}.")
    return [section for r in ranges for section in r]
