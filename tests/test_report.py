"""The report shows the content of the files, needs no other file, and is well-formed HTML."""

import json
import re
import shutil
from html.parser import HTMLParser
from itertools import product

import numpy as np
import pandas as pd
import pytest

from pipeline_lib import layout, metrics, networks
from pipeline_lib.data.normalisation import Normalisation
from pipeline_lib.figures import charts
from pipeline_lib.networks.model import Model
from pipeline_lib.pages import digits, quality
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.scores import at_chosen_threshold, spread
from pipeline_lib.stages import postprocessing, report
from pipeline_lib.stages.evaluation import CAUSE_COLUMNS
from pipeline_lib.stages.layers import prepare_layers
from pipeline_lib.stages.pictures import draw_thresholds, draw_training
from pipeline_lib.stages.report import SCORES, Contents, mean_scores, write_report
from pipeline_lib.stages.segmentation import segment

THRESHOLDS = {"unet": 0.3, "constant": 0.2, "smoothed_raw": 0.85}
METRICS = [*(score.metric for score in SCORES), "uniform_sections", "constant_pixels", *metrics.CELL_COUNTS]
SETTINGS = {
    "volumes": "volumes.tsv",
    "seed": 7,
    "seeds": [],
    "network": {"name": "unet"},
    "training": {
        "tile": 220,
        "batch": 1,
        "learning_rate": 0.001,
        "iterations": 100,
        "best_by": "loss",
        "optimizer": "adam",
        "decay": "cosine",
    },
    "prediction": {"average_orientations": True},
    "augmentation": {
        "rotate": True,
        "mirror": True,
        "elastic_std": 10.0,
        "gain": 0.2,
        "offset": 0.2,
        "gamma": 0.0,
        "noise": 0.0,
    },
    "drawing": {"membrane_width": [2, 5]},
    "weight_map": {"class_balance": True, "w0": 10.0, "sigma": 5.0},
}


