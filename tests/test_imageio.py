"""Every readable format gives the same array; every unreadable one a message that says what to do."""

import itertools
import os
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pipeline_lib import imageio
from pipeline_lib.errors import InputError

DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to "
                                                          "test on them")

DTYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.float32, np.float64, np.bool_)


def gray(shape=(5, 7, 11), dtype=np.uint8, seed=0):
    values = np.random.default_rng(seed).integers(0, 2 if dtype == np.bool_ else 120, shape)
    return values.astype(dtype)


def drawn_cells(size=64, period=16, width=3):
    """Square cells in a grid: membranes 0, cells 255."""
    y, x = np.mgrid[:size, :size]
    return np.where((y % period < width) | (x % period < width), 0, 255).astype(np.uint8)


def instances(size=64):
    return ndimage.label(drawn_cells(size))[0].astype(np.uint16)


# The writers: each puts a stack (z, y, x) on disk in another way and returns the path to read.


def multi_page(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, metadata=None, photometric="minisblack")
    return folder / "a.tif"


def shaped(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack")
    return folder / "a.tif"


def compressed(folder, stack):
    tifffile.imwrite(folder / "a.tiff", stack, photometric="minisblack", compression="lzw", predictor=True)
    return folder / "a.tiff"


def tiled_big_endian_bigtiff(folder, stack):
    tifffile.imwrite(folder / "A.TIF", stack, photometric="minisblack", tile=(16, 16), bigtiff=True,
                     byteorder=">", compression="zlib")
    return folder / "A.TIF"


def one_page_for_all(folder, stack):
    """As ImageJ writes stacks beyond 4 GiB: one page, the others follow as plain bytes."""
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", truncate=True, byteorder=">")
    return folder / "a.tif"


def one_page_with_depth(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", volumetric=True, tile=(16, 16, 16))
    return folder / "a.tif"


def imagej(folder, stack):
    tifffile.imwrite(folder / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    return folder / "a.tif"


def imagej_frames(folder, stack):
    """Fiji takes a stack for a film where nobody told it otherwise: TYX."""
    tifffile.imwrite(folder / "a.tif", stack, imagej=True, metadata={"axes": "TYX"})
    return folder / "a.tif"


def ome(folder, stack):
    tifffile.imwrite(folder / "a.ome.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    return folder / "a.ome.tif"


def hdf5(folder, stack):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("volumes/raw", data=stack, chunks=(1, 4, 4), compression="gzip")
    return f"{folder / 'a.h5'}:/volumes/raw"


def ilastik(folder, stack):
    axes = '{"axes": [{"key": "t"}, {"key": "z"}, {"key": "y"}, {"key": "x"}, {"key": "c"}]}'
    with h5py.File(folder / "a.hdf5", "w") as file:
        file.create_dataset("exported_data", data=stack[None, ..., None]).attrs["axistags"] = axes
    return f"{folder / 'a.hdf5'}:exported_data"


def transposed_hdf5(folder, stack):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack.transpose(2, 1, 0)).attrs["axes"] = "xyz"
    return f"{folder / 'a.h5'}:/raw"


def tiff_slices(folder, stack):
    for z, section in enumerate(stack):  # slice8, slice9, slice10: by name alone, 10 would come first
        tifffile.imwrite(folder / f"slice{z + 8}.tif", section)
    (folder / "._slice8.tif").write_bytes(b"not an image")
    (folder / "Thumbs.db").write_bytes(b"not an image")
    return folder


def png_slices(folder, stack):
    for z, section in enumerate(stack):
        (folder / f"Slice {z + 98}.PNG").write_bytes(imagecodecs.png_encode(section))
    return folder


WRITERS = (multi_page, shaped, compressed, tiled_big_endian_bigtiff, one_page_for_all, hdf5, ilastik,
           transposed_hdf5, tiff_slices)


# bool is stored as single bits, which TIFF knows in plain pages only
@pytest.mark.parametrize(("write", "dtype"), [
    (write, dtype) for write, dtype in itertools.product(WRITERS, DTYPES)
    if dtype != np.bool_ or write not in (compressed, tiled_big_endian_bigtiff, one_page_for_all)])
def test_every_format_and_type_gives_the_array_back(tmp_path, write, dtype):
    stack = gray(dtype=dtype)
    path = write(tmp_path, stack)
    read = imageio.read_images(path)
    assert read.dtype == (np.uint8 if dtype == np.bool_ else dtype) and read.dtype.isnative
    np.testing.assert_array_equal(read, stack[None])
    np.testing.assert_array_equal(imageio.read_images(path, sections="1,3-4"), stack[None, [1, 3, 4]])
    info = imageio.inspect(path)
    assert (info.shape, info.dtype) == ((1, *stack.shape), stack.dtype)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("write", (one_page_with_depth, imagej, imagej_frames, ome, png_slices))
def test_formats_of_few_types_give_the_array_back(tmp_path, write, dtype):
    stack = gray(dtype=dtype)
    path = write(tmp_path, stack)
    np.testing.assert_array_equal(imageio.read_images(path), stack[None])
    np.testing.assert_array_equal(imageio.read_images(path, sections="4"), stack[None, 4:])
    assert imageio.inspect(path).shape == (1, *stack.shape)


@pytest.mark.parametrize("shape", ((1, 9), (9, 1), (1, 1), (13, 17)))
def test_a_single_image_is_one_section_whatever_its_shape(tmp_path, shape):
    image = gray(shape)
    tifffile.imwrite(tmp_path / "a.tif", image)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = image
    for name in ("a.tif", "a.png", "a.h5:/raw"):
        np.testing.assert_array_equal(imageio.read_images(f"{tmp_path}/{name}"), image[None, None])


@pytest.mark.parametrize("axes", ("CZYX", "ZCYX", "ZYXC"))
def test_channels_come_first_whatever_the_order_in_the_file(tmp_path, axes):
    stack = gray((2, 4, 6, 8))
    order = ["CZYX".index(axis) for axis in axes]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack.transpose(order)).attrs["axes"] = axes
    paths = [f"{tmp_path / 'a.h5'}:/raw"]
    if axes != "ZYXC":
        tifffile.imwrite(tmp_path / "a.ome.tif", stack.transpose(order), ome=True, photometric="minisblack",
                         metadata={"axes": axes})
        paths.append(tmp_path / "a.ome.tif")
    for path in paths:
        np.testing.assert_array_equal(imageio.read_images(path, channels=2, sections="1-2"), stack[:, 1:3])


@pytest.mark.parametrize("planar", (False, True))
def test_rgb_is_read_where_three_channels_are_asked_for(tmp_path, planar):
    colour = gray((4, 6, 8, 3))
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(colour, -1, 1) if planar else colour, photometric="rgb",
                     planarconfig="separate" if planar else "contig")
    read = imageio.read_images(tmp_path / "a.tif", channels=3)
    np.testing.assert_array_equal(read, np.moveaxis(colour, -1, 0))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colour[0]))
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.png", channels=3)[:, 0],
                                  np.moveaxis(colour[0], -1, 0))


