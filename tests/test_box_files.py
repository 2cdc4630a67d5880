"""Boxes of COCO, Pascal VOC, YOLO and CSV files: files written by hand here, round trips, and messages."""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.imageio.boxes import COLUMNS, SectionBoxes, read_boxes, write_detections
from pipeline_lib.imageio.boxes import source as source_of_boxes
from pipeline_lib.runtime.errors import InputError

HEIGHT, WIDTH = 30, 40
ONE = ["a.tif"]
THREE = ["d/a.tif", "d/b.tif", "d/c.tif"]


def read(path, images=ONE, **settings):
    return read_boxes(path, images, (len(images), HEIGHT, WIDTH), **settings)


def in_stack(path, **settings):
    return read_boxes(path, ["stack.tif"], (3, HEIGHT, WIDTH), **settings)


def found_in(path, images=ONE, **settings):
    """Boxes of each section as lists, in the order y0, x0, y1, x1."""
    return [section.boxes.tolist() for section in read(path, images, **settings).sections]


def written(folder, name, text):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def coco(annotations, images=None, categories=None):
    """A COCO file; by default, with the images of THREE, whose ids have gaps."""
    names = {"a.tif": 7, "b.tif": 3, "c.tif": 20} if images is None else images
    return json.dumps(
        {
            "images": [
                {"id": key, "file_name": name, "height": HEIGHT, "width": WIDTH}
                for name, key in names.items()
            ],
            "annotations": [{"id": n, "category_id": 5} | own for n, own in enumerate(annotations)],
            "categories": categories or [{"id": 5, "name": "cell"}, {"id": 90, "name": "mitosis"}],
        }
    )


def voc(objects, filename="a.tif", size=(HEIGHT, WIDTH)):
    items = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, difficult, x0, y0, x1, y1 in objects
    )
    return (
        f"<annotation><filename>{filename}</filename><size><width>{size[1]}</width><height>{size[0]}</height>"
        f"<depth>1</depth></size>{items}</annotation>"
    )


# what the formats mean


def test_a_bbox_of_coco_is_left_top_width_height(tmp_path):
    """The box of the first pixel is [0, 0, 1, 1]; of pycocotools' conventions, x1 = x + width."""
    annotations = [
        {"image_id": 7, "bbox": [0, 0, 1, 1]},
        {"image_id": 20, "bbox": [10.5, 3, 20, 5.25], "category_id": 90, "iscrowd": 1},
        {"image_id": 7, "bbox": [1, 2, 39, 28], "category_id": 90},
    ]
    read_sections = read(written(tmp_path, "a.json", coco(annotations)), THREE).sections
    a, b, c = read_sections
    assert a.boxes.tolist() == [[0, 0, 1, 1], [2, 1, 30, 40]]
    assert c.boxes.tolist() == [[3, 10.5, 8.25, 30.5]]
    assert (a.classes, b.classes, c.classes) == (["cell", "mitosis"], [], ["mitosis"])
    assert (a.ignored.tolist(), c.ignored.tolist()) == ([False, False], [True])
    assert b.boxes.shape == (0, 4) and b.annotated  # in the list of images, so it has no objects
    assert np.isnan(a.scores).all()


def test_corners_of_voc_are_pixels_counted_from_1(tmp_path):
    objects = [("cell", 0, 1, 1, 1, 1), ("mitosis", 1, 11, 4, 40, 30)]
    found = read(written(tmp_path, "a.xml", voc(objects)))
    [section] = found.sections
    assert section.boxes.tolist() == [[0, 0, 1, 1], [3, 10, 30, 40]]
    assert section.classes == ["cell", "mitosis"] and section.ignored.tolist() == [False, True]
    assert any("counted from 1 (`box_coordinates: pixels_from_1`)" in note for note in found.notes)


@pytest.mark.parametrize(
    ("coordinates", "expected"),
    [("edges", [[2, 5, 9, 11]]), ("pixels_from_0", [[2, 5, 10, 12]]), ("pixels_from_1", [[1, 4, 9, 11]])],
)
def test_corners_can_be_stated(coordinates, expected, tmp_path):
    path = written(tmp_path, "a.xml", voc([("cell", 0, 5, 2, 11, 9)]))
    table = written(tmp_path, "a.csv", "filename,xmin,ymin,xmax,ymax,label\na.tif,5,2,11,9,cell\n")
    fixed = written(tmp_path, "b.csv", "x0,y0,x1,y1\n5,2,11,9\n")
    assert found_in(path, coordinates=coordinates) == found_in(table, coordinates=coordinates) == [expected]
    assert found_in(fixed, coordinates=coordinates) == [[[2, 5, 9, 11]]]  # the format defines it
    assert found_in(table) == [[[2, 5, 9, 11]]]


def test_numbers_of_yolo_are_relative_to_width_and_height(tmp_path):
    """0.5 of 40 columns and 0.25 of 30 rows, a tenth wide, a third high; the last number is a score."""
    path = written(tmp_path, "a.txt", "1 0.5 0.25 0.1 0.2\n\n0 0.75 0.5 0.5 1 0.875\n")
    [section] = read(path).sections
    np.testing.assert_allclose(section.boxes, [[4.5, 18, 10.5, 22], [0, 20, 30, 40]])
    assert section.classes == ["1", "0"]
    assert math.isnan(section.scores[0]) and section.scores[1] == 0.875


