"""Plans of networks: settings, tile sizes, number of parameters and memory, without torch.

The workflow, the checks of a dry run and the reader of model files use only the `Plan` of a network. So
`snakemake -n` reports an invalid tile size, and only the jobs that compute import torch.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipeline_lib import memory
from pipeline_lib.networks import parts
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import several
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    from pipeline_lib.networks.module import Network

MOST_CONTEXT = 10  # sections before and after the one in the middle
# JSON Schema of the types of settings
_TYPES: dict[object, Json] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    tuple[int, ...]: {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
    tuple[float, ...]: {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}, "minItems": 1},
}


def sections_seen(context_sections: int) -> int:
    """Return how many sections a network sees at once.

    Parameters
    ----------
    context_sections : int
        Number of neighbours on each side.

    Returns
    -------
    int
        Number of sections.

    Examples
    --------
    >>> from pipeline_lib.networks.plan import sections_seen
    >>> sections_seen(0), sections_seen(1)
    (1, 3)
    """
    return 2 * context_sections + 1


@dataclass(frozen=True)
class Geometry:
    """Valid input sizes of a network, and its context.

    The valid input sizes are `smallest + k * stride` with k = 0, 1, 2, ... The output is `2 * context` px
    smaller than the input.

    Parameters
    ----------
    stride : int
        Step between valid sizes (px). Tiles start at multiples of it. It must divide 128
        (`kernels.blocks.ALIGNMENT`): jobs that share a section start at multiples of 128 px.
    smallest : int
        Smallest valid input size (px). Its output is at least one stride.
    context : int
        Number of pixels by which the output is smaller than the input, on each side (px).

    References
    ----------
    Section 2 and figure 2 of [1]_: overlap-tile strategy.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.

    Examples
    --------
    The U-Net of the paper maps a tile of 572 px to 388 px:

    >>> from pipeline_lib.networks.unet import UNetPlan
    >>> geometry = UNetPlan().geometry
    >>> geometry
    Geometry(stride=16, smallest=204, context=92)
    >>> geometry.output_size(572)
    388
    """

    stride: int
    smallest: int
    context: int

    def output_size(self, input_size: int) -> int:
        """Return the output size of a valid input size.

        Parameters
        ----------
        input_size : int
            Side of the input tile (px).

        Returns
        -------
        int
            Side of the output tile (px).

        Raises
        ------
        InputError
            If `input_size` is not valid. The message names the nearest valid sizes.

        Examples
        --------
        >>> from pipeline_lib.networks import Geometry
        >>> Geometry(stride=16, smallest=204, context=92).output_size(572)
        388
        """
        steps, rest = divmod(input_size - self.smallest, self.stride)
        if rest or steps < 0:
            below = self.smallest + max(steps, 0) * self.stride
            raise InputError(
                f"a tile of {input_size} px is not valid for this network. Valid sizes are {self.smallest}, "
                f"{self.smallest + self.stride}, {self.smallest + 2 * self.stride}, ... px. Use {below} or "
                f"{below + self.stride}."
            )
        return input_size - 2 * self.context

    def input_size(self, output_size: int) -> int:
        """Return the smallest valid input size whose output has at least `output_size` px.

        Parameters
        ----------
        output_size : int
            Number of output pixels needed along one axis (px).

        Returns
        -------
        int
            Side of the input tile (px).

        Examples
        --------
        >>> from pipeline_lib.networks import Geometry
        >>> geometry = Geometry(stride=16, smallest=204, context=92)
        >>> geometry.input_size(388), geometry.input_size(389)
        (572, 588)
        """
        steps = -(-(output_size + 2 * self.context - self.smallest) // self.stride)
        return self.smallest + max(steps, 0) * self.stride

    def mirrored(self, height: int, width: int) -> float:
        """Return how much of what the network sees of a section is mirrored at its edges.

        A pixel of the output depends on a square of the image that reaches `context` px to each side. The
        part of this square that lies outside of the section is filled with mirrored pixels.

        Parameters
        ----------
        height, width : int
            Size of the section (px).

        Returns
        -------
        float
            Mean of the mirrored part over all pixels of the section, 0 (none) to 1.

        Examples
        --------
        >>> from pipeline_lib.networks import Geometry
        >>> round(Geometry(stride=32, smallest=436, context=202).mirrored(256, 256), 2)
        0.63
        """
        inside = 1.0
        for size in (height, width):
            near = min(self.context, size)  # pixels whose square extends beyond the edge
            beyond = near * (2 * self.context + 1 - near)  # sum of what is beyond both edges
            inside *= 1 - beyond / (size * (2 * self.context + 1))
        return 1 - inside


def setting(default: Any, description: str, *, optional: bool = False, **limits: Any) -> Any:
    """Return a dataclass field for a setting of a network.

    Parameters
    ----------
    default : bool, int, float, str or tuple of int
        Value if the config does not set it.
    description : str
        Meaning of the setting, shown in :doc:`/reference/settings`.
    optional : bool, default False
        Whether settings of a run and model files leave it out if it has its default. So a new setting leaves
        those of earlier versions as they were.
    **limits
        Keywords of JSON Schema (`minimum`, `exclusiveMaximum`, `maxItems`, `enum`, ...), and `unit`. The
        numbers of a tuple are at least 1.

    Returns
    -------
    dataclasses.Field
        Field for the body of a subclass of `Plan`.

    Examples
    --------
    >>> from pipeline_lib.networks.plan import setting
    >>> setting(4, "Number of 2x2 poolings.", minimum=1).default
    4
    """
    schema = {**limits, "description": description}
    return dataclasses.field(default=default, metadata={"schema": schema, "optional": optional})


@dataclass(frozen=True)
class Plan(ABC):
    """Settings of a network and what follows from them, before the network is built.

    Base class of the plans of all networks. To add a network, write a subclass in a new folder of `networks`,
    or in a module that another package names in the entry point group `bordure.networks`. The subclass
    defines `name`, `smaller`, the settings (fields made by `setting`) and the abstract properties and methods
    below. No other file has to change. `networks/unet` is an example.

    Parameters
    ----------
    input_channels : int, default 1
        Number of channels of the input: those of the images, for each section that the network sees.
    classes : int, default 2
        Number of channels of the output: the number of classes of the task, and of affinities, if any.
    context_sections : int, default 0
        Number of sections before and after a section that the network also sees. Their channels come before
        and after those of the section, in the order of the stack (`inference.neighbours`).

    Attributes
    ----------
    name : str
        Name of the network in the config and in model files.
    smaller : str
        Advice for error messages about memory, for example "lower `network.depth`".
    task : str
        Name of the task that the network is for, one of `tasks.names`.

    Raises
    ------
    InputError
        If a setting has the wrong type or is out of range. The message names its key.
    """

    name: ClassVar[str]
    smaller: ClassVar[str]
    task: ClassVar[str] = "segmentation"

    input_channels: int = 1
    classes: int = 2
    context_sections: int = 0

    @property
    def image_channels(self) -> int:
        """Number of channels of the images."""
        return self.input_channels // sections_seen(self.context_sections)

    @property
    def neighbour_bytes_per_pixel(self) -> int:
        """Bytes of neighbouring sections in memory in a forward pass without gradient, per input pixel."""
        return memory.CONTEXT_TILE_BYTES * (self.input_channels - self.image_channels)

    @property
    def reduction(self) -> int:
        """Side of the square of the image that one pixel of the output describes (px)."""
        return 1

    @property
    def output_channels(self) -> int:
        """Number of channels of the output."""
        return self.classes

    @property
    def supervised_levels(self) -> int:
        """Number of coarser levels that can also predict in a training step (`Network.supervise`)."""
        return 0

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Valid input sizes of the network, and its context."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of trainable parameters."""

    @property
    @abstractmethod
    def values_per_pixel(self) -> float:
        """Largest number of values held in memory per input pixel in a forward pass without gradient."""

    @abstractmethod
    def step_bytes_per_pixel(self, precision: str) -> float:
        """Return the peak memory of a training step per input pixel.

        Parameters
        ----------
        precision : str
            "float32", "bfloat16" or "auto".

        Returns
        -------
        float
            Bytes per pixel of the input tile.
        """

    def training_memory(
        self, tile: int, *, precision: str, on_gpu: bool, batch: int, volumes: int, pixels: int
    ) -> memory.Need:
        """Return the main memory that a training needs.

        Parameters
        ----------
        tile : int
            Side of the patches (px).
        precision : str
            "float32", "bfloat16" or "auto".
        on_gpu : bool
            True if the steps run on a GPU. Memory of the GPU is not counted.
        batch : int
            Patches per iteration.
        volumes : int
            Number of training and validation volumes.
        pixels : int
            Number of pixels of all training and validation volumes.

        Returns
        -------
        memory.Need
            Bytes that training needs, and advice for the case that this is too much.
        """
        together = 1 if self._normalises() else memory.patches_at_once(tile, batch)
        step = 0 if on_gpu else self.step_bytes_per_pixel(precision) * together * tile**2
        of_neighbours = memory.CONTEXT_PATCH_BYTES * (self.input_channels - self.image_channels)
        ahead = (70 + of_neighbours) * batch * tile**2  # patches prepared in advance
        opened = 1.2e6 * volumes + min(memory.CHUNK_CACHE_BYTES, 10 * pixels)
        return memory.Need(
            f"training on tiles of {tile:,} px",
            memory.TORCH_PROCESS_BYTES + step + 32 * self.parameters + ahead + opened,
            f"lower `training.tile`, or {self.smaller}",
        )

    def prediction_memory(self) -> memory.Need:
        """Return the memory that prediction needs with the smallest valid tile.

        Prediction uses larger tiles if there is more memory.

        Returns
        -------
        memory.Need
            Bytes that prediction needs, and advice for the case that this is too much.
        """
        tile = self.geometry.smallest
        return memory.Need(
            f"prediction, even with its smallest tile of {tile} px,",
            memory.TORCH_PROCESS_BYTES + memory.KEPT * self.tile_bytes_per_pixel() * tile**2,
            self.smaller,
        )

    def tile_bytes_per_pixel(self, bytes_of_value: int = 4) -> float:
        """Return the memory of a forward pass without gradient per input pixel.

        Parameters
        ----------
        bytes_of_value : int, default 4
            Size of the values that convolutions compute: 4 for float32, 2 for bfloat16.

        Returns
        -------
        float
            Bytes per pixel of the input tile.
        """
        return self.values_per_pixel * bytes_of_value + self.neighbour_bytes_per_pixel

    def example(self) -> Self:
        """Return the plan with examples of the settings that a run chooses from training images.

        Returns
        -------
        Plan
            The plan itself, if it has all settings.
        """
        return self

    def require_tile(self, tile: int, key: str) -> None:
        """Check that a tile size is valid for the network.

        Parameters
        ----------
        tile : int
            Side of the input tile (px).
        key : str
            Name of the setting, for the error message.

        Raises
        ------
        InputError
            If `tile` is not valid. The message names `key` and the nearest valid sizes.
        """
        try:
            self.geometry.output_size(tile)
        except InputError as error:
            raise InputError(f"{key}: {error}") from None

    def mirror_warning(self, shapes: Mapping[str, tuple[int, int, int]]) -> str:
        """Return a warning if the network sees mostly mirrored pixels in some of the volumes.

        Parameters
        ----------
        shapes : dict of str to (z, y, x)
            Shape of each volume (px).

        Returns
        -------
        str
            One line, or an empty text if at most half of what the network sees is mirrored in all volumes.
        """
        mirrored = {name: self.geometry.mirrored(*shape[1:]) for name, shape in shapes.items()}
        if not any(share > 0.5 for share in mirrored.values()):
            return ""
        worst = max(mirrored, key=lambda name: mirrored[name])
        count = sum(share > 0.5 for share in mirrored.values())
        _, height, width = shapes[worst]
        return (
            f"context: {self.name} sees {self.geometry.context} px to each side of a pixel. In {count} of "
            f"{several(len(shapes), 'volume')} more than half of that lies beyond the edges and is mirrored "
            f"({mirrored[worst]:.0%} in {worst}, {height:,} x {width:,} px). Choose a network with less "
            "context, for example with fewer poolings, or larger images."
        )

    def require_training(self, training: Json) -> None:
        """Check that the settings of a training fit the network.

        Parameters
        ----------
        training : dict
            Section `training` of the config.

        Raises
        ------
        InputError
            If the tile is not valid; if tiles are to be used for the statistics of batch normalisation and
            the network has none, that is no setting `batch_normalisation` that is true; if coarser levels
            are to predict and there are none; if a part with a
            setting of its own does not exist; if nothing is left to train; or if a normalisation is to be
            kept and no model is named.
        """
        self.require_tile(training["tile"], "training.tile")
        key = "batch_normalisation_tiles"
        if training.get(key) and not self._normalises():
            switch = "set `network.batch_normalisation: true`, or " * ("batch_normalisation" in self.schema())
            raise InputError(
                f"training.{key}: found {training[key]}, but this network has no batch normalisation. To "
                f"solve this, {switch}remove the key."
            )
        if training.get("deep_supervision") and not self.supervised_levels:
            raise InputError(
                "training.deep_supervision: found true, but this network has no coarser levels that can "
                "predict. Use `network.name: unet` with a `depth` of at least 2, or remove the key."
            )
        if training.get("keep_normalisation") is not None and training.get("start_from") is None:
            raise InputError(
                "training.keep_normalisation: has no meaning without `training.start_from`. Remove the key, "
                "or name the model to start from."
            )
        frozen, factors = training.get("freeze") or [], training.get("learning_rate_factors") or {}
        if frozen or factors:
            from pipeline_lib.networks import module  # imports torch, which takes a second

            names = [name for name, _ in module.skeleton(self).named_parameters()]
            parts.require("training.freeze", frozen, names)
            trained = [name for name in names if not any(parts.contains(part, name) for part in frozen)]
            if not trained:
                raise InputError(
                    f"training.freeze: found {', '.join(frozen)}, which are all parts of the network, so "
                    "that nothing would be trained. Remove at least one of them."
                )
            parts.require("training.learning_rate_factors", factors, trained)

    def require_neighbours(self, sections: Iterable[int]) -> None:
        """Check that there are neighbouring sections to learn from, if the network sees them.

        Parameters
        ----------
        sections : iterable of int
            Number of sections of each training volume.

        Raises
        ------
        InputError
            If the network sees neighbouring sections, and all volumes have a single section.
        """
        if self.context_sections and max(sections) == 1:
            raise InputError(
                f"network.context_sections: found {self.context_sections}, but each training volume has a "
                "single section, which has no neighbours. Use volumes that are stacks, or remove the key."
            )

    def require_prediction(self, prediction: Json) -> None:
        """Check that the settings of predictions fit the network.

        Parameters
        ----------
        prediction : dict
            Section `prediction` of the config.

        Raises
        ------
        InputError
            If boxes of several orientations are to be averaged.
        """
        if prediction["average_orientations"] and self.task == "detection":
            raise InputError(
                "prediction.average_orientations: found true, but boxes are not averaged. Set it to false."
            )

    def _normalises(self) -> bool:
        """Return whether the network has batch normalisation."""
        return bool(self.arguments().get("batch_normalisation"))

    @abstractmethod
    def build(self) -> Network:
        """Return a new network with random initial parameters. This method imports torch.

        Returns
        -------
        Network
            Torch module (`networks.module.Network`) on the CPU.
        """

    def __post_init__(self) -> None:
        for key, part in self.schema().items():
            value = getattr(self, key)
            if isinstance(value, list):  # as configs and model files have it
                value = tuple(value)
                object.__setattr__(self, key, value)
            if not _fits(value, part):
                raise InputError(f"network.{key}: found {_plain(value)!r}, expected {_expected(part)}.")
        for key in ("input_channels", "classes"):
            value = getattr(self, key)
            if type(value) is not int or value < 1:
                raise InputError(f"network.{key}: found {value!r}, expected a whole number of at least 1.")
        context = self.context_sections
        if type(context) is not int or not 0 <= context <= MOST_CONTEXT:
            raise InputError(
                f"network.context_sections: found {context!r}, expected a whole number of at least 0 and at "
                f"most {MOST_CONTEXT}."
            )
        if self.input_channels % sections_seen(context):
            raise InputError(
                f"network.input_channels: found {self.input_channels}, expected a multiple of "
                f"{sections_seen(context)}, the number of sections that the network sees."
            )

    @classmethod
    def schema(cls) -> dict[str, Json]:
        """Return the JSON Schema of each setting.

        Returns
        -------
        dict of str to dict
            Name of the setting to its schema with default and description, in the order of the fields. An
            optional setting has no default there.
        """
        hints = typing.get_type_hints(cls)
        return {
            field.name: {
                **({} if "enum" in field.metadata["schema"] else _TYPES[hints[field.name]]),
                **({} if field.metadata["optional"] else {"default": _plain(field.default)}),
                **field.metadata["schema"],
            }
            for field in dataclasses.fields(cls)
            if "schema" in field.metadata
        }

    def arguments(self) -> dict[str, Any]:
        """Return all fields as a dict. `networks.plan(plan.name, **plan.arguments())` is an equal plan.

        Returns
        -------
        dict of str to bool, int, float, str or list of int
            Name of each field to its value. `context_sections` is left out if it is 0, and so are optional
            settings with their default, so that models have the same bytes as those of versions without them.
        """
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            optional = field.metadata.get("optional", field.name == "context_sections")
            if not optional or value != field.default:
                found[field.name] = _plain(value)
        return found


