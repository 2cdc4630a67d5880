"""Report stage: show scores, curves and pictures on one self-contained HTML page."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import pandas as pd
from markupsafe import Markup

from pipeline_lib import figures, metrics, provenance
from pipeline_lib.figures import reliability
from pipeline_lib.figures.palette import CAUSE_COLOURS, class_colours
from pipeline_lib.figures.sizes import HEIGHT as SIZES_HEIGHT
from pipeline_lib.figures.sizes import WIDTH as SIZES_WIDTH
from pipeline_lib.figures.sizes import sizes_chart
from pipeline_lib.metrics import CAUSES_OF
from pipeline_lib.networks import modelfile
from pipeline_lib.pages import digits, quality, write_page
from pipeline_lib.pages.before import compare_runs
from pipeline_lib.pages.causes import CAUSE_WORDS
from pipeline_lib.pages.methods import describe_methods
from pipeline_lib.pages.scores import BOX_SCORES, INSTANCE_SCORES, SCORES, Score
from pipeline_lib.pages.viewer import place_in_viewer, viewer_content
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json
from pipeline_lib.scores import at_chosen_threshold, read_scores, scores_before
from pipeline_lib.tasks.detection.matching import ENOUGH
from pipeline_lib.tasks.segmentation.baselines import BASELINES
from pipeline_lib.tasks.segmentation.classes import cell_share

__all__ = ["Contents", "write_report"]


CLASSIFIERS = {"constant": "constant classifier", "smoothed_raw": "threshold of the smoothed raw image"}
CAUSE_METRICS = ("v_rand_thin", "seg", "average_precision")  # beside the criterion
SOFTWARE = ("torch", "numpy", "scipy", "numba", "h5py")


class Kind(NamedTuple):
    """What a report shows, which depends on what the network was scored for.

    Parameters
    ----------
    template : str
        Template of the page.
    scores : tuple of Score
        Scores in the tables.
    headline : tuple of str
        Scores at the beginning of the page.
    table : tuple of str
        Scores in the first table; the others are in a table that is folded.
    of_volumes : tuple of str
        Scores of single volumes.
    main : str
        Score that the last lines of a run state beside the criterion.
    counts : tuple of str
        Numbers of objects: annotated, found, and matched.
    required : set of str
        Rows that the table of scores has for such networks.
    """

    template: str
    scores: tuple[Score, ...]
    headline: tuple[str, ...]
    table: tuple[str, ...]
    of_volumes: tuple[str, ...]
    main: str
    counts: tuple[str, ...]
    required: frozenset[str]


_HEADLINE = ("rand_error", "v_rand_thin", "pixel_error", "seg")
SEGMENTATION = Kind(
    "report.html.jinja",
    SCORES,
    headline=_HEADLINE,
    table=(*_HEADLINE, "v_info_thin", "warping_error", "average_precision_50", "count_error"),
    of_volumes=_HEADLINE,
    main="v_rand_thin",
    counts=metrics.CELL_COUNTS,
    required=frozenset({*metrics.CELL_COUNTS, "constant_pixels"}),
)
DETECTION = Kind(
    "detections.html.jinja",
    (*BOX_SCORES, *INSTANCE_SCORES),
    headline=("box_ap_50", "box_f1", "count_error", "seg"),
    table=("box_ap_50", "box_ap", "box_f1", "count_error", "seg", "average_precision"),
    of_volumes=(*(score.metric for score in BOX_SCORES if score.metric != "count_error_relative"), "seg"),
    main="box_ap_50",
    counts=metrics.BOX_COUNTS,
    required=frozenset(metrics.BOX_COUNTS),
)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Files and settings that a report shows.

    Parameters
    ----------
    title : str
        Heading of the page.
    network : str
        Name of the trained network whose scores, pictures and training are shown. With the setting
        `ensemble`, the mean of several networks; then `history`, `model` and `training_figure` are those of
        the first one.
    settings : dict
        The whole configuration.
    volumes : sequence of dict
        Rows of the table of volumes, with the keys volume, images, annotation, sections and split.
    scores : str or Path
        Table of the scores of `network` and of the baselines (CSV).
    spread : sequence of str or Path
        Table of the spread over seeds (CSV) if `network` was trained with several seeds, else empty.
    history : str or Path
        Training history of `network` (CSV).
    model : str or Path
        Model file of `network`.
    postprocessing : sequence of str or Path
        JSON files with the chosen thresholds of `network` and of the baselines, named after them.
    statistics : str or Path
        Statistics of the training volumes (JSON).
    check : str or Path
        Doubts of `stages.check.check` (JSON), whose page `check.html` is linked.
    layers : sequence of str or Path
        Files of `stages.layers.prepare_layers`, or of a detector
        `stages.detection_figures.prepare_detection_layers` (JSON).
    training_figure : str or Path
        Chart of `stages.pictures.draw_training` (SVG).
    thresholds_figure : str or Path
        Chart of `stages.pictures.draw_thresholds`, or of a detector the curves of
        `stages.detection_figures.draw_detection_charts` (SVG).
    counts_figure : str or Path, optional
        Only of a detector: the numbers of objects of `draw_detection_charts` (SVG).
    boxes : str or Path, optional
        Only of a detector: file of `stages.boxes.choose_boxes` (JSON).
    causes : str or Path, optional
        Table of the causes of errors (CSV) of the evaluation stage. By default they are not shown, as for a
        detector.
    study : bool, default False
        Whether the page `comparison.html` is linked.
    before : str or Path, optional
        Results folder of an earlier run, whose scores of `network` are shown beside those of this run.
    """

    title: str
    network: str
    settings: Json
    volumes: Sequence[Json]
    scores: str | Path
    spread: Sequence[str | Path]
    history: str | Path
    model: str | Path
    postprocessing: Sequence[str | Path]
    statistics: str | Path
    check: str | Path
    layers: Sequence[str | Path]
    training_figure: str | Path
    thresholds_figure: str | Path
    counts_figure: str | Path | None = None
    boxes: str | Path | None = None
    causes: str | Path | None = None
    study: bool = False
    before: str | Path | None = None

    @property
    def files(self) -> list[str | Path]:
        """All files from which the report is made."""
        return [
            self.scores,
            self.history,
            *self.postprocessing,
            self.statistics,
            self.check,
            self.model,
            *self.layers,
            self.training_figure,
            self.thresholds_figure,
            *self.spread,
            *(scores_before(self.before, self.network, BASELINES) if self.before else ()),
            *(path for path in (self.counts_figure, self.boxes, self.causes) if path is not None),
        ]


