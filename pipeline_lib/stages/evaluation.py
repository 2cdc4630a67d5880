"""Evaluation stage: compare predictions with annotations and write tables of scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from pipeline_lib import imageio, layout, metrics, provenance
from pipeline_lib.data.cells import empty_are_ignored
from pipeline_lib.data.labels import BORDER_WIDTH, cells_apart, separation_border
from pipeline_lib.imageio.boxes import (
    SectionBoxes,
    are_boxes,
    box_files,
    read_boxes,
    read_pair,
    read_predicted,
)
from pipeline_lib.imageio.pairing import pair_files
from pipeline_lib.imageio.regions import BORDER
from pipeline_lib.instances.classes import Border, ClassMap
from pipeline_lib.instances.mutex_watershed import Affinities
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.kernels.sections import Sections, ignored_pixels
from pipeline_lib.memory import CAUSES_BYTES_PER_PIXEL, SCORING_BYTES_PER_PIXEL, threads_for, with_method
from pipeline_lib.metrics.challenge import isbi_scores_with_sections
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import replacing
from pipeline_lib.runtime.log import logger
from pipeline_lib.runtime.types import Json, Stored
from pipeline_lib.scores import (
    COLUMNS,
    NAME_COLUMNS,
    at_chosen_threshold,
    read_scores,
    read_threshold,
    spread,
    write_scores,
)
from pipeline_lib.tasks.detection.compared import boxes_of_labels, instances_as_found, match_sections
from pipeline_lib.tasks.detection.scores import SIZES, score_boxes
from pipeline_lib.tasks.detection.truth import BoxTruth
from pipeline_lib.tasks.segmentation.classes import TWO, Classes, target_class

if TYPE_CHECKING:
    import h5py
    import pandas as pd

#: Columns of a table of the causes of errors.
CAUSE_COLUMNS = [*NAME_COLUMNS, *metrics.CAUSE_COLUMNS]

_HEADERS_GB = 8.0  # limit of memory for reading headers, as in the workflow by default
# Scores of boxes that depend on which are kept
_OF_KEPT = ("box_f1", "box_precision", "box_recall", *metrics.COUNT_ERRORS, *metrics.BOX_COUNTS)


def evaluate(
    dataset: str | Path,
    prediction: str | Path,
    segmentation: str | Path,
    postprocessing: str | Path,
    output: str | Path,
    sections: str | Path,
    *,
    volume: str,
    split: str,
    network: str,
    variant: str | None = None,
    seed: int | None = None,
    fold: int = 0,
    memory_gb: float = 8.0,
    threads: int = 1,
    target: str | Path | None = None,
    causes: str | Path | None = None,
) -> None:
    """Score the prediction of one annotated volume, and write the scores as a table.

    The volume is scored at the thresholds of the ISBI 2012 challenge and at the chosen threshold. The
    challenge's scores are computed from the probability map; true cells are 4-connected regions. The instance
    scores and the numbers of cells compare annotated with predicted labels. At the chosen threshold the
    predicted labels are those in `segmentation`; at the other thresholds they are made from the probability
    map by the same post-processing. If that is a watershed, all scores but the warping errors are those of
    its labels. Some rows do not depend on the threshold: `metrics.constant_pixels`, the calibration of the
    probability map (`metrics.Reliability`) compared with what the network learned, and, if there are other
    classes than background and cell, `metrics.class_scores` and the confusion matrix
    (`confusion_TRUE_PREDICTED`, in pixels), where the predicted class is the most probable one. Pixels that
    are not annotated are left out (`metrics.isbi_scores`). Sections are read one by one.

    The last rows are the scores of the boxes of the labels in `segmentation`
    (`tasks.detection.scores.score_boxes`), so that they can be compared with those of detectors. The score of
    a box is the mean cell probability of its instance, and all instances are kept. If objects are of several
    classes, an instance is of the class with the highest mean probability. Instances are restricted to
    annotated pixels. There are no such scores if the network does not distinguish the classes of the objects.

    Parameters
    ----------
    dataset : str or Path
        HDF5 file of the volume with `raw`, `labels`, `separation_border`, the boxes of its objects and, if
        pixels are not annotated, `ignore` (`dataset.build_dataset`).
    prediction : str or Path
        HDF5 file with the `cell_probability` of the volume.
    segmentation : str or Path
        HDF5 file with the predicted `labels` (`segmentation.segment` or `joining.join_labels`).
    postprocessing : str or Path
        JSON file of the model's post-processing, with the chosen threshold.
    output : str or Path
        CSV file to write, with the columns `scores.COLUMNS` and one row per metric and threshold.
    sections : str or Path
        CSV file to write, with the columns `scores.SECTION_COLUMNS` and one row per section and metric at the
        chosen threshold. A section is scored as if it were the whole volume
        (`metrics.challenge.isbi_scores_with_sections`), and numbered from 0. Sections without annotated
        pixels have no rows.
    volume : str
        Name of the volume, for the column of this name.
    split : str
        Split of the volume, for the column of this name.
    network : str
        Name of the model or baseline, for the column of this name.
    variant : str, optional
        Name of the settings with which the model was trained, for the column of this name. By default that of
        the network.
    seed : int, optional
        Seed of the training, for the column of this name. By default it is empty, as for baselines.
    fold : int, default 0
        Number of the cross-validation fold, for the column of this name.
    memory_gb : float, default 8.0
        Memory limit (GB). It limits how many of the `threads` are used.
    threads : int, default 1
        Maximum number of threads; each scores one section at one threshold at a time.
    target : str or Path, optional
        HDF5 file with what the network learned (`target`), if that is not `dataset`. Scores of classes
        compare with it. All other scores compare with `dataset`.
    causes : str or Path, optional
        CSV file to write, with the columns `CAUSE_COLUMNS`: the causes of the errors in `segmentation`, and
        the scores if each cause alone was repaired (`metrics.error_causes`). By default, no causes are
        searched.

    Raises
    ------
    InputError
        If an input is missing, damaged or lacks an array, if the files differ in shape, or if `memory_gb` is
        too small to score one section.
    """
    names: dict[str, Any] = {
        "volume": volume,
        "split": split,
        "network": network,
        "variant": variant or network,
        "seed": seed,
        "fold": fold,
    }
    inputs = [*dict.fromkeys([dataset, target or dataset, prediction, segmentation, postprocessing])]
    outputs = [output, sections, *([causes] if causes else [])]
    with provenance.making("evaluate", outputs, inputs, **names):
        import pandas as pd  # takes 0.25 s, and `collect_scores` does not need it

        chosen = PostProcessing.read(postprocessing)
        with (
            layout.require(dataset, layout.LABELS, layout.SEPARATION_BORDER) as truth,
            layout.require(target or dataset, layout.LABELS, layout.SEPARATION_BORDER) as learned,
            layout.require(prediction, layout.CELL_PROBABILITY) as predicted,
            layout.require(segmentation, layout.LABELS) as segmented,
        ):
            probability = predicted[layout.CELL_PROBABILITY.name]
            labels, border = truth[layout.LABELS.name], truth[layout.SEPARATION_BORDER.name]
            ignore = truth.get(layout.IGNORE.name)
            chosen = chosen.scaled(layout.pixels_per_model_pixel(predicted))
            stored, border_map = segmented[layout.LABELS.name], Border.of(predicted)
            affinities = Affinities.of(predicted) if chosen.method == "mutex_watershed" else None
            offsets = () if affinities is None else affinities.offsets
            per_pixel = with_method(SCORING_BYTES_PER_PIXEL, chosen.method, offsets)
            for path, array in ((prediction, probability), (segmentation, stored)):
                if array.shape != labels.shape:
                    raise InputError(
                        f"{path}: shape {array.shape}, but {dataset} has {labels.shape}. Delete {path} and "
                        "run the workflow again."
                    )

            def segment(
                z: int, section: np.ndarray, threshold: float, components: np.ndarray | None
            ) -> np.ndarray:
                if threshold == chosen.threshold:
                    return stored[z]
                if ignored_pixels(ignore, z) is not None:
                    # cells as in `stored`, made from all pixels; the scores leave ignored ones out afterwards
                    section, components = probability[z], None
                at_border = None if border_map is None else border_map[z]
                of_pairs = None if affinities is None else affinities[z]
                return instances(section, chosen.at(threshold), components, at_border, of_pairs)

            def cells(z: int) -> np.ndarray:
                return cells_apart(labels[z], border[z], ignored_pixels(ignore, z))

            truth_cells = Sections(labels.shape, bool, cells)
            scores, by_section = isbi_scores_with_sections(
                truth_cells,
                probability,
                sorted({*metrics.CHALLENGE_THRESHOLDS, chosen.threshold}),
                chosen.threshold,
                ignore=ignore,
                labels=labels,
                segment=segment,
                regions=chosen.method != "components",
                workers=threads_for(labels.shape[1:], per_pixel, memory_gb, threads),
            )
            constant = metrics.constant_pixels(truth_cells, probability, ignore=ignore)
            scored = by_section.section.unique()
            calibration, of_sections = _calibration(learned, probability, scored)
            of_classes, classes_of_sections = _class_scores(learned, predicted, scored)
            of_boxes, boxes_of_sections = _box_scores(truth, predicted, stored)
            if causes:
                found = metrics.error_causes(
                    truth[layout.RAW.name],
                    labels,
                    stored,
                    truth_cells,
                    border=border,
                    ignore=ignore,
                    workers=threads_for(labels.shape[1:], CAUSES_BYTES_PER_PIXEL, memory_gb, threads),
                )
                with replacing(causes) as temporary:
                    found.assign(**names).to_csv(temporary, index=False, columns=CAUSE_COLUMNS)
        for metric, value in ({"constant_pixels": constant} | calibration | of_classes | of_boxes).items():
            scores.loc[len(scores)] = metric, chosen.threshold, value
        if rows := of_sections + classes_of_sections + boxes_of_sections:
            further = pd.DataFrame(rows, columns=["section", "metric", "value"])
            by_section = pd.concat([by_section, further.assign(threshold=chosen.threshold)])
        write_scores(output, sections, names, scores, by_section)
        logger.info("%s (%s, %s): %d scores", volume, split, network, len(scores))


def _calibration(
    learned: h5py.File, probability: Stored, sections: Iterable[int]
) -> tuple[dict[str, float], list[tuple[int, str, float]]]:
    """Return how well the cell probability is calibrated, and the scores of each of `sections`.

    It is compared with the classes that the network learned.
    """
    ignore, target = learned.get(layout.IGNORE.name), learned.get(layout.TARGET.name)
    numbers = TWO.cell_numbers if target is None else Classes(*layout.classes_of(target)).cell_numbers

    def cells(z: int) -> np.ndarray:
        if target is None:
            classes = target_class(learned[layout.LABELS.name][z], learned[layout.SEPARATION_BORDER.name][z])
        else:
            classes = target[z]
        return np.isin(classes, numbers)

    found = {
        z: metrics.reliability(cells(z), probability[z], ignore=ignored_pixels(ignore, z)) for z in sections
    }
    of_sections = [(z, *row) for z, own in found.items() for row in own.scores().items()]
    volume = reduce(add, found.values())
    return volume.scores() | volume.to_rows(), of_sections


def _class_scores(
    truth: h5py.File, predicted: h5py.File, sections: Iterable[int]
) -> tuple[dict[str, float], list[tuple[int, str, float]]]:
    """Return scores and confusion matrix of the classes, and the scores of each of `sections`.

    Both are empty if the classes are background and cell.
    """
    if layout.TARGET.name not in truth or layout.CLASS_PROBABILITY.name not in predicted:
        return {}, []
    target, probability = truth[layout.TARGET.name], predicted[layout.CLASS_PROBABILITY.name]
    names, _ = layout.classes_of(target)
    if (found := layout.classes_of(probability)[0]) != names:
        raise InputError(
            f"{predicted.filename}: classes {', '.join(found)}, but {truth.filename} has {', '.join(names)}. "
            "Delete the prediction and run the workflow again."
        )
    ignore, most_probable = truth.get(layout.IGNORE.name), ClassMap(probability)
    confusions = {
        z: metrics.class_confusion(
            target[z], most_probable[z], len(names), ignore=None if ignore is None else ignore[z]
        )
        for z in sections
    }
    confusion = sum(confusions.values(), start=np.zeros(2 * [len(names)], np.int64))
    of_sections = [
        (z, metric, value)
        for z, own in confusions.items()
        for metric, value in metrics.class_scores(own, names).items()
    ]
    return _class_rows(confusion, names), of_sections


def _box_scores(
    truth: h5py.File, predicted: h5py.File, labels: Stored
) -> tuple[dict[str, float], list[tuple[int, str, float]]]:
    """Return the scores of the instances as boxes, and those of each section.

    Instances are restricted to annotated pixels. Both are empty if the prediction does not have the classes
    of the objects.
    """
    objects, (_, cells) = BoxTruth.of(truth), layout.classes_of(truth[layout.BOX_CLASS.name])
    found = instances_as_found(truth, predicted, labels)
    if found is None:
        return {}, []
    matches = [objects.matches(z, found(z), [*SIZES.values()]) for z in range(labels.shape[0])]
    return score_boxes(matches, 0.0, cells)


def _class_rows(confusion: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return the scores of a confusion matrix, and its numbers as `confusion_TRUE_PREDICTED`."""
    matrix = {
        f"confusion_{names[row]}_{names[column]}": float(count)
        for (row, column), count in np.ndenumerate(confusion)
    }
    return metrics.class_scores(confusion, names) | matrix


