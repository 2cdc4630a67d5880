"""Dataset stage: convert images and annotations to HDF5, measure statistics, compute weight maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.data import normalisation
from pipeline_lib.data.box_files import VolumeBoxes, read_volume_boxes
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.data.cells import CellCounter, doubts_of_cells, empty_are_ignored
from pipeline_lib.data.fingerprint import HASH_BYTES, WINDOWS, Fingerprint
from pipeline_lib.data.gray import GrayLevels
from pipeline_lib.data.gray_scale import compare
from pipeline_lib.data.labels import BORDER_WIDTH, border_halo, separation_border
from pipeline_lib.imageio.boxes import are_boxes
from pipeline_lib.imageio.kinds import UnclearAnnotation
from pipeline_lib.imageio.regions import BORDER, REACH, grow
from pipeline_lib.instances.labelling import Read, labelled
from pipeline_lib.kernels.blocks import BLOCK, blocks, with_halo
from pipeline_lib.kernels.boxes import area as area_of
from pipeline_lib.kernels.pixelsize import ROUNDING, differs, pair, text, typical
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import allow_open_files, read_json, write_json
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json
from pipeline_lib.tasks.detection.truth import IGNORED, box_writer
from pipeline_lib.tasks.segmentation import baselines, weights
from pipeline_lib.tasks.segmentation.classes import TWO, Classes, cell_share, class_frequencies, count_classes

RARE = 1e-4  # share of the pixels below which a class is too rare to learn


def build_dataset(
    images: str | Path,
    annotation: str | Path | None,
    output: str | Path,
    *,
    ignore_mask: str | Path | None = None,
    sections: str = "",
    rows: str = "",
    annotation_kind: str = "auto",
    classes: Mapping[str, int | list[int]] | None = None,
    background: int = 0,
    ignore: int | None = None,
    relabel: bool = False,
    target: str | None = None,
    instances: Sequence[str] | None = None,
    empty_sections: str = "ask",
    pairing: str = "names",
    offset: float | None = None,
    scale: float | None = None,
    pixel_size: float | Sequence[float] | None = None,
    channels: imageio.Channels = 1,
    separation_border_width: int = BORDER_WIDTH,
    box_coordinates: str | None = None,
    minimum_size: int = 0,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> None:
    """Convert one volume to HDF5: the raw image and, if there is an annotation, instance labels and boxes.

    The file has the arrays `raw`, `section_hash` and `section_windows`, with an annotation `labels` and
    `separation_border`, the boxes of the instances (`boxes`, `box_section`, `box_class`, `box_state`), and
    `ignore` if some pixels are not annotated. In an annotation of membranes or classes, each 4-connected
    region of a section becomes one instance. Instance labels are copied unchanged. If the annotation is a
    file of boxes, there are no `labels` and no `separation_border`.

    Parameters
    ----------
    images : str or Path
        Image file, folder or `file.h5:/dataset`, in any form that `imageio` reads.
    annotation : str, Path, str or Path, str or Path, str or Path or None
        Annotation of the same sections, in the same forms, or boxes (see `imageio.boxes.read_boxes`). None
        for a volume without annotation. For a single section, a folder of several slices has one mask for
        each cell.
    output : str or Path
        HDF5 file to write. Its name without suffix is the volume's name in error messages and in tables of
        boxes.
    ignore_mask : str, Path, str or Path, str or Path, str or Path or None, default None
        Image of the same sections whose pixels other than 0 are not annotated.
    sections : str, default ""
        Sections to use, as in the table of volumes, for example `0-9,12`. Empty means all.
    rows : str, default ""
        Rows of the images to use, for example `0-255`. Empty means all.
    annotation_kind : str, default "auto"
        What the annotation contains, one of `imageio.ANNOTATION_KINDS`.
    classes : mapping of str to int or list of int, optional
        Values of each class in an annotation of classes, see `imageio.open_annotation`. In files of boxes,
        classes have these names; the values do not matter.
    background : int, default 0
        Value of the background in instance labels.
    ignore : int, optional
        Value in the annotation that means "not annotated".
    relabel : bool, default False
        Whether each connected area of an instance label becomes a separate cell.
    target : {"cells", "cell_border", "classes"}, optional
        What the network learns: background and cells, as by default; also the border between touching cells,
        as a third class; or the `classes`. The last two are written as the array `target`.
    instances : sequence of str, optional
        Names of the `classes` whose connected areas are cells. By default all but "background" and "border".
    empty_sections : {"ask", "background", "ignore"}, default "ask"
        Meaning of sections without cells in a volume that has cells in other sections, and of sections that a
        file of boxes does not mention: an error, sections that show no cells, or sections that are not
        annotated.
    pairing : {"names", "order"}, default "names"
        How the files of two folders are paired, see `imageio.matching_slices`.
    offset : float, optional
        Gray level that becomes 0, see `imageio.open_images`.
    scale : float, optional
        Factor by which gray levels are multiplied. They are then stored as float32.
    pixel_size : float or (float, float), optional
        Side of a pixel, or its height and width (um). By default, what the file of the images states.
    channels : int or sequence of (int or str), default 1
        Number of channels that the images must have, or the channels to read, see `imageio.open_images`.
    separation_border_width : int, default 2
        Width of the background that separates two touching cells (px).
    box_coordinates : {"pixels_from_1", "pixels_from_0", "edges"}, optional
        What corners are in files of boxes, see `imageio.boxes.read_boxes`.
    minimum_size : int, default 0
        Objects with fewer pixels are neither learned by detectors nor scored as boxes (px). In files of
        boxes, the area of the box counts.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the result.
    memory_gb : float, default 8.0
        Memory limit for labelling an annotation of membranes (GB).

    Raises
    ------
    InputError
        If the images or the annotation cannot be used, if their shapes differ, or if the meaning of the
        annotation is not clear.
    """
    settings: Json = {
        "sections": sections,
        "rows": rows,
        "annotation_kind": annotation_kind,
        "classes": classes,
        "background": background,
        "ignore": ignore,
        "relabel": relabel,
        **({} if target is None else {"target": target}),
        **({} if instances is None else {"instances": instances}),
        "empty_sections": empty_sections,
        "pairing": pairing,
        "offset": offset,
        "scale": scale,
        **({} if pixel_size is None else {"pixel_size": pixel_size}),
        "channels": channels,
        "separation_border_width": separation_border_width,
        **({} if box_coordinates is None else {"box_coordinates": box_coordinates}),
        **({"minimum_size": minimum_size} if minimum_size else {}),
    }
    with ExitStack() as stack:
        stack.enter_context(_named(Path(output).stem))
        chosen = Classes.chosen(settings)
        drawn = annotation is not None and are_boxes(annotation)
        paths = [path for path in (images, None if drawn else annotation, ignore_mask) if path]
        sources = [file for path in paths for file in imageio.source_files(path)]
        # Drawn images have records: report a damaged file as such before a reader fails on it.
        for path in filter(Path.exists, sources):
            provenance.require_unchanged(path)
        raw = stack.enter_context(
            imageio.open_images(
                images, sections=sections, rows=rows, channels=channels, offset=offset, scale=scale
            )
        )
        sources += raw.info.others
        truth = boxes = mask = mask_slices = None
        if ignore_mask:
            mask_slices = imageio.matching_slices(str(images), str(ignore_mask), pairing, sections)
        if annotation and drawn:
            info = imageio.inspect(images) if rows else raw.info
            boxes = read_volume_boxes(
                annotation,
                images,
                info.shape[1:],
                volume=Path(output).stem,
                sections=sections,
                rows=rows,
                empty_sections=empty_sections,
                box_coordinates=box_coordinates,
                classes=classes,
                instances=instances,
            )
            logger.info("%s: %s", annotation, boxes.description)
            sources += boxes.files
            if ignore_mask:
                mask = stack.enter_context(
                    imageio.open_mask(ignore_mask, sections=sections, rows=rows, slices=mask_slices)
                )
                _require_shape("mask of ignored pixels", ignore_mask, mask.shape[1:], raw)
                sources += mask.info.others
        elif annotation:
            described: imageio.AnnotationSettings = {
                "sections": sections,
                "rows": rows,
                "kind": annotation_kind,
                "classes": classes,
                "background": background,
                "ignore": ignore,
                "ignore_mask": ignore_mask,
                "relabel": relabel,
                "masks": raw.info.sections == 1 < imageio.inspect(annotation).sections,
                "slices": imageio.matching_slices(str(images), str(annotation), pairing, sections),
                "mask_slices": mask_slices,
            }
            picture = Path(output).with_suffix(".unclear.png")
            truth = stack.enter_context(_opened_annotation(annotation, raw, described, picture))
            sources += truth.images.info.others
            sources += truth.mask.info.others if truth.mask else ()
        record = stack.enter_context(provenance.making("build_dataset", [output], sources, **settings))
        file = stack.enter_context(layout.create(output, record))
        gray = _write_raw(file, raw, block)
        found = None
        if truth is not None:
            if target == "classes" and truth.kind != "classes":
                raise InputError(
                    f"{annotation}: found {truth.kind}, but `dataset.target: classes` needs an annotation of "
                    "classes. Set `annotation_kind: classes`."
                )
            with _cells_of(truth, instances, output, block, memory_gb) as read:
                width = separation_border_width
                found = _write_annotation(file, truth, read, target, chosen, empty_sections, width, block)
            _write_boxes(file, truth, chosen.cells, minimum_size)
        elif boxes is not None:
            found = _write_volume_boxes(file, boxes, mask, chosen.cells, minimum_size, block)
        layout.write_findings(file, {"gray": gray, "annotation": found})
        stated, in_file = pair(pixel_size), raw.info.pixel_size
        interval = (raw.info.frame_interval or 0.0) if raw.info.frames else None
        spacing = None if raw.info.frames else raw.info.section_spacing
        layout.write_pixel_size(file, stated or in_file, spacing, frame_interval=interval)
        if differs(stated, in_file, ROUNDING):
            logger.warning(
                "%s: the file states a pixel size of %s, but `pixel_size` is %s, which is used.",
                images,
                text(in_file),
                text(stated),
            )
    if found is not None:
        number = found["cells"]["number"]
        logger.info("%s: %s, %s", output, _size(raw.shape[1:]), several(number, "cell"))
        for doubt in found["doubts"]:
            logger.warning("%s: %s", output, doubt["text"])


@contextmanager
def _opened_annotation(
    path: str | Path, raw: imageio.Images, settings: imageio.AnnotationSettings, picture: Path
) -> Iterator[imageio.AnnotationRegions]:
    """Open an annotation; draw a picture of its values if their meaning is not clear."""
    picture.unlink(missing_ok=True)
    with ExitStack() as stack:
        try:
            truth = stack.enter_context(imageio.open_annotation(path, **settings))
        except UnclearAnnotation as error:
            _draw_values(raw, path, error, picture)
            raise InputError(f"{error} The picture {picture} shows the values.") from error
        logger.info("%s: %s", path, truth.description)
        _require_shape("annotation", path, truth.shape, raw)
        yield truth


def _require_shape(what: str, path: str | Path, shape: Sequence[int], raw: imageio.Images) -> None:
    if tuple(shape) != raw.shape[1:]:
        raise InputError(
            f"{path}: {what} of {_size(shape)}, but {raw.path} has {_size(raw.shape[1:])}. Both must show "
            "the same sections. Correct `images`, `annotation` or `sections` in the table of volumes."
        )


def _draw_values(
    raw: imageio.Images, annotation: str | Path, error: UnclearAnnotation, picture: str | Path
) -> None:
    """Write a picture of the values of an annotation, which may have another size than the images."""
    from pipeline_lib.figures.values import save_values  # imports matplotlib, which is rarely needed here

    z, block = error.found.sample[0]
    if z >= raw.shape[1] or block.read[0].stop > raw.shape[2] or block.read[1].stop > raw.shape[3]:
        return
    shares = dict(zip(error.found.values.tolist(), error.found.share.tolist(), strict=True))
    title = f"{annotation}, section {z}"
    colours = error.found.colours
    save_values(raw.read(z, *block.read), error.region, shares, picture, title=title, colours=colours)


@contextmanager
def _cells_of(
    truth: imageio.AnnotationRegions,
    instances: Sequence[str] | None,
    output: str | Path,
    block: int,
    memory_gb: float,
) -> Iterator[Read]:
    """Yield a function that reads instance labels. If `separate`, each connected area has its own."""
    if not truth.separate:
        yield truth.read
        return
    if truth.kind != "classes":
        with labelled(truth.read, truth.shape, output, block=block, memory_gb=memory_gb) as (cells, _):
            yield cells.read
        return

    others = [n for n, name in enumerate(truth.names, 1) if instances and name not in instances]

    def read_cells(z: int, rows: slice, columns: slice) -> np.ndarray:
        values = truth.read(z, rows, columns)
        return np.where(np.isin(values, [BORDER, *others]), 0, values)

    with labelled(read_cells, truth.shape, output, block=block, memory_gb=memory_gb) as (cells, _):

        def read(z: int, rows: slice, columns: slice) -> np.ndarray:
            (y_read, y), (x_read, x) = (
                with_halo(part, size, REACH)
                for part, size in zip((rows, columns), truth.shape[1:], strict=True)
            )
            border = truth.read(z, y_read, x_read) == BORDER
            return grow(cells.read(z, y_read, x_read), border)[y, x]

        yield read


def _write_annotation(
    file: h5py.File,
    truth: imageio.AnnotationRegions,
    read: Read,
    learned: str | None,
    chosen: Classes,
    empty_sections: str,
    width: int,
    block: int,
) -> Json:
    """Write `labels` as `read` returns them, `separation_border`, `ignore`, `target`; return the findings."""
    ignored = _write_ignore(file, truth.shape, truth.read_ignore if truth.may_ignore else None, block)
    target = layout.add(file, layout.TARGET, truth.shape) if chosen.several else None
    if target is not None:
        # of an odd width, one pixel more belongs to one cell, but a prediction does not say to which
        taken = REACH if learned == "classes" else width // 2
        layout.write_classes(target, chosen.names, chosen.cells, taken if "border" in chosen.names else 0)
    labels, border = (
        layout.add(file, array, truth.shape) for array in (layout.LABELS, layout.SEPARATION_BORDER)
    )
    counter, numbers = CellCounter(), []
    for z in range(truth.shape[0]):
        for area in blocks(truth.shape[1:], block, border_halo(width)):
            around = read(z, *area.read)
            cells, separating = around[area.crop], separation_border(around, width)[area.crop]
            labels[z, *area.write], border[z, *area.write] = cells, separating
            if target is not None:
                of_class = truth.read(z, *area.write) if learned == "classes" else None
                target[z, *area.write] = chosen.target(cells, separating, of_class)
            counter.add(cells, separating)
        numbers.append(counter.end_section())
    pixels = truth.shape[1] * truth.shape[2]
    empty = [z for z, number in enumerate(numbers) if number == 0 and ignored[z] < pixels]
    sections = [truth.images.numbers[z] for z in empty]
    any_cells, blank = any(numbers), bool(truth.blank)
    if empty_are_ignored(truth.images.path, sections, truth.shape[0], any_cells, empty_sections, blank=blank):
        ignore = file.get(layout.IGNORE.name) or layout.add(file, layout.IGNORE, truth.shape)
        for z in empty:
            ignore[z], ignored[z] = 1, pixels
    found = counter.to_dict(labels, int(ignored.sum()))
    doubts = [*truth.doubts, *doubts_of_cells(found, width)]
    return {"description": truth.description, "cells": found, "doubts": doubts}


def _write_ignore(
    file: h5py.File, shape: tuple[int, int, int], read: Read | None, block: int
) -> npt.NDArray[np.int64]:
    """Write `ignore` if any pixel is ignored; return the number of ignored pixels of each section."""
    target, counts = None, np.zeros(shape[0], np.int64)
    if read is None:
        return counts
    for z in range(shape[0]):
        for area in blocks(shape[1:], block):
            ignored = read(z, *area.write)
            if ignored.any():
                if target is None:
                    target = layout.add(file, layout.IGNORE, shape)
                target[z, *area.write] = ignored
                counts[z] += np.count_nonzero(ignored)
    return counts


def _write_boxes(
    file: h5py.File, truth: imageio.AnnotationRegions, cells: Sequence[str], minimum_size: int
) -> None:
    """Write the box of each object of `labels`, whose class is one of `cells`."""
    labels = file[layout.LABELS.name]
    _, *size = labels.shape
    append = box_writer(file, cells)
    for z in range(len(labels)):
        objects = objects_of(labels, z, file.get(layout.IGNORE.name))
        kind = np.ones(len(objects.label), np.uint8)
        for area in blocks(size, BLOCK) if len(cells) > 1 else ():
            place = objects.first - [part.start for part in area.write]
            values = truth.read(z, *area.write)
            inside = ((place >= 0) & (place < values.shape)).all(axis=1)
            values = values[tuple(place[inside].T)]
            kind[inside] = [1 + cells.index(truth.names[value - 1]) for value in values]
        append(z, objects.boxes, kind, objects.pixels < minimum_size)


def _write_volume_boxes(
    file: h5py.File,
    boxes: VolumeBoxes,
    mask: imageio.Images | None,
    cells: Sequence[str],
    minimum_size: int,
    block: int,
) -> Json:
    """Write boxes that were read from a file, and `ignore`; return the findings."""
    shape = file[layout.RAW.name].shape[1:]

    def read(z: int, rows: slice, columns: slice) -> np.ndarray:
        if mask is None or not boxes.sections[z].annotated:
            region = (rows.stop - rows.start, columns.stop - columns.start)
            return np.full(region, not boxes.sections[z].annotated)
        return mask.read(z, rows, columns)[0] != 0

    whole = mask is None and all(own.annotated for own in boxes.sections)
    ignored = _write_ignore(file, shape, None if whole else read, block)
    append = box_writer(file, cells)
    for z, own in enumerate(boxes.sections):
        kinds = [1 + cells.index(name) if len(cells) > 1 else 1 for name in own.classes]
        append(z, own.boxes, np.array(kinds, np.uint8), own.ignored | (area_of(own.boxes) < minimum_size))
    return boxes.findings(int(ignored.sum()) / math.prod(shape))


@contextmanager
def _named(volume: str) -> Iterator[None]:
    """Add the volume's name to errors, because a job may handle many volumes that share an image."""
    try:
        yield
    except InputError as error:
        raise InputError(f"volume {volume}: {error}") from error


