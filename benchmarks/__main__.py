"""Run the short benchmarks: `python -m benchmarks [NAMES]`. Each name selects a module `bench_<name>.py`.

Each module runs in its own process. The figures are printed as one table and stored in
`benchmarks/results/<machine>.json`, together with machine, versions and command. If only some NAMES are
measured, the stored figures of the others are kept.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from pipeline_lib import provenance
from pipeline_lib.runtime.files import read_json, write_json

FOLDER = Path(__file__).parent
LONG = {"large", "many", "detection"}  # run by `make bench-large`, which writes a separate file of results


def main(names: Sequence[str]) -> int:
    """Measure `names`, or all; return the exit status, 1 if a name is unknown or a module failed, else 0."""
    known = sorted({path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")} - LONG)
    if unknown := sorted({*names} - {*known}):
        print(
            f"error: no benchmark {', '.join(unknown)}. Expected one of {', '.join(known)}.", file=sys.stderr
        )
        return 1
    machine = harness.machine()
    path = harness.RESULTS / f"{slug(machine)}.json"
    stored = read_json(path) if path.exists() else {}
    measured, failed = {}, {}
    for name in names or known:
        command = f"python -m benchmarks.bench_{name}"
        print(f"{command} ... ", end="", file=sys.stderr, flush=True)
        start = time.monotonic()
        try:
            rows = measure(name)
        except (RuntimeError, json.JSONDecodeError) as error:
            failed[name] = str(error)
            print("failed", file=sys.stderr)
            continue
        print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
        origin = {"bordure": provenance.version(), "machine": machine, "command": command}
        measured[name] = origin | {"rows": rows}
        every = stored | measured
        write_json(path, {name: every[name] for name in known if name in every})
    if measured:
        harness.print_table([row for entry in measured.values() for row in entry["rows"]])
        print(f"stored in {path}")
    for name, message in failed.items():
        print(f"error: {name}: {message}", file=sys.stderr)
    return 1 if failed else 0


def measure(name: str) -> list[dict[str, Any]]:
    """Return the rows of one module.

    Raises `RuntimeError` with the error output of the module if it fails, and `JSONDecodeError` if it prints
    anything but rows.
    """
    command = [sys.executable, "-m", f"benchmarks.bench_{name}", "--json"]
    ended = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(ended.stderr.strip() or f"exit status {ended.returncode}")
    return json.loads(ended.stdout)


def slug(machine: dict[str, Any]) -> str:
    """Return a file name made of processor, cores and GPU of a machine, such as `amd-epyc-9b14-2-cores`."""
    words = f"{machine['processor']} {machine['cores']} cores {machine['gpu'] or ''}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
