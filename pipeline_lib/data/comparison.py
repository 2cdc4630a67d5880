"""Compare the volumes of a run with each other: copies, wrong pairs, other gray levels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline_lib.data.correspondence import Fit, Sample
from pipeline_lib.data.gray import pool
from pipeline_lib.data.gray_scale import compare
from pipeline_lib.runtime.doubts import doubt
from pipeline_lib.runtime.types import Json

_CLEAR = 1.5  # fit of a sample that surely belongs to its image, as a multiple of what chance gives
_UNCLEAR = 1.15  # ... of one that fits no better than by chance; real pairs have 1.3 at least
_OVERLAP = 3  # windows that sections share if they overlap; different real images share none
_CERTAIN = 16  # ... if this is certain, provided that these are most windows of a section
_MEANINGLESS = (
    "Scores on images that the training saw mean nothing, so remove one of the two from the table of volumes"
)


@dataclass(frozen=True)
class Volume:
    """What the check knows of a volume.

    Parameters
    ----------
    name, split : str
        Name and split.
    path : Path
        Dataset file.
    shape : tuple of int
        Shape (c, z, y, x).
    dtype : str
        Type of the gray levels.
    hashes : list of bytes
        Hash of each section, see `layout.SECTION_HASH`.
    windows : (z, w) array
        Codes of windows of each section, see `layout.SECTION_WINDOWS`.
    gray, annotation : dict
        As in `layout.findings`. `annotation` is None without annotation.
    contrast : float
        Mean gray level in cells minus that outside, in standard deviations; 0 if one of them has no pixels.
    edges, histogram : array of float
        Edges of bins of gray levels, and share of the pixels in each bin.
    fold : str, optional
        Number of its fold. Each fold is the validation split of one training.
    """

    name: str
    split: str
    path: Path
    shape: tuple[int, ...]
    dtype: str
    hashes: list[bytes]
    windows: np.ndarray
    gray: Json
    annotation: Json | None
    contrast: float
    edges: np.ndarray
    histogram: np.ndarray
    fold: str | None = None

    @property
    def part(self) -> str:
        """Part of the data that is either learned or used to score: a split, or one of several folds."""
        return f"the {self.split} split" if self.fold is None else f"fold {self.fold}"


def compare_volumes(
    volumes: Sequence[Volume], samples: Sequence[Sample], context: int
) -> Iterator[tuple[str, Json]]:
    """Find what is doubtful about volumes when they are compared with each other and with the network.

    Parameters
    ----------
    volumes : sequence of Volume
        All volumes.
    samples : sequence of Sample
        Samples of the annotated ones, as returned by `correspondence.with_partners`.
    context : int
        Pixels on each side of an output pixel that the network sees (px).

    Yields
    ------
    tuple of (str, dict)
        Name of the volume, and a doubt as `runtime.doubts.doubt` makes it.
    """
    yield from _copies(volumes)
    yield from _nothing_to_choose_by(volumes)
    yield from wrong_pairs(samples)
    yield from _gray_scales(volumes)
    for volume in volumes:
        if context > min(volume.shape[2:]):
            text = (
                f"The network sees {context} px on each side of a pixel, but the sections have "
                f"{volume.shape[2]} x {volume.shape[3]} px. Beyond the edge it sees mirror images; a smaller "
                "`network.depth` sees less."
            )
            yield volume.name, doubt("context", 0.3, text)


def _copies(volumes: Sequence[Volume]) -> Iterator[tuple[str, Json]]:
    """Yield doubts about sections with equal pixels. Volumes to predict may repeat anything."""
    volumes = [volume for volume in volumes if volume.split != "predict"]
    places: defaultdict[bytes, list[tuple[Volume, int]]] = defaultdict(list)
    for volume in volumes:
        for z, digest in enumerate(volume.hashes):
            if any(digest):
                places[digest].append((volume, z))
    shared: defaultdict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    named = {volume.name: volume for volume in volumes}
    for found in places.values():
        for k, (volume, z) in enumerate(found):
            for same_part in (False, True):
                earlier = ((v, at) for v, at in found[:k] if (v.part == volume.part) == same_part)
                if (first := next(earlier, None)) is not None:
                    shared[volume.name, first[0].name].append((z, first[1]))
    copied = set()
    for (name, other_name), pairs in shared.items():
        one, other = named[name], named[other_name]
        z, at = pairs[0]
        number, has = ("1 section", "has") if len(pairs) == 1 else (f"{len(pairs)} sections", "have")
        where = f"for example section {z + 1} is section {at + 1} of {other_name}"
        if one.part != other.part:
            copied |= {(name, z) for z, _ in pairs}
            text = (
                f"{number} of this volume of {one.part} {has} the same pixels as the volume {other_name} of "
                f"{other.part}: {where}, perhaps turned or in another gray scale. {_MEANINGLESS}; no setting "
                "accepts this."
            )
            yield name, doubt("copies", 1.0, text, z)
        else:
            text = (
                f"{number} {has} the same pixels as other sections of {one.part}: {where}. They "
                "count twice. Remove one of the two from the table of volumes."
            )
            yield name, doubt("duplicates", 0.3, text, z)
    yield from _overlaps(volumes, copied)


def _nothing_to_choose_by(volumes: Sequence[Volume]) -> Iterator[tuple[str, Json]]:
    """Yield doubts about parts without annotated cells, by which no threshold can be chosen."""
    parts: defaultdict[str, list[Volume]] = defaultdict(list)
    for volume in volumes if any(each.split == "train" for each in volumes) else ():
        if volume.fold is not None or volume.split == "validation":
            parts[volume.part].append(volume)
    for part, own in parts.items():
        if all(volume.annotation and not volume.annotation["cells"]["number"] for volume in own):
            advice = (
                "Give other volumes the split `validation`"
                if own[0].fold is None
                else "Change the order of the rows of the table, or choose fewer `folds`"
            )
            text = (
                f"No volume of {part} has an annotated cell, so the threshold cannot be chosen by it. "
                f"{advice}; no setting accepts this."
            )
            yield own[0].name, doubt("no_validation_cells", 1.0, text)


def _overlaps(volumes: Sequence[Volume], copied: set[tuple[str, int]]) -> Iterator[tuple[str, Json]]:
    """Yield doubts about sections, without `copied` ones, that share windows with those of other parts."""
    codes = np.concatenate([np.empty(0, np.uint64), *(v.windows[v.windows > 0] for v in volumes)])
    values, counts = np.unique(codes, return_counts=True)
    repeated = values[counts > 1]
    first: defaultdict[int, dict[str, tuple[str, int]]] = defaultdict(dict)  # code -> part -> first section
    parts = {volume.name: volume.part for volume in volumes}
    for volume in volumes:
        found = []  # of each section with an overlap: number of common windows, their share, section, other
        for z, own in enumerate(volume.windows):
            others: Counter[tuple[str, int]] = Counter()
            for code in own[np.isin(own, repeated)].tolist():
                others.update([place for part, place in first[code].items() if part != volume.part][:1])
                first[code].setdefault(volume.part, (volume.name, z))
            if others.total() >= _OVERLAP and (volume.name, z) not in copied:
                share = others.total() / np.count_nonzero(own)
                found.append((others.total(), share, z, *others.most_common(1)[0][0]))
        if found:
            number, share, z, other, at = max(found)
            text = (
                f"{len(found)} {'section overlaps' if len(found) == 1 else 'sections overlap'} with "
                f"others: for example, section {z + 1} of this volume of {volume.part} and section {at + 1} "
                f"of the volume {other} of {parts[other]} have the same pixels in {number} places. "
                f"{_MEANINGLESS}."
            )
            certain = number >= _CERTAIN and share > 0.5
            yield volume.name, doubt("copies", 1.0 if certain else 0.95, text, z)


def wrong_pairs(samples: Sequence[Sample]) -> Iterator[tuple[str, Json]]:
    """Find volumes whose outlines do not follow the edges of the image.

    Parameters
    ----------
    samples : sequence of Sample
        Samples of all volumes, as returned by `correspondence.with_partners`.

    Yields
    ------
    tuple of (str, dict)
        Name of the volume, and the doubt.
    """
    known = [(sample, sample.fit) for sample in samples if sample.fit is not None]
    clear = [fit.own for _, fit in known if fit.own > _CLEAR * fit.chance]
    of_volume: defaultdict[str, list[tuple[Sample, Fit]]] = defaultdict(list)
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
                f"({fit.better_fit:.2f}). {_correction(fit.better)}"
            )
            yield name, doubt("wrong_pair", 0.95, text, sample.z)
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
            yield name, doubt("wrong_pair", 0.9 if certain else 0.5, text, sample.z)


def _correction(better: str) -> str:
    """Return what to do if something else fits better, which is a change of the annotation or an image."""
    table = "`images`, `annotation` or `sections` in the table of volumes"
    if better.startswith("the annotation "):
        return f"Change the file of the annotation in this way, or correct {table}."
    return f"Correct {table}, or the files."


def _gray_scales(volumes: Sequence[Volume]) -> Iterator[tuple[str, Json]]:
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
            yield volume.name, doubt("gray_scale", 0.6, text)
            continue
        # the comparison that a prediction makes, too, which would end the run after the training
        if pooled and volume.split != "train" and (found := compare(pooled, volume.gray)) is not None:
            yield volume.name, found
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
            yield volume.name, doubt("gray_scale", 0.85 if factor > 30 else 0.6 if factor > 8 else 0.3, text)
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
            yield volume.name, doubt("contrast", 0.5, text)
