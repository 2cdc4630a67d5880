"""`bordure init`: table and config for a folder of images."""

import math
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import yaml
from bordure.settings import complete, read_config
from PIL import Image

from pipeline_lib import cli, imageio, provenance
from pipeline_lib.cli.init import _ask
from pipeline_lib.data.volumes import check_files, read_table
from pipeline_lib.projects import example
from pipeline_lib.projects.layouts import Found, find_images
from pipeline_lib.projects.proposal import choose_network, choose_settings, infer_preset
from pipeline_lib.projects.setup import set_up
from pipeline_lib.projects.splits import Row, split_images
from pipeline_lib.projects.survey import Survey, _gaps, survey
from pipeline_lib.projects.writing import config_text
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.dataset import build_dataset

ROOT = Path(__file__).resolve().parent.parent


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


LAYOUTS = {
    "two folders": (
        ["images/a1.tif", "images/a2.tif", "masks/a2.png", "masks/a1.png"],
        [("a1", "images/a1.tif", "masks/a1.png"), ("a2", "images/a2.tif", "masks/a2.png")],
    ),
    "one folder": (
        ["img_2.png", "img_2_mask.png", "img_10.png", "img_10_mask.png", "img_11.png"],
        [
            ("img_2", "img_2.png", "img_2_mask.png"),
            ("img_10", "img_10.png", "img_10_mask.png"),
            ("img_11", "img_11.png", None),
        ],
    ),
    "challenge stacks": (
        ["train-volume.tif", "train-labels.tif", "test-volume.tif"],
        [
            ("test-volume", "test-volume.tif", None),
            ("train-volume", "train-volume.tif", "train-labels.tif"),
        ],
    ),
    "lone image": (["tissue.tif", "gt.tif"], [("tissue", "tissue.tif", "gt.tif")]),
    "one folder per image": (
        [f"s/{name}/images/{name}.png" for name in ("ab1", "cd2")]
        + ["s/ab1/masks/x.png", "s/ab1/masks/y.png", "s/cd2/masks/z.png"],
        [
            ("ab1", "s/ab1/images/ab1.png", "s/ab1/masks"),
            ("cd2", "s/cd2/images/cd2.png", "s/cd2/masks/z.png"),
        ],
    ),
    "the same names in several folders": (
        ["train/images/1.tif", "train/labels/1.tif", "val/images/1.tif", "val/labels/1.tif", "new/1.tif"],
        [
            ("new_1", "new/1.tif", None),
            ("train_images_1", "train/images/1.tif", "train/labels/1.tif", "train"),
            ("val_images_1", "val/images/1.tif", "val/labels/1.tif", "validation"),
        ],
    ),
    "cell tracking challenge": (
        ["01/t000.tif", "01/t001.tif", "01_GT/SEG/man_seg001.tif"],
        [("t000", "01/t000.tif", None), ("t001", "01/t001.tif", "01_GT/SEG/man_seg001.tif")],
    ),
    "names that are not valid in a table": (
        ["images/a (1).tif", "labels/a (1).tif", "images/con.2.tif", "labels/con.2.tif"],
        [
            ("a_1", "images/a (1).tif", "labels/a (1).tif"),
            ("image_con.2", "images/con.2.tif", "labels/con.2.tif"),
        ],
    ),
    "folders with other words": (
        ["raw_data/1.tif", "raw_data/2.tif", "masks/1.tif", "masks/2.tif"],
        [("1", "raw_data/1.tif", "masks/1.tif"), ("2", "raw_data/2.tif", "masks/2.tif")],
    ),
    "folders with other words and a split": (
        [f"{part}set/{side}/1.tif" for part in ("train", "test") for side in ("Original", "Ground Truth")],
        [
            ("testset_Original_1", "testset/Original/1.tif", "testset/Ground Truth/1.tif", "test"),
            ("trainset_Original_1", "trainset/Original/1.tif", "trainset/Ground Truth/1.tif", "train"),
        ],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_found_and_paired(tmp_path, layout):
    files, expected = LAYOUTS[layout]
    touch(tmp_path, *files, ".hidden/images/a1.tif", "notes.txt")
    with provenance.making("segment", [tmp_path / "results/a1_mask.tif"], []):
        touch(tmp_path, "results/a1_mask.tif")
    assert find_images(tmp_path) == [Found(*found) for found in expected]


def test_results_beside_the_images_are_annotations_only_if_they_were_corrected(tmp_path):
    touch(tmp_path, "a1.tif", "a2.tif")
    labels = [tmp_path / f"a{number}_labels.tif" for number in (1, 2)]
    with provenance.making("segment", labels, []):
        for path in labels:
            path.write_text("found")
    with pytest.raises(InputError, match="found 2 images, but no annotations"):
        find_images(tmp_path)
    labels[1].write_text("corrected")
    assert [(found.images, found.annotation) for found in find_images(tmp_path)] == [
        ("a1.tif", None),
        ("a2.tif", "a2_labels.tif"),
    ]


def test_stated_patterns_win_over_words(tmp_path):
    touch(tmp_path, "mask/a1.tif", "mask/a2.tif", "drawn/a1.tif", "drawn/a2.tif", "drawn/b.tif")
    found = find_images(tmp_path, "mask/*.tif", "drawn/a*.tif")
    assert found == [Found(f"a{n}", f"mask/a{n}.tif", f"drawn/a{n}.tif") for n in (1, 2)]
    assert find_images(tmp_path, "a.h5:/raw", "a.h5:/labels") == [
        Found("volume", "a.h5:/raw", "a.h5:/labels")
    ]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["x.tif", "x_mask.tif", "x_outlines.tif"], {}, "which image belongs to x_mask.tif, x_outlines.tif"),
        (["images/a.tif", "images/b.tif", "masks/c.tif"], {}, "which image belongs to masks/c.tif"),
        (["a/b/masks/c.tif"], {}, "which image belongs to a/b/masks/c.tif .images found: 0"),
        (["images/0.tif", "masks/0.tif", "masks/1.tif"], {}, "which image belongs to masks/1.tif"),
        (["images/cell_5.tif", "masks/cell_6.tif"], {}, "which image belongs to masks/cell_6.tif"),
        (["ctrl_1.tif", "ctrl_2.tif", "drug_3.tif", "drug_1_mask.tif"], {}, "belongs to drug_1_mask.tif"),
        (["a.tif", "b.tif"], {}, "found 2 images, but no annotations"),
        (["a.txt"], {}, "found no images"),
        (["a.tif"], {"images": "*.tif"}, "--images: is given without --annotations"),
        (["a.tif"], {"images": "b*", "annotations": "a*"}, r"--images b\*: matches no image"),
        (
            ["a.tif"],
            {"images": "a*", "annotations": "*.tif"},
            r"a.tif: matches --images a\* and --annotations",
        ),
    ],
)
def test_ambiguous_names_are_refused(tmp_path, files, options, message):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match=message) as error:
        find_images(tmp_path, **options)
    assert "--images" in str(error.value)


