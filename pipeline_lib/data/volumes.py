"""Table of volumes: the images, annotation, sections and use of each volume."""

from __future__ import annotations

import bisect
import csv
import difflib
import itertools
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib import imageio
from pipeline_lib.data import box_files
from pipeline_lib.imageio.apart import run_apart
from pipeline_lib.imageio.boxes import are_boxes
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import decode, require_file

#: Columns with settings of the config section `dataset` that may differ between volumes.
DATASET_COLUMNS = (
    "annotation_kind",
    "classes",
    "background",
    "ignore",
    "relabel",
    "empty_sections",
    "pairing",
    "channels",
    "offset",
    "scale",
    "pixel_size",
    "box_coordinates",
    "minimum_size",
)
#: Columns of most tables.
MAIN_COLUMNS = ("volume", "images", "annotation", "sections", "split")
#: All columns of the table.
COLUMNS = (*MAIN_COLUMNS, "rows", "ignore_mask", *DATASET_COLUMNS)
#: Columns that can be left out.
OPTIONAL_COLUMNS = ("annotation", "sections", "rows", "ignore_mask", *DATASET_COLUMNS)
#: Uses of a volume.
SPLITS = ("train", "validation", "test", "predict")

#: Largest number of pixels of one job (px), unless a single volume has more.
BATCH = 64 * 2**20
#: Average number of volumes of one job if they are small.
BATCH_NAMES = 64

LARGEST_TABLE = 64 * 2**20  # bytes; a million rows

# Names that are valid on all file systems, also as part of longer names. Windows reserves some for devices.
_NAME = re.compile(
    r"(?!(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$))"
    r"[a-z0-9](?:[a-z0-9_.-]{0,98}[a-z0-9_-])?",
    re.IGNORECASE | re.ASCII,
)


def is_valid_name(name: str) -> bool:
    """Return whether a name of a volume is a valid file name on all systems.

    Parameters
    ----------
    name : str
        Name.

    Returns
    -------
    bool
        False also for names of devices of Windows, such as `con`.
    """
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class Volume:
    """One row of the table of volumes.

    Parameters
    ----------
    volume : str
        Name of the volume.
    images : str
        Path of the images, with `data_dir` in front; `file.h5:/dataset` for HDF5.
    annotation : str or None
        Path of the annotation, with `data_dir` in front; None if the volume has none.
    sections : str
        Selected sections as written in the table, for instance "0-3,8"; empty for all.
    split : {"train", "validation", "test", "predict"}
        What the volume is used for.
    row : str, default ""
        File and line of the row, for messages.
    ignore_mask : str or None, default None
        Path of an image whose pixels other than 0 are not annotated, with `data_dir` in front.
    dataset : dict of str to str
        Cells of the columns `DATASET_COLUMNS` that are not empty.
    rows : str, default ""
        Selected rows of the images as written in the table, for instance "0-255"; empty for all.
    """

    volume: str
    images: str
    annotation: str | None
    sections: str
    split: str
    row: str = field(default="", compare=False)
    ignore_mask: str | None = None
    dataset: Mapping[str, str] = field(default_factory=dict)
    rows: str = ""

    def source(self) -> dict[str, str | None]:
        """Return the fields from which the dataset of the volume is made.

        Returns
        -------
        dict of str to str or None
            `images`, `annotation`, `sections`, `rows` and `ignore_mask`.
        """
        return {
            "images": self.images,
            "annotation": self.annotation,
            "sections": self.sections,
            "rows": self.rows,
            "ignore_mask": self.ignore_mask,
        }

    def paths(self) -> list[str]:
        """Return the paths of the images, the annotation and the mask, as far as there are any.

        Returns
        -------
        list of str
            One to three paths.
        """
        return [path for path in (self.images, self.annotation, self.ignore_mask) if path]

    @property
    def has_boxes(self) -> bool:
        """Whether the annotation is a file of boxes."""
        return self.annotation is not None and are_boxes(self.annotation)


