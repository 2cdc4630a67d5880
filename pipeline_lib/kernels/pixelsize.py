"""Sizes of pixels (um), as pairs (y, x), and their comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from pipeline_lib.runtime.errors import InputError

PixelSize: TypeAlias = tuple[float, float]
"""Height and width of a pixel (um)."""

#: Pixels whose sizes differ by more than this share are of different size.
TOLERANCE = 0.1
#: Two statements that differ by more than this share contradict each other; less is rounding.
ROUNDING = 0.01
#: Largest ratio of two pixel sizes between which images are resampled. Beyond, a unit is probably wrong.
LARGEST_RATIO = 10.0


def pair(size: float | Sequence[float] | None) -> PixelSize | None:
    """Return a pixel size that was given as one side or as a pair (y, x), as a pair; None if it is None.

    Raises `InputError` unless both are above 0 and finite.

    Examples
    --------
    >>> from pipeline_lib.kernels.pixelsize import pair
    >>> pair(0.5), pair([0.5, 0.4])
    ((0.5, 0.5), (0.5, 0.4))
    """
    if size is None:
        return None
    y, x = size if isinstance(size, Sequence) else (size, size)
    if not all(0 < length < math.inf for length in (y, x)):
        raise InputError(f"`pixel_size`: found {size}, expected um above 0, such as 0.25 or [0.5, 0.25].")
    return float(y), float(x)


def differs(size: PixelSize | None, other: PixelSize | None, tolerance: float = TOLERANCE) -> bool:
    """Return whether height or width of two pixels, if both are known, differ by more than `tolerance`.

    Examples
    --------
    >>> from pipeline_lib.kernels.pixelsize import differs
    >>> differs((0.5, 0.5), (0.5, 0.54)), differs((0.5, 0.5), (0.5, 0.56)), differs(None, (0.5, 0.5))
    (False, True, False)
    """
    if size is None or other is None:
        return False
    return any(max(a, b) > min(a, b) * (1 + tolerance) for a, b in zip(size, other, strict=True))


def require_ratio(size: PixelSize, of_model: PixelSize, what: str) -> None:
    """Raise `InputError` about `what` if pixel sizes are too different to resample an image."""
    if differs(size, of_model, LARGEST_RATIO - 1):
        raise InputError(
            f"{what}: pixels of {text(size)}, but the model is trained with {text(of_model)}. Images are "
            f"resampled up to a factor of {LARGEST_RATIO:g}. Correct the unit: state `pixel_size` in um."
        )


def is_square(size: PixelSize) -> bool:
    """Return whether height and width of a pixel are equal, up to rounding."""
    return not differs(size, (size[1], size[0]), ROUNDING)


def side(size: PixelSize) -> float:
    """Return the side of the square that has the area of a pixel (um)."""
    return size[0] if size[0] == size[1] else math.sqrt(size[0] * size[1])


def typical(sizes: Mapping[str, PixelSize | None]) -> PixelSize | None:
    """Return the median pixel size of volumes by their names; None if any is not known.

    Examples
    --------
    >>> from pipeline_lib.kernels.pixelsize import typical
    >>> typical({"a": (0.5, 0.5), "b": (0.5, 0.5), "c": (1.0, 1.0)})
    (0.5, 0.5)
    """
    known = [size for size in sizes.values() if size is not None]
    if not known or len(known) < len(sizes):
        return None
    y, x = np.median(known, axis=0)
    return float(y), float(x)


def text(size: PixelSize | None) -> str:
    """Return a pixel size for messages.

    Examples
    --------
    >>> from pipeline_lib.kernels.pixelsize import text
    >>> text((0.5, 0.5)), text((0.5, 0.4)), text(None)
    ('0.5 um', '0.5 x 0.4 um (height x width)', 'unknown')
    """
    if size is None:
        return "unknown"
    y, x = (f"{length:.4g}" for length in size)
    return f"{y} um" if y == x else f"{y} x {x} um (height x width)"
