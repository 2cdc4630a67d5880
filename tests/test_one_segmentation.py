"""Test that TIFF files, scores and pictures all use the stored labels and show the same number of cells."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from pipeline_lib import layout, metrics, provenance
from pipeline_lib.data.labels import separation_border
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.evaluation import evaluate
from pipeline_lib.stages.postprocessing import choose_postprocessing
from pipeline_lib.stages.segmentation import segment, write_tiffs
from tests.box_datasets import add_boxes
from tests.layer_pictures import cells_of, layers_of

SIDE = 60


def square(top, left, side):
    return slice(top, top + side), slice(left, left + side)


LARGE, SMALL, UNSEEN = square(5, 5, 20), square(35, 5, 3), square(40, 40, 10)


def write_volume(folder, labels, probability):
    """Write one section with and without its annotation, and a prediction of it."""
    for name in ("dataset.h5", "unannotated.h5"):
        with layout.create(folder / name, {}) as file:
            layout.add(file, layout.RAW, (1, 1, *labels.shape), "uint8")[0, 0] = 200 * probability
            if name == "dataset.h5":
                layout.add(file, layout.LABELS, (1, *labels.shape))[0] = labels
                border = layout.add(file, layout.SEPARATION_BORDER, (1, *labels.shape))
                border[0] = separation_border(labels, 2)
                add_boxes(file, labels[None])
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, (1, *labels.shape))[0] = probability
    return folder


def make_labels(folder, minimum_size=0):
    """Choose the threshold and segment, as the workflow does."""
    dataset, prediction, postprocessing = (
        folder / name for name in ("dataset.h5", "prediction.h5", "unet.json")
    )
    choose_postprocessing([dataset], [prediction], postprocessing, criterion="seg", minimum_size=minimum_size)
    segment(prediction, postprocessing, folder / "segmentation.h5")


def replace_labels(folder, labels):
    """Replace the stored labels by others (y, x), as another method or an editor would."""
    with layout.create(folder / "segmentation.h5", {}) as file:
        layout.add(file, layout.LABELS, (1, *labels.shape))[0] = labels
    provenance.record_path(folder / "segmentation.h5").unlink()


def read_all(folder):
    """Make all files that are made from the labels, and return their contents."""
    prediction, labels, postprocessing = (
        folder / name for name in ("prediction.h5", "segmentation.h5", "unet.json")
    )
    made_from = prediction, labels, postprocessing
    named = {"volume": "v", "split": "test"}
    write_tiffs(labels, prediction, folder / "labels.tif", folder / "p.tif")
    tables = folder / "scores.csv", folder / "sections.csv"
    evaluate(folder / "dataset.h5", *made_from, *tables, network="unet", **named)
    layers = {
        name: read_json(layers_of(folder, f"{name}.h5", f"{name}.json"))
        for name in ("dataset", "unannotated")
    }
    scores = pd.read_csv(folder / "scores.csv", float_precision="round_trip")
    chosen = read_json(postprocessing)["threshold"]
    with layout.require(labels, layout.LABELS) as file:
        stored = file["labels"][0]
    (tiff,) = tifffile.imread(folder / "labels.tif")
    np.testing.assert_array_equal(tiff, stored)
    (section,) = layers["dataset"]["shown"]
    errors: dict[str, list[int]] = {}
    for error in section["errors"]:
        errors.setdefault(error["cause"].partition("_")[0], []).append(error["pixels"])
    return {
        "labels": stored,
        "scores": scores[scores.threshold == chosen].set_index("metric").value,
        "layers": layers,
        "errors": errors,
    }


def count_shown(layers):
    """Count the cells in the picture of the cells found, which must be those of the table."""
    (section,) = layers["shown"]
    numbers = np.unique(cells_of(section["layers"]["cells"], section["cells_bits"]))
    assert numbers[numbers > 0].tolist() == [*range(1, len(section["found_cells"]["label"]) + 1)]
    return np.count_nonzero(numbers)


def count_cells(folder, true_cells):
    """Return the number of cells in each file, if predicted cells match true cells exactly or not at all."""
    shown = read_all(folder)
    scores = shown["scores"]
    matches = round(scores["seg"] * true_cells)
    errors, layers = shown["errors"], shown["layers"]
    return {
        "HDF5 and TIFF": np.count_nonzero(np.unique(shown["labels"])),
        "cells found": int(scores["cells_found"]),
        # TP / (truth + predicted - TP), and 2 sum(IoU) / (truth + predicted)
        "average precision": round(matches / scores["average_precision_50"]) - true_cells + matches,
        "panoptic quality": round(2 * matches / scores["panoptic_quality"]) - true_cells,
        "viewer": count_shown(layers["dataset"]),
        "viewer, unannotated": count_shown(layers["unannotated"]),
        "table of the viewer": len(layers["dataset"]["shown"][0]["found_cells"]["label"]),
        "sizes": sum(layers["unannotated"]["diameters"]["found"]),
        "errors": true_cells + len(errors.get("false", [])) - len(errors.get("missed", [])),
    }


@pytest.fixture
def blobs(tmp_path):
    """The prediction has a cell of 400 px and a false one of 9 px, and misses another cell."""
    labels, probability = np.zeros((SIDE, SIDE), np.uint32), np.full((SIDE, SIDE), 0.1, np.float32)
    labels[LARGE], labels[UNSEEN] = 1, 2
    probability[LARGE], probability[SMALL] = 0.9, 0.8
    return write_volume(tmp_path, labels, probability)


@pytest.mark.parametrize(("minimum_size", "cells"), [(0, 2), (9, 2), (10, 1), (20, 1), (400, 1)])
def test_all_files_show_the_same_number_of_cells(blobs, minimum_size, cells):
    make_labels(blobs, minimum_size)
    found = count_cells(blobs, true_cells=2)
    assert found == dict.fromkeys(found, cells)


@pytest.mark.parametrize(("minimum_size", "seg"), [(0, 1), (20, 1 / 2)])
def test_threshold_is_chosen_by_the_score_of_the_same_instances(blobs, minimum_size, seg):
    with layout.require(blobs / "prediction.h5") as file:
        probability = file["cell_probability"][0]
    labels = np.zeros((SIDE, SIDE), np.uint32)
    labels[LARGE], labels[SMALL] = 1, 2
    write_volume(blobs, labels, probability)
    make_labels(blobs, minimum_size)
    chosen = read_json(blobs / "unet.json")
    at = dict(zip(chosen["grid"], chosen["value"], strict=True))
    assert at[chosen["threshold"]] == read_all(blobs)["scores"]["seg"] == seg


def test_at_other_thresholds_the_same_post_processing_is_scored(blobs):
    """Only the chosen threshold has stored labels. The object of 9 px is removed if it is too small."""
    for minimum_size, average_precision in ((0, 1 / 3), (20, 1 / 2)):
        make_labels(blobs, minimum_size)
        read_all(blobs)
        scores = pd.read_csv(blobs / "scores.csv", float_precision="round_trip")
        table = scores.pivot(index="threshold", columns="metric", values="value")
        for threshold in metrics.CHALLENGE_THRESHOLDS[2:8]:
            assert table.average_precision_50[threshold] == average_precision


def test_scores_and_pictures_use_stored_labels_of_another_method(tmp_path):
    """The prediction merges two cells. Another method separates them, although they touch."""
    labels, probability = np.zeros((SIDE, SIDE), np.uint32), np.full((SIDE, SIDE), 0.1, np.float32)
    labels[10:50, 10:30], labels[10:50, 30:50] = 1, 2
    probability[labels > 0] = 0.9
    write_volume(tmp_path, labels, probability)
    make_labels(tmp_path)
    before = read_all(tmp_path)
    assert len(np.unique(before["labels"])) == 2 and before["scores"]["seg"] == 0.5
    assert before["errors"] == {"merged": [20 * 40]}
    assert count_shown(before["layers"]["unannotated"]) == 1

    replace_labels(tmp_path, np.where(labels, labels + 70_000, 0))
    after = read_all(tmp_path)
    assert after["scores"][[*metrics.INSTANCE_METRICS]].eq(1).all()
    assert after["errors"] == {}
    assert count_shown(after["layers"]["dataset"]) == count_shown(after["layers"]["unannotated"]) == 2
    assert after["layers"]["dataset"]["shown"][0]["found_cells"]["label"] == [70_001, 70_002]
    of_labels = {*metrics.INSTANCE_METRICS, *metrics.CELL_COUNTS}
    of_labels |= {*before["scores"].filter(regex="box|voc_|froc|count_").index}
    others = [name for name in before["scores"].index if name not in of_labels]
    assert after["scores"][others].equals(before["scores"][others])  # of the probability map
    assert after["scores"]["rand_error"] > 0.3


def test_cell_removed_from_the_file_is_missing_everywhere(blobs):
    make_labels(blobs)
    labels = np.zeros((SIDE, SIDE), np.uint32)
    labels[SMALL] = 3
    replace_labels(blobs, labels)
    shown = read_all(blobs)
    assert shown["scores"]["seg"] == shown["scores"]["iou"] == 0
    assert shown["scores"]["pixel_error"] == pytest.approx(1 - 2 * 400 / (500 + 409))  # of the map
    assert shown["errors"].keys() == {"missed", "false"}
    assert len(shown["errors"]["missed"]) == 2 and shown["errors"]["false"] == [9]
    assert count_shown(shown["layers"]["unannotated"]) == 1


def test_segmentation_of_another_volume_is_rejected(blobs):
    make_labels(blobs)
    replace_labels(blobs, np.zeros((SIDE, SIDE - 1), np.uint32))
    made_from = [blobs / name for name in ("prediction.h5", "segmentation.h5", "unet.json", "out")]
    named = {"volume": "v", "split": "test"}
    with pytest.raises(InputError, match=r"segmentation\.h5: shape \(1, 60, 59\), but .* has \(1, 60, 60\)"):
        evaluate(blobs / "dataset.h5", *made_from, blobs / "sections.csv", network="unet", **named)
    with pytest.raises(InputError, match=r"segmentation\.h5: shape \(1, 60, 59\), but .* has \(1, 60, 60\)"):
        layers_of(blobs)
