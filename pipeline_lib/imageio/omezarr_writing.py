"""Write OME-Zarr images with a pyramid and labels, block by block.

Version 0.5 is Zarr 3 with shards, so that few files are written; version 0.4 is Zarr 2, for QuPath and
Bio-Formats. Several processes can fill one array if each writes whole shards.
"""

from __future__ import annotations

import glob
import itertools
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline_lib.imageio.headers import Reader
from pipeline_lib.imageio.omezarr import METADATA, RGB, require_zarr
from pipeline_lib.imageio.pixelsize import Scale
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import explained, is_left_behind
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    import zarr

#: Versions of OME-Zarr that are written.
VERSIONS = ("0.5", "0.4")
#: Side of chunks, which are read at once, and of shards, which are files that contain them (px).
CHUNK, SHARD = 512, 2048
#: Labels with more cells than this have no properties, which programs read as a whole.
MOST_PROPERTIES = 100_000
_METADATA = (*METADATA, ".zattrs")
# Groups, levels, and the chunks in them
_WRITTEN = re.compile(r"labels|labels/cells|(labels/cells/)?\d+(/c)?(/\d+)*")
_LISTED = 5  # limit of files that a message names


class Shard(NamedTuple):
    """A region of an image that is in one file, and that only one process writes.

    Parameters
    ----------
    channel, z : int
        Channel and section.
    rows, columns : slice
        Rows and columns.
    """

    channel: int
    z: int
    rows: slice
    columns: slice


