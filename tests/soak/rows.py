"""Rows of the table of results: one row per kind of fault."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline_lib.runtime.files import read_json


@dataclass(frozen=True)
class Row:
    """Result of one kind of fault.

    Parameters
    ----------
    fault : str
        Description of the fault.
    times : int
        How often it was injected.
    right : int
        How often the outcome was as documented.
    figures : mapping
        Further figures.
    wrong : sequence of str
        Description of each outcome that was not as documented.
    left_out : str
        Why the fault could not be injected on this machine; empty if it could.
    """

    fault: str
    times: int
    right: int
    figures: Mapping[str, Any] = field(default_factory=dict)
    wrong: Sequence[str] = ()
    left_out: str = ""

    @property
    def holds(self) -> bool:
        return not (self.left_out or self.wrong) and self.times == self.right > 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"holds": self.holds}


def print_row(row: Row) -> None:
    """Print a row and, below it, its figures and what was wrong."""
    result = f"left out: {row.left_out}" if row.left_out else f"{row.right} of {row.times}"
    print(f"{'    ' if row.holds else 'NOT '}{row.fault:50}  {result}", flush=True)
    for name, value in row.figures.items():
        print(f"        {name}: {value}")
    for what in row.wrong:
        print(f"      WRONG {what}", flush=True)


def table(kept: Mapping[str, Any]) -> str:
    """Return a JSON file of results as a Markdown table, for docs/measurements/reliability.md."""
    lines = ["| fault | right | figures |", "|---|---|---|"]
    for part in kept.values():
        for row in part["rows"]:
            right = f"left out: {row['left_out']}" if row["left_out"] else f"{row['right']} of {row['times']}"
            short = {name: value for name, value in row["figures"].items() if len(str(value)) < 20}
            figures = ", ".join(f"{name} {value}" for name, value in short.items())
            lines.append(f"| {row['fault']} | {right} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":  # python -m tests.soak.rows tests/soak/results/MACHINE.json
    print(table(read_json(sys.argv[1])))
