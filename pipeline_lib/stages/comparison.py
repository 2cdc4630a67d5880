"""Comparison stage: show the variants of a study side by side on one self-contained HTML page."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import h5py
import numpy as np
import pandas as pd
import yaml

from pipeline_lib import layout, provenance
from pipeline_lib.figures.boxes import FALSE, FOUND, IGNORED, MISSED, Line, Outcome
from pipeline_lib.figures.comparison import RAW, TRUTH, box_pictures, palette_png, section_pictures
from pipeline_lib.figures.curves import HEIGHT, WIDTH, Curve, curves_chart, line_style
from pipeline_lib.figures.parts import ANNOTATED
from pipeline_lib.metrics.differences import FEWEST_SECTIONS, compare_variants
from pipeline_lib.networks import modelfile
from pipeline_lib.pages import write_page
from pipeline_lib.pages.scores import SCORES, Score
from pipeline_lib.runtime.files import read_json, replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json, Stored
from pipeline_lib.scores import at_chosen_threshold, read_scores, read_threshold
from pipeline_lib.tasks.detection.compared import instances_as_found
from pipeline_lib.tasks.detection.found import Found, rows_of_sections
from pipeline_lib.tasks.detection.truth import IGNORED as IGNORED_OBJECT
from pipeline_lib.tasks.detection.truth import BoxTruth

__all__ = ["COLUMNS", "Contents", "Shown", "Trained", "write_comparison"]

#: Columns of the table of differences.
COLUMNS = [
    "variant",
    "split",
    "metric",
    "models",
    "mean",
    "standard_deviation",
    "difference",
    "low",
    "high",
    "spread_low",
    "spread_high",
    "differs",
]
_MOST_NAMED = 6  # variants in a sentence
_CLASS_SCORES = ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou", "iou_", "dice_")
_OF_BOXES = "box_ap_50_"  # begins the name of a class
_BOX_CURVE = "validation_box_ap_50"  # in the training history of detectors
_BOX_SCORES = ("box_ap_50", "box_f1", "count_error")  # which segmentations and detections have
OUTLINED = Line(ANNOTATED, "solid line", 2)  # boxes of an annotation without outlines
#: Kinds of boxes in the pictures, and how they are drawn
_LEGEND = {"found": FOUND, "missed": MISSED, "false": FALSE, "not scored": IGNORED}


#: For each variant, the entries of its row of a table; None if it does not have the score
Rows: TypeAlias = list[tuple[str, Json | None]]


class Trained(NamedTuple):
    """A model of a study and its files, which need not exist.

    Parameters
    ----------
    name : str
        Name of the model.
    variant : str
        Name of its variant.
    seed : int
        Seed of the training.
    fold : int
        Number of the cross-validation fold.
    model : str or Path
        Model file of the training.
    history : str or Path
        Training history (CSV).
    postprocessing : str or Path
        JSON file with the chosen threshold.
    scores : sequence of str or Path
        Table of scores of each held-out volume (CSV).
    sections : sequence of str or Path
        Table of the scores of the sections of each held-out volume (CSV).
    """

    name: str
    variant: str
    seed: int
    fold: int
    model: str | Path
    history: str | Path
    postprocessing: str | Path
    scores: Sequence[str | Path]
    sections: Sequence[str | Path]

    def missing(self, unfinished: Collection[str] = ()) -> tuple[str, Path] | None:
        """Return the first step whose output is not complete.

        Parameters
        ----------
        unfinished : collection of str, optional
            Files that were to be made again and were not. They count as missing.

        Returns
        -------
        tuple of (str, Path) or None
            The step and its first file that does not exist. None if all files exist.
        """
        steps = {
            "training": [self.model, self.history],
            "choice of the threshold": [self.postprocessing],
            "evaluation": [*self.scores, *self.sections],
        }
        for step, paths in steps.items():
            for path in map(Path, paths):
                if not path.exists() or str(path) in unfinished:
                    return step, path
        return None


class Shown(NamedTuple):
    """A section that is shown.

    Parameters
    ----------
    volume : str
        Name of its volume.
    split : str
        Split of the volume.
    z : int
        Number of the section in the volume, from 0.
    dataset : str or Path
        HDF5 file of the volume with `raw`, `labels` and, if there is one, `ignore`; with boxes of objects if
        there are `detections`, and then not necessarily with `labels`.
    segmentations : dict of str to (str or Path)
        For each variant that segments, the HDF5 file with the `labels` of one of its models. All files of
        variants need not exist.
    detections : dict of str to (str or Path, str or Path), optional
        For each variant that detects, the HDF5 file of `stages.detection.detect` of one of its models, and
        the JSON file with its threshold. If there are any, the segmentations are drawn as boxes, too.
    predictions : dict of str to (str or Path), optional
        For each variant that segments, the HDF5 file with the probabilities from which its segmentation was
        made. They are the scores of its boxes.
    """

    volume: str
    split: str
    z: int
    dataset: str | Path
    segmentations: Mapping[str, str | Path]
    detections: Mapping[str, Sequence[str | Path]] = MappingProxyType({})
    predictions: Mapping[str, str | Path] = MappingProxyType({})

    @property
    def files(self) -> list[str | Path]:
        """All its files."""
        of_detectors = itertools.chain(*self.detections.values())
        return [self.dataset, *self.segmentations.values(), *of_detectors, *self.predictions.values()]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Files and settings that a comparison shows. Files that do not exist are stated as missing.

    Parameters
    ----------
    title : str
        Heading of the page.
    variants : dict of str to dict
        Settings of each variant that differ from the config. All are compared with the first one.
    models : sequence of Trained
        Models of all variants.
    speed : dict of str to (str or Path)
        For each variant a JSON file with `parameters`, `multiply_adds` (per pixel of the output),
        `seconds_per_iteration` and `seconds_per_megapixel` (of the prediction).
    pictures : sequence of Shown
        Sections that are shown.
    passes : dict of str to int, optional
        For each variant how often a prediction applies the network to each tile; by default once.
    unfinished : collection of str, optional
        Files that were to be made again and were not. They count as missing.
    """

    title: str
    variants: Mapping[str, Json]
    models: Sequence[Trained]
    speed: Mapping[str, str | Path]
    pictures: Sequence[Shown]
    passes: Mapping[str, int] = field(default_factory=dict)
    unfinished: Collection[str] = ()

    @classmethod
    def of(cls, described: Json) -> Contents:
        """Return contents from dicts, as the workflow has them.

        Parameters
        ----------
        described : dict
            Fields of this class, where models and pictures are dicts.

        Returns
        -------
        Contents
            The contents.
        """
        models = [Trained(**model) for model in described["models"]]
        pictures = [Shown(**shown) for shown in described["pictures"]]
        return cls(**described | {"models": models, "pictures": pictures})

    @property
    def complete(self) -> list[Trained]:
        """Models whose files are complete."""
        return [model for model in self.models if not model.missing(self.unfinished)]

    @property
    def files(self) -> list[str | Path]:
        """All files from which the page is made and that exist."""
        of_models = [[m.model, m.history, m.postprocessing, *m.scores, *m.sections] for m in self.models]
        of_pictures = [shown.files for shown in self.pictures]
        every = itertools.chain(*of_models, self.speed.values(), *of_pictures)
        return [path for path in dict.fromkeys(every) if Path(path).exists()]


