"""Pictures of detections: each box has the colour and line of what became of it, at its place."""

import tracemalloc
from itertools import pairwise

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline_lib import layout
from pipeline_lib.figures import describe
from pipeline_lib.figures.boxes import (
    CLOSE_UP_SHOWN,
    FALSE,
    FOUND,
    IGNORED,
    MISSED,
    PLACES,
    SMALLEST_SHOWN,
    Line,
    Outcome,
    _dashes,
    _gathered,
    box_overlay,
    reduced,
)
from pipeline_lib.figures.colouring import magnified, raw_picture, rgb
from pipeline_lib.figures.detection_charts import count_chart, curve_chart
from pipeline_lib.metrics import (
    FROC_RATES,
    count_errors,
    detection_scores,
    match_boxes,
    pooled_matches,
)
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.detection_figures import draw_detection_charts, draw_detections
from pipeline_lib.tasks.detection.found import Found, create_arrays
from pipeline_lib.tasks.detection.scores import matched_sections
from pipeline_lib.tasks.detection.truth import box_writer
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


def draw(folder, sections, **settings):
    files = write(folder, sections, **settings)
    output, volume = folder / "boxes.png", settings.get("name", "v")
    draw_detections(**files, postprocessing=folder / "ssd.json", output=output, volume=volume)
    return output


def panels(picture):
    """The picture in each panel, in their order."""
    image = np.asarray(Image.open(picture).convert("RGB"))
    return [image[y : y + h, x : x + w] for x, y, w, h in (own["box"] for own in describe(picture)["panels"])]


def titles(picture):
    return [panel["title"] for panel in describe(picture)["panels"]]


def frame(image, box, scale, width):
    """The pixels of the lines around a box, from its upper left corner along its four sides."""
    y0, x0, y1, x1 = (round(edge * scale) for edge in box)
    rows, columns = slice(y0 - width, y1 + width), slice(x0 - width, x1 + width)
    sides = image[y0 - width, columns], image[y1, columns], image[rows, x0 - width], image[rows, x1]
    return np.concatenate(sides)


def share(pixels, colour):
    return (pixels == rgb(colour)).all(axis=-1).mean()


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


def test_boxes_have_the_line_of_what_became_of_them(tmp_path):
    """Section 2 has most errors: two missed objects and a false detection."""
    picture = draw(tmp_path, CASE)
    overview = panels(picture)[0]
    scale = len(overview) // SIZE
    assert scale == 8
    for box, line, drawn in (
        (square(20, 20), FOUND, 1.0),
        (square(20, 60), MISSED, 0.5),
        (square(60, 20, 16), MISSED, 0.5),
        (square(80, 60), FALSE, 0.5),
        (square(90, 90, 4), IGNORED, 1.0),
    ):
        assert share(frame(overview, box, scale, line.width), line.colour) == pytest.approx(drawn, abs=0.12)
    y0, x0, y1, x1 = (edge * scale for edge in square(20, 20))
    with h5py.File(tmp_path / "v.h5") as file:
        raw = magnified(raw_picture(file["raw"][:, 1]), scale)
    inside = np.s_[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]  # the rim is one pixel
    np.testing.assert_array_equal(overview[inside], raw[inside])
    assert describe(picture)["panels"][0]["legend"] == [
        [FOUND.colour, "found: 1 (solid line)"],
        [MISSED.colour, "missed: 2 (dashed line)"],
        [FALSE.colour, "false: 1 (dotted line)"],
        [IGNORED.colour, "not scored: 1 (thin gray line)"],
    ]
    assert titles(picture)[0] == "section 2 of 2, with the most missed and false ones"
    assert describe(picture)["title"] == (
        "v: 2 of 5 found, 3 missed, 1 false at a score of at least 0.50, test split"
    )


@pytest.mark.parametrize("seed", range(8))
def test_numbers_are_those_of_the_scores(tmp_path, seed):
    rng = np.random.default_rng(seed)
    sections = [perturbed(rng) for _ in range(3)]
    picture = draw(tmp_path, sections)
    matches = pooled_matches([*matched_sections(tmp_path / "v.h5", tmp_path / "v_found.h5")])
    scores = detection_scores(matches, THRESHOLD)
    counts = describe(picture)["counts"]
    assert counts["found"] == scores["boxes_matched"]
    assert counts["found"] + counts["missed"] == scores["boxes_annotated"] == 3 * 17
    assert counts["found"] + counts["false"] == scores["boxes_found"]