def read_table(
    path: str | Path, data_dir: str | Path, needed: Sequence[str] = ("train", "validation")
) -> list[Volume]:
    """Read and check a table of volumes. The images are not opened.

    The table is a text with cells separated by tabs. Empty lines and lines that start with # are skipped.
    Windows line ends, a byte order mark, UTF-16 and the quotes of spreadsheets are accepted.

    Parameters
    ----------
    path : str or Path
        Table of volumes (TSV).
    data_dir : str or Path
        Folder that relative paths in the table refer to.
    needed : sequence of str, default ("train", "validation")
        Splits that must have volumes. With folds, only train. Without any, a trained model is applied to the
        volumes, and all have the split predict.

    Returns
    -------
    list of Volume
        The volumes in the order of their rows.

    Raises
    ------
    InputError
        If the table cannot be read, a column or value is missing or not valid, two volumes have the same
        name, a split is missing or of no use, or a section belongs to two splits. The message
        names file, line and column.
    """
    (_, header), *lines = _lines(path)
    columns = _columns(path, header)
    volumes = [_volume(f"{path}, line {number}", columns, cells, Path(data_dir)) for number, cells in lines]
    if not volumes:
        raise InputError(
            f"{path}: the table contains no volumes. Add a line for each volume, for example "
            "`vnc<TAB>train-volume.tif<TAB>train-labels.tif<TAB>0-19<TAB>train`."
        )
    _check_names_differ(volumes)
    if not needed:
        if others := [volume for volume in volumes if volume.split != "predict"]:
            raise InputError(
                f"{others[0].row}: `split` is {others[0].split}, but the config names a trained `model`. "
                "Write predict, or remove `model:` to train."
            )
        return volumes
    for split, reason in (
        ("train", "the network is trained on it"),
        ("validation", "the model and the threshold are chosen on it"),
    ):
        if split in needed and all(volume.split != split for volume in volumes):
            raise InputError(
                f"{path}: no volume has `split` {split}, expected at least one: {reason}. Write {split} in "
                "the column `split` of a volume, or add a row with other sections of the same images."
            )
    _check_splits_disjoint(volumes)
    return volumes


