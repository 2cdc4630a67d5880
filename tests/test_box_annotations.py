"""Volumes whose annotation is a file of boxes: datasets, statistics, the check, and the dry run."""

import base64
import io
import json
import os
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bordure import settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline_lib import layout
from pipeline_lib.data import correspondence, folds, volumes
from pipeline_lib.data.box_files import require_classes
from pipeline_lib.data.boxes import LabelsOfBoxes, objects_of
from pipeline_lib.data.comparison import wrong_pairs
from pipeline_lib.figures.check import OUTLINE
from pipeline_lib.figures.colouring import rgb
from pipeline_lib.imageio import apart
from pipeline_lib.imageio.boxes import SectionBoxes, are_boxes, write_detections
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.boxes import choose_boxes
from pipeline_lib.stages.check import check
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.tasks.detection.truth import CUT, IGNORED, BoxTruth

DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them"
)
HEIGHT, WIDTH = 40, 50
NAMES = ["nucleus", "mitosis"]
CLASSES = {"background": 0, "nucleus": 1, "mitosis": 2}
SSD = {"name": "ssd", "channels": [8, 12, 12], "convolutions": 1, "heads": 2, "aspect_ratios": [1.0]}


def rectangles(seed, sections=3, number=14):
    """Values (z, y, x) of rectangles of two classes, 1 and 2, that are at least 1 px apart."""
    rng = np.random.default_rng(seed)
    values = np.zeros((sections, HEIGHT, WIDTH), np.uint8)
    for z in range(sections):
        for _ in range(number):
            size = rng.integers(3, 12, 2)
            y, x = (rng.integers(-3, length - 2) for length in (HEIGHT, WIDTH))
            part = np.s_[max(y, 0) : y + size[0], max(x, 0) : x + size[1]]
            around = np.s_[max(y - 1, 0) : y + size[0] + 1, max(x - 1, 0) : x + size[1] + 1]
            if not values[z][around].any():
                values[z][part] = rng.integers(1, 3)
    return values


def write_images(folder, seed=0, sections=3):
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for z in range(sections):
        tifffile.imwrite(folder / f"images/{'abc'[z]}.tif", rng.integers(0, 99, (HEIGHT, WIDTH), np.uint8))


def objects(values):
    """Section, box (y0, x0, y1, x1) and class of each rectangle."""
    from pipeline_lib.metrics import connected_components

    for z, section in enumerate(values):
        found = objects_of(connected_components(section > 0)[None], 0)
        for box in found.boxes.astype(int).tolist():
            yield z, box, NAMES[section[box[0], box[1]] - 1]


def write_coco(folder, found, names="abc", ignored=()):
    annotations = [
        {
            "id": n,
            "image_id": z,
            "category_id": NAMES.index(name),
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": int(n in ignored),
        }
        for n, (z, (y0, x0, y1, x1), name) in enumerate(found)
    ]
    images = [
        {"id": z, "file_name": f"{n}.tif", "height": HEIGHT, "width": WIDTH} for z, n in enumerate(names)
    ]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(NAMES)],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    return folder / "boxes.json"


def write_table(folder, found, name="boxes.csv"):
    lines = [f"{'abc'[z]}.tif,{x0},{y0},{x1},{y1},{name}\n" for z, (y0, x0, y1, x1), name in found]
    (folder / name).write_text("image,x0,y0,x1,y1,class\n" + "".join(lines))
    return folder / name


def write_voc(folder, found):
    (folder / "voc").mkdir()
    for z, image in enumerate("abc"):
        items = "".join(
            f"<object><name>{name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax>"
            f"<ymax>{y1}</ymax></bndbox></object>"
            for own, (y0, x0, y1, x1), name in found
            if own == z
        )
        (folder / f"voc/{image}.xml").write_text(f"<annotation>{items}</annotation>")
    return folder / "voc"


def write_yolo(folder, found):
    (folder / "yolo").mkdir()
    (folder / "classes.txt").write_text("\n".join(NAMES))
    for z, image in enumerate("abc"):
        lines = [
            f"{NAMES.index(name)} {(x0 + x1) / 2 / WIDTH} {(y0 + y1) / 2 / HEIGHT} {(x1 - x0) / WIDTH} "
            f"{(y1 - y0) / HEIGHT}\n"
            for own, (y0, x0, y1, x1), name in found
            if own == z
        ]
        (folder / f"yolo/{image}.txt").write_text("".join(lines))
    return folder / "yolo/*.txt"


FORMATS = {"coco": write_coco, "table": write_table, "voc": write_voc, "yolo": write_yolo}


