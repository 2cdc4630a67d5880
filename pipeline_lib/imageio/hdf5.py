"""Regions of HDF5 datasets, named as `file.h5:/dataset`."""

from __future__ import annotations

import itertools
import json
import math
import os
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
from pipeline_lib.imageio.headers import ImageInfo, Reader, arrange, cyx, region_index, require_plausible
from pipeline_lib.imageio.naming import HDF5
from pipeline_lib.imageio.tiff import KEPT
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
}  # what other writers use and HDF5 itself lacks
_LISTED = 20  # datasets that a message names
_SEARCHED = 1000  # objects that are looked at for them
_LIMITING = threading.Lock()  # a limit is the whole process's; HDF5 serves one thread at a time anyway


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[tuple[ImageInfo, Reader]]:
    """Info and region reader of one dataset."""
    match = HDF5.fullmatch(str(path))
    name = (match["dataset"] or "").strip("/")
    with layout.open_file(match["file"]) as file:
        dataset = _dataset(path, file, match["file"], name)
        _require_data(path, dataset)
        chunk_bytes = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        info, z_axis = arrange(path, _axes(path, dataset), dataset.shape, dataset.dtype, chunk_bytes)
        if not (dataset.is_virtual or dataset.external):
            # where no chunk was written there are zeros: much of a large volume of labels may be
            require_plausible(path, info, dataset.id.get_storage_size(), 1_000_000)
        info = replace(info, others=_others(Path(match["file"]), dataset))
        cache = _cache(dataset.chunks, info)
    with layout.open_file(match["file"], **cache) as file:
        dataset = file[name]

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            region = (rows.stop - rows.start) * (columns.stop - columns.start) * info.channels
            with _growing_by(KEPT + 4 * (info.smallest_read + region * info.dtype.itemsize)):
                return cyx(dataset[tuple(region_index(info, z_axis, z, rows, columns))], info)

        yield info, read


def _others(file: Path, dataset: h5py.Dataset) -> tuple[Path, ...]:
    """The files that a virtual dataset, or one stored outside, is made up of."""
    virtual = [source.file_name for source in dataset.virtual_sources()] if dataset.is_virtual else []
    outside = [name for name, *_ in dataset.external or ()]
    return tuple(file.parent / name for name in sorted({*virtual, *outside} - {".", file.name}))


@contextmanager
def _growing_by(room: int) -> Iterator[None]:
    """Let this process take `room` bytes more at most.

    HDF5 unpacks a chunk to whatever comes of it, and only then looks whether that is the size of a chunk.
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
    """The dataset `name`, which must lie in this very file: what lies elsewhere is no input of its own."""
    parts = name.split("/") if name else []
    for group in ("/".join(parts[:n]) for n in range(1, len(parts) + 1)):
        link = file.get(group, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            rest = name[len(group) :]
            raise InputError(
                f"{path}: a link to another file. Name that file itself: "
                f"{os.path.join(os.path.dirname(source), link.filename)}:/{link.path.strip('/')}{rest}."
            )
        if link is None:
            break
    dataset = file.get(name) if name else None
    if isinstance(dataset, h5py.Dataset):
        return dataset
    what = "no such" if name else "names no"
    if isinstance(dataset, h5py.Group):
        what = "a group, not a"
    held = [*itertools.islice(_datasets(file), _LISTED)]
    listed = ", ".join(f"{source}:/{found}" for found in held)
    raise InputError(
        f"{path}: {what} dataset in this HDF5 file. Write one of: {listed or '(the file holds none)'}."
    )


def _datasets(file: h5py.File) -> Iterator[str]:
    """Names of the datasets among the first objects of the file, links not followed."""
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
    """Refuse data that are not there, which HDF5 shows as zeros, and those that cannot be unpacked."""
    if dataset.shape is None:
        raise InputError(
            f"{path}: an empty dataset without shape. Write images into it, or name another one."
        )
    own = Path(dataset.file.filename)
    others = [source.file_name for source in dataset.virtual_sources()] if dataset.is_virtual else []
    others += [name if isinstance(name, str) else os.fsdecode(name) for name, *_ in dataset.external or ()]
    for other in others:
        if other != "." and not (own.parent / other).is_file():
            raise InputError(
                f"{path}: shows data of {own.parent / other}, which is not there. Put it in its place, or "
                "copy the dataset with its data (h5repack)."
            )
    if not others and dataset.id.get_storage_size() == 0 and dataset.size:
        raise InputError(
            f"{path}: {dataset.shape} {dataset.dtype}, but nothing was ever written into it. Was the program "
            "that made it interrupted? Make it anew."
        )
    plist = dataset.id.get_create_plist()
    for number in range(plist.get_nfilters()):
        code, *_ = plist.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{path}: packed with {_FILTERS.get(code, 'a filter')} (HDF5 filter {code}), which is not "
                "installed here. Pack it with gzip (h5repack -f GZIP=1), or save it as TIFF."
            )


def _cache(chunks: tuple[int, ...] | None, info: ImageInfo) -> dict[str, int]:
    """Settings of a file whose chunks are wider than blocks: room for those that a row of blocks shares."""
    high, wide = (chunks[info.axes.index(axis)] for axis in "YX") if chunks else (1, 1)
    if wide <= BLOCK:
        return {}
    rows = -(-BLOCK * 5 // 4 // high) + 1  # of chunks, for a block with its halo
    needed = rows * -(-info.width // wide) * info.channels * info.smallest_read
    return {"rdcc_nbytes": min(needed, KEPT), "rdcc_nslots": 100_003}


def _axes(path: str | Path, dataset: h5py.Dataset) -> str:
    """Axes from the attribute `axes`, from ilastik's `axistags`, or from the number of dimensions."""
    if "axes" in dataset.attrs:
        axes = str(np.asarray(dataset.attrs["axes"]).astype(str))
    elif "axistags" in dataset.attrs:
        axes = "".join(tag["key"] for tag in json.loads(dataset.attrs["axistags"])["axes"])
    else:
        axes = {2: "yx", 3: "zyx", 4: "czyx"}.get(dataset.ndim, "")
    if len(axes) != dataset.ndim or not axes:
        raise InputError(
            f"{path}: {dataset.ndim} dimensions {dataset.shape}, axes `{axes}`; expected yx, "
            "zyx or czyx, or an attribute with one letter for each (h5py: "
            "dataset.attrs['axes'] = 'zyxc')."
        )
    return axes
