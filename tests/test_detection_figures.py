"""Figures of detections: sections for the viewer, boxes on pictures, and charts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib import layout
from pipeline_lib.figures import describe
from pipeline_lib.figures.boxes import (
    FALSE,
    FOUND,
    MISSED,
    SMALLEST_SHOWN,
    Line,
    Outcome,
    _dashes,
    box_overlay,
)
from pipeline_lib.figures.colouring import rgb
from pipeline_lib.figures.detection_charts import count_chart, curve_chart
from pipeline_lib.metrics import (
    FROC_RATES,
    count_errors,
    detection_scores,
    match_boxes,
    pooled_matches,
)
from pipeline_lib.pages.viewer import worst_errors
from pipeline_lib.runtime.files import read_json, write_json
from pipeline_lib.stages.detection_figures import draw_detection_charts, prepare_detection_layers
from pipeline_lib.tasks.detection.found import Found, create_arrays
from pipeline_lib.tasks.detection.scores import matched_sections
from pipeline_lib.tasks.detection.truth import box_writer
from tests.layer_pictures import cells_of, rgba
from tests.test_figures import COLOUR_VISION, smallest_distance

THRESHOLD = 0.5
SIZE = 120  # px, of a section
NONE = np.empty((0, 4))


def square(y, x, side=10):
    return [y, x, y + side, x + side]


def write(folder, sections, name="v", size=SIZE, annotated=True):
    """Write sections of ((true boxes), (ignored true boxes), (detections), (scores)) and a threshold."""
    shape = (len(sections), size, size)
    with layout.create(folder / f"{name}.h5", {}) as file:
        raw = layout.add(file, layout.RAW, (1, *shape), np.uint8)
        if size <= SIZE:
            raw[:] = np.random.default_rng(0).integers(0, 200, raw.shape)
        if annotated:
            append = box_writer(file, ["cell"])
            for z, (true, ignored, _, _) in enumerate(sections):
                boxes = np.array([*true, *ignored], float).reshape(-1, 4)
                kind = np.ones(len(boxes), np.uint8)
                append(z, boxes, kind, np.arange(len(boxes)) >= len(true))
    with layout.create(folder / f"{name}_found.h5", {}) as file:
        create_arrays(file, ["background", "cell"], ["cell"])
        for z, (_, _, boxes, scores) in enumerate(sections):
            boxes = np.array(boxes, float).reshape(-1, 4)
            Found(boxes, np.ones(len(boxes), np.uint8), np.array(scores, np.float32)).append_to(file, z)
    write_json(folder / "ssd.json", {"threshold": THRESHOLD})
    return {"dataset": folder / f"{name}.h5", "detections": folder / f"{name}_found.h5", "split": "test"}


def prepare(folder, sections, pixels=10**6, **settings):
    files = write(folder, sections, **settings)
    output, volume = folder / "boxes.json", settings.get("name", "v")
    made_from = {"postprocessing": folder / "ssd.json", "output": output}
    prepare_detection_layers(**files, **made_from, volume=volume, network="ssd", pixels=pixels)
    return read_json(output)


def boxes_of(section, layer, kind):
    """Boxes (y0, x0, y1, x1) of one kind in a section of the viewer."""
    return [[y0, x0, y1, x1] for x0, y0, x1, y1, own in section["boxes"][layer] if own == kind]


def perturbed(rng, truths=20):
    """True boxes on a grid and detections of them: shifted, missing, below the threshold, and false ones."""
    y, x = np.divmod(np.arange(truths), 5)
    true = np.stack([y * 24, x * 24, y * 24 + 12, x * 24 + 12], axis=1) + 3.0
    found = true[rng.random(truths) < 0.8] + rng.normal(0, 1.2, (1, 4))
    false = np.hstack([corner := rng.uniform(0, SIZE - 12, (rng.integers(0, 6), 2)), corner + 11])
    boxes = np.concatenate([found, false]).clip(0, SIZE)
    scores = rng.uniform(0.2, 1, len(boxes))
    order = np.argsort(-scores)
    return true[3:], true[:3], boxes[order], scores[order]


CASE = [
    ([square(10, 10), square(10, 50, 14)], [], [square(10, 10)], [0.9]),  # one missed, without detection
    (
        [square(20, 20), square(20, 60), square(60, 20, 16)],
        [square(90, 90, 4)],
        # found, false, found below the threshold, and one of an object that is not scored
        [square(20, 20), square(80, 60), square(61, 20, 16), square(90, 90, 4)],
        [0.8, 0.7, 0.4, 0.9],
    ),
]


# boxes


def test_boxes_have_the_kind_of_what_became_of_them(tmp_path):
    true = [square(10, 10), square(40, 10), square(70, 10)]
    found = [square(11, 10), square(40, 60), square(71, 11), square(100, 100)]
    ignored = [square(100, 100)]
    shown = prepare(tmp_path, [(true, ignored, found, [0.9, 0.8, 0.3, 0.7])])
    (section,) = shown["shown"]
    assert boxes_of(section, "cells", "found") == [found[0]]
    assert boxes_of(section, "cells", "false") == [found[1]]  # the last one is at an ignored object
    assert boxes_of(section, "annotation", "found") == [true[0]]
    assert boxes_of(section, "annotation", "missed") == true[1:]
    assert boxes_of(section, "annotation", "ignored") == ignored
    assert shown["counts"] == {"found": 1, "missed": 2, "false": 1}
    cells = section["found_cells"]
    assert (cells["label"], cells["match"], cells["score"]) == ([1, 2], [1, 0], [0.9, 0.8])
    assert (cells["height"], cells["width"]) == ([10.0, 10.0], [10.0, 10.0])
    assert section["annotated_cells"]["match"] == [1, 0, 0, 0]
    missed, other, false = section["errors"]
    assert (false["cause"], false["score"], false["pixels"]) == ("false", 0.8, 100)
    assert {missed["cause"], other["cause"]} == {"missed"}
    assert sorted([missed["score"] or 0, other["score"] or 0]) == [0, 0.3]  # of the box below the threshold
    raw = rgba(section["layers"]["raw"])
    assert raw.shape[:2] == (SIZE, SIZE)


@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_the_scores(tmp_path, seed):
    rng = np.random.default_rng(seed)
    shown = prepare(tmp_path, [perturbed(rng) for _ in range(3)])
    scores = detection_scores(
        pooled_matches([*matched_sections(tmp_path / "v.h5", tmp_path / "v_found.h5")]), THRESHOLD
    )
    counts = shown["counts"]
    assert counts["found"] == scores["boxes_matched"]
    assert counts["found"] + counts["missed"] == scores["boxes_annotated"]
    assert counts["found"] + counts["false"] == scores["boxes_found"]
    of_sections = [
        [
            len(boxes_of(section, *kind))
            for kind in (("cells", "found"), ("annotation", "missed"), ("cells", "false"))
        ]
        for section in shown["shown"]
    ]
    assert np.sum(of_sections, axis=0).tolist() == [*counts.values()]
    assert [len(section["errors"]) for section in shown["shown"]] == [sum(own[1:]) for own in of_sections]


def test_without_annotation_there_are_only_detections(tmp_path):
    shown = prepare(tmp_path, [([], [], [square(9, 9), square(50, 50)], [0.9, 0.2])], annotated=False)
    (section,) = shown["shown"]
    assert not shown["annotated"] and boxes_of(section, "cells", "found") == [square(9, 9)]
    assert {*section["boxes"]} == {"cells"} and not {"errors", "annotated_cells"} & {*section}


def test_nothing_annotated_and_nothing_found(tmp_path):
    (section,) = prepare(tmp_path, [([], [], [], [])])["shown"]
    assert section["boxes"] == {"annotation": [], "cells": []} and section["errors"] == []


def test_same_inputs_give_the_same_bytes(tmp_path):
    sections = [perturbed(np.random.default_rng(1))]
    prepare(tmp_path, sections)
    first = (tmp_path / "boxes.json").read_bytes()
    prepare(tmp_path, sections)
    assert (tmp_path / "boxes.json").read_bytes() == first


def test_sections_with_most_errors_are_shown(tmp_path):
    right = ([square(10, 10)], [], [square(10, 10)], [0.9])
    wrong = ([square(10, 10)], [], [square(60, 60)], [0.9])
    sections = [right] * 9
    sections[7] = wrong
    shown = prepare(tmp_path, sections, pixels=2 * SIZE * SIZE)
    assert len(shown["shown"]) == 2 and 7 in [section["z"] for section in shown["shown"]]
    assert shown["counts"] == {"found": 8, "missed": 1, "false": 1}


def test_only_the_middle_of_a_large_section_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_lib.figures.shown.SMALLEST", 20)
    true = [square(60, 50), square(2, 2)]
    shown = prepare(tmp_path, [(true, [], [], [])], pixels=1600)
    assert shown["window"] == [40, 40, 40, 40]
    (section,) = shown["shown"]
    assert boxes_of(section, "annotation", "missed") == [square(20, 10), square(-38, -38)]
    assert [error["box"] for error in section["errors"]] == [square(20, 10)]  # that inside


def test_masks_are_a_layer(tmp_path):
    sections = [([square(10, 10)], [], [square(10, 10)], [0.9])]
    files = write(tmp_path, sections)
    labels = np.zeros((1, SIZE, SIZE), np.uint32)
    labels[0, 12:18, 11:19] = 7
    with layout.create(tmp_path / "masks.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
    prepare_detection_layers(
        **files,
        postprocessing=tmp_path / "ssd.json",
        output=tmp_path / "boxes.json",
        segmentation=tmp_path / "masks.h5",
        volume="v",
        network="ssd",
        pixels=10**6,
    )
    (section,) = read_json(tmp_path / "boxes.json")["shown"]
    shown = cells_of(section["layers"]["masks"], section["masks_bits"])
    np.testing.assert_array_equal(shown > 0, labels[0] > 0)


def test_missed_objects_come_before_false_detections_among_the_worst(tmp_path):
    true = [square(10, 10, 20), square(40, 10, 8), square(70, 10, 12)]
    found = [square(10, 60), square(40, 60), square(70, 60)]
    shown = prepare(tmp_path, [(true, [], found, [0.6, 0.9, 0.7])])
    worst = worst_errors([shown])
    assert [one["kind"] for one in worst] == ["missed object"] * 3 + ["false detection"] * 3
    assert [one["detail"] for one in worst] == [
        "box of 400 px, no box",
        "box of 144 px, no box",
        "box of 64 px, no box",
        "score 0.90",
        "score 0.70",
        "score 0.60",
    ]


edges = st.integers(-6, 30)


@given(
    st.lists(st.tuples(edges, edges, st.integers(1, 20), st.integers(1, 20)), max_size=4),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_solid_lines_are_around_the_boxes(places, width, scale):
    """All pixels are compared: those at most `width` px outside of a box are drawn.

    Lines that would be outside of the picture are inside, if the box is within the picture.
    """
    boxes = np.array([(y, x, y + h, x + w) for y, x, h, w in places], float).reshape(-1, 4)
    image = np.full((24 * scale, 20 * scale, 3), 90, np.uint8)
    line = Line("#ff0000", "", width)
    window = slice(3, 27), slice(2, 22)
    shown = box_overlay(image, [(boxes, line)], window, scale)
    expected = np.zeros(image.shape[:2], bool)
    for box in boxes:
        within, inner, visible = True, True, True
        for axis, (start, length) in enumerate(((3, 24 * scale), (2, 20 * scale))):
            low, high = (box[axis] - start) * scale, (box[axis + 2] - start) * scale
            more = max(SMALLEST_SHOWN - (high - low), 0) / 2
            low, high = low - more, high + more
            visible &= low < length and high > 0
            low, high = round(low), round(high)
            first = max(low - width, 0) if low >= 0 else low - width
            last = min(high + width, length) if high <= length else high + width
            at = np.arange(length).reshape([-1, 1][:: 1 if axis == 0 else -1])
            within = within & (first <= at) & (at < last)
            inner = inner & (first + width <= at) & (at < last - width)
        expected |= within & ~inner & visible
    np.testing.assert_array_equal((shown == rgb(line.colour)).all(axis=-1), expected)
    assert (image == 90).all()


@given(st.integers(8, 300), st.sampled_from([MISSED, FALSE]))
def test_dashes_are_symmetric_and_end_in_the_corners(length, line):
    drawn = _dashes(length, line.period)
    assert drawn[0] and drawn[-1]
    np.testing.assert_array_equal(drawn, drawn[::-1])
    gaps = sum(a and not b for a, b in pairwise(drawn.tolist()))
    assert gaps == max(round(length / line.period), 1)
    assert 0.4 < drawn.mean() < 0.85


def test_lines_differ_without_colours():
    """A line of 60 px has no gap, few long dashes or many dots."""
    gaps = [np.count_nonzero(np.diff(_dashes(60, line.period))) // 2 for line in (FOUND, MISSED, FALSE)]
    assert gaps == [0, 4, 6]


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colour_blind_readers_can_distinguish_the_lines(vision):
    assert smallest_distance([line.colour for line in (FOUND, MISSED, FALSE)], vision) > 30


def test_a_missed_object_is_visible_below_other_boxes():
    box = np.array([[10.0, 10, 40, 40]])
    own = Outcome(found=box, missed=box, false=box, ignored=box)
    image = np.zeros((50, 50, 3), np.uint8)
    shown = box_overlay(image, own.lines, (slice(0, 50), slice(0, 50)), 1)
    alone = box_overlay(image, [(box, MISSED)], (slice(0, 50), slice(0, 50)), 1)
    here = (alone == rgb(MISSED.colour)).all(axis=-1)
    assert (shown[here] == rgb(MISSED.colour)).all()


# charts


def some_matches(seed, sections=5):
    rng = np.random.default_rng(seed)
    found = [perturbed(rng) for _ in range(sections)]
    return pooled_matches([match_boxes(true, boxes, scores) for true, _, boxes, scores in found])


def lines(axes, style):
    return [line for line in axes.get_lines() if line.get_linestyle() == style]


def markers(axes):
    return [line for line in axes.get_lines() if line.get_marker() not in ("None", "", None)]


def test_curves_are_precision_recall_and_froc_with_the_threshold_marked():
    matches = {"test": some_matches(0), "validation": some_matches(1, 3)}
    precision, froc = curve_chart(matches, THRESHOLD).axes
    for number, (split, style) in enumerate(zip(matches, ("-", "--"), strict=True)):
        curve = matches[split].curve()
        (line,) = lines(precision, style)
        assert line.get_label() == split
        np.testing.assert_array_equal(line.get_xdata(), curve.recall)
        np.testing.assert_array_equal(line.get_ydata(), curve.precision)
        scores = detection_scores(matches[split], THRESHOLD)
        found, true = scores["boxes_found"], scores["boxes_matched"]
        (x,), (y,) = markers(precision)[number].get_data()
        assert (x, y) == pytest.approx((true / scores["boxes_annotated"], true / found))
        (step,) = lines(froc, style)
        assert step.get_drawstyle() == "steps-post"
        rates, recall = step.get_data()
        at_rates = recall[np.searchsorted(rates, FROC_RATES, side="right") - 1]
        np.testing.assert_array_equal(at_rates, curve.sensitivity())
        (x,), (y,) = markers(froc)[number].get_data()
        assert (x, y) == pytest.approx(((found - true) / curve.n_sections, true / scores["boxes_annotated"]))


def test_counts_are_shown_for_each_section_with_the_limits_of_agreement():
    matches = {"test": some_matches(0), "validation": some_matches(1, 3)}
    scatter, agreement = count_chart(matches, THRESHOLD).axes
    for points, differences, own in zip(markers(scatter), markers(agreement), matches.values(), strict=True):
        truth, found = own.counts(THRESHOLD)
        np.testing.assert_array_equal(points.get_data(), [truth, found])
        np.testing.assert_array_equal(differences.get_data(), [(truth + found) / 2, found - truth])
    (diagonal,) = lines(scatter, "-")
    np.testing.assert_array_equal(*diagonal.get_data())
    errors = count_errors(*matches["test"].counts(THRESHOLD))
    assert [line.get_ydata()[0] for line in lines(agreement, "-")] == [0, errors["count_difference"]]
    assert [line.get_ydata()[0] for line in lines(agreement, "--")] == [
        errors["count_limit_low"],
        errors["count_limit_high"],
    ]
    assert agreement.get_title() == (
        f"difference, test split: mean {errors['count_difference']:+.2f}, 95 % limits "
        f"{errors['count_limit_low']:+.1f} and {errors['count_limit_high']:+.1f}"
    )


def test_a_single_section_has_no_limits_of_agreement():
    _, agreement = count_chart({"test": some_matches(0, 1)}, THRESHOLD).axes
    assert lines(agreement, "--") == []
    assert "limits" not in agreement.get_title()


def test_charts_of_volumes_pool_all_sections_of_a_split(tmp_path):
    rng = np.random.default_rng(5)
    volumes = [write(tmp_path, [perturbed(rng)], name=f"v{k}") for k in range(3)]
    volumes[2]["split"] = "validation"
    curves, counts = tmp_path / "curves.svg", tmp_path / "counts.svg"
    draw_detection_charts(volumes, tmp_path / "ssd.json", curves, counts)
    pooled = {
        split: pooled_matches(
            [m for k in numbers for m in matched_sections(tmp_path / f"v{k}.h5", tmp_path / f"v{k}_found.h5")]
        )
        for split, numbers in (("test", (0, 1)), ("validation", (2,)))
    }
    for split, own in pooled.items():
        expected = detection_scores(own, THRESHOLD)
        assert describe(curves)["scores"][split] == pytest.approx(expected, nan_ok=True)
    assert {path.rpartition("/")[2] for path in describe(counts)["provenance"]["inputs"]} == {
        "ssd.json",
        *(f"v{k}{end}" for k in range(3) for end in (".h5", "_found.h5")),
    }
    before = curves.read_bytes(), counts.read_bytes()
    draw_detection_charts(volumes, tmp_path / "ssd.json", curves, counts)
    assert (curves.read_bytes(), counts.read_bytes()) == before
