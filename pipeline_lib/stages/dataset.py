"""Dataset stage: images and annotations in, HDF5 datasets, training statistics and weight maps out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import numpy as np

from pipeline_lib import imageio, layout, provenance
from pipeline_lib.data import normalisation
from pipeline_lib.data.labels import BORDER_WIDTH, border_halo, count_pixels, separation_border
from pipeline_lib.instances.labelling import Read, labelled
from pipeline_lib.kernels.blocks import BLOCK, blocks
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import allow_open_files, read_json, write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.tasks.segmentation import baselines, classes, weights


def build_dataset(
    images: str,
    annotation: str | None,
    output: Path,
    *,
    sections: str = "",
    annotation_kind: str = "auto",
    channels: int = 1,
    separation_border_width: int = BORDER_WIDTH,
    block: int = BLOCK,
    memory_gb: float = 8.0,
) -> None:
    """Write `raw` and, with an annotation, `labels` and `separation_border` of one volume to `output` (HDF5).

    Membranes become 4-connected instances per section, instance labels are kept as they are. Raises
    `InputError` for images and annotations that cannot be used or do not fit each other.
    """
    with ExitStack() as stack:
        stack.enter_context(_named(output.stem))
        sources = [imageio.source_file(path) for path in (images, annotation) if path]
        for path in filter(Path.exists, sources):  # before a reader blames the source of drawn ones
            provenance.require_unchanged(path)
        raw = stack.enter_context(imageio.open_images(images, sections=sections, channels=channels))
        truth = None
        if annotation:
            truth = stack.enter_context(
                imageio.open_annotation(annotation, sections=sections, kind=annotation_kind, block=block)
            )
            logger.info("%s: %s", annotation, truth.description)
            if truth.shape != raw.shape[1:]:
                raise InputError(
                    f"{annotation}: annotation of {_size(truth.shape)}, but {images} has "
                    f"{_size(raw.shape[1:])}. Both must show the same sections; "
                    "correct `images`, `annotation` or `sections` in the table."
                )
        sources += [*raw.info.others, *(truth.images.info.others if truth else ())]
        record = stack.enter_context(
            provenance.making(
                "build_dataset",
                [output],
                sources,
                sections=sections,
                annotation_kind=annotation_kind,
                channels=channels,
                separation_border_width=separation_border_width,
            )
        )
        file = stack.enter_context(layout.create(output, record))
        stored = layout.add(file, layout.RAW, raw.shape, raw.dtype)
        for z in range(raw.shape[1]):
            for area in blocks(raw.shape[2:], block):
                stored[:, z, *area.write] = raw.read(z, *area.write)
        if truth is None:
            return
        read = truth.read
        if truth.kind == "membranes":
            cells, _ = stack.enter_context(
                labelled(truth.read, truth.shape, output, block=block, memory_gb=memory_gb)
            )
            read = cells.read
        counts = _write_truth(file, read, truth.shape, separation_border_width, block)
    _report_cells(output, truth.shape, counts, separation_border_width)


@contextmanager
def _named(volume: str) -> Iterator[None]:
    """Name the volume in errors: one of many in a job, and an image alone may be in several."""
    try:
        yield
    except InputError as error:
        raise InputError(f"volume {volume}: {error}") from error


def _write_truth(
    file: h5py.File, read: Read, shape: tuple[int, int, int], width: int, block: int
) -> np.ndarray:
    """Write `labels`, as `read` gives them, and `separation_border`.

    Returns int64 (z, 3): of each section the cells, px of the largest, and cells that are border all over.
    """
    labels, border = (layout.add(file, array, shape) for array in (layout.LABELS, layout.SEPARATION_BORDER))
    counts = np.zeros((shape[0], 3), np.int64)
    for z in range(shape[0]):
        found, spared = [], []
        for area in blocks(shape[1:], block, border_halo(width)):
            around = read(z, *area.read)
            cells, given_away = around[area.crop], separation_border(around, width)[area.crop]
            labels[z, *area.write], border[z, *area.write] = cells, given_away
            found.append(count_pixels(cells))
            spared.append(count_pixels(np.where(given_away, 0, cells))[0])
        values, inverse = np.unique(np.concatenate([v for v, _ in found]), return_inverse=True)
        sizes = np.bincount(inverse, np.concatenate([n for _, n in found]))[values > 0]
        lost = np.setdiff1d(values[values > 0], np.concatenate(spared))
        counts[z] = len(sizes), sizes.max(initial=0), len(lost)
    return counts


def _report_cells(output: Path, shape: tuple[int, int, int], counts: np.ndarray, width: int) -> None:
    logger.info("%s: %d sections of %d x %d px, %d cells", output, *shape, counts[:, 0].sum())
    largest = counts[:, 1].max() / (shape[1] * shape[2])
    if largest > 0.5:
        logger.warning(
            "%s: one cell covers %.0f %% of a section; if that is the background or the membranes, the "
            "annotation is inverted: set `dataset.annotation_kind` (config/README.md)",
            output,
            100 * largest,
        )
    if lost := counts[:, 2].sum():
        logger.warning(
            "%s: %d cells lie wholly within the separation border and are background to the network; "
            "lower `dataset.separation_border_width` (now %d) to keep them",
            output,
            lost,
            width,
        )


def measure_statistics(
    datasets: Sequence[Path], output: Path, *, normalisation_kind: str = "mean_std", memory_gb: float = 8.0
) -> None:
    """Write what the training split alone may tell (JSON).

    Class frequencies, normalisation, and the gray range for the baseline. Raises `InputError` for images that
    do not go together, and where a mean image takes more than `memory_gb`.
    """
    allow_open_files(len(datasets), "statistics", "make the images sections of fewer volumes")
    with ExitStack() as stack:
        record = stack.enter_context(
            provenance.making("measure_statistics", [output], datasets, normalisation=normalisation_kind)
        )
        arrays, volumes = (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER), []
        for path in datasets:
            file = stack.enter_context(
                layout.require(path, *arrays, cache_bytes=layout.CHUNK**2)  # each chunk is read once
            )
            volumes.append(layout.AnnotatedArrays(*(file[array.name] for array in arrays)))
        counts = classes.count_classes((v.labels, v.separation_border) for v in volumes)
        cell, total = int(classes.of_cells(counts)), int(counts.sum())
        if not counts.all():
            raise InputError(
                f"training volumes: {cell} of {total} px are cell; both cell and background are needed "
                "to learn them apart. Check the annotations of the training volumes."
            )
        write_json(
            output,
            {
                "class_frequencies": classes.class_frequencies(counts).tolist(),
                "normalisation": normalisation.measure(
                    normalisation_kind, [volume.raw for volume in volumes], memory_gb=memory_gb
                ).to_dict(),
                "smoothed_raw": baselines.measure(volumes),
                "provenance": record,
            },
        )
    logger.info(
        "training split: %d volumes, %.1f %% of pixels inside cells", len(datasets), 100 * cell / total
    )


def build_weight_map(
    dataset: Path,
    statistics: Path,
    output: Path,
    *,
    w0: float = 10.0,
    sigma: float = 5.0,
    class_balance: bool = True,
    block: int = BLOCK,
) -> None:
    """Write the `weight_map` of one annotated volume (HDF5), block by block.

    `sigma` in px; without `class_balance`, w_c is 1 for both classes.
    """
    settings = {"w0": w0, "sigma": sigma, "class_balance": class_balance}
    with (
        provenance.making("build_weight_map", [output], [dataset, statistics], **settings) as record,
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as source,
        layout.create(output, record) as file,
    ):
        frequencies = np.array(read_json(statistics)["class_frequencies"])
        w_c = weights.class_weights(frequencies) if class_balance else np.ones(len(frequencies))
        labels, border = source[layout.LABELS.name], source[layout.SEPARATION_BORDER.name]
        target = layout.add(file, layout.WEIGHT_MAP, labels.shape)
        target.attrs.update(w_c=w_c, w0=w0, sigma=sigma)
        for z in range(labels.shape[0]):
            for area in blocks(labels.shape[1:], block, weights.halo(w_c, w0, sigma)):
                cells = labels[z, *area.read]
                cells[border[z, *area.read] > 0] = 0
                target[z, *area.write] = weights.weight_map(cells, w_c, w0, sigma)[area.crop]


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} sections of {shape[1]} x {shape[2]} px"