def test_only_the_sections_asked_for_are_read(tmp_path):
    path = shaped(tmp_path, gray((6, 20, 20)))
    tifffile.imwrite(path, gray((6, 20, 20)), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        damaged = tiff.pages[3].dataoffsets[0]
    with open(path, "r+b") as file:
        file.seek(damaged)
        file.write(b"\0" * 50)
    assert imageio.read_images(path, sections="0-2,4-5").shape == (1, 5, 20, 20)
    with pytest.raises(InputError, match=r"a\.tif: cannot be read"):
        imageio.read_images(path, sections="2-3")


@pytest.mark.parametrize("name", ("a.png", "a.tif"))
def test_single_bits_are_read_as_black_and_white(tmp_path, name):
    cells = drawn_cells() > 0
    Image.fromarray(cells).save(tmp_path / name)
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / name).array[0], cells)


def test_white_is_zero_images_are_read_as_they_are_shown(tmp_path):
    stack = gray()
    tifffile.imwrite(tmp_path / "a.tif", 255 - stack, photometric="miniswhite")
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.tif"), stack[None])


def test_a_bool_array_saved_by_tifffile_means_what_it_says(tmp_path):
    """tifffile declares it WhiteIsZero; True stays cell all the same."""
    cells = drawn_cells() > 0
    tifffile.imwrite(tmp_path / "a.tif", cells)
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / "a.tif").array[0], cells)