def test_sequences_with_several_annotations_are_paired_by_patterns(tmp_path):
    """The cell tracking challenge has a folder for the numbers of tracks and one for automatic labels."""
    frames = [(video, frame) for video in ("01", "02") for frame in ("000", "001")]
    touch(tmp_path, *(f"{video}/t{frame}.tif" for video, frame in frames))
    for folder in ("GT/TRA/man_track", "GT/SEG/man_seg", "ST/SEG/man_seg"):
        touch(tmp_path, *(f"{video}_{folder}{frame}.tif" for video, frame in frames))
    with pytest.raises(InputError, match=r"which image belongs to .*--annotations"):
        find_images(tmp_path)
    found = find_images(tmp_path, "0?/t*.tif", "0?_ST/SEG/*.tif")
    assert [(one.images, one.annotation) for one in found] == [
        (f"{video}/t{frame}.tif", f"{video}_ST/SEG/man_seg{frame}.tif") for video, frame in frames
    ]


def test_one_side_may_be_a_dataset(tmp_path):
    touch(tmp_path, "a_labels.tif", "b_labels.tif")
    assert find_images(tmp_path, "a.h5:/raw", "a*.tif") == [Found("volume", "a.h5:/raw", "a_labels.tif")]
    with pytest.raises(InputError, match="matches 2 files, expected one"):
        find_images(tmp_path, "a.h5:/raw", "*.tif")


