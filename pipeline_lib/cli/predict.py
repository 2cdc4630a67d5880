"""`bordure predict`: segment images with a trained model."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.cli.arguments import pixel_size
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    from pipeline_lib.imageio import Channels

WORK = ".bordure"  # in the folder of the results: intermediate files and their records

HELP = "segment images with a trained model"
DESCRIPTION = """\
Segment images with a trained model, as the workflow does. Neither a table nor
the training images are needed. An image that cannot be used does not stop the
others."""

EPILOG = """\
output: for each image NAME_labels.tif (the cells, numbered), NAME_cells.csv (a
table of them) and NAME_cell_probability.tif; summary.csv.

exit codes: 0 all images are segmented; 1 at least one cannot be used; 2 wrong
            arguments
example:    bordure predict results/model.pt new/*.tif --out cells"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.add_argument("model", type=Path, help="`model.pt` in the results folder of a run")
    parser.add_argument(
        "images", type=Path, nargs="+", help="image files or stacks; `FILE.h5:/DATASET` for HDF5"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--stack", action="store_true", help="a folder in IMAGES is one stack of its files")
    parser.add_argument(
        "--channels",
        type=_channel,
        nargs="+",
        metavar="C",
        help="channels to read, by number or name, as `dataset.channels`",
    )
    parser.add_argument(
        "--scale", type=float, metavar="FACTOR", help="multiply gray levels, as the column `scale`"
    )
    parser.add_argument(
        "--offset", type=float, metavar="LEVEL", help="subtract first, as the column `offset`"
    )
    parser.add_argument(
        "--pixel-size",
        type=pixel_size,
        metavar="UM",
        help="side of a pixel in um; default: as the file states",
    )
    parser.add_argument(
        "--match-pixel-size", action="store_true", help="resample images to the pixel size of the model"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: auto")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GB", help="memory to use; default: 8")


def run(options: argparse.Namespace) -> int:
    """Segment the images and print a line for each.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0 if all images are segmented, else 1.

    Raises
    ------
    InputError
        If the model cannot be used or the names of two images are equal.
    """
    from pipeline_lib.networks.modelfile import application, describe
    from pipeline_lib.runtime.files import write_json
    from pipeline_lib.stages.measurement import write_summary

    names = _names(options.images, options.stack)
    described = describe(options.model)
    chosen = application(described, options.model)
    (options.out / WORK).mkdir(parents=True, exist_ok=True)
    write_json(options.out / WORK / "postprocessing.json", chosen["postprocessing"])
    rows, failed = [], 0
    for number, (name, image) in enumerate(names.items(), 1):
        place = f"[{number}/{len(names)}] {image}"
        try:
            row = _segment(options, described, name, image)
        except InputError as error:
            failed += 1
            rows.append({"image": str(image), "error": str(error)})
            print(f"{place}\nerror: {error}", file=sys.stderr)
            continue
        rows.append(row)
        print(f"{place}: {row['cells']:,} cells", flush=True)
    write_summary(rows, options.out / "summary.csv")
    if failed:
        print(f"error: {failed} of {len(names)} images could not be segmented.", file=sys.stderr)
    return 1 if failed else 0


def _names(images: Sequence[Path], stack: bool) -> dict[str, Path]:
    """Return the images by the names of their results; raise `InputError` if two are equal."""
    from pipeline_lib.imageio import are_slices, channel_paths
    from pipeline_lib.imageio.naming import hdf5_path

    names: dict[str, Path] = {}
    for image in images:
        first = channel_paths(image)[0]
        named = hdf5_path(first)
        if not named and are_slices(first) and not stack:
            raise InputError(
                f"{first}: is a folder. Name its files if each is one image ({image}/*.tif), or add "
                "`--stack` if they are the sections of one stack."
            )
        parts = [Path(named.file).stem, *named.dataset.split("/")] if named else [Path(first).stem]
        name = "_".join(filter(None, parts))
        if name in names:
            raise InputError(
                f"{names[name]} and {image} have the same name, so their results would overwrite each other. "
                "Segment them into different folders (`--out`)."
            )
        names[name] = image
    return names


def _channel(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _channels(options: argparse.Namespace, described: Json) -> Channels:
    """Return the channels to read: those given, or else those that were read for the training."""
    from pipeline_lib.imageio import number_of

    expected = len(described["normalisation"]["scale"])
    chosen: Channels = options.channels or described["application"].get("channels", expected)
    if number_of(chosen) != expected:
        raise InputError(
            f"`--channels`: {number_of(chosen)} given, but {options.model} was trained on {expected}. Give "
            f"{expected}, in the order of the training."
        )
    return chosen


#: Words of messages that are for the workflow, and those for this command.
_WORDS = {
    r"into `dataset\.channels`, or into the column `channels` of the table of volumes": "after `--channels`",
    r"\. Set `dataset\.channels: \d+`, or choose some, as in `[^`]*` \((.*?)\),": r", as the images of the "
    r"training have. Choose them with `--channels` (\1),",
    r"\. Set `dataset\.channels: \d+`, or save": ", as the images of the training have. Save",
    r"Set `dataset\.channels: 3` .* to use one of them,": "The model was trained on gray levels. Add "
    "`--channels red` to use one of the colours,",
}


@contextmanager
def _as_options() -> Iterator[None]:
    """Let errors about channels say which option to add, and not which setting."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for words, replacement in _WORDS.items():
            message = re.sub(words, replacement, message)
        raise InputError(message) from error.__cause__


def _segment(options: argparse.Namespace, described: Json, name: str, image: Path) -> Json:
    """Run the stages of the workflow for one image, and return its row of the summary.

    The HDF5 files are deleted afterwards. Their records stay, so that `bordure provenance` shows how the
    results were made.
    """
    from pipeline_lib.stages.dataset import build_dataset
    from pipeline_lib.stages.measurement import measure_volume
    from pipeline_lib.stages.prediction import predict
    from pipeline_lib.stages.segmentation import segment, write_tiffs

    work = options.out / WORK
    dataset, prediction, segmentation = (
        work / part / f"{name}.h5" for part in ("dataset", "prediction", "segmentation")
    )
    postprocessing = work / "postprocessing.json"
    labels, probability, cells = (
        options.out / f"{name}_{end}" for end in ("labels.tif", "cell_probability.tif", "cells.csv")
    )
    for file in (dataset, prediction, segmentation):
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _as_options():
            build_dataset(
                str(image),
                None,
                dataset,
                channels=_channels(options, described),
                scale=options.scale,
                offset=options.offset,
                pixel_size=options.pixel_size,
            )
        predict(
            dataset,
            options.model,
            prediction,
            average_orientations=described["application"]["average_orientations"],
            match_pixel_size=options.match_pixel_size,
            device=options.device,
            memory_gb=options.memory,
        )
        segment(prediction, postprocessing, segmentation, memory_gb=options.memory)
        write_tiffs(segmentation, prediction, labels, probability)
        number = measure_volume(dataset, prediction, segmentation, cells)
    finally:
        for file in (dataset, prediction, segmentation):
            file.unlink(missing_ok=True)
    return {"image": str(image), "cells": number, "labels": labels.name, "table": cells.name}
