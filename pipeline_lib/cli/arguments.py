"""Types of arguments that several commands take."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from pipeline_lib.api.segmenting import Options


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


def at_least(least: int) -> Callable[[str], int]:
    """Return a converter of texts to whole numbers, for `type` of an argument.

    Parameters
    ----------
    least : int
        Smallest number that is accepted.

    Returns
    -------
    callable
        It returns the number of a text, or raises `argparse.ArgumentTypeError`.
    """

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least {least}")
        return int(text)

    return convert


def finite(text: str) -> float:
    """Return the finite number of a text, for `type` of an argument.

    Parameters
    ----------
    text : str
        Number.

    Returns
    -------
    float
        The number.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is no finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"found {text}, expected a number")
    return number


def positive(text: str) -> float:
    """Return the positive number of a text, for `type` of an argument.

    Parameters
    ----------
    text : str
        Number.

    Returns
    -------
    float
        The number.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is no finite number above 0.
    """
    number = finite(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number above 0")
    return number


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of commands that segment images: how to read them, and how to compute.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("--stack", action="store_true", help="a folder in IMAGES is one stack of its files")
    parser.add_argument(
        "--channels",
        type=channel,
        nargs="+",
        metavar="C",
        help="channels to read, by number or name, as `dataset.channels`",
    )
    parser.add_argument(
        "--scale", type=positive, metavar="FACTOR", help="multiply gray levels, as the column `scale`"
    )
    parser.add_argument(
        "--offset", type=finite, metavar="LEVEL", help="subtract first, as the column `offset`"
    )
    parser.add_argument(
        "--pixel-size",
        type=pixel_size,
        metavar="UM",
        help="side of a pixel in um; default: as the file states",
    )
    parser.add_argument(
        "--match-pixel-size", action="store_true", help="resample images to the pixel size of the model"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument(
        "--at-a-time",
        type=at_least(1),
        metavar="N",
        help="images at a time; default: what the machine allows",
    )
    parser.add_argument(
        "--memory", type=positive, default=8.0, metavar="GB", help="memory to use; default: 8"
    )


def options_of(parsed: argparse.Namespace) -> Options:
    """Return the options of a command that segments images, which also has the arguments `model` and `out`.

    Parameters
    ----------
    parsed : argparse.Namespace
        Result of the parser.

    Returns
    -------
    Options
        Model, folder, and how to segment.
    """
    return Options(
        parsed.model,
        parsed.out,
        scale=parsed.scale,
        offset=parsed.offset,
        channels=parsed.channels,
        pixel_size=parsed.pixel_size,
        match_pixel_size=parsed.match_pixel_size,
        device=parsed.device,
        at_a_time=parsed.at_a_time,
        memory=parsed.memory,
    )
