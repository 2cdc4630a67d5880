"""Measurements block by block equal those of scikit-image on whole sections."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import measure

from pipeline_lib import cli
from pipeline_lib.instances.files import open_cells
from pipeline_lib.instances.measurement import INTENSITY, SHAPE, measure_cells
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.measurement import measure_file


def drawn(seed, shape=(2, 40, 50), number=12):
    """Rectangles of random labels, some with several areas, and gray levels (c, z, y, x)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint32)
    for _ in range(number):
        z, y, x = (rng.integers(0, n) for n in shape)
        labels[z, y : y + rng.integers(1, 20), x : x + rng.integers(1, 20)] = rng.integers(0, 90)
    return labels, rng.normal(size=(2, *shape)), rng.random(shape)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([7, 16, 64]), st.integers(1, 2))
def test_blocks_give_the_values_of_whole_sections(seed, block, channels):
    labels, gray, probability = drawn(seed)
    disagreement = probability**2 / 2
    found = measure_cells(
        labels,
        intensity=gray[:channels],
        probability=probability,
        disagreement=disagreement,
        block=block,
    )
    assert [*found][-2:] == ["probability_mean", "disagreement_mean"]
    expected = []
    for z, section in enumerate(labels):
        image = gray[0, z] if channels == 1 else np.moveaxis(gray[:, z], 0, -1)
        table = pd.DataFrame(measure.regionprops_table(section, image, properties=(*SHAPE, *INTENSITY)))
        table.insert(0, "section", z)
        table["touches_edge"] = [
            any((section == label)[side].any() for side in (0, -1, np.s_[:, 0], np.s_[:, -1]))
            for label in table.label
        ]
        table["probability_mean"] = [probability[z][section == label].mean() for label in table.label]
        table["disagreement_mean"] = [disagreement[z][section == label].mean() for label in table.label]
        expected.append(table)
    expected = pd.concat(expected, ignore_index=True)
    pd.testing.assert_frame_equal(found, expected[found.columns], check_dtype=False, rtol=1e-9)


def test_columns_in_um():
    labels, _, _ = drawn(1)
    found = measure_cells(labels, pixel_size=0.5)
    np.testing.assert_allclose(found.area_um2, found.area / 4)
    for name in ("perimeter", "axis_major_length", "centroid-1"):
        np.testing.assert_allclose(found[f"{name}_um"], found[name] / 2)


def test_no_cells_give_an_empty_table_with_all_columns():
    labels, gray, probability = drawn(0, number=0)
    maps = {"intensity": gray[:1], "probability": probability, "disagreement": probability}
    empty = measure_cells(labels, **maps)
    labels[0, 0, 0] = 1
    assert not len(empty)
    assert [*empty] == [*measure_cells(labels, **maps)]


def test_only_a_block_and_the_cells_that_begin_in_it_are_read():
    class Watched:
        def __init__(self, array):
            self.shape, self.array, self.largest = array.shape, array, 0

        def __getitem__(self, index):
            region = self.array[index]
            self.largest = max(self.largest, region.size)
            return region

    labels = np.zeros((1, 512, 512), int)
    labels[0, ::20, ::20] = np.arange(26 * 26).reshape(26, 26)
    labels[0, 100:140, 100:140] = 999
    watched = Watched(labels)
    assert len(measure_cells(watched, block=128)) == len(np.unique(labels)) - 1
    assert watched.largest <= (128 + 40) ** 2


class TestFile:
    def test_the_command_writes_the_table_of_a_label_image(self, tmp_path, capsys):
        labels, gray, _ = drawn(3)
        tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint16), photometric="minisblack")
        tifffile.imwrite(tmp_path / "i.tif", gray[0].astype(np.float32), photometric="minisblack")
        words = [str(tmp_path / "a.tif"), "--intensity", str(tmp_path / "i.tif"), "--pixel-size", "2"]
        assert cli.main(["measure", *words]) == 0
        expected = measure_cells(labels, intensity=gray[:1].astype(np.float32), pixel_size=2)
        assert f"a.csv: {len(expected)} cells" in capsys.readouterr().out
        found = pd.read_csv(tmp_path / "a.csv")
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)

    @pytest.mark.parametrize(("spoil", "message"), [(0.5, "found the value 0.5"), (-1, "found the value -1")])
    def test_values_that_are_no_labels_are_refused(self, tmp_path, spoil, message):
        labels = np.zeros((20, 20), np.float32)
        labels[3, 4] = spoil
        tifffile.imwrite(tmp_path / "a.tif", labels)
        with pytest.raises(InputError, match=message):
            measure_file(tmp_path / "a.tif", tmp_path / "a.csv")
        assert not (tmp_path / "a.csv").exists()

    def test_an_image_of_another_size_is_refused(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", np.ones((20, 20), np.uint8))
        tifffile.imwrite(tmp_path / "i.tif", np.ones((20, 21), np.uint8))
        with pytest.raises(InputError, match=r"Name the image of these labels"):
            measure_file(tmp_path / "a.tif", tmp_path / "a.csv", intensity=tmp_path / "i.tif")


def test_each_area_of_a_mask_is_a_cell(tmp_path, caplog):
    mask = np.zeros((2, 30, 40), np.uint8)
    mask[0, 2:8, 3:9] = mask[0, 12:15, 3:9] = mask[1, 20:29, 30:40] = 255
    gray = np.arange(mask.size, dtype=np.uint16).reshape(mask.shape)
    tifffile.imwrite(tmp_path / "mask.tif", mask, photometric="minisblack")
    tifffile.imwrite(tmp_path / "gray.tif", gray, photometric="minisblack")
    assert (
        measure_file(tmp_path / "mask.tif", tmp_path / "m.csv", intensity=tmp_path / "gray.tif", block=16)
        == 3
    )
    assert "has one value besides 0, so each of its 3 connected areas is a cell" in caplog.text
    labels = np.where(mask > 0, [[[1]], [[3]]], 0).astype(np.uint8)
    labels[0, 12:15] *= 2
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    measure_file(tmp_path / "labels.tif", tmp_path / "l.csv", intensity=tmp_path / "gray.tif")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "m.csv"), pd.read_csv(tmp_path / "l.csv"))
    tifffile.imwrite(tmp_path / "one.tif", labels[:1] == 1)
    assert measure_file(tmp_path / "one.tif", tmp_path / "o.csv") == 1