TABLES = {  # all say rows 2 to 8 and columns 5 to 10, that is edges 2, 9 and 5, 11
    "own": "volume,section,class,x0,y0,x1,y1,score\na,0,cell,5,2,11,9,0.5\n",
    "semicolons": "Class;X0;Y0;X1;Y1;Score\ncell;5;2;11;9;0.5\n",
    "tabs": "class\tx0\ty0\tx1\ty1\tconfidence\ncell\t5\t2\t11\t9\t0.5\n",
    "tensorflow": "filename,width,height,class,xmin,ymin,xmax,ymax,score\na.tif,40,30,cell,5,2,11,9,0.5\n",
    "retinanet": "/data/a.tif,5,2,11,9,cell\n",
    "left": "image,label,left,top,width,height\nx/a.png,cell,5,2,6,7\n",
    "make-sense": "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\n"
    "cell,5,2,6,7,a.tif,40,30\n",
    "regionprops": "section,label,area,bbox-0,bbox-1,bbox-2,bbox-3\n0,17,42,2,5,9,11\n",
    "imagej": " ,Label,Area,BX,BY,Width,Height\n1,a.tif:0001-0002,42,5,2,6,7\n",
    "napari": "index,shape-type,vertex-index,axis-0,axis-1\n"
    "0,rectangle,0,1.5,4.5\n0,rectangle,1,1.5,10.5\n0,rectangle,2,8.5,10.5\n0,rectangle,3,8.5,4.5\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_many_programs(name, tmp_path):
    [section] = read(written(tmp_path, "a.csv", TABLES[name])).sections
    assert section.boxes.tolist() == [[2, 5, 9, 11]]
    assert section.classes == ["cell"]
    assert section.scores.tolist() == pytest.approx(
        [0.5 if "0.5\n" in TABLES[name] and name != "napari" else math.nan], nan_ok=True
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_text_of_spreadsheets_is_read(encoding, tmp_path):
    path = written(tmp_path, "a.csv", 'class,x0,y0,x1,y1\r\n"Zelle, groß",5,2,11,9\r\n'.encode(encoding))
    [section] = read(path).sections
    assert (section.classes, section.boxes.tolist()) == (["Zelle, groß"], [[2, 5, 9, 11]])


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a.xml"])
def test_a_byte_order_mark_is_skipped(name, tmp_path):
    text = dict(sound_files())[name]
    expected = read(written(tmp_path, name, text)).sections[0]
    assert (
        read(written(tmp_path, name, text.encode("utf-8-sig"))).sections[0].boxes.tolist()
        == expected.boxes.tolist()
    )


def test_the_files_that_were_read_are_named(tmp_path):
    """Those of other images are not, but a table without any line of the images is."""
    for name in "abc":
        written(tmp_path, f"labels/{name}.txt", "1 .5 .5 .1 .1")
    names = written(tmp_path, "data.yaml", "names: [cell, 2]")
    found = read(tmp_path / "labels", ["c.tif"]).files
    assert found == [tmp_path / "labels/c.txt", names]
    table = written(tmp_path, "a.csv", "volume,x0,y0,x1,y1\nw,1,1,2,2\n")
    assert read(table, volume="v", empty_sections="background").files == [table]


def test_a_single_file_may_be_called_test(tmp_path):
    written(tmp_path, "README.txt", "words")
    assert found_in(written(tmp_path, "test.txt", "0 .5 .5 .5 .5"), ["test.tif"]) == [[[7.5, 10, 22.5, 30]]]


def test_flags_of_tables_are_read(tmp_path):
    path = written(tmp_path, "a.csv", "x0,y0,x1,y1,difficult\n0,0,1,2,1\n0,0,2,2,0\n0,0,3,2,\n0,0,4,2,True\n")
    assert read(path).sections[0].ignored.tolist() == [True, False, False, True]


def test_a_line_without_corners_is_an_image_without_objects(tmp_path):
    path = written(tmp_path, "a.csv", "d/a.tif,,,,,\nd/b.tif,1,2,3,4,cell\nd/c.tif,,,,,\n")
    assert found_in(path, THREE) == [[], [[2, 1, 4, 3]], []]


def test_tables_with_lines_without_objects_only_are_read(tmp_path):
    path = written(tmp_path, "a.csv", "image,x0,y0,x1,y1\na.tif,,,,\n")
    assert found_in(path) == [[]]


# sections


def test_images_are_found_by_their_names(tmp_path):
    """In another order, folder, case and format; images of other volumes are left out."""
    names = {"x/C.png": 1, "z.tif": 2, "x/a.PNG": 3, "x/b.png": 4}
    annotations = [{"image_id": n, "bbox": [n, 0, 1, 1]} for n in (1, 2, 3, 4)]
    found = read(written(tmp_path, "a.json", coco(annotations, names)), THREE)
    assert [section.boxes[0, 1] for section in found.sections] == [3, 4, 1]
    assert "entries of other images: z.tif" in found.notes


def test_the_same_suffix_comes_first(tmp_path):
    annotations = [{"image_id": n, "bbox": [n, 0, 1, 1]} for n in (1, 2)]
    path = written(tmp_path, "a.json", coco(annotations, {"a.png": 1, "a.tif": 2}))
    assert found_in(path) == [[[0, 2, 1, 3]]]


def test_folders_tell_images_of_the_same_name_apart(tmp_path):
    annotations = [{"image_id": n, "bbox": [n, 0, 1, 1]} for n in (1, 2)]
    path = written(tmp_path, "a.json", coco(annotations, {"train/a.tif": 1, "val\\a.tif": 2}))
    assert found_in(path, ["/data/val/a.tif"]) == [[[0, 2, 1, 3]]]
    with pytest.raises(
        InputError, match=r"2 entries have the name of a\.tif: train/a\.tif, val\\a\.tif\. Remove"
    ):
        read(path, ["/data/test/a.tif"])


def test_names_are_paired_by_their_numbers(tmp_path):
    for number in (1, 2, 3):
        written(tmp_path, f"man_seg{number:03}.txt", f"0 0.5 0.5 0.{number} 0.1")
    found = read(tmp_path, [f"t{n}.tif" for n in (3, 1, 2)])
    np.testing.assert_allclose([np.ptp(section.boxes[0, 1::2]) for section in found.sections], [12, 4, 8])
    assert any(
        note.startswith("paired by the part of the names that varies: t3.tif with") for note in found.notes
    )


def test_selected_sections_need_boxes_others_do_not(tmp_path):
    written(tmp_path, "c.xml", voc([("cell", 0, 1, 1, 2, 2)], "c.tif"))
    written(tmp_path, "a.xml", voc([("cell", 0, 1, 1, 3, 3)]))
    assert found_in(tmp_path, THREE, sections="0,2") == [[[0, 0, 3, 3]], [[0, 0, 2, 2]]]
    with pytest.raises(
        InputError, match=r"no entry for 1 of 3 sections: b\.tif\. If these sections show no objects, set"
    ):
        read(tmp_path, THREE)


def test_sections_without_entry_are_background_or_ignored(tmp_path):
    written(tmp_path, "a.txt", "0 .5 .5 .1 .1")
    for meaning in ("background", "ignore"):
        found = read(tmp_path, THREE, empty_sections=meaning)
        assert [len(section.boxes) for section in found.sections] == [1, 0, 0]
        assert [section.annotated for section in found.sections] == [True, *[meaning == "background"] * 2]
        assert any(f"(`empty_sections: {meaning}`)" in note for note in found.notes)
    with pytest.raises(
        InputError, match=r"no entry for 2 of 3 sections: b\.tif, c\.tif\..*empty_sections: ignore"
    ):
        read(tmp_path, THREE)


def test_an_empty_file_of_yolo_is_an_image_without_objects(tmp_path):
    written(tmp_path, "b.txt", "\n")
    assert found_in(tmp_path / "b.txt") == [[]]


def test_files_without_labels_are_left_out(tmp_path):
    for name in ("a.txt", "b.txt", "c.txt"):
        written(tmp_path, name, "1 0.5 0.5 0.5 0.5")
    written(tmp_path, "classes.txt", "cell\nmitosis\n")
    written(tmp_path, "README.roboflow.txt", "words")
    written(tmp_path, "train.txt", "images/a.tif")
    written(tmp_path, ".a.txt", "words")
    found = read(tmp_path, THREE)
    assert [section.classes for section in found.sections] == [["mitosis"]] * 3
    assert not any("other images" in note for note in found.notes)


@pytest.mark.parametrize(
    "names",
    ["names: [cell, 2]", "nc: 2\nnames:\n  0: cell\n  1: 2\n", "names: {1: 2, 0: cell}"],
)
def test_names_of_classes_from_data_yaml(names, tmp_path):
    path = written(tmp_path, "labels/train/a.txt", "1 .5 .5 .1 .1\n0 .5 .5 .1 .1")
    written(tmp_path, "data.yaml", names)
    found = read(path)
    assert found.sections[0].classes == ["2", "cell"]
    assert f"names of 2 classes from {tmp_path / 'data.yaml'}" in found.notes


@pytest.mark.parametrize("first", [0, 1])
def test_images_of_a_stack_are_sections_by_their_numbers(first, tmp_path):
    """In any order; with all numbers from 1, or with some from 0. Images of another stack are left out."""
    numbers = [2, 0] if first == 0 else [3, 1, 2]
    names = {f"stack_{number:03}.png": number + 1 for number in numbers} | {"other_001.png": 50}
    annotations = [{"image_id": n + 1, "bbox": [n, 0, 1, 1]} for n in numbers]
    path = written(tmp_path, "a.json", coco(annotations, names))
    found = in_stack(path, empty_sections="background")
    expected = {number - first: [[0, number, 1, number + 1]] for number in numbers}
    assert [section.boxes.tolist() for section in found.sections] == [expected.get(z, []) for z in range(3)]
    assert any(f"sections by the numbers in names, from {first}: stack_" in note for note in found.notes)


@pytest.mark.parametrize(
    "names",
    [
        ["s1.png", "s2.png"],  # sections 0 and 1, or 1 and 2
        ["s0.png", "s3.png"],  # no section 3
        ["stack_0a1.png", "stack_1a0.png"],
        ["stack.tif"],
        ["s0.png", "s00.png"],
        ["s.png", "s1.png"],
    ],
)
def test_unclear_sections_of_a_stack_are_refused(names, tmp_path):
    path = written(tmp_path, "a.json", coco([], {name: n for n, name in enumerate(names)}))
    with pytest.raises(InputError, match=r"do not say which of the 3 sections of stack\.tif they are"):
        in_stack(path, empty_sections="background")


@pytest.mark.parametrize("images", [["b.tif"], ["b.tif"] * 3])
def test_boxes_of_another_image_are_not_taken(images, tmp_path):
    """A file for many images, in which only one has objects: the others must not get its boxes."""
    shape = (3, HEIGHT, WIDTH) if len(images) > 1 else (1, HEIGHT, WIDTH)
    names = {f"other_{n}.png": n for n in range(len(images))}
    annotations = [{"image_id": n, "bbox": [n, 0, 1, 1]} for n in range(len(images))]
    files = [
        written(tmp_path, "a.json", coco(annotations, names)),
        written(tmp_path, "a.csv", "image,x0,y0,x1,y1\n" + "".join(f"{name},0,0,1,1\n" for name in names)),
    ]
    if len(images) > 1:
        files.append(written(tmp_path, "s.csv", "image,section,x0,y0,x1,y1\nother.tif,0,0,0,1,1\n"))
    for path in files:
        with pytest.raises(InputError, match=r"found boxes of other.*, but the images? (is|are) b\.tif"):
            read_boxes(path, images[:1], shape, empty_sections="background")
    written(tmp_path, "c.xml", voc([("cell", 0, 1, 1, 2, 2)], "other.tif"))
    assert len(read(tmp_path / "c.xml").sections[0].boxes) == 1  # a file that was named for this image


def test_sections_in_tables_count_from_0_and_slices_of_imagej_from_1(tmp_path):
    own = written(tmp_path, "own.csv", "section,x0,y0,x1,y1\n2,0,0,1,1\n0,0,0,2,2\n2,0,0,3,3\n1,,,,\n")
    lines = [
        "Label,BX,BY,Width,Height,Slice",
        "s:3,0,0,1,1,3",
        "s:1,0,0,2,2,1",
        "s:3,0,0,3,3,3",
        "s:2,0,0,4,4,2",
    ]
    imagej = written(tmp_path, "imagej.csv", "\n".join(lines))
    sizes = [[s.boxes[:, 3].tolist() for s in in_stack(path).sections] for path in (own, imagej)]
    assert sizes == [[[2], [], [1, 3]], [[2], [4], [1, 3]]]
    folder = [[s.boxes[:, 3].tolist() for s in read(path, THREE).sections] for path in (own, imagej)]
    assert folder == sizes


def test_labels_of_imagej_name_images_if_there_are_several(tmp_path):
    text = "Label,BX,BY,Width,Height,Slice\nb.tif:1,0,0,1,1,1\na.tif:1,0,0,2,2,1\nc.tif,0,0,3,3,1\n"
    path = written(tmp_path, "a.csv", text)
    assert [s.boxes[0, 3] for s in read(path, THREE).sections] == [2, 1, 3]
    assert [s.boxes[0, 3] for s in read(path, ["b.tif"]).sections] == [1]
    path = written(tmp_path, "b.csv", text.replace("3,3,1", "3,3,2"))
    with pytest.raises(
        InputError, match=r"`Label` names several images: a\.tif, b\.tif, c\.tif\. Save one table"
    ):
        in_stack(path)


def test_sections_of_a_volume_are_those_that_are_selected(tmp_path):
    """As in tables of cells: with `sections` 1-2, section 0 of the volume is section 1 of the file."""
    of_volume = written(
        tmp_path, "a.csv", "volume,section,x0,y0,x1,y1\nv,0,0,0,1,1\nw,0,0,0,9,9\nv,1,0,0,2,2\n"
    )
    of_file = written(tmp_path, "b.csv", "section,x0,y0,x1,y1\n1,0,0,1,1\n2,0,0,2,2\n0,0,0,3,3\n")
    cells = written(tmp_path, "c.csv", "section,bbox-0,bbox-1,bbox-2,bbox-3\n0,0,0,1,1\n1,0,0,2,2\n")
    for path in (of_volume, of_file, cells):
        found = in_stack(path, sections="1-2", volume="v")
        assert [section.boxes[0, 3] for section in found.sections] == [1, 2]
    with pytest.raises(InputError, match=r"found boxes of the volumes v, w\. Say which"):
        in_stack(of_volume)
    with pytest.raises(InputError, match=r"no entry for 3 of 3 sections.*There are boxes of v, w\."):
        in_stack(of_volume, volume="u")
    with pytest.raises(InputError, match=r"found boxes in section 1 \(from 0\), but the volume has 1 in all"):
        in_stack(of_volume, sections="2", volume="v")


def test_a_table_with_image_and_section_tells_stacks_apart(tmp_path):
    path = written(tmp_path, "a.csv", "image,section,x0,y0,x1,y1\nstack.tif,1,0,0,1,1\nx.tif,0,0,0,2,2\n")
    found = in_stack(path, empty_sections="background").sections
    assert [section.boxes[:, 3].tolist() for section in found] == [[], [1], []]
    assert found_in(path, ["x.tif"]) == [[[0, 0, 2, 2]]]


def test_shapes_of_napari_in_a_stack(tmp_path):
    """The last two axes are row and column, and 0 is the middle of the first pixel."""
    vertices = [(1, y, x) for y, x in [(-0.5, 3.5), (-0.5, 9.5), (5.5, 9.5), (5.5, 3.5)]]
    rows = [f"0,ellipse,{n},{z},{y},{x}" for n, (z, y, x) in enumerate(vertices)]
    rows += [
        f"1,polygon,{n},{2.0000001},{y},{x}" for n, (y, x) in enumerate([(0.5, 2.5), (3.5, 0.5), (7.5, 4.5)])
    ]
    path = written(
        tmp_path, "a.csv", "index,shape-type,vertex-index,axis-0,axis-1,axis-2\n" + "\n".join(rows)
    )
    found = in_stack(path, empty_sections="background").sections
    assert [section.boxes.tolist() for section in found] == [[], [[0, 4, 6, 10]], [[1, 1, 8, 5]]]


def test_a_pattern_chooses_files(tmp_path):
    written(tmp_path, "a.xml", voc([("cell", 0, 1, 1, 2, 2)]))
    written(tmp_path, "a.txt", "0 .5 .5 .2 .2")
    assert found_in(tmp_path / "*.xml") == [[[0, 0, 2, 2]]]
    with pytest.raises(InputError, match=r"files \.xml \(Pascal VOC: 1\) and \.txt \(YOLO: 1\)\. Choose one"):
        read(tmp_path)


# what is outside


def test_boxes_that_stick_out_are_cut_off(tmp_path):
    annotations = [{"image_id": 7, "bbox": box} for box in ([-3, 5, 10, 10], [35, 25, 9, 9], [0, 0, 9, 9])]
    annotations += [{"image_id": 7, "bbox": [n, 10, 5, 5]} for n in range(5)]
    found = read(written(tmp_path, "a.json", coco(annotations)))
    assert found.sections[0].boxes[:3].tolist() == [[5, 0, 15, 7], [25, 35, 30, 40], [0, 0, 9, 9]]
    [note] = [note for note in found.notes if "cut off" in note]
    assert (
        note.startswith("2 of 8 boxes stick out")
        and "annotation number 0 (id 0) with the `bbox` [-3, 5, 10, 10]" in note
    )


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([[35, 2, 20, 9]], [[2, 35, 11, 40]]),
        ([[31, n, 10, 9] for n in (1, 2)], [[n, 31, n + 9, 40] for n in (1, 2)]),
    ],
)
def test_a_single_box_or_boxes_that_stick_out_a_little_are_no_error(boxes, expected, tmp_path):
    """Three quarters of a single box are outside, or a tenth of each of two."""
    path = written(tmp_path, "a.json", coco([{"image_id": 7, "bbox": box} for box in boxes]))
    assert found_in(path) == [expected]
    path = written(tmp_path, "b.json", coco([{"image_id": 7, "bbox": [35, n, 20, 9]} for n in (1, 2)]))
    with pytest.raises(InputError, match="2 of 2 boxes stick far out"):
        read(path)


