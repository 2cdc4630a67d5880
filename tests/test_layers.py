"""The sections that the viewer of the report shows: pictures pixel by pixel, cells and errors one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline_lib import layout, provenance
from pipeline_lib.data.labels import separation_border
from pipeline_lib.figures.colouring import raw_picture, rgb
from pipeline_lib.figures.layers import cells_uri, codes_uri, picture_uri
from pipeline_lib.figures.palette import CAUSE_COLOURS, class_colours
from pipeline_lib.figures.shown import NOT_ANNOTATED, REPORT_PIXELS, choose_sections, share_pixels, shown_part
from pipeline_lib.instances.measurement import measure_cells
from pipeline_lib.pages.viewer import FEWEST, WORST_OF_KIND, place_in_viewer, worst_errors
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.evaluation import CAUSE_COLUMNS
from tests.layer_pictures import cells_of, layers_of, rgba

# pictures


@given(st.data(), st.sampled_from([1, 7, 8, 63, 255, 256, 300]))
def test_the_numbers_of_cells_are_read_from_their_picture(data, number):
    cells = data.draw(arrays(np.int32, (9, 11), elements=st.integers(0, number)))
    uri, bits = cells_uri(cells, np.arange(number))
    np.testing.assert_array_equal(cells_of(uri, bits), cells)
    assert 8 ** (bits - 1) <= number < 8**bits  # no more bits than necessary, so that colours stay pale
    assert cells_uri(cells, np.arange(number)) == (uri, bits)


def test_cells_with_the_same_number_of_a_colour_look_alike():
    cells = np.array([[0, 1, 2, 3]])
    shown = rgba(cells_uri(cells, np.array([4, 4, 5]))[0]).astype(int)[0]
    assert shown[0, 3] == 0 and (shown[1:, 3] == 255).all()
    assert np.abs(shown[1] - shown[2]).max() <= 1 < 20 < np.abs(shown[1] - shown[3]).max()


@given(arrays(np.uint8, (5, 6), elements=st.integers(0, 4)))
def test_codes_have_their_colours_and_others_are_transparent(codes):
    colours = {1: "#112233", 3: "#ff0000"}
    shown = rgba(codes_uri(codes, colours))
    for at in np.ndindex(codes.shape):
        colour = colours.get(codes[at])
        assert shown[at].tolist() == [*rgb(colour), 255] if colour else shown[at][3] == 0


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3)])
def test_pictures_lose_little(shape):
    rows = np.linspace(0, 255, 40)[:, None] * np.ones(shape[1])
    image = (rows if len(shape) == 2 else np.dstack([rows, 255 - rows, rows / 2])).astype(np.uint8)
    shown = rgba(picture_uri(image))[..., :3].astype(int)
    assert np.abs(shown - (image[..., None] if len(shape) == 2 else image)).mean() < 3


# the choice of sections


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=6), st.integers(0, 2000))
def test_pixels_are_shared_among_volumes(volumes, pixels):
    sizes = [10 * z for z, _ in volumes]
    kinds = [annotated for _, annotated in volumes]
    shares = share_pixels([(z, 5, 2) for z, _ in volumes], kinds, pixels)
    assert all(0 <= share <= size for share, size in zip(shares, sizes, strict=True))
    unused = pixels - sum(shares)
    assert unused >= 0 and (unused < len(volumes) or shares == sizes)
    for kind in (True, False):  # no volume has more than another one that could show more
        own = [(share, size) for share, size, of in zip(shares, sizes, kinds, strict=True) if of is kind]
        assert all(share + 1 >= max(own)[0] for share, size in own if share < size)
    others = [share for share, kind in zip(shares, kinds, strict=True) if not kind]
    if any(share < size for share, size, kind in zip(shares, sizes, kinds, strict=True) if kind):
        assert sum(others) <= pixels // NOT_ANNOTATED + len(volumes)
    if shares != sizes and others:
        wanted = sum(size for size, kind in zip(sizes, kinds, strict=True) if not kind)
        assert sum(others) > min(pixels // NOT_ANNOTATED, wanted) - len(others)


def test_all_annotated_sections_of_isbi_are_shown():
    shapes = [(6, 512, 512), (4, 512, 512), (30, 512, 512), (20, 512, 512)]
    shares = share_pixels(shapes, [True, True, False, True], REPORT_PIXELS)
    assert [shown_part(shape, share)[1] for shape, share in zip(shapes, shares, strict=True)] == [6, 4, 2, 20]


@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(0, 39), max_size=9))
def test_chosen_sections_include_the_worst_and_are_spread(number, shown, worst):
    worst = [z for z in worst if z < number]
    chosen = choose_sections(number, shown, worst)
    assert chosen == sorted({*chosen}) and {*chosen} <= {*range(number)}
    assert len(chosen) == min(number, shown)
    first = [*dict.fromkeys(worst)][: shown // 2]
    assert {*first} <= {*chosen}
    if not worst:
        gaps = np.diff([-1, *chosen, number])
        assert gaps[1:-1].max(initial=0) <= -(-number // shown)


# layers of a volume

CELLS = [(2, 2), (2, 26), (32, 2), (32, 26)]
EXPECTED = "raw", "probability", "weight_map", "annotation", "errors", "outlines", "cells"


@pytest.fixture
def case(tmp_path):
    """Two sections of four cells. In the second, 1 and 2 are merged, 3 is split, 4 is missed, 9 is false."""
    labels = np.zeros((2, 60, 50), np.uint32)
    for label, (y, x) in enumerate(CELLS, 1):
        labels[:, y : y + 26, x : x + 22] = 10 * label
    found = labels.copy()
    found[1][labels[1] == 20] = 10
    found[1, 10:16, 24:26] = 10
    found[1, 45, 2:24] = 0
    found[1, 46:, 2:24][labels[1, 46:, 2:24] == 30] = 31
    found[1][labels[1] == 40] = 0
    found[1, :20, 48:] = 90
    return write_case(tmp_path, labels, found)


def write_case(folder, labels, found, ignore=None, pixel_size=None):
    rng = np.random.default_rng(0)
    with layout.create(folder / "dataset.h5", {}) as file:
        raw = layout.add(file, layout.RAW, (1, *labels.shape), "uint8")
        raw[:] = np.where(labels > 0, 150, 50) + rng.integers(0, 9, raw.shape)
        layout.add(file, layout.LABELS, labels.shape)[:] = labels
        border = layout.add(file, layout.SEPARATION_BORDER, labels.shape)
        border[:] = np.stack([separation_border(section, 2) for section in labels])
        if ignore is not None:
            layout.add(file, layout.IGNORE, labels.shape)[:] = ignore
        if pixel_size:
            layout.write_pixel_size(file, pixel_size)
    with layout.create(folder / "unannotated.h5", {}) as file:
        layout.add(file, layout.RAW, (1, *labels.shape), "uint8")[:] = 50
    with layout.create(folder / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, labels.shape)[:] = np.where(found > 0, 0.75, 0.25)
    with layout.create(folder / "weight_map.h5", {}) as file:
        layout.add(file, layout.WEIGHT_MAP, labels.shape)[:] = rng.uniform(0, 7, labels.shape)
    with layout.create(folder / "segmentation.h5", {}) as file:
        layout.add(file, layout.LABELS, labels.shape)[:] = found
    return folder


def read(folder, name):
    with layout.require(folder / f"{name}.h5") as file:
        return {key: file[key][:] for key in file}


def test_layers_show_the_arrays(case):
    shown = read_json(layers_of(case, weight_map=case / "weight_map.h5"))
    arrays_of = read(case, "dataset") | {"found": read(case, "segmentation")["labels"]}
    assert [section["z"] for section in shown["shown"]] == [0, 1]
    assert (shown["sections"], shown["size"], shown["window"]) == (2, [60, 50], [0, 0, 60, 50])
    for z, section in enumerate(shown["shown"]):
        assert {*section["layers"]} == {*EXPECTED}
        raw = rgba(section["layers"]["raw"])[..., :3].astype(int)
        assert np.abs(raw - raw_picture(arrays_of["raw"][:, z])).mean() < 12  # WebP
        for layer, labels, cells in (
            ("annotation", arrays_of["labels"][z], section["annotated_cells"]),
            ("cells", arrays_of["found"][z], section["found_cells"]),
        ):
            numbers = cells_of(section["layers"][layer], section[f"{layer}_bits"])
            np.testing.assert_array_equal(np.array([0, *cells["label"]])[numbers], labels)


def test_cells_have_their_measurements_and_what_became_of_them(case):
    section = read_json(layers_of(case))["shown"][1]
    cells = {
        label: dict(zip(section["found_cells"], row, strict=True))
        for label, row in zip(
            section["found_cells"]["label"], zip(*section["found_cells"].values(), strict=True), strict=True
        )
    }
    found, raw = read(case, "segmentation")["labels"], read(case, "dataset")["raw"]
    measured = measure_cells(found[1:], intensity=raw[:, 1:]).set_index("label")
    for label, cell in cells.items():
        assert cell["area"] == measured.area[label] == (found[1] == label).sum()
        assert cell["intensity_mean"] == pytest.approx(measured.intensity_mean[label], rel=5e-4)
        assert cell["probability_mean"] == 0.75
    became = {label: (cell["match"], cell["part_of"]) for label, cell in cells.items()}
    # of the two merged cells the first one matches; the larger part of 30 matches, the other one is a piece
    assert became == {10: (10, 0), 30: (30, 0), 31: (0, 30), 90: (0, 0)}
    assert cells[10]["iou"] == pytest.approx(26 * 22 / (found[1] == 10).sum(), abs=1e-4)
    assert cells[30]["iou"] == pytest.approx(13 / 26) and cells[31]["iou"] is cells[90]["iou"] is None
    annotated = section["annotated_cells"]
    assert [*zip(annotated["label"], annotated["match"], annotated["part_of"], strict=True)] == [
        (10, 10, 0),
        (20, 0, 10),
        (30, 30, 0),
        (40, 0, 0),
    ]


def test_tiny_areas_and_large_integers_keep_their_digits(tmp_path):
    """A pixel of 4 nm has an area of 0.000016 um^2."""
    labels = np.zeros((1, 130, 120), np.uint32)
    labels[0, 2, 2:9] = 1
    labels[0, 10:121, 3:114] = 2
    write_case(tmp_path, labels, labels, pixel_size=(0.004, 0.004))
    cells = read_json(layers_of(tmp_path))["shown"][0]["found_cells"]
    assert cells["area"] == [7, 12_321]
    assert cells["area_um2"] == [0.000112, 0.1971]  # of 0.000112 and 0.197136
    assert cells["equivalent_diameter_area_um"] == [0.01194, 0.501]


def test_errors_are_listed_and_have_the_colours_of_their_kinds(case):
    right, wrong = read_json(layers_of(case))["shown"]
    assert right["errors"] == [] and not rgba(right["layers"]["errors"])[..., 3].any()
    kinds = [error["cause"].partition("_")[0] for error in wrong["errors"]]
    assert sorted(kinds) == ["false", "merged", "missed", "split"]
    shown = rgba(wrong["layers"]["errors"])
    for error, kind in zip(wrong["errors"], kinds, strict=True):
        y0, x0, y1, x1 = error["box"]
        here = (shown[..., :3] == rgb(CAUSE_COLOURS[kind])).all(axis=2) & (shown[..., 3] > 0)
        assert here.sum() == here[y0:y1, x0:x1].sum() == error["pixels"]
    pixels = [error["pixels"] for error in wrong["errors"]]
    assert pixels == sorted(pixels, reverse=True)


def test_pixels_that_are_not_annotated_are_striped_and_never_wrong(case, tmp_path):
    data, found = read(case, "dataset"), read(case, "segmentation")["labels"]
    ignore = np.zeros(found.shape, np.uint8)
    ignore[1, :, 24:] = 1
    (tmp_path / "other").mkdir()
    other = write_case(tmp_path / "other", np.where(ignore, 0, data["labels"]), found, ignore)
    first, section = read_json(layers_of(other))["shown"]
    assert "not_annotated" not in first["layers"]
    stripes = rgba(section["layers"]["not_annotated"])[..., 3] > 0
    assert stripes[:, 24:].mean() == pytest.approx(0.25, abs=0.02) and not stripes[:, :24].any()
    assert not rgba(section["layers"]["errors"])[:, 24:, 3].any()
    assert {error["cause"].partition("_")[0] for error in section["errors"]} == {"split"}


def test_overlaps_are_those_of_annotated_pixels(tmp_path):
    """Half of the second cell is not annotated; the other half is exact."""
    labels = np.zeros((1, 60, 50), np.uint32)
    labels[0, 5:20, 5:20], labels[0, 30:50, 5:45] = 1, 2
    ignore = np.zeros(labels.shape, np.uint8)
    ignore[0, 30:, 25:] = 1
    write_case(tmp_path, np.where(ignore, 0, labels), labels, ignore)
    cells = read_json(layers_of(tmp_path))["shown"][0]["found_cells"]
    assert cells["label"] == [1, 2] and cells["iou"] == [1, 1]


def test_a_volume_without_annotation_has_cells_but_no_errors(case):
    shown = read_json(layers_of(case, "unannotated.h5"))
    assert not shown["annotated"] and {*shown["diameters"]} == {"found"}
    for section in shown["shown"]:
        assert {*section["layers"]} == {"raw", "probability", "cells"}
        assert not {"errors", "annotated_cells"} & {*section} and "match" not in section["found_cells"]


def test_sizes_are_counted_in_every_section(case):
    found = read(case, "segmentation")["labels"]
    expected = np.zeros(60, int)
    for section in found:
        for label in np.unique(section[section > 0]):
            expected[int(np.sqrt(4 * (section == label).sum() / np.pi))] += 1
    counted = read_json(layers_of(case))["diameters"]["found"]
    assert counted == np.trim_zeros(expected, "b").tolist()


def test_large_sections_are_cut_and_many_sections_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_lib.figures.shown.SMALLEST", 20)
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (6, 3, 4)), np.ones((1, 15, 15))).astype(np.uint32)
    write_case(tmp_path, labels, labels)
    shown = read_json(layers_of(tmp_path, pixels=1000))
    assert shown["window"] == [7, 14, 31, 31]  # 31 is the root of 1000
    assert [section["z"] for section in shown["shown"]] == [3]
    section = shown["shown"][0]
    numbers = cells_of(section["layers"]["cells"], section["cells_bits"])
    expected = labels[3, 7:38, 14:45]
    np.testing.assert_array_equal(np.array([0, *section["found_cells"]["label"]])[numbers], expected)
    (tmp_path / "causes.csv").write_text(
        ",".join(CAUSE_COLUMNS) + "\n" + "v,test,unet,unet,0,0,missed_dim,1,9,0,0,0,0,0,5,1,1\n"
    )
    both = read_json(layers_of(tmp_path, pixels=5400, causes=tmp_path / "causes.csv"))
    assert [section["z"] for section in both["shown"]] == [2, 5]


def test_cells_cut_by_the_window_are_compared_and_measured_as_a_whole(tmp_path):
    """Cells that were found 4 px smaller on each side. The window has the last 2 px of the first ones."""
    labels, found = np.zeros((2, 1, 1300, 1300), np.uint32)
    for number, (y, x) in enumerate(np.ndindex(9, 9), 1):
        labels[0, 152 * y + 2 : 152 * y + 150, 152 * x + 2 : 152 * x + 150] = number
        found[0, 152 * y + 6 : 152 * y + 146, 152 * x + 6 : 152 * x + 146] = number
    write_case(tmp_path, labels, found)
    shown = read_json(layers_of(tmp_path, pixels=1004 * 1004))
    assert shown["window"] == [148, 148, 1004, 1004]
    (section,) = shown["shown"]
    cells, whole = section["found_cells"], measure_cells(found).set_index("label")
    assert section["errors"] == [] and len(cells["label"]) == 49
    assert cells["area"] == whole.area[cells["label"]].tolist()
    assert cells["touches_edge"] == whole.touches_edge[cells["label"]].tolist()
    assert cells["match"] == cells["label"]
    assert section["annotated_cells"]["area"] == [148 * 148] * 64


@pytest.fixture
def small_window(monkeypatch):
    """Show 64 px in the middle of sections, and compare 48 px around it."""
    monkeypatch.setattr("pipeline_lib.figures.shown.SMALLEST", 20)
    monkeypatch.setattr("pipeline_lib.figures.shown.LARGEST", 64)
    monkeypatch.setattr("pipeline_lib.stages.layers.MARGIN", 48)


def draw_errors(rng):
    """Return 100 cells on a grid of 20 px, and the same with errors. None is on row or column 20 or 180."""
    labels, found = np.zeros((2, 200, 200), np.uint32)
    free = np.ones((10, 10), bool)
    for number, (row, column) in enumerate(np.ndindex(10, 10), 1):
        height, width = rng.integers(10, 17, 2)
        cell = np.s_[20 * row + 2 : 20 * row + 2 + height, 20 * column + 2 : 20 * column + 2 + width]
        labels[cell] = number
        if not free[row, column]:  # merged with the cell before
            continue
        found[cell] = number
        match rng.integers(0, 6):
            case 0:
                found[cell] = 0
            case 1:
                labels[cell] = 0
            case 2:
                found[cell][:, 5] = 0
                found[cell][:, 6:] = 200 + number
            case 3:
                found[cell][:, -2:] = 0
            case 4 if 1 <= column <= 7:
                found[20 * row + 2 : 20 * row + 2 + height, 20 * column + 2 : 20 * column + 38] = number
                free[row, column + 1] = False
    return labels, found


@pytest.mark.parametrize("seed", range(4))
def test_a_window_shows_the_errors_and_cells_of_the_whole_section(tmp_path, request, seed):
    rng = np.random.default_rng(seed)
    drawn = [draw_errors(rng) for _ in range(5)]
    write_case(tmp_path, *(np.stack(arrays_of) for arrays_of in zip(*drawn, strict=True)))
    wholes = read_json(layers_of(tmp_path))["shown"]
    request.getfixturevalue("small_window")
    described = read_json(layers_of(tmp_path, pixels=5 * 64 * 64))
    assert described["window"] == [68, 68, 64, 64] and len(described["shown"]) == len(wholes)
    kinds, cut = set(), False
    for whole, section in zip(wholes, described["shown"], strict=True):
        expected = []
        for error in whole["errors"]:
            kind, (y, x) = error["cause"].partition("_")[0], (error["y"] - 68, error["x"] - 68)
            if 0 <= y < 64 and 0 <= x < 64:
                box = [min(max(edge - 68, 0), 64) for edge in error["box"]]
                expected.append((kind, error["pixels"], y, x, box))
                cut |= box != [edge - 68 for edge in error["box"]]
        # the cause itself depends on the other cells of the part
        listed = [
            (error["cause"].partition("_")[0], *(error[key] for key in ("pixels", "y", "x", "box")))
            for error in section["errors"]
        ]
        assert listed == expected
        kinds |= {kind for kind, *_ in listed}
        for side in ("found_cells", "annotated_cells"):
            place = [whole[side]["label"].index(label) for label in section[side]["label"]]
            for column, values in section[side].items():
                assert values == [whole[side][column][k] for k in place], column
        for layer in ("errors", "outlines"):
            np.testing.assert_array_equal(
                rgba(section["layers"][layer]), rgba(whole["layers"][layer])[68:132, 68:132]
            )
        for layer, side in (("annotation", "annotated_cells"), ("cells", "found_cells")):
            shown, all_of_them = (
                np.array([0, *own[side]["label"]])[cells_of(own["layers"][layer], own[f"{layer}_bits"])]
                for own in (section, whole)
            )
            np.testing.assert_array_equal(shown, all_of_them[68:132, 68:132])
    assert kinds == {"merged", "split", "missed", "false"} and cut


def test_cells_that_continue_far_outside_have_neither_errors_nor_sizes(tmp_path, small_window):
    """Rows 18 to 82 and columns 68 to 132 are shown, and all rows and columns 20 to 180 are compared."""
    labels, found = np.zeros((2, 1, 100, 200), np.uint32)
    cells = {
        10: np.s_[0:100, 70:74],  # from edge to edge of the section
        20: np.s_[32:36, 80:200],  # missed, and cut
        30: np.s_[40:50, 80:96],  # merged into 40, which is cut
        40: np.s_[40:50, 100:200],
        50: np.s_[54:60, 80:90],  # missed
        60: np.s_[62:64, 80:190],  # false, and cut
        70: np.s_[66:70, 80:90],  # has another area far outside
        80: np.s_[72:76, 80:180],  # missed, and ends where the part ends
        90: np.s_[78:80, 80:180],  # ends where the part ends
    }
    for number, place in cells.items():
        labels[0][place] = number
        found[0][place] = number
    labels[labels == 60] = 0
    found[np.isin(found, (20, 30, 50, 80))] = 0
    found[0, 40:50, 80:200] = 40
    for array in (labels, found):
        array[0, 2:5, 2:5] = 70
    write_case(tmp_path, labels, found)
    described = read_json(layers_of(tmp_path, pixels=64 * 64))
    assert described["window"] == [18, 68, 64, 64]
    (section,) = described["shown"]
    (missed,) = section["errors"]
    assert missed == {"cause": missed["cause"], "pixels": 60, "y": 39, "x": 17, "box": [36, 12, 42, 22]}
    assert missed["cause"] != "missed_edge"
    colours = rgba(section["layers"]["errors"])[..., 3] > 0
    assert colours.sum() == colours[36:42, 12:22].sum() == 60

    of_found = section["found_cells"]
    assert of_found["label"] == [10, 40, 60, 70, 90]
    for column, values in of_found.items():
        assert values[1:] == [None] * 4 or column == "label"
    assert [of_found[column][0] for column in ("area", "touches_edge", "match", "iou")] == [400, True, 10, 1]
    annotated = section["annotated_cells"]
    assert [*zip(annotated["label"], annotated["area"], annotated["match"], strict=True)] == [
        (10, 400, 10),
        (20, None, None),
        (30, 160, None),
        (40, None, None),
        (50, 60, 0),
        (70, None, None),
        (80, None, None),
        (90, None, None),
    ]


def test_classes_have_their_colours(case):
    found = read(case, "segmentation")["labels"]
    probability = np.zeros((3, *found.shape), np.float32)
    classes = np.where(found == 30, 2, found > 0)
    np.put_along_axis(probability, classes[None], 1.0, 0)
    with layout.create(case / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, found.shape)[:] = found > 0
        stored = layout.add(file, layout.CLASS_PROBABILITY, probability.shape)
        stored[:] = probability
        layout.write_classes(stored, ["background", "round", "flat"], ["round", "flat"])
    section = read_json(layers_of(case))["shown"][1]
    shown = rgba(section["layers"]["classes_found"])
    for number, colour in enumerate(class_colours(3)):
        expected = [*rgb(colour), 255] if number else [0]
        assert (shown[classes[1] == number][:, 0 if number else 3 :] == expected).all()
    named = dict(zip(section["found_cells"]["label"], section["found_cells"]["class"], strict=True))
    assert named == {10: "round", 30: "flat", 31: "round", 90: "round"}


def test_the_same_files_give_the_same_bytes(case):
    first, second = (layers_of(case, output=f"{k}.json").read_bytes() for k in range(2))
    assert first == second


def test_a_prediction_of_another_shape_is_refused(case):
    with layout.create(case / "prediction.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, (2, 60, 49))[:] = 0
    (record := provenance.record_path(case / "prediction.h5")).unlink(missing_ok=True)
    assert not record.exists()
    with pytest.raises(InputError, match=r"prediction\.h5: shape \(2, 60, 49\), but .*dataset\.h5 has"):
        layers_of(case)
    assert not (case / "layers.json").exists()


# the worst errors


def volume_with(errors, split="test", **facts):
    sections = [{"z": z, "layers": {}, "errors": own} for z, own in errors.items()]
    return {"volume": "v", "split": split, "window": [100, 200, 300, 400], "shown": sections} | facts


def error(cause, pixels, box=(50, 60, 55, 70)):
    return {"cause": cause, "pixels": pixels, "y": 52, "x": 64, "box": [*box]}


def test_the_worst_errors_come_first_and_no_kind_takes_all_places():
    many = [error("merged_thin", 100 + k) for k in range(WORST_OF_KIND + 4)]
    few = [error("missed_dim", 20), error("false_other", FEWEST - 1), error("split_neck", 5000)]
    volumes = [volume_with({3: many}), volume_with({0: few, 7: []}), volume_with({0: many}, "train")]
    worst = worst_errors(volumes)
    assert [(one["kind"], one["detail"]) for one in worst] == [
        ("split", "5,000 px"),
        *(("merged", f"{100 + k} px") for k in reversed(range(4, WORST_OF_KIND + 4))),
        ("missed", "20 px"),
    ]
    assert (worst[0]["volume"], worst[0]["section"], worst[0]["z"]) == (1, 0, 0)
    assert (worst[1]["volume"], worst[1]["section"], worst[1]["z"]) == (0, 0, 3)


@given(st.integers(0, 299), st.integers(0, 399), st.integers(1, 300), st.integers(1, 400))
def test_a_close_up_is_inside_the_window_and_contains_the_place(y, x, height, width):
    box = (y, x, min(y + height, 300), min(x + width, 400))
    place = {
        "cause": "merged_thin",
        "pixels": 99,
        "y": (y + box[2]) // 2,
        "x": (x + box[3]) // 2,
        "box": [*box],
    }
    (worst,) = worst_errors([volume_with({0: [place]})])
    left, top, side, _ = worst["box"]
    assert 0 <= left <= 400 - side and 0 <= top <= 300 - side
    assert top <= place["y"] <= top + side and left <= place["x"] <= left + side
    if side < 240:
        assert top <= y and left <= x and box[2] <= top + side and box[3] <= left + side
    assert worst["open"] == [0, 0, top, left, top + side, left + side]


def test_a_place_is_found_in_the_viewer_if_it_is_shown():
    volumes = [volume_with({0: []}, volume="a"), volume_with({4: [], 9: []}, volume="b")]
    assert place_in_viewer(volumes, "b", 9, 150, 300) == [1, 1, 10, 60, 90, 140]
    for name, z, y, x in (("c", 9, 150, 300), ("b", 5, 150, 300), ("b", 9, 99, 300), ("b", 9, 150, 600)):
        assert place_in_viewer(volumes, name, z, y, x) is None
