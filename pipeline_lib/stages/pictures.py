"""Picture stage: draw training curves and scores as SVG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pipeline_lib import provenance
from pipeline_lib.figures.charts import save_threshold_chart, save_training_chart
from pipeline_lib.runtime.files import read_json
from pipeline_lib.scores import read_scores


def draw_training(history: str | Path, output: str | Path) -> None:
    """Draw losses, validation scores and learning rate over the iterations of a training (SVG).

    Parameters
    ----------
    history : str or Path
        Training history (CSV), written by the training stage.
    output : str or Path
        SVG file to write.

    Raises
    ------
    InputError
        If `history` has changed since it was made.
    """
    with provenance.making("draw_figures", [output], [history]) as record:
        save_training_chart(pd.read_csv(history), output, record=record)


def draw_thresholds(scores: str | Path, thresholds: Sequence[str | Path], output: str | Path) -> None:
    """Draw error against threshold for the network and the baselines, and mark the chosen thresholds (SVG).

    Parameters
    ----------
    scores : str or Path
        Table of the scores of the network and of the baselines (CSV).
    thresholds : sequence of str or Path
        JSON files of the post-processing: first that of the network, then those of the baselines. A file is
        named after its model, as in the column `network` of `scores`.
    output : str or Path
        SVG file to write.

    Raises
    ------
    InputError
        If a file of `thresholds` is not readable JSON, or if a file has changed since it was made.
    """
    with provenance.making("draw_figures", [output], [scores, *thresholds]) as record:
        chosen = {Path(path).stem: read_json(path) for path in thresholds}
        save_threshold_chart(read_scores(scores), chosen, output, record=record)
