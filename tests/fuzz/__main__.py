"""Fuzz the code that reads files: `python -m tests.fuzz [--seconds 600] [--folder FOLDER] [TARGET ...]`.

By default, all targets are fuzzed. This needs atheris (`pip install atheris`), which does coverage-guided
fuzzing with libFuzzer. FOLDER contains the corpus, which grows from run to run, the findings, and
`figures.json`. Files that crash a decoder but are refused by the dry run are no findings; they are listed
separately. The exit status is 0 if there are no findings.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS, contained

RSS_LIMIT = 2048  # MB
SECONDS_PER_INPUT = 20
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # temporary files in memory


def fuzz(target: str, seconds: float, folder: Path) -> dict:
    """Fuzz `target` for `seconds`, also after findings, and return the figures of libFuzzer."""
    seeds = corpus.write(target, folder / "corpus" / target)
    found, end = folder / "findings", time.monotonic() + seconds
    found.mkdir(parents=True, exist_ok=True)
    figures = {
        "target": target,
        "seconds": 0.0,
        "executions": 0,
        "peak MB": 0,
        "seeds": seeds,
        "findings": [],
    }
    with open(folder / f"{target}.log", "w") as log:
        while (left := end - time.monotonic()) > 1:
            start = log.tell()
            options = {
                "max_total_time": int(left) + 1,
                "rss_limit_mb": RSS_LIMIT,
                "timeout": SECONDS_PER_INPUT,
                "max_len": 16384,
                "print_final_stats": 1,
                "artifact_prefix": f"{found}/{target}-",
                "verbosity": 1,
            }
            arguments = [f"-{name}={value}" for name, value in options.items()]
            command = [sys.executable, "-m", "tests.fuzz.fuzz_one", target, str(folder / "corpus" / target)]
            began = time.monotonic()
            # libFuzzer does not delete its temporary files
            with tempfile.TemporaryDirectory(dir=MEMORY) as scratch:
                subprocess.run(
                    [*command, *arguments],
                    stdout=log,
                    stderr=log,
                    check=False,
                    env=os.environ | {"TMPDIR": scratch},
                )
            log.flush()
            text = (folder / f"{target}.log").read_text(errors="replace")[start:]
            figures["seconds"] += time.monotonic() - began
            coverage = [int(n) for n in re.findall(r"\bcov: (\d+)", text)]
            executed = [int(n) for n in re.findall(r"^#(\d+)\s", text, re.MULTILINE)] or [0]
            figures["executions"] += max(executed)
            figures.setdefault("coverage at first", coverage[0] if coverage else 0)
            figures["coverage"] = max([figures.get("coverage", 0), *coverage])
            for peak in re.findall(r"(?:stat::peak_rss_mb:\s+|rss: )(\d+)", text):
                figures["peak MB"] = max(figures["peak MB"], int(peak))
            figures["findings"] += re.findall(rf"{target}-(?:crash|timeout|oom)-\w+", text)
    figures |= sort_findings(target, set(figures["findings"]), found)
    figures["corpus"] = sum(1 for _ in (folder / "corpus" / target).iterdir())
    return figures


def sort_findings(target: str, names: set[str], folder: Path) -> dict[str, list[str]]:
    """Return which files of `folder` are findings, and which ones the dry run refuses, which is right."""
    # atheris keeps memory of each comparison of arrays, which adds up over some 100,000 inputs
    names = {name for name in names if "-oom-" not in name or exceeds_memory(target, folder / name)}
    refused = set()
    if target in ("tiff", "png", "hdf5", "annotation"):
        refused = {name for name in names if contained(target, (folder / name).read_bytes())}
    return {"findings": sorted(names - refused), "refused by the dry run": sorted(refused)}


def exceeds_memory(target: str, path: Path) -> bool:
    """Return whether one input alone needs more than the limit of memory."""
    code = (
        "import sys; from pathlib import Path; from pipeline_lib.runtime.log import peak_memory\n"
        "from tests.fuzz.targets import check\n"
        "check(sys.argv[1], Path(sys.argv[2]).read_bytes())\n"
        f"sys.exit(peak_memory() > {RSS_LIMIT} * 2**20)"
    )
    command = [sys.executable, "-c", code, target, str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "targets", nargs="*", choices=[*TARGETS, []], metavar="TARGET", help=", ".join(TARGETS)
    )
    parser.add_argument("--seconds", type=float, default=600, help="time for each target (600)")
    parser.add_argument(
        "--folder", type=Path, default=Path("results-fuzz"), help="folder of corpus and findings"
    )
    arguments = parser.parse_args()
    all_figures = []
    for target in arguments.targets or TARGETS:
        figures = fuzz(target, arguments.seconds, arguments.folder.resolve())
        all_figures.append(figures)
        print(json.dumps(figures), flush=True)
    (arguments.folder / "figures.json").write_text(json.dumps(all_figures, indent=1) + "\n")
    return int(any(figures["findings"] for figures in all_figures))


if __name__ == "__main__":
    sys.exit(main())
