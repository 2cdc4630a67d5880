"""Read regions of HDF5 datasets, which are named `file.h5:/dataset`."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from pipeline_lib import layout
from pipeline_lib.imageio.fixes import python_line
from pipeline_lib.imageio.headers import (
    ImageInfo,
    Reader,
    arrange,
    cyx,
    region_index,
    require_plausible,
)
from pipeline_lib.imageio.naming import HDF5Path
from pipeline_lib.imageio.tiff import CACHE_BYTES
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.runtime.errors import InputError

_FILTERS = {
    32000: "LZF",
    32001: "Blosc",
    32004: "LZ4",
    32008: "bitshuffle",
    32013: "ZFP",
    32015: "Zstandard",
    32026: "Blosc2",
}  # filters that other programs use and HDF5 itself lacks
# Attributes that name axes, in lower case and without `_`
_AXES_ATTRIBUTES = (
    *(
        "axes",
        "axis",
        "axistags",
        "axisorder",
        "axesorder",
        "axisnames",
        "axesnames",
        "axislabels",
        "axeslabels",
    ),
    *("dimensionorder", "dimensionnames", "dimorder", "dimnames", "arraydimensions", "dims"),
)
_AXES_NAMES = {
    **dict.fromkeys(("depth", "slice", "slices", "section", "sections", "plane", "planes"), "z"),
    **dict.fromkeys(("height", "row", "rows"), "y"),
    **dict.fromkeys(("width", "col", "cols", "column", "columns"), "x"),
    **dict.fromkeys(("channel", "channels", "ch", "rgb", "colour", "color"), "c"),
    **dict.fromkeys(("time", "frame", "frames"), "t"),
}
_INTERLACED = {"INTERLACE_PIXEL": "yxc", "INTERLACE_LINE": "ycx", "INTERLACE_PLANE": "cyx"}  # HDF5 images
_MOST_CHANNELS = 4  # of an array whose axes are not stated
_LISTED = 20  # limit of datasets that a message names
_SEARCHED = 1000  # limit of objects that are searched for them
_LIMITING = threading.Lock()  # a memory limit is for the whole process; HDF5 runs one thread at a time anyway


@contextmanager
def open_hdf5(path: str | Path, named: HDF5Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of one dataset; `named` are the parts of `path`."""
    source, name = named
    with layout.open_file(source) as file:
        dataset = _dataset(path, file, source, name)
        _require_data(path, dataset)
        chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        axes = _axes(path, dataset)
        fix = _write_part(dataset, axes)
        info, z_axis = arrange(path, axes, dataset.shape, dataset.dtype, chunk_bytes, fix)
        if not (dataset.is_virtual or dataset.external):
            # chunks that were never written read as zeros; they may be most of a large volume of labels
            require_plausible(path, info, dataset.id.get_storage_size(), 1_000_000)
        white_is_zero = bool(np.any(dataset.attrs.get("IMAGE_WHITE_IS_ZERO", 0)))  # as HDF5 specifies images
        info = replace(info, others=_others(Path(source), dataset), white_is_zero=white_is_zero)
        cache = _cache(dataset.chunks, info)
    with layout.open_file(source, **cache) as file:
        dataset = file[name]

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            region = (rows.stop - rows.start) * (columns.stop - columns.start) * info.channels
            with _growing_by(CACHE_BYTES + 4 * (info.smallest_read + region * info.dtype.itemsize)):
                return cyx(dataset[tuple(region_index(info, z_axis, z, rows, columns))], info)

        yield info, read


def _others(file: Path, dataset: h5py.Dataset) -> tuple[Path, ...]:
    """Return the other files that store data of a virtual or external dataset."""
    virtual = [source.file_name for source in dataset.virtual_sources()] if dataset.is_virtual else []
    outside = [name for name, *_ in dataset.external or ()]
    return tuple(file.parent / name for name in sorted({*virtual, *outside} - {".", file.name}))


