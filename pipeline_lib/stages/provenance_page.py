"""Provenance page stage: show the inputs, settings and cost of each file of a run on one HTML page."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_lib import provenance
from pipeline_lib.pages import write_page
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

__all__ = ["write_provenance_page"]

RAW = "raw files"
OPEN_UP_TO = 60  # files; with more, all stages are folded at first
# Entries of a record other than settings and facts that a stage recorded
_SHOWN_APART = {
    "file", "sha256", "bytes", "stage", "version", "settings", "inputs", "records", "packages", "seconds",
    "peak_memory", "finished",
}  # fmt: skip
BOX, GAP = (172, 52), (20, 34)  # px, width and height


@dataclass
class File:
    """A file of the run.

    Parameters
    ----------
    path : str
        Path as recorded.
    shown : str
        Path as the page shows it: relative to the results folder for files of the run.
    record : dict or None
        Its provenance record, None for raw files.
    inputs : dict of str to (str or None)
        SHA-256 of each file it was made from, None if only the record of that file was compared.
    gone : bool
        Whether the file no longer exists.
    digests : list of str
        Its SHA-256. For a raw file, each different SHA-256 with which it was used.
    outdated : set of str
        Inputs that were replaced by different content after this file was made from them.
    id : str
        Identifier in the page, to which links lead.
    runs_before : int
        How many runs earlier it was made, if the training started from the model of an earlier run.
    """

    path: str
    shown: str
    record: Json | None
    inputs: dict[str, str | None]
    gone: bool
    digests: list[str] = field(default_factory=list)
    outdated: set[str] = field(default_factory=set)
    id: str = ""
    runs_before: int = 0

    @property
    def stage(self) -> str:
        """Name of the stage that made the file, with the run if it is an earlier one; `RAW` for raw files."""
        if not self.record:
            return RAW
        before = {0: "", 1: ", run before"}.get(self.runs_before, f", {self.runs_before} runs before")
        return f"{self.record['stage']}{before}"

    @cached_property
    def made_with(self) -> dict[str, Any]:
        """Settings, and facts such as device and threads, under names such as `training.tile`."""
        record = self.record or {}
        added = {name: value for name, value in record.items() if name not in _SHOWN_APART}
        return dict(_flat(record.get("settings", {}) | added))


@dataclass
class Group:
    """The files of one stage.

    Parameters
    ----------
    stage : str
        Name of the stage.
    files : list of File
        Its files.
    common : dict
        Settings that have the same value for all files.
    columns : list of str
        Names of the other settings.
    seconds : float
        Total time (s). Files that were made together count once.
    peak_memory : int
        Largest peak memory of a job (bytes).
    """

    stage: str
    files: list[File]
    common: dict[str, Any]
    columns: list[str]
    seconds: float
    peak_memory: int


class Chart(NamedTuple):
    """Chart of the stages, in px from the upper left corner.

    Parameters
    ----------
    boxes : dict of str to (float, float)
        Upper left corner (x, y) of the box of each stage.
    lines : list of str
        SVG paths of the arrows.
    extent : (float, float)
        Width and height.
    """

    boxes: dict[str, tuple[float, float]]
    lines: list[str]
    extent: tuple[float, float]


def write_provenance_page(starts: Sequence[str | Path], output: str | Path, *, title: str) -> None:
    """Write the HTML page that shows the origin of the given files, back to the raw images.

    The page is made only from the records next to the files (`provenance.record_path`). The files themselves
    are not read.

    Parameters
    ----------
    starts : sequence of str or Path
        Files whose origin is shown. The first is the report, which must be in the folder of the page; both
        link to each other.
    output : str or Path
        HTML file to write.
    title : str
        Title of the report.

    Raises
    ------
    InputError
        If a record is damaged, or the report differs from its record.
    """
    with provenance.making("report", [output], [starts[0]]):
        files = read_files(starts)
        made = [file for file in files.values() if file.record]
        records = [file.record for file in made if file.record]
        groups = group_by_stage(files.values())
        chart = draw_chain(stage_inputs(files))
        write_page(
            "provenance.html.jinja",
            output,
            title=title,
            report=Path(starts[0]).name,
            groups=groups,
            files=files,
            unfolded=len(files) <= OPEN_UP_TO,
            raw=(raw := [file for file in files.values() if not file.record]),
            unrecorded=[file.path for file in raw if Path(file.path).is_relative_to(Path(starts[0]).parent)],
            made=made,
            outdated=[file for file in made if file.outdated],
            versions=(versions := values_of("version", made)),
            dirty=any("-dirty" in version for version, _ in versions),
            packages={
                name: values_of(name, made, "packages")
                for name in sorted({name for record in records for name in record["packages"]})
            },
            finished=[of([record["finished"] for record in records])[:-4].split("T") for of in (min, max)],
            seconds=sum(group.seconds for group in groups),
            slowest=max(group.seconds for group in groups),
            boxes=chart.boxes,
            lines=chart.lines,
            extent=chart.extent,
            box_size=BOX,
        )
    logger.info("%s: %d files", output, len(files))


def read_files(starts: Iterable[str | Path]) -> dict[str, File]:
    """Read the records of the given files and of all files they were made from, back to the raw images.

    Parameters
    ----------
    starts : iterable of str or Path
        Files with records. The folder of the first is the results folder.

    Returns
    -------
    dict of str to File
        Files by path, sorted by the order of their stages.
    """
    records: dict[str, Json | None] = {}
    waiting = list(map(str, starts))
    folder = Path(waiting[0]).parent
    while waiting:
        path = waiting.pop()
        if path not in records:
            record_file = provenance.record_path(path)
            records[path] = read_json(record_file) if record_file.exists() else None
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
    _count_runs(files)
    layer = layers(stage_inputs(files))
    ordered = sorted(files.values(), key=lambda file: (layer[file.stage], file.stage, file.shown))
    for number, file in enumerate(ordered):
        file.id = f"f{number}"
    return {file.path: file for file in ordered}


def _count_runs(files: dict[str, File]) -> None:
    """Find out which files are of earlier runs: a stage from which the same stage is reached again is one.

    Otherwise the stages would form a circle, as a training that starts from the model of an earlier run
    depends on a training.
    """
    waiting = dict.fromkeys(files, 0)  # how many files that were made from it are still to be seen
    for file in files.values():
        for path in file.inputs:
            waiting[path] += 1
    later: dict[str, set[str]] = {path: set() for path in files}  # stages of the same run that follow
    ready = [path for path, number in waiting.items() if not number]
    while ready:
        file = files[ready.pop()]
        stage = file.record["stage"] if file.record else RAW
        for path in file.inputs:
            source = files[path]
            own = source.record["stage"] if source.record else RAW
            if source.record:
                again = own != stage and own in later[file.path]
                run = file.runs_before + again
                if run > source.runs_before:
                    source.runs_before, later[path] = run, set()
                if run == source.runs_before and not again:
                    later[path] |= later[file.path] | {stage}
            waiting[path] -= 1
            if not waiting[path]:
                ready.append(path)


def _inputs(record: Json | None) -> dict[str, str | None]:
    if record is None:
        return {}
    return record["inputs"] | dict.fromkeys(record.get("records", ()))


def _shown(path: str, folder: str | Path) -> str:
    """Return the path relative to the results folder, or unchanged for a file outside it."""
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def values_of(name: str, files: Iterable[File], section: str = "") -> list[tuple[str, int]]:
    """Count the different values of one entry of the records.

    Parameters
    ----------
    name : str
        Key of the entry.
    files : iterable of File
        Files with records.
    section : str, default ""
        Section of the record that has the entry. Empty means the record itself.

    Returns
    -------
    list of (str, int)
        Values and the number of files that have each, the most common first.
    """
    found = (file.record for file in files if file.record)
    records = (record[section] if section else record for record in found)
    return Counter(record[name] for record in records if name in record).most_common()


def group_by_stage(files: Iterable[File]) -> list[Group]:
    """Group files by the stage that made them.

    Parameters
    ----------
    files : iterable of File
        Files in the order of their stages.

    Returns
    -------
    list of Group
        One group per stage, in the same order.
    """
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
    # Files that were made together have equal entries here; each records the time of the whole job.
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


def _flat(settings: Json, section: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the names (`training.tile`) and values of nested settings."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{section}{name}.")
        else:
            yield f"{section}{name}", value


def stage_inputs(files: dict[str, File]) -> dict[str, set[str]]:
    """Find which stages use files of which other stages.

    Parameters
    ----------
    files : dict of str to File
        Files by path.

    Returns
    -------
    dict of str to set of str
        For each stage, the other stages that made its inputs.
    """
    found: dict[str, set[str]] = {}
    for file in files.values():
        sources = {files[path].stage for path in file.inputs}
        found.setdefault(file.stage, set()).update(sources - {file.stage})
    return found


def layers(inputs: dict[str, set[str]]) -> dict[str, int]:
    """Assign each stage to a row of the chart, below all stages whose files it uses.

    Parameters
    ----------
    inputs : dict of str to set of str
        For each stage, the other stages that made its inputs.

    Returns
    -------
    dict of str to int
        Row of each stage: 0 without inputs, else 1 + the largest row of its inputs.
    """
    layer = dict.fromkeys(inputs, 0)
    for _ in inputs:  # at least as often as the longest chain has links
        for stage, sources in inputs.items():
            layer[stage] = max((layer[source] + 1 for source in sources), default=0)
    return layer


def draw_chain(inputs: dict[str, set[str]]) -> Chart:
    """Lay out the chart of the stages.

    The arrow between two stages is omitted if there is also a path through other stages. An arrow that
    crosses several rows gets its own place in each of them, so that it crosses no box.

    Parameters
    ----------
    inputs : dict of str to set of str
        For each stage, the other stages that made its inputs.

    Returns
    -------
    Chart
        Boxes and arrows (px).
    """
    layer = layers(inputs)
    rows: list[list[str]] = [[] for _ in range(max(layer.values()) + 1)]
    paths = [
        [source, *(f"{source}>{stage}@{row}" for row in range(layer[source] + 1, layer[stage])), stage]
        for stage, sources in inputs.items()
        for source in sorted(sources)
        if not any(source in _all_inputs(other, inputs) for other in sources - {source})
    ]
    above: dict[str, list[str]] = {stage: [] for stage in inputs}
    for stage, row in layer.items():
        rows[row].append(stage)
    for path in paths:
        for row, (upper, lower) in enumerate(pairwise(path), layer[path[0]] + 1):
            if lower not in above:
                rows[row].append(lower)
            above.setdefault(lower, []).append(upper)
    width = {name: BOX[0] if name in layer else 0 for name in above}
    left = _columns(rows, above, width)
    middle = {name: x + width[name] / 2 for name, x in left.items()}
    top = [row * (BOX[1] + GAP[1]) for row in range(len(rows))]
    lines = []
    for path in paths:
        line = ""
        for row, (upper, lower) in enumerate(pairwise(path), layer[path[0]]):
            x0, x1, y0, y1 = middle[upper], middle[lower], top[row] + BOX[1], top[row + 1]
            line += f"{'L' if line else 'M'}{x0:g} {y0} C{x0:g} {y1} {x1:g} {y0} {x1:g} {y1}"
        lines.append(line)
    boxes: dict[str, tuple[float, float]] = {stage: (left[stage], top[row]) for stage, row in layer.items()}
    return Chart(boxes, lines, (max(left[name] + width[name] for name in left), top[-1] + BOX[1]))


def _columns(
    rows: list[list[str]], above: dict[str, list[str]], width: Mapping[str, float]
) -> dict[str, float]:
    """Return the left edge (px) of each name, as close as possible below the names that lead to it."""
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
    """Return all stages from which a path leads to `stage`."""
    found: set[str] = set()
    waiting = [stage]
    while waiting:
        new = inputs[waiting.pop()] - found
        found |= new
        waiting += new
    return found
