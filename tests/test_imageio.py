"""Every readable format gives the same array; every other file gives a message with the next step."""

import itertools
import os

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from image_files import (
    DTYPES,
    WRITERS,
    compressed,
    drawn_cells,
    gray,
    hdf5,
    imagej,
    imagej_frames,
    multi_page,
    ome,
    one_page_for_all,
    one_page_with_depth,
    png_slices,
    shaped,
    tiff_slices,
    tiled_big_endian_bigtiff,
)
from PIL import Image

from pipeline_lib import imageio
from pipeline_lib.runtime.errors import InputError


# bool is stored as single bits, which TIFF supports only on plain pages
@pytest.mark.parametrize(
    ("write", "dtype"),
    [
        (write, dtype)
        for write, dtype in itertools.product(WRITERS, DTYPES)
        if dtype != np.bool_ or write not in (compressed, tiled_big_endian_bigtiff, one_page_for_all)
    ],
)
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
def test_a_single_image_of_any_shape_is_one_section(tmp_path, shape):
    image = gray(shape)
    tifffile.imwrite(tmp_path / "a.tif", image)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = image
    for name in ("a.tif", "a.png", "a.h5:/raw"):
        np.testing.assert_array_equal(imageio.read_images(f"{tmp_path}/{name}"), image[None, None])


@pytest.mark.parametrize("axes", ("CZYX", "ZCYX", "ZYXC"))
def test_channels_come_first_for_any_order_in_the_file(tmp_path, axes):
    stack = gray((2, 4, 6, 8))
    order = ["CZYX".index(axis) for axis in axes]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack.transpose(order)).attrs["axes"] = axes
    paths = [f"{tmp_path / 'a.h5'}:/raw"]
    if axes != "ZYXC":
        tifffile.imwrite(
            tmp_path / "a.ome.tif",
            stack.transpose(order),
            ome=True,
            photometric="minisblack",
            metadata={"axes": axes},
        )
        paths.append(tmp_path / "a.ome.tif")
    for path in paths:
        np.testing.assert_array_equal(imageio.read_images(path, channels=2, sections="1-2"), stack[:, 1:3])


@pytest.mark.parametrize("planar", (False, True))
def test_rgb_is_read_if_three_channels_are_requested(tmp_path, planar):
    colour = gray((4, 6, 8, 3))
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.moveaxis(colour, -1, 1) if planar else colour,
        photometric="rgb",
        planarconfig="separate" if planar else "contig",
    )
    read = imageio.read_images(tmp_path / "a.tif", channels=3)
    np.testing.assert_array_equal(read, np.moveaxis(colour, -1, 0))
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colour[0]))
    np.testing.assert_array_equal(
        imageio.read_images(tmp_path / "a.png", channels=3)[:, 0], np.moveaxis(colour[0], -1, 0)
    )


def test_only_the_requested_sections_are_read(tmp_path):
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
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / name).labels[0] > 0, cells)


def test_white_is_zero_images_are_read_as_they_are_displayed(tmp_path):
    stack = gray()
    tifffile.imwrite(tmp_path / "a.tif", 255 - stack, photometric="miniswhite")
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "a.tif"), stack[None])


def test_a_bool_array_saved_by_tifffile_is_not_inverted(tmp_path):
    """tifffile marks bool arrays as WhiteIsZero; True still means cell."""
    cells = drawn_cells() > 0
    tifffile.imwrite(tmp_path / "a.tif", cells)
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / "a.tif").labels[0] > 0, cells)


# ------------------------------------------------------------------------------------------- unreadable files


def fails(path, match, **settings):
    with pytest.raises(InputError, match=match) as caught:
        imageio.read_images(path, **settings)
    assert str(imageio.source_file(path)) in str(caught.value)


def test_missing_file_suggests_the_most_similar_name(tmp_path):
    shaped(tmp_path, gray())
    fails(tmp_path / "aa.tif", r"no such file or folder\. Did you mean a\.tif\?")
    fails(tmp_path / "nowhere" / "a.tif", "no such file or folder")


def test_empty_file_and_foreign_content_and_unknown_suffix(tmp_path):
    for name, content, match in (
        ("a.tif", b"", "empty"),
        ("b.tif", b"\x89PNG", "not a TIFF file"),
        ("c.png", b"II*\0", "not a PNG"),
        ("d.jpg", b"II*\0", "not a JPEG"),
        ("d.bmp", b"\xff\xd8", "not a BMP"),
        ("d.gif", b"GIF89a", r"suffix `\.gif`"),
        ("e.h5", b"HDF", "cannot be read"),
    ):
        (tmp_path / name).write_bytes(content)
        fails(tmp_path / name, match)


