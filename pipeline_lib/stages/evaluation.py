"""Evaluation stage: truth and prediction in, a tidy table of scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from pipeline_lib import imageio, layout, metrics, provenance
from pipeline_lib.data.labels import BORDER_WIDTH, cells_apart, separation_border
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.kernels.sections import Sections
from pipeline_lib.memory import SCORING_BYTES_PER_PIXEL, threads_for
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.scores import COLUMNS, at_chosen_threshold, read_scores, spread

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    dataset: Path,
    prediction: Path,
    segmentation: Path,
    postprocessing: Path,
    output: Path,
    *,
    volume: str,
    split: str,
    network: str,
    fold: int = 0,
    memory_gb: float = 8.0,
    threads: int = 1,
) -> None:
    """Score one volume over the challenge's thresholds and at the chosen one (CSV: `COLUMNS`).

    The challenge's scores see the cells as 4-connected regions and the probability map as it is. The instance
    scores compare the annotated labels with the predicted instances: at the chosen threshold with those in
    `segmentation`, at the other thresholds with what the same post-processing makes of the probability map
    there. Sections are read one by one.

    Parameters
    ----------
    dataset, prediction, segmentation : Path
        HDF5 files of the volume: truth, `cell_probability`, and the instance `labels` of the stage `segment`.
    postprocessing : Path
        JSON file of the model's post-processing, with the chosen threshold.
    output : Path
        The file to write.
    volume, split, network, fold
        What the rows of the table are named by.
    memory_gb : float
        Limits how many sections are held, and so how many of the `threads` are used.
    threads : int
        How many sections and thresholds are scored at a time, at most.

    Raises
    ------
    InputError
        If `memory_gb` has no room for one section, or the files differ in shape.
    """
    names = {"volume": volume, "split": split, "network": network, "fold": fold}
    inputs = [dataset, prediction, segmentation, postprocessing]
    with provenance.making("evaluate", [output], inputs, **names):
        import pandas as pd  # 0.25 s that joining tables does without

        chosen = PostProcessing.read(postprocessing)
        with (
            layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
            layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
            layout.require(segmentation, layout.LABELS) as segmented,
        ):
            probability = predicted[layout.CELL_PROBABILITY.name]
            labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
            stored = segmented[layout.LABELS.name]
            for path, array in ((prediction, probability), (segmentation, stored)):
                if array.shape != labels.shape:
                    raise InputError(
                        f"{path}: shape {array.shape}, but {dataset} has {labels.shape}. Delete {path} and "
                        "run the workflow again."
                    )

            def segment(z: int, section: np.ndarray, threshold: float, components: np.ndarray) -> np.ndarray:
                if threshold == chosen.threshold:
                    return stored[z]
                return instances(section, replace(chosen, threshold=threshold), components)

            scores = metrics.isbi_scores(
                Sections(labels.shape, bool, lambda z: cells_apart(labels[z], border[z])),
                probability,
                sorted({*metrics.CHALLENGE_THRESHOLDS, chosen.threshold}),
                labels=labels,
                segment=segment,
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


def measure_spread(scores: Path, postprocessings: Sequence[Path], output: Path) -> None:
    """Write how the scores vary over the seeds of one network's trainings (CSV: `scores.SPREAD_COLUMNS`).

    Each training is taken at its own threshold, and a split's score is the mean over its volumes.

    Parameters
    ----------
    scores : Path
        The table of all scores, by `collect_scores`.
    postprocessings : sequence of Path
        The files {model}.json of the post-processing, one for each training in `scores`.
    output : Path
        The file to write.
    """
    with provenance.making("measure_spread", [output], [scores, *postprocessings]):
        chosen = {path.stem: PostProcessing.read(path).threshold for path in postprocessings}
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
        cells = np.stack([cells_apart(own, separation_border(own, BORDER_WIDTH)) for own in cells])
    else:
        labels = metrics.connected_components(cells)
    progress = partial(tqdm, total=len(cells), unit="section", leave=False)
    return metrics.isbi_scores(cells, probability, labels=labels, progress=progress)