def arrays(path):
    with layout.require(path, layout.BOXES) as file:
        classes = layout.classes_of(file["box_class"])
        return [file[array.name][:] for array, _ in layout.BOX_ARRAYS], classes


def same(found, expected):
    """Whether two datasets have the same boxes in each section, in any order."""
    (boxes, *others), classes = found
    (expected_boxes, *expected_others), expected_classes = expected
    order, expected_order = (
        np.lexsort((*b.round(6).T, rest[0]))
        for b, rest in ((boxes, others), (expected_boxes, expected_others))
    )
    np.testing.assert_allclose(boxes[order], expected_boxes[expected_order], rtol=0, atol=1e-9)
    for one, other in zip(others, expected_others, strict=True):
        np.testing.assert_array_equal(one[order], other[expected_order])
    assert classes == expected_classes


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Images with labels of two classes, and the same objects in a file of each format."""
    folder = tmp_path_factory.mktemp("boxes")
    values = rectangles(1)
    write_images(folder)
    tifffile.imwrite(folder / "values.tif", values, photometric="minisblack")
    found = [*objects(values)]
    return folder, found, {name: write(folder, found) for name, write in FORMATS.items()}


# datasets


@pytest.mark.parametrize("selection", [{}, {"rows": "7-25"}, {"sections": "0,2", "rows": "0-19"}])
@pytest.mark.parametrize("target", [None, "classes"])
@pytest.mark.parametrize("name", FORMATS)
def test_boxes_of_each_format_are_those_of_the_labels(name, target, selection, prepared, tmp_path):
    folder, _, files = prepared
    chosen = {"classes": CLASSES, "target": target, "minimum_size": 30, **selection}
    build_dataset(
        folder / "images", folder / "values.tif", tmp_path / "a.h5", annotation_kind="classes", **chosen
    )
    build_dataset(folder / "images", files[name], tmp_path / "b.h5", **chosen)
    expected = arrays(tmp_path / "a.h5")
    assert {*expected[0][3].tolist()} == {0, CUT, IGNORED}  # objects of all states are tested
    assert {*expected[0][2].tolist()} == ({1, 2} if target else {1})
    same(arrays(tmp_path / "b.h5"), expected)
    with layout.require(tmp_path / "a.h5") as a, layout.require(tmp_path / "b.h5") as b:
        assert {*b} == {*a} - {"labels", "separation_border", "target"}
        for array in ("raw", "section_hash", "section_windows"):
            np.testing.assert_array_equal(a[array][:], b[array][:])
        assert layout.findings(a)["gray"] == layout.findings(b)["gray"]
        sizes, cells = (layout.findings(file)["annotation"]["cells"] for file in (a, b))
        for key in ("number", "smallest", "median", "largest", "in_border", "ignored"):
            assert cells[key] == sizes[key], key


def test_all_files_of_the_boxes_are_inputs(prepared, tmp_path):
    """With the names of the classes, so that a change of any of them repeats the job."""
    folder, _, files = prepared
    expected = {"coco": ["boxes.json"], "voc": ["voc/a.xml", "voc/c.xml"]}
    expected["yolo"] = ["yolo/a.txt", "yolo/c.txt", "classes.txt"]
    for name, own in expected.items():
        build_dataset(
            folder / "images", files[name], tmp_path / "a.h5", sections="0,2", classes=CLASSES, pixel_size=0.5
        )
        with layout.require(tmp_path / "a.h5") as file:
            record = json.loads(file.attrs["provenance"])
            assert layout.pixel_size(file) == (0.5, 0.5)
        inputs = {str(Path(path).relative_to(folder)) for path in record["inputs"]}
        assert inputs - {"images", "images/a.tif", "images/c.tif", "images/b.tif"} == {*own}


@given(st.data())
def test_rows_cut_boxes_like_pixels(data):
    """Each row of the band that a box covers by half or more belongs to it; brute force over all rows."""
    from pipeline_lib.data.box_files import _in_rows

    y0 = data.draw(st.integers(0, 38)) / 2
    y1 = y0 + data.draw(st.integers(1, 30)) / 2
    start = data.draw(st.integers(0, 15))
    rows = range(start, start + data.draw(st.integers(1, 12)))
    own = SectionBoxes(np.array([[y0, 3.5, y1, 9]]), ["a"], np.array([True]), np.array([np.nan]))
    halves = [half / 2 for half in range(2 * rows.start, 2 * rows.stop) if y0 <= half / 2 < y1]
    cut = _in_rows(own, rows)
    expected = [[halves[0] - start, 3.5, halves[-1] + 0.5 - start, 9.0]] if halves else []
    assert cut.boxes.tolist() == expected
    assert cut.classes == ["a"] * len(expected) and cut.ignored.tolist() == [True] * len(expected)
    assert own.boxes.tolist() == [[y0, 3.5, y1, 9]]  # unchanged


def test_a_sliver_of_a_box_is_left_out(prepared, tmp_path):
    folder, *_ = prepared
    found = [
        (0, [9.7, 3, 20, 9], "nucleus"),
        (0, [5, 20, 10.6, 30], "nucleus"),
        (0, [12, 1, 12.3, 9], "nucleus"),
    ]
    path = write_table(tmp_path, found)
    for rows, expected in {
        "0-9": [[5, 20, 10, 30]],
        "10-39": [[0, 3, 10, 9], [0, 20, 0.6, 30], [2, 1, 2.3, 9]],
    }.items():
        build_dataset(folder / "images", path, tmp_path / "a.h5", rows=rows, sections="0")
        np.testing.assert_allclose(arrays(tmp_path / "a.h5")[0][0], expected, atol=1e-12)


def test_ignored_boxes_are_neither_learned_nor_scored(prepared, tmp_path):
    folder, found, _ = prepared
    path = write_coco(tmp_path, found, ignored=(0, 5))
    build_dataset(folder / "images", path, tmp_path / "a.h5", classes=CLASSES)
    (boxes, _, _, state), _ = arrays(tmp_path / "a.h5")
    ignored = [box for n, (_, box, _) in enumerate(found) if n in (0, 5)]
    assert sorted(boxes[state == IGNORED].tolist()) == sorted(ignored)
    with layout.require(tmp_path / "a.h5") as file:
        assert layout.findings(file)["annotation"]["cells"]["number"] == len(found) - 2


def test_the_area_of_a_box_is_its_size(tmp_path):
    write_images(tmp_path, sections=1)
    path = write_table(
        tmp_path, [(0, [5, 5, 10, 11], "x"), (0, [5, 20, 10, 25.8], "x"), (0, [20, 5, 26, 10], "x")]
    )
    build_dataset(tmp_path / "images", path, tmp_path / "a.h5", minimum_size=30)
    (_, _, kind, state), classes = arrays(tmp_path / "a.h5")
    assert state.tolist() == [0, IGNORED, 0]
    assert kind.tolist() == [1, 1, 1] and classes == (["background", "cell"], ["cell"])


def test_classes_that_are_no_instances_are_left_out(prepared, tmp_path):
    folder, found, files = prepared
    for target, cells in ((None, ["cell"]), ("classes", ["mitosis"])):
        build_dataset(
            folder / "images",
            files["table"],
            tmp_path / "a.h5",
            classes=CLASSES,
            instances=["mitosis"],
            target=target,
        )
        (boxes, _, kind, _), classes = arrays(tmp_path / "a.h5")
        assert boxes.tolist() == [box for _, box, name in found if name == "mitosis"]
        assert {*kind.tolist()} == {1} and classes == (["background", *cells], cells)


def test_sections_without_boxes_are_asked_for_as_for_labels(prepared, tmp_path):
    folder, found, _ = prepared
    images = folder / "images"
    without = [entry for entry in found if entry[0] != 1]
    for path, message in (
        (write_coco(tmp_path, without), r"boxes\.json: 1 of 3 sections have no cell \(section 1, counted"),
        (write_table(tmp_path, without), r"boxes\.csv: no entry for 1 of 3 sections: b\.tif"),
    ):
        with pytest.raises(InputError, match=rf"volume a: .*{message}.*empty_sections: ignore}}`"):
            build_dataset(images, path, tmp_path / "a.h5", classes=CLASSES)
        for meaning in ("background", "ignore"):
            build_dataset(images, path, tmp_path / "a.h5", classes=CLASSES, empty_sections=meaning)
            with layout.require(tmp_path / "a.h5") as file:
                cells = layout.findings(file)["annotation"]["cells"]
                assert cells["ignored"] == pytest.approx(1 / 3 if meaning == "ignore" else 0)
                assert {*file["box_section"][:].tolist()} == {0, 2}
                if meaning == "background":
                    assert "ignore" not in file and BoxTruth.of(file).shape == (3, HEIGHT, WIDTH)
                else:
                    assert file["ignore"][:].all(axis=(1, 2)).tolist() == [False, True, False]
                    assert not file["ignore"][[0, 2]].any()


def test_objects_at_pixels_that_are_not_annotated_are_ignored(tmp_path):
    write_images(tmp_path)
    boxes = [[2, 2, 8, 8], [2, 20, 8, 26], [20, 2.5, 26, 8], [20, 20, 26, 26], [30, 30, 36, 36]]
    path = write_table(tmp_path, [(1, box, "x") for box in boxes])
    mask = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    mask[1, 5, 5], mask[1, 20:26, 1:8], mask[1, 36, 30], mask[2] = 7, 7, 7, 7
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    for rows, left in (("", [0, 1, 3, 4]), ("4-39", [0, 1, 3, 4])):
        build_dataset(
            tmp_path / "images",
            path,
            tmp_path / "a.h5",
            ignore_mask=tmp_path / "mask.tif",
            sections="1-2",
            rows=rows,
            empty_sections="background",
        )
        (found, _, _, state), _ = arrays(tmp_path / "a.h5")
        first = 4 if rows else 0
        assert found.tolist() == [
            np.clip(np.array(boxes[n]) - [first, 0] * 2, 0, None).tolist() for n in left
        ]
        # inside, none, none at all, next to its lower edge
        assert state.tolist() == [IGNORED, CUT if rows else 0, 0, IGNORED]
        with layout.require(tmp_path / "a.h5") as file:
            np.testing.assert_array_equal(file["ignore"][:], mask[1:, first:] != 0)
            assert layout.findings(file)["annotation"]["cells"]["ignored"] == pytest.approx(
                (mask[1:, first:] != 0).mean()
            )


def test_sections_without_boxes_have_their_numbers_in_the_file(prepared, tmp_path):
    folder, found, _ = prepared
    path = write_coco(tmp_path, [entry for entry in found if entry[0] != 1])
    with pytest.raises(InputError, match=r"1 of 2 sections have no cell \(section 1, counted from 0"):
        build_dataset(folder / "images", path, tmp_path / "a.h5", sections="1-2", classes=CLASSES)


def test_a_volume_without_boxes_shows_no_objects(prepared, tmp_path):
    folder, *_ = prepared
    path = write_coco(tmp_path, [])
    build_dataset(folder / "images", path, tmp_path / "a.h5")
    with layout.require(tmp_path / "a.h5") as file:
        annotation = layout.findings(file)["annotation"]
        assert BoxTruth.of(file).boxes.shape == (0, 4)
    assert annotation["cells"]["number"] == 0
    assert [own["name"] for own in annotation["doubts"]] == ["no_cells"]
    with pytest.raises(InputError, match=r"no section has a cell, and `empty_sections: ignore`"):
        build_dataset(folder / "images", path, tmp_path / "a.h5", empty_sections="ignore")


def test_a_table_of_detections_is_an_annotation(prepared, tmp_path):
    """After corrections, for example. Its sections are those of the volume of this name."""
    folder, *_ = prepared
    boxes = np.array([[1.5, 2, 9.25, 8]])
    own = SectionBoxes(boxes, ["cell"], np.array([False]), np.array([0.9]))
    write_detections(tmp_path / "found.csv", [("v", 0, own), ("w", 0, replace(own, boxes=boxes + 1))])
    build_dataset(folder / "images", tmp_path / "found.csv", tmp_path / "v.h5", sections="2")
    assert arrays(tmp_path / "v.h5")[0][0].tolist() == boxes.tolist()


# statistics and default boxes


def test_statistics_and_default_boxes_are_those_of_labels(prepared, tmp_path):
    folder, _, files = prepared
    names = {"a": folder / "values.tif", "b": files["coco"]}
    chosen = {"classes": CLASSES, "target": "classes", "annotation_kind": "classes"}
    for name, annotation in names.items():
        build_dataset(folder / "images", annotation, tmp_path / f"{name}.h5", **chosen)
        measure_statistics([tmp_path / f"{name}.h5"], tmp_path / f"{name}.json")
        choose_boxes([tmp_path / f"{name}.h5"], tmp_path / f"{name}_boxes.json", network=SSD)
    a, b = (read_json(tmp_path / f"{name}.json") for name in "ab")
    assert {*a} - {*b} == {"class_frequencies", "smoothed_raw"}
    for key in {*b} - {"provenance"}:
        assert a[key] == b[key], key
    assert b["classes"] == ["background", *NAMES] and b["cells"] == NAMES
    assert read_json(tmp_path / "a_boxes.json") == read_json(tmp_path / "b_boxes.json")
    measure_statistics([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "both.json")
    assert read_json(tmp_path / "both.json")["normalisation"] == b["normalisation"]
    with pytest.raises(InputError, match=r"b\.h5: has no `labels`.*boxes, from which only detectors learn"):
        build_weight_map(tmp_path / "b.h5", tmp_path / "a.json", tmp_path / "w.h5")


def test_other_classes_and_classes_without_objects_are_refused(prepared, tmp_path):
    folder, found, files = prepared
    chosen = {"classes": CLASSES, "target": "classes"}
    build_dataset(folder / "images", files["coco"], tmp_path / "a.h5", **chosen)
    build_dataset(folder / "images", files["coco"], tmp_path / "b.h5", classes=CLASSES)
    with pytest.raises(InputError, match=r"b\.h5: classes background, cell, but .*a\.h5 has background, nuc"):
        measure_statistics([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "s.json")
    path = write_table(tmp_path, [entry for entry in found if entry[2] == "nucleus"])
    build_dataset(folder / "images", path, tmp_path / "c.h5", **chosen)
    few = write_coco(
        tmp_path, [(0, [1, 1, 9, 9], "nucleus"), (0, [1, 20, 9, 29], "mitosis")], "a", ignored=(1,)
    )
    build_dataset(folder / "images/a.tif", few, tmp_path / "d.h5", **chosen)
    for name in "cd":
        with pytest.raises(InputError, match=r"no object is mitosis, but a detector needs examples"):
            measure_statistics([tmp_path / f"{name}.h5"], tmp_path / "s.json")


# the check


def ellipses(boxes, sections, shape, inscribed):
    """Brute force: each pixel belongs to the smallest box, or ellipse, that its middle is in."""
    drawn = np.zeros(shape, np.uint32)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    for z, y, x in np.ndindex(*shape):
        best = None
        for n, (y0, x0, y1, x1) in enumerate(boxes):
            v, u = (2 * y + 1 - y0 - y1) / (y1 - y0), (2 * x + 1 - x0 - x1) / (x1 - x0)
            inside = v * v + u * u <= 1 if inscribed else -1 <= v < 1 and -1 <= u < 1
            if sections[n] == z and inside and (best is None or area[n] <= area[best]):
                best = n
        drawn[z, y, x] = 0 if best is None else best + 1
    return drawn


@pytest.mark.parametrize("inscribed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_labels_that_stand_for_boxes(seed, inscribed):
    rng, shape = np.random.default_rng(seed), (2, 13, 17)
    first = rng.uniform(-2, 10, (9, 2))
    boxes = np.hstack([first, first + rng.uniform(0.5, 9, (9, 2))])
    sections = np.sort(rng.integers(0, 2, 9))
    expected = ellipses(boxes, sections, shape, inscribed)
    labels = LabelsOfBoxes(boxes, sections, shape, inscribed)
    assert labels.shape == shape and expected.any()
    for rows, columns in (
        (slice(0, 13), slice(0, 17)),
        (slice(4, 9), slice(6, 16)),
        (slice(-3, None), slice(2)),
    ):
        for z in range(2):
            np.testing.assert_array_equal(labels[z, rows, columns], expected[z, rows, columns])


def discs(seed, size=128, number=14):
    rng, (y, x) = np.random.default_rng(seed), np.indices((size, size))
    labels = np.zeros((size, size), np.uint32)
    for label in range(1, number + 1):
        (cy, cx), radius = rng.integers(0, size, 2), rng.integers(6, 12)
        disc = (y - cy) ** 2 + (x - cx) ** 2 <= radius**2
        labels[disc & (labels == 0)] = label
    return labels


def write_discs(folder, order):
    """Build five volumes of discs, with the boxes of the discs of others, and return the rows of `check`."""
    rows = []
    for k, other in enumerate(order):
        image = np.where(discs(k) > 0, 140.0, 60) + np.random.default_rng(k).normal(0, 8, (128, 128))
        tifffile.imwrite(folder / f"v{k}.tif", image.clip(0, 255).astype(np.uint8))
        lines = [f"{x0},{y0},{x1},{y1}\n" for y0, x0, y1, x1 in objects_of(discs(other)[None], 0).boxes]
        (folder / f"v{k}.csv").write_text("x0,y0,x1,y1\n" + "".join(lines))
        build_dataset(folder / f"v{k}.tif", folder / f"v{k}.csv", folder / f"v{k}.h5")
        rows.append({"volume": f"v{k}", "split": "train", "dataset": folder / f"v{k}.h5"})
    return rows


def test_the_check_finds_boxes_of_another_image(tmp_path):
    for order, expected in ((range(5), set()), ((0, 2, 1, 3, 4), {"v1", "v2"})):
        rows = write_discs(tmp_path, order)
        check(rows, tmp_path / "check.html", tmp_path / "check.json")
        doubts = read_json(tmp_path / "check.json")["doubts"]
        assert {own["volume"] for own in doubts if own["name"] == "wrong_pair"} == expected
        assert all(own["weight"] > 0.8 for own in doubts if own["name"] == "wrong_pair")
    page = (tmp_path / "check.html").read_text()
    assert "compares the ellipses inside them with the image" in page
    assert "14 annotated cells" in page and "table with the columns x0, y0, x1, y1" in page


def test_ignored_boxes_are_not_compared_with_the_image(tmp_path):
    """Such as one around a crowd, whose outline follows no edge."""
    rows = write_discs(tmp_path, range(5))
    for ignored in (1, 0):
        (tmp_path / "v4.csv").write_text(f"x0,y0,x1,y1,ignored\n20,20,100,110,{ignored}\n")
        build_dataset(tmp_path / "v4.tif", tmp_path / "v4.csv", tmp_path / "v4.h5")
        check(rows, tmp_path / "check.html", tmp_path / "check.json")
        doubts = read_json(tmp_path / "check.json")["doubts"]
        names = {own["volume"] for own in doubts if own["name"] == "wrong_pair"}
        assert names == (set() if ignored else {"v4"})


def test_the_check_shows_boxes(tmp_path):
    """The picture has the outlines of all boxes, with their corners, not of the ellipses inside them."""
    raw = np.full((128, 128), 90, np.uint8)
    raw[::2] += 2
    tifffile.imwrite(tmp_path / "a.tif", raw)
    (tmp_path / "a.csv").write_text("x0,y0,x1,y1,ignored\n20,30,90,100,0\n100,104,116,120,1\n")
    build_dataset(tmp_path / "a.tif", tmp_path / "a.csv", tmp_path / "a.h5")
    row = {"volume": "a", "split": "train", "dataset": tmp_path / "a.h5"}
    check([row], tmp_path / "check.html", tmp_path / "check.json")
    encoded = re.findall(r"data:image/png;base64,([^\"]+)", (tmp_path / "check.html").read_text())[0]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB"))
    orange = (picture == rgb(OUTLINE)).all(axis=2)
    lengths = orange.sum(axis=1)  # the image is magnified by 4, and lines are 2 px wide
    for side in (70 * 4, 16 * 4):
        assert np.count_nonzero((lengths >= side) & (lengths < side + 4)) == 4  # upper and lower edge
    assert "2 annotated cells" in (tmp_path / "check.html").read_text()


@needs_data
def test_ellipses_in_the_boxes_of_nuclei_find_exchanged_annotations():
    paths = sorted((DATA / "nuclei/labels").glob("*.tif"))
    images = [tifffile.imread(DATA / "nuclei/images" / path.name)[:512, :512] for path in paths]
    drawn = []
    for path in paths:
        labels = tifffile.imread(path)
        boxes = objects_of(labels[None], 0).boxes
        of_boxes = LabelsOfBoxes(boxes, np.zeros(len(boxes), int), (1, *labels.shape), inscribed=True)
        drawn.append(of_boxes[0, 0:512, 0:512])
    of_size = defaultdict(list)
    for number, image in enumerate(images):
        of_size[image.shape].append(number)
    following = {a: b for own in of_size.values() for a, b in zip(own, own[1:] + own[:1], strict=True)}
    for partner, expected in (({n: n for n in following}, 0), (following, len(images))):
        samples = [
            correspondence.make_sample(f"{n}", 0, (*image.shape, 0, 0), drawn[partner[n]], image[None])
            for n, image in enumerate(images)
        ]
        doubts = [*wrong_pairs(correspondence.with_partners(samples))]
        assert sum(found["weight"] > 0.8 for _, found in doubts) == len(doubts) == expected


# the dry run


def table(folder, *rows, columns=""):
    """Write a table of volumes and read it. Cells are separated by spaces; - is an empty cell."""
    header = f"volume images annotation sections split {columns}".split()
    lines = ["\t".join("" if cell == "-" else cell for cell in row.split(" ")) for row in rows]
    (folder / "volumes.tsv").write_text("\n".join(["\t".join(header), *lines]) + "\n")
    return volumes.read_table(folder / "volumes.tsv", folder, [])


def checked(folder, *rows, columns="", **dataset):
    found = table(folder, *rows, columns=columns)
    given_settings = settings.complete({"volumes": "my.tsv", "dataset": dataset})["dataset"]
    own = {row.volume: settings.of_volume(given_settings, row.dataset, row.row) for row in found}
    return volumes.check_files(found, dataset=own)


def test_volumes_of_boxes_pass_and_their_files_are_named(prepared):
    folder, *_ = prepared
    found = checked(
        folder,
        "a images boxes.json 0 predict -",
        "b images voc 1-2 predict 0-9",
        "c images yolo/*.txt 2 predict -",
        columns="rows",
        classes=CLASSES,
    )
    others = {name: {str(path.relative_to(folder)) for path in info.others} for name, info in found.items()}
    assert others == {"a": set(), "b": {"voc/b.xml", "voc/c.xml"}, "c": {"yolo/c.txt", "classes.txt"}}
    assert [info.shape[1:] for info in found.values()] == [(1, 40, 50), (2, 10, 50), (1, 40, 50)]


def test_one_file_may_have_the_boxes_of_many_volumes(prepared):
    folder, *_ = prepared
    rows = [f"{name} images/{name}.tif boxes.json - predict" for name in "abc"]
    assert [*checked(folder, *rows, classes=CLASSES)] == [*"abc"]


def test_classes_of_all_volumes_are_compared(prepared, tmp_path):
    _, found, _ = prepared
    write_images(tmp_path)
    write_table(tmp_path, [entry for entry in found if entry[2] == "nucleus"], "n.csv")
    write_table(tmp_path, [entry for entry in found if entry[2] == "mitosis"], "m.csv")
    rows = ["a images n.csv - predict", "b images m.csv - predict"]
    assert [*checked(tmp_path, rows[0]), *checked(tmp_path, rows[1])] == ["a", "b"]
    with pytest.raises(
        InputError,
        match=r"line 3, volume b: .*m\.csv: found boxes of the class mitosis, but .*n\.csv has nucleus\. Set "
        r"`dataset: {classes: {background: 0, nucleus: 1, mitosis: 2}}`",
    ):
        checked(tmp_path, *rows)
    assert len(checked(tmp_path, *rows, classes=CLASSES)) == 2
    with pytest.raises(
        InputError, match=r"line 3, volume b: .*found boxes of the classes mitosis, nucleus\."
    ):
        write_coco(tmp_path, [(0, [1, 1, 9, 9], "nucleus"), (1, [1, 1, 9, 9], "mitosis")])
        checked(tmp_path, "a images boxes.json 0 predict", "b images boxes.json 1 predict")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            None,
            r"a: found boxes of the classes x, y, 1\. Set `dataset: {classes: {background: 0, x: 1, y: 2, "
            r"'1': 3}}`",
        ),
        (
            {"background": 0, "x": 5},
            r"a: found boxes of the class y, 1, but `dataset\.classes` has x\. .*"
            r"{background: 0, x: 5, y: 6, '1': 7}",
        ),
    ],
)
def test_classes_that_are_not_clear(classes, message):
    with pytest.raises(InputError, match=message):
        require_classes({"a": ["x", "y", "1"]}, classes)
    require_classes({"a": ["x", "y", "1"]}, {"background": 0, "x": 1, "y": 2, "1": 3, "z": 4})
    require_classes({"a": ["x"], "b": [], "c": ["x"]}, None)


def test_many_classes_are_not_listed():
    with pytest.raises(InputError) as caught:
        require_classes({"a": [f"name{n}" for n in range(80)]}, None)
    assert len(str(caught.value)) < 500 and "name79" not in str(caught.value)


def test_rows_are_checked_in_the_dry_run(tmp_path):
    write_images(tmp_path)
    write_coco(tmp_path, [(0, [1, 1, 9, 9], "nucleus"), (1, [20, 1, 29, 9], "nucleus")])
    row = "a images boxes.json 0-1 predict"
    assert checked(tmp_path, row)
    with pytest.raises(InputError, match=r"line 2, volume a: .*1 of 2 sections have no cell \(section 1, "):
        checked(tmp_path, f"{row} 0-15", columns="rows")


def test_masks_of_ignored_pixels_must_fit(prepared, tmp_path):
    folder, _, files = prepared
    mask = np.zeros((3, HEIGHT, WIDTH - 1), np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    row = f"a images boxes.json - predict {tmp_path / 'mask.tif'}"
    with pytest.raises(InputError, match=r"line 2, volume a: .*mask\.tif: the mask of ignored pixels has 3"):
        checked(folder, row, columns="ignore_mask", classes=CLASSES)
    with pytest.raises(
        InputError, match=r"volume a: .*mask\.tif: mask of ignored pixels of 3 sections of 40 x"
    ):
        build_dataset(
            folder / "images",
            files["coco"],
            tmp_path / "a.h5",
            ignore_mask=tmp_path / "mask.tif",
            classes=CLASSES,
        )
    assert not (tmp_path / "a.h5").exists()
    (tmp_path / "mask.tif").unlink()
    with pytest.raises(InputError, match=r"line 2, volume a: .*mask\.tif: no such file"):
        checked(folder, row, columns="ignore_mask", classes=CLASSES)


def test_networks_that_learn_pixels_are_refused(prepared):
    folder, *_ = prepared
    unet = settings.complete({"volumes": "my.tsv"})
    rows = table(folder, "a images values.tif 0 predict", "b images boxes.json 1 predict")
    rows[0] = replace(rows[0], split="train")
    settings.require_labels(unet, rows)
    for split in ("train", "validation", "test"):
        with pytest.raises(
            InputError,
            match=r"line 3, volume b: .*boxes\.json: found boxes, but the network unet learns pixels",
        ):
            settings.require_labels(unet, [rows[0], replace(rows[1], split=split)])
        settings.require_labels({"network": {"name": "ssd", "masks": False}}, [replace(rows[1], split=split)])


def test_masks_are_learned_from_pixels_only(prepared):
    (row,) = table(prepared[0], "b images boxes.json 1 predict")
    masks = {"network": {"name": "ssd", "masks": True}}
    for split in ("train", "validation"):
        with pytest.raises(
            InputError, match=r"b: .*boxes\.json: found boxes, but with `network\.masks: true`"
        ):
            settings.require_labels(masks, [replace(row, split=split)])
    for split in ("test", "predict"):
        settings.require_labels(masks, [replace(row, split=split)])


def test_folds_do_not_divide_boxes_that_are_counted_within_a_volume(tmp_path):
    for text, divided in (
        ("volume,section,x0,y0,x1,y1\nv,0,1,1,9,9\nv,1,1,1,9,9\nv,2,1,1,9,9\n", False),
        ("section,bbox-0,bbox-1,bbox-2,bbox-3\n0,1,1,9,9\n1,1,1,9,9\n2,1,1,9,9\n", False),
        ("section,x0,y0,x1,y1\n0,1,1,9,9\n1,1,1,9,9\n2,1,1,9,9\n", True),
    ):
        (tmp_path / "boxes.csv").write_text(text)
        rows = [replace(row, split="train") for row in table(tmp_path, "v images boxes.csv - predict")]
        if divided:
            assert len(folds.divide(rows, {"v": 6}, 2).pieces) == 2
        else:
            whole = [replace(row, volume=name, images=name) for row in rows for name in "vw"]
            assert len(folds.divide(whole, {"v": 6, "w": 6}, 2).pieces) == 2
            with pytest.raises(
                InputError, match=r"sections of v would be divided, but .*boxes\.csv counts the"
            ):
                folds.divide(rows, {"v": 6}, 2)


def test_a_column_replaces_the_setting(prepared, tmp_path):
    write_images(tmp_path, sections=1)
    (tmp_path / "a.csv").write_text("xmin,ymin,xmax,ymax\n4,2,4,9\n")
    row = "a images/a.tif a.csv - predict"
    with pytest.raises(
        InputError, match=r"corners cannot be edges.*`dataset: {box_coordinates: pixels_from_1}`"
    ):
        checked(tmp_path, row)
    assert checked(tmp_path, f"{row} pixels_from_0", columns="box_coordinates")
    assert checked(tmp_path, row, box_coordinates="pixels_from_1")
    with pytest.raises(
        InputError, match=r"column `minimum_size`: found `2um2`\. Expected an integer of at least 0:"
    ):
        checked(tmp_path, f"{row} 2um2", columns="minimum_size")


def test_a_file_that_needs_too_much_memory_or_crashes_is_named():
    def fails():
        raise MemoryError

    with pytest.raises(InputError, match=r"^a\.json: reading it needs more than `memory_gb` \(2 GB\)"):
        next(apart.run_apart([("a.json: reading it", fails)], 2))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.json", True),
        ("a.CSV", True),
        ("none/*.xml", True),
        ("voc", True),
        ("yolo/*.txt", True),
        ("yolo/?.t*", True),
        ("images", False),
        ("mixed", False),
        ("mixed/*.xml", True),
        ("a.tif", False),
        ("a.h5:/b.csv", False),
        ("none", False),
        ("x" * 5000 + ".csv", True),
    ],
)
def test_files_of_boxes_are_told_from_images(path, expected, prepared):
    folder, *_ = prepared
    (folder / "mixed").mkdir(exist_ok=True)
    for name in ("a.tif", "a.xml"):
        (folder / "mixed" / name).touch()
    assert are_boxes(folder / path) == expected
