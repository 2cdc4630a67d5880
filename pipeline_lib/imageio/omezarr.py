"""Read regions of OME-Zarr images, versions 0.1 to 0.5.

They are named `image.zarr` or, inside, `image.zarr/labels/cells`. The largest level of the pyramid is read.
The folder can be an address, such as `https://server/image.zarr`; its files cannot be listed then, so missing
ones are not found. The package zarr is needed, which the extra `zarr` installs.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline_lib.imageio.headers import ImageInfo, Reader, arrange, cyx, region_index, require_plausible
from pipeline_lib.imageio.naming import ZarrPath
from pipeline_lib.imageio.pixelsize import Scale, of_lengths
from pipeline_lib.imageio.remote import is_address, open_store
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    import zarr

#: Metadata files of a group or an array: Zarr version 3, then version 2.
METADATA = ("zarr.json", ".zgroup", ".zarray")
#: Names and colours of channels that together are one image of colours.
RGB = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}
_LISTED = 20  # limit of images that a message names
_DEEPEST = 4  # levels of groups that are searched for images; a well of a plate is in the second
_UNNAMED_AXES = {2: "yx", 3: "zyx", 5: "tczyx"}  # of versions 0.1 and 0.2, and of arrays without names


def require_zarr(path: str | Path) -> None:
    """Raise `InputError` unless the package zarr is installed."""
    if not importlib.util.find_spec("zarr"):
        raise InputError(f"{path}: OME-Zarr needs a further package. Type `pip install 'bordure[zarr]'`.")


@contextmanager
def open_omezarr(
    path: str | Path, named: ZarrPath, *, every_chunk: bool = False
) -> Iterator[tuple[ImageInfo, Reader]]:
    """Yield the info and the region reader of an image; `named` are the parts of `path`.

    With `every_chunk`, a warning says how many files of pixels are missing.
    """
    require_zarr(path)
    import zarr

    node = _open(path, named)
    if isinstance(node, zarr.Array):
        found = Level(node, _axes_of_array(path, node))
    else:
        found = _largest_level(path, named, node)
    array = found.array
    smallest_read = math.prod(array.chunks) * array.dtype.itemsize
    if array.dtype.kind not in "buif":
        raise InputError(f"{path}: found values of the type {array.dtype}; expected numbers.")
    fix = "Write one part of it as an image of its own, with the program that made it."
    info, z_axis = arrange(path, found.axes, array.shape, np.dtype(array.dtype), smallest_read, fix)
    listed = not is_address(path)
    if listed and math.prod(array.shape) * array.dtype.itemsize > 2**30:
        require_plausible(path, info, _stored_bytes(array), 1_000_000)
    if listed and every_chunk:
        _warn_if_incomplete(path, array)
    yield (
        replace(
            info,
            white_is_zero=found.inverted,
            rgb=found.rgb and info.channels == len(RGB),
            pixel_size=found.scale.pixel_size,
            section_spacing=None if info.frames else found.scale.section_spacing,
            frame_interval=found.scale.frame_interval if info.frames else None,
            names=found.names if len(found.names) == info.channels else (),
        ),
        lambda z, rows, columns: cyx(
            np.asarray(array[tuple(region_index(info, z_axis, z, rows, columns))]), info
        ),
    )


def _open(path: str | Path, named: ZarrPath) -> Any:
    """Return the group or array; raise `InputError` if there is none."""
    import zarr

    if is_address(named.folder):
        try:
            return zarr.open(open_store(named.folder), path=named.inside, mode="r")
        except FileNotFoundError as error:
            raise InputError(
                f"{path}: there is no group or array of Zarr at this address. Check it, for instance in a "
                f"browser: {path}/{METADATA[0]}, {METADATA[1]} or {METADATA[2]} must exist."
            ) from error
    folder = Path(named.folder, named.inside)
    if not any((folder / name).is_file() for name in METADATA):
        if folder.is_dir() or not Path(named.folder).is_dir():
            found = ", ".join(sorted(os.listdir(folder))[:5]) if folder.is_dir() else ""
            what = f"found {found or 'nothing'}; " if folder.is_dir() else ""
            raise InputError(
                f"{path}: {what}expected {METADATA[0]} (Zarr 3) or {METADATA[1]} (Zarr 2) in this folder. "
                "Copy the folder again, with hidden files."
            )
        raise InputError(f"{path}: there is no such group. {_images_in(named.folder)}")
    return zarr.open(folder, mode="r")


def _metadata(group: zarr.Group) -> Json:
    """Return the metadata of OME: in `ome` since version 0.5, before in the attributes themselves."""
    found = dict(group.attrs)
    return found["ome"] if isinstance(found.get("ome"), dict) else found


def array_folder(path: str | Path, named: ZarrPath) -> Path:
    """Return the folder of the pixels that are read, which several names can have."""
    import zarr

    node = _open(path, named)
    array = node if isinstance(node, zarr.Array) else _largest_level(path, named, node).array
    return _folder(array)


def _folder(array: zarr.Array) -> Path:
    return Path(array.store.root, array.path)


class Level(NamedTuple):
    """A level of a pyramid.

    Parameters
    ----------
    array : zarr.Array
        Its pixels.
    axes : str
        Its axes, one letter each.
    scale : Scale
        Size of pixels.
    names : tuple of str
        Names of the channels.
    inverted : bool
        Whether 0 is displayed as white.
    rgb : bool
        Whether the channels are red, green and blue. They have no names then.
    """

    array: zarr.Array
    axes: str
    scale: Scale = Scale()
    names: tuple[str, ...] = ()
    inverted: bool = False
    rgb: bool = False


def _largest_level(path: str | Path, named: ZarrPath, group: zarr.Group) -> Level:
    """Return the largest level of an image."""
    import zarr

    described = _metadata(group)
    if "multiscales" not in described:
        listed = not is_address(named.folder)
        images = [*itertools.islice(_images(Path(named.folder), named.inside), 2)] if listed else []
        if len(images) == 1 and "plate" not in described:
            inside = images[0]
            return _largest_level(
                path, ZarrPath(named.folder, inside), _open(path, ZarrPath(named.folder, inside))
            )
        what = "a plate of several images" if "plate" in described else "no image, but a group"
        raise InputError(f"{path}: found {what}. {_images_in(named.folder)}")
    pyramids = described["multiscales"]
    try:
        pyramid = pyramids[0]
        levels = [level["path"] for level in pyramid["datasets"]]
        arrays = [group[level] for level in levels[:2]]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: the metadata `multiscales` name no array that exists ({error}). Copy the folder again."
        ) from error
    if len(pyramids) > 1:
        others = ", ".join(str(other.get("name", number)) for number, other in enumerate(pyramids[1:], 1))
        raise InputError(
            f"{path}: has {len(pyramids)} images in one group ({others} beside the first). Name the array "
            f"that is meant, such as {named.folder}/{named.inside and f'{named.inside}/'}{levels[0]}."
        )
    array = arrays[0]
    if not isinstance(array, zarr.Array):
        raise InputError(f"{path}: {levels[0]} is a group, expected an array. Copy the folder again.")
    if len(arrays) > 1 and math.prod(arrays[1].shape) > math.prod(array.shape):
        raise InputError(
            f"{path}: level {levels[1]} is larger than {levels[0]}, which must be the largest. Name the "
            f"array that is meant, such as {named.folder}/{named.inside and f'{named.inside}/'}{levels[1]}."
        )
    axes, units = _axes(path, pyramid, array)
    scale = _scale(axes, units, pyramid, pyramid["datasets"][0])
    channels = [*described.get("omero", {}).get("channels", ())]
    names = tuple(str(channel.get("label", "")) for channel in channels)
    inverted = bool(channels) and all(channel.get("inverted") is True for channel in channels)
    # stains are often shown in these colours too, but are not called so
    colours = [str(channel.get("color", "")).upper() for channel in channels]
    rgb = [*zip(names, colours, strict=True)] == [*RGB.items()]
    return Level(array, axes, scale, () if rgb else names, inverted, rgb)


def _stored_bytes(array: zarr.Array) -> int:
    """Return the size of an array on disk."""
    return sum(file.stat().st_size for file in _folder(array).rglob("*") if file.is_file())


def _warn_if_incomplete(path: str | Path, array: zarr.Array) -> None:
    """Warn if files of pixels are missing. Each is a shard or, without shards, a chunk."""
    counts = [
        -(-length // side) for length, side in zip(array.shape, array.shards or array.chunks, strict=True)
    ]
    folder, stored = _folder(array), 0
    # `array.nchunks_initialized` counts a shard at the edge as if it had as many chunks as the others
    for file in folder.rglob("*"):
        name = file.relative_to(folder).as_posix()
        place = tuple(int(number) for number in re.findall("[0-9]+", name))
        if len(place) == len(counts) and all(at < count for at, count in zip(place, counts, strict=True)):
            stored += array.metadata.encode_chunk_key(place) == name and file.is_file()
    if missing := math.prod(counts) - stored:
        logger.warning(
            "%s: %d of %d files of pixels are missing, and are read as %s. If they should exist, the copy is "
            "incomplete: copy the folder again.",
            path,
            missing,
            math.prod(counts),
            array.fill_value,
        )


def _axes(path: str | Path, pyramid: Json, array: zarr.Array) -> tuple[str, list[str | None]]:
    """Return the axes of the array, one letter each, and their units."""
    stated = pyramid.get("axes", [*_UNNAMED_AXES.get(array.ndim, "")])
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in stated]
    letters = "".join(str(axis.get("name", "?")) for axis in axes)
    if len(axes) != array.ndim or len(letters) != array.ndim or not {*letters.lower()} <= {*"tczyx"}:
        raise InputError(
            f"{path}: found the axes {[axis.get('name') for axis in axes]} for the shape {array.shape}; "
            "expected t, c, z, y and x. Write the image again with the program that made it."
        )
    return letters.lower(), [axis.get("unit") for axis in axes]


def _axes_of_array(path: str | Path, array: zarr.Array) -> str:
    """Return the axes of an array without metadata of OME."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    letters = "".join(str(name) for name in names or _UNNAMED_AXES.get(array.ndim, ""))
    if len(letters) != array.ndim or not {*letters.lower()} <= {*"tczyx"}:
        raise InputError(
            f"{path}: an array of the shape {array.shape} whose axes are not named. Name the group around "
            "it, if this is an OME-Zarr image."
        )
    return letters.lower()


