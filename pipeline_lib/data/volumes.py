"""The table of volumes: which images, annotation and sections make up a volume, and what it is used for."""

from __future__ import annotations

import codecs
import csv
import difflib
import itertools
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline_lib import imageio
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import require_file

COLUMNS = ("volume", "images", "annotation", "sections", "split")
OPTIONAL_COLUMNS = ("annotation", "sections")
SPLITS = ("train", "validation", "test", "predict")

BATCH = 64 * 2**20  # px that one job takes at most, unless a single volume has more
BATCH_NAMES = 64  # volumes that it takes on average where they are small

LARGEST_TABLE = 64 * 2**20  # bytes; a million rows

# Names that all file systems take, also as part of longer ones; on Windows some mean devices.
_NAME = re.compile(
    r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))"
    r"[a-z0-9](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True)
class Volume:
    """One row of the table. `images` and `annotation` are paths with `data_dir` in front, HDF5 ones as
    `file.h5:/dataset`; `sections` is as typed (empty = all); `row` names file and line for messages."""

    volume: str
    images: str
    annotation: str | None
    sections: str
    split: str
    row: str = field(default="", compare=False)

    def source(self) -> dict[str, str | None]:
        """What its dataset is made of: `images`, `annotation` and `sections`."""
        return {"images": self.images, "annotation": self.annotation, "sections": self.sections}


def read_table(path: str | Path, data_dir: str | Path) -> list[Volume]:
    """Volumes of a tab-separated table in the order of its rows; the images themselves are not opened.

    Relative paths are relative to `data_dir`. Lines that start with # and empty lines are skipped; Windows
    line ends, a byte order mark and the quotes of spreadsheets are understood.

    Raises `InputError`, naming file, line and column, for whatever would fail or mislead later: see the
    checks below.
    """
    (_, header), *lines = _lines(path)
    columns = _columns(path, header)
    volumes = [_volume(f"{path}, line {number}", columns, cells, Path(data_dir)) for number, cells in lines]
    if not volumes:
        raise InputError(
            f"{path}: the table holds no volumes. Add a line for each, for example "
            "`vnc<TAB>train-volume.tif<TAB>train-labels.tif<TAB>0-19<TAB>train`."
        )
    _check_names_differ(volumes)
    for split, reason in (
        ("train", "the network learns from them"),
        ("validation", "the model and the threshold are chosen on them"),
    ):
        if all(volume.split != split for volume in volumes):
            raise InputError(
                f"{path}: no volume has `split` {split}, expected at least one: {reason}. "
                "Give a volume, or other sections of the same images, this split."
            )
    _check_splits_disjoint(volumes)
    return volumes


def check_files(
    volumes: Iterable[Volume], channels: int = 1, memory_gb: float = 8.0
) -> dict[str, imageio.ImageInfo]:
    """Check from headers that the files of `volumes` exist, fit each other, hold the sections named, and
    can be read with `memory_gb`.

    Meant for the dry run, for volumes whose files exist before the run. Returns what the headers tell of the
    images by the name of the volume, `sections` being the number of those chosen and `others` those of the
    annotation, too. Raises `InputError` naming
    the row.
    """
    volumes, first, found = list(volumes), None, {}
    paths = dict.fromkeys(path for volume in volumes for path in (volume.images, volume.annotation) if path)
    with closing(imageio.inspect_apart([*paths], memory_gb)) as infos:
        for volume in volumes:
            try:
                images = _info(volume.images, paths, infos)
                first = first or (volume, images)
                if images.dtype != first[1].dtype:
                    raise InputError(
                        f"{volume.images}: {images.dtype} gray levels, but {first[0].images} has "
                        f"{first[1].dtype}; a network learns one gray scale. Convert one of them (Fiji: "
                        "Image > Type), with the same scaling for all images."
                    )
                imageio.require_channels(volume.images, images, channels)
                imageio.require_memory(volume.images, images, memory_gb)
                sections = imageio.parse_sections(volume.sections, images.sections)
                found[volume.volume] = replace(images, sections=len(sections))
                if volume.annotation is not None:
                    annotation = _info(volume.annotation, paths, infos)
                    imageio.require_channels(volume.annotation, annotation, 1, annotation=True)
                    imageio.require_memory(volume.annotation, annotation, memory_gb)
                    others = images.others + annotation.others
                    found[volume.volume] = replace(found[volume.volume], others=others)
                    if annotation.shape[1:] != images.shape[1:]:
                        raise InputError(
                            f"{volume.annotation}: the annotation has {annotation}, its images "
                            f"{volume.images} have {images}; sections, height and width must be equal. Check "
                            "that both belong together and that neither was cropped or scaled."
                        )
            except InputError as error:
                raise InputError(f"{volume.row}, volume {volume.volume}: {error}") from error
    return found


