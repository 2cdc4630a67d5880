"""Which files of a folder are one stack, by their names."""

from __future__ import annotations

import glob
import itertools
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from pipeline_lib.imageio.naming import decimals, file_format
from pipeline_lib.imageio.tokens import composed, parsed
from pipeline_lib.runtime.errors import InputError

T = TypeVar("T")

#: Words in the names of annotations.
MASK_WORDS = {
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
    "outline",
    "outlines",
    "flows",
}
_STAINS = {"dapi", "hoechst", "gfp", "egfp", "yfp", "cfp", "rfp", "mcherry", "tritc", "fitc", "cy3", "cy5"}
_STAINS |= {"brightfield", "phase", "dic"}
_CHANNEL = {"c", "ch", "channel", "w", "wavelength"}  # words in front of the number of a channel
_MOST_CHANNELS = 8
#: Limit of patterns and files that a message names.
LISTED = 6


def require_one_stack(folder: Path, slices: Sequence[Path]) -> None:
    """Raise `InputError` if the names of the files in a folder show that they are not one stack.

    Not one stack are: files of several formats; several series with the same numbers, such as channels,
    conditions or the tiles of a grid; masks beside their images; a series and other files. Names that have
    nothing in common are one collection. The message lists a pattern for each group of files.
    """
    stacks = _stacks(slices)
    if len(stacks) < 2:
        return
    names = [path.name for path in slices]
    found = []
    for stack in sorted(stacks, key=len, reverse=True):
        chosen = [path.name for path in stack]
        count = f"{len(stack)} file{'s' * (len(stack) > 1)}"
        pattern = pattern_of(chosen, names)
        found.append(
            f"/{pattern} ({count})" if pattern else f"move {chosen[0]} ... {chosen[-1]} ({count}) elsewhere"
        )
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    suffixes = {path.suffix for path in slices}
    every = f"/*{suffixes.pop()}" if len(suffixes) == 1 else "/*"
    raise InputError(
        f"{folder}: the names of its {len(slices)} files do not show one stack: they differ in format or in "
        "more than one number or word, like channels, masks or several series. Add one of these patterns to "
        f"the path in the table: {', '.join(found[:LISTED])}{more}; or {every} if all files are sections of "
        "one stack."
    )


def _stacks(paths: Sequence[Path]) -> list[list[Path]]:
    """Group files that can be one stack by their names; a single group if that holds for all files."""
    formats = _grouped(paths, file_format)
    if len(formats) > 1:
        return [stack for files in formats for stack in _stacks(files)]
    names = dict(zip(paths, parsed(paths), strict=True))
    kinds = _grouped(paths, lambda path: tuple(type(token.value) for token in names[path]))
    if len(kinds) == 1:
        if _are_decimals([path.stem for path in paths]):
            return [[*paths]]
        column = _series([[token.value for token in names[path]] for path in paths])
        return [[*paths]] if column is None else _grouped(paths, lambda path: names[path][column].value)
    if _is_collection([tuple(token.value for token in names[path]) for path in paths]):
        return [[*paths]]
    return [stack for files in kinds for stack in _stacks(files)]


def _are_decimals(names: Sequence[str]) -> bool:
    """Return whether names differ only in a decimal number with a constant step: 0.5, 1.0, 1.5."""
    found = decimals(names)
    return found is not None and len({b - a for a, b in itertools.pairwise(sorted({*found}))}) == 1


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
        if held & (MASK_WORDS | _STAINS)
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
    return len({bool(MASK_WORDS & {*name}) for name in names}) == 1


def pattern_of(chosen: Sequence[str], names: Sequence[str]) -> str | None:
    """Return a pattern for some names of a folder.

    Parameters
    ----------
    chosen, names : sequence of str
        Names that the pattern must match, and all names.

    Returns
    -------
    str or None
        Pattern that matches the `chosen` ones of `names` and no other. None if none was found.
    """
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
    parts = parsed([Path(name) for name in names])
    if (
        any(composed(name) != name for name in names)
        or len({tuple(type(token.value) for token in name) for name in parts}) > 1
    ):
        return None
    pieces = [
        [
            name[a:b]
            for a, b in itertools.pairwise(
                [0, *itertools.chain.from_iterable((token.start, token.stop) for token in tokens), len(name)]
            )
        ]
        for name, tokens in zip(names, parts, strict=True)
    ]
    same = [glob.escape(piece[0]) if len(set(piece)) == 1 else "*" for piece in zip(*pieces, strict=True)]
    return re.sub(r"\*+", "*", "".join(same))