def _write_raw(file: h5py.File, images: imageio.Images, block: int) -> Json:
    """Write `raw` and the fingerprints of its sections, and return the summary of the gray levels."""
    raw = layout.add(file, layout.RAW, images.shape, images.dtype)
    hashes = layout.add(file, layout.SECTION_HASH, (images.shape[1], HASH_BYTES))
    windows = layout.add(file, layout.SECTION_WINDOWS, (images.shape[1], WINDOWS))
    gray = GrayLevels(images.shape[0])
    for z in range(images.shape[1]):
        fingerprint = Fingerprint(images.shape[0], images.shape[2:])
        for area in blocks(images.shape[2:], block):
            region = images.read(z, *area.write)
            raw[:, z, *area.write] = region
            gray.add(region)
            fingerprint.add(region, area.write[0].start, area.write[1].start)
        hashes[z], windows[z] = fingerprint.hash(), fingerprint.windows()
    return gray.to_dict() | {"dtype": str(images.dtype), "scale": images.scale, "offset": images.offset}


def measure_statistics(
    datasets: Sequence[str | Path],
    output: str | Path,
    *,
    normalisation_kind: str = "mean_std",
    memory_gb: float = 8.0,
) -> None:
    """Measure the statistics of the training volumes and write them as JSON.

    The file contains `class_frequencies` (background, cell), `normalisation`, the gray range of the baseline
    `smoothed_raw`, the median `pixel_size` (um; null unless that of all volumes is known), and `provenance`.
    If there are other classes, it also contains their names (`classes`) and which of them are `cells`.
    Only training volumes may be measured, so that nothing about other volumes can reach the network. If a
    volume is annotated by boxes, there are no `class_frequencies` and no `smoothed_raw`, which only
    segmentation needs, and the classes are those of the objects.

    Parameters
    ----------
    datasets : sequence of str or Path
        HDF5 files of the training volumes, written by `build_dataset` with an annotation.
    output : str or Path
        JSON file to write.
    normalisation_kind : {"none", "mean", "mean_std", "mean_image"}, default "mean_std"
        How images are normalised, see `data.normalisation.measure`.
    memory_gb : float, default 8.0
        Memory limit for a mean image (GB).

    Raises
    ------
    InputError
        If the volumes differ in type, in gray scale, in channels or, for a mean image, in shape; if a mean
        image needs more than `memory_gb`; or if the annotations contain only cell or only background, or no
        object of a class.
    """
    allow_open_files(len(datasets), "statistics", "make the images sections of fewer volumes")
    with ExitStack() as stack:
        record = stack.enter_context(
            provenance.making("measure_statistics", [output], datasets, normalisation=normalisation_kind)
        )
        files, gray, sizes, found = [], [], {}, {}
        for path in datasets:
            with layout.require(path) as file:
                arrays = (layout.BOX_CLASS,) if layout.has_only_boxes(file) else layout.PIXEL_ARRAYS
            # a small cache, because each chunk is read once
            file = stack.enter_context(layout.require(path, layout.RAW, *arrays, cache_bytes=layout.CHUNK**2))
            files.append(file)
            gray.append(layout.findings(file)["gray"])
            sizes[Path(path).stem] = layout.pixel_size(file)
            stored = file.get(layout.BOX_CLASS.name if layout.has_only_boxes(file) else layout.TARGET.name)
            found[path] = TWO if stored is None else Classes(*layout.classes_of(stored))
        if any(map(layout.has_only_boxes, files)):
            found = {path: Classes(("background", *own.cells), own.cells) for path, own in found.items()}
            chosen = _same_classes(found)
            of_pixels: Json = {}
            described = f"objects: {_count_objects(files, chosen)}"
        else:
            chosen = _same_classes(found)
            of_pixels = _measure_pixels([layout.annotated(file) for file in files], chosen)
            described = f"{cell_share(of_pixels | _of_classes(chosen)):.1%} of pixels inside cells"
        raw = [file[layout.RAW.name] for file in files]
        measured = normalisation.measure(normalisation_kind, raw, gray, memory_gb=memory_gb)
        _require_one_scale(dict(zip(datasets, gray, strict=True)), measured)
        write_json(
            output,
            {
                **of_pixels,
                **_of_classes(chosen),
                "normalisation": measured.to_dict(),
                "pixel_size": typical(sizes),
                "provenance": record,
            },
        )
    logger.info("training split: %d volumes, %s", len(datasets), described)