def write_comparison(contents: Contents, output: str | Path, table: str | Path) -> None:
    """Write the comparison of a study as one HTML page that needs no other file, and as a table.

    Differences are those of `metrics.differences.compare_variants`: only those that are larger than chance in
    the choice of the sections and in the trainings are marked. A model whose files are not complete is left
    out and stated at the top of the page. If some variants segment and others detect, the page begins with
    the scores that both have, those of boxes.

    Parameters
    ----------
    contents : Contents
        Files and settings to show.
    output : str or Path
        HTML file to write.
    table : str or Path
        CSV file to write, with the `COLUMNS`: for each variant, split and metric the number of models, mean
        and standard deviation of their scores (mean over the volumes of a split), and the columns of
        `metrics.differences.compare_variants`.

    Raises
    ------
    InputError
        If a file that exists is damaged or has changed since it was made.
    """
    settings: Json = {"title": contents.title, "variants": {**contents.variants}}
    with provenance.making("comparison", [output, table], contents.files, **settings):
        complete = contents.complete
        compared = _compare(complete, [*contents.variants])
        with replacing(table) as temporary:
            compared[COLUMNS].to_csv(temporary, index=False)
        variants, first = [*contents.variants], next(iter(contents.variants))
        splits = [split for split in ("test", "validation") if (compared.split == split).any()]
        criterion = _criterion(complete, first)
        scores = _scores_of(compared)
        headline = _headline(compared, scores, criterion)
        trained = [
            model
            for model in contents.models
            if Path(model.model).exists() and str(model.model) not in contents.unfinished
        ]
        costs = _costs(trained, variants, contents)
        rows = {
            (split, score.metric): _rows(compared, split, score, variants)
            for split in splits
            for score in scores
        }
        single = compared.groupby("variant").models.max().le(1) if len(compared) else pd.Series(dtype=bool)
        write_page(
            "comparison.html.jinja",
            output,
            title=contents.title,
            variants={
                name: yaml.safe_dump(own, default_flow_style=None, sort_keys=False).strip() if own else ""
                for name, own in contents.variants.items()
            },
            first=first,
            referenced=(compared.variant == first).any(),
            number=len(contents.models),
            complete=len(complete),
            seeds=sorted({model.seed for model in contents.models}),
            folds=sorted({model.fold for model in contents.models}),
            missing=_missing(contents.models, contents.unfinished),
            unmeasured=[name for name in variants if not Path(contents.speed.get(name, "")).is_file()],
            single=[name for name in variants if single.get(name, False)],
            scored=compared.groupby(["split", "variant"]).models.max().to_dict(),
            fewest=FEWEST_SECTIONS,
            sections={split: int(compared[compared.split == split].sections.max()) for split in splits},
            splits=splits,
            criterion=criterion,
            headline=headline,
            others=_grouped([score for score in scores if score not in headline], rows, compared),
            rows=rows,
            result=[(score, _result(compared, splits[0], score, first)) for score in headline if splits],
            costs=costs,
            charts=_charts([model for model in trained if Path(model.history).exists()], variants, costs),
            size=(WIDTH, HEIGHT),
            styles={name: line_style(number) for number, name in enumerate(variants)},
            pictures=[_pictures(shown, variants) for shown in contents.pictures],
            segments=any(shown.segmentations for shown in contents.pictures),
            legend=_LEGEND if any(shown.detections for shown in contents.pictures) else {},
            table=Path(table).name,
        )
    logger.info("%s: %.1f MB", output, Path(output).stat().st_size / 1e6)


