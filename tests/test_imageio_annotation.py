"""The meaning of the values of an annotation is inferred and reported, or the message names the next step."""

import os
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from image_files import DTYPES, drawn_cells, instances
from scipy import ndimage
from skimage.morphology import skeletonize
from skimage.segmentation import clear_border, find_boundaries

from pipeline_lib import imageio
from pipeline_lib.imageio import meaning, regions
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.kernels.components import connected_components
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
    assert (found.kind, found.labels.dtype) == ("membranes", np.uint32)
    np.testing.assert_array_equal(found.labels[0], connected_components(cells))
    assert (
        f"values 0 and {int(dtype(white))}: black membranes or background, cells cover 66.0% of the pixels"
        in found.description
    )
    assert "inferred" in found.description and "white_membranes" not in found.description


def test_white_membranes_are_recognised_by_their_shape(tmp_path):
    cells = drawn_cells() > 0
    inverted = np.where(cells, 0, 255).astype(np.uint8)
    for kind in ("auto", "white_membranes"):
        found = annotation(tmp_path, inverted, kind=kind)
        np.testing.assert_array_equal(found.labels[0], connected_components(cells))
        assert "white membranes" in found.description and ("inferred" in found.description) == (
            kind == "auto"
        )


def test_what_is_stated_wins_and_the_contradiction_is_a_doubt(tmp_path):
    cells = drawn_cells() > 0
    tifffile.imwrite(tmp_path / "a.tif", np.where(cells, 0, 255).astype(np.uint8))
    with imageio.open_annotation(tmp_path / "a.tif", kind="black_membranes") as regions:
        np.testing.assert_array_equal(regions.read(0, slice(None), slice(None)), ~cells)
        assert [found["name"] for found in regions.doubts] == ["inverted"]
    with imageio.open_annotation(tmp_path / "a.tif", kind="white_membranes") as regions:
        assert not regions.doubts


@pytest.mark.parametrize("kind", ("auto", "black_membranes", "white_membranes"))
def test_black_and_white_are_what_fiji_displays(tmp_path, kind):
    """A mask of Fiji with an inverting LUT stores 255 for black."""
    cells = drawn_cells() > 0
    white = ~cells if kind == "white_membranes" else cells
    mask = np.where(white, 0, 255).astype(np.uint8)
    found = annotation(tmp_path, mask, photometric="miniswhite", kind=kind)
    np.testing.assert_array_equal(found.labels[0], connected_components(cells))
    assert "0 is displayed as white" in found.description


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32))
def test_labels_are_kept_as_unsigned_integers(tmp_path, dtype):
    labels = instances().astype(dtype)
    for kind in ("auto", "instances"):
        found = annotation(tmp_path, labels, kind=kind)
        assert found.kind == "instances" and found.labels.dtype.kind == "u"
        np.testing.assert_array_equal(found.labels[0], labels)
        assert "16 values from 1 to 16" in found.description
        assert ("inferred" in found.description) == (kind == "auto")


def test_labels_are_never_inverted(tmp_path):
    found = annotation(tmp_path, instances(), photometric="miniswhite")
    np.testing.assert_array_equal(found.labels[0], instances())


def test_a_single_cell_needs_the_kind_instances(tmp_path):
    one = (instances() == 6).astype(np.uint8)
    assert annotation(tmp_path, one).labels.max() == 1
    found = annotation(tmp_path, one, kind="instances")
    assert found.kind == "instances" and found.labels.sum() == one.sum()


