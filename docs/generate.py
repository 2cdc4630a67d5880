"""Write the generated parts of the reference: arrays, command line, API pages.

`docs/conf.py` calls `write_all` before each build. The files are not committed: `docs/_generated` has
fragments that pages include, `docs/reference/api` has one page per module.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path

import public_api

from pipeline_lib import cli, layout

DOCS = Path(__file__).parent
FRAGMENTS = DOCS / "_generated"
PAGES = DOCS / "reference/api"
LONGEST_VALUE = 120  # characters; longer values of constants are not shown

# Every HDF5 file in a results folder and the arrays in it. `tests/test_docs.py` compares this with a run.
HDF5_FILES: dict[str, tuple[layout.Array, ...]] = {
    "dataset/VOLUME.h5": (
        layout.RAW,
        layout.SECTION_HASH,
        layout.SECTION_WINDOWS,
        layout.LABELS,
        layout.SEPARATION_BORDER,
        layout.IGNORE,
        layout.TARGET,
        *(array for array, _ in layout.BOX_ARRAYS),
    ),
    "weight_map/VOLUME.h5": (layout.WEIGHT_MAP,),
    "prediction/MODEL/VOLUME.h5": (layout.CELL_PROBABILITY, layout.CLASS_PROBABILITY),
    "segmentation/MODEL/VOLUME.h5": (layout.LABELS,),
    "prediction/MODEL/parts/VOLUME/PART.h5": (layout.CELL_PROBABILITY, layout.CLASS_PROBABILITY),
    "segmentation/MODEL/parts/VOLUME/PART.h5": (layout.LABELS,),
    "segmentation/MODEL/parts/VOLUME/PART_pieces.h5": (
        layout.PIECES,
        layout.BORDER,
        layout.COMPONENT,
        layout.FIRST_PIXEL,
        layout.SIZE,
    ),
    "segmentation/MODEL/parts/VOLUME/numbers.h5": (layout.NUMBER, layout.LABELS, layout.BORDER),
}


def write_all() -> None:
    """Write all generated files. `make docs` removes those of an earlier build."""
    FRAGMENTS.mkdir(exist_ok=True)
    for name, text in {"arrays": arrays_table(), "cli": command_line(), "api": api_index()}.items():
        (FRAGMENTS / f"{name}.md").write_text(text)
    PAGES.mkdir(exist_ok=True)
    for name, title in public_api.MODULES.items():
        (PAGES / f"{name}.rst").write_text(api_page(name, title))


def arrays_table() -> str:
    """Return a Markdown table of the arrays in each HDF5 file, from `pipeline_lib.layout`.

    Returns
    -------
    str
        The table, one row per file and array.
    """
    rows = [
        (f"`{file}`", f"`{a.name}`", f"`{a.axes}`", a.dtype or "as in the source", a.unit, a.meaning)
        for file, arrays in HDF5_FILES.items()
        for a in arrays
    ]
    return _table(("file", "array", "axes", "dtype", "unit", "meaning"), rows)


def command_line() -> str:
    """Return the Markdown of the command `bordure`: usage and arguments of each subcommand.

    Returns
    -------
    str
        One section per subcommand.
    """
    subparsers = argparse.ArgumentParser(prog="bordure").add_subparsers()
    return "\n".join(_command(cli.add_command(subparsers, command)) for command in cli.COMMANDS)


def _command(parser: argparse.ArgumentParser) -> str:
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    rows = [
        (
            ", ".join(f"`{name}`" for name in _names(action)),
            _values(action),
            _default(action),
            re.sub(r" \([^)]*default: .*\)$", "", action.help or ""),  # the columns before have it
        )
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]
    table = _table(("argument", "values", "default", "meaning"), rows)
    notes = f"\n```text\n{parser.epilog}\n```\n" if parser.epilog else ""
    if see := re.search(r"^(.*) docs/(\S+)\.$\n", notes, re.MULTILINE):  # a page of this site
        notes = f"{notes.replace(see[0], '')}\n{see[1]} [](../{see[2]}).\n"
    return f"## `{parser.prog}`\n\n{parser.description}\n\n```text\n{usage}\n```\n\n{table}{notes}"


def _names(action: argparse.Action) -> Sequence[str]:
    return action.option_strings or [str(action.metavar or action.dest)]


def _values(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "none (a switch)"
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    return {"Path": "a path", "int": "an integer", "float": "a number"}.get(
        getattr(action.type, "__name__", ""), "text"
    )


def _default(action: argparse.Action) -> str:
    if action.required:
        return "required"
    return "none" if action.default in (None, False) else f"`{action.default}`"


def api_index() -> str:
    """Return the Markdown of the groups of API pages.

    Returns
    -------
    str
        For each group a heading, a table with a line about each module, and a hidden table of contents.
    """
    parts = []
    for title, modules in public_api.GROUPS.items():
        rows = [
            (f"[{page}](api/{name}.rst)", f"`{name.removeprefix('pipeline_lib.')}`", _summary(name))
            for name, page in modules.items()
        ]
        entries = "\n".join(f"{page} <api/{name}>" for name, page in modules.items())
        contents = f"```{{toctree}}\n:hidden:\n\n{entries}\n```\n"
        parts.append(f"## {title}\n\n{_table(('page', 'module', 'content'), rows)}\n{contents}")
    return "\n".join(parts)


def _summary(name: str) -> str:
    """Return the first sentence of a module's docstring, without the word `stage` before it."""
    text = (importlib.import_module(name).__doc__ or "").strip().partition("\n\n")[0]
    kind, _, rest = " ".join(text.split()).partition(" stage: ")
    return rest[:1].upper() + rest[1:] if rest else kind


def api_page(name: str, title: str) -> str:
    """Return the page of a module.

    Parameters
    ----------
    name : str
        Name of the module.
    title : str
        Title of the page.

    Returns
    -------
    str
        reStructuredText of the page: the module's docstring, then its public members. A member that the page
        of another module describes is only mentioned.
    """
    module, described = importlib.import_module(name), public_api.descriptions(name)
    # `networks.plan` is a module and a function; the name in the index is that of the function
    package, _, last = name.rpartition(".")
    is_function = package in public_api.MODULES and last in public_api.members(package)
    lines = [title, "=" * len(title), "", f"``import {name}``", "", f".. automodule:: {name}"]
    lines += [*(["   :no-index:"] if is_function else []), ""]
    constants, elsewhere = [], []
    for member in public_api.members(name):
        value = getattr(module, member)
        if public_api.is_constant(value):
            constants.append((member, value))
        elif value.__module__ != name and value.__module__ in public_api.MODULES:
            elsewhere.append(f"`{value.__module__}.{member}`")
        elif inspect.isclass(value):
            has_base = issubclass(value, Exception) or value.__base__.__module__ in public_api.MODULES
            bases = ["   :show-inheritance:"] if has_base else []
            lines += [f".. autoclass:: {name}.{member}", "   :members:", *bases, ""]
        else:
            lines += [f".. autofunction:: {name}.{member}", ""]
    if elsewhere:
        lines += [".. rubric:: Also in this module", "", f"{', '.join(elsewhere)}.", ""]
    if constants:
        lines += [".. rubric:: Constants", ""]
        for member, value in constants:
            lines.append(f".. py:data:: {member}")
            shown = repr(value)
            lines += [*([f"   :value: {shown}"] if len(shown) <= LONGEST_VALUE else []), ""]
            lines += [f"   {described.get(member, '')}", ""]
    return "\n".join(lines)


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"
