"""Written files contain the given values, in types and strips that other programs can read."""

import tracemalloc

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import gray
from PIL import Image

from pipeline_lib import imageio, layout
from pipeline_lib.imageio.writing import needs_bigtiff
from pipeline_lib.runtime.files import write_json
from pipeline_lib.stages.dataset import build_dataset
from pipeline_lib.stages.segmentation import segment, write_tiffs


@pytest.mark.parametrize(
    ("maximum", "dtype"), ((1, "uint16"), (2**16 - 1, "uint16"), (2**16, "uint32"), (2**32 - 1, "uint32"))
)
def test_labels_come_back_with_axes_and_the_smallest_type(tmp_path, maximum, dtype):
    labels = np.random.default_rng(0).integers(0, maximum, (3, 20, 30), endpoint=True).astype(np.uint32)
    labels[1, 2, 3] = maximum
    with h5py.File(tmp_path / "a.h5", "w") as file:  # an HDF5 dataset is accepted like an array
        imageio.write_labels(tmp_path / "labels.tif", file.create_dataset("labels", data=labels))
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        series, page = tiff.series[0], tiff.pages[0]
        assert (series.axes, series.dtype, series.shape) == ("ZYX", dtype, (3, 20, 30))
        # ImageJ's own reader needs zlib without predictor, strips, and no description in its own format
        assert page.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert (page.predictor, page.is_tiled) == (1, False)
        assert not tiff.is_imagej and "images=" not in page.description
        assert len(tiff.pages) == 3
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "labels.tif")[0], labels)


def test_probabilities_and_images_come_back(tmp_path):
    p = np.random.default_rng(0).random((2, 9, 8), np.float32)
    imageio.write_probability(tmp_path / "p.tif", p)
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "p.tif")[0], p)
    imageio.write_images(tmp_path / "i.tif", gray((1, 9, 8)))
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "i.tif")[0], gray((1, 9, 8)))


@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.25)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_channels_come_back_with_their_pixel_size(tmp_path, pixel_size, dtype):
    image = np.arange(3 * 9 * 8).reshape(3, 9, 8).astype(dtype)
    imageio.write_channels(tmp_path / "a.tif", image, pixel_size=pixel_size)
    with imageio.open_images(tmp_path / "a.tif", channels=3) as found:
        assert found.info.pixel_size == pixel_size and found.info.dtype == dtype
        np.testing.assert_array_equal(found.read(0, slice(0, 9), slice(0, 8)), image)


@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.5)])
def test_classes_have_colours_and_names_and_stay_numbers(tmp_path, pixel_size):
    classes = np.random.default_rng(0).integers(0, 3, (2, 20, 30)).astype(np.uint8)
    named = {"names": ["background", "cell", "Ränder"], "colours": ["#000000", "#56b4e9", "#E69F00"]}
    path = tmp_path / "c.tif"
    imageio.write_classes(path, classes, **named, pixel_size=pixel_size)
    np.testing.assert_array_equal(tifffile.imread(path), classes)
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:  # ImageJ reads the palette of the first page, other programs that of each
            assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
            assert page.colormap[:, 1].tolist() == [0x5656, 0xB4B4, 0xE9E9]
            assert not page.colormap[:, 3:].any()
        description = tiff.pages[0].description
        assert "0 background #000000, 1 cell #56b4e9, 2 R" in description
        if pixel_size:  # otherwise ImageJ would stretch the palette to the values of the image
            assert tiff.imagej_metadata["min"] == 0 and tiff.imagej_metadata["max"] == 255
    with Image.open(path) as image:
        assert image.mode == "P" and np.array_equal(np.array(image), classes[0])
        shown = np.array(image.convert("RGB"))
    assert {*map(tuple, shown[classes[0] == 2].tolist())} == {(0xE6, 0x9F, 0)}
    # bordure itself reads the numbers, as annotation and as prediction
    settings = {"kind": "classes", "classes": {"background": 0, "cell": 1, "border": 2}}
    with imageio.open_annotation(path, **settings) as regions:
        assert np.array_equal(regions.read(1, slice(None), slice(None)) == 1, classes[1] == 1)
    assert np.array_equal(imageio.read_prediction(path, kind="classes").array, classes > 0)


@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.25)])
@pytest.mark.parametrize("largest", [300, 70_000])
@pytest.mark.parametrize("interval", [2.5, 0.0, None])
def test_time_series_stay_time_series(tmp_path, pixel_size, largest, interval):
    labels = np.full((3, 20, 30), largest, np.uint32)
    imageio.write_labels(tmp_path / "a.tif", labels, pixel_size=pixel_size, frame_interval=interval)
    info = imageio.inspect(tmp_path / "a.tif")
    assert (info.frames, info.frame_interval) == (interval is not None, interval or None)
    assert (info.sections, info.pixel_size) == (3, pixel_size)


