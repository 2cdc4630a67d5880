"""Write the results of the comparison as tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.peers.data import DATA_SETS
from pipeline_lib.runtime.types import Json

PAGE = Path(__file__).resolve().parents[2] / "docs/measurements/peers.md"
BEGIN, END = "<!-- results: written by `python -m benchmarks.peers --test` -->", "<!-- end of results -->"
NAMES = {
    "bordure": "bordure",
    "nnunet": "nnU-Net v2",
    "torch_em": "torch-em",
    "basicunet": "MONAI BasicUNet",
    "stardist": "StarDist",
}
TITLES = {"isbi2012": "ISBI 2012", "nuclei": "Fluorescent nuclei"}
SCORES = {
    "v_rand_thin": ("V-Rand", True),
    "pixel_error": ("pixel error", False),
    "rand_error": ("Rand error", False),
    "seg": ("SEG", True),
    "average_precision": ("AP", True),
    "average_precision_50": ("AP 0.5", True),
}


def markdown(rows: Sequence[Json], split: str) -> str:
    """Return a table of scores and costs for each data set and training time.

    Parameters
    ----------
    rows : sequence of dict
        One for each training: `data`, `peer`, `minutes`, `seed`, `scores`, and the content of `run.json`.
    split : {"validation", "test"}
        Split whose scores are shown.

    Returns
    -------
    str
        Mean and standard deviation over the seeds; the best mean of each score is bold.
    """

    def of_table(row: Json) -> tuple[int, float]:
        return [*DATA_SETS].index(row["data"]), row["minutes"]

    parts = []
    for (data, minutes), group in groupby(sorted(rows, key=of_table), of_table):
        name = [*DATA_SETS][data]
        parts.append(_table(name, minutes, [*group], split))
    return "\n\n".join(parts)


def _table(name: str, minutes: float, rows: list[Json], split: str) -> str:
    metrics = DATA_SETS[name].metrics
    peers = {peer: [row for row in rows if row["peer"] == peer] for peer in NAMES}
    peers = {peer: own for peer, own in peers.items() if own}

    def values(peer: str, metric: str) -> list[float]:
        return [row["scores"][split][metric] for row in peers[peer]]

    best = {}
    for metric in metrics:
        means = {peer: statistics.mean(values(peer, metric)) for peer in peers}
        best[metric] = (max if SCORES[metric][1] else min)(means, key=means.__getitem__)
    heads = [
        f"{label} ({'higher' if more else 'lower'} is better)" for label, more in map(SCORES.get, metrics)
    ]
    heads += ["iterations", "parameters (million)", "training (min)", "cores used", "memory (GB)"]
    lines = [f"**{TITLES[name]}, {minutes:g} minutes, {split} split**", "", _line([" ", *heads])]
    lines.append("|---" * (len(heads) + 1) + "|")
    for peer, own in peers.items():
        cells = [
            f"**{text}**" if best[metric] == peer and len(peers) > 1 else text
            for metric in metrics
            for text in [_spread(values(peer, metric))]
        ]
        cells.append(f"{statistics.mean(row['iterations'] for row in own):,.0f}")
        cells.append(f"{own[0]['parameters'] / 1e6:.2f}")
        cells.append(f"{statistics.mean(row['seconds']['training'] for row in own) / 60:.1f}")
        cells.append(f"{statistics.mean(row['cpu_seconds'] / row['wall_seconds'] for row in own):.2f}")
        cells.append(f"{max(row['peak_memory_mb'] for row in own) / 1000:.1f}")
        lines.append(_line([NAMES[peer], *cells]))
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation, in which the leading zero is left out."""
    text = f"{statistics.mean(values):.3f}"
    if len(values) > 1:
        text += f"±{statistics.stdev(values):.3f}"
    return text.replace("0.", ".")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write(rows: Sequence[Json], page: Path) -> None:
    """Replace the results on the page of the documentation.

    Parameters
    ----------
    rows : sequence of dict
        As for `markdown`, with scores of the test split.
    page : Path
        Page (Markdown) with the marks `BEGIN` and `END`.
    """
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n\n{markdown(rows, 'test')}\n\n{_settings(rows)}\n\n{END}{after}"
    page.write_text(text, encoding="utf-8")


def _settings(rows: Sequence[Json]) -> str:
    """Return versions and settings of each peer, one list entry for each data set."""
    lines = ["**Settings and versions**", ""]
    seen = set()
    for row in rows:
        key = row["peer"], row["data"]
        if key in seen:
            continue
        seen.add(key)
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        settings = "; ".join(f"{name}: {value}" for name, value in row["settings"].items())
        lines.append(f"- {NAMES[row['peer']]}, {TITLES[row['data']]} ({versions}): {settings}")
    return "\n".join(lines)
