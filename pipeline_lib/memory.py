"""What jobs need of memory, measured (docs/measurements/performance.md): known before hours of work, in the dry run.

Free of torch and numba, which the dry run does without. Bytes, and px of a section or of a tile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline_lib.runtime.errors import InputError

PROCESS_BYTES = 250_000_000  # Python and its libraries, without torch
TORCH_PROCESS_BYTES = 450_000_000
# Bytes per pixel of a section for each thread, those of the sections held and prepared ahead among them
SCORING_BYTES_PER_PIXEL = 45
CHOICE_BYTES_PER_PIXEL = 35
VALIDATION_BYTES_PER_PIXEL = 50
MEAN_IMAGE_BYTES_PER_PIXEL = 160  # and channel, while it is written as JSON
BLOCK_BYTES_PER_PIXEL = 40  # of the hungriest stage that works in blocks
KEPT = 1.6  # bytes resident per byte in use, at most, where freed memory is kept (`passes.keep_memory`)
CHUNK_CACHE_BYTES = 2**30  # at most, in training


@dataclass(frozen=True)
class Need:
    """The memory that a job cannot do without: which `job`, how many `bytes`, and what helps where it is too
    much."""

    job: str
    bytes: float
    remedy: str


def require(needs: Iterable[Need], memory_gb: float) -> Need:
    """The largest of `needs`; `InputError` where `memory_gb` does not hold it."""
    largest = max(needs, key=lambda need: need.bytes)
    gigabytes = largest.bytes / 1e9
    if gigabytes > memory_gb:
        raise InputError(
            f"config key `memory_gb`: {memory_gb:g}, but {largest.job} takes {gigabytes:.1f} GB. Set "
            f"`memory_gb: {gigabytes + 0.5:.0f}` where the machine has as much, or {largest.remedy}."
        )
    return largest


def scoring(volume: str, section: tuple[int, int]) -> Need:
    """Of the scores and the threshold of a volume; one thread at least looks at a whole section."""
    remedy = "cut its images into smaller ones, or give it the split `predict`, which is not scored"
    return _whole_sections("scoring", volume, section, PROCESS_BYTES, SCORING_BYTES_PER_PIXEL, remedy)


def validation(volume: str, section: tuple[int, int]) -> Need:
    """Of looking at a validation volume during the training."""
    remedy = "cut its images into smaller ones"
    return _whole_sections(
        "validating on", volume, section, TORCH_PROCESS_BYTES, VALIDATION_BYTES_PER_PIXEL, remedy
    )


def _whole_sections(
    what: str, volume: str, section: tuple[int, int], process: int, per_pixel: int, remedy: str
) -> Need:
    height, width = section
    job = f"{what} volume {volume} (sections of {height:,} x {width:,} px, each as a whole)"
    return Need(job, process + per_pixel * height * width, remedy)


def mean_image(volume: str, section: tuple[int, int], channels: int) -> Need:
    """Of the normalisation `mean_image`."""
    height, width = section
    return Need(
        f"the mean image of volume {volume} ({height:,} x {width:,} px)",
        PROCESS_BYTES + MEAN_IMAGE_BYTES_PER_PIXEL * channels * height * width,
        "set `normalisation: mean_std`",
    )


def blockwise(block: int) -> Need:
    """Of the stages that work in blocks."""
    return Need(
        f"work in blocks of {block:,} px", PROCESS_BYTES + BLOCK_BYTES_PER_PIXEL * block**2, "lower `block`"
    )


def threads_for(section: tuple[int, int], bytes_per_pixel: int, memory_gb: float, threads: int) -> int:
    """As many of `threads` as `memory_gb` has room for, each at work on a `section` of (y, x) px.

    Raises `InputError` where it has no room for one.
    """
    height, width = section
    own = height * width * bytes_per_pixel
    fitting = int((memory_gb * 1e9 - PROCESS_BYTES) // own)
    if fitting < 1:
        raise InputError(
            f"sections of {height:,} x {width:,} px are scored whole, which takes "
            f"{(own + PROCESS_BYTES) / 1e9:.1f} GB, but `memory_gb` is {memory_gb:g}. Raise it where the "
            "machine has more, or score a part: crop or split the volume in the table of volumes."
        )
    return min(threads, fitting)
