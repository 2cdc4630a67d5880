"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
import math


def pixel_size(text: str) -> tuple[float, float]:
    """Return a pixel size (y, x) in um, given as one number or as two, such as `0.5` or `0.5,0.4`.

    Parameters
    ----------
    text : str
        The argument.

    Returns
    -------
    tuple of float
        Height and width of a pixel (um).

    Raises
    ------
    argparse.ArgumentTypeError
        If it is not one or two positive numbers.

    Examples
    --------
    >>> from pipeline_lib.cli.arguments import pixel_size
    >>> pixel_size("0.5"), pixel_size("0.5,0.4")
    ((0.5, 0.5), (0.5, 0.4))
    """
    try:
        sizes = [float(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or not all(0 < size < math.inf for size in sizes):
        raise argparse.ArgumentTypeError(
            f"found {text!r}, expected the side of a pixel in um, such as 0.5, or height and width: 0.5,0.4"
        )
    return sizes[0], sizes[-1]


def channel(text: str) -> int | str:
    """Return the number of a channel, or its name if the text is no number.

    Parameters
    ----------
    text : str
        The argument.

    Returns
    -------
    int or str
        Number, from 0, or name.

    Examples
    --------
    >>> from pipeline_lib.cli.arguments import channel
    >>> channel("2"), channel("DAPI")
    (2, 'DAPI')
    """
    return int(text) if text.isdecimal() else text