def test_without_annotation_all_detections_of_the_middle_section_are_drawn(tmp_path):
    picture = draw(tmp_path, [*CASE, CASE[0]], annotated=False)
    (overview,) = panels(picture)
    for box in (square(20, 20), square(80, 60)):
        assert share(frame(overview, box, 8, FOUND.width), FOUND.colour) == 1
    assert share(overview, MISSED.colour) == share(overview, FALSE.colour) == 0
    below = frame(overview, square(61, 20, 16), 8, FOUND.width)
    assert share(below, FOUND.colour) == 0
    found = describe(picture)
    assert found["panels"][0]["legend"] == [[FOUND.colour, "detections: 3 (solid line)"]]
    assert found["counts"] == {"found": 5}
    assert found["title"] == "v: 5 detections at a score of at least 0.50, test split"
    assert titles(picture) == ["section 2 of 3"]


def test_nothing_annotated_and_nothing_found(tmp_path):
    picture = draw(tmp_path, [([], [], [], [])])
    assert describe(picture)["title"].startswith("v: 0 of 0 found, 0 missed, 0 false at")
    assert titles(picture) == ["120 x 120 px"]


def test_a_long_title_is_not_cut_off(tmp_path):
    picture = draw(tmp_path, [([], [], [], [])], name=10 * "long_name_")
    image = np.asarray(Image.open(picture).convert("L"))
    title = np.flatnonzero((image[:60] < 128).any(axis=0))
    assert title[-1] > 1500 and title[-1] < image.shape[1] - 20


def test_same_inputs_give_the_same_bytes(tmp_path):
    first = draw(tmp_path, CASE).read_bytes()
    assert draw(tmp_path, CASE).read_bytes() == first


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
    own = Outcome(box, box, np.array([np.nan]), box, np.array([0.9]), box)
    image = np.zeros((50, 50, 3), np.uint8)
    shown = box_overlay(image, own.lines, (slice(0, 50), slice(0, 50)), 1)
    alone = box_overlay(image, [(box, MISSED)], (slice(0, 50), slice(0, 50)), 1)
    here = (alone == rgb(MISSED.colour)).all(axis=-1)
    assert (shown[here] == rgb(MISSED.colour)).all()


# worst places


