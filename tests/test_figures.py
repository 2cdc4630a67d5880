"""Pictures, compared pixel by pixel. Panels are cut out of the PNG files by the boxes they describe."""

import json
from itertools import product

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter
from skimage.color import rgb2lab

from pipeline_lib import layout, metrics, provenance
from pipeline_lib.data.labels import separation_border
from pipeline_lib.figures import describe
from pipeline_lib.figures.charts import ERRORS, threshold_chart, training_chart
from pipeline_lib.figures.colouring import hatched, instances_coloured, magnified, raw_picture, rgb
from pipeline_lib.figures.errors import CLOSE_UP, NAMES, save_error_sheet, worst_places
from pipeline_lib.figures.overlay import COLOURS, DASH, error_overlay, inside, near, outline_overlay
from pipeline_lib.figures.palette import BACKGROUND, HATCH, class_colours
from pipeline_lib.figures.stored import consecutive, consistent_probability
from pipeline_lib.figures.volume import ANNOTATED, FOUND, matched_labels, save_volume_strip
from pipeline_lib.instances.postprocessing import PostProcessing, above, instances
from pipeline_lib.metrics import Mismatch
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.pictures import draw_errors, draw_thresholds, draw_training, draw_volume_strip
from pipeline_lib.stages.segmentation import segment

OUTLINED = "cells found and annotated"
SPLIT, MERGER = (rgb(COLOURS[kind]) for kind in (Mismatch.SPLIT, Mismatch.MERGER))


@pytest.fixture
def case(tmp_path):
    """Two sections of four cells. In the second, the prediction merges cells 1 and 2 and splits cell 3."""
    labels = np.zeros((2, 60, 50), np.uint32)
    for label, (y, x) in enumerate([(2, 2), (2, 26), (32, 2), (32, 26)], 1):
        labels[:, y : y + 26, x : x + 22] = label
    probability = np.where(labels > 0, 0.9, 0.1)
    probability[1, 10:16, 24:26] = 0.6
    probability[1, 45, 2:24] = 0.4
    return write_case(tmp_path, labels, probability)


def write_case(folder, labels, probability, annotated=True):
    rng = np.random.default_rng(0)
    with layout.create(folder / "dataset.h5", {}) as file:
        raw = layout.add(file, layout.RAW, (1, *labels.shape), "uint8")
        raw[:] = rng.integers(0, 255, raw.shape)
        if annotated:
            layout.add(file, layout.LABELS, labels.shape)[:] = labels
            border = layout.add(file, layout.SEPARATION_BORDER, labels.shape)
            border[:] = np.stack([separation_border(section, 2) for section in labels])
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = probability
    with layout.create(folder / "weight_map.h5", {}) as file:
        layout.add(file, layout.WEIGHT_MAP, labels.shape)[:] = rng.uniform(0, 7, labels.shape)
    write_json(folder / "postprocessing.json", {"threshold": 0.5, "minimum_size": 0})
    segment(folder / "prediction.h5", folder / "postprocessing.json", folder / "segmentation.h5")
    return folder