def check_files(
    volumes: Iterable[Volume],
    channels: imageio.Channels | Mapping[str, imageio.Channels] = 1,
    memory_gb: float = 8.0,
    pairing: str = "names",
    scale: float | None = None,
    dataset: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, imageio.ImageInfo]:
    """Check the files of volumes by their headers, without reading pixels. Files of boxes are read.

    The files must exist, images and annotation must have the same shape, and all images the same number of
    channels and the same type, except for those with a stated `scale`. The names of slices must tell which
    annotation belongs to which image. A section must not belong to two splits, whatever its file is called.
    Boxes must lie in their images, and their classes must be known. The dry run calls this for volumes whose
    files exist before the run.

    Parameters
    ----------
    volumes : iterable of Volume
        Rows of the table of volumes.
    channels : int, sequence of (int or str), or mapping of str to these, default 1
        Expected number of channels of the images, or the channels to read, see `imageio.open_images`; a
        mapping has those of each volume by its name.
    memory_gb : float, default 8.0
        Memory in which the files must be readable, in GB (10^9 bytes).
    pairing : {"names", "order"}, default "names"
        How the files of two folders are paired, see `imageio.matching_slices`.
    scale : float, optional
        Setting `dataset.scale`, for volumes without a value of their own.
    dataset : mapping of str to dict, optional
        Settings of the section `dataset` of each volume by its name, for files of boxes.

    Returns
    -------
    dict of str to ImageInfo
        Shape and type of the images by the name of the volume. `sections` is the number of selected sections;
        `others` also contains the other files of the annotation, and files of boxes in a folder.

    Raises
    ------
    InputError
        If a check fails. The message names the row and the file.
    """
    volumes, first, expected, found = list(volumes), None, 0, {}
    boxed = {volume.volume: volume for volume in volumes if volume.has_boxes}
    of_boxes = {volume.annotation for volume in boxed.values()}
    paths: dict[str, imageio.ImageInfo | None] = dict.fromkeys(
        path for volume in volumes for path in volume.paths() if path not in of_boxes
    )
    with closing(imageio.inspect_apart([*paths], memory_gb)) as infos:
        for volume in volumes:
            try:
                images = _info(volume.images, paths, infos)
                if scale is None and not volume.dataset.keys() & {"offset", "scale"}:
                    first = first or (volume, images)
                    _require_type(volume.images, images.dtype, first[0].images, first[1].dtype)
                chosen = channels[volume.volume] if isinstance(channels, Mapping) else channels
                imageio.require_channels(volume.images, images, chosen)
                number = imageio.number_of(chosen)
                if number != (expected := expected or number):
                    raise InputError(
                        f"`channels` chooses {number} of {volume.images}, but {expected} for volume "
                        f"{volumes[0].volume}. Choose the same number of channels for all volumes."
                    )
                imageio.require_memory(volume.images, images, memory_gb)
                sections = imageio.parse_sections(volume.sections, images.sections)
                rows = imageio.row_range(volume.rows, images.height) or range(images.height)
                found[volume.volume] = replace(images, sections=len(sections), height=len(rows))
                for path in [path for path in volume.paths()[1:] if path not in of_boxes]:
                    other = _info(path, paths, infos)
                    imageio.require_channels(path, other, 1, annotation=True)
                    imageio.require_memory(path, other, memory_gb)
                    others = found[volume.volume].others + other.others
                    found[volume.volume] = replace(found[volume.volume], others=others)
                    slices = imageio.matching_slices(
                        volume.images, path, volume.dataset.get("pairing") or pairing, volume.sections
                    )
                    if slices is not None:
                        other = replace(other, sections=len(slices))
                    elif path == volume.annotation and images.sections == 1:  # or one mask per cell
                        other = replace(other, sections=1)
                    if other.shape[1:] != images.shape[1:]:
                        what = "annotation" if path == volume.annotation else "mask of ignored pixels"
                        raise InputError(
                            f"{path}: the {what} has {other}, but its images {volume.images} have {images}. "
                            "Both must have the same sections, height and width. Check that they belong "
                            "together and that neither was cropped or scaled."
                        )
            except InputError as error:
                raise InputError(f"{volume.row}, volume {volume.volume}: {error}") from error
    _check_splits_disjoint(volumes, {path: info.stored for path, info in paths.items() if info})
    shapes = {name: info.shape[1:] for name, volume in boxed.items() if (info := paths[volume.images])}
    for name, files in _check_boxes(boxed, shapes, memory_gb, dataset or {}).items():
        found[name] = replace(found[name], others=found[name].others + files)
    return found


def _check_boxes(
    volumes: Mapping[str, Volume],
    shapes: Mapping[str, tuple[int, int, int]],
    memory_gb: float,
    dataset: Mapping[str, Mapping[str, Any]],
) -> dict[str, tuple[Path, ...]]:
    """Read the boxes of volumes in a separate process, and return their further files."""
    if not volumes:
        return {}
    calls = [
        (
            f"{volume.annotation}: reading it",
            partial(
                _summary,
                volume,
                shapes[name],
                {key: value for key, value in dataset.get(name, {}).items() if key in box_files.SETTINGS},
            ),
        )
        for name, volume in volumes.items()
    ]
    files, of_one_class = {}, defaultdict(set)
    with closing(run_apart(calls, memory_gb)) as summaries:
        for name, volume in volumes.items():
            try:
                classes, read = next(summaries)
                if dataset.get(name, {}).get("classes") is None:
                    of_one_class[str(volume.annotation)].update(classes)
                    box_files.require_classes({path: sorted(own) for path, own in of_one_class.items()}, None)
            except InputError as error:
                raise InputError(f"{volume.row}, volume {name}: {error}") from error
            files[name] = tuple(path for path in read if str(path) != volume.annotation)
    return files