def collect_scores(
    scores: Sequence[str | Path], output: str | Path, columns: Sequence[str] = COLUMNS
) -> None:
    """Concatenate the score tables of all volumes into one file, without changing any digit.

    Parameters
    ----------
    scores : sequence of str or Path
        CSV files written by `evaluate`, in the order of the rows to write.
    output : str or Path
        CSV file to write.
    columns : sequence of str, default scores.COLUMNS
        Columns of all tables, `scores.SECTION_COLUMNS` for those of the sections, `CAUSE_COLUMNS` for those
        of the causes of errors.

    Raises
    ------
    InputError
        If a table has other columns.
    """
    with (
        provenance.making("collect_scores", [output], scores),
        replacing(output) as temporary,
        open(temporary, "wb") as file,
    ):
        header = ",".join(columns).encode() + b"\n"
        file.write(header)
        for path in scores:
            found, _, rows = Path(path).read_bytes().partition(b"\n")
            if found + b"\n" != header:
                raise InputError(
                    f"{path}: columns {found.decode(errors='replace')}, expected {','.join(columns)}. "
                    "Another version of bordure wrote it. Delete it and run the workflow again."
                )
            file.write(rows)


def measure_spread(scores: str | Path, postprocessings: Sequence[str | Path], output: str | Path) -> None:
    """Measure how scores vary between trainings of one network that differ only in the seed.

    Each training is scored at its own threshold. The score of a split is the mean over its volumes.

    Parameters
    ----------
    scores : str or Path
        CSV file of all scores, written by `collect_scores`.
    postprocessings : sequence of str or Path
        JSON files with the threshold of each training, of segmentations or of detections. A file is named
        after its model, as in the column `network` of `scores`.
    output : str or Path
        CSV file to write, with the columns `scores.SPREAD_COLUMNS`.

    Raises
    ------
    InputError
        If an input is missing or damaged.
    """
    with provenance.making("measure_spread", [output], [scores, *postprocessings]):
        chosen = {Path(path).stem: read_threshold(path) for path in postprocessings}
        table = spread(at_chosen_threshold(read_scores(scores), chosen))
        with replacing(output) as temporary:
            table.to_csv(temporary, index=False)
    logger.info("%s: spread of the scores over %d seeds", output, len(chosen))


