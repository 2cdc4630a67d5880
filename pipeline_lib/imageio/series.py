"""Which files of a folder are one stack, and which annotation belongs to which image, by their names."""

from __future__ import annotations

import glob
import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, TypeVar

from pipeline_lib.imageio.naming import are_slices, parse_sections, slice_files
from pipeline_lib.runtime.errors import InputError

#: How images and annotations of two folders are paired.
PAIRINGS = ("names", "order")

T = TypeVar("T")

_MASKS = {
    "mask",
    "masks",
    "label",
    "labels",
    "seg",
    "segmentation",
    "annotation",
    "annotations",
    "gt",
    "truth",
}
_MASKS |= {"outline", "outlines", "flows"}
_STAINS = {"dapi", "hoechst", "gfp", "egfp", "yfp", "cfp", "rfp", "mcherry", "tritc", "fitc", "cy3", "cy5"}
_STAINS |= {"brightfield", "phase", "dic"}
_CHANNEL = {"c", "ch", "channel", "w", "wavelength"}  # words in front of the number of a channel
_MOST_CHANNELS = 8
_LISTED = 6  # limit of patterns and files that a message names

# A name is split into identifiers (UUIDs and hexadecimal hashes), durations such as 01d12h30m, numbers and
# words. A capital letter begins a new word, as in cellA.
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?P<hash>(?<![^\W_])(?=[0-9]*[a-f]+[0-9]+[a-f]|[a-f]*[0-9]+[a-f]+[0-9])[0-9a-f]{8,}(?![^\W_]))"
    r"|(?P<days>[0-9]+)d(?P<hours>[0-9]+)h(?P<minutes>[0-9]+)m(?![^\W_])"
    r"|(?P<number>[0-9]+)"
    r"|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+"
)


class _Token(NamedTuple):
    """A part of a name: a number by its value or a word in lower case, and where it is in the name."""

    value: int | str
    start: int
    stop: int
    identifier: bool


def require_one_stack(folder: Path, slices: Sequence[Path]) -> None:
    """Raise `InputError` if the names of the files in a folder show that they are not one stack.

    Not one stack are: PNG and TIFF files; several series with the same numbers, such as channels, conditions
    or the tiles of a grid; masks beside their images; a series and other files. Names that have nothing in
    common are one collection. The message lists a pattern for each group of files.
    """
    stacks = _stacks(slices)
    if len(stacks) < 2:
        return
    names = [path.name for path in slices]
    found = []
    for stack in sorted(stacks, key=len, reverse=True):
        chosen = [path.name for path in stack]
        count = f"{len(stack)} file{'s' * (len(stack) > 1)}"
        pattern = _pattern(chosen, names)
        found.append(
            f"/{pattern} ({count})" if pattern else f"move {chosen[0]} ... {chosen[-1]} ({count}) elsewhere"
        )
    more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    suffixes = {path.suffix for path in slices}
    every = f"/*{suffixes.pop()}" if len(suffixes) == 1 else "/*"
    raise InputError(
        f"{folder}: the names of its {len(slices)} files do not show one stack: they differ in format or in "
        "more than one number or word, like channels, masks or several series. Add one of these patterns to "
        f"the path in the table: {', '.join(found[:_LISTED])}{more}; or {every} if all files are sections of "
        "one stack."
    )


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
        pattern = _pattern([truth[pairs[n]].name for n in paired], [path.name for path in truth])
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
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


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
        names = [tuple(token.value for token in name) for name in _parsed(side)]
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
        counts = [Counter(token.value for token in name) for name in _parsed(side)]
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


def _parsed(paths: Sequence[Path]) -> list[tuple[_Token, ...]]:
    """Return the parts of each name. Identifiers are left out if the names differ without them."""
    every = [_tokens(path.stem) for path in paths]
    short = [tuple(token for token in name if not token.identifier) for name in every]
    values = {tuple(token.value for token in name) for name in short}
    return short if len(values) == len(paths) and () not in values else every


