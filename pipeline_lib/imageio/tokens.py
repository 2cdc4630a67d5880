"""Parts of the names of files: numbers, words and identifiers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

# A name is split into identifiers (UUIDs and hexadecimal hashes), durations such as 01d12h30m, numbers and
# words. A capital letter begins a new word, as in cellA.
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_TOKEN = re.compile(
    r"(?P<hash>(?<![^\W_])(?=[0-9]*[a-f]+[0-9]+[a-f]|[a-f]*[0-9]+[a-f]+[0-9])[0-9a-f]{8,}(?![^\W_]))"
    r"|(?P<days>[0-9]+)d(?P<hours>[0-9]+)h(?P<minutes>[0-9]+)m(?![^\W_])"
    r"|(?P<number>[0-9]+)"
    r"|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+"
)
_SIGN = re.compile(r"(?<![0-9])[+-](?=[0-9])")  # not the hyphens of a date


class Token(NamedTuple):
    """A part of a name.

    Parameters
    ----------
    value : int or str
        Value of a number, or a word in lower case.
    start, stop : int
        Where it is in the composed name.
    identifier : bool
        Whether it is a UUID or a hexadecimal hash.
    """

    value: int | str
    start: int
    stop: int
    identifier: bool


def parsed(paths: Sequence[Path]) -> list[tuple[Token, ...]]:
    """Return the parts of the names of files.

    Parameters
    ----------
    paths : sequence of Path
        Files.

    Returns
    -------
    list of tuple of Token
        Parts of each name without its suffix. Identifiers are left out if the names differ without them. A
        number after a minus is negative if the names are `signed`.
    """
    stems = [composed(path.stem) for path in paths]
    negative = signed(stems)
    every = [_tokens(stem, negative) for stem in stems]
    short = [tuple(token for token in name if not token.identifier) for name in every]
    values = {tuple(token.value for token in name) for name in short}
    return short if len(values) == len(paths) and () not in values else every


def composed(name: str) -> str:
    """Return a name with composed letters (NFC): macOS may store é as two letters (NFD)."""
    return unicodedata.normalize("NFC", name)


def signed(names: Iterable[str]) -> bool:
    """Return whether hyphens in names are minus signs, as in z-1, z0, z1: some numbers have none there."""
    shapes = {re.sub(r"[0-9]+", "0", name) for name in names}
    return len(shapes) > 1 == len({_SIGN.sub("", shape) for shape in shapes})


def is_negative(name: str, start: int) -> bool:
    """Return whether there is a minus sign in front of the number at `start` of a `signed` name."""
    return name[start - 1 : start] == "-" and _SIGN.match(name, start - 1) is not None


def _tokens(stem: str, negative: bool) -> tuple[Token, ...]:
    tokens: list[Token] = []
    begin = 0
    for uuid in _UUID.finditer(stem):
        tokens += map(_token, _TOKEN.finditer(stem, begin, uuid.start()))
        tokens.append(Token(uuid[0].casefold(), *uuid.span(), True))
        begin = uuid.end()
    tokens += map(_token, _TOKEN.finditer(stem, begin))
    if negative:
        tokens = [
            token._replace(value=-token.value)
            if isinstance(token.value, int) and is_negative(stem, token.start)
            else token
            for token in tokens
        ]
    return tuple(tokens)


def _token(match: re.Match[str]) -> Token:
    value: int | str = match[0].casefold()
    if match["number"]:
        value = int(match[0])
    elif match["days"]:
        value = (int(match["days"]) * 24 + int(match["hours"])) * 60 + int(match["minutes"])
    return Token(value, *match.span(), bool(match["hash"]))