def pair_predictions(
    truth: str | Path, predictions: Sequence[str | Path], *, images: bool = False
) -> list[tuple[Path, Path]]:
    """Return the annotation of each prediction.

    Parameters
    ----------
    truth : str or Path
        Annotation, or folder or pattern of annotations.
    predictions : sequence of str or Path
        One prediction, which belongs to `truth` as a whole, or several.
    images : bool, default False
        Whether the files of folders and patterns are single images instead of the sections of a stack.

    Returns
    -------
    list of (Path, Path)
        Annotation and prediction. Several predictions are paired with the files of the folder `truth` by
        their names, see `imageio.matching_slices`; if `truth` is a file, it belongs to each of them.

    Raises
    ------
    InputError
        If the names do not pair each prediction with one annotation.
    """

    def files_of(path: str | Path) -> list[Path]:
        return box_files(path) if are_boxes(path) else imageio.slice_files(path)

    found = [
        file
        for path in predictions
        for file in (files_of(path) if images and imageio.are_slices(path) else [Path(path)])
    ]
    if not imageio.are_slices(truth) or (len(found) == 1 and not images):
        return [(Path(truth), prediction) for prediction in found]
    truths = files_of(truth)
    places = pair_files(found, truths)
    if alone := [path.name for place, path in enumerate(found) if place not in places]:
        raise InputError(
            f"{truth}: none of its {len(truths)} files belongs by name to {', '.join(alone[:6])}"
            f"{' ...' * (len(alone) > 6)}. Name only files that belong together, for example with patterns "
            "in quotes."
        )
    if left := [path.name for place, path in enumerate(truths) if place not in places.values()]:
        logger.warning(
            "%s: %d of %d annotations have no prediction and are not scored: %s%s",
            truth,
            len(left),
            len(truths),
            ", ".join(left[:6]),
            " ..." if len(left) > 6 else "",
        )
    return [(truths[places[place]], path) for place, path in enumerate(found)]


