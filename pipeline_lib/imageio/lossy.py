"""Find the two values of a black and white annotation that was saved as JPEG, which changes values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline_lib.imageio.fixes import black_and_white
from pipeline_lib.imageio.images import Images
from pipeline_lib.imageio.meaning import sampled_blocks
from pipeline_lib.runtime.errors import InputError

# Of masks and membranes of 1 px, JPEG of quality 30 makes 1.6 % of the pixels gray, and of quality 75 none.
_MOST_BETWEEN = 0.02  # largest share of pixels between black and white
_LEAST_RATIO = 10  # of the pixels of each hump to those between; an image of dark cells has few bright pixels
_LEAST_DISTANCE = 64  # gray levels


def two_values(images: Images) -> tuple[Images, str]:
    """Return an annotation without the changes of JPEG, as black (0) and white (255).

    Parameters
    ----------
    images : Images
        The annotation as it is stored.

    Returns
    -------
    Images
        The same if its values are those that were saved, or all are equal.
    str
        What was done, for the log; empty if nothing.

    Raises
    ------
    InputError
        If the values do not form two clear humps: one has fewer than 10 times as many pixels as there are
        between them, or more than 2 % of the pixels are between. "Between" are values at least a quarter of
        the distance of the humps away from both.
    """
    if not images.info.lossy:
        return images, ""
    counts = np.zeros(256, np.int64)
    for z in range(images.shape[1]):
        for block in sampled_blocks(images.shape[2:]):
            counts += np.bincount(images.read(z, *block.read).ravel(), minlength=256)
    found = np.flatnonzero(counts)
    if len(found) == 1:
        return images, ""
    centre = (int(found[0]) + int(found[-1])) // 2
    black, white = int(counts[: centre + 1].argmax()), centre + 1 + int(counts[centre + 1 :].argmax())
    levels, distance = np.arange(256), white - black
    low, high = black + distance / 4, white - distance / 4
    dark, bright = counts[levels < low].sum(), counts[levels > high].sum()
    between = counts.sum() - dark - bright
    share = f"{between / counts.sum():.2%} of the pixels from {low:g} to {high:g}"
    if (
        distance < _LEAST_DISTANCE
        or between > _MOST_BETWEEN * counts.sum()
        or _LEAST_RATIO * between > min(dark, bright)
    ):
        raise InputError(
            f"{images.path}: JPEG changes values, and those of this annotation do not form two clear humps: "
            f"most are {black} and {white}, with {share}. Save it as PNG or TIFF with the program that drew "
            "it. If it is black and white, make two values, 0 and 255, and name the new file in the table:\n"
            f"{black_and_white(images.path, images.info, (black + white) / 2)}"
        )
    threshold = (black + white) / 2

    def decode(z: int, rows: slice, columns: slice) -> np.ndarray:
        return np.where(images.decode(z, rows, columns) > threshold, np.uint8(255), np.uint8(0))

    told = (
        f"JPEG changes values: those up to {threshold:g} are read as 0 and others as 255, between two humps "
        f"at {black} and {white}, with {share}"
    )
    return replace(images, info=replace(images.info, lossy=False), decode=decode), told
