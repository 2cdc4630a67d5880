"""Outlines of cells in files for Fiji and QuPath, read back pixel by pixel."""

import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
import tifffile
from roifile import ROI_TYPE, roiread

from pipeline_lib import imageio, provenance
from pipeline_lib.cli import main
from pipeline_lib.imageio import outlines
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.export import export_labels
from pipeline_lib.stages.measurement import measure_file
from tests.test_outlines import crossings


def some_labels():
    """Two sections with a cell with a hole, one of two parts, touching cells, and one at the edge."""
    labels = np.zeros((2, 20, 24), np.uint16)
    labels[0, 2:9, 3:10] = 5
    labels[0, 4:6, 5:7] = 0
    labels[0, 2:9, 10:15] = 7
    labels[0, 12, 2:6] = labels[0, 14:16, 2:6] = 300
    labels[1, 15:, 20:] = 5
    return labels


@pytest.fixture
def stored(tmp_path):
    tifffile.imwrite(tmp_path / "a_labels.tif", some_labels())
    return tmp_path / "a_labels.tif"


def filled(shape, polygons):
    """Return the pixels inside of polygons, each a list of rings."""
    found = np.zeros(shape, bool)
    for rings in polygons:
        for y, x in np.ndindex(*shape):
            found[y, x] |= sum(crossings([*map(tuple, ring)], y, x) for ring in rings) % 2 == 1
    return found


@pytest.mark.parametrize("block", [4, 2048])
def test_qupath_gets_exactly_the_pixels_of_all_cells(stored, tmp_path, block):
    found = export_labels(stored, tmp_path / "cells.geojson", to="qupath", block=block)
    features = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    assert found.cells == len(features) == 4
    labels, shown = some_labels(), np.zeros((2, 20, 24), int)
    for feature in features:
        geometry = feature["geometry"]
        polygons = (
            geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        )
        assert all(ring[0] == ring[-1] for rings in polygons for ring in rings)
        mask = filled(labels.shape[1:], [[ring[:-1] for ring in rings] for rings in polygons])
        label = int(feature["properties"]["name"])
        shown[geometry["plane"]["z"]][mask] = label
        assert feature["properties"]["measurements"]["area"] == mask.sum()
        assert feature["properties"]["objectType"] == "detection"
    np.testing.assert_array_equal(shown, labels)


def test_frames_are_time_points_in_qupath(tmp_path):
    for axes, planes in (("TYX", {(0, 0), (0, 1)}), ("ZYX", {(0, 0), (1, 0)})):
        tifffile.imwrite(tmp_path / "a.tif", some_labels(), imagej=True, metadata={"axes": axes})
        export_labels(tmp_path / "a.tif", tmp_path / "a.geojson", to="qupath")
        features = json.loads((tmp_path / "a.geojson").read_text())["features"]
        found = [feature["geometry"]["plane"] for feature in features]
        assert {(plane["z"], plane["t"]) for plane in found} == planes


def test_fiji_gets_single_areas_without_holes(stored, tmp_path):
    found = export_labels(stored, tmp_path / "rois.zip", to="fiji")
    assert found == (4, 1, 1)
    labels = some_labels()
    expected = {
        ("0001-000005", 1): labels[0] == 5,
        ("0001-000007", 1): labels[0] == 7,
        ("0001-000300", 1): labels[0] == 300,
        ("0002-000005", 2): labels[1] == 5,
    }
    expected["0001-000005", 1][4:6, 5:7] = True
    expected["0001-000300", 1][12] = False
    rois = roiread(tmp_path / "rois.zip")
    assert {(roi.name, roi.position) for roi in rois} == {*expected}
    for roi in rois:
        assert roi.roitype == ROI_TYPE.POLYGON
        mask = filled(labels.shape[1:], [[roi.coordinates().tolist()]])
        np.testing.assert_array_equal(mask, expected[roi.name, roi.position])
        rows, columns = np.nonzero(mask)
        assert (roi.top, roi.left, roi.bottom, roi.right) == (
            rows.min(),
            columns.min(),
            rows.max() + 1,
            columns.max() + 1,
        )


