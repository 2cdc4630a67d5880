"""Box stage: find the boxes of annotated objects, and choose the default boxes of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_lib import layout, networks, provenance
from pipeline_lib.data.boxes import objects_of
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.networks.ssd import SSDPlan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json
from pipeline_lib.tasks.detection.matching import THRESHOLD, covered
from pipeline_lib.tasks.detection.truth import CUT, IGNORED

ENOUGH = 0.9  # share of the training objects that default boxes should cover
#: The smallest and largest size of default boxes are these quantiles of the sizes of the objects.
QUANTILES = (0.05, 0.95)


def build_boxes(dataset: str | Path, output: str | Path, *, minimum_size: int = 0) -> None:
    """Find the box of each object of an annotated volume, and write them as HDF5.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume, written by `stages.dataset.build_dataset` with an annotation.
    output : str or Path
        HDF5 file to write: `boxes`, `box_section`, `box_class` and `box_state`, one row for each object of
        each section.
    minimum_size : int, default 0
        Objects with fewer pixels are neither learned nor scored (px).

    Raises
    ------
    InputError
        If the dataset is missing or damaged, has no annotation, has pixels that are not annotated, or has
        several classes of cells.
    """
    with (
        provenance.making("build_boxes", [output], [dataset], minimum_size=minimum_size) as record,
        layout.require(dataset, layout.LABELS) as source,
        layout.create(output, record) as file,
    ):
        labels = source[layout.LABELS.name]
        cells = layout.classes_of(source[layout.TARGET.name])[1] if layout.TARGET.name in source else ["cell"]
        if len(cells) > 1 or layout.IGNORE.name in source:
            what = f"several classes of cells ({', '.join(cells)})" if len(cells) > 1 else "ignored pixels"
            raise InputError(
                f"{dataset}: found {what}, which detectors cannot learn from yet. Annotate all pixels, "
                "with a single class of cells."
            )
        boxes, sections, states = [], [], []
        for z in range(labels.shape[0]):
            found = objects_of(labels, z)
            boxes.append(found.boxes)
            sections.append(np.full(len(found.label), z))
            state = np.where(found.cut(*labels.shape[1:]), CUT, 0)
            states.append(np.where(found.pixels < minimum_size, IGNORED, state))
        count = sum(map(len, boxes))
        for array, values in (
            (layout.BOXES, np.concatenate(boxes)),
            (layout.BOX_SECTION, np.concatenate(sections)),
            (layout.BOX_CLASS, np.ones(count, np.uint8)),
            (layout.BOX_STATE, np.concatenate(states)),
        ):
            layout.append(layout.add_growing(file, array, values.shape[1:]), values)
        layout.write_classes(file[layout.BOX_CLASS.name], ["background", *cells], cells)
    logger.info("%s: %s in %s", output, several(count, "object"), several(len(boxes), "section"))


def choose_boxes(boxes: Sequence[str | Path], output: str | Path, *, network: Json) -> None:
    """Choose the default boxes of a detector from the objects of the training volumes.

    The size of an object is the square root of the area of its box. The sizes of the default boxes are
    quantiles of the sizes of the objects, at equal steps from 5 % to 95 %. So there are many default boxes
    where there are many objects.

    Parameters
    ----------
    boxes : sequence of str or Path
        HDF5 files of `build_boxes` for the training volumes.
    output : str or Path
        JSON file to write: `sizes` (px), `covered` (share of the objects that a default box covers with an
        IoU of at least 0.5), `objects` (their number) and `sizes_of_objects` (quantiles, px).
    network : dict
        Name of the network and its settings. Sizes in it are not changed.

    Raises
    ------
    InputError
        If a file is missing or damaged, or there are no objects.
    """
    with provenance.making("choose_boxes", [output], boxes, network=network):
        learned = np.concatenate([_learned(path) for path in boxes])
        if not len(learned):
            raise InputError(
                "training volumes: no object was found, but a detector needs examples. Check the annotations "
                "of the training volumes and `dataset.minimum_size`."
            )
        size = np.sqrt((learned[:, 2:] - learned[:, :2]).prod(axis=1))
        plan = networks.plan(**network)
        assert isinstance(plan, SSDPlan)
        sizes = list(plan.sizes) or quantiles(size, plan.heads * plan.sizes_per_level)
        chosen = replace(plan, sizes=tuple(sizes))
        share = float(covered(chosen.strides, chosen.shapes, learned).mean())
        write_json(
            output,
            {
                "sizes": sizes,
                "covered": share,
                "objects": len(learned),
                "sizes_of_objects": {
                    f"{q:.0%}": float(np.quantile(size, q)) for q in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
                },
            },
        )
    logger.info(
        "default boxes of %s px cover %.1f %% of %s (IoU of at least %g)",
        ", ".join(f"{value:.1f}" for value in sizes),
        100 * share,
        several(len(learned), "training object"),
        THRESHOLD,
    )
    if share < ENOUGH:
        logger.warning(
            "default boxes cover only %.1f %% of the training objects, whose sizes are %.0f to %.0f px. "
            "Objects without a default box are hard to find. Add ratios to `network.aspect_ratios`, raise "
            "`network.sizes_per_level`, or add a level of higher resolution with `network.heads: %d`.",
            100 * share,
            *np.quantile(size, QUANTILES),
            min(plan.heads + 1, len(plan.channels)),
        )


def _learned(path: str | Path) -> Boxes:
    """Return the boxes of a file that are not ignored."""
    with layout.require(path, layout.BOXES, layout.BOX_STATE) as file:
        return np.asarray(file[layout.BOXES.name][:][file[layout.BOX_STATE.name][:] != IGNORED])


def quantiles(sizes: Boxes, count: int) -> list[float]:
    """Return quantiles of sizes at equal steps, to a tenth of a pixel.

    Parameters
    ----------
    sizes : (n,) array of float64
        Sizes of objects (px).
    count : int
        Number of quantiles.

    Returns
    -------
    list of float
        Quantiles, ascending (px).
    """
    low, high = QUANTILES
    return [round(float(value), 1) for value in np.quantile(sizes, np.linspace(low, high, count))]