@pytest.mark.parametrize(
    ("names", "missing"),
    (
        ("1 2 3", None),
        ("007 008 009 010", None),
        ("10 20 30", None),
        ("2 3 5", "slice 4 is missing"),
        ("1 2 3 5 7", "slice 4 is missing"),
        ("0 10 30", "slice 20 is missing"),
        ("x3_z1 x3_z2 x3_z4", "slice 3 is missing"),
        ("x3_z1 x4_z2 x5_z4", None),
        ("a b d", None),
        ("4", None),
    ),
)
def test_a_gap_between_slices_is_logged(tmp_path, caplog, names, missing):
    """It is only a warning: sections may have been left out on purpose."""
    for name in names.split():
        tifffile.imwrite(tmp_path / f"{name}.tif", gray((7, 11)))
    assert imageio.inspect(tmp_path).sections == len(names.split())
    assert (missing or "") in caplog.text and bool(missing) == bool(caplog.text)


def test_two_slices_with_the_same_number_raise_an_error(tmp_path):
    for name in ("1", "01", "2"):
        tifffile.imwrite(tmp_path / f"{name}.tif", gray((7, 11)))
    with pytest.raises(InputError, match=r"01\.tif and 1\.tif have the same number"):
        imageio.inspect(tmp_path)


def test_folders_without_slices_or_with_slices_that_differ(tmp_path):
    fails(tmp_path, "contains no images")
    tiff_slices(tmp_path, gray())
    tifffile.imwrite(tmp_path / "slice9.tif", gray((7, 12)))
    with pytest.raises(InputError, match=r"slice9\.tif: .* 7 x 12 px.*slice8\.tif has .* 7 x 11 px"):
        imageio.inspect(tmp_path)
    with pytest.raises(InputError, match=r"slice9\.tif"):
        imageio.read_images(tmp_path)
    tifffile.imwrite(tmp_path / "slice9.tif", gray((7, 11), np.uint16))
    fails(tmp_path, r"slice9\.tif.*uint16.*uint8")
    tifffile.imwrite(tmp_path / "slice9.tif", gray((2, 7, 11)), photometric="minisblack")
    fails(tmp_path, r"slice9\.tif: found 2 sections; expected one section per file")
    png_slices(tmp_path, gray())
    fails(
        tmp_path,
        r"they differ in format .*: /slice\*\.tif \(5 files\), /Slice \*\.PNG \(5 files\); or /\* if",
    )


def test_the_message_for_another_number_of_channels_names_the_setting(tmp_path):
    colour = gray((7, 11, 3))
    tifffile.imwrite(tmp_path / "a.tif", colour, photometric="rgb")
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(colour))
    for name in ("a.tif", "a.png"):
        match = r"RGB, 3 channels \(axes YXS\), expected 4 channels\. Set `dataset\.channels: 3`"
        fails(tmp_path / name, match, channels=4)
    tifffile.imwrite(tmp_path / "mono.tif", gray())
    fails(tmp_path / "mono.tif", r"1 channel, expected 3 channels\. Set `dataset\.channels: 1`", channels=3)


def test_ambiguous_axes_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", gray((2, 3, 7, 11)), imagej=True, metadata={"axes": "TZYX"})
    fails(tmp_path / "a.tif", r"axes TZCYXS \(T = 2, Z = 3, C = 1, Y = 7, X = 11, S = 1\) are ambiguous")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = gray((2, 2, 2, 2, 2))
    fails(f"{tmp_path / 'a.h5'}:/raw", r"(?s)5 dimensions .*d\.attrs\['axes'\]")


