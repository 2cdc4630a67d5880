"""Write table and config for the images of a folder."""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib import imageio
from pipeline_lib.data.volumes import SPLITS
from pipeline_lib.kernels import pixelsize
from pipeline_lib.projects.layouts import Found, find_images
from pipeline_lib.projects.proposal import Choice, choose_network, choose_settings, infer_preset
from pipeline_lib.projects.splits import Row, split_images
from pipeline_lib.projects.survey import Survey, survey
from pipeline_lib.projects.writing import CONFIG, RESULTS, TABLE, config_text, require_new, table_text
from pipeline_lib.runtime import devices
from pipeline_lib.runtime.types import Json


@dataclass(frozen=True)
class Project:
    """What `set_up` found and wrote.

    Parameters
    ----------
    found : list of tuple of (str, str)
        What was found and inferred: a name and a value for each line.
    rows : list of Row
        Rows of the table.
    choices : list of Choice
        Settings of the config.
    table, config : Path
        Files that were written.
    """

    found: list[tuple[str, str]]
    rows: list[Row]
    choices: list[Choice]
    table: Path
    config: Path


def set_up(
    folder: str | Path,
    to: str | Path = ".",
    *,
    images: str | None = None,
    annotations: str | None = None,
    preset: str | None = None,
    minutes: float = 30.0,
    settings: imageio.AnnotationSettings | None = None,
    choose: Callable[[str, Sequence[str]], str] | None = None,
    command: str = "",
) -> Project:
    """Look at the images of a folder, and write `volumes.tsv` and `config.yaml` for them.

    The values in the config follow from the images: see its comments. To choose the number of iterations,
    some training steps are run.

    Parameters
    ----------
    folder : str or Path
        Folder with images and annotations, see `layouts.find_images`.
    to : str or Path, default "."
        Folder to write to. It is created if it does not exist. The results of a run go into its subfolder
        `results`.
    images, annotations : str, optional
        Patterns of images and annotations, relative to `folder`.
    preset : {"membranes", "nuclei", "cells"}, optional
        Kind of images. By default it is inferred.
    minutes : float, default 30.0
        Time that a run may take on this machine (min).
    settings : dict, optional
        Stated meaning of the annotations: `kind`, `classes`, `background`, `ignore` and `relabel` of
        `imageio.open_annotation`.
    choose : callable, optional
        Function that asks a person, see `survey.survey`.
    command : str, default ""
        Command to name in the config. By default that with the folder alone.

    Returns
    -------
    Project
        What was found and written.

    Raises
    ------
    InputError
        If one of the files to write exists, the images cannot be used, or the names or values of files are
        ambiguous.
    """
    from pipeline_lib.training.speed import measure_speed  # imports torch

    folder, to = Path(folder), Path(to)
    require_new(to)
    found = find_images(folder, images, annotations)
    stated = {} if settings is None else settings
    seen = survey(folder, found, stated, choose)
    chosen, why = (preset, "stated") if preset else infer_preset(seen)
    network = choose_network(seen, chosen, devices.uses_gpu("auto"))
    shapes = {image.images: shape for image, shape in zip(found, seen.shapes, strict=True)}
    rows = split_images([*zip(found, seen.shapes, strict=True)], network.context, seen.diameter)
    speed = measure_speed(
        network.section("network"),
        network.section("training"),
        network.section("augmentation"),
        channels=seen.channels,
    )

    def pixels(row: Row) -> int:
        sections, height, width = shapes[row.images]
        used = imageio.row_range(row.rows) or range(height)
        return len(imageio.parse_sections(row.sections, sections)) * len(used) * width

    choices = choose_settings(seen, chosen, network, rows, pixels, speed, minutes)
    extra: Json = {key: stated.get(key) for key in ("classes", "background", "ignore", "relabel")}
    choices += [
        Choice("dataset", key, value, "stated")
        for key, value in extra.items()
        if value is not None and value is not False and (key, value) != ("background", 0)
    ]
    lines = _described(found, seen, rows, f"{chosen} ({why})")
    path = shlex.quote(str(to / CONFIG))
    command = command or f"bordure init {shlex.quote(str(folder))}"
    head = [
        f"Written by `{command}`. The comments say why each value was chosen.",
        *(f"{name + ':':<12} {value}" for name, value in lines),
        f"Check the annotations: bordure check {path}. Then run everything: bordure run {path}",
    ]
    data_dir, results = (Path(os.path.abspath(path)) for path in (folder, to / RESULTS))  # without ".."
    text = config_text(head, data_dir, results, data_dir.name or "Segmentation", choices)
    to.mkdir(parents=True, exist_ok=True)
    table, config = to / TABLE, to / CONFIG
    table.write_text(table_text(rows), encoding="utf-8")
    config.write_text(text, encoding="utf-8")
    return Project(lines, rows, choices, table, config)


def _described(
    found: Sequence[Found], seen: Survey, rows: Sequence[Row], preset: str
) -> list[tuple[str, str]]:
    """Return what was found and inferred, as names and values."""
    sizes = sorted({shape[1:] for shape in seen.shapes}, key=math.prod)
    size = f"{sizes[0][0]} x {sizes[0][1]}"
    if len(sizes) > 1:
        size = f"{len(sizes)} sizes, {size} to {sizes[-1][0]} x {sizes[-1][1]}"
    sections = sorted({shape[0] for shape in seen.shapes})
    stacks = "" if sections == [1] else f", {'-'.join(map(str, {sections[0]: 0, sections[-1]: 0}))} sections"
    channels = f", {seen.channels} channels" if seen.channels > 1 else ""
    pixels = " to ".join(map(pixelsize.text, dict.fromkeys([*seen.pixel_sizes[:1], *seen.pixel_sizes[-1:]])))
    annotated = sum(image.annotation is not None for image in found)
    gap = "" if math.isnan(seen.gap) else f", narrow gaps of {seen.gap:.1f} px"
    parts = Counter(row.split for row in rows)
    described = {
        split: f"{split} {parts[split]}" + _region([row for row in rows if row.split == split])
        for split in SPLITS
        if parts[split]
    }
    joined = seen.kind != "instances" and seen.share < 0.5  # not membranes, which lie between cells
    lines = [
        ("images", f"{len(found)}, {size} px{stacks}{channels}, {seen.dtype}"),
        *([("pixel size", pixels)] if pixels else []),
        ("annotations", f"{annotated} of {len(found)}: {seen.kind} ({seen.evidence})"),
        (
            "cells",
            f"{'' if seen.exact else 'about '}{seen.cells:,}, {seen.diameter:.0f} px wide, "
            f"{seen.share:.0%} of the pixels, {seen.touching:.0%} touch another{gap}",
        ),
        *([("", "cells that touch are one in such masks; label images keep them apart")] if joined else []),
        ("preset", preset),
        ("splits", "; ".join(described.values())),
    ]
    if not parts["test"]:
        lines.append(("", "no test split: no image is left for scores on unseen images"))
    return lines


def _region(rows: Sequence[Row]) -> str:
    """Return which part of its image a single row has."""
    if len(rows) > 1 or not (rows[0].sections or rows[0].rows):
        return ""
    named = ("sections", rows[0].sections), ("rows", rows[0].rows)
    return f" ({', '.join(f'{name} {text}' for name, text in named if text)})"