def test_names_that_a_table_cannot_have_are_refused_first(tmp_path):
    for name, message in ((b"Zelle_\xfc.tif", "not valid UTF-8.*convmv"), (b"x{1}.tif", r"found '\{'")):
        folder = tmp_path / message[:5]
        folder.mkdir()
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).touch()
        with pytest.raises(InputError, match=message):
            find_images(folder)


@pytest.mark.parametrize("suffix", ["gif", "npy", "geojson", "zip"])
def test_annotations_that_are_not_read_are_named(tmp_path, suffix):
    touch(tmp_path, "images/a.tif", f"masks/a.{suffix}", ".masks/b.npy")
    with pytest.raises(InputError, match=rf"no annotations: .*Files such as masks/a.{suffix} are not read"):
        find_images(tmp_path)


def test_annotations_alone_can_be_stated(tmp_path):
    touch(tmp_path, "x_1.tif", "x_1_mask.tif", "x_1_outlines.tif", "x_2.tif")
    found = find_images(tmp_path, annotations="*_mask.tif")
    assert found == [Found("x_1", "x_1.tif", "x_1_mask.tif"), Found("x_2", "x_2.tif", None)]


def images(number, shape=(1, 300, 300), split=None):
    return [(Found(f"i{n}", f"i{n}.tif", f"m{n}.tif", split), shape) for n in range(number)]


def test_splits_are_contiguous_blocks_of_images():
    rows = split_images(images(12), 44, 20)
    assert [row.split for row in rows] == ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    assert [row.volume for row in rows] == [f"i{n}" for n in range(12)]
    assert not any(row.sections or row.rows for row in rows)


def test_images_of_each_size_are_in_all_splits_if_there_are_enough():
    many = images(10) + [(Found(f"j{n}", f"j{n}", "m"), (1, 99, 99)) for n in range(5)]
    rows = split_images(many, 44, 20)
    assert [row.volume for row in rows if row.split == "validation"] == ["i6", "i7", "j3"]
    assert [row.volume for row in rows if row.split == "test"] == ["i8", "i9", "j4"]
    few = split_images(many[:-1], 44, 20)  # 4 of the second size: one block of all images
    assert [row.volume for row in few if row.split == "test"] == ["j1", "j2", "j3"]


def test_a_stack_is_split_by_sections_and_new_images_are_predicted():
    rows = split_images([*images(1, (30, 64, 64)), (Found("new", "new.tif", None), (30, 64, 64))], 44, 20)
    assert rows == [
        Row("i0_train", "i0.tif", "m0.tif", "train", "0-18"),
        Row("i0_validation", "i0.tif", "m0.tif", "validation", "19-23"),
        Row("i0_test", "i0.tif", "m0.tif", "test", "24-29"),
        Row("new", "new.tif", None, "predict"),
    ]


def test_few_images_are_divided_where_the_sections_say():
    rows = split_images(images(2, (4, 64, 64)), 44, 20)
    assert [(row.volume, row.split, row.sections) for row in rows] == [
        ("i0", "train", ""),
        ("i1_train", "train", "0"),
        ("i1_validation", "validation", "1"),
        ("i1_test", "test", "2-3"),
    ]
    assert [(row.volume, row.split) for row in split_images(images(3), 44, 20)] == [
        ("i0", "train"),
        ("i1", "validation"),
        ("i2", "test"),
    ]


def test_a_lone_image_is_cut_into_bands_with_the_context_between_them():
    rows = split_images(images(1, (1, 512, 300)), 44, 20)
    # 512 - 2 * 44 = 424 rows are used, and 20 % of them are 85
    assert [(row.split, row.rows) for row in rows] == [
        ("train", "0-253"),
        ("validation", "298-382"),
        ("test", "427-511"),
    ]
    small = split_images(images(1, (1, 240, 300)), 44, 19)  # without testing: 30 % of 240 - 44 rows
    assert [(row.split, row.rows) for row in small] == [("train", "0-136"), ("validation", "181-239")]
    with pytest.raises(InputError, match="has 240 rows, too few"):
        split_images(images(1, (1, 240, 300)), 44, 60)