def tidy_scores(splits=("validation", "test"), volumes=2):
    """Random scores at the challenge's thresholds and at 0.3 and 0.85; 0.3 is almost one of the former."""
    rng = np.random.default_rng(0)
    at = [*metrics.CHALLENGE_THRESHOLDS, 0.3, 0.85]
    keys = product(splits, range(volumes), THRESHOLDS, METRICS, at)
    table = pd.DataFrame(keys, columns=["split", "volume", "network", "metric", "threshold"])
    table["volume"] = table.split + "-" + table.volume.astype(str)
    table["value"] = rng.random(len(table))
    table.loc[table.metric.isin(["uniform_sections", "constant_pixels"]), "value"] = 0.0
    for metric, most, least in (("cells_annotated", 9, 5), ("cells_found", 9, 5), ("cells_matched", 5, 0)):
        rows = table.metric == metric
        table.loc[rows, "value"] = rng.integers(least, most, rows.sum()).astype(float)
    return table


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A model with its history, and layers of an annotated and of an unannotated volume."""
    folder = tmp_path_factory.mktemp("case")
    labels = np.zeros((1, 40, 40), np.uint32)
    labels[:, 4:18, 4:36], labels[:, 22:36, 4:36] = 1, 2
    for name, annotated in (("test-0", True), ("new", False)):
        with layout.create(folder / f"{name}.h5", {}) as file:
            layout.add(file, layout.RAW, (1, *labels.shape), "uint8")[:] = 60 * labels[None]
            layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = labels == 1
            layout.add(file, layout.WEIGHT_MAP, labels.shape)[:] = labels
            if annotated:
                layout.add(file, layout.LABELS, labels.shape)[:] = labels
                layout.add(file, layout.SEPARATION_BORDER, labels.shape)[:] = 0
    for name, t in THRESHOLDS.items():
        write_json(
            folder / f"{name}.json",
            {
                "threshold": t,
                "minimum_size": 0,
                "criterion": "v_rand_thin",
                "grid": [0.2, 0.3, 0.85],
                "value": [0.25, 0.75, 0.5],
            },
        )
    for name, weights in (("test-0", folder / "test-0.h5"), ("new", None)):
        segment(folder / f"{name}.h5", folder / "unet.json", folder / f"{name}-labels.h5")
        prepare_layers(
            folder / f"{name}.h5",
            weights,
            folder / f"{name}.h5",
            folder / f"{name}-labels.h5",
            None,
            folder / f"layers/{name}.json",
            volume=name,
            split="test" if weights else "predict",
            network="unet",
            pixels=10**6,
        )
    pd.DataFrame(
        {
            "iteration": [50, 100],
            "training_loss": [1.0, 0.5],
            "validation_loss": [1.1, 0.6],
            "validation_v_rand_thin": [0.9, 0.2],
            "learning_rate": [1e-3, 0.0],
        },
    ).to_csv(folder / "history.csv", index=False)
    draw_training(folder / "history.csv", folder / "training.svg")
    tidy_scores().to_csv(folder / "scores.csv", index=False)
    thresholds = [folder / f"{name}.json" for name in THRESHOLDS]
    draw_thresholds(folder / "scores.csv", thresholds, folder / "thresholds.svg")
    write_json(folder / "statistics.json", {"class_frequencies": [0.25, 0.75]})
    write_json(folder / "check.json", {"doubts": [{}, {}]})
    arguments = {"depth": 1, "base_channels": 2, "input_channels": 1}
    normalisation = Normalisation("mean_std", "uint8", np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    environment = {"torch": "2.0", "device": "cuda", "precision": "float32", "threads": 3}
    provenance = {
        "version": "1.2.3",
        "inputs": {"dataset/a.h5": 64 * "f"},
        "best_iteration": 50,
        "environment": environment,
    }
    plan = networks.plan("unet", **arguments)
    Model(plan, plan.build(), normalisation, provenance).save(folder / "model.pt")
    return folder


def write(
    folder,
    scores,
    output,
    title="A title",
    settings=SETTINGS,
    volumes=("train-0", "test-0", "new"),
    with_pictures=True,
    spread=(),
    causes=None,
):
    scores.to_csv(folder / "scores.csv", index=False)
    rows = [
        {
            "volume": name,
            "split": name.partition("-")[0],
            "sections": "0-3",
            "images": f"{name}.tif",
            "annotation": None if name == "new" else "labels.tif",
        }
        for name in volumes
    ]
    layers = [folder / f"layers/{name}.json" for name in ("test-0", "new")] if with_pictures else []
    thresholds = [folder / f"{name}.json" for name in THRESHOLDS]
    contents = Contents(
        title=title,
        network="unet",
        settings=settings,
        volumes=rows,
        scores=folder / "scores.csv",
        spread=spread,
        history=folder / "history.csv",
        model=folder / "model.pt",
        postprocessing=thresholds,
        statistics=folder / "statistics.json",
        check=folder / "check.json",
        layers=layers,
        causes=causes,
        training_figure=folder / "training.svg",
        thresholds_figure=folder / "thresholds.svg",
    )
    write_report(contents, folder / output, folder / "warnings.json")
    return (folder / output).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(pictures):
    return write(pictures, tidy_scores(), "report.html")


class Page(HTMLParser):
    """Elements as (tag, attributes), and tables as rows of cells. Fails if tags do not match."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "wbr"})
    SILENT = frozenset({"style", "script"})

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.elements, self.tables, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []
        self.tables = [table for table in self.tables if table[0]]  # without that of the viewer's script

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append({"text": "", "class": dict(attributes).get("class")})
        elif tag == "data" and "table" in self.open:
            self.tables[-1][-1][-1]["value"] = dict(attributes)["value"]

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.SILENT & {*self.open}:
            return
        self.text += data
        if self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1]["text"] += data


def texts(html):
    """Rows of all tables: first cell -> the other cells."""
    rows = [[cell["text"] for cell in row] for table in Page(html).tables for row in table]
    return {first: others for first, *others in rows}


def score_tables(html):
    """All scores of the test and of the validation split: metric -> cells of network and baselines."""
    metric = {score.name: score.metric for score in SCORES}
    _, *tables = [table for table in Page(html).tables if table[0][0]["text"] == "score"]
    return [
        {metric[re.split(" (lower|higher) is better", row[0]["text"])[0]]: row[1:] for row in table[2:]}
        for table in tables
    ]


# numbers


