"""Metadata that change polarity, geometry, axes or colours are honoured, or refused with a fix that works."""

import json
import re
import shlex
import struct
import subprocess
import sys
import zlib

import h5py
import imagecodecs
import numpy as np
import pytest
import tifffile
from image_files import drawn_cells, gray, instances
from PIL import Image

from pipeline_lib import imageio
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.errors import InputError

GRAY = gray((7, 11))
CELLS = drawn_cells(32) > 0


def read(path, **settings):
    """Read an image as a whole and block by block, which must agree."""
    whole = imageio.read_images(path, **settings)
    with imageio.open_images(path, **settings) as images:
        assert images.shape == whole.shape and images.dtype == whole.dtype
        for z in range(whole.shape[1]):
            for part in blocks(whole.shape[2:], 5, halo=1):
                np.testing.assert_array_equal(images.read(z, *part.read), whole[:, z, *part.read])
    return whole


def refused(path, match, open_=imageio.read_images, **settings):
    """Require an error about `path`; return the lines of its message that are to be typed in a terminal."""
    with pytest.raises(InputError, match=match) as caught:
        open_(path, **settings)
    assert str(imageio.source_file(path)) in str(caught.value)
    return [line for line in str(caught.value).splitlines() if line.startswith("python ")]


def run(line):
    """Run the Python code of a line that a message names."""
    program, option, code = shlex.split(line)
    assert (program, option) == ("python", "-c")
    exec(code, {})  # the same code in a new process takes half a second


def tiff(path, pages, **tags):
    """Write pages (bytes of one strip each) with exactly these tags, which tifffile would not write."""
    order = tags.pop("order", "<")
    names = {
        "width": 256,
        "height": 257,
        "bits": 258,
        "photometric": 262,
        "fill": 266,
        "orientation": 274,
        "rows": 278,
    }
    offset, content, at = 8, b"", 0
    for number, data in enumerate(pages):
        given = {names[k]: v[number] if isinstance(v, list) else v for k, v in tags.items()}
        given = {259: 1, 277: 1, 278: given[257], 279: len(data)} | given
        size = 2 + 12 * (len(given) + 1) + 4
        given[273] = offset + size
        entries = b"".join(struct.pack(f"{order}HHII", code, 4, 1, given[code]) for code in sorted(given))
        at = offset + size + len(data)
        next_page = at if number + 1 < len(pages) else 0
        content += struct.pack(f"{order}H", len(given)) + entries + struct.pack(f"{order}I", next_page) + data
        offset = at
    path.write_bytes((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8) + content)
    return path


def packed(values, bits):
    """Pack values into bits, most significant first; each row starts at a byte."""
    digits = (values[..., None].astype(int) >> np.arange(bits)[::-1]) & 1
    return np.packbits(digits.reshape(*values.shape[:-1], -1).astype(bool), axis=-1).tobytes()


# -------------------------------------------------------------------------------------------- WhiteIsZero


@pytest.mark.parametrize("bits", (1, 2, 4, 8, 12, 16))
@pytest.mark.parametrize("order", "<>")
def test_white_is_zero_is_inverted_in_all_bit_depths(tmp_path, bits, order):
    values = np.random.default_rng(bits).integers(0, 2**bits, (6, 11))
    data = values.astype(f"{order}u2").tobytes() if bits == 16 else packed(values, bits)
    tags = {"width": 11, "height": 6, "bits": bits, "order": order}
    white = tiff(tmp_path / "a.tif", [data], photometric=0, **tags)
    np.testing.assert_array_equal(read(white)[0, 0], 2**bits - 1 - values)
    black = tiff(tmp_path / "b.tif", [data], photometric=1, **tags)
    np.testing.assert_array_equal(read(black)[0, 0], values)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16, np.uint32, np.uint64))
@pytest.mark.parametrize("compression", (None, "zlib"))
def test_white_is_zero_is_inverted_in_all_unsigned_types(tmp_path, dtype, compression):
    stack = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (3, 7, 11), dtype, endpoint=True)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], np.iinfo(dtype).max - stack)


@pytest.mark.parametrize("bits", (1, 2, 4, 8, 16))
@pytest.mark.parametrize("kind", ("auto", "black_membranes", "white_membranes"))
def test_membranes_of_white_is_zero_are_as_displayed(tmp_path, bits, kind):
    white = ~CELLS if kind == "white_membranes" else CELLS
    stored = np.where(white, 0, 2**bits - 1)
    data = stored.astype("<u2").tobytes() if bits == 16 else packed(stored, bits)
    path = tiff(tmp_path / "a.tif", [data], width=32, height=32, bits=bits, photometric=0)
    found = imageio.read_annotation(path, kind=kind)
    np.testing.assert_array_equal(found.labels[0] > 0, CELLS)
    assert "0 is displayed as white" in found.description


@pytest.mark.parametrize("options", ({}, {"software": "napari"}, {"metadata": None}))
def test_bool_arrays_of_tifffile_are_not_inverted(tmp_path, options):
    """It marks them as WhiteIsZero, although True is 1. Its description or Software tag tells it."""
    tifffile.imwrite(tmp_path / "a.tif", CELLS, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == 0
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, 0], CELLS)
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / "a.tif").labels[0] > 0, CELLS)


@pytest.mark.parametrize("dtype", (np.int8, np.int16, np.float32))
@pytest.mark.parametrize("folder", (False, True))
def test_white_is_zero_of_types_without_black_is_refused(tmp_path, dtype, folder):
    stack = gray((2, 7, 11)).astype(dtype)
    path = tmp_path if folder else tmp_path / "a.tif"
    names = ["a.tif", "b.tif"] if folder else ["a.tif"]
    for name, part in zip(names, stack if folder else [stack], strict=True):
        tifffile.imwrite(tmp_path / name, part, photometric="miniswhite")
    (line,) = refused(path, f"0 is displayed as white .* but {np.dtype(dtype)} defines no value for black")
    run(line)
    np.testing.assert_array_equal(read(path)[0], stack)


def test_float_labels_of_white_is_zero(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", instances().astype("f4"), photometric="miniswhite")
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / "a.tif").labels[0], instances())


def test_labels_of_packed_white_is_zero_are_not_inverted(tmp_path):
    labels = instances(32).astype(int)
    path = tiff(tmp_path / "a.tif", [packed(labels, 4)], width=32, height=32, bits=4, photometric=0)
    np.testing.assert_array_equal(imageio.read_annotation(path, kind="instances").labels[0], labels)


def test_bits_stored_in_reversed_order(tmp_path):
    data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in packed(CELLS, 1))
    path = tiff(tmp_path / "a.tif", [data], width=32, height=32, bits=1, photometric=1, fill=2)
    np.testing.assert_array_equal(read(path)[0, 0], CELLS)


# -------------------------------------------------------------------------------------------- Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "layout", ({}, {"rowsperstrip": 2, "compression": "zlib"}, {"tile": (16, 16)}, {"truncate": True})
)
def test_orientation_is_honoured(tmp_path, caplog, orientation, layout):
    """`Image.transpose` is what Pillow applies for each value of the tag."""
    caplog.set_level("INFO", "bordure")
    stack = gray((2, 20, 37))
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack,
        photometric="minisblack",
        extratags=[(274, 3, 1, orientation, False)],
        **layout,
    )
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    turned = [np.array(Image.fromarray(z).transpose(method) if method is not None else z) for z in stack]
    assert imageio.inspect(tmp_path / "a.tif").shape[2:] == turned[0].shape
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], turned)
    assert ("Orientation" in caplog.text) == (orientation > 1)
    caplog.clear()
    imageio.read_images(tmp_path / "a.tif")
    assert caplog.text.count("Orientation") == (orientation > 1)


