"""OME-Zarr: what is written is read again, pyramids follow their definition, damage is found."""

import functools
import http.server
import json
import multiprocessing
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline_lib import cli, imageio
from pipeline_lib.imageio import omezarr_writing
from pipeline_lib.imageio.naming import source_file, zarr_files, zarr_path
from pipeline_lib.imageio.omezarr_writing import OmeZarr, fill, make_pyramid, shards, writing_omezarr
from pipeline_lib.imageio.pixelsize import Scale
from pipeline_lib.projects.layouts import find_images
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.stages.export import export_labels, export_omezarr


def drawn(shape, dtype=np.uint8, seed=0):
    """An image (c, z, y, x) of random values."""
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def write(path, image, version="0.5", labels=None, lengths=Scale((0.5, 0.25), 2.0), **settings):  # noqa: B008
    with writing_omezarr(path, version) as writer:
        writer.write_image(
            lambda z, rows, columns: image[:, z, rows, columns], image.shape, image.dtype, lengths, **settings
        )
        if labels is not None:
            writer.write_labels("cells", lambda *region: labels[region], labels.shape, lengths)
    return path


def metadata(group):
    """The metadata of OME of a group in a folder."""
    found = dict(zarr.open_group(group, mode="r").attrs)
    return found.get("ome", found)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("shape", [(1, 1, 30, 40), (1, 3, 30, 40), (2, 3, 600, 700), (3, 1, 20, 1100)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_written_images_are_read_again(tmp_path, version, shape, dtype):
    image = drawn(shape, dtype)
    names = [f"stain {number}" for number in range(shape[0])]
    path = write(tmp_path / "a.zarr", image, version, channels=names)
    info = imageio.inspect(path)
    assert (info.shape, info.dtype) == (shape, np.dtype(dtype))
    assert info.pixel_size == (0.5, 0.25) and info.names == tuple(names)
    assert info.section_spacing == (2.0 if shape[1] > 1 else None)
    with imageio.open_images(path, channels=shape[0]) as found:
        np.testing.assert_array_equal(
            found.read(shape[1] - 1, slice(3, 20), slice(5, 33)), image[:, -1, 3:20, 5:33]
        )
    np.testing.assert_array_equal(imageio.read_images(path, channels=shape[0]), image)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_pyramids_follow_their_definition(tmp_path_factory, height, width, seed):
    """Each level is the mean, or the first, of blocks of 2 x 2 px; pixels beyond the edge repeat it."""
    folder = tmp_path_factory.mktemp("pyramid")
    image, labels = drawn((1, 2, height, width), np.uint16, seed), drawn((2, height, width), seed=seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(omezarr_writing, "CHUNK", 4)
        patch.setattr(omezarr_writing, "SHARD", 8)
        path = write(folder / "a.zarr", image, labels=labels)
    for group, whole, reduce in (("", image[0], np.mean), ("labels/cells", labels, None)):
        (pyramid,) = metadata(path / group)["multiscales"]
        expected = whole.astype(np.uint32)
        for level, described in enumerate(pyramid["datasets"]):
            stored = zarr.open_array(path / group / described["path"], mode="r")
            np.testing.assert_array_equal(stored[:], expected)
            if level + 1 < len(pyramid["datasets"]):
                assert max(expected.shape[1:]) > 4
            padded = np.pad(
                expected, [(0, 0), *((0, length % 2) for length in expected.shape[1:])], mode="edge"
            )
            z, y, x = padded.shape
            pieces = padded.reshape(z, y // 2, 2, x // 2, 2)
            expected = np.rint(pieces.mean((2, 4))) if reduce else pieces[:, :, 0, :, 0]
        assert max(stored.shape[1:]) <= 4


def test_levels_state_where_their_pixels_are(tmp_path):
    """A pixel of a level lies in the middle of the pixels that it is the mean of."""
    path = write(tmp_path / "a.zarr", drawn((1, 2, 1300, 700)), labels=drawn((2, 1300, 700)))
    for group in ("", "labels/cells"):
        (pyramid,) = metadata(path / group)["multiscales"]
        assert [axis["name"] for axis in pyramid["axes"]] == ["z", "y", "x"]
        assert {axis["unit"] for axis in pyramid["axes"]} == {"micrometer"}
        assert len(pyramid["datasets"]) == 3
        for level, described in enumerate(pyramid["datasets"]):
            scale, *shift = described["coordinateTransformations"]
            assert scale["scale"] == [2.0, 0.5 * 2**level, 0.25 * 2**level]
            centre = [np.mean(np.arange(2**level)) * size for size in (0.5, 0.25)]
            assert (shift[0]["translation"] if shift else [0, 0, 0]) == [0, *centre]
        shapes = [zarr.open_array(path / group / str(level), mode="r").shape for level in range(3)]
        assert shapes == [(2, 1300, 700), (2, 650, 350), (2, 325, 175)]  # equal for image and labels


def test_version_0_5_has_shards_and_names_of_axes_and_0_4_is_zarr_2(tmp_path):
    image = drawn((2, 2, 1300, 700))
    for version in ("0.5", "0.4"):
        path = write(tmp_path / f"{version}.zarr", image, version, labels=drawn((2, 1300, 700)))
        array = zarr.open_array(path / "0", mode="r")
        assert array.chunks == (1, 1, 512, 512)
        found = metadata(path), metadata(path / "labels/cells")
        if version == "0.5":
            assert array.shards == (1, 1, 1536, 1024) and array.metadata.dimension_names == (*"czyx",)
            files = [file for file in (path / "0").rglob("*") if file.is_file() and file.name != "zarr.json"]
            assert len(files) == 4
            assert found[0]["version"] == "0.5" and "version" not in found[0]["multiscales"][0]
        else:
            assert (path / ".zgroup").exists() and (path / "0/0/0/0/0").exists()
            compressor = json.loads((path / "0/.zarray").read_text())["compressor"]
            assert (compressor["id"], compressor["cname"], compressor["shuffle"]) == ("blosc", "zstd", 1)
            assert found[0]["multiscales"][0]["version"] == "0.4"
            assert found[1]["image-label"]["version"] == "0.4"
        assert metadata(path / "labels")["labels"] == ["cells"]
        assert found[1]["image-label"]["source"] == {"image": "../../"}


def fill_half(path, image, half):
    """Write every second shard; runs in a process of its own."""
    own = shards(image.shape)[half::2]
    array = zarr.open_array(path / "0", mode="r+")
    fill(array, image.shape, lambda z, rows, columns: image[:, z, rows, columns], own)


def test_two_processes_write_shards_of_one_array(tmp_path):
    image = drawn((1, 2, 2500, 2100))
    assert len(shards(image.shape)) == 8
    levels = OmeZarr(tmp_path / "a.zarr").create("", image.shape, image.dtype)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=fill_half, args=(tmp_path / "a.zarr", image, half)) for half in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    np.testing.assert_array_equal(levels[0][:], image[0])
    make_pyramid(levels, image.shape, lambda region: region[::2, ::2])
    np.testing.assert_array_equal(levels[2][:], image[0, :, ::4, ::4])


def test_shards_cover_every_pixel_once_and_whole_files():
    shape = (2, 3, 5000, 2049)
    covered = np.zeros(shape, np.uint8)
    for channel, z, rows, columns in shards(shape):
        covered[channel, z, rows, columns] += 1
        assert rows.start % 2048 == 0 and columns.start % 2048 == 0
    assert (covered == 1).all()


@pytest.mark.parametrize(
    "axes, version", [("tczyx", "0.1"), ("tczyx", "0.2"), ("zyx", "0.3"), ("czyx", "0.4"), ("yx", "0.4")]
)
def test_older_versions_are_read(tmp_path, axes, version):
    lengths = {"t": 1, "c": 2, "z": 3, "y": 7, "x": 9}
    array = drawn([lengths[axis] for axis in axes], np.uint16)
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    stored = group.create_array("0", shape=array.shape, dtype=array.dtype, chunks=(2,) * array.ndim)
    stored[:] = array
    pyramid = {"version": version, "datasets": [{"path": "0"}]}
    if version == "0.3":
        pyramid["axes"] = [*axes]
    if version == "0.4":
        unit = {"type": "space", "unit": "nanometer"}
        pyramid["axes"] = [{"name": axis} | (unit if axis in "zyx" else {"type": "channel"}) for axis in axes]
        pyramid["datasets"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [4.0] * len(axes)}]
        pyramid["coordinateTransformations"] = [{"type": "scale", "scale": [2.0] * len(axes)}]
    group.attrs.put({"multiscales": [pyramid]})
    info = imageio.inspect(tmp_path / "a.zarr")
    expected = array.reshape([lengths[axis] if axis in axes else 1 for axis in "czyx"])
    assert info.pixel_size == (pytest.approx((0.008, 0.008)) if version == "0.4" else None)
    assert info.section_spacing == (pytest.approx(0.008) if axes == "czyx" else None)
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.zarr", channels=info.channels), expected)


def test_names_inside_a_folder(tmp_path):
    image, labels = drawn((1, 2, 30, 40)), drawn((2, 30, 40), seed=1)
    path = write(tmp_path / "a.zarr", image, labels=labels)
    for inside in ("", "/", "/0"):
        np.testing.assert_array_equal(imageio.read_images(f"{path}{inside}"), image)
    np.testing.assert_array_equal(imageio.read_images(f"{path}/labels/cells")[0], labels)
    assert source_file(f"{path}/labels/cells") == path
    assert zarr_path("b/a.zarr/labels/cells") == ("b/a.zarr", "labels/cells")
    assert zarr_path("b/a.ome.zarr") == ("b/a.ome.zarr", "") and zarr_path("a.tif") is None
    assert not imageio.are_slices(path)
    with pytest.raises(InputError, match=r"there is no such group. Write one of: .*a\.zarr/labels/cells"):
        imageio.inspect(f"{path}/labels/other")
    with pytest.raises(InputError, match="found no image, but a group") as error:
        shutil.copytree(path / "labels/cells", path / "labels/nuclei")
        imageio.inspect(f"{path}/labels")
    assert f"{path}/labels/cells, {path}/labels/nuclei" in str(error.value)


def test_one_image_in_a_group_is_read_and_several_are_listed(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    group.attrs.put({"bioformats2raw.layout": 3})
    image = drawn((1, 1, 20, 30))
    shutil.move(write(tmp_path / "b.zarr", image, "0.4"), tmp_path / "a.zarr/0")
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.zarr"), image)
    shutil.copytree(tmp_path / "a.zarr/0", tmp_path / "a.zarr/1")
    with pytest.raises(InputError, match=r"Write one of: .*a\.zarr/0, .*a\.zarr/1"):
        imageio.inspect(tmp_path / "a.zarr")
    group.attrs.put({"plate": {"wells": []}})
    shutil.rmtree(tmp_path / "a.zarr/1")
    with pytest.raises(InputError, match="a plate of several images"):
        imageio.inspect(tmp_path / "a.zarr")


def changed(path, change):
    """Change the metadata of an image."""
    group = zarr.open_group(path, mode="r+")
    attributes = json.loads(json.dumps(dict(group.attrs)))
    change(attributes["ome"])
    group.attrs.put(attributes)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda ome: ome["multiscales"][0]["datasets"][0].update(path="9"), "name no array that exists"),
        (lambda ome: ome["multiscales"][0]["datasets"].reverse(), "level 0 is larger than 1"),
        (lambda ome: ome["multiscales"].append(ome["multiscales"][0]), "has 2 images in one group"),
        (lambda ome: ome["multiscales"][0]["axes"].pop(), "found the axes"),
        (lambda ome: ome["multiscales"][0]["axes"][0].update(name="angle"), "expected t, c, z, y and x"),
        (lambda ome: ome["multiscales"][0]["axes"][0].update(name="x"), "are ambiguous"),
        (lambda ome: ome.update(multiscales=[]), "name no array that exists"),
    ],
)
def test_wrong_metadata_are_refused(tmp_path, change, message):
    path = write(tmp_path / "a.zarr", drawn((1, 2, 600, 40)))
    changed(path, change)
    with pytest.raises(InputError, match=message):
        imageio.inspect(path)


