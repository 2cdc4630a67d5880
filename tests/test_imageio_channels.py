"""Channels chosen by number or name, and channels in separate files."""

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline_lib import imageio
from pipeline_lib.data.volumes import check_files, read_table
from pipeline_lib.runtime.errors import InputError

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 256, (3, 4, 20, 30), np.uint8)  # zcyx
NAMES = ["DAPI", "GFP", "gfp", "488"]


def ome(path):
    metadata = {"axes": "ZCYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(path, STACK, photometric="minisblack", ome=True, metadata=metadata)
    return path


def imagej(path):
    labels = NAMES * len(STACK)
    tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZCYX", "Labels": labels})
    return path


@pytest.mark.parametrize("write", (ome, imagej))
def test_channels_are_chosen_by_number_or_name(tmp_path, write):
    path = write(tmp_path / "a.ome.tif" if write is ome else tmp_path / "a.tif")
    assert imageio.inspect(path).names == tuple(NAMES)
    for channels, numbers in (
        ([2], [2]),
        ([3, 0], [3, 0]),
        (["DAPI", 1], [0, 1]),
        (["dapi"], [0]),  # upper and lower case if no name is equal
        (["GFP"], [1]),
        (["gfp"], [2]),
        (["488"], [3]),
        ([488], [3]),
        (["2"], [2]),  # as from `snakemake --config`
        (4, [0, 1, 2, 3]),
    ):
        found = imageio.read_images(path, channels=channels)
        np.testing.assert_array_equal(found, STACK[:, numbers].swapaxes(0, 1))
        with imageio.open_images(path, channels=channels, sections="2") as images:
            assert images.shape == (len(numbers), 1, 20, 30)
            region = images.read(0, slice(3, 9), slice(4, 20))
            np.testing.assert_array_equal(region, STACK[2, numbers, 3:9, 4:20])


def test_channels_that_do_not_exist_are_refused_with_those_that_do(tmp_path):
    path = ome(tmp_path / "a.ome.tif")
    for channels, match in (
        ([4], r"has no channel 4\. It has 0 DAPI, 1 GFP, 2 gfp, 3 488\."),
        (["RFP"], "has no channel RFP"),
        (["Gfp"], "several channels are called Gfp"),
        ([1, "GFP"], "names the channel GFP twice"),
        (1, r"found 4 channels .*choose some, as in `dataset\.channels: \[0\]` \(there are 0 DAPI, 1 GFP"),
        (5, r"Set `dataset\.channels: 4`, or save"),
    ):
        with pytest.raises(InputError, match=match):
            imageio.read_images(path, channels=channels)
        with pytest.raises(InputError, match=match):
            imageio.require_channels(path, imageio.inspect(path), channels)


def test_labels_of_sections_are_no_names_of_channels(tmp_path):
    labels = [f"c:{c} z:{z}" for z in range(3) for c in range(4)]
    tifffile.imwrite(tmp_path / "a.tif", STACK, imagej=True, metadata={"axes": "ZCYX", "Labels": labels})
    assert imageio.inspect(tmp_path / "a.tif").names == ()
    with pytest.raises(InputError, match=r"has no channel DAPI\. It has 0, 1, 2, 3\."):
        imageio.read_images(tmp_path / "a.tif", channels=["DAPI"])


def test_a_channel_of_colours(tmp_path):
    """Also of a palette, and without transparency."""
    colour = RNG.integers(0, 256, (20, 30, 4), np.uint8)
    colour[..., 3] = 9
    Image.fromarray(colour).save(tmp_path / "a.png")
    for channel, number in (("green", 1), (2, 2), ("Red", 0)):
        found = imageio.read_images(tmp_path / "a.png", channels=[channel])
        np.testing.assert_array_equal(found[0, 0], colour[..., number])
    with pytest.raises(InputError, match=r"has no channel 3\. It has 0 red, 1 green, 2 blue"):
        imageio.read_images(tmp_path / "a.png", channels=[3])
    image = Image.fromarray(colour[..., 0]).convert("P")
    image.putpalette(RNG.integers(0, 256, 768, np.uint8).tobytes())
    image.save(tmp_path / "p.png")
    palette = np.asarray(image.convert("RGB"))
    found = imageio.read_images(tmp_path / "p.png", channels=["blue", "red"])
    np.testing.assert_array_equal(found[:, 0], palette[..., [2, 0]].transpose(2, 0, 1))


def test_numbers_of_channels_count_the_additional_sample(tmp_path):
    four = RNG.integers(0, 256, (20, 30, 4), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", four, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.tif", channels=[3])[0, 0], four[..., 3])


@pytest.fixture
def files(tmp_path):
    """Write each channel and section as a file, the channels in different formats."""
    for c, (folder, suffix) in enumerate((("dapi", "png"), ("gfp", "tif"), ("rfp", "bmp"))):
        (tmp_path / folder).mkdir()
        for z, section in enumerate(STACK):
            if suffix == "tif":  # 0 is displayed as white
                path = tmp_path / folder / f"x_{z}_ch{c:02}.tif"
                tifffile.imwrite(path, 255 - section[c], photometric="miniswhite")
            else:
                Image.fromarray(section[c]).save(tmp_path / folder / f"x_{z}_ch{c:02}.{suffix}")
    return tmp_path