def write_report(contents: Contents, output: str | Path, warnings: str | Path) -> None:
    """Write the report as one HTML page that needs no other file. The same contents give the same bytes.

    The page begins with warnings (`pages.quality`) if there are signs that the network is of little use, or
    could easily be better.

    Parameters
    ----------
    contents : Contents
        Files and settings to show.
    output : str or Path
        HTML file to write.
    warnings : str or Path
        JSON file to write: `warnings`, a list of objects with `name` and `text`.

    Raises
    ------
    InputError
        If the model was trained with settings that differ from those of `contents`, or if another version of
        bordure wrote the scores.
    """
    network, settings = contents.network, contents.settings
    names = [row["volume"] for row in contents.volumes]
    with provenance.making("report", [output, warnings], contents.files, **settings, volume_names=names):
        chosen = {Path(path).stem: read_json(path) for path in contents.postprocessing}
        at = {name: found["threshold"] for name, found in chosen.items()}
        table = at_chosen_threshold(read_scores(contents.scores), at)
        kind = _kind(contents.scores, table[table.network == network])
        table = table[table.network.isin(_scored(table, kind))]
        trained = modelfile.describe(contents.model)
        _require_same(contents.model, trained["provenance"].get("settings", {}), settings)
        splits = [split for split in ("test", "validation") if (table.split == split).any()]
        criterion = next(score for score in kind.scores if score.metric == chosen[network]["criterion"])
        history, measured = pd.read_csv(contents.history), read_json(contents.statistics)
        held_out, training = table[table.split == splits[0]], settings["training"]
        cells = count_cells(table[table.network == network], kind.counts)
        all_cells = cells.groupby("split").sum().to_dict("index")
        shown = [read_json(path) for path in contents.layers]
        warned = [
            *quality.compare_with_baselines(
                held_out,
                network,
                split=splits[0],
                criterion=criterion.metric,
                name=criterion.name,
                more_is_better=criterion.more_is_better,
            ),
            *(
                _doubtful_detections(contents, all_cells[splits[0]], shown, splits[0], criterion.metric)
                if kind.template == DETECTION.template
                else [
                    *quality.warn_of_constant(held_out, network, split=splits[0], training=training),
                    *quality.warn_of_wrong_count(
                        all_cells[splits[0]]["annotated"], all_cells[splits[0]]["found"], split=splits[0]
                    ),
                ]
            ),
            *quality.warn_of_short_training(history, training),
        ]
        write_json(warnings, {"warnings": [warning._asdict() for warning in warned]})
        software = {"bordure": provenance.version(), "Python": platform.python_version()}
        software |= {name: metadata.version(name) for name in SOFTWARE}
        spread = _spread(*contents.spread) if contents.spread else None
        scores = {split: mean_scores(table[table.split == split], network, kind.scores) for split in splits}
        # another split can lack scores, as those of masks where boxes are annotated
        headline = [
            score for score in _named(kind.headline, kind) if score.metric in scores[splits[0]]["rows"]
        ]
        trainings = (1 + len(settings["seeds"])) * settings.get("folds", 1)
        methods = describe_methods(
            settings,
            contents.volumes,
            chosen=chosen[network],
            parameters=trained["parameters"],
            best_iteration=trained["provenance"]["best_iteration"],
            trainings=trainings,
            ensemble=settings.get("ensemble", False),
            scores=_in_words(
                headline,
                scores[splits[0]]["rows"],
                network,
                spread[splits[0]] if spread else {},
            ),
            split=splits[0],
            software=software,
        )
        write_page(
            kind.template,
            output,
            title=contents.title,
            network=network,
            names={
                name: CLASSIFIERS.get(name, name)
                for name in dict.fromkeys([network, *chosen])
                if name in {*table.network}
            },
            chosen=chosen,
            criterion=criterion,
            warnings=warned,
            cells={split: cells.loc[split].to_dict("index") for split in splits},
            classes=score_classes(held_out[held_out.network == network], trained["classes"]),
            all_cells=all_cells,
            noun="cell" if trained["classes"][1:] == ["cell"] else "object",
            scores=scores,
            spread=spread,
            methods=methods,
            before=_before(contents, table, _named([*kind.table, criterion.metric], kind), spread),
            seeds=[settings["seed"], *settings["seeds"]],
            folds=settings.get("folds", 1),
            ensemble=settings.get("ensemble", False),
            trainings=trainings,
            study=contents.study,
            calibration=calibration(table[table.network == network], splits),
            size=(reliability.WIDTH, reliability.HEIGHT),
            size_of_sizes=(SIZES_WIDTH, SIZES_HEIGHT),
            headline=headline,
            main_scores={*kind.table, criterion.metric},
            sizes=size_charts(shown),
            of_volumes=_named(kind.of_volumes, kind),
            of_volume=_by_volume(table[table.network == network], splits),
            viewer=viewer_content(shown) if shown else None,
            causes=_causes(contents.causes, network, criterion.metric, shown) if contents.causes else None,
            training_figure=_chart(contents.training_figure),
            thresholds_figure=_chart(contents.thresholds_figure),
            counts_figure=_chart(contents.counts_figure) if contents.counts_figure else None,
            boxes=read_json(contents.boxes) if contents.boxes else None,
            iterations=int(history.iteration.iloc[-1]),
            trained_by=trained["provenance"],
            parameters=trained["parameters"],
            context=trained["context"],
            # not known if the annotation has boxes
            cell_share=cell_share(measured) if "class_frequencies" in measured else None,
            volumes=contents.volumes,
            doubts=len(read_json(contents.check)["doubts"]),
            sections={name: part for name, part in settings.items() if isinstance(part, dict)},
            plain={name: value for name, value in settings.items() if not isinstance(value, dict)},
            software=software,
        )
    logger.info("%s: %.1f MB", output, Path(output).stat().st_size / 1e6)