def _missing(
    models: Sequence[Trained], unfinished: Collection[str]
) -> list[tuple[str, str, list[str], Path]]:
    """Return variant, first step that did not end, names of its models, and the first missing file."""
    found: dict[tuple[str, str], tuple[list[str], Path]] = {}
    for model in models:
        if missing := model.missing(unfinished):
            step, path = missing
            found.setdefault((model.variant, step), ([], path))[0].append(model.name)
    return [(*key, *value) for key, value in found.items()]


def _compare(models: Sequence[Trained], variants: Sequence[str]) -> pd.DataFrame:
    """Return the differences of all variants, with number of sections, means and standard deviations.

    Scores of classes are left out for variants whose classes are not those of the first one.
    """
    sections, scores = [], []
    classes = {model.variant: modelfile.describe(model.model)["classes"] for model in reversed(models)}
    for model in models:
        threshold = read_threshold(model.postprocessing)
        own = pd.concat([read_scores(path) for path in model.scores])
        own = at_chosen_threshold(own.assign(network=model.name), {model.name: threshold})
        scores.append(own.assign(variant=model.variant))
        sections += [
            read_scores(path).assign(variant=model.variant, model=model.name) for path in model.sections
        ]
    if not models:
        return pd.DataFrame(columns=[*COLUMNS, "sections"])
    reference = classes.get(variants[0], classes[models[0].variant])
    other = [variant for variant in classes if classes[variant] != reference]

    def comparable(table: pd.DataFrame) -> pd.DataFrame:
        return table[~(table.variant.isin(other) & table.metric.str.startswith(_CLASS_SCORES))]

    keys = ["variant", "split", "metric"]
    of_models = comparable(pd.concat(scores)).groupby([*keys, "network"]).value.mean()
    means = of_models.groupby(keys).agg(["mean", "std"])
    means.columns = ["mean", "standard_deviation"]
    return compare_variants(comparable(pd.concat(sections)), variants).merge(means, on=keys)


