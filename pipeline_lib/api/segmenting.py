"""Segment files of images with a trained model, several at a time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.kernels.threads import cores
from pipeline_lib.runtime import live, workers
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import begins_with
from pipeline_lib.runtime.locks import locked
from pipeline_lib.runtime.log import set_threads, several, shown_warnings
from pipeline_lib.runtime.progress import Progress
from pipeline_lib.runtime.types import Json

if TYPE_CHECKING:
    import pandas as pd

    from pipeline_lib.imageio import Channels

WORK = ".bordure"  # in the folder of the results: intermediate files and their records

PARTS = ("dataset", "prediction", "detection", "segmentation")  # folders in it

THREADS = 8  # of a prediction, as in the rules of the workflow
STAGES = [f"pipeline_lib.stages.{name}" for name in ("dataset", "prediction", "segmentation", "measurement")]


@dataclass(frozen=True)
class Options:
    """Model, folder to write to, and how to segment images: the options of `bordure predict`.

    Parameters
    ----------
    model : Path
        Complete model file.
    out : Path
        Folder to write to.
    scale, offset : float, optional
        To convert another gray scale: (gray level - `offset`) * `scale`.
    channels : sequence of (int or str), optional
        Channels to read, by number or name. By default those of the training.
    pixel_size : float or (float, float), optional
        Side of a pixel, or height and width (um). By default as the files state.
    match_pixel_size : bool, default False
        Whether images are resampled to the pixel size of the training images for the network.
    device : {"auto", "cpu", "cuda"}, default "auto"
        Device that computes.
    at_a_time : int, optional
        Number of images at a time. By default what the machine allows.
    memory : float, default 8.0
        Memory that each process may use (GB).
    """

    model: Path
    out: Path
    scale: float | None = None
    offset: float | None = None
    channels: Sequence[int | str] | None = None
    pixel_size: float | tuple[float, float] | None = None
    match_pixel_size: bool = False
    device: str = "auto"
    at_a_time: int | None = None
    memory: float = 8.0


def segment_images(images: Sequence[Path], options: Options, *, stack: bool = False) -> list[Json]:
    """Segment images and print a line for each. An image that cannot be used does not stop the others.

    Parameters
    ----------
    images : sequence of Path
        Image files, stacks or `file.h5:/dataset`.
    options : Options
        Model, folder to write to, and how to segment.
    stack : bool, default False
        Whether a folder is one stack of its files.

    Returns
    -------
    list of dict
        Rows of `summary.csv` in the order of the images: `image`, and either `cells`, `labels` and `table`,
        or `error`.

    Raises
    ------
    InputError
        If the model cannot be used, the names of two images are equal, or a result would replace an image or
        a file that bordure did not write.
    """
    from pipeline_lib.networks.modelfile import application, describe
    from pipeline_lib.runtime.files import explained, write_json

    if options.at_a_time is not None and options.at_a_time < 1:
        raise InputError(f"`--at-a-time`: found {options.at_a_time}, expected at least 1.")
    names = _names(images, stack)
    described = describe(options.model)
    chosen = application(described, options.model)
    _require_free(options.out, names, _results_of(described).values())
    try:
        for part in PARTS:
            (options.out / WORK / part).mkdir(parents=True, exist_ok=True)
        write_json(_postprocessing(options, described), chosen["postprocessing"])
    except OSError as error:
        raise explained(error, options.out) from error
    with _same_environment():
        return _segment_all(options, described, names)


def _require_free(folder: Path, names: dict[str, Path], ends: Iterable[str]) -> None:
    """Raise `InputError` if a result would replace an image, or a file that bordure did not write."""
    images = {os.path.realpath(image): image for image in names.values()}
    results = [(folder / f"{name}_{end}", image) for name, image in names.items() for end in ends]
    for path, image in results:
        if os.path.realpath(path) in images:
            raise InputError(
                f"{path}: is a result of {image}, and is among the images to segment. Name only the images, "
                "or write into another folder by `--out`."
            )
        if path.exists() and not _is_result(path):
            raise InputError(
                f"{path}: exists, and bordure did not write it, or it was edited since. It is not replaced. "
                "Write into another folder by `--out`, or move this file."
            )
    summary = folder / "summary.csv"
    if summary.exists() and not begins_with(summary, "image,cells,labels,"):
        raise InputError(
            f"{summary}: exists, and bordure did not write it. It is not replaced. Write into another folder "
            "by `--out`, or move this file."
        )
    written = {row[kind]: row["image"] for row in _rows(summary) for kind in ("labels", "table") if row[kind]}
    for path, image in results:
        earlier = written.get(path.name, image)
        both = path.exists() and os.path.exists(earlier)
        if both and os.path.realpath(earlier) != os.path.realpath(image):
            raise InputError(
                f"{path}: is the result of {earlier}, and would be replaced by that of {image}. Write into "
                "another folder by `--out`, or delete this file."
            )


def _is_result(path: Path) -> bool:
    """Return whether a file is as bordure wrote it, also if it was killed before writing the record."""
    from pipeline_lib import provenance

    if provenance.record_path(path).exists():
        return provenance.is_result(path)
    return bool(provenance.find_record(path)) or begins_with(path, "section,label,")


@contextlib.contextmanager
def _same_environment() -> Iterator[None]:
    """Restore the environment variables at the end, since the size of thread pools is set there."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _segment_all(options: Options, described: Json, names: dict[str, Path]) -> list[Json]:
    """Segment the images, print a line for each, write the summary, and return its rows."""
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
                    print(f"{place}: {several(result['cells'], 'cell')}", flush=True)
                progress.update(len(rows))
    finally:
        from pipeline_lib.stages.measurement import write_summary  # not before the number of threads is set

        ordered = [row for _, row in sorted(rows.items())]
        summary = options.out / "summary.csv"
        with locked(options.out / WORK / "lock"):  # another command may write into the same folder
            write_summary([*_earlier(summary, ordered), *ordered], summary)
        if len(rows) < len(images):
            print(f"{options.out}: {len(rows)} of {len(images)} images are complete.", file=sys.stderr)
    if len(images) > 1:
        cells = sum(row.get("cells", 0) for row in ordered)
        print(f"{summary}: {several(len(rows), 'image')}, {several(cells, 'cell')}")
    if failed := sum("error" in row for row in rows.values()):
        print(f"error: {failed} of {len(images)} images could not be segmented.", file=sys.stderr)
    return ordered