def test_close_ups_show_large_missed_objects_and_sure_false_detections(tmp_path):
    picture = draw(tmp_path, CASE)
    assert titles(picture)[1:] == [
        "1. missed, 16 x 16 px, score 0.40",
        "2. missed, 14 x 14 px, no detection",
        "3. missed, 10 x 10 px, no detection",
        "4. false, score 0.70",
    ]
    where = [panel["legend"] for panel in describe(picture)["panels"][1:]]
    expected = [
        "section 2, x 28, y 68",
        "section 1, x 57, y 17",
        "section 2, x 65, y 25",
        "section 2, x 65, y 85",
    ]
    assert where == [[[None, text]] for text in expected]
    with h5py.File(tmp_path / "v.h5") as file:
        raw = file["raw"][0]
    for shown, (z, y, x, side), line in zip(
        panels(picture)[1:],
        ((1, 68, 28, 48), (0, 17, 57, 48), (1, 25, 65, 48), (1, 85, 65, 48)),
        (MISSED, MISSED, MISSED, FALSE),
        strict=True,
    ):
        assert shown.shape == (CLOSE_UP_SHOWN, CLOSE_UP_SHOWN, 3)
        top, left = (min(max(at - side // 2, 0), SIZE - side) for at in (y, x))
        scale = CLOSE_UP_SHOWN // side
        level = raw_picture(raw[z][None])
        at = (y - top) * scale + 1, (x - left) * scale + 1
        assert shown[at].tolist() == level[y, x].tolist()
        assert share(shown, line.colour) > 0.005


def test_there_are_as_many_close_ups_of_both_kinds_if_there_are_enough(tmp_path):
    def drawn(missed, false):
        true = [square(8 * (k // 14), 8 * (k % 14), 3 + k % 4) for k in range(missed)]
        boxes = [square(60 + 8 * (k // 14), 8 * (k % 14), 6) for k in range(false)]
        found = titles(draw(tmp_path, [(true, [], boxes, np.linspace(0.9, 0.6, false))]))[1:]
        assert [title.split(".")[0] for title in found] == [str(k) for k in range(1, len(found) + 1)]
        return [sum(kind in title for title in found) for kind in ("missed", "false")]

    assert drawn(20, 20) == [PLACES // 2, PLACES // 2]
    assert drawn(20, 2) == [PLACES - 2, 2]
    assert drawn(1, 20) == [1, PLACES - 1]
    assert drawn(2, 3) == [2, 3]


def test_worst_places_of_all_sections_are_compared(tmp_path):
    """Section k misses an object of 4 + k px."""
    order = [3, 0, 5, 1, 4, 2]
    sections = [([square(50, 50, 4 + k)], [], [square(10, 10)], [0.6 + k / 20]) for k in order]
    found = describe(draw(tmp_path, sections))["panels"][1:]
    numbers = [int(own["legend"][0][1].split(",")[0].split()[1]) - 1 for own in found]
    assert numbers == [order.index(k) for k in (5, 4, 3, 2, 1, 0)] * 2


# large sections


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 7),
    st.integers(0, 9),
    st.sampled_from([np.uint8, np.float32]),
)
def test_a_reduced_picture_has_the_means_of_squares(height, width, factor, start, dtype):
    rng = np.random.default_rng(height * width)
    raw = rng.integers(0, 256, (2, 2, height + start, width + start)).astype(dtype)
    window = slice(start, start + height), slice(start, start + width)
    found = reduced(raw, 1, window, factor)
    part = raw[:, 1, window[0], window[1]].astype(float)
    assert found.dtype == dtype and found.shape == (2, -(-height // factor), -(-width // factor))
    for c, y, x in np.ndindex(found.shape):
        rows, columns = (slice(at * factor, (at + 1) * factor) for at in (y, x))
        mean = part[c, rows, columns].mean()
        assert found[c, y, x] == pytest.approx(np.round(mean) if dtype == np.uint8 else mean, rel=1e-6)


def test_bands_of_a_large_section_are_joined():
    raw = np.random.default_rng(0).integers(0, 256, (1, 1, 700, 90)).astype(np.uint8)
    found = reduced(raw, 0, (slice(0, 700), slice(0, 90)), 7)
    mean = raw[0, 0, :, :84].reshape(100, 7, 12, 7).mean(axis=(1, 3))
    np.testing.assert_array_equal(found[0, :, :12], np.round(mean))


def test_a_large_section_is_shown_smaller_and_with_little_memory(tmp_path):
    """A section of 16,000 px has 256 MB, which are not stored in the file, because all of it is 0."""
    size = 16_000
    true = [square(y, x, 120) for y in range(100, size - 200, 400) for x in range(100, size - 200, 400)]
    missed, false = square(7040, 3000, 150), square(7100, 3500, 150)
    section = ([*true, missed], [], [*true, false], np.linspace(0.9, 0.6, len(true) + 1))
    files = write(tmp_path, [section], size=size)
    tracemalloc.start()
    draw_detections(**files, postprocessing=tmp_path / "ssd.json", output=tmp_path / "large.png", volume="v")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # most of it for the picture
    found = titles(tmp_path / "large.png")
    assert found[:2] == ["16000 x 16000 px, shown at 1:16", "512 px at x 3072, y 6656"]
    overview, detail, *close_ups = panels(tmp_path / "large.png")
    assert overview.shape == (1000, 1000, 3) and len(close_ups) == 2
    assert share(frame(overview, true[0], 1 / 16, 1), FOUND.colour) == 1
    assert share(frame(overview, missed, 1 / 16, MISSED.width), MISSED.colour) > 0.4
    assert share(frame(overview, false, 1 / 16, FALSE.width), FALSE.colour) > 0.3
    inside = np.array(missed) - [6656, 3072] * 2
    assert inside[0] > 0 > inside[1]  # the left side of the missed object is outside of the part in full size
    assert share(detail[inside[0] - 1, : inside[3]], MISSED.colour) > 0.3


def test_memory_does_not_grow_with_the_number_of_sections():
    """400 sections have 2,000 boxes each, together 26 MB."""

    def outcomes():
        rng = np.random.default_rng(0)
        for _ in range(400):
            boxes = np.hstack([corner := rng.uniform(0, 50, (2000, 2)), corner + 8])
            yield Outcome(boxes, boxes[:20], np.full(20, 0.1), boxes[:20], rng.random(20), NONE)

    tracemalloc.start()
    counts, *_ = _gathered(outcomes(), 200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts == [800_000, 8000, 8000]
    assert peak < 4e6


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
