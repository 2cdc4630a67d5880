"""Check stage: compare images and annotations before anything is trained, and list doubts on an HTML page."""

from __future__ import annotations

import base64
import difflib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline_lib import figures, layout, provenance
from pipeline_lib.data import correspondence
from pipeline_lib.data.correspondence import Sample
from pipeline_lib.data.gray import pool
from pipeline_lib.data.labels import count_pixels
from pipeline_lib.data.normalisation import compare
from pipeline_lib.data.volumes import SPLITS
from pipeline_lib.figures.check import save_check_picture, save_gray_chart
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.pages import write_page
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

__all__ = ["DOUBTS", "STOP_ABOVE", "check"]

#: Each doubt and its title.
DOUBTS = {
    "copies": "The same images are in two splits",
    "wrong_pair": "The annotation does not fit the image",
    "gray_levels": "The annotation looks like an image",
    "inverted": "The annotation looks inverted",
    "whole_section": "One cell covers most of a section",
    "lost_in_border": "Cells are lost in the separation border",
    "sentinel": "A label may mean not annotated",
    "several_areas": "Labels have several areas",
    "gray_scale": "Other gray levels than the training volumes",
    "contrast": "Cells are darker or brighter than elsewhere",
    "no_cells": "No annotated cells",
    "small_cells": "Very small cells",
    "duplicates": "The same images are in the split twice",
    "context": "The images are smaller than the view of the network",
}
#: Weight above which a doubt stops the run, unless it is accepted.
STOP_ABOVE = 0.8
_CERTAIN = 1.0  # weight of mistakes that are certain; `stages.acceptance` does not accept them
_SECTIONS = 32  # sections of a volume of which samples are compared
_RUN = 4  # ... in runs of consecutive ones, because annotations may be shifted by one section
_SAMPLES = 1024  # samples of all volumes
_BINS = 64  # of the histograms of gray levels
_SPECK = 16  # px; smaller areas do not count
_CLEAR = 1.5  # fit of a sample that surely belongs to its image, as a multiple of what chance gives
_UNCLEAR = 1.15  # ... of one that fits no better than by chance; real pairs have 1.3 at least
_CARDS = 40  # doubts on the page; the table of volumes has the names of all


@dataclass
class Volume:
    """What the check found in a volume.

    Parameters
    ----------
    name, split : str
        Name and split.
    path : Path
        Dataset file.
    """

    name: str
    split: str
    path: Path
    shape: tuple[int, ...] = ()
    dtype: str = ""
    gray: Json = field(default_factory=dict)
    annotation: Json | None = None
    hashes: list[bytes] = field(default_factory=list)
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    cells: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of each section
    share: float = 0.0  # of pixels in cells
    ignored: float = 0.0  # share of pixels that are not annotated
    lost: int = 0  # cells that lie in the separation border
    largest: float = 0.0  # share of a section that the largest cell covers
    largest_section: int = 0
    largest_sides: int = 0  # sides of the section that this cell touches
    largest_parts: int = 0  # its separate areas or its holes, whichever are more
    contrast: float = 0.0  # mean gray level in cells minus that outside, in standard deviations
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(_BINS))
    edges: np.ndarray = field(default_factory=lambda: np.zeros(_BINS + 1))  # of the histogram

    @property
    def annotated(self) -> bool:
        """Whether the volume has an annotation."""
        return self.annotation is not None


