"""Check stage: compare images and annotations before anything is trained, and list doubts on an HTML page."""

from __future__ import annotations

import base64
import difflib
import itertools
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib import figures, layout, provenance
from pipeline_lib.data import correspondence
from pipeline_lib.data.boxes import LabelsOfBoxes
from pipeline_lib.data.comparison import Volume, compare_volumes
from pipeline_lib.data.correspondence import Sample
from pipeline_lib.data.volumes import SPLITS
from pipeline_lib.figures.check import save_check_picture, save_gray_chart
from pipeline_lib.pages import write_page
from pipeline_lib.runtime.doubts import DOUBTS
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json, Stored
from pipeline_lib.tasks.detection.truth import IGNORED

__all__ = ["STOP_ABOVE", "check"]

#: Weight above which a doubt stops the run, unless it is accepted.
STOP_ABOVE = 0.8
_CERTAIN = 1.0  # weight of mistakes that are certain; `stages.acceptance` does not accept them
_SECTIONS = 32  # sections of a volume of which samples are compared
_RUN = 4  # ... in runs of consecutive ones, because annotations may be shifted by one section
_SAMPLES = 1024  # samples of all volumes
_BINS = 64  # of the histograms of gray levels
_CARDS = 40  # doubts on the page; the table of volumes has the names of all