def test_orientation_of_colours_and_of_slices(tmp_path):
    colour = gray((7, 11, 3))
    for name, tags in (("1.tif", []), ("2.tif", [(274, 3, 1, 3, True)])):
        tifffile.imwrite(
            tmp_path / name, colour[::-1, ::-1] if tags else colour, photometric="rgb", extratags=tags
        )
    found = read(tmp_path, channels=3)
    np.testing.assert_array_equal(found, np.repeat(np.moveaxis(colour, -1, 0)[:, None], 2, axis=1))


@pytest.mark.parametrize("value", (0, 9))
def test_an_invalid_orientation_is_refused(tmp_path, value):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, extratags=[(274, 3, 1, value, True)])
    (line,) = refused(
        tmp_path / "a.tif", f"Orientation is {value}, which TIFF does not define", imageio.inspect
    )
    run(line)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, 0], GRAY)


@pytest.mark.parametrize("orientations", ([1, 1, 2], [3, 1, 1], [9, 1, 1]))
def test_pages_of_different_orientation_are_refused(tmp_path, orientations):
    stack = gray((3, 6, 8))
    tags = {"width": 8, "height": 6, "bits": 8, "photometric": 1, "orientation": orientations}
    path = tiff(tmp_path / "a.tif", [section.tobytes() for section in stack], **tags)
    run(*refused(path, "Orientation", imageio.inspect))
    np.testing.assert_array_equal(read(path)[0], stack)


def test_pages_of_one_strip_may_state_its_rows_in_two_ways(tmp_path):
    stack = gray((2, 6, 8))
    tags = {"width": 8, "height": 6, "bits": 8, "photometric": 1, "rows": [6, 2**32 - 1]}
    np.testing.assert_array_equal(read(tiff(tmp_path / "a.tif", [*map(bytes, stack)], **tags))[0], stack)


def test_pages_of_different_polarity_are_separate_images(tmp_path):
    tags = {"width": 8, "height": 6, "bits": 8, "photometric": [1, 1, 0]}
    path = tiff(tmp_path / "a.tif", [section.tobytes() for section in gray((3, 6, 8))], **tags)
    refused(path, "2 images of different size or type", imageio.inspect)


def test_pages_of_an_imagej_stack_that_differ_are_refused(tmp_path):
    """tifffile reads only the tags of the first page of such stacks."""
    stack = gray((3, 6, 8))
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "ZYX"}, compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[2].tags[262].overwrite(0)
    (line,) = refused(
        tmp_path / "a.tif", "PhotometricInterpretation of page 2 is 0, but that of the first is 1"
    )
    run(line)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack)


@pytest.mark.parametrize("tags", ([(274, 3, 1, 3, True)], []), ids=("turned", "inverted"))
@pytest.mark.parametrize("other", ("a", "b"))
def test_files_of_an_ome_set_that_differ_are_refused(tmp_path, tags, other):
    path, stack, names = tmp_path / "a.ome.tif", gray((2, 6, 8)), ("a", "b")
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}.ome.tif">urn:uuid:{z}</UUID>'
        "</TiffData>"
        for z, name in enumerate(names)
    )
    for z, name in enumerate(names):
        text = re.sub("<TiffData.*/>", planes, ome(Z=2)).replace("<OME", f'<OME UUID="urn:uuid:{z}"', 1)
        options = {"extratags": tags} if name == other else {}
        options["photometric"] = "miniswhite" if name == other and not tags else "minisblack"
        tifffile.imwrite(tmp_path / f"{name}.ome.tif", stack[z], description=text, metadata=None, **options)
    run(*refused(tmp_path / "b.ome.tif", "but that of the first is", lambda _: imageio.inspect(path)))
    found = read(path)[0]
    np.testing.assert_array_equal(found, 255 - stack if other == "a" and not tags else stack)


# ---------------------------------------------------------------------------------------- number of pages


def described(path, stack, description, **options):
    """Write one page per section, with this description of the first page."""
    options |= {"photometric": "minisblack", "metadata": None, "description": description}
    tifffile.imwrite(path, stack, **options)
    return path


def imagej(**counts):
    return "ImageJ=1.54f\n" + "".join(f"{name}={count}\n" for name, count in counts.items())


def ome(**sizes):
    sizes = {"C": 1, "T": 1, "Z": 1} | sizes
    text = " ".join(f'Size{axis}="{size}"' for axis, size in sizes.items())
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="6" {text}>'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="'
        f'{np.prod([*sizes.values()])}"/></Pixels></Image></OME>'
    )


WRONG_COUNTS = {
    "OME that starts at the second section": ome(Z=5).replace('IFD="0"', 'IFD="0" FirstZ="1"'),
    "ImageJ with fewer images": imagej(images=3, slices=3),
    "ImageJ with more images": imagej(images=8, slices=8),
    "ImageJ with fewer slices": imagej(images=5, slices=3),
    "ImageJ with fewer images than slices": imagej(images=3, slices=5),
    "ImageJ with more channels": imagej(images=10, channels=2, slices=5),
    "ImageJ without images, but frames": imagej(frames=4),
    "ImageJ of one image": imagej(images=1),
    "OME with fewer sections": ome(Z=3),
    "OME with more sections": ome(Z=8),
    "OME with two channels": ome(Z=5, C=2),
    "OME with four frames": ome(T=4),
    "tifffile with fewer sections": json.dumps({"shape": [3, 6, 8]}),
    "tifffile with more sections": json.dumps({"shape": [8, 6, 8]}),
    "tifffile with another size": json.dumps({"shape": [5, 8, 6, 2]}),
}


@pytest.mark.parametrize("compression", (None, "zlib"))
@pytest.mark.parametrize("description", WRONG_COUNTS.values(), ids=WRONG_COUNTS)
def test_a_description_that_contradicts_the_pages_is_refused(tmp_path, description, compression):
    stack = gray((5, 6, 8))
    path = described(tmp_path / "a.tif", stack, description, compression=compression)
    (line,) = refused(path, "does not fit its 5 pages. If the file is truncated", imageio.inspect)
    run(line)
    np.testing.assert_array_equal(read(path)[0], stack)


RIGHT_COUNTS = {
    "ImageJ": imagej(images=5, slices=5),
    "ImageJ time series": imagej(images=5, frames=5),
    "ImageJ without slices": imagej(images=5),
    "ImageJ of Bio-Formats": imagej(channels=1, slices=5, frames=1),
    "ImageJ without counts": imagej(unit="pixel"),
    "OME": ome(Z=5),
    "OME time series": ome(T=5),
    "tifffile": json.dumps({"shape": [5, 6, 8]}),
    "text": "A stack of 7 images",
}


@pytest.mark.parametrize("compression", (None, "zlib"))
@pytest.mark.parametrize("description", RIGHT_COUNTS.values(), ids=RIGHT_COUNTS)
def test_a_description_that_fits_the_pages_is_accepted(tmp_path, description, compression):
    stack = gray((5, 6, 8))
    path = described(tmp_path / "a.tif", stack, description, compression=compression)
    np.testing.assert_array_equal(read(path)[0], stack)


@pytest.mark.parametrize("counts", ({"images": 5, "slices": 5}, {"images": 5}, {"slices": 5}))
def test_one_page_followed_by_the_other_images(tmp_path, counts):
    """ImageJ writes stacks above 4 GB like this."""
    stack = gray((5, 6, 8))
    path = described(tmp_path / "a.tif", stack[0], imagej(**counts) + 100 * " ")
    with open(path, "ab") as file:
        file.write(stack[1:].tobytes())
    if "slices" in counts:
        np.testing.assert_array_equal(read(path)[0], stack)
    else:
        run(*refused(path, "does not fit its 1 page"))
        np.testing.assert_array_equal(read(path)[0], stack)


