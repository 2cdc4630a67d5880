"""Parts of the names of files: numbers, words and identifiers."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


class Token(NamedTuple):
    """A part of a name.

    Parameters
    ----------
    value : int or str
        Value of a number, or a word in lower case.
    start, stop : int
        Where it is in the name.
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
        Parts of each name without its suffix. Identifiers are left out if the names differ without them.
    """
    every = [_tokens(path.stem) for path in paths]
    short = [tuple(token for token in name if not token.identifier) for name in every]
    values = {tuple(token.value for token in name) for name in short}
    return short if len(values) == len(paths) and () not in values else every


def _tokens(stem: str) -> tuple[Token, ...]:
    tokens: list[Token] = []
    begin = 0
    for uuid in _UUID.finditer(stem):
        tokens += map(_token, _TOKEN.finditer(stem, begin, uuid.start()))
        tokens.append(Token(uuid[0].casefold(), *uuid.span(), True))
        begin = uuid.end()
    return (*tokens, *map(_token, _TOKEN.finditer(stem, begin)))


def _token(match: re.Match[str]) -> Token:
    value: int | str = match[0].casefold()
    if match["number"]:
        value = int(match[0])
    elif match["days"]:
        value = (int(match["days"]) * 24 + int(match["hours"])) * 60 + int(match["minutes"])
    return Token(value, *match.span(), bool(match["hash"]))
