"""`bordure evaluate`: score a prediction of any tool against an annotation."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.cli.words import add_annotation_options, as_options
from pipeline_lib.imageio import PAIRINGS, PREDICTION_KINDS
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.log import logger

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ["metric", "best", "threshold", "pixel_error", "rand_error", "v_rand_thin", "warping_error"]

# Scores of each of several predictions, and their headings
OF_LABELS = {
    "seg": "SEG",
    "average_precision_50": "AP50",
    "panoptic_quality": "PQ",
    "dice": "Dice",
    "rand_error": "Rand err.",
}
# Scores of all classes together (the four of the FCN paper), and their headings
CLASSES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iou": "mean IoU",
    "frequency_weighted_iou": "frequency-weighted IoU",
}
LAST = "sum of cells, mean of scores"

HELP = "score predictions against annotations"
DESCRIPTION = """\
Score predictions against annotations, written by any tool: TIFF stacks, folders
of slices, or HDF5 datasets (FILE.h5:/DATASET). Several predictions belong to
the files of the folder TRUTH by their names, or to the one file TRUTH."""

EPILOG = """\
output: for a probability map, the best value of each score over the thresholds
0, 0.1, ..., 1, other scores at that threshold, and the instance scores at the
threshold with the best SEG; for labels, the instance scores; for a map of the
classes of the annotation (--prediction classes), also scores of each class.
Errors: 0 is perfect. Others: 1 is perfect (docs/explanation/scores.md).

