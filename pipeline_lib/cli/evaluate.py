"""`bordure evaluate`: score a prediction of any tool against an annotation."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_lib.cli.words import add_annotation_options, as_options
from pipeline_lib.imageio import PAIRINGS, PREDICTION_KINDS
from pipeline_lib.imageio.boxes import COORDINATES
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
# Scores of boxes of each of several predictions or classes, and their headings
OF_BOXES = {
    "box_ap": "Box AP",
    "box_ap_50": "AP50",
    "box_f1": "F1",
    "count_error": "Count err.",
}
BOXES = "box_|boxes_|voc_|froc|count_"  # the beginning of scores of boxes
LAST = "sum of cells, mean of scores"

HELP = "score predictions against annotations"
DESCRIPTION = """\
Score predictions against annotations of any tool: TIFFs, folders of slices, HDF5
(FILE.h5:/DATASET), or boxes (COCO, YOLO, Pascal VOC, CSV). Several predictions
belong to the files of the folder TRUTH by their names, or to the one file TRUTH."""

EPILOG = """\
output: of a probability map, the best value of each score over the thresholds
0, 0.1, ..., 1, other scores there, and instance scores at the best SEG; of
labels, instance scores; of a map of the annotated classes (--prediction
classes), also scores of each class; of boxes, AP, F1, numbers of boxes.
Errors: 0 is perfect. Others: 1 is perfect (docs/explanation/scores.md).

