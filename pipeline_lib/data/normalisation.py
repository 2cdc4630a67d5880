"""Normalisation of images by statistics of the training split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from pipeline_lib.data.gray import pool, summary
from pipeline_lib.data.gray_scale import compare
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.memory import MEAN_IMAGE_BYTES_PER_PIXEL
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json, Stored

STEP = 1024  # px, side of the blocks that are summed; fixed, because sums of floats depend on their order

#: Kinds of normalisation, see `measure`.
KINDS = ("none", "mean", "mean_std", "mean_image")
#: What is known about the gray levels of the training images.
MOMENTS = ("low", "high", "mean", "std")


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of gray levels: (raw - offset) / scale.

    `measure` computes it from the training split only. It is stored inside the model, so that prediction
    always uses that of the training.

    Parameters
    ----------
    kind : {"none", "mean", "mean_std", "mean_image"}
        What is subtracted and divided by, see `measure`.
    dtype : str
        Type of the training images, for instance "uint8". Images of another type are accepted only with a
        stated `scale`, because their gray levels may have another scale.
    offset : (c, 1, 1) array of float32, (c, y, x) for a mean image
        Gray level that becomes 0.
    scale : (c, 1, 1) array of float32
        Difference of gray levels that becomes 1.
    gray : dict or None, default None
        Summary of the gray levels of the training images: `low`, `high`, `mean` and `std`, lists with one
        value per channel, and `dtype`. None if it is not known, as in models of older versions.
    """

    kind: str
    dtype: str
    offset: np.ndarray
    scale: np.ndarray
    gray: Json | None = None

    def apply(self, raw: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Normalise a region of a section.

        Parameters
        ----------
        raw : (c, y, x) or (n c, y, x) array
            Gray levels, of one section or of n sections one after the other. Each is normalised as if alone.
        rows, columns : (y,) and (x,) array of int
            Rows and columns of the region in the section; a mean image is subtracted at this place.

        Returns
        -------
        array of float32
            Normalised gray levels, with the shape of `raw`.
        """
        offset = self.offset
        if self.kind == "mean_image":
            offset = offset[:, rows[:, None], columns]
        sections = raw.astype(np.float32).reshape(-1, len(self.scale), *raw.shape[1:])
        return ((sections - offset) / self.scale).reshape(raw.shape)

    def check(self, raw: Stored, path: str | Path, gray: Json | None = None) -> None:
        """Raise `InputError` unless images match the training images in channels, type and gray scale.

        Parameters
        ----------
        raw : (c, z, y, x) array or HDF5 dataset
            Images of a volume.
        path : str or Path
            Their file, for the message.
        gray : dict, optional
            Summary of their gray levels, as in `layout.findings`. Without it only the type is compared. A
            doubtful gray scale is logged as a warning.

        Raises
        ------
        InputError
            If the number of channels, the type or clearly the gray scale differs, or, for a mean image, the
            size of the sections.
        """
        if raw.shape[0] != len(self.scale):
            raise InputError(
                f"{path}: {raw.shape[0]} channels, but the model was trained on {len(self.scale)}. Use "
                f"images with {len(self.scale)} channels and set `dataset.channels: {len(self.scale)}`."
            )
        if gray is None or self.gray is None:
            if str(raw.dtype) != self.dtype and not (gray and gray["scale"]):
                raise InputError(
                    f"{path}: {raw.dtype} gray levels, but the model was trained on {self.dtype}. "
                    f"Convert the images to {self.dtype}, with the same gray scale as the training images, "
                    "or write the factor between the scales into the column `scale` of the table of volumes."
                )
            if gray is not None:
                _say_that_scales_are_not_compared()
        elif found := compare(self.gray, gray):
            if found["weight"] == 1:
                raise InputError(f"{path}: {found['text']}")
            logger.warning("%s: %s", path, found["text"])
        if self.kind == "mean_image" and raw.shape[2:] != self.offset.shape[1:]:
            raise InputError(
                f"{path}: sections of {raw.shape[2]} x {raw.shape[3]} px, but the mean image of the model "
                f"has {self.offset.shape[1]} x {self.offset.shape[2]}. Use sections of that size, or set "
                "`normalisation: mean_std`, which accepts any size."
            )

    def to_dict(self) -> Json:
        """Return the normalisation in plain Python types, for JSON and for the model file.

        Returns
        -------
        dict
            The fields by name; arrays are nested lists.
        """
        return {
            "kind": self.kind,
            "dtype": self.dtype,
            "offset": self.offset.tolist(),
            "scale": self.scale.tolist(),
            "gray": self.gray and {key: self.gray[key] for key in MOMENTS},
        }

    @classmethod
    def from_dict(cls, content: Json) -> Normalisation:
        """Create the normalisation that `to_dict` returned.

        Parameters
        ----------
        content : dict
            Result of `to_dict`.

        Returns
        -------
        Normalisation
            The normalisation.

        Raises
        ------
        KeyError, TypeError, ValueError
            If `content` lacks a field or a value is not a number.
        """
        gray = content.get("gray")  # not in models of older versions
        return cls(
            content["kind"],
            content["dtype"],
            np.array(content["offset"], np.float32),
            np.array(content["scale"], np.float32),
            gray
            and {key: [float(value) for value in gray[key]] for key in MOMENTS} | {"dtype": content["dtype"]},
        )


@cache
def _say_that_scales_are_not_compared() -> None:
    """Log once that a model lacks the gray levels of its training images."""
    logger.info(
        "the model is of an older version and does not know the gray levels of its training images, so the "
        "gray scale of new images is not compared"
    )


def measure(
    kind: str,
    volumes: Iterable[Stored],
    gray: Sequence[Json] | None = None,
    *,
    memory_gb: float = 8.0,
) -> Normalisation:
    """Measure a normalisation on the images of the training split, block by block.

    Parameters
    ----------
    kind : {"none", "mean", "mean_std", "mean_image"}
        What is subtracted and divided by:

        - "none": integers are divided by the maximum of their type; floats are unchanged.
        - "mean": as "none", after subtraction of the mean of each channel.
        - "mean_std": the mean of each channel is subtracted, the result divided by its standard deviation.
        - "mean_image": as "mean", with the mean of each pixel over all sections.
    volumes : iterable of (c, z, y, x) array or HDF5 dataset
        Images of the training volumes. For "mean_image" all sections must have the same size.
    gray : sequence of dict, optional
        Summary of the gray levels of each volume, as in `layout.findings`. By default it is measured. The
        type of volumes with a stated `scale` may differ from that of the others.
    memory_gb : float, default 8.0
        Limit of memory for a mean image in GB (10^9 bytes).

    Returns
    -------
    Normalisation
        The normalisation, to be applied to all images.

    Raises
    ------
    InputError
        If `kind` is unknown; if the volumes differ in type or channels, or, for "mean_image", in size; if a
        channel has a single gray level, for "mean_std"; or if the mean image needs more than `memory_gb`.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.data.normalisation import measure
    >>> image = np.array([[[[0, 100], [100, 200]]]], np.uint8)  # one channel, one section
    >>> normalisation = measure("mean_std", [image])
    >>> normalisation.apply(image[:, 0], np.arange(2), np.arange(2)).round(2)
    array([[[-1.41,  0.  ],
            [ 0.  ,  1.41]]], dtype=float32)
    """
    if kind not in KINDS:
        raise InputError(f"normalisation: found `{kind}`, expected one of {', '.join(KINDS)}.")
    volumes = list(volumes)
    if gray is None:
        gray = [summary(volume) for volume in volumes]
    types = {str(v.dtype) for v, found in zip(volumes, gray, strict=True) if found["scale"] is None}
    for what, found in (
        ("types", types),
        ("numbers of channels", {v.shape[0] for v in volumes}),
        ("section sizes", {v.shape[2:] for v in volumes} if kind == "mean_image" else {0}),
    ):
        if len(found) > 1:
            factor = (
                ", or write factors between gray scales into the column `scale`" if found is types else ""
            )
            raise InputError(
                f"normalisation `{kind}`: the training images have different {what}: "
                f"{', '.join(map(str, sorted(found)))}. Convert the images so that all have the same{factor}."
            )
    dtype = np.dtype(types.pop() if types else volumes[0].dtype)
    channels = volumes[0].shape[0]
    full = float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0
    offset, scale = np.zeros((channels, 1, 1)), np.full((channels, 1, 1), full)
    if kind == "mean_image":
        offset = _mean_image(volumes, memory_gb)
    elif kind != "none":
        # moments of blocks, weighted by their sizes: no sum exceeds the exact range of float64
        moments = [
            (gray[0].size, gray.mean(axis=(1, 2), dtype=float), gray.var(axis=(1, 2), dtype=float))
            for volume in volumes
            for gray in _blocks_of(volume)
        ]
        size, mean, variance = (np.array(values) for values in zip(*moments, strict=True))
        offset = np.average(mean, axis=0, weights=size)[:, None, None]
        if kind == "mean_std":
            total = np.average(variance + (mean - offset[:, 0, 0]) ** 2, axis=0, weights=size)
            if (total == 0).any():
                raise InputError(
                    "normalisation `mean_std`: a channel of the training images has one single gray level, "
                    "so its standard deviation is 0. Check the training images, or set `normalisation: mean`."
                )
            scale = np.sqrt(total)[:, None, None]
    pooled = pool(gray, [math.prod(volume.shape[1:]) for volume in volumes])
    return Normalisation(
        kind, str(dtype), offset.astype(np.float32), scale.astype(np.float32), pooled | {"dtype": str(dtype)}
    )


def _blocks_of(volume: Stored) -> Iterator[np.ndarray]:
    """Yield the blocks (c, h, w) of all sections of a volume."""
    for z in range(volume.shape[1]):
        for area in blocks((volume.shape[2], volume.shape[3]), STEP):
            yield volume[:, z, *area.read]


def _mean_image(volumes: list[Stored], memory_gb: float) -> np.ndarray:
    """Return the mean of each pixel over all sections, float64 (c, y, x)."""
    channels, _, height, width = volumes[0].shape
    needed = channels * height * width * MEAN_IMAGE_BYTES_PER_PIXEL / 1e9
    if needed > memory_gb:
        raise InputError(
            f"normalisation `mean_image`: a mean image of {height} x {width} px takes {needed:.1f} GB, but "
            f"`memory_gb` is {memory_gb:g}. Set `normalisation: mean_std`, which accepts any size, or raise "
            "`memory_gb`."
        )
    offset = np.empty((channels, height, width))
    for area in blocks((height, width), STEP):
        sections = (v[:, z, *area.read].astype(float) for v in volumes for z in range(v.shape[1]))
        offset[:, *area.write] = sum(sections) / sum(v.shape[1] for v in volumes)
    return offset
