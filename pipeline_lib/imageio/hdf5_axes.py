"""Axes of HDF5 datasets: what their attributes, labels, scales and shapes state."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from pipeline_lib.imageio.fixes import python_line
from pipeline_lib.runtime.errors import InputError

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
    *(
        "dimensionlabels",
        "dimensionorder",
        "dimensionnames",
        "dimorder",
        "dimnames",
        "arraydimensions",
        "dims",
    ),
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


def axes_of(path: str | Path, dataset: h5py.Dataset) -> str:
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
    axes = next(iter(stated.values()), "") or _indirect_axes(dataset)
    if not axes and (reversing := _reversing(dataset)):
        raise InputError(
            f"{path}: found {reversing}, so that rows, columns and sections may be stored in reversed order; "
            f"expected the names of its {dataset.ndim} dimensions {dataset.shape}. "
            f"{_write_axes(dataset, {}, 'tczxy'[-dataset.ndim :])}"
        )
    axes = axes or _usual_axes(dataset.shape)
    if not axes:
        raise InputError(
            f"{path}: its {dataset.ndim} dimensions {dataset.shape} have no names, and their order is "
            f"unclear; without names yx, zyx or czyx is expected. {_write_axes(dataset, stated)}"
        )
    return axes


def _stated_axes(dataset: h5py.Dataset) -> Iterator[tuple[str, str]]:
    """Yield what states the axes, and the axes as one letter per dimension if it can be understood."""
    for name in dataset.attrs:
        short = name.lower().replace("_", "").replace(" ", "")
        if short in _AXES_ATTRIBUTES and name != "DIMENSION_LABELS":  # of HDF5 itself
            value = np.asarray(dataset.attrs[name]).astype(str)
            yield f"the attribute `{name}`", _letters(value.ravel().tolist())
    labels = [dimension.label for dimension in dataset.dims]
    if any(labels):
        yield "the dimension labels", _letters(labels)
    scales = [_scale(dataset, number) for number in range(dataset.ndim)]
    if any(scales) and _are_axes([name for name in scales if name]):
        yield "the dimension scales", _letters(scales)
    interlaced = dataset.attrs.get("INTERLACE_MODE")
    if interlaced is not None and dataset.ndim == 3:
        mode = text_of(interlaced)
        yield "the attribute `INTERLACE_MODE`", _INTERLACED.get(mode, mode)


def _indirect_axes(dataset: h5py.Dataset) -> str:
    """Return axes that an attribute `labels`, or `axes` of the group (NeXus), states; "" if it does not."""
    for value in (dataset.attrs.get("labels"), dataset.parent.attrs.get("axes")):
        if value is not None:
            texts = np.asarray(value).astype(str).ravel().tolist()
            if _are_axes(texts) and len(_letters(texts)) == dataset.ndim:
                return _letters(texts)
    return ""


def _scale(dataset: h5py.Dataset, number: int) -> str:
    """Return the name of the scale of a dimension (netCDF, xarray), or that of its dataset; "" if none."""
    for name, scale in dataset.dims[number].items():
        return name if _are_axes([name]) else scale.name.rpartition("/")[2]
    return ""


def _are_axes(texts: list[str]) -> bool:
    """Return whether texts name axes, each of them once."""
    letters = _letters(texts)
    return len(letters) == len({*letters}) > 0 and {*letters} <= {*"zyxctsqi"}


def text_of(value: object) -> str:
    """Return the text of an attribute."""
    return str(np.asarray(value).astype(str)).rstrip("\0")


def _reversing(dataset: h5py.Dataset) -> str:
    """Return which attribute shows that a program wrote the axes in reversed order; "" if none does."""
    if "MATLAB_class" in dataset.attrs:
        return "the attribute `MATLAB_class`"
    order = text_of(dataset.attrs.get("order", ""))
    return f"the attribute `order` {order!r}" if order[:1].upper() == "F" else ""


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


def _write_axes(dataset: h5py.Dataset, stated: dict[str, str], guess: str = "") -> str:
    """Return how to state the axes, for instance as `guess`, by a line that also removes other statements."""
    shape = dataset.shape
    if len(shape) > 3:
        usual = ("tzcyx" if shape[-1] > _MOST_CHANNELS else "tzyxc")[-len(shape) :]
    else:
        usual = "yx" if len(shape) == 2 else "yxc" if shape[-1] <= _MOST_CHANNELS else "yxz"
    guess = guess or next(
        (axes for axes in stated.values() if len(axes) == len(shape) and {*axes} <= {*"zyxctsqi"}), usual
    )
    others = [name.split("`")[1] for name in stated if "`" in name and name != "the attribute `axes`"]
    if "the dimension labels" in stated:
        others.append("DIMENSION_LABELS")
    if "the dimension scales" in stated:
        others.append("DIMENSION_LIST")
    removed = f"[d.attrs.pop(name) for name in {others}]; " if others else ""
    line = python_line(
        f"import h5py; d = h5py.File({dataset.file.filename!r}, 'r+')[{dataset.name!r}]; {removed}"
        f"d.attrs['axes'] = '{guess}'"
    )
    return (
        f"Write the right ones, for instance `{guess}` (z: sections, y: rows, x: columns, c: channels):\n"
        f"{line}"
    )


def write_part(dataset: h5py.Dataset, axes: str) -> str:
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
