"""HDF5 files of bordure: name, axes, type, unit and meaning of each array; functions to read and write."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib.kernels.blocks import ALIGNMENT, Part
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import allow_open_files, replacing
from pipeline_lib.runtime.types import Json, Offsets, Stored

#: Version of the format, stored in each file. Files of other versions are refused.
FORMAT_VERSION = 4
# attributes of `write_pixel_size`
_SCALE = ("pixel_size", "section_spacing", "pixels_per_model_pixel", "frame_interval")
#: Side of a chunk (px). A patch of 572 px touches 5 x 5 chunks; a chunk of float32 has 64 KiB.
CHUNK = ALIGNMENT


@dataclass(frozen=True)
class Array:
    """Description of an array that is stored as an HDF5 dataset.

    Parameters
    ----------
    name : str
        Name of the dataset.
    axes : str
        One letter per axis: `c` channel, `z` section, `y` row, `x` column, `p` piece, `k` component or class,
        `b` byte, `w` window, `o` object, `e` edge.
    dtype : str or None
        Type of the values; None for the type of the source file.
    unit : str
        Unit of the values; "1" for numbers without unit.
    meaning : str
        What the values mean, as a noun phrase. It is stored as an attribute of the dataset.
    compressed : bool, default True
        Whether the dataset is compressed with gzip.
    """

    name: str
    axes: str
    dtype: str | None
    unit: str
    meaning: str
    compressed: bool = True


RAW = Array("raw", "czyx", None, "gray level", "gray levels of the images, as read from their file")
LABELS = Array(
    "labels", "zyx", "uint32", "instance", "number of the cell that the pixel belongs to, 0 = background"
)
SEPARATION_BORDER = Array(
    "separation_border",
    "zyx",
    "uint8",
    "1",
    "border between touching cells: 1 = cell pixel that counts as background, 0 = any other pixel",
)
IGNORE = Array(
    "ignore",
    "zyx",
    "uint8",
    "1",
    "1 = pixel that is not annotated, which is neither learned from nor scored, 0 = any other pixel; the "
    "array exists only if there are such pixels",
)
TARGET = Array(
    "target",
    "zyx",
    "uint8",
    "class",
    "class of the pixel that networks learn, a number in the order of the attribute `classes` (JSON); the "
    "array exists only if there are other classes than background and cell",
)
SECTION_HASH = Array(
    "section_hash",
    "zb",
    "uint8",
    "1",
    "hash of each section, one byte per element, the same for all types, gray scales and orientations; 0 if "
    "all gray levels are equal, or more than 65536 differ",
)
SECTION_WINDOWS = Array(
    "section_windows",
    "zw",
    "uint64",
    "1",
    "codes of small windows of each section, at places that the content decides: images that overlap share "
    "codes; ascending, with 0 at the end",
)
WEIGHT_MAP = Array(
    "weight_map",
    "zyx",
    "float32",
    "1",
    "weight of the pixel in the loss: w_c of its class, plus w0 exp(-(d1 + d2)^2 / (2 sigma^2)) on "
    "background pixels, where d1 and d2 are the distances to the nearest two cells",
)
CELL_PROBABILITY = Array(
    "cell_probability",
    "zyx",
    "float32",
    "1",
    "predicted probability that the pixel is inside a cell, from 0 to 1",
    compressed=False,  # compression saves a fifth of the space, but takes a tenth of the time of a prediction
)
CLASS_PROBABILITY = Array(
    "class_probability",
    "kzyx",
    "float32",
    "1",
    "predicted probability of each class, from 0 to 1, in the order of the attribute `classes` (JSON); the "
    "array exists only if there are other classes than background and cell",
    compressed=False,
)
AFFINITIES = Array(
    "affinities",
    "kzyx",
    "float32",
    "1",
    "predicted probability that the pixel and the one at each offset from it belong to the same cell, from 0 "
    "to 1, in the order of the attribute `offsets` (JSON; rows and columns in px); the array exists only if "
    "the network learned affinities",
    compressed=False,
)
DISAGREEMENT = Array(
    "disagreement",
    "zyx",
    "float32",
    "1",
    "standard deviation of the cell probability over the members of an ensemble, from 0 to 0.5; the array "
    "exists only if the prediction is the mean of several networks",
    compressed=False,
)
BOXES = Array(
    "boxes",
    "oe",
    "float64",
    "px",
    "box of each object: first row and column, and those after the last one (y0, x0, y1, x1)",
)
BOX_SECTION = Array("box_section", "o", "int64", "1", "section of each object, from 0, in ascending order")
BOX_CLASS = Array(
    "box_class",
    "o",
    "uint8",
    "class",
    "class of each object, a number in the order of the attribute `classes` (JSON), from 1",
)
BOX_STATE = Array(
    "box_state",
    "o",
    "uint8",
    "1",
    "0 = complete object, 1 = object that touches the edge of the section, 2 = object that is neither "
    "learned nor scored, for example because it is too small, or next to pixels that are not annotated",
)
#: Boxes of annotated objects, one row for each, and the lengths of the axes of a row.
BOX_ARRAYS = ((BOXES, (4,)), (BOX_SECTION, ()), (BOX_CLASS, ()), (BOX_STATE, ()))
#: Arrays that say which pixels belong to cells. Volumes that are annotated by boxes do not have them.
PIXEL_ARRAYS = (LABELS, SEPARATION_BORDER)
BOX_SCORE = Array("box_score", "o", "float32", "1", "score of each detection, from 0 to 1")

# Intermediate arrays between a prediction and its labels (instances/labelling.py). The last four are stored
# in one group for each section.
BORDER = Array(
    "border",
    "zyx",
    "uint8",
    "1",
    "1 = pixel of the class `border` outside of cells, which is given back to the nearest cell, 0 = any "
    "other pixel; the array exists only if there is this class",
    compressed=False,
)
PIECES = Array(
    "pieces",
    "zyx",
    "uint32",
    "piece",
    "number of the piece that the pixel belongs to, 0 = background; a piece is the part of a connected "
    "component in one block, and pieces are numbered from 1 in each section",
    compressed=False,  # short-lived, and written twice as fast
)
COMPONENT = Array(
    "component", "p", "uint32", "component", "number of the connected component that each piece belongs to"
)
FIRST_PIXEL = Array(
    "first_pixel",
    "k",
    "int64",
    "px",
    "position of the first pixel of each component: column * number of rows + row",
)
SIZE = Array("size", "k", "int64", "px", "number of pixels of each component")
NUMBER = Array(
    "number", "p", "uint32", "instance", "label of each piece, 0 = removed because its component is too small"
)


class AnnotatedArrays(NamedTuple):
    """Arrays of the dataset file of an annotated volume; `annotated` returns them.

    Parameters
    ----------
    raw : (c, z, y, x) array or HDF5 dataset
        Gray levels, see `RAW`.
    labels : (z, y, x) array or HDF5 dataset
        Instance labels, see `LABELS`.
    separation_border : (z, y, x) array or HDF5 dataset
        Separation border, see `SEPARATION_BORDER`.
    ignore : (z, y, x) array or HDF5 dataset, or None
        Pixels that are not annotated, see `IGNORE`. None if all pixels are annotated.
    target : (z, y, x) array or HDF5 dataset, or None
        Class of each pixel, see `TARGET`. None if the classes are background and cell.
    """

    raw: Stored
    labels: Stored
    separation_border: Stored
    ignore: Stored | None = None
    target: Stored | None = None


@contextmanager
def create(path: str | Path, provenance: Json) -> Iterator[h5py.File]:
    """Create an HDF5 file, which appears at its path only when it is complete. Context manager.

    Parameters
    ----------
    path : str or Path
        File to write. An existing file is replaced.
    provenance : dict
        Record of how the file is made, stored as JSON in an attribute.

    Yields
    ------
    h5py.File
        The file, open for writing.

    Raises
    ------
    InputError
        If the disk is full or the folder is not writable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pipeline_lib import layout
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "volume.h5")
    ...     with layout.create(path, provenance={}) as file:
    ...         layout.add(file, layout.LABELS, (1, 2, 3))[:] = 7
    ...     with layout.require(path, layout.LABELS) as file:
    ...         file["labels"][0]
    array([[7, 7, 7],
           [7, 7, 7]], dtype=uint32)
    """
    # No HDF5 lock, because some network file systems do not support it. It is not needed: only this process
    # writes, and it writes to a name that no other process uses.
    # The format of HDF5 1.10 (2016) also has checksums for its tables, where a wrong bit could select other
    # data.
    with replacing(path) as temporary, h5py.File(temporary, "w", libver="v110", locking=False) as file:
        _bound_index(file)
        file.attrs["format_version"] = FORMAT_VERSION
        _write_texts(file, format="bordure", provenance=json.dumps(provenance))
        yield file


def add(
    file: h5py.Group, array: Array, shape: tuple[int, ...], dtype: npt.DTypeLike | None = None
) -> h5py.Dataset:
    """Create a dataset with chunks that suit the reading of patches, and describe it in its attributes.

    Parameters
    ----------
    file : h5py.File or h5py.Group
        Where to create the dataset.
    array : Array
        Description of the dataset.
    shape : tuple of int
        Lengths of the axes `array.axes`.
    dtype : data-type, optional
        Type of the values; by default `array.dtype`.

    Returns
    -------
    h5py.Dataset
        The empty dataset.

    Raises
    ------
    ValueError
        If `shape` does not have the axes of `array`.
    """
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
        fletcher32=True,  # checksum: reading a damaged chunk is an error
        **({"compression": "gzip", "compression_opts": 1, "shuffle": True} if array.compressed else {}),
    )
    _write_texts(dataset, axes=array.axes, unit=array.unit, meaning=array.meaning)
    return dataset


def add_growing(file: h5py.Group, array: Array, row: tuple[int, ...] = ()) -> h5py.Dataset:
    """Create an empty dataset to which `append` adds rows, and describe it in its attributes.

    Parameters
    ----------
    file : h5py.File or h5py.Group
        Where to create the dataset.
    array : Array
        Description of the dataset.
    row : tuple of int, optional
        Lengths of the axes after the first one.

    Returns
    -------
    h5py.Dataset
        The dataset.
    """
    dataset = file.create_dataset(
        array.name,
        (0, *row),
        array.dtype,
        maxshape=(None, *row),
        chunks=(CHUNK, *row),
        fletcher32=True,
    )
    _write_texts(dataset, axes=array.axes, unit=array.unit, meaning=array.meaning)
    return dataset


def append(dataset: h5py.Dataset, rows: npt.NDArray[Any]) -> None:
    """Add rows to the end of a dataset.

    Parameters
    ----------
    dataset : h5py.Dataset
        Result of `add_growing`.
    rows : array
        Rows, with the axes of the dataset.
    """
    if len(rows):
        before = len(dataset)
        dataset.resize(before + len(rows), axis=0)
        dataset[before:] = rows


def write_findings(file: h5py.File, found: Json) -> None:
    """Store what `findings` returns.

    Parameters
    ----------
    file : h5py.File
        Dataset file, open for writing.
    found : dict
        What was found in the images and the annotation.
    """
    _write_texts(file, findings=json.dumps(found))


def write_pixel_size(
    file: h5py.File,
    size: PixelSize | None,
    section_spacing: float | None = None,
    pixels_per_model_pixel: float | None = None,
    frame_interval: float | None = None,
) -> None:
    """Store the size of the pixels of a volume, as far as it is known.

    Parameters
    ----------
    file : h5py.File
        File of a dataset, a prediction or a segmentation, open for writing.
    size : tuple of float or None
        Height and width of a pixel (um). It becomes the attribute `pixel_size`.
    section_spacing : float, optional
        Distance between neighbouring sections (um). It becomes the attribute of this name.
    pixels_per_model_pixel : float, optional
        For a prediction that was made at the pixel size of the model: the number of pixels of the volume that
        have the area of one pixel of the model. It becomes the attribute of this name.
    frame_interval : float, optional
        If the sections are the frames of a time series: time between frames (s), 0 if it is not known. It
        becomes the attribute of this name.
    """
    # All are optional, so that FORMAT_VERSION stays.
    if size is not None:
        file.attrs["pixel_size"] = np.array(size, np.float64)
    if section_spacing is not None:
        file.attrs["section_spacing"] = float(section_spacing)
    if pixels_per_model_pixel is not None:
        file.attrs["pixels_per_model_pixel"] = float(pixels_per_model_pixel)
    if frame_interval is not None:
        file.attrs["frame_interval"] = float(frame_interval)


def write_classes(
    dataset: h5py.Dataset, classes: Sequence[str], cells: Sequence[str], border_reach: int = 0
) -> None:
    """Store the names of the classes with an array of classes.

    Parameters
    ----------
    dataset : h5py.Dataset
        Array `TARGET` or `CLASS_PROBABILITY`, open for writing.
    classes : sequence of str
        Name of each class, in the order of their numbers.
    cells : sequence of str
        Names of the classes whose pixels belong to cells.
    border_reach : int, default 0
        Largest distance between a pixel of the class `border` and the cell that it belongs to (px). 0 means
        that there is no such class.
    """
    _write_texts(dataset, classes=json.dumps([*classes]), cells=json.dumps([*cells]))
    if border_reach:
        dataset.attrs["border_reach"] = border_reach


def classes_of(dataset: h5py.Dataset) -> tuple[list[str], list[str]]:
    """Return what `write_classes` stored with an array.

    Parameters
    ----------
    dataset : h5py.Dataset
        Array `TARGET` or `CLASS_PROBABILITY`.

    Returns
    -------
    classes : list of str
        Name of each class, in the order of their numbers.
    cells : list of str
        Names of the classes whose pixels belong to cells.
    """
    return json.loads(dataset.attrs["classes"]), json.loads(dataset.attrs["cells"])


def write_offsets(dataset: h5py.Dataset, offsets: Offsets) -> None:
    """Store the offsets of the affinities with them.

    Parameters
    ----------
    dataset : h5py.Dataset
        Array `AFFINITIES`, open for writing.
    offsets : tuple of (int, int)
        Offset (rows, columns) of each affinity in px.
    """
    _write_texts(dataset, offsets=json.dumps(offsets))


def offsets_of(dataset: h5py.Dataset) -> Offsets:
    """Return what `write_offsets` stored with affinities.

    Parameters
    ----------
    dataset : h5py.Dataset
        Array `AFFINITIES`.

    Returns
    -------
    tuple of (int, int)
        Offset (rows, columns) of each affinity in px.
    """
    return tuple((dy, dx) for dy, dx in json.loads(dataset.attrs["offsets"]))


def class_weights(weight_map: h5py.Dataset) -> npt.NDArray[np.float64]:
    """Return the weight w_c of each class in a weight map.

    Parameters
    ----------
    weight_map : h5py.Dataset
        The array `WEIGHT_MAP` of a file.

    Returns
    -------
    (classes,) array of float64
        Weight of each class, 1 if the classes are not balanced.

    Raises
    ------
    InputError
        If the array does not state positive weights.
    """
    found = np.asarray(weight_map.attrs.get("w_c", ()), float)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all() or found.min() <= 0:
        raise InputError(
            f"{weight_map.file.filename}: its attribute `w_c` is {found.tolist()}, expected the weight of "
            "each class. Delete the file and run the workflow again."
        )
    return found


def border_reach(file: h5py.File) -> int:
    """Return how far the border of the cells of a dataset file reaches into them (px); 0 without border.

    Parameters
    ----------
    file : h5py.File
        Dataset file.

    Returns
    -------
    int
        Largest distance between a pixel of the class `border` and the cell that it belongs to (px).
    """
    return int(file[TARGET.name].attrs.get("border_reach", 0)) if TARGET.name in file else 0


def copy_pixel_size(source: h5py.File, target: h5py.File) -> None:
    """Store what `write_pixel_size` stored in one file in another one that is made from it.

    Parameters
    ----------
    source, target : h5py.File
        File to read and file to write.
    """
    for name in _SCALE:
        if name in source.attrs:
            target.attrs[name] = source.attrs[name]


def pixel_size(file: h5py.File) -> PixelSize | None:
    """Return the size of the pixels of a volume.

    Parameters
    ----------
    file : h5py.File
        An open file of a dataset, a prediction or a segmentation.

    Returns
    -------
    tuple of float or None
        Height and width of a pixel (um). None if the size is not known.
    """
    if "pixel_size" not in file.attrs:
        return None
    y, x = file.attrs["pixel_size"]
    return float(y), float(x)


def section_spacing(file: h5py.File) -> float | None:
    """Return the distance between neighbouring sections of a volume.

    Parameters
    ----------
    file : h5py.File
        An open file of a dataset, a prediction or a segmentation.

    Returns
    -------
    float or None
        Distance (um). None if it is not known.
    """
    return float(file.attrs["section_spacing"]) if "section_spacing" in file.attrs else None


def frame_interval(file: h5py.File) -> float | None:
    """Return the time between the frames of a time series.

    Parameters
    ----------
    file : h5py.File
        An open file of a dataset, a prediction or a segmentation.

    Returns
    -------
    float or None
        Time (s), 0 if it is not known. None if the sections of the volume are not frames.
    """
    return float(file.attrs["frame_interval"]) if "frame_interval" in file.attrs else None


def pixels_per_model_pixel(file: h5py.File) -> float:
    """Return how many pixels of a volume have the area of one pixel of the model, if it was resampled.

    Parameters
    ----------
    file : h5py.File
        An open file of a prediction, or one that is made from it.

    Returns
    -------
    float
        Ratio of the areas; 1 if the volume was not resampled for the model.
    """
    return float(file.attrs.get("pixels_per_model_pixel", 1.0))


def _write_texts(item: h5py.Group | h5py.Dataset, **texts: str) -> None:
    """Write texts as attributes of fixed length.

    By default HDF5 stores texts in a heap without checksum. One wrong bit there can make HDF5 loop forever.
    """
    for name, text in texts.items():
        item.attrs[name] = np.bytes_(text.encode("ascii"))


def join(
    path: str | Path,
    arrays: Sequence[Array],
    shape: tuple[int, int, int],
    sources: Iterable[tuple[Part, str | Path]],
    provenance: Json,
) -> None:
    """Write an HDF5 file that joins the parts of a volume (with virtual datasets).

    Nothing is copied, so the files of the parts must be kept. Paths are relative: the file and its parts can
    be moved together. Programs other than bordure read NaN, or the largest value of an integer type, where a
    part is missing.

    Parameters
    ----------
    path : str or Path
        File to write.
    arrays : sequence of Array
        Descriptions of the arrays. The parts must have the first one, and may have the others.
    shape : tuple of int
        Shape of the volume, (z, y, x).
    sources : iterable of (Part, str or Path)
        Each part of the volume and the HDF5 file with its arrays.
    provenance : dict
        Record of how the file is made.

    Raises
    ------
    InputError
        If a file is missing or does not have the shape of its part.
    """
    parts = [*sources]
    with require(parts[0][1], arrays[0]) as file:
        found = [array for array in arrays if array.name in file]
        scale = {name: file.attrs[name] for name in _SCALE if name in file.attrs}  # the same in all parts
        texts = {
            array: {key: text.decode() for key, text in file[array.name].attrs.items()} for array in found
        }
        joined = {array: (*file[array.name].shape[:-3], *shape) for array in found}
    layouts = {array: h5py.VirtualLayout(joined[array], array.dtype) for array in found}
    for part, source in parts:
        own = part.sections.stop - part.sections.start, part.rows.stop - part.rows.start, shape[2]
        with require(source, *found) as file:
            stored = {array: file[array.name].shape for array in found}
        for array, layout in layouts.items():
            expected = (*joined[array][:-3], *own)
            if stored[array] != expected:
                raise InputError(
                    f"{source}: found a part of shape {stored[array]}, expected {expected}. Delete it and "
                    "run the workflow again."
                )
            name = os.path.relpath(source, Path(path).parent)
            layout[..., part.sections, part.rows, :] = h5py.VirtualSource(name, array.name, expected)
    with create(path, provenance) as file:
        file.attrs.update(scale)
        for array, layout in layouts.items():
            layout.dcpl.set_obj_track_times(False)  # no time stamps: the same parts give the same bytes
            # shown where a part is missing: unlike zeros, it cannot be taken for an empty image
            dtype = np.dtype(array.dtype)
            missing = np.nan if dtype.kind == "f" else np.iinfo(dtype).max
            dataset = file.create_virtual_dataset(array.name, layout, fillvalue=missing)
            _write_texts(dataset, **texts[array])


@contextmanager
def require(path: str | Path, *arrays: Array, cache_bytes: int = 1 << 20) -> Iterator[h5py.File]:
    """Open an HDF5 file of bordure for reading, and check its arrays. Context manager.

    Parameters
    ----------
    path : str or Path
        File to read.
    *arrays : Array
        Arrays that the file must contain.
    cache_bytes : int, default 2**20
        Size of the cache of decompressed chunks, for each array, in bytes.

    Yields
    ------
    h5py.File
        The file, open for reading.

    Raises
    ------
    InputError
        If the file is missing or damaged, was not written by this version of the format, or lacks an array;
        or if a file that it shows as a part of an array is missing or damaged.

    Examples
    --------
    >>> from pipeline_lib import layout
    >>> with layout.require("dataset/a.h5", layout.RAW) as file:  # doctest: +SKIP
    ...     section = file["raw"][0, 0]
    """
    try:
        # ten slots per cached chunk, as HDF5 recommends: of two chunks with the same slot only one is cached
        slots = max(10 * cache_bytes // CHUNK**2, 521)
        file = open_file(path, rdcc_nbytes=cache_bytes, rdcc_nslots=slots)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Run the workflow to create it.") from error
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
                f"{path}: found format version {version}, expected {FORMAT_VERSION}. The file was written by "
                "another version of bordure or by another program. Delete it and run the workflow again."
            )
        for array in arrays:
            if array.name not in file:
                fix = "The annotation has boxes, from which only detectors learn: `network: {name: ssd}`."
                if not has_only_boxes(file):
                    fix = "If the volume has no annotation, fill in the column `annotation` of the table."
                raise InputError(
                    f"{path}: has no `{array.name}` (found: {', '.join(file) or 'nothing'}). Expected "
                    f"`{array.name}`: {array.meaning}. {fix}"
                )
            _require_sources(Path(path), file[array.name])
        yield file


def annotated(file: h5py.File) -> AnnotatedArrays:
    """Return the arrays of an open dataset file of an annotated volume.

    Parameters
    ----------
    file : h5py.File
        File that `require` opened with the arrays `RAW`, `LABELS` and `SEPARATION_BORDER`.

    Returns
    -------
    AnnotatedArrays
        The arrays as HDF5 datasets.
    """
    raw, labels, border = (file[array.name] for array in (RAW, LABELS, SEPARATION_BORDER))
    return AnnotatedArrays(raw, labels, border, file.get(IGNORE.name), file.get(TARGET.name))


def has_only_boxes(file: h5py.File) -> bool:
    """Return whether a volume is annotated by boxes, without the pixels of cells.

    Parameters
    ----------
    file : h5py.File
        An open dataset file.

    Returns
    -------
    bool
        Whether there are `BOXES` and no `LABELS`.
    """
    return BOXES.name in file and LABELS.name not in file


def findings(file: h5py.File) -> Json:
    """Return what `stages.dataset.build_dataset` found in the images and the annotation.

    Parameters
    ----------
    file : h5py.File
        An open dataset file.

    Returns
    -------
    dict
        `gray`: smallest (`low`) and largest (`high`) gray level, mean, standard deviation (`std`) and
        `roughness` (see `data.gray.GrayLevels.to_dict`), each a list with one value per channel; type of the
        gray levels (`dtype`), and the `offset` and `scale` that were stated, or None. `annotation`:
        None, or a dict with its `description`, number and sizes of its `cells` (see
        `data.cells.CellCounter.to_dict`), and a list of `doubts`, each with `name`, `weight` (0 to 1) and
        `text`.

    Raises
    ------
    InputError
        If the file has no findings, because an older version wrote it.
    """
    if "findings" not in file.attrs:
        raise InputError(
            f"{file.filename}: has no `findings`, so it was written by an older version of bordure. Delete "
            "it and run the workflow again."
        )
    return json.loads(file.attrs["findings"])


def open_file(path: str | Path, **options: Any) -> h5py.File:
    """Open an HDF5 file for reading, with a lock if the file system supports locks.

    Parameters
    ----------
    path : str or Path
        File to read.
    **options
        Keyword arguments of `h5py.File`.

    Returns
    -------
    h5py.File
        The file, open for reading.

    Raises
    ------
    OSError
        If the file cannot be opened, for instance because another program has it open for writing.
    """
    try:
        return h5py.File(path, "r", **options)
    except OSError as error:
        if "unable to lock file" not in str(error) or f"errno = {errno.EAGAIN}," in str(error):
            raise
        return h5py.File(path, "r", locking=False, **options)


def _bound_index(file: h5py.File) -> None:
    """Limit the cache of chunk positions to 2 MB; the default of 32 MB fills up with large images."""
    config = file.id.get_mdc_config()
    config.set_initial_size, config.initial_size = True, 2**20
    config.min_size, config.max_size = 2**20, 2**21
    file.id.set_mdc_config(config)


def _require_sources(path: Path, dataset: h5py.Dataset) -> None:
    """Raise `InputError` if a part is missing or cannot be opened; HDF5 would read it as zeros."""
    sources = dataset.virtual_sources() if dataset.is_virtual else ()
    for source in sources:
        part = path.parent / source.file_name
        try:
            with open_file(part) as file:
                found = file[source.dset_name].shape
        except (OSError, KeyError) as error:
            raise InputError(
                f"{part}: this part of {path} is missing or damaged ({error}). Delete both files and run the "
                "workflow again."
            ) from error
        first, last = source.vspace.get_select_bounds()
        if found != tuple(b - a + 1 for a, b in zip(first, last, strict=True)):
            raise InputError(
                f"{part}: this part was made for another number of jobs than {path}. Delete {path} and run "
                "the workflow again."
            )
    if sources:
        allow_open_files(len(sources), str(path), "lower `jobs_per_volume`")


def sources(path: str | Path) -> list[Path]:
    """Return the files of the parts that `join` has joined in a file.

    Parameters
    ----------
    path : str or Path
        An HDF5 file.

    Returns
    -------
    list of Path
        Files of the parts. Empty if the file has no virtual dataset or cannot be read.
    """
    try:
        with open_file(path) as file:
            virtual = [d for d in file.values() if isinstance(d, h5py.Dataset) and d.is_virtual]
            return [Path(path).parent / source.file_name for d in virtual for source in d.virtual_sources()]
    except (OSError, RuntimeError, KeyError, ValueError):
        return []


def provenance(file: h5py.File) -> Json:
    """Return the provenance that `create` stored in a file.

    Parameters
    ----------
    file : h5py.File
        An open file.

    Returns
    -------
    dict
        Record of how the file was made.
    """
    return json.loads(file.attrs["provenance"])