def test_the_table_shows_mean_scores_at_the_chosen_thresholds(page):
    scores = tidy_scores()
    for split, table in zip(("test", "validation"), score_tables(page), strict=True):
        assert list(table) == [score.metric for score in SCORES]
        for metric, cells in table.items():
            for cell, (network, t) in zip(cells, THRESHOLDS.items(), strict=True):
                rows = scores[scores[["split", "metric", "network"]].eq([split, metric, network]).all(axis=1)]
                expected = rows[rows.threshold == t].value.mean()
                assert float(cell["value"]) == pytest.approx(expected, rel=1e-12)
                assert cell["text"] == digits(expected)


def test_the_best_value_of_each_row_is_marked(page):
    for metric, cells in score_tables(page)[0].items():
        values = [float(cell["value"]) for cell in cells]
        more_is_better = next(score.more_is_better for score in SCORES if score.metric == metric)
        best = max(values) if more_is_better else min(values)
        assert [cell["class"] == "best" for cell in cells] == [value == best for value in values]


def test_the_headline_compares_the_criterion_with_the_baselines(page):
    scores = tidy_scores()
    scores = scores[(scores.split == "test") & (scores.metric == "v_rand_thin")]
    means = at_chosen_threshold(scores, THRESHOLDS).groupby("network").value.mean().map(digits)
    lead = " ".join(re.search('<p class="lead">(.*?)</p>', page, re.S)[1].split())
    lead = re.sub("<[^>]*>", "", lead)
    assert lead == (
        f"On the test split (2 volumes), unet has a V-Rand after thinning of {means.unet} (higher is "
        f"better). For comparison: a constant classifier has {means.constant}, a threshold of the smoothed "
        f"raw image {means.smoothed_raw}."
    )


def test_a_prediction_of_one_class_is_never_marked_as_best(pictures):
    """Its scores are perfect here, also in the headline."""
    scores = tidy_scores()
    constant = (scores.network == "constant") & ~scores.metric.isin(metrics.CELL_COUNTS)
    perfect = scores.metric.isin([score.metric for score in SCORES if score.more_is_better])
    scores.loc[constant, "value"] = np.where(perfect[constant], 1.0, 0.0)
    scores.loc[constant & (scores.metric == "uniform_sections"), "value"] = 1.0
    html = write(pictures, scores, "uniform.html")
    for table in score_tables(html):
        assert not any(cells[1]["class"] == "best" for cells in table.values())
        assert all(any(cell["class"] == "best" for cell in cells) for cells in table.values())
    assert "constant †" in Page(html).text
    assert "best baseline 1.000" not in html and "best baseline 0.000" not in html
    rows = at_chosen_threshold(scores[scores.split == "test"], THRESHOLDS)
    seg = rows[(rows.metric == "seg") & (rows.network == "smoothed_raw")].value.mean()
    assert f"best baseline {digits(seg)}" in html


def test_an_empty_prediction_is_right_where_nothing_is_annotated():
    """A network that predicts nothing there can be the best; one that also does so elsewhere cannot."""
    scores = at_chosen_threshold(tidy_scores(["test"]), THRESHOLDS)
    own = (scores.network == "unet") & (scores.volume == "test-0")
    scores.loc[scores.metric == "seg", "value"] = scores.network.eq("unet").astype(float)
    scores.loc[own & (scores.metric == "uniform_sections"), "value"] = 1.0
    assert mean_scores(scores, "unet")["uniform"] == {"unet"}
    assert mean_scores(scores, "unet")["rows"]["seg"]["best"] == {"constant", "smoothed_raw"}
    scores.loc[(scores.volume == "test-0") & (scores.metric == "cells_annotated"), "value"] = 0.0
    assert mean_scores(scores, "unet")["uniform"] == set()
    assert mean_scores(scores, "unet")["rows"]["seg"]["best"] == {"unet"}


def test_without_a_baseline_that_finds_cells_none_is_called_best(pictures):
    scores = tidy_scores()
    others = (scores.network != "unet") & (scores.metric == "uniform_sections")
    scores.loc[others, "value"] = 0.5
    assert "best baseline" not in write(pictures, scores, "uniform.html")


# calibration


