"""The meaning of the values of an annotation is inferred and reported, or the message names the next step."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from image_files import DTYPES, drawn_cells, instances
from scipy import ndimage

from pipeline_lib import imageio
from pipeline_lib.imageio import open_images
from pipeline_lib.imageio.annotation import _count_values, _share_in_areas
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.errors import InputError

DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them"
)


def annotation(tmp_path, array, photometric="minisblack", **settings):
    tifffile.imwrite(tmp_path / "annotation.tif", array, photometric=photometric)
    return imageio.read_annotation(tmp_path / "annotation.tif", **settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("white", (1, 100))
def test_two_values_are_black_membranes_in_any_type(tmp_path, dtype, white):
    cells = drawn_cells() > 0
    found = annotation(tmp_path, (cells * white).astype(dtype))
    assert (found.kind, found.array.dtype) == ("membranes", np.uint8)
    np.testing.assert_array_equal(found.array[0], cells)
    assert (
        f"values 0 and {int(dtype(white))}: black membranes, cells cover 66.0% of the pixels"
        in found.description
    )
    assert "inferred" in found.description and "white_membranes" not in found.description


def test_white_membranes_need_a_setting_which_auto_suggests(tmp_path):
    cells = drawn_cells() > 0
    found = annotation(tmp_path, np.where(cells, 0, 255).astype(np.uint8), kind="white_membranes")
    np.testing.assert_array_equal(found.array[0], cells)
    assert "white membranes" in found.description and "inferred" not in found.description
    read_as_black = annotation(tmp_path, np.where(cells, 0, 255).astype(np.uint8))
    np.testing.assert_array_equal(read_as_black.array[0], ~cells)
    assert "`dataset.annotation_kind: white_membranes`" in read_as_black.description


@pytest.mark.parametrize("kind", ("auto", "black_membranes", "white_membranes"))
def test_black_and_white_are_what_fiji_displays(tmp_path, kind):
    """A mask of Fiji with an inverting LUT stores 255 for black."""
    cells = drawn_cells() > 0
    white = ~cells if kind == "white_membranes" else cells
    mask = np.where(white, 0, 255).astype(np.uint8)
    found = annotation(tmp_path, mask, photometric="miniswhite", kind=kind)
    np.testing.assert_array_equal(found.array[0], cells)
    assert "0 is displayed as white" in found.description


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32))
def test_labels_are_kept_as_unsigned_integers(tmp_path, dtype):
    labels = instances().astype(dtype)
    for kind in ("auto", "instances"):
        found = annotation(tmp_path, labels, kind=kind)
        assert found.kind == "instances" and found.array.dtype.kind == "u"
        np.testing.assert_array_equal(found.array[0], labels)
        assert "16 values from 1 to 16" in found.description
        assert ("inferred" in found.description) == (kind == "auto")


def test_labels_are_never_inverted(tmp_path):
    found = annotation(tmp_path, instances(), photometric="miniswhite")
    np.testing.assert_array_equal(found.array[0], instances())


def test_a_single_cell_needs_the_kind_instances(tmp_path):
    one = (instances() == 6).astype(np.uint8)
    assert annotation(tmp_path, one).kind == "membranes"
    found = annotation(tmp_path, one, kind="instances")
    assert found.kind == "instances" and found.array.sum() == one.sum()


def test_labels_that_tile_the_section_without_background(tmp_path):
    y, x = np.mgrid[:32, :32]
    assert annotation(tmp_path, (1 + y // 8 * 4 + x // 8).astype(np.uint8)).kind == "instances"
    halves = (1 + y // 16).astype(np.uint8)
    with pytest.raises(InputError, match="found two values, 1 and 2; one of them must be 0"):
        annotation(tmp_path, halves)
    assert annotation(tmp_path, halves, kind="instances").array.max() == 2


@pytest.mark.parametrize("value", (0, 1, 255))
@pytest.mark.parametrize("kind", imageio.ANNOTATION_KINDS)
def test_an_annotation_of_one_value(tmp_path, value, kind):
    with pytest.raises(InputError, match=f"every pixel of the annotation is {value}; expected"):
        annotation(tmp_path, np.full((2, 8, 8), value, np.uint8), kind=kind)


def test_only_the_selected_sections_count(tmp_path):
    stack = np.stack([drawn_cells(), np.zeros((64, 64), np.uint8)])
    with pytest.raises(InputError, match="every pixel of the annotation is 0"):
        annotation(tmp_path, stack, sections="1")
    assert annotation(tmp_path, stack, sections="0").array.shape == (1, 64, 64)


SPOILED = {
    "blurred": lambda cells: ndimage.gaussian_filter(cells, 0.7),
    "enlarged": lambda cells: ndimage.zoom(cells, 2.5, order=1),
    "reduced": lambda cells: ndimage.zoom(cells, 0.6, order=1),
    "rotated": lambda cells: ndimage.rotate(cells, 10, order=1, reshape=False),
    "lossy": lambda cells: cells + np.random.default_rng(0).normal(0, 2, cells.shape),
}


def test_a_very_narrow_cell_is_accepted_with_the_kind_instances(tmp_path):
    narrow = np.zeros((20, 24), np.uint16)
    narrow[2:10, 2:9], narrow[2:10, 9] = 1, 2
    assert annotation(tmp_path, narrow, kind="instances").array.max() == 2
    with pytest.raises(InputError, match="gray levels"):
        annotation(tmp_path, narrow)


def test_a_dim_and_smooth_image_is_not_an_annotation(tmp_path):
    """With few gray levels many neighbours are equal, but they do not form areas like labels."""
    noise = np.random.default_rng(0).normal(0, 0.5, (64, 64))
    dim = (ndimage.gaussian_filter(drawn_cells() / 255, 3) * 30 + noise).round().clip(0).astype(np.uint8)
    for kind in ("auto", "instances"):
        with pytest.raises(InputError, match="gray levels, not an annotation"):
            annotation(tmp_path, dim, kind=kind)


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("kind", imageio.ANNOTATION_KINDS)
def test_gray_levels_raise_an_error_with_their_histogram(tmp_path, spoil, kind):
    spoiled = spoil(drawn_cells().astype(float)).round().clip(0, 255).astype(np.uint8)
    histogram = r"\d+ values, 0 to 31\.875: \d+\.\d+%.*to 255: \d+\.\d+%"
    with pytest.raises(InputError, match=f"{histogram}.*Threshold"):
        annotation(tmp_path, spoiled, kind=kind)


def test_fractions_and_negative_numbers_raise_an_error(tmp_path):
    with pytest.raises(InputError, match=r"negative, fractional or too large values .*127\.5: .*Fiji"):
        annotation(tmp_path, drawn_cells() / np.float32(2))
    with pytest.raises(InputError, match=r"negative, fractional or too large values .*-255: .*Fiji"):
        annotation(tmp_path, drawn_cells().astype(np.int16) - 255)
    with pytest.raises(InputError, match=r"negative, fractional or too large values .*9\.22337e\+18"):
        annotation(tmp_path, drawn_cells().astype(np.uint64) // 255 + 2**63)


def test_classes_are_not_mistaken_for_cells(tmp_path):
    cells = drawn_cells(256)
    classes = np.where(cells == 0, 0, np.where(np.arange(256) < 128, 1, 2)).astype(np.uint8)
    with pytest.raises(InputError, match=r"2 values other than 0 .*separate areas each, like classes"):
        annotation(tmp_path, classes)
    assert annotation(tmp_path, classes, kind="instances").kind == "instances"


def test_the_message_for_membranes_with_a_third_value_suggests_instances(tmp_path):
    with pytest.raises(InputError, match=r"black_membranes` expects two values.*annotation_kind: instances`"):
        annotation(tmp_path, instances(), kind="black_membranes")
    with pytest.raises(InputError, match="expects two values"):
        annotation(tmp_path, drawn_cells() // 255 + 1, kind="white_membranes")


def test_unknown_kind(tmp_path):
    with pytest.raises(InputError, match="annotation_kind`: found membrane, expected one of auto, black_mem"):
        annotation(tmp_path, drawn_cells(), kind="membrane")


# --------------------------------------------------------------------------------------------- block by block


def outcome(path, **settings):
    """Kind, description and pixels of an annotation, read block by block; or the error message."""
    try:
        with imageio.open_annotation(path, **settings) as regions:
            array = np.zeros(regions.shape, regions.dtype)
            for z in range(len(array)):
                for part in blocks(array.shape[1:], settings["block"]):
                    array[z, *part.write] = regions.read(z, *part.write)
            return regions.kind, regions.description, array.dtype, array.tolist()
    except InputError as error:
        return str(error)


def patches(draw, shape, values):
    """Overlapping rectangles of few values: areas, slivers and single pixels."""
    stack = np.full(shape, draw(st.sampled_from(values)))
    for _ in range(draw(st.integers(0, 12))):
        z, y, x = (draw(st.integers(0, n - 1)) for n in shape)
        height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        stack[z, y : y + height, x : x + width] = draw(st.sampled_from(values))
    return stack


@given(data=st.data())
def test_what_is_inferred_does_not_depend_on_the_blocks(tmp_path_factory, data):
    shape = tuple(data.draw(st.integers(*range_)) for range_ in ((1, 2), (2, 30), (2, 30)))
    dtype = data.draw(st.sampled_from((np.uint8, np.int8, np.int16, np.uint32, np.int64, np.float32)))
    far = [2**31, 2**32 - 1] if dtype in (np.uint32, np.int64) else []
    values = data.draw(st.lists(st.sampled_from([0, 0, 1, 2, 100, 127, *far]), min_size=1, max_size=6))
    stack = patches(data.draw, shape, values).astype(dtype)
    path = tmp_path_factory.mktemp("annotation") / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", rowsperstrip=4, compression="zlib")
    kind = data.draw(st.sampled_from(imageio.ANNOTATION_KINDS))
    whole = outcome(path, kind=kind, block=10**6)
    assert outcome(path, kind=kind, block=data.draw(st.integers(1, 31))) == whole
    if not isinstance(whole, str):
        read = imageio.read_annotation(path, kind=kind)
        assert (read.kind, read.description, read.array.tolist()) == (*whole[:2], whole[3])
        expected = stack if read.kind == "instances" else (stack == 0) == (kind == "white_membranes")
        np.testing.assert_array_equal(read.array, expected)


@given(data=st.data())
def test_values_are_counted_and_areas_measured_as_on_the_whole(tmp_path_factory, data):
    """Compare with the definitions, pixel by pixel: a pixel lies in a 2 x 2 square of its value, or not."""
    shape = tuple(data.draw(st.integers(*range_)) for range_ in ((1, 2), (2, 12), (2, 12)))
    stack = patches(data.draw, shape, [0, 1, 5, 2**31 + 7, 2**31 + 9]).astype(np.uint32)
    path = tmp_path_factory.mktemp("annotation") / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack")
    block = data.draw(st.integers(1, 13))
    with open_images(path) as images:
        values, counts = _count_values(images, block)
        expected = np.unique(stack, return_counts=True)
        assert (values.tolist(), counts.tolist()) == tuple(part.tolist() for part in expected)
        common = values[np.argsort(counts)[-2:]]
        others = inside = 0
        for z, y, x in np.ndindex(shape):
            if stack[z, y, x] not in common:
                others += 1
                corners = ((b, a) for b in (y - 1, y) for a in (x - 1, x) if min(a, b) >= 0)
                squares = [stack[z, b : b + 2, a : a + 2] for b, a in corners]
                inside += any(square.size == 4 and (square == stack[z, y, x]).all() for square in squares)
        if others:
            assert _share_in_areas(images, common, block) == inside / others


def test_many_labels_are_counted(tmp_path):
    """60,000 labels of 16 px, each in several blocks."""
    y, x = np.mgrid[:960, :1000]
    labels = (1 + y // 4 * 250 + x // 4).astype(np.uint32) * 1000
    tifffile.imwrite(tmp_path / "a.tif", labels)
    with open_images(tmp_path / "a.tif") as images:
        values, counts = _count_values(images, 300)
    assert len(values) == 60_000 and set(counts.tolist()) == {16}


def test_more_labels_than_can_be_counted_raise_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_lib.imageio.annotation._MOST_LABELS", 1000)
    with pytest.raises(InputError, match=r"\.tif: found more than 1,000 different values, the limit for one"):
        annotation(tmp_path, np.arange(64 * 64, dtype=np.uint32).reshape(64, 64))
    assert annotation(tmp_path, instances()).array.max() == 16


def test_memory_does_not_grow_with_the_annotation(tmp_path):
    drawn = np.tile(drawn_cells(128), (1, 16, 16))
    tifffile.imwrite(tmp_path / "a.tif", drawn, photometric="minisblack", compression="zlib", rowsperstrip=16)
    tracemalloc.start()
    with imageio.open_annotation(tmp_path / "a.tif", block=128) as regions:
        for part in blocks(regions.shape[1:], 128):
            regions.read(0, *part.read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 2**20 < drawn.nbytes / 2


def test_classes_are_detected_in_the_corner_of_the_first_section(tmp_path):
    """Beyond its first 2048 x 2048 px, areas are not counted."""
    labels = np.zeros((12, 2500), np.uint8)
    labels[2:6, :2048], labels[7:, :2048] = 1, 2
    labels[:, 2100:2499:4], labels[:, 2101:2499:4] = 2, 2
    assert annotation(tmp_path, labels).kind == "instances"
    with pytest.raises(InputError, match="like classes"):
        annotation(tmp_path, labels[:, 400:])


# -------------------------------------------------------------------------------------------------- real data


@needs_data
def test_isbi_2012_is_read_as_membranes():
    images = imageio.read_images(DATA / "isbi2012/train-volume.tif", sections="20-23")
    truth = imageio.read_annotation(DATA / "isbi2012/train-labels.tif", sections="20-23")
    assert images.shape == (1, 4, 512, 512) and images.dtype == np.uint8
    assert truth.kind == "membranes" and 0.7 < truth.array.mean() < 0.85
    assert "black membranes" in truth.description and "white_membranes" not in truth.description
    assert images[0][truth.array == 1].mean() > images[0][truth.array == 0].mean() + 30


@needs_data
def test_isbi_2012_raw_is_not_an_annotation():
    with pytest.raises(InputError, match="gray levels, not an annotation"):
        imageio.read_annotation(DATA / "isbi2012/train-volume.tif", sections="0")


@needs_data
def test_nuclei_are_read_as_instances_and_their_images_are_not_an_annotation():
    labels = sorted((DATA / "nuclei/labels").glob("*.tif"))
    assert len(labels) == 60
    for path in labels:
        truth = imageio.read_annotation(path)  # "auto" agrees with the config
        assert truth.kind == "instances" and truth.array.max() == tifffile.imread(path).max()
        with pytest.raises(InputError, match="gray levels"):
            imageio.read_annotation(DATA / "nuclei/images" / path.name, kind="instances")