def _earlier(summary: Path, rows: Sequence[Json]) -> list[Json]:
    """Return the rows of other images in an existing summary, whose results are in the same folder."""
    replaced = {row.get(kind) for row in rows for kind in ("image", "labels", "table")} - {None}
    return [
        row
        for row in _rows(summary)
        if replaced.isdisjoint(row.values())
        and all((summary.parent / row[kind]).exists() for kind in ("labels", "table") if row[kind])
    ]


def _rows(summary: Path) -> list[Json]:
    """Return the rows of a summary, with None for what is empty; none if it is missing or damaged."""
    try:
        table = read_summary(summary).astype(object)
    except (OSError, ValueError, KeyError):
        return []
    rows: list[Json] = table.where(table.notna(), None).to_dict("records")
    return rows


def read_summary(path: Path) -> pd.DataFrame:
    """Read the table of all images.

    Parameters
    ----------
    path : Path
        `summary.csv`.

    Returns
    -------
    pandas.DataFrame
        Columns `image`, `cells` (Int64), `labels`, `table` and `error`; the others are text, so that 001 is
        not 1, or NaN.
    """
    import pandas as pd

    table = pd.read_csv(path, dtype=str, keep_default_na=False).replace("", None)
    return table.astype({"cells": "Int64"})


def _most_at_a_time(options: Options, described: Json, images: Sequence[Path], threads: int) -> int:
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
            imageio.open_images(
                image, channels=channels_to_read(options.channels, described, options.model)
            ) as found,
        ):
            height, width = map(plan.geometry.input_size, found.shape[2:])
            largest = max(largest, height * width)
    need = memory.TORCH_PROCESS_BYTES + memory.KEPT * plan.tile_bytes_per_pixel() * largest
    return max(min(cores() // threads + 1, len(images), int(options.memory * 1e9 / need)), 1)


def _names(images: Sequence[Path], stack: bool) -> dict[str, Path]:
    """Return the images by the names of their results; raise `InputError` if two are equal."""
    from pipeline_lib.imageio import are_slices, channel_paths
    from pipeline_lib.imageio.naming import hdf5_path, is_pattern
    from pipeline_lib.imageio.remote import require_local

    names: dict[str, Path] = {}
    for image in images:
        require_local(image)
        first = channel_paths(image)[0]
        named = hdf5_path(first)
        if is_pattern(first) and not stack:
            raise InputError(
                f"{first}: is a pattern in quotes. Leave the quotes out, so that the shell names the files; "
                "in Python, `sorted(Path().glob(...))` does. Add `--stack` (in Python `stack=True`) if they "
                "are the sections of one stack."
            )
        if not named and are_slices(first) and not stack:
            raise InputError(
                f"{first}: is a folder. Name its files if each is one image ({image}/*.tif), or add "
                "`--stack` (in Python `stack=True`) if they are the sections of one stack."
            )
        parts = [Path(named.file).stem, *named.dataset.split("/")] if named else [_stem(first)]
        name = "_".join(filter(None, parts))
        if name in names:
            raise InputError(
                f"{names[name]} and {image} have the same name, so their results would overwrite each other. "
                "Segment them into different folders."
            )
        names[name] = image
    return names


def _stem(path: str) -> str:
    """Return the name of a file or folder without its suffix, also of `.` and `..`."""
    return Path(path).stem if Path(path).stem.strip(".") else Path(path).resolve().stem


def channels_to_read(given: Channels | None, described: Json, model: Path) -> Channels:
    """Return the channels to read: those given, or else those that were read for the training.

    Parameters
    ----------
    given : int or sequence of (int or str), optional
        Number of channels, or their numbers or names.
    described : dict
        Description of the model.
    model : Path
        Its file, for messages.

    Returns
    -------
    int or sequence of (int or str)
        As `given`.

    Raises
    ------
    InputError
        If the model was trained on another number of channels.
    """
    from pipeline_lib.imageio import number_of

    expected = len(described["normalisation"]["scale"])
    chosen: Channels = given or described["application"].get("channels", expected)
    if number_of(chosen) != expected:
        raise InputError(
            f"`--channels`: {number_of(chosen)} given, but {model} was trained on {expected}. Give "
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
    r"Write the factor between the scales into the column `scale` of the table of volumes:": "Add `--scale "
    "FACTOR`, with the factor between the scales:",
    r"Write into the table of volumes: `offset`: ([^\s,]+) and `scale`: ([^\s,]+), or only `scale`: 1": "Add "
    r"`--offset \1 --scale \2`, or only `--scale 1`",
    r"Write into the table of volumes: `offset`: ([^\s,]+), or only `scale`: 1": "Add "
    r"`--offset \1`, or only `--scale 1`",
    r"write the factor between the scales into the column `scale` of the table of volumes": "add `--scale "
    "FACTOR`, with the factor between the scales",
    r"config key `memory_gb`": "`--memory`",
}


@contextlib.contextmanager
def as_options(image: str | Path, dataset: Path) -> Iterator[None]:
    """Let errors name the image, and the option to add instead of a setting or a column. Context manager.

    Parameters
    ----------
    image : str or Path
        What errors call the image.
    dataset : Path
        File that they would name.
    """
    try:
        yield
    except InputError as error:
        message = str(error).replace(str(dataset), str(image))
        for words, replacement in _WORDS.items():
            message = re.sub(words, replacement, message)
        raise InputError(message) from error.__cause__


def _segment(options: Options, described: Json, threads: int, named: tuple[str, Path]) -> Json:
    """Run the stages of the workflow for one image, and return its row of the summary.

    The HDF5 files are deleted afterwards. Their records stay, so that `bordure provenance` shows how the
    results were made. If this is interrupted, no results of the image remain.
    """
    from pipeline_lib.imageio.boxes import EXPORTS
    from pipeline_lib.stages.dataset import build_dataset
    from pipeline_lib.stages.detection import export_detections
    from pipeline_lib.stages.masks import predict_masks
    from pipeline_lib.stages.prediction import predict
    from pipeline_lib.stages.segmentation import segment

    name, image = named
    dataset, prediction, detections, segmentation = files = [
        options.out / WORK / part / f"{name}.h5" for part in PARTS
    ]
    results = {kind: options.out / f"{name}_{end}" for kind, end in _results_of(described).items()}
    with contextlib.ExitStack() as stack:
        stack.enter_context(shown_warnings())
        stack.enter_context(live.job(name))
        for file in files:
            stack.callback(file.unlink, missing_ok=True)
        with as_options(image, dataset):
            build_dataset(
                str(image),
                None,
                dataset,
                channels=channels_to_read(options.channels, described, options.model),
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
        chosen = _postprocessing(options, described)
        every = {options.out / f"{name}_{end}" for end in (*EXPORTS.values(), *_OF_PIXELS.values())}
        for other in every - {*results.values()}:  # of another kind of model
            if other.exists() and _is_result(other):
                other.unlink()
        try:
            if described.get("task") != "detection":
                segment(prediction, chosen, segmentation, memory_gb=options.memory)
                return _write_cells(dataset, prediction, segmentation, results)
            shape = find_boxes(dataset, prediction, chosen, detections)
            exports = {kind: results[kind] for kind in EXPORTS}
            number = export_detections(detections, chosen, **exports, volume=name, shape=shape)
            if not has_masks(described):
                return {"cells": number, "table": results["table"].name}
            predict_masks(
                dataset,
                options.model,
                detections,
                chosen,
                segmentation,
                device=options.device,
                threads=threads,
            )
            return _write_cells(dataset, None, segmentation, results)
        except BaseException:
            for file in results.values():
                file.unlink(missing_ok=True)
            raise


#: End of the name of each file that a network for pixels, or masks in boxes, can give.
_OF_PIXELS = {
    "labels": "labels.tif",
    "cells": "cells.csv",
    "cell_probability": "cell_probability.tif",
    "disagreement": "disagreement.tif",
    "classes": "classes.tif",
}


def _results_of(described: Json) -> dict[str, str]:
    """Return the end of the name of each file that is written for an image, by its kind."""
    cells = {kind: _OF_PIXELS[kind] for kind in ("labels", "cells")}
    if described.get("task") == "detection":
        from pipeline_lib.imageio.boxes import EXPORTS

        return EXPORTS | (cells if has_masks(described) else {})
    from pipeline_lib.networks.modelfile import members
    from pipeline_lib.tasks.segmentation.classes import Classes

    several = {"disagreement": members(described) > 1, "classes": Classes.of(described).several}
    return {kind: end for kind, end in _OF_PIXELS.items() if several.get(kind, True)}


def has_masks(described: Json) -> bool:
    """Return whether a model is a detector that predicts masks.

    Parameters
    ----------
    described : dict
        Description of the model.

    Returns
    -------
    bool
        Whether its detections become labels.
    """
    return bool(described["arguments"].get("masks"))


def _write_cells(
    dataset: Path, prediction: Path | None, segmentation: Path, results: dict[str, Path]
) -> Json:
    """Write the results of a segmented image, and return the row of the image in the summary."""
    from pipeline_lib.stages.ensemble import write_disagreement
    from pipeline_lib.stages.measurement import measure_volume
    from pipeline_lib.stages.segmentation import write_tiffs

    write_tiffs(
        segmentation,
        prediction,
        results["labels"],
        results.get("cell_probability"),
        classes=results.get("classes"),
    )
    if prediction and "disagreement" in results:
        write_disagreement(prediction, results["disagreement"])
    number = measure_volume(dataset, prediction, segmentation, results["cells"])
    return {"cells": number, "labels": results["labels"].name, "table": results["cells"].name}


def find_boxes(dataset: Path, prediction: Path, chosen: Path, detections: Path) -> tuple[int, ...]:
    """Find the boxes in a predicted image.

    Parameters
    ----------
    dataset : Path
        HDF5 file of the image.
    prediction : Path
        HDF5 file of `stages.prediction.predict`.
    chosen : Path
        JSON file with the threshold of the model.
    detections : Path
        HDF5 file to write, see `stages.detection.detect`.

    Returns
    -------
    tuple of int
        Shape of the image, (z, y, x).
    """
    from pipeline_lib import layout
    from pipeline_lib.runtime.files import read_json
    from pipeline_lib.stages.detection import detect

    with layout.require(dataset, layout.RAW) as file:
        shape: tuple[int, ...] = file[layout.RAW.name].shape[1:]
    detect([prediction], detections, shape=shape, one_per_section=read_json(chosen)["one_per_section"])
    return shape


def _postprocessing(options: Options, described: Json) -> Path:
    """Return the file with the post-processing of the model, another one for other values."""
    content = json.dumps(described["application"]["postprocessing"], sort_keys=True)
    return options.out / WORK / f"postprocessing-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"
