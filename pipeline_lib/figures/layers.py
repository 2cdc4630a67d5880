"""Small pictures for the viewer of the report: each layer of a section as a data URI."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from pipeline_lib.figures.colouring import rgb, tints

#: Quality of WebP, from 0 to 100. EM sections look the same as in the original at this value.
QUALITY = 40


def picture_uri(image: np.ndarray) -> str:
    """Return a picture as WebP, which loses details that are not visible.

    Parameters
    ----------
    image : (y, x) or (y, x, 3) array of uint8
        Gray levels, or RGB.

    Returns
    -------
    str
        Data URI. The same picture gives the same text.
    """
    return _uri(Image.fromarray(image), quality=QUALITY, method=6)


def codes_uri(codes: np.ndarray, colours: dict[int, str]) -> str:
    """Return codes as a picture in which each code has its colour and all others are transparent.

    Parameters
    ----------
    codes : (y, x) array of uint8
        Codes from 1 to 255; 0 = nothing.
    colours : dict of int to str
        Colour of each code that is visible.

    Returns
    -------
    str
        Data URI of a WebP picture without loss.
    """
    table = np.zeros((256, 3), np.uint8)
    for code, colour in colours.items():
        table[code] = rgb(colour)
    visible = np.isin(np.arange(256), [*colours])
    return _lossless(np.where(visible[codes], codes, 0), table)


def cells_uri(cells: np.ndarray, colours_of: np.ndarray) -> tuple[str, int]:
    """Return numbered cells as a picture from whose colours their numbers can be read.

    The number of a cell is in the lowest bits of red, green and blue: bit k is bit k // 3 of channel k % 3.
    The other bits are those of a pale colour, so the picture can also be shown as it is.

    Parameters
    ----------
    cells : (y, x) array of int
        Numbers 1..n, 0 = background, which becomes transparent.
    colours_of : (n,) array of int
        Number of the colour of each cell. 12 colours repeat.

    Returns
    -------
    uri : str
        Data URI of a WebP picture without loss.
    bits : int
        Number of bits of each channel that belong to the number of the cell.

    Examples
    --------
    >>> import numpy as np
    >>> from pipeline_lib.figures.layers import cells_uri
    >>> uri, bits = cells_uri(np.array([[0, 1, 1], [2, 2, 0]]), np.array([1, 2]))
    >>> uri[:22], bits
    ('data:image/webp;base64', 1)
    """
    number = len(colours_of)
    bits = -(-int(number).bit_length() // 3)
    numbers = np.arange(number + 1)
    colours = np.zeros((number + 1, 3), np.uint8)
    pale = tints()
    colours[1:] = pale[np.asarray(colours_of, np.int64) * 5 % len(pale)] & (0xFF << bits & 0xFF)
    for k in range(3 * bits):
        colours[:, k % 3] |= ((numbers >> k & 1) << k // 3).astype(np.uint8)
    return _lossless(cells, colours), bits


def gray_if_equal(picture: np.ndarray) -> np.ndarray:
    """Return a picture as gray levels if all its channels are equal.

    Parameters
    ----------
    picture : (y, x, 3) array
        RGB.

    Returns
    -------
    (y, x) or (y, x, 3) array
        One channel, or the picture itself.
    """
    return picture[..., 0] if (picture == picture[..., :1]).all() else picture


def _lossless(codes: np.ndarray, colours: np.ndarray) -> str:
    """Return the colour of each code as data URI; code 0 is transparent."""
    shown = np.dstack([colours[codes], np.where(codes > 0, 255, 0).astype(np.uint8)])
    return _uri(Image.fromarray(shown), lossless=True, quality=100, method=4)


def _uri(image: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "webp", **options)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