# ----------------------------------------------------------------------------------------------- what cannot
# be read


def fails(path, match, **settings):
    with pytest.raises(InputError, match=match) as caught:
        imageio.read_images(path, **settings)
    assert str(imageio.source_file(path)) in str(caught.value)


def test_missing_file_names_the_nearest(tmp_path):
    shaped(tmp_path, gray())
    fails(tmp_path / "aa.tif", r"no such file or folder\. Did you mean a\.tif\?")
    fails(tmp_path / "nowhere" / "a.tif", "no such file or folder")


def test_empty_file_and_foreign_content_and_unknown_suffix(tmp_path):
    for name, content, match in (("a.tif", b"", "empty"), ("b.tif", b"\x89PNG", "cannot be read"),
                                 ("c.png", b"II*\0", "not a PNG"), ("d.jpg", b"\xff\xd8", r"suffix `\.jpg`"),
                                 ("e.h5", b"HDF", "cannot be read")):
        (tmp_path / name).write_bytes(content)
        fails(tmp_path / name, match)


def test_folders_without_slices_or_with_slices_that_differ(tmp_path):
    fails(tmp_path, "holds no PNG or TIFF slices")
    tiff_slices(tmp_path, gray())
    tifffile.imwrite(tmp_path / "slice9.tif", gray((7, 12)))
    with pytest.raises(InputError, match=r"slice9\.tif: .* 7 x 12 px.*slice8\.tif has .* 7 x 11 px"):
        imageio.inspect(tmp_path)
    with pytest.raises(InputError, match=r"slice9\.tif"):
        imageio.read_images(tmp_path)
    tifffile.imwrite(tmp_path / "slice9.tif", gray((7, 11), np.uint16))
    fails(tmp_path, r"slice9\.tif.*uint16.*uint8")
    tifffile.imwrite(tmp_path / "slice9.tif", gray((2, 7, 11)), photometric="minisblack")
    fails(tmp_path, r"slice9\.tif: holds 2 sections")
    png_slices(tmp_path, gray())
    fails(tmp_path, "both PNG and TIFF")


def test_rgb_where_gray_is_expected_says_how_to_convert_it(tmp_path):
    colour = gray((7, 11, 3))
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colour))
    for name in ("a.tif", "a.png"):
        fails(tmp_path / name, r"RGB, 3 channels \(axes YXS\), expected 1 .* Convert.*dataset\.channels: 3")
    with pytest.raises(InputError, match="RGB") as caught:
        imageio.read_annotation(tmp_path / "a.tif")
    assert "dataset.channels" not in str(caught.value)
    tifffile.imwrite(tmp_path / "gray.tif", np.repeat(gray((7, 11, 1)), 3, axis=2), photometric="rgb")
    fails(tmp_path / "gray.tif", "all equal: gray levels saved as colour")
    tifffile.imwrite(tmp_path / "mono.tif", gray())
    fails(tmp_path / "mono.tif", r"1 channel, expected 3 channels\. Set `dataset\.channels: 1`", channels=3)


def test_ambiguous_axes_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", gray((2, 3, 7, 11)), imagej=True, metadata={"axes": "TZYX"})
    fails(tmp_path / "a.tif", r"axes TZCYXS \(T = 2, Z = 3, C = 1, Y = 7, X = 11, S = 1\) are ambiguous")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = gray((2, 2, 2, 2, 2))
    fails(f"{tmp_path / 'a.h5'}:/raw", r"5 dimensions.*dataset\.attrs\['axes'\]")


