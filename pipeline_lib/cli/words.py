"""Settings of annotations as options of the command line, and in messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType


def whole_number(text: str) -> int:
    """Return a whole number; that of a colour is given as `0xRRGGBB`."""
    return int(text, 16 if text.lower().startswith("0x") else 10)


def class_values(text: str) -> tuple[str, list[int]]:
    """Return name and values of a class that is given as `cell=1` or `cell=1,2`."""
    name, _, values = text.partition("=")
    return name, [whole_number(value) for value in values.split(",")]


def as_options(message: str, words: Mapping[str, str] = MappingProxyType({})) -> str:
    """Replace settings of the section `dataset`, which errors say to set, by options of the command line.

    `words` are patterns of further words, and their replacements.
    """

    def option(key: str, value: str) -> str:
        if value.startswith("{"):
            value = value.strip("{}").replace(": ", "=").replace(",", "")
        return f"--{key.replace('_', '-')}{'' if value in ('', 'true') else ' ' + value}"

    def options(match: re.Match[str]) -> str:
        found = re.findall(r"(\w+): (\{[^}]*\}|[^,{}]+)", match[1])
        return f"`{' '.join(option(key, value) for key, value in found)}`"

    message = re.sub(r"`dataset: \{([^`]*)\}`", options, message)
    for pattern, replacement in words.items():
        message = re.sub(pattern, replacement, message)
    setting = r"(?:config key )?`(?:dataset\.(\w+)|(?:(\w+)(?=: )))(?:: ([\w-]+|\{[^}`]*\}))?`"
    return re.sub(setting, lambda m: f"`{option(m[1] or m[2], m[3] or '')}`", message)
