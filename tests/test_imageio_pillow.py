"""JPEG and BMP files: exact pixels, and what is refused."""

import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline_lib import imageio
from pipeline_lib.runtime.errors import InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (150, 37), np.uint8)  # more rows than are copied at a time
COLOUR = RNG.integers(0, 256, (150, 37, 3), np.uint8)


def bmp(path, pixels, bits, colours=(), compression=0, masks=b"", used=0):
    """Write a BMP file by hand: rows from bottom to top, each padded to 4 bytes."""
    rows = [bytes(row) + bytes(-len(row) % 4) for row in pixels[::-1]]
    table = b"".join(struct.pack("4B", *colour[::-1], 0) for colour in colours)
    start = 14 + 40 + len(masks) + len(table)
    width = len(pixels[0]) * 8 // bits
    body = b"".join(rows)
    sizes = 40 + len(masks), width, len(pixels)
    header = struct.pack("<IiiHHIIiiII", *sizes, 1, bits, compression, len(body), 0, 0, used, 0)
    start_of_file = b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start)
    path.write_bytes(start_of_file + header + masks + table + body)
    return path


def test_gray_levels_and_colours_of_a_jpeg(tmp_path):
    for array, channels in ((GRAY, 1), (COLOUR, 3)):
        Image.fromarray(array).save(tmp_path / "a.JPG", quality=80)
        decoded = np.atleast_3d(imagecodecs.jpeg8_decode((tmp_path / "a.JPG").read_bytes()))
        read = imageio.read_images(tmp_path / "a.JPG", channels=channels)
        np.testing.assert_array_equal(read[:, 0], np.moveaxis(decoded, -1, 0))
        assert imageio.inspect(tmp_path / "a.JPG").lossy