def test_several_images_in_one_tiff(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(gray((7, 11)))
        tiff.write(gray((5, 5)))
    fails(tmp_path / "a.tif", "2 images of different kind.*Save the one to use")


def test_a_set_of_ome_files_that_is_not_whole(tmp_path):
    path = ome(tmp_path, gray((2, 7, 11)))
    whole = tifffile.tiffcomment(path)
    uuid = whole.partition('UUID="')[2].partition('"')[0]
    plane = '<TiffData IFD="0" FirstZ="{}" PlaneCount="1"><UUID FileName="{}">{}</UUID></TiffData>'
    planes = plane.format(0, "a.ome.tif", uuid) + plane.format(1, "b.ome.tif", uuid[:-1])
    part = whole.replace('<TiffData IFD="0" PlaneCount="2"/>', planes)
    tifffile.imwrite(path, gray((7, 11)), description=part, metadata=None)
    fails(path, "lacks pages for axes TZCYXS .* one file of a set whose others are missing")


def test_hdf5_datasets_are_listed(tmp_path):
    path = hdf5(tmp_path, gray())
    file = str(imageio.source_file(path))
    for name in (file, f"{file}:/raw", f"{file}:/volumes"):
        fails(name, r"Write one of: .*a\.h5:/volumes/raw\.")


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_values_that_are_not_finite_are_counted_and_placed(tmp_path, bad):
    stack = gray(dtype=np.float32)
    stack[2, 3, 4] = stack[2, 6, 1] = stack[4, 0, 0] = bad
    path = shaped(tmp_path, stack)
    fails(path, "3 values are NaN or infinite, the first in section 2, row 3, column 4")
    fails(path, "1 values are NaN or infinite, the first in section 4, row 0, column 0", sections="3-4")
    assert imageio.read_images(path, sections="0-1").shape == (1, 2, 7, 11)


def test_complex_numbers_are_no_gray_levels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.complex64))
    fails(tmp_path / "a.tif", "complex64; expected integers")


@pytest.mark.parametrize("colour_type", (3, 4))
def test_png_with_palette_or_transparency(tmp_path, colour_type):
    if colour_type == 4:
        (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(gray((7, 11, 2))))
    else:
        Image.fromarray(gray((7, 11))).convert("P").save(tmp_path / "a.png")
    fails(tmp_path / "a.png", "expected gray levels. Convert it")


def test_an_image_larger_than_the_memory_is_refused_unread(tmp_path, monkeypatch):
    path = shaped(tmp_path, gray((4, 1024, 1024)))
    monkeypatch.setattr(imageio.os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 2048}.get)
    assert imageio.read_images(path, sections="0-1").nbytes == 2 * 2**20
    fails(path, r"4 sections of 1024 x 1024 px.*Choose fewer sections")


@pytest.mark.parametrize("write", (multi_page, shaped, compressed, one_page_for_all, imagej, ome, hdf5))
def test_a_truncated_file_is_refused_or_still_right(tmp_path, write):
    """Wherever a file ends early: never fewer sections, never other pixels."""
    stack = gray((4, 9, 10))
    path = write(tmp_path, stack)
    file = imageio.source_file(path)
    whole = file.read_bytes()
    refused = 0
    for length in range(0, len(whole), 11):
        file.write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(imageio.read_images(path), stack[None])
        except InputError:
            refused += 1
    assert refused > 5


