"""Normalisation of images by statistics of the training split."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_lib.data.gray import pool, summary
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.memory import MEAN_IMAGE_BYTES_PER_PIXEL
from pipeline_lib.runtime.doubts import doubt
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json, Stored

STEP = 1024  # px, side of the blocks that are summed; fixed, because sums of floats depend on their order

#: Kinds of normalisation, see `measure`.
KINDS = ("none", "mean", "mean_std", "mean_image")
#: What is known about the gray levels of the training images.
MOMENTS = ("low", "high", "mean", "std")
#: Upper ends of the usual gray scales: floats from 0 to 1, and integers of 8, 12 and 16 bits.
FULL_SCALES = (1, 255, 4095, 65535)
#: Upper end of percentages, which are floats.
PERCENT = 100
#: What Fiji and some microscopes add to signed gray levels of 16 bits, and subtract from unsigned ones.
SIGNED = 32768


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
        raw : (c, y, x) array
            Gray levels.
        rows, columns : (y,) and (x,) array of int
            Rows and columns of the region in the section; a mean image is subtracted at this place.

        Returns
        -------
        (c, y, x) array of float32
            Normalised gray levels.
        """
        offset = self.offset
        if self.kind == "mean_image":
            offset = offset[:, rows[:, None], columns]
        return (raw.astype(np.float32) - offset) / self.scale

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


def compare(training: Json, gray: Json) -> Json | None:
    """Compare the gray scale of a volume with that of the training images.

    Range and standard deviation of the gray levels are compared. Images differ in brightness, and images
    without cells are dark. So the scale is only certain to differ if

    - range and standard deviation are at least 8 times those of the training images, or
    - both are at most 1/8, the gray levels are not just noise (a roughness above 0.5), and the user stated a
      factor, or they fill more than a quarter of a scale (0 to 1 or 0 to 255) that the training images exceed
      at least 32 times, or
    - more than an eighth of the range is negative, and the training images have no negative gray levels, or
    - the ranges are more than 3 times their width apart, more than another brightness explains.

    8-bit images have the same scale, unless they contain only 0 and 1. All channels are compared together.

    Parameters
    ----------
    training : dict
        Summary of the training images: `low`, `high`, `mean` and `std` of each channel, and `dtype`.
    gray : dict
        Summary of the volume, see `layout.findings`. If its `scale` is 1, the user states that the gray scale
        is that of the training images, and it is not certain to differ.

    Returns
    -------
    dict or None
        A doubt: `name`, `weight` and `text`. The weight is 1 if the scale is certain to differ, and 0.5 if
        the images may also be darker or brighter. None if there is no doubt.

    Examples
    --------
    >>> from pipeline_lib.data.normalisation import compare
    >>> training = {"low": [0], "high": [1], "mean": [0.4], "std": [0.2], "dtype": "float32"}
    >>> volume = {"low": [5], "high": [250], "mean": [90], "std": [50], "dtype": "float32", "scale": None}
    >>> compare(training, volume)["text"][:85]
    'gray levels from 5 to 250, but the training images have 0 to 1, another gray scale. W'
    """
    stated = gray["scale"]
    old, new = _joint(training), _joint(gray)
    found = f"gray levels from {new.low:.5g} to {new.high:.5g}"
    trained = f"{old.low:.5g} to {old.high:.5g}"
    ratio, std_ratio = _ratio(new.high - new.low, old.high - old.low), _ratio(new.std, old.std)
    moved = 0.0 if ratio is None or std_ratio is None else _moved(old, new, ratio, gray)
    if moved:
        columns = _columns(old, new, ratio or 1.0, stated or 1.0, gray.get("offset") or 0.0)
        fix = f"Write into the table of volumes: {columns}, or only `scale`: 1 if gray levels mean the same."
    else:
        factors = _factors(old.high, new.high, ratio, stated or 1.0, (training["dtype"], gray["dtype"]))
        fix = (
            f"Write the factor between the scales into the column `scale` of the table of volumes: {factors}"
        )
        fix += "." if factors == "1" else ", or 1 if gray levels mean the same."
    if stated is None and gray["dtype"] != training["dtype"]:
        text = f"{gray['dtype']} {found}, but the training images are {training['dtype']} and have {trained}."
        return doubt("gray_scale", 1.0, f"{text} {fix}")
    if ratio is None or std_ratio is None:
        return None
    if gray["dtype"] == training["dtype"] == "uint8" and (new.high > 1) == (old.high > 1):
        return None
    larger = ratio >= 8 and std_ratio >= 8
    smaller = (
        max(ratio, std_ratio) <= 1 / 8
        and max(gray["roughness"]) <= 0.5  # above it is the noise of a dark image
        and (
            stated is not None
            or any(old.high >= 32 * end and end / 4 <= new.high <= end * 1.001 for end in (1, 255))
        )
    )
    if larger or smaller or moved == 1:
        weight = 0.5 if stated == 1 and gray.get("offset") is None else 1.0
        text = f"{found}, but the training images have {trained}, another gray scale."
        return doubt("gray_scale", weight, f"{text} {fix}")
    if moved or max(ratio, std_ratio) >= 8 or max(ratio, std_ratio) <= 1 / 8:
        text = (
            f"{found}, but the training images have {trained}. The gray scale may differ, or the brightness."
        )
        return doubt("gray_scale", 0.5, f"{text} {fix}")
    return None


