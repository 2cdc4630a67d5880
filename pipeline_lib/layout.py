"""What is inside bordure's HDF5 files: every array's name, axes, dtype, unit and meaning, in one place."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib.kernels.blocks import ALIGNMENT, Part
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import allow_open_files, replacing

FORMAT_VERSION = 2
CHUNK = ALIGNMENT  # px; a patch of 572 px touches 5 x 5 chunks, a chunk of float32 is 64 KiB


@dataclass(frozen=True)
class Array:
    """One HDF5 dataset. `dtype` None means: as in the source file."""

    name: str
    axes: str
    dtype: str | None
    unit: str
    meaning: str
    compressed: bool = True


RAW = Array("raw", "czyx", None, "gray level", "raw intensities, as read")
LABELS = Array("labels", "zyx", "uint32", "instance", "instance labels: 0 = background, 1..n = cells")
SEPARATION_BORDER = Array(
    "separation_border",
    "zyx",
    "uint8",
    "1",
    "1 = cell pixel given to the background so that no two cells touch",
)
WEIGHT_MAP = Array(
    "weight_map", "zyx", "float32", "1", "loss weight of each pixel, w = w_c + w0 exp(-(d1+d2)^2 / 2 sigma^2)"
)
CELL_PROBABILITY = Array(
    "cell_probability",
    "zyx",
    "float32",
    "1",
    "probability of being inside a cell, 0..1",
    compressed=False,  # would save a fifth of the space, and take a tenth of the time of a prediction
)

# On the way from a prediction to its labels (labelling.py); a group for each section holds the last four.
PIECES = Array(
    "pieces",
    "zyx",
    "uint32",
    "piece",
    "what one block sees of a component, numbered from 1 in each section",
    compressed=False,  # of short life, and twice as fast
)
COMPONENT = Array("component", "p", "uint32", "component", "of each piece, the component it belongs to")
FIRST_PIXEL = Array("first_pixel", "k", "int64", "px", "of each component, x * rows + y of its first pixel")
SIZE = Array("size", "k", "int64", "px", "of each component, its number of pixels")
NUMBER = Array("number", "p", "uint32", "instance", "of each piece, its label; 0 = left out")


@contextmanager
def create(path: str | Path, provenance: dict[str, Any]) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that appears at `path` only once it is complete.

    `provenance` is kept as a JSON attribute.
    """
    # No HDF5 lock, which some network file systems refuse: one process writes, to a name no other knows.
    # The format of HDF5 1.10 (2016) has checksums over its tables, too: a bit there may show other numbers.
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="v110", locking=False) as file:
        _bound_index(file)
        file.attrs["format_version"] = FORMAT_VERSION
        _write_texts(file, format="bordure", provenance=json.dumps(provenance))
        yield file