def test_a_truncated_png_is_refused(tmp_path):
    whole = imagecodecs.png_encode(gray((30, 30)))
    for length in (0, 5, 20, 25, 40, len(whole) // 2, len(whole) - 20):
        (tmp_path / "a.png").write_bytes(whole[:length])
        fails(tmp_path / "a.png", "empty|not a PNG|cannot be read")


# ------------------------------------------------------------------------------------------------ annotations


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
    assert f"values 0 and {int(dtype(white))}: membranes black, 66.0% of the pixels" in found.description
    assert "inferred" in found.description and "white_membranes" not in found.description


def test_white_membranes_have_their_setting_and_auto_names_it(tmp_path):
    cells = drawn_cells() > 0
    found = annotation(tmp_path, np.where(cells, 0, 255).astype(np.uint8), kind="white_membranes")
    np.testing.assert_array_equal(found.array[0], cells)
    assert "membranes white" in found.description and "inferred" not in found.description
    taken_for_black = annotation(tmp_path, np.where(cells, 0, 255).astype(np.uint8))
    np.testing.assert_array_equal(taken_for_black.array[0], ~cells)
    assert "`dataset.annotation_kind: white_membranes`" in taken_for_black.description


@pytest.mark.parametrize("kind", ("auto", "black_membranes", "white_membranes"))
def test_black_and_white_are_what_fiji_shows(tmp_path, kind):
    """A mask of Fiji with an inverting LUT has 255 where it shows black."""
    cells = drawn_cells() > 0
    white = ~cells if kind == "white_membranes" else cells
    mask = np.where(white, 0, 255).astype(np.uint8)
    found = annotation(tmp_path, mask, photometric="miniswhite", kind=kind)
    np.testing.assert_array_equal(found.array[0], cells)
    assert "shows 0 as white" in found.description


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32))
def test_labels_are_kept_as_unsigned_integers(tmp_path, dtype):
    labels = instances().astype(dtype)
    for kind in ("auto", "instances"):
        found = annotation(tmp_path, labels, kind=kind)
        assert found.kind == "instances" and found.array.dtype.kind == "u"
        np.testing.assert_array_equal(found.array[0], labels)
        assert "16 values from 1 to 16" in found.description
        assert ("inferred" in found.description) == (kind == "auto")


def test_labels_are_taken_as_they_are_whatever_the_look_of_zero(tmp_path):
    found = annotation(tmp_path, instances(), photometric="miniswhite")
    np.testing.assert_array_equal(found.array[0], instances())


def test_a_single_cell_needs_to_be_said_to_be_one(tmp_path):
    one = (instances() == 6).astype(np.uint8)
    assert annotation(tmp_path, one).kind == "membranes"
    found = annotation(tmp_path, one, kind="instances")
    assert found.kind == "instances" and found.array.sum() == one.sum()