def test_a_split_that_folders_state_is_kept():
    stated = [*images(6, split="train"), *images(2, split="validation"), *images(1, split="test")]
    assert [row.split for row in split_images(stated, 44, 20)] == ["train"] * 6 + ["validation"] * 2 + [
        "test"
    ]
    train = split_images(images(6, split="train"), 44, 20)  # says nothing about the others
    assert [row.split for row in train] == ["train"] * 4 + ["validation", "test"]
    no_validation = split_images([*images(6, split="train"), *images(1, split="test")], 44, 20)
    assert [row.split for row in no_validation] == ["train"] * 5 + ["validation", "test"]
    with pytest.raises(InputError, match="no annotated images are left for training"):
        split_images(images(2, split="test"), 44, 20)


def test_gaps_are_the_distances_to_the_two_nearest_cells():
    rng = np.random.default_rng(0)
    labels = np.zeros((24, 30), np.uint32)
    for cell in range(1, 6):
        y, x = rng.integers(0, 20, 2)
        labels[y : y + 4, x : x + 5] = cell
    expected = []
    for y, x in np.argwhere(labels == 0):
        distances = sorted(
            np.hypot(*(np.argwhere(labels == cell) - (y, x)).T).min() for cell in np.unique(labels)[1:]
        )
        if sum(distances[:2]) <= 9:
            expected.append(sum(distances[:2]))
    assert len(expected) > 50
    np.testing.assert_allclose(np.sort(_gaps(labels, 9.0)), np.sort(expected), atol=1e-3)