def store_labels(folder, labels):
    """Replace the labels that `segment` wrote."""
    with layout.create(folder / "segmentation.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
    provenance.record_path(folder / "segmentation.h5").unlink()


def draw_strip(case, weight_map=True, output="strip.png"):
    weights = case / "weight_map.h5" if weight_map else None
    draw_volume_strip(
        case / "dataset.h5",
        weights,
        case / "prediction.h5",
        case / "segmentation.h5",
        case / "postprocessing.json",
        case / output,
        volume="v",
        split="test",
    )
    return case / output


def draw_error_map(case, output="errors.png"):
    names = ("dataset.h5", "prediction.h5", "segmentation.h5", "postprocessing.json", output)
    paths = [case / name for name in names]
    draw_errors(*paths, volume="v")
    return case / output


def read_panels(picture):
    """RGB array of the picture in each panel, by title."""
    image = np.asarray(Image.open(picture).convert("RGB"))
    boxes = {panel["title"]: panel["box"] for panel in describe(picture)["panels"]}
    return {title: image[y : y + h, x : x + w] for title, (x, y, w, h) in boxes.items()}


def has(image, colour):
    return (image == colour).all(axis=2)


def add_ignored(case, ignore):
    """Add pixels that are not annotated to the dataset of a case, as `build_dataset` does."""
    with h5py.File(case / "dataset.h5", "r+") as file:
        layout.add(file, layout.IGNORE, ignore.shape)[:] = ignore
        for name in ("labels", "separation_border"):
            file[name][:] = np.where(ignore, 0, file[name][:])


def legends(picture):
    return [text for panel in describe(picture)["panels"] for _, text in panel["legend"]]


# pixels that are not annotated


@pytest.mark.parametrize("scale", [1, 3])
def test_only_ignored_pixels_are_hatched(scale):
    image = np.full((40, 60, 3), 200, np.uint8)
    ignored = np.zeros((20, 30), bool)
    ignored[5:, :20] = True
    shown = hatched(image, ignored, scale)
    inside = magnified(ignored, 2)
    assert (shown[~inside] == 200).all() and (shown[inside] != 200).all()
    stripes = has(shown, rgb(HATCH))
    assert 0.2 < stripes[inside].mean() < 0.4
    np.testing.assert_array_equal(stripes[11:, :39], stripes[10:-1, 1:40])  # diagonal
    assert hatched(image, None) is image


def test_ignored_pixels_are_hatched_in_pictures_of_truth_and_errors(case):
    """The second section has a merger at (10..15, 24..25) and a split at row 45; the merger is ignored."""
    before = read_panels(draw_strip(case))
    all_legends = legends(case / "strip.png")
    assert "mergers: 0 px" not in all_legends and "splits: 0 px" not in all_legends
    ignore = np.zeros((2, 60, 50), np.uint8)
    ignore[1, :20, 10:] = 1
    add_ignored(case, ignore)
    after = read_panels(draw_strip(case, output="hatched.png"))
    factor = len(after["annotation"]) // 60
    inside = magnified(ignore[1] > 0, factor)
    for title in (OUTLINED, "segmentation", "annotation", "separation border", "weight map"):
        stripes = has(after[title], rgb(HATCH))
        assert stripes[inside].mean() > 0.2 and not stripes[~inside].any(), title
    for title in ("raw image", "cell probability"):
        np.testing.assert_array_equal(after[title], before[title])
    found = legends(case / "hatched.png")
    assert found.count("hatched: not annotated, 800 px") == 5 and "mergers: 0 px" in found

    sheet = draw_error_map(case)
    assert "hatched: not annotated, 800 px" in legends(sheet)
    counts = {name: places for name, _, _, places, _ in describe(sheet)["counts"]}
    assert counts["split"] == 1 and counts["merger"] == 0


@pytest.mark.parametrize("section", [0, 1])
def test_section_without_annotation_is_drawn_only_if_no_other_has_any(case, section):
    ignore = np.zeros((2, 60, 50), np.uint8)
    ignore[section] = 1
    add_ignored(case, ignore)
    assert not any("hatched" in text for text in legends(draw_strip(case)))
    assert describe(case / "strip.png")["title"] == f"v: section {2 - section} of 2, test split"
    merged = {name: places for name, _, _, places, _ in describe(draw_error_map(case))["counts"]}["merger"]
    assert merged == (section == 0)


def test_volume_without_any_annotation_is_hatched_as_a_whole(case):
    add_ignored(case, np.ones((2, 60, 50), np.uint8))
    assert legends(draw_strip(case)).count("hatched: not annotated, 3,000 px") == 5
    assert not any(places for _, _, _, places, _ in describe(draw_error_map(case))["counts"])


def test_no_ignored_pixel_changes_no_picture(case):
    before = read_panels(draw_strip(case)), read_panels(draw_error_map(case))
    texts = legends(case / "strip.png"), legends(case / "errors.png")
    add_ignored(case, np.zeros((2, 60, 50), np.uint8))
    after = read_panels(draw_strip(case)), read_panels(draw_error_map(case))
    assert texts == (legends(case / "strip.png"), legends(case / "errors.png"))
    for one, other in zip(before, after, strict=True):
        for title in one:
            np.testing.assert_array_equal(one[title], other[title])


# colours


@given(
    arrays(np.uint8, (12, 14), elements=st.sampled_from([0] * 40 + [int(kind) for kind in Mismatch])),
    st.integers(0, 2),
)
def test_errors_are_marked_only_where_they_are(codes, radius):
    image = np.full((*codes.shape, 3), 77, np.uint8)
    shown = error_overlay(image, codes, radius)
    order = list(COLOURS)
    for y, x in np.ndindex(codes.shape):
        squared = {tuple(at): (y - at[0]) ** 2 + (x - at[1]) ** 2 for at in np.argwhere(codes)}
        near = {codes[at] for at, d in squared.items() if d <= radius * (radius + 0.5)}
        rim = any(d <= (radius + 1) * (radius + 1.5) for d in squared.values())
        expected = rgb(COLOURS[min(near, key=order.index)]) if near else np.full(3, 0 if rim else 77)
        assert shown[y, x].tolist() == expected.tolist() or radius == 0 or is_inside(codes, y, x, radius)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.integers(0, 12))