def _criterion(models: Sequence[Trained], first: str) -> str:
    """Return the metric by which the thresholds of the first variant were chosen, or else of any variant."""
    ordered = sorted(models, key=lambda model: model.variant != first)
    return str(read_json(ordered[0].postprocessing)["criterion"]) if ordered else "rand_error"


def _scores_of(compared: pd.DataFrame) -> list[Score]:
    """Return the scores to show, also those of classes."""
    found = {*compared.metric}
    known = [score for score in SCORES if score.metric in found]
    names = {score.metric for score in known}
    of_classes = [
        Score(metric, metric.replace("_", " "), True, "scores of classes of pixels")
        for metric in dict.fromkeys(compared.metric)
        if metric not in names and metric.startswith(_CLASS_SCORES)
    ]
    of_boxes = [
        Score(metric, f"Box AP at 0.5, {metric.removeprefix(_OF_BOXES)}", True, "the boxes of one class")
        for metric in dict.fromkeys(compared.metric)
        if metric.startswith(_OF_BOXES)
    ]
    return known + of_classes + of_boxes


def _headline(compared: pd.DataFrame, scores: Sequence[Score], criterion: str) -> list[Score]:
    """Return the scores to show first: the criterion and V-Rand, or those of boxes if a variant detects."""
    segmenting = compared[compared.metric == "v_rand_thin"].variant
    chosen = _BOX_SCORES if {*compared.variant} - {*segmenting} else (criterion, "v_rand_thin")
    return sorted((s for s in scores if s.metric in chosen), key=lambda score: score.metric != criterion)


def _grouped(
    scores: Sequence[Score], rows: Mapping[tuple[str, str], Rows], compared: pd.DataFrame
) -> list[tuple[list[str], list[Score]]]:
    """Group scores by the variants that do not have them, first those that all have."""
    scored = {*compared.variant}
    groups: dict[tuple[str, ...], list[Score]] = {(): []}
    for score in scores:
        having = {
            name for (_, metric), own in rows.items() if metric == score.metric for name, row in own if row
        }
        groups.setdefault(tuple(sorted(scored - having)), []).append(score)
    return [([*lacking], own) for lacking, own in groups.items() if own]


def _rows(compared: pd.DataFrame, split: str, score: Score, variants: Sequence[str]) -> Rows:
    """Return for each variant the entries of its row of a table, or None if it has no scores."""
    own = compared[(compared.split == split) & (compared.metric == score.metric)].set_index("variant")
    found = own.to_dict("index")
    ends = own.drop(index=variants[0], errors="ignore")[["low", "high", "spread_low", "spread_high"]]
    widths = ends.abs().max(axis=1).dropna()
    # a variant that failed must not make the lines of all others too short to see
    limit = (min(widths.max(), 3 * widths.median()) if len(widths) else 0) or 1.0

    def place(value: float) -> float:
        """Return a position in a drawing from -limit to limit, in percent from the left."""
        return round(float(np.clip(50 + 50 * value / limit, 0, 100)), 1)

    def line(low: float, high: float) -> tuple[float, float] | None:
        """Return left end and length of an interval in percent; None if it is not known."""
        return None if math.isnan(low) else (place(low), round(place(high) - place(low), 1))

    rows: Rows = []
    for name in variants:
        row = found.get(name)
        if row:
            state = _state(row, name == variants[0], score.more_is_better)
            sections = line(row["low"], row["high"])
            bar = {
                "at": min(max(place(row["difference"]), 4), 96),  # the dot is whole
                "sections": sections,
                "trainings": line(row["spread_low"], row["spread_high"]),
            }
            shown = sections and state != "reference"
            row = {**row, "state": state, "bar": bar if shown else None}
        rows.append((name, row))
    return rows


