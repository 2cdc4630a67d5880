"""Folds of a cross-validation: contiguous blocks of volumes or sections."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pipeline_lib.data.volumes import Volume
from pipeline_lib.imageio.naming import section_ranges
from pipeline_lib.runtime.errors import InputError

ANNOTATED = ("train", "validation")  # splits of the volumes that are divided into folds


class Folds(NamedTuple):
    """Volumes of a cross-validation.

    Attributes
    ----------
    volumes : list of Volume
        All volumes. Those that lie in several folds are divided; fold 0 is the validation split.
    names : list of list of str
        Names of the volumes in each fold.
    numbers : dict of str to list of int
        Numbers of the sections of each volume.
    whole : dict of str to str
        Name that each volume had before it was divided.
    unused : dict of str to list of int
        Numbers of the sections that are in no fold, because they lie between two folds, by the names of the
        volumes that they belonged to.
    """

    volumes: list[Volume]
    names: list[list[str]]
    numbers: dict[str, list[int]]
    whole: dict[str, str]
    unused: dict[str, list[int]]

    def described(self) -> list[str]:
        """Return the volumes of each fold and the unused sections as lines of text."""
        lines = [f"fold {fold}: {', '.join(names)}" for fold, names in enumerate(self.names)]
        unused = [f"{name} {as_text(numbers)}" for name, numbers in self.unused.items()]
        return lines + [f"in no fold, because they are next to one: sections {', '.join(unused)}"] * bool(
            unused
        )


def divide(volumes: Sequence[Volume], counts: Mapping[str, int], number: int) -> Folds:
    """Divide the training and validation volumes into folds.

    Folds are contiguous blocks in the order of the table. If there are fewer volumes than folds, the blocks
    consist of sections, and volumes are divided. Where neighbouring sections of one file would be in two
    folds, that of the later fold is left out, because neighbouring sections show nearly the same.

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
        If there are too few sections, or parts of one section would be in two folds.

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
    >>> [volume.sections for volume in divide([stack], {"vnc": 9}, 3).volumes]
    ['0-2', '4-5', '7-8']
    """
    sections = {volume.volume: _sections(volume, counts[volume.volume]) for volume in volumes}
    annotated = [volume for volume in volumes if volume.split in ANNOTATED]
    units = [(volume, section) for volume in annotated for section in sections[volume.volume]]
    if len(annotated) >= number:
        block = {volume.volume: k * number // len(annotated) for k, volume in enumerate(annotated)}
        fold_of = [block[volume.volume] for volume, _ in units]
    else:
        fold_of = [k * number // len(units) for k in range(len(units))]
    places: dict[tuple[str, int], set[int]] = {}
    for (volume, section), fold in zip(units, fold_of, strict=True):
        places.setdefault((_file(volume), section), set()).add(fold)
    for (file, section), folds in places.items():
        if len(folds) > 1:
            raise InputError(
                f"config key `folds`: parts of section {section} of {file} would be in the folds "
                f"{', '.join(map(str, sorted(folds)))}. Choose other rows of the table, or fewer folds."
            )
    numbers: dict[str, dict[int, list[int]]] = {volume.volume: {} for volume in annotated}
    unused: dict[str, list[int]] = {}
    for (volume, section), fold in zip(units, fold_of, strict=True):
        near = [places.get((_file(volume), section + step), {fold}) for step in (-1, 1)]
        if min(min(folds) for folds in near) < fold:
            unused.setdefault(volume.volume, []).append(section)
        else:
            numbers[volume.volume].setdefault(fold, []).append(section)
    found: list[Volume] = []
    names: list[list[str]] = [[] for _ in range(number)]
    others = [volume.volume for volume in volumes if volume not in annotated]
    chosen, wholes = {name: sections[name] for name in others}, {name: name for name in others}
    for volume in volumes:
        if volume not in annotated:
            found.append(volume)
            continue
        pieces = numbers[volume.volume]
        for fold, own in pieces.items():
            whole = len(own) == len(sections[volume.volume])
            name = volume.volume if len(pieces) == 1 else f"{volume.volume}-fold{fold}"
            found.append(
                replace(
                    volume,
                    volume=name,
                    sections=volume.sections if whole else as_text(own),
                    split="train" if fold else "validation",
                )
            )
            names[fold].append(name)
            chosen[name], wholes[name] = own, volume.volume
    if empty := [fold for fold, own in enumerate(names) if not own]:
        raise InputError(
            f"config key `folds`: {len(units)} annotated sections are too few for {number} folds, because "
            f"fold {empty[0]} has none that is not next to another fold. Choose fewer folds."
        )
    return Folds(found, names, chosen, wholes, unused)


def as_text(numbers: Sequence[int]) -> str:
    """Return section numbers as in the table of volumes.

    Parameters
    ----------
    numbers : sequence of int
        Ascending numbers.

    Returns
    -------
    str
        Ranges, separated by commas.

    Examples
    --------
    >>> as_text([0, 1, 2, 5])
    '0-2,5'
    """
    runs = [
        [number for _, number in run]
        for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _sections(volume: Volume, count: int) -> list[int]:
    """Return the numbers of the sections of a volume in its file."""
    ranges = section_ranges(volume.sections)
    return [*range(count)] if ranges is None else [number for part in ranges for number in part]


def _file(volume: Volume) -> str:
    """Return the images of a volume as a path that is the same for all names of a file."""
    return os.path.realpath(volume.images)