def _require_same(model: str | Path, trained: Json, settings: Json) -> None:
    """Raise `InputError` if `model` was trained with settings other than the report's `settings`.

    Snakemake does not notice this if its record of the results (`.snakemake`) is lost.
    """
    for section, values in trained.items():
        if section in settings and values != settings[section]:
            raise InputError(
                f"{model}: was trained with `{section}: {json.dumps(values)}`, but the config has "
                f"`{section}: {json.dumps(settings[section])}`. The results were moved, or the folder "
                f"`.snakemake` is lost. To train again, type `rm {model}` and run the same command again; "
                "otherwise correct the config."
            )


def _kind(path: str | Path, own: pd.DataFrame) -> Kind:
    """Return what to show of a network, by the scores it has; `InputError` if an older version wrote them."""
    found = {*own.metric}
    for kind in (SEGMENTATION, DETECTION):
        if kind.required <= found:
            # baselines also have scores that the network lacks, for example those of masks
            return kind._replace(scores=tuple(score for score in kind.scores if score.metric in found))
    raise InputError(
        f"{path}: has no rows `{metrics.CELL_COUNTS[0]}`. Another version of bordure wrote it. Type "
        f"`rm -r {path} {Path(path).with_suffix('')}` and run the same command again."
    )


def _scored(table: pd.DataFrame, kind: Kind) -> set[str]:
    """Return the networks and baselines that have the numbers of objects of a kind of report."""
    return {*table.network[table.metric == kind.counts[0]]}


