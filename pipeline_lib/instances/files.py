"""Label images of any program, read by regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.imageio.annotation import as_mask
from pipeline_lib.imageio.headers import ImageInfo
from pipeline_lib.imageio.images import open_chosen
from pipeline_lib.instances.postprocessing import PostProcessing, instances_by_block
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Stored


@dataclass(frozen=True)
class Regions:
    """An open image as an array, whose regions are read when it is indexed.

    Parameters
    ----------
    shape : tuple of int
        Lengths of its axes.
    dtype : numpy.dtype
        Type of its values.
    read : callable
        Takes the elements of an index and returns the region.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[..., np.ndarray]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.read(*index)


@contextmanager
def open_cells(
    labels: str | Path, beside: str | Path, *, masks: bool = True, block: int = BLOCK
) -> Iterator[tuple[Stored, ImageInfo]]:
    """Open a label image of any program, whose regions are read when they are indexed.

    Parameters
    ----------
    labels : str or Path
        Label image: TIFF, PNG, folder of slices or `file.h5:/dataset`; 0 = background. If it has one value
        besides 0, as a mask has, each of its connected areas is a cell.
    beside : str or Path
        A file beside which temporary files are written.
    masks : bool, default True
        Whether the image may be a mask. If not, one value besides 0 is one cell.
    block : int, default 2048
        Side of the square blocks in which connected areas are found (px).

    Yields
    ------
    cells : (z, y, x) array of int64
        Labels. Only regions can be read: (z, rows, columns).
    info : ImageInfo
        What the file states, for instance the size of its pixels.

    Raises
    ------
    InputError
        If the file cannot be read, or a label is negative or has a fraction.
    """
    with ExitStack() as stack:
        found = as_mask(stack.enter_context(open_chosen(labels, None, 1, annotation=True)))

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            region = found.read(z, rows, columns)[0]
            whole = region.astype(np.int64)
            if (whole != region).any() or whole.min(initial=0) < 0:
                value = region[(whole != region) | (whole < 0)][0]
                raise InputError(
                    f"{labels}: found the value {value:g}; expected labels: 0 = background, 1, 2, ... cells."
                )
            return whole

        stored: Stored = Regions(found.shape[1:], np.dtype(np.int64), read)
        if masks and (sections := _sections_of_mask(stored, block)):
            mask = Regions(
                stored.shape, np.dtype(np.float32), lambda *index: (read(*index) > 0).astype(np.float32)
            )
            areas, number = stack.enter_context(
                instances_by_block(mask, PostProcessing(0.5), beside, block=block)
            )
            if number > sections:
                logger.warning(
                    "%s: has one value besides 0, so each of its %d connected areas is a cell", labels, number
                )
                stored = areas
        yield stored, found.info


def _sections_of_mask(labels: Stored, block: int) -> int:
    """Return how many sections have pixels that are not 0, if these have one value only; otherwise 0.

    The image is read until a second value is found.
    """
    values: set[int] = set()
    sections = 0
    for z in range(labels.shape[0]):
        before = sections
        for area in blocks((labels.shape[1], labels.shape[2]), block):
            found = {*np.unique(labels[(z, *area.write)]).tolist()} - {0}
            values |= found
            if len(values) > 1:
                return 0
            if found:
                sections = before + 1
    return sections