def _info(
    path: str, known: dict[str, imageio.ImageInfo | None], infos: Iterator[imageio.ImageInfo]
) -> imageio.ImageInfo:
    """What is known of `path`; `infos` tells it of all, in the order in which they are first asked for."""
    if known[path] is None:
        known[path] = next(infos)
    return known[path]


def batches(*groups: Mapping[str, int]) -> dict[str, list[str]]:
    """Share out volumes, `groups` of pixels by name, over batches "1", "2" ...: each stage's jobs.

    A job costs a second before it does anything, hence small volumes share one. None has volumes of two
    groups. A batch ends with `BATCH` px, and mostly long before, with a name whose checksum says so, one in
    `BATCH_NAMES` or in a quarter of what it may hold: a table cut or added to elsewhere has the same batches
    as before after such a name, and their jobs need not run again.
    """
    found: list[list[str]] = []
    for pixels in groups:
        total = BATCH
        for name, size in pixels.items():
            if total + size > BATCH:
                found.append([])
                total = 0
            found[-1].append(name)
            total += size
            if zlib.crc32(name.encode()) % max(min(BATCH // (4 * size), BATCH_NAMES), 1) == 0:
                total = BATCH
    return {str(number): names for number, names in enumerate(found, 1)}


def _lines(path: str | Path) -> list[tuple[int, list[str]]]:
    """Number and stripped cells of each line that holds any, the header first."""
    try:
        require_file(path, LARGEST_TABLE)
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: the table of volumes cannot be read ({error.strerror}). Check `volumes:` in the config."
        ) from error
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # a spreadsheet's "Unicode text"
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}). Save "
            "the table as tab-separated text, not as a workbook."
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        if unusual := re.search(r"[\x00-\x08\x0e-\x1f]", line):
            raise InputError(
                f"{path}, line {number}: holds the control character {unusual[0]!r}. Save the "
                "table as plain text."
            )
        try:
            row = next(csv.reader([line], delimiter="\t", skipinitialspace=True), [])
        except csv.Error as error:
            raise InputError(f"{path}, line {number}: cannot be read ({error}). Correct it.") from error
        cells = [cell.strip() for cell in row]
        if any("\t" in cell for cell in cells):
            raise InputError(f'{path}, line {number}: a quote (") without its partner. Remove it.')
        if any(cells):
            found.append((number, cells))
    if not found:
        raise InputError(
            f"{path}: the table is empty. Its first line names the columns, separated by tabs: "
            f"{', '.join(COLUMNS)}; each following line is a volume."
        )
    return found


def _columns(path: str | Path, header: list[str]) -> list[str]:
    while header[-1] == "":  # spreadsheets pad rows with empty cells
        header = header[:-1]
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name.lower(), COLUMNS, 1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            if len(header) == 1:
                hint = " Separate columns by tabs, not by commas or spaces."
            raise InputError(f"{path}: unknown column `{name}`.{hint} The columns are {', '.join(COLUMNS)}.")
        if header.count(name) > 1:
            raise InputError(f"{path}: the column `{name}` appears {header.count(name)} times. Keep one.")
    missing = [name for name in COLUMNS if name not in header and name not in OPTIONAL_COLUMNS]
    if missing:
        raise InputError(
            f"{path}: no column `{missing[0]}` (found: {', '.join(header)}). The columns are "
            f"{', '.join(COLUMNS)}, separated by tabs."
        )
    return header