def test_the_reliability_diagram_shows_all_pixels_of_a_split(pictures):
    rng = np.random.default_rng(0)
    scores, rows, summed = tidy_scores(), [], {"test": np.zeros((4, 10)), "validation": np.zeros((4, 10))}
    for split, volume in product(summed, range(2)):
        pixels = rng.integers(1, 10 ** rng.integers(1, 6, 10))
        pixels[3] = 0  # a bin without pixels
        cells, p = rng.integers(0, pixels + 1), pixels * (np.arange(10) + rng.random(10)) / 10
        own = metrics.Reliability(pixels, cells, p, rng.random(10) * pixels)
        summed[split] += list(vars(own).values())
        rows += [
            {"split": split, "volume": f"{split}-{volume}", "metric": metric, "value": value} | other
            for metric, value in own.to_rows().items()
            for other in ({"network": "unet", "threshold": 0.3}, {"network": "constant", "threshold": 0.2})
        ]
    html = write(pictures, pd.concat([scores, pd.DataFrame(rows)]), "reliability.html")
    shown = html[html.index('id="calibration"') :]
    found = re.findall(r"<figure>\s*<figcaption><b>(\w+) split</b>(.*?)</figure>", shown, re.S)
    assert [split for split, _ in found] == ["Test", "Validation"]
    [table] = (own for own in Page(html).tables if own[0][0]["text"] == "cell probability")
    for number, (split, text) in enumerate(found):
        pixels, cells, p, squared = summed[split.lower()]
        own = Page(f"<figure><figcaption>{text}</figure>")
        error, brier = np.abs(p - cells).sum() / pixels.sum(), squared.sum() / pixels.sum()
        assert f"calibration error {digits(error)}, Brier score {digits(brier)} (lower" in own.text
        drawn = [attributes for tag, attributes in own.elements if tag == "circle"]
        bars = [attributes for tag, attributes in own.elements if tag == "rect"]
        lines = [attributes for tag, attributes in own.elements if tag == "line"]
        [ideal] = (line for line in lines if line.get("class") == "ideal")
        (x0, x1), (y0, y1) = ([float(ideal[f"{axis}{end}"]) for end in (1, 2)] for axis in "xy")
        [chosen] = (line for line in lines if line.get("class") == "chosen")
        assert float(chosen["x1"]) == pytest.approx(x0 + 0.3 * (x1 - x0), abs=0.1)
        known = [k for k in range(10) if pixels[k]]
        assert len(known) == len(drawn) == len(bars) == 9
        for k, dot, bar in zip(known, drawn, bars, strict=True):
            predicted, observed = p[k] / pixels[k], cells[k] / pixels[k]
            assert (float(dot["cx"]) - x0) / (x1 - x0) == pytest.approx(predicted, abs=1e-3)
            assert (float(dot["cy"]) - y0) / (y1 - y0) == pytest.approx(observed, abs=1e-3)
            height = max(1 + np.log10(pixels[k] / pixels.sum()) / 4, 0)
            assert float(bar["height"]) == pytest.approx(72 * height, abs=0.1)
            cell = [one["text"] for one in table[2 + k][1 + 3 * number : 4 + 3 * number]]
            assert cell == [digits(predicted), digits(observed), f"{pixels[k]:,.0f}"]
        assert [one["text"] for one in table[5][1 + 3 * number : 4 + 3 * number]] == ["-", "-", "0"]
    assert "#calibration" in html and "#calibration" not in write(pictures, scores, "report.html")


# cells and warnings


def test_cells_are_counted_for_each_volume_and_in_total(page):
    scores = at_chosen_threshold(tidy_scores(), THRESHOLDS)
    own = scores[scores.network == "unet"].set_index(["volume", "metric"]).value
    expected = {}
    for volume in ("test-0", "test-1", "validation-0", "validation-1"):
        annotated, found, matched = (own[volume, metric] for metric in metrics.CELL_COUNTS)
        expected[volume] = [annotated, found, matched, annotated - matched, found - matched]
    (table,) = (t for t in Page(page).tables if [c["text"] for c in t[0][2:4]] == ["annotated", "found"])
    assert [cell["text"] for cell in table[0][4:]] == ["matched", "missed", "false"]
    rows = [[cell["text"] for cell in row] for row in table[1:]]
    for row, split in zip(rows[:2], ("test", "validation"), strict=True):
        total = np.sum([expected[f"{split}-{number}"] for number in range(2)], axis=0)
        assert row == ["all 2 volumes", split, *(f"{count:.0f}" for count in total)]
    assert {row[0]: list(map(float, row[2:])) for row in rows[2:]} == expected
    annotated, found, matched, *_ = rows[0][2:]
    text = " ".join(Page(page).text.split())
    assert f"Cells matched {matched} of {annotated} annotated and {found} found" in text


