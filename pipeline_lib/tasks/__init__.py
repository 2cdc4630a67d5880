"""Tasks: what a network is trained for.

A task is a folder here with a module `task` that defines a class `Task`. Training, inference and prediction
know the methods of that class and nothing else of a task: another task needs no change there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

    from pipeline_lib.data.patches import Truth, Volume
    from pipeline_lib.inference.tiling import Tile

__all__ = ["Task", "load", "names"]


class Task(Protocol):
    """What training, inference and prediction ask of a task.

    Attributes
    ----------
    name : str
        That of its folder; models name their task by it.
    classes : int
        Channels of the network's output.
    scores : dict of str to bool
        Validation scores by name, and whether a higher one is better; `loss` is one of them.
    """

    name: str
    classes: int
    scores: dict[str, bool]

    def open(self, stack: ExitStack, dataset: Path, weight_map: Path, cache_bytes: int) -> Volume:
        """Open the files of an annotated volume for as long as `stack` lives.

        `cache_bytes` is for the unpacked chunks of each array.
        """

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """The loss of a patch, a float32 scalar.

        `output` is that of the network for one patch, `truth` (1, k, y, x) float32 what `Truth.read` gave,
        moved with the patch by nearest neighbour.
        """

    def decode(self, network: Callable, image: Tensor, average_orientations: bool = False) -> Any:
        """What the network says of a tile, a normalised image (c, y, x), on any device.

        With `average_orientations` the mean over the 8 rotations and mirror images, if the task knows one.
        """

    def validate(self, truth: Truth, section: int, outputs: Iterator[tuple[Tile, Any]]) -> Any:
        """What one section adds to the scores: plain values that another process can be sent.

        `outputs` are the section's tiles with what `decode` made of them.
        """

    def scores_of(self, found: list[Any]) -> dict[str, float]:
        """The validation scores, by the names in `scores`, of all sections' `validate`."""

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> Any:
        """Add to a new prediction file what `write` fills, for a volume of `shape` (z, y, x)."""

    def write(self, target: Any, section: int, tile: Tile, output: Any) -> None:
        """Write what `decode` made of a tile to what `create` returned."""


def names() -> list[str]:
    """Names of all tasks."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]


def load(name: str) -> Task:
    """The task called `name`. Imports torch.

    Raises
    ------
    InputError
        For an unknown name; the message lists the known ones.
    """
    if name not in names():
        raise InputError(f"task: found `{name}`, expected one of {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}.task").Task()