@pytest.mark.parametrize(
    "counts", ({"images": 5, "slices": 3}, {"images": 3, "slices": 5}, {"images": 9, "slices": 5})
)
def test_contradicting_counts_of_one_page_followed_by_the_other_images(tmp_path, counts):
    stack = gray((5, 6, 8))
    path = described(tmp_path / "a.tif", stack[0], imagej(**counts) + 100 * " ")
    with open(path, "ab") as file:
        file.write(stack[1:].tobytes())
    run(*refused(path, "does not fit its 1 page"))
    np.testing.assert_array_equal(read(path)[0], stack)


def test_sections_written_one_by_one_are_separate_images(tmp_path):
    stack = gray((5, 6, 8))
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for section in stack:
            writer.write(section)
    run(*refused(tmp_path / "a.tif", "found 5 separate images .*If they are its sections", imageio.inspect))
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack)


def test_a_page_of_half_the_size_is_not_left_out(tmp_path):
    """tifffile takes it for a pyramid. It is one only if its tag says so."""
    large, small = gray((32, 32)), gray((16, 16))
    for flags in (0, 1):
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            writer.write(large, metadata=None)
            writer.write(small, metadata=None, subfiletype=flags)
        if flags:
            np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, 0], large)
        else:
            refused(tmp_path / "a.tif", "2 images of different size", imageio.inspect)


def test_a_pyramid_in_subifds_is_read_in_full_size(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        stack = gray((3, 32, 32))
        options = {"photometric": "minisblack", "tile": (16, 16)}
        writer.write(stack, subifds=1, metadata={"axes": "ZYX"}, **options)
        writer.write(np.ascontiguousarray(stack[:, ::2, ::2]), subfiletype=1, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif")[0], stack)


@pytest.mark.parametrize("order", ("czt", "zct", "ztc", "tzc"))
def test_imagej_hyperstacks_in_any_order(tmp_path, order):
    stack = gray((2, 3, 6, 8))  # channels, sections
    pages = stack if order.index("z") < order.index("c") else stack.swapaxes(0, 1)
    description = imagej(images=6, channels=2, slices=3, frames=1, order=order, hyperstack="true")
    path = described(tmp_path / "a.tif", pages.reshape(6, 6, 8), description)
    np.testing.assert_array_equal(read(path, channels=2), stack)


@pytest.mark.parametrize("name", ("a.tif", "a.ome.tif"))
@pytest.mark.parametrize("sections", (2, 3, 5))
def test_sections_that_tifffile_saved_as_channels(tmp_path, name, sections):
    stack = gray((sections, 32, 32))
    labels = np.stack([np.roll(instances(32), z) for z in range(sections)])
    for array in (stack, labels.astype("u2")):
        tifffile.imwrite(tmp_path / name, array, imagej=name == "a.tif", photometric="minisblack")
        open_, settings = imageio.read_images, {}
        if array is not stack:
            open_, settings = imageio.read_annotation, {"kind": "instances"}
        run(
            *refused(tmp_path / name, f"found {sections} channels .*If these are sections", open_, **settings)
        )
        found = open_(tmp_path / name, **settings)
        found = found[0] if array is stack else found.labels
        np.testing.assert_array_equal(found, array)


def test_channels_of_several_sections_are_not_taken_for_sections(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", gray((3, 2, 7, 11)), imagej=True)
    assert refused(tmp_path / "a.tif", "found 2 channels") == []


# ------------------------------------------------------------------------------ other pages and values


def pages(path, *arrays, kinds):
    """Write pages with these values of the tag NewSubfileType."""
    with tifffile.TiffWriter(path) as writer:
        for array in arrays:
            writer.write(array, photometric="minisblack", metadata=None, subfiletype=2)
    with tifffile.TiffFile(path, mode="r+") as file:
        for page, kind in zip(file.pages, kinds, strict=True):
            page.tags[254].overwrite(kind)
    return path


@pytest.mark.parametrize("kinds", ((0, 4), (0, 1), (2, 3), (0, 5), (1, 0), (4, 2)))
def test_copies_and_masks_among_pages_are_no_sections(tmp_path, kinds):
    own = next(place for place, kind in enumerate(kinds) if not kind & 5)
    arrays = [gray((7, 11), seed=seed) for seed in range(2)]
    path = pages(tmp_path / "a.tif", *arrays, kinds=kinds)
    run(*refused(path, f"page {1 - own} is marked as a smaller copy or a mask", imageio.inspect))
    np.testing.assert_array_equal(read(path)[0], [arrays[own]])
    arrays[1 - own] = arrays[1 - own][:3, :5]  # of another size, it is left out
    pages(path, *arrays, kinds=kinds)
    np.testing.assert_array_equal(read(path)[0], [arrays[own]])


def test_pages_of_a_stack_may_all_be_marked(tmp_path):
    stack = gray((2, 7, 11))
    for kinds in ((2, 2), (1, 1)):
        np.testing.assert_array_equal(read(pages(tmp_path / "a.tif", *stack, kinds=kinds))[0], stack)


@pytest.mark.parametrize("described", (True, False))
def test_a_thumbnail_in_front_of_the_image_is_left_out(tmp_path, described):
    options = {"photometric": "minisblack"} | ({} if described else {"metadata": None})
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(gray((3, 4)), subfiletype=1, **options)
        writer.write(GRAY, **options)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, 0], GRAY)


def no_data(path, array, value):
    tifffile.imwrite(path, array, photometric="minisblack", extratags=[(42113, "s", 0, value, True)])
    return path


@pytest.mark.parametrize(("value", "dtype"), (("-9999", np.float32), ("0", np.uint8), ("65535", np.uint16)))
def test_no_data_of_gdal_is_not_a_gray_level(tmp_path, value, dtype):
    array = gray((7, 11), dtype) + dtype(1)
    np.testing.assert_array_equal(read(no_data(tmp_path / "a.tif", array, value))[0, 0], array)
    array[4, 6] = float(value)
    path = no_data(tmp_path / "a.tif", array, value)
    run(
        *refused(
            path, f"found the value {value}, the first in section 0, row 4, column 6, which means no data"
        )
    )
    np.testing.assert_array_equal(read(path)[0, 0], array)


@pytest.mark.parametrize("kind", ("auto", "instances"))
def test_no_data_of_gdal_is_asked_in_an_annotation(tmp_path, caplog, kind):
    labels = instances(32).astype("u1")
    labels[:, 28:] = 200
    path = no_data(tmp_path / "a.tif", labels, "200")
    (line,) = refused(
        path, r"which means no data .* `dataset: \{ignore: 200\}`", imageio.read_annotation, kind=kind
    )
    found = imageio.read_annotation(path, kind=kind, ignore=200)
    np.testing.assert_array_equal(found.labels[0], np.where(labels == 200, 0, labels))
    np.testing.assert_array_equal(found.ignore[0], labels == 200)
    found = imageio.read_annotation(path, kind=kind, background=200)
    np.testing.assert_array_equal(found.labels[0] == 0, labels == 200)
    run(line)
    np.testing.assert_array_equal(imageio.read_annotation(path, kind="instances").labels[0], labels)
    caplog.set_level("INFO", "bordure")
    np.testing.assert_array_equal(
        imageio.read_annotation(no_data(path, instances(32), "0")).labels[0], instances(32)
    )
    assert "0 means no data; it is read as background" in caplog.text


def test_white_is_zero_of_one_bit_is_logged(tmp_path, caplog):
    """A bool array of tifffile without any description looks like a scanned page, in which 0 is white."""
    caplog.set_level("INFO", "bordure")
    tifffile.imwrite(tmp_path / "a.tif", CELLS, metadata=None, software=False)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, 0], ~CELLS)
    assert "inverted, because 0 is displayed as white" in caplog.text
    assert "0 is displayed as white" in imageio.read_annotation(tmp_path / "a.tif").description


