"""Memory that jobs need. The dry run compares it with `memory_gb`, before hours of work.

The numbers were measured, see :doc:`/measurements/performance`. This module does not import torch or numba,
because the dry run works without them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Offsets

PROCESS_BYTES = 250_000_000  # Python and its libraries, without torch
TORCH_PROCESS_BYTES = 450_000_000
# For each thread and each pixel of a section, including the sections that are prepared ahead
SCORING_BYTES_PER_PIXEL = 45
CAUSES_BYTES_PER_PIXEL = 65  # of the errors
CHOICE_BYTES_PER_PIXEL = 35
# Of the methods that label a whole section; a mutex watershed also holds affinities and edges
METHOD_BYTES_PER_PIXEL = {"watershed": 20, "mutex_watershed": 10, "multicut": 40}
AFFINITY_BYTES, EDGE_BYTES = 4, 22
EDGE_STRIDE = 4  # at most, px: `mutex_watershed.STRIDE`, in both directions
VALIDATION_BYTES_PER_PIXEL = 50
VALIDATION_BYTES_PER_OFFSET = 2.5
MEAN_IMAGE_BYTES_PER_PIXEL = 160  # for each channel, while the mean image is written as JSON
# For each channel of neighbouring sections: for each pixel of a tile, and of the patches of a batch
CONTEXT_TILE_BYTES = 12
CONTEXT_PATCH_BYTES = 70
BLOCK_BYTES_PER_PIXEL = 40  # of the stage that needs most among those that work in blocks
KEPT = 1.6  # resident memory / used memory, at most, if freed memory is kept (`passes.keep_memory`)
CHUNK_CACHE_BYTES = 2**30  # limit in training, for all volumes together
PIXELS_AT_ONCE = 2**17  # of small patches that a training step processes together


@dataclass(frozen=True)
class Need:
    """The memory that a job needs at least.

    Parameters
    ----------
    job : str
        The job, as a noun phrase for messages.
    bytes : float
        Memory in bytes.
    remedy : str
        What the user can do to lower it, as an imperative for messages.
    """

    job: str
    bytes: float
    remedy: str


def require(needs: Iterable[Need], memory_gb: float) -> Need:
    """Return the largest of several needs, and check that it fits into `memory_gb`.

    Parameters
    ----------
    needs : iterable of Need
        Needs of all jobs of a run.
    memory_gb : float
        The setting `memory_gb` in GB (10^9 bytes).

    Returns
    -------
    Need
        The largest need.

    Raises
    ------
    InputError
        If it exceeds `memory_gb`.
    """
    largest = max(needs, key=lambda need: need.bytes)
    gigabytes = largest.bytes / 1e9
    if gigabytes > memory_gb:
        raise InputError(
            f"config key `memory_gb`: {memory_gb:g}, but {largest.job} needs {gigabytes:.1f} GB. Set "
            f"`memory_gb: {gigabytes + 0.5:.0f}` if the machine has that much memory, or {largest.remedy}."
        )
    return largest


def patches_at_once(tile: int, batch: int) -> int:
    """Return how many patches of a batch a training step processes together.

    Small patches are faster together. The number depends on nothing else, so that it is the same on all
    machines.

    Parameters
    ----------
    tile : int
        Side of the patches (px).
    batch : int
        Patches per iteration.

    Returns
    -------
    int
        At least 1, at most `batch`.

    Examples
    --------
    >>> from pipeline_lib.memory import patches_at_once
    >>> patches_at_once(95, 64), patches_at_once(572, 4)
    (14, 1)
    """
    return min(max(PIXELS_AT_ONCE // tile**2, 1), batch)


def scoring(volume: str, section: tuple[int, int], method: str = "components", offsets: Offsets = ()) -> Need:
    """Return the need of scoring a volume: at least one thread holds a whole section.

    Parameters
    ----------
    volume : str
        Name of the volume.
    section : tuple of int
        Height and width of its sections in px.
    method : str, default "components"
        Way from predictions to instances (`instances.methods.METHODS`).
    offsets : tuple of (int, int), default ()
        Offsets of the affinities (px).

    Returns
    -------
    Need
        Memory for computing scores and choosing the threshold.
    """
    remedy = "cut its images into smaller ones, or give it the split `predict`, which is not scored"
    per_pixel = max(with_method(SCORING_BYTES_PER_PIXEL, method, offsets), CAUSES_BYTES_PER_PIXEL)
    return _whole_sections("scoring", volume, section, PROCESS_BYTES, per_pixel, remedy)


def labelling(volume: str, section: tuple[int, int], method: str, offsets: Offsets = ()) -> Need:
    """Return the need of a method that labels a whole section.

    Parameters
    ----------
    volume : str
        Name of the volume.
    section : tuple of int
        Height and width of its sections in px.
    method : {"watershed", "mutex_watershed", "multicut"}
        Way from predictions to instances.
    offsets : tuple of (int, int), default ()
        Offsets of the affinities (px).

    Returns
    -------
    Need
        Memory for labelling one section.
    """
    remedy = "cut its images into smaller ones, or use a model with `segmentation.method: components`"
    what = f"the {method.replace('_', ' ')} of"
    return _whole_sections(what, volume, section, PROCESS_BYTES, _of_method(method, offsets), remedy)


def with_method(bytes_per_pixel: int, method: str, offsets: Offsets = ()) -> int:
    """Return the memory of a job that scores sections with a method, for each pixel of a section.

    Parameters
    ----------
    bytes_per_pixel : int
        Memory for scores of connected components, which is enough for those of a watershed.
    method : str
        Way from predictions to instances (`instances.methods.METHODS`).
    offsets : tuple of (int, int), default ()
        Offsets of the affinities (px).

    Returns
    -------
    int
        Bytes per pixel.
    """
    more = 0 if method in ("components", "watershed") else _of_method(method, offsets)
    return bytes_per_pixel + more


def _of_method(method: str, offsets: Offsets) -> int:
    """Return the memory of a method for each pixel of a section."""
    steps = [min(EDGE_STRIDE, max(map(abs, own))) for own in offsets] if method == "mutex_watershed" else []
    return METHOD_BYTES_PER_PIXEL[method] + math.ceil(sum(AFFINITY_BYTES + EDGE_BYTES / n**2 for n in steps))


def validation(volume: str, section: tuple[int, int], offsets: Offsets = ()) -> Need:
    """Return the need of scoring a validation volume during the training.

    Parameters
    ----------
    volume : str
        Name of the volume.
    section : tuple of int
        Height and width of its sections in px.
    offsets : tuple of (int, int), default ()
        Offsets of the affinities that the network learns (px).

    Returns
    -------
    Need
        Memory of the training while it validates.
    """
    remedy = "cut its images into smaller ones"
    per_pixel = math.ceil(VALIDATION_BYTES_PER_PIXEL + VALIDATION_BYTES_PER_OFFSET * len(offsets))
    return _whole_sections("validating on", volume, section, TORCH_PROCESS_BYTES, per_pixel, remedy)


def _whole_sections(
    what: str, volume: str, section: tuple[int, int], process: int, per_pixel: int, remedy: str
) -> Need:
    """Return the need of a job that holds a whole section."""
    height, width = section
    job = f"{what} volume {volume} (sections of {height:,} x {width:,} px, each as a whole)"
    return Need(job, process + per_pixel * height * width, remedy)


def mean_image(volume: str, section: tuple[int, int], channels: int) -> Need:
    """Return the need of the normalisation `mean_image`.

    Parameters
    ----------
    volume : str
        Name of a training volume.
    section : tuple of int
        Height and width of its sections in px.
    channels : int
        Number of channels.

    Returns
    -------
    Need
        Memory for measuring and writing the mean image.
    """
    height, width = section
    return Need(
        f"the mean image of volume {volume} ({height:,} x {width:,} px)",
        PROCESS_BYTES + MEAN_IMAGE_BYTES_PER_PIXEL * channels * height * width,
        "set `normalisation: mean_std`",
    )


def blockwise(block: int) -> Need:
    """Return the need of the stages that work in blocks.

    Parameters
    ----------
    block : int
        Side of a block in px.

    Returns
    -------
    Need
        Memory for one block.
    """
    return Need(
        f"work in blocks of {block:,} px", PROCESS_BYTES + BLOCK_BYTES_PER_PIXEL * block**2, "lower `block`"
    )


def threads_for(section: tuple[int, int], bytes_per_pixel: int, memory_gb: float, threads: int) -> int:
    """Return how many threads can work at once, each on a whole section.

    Parameters
    ----------
    section : tuple of int
        Height and width of a section in px.
    bytes_per_pixel : int
        Memory of each thread for each pixel of its section, in bytes.
    memory_gb : float
        Memory of the process in GB (10^9 bytes).
    threads : int
        Largest number of threads.

    Returns
    -------
    int
        Number of threads, from 1 to `threads`.

    Raises
    ------
    InputError
        If the memory is too small for one thread.
    """
    height, width = section
    own = height * width * bytes_per_pixel
    fitting = int((memory_gb * 1e9 - PROCESS_BYTES) // own)
    if fitting < 1:
        raise InputError(
            f"sections of {height:,} x {width:,} px are scored as a whole, which takes "
            f"{(own + PROCESS_BYTES) / 1e9:.1f} GB, but `memory_gb` is {memory_gb:g}. Raise it if the "
            "machine has more memory, or crop the images of the volume to smaller sections."
        )
    return min(threads, fitting)