def test_damaged_folders_are_refused(tmp_path):
    path = write(tmp_path / "a.zarr", drawn((1, 2, 600, 40)))
    (path / "0/zarr.json").unlink()
    with pytest.raises(InputError, match="name no array that exists"):
        imageio.inspect(path)
    (path / "zarr.json").unlink()
    with pytest.raises(InputError, match=r"expected zarr\.json \(Zarr 3\) or \.zgroup"):
        imageio.inspect(path)
    with pytest.raises(InputError, match="no such file or folder"):
        imageio.inspect(tmp_path / "b.zarr")
    (tmp_path / "c.zarr").write_text("text")
    with pytest.raises(InputError, match=r"c\.zarr"):
        imageio.inspect(tmp_path / "c.zarr")


@pytest.mark.parametrize(
    ("version", "shape", "lost", "files"),
    [
        ("0.5", (1, 3, 20, 30), ["c/1/0/0"], 3),
        ("0.5", (1, 1, 2100, 2500), ["c/1/1"], 4),  # shards at the edge have fewer chunks
        ("0.5", (1, 1, 2100, 2500), ["c/0/0", "c/1/0", "c/0/1"], 4),
        ("0.4", (2, 1, 600, 40), ["0/1/0", "1/0/0"], 4),
    ],
)
def test_missing_files_are_reported(tmp_path, caplog, version, shape, lost, files):
    path = write(tmp_path / "a.zarr", drawn(shape), version)
    imageio.inspect(path)
    assert "missing" not in caplog.text
    for name in lost:
        (path / "0" / name).unlink()
    (path / "0/notes 1 1 1.txt").write_text("no pixels")
    imageio.inspect(path)
    assert f"{len(lost)} of {files} files of pixels are missing, and are read as 0" in caplog.text