# --------------------------------------------------------------------------------------------- HDF5 axes


def hdf5(folder, array, attributes=(), labels=()):
    with h5py.File(folder / "a.h5", "w") as file:
        dataset = file.create_dataset("raw", data=array)
        dataset.attrs.update(attributes)
        for number, label in enumerate(labels):
            dataset.dims[number].label = label
    return f"{folder / 'a.h5'}:/raw"


def vigra(axes):
    return json.dumps(
        {"axes": [{"key": axis, "typeFlags": 2, "resolution": 0, "description": ""} for axis in axes]}
    )


STATED = {
    "a string": {"axes": "yxz"},
    "bytes": {"axes": b"yxz"},
    "capitals": {"Axes": "YXZ"},
    "letters": {"axes": ["y", "x", "z"]},
    "letters as bytes": {"axes": np.array([b"y", b"x", b"z"])},
    "words": {"axis_names": ["row", "column", "Slice"]},
    "separated by commas": {"dimension_order": "y, x, z"},
    "a list as text": {"axes": "['y', 'x', 'z']"},
    "xarray": {"_ARRAY_DIMENSIONS": ["y", "x", "z"]},
    "axistags as letters": {"axistags": "yxz"},
    "axistags": {"axistags": vigra("yxz")},
    "axistags of time": {"axistags": vigra("yxt")},
    "names of labels": {"dimension_labels": ["y", "x", "z"]},
    "labels": {"labels": ["y", "x", "z"]},
    "two that agree": {"axes": "yxz", "axistags": vigra("yxz")},
}


@pytest.mark.parametrize("attributes", STATED.values(), ids=STATED)
def test_axes_of_attributes_in_any_spelling(tmp_path, attributes):
    stack = gray((5, 7, 11))
    path = hdf5(tmp_path, stack.transpose(1, 2, 0), attributes)
    np.testing.assert_array_equal(read(path)[0], stack)


def test_axes_of_dimension_labels(tmp_path):
    stack = gray((5, 7, 11))
    for labels in ("yxz", ("Y", "X", "Z"), ("row", "column", "section")):
        np.testing.assert_array_equal(read(hdf5(tmp_path, stack.transpose(1, 2, 0), labels=labels))[0], stack)


@pytest.mark.parametrize("named", ("scale", "dataset"))
def test_axes_of_dimension_scales(tmp_path, named):
    """As netCDF and xarray write them."""
    stack = gray((5, 7, 11))
    path = hdf5(tmp_path, stack.transpose(2, 1, 0))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        for number, name in enumerate("xyz"):
            file[name] = np.arange(file["raw"].shape[number])
            file[name].make_scale(name if named == "scale" else "This is a netCDF dimension")
            file["raw"].dims[number].attach_scale(file[name])
    np.testing.assert_array_equal(read(path)[0], stack)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["raw"].attrs["axes"] = "zxy"
    (line,) = refused(path, "`axes` `zxy` and the dimension scales `xyz`", lambda _: imageio.inspect(path))
    run(line.replace("'zxy'", "'xyz'"))
    np.testing.assert_array_equal(read(path)[0], stack)


def test_scales_and_labels_that_are_no_axes(tmp_path):
    stack = gray((5, 7, 11))
    path = hdf5(tmp_path, stack, {"labels": ["cell", "membrane"]})
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["phony_dim_0"] = np.arange(5)
        file["phony_dim_0"].make_scale()
        file["raw"].dims[0].attach_scale(file["phony_dim_0"])
        file.attrs["axes"] = "yx"  # of another dataset
    np.testing.assert_array_equal(read(path)[0], stack)


def test_axes_of_the_group(tmp_path):
    """As NeXus writes them. Those of the dataset win."""
    stack = gray((5, 7, 11))
    path = hdf5(tmp_path, stack.transpose(1, 2, 0))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs["axes"] = ["y", "x", "z"]
    np.testing.assert_array_equal(read(path)[0], stack)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["raw"].attrs["axes"] = "xyz"
    np.testing.assert_array_equal(read(path)[0], stack.swapaxes(1, 2))


@pytest.mark.parametrize("attributes", ({"MATLAB_class": np.bytes_("uint8")}, {"order": "F"}))
@pytest.mark.parametrize("axes", ("zxy", "xy", "czxy"))
def test_reversed_axes_are_asked(tmp_path, attributes, axes):
    array = gray((2, 5, 7, 11)[-len(axes) :])
    path = hdf5(tmp_path, array, attributes)
    run(*refused(path, "may be stored in reversed order", imageio.inspect).copy())
    channels = 2 if "c" in axes else 1
    np.testing.assert_array_equal(
        read(path, channels=channels), array.swapaxes(-1, -2).reshape(channels, -1, 11, 7)
    )
    np.testing.assert_array_equal(read(hdf5(tmp_path, gray((5, 7, 11)), {"order": "C"}))[0], gray((5, 7, 11)))


@pytest.mark.parametrize(("origin", "flipped"), (("LL", (0,)), ("UR", (1,)), ("LR", (0, 1))))
def test_an_origin_that_is_not_at_the_upper_left_is_asked(tmp_path, origin, flipped):
    attributes = {"CLASS": "IMAGE", "DISPLAY_ORIGIN": np.bytes_(origin)}
    for chosen, expected in enumerate((GRAY, np.flip(GRAY, flipped))):
        path = hdf5(tmp_path, np.flip(GRAY, flipped), attributes)
        run(refused(path, f"`DISPLAY_ORIGIN` is '{origin}', expected UL")[chosen])
        np.testing.assert_array_equal(read(path)[0, 0], expected)
    assert read(hdf5(tmp_path, GRAY, {"DISPLAY_ORIGIN": "UL"})).shape == (1, 1, *GRAY.shape)


def test_scaled_values_are_asked(tmp_path):
    for chosen, name in enumerate(("raw", "raw_scaled")):
        path = hdf5(tmp_path, GRAY, {"scale_factor": np.array([0.5]), "add_offset": 10.0})
        run(refused(path, "`scale_factor` .* and `add_offset` .* in another scale")[chosen])
        expected = GRAY * 0.5 + 10 if chosen else GRAY
        np.testing.assert_array_equal(read(f"{tmp_path}/a.h5:/{name}")[0, 0], expected)
    np.testing.assert_array_equal(read(hdf5(tmp_path, GRAY, {"scale_factor": 1.0}))[0, 0], GRAY)


def test_an_indexed_image_of_hdf5_has_the_colours_of_its_palette(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), "u1")
    path = hdf5(tmp_path, GRAY, {"CLASS": "IMAGE", "IMAGE_SUBCLASS": np.bytes_("IMAGE_INDEXED")})
    (line,) = refused(path, "IMAGE_INDEXED, but its `PALETTE` is missing")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["palette"] = colours
        file["raw"].attrs["PALETTE"] = file["palette"].ref
    np.testing.assert_array_equal(read(path, channels=3)[:, 0], np.moveaxis(colours[GRAY], -1, 0))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["palette"][:] = np.arange(256)[::-1, None]
    np.testing.assert_array_equal(read(path)[0, 0], 255 - GRAY)
    run(line)
    np.testing.assert_array_equal(read(path)[0, 0], GRAY)


@pytest.mark.parametrize("axes", ("tzyxc", "zyxc", "yxc", "cyx", "zcyx", "czyx"))
def test_axistags_with_a_channel_of_length_1(tmp_path, axes):
    stack = gray((5 if "z" in axes else 1, 7, 11))
    array = stack.reshape(1, 1, *stack.shape).transpose(["tczyx".index(a) for a in "tczyx"])
    array = (
        np.einsum(array, [0, 1, 2, 3, 4], ["tczyx".index(axis) for axis in axes]) if len(axes) == 5 else array
    )
    if len(axes) < 5:
        squeezed = array[0] if "z" in axes else array[0, :, 0]
        names = "czyx" if "z" in axes else "cyx"
        array = squeezed.transpose([names.index(axis) for axis in axes])
    np.testing.assert_array_equal(read(hdf5(tmp_path, array, {"axistags": vigra(axes)}))[0], stack)