def _tokens(stem: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    begin = 0
    for uuid in _UUID.finditer(stem):
        tokens += map(_token, _TOKEN.finditer(stem, begin, uuid.start()))
        tokens.append(_Token(uuid[0].casefold(), *uuid.span(), True))
        begin = uuid.end()
    return (*tokens, *map(_token, _TOKEN.finditer(stem, begin)))


def _token(match: re.Match[str]) -> _Token:
    value: int | str = match[0].casefold()
    if match["number"]:
        value = int(match[0])
    elif match["days"]:
        value = (int(match["days"]) * 24 + int(match["hours"])) * 60 + int(match["minutes"])
    return _Token(value, *match.span(), bool(match["hash"]))


def _stacks(paths: Sequence[Path]) -> list[list[Path]]:
    """Group files that can be one stack by their names; a single group if that holds for all files."""
    formats = _grouped(paths, lambda path: path.suffix.lower() == ".png")
    if len(formats) > 1:
        return [stack for files in formats for stack in _stacks(files)]
    names = dict(zip(paths, _parsed(paths), strict=True))
    kinds = _grouped(paths, lambda path: tuple(type(token.value) for token in names[path]))
    if len(kinds) == 1:
        column = _series([[token.value for token in names[path]] for path in paths])
        return [[*paths]] if column is None else _grouped(paths, lambda path: names[path][column].value)
    if _is_collection([tuple(token.value for token in names[path]) for path in paths]):
        return [[*paths]]
    return [stack for files in kinds for stack in _stacks(files)]


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [*groups.values()]


def _series(names: Sequence[Sequence[int | str]]) -> int | None:
    """Return the place of the part that tells several series apart; None if the names are one series.

    Two parts form a grid if more than half of the combinations of their values exist, such as tile and
    section. Of these parts, the one with the fewest values is returned. A part that is a channel or says
    mask comes first.
    """
    columns = [*zip(*names, strict=True)]
    values = {place: set(column) for place, column in enumerate(columns) if len(set(column)) > 1}
    found = set()
    for a, b in itertools.combinations(values, 2):
        combinations = len(values[a]) * len(values[b])
        if (
            combinations < 2 * len(names)
            and 2 * len({*zip(columns[a], columns[b], strict=True)}) > combinations
        ):
            found |= {a, b}
    stated = {
        place
        for place, held in values.items()
        if held & (_MASKS | _STAINS)
        or (
            isinstance(columns[place][0], int)
            and place
            and {*columns[place - 1]} <= _CHANNEL
            and len(held) <= _MOST_CHANNELS
        )
    }
    return min(found | stated, key=lambda place: (place not in stated, len(values[place])), default=None)


def _is_collection(names: Sequence[tuple[int | str, ...]]) -> bool:
    """Return whether names have so little in common that no series is among them.

    That is if most differ from all others in a word, none is another one with more words, and not only some
    say mask.
    """
    shapes = [tuple(part if isinstance(part, str) else 0 for part in name) for name in names]
    counts, known = Counter(shapes), {*names}
    if 2 * sum(counts[shape] == 1 for shape in shapes) <= len(names):
        return False
    for name in names:
        words = [isinstance(part, str) for part in name]
        for cut in range(1, len(name)):
            if (all(words[:cut]) and name[cut:] in known) or (all(words[-cut:]) and name[:-cut] in known):
                return False
    return len({bool(_MASKS & {*name}) for name in names}) == 1


def _pattern(chosen: Sequence[str], names: Sequence[str]) -> str | None:
    """Return a pattern that matches the `chosen` ones of `names` and no other; None if none was found."""
    if len(chosen) == 1:
        return chosen[0]
    start = _common_start(chosen).rstrip("0123456789")
    rest = [name[len(start) :] for name in chosen]
    end = _common_start([name[::-1] for name in rest])[::-1].lstrip("0123456789")
    middles = [name[: len(name) - len(end)] for name in rest]
    widths = {len(middle) for middle in middles}
    before, after = glob.escape(start), glob.escape(end)
    candidates = [_aligned(chosen), f"{before}*{after}"]
    if len(widths) == 1 and len(middles[0]) <= 8:
        candidates.append(f"{before}{'?' * len(middles[0])}{after}")
    if 0 not in widths:
        candidates.append(f"{before}*{_one_of(middle[-1] for middle in middles)}{after}")
        candidates.append(f"{before}{_one_of(middle[0] for middle in middles)}*{after}")
    if len(widths) == 1:
        candidates.append(f"{before}{''.join(map(_one_of, zip(*middles, strict=True)))}{after}")
    others = {name.removesuffix(end)[-1:] for name in names if name.endswith(end) and name not in chosen}
    candidates.append(f"*{_one_of(others, but=True)}{after}")
    return next(
        (
            pattern
            for pattern in candidates
            if pattern and [name for name in names if fnmatchcase(name, pattern)] == [*chosen]
        ),
        None,
    )


def _common_start(names: Sequence[str]) -> str:
    same = itertools.takewhile(lambda letters: len({*letters}) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in same)


def _one_of(letters: Iterable[str], but: bool = False) -> str:
    """Return a pattern of one letter; one that matches nothing for letters with a meaning in patterns."""
    found = {*letters}
    if not all(letter.isalnum() for letter in found):
        return "[/]"
    digits = found & {*"0123456789"}
    listed = "0-9" if len(digits) > 3 else "".join(sorted(digits))
    return f"[{'!' * but}{listed}{''.join(sorted(found - digits))}]"


def _aligned(names: Sequence[str]) -> str | None:
    """Return a pattern with a * for each part that differs; None if the names have different parts."""
    parsed = _parsed([Path(name) for name in names])
    if len({tuple(type(token.value) for token in name) for name in parsed}) > 1:
        return None
    pieces = [
        [
            name[a:b]
            for a, b in itertools.pairwise(
                [0, *itertools.chain.from_iterable((token.start, token.stop) for token in tokens), len(name)]
            )
        ]
        for name, tokens in zip(names, parsed, strict=True)
    ]
    parts = [glob.escape(part[0]) if len(set(part)) == 1 else "*" for part in zip(*pieces, strict=True)]
    return re.sub(r"\*+", "*", "".join(parts))
