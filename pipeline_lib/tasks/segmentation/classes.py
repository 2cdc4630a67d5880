"""Classes of the pixels: background, cell, and others.

This module imports neither torch nor numba. No other folder uses the number of a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline_lib.imageio.regions import BORDER
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json, Stored

BACKGROUND, CELL = range(2)


@dataclass(frozen=True)
class Classes:
    """The classes that a network distinguishes. The first one is the background.

    Parameters
    ----------
    names : sequence of str, default ("background", "cell")
        Name of each class, in the order of their numbers.
    cells : sequence of str, default ("cell",)
        Names of the classes whose pixels belong to cells: their connected areas become instances.

    Examples
    --------
    >>> from pipeline_lib.tasks.segmentation.classes import Classes
    >>> Classes(("background", "nucleus", "fibre"), ("nucleus",)).cell_numbers
    [1]
    """

    names: Sequence[str] = ("background", "cell")
    cells: Sequence[str] = ("cell",)

    @classmethod
    def of(cls, statistics: Json) -> Classes:
        """Return the classes of the training volumes or of a model.

        Parameters
        ----------
        statistics : dict
            Statistics of `stages.dataset.measure_statistics`, or description of a model file. Without
            `cells`, the classes are background and cell.

        Returns
        -------
        Classes
            The classes.
        """
        return cls(statistics["classes"], statistics["cells"]) if statistics.get("cells") else TWO

    @classmethod
    def chosen(cls, dataset: Json) -> Classes:
        """Return the classes that the settings of a dataset choose.

        Parameters
        ----------
        dataset : dict
            Section `dataset` of the config. `target` is what the network learns: "cells" and background, as
            by default; "cell_border", also the border between touching cells; or "classes", those of the
            annotation, whose values are in `classes`. `instances` are the names of the classes whose
            connected areas are cells, by default all but `background` and `border`.

        Returns
        -------
        Classes
            The classes. `background` is the first one, and `border` the last one if there is one.

        Raises
        ------
        InputError
            If the settings contradict each other.
        """
        target, classes, instances = (dataset.get(key) for key in ("target", "classes", "instances"))
        named = [name for name in classes or () if name not in ("background", "border")]
        if target == "classes" and not named:
            raise InputError(
                "config key `dataset.target`: found classes, but `dataset.classes` is missing. It gives the "
                "values of each class: `classes: {background: 0, cell: 1, mitochondrion: 2}`."
            )
        if unknown := [name for name in instances or () if name not in named]:
            raise InputError(
                f"config key `dataset.instances`: found {unknown[0]}, expected some of "
                f"{', '.join(named) or 'the names in `dataset.classes`, which is missing'}."
            )
        if target == "cell_border":
            return cls(("background", "cell", "border"))
        if target in (None, "cells"):
            return TWO
        border = ["border"] * ("border" in (classes or ()))
        return cls(("background", *named, *border), tuple(instances or named))

    @classmethod
    def of_model(cls, model: str | Path, description: Json, dataset: Json) -> Classes:
        """Return the classes of a model that is used with the settings of a dataset.

        Parameters
        ----------
        model : str or Path
            Path of the model file, for the error.
        description : dict
            Description of the model file.
        dataset : dict
            Section `dataset` of the config, see `chosen`. Without `target`, it does not state what the model
            distinguishes.

        Returns
        -------
        Classes
            The classes of the model.

        Raises
        ------
        InputError
            If the settings choose other classes.
        """
        own, chosen = cls.of(description), cls.chosen(dataset)
        for key, found, expected in (
            ("target", own.names, chosen.names),
            ("instances", own.cells, chosen.cells),
        ):
            if dataset.get("target") and [*found] != [*expected]:
                raise InputError(
                    f"{model}: found the classes {', '.join(found)}, but `dataset.{key}` with "
                    f"`dataset.classes` means {', '.join(expected)}. Write the names and their order as in "
                    "the model, or remove `dataset.target`."
                )
        return own

    def __len__(self) -> int:
        return len(self.names)

    @property
    def several(self) -> bool:
        """Whether there are others than background and cell, so that arrays of classes are stored."""
        return len(self.names) > 2

    @property
    def cell_numbers(self) -> list[int]:
        """Numbers of the classes whose pixels belong to cells."""
        return [number for number, name in enumerate(self.names) if name in self.cells]

    def target(
        self, labels: np.ndarray, separation_border: np.ndarray, of_class: np.ndarray | None = None
    ) -> npt.NDArray[np.uint8]:
        """Return the class that the network learns for each pixel.

        Parameters
        ----------
        labels : array of integers, any shape
            Instance labels, 0 = background.
        separation_border : array, same shape
            Non-zero on the border between touching cells. It is `border` if that is a class, else background.
        of_class : array of uint8, same shape, optional
            Classes of the annotation, as `imageio.AnnotationRegions.read` returns them. By default, all
            labelled pixels are of class 1.

        Returns
        -------
        array, same shape, uint8
            Number of the class.

        Examples
        --------
        >>> import numpy as np
        >>> from pipeline_lib.tasks.segmentation.classes import Classes
        >>> three = Classes(("background", "cell", "border"))
        >>> three.target(np.array([0, 4, 4, 7, 7]), np.array([0, 0, 1, 1, 0]))
        array([0, 1, 2, 2, 1], dtype=uint8)
        """
        last = len(self) - 1
        on_border = last if self.names[-1] == "border" else BACKGROUND
        found = labels > 0 if of_class is None else np.where(of_class == BORDER, last, of_class)
        return np.where((separation_border != 0) & (labels > 0), on_border, found).astype(np.uint8)

    def of_cells(self, values: Any) -> Any:
        """Return the sum over the classes whose pixels belong to cells.

        Parameters
        ----------
        values : array or Tensor, (k, ...)
            Probabilities, frequencies or counts. The first axis is the class.

        Returns
        -------
        array, Tensor or number, (...)
            Sum of the parts of `values` that belong to cells.
        """
        first, *others = (values[number] for number in self.cell_numbers)
        return sum(others, first)


#: Background and cell.
TWO = Classes()


def target_class(labels: np.ndarray, separation_border: np.ndarray) -> npt.NDArray[np.uint8]:
    """Return the class of each pixel: cell inside a cell, background outside and on the separation border.

    Parameters
    ----------
    labels : array of integers, any shape
        Instance labels, 0 = background.
    separation_border : array, same shape
        Non-zero where a pixel of a cell counts as background.

    Returns
    -------
    array, same shape, uint8
        `BACKGROUND` (0) or `CELL` (1).

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.segmentation.classes import target_class
    >>> target_class(np.array([0, 4, 4, 7, 7]), np.array([0, 0, 1, 1, 0]))
    array([0, 1, 0, 0, 1], dtype=uint8)
    """
    return ((labels > 0) & (separation_border == 0)).astype(np.uint8)


def count_classes(
    volumes: Iterable[tuple[Stored, Stored, Stored | None, Stored | None]], classes: Classes = TWO
) -> npt.NDArray[np.int64]:
    """Count the annotated pixels of each class.

    Parameters
    ----------
    volumes : iterable of (labels, separation_border, ignore, target)
        Arrays (z, y, x), numpy or h5py. They are read block by block. `ignore` is non-zero where a pixel is
        not annotated, or None if all are annotated. `target` has the number of the class of each pixel; if it
        is None, the class follows from the other arrays (`target_class`).
    classes : Classes, default `TWO`
        The classes.

    Returns
    -------
    (k,) array of int64
        Number of pixels of each class.
    """
    counts = np.zeros(len(classes), np.int64)
    for labels, border, ignore, stored in volumes:
        depth, height, width = labels.shape
        for z in range(depth):
            for area in blocks((height, width)):
                part = (z, *area.read)
                target = target_class(labels[part], border[part]) if stored is None else stored[part]
                if ignore is not None:
                    target = target[ignore[part] == 0]
                others = [int(np.count_nonzero(target == number)) for number in range(1, len(classes))]
                counts += [target.size - sum(others), *others]
    return counts


def class_frequencies(counts: np.ndarray) -> npt.NDArray[np.float64]:
    """Return the share of each class in all pixels.

    Parameters
    ----------
    counts : (k,) array
        Number of pixels of each class.

    Returns
    -------
    (k,) array of float64
        Share of each class, 0 to 1. The shares add up to 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.tasks.segmentation.classes import class_frequencies
    >>> class_frequencies(np.array([30, 90]))
    array([0.25, 0.75])
    """
    shares = counts / counts.sum()
    shares[BACKGROUND] = 1 - shares[CELL:].sum()
    return shares


def cell_share(statistics: Json) -> float:
    """Return the share of the annotated training pixels that belong to cells.

    Parameters
    ----------
    statistics : dict
        Statistics of `stages.dataset.measure_statistics`.

    Returns
    -------
    float
        0 to 1.
    """
    return float(Classes.of(statistics).of_cells(statistics["class_frequencies"]))