@pytest.mark.parametrize(
    ("mode", "axes"), (("INTERLACE_PIXEL", "yxc"), ("INTERLACE_LINE", "ycx"), ("INTERLACE_PLANE", "cyx"))
)
def test_colours_of_the_hdf5_specification_of_images(tmp_path, mode, axes):
    colour = gray((3, 7, 11))
    array = colour.transpose(["cyx".index(axis) for axis in axes])
    path = hdf5(
        tmp_path, array, {"CLASS": "IMAGE", "IMAGE_SUBCLASS": "IMAGE_TRUECOLOR", "INTERLACE_MODE": mode}
    )
    np.testing.assert_array_equal(read(path, channels=3)[:, 0], colour)


def test_white_is_zero_of_the_hdf5_specification_of_images(tmp_path):
    path = hdf5(tmp_path, 255 - GRAY, {"CLASS": "IMAGE", "IMAGE_WHITE_IS_ZERO": np.uint8(1)})
    np.testing.assert_array_equal(read(path)[0, 0], GRAY)


@pytest.mark.parametrize(
    ("shape", "axes"),
    (
        ((64, 64, 30), "yxz"),
        ((64, 64, 60), "yxz"),
        ((64, 50, 8), "yxz"),
        ((64, 64, 3), "yxc"),
        ((64, 50, 4), "yxc"),
        ((5, 64, 3), "yxc"),
        ((5, 64, 64, 3), "zyxc"),
        ((5, 3, 64, 64), "zcyx"),
        ((9, 12, 20, 20), "zcyx"),
        ((3, 2, 64, 64), "zcyx"),
        ((5, 1, 64, 64), "zcyx"),
        ((2, 64, 64, 30), "zyxc"),
    ),
)
def test_a_shape_that_is_unlikely_for_sections_is_refused(tmp_path, shape, axes):
    array = gray(shape)
    path = hdf5(tmp_path, array)
    (line,) = refused(path, "have no names, and their order is unclear", imageio.inspect)
    run(line)
    info = imageio.inspect(path)
    if info.axes != axes.upper():  # the line names an example
        run(line.replace(f"'{info.axes.lower()}'", f"'{axes}'"))
    channels = shape[axes.index("c")] if "c" in axes else 1
    full = [axis for axis in "czyx" if axis in axes]
    expected = array.transpose([axes.index(axis) for axis in full])
    expected = expected.reshape(
        channels, *((1,) if "z" not in axes else ()), *expected.shape[("c" in axes) :]
    )
    np.testing.assert_array_equal(imageio.read_images(path, channels=channels), expected)


@pytest.mark.parametrize(
    "shape", ((30, 64, 64), (64, 64), (3, 64, 64), (64, 64, 64), (100, 40, 40), (100, 30, 60))
)
def test_shapes_of_sections_need_no_axes(tmp_path, shape):
    array = gray(shape)
    np.testing.assert_array_equal(
        imageio.read_images(hdf5(tmp_path, array))[0], array.reshape(-1, *shape[-2:])
    )


def test_channels_first_need_no_axes(tmp_path):
    for shape in ((2, 30, 20, 20), (1, 3, 20, 20), (4, 5, 20, 20)):
        path = hdf5(tmp_path, gray(shape))
        np.testing.assert_array_equal(imageio.read_images(path, channels=shape[0]), gray(shape))


CONTRADICTIONS = {
    "labels and an attribute": ({"axes": "yxz"}, "zyx"),
    "two attributes": ({"axes": "yxz", "axistags": vigra("zyx")}, ""),
    "labels and tags": ({"axistags": vigra("yxz")}, "xyz"),
    "an attribute that is no axes": ({"axes": "yxz", "dims": [1, 2, 3]}, ""),
    "too few letters": ({"axes": "yx"}, ""),
    "unknown letters": ({"axes": "abc"}, ""),
    "labels of some dimensions": ({}, ("y", "", "z")),
}


