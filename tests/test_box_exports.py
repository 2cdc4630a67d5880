"""Boxes for other programs and tables of counts: read back, and compared with what the formats define."""

import csv
import json
import math
import struct
import weakref
import zipfile

import numpy as np
import pytest
import roifile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import provenance
from pipeline_lib.imageio.boxes import (
    SectionBoxes,
    read_boxes,
    write_coco,
    write_counts,
    write_detections,
    write_geojson,
    write_rois,
)
from pipeline_lib.runtime.errors import InputError

SHAPE = (3, 500, 90_000)
CLASSES = ["cell", "mitosis / late", "Zelle für A"]


def drawn(seed, counts=(4, 0, 3)):
    """Sections of a volume with boxes between pixels, also far to the right."""
    rng = np.random.default_rng(seed)
    sections = []
    for z, count in enumerate(counts):
        corners = rng.uniform(0, [450, 89_900], (count, 2))
        boxes = np.hstack([corners, corners + rng.uniform(0.5, 50, (count, 2))])
        boxes[: count // 2] = np.add(np.floor(boxes[: count // 2]), [0, 0, 1, 1])
        names = [CLASSES[k] for k in rng.integers(0, 2, count)]  # none of the last class
        sections.append(("a_7", z, SectionBoxes(boxes, names, np.zeros(count, bool), rng.random(count))))
    return sections


WRITERS = {
    "detections.csv": write_detections,
    "counts.csv": lambda path, sections: write_counts(path, sections, CLASSES),
    "rois.zip": write_rois,
    "cells.geojson": write_geojson,
    "coco.json": lambda path, sections: write_coco(
        path, sections, shape=SHAPE, classes=CLASSES, provenance={"stage": "export"}
    ),
}
each_format = pytest.mark.parametrize("name", WRITERS)


@each_format
def test_equal_boxes_give_equal_bytes(tmp_path, name, monkeypatch):
    WRITERS[name](tmp_path / "one" / name, drawn(0))
    monkeypatch.setattr("time.time", lambda: 2e9)
    WRITERS[name](tmp_path / "two" / name, drawn(0))
    WRITERS[name](tmp_path / "three" / name, drawn(1))
    one, two, three = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two", "three"))
    assert one == two != three


@each_format
def test_a_file_is_written_completely_or_not_at_all(tmp_path, name):
    def interrupted():
        yield from drawn(0)[:2]
        raise KeyError("interrupted")

    path = tmp_path / name
    path.write_text("before")
    with pytest.raises(KeyError, match="interrupted"):
        WRITERS[name](path, interrupted())
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


@each_format
def test_sections_are_not_kept(tmp_path, name):
    made = []

    def sections():
        for z in range(6):
            ((volume, _, found),) = drawn(z, (5,))
            made.append(weakref.ref(found))
            assert sum(own() is not None for own in made) <= 2  # the loop of the writer has the one before
            yield volume, z, found
            del found

    WRITERS[name](tmp_path / name, sections())


def read_as_imagej(path):
    """Return slice, name, entry, box, and bounds of each ROI, from the bytes that ImageJ's decoder reads."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            data = archive.read(entry)
            assert data[:4] == b"Iout" and data[6] == 1  # a rectangle
            version, options = struct.unpack(">h", data[4:6])[0], struct.unpack(">h", data[50:52])[0]
            assert version >= 223 and options & 128  # sub-pixel resolution
            position, header2 = struct.unpack(">ii", data[56:64])
            at, length = struct.unpack(">ii", data[header2 + 16 : header2 + 24])
            name = data[at : at + 2 * length].decode("utf-16-be")
            bounds = struct.unpack(">4H", data[8:16])  # top, left, bottom, right
            x, y, width, height = struct.unpack(">4f", data[18:34])
            found.append((position, name, entry, (y, x, y + height, x + width), bounds))
    return found


def test_rois_are_the_boxes(tmp_path):
    write_rois(tmp_path / "rois.zip", drawn(0))
    expected = [
        (z + 1, number, name, score, box)
        for _, z, found in drawn(0)
        for number, (name, score, box) in enumerate(
            zip(found.classes, found.scores, found.boxes, strict=True), 1
        )
    ]
    rois = read_as_imagej(tmp_path / "rois.zip")
    assert len(rois) == len(expected) == 7
    for (position, name, entry, box, bounds), (slice_, number, kind, score, true) in zip(
        rois, expected, strict=True
    ):
        assert position == slice_
        assert name == f"{slice_:04}-{number:04} {kind} {score:.3f}"
        assert entry == name.replace("/", "_") + ".roi"
        np.testing.assert_allclose(box, true, rtol=2e-7)  # single precision
        assert box == tuple(true.tolist()) or (true != true.round()).any()  # whole pixels are exact
        around = [*np.floor(true[:2]), *np.ceil(true[2:])]
        assert [*bounds] == [edge % 2**16 for edge in around]
    assert len({entry for *_, entry, _, _ in rois}) == 7
    for roi, (slice_, *_, true) in zip(roifile.roiread(tmp_path / "rois.zip"), expected, strict=True):
        assert (roi.roitype, roi.position) == (roifile.ROI_TYPE.RECT, slice_)
        np.testing.assert_allclose([roi.xd, roi.yd], true[[1, 0]], rtol=2e-7)


def test_features_are_the_boxes(tmp_path):
    write_geojson(tmp_path / "cells.geojson", drawn(0))
    content = json.loads((tmp_path / "cells.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    features = iter(content["features"])
    for _, z, found in drawn(0):
        for name, score, (y0, x0, y1, x1) in zip(found.classes, found.scores, found.boxes, strict=True):
            feature = next(features)
            assert feature["type"] == "Feature"
            (ring,) = feature["geometry"]["coordinates"]
            assert feature["geometry"]["type"] == "Polygon" and ring[0] == ring[-1]
            assert sorted(ring[:-1]) == [[x0, y0], [x0, y1], [x1, y0], [x1, y1]]
            x, y = np.array(ring).T
            # the sides do not cross, and the exterior ring runs counterclockwise, as in RFC 7946
            assert ((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2) == pytest.approx((y1 - y0) * (x1 - x0))
            assert feature["geometry"]["plane"] == {"c": -1, "z": z, "t": 0}
            assert feature["properties"] == {
                "objectType": "detection",
                "classification": {"name": name},
                "measurements": {"score": score},
            }
    assert next(features, None) is None


class TestCoco:
    def test_ids_and_categories(self, tmp_path):
        WRITERS["coco.json"](tmp_path / "coco.json", drawn(0))
        content = json.loads((tmp_path / "coco.json").read_text())
        assert content["categories"] == [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)]
        assert [image["id"] for image in content["images"]] == [1, 2, 3]
        assert {(image["height"], image["width"]) for image in content["images"]} == {SHAPE[1:]}
        assert [own["id"] for own in content["annotations"]] == [*range(1, 8)]
        assert [own["image_id"] for own in content["annotations"]] == 4 * [1] + 3 * [3]
        for own in content["annotations"]:
            assert own["area"] == pytest.approx(own["bbox"][2] * own["bbox"][3]) and own["iscrowd"] == 0
        assert provenance.find_record(tmp_path / "coco.json") == {"stage": "export"}

    @settings(max_examples=20)
    @given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=12))
    def test_reading_gives_the_boxes(self, tmp_path_factory, seed, counts):
        path = tmp_path_factory.mktemp("coco") / "coco.json"
        sections, shape = drawn(seed, counts), (len(counts), *SHAPE[1:])
        write_coco(path, sections, shape=shape, classes=CLASSES, provenance={})
        names = [f"d/a_7_{z:04}.tif" for z in range(len(counts))] if len(counts) > 1 else ["d/a_7.tif"]
        for images in (["d/a_7.tif"], names):  # a stack, or a file for each section
            found = read_boxes(path, images, shape).sections
            assert len(found) == len(sections)
            for own, (_, _, true) in zip(found, sections, strict=True):
                np.testing.assert_allclose(own.boxes, true.boxes, rtol=1e-12)
                assert own.classes == true.classes
                assert own.scores.tolist() == true.scores.tolist()

    @pytest.mark.parametrize("score", ["high", None, True, [1]])
    def test_scores_are_numbers(self, tmp_path, score):
        path = tmp_path / "coco.json"
        write_coco(path, drawn(0, (1,)), shape=(1, *SHAPE[1:]), classes=CLASSES, provenance={})
        content = json.loads(path.read_text())
        content["annotations"][0]["score"] = score
        path.write_text(json.dumps(content))
        with pytest.raises(
            InputError, match=r"annotation number 0 .* found the `score` .*, expected a number"
        ):
            read_boxes(path, ["a_7.tif"], (1, *SHAPE[1:]))


def test_annotations_have_no_score(tmp_path):
    boxes = SectionBoxes(np.array([[1.0, 2, 3, 4]]), ["cell"], np.zeros(1, bool), np.array([math.nan]))
    for name, write in WRITERS.items():
        write(tmp_path / name, [("a", 0, boxes)])
        if name.endswith("json"):
            assert "score" not in (tmp_path / name).read_text()
    assert [name for _, name, *_ in read_as_imagej(tmp_path / "rois.zip")] == ["0001-0001 cell"]
    assert next(csv.DictReader((tmp_path / "detections.csv").open()))["score"] == ""


def test_nothing_found(tmp_path):
    for name, write in WRITERS.items():
        write(tmp_path / name, drawn(0, (0, 0, 0)))
    assert json.loads((tmp_path / "cells.geojson").read_text())["features"] == []
    assert read_as_imagej(tmp_path / "rois.zip") == []
    assert [
        len(own.boxes) for own in read_boxes(tmp_path / "coco.json", ["a_7.tif"], SHAPE).sections
    ] == 3 * [0]


def test_counts_have_rows_for_everything(tmp_path):
    WRITERS["counts.csv"](tmp_path / "counts.csv", drawn(2, (40, 0, 3)))
    rows = [*csv.DictReader((tmp_path / "counts.csv").open(encoding="utf-8"))]
    expected = [
        {
            "volume": "a_7",
            "section": str(z),
            "class": name,
            "count": str(sum(c == name for c in found.classes)),
        }
        for _, z, found in drawn(2, (40, 0, 3))
        for name in CLASSES
    ]
    assert rows == expected
    assert sum(int(row["count"]) for row in rows) == 43