def test_several_images_in_one_tiff(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(gray((7, 11)))
        tiff.write(gray((5, 5)))
    fails(tmp_path / "a.tif", "2 images of different size or type.*Save the one to use")


def test_an_incomplete_set_of_ome_files(tmp_path):
    path = ome(tmp_path, gray((2, 7, 11)))
    whole = tifffile.tiffcomment(path)
    uuid = whole.partition('UUID="')[2].partition('"')[0]
    plane = '<TiffData IFD="0" FirstZ="{}" PlaneCount="1"><UUID FileName="{}">{}</UUID></TiffData>'
    planes = plane.format(0, "a.ome.tif", uuid) + plane.format(1, "b.ome.tif", uuid[:-1])
    part = whole.replace('<TiffData IFD="0" PlaneCount="2"/>', planes)
    tifffile.imwrite(path, gray((7, 11)), description=part, metadata=None)
    fails(path, "its OME metadata refer to the file 'b.ome.tif', which is not in the same folder")


def test_hdf5_datasets_are_listed(tmp_path):
    path = hdf5(tmp_path, gray())
    file = str(imageio.source_file(path))
    for name in (file, f"{file}:/raw", f"{file}:/volumes"):
        fails(name, r"Write one of: .*a\.h5:/volumes/raw\.")


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_nan_and_infinity_are_counted_and_located(tmp_path, bad):
    stack = gray(dtype=np.float32)
    stack[2, 3, 4] = stack[2, 6, 1] = stack[4, 0, 0] = bad
    path = shaped(tmp_path, stack)
    fails(path, "3 values are NaN or infinite, the first in section 2, row 3, column 4")
    fails(path, "1 value is NaN or infinite, the first in section 4, row 0, column 0", sections="3-4")
    assert imageio.read_images(path, sections="0-1").shape == (1, 2, 7, 11)


def test_complex_numbers_are_not_gray_levels(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), np.complex64))
    fails(tmp_path / "a.tif", "complex64; expected integer, float or bool values")


def test_an_image_larger_than_the_memory_raises_an_error_before_it_is_read(tmp_path, monkeypatch):
    path = shaped(tmp_path, gray((4, 1024, 1024)))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 2048}.get)
    assert imageio.read_images(path, sections="0-1").nbytes == 2 * 2**20
    fails(path, r"4 sections of 1024 x 1024 px.*Choose fewer sections")


@pytest.mark.parametrize("write", (multi_page, shaped, compressed, one_page_for_all, imagej, ome, hdf5))
def test_a_truncated_file_raises_an_error_or_is_read_correctly(tmp_path, write):
    """A file cut at any byte never gives fewer sections or other pixels."""
    stack = gray((4, 9, 10))
    path = write(tmp_path, stack)
    file = imageio.source_file(path)
    whole = file.read_bytes()
    errors = 0
    for length in range(0, len(whole), 11):
        file.write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(imageio.read_images(path), stack[None])
        except InputError:
            errors += 1
    assert errors > 5


def test_a_truncated_png_raises_an_error(tmp_path):
    whole = imagecodecs.png_encode(gray((30, 30)))
    for length in (0, 5, 20, 25, 40, len(whole) // 2, len(whole) - 20):
        (tmp_path / "a.png").write_bytes(whole[:length])
        fails(tmp_path / "a.png", "empty|not a PNG|truncated")


# --------------------------------------------------------------------------------------------------- sections


@pytest.mark.parametrize(
    ("text", "sections"),
    (
        ("", range(9)),
        (None, range(9)),
        (" all ", range(9)),
        ("5", [5]),
        ("0-3", [0, 1, 2, 3]),
        ("8-8", [8]),
        ("0-1, 4 ,6 - 7", [0, 1, 4, 6, 7]),
        ("6,0-1", [0, 1, 6]),
    ),
)
def test_sections_are_read_as_written(text, sections):
    assert imageio.parse_sections(text, 9) == list(sections)


@pytest.mark.parametrize(
    ("text", "match"),
    (
        ("0-9", r"`0-9`: there is no section 9, only 9 sections, 0-8"),
        (
            "3-1",
            r"3-1 runs backwards\. Write "
            "1-3",
        ),
        ("1-3,3", "section 3 is named twice"),
        ("0-99999999999999", "neither a number nor a range"),
        ("-3", "neither"),
        ("1;2", "neither"),
        ("1.0", "neither"),
        ("a", "neither"),
        ("1,,2", "``"),
        ("1-", "neither"),
        ("03. Jan", "Spreadsheets turn 1-3 into a date"),
    ),
)
def test_invalid_sections(text, match):
    with pytest.raises(InputError, match=match):
        imageio.parse_sections(text, 9)


def test_the_message_for_a_single_section_is_in_the_singular():
    with pytest.raises(InputError, match="only 1 section, number 0"):
        imageio.parse_sections("1", 1)


def test_sections_out_of_range_name_the_file(tmp_path):
    fails(shaped(tmp_path, gray()), "there is no section 5, only 5 sections, 0-4", sections="2-5")


@given(st.sets(st.integers(0, 60), min_size=1), st.randoms())
def test_any_set_of_sections_can_be_written_as_ranges(sections, random):
    """A set written as random ranges in random order is read back in ascending order."""
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
def test_natural_order_does_not_depend_on_the_previous_order(names, random):
    expected = sorted(names, key=imageio.natural_key)
    assert sorted(random.sample(names, len(names)), key=imageio.natural_key) == expected
