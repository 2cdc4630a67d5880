"""Acceptance stage: end the run before the training if a doubt of the check is not accepted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline_lib import provenance
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.runtime.types import Json

__all__ = ["require_accepted"]

_LISTED = 8  # doubts in an error message


def require_accepted(doubts: str | Path, page: str | Path, output: str | Path) -> None:
    """Raise `InputError` if doubts stop the run, or write the list of doubts that were accepted.

    Parameters
    ----------
    doubts : str or Path
        JSON file of `stages.check.check`.
    page : str or Path
        Its page, named in the message.
    output : str or Path
        JSON file to write.

    Raises
    ------
    InputError
        If a doubt is above the limit and not accepted. The message lists these doubts with what to type.
    """
    with provenance.making("require_accepted", [output], [doubts]) as record:
        content = read_json(doubts)
        if stopping := [doubt for doubt in content["doubts"] if doubt["state"] == "stops"]:
            raise InputError(_message(stopping, page, content["provenance"]["settings"]["accept"]))
        accepted = [doubt for doubt in content["doubts"] if doubt["state"] == "accepted"]
        write_json(output, {"accepted": accepted, "provenance": record})


def _message(stopping: Sequence[Json], page: str | Path, accepted: Sequence[str]) -> str:
    """Return the message that lists doubts, and what to type to continue."""
    number = "1 doubt stops" if len(stopping) == 1 else f"{len(stopping)} doubts stop"
    lines = [f"{number} the run; {page} shows pictures. Sections are counted from 1."]
    lines += [f"  {doubt['volume']}, {doubt['name']}: {doubt['text']}" for doubt in stopping[:_LISTED]]
    if len(stopping) > _LISTED:
        lines.append(f"  ... and {len(stopping) - _LISTED} more.")
    if acceptable := [doubt for doubt in stopping if doubt["weight"] < 1]:  # others are certain
        entries = [f"{doubt['volume']}:{doubt['name']}" for doubt in acceptable]
        if len(entries) > _LISTED:
            entries = [doubt["name"] for doubt in acceptable]
        entries = [*dict.fromkeys([*accepted, *entries])]
        lines.append(f"If everything is right, set `check: {{accept: [{', '.join(entries)}]}}`.")
    return "\n".join(lines)