def _of_classes(chosen: Classes) -> Json:
    """Return the names of classes as statistics store them: only if there are several."""
    return {"classes": [*chosen.names], "cells": [*chosen.cells]} if chosen.several else {}


def _measure_pixels(volumes: Sequence[layout.AnnotatedArrays], chosen: Classes) -> Json:
    """Return the statistics that need the class of each pixel.

    Raises
    ------
    InputError
        If a class has no pixel.
    """
    counts = count_classes(((v.labels, v.separation_border, v.ignore, v.target) for v in volumes), chosen)
    cell, total = int(chosen.of_cells(counts)), int(counts.sum())
    if chosen.several:
        _check_rare(dict(zip(chosen.names, counts.tolist(), strict=True)))
    if not counts.all() and chosen.several:
        missing = [name for name, count in zip(chosen.names, counts, strict=True) if not count]
        raise InputError(
            f"training volumes: no pixel is {' or '.join(missing)}, but training needs each class of "
            "`dataset.classes`. Check the annotations of the training volumes, or remove the class."
        )
    if not counts.all():
        raise InputError(
            f"training volumes: {cell} of {total} px are cell, but training needs cell and background. "
            "Check the annotations of the training volumes."
        )
    return {
        "class_frequencies": class_frequencies(counts).tolist(),
        "smoothed_raw": baselines.measure(volumes),
    }


