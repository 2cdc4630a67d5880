"""Settings of annotations as options of the command line, and in messages."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from types import MappingProxyType

from pipeline_lib.imageio import ANNOTATION_KINDS


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


def add_annotation_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that state what the values of an annotation mean.

    Parameters
    ----------
    group : argparse._ArgumentGroup
        Group of options of a command.
    """
    group.add_argument(
        "--annotation-kind",
        choices=ANNOTATION_KINDS,
        default="auto",
        metavar="KIND",
        help=f"{', '.join(ANNOTATION_KINDS)}; default: auto, which infers it",
    )
    group.add_argument(
        "--classes",
        type=class_values,
        nargs="+",
        metavar="NAME=N",
        help="values of each class, such as cell=1,2",
    )
    group.add_argument(
        "--background",
        type=whole_number,
        default=0,
        metavar="N",
        help="background in instance labels; default: 0",
    )
    group.add_argument("--ignore", type=whole_number, metavar="N", help="value that means `not annotated`")
    group.add_argument("--relabel", action="store_true", help="each area of an instance label is a cell")
