"""The post-processing: how a cell probability becomes instances.

`instances` and `instances_by_block` are the only two ways in, and give the same labels: the first for a
section that is held as a whole, the second for volumes of any size. Jobs that share a volume take the steps
of the second one by one (labelling.py).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.instances.labelling import Labels, Read, labelled
from pipeline_lib.kernels.blocks import BLOCK
from pipeline_lib.kernels.compiled import compiled
from pipeline_lib.kernels.components import connected_components
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json


@dataclass(frozen=True)
class PostProcessing:
    """How the instances of a model are made from its cell probability.

    The 4-connected components of the pixels above the threshold, in each section by itself, without those
    that are too small.

    Parameters
    ----------
    threshold : float
        Pixels belong to a cell if their cell probability is above it. At least 0 and below 1.
    minimum_size : int
        Smaller components are removed (px).

    Raises
    ------
    InputError
        If a value is of another type or outside its range.
    """

    threshold: float
    minimum_size: int = 0

    def __post_init__(self) -> None:
        for name, kind, expected, fits in (
            ("threshold", (int, float), "a number of at least 0 and below 1", lambda value: 0 <= value < 1),
            ("minimum_size", int, "an integer of at least 0", lambda value: value >= 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not fits(value):
                raise InputError(f"`{name}`: found {value!r}, expected {expected}.")

    @classmethod
    def read(cls, path: Path) -> PostProcessing:
        """Read the JSON file that the stage `choose_postprocessing` wrote.

        Parameters
        ----------
        path : Path
            The file; what else it holds is ignored.

        Returns
        -------
        PostProcessing

        Raises
        ------
        InputError
            If the file cannot be read, or a value is missing or invalid.
        """
        content = read_json(path)
        names = [field.name for field in fields(cls)]
        for name in names:
            if not isinstance(content, dict) or name not in content:
                raise InputError(
                    f"{path}: has no `{name}`: written by another version of bordure. Delete it and run the "
                    "workflow again."
                )
        try:
            return cls(**{name: content[name] for name in names})
        except InputError as error:
            raise InputError(f"{path}: {error} Correct it, or delete the file and run again.") from error

    def foreground(self, cell_probability: np.ndarray) -> np.ndarray:
        """Return which pixels belong to a cell; bool, any shape."""
        return above(cell_probability, self.threshold)

    def read_foreground(self, cell_probability: Any) -> Read:
        """Return a function of section, rows and columns that reads them from a probability (z, y, x)."""
        return lambda z, rows, columns: self.foreground(cell_probability[z, rows, columns])


def instances(
    cell_probability: np.ndarray, post_processing: PostProcessing, components: np.ndarray | None = None
) -> np.ndarray:
    """Return the instances in one section.

    Parameters
    ----------
    cell_probability : (y, x) array of float
    post_processing : PostProcessing
    components : (y, x) array of int32, optional
        The 4-connected components of the pixels above the threshold, if they are known already.

    Returns
    -------
    (y, x) array of int32
        0 = background, 1..n = instances, ordered by their first pixel, columns outer, rows inner.

    Examples
    --------
    >>> instances(np.array([[0.9, 0.2, 0.9], [0.9, 0.2, 0.3]]), PostProcessing(threshold=0.5, minimum_size=2))
    array([[1, 0, 0],
           [1, 0, 0]], dtype=int32)
    """
    if components is None:
        components = connected_components(post_processing.foreground(cell_probability))
    if post_processing.minimum_size <= 1:
        return components
    return _without_small(components.ravel(), post_processing.minimum_size).reshape(components.shape)


def instances_by_block(
    cell_probability: Any,
    post_processing: PostProcessing,
    beside: Path,
    *,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> AbstractContextManager[tuple[Labels, int]]:
    """Return the instances of a volume of any size, as a context manager.

    Parameters
    ----------
    cell_probability : (z, y, x) array or HDF5 dataset
    post_processing : PostProcessing
    beside : Path
        The file that the labels are for; a temporary file lies beside it.
    block : int
        Side of the blocks that are in memory one at a time (px). It does not change the labels.
    memory_gb : float
        Limit for the tables of the components.

    Returns
    -------
    context manager of (Labels, int)
        The labels, uint32, those of `instances` in each section but numbered through the volume; and how many
        there are.

    Raises
    ------
    InputError
        If the volume has more components than `memory_gb` holds tables of.
    """
    return labelled(
        post_processing.read_foreground(cell_probability),
        cell_probability.shape,
        beside,
        minimum_size=post_processing.minimum_size,
        block=block,
        memory_gb=memory_gb,
    )


def above(cell_probability: np.ndarray, threshold: float) -> np.ndarray:
    """Return where floats exceed `threshold`, compared in float64 as the challenge did; bool, any shape.

    A float32 0.7 is not the 0.7 of the setting. Nothing is copied to float64 for that: a float32 exceeds the
    setting if it exceeds the largest float32 that does not (`largest_not_above`).
    """
    return cell_probability > largest_not_above(threshold, cell_probability.dtype)


def largest_not_above(threshold: float, dtype: np.dtype) -> np.floating:
    """Return the largest value of `dtype` that does not exceed `threshold`."""
    largest = np.dtype(dtype).type(threshold)
    return np.nextafter(largest, -np.inf, dtype=dtype) if float(largest) > threshold else largest


@compiled
def _without_small(labels, minimum_size):
    """`labels` 1..n (flat, int32) without those of fewer than `minimum_size` px, the others renumbered."""
    size = np.zeros(labels.max() + 1, np.int64)
    for label in labels:
        size[label] += 1
    number = np.zeros(size.size, np.int32)
    used = 0
    for label in range(1, size.size):
        if size[label] >= minimum_size:
            used += 1
            number[label] = used
    kept = np.empty_like(labels)
    for pixel in range(labels.size):
        kept[pixel] = number[labels[pixel]]
    return kept