def test_a_table_of_scores_without_numbers_of_cells_is_an_error(pictures):
    scores = tidy_scores()
    for metric in ("cells_matched", "constant_pixels"):
        with pytest.raises(InputError, match=r"scores.csv: has no rows .*`rm -r .*scores.csv .*/scores`"):
            write(pictures, scores[scores.metric != metric], "old.html")


def test_a_detector_stands_beside_baselines_in_the_table(tmp_path):
    scores = tidy_scores()
    of_boxes = scores.metric.str.match("box_|count_")
    scores = scores[of_boxes | (scores.network != "unet")].replace({"network": {"unet": "ssd"}})
    own = scores[(scores.network == "ssd") & (scores.metric == "box_f1")]
    numbers = {name: 6.0 - place for place, name in enumerate(metrics.BOX_COUNTS)}
    scores = pd.concat([scores, *(own.assign(metric=name, value=v) for name, v in numbers.items())])
    scores.to_csv(tmp_path / "scores.csv", index=False)
    at = {"ssd": 0.3, "constant": 0.2, "smoothed_raw": 0.85}
    for name, threshold in at.items():
        write_json(tmp_path / f"{name}.json", {"threshold": threshold, "criterion": "box_f1"})
    table = at_chosen_threshold(scores, at)
    table = table[table.split == "test"]
    rows = mean_scores(table, "ssd")["rows"]
    for metric, row in rows.items():
        known = table[(table.network == "ssd") & (table.metric == metric)].value
        np.testing.assert_equal(row["values"]["ssd"], known.mean())
        assert ("ssd" in row["best"]) <= bool(len(known))
    assert not quality.degenerate(table[table.network == "ssd"]).any()
    assert report.count_cells(table[table.network == "ssd"], metrics.BOX_COUNTS).iloc[0].tolist() == [
        6,
        5,
        4,
        2,
        1,
    ]
    line = report.score_line(tmp_path / "scores.csv", [tmp_path / f"{name}.json" for name in at], "ssd")
    f1, ap = (f"{rows[metric]['values']['ssd']:.4f}" for metric in ("box_f1", "box_ap_50"))
    assert re.fullmatch(rf"Box F1 {f1} \(.*\), Box AP at 0.5 {ap} \(.*\); mean of 2 test volumes", line)


def test_warnings_are_shown_and_written(pictures):
    """Here the network is far better than the baselines, or far worse and its probability is constant."""
    scores = tidy_scores()
    own, constant = scores.network == "unet", scores.metric == "constant_pixels"
    for value, expected in ((2.0, []), (-1.0, ["worse_than_baseline", "constant_probability"])):
        scores.loc[own & (scores.metric == "v_rand_thin"), "value"] = value
        scores.loc[own & constant & (scores.split == "test"), "value"] = 0.4 if expected else 0.3
        html = write(pictures, scores, "warned.html")
        written = read_json(pictures / "warnings.json")["warnings"]
        assert [warning["name"] for warning in written] == expected
        text = " ".join(Page(html).text.split())
        assert text.count("Warning.") == len(expected)
        for warning in written:
            assert f"Warning. {warning['text'].replace('`', '')}" in text


def test_undefined_scores_are_shown_as_not_available(pictures):
    scores = tidy_scores()
    scores.loc[scores.metric == "seg", "value"] = np.nan
    cells = score_tables(write(pictures, scores, "nan.html"))[0]["seg"]
    assert [(cell["text"], cell["class"]) for cell in cells] == [("n/a", None)] * 3


