"""Which sections of a volume the viewer of the report shows, and its file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from pipeline_lib.figures.colouring import Window
from pipeline_lib.figures.parts import middle
from pipeline_lib.kernels.pixelsize import PixelSize
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.types import Json

#: Pixels of all sections in a report: the 30 annotated ones of ISBI 2012 and 2 others, in less than 6 MB.
REPORT_PIXELS = 8_400_000
#: Volumes without annotation get this part of the pixels if the others need all.
NOT_ANNOTATED = 16
#: Smallest and largest side of the part of a section that is shown (px).
SMALLEST, LARGEST = 512, 1024


def share_pixels(shapes: Sequence[tuple[int, int, int]], annotated: Sequence[bool], pixels: int) -> list[int]:
    """Divide the pixels of a report among its volumes.

    Annotated volumes come first, because they show errors. A sixteenth remains for the others. What small
    volumes do not need, larger ones get.

    Parameters
    ----------
    shapes : sequence of (int, int, int)
        Shapes of the volumes (z, y, x).
    annotated : sequence of bool
        Whether each volume has an annotation.
    pixels : int
        Number of pixels to show.

    Returns
    -------
    list of int
        Number of pixels of each volume; their sum is at most `pixels`.

    Examples
    --------
    >>> from pipeline_lib.figures.shown import share_pixels
    >>> share_pixels([(1, 10, 10), (6, 10, 10), (9, 10, 10)], [True, True, False], 1600)
    [100, 600, 900]
    >>> share_pixels([(1, 10, 10), (60, 10, 10), (9, 10, 10)], [True, True, False], 1600)
    [100, 1400, 100]
    """
    sizes = [z * min(y, LARGEST) * min(x, LARGEST) for z, y, x in shapes]
    first, others = ([k for k, own in enumerate(annotated) if own == kind] for kind in (True, False))
    reserved = sum(_fill([sizes[k] for k in others], pixels // NOT_ANNOTATED))
    shares = dict(zip(first, _fill([sizes[k] for k in first], pixels - reserved), strict=True))
    shares |= zip(others, _fill([sizes[k] for k in others], pixels - sum(shares.values())), strict=True)
    return [shares[k] for k in range(len(sizes))]


def _fill(sizes: Sequence[int], pixels: int) -> list[int]:
    """Divide pixels equally, but give no volume more than its size."""
    shares = [0] * len(sizes)
    for done, k in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[k] = min(sizes[k], pixels // (len(sizes) - done))
        pixels -= shares[k]
    return shares


def shown_part(shape: tuple[int, int, int], pixels: int) -> tuple[Window, int]:
    """Return the part of the sections of a volume that is shown, and how many sections.

    Parameters
    ----------
    shape : (int, int, int)
        Shape of the volume (z, y, x).
    pixels : int
        Number of pixels to show.

    Returns
    -------
    window : (slice, slice)
        Rows and columns: the middle, if a side is longer than 512 to 1024 px.
    number : int
        Number of sections, at least 1.
    """
    window = middle(shape[1:], min(max(math.isqrt(pixels), SMALLEST), LARGEST))
    return window, max(pixels // math.prod(edge.stop - edge.start for edge in window), 1)


def describe_part(shape: tuple[int, ...], pixel_size: PixelSize | None, window: Window) -> Json:
    """Return what the viewer knows about the sections of a volume, as entries of its file.

    Parameters
    ----------
    shape : tuple of int
        Shape of the raw images, (c, z, y, x).
    pixel_size : tuple of float or None
        Height and width of a pixel (um).
    window : (slice, slice)
        Rows and columns that are shown.

    Returns
    -------
    dict
        `sections`, `size`, `window` (top, left, height, width) and `pixel_size`.
    """
    _, sections, height, width = shape
    return {
        "sections": sections,
        "size": [height, width],
        "window": [*(edge.start for edge in window), *(edge.stop - edge.start for edge in window)],
        "pixel_size": None if pixel_size is None else [*pixel_size],
    }


def choose_sections(number: int, shown: int, worst: Sequence[int] = ()) -> list[int]:
    """Choose the sections of a volume that are shown.

    Parameters
    ----------
    number : int
        Number of sections of the volume.
    shown : int
        Number of sections to choose, at least 1.
    worst : sequence of int, optional
        Sections with errors, the worst first. Up to half of the chosen ones are taken from these.

    Returns
    -------
    list of int
        Sections in ascending order: all of them, or the first ones of `worst` and others at even distances.

    Examples
    --------
    >>> from pipeline_lib.figures.shown import choose_sections
    >>> choose_sections(3, 5), choose_sections(30, 4), choose_sections(30, 4, [7])
    ([0, 1, 2], [3, 11, 18, 26], [4, 7, 15, 25])
    """
    if shown >= number:
        return [*range(number)]
    chosen = {*[*dict.fromkeys(worst)][: shown // 2]}
    missing = shown - len(chosen)
    others = [z for z in range(number) if z not in chosen]
    return sorted(chosen | {others[(2 * k + 1) * len(others) // (2 * missing)] for k in range(missing)})


def write_layers(described: Json, output: str | Path) -> None:
    """Write the content of a file of layers (JSON), without blanks."""
    with replacing(output) as temporary:
        temporary.write_text(json.dumps(described, separators=(",", ":")) + "\n")