@contextmanager
def writing_omezarr(
    path: str | Path, version: str = VERSIONS[0], *, frames: bool = False
) -> Iterator[OmeZarr]:
    """Write an OME-Zarr folder completely or not at all. Context manager.

    Parameters
    ----------
    path : str or Path
        Folder to write; its name ends with `.zarr`. A folder of this name is replaced if it has only
        what bordure wrote. Labels that were edited in place are not noticed.
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    frames : bool, default False
        Whether sections are the frames of a time series.

    Yields
    ------
    OmeZarr
        Writer of the image and its labels.

    Raises
    ------
    InputError
        If the package zarr is missing, `path` exists and must not be replaced, the disk is full, or the
        folder is not writable.
    """
    require_zarr(path)
    path = Path(path)
    if path.suffix != ".zarr":
        raise InputError(f"{path}: the name of an OME-Zarr folder ends with `.zarr`.")
    path = path.resolve()  # a link stays, and the folder it leads to is replaced
    _require_own(path)
    temporary, old = (path.with_name(f".{path.stem}.{what}-{os.getpid()}") for what in ("partial", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        yield OmeZarr(temporary, version, frames=frames)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
    except OSError as error:
        clearer = explained(error, path)
        if clearer is error:
            raise
        raise clearer from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)


def _require_own(path: Path) -> None:
    """Raise `InputError` if a folder that would be replaced has more than what `OmeZarr` writes."""
    import zarr

    if not path.exists():
        return
    if not path.is_dir() or not any((path / name).is_file() for name in METADATA):
        raise InputError(f"{path}: exists, and is no Zarr folder. Choose another name.")
    if "bordure" not in zarr.open(path, mode="r").attrs:
        raise InputError(f"{path}: exists, and bordure did not write it. Choose another name, or delete it.")
    others = [*itertools.islice(_others(path), _LISTED)]
    if others:
        raise InputError(
            f"{path}: exists, and has what bordure did not write ({', '.join(others)}), which would be lost. "
            "Choose another name, or delete it."
        )


def _others(path: Path) -> Iterator[str]:
    """Yield the files and folders that `OmeZarr` does not write, without what is in such folders."""
    for folder, folders, files in os.walk(path):
        folders.sort()  # so that a message is always the same
        inside = Path(folder).relative_to(path)
        for name in sorted(folders + files):
            own = (inside / name).as_posix()
            if _WRITTEN.fullmatch(own) or (name in files and name in _METADATA):
                continue
            if name in folders:
                folders.remove(name)
            if not is_left_behind(name):
                yield own


def _clear(path: Path) -> None:
    """Remove what killed processes left beside a folder, and restore the folder if they moved it away."""
    for old in path.parent.glob(f".{glob.escape(path.stem)}.old-*"):
        if not path.exists():
            old.rename(path)
    for what in ("partial", "old"):
        for left in path.parent.glob(f".{glob.escape(path.stem)}.{what}-*"):
            shutil.rmtree(left, ignore_errors=True)


class OmeZarr:
    """Writer of an OME-Zarr folder: one image, and labels of it.

    Parameters
    ----------
    folder : Path
        Folder, which does not exist.
    version : {"0.5", "0.4"}
        Version of OME-Zarr.
    frames : bool, default False
        Whether sections are the frames of a time series. Their axis is time then, not z.
    """

    def __init__(self, folder: Path, version: str = VERSIONS[0], *, frames: bool = False) -> None:
        import zarr

        self.folder, self.version, self.frames = folder, version, frames
        self._format: Any = 3 if version == "0.5" else 2
        zarr.create_group(folder, zarr_format=self._format)
        self._labels: list[str] = []

    def write_image(
        self,
        read: Reader,
        shape: tuple[int, int, int, int],
        dtype: np.dtype,
        lengths: Scale = Scale(),  # noqa: B008
        *,
        channels: Sequence[str] = (),
        rgb: bool = False,
        provenance: Json | None = None,
    ) -> None:
        """Write the image with all levels of its pyramid, which are means.

        Parameters
        ----------
        read : callable
            Returns a region (c, y, x) of a section: `read(z, rows, columns)`.
        shape : tuple of int
            Lengths of the axes `czyx`. Axes of channels and of sections with length 1 are left out.
        dtype : numpy.dtype
            Type of the values.
        lengths : Scale, optional
            Size of pixels.
        channels : sequence of str, optional
            Names of the channels.
        rgb : bool, default False
            Whether the channels are red, green and blue.
        provenance : dict, optional
            Record of how the image was made, stored in the attribute `bordure`.
        """
        levels = self.create("", shape, dtype)
        fill(levels[0], shape, read, shards(shape), frames=self.frames)
        make_pyramid(levels, shape, _mean, frames=self.frames)
        described = self._described("image", shape, lengths, "mean")
        windows = _windows(levels[-1], shape, self.frames)
        described["omero"] = _shown(windows, channels, rgb)
        self._describe("", described, provenance)

    def write_labels(
        self,
        name: str,
        read: Callable[[int, slice, slice], np.ndarray],
        shape: tuple[int, int, int],
        lengths: Scale = Scale(),  # noqa: B008
        *,
        properties: Sequence[Json] = (),
        provenance: Json | None = None,
    ) -> None:
        """Write labels of the image with all levels of their pyramid, which are every second pixel.

        Parameters
        ----------
        name : str
            Name of the labels.
        read : callable
            Returns a region (y, x) of a section.
        shape : tuple of int
            Lengths of the axes `zyx`, those of the image.
        lengths : Scale, optional
            Size of pixels.
        properties : sequence of dict, optional
            Measurements of each label, whose number is `label-value`.
        provenance : dict, optional
            Record of how the labels were made, stored in the attribute `bordure`.
        """
        import zarr

        if not self._labels:
            zarr.create_group(self.folder / "labels", zarr_format=self._format)
        self._labels.append(name)
        self._describe("labels", {"labels": self._labels})
        group, whole = f"labels/{name}", (1, *shape)
        levels = self.create(group, whole, np.dtype(np.uint32))
        fill(levels[0], whole, lambda *region: read(*region)[None], shards(whole), frames=self.frames)
        make_pyramid(levels, whole, _stride, frames=self.frames)
        described = self._described(name, whole, lengths, "stride")
        source: Json = {"source": {"image": "../../"}}
        if self.version == "0.4":
            source["version"] = self.version
        if properties:
            source["properties"] = [*properties]
        described["image-label"] = source
        self._describe(group, described, provenance)

    def create(self, group: str, shape: tuple[int, int, int, int], dtype: np.dtype) -> list[zarr.Array]:
        """Create the empty arrays of a pyramid, down to a level of at most one chunk.

        Parameters
        ----------
        group : str
            Group of the arrays, "" for that of the image.
        shape : tuple of int
            Lengths of the axes `czyx` of the largest level.
        dtype : numpy.dtype
            Type of the values.

        Returns
        -------
        list of zarr.Array
            The largest level first.
        """
        import zarr

        if group:
            zarr.create_group(self.folder / group, zarr_format=self._format)
        found = []
        kept = np.dtype(f"{np.dtype(dtype).kind}{np.dtype(dtype).itemsize}")  # not `longlong`
        for level, own in enumerate(_level_shapes(shape)):
            axes = _axes(shape, self.frames)
            lengths = tuple(_by_axis(own)[axis] for axis in axes)
            sides = {"c": 1, "z": 1, "t": 1}
            chunks = tuple(
                sides.get(axis, min(CHUNK, length)) for axis, length in zip(axes, lengths, strict=True)
            )
            sharded = tuple(
                sides.get(axis, min(SHARD, -(-length // side) * side))
                for axis, length, side in zip(axes, lengths, chunks, strict=True)
            )
            found.append(
                zarr.create_array(
                    self.folder / group / str(level),
                    shape=lengths,
                    dtype=kept,
                    chunks=chunks,
                    fill_value=0,
                    zarr_format=self._format,
                    **(
                        {
                            "shards": sharded,
                            "compressors": zarr.codecs.ZstdCodec(level=3),
                            "dimension_names": [*axes],
                        }
                        if self._format == 3
                        else {
                            "compressors": _blosc(math.prod(chunks) * kept.itemsize),
                            "chunk_key_encoding": {"name": "v2", "separator": "/"},
                        }
                    ),
                )
            )
        return found

    def _described(self, name: str, shape: tuple[int, ...], lengths: Scale, kind: str) -> Json:
        """Return the metadata of a pyramid."""
        axes = _axes(shape, self.frames)
        y, x = lengths.pixel_size or (None, None)
        known = {"y": y, "x": x, "z": lengths.section_spacing, "t": lengths.frame_interval}
        described: list[Json] = []
        for axis in axes:
            described.append({"name": axis, "type": {"c": "channel", "t": "time"}.get(axis, "space")})
            if known.get(axis):
                described[-1]["unit"] = "second" if axis == "t" else "micrometer"
        datasets = []
        for level in range(len(_level_shapes(shape))):
            step = 2**level
            scale = [(known.get(axis) or 1.0) * (step if axis in "yx" else 1) for axis in axes]
            shift = [(known.get(axis) or 1.0) * ((step - 1) / 2 if axis in "yx" else 0) for axis in axes]
            transforms: list[Json] = [{"type": "scale", "scale": scale}]
            if level:
                transforms.append({"type": "translation", "translation": shift})
            datasets.append({"path": str(level), "coordinateTransformations": transforms})
        pyramid = {"name": name, "axes": described, "datasets": datasets, "type": kind}
        if self.version == "0.4":
            pyramid["version"] = self.version
        return {"multiscales": [pyramid]}

    def _describe(self, group: str, described: Json, provenance: Json | None = None) -> None:
        """Write the metadata of a group."""
        import zarr

        attributes = {"ome": {"version": self.version} | described} if self._format == 3 else described
        if provenance or not group:  # so that a later export may replace the folder
            attributes = attributes | {"bordure": provenance or {}}
        zarr.open_group(self.folder / group, mode="r+").attrs.put(attributes)


def shards(shape: tuple[int, int, int, int]) -> list[Shard]:
    """Return the regions of an image (c, z, y, x) that are files of their own.

    Parameters
    ----------
    shape : tuple of int
        Lengths of the axes `czyx`.

    Returns
    -------
    list of Shard
        The regions, section by section. Each process that writes takes some of them.

    Examples
    --------
    >>> from pipeline_lib.imageio.omezarr_writing import shards
    >>> [shard.columns for shard in shards((1, 1, 10, 3000))]
    [slice(0, 2048, None), slice(2048, 3000, None)]
    """
    return [
        Shard(channel, z, *area.write)
        for z in range(shape[1])
        for area in blocks((shape[2], shape[3]), SHARD)
        for channel in range(shape[0])
    ]


def fill(
    array: zarr.Array,
    shape: tuple[int, int, int, int],
    read: Reader,
    own: Iterable[Shard],
    *,
    frames: bool = False,
) -> None:
    """Write regions of the largest level.

    Parameters
    ----------
    array : zarr.Array
        The level.
    shape : tuple of int
        Lengths of the axes `czyx`.
    read : callable
        Returns a region (c, y, x) of a section.
    own : iterable of Shard
        Regions to write.
    frames : bool, default False
        Whether the array has an axis of time, not z.
    """
    axes = _axes(shape, frames)
    last, region = None, np.empty(0)
    for channel, z, rows, columns in own:
        if last != (z, rows, columns):  # channels of a region are read once
            last, region = (z, rows, columns), read(z, rows, columns)
        array[_index(axes, channel, z, rows, columns)] = region[channel]


def make_pyramid(
    levels: Sequence[zarr.Array],
    shape: tuple[int, int, int, int],
    reduce: Callable[[np.ndarray], np.ndarray],
    *,
    frames: bool = False,
) -> None:
    """Fill all levels but the largest, each from the one before.

    Parameters
    ----------
    levels : sequence of zarr.Array
        The levels; the first is filled.
    shape : tuple of int
        Lengths of the axes `czyx` of the first level.
    reduce : callable
        Makes a region (y, x) of half the height and width, rounded up.
    frames : bool, default False
        Whether the arrays have an axis of time, not z.
    """
    axes = _axes(shape, frames)
    side = SHARD // 2  # so that at most one shard of the level before is in memory
    for level, own in enumerate(_level_shapes(shape)[1:], 1):
        finer, coarser = levels[level - 1], levels[level]
        for channel, z, rows, columns in shards(own):  # type: ignore[arg-type]
            height, width = rows.stop - rows.start, columns.stop - columns.start
            region = np.empty((height, width), coarser.dtype)
            for area in blocks((height, width), side):
                inner = [
                    slice(2 * (at.start + part.start), 2 * (at.start + part.stop))
                    for at, part in zip((rows, columns), area.write, strict=True)
                ]
                region[area.write] = reduce(np.asarray(finer[_index(axes, channel, z, *inner)]))
            coarser[_index(axes, channel, z, rows, columns)] = region


def _mean(region: np.ndarray) -> np.ndarray:
    """Return the means of 2 x 2 px; those at odd edges have fewer."""
    padded = np.pad(region, [(0, length % 2) for length in region.shape], mode="edge")
    exact = region.dtype.itemsize <= 2 or region.dtype == np.float32
    padded = padded.astype(np.float32 if exact else np.float64)
    mean = (padded[::2, ::2] + padded[1::2, ::2] + padded[::2, 1::2] + padded[1::2, 1::2]) / 4
    return mean.astype(region.dtype) if region.dtype.kind == "f" else np.rint(mean).astype(region.dtype)


def _stride(region: np.ndarray) -> np.ndarray:
    """Return every second pixel, as the mean of labels is no label."""
    return region[::2, ::2]


def _blosc(chunk_bytes: int) -> Json:
    """Return the compressor of Zarr 2. Of those that JZarr, the reader of Bio-Formats, knows, it is the best.

    Each chunk is one block, because several threads write blocks in any order: bytes would differ.
    """
    return {"id": "blosc", "cname": "zstd", "clevel": 3, "shuffle": 1, "blocksize": chunk_bytes}


def _level_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the lengths `czyx` of all levels."""
    found = [shape]
    while max(found[-1][2:]) > CHUNK:
        found.append((*shape[:2], *(-(-length // 2) for length in found[-1][2:])))
    return found


def _axes(shape: tuple[int, ...], frames: bool) -> str:
    """Return the axes that are written, in the order of OME-Zarr: time, channel, space."""
    lengths = _by_axis(shape)
    return "".join(axis for axis in ("tcyx" if frames else "czyx") if lengths[axis] > 1 or axis in "yx")


def _by_axis(shape: tuple[int, ...]) -> dict[str, int]:
    """Return the lengths of all axes; sections are along z or along t."""
    channels, sections, height, width = shape
    return {"c": channels, "z": sections, "t": sections, "y": height, "x": width}


def _index(axes: str, channel: int, z: int, rows: slice, columns: slice) -> tuple[Any, ...]:
    """Return the index of a region of an array with these axes."""
    parts = {"c": channel, "z": z, "t": z, "y": rows, "x": columns}
    return tuple(parts[axis] for axis in axes)


def _shown(windows: list[tuple[float, float]], names: Sequence[str], rgb: bool) -> Json:
    """Return how channels are displayed: gray or in colours, from the smallest to the largest value."""
    if rgb:  # with a window for each channel, colours would change
        windows = [(min(low for low, _ in windows), max(high for _, high in windows))] * len(windows)
        names = [*RGB]
    channels = []
    for number, (lowest, highest) in enumerate(windows):
        name = names[number] if number < len(names) else f"channel {number}"
        if not lowest < highest:
            lowest, highest = 0.0, 1.0
        channels.append(
            {
                "label": name,
                "color": RGB[name] if rgb else "FFFFFF",
                "active": True,
                "window": {"min": lowest, "max": highest, "start": lowest, "end": highest},
            }
        )
    return {"channels": channels, "rdefs": {"model": "greyscale" if len(channels) == 1 else "color"}}


def _windows(coarsest: zarr.Array, shape: tuple[int, ...], frames: bool) -> list[tuple[float, float]]:
    """Return the smallest and the largest value of each channel."""
    axes = _axes(shape, frames)
    found = []
    for number in range(shape[0]):
        lowest, highest = math.inf, -math.inf
        for z in range(shape[1]):
            region = np.asarray(coarsest[_index(axes, number, z, slice(None), slice(None))])
            with suppress(ValueError):  # no number at all
                finite = region[np.isfinite(region)]
                lowest, highest = min(lowest, float(finite.min())), max(highest, float(finite.max()))
        found.append((lowest, highest))
    return found
