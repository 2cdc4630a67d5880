"""Every region of every format equals the slice of the whole image; only the touched parts are decoded."""

import os
import tracemalloc

import h5py
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import (
    WRITERS,
    drawn_cells,
    gray,
    imagej,
    imagej_frames,
    ome,
    one_page_with_depth,
    png_slices,
)
from PIL import Image

from pipeline_lib import imageio
from pipeline_lib.imageio import tiff as tiff_module
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.runtime.errors import InputError


def strips(folder, stack, **settings):
    """Three rows to a strip."""
    settings = {"rowsperstrip": 3, "compression": "zlib"} | settings
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", **settings)
    return folder / "a.tif"


def tiles(folder, stack, **settings):
    settings = {"tile": (16, 32), "compression": "zlib"} | settings
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack", **settings)
    return folder / "a.tif"


def plain_tiles(folder, stack):
    return tiles(folder, stack, compression=None)


def plain_strips(folder, stack):
    return strips(folder, stack, compression=None, byteorder=">")


def predicted_strips(folder, stack):
    return strips(folder, stack, compression="lzw", predictor=True, byteorder=">")


def packed_tiles(folder, stack):
    return tiles(folder, stack, compression="packbits")


def lossless_tiles(folder, stack):
    return tiles(folder, stack, compression="jpeg2000", compressionargs={"reversible": True})


def deep_tiles(folder, stack):
    tifffile.imwrite(
        folder / "a.tif",
        stack,
        photometric="minisblack",
        volumetric=True,
        tile=(2, 16, 16),
        compression="zlib",
    )
    return folder / "a.tif"


def ome_tiles(folder, stack):
    tifffile.imwrite(
        folder / "a.ome.tif",
        stack,
        photometric="minisblack",
        tile=(16, 16),
        compression="zlib",
        metadata={"axes": "ZYX"},
    )
    return folder / "a.ome.tif"


def wide_chunks(folder, stack):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("raw", data=stack, chunks=(1, 5, stack.shape[2]), compression="gzip")
    return f"{folder / 'a.h5'}:/raw"


ALL = (
    *WRITERS,
    imagej,
    imagej_frames,
    ome,
    one_page_with_depth,
    png_slices,
    strips,
    tiles,
    plain_tiles,
    plain_strips,
    predicted_strips,
    packed_tiles,
    lossless_tiles,
    deep_tiles,
    ome_tiles,
    wide_chunks,
)


def some_slice(data, length):
    start = data.draw(st.integers(0, length - 1))
    return slice(start, data.draw(st.integers(start + 1, length)))


@pytest.mark.parametrize("write", ALL)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_region_is_the_slice_of_the_whole(tmp_path_factory, write, data):
    """Regions are read in any order from one open image: cached data never appear in another region."""
    shape = (3, data.draw(st.integers(6, 50)), data.draw(st.integers(5, 70)))
    stack = gray(shape, data.draw(st.sampled_from((np.uint8, np.uint16))))
    path = write(tmp_path_factory.mktemp("image"), stack)
    with imageio.open_images(path, sections="0,2") as images:
        assert images.shape == (1, 2, *shape[1:]) and images.dtype == stack.dtype
        for _ in range(5):
            z, rows, columns = (
                data.draw(st.integers(0, 1)),
                some_slice(data, shape[1]),
                some_slice(data, shape[2]),
            )
            region = images.read(z, rows, columns)
            assert region.dtype == stack.dtype and region.dtype.isnative and region.flags.writeable
            np.testing.assert_array_equal(region, stack[None, 2 * z, rows, columns])


@pytest.mark.parametrize("planar", ("contig", "separate"))
@pytest.mark.parametrize("layout", ({"rowsperstrip": 3}, {"tile": (16, 16)}))
@pytest.mark.parametrize("compression", (None, "zlib"))
def test_regions_of_colour_images(tmp_path, planar, layout, compression):
    colour = gray((2, 40, 50, 3))
    stored = colour if planar == "contig" else np.moveaxis(colour, -1, 1)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="rgb", planarconfig=planar, compression=compression, **layout
    )
    assert_blocks(tmp_path / "a.tif", np.moveaxis(colour, -1, 0), channels=3)


