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
        """Open the files of an annotated volume.

        Parameters
        ----------
        stack : ExitStack
            The files stay open until it is closed.
        dataset, weight_map : Path
            HDF5 files of the volume.
        cache_bytes : int
            For the unpacked chunks of each array.

        Returns
        -------
        Volume
            Raw images, and the truth that `loss` and `validate` compare with.
        """

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """The loss of a patch.

        Parameters
        ----------
        output : Tensor
            Of the network, for one patch.
        truth : Tensor, (1, k, y, x), float32
            What `Truth.read` gave, moved with the patch by nearest neighbour.

        Returns
        -------
        Tensor
            A float32 scalar.
        """

    def decode(self, network: Callable, image: Tensor, average_orientations: bool = False) -> Any:
        """What the network says of a tile.

        Parameters
        ----------
        network : callable
            Takes a batch (1, c, y, x).
        image : Tensor, (c, y, x), float32
            Normalised, on the device of the network.
        average_orientations : bool
            Average over the 8 rotations and mirror images, if the task can.

        Returns
        -------
        object
            What `validate` and `write` take.
        """

    def validate(self, truth: Truth, section: int, outputs: Iterator[tuple[Tile, Any]]) -> Any:
        """What one section adds to the scores.

        Parameters
        ----------
        truth : Truth
            Of the volume.
        section : int
            Which of its sections.
        outputs : iterator of (Tile, object)
            The tiles of the section, with what `decode` returned for each.

        Returns
        -------
        object
            Plain values, which can be sent to another process.
        """

    def scores_of(self, found: list[Any]) -> dict[str, float]:
        """The validation scores.

        Parameters
        ----------
        found : list
            What `validate` returned, for all sections.

        Returns
        -------
        dict of str to float
            By the names in `scores`.
        """

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> Any:
        """Add to a new prediction file what `write` fills.

        Parameters
        ----------
        file : h5py.File
            Open for writing.
        shape : tuple of int
            Of the volume, (z, y, x).

        Returns
        -------
        object
            The target of `write`.
        """

    def write(self, target: Any, section: int, tile: Tile, output: Any) -> None:
        """Write what `decode` returned for a tile.

        Parameters
        ----------
        target : object
            What `create` returned.
        section : int
            Where in the file.
        tile : Tile
            Where in the section.
        output : object
            What `decode` returned.
        """


def names() -> list[str]:
    """Names of all tasks."""
    return [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]


def load(name: str) -> Task:
    """The task called `name`. Imports torch.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    Task

    Raises
    ------
    InputError
        For an unknown name; the message lists the known ones.
    """
    if name not in names():
        raise InputError(f"task: found `{name}`, expected one of {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}.task").Task()