def add(file: h5py.Group, array: Array, shape: tuple[int, ...], dtype: Any = None) -> h5py.Dataset:
    """Create the dataset `array` of `shape` in `file`: chunked for patches, described."""
    if len(shape) != len(array.axes):
        raise ValueError(f"{array.name} has axes {array.axes}, got shape {shape}")
    chunks = (1,) * (len(shape) - 2) + tuple(min(CHUNK, size) for size in shape[-2:])
    if len(shape) == 1:
        chunks = (min(CHUNK**2, shape[0]),)
    dataset = file.create_dataset(
        array.name,
        shape,
        dtype or array.dtype,
        chunks=chunks,
        fletcher32=True,  # a damaged chunk is an error, not other numbers
        **({"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.compressed else {}),
    )
    _write_texts(dataset, axes=array.axes, unit=array.unit, meaning=array.meaning)
    return dataset


def _write_texts(item: h5py.Group | h5py.Dataset, **texts: str) -> None:
    """Write attributes at their full length.

    What HDF5 does by default, a heap for texts of any length, has no checksum, and one wrong bit in it can
    send HDF5's library round in circles for ever.
    """
    for name, text in texts.items():
        item.attrs[name] = np.bytes_(text.encode("ascii"))


def join(
    path: Path,
    array: Array,
    shape: tuple[int, int, int],
    sources: Iterable[tuple[Part, Path]],
    provenance: dict[str, Any],
) -> None:
    """Write an HDF5 file whose `array` of `shape` (z, y, x) shows the parts that lie in `sources`.

    Nothing is copied (an HDF5 virtual dataset): the files stay where they are, and folder and all can be
    moved together. Other readers see NaN, or the largest label there is, where a part is missing. Raises
    `InputError` for a source that is missing or has another shape than its part.
    """
    layout = h5py.VirtualLayout(shape, array.dtype)
    layout.dcpl.set_obj_track_times(False)  # no time of day: the same parts give the same bytes
    for part, source in sources:
        expected = (part.sections.stop - part.sections.start, part.rows.stop - part.rows.start, shape[2])
        with require(source, array) as file:
            found = file[array.name].shape
        if found != expected:
            raise InputError(
                f"{source}: a part of shape {found}, expected {expected}. Delete it and run the workflow "
                "again."
            )
        name = os.path.relpath(source, path.parent)
        layout[part.sections, part.rows] = h5py.VirtualSource(name, array.name, expected)
    with create(path, provenance) as file:
        # what shows where a part cannot be found: not the zeros of an empty image
        missing = np.nan if np.dtype(array.dtype).kind == "f" else np.iinfo(array.dtype).max
        dataset = file.create_virtual_dataset(array.name, layout, fillvalue=missing)
        _write_texts(dataset, axes=array.axes, unit=array.unit, meaning=array.meaning)


@contextmanager
def require(path: str | Path, *arrays: Array, cache_bytes: int = 1 << 20) -> Iterator[h5py.File]:
    """Yield the HDF5 file at `path`, known to hold `arrays` in this format version, for reading.

    Of each array the chunks read last are kept unpacked, up to `cache_bytes`. Raises `InputError` for a
    missing, unreadable, foreign or older file and for a missing array.
    """
    try:
        # ten slots per chunk in the cache, as HDF5 advises: chunks that share one drive each other out
        slots = max(10 * cache_bytes // CHUNK**2, 521)
        file = open_file(path, rdcc_nbytes=cache_bytes, rdcc_nslots=slots)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Run the workflow to make it.") from error
    except OSError as error:
        raise InputError(
            f"{path}: not a readable HDF5 file ({error}). Delete it and run the workflow again."
        ) from error
    with file:
        _bound_index(file)
        try:
            ours = file.attrs.get("format") == b"bordure"
            version = file.attrs.get("format_version") if ours else None
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}). Delete it and run the workflow again.") from error
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path}: format version {version}, expected {FORMAT_VERSION}: written by another version "
                "of bordure. Delete it and run the workflow again."
            )
        for array in arrays:
            if array.name not in file:
                raise InputError(
                    f"{path}: has no `{array.name}` (found: {', '.join(file) or 'nothing'}). "
                    f"`{array.name}` is {array.meaning}; it needs a volume with an annotation."
                )
            _require_sources(Path(path), file[array.name])
        yield file


def open_file(path: str | Path, **options: Any) -> h5py.File:
    """Open an HDF5 file for reading, with HDF5's own lock unless the file system refuses locks, as some do.

    Raises OSError for a file that another program has open for writing, and what h5py raises.
    """
    try:
        return h5py.File(path, "r", **options)
    except OSError as error:
        if "unable to lock file" not in str(error) or f"errno = {errno.EAGAIN}," in str(error):
            raise
        return h5py.File(path, "r", locking=False, **options)


def _bound_index(file: h5py.File) -> None:
    """Keep at most 2 MB of where chunks lie: by default 32, which only large images fill."""
    config = file.id.get_mdc_config()
    config.set_initial_size, config.initial_size = True, 2**20
    config.min_size, config.max_size = 2**20, 2**21
    file.id.set_mdc_config(config)


def _require_sources(path: Path, dataset: h5py.Dataset) -> None:
    """HDF5 itself shows zeros for a part that is missing, or that cannot be opened besides the others."""
    sources = dataset.virtual_sources() if dataset.is_virtual else ()
    for source in sources:
        part = path.parent / source.file_name
        try:
            with open_file(part) as file:
                found = file[source.dset_name].shape
        except (OSError, KeyError) as error:
            raise InputError(
                f"{part}: a part of {path}, missing or damaged ({error}). Delete both and run the workflow "
                "again."
            ) from error
        first, last = source.vspace.get_select_bounds()
        if found != tuple(b - a + 1 for a, b in zip(first, last, strict=True)):
            raise InputError(
                f"{part}: made for another number of jobs than {path}. Delete {path} and run the workflow "
                "again."
            )
    if sources:
        allow_open_files(len(sources), str(path), "lower `jobs_per_volume`")


def sources(path: Path) -> list[Path]:
    """The files of parts that the HDF5 file at `path` shows as one (`join`); none where it cannot be read."""
    try:
        with open_file(path) as file:
            virtual = [d for d in file.values() if isinstance(d, h5py.Dataset) and d.is_virtual]
            return [path.parent / source.file_name for d in virtual for source in d.virtual_sources()]
    except (OSError, RuntimeError, KeyError, ValueError):
        return []


def provenance(file: h5py.File) -> dict[str, Any]:
    """The provenance that `create` stored in an open file."""
    return json.loads(file.attrs["provenance"])