@pytest.mark.parametrize("axes", ("CZYX", "ZCYX"))
def test_regions_of_channels_on_separate_pages(tmp_path, axes):
    stack = gray((2, 4, 30, 20))
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        stack.transpose(["CZYX".index(axis) for axis in axes]),
        photometric="minisblack",
        compression="zlib",
        rowsperstrip=4,
        metadata={"axes": axes},
    )
    assert_blocks(tmp_path / "a.ome.tif", stack, channels=2)


@pytest.mark.parametrize("compression", ("jpeg", "ccitt_t6"))
def test_regions_of_compressions_with_tables_or_bits(tmp_path, compression):
    cells = drawn_cells(100)
    if compression == "jpeg":
        tifffile.imwrite(tmp_path / "a.tif", cells, tile=(32, 32), compression="jpeg")
    else:
        Image.fromarray(cells > 0).save(tmp_path / "a.tif", compression="group4")
    assert_blocks(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.tif")[None, None].astype(np.uint8))


IMAGE_CODECS = ("jpeg", "jpeg2000", "png")


@pytest.mark.parametrize("layout", ({"tile": (32, 48)}, {"rowsperstrip": 24}), ids=("tiles", "strips"))
@pytest.mark.parametrize("compression", (*IMAGE_CODECS, "zstd", "lzma"))
def test_regions_of_compressions_that_embed_images(tmp_path, compression, layout):
    tifffile.imwrite(tmp_path / "a.tif", drawn_cells(100), compression=compression, **layout)
    assert_blocks(tmp_path / "a.tif", tifffile.imread(tmp_path / "a.tif")[None, None])


@pytest.mark.parametrize("compression", IMAGE_CODECS)
@pytest.mark.parametrize("shape", ((600, 32), (32, 600)))
def test_an_image_larger_than_its_tile_raises_an_error_before_it_is_decoded(tmp_path, compression, shape):
    """A kilobyte of JPEG 2000 can contain gigapixels."""
    tifffile.imwrite(
        tmp_path / "large.tif", np.zeros(shape, np.uint8), compression=compression, rowsperstrip=600
    )
    tifffile.imwrite(
        tmp_path / "a.tif", drawn_cells(32), compression=compression, tile=(32, 32), metadata=None
    )
    with tifffile.TiffFile(tmp_path / "large.tif") as tiff:
        page = tiff.pages[0]
        tiff.filehandle.seek(page.dataoffsets[0])
        large = tiff.filehandle.read(page.databytecounts[0])
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tiff:
        tiff.pages[0].tags["TileOffsets"].overwrite([tiff.filehandle.size])
        tiff.pages[0].tags["TileByteCounts"].overwrite([len(large)])
    with open(tmp_path / "a.tif", "ab") as file:
        file.write(large)
    width, height = reversed(shape)
    with pytest.raises(InputError, match=rf"of \({width}, {height}\) in strip or tile 0 of 32 x 32 px"):
        imageio.read_images(tmp_path / "a.tif")


def test_regions_of_images_displayed_inverted(tmp_path):
    stack = gray((2, 30, 40))
    tifffile.imwrite(tmp_path / "a.tif", 255 - stack, photometric="miniswhite", tile=(16, 16))
    assert_blocks(tmp_path / "a.tif", stack[None])


def test_regions_of_an_ome_set_of_two_files(tmp_path):
    stack = gray((2, 30, 40))
    uuid = "urn:uuid:00000000-0000-0000-0000-00000000000{}"
    planes = "".join(
        f'<TiffData IFD="0" FirstZ="{z}" PlaneCount="1"><UUID FileName="{name}.ome.tif">'
        f"{uuid.format(z)}</UUID></TiffData>"
        for z, name in enumerate("ab")
    )
    for z, name in enumerate("ab"):
        ome = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid.format(z)}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            'Type="uint8" SizeX="40" SizeY="30" SizeZ="2" SizeC="1" SizeT="1">'
            f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(
            tmp_path / f"{name}.ome.tif", stack[z], description=ome, metadata=None, compression="zlib"
        )
    assert_blocks(tmp_path / "a.ome.tif", stack[None])


