"""Provenance page: what made each file of a run, from what, how and in what time (HTML)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline_lib import provenance
from pipeline_lib.pages import write_page
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger

RAW = "raw files"
OPEN_UP_TO = 60  # files, all of which are seen at once; of more, a stage at a time
# What a record holds besides the settings of its stage and what the stage added to them
_SHOWN_APART = {
    "file", "sha256", "bytes", "stage", "version", "settings", "inputs", "records", "packages", "seconds",
    "peak_memory", "finished",
}  # fmt: skip
BOX, GAP = (172, 52), (20, 34)  # px, width and height


@dataclass
class File:
    """A file of the run: `record` is what lies beside it, None for raw files.

    `digests` is its SHA-256; of a raw file, all that it was used with. `outdated` are the inputs that have
    been made anew, with other bytes, since this file was made of them.
    """

    path: str
    shown: str
    record: dict[str, Any] | None
    inputs: dict[str, str | None]  # path -> SHA-256, None where only its record was looked at
    gone: bool
    digests: list[str] = field(default_factory=list)
    outdated: set[str] = field(default_factory=set)
    id: str = ""

    @property
    def stage(self) -> str:
        """What made it, `RAW` for what was given."""
        return self.record["stage"] if self.record else RAW

    @cached_property
    def made_with(self) -> dict[str, Any]:
        """The settings it was made with, device and threads too: `training.tile` and the like -> value."""
        record = self.record or {}
        added = {name: value for name, value in record.items() if name not in _SHOWN_APART}
        return dict(_flat(record.get("settings", {}) | added))


@dataclass
class Group:
    """The files of one stage; settings that all of them share in `common`, the names of others in `columns`.

    `seconds` counts files that were made together once, `peak_memory` is in bytes.
    """

    stage: str
    files: list[File]
    common: dict[str, Any]
    columns: list[str]
    seconds: float
    peak_memory: int


def write_provenance_page(starts: Sequence[Path], output: Path, *, title: str) -> None:
    """Write the page of all files that those at `starts` were made from, back to the raw ones (HTML).

    It is made of the records beside them alone (`provenance.beside`): no file is read or hashed. The first of
    `starts` is the report that links to the page, and lies beside it.
    """
    with provenance.making("report", [output], [starts[0]]):
        files = read_files(starts)
        made = [file for file in files.values() if file.record]
        groups = group_by_stage(files.values())
        boxes, lines, extent = draw_chain(stage_inputs(files))
        write_page(
            "provenance.html.jinja",
            output,
            title=title,
            report=Path(starts[0]).name,
            groups=groups,
            files=files,
            unfolded=len(files) <= OPEN_UP_TO,
            raw=(raw := [file for file in files.values() if not file.record]),
            unrecorded=[file.path for file in raw if Path(file.path).is_relative_to(starts[0].parent)],
            made=made,
            outdated=[file for file in made if file.outdated],
            versions=(versions := values_of("version", made)),
            dirty=any("-dirty" in version for version, _ in versions),
            packages={
                name: values_of(name, made, "packages")
                for name in sorted({name for file in made for name in file.record["packages"]})
            },
            finished=[of([file.record["finished"] for file in made])[:-4].split("T") for of in (min, max)],
            seconds=sum(group.seconds for group in groups),
            slowest=max(group.seconds for group in groups),
            boxes=boxes,
            lines=lines,
            extent=extent,
            box_size=BOX,
        )
    logger.info("%s: %d files", output, len(files))


def read_files(starts: Iterable[str | Path]) -> dict[str, File]:
    """Path -> file, of all that those at `starts` were made from, in the order of the stages."""
    records: dict[str, dict[str, Any] | None] = {}
    waiting = list(map(str, starts))
    folder = Path(waiting[0]).parent
    while waiting:
        path = waiting.pop()
        if path not in records:
            beside = provenance.record_path(path)
            records[path] = read_json(beside) if beside.exists() else None
            waiting += _inputs(records[path])
    files = {
        path: File(path, _shown(path, folder), record, _inputs(record), not Path(path).exists())
        for path, record in records.items()
    }
    for file in files.values():
        if file.record:
            file.digests = [file.record["sha256"]]
        for path, digest in file.inputs.items():
            source = files[path]
            if source.record and digest not in (None, source.record["sha256"]):
                file.outdated.add(path)
            elif not source.record and digest and digest not in source.digests:
                source.digests.append(digest)
        for path, digest in (file.record or {}).get("records", {}).items():
            if (source := files[path]).record and provenance.digest(source.record) != digest:
                file.outdated.add(path)
    layer = layers(stage_inputs(files))
    ordered = sorted(files.values(), key=lambda file: (layer[file.stage], file.stage, file.shown))
    for number, file in enumerate(ordered):
        file.id = f"f{number}"
    return {file.path: file for file in ordered}


def _inputs(record: dict[str, Any] | None) -> dict[str, str | None]:
    if record is None:
        return {}
    return record["inputs"] | dict.fromkeys(record.get("records", ()))


def _shown(path: str, folder: Path) -> str:
    """Files of the run from its folder on, raw ones as they were given."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def values_of(name: str, files: Iterable[File], section: str = "") -> list[tuple[str, int]]:
    """The values of one entry of the records and how many files have each, the most common first."""
    records = (file.record[section] if section else file.record for file in files)
    return Counter(record[name] for record in records if name in record).most_common()