def _before(
    contents: Contents,
    table: pd.DataFrame,
    scores: Sequence[Score],
    spread: dict[str, dict[str, Json]] | None,
) -> Json | None:
    """Return the changes since the run before, for each split; None if there is none."""
    if contents.before is None:
        return None
    path, chosen, *of_seeds = scores_before(contents.before, contents.network, BASELINES)
    name, settings = chosen.stem, contents.settings
    old = at_chosen_threshold(read_scores(path), {name: read_json(chosen)["threshold"]})
    old = old[old.network == name].assign(network=contents.network)
    # only then the spread is that of trainings of this kind, on these volumes
    by_seeds = settings.get("folds", 1) == 1 and not settings.get("ensemble") and name == contents.network
    spreads = [own for own in (spread, *map(_spread, of_seeds)) if own and by_seeds]
    found = {}
    for split in ("test", "validation"):
        before, after = (
            own[(own.split == split) & (own.network == contents.network)] for own in (old, table)
        )
        if len(before) and len(after):
            deviations = [
                {metric: row["standard_deviation"] for metric, row in own[split].items()}
                for own in spreads
                if split in own
            ]
            found[split] = compare_runs(before, after, scores, deviations)
    return {"folder": str(contents.before), "network": name, "known": bool(spreads), "splits": found}


def _in_words(
    scores: Sequence[Score], rows: dict[str, ScoreRow], network: str, spread: dict[str, Json]
) -> list[tuple[str, str, str]]:
    """Return metric, name and value of some scores of a network, with their spread over the seeds."""
    found = []
    for score in scores:
        value = digits(rows[score.metric]["values"][network])
        if (own := spread.get(score.metric)) is not None:
            value += f" ({digits(own['mean'])} ± {digits(own['standard_deviation'])})"
        found.append((score.metric, score.name, value))
    return found


def _named(metrics: Sequence[str], kind: Kind) -> list[Score]:
    """Return the scores with these names that the network has, in the order of the names."""
    scores = {score.metric: score for score in kind.scores}
    return [scores[metric] for metric in metrics if metric in scores]


