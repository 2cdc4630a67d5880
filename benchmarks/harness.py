"""Common code of the benchmarks: timing, peak memory, description of the machine, rows of the table.

Most figures are ratios to an anchor that is timed in the same run. Each round times all candidates in turn,
and the figure is the median over rounds of the ratio within a round. So slow changes in the speed of the
machine have no effect.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline_lib.runtime.log import peak_memory

__all__ = [
    "RESULTS",
    "Row",
    "forget_peak",
    "machine",
    "main",
    "peak_memory",
    "print_table",
    "ratio",
    "seconds",
    "side_by_side",
]
RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "numpy", "scipy", "numba", "h5py", "monai")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Parameters
    ----------
    what : str
        What was measured.
    anchor : str
        What it is compared with.
    value : float
        Ratio of `what` to `anchor`, or another figure, in `unit`.
    unit : str
        Unit of `value`, such as `x the time` or `x faster`.
    aim : float or None
        Limit that `value` should reach, None if there is none.
    higher_is_better : bool
        Whether `aim` is a minimum instead of a maximum.
    details : mapping
        Further figures, which are stored but not printed.
    """

    what: str
    anchor: str
    value: float
    unit: str = "x the time"
    aim: float | None = None
    higher_is_better: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        if self.aim is None:
            return None
        return bool(self.value >= self.aim if self.higher_is_better else self.value <= self.aim)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"value": float(self.value), "reached": self.reached}


def seconds(call: Callable[[], Any]) -> float:
    """Return the wall time of one call in seconds, including work on the GPU."""
    _wait_for_gpu()
    start = time.perf_counter()
    call()
    _wait_for_gpu()
    return time.perf_counter() - start


def side_by_side(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each candidate in each round. A first call for warming up is not counted."""
    for call in candidates.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, call in candidates.items():
            times[name].append(seconds(call))
    return times


def ratio(times: Mapping[str, list[float]], of: str, to: str) -> float:
    """Return the median over rounds of the time of `of` divided by the time of `to` in the same round."""
    return statistics.median(a / b for a, b in zip(times[of], times[to], strict=True))


def forget_peak() -> None:
    """Reset `peak_memory` to the current memory of this process (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def machine() -> dict[str, Any]:
    """Return processor, number of cores, GPU, and the versions of Python and important packages."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": cpu[1].strip() if cpu else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": _gpu(),
        "python": platform.python_version(),
        **versions,
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(measure: Callable[[], list[Row]]) -> None:
    """Measure and print the rows of one module: as a table, or with `--json` for `python -m benchmarks`."""
    rows = measure()
    if "--json" in sys.argv[1:]:
        print(json.dumps([row.as_dict() for row in rows]))
    else:
        print_table([row.as_dict() for row in rows])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one line per row: what, figure, aim, whether it is reached, and anchor."""
    width = max(len(row["what"]) for row in rows)
    for row in rows:
        sign = ">=" if row["higher_is_better"] else "<="
        aim = "" if row["aim"] is None else f"{sign} {row['aim']:g}"
        verdict = {True: "reached", False: "MISSED", None: ""}[row["reached"]]
        figure = f"{row['value']:8.3g} {row['unit']:<14} {aim:>8} {verdict:<8}"
        print(f"{row['what']:<{width}}  {figure} {row['anchor']}")