@contextmanager
def _growing_by(room: int) -> Iterator[None]:
    """Limit the memory of this process to `room` bytes more than now (Linux only).

    HDF5 decompresses a chunk completely, to any size, before it checks the size of the result.
    """
    with _LIMITING:
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if sys.platform == "linux":
            taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            limit = taken + room
            resource.setrlimit(resource.RLIMIT_DATA, (limit if soft < 0 else min(limit, soft), hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _dataset(path: str | Path, file: h5py.File, source: str, name: str) -> h5py.Dataset:
    """Return the dataset `name`; raise `InputError` unless it is in this file.

    A linked file would not be known as an input: its content would be missing in the provenance.
    """
    parts = name.split("/") if name else []
    for group in ("/".join(parts[:n]) for n in range(1, len(parts) + 1)):
        link = file.get(group, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            rest = name[len(group) :]
            raise InputError(
                f"{path}: the dataset is a link to another file. Write the path of that file instead: "
                f"{os.path.join(os.path.dirname(source), link.filename)}:/{link.path.strip('/')}{rest}."
            )
        if link is None:
            break
    dataset = file.get(name) if name else None
    if isinstance(dataset, h5py.Dataset):
        return dataset
    what = "there is no such dataset in this HDF5 file" if name else "the name of a dataset is missing"
    if isinstance(dataset, h5py.Group):
        what = "this is a group, expected a dataset"
    listed = ", ".join(f"{source}:/{found}" for found in itertools.islice(_datasets(file), _LISTED))
    raise InputError(f"{path}: {what}. Write one of: {listed or '(the file contains no dataset)'}.")


def _datasets(file: h5py.File) -> Iterator[str]:
    """Yield the names of datasets among the first objects of the file; links are not followed."""
    groups, seen = [("", file)], 0
    while groups:
        prefix, group = groups.pop(0)
        for name in group:
            if (seen := seen + 1) > _SEARCHED:
                return
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                item = group.get(name)
                if isinstance(item, h5py.Dataset):
                    yield prefix + name
                elif isinstance(item, h5py.Group) and prefix.count("/") < 10:
                    groups.append((f"{prefix}{name}/", item))


def _require_data(path: str | Path, dataset: h5py.Dataset) -> None:
    """Raise `InputError` if data are missing, which HDF5 reads as zeros, or cannot be decompressed."""
    if dataset.shape is None:
        raise InputError(
            f"{path}: the dataset is empty and has no shape. Write images into it, or name another dataset."
        )
    own = Path(dataset.file.filename)
    others = [source.file_name for source in dataset.virtual_sources()] if dataset.is_virtual else []
    others += [name if isinstance(name, str) else os.fsdecode(name) for name, *_ in dataset.external or ()]
    for other in others:
        if other != "." and not (own.parent / other).is_file():
            raise InputError(
                f"{path}: its data are stored in {own.parent / other}, which does not exist. Put that file "
                "there, or copy the dataset together with its data (h5repack)."
            )
    if not others and dataset.id.get_storage_size() == 0 and dataset.size:
        raise InputError(
            f"{path}: nothing was written into this dataset of shape {dataset.shape} and type "
            f"{dataset.dtype}. The program that made it was probably interrupted. Run it again."
        )
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, *_ = plist.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{path}: compressed with {_FILTERS.get(code, 'a filter')} (HDF5 filter {code}), which is "
                "not installed. Compress it with gzip (h5repack -f GZIP=1), or save it as TIFF."
            )


def _cache(chunks: tuple[int, ...] | None, info: ImageInfo) -> dict[str, int]:
    """Return cache settings of a file whose chunks are wider than blocks: room for one row of blocks."""
    high, wide = (chunks[info.axes.index(axis)] for axis in "YX") if chunks else (1, 1)
    if wide <= BLOCK:
        return {}
    rows = -(-BLOCK * 5 // 4 // high) + 1  # rows of chunks for a block with its halo
    needed = rows * -(-info.width // wide) * info.channels * info.smallest_read
    return {"rdcc_nbytes": min(needed, CACHE_BYTES), "rdcc_nslots": 100_003}


def _axes(path: str | Path, dataset: h5py.Dataset) -> str:
    """Return the axes of a dataset, one letter per dimension.

    They are stated by attributes (`axes`, ilastik's `axistags` and similar names), dimension labels, or the
    HDF5 specification of images. If nothing is stated, they follow from the shape, if this is clear.
    """
    if dataset.ndim < 2:
        raise InputError(
            f"{path}: found the shape {dataset.shape}, expected at least rows and columns. Name another "
            "dataset."
        )
    stated = dict(_stated_axes(dataset))
    for name, axes in stated.items():
        if len(axes) != dataset.ndim or not set(axes) <= {*"zyxctsqi"}:
            raise InputError(
                f"{path}: found {name} {axes!r:.100} for {dataset.ndim} dimensions {dataset.shape}; expected "
                f"one letter for each: z, y, x, c (channel) or t (time). {_write_axes(dataset, stated)}"
            )
    if len({*stated.values()}) > 1:
        found = " and ".join(f"{name} `{axes}`" for name, axes in stated.items())
        raise InputError(
            f"{path}: found {found}, which contradict each other, for the shape {dataset.shape}. "
            f"{_write_axes(dataset, stated)}"
        )
    axes = next(iter(stated.values()), None) or _usual_axes(dataset.shape)
    if not axes:
        raise InputError(
            f"{path}: its {dataset.ndim} dimensions {dataset.shape} have no names, and their order is "
            f"unclear; without names yx, zyx or czyx is expected. {_write_axes(dataset, stated)}"
        )
    return axes


def _stated_axes(dataset: h5py.Dataset) -> Iterator[tuple[str, str]]:
    """Yield what states the axes, and the axes as one letter per dimension if it can be understood."""
    for name in dataset.attrs:
        if name.lower().replace("_", "").replace(" ", "") in _AXES_ATTRIBUTES:
            value = np.asarray(dataset.attrs[name]).astype(str)
            yield f"the attribute `{name}`", _letters(value.ravel().tolist())
    labels = [dimension.label for dimension in dataset.dims]
    if any(labels):
        yield "the dimension labels", _letters(labels)
    interlaced = dataset.attrs.get("INTERLACE_MODE")
    if interlaced is not None and dataset.ndim == 3:
        mode = str(np.asarray(interlaced).astype(str))
        yield "the attribute `INTERLACE_MODE`", _INTERLACED.get(mode.rstrip("\0"), mode)


def _letters(texts: list[str]) -> str:
    """Return axes as one lower-case letter per dimension, from any of the usual spellings."""
    if len(texts) == 1 and texts[0].lstrip().startswith("{"):  # vigra.AxisTags
        texts = [str(tag["key"]) for tag in json.loads(texts[0])["axes"]]
    elif len(texts) == 1:
        text = texts[0].strip().strip("[]()")
        texts = re.split(r"[\s,;]+", text) if re.search(r"[\s,;]", text) else [*text]
    names = [text.strip("'\"` ").lower() for text in texts]
    return "".join(_AXES_NAMES.get(name, name) if len(name) != 1 else name for name in names)


def _usual_axes(shape: tuple[int, ...]) -> str:
    """Return yx, zyx or czyx; nothing if the lengths suggest another order."""
    if len(shape) == 4 and not (shape[0] == 1 or shape[0] <= _MOST_CHANNELS < shape[1]):
        return ""  # rather zcyx
    if len(shape) >= 3:
        z, y, x = shape[-3:]
        if x in (3, 4) or (x < min(z, y) and (z == y or 2 * x < min(z, y))):
            return ""  # rather colours, or sections last
    return {2: "yx", 3: "zyx", 4: "czyx"}.get(len(shape), "")


def _write_axes(dataset: h5py.Dataset, stated: dict[str, str]) -> str:
    """Return how to state the axes: a line for a terminal, which also removes other statements."""
    shape = dataset.shape
    if len(shape) > 3:
        guess = ("tzcyx" if shape[-1] > _MOST_CHANNELS else "tzyxc")[-len(shape) :]
    else:
        guess = "yx" if len(shape) == 2 else "yxc" if shape[-1] <= _MOST_CHANNELS else "yxz"
    guess = next(
        (axes for axes in stated.values() if len(axes) == len(shape) and {*axes} <= {*"zyxctsqi"}), guess
    )
    others = [name.split("`")[1] for name in stated if "`" in name and name != "the attribute `axes`"]
    if "the dimension labels" in stated:
        others.append("DIMENSION_LABELS")
    removed = f"[d.attrs.pop(name) for name in {others}]; " if others else ""
    line = python_line(
        f"import h5py; d = h5py.File({dataset.file.filename!r}, 'r+')[{dataset.name!r}]; {removed}"
        f"d.attrs['axes'] = '{guess}'"
    )
    return (
        f"Write the right ones, for instance `{guess}` (z: sections, y: rows, x: columns, c: channels):\n"
        f"{line}"
    )


def _write_part(dataset: h5py.Dataset, axes: str) -> str:
    """Return how to write a part with at most one axis of sections and one of channels."""
    section = [axis for axis in axes if axis not in "yxcs" and dataset.shape[axes.index(axis)] > 1]
    kept = {*"yx", *section[-1:], *[axis for axis in axes if axis in "cs"][-1:]}
    index = ", ".join(":" if axis in kept else "0" for axis in axes)
    name, left = f"{dataset.name}_0", "".join(axis for axis in axes if axis in kept)
    line = python_line(
        f"import h5py; f = h5py.File({dataset.file.filename!r}, 'r+'); "
        f"f[{name!r}] = f[{dataset.name!r}][{index}]; f[{name!r}].attrs['axes'] = {left!r}"
    )
    return f"Write one part as {dataset.file.filename}:{name}, and name it in the table:\n{line}"