@pytest.mark.parametrize("to, name", [("fiji", "a.zip"), ("qupath", "a.geojson")])
def test_the_same_labels_give_the_same_bytes(stored, tmp_path, to, name):
    first, second = tmp_path / name, tmp_path / f"again-{name}"
    export_labels(stored, first, to=to)
    export_labels(stored, second, to=to)
    assert first.read_bytes() == second.read_bytes()


def test_measurements_and_classes_are_those_of_the_table(stored, tmp_path, capsys):
    measure_file(stored, tmp_path / "a_cells.csv")
    table = pd.read_csv(tmp_path / "a_cells.csv").assign(**{"class": ["round", "flat", "flat", "round"]})
    table["probability_mean"] = [0.5, 0.6, np.nan, 0.8]
    table.to_csv(tmp_path / "a_cells.csv", index=False)
    assert main(["export", str(stored), "--to", "qupath"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"measurements: {tmp_path}/a_cells.csv", f"{tmp_path}/a_labels_cells.geojson: 4 cells"]
    features = json.loads((tmp_path / "a_labels_cells.geojson").read_text())["features"]
    kinds = [feature["properties"]["classification"]["name"] for feature in features]
    assert kinds == ["round", "flat", "flat", "round"]
    values = [feature["properties"]["measurements"].get("probability_mean") for feature in features]
    assert values == [0.5, 0.6, None, 0.8]
    assert "label" not in features[0]["properties"]["measurements"]


@pytest.mark.parametrize("names", [["NA", "None", "nan", ""], ["1", "2", "", "1"]])
def test_names_of_classes_are_text(stored, tmp_path, names):
    measure_file(stored, tmp_path / "a_cells.csv")
    pd.read_csv(tmp_path / "a_cells.csv").assign(**{"class": names}).to_csv(
        tmp_path / "a_cells.csv", index=False
    )
    export_labels(stored, tmp_path / "a.geojson", to="qupath", table=tmp_path / "a_cells.csv")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    kinds = [feature["properties"]["classification"]["name"] for feature in features]
    assert kinds == [name or "cell" for name in names]


def test_what_fiji_cannot_show_is_said(stored, tmp_path, capsys):
    assert main(["export", str(stored), str(tmp_path / "b.zip"), "--to", "fiji"]) == 0
    both = ": the holes of 1 cell are filled, and only the largest part of 1 cell is written.\n"
    assert capsys.readouterr().out.endswith(both)
    labels = np.zeros((20, 20), np.uint16)
    labels[2:9, 2:9], labels[4:6, 4:6] = 1, 0
    tifffile.imwrite(tmp_path / "ring_labels.tif", labels)
    assert main(["export", str(tmp_path / "ring_labels.tif"), "--to", "fiji"]) == 0
    assert capsys.readouterr().out.endswith(" without holes: the holes of 1 cell are filled.\n")


def test_other_tables_names_and_too_many_cells_are_refused(stored, tmp_path, capsys, monkeypatch):
    measure_file(stored, tmp_path / "other.csv")
    pd.read_csv(tmp_path / "other.csv").iloc[1:].to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match=r"other\.csv: has no row for cell 5 in section 0"):
        export_labels(stored, tmp_path / "c.geojson", to="qupath", table=tmp_path / "other.csv")
    assert not (tmp_path / "c.geojson").exists()
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"text\.csv: has no column `section` and `label`"):
        export_labels(stored, tmp_path / "c.geojson", to="qupath", table=tmp_path / "text.csv")
    assert main(["export", str(stored), str(tmp_path / "c.tif"), "--to", "fiji"]) == 1
    assert "the name of a file for fiji ends with `.zip`" in capsys.readouterr().err
    monkeypatch.setattr("pipeline_lib.stages.export.MOST_ROIS", 3)
    with pytest.raises(InputError, match=r"has 4 cells; the ROI Manager of Fiji becomes slow above 3"):
        export_labels(stored, tmp_path / "c.zip", to="fiji")
    monkeypatch.setattr("pipeline_lib.stages.export.MOST_ROIS", outlines.MOST_ROIS)
    monkeypatch.setattr("pipeline_lib.stages.export.LARGEST_COORDINATE", 22)
    with pytest.raises(InputError, match=r"is 20 x 24 px; ROIs of Fiji end at 22 px"):
        export_labels(stored, tmp_path / "c.zip", to="fiji")