def _volume(row: str, columns: list[str], line: list[str], data_dir: Path) -> Volume:
    if any(line[len(columns) :]):
        raise InputError(
            f"{row}: {len(line)} cells, expected {len(columns)} ({', '.join(columns)}). "
            "Separate cells by exactly one tab."
        )
    cells = dict(itertools.zip_longest(columns, line[: len(columns)], fillvalue=""))
    name, split, annotation = cells["volume"], cells["split"], cells.get("annotation", "")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{row}: the `volume` name `{name:.100}` cannot be a file name everywhere. Use "
            "letters, digits, and _ . - between them, 100 at most, and no name that Windows "
            "keeps for devices (con, nul ...); for example vnc_1."
        )
    if not cells["images"]:
        raise InputError(
            f"{row}, volume {name}: the column `images` is empty. Name a TIFF, a folder of "
            "slices or file.h5:/dataset."
        )
    if split not in SPLITS:
        near = difflib.get_close_matches(split.lower(), SPLITS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{row}, volume {name}: unknown `split` `{split}`.{hint} Choose one of {', '.join(SPLITS)}."
        )
    if not annotation and split != "predict":
        raise InputError(
            f"{row}, volume {name}: the column `annotation` is empty, but `split` {split} needs "
            "one. Name the annotation, or give the volume the split predict."
        )
    sections = cells.get("sections", "")
    try:
        imageio.section_ranges(sections)
    except InputError as error:
        raise InputError(f"{row}, volume {name}: {error}") from error
    paths = [str(data_dir / cell) if cell else None for cell in (cells["images"], annotation)]
    for path in filter(None, paths):
        if found := re.search(r"[{}<>]", path):
            raise InputError(
                f"{row}, volume {name}: {path}: the workflow would take a `{found[0]}` in a "
                "path for a placeholder. Rename the file or folder."
            )
    return Volume(name, paths[0], paths[1], sections, split, row)


def _check_names_differ(volumes: list[Volume]) -> None:
    seen: dict[str, Volume] = {}
    for volume in volumes:
        other = seen.setdefault(volume.volume.casefold(), volume)  # some file systems fold case
        if other is not volume:
            raise InputError(
                f"{volume.row}: the volume {volume.volume} is named like {other.volume} in "
                f"{other.row}. Results are filed by name: give each row its own."
            )


def _check_splits_disjoint(volumes: list[Volume]) -> None:
    """No section may be trained on and scored: the score would tell what was memorised."""
    by_file: dict[str, list[Volume]] = {}
    for volume in volumes:
        if volume.split != "predict":
            by_file.setdefault(imageio.identity(volume.images), []).append(volume)
    for same_file in by_file.values():
        ranges = [
            (part.start, part.stop, volume)
            for volume in same_file
            for part in imageio.section_ranges(volume.sections) or [range(sys.maxsize)]
        ]
        reaches: dict[str, tuple[int, Volume]] = {}  # the furthest that each split has got to
        for start, stop, volume in sorted(ranges, key=lambda found: found[0]):
            for split, (reach, other) in reaches.items():
                if split != volume.split and start < reach:
                    first, second = sorted((volume, other), key=same_file.index)
                    raise InputError(
                        f"{second.row}: volume {second.volume} ({second.split}) shares sections of "
                        f"{second.images} with volume {first.volume} ({first.split}, {first.row}): "
                        f"`{second.sections or 'all'}` and `{first.sections or 'all'}`. Give each split its "
                        "own `sections`."
                    )
            if stop > reaches.get(volume.split, (0, volume))[0]:
                reaches[volume.split] = stop, volume
