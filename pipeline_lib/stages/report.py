"""Report stage: scores, curves and pictures in, one self-contained HTML page out."""

from __future__ import annotations

import base64
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline_lib import figures, provenance
from pipeline_lib.networks import modelfile
from pipeline_lib.pages import write_page
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.scores import at_chosen_threshold, read_scores
from pipeline_lib.tasks.segmentation import classes


@dataclass(frozen=True)
class Score:
    """A metric in words: `name`, whether more of it is better, and its `meaning`."""

    metric: str
    name: str
    more_is_better: bool
    meaning: str

    @property
    def direction(self) -> str:
        return "higher is better" if self.more_is_better else "lower is better"


# Splits and mergers stand between scores that a useless prediction cannot fool.
SCORES = (
    Score("rand_error", "Rand error", False, "pairs of pixels wrongly parted or joined"),
    Score("v_rand_thin", "V-Rand after thinning", True, "pairs rightly parted or joined, after thinning"),
    Score("v_info_thin", "V-Info after thinning", True, "information that segments and cells share"),
    Score("vi_split", "VI split", False, "cells in pieces (nats)"),
    Score("vi_merge", "VI merge", False, "cells grown together (nats)"),
    Score("pixel_error", "Pixel error", False, "1 - F-score of the pixels inside cells"),
    Score("warping_error", "Warping error", False, "share of pixels that differ in topology, not in place"),
    Score("splits_mergers_error", "Splits and mergers", False, "share of pixels that part or join cells"),
    Score("seg", "SEG", True, "overlap (IoU) of each cell with the segment that covers it"),
    Score("average_precision", "Average precision", True, "cells found, mean over overlaps of 0.5 to 0.95"),
    Score("average_precision_50", "Average precision at 0.5", True, "cells found, overlap of 0.5 or more"),
    Score("panoptic_quality", "Panoptic quality", True, "cells found, weighted by their overlap"),
    Score("iou", "IoU", True, "overlap of all segments with all cells"),
    Score("dice", "Dice", True, "F-score of the pixels inside segments"),
)
HEADLINE = ("rand_error", "v_rand_thin", "pixel_error", "seg")
CLASSIFIERS = {"constant": "constant classifier", "smoothed_raw": "threshold of the smoothed raw image"}
SOFTWARE = ("torch", "numpy", "scipy", "numba", "h5py")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Files and settings that a report shows.

    Parameters
    ----------
    title
        Heading of the page.
    network
        The trained network whose scores, pictures and training are shown.
    settings
        The whole configuration.
    volumes
        Rows of the table of volumes: volume, images, annotation, sections, split.
    scores
        Table of scores (CSV) of `network` and of the baselines.
    spread
        Table of the spread over seeds (CSV), where `network` was trained with several; otherwise empty.
    history, model
        Training history (CSV) and model of `network`.
    postprocessing
        Files <network>.json with the chosen threshold, for `network` and for the baselines.
    statistics
        Statistics of the training volumes (JSON).
    strips, errors, training_figure, thresholds_figure
        Pictures (PNG) drawn by `figures`.
    """

    title: str
    network: str
    settings: dict[str, Any]
    volumes: Sequence[dict[str, Any]]
    scores: Path
    spread: Sequence[Path]
    history: Path
    model: Path
    postprocessing: Sequence[Path]
    statistics: Path
    strips: Sequence[Path]
    errors: Sequence[Path]
    training_figure: Path
    thresholds_figure: Path

    @property
    def files(self) -> list[Path]:
        """All files that the report is made from."""
        return [
            self.scores,
            self.history,
            *self.postprocessing,
            self.statistics,
            self.model,
            *self.strips,
            *self.errors,
            self.training_figure,
            self.thresholds_figure,
            *self.spread,
        ]


def write_report(contents: Contents, output: Path) -> None:
    """Write the report, one HTML page that needs no other file: the same bytes from the same contents.

    Raises
    ------
    InputError
        If the model was trained with other settings than `contents` has.
    """
    network, settings = contents.network, contents.settings
    with provenance.making("report", [output], contents.files, **settings):
        chosen = {path.stem: read_json(path) for path in contents.postprocessing}
        at = {name: found["threshold"] for name, found in chosen.items()}
        table = at_chosen_threshold(read_scores(contents.scores), at)
        trained = modelfile.describe(contents.model)
        _require_same(contents.model, trained["provenance"].get("settings", {}), settings)
        splits = [split for split in ("test", "validation") if (table.split == split).any()]
        write_page(
            "report.html.jinja",
            output,
            title=contents.title,
            network=network,
            names={name: CLASSIFIERS.get(name, name) for name in dict.fromkeys([network, *chosen])},
            chosen=chosen,
            criterion=next(score for score in SCORES if score.metric == chosen[network]["criterion"]),
            scores={split: mean_scores(table[table.split == split], network) for split in splits},
            spread=_spread(*contents.spread) if contents.spread else None,
            seeds=[settings["seed"], *settings["seeds"]],
            headline=[score for score in SCORES if score.metric in HEADLINE],
            of_volume=_by_volume(table[table.network == network], splits),
            strips=[_picture(path) for path in contents.strips],
            errors=[_picture(path) for path in contents.errors],
            training_figure=_picture(contents.training_figure),
            thresholds_figure=_picture(contents.thresholds_figure),
            iterations=int(pd.read_csv(contents.history).iteration.iloc[-1]),
            trained_by=trained["provenance"],
            parameters=trained["parameters"],
            context=trained["context"],
            cell_share=classes.of_cells(read_json(contents.statistics)["class_frequencies"]),
            volumes=contents.volumes,
            sections={name: part for name, part in settings.items() if isinstance(part, dict)},
            plain={name: value for name, value in settings.items() if not isinstance(value, dict)},
            software={"bordure": provenance.version(), "Python": platform.python_version()}
            | {name: metadata.version(name) for name in SOFTWARE},
        )
    logger.info("%s: %.1f MB", output, output.stat().st_size / 1e6)


def _require_same(model: Path, trained: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise `InputError` where `model` was trained with others than the `settings` that the report shows."""
    for section, values in trained.items():
        if section in settings and values != settings[section]:
            raise InputError(
                f"{model}: was trained with `{section}: {json.dumps(values)}`, but the config has "
                f"`{section}: {json.dumps(settings[section])}`. Snakemake has lost its notes of these "
                f"results (`.snakemake`), or they were moved. Type `rm {model}` and run the same command "
                "again, or put the config right."
            )