def test_labels_that_tile_the_section_without_background(tmp_path):
    y, x = np.mgrid[:32, :32]
    assert annotation(tmp_path, (1 + y // 8 * 4 + x // 8).astype(np.uint8)).kind == "instances"
    halves = (1 + y // 16).astype(np.uint8)
    with pytest.raises(InputError, match=r"2 values, none of them 0 \(1: 50\.00% in 1 area, 2: .* 1 area\)"):
        annotation(tmp_path, halves)
    assert annotation(tmp_path, halves, kind="instances").labels.max() == 2


@pytest.mark.parametrize("value", (0, 1, 255))
def test_an_annotation_of_one_value_has_the_meaning_that_is_stated(tmp_path, value):
    array = np.full((2, 8, 8), value, np.uint8)
    with pytest.raises(InputError, match=f"every pixel of the annotation is {value}; expected"):
        annotation(tmp_path, array)
    for kind in ("black_membranes", "instances"):
        assert ((annotation(tmp_path, array, kind=kind).labels > 0) == (value > 0)).all()
    assert ((annotation(tmp_path, array, kind="white_membranes").labels > 0) == (value == 0)).all()


def test_only_the_selected_sections_count(tmp_path):
    stack = np.stack([drawn_cells(), np.zeros((64, 64), np.uint8)])
    with pytest.raises(InputError, match="every pixel of the annotation is 0"):
        annotation(tmp_path, stack, sections="1")
    assert annotation(tmp_path, stack, sections="0").labels.shape == (1, 64, 64)


SPOILED = {
    "blurred": lambda cells: ndimage.gaussian_filter(cells, 0.7),
    "enlarged": lambda cells: ndimage.zoom(cells, 2.5, order=1),
    "reduced": lambda cells: ndimage.zoom(cells, 0.6, order=1),
    "rotated": lambda cells: ndimage.rotate(cells, 10, order=1, reshape=False),
    "lossy": lambda cells: cells + np.random.default_rng(0).normal(0, 2, cells.shape),
}


@pytest.mark.parametrize("kind", ("auto", "instances"))
def test_cells_of_one_pixel_width_are_labels(tmp_path, kind):
    thin = np.zeros((96, 96), np.uint8)
    for number in range(20):
        np.fill_diagonal(thin[:, 4 * number :], number + 1)
        np.fill_diagonal(thin[4 * number + 4 :], number + 21)
    np.testing.assert_array_equal(annotation(tmp_path, thin, kind=kind).labels[0], thin)


def doubts(tmp_path, array):
    tifffile.imwrite(tmp_path / "a.tif", array)
    with imageio.open_annotation(tmp_path / "a.tif", kind="instances") as regions:
        return {found["name"]: found["weight"] for found in regions.doubts}


def test_a_dim_and_smooth_image_is_not_an_annotation(tmp_path):
    """With few gray levels many neighbours are equal, but they do not form areas like labels."""
    noise = np.random.default_rng(0).normal(0, 0.5, (64, 64))
    dim = (ndimage.gaussian_filter(drawn_cells() / 255, 3) * 30 + noise).round().clip(0).astype(np.uint8)
    with pytest.raises(InputError, match=r"several separate areas|gray levels, not an annotation"):
        annotation(tmp_path, dim)


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_gray_levels_raise_an_error_with_their_histogram(tmp_path, spoil):
    spoiled = spoil(drawn_cells().astype(float)).round().clip(0, 255).astype(np.uint8)
    histogram = r"\d+ values, 0 to 31\.875: \d+\.\d+%.*to 255: \d+\.\d+%"
    with pytest.raises(InputError, match=f"(gray levels, not an annotation|several separate).*{histogram}"):
        annotation(tmp_path, spoiled)
    with pytest.raises(InputError, match=rf"expects two values, 0 and another one; found {histogram}"):
        annotation(tmp_path, spoiled, kind="black_membranes")
    assert doubts(tmp_path, spoiled).items() & {("gray_levels", 0.95), ("several_areas", 0.7)}
    assert doubts(tmp_path, instances()) == {}


def test_fractions_and_negative_numbers_raise_an_error(tmp_path):
    with pytest.raises(InputError, match=r"negative, fractional or too large values .*127\.5: "):
        annotation(tmp_path, drawn_cells() / np.float32(2))
    with pytest.raises(InputError, match=r"negative, fractional or too large values .*-255: .*-254: "):
        annotation(tmp_path, drawn_cells().astype(np.int16) // 255 - 255)
    with pytest.raises(InputError, match=r"found labels up to 9223372036854775811 .*To number them"):
        annotation(tmp_path, drawn_cells().astype(np.uint64) // 255 + 2**63 + 2)


@pytest.mark.parametrize(
    "dtype, value", [(np.int16, -1), (np.uint64, 2**64 - 1), (np.float32, -1), (np.int64, -9)]
)
def test_a_value_that_cannot_be_a_label_is_named_with_the_key_that_declares_it(tmp_path, dtype, value):
    labels = instances().astype(dtype)
    labels[:, 48:] = value
    share = (labels == labels[0, 63]).mean()
    for kind in ("auto", "instances"):
        with pytest.raises(InputError, match=f"found the value {value} in {share:.2%}.*ignore: {value}}}`"):
            annotation(tmp_path, labels, kind=kind)
        found = annotation(tmp_path, labels, kind=kind, ignore=value)
        np.testing.assert_array_equal(found.ignore[0], np.arange(64) >= 48 + np.zeros((64, 1)))
        np.testing.assert_array_equal(found.labels[0], np.where(found.ignore[0], 0, instances()))
        assert f"{share:.1%} of the pixels are not annotated" in found.description


@pytest.mark.parametrize("dtype, value", [(np.uint8, 255), (np.uint16, 65535), (np.uint32, 2**32 - 1)])
def test_the_largest_value_of_a_type_is_questioned(tmp_path, dtype, value):
    labels = instances().astype(dtype)
    labels[:, 48:] = value
    with pytest.raises(
        InputError, match=f"found the value {value} in 25.00%.*{{ignore: {value}}}`; if it is a"
    ):
        annotation(tmp_path, labels)
    assert annotation(tmp_path, labels, kind="instances").ignore is None
    assert annotation(tmp_path, labels, ignore=value).labels.max() == 15
    dense = np.arange(256, dtype=np.uint8).repeat(16).reshape(64, 64)
    assert annotation(tmp_path, dense).labels.max() == 255


def discs(values=(0, 1, 2), size=96):
    """Eight cells, each a disc of the second value with a ring of the third one."""
    y, x = np.mgrid[:size, :size]
    found = np.full((size, size), values[0], np.uint8)
    for number in range(8):
        radius = np.hypot(y - 24 - 48 * (number // 4), x - 12 - 24 * (number % 4))
        found[radius < 9], found[radius < 7] = values[2], values[1]
    return found


@pytest.mark.parametrize("values", [(0, 1, 2), (1, 2, 3), (0, 255, 128), (3, 0, 7)])
def test_classes_are_not_mistaken_for_cells(tmp_path, values):
    classes = discs(values)
    line = f"classes: {{background: {values[0]}, cell: {values[1]}, border: {values[2]}}}"
    with pytest.raises(
        InputError, match=rf"not clear \(.*in 8 areas.*set `dataset: {{annotation_kind: .*{line}}}`"
    ):
        annotation(tmp_path, classes)
    stated = dict(zip(("background", "cell", "border"), values, strict=True))
    found = annotation(tmp_path, classes, kind="classes", classes=stated)
    assert found.labels.max() == 8
    np.testing.assert_array_equal(found.labels[0], connected_components(classes != values[0]))
    inner = annotation(
        tmp_path, classes, kind="classes", classes={"background": [values[0], values[2]], "cell": values[1]}
    )
    np.testing.assert_array_equal(inner.labels[0], connected_components(classes == values[1]))


def test_a_mask_with_ignored_pixels_gets_the_settings_to_type(tmp_path):
    mask = (discs() == 1).astype(np.uint8)
    mask[:, 90:] = 255
    line = r"classes, classes: {background: 0, cell: 1}, ignore: 255}`"
    with pytest.raises(InputError, match=line):
        annotation(tmp_path, mask)


def test_a_single_cell_with_a_border_is_not_two_cells(tmp_path):
    with pytest.raises(InputError, match="meaning of the values is not clear"):
        annotation(tmp_path, discs()[:48, :24])


def test_touching_cells_of_different_classes_stay_apart(tmp_path):
    two = np.zeros((8, 8), np.uint8)
    two[2:6, 1:4], two[2:6, 4:7] = 1, 2
    found = annotation(tmp_path, two, kind="classes", classes={"background": 0, "a": 1, "b": 2})
    np.testing.assert_array_equal(found.labels[0], two)


def test_every_value_needs_a_class(tmp_path):
    with pytest.raises(InputError, match="the values 2 have no class"):
        annotation(tmp_path, discs(), kind="classes", classes={"background": 0, "cell": 1})
    found = annotation(tmp_path, discs(), kind="classes", classes={"background": 0, "cell": 1}, ignore=2)
    assert found.labels.max() == 8 and found.ignore.sum() == (discs() == 2).sum()
    for classes, message in (
        (None, "`dataset.classes`: missing"),
        ({"background": 0, "border": 1}, "at least one class of cells"),
        ({"background": 0, "cell": [1, 0]}, "the value 0 has two classes"),
    ):
        with pytest.raises(InputError, match=message):
            annotation(tmp_path, discs(), kind="classes", classes=classes)


@pytest.mark.parametrize("modulus", (2, 8))
def test_reused_labels_are_questioned_and_separated(tmp_path, modulus):
    cells = instances()
    reused = np.where(cells > 0, (cells - 1) % modulus + 1, 0).astype(np.uint8)
    with pytest.raises(InputError, match=r"not clear|labels have several separate areas"):
        annotation(tmp_path, reused)
    np.testing.assert_array_equal(annotation(tmp_path, reused, kind="instances").labels[0], reused)
    found = annotation(tmp_path, reused, kind="instances", relabel=True)
    np.testing.assert_array_equal(found.labels[0] > 0, cells > 0)
    assert len(np.unique(found.labels)) == 17


def test_a_few_labels_with_several_areas_are_a_doubt(tmp_path):
    cells = instances()
    cells[cells == 16] = 1
    tifffile.imwrite(tmp_path / "a.tif", cells)
    with imageio.open_annotation(tmp_path / "a.tif") as regions:
        assert [(found["name"], found["text"][:2]) for found in regions.doubts] == [("several_areas", "7%")]


def test_two_values_that_could_mean_both_are_asked(tmp_path):
    noise = np.random.default_rng(0).integers(0, 2, (64, 64)).astype(np.uint8) * 255
    stripes = ((np.arange(64) // 8 % 2) * np.ones((64, 1)) * 255).astype(np.uint8)
    for unclear in (noise, stripes):
        with pytest.raises(InputError, match=r"not clear which of two values .*0: .* in \d+ areas?, 255: "):
            annotation(tmp_path, unclear)


def test_sparse_objects_are_cells_and_their_inverse_is_right_or_asked(tmp_path):
    for objects in (drawn_cells() * 0, discs() > 0, discs()[:48, :24] > 0):
        if not objects.any():
            continue
        mask = objects.astype(np.uint8) * 255
        np.testing.assert_array_equal(annotation(tmp_path, mask).labels[0], connected_components(objects))
        try:
            inverse = annotation(tmp_path, 255 - mask)
        except InputError as error:
            assert "not clear" in str(error)
        else:
            np.testing.assert_array_equal(inverse.labels[0] > 0, objects)


@pytest.mark.parametrize("step", [20, 21])
def test_gaps_between_touching_cells_are_no_cells(tmp_path, step):
    """Discs in rows, black on white: the gaps between them are as many compact areas of white."""
    y, x = np.mgrid[:300, :300]
    row = y // step
    from_middle = np.hypot(y % step - step / 2, (x + row % 2 * step / 2) % step - step / 2)
    cells = from_middle < 10.3
    for mask in (~cells, cells):
        try:
            found = annotation(tmp_path, np.where(mask, 255, 0).astype(np.uint8))
        except InputError as error:
            assert "not clear which of two values are cells" in str(error)
        else:
            np.testing.assert_array_equal(found.labels[0] > 0, cells)


def test_labels_that_lie_inside_another_one_get_the_background_to_type(tmp_path):
    labels = np.where(instances() == 0, 19, instances()).astype(np.uint8)
    labels[0, :30] = 0  # so that 0 is a value
    with pytest.raises(InputError, match=r"labels lie inside.* If 19, .* `dataset: \{background: 19\}`"):
        annotation(tmp_path, labels)


def test_ignored_pixels_do_not_change_what_is_inferred(tmp_path):
    membranes = drawn_cells()
    membranes[:, 40:] = 128
    with pytest.raises(InputError):
        annotation(tmp_path, membranes)
    found = annotation(tmp_path, membranes, ignore=128)
    np.testing.assert_array_equal(found.labels[0], connected_components(membranes == 255))
    mask = np.where(membranes == 128, 7, 0).astype(np.uint8)
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    masked = annotation(tmp_path, drawn_cells(), ignore_mask=tmp_path / "mask.tif")
    np.testing.assert_array_equal(masked.labels, found.labels)
    np.testing.assert_array_equal(masked.ignore[0], mask > 0)
    with pytest.raises(InputError, match=r"every pixel is ignored"):
        annotation(tmp_path, np.full((8, 8), 3, np.uint8), ignore=3)
    with pytest.raises(InputError, match=r"mask\.tif: the mask of ignored pixels has 1 section of 64 x 64"):
        annotation(tmp_path, drawn_cells()[:32], ignore_mask=tmp_path / "mask.tif")


def test_one_mask_for_each_cell(tmp_path):
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(1, 17):
        tifffile.imwrite(folder / f"{number * 7}.tif", (instances() == number).astype(np.uint8) * 255)
    found = imageio.read_annotation(folder, masks=True)
    assert found.kind == "masks"
    np.testing.assert_array_equal(found.labels[0], instances())
    tifffile.imwrite(folder / "999.tif", (instances() == 3).astype(np.uint8) * 255)
    overlap = (instances() == 3).sum()
    with pytest.raises(InputError, match=f"masks number 3 and 17 overlap in {overlap} px"):
        imageio.read_annotation(folder, masks=True)


def nearest_in_border(labels, border):
    """Grow step by step from each cell, in plain Python."""
    grown = {(y, x): value for (y, x), value in np.ndenumerate(labels) if value}
    while True:
        reached = {}
        for y, x in zip(*np.nonzero(border), strict=True):
            near = [grown[at] for at in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)) if at in grown]
            if (y, x) not in grown and near:
                reached[y, x] = min(near)
        if not reached:
            return [[grown.get((y, x), 0) for x in range(labels.shape[1])] for y in range(labels.shape[0])]
        grown |= reached


@given(st.integers(0, 2**32 - 1))
def test_border_pixels_belong_to_the_nearest_cell(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (9, 11)) * (rng.random((9, 11)) < 0.2)
    border = (labels == 0) & (rng.random((9, 11)) < 0.7)
    assert regions.grow(labels.astype(np.uint32), border).tolist() == nearest_in_border(labels, border)


def test_the_message_for_membranes_with_a_third_value_suggests_instances(tmp_path):
    with pytest.raises(InputError, match=r"black_membranes` expects two values.*kind: instances}`"):
        annotation(tmp_path, instances(), kind="black_membranes")
    with pytest.raises(InputError, match="expects two values"):
        annotation(tmp_path, drawn_cells() // 255 + 1, kind="white_membranes")


def test_unknown_kind(tmp_path):
    with pytest.raises(InputError, match="annotation_kind`: found membrane, expected one of auto, black_mem"):
        annotation(tmp_path, drawn_cells(), kind="membrane")


# --------------------------------------------------------------------------------------------- block by block


def patches(draw, shape, values):
    """Overlapping rectangles of few values: areas, slivers and single pixels."""
    stack = np.full(shape, draw(st.sampled_from(values)))
    for _ in range(draw(st.integers(0, 12))):
        z, y, x = (draw(st.integers(0, n - 1)) for n in shape)
        height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        stack[z, y : y + height, x : x + width] = draw(st.sampled_from(values))
    return stack


@given(data=st.data())
def test_regions_are_those_of_the_whole(tmp_path_factory, data):
    shape = tuple(data.draw(st.integers(*range_)) for range_ in ((1, 2), (2, 30), (2, 30)))
    dtype = data.draw(st.sampled_from((np.uint8, np.int8, np.int16, np.uint32, np.int64, np.float32)))
    far = [2**31, 2**32 - 1] if dtype in (np.uint32, np.int64) else []
    values = data.draw(st.lists(st.sampled_from([0, 0, 1, 2, 100, 127, *far]), min_size=1, max_size=6))
    stack = patches(data.draw, shape, values).astype(dtype)
    path = tmp_path_factory.mktemp("annotation") / "a.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", rowsperstrip=4, compression="zlib")
    ignore = data.draw(st.sampled_from([None, *values]))
    background = data.draw(st.sampled_from([0, 0, *values]))
    expected_ignore = np.zeros(shape, bool) if ignore is None else stack == dtype(ignore)
    if expected_ignore.all():
        return
    labels = np.where(stack == background, 0, stack + (stack < background))
    labels[expected_ignore] = 0
    whole = [len(np.unique(stack[z])) == 1 and labels[z].any() for z in range(shape[0])]
    several = [len(np.unique(s[~e])) > 1 for s, e in zip(stack, expected_ignore, strict=True)]
    if any(several):
        labels[whole] = 0  # one cell that covers a section is not believed beside others
    settings = {"kind": "instances", "ignore": ignore, "background": background}
    with imageio.open_annotation(path, **settings) as regions:
        for z in range(shape[0]):
            for part in blocks(shape[1:], data.draw(st.integers(1, 31))):
                expected = labels[z, *part.write]
                np.testing.assert_array_equal(regions.read(z, *part.write), expected)
                found = regions.read_ignore(z, *part.write)
                np.testing.assert_array_equal(found, expected_ignore[z, *part.write])


@given(data=st.data())
def test_values_and_areas_are_counted(data):
    """Compare with the definitions: each area of equal values, connected also at corners."""
    shape = tuple(data.draw(st.integers(2, 12)) for _ in range(2))
    stack = patches(data.draw, (2, *shape), [0, 1, 5, 2**31 + 7, 2**31 + 9]).astype(np.uint32)
    counter = meaning.ValueCounter()
    for z, section in enumerate(stack):
        for part in blocks(shape, data.draw(st.integers(1, 13))):
            counter.add(z, part, section[part.read].ravel())
    found = counter.result()
    values, counts = np.unique(stack, return_counts=True)
    assert (found.values.tolist(), found.counts.tolist()) == (values.tolist(), counts.tolist())
    areas = meaning.measure_areas(found, stack)
    corners = np.ones((3, 3))
    expected, split, occurrences = np.zeros(len(values), int), 0, 0
    for section in stack:
        for place, value in enumerate(values):
            area_of, _ = ndimage.label(section == value, corners)
            size = np.bincount(area_of.ravel())[1:]
            number = np.count_nonzero(size >= 0.05 * size.max(initial=0))
            expected[place] += number
            occurrences += number > 0 and value > 0
            split += number > 1 and value > 0
    assert areas.number.tolist() == expected.tolist()
    assert areas.split == split / max(occurrences, 1)


def test_many_labels_are_counted():
    """60,000 labels of 16 px, each in several blocks."""
    y, x = np.mgrid[:960, :1000]
    labels = (1 + y // 4 * 250 + x // 4).astype(np.uint32) * 1000
    counter = meaning.ValueCounter()
    for part in blocks(labels.shape, 300):
        counter.add(0, part, labels[part.read].ravel())
    found = counter.result()
    assert len(found.values) == 60_000 and set(found.counts.tolist()) == {16}
    assert len(found.sample) == meaning.SAMPLES


def test_more_labels_than_can_be_counted_raise_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline_lib.imageio.kinds._MOST_LABELS", 1000)
    with pytest.raises(InputError, match=r"\.tif: found more than 1,000 different values, the limit for one"):
        annotation(tmp_path, np.arange(64 * 64, dtype=np.uint32).reshape(64, 64))
    assert annotation(tmp_path, instances()).labels.max() == 16


def test_memory_does_not_grow_with_the_annotation(tmp_path, monkeypatch):
    monkeypatch.setattr(meaning, "SIDE", 128)
    drawn = np.tile(drawn_cells(128), (1, 16, 16))
    tifffile.imwrite(tmp_path / "a.tif", drawn, photometric="minisblack", compression="zlib", rowsperstrip=16)
    with imageio.open_annotation(tmp_path / "a.tif"):  # imports libraries
        pass
    tracemalloc.start()
    with imageio.open_annotation(tmp_path / "a.tif") as regions:
        for part in blocks(regions.shape[1:], 128):
            regions.read(0, *part.read)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 2**20 < drawn.nbytes / 2


# -------------------------------------------------------------------------------------------------- real data


@needs_data
def test_isbi_2012_is_read_as_membranes():
    images = imageio.read_images(DATA / "isbi2012/train-volume.tif", sections="20-23")
    truth = imageio.read_annotation(DATA / "isbi2012/train-labels.tif", sections="20-23")
    assert images.shape == (1, 4, 512, 512) and images.dtype == np.uint8
    cells = truth.labels > 0
    assert truth.kind == "membranes" and 0.7 < cells.mean() < 0.85
    assert "black membranes" in truth.description and "inferred" in truth.description
    assert images[0][cells].mean() > images[0][~cells].mean() + 30


@needs_data
@pytest.mark.parametrize("width", (-3, 1, 9))
def test_inverted_isbi_2012_is_read_as_white_membranes(tmp_path, width):
    """With membranes thinner and thicker than in the original."""
    labels = tifffile.imread(DATA / "isbi2012/train-labels.tif")[::10]
    filtered = ndimage.grey_dilation if width < 0 else ndimage.grey_erosion
    labels = np.stack([filtered(section, size=(abs(width), abs(width))) for section in labels])
    found = annotation(tmp_path, 255 - labels)
    np.testing.assert_array_equal(found.labels, connected_components(labels))
    assert "white membranes" in found.description


@needs_data
def test_isbi_2012_raw_is_not_an_annotation():
    with pytest.raises(InputError, match="gray levels, not an annotation"):
        imageio.read_annotation(DATA / "isbi2012/train-volume.tif", sections="0")


@needs_data
def test_nuclei_are_read_as_instances_and_their_images_are_not_an_annotation(tmp_path):
    labels = sorted((DATA / "nuclei/labels").glob("*.tif"))
    assert len(labels) == 60
    for path in labels:
        truth = imageio.read_annotation(path)  # "auto" agrees with the config
        assert truth.kind == "instances" and truth.labels.max() == tifffile.imread(path).max()
        with pytest.raises(InputError, match=r"gray levels|separate areas"):
            imageio.read_annotation(DATA / "nuclei/images" / path.name)
        mask = (tifffile.imread(path) > 0).astype(np.uint8)
        tifffile.imwrite(tmp_path / "mask.tif", mask)
        read = imageio.read_annotation(tmp_path / "mask.tif")
        np.testing.assert_array_equal(read.labels[0], connected_components(mask))


# -------------------------------------------------------------------------------- meanings that are not clear


def write_stack(path, *sections):
    tifffile.imwrite(path, np.stack(sections), photometric="minisblack")


@pytest.mark.parametrize("line", ["skeleton", "outlines"])
def test_thin_lines_are_asked_about_and_stated_without_a_doubt(tmp_path, line):
    """Lines of one pixel fall into specks, and are neither cells nor does the right setting look inverted."""
    labels = tiled_cells()
    drawn = {"skeleton": skeletonize(find_boundaries(labels, mode="thick"))}
    drawn["outlines"] = find_boundaries(instances(), mode="inner")
    write_stack(tmp_path / "a.tif", np.where(drawn[line], 255, 0).astype(np.uint8))
    try:
        with imageio.open_annotation(tmp_path / "a.tif") as regions:
            assert line == "skeleton" and regions.cells_are_zero
    except InputError as error:
        assert "not clear which of two values are cells" in str(error)
    assert not doubts_of(tmp_path / "a.tif", kind="white_membranes")


def tiled_cells():
    """Cells that fill the section (y, x): nearest of 40 points."""
    points = np.random.default_rng(1).uniform(0, 256, (40, 2))
    at = np.indices((256, 256)).reshape(2, -1, 1) - points.T[:, None]
    return (at**2).sum(0).argmin(1).reshape(256, 256) + 1


@pytest.mark.parametrize("white", [True, False])
def test_a_fibre_across_the_image_is_asked_about(tmp_path, white):
    fibre = np.zeros((256, 256), bool)
    fibre[100:140] = True
    write_stack(tmp_path / "a.tif", np.where(fibre == white, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match="not clear which of two values are cells"):
        imageio.read_annotation(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("dtype", "value"), [(np.uint8, 1), (np.uint16, 65535), (np.int16, -1), (np.uint16, 32768)]
)
def test_a_background_that_is_not_0(tmp_path, dtype, value):
    """Labels from 1 and from 0, above another background: the message names the setting, which is right."""
    labels = instances().astype(np.int64)
    stored = np.where(labels == 0, value, labels + value if value in (1, 32768) else labels - 1)
    write_stack(tmp_path / "a.tif", stored.astype(dtype))
    with pytest.raises(InputError, match=rf"`dataset: {{background: {value}}}`"):
        imageio.read_annotation(tmp_path / "a.tif")
    found = imageio.read_annotation(tmp_path / "a.tif", kind="instances", background=value).labels[0]
    np.testing.assert_array_equal(found > 0, labels > 0)
    assert len(np.unique(found[labels > 0])) == len(
        {*zip(found[labels > 0], labels[labels > 0], strict=True)}
    )


def test_a_background_that_the_type_cannot_have(tmp_path):
    write_stack(tmp_path / "a.tif", instances().astype(np.uint8))
    with pytest.raises(InputError, match=r"no pixel has the value 300 of `dataset\.background`"):
        imageio.read_annotation(tmp_path / "a.tif", background=300)


def test_what_is_ignored_is_the_value_in_the_file_whatever_the_background(tmp_path):
    labels = instances().astype(np.int16) - 1
    labels[:10] = 99
    write_stack(tmp_path / "a.tif", labels)
    found = imageio.read_annotation(tmp_path / "a.tif", kind="instances", background=-1, ignore=99)
    np.testing.assert_array_equal(found.ignore[0], labels == 99)
    np.testing.assert_array_equal(found.labels[0], np.where(labels == 99, 0, labels + 1))


def doubts_of(path, **settings):
    with imageio.open_annotation(path, **settings) as regions:
        return {found["name"]: found for found in regions.doubts}


@pytest.mark.parametrize("classes", [1, 2])
def test_a_mask_that_is_stated_to_be_instances_stops(tmp_path, classes):
    """All cells would be one cell, or one for each class."""
    write_stack(tmp_path / "a.tif", np.where(instances() > 0, 1 + instances() % classes, 0).astype(np.uint8))
    found = doubts_of(tmp_path / "a.tif", kind="instances")["several_areas"]
    assert found["weight"] == 0.9 and "`relabel: true`" in found["text"]
    assert not doubts_of(tmp_path / "a.tif", kind="instances", relabel=True)


def test_five_cells_of_two_classes_that_are_stated_to_be_instances_stop(tmp_path):
    labels = np.where(instances() <= 5, instances(), 0)
    write_stack(tmp_path / "a.tif", np.where(labels > 0, 1 + labels % 2, 0).astype(np.uint8))
    assert doubts_of(tmp_path / "a.tif", kind="instances")["several_areas"]["weight"] == 0.9


def test_numbers_of_8_bits_that_were_used_again_are_asked_about(tmp_path):
    y, x = np.mgrid[:400, :400]
    labels = np.where((y % 20 < 16) & (x % 20 < 16), 1 + y // 20 * 20 + x // 20, 0)
    write_stack(tmp_path / "a.tif", (np.where(labels <= 300, labels, 0) % 256).astype(np.uint8))
    with pytest.raises(InputError, match="relabel: true"):
        imageio.read_annotation(tmp_path / "a.tif")
    assert doubts_of(tmp_path / "a.tif", kind="instances")["several_areas"]["weight"] == 0.9
    found = imageio.read_annotation(tmp_path / "a.tif", kind="instances", relabel=True)
    assert found.labels.max() == 299  # number 256 became 0 when the file was written


def test_outlines_that_are_not_filled_are_a_doubt_and_the_line_fills_them(tmp_path):
    labels = clear_border(instances())
    rims = np.where(find_boundaries(labels, mode="inner"), labels, 0).astype(np.uint16)
    write_stack(tmp_path / "a.tif", rims)
    found = doubts_of(tmp_path / "a.tif", kind="instances")["hollow"]
    assert found["weight"] == 0.85
    subprocess.run([*python_command(found["text"])], check=True, cwd=tmp_path)
    assert not doubts_of(tmp_path / "a.tif", kind="instances")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif")[0], labels)


def test_cells_inside_a_cell_are_not_hollow(tmp_path):
    labels = np.zeros((64, 64), np.uint8)
    labels[8:56, 8:56], labels[16:48, 16:48] = 1, 2
    write_stack(tmp_path / "a.tif", labels)
    assert not doubts_of(tmp_path / "a.tif", kind="instances")


def python_command(text):
    """Return the Python command at the end of a message as a list of words."""
    return [sys.executable, *shlex.split(text.splitlines()[-1])[1:]]


@pytest.mark.parametrize("kind", ["auto", "black_membranes"])
@pytest.mark.parametrize("spoil", ["antialiased", "jpeg"])
def test_a_smoothed_mask_gets_a_line_that_makes_two_values(tmp_path, spoil, kind):
    mask = np.where(instances() > 0, 255, 0).astype(np.uint8)
    if spoil == "jpeg":
        stored = imagecodecs.jpeg_decode(imagecodecs.jpeg_encode(mask, level=90))
    else:
        shifted = np.pad(mask, 1)[:-2, :-2]
        stored = ((mask.astype(int) + shifted) // 2).astype(np.uint8)
    write_stack(tmp_path / "a.tif", stored)
    with pytest.raises(InputError, match="make two values") as caught:
        imageio.read_annotation(tmp_path / "a.tif", kind=kind)
    subprocess.run(python_command(str(caught.value)), check=True, cwd=tmp_path)
    found = imageio.read_annotation(tmp_path / "a.tif", kind=kind).labels[0] > 0
    expected = stored > 127
    np.testing.assert_array_equal(found, expected)
    assert np.count_nonzero(expected != (mask > 0)) < 0.2 * np.count_nonzero(mask)


def test_one_inverted_section_of_a_stack_is_a_doubt(tmp_path):
    cells = np.where(tiled_membranes(), 0, 255).astype(np.uint8)
    write_stack(tmp_path / "b.tif", cells, cells, 255 - cells, cells)
    found = doubts_of(tmp_path / "b.tif")["inverted"]
    assert (found["weight"], found["section"]) == (0.9, 2)
    assert "1 of 4 sections look inverted (the first is section 3, counted from 1)" in found["text"]


def tiled_membranes():
    return ndimage.binary_dilation(find_boundaries(tiled_cells(), mode="thick"))


def test_classes_that_are_exchanged_are_a_doubt_and_the_line_of_the_message_is_right(tmp_path):
    """Membranes 0, cells 1, 255 not annotated; and 1 and 2, as of ilastik."""
    membranes = tiled_membranes()
    for values in ((0, 1), (1, 2)):
        stored = np.where(membranes, *values).astype(np.uint8)
        stored[:20] = 255
        write_stack(tmp_path / "a.tif", stored)
        right = rf"classes: {{background: {values[0]}, cell: {values[1]}}}, ignore: 255"
        with pytest.raises(InputError, match=right):
            imageio.read_annotation(tmp_path / "a.tif")
        for cell, background in (values, values[::-1]):
            settings = {"kind": "classes", "classes": {"background": background, "cell": cell}, "ignore": 255}
            assert [*doubts_of(tmp_path / "a.tif", **settings)] == ["inverted"] * (cell == values[0])


def test_sections_that_are_one_cell_are_not_believed_beside_others(tmp_path):
    cells = np.where(tiled_membranes(), 0, 255).astype(np.uint8)
    write_stack(tmp_path / "a.tif", cells, np.full_like(cells, 255), cells)
    for kind in ("auto", "black_membranes"):
        with imageio.open_annotation(tmp_path / "a.tif", kind=kind) as regions:
            assert regions.blank == (1,)
            assert not regions.read(1, slice(0, 256), slice(0, 256)).any()
            assert regions.read(0, slice(0, 256), slice(0, 256)).any()


@pytest.mark.parametrize(("dtype", "first"), [(np.float16, 2048), (np.float32, 2**24)])
def test_numbers_that_a_float_cannot_have_are_refused(tmp_path, dtype, first):
    labels = instances().astype(np.int64)
    for offset, clear in ((first - 1 - labels.max(), True), (first, False)):
        write_stack(tmp_path / "a.tif", np.where(labels > 0, labels + offset, 0).astype(dtype))
        if clear:
            found = imageio.read_annotation(tmp_path / "a.tif", kind="instances").labels[0]
            np.testing.assert_array_equal(found, np.where(labels > 0, labels + offset, 0))
        else:
            with pytest.raises(InputError, match=r"has only every second or fourth number"):
                imageio.read_annotation(tmp_path / "a.tif", kind="instances")


def test_a_folder_of_class_masks_is_not_one_mask_per_cell(tmp_path):
    for name in ("nuclei", "cytoplasm"):
        write_stack(tmp_path / f"{name}.tif", np.where(instances() > 0, 255, 0).astype(np.uint8))
    with pytest.raises(InputError, match="100% of the 2 slices have several separate areas"):
        imageio.read_annotation(tmp_path, masks=True)


@pytest.mark.parametrize("most", [40, 137])
def test_a_sentinel_is_found_beside_many_labels(tmp_path, most):
    labels = np.repeat(np.arange(most + 1, dtype=np.uint8), 60).reshape(1, most + 1, 60)
    labels[..., 50:] = 255
    write_stack(tmp_path / "a.tif", *labels)
    with pytest.raises(InputError, match=r"found the value 255 .*ignore: 255}`"):
        imageio.read_annotation(tmp_path / "a.tif")
