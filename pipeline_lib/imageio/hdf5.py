"""Read regions of HDF5 datasets, which are named `file.h5:/dataset`."""

from __future__ import annotations

import itertools
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
from pipeline_lib.imageio.fixes import python_line
from pipeline_lib.imageio.hdf5_axes import axes_of, text_of, write_part
from pipeline_lib.imageio.headers import (
    ImageInfo,
    Reader,
    arrange,
    cyx,
    is_inverted,
    region_index,
    require_plausible,
)
from pipeline_lib.imageio.naming import HDF5Path
from pipeline_lib.imageio.pixelsize import of_hdf5
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
        axes = axes_of(path, dataset)
        _require_as_stored(path, dataset, axes)
        fix = write_part(dataset, axes)
        info, z_axis = arrange(path, axes, dataset.shape, dataset.dtype, chunk_bytes, fix)
        if not (dataset.is_virtual or dataset.external):
            # chunks that were never written read as zeros; they may be most of a large volume of labels
            require_plausible(path, info, dataset.id.get_storage_size(), 1_000_000)
        white_is_zero = bool(np.any(dataset.attrs.get("IMAGE_WHITE_IS_ZERO", 0)))  # as HDF5 specifies images
        palette = _palette(path, dataset) if info.channels == 1 else ()
        stated = of_hdf5(dataset, axes)
        info = replace(
            info,
            others=_others(Path(source), dataset),
            white_is_zero=is_inverted(palette) if palette else white_is_zero,
            palette=palette,
            pixel_size=stated.pixel_size,
            section_spacing=stated.section_spacing,
            frames=info.frames or stated.frame_interval is not None,
            frame_interval=stated.frame_interval or None,
        )
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


def _require_as_stored(path: str | Path, dataset: h5py.Dataset, axes: str) -> None:
    """Raise `InputError` if attributes state that an image is turned, or that its values are scaled."""
    source, name = dataset.file.filename, dataset.name
    start = f"import h5py, numpy as n; f = h5py.File({source!r}, 'r+'); d = f[{name!r}]; "
    origin = text_of(dataset.attrs.get("DISPLAY_ORIGIN", "UL")).upper()
    if origin != "UL":
        flipped = [axes.index(axis) for axis, side in zip("yx", "LR", strict=True) if side in origin]
        flip = python_line(f"{start}d[...] = n.flip(d[()], {flipped}); d.attrs['DISPLAY_ORIGIN'] = 'UL'")
        keep = python_line(f"{start}d.attrs['DISPLAY_ORIGIN'] = 'UL'")
        raise InputError(
            f"{path}: the attribute `DISPLAY_ORIGIN` is {origin!r:.50}, expected UL: row 0 at the top, "
            f"column 0 on the left. To turn the stored image:\n{flip}\nIf it is right as it is stored, "
            f"correct the attribute:\n{keep}"
        )
    factor, offset = dataset.attrs.get("scale_factor", 1), dataset.attrs.get("add_offset", 0)
    if np.any(np.not_equal(factor, 1)) or np.any(np.not_equal(offset, 0)):
        write = python_line(
            f"{start}s, o = (n.ravel(d.attrs.get(k, v))[0] for k, v in (('scale_factor', 1), ('add_offset', "
            f"0))); f[{name + '_scaled'!r}] = (d[()] * s + o).astype('f4'); f[{name + '_scaled'!r}]"
            f".attrs['axes'] = {axes!r}"
        )
        keep = python_line(f"{start}[d.attrs.pop(k, None) for k in ('scale_factor', 'add_offset')]")
        raise InputError(
            f"{path}: the attributes `scale_factor` ({factor}) and `add_offset` ({offset}) state that "
            f"values are stored in another scale. To use the stored values:\n{keep}\nTo write the real "
            f"values, and name {source}:{name}_scaled in the table:\n{write}"
        )


def _palette(path: str | Path, dataset: h5py.Dataset) -> tuple[tuple[int, ...], ...]:
    """Return the colours of an indexed image, as HDF5 specifies images; nothing for other images."""
    if text_of(dataset.attrs.get("IMAGE_SUBCLASS", "")) != "IMAGE_INDEXED":
        return ()
    reference = np.ravel(dataset.attrs.get("PALETTE", ()))
    table = dataset.file[reference[0]] if len(reference) else None
    model = "RGB" if table is None else text_of(table.attrs.get("PAL_COLORMODEL", "RGB"))
    if model != "RGB" or table is None or table.shape[1:] != (3,) or table.dtype != np.uint8:
        line = python_line(
            f"import h5py; h5py.File({dataset.file.filename!r}, 'r+')[{dataset.name!r}]"
            ".attrs['IMAGE_SUBCLASS'] = 'IMAGE_GRAYSCALE'"
        )
        raise InputError(
            f"{path}: the attribute `IMAGE_SUBCLASS` is IMAGE_INDEXED, but its `PALETTE` is missing or does "
            f"not contain red, green and blue. If the values are gray levels or labels, write:\n{line}"
        )
    return tuple(map(tuple, table[()].tolist()))
