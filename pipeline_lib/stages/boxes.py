"""Box stage: choose the default boxes of a detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline_lib import layout, networks, provenance
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.networks.ssd import SSDPlan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import write_json
from pipeline_lib.runtime.log import logger, several
from pipeline_lib.runtime.types import Json
from pipeline_lib.tasks.detection.matching import ENOUGH, THRESHOLD, covered
from pipeline_lib.tasks.detection.truth import IGNORED, BoxTruth

#: The smallest and largest size of default boxes are these quantiles of the sizes of the objects.
QUANTILES = (0.05, 0.95)


def choose_boxes(datasets: Sequence[str | Path], output: str | Path, *, network: Json) -> None:
    """Choose the default boxes of a detector from the objects of the training volumes.

    The size of an object is the square root of the area of its box. The sizes of the default boxes are
    quantiles of the sizes of the objects, at equal steps from 5 % to 95 %. So there are many default boxes
    where there are many objects. If the network has the setting `size_range`, they follow from the paper's
    formula instead (`SSDPlan.formula_sizes`).

    Parameters
    ----------
    datasets : sequence of str or Path
        HDF5 files of the training volumes.
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
    with provenance.making("choose_boxes", [output], datasets, network=network):
        learned = np.concatenate([_learned(path) for path in datasets])
        if not len(learned):
            raise InputError(
                "training volumes: no object was found, but a detector needs examples. Check the annotations "
                "of the training volumes and `dataset.minimum_size`. Objects next to pixels that are not "
                "annotated do not count."
            )
        size = np.sqrt((learned[:, 2:] - learned[:, :2]).prod(axis=1))
        plan = networks.plan(**network)
        assert isinstance(plan, SSDPlan)
        if plan.size_range:
            sizes = [round(value, 1) for value in plan.formula_sizes()]
        else:
            sizes = list(plan.sizes) or quantiles(size, plan.heads * plan.sizes_per_level)
        chosen = plan.with_sizes(sizes)
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
            "Objects without a default box are hard to find. %s ratios to `network.aspect_ratios`, raise "
            "`network.sizes_per_level`, or add a level of higher resolution with `network.heads: %d`.",
            100 * share,
            *np.quantile(size, QUANTILES),
            "Remove `network.size_range`, add" if plan.size_range else "Add",
            min(plan.heads + 1, len(plan.channels)),
        )


def _learned(path: str | Path) -> Boxes:
    """Return the boxes of a dataset that are not ignored."""
    with layout.require(path, layout.BOXES) as file:
        truth = BoxTruth.of(file)
        return truth.boxes[truth.state != IGNORED]


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
