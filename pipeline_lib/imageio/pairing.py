"""Which annotation belongs to which image, by the names of their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline_lib.imageio.naming import are_slices, channel_paths, parse_sections, sections_text, slice_files
from pipeline_lib.imageio.series import LISTED, pattern_of
from pipeline_lib.imageio.tokens import Token, composed, parsed
from pipeline_lib.runtime.errors import InputError

#: How images and annotations of two folders are paired.
PAIRINGS = ("names", "order")


def matching_slices(
    images: str, annotation: str, pairing: str = "names", sections: str | None = None
) -> list[Path | None] | None:
    """Return which file of an annotation belongs to each slice of the images.

    Slices are paired by the part of their names that varies: numbers by value, words in upper or lower case,
    in any order. What all names of one folder have in common is ignored, so `t001.tif` belongs to
    `man_seg001.tif`. If the names of one folder differ only in numbers, words of the other are ignored. If
    several numbers vary, each is compared with the one that has the same word: `row1_col2.tif` belongs to
    `col2_row1.tif`. Numbers without words are compared in their order. Each file of the annotation must have
    its image, and each selected image its annotation.

    Parameters
    ----------
    images, annotation : str
        Paths in a table of volumes. Of channels in separate files, the first is compared.
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
    images = channel_paths(images)[0]
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
    for keys in _keys(raw, truth):
        pairs = equal_pairs(*keys)
        if len(pairs) == len(truth) and pairs.keys() >= set(chosen):
            return [truth[pairs[n]] if n in pairs else None for n in range(len(raw))]
    raise InputError(_not_paired(images, annotation, raw, truth, pairs, chosen))


def pair_files(images: Sequence[Path], annotations: Sequence[Path]) -> dict[int, int]:
    """Pair files by their names, in the way of `matching_slices`, as far as possible.

    Parameters
    ----------
    images, annotations : sequence of Path
        Files of two groups. Images may have no annotation.

    Returns
    -------
    dict of int to int
        Place of the annotation for the place of its image. If the names do not pair each annotation with one
        image, the pairs of the way that pairs most.
    """
    found: list[dict[int, int]] = [{}]
    if not images or not annotations:
        return {}
    for keys in _keys(images, annotations):
        found.append(equal_pairs(*keys))
        if len(found[-1]) == len(annotations):
            return found[-1]
    return max(found, key=len)


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
        fix = f"To use the annotated images only, write in the column `sections`: {sections_text(paired)}."
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


def equal_pairs(first: Sequence[Hashable], second: Sequence[Hashable]) -> dict[int, int]:
    """Return the places of equal keys that appear exactly once in both lists.

    Parameters
    ----------
    first, second : sequence of hashable
        Keys.

    Returns
    -------
    dict of int to int
        Place in `second` for the place in `first`.

    Examples
    --------
    >>> from pipeline_lib.imageio.pairing import equal_pairs
    >>> equal_pairs("abca", "cab")
    {1: 2, 2: 0}
    """
    counts = Counter(first), Counter(second)
    places = {key: place for place, key in enumerate(second)}
    return {place: places[key] for place, key in enumerate(first) if counts[0][key] == counts[1][key] == 1}


def _keys(*sides: Sequence[Path]) -> Iterator[list[list[Hashable]]]:
    """Yield keys for the names of both sides, which are equal for a pair, in several ways."""
    yield [[composed(path.stem).casefold() for path in side] for side in sides]
    first, second = (_varying(parsed(side)) for side in sides)
    if len(first.labels) > 1 and len(second.labels) > 1:
        if first.is_labelled and second.is_labelled:
            # Without a common word, it is not known which number is which: row and column, or x and y
            translation = _translation([*first.labels.values()], [*second.labels.values()])
            if translation:
                yield [first.with_words({}), second.with_words(translation)]
            return
        shared = {*first.words} & {*second.words}
        if len({tuple(word for word in side.words if word in shared) for side in (first, second)}) > 1:
            return
    yield [first.in_order(), second.in_order()]
    yield _parts(*sides)


class _Varying(NamedTuple):
    """The parts of names that differ between the names of one side.

    Parameters
    ----------
    parts : list of dict
        For each name, the parts that differ, by their places.
    words : list of str
        Words that all names have in common, in their order.
    labels : dict
        For each place of a number, the word that it belongs to, or "": the word that touches it, as in `row1`
        or `1row`, or else the word in front.
    """

    parts: list[dict[int, int | str]]
    words: list[str]
    labels: dict[int, str]

    @property
    def is_labelled(self) -> bool:
        """Whether each number has its own word."""
        return len({*self.labels.values()} - {""}) == len(self.labels)

    def in_order(self) -> list[Hashable]:
        return [tuple(name.values()) for name in self.parts]

    def with_words(self, translation: Mapping[str, str]) -> list[Hashable]:
        """Return the parts of each name in any order, each number with its translated word."""
        words = {place: translation.get(word, word) for place, word in self.labels.items()}
        return [frozenset((words.get(place), part) for place, part in name.items()) for name in self.parts]


def _varying(names: Sequence[tuple[Token, ...]]) -> _Varying:
    """Return the parts of names that differ; all parts if the names have different kinds of parts."""
    parts = [{place: token.value for place, token in enumerate(name)} for name in names]
    if len({tuple(type(token.value) for token in name) for name in names}) > 1:
        return _Varying(parts, [], {})
    common = {
        place: value for place, value in parts[0].items() if all(name[place] == value for name in parts)
    }
    words = {place: value for place, value in common.items() if isinstance(value, str)}

    def touches(place: int) -> bool:
        return all(name[place].stop == name[place + 1].start for name in names)

    labels = {}
    for place in (
        place for place, value in parts[0].items() if place not in common and isinstance(value, int)
    ):
        after = place + 1 in words and touches(place) and not (place - 1 in words and touches(place - 1))
        labels[place] = words.get(place + 1 if after else place - 1, "")
    different = [{place: name[place] for place in name if place not in common} for name in parts]
    return _Varying(different, [*words.values()], labels)


def _translation(first: Sequence[str], second: Sequence[str]) -> dict[str, str] | None:
    """Return which word of `first` has the meaning of each word of `second`; None if that is not clear.

    It is the same word, a longer or shorter form of it (`r` and `row`), or the only one left.
    """
    found = {word: word for word in second if word in first}
    for alike in (True, False):
        for word in (word for word in second if word not in found):
            left = [other for other in first if other not in found.values()]
            if alike:
                left = [other for other in left if other.startswith(word) or word.startswith(other)]
            if len(left) == 1:
                found[word] = left[0]
    return found if len(found) == len(first) == len(second) else None


def _parts(*sides: Sequence[Path]) -> list[list[Hashable]]:
    """Return the parts of each name without those that all names of its side have, in any order.

    If the names of one side differ only in numbers, words of the other are left out, and vice versa. A name
    with several numbers has its own key, because their order may matter.
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

    def key(count: Counter[int | str]) -> Hashable:
        kept = [part for part in count.elements() if type(part) in shared]
        several = sum(isinstance(part, int) for part in kept) > 1
        return object() if several else frozenset(Counter(kept).items())

    return [[key(count) for count in counts] for counts in parts]