def test_near_is_a_dilation_and_inside_an_erosion_by_a_disc(mask, radius):
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = y * y + x * x <= radius * (radius + 0.5)
    np.testing.assert_array_equal(near(mask, radius), binary_dilation(mask, disc))
    np.testing.assert_array_equal(inside(mask, radius), binary_erosion(mask, disc))


def is_inside(codes, y, x, radius):
    """Whether the pixel is deep within one kind of error, where the image is visible through it."""
    reach = range(-2 * radius, 2 * radius + 1)
    disc = [(y + i, x + j) for i in reach for j in reach if i * i + j * j <= 2 * radius * (2 * radius + 0.5)]
    within = all(0 <= i < codes.shape[0] and 0 <= j < codes.shape[1] for i, j in disc)
    return within and len({codes[at] for at in disc}) == 1


def test_large_errors_are_half_transparent():
    image = np.full((30, 30, 3), 100, np.uint8)
    codes = np.full((30, 30), Mismatch.HOLE_ADDITION, np.uint8)
    yellow = rgb(COLOURS[Mismatch.HOLE_ADDITION])
    assert error_overlay(image, codes)[15, 15].tolist() == (50 + yellow // 2).tolist()


# Machado et al. 2009, severity 1, for linear RGB
COLOUR_VISION = {
    "normal": np.eye(3),
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_colour_blind_readers_can_distinguish_kinds_of_error_and_outlines(vision):
    # Colours at a distance of 2 can just be distinguished side by side.
    assert smallest_distance([*COLOURS.values()], vision) > 14
    assert smallest_distance([ANNOTATED, FOUND], vision) > 40


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
    assert (instances_coloured(labels, window) == instances_coloured(labels)[window]).all()
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


labels_of_cells = arrays(np.uint32, (9, 17), elements=st.sampled_from([0, 3, 7]))


@given(labels_of_cells, labels_of_cells)
def test_outlines_have_the_colour_of_their_cells_and_both_where_they_coincide(first, second):
    image = np.full((9, 17, 3), 90, np.uint8)
    shown = outline_overlay(image, (first, ANNOTATED), (second, FOUND))
    one, other = edge_pixels(first), edge_pixels(second)
    dash = np.add(*np.indices(one.shape)) // DASH % 2 == 0
    np.testing.assert_array_equal(has(shown, rgb(ANNOTATED)), one & (~other | dash))
    np.testing.assert_array_equal(has(shown, rgb(FOUND)), other & ~(one & dash))
    np.testing.assert_array_equal(has(shown, [90] * 3), ~one & ~other)
    assert (image == 90).all()


def test_found_and_annotated_cells_are_outlined_on_the_raw_image(case):
    panels = read_panels(draw_strip(case))
    with (
        layout.require(case / "dataset.h5", layout.LABELS) as file,
        layout.require(case / "segmentation.h5", layout.LABELS) as segmented,
    ):
        labels, found = file["labels"][1], segmented["labels"][1]
    factor = len(panels["raw image"]) // 60
    both = ((magnified(labels, factor), ANNOTATED), (magnified(found, factor), FOUND))
    np.testing.assert_array_equal(panels[OUTLINED], outline_overlay(panels["raw image"], *both))
    legend = describe(case / "strip.png")["panels"][1]["legend"]
    assert legend == [[ANNOTATED, "annotated: 4 cells"], [FOUND, "found: 4 cells"]]


# the stored segmentation


@given(arrays(np.uint32, (5, 6), elements=st.sampled_from([0, 0, 3, 70_000, 2**32 - 1])))
def test_labels_are_renumbered_in_ascending_order(labels):
    found = consecutive(labels)
    values = np.unique(labels[labels > 0])
    assert found.dtype == np.int32 and ((found == 0) == (labels == 0)).all()
    for number, value in enumerate(values, 1):
        assert ((found == number) == (labels == value)).all()


@given(
    arrays(np.uint32, (9, 11), elements=st.sampled_from([0, 0, 0, 1, 2, 3])),
    arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32)),
    st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.95, 1 - 2**-53]),
)
def test_a_consistent_probability_gives_the_segments_and_is_otherwise_unchanged(labels, probability, t):
    decided = consistent_probability(probability, labels, t)
    cells, before = above(decided, t), above(probability, t)
    assert decided.dtype == np.float32 and decided.min() >= 0 and decided.max() <= 1
    np.testing.assert_array_equal(decided[cells == before], probability[cells == before])
    assert np.abs(decided[cells != before] - np.float32(t)).max(initial=0) < 1e-7  # not more than necessary
    assert not (cells & (labels == 0)).any()
    regions = metrics.connected_components(cells)
    assert all(len(np.unique(labels[regions == region])) == 1 for region in range(1, regions.max() + 1))
    touching = separation_border(labels, 2)
    np.testing.assert_array_equal(cells | touching, labels > 0)  # only pixels between segments are lost