def test_regions_are_parts_of_the_whole(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.bmp")
    with imageio.open_images(tmp_path / "a.bmp", channels=3) as images:
        for rows, columns in ((slice(3, 140), slice(5, 9)), (slice(127, 129), slice(None))):
            np.testing.assert_array_equal(
                images.read(0, rows, columns), COLOUR[rows, columns].transpose(2, 0, 1)
            )


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_as_exif_says(tmp_path, orientation):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[274] = orientation
    image.save(tmp_path / "a.jpg", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    read = imageio.read_images(tmp_path / "a.jpg", channels=3)
    np.testing.assert_array_equal(read[:, 0], expected.transpose(2, 0, 1))


def test_a_gray_jpeg_saved_as_rgb_is_read_as_one_channel(tmp_path, caplog):
    Image.fromarray(GRAY).save(tmp_path / "gray.jpg")
    gray = imageio.read_images(tmp_path / "gray.jpg")
    Image.fromarray(gray[0, 0]).convert("RGB").save(tmp_path / "rgb.jpg", quality=100, subsampling=0)
    with caplog.at_level("INFO"):
        read = imageio.read_images(tmp_path / "rgb.jpg")
    assert "colours are read as gray levels" in caplog.text
    rgb = np.asarray(Image.open(tmp_path / "rgb.jpg"))
    assert (rgb == rgb[..., :1]).all()
    np.testing.assert_array_equal(read[0, 0], rgb[..., 0])


def test_gray_levels_and_colours_of_a_bmp(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "gray.bmp")
    np.testing.assert_array_equal(imageio.read_images(tmp_path / "gray.bmp")[0, 0], GRAY)
    path = bmp(tmp_path / "rgb.bmp", COLOUR[..., ::-1].reshape(150, -1).tolist(), 24)
    np.testing.assert_array_equal(imageio.read_images(path, channels=3)[:, 0], COLOUR.transpose(2, 0, 1))


def test_bits_and_palettes_of_a_bmp(tmp_path):
    """One bit is 0 and 255; a palette has its colours, and as an annotation, the numbers of them."""
    black_white = [(0, 0, 0), (255, 255, 255)]
    one = bmp(tmp_path / "one.bmp", [[0b10100000], [0b01100000]], 1, black_white)
    one.write_bytes(one.read_bytes().replace(struct.pack("<ii", 8, 2), struct.pack("<ii", 3, 2)))
    np.testing.assert_array_equal(imageio.read_images(one)[0, 0], [[255, 0, 255], [0, 255, 255]])
    white_black = bmp(tmp_path / "wb.bmp", [[0b10100000]], 1, black_white[::-1])
    np.testing.assert_array_equal(imageio.read_images(white_black)[0, 0, 0, :3], [0, 255, 0])
    colours = [(n, 2 * n, 255 - n) for n in range(16)]
    four = bmp(tmp_path / "four.bmp", [[0x01, 0x2F]], 4, colours)
    np.testing.assert_array_equal(
        imageio.read_images(four, channels=3)[:, 0, 0].T, np.array(colours)[[0, 1, 2, 15]]
    )
    labels = imageio.read_annotation(four, kind="instances").labels
    np.testing.assert_array_equal(labels[0], [[0, 1, 2, 15]])
    grays = bmp(tmp_path / "grays.bmp", [[0x01, 0x2F]], 4, [(n, n, n) for n in range(16)])
    two = bmp(tmp_path / "two.bmp", [[0, 1, 1]], 8, black_white, used=2)
    for path, bits in ((grays, 4), (two, 8)):  # Pillow 13 reads other values
        with pytest.raises(InputError, match=f"a palette of gray levels for {bits} bits"):
            imageio.inspect(path)


def test_transparency_of_a_bmp(tmp_path):
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = np.dstack([COLOUR[..., ::-1], np.full(GRAY.shape, 7, np.uint8)])
    path = bmp(tmp_path / "a.bmp", pixels.reshape(150, -1).tolist(), 32, compression=3, masks=masks)
    np.testing.assert_array_equal(imageio.read_images(path, channels=3)[:, 0], COLOUR.transpose(2, 0, 1))
    pixels[100, 4, 3] = 8
    bmp(path, pixels.reshape(150, -1).tolist(), 32, compression=3, masks=masks)
    with pytest.raises(InputError, match=r"transparency that varies, .*row 100, column 4 \(8, but 7"):
        imageio.read_images(path, channels=3)


def test_a_folder_of_jpegs_is_a_stack_and_other_formats_are_not_part_of_it(tmp_path):
    for z in range(3):
        Image.fromarray(GRAY + np.uint8(z)).save(tmp_path / f"s{z}.jp{'e' * (z == 1)}g")
    assert imageio.inspect(tmp_path).shape == (1, 3, *GRAY.shape)
    Image.fromarray(GRAY).save(tmp_path / "s3.png")
    with pytest.raises(InputError, match=r"do not show one stack"):
        imageio.inspect(tmp_path)


def test_damaged_files_and_other_kinds_are_refused(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    for name, kind in (("a.jpg", "JPEG"), ("a.bmp", "BMP")):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
        with pytest.raises(InputError, match=f"not a {kind} file"):
            imageio.inspect(tmp_path / name)
        Image.fromarray(COLOUR).save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=r"cannot be read|truncated"):
            imageio.read_images(tmp_path / name, channels=3)
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "cmyk.jpg")
    with pytest.raises(InputError, match="values of the kind CMYK"):
        imageio.inspect(tmp_path / "cmyk.jpg")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match="decompression bomb"):
        imageio.inspect(tmp_path / "a.jpg")


def test_a_large_image_is_read_without_a_second_copy(tmp_path):
    """Above the limit of `Image.open`, too: memory is limited by `memory_gb`."""
    Image.fromarray(np.zeros((6000, 10000), np.uint8)).save(tmp_path / "a.bmp")
    info = imageio.inspect(tmp_path / "a.bmp")
    assert info.smallest_read == 6000 * 10000
    with imageio.open_images(tmp_path / "a.bmp") as images:
        tracemalloc.start()
        assert not images.read(0, slice(0, 1), slice(0, 9)).any()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1.1 * info.smallest_read  # the pixels of Pillow are not traced
