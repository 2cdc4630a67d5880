"""Colours that colour-blind readers can distinguish, as codes. This module needs no matplotlib."""

from __future__ import annotations

# Okabe & Ito 2008, "Color universal design"
ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
BACKGROUND = "#23272e"
HATCH = "#8b949e"  # stripes on pixels that are not annotated
#: Colours of the kinds of errors (`metrics.Cause.kind`).
CAUSE_COLOURS = {"merged": BLUE, "split": VERMILLION, "missed": GREEN, "false": PURPLE, "outline": YELLOW}

_OF_CLASSES = (SKY, ORANGE, GREEN, YELLOW, PURPLE, VERMILLION, BLUE)
_TOWARDS = ("#000000", "#ffffff", "#000000")  # of the first, second and third seven classes
_SHARES = (0.0, 0.55, 0.5)


def class_colours(number: int) -> list[str]:
    """Return the colours of classes: of the background, then of the others in the order of their numbers.

    The colour of a class depends only on its number, so it is the same in all files and pictures of a run.
    After seven classes the colours are paler, then darker, then they repeat.

    Parameters
    ----------
    number : int
        Number of classes, with the background.

    Returns
    -------
    list of str
        Codes such as "#56b4e9".

    Examples
    --------
    >>> from pipeline_lib.figures.palette import class_colours
    >>> class_colours(3)
    ['#23272e', '#56b4e9', '#e69f00']
    """
    colours = [BACKGROUND]
    for k in range(number - 1):
        seven, place = divmod(k, len(_OF_CLASSES))
        own, other = _parts(_OF_CLASSES[place]), _parts(_TOWARDS[seven % 3])
        share = _SHARES[seven % 3]
        mixed = (round(one * (1 - share) + two * share) for one, two in zip(own, other, strict=True))
        colours.append("#" + "".join(f"{part:02x}" for part in mixed))
    return colours


def _parts(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))
