"""Colours, outlines and charts, compared pixel by pixel and value by value."""

import re
from itertools import product
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb
from skimage.color import rgb2lab

from pipeline_lib.figures import describe, inline
from pipeline_lib.figures.charts import ERRORS, threshold_chart, training_chart
from pipeline_lib.figures.colouring import (
    hatched,
    instances_coloured,
    magnified,
    outline_overlay,
    raw_picture,
    rgb,
)
from pipeline_lib.figures.palette import BACKGROUND, CAUSE_COLOURS, HATCH, class_colours
from pipeline_lib.figures.parts import ANNOTATED, matched_labels, numbered
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.pictures import draw_thresholds, draw_training


def has(image, colour):
    return (image == colour).all(axis=2)


# pixels that are not annotated


def test_only_ignored_pixels_are_hatched():
    image = np.full((40, 60, 3), 200, np.uint8)
    ignored = np.zeros((20, 30), bool)
    ignored[5:, :20] = True
    shown = hatched(image, ignored)
    inside = magnified(ignored, 2)
    assert (shown[~inside] == 200).all() and (shown[inside] != 200).all()
    stripes = has(shown, rgb(HATCH))
    assert 0.2 < stripes[inside].mean() < 0.4
    np.testing.assert_array_equal(stripes[11:, :39], stripes[10:-1, 1:40])  # diagonal
    assert hatched(image, None) is image


# colours


# Machado et al. 2009, severity 1, for linear RGB
COLOUR_VISION = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colour_blind_readers_can_distinguish_kinds_of_error(vision):
    # Colours at a distance of 2 can just be distinguished side by side.
    assert smallest_distance([*CAUSE_COLOURS.values()], vision) > 14


def smallest_distance(colours, vision):
    linear = np.array([to_rgb(colour) for colour in colours]) ** 2.2
    lab = rgb2lab(np.clip(linear @ np.array(COLOUR_VISION[vision]).T, 0, 1) ** (1 / 2.2))
    distance = np.linalg.norm(lab[:, None] - lab, axis=2)
    return distance[~np.eye(len(lab), dtype=bool)].min()


def test_touching_cells_are_separated_by_a_line():
    labels = np.array([[5, 5, 5, 6, 6, 6], [5, 5, 5, 6, 6, 6], [0, 0, 0, 0, 5, 5]])
    shown = instances_coloured(labels)
    assert has(shown, rgb(BACKGROUND)).tolist() == [
        [False, False, False, True, False, False],
        [False, False, False, True, False, False],
        [True, True, True, True, True, True],
    ]
    assert (shown[0, 0] != shown[0, 5]).any()


@given(arrays(np.uint8, (7, 6), elements=st.integers(0, 2)), st.integers(0, 3), st.integers(0, 3))
def test_a_window_shows_the_same_pixels_as_the_whole_picture(labels, top, left):
    window = slice(top, top + 3), slice(left, left + 3)
    assert (raw_picture(labels[None], window) == raw_picture(labels[None])[window]).all()


@given(*(arrays(np.uint8, (4, 5), elements=st.integers(0, 4)) for _ in range(2)))
def test_a_segment_gets_the_label_of_the_cell_with_most_shared_pixels(labels, found):
    matched = matched_labels(labels, found)
    assert ((matched == 0) == (found == 0)).all()
    for region in np.unique(found[found > 0]):
        shared = np.bincount(labels[found == region], minlength=5)[1:]
        (name,) = np.unique(matched[found == region])
        assert shared[name - 1] == shared.max() if shared.any() else name not in labels


def test_gray_is_the_mean_of_the_channels_and_accepts_a_constant_image():
    channels = np.stack([np.arange(200).reshape(10, 20), np.arange(200)[::-1].reshape(10, 20)])
    assert len(np.unique(raw_picture(channels))) == 1
    level = raw_picture(channels[:1])[..., 0].ravel()
    assert (np.diff(level.astype(int)) >= 0).all()
    assert (level[0], level[-1]) == (0, 255)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_three_channels_are_shown_in_colour_with_one_contrast(dtype):
    """Red is from 0 to 100, green a tenth of it, blue 50; only the lowest and highest 0.5 % are cut off."""
    red = np.linspace(0, 100, 300).reshape(15, 20)
    section = np.stack([red, red / 10, np.full_like(red, 50)]).astype(dtype)
    low, high = np.percentile(section, (0.5, 99.5))
    expected = np.round(((section - low) / (high - low)).clip(0, 1) * 255)
    shown = raw_picture(section)
    np.testing.assert_array_equal(shown, np.moveaxis(expected, 0, -1))
    assert shown[0, 0, 2] == shown[-1, -1, 2] and 100 < shown[0, 0, 2] < 155
    assert shown[-1, -1, 0] == 255 and shown[-1, -1, 1] < 50
    window = np.s_[3:9, 4:15]
    np.testing.assert_array_equal(raw_picture(section, window), shown[window])


def test_other_images_of_three_channels_are_gray():
    section = np.arange(300.0).reshape(3, 10, 10)
    for other in (
        section,
        section.astype(np.int16),
        np.append(section, section[:1], axis=0).astype(np.uint8),
    ):
        shown = raw_picture(other)
        assert (shown == shown[..., :1]).all()


# outlines of cells


def edge_pixels(labels):
    """Pixels of which a neighbour at a side has another label, one by one."""
    edge = np.zeros(labels.shape, bool)
    for (y, x), label in np.ndenumerate(labels):
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= v < labels.shape[0] and 0 <= u < labels.shape[1]:
                edge[y, x] |= labels[v, u] != label
    return edge