def write_nuclei(folder, number=6, side=120, dtype=np.uint8):
    """Write bright squares of 10 x 10 px that are 4 px apart in pairs."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for n in range(number):
        labels = np.zeros((side, side), np.uint8)
        for k, (y, x) in enumerate(np.ndindex(3, 3)):
            for right in (0, 1):
                left = 5 + 38 * x + 14 * right
                labels[5 + 38 * y : 15 + 38 * y, left : left + 10] = 2 * k + right + 1
        image = np.where(labels > 0, 200, 20) + rng.integers(0, 10, labels.shape)
        tifffile.imwrite(folder / f"images/n{n}.tif", image.astype(dtype))
        tifffile.imwrite(folder / f"masks/n{n}.tif", labels)
    return folder


def test_cells_are_measured(tmp_path):
    folder = write_nuclei(tmp_path)
    seen = survey(folder, find_images(folder), {})
    assert (seen.kind, seen.channels, seen.dtype) == ("instances", 1, "uint8")
    assert seen.shapes == [(1, 120, 120)] * 6
    assert (seen.cells, seen.exact) == (6 * 18, True)
    assert seen.diameter == pytest.approx(2 * math.sqrt(100 / math.pi))
    assert seen.smallest == 100 and seen.touching == 0
    assert seen.share == pytest.approx(18 * 100 / 120**2)
    assert seen.gap == pytest.approx(5, abs=0.01)  # 4 px between the cells
    assert seen.contrast > 2 and seen.exposure < 1.1
    assert infer_preset(seen)[0] == "nuclei"


def test_images_of_one_cell_have_no_gaps(tmp_path):
    folder = write_nuclei(tmp_path)
    for path in sorted((folder / "masks").iterdir()):
        labels = tifffile.imread(path)
        tifffile.imwrite(path, np.where(labels == 5, labels, 0))
    seen = survey(folder, find_images(folder), {})
    assert seen.cells == 6 and math.isnan(seen.gap)
    assert chosen(seen)["weight_map", "sigma"] > 0


@pytest.mark.parametrize("title", ["on", "No", "null", "true", "1e3", "a: b", "Mouse brain", "x #1"])
def test_titles_that_yaml_reads_as_other_values_stay_text(title):
    text = config_text([], Path("/data"), Path("results"), title, [])
    assert yaml.safe_load(text)["report"]["title"] == title


def test_large_stacks_are_sampled_and_cells_extrapolated(tmp_path):
    folder = write_nuclei(tmp_path, 1)
    for part in ("images", "masks"):
        one = tifffile.imread(folder / part / "n0.tif")
        tifffile.imwrite(folder / part / "n0.tif", np.stack([one] * 9), photometric="minisblack")
    seen = survey(folder, find_images(folder), {})
    assert (seen.cells, seen.exact) == (9 * 18, False)


def test_gray_colours_are_one_channel_and_others_three(tmp_path):
    folder = write_nuclei(tmp_path, 3)
    for n in range(3):
        gray = tifffile.imread(folder / f"images/n{n}.tif")
        (folder / f"images/n{n}.tif").unlink()
        Image.fromarray(np.stack([gray] * 3, axis=-1)).save(folder / f"images/n{n}.png")
    assert survey(folder, find_images(folder), {}).channels == 1
    Image.fromarray(np.stack([gray, gray, gray // 2], axis=-1)).save(folder / "images/n2.png")
    assert survey(folder, find_images(folder), {}).channels == 3


def test_an_unclear_annotation_is_asked_for_or_refused(tmp_path):
    folder = write_nuclei(tmp_path, 3)
    for n in range(3):  # lines of 1 px
        lines = np.zeros((120, 120), np.uint8)
        lines[::40] = 255
        tifffile.imwrite(folder / f"masks/n{n}.tif", lines)
    with pytest.raises(InputError, match="it is not clear which of two values are cells"):
        survey(folder, find_images(folder), {})
    asked = []

    def choose(message, choices):
        asked.append((message, choices))
        return "white_membranes"

    seen = survey(folder, find_images(folder), {}, choose)
    assert (seen.kind, seen.evidence, len(asked)) == ("white_membranes", "chosen", 1)
    seen = survey(folder, find_images(folder), {"kind": "white_membranes"})
    assert (seen.kind, seen.evidence) == ("white_membranes", "stated")
    assert seen.share == pytest.approx(117 / 120)


def test_labels_without_background_are_refused(tmp_path):
    folder = write_nuclei(tmp_path, 2)
    for path in (folder / "masks").iterdir():
        labels = tifffile.imread(path)
        tifffile.imwrite(path, np.where(labels == 0, 99, labels).astype(np.uint8))
    with pytest.raises(InputError, match="one surrounds the others, so the background is not 0"):
        survey(folder, find_images(folder), {"kind": "instances"})
    assert survey(folder, find_images(folder), {"kind": "instances", "background": 99}).share < 0.5


def test_labels_that_fill_the_images_have_no_background(tmp_path):
    folder = write_nuclei(tmp_path, 2)
    y, x = np.mgrid[:120, :120]
    for path in (folder / "masks").iterdir():
        tifffile.imwrite(path, (1 + y // 20 * 6 + x // 20).astype(np.uint8))
    seen = survey(folder, find_images(folder), {})
    assert (seen.kind, seen.share, seen.cells, seen.touching) == ("instances", 1, 72, 1)


def test_specks_that_touch_are_no_touching_cells(tmp_path):
    folder = write_nuclei(tmp_path, 1)
    labels = np.zeros((120, 120), np.uint8)
    for n in range(8):
        labels[5 + 14 * n : 13 + 14 * n, 20:40] = 1 + n
        labels[6 + 14 * n, 60:62] = 101 + 2 * n, 102 + 2 * n
    tifffile.imwrite(folder / "masks/n0.tif", labels)
    seen = survey(folder, find_images(folder), {"kind": "instances"})
    assert (seen.cells, seen.touching) == (8, 0)


def test_one_annotation_does_not_overrule_unclear_ones(tmp_path):
    """Masks of two classes. One of them has a single cell of each."""
    folder = write_nuclei(tmp_path, 6)
    for n, path in enumerate(sorted((folder / "masks").iterdir())):
        labels = tifffile.imread(path)
        kept = np.unique(labels)[1 : 3 if n == 0 else 6]
        tifffile.imwrite(path, np.where(np.isin(labels, kept), 1 + labels % 2, 0).astype(np.uint8))
    with pytest.raises(InputError, match=r"the meaning of the values is not clear"):
        survey(folder, find_images(folder), {})


def test_annotations_of_several_kinds_are_refused(tmp_path):
    folder = write_nuclei(tmp_path, 3)
    mask = tifffile.imread(folder / "masks/n1.tif")
    tifffile.imwrite(folder / "masks/n1.tif", np.where(mask, 255, 0).astype(np.uint8))
    with pytest.raises(
        InputError, match=r"several kinds were found: black_membranes .*n1.tif.* and instances"
    ):
        survey(folder, find_images(folder), {})
    tifffile.imwrite(folder / "masks/n1.tif", np.where(mask == 5, 1, 0).astype(np.uint8))
    assert survey(folder, find_images(folder), {}).kind == "instances"  # an image with a single cell


def a_survey(**changes):
    values = {
        "shapes": [(1, 256, 256)] * 10,
        "channels": 1,
        "dtype": "uint8",
        "kind": "instances",
        "evidence": "stated",
        "cells": 300,
        "exact": True,
        "diameter": 20.0,
        "smallest": 40.0,
        "share": 0.12,
        "gap": 4.4,
        "touching": 0.2,
        "contrast": 2.0,
        "exposure": 1.2,
        "pixel_sizes": [],
    }
    return Survey(**values | changes)


def chosen(seen, preset="nuclei", seconds=0.2, minutes=30.0, gpu=False):
    network = choose_network(seen, preset, gpu)
    rows = [Row("v", "v", "m", "validation"), Row("t", "t", "m", "test")]
    choices = choose_settings(seen, preset, network, rows, lambda row: 256**2, seconds, minutes)
    return {(choice.section, choice.key): choice.value for choice in choices}


def test_settings_follow_from_what_was_measured():
    found = chosen(a_survey())
    assert found["network", "depth"] == 3 and found["network", "base_channels"] == 16
    assert found["training", "tile"] == 300 and found["weight_map", "sigma"] == 4.4
    assert found["weight_map", "class_balance"] is False and found["augmentation", "gain"] == 0.5
    assert found["segmentation", "criterion"] == "seg" and found["segmentation", "minimum_size"] == 20
    large = chosen(a_survey(diameter=100.0, gap=40.0, smallest=5000.0, share=0.5), "cells")
    assert large["network", "depth"] == 4 and large["weight_map", "sigma"] == 10
    assert large["dataset", "separation_border_width"] == 4
    assert large["segmentation", "minimum_size"] == round(math.pi * 100**2 / 40)
    assert ("weight_map", "class_balance") not in large and ("augmentation", "gain") not in large
    assert chosen(a_survey(diameter=6.0))["dataset", "separation_border_width"] == 1
    assert chosen(a_survey(), "membranes")["segmentation", "criterion"] == "rand_error"
    assert found["segmentation", "method"] == "watershed"
    assert ("segmentation", "method") not in chosen(a_survey(shapes=[(1, 64, 90), (1, 20_000, 20_000)]))
    assert chosen(a_survey(), gpu=True)["network", "base_channels"] == 64
    assert chosen(a_survey(shapes=[(1, 64, 90)]))["training", "tile"] == 156  # its output has 68 px


def test_iterations_fill_the_given_time():
    # tiles of 212 px: max(256^2 / 212^2, 1) = 1.458 for each of two images, 0.08 s each, 8 orientations
    tile = 256**2 / 212**2 * 0.4 * 0.2
    left = 30 * 60 - 60 - 2 * 8 * tile - 16 * tile
    assert chosen(a_survey())["training", "iterations"] == float(f"{left / 0.2:.2g}") == 8700
    assert chosen(a_survey(), seconds=0.4)["training", "iterations"] == 4300
    assert chosen(a_survey(), seconds=50)["training", "iterations"] == 100
    assert chosen(a_survey(), minutes=600)["training", "iterations"] == 20000
    assert chosen(a_survey())["prediction", "average_orientations"] is True
    assert chosen(a_survey(), seconds=50)["prediction", "average_orientations"] is False


def test_presets_are_inferred():
    assert infer_preset(a_survey())[0] == "nuclei"
    assert infer_preset(a_survey(contrast=0.2))[0] == "cells"
    assert infer_preset(a_survey(channels=3))[0] == "cells"
    assert infer_preset(a_survey(kind="black_membranes", share=0.8))[0] == "membranes"
    assert infer_preset(a_survey(kind="black_membranes", share=0.1))[0] == "nuclei"


@pytest.mark.slow
def test_two_folders_become_a_project_that_runs(tmp_path, monkeypatch, capsys):
    write_nuclei(tmp_path / "mine in µm")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for number, side in ((0, 0.5), (3, 0.65)):
        image = tmp_path / f"mine in µm/images/n{number}.tif"
        tifffile.imwrite(
            image, tifffile.imread(image), resolution=(1e4 / side, 1e4 / side), resolutionunit="CENTIMETER"
        )
    assert cli.main(["init", "../mine in µm", "--minutes", "3"]) == 0
    shown = capsys.readouterr().out
    assert "6, 120 x 120 px, uint8" in shown and "pixel size   0.5 um to 0.65 um\n" in shown
    assert "bordure check config.yaml" in shown
    settings = complete(read_config("config.yaml"))
    assert settings["dataset"]["annotation_kind"] == "instances"
    assert settings["results"] == str(tmp_path / "elsewhere/results")
    assert settings["data_dir"] == str(tmp_path / "mine in µm")
    assert "µm" in Path("config.yaml").read_text(encoding="utf-8")
    rows = read_table("volumes.tsv", settings["data_dir"])
    assert [row.split for row in rows] == ["train"] * 4 + ["validation", "test"]
    assert {info.shape for info in check_files(rows).values()} == {(1, 1, 120, 120)}
    for line in Path("config.yaml").read_text().splitlines():
        key, _, rest = line.partition(":")
        if key.startswith("  ") and key.strip() != "title":
            assert "#" in rest, f"no reason in {line}"
    assert cli.main(["init", "../mine in µm"]) == 1
    assert "volumes.tsv: exists, and is not overwritten" in capsys.readouterr().err
    # from another folder: all paths are found
    command = [sys.executable, "-m", "pipeline_lib.cli", "check", "elsewhere/config.yaml", "-n"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "build_dataset" in found.stdout + found.stderr


@pytest.mark.slow
def test_a_refusal_names_options_of_the_command(tmp_path, monkeypatch, capsys):
    folder = write_nuclei(tmp_path / "a", 3)
    for n in range(3):
        lines = np.zeros((120, 120), np.uint8)
        lines[::40] = 255
        tifffile.imwrite(folder / f"masks/n{n}.tif", lines)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "a"]) == 1
    assert "`--annotation-kind white_membranes`" in capsys.readouterr().err
    assert not Path("config.yaml").exists()
    assert cli.main(["init", "a", "--annotation-kind", "white_membranes", "--to", "b/c"]) == 0
    assert (
        yaml.safe_load(Path("b/c/config.yaml").read_text())["dataset"]["annotation_kind"] == "white_membranes"
    )


def test_a_person_is_asked_until_the_answer_is_one_of_the_choices(monkeypatch, capsys):
    answers = iter(["", "3", "x", "2"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(answers))
    assert _ask("set `dataset: {annotation_kind: b}`", ["a", "b"]) == "b"
    assert "`--annotation-kind b`" in capsys.readouterr().out
    with pytest.raises(StopIteration):
        next(answers)


def test_folder_or_example_is_needed(capsys):
    assert cli.main(["init"]) == 1 and cli.main(["init", ".", "--example", "nuclei"]) == 1
    assert "bordure init --example nuclei" in capsys.readouterr().err


def test_the_example_is_complete_and_damage_is_found(tmp_path, monkeypatch):
    example.copy_example("nuclei", tmp_path / "a")
    found = find_images(tmp_path / "a")
    assert len(found) == 12 and all(image.annotation for image in found)
    assert (tmp_path / "a/LICENSE.md").exists()
    assert sum(path.stat().st_size for path in (tmp_path / "a").rglob("*.tif")) < 400_000
    with pytest.raises(InputError, match="exists and is not empty"):
        example.copy_example("nuclei", tmp_path / "a")
    damaged = tmp_path / "a/labels/nuclei_010.tif"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    (tmp_path / "nuclei").symlink_to(tmp_path / "a")
    monkeypatch.setattr(example, "FOLDER", tmp_path)
    with pytest.raises(InputError, match=r"nuclei_010.tif: is damaged"):
        example.copy_example("nuclei", tmp_path / "b")


@pytest.mark.slow
def test_a_lone_image_is_a_project_whose_bands_are_read(tmp_path):
    labels = np.zeros((500, 80), np.uint8)
    for k, y in enumerate(range(4, 490, 16)):
        labels[y : y + 10, 10:30], labels[y : y + 10, 40:60] = 2 * k + 1, 2 * k + 2
    image = (np.where(labels > 0, 180, 30) + np.random.default_rng(0).integers(0, 30, labels.shape)).astype(
        "u1"
    )
    tifffile.imwrite(tmp_path / "tissue.tif", image)
    tifffile.imwrite(tmp_path / "tissue_mask.tif", labels)
    project = set_up(tmp_path, tmp_path / "run", minutes=1)
    rows = read_table(project.table, tmp_path)
    shapes = {name: info.shape for name, info in check_files(rows).items()}
    assert {row.volume: row.rows for row in rows} == {
        "tissue_train": "0-247",
        "tissue_validation": "292-373",
        "tissue_test": "418-499",
    }
    assert shapes["tissue_validation"] == (1, 1, 82, 80)
    for row in rows:
        output = tmp_path / f"{row.volume}.h5"
        build_dataset(**row.source(), output=output, annotation_kind="instances", block=128)
        used = slice(*map(sum, zip(map(int, row.rows.split("-")), (0, 1), strict=True)))
        with h5py.File(output) as file:
            np.testing.assert_array_equal(file["raw"][0, 0], image[used])
            np.testing.assert_array_equal(file["labels"][0], labels[used])


class TestRows:
    """The column `rows` of the table of volumes."""

    HEADER = "volume\timages\tannotation\tsections\tsplit\trows\n"

    def table(self, folder, *rows):
        tifffile.imwrite(folder / "a.tif", np.zeros((3, 60, 40), np.uint8), photometric="minisblack")
        lines = [
            f"v{n}\ta.tif\ta.tif\t{sections}\t{split}\t{rows}\n"
            for n, (sections, split, rows) in enumerate(rows)
        ]
        (folder / "volumes.tsv").write_text(self.HEADER + "".join(lines))
        volumes = read_table(folder / "volumes.tsv", folder)
        return check_files(volumes)

    def test_rows_and_sections_together_divide_the_pixels(self, tmp_path):
        found = self.table(
            tmp_path, ("", "train", "0-29"), ("0", "validation", "30-59"), ("1", "test", "30-44")
        )
        assert found["v2"].shape == (1, 1, 15, 40)
        assert found["v0"].shape == (1, 3, 30, 40)

    @pytest.mark.parametrize("rows", ["29-59", "0-0", ""])
    def test_pixels_in_two_splits_are_refused(self, tmp_path, rows):
        with pytest.raises(InputError, match=r"shares rows of .* its own `rows`"):
            self.table(tmp_path, ("", "train", "0-29"), ("1", "validation", rows))

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ("0-60", "there is no row 60, only 0-59"),
            ("9-3", "expected the first and the last row"),
            ("1,2", "expected the first and the last row"),
        ],
    )
    def test_wrong_rows_are_refused(self, tmp_path, rows, message):
        with pytest.raises(InputError, match=message):
            self.table(tmp_path, ("0", "train", "0-0"), ("1", "validation", rows))

    def test_a_damaged_pixel_is_named_by_its_place_in_the_file(self, tmp_path):
        image = np.zeros((20, 8), np.float32)
        image[13, 2] = np.nan
        tifffile.imwrite(tmp_path / "a.tif", image)
        with (
            imageio.open_images(tmp_path / "a.tif", rows="10-19") as images,
            pytest.raises(InputError, match="row 13, column 2"),
        ):
            images.read(0, slice(0, 10), slice(0, 8))
