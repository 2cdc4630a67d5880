"""Evaluation stage: truth and prediction in, a tidy table of scores out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from pipeline_lib import imageio, layout, metrics, provenance
from pipeline_lib.data.labels import cells_apart, separation_border
from pipeline_lib.kernels.sections import Sections
from pipeline_lib.memory import SCORING_BYTES_PER_PIXEL, threads_for
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.scores import COLUMNS, at_chosen_threshold, read_scores, spread

if TYPE_CHECKING:
    import pandas as pd

def evaluate(
    dataset: Path,
    prediction: Path,
    threshold: Path,
    output: Path,
    *,
    volume: str,
    split: str,
    network: str,
    fold: int = 0,
    minimum_size: int = 0,
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Score one volume over the challenge's thresholds and at the chosen one (CSV: `COLUMNS`).

    The challenge's scores see the cells as 4-connected regions and the prediction as it is; the instance
    scores compare the annotated labels with the predicted instances of at least `minimum_size` px. Sections
    are read one by one and scored by as many of `threads` as `memory_gb` has room for. Raises `InputError`
    where it has room for none, and where dataset and prediction differ in shape.
    """
    names = {"volume": volume, "split": split, "network": network, "fold": fold}
    inputs = [dataset, prediction, threshold]
    with provenance.making("evaluate", [output], inputs, **names, minimum_size=minimum_size):
        import pandas as pd  # 0.25 s that joining tables does without

        thresholds = sorted({*metrics.CHALLENGE_THRESHOLDS, read_json(threshold)["threshold"]})
        with (
            layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
            layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
        ):
            probability = predicted[layout.CELL_PROBABILITY.name]
            labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
            if probability.shape != labels.shape:
                raise InputError(
                    f"{prediction}: shape {probability.shape}, but {dataset} has {labels.shape}. Delete the "
                    "prediction and run the workflow again."
                )
            scores = metrics.isbi_scores(
                Sections(labels.shape, bool, lambda z: cells_apart(labels[z], border[z])),
                probability,
                thresholds,
                labels=labels,
                minimum_size=minimum_size,
                workers=threads_for(labels.shape[1:], SCORING_BYTES_PER_PIXEL, memory_gb, threads),
            )
        # at once: a fifth of `assign`'s time
        table = pd.DataFrame(names | dict(scores.items()), columns=COLUMNS)
        with replacing(output) as temporary:
            table.to_csv(temporary, index=False)
        logger.info("%s (%s, %s): %d scores", volume, split, network, len(table))


def collect_scores(scores: Sequence[Path], output: Path) -> None:
    """Join the tables of all volumes into one (CSV: `COLUMNS`), to the last digit.

    Raises `InputError` for a table with other columns.
    """
    with (
        provenance.making("collect_scores", [output], scores),
        replacing(output) as temporary,
        open(temporary, "wb") as file,
    ):
        header = ",".join(COLUMNS).encode() + b"\n"
        file.write(header)
        for path in scores:
            found, _, rows = path.read_bytes().partition(b"\n")
            if found + b"\n" != header:
                raise InputError(
                    f"{path}: columns {found.decode(errors='replace')}, expected {','.join(COLUMNS)}: "
                    "written by another version of bordure. Delete it and run the workflow again."
                )
            file.write(rows)


def measure_spread(scores: Path, thresholds: Sequence[Path], output: Path) -> None:
    """Write how the scores vary over the seeds of one network's trainings (CSV: `scores.SPREAD_COLUMNS`).

    `thresholds` are files <network>.json, one for each training that `scores` has; each is taken at its own
    threshold, and a split's score is the mean over its volumes.
    """
    with provenance.making("measure_spread", [output], [scores, *thresholds]):
        chosen = {path.stem: read_json(path)["threshold"] for path in thresholds}
        table = spread(at_chosen_threshold(read_scores(scores), chosen))
        with replacing(output) as temporary:
            table.to_csv(temporary, index=False)
    logger.info("%s: over %d seeds", output, len(chosen))


def score_files(truth: Path, cell_probability: Path, *, annotation_kind: str = "auto") -> pd.DataFrame:
    """Score a probability map in a file against an annotation in a file; columns metric, threshold, value.

    Both in any form that `imageio` reads, (z, y, x) or (y, x); the map 0..1, or uint8 0..255. Cells of an
    instance annotation that touch are parted by a separation border of 2 px for the challenge's scores, as
    the workflow does by default. Raises `InputError` for files that cannot be read or scored.
    """
    annotation = imageio.read_annotation(truth, kind=annotation_kind)
    probability = imageio.read_images(cell_probability)[0]
    if annotation.array.shape != probability.shape:
        raise InputError(
            f"{cell_probability}: shape (z, y, x) {probability.shape}, but {truth} has "
            f"{annotation.array.shape}. Both must show the same sections at the same size."
        )
    print(f"{truth}: {annotation.description}")
    cells, labels = annotation.array, annotation.array
    if annotation.kind == "instances":
        cells = np.stack([cells_apart(section, separation_border(section, 2)) for section in cells])
    else:
        labels = metrics.connected_components(cells)
    progress = partial(tqdm, total=len(cells), unit="section", leave=False)
    return metrics.isbi_scores(cells, probability, labels=labels, progress=progress)