def _summary(
    volume: Volume, shape: tuple[int, int, int], settings: Mapping[str, Any]
) -> tuple[list[str], list[Path]]:
    """Read the boxes of a volume, and return their classes and files."""
    found = box_files.read_volume_boxes(
        str(volume.annotation),
        volume.images,
        shape,
        volume=volume.volume,
        sections=volume.sections,
        rows=volume.rows,
        **settings,
    )
    return found.found, found.files


def _require_type(path: str, dtype: np.dtype, first: str, expected: np.dtype) -> None:
    """Raise `InputError` with the columns that convert the gray scale unless both types are equal."""
    if dtype == expected:
        return
    factors = [
        f"{there / here:.6g} if {here} here means {there} there, "
        for there in _ends(expected)
        for here in _ends(dtype)
    ]
    fix = f"`scale` of the table of volumes: {''.join(factors)}or 1 if the values mean the same."
    if dtype.kind == expected.kind == "f":
        fix = "`scale` of the table of volumes: 1."
    elif {dtype.str[1:], expected.str[1:]} == {"i2", "u2"}:
        zero = 32768 if dtype.kind == "u" else -32768
        fix = f"`offset` of the table of volumes: {zero} if {zero} here means 0 there"
        fix += ". Write 1 into `scale` if the values mean the same."
    raise InputError(
        f"{path}: found {dtype} gray levels, but {first} has {expected}; all images must have the same type "
        f"and gray scale. Write the difference between the scales into the column {fix}"
    )


def _ends(dtype: np.dtype) -> tuple[int, ...]:
    """Return the usual upper ends of gray scales in a type: cameras of 12 bits write 16-bit files."""
    if dtype.kind in "bf":
        return (1,)
    return (int(np.iinfo(dtype).max), *([4095] if dtype.itemsize == 2 else []))


def _info(
    path: str, known: dict[str, imageio.ImageInfo | None], infos: Iterator[imageio.ImageInfo]
) -> imageio.ImageInfo:
    """Return the info of `path` from `known`, or else the next of `infos`, which has the same order."""
    info = known[path]
    if info is None:
        info = known[path] = next(infos)
    return info