@pytest.mark.filterwarnings("error")
def test_the_largest_numbers_do_not_overflow(tmp_path):
    assert found_in(written(tmp_path, "a.csv", "x0,y0,x1,y1\n-1e308,5,1e308,9\n")) == [[[5, 0, 9, 40]]]


def test_rounded_numbers_are_not_reported(tmp_path):
    """1/3 is rounded to six digits, so the box ends 0.00004 px beyond the image."""
    found = read(written(tmp_path, "a.txt", "0 0.833334 0.5 0.333334 1"))
    assert found.sections[0].boxes[0, 3] == WIDTH
    assert not any("cut off" in note for note in found.notes)


@pytest.mark.parametrize("image", [{"height": WIDTH, "width": HEIGHT}, {"height": 60, "width": 80}])
def test_another_size_of_the_image_is_refused(image, tmp_path):
    content = json.loads(coco([]))
    content["images"][0].update(image)
    path = written(tmp_path, "a.json", json.dumps(content))
    with pytest.raises(InputError, match=rf"{image['width']} x {image['height']} px .*a\.tif has 40 x 30"):
        read(path)
    path = written(tmp_path, "a.xml", voc([], size=(image["height"], image["width"])))
    with pytest.raises(InputError, match=rf"{image['width']} x {image['height']} px .*a\.tif has 40 x 30"):
        read(path)
    path = written(
        tmp_path, "a.csv", f"width,height,xmin,ymin,xmax,ymax\n{image['width']},{image['height']},1,1,2,2"
    )
    with pytest.raises(InputError, match=rf"{image['width']} x {image['height']} px .*a\.tif has 40 x 30"):
        read(path)