def _state(row: Mapping[str, Any], is_first: bool, more_is_better: bool) -> str:
    """Return in one word what a difference means."""
    if is_first:
        return "reference"
    if math.isnan(row["difference"]):
        return "unknown"
    if row["differs"]:
        return "better" if (row["differs"] > 0) == more_is_better else "worse"
    if math.isnan(row["spread_low"]):
        return "single"
    return "few" if row["sections"] < FEWEST_SECTIONS else "chance"


def _result(compared: pd.DataFrame, split: str, score: Score, first: str) -> dict[str, list[str]]:
    """Return the variants that are better and worse than the first one beyond chance, at most a few."""
    own = compared[
        (compared.split == split) & (compared.metric == score.metric) & (compared.variant != first)
    ]
    signs = own.differs if score.more_is_better else -own.differs
    found = {}
    for word, sign in (("better", 1), ("worse", -1)):
        names = [*own.variant[signs == sign]]
        more = len(names) - _MOST_NAMED
        found[word] = names if more <= 1 else [*names[:_MOST_NAMED], f"{more} more"]
    return found


def _costs(models: Iterable[Trained], variants: Sequence[str], contents: Contents) -> dict[str, Json]:
    """Return parameters, multiply-adds and times of each variant, as far as they are known.

    The training time is that of the iterations at the measured speed. The time that a training took depends
    on what else the machine did.
    """
    known: dict[str, Json] = {name: {} for name in variants}
    for model in models:
        known[model.variant]["parameters"] = modelfile.describe(model.model)["parameters"]
        if Path(model.history).exists():
            known[model.variant]["iterations"] = int(pd.read_csv(model.history).iteration.iloc[-1])
    for name, own in known.items():
        path = contents.speed.get(name)
        if path is not None and Path(path).exists():
            known[name] = own = read_json(path) | own
            own["seconds_per_megapixel"] *= contents.passes.get(name, 1)
            if "iterations" in own:
                own["training"] = own["iterations"] * own["seconds_per_iteration"]
    return known


def _charts(models: Sequence[Trained], variants: Sequence[str], costs: Mapping[str, Json]) -> Json | None:
    """Return the charts of loss, V-Rand and box AP, first the mean line of each variant; None without any."""
    if not models:
        return None
    timed = all("seconds_per_iteration" in costs[model.variant] for model in models)
    histories: dict[str, list[pd.DataFrame]] = {}
    for model in models:
        history = pd.read_csv(model.history)
        minutes = costs[model.variant]["seconds_per_iteration"] / 60 if timed else 1
        history["at"] = history.iteration * minutes
        histories.setdefault(model.variant, []).append(history)
    charts = []
    of_boxes = {variant for variant, own in histories.items() if _BOX_CURVE in own[0]}
    both = 0 < len(of_boxes) < len(histories)
    of_pixels = {*histories} - of_boxes
    for column, name, logarithmic, of_kind in (
        ("validation_loss", "Loss of networks that segment" if both else "Loss", True, of_pixels),
        ("validation_v_rand_thin", "V-Rand after thinning", False, of_pixels),
        ("validation_loss", "Loss of detectors" if both else "Loss", True, of_boxes),
        (_BOX_CURVE, "Box AP at an IoU of 0.5", False, of_boxes),
    ):
        curves = {}
        for variant in variants:
            if (
                own := [table for table in histories[variant] if column in table]
                if variant in of_kind
                else []
            ):
                mean = pd.concat(own).groupby("iteration")[["at", column]].mean()
                lines = [mean, *own] if len(own) > 1 else [mean]
                curves[variant] = [Curve(t["at"].to_numpy(), t[column].to_numpy()) for t in lines]
        if curves:
            name = f"{name} on the validation volumes"
            charts.append({"name": name, **curves_chart(curves, logarithmic=logarithmic)})
    unit = "minutes of training" if timed else "iterations"
    return {"unit": unit, "charts": charts, "variants": [name for name in variants if name in histories]}