def mean_scores(table: pd.DataFrame, network: str) -> dict[str, Any]:
    """Means over the volumes of one split, for `rows` of the table of scores by metric.

    Each row has a `score`, `values` by network, the set of networks that are `best`, and the value of the
    `best_baseline`. `uniform` are the networks with a section that is all one class: these can have 0 splits
    and mergers, and are never best. `volumes` is the number of volumes.
    """
    means = table.groupby(["metric", "network"]).value.mean().unstack()
    uniform = set(means.columns[means.loc["uniform_sections"] > 0])
    rows = {}
    for score in SCORES:
        values = means.loc[score.metric]
        best_of = pd.Series.max if score.more_is_better else pd.Series.min
        fair = values.drop(labels=uniform)
        best = set(fair.index[fair == best_of(fair)])
        rows[score.metric] = {
            "score": score,
            "values": values.to_dict(),
            "best": best,
            "best_baseline": best_of(values.drop(network)),
        }
    return {"volumes": table.volume.nunique(), "rows": rows, "uniform": uniform}


def _by_volume(table: pd.DataFrame, splits: Sequence[str]) -> list[dict[str, Any]]:
    """Split, volume and value by metric, one entry per volume."""
    values = table.groupby(["split", "volume", "metric"]).value.mean().unstack()
    return [
        {"split": split, "volume": volume, "values": row.to_dict()}
        for split in splits
        for volume, row in values.loc[split].iterrows()
    ]


def _spread(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Split -> metric -> seeds, mean and standard deviation."""
    table = pd.read_csv(path).set_index("metric")
    return {split: rows.to_dict("index") for split, rows in table.groupby("split")}


def _picture(path: Path) -> dict[str, Any]:
    """What a picture of `figures` tells about itself, and its bytes as `uri`."""
    uri = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
    return figures.describe(path) | {"uri": uri}
