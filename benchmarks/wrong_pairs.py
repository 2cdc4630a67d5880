"""Count the wrong pairs that the check finds: `python -m benchmarks.wrong_pairs DATA`.

DATA is the folder with the images of the tutorials (`nuclei`, `isbi2012`). Each annotated section is a volume
of its own, and its annotation is changed on purpose. The table in docs/reference/check.md is the output.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from pipeline_lib import imageio
from pipeline_lib.data.comparison import wrong_pairs
from pipeline_lib.data.correspondence import WINDOW, Sample, make_sample, with_partners
from pipeline_lib.stages.check import STOP_ABOVE

Section = tuple[np.ndarray, np.ndarray]  # gray levels (c, y, x) and labels (y, x)


def nuclei(folder: Path) -> list[Section]:
    names = sorted(path.name for path in (folder / "labels").glob("*.tif"))
    return [
        (
            imageio.read_images(folder / "images" / name)[:, 0],
            imageio.read_annotation(folder / "labels" / name).labels[0],
        )
        for name in names
    ]


def isbi2012(folder: Path) -> list[Section]:
    images = imageio.read_images(folder / "train-volume.tif")
    annotation = imageio.read_annotation(folder / "train-labels.tif")
    return [(images[:, z], labels) for z, labels in enumerate(annotation.labels)]


def sample(number: int, image: np.ndarray, labels: np.ndarray) -> Sample:
    """Return the sample that the check compares: the middle of a section."""
    starts = [max(size - WINDOW, 0) // 2 for size in labels.shape]
    at = tuple(slice(start, start + WINDOW) for start in starts)
    return make_sample(str(number), 0, (*labels.shape, *starts), labels[at], image[:, *at])


def stopped(samples: Iterable[Sample]) -> set[str]:
    """Return the volumes whose doubt stops the run."""
    doubts = wrong_pairs(with_partners([*samples]))
    return {name for name, doubt in doubts if doubt["weight"] > STOP_ABOVE}


def shifted(labels: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return cells that are moved down and to the right; those that leave the section are cut off."""
    moved = np.zeros_like(labels)
    moved[rows:, columns:] = labels[: labels.shape[0] - rows, : labels.shape[1] - columns]
    return moved


def measure(sections: Sequence[Section]) -> dict[str, tuple[int, int]]:
    """Return, for each change, how many changed volumes stop the run and how many there are."""
    right = [sample(k, *section) for k, section in enumerate(sections)]
    of_size: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
    for k, (_, labels) in enumerate(sections):
        of_size[labels.shape].append(k)
    found = {"right": (len(stopped(right)), len(right))}

    def all_changed(change: Callable[[np.ndarray], np.ndarray], numbers: Iterable[int]) -> tuple[int, int]:
        changed = [sample(k, sections[k][0], np.ascontiguousarray(change(sections[k][1]))) for k in numbers]
        return len(stopped(changed)), len(changed)

    def with_annotation(pairs: dict[int, int]) -> dict[int, Sample]:
        return {k: sample(k, sections[k][0], sections[other][1]) for k, other in pairs.items()}

    def partners(shift: int) -> dict[int, int]:
        groups = [group for group in of_size.values() if len(group) > shift]
        return {k: group[(n + shift) % len(group)] for group in groups for n, k in enumerate(group)}

    counts = []
    for shift in (1, 2, 3):
        exchanged = with_annotation(partners(shift))
        counts.append((len(stopped(exchanged.values())), len(exchanged)))
    found["exchanged within images of one size"] = _sum(counts)

    counts = []
    pairs = [(k, other) for k, other in partners(2).items() if k < other][:10]
    for k, other in pairs:
        two = with_annotation({k: other, other: k})
        stop = stopped(two.get(n, own) for n, own in enumerate(right))
        counts.append((len(stop & {str(k), str(other)}), 2))
        assert stop <= {str(k), str(other)}
    found["two exchanged, all others right"] = _sum(counts)

    for shift, which in ((1, "of the next image"), (len(sections) // 4, "of another image")):
        counts = []
        for k, other in partners(shift).items():
            one = with_annotation({k: other})[k]
            stop = stopped(one if n == k else own for n, own in enumerate(right) if n != other)
            counts.append((len(stop & {str(k)}), 1))
            assert stop <= {str(k)}
        found[f"{which}, which is not in the table; all others right"] = _sum(counts)

    everything = range(len(sections))
    turns = (lambda a: a[::-1], lambda a: a[:, ::-1], lambda a: a[::-1, ::-1])
    name = "mirrored from top to bottom, from left to right, or turned by 180 degrees"
    found[name] = _sum([all_changed(turn, everything) for turn in turns])
    square = [k for k, (_, labels) in enumerate(sections) if labels.shape[0] == labels.shape[1]]
    found["with rows and columns exchanged (square images)"] = all_changed(np.transpose, square)
    name = "shifted by half of rows and columns, the rest cut off"
    found[name] = all_changed(lambda a: shifted(a, a.shape[0] // 2, a.shape[1] // 2), everything)
    found["shifted by 8 px"] = all_changed(lambda a: shifted(a, 8, 8), everything)
    return found


def _sum(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    return sum(stop for stop, _ in counts), sum(total for _, total in counts)


if __name__ == "__main__":
    data = Path(sys.argv[1])
    tables = measure(nuclei(data / "nuclei")), measure(isbi2012(data / "isbi2012"))
    print("| annotations | nuclei | ISBI 2012 |\n|---|---|---|")
    for change in tables[0]:
        print(f"| {change} | {' | '.join('{} of {}'.format(*table[change]) for table in tables)} |")