def test_channels_in_separate_files_are_one_image(files):
    for path in (
        f"{files}/dapi + {files}/gfp + {files}/rfp",
        f"{files}/dapi/x_*.png + {files}/gfp/*_ch01.tif + {files}/rfp/*.bmp",
    ):
        info = imageio.inspect(path)
        assert info.shape == (3, 3, 20, 30)
        np.testing.assert_array_equal(imageio.read_images(path, channels=3), STACK[:, :3].swapaxes(0, 1))
        np.testing.assert_array_equal(
            imageio.read_images(path, channels=[1, 0], sections="1-2"), STACK[1:, [1, 0]].swapaxes(0, 1)
        )
        assert len(imageio.source_files(path)) == (3 if "*" not in path else 9)
    one = f"{files}/dapi/x_2_ch00.png + {files}/gfp/x_2_ch01.tif"
    np.testing.assert_array_equal(imageio.read_images(one, channels=2)[:, 0], STACK[2, :2])
    with h5py.File(files / "a.h5", "w") as file:
        file["raw"] = STACK[:, 3]
    mixed = f"{files}/a.h5:/raw + {files}/dapi"
    np.testing.assert_array_equal(imageio.read_images(mixed, channels=2), STACK[:, [3, 0]].swapaxes(0, 1))


def test_sections_of_channels_are_paired_by_names_not_by_order(files):
    (files / "gfp/x_0_ch01.tif").rename(files / "gfp/x_9_ch01.tif")
    with pytest.raises(InputError, match="do not pair them with the 3 files of the channel"):
        imageio.inspect(f"{files}/dapi + {files}/gfp")
    (files / "dapi/x_0_ch00.png").rename(files / "dapi/x_9_ch00.png")
    expected = STACK[[1, 2, 0], :2].swapaxes(0, 1)
    found = imageio.read_images(f"{files}/dapi + {files}/gfp", channels=2)
    np.testing.assert_array_equal(found, expected)
    (files / "gfp/x_1_ch01.tif").unlink()
    with pytest.raises(InputError, match="names of its 2 files do not pair them with the 3 files"):
        imageio.inspect(f"{files}/dapi + {files}/gfp")


def test_channels_of_different_size_or_type_are_refused(files):
    Image.fromarray(STACK[0, 0, :19]).save(files / "a.png")
    tifffile.imwrite(files / "b.tif", STACK[0, 0].astype(np.uint16), photometric="minisblack")
    for other, found in (
        ("a.png", "1 section of 19 x 30 px, uint8"),
        ("b.tif", "1 section of 20 x 30 px, uint16"),
        ("gfp", "3 sections"),
    ):
        with pytest.raises(InputError, match=rf"found {found}.*, but the channel .* has 1 section"):
            imageio.inspect(f"{files}/dapi/x_0_ch00.png + {files}/{other}")
    with pytest.raises(InputError, match=r"nowhere\.tif: no such file"):
        imageio.inspect(f"{files}/dapi + nowhere.tif")


def test_a_plus_in_the_name_of_a_file_or_folder(tmp_path):
    folder = tmp_path / "WT + drug"
    folder.mkdir()
    for c in range(2):
        Image.fromarray(STACK[0, c]).save(folder / f"a + {c}.png")
    for path in (f"{folder}/a + 0.png", f"{folder}/a + [0].png", folder / "a + 0.png"):
        assert imageio.channel_paths(path) == [str(path)]
        np.testing.assert_array_equal(imageio.read_images(path).squeeze(), STACK[0, 0])
    both = f"{folder}/a + 0.png + {folder}/a + 1.png"
    assert imageio.channel_paths(both) == [f"{folder}/a + 0.png", f"{folder}/a + 1.png"]
    np.testing.assert_array_equal(imageio.read_images(both, channels=2)[:, 0], STACK[0, :2])
    assert imageio.channel_paths(folder) == [str(folder)]


HEADER = "volume\timages\tannotation\tsplit\tchannels\n"


def table(files, rows):
    (files / "my.tsv").write_text(HEADER + "".join("\t".join(row) + "\n" for row in rows))
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(files / "mask.png")
    return read_table(files / "my.tsv", files)


def test_channels_in_a_table(files):
    rows = [
        ("a", "dapi/x_0_ch00.png + gfp/x_0_ch01.tif", "mask.png", "train", ""),
        ("b", "dapi/x_1_ch00.png + gfp/x_1_ch01.tif", "mask.png", "validation", "[1, 0]"),
        ("c", f"dapi/x_2_ch00.png + {files}/gfp/x_2_ch01.tif", "", "predict", ""),
    ]
    volumes = table(files, rows)
    assert volumes[0].images == f"{files}/dapi/x_0_ch00.png + {files}/gfp/x_0_ch01.tif"
    assert volumes[2].images == f"{files}/dapi/x_2_ch00.png + {files}/gfp/x_2_ch01.tif"
    found = check_files(volumes, {"a": 2, "b": [1, 0], "c": 2})
    assert [found[name].shape for name in "abc"] == [(2, 1, 20, 30)] * 3
    with pytest.raises(InputError, match=r"volume b: `channels` chooses 1 of .* but 2 for volume a"):
        check_files(volumes, {"a": 2, "b": [1], "c": 2})


def test_splits_that_share_one_channel_are_refused(files):
    rows = [
        ("a", "dapi + gfp", "mask.png", "train", ""),
        ("b", "gfp/x_0_ch01.tif", "mask.png", "validation", "[0]"),
    ]
    tifffile.imwrite(files / "mask.tif", np.zeros((3, 20, 30), np.uint8), photometric="minisblack")
    rows[0] = ("a", "dapi + gfp", "mask.tif", "train", "")
    with pytest.raises(InputError, match=r"volume b .* shares sections of"):
        check_files(table(files, rows), {"a": [0], "b": [0]})