@given(arrays(np.float32, (9, 11), elements=st.floats(0, 1, width=32)))
def test_a_probability_that_agrees_with_the_segments_is_not_copied(probability):
    labels = instances(probability, PostProcessing(0.5))
    assert consistent_probability(probability, labels, 0.5) is probability


# the row of pictures of a volume


def test_panels_show_the_arrays_pixel_by_pixel(case):
    panels = read_panels(draw_strip(case))
    assert list(panels) == [
        "raw image",
        OUTLINED,
        "segmentation",
        "annotation",
        "separation border",
        "weight map",
        "cell probability",
    ]
    with layout.require(case / "dataset.h5", layout.RAW, layout.LABELS) as file:
        raw, labels = file["raw"][:, 1], file["labels"][1]
    factor = len(panels["raw image"]) // 60
    assert (panels["raw image"] == magnified(raw_picture(raw), factor)).all()
    assert (panels["annotation"] == magnified(instances_coloured(labels), factor)).all()
    with layout.require(case / "weight_map.h5", layout.WEIGHT_MAP) as file:
        weights = file["weight_map"][1]
    highest = panels["weight map"][::factor, ::factor][np.unravel_index(weights.argmax(), weights.shape)]
    assert highest.tolist() == [253, 231, 36]  # the end of viridis
    scale = next(p["scale"] for p in describe(case / "strip.png")["panels"] if p["title"] == "weight map")
    assert scale["high"] == pytest.approx(weights.max())
    assert scale["colours"][-1] == "#fde724"