def test_labels_that_tile_the_section_without_background(tmp_path):
    y, x = np.mgrid[:32, :32]
    assert annotation(tmp_path, (1 + y // 8 * 4 + x // 8).astype(np.uint8)).kind == "instances"
    halves = (1 + y // 16).astype(np.uint8)
    with pytest.raises(InputError, match="two values, 1 and 2: which is cell"):
        annotation(tmp_path, halves)
    assert annotation(tmp_path, halves, kind="instances").array.max() == 2


@pytest.mark.parametrize("value", (0, 1, 255))
@pytest.mark.parametrize("kind", imageio.ANNOTATION_KINDS)
def test_an_annotation_of_one_value(tmp_path, value, kind):
    with pytest.raises(InputError, match=f"every pixel of the annotation is {value}; expected"):
        annotation(tmp_path, np.full((2, 8, 8), value, np.uint8), kind=kind)


def test_the_sections_chosen_decide(tmp_path):
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


def test_a_very_narrow_cell_is_believed_where_labels_are_said(tmp_path):
    narrow = np.zeros((20, 24), np.uint16)
    narrow[2:10, 2:9], narrow[2:10, 9] = 1, 2
    assert annotation(tmp_path, narrow, kind="instances").array.max() == 2
    with pytest.raises(InputError, match="gray levels"):
        annotation(tmp_path, narrow)


def test_a_dim_and_smooth_image_is_no_annotation(tmp_path):
    """With few gray levels many neighbours agree; they still form no areas as labels do."""
    noise = np.random.default_rng(0).normal(0, 0.5, (64, 64))
    dim = (ndimage.gaussian_filter(drawn_cells() / 255, 3) * 30 + noise).round().clip(0).astype(np.uint8)
    for kind in ("auto", "instances"):
        with pytest.raises(InputError, match="gray levels, not an annotation"):
            annotation(tmp_path, dim, kind=kind)


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("kind", imageio.ANNOTATION_KINDS)
def test_gray_levels_are_refused_with_their_histogram(tmp_path, spoil, kind):
    spoiled = spoil(drawn_cells().astype(float)).round().clip(0, 255).astype(np.uint8)
    histogram = r"\d+ values, 0 to 31\.875: \d+\.\d+%.*to 255: \d+\.\d+%"
    with pytest.raises(InputError, match=f"{histogram}.*Threshold"):
        annotation(tmp_path, spoiled, kind=kind)


def test_fractions_and_negative_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"negative, too large or broken numbers .*127\.5: .*Fiji"):
        annotation(tmp_path, drawn_cells() / np.float32(2))
    with pytest.raises(InputError, match=r"negative, too large or broken numbers .*-255: .*Fiji"):
        annotation(tmp_path, drawn_cells().astype(np.int16) - 255)


def test_classes_are_not_taken_for_cells(tmp_path):
    cells = drawn_cells(256)
    classes = np.where(cells == 0, 0, np.where(np.arange(256) < 128, 1, 2)).astype(np.uint8)
    with pytest.raises(InputError, match=r"2 values besides 0 .*separate areas each: classes, not cells"):
        annotation(tmp_path, classes)
    assert annotation(tmp_path, classes, kind="instances").kind == "instances"


def test_membranes_with_a_third_value_name_the_way_out(tmp_path):
    with pytest.raises(InputError, match=r"black_membranes` expects two values.*annotation_kind: instances`"):
        annotation(tmp_path, instances(), kind="black_membranes")
    with pytest.raises(InputError, match="expects two values"):
        annotation(tmp_path, drawn_cells() // 255 + 1, kind="white_membranes")


def test_unknown_kind(tmp_path):
    with pytest.raises(InputError, match="annotation_kind`: found membrane, expected one of auto, black_mem"):
        annotation(tmp_path, drawn_cells(), kind="membrane")


# --------------------------------------------------------------------------------------------------- sections


@pytest.mark.parametrize(("text", "sections"), (
    ("", range(9)), (None, range(9)), (" all ", range(9)), ("5", [5]), ("0-3", [0, 1, 2, 3]), ("8-8", [8]),
    ("0-1, 4 ,6 - 7", [0, 1, 4, 6, 7]), ("6,0-1", [0, 1, 6])))
def test_sections_are_read_as_written(text, sections):
    assert imageio.parse_sections(text, 9) == list(sections)


@pytest.mark.parametrize(("text", "match"), (
    ("0-9", r"`0-9`: there is no section 9, only 9 sections, 0-8"), ("3-1", r"3-1 runs backwards\. Write "
                                                                             "1-3"),
    ("1-3,3", "section 3 is named twice"), ("0-99999999999999", "neither a number nor a range"),
    ("-3", "neither"), ("1;2", "neither"), ("1.0", "neither"), ("a", "neither"), ("1,,2", "``"), ("1-",
    "neither"), ("03. Jan", "Spreadsheets turn 1-3 into a date")))
def test_sections_that_cannot_be(text, match):
    with pytest.raises(InputError, match=match):
        imageio.parse_sections(text, 9)


def test_one_section_is_one():
    with pytest.raises(InputError, match="only 1 section, number 0"):
        imageio.parse_sections("1", 1)


def test_sections_out_of_range_name_the_file(tmp_path):
    fails(shaped(tmp_path, gray()), "there is no section 5, only 5 sections, 0-4", sections="2-5")


@given(st.sets(st.integers(0, 60), min_size=1), st.randoms())
def test_any_set_of_sections_can_be_written_as_ranges(sections, random):
    """Write a set as ranges cut at random, in random order: the same set comes back, ascending."""
    parts, run = [], []
    for number in sorted(sections):
        if run and (number != run[-1] + 1 or random.random() < 0.3):
            parts.append(run)
            run = []
        run.append(number)
    parts.append(run)
    random.shuffle(parts)
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in parts)
    assert imageio.parse_sections(text, 61) == sorted(sections)


@given(st.lists(st.integers(0, 10**6), unique=True), st.sampled_from(("slice", "a-", "")), st.randoms())
def test_natural_order_is_the_order_of_the_numbers(numbers, prefix, random):
    names = [f"{prefix}{number}.tif" for number in sorted(numbers)]
    shuffled = random.sample(names, len(names))
    assert sorted(shuffled, key=imageio.natural_key) == names


@given(st.lists(st.text("aB1 20_.-é٣²", max_size=8), unique=True), st.randoms())
def test_natural_order_does_not_depend_on_the_order_before(names, random):
    expected = sorted(names, key=imageio.natural_key)
    assert sorted(random.sample(names, len(names)), key=imageio.natural_key) == expected


# ---------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize(("maximum", "dtype"), (
    (1, "uint16"), (2**16 - 1, "uint16"), (2**16, "uint32"), (2**32 - 1, "uint32")))