def test_every_score_is_computed_and_every_criterion_is_explained():
    labels = np.kron(np.arange(4).reshape(1, 2, 2), np.ones((5, 5))).astype(np.uint8)
    computed = {*metrics.isbi_scores(labels, labels / 4).metric, *metrics.INSTANCE_METRICS}
    computed |= {*metrics.DETECTION_METRICS, *metrics.COUNT_ERRORS}
    computed |= {*metrics.reliability(labels, labels / 4).scores()}
    assert {score.metric for score in SCORES} | {"uniform_sections"} <= computed
    assert set(postprocessing.CRITERIA) <= {score.metric for score in SCORES} & set(charts.NAMES)
    for score in SCORES:
        if score.metric in postprocessing.CRITERIA:
            assert score.more_is_better == postprocessing.CRITERIA[score.metric][1]


def test_the_spread_over_seeds_is_below_the_scores_of_the_network(pictures):
    scores = tidy_scores()
    retrained = scores[scores.network == "unet"].assign(network="unet-seed8")
    retrained["value"] /= 2
    found = spread(pd.concat([scores, retrained])[lambda rows: rows.threshold == 0.3])
    found.loc[found.metric == "seg", "seeds"] = 1
    found.to_csv(pictures / "spread.csv", index=False)
    html = write(
        pictures,
        pd.concat([scores, retrained]),
        "seeds.html",
        spread=[pictures / "spread.csv"],
        settings=SETTINGS | {"seeds": [8]},
    )
    assert "2 times with identical settings, except for the seeds 7 and 8." in Page(html).text
    expected = found.set_index(["split", "metric"])
    one_seed = score_tables(write(pictures, scores, "one-seed.html"))
    for split, table, without in zip(("test", "validation"), score_tables(html), one_seed, strict=True):
        for metric, cells in table.items():
            row = expected.loc[split, metric]
            n = " (n = 1)" if metric == "seg" else ""
            shown = f"{digits(row['mean'])} ±\xa0{digits(row.standard_deviation)}{n}"
            assert cells[0]["text"] == f"{without[metric][0]['text']} {shown}"
            assert cells[1:] == without[metric][1:]
    row = expected.loc["test", "v_rand_thin"]
    shown = f"{digits(row['mean'])} ±\xa0{digits(row.standard_deviation)} over 2 seeds"
    assert f"(higher is better; {shown})" in " ".join(Page(html).text.split(" "))


# data, settings and software


def test_the_page_lists_volumes_settings_and_versions(page):
    text = " ".join(Page(page).text.split())
    rows = texts(page)
    assert rows["train-0"] == ["train", "0-3", "train-0.tif", "labels.tif"]
    assert rows["new"] == ["new", "0-3", "new.tif", "none"]
    settings = {
        "volumes": "volumes.tsv",
        "seed": "7",
        "tile": "220",
        "learning_rate": "0.001",
        "membrane_width": "[2, 5]",
        "class_balance": "true",
    }
    assert {key: rows[key] for key in settings} == {key: [value] for key, value in settings.items()}
    assert "100 iterations on cuda, 3 threads, float32." in text
    assert "the state after iteration 50," in text
    assert "trained by bordure 1.2.3 with torch 2.0" in text
    assert "75.0 % of the training pixels" in text
    assert f"numpy {np.__version__}" in text


def test_the_page_says_what_was_taken_from_the_model_to_start_from(pictures, page, tmp_path):
    assert "It started from" not in Page(page).text
    shutil.copytree(pictures, tmp_path / "case")
    path = tmp_path / "case/model.pt"
    model = Model.load(path)
    model.provenance["start"] = {
        "network": "fcn32s",
        "kept_normalisation": True,
        "copied": ["encoder", "fc"],
        "summed": [],
        "initialised": ["score"],
        "left_out": [],
    }
    model.save(path)
    settings = SETTINGS | {"training": SETTINGS["training"] | {"start_from": "old<.pt"}}
    html = write(tmp_path / "case", tidy_scores(), "started.html", settings=settings)
    assert (
        "It started from the model old<.pt (fcn32s). Copied: encoder, fc. Initialised: score. "
        "Left out: none. The normalisation is that of this model." in " ".join(Page(html).text.split())
    )


def test_titles_and_settings_are_escaped(pictures, page):
    evil = '<script>alert("1")</script>'
    html = write(pictures, tidy_scores(), "evil.html", title=evil, settings=SETTINGS | {"note": evil})
    assert evil not in html and html.count("<script") == page.count("<script")
    assert Page(html).text.count(evil) == 3  # title, heading, setting


