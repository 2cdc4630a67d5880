"""Malformed TIFF images."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from .harness import Group
from .png_images import png_bytes
from .sound import bad_image, bad_row, gray, sound_run, write_config

GROUP = Group("Images: TIFF")
add, case = GROUP.add, GROUP.case


def write_tiff(
    name: str = "a.tif",
    array: np.ndarray | None = None,
    change: Callable[[bytes], bytes] | None = None,
    **options: Any,
) -> None:
    """Write a TIFF, change its bytes, and use it as the images of the volume `bad`."""
    tifffile.imwrite(
        name, gray(3, 32, 32) if array is None else array, **({"photometric": "minisblack"} | options)
    )
    content = Path(name).read_bytes()
    bad_image(name, change(content) if change else content)


def with_tag(content: bytes, code: int, value: int, kind: tuple[int, int] = (4, 1)) -> bytes:
    """Change a tag of the first page of a little-endian TIFF. `kind` is its type (4 = LONG) and count."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        at = file.pages[0].tags[code].offset
    return content[: at + 2] + struct.pack("<HII", *kind, value) + content[at + 12 :]


def without_tag(content: bytes, code: int) -> bytes:
    """Replace a tag of the first page of a little-endian TIFF by one without meaning."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        at = file.pages[0].tags[code].offset
    return content[:at] + struct.pack("<H", 65000) + content[at + 2 :]


def with_next(content: bytes, page: int, offset: int) -> bytes:
    """Change the offset of the page that follows `page` in a little-endian TIFF."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        at = file.pages[page].offset
    at += 2 + 12 * struct.unpack("<H", content[at : at + 2])[0]
    return content[:at] + struct.pack("<I", offset) + content[at + 4 :]


add("missing file", bad_row, "imagse.tif")
add("empty file", bad_image, "a.tif", b"")
add("text file named .tif", bad_image, "a.tif", b"These are no images.\n")
add("PNG file named .tif", bad_image, "a.tif", png_bytes())
add("JPEG file named .bmp", bad_image, "a.bmp", imagecodecs.jpeg8_encode(gray(32, 32)))
add("PNG file named .jpg", bad_image, "a.jpg", png_bytes())
add("JPEG file cut off in the pixels", bad_image, "a.jpg", imagecodecs.jpeg8_encode(gray(32, 32))[:-200])
add("file cut off in the header", write_tiff, change=lambda content: content[:6])
add("file cut off in the page table of the first page", write_tiff, change=lambda content: content[:30])
add("file cut off in the pixels", write_tiff, change=lambda content: content[:-100])
add(
    "compressed file cut off in its last strip",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: content[:-100],
)
add(
    "strips of a page located beyond the end of the file",
    write_tiff,
    metadata=None,
    change=lambda content: with_tag(content, 273, 2**31),
)
add(
    "page table located beyond the end of the file",
    write_tiff,
    metadata=None,
    change=lambda content: with_next(content, 0, 2**30),
)
add("circular chain of pages", write_tiff, metadata=None, change=lambda content: with_next(content, 1, 8))
add(
    "page table that extends beyond the end of the file, whose last bytes point to a page",
    write_tiff,
    metadata=None,
    change=lambda content: content[:8] + struct.pack("<H", 4000) + content[10:-4] + struct.pack("<I", 8),
)
add("no pages", bad_image, "a.tif", b"II*\0\0\0\0\0")
add(
    "strips of 0 rows",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(content, 278, 0),
)
add(
    "no height, and bytes instead of an integer for the rows of a strip (4 bytes, 2,147,483,648 times)",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(with_tag(without_tag(content, 257), 256, 2**31), 278, 32, kind=(1, 4)),
)
add(
    "fewer strips than the height requires",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(content, 278, 1),
)
add(
    "file of 1 kB that claims 2,147,483,648 x 2,147,483,648 px",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: with_tag(with_tag(with_tag(content, 256, 2**31), 257, 2**31), 278, 2**31),
)
add(
    "strip of zeros that unpacks to 8 GB",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    rowsperstrip=32,
    change=lambda content: (
        with_tag(with_tag(with_tag(content, 256, 90_000), 257, 90_000), 278, 90_000) + bytes(2**21)
    ),
)
add(
    "damaged strip",
    write_tiff,
    array=gray(32, 32),
    compression="zlib",
    metadata=None,
    change=lambda content: content[:-400] + bytes(400),
)


@case("strip that unpacks to more than its size (deflate bomb)")
def _():
    bomb = zlib.compress(bytes(10**8), 9)

    def change(content: bytes) -> bytes:
        return with_tag(with_tag(content, 273, len(content)), 279, len(bomb)) + bomb

    write_tiff(array=gray(32, 32), compression="zlib", metadata=None, change=change)


@case("tile that contains a JPEG 2000 image of 3,000 x 3,000 px (bomb)")
def _():
    bomb = imagecodecs.jpeg2k_encode(np.zeros((3000, 3000), np.uint8))

    def change(content: bytes) -> bytes:
        return with_tag(with_tag(content, 324, len(content)), 325, len(bomb)) + bomb

    write_tiff(array=gray(32, 32), compression="jpeg2000", tile=(32, 32), metadata=None, change=change)


add(
    "WebP compression, whose unpacked size is unknown",
    write_tiff,
    array=gray(32, 32, 3),
    photometric="rgb",
    compression="webp",
)
add(
    "JPEG XR compression, whose decoder crashes on damaged images",
    write_tiff,
    array=gray(32, 32),
    compression="jpegxr",
    metadata=None,
)


@case("pages of two sizes")
def _():
    with tifffile.TiffWriter("a.tif") as writer:
        writer.write(gray(32, 32))
        writer.write(gray(16, 16))
    bad_row("a.tif")


