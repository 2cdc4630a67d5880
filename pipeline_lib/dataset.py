"""Dataset stage: images and annotations in, HDF5 datasets, training statistics and weight maps out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pipeline_lib import baselines, imageio, layout, normalisation, provenance, weights
from pipeline_lib.errors import InputError
from pipeline_lib.files import read_json, write_json
from pipeline_lib.labels import label_cells, separation_border, target_class
from pipeline_lib.log import logger


def build_dataset(
    images: str,
    annotation: str | None,
    output: Path,
    *,
    sections: str = "",
    annotation_kind: str = "auto",
    channels: int = 1,
    separation_border_width: int = 2,
) -> None:
    """Write `raw` and, with an annotation, `labels` and `separation_border` of one volume to `output` (HDF5).

    Membranes become 4-connected instances per section, instance labels are kept as they are. Raises
    `InputError` for images and annotations that cannot be used or do not fit each other.
    """
    raw = imageio.read_images(images, sections=sections, channels=channels)
    sources = [imageio.source_file(path) for path in (images, annotation) if path]
    record = provenance.record(
        sources,
        sections=sections,
        annotation_kind=annotation_kind,
        channels=channels,
        separation_border_width=separation_border_width,
    )
    labels = None
    if annotation:
        truth = imageio.read_annotation(annotation, sections=sections, kind=annotation_kind)
        logger.info("%s: %s", annotation, truth.description)
        if truth.array.shape != raw.shape[1:]:
            raise InputError(
                f"{annotation}: annotation of {_size(truth.array.shape)}, but {images} has "
                f"{_size(raw.shape[1:])}. Both must show the same sections; "
                "correct `images`, `annotation` or `sections` in the table."
            )
        labels = truth.array if truth.kind == "instances" else label_cells(truth.array)

    with layout.create(output, record) as file:
        layout.add(file, layout.RAW, raw.shape, raw.dtype)[:] = raw
        if labels is None:
            return
        stored = layout.add(file, layout.LABELS, labels.shape)
        border = layout.add(file, layout.SEPARATION_BORDER, labels.shape)
        lost = 0
        for z, section in enumerate(labels):
            stored[z] = section
            found = separation_border(section, separation_border_width)
            border[z] = found
            lost += len(np.setdiff1d(section[found], section[~found]))
    cells = sum(np.count_nonzero(np.unique(section)) for section in labels)
    logger.info("%s: %d sections of %d x %d px, %d cells", output, *labels.shape, cells)
    largest = max(np.bincount(section[section > 0]).max(initial=0) / section.size for section in labels)
    if largest > 0.5:
        logger.warning(
            "%s: one cell covers %.0f %% of a section; if that is the background or the membranes, the "
            "annotation is inverted: set `dataset.annotation_kind` (config/README.md)",
            output,
            100 * largest,
        )
    if lost:
        logger.warning(
            "%s: %d cells lie wholly within the separation border and are background to the network; "
            "lower `dataset.separation_border_width` (now %d) to keep them",
            output,
            lost,
            separation_border_width,
        )


def measure_statistics(
    datasets: Sequence[Path], output: Path, *, normalisation_kind: str = "mean_std"
) -> None:
    """Write what the training split alone may tell (JSON).

    Class frequencies, normalisation, and the gray range for the baseline.
    """
    with ExitStack() as stack:
        volumes = []
        for path in datasets:
            file = stack.enter_context(
                layout.require(path, layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)
            )
            volumes.append(tuple(file[a.name] for a in (layout.RAW, layout.LABELS, layout.SEPARATION_BORDER)))
        cell = sum(
            int(target_class(labels[z], border[z]).sum())
            for _, labels, border in volumes
            for z in range(len(labels))
        )
        total = sum(labels.size for _, labels, _ in volumes)
        if not 0 < cell < total:
            raise InputError(
                f"training volumes: {cell} of {total} px are cell; both cell and background are needed "
                "to learn them apart. Check the annotations of the training volumes."
            )
        write_json(
            output,
            {
                "class_frequencies": [1 - cell / total, cell / total],
                "normalisation": normalisation.measure(
                    normalisation_kind, [raw for raw, _, _ in volumes]
                ).to_dict(),
                "smoothed_raw": baselines.measure(volumes),
                "provenance": provenance.record(datasets, normalisation=normalisation_kind),
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
) -> None:
    """Write the `weight_map` of one annotated volume (HDF5).

    `sigma` in px; without `class_balance`, w_c is 1 for both classes.
    """
    frequencies = np.array(read_json(statistics)["class_frequencies"])
    w_c = weights.class_weights(frequencies) if class_balance else np.ones(2)
    record = provenance.record([dataset, statistics], w0=w0, sigma=sigma, class_balance=class_balance)
    with (
        layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as source,
        layout.create(output, record) as file,
    ):
        labels, border = source[layout.LABELS.name], source[layout.SEPARATION_BORDER.name]
        target = layout.add(file, layout.WEIGHT_MAP, labels.shape)
        target.attrs.update(w_c=w_c, w0=w0, sigma=sigma)
        for z in range(labels.shape[0]):
            target[z] = weights.weight_map(np.where(border[z], 0, labels[z]), w_c, w0, sigma)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} sections of {shape[1]} x {shape[2]} px"