def test_missing_files_of_names_with_dots_are_reported(tmp_path, caplog):
    """As Zarr 2 names them by default."""
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(5, 7), chunks=(4, 4), dtype="u1", zarr_format=2, fill_value=9
    )
    array[:] = 1
    assert (tmp_path / "a.zarr/1.1").exists()
    imageio.inspect(tmp_path / "a.zarr")
    assert "missing" not in caplog.text
    (tmp_path / "a.zarr/1.1").unlink()
    imageio.inspect(tmp_path / "a.zarr")
    assert "1 of 4 files of pixels are missing, and are read as 9" in caplog.text


def test_a_truncated_chunk_is_an_error(tmp_path):
    path = write(tmp_path / "a.zarr", drawn((1, 1, 20, 30)))
    chunk = next(file for file in (path / "0/c").rglob("*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"a\.zarr: cannot be read"):
        imageio.read_images(path)


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    path = write(tmp_path / "a.zarr", drawn((1, 1, 20, 30)))
    described = json.loads((path / "0/zarr.json").read_text())
    described["shape"] = [1 << 30, 1 << 20]
    (path / "0/zarr.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match="the header claims"):
        imageio.inspect(path)


def test_a_folder_without_the_suffix_says_how_to_rename_it(tmp_path):
    path = write(tmp_path / "a.zarr", drawn((1, 1, 20, 30)))
    path.rename(tmp_path / "my image")
    with pytest.raises(InputError, match=r"mv '.*my image' '.*my image\.zarr'"):
        imageio.inspect(tmp_path / "my image")


def test_without_the_package_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zarr", drawn((1, 1, 20, 30)))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'bordure\[zarr\]'"):
        imageio.inspect(path)
    with pytest.raises(InputError, match=r"pip install 'bordure\[zarr\]'"):
        write(tmp_path / "b.zarr", drawn((1, 1, 20, 30)))


def test_a_failed_export_leaves_what_was_there(tmp_path):
    image = drawn((1, 1, 20, 30))
    path = write(tmp_path / "a.zarr", image)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="the disk is full"), writing_omezarr(path) as writer:
        writer.write_image(fail, image.shape, image.dtype)
    np.testing.assert_array_equal(imageio.read_images(path), image)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
    write(path, image + 1)
    np.testing.assert_array_equal(imageio.read_images(path), image + 1)
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr/thesis.txt").write_text("important")
    with pytest.raises(InputError, match="exists, and is no Zarr folder"):
        write(tmp_path / "b.zarr", image)
    assert (tmp_path / "b.zarr/thesis.txt").exists()


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_the_same_image_gives_the_same_bytes(tmp_path, version):
    image = drawn((1, 2, 600, 700))
    contents = []
    for name in ("a.zarr", "b.zarr"):
        path = write(tmp_path / name, image, version)
        contents.append(
            {file.relative_to(path): file.read_bytes() for file in path.rglob("*") if file.is_file()}
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_chunks_of_blosc_are_one_block(tmp_path, dtype):
    """Several threads would write blocks in the order in which they are done, so that bytes would differ."""
    path = write(tmp_path / "a.zarr", drawn((1, 1, 600, 700), dtype), "0.4")
    whole, block = np.frombuffer((path / "0/1/1").read_bytes()[4:12], "<u4")
    assert whole == block == 512 * 512 * np.dtype(dtype).itemsize


def stack_of_cells():
    """Sections with the labels 1 and 2, which each section numbers again."""
    labels = np.zeros((2, 20, 30), np.uint16)
    labels[0, 2:8, 2:8], labels[0, 10:14, 3:9] = 1, 2
    labels[1, 3:9, 12:20], labels[1, 12:18, 2:5] = 2, 1
    return labels


def test_exported_labels_have_their_measurements(tmp_path):
    labels, image = stack_of_cells(), drawn((1, 2, 20, 30))[0]
    imageio.write_labels(tmp_path / "a_labels.tif", labels, pixel_size=(0.5, 0.5))
    imageio.write_images(tmp_path / "a.tif", image)
    found = export_omezarr(tmp_path / "a_labels.tif", tmp_path / "a.zarr", image=tmp_path / "a.tif")
    assert (found.shape, found.cells, found.numbered, found.properties) == ((1, 2, 20, 30), 4, True, True)
    stored = imageio.read_images(tmp_path / "a.zarr/labels/cells")[0]
    assert sorted(np.unique(stored)) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(stored > 0, labels > 0)
    described = metadata(tmp_path / "a.zarr/labels/cells")
    for own in described["image-label"]["properties"]:
        mask = stored == own["label-value"]
        assert mask[own["section"]].sum() == own["area"] == mask.sum() == 4 * own["area_um2"]
        assert {*labels[mask]} == {own["label"]}
    assert described["multiscales"][0]["axes"][1]["unit"] == "micrometer"
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.zarr")[0], image)


@pytest.mark.parametrize(
    ("of_image", "of_labels", "expected"),
    [
        ((None, None), ((0.5, 0.25), 3.0), [3.0, 0.5, 0.25]),
        (((0.5, 0.25), None), ((0.4, 0.2), 3.0), [3.0, 0.5, 0.25]),
        ((None, 2.0), ((0.5, 0.25), 3.0), [2.0, 0.5, 0.25]),
        ((None, 2.0), ((0.5, 0.25), None), [2.0, 0.5, 0.25]),
    ],
)
def test_lengths_that_the_image_does_not_state_are_those_of_its_labels(
    tmp_path, of_image, of_labels, expected
):
    labels = stack_of_cells()
    imageio.write_labels(
        tmp_path / "a_labels.tif", labels, pixel_size=of_labels[0], section_spacing=of_labels[1]
    )
    write(tmp_path / "image.zarr", drawn((1, *labels.shape)), lengths=Scale(*of_image))
    export_omezarr(tmp_path / "a_labels.tif", tmp_path / "a.zarr", image=tmp_path / "image.zarr")
    for group in ("", "labels/cells"):
        (pyramid,) = metadata(tmp_path / "a.zarr" / group)["multiscales"]
        assert pyramid["datasets"][0]["coordinateTransformations"][0]["scale"] == expected
        assert [axis["unit"] for axis in pyramid["axes"]] == ["micrometer"] * 3


def test_labels_that_are_unique_keep_their_numbers(tmp_path, capsys):
    labels = stack_of_cells()
    labels[1][labels[1] > 0] += 10
    imageio.write_labels(tmp_path / "a_labels.tif", labels)
    imageio.write_images(tmp_path / "a.tif", drawn((1, 2, 20, 30))[0])
    rows = [(z, label, 3.5) for z in range(2) for label in np.unique(labels[z])[1:]]
    pd.DataFrame(rows, columns=["section", "label", "brightness"]).to_csv(
        tmp_path / "a_cells.csv", index=False
    )
    command = ["export", str(tmp_path / "a_labels.tif"), "--to", "ome-zarr"]
    assert cli.main(command) == 1
    assert "Add `--image IMAGE`" in capsys.readouterr().err
    assert cli.main([*command, "--image", str(tmp_path / "a.tif"), "--zarr-version", "0.4"]) == 0
    said = capsys.readouterr().out
    assert "a_cells.csv" in said and "4 cells in labels/cells" in said and "new numbers" not in said
    path = tmp_path / "a_labels.zarr"
    np.testing.assert_array_equal(imageio.read_images(path / "labels/cells")[0], labels)
    properties = metadata(path / "labels/cells")["image-label"]["properties"]
    assert [own["label-value"] for own in properties] == [1, 2, 11, 12]
    assert {own["brightness"] for own in properties} == {3.5}


def test_labels_of_another_image_are_refused(tmp_path):
    imageio.write_labels(tmp_path / "a_labels.tif", stack_of_cells())
    imageio.write_images(tmp_path / "a.tif", drawn((1, 3, 20, 30))[0])
    with pytest.raises(InputError, match=r"has 2 sections of 20 x 30 px, but its image .* has 3 sections"):
        export_omezarr(tmp_path / "a_labels.tif", tmp_path / "a.zarr", image=tmp_path / "a.tif")
    assert not (tmp_path / "a.zarr").exists()


def test_probabilities_are_exported_as_images(tmp_path):
    values = np.random.default_rng(0).random((2, 20, 30), np.float32)
    imageio.write_probability(tmp_path / "a_cell_probability.tif", values)
    assert cli.main(["export", str(tmp_path / "a_cell_probability.tif"), "--to", "ome-zarr"]) == 0
    stored = imageio.read_images(tmp_path / "a_cell_probability.zarr")[0]
    np.testing.assert_array_equal(stored, imageio.read_images(tmp_path / "a_cell_probability.tif")[0])
    window = metadata(tmp_path / "a_cell_probability.zarr")["omero"]["channels"][0]["window"]
    assert window["start"] == pytest.approx(stored.min()) and window["end"] == pytest.approx(stored.max())


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_colours_are_exported_as_colours(tmp_path, version):
    colours = drawn((20, 30, 3))
    colours[..., 1] //= 4
    tifffile.imwrite(tmp_path / "a.tif", colours, photometric="rgb")
    export_omezarr(tmp_path / "a.tif", tmp_path / "a.zarr", version=version)
    shown = metadata(tmp_path / "a.zarr")["omero"]["channels"]
    assert [(own["label"], own["color"]) for own in shown] == [
        ("red", "FF0000"),
        ("green", "00FF00"),
        ("blue", "0000FF"),
    ]
    lowest, highest = float(colours.min()), float(colours.max())
    for own in shown:
        assert own["window"] == {"min": lowest, "max": highest, "start": lowest, "end": highest}
    before, after = (imageio.inspect(tmp_path / name) for name in ("a.tif", "a.zarr"))
    assert (after.rgb, after.names, after.shape) == (before.rgb, before.names, before.shape)
    assert after.rgb
    np.testing.assert_array_equal(
        imageio.read_images(tmp_path / "a.zarr", channels=["blue"])[0, 0], colours[..., 2]
    )
    image = Image.fromarray((np.indices((9, 9)).sum(0) % 2).astype(np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.save(tmp_path / "p.png")
    export_omezarr(tmp_path / "p.png", tmp_path / "p.zarr")
    with imageio.open_images(tmp_path / "p.zarr", channels=3) as found:
        assert found.info.rgb
        values = found.read(0, slice(0, 9), slice(0, 9))
    np.testing.assert_array_equal(values, np.asarray(image.convert("RGB")).transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "b.tif", np.repeat(colours[..., :1], 3, -1), photometric="rgb")
    export_omezarr(tmp_path / "b.tif", tmp_path / "b.zarr", version=version)
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "b.zarr")[0, 0], colours[..., 0])


def test_stains_in_red_green_and_blue_are_no_colours(tmp_path):
    path = write(tmp_path / "a.zarr", drawn((3, 1, 20, 30)), channels=["red", "green", "blue"], rgb=True)
    assert imageio.inspect(path).rgb
    changed(path, lambda ome: ome["omero"]["channels"][2].update(label="DAPI"))
    info = imageio.inspect(path)
    assert (info.rgb, info.names) == (False, ("red", "green", "DAPI"))


def test_colours_in_an_annotation_are_refused_without_a_line(tmp_path):
    path = write(tmp_path / "a.zarr", drawn((3, 1, 20, 30)), rgb=True)
    with pytest.raises(InputError, match=r"expected one number per pixel\. Write it again with the program"):
        export_labels(path, tmp_path / "a.zip", to="fiji")


def test_init_finds_images_with_their_labels(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"data/{name}.zarr", drawn((1, 1, 20, 30)), labels=drawn((1, 20, 30)))
    found = find_images(tmp_path / "data")
    assert [(own.name, own.images, own.annotation) for own in found] == [
        ("a", "a.zarr", "a.zarr/labels/cells"),
        ("b", "b.zarr", "b.zarr/labels/cells"),
    ]
    shutil.copytree(tmp_path / "data/a.zarr/labels/cells", tmp_path / "data/a.zarr/labels/nuclei")
    with pytest.raises(InputError, match=r"has several labels \(cells, nuclei\)"):
        find_images(tmp_path / "data")
    shutil.rmtree(tmp_path / "data/a.zarr/labels")
    shutil.move(tmp_path / "data/b.zarr", tmp_path / "data/a_mask.zarr")
    assert [(own.images, own.annotation) for own in find_images(tmp_path / "data")] == [
        ("a.zarr", "a_mask.zarr")
    ]


def test_two_names_of_an_image_are_the_same_pixels(tmp_path):
    """So that an image cannot be in the training and in the test split."""
    path = write(tmp_path / "a.zarr", drawn((1, 2, 20, 30)), labels=drawn((2, 20, 30)))
    places = [imageio.inspect(f"{path}{inside}").stored for inside in ("", "/0", "/labels/cells")]
    assert places[0] == places[1] != places[2]


def test_files_of_an_image_leave_out_its_labels(tmp_path, monkeypatch):
    path = write(tmp_path / "a.zarr", drawn((1, 2, 20, 30)), labels=drawn((2, 20, 30)))
    files = {str(file.relative_to(path)) for file in zarr_files(zarr_path(path))}
    assert files == {"zarr.json", "0/zarr.json", "0/c/0/0/0", "0/c/1/0/0"}
    assert len(zarr_files(zarr_path(f"{path}/labels/cells"))) == 4
    monkeypatch.setattr("pipeline_lib.imageio.naming._MOST_ZARR_FILES", 3)
    assert {file.name for file in zarr_files(zarr_path(path))} == {"zarr.json"}


class Served(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, also parts of them, as servers of images send them."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        file = Path(self.translate_path(self.path))
        if "Range" not in self.headers or not file.is_file():
            return super().do_GET()
        content = file.read_bytes()
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        start = int(first) if first else len(content) - int(last)
        stop = int(last) + 1 if first and last else len(content)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content[start:stop])))
        self.send_header("Last-Modified", "Mon, 30 Nov 2026 10:00:00 GMT")
        self.end_headers()
        self.wfile.write(content[start:stop])
        return None


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Address of a server of `tmp_path / "bucket"`, which also answers as S3."""
    (tmp_path / "bucket").mkdir()
    served = functools.partial(Served, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_port}"
        monkeypatch.setenv("AWS_ENDPOINT", address)
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield f"{address}/bucket"
        running.shutdown()


@pytest.mark.parametrize("s3", [False, True])
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_images_at_addresses_are_copied(server, tmp_path, monkeypatch, capsys, s3, version):
    image = drawn((2, 2, 300, 520), np.uint16)
    labels = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4).repeat(100, 1).repeat(130, 2)
    write(tmp_path / "bucket" / "a.zarr", image, version, labels=labels, channels=["one", "two"])
    address = ("s3://bucket" if s3 else server) + "/a.zarr"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", address, "--to", "ome-zarr"]) == 0
    assert capsys.readouterr().out == "a.zarr: 2 channels, 2 sections of 300 x 520 px\n"
    copied, original = (replace(imageio.inspect(path), stored=()) for path in ("a.zarr", "bucket/a.zarr"))
    assert copied == original
    np.testing.assert_array_equal(imageio.read_images("a.zarr", channels=2), image)
    command = ["export", f"{address}/labels/cells", "b.zarr", "--to", "napari", "--image", address]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.endswith("open: napari --plugin napari-ome-zarr b.zarr\n")
    np.testing.assert_array_equal(imageio.read_images("b.zarr/labels/cells")[0], labels)


def test_only_the_chunks_of_a_region_are_fetched(server, tmp_path, monkeypatch):
    image = drawn((1, 1, 2000, 2000))
    write(tmp_path / "bucket" / "a.zarr", image, "0.4")
    fetched = []
    monkeypatch.setattr(Served, "log_message", lambda self, *_: fetched.append(self.path))
    with imageio.open_images(f"{server}/a.zarr") as opened:
        region = opened.read(0, slice(1990, 2000), slice(0, 10))
    np.testing.assert_array_equal(region, image[:, 0, 1990:, :10])
    size = zarr.open_array(tmp_path / "bucket/a.zarr/0", mode="r").chunks[0]
    chunks = [path for path in fetched if path.startswith("/bucket/a.zarr/0/") and "/." not in path]
    assert {path.removeprefix("/bucket/a.zarr/0/") for path in chunks} == {f"{1999 // size}/0"}


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("SERVER/none.zarr", "there is no group or array of Zarr at this address"),
        ("SERVER/a.tif", "only OME-Zarr is read from addresses"),
        ("http://127.0.0.1:9/a.zarr", "Check the address and the network"),
        ("gs://bucket/a.zarr", "expected an address with https:// or s3://"),
    ],
)
def test_addresses_that_cannot_be_copied(server, tmp_path, monkeypatch, capsys, address, part):
    monkeypatch.setattr("pipeline_lib.imageio.remote._TRIES", 0)
    address = address.replace("SERVER", server)
    assert cli.main(["export", address, str(tmp_path / "b.zarr"), "--to", "ome-zarr"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {address}") and part in error and "Debug" not in error
    assert sorted(os.listdir(tmp_path)) == ["bucket"]


@pytest.mark.parametrize("path", ["https:/server/a.zarr", "data/https:/server/a.zarr"])
def test_other_commands_say_how_to_copy(path):
    with pytest.raises(InputError, match=r"https://server/a.zarr: .*\nbordure export https://server/a.z"):
        imageio.inspect(path)


class TestWhatWouldBeLost:
    """Exports never replace their source, or what bordure did not write."""

    def test_a_copy_needs_a_name_of_its_own(self, tmp_path, capsys):
        path = write(tmp_path / "a.zarr", drawn((1, 1, 20, 30)), labels=drawn((1, 20, 30)))
        assert cli.main(["export", str(path), "--to", "ome-zarr"]) == 1
        assert "a_copy.zarr" in capsys.readouterr().err
        for source, out in (
            ("a.zarr", "a.zarr"),
            ("a.zarr/labels/cells", "a.zarr"),
            ("a.zarr", "a.zarr/b.zarr"),
        ):
            with pytest.raises(InputError, match="is the source itself, which would be lost"):
                export_omezarr(tmp_path / source, tmp_path / out)
        assert (path / "labels/cells").is_dir()

    def test_folders_of_others_stay(self, tmp_path):
        imageio.write_images(tmp_path / "a.tif", drawn((1, 1, 20, 30))[0])
        zarr.create_group(tmp_path / "plate.zarr")
        with pytest.raises(InputError, match="bordure did not write it"):
            export_omezarr(tmp_path / "a.tif", tmp_path / "plate.zarr")

    @pytest.mark.parametrize("version", ["0.5", "0.4"])
    def test_its_own_folder_is_replaced(self, tmp_path, version):
        imageio.write_images(tmp_path / "a.tif", drawn((1, 1, 20, 30))[0])
        path = write(tmp_path / "b.zarr", drawn((2, 2, 600, 700)), version, labels=drawn((2, 600, 700)))
        (path / "0/@eaDir").mkdir()
        for name in (".DS_Store", "labels/cells/.DS_Store", "0/@eaDir/a"):
            (path / name).write_text("written by a desktop")
        export_omezarr(tmp_path / "a.tif", path, version=version)
        assert not (path / "labels").exists()

    @pytest.mark.parametrize("version", ["0.5", "0.4"])
    @pytest.mark.parametrize(
        "name", ["labels/by_hand", "tables", "notes.txt", "labels/cells/tables", "0/old.npy", "1.txt", "raw"]
    )
    def test_what_others_added_stays(self, tmp_path, version, name):
        imageio.write_images(tmp_path / "a.tif", drawn((1, 1, 20, 30))[0])
        path = write(tmp_path / "c.zarr", drawn((1, 1, 20, 30)), version, labels=drawn((1, 20, 30)))
        if "." in name:
            (path / name).write_text("important")
        else:
            shutil.copytree(path / "labels/cells", path / name)
        with pytest.raises(InputError, match=rf"bordure did not write \({name}\), which would be lost"):
            export_omezarr(tmp_path / "a.tif", path)
        assert (path / name).exists()

    def test_what_a_killed_export_left_is_cleared(self, tmp_path):
        imageio.write_images(tmp_path / "a.tif", drawn((1, 1, 20, 30))[0])
        path = write(tmp_path / "a.zarr", drawn((1, 1, 20, 30), seed=9))
        path.rename(tmp_path / ".a.old-123")
        (tmp_path / ".a.partial-124").mkdir()
        with pytest.raises(KeyboardInterrupt), writing_omezarr(path):
            raise KeyboardInterrupt
        assert sorted(os.listdir(tmp_path)) == ["a.tif", "a.zarr"]
        np.testing.assert_array_equal(imageio.read_images(path), drawn((1, 1, 20, 30), seed=9))

    def test_a_link_stays(self, tmp_path):
        imageio.write_images(tmp_path / "a.tif", drawn((1, 1, 20, 30))[0])
        write(tmp_path / "there.zarr", drawn((1, 1, 20, 30), seed=9))
        (tmp_path / "a.zarr").symlink_to(tmp_path / "there.zarr")
        export_omezarr(tmp_path / "a.tif", tmp_path / "a.zarr")
        assert (tmp_path / "a.zarr").is_symlink()
        np.testing.assert_array_equal(imageio.read_images(tmp_path / "there.zarr"), drawn((1, 1, 20, 30)))


@pytest.mark.parametrize(
    "address", ["http://user:geheim@127.0.0.1:9/a.zarr", "https://server/a.zarr?token=geheim"]
)
def test_secrets_are_neither_printed_nor_stored(tmp_path, capsys, address):
    assert cli.main(["export", address, str(tmp_path / "b.zarr"), "--to", "ome-zarr"]) == 1
    assert "geheim" not in capsys.readouterr().err
    with pytest.raises(InputError, match="found an address") as raised:
        imageio.inspect(Path("data", address))
    assert "geheim" not in str(raised.value) and "user" not in str(raised.value)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.longlong, np.uint32])
def test_large_integers_keep_their_values_in_all_levels(tmp_path, dtype):
    value = np.iinfo(np.uint32).max if dtype == np.uint32 else 2**40
    path = write(tmp_path / "a.zarr", np.full((1, 1, 600, 600), value, dtype))
    for level in range(2):
        assert (zarr.open_array(path / str(level), mode="r")[:] == value).all()


def test_cells_that_continue_through_sections_keep_their_numbers(tmp_path, capsys):
    labels = np.zeros((3, 20, 30), np.uint16)
    labels[:, 2:8, 2:8], labels[1:, 10:18, 12:20] = 5, 7
    imageio.write_labels(tmp_path / "a_labels.tif", labels)
    imageio.write_images(tmp_path / "a.tif", drawn((1, 3, 20, 30))[0])
    command = ["export", str(tmp_path / "a_labels.tif"), str(tmp_path / "a.zarr"), "--to", "napari"]
    assert cli.main([*command, "--image", str(tmp_path / "a.tif")]) == 0
    said = capsys.readouterr().out
    assert "2 cells in labels/cells" in said and "cells continue through sections" in said
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.zarr/labels/cells")[0], labels)


def test_sections_of_a_time_series_have_no_distance(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
    group.create_array("0", shape=(3, 1, 20, 30), dtype="u1", dimension_names=[*"tzyx"])
    axes = [{"name": "t", "type": "time"}] + [
        {"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"
    ]
    scale = [{"type": "scale", "scale": [1.0, 2.0, 0.5, 0.5]}]
    level = {"path": "0", "coordinateTransformations": scale}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [level]}]}
    info = imageio.inspect(tmp_path / "a.zarr")
    assert (info.sections, info.pixel_size, info.section_spacing) == (3, (0.5, 0.5), None)


class TestTimeSeries:
    """Frames are written along t, and read as sections."""

    @pytest.mark.parametrize("version", ["0.5", "0.4"])
    @pytest.mark.parametrize("channels", [1, 2])
    def test_frames_have_an_axis_of_time(self, tmp_path, version, channels):
        image = drawn((channels, 3, 600, 700))
        tifffile.imwrite(
            tmp_path / "a.tif",
            image.swapaxes(0, 1),
            imagej=True,
            resolution=(4.0, 2.0),
            metadata={"axes": "TCYX", "unit": "um", "spacing": 3.0, "finterval": 1.5, "tunit": "min"},
        )
        export_omezarr(tmp_path / "a.tif", tmp_path / "a.zarr", version=version)
        before, after = (imageio.inspect(tmp_path / name) for name in ("a.tif", "a.zarr"))
        assert (after.shape, after.frames, after.frame_interval) == (image.shape, True, 90.0)
        assert (before.frames, before.frame_interval) == (True, 90.0)
        assert (after.pixel_size, after.section_spacing) == ((0.5, 0.25), None)
        np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.zarr", channels=channels), image)
        (pyramid,) = metadata(tmp_path / "a.zarr")["multiscales"]
        space = {"type": "space", "unit": "micrometer"}
        assert pyramid["axes"] == [
            {"name": "t", "type": "time", "unit": "second"},
            *([{"name": "c", "type": "channel"}] if channels > 1 else []),
            {"name": "y"} | space,
            {"name": "x"} | space,
        ]
        assert pyramid["datasets"][1]["coordinateTransformations"][0]["scale"] == [
            90.0,
            *([1.0] if channels > 1 else []),
            1.0,
            0.5,
        ]
        expected = np.rint(image.reshape(channels, 3, 300, 2, 350, 2).mean((3, 5))).swapaxes(0, 1).squeeze()
        level = zarr.open_array(tmp_path / "a.zarr/1", mode="r")
        np.testing.assert_array_equal(level[:], expected)
        if version == "0.5":
            assert "".join(level.metadata.dimension_names) == ("tcyx" if channels > 1 else "tyx")

    @pytest.mark.parametrize("of_image, of_labels", [("TYX", "ZYX"), ("ZYX", "TYX")])
    def test_labels_have_the_axes_of_their_image(self, tmp_path, of_image, of_labels):
        labels = stack_of_cells()
        size = {"unit": "um", "spacing": 3.0}
        for name, array, axes in (("image", drawn(labels.shape), of_image), ("labels", labels, of_labels)):
            tifffile.imwrite(
                tmp_path / f"{name}.tif",
                array,
                imagej=True,
                resolution=(4, 4),
                metadata={"axes": axes} | size,
            )
        export_omezarr(tmp_path / "labels.tif", tmp_path / "a.zarr", image=tmp_path / "image.tif")
        for group in ("", "labels/cells"):
            (pyramid,) = metadata(tmp_path / "a.zarr" / group)["multiscales"]
            assert "".join(axis["name"] for axis in pyramid["axes"]) == of_image.lower()
            first = {"name": "t", "type": "time"}  # its interval is not known
            if of_image == "ZYX":
                first = {"name": "z", "type": "space", "unit": "micrometer"}
            assert pyramid["axes"][0] == first
            (scale,) = pyramid["datasets"][0]["coordinateTransformations"]
            assert scale["scale"] == [1.0 if of_image == "TYX" else 3.0, 0.25, 0.25]
        np.testing.assert_array_equal(
            imageio.read_images(tmp_path / "a.zarr/labels/cells")[0] > 0, labels > 0
        )

    @pytest.mark.parametrize("of_image, of_labels", [(2.0, 5.0), (None, 5.0)])
    def test_an_interval_that_the_image_does_not_state_is_that_of_its_labels(
        self, tmp_path, of_image, of_labels
    ):
        labels = stack_of_cells()
        for name, array, interval in (
            ("image", drawn(labels.shape), of_image),
            ("labels", labels, of_labels),
        ):
            stated = {"finterval": interval} if interval else {}
            tifffile.imwrite(tmp_path / f"{name}.tif", array, imagej=True, metadata={"axes": "TYX"} | stated)
        export_omezarr(tmp_path / "labels.tif", tmp_path / "a.zarr", image=tmp_path / "image.tif")
        for group in ("a.zarr", "a.zarr/labels/cells"):
            assert imageio.inspect(tmp_path / group).frame_interval == (of_image or of_labels)

    def test_time_and_depth_are_refused(self, tmp_path):
        tifffile.imwrite(tmp_path / "a.tif", drawn((2, 3, 20, 30)), imagej=True, metadata={"axes": "TZYX"})
        with pytest.raises(InputError, match=r"axes TZCYXS .* are ambiguous"):
            export_omezarr(tmp_path / "a.tif", tmp_path / "a.zarr")


def test_init_of_an_address_says_how_to_copy(capsys):
    assert cli.main(["init", "https://server/a.zarr"]) == 1
    assert "bordure export https://server/a.zarr a.zarr --to ome-zarr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "output"),
    [
        (".", "{folder}.zarr"),
        ("../scan 0.5um", "{folder}.zarr"),
        ("*.tif", "{folder}.zarr"),
        ("../scan 0.5um/*_1.tif", "{folder}.zarr"),
        ("a_1.tif", "a_1.zarr"),
    ],
)
def test_the_output_has_the_name_of_the_file_or_folder(tmp_path, monkeypatch, capsys, source, output):
    folder = tmp_path / "scan 0.5um"
    folder.mkdir()
    for name in ("a_1.tif", "b_1.tif"):
        tifffile.imwrite(folder / name, np.ones((8, 9), np.uint8))
    monkeypatch.chdir(folder)
    assert cli.main(["export", source, "--to", "ome-zarr"]) == 0
    assert (folder / output.format(folder=folder) / "zarr.json").exists()