def score_files(
    truth: str | Path,
    prediction: str | Path,
    *,
    sections: str = "",
    pairing: str = "names",
    annotation_kind: str = "auto",
    classes: Mapping[str, int | Sequence[int]] | None = None,
    background: int = 0,
    ignore: int | None = None,
    ignore_mask: str | Path | None = None,
    relabel: bool = False,
    empty_sections: str = "ask",
    prediction_kind: str = "auto",
    prediction_background: Sequence[int] = (),
    highest: float | None = None,
    channel: int | None = None,
    box_coordinates: str | None = None,
    prediction_coordinates: str | None = None,
    score: float | None = None,
    show: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Score a probability map, labels or boxes against an annotation, both read from files of any tool.

    For the challenge's scores, touching cells of the annotation are separated by a border of 2 px, as the
    workflow does by default. The instance scores use the labels as they are. If one of the two is a file of
    boxes, the boxes around the objects are compared.

    Parameters
    ----------
    truth : str or Path
        Annotation, (z, y, x) or (y, x), in any form that `imageio` reads, also `file.h5:/dataset`; or boxes
        in any form that `imageio.boxes` reads.
    prediction : str or Path
        Prediction of the same shape: the probability that a pixel is inside a cell, 0 to 1, or uint8 from 0
        to 255; or instance labels, 0 = background; or boxes. Boxes are not compared with a probability map.
    sections : str, default ""
        Sections to score, for example `0-9,12`. Empty means all.
    pairing : {"names", "order"}, default "names"
        How the files of two folders are paired, see `imageio.matching_slices`.
    annotation_kind : str, default "auto"
        What the annotation contains, one of `imageio.ANNOTATION_KINDS`.
    classes : mapping of str to int or list of int, optional
        Values of each class in an annotation of classes, see `imageio.open_annotation`.
    background : int, default 0
        Value of the background in an annotation with instance labels.
    ignore : int, optional
        Value in the annotation that means "not annotated". These pixels are left out of all scores.
    ignore_mask : str or Path, optional
        Image of the same size whose pixels other than 0 are not annotated.
    relabel : bool, default False
        Whether each connected area of an instance label is a separate cell.
    empty_sections : {"ask", "background", "ignore"}, default "ask"
        Meaning of sections without cells in an annotation that has cells in other sections: an error,
        sections that show no cells, or sections that are not annotated.
    prediction_kind : str, default "auto"
        What the prediction contains, one of `imageio.PREDICTION_KINDS`.
    prediction_background : sequence of int, default ()
        Values of the background in labels and classes; 0 if there are none.
    highest : float, optional
        Value in a probability map that means 1: by default 1 for floats and 255 for uint8.
    channel : int, optional
        Channel of the prediction, from 0. Needed if it has several.
    box_coordinates, prediction_coordinates : str, optional
        What the corners of boxes of the annotation and of the prediction are, see
        `imageio.boxes.read_boxes`.
    score : float, optional
        Smallest score of a box that is kept, for boxes. By default all are kept.
    show : callable, default print
        Function that shows what was inferred about each file, a line of text.

    Returns
    -------
    pandas.DataFrame
        Columns `metric`, `threshold` and `value`. For a probability map every score at every threshold of the
        challenge (`metrics.isbi_scores`), for labels those of `metrics.instance_scores`, with NaN as
        threshold. If both kinds are "classes" and the values of the prediction have the same meaning, the
        last rows are `metrics.class_scores` and the confusion matrix, as in `evaluate`.

        For boxes those of `tasks.detection.scores.score_boxes` of all images together, with the smallest
        score as threshold, or NaN if all are kept; if boxes have different scores, also the scores that
        depend on the threshold, at the one with the best F1.

    Raises
    ------
    InputError
        If a file cannot be read, if the shapes differ, if the meaning of a file is not clear, or if the
        values cannot be scored.
    """
    import pandas as pd

    boxes = are_boxes(truth), are_boxes(prediction)
    of_annotation = {
        "annotation-kind": annotation_kind != "auto",
        "classes": classes,
        "background": background,
        "ignore": ignore is not None,
        "ignore-mask": ignore_mask,
        "relabel": relabel,
    }
    of_prediction = {
        "prediction": prediction_kind != "auto",
        "prediction-background": prediction_background,
        "highest": highest is not None,
        "channel": channel is not None,
    }
    corners_of_annotation = {"box-coordinates": box_coordinates}
    corners_of_prediction = {"prediction-coordinates": prediction_coordinates}
    _refuse_options(truth, boxes=boxes[0], of_images=of_annotation, of_boxes=corners_of_annotation)
    _refuse_options(prediction, boxes=boxes[1], of_images=of_prediction, of_boxes=corners_of_prediction)
    annotated: imageio.AnnotationSettings = {
        "sections": sections,
        "kind": annotation_kind,
        "classes": classes,
        "background": background,
        "ignore": ignore,
        "ignore_mask": ignore_mask,
        "relabel": relabel,
    }
    predicted_as: Json = {
        "sections": sections,
        "kind": prediction_kind,
        "background": prediction_background,
        "highest": highest,
        "channel": channel,
    }
    if any(boxes):
        corners = box_coordinates, prediction_coordinates
        true, found, ignored = _read_boxes(
            truth, prediction, annotated, predicted_as, empty_sections, corners, show
        )
        matches, names, notes = match_sections(true, found, (truth, prediction), ignored)
        for note in notes:
            show(f"{prediction}: {note}")
        return _table_of_boxes(matches, names, score)
    _refuse_options(prediction, boxes=False, of_images={}, of_boxes={"score": score is not None})
    paths = [prediction, truth, *([ignore_mask] if ignore_mask else [])]
    info, of_truth, *_ = imageio.inspect_apart(paths, _HEADERS_GB)

    def paired(path: str | Path) -> list[Path | None] | None:
        return imageio.matching_slices(str(prediction), str(path), pairing, sections)

    annotated |= {
        "masks": info.sections == 1 < of_truth.sections,
        "slices": paired(truth),
        "mask_slices": paired(ignore_mask) if ignore_mask else None,
    }
    annotation = _read_annotation(truth, annotated, show)
    predicted = imageio.read_prediction(prediction, **predicted_as)
    labels = annotation.labels
    if labels.shape != predicted.array.shape:
        raise InputError(
            f"{prediction}: shape (z, y, x) {predicted.array.shape}, but {truth} has {labels.shape}. Both "
            "must show the same sections at the same size."
        )
    show(f"{prediction}: {predicted.description}")
    numbers = imageio.parse_sections(sections, info.sections)
    ignored = _with_empty_sections(truth, annotation, numbers, empty_sections)
    if predicted.kind == "labels":
        scores = metrics.instance_scores(labels, predicted.array, ignore=ignored)
        rows = [(metric, float("nan"), value) for metric, value in scores.items()]
        return pd.DataFrame(rows, columns=["metric", "threshold", "value"])
    cells = np.stack([cells_apart(own, separation_border(own, BORDER_WIDTH)) for own in labels])
    progress = partial(tqdm, total=len(cells), unit="section", leave=False, disable=None)  # for a terminal
    found = metrics.isbi_scores(cells, predicted.array, labels=labels, ignore=ignored, progress=progress)
    if prediction_kind == annotation_kind == "classes":
        for metric, value in _compare_class_maps(truth, prediction, annotated, ignored).items():
            found.loc[len(found)] = metric, float("nan"), value
    return found


def _refuse_options(
    path: str | Path, *, boxes: bool, of_images: Mapping[str, object], of_boxes: Mapping[str, object]
) -> None:
    """Raise `InputError` if an option is given that has no effect on the kind of a file."""
    options = of_images if boxes else of_boxes
    if unused := ", ".join(f"`--{option}`" for option, given in options.items() if given):
        found, other = ("boxes", "images") if boxes else ("an image", "boxes")
        raise InputError(f"{path}: found {found}; {unused} can only be used with {other}. Leave this out.")


def _read_boxes(
    truth: str | Path,
    prediction: str | Path,
    annotated: imageio.AnnotationSettings,
    predicted: Json,
    empty_sections: str,
    corners: tuple[str | None, str | None],
    show: Callable[[str], object],
) -> tuple[list[SectionBoxes], list[SectionBoxes], np.ndarray | None]:
    """Return the boxes of each section of an annotation and a prediction, and the ignored pixels.

    One of the two can be labels.
    """
    sections = annotated["sections"]
    if are_boxes(truth) and are_boxes(prediction):
        true, found, notes = read_pair(
            truth,
            prediction,
            sections=sections,
            empty_sections=empty_sections,
            coordinates=corners[0],
            prediction_coordinates=corners[1],
        )
        show(f"{truth} and {prediction}: {'; '.join(notes)}")
        return true, found, None
    image = prediction if are_boxes(truth) else truth
    [info] = imageio.inspect_apart([image], _HEADERS_GB)
    images = imageio.slice_files(image) if imageio.are_slices(image) else [image]
    images = images if len(images) == info.sections else [image]
    shape = info.sections, info.height, info.width
    if are_boxes(truth):
        read = read_boxes(
            truth,
            images,
            shape,
            sections=sections,
            empty_sections=empty_sections,
            coordinates=corners[0],
        )
        show(f"{truth}: {'; '.join(read.notes)}")
        labels = imageio.read_prediction(prediction, **predicted)
        if labels.kind != "labels":
            raise InputError(
                f"{prediction}: found {labels.description}, but boxes are compared with those of labels. If "
                "each value is one object, add `--prediction labels`."
            )
        show(f"{prediction}: {labels.description}")
        return read.sections, boxes_of_labels(labels.array), None
    annotation = _read_annotation(truth, annotated, show)
    found, notes = read_predicted(prediction, images, shape, sections=sections, coordinates=corners[1])
    show(f"{prediction}: {'; '.join(notes)}")
    numbers = imageio.parse_sections(sections, info.sections)
    ignored = _with_empty_sections(truth, annotation, numbers, empty_sections)
    return boxes_of_labels(annotation.labels, ignored), found, ignored


def _read_annotation(
    truth: str | Path, annotated: imageio.AnnotationSettings, show: Callable[[str], object]
) -> imageio.Annotation:
    """Read an annotation, and show how it was understood and what is doubtful."""
    annotation = imageio.read_annotation(truth, **annotated)
    show(f"{truth}: {annotation.description}")
    for doubt in annotation.doubts:
        logger.warning("%s: %s", truth, doubt["text"])
    return annotation


def _table_of_boxes(
    matches: Sequence[metrics.BoxMatches], classes: Sequence[str], score: float | None
) -> pd.DataFrame:
    """Return the scores of boxes with at least a score, and some of them at the score with the best F1."""
    import pandas as pd

    scores, _ = score_boxes(matches, -np.inf if score is None else score, classes)
    rows = [(metric, np.nan if score is None else score, value) for metric, value in scores.items()]
    pooled = metrics.pooled_matches(matches)
    best, _ = pooled.curve().best_f1()
    if np.isfinite(best) and len(np.unique(pooled.score)) > 1:
        at_best = metrics.detection_scores(pooled, best)
        rows += [(metric, best, at_best[metric]) for metric in _OF_KEPT]
    return pd.DataFrame(rows, columns=["metric", "threshold", "value"])


def _compare_class_maps(
    truth: str | Path,
    prediction: str | Path,
    described: imageio.AnnotationSettings,
    ignored: np.ndarray | None,
) -> dict[str, float]:
    """Return scores and confusion matrix of a map with the classes of the annotation; nothing of another."""
    names = Classes.chosen({"target": "classes", "classes": described["classes"]}).names
    settings: imageio.AnnotationSettings = {
        "sections": described["sections"],
        "kind": "classes",
        "classes": described["classes"],
    }
    with ExitStack() as stack:
        maps = [stack.enter_context(imageio.open_annotation(truth, **described))]
        try:
            maps.append(stack.enter_context(imageio.open_annotation(prediction, **settings)))
        except InputError:  # some value has no class
            logger.warning("%s: has other values than `classes`, so only its cells are scored", prediction)
            return {}

        def read(regions: imageio.AnnotationRegions, z: int) -> np.ndarray:
            found = regions.read(z, slice(None), slice(None))
            return np.where(found == BORDER, len(names) - 1, found)

        true, found = (Sections(own.shape, np.uint8, partial(read, own)) for own in maps)
        return _class_rows(metrics.class_confusion(true, found, len(names), ignore=ignored), names)


def _with_empty_sections(
    truth: str | Path, annotation: imageio.Annotation, numbers: Sequence[int], empty_sections: str
) -> np.ndarray | None:
    """Return the ignored pixels, with those of sections without cells if these are to be ignored."""
    ignored, labels = annotation.ignore, annotation.labels
    empty = [z for z, own in enumerate(labels) if not own.any() and (ignored is None or not ignored[z].all())]
    listed = [numbers[z] for z in empty]
    any_cells, blank = bool(labels.any()), bool(annotation.blank)
    if empty_are_ignored(truth, listed, len(labels), any_cells, empty_sections, blank=blank):
        ignored = np.zeros(labels.shape, bool) if ignored is None else ignored
        ignored[empty] = True
    return ignored
