"""The report of a detector says what was found, in the numbers of the table of scores and of the pictures."""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline_lib import figures, metrics, networks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.figures.charts import VALIDATED, training_chart
from pipeline_lib.networks.model import Model
from pipeline_lib.pages import digits
from pipeline_lib.pages.scores import BOX_SCORES
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.stages.detection import CRITERIA
from pipeline_lib.stages.detection_figures import draw_detection_charts, prepare_detection_layers
from pipeline_lib.stages.pictures import draw_training
from pipeline_lib.stages.report import Contents, mean_scores, score_line, write_report
from pipeline_lib.tasks.detection.scores import matched_sections
from tests.test_detection_figures import THRESHOLD, perturbed
from tests.test_detection_figures import write as write_volume
from tests.test_report import Page, texts

VOLUMES = {"test-0": "test", "test-1": "test", "validation-0": "validation", "train-0": "train"}
SETTINGS = {
    "seed": 7,
    "seeds": [],
    "network": {"name": "ssd"},
    "training": {
        "tile": 220,
        "batch": 2,
        "iterations": 100,
        "best_by": "box_ap_50",
        "optimizer": "adamw",
        "learning_rate": 0.001,
        "decay": "linear",
    },
    "prediction": {"average_orientations": False},
    "augmentation": dict.fromkeys(("elastic_std", "gain", "offset", "gamma", "noise"), 0.0)
    | {"rotate": True, "mirror": False},
}
HISTORY = pd.DataFrame(
    {
        "iteration": [50, 100],
        "training_loss": [3.0, 2.0],
        "validation_loss": [3.5, 2.5],
        "validation_box_ap_50": [0.3, 0.7],
        "validation_box_ap": [0.1, 0.4],
        "learning_rate": [1e-3, 0.0],
    }
)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Detections of drawn boxes with their sections, and the scores of a detector and of two baselines."""
    folder = tmp_path_factory.mktemp("case")
    rng = np.random.default_rng(0)
    rows, files = [], {}
    for name, split in VOLUMES.items():
        files[name] = write_volume(folder, [perturbed(rng) for _ in range(2)], name=name) | {"split": split}
        prepare_detection_layers(
            **files[name],
            postprocessing=folder / "ssd.json",
            output=folder / f"layers/{name}.json",
            volume=name,
            network="ssd",
            pixels=10**6,
        )
        if split != "train":
            matches = [*matched_sections(folder / f"{name}.h5", folder / f"{name}_found.h5")]
            scores = metrics.detection_scores(metrics.pooled_matches(matches), THRESHOLD)
            scores |= {"box_precision": rng.random(), "box_recall": rng.random()}
            for network, factor in (("ssd", 1.0), ("smoothed_raw", 0.5)):
                for metric, value in scores.items():
                    value *= factor if metric.startswith("box_") else 1
                    rows.append((split, name, network, metric, THRESHOLD, value))
            rows.append((split, name, "constant", "seg", 0.5, 0.1))  # has no scores of boxes
    columns = ["split", "volume", "network", "metric", "threshold", "value"]
    table = pd.DataFrame(rows, columns=columns)
    held_out = [own for own in files.values() if own["split"] != "train"]
    draw_detection_charts(held_out, folder / "ssd.json", folder / "curves.svg", folder / "counts.svg")
    chosen = {"threshold": THRESHOLD, "criterion": "box_f1", "value": 0.75, "grid": [0.9, 0.5]}
    write_json(folder / "ssd.json", chosen)
    for name in ("constant", "smoothed_raw"):
        write_json(folder / f"{name}.json", chosen | {"criterion": "v_rand_thin", "value": [0.1, 0.2]})
    HISTORY.to_csv(folder / "history.csv", index=False)
    draw_training(folder / "history.csv", folder / "training.svg")
    write_json(folder / "statistics.json", {"class_frequencies": [0.75, 0.25]})
    write_json(folder / "check.json", {"doubts": []})
    write_json(folder / "boxes.json", {"sizes": [8.5, 12.0], "covered": 0.968, "objects": 340})
    plan = networks.plan(
        "ssd", channels=[4, 4, 4], convolutions=1, heads=2, aspect_ratios=[1.0], sizes=[8.0, 9.0, 12.0, 20.0]
    )
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    environment = {"torch": "2.0", "device": "cpu", "precision": "float32", "threads": 1}
    provenance = {"version": "1.2.3", "inputs": {}, "best_iteration": 100, "environment": environment}
    model = Model(plan, plan.build(), normalisation, provenance, classes=("background", "cell"))
    model.save(folder / "model.pt")
    return folder, table


def write(case, table=None, boxes="boxes.json", settings=SETTINGS, spread=()):
    folder, scores = case
    scores = scores if table is None else table
    scores.to_csv(folder / "scores.csv", index=False)
    contents = Contents(
        title="Discs",
        network="ssd",
        settings=settings,
        volumes=[
            {"volume": name, "split": split, "sections": "", "images": "a.tif", "annotation": "b.tif"}
            for name, split in VOLUMES.items()
        ],
        scores=folder / "scores.csv",
        spread=spread,
        history=folder / "history.csv",
        model=folder / "model.pt",
        postprocessing=[folder / f"{name}.json" for name in ("ssd", "constant", "smoothed_raw")],
        statistics=folder / "statistics.json",
        check=folder / "check.json",
        layers=[folder / f"layers/{name}.json" for name in VOLUMES],
        training_figure=folder / "training.svg",
        thresholds_figure=folder / "curves.svg",
        counts_figure=folder / "counts.svg",
        boxes=folder / boxes,
    )
    write_report(contents, folder / "report.html", folder / "warnings.json")
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(case):
    return write(case)


def sums(table, split):
    own = table[(table.split == split) & (table.network == "ssd")]
    return own.groupby("metric").value.sum()


def test_the_first_lines_say_what_was_found(case, page):
    lead = re.sub("<[^>]*>", "", " ".join(re.search('<p class="lead">(.*?)</p>', page, re.S)[1].split()))
    counts = sums(case[1], "test")
    annotated, found, matched = (int(counts[name]) for name in metrics.BOX_COUNTS)
    assert annotated == 68 and found < annotated
    ap = counts.box_ap_50 / 2
    assert lead == (
        f"On the test split (2 volumes), ssd found {matched} of {annotated} annotated cells, with "
        f"{found - matched} false detections. It counts {found} cells, {100 - 100 * found / annotated:.1f} % "
        f"fewer than annotated. Its box AP at 0.5 is {digits(ap)} (1 is perfect). For comparison: a "
        f"threshold of the smoothed raw image has {digits(ap / 2)}."
    )
    text = " ".join(Page(page).text.split())
    assert f"Cells found {matched} of {annotated} annotated" in text
    assert f"False detections {found - matched} of {found} detections" in text


def test_objects_of_other_classes_are_not_called_cells(case):
    folder, _ = case
    before = (folder / "model.pt").read_bytes()
    model = Model.load(folder / "model.pt")
    model.classes = ("background", "mitosis")
    model.save(folder / "model.pt")
    text = " ".join(Page(write(case)).text.split())
    (folder / "model.pt").write_bytes(before)
    assert "of 68 annotated objects, with" in text
    assert "cells" not in text.partition("Data, settings and software")[0].replace("Check", "")


def test_the_share_of_pixels_in_cells_is_left_out_if_the_annotation_has_boxes(case, page):
    folder, _ = case
    assert "25.0 % of the training pixels are inside cells." in page
    before = (folder / "statistics.json").read_bytes()
    write_json(folder / "statistics.json", {})
    without = write(case)
    (folder / "statistics.json").write_bytes(before)
    assert "of the training pixels" not in without


@pytest.mark.parametrize("found", [67, 68, 69])
def test_the_number_of_detections_is_compared_in_words(case, found):
    table = case[1].copy()
    own = (table.network == "ssd") & (table.metric == "boxes_found") & (table.split == "test")
    table.loc[own, "value"] = [found - 30.0, 30.0]
    words = {
        67: "1.5 % fewer than annotated",
        68: "as many as are annotated",
        69: "1.5 % more than annotated",
    }
    assert f"It counts {found} cells, {words[found]}." in " ".join(write(case, table).split())


def test_scores_of_boxes_are_shown_for_networks_that_have_them(case, page):
    _, *tables = [table for table in Page(page).tables if table[0][0]["text"] == "score"]
    for split, table in zip(("test", "validation"), tables, strict=True):
        assert [cell["text"] for cell in table[0][1:]] == ["ssd", "smoothed raw"]
        rows = case[1][case[1].split == split]
        means = rows.groupby(["metric", "network"]).value.mean()
        for score, row in zip(BOX_SCORES, table[2:], strict=True):
            assert row[0]["text"].startswith(f"{score.name} {score.direction}")
            values = [float(cell["value"]) for cell in row[1:]]
            assert values == pytest.approx([means[score.metric, name] for name in ("ssd", "smoothed_raw")])
            best = (max if score.more_is_better else min)(values)
            assert [cell["class"] == "best" for cell in row[1:]] == [value == best for value in values]


def test_scores_of_each_volume_are_shown(case, page):
    shown = BOX_SCORES[:-1]  # the relative error has no room
    table = next(t for t in Page(page).tables if [cell["text"] for cell in t[0][:2]] == ["volume", "split"])
    assert [cell["text"].split(" higher")[0].split(" lower")[0] for cell in table[0][2:]] == [
        score.name for score in shown
    ]
    own = case[1][case[1].network == "ssd"].set_index(["volume", "metric"]).value
    for row in table[1:]:
        if not row[0]["text"].startswith("mean"):
            values = [float(cell["value"]) for cell in row[2:]]
            assert values == pytest.approx([own[row[0]["text"], score.metric] for score in shown])


def test_detections_are_counted_for_each_volume(case, page):
    (table,) = (t for t in Page(page).tables if [c["text"] for c in t[0][2:4]] == ["annotated", "detected"])
    assert [cell["text"] for cell in table[0][4:]] == ["found", "missed", "false"]
    own = case[1][case[1].network == "ssd"].set_index(["volume", "metric"]).value
    for row in table[1:]:
        name, _, *counts = (cell["text"] for cell in row)
        if not name.startswith("all"):
            annotated, found, matched = (int(own[name, metric]) for metric in metrics.BOX_COUNTS)
            expected = [annotated, found, matched, annotated - matched, found - matched]
            assert [int(count) for count in counts] == expected


def test_curves_state_the_scores_of_all_sections_together(case, page):
    folder, _ = case
    text = " ".join(Page(page).text.split())
    scores = figures.describe(folder / "curves.svg")["scores"]
    assert (
        f"Its area is the box AP at 0.5: {digits(scores['test']['box_ap_50'])} on the test split, "
        f"{digits(scores['validation']['box_ap_50'])} on the validation split." in text
    )
    assert "This one has the best Box F1 (higher is better) on the validation split" in text
    assert "default boxes of 8.5, 12.0 px. They cover 96.8 % of the 340 training cells" in text


def test_all_boxes_are_in_the_page_once_and_every_reference_has_a_target(case, page):
    folder, _ = case
    elements = Page(page).elements
    volumes = [read_json(folder / f"layers/{name}.json") for name in VOLUMES]
    expected = [
        box
        for volume in volumes
        for section in volume["shown"]
        for layer in ("annotation", "cells")
        for box in section["boxes"][layer]
    ]
    drawn = [a for tag, a in elements if tag == "rect" and a.get("class", "").startswith("box")]
    assert [a["class"].split()[-1] for a in drawn] == [box[4] for box in expected]
    assert [[float(a["x"]), float(a["y"])] for a in drawn] == [box[:2] for box in expected]
    assert sum(a.get("class") == "chart" for tag, a in elements if tag == "div") == 3
    assert sum("data-open" in a for _, a in elements) == 12  # six missed objects and six false detections
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a.get("href", a.get("xlink:href")) for tag, a in elements if tag in ("use", "a")]
    assert set(links) - {"provenance.html", "check.html"} <= {f"#{name}" for name in ids}


def test_nothing_of_segmentations_is_stated(page):
    text = Page(page).text
    for word in ("pixel is part", "V-Rand", "cell probability", "weight map", "warping", "smoothed raw uses"):
        assert word not in text
    assert texts(page)["best_by"] == ["box_ap_50"]


def test_the_same_contents_give_the_same_bytes(case, page):
    assert write(case) == page


def test_warnings_of_detectors_are_shown_and_written(case):
    folder, scores = case
    assert "Warning." not in Page(write(case, counted(scores, 68, 64))).text
    write_json(folder / "few.json", {"sizes": [8.5], "covered": 0.85, "objects": 340})
    # of the 34 objects of the training volume, perhaps 27 are found; here hardly any of the test volumes
    html = write(case, counted(scores, 90, 10), boxes="few.json")
    written = read_json(folder / "warnings.json")["warnings"]
    assert [warning["name"] for warning in written] == [
        "biased_count",
        "worse_than_training",
        "uncovered_objects",
    ]
    assert "90 objects are detected, but 68 are annotated (32% too many)" in written[0]["text"]
    counts = read_json(folder / "layers/train-0.json")["counts"]
    recall = counts["found"] / (counts["found"] + counts["missed"])
    assert f"15% of the annotated objects are found, but {recall:.0%} of those of the" in written[1]["text"]
    text = " ".join(Page(html).text.split())
    assert text.count("Warning.") == 3


def counted(scores, found, matched):
    """A table of scores with other numbers of detections in the test split."""
    table = scores.copy()
    for metric, number in (("boxes_found", found), ("boxes_matched", matched)):
        own = (table.network == "ssd") & (table.metric == metric) & (table.split == "test")
        table.loc[own, "value"] = [number / 2, number / 2]
    return table


def test_the_spread_over_seeds_is_below_the_scores(case, tmp_path):
    row = {"seeds": 2, "mean": 0.61, "standard_deviation": 0.02, "minimum": 0.5, "maximum": 0.7}
    pd.DataFrame(
        [
            {"split": split, "metric": score.metric, **row}
            for split in ("test", "validation")
            for score in BOX_SCORES
        ]
    ).to_csv(tmp_path / "spread.csv", index=False)
    html = write(case, settings=SETTINGS | {"seeds": [8]}, spread=[tmp_path / "spread.csv"])
    assert "(1 is perfect; 0.610 ±\xa00.020 over 2 seeds)" in " ".join(Page(html).text.split(" "))
    table = next(table for table in Page(html).tables if table[0][0]["text"] == "score")
    assert all(row[1]["text"].endswith("0.610 ±\xa00.020") for row in table[2:])


def test_the_last_line_of_a_run_states_criterion_and_ap(case):
    folder, scores = case
    scores.to_csv(folder / "scores.csv", index=False)
    chosen = [folder / f"{name}.json" for name in ("ssd", "constant", "smoothed_raw")]
    means = scores[(scores.split == "test") & (scores.network == "ssd")].groupby("metric").value.mean()
    assert score_line(folder / "scores.csv", chosen, "ssd") == (
        f"Box F1 {means.box_f1:.4f} (best baseline {means.box_f1 / 2:.4f}, higher is better), "
        f"Box AP at 0.5 {means.box_ap_50:.4f} (best baseline {means.box_ap_50 / 2:.4f}, higher is better); "
        "mean of 2 test volumes"
    )


def test_a_table_without_numbers_of_boxes_is_an_error(case):
    table = case[1]
    with pytest.raises(InputError, match=r"scores.csv: has no rows"):
        write(case, table[table.metric != "boxes_matched"])


def test_scores_that_are_not_in_the_table_are_left_out(case):
    table = case[1][case[1].metric != "box_recall"]
    rows = mean_scores(table[(table.split == "test") & (table.network != "constant")], "ssd", BOX_SCORES)[
        "rows"
    ]
    assert [*rows] == [score.metric for score in BOX_SCORES if score.metric != "box_recall"]


def test_every_criterion_of_detectors_is_explained():
    known = {*metrics.DETECTION_METRICS, *metrics.COUNT_ERRORS, "box_precision", "box_recall"}
    assert set(CRITERIA) <= {score.metric for score in BOX_SCORES} <= known
    for score in BOX_SCORES:
        assert score.more_is_better == (score.metric not in metrics.COUNT_ERRORS)


def test_training_charts_show_the_scores_of_the_task():
    axes = training_chart(HISTORY).axes
    assert len(axes) == 4
    for own, column in zip(axes[1:3], ("validation_box_ap_50", "validation_box_ap"), strict=True):
        (line,) = own.get_lines()
        np.testing.assert_array_equal(line.get_ydata(), HISTORY[column])
        assert own.get_title() == VALIDATED[column]


def test_scores_of_masks_that_only_the_validation_split_has(case):
    """Test volumes may be annotated by boxes although the network also predicts masks."""
    table = case[1][case[1].network == "ssd"]
    rows = table[table.metric == "box_ap_50"].assign(metric="seg")
    assert "SEG" in write(case, pd.concat([table, rows[rows.split == "validation"]]))


def test_without_baselines_none_is_said_to_fail(case):
    page = write(case, case[1][case[1].network == "ssd"])
    assert "no baseline" not in page and "best baseline" not in page
