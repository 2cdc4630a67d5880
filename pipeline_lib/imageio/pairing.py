"""Which annotation belongs to which image, by the names of their files."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

from pipeline_lib.imageio.naming import are_slices, parse_sections, slice_files
from pipeline_lib.imageio.series import LISTED, pattern_of
from pipeline_lib.imageio.tokens import parsed
from pipeline_lib.runtime.errors import InputError

#: How images and annotations of two folders are paired.
PAIRINGS = ("names", "order")


def matching_slices(
    images: str, annotation: str, pairing: str = "names", sections: str | None = None
) -> list[Path | None] | None:
    """Return which file of an annotation belongs to each slice of the images.

    Slices are paired by the part of their names that varies: numbers by value, words in upper or lower case,
    in any order. What all names of one folder have in common is ignored, so `t001.tif` belongs to
    `man_seg001.tif`. If the names of one folder differ only in numbers, words of the other are ignored. Each
    file of the annotation must have its image, and each selected image its annotation.

    Parameters
    ----------
    images, annotation : str
        Paths in a table of volumes.
    pairing : {"names", "order"}, default "names"
        With "order", the first file in natural order belongs to the first image, and so on. Both must have
        the same number of files.
    sections : str, optional
        Selected sections of the images, for instance `0-3,8`; all by default. Others need no annotation.

    Returns
    -------
    list of Path or None, or None
        The file for each slice of the images, None for an image that is not selected and has no annotation.
        None instead of a list if one of the two is not a folder or pattern, or if a single image has an
        annotation of several files.

    Raises
    ------
    InputError
        If the names do not pair each selected image with one file of the annotation.

    Examples
    --------
    >>> from pipeline_lib.imageio import matching_slices
    >>> matching_slices("01/t*.tif", "01_GT/SEG")  # doctest: +SKIP
    """
    if pairing not in PAIRINGS:
        raise InputError(
            f"config key `dataset.pairing`: found {pairing}, expected one of {', '.join(PAIRINGS)}."
        )
    if not (are_slices(images) and are_slices(annotation)):
        return None
    raw, truth = slice_files(images), slice_files(annotation)
    if len(raw) == 1 < len(truth) or not raw or not truth:
        return None
    if pairing == "order":
        if len(raw) != len(truth):
            raise InputError(
                f"{annotation}: found {len(truth)} files, but {images} has {len(raw)}; `pairing: order` "
                "needs the same number. Name the files that belong together with patterns, or pair them by "
                "names."
            )
        return [*truth]
    chosen = parse_sections(sections, len(raw))
    pairs: dict[int, int] = {}
    for keys in (_names, _parts_in_order, _parts):
        pairs = _pairs(*keys(raw, truth))
        if len(pairs) == len(truth) and pairs.keys() >= set(chosen):
            return [truth[pairs[n]] if n in pairs else None for n in range(len(raw))]
    raise InputError(_not_paired(images, annotation, raw, truth, pairs, chosen))


def _not_paired(
    images: str,
    annotation: str,
    raw: Sequence[Path],
    truth: Sequence[Path],
    pairs: dict[int, int],
    chosen: Sequence[int],
) -> str:
    """Return a message about slices that are not paired; `pairs` are those that are, from image to truth."""
    lonely = [raw[n].name for n in chosen if n not in pairs]
    spare = [truth[n].name for n in sorted({*range(len(truth))} - {*pairs.values()})]
    missing = [f"no annotation for {_listed(lonely)}"] * bool(lonely) + [
        f"no image for {_listed(spare)}"
    ] * bool(spare)
    paired = [n for n in chosen if n in pairs]
    pattern = None
    if not lonely:
        pattern = pattern_of([truth[pairs[n]].name for n in paired], [path.name for path in truth])
    if not spare and paired:
        fix = f"To use the annotated images only, write in the column `sections`: {_ranges(paired)}."
    elif pattern:
        fix = f"To use the others only, add a pattern to the path of the annotation: /{pattern}."
    elif len(raw) == len(truth):
        order = ", ".join(f"{a.name} with {b.name}" for a, b in list(zip(raw, truth, strict=True))[:3])
        fix = (
            "Rename the files so that a pair has the same number or name, or set `dataset: {pairing: order}` "
            f"if this is right: {order}{' and so on' * (len(raw) > 3)}."
        )
    else:
        fix = (
            "Rename the files so that a pair has the same number or name, or name only the files that belong "
            "together with patterns such as `folder/t00*.tif`."
        )
    return (
        f"{annotation}: the names of its {len(truth)} files do not pair them with the {len(raw)} files of "
        f"{images}: {'; '.join(missing)}. {fix}"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers as in the column `sections`, for instance `0-3,8`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _pairs(first: Sequence[Hashable], second: Sequence[Hashable]) -> dict[int, int]:
    """Return the places of equal keys that appear exactly once in both lists."""
    counts = Counter(first), Counter(second)
    places = {key: place for place, key in enumerate(second)}
    return {place: places[key] for place, key in enumerate(first) if counts[0][key] == counts[1][key] == 1}


def _names(*sides: Sequence[Path]) -> list[list[str]]:
    return [[path.stem.casefold() for path in side] for side in sides]


def _parts_in_order(*sides: Sequence[Path]) -> list[list[Hashable]]:
    """Return the parts of each name that differ between the names of its side, in their order."""
    keys: list[list[Hashable]] = []
    for side in sides:
        names = [tuple(token.value for token in name) for name in parsed(side)]
        varying = [True] * max(map(len, names))
        if len({tuple(map(type, name)) for name in names}) == 1:
            varying = [len(set(column)) > 1 for column in zip(*names, strict=True)]
        keys.append([tuple(itertools.compress(name, varying)) for name in names])
    return keys


def _parts(*sides: Sequence[Path]) -> list[list[Hashable]]:
    """Return the parts of each name without those that all names of its side have, in any order.

    If the names of one side differ only in numbers, words of the other are left out, and vice versa.
    """
    parts = []
    for side in sides:
        counts = [Counter(token.value for token in name) for name in parsed(side)]
        common = counts[0]
        for count in counts[1:]:
            common = common & count
        parts.append([count - common for count in counts])
    kinds = [{type(part) for count in counts for part in count} for counts in parts]
    shared = set.intersection(*kinds)
    return [
        [frozenset((part, n) for part, n in count.items() if type(part) in shared) for count in counts]
        for counts in parts
    ]
