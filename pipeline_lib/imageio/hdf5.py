"""Read regions of HDF5 datasets, which are named `file.h5:/dataset`."""

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
        info, z_axis = arrange(path, _axes(path, dataset), dataset.shape, dataset.dtype, chunk_bytes)
        if not (dataset.is_virtual or dataset.external):
            # chunks that were never written read as zeros; they may be most of a large volume of labels
            require_plausible(path, info, dataset.id.get_storage_size(), 1_000_000)
        info = replace(info, others=_others(Path(source), dataset))
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
    """Return the axes from the attribute `axes`, ilastik's `axistags`, or the number of dimensions."""
    if "axes" in dataset.attrs:
        axes = str(np.asarray(dataset.attrs["axes"]).astype(str))
    elif "axistags" in dataset.attrs:
        axes = "".join(tag["key"] for tag in json.loads(dataset.attrs["axistags"])["axes"])
    else:
        axes = {2: "yx", 3: "zyx", 4: "czyx"}.get(dataset.ndim, "")
    if len(axes) != dataset.ndim or not axes:
        raise InputError(
            f"{path}: found {dataset.ndim} dimensions {dataset.shape} with axes `{axes}`, expected yx, zyx "
            "or czyx. For other axes, write an attribute with one letter per dimension (h5py: "
            "dataset.attrs['axes'] = 'zyxc')."
        )
    return axes
