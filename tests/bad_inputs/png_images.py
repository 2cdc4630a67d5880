"""Malformed PNG images."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
from PIL import Image

from .harness import Group
from .sound import bad_image, bad_row, gray

GROUP = Group("Images: PNG")
add, case = GROUP.add, GROUP.case


def png_bytes(array: np.ndarray | None = None) -> bytes:
    """Return an image as PNG, by default one of random gray values."""
    return imagecodecs.png_encode(gray(32, 32) if array is None else array)


def png_header(
    content: bytes, *, width: int | None = None, height: int | None = None, rest: bytes = b""
) -> bytes:
    """Change the header of a PNG, with the right checksum."""
    old = struct.unpack(">II", content[16:24])
    header = struct.pack(">II", width or old[0], height or old[1]) + (rest or content[24:29])
    return content[:16] + header + zlib.crc32(b"IHDR" + header).to_bytes(4, "big") + content[33:]


add("PNG cut off in the pixels", bad_image, "a.png", png_bytes()[:-60])
add("PNG cut off in the header", bad_image, "a.png", png_bytes()[:20])
add("TIFF file named .png", bad_image, "a.png", b"II*\0" + bytes(100))
add("PNG with a damaged header", bad_image, "a.png", png_bytes()[:20] + b"\1" + png_bytes()[21:])
add("PNG with damaged pixels", bad_image, "a.png", png_bytes()[:100] + bytes(8) + png_bytes()[108:])
add(
    "PNG of 1 kB that claims 100,000 x 100,000 px",
    bad_image,
    "a.png",
    png_header(png_bytes(), width=100_000, height=100_000),
)
add(
    "PNG of 8 MB that unpacks to 8 GB of zeros (bomb)",
    bad_image,
    "a.png",
    png_header(png_bytes(), width=90_000, height=90_000)[:33]
    + struct.pack(">I", 2**23)
    + b"IDAT"
    + bytes(2**23 + 4)
    + png_bytes()[-12:],
)
add(
    "PNG without the palette of its indexed colours",
    bad_image,
    "a.png",
    png_header(png_bytes(), rest=b"\x08\x03\0\0\0"),
)
add("PNG with transparency", bad_image, "a.png", png_bytes(gray(32, 32, 2)))
add("PNG with an unknown colour type", bad_image, "a.png", png_header(png_bytes(), rest=b"\x08\x05\0\0\0"))


@case("PNG with a palette of colours")
def _():
    image = Image.fromarray(gray(32, 32)).convert("P")
    image.putpalette(bytes(range(255, -1, -1)) * 3)
    image.save("a.png")
    bad_row("a.png")


@case("PNG with several images (animation)")
def _():
    frames = [Image.fromarray(frame) for frame in gray(3, 32, 32)]
    frames[0].save("a.png", save_all=True, append_images=frames[1:])
    bad_row("a.png")
