"""Pictures of one section for a comparison: raw image, annotation, and what each variant found."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping

import numpy as np
from PIL import Image

from pipeline_lib.figures.boxes import Line, box_overlay
from pipeline_lib.figures.colouring import hatched, instances_coloured, magnified, outline_overlay
from pipeline_lib.figures.parts import ANNOTATED, WINDOW, matched_labels, middle_shown, numbered
from pipeline_lib.kernels.boxes import Boxes
from pipeline_lib.kernels.sections import ignored_pixels, without
from pipeline_lib.runtime.types import Stored

RAW, TRUTH = "raw image", "annotation"  # names of the first two pictures


def section_pictures(
    raw: Stored, labels: Stored | None, ignore: Stored | None, segmented: Mapping[str, Stored], z: int
) -> dict[str, np.ndarray]:
    """Draw one section of a volume with its annotation and its segmentations.

    A segment has the colour of the annotated cell with which it shares most pixels, so segmentations can be
    compared by their colours. Pixels that are not annotated are hatched. Of a large section, the middle
    `WINDOW` px are shown. Arrays may be HDF5 datasets; only this is read (of the raw image, up to the middle
    `LARGEST` px, which set the contrast).

    Parameters
    ----------
    raw : (c, z, y, x) array
        Raw image.
    labels : (z, y, x) array or None
        Instance labels of the annotation. None if it has boxes alone; then nothing is segmented.
    ignore : (z, y, x) array or None
        Pixels that are not annotated. None if all are.
    segmented : dict of str to (z, y, x) array
        Predicted instance labels of each variant.
    z : int
        Section to draw.

    Returns
    -------
    dict of str to (y, x, 3) array of uint8
        Pictures, RGB: `RAW`, `TRUTH` (the outlines of the annotated cells on the raw image), and one for each
        variant.
    """
    gray, (y, x) = middle_shown(raw, z)
    if labels is None:
        return {RAW: gray}
    ignored = ignored_pixels(ignore, z, (y, x))
    _, truth = numbered(without(labels[z, y, x], ignored))
    pictures = {RAW: gray, TRUTH: hatched(outline_overlay(gray, truth, ANNOTATED), ignored)}
    for name, array in segmented.items():
        found = matched_labels(truth, numbered(array[z, y, x])[1])
        pictures[name] = hatched(instances_coloured(found), ignored)
    return pictures


def box_pictures(
    raw: Stored, ignore: Stored | None, boxes: Mapping[str, Iterable[tuple[Boxes, Line]]], z: int
) -> dict[str, np.ndarray]:
    """Draw boxes on one section of a volume, on the same pixels as `section_pictures`.

    A small section is magnified, up to `WINDOW` px, so that lines do not hide small objects.

    Parameters
    ----------
    raw : (c, z, y, x) array
        Raw image.
    ignore : (z, y, x) array or None
        Pixels that are not annotated. None if all are.
    boxes : dict of str to iterable of ((n, 4) array of float64, Line)
        For each picture the boxes (px of the section) of each kind and how they are drawn.
    z : int
        Section to draw.

    Returns
    -------
    dict of str to (y, x, 3) array of uint8
        Pictures, RGB. Their size is a multiple of that of `section_pictures`.
    """
    gray, window = middle_shown(raw, z)
    scale = max(WINDOW // max(gray.shape), 1)
    picture = hatched(magnified(gray, scale), ignored_pixels(ignore, z, window))
    return {name: box_overlay(picture, kinds, window, scale) for name, kinds in boxes.items()}


def palette_png(picture: np.ndarray) -> bytes:
    """Return a picture as PNG with at most 256 colours, which is small.

    Parameters
    ----------
    picture : (y, x, 3) array of uint8
        The picture, RGB. With up to 256 colours it is stored exactly, otherwise with similar ones.

    Returns
    -------
    bytes
        The PNG file.

    Examples
    --------
    >>> import io
    >>> import numpy as np
    >>> from PIL import Image
    >>> from pipeline_lib.figures.comparison import palette_png
    >>> picture = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    >>> np.asarray(Image.open(io.BytesIO(palette_png(picture))).convert("RGB")).tolist()
    [[[255, 0, 0], [0, 0, 255]]]
    """
    codes = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found, index = np.unique(codes, return_inverse=True)
    colours = np.stack([found >> 16, found >> 8, found], axis=1).astype(np.uint8)
    if len(colours) <= 256:
        image = Image.fromarray(index.reshape(picture.shape[:2]).astype(np.uint8), "P")
        image.putpalette(colours.tobytes())
    else:
        image = Image.fromarray(picture).quantize(256, dither=Image.Dither.NONE)
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()