def test_splits_and_mergers_are_marked_in_the_segmentation(case):
    segmentation = read_panels(draw_strip(case))["segmentation"]
    factor = len(segmentation) // 60
    merged, split = has(segmentation, MERGER), has(segmentation, SPLIT)
    gap, cut = np.zeros((2, 60, 50), bool)
    gap[9:17, 23:27], cut[44:47, 1:25] = True, True
    for marked, place in ((merged, gap), (split, cut)):
        assert marked.any()
        assert not (marked & ~magnified(place, factor)).any()
    # After warping, the gap differs along its whole length, the cut (1 px thick) only in a single pixel.
    legend = describe(case / "strip.png")["panels"][2]["legend"]
    assert [text for _, text in legend] == ["splits: 1 px", "mergers: 6 px"]


def test_a_split_cell_keeps_its_colour_and_merged_cells_share_one(case):
    panels = read_panels(draw_strip(case))
    annotation, segmentation = (panels[name] for name in ("annotation", "segmentation"))
    factor = len(segmentation) // 60
    at = {
        name: (y * factor, x * factor)
        for name, (y, x) in {
            "1": (5, 10),
            "2": (5, 40),
            "upper 3": (38, 10),
            "lower 3": (52, 10),
            "4": (50, 40),
        }.items()
    }
    assert (segmentation[at["1"]] == segmentation[at["2"]]).all()
    for name in ("upper 3", "lower 3", "4"):
        assert (segmentation[at[name]] == annotation[at[name]]).all()


def test_a_volume_without_annotation_has_fewer_pictures(tmp_path):
    nothing = np.zeros((3, 8, 9), np.uint32)
    case = write_case(tmp_path, nothing, np.eye(8, 9)[None].repeat(3, 0), annotated=False)
    panels = read_panels(draw_strip(case, weight_map=False))
    assert list(panels) == ["raw image", "cells found", "segmentation", "cell probability"]
    assert has(panels["cells found"], rgb(FOUND)).any()
    assert not has(panels["cells found"], rgb(ANNOTATED)).any()
    description = describe(case / "strip.png")
    assert description["title"] == "v: section 2 of 3, test split"
    assert description["panels"][1]["legend"] == [[FOUND, "found: 8 cells"]]
    assert description["panels"][2]["legend"] == [[None, "8 cells"]]


def test_colours_do_not_depend_on_earlier_sections(case):
    for annotated in (True, False):
        if not annotated:
            with h5py.File(case / "dataset.h5", "a") as file:
                del file["labels"]
        segment(case / "prediction.h5", case / "postprocessing.json", case / "segmentation.h5")
        expected = read_panels(draw_strip(case))
        with layout.require(case / "segmentation.h5", layout.LABELS) as file:
            labels = file["labels"][:]
        store_labels(case, np.where(labels, labels + 1001, 0))
        for shown, panel in zip(read_panels(draw_strip(case)).values(), expected.values(), strict=True):
            np.testing.assert_array_equal(shown, panel)