def check(
    volumes: Sequence[Mapping[str, Any]],
    page: Path,
    doubts: Path,
    *,
    context: int = 0,
    accept: Sequence[str] = (),
    stop_above: float = STOP_ABOVE,
    shown: int = 6,
    block: int = BLOCK,
) -> None:
    """Compare the images and annotations of all volumes, and write a page with pictures and doubts.

    A doubt has a name (`DOUBTS`), a weight from 0 to 1, and a text that says what to do. Doubts above
    `stop_above` stop the run later, in `stages.acceptance`, so that the page remains. The same files give the
    same bytes.

    Sections are read in blocks. Pairs of images and annotations are compared in a window of at most 512 px of
    up to 32 sections of a volume.

    Parameters
    ----------
    volumes : sequence of mapping
        For each volume its name (`volume`), its `split`, and the `dataset` file that
        `stages.dataset.build_dataset` wrote.
    page : Path
        HTML file to write.
    doubts : Path
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
    block : int, default 2048
        Side of the square blocks that are read at a time (px). It does not change the result.

    Raises
    ------
    InputError
        If a file is missing or damaged, or `accept` names no doubt.
    """
    _check_names(accept, [row["volume"] for row in volumes])
    settings: Json = {"context": context, "accept": [*accept], "stop_above": stop_above, "shown": shown}
    paths = [Path(volume["dataset"]) for volume in volumes]
    with provenance.making("check", [page, doubts], paths, **settings) as record:
        found, samples = [], []
        most = max(min(_SECTIONS, _SAMPLES // len(volumes)), 1)
        for row in volumes:
            volume = Volume(row["volume"], row["split"], Path(row["dataset"]))
            with layout.require(volume.path, layout.RAW, layout.SECTION_HASH) as file:
                _measure(volume, file, block)
                samples += _sample(volume, file, most)
            found.append(volume)
        listed = [*_doubts(found, correspondence.with_partners(samples), context)]
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


def _measure(volume: Volume, file: h5py.File, block: int) -> None:
    """Read the facts of a volume from its dataset file, block by block."""
    raw = file[layout.RAW.name]
    volume.shape, volume.dtype = raw.shape, str(raw.dtype)
    found = layout.findings(file)
    volume.gray, volume.annotation = found["gray"], found["annotation"]
    volume.hashes = [bytes(digest) for digest in file[layout.SECTION_HASH.name][:]]
    if volume.annotated:
        arrays = layout.annotated(file)
        sections, section_shape = raw.shape[1], (raw.shape[2], raw.shape[3])
        sizes, cells, ignored, in_border = [], [], 0, 0
        for z in range(sections):
            all_of, spared = [], []
            sides: list[list[np.ndarray]] = [[], [], [], []]
            for area in blocks(section_shape, block):
                labels = arrays.labels[(z, *area.write)]
                all_of.append(count_pixels(labels))
                border = arrays.separation_border[(z, *area.write)]
                spared.append(count_pixels(np.where(border > 0, 0, labels))[0])
                if arrays.ignore is not None:
                    ignored += int(np.count_nonzero(arrays.ignore[(z, *area.write)]))
                for number, at_side in enumerate(_sides(labels, area.write, section_shape)):
                    sides[number].append(at_side)
            values, inverse = np.unique(np.concatenate([v for v, _ in all_of]), return_inverse=True)
            pixels = np.bincount(inverse, np.concatenate([n for _, n in all_of])).astype(np.int64)
            of_cells, values = pixels[values > 0], values[values > 0]
            in_border += len(np.setdiff1d(values, np.concatenate(spared)))
            sizes.append(of_cells)
            cells.append(len(of_cells))
            if len(of_cells) and (share := of_cells.max() / pixels.sum()) > volume.largest:
                volume.largest, volume.largest_section = float(share), z
                biggest = values[of_cells.argmax()]
                volume.largest_sides = sum(bool((np.concatenate(side) == biggest).any()) for side in sides)
                window = z, slice(0, BLOCK), slice(0, BLOCK)
                volume.largest_parts = _parts(arrays.labels[window] == biggest)
        volume.sizes, volume.cells, volume.lost = np.concatenate(sizes), np.array(cells), in_border
        total = raw.shape[1] * raw.shape[2] * raw.shape[3]
        volume.share = float(volume.sizes.sum()) / max(total - ignored, 1)
        volume.ignored = ignored / total


def _parts(cell: np.ndarray) -> int:
    """Return the number of separate areas of a cell (y, x) or of its holes, whichever are more."""
    from scipy import ndimage  # takes 0.2 s, and is needed for few volumes

    areas, _ = ndimage.label(cell)
    around, _ = ndimage.label(~cell)
    frame = np.concatenate([around[0], around[-1], around[:, 0], around[:, -1]])
    holes = np.where(np.isin(around, frame), 0, around)
    return max(int(np.count_nonzero(np.bincount(found.ravel())[1:] >= _SPECK)) for found in (areas, holes))


def _sides(labels: np.ndarray, at: tuple[slice, slice], shape: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the labels of a block at each of the four sides of its section."""
    yield labels[:1].ravel() if at[0].start == 0 else labels[:0, 0]
    yield labels[-1:].ravel() if at[0].stop == shape[0] else labels[:0, 0]
    yield labels[:, 0] if at[1].start == 0 else labels[:0, 0]
    yield labels[:, -1] if at[1].stop == shape[1] else labels[:0, 0]


def _sampled(sections: int, most: int) -> list[int]:
    """Return the sections to compare: all, or runs of consecutive ones."""
    if sections <= most:
        return [*range(sections)]
    run = min(_RUN, most)
    starts = np.linspace(0, sections - run, max(most // run, 1)).astype(int)
    return sorted({int(start) + k for start in starts for k in range(run)})


def _windows(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Yield windows of a section: first the middle, then those at the corners."""
    places = []
    for length in shape:
        size = min(length, correspondence.WINDOW)
        places.append([slice(start, start + size) for start in ((length - size) // 2, 0, length - size)])
    yield places[0][0], places[1][0]
    for row in places[0][1:]:
        for column in places[1][1:]:
            yield row, column


def _sample(volume: Volume, file: h5py.File, most: int) -> list[Sample]:
    """Read samples of a volume, and measure its histogram and contrast on them."""
    raw, samples = file[layout.RAW.name], []
    arrays = layout.annotated(file) if volume.annotated else None
    low, high = min(volume.gray["low"]), max(volume.gray["high"])
    edges = _edges(low, high, raw.dtype.kind in "iu")
    counts = np.zeros(len(edges) - 1, np.int64)
    inside, outside = [], []
    for z in _sampled(raw.shape[1], most):
        ignore = labels = None
        for window in dict.fromkeys((a.start, a.stop, b.start, b.stop) for a, b in _windows(raw.shape[2:])):
            at = z, slice(*window[:2]), slice(*window[2:])
            if arrays is None:
                break
            labels = arrays.labels[at]
            ignore = arrays.ignore[at] if arrays.ignore is not None else None
            if correspondence.outlines(labels, ignore).any():
                break
        image = raw[(slice(None), *at)]
        counts += np.histogram(image, edges)[0]
        if labels is not None:
            gray = image.mean(axis=0, dtype=np.float32)
            counted = np.ones(labels.shape, bool) if ignore is None else ignore == 0
            inside.append(gray[counted & (labels > 0)])
            outside.append(gray[counted & (labels == 0)])
            place = (raw.shape[2], raw.shape[3], at[1].start, at[2].start)
            samples.append(correspondence.make_sample(volume.name, z, place, labels, image, ignore))
    volume.histogram, volume.edges = counts / counts.sum(), edges
    within, without = np.concatenate([*inside, []]), np.concatenate([*outside, []])
    if len(within) and len(without):
        spread = np.sqrt((within.var() + without.var()) / 2)
        volume.contrast = float((within.mean() - without.mean()) / spread) if spread > 0 else 0.0
    return samples


def _edges(low: float, high: float, whole: bool) -> np.ndarray:
    """Return the edges of the bins of a histogram. Bins of whole numbers contain equally many of them."""
    if whole:
        width = -(-(high - low + 1) // _BINS)
        return np.arange(low - 0.5, high + width, width)
    return np.linspace(low, high if high > low else low + 1, _BINS + 1)


def _doubts(volumes: Sequence[Volume], samples: Sequence[Sample], context: int) -> Iterator[Json]:
    """Yield all doubts."""

    def doubt(name: str, volume: str, weight: float, text: str, section: int | None = None) -> Json:
        return {"name": name, "volume": volume, "weight": round(weight, 2), "text": text, "section": section}

    yield from _copies(volumes, doubt)
    yield from _wrong_pairs(samples, doubt)
    yield from _gray_scales(volumes, doubt)
    for volume in volumes:
        for found in (volume.annotation or {}).get("doubts", ()):
            yield doubt(found["name"], volume.name, found["weight"], found["text"])
        if volume.annotated:
            yield from _cells(volume, doubt)
        if context > min(volume.shape[2:]):
            yield doubt(
                "context",
                volume.name,
                0.3,
                f"The network sees {context} px on each side of a pixel, but the sections have "
                f"{volume.shape[2]} x {volume.shape[3]} px. Beyond the edge it sees mirror images; a smaller "
                "`network.depth` sees less.",
            )


MakeDoubt = Callable[..., Json]


def _copies(volumes: Sequence[Volume], doubt: MakeDoubt) -> Iterator[Json]:
    """Yield doubts about sections with equal pixels. Volumes to predict may repeat anything."""
    places: defaultdict[bytes, list[tuple[Volume, int]]] = defaultdict(list)
    for volume in volumes:
        for z, digest in enumerate(volume.hashes):
            if volume.split != "predict" and any(digest):
                places[digest].append((volume, z))
    shared: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    named = {volume.name: volume for volume in volumes}
    for found in places.values():
        for k, (volume, z) in enumerate(found):
            for same_split in (False, True):
                earlier = ((v, at) for v, at in found[:k] if (v.split == volume.split) == same_split)
                if (first := next(earlier, None)) is not None:
                    shared[volume.name, first[0].name].append((z, first[1]))
    for (name, other_name), pairs in shared.items():
        one, other = named[name], named[other_name]
        z, at = pairs[0]
        number, has = ("1 section", "has") if len(pairs) == 1 else (f"{len(pairs)} sections", "have")
        where = f"for example section {z + 1} is section {at + 1} of {other_name}"
        if one.split != other.split:
            text = (
                f"{number} of this {one.split} volume {has} the same pixels as the {other.split} volume "
                f"{other_name}: {where}. Scores on images that the training saw mean nothing, so remove one "
                "of the two from the table of volumes; no setting accepts this."
            )
            yield doubt("copies", name, 1.0, text, z)
        else:
            text = (
                f"{number} {has} the same pixels as other sections of the {one.split} split: {where}. They "
                "count twice. Remove one of the two from the table of volumes."
            )
            yield doubt("duplicates", name, 0.3, text, z)


def _wrong_pairs(samples: Sequence[Sample], doubt: MakeDoubt) -> Iterator[Json]:
    """Yield doubts about volumes whose outlines do not follow the edges of the image."""
    known = [(sample, sample.fit) for sample in samples if sample.fit is not None]
    clear = [fit.own for _, fit in known if fit.own > _CLEAR * fit.chance]
    of_volume: defaultdict[str, list[tuple[Sample, correspondence.Fit]]] = defaultdict(list)
    for sample, fit in known:
        of_volume[sample.volume].append((sample, fit))
    for name, own in of_volume.items():
        better = [(sample, fit) for sample, fit in own if fit.better]
        chance = [(sample, fit) for sample, fit in own if not fit.better and fit.own < _UNCLEAR * fit.chance]
        many = f"In {{}} of {len(own)} sections that were compared, the" if len(own) > 1 else "The"
        if better:
            sample, fit = max(better, key=lambda pair: pair[1].better_fit)
            here = f"In section {sample.z + 1}, t" if len(own) > 1 else "T"
            text = (
                f"{many.format(len(better))} outlines of the cells do not follow the edges of the image "
                f"(correlation {fit.own:.2f}). {here}{fit.better.removeprefix('t')} fits better "
                f"({fit.better_fit:.2f}). Correct `images`, `annotation` or `sections` in the table of "
                "volumes, or the files."
            )
            yield doubt("wrong_pair", name, 0.95, text, sample.z)
        elif chance:
            sample, fit = min(chance, key=lambda pair: pair[1].own)
            others = len(known) - len(chance)
            certain = len(clear) > others / 2 and fit.own < 0.5 * float(np.median(clear))
            text = (
                f"{many.format(len(chance))} outlines of the cells follow the edges of the image no better "
                f"than shifted or mirrored outlines do (correlation {fit.own:.2f}"
                + (f", elsewhere {np.median(clear):.2f}" if clear else "")
                + "). Look at the picture. If the annotation belongs to another image, correct `images`, "
                "`annotation` or `sections` in the table of volumes."
            )
            yield doubt("wrong_pair", name, 0.9 if certain else 0.5, text, sample.z)


def _gray_scales(volumes: Sequence[Volume], doubt: MakeDoubt) -> Iterator[Json]:
    """Yield doubts about volumes whose gray levels or contrast differ from those of the training volumes."""
    training = [v for v in volumes if v.split == "train" and max(v.gray["std"]) > 0]
    pooled: Json | None = None
    if training:
        pixels = [int(np.prod(volume.shape[1:])) for volume in training]
        pooled = pool([volume.gray for volume in training], pixels) | {"dtype": training[0].gray["dtype"]}
    spread = np.array([max(volume.gray["std"]) for volume in training])
    place = {volume.name: number for number, volume in enumerate(training)}
    for volume in volumes:
        own = max(volume.gray["std"])
        low, high, mean = min(volume.gray["low"]), max(volume.gray["high"]), np.mean(volume.gray["mean"])
        if own == 0:
            text = f"All gray levels are {low:g}. Check that the image is the right one."
            yield doubt("gray_scale", volume.name, 0.6, text)
            continue
        # the comparison that a prediction makes, too, which would end the run after the training
        if pooled and volume.split != "train" and (found := compare(pooled, volume.gray)) is not None:
            yield doubt("gray_scale", volume.name, found["weight"], found["text"])
            continue
        distance = np.abs(np.log(own / spread))
        if volume.name in place:
            distance[place[volume.name]] = np.inf
        nearest = int(distance.argmin()) if len(training) else -1
        if nearest < 0 or not np.isfinite(distance[nearest]):
            continue
        ratio, other, factor = own / spread[nearest], training[nearest], float(np.exp(distance[nearest]))
        if factor > 4:
            theirs = (min(other.gray["low"]), max(other.gray["high"]), np.mean(other.gray["mean"]))
            text = (
                f"Its gray levels ({low:g} to {high:g}, mean {mean:.3g}) vary {factor:.3g} times "
                f"{'more' if ratio > 1 else 'less'} than those of the most similar training volume, "
                f"{other.name} ({theirs[0]:g} to {theirs[1]:g}, mean {theirs[2]:.3g}). If they are on "
                "another scale, multiply them with the column `scale` of the table of volumes."
            )
            yield doubt("gray_scale", volume.name, 0.85 if factor > 30 else 0.6 if factor > 8 else 0.3, text)
    clear = [volume for volume in volumes if abs(volume.contrast) > 0.5]
    brighter = sum(volume.contrast > 0 for volume in clear)
    for volume in clear:
        same = brighter if volume.contrast > 0 else len(clear) - brighter
        if same < 0.2 * len(clear):
            here, there = ("brighter", "darker") if volume.contrast > 0 else ("darker", "brighter")
            text = (
                f"The annotated cells are {here} than the rest of the image; in {len(clear) - same} of "
                f"{len(clear)} volumes they are {there}. Check that neither image nor annotation is inverted."
            )
            yield doubt("contrast", volume.name, 0.5, text)


def _cells(volume: Volume, doubt: MakeDoubt) -> Iterator[Json]:
    """Yield doubts about the cells of an annotated volume."""
    if not len(volume.sizes):
        text = (
            "The annotation has no cell. That is right if the image shows none; otherwise check that the "
            "annotation was saved after drawing, and `dataset.annotation_kind`."
        )
        yield doubt("no_cells", volume.name, 0.4, text)
        return
    if volume.largest > 0.5:
        # the background between cells has holes, and cells that share one label are separate areas
        around = volume.largest_sides >= 3 and volume.largest_parts >= 3
        text = (
            f"One cell covers {volume.largest:.0%} of section {volume.largest_section + 1}. If it is the "
            "background or the membranes, the annotation is inverted or has another meaning: set "
            "`dataset.annotation_kind`, or the column `annotation_kind` of this volume."
        )
        yield doubt("whole_section", volume.name, 0.85 if around else 0.5, text, volume.largest_section)
    if volume.lost:
        share = volume.lost / len(volume.sizes)
        text = (
            f"{volume.lost} of {len(volume.sizes)} cells lie completely within the separation border between "
            "touching cells, so they are background to the network. Lower `dataset.separation_border_width`."
        )
        yield doubt("lost_in_border", volume.name, 0.3 + 0.6 * share, text)
    median = float(np.median(volume.sizes))
    if median < 9:
        text = (
            f"Half of the {len(volume.sizes)} cells have at most {median:g} px. Check that the annotation is "
            "not noise; enlarge images and annotations if the cells are really so small."
        )
        yield doubt("small_cells", volume.name, 0.5, text)


def _write_page(
    volumes: Sequence[Volume],
    doubts: Sequence[Json],
    page: Path,
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
            volumes=[(volume, _cell_sizes(volume), of_volume[volume.name]) for volume in volumes],
            counts={s: number for s in SPLITS if (number := sum(v.split == s for v in volumes))},
            cells=sum(len(volume.sizes) for volume in volumes),
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

    doubtful = sorted((v for v in volumes if heaviest(v) >= 0.5), key=heaviest, reverse=True)
    queues = [[v for v in volumes if v.split == split] for split in SPLITS]
    turns = [queue[k] for k in range(max(map(len, queues))) for queue in queues if k < len(queue)]
    return list({volume.name: volume for volume in [*doubtful, *turns]}.values())[:shown]


def _picture(volume: Volume, doubts: Sequence[Json], folder: Path) -> Json:
    """Return the picture of the section of a volume where its heaviest doubt is, or of its middle one."""
    places = [doubt["section"] for doubt in doubts if doubt["section"] is not None]
    z = places[0] if places else volume.shape[1] // 2
    path = folder / "picture.png"
    with layout.require(volume.path, layout.RAW) as file:
        arrays = layout.annotated(file) if volume.annotated else None
        save_check_picture(
            path,
            raw=file[layout.RAW.name],
            labels=arrays.labels if arrays else None,
            ignore=arrays.ignore if arrays else None,
            z=z,
            volume=volume.name,
            split=volume.split,
        )
    return _embedded(path)


def _embedded(path: Path) -> Json:
    """Return the description of a picture of `figures`, and its bytes as `uri`."""
    uri = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return figures.describe(path) | {"uri": uri}


def _cell_sizes(volume: Volume) -> Json | None:
    """Return median and range of the cell sizes (px), or None without cells."""
    if not len(volume.sizes):
        return None
    return {
        "median": float(np.median(volume.sizes)),
        "smallest": int(volume.sizes.min()),
        "largest": int(volume.sizes.max()),
    }