def batches(*groups: Mapping[str, int], earlier: Sequence[Sequence[str]] = ()) -> dict[str, list[str]]:
    """Distribute volumes over batches. Each stage runs one job for each batch.

    Small volumes share a job, because starting a job takes a second. A batch has at most 2^26 px (`BATCH`),
    unless a single volume has more. A batch also ends after a volume whose name has a certain hash, so that
    adding a row changes few batches. On average this is every N-th volume; N is 64 (`BATCH_NAMES`), or a
    quarter of the volumes of this size that fit into a batch if that is less. Jobs of batches that stay the
    same do not have to run again.

    Parameters
    ----------
    *groups : dict of str to int
        Number of pixels of each volume by its name. A batch never has volumes of two groups.
    earlier : sequence of sequence of str, optional
        Batches of an earlier run. Those whose volumes are all still there stay as they are and come first, so
        that a new volume is in a new batch.

    Returns
    -------
    dict of str to list of str
        Names of the volumes of each batch; the batches are called "1", "2" and so on.
    """
    known = {name for pixels in groups for name in pixels}
    found = [[*batch] for batch in earlier if known.issuperset(batch)]
    kept = {name for batch in found for name in batch}
    for pixels in groups:
        total = BATCH
        for name, size in pixels.items():
            if name in kept:
                continue
            if total + size > BATCH:
                found.append([])
                total = 0
            found[-1].append(name)
            total += size
            if zlib.crc32(name.encode()) % max(min(BATCH // (4 * size), BATCH_NAMES), 1) == 0:
                total = BATCH
    return {str(number): names for number, names in enumerate(found, 1)}


def table_rows(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a table of volumes as they are written.

    Parameters
    ----------
    path : str or Path
        Tab-separated text file.

    Returns
    -------
    list of dict of str to str
        Cells of each row by the names of their columns.

    Raises
    ------
    InputError
        If the table cannot be read or has unknown columns.
    """
    (_, header), *lines = _lines(path)
    columns = _columns(path, header)
    return [dict(itertools.zip_longest(columns, line[: len(columns)], fillvalue="")) for _, line in lines]


def _lines(path: str | Path) -> list[tuple[int, list[str]]]:
    """Return number and cells of each line that is not empty, the header first."""
    try:
        require_file(path, LARGEST_TABLE)
        raw = Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: the table of volumes cannot be read ({error.strerror}). Check `volumes:` in the config."
        ) from error
    try:
        text = decode(raw)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start}). Save "
            "the table as tab-separated text in UTF-8; in Excel, choose `Unicode Text`."
        ) from error
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#"):
            continue
        if unusual := re.search(r"[\x00-\x08\x0e-\x1f]", line):
            raise InputError(
                f"{path}, line {number}: found the control character {unusual[0]!r}. Save the table as plain "
                "text."
            )
        try:
            row = next(csv.reader([line], delimiter="\t", skipinitialspace=True), [])
        except csv.Error as error:
            raise InputError(
                f"{path}, line {number}: cannot be read ({error}). Correct this line."
            ) from error
        cells = [cell.strip() for cell in row]
        if any("\t" in cell for cell in cells):
            raise InputError(f'{path}, line {number}: found a quote mark (") without its pair. Remove it.')
        if any(cells):
            found.append((number, cells))
    if not found:
        raise InputError(
            f"{path}: the table is empty. Write the names of the columns into its first line, separated by "
            f"tabs: {', '.join(MAIN_COLUMNS)}. Each following line is a volume."
        )
    return found


def _columns(path: str | Path, header: list[str]) -> list[str]:
    """Return the checked names of the columns."""
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
            f"{', '.join(MAIN_COLUMNS)}, separated by tabs."
        )
    return header


def _volume(row: str, columns: list[str], line: list[str], data_dir: Path) -> Volume:
    """Return the volume of a line; `row` names file and line for messages."""
    if any(line[len(columns) :]):
        raise InputError(
            f"{row}: {len(line)} cells, expected {len(columns)} ({', '.join(columns)}). "
            "Separate cells by exactly one tab."
        )
    cells = dict(itertools.zip_longest(columns, line[: len(columns)], fillvalue=""))
    name, split, annotation = cells["volume"], cells["split"], cells.get("annotation", "")
    if not is_valid_name(name):
        raise InputError(
            f"{row}: the `volume` name `{name:.100}` is not a valid file name on all systems. Use at most "
            "100 letters, digits, _, . and -, begin with a letter or digit and do not end with a dot, for "
            "example vnc_1. Device names of Windows (con, nul ...) are not allowed."
        )
    if not cells["images"]:
        raise InputError(
            f"{row}, volume {name}: the column `images` is empty. Write the path of a TIFF, a PNG, a folder "
            "of slices, or file.h5:/dataset."
        )
    if split not in SPLITS:
        near = difflib.get_close_matches(split.lower(), SPLITS, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(
            f"{row}, volume {name}: unknown `split` `{split}`.{hint} Choose one of {', '.join(SPLITS)}."
        )
    if not annotation and split != "predict":
        raise InputError(
            f"{row}, volume {name}: the column `annotation` is empty, but `split` {split} needs one. Write "
            "the path of the annotation, or change `split` to predict."
        )
    sections = cells.get("sections", "")
    rows = cells.get("rows", "")
    try:
        imageio.section_ranges(sections)
        imageio.row_range(rows)
    except InputError as error:
        raise InputError(f"{row}, volume {name}: {error}") from error
    first, *further = imageio.channel_paths(data_dir / cells["images"])
    images_path = imageio.PLUS.join([first, *(str(data_dir / path) for path in further)])
    annotation_path = str(data_dir / annotation) if annotation else None
    mask_path = str(data_dir / cells["ignore_mask"]) if cells.get("ignore_mask") else None
    if mask_path and not annotation:
        raise InputError(
            f"{row}, volume {name}: the column `ignore_mask` is set, but `annotation` is empty. Write the "
            "path of the annotation, or remove the mask."
        )
    dataset = {key: cells[key] for key in DATASET_COLUMNS if cells.get(key)}
    volume = Volume(name, images_path, annotation_path, sections, split, row, mask_path, dataset, rows)
    for path in volume.paths():
        if found := re.search(r"[{}<>]", path):
            raise InputError(
                f"{row}, volume {name}: {path}: found `{found[0]}` in a path, which the workflow reads as a "
                "placeholder. Rename the file or folder."
            )
    return volume


def _check_names_differ(volumes: list[Volume]) -> None:
    """Raise `InputError` if two volumes have the same name, in upper or lower case."""
    seen: dict[str, Volume] = {}
    for volume in volumes:
        other = seen.setdefault(volume.volume.casefold(), volume)  # some file systems ignore case
        if other is not volume:
            raise InputError(
                f"{volume.row}: the volume {volume.volume} has the same name as {other.volume} in "
                f"{other.row} (case is ignored). Give each volume its own name."
            )


def _check_splits_disjoint(
    volumes: list[Volume], stored: Mapping[str, Sequence[imageio.Stored]] | None = None
) -> None:
    """Raise `InputError` if pixels belong to two splits: a score on training data is meaningless.

    `stored` tells where the sections of each path are. Without it, they are known by the names of files.
    """
    scored = [volume for volume in volumes if volume.split != "predict"]
    # places in a file, with the number of the volume, for each band of rows between two ends of selections
    by_key: dict[tuple[str, int], list[tuple[int, int, int]]] = {}
    selected = [imageio.row_range(volume.rows) or range(sys.maxsize) for volume in scored]
    starts = sorted({0, *(rows.start for rows in selected), *(rows.stop for rows in selected)})
    known = {path: stored[path] if stored else [_named(path)] for path in {v.images for v in scored}}
    longest = {path: max((place.sections for place in places), default=0) for path, places in known.items()}
    for number, volume in enumerate(scored):
        path, ranges = volume.images, imageio.section_ranges(volume.sections)
        for key, start, stop in _places(known[path], longest[path], ranges or [range(sys.maxsize)]):
            for band in starts:
                if selected[number].start <= band < selected[number].stop:
                    by_key.setdefault((key, band), []).append((start, stop, number))
    for found in by_key.values():
        reaches: dict[str, tuple[int, int]] = {}  # largest end of a range so far and its volume, by split
        for start, stop, number in sorted(found):
            split = scored[number].split
            for other_split, (reach, other) in reaches.items():
                if split != other_split and start < reach:
                    first, second = (scored[n] for n in sorted((number, other)))
                    column = "rows" if first.rows or second.rows else "sections"
                    chosen = [getattr(volume, column) or "all" for volume in (second, first)]
                    raise InputError(
                        f"{second.row}: volume {second.volume} ({second.split}) shares {column} of "
                        f"{second.images} with volume {first.volume} ({first.split}, {first.row}): "
                        f"`{chosen[0]}` and `{chosen[1]}`"
                        f"{'' if first.images == second.images else f' of {first.images}'}. Give each split "
                        f"its own `{column}`, or remove one of these lines."
                    )
            if stop > reaches.get(split, (0, number))[0]:
                reaches[split] = stop, number


def _named(path: str) -> imageio.Stored:
    """Return the sections of an image that was not opened, by the name of its file."""
    return imageio.Stored(imageio.identity(path), 0, sys.maxsize, 0)


def _places(
    stored: Sequence[imageio.Stored], longest: int, ranges: Sequence[range]
) -> Iterator[tuple[str, int, int]]:
    """Yield key, start and end of each place in which selected sections are.

    `stored` is in the order of sections, and none has more than `longest` of them.
    """
    for part in ranges:
        begin = bisect.bisect_right(stored, part.start - longest, key=lambda place: place.first)
        for number in range(begin, len(stored)):
            key, first, sections, at, size = stored[number]
            if first >= part.stop:
                break
            low, high = max(part.start, first), min(part.stop, first + sections)
            if low < high and at is None:
                yield key, 0, sys.maxsize
            elif low < high and at is not None:
                yield key, at + (low - first) * size, at + (high - first) * size