@given(arrays(np.uint32, (9, 17), elements=st.sampled_from([0, 3, 7])))
def test_outlines_have_their_colour_on_a_copy_of_the_picture(labels):
    image = np.full((9, 17, 3), 90, np.uint8)
    shown = outline_overlay(image, labels, ANNOTATED)
    edge = edge_pixels(labels)
    np.testing.assert_array_equal(has(shown, rgb(ANNOTATED)), edge)
    np.testing.assert_array_equal(has(shown, [90] * 3), ~edge)
    assert (image == 90).all()


@given(arrays(np.uint32, (5, 6), elements=st.sampled_from([0, 0, 3, 70_000, 2**32 - 1])))
def test_labels_are_renumbered_in_ascending_order(labels):
    known, found = numbered(labels)
    values = np.unique(labels[labels > 0])
    assert known.tolist() == values.tolist()
    assert found.dtype == np.int32 and ((found == 0) == (labels == 0)).all()
    for number, value in enumerate(values, 1):
        assert ((found == number) == (labels == value)).all()


def test_colours_of_classes_differ_and_do_not_depend_on_their_number():
    many = class_colours(22)
    assert len(set(many)) == 22 and class_colours(5) == many[:5]


# charts


HISTORY = pd.DataFrame(
    {
        "iteration": [10, 20, 30],
        "training_loss": [1.0, 0.5, 0.4],
        "validation_loss": [0.9, 0.6, 0.7],
        "validation_v_rand_thin": [0.1, np.nan, 0.8],
        "learning_rate": [1e-3, 5e-4, 0.0],
    }
)
CHOSEN = {
    name: {"threshold": t, "criterion": "seg", "grid": [0.2, 0.5, 0.8], "value": [0.1, 0.3, 0.2]}
    for name, t in (("unet", 0.5), ("constant", 0.2), ("smoothed_raw", 0.8))
}


def tidy_scores(splits):
    rng = np.random.default_rng(0)
    rows = product(splits, ("a", "b"), CHOSEN, ERRORS, (0.0, 0.2, 0.5, 0.8, 1.0))
    table = pd.DataFrame(rows, columns=["split", "volume", "network", "metric", "threshold"])
    return table.assign(value=rng.random(len(table)))


def test_the_training_chart_shows_the_history():
    loss, v_rand, rate = training_chart(HISTORY).axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [[1.0, 0.5, 0.4], [0.9, 0.6, 0.7]]
    np.testing.assert_array_equal(v_rand.lines[0].get_ydata(), [0.1, np.nan, 0.8])
    assert rate.lines[0].get_ydata().tolist() == [1e-3, 5e-4, 0]


@pytest.mark.parametrize("splits, shown", [(["validation", "test"], "test"), (["validation"], "validation")])
def test_the_threshold_chart_shows_means_and_marks_the_chosen_thresholds(splits, shown):
    scores = tidy_scores(splits)
    chosen_by, *charts = threshold_chart(scores, CHOSEN).axes
    assert chosen_by.get_title().startswith("SEG, validation split")
    assert chosen_by.lines[0].get_ydata().tolist() == [0.1, 0.3, 0.2]
    for axes, metric in zip(charts, ERRORS, strict=True):
        assert axes.get_title().endswith(f"{shown} split")
        for curve, mark, network in zip(axes.lines[::2], axes.lines[1::2], CHOSEN, strict=True):
            own = scores[(scores.split == shown) & (scores.network == network) & (scores.metric == metric)]
            t = CHOSEN[network]["threshold"]
            means = {x: own[own.threshold == x].value.mean() for x in curve.get_xdata()}
            assert curve.get_ydata() == pytest.approx(list(means.values()))
            assert mark.get_xdata() == [t]
            assert mark.get_ydata() == pytest.approx([means[t]])


# files


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    HISTORY.to_csv(tmp_path / "history.csv", index=False)
    tidy_scores(("test",)).to_csv(tmp_path / "scores.csv", index=False)
    for name, chosen in CHOSEN.items():
        write_json(tmp_path / f"{name}.json", chosen)

    def draw(tag):
        charts = [tmp_path / f"{name}{tag}.svg" for name in ("training", "thresholds")]
        draw_training(tmp_path / "history.csv", charts[0])
        draw_thresholds(tmp_path / "scores.csv", [tmp_path / f"{name}.json" for name in CHOSEN], charts[1])
        return charts

    for first, second in zip(draw("1"), draw("2"), strict=True):
        text = first.read_text(encoding="utf-8")
        assert text == second.read_text(encoding="utf-8")
        assert describe(first)["title"] and "Matplotlib v" not in text


def test_a_chart_in_a_page_has_the_colours_of_the_page_and_no_size_of_its_own(tmp_path):
    HISTORY.to_csv(tmp_path / "history.csv", index=False)
    draw_training(tmp_path / "history.csv", tmp_path / "training.svg")
    element = inline(tmp_path / "training.svg")
    root = ElementTree.fromstring(element)
    assert "viewBox" in root.attrib and not {"width", "height"} & {*root.attrib}
    texts = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"loss", "learning rate", "training", "validation", "iteration"} <= texts
    assert "var(--faint, #57606a)" in element and "var(--line, #e4e7eb)" in element
    ids = re.findall(r' id="([^"]*)"', element)
    used = {*re.findall(r"#(training-[pm][0-9a-f]{10})", element)}
    assert used and used <= {*ids} and len(ids) == len({*ids})
