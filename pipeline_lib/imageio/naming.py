"""Names of files, slices and sections as they appear in a table of volumes."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.imageio.tokens import composed, signed
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

TIFF_SUFFIXES = (".tif", ".tiff")
PILLOW_SUFFIXES = (".bmp", ".jpeg", ".jpg")  # read with Pillow
#: Suffixes of files that can be slices, in lower case.
SLICE_SUFFIXES = (".png", *TIFF_SUFFIXES, *PILLOW_SUFFIXES)
_OTHER_SUFFIXES = (".gif", ".jp2", ".webp")
#: Stands between the files of the channels of one image, such as `a_ch00.tif + a_ch01.tif`.
PLUS = " + "
_HDF5 = re.compile(r"(?P<file>.+\.(?:h5|hdf5|hdf))(?::/*(?P<dataset>.*))?", re.IGNORECASE)


_MOST_ZARR_FILES = 5000
_ZARR = re.compile(r"(?P<folder>.*?[^/]\.zarr)(?:/+(?P<inside>.*))?", re.IGNORECASE)


class HDF5Path(NamedTuple):
    """The two parts of a path `file.h5:/dataset`; `dataset` is empty if the path names only the file."""

    file: str
    dataset: str


def hdf5_path(path: str | Path) -> HDF5Path | None:
    """Split a path `file.h5:/dataset`; None if the path does not name an HDF5 file."""
    match = _HDF5.fullmatch(str(path))
    return HDF5Path(match["file"], (match["dataset"] or "").strip("/")) if match else None


class ZarrPath(NamedTuple):
    """The two parts of a path `image.zarr/labels/cells`; `inside` is empty if it is the folder itself."""

    folder: str
    inside: str


def zarr_path(path: str | Path) -> ZarrPath | None:
    """Split a path `image.zarr/labels/cells` after its first `.zarr`.

    Parameters
    ----------
    path : str or Path
        Path in a table of volumes.

    Returns
    -------
    ZarrPath or None
        The two parts; None if no part ends with `.zarr`.

    Examples
    --------
    >>> from pipeline_lib.imageio import zarr_path
    >>> zarr_path("images/a.zarr/labels/cells")
    ZarrPath(folder='images/a.zarr', inside='labels/cells')
    """
    match = _ZARR.fullmatch(str(path))
    return ZarrPath(match["folder"], (match["inside"] or "").strip("/")) if match else None


def channel_paths(path: str | Path) -> list[str]:
    """Return the paths of the channels of an image that are in separate files.

    Parameters
    ----------
    path : str or Path
        Path in a table of volumes. ` + ` stands between the paths of channels, unless it is part of the name
        of a file or folder that exists.

    Returns
    -------
    list of str
        The paths in the order of the channels; `path` alone if its channels are not in separate files.

    Examples
    --------
    >>> from pipeline_lib.imageio import channel_paths
    >>> channel_paths("dapi/*.tif + gfp/*.tif")
    ['dapi/*.tif', 'gfp/*.tif']
    """
    parts, found = str(path).split(PLUS), []
    while parts:
        lengths = range(len(parts), 1, -1)
        length = next((n for n in lengths if _names_files(PLUS.join(parts[:n]))), 1)
        found.append(PLUS.join(parts[:length]))
        del parts[:length]
    return found


def _names_files(path: str) -> bool:
    """Return whether a path or pattern names a file or folder that exists."""
    if named := hdf5_path(path):
        return os.path.lexists(named.file) and PLUS not in named.dataset
    return os.path.lexists(path) or (_has_wildcard(path) and any(_visible_files(path)))


def source_file(path: str | Path) -> Path:
    """Return the file or folder of a path in a table of volumes.

    Parameters
    ----------
    path : str or Path
        Path of a file or folder, `file.h5:/dataset` or `image.zarr/labels/cells`.

    Returns
    -------
    Path
        The path without the name of a dataset or of a group.

    Examples
    --------
    >>> from pipeline_lib.imageio import source_file
    >>> source_file("a.h5:/raw").name
    'a.h5'
    """
    if named := hdf5_path(path):
        return Path(named.file)
    stored = zarr_path(path)
    return Path(stored.folder) if stored else Path(path)


def source_files(path: str | Path) -> list[Path]:
    """Return the files or folder of a path in a table of volumes.

    Parameters
    ----------
    path : str or Path
        Path of a file or folder, `file.h5:/dataset`, or a pattern such as `folder/*_ch00.tif`.

    Returns
    -------
    list of Path
        The files that match a pattern, or else the one path of `source_file`; for channels in separate files,
        those of all channels.
    """
    parts = channel_paths(path)
    return [
        file for part in parts for file in (slice_files(part) if is_pattern(part) else [source_file(part)])
    ]


def is_pattern(path: str | Path) -> bool:
    """Return whether the last part of a path contains `*`, `?` or `[`, and no file has this very name.

    Parameters
    ----------
    path : str or Path
        Path in a table of volumes.

    Returns
    -------
    bool
        Whether the path stands for all files that match it.
    """
    return len(channel_paths(path)) == 1 and _has_wildcard(path)


def _has_wildcard(path: str | Path) -> bool:
    return not {*"*?["}.isdisjoint(Path(path).name) and not hdf5_path(path) and not os.path.lexists(path)


def zarr_files(named: ZarrPath) -> list[Path]:
    """Return the files of an image or group of an OME-Zarr, without those of its labels.

    Parameters
    ----------
    named : ZarrPath
        Parts of a path.

    Returns
    -------
    list of Path
        All files, or those with metadata alone if there are more than 5,000.
    """
    folder = Path(named.folder, named.inside)
    labels = folder / "labels"
    files = sorted(file for file in folder.rglob("*") if file.is_file() and labels not in file.parents)
    if len(files) > _MOST_ZARR_FILES:
        return [file for file in files if file.suffix == ".json" or file.name.startswith(".z")]
    return files


def are_slices(path: str | Path) -> bool:
    """Return whether a path is a folder or a pattern, whose files are the sections.

    Parameters
    ----------
    path : str or Path
        Path in a table of volumes.

    Returns
    -------
    bool
        Whether `slice_files` returns the sections.
    """
    return is_pattern(path) or (not hdf5_path(path) and not zarr_path(path) and os.path.isdir(path))


def file_format(path: Path) -> str:
    """Return the format of a file by its suffix, such as `tif`; two names of one format are equal."""
    suffix = path.suffix.lower().strip(".")
    return {"tiff": "tif", "jpeg": "jpg"}.get(suffix, suffix)


def file_key(*paths: str | Path) -> str:
    """Return a text that is equal for all names of a file, or of several files in any order.

    Parameters
    ----------
    *paths : str or Path
        Files, which need not exist.

    Returns
    -------
    str
        Device and inode number of each file, or its real path if it does not exist.
    """
    keys = []
    for path in paths:
        key = os.path.realpath(path)
        with suppress(OSError, ValueError):
            status = os.stat(path)
            key = f"{status.st_dev}:{status.st_ino}"
        keys.append(key)
    return " ".join(sorted({*keys}))


def identity(path: str | Path) -> str:
    """Return a text that is equal for two paths of the same images, without opening a file.

    Symbolic links and hard links to one file have the same identity; copies of a file differ. Links within an
    HDF5 file and files of a folder are compared by `ImageInfo.stored`.

    Parameters
    ----------
    path : str or Path
        Path of a file or folder, `file.h5:/dataset`, or a pattern.

    Returns
    -------
    str
        `file_key` of the file, and the name of the dataset of an HDF5 file or of the group of an OME-Zarr.
    """
    keys = []
    for part in channel_paths(path):
        named, stored = hdf5_path(part), zarr_path(part)
        inside = named.dataset if named else stored.inside if stored else ""
        keys.append(f"{file_key(source_file(part))}:{inside}")
    return PLUS.join(keys)


def slice_files(path: str | Path) -> list[Path]:
    """Return the images of a folder or pattern in natural order, without hidden files.

    Parameters
    ----------
    path : str or Path
        Folder with one file per section, or a pattern of such files in a folder, such as `folder/*_ch00.tif`:
        `*` stands for any text, `?` for one letter, `[0-4]` for one of several.

    Returns
    -------
    list of Path
        The slices; `slice2.tif` comes before `slice10.tif`, and `z-1.tif` before `z0.tif`.
    """
    slices = [file for file in _visible_files(path) if file.suffix.lower() in SLICE_SUFFIXES]
    if numbers := decimals([composed(file.stem) for file in slices]):
        order = sorted(zip(numbers, slices, strict=True))
        return [file for _, file in order]
    negative = signed(composed(file.stem) for file in slices)
    return sorted(slices, key=lambda file: natural_key(file.name, negative))


def decimals(names: Sequence[str]) -> list[Decimal] | None:
    """Return the numbers in which names differ, if these are decimals, such as 0.5, 0.75, 1.0.

    They are also those of sections, such as 1.8, 1.9, 1.10, if the numbers behind the point are consecutive.
    If they have the same number of digits, both orders are the same.

    Parameters
    ----------
    names : sequence of str
        Names of files, without suffixes.

    Returns
    -------
    list of Decimal or None
        The number in each name; None if names differ in something else, or numbers are not decimals.

    Examples
    --------
    >>> from pipeline_lib.imageio.naming import decimals
    >>> [str(number) for number in decimals(["z0.5", "z0.25"])]
    ['0.5', '0.25']
    >>> decimals(["s1.9", "s1.10"])
    """
    parts = [re.split(r"(?<![0-9.])([0-9]+\.[0-9]+)(?![0-9.])", name) for name in names]
    if len(parts) < 2 or len({len(part) for part in parts}) > 1:
        return None
    columns = [*zip(*parts, strict=True)]
    varying = [place for place, column in enumerate(columns) if len({*column}) > 1]
    if len(varying) != 1 or varying[0] % 2 == 0:
        return None
    found = columns[varying[0]]
    behind = sorted({int(number.partition(".")[2]) for number in found})
    lengths = {len(number.partition(".")[2]) for number in found}
    if len(lengths) > 1 and {b - a for a, b in itertools.pairwise(behind)} == {1}:
        return None
    numbers = [Decimal(number) for number in found]
    return numbers if len({*numbers}) == len({*found}) else None


def other_images(path: str | Path) -> list[Path]:
    """Return the files of a folder or pattern that are images of formats which are not read, such as GIF."""
    return sorted(file for file in _visible_files(path) if file.suffix.lower() in _OTHER_SUFFIXES)


def _visible_files(path: str | Path) -> Iterator[Path]:
    """Yield the files of a folder or pattern, without hidden ones."""
    path = Path(path)
    folder, pattern = (path.parent, path.name) if _has_wildcard(path) else (path, "*")
    if folder.is_dir() or pattern == "*":
        visible = (file for file in folder.iterdir() if not file.name.startswith("."))
        yield from (file for file in visible if fnmatchcase(file.name, pattern))


def check_numbers(folder: Path, slices: list[Path]) -> None:
    """Raise `InputError` if two slices have the same number; log a warning if a number seems to be missing.

    A lost slice would shift all following slices against the annotation. A gap is only a warning, because
    slices may have been left out on purpose. Numbers with a constant step have no gap. Names that differ in
    more than one number are not checked.
    """
    stems = [composed(path.stem) for path in slices]
    for (one, stem), (other, same) in itertools.pairwise(zip(slices, stems, strict=True)):
        if stem == same:
            raise InputError(
                f"{folder}: {one.name} and {other.name} have the same name; expected one file for each "
                "slice. Keep one of them."
            )
    if len({number.as_tuple().exponent for number in decimals(stems) or ()}) > 1:
        return
    names = [re.split(r"([0-9]+)", path.stem) for path in slices]
    if len({len(name) for name in names}) > 1 or len(names) < 2:
        return
    differing = [n for n, found in enumerate(zip(*names, strict=True)) if len(set(found)) > 1]
    if len(differing) > 1 or (differing and differing[0] % 2 == 0):
        return
    numbers = [int(name[differing[0]]) if differing else 0 for name in names]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    if 0 in steps:
        first = steps.index(0)
        raise InputError(
            f"{folder}: {slices[first].name} and {slices[first + 1].name} have the same number; expected a "
            "different number for each slice. Keep one of them."
        )
    least = min(steps)
    place = next((n for n, step in enumerate(steps) if step != least), None)
    if place is not None:
        logger.warning(
            "%s: slice %d is missing between %s and %s. Copy it into the folder, or ignore this warning if "
            "the annotation lacks it, too.",
            folder,
            numbers[place] + least,
            slices[place].name,
            slices[place + 1].name,
        )


def natural_key(name: str, signed: bool = False) -> tuple[list[int | str], str]:
    """Return a sorting key that compares numbers within names by their value.

    Parameters
    ----------
    name : str
        Name of a file.
    signed : bool, default False
        Whether a number after a hyphen is negative.

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
    sign = "(?:(?<![0-9])-)?" * signed
    parts = re.split(f"({sign}[0-9]+)", composed(name))
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


