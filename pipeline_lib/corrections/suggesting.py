"""Write the parts of images whose correction is expected to help most."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib import imageio, provenance
from pipeline_lib.api.segmenting import Options, channels_to_read, segment_images
from pipeline_lib.corrections import files
from pipeline_lib.corrections.ranking import (
    Place,
    choose_places,
    places_of,
    random_places,
    starts,
    uncertain_outlines,
)
from pipeline_lib.kernels.blocks import with_halo
from pipeline_lib.networks import modelfile
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import explained, sha256, write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json

#: Words for the reason of a choice.
UNCERTAIN, DISAGREE = "uncertain outlines", "the networks disagree"


def suggest(
    images: Sequence[Path],
    options: Options,
    *,
    number: int = 10,
    size: int = 256,
    seed: int | None = None,
    stack: bool = False,
) -> list[Place]:
    """Segment images, choose parts of them, and write these parts and their labels for a person to correct.

    Parameters
    ----------
    images : sequence of Path
        Image files or stacks.
    options : Options
        Model, folder of the round, and how images are segmented.
    number : int, default 10
        Number of crops.
    size : int, default 256
        Side of the part of a crop that is annotated (px). Around it, the images have a margin, from which the
        network takes its context.
    seed : int, optional
        With it, crops are chosen at random, to compare.
    stack : bool, default False
        Whether a folder is one stack of its files.

    Returns
    -------
    list of Place
        The crops, the best first.

    Raises
    ------
    InputError
        If the folder exists, the model cannot be used or finds boxes or several classes, or no image can be
        segmented.
    """
    folder = options.out
    if folder.exists() and (not folder.is_dir() or {*os.listdir(folder)} - {files.PREDICTED}):
        raise InputError(f"{folder}: exists, and is not overwritten. Name a new folder after `--out`.")
    described = modelfile.describe(options.model)
    if described.get("task") == "detection" or len(described.get("classes", ())) > 2:
        raise InputError(
            f"{options.model}: corrections are for cells of one class, not for boxes or several classes."
        )
    predicted = folder / files.PREDICTED
    try:
        shutil.rmtree(predicted, ignore_errors=True)  # of a command that was stopped
        rows = segment_images(images, replace(options, out=predicted), stack=stack)
    except OSError as error:
        if (clearer := explained(error, folder)) is error:
            raise
        raise clearer from error
    if failed := [row["image"] for row in rows if "error" in row]:
        if len(failed) == len(rows):
            raise InputError(f"{failed[0]}: cannot be segmented, see above.")
        logger.warning("no crops of %s are suggested: it cannot be segmented, see above", ", ".join(failed))
        rows = [row for row in rows if "error" not in row]
    found = {row["labels"].removesuffix("_labels.tif"): Path(row["image"]) for row in rows}
    candidates = [place for name in found for place in _candidates(predicted, name, size)]
    places = (
        choose_places(candidates, number, size)
        if seed is None
        else random_places(candidates, number, size, seed)
    )
    channels = channels_to_read(options.channels, described, options.model)
    margin = int(described["context"])
    todo = [
        _write_crop(folder, predicted, found[place.image], rank, place, size, margin, channels)
        for rank, place in enumerate(places, 1)
    ]
    files.write_todo(todo, folder / files.TODO)
    write_json(
        folder / files.ROUND,
        {
            "model": str(options.model.resolve()),
            "sha256": sha256(options.model),
            "size": size,
            "margin": margin,
            "not_annotated": files.NOT_ANNOTATED,
            "offset": options.offset,
            "scale": options.scale,
            "pixel_size": options.pixel_size,
            "chosen": "by expected benefit" if seed is None else f"at random, seed {seed}",
            "bordure": provenance.version(),
        },
    )
    return places


def _candidates(predicted: Path, name: str, size: int) -> Iterator[Place]:
    """Yield all parts of a segmented image with their scores, section by section in bands of rows."""
    with ExitStack() as stack:
        labels, probability = (
            stack.enter_context(imageio.open_images(predicted / f"{name}_{end}.tif"))
            for end in ("labels", "cell_probability")
        )
        std = predicted / f"{name}_disagreement.tif"
        disagreement = stack.enter_context(imageio.open_images(std)) if std.exists() else None
        _, sections, height, width = labels.shape
        for z in range(sections):
            for top in starts(height, size):
                band = slice(top, min(top + size, height)), slice(0, width)
                maps = {
                    UNCERTAIN: uncertain_outlines(
                        probability.read(z, *band)[0].astype(np.float32), labels.read(z, *band)[0]
                    )
                }
                if disagreement is not None:
                    maps[DISAGREE] = 2 * disagreement.read(z, *band)[0]
                yield from places_of(name, z, top, maps, size)


def _write_crop(
    folder: Path,
    predicted: Path,
    image: Path,
    rank: int,
    place: Place,
    size: int,
    margin: int,
    channels: imageio.Channels,
) -> Json:
    """Write image and labels of a crop, and return its row of the list."""
    where = f"_z{place.section:03}_y{place.y:04}_x{place.x:04}"
    crop = f"{rank:02}_{files.plain(place.image)[:60]}{where}"
    with ExitStack() as stack:
        raw = stack.enter_context(imageio.open_images(image, channels=channels))
        labels = stack.enter_context(imageio.open_images(predicted / f"{place.image}_labels.tif"))
        height, width = raw.shape[2:]
        (y, rows), (x, columns) = (
            with_halo(slice(start, min(start + size, length)), length, margin)
            for start, length in ((place.y, height), (place.x, width))
        )
        gray = raw.read(place.section, y, x)
        found = labels.read(place.section, y, x)[0].astype(np.int64)
        pixel_size = raw.info.pixel_size
    shown = files.framed(found, (rows, columns))
    for name in (files.IMAGES, files.LABELS):
        (folder / name).mkdir(exist_ok=True)
    write = imageio.write_images if len(gray) == 1 else imageio.write_channels
    write(folder / files.IMAGES / f"{crop}.tif", gray, pixel_size=pixel_size)
    for at in (folder / files.LABELS, predicted):
        imageio.write_labels(at / f"{crop}.tif", shown[None], pixel_size=pixel_size)
    values = (
        rank,
        crop,
        "no",
        place.reason,
        round(place.score, 5),
        place.image,
        place.section,
        place.y,
        place.x,
        rows.stop - rows.start,
        columns.stop - columns.start,
    )
    return dict(zip(files.COLUMNS, values, strict=True))