def test_arrays_give_the_same_pictures_as_files_and_are_not_changed(case):
    with (
        layout.require(case / "dataset.h5") as data,
        layout.require(case / "weight_map.h5") as weighted,
        layout.require(case / "prediction.h5") as predicted,
        layout.require(case / "segmentation.h5") as segmented,
    ):
        given = {
            "raw": data["raw"][:],
            "labels": data["labels"][:],
            "border": data["separation_border"][:],
            "probability": predicted["cell_probability"][:],
            "segmented": segmented["labels"][:],
        }
        weights = weighted["weight_map"][:]
    for array in (*given.values(), weights):
        array.flags.writeable = False
    facts = {"threshold": 0.5, "volume": "v", "record": {}}
    save_volume_strip(case / "strip-arrays.png", **given, weights=weights, split="test", **facts)
    save_error_sheet(case / "errors-arrays.png", **given, **facts)
    for picture in (draw_strip(case), draw_error_map(case)):
        expected, found = describe(picture), describe(picture.with_stem(f"{picture.stem}-arrays"))
        assert found == expected | {"provenance": {}}
        panels = read_panels(picture.with_stem(f"{picture.stem}-arrays"))
        for shown, panel in zip(panels.values(), read_panels(picture).values(), strict=True):
            np.testing.assert_array_equal(shown, panel)


def test_only_the_middle_of_a_large_section_is_shown(tmp_path):
    nothing = np.zeros((1, 600, 40), np.uint32)
    case = write_case(tmp_path, nothing, nothing, annotated=False)
    shown = read_panels(draw_strip(case, weight_map=False))["raw image"]
    with layout.require(case / "dataset.h5", layout.RAW) as file:
        assert (shown == raw_picture(file["raw"][:, 0])[44:556]).all()


