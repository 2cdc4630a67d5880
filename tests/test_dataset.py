import hashlib
import json
import logging
import os
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from pipeline_lib import figures, imageio, layout
from pipeline_lib.data.labels import separation_border
from pipeline_lib.data.volumes import read_table
from pipeline_lib.metrics import connected_components
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import sha256
from pipeline_lib.stages.dataset import build_dataset, build_weight_map, measure_statistics
from pipeline_lib.tasks.segmentation.weights import weight_map


def write(path, stack):
    tifffile.imwrite(path, stack, photometric="minisblack")  # three sections are not RGB


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    cells = np.zeros((3, 20, 24), np.uint8)
    cells[:, 2:10, 2:9], cells[:, 2:10, 10:20], cells[1:, 12:18, 3:20] = 255, 255, 255
    write(tmp_path / "images.tif", rng.integers(0, 99, cells.shape, np.uint8) + cells // 3)
    write(tmp_path / "cells.tif", cells)
    instances = np.zeros((3, 20, 24), np.uint16)
    instances[:, 2:10, 2:9], instances[:, 2:10, 9:20] = 7, 3
    write(tmp_path / "instances.tif", instances)
    return tmp_path


def test_membranes_become_instances_numbered_through_the_volume(files):
    build_dataset(files / "images.tif", files / "cells.tif", files / "a.h5", sections="0-1")
    with layout.require(files / "a.h5", layout.RAW, layout.LABELS, layout.SEPARATION_BORDER) as file:
        np.testing.assert_array_equal(file["raw"][0], tifffile.imread(files / "images.tif")[:2])
        assert [list(np.unique(section)) for section in file["labels"]] == [[0, 1, 2], [0, 3, 4, 5]]
        assert file["labels"].attrs["axes"] == b"zyx" and file["labels"].attrs["unit"] == b"instance"
        assert file["raw"].attrs["axes"] == b"czyx" and file["raw"].compression == "gzip"
        record = json.loads(file.attrs["provenance"])
    assert record["inputs"][str(files / "images.tif")] == sha256(files / "images.tif")
    assert record["settings"]["sections"] == "0-1"


def test_instances_keep_their_numbers_and_are_kept_apart(files):
    build_dataset(
        files / "images.tif",
        files / "instances.tif",
        files / "a.h5",
        annotation_kind="instances",
        separation_border_width=4,
    )
    with layout.require(files / "a.h5") as file:
        assert list(np.unique(file["labels"])) == [0, 3, 7]
        assert (file["separation_border"][0, 5] == ([0] * 7 + [1] * 4 + [0] * 13)).all()


def test_a_volume_to_predict_has_only_raw(files):
    build_dataset(files / "images.tif", None, files / "a.h5")
    with layout.require(files / "a.h5", layout.RAW) as file:
        assert list(file) == ["raw", "section_hash", "section_windows"]
    with (
        pytest.raises(InputError, match=r"no `labels` \(found: raw, section_hash, section_windows\)"),
        layout.require(files / "a.h5", layout.LABELS),
    ):
        pass


def test_an_annotation_of_another_size_is_named(files):
    write(files / "other.tif", tifffile.imread(files / "cells.tif")[:, :, :20])
    with pytest.raises(
        InputError,
        match=r"other\.tif: annotation of 3 sections of 20 x 20 px, but .*images\.tif has 3 sections of 20 x",
    ):
        build_dataset(files / "images.tif", files / "other.tif", files / "a.h5")
    assert not (files / "a.h5").exists() and not list(files.glob(".a*"))


def test_cells_lost_to_the_border_are_reported(files, caplog):
    narrow = np.zeros((1, 20, 24), np.uint16)
    narrow[:, 2:10, 2:9], narrow[:, 2:10, 9:10] = 1, 2
    write(files / "narrow.tif", narrow)
    with caplog.at_level(logging.WARNING, "bordure"):
        build_dataset(
            files / "images.tif",
            files / "narrow.tif",
            files / "a.h5",
            sections="0",
            annotation_kind="instances",
        )
    assert "1 of 2 cells lie completely within the separation border" in caplog.text


def test_statistics_are_those_of_the_training_pixels(files):
    build_dataset(files / "images.tif", files / "cells.tif", files / "a.h5", sections="0-1")
    build_dataset(files / "images.tif", files / "cells.tif", files / "b.h5", sections="2")
    measure_statistics(
        [files / "a.h5", files / "b.h5"], files / "statistics.json", normalisation_kind="mean_std"
    )
    found = json.loads((files / "statistics.json").read_text())
    raw, cells = tifffile.imread(files / "images.tif"), tifffile.imread(files / "cells.tif") > 0
    assert found["class_frequencies"] == pytest.approx([1 - cells.mean(), cells.mean()])
    assert found["normalisation"]["offset"][0][0][0] == pytest.approx(raw.mean(), rel=1e-6)
    assert found["normalisation"]["scale"][0][0][0] == pytest.approx(raw.std(), rel=1e-6)
    assert found["smoothed_raw"]["low"] < found["smoothed_raw"]["high"]


def test_the_stored_weight_map_is_that_of_the_paper(files):
    build_dataset(files / "images.tif", files / "instances.tif", files / "a.h5", annotation_kind="instances")
    measure_statistics([files / "a.h5"], files / "statistics.json")
    build_weight_map(files / "a.h5", files / "statistics.json", files / "w.h5", w0=7, sigma=3)
    frequencies = np.array(json.loads((files / "statistics.json").read_text())["class_frequencies"])
    with layout.require(files / "a.h5") as data, layout.require(files / "w.h5", layout.WEIGHT_MAP) as file:
        cells = np.where(data["separation_border"][2], 0, data["labels"][2])
        np.testing.assert_array_equal(file["weight_map"][2], weight_map(cells, 0.5 / frequencies, 7, 3))
        assert file["weight_map"].attrs["sigma"] == 3
    build_weight_map(files / "a.h5", files / "statistics.json", files / "w.h5", w0=0, class_balance=False)
    with layout.require(files / "w.h5") as file:
        assert (file["weight_map"][:] == 1).all()


@pytest.fixture
def tangled(tmp_path):
    """Images, membranes between winding cells, and touching instances with large gaps in their numbers."""
    rng = np.random.default_rng(5)
    cells = (rng.random((2, 70, 90)) < 0.62).astype(np.uint8) * 255
    numbers = np.array([0, 1, 7, 2**31, 2**32 - 1], np.uint32)
    instances = numbers[np.kron(rng.integers(0, 5, (2, 14, 18)), np.ones((5, 5), int))]
    for name, stack in (("cells", cells), ("instances", instances), ("images", cells // 3)):
        write(tmp_path / f"{name}.tif", stack)
    return tmp_path


@pytest.mark.parametrize("annotation", ["cells", "instances"])
def test_nothing_depends_on_the_blocks(tangled, annotation, caplog):
    found = []
    for block in (7, 16, 2048):
        caplog.clear()
        with caplog.at_level(logging.INFO, "bordure"):
            build_dataset(
                tangled / "images.tif",
                tangled / f"{annotation}.tif",
                tangled / "a.h5",
                annotation_kind="instances" if annotation == "instances" else "black_membranes",
                separation_border_width=5,
                block=block,
            )
            log = caplog.text
        measure_statistics([tangled / "a.h5"], tangled / "statistics.json")
        build_weight_map(
            tangled / "a.h5", tangled / "statistics.json", tangled / "w.h5", sigma=2, block=block
        )
        with layout.require(tangled / "a.h5") as data, layout.require(tangled / "w.h5") as file:
            names = layout.RAW.name, layout.LABELS.name, layout.SEPARATION_BORDER.name
            found.append([data[name][:] for name in names] + [file[layout.WEIGHT_MAP.name][:]])
        found[-1] += [log, json.loads((tangled / "statistics.json").read_text())["smoothed_raw"]]
        assert not list(tangled.glob(".*partial*"))
    for other in found[1:]:
        for here, there in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(here, there)
    labels, border = found[0][1:3]
    if annotation == "instances":
        np.testing.assert_array_equal(labels, tifffile.imread(tangled / "instances.tif"))
    else:
        whole = connected_components(tifffile.imread(tangled / "cells.tif"))
        whole[1][whole[1] > 0] += whole[0].max()
        np.testing.assert_array_equal(labels, whole)
    np.testing.assert_array_equal(border, [separation_border(section, 5) for section in labels])
    cells = sum(len(np.unique(section[section > 0])) for section in labels)
    assert f"{cells} cells" in found[0][4]


def test_same_inputs_give_the_same_bytes(files):
    for name in ("a.h5", "b.h5"):
        build_dataset(files / "images.tif", files / "cells.tif", files / name)
    assert sha256(files / "a.h5") == sha256(files / "b.h5")


def test_a_cell_larger_than_a_block_is_counted_once(files, caplog):
    narrow = np.zeros((3, 20, 24), np.uint16)
    narrow[:, 2, 2:23], narrow[:, 3:19] = 900, 6
    write(files / "narrow.tif", narrow)
    with caplog.at_level(logging.INFO, "bordure"):
        build_dataset(
            files / "images.tif",
            files / "narrow.tif",
            files / "a.h5",
            annotation_kind="instances",
            block=4,
        )
    assert "20 x 24 px, 6 cells" in caplog.text
    assert "One cell covers 80% of section 1" in caplog.text
    assert "3 of 6 cells lie completely within the separation border" in caplog.text


def test_an_annotation_that_is_likely_inverted_is_reported(files, caplog):
    write(files / "inverted.tif", 255 - tifffile.imread(files / "cells.tif"))
    with caplog.at_level(logging.WARNING, "bordure"):
        build_dataset(
            files / "images.tif", files / "inverted.tif", files / "a.h5", annotation_kind="black_membranes"
        )
    assert "One cell covers 72% of section 1" in caplog.text and "annotation_kind" in caplog.text


def test_a_missing_image_is_named_and_no_file_is_written(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.tif: no such file"):
        build_dataset(str(tmp_path / "nowhere.tif"), None, tmp_path / "a.h5")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------- what is not annotated


def arrays(path):
    with layout.require(path, layout.LABELS) as file:
        return {name: file[name][:] for name in file}, layout.findings(file)


def test_ignored_pixels_have_no_label_no_border_and_no_weight(files):
    instances = tifffile.imread(files / "instances.tif").astype(np.int32)
    ignored = np.zeros(instances.shape, bool)
    ignored[:, :, 12:], ignored[1, 5] = True, True
    write(files / "declared.tif", np.where(ignored, -1, instances))
    write(files / "mask.tif", ignored.astype(np.uint8) * 3)
    found = []
    for annotation, settings in (
        ("declared.tif", {"ignore": -1}),
        ("instances.tif", {"ignore_mask": files / "mask.tif"}),
    ):
        build_dataset(
            files / "images.tif",
            files / annotation,
            files / "a.h5",
            annotation_kind="instances",
            block=7,
            **settings,
        )
        measure_statistics([files / "a.h5"], files / "s.json")
        build_weight_map(files / "a.h5", files / "s.json", files / "w.h5", block=7)
        data, _ = arrays(files / "a.h5")
        with layout.require(files / "w.h5") as file:
            weights = file["weight_map"][:]
        labels = np.where(ignored, 0, instances)
        np.testing.assert_array_equal(data["ignore"], ignored)
        np.testing.assert_array_equal(data["labels"], labels)
        assert not data["separation_border"][ignored].any() and not weights[ignored].any()
        frequencies = np.array(json.loads((files / "s.json").read_text())["class_frequencies"])
        for z in range(3):
            cells = np.where(data["separation_border"][z], 0, labels[z])
            expected = np.where(ignored[z], 0, weight_map(cells, 0.5 / frequencies, 10, 5))
            np.testing.assert_array_equal(weights[z], expected)
        found.append(data["labels"])
    np.testing.assert_array_equal(*found)


def test_sections_without_cells_are_asked(files):
    instances = tifffile.imread(files / "instances.tif")
    instances[1] = 0
    write(files / "sparse.tif", instances)
    sources = files / "images.tif", files / "sparse.tif", files / "a.h5"
    with pytest.raises(
        InputError, match=r"1 of 3 sections have no cell \(section 1, counted.*empty_sections: ignore}`"
    ):
        build_dataset(*sources)
    assert not (files / "a.h5").exists()
    build_dataset(*sources, empty_sections="background")
    assert "ignore" not in arrays(files / "a.h5")[0]
    build_dataset(*sources, empty_sections="ignore")
    assert arrays(files / "a.h5")[0]["ignore"].any(axis=(1, 2)).tolist() == [False, True, False]
    build_dataset(*sources, sections="1", annotation_kind="instances")
    assert not arrays(files / "a.h5")[0]["labels"].any()
    with pytest.raises(InputError, match="no section has a cell"):
        build_dataset(*sources, sections="1", annotation_kind="instances", empty_sections="ignore")


def test_a_picture_shows_the_values_that_are_not_clear(files):
    y, x = np.mgrid[:20, :24]
    radius = np.hypot(y % 12 - 6, x % 12 - 6)
    write(
        files / "classes.tif",
        np.where(radius < 3, 1, np.where(radius < 5, 2, 0)).astype(np.uint8)[None].repeat(3, 0),
    )
    picture = files / "a.unclear.png"
    with pytest.raises(
        InputError, match=r"kind: instances}`\. The picture .*a\.unclear\.png shows the values\."
    ):
        build_dataset(files / "images.tif", files / "classes.tif", files / "a.h5")
    shown = figures.describe(picture)
    assert shown["panels"][1]["legend"][1][1].startswith("1: ")
    build_dataset(files / "images.tif", files / "classes.tif", files / "a.h5", annotation_kind="instances")
    assert not picture.exists()


def test_one_mask_for_each_cell_is_recognised(files):
    instances = tifffile.imread(files / "instances.tif")
    (files / "masks").mkdir()
    for number in (3, 7):
        write(files / f"masks/{number}.tif", (instances[0] == number).astype(np.uint8) * 255)
    write(files / "image.tif", tifffile.imread(files / "images.tif")[0])
    build_dataset(files / "image.tif", files / "masks", files / "a.h5")
    expected = np.where(instances[0] == 3, 1, np.where(instances[0] == 7, 2, 0))
    data, found = arrays(files / "a.h5")
    np.testing.assert_array_equal(data["labels"][0], expected)
    assert found["annotation"]["description"].startswith("2 masks of 20 x 24 px")


@pytest.mark.parametrize("block", [5, 16, 2048])
def test_classes_become_cells_with_their_border(files, block):
    """Borders that are wider than a block, and cells of two classes that touch."""
    rng = np.random.default_rng(1)
    classes = np.kron(rng.integers(0, 4, (2, 5, 6)), np.ones((4, 4), np.uint8)).astype(np.uint8)
    write(files / "classes.tif", classes)
    write(files / "stack.tif", tifffile.imread(files / "images.tif")[:2])
    named = {"background": 0, "a": 1, "b": 2, "border": 3}
    stated = {"annotation_kind": "classes", "classes": named}
    build_dataset(files / "stack.tif", files / "classes.tif", files / "a.h5", block=block, **stated)
    labels = arrays(files / "a.h5")[0]["labels"]
    read = imageio.read_annotation(files / "classes.tif", kind="classes", classes=named).labels
    for z in range(2):
        pairs = np.unique(np.stack([labels[z].ravel(), read[z].ravel()]), axis=1)
        assert len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1]))  # the same cells, other numbers
    assert (labels > 0).sum() == (read > 0).sum() > ((classes == 1) | (classes == 2)).sum()


def training(files, **factors):
    """Return datasets `a`, `b` ... of images multiplied by factors, as float32, or by None, as uint8."""
    raw, paths = tifffile.imread(files / "images.tif"), []
    for name, (factor, scale) in factors.items():
        image = raw if factor is None else (raw * np.float32(factor)).astype(np.float32)
        write(files / f"raw_{name}.tif", image)
        paths.append(files / f"{name}.h5")
        build_dataset(files / f"raw_{name}.tif", files / "cells.tif", paths[-1], scale=scale)
    return paths


def test_training_volumes_of_other_scales_are_refused_until_their_factor_is_stated(files):
    paths = training(files, a=(1 / 255, None), b=(1, None), c=(1 / 255, None))
    with pytest.raises(InputError, match=r"^volume a: gray levels .* The same holds for c\.$") as error:
        measure_statistics(paths, files / "statistics.json")
    scale = float(re.search(r"`scale` of the table of volumes: (\S+),", str(error.value))[1])
    assert scale == 255
    paths = training(files, a=(1 / 255, scale), b=(1, None), c=(1 / 255, scale))
    measure_statistics(paths, files / "statistics.json")
    found = json.loads((files / "statistics.json").read_text())["normalisation"]
    raw = tifffile.imread(files / "images.tif")
    assert found["offset"][0][0][0] == pytest.approx(raw.mean(), rel=1e-6)
    assert found["scale"][0][0][0] == pytest.approx(raw.std(), rel=1e-6)
    assert found["gray"]["high"] == pytest.approx([raw.max()]) and found["gray"]["std"] == pytest.approx(
        [raw.std()]
    )


def test_training_volumes_of_another_type_need_a_scale(files):
    paths = training(files, a=(None, None), b=(1 / 255, None))
    with pytest.raises(InputError, match=r"types: float32, uint8\. .* factors .* column `scale`"):
        measure_statistics(paths, files / "statistics.json")
    measure_statistics(training(files, a=(None, None), b=(1 / 255, 255)), files / "statistics.json")
    found = json.loads((files / "statistics.json").read_text())["normalisation"]
    assert found["dtype"] == "uint8" and found["gray"]["low"] == [tifffile.imread(files / "images.tif").min()]


@pytest.mark.parametrize(("offset", "scale"), [(100, None), (-3.5, None), (100, 0.5), (0, None)])
def test_an_offset_is_subtracted_before_the_scale(files, offset, scale):
    build_dataset(files / "images.tif", None, files / "a.h5", offset=offset, scale=scale)
    with layout.require(files / "a.h5") as file:
        expected = (tifffile.imread(files / "images.tif").astype(float) - offset) * (scale or 1)
        np.testing.assert_array_equal(file["raw"][0], expected.astype(np.float32))
        assert file["raw"].dtype == np.float32
        gray = layout.findings(file)["gray"]
    assert gray["offset"] == offset and gray["scale"] == (scale or 1)


def test_scaled_gray_levels_are_floats(files):
    build_dataset(files / "images.tif", None, files / "a.h5", scale=1 / 255)
    with layout.require(files / "a.h5") as file:
        raw = tifffile.imread(files / "images.tif")
        np.testing.assert_array_equal(file["raw"][0], (raw / 255).astype(np.float32))
        gray = layout.findings(file)["gray"]
    assert gray["high"] == pytest.approx([raw.max() / 255]) and gray["std"] == pytest.approx(
        [raw.std() / 255]
    )


DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
# SHA-256 of raw, labels and separation border, as commit df37b0b made them
UNCHANGED = {
    "isbi2012": "356b523686c8005b6d76e7be75810f311235e22d77937da1c11a10729d0afac6",
    "nuclei": "2da5e272ed120d66a4d09966908162328f1a28546cc983af06c631e94ab49168",
}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them")
@pytest.mark.parametrize("config", UNCHANGED)
def test_datasets_of_the_shipped_configs_are_those_of_earlier_versions(tmp_path, config):
    table = Path(__file__).parents[1] / f"config/{config}.tsv"
    rows = [row for row in read_table(table, str(DATA)) if row.annotation]
    digest = hashlib.sha256()
    for row in rows[1:] if config == "isbi2012" else rows[::6]:  # a part, to save time
        build_dataset(output=tmp_path / "a.h5", **row.source())
        with h5py.File(tmp_path / "a.h5") as file:
            for name in ("raw", "labels", "separation_border"):
                digest.update(repr((file[name].shape, str(file[name].dtype))).encode())
                digest.update(file[name][:].tobytes())
    assert digest.hexdigest() == UNCHANGED[config]