def test_results_of_a_time_series_are_one(tmp_path):
    gray = np.random.default_rng(0).integers(0, 255, (3, 40, 50), np.uint8)
    described = {"axes": "TYX", "finterval": 2.0}
    tifffile.imwrite(tmp_path / "a.tif", gray, imagej=True, metadata=described)
    build_dataset(tmp_path / "a.tif", None, tmp_path / "d.h5")
    info = imageio.inspect(f"{tmp_path}/d.h5:/raw")
    assert (info.frames, info.frame_interval) == (True, 2.0)
    with layout.require(tmp_path / "d.h5") as source, layout.create(tmp_path / "p.h5", {}) as file:
        layout.add(file, layout.CELL_PROBABILITY, gray.shape)[:] = gray / 255
        layout.copy_pixel_size(source, file)
    write_json(tmp_path / "t.json", {"threshold": 0.5, "minimum_size": 0})
    segment(tmp_path / "p.h5", tmp_path / "t.json", tmp_path / "s.h5")
    write_tiffs(tmp_path / "s.h5", tmp_path / "p.h5", tmp_path / "l.tif", tmp_path / "c.tif")
    for name in ("l.tif", "c.tif"):
        info = imageio.inspect(tmp_path / name)
        assert (info.frames, info.frame_interval) == (True, 2.0)


def test_a_failed_write_keeps_the_previous_file(tmp_path):
    class Broken:
        shape, dtype = (2, 4, 4), np.dtype(np.float32)

        def __getitem__(self, index):
            if index[0] == 1:
                raise RuntimeError("the source disappeared")
            return np.zeros((4, 4), np.float32)

    (tmp_path / "p.tif").write_bytes(b"previous result")
    with pytest.raises(RuntimeError):
        imageio.write_probability(tmp_path / "p.tif", Broken())
    assert [path.name for path in tmp_path.iterdir()] == ["p.tif"]
    assert (tmp_path / "p.tif").read_bytes() == b"previous result"


@settings(max_examples=40)
@given(st.integers(1, 3), st.integers(1, 400), st.integers(2, 300), st.sampled_from(("u1", "u2", "f4")))
def test_any_shape_is_read_back_exactly(tmp_path_factory, sections, height, width, dtype):
    """Heights are no multiple of strips or bands; pages have one strip or many."""
    path = tmp_path_factory.mktemp("shape") / "a.tif"
    stack = np.random.default_rng(height).integers(0, 200, (sections, height, width)).astype(dtype)
    imageio.write_images(path, stack)
    np.testing.assert_array_equal(tifffile.imread(path).reshape(stack.shape), stack)


def test_a_wide_section_is_written_in_many_strips_that_pillow_reads(tmp_path):
    stack = np.random.default_rng(0).integers(0, 2**16, (1, 300, 9000), np.uint16)
    imageio.write_images(tmp_path / "a.tif", stack)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].rowsperstrip == 8
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.tif")), stack[0])


class Computed:
    """A stack whose values are computed when they are read. It records the largest region that was read."""

    def __init__(self, shape):
        self.shape, self.most, self.read = shape, 0, 0

    def __getitem__(self, index):
        z, rows, columns = index
        y, x = np.ogrid[rows, columns]
        self.most, self.read = max(self.most, y.size * x.size), self.read + y.size * x.size
        return (z * 7 + y * 5 + x // 100).astype(np.uint32)


def test_a_computed_stack_is_never_completely_in_memory(tmp_path):
    stack = Computed((2, 5000, 1000))
    tracemalloc.start()
    imageio.write_labels(tmp_path / "a.tif", stack)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert stack.most <= 128 * 1000 and stack.read == 2 * 5000 * 1000  # each pixel once
    assert peak < 4 * 2**20 < 2 * 2 * 5000 * 1000
    whole = np.stack([stack[z, 0:5000, 0:1000] for z in range(2)])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), whole)


def test_one_label_too_large_for_uint16_makes_all_uint32(tmp_path):
    """The label is in the last rows, when most of the file has been written as uint16."""
    stack = Computed((1, 13_110, 3))
    expected = stack[0, 0:13_110, 0:3]
    imageio.write_labels(tmp_path / "a.tif", stack)
    assert (expected > 2**16 - 1).sum() == 3 * 2
    (read,) = tifffile.imread(tmp_path / "a.tif")
    assert read.dtype == np.uint32
    np.testing.assert_array_equal(read, expected)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_the_same_stack_gives_the_same_bytes(tmp_path):
    for name in "ab":
        imageio.write_probability(tmp_path / name, np.random.default_rng(0).random((2, 300, 40)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_bigtiff_only_if_four_gigabytes_may_not_suffice(tmp_path):
    assert not needs_bigtiff((1, 32768, 32768), np.uint8)
    assert not needs_bigtiff((1, 32768, 32768), np.uint16)
    assert needs_bigtiff((1, 32768, 32768), np.float32)
    assert needs_bigtiff((4, 32768, 32760), np.uint8)  # the pixels fit, but not the tables
    imageio.write_images(tmp_path / "a.tif", gray((1, 9, 8)))
    assert (tmp_path / "a.tif").read_bytes()[2] == 42  # version number of TIFF; that of BigTIFF is 43