def check(
    volumes: Sequence[Mapping[str, Any]],
    page: str | Path,
    doubts: str | Path,
    *,
    context: int = 0,
    accept: Sequence[str] = (),
    stop_above: float = STOP_ABOVE,
    shown: int = 6,
) -> None:
    """Compare the images and annotations of all volumes, and write a page with pictures and doubts.

    A doubt has a name (`DOUBTS`), a weight from 0 to 1, and a text that says what to do. Doubts above
    `stop_above` stop the run later, in `stages.acceptance`, so that the page remains. The same files give the
    same bytes.

    Pairs of images and annotations are compared in a window of at most 512 px of up to 32 sections of a
    volume; only these and the pictures are read. Of boxes, the ellipses inside them are compared.

    Parameters
    ----------
    volumes : sequence of mapping
        For each volume its name (`volume`), its `split`, the `dataset` file that
        `stages.dataset.build_dataset` wrote and, with several folds, the number of its `fold` or None.
    page : str or Path
        HTML file to write.
    doubts : str or Path
        JSON file to write: a list `doubts`, the heaviest first, and `provenance`.
    context : int, default 0
        Pixels on each side of an output pixel that the network sees (px).
    accept : sequence of str, optional
        Doubts that do not stop the run: names, or `VOLUME:NAME` for one volume. Doubts of weight 1 are
        certain mistakes and always stop the run.
    stop_above : float, default 0.8
        Weight above which a doubt stops the run.
    shown : int, default 6
        Number of volumes shown in pictures; those with doubts that stop the run come first.

    Raises
    ------
    InputError
        If a file is missing or damaged, or `accept` names no doubt.
    """
    _check_names(accept, [row["volume"] for row in volumes])
    settings: Json = {"context": context, "accept": [*accept], "stop_above": stop_above, "shown": shown}
    paths = [Path(row["dataset"]) for row in volumes]
    with provenance.making("check", [page, doubts], paths, **settings) as record:
        found, samples = [], []
        most = max(min(_SECTIONS, _SAMPLES // len(volumes)), 1)
        for row, path in zip(volumes, paths, strict=True):
            volume, own_samples = _measure(row["volume"], row["split"], row.get("fold"), path, most)
            found.append(volume)
            samples += own_samples
        own = [(v.name, doubt) for v in found if v.annotation for doubt in v.annotation["doubts"]]
        compared = compare_volumes(found, correspondence.with_partners(samples), context)
        listed = [{"volume": name} | doubt for name, doubt in (*own, *compared)]
        listed.sort(key=lambda doubt: -doubt["weight"])
        for doubt in listed:
            doubt["state"] = _state(doubt, accept, stop_above)
        write_json(doubts, {"doubts": listed, "provenance": record})
        _write_page(found, listed, page, shown=shown, stop_above=stop_above, record=record)
    stopping = sum(doubt["state"] == "stops" for doubt in listed)
    logger.info(
        "%s: doubts: %d in %d volumes; %d of them stop the run", page, len(listed), len(volumes), stopping
    )


def _check_names(accept: Sequence[str], volumes: Sequence[str]) -> None:
    """Raise `InputError` if an entry of `check.accept` names no doubt or no volume."""
    for entry in accept:
        volume, _, name = entry.rpartition(":")
        for given, known in ((name, list(DOUBTS)), *([(volume, list(volumes))] if volume else [])):
            if given not in known:
                near = difflib.get_close_matches(given, known, 1)
                hint = f" Did you mean `{near[0]}`?" if near else ""
                raise InputError(
                    f"config key `check.accept`: found `{entry}`, but there is no "
                    f"{'doubt' if given == name else 'volume'} `{given}`.{hint} Doubts are "
                    f"{', '.join(DOUBTS)}."
                )


def _state(doubt: Json, accept: Sequence[str], stop_above: float) -> str:
    """Return whether a doubt `stops` the run, is `accepted`, or is only `noted`."""
    if doubt["weight"] >= _CERTAIN:
        return "stops"
    if doubt["name"] in accept or f"{doubt['volume']}:{doubt['name']}" in accept:
        return "accepted"
    return "stops" if doubt["weight"] > stop_above else "noted"


def _sampled(sections: int, most: int) -> list[int]:
    """Return the sections to compare: all, or runs of consecutive ones."""
    if sections <= most:
        return [*range(sections)]
    run = min(_RUN, most)
    starts = np.linspace(0, sections - run, max(most // run, 1)).astype(int)
    return sorted({int(start) + k for start in starts for k in range(run)})


def _windows(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return different windows of a section: first the middle, then those at the corners."""
    places = []
    for length in shape:
        size = min(length, correspondence.WINDOW)
        places.append([(start, start + size) for start in ((length - size) // 2, 0, length - size)])
    (middle, *rows), (centre, *columns) = places
    different = dict.fromkeys([(middle, centre), *itertools.product(rows, columns)])
    return [(slice(*row), slice(*column)) for row, column in different]


def _measure(name: str, split: str, fold: str | None, path: Path, most: int) -> tuple[Volume, list[Sample]]:
    """Return what is compared of a volume, and samples of at most `most` of its sections."""
    with layout.require(path, layout.RAW, layout.SECTION_HASH, layout.SECTION_WINDOWS) as file:
        raw, found = file[layout.RAW.name], layout.findings(file)
        cells, ignored = _cells(file, found["annotation"], inscribed=True)
        edges = _edges(min(found["gray"]["low"]), max(found["gray"]["high"]), raw.dtype.kind in "iu")
        counts = np.zeros(len(edges) - 1, np.int64)
        samples, inside, outside = [], [], []
        for z in _sampled(raw.shape[1], most):
            at, labels, ignore = _window(cells, ignored, z, raw.shape[2:])
            image = raw[(slice(None), z, *at)]
            counts += np.histogram(image, edges)[0]
            if labels is not None:
                gray = image.mean(axis=0, dtype=np.float32)
                counted = np.ones(labels.shape, bool) if ignore is None else ignore == 0
                inside.append(gray[counted & (labels > 0)])
                outside.append(gray[counted & (labels == 0)])
                place = (raw.shape[2], raw.shape[3], at[0].start, at[1].start)
                samples.append(correspondence.make_sample(name, z, place, labels, image, ignore))
        volume = Volume(
            name,
            split,
            path,
            raw.shape,
            str(raw.dtype),
            [bytes(digest) for digest in file[layout.SECTION_HASH.name][:]],
            file[layout.SECTION_WINDOWS.name][:],
            found["gray"],
            found["annotation"],
            _contrast(np.concatenate([*inside, []]), np.concatenate([*outside, []])),
            edges,
            counts / counts.sum(),
            fold,
        )
    return volume, samples


def _cells(
    file: h5py.File, annotation: Json | None, *, inscribed: bool
) -> tuple[Stored | None, Stored | None]:
    """Return labels and `ignore` of a volume, None if there are none.

    Boxes become labels: all as they are, or the ellipses inside those that are not ignored.
    """
    if not annotation:
        return None, None
    ignore = file.get(layout.IGNORE.name)
    if not layout.has_only_boxes(file):
        return file[layout.LABELS.name], ignore
    boxes, sections, state = (
        file[array.name][:] for array in (layout.BOXES, layout.BOX_SECTION, layout.BOX_STATE)
    )
    if inscribed:
        boxes, sections = boxes[state != IGNORED], sections[state != IGNORED]
    return LabelsOfBoxes(boxes, sections, file[layout.RAW.name].shape[1:], inscribed), ignore


def _window(
    cells: Stored | None, ignored: Stored | None, z: int, shape: tuple[int, int]
) -> tuple[tuple[slice, slice], np.ndarray | None, np.ndarray | None]:
    """Return a window of a section, if possible one with outlines of cells, and its labels and `ignore`."""
    labels = ignore = None
    for window in _windows(shape):
        if cells is None:
            break
        labels = cells[(z, *window)]
        ignore = ignored[(z, *window)] if ignored is not None else None
        if correspondence.outlines(labels, ignore).any():
            break
    return window, labels, ignore


def _contrast(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the difference of the means in standard deviations, 0 if there are no values."""
    if not len(inside) or not len(outside):
        return 0.0
    spread = np.sqrt((inside.var() + outside.var()) / 2)
    return float((inside.mean() - outside.mean()) / spread) if spread > 0 else 0.0


def _edges(low: float, high: float, whole: bool) -> np.ndarray:
    """Return the edges of the bins of a histogram. Bins of whole numbers contain equally many of them."""
    if whole:
        width = -(-(high - low + 1) // _BINS)
        return np.arange(low - 0.5, high + width, width)
    return np.linspace(low, high if high > low else low + 1, _BINS + 1)


def _write_page(
    volumes: Sequence[Volume],
    doubts: Sequence[Json],
    page: str | Path,
    *,
    shown: int,
    stop_above: float,
    record: Json,
) -> None:
    """Write the page."""
    of_volume: defaultdict[str, list[Json]] = defaultdict(list)
    for doubt in doubts:
        of_volume[doubt["volume"]].append(doubt)
    chosen = _shown(volumes, of_volume, shown)
    with tempfile.TemporaryDirectory() as folder:
        pictures = {volume.name: _picture(volume, of_volume[volume.name], Path(folder)) for volume in chosen}
        chart = Path(folder, "gray.png")
        curves = [(volume.name, volume.split, volume.edges, volume.histogram) for volume in volumes]
        marked = [d["volume"] for d in doubts if d["name"] in ("gray_scale", "contrast")]
        save_gray_chart(curves, chart, marked=marked[:3], record=record)
        write_page(
            "check.html.jinja",
            page,
            volumes=[(volume, of_volume[volume.name]) for volume in volumes],
            counts={s: number for s in SPLITS if (number := sum(v.split == s for v in volumes))},
            boxes=any(volume.annotation and "boxes" in volume.annotation for volume in volumes),
            cells=sum(volume.annotation["cells"]["number"] for volume in volumes if volume.annotation),
            doubts=doubts[:_CARDS],
            more=doubts[_CARDS:],
            states={
                state: sum(d["state"] == state for d in doubts) for state in ("stops", "accepted", "noted")
            },
            titles=DOUBTS,
            stop_above=stop_above,
            pictures=pictures,
            chart=_embedded(chart),
        )


def _shown(volumes: Sequence[Volume], of_volume: Mapping[str, list[Json]], shown: int) -> list[Volume]:
    """Return the volumes to show: those with the heaviest doubts, then some of each split in turn."""

    def heaviest(volume: Volume) -> float:
        return max((doubt["weight"] for doubt in of_volume[volume.name]), default=0.0)

    doubtful = sorted((v for v in volumes if heaviest(v) > 0), key=heaviest, reverse=True)
    queues = [[v for v in volumes if v.split == split] for split in SPLITS]
    turns = [queue[k] for k in range(max(map(len, queues))) for queue in queues if k < len(queue)]
    return list({volume.name: volume for volume in [*doubtful, *turns]}.values())[:shown]


def _picture(volume: Volume, doubts: Sequence[Json], folder: Path) -> Json:
    """Return the picture of the section of a volume where its heaviest doubt is, or of its middle one."""
    places = [doubt["section"] for doubt in doubts if doubt["section"] is not None]
    z = places[0] if places else volume.shape[1] // 2
    path = folder / "picture.png"
    with layout.require(volume.path, layout.RAW) as file:
        labels, ignore = _cells(file, volume.annotation, inscribed=False)
        save_check_picture(
            path,
            raw=file[layout.RAW.name],
            labels=labels,
            ignore=ignore,
            z=z,
            volume=volume.name,
            split=volume.split,
        )
    return _embedded(path)


def _embedded(path: Path) -> Json:
    """Return the description of a picture of `figures`, and its bytes as `uri`."""
    uri = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return figures.describe(path) | {"uri": uri}