def group_by_stage(files: Iterable[File]) -> list[Group]:
    """The files of each stage, in their order."""
    by_stage: dict[str, list[File]] = {}
    for file in files:
        by_stage.setdefault(file.stage, []).append(file)
    return [_group(stage, members) for stage, members in by_stage.items()]


def _group(stage: str, files: list[File]) -> Group:
    facts = [file.made_with for file in files]
    names = dict.fromkeys(name for of_file in facts for name in of_file)
    common = {
        name: facts[0][name]
        for name in names
        if all(name in of_file and of_file[name] == facts[0][name] for of_file in facts)
    }
    # files that were made together have the time of all of them
    times = {
        json.dumps([file.record[key] for key in ("settings", "inputs", "finished", "seconds")]): file.record
        for file in files
        if file.record
    }
    return Group(
        stage,
        files,
        common,
        [name for name in names if name not in common],
        sum(record["seconds"] for record in times.values()),
        max((record["peak_memory"] for record in times.values()), default=0),
    )


def _flat(settings: dict[str, Any], section: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value


def stage_inputs(files: dict[str, File]) -> dict[str, set[str]]:
    """Stage -> the other stages that made what it was given."""
    found: dict[str, set[str]] = {}
    for file in files.values():
        sources = {files[path].stage for path in file.inputs}
        found.setdefault(file.stage, set()).update(sources - {file.stage})
    return found


def layers(inputs: dict[str, set[str]]) -> dict[str, int]:
    """Stage -> 0 where it was given nothing, else one more than the largest of those that gave it files."""
    layer = dict.fromkeys(inputs, 0)
    for _ in inputs:  # as often as the longest chain has links
        for stage, sources in inputs.items():
            layer[stage] = max((layer[source] + 1 for source in sources), default=0)
    return layer


def draw_chain(
    inputs: dict[str, set[str]],
) -> tuple[dict[str, tuple[float, float]], list[str], tuple[float, float]]:
    """The picture of the stages, in px: upper left corners of their boxes, lines as SVG paths, extent (x, y).

    A line from one stage to another is left out where a way over other stages leads there, too. A line over
    several layers has a place of its own in each of them, so that it crosses no box.
    """
    layer = layers(inputs)
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    ways = [
        [source, *(f"{source}>{stage}@{row}" for row in range(layer[source] + 1, layer[stage])), stage]
        for stage, sources in inputs.items()
        for source in sorted(sources)
        if not any(source in _all_inputs(other, inputs) for other in sources - {source})
    ]
    above: dict[str, list[str]] = {stage: [] for stage in inputs}
    for stage, row in layer.items():
        rows[row].append(stage)
    for way in ways:
        for row, (upper, lower) in enumerate(pairwise(way), layer[way[0]] + 1):
            if lower not in above:
                rows[row].append(lower)
            above.setdefault(lower, []).append(upper)
    width = {name: BOX[0] if name in layer else 0 for name in above}
    left = _columns(rows, above, width)
    middle = {name: x + width[name] / 2 for name, x in left.items()}
    top = [row * (BOX[1] + GAP[1]) for row in range(len(rows))]
    lines = []
    for way in ways:
        path = ""
        for row, (upper, lower) in enumerate(pairwise(way), layer[way[0]]):
            x0, x1, y0, y1 = middle[upper], middle[lower], top[row] + BOX[1], top[row + 1]
            path += f"{'L' if path else 'M'}{x0:g} {y0} C{x0:g} {y1} {x1:g} {y0} {x1:g} {y1}"
        lines.append(path)
    boxes = {stage: (left[stage], top[row]) for stage, row in layer.items()}
    return boxes, lines, (max(left[name] + width[name] for name in left), top[-1] + BOX[1])


def _columns(rows: list[list[str]], above: dict[str, list[str]], width: dict[str, float]) -> dict[str, float]:
    """Name -> left edge in px, so that all stand as far as there is room below what leads to them."""
    left: dict[str, float] = {}
    for row in rows:
        wanted = {
            name: sum(left[one] + width[one] / 2 for one in above[name]) / max(len(above[name]), 1)
            - width[name] / 2
            for name in row
        }
        end = -math.inf
        for name in sorted(row, key=lambda name: wanted[name] + width[name] / 2):
            left[name] = max(wanted[name], end + GAP[0])
            end = left[name] + width[name]
        shift = sum(wanted[name] - left[name] for name in row) / len(row)
        left |= {name: left[name] + shift for name in row}
    first = min(left.values())
    return {name: x - first for name, x in left.items()}


def _all_inputs(stage: str, inputs: dict[str, set[str]]) -> set[str]:
    found, waiting = set(), [stage]
    while waiting:
        new = inputs[waiting.pop()] - found
        found |= new
        waiting += new
    return found