def _doubtful_detections(
    contents: Contents, counts: dict[str, int], shown: Sequence[Json], split: str, criterion: str
) -> list[quality.Warned]:
    """Return the warnings of a detector: wrong numbers, lower recall than in training, default boxes."""
    of_training = [volume["counts"] for volume in shown if volume["split"] == "train"]
    found, missed = (sum(own[name] for own in of_training) for name in ("found", "missed"))
    return [
        *quality.warn_of_biased_count(counts["annotated"], counts["found"], split=split, criterion=criterion),
        *quality.warn_of_lost_recall(
            (found, found + missed), (counts["matched"], counts["annotated"]), split=split
        ),
        *(quality.warn_of_uncovered(read_json(contents.boxes), enough=ENOUGH) if contents.boxes else []),
    ]


class ScoreRow(TypedDict):
    """One row of the table of scores.

    - `score`: score of the row
    - `values`: mean over the volumes, for each network and baseline
    - `best`: networks and baselines with the best value
    - `best_baseline`: best value of the baselines that do not predict one class; NaN if there is none
    """

    score: Score
    values: dict[str, float]
    best: set[str]
    best_baseline: float


class SplitScores(TypedDict):
    """Scores of one split.

    Attributes
    ----------
    volumes : int
        Number of volumes.
    rows : dict of str to ScoreRow
        Row of each metric.
    uniform : set of str
        Networks and baselines that predict at least one section with cells as all cell or all background.
    """

    volumes: int
    rows: dict[str, ScoreRow]
    uniform: set[str]


def score_classes(table: pd.DataFrame, names: Sequence[str]) -> Json | None:
    """Return the scores of the classes over all volumes together.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores for one network and split, one per volume and metric.
    names : sequence of str
        Names of the classes.

    Returns
    -------
    dict or None
        `names`, `colours`, `scores` (see `metrics.class_scores`), and `shares`: of the pixels of each true
        class, the share that each class was assigned. None if the table has no confusion matrix.
    """
    counts = table.groupby("metric").value.sum()
    pairs = [[f"confusion_{true}_{found}" for found in names] for true in names]
    if not {metric for row in pairs for metric in row} & {*counts.index}:
        return None
    confusion = np.array([[counts[metric] for metric in row] for row in pairs])
    with np.errstate(invalid="ignore"):
        shares = confusion / confusion.sum(1, keepdims=True)
    scores, colours = metrics.class_scores(confusion, names), class_colours(len(names))
    return {"names": names, "colours": colours, "scores": scores, "shares": shares.tolist()}


def calibration(table: pd.DataFrame, splits: Sequence[str]) -> dict[str, Json]:
    """Return the calibration of the cell probability, over all pixels of each split together.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores for one network, one per volume and metric.
    splits : sequence of str
        Splits to return.

    Returns
    -------
    dict of str to dict
        For each split its `scores` (see `metrics.Reliability.scores`) and its `chart`
        (`figures.reliability.reliability_chart`). Empty if the table has no such rows, as that of a detector.
    """
    found = {}
    for split in splits:
        own = metrics.Reliability.from_rows(
            table[table.split == split].groupby("metric").value.sum().to_dict()
        )
        if own is not None:
            found[split] = {"scores": own.scores(), "chart": reliability.reliability_chart(own)}
    return found


def size_charts(layers: Sequence[Json]) -> dict[str, Json]:
    """Return the sizes of cells annotated and found in the volumes of each split.

    Parameters
    ----------
    layers : sequence of dict
        Content of the files of `stages.layers.prepare_layers`.

    Returns
    -------
    dict of str to dict
        For each split with annotated volumes the parts of a chart (`figures.sizes.sizes_chart`) and its
        `unit`: um if all volumes have the same, square pixels of known size, else px.
    """
    sizes = {tuple(one["pixel_size"] or ()) for one in layers}
    scale = next(iter(sizes)) if len(sizes) == 1 else ()
    in_um = len(scale) == 2 and scale[0] == scale[1]
    charts = {}
    for split in ("test", "validation"):
        own = [
            one["diameters"] for one in layers if one["split"] == split and "annotated" in one["diameters"]
        ]
        if not own:
            continue
        counts = {
            kind: np.sum([*zip_longest(*(one[kind] for one in own), fillvalue=0)], axis=1).tolist()
            for kind in ("annotated", "found")
        }
        if any(map(any, counts.values())):
            charts[split] = sizes_chart(counts, scale[0] if in_um else 1.0) | {
                "unit": "µm" if in_um else "px"
            }
    return charts