def _count_objects(files: Sequence[h5py.File], chosen: Classes) -> int:
    """Return the number of objects that are learned.

    Raises
    ------
    InputError
        If a class has none.
    """
    counts = np.zeros(len(chosen), np.int64)
    for file in files:
        learned = file[layout.BOX_STATE.name][:] != IGNORED
        counts += np.bincount(file[layout.BOX_CLASS.name][:][learned], minlength=len(chosen))
    missing = [name for name, count in zip(chosen.names[1:], counts[1:], strict=True) if not count]
    if missing:
        raise InputError(
            f"training volumes: no object is {' or '.join(missing)}, but a detector needs examples. Check "
            "the annotations of the training volumes, `dataset.minimum_size` and `dataset.classes`."
        )
    return int(counts.sum())


def _same_classes(found: Mapping[str | Path, Classes]) -> Classes:
    """Return the classes of all volumes; raise `InputError` if they differ."""
    first, *others = found.items()
    for path, classes in others:
        if classes != first[1]:
            raise InputError(
                f"{path}: classes {', '.join(classes.names)}, but {first[0]} has "
                f"{', '.join(first[1].names)}. All volumes need the same names in `dataset.classes`."
            )
    return first[1]


def _require_one_scale(gray: Mapping[str | Path, Json], measured: normalisation.Normalisation) -> None:
    """Raise `InputError` if volumes have another gray scale than the training volumes together."""
    doubts = {Path(path).stem: compare(measured.gray or {}, found) for path, found in gray.items()}
    certain = [name for name, doubt in doubts.items() if doubt and doubt["weight"] == 1]
    if certain:
        others = f" The same holds for {', '.join(certain[1:])}." if certain[1:] else ""
        raise InputError(f"volume {certain[0]}: {(doubts[certain[0]] or {})['text']}{others}")
    for name, doubt in doubts.items():
        if doubt:
            logger.warning("volume %s: %s", name, doubt["text"])


