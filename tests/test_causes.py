"""The causes of errors in files: the table of the evaluation stage, and the report."""

import re

import numpy as np
import pandas as pd
import pytest

from pipeline_lib import layout, metrics
from pipeline_lib.data.labels import cells_apart
from pipeline_lib.figures.palette import CAUSE_COLOURS
from pipeline_lib.metrics import CAUSES_OF, Cause
from pipeline_lib.pages.causes import CAUSE_WORDS
from pipeline_lib.pages.scores import SCORES
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.evaluation import CAUSE_COLUMNS, collect_scores, evaluate
from pipeline_lib.stages.report import tabulate_causes
from tests.box_datasets import add_boxes

SIDE = 60
NAMES = {"split": "validation", "network": "unet"}


def write_volume(folder, name, missed, *, ignored=False):
    """Write a volume of two sections with nine cells, and its segmentation without the cells `missed`."""
    labels = np.zeros((2, SIDE, SIDE), np.uint32)
    for number in range(9):
        y, x = (4 + 18 * place for place in divmod(number, 3))
        labels[:, y : y + 14, x : x + 14] = number + 1
    found = np.where(np.isin(labels, missed), 0, labels)
    found[0] = labels[0]
    with layout.create(folder / f"{name}.h5", {}) as file:
        layout.add(file, layout.RAW, (1, *labels.shape), "uint8")[:] = 50 + 100 * (labels > 0)[None]
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = 0
        if ignored:
            layout.add(file, layout.IGNORE, labels.shape)[:, :, :10] = 1
        add_boxes(file, labels)
    with layout.create(folder / f"{name}-probability.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = 0.1 + 0.8 * (found > 0)
    with layout.create(folder / f"{name}-found.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = found
    write_json(folder / "unet.json", {"threshold": 0.5, "minimum_size": 0})
    evaluate(
        folder / f"{name}.h5",
        folder / f"{name}-probability.h5",
        folder / f"{name}-found.h5",
        folder / "unet.json",
        folder / f"{name}.csv",
        folder / f"{name}-sections.csv",
        causes=folder / f"{name}-causes.csv",
        volume=name,
        **NAMES,
    )
    return labels, found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two volumes: one cell is missed in `a`, two in `b`."""
    folder = tmp_path_factory.mktemp("causes")
    write_volume(folder, "a", [5])
    write_volume(folder, "b", [2, 5])
    collect_scores([folder / f"{name}-causes.csv" for name in "ab"], folder / "causes.csv", CAUSE_COLUMNS)
    return folder


def test_the_table_is_that_of_the_stored_labels(folder):
    table = pd.read_csv(folder / "b-causes.csv")
    assert list(table.columns) == CAUSE_COLUMNS
    assert {*table.volume} == {"b"} and {*table.network} == {"unet"} and {*table.split} == {"validation"}
    with layout.require(folder / "b.h5") as truth, layout.require(folder / "b-found.h5") as segmented:
        labels, border = truth["labels"][:], truth["separation_border"][:]
        cells = np.stack([cells_apart(*own) for own in zip(labels, border, strict=True)])
        expected = metrics.error_causes(truth["raw"][:], labels, segmented["labels"][:], cells)
    pd.testing.assert_frame_equal(table[expected.columns], expected, check_dtype=False)
    at = table.set_index("cause")
    assert at.cells["missed_other"] == at.cells["as_found"] == 2 and at.section["missed_other"] == 1
    scores = pd.read_csv(folder / "b.csv")
    scores = scores[scores.threshold == 0.5].drop_duplicates("metric").set_index("metric").value
    for metric in metrics.repairs.REPAIRED_SCORES:
        assert at[metric]["as_found"] == pytest.approx(scores[metric])


def test_pixels_that_are_not_annotated_are_left_out(tmp_path):
    write_volume(tmp_path, "a", [4], ignored=True)  # at the left side, most of it is not annotated
    at = pd.read_csv(tmp_path / "a-causes.csv").set_index("cause")
    assert at.cells["missed_edge"] == at.cells["as_found"] == 1
    assert at.pixels["missed_edge"] == 14 * 8


def test_every_cause_has_words_and_every_kind_a_colour():
    assert {*CAUSES_OF, *(cause.name.lower() for cause in Cause)} == {*CAUSE_WORDS}
    assert {*CAUSE_COLOURS} == {*CAUSES_OF}


def test_the_report_sums_numbers_and_averages_scores_over_volumes(folder):
    rows = pd.read_csv(folder / "causes.csv")
    scores = [score for score in SCORES if score.metric in ("seg", "pixel_error")]
    causes_of = {kind: [cause.name.lower() for cause in causes] for kind, causes in CAUSES_OF.items()}
    table = tabulate_causes(rows, scores, causes_of)
    assert [*table["kinds"]] == ["missed"] and [*table["kinds"]["missed"]["causes"]] == ["missed_other"]
    found, missed = table["found"], table["kinds"]["missed"]["all"]
    assert missed == table["kinds"]["missed"]["causes"]["missed_other"]
    assert (found["cells"], found["pixels"]) == (3, 3 * 14 * 14) and missed["share"] == 1
    assert found["values"]["seg"] == pytest.approx((17 / 18 + 16 / 18) / 2)
    assert missed["values"] == {"seg": 1, "pixel_error": 0}
    assert missed["gains"]["seg"] == pytest.approx(1 - found["values"]["seg"])
    assert missed["gains"]["pixel_error"] == pytest.approx(found["values"]["pixel_error"])  # lower is better
    assert missed["levels"] == {"seg": 1, "pixel_error": 1}


def test_words_fit_on_one_line():
    for name, meaning in CAUSE_WORDS.values():
        assert len(name) < 30 and re.fullmatch(r"[^.]{10,85}", meaning)
