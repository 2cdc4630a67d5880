"""Folds of a cross-validation: contiguous blocks of volumes or sections."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipeline_lib.data.volumes import Volume
from pipeline_lib.imageio.boxes import number_within_volume
from pipeline_lib.imageio.naming import section_ranges, sections_text
from pipeline_lib.runtime.errors import InputError

ANNOTATED = ("train", "validation")  # splits of the volumes that are divided into folds


class Piece(NamedTuple):
    """A volume, or the part of a volume that lies in one fold.

    Parameters
    ----------
    volume : Volume
        Its row of the table, with its own name, sections and split.
    whole : str
        Name of the volume in the table.
    numbers : list of int
        Numbers of its sections in the file.
    fold : int or None
        Its fold; None for volumes of other splits.
    """

    volume: Volume
    whole: str
    numbers: list[int]
    fold: int | None


class Folds(NamedTuple):
    """Volumes of a cross-validation.

    Parameters
    ----------
    pieces : list of Piece
        All volumes. Those that lie in several folds are divided. Fold 0 is the validation split.
    names : list of list of str
        Names of the volumes in each fold.
    unused : dict of str to list of int
        Numbers of the sections that are in no fold, because they lie between two folds, by the names of the
        volumes in the table.
    """

    pieces: list[Piece]
    names: list[list[str]]
    unused: dict[str, list[int]]

    def described(self) -> list[str]:
        """Describe the volumes of each fold and the unused sections for the user.

        Returns
        -------
        list of str
            One line for each fold, and one for the unused sections if there are any.
        """
        lines = [f"fold {fold}: {', '.join(names)}" for fold, names in enumerate(self.names)]
        unused = [f"{name} {sections_text(numbers)}" for name, numbers in self.unused.items()]
        return lines + [f"in no fold, because they are next to one: sections {', '.join(unused)}"] * bool(
            unused
        )


def divide(volumes: Sequence[Volume], counts: Mapping[str, int], number: int) -> Folds:
    """Divide the training and validation volumes into folds.

    Folds are contiguous blocks of volumes in the order of the table, with about the same number of sections.
    If a fold would have less than half of its share, blocks consist of sections, and volumes are divided.
    Where neighbouring sections of one file would be in two folds, that of the later fold is left out, because
    neighbouring sections show nearly the same.

    Parameters
    ----------
    volumes : sequence of Volume
        Rows of the table of volumes.
    counts : dict of str to int
        Number of sections of each volume.
    number : int
        Number of folds.

    Returns
    -------
    Folds
        The divided volumes. Volumes of other splits remain as they are.

    Raises
    ------
    InputError
        If there are too few sections, parts of one section would be in two folds, a part of a volume would
        have the name of another volume, or a file numbers the boxes of a part by the sections of the whole
        volume.

    Examples
    --------
    A stack of 9 sections in 3 folds:

    >>> from pipeline_lib.data.folds import divide
    >>> from pipeline_lib.data.volumes import Volume
    >>> stack = Volume("vnc", "vnc.tif", "labels.tif", "", "train")
    >>> print(*divide([stack], {"vnc": 9}, 3).described(), sep="\\n")
    fold 0: vnc-fold0
    fold 1: vnc-fold1
    fold 2: vnc-fold2
    in no fold, because they are next to one: sections vnc 3,6
    >>> [piece.volume.sections for piece in divide([stack], {"vnc": 9}, 3).pieces]
    ['0-2', '4-5', '7-8']
    """
    sections = {volume.volume: _sections(volume, counts[volume.volume]) for volume in volumes}
    annotated = [volume for volume in volumes if volume.split in ANNOTATED]
    fold_of = _blocks([(volume.volume, sections[volume.volume]) for volume in annotated], number)
    file_of = {volume.volume: os.path.realpath(volume.images) for volume in annotated}
    at: dict[tuple[str, int], int] = {}  # fold of each section of a file
    for (name, section), fold in fold_of.items():
        if at.setdefault((file_of[name], section), fold) != fold:
            raise InputError(
                f"config key `folds`: parts of section {section} of {file_of[name]} would be in the folds "
                f"{at[file_of[name], section]}, {fold}. Choose other rows of the table, or fewer folds."
            )
    pieces: list[Piece] = []
    unused: dict[str, list[int]] = {}
    for volume in volumes:
        name, own = volume.volume, sections[volume.volume]
        if volume not in annotated:
            pieces.append(Piece(volume, name, own, None))
            continue
        numbers: dict[int, list[int]] = {}
        for section in own:
            fold, file = fold_of[name, section], file_of[name]
            if min(at.get((file, section + step), fold) for step in (-1, 1)) < fold:
                unused.setdefault(name, []).append(section)
            else:
                numbers.setdefault(fold, []).append(section)
        for fold, part in numbers.items():
            title = name if len(numbers) == 1 else f"{name}-fold{fold}"
            if title != name and title in sections:
                raise InputError(
                    f"config key `folds`: a part of the volume {name} would be called {title}, as another "
                    "volume is. Rename that one in the table."
                )
            piece = replace(
                volume,
                volume=title,
                sections=volume.sections if part == own else sections_text(part),
                split="train" if fold else "validation",
            )
            if part != own and volume.has_boxes and number_within_volume(volume.annotation or ""):
                raise InputError(
                    f"config key `folds`: the sections of {name} would be divided, but {volume.annotation} "
                    "counts the sections of the whole volume. Write the columns `section`, as in the image "
                    "file, x0, y0, x1 and y1, without `volume`."
                )
            pieces.append(Piece(piece, name, part, fold))
    names = [[piece.volume.volume for piece in pieces if piece.fold == fold] for fold in range(number)]
    if [] in names:
        raise InputError(
            f"config key `folds`: {len(fold_of)} annotated sections are too few for {number} folds, because "
            f"fold {names.index([])} has none that is not next to another fold. Choose fewer folds."
        )
    return Folds(pieces, names, unused)


def _blocks(volumes: Sequence[tuple[str, list[int]]], number: int) -> dict[tuple[str, int], int]:
    """Return the fold of each section of each volume.

    Blocks have whole volumes, or if one block would have less than half of its share, divided ones.
    """
    units = [(name, section) for name, sections in volumes for section in sections]
    whole: dict[tuple[str, int], int] = {}
    for name, sections in volumes:
        fold = len(whole) * number // len(units)
        whole |= {(name, section): fold for section in sections}
    sizes = Counter(whole.values())
    smallest = min(sizes[fold] for fold in range(number))
    if 2 * smallest * number >= len(units):
        return whole
    return {unit: k * number // len(units) for k, unit in enumerate(units)}


def _sections(volume: Volume, count: int) -> list[int]:
    """Return the numbers of the sections of a volume in its file."""
    ranges = section_ranges(volume.sections)
    return [*range(count)] if ranges is None else [number for part in ranges for number in part]