def test_labels_come_back_with_axes_and_the_smallest_type(tmp_path, maximum, dtype):
    labels = np.random.default_rng(0).integers(0, maximum, (3, 20, 30), endpoint=True).astype(np.uint32)
    labels[1, 2, 3] = maximum
    with h5py.File(tmp_path / "a.h5", "w") as file:  # an HDF5 dataset serves as well as an array
        imageio.write_labels(tmp_path / "labels.tif", file.create_dataset("labels", data=labels))
    with tifffile.TiffFile(tmp_path / "labels.tif") as tiff:
        series, page = tiff.series[0], tiff.pages[0]
        assert (series.axes, series.dtype, series.shape) == ("ZYX", dtype, (3, 20, 30))
        # what ImageJ's own reader takes: zlib without predictor, strips, and no description in its own format
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


def test_a_failed_write_leaves_what_was_there(tmp_path):
    class Broken:
        shape, dtype = (2, 4, 4), np.dtype(np.float32)

        def __len__(self):
            return 2

        def __getitem__(self, z):
            if z == 1:
                raise RuntimeError("the source went away")
            return np.zeros((4, 4), np.float32)

    (tmp_path / "p.tif").write_bytes(b"former result")
    with pytest.raises(RuntimeError):
        imageio.write_probability(tmp_path / "p.tif", Broken())
    assert [path.name for path in tmp_path.iterdir()] == ["p.tif"]
    assert (tmp_path / "p.tif").read_bytes() == b"former result"


# -------------------------------------------------------------------------------------------------- real data


@needs_data
def test_isbi_2012_is_read_as_membranes():
    images = imageio.read_images(DATA / "isbi2012/train-volume.tif", sections="20-23")
    truth = imageio.read_annotation(DATA / "isbi2012/train-labels.tif", sections="20-23")
    assert images.shape == (1, 4, 512, 512) and images.dtype == np.uint8
    assert truth.kind == "membranes" and 0.7 < truth.array.mean() < 0.85
    assert "membranes black" in truth.description and "white_membranes" not in truth.description
    assert images[0][truth.array == 1].mean() > images[0][truth.array == 0].mean() + 30


@needs_data
def test_isbi_2012_raw_is_no_annotation():
    with pytest.raises(InputError, match="gray levels, not an annotation"):
        imageio.read_annotation(DATA / "isbi2012/train-volume.tif", sections="0")


@needs_data
def test_nuclei_are_read_as_instances_and_their_images_refused_as_annotation():
    labels = sorted((DATA / "nuclei/labels").glob("*.tif"))
    assert len(labels) == 60
    for path in labels:
        truth = imageio.read_annotation(path)  # auto agrees with what the config says
        assert truth.kind == "instances" and truth.array.max() == tifffile.imread(path).max()
        with pytest.raises(InputError, match="gray levels"):
            imageio.read_annotation(DATA / "nuclei/images" / path.name, kind="instances")
