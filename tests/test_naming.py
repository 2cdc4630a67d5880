"""Names of real microscopes, programs and data sets: which files are a stack, and which belong together."""

import hashlib
import itertools
import random
import re
import uuid
from dataclasses import replace

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_volumes import table

from pipeline_lib import imageio
from pipeline_lib.data import volumes
from pipeline_lib.imageio.naming import natural_key
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.dataset import build_dataset

RANDOM = random.Random(0)
HASHES = [hashlib.sha256(bytes([n])).hexdigest() for n in range(100)]
UUIDS = [str(uuid.UUID(int=RANDOM.getrandbits(128))) for _ in range(100)]
WELLS = [f"{row}{column:02}" for row in "abc" for column in range(1, 5)]


def numbered(pattern, *ranges):
    """Return the names for each combination of values."""
    return [pattern.format(*values) for values in itertools.product(*ranges)]


def touch(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


def write(folder, names):
    """Write an image with its own gray level for each name."""
    folder.mkdir(exist_ok=True)
    for value, name in enumerate(sorted(names, key=natural_key), 1):
        if name.endswith(".png"):
            Image.fromarray(np.full((5, 6), value, np.uint8)).save(folder / name)
        else:
            tifffile.imwrite(folder / name, np.full((5, 6), value, np.uint8), photometric="minisblack")
    return folder


# --------------------------------------------------------------------------- one stack, or one collection

STACKS = {
    "Cell Tracking Challenge": numbered("t{:03}.tif", range(92)),
    "its annotations": numbered("man_seg{:03}.tif", range(0, 92, 7)),
    "SNEMI": numbered("{:03}.png", range(100)),
    "numbers of any width": numbered("z{}.tif", range(8, 13)),
    "ImageJ image sequence": numbered("stack-{:04}.tif", range(1, 31)),
    "TrakEM2": numbered("TrakEM2_z{}.0.tif", range(30)),
    "Incucyte": numbered("VID1_A1_1_{:02}d{:02}h00m.tif", range(3), (0, 6, 12, 18)),
    "Opera Phenix, planes of one field": numbered("r01c01f01p{:02}-ch1sk1fk1fl1.tiff", range(1, 20)),
    "Micro-Manager, one channel": numbered("img_{:09}_Default_000.tif", range(5)),
    "Zeiss, one channel": numbered("exp_t{:02}_c1_ORG.tif", range(10, 14)),
    "nnU-Net, one modality": numbered("la_{:03}_0000.png", range(20)),
    "Data Science Bowl": [f"{name}.png" for name in HASHES],
    "short hashes": [f"{name[:8]}.png" for name in HASHES],
    "UUIDs": [f"{name}.tif" for name in UUIDS],
    "words": ["liver.tif", "brain.tif", "kidney.tif"],
    "letters": ["cellA.tif", "cellB.tif", "cellC.tif"],
    "one number for all conditions": ["wt_1.tif", "ko_2.tif", "mut_3.tif"],
    "numbering that continues": [
        *numbered("mouse1_{}.tif", range(9)),
        *numbered("mouse2_{}.tif", range(9, 20)),
    ],
    "places without a grid": [f"crop_x{x}_y{y}.tif" for x, y in ((120, 340), (15, 22), (400, 340), (7, 99))],
    "both signs": ["z-01.tif", "z+00.tif", "z+01.tif"],
    "negative numbers": ["z-12.tif", "z-2.tif", "z0.tif", "z1.tif", "z11.tif"],
    "decimals": numbered("s{}.{}.tif", range(12), (0, 5)),
    "a single file": ["overview.tif"],
}


@pytest.mark.parametrize("names", STACKS.values(), ids=STACKS)
def test_files_that_are_one_stack(tmp_path, names):
    write(tmp_path / "images", names[:20])
    assert imageio.inspect(tmp_path / "images").sections == len(names[:20])


SERIES = {
    "Leica, channels": (
        numbered("Pos1_z{:02}_ch{:02}.tif", range(5), (0, 1)),
        {"Pos1_z*_ch00.tif": 5, "Pos1_z*_ch01.tif": 5},
    ),
    "Leica, channels of one image": (
        numbered("Series007_ch{:02}.tif", (0, 1)),
        {"Series007_ch00.tif": 1, "Series007_ch01.tif": 1},
    ),
    "Zeiss, channels": (
        numbered("Snap-{}_c{}_ORG.tif", range(2210, 2214), (1, 2, 3)),
        {"Snap-*_c1_ORG.tif": 4, "Snap-*_c2_ORG.tif": 4, "Snap-*_c3_ORG.tif": 4},
    ),
    "Fiji, split channels": (
        numbered("C{}-img{}.tif", (1, 2), range(3)),
        {"C1-img*.tif": 3, "C2-img*.tif": 3},
    ),
    "Bio-Formats, channels": (
        numbered("img_Z={}_C={}.tif", range(3), (0, 1)),
        {"img_Z=*_C=0.tif": 3, "img_Z=*_C=1.tif": 3},
    ),
    "MetaMorph, wavelengths": (
        numbered("exp_w1DAPI_t{}.TIF", range(1, 5)) + numbered("exp_w2GFP_t{}.TIF", range(1, 5)),
        {"exp_w1DAPI_t*.TIF": 4, "exp_w2GFP_t*.TIF": 4},
    ),
    "ImageXpress, wavelengths": (
        numbered("A01_s{}_w{}.tif", (1, 2, 3), (1, 2)),
        {"A01_s*_w1.tif": 3, "A01_s*_w2.tif": 3},
    ),
    "BBBC006, wavelengths and UUIDs": (
        [
            f"mcf-z-stacks-03212011_{well}_s1_w{w}{UUIDS[2 * n + w]}.tif"
            for n, well in enumerate(WELLS)
            for w in (1, 2)
        ],
        {"mcf-z-stacks-03212011_*_s1_w1*": 12, "mcf-z-stacks-03212011_*_s1_w2*": 12},
    ),
    "CellVoyager, channels": (
        numbered("AssayPlate_#655090_C02_T0001F001L01A01Z{:02}C0{}.tif", range(1, 6), (1, 2)),
        {
            "AssayPlate_#655090_C02_T0001F001L01A01Z*C01.tif": 5,
            "AssayPlate_#655090_C02_T0001F001L01A01Z*C02.tif": 5,
        },
    ),
    "Opera Phenix, fields, planes and channels": (
        numbered("r01c01f{:02}p{:02}-ch{}sk1fk1fl1.tiff", (1, 2), (1, 2, 3), (1, 2)),
        {"r01c01f*p*-ch1sk1fk1fl1.tiff": 6, "r01c01f*p*-ch2sk1fk1fl1.tiff": 6},
    ),
    "Micro-Manager, channels": (
        numbered("img_{:09}_{}_000.tif", range(4), ("DAPI", "Brightfield")),
        {"img_*_Brightfield_000.tif": 4, "img_*_DAPI_000.tif": 4},
    ),
    "stains": (
        numbered("{}_{}.tif", ("kidney", "liver"), ("DAPI", "GFP")),
        {"*_DAPI.tif": 2, "*_GFP.tif": 2},
    ),
    "nnU-Net, modalities": (
        numbered("BRATS_{:03}_{:04}.png", range(6), range(4)),
        {f"BRATS_*_000{n}.png": 6 for n in range(4)},
    ),
    "LIVECell, wells and times": (
        numbered("A172_Phase_{}7_1_{:02}d00h00m_{}.tif", "AB", (0, 1, 2), (1, 2, 3)),
        {"A172_Phase_A7_1_*_*.tif": 9, "A172_Phase_B7_1_*_*.tif": 9},
    ),
    "conditions with equal numbers": (
        numbered("{}_{:03}.tif", ("control", "treated"), range(1, 6)),
        {"control_*.tif": 5, "treated_*.tif": 5},
    ),
    "times and sections": (
        numbered("t{}_z{}.tif", (1, 2), range(1, 12)),
        {"t1_z*.tif": 11, "t2_z*.tif": 11},
    ),
    "tiles of which one section is missing": (
        numbered("tile{}_z{}.tif", (1, 12), range(1, 12))[1:],
        {"tile1_z*.tif": 10, "tile12_z*.tif": 11},
    ),
    "Cellpose, masks in TIFF": (
        numbered("img{:03}{}.tif", range(5), ("", "_cp_masks")),
        {"img???.tif": 5, "img*_cp_masks.tif": 5},
    ),
    "Cellpose, masks in PNG": (
        [*numbered("img{}.tif", range(5)), *numbered("img{}_cp_masks.png", range(5))],
        {"img*.tif": 5, "img*_cp_masks.png": 5},
    ),
    "Cellpose, its own images": (
        numbered("{:03}_{}.png", range(5), ("img", "masks")),
        {"*_img.png": 5, "*_masks.png": 5},
    ),
    "masks of hashes": (
        [f"{name}{end}.png" for name in HASHES[:9] for end in ("", "_mask")],
        {"*[0-9abd].png": 9, "*_mask.png": 9},
    ),
    "masks beside numbers of any width": (
        [f"x{n}{end}.tif" for n in range(8, 12) for end in ("", "_label")],
        {"x*[0-9].tif": 4, "x*_label.tif": 4},
    ),
    "masks with a word in front": (
        [f"{start}x{n}.tif" for n in range(8, 12) for start in ("", "mask_")],
        {"mask_x*.tif": 4, "x*.tif": 4},
    ),
    "a mask beside its image": (["x.tif", "x_mask.tif"], {"x.tif": 1, "x_mask.tif": 1}),
    "image and mask": (["image.tif", "mask.tif"], {"image.tif": 1, "mask.tif": 1}),
    "masks of images with words": (
        ["cat.tif", "mouse.tif", "cat_seg.tif", "mouse_seg.tif"],
        {"*[et].tif": 2, "*_seg.tif": 2},
    ),
    "an overview": (
        [*numbered("slice_{:03}.tif", range(1, 31)), "overview.tif"],
        {"overview.tif": 1, "slice_*.tif": 30},
    ),
    "a projection": (
        [*numbered("stack-{:04}.tif", range(9)), "MAX_stack.tif"],
        {"MAX_stack.tif": 1, "stack-*.tif": 9},
    ),
    "a copy": (
        [*numbered("slice_{:03}.tif", range(1, 6)), "slice_001_edit.tif"],
        {"slice_???.tif": 5, "slice_001_edit.tif": 1},
    ),
    "a mask among words": (
        ["cat.tif", "mouse_7.tif", "labels.tif"],
        {"cat.tif": 1, "mouse_7.tif": 1, "labels.tif": 1},
    ),
    "PNG and TIFF": (["a1.png", "a2.tif", "a3.tif"], {"a1.png": 1, "a*.tif": 2}),
    "brackets in names": (
        numbered("z{}[ch{}].tif", range(3), (0, 1)),
        {"z*[[]ch0].tif": 3, "z*[[]ch1].tif": 3},
    ),
}


@pytest.mark.parametrize(("names", "patterns"), SERIES.values(), ids=SERIES)
def test_files_that_are_several_stacks_and_the_patterns_to_type(tmp_path, names, patterns):
    folder = write(tmp_path / "images", names)
    with pytest.raises(InputError, match="do not show one stack") as caught:
        imageio.inspect(folder)
    listed = dict(re.findall(r"/(\S+) \((\d+) files?\)", str(caught.value)))
    assert {pattern: int(n) for pattern, n in listed.items()} == patterns
    with pytest.raises(InputError, match="do not show one stack"):
        imageio.read_images(folder)
    every = re.search(r"; or /(\S+) if all files are sections", str(caught.value))[1]
    assert imageio.inspect(folder / every).sections == len(names)
    values = []
    for pattern, n in patterns.items():
        info = imageio.inspect(folder / pattern)
        assert info.sections == n
        values += imageio.read_images(folder / pattern)[0, :, 0, 0].tolist()
    assert sorted(values) == [*range(1, len(names) + 1)]


def test_a_group_without_a_pattern_is_moved(tmp_path):
    folder = write(tmp_path / "images", numbered("{}{}.tif", ("", "mask_"), ("cat", "mouse", "rat")))
    with pytest.raises(
        InputError, match=r"move cat\.tif \.\.\. rat\.tif \(3 files\) elsewhere, /mask_\*\.tif"
    ):
        imageio.inspect(folder)
    (tmp_path / "new").mkdir()
    for name in ("cat", "mouse", "rat"):
        (folder / f"{name}.tif").rename(tmp_path / "new" / f"{name}.tif")
    assert [imageio.inspect(tmp_path / name).sections for name in ("images", "new")] == [3, 3]


def test_ten_thousand_names_are_compared_quickly(tmp_path):
    names = numbered("t{}_z{}_c{}.tif", range(100), range(50), range(2))
    with pytest.raises(InputError, match=r"/t\*_z\*_c0\.tif \(5000 files\)"):
        imageio.inspect(touch(tmp_path / "images", names))


# ----------------------------------------------------------------------------------------------- patterns


def test_a_pattern_names_the_slices_in_natural_order(tmp_path):
    folder = write(tmp_path, [*numbered("s{}_ch{}.tif", (2, 10, 9), (0, 1)), "notes.png"])
    (folder / ".s1_ch0.tif").touch()
    (folder / "s1_ch0.txt").touch()
    assert [p.name for p in imageio.slice_files(folder / "*_ch0*")] == [
        "s2_ch0.tif",
        "s9_ch0.tif",
        "s10_ch0.tif",
    ]
    assert imageio.source_files(folder / "s?_ch1.tif") == [folder / "s2_ch1.tif", folder / "s9_ch1.tif"]
    np.testing.assert_array_equal(imageio.read_images(folder / "*_ch0.tif")[0, :, 0, 0], [2, 4, 6])
    np.testing.assert_array_equal(
        imageio.read_images(folder / "*_ch0.tif", sections="1-2")[0, :, 0, 0], [4, 6]
    )


def test_a_file_with_the_name_of_a_pattern_wins(tmp_path):
    folder = write(tmp_path, ["a[1].tif", "a1.tif"])
    np.testing.assert_array_equal(imageio.read_images(folder / "a[1].tif")[0, :, 0, 0], [2])
    (folder / "a[1].tif").unlink()
    np.testing.assert_array_equal(imageio.read_images(folder / "a[1].tif")[0, :, 0, 0], [1])


def test_a_pattern_without_files_lists_what_is_there(tmp_path):
    write(tmp_path / "x", ["a_ch00.tif"])
    with pytest.raises(InputError, match=r"matches this pattern; it has 1, such as a_ch00\.tif\. \* stands"):
        imageio.inspect(tmp_path / "x/*_ch1.tif")
    with pytest.raises(
        InputError, match=r"there is no folder .*\*\. Check the path; only the name of a file"
    ):
        imageio.inspect(tmp_path / "*/a_ch00*.tif")


def test_a_pattern_is_not_checked_for_series_but_for_equal_numbers(tmp_path):
    folder = write(tmp_path, ["xa.tif", "b_1.tif", "b_2.tif", "b_02.tif", "c.png"])
    assert imageio.inspect(folder / "*[a1c].*").sections == 3
    with pytest.raises(InputError, match="have the same number"):
        imageio.inspect(folder / "b*")


# ------------------------------------------------------------------------------------------------ pairing

PAIRS = {
    "Cell Tracking Challenge": (numbered("t{:03}.tif", range(9)), "man_seg{:03}.tif", range(9)),
    "numbers with and without zeros": (numbered("t{:03}.tif", range(8, 13)), "{}.tif", range(8, 13)),
    "Cellpose": (numbered("img{}.tif", range(8, 13)), "img{}_cp_masks.png", range(8, 13)),
    "Cellpose, its own images": (numbered("{:03}_img.png", range(9)), "{:03}_masks.png", range(9)),
    "nnU-Net": (numbered("la_{:03}_0000.png", range(9)), "la_{:03}.png", range(9)),
    "hashes": ([f"{name}.png" for name in HASHES], "{}_mask.png", HASHES),
    "BBBC006": (
        [f"mcf-z-stacks-03212011_{w}_s1_w1{u}.tif" for w, u in zip(WELLS, UUIDS, strict=False)],
        "mcf-z-stacks-03212011_{}_s1.png",
        WELLS,
    ),
    "letters": (["cellA.tif", "cellB.tif"], "mask{}.tif", "AB"),
    "upper and lower case": (["Liver.TIF", "brain.TIF"], "{}.tif", ("liver", "Brain")),
    "another order of words": (
        ["wt_1.tif", "ko_2.tif", "mut_3.tif"],
        "mask_{}.tif",
        ("1_wt", "2_ko", "3_mut"),
    ),
    "numbers only on one side": (["wt_1.tif", "ko_2.tif", "mut_3.tif"], "mask_{}.tif", (1, 2, 3)),
    "words only on one side": (["wt_1.tif", "ko_2.tif", "mut_3.tif"], "{}-labels.tif", ("wt", "ko", "mut")),
    "a constant number": (numbered("exp2_t{}.tif", range(1, 5)), "t{}.tif", range(1, 5)),
    "Zeiss": (numbered("Snap-{}_c1_ORG.tif", range(9)), "Snap-{}_labels.tif", range(9)),
    "MetaMorph": (numbered("exp_w1DAPI_t{}.TIF", range(1, 12)), "exp_t{}_mask.tif", range(1, 12)),
    "Leica": (numbered("Pos1_z{:02}_ch00.tif", range(9)), "Pos1_z{:02}.tif", range(9)),
    "Incucyte": (
        numbered("VID1_A1_1_{:02}d{:02}h00m.tif", range(3), (0, 12)),
        "A1_{}_mask.tif",
        numbered("{:02}d{:02}h00m", range(3), (0, 12)),
    ),
    "ImageJ": (numbered("stack-{:04}.tif", range(1, 9)), "labels{:02}.tif", range(1, 9)),
    "a single file": (["overview.tif"], "{}.tif", ["drawn"]),
    "negative numbers": (["z-12.tif", "z-2.tif", "z0.tif", "z2.tif"], "m_{}.tif", (-12, -2, 0, 2)),
    "decimals": (numbered("s{}.{}.tif", (0, 1, 2), (0, 5)), "m{}.tif", (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)),
    "composed and decomposed letters": (["é.tif", "ü.tif"], "{}.tif", ("e\u0301", "u\u0308")),
    "the same, with other words": (["café_1.tif", "thé_2.tif"], "{}_mask.tif", ("cafe\u0301", "the\u0301")),
    **{
        f"numbers in another order, {pattern}": (
            [f"pos{a}_t{b}.tif" for a, b in ((1, 2), (2, 1), (3, 4), (4, 3), (1, 5))],
            "{}.tif",
            [pattern.format(a=a, b=b) for a, b in ((1, 2), (2, 1), (3, 4), (4, 3), (1, 5))],
        )
        for pattern in (
            "t{b}_pos{a}_mask",
            "t{b}pos{a}",
            "{b}t_{a}pos",
            "t_{b}_pos_{a}",
            "mask_t{b}_p{a}",
            "frame_t{b}_series{a}",
            "pos{a}_frame{b}",
            "{a}_{b}",
            "mask_{a}_{b}",
        )
    },
}


@pytest.mark.parametrize(("images", "pattern", "values"), PAIRS.values(), ids=PAIRS)
def test_slices_are_paired_by_what_varies_in_their_names(tmp_path, images, pattern, values):
    """`images` and `values` are in the same order."""
    folders = (
        touch(tmp_path / "a", images),
        touch(tmp_path / "b", [pattern.format(value) for value in values]),
    )
    truth = dict(zip(images, map(pattern.format, values), strict=True))
    found = imageio.matching_slices(*folders)
    assert [path.name for path in found] == [truth[path.name] for path in imageio.slice_files(folders[0])]
    back = imageio.matching_slices(*folders[::-1])
    assert [truth[path.name] for path in back] == [path.name for path in imageio.slice_files(folders[1])]


def test_grids_are_paired_by_the_order_of_numbers(tmp_path):
    names = numbered("t{}_z{}", (1, 2, 3), (1, 2, 3))
    a = touch(tmp_path / "a", [f"{name}.tif" for name in names])
    b = touch(tmp_path / "b", [f"m {name.replace('z', 'section')}.tif" for name in names])
    found = imageio.matching_slices(f"{a}/t*.tif", f"{b}/m*.tif")
    assert [path.stem.replace("section", "z") for path in found] == [f"m {name}" for name in names]


@pytest.mark.parametrize("first", ("row{}_col{}", "tile_{}row_{}col", "row_{}_col_{}"))
@pytest.mark.parametrize(
    "second", ("col{1}_row{0}", "c{1}r{0}", "m_{1}col_{0}row", "r{0}_c{1}", "row{0}_x{1}")
)
def test_grids_are_paired_by_the_words_of_numbers(tmp_path, first, second):
    grid = [*itertools.product((1, 2, 3), repeat=2)]
    a = touch(tmp_path / "a", [f"{first.format(*at)}.tif" for at in grid])
    b = touch(tmp_path / "b", [f"{second.format(*at)}.tif" for at in grid])
    for images, annotation, names in ((a, b, (first, second)), (b, a, (second, first))):
        found = imageio.matching_slices(f"{images}/*.tif", f"{annotation}/*.tif")
        pairs = {
            path.stem: other.stem for path, other in zip(imageio.slice_files(images), found, strict=True)
        }
        assert pairs == {names[0].format(*at): names[1].format(*at) for at in grid}


TRANSPOSED = {
    "words without a relation": ("x{}_y{}", "row{}_col{}"),
    "other values of the same words": ("1_row_{}_col_{}", "1_col_{}_row_{}"),
    "numbers in front of their words": ("{}_row_{}_col", "{}_col_{}_row"),
    "numbers in another order": ("{0}_{1}", "{1}_{0}"),
    "other words": ("row{}_col{}", "z{}_slice{}"),
}


@pytest.mark.parametrize(("first", "second"), TRANSPOSED.values(), ids=TRANSPOSED)
def test_numbers_whose_meaning_is_not_known_are_not_paired(tmp_path, first, second):
    at = [(1, 2), (2, 3), (3, 1), (2, 1), (3, 3)] if "1}_{0" not in second else [(1, 2), (2, 3), (3, 1)]
    a = touch(tmp_path / "a", [f"{first.format(*numbers)}.tif" for numbers in at])
    b = touch(tmp_path / "b", [f"{second.format(*numbers)}.tif" for numbers in at])
    with pytest.raises(InputError, match="do not pair them"):
        imageio.matching_slices(f"{a}/*.tif", f"{b}/*.tif")


def test_images_of_other_formats_among_slices_are_named(tmp_path):
    folder = write(tmp_path / "a", ["s1.tif", "s2.tif", "s4.tif"])
    (folder / "s3.gif").write_bytes(b"GIF89a")
    (folder / "notes.txt").touch()
    for path in (folder, f"{folder}/s*"):
        with pytest.raises(InputError, match=r"s3\.gif: found 1 image with the suffix `\.gif`") as caught:
            imageio.inspect(path)
        pattern = re.search(r"with the pattern (\S+)\.$", str(caught.value))[1]
        assert imageio.inspect(pattern).sections == 3
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(folder / "s3.tif")  # the other fix
    (folder / "s3.gif").unlink()
    assert imageio.inspect(folder).sections == 4


def test_order_of_negative_numbers_and_of_dates(tmp_path):
    for names in (
        ["s_-10.tif", "s_-5.tif", "s_0.tif", "s_5.tif"],
        ["2021-03-04_z-2.tif", "2021-03-04_z-1.tif", "2021-03-04_z+0.tif", "2021-03-04_z+1.tif"],
        ["2021-03-04.tif", "2021-03-11.tif", "2021-04-01.tif"],
        ["slice-1.tif", "slice-2.tif", "slice-10.tif"],
    ):
        folder = tmp_path / names[0]
        touch(folder, names[::-1])
        assert [path.name for path in imageio.slice_files(folder)] == names


@pytest.mark.parametrize(
    "names",
    [
        ["z0.25.tif", "z0.5.tif", "z0.75.tif"],
        ["z0.75.tif", "z1.0.tif", "z1.25.tif", "z1.5.tif"],
        ["z_0.6um.tif", "z_0.65um.tif", "z_0.7um.tif", "z_0.75um.tif"],
        ["z9.5.tif", "z10.0.tif", "z10.5.tif"],
        ["s1.8.tif", "s1.9.tif", "s1.10.tif", "s1.11.tif"],  # numbers of sections behind a point
        ["s1.008.tif", "s1.009.tif", "s1.010.tif"],
    ],
)
def test_order_of_decimals(tmp_path, names, caplog):
    write(tmp_path, names[::-1])
    assert [path.name for path in imageio.slice_files(tmp_path)] == names
    assert imageio.inspect(tmp_path).sections == len(names) and not caplog.text


def test_a_slice_in_two_files_is_refused(tmp_path):
    folder = write(tmp_path, ["brain.tif", "liver.tif", "liver.tiff"])
    with pytest.raises(InputError, match=r"liver\.tiff? and liver\.tiff? have the same name"):
        imageio.inspect(folder)


def test_numbers_that_are_no_decimals(tmp_path):
    """Tiles or channels after a dot form a grid; fractions of different lengths have no clear order."""
    for number, names in enumerate(
        (numbered("s{}.{}.tif", (1, 2), (0, 1)), ["s0.5.tif", "s1.5.tif", "s0.25.tif", "s0.35.tif"])
    ):
        folder = write(tmp_path / str(number), names)
        with pytest.raises(InputError, match="do not show one stack"):
            imageio.inspect(folder)


@given(st.sets(st.integers(0, 2000), min_size=2, max_size=20), st.data())
def test_any_numbers_are_paired_by_value(tmp_path_factory, numbers, data):
    folder = tmp_path_factory.mktemp("pairs")
    widths = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    names = [[f"x{side}y_{n:0{width}}.tif" for n in sorted(numbers)] for side, width in enumerate(widths)]
    a, b = (touch(folder / str(side), data.draw(st.permutations(found))) for side, found in enumerate(names))
    assert [path.name for path in imageio.matching_slices(a, b)] == names[1]


def test_names_are_not_compared_without_two_lists_of_files(tmp_path):
    one, many = write(tmp_path / "one", ["a.tif"]), write(tmp_path / "many", ["m1.tif", "m2.tif"])
    assert imageio.matching_slices(str(one / "a.tif"), str(many)) is None
    assert imageio.matching_slices(str(one), str(many)) is None  # one mask per object
    assert imageio.matching_slices(str(many), str(one / "a.tif")) is None
    assert imageio.matching_slices(str(many), f"{tmp_path}/a.h5:/labels") is None


REFUSED = {
    "one image without annotation": (("cellA", "cellB", "cellC"), ("cellA", "cellC", "cellD"), "order"),
    "every second frame": (("t000", "t001", "t002"), ("man_seg000", "man_seg002", "man_seg004"), "order"),
    "a constant offset": (numbered("t{:03}", range(1, 31)), numbered("{:03}", range(30)), "order"),
    "no common words": (("a", "b"), ("x", "y"), "order"),
    "equal numbers, other words": (("a_1", "b_2"), ("a_2", "b_1"), "order"),
    "numbers in another place": (("a1_b2", "a2_b1"), ("1_2_x", "2x_1"), "order"),
    "gold truth of some frames": (
        numbered("t{:03}", range(9)),
        numbered("man_seg{:03}", (0, 2, 3, 8)),
        "sections",
    ),
    "one annotation too many": (("t1", "t3"), ("m1", "m3", "m2"), "pattern"),
    "other numbers of files": (numbered("t{}", range(5)), numbered("m{}", range(3, 12)), "rename"),
}


@pytest.mark.parametrize(("images", "annotation", "fix"), REFUSED.values(), ids=REFUSED)
def test_names_that_do_not_decide_are_refused_with_a_fix_that_works(tmp_path, images, annotation, fix):
    raw, truth = tmp_path / "raw", tmp_path / "truth"
    write(raw, [f"{name}.tif" for name in images])
    write(truth, [f"{name}.tif" for name in annotation])
    match = f"names of its {len(annotation)} files do not pair them with the {len(images)} files of"
    with pytest.raises(InputError, match=match) as caught:
        imageio.matching_slices(str(raw), str(truth))
    message = str(caught.value)
    if fix == "order":
        assert "`dataset: {pairing: order}`" in message
        found = imageio.matching_slices(str(raw), str(truth), "order")
        assert found == imageio.slice_files(truth)
        shown = re.findall(r"(\S+) with (\S+?)(?:,|\.$| and)", message.partition("right: ")[2])
        assert shown == [(a.name, b.name) for a, b in zip(imageio.slice_files(raw), found, strict=True)][:3]
    elif fix == "sections":
        sections = re.search(r"`sections`: (\S+)\.$", message)[1]
        assert sections == "0,2-3,8"
        found = imageio.matching_slices(str(raw), str(truth), sections=sections)
        assert [path and path.stem for path in found] == [
            f"man_seg{n:03}" if n in (0, 2, 3, 8) else None for n in range(9)
        ]
    elif fix == "pattern":
        pattern = re.search(r"path of the annotation: /(\S+)\.$", message)[1]
        assert [p.name for p in imageio.matching_slices(str(raw), f"{truth}/{pattern}")] == [
            "m1.tif",
            "m3.tif",
        ]
    else:
        assert "Rename the files so that a pair has the same number" in message
        assert "no annotation for t0.tif, t1.tif, t2.tif; no image for m5.tif, m6.tif" in message
        assert "`dataset.pairing" not in message
        found = imageio.matching_slices(f"{raw}/t[34].tif", f"{truth}/m[34].tif")
        assert [path.name for path in found] == ["m3.tif", "m4.tif"]


def test_pairing_by_order_needs_equal_numbers(tmp_path):
    raw, truth = (
        write(tmp_path / "raw", ["a.tif", "b.tif"]),
        write(tmp_path / "truth", ["x1.tif", "x2.tif", "x3.tif"]),
    )
    with pytest.raises(InputError, match=r"found 3 files, but .* has 2; `pairing: order` needs the same"):
        imageio.matching_slices(str(raw), str(truth), "order")
    with pytest.raises(InputError, match=r"`dataset\.pairing`: found position, expected one of names, order"):
        imageio.matching_slices(str(raw), str(truth), "position")


def cells(kind):
    """Return two squares; their places depend on `kind`."""
    found = np.zeros((24, 24), np.uint8)
    place = 3 * "ABCD".index(kind)
    found[place : place + 6, 2:9], found[place + 4 : place + 10, 13:20] = 1, 2
    return found


def paired_rows(tmp_path, first, second):
    """Write images and annotations named by `first` and `second` (name to content), and return the rows."""
    for folder, named, values in (("raw", first, (60, 180)), ("truth", second, (0, 1))):
        (tmp_path / folder).mkdir()
        for name, kind in named.items():
            drawn = cells(kind)
            image = drawn if folder == "truth" else np.where(drawn > 0, values[1], values[0]).astype(np.uint8)
            tifffile.imwrite(tmp_path / folder / f"{name}.tif", image, photometric="minisblack")
    row = "a {}/raw {}/truth {} train"
    return lambda sections="-": (row.format(tmp_path, tmp_path, sections), "b x.tif y.tif - validation")


def build(tmp_path, rows, **settings):
    """Check the first volume as the dry run does, build its dataset, and return raw and labels."""
    volume = volumes.read_table(table(tmp_path, *rows), tmp_path)[0]
    volumes.check_files([volume], **settings)
    build_dataset(output=tmp_path / "a.h5", annotation_kind="instances", **volume.source(), **settings)
    with h5py.File(tmp_path / "a.h5") as file:
        return file["raw"][0], file["labels"][:]


def test_a_dataset_has_the_annotation_of_each_image(tmp_path):
    """The natural order of both folders differs."""
    rows = paired_rows(
        tmp_path,
        {"wt_1": "A", "ko_2": "B", "mut_3": "C"},
        {"mask_1_wt": "A", "mask_2_ko": "B", "mask_3_mut": "C"},
    )
    raw, labels = build(tmp_path, rows())
    np.testing.assert_array_equal(raw > 100, labels > 0)
    np.testing.assert_array_equal(labels, [cells("B"), cells("C"), cells("A")])


def test_a_dataset_of_the_annotated_frames_only(tmp_path):
    rows = paired_rows(
        tmp_path, {f"t00{n}": "ABCD"[n] for n in range(4)}, {"man_seg001": "B", "man_seg003": "D"}
    )
    with pytest.raises(InputError, match=r"line 2, volume a: .*in the column `sections`: 1,3\."):
        build(tmp_path, rows())
    raw, labels = build(tmp_path, rows("1,3"))
    np.testing.assert_array_equal(raw > 100, labels > 0)
    np.testing.assert_array_equal(labels, [cells("B"), cells("D")])


def test_a_dataset_paired_by_order(tmp_path):
    rows = paired_rows(
        tmp_path, {f"t{n}": "ABC"[n - 1] for n in (1, 2, 3)}, {f"m{n}": "ABC"[n] for n in range(3)}
    )
    with pytest.raises(InputError, match=r"no annotation for t3\.tif; no image for m0\.tif.*pairing: order"):
        build(tmp_path, rows())
    raw, labels = build(tmp_path, rows(), pairing="order")
    np.testing.assert_array_equal(raw > 100, labels > 0)


def test_the_column_pairing_wins_over_the_config(tmp_path):
    paired_rows(tmp_path, {"a": "A", "b": "B"}, {"c": "A", "d": "B"})
    rows = ("a raw truth - train order", "b x.tif y.tif - validation -")
    found = volumes.read_table(
        table(tmp_path, *rows, header="volume images annotation sections split pairing"), tmp_path
    )
    volumes.check_files(found[:1], pairing="names")
    with pytest.raises(InputError, match=r"no annotation for a\.tif, b\.tif"):
        volumes.check_files([replace(found[0], dataset={})], pairing="names")


def test_masks_of_ignored_pixels_are_paired_by_names_too(tmp_path):
    paired_rows(tmp_path, {"wt_1": "A", "ko_2": "B"}, {"mask_1": "A", "mask_2": "B"})
    (tmp_path / "ignore").mkdir()
    for name, kind in (("1", "A"), ("2", "B")):
        tifffile.imwrite(tmp_path / f"ignore/{name}.tif", (cells(kind) == 1).astype(np.uint8))
    volume = volumes.Volume(
        "a", f"{tmp_path}/raw", f"{tmp_path}/truth", "", "train", "", f"{tmp_path}/ignore"
    )
    volumes.check_files([volume])
    build_dataset(output=tmp_path / "a.h5", annotation_kind="instances", **volume.source())
    with h5py.File(tmp_path / "a.h5") as file:
        np.testing.assert_array_equal(file["ignore"][:], [cells(kind) == 1 for kind in "BA"])
        np.testing.assert_array_equal(file["labels"][:], [2 * (cells(kind) == 2) for kind in "BA"])


def test_a_dataset_refuses_slices_that_are_not_paired(tmp_path):
    """The stage is used without the dry run, too."""
    paired_rows(tmp_path, {"a": "A", "b": "B"}, {"a": "A", "c": "C"})
    with pytest.raises(InputError, match=r"volume a: .*no annotation for b\.tif; no image for c\.tif"):
        build_dataset(f"{tmp_path}/raw", f"{tmp_path}/truth", tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


# --------------------------------------------------------------------------------------- identity of pixels


def numbered_sections(numbers):
    """Return sections of 4 x 6 px, each with its own gray level."""
    return np.full((len(numbers), 4, 6), np.array(numbers).reshape(-1, 1, 1), np.uint16)


def ome_set(folder, numbers):
    """Write two OME-TIFF files that name each other, with half of the sections each; return their names."""
    names, half = ("o0.ome.tif", "o1.ome.tif"), len(numbers) // 2
    uuids = [f"urn:uuid:{uuid.UUID(int=n)}" for n in range(2)]
    planes = "".join(
        f'<TiffData IFD="{z % half}" FirstZ="{z}" PlaneCount="1">'
        f'<UUID FileName="{names[z // half]}">{uuids[z // half]}</UUID></TiffData>'
        for z in range(len(numbers))
    )
    for n, name in enumerate(names):
        description = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{uuids[n]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="6" '
            f'SizeY="4" SizeZ="{len(numbers)}" SizeC="1" SizeT="1"><Channel ID="Channel:0" '
            f'SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        with tifffile.TiffWriter(folder / name) as file:
            for image in numbered_sections(numbers)[n * half :][:half]:
                file.write(image, description=description, metadata=None, photometric="minisblack")
                description = None
    return names


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Paths of images whose gray levels tell which section is which, and what `inspect` says of them."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "s").mkdir()
    for n in range(4):
        tifffile.imwrite(folder / f"s/z{n}.tif", numbered_sections([n])[0])
    tifffile.imwrite(folder / "stack.tif", numbered_sections([10, 11, 12]), photometric="minisblack")
    (folder / "link.tif").symlink_to("stack.tif")
    (folder / "elsewhere").mkdir()
    tifffile.imwrite(
        folder / "elsewhere/packed.tif",
        numbered_sections([13, 14]),
        photometric="minisblack",
        compression="zlib",
    )
    (folder / "far.tif").symlink_to("elsewhere/packed.tif")
    (folder / "hard.tif").hardlink_to(folder / "s/z2.tif")
    (folder / "linked").symlink_to("s")
    (folder / "mixed").mkdir()
    for n, source in enumerate(("hard.tif", "s/z0.tif")):
        (folder / f"mixed/m{n}.tif").symlink_to(folder / source)
    ome_set(folder, [20, 21, 22, 23])
    layouts = {}

    def virtual(name, shape, *parts):
        layouts[name] = h5py.VirtualLayout(shape, "u2")
        for place, (file, dataset, whole), part in parts:
            layouts[name][place] = h5py.VirtualSource(file, dataset, shape=whole)[part]

    raw, flat = ("a.h5", "g/raw", (6, 4, 6)), ("a.h5", "flat", (4, 6))
    everything = slice(None)
    virtual("all", (6, 4, 6), (everything, raw, everything))
    virtual("first", (3, 4, 6), (everything, raw, slice(0, 3)))
    virtual("last", (3, 4, 6), (everything, raw, slice(3, 6)))
    virtual("even", (3, 4, 6), (everything, raw, slice(0, 6, 2)))
    virtual("odd", (3, 4, 6), (everything, raw, slice(1, 6, 2)))
    virtual(
        "gaps",
        (6, 4, 6),
        (slice(0, 6, 3), raw, slice(4, 6)),
        (1, flat, everything),
        (4, flat, everything),
    )
    virtual(
        "mosaic",
        (2, 4, 6),
        *(((slice(None), y, everything), raw, (slice(2, 4), y, everything)) for y in range(4)),
    )
    virtual("single", (4, 6), (everything, raw, 5))
    virtual("nested", (2, 4, 6), (everything, ("v.h5", "last", (3, 4, 6)), slice(1, 3)))
    virtual("nested_gaps", (2, 4, 6), (everything, ("v.h5", "gaps", (6, 4, 6)), slice(3, 5)))
    virtual("of_link", (2, 4, 6), (everything, ("a.h5", "soft", (6, 4, 6)), slice(0, 2)))
    numbered_sections([50, 51, 52]).tofile(folder / "a.bin")
    section = 2 * 4 * 6
    with h5py.File(folder / "a.h5", "w") as file:
        file["g/raw"] = numbered_sections(range(30, 36))
        file["soft"], file["twin"] = h5py.SoftLink("/g/raw"), file["g/raw"]
        file["flat"] = numbered_sections([40])[0]
        file.create_dataset("bytes", (3, 4, 6), "u2", external=[(folder / "a.bin", 0, h5py.h5f.UNLIMITED)])
        file.create_dataset("bytes_2", (1, 4, 6), "u2", external=[(folder / "a.bin", 2 * section, section)])
        parts = [(folder / "a.bin", 0, section // 2), (folder / "a.bin", section // 2, 5 * section // 2)]
        file.create_dataset("parts", (3, 4, 6), "u2", external=parts)
        file.create_dataset(
            "swapped",
            (2, 4, 6),
            "u2",
            external=[(folder / "a.bin", 2 * section, section), (folder / "a.bin", 0, section)],
        )
    with h5py.File(folder / "v.h5", "w") as file:
        for name, layout in layouts.items():
            file.create_virtual_dataset(name, layout, fillvalue=65535)
    (folder / "b.h5").symlink_to("a.h5")
    names = [
        "s",
        "linked",
        "s/z?.tif",
        "s/z[13].tif",
        "s/z2.tif",
        "hard.tif",
        "mixed",
        "stack.tif",
        "link.tif",
        "elsewhere/packed.tif",
        "far.tif",
    ]
    names += ["o0.ome.tif", "o1.ome.tif", *(f"v.h5:/{name}" for name in layouts)]
    names += [
        f"a.h5:/{name}" for name in ("g/raw", "soft", "twin", "flat", "bytes", "bytes_2", "parts", "swapped")
    ]
    names += ["b.h5:/twin"]
    paths = [f"{folder}/{name}" for name in names]
    values = {path: imageio.read_images(path)[0, :, 0, 0].tolist() for path in paths}
    assert values[f"{folder}/v.h5:/gaps"] == [34, 40, 65535, 35, 40, 65535]
    return values, {path: imageio.inspect(path).stored for path in paths}


def test_two_images_share_sections_however_they_are_named(stored):
    """Twin: each section has its own gray level, so that equal gray levels are shared sections."""
    values, places = stored
    chosen = [("", slice(None)), ("0", [0]), ("1-2", [1, 2])]
    found = set()
    for (a, b), (text_a, part_a), (text_b, part_b) in itertools.product(
        itertools.combinations_with_replacement(values, 2), chosen, chosen
    ):
        shown = [
            {values[path][z] for z in range(len(values[path]))[part]}
            if isinstance(part, slice)
            else {values[path][z] for z in part if z < len(values[path])}
            for path, part in ((a, part_a), (b, part_b))
        ]
        shared = set.intersection(*shown) - {65535}
        rows = [
            volumes.Volume("a", a, a, text_a, "train", "row 1"),
            volumes.Volume("b", b, b, text_b, "test", "row 2"),
        ]
        if shared:
            with pytest.raises(InputError, match=r"row 2: volume b [(]test[)] shares sections of"):
                volumes._check_splits_disjoint(rows, places)
        else:
            volumes._check_splits_disjoint(rows, places)
        found.add((a == b, bool(shared)))
    assert found == {(True, True), (True, False), (False, True), (False, False)}


def test_a_selection_that_is_not_understood_is_the_whole_source(tmp_path):
    across = h5py.VirtualLayout((1, 3, 6), "u2")  # its rows are the sections of the source
    across[0] = h5py.VirtualSource("a.h5", "raw", shape=(4, 4, 6))[:3, 2, :]
    turned = h5py.VirtualLayout((4, 4, 6), "u2")  # its rows are called sections
    turned[:] = h5py.VirtualSource("a.h5", "raw", shape=(4, 4, 6))
    no_image = h5py.VirtualLayout((1, 4, 6), "u2")
    no_image[0, 0] = h5py.VirtualSource("a.h5", "line", shape=(24,))[:6]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = numbered_sections([1, 2, 3, 4])
        file["line"] = np.zeros(24)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        for name, layout in (("across", across), ("turned", turned), ("no_image", no_image)):
            file.create_virtual_dataset(name, layout)
        file["turned"].attrs["axes"] = "yzx"
    raw = f"{tmp_path}/a.h5:/raw"
    (stored,) = imageio.inspect(raw).stored
    for name, sections in (("across", 1), ("turned", 4)):
        path = f"{tmp_path}/v.h5:/{name}"
        (whole,) = imageio.inspect(path).stored
        assert whole == imageio.Stored(stored.key, 0, sections, None)
        rows = [volumes.Volume("a", path, "", "0", "train"), volumes.Volume("b", raw, "", "3", "test")]
        with pytest.raises(InputError, match="shares sections of"):
            volumes._check_splits_disjoint(rows, {path: (whole,), raw: (stored,)})
    (whole,) = imageio.inspect(f"{tmp_path}/v.h5:/no_image").stored
    assert whole.key.endswith(":line") and whole.at is None


def check_splits(tmp_path, *rows):
    volumes.check_files(volumes.read_table(table(tmp_path, *rows), tmp_path))


@pytest.mark.parametrize(
    ("first", "second"),
    (("s", "s/z1.tif"), ("a.h5:/raw", "a.h5:/soft"), ("a.h5:/raw", "a.h5:/hard"), ("a.h5:/raw", "v.h5:/raw")),
)
def test_the_dry_run_refuses_sections_that_are_trained_on_and_tested(tmp_path, first, second):
    (tmp_path / "s").mkdir()
    for n in range(3):
        tifffile.imwrite(tmp_path / f"s/z{n}.tif", numbered_sections([n])[0])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = numbered_sections([3, 4, 5])
        file["soft"], file["hard"] = h5py.SoftLink("/raw"), file["raw"]
    layout = h5py.VirtualLayout((3, 4, 6), "u2")
    layout[:] = h5py.VirtualSource("a.h5", "raw", shape=(3, 4, 6))
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("raw", layout)
    tifffile.imwrite(tmp_path / "other.tif", numbered_sections([6])[0])
    rows = (
        f"a {first} {first} {{}} train",
        f"b {second} {second} {{}} test",
        "c other.tif other.tif - validation",
    )
    match = (
        r"line 3: volume b \(test\) shares sections of .* volume a \(train, .*line 2\): `all` and `all` of"
    )
    with pytest.raises(InputError, match=match):
        check_splits(tmp_path, *(row.format("-") for row in rows))
    chosen = ("0,2", "-", "-") if first == "s" else ("0", "1-2", "-")  # the fix that the message names
    check_splits(tmp_path, *(row.format(sections) for row, sections in zip(rows, chosen, strict=True)))


def test_thousands_of_slices_in_thousands_of_rows_are_compared_quickly():
    places = {"s": tuple(imageio.Stored(f"file {z}", z, 1, 0) for z in range(20_000))}
    rows = [volumes.Volume("a", "s", "t", str(n), volumes.SPLITS[n % 3]) for n in range(20_000)]
    volumes._check_splits_disjoint(rows, places)