def test_an_unknown_size_is_not_compared(tmp_path):
    assert found_in(written(tmp_path, "a.xml", voc([("cell", 0, 1, 1, 2, 2)], size=(0, 0)))) == [
        [[0, 0, 2, 2]]
    ]


# messages: a file of each kind, and what its message must contain

FAR = [{"image_id": 7, "bbox": [x, x, x + 5, x + 5]} for x in (18, 20, 22, 24)]
MESSAGES = {
    "exchanged": (
        "a.csv",
        "x0,y0,x1,y1\n2,31,9,38\n3,3,4,4\n",
        r"line 2, x0 2, y0 31, x1 9, y1 38: the box is outside of the image of 40 x 30 px .*y exchanged",
    ),
    "relative": ("a.csv", "x0,y0,x1,y1\n0.1,0.2,0.3,0.4\n", r"no number is larger than 1, but px are"),
    "relative bbox": (
        "a.json",
        coco([{"image_id": 7, "bbox": [0.1, 0.2, 0.3, 0.4]}]),
        r"id 0\) with the `bbox` \[0\.1, 0\.2, 0\.3, 0\.4\].*no number is larger than 1",
    ),
    "corners as size": (
        "a.json",
        coco(FAR),
        r"4 of 4 boxes stick far out of .*right and lower edge, not width and height\?",
    ),
    "size as corners": (
        "a.csv",
        "a.tif,20,12,5,5,cell\n",
        r"ends before it begins\. Are the last two numbers width and height",
    ),
    "one pixel off": (
        "a.csv",
        "x0,y0,x1,y1\n40,3,41,5\n1,1,9,9\n",
        r"outside of .*Do the numbers count from 1\?",
    ),
    "left of the image": ("a.csv", "x0,y0,x1,y1\n-5,3,0,5\n1,1,9,9\n", r"x1 0, y1 5: the box is outside of"),
    "another scale": (
        "a.csv",
        "x0,y0,x1,y1\n100,50,120,80\n",
        r"The boxes reach to x = 120 and y = 80 px\. Is it another image",
    ),
    "no size": (
        "a.json",
        coco([{"image_id": 7, "bbox": [5, 5, 0, 4]}]),
        r"id 0\) with the `bbox` \[5, 5, 0, 4\].*has no size.*Correct or remove it\.$",
    ),
    "negative size": (
        "a.json",
        coco([{"image_id": 7, "bbox": [5, 5, 4, -4]}]),
        r"ends before it begins\. Correct or remove it\.$",
    ),
    "huge": (
        "a.json",
        coco([{"image_id": 7, "bbox": [1e308, 5, 1e308, 4]}]),
        r"`bbox` \[1e\+308, 5, 1e\+308, 4\]",
    ),
    "not finite": (
        "a.json",
        coco([{"image_id": 7, "bbox": [math.nan, 5, 4, 4]}]),
        r"found NaN, expected finite numbers",
    ),
    "too large a number": (
        "a.json",
        coco([{"image_id": 7, "bbox": [0, 5, 4, 4]}]).replace("[0,", "[1e999,"),
        r"four numbers in px",
    ),
    "long number": (
        "a.json",
        coco([{"image_id": 7, "bbox": [0, 5, 4, 4]}]).replace("[0,", f"[{'9' * 400},"),
        r"four numbers in px",
    ),
    "text as number": (
        "a.json",
        coco([{"image_id": 7, "bbox": ["0", 5, 4, 4]}]),
        r"`bbox` \['0', 5, 4, 4\]: expected \[x, y, width, height\]",
    ),
    "no bbox": ("a.json", coco([{"image_id": 7}]), r"`bbox` None: expected \[x, y"),
    "unknown image": (
        "a.json",
        coco([{"image_id": 99, "bbox": [1, 1, 2, 2]}]),
        r"annotation number 0 \(id 0\) with the `bbox` \[1, 1, 2, 2\]: no image has the id 99 \(`image_id`\)",
    ),
    "unknown category": (
        "a.json",
        coco([{"image_id": 7, "bbox": [1, 1, 2, 2], "category_id": 4}]),
        r"no category has the id 4 \(`category_id`\)",
    ),
    "wrong iscrowd": (
        "a.json",
        coco([{"image_id": 7, "bbox": [1, 1, 2, 2], "iscrowd": 2}]),
        r"found `iscrowd` 2, expected 0 or 1",
    ),
    "id twice": ("a.json", coco([]).replace('"id": 3,', '"id": 7,'), r"two of `images` have the id 7"),
    "list id": (
        "a.json",
        coco([]).replace('"id": 3,', '"id": [3],'),
        r"`images` number 1: found the id \[3\], expected a number",
    ),
    "no name": (
        "a.json",
        coco([]).replace('"file_name": "b.tif"', '"file_name": 3'),
        r"`images` with id 3: found `file_name` 3, expected a text",
    ),
    "no categories": (
        "a.json",
        coco([]).replace('"categories"', '"classes"'),
        r"no list `categories` of objects \(found: images, annotations, classes\)",
    ),
    "results": ("a.json", '[{"image_id": 7, "bbox": [1, 1, 2, 2], "score": 0.5}]', r"found a list.*results"),
    "no json": ("a.json", coco([])[:-1], r"not valid JSON"),
    "deep json": ("a.json", "[" * 100_000, r"not valid JSON"),
    "deep id": ("a.json", coco([]).replace('"id": 3,', f'"id": {"[" * 300}{"]" * 300},'), r"found the id \["),
    "name twice": (
        "a.json",
        coco([], {"a.tif": 1, "A.tif": 2}),
        r"2 entries have the name of a\.tif: a\.tif, A\.tif",
    ),
    "other names": (
        "a.json",
        coco([], {"x1.tif": 1, "y.tif": 2}),
        r"found boxes of x1\.tif, y\.tif, but the images are a\.tif\. Use the names",
    ),
    "from 0": (
        "a.xml",
        voc([("cell", 0, 4, 0, 9, 9)]),
        r"object 1 \(cell\), xmin 4, ymin 0, xmax 9, ymax 9: corners cannot be first and last pixels, "
        r"counted from 1\. Set `dataset: {box_coordinates: pixels_from_0}` .*or `dataset: {box_coordinates: "
        "edges}`",
    ),
    "from 0 up to the width": (
        "a.xml",
        voc([("cell", 0, 0, 0, 40, 9)]),
        r"Set `dataset: {box_coordinates: edges}` \(edges of pixels, counted from 0\)\.$",
    ),
    "fractions": ("a.xml", voc([("cell", 0, 4.5, 2, 9, 9)]), r"Set `dataset: {box_coordinates: edges}` \("),
    "from 0 and from 1": ("a.xml", voc([("cell", 0, 0, 2, 0, 30)]), r"Export the boxes again"),
    "pixels as edges": (
        "a.csv",
        "xmin,ymin,xmax,ymax\n4,2,4,9\n",
        r"corners cannot be edges.*`dataset: {box_coordinates: pixels_from_1}` .*pixels_from_0",
    ),
    "entities": (
        "a.xml",
        '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>',
        r"document type \(`<!DOCTYPE`\), which is not read",
    ),
    "no xml": ("a.xml", "<annotation><object></annotation>", r"not valid XML \(mismatched tag"),
    "empty xml": ("a.xml", "", r"not valid XML"),
    "unknown encoding": ("a.xml", '<?xml version="1.0" encoding="klingon"?><annotation/>', r"not valid XML"),
    "another xml": ("a.xml", "<html></html>", r"found `<html>`, expected `<annotation>`"),
    "no bndbox": (
        "a.xml",
        "<annotation><object><name>cell</name><robndbox/></object></annotation>",
        r"no `bndbox` \(found: name, robndbox\)",
    ),
    "no corner": (
        "a.xml",
        voc([("cell", 0, 1, 1, 2, 2)]).replace("<xmax>2</xmax>", ""),
        r"object 1 \(cell\), `xmax`: found nothing, expected a number",
    ),
    "no class": ("a.xml", voc([("", 0, 1, 1, 2, 2)]), r"object 1: `name` is empty or missing"),
    "difficult": (
        "a.xml",
        voc([("cell", "very", 1, 1, 2, 2)]),
        r"`difficult`: found `very`, expected 0 or 1",
    ),
    "px in yolo": (
        "a.txt",
        "0 12 20 5 5\n",
        r"line 1: found `0 12 20 5 5`, expected .*relative.*Divide x by the width",
    ),
    "polygon": ("a.txt", "0 .1 .1 .2 .2 .3 .1\n", r"line 1: found 7 values, expected 5 .*polygons"),
    "too few": ("a.txt", "0 .1 .1 .2\n", r"found 4 values"),
    "class name": (
        "a.txt",
        "0 .1 .1 .2 .2\ncell .1 .1 .2 .2\n",
        r"line 2: found the class `cell`, expected its number",
    ),
    "nan in yolo": ("a.txt", "0 .1 .1 .2 .2\n0 nan .1 .2 .2\n", r"line 2: found `nan`, expected a number"),
    "outside in yolo": (
        "a.txt",
        "0 1.05 .5 .02 .2\n",
        r"line 1, `0 1\.05 \.5 \.02 \.2`: the box is outside of",
    ),
    "decimal comma": (
        "a.csv",
        "x0;y0;x1;y1\n1,5;2;3;4\n",
        r"line 2, x0: found `1,5`, expected a number\. Write decimal points",
    ),
    "no number": ("a.csv", "x0,y0,x1,y1\n1_0,2,30,4\n", r"line 2, x0: found `1_0`, expected a number\.$"),
    "partly empty": ("a.csv", "x0,y0,x1,y1\n1,,3,4\n", r"line 2, y0: found nothing, expected a number"),
    "no corners": (
        "a.csv",
        "Image,Centroid X,Centroid Y\na,1,2\n",
        r"no corners of boxes in the columns image, centroid_x, centroid_y\. Name four",
    ),
    "corner or centre": (
        "a.csv",
        "x,y,width,height\n5,5,2,2\n",
        r"`x` and `y` can be a corner or the centre.*`left` and `top`",
    ),
    "two sets of corners": (
        "a.csv",
        "x0,y0,x1,y1,xmin,ymin,xmax,ymax\n1,1,2,2,1,1,2,2\n",
        r"found boxes in the columns `x0, y0, x1, y1` and `xmin, ymin, xmax, ymax`\. Remove",
    ),
    "column twice": ("a.csv", "x0,y0,x1,y1,X0\n1,1,2,2,3\n", r"the column `x0` appears 2 times"),
    "too many cells": (
        "a.csv",
        "class,x0,y0,x1,y1\na,b,1,1,2,2\n",
        r"line 2: found 6 cells, expected 5\. Put quotes",
    ),
    "no class in a cell": ("a.csv", "class,x0,y0,x1,y1\n,1,1,2,2\n", r"line 2, class: the cell is empty"),
    "unit": (
        "a.csv",
        "BX,BY,Width,Height\n1.25,2,3,4\n",
        r"whole numbers in px\. In ImageJ, remove the scale",
    ),
    "wrong section": (
        "a.csv",
        "section,x0,y0,x1,y1\n1.5,1,1,2,2\n",
        r"line 2, `section`: found `1\.5`, expected the number of a section, from 0",
    ),
    "no such section": (
        "a.csv",
        "section,x0,y0,x1,y1\n1,1,1,2,2\n",
        r"section 1 \(from 0\), but a\.tif has 1 in all",
    ),
    "empty table": ("a.csv", "\n\n", r"the table is empty"),
    "null byte": (
        "a.csv",
        b"x0,y0,x1,y1\n1,\xff,3,4\n",
        r"not a text in UTF-8 \(invalid start byte at byte 14\)",
    ),
    "line": (
        "a.csv",
        "index,shape-type,vertex-index,axis-0,axis-1\n0,line,0,1,1\n",
        r"found the shape `line`\. Draw rectangles",
    ),
    "no index": ("a.csv", "shape-type,vertex-index,axis-0,axis-1\nrectangle,0,1,1\n", r"no column `index`"),
    "tilted in z": (
        "a.csv",
        "index,shape-type,vertex-index,axis-0,axis-1,axis-2\n0,polygon,0,0,1,1\n0,polygon,1,1,5,5\n",
        r"shape 0: its vertices are in the sections \[0, 1\]",
    ),
    "five axes": (
        "a.csv",
        "index,shape-type,vertex-index,axis-0,axis-1,axis-2,axis-3\n0,polygon,0,0,0,1,1\n0,polygon,1,1,0,5,5\n",
        r"several places of axis_0",
    ),
    "suffix": ("a.roi", "", r"boxes are read from COCO \(\.json\), tables"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", MESSAGES)
def test_messages(name, tmp_path):
    file, content, pattern = MESSAGES[name]
    with pytest.raises(InputError, match=pattern) as raised:
        read(written(tmp_path, file, content))
    message = str(raised.value)
    assert message.startswith(str(tmp_path / file))
    assert len(message) - len(str(tmp_path)) < 500
    assert message[-1] in ".?"


def test_images_of_a_table_without_names_are_asked_for(tmp_path):
    path = written(tmp_path, "a.csv", "x0,y0,x1,y1\n1,1,2,2\n")
    for reading in (lambda: in_stack(path), lambda: read(path, THREE)):
        with pytest.raises(
            InputError, match=r"to which of the 3 sections the boxes belong\. Add a column `section`"
        ):
            reading()


def test_missing_files_and_folders_without_boxes(tmp_path):
    for name in ("a.json", "a.csv", "a.xml", "a.txt"):
        with pytest.raises(InputError, match=rf"{name}: the boxes cannot be read \(No such file"):
            read(tmp_path / name)
    with pytest.raises(InputError, match=r"no files \.xml .*Check the path"):
        read(tmp_path)
    written(tmp_path, "instances.json", "{}")
    with pytest.raises(InputError, match=r"Add a name to the path: /instances\.json\."):
        read(tmp_path)


def test_large_files_are_refused(tmp_path, monkeypatch):
    path = written(tmp_path, "a.json", coco([]))
    monkeypatch.setattr(source_of_boxes.content_of, "__defaults__", (100,))
    monkeypatch.setattr(source_of_boxes.text_of, "__defaults__", (100,))
    with pytest.raises(InputError, match=r"a\.json: found 286 bytes, expected at most 100"):
        read(path)


def test_a_file_that_names_another_section_is_refused(tmp_path):
    for name in "abc":
        written(tmp_path, f"{name}.xml", voc([], f"{name}.tif"))
    assert len(found_in(tmp_path, THREE)) == 3
    written(tmp_path, "b.xml", voc([], "x.tif"))  # of an image that was renamed
    notes = read(tmp_path, THREE).notes
    assert "paired by the names of files, not by `filename`: x.tif in b.xml" in notes
    written(tmp_path, "b.xml", voc([], "c.tif"))
    with pytest.raises(
        InputError, match=r"b\.xml: by its name it belongs to d/b\.tif, but its `filename` is c\.tif"
    ):
        read(tmp_path, THREE)


def test_wrong_names_of_classes(tmp_path):
    path = written(tmp_path, "a.txt", "2 .5 .5 .1 .1")
    written(tmp_path, "classes.txt", "cell\nmitosis\n")
    with pytest.raises(
        InputError, match=r"line 1: found the class 2 \(from 0\), but there are names for 2 classes"
    ):
        read(path)
    written(tmp_path, "data.yaml", "names: [mitosis, cell]")
    with pytest.raises(InputError, match=r"classes\.txt and data\.yaml name different classes\. Remove one"):
        read(path)
    (tmp_path / "classes.txt").unlink()
    for text, pattern in {
        "names: [": "not valid YAML",
        "a: 2020-99-99": "not valid YAML",
        "names: {1: cell}": "no `names`",
        "names: [[1]]": "no `names`",
        "- 1": "no `names`",
    }.items():
        written(tmp_path, "data.yaml", text)
        with pytest.raises(InputError, match=rf"data\.yaml: .*{pattern}"):
            read(path)


def test_wrong_calls():
    with pytest.raises(ValueError, match="2 images for 3 sections"):
        read_boxes("a.json", ["a", "b"], (3, 4, 4))
    with pytest.raises(ValueError, match="coordinates 'pixels'"):
        read_boxes("a.json", ["a"], (3, 4, 4), coordinates="pixels")


def test_copies_are_reported(tmp_path):
    path = written(tmp_path, "a.csv", "class,x0,y0,x1,y1\na,1,1,2,2\nb,1,1,2,2\na,1,1,2,2\n")
    found = read(path)
    assert len(found.sections[0].boxes) == 3 and "boxes that are copies of others: 1" in found.notes


# round trips

WHOLE = st.tuples(
    st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1), st.integers(1, HEIGHT), st.integers(1, WIDTH)
).map(lambda b: (b[0], b[1], min(b[0] + b[2], HEIGHT), min(b[1] + b[3], WIDTH)))
FRACTIONS = st.tuples(
    st.floats(0, HEIGHT - 2), st.floats(0, WIDTH - 2), st.floats(1.5, HEIGHT), st.floats(1.5, WIDTH)
).map(lambda b: (b[0], b[1], min(b[0] + b[2], HEIGHT), min(b[1] + b[3], WIDTH)))
NAMES = st.sampled_from(["cell", "mitosis", "a, b", 'x"y', "é & <z>"])


def sections_of(boxes):
    return st.lists(st.lists(st.tuples(boxes, NAMES, st.booleans()), max_size=4), min_size=3, max_size=3)


def agree(found, expected, tolerance=0.0, flags=True):
    for section, own in zip(found.sections, expected, strict=True):
        np.testing.assert_allclose(
            section.boxes, np.array([box for box, *_ in own], float).reshape(-1, 4), rtol=0, atol=tolerance
        )
        assert section.classes == [name for _, name, _ in own]
        if flags:
            assert section.ignored.tolist() == [flag for *_, flag in own]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


@given(sections_of(FRACTIONS))
def test_round_trip_of_coco(folder, expected):
    names = sorted({name for own in expected for _, name, _ in own})
    annotations = [
        {"image_id": [7, 3, 20][z], "category_id": 10 + 3 * names.index(name), "iscrowd": int(flag)}
        | {"bbox": [x0, y0, x1 - x0, y1 - y0]}
        for z, own in enumerate(expected)
        for (y0, x0, y1, x1), name, flag in own
    ]
    categories = [{"id": 10 + 3 * n, "name": name} for n, name in enumerate(names)] or [
        {"id": 1, "name": "cell"}
    ]
    path = written(folder, "a.json", coco(annotations, categories=categories))
    agree(read(path, THREE), expected, 1e-12)


@given(sections_of(WHOLE))
def test_round_trip_of_voc(folder, expected):
    for name, own in zip("abc", expected, strict=True):
        objects = [
            (label.replace("&", "&amp;").replace("<", "&lt;"), int(flag), x0 + 1, y0 + 1, x1, y1)
            for (y0, x0, y1, x1), label, flag in own
        ]
        written(folder, f"voc/{name}.xml", voc(objects, f"{name}.tif"))
    agree(read(folder / "voc", THREE), expected)


@given(sections_of(FRACTIONS), st.sampled_from([6, 17]))
def test_round_trip_of_yolo(folder, expected, digits):
    names = sorted({name for own in expected for _, name, _ in own})
    written(folder, "yolo/classes.txt", "\n".join(names))
    for name, own in zip("abc", expected, strict=True):
        lines = [
            f"{names.index(label)} {(x0 + x1) / 2 / WIDTH:.{digits}f} {(y0 + y1) / 2 / HEIGHT:.{digits}f} "
            f"{(x1 - x0) / WIDTH:.{digits}f} {(y1 - y0) / HEIGHT:.{digits}f}"
            for (y0, x0, y1, x1), label, _ in own
        ]
        written(folder, f"yolo/{name}.txt", "\n".join(lines))
    agree(read(folder / "yolo", THREE), expected, 40 * 10.0**-digits + 1e-12, flags=False)


def section(own):
    boxes = np.array([box for box, *_ in own], float).reshape(-1, 4)
    return SectionBoxes(
        boxes, [name for _, name, _ in own], np.zeros(len(own), bool), np.linspace(0, 1 / 3, len(own))
    )


@given(sections_of(FRACTIONS))
def test_round_trip_of_detections_is_exact(folder, expected):
    path = folder / "detections.csv"
    given_sections = [section(own) for own in expected]
    rows = [(volume, z, own) for volume in ("v", "w") for z, own in enumerate(given_sections)]
    assert write_detections(path, iter(rows)) == 2 * sum(map(len, expected))
    found = in_stack(path, volume="w", empty_sections="background")
    agree(found, expected, flags=False)
    for own, read_back in zip(given_sections, found.sections, strict=True):
        assert own.scores.tolist() == read_back.scores.tolist()


def test_the_table_of_detections(tmp_path):
    boxes = SectionBoxes(np.array([[2.5, 0, 6, 3]]), ["a, b"], np.array([False]), np.array([np.nan]))
    write_detections(tmp_path / "new/a.csv", [("v", 4, boxes)])
    text = (tmp_path / "new/a.csv").read_bytes().decode()
    assert text == f'{",".join(COLUMNS)}\nv,4,"a, b",0.0,2.5,3.0,6.0,,1.5,4.25\n'


def test_detections_are_written_completely_or_not_at_all(tmp_path):
    path = written(tmp_path, "a.csv", "before")

    def rows():
        yield "v", 0, section([((0, 0, 1, 1), "cell", False)])
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_detections(path, rows())
    assert path.read_text() == "before" and [*tmp_path.iterdir()] == [path]


# damaged files


def sound_files():
    annotations = [
        {"image_id": 7, "bbox": [1.5, 2, 3, 4], "iscrowd": 0},
        {"image_id": 3, "bbox": [5, 6, 7, 8]},
    ]
    yield "a.json", coco(annotations)
    yield "a.xml", voc([("cell", 0, 1, 2, 3, 4), ("mitosis", 1, 5, 6, 40, 30)])
    yield "a.txt", "0 0.5 0.5 0.25 0.25\n1 0.25 0.75 0.125 0.5 0.875\n"
    for text in TABLES.values():
        yield "a.csv", text


NUMBERS = [b"-1", b"0", b"3", b"41", b"0.4999", b"1e9", b"-1e308", b"1e999", b"9" * 400, b"nan", b"null"]
NUMBERS += [
    b"[]",
    b'"3"',
    b"",
    b"true",
    b"{}",
    b"1,5",
    "\u0663".encode(),
    b"\xff",
    b"\x00",
    b'"',
    b"<",
    b"\n",
]


def changed(random, content):
    """The content of a file with a number replaced, or with a few bytes replaced, removed or copied."""
    for _ in range(random.integers(1, 3)):
        places = [match.span() for match in re.finditer(rb"[0-9.]+", content)] or [(0, 0)]
        start, stop = places[random.integers(len(places))]
        new = NUMBERS[random.integers(len(NUMBERS))]
        if random.random() < 0.4:
            start = int(random.integers(len(content) + 1))
            stop = start + int(random.integers(8))
            new = [b"", content[:stop][-9:], bytes([random.integers(256)])][random.integers(3)]
        content = content[:start] + new + content[stop:]
    return content


@pytest.mark.parametrize("number", range(13))
def test_damaged_files_raise_input_errors_only(number, tmp_path):
    name, text = [*sound_files()][number]
    read(written(tmp_path, name, text), THREE if name == "a.json" else ONE)
    random = np.random.default_rng(number)
    refused = 0
    for images in (ONE, THREE) * 150:
        path = written(tmp_path, name, changed(random, text.encode()))
        try:
            for own in read(path, images, volume="a", empty_sections="background").sections:
                y0, x0, y1, x1 = own.boxes.T
                assert ((y0 >= 0) & (y0 < y1) & (y1 <= HEIGHT) & (x0 >= 0) & (x0 < x1) & (x1 <= WIDTH)).all()
                assert len(own.boxes) == len(own.classes) == len(own.ignored) == len(own.scores)
        except InputError as error:
            assert str(error).startswith(str(path)) or "volumes" in str(error)
            refused += 1
    assert 0 < refused < 300
