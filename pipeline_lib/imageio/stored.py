"""Where the sections of an image are stored, so that two names of the same pixels are recognised."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py

from pipeline_lib import layout
from pipeline_lib.imageio.formats import open_file
from pipeline_lib.imageio.headers import ImageInfo, Stored
from pipeline_lib.imageio.naming import (
    are_slices,
    channel_paths,
    file_key,
    hdf5_path,
    slice_files,
    source_file,
    zarr_path,
)
from pipeline_lib.imageio.omezarr import array_folder
from pipeline_lib.imageio.remote import is_address
from pipeline_lib.runtime.errors import InputError

_DEEPEST = 8  # limit of virtual datasets of virtual datasets
_MOST_SECTIONS = 2**20  # limit for one part of a virtual dataset

_Sections = list[int]


def stored_sections(path: str | Path, info: ImageInfo) -> tuple[Stored, ...]:
    """Return where the sections of an image are stored.

    The slices of a folder are their files. The files of an OME set are one place. A dataset of an HDF5 file
    is its object, whatever its links are called; a virtual or external dataset is where its data are. An
    image of an OME-Zarr is the folder of its largest level.

    Parameters
    ----------
    path : str or Path
        Path of an image in a table of volumes.
    info : ImageInfo
        Shape and further files of this image.

    Returns
    -------
    tuple of Stored
        At least one place for each section, in ascending order of `first`.
    """
    if len(parts := channel_paths(path)) > 1:
        places: list[Stored] = []
        for part in parts:
            with open_file(part) as (own, _):
                places += stored_sections(part, own)
        return tuple(sorted(places, key=lambda place: place.first))
    if are_slices(path):
        return tuple(Stored(file_key(file), z, 1, 0) for z, file in enumerate(slice_files(path)))
    if hdf5_path(path):
        return tuple(sorted(_of_dataset(str(path), info, _DEEPEST)[0], key=lambda place: place.first))
    if is_address(path):
        return (Stored(str(path), 0, info.sections, 0),)
    if stored := zarr_path(path):
        return (Stored(file_key(array_folder(path, stored)), 0, info.sections, 0),)
    return (Stored(file_key(source_file(path), *info.others), 0, info.sections, 0),)


def _of_dataset(path: str, info: ImageInfo, deepest: int) -> tuple[list[Stored], tuple[int, ...]]:
    """Return where an HDF5 dataset is stored, and its shape.

    `deepest` limits the number of virtual datasets that are followed one after the other.
    """
    named = hdf5_path(path)
    assert named
    with layout.open_file(named.file) as file:
        dataset = file[named.dataset]
        z_axis = _z_axis(info, dataset.shape)
        if dataset.is_virtual and deepest:
            return _of_virtual(Path(named.file), dataset, z_axis, info.sections, deepest - 1), dataset.shape
        if dataset.external:
            return _of_external(Path(named.file), dataset, z_axis, info.sections), dataset.shape
        address = h5py.h5o.get_info(dataset.id).addr
        return [Stored(f"{file_key(named.file)}:{address}", 0, info.sections, 0)], dataset.shape


def _z_axis(info: ImageInfo, shape: tuple[int, ...]) -> int | None:
    """Return which axis of a stored array is that of the sections; None if there is only one section."""
    found = (n for n, axis in enumerate(info.axes) if axis not in "CSYX" and shape[n] > 1)
    return next(found, None)


def _of_external(file: Path, dataset: h5py.Dataset, z_axis: int | None, sections: int) -> list[Stored]:
    """Return the bytes of other files in which a dataset is stored."""
    parts = [
        (f"{file_key(file.parent / name)}:bytes", start, length) for name, start, length in dataset.external
    ]
    if z_axis is not None and math.prod(dataset.shape[:z_axis]) > 1:  # a section is not in one piece
        return [Stored(key, 0, sections, None) for key, _, _ in parts]
    size = math.prod(dataset.shape) * dataset.dtype.itemsize // sections
    places, done = [], 0
    for key, start, length in parts:
        first, last = done // size, min((done + length - 1) // size, sections - 1)
        if first <= last:
            places.append(Stored(key, first, last + 1 - first, start + first * size - done, size))
        done += length
    return places


def _of_virtual(
    file: Path, dataset: h5py.Dataset, z_axis: int | None, sections: int, deepest: int
) -> list[Stored]:
    """Return the places of the datasets that a virtual dataset is made of."""
    known: dict[str, tuple[list[Stored], int | None, tuple[int, ...]] | str] = {}
    places = []
    for part in dataset.virtual_sources():
        other = file if part.file_name == "." else file.parent / part.file_name
        source = f"{other}:/{part.dset_name.strip('/')}"
        if source not in known:
            try:
                with open_file(source) as (info, _):
                    kept, shape = _of_dataset(source, info, deepest)
                    known[source] = kept, _z_axis(info, shape), shape
            except (InputError, OSError, KeyError):  # found again when the pixels are read
                known[source] = f"{file_key(other)}:{part.dset_name}"
        found = known[source]
        if isinstance(found, str):
            places.append(Stored(found, 0, sections, None))
            continue
        kept, source_axis, shape = found
        own, others = _selected(part.vspace, dataset.shape), _selected(part.src_space, shape)
        pairs = _matched(own, z_axis, others, source_axis)
        if pairs is None:
            places += [Stored(place.key, 0, sections, None) for place in kept]
        else:
            places += [moved for run in _runs(*pairs) for moved in _moved(kept, *run)]
    return places


def _matched(
    own: list[_Sections] | None, z_axis: int | None, others: list[_Sections] | None, source_axis: int | None
) -> tuple[_Sections, _Sections] | None:
    """Return the selected sections of a virtual dataset and the sections of a source that they are.

    None if they are not known, because the selections are not regular or the axes do not correspond.
    """
    if own is None or others is None:
        return None
    sections = [0] if z_axis is None else own[z_axis]
    sources = [0] if source_axis is None else others[source_axis]
    # Points correspond in C order, so that axes along which more than one point is selected correspond.
    wide = [[n for n, chosen in enumerate(axes) if len(chosen) > 1] for axes in (own, others)]
    if [len(own[n]) for n in wide[0]] != [len(others[n]) for n in wide[1]] or len(sections) != len(sources):
        return None
    if len(sections) > 1 and wide[0].index(z_axis or 0) != wide[1].index(source_axis or 0):
        return None
    return sections, sources


def _selected(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> list[_Sections] | None:
    """Return the selected places along each axis; None if they are not the same along the other axes."""
    if space.get_select_type() == h5py.h5s.SEL_ALL:
        return [[*range(length)] for length in shape]
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return None
    axes = []
    for start, stride, count, block in zip(*space.get_regular_hyperslab(), strict=True):
        if count * block > _MOST_SECTIONS:  # also a selection without end
            return None
        axes.append([start + n * stride + m for n in range(count) for m in range(block)])
    return axes


def _runs(sections: _Sections, sources: _Sections) -> Iterator[tuple[int, int, int]]:
    """Yield pairs of sections as runs: first section, first section of the source, length."""
    begin = 0
    for n in range(1, len(sections) + 1):
        if n == len(sections) or (sections[n] - sections[n - 1], sources[n] - sources[n - 1]) != (1, 1):
            yield sections[begin], sources[begin], n - begin
            begin = n


def _moved(places: list[Stored], first: int, source: int, count: int) -> list[Stored]:
    """Return the places of `count` sections from section `source` on, as those from section `first` on."""
    moved = []
    for key, start, length, at, size in places:
        low, high = max(source, start), min(source + count, start + length)
        if low < high:
            place = None if at is None else at + (low - start) * size
            moved.append(Stored(key, first + low - source, high - low, place, size))
    return moved
