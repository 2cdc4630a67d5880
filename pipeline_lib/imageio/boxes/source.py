"""What all readers of boxes share: the boxes that a file states, its text, and its numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeAlias

from pipeline_lib.imageio.series import LISTED
from pipeline_lib.imageio.tokens import composed
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import decode, require_file

#: Class of boxes in files without classes.
DEFAULT_CLASS = "cell"
#: What the corners of a box can be, and what is added to the first and to the last ones for edges from 0.
COORDINATES = {"pixels_from_1": (-1, 0), "pixels_from_0": (0, 1), "edges": (0, 0)}

_FLAGS = {"0": False, "false": False, "": False, "1": True, "true": True}
#: Largest file that is read (bytes). The annotations of the training images of COCO have 450 MB.
LARGEST = 512 * 2**20


#: Returns a text for a message; only called if there is one, because files have many boxes.
Place: TypeAlias = Callable[[], str]


@dataclass
class Stated:
    """Boxes of one image as a file states them.

    Parameters
    ----------
    file : Path
        The file.
    size : tuple of int or None, default None
        Height and width of the image (px) that the file states.
    image : str, default ""
        Name of the image that the file states, if files are paired by their own names.
    boxes : list of tuple of float
        Corners (y0, x0, y1, x1) in px, as stated.
    classes, ignored, scores : list of str, bool and float
        Of each box. A score is NaN if none is stated.
    places : list of callable
        Return where a box is in the file and what is written there, for messages.
    """

    file: Path
    size: tuple[int, int] | None = None
    image: str = ""
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    ignored: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)

    def add(
        self,
        box: tuple[float, float, float, float],
        name: str,
        place: Place,
        ignored: bool = False,
        score: float = math.nan,
    ) -> None:
        """Append a box."""
        self.boxes.append(box)
        self.classes.append(name)
        self.places.append(place)
        self.ignored.append(ignored)
        self.scores.append(score)


class Source(NamedTuple):
    """A file or folder with boxes.

    Parameters
    ----------
    format : str
        What was found, for messages.
    names : list of str
        Name of the image of each entry; empty for the only one.
    read : callable
        Returns the boxes of an entry by its number.
    notes : list of str
        What was inferred.
    numbers : list of int, optional
        Section of each entry, if the file states it.
    of_volume : bool, default False
        Whether these numbers count the selected sections of the volume, not those of the image file.
    corners : str, optional
        What corners usually are (one of `COORDINATES`), if the format does not define it.
    written : {"corners", "size", ""}, default ""
        Whether the last two of four numbers are the right and lower edge, or width and height.
    others : tuple of str, default ()
        Other volumes in a table, for messages.
    files : sequence of Path, default ()
        Files with names of classes.
    """

    format: str
    names: list[str]
    read: Callable[[int], Stated]
    notes: list[str]
    numbers: list[int] | None = None
    of_volume: bool = False
    corners: str | None = None
    written: str = ""
    others: Sequence[str] = ()
    files: Sequence[Path] = ()


def content_of(path: Path, largest: int = LARGEST) -> bytes:
    """Return the bytes of a file; raise `InputError` if it cannot be read."""
    try:
        require_file(path, largest)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: the boxes cannot be read ({error.strerror}). Check the path.") from error


def text_of(path: Path, largest: int = LARGEST) -> str:
    """Return the text of a file in UTF-8 or UTF-16; raise `InputError` if it is none."""
    raw = content_of(path, largest)
    try:
        return decode(raw)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not a text in UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error


def number_in(text: str, place: Place) -> float:
    """Return the finite number in a text; raise `InputError` that begins with `place` otherwise."""
    try:
        number = float(text)
        if math.isfinite(number) and "_" not in text:
            return number
    except ValueError:
        pass
    comma = " Write decimal points instead of commas." if re.fullmatch(r"\s*-?\d+,\d+\s*", text) else ""
    shown = f"`{text:.60}`" if text else "nothing"
    raise InputError(f"{place()}: found {shown}, expected a number.{comma}")


def flag_in(value: object, place: Place) -> bool:
    """Return whether 0 or 1 is set; raise `InputError` that begins with `place` for other values."""
    found = _FLAGS.get(str(value).strip().lower())
    if found is None:
        raise InputError(f"{place()}: found `{value!s:.60}`, expected 0 or 1.")
    return found


def listed(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are, for messages."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"{name:.80}" for name in names[:LISTED]) + more


def file_name(path: str) -> str:
    """Return the name of a file in lower case, without its folder, for comparisons."""
    return composed(re.split(r"[\\/]", path)[-1]).casefold()


def stem_of(path: str) -> str:
    """Return the name of a file in lower case, without its folder and suffix, for comparisons."""
    return Path(file_name(path)).stem
