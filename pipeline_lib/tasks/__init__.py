"""Tasks: what a network is trained for.

A task is a subfolder with a module `task` that defines a class `Task`. Training, inference and prediction use
a task only through the methods of the protocol `Task` below, so a new task needs no change there.

The truth of a patch is always one map, with numbers for each pixel of the output. So patches can be cut,
joined and moved to a device by code that does not know the task. Truth of another kind is packed into such a
map: a detector has a vector for each default box and, if it predicts masks, one for the object whose centre
lies in the pixel (its box and its mask).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_lib.runtime.errors import InputError

if TYPE_CHECKING:
    import h5py
    from torch import Tensor

    from pipeline_lib.data.augment import Augmentation
    from pipeline_lib.data.patches import Patches, Truth, Volume
    from pipeline_lib.inference.tiling import Tile
    from pipeline_lib.networks import Plan
    from pipeline_lib.networks.module import Network
    from pipeline_lib.runtime.types import Offsets

__all__ = ["PixelwiseTask", "Task", "load", "names"]


class Task(Protocol):
    """Interface of a task, as training, inference and prediction use it.

    Parameters
    ----------
    classes : sequence of str, optional
        Names of the classes to distinguish. By default those of the task.
    cells : sequence of str, optional
        Names of the classes whose pixels belong to cells. By default those of the task.

    Attributes
    ----------
    name : str
        Name of the task's folder. Model files store it.
    classes : int
        Number of channels of the network's output.
    class_names : tuple of str
        What the first channels of the output mean, all of them without affinities. Model files store it.
    cell_names : tuple of str
        The channels whose pixels belong to cells. Model files store it.
    pixelwise : bool
        Whether predictions are maps of pixels. Others are boxes.
    augmentation : type
        `data.augment.Augmentation`, or a class with further settings.
    scores : dict of str to bool
        Name of each validation score to whether a higher value is better. One of the scores is `loss`.
    """

    name: str
    classes: int
    class_names: tuple[str, ...]
    cell_names: tuple[str, ...]
    pixelwise: bool
    augmentation: type[Augmentation]
    scores: dict[str, bool]

    def __init__(self, classes: Sequence[str] = ..., cells: Sequence[str] = ...) -> None: ...

    def open(self, stack: ExitStack, dataset: str | Path, weight_map: str | Path, cache_bytes: int) -> Volume:
        """Open the files of an annotated volume.

        Parameters
        ----------
        stack : ExitStack
            Context that keeps the files open and closes them on exit.
        dataset : str or Path
            HDF5 file with the images and their annotation.
        weight_map : str or Path
            HDF5 file with the weight map.
        cache_bytes : int
            Size of the cache for uncompressed chunks, for each array (bytes).

        Returns
        -------
        Volume
            Raw images, and the truth for `loss` and `validate`.
        """

    def example(self, shape: tuple[int, int, int]) -> Truth:
        """Return the truth of a volume with which a training takes the usual time, to measure its speed.

        Parameters
        ----------
        shape : tuple of int
            Shape of the volume, (z, y, x).

        Returns
        -------
        Truth
            Truth as in the volumes that `open` returns.
        """

    def patches(self, plan: Plan, *arguments: Any) -> Patches:
        """Return the training patches.

        Parameters
        ----------
        plan : Plan
            Plan of the network.
        *arguments
            Those of `data.patches.Patches`.

        Returns
        -------
        Patches
            Random patches with their truth.
        """

    def forward(self, network: Network, image: Tensor, truth: Tensor) -> Any:
        """Apply the network to patches in a training step.

        For most tasks this is `network(image)`. A network with a second pass, whose input depends on the
        truth, gets it here: a detector predicts masks in the boxes of true objects.

        Parameters
        ----------
        network : Network
            Network, in training mode.
        image : (n, c, y, x) Tensor of float32
            Images of the patches.
        truth : (n, k, y, x) Tensor of float32
            As in `loss`.

        Returns
        -------
        object
            Argument `output` of `loss`.
        """

    def loss(self, output: Any, truth: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the sum of the losses of one or several patches.

        The loss of a batch is the sum over its patches, divided by the sum of `count` (or by 1 if that is 0).

        Parameters
        ----------
        output : object
            Result of `forward`; for most tasks the output of the network, (n, classes, y, x).
        truth : (n, k, y, x) Tensor of float32
            Result of `Truth.read` after augmentation, which samples it with nearest-neighbour interpolation.
        mask : (n, y, x) Tensor of bool, optional
            Pixels over which the loss of each patch is averaged. By default all pixels.

        Returns
        -------
        () Tensor of float32
            Sum of the losses.
        """

    def count(self, plan: Plan, truth: Tensor) -> int:
        """Return by how much the sum of the losses is divided on account of some patches.

        Parameters
        ----------
        plan : Plan
            Plan of the network.
        truth : (n, k, y, x) Tensor of float32
            As in `loss`.

        Returns
        -------
        int
            For instance the number of patches.
        """

    def decode(
        self,
        network: Callable[[Tensor], Tensor],
        image: Tensor,
        average_orientations: bool = False,
        log_prior: Sequence[float] = (),
    ) -> Any:
        """Apply the network to a tile and convert its output to the result of the task.

        Parameters
        ----------
        network : callable
            Function of a batch (1, c, y, x) that returns the output of the network.
        image : (c, y, x) Tensor of float32
            Normalised tile, on the device of the network.
        average_orientations : bool, default False
            If True, average over the 8 rotations and mirror images of the tile, if the task supports it.
        log_prior : sequence of float, optional
            Numbers to add to the logits of the classes (see `networks.model.Model`). By default none.

        Returns
        -------
        object
            Result for the tile. `validate` and `write` receive it.
        """

    def validate(self, truth: Truth, section: int, outputs: Iterator[tuple[Tile, Any]]) -> Any:
        """Compare the results of one section with the truth.

        Parameters
        ----------
        truth : Truth
            Truth of the volume.
        section : int
            Index of the section in the volume.
        outputs : iterator of (Tile, object)
            Each tile of the section, and the result of `decode` for it.

        Returns
        -------
        object
            Contribution of the section to the scores, as plain values that can be sent to another process.
        """

    def scores_of(self, found: list[Any]) -> dict[str, float]:
        """Return the validation scores.

        Parameters
        ----------
        found : list
            Results of `validate` for all sections.

        Returns
        -------
        dict of str to float
            Name of each score (see `scores`) to its value. There can be further ones, which do not choose
            the best state of a training.
        """

    def create(self, file: h5py.File, shape: tuple[int, int, int]) -> Any:
        """Add the arrays that `write` fills to a new prediction file.

        Parameters
        ----------
        file : h5py.File
            Prediction file, open for writing.
        shape : tuple of int
            Shape of the volume, (z, y, x).

        Returns
        -------
        object
            Argument `target` of `write`.
        """

    def write(self, target: Any, section: int, tile: Tile, output: Any) -> None:
        """Write the result for a tile to the prediction file.

        Parameters
        ----------
        target : object
            Result of `create`.
        section : int
            Index of the section in the file.
        tile : Tile
            Position of the tile in the section.
        output : object
            Result of `decode` for the tile.
        """


