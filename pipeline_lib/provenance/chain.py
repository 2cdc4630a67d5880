"""Trace a file back to the raw images through its records, and check that each file is unchanged."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline_lib.provenance.record import FOLDER, digest, find_record, read_record, record_path
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import sha256
from pipeline_lib.runtime.types import Json

State: TypeAlias = Literal["unchanged", "changed", "missing", "unknown"]


@dataclass
class Link:
    """A file of a chain.

    Parameters
    ----------
    path : Path
        Current location of the file.
    record : dict or None
        Its record, None for raw images.
    state : {"unchanged", "changed", "missing", "unknown"}
        State of the file compared with its record; `unknown` if no SHA-256 was recorded.
    inputs : dict of str to bool, optional
        Recorded path of each file it was made from, and whether that file is still the same as far as is
        known. By default empty.
    """

    path: Path
    record: Json | None
    state: State
    inputs: dict[str, bool] = field(default_factory=dict)

    @property
    def still_holds(self) -> bool:
        """Whether file and inputs are unchanged; a file may be missing if it can be made again."""
        lost = self.state == "missing" and self.record is None
        return self.state != "changed" and not lost and all(self.inputs.values())


def chain(path: str | Path, *others: str | Path) -> dict[str, Link]:
    """Return all files that a file was made from, back to the raw images.

    Recorded paths are relative to the folder in which the workflow ran. If results were moved or copied,
    their new location is derived from that of `path`.

    Parameters
    ----------
    path : str or Path
        A file that bordure wrote. It may be missing if its record exists.
    *others : str or Path
        Further files of the same run, with a record.

    Returns
    -------
    dict of str to Link
        Recorded path -> file. The file at `path` comes first, then `others`.

    Raises
    ------
    InputError
        If neither the file nor its record exists, or it has no record.
    """
    path = Path(path)
    if not path.exists() and not record_path(path).exists():
        raise InputError(f"{path}: no such file. Name a file that bordure wrote, such as results/scores.csv.")
    record = find_record(path)
    if path.is_dir():
        raise InputError(f"{path}: found a folder. Name a file in it, such as {path / 'scores.csv'}.")
    if record is None:
        raise InputError(
            f"{path}: has no record. Either bordure did not make it, or it was copied without the folder "
            f"`{FOLDER}` next to it, which contains the records of tables and pages. Name a file that "
            "bordure wrote."
        )
    name = record.get("file", str(path))
    links: dict[str, Link] = {}
    places = {name: path} | {
        (find_record(other) or {}).get("file", str(other)): Path(other) for other in others
    }
    waiting = deque(places)
    while waiting:
        name = waiting.popleft()
        if name in links:
            continue
        link = _look(places.get(name) or _now(name, path, record.get("file")))
        links[name] = link
        made_from = (link.record or {}).get("inputs", {}) | (link.record or {}).get("records", {})
        waiting += made_from
        link.inputs = dict.fromkeys(made_from, True)
    for link in links.values():
        recorded, records = ((link.record or {}).get(kind, {}) for kind in ("inputs", "records"))
        for source in link.inputs:
            now = links[source]
            if source in recorded:
                same = not now.path.exists() or sha256(now.path) == recorded[source]
            else:
                same = now.record is None or digest(now.record) == records[source]
            link.inputs[source] = same and now.state != "changed"
            if now.state == "unknown" and source in recorded:
                now.state = "unchanged" if same else "changed"
    return links


def _now(name: str, path: Path, recorded: str | None) -> Path:
    """Return the current path of the file recorded as `name`, assuming it was moved along with `path`."""
    if recorded is None or Path(name).is_absolute() != Path(recorded).is_absolute():
        return Path(name)
    then, now = Path(recorded).parts, path.absolute().parts
    while then and then[-1] == now[-1]:  # the common end did not change in the move
        then, now = then[:-1], now[:-1]
    parts = Path(name).parts
    return Path(*now, *parts[len(then) :]) if parts[: len(then)] == then else Path(name)


def _look(path: Path) -> Link:
    if not path.exists():
        return Link(path, read_record(path) if record_path(path).exists() else None, "missing")
    record = find_record(path)
    if record is None or "sha256" not in record:
        return Link(path, record, "unknown")
    return Link(path, record, "unchanged" if sha256(path) == record["sha256"] else "changed")


_STATES: dict[State, str] = {
    "unchanged": "",
    "changed": "CHANGED since it was written",
    "missing": "missing",
    "unknown": "no SHA-256 to compare with",
}


def describe(links: dict[str, Link]) -> Iterator[str]:
    """Yield the lines of a tree that shows each file of a chain and, below it, the files it was made from.

    Parameters
    ----------
    links : dict of str to Link
        Result of `chain`.

    Yields
    ------
    str
        One line of text.
    """
    first = next(iter(links))
    common = links[first].record or {}
    packages = common.get("packages", {})
    yield f"bordure {common.get('version')}; " + ", ".join(" ".join(pair) for pair in packages.items())
    yield ""
    shown: set[str] = set()

    def tree(name: str, here: str, below: str, same: bool) -> Iterator[str]:
        link = links[name]
        state = _STATES[link.state] or ("" if same else "CHANGED since this was made from it")
        again = "(see above)" if name in shown and link.inputs else ""
        yield here + "   ".join(
            filter(None, [name, state.upper() if link.state == "missing" else state, again])
        )
        if name in shown:
            return
        shown.add(name)
        rim = below + ("| " if link.inputs else "  ")
        for line in _lines(link.record, common):
            yield rim + line
        for number, (source, same) in enumerate(link.inputs.items(), 1):
            last = number == len(link.inputs)
            yield from tree(
                source, below + ("`-- " if last else "|-- "), below + ("    " if last else "|   "), same
            )

    yield from tree(first, "", "", True)
    states = [link.state for link in links.values()]
    counted = {word: states.count(word) for word in ("unchanged", "changed", "missing", "unknown")}
    yield ""
    yield f"{len(links)} files: " + ", ".join(f"{n} {word}" for word, n in counted.items() if n)


def _lines(record: Json | None, common: Json) -> Iterator[str]:
    """Yield the content of a record; version and packages only if they differ from those of `common`."""
    if record is None:
        return
    precision = (record | record.get("environment", {})).get("precision", "")
    did = [record.get("stage", "written"), record.get("device", ""), precision]
    if "seconds" in record:
        did += [
            f"{record['threads']} threads" if record["threads"] > 1 else "1 thread",
            f"{record['seconds']:.2f} s",
            f"{record['peak_memory'] / 1e6:.0f} MB",
            f"finished {record['finished']}",
        ]
    yield ", ".join(filter(None, did))
    if settings := record.get("settings"):
        yield json.dumps(settings)
    if record.get("version") != common.get("version"):
        yield f"by bordure {record.get('version')}"
    if record.get("packages") != common.get("packages"):
        yield f"with {json.dumps(record.get('packages'))}"