def _pictures(shown: Shown, variants: Sequence[str]) -> Json:
    """Return the pictures of a section as data URIs, with a note or with what is missing.

    If some variants detect, all variants are drawn as boxes, next to each other, before the segmentations.
    """
    name = f"{shown.volume}, section {shown.z + 1} ({shown.split})"
    if not Path(shown.dataset).exists():
        return {"name": name, "size": None, "panels": {}}
    with ExitStack() as stack:
        data = stack.enter_context(layout.require(shown.dataset, layout.RAW))
        raw, labels, ignore = (data.get(array.name) for array in (layout.RAW, layout.LABELS, layout.IGNORE))
        segmented = {
            variant: stack.enter_context(layout.require(path, layout.LABELS))[layout.LABELS.name]
            for variant, path in shown.segmentations.items()
            if Path(path).exists()
        }
        pictures = section_pictures(raw, labels, ignore, segmented, shown.z)
        outcomes, boxes = {}, {}
        if shown.detections:
            objects = BoxTruth.of(data)
            outcomes = _outcomes(shown, data, objects, segmented)
            annotated = {TRUTH: [(objects.boxes[objects.rows(shown.z)], OUTLINED)]} if labels is None else {}
            lines = annotated | {variant: outcome.lines for variant, outcome in outcomes.items()}
            boxes = box_pictures(raw, ignore, lines, shown.z)
    height, width = pictures[RAW].shape[:2]
    panels = {RAW: _panel(pictures[RAW]), TRUTH: _panel(pictures.get(TRUTH, boxes.get(TRUTH)))}
    for variant in variants if shown.detections else ():
        panels[variant] = _panel(boxes.get(variant), "no boxes", outcomes.get(variant))
    for variant in variants:
        if not shown.detections or variant in shown.segmentations:
            title = f"{variant}, segmentation" if shown.detections else variant
            panels[title] = _panel(pictures.get(variant), "no segmentation")
    return {"name": name, "size": (width, height), "panels": panels}


def _outcomes(
    shown: Shown, data: h5py.File, objects: BoxTruth, segmented: Mapping[str, Stored]
) -> dict[str, Outcome]:
    """Return what became of the boxes of each variant in a section, as it is counted for the scores."""
    found: dict[str, tuple[Found, float]] = {}
    for variant, (path, chosen) in shown.detections.items():
        if Path(path).exists() and Path(chosen).exists():
            with layout.require(path, layout.BOXES, layout.BOX_SCORE) as file:
                own = Found.of_rows(file, rows_of_sections(file, objects.shape[0])[shown.z])
            found[variant] = own, read_threshold(chosen)
    for variant, path in shown.predictions.items():
        if variant in segmented and Path(path).exists():
            with layout.require(path, layout.CELL_PROBABILITY) as file:
                if instances := instances_as_found(data, file, segmented[variant]):
                    found[variant] = instances(shown.z), 0.0  # all instances are kept
    rows = objects.rows(shown.z)
    boxes, ignored = objects.boxes[rows], objects.state[rows] == IGNORED_OBJECT
    return {
        variant: Outcome.of(boxes, ignored, own.boxes, objects.matches(shown.z, own), threshold)
        for variant, (own, threshold) in found.items()
    }


def _panel(picture: np.ndarray | None, missing: str = "", outcome: Outcome | None = None) -> Json:
    """Return a picture as the page needs it, with the numbers of its boxes, or what is missing."""
    panel: Json = {"uri": None, "missing": missing, "counts": {}}
    if picture is not None:
        panel["uri"] = f"data:image/png;base64,{base64.b64encode(palette_png(picture)).decode()}"
    if outcome is not None:
        boxes = {"found": outcome.found, "missed": outcome.missed, "false": outcome.false}
        panel["counts"] = {kind: len(own) for kind, own in boxes.items()}
    return panel