exit codes: 0 scored; 1 a file cannot be read or scored; 2 wrong arguments
example:    bordure evaluate truth.tif probability.tif --csv scores.csv
            bordure evaluate masks cellpose/*_labels.tif --csv scores.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.usage = "bordure evaluate [options] TRUTH PREDICTION [PREDICTION ...]"
    parser.add_argument("truth", type=Path, help="annotation, (z, y, x) or (y, x), or folder of annotations")
    parser.add_argument(
        "predictions",
        type=Path,
        nargs="+",
        metavar="prediction",
        help="cell probability, 0 to 1 or uint8 0 to 255, or instance labels; same shape",
    )
    parser.add_argument(
        "--images", action="store_true", help="files of a folder are single images, not sections of a stack"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write every score to this file")
    parser.add_argument("--sections", default="", metavar="N", help="sections to score, such as 0-3,8")
    parser.add_argument(
        "--pairing", choices=PAIRINGS, default="names", metavar="HOW", help="of files: names or order"
    )
    truth = parser.add_argument_group("the annotation")
    add_annotation_options(truth)
    truth.add_argument(
        "--ignore-mask", type=Path, metavar="FILE", help="image whose pixels other than 0 are not annotated"
    )
    truth.add_argument(
        "--empty-sections",
        choices=("ask", "background", "ignore"),
        default="ask",
        metavar="WHAT",
        help="if they have no cells: background or ignore",
    )
    predicted = parser.add_argument_group("the prediction")
    predicted.add_argument(
        "--prediction",
        dest="prediction_kind",
        choices=PREDICTION_KINDS,
        default="auto",
        metavar="KIND",
        help=f"{', '.join(PREDICTION_KINDS)}; default: auto",
    )
    predicted.add_argument(
        "--prediction-background",
        type=int,
        nargs="+",
        default=(),
        metavar="N",
        help="background in labels and classes; default: 0",
    )
    predicted.add_argument("--highest", type=float, metavar="N", help="value for a probability of 1")
    predicted.add_argument("--channel", type=int, metavar="N", help="channel that shows cells, from 0")


def run(options: argparse.Namespace) -> int:
    """Print the best value of each score with other scores at its threshold, or a line for each image.

    Parameters
    ----------
    options : argparse.Namespace
        Result of the parser.

    Returns
    -------
    int
        0 if all predictions are scored, else 1.

    Raises
    ------
    InputError
        If a file cannot be read or scored.
    """
    import pandas as pd

    from pipeline_lib.stages.evaluation import pair_predictions

    logger.addFilter(_log_as_options)
    try:
        pairs = pair_predictions(options.truth, options.predictions, images=options.images)
        if len(pairs) == 1:
            scores = _score(options, *pairs[0])
            _write(scores, options.csv)
            of_cells, of_classes = _apart(scores)
            _print(of_cells)
            _print_classes(of_classes)
            return 0
        tables, failed = [], 0
        for number, (truth, prediction) in enumerate(pairs, 1):
            print(f"[{number}/{len(pairs)}]", flush=True)
            try:
                scores = _score(options, truth, prediction)
            except InputError as error:
                failed += 1
                print(f"error: {error}", file=sys.stderr)
                continue
            scores.insert(0, "prediction", str(prediction))
            tables.append(scores)
    finally:
        logger.removeFilter(_log_as_options)
    if tables:
        every = pd.concat(tables)
        _write(every, options.csv)
        of_cells, of_classes = _apart(every)
        _print_many(of_cells)
        _print_classes(of_classes)
    if failed:
        print(f"error: {failed} of {len(pairs)} predictions could not be scored.", file=sys.stderr)
    return 1 if failed else 0


def _score(options: argparse.Namespace, truth: Path, prediction: Path) -> pd.DataFrame:
    from pipeline_lib.stages.evaluation import score_files

    try:
        return score_files(
            truth,
            prediction,
            sections=options.sections,
            pairing=options.pairing,
            annotation_kind=options.annotation_kind,
            classes=dict(options.classes) if options.classes else None,
            background=options.background,
            ignore=options.ignore,
            ignore_mask=options.ignore_mask,
            relabel=options.relabel,
            empty_sections=options.empty_sections,
            prediction_kind=options.prediction_kind,
            prediction_background=options.prediction_background,
            highest=options.highest,
            channel=options.channel,
        )
    except InputError as error:
        raise InputError(as_options(str(error), _WORDS)) from error


def _write(scores: pd.DataFrame, path: Path | None) -> None:
    from pipeline_lib.runtime.files import replacing

    if path:
        with replacing(path) as temporary:
            scores.to_csv(temporary, index=False)


def _apart(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows with scores of cells, and those of classes."""
    of_classes = scores.metric.str.match("confusion_|iou_|dice_") | scores.metric.isin(CLASSES)
    return scores[~of_classes], scores[of_classes]


def _print_classes(rows: pd.DataFrame) -> None:
    """Print the confusion matrix of all predictions together, and its scores; nothing without classes."""
    import numpy as np
    import pandas as pd

    from pipeline_lib import metrics

    if rows.empty:
        return
    totals = rows.groupby("metric", sort=False).value.sum()
    names = [metric.removeprefix("iou_") for metric in totals.index if metric.startswith("iou_")]
    table = np.array([[totals[f"confusion_{true}_{found}"] for found in names] for true in names])
    scores = metrics.class_scores(table, names)
    print("\nClasses, pixel by pixel:\n")
    print("\n".join(f"{title:<24}{scores[metric]:.4f}" for metric, title in CLASSES.items()))
    shares = 100 * table / table.sum(1, keepdims=True).clip(1)
    shown = pd.DataFrame(shares, pd.Index(names, name="true class"), names).map("{:.1f}".format)
    for title in ("iou", "dice"):
        shown[{"iou": "IoU", "dice": "Dice"}[title]] = [f"{scores[f'{title}_{name}']:.4f}" for name in names]
    print("\nPredicted class of the pixels of each true class (%), and scores of each class:\n")
    print(shown.reset_index().to_string(index=False))


def _print_many(scores: pd.DataFrame) -> None:
    """Print the scores of each prediction, and their mean.

    Probability maps are all cut at one threshold, the one with the best mean SEG: with a threshold of its
    own, each would look better than it is.
    """
    from pipeline_lib import metrics

    for labels, part in scores.groupby(scores.threshold.isna()):
        shown, where = part, "Instance scores of the labels"
        if not labels:
            seg = part[part.metric == "seg"].groupby("threshold").value.mean()
            shown, where = (
                part[part.threshold == seg.idxmax()],
                f"Scores at the threshold {seg.idxmax():.1f}, which has the best mean SEG",
            )
        table = shown.pivot(index="prediction", columns="metric", values="value")
        table = table.loc[[*dict.fromkeys(shown.prediction)]]
        counts = table[[*metrics.CELL_COUNTS]].astype(int).rename(columns=lambda name: name.partition("_")[2])
        summary = {**counts.sum(), **table[[*OF_LABELS]].mean()}
        lines = counts.join(table[[*OF_LABELS]])
        lines.loc[LAST] = [summary[column] for column in lines]
        lines = lines.astype(dict.fromkeys(counts, int)).rename(columns=OF_LABELS)
        print(f"\n{where}:\n")
        print(
            lines.rename_axis(None, axis=1)
            .rename_axis("prediction")
            .reset_index()
            .to_string(index=False, float_format="%.4f")
        )


def _print(scores: pd.DataFrame) -> None:
    """Print the scores of one prediction."""
    from pipeline_lib import metrics

    if scores.threshold.isna().all():
        print("\nInstance scores of the labels:\n")
        digits = (0 if metric in metrics.CELL_COUNTS else 4 for metric in scores.metric)
        shown = [f"{value:.{own}f}" for value, own in zip(scores.value, digits, strict=True)]
        print(scores[["metric"]].assign(value=shown).to_string(index=False))
        return
    print("\nBest value of each score over the thresholds, and other scores at that threshold:\n")
    print(metrics.summary_table(scores)[SHOWN].to_string(index=False, float_format="%.4f"))
    of_instances = scores[scores.metric.isin(metrics.INSTANCE_METRICS)]
    at = of_instances.pivot(index="threshold", columns="metric", values="value")
    best = at.seg.idxmax()
    print(f"\nInstance scores at the threshold with the best SEG ({best:.1f}):\n")
    print(at.loc[[best], list(metrics.INSTANCE_METRICS)].to_string(index=False, float_format="%.4f"))


def _log_as_options(record: logging.LogRecord) -> bool:
    record.msg, record.args = as_options(record.getMessage(), _WORDS), None
    return True


#: Words of messages that are for the workflow, and those for this command.
_WORDS = {
    r"; paths in a table of volumes are relative to `data_dir`": "",
    r" in the table(?: of volumes)?": "",
    r"write in the column `sections`: ([\d,-]+)": r"add `--sections \1`",
    r"the column `sections`( of the table of volumes)?": "`--sections`",
    r"of `sections`": "of `--sections`",
    r"(sections) `([^`]*)`(?=: there is no section)": r"\1 `--sections \2`",
    r"no image for": "no prediction for",
}