class PixelwiseTask(Task, Protocol):
    """A task whose network predicts the class of each pixel (`Task.pixelwise`)."""

    def count_classes(self, truth: Tensor) -> Tensor:
        """Count the annotated pixels of each class in patches.

        Parameters
        ----------
        truth : (n, k, y, x) Tensor of float32
            As in `loss`.

        Returns
        -------
        (classes,) Tensor of int64
            Number of pixels of each class.
        """


def names() -> list[str]:
    """Return the names of all tasks.

    Returns
    -------
    list of str
        Names of the subfolders of `tasks`.

    Examples
    --------
    >>> from pipeline_lib.tasks import names
    >>> names()
    ['detection', 'segmentation']
    """
    return [module.name for module in pkgutil.iter_modules(__path__) if module.ispkg]


def load(
    name: str,
    classes: Sequence[str] = (),
    cells: Sequence[str] = (),
    offsets: Offsets = (),
    pixel_loss: str | None = None,
) -> Task:
    """Return the task with the given name. This function imports torch.

    Parameters
    ----------
    name : str
        Name of the task, one of `names`.
    classes : sequence of str, optional
        Names of the classes to distinguish. By default those of the task.
    cells : sequence of str, optional
        Names of the classes whose pixels belong to cells. Needed with `classes`.
    offsets : tuple of (int, int), optional
        Offsets (rows, columns) in px of the affinities that the network learns, see `data.affinities`. Only
        for the task `segmentation`. By default there are none.
    pixel_loss : str, optional
        Loss of the classes of the pixels, see `tasks.segmentation.losses.pixel_loss`. Only for the task
        `segmentation`. By default the weighted cross entropy.

    Returns
    -------
    Task
        Instance of the task.

    Raises
    ------
    InputError
        If no task has this name. The message lists the available names.

    Examples
    --------
    >>> from pipeline_lib.tasks import load
    >>> load("segmentation").scores
    {'loss': False, 'v_rand_thin': True}
    """
    if name not in names():
        raise InputError(f"task: found `{name}`, expected one of {', '.join(names())}.")
    own: dict[str, Any] = {"classes": classes, "cells": cells} if classes else {}
    own |= {"offsets": offsets} if offsets else {}
    own |= {"pixel_loss": pixel_loss} if pixel_loss else {}
    task: Task = importlib.import_module(f"{__name__}.{name}.task").Task(**own)
    return task