def _plain(value: Any) -> Any:
    """Return `value` as JSON has it: tuples become lists."""
    return list(value) if isinstance(value, tuple) else value


def _fits(value: Any, part: Json) -> bool:
    """Return whether `value` satisfies the schema `part` of a setting."""
    if "enum" in part:
        return value in part["enum"]
    if part["type"] == "array":
        return (
            isinstance(value, tuple)
            and part["minItems"] <= len(value) <= part.get("maxItems", math.inf)
            and all(_fits(item, part["items"]) for item in value)
        )
    kinds: dict[str, type | tuple[type, ...]] = {
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "string": str,
    }
    kind = kinds[part["type"]]
    if not isinstance(value, kind) or (isinstance(value, bool) and part["type"] != "boolean"):
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        value >= part.get("minimum", value)
        and value <= part.get("maximum", value)
        and ("exclusiveMinimum" not in part or value > part["exclusiveMinimum"])
        and ("exclusiveMaximum" not in part or value < part["exclusiveMaximum"])
    )


def _expected(part: Json) -> str:
    """Describe the values that the schema `part` of a setting allows."""
    if "enum" in part:
        return f"one of {', '.join(map(str, part['enum']))}"
    if part["type"] == "array":
        most = f" and at most {part['maxItems']}" if "maxItems" in part else ""
        return f"a list of at least {part['minItems']}{most}, each {_expected(part['items'])}"
    words = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "above",
        "exclusiveMaximum": "below",
    }
    limits = " and ".join(f"{words[key]} {part[key]}" for key in words if key in part)
    kind = {"boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text"}
    return f"{kind[part['type']]} {limits}".strip()