exit codes: 0 scored; 1 a file cannot be read or scored; 2 wrong arguments
example:    bordure evaluate truth.tif probability.tif --csv scores.csv
            bordure evaluate masks cellpose/*_cp_masks.tif --csv scores.csv
            bordure evaluate coco.json detections.csv"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Parser of the command.
    """
    parser.usage = "bordure evaluate [options] TRUTH PREDICTION [PREDICTION ...]"
    parser.add_argument("truth", type=Path, help="annotation or boxes, or folder of them")
    parser.add_argument(
        "predictions",
        type=Path,
        nargs="+",
        metavar="prediction",
        help="probability of cell (0 to 1 or 255), labels or boxes",
    )
    parser.add_argument("--images", action="store_true", help="files of a folder are single images")
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
        metavar="HOW",
        help="if they have no cells: background or ignore",
    )
    truth.add_argument(
        "--box-coordinates",
        choices=tuple(COORDINATES),
        metavar="C",
        help=f"corners of boxes: {', '.join(COORDINATES)}",
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
    predicted.add_argument(
        "--prediction-coordinates",
        choices=tuple(COORDINATES),
        metavar="C",
        help="corners of predicted boxes: the same values",
    )
    predicted.add_argument("--score", type=float, metavar="N", help="smallest score of a box that counts")


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
            of_cells, of_classes, of_boxes = _apart(scores)
            _print(of_cells)
            _print_classes(of_classes)
            _print_boxes(of_boxes)
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
        of_cells, of_classes, of_boxes = _apart(every)
        _print_many(of_cells)
        _print_classes(of_classes)
        _print_many_boxes(of_boxes)
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
            box_coordinates=options.box_coordinates,
            prediction_coordinates=options.prediction_coordinates,
            score=options.score,
            show=lambda text: print(as_options(text, _WORDS)),
        )
    except InputError as error:
        raise InputError(as_options(str(error), _WORDS)) from error


def _write(scores: pd.DataFrame, path: Path | None) -> None:
    from pipeline_lib.runtime.files import replacing

    if path:
        with replacing(path) as temporary:
            scores.to_csv(temporary, index=False)


def _apart(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the rows with scores of cells, those of classes of pixels, and those of boxes."""
    of_boxes = scores.metric.str.match(BOXES)
    of_classes = scores.metric.str.match("confusion_|iou_|dice_") | scores.metric.isin(CLASSES)
    return scores[~of_classes & ~of_boxes], scores[of_classes], scores[of_boxes]


def _print_boxes(rows: pd.DataFrame) -> None:
    """Print the scores of the boxes of one prediction; nothing without boxes."""
    import pandas as pd

    from pipeline_lib import metrics

    if rows.empty:
        return
    again = rows.metric.duplicated()  # at the score with the best F1
    scores, threshold = rows[~again].set_index("metric").value, rows.threshold.iloc[0]
    print(f"\nScores of {_kept(threshold)}:\n")
    for metric in (*metrics.DETECTION_METRICS, *metrics.COUNT_ERRORS, *metrics.BOX_COUNTS):
        print(f"{metric:<22}{scores[metric]:.{0 if metric in metrics.BOX_COUNTS else 4}f}")
    if again.any():
        best, at = rows[again].set_index("metric").value, rows.threshold.iloc[-1]
        print(
            f"\nBest F1: {best['box_f1']:.4f}, of {_kept(at)} (precision {best['box_precision']:.4f}, recall "
            f"{best['box_recall']:.4f}). The score was chosen on these images, so this flatters."
        )
    first = f"{metrics.BOX_COUNTS[0]}_"
    parts = [metric.removeprefix(first) for metric in scores.index if metric.startswith(first)]
    if len(parts) > 1:
        columns = [*metrics.BOX_COUNTS, *OF_BOXES]
        table = [[scores[f"{column}_{part}"] for column in columns] for part in parts]
        print("\nScores of each class and of each size (32 and 96 px are the limits):\n")
        _print_table(pd.DataFrame(table, pd.Index(parts, name="part"), columns))


def _print_many_boxes(rows: pd.DataFrame) -> None:
    """Print the scores of the boxes of each prediction, and their mean; nothing without boxes."""
    from pipeline_lib import metrics

    if rows.empty:
        return
    rows = rows[~rows.duplicated(["prediction", "metric"])]
    table = rows.pivot(index="prediction", columns="metric", values="value")
    table = table.loc[[*dict.fromkeys(rows.prediction)], [*metrics.BOX_COUNTS, *OF_BOXES]]
    table.loc[LAST] = {**table[[*metrics.BOX_COUNTS]].sum(), **table[[*OF_BOXES]].mean()}
    print(f"\nScores of {_kept(rows.threshold.iloc[0])}:\n")
    _print_table(table)


def _print_table(table: pd.DataFrame) -> None:
    """Print numbers of boxes as whole numbers and scores with four digits."""
    from pipeline_lib import metrics

    counts = {name: name.partition("_")[2] for name in metrics.BOX_COUNTS}
    shown = table.astype(dict.fromkeys(counts, int)).rename(columns=counts | OF_BOXES).reset_index()
    print(shown.rename_axis(None, axis=1).to_string(index=False, float_format="%.4f"))


def _kept(threshold: float) -> str:
    """Return in words which boxes are kept."""
    return "all boxes" if threshold != threshold else f"boxes with a score of at least {threshold:.4g}"


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
    """Print the scores of the cells of each prediction, and their mean; nothing without cells.

    Probability maps are all cut at one threshold, the one with the best mean SEG: with a threshold of its
    own, each would look better than it is.
    """
    from pipeline_lib import metrics

    for labels, part in scores.groupby(scores.threshold.isna()):
        shown, where = part, "Instance scores of the labels"
        if not labels:
            seg = part[part.metric == "seg"].groupby("threshold").value.mean()
            if seg.isna().all():
                print(f"\n{_NO_CELLS}")
                continue
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


_NO_CELLS = "The annotation has no cells, so no threshold has the best SEG. `--csv FILE` writes all scores."


def _print(scores: pd.DataFrame) -> None:
    """Print the scores of the cells of one prediction; nothing without cells."""
    from pipeline_lib import metrics

    if scores.empty:
        return
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
    if at.seg.isna().all():
        print(f"\n{_NO_CELLS}")
        return
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
    r"Say which one is wanted\.": "Write one table for each volume.",
}
