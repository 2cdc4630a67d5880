"""Write a table of volumes and a commented config."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import yaml

from pipeline_lib.projects.proposal import Choice
from pipeline_lib.projects.splits import Row
from pipeline_lib.runtime.errors import InputError

TABLE, CONFIG, RESULTS = "volumes.tsv", "config.yaml", "results"
#: Order of the sections of a config.
SECTIONS = ("dataset", "weight_map", "network", "augmentation", "training", "prediction", "segmentation")


def require_new(to: Path) -> None:
    """Raise `InputError` if a file that would be written exists.

    Parameters
    ----------
    to : Path
        Folder to write to.

    Raises
    ------
    InputError
        The message names the file.
    """
    for name in (TABLE, CONFIG):
        if (to / name).exists():
            raise InputError(
                f"{to / name}: exists, and is not overwritten. Move it away, or write to another folder: "
                "--to DIR."
            )


def table_text(rows: Sequence[Row]) -> str:
    """Return the table of volumes.

    Parameters
    ----------
    rows : sequence of Row
        Its rows.

    Returns
    -------
    str
        Tab-separated text with a header.
    """
    columns = ["volume", "images", "annotation", "sections", "split"]
    columns += ["rows"] if any(row.rows for row in rows) else []
    lines = [columns] + [[getattr(row, name) or "" for name in columns] for row in rows]
    return "".join("\t".join(line) + "\n" for line in lines)


def config_text(
    head: Sequence[str], data_dir: Path, results: Path, title: str, choices: Sequence[Choice]
) -> str:
    """Return the config, with the reason for each value as a comment.

    Parameters
    ----------
    head : sequence of str
        Lines of the comment at the top.
    data_dir : Path
        Folder that the paths of the table start from.
    results : Path
        Folder of the results.
    title : str
        Title of the report.
    choices : sequence of Choice
        Settings.

    Returns
    -------
    str
        YAML.
    """
    lines = [f"# {line}" for line in head]
    lines += [
        "",
        f"volumes: {TABLE} # next to this file",
        f"data_dir: {_yaml(str(data_dir))} # paths in the table start here; change it if the images move",
        f"results: {_yaml(str(results))}",
    ]
    ordered = sorted(choices, key=lambda choice: SECTIONS.index(choice.section))
    for section, own in groupby(ordered, key=lambda choice: choice.section):
        lines += ["", f"{section}:"]
        lines += [f"  {key}: {_yaml(value)} # {reason}" for _, key, value, reason in own]
    lines += ["", "report:", f"  title: {_yaml(title)}", ""]
    return "\n".join(lines)


def _yaml(value: object) -> str:
    """Return a value as YAML on one line, without quotes where none are needed."""
    plain = r"[A-Za-z/][A-Za-z0-9_./-]*( [A-Za-z0-9_./-]+)*"
    if isinstance(value, str) and re.fullmatch(plain, value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