# the page


def test_the_first_table_has_the_main_scores(page):
    tables = [table for table in Page(page).tables if table[0][0]["text"] == "score"]
    names = [re.split(" (lower|higher) is better", row[0]["text"])[0] for row in tables[0][2:]]
    assert names == [score.name for score in SCORES if score.metric in report.SEGMENTATION.table]
    for first, whole in zip(
        tables[0][2:], [row for row in tables[1] if row[0] in tables[0][2:]], strict=False
    ):
        assert first == whole


def test_the_page_needs_no_other_file(page):
    for tag, attributes in Page(page).elements:
        assert tag not in ("link", "iframe") and (tag != "script" or "src" not in attributes)
        for name in ("href", "src"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")) or (
                attributes[name] in ("check.html", "provenance.html")
            )  # pages of the same run
    style = re.search("<style>(.*)</style>", page, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style


def test_all_layers_are_embedded_once_and_every_reference_has_a_target(page, pictures):
    elements = Page(page).elements
    embedded = {a["id"]: a["href"] for tag, a in elements if tag == "image"}
    volumes = [read_json(pictures / f"layers/{name}.json") for name in ("test-0", "new")]
    assert embedded == {
        f"v{v}s{s}-{layer}": uri
        for v, volume in enumerate(volumes)
        for s, section in enumerate(volume["shown"])
        for layer, uri in section["layers"].items()
    }
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [
        attributes["href"] for tag, attributes in elements if tag in ("use", "a") and "href" in attributes
    ]
    assert set(links) - {"provenance.html", "check.html"} <= {f"#{name}" for name in ids}
    data = json.loads(re.search(r'<script type="application/json" id="viewer-data">(.*?)</script>', page)[1])
    assert [volume["volume"] for volume in data] == ["test-0", "new"]
    assert data[0]["shown"][0]["layers"] == [*volumes[0]["shown"][0]["layers"]]
    assert data[0]["shown"][0]["found_cells"] == volumes[0]["shown"][0]["found_cells"]


def test_the_worst_errors_are_shown_and_open_the_viewer(page):
    """Of two cells, one is missed."""
    (link,) = (a for tag, a in Page(page).elements if tag == "a" and "data-open" in a)
    v, s, top, left, bottom, right = json.loads(link["data-open"])
    assert (v, s, top, left, bottom, right) == (0, 0, 0, 0, 40, 40)
    assert "missed, other missed cells" in " ".join(Page(page).text.split())


def test_sizes_of_cells_are_shown(page):
    (text,) = re.findall(r"<b>Test split</b>(, median .*?)</figcaption>", page)
    diameter = int(np.sqrt(4 * 14 * 32 / np.pi)) + 0.5
    assert text == f", median {diameter:.3g} px annotated, {diameter:.3g} px found"


def test_the_methods_can_be_pasted(page):
    (text,) = re.findall(r'<pre class="paste" id="methods-text">(.*?)</pre>', page, re.S)
    assert "A U-Net [2] with" in text and "100 iterations" in text and "0.001" in text
    assert "the cell probability" not in text
    for number in range(1, 1 + text.count("doi:") + text.count("arXiv:")):
        assert text.count(f"[{number}]") >= 2  # in the paragraph and in the list
    (bibtex,) = re.findall(r'<pre class="paste" id="bibtex">(.*?)</pre>', page, re.S)
    assert bibtex.count("@") == text.count("\n[") and "10.1007/978-3-319-24574-4_28" in bibtex


def test_the_causes_of_errors_are_shown_with_the_place_of_an_example(pictures, page):
    """Of two cells, one is not found. The causes are those of the validation split."""
    with layout.require(pictures / "test-0.h5") as data, layout.require(pictures / "test-0-labels.h5") as own:
        raw, labels, found = data["raw"][:], data["labels"][:], own["labels"][:]
    table = metrics.error_causes(raw, labels, found, labels > 0)
    names = {"volume": "test-0", "network": "unet", "variant": "unet", "seed": 7, "fold": 0}
    rows = [
        table.assign(**names, split="validation"),
        table.assign(**names, split="test", cells=1000),
        table.assign(**names | {"network": "constant"}, split="validation", cells=1000),
    ]
    pd.concat(rows).to_csv(pictures / "causes.csv", index=False, columns=CAUSE_COLUMNS)
    html = write(pictures, tidy_scores(), "causes.html", causes=pictures / "causes.csv")
    own = next(table for table in Page(html).tables if table[0][0]["text"] == "cause")
    columns = [cell["text"].split(" higher")[0] for cell in own[0]]
    assert columns == ["cause", "cells", "wrong pixels", "V-Rand after thinning", "SEG", "Average precision"]
    assert [row[0]["text"].split(" annotated ")[0] for row in own[1:3]] == [
        "nothing repaired",
        "missed cells",
    ]
    assert len(own) == 4  # without causes that do not occur
    assert [row[1]["text"] for row in own[1:]] == ["", "1", "1"]
    assert [row[2]["text"] for row in own[1:]] == ["448", "448 100 %", "448 100 %"]
    assert [row[4]["text"] for row in own[1:]] == ["0.500", "1.000 +0.500", "1.000 +0.500"]
    assert 'href="#causes"' in html
    # the place of the largest one can be shown in the viewer
    (place,) = re.findall(r'data-open="(.*?)" aria-label="show the largest: other missed cells"', html)
    assert json.loads(place) == [0, 0, -11, -21, 69, 59]
    assert 'id="causes"' not in page  # of a report without them


def test_the_same_contents_give_the_same_bytes(pictures, page):
    assert write(pictures, tidy_scores(), "again.html") == page


def test_a_note_explains_the_scores_if_there_is_no_test_volume(pictures):
    html = write(pictures, tidy_scores(splits=["validation"]), "validation.html", with_pictures=False)
    text = " ".join(Page(html).text.split())
    assert "There is no test volume." in text
    assert "On the validation split (2 volumes)" in text
    assert len(score_tables(html)) == 1
    assert 'id="pictures"' not in html
    assert "There is no test volume." not in write(pictures, tidy_scores(), "test.html")


def test_the_scores_of_each_volume_follow_their_means(pictures):
    html = write(pictures, tidy_scores(volumes=30), "thirty.html")
    table = next(t for t in Page(html).tables if [cell["text"] for cell in t[0][:2]] == ["volume", "split"])
    assert [[cell["text"] for cell in row[:2]] for row in table[1:4]] == [
        ["mean of 30 volumes", "test"],
        ["mean of 30 volumes", "validation"],
        ["test-0", "test"],
    ]
    for column in range(2, 6):
        for mean, rows in ((table[1], table[3:33]), (table[2], table[33:63])):
            values = [float(row[column]["value"]) for row in rows]
            assert float(mean[column]["value"]) == pytest.approx(np.mean(values), rel=1e-12)


def test_long_lists_of_volumes_are_folded(pictures):
    few = write(pictures, tidy_scores(), "few.html")
    many = write(pictures, tidy_scores(volumes=30), "many.html", volumes=[f"test-{i}" for i in range(60)])
    assert few.count("<details open>") == 2
    assert many.count("<details open>") == 0
    assert {f"test-{i}" for i in range(60)} <= texts(many).keys()


def test_scores_are_means_over_the_volumes():
    scores = at_chosen_threshold(tidy_scores(volumes=5), THRESHOLDS)
    scores = scores[scores.split == "test"]
    found = mean_scores(scores, "unet")
    assert found["volumes"] == 5
    seg = scores[scores.metric == "seg"].groupby("network").value.mean()
    assert found["rows"]["seg"]["values"] == pytest.approx(seg.to_dict())
    assert found["rows"]["seg"]["best_baseline"] == pytest.approx(seg.drop("unet").max())


def test_a_model_with_other_settings_is_an_error(tmp_path):
    """Otherwise the page would show settings that were not used, if Snakemake has lost its records."""
    with pytest.raises(InputError, match=r"trained with `seed: 5`, but the config has `seed: 1`"):
        report._require_same(tmp_path / "model.pt", {"seed": 5}, {"seed": 1})
    report._require_same(tmp_path / "model.pt", {"seed": 1}, {"seed": 1, "report": {"title": "b"}})