def mean_scores(table: pd.DataFrame, network: str, scores: Sequence[Score] = SCORES) -> SplitScores:
    """Average the scores of one split over its volumes, and find the best values.

    Networks and baselines that predict a whole section as one class are never best, because such a prediction
    can have no splits and mergers without finding any cell.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores for one split, one per volume, network and metric.
    network : str
        Name of the trained network; all others are baselines.
    scores : sequence of Score, default pages.scores.SCORES
        Scores to average. Those that are not in the table are left out.

    Returns
    -------
    SplitScores
        Means of `scores`.
    """
    means = table.groupby(["metric", "network"]).value.mean().unstack()
    useless = quality.degenerate(table).groupby("network").any()
    uniform = set(useless.index[useless])
    rows: dict[str, ScoreRow] = {}
    for score in scores:
        if score.metric not in means.index:
            continue
        values = means.loc[score.metric]
        best_of = pd.Series.max if score.more_is_better else pd.Series.min
        fair = values.drop(labels=uniform)
        best = set(fair.index[fair == best_of(fair)])
        rows[score.metric] = {
            "score": score,
            "values": values.to_dict(),
            "best": best,
            "best_baseline": best_of(fair.drop(network, errors="ignore")),
        }
    return {"volumes": table.volume.nunique(), "rows": rows, "uniform": uniform}


def count_cells(table: pd.DataFrame, numbers: Sequence[str] = metrics.CELL_COUNTS) -> pd.DataFrame:
    """Count the cells of each volume.

    A found cell matches an annotated one if their intersection over union (IoU) is at least 0.5, as in
    `metrics.average_precision`. Cells are counted in each section.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of the table of scores of one network, one for each volume and metric.
    numbers : sequence of str, default metrics.CELL_COUNTS
        Names of the numbers of annotated, found and matched cells in the table; `metrics.BOX_COUNTS` for
        boxes.

    Returns
    -------
    pandas.DataFrame
        Columns annotated, found, matched, missed (annotated without match) and false (found without match),
        int. The index has split and volume.
    """
    counts = table.pivot(index=["split", "volume"], columns="metric", values="value")
    counts = counts[[*numbers]].astype(int).set_axis(["annotated", "found", "matched"], axis=1)
    return counts.assign(missed=counts.annotated - counts.matched, false=counts.found - counts.matched)


def score_line(scores: str | Path, postprocessing: Sequence[str | Path], network: str) -> str:
    """Return the scores of a run in one line: means over the held-out volumes, beside the best baseline.

    Parameters
    ----------
    scores : str or Path
        Table of scores.
    postprocessing : sequence of str or Path
        JSON files of `stages.postprocessing.choose_postprocessing` for the network and the baselines.
    network : str
        Name of the trained network.

    Returns
    -------
    str
        The criterion of the post-processing and V-Rand, or box AP at 0.5 for a detector, on the test volumes
        or, without any, on the validation volumes.
    """
    chosen = {Path(path).stem: read_json(path) for path in postprocessing}
    table = at_chosen_threshold(
        read_scores(scores), {name: found["threshold"] for name, found in chosen.items()}
    )
    split = "test" if (table.split == "test").any() else "validation"
    kind = _kind(scores, table[table.network == network])
    table = table[table.network.isin(_scored(table, kind))]
    found = mean_scores(table[table.split == split], network, kind.scores)
    texts = []
    for metric in dict.fromkeys([chosen[network]["criterion"], kind.main]):
        row = found["rows"][metric]
        baseline, score = row["best_baseline"], row["score"]
        beside = "" if pd.isna(baseline) else f"best baseline {baseline:.4f}, "
        name = score.name.removesuffix(" after thinning")
        texts.append(f"{name} {row['values'][network]:.4f} ({beside}{score.direction})")
    volumes = f"mean of {found['volumes']} {split} volumes" if found["volumes"] > 1 else f"1 {split} volume"
    return f"{', '.join(texts)}; {volumes}"


