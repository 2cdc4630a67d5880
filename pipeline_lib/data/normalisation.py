"""Intensity statistics of the training split, and how they are taken off an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.memory import MEAN_IMAGE_BYTES_PER_PIXEL
from pipeline_lib.runtime.errors import InputError

STEP = 1024  # px, side of the blocks statistics are taken of; fixed, for sums of floats depend on their order

KINDS = ("none", "mean", "mean_std", "mean_image")


@dataclass(frozen=True)
class Normalisation:
    """(raw - offset) / scale.

    `offset` and `scale` are float32 of shape (c, 1, 1), or (c, y, x) for a mean image. Measured on the
    training split alone and stored inside the model, so that prediction cannot use another one. `dtype` is
    that of the training images: gray levels of another type would mean something else.
    """

    kind: str
    dtype: str
    offset: np.ndarray
    scale: np.ndarray

    def apply(self, raw: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Normalise `raw` (c, y, x), read at index arrays `rows` and `columns` of a section; float32."""
        offset = self.offset
        if self.kind == "mean_image":
            offset = offset[:, rows[:, None], columns]
        return (raw.astype(np.float32) - offset) / self.scale

    def check(self, raw: Any, path: Any) -> None:
        """Raise `InputError` unless `raw` (c, z, y, x) is like the training images in type and channels.

        `path` is named in the message.
        """
        if raw.shape[0] != len(self.scale):
            raise InputError(
                f"{path}: {raw.shape[0]} channels, but the model was trained on {len(self.scale)}. "
                "Set `dataset.channels` and use images with that many channels."
            )
        if str(raw.dtype) != self.dtype:
            raise InputError(
                f"{path}: {raw.dtype} gray levels, but the model was trained on {self.dtype}. "
                f"Convert the images to {self.dtype} with the training images' gray scale."
            )
        if self.kind == "mean_image" and raw.shape[2:] != self.offset.shape[1:]:
            raise InputError(
                f"{path}: sections of {raw.shape[2]} x {raw.shape[3]} px, but the mean image has "
                f"{self.offset.shape[1]} x {self.offset.shape[2]}. Set `normalisation: mean_std`, "
                "which takes any size."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON and for the model file."""
        return {
            "kind": self.kind,
            "dtype": self.dtype,
            "offset": self.offset.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Normalisation:
        """Inverse of `to_dict`."""
        return cls(
            content["kind"],
            content["dtype"],
            np.array(content["offset"], np.float32),
            np.array(content["scale"], np.float32),
        )


def measure(kind: str, volumes: Iterable[Any], *, memory_gb: float = 8.0) -> Normalisation:
    """Measure a normalisation of `kind` on training `volumes` (c, z, y, x; numpy or h5py), block by block.

    - `none`: gray levels as fractions of an integer type's range, floats as they are
    - `mean`: the same, less the mean of each channel
    - `mean_std`: less the mean and divided by the standard deviation of each channel
    - `mean_image`: as `mean`, with the mean of each pixel over all sections, which must have one size

    Raises `InputError` for volumes that differ in type or channels, or, for `mean_image`, in size, and where
    that image takes more than `memory_gb`.
    """
    if kind not in KINDS:
        raise InputError(f"normalisation: found `{kind}`, expected one of {', '.join(KINDS)}.")
    volumes = list(volumes)
    for what, found in (
        ("types", {str(v.dtype) for v in volumes}),
        ("numbers of channels", {v.shape[0] for v in volumes}),
        ("section sizes", {v.shape[2:] for v in volumes} if kind == "mean_image" else {0}),
    ):
        if len(found) > 1:
            raise InputError(
                f"normalisation `{kind}`: the training images have different {what}: "
                f"{', '.join(map(str, sorted(found)))}. Convert them to one."
            )
    dtype = volumes[0].dtype
    channels = volumes[0].shape[0]
    full = float(np.iinfo(dtype).max) if np.issubdtype(dtype, np.integer) else 1.0
    offset, scale = np.zeros((channels, 1, 1)), np.full((channels, 1, 1), full)
    if kind == "mean_image":
        offset = _mean_image(volumes, memory_gb)
    elif kind != "none":
        # by blocks, merged by their sizes: no sum grows beyond float64's exact range
        moments = [
            (gray[0].size, gray.mean(axis=(1, 2), dtype=float), gray.var(axis=(1, 2), dtype=float))
            for volume in volumes
            for z in range(volume.shape[1])
            for gray in (volume[:, z, *area.read] for area in blocks(volume.shape[2:], STEP))
        ]
        size, mean, variance = (np.array(values) for values in zip(*moments, strict=True))
        offset = np.average(mean, axis=0, weights=size)[:, None, None]
        if kind == "mean_std":
            total = np.average(variance + (mean - offset[:, 0, 0]) ** 2, axis=0, weights=size)
            if (total == 0).any():
                raise InputError(
                    "normalisation `mean_std`: the training images have a channel of one single gray level."
                )
            scale = np.sqrt(total)[:, None, None]
    return Normalisation(kind, str(dtype), offset.astype(np.float32), scale.astype(np.float32))


def _mean_image(volumes: list[Any], memory_gb: float) -> np.ndarray:
    """Mean of each pixel over all sections, float64 (c, y, x)."""
    channels, _, height, width = volumes[0].shape
    needed = channels * height * width * MEAN_IMAGE_BYTES_PER_PIXEL / 1e9
    if needed > memory_gb:
        raise InputError(
            f"normalisation `mean_image`: a mean image of {height} x {width} px takes {needed:.1f} GB, and "
            f"memory_gb is {memory_gb:g}. Set `normalisation: mean_std`, which takes any size, or raise "
            "`memory_gb`."
        )
    offset = np.empty((channels, height, width))
    for area in blocks((height, width), STEP):
        sections = (v[:, z, *area.read].astype(float) for v in volumes for z in range(v.shape[1]))
        offset[:, *area.write] = sum(sections) / sum(v.shape[1] for v in volumes)
    return offset