class _Levels(NamedTuple):
    low: float
    high: float
    mean: float
    std: float


def _joint(gray: Json) -> _Levels:
    """Return range, mean and standard deviation of all channels together."""
    std = float(np.sqrt(np.mean(np.square(gray["std"]))))
    return _Levels(min(gray["low"]), max(gray["high"]), float(np.mean(gray["mean"])), std)


def _ratio(new: float, old: float) -> float | None:
    """Return `new / old`, or None if one is 0: images of one single gray level have no scale."""
    return new / old if new > 0 and old > 0 else None


def _moved(old: _Levels, new: _Levels, ratio: float, gray: Json) -> float:
    """Return 1 if an offset of gray levels is certain, 0.5 if it is possible, and 0 otherwise."""
    span, new_span = old.high - old.low, new.high - new.low
    if gray.get("offset") is None:  # the user did not state how negative gray levels come about
        if old.low >= 0 > new.low + new_span / 100:
            return 1.0 if -new.low > new_span / 8 else 0.5
        if new.low >= 0 > old.low + span / 8:
            return 0.5
    # another brightness multiplies the gray levels, and adds little
    gap = max(new.low - ratio * old.high, old.low - new.high / ratio) / max(span, new_span)
    return 1.0 if gap > 3 else 0.5 if gap > 1 else 0.0


def _columns(old: _Levels, new: _Levels, ratio: float, scale: float, offset: float) -> str:
    """Return `offset` and `scale` that give a volume about the gray levels of the training images."""
    low, high, mean = (level / scale + offset for level in (new.low, new.high, new.mean))  # in the file
    end = next((end for end in FULL_SCALES if old.high <= end * 1.001), old.high)
    if 1 / 8 < ratio < 8 and min(old.low, new.low) >= 0:
        factor = scale
        moved = low - old.low / factor
    else:  # negative gray levels are often made by a normalisation to mean 0 and standard deviation 1
        factor = old.std / new.std * scale
        moved = mean - old.mean / factor
    if 1 / 8 < factor < 8 and abs(abs(moved) - SIGNED) < max(old.high - old.low, high - low) / 2:
        moved, factor = math.copysign(SIGNED, moved), 1.0
    elif -1.001 <= low < 0 <= old.low and high <= 1.001 and (high - low) * end / 2 < 8 * (old.high - old.low):
        moved, factor = -1.0, end / 2
    return f"`offset`: {moved:.6g}" + (f" and `scale`: {factor:.6g}" if factor != 1 else "")


def _factors(
    high: float, new_high: float, ratio: float | None, stated: float, dtypes: tuple[str, str]
) -> str:
    """Return the factors from a gray scale to that of the training, from the ends of usual scales."""
    measured = (ratio or 1.0) / stated
    ends = []
    for value, dtype in zip((high, new_high / stated), dtypes, strict=True):
        ends.append([end for end in FULL_SCALES if value <= end * 1.001][:1])
        if dtype[0] == "f" and PERCENT / 2 < value <= PERCENT * 1.001:
            ends[-1].append(PERCENT)
    pairs = [(a, b) for a in ends[0] for b in ends[1] if 1 / 8 < (measured if ratio else b / a) * a / b < 8]
    if not pairs:
        return f"{1 / measured:.6g}"
    pairs.sort(key=lambda pair: abs(math.log(measured * pair[0] / pair[1])))
    if len(pairs) == 1:
        return f"{pairs[0][0] / pairs[0][1]:.6g}"
    return ", ".join(f"{a / b:.6g} if {b} here means {a} there" for a, b in pairs)


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
