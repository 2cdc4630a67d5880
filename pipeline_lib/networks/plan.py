"""What is known of a network without torch: its settings, sizes, parameters and memory.

The workflow, the checks of the dry run and the reader of model files ask a `Plan` and nothing else: an
impossible tile fails in `snakemake -n`, and only jobs that compute import torch.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline_lib import memory
from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    from torch import nn

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}  # of JSON Schema


@dataclass(frozen=True)
class Geometry:
    """Input sizes a network takes, `smallest + k * stride`, and the context it needs.

    Parameters
    ----------
    stride : int
        Tiles move by multiples of it (px). It divides 128 (`kernels.blocks.ALIGNMENT`), so that jobs which
        share a section begin at a multiple, too.
    smallest : int
        Smallest input (px). Its output is at least one stride.
    context : int
        How much smaller the output is, on either side (px).
    """

    stride: int
    smallest: int
    context: int

    def output_size(self, input_size: int) -> int:
        """Output size (px) for a valid `input_size`.

        Raises
        ------
        InputError
            For another size; the message names the nearest valid ones.
        """
        steps, rest = divmod(input_size - self.smallest, self.stride)
        if rest or steps < 0:
            below = self.smallest + max(steps, 0) * self.stride
            raise InputError(
                f"a tile of {input_size} px does not fit this network, which takes {self.smallest}, "
                f"{self.smallest + self.stride}, {self.smallest + 2 * self.stride}, ... px; use {below} or "
                f"{below + self.stride}."
            )
        return input_size - 2 * self.context

    def input_size(self, output_size: int) -> int:
        """Smallest valid input size (px) whose output covers `output_size`."""
        steps = -(-(output_size + 2 * self.context - self.smallest) // self.stride)
        return self.smallest + max(steps, 0) * self.stride


def setting(default: Any, description: str, **limits: Any) -> Any:
    """A field of a `Plan` that users may set.

    Parameters
    ----------
    default
        Its value if a config does not have it.
    description : str
        Its meaning, for the reference of settings.
    **limits
        Keywords of JSON Schema (`minimum`, `exclusiveMaximum`, `enum`, ...), and `unit`.

    Returns
    -------
    dataclasses.Field
    """
    return dataclasses.field(default=default, metadata={"schema": {**limits, "description": description}})


@dataclass(frozen=True)
class Plan(ABC):
    """A network before it is built. Base class; `networks/unet` shows how to write one.

    A network is a folder of `networks` (or a module that another package names in its entry points
    `bordure.networks`) with a subclass of this one, which states `name`, its settings as fields made by
    `setting`, and the properties and methods below. Nothing else has to be touched.

    Parameters
    ----------
    input_channels : int
        Channels of the images.
    classes : int
        Channels of the output: the task's number of classes.

    Raises
    ------
    InputError
        For a setting of the wrong type or out of range; the message names its key.
    """

    name: ClassVar[str]
    smaller: ClassVar[str]  # what to type where memory is short, e.g. "lower `network.depth`"

    input_channels: int = 1
    classes: int = 2

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Which sizes the network takes, and how much context it needs."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """How many numbers are learned."""

    @property
    @abstractmethod
    def values_per_pixel(self) -> float:
        """Values held at most, per input pixel, in a forward pass without gradient."""

    @abstractmethod
    def step_bytes_per_pixel(self, precision: str) -> float:
        """Bytes held at most, per pixel of the tile, in a training step in `precision`."""

    def training_memory(
        self, tile: int, *, precision: str, on_gpu: bool, batch: int, volumes: int, pixels: int
    ) -> memory.Need:
        """Memory of the training steps.

        Parameters
        ----------
        tile : int
            Side of the patches (px).
        precision : str
            `float32`, `bfloat16` or `auto`.
        on_gpu : bool
            Whether the steps take memory of a GPU, which does not count.
        batch : int
            Patches per iteration.
        volumes, pixels : int
            Number of all training and validation volumes, and of their pixels.

        Returns
        -------
        memory.Need
        """
        step = 0 if on_gpu else self.step_bytes_per_pixel(precision) * tile**2
        ahead = 70 * batch * tile**2  # patches prepared
        opened = 1.2e6 * volumes + min(memory.CHUNK_CACHE_BYTES, 10 * pixels)
        return memory.Need(
            f"training on tiles of {tile:,} px",
            memory.TORCH_PROCESS_BYTES + step + 32 * self.parameters + ahead + opened,
            f"lower `training.tile`, or {self.smaller}",
        )

    def prediction_memory(self) -> memory.Need:
        """Memory of the smallest tile that prediction takes; where there is more, it takes larger ones."""
        tile = self.geometry.smallest
        return memory.Need(
            f"prediction, even with its smallest tile of {tile} px,",
            memory.TORCH_PROCESS_BYTES + memory.KEPT * 4 * self.values_per_pixel * tile**2,
            self.smaller,
        )

    def require_tile(self, tile: int, key: str) -> None:
        """Raise `InputError`, naming the setting `key`, unless the network takes a tile of `tile` px."""
        try:
            self.geometry.output_size(tile)
        except InputError as error:
            raise InputError(f"{key}: {error}") from None

    @abstractmethod
    def build(self) -> nn.Module:
        """A new network (`networks.module.Network`) with random parameters. Imports torch."""

    def __post_init__(self) -> None:
        for key, part in self.schema().items():
            value = getattr(self, key)
            if not _fits(value, part):
                raise InputError(f"network.{key}: found {value!r}, expected {_expected(part)}.")
        for key in ("input_channels", "classes"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise InputError(f"{key} of a network: found {value!r}, expected a whole number, at least 1.")

    @classmethod
    def schema(cls) -> dict[str, dict[str, Any]]:
        """Setting -> its JSON Schema with default and description, in the order of the fields."""
        hints = typing.get_type_hints(cls)
        return {
            field.name: {
                **({} if "enum" in field.metadata["schema"] else {"type": _TYPES[hints[field.name]]}),
                "default": field.default,
                **field.metadata["schema"],
            }
            for field in dataclasses.fields(cls)
            if "schema" in field.metadata
        }

    def arguments(self) -> dict[str, Any]:
        """All fields by name: what `networks.plan` makes the same plan of."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def _fits(value: Any, part: dict[str, Any]) -> bool:
    if "enum" in part:
        return value in part["enum"]
    kinds = {"boolean": bool, "integer": int, "number": (int, float), "string": str}[part["type"]]
    if not isinstance(value, kinds) or (isinstance(value, bool) and part["type"] != "boolean"):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        value >= part.get("minimum", value)
        and value <= part.get("maximum", value)
        and ("exclusiveMinimum" not in part or value > part["exclusiveMinimum"])
        and ("exclusiveMaximum" not in part or value < part["exclusiveMaximum"])
    )


def _expected(part: dict[str, Any]) -> str:
    if "enum" in part:
        return f"one of {', '.join(map(str, part['enum']))}"
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "above",
        "exclusiveMaximum": "below",
    }
    limits = " and ".join(f"{words[key]} {part[key]}" for key in words if key in part)
    kind = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}
    return f"{kind[part['type']]} {limits}".strip()