def test_each_area_of_a_mask_is_a_cell(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", 255 * (some_labels()[0] > 0).astype(np.uint8))
    assert export_labels(tmp_path / "mask.tif", tmp_path / "mask.geojson", to="qupath").cells == 3


def test_a_single_cell_of_several_areas_that_bordure_wrote_is_no_mask(tmp_path):
    path = tmp_path / "one_labels.tif"
    with provenance.making("segment", [path], []):
        imageio.write_labels(path, np.where(some_labels()[:1] == 300, 1, 0).astype(np.uint16))
    assert measure_file(path, tmp_path / "one_cells.csv") == 1
    assert (
        export_labels(path, tmp_path / "a.geojson", to="qupath", table=tmp_path / "one_cells.csv").cells == 1
    )


def test_the_command_that_a_wrong_table_asks_for_mends_it(stored, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measure_file(stored, "a_cells.csv")
    tifffile.imwrite(stored, np.where(some_labels() == 7, 8, some_labels()))
    assert main(["export", "a_labels.tif", "--to", "qupath"]) == 1
    command = re.search(r"Measure these labels again: bordure (.*)", capsys.readouterr().err)
    assert main(shlex.split(command[1])) == 0
    assert main(["export", "a_labels.tif", "--to", "qupath"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(index=0), "has no row for cell 1 in section 0"),
        (
            lambda table: pd.concat([table, table.iloc[:1].assign(label=99)]),
            "has a row for cell 99 in section 0",
        ),
        (lambda table: pd.concat([table, table.iloc[:1]]), "has two rows for cell 1 in section 0"),
        (lambda table: table.assign(area=[*table.area[:-1], 1]), "which may have been edited since"),
        (lambda table: table.assign(label="cell"), "column `label` has `cell`, expected a whole number"),
        (lambda table: table.assign(label=table.label + 0.5), "expected a whole number"),
        (lambda table: table.rename(columns={"section": "z"}), "has no column `section`; found z, label"),
    ],
)
def test_tables_of_other_cells_are_refused(tmp_path, change, message):
    path, own = tmp_path / "a_labels.tif", tmp_path / "a_cells.csv"
    labels = np.zeros((1, 20, 30), np.uint16)
    labels[0, 2:8, 2:8], labels[0, 10:18, 12:20] = 1, 2
    imageio.write_labels(path, labels, pixel_size=(0.5, 0.5))
    table = pd.DataFrame({"section": [0, 0], "label": [1, 2], "area": [9.0, 16.0]})
    change(table).to_csv(own, index=False)
    with pytest.raises(InputError, match=message):
        export_labels(
            tmp_path / "a_labels.tif", tmp_path / "a.zip", to="fiji", table=tmp_path / "a_cells.csv"
        )
    table.to_csv(own, index=False)
    with open(own, "a") as file:
        file.write(",,\n")  # an empty row, as spreadsheets leave
    export_labels(path, tmp_path / "a.zip", to="fiji", table=own)


def test_labels_with_large_numbers_need_little_memory(tmp_path):
    labels = np.zeros((1, 20, 30), np.uint64)
    labels[0, 2:8, 2:8], labels[0, 10:18, 12:20] = 3, 4_000_000_000
    tifffile.imwrite(tmp_path / "a.tif", labels)
    found = export_labels(tmp_path / "a.tif", tmp_path / "a.geojson", to="qupath")
    assert found.cells == 2
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert any("4000000000" in json.dumps(feature) for feature in features)