@pytest.mark.parametrize("annotated", [True, False])
def test_classes_are_a_row_in_the_colours_of_the_class_map(case, annotated):
    with (
        layout.require(case / "dataset.h5") as data,
        layout.require(case / "prediction.h5") as predicted,
        layout.require(case / "segmentation.h5") as segmented,
    ):
        given = {
            "raw": data["raw"][:],
            "labels": data["labels"][:] if annotated else None,
            "border": data["separation_border"][:] if annotated else None,
            "weights": None,
            "probability": predicted["cell_probability"][:],
            "segmented": segmented["labels"][:],
        }
    names, colours = ["background", "cell", "border"], class_colours(3)
    target = given["segmented"] % 3
    found = np.roll(target, 1, -1)
    save_volume_strip(
        case / "classes.png",
        **given,
        **{"threshold": 0.5, "volume": "v", "split": "test", "record": {}},
        classes=names,
        target=target if annotated else None,
        class_map=found,
    )
    panels = read_panels(case / "classes.png")
    described = describe(case / "classes.png")
    assert described["row_lengths"] == ([3, 2, 3] if annotated else [4, 1])
    maps = {"classes annotated": target, "classes found": found}
    for title, numbers in [*maps.items()][0 if annotated else 1 :]:
        shown, z = panels[title], len(numbers) // 2
        step = len(shown) // numbers.shape[1]
        expected = np.array([rgb(colour) for colour in colours])[numbers[z]]
        assert np.array_equal(shown[step // 2 :: step, step // 2 :: step], expected)
        [legend] = [panel["legend"] for panel in described["panels"] if panel["title"] == title]
        shares = [100 * np.mean(numbers[z] == k) for k in range(3)]
        assert legend == [
            [colour, f"{k} {name}: {share:.1f} %"]
            for k, (name, colour, share) in enumerate(zip(names, colours, shares, strict=True))
        ]


def test_colours_of_classes_differ_and_do_not_depend_on_their_number():
    many = class_colours(22)
    assert len(set(many)) == 22 and class_colours(5) == many[:5]


# the error map


@given(arrays(np.uint8, (21, 34), elements=st.sampled_from([0] * 60 + [int(kind) for kind in Mismatch])))
def test_windows_count_every_error_once_and_splits_and_mergers_come_first(codes):
    places = worst_places(codes, 8, number=1000)
    topological = np.isin(codes, (Mismatch.SPLIT, Mismatch.MERGER)).sum()
    assert sum(severity[0] for severity, _ in places) == topological
    assert sum(severity[1] for severity, _ in places) == np.count_nonzero(codes)
    assert all(codes[window].shape == (8, 8) for _, window in places)
    counted = [severity[0] > 0 for severity, _ in places]
    assert counted == sorted(counted, reverse=True)
    assert worst_places(codes, 8, number=2) == places[:2]


@given(st.integers(0, 10**6), st.integers(3, 20))
def test_the_next_worst_place_has_the_highest_density_of_remaining_errors(seed, size):
    rng = np.random.default_rng(seed)
    codes = rng.choice([0, *Mismatch], p=[0.97] + [0.005] * 6, size=(90, 70)).astype(np.uint8)
    left, expected = codes.copy(), []
    for kinds in ((Mismatch.SPLIT, Mismatch.MERGER), tuple(Mismatch)):
        while len(expected) < 12 and (errors := np.isin(left, kinds)).any():
            density = gaussian_filter(errors.astype(np.float32), size / 6, mode="constant")
            centre = np.unravel_index(density.argmax(), density.shape)
            starts = [
                max(min(int(c) - size // 2, length - size), 0)
                for c, length in zip(centre, left.shape, strict=True)
            ]
            window = tuple(slice(start, start + size) for start in starts)
            expected.append(window)
            left[window] = 0
    assert [window for _, window in worst_places(codes, size, 12)] == expected


def test_a_window_is_centred_on_its_errors_within_the_section():
    codes = np.zeros((100, 100), np.uint8)
    codes[50, 70] = Mismatch.SPLIT
    codes[2, 3:6] = Mismatch.MERGER
    assert [window for _, window in worst_places(codes, 20, 10)] == [
        (slice(0, 20), slice(0, 20)),
        (slice(40, 60), slice(60, 80)),
    ]
    assert worst_places(codes[:5, :6], 20, 10)[0][1] == (slice(0, 5), slice(0, 6))


def test_errors_are_counted_shown_and_listed(case):
    picture = draw_error_map(case)
    counts = {name: (places, pixels) for name, _, _, places, pixels in describe(picture)["counts"]}
    assert counts == dict.fromkeys(NAMES.values(), (0, 0)) | {"split": (1, 1), "merger": (1, 6)}
    (title, overview), *close_ups = read_panels(picture).items()
    assert title.startswith("section 2 of 2")
    factor = len(overview) // 60
    assert has(overview, MERGER)[12 * factor, 24 * factor : 26 * factor].any()
    assert has(overview, SPLIT)[45 * factor, 2 * factor : 24 * factor].any()
    assert [title for title, _ in close_ups] == ["1. section 2: split 1 px, merger 6 px"]
    assert CLOSE_UP > 60  # one window contains both


@pytest.fixture
def large(tmp_path):
    """Sections of 40 x 44 px, with a merger and a split in the middle 30 x 30 px, which is searched."""
    labels = np.zeros((2, 40, 44), np.uint32)
    labels[:, 2:38, 2:21], labels[:, 2:38, 23:42] = 1, 2
    probability = np.where(labels > 0, 0.9, 0.1)
    probability[1, 20:23, 21:23] = 0.9
    probability[1, 28, 2:21] = 0.1
    probability[0, 3, 21:23] = 0.9  # outside of the middle
    return write_case(tmp_path, labels, probability)


def test_only_the_middle_of_too_large_sections_is_searched(large, monkeypatch, tmp_path):
    monkeypatch.setattr("pipeline_lib.figures.volume.LARGEST", 30)
    monkeypatch.setattr("pipeline_lib.figures.errors.LARGEST", 30)
    part = np.s_[:, 5:35, 7:37]
    cut = tmp_path / "cut"
    cut.mkdir()
    with layout.require(large / "dataset.h5") as file, layout.require(large / "prediction.h5") as predicted:
        write_case(cut, file["labels"][part], predicted["cell_probability"][part])
        raw, border = file["raw"][(slice(None), *part)], file["separation_border"][part]
    with layout.require(large / "segmentation.h5") as file:
        store_labels(cut, file["labels"][part])
    with layout.require(large / "weight_map.h5") as file:
        weights = file["weight_map"][part]
    with h5py.File(cut / "dataset.h5", "a") as file, h5py.File(cut / "weight_map.h5", "a") as weighted:
        file["raw"][:], file["separation_border"][:], weighted["weight_map"][:] = raw, border, weights
    for draw in (draw_strip, draw_error_map):
        whole, expected = read_panels(draw(large)), read_panels(draw(cut))
        for shown, panel in zip(whole.values(), expected.values(), strict=True):
            np.testing.assert_array_equal(shown, panel)
    strip, errors = (describe(large / name) for name in ("strip.png", "errors.png"))
    assert strip["panels"][0]["legend"] == [[None, "40 x 44 px"]]
    assert strip["panels"][2]["legend"][-1] == [None, "found in the middle 30 x 30 px"]
    assert errors["panels"][0]["title"].endswith("splits and mergers, only the middle 30 x 30 px of each")
    assert errors["counts"] == describe(cut / "errors.png")["counts"]
    assert describe(cut / "errors.png")["part"] == ""
    assert len(describe(cut / "strip.png")["panels"][2]["legend"]) == 2


def test_only_the_pixels_that_are_drawn_are_read(large, monkeypatch):
    monkeypatch.setattr("pipeline_lib.figures.volume.LARGEST", 30)
    monkeypatch.setattr("pipeline_lib.figures.errors.LARGEST", 30)
    read, most = h5py.Dataset.__getitem__, []
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda *a: most.append(np.size(b := read(*a))) or b)
    draw_strip(large)
    draw_error_map(large)
    assert max(most) == 30 * 30


def test_without_errors_there_are_no_close_ups(case):
    with layout.require(case / "dataset.h5", layout.LABELS) as file:
        write_case(case, file["labels"][:], np.where(file["labels"][:] > 0, 0.9, 0.1))
    description = describe(draw_error_map(case))
    assert len(description["panels"]) == 1
    assert sum(pixels for *_, pixels in description["counts"]) == 0


def test_counts_are_those_of_the_error_map(tmp_path):
    rng = np.random.default_rng(1)
    labels = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((20, 20))).astype(np.uint32)[None].repeat(2, 0)
    labels[:, ::20], labels[:, :, ::20] = 0, 0
    probability = np.clip(np.where(labels > 0, 0.7, 0.3) + rng.normal(0, 0.25, labels.shape), 0, 1)
    probability = probability.astype(np.float32)
    picture = draw_error_map(write_case(tmp_path, labels, probability))
    codes = metrics.error_map(labels > 0, probability, 0.5)
    found = {name: pixels for name, *_, pixels in describe(picture)["counts"]}
    assert found == {NAMES[kind]: np.count_nonzero(codes == kind) for kind in Mismatch}
    assert len(describe(picture)["panels"]) <= 11


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


def test_the_same_inputs_give_the_same_bytes(case):
    HISTORY.to_csv(case / "history.csv", index=False)
    tidy_scores(("test",)).to_csv(case / "scores.csv", index=False)
    for name, chosen in CHOSEN.items():
        write_json(case / f"{name}.json", chosen)

    def draw(tag):
        draw_strip(case, output=f"strip{tag}.png")
        draw_error_map(case, output=f"errors{tag}.png")
        draw_training(case / "history.csv", case / f"training{tag}.png")
        thresholds = [case / f"{name}.json" for name in CHOSEN]
        draw_thresholds(case / "scores.csv", thresholds, case / f"thresholds{tag}.png")
        return [(case / f"{name}{tag}.png") for name in ("strip", "errors", "training", "thresholds")]

    for first, second in zip(draw("1"), draw("2"), strict=True):
        assert first.read_bytes() == second.read_bytes()
        with Image.open(first) as image:
            assert list(image.text) == ["Description"]  # no version and no date
            assert json.loads(image.text["Description"])["title"]