def _by_volume(table: pd.DataFrame, splits: Sequence[str]) -> list[Json]:
    """Return split, name and the value of each metric for each volume."""
    values = table.groupby(["split", "volume", "metric"]).value.mean().unstack()
    return [
        {"split": split, "volume": volume, "values": row.to_dict()}
        for split in splits
        for volume, row in values.loc[split].iterrows()
    ]


def _spread(path: str | Path) -> dict[str, dict[str, Json]]:
    """Read the spread over seeds: split -> metric -> columns of the table."""
    table = pd.read_csv(path).set_index("metric")
    return {split: rows.to_dict("index") for split, rows in table.groupby("split")}


def _causes(table: str | Path, network: str, criterion: str, shown: Sequence[Json]) -> Json:
    """Return what the report shows of the causes of errors in the validation volumes."""
    rows = read_scores(table)
    rows = rows[(rows.network == network) & (rows.split == "validation")]
    metrics = [*dict.fromkeys([criterion, *CAUSE_METRICS])]
    scores = {score.metric: score for score in SCORES}
    largest = rows[rows.section.notna()].sort_values("pixels", ascending=False, kind="stable")
    places = {
        row.cause: place_in_viewer(shown, row.volume, int(row.section), int(row.y), int(row.x))
        for row in largest.drop_duplicates("cause").itertuples()
    }
    causes_of = {kind: [cause.name.lower() for cause in own] for kind, own in CAUSES_OF.items()}
    return {
        "volumes": rows.volume.nunique(),
        "scores": [scores[metric] for metric in metrics],
        "words": {key: (*words, CAUSE_COLOURS.get(key)) for key, words in CAUSE_WORDS.items()},
        "places": places,
        **tabulate_causes(rows, [scores[metric] for metric in metrics], causes_of),
    }


def tabulate_causes(
    rows: pd.DataFrame, scores: Sequence[Score], causes_of: dict[str, list[str]]
) -> dict[str, Json]:
    """Return numbers and scores of each cause of errors over all volumes of a split.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of the table of the causes of errors for one network and split.
    scores : sequence of Score
        Scores to return.
    causes_of : dict of str to list of str
        Causes of each kind of errors.

    Returns
    -------
    dict
        `found` (without any repair), and `kinds`: for each kind with errors its own numbers (`all`) and those
        of each of its `causes` with errors. Each has `cells`, `pixels`, `share` (of all wrong pixels),
        `values` (mean of each score over the volumes), `gains` (by how much it is better than without repair)
        and `levels` (the gain as a fraction of the largest gain of a single cause, 0 to 1).
    """
    grouped = rows.groupby("cause", sort=False)
    counts, means = grouped[["cells", "pixels"]].sum(), grouped[[score.metric for score in scores]].mean()
    signs = pd.Series({score.metric: 1.0 if score.more_is_better else -1.0 for score in scores})
    gains = (means - means.loc["as_found"]) * signs
    largest = gains.loc[[cause for own in causes_of.values() for cause in own]].max()
    levels = (gains / largest.where(largest > 0)).clip(0, 1).fillna(0)
    wrong = max(int(counts.pixels["as_found"]), 1)

    def numbers(cause: str) -> Json:
        return {
            "cells": int(counts.cells[cause]),
            "pixels": int(counts.pixels[cause]),
            "share": counts.pixels[cause] / wrong,
            "values": means.loc[cause].to_dict(),
            "gains": gains.loc[cause].to_dict(),
            "levels": levels.loc[cause].to_dict(),
        }

    return {
        "found": numbers("as_found"),
        "kinds": {
            kind: {
                "all": numbers(kind),
                "causes": {cause: numbers(cause) for cause in own if counts.cells[cause]},
            }
            for kind, own in causes_of.items()
            if counts.cells[kind]
        },
    }


def _chart(path: str | Path) -> Json:
    """Return the description of a chart of `figures`, and its element as `svg`."""
    return figures.describe(path) | {"svg": Markup(figures.inline(path))}