def _scale(axes: str, units: list[str | None], pyramid: Json, level: Json) -> Scale:
    """Return the lengths and times that scales state, of the level and of all levels."""
    factors = np.ones(len(axes))
    with suppress(KeyError, TypeError, ValueError):
        for transform in (
            *level.get("coordinateTransformations", ()),
            *pyramid.get("coordinateTransformations", ()),
        ):
            if transform["type"] == "scale":
                factors = factors * np.array(transform["scale"], float)
        return of_lengths(dict(zip(axes, zip(factors.tolist(), units, strict=True), strict=True)))
    return Scale()


def _images(folder: Path, inside: str, depth: int = _DEEPEST) -> Iterator[str]:
    """Yield the paths of images in a folder, relative to it, without their labels."""
    here = folder / inside
    with suppress(OSError):
        for name in sorted(os.listdir(here), key=lambda name: (len(name), name)):
            below = f"{inside}/{name}".lstrip("/")
            if not any((folder / below / file).is_file() for file in METADATA[:2]):
                continue
            import zarr

            node = zarr.open(folder / below, mode="r")
            if isinstance(node, zarr.Group):
                if "multiscales" in _metadata(node):
                    yield below
                elif depth > 1:
                    yield from _images(folder, below, depth - 1)


def _images_in(folder: str) -> str:
    """Return the end of a message: the images that a folder has."""
    if is_address(folder):
        return f"Write the address of one image, such as {folder}/0."
    found = [*itertools.islice(_images(Path(folder), ""), _LISTED)]
    listed = ", ".join(f"{folder}/{inside}" for inside in found)
    return f"Write one of: {listed}." if found else "It has no image with the metadata `multiscales`."