def test_a_jpeg_of_a_mask_has_its_cells_only(tmp_path):
    mask = np.zeros((64, 64), np.uint8)
    mask[5:20, 5:20], mask[30:50, 30:50] = 255, 255
    Image.fromarray(mask).save(tmp_path / "a.jpg", quality=75)
    assert measure_file(tmp_path / "a.jpg", tmp_path / "a.csv") == 2
    assert pd.read_csv(tmp_path / "a.csv").area.tolist() == pytest.approx([225, 400], abs=12)
    gray = np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)
    Image.fromarray(gray).save(tmp_path / "b.jpg")
    with pytest.raises(InputError, match="JPEG"):
        measure_file(tmp_path / "b.jpg", tmp_path / "b.csv")


def test_tables_of_the_same_name_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file["one"] = file["two"] = np.ones((9, 9), np.uint8)
    assert cli.main(["measure", "a.h5:/one", "a.h5:/two"]) == 1
    assert "a.h5:/one and a.h5:/two would both be a.csv" in capsys.readouterr().err
    assert not Path("a.csv").exists()
    assert cli.main(["measure", "a.h5:/two", "--csv", "two.csv"]) == 0 and Path("two.csv").exists()


def test_only_a_table_of_cells_is_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("a.tif", np.ones((9, 9), np.uint8))
    for _ in range(2):
        assert cli.main(["measure", "a.tif"]) == 0
    Path("a.csv").write_text("image,treatment\na,1\n")
    assert cli.main(["measure", "a.tif"]) == 1
    assert "a.csv: exists and is no table of cells. Name another file: --csv FILE." in capsys.readouterr().err
    assert Path("a.csv").read_text() == "image,treatment\na,1\n"


def test_channels_are_measured_by_number_or_name(tmp_path):
    labels, planes = (
        np.zeros((1, 8, 9), np.uint8),
        np.random.default_rng(0).integers(0, 99, (2, 8, 9), np.uint8),
    )
    labels[0, 2:5, 2:7], labels[0, 6:, :3] = 1, 2
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    names = {"axes": "CYX", "Channel": {"Name": ["GFP", "DAPI"]}}
    tifffile.imwrite(tmp_path / "image.ome.tif", planes, photometric="minisblack", metadata=names)
    words = ["measure", str(tmp_path / "labels.tif"), "--intensity", str(tmp_path / "image.ome.tif")]
    means = [planes[1, 2:5, 2:7].mean(), planes[1, 6:, :3].mean()]
    for chosen in (["DAPI"], ["1"]):
        assert cli.main([*words, "--csv", str(tmp_path / "c.csv"), "--channels", *chosen]) == 0
        assert [*pd.read_csv(tmp_path / "c.csv").intensity_mean] == pytest.approx(means)
    assert cli.main([*words, "--csv", str(tmp_path / "c.csv")]) == 0  # all
    assert [*pd.read_csv(tmp_path / "c.csv")["intensity_mean-1"]] == pytest.approx(means)


def test_a_volume_without_cells_has_the_column_of_classes():
    nothing = np.zeros((1, 4, 5), np.uint8)
    probability = np.full((3, 1, 4, 5), 1 / 3)
    found = measure_cells(nothing, class_probability=probability, classes={1: "round", 2: "flat"})
    some = measure_cells(nothing + 1, class_probability=probability, classes={1: "round", 2: "flat"})
    assert found.empty and {*found.columns} == {*some.columns}


def test_single_cells_of_sections_keep_their_label(tmp_path):
    """One value besides 0, but one connected area in each section: no mask."""
    labels = np.zeros((2, 9, 9), np.uint16)
    labels[0, 2:5, 2:5] = labels[1, 3:6, 3:6] = 7
    tifffile.imwrite(tmp_path / "labels.tif", labels, photometric="minisblack")
    with open_cells(tmp_path / "labels.tif", tmp_path / "beside.csv") as (cells, _):
        found = [cells[z, slice(0, 9), slice(0, 9)] for z in range(2)]
    np.testing.assert_array_equal(found, labels)