def _check_rare(counts: dict[str, int]) -> None:
    """Warn of classes with so few pixels that nothing can be learned from them.

    Raises
    ------
    InputError
        If the class is the border between touching cells, because hardly any cells touch.
    """
    total = sum(counts.values())
    for name, count in counts.items():
        if count >= RARE * total:
            continue
        if name == "border":
            raise InputError(
                f"training volumes: only {count:,} of {total:,} px are border, because hardly any cells "
                "touch. Use `dataset.target: cells`."
            )
        if count:  # else the run ends
            logger.warning(
                "training volumes: only %s of %s px are %s. With `weight_map.class_balance`, each of them "
                "counts %s times. Annotate more, or set it to false.",
                f"{count:,}",
                f"{total:,}",
                name,
                f"{total / (len(counts) * count):,.0f}",
            )


def build_weight_map(
    dataset: str | Path,
    statistics: str | Path,
    output: str | Path,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_balance: bool = True,
    block: int = BLOCK,
) -> None:
    """Compute the weight map of one annotated volume, block by block, and write it as HDF5.

    The weight of a pixel in the loss is w = w_c + w0 exp(-(d1 + d2)^2 / (2 sigma^2)), where d1 and d2 are the
    distances (px) to the nearest and the second nearest cell. The second term is added outside of cells only.
    The weight of a pixel that is not annotated is 0.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume, written by `build_dataset` with an annotation.
    statistics : str or Path
        JSON file of `measure_statistics`, for the class frequencies.
    output : str or Path
        HDF5 file to write: `weight_map` (z, y, x), float32.
    w0 : float, default 10.0
        Height of the second term.
    sigma : float, default 5.0
        Range of the second term (px).
    class_balance : bool, default True
        Whether w_c balances the class frequencies. If False, w_c is 1 for both classes.
    block : int, default 2048
        Side of the square blocks that are processed one at a time (px). It does not change the result.

    Raises
    ------
    InputError
        If an input is missing or damaged, or the dataset has no annotation.

    References
    ----------
    Section 3, equation 2 of [1]_.

    .. [1] O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional networks for biomedical image
       segmentation", MICCAI, LNCS 9351:234-241, 2015.
    """
    settings: dict[str, Any] = {"w0": w0, "sigma": sigma, "class_balance": class_balance}
    with (
        provenance.making("build_weight_map", [output], [dataset, statistics], **settings) as record,
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as source,
        layout.create(output, record) as file,
    ):
        frequencies = np.array(read_json(statistics)["class_frequencies"])
        w_c = weights.class_weights(frequencies) if class_balance else np.ones(len(frequencies))
        labels, border = source[layout.LABELS.name], source[layout.SEPARATION_BORDER.name]
        ignore = source.get(layout.IGNORE.name)
        classes = source.get(layout.TARGET.name)
        target = layout.add(file, layout.WEIGHT_MAP, labels.shape)
        target.attrs.update(w_c=w_c, w0=w0, sigma=sigma)
        for z in range(labels.shape[0]):
            for area in blocks(labels.shape[1:], block, weights.halo(w_c, w0, sigma)):
                cells = labels[z, *area.read]
                cells[border[z, *area.read] > 0] = 0
                of_class = None if classes is None else classes[z, *area.read]
                weight = weights.weight_map(cells, w_c, w0, sigma, of_class)[area.crop]
                if ignore is not None:
                    weight[ignore[z, *area.write] > 0] = 0
                target[z, *area.write] = weight


def _size(shape: Sequence[int]) -> str:
    return f"{several(shape[0], 'section')} of {shape[1]} x {shape[2]} px"