@pytest.mark.parametrize(("attributes", "labels"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_contradicting_or_unclear_axes_are_refused(tmp_path, attributes, labels):
    stack = gray((5, 7, 11))
    path = hdf5(tmp_path, stack.transpose(1, 2, 0), attributes, labels)
    (line,) = refused(path, "contradict each other|expected one letter for each", imageio.inspect)
    run(line)
    np.testing.assert_array_equal(read(path)[0], stack)


def test_time_and_sections_are_refused_with_a_line_that_writes_a_part(tmp_path):
    stack = gray((2, 5, 7, 11))
    path = hdf5(tmp_path, stack, {"axes": "tzyx"})
    (line,) = refused(path, "are ambiguous", imageio.inspect)
    run(line)
    np.testing.assert_array_equal(read(f"{path}_0")[0], stack[0])


def test_a_line_of_a_message_runs_in_a_terminal(tmp_path):
    """Also for a path with spaces and quotes."""
    folder = tmp_path / 'it\'s a "$HOME" folder'
    folder.mkdir()
    stack = gray((5, 64, 64))
    path = hdf5(folder, np.moveaxis(stack, 0, -1))
    with pytest.raises(InputError, match="order is unclear") as caught:
        imageio.inspect(path)
    line = str(caught.value).splitlines()[-1].replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(["bash", "-c", line], check=True)
    np.testing.assert_array_equal(read(path)[0], stack)


# --------------------------------------------------------------------------- PNG, palettes, transparency


def png(path, rows, bits=8, colour_type=0, chunks=()):
    """Write rows of bytes as PNG, with further chunks."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = len(rows), len(rows[0]) * 8 // bits // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [
        chunk(b"IHDR", header),
        *(chunk(*one) for one in chunks),
        chunk(b"IDAT", data),
        chunk(b"IEND", b""),
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def rows_of(values, bits):
    return [packed(row[None], bits) for row in values]


@pytest.mark.parametrize("bits", (1, 2, 4))
def test_gray_levels_of_few_bits_fill_8_bits(tmp_path, bits):
    """PNG defines this scaling, and all viewers do it: a mask of one bit is 0 and 255."""
    values = np.random.default_rng(0).integers(0, 2**bits, (6, 16))
    path = png(tmp_path / "a.png", rows_of(values, bits), bits)
    np.testing.assert_array_equal(read(path)[0, 0], values * (255 // (2**bits - 1)))


@pytest.mark.parametrize("bits", (1, 2, 4, 8))
@pytest.mark.parametrize("transparent", (False, True))
def test_labels_of_a_palette_are_the_numbers_of_its_colours(tmp_path, bits, transparent):
    labels = np.minimum(instances(32), 2**bits - 1).astype(int)
    colours = np.random.default_rng(0).integers(0, 256, 3 * 2**bits).astype("u1").tobytes()
    chunks = [(b"PLTE", colours)] + [(b"tRNS", b"\0")] * transparent
    path = png(tmp_path / "a.png", rows_of(labels, bits), bits, 3, chunks)
    np.testing.assert_array_equal(np.array(Image.open(path)), labels)
    np.testing.assert_array_equal(imageio.read_annotation(path, kind="instances").labels[0], labels)


def test_labels_of_a_tiff_palette_are_the_numbers_of_its_colours(tmp_path):
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256)).astype("u2")
    labels = instances(32).astype("u1")
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="palette", colormap=colours)
    np.testing.assert_array_equal(imageio.read_annotation(tmp_path / "a.tif").labels[0], labels)


@pytest.mark.parametrize("suffix", ("png", "tif"))
def test_a_gray_palette_is_read_as_displayed(tmp_path, suffix):
    ramp = np.random.default_rng(0).permutation(256).astype("u1")
    image = Image.fromarray(GRAY).copy()
    image = Image.frombytes("P", image.size, GRAY.tobytes())
    image.putpalette(np.repeat(ramp, 3).tobytes())
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read(tmp_path / f"a.{suffix}")[0, 0], ramp[GRAY])


@pytest.mark.parametrize("suffix", ("png", "tif"))
@pytest.mark.parametrize("white", (0, 1))
@pytest.mark.parametrize("kind", ("auto", "black_membranes"))
def test_membranes_of_a_black_and_white_palette_are_as_displayed(tmp_path, suffix, white, kind):
    image = Image.frombytes("P", (32, 32), np.where(CELLS, white, 1 - white).astype("u1").tobytes())
    image.putpalette(bytes([255] * 3 + [0] * 3 if white == 0 else [0] * 3 + [255] * 3))
    image.save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(
        imageio.read_annotation(tmp_path / f"a.{suffix}", kind=kind).labels[0] > 0, CELLS
    )


@pytest.mark.parametrize("suffix", ("png", "tif"))
def test_colours_of_a_palette_are_those_of_an_image(tmp_path, suffix):
    colours = np.random.default_rng(0).integers(0, 256, (256, 3)).astype("u1")
    image = Image.frombytes("P", GRAY.shape[::-1], GRAY.tobytes())
    image.putpalette(colours.tobytes())
    image.save(tmp_path / f"a.{suffix}")
    refused(tmp_path / f"a.{suffix}", r"found colours \(RGB\).* Set `dataset\.channels: 3`")
    np.testing.assert_array_equal(
        read(tmp_path / f"a.{suffix}", channels=3)[:, 0], np.moveaxis(colours[GRAY], -1, 0)
    )


def with_lut(path, colours):
    options = {"photometric": "palette", "metadata": None, "description": imagej(images=1)}
    tifffile.imwrite(path, GRAY, colormap=colours.astype("u2"), **options)
    return path


def test_an_imagej_image_with_a_lut_has_the_measured_values(tmp_path):
    ramp = np.arange(256)
    fire = np.stack(
        [np.clip(3 * ramp, 0, 255), np.clip(3 * ramp - 255, 0, 255), np.clip(3 * ramp - 510, 0, 255)]
    )
    ends = np.stack([np.where(ramp == 255, 0, ramp), ramp, np.where(ramp == 0, 255, ramp)])  # HiLo
    for lut in (fire, ends, np.stack([ramp // 16 * 16] * 3)):
        np.testing.assert_array_equal(read(with_lut(tmp_path / "a.tif", 257 * lut))[0, 0], GRAY)


def test_an_imagej_image_of_8_bit_colours_has_no_gray_levels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256))
    path = with_lut(tmp_path / "a.tif", colours)
    refused(path, r"very different colours in ImageJ.*RGB Color.*Lookup Tables > Grays")
    assert imageio.inspect(with_lut(path, np.where(np.arange(256) < 16, colours, 0))).scattered_lut
    labels = np.kron(1 + np.arange(16).reshape(4, 4), np.ones((9, 9), int))
    labels[::9] = labels[:, ::9] = 0  # label images have such colours
    options = {"photometric": "palette", "metadata": None, "description": imagej(images=1)}
    tifffile.imwrite(path, labels.astype(np.uint8), colormap=colours.astype("u2"), **options)
    assert imageio.read_annotation(path).labels.max() == 16


def test_a_palette_with_too_few_colours_is_damaged(tmp_path):
    path = png(tmp_path / "a.png", [[0, 1, 2]], 8, 3, [(b"PLTE", bytes(6))])
    refused(path, "found the value 2, but its palette has only 2 colours")
    refused(png(tmp_path / "b.png", [[0, 1, 2]], 8, 3), "its palette is missing")


def with_alpha(array, opacity):
    alpha = np.full(array.shape[:2], np.iinfo(array.dtype).max)
    alpha[opacity == 0] = 0
    return np.dstack([array, alpha]).astype(array.dtype)


def write(path, array, **options):
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(array)))
    else:
        colours = array.ndim == 3 and array.shape[-1] > 2
        photometric = "rgb" if colours else options.pop("photometric", "minisblack")
        extra = (
            {"extrasamples": ["unassalpha"], "planarconfig": "contig"} if array.shape[-1] in (2, 4) else {}
        )
        tifffile.imwrite(path, array, photometric=photometric, **extra, **options)
    return path


OPAQUE = np.ones(GRAY.shape)
HOLE = np.where((np.indices(GRAY.shape) == np.array([4, 6])[:, None, None]).all(0), 0, 1)


@pytest.mark.parametrize("dtype", (np.uint8, np.uint16))
@pytest.mark.parametrize("name", ("a.png", "a.tif"))
@pytest.mark.parametrize("channels", (1, 3))
def test_constant_alpha_is_left_out_and_another_is_refused(tmp_path, name, dtype, channels):
    colour = gray((*GRAY.shape, 3)[: channels + 1], dtype)
    expected = np.moveaxis(np.atleast_3d(colour), -1, 0)
    path = write(tmp_path / name, with_alpha(colour, OPAQUE))
    assert imageio.inspect(path).channels == channels
    np.testing.assert_array_equal(read(path, channels=channels)[:, 0], expected)
    write(path, with_alpha(colour, 0 * OPAQUE))  # the same everywhere, so it has no meaning
    np.testing.assert_array_equal(read(path, channels=channels)[:, 0], expected)
    write(path, with_alpha(colour, HOLE))
    lines = refused(
        path, "transparency that varies, the first in section 0, row 4, column 6", channels=channels
    )
    run(*lines)
    np.testing.assert_array_equal(read(path, channels=channels)[:, 0], expected)
    refused(path, "expected 4 channels", channels=4)


def test_inverted_gray_levels_with_alpha(tmp_path):
    path = write(tmp_path / "a.tif", with_alpha(255 - GRAY, HOLE), photometric="miniswhite")
    run(*refused(path, "transparency that varies, the first in section 0, row 4, column 6"))
    np.testing.assert_array_equal(read(path)[0, 0], GRAY)


def test_a_turned_image_with_alpha_stays_turned(tmp_path):
    stored = with_alpha(gray((*GRAY.shape, 3)), HOLE)
    path = write(tmp_path / "a.tif", stored, extratags=[(274, 3, 1, 6, True)])
    # row 4 of 7 is stored at the right, so it is column 2; column 6 is row 6
    run(*refused(path, "transparency that varies, the first in section 0, row 6, column 2", channels=3))
    np.testing.assert_array_equal(
        read(path, channels=3)[:, 0], np.rot90(stored[..., :3], -1).transpose(2, 0, 1)
    )


@pytest.mark.parametrize("name", ("png", "tif"))
def test_transparent_slices_of_a_folder(tmp_path, name):
    stack = [gray((*GRAY.shape, 3), seed=seed) for seed in range(3)]
    for z, section in enumerate(stack):
        write(tmp_path / f"{z}.{name}", with_alpha(section, HOLE if z else OPAQUE))
    run(*refused(tmp_path, "transparency that varies, the first in section 1, row 4, column 6", channels=3))
    np.testing.assert_array_equal(read(tmp_path, channels=3), np.moveaxis(stack, -1, 0))


@pytest.mark.parametrize(("colour_type", "key"), ((0, b"\0\5"), (2, b"\0\5\0\6\0\7")))
def test_a_transparent_colour_of_a_png(tmp_path, colour_type, key):
    row = [1, 2, 3] if colour_type == 0 else [5, 6, 8, 1, 6, 7, 1, 1, 1]
    channels = 1 if colour_type == 0 else 3
    path = png(tmp_path / "a.png", [row], 8, colour_type, [(b"tRNS", key)])
    np.testing.assert_array_equal(read(path, channels=channels)[:, 0, 0].T.ravel(), row)
    row[-channels:] = [5, 6, 7][:channels]
    png(path, [row], 8, colour_type, [(b"tRNS", key)])
    run(
        *refused(path, "transparency that varies, the first in section 0, row 0, column 2", channels=channels)
    )
    np.testing.assert_array_equal(read(path, channels=channels)[:, 0, 0].T.ravel(), row)


def test_a_palette_with_transparency(tmp_path):
    path = png(
        tmp_path / "a.png", [[0, 1, 1]], 8, 3, [(b"PLTE", bytes([9, 8, 7, 1, 2, 3])), (b"tRNS", b"\0")]
    )
    run(*refused(path, "transparency that varies, the first in section 0, row 0, column 1", channels=3))
    np.testing.assert_array_equal(read(path, channels=3)[:, 0, 0].T, [[9, 8, 7], [1, 2, 3], [1, 2, 3]])


@pytest.mark.parametrize("channels", (1, 3))
def test_extra_samples_without_a_meaning(tmp_path, channels):
    """They are channels, or transparency where one channel less is expected."""
    colour = gray((*GRAY.shape, 3)[: channels + 1])
    path, expected = tmp_path / "a.tif", np.moveaxis(np.atleast_3d(colour), -1, 0)
    for opacity in (OPAQUE, HOLE):
        stored = with_alpha(colour, opacity)
        photometric = "rgb" if channels == 3 else "minisblack"
        options = {"photometric": photometric, "extrasamples": ["unspecified"], "planarconfig": "contig"}
        tifffile.imwrite(path, stored, **options)
        np.testing.assert_array_equal(read(path, channels=channels + 1)[:, 0], np.moveaxis(stored, -1, 0))
        if opacity is OPAQUE:
            np.testing.assert_array_equal(read(path, channels=channels)[:, 0], expected)
            imageio.require_channels(path, imageio.inspect(path), channels)
    match = rf"meaning that varies, .*row 4, column 6 \(0, but 255 in .*channels: {channels + 1}`"
    run(*refused(path, match, channels=channels))
    np.testing.assert_array_equal(read(path, channels=channels)[:, 0], expected)


def test_labels_with_an_extra_sample_without_a_meaning(tmp_path):
    labels = instances(32).astype("u1")
    options = {"extrasamples": ["unspecified"], "planarconfig": "contig"}
    for array, photometric in ((labels, "minisblack"), (np.dstack([labels] * 3), "rgb")):
        stored = with_alpha(array, np.ones(labels.shape))
        tifffile.imwrite(tmp_path / "a.tif", stored, photometric=photometric, **options)
        np.testing.assert_array_equal(imageio.read_annotation(tmp_path / "a.tif").labels[0], labels)


@pytest.mark.parametrize("name", ("a.png", "a.tif"))
@pytest.mark.parametrize("alpha", (False, True))
def test_equal_colours_are_read_as_gray_levels(tmp_path, caplog, name, alpha):
    caplog.set_level("INFO", "bordure")
    colour = np.repeat(GRAY[..., None], 3, axis=-1)
    path = write(tmp_path / name, with_alpha(colour, OPAQUE) if alpha else colour)
    np.testing.assert_array_equal(imageio.read_images(path)[0, 0], GRAY)
    assert caplog.text.count("red, green and blue must be equal") == 1
    np.testing.assert_array_equal(read(path, channels=3)[:, 0], [GRAY] * 3)
    imageio.require_channels(path, imageio.inspect(path), 1)
    colour[5, 3, 1] += 1
    write(path, with_alpha(colour, OPAQUE) if alpha else colour)
    refused(path, rf"RGB.*section 0, row 5, column 3 .*{colour[5, 3, 0]}, {colour[5, 3, 1]}.*channels: 3")
    np.testing.assert_array_equal(read(path, channels=3)[:, 0], np.moveaxis(colour, -1, 0))


@pytest.mark.parametrize("name", ("a.png", "a.tif"))
def test_an_annotation_with_equal_colours_is_a_mask(tmp_path, name):
    path = write(tmp_path / name, np.repeat(instances(32)[..., None], 3, axis=-1).astype("u1"))
    np.testing.assert_array_equal(imageio.read_annotation(path).labels[0], instances(32))


@pytest.mark.parametrize("name", ("a.png", "a.tif", "folder"))
def test_an_annotation_with_a_colour_of_16_bits_per_cell(tmp_path, name):
    labels = instances(32)
    colours = np.random.default_rng(0).permutation(256)[: 3 * (labels.max() + 1)].reshape(-1, 3).astype("u2")
    colours[0] = 0
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        write(path / "1.png", colours[labels])
    else:
        write(path, colours[labels])
    match = "found colours .*expected one number per pixel"
    lines = refused(path, match, imageio.read_annotation)
    run(*lines)
    found = imageio.read_annotation(path).labels[0]
    assert len(np.unique(found)) == labels.max() + 1  # one number per colour, which are those of the cells
    np.testing.assert_array_equal(found == 0, labels == 0)
    assert all(len(np.unique(found[labels == label])) == 1 for label in range(labels.max() + 1))


@pytest.mark.parametrize("background", (0, 65535))
@pytest.mark.parametrize("suffix", ("png", "tif"))
def test_colours_of_cells_have_the_same_numbers_in_all_files(tmp_path, background, suffix):
    """Also in a file that is all cells."""
    labels = instances(32)
    colours = np.random.default_rng(0).permutation(256)[: 3 * (labels.max() + 1)].reshape(-1, 3).astype("u2")
    colours[0] = background
    stack = np.stack([labels, np.where(labels == 0, 2, labels), labels.T])
    for z, section in enumerate(stack):
        write(tmp_path / f"{z}.{suffix}", colours[section])
    colour = "white" if background else "black"
    run(*refused(tmp_path, f"each colour is one cell and {colour} is background", imageio.read_annotation))
    found = read(tmp_path)[0]
    np.testing.assert_array_equal(found == 0, stack == 0)
    assert len({*zip(found.ravel().tolist(), stack.ravel().tolist(), strict=True)}) == labels.max() + 1
    assert len(np.unique(found)) == labels.max() + 1


@pytest.mark.parametrize("ignore", (None, 3, -1, 2**64 - 3))
@pytest.mark.parametrize("name", ("a.tif", "folder", "a.h5"))
def test_labels_beyond_32_bits_are_numbered(tmp_path, ignore, name):
    labels = instances(32)
    ids = (
        np.random.default_rng(0)
        .integers(2**40, 2**62, labels.max() + 1)
        .astype("i8" if ignore == -1 else "u8")
    )
    ids[0] = 0
    stack = np.stack([labels, np.where(labels == 3, 0, labels)])
    stored = ids[stack]
    if ignore is not None:
        stored[:, :3] = np.array(ignore).astype(stored.dtype)
    path = tmp_path / name
    if name == "a.h5":
        path = hdf5(tmp_path, stored)
    elif name == "folder":
        path.mkdir()
        for z, section in enumerate(stored):
            write(path / f"{z}.tif", section)
    else:
        tifffile.imwrite(path, stored, photometric="minisblack")
    settings = {"kind": "instances", "ignore": ignore}
    run(
        *refused(
            path, "found labels up to .* expected at most 4,294,967,295", imageio.read_annotation, **settings
        )
    )
    found = imageio.read_annotation(path, **settings).labels
    if ignore is not None:
        stack[:, :3] = 0
    np.testing.assert_array_equal(found == 0, stack == 0)
    pairs = {*zip(found.ravel().tolist(), stack.ravel().tolist(), strict=True)}
    assert len(pairs) == len(np.unique(found)) == len(np.unique(stack))


def test_one_value_beyond_63_bits_is_not_a_label(tmp_path):
    """The Boss of CREMI marks what is not annotated by 2^64 - 3."""
    labels = instances(32).astype("u8")
    labels[:3] = 2**64 - 3
    path = write(tmp_path / "a.tif", labels)
    assert refused(path, rf"`dataset: \{{ignore: {2**64 - 3}\}}`", imageio.read_annotation) == []
    found = imageio.read_annotation(path, ignore=2**64 - 3)
    np.testing.assert_array_equal(found.labels[0, 3:], labels[3:])
    assert found.ignore[0, :3].all() and not found.ignore[0, 3:].any()


def test_messages_for_annotations_do_not_name_steps_that_change_labels(tmp_path):
    """Image > Type > 8-bit scales values, and `dataset.channels` is a setting of the images."""
    four = gray((7, 11, 4))
    tifffile.imwrite(tmp_path / "four.tif", four, photometric="rgb", extrasamples=["unspecified"])
    write(tmp_path / "colour.png", four[..., :3])
    tifffile.imwrite(tmp_path / "complex.tif", GRAY.astype(np.complex64))
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    for name in ("four.tif", "colour.png", "complex.tif", "a.gif"):
        with pytest.raises(InputError) as caught:
            imageio.read_annotation(tmp_path / name)
        assert "Image > Type" not in str(caught.value) and "dataset.channels" not in str(caught.value)


@pytest.mark.parametrize("sections", (3, 4))
def test_a_stack_of_three_or_four_sections_saved_as_colours(tmp_path, sections):
    """tifffile does this by default."""
    stack = gray((sections, 7, 11))
    with pytest.deprecated_call():
        tifffile.imwrite(tmp_path / "a.tif", stack)
    run(refused(tmp_path / "a.tif", "If these are sections, save them as a stack")[0])
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack)


def test_an_animation_is_not_read_as_its_first_image(tmp_path):
    stack = np.stack([gray((7, 11), seed=seed) for seed in range(3)])
    first, *others = map(Image.fromarray, stack)
    first.save(tmp_path / "a.png", save_all=True, append_images=others)
    run(*refused(tmp_path / "a.png", "an animation of 3 images", imageio.inspect))
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack)


# ------------------------------------------------------------------------------ other kinds of TIFF values


@pytest.mark.parametrize(
    "photometric", ("separated", "cielab", "icclab", "cfa", "linear_raw", "ycbcr", "mask")
)
def test_values_that_are_no_gray_levels_or_rgb_are_refused(tmp_path, photometric):
    samples = {"separated": 4, "cfa": 1, "linear_raw": 1, "mask": 1}.get(photometric, 3)
    array = gray((16, 16, samples)) if samples > 1 else gray((16, 16))
    code = tifffile.PHOTOMETRIC[photometric.upper()]
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb" if samples > 2 else "minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags[262].overwrite(code)
    for channels in (1, samples):
        refused(tmp_path / "a.tif", f"values of the kind {photometric.upper()}", channels=channels)


def test_jpeg_colours_are_decoded_as_rgb(tmp_path):
    smooth = (np.indices((32, 32)).sum(0) * 3).astype("u1")
    colour = np.dstack([smooth, 255 - smooth, np.full_like(smooth, 90)])
    tifffile.imwrite(
        tmp_path / "a.tif", colour, photometric="rgb", compression="jpeg", compressionargs={"level": 95}
    )
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    found = imageio.read_images(tmp_path / "a.tif", channels=3)[:, 0].astype(int)
    assert np.abs(found - np.moveaxis(colour, -1, 0)).max() < 8


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("dtype", (np.uint16, np.int16, np.float16, np.float32, np.float64))
@pytest.mark.parametrize("predictor", (False, True))
def test_byte_orders_and_predictors(tmp_path, byteorder, dtype, predictor):
    stack = gray((2, 20, 37), dtype) - dtype(60) if np.dtype(dtype).kind != "u" else gray((2, 20, 37), dtype)
    tifffile.imwrite(
        tmp_path / "a.tif",
        stack,
        photometric="minisblack",
        byteorder=byteorder,
        compression="zlib",
        predictor=predictor,
    )
    found = read(tmp_path / "a.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found[0], stack)


@pytest.mark.parametrize("planar", ("contig", "separate"))
def test_planar_colours_with_equal_planes(tmp_path, planar):
    colour = np.repeat(GRAY[..., None], 3, axis=-1)
    stored = colour if planar == "contig" else np.moveaxis(colour, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0, 0], GRAY)


def test_signed_bytes_keep_their_sign(tmp_path):
    stack = (gray((2, 7, 11)).astype(int) - 100).astype("i1")
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack)


def test_imagej_time_and_sections_are_refused(tmp_path):
    stack = gray((2, 3, 7, 11))
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, metadata={"axes": "TZYX"})
    refused(tmp_path / "a.tif", r"\(T = 2, Z = 3, .*are ambiguous.*Image > Duplicate")
    # what Fiji saves after that step
    tifffile.imwrite(tmp_path / "a.tif", stack[0], imagej=True, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read(tmp_path / "a.tif")[0], stack[0])


def test_slices_of_a_folder_must_agree_in_polarity_and_bits(tmp_path):
    for z, photometric in enumerate(("minisblack", "miniswhite")):
        tifffile.imwrite(tmp_path / f"{z}.tif", GRAY, photometric=photometric)
    refused(tmp_path, r"1\.tif: found", lambda _: imageio.inspect(tmp_path))
    values = GRAY % 16
    for z, bits in enumerate((8, 4)):
        data = packed(values, bits)
        tiff(tmp_path / f"{z}.tif", [data], width=11, height=7, bits=bits, photometric=0)
    refused(tmp_path, r"1\.tif: found .* uint8 of 4 bits, but 0\.tif has .* uint8\.", imageio.inspect)


@pytest.mark.parametrize("suffix", ("png", "tif"))
def test_palettes_that_differ_between_slices(tmp_path, suffix):
    """Programs that reduce the size of files often make a palette for each."""
    ramps = [np.random.default_rng(z).permutation(256).astype("u1") for z in range(2)]
    for z, ramp in enumerate(ramps):
        image = Image.frombytes("P", GRAY.shape[::-1], GRAY.tobytes())
        image.putpalette(np.repeat(ramp, 3).tobytes())
        image.save(tmp_path / f"{z}.{suffix}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for_labels, for_images = refused(
        tmp_path, r"1\.\w+: its palette differs from that of 0\.", imageio.inspect
    )
    refused(tmp_path, "its palette differs")
    run(for_labels)
    np.testing.assert_array_equal(read(tmp_path)[0], [GRAY] * 2)
    for path, content in before.items():
        path.write_bytes(content)
    run(for_images)
    np.testing.assert_array_equal(read(tmp_path)[0], [ramp[GRAY] for ramp in ramps])


@pytest.mark.parametrize("suffix", ("png", "tif"))
@pytest.mark.parametrize("order", (1, -1))
@pytest.mark.parametrize("channels", (1, 3))
def test_transparency_of_only_some_slices(tmp_path, suffix, order, channels):
    colour = gray((*GRAY.shape, 3)[: channels + 1])
    for z, array in enumerate((colour, with_alpha(colour, OPAQUE))[::order]):
        write(tmp_path / f"{z}.{suffix}", array)
    (line,) = refused(tmp_path, r"only some slices of .* have transparency", imageio.inspect)
    refused(tmp_path, "only some slices", channels=channels)
    run(line)
    expected = np.moveaxis(np.atleast_3d(colour), -1, 0)
    np.testing.assert_array_equal(read(tmp_path, channels=channels), np.stack([expected] * 2, axis=1))