@case("pages of two data types")
def _():
    with tifffile.TiffWriter("a.tif") as writer:
        writer.write(gray(32, 32))
        writer.write(gray(32, 32, dtype=np.uint16))
    bad_row("a.tif")


def two_channels() -> None:
    """Use two files of different size as the channels of the volume `bad`."""
    tifffile.imwrite("a.tif", gray(32, 32), photometric="minisblack")
    tifffile.imwrite("b.tif", gray(32, 31), photometric="minisblack")
    bad_row("a.tif + b.tif")


add("channels of different size in two files", two_channels)
add("a channel that does not exist", write_config, "dataset: {channels: [DAPI]}\n")
add("three channels (RGB)", write_tiff, array=gray(32, 32, 3), photometric="rgb")
add("RGB with transparent pixels", write_tiff, array=gray(32, 32, 4), photometric="rgb")
add("three sections saved as colours", write_tiff, photometric="rgb", planarconfig="separate")
add("four channels (CMYK)", write_tiff, array=gray(32, 32, 4), photometric="separated")
add(
    "stack with both time and depth",
    write_tiff,
    array=gray(2, 3, 32, 32),
    imagej=True,
    metadata={"axes": "TZYX"},
)


@case("data type different from the other images")
def _():
    write_tiff(array=gray(3, 32, 32, dtype=np.uint16))


@case("floats from 0 to 1, where the other images are 8-bit")
def _():
    write_tiff(array=gray(3, 32, 32, dtype=np.float32) / np.float32(255))


def sound_of_floats() -> None:
    """Write images from 0 to 1."""
    sound_run(np.float32)
    tifffile.imwrite("images.tif", tifffile.imread("images.tif") / 255, photometric="minisblack")


@case("gray levels of 16 bits, where the other images are floats from 0 to 1")
def _():
    sound_of_floats()
    write_tiff(array=257 * gray(3, 32, 32, dtype=np.float32))


@case("unsigned gray levels that Fiji made from signed ones")
def _():
    sound_run(np.int16)
    write_tiff(array=gray(3, 32, 32, dtype=np.uint16) + np.uint16(32768))


@case("gray levels of mean 0, where the other images are floats from 0 to 1")
def _():
    sound_of_floats()
    image = gray(3, 32, 32, dtype=np.float32)
    write_tiff(array=(image - image.mean()) / image.std())


@case("percentages, where the other images are floats from 0 to 1")
def _():
    sound_of_floats()
    write_tiff(array=gray(3, 32, 32, dtype=np.float32) / np.float32(1.3))


@case("gray levels of 16 bits, where the other images have 8 bits in files of 16 bits")
def _():
    sound_run(np.uint16)
    write_tiff(array=500 * gray(3, 32, 32, dtype=np.uint16))


def write_floats(value: float) -> None:
    """Write float images, one of whose pixels has this value."""
    sound_run(np.float32)
    stack = gray(3, 32, 32, dtype=np.float32)
    stack[1, 5, 7] = value
    write_tiff(array=stack)


@case("floats of which 0 is white")
def _():
    sound_run(np.float32)
    write_tiff(array=gray(32, 32, dtype=np.float32), photometric="miniswhite")


add("sections that tifffile saved as channels", write_tiff, imagej=True)
add("page marked as a mask", write_tiff, metadata=None, subfiletype=1, change=lambda c: with_tag(c, 254, 0))
add(
    "pixels without data",
    write_tiff,
    array=np.zeros((3, 32, 32), np.uint8),
    extratags=[(42113, "s", 0, "0", True)],
)
add("orientation that is not defined", write_tiff, extratags=[(274, 3, 1, 9, True)])
add(
    "pages of which only the first is turned",
    write_tiff,
    metadata=None,
    extratags=[(274, 3, 1, 1, False)],
    change=lambda content: with_tag(content, 274, 3, kind=(3, 1)),
)


@case("sections written one by one")
def _():
    with tifffile.TiffWriter("a.tif") as writer:
        for section in gray(3, 32, 32):
            writer.write(section)
    bad_row("a.tif")


add(
    "ImageJ metadata of more pages", write_tiff, metadata=None, description="ImageJ=1.54f\nimages=5\nslices=5"
)
add(
    "ImageJ metadata of fewer pages",
    write_tiff,
    metadata=None,
    description="ImageJ=1.54f\nimages=2\nslices=2",
)
add("NaN values", write_floats, np.nan)
add("infinite values", write_floats, np.inf)


@case("complex numbers")
def _():
    write_tiff(array=gray(3, 32, 32).astype(np.complex64))


def write_ome(planes: str) -> None:
    """Write an OME-TIFF with this description of its planes."""
    xml = (
        '<OME UUID="urn:uuid:1"><Image><Pixels DimensionOrder="XYZCT" Type="uint8" SizeX="32" SizeY="32" '
        f'SizeZ="3" SizeC="1" SizeT="1"><Channel SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
    )
    write_tiff(name="a.ome.tif", description=xml, metadata=None)


add("OME metadata of fewer sections", write_ome, '<TiffData IFD="0" FirstZ="1"/>')
add(
    "OME metadata that name a file in another folder",
    write_ome,
    '<TiffData IFD="0" FirstZ="0"><UUID FileName="/dev/zero">urn:uuid:2</UUID></TiffData>',
)
add(
    "OME metadata that name a missing file",
    write_ome,
    '<TiffData IFD="0" FirstZ="0"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>',
)
add(
    "OME metadata that are not XML",
    write_tiff,
    name="a.ome.tif",
    description="<OME><Image></OME>",
    metadata=None,
)