def sections_text(numbers: Sequence[int]) -> str:
    """Return section numbers as in the table of volumes.

    Parameters
    ----------
    numbers : sequence of int
        Ascending numbers.

    Returns
    -------
    str
        Ranges, separated by commas.

    Examples
    --------
    >>> from pipeline_lib.imageio.naming import sections_text
    >>> sections_text([0, 1, 2, 5])
    '0-2,5'
    """
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def row_range(text: str | None, available: int | None = None) -> range | None:
    """Return the range in a selection of rows such as `0-255`.

    Parameters
    ----------
    text : str or None
        First and last row, counted from 0. None or an empty text selects all rows.
    available : int, optional
        Number of rows of the image. By default the selection is not compared with it.

    Returns
    -------
    range or None
        The rows; None for all rows.

    Raises
    ------
    InputError
        If the text is not a range, or has a row that does not exist.

    Examples
    --------
    >>> from pipeline_lib.imageio import row_range
    >>> row_range("0-255")
    range(0, 256)
    """
    if not (text or "").strip():
        return None
    match = re.fullmatch(r"\s*([0-9]{1,9})\s*-\s*([0-9]{1,9})\s*", text or "")
    if not match or int(match[2]) < int(match[1]):
        raise InputError(
            f"rows `{text}`: expected the first and the last row, such as 0-255 (the first row is 0), or "
            "nothing for all rows."
        )
    rows = range(int(match[1]), int(match[2]) + 1)
    if available is not None and rows.stop > available:
        raise InputError(f"rows `{text}`: there is no row {rows[-1]}, only 0-{available - 1}.")
    return rows


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
