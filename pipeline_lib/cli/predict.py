"""`bordure predict`: segment images with a trained model."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.cli.arguments import pixel_size
from pipeline_lib.kernels.threads import cores
from pipeline_lib.runtime import live, workers
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import set_threads, shown_warnings
from pipeline_lib.runtime.progress import Progress
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    from pipeline_lib.imageio import Channels

WORK = ".bordure"  # in the folder of the results: intermediate files and their records

THREADS = 8  # of a prediction, as in the rules of the workflow
STAGES = [f"pipeline_lib.stages.{name}" for name in ("dataset", "prediction", "segmentation", "measurement")]

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
    parser.add_argument(
        "--at-a-time", type=int, metavar="N", help="images at a time; default: what the machine allows"
    )
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

    names = _names(options.images, options.stack)
    described = describe(options.model)
    chosen = application(described, options.model)
    (options.out / WORK).mkdir(parents=True, exist_ok=True)
    write_json(options.out / WORK / "postprocessing.json", chosen["postprocessing"])
    return _segment_all(options, described, names)


def _segment_all(options: argparse.Namespace, described: Json, names: dict[str, Path]) -> int:
    """Segment the images, print a line for each, write the summary, and return the exit code."""
    images = list(names.items())
    rows: dict[int, Json] = {}
    try:
        with live.drawn(), live.job("images"):
            # as in the workflow, since the last digits of a convolution depend on the number of threads
            threads = min(cores(), THREADS)
            at_a_time = options.at_a_time or _most_at_a_time(options, described, [*names.values()], threads)
            set_threads(threads)
            segment_one = partial(_segment, options, described, threads)
            progress = Progress(len(images), "image", log=False)  # a line for each image is printed
            for number, result in workers.each(segment_one, images, at_a_time, STAGES):
                image = str(images[number][1])
                place = f"[{len(rows) + 1}/{len(images)}] {image}"
                if isinstance(result, InputError):
                    rows[number] = {"image": image, "error": str(result)}
                    print(f"{place}\nerror: {result}", file=sys.stderr, flush=True)
                else:
                    rows[number] = {"image": image} | result
                    cells = result["cells"]
                    print(f"{place}: {cells:,} {'cell' if cells == 1 else 'cells'}", flush=True)
                progress.update(len(rows))
    finally:
        from pipeline_lib.stages.measurement import write_summary  # not before the number of threads is set

        write_summary([row for _, row in sorted(rows.items())], options.out / "summary.csv")
        if len(rows) < len(images):
            print(f"{options.out}: {len(rows)} of {len(images)} images are complete.", file=sys.stderr)
    if failed := sum("error" in row for row in rows.values()):
        print(f"error: {failed} of {len(images)} images could not be segmented.", file=sys.stderr)
    return 1 if failed else 0


def _most_at_a_time(
    options: argparse.Namespace, described: Json, images: Sequence[Path], threads: int
) -> int:
    """Return how many images to segment at the same time: one on a GPU, else as many as fit.

    There is one process more than the cores can feed with `threads` each, so that an image is read while the
    network works on another. Each process may use all of `--memory` for its tiles, so that they do not depend
    on the number of processes. So as many images fit as do with the tiles of the largest.
    """
    from pipeline_lib import imageio, memory, networks
    from pipeline_lib.runtime.devices import uses_gpu

    if len(images) == 1 or uses_gpu(options.device):
        return 1
    plan = networks.plan(described["name"], **described["arguments"])
    largest = 0
    for image in images:
        with (
            contextlib.suppress(InputError),  # reported when it is segmented
            imageio.open_images(image, channels=_channels(options, described)) as found,
        ):
            height, width = map(plan.geometry.input_size, found.shape[2:])
            largest = max(largest, height * width)
    need = memory.TORCH_PROCESS_BYTES + memory.KEPT * 4 * plan.values_per_pixel * largest
    return max(min(cores() // threads + 1, len(images), int(options.memory * 1e9 / need)), 1)


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


@contextlib.contextmanager
def _as_options() -> Iterator[None]:
    """Let errors about channels say which option to add, and not which setting."""
    try:
        yield
    except InputError as error:
        message = str(error)
        for words, replacement in _WORDS.items():
            message = re.sub(words, replacement, message)
        raise InputError(message) from error.__cause__


def _segment(options: argparse.Namespace, described: Json, threads: int, named: tuple[str, Path]) -> Json:
    """Run the stages of the workflow for one image, and return its row of the summary.

    The HDF5 files are deleted afterwards. Their records stay, so that `bordure provenance` shows how the
    results were made. If this is interrupted, no results of the image remain.
    """
    from pipeline_lib.stages.dataset import build_dataset
    from pipeline_lib.stages.measurement import measure_volume
    from pipeline_lib.stages.prediction import predict
    from pipeline_lib.stages.segmentation import segment, write_tiffs

    name, image = named
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
    with contextlib.ExitStack() as stack:
        stack.enter_context(shown_warnings())
        stack.enter_context(live.job(name))
        for file in (dataset, prediction, segmentation):
            stack.callback(file.unlink, missing_ok=True)
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
            threads=threads,
        )
        segment(prediction, postprocessing, segmentation, memory_gb=options.memory)
        try:
            write_tiffs(segmentation, prediction, labels, probability)
            number = measure_volume(dataset, prediction, segmentation, cells)
        except BaseException:
            for file in (labels, probability, cells):
                file.unlink(missing_ok=True)
            raise
    return {"cells": number, "labels": labels.name, "table": cells.name}