def test_tiles_missing_in_the_file_are_empty(tmp_path):
    path = tiles(tmp_path, np.ones((64, 64), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    expected = np.ones((64, 64), np.uint8)
    expected[:16, :32] = 0
    np.testing.assert_array_equal(tifffile.imread(path), expected)
    assert_blocks(path, expected[None, None])


def assert_blocks(path, stack, channels=1):
    with imageio.open_images(path, channels=channels) as images:
        assert images.shape == stack.shape
        for z in range(stack.shape[1]):
            for block in blocks(stack.shape[2:], 19, halo=3):
                np.testing.assert_array_equal(images.read(z, *block.read), stack[:, z, *block.read])
    np.testing.assert_array_equal(imageio.read_images(path, channels=channels), stack)


# --------------------------------------------------------------------------------- parts that are not decoded


@pytest.mark.parametrize("write", (strips, tiles))
def test_strips_and_tiles_outside_the_region_are_not_read(tmp_path, write):
    stack = gray((2, 60, 64))
    path = write(tmp_path, stack)
    rows, columns = (slice(30, 36), slice(0, 64)) if write is strips else (slice(16, 48), slice(32, 64))
    touched = (10, 11) if write is strips else (3, 5)
    with tifffile.TiffFile(path) as tiff:
        places = [
            (p.dataoffsets[i], p.databytecounts[i])
            for p in tiff.pages
            for i in range(len(p.dataoffsets))
            if p.index == 0 or i not in touched
        ]
    with open(path, "r+b") as file:
        for offset, length in places:
            file.seek(offset)
            file.write(b"\xff" * length)
    with imageio.open_images(path) as images:
        np.testing.assert_array_equal(images.read(1, rows, columns)[0], stack[1, rows, columns])
        with pytest.raises(InputError, match=r"a\.tif: cannot be read"):
            images.read(1, slice(rows.start - 1, rows.stop), columns)


@pytest.mark.parametrize("write", (strips, tiles, png_slices, wide_chunks))
def test_parts_shared_by_a_row_of_blocks_are_decoded_once(tmp_path, write):
    """Pixels are destroyed after the first block is read: the others of the row must come from the cache."""
    # for HDF5, more than its default cache
    stack = np.tile(gray((2, 400, 5000)), (1, 1, 6 if write is wide_chunks else 1))
    path = write(tmp_path, stack)
    row = slice(5, 300)
    blocks_of_row = [slice(0, 40), slice(40, 50), slice(50, 64)]
    with imageio.open_images(path) as images:
        images.read(0, row, blocks_of_row[0])
        if write is tiles:  # the first block covers one tile and a part of the next
            assert images.info.smallest_read == 16 * 32
        destroy_pixels(path)
        for columns in blocks_of_row[1:]:
            np.testing.assert_array_equal(images.read(0, row, columns)[0], stack[0, row, columns])
        if write is not png_slices:
            with pytest.raises(InputError, match="cannot be read"):
                images.read(0, slice(395, 400), slice(0, 40))
        with pytest.raises(InputError):
            images.read(1, row, slice(0, 40))


def destroy_pixels(path):
    file = imageio.source_file(path)
    if file.is_dir():
        for png in file.iterdir():
            os.truncate(png, 40)
        return
    if file.suffix == ".h5":
        with h5py.File(file) as opened:
            found = opened["raw"].id
            chunks = [found.get_chunk_info(i) for i in range(found.get_num_chunks())]
        places = [(chunk.byte_offset, chunk.size) for chunk in chunks]
    else:
        with tifffile.TiffFile(file) as tiff:
            places = [
                place
                for page in tiff.pages
                for place in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
    with open(file, "r+b") as damaged:
        for offset, length in places:
            damaged.seek(offset)
            damaged.write(b"\xff" * length)


@pytest.mark.parametrize(("write", "layout"), ((strips, {"rowsperstrip": 16}), (tiles, {"tile": (64, 64)})))
def test_memory_does_not_grow_with_the_section(tmp_path, write, layout):
    """A block has 32 KiB; the strips of one row of blocks, which are cached, have 512 KiB."""
    side, block = 2048, 128
    path = write(tmp_path, gray((1, side, side), np.uint16), **layout)
    with imageio.open_images(path) as images:
        tracemalloc.start()
        for part in blocks((side, side), block):
            images.read(0, *part.read)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < (1024 if write is strips else 256) * 2**10 < side * side * 2 / 4


def test_strips_beyond_the_limit_are_decoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_module, "CACHE_BYTES", 100_000)
    stack = gray((1, 400, 4000))
    path = strips(tmp_path, stack)
    with imageio.open_images(path) as images:
        tracemalloc.start()
        for part in blocks(stack.shape[1:], 200):
            np.testing.assert_array_equal(images.read(0, *part.read)[0], stack[0, *part.read])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 600_000  # a row of blocks has 800,000


def test_a_single_strip_larger_than_the_limit_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_module, "CACHE_BYTES", 1000)
    stack = gray((1, 3, 4000))
    path = strips(tmp_path, stack)
    with imageio.open_images(path) as images:
        images.read(0, slice(0, 3), slice(0, 100))
        destroy_pixels(path)
        np.testing.assert_array_equal(images.read(0, slice(1, 3), slice(100, 200))[0], stack[0, 1:3, 100:200])


def test_a_region_of_a_file_larger_than_four_gigabytes(tmp_path):
    """The file is sparse and takes no space on the disk."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, shape=(1, 70_000, 70_000), dtype=np.uint8, photometric="minisblack")
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        offset = tiff.pages[0].dataoffsets[0]
    stack = np.memmap(path, np.uint8, "r+", offset, (70_000, 70_000))
    stack[69_998:, 69_990:] = expected = gray((2, 10))
    del stack
    with imageio.open_images(path) as images:
        region = images.read(0, slice(69_700, None), slice(69_990, None))[0]
    np.testing.assert_array_equal(region[-2:], expected)
    assert region.shape == (300, 10) and not region[:-2].any()


# ---------------------------------------------------------------------------------- size of parts, and values


@pytest.mark.parametrize(
    ("write", "expected"),
    (
        (strips, 3 * 70 * 2),
        (tiles, 16 * 32 * 2),
        (plain_strips, 2),
        (plain_tiles, 16 * 32 * 2),
        (deep_tiles, 2 * 16 * 16 * 2),
        (png_slices, 50 * 70 * 2),
        (wide_chunks, 5 * 70 * 2),
    ),
)
def test_the_info_states_how_much_is_decoded_at_once(tmp_path, write, expected):
    path = write(tmp_path, gray((2, 50, 70), np.uint16))
    assert imageio.inspect(path).smallest_read == expected


def test_smallest_read_of_a_folder_is_that_of_its_largest_slice(tmp_path):
    for z, rows in enumerate((5, 40, 10)):
        tifffile.imwrite(tmp_path / f"{z}.tif", gray((50, 70)), compression="zlib", rowsperstrip=rows)
    assert imageio.inspect(tmp_path).smallest_read == 40 * 70


def test_a_page_in_one_strip_that_does_not_fit_raises_an_error(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((5000, 5000), np.uint8), compression="zlib", rowsperstrip=5000
    )
    info = imageio.inspect(tmp_path / "a.tif")
    imageio.require_memory("a.tif", info, 0.0501)
    with pytest.raises(
        InputError,
        match=r"a\.tif: 1 section of 5000 x 5000 px, uint8: .*parts of 0\.025 GB.*"
        r"`memory_gb` is 0\.049\. Save the image uncompressed.*tiles.*HDF5.*raise `memory_gb`",
    ):
        imageio.require_memory("a.tif", info, 0.049)


def test_a_part_larger_than_the_memory_raises_an_error_before_anything_is_decoded(tmp_path, monkeypatch):
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((2000, 2000), np.uint8), compression="zlib", rowsperstrip=2000
    )
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 2048}.get)
    with pytest.raises(InputError, match="compressed in parts"), imageio.open_images(tmp_path / "a.tif"):
        pass


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_nan_and_infinity_are_located_in_the_file(tmp_path, bad):
    stack = gray((4, 40, 50), np.float32)
    stack[3, 25, 31] = bad
    with imageio.open_images(strips(tmp_path, stack), sections="1,3") as images:
        images.read(1, slice(0, 25), slice(None))
        with pytest.raises(InputError, match=r"1 value is .* the first in section 3, row 25, column 31"):
            images.read(1, slice(20, 40), slice(30, 40))


def test_exceptions_of_the_caller_are_not_blamed_on_the_file(tmp_path):
    with pytest.raises(KeyError), imageio.open_images(strips(tmp_path, gray())):
        raise KeyError("mine")
