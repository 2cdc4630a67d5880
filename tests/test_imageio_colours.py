"""Annotations as colours (RGB) and as JPEG: what is read, and what is refused with which fix."""

import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline_lib import imageio
from pipeline_lib.runtime.errors import InputError

RNG = np.random.default_rng(0)


def cells(size=128, number=25):
    """Return instance labels of round cells that do not touch."""
    labels = np.zeros((size, size), np.uint8)
    y, x = np.mgrid[:size, :size]
    side = round(number**0.5)
    for label in range(1, number + 1):
        centre = (np.array(divmod(label - 1, side)) + 0.5) * size / side
        labels[np.hypot(y - centre[0], x - centre[1]) < 0.35 * size / side] = label
    return labels


LABELS = cells()
COLOURS = np.vstack([np.zeros((1, 3), int), RNG.permutation(256)[:75].reshape(25, 3)]).astype(np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


def same_cells(found, expected):
    """Return whether two labellings have the same cells, whatever their numbers."""
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    return (
        np.array_equal(found == 0, expected == 0)
        and len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    )


def refused(path, match, **settings):
    with pytest.raises(InputError, match=match) as caught:
        imageio.read_annotation(path, **settings)
    return str(caught.value)


def type_line(message):
    """Run the line that a message says to type."""
    line = next(line for line in message.splitlines() if line.startswith("python -c"))
    arguments = shlex.split(line)
    subprocess.run([sys.executable, *arguments[1:]], check=True)


@pytest.mark.parametrize("suffix", ("png", "bmp", "tif"))
def test_each_colour_is_a_cell(tmp_path, suffix):
    path = save(tmp_path / f"a.{suffix}", COLOURS[LABELS])
    message = refused(path, "found 26 colours, whose meaning is not stated")
    assert "If each colour is one cell, set `dataset: {annotation_kind: instances}`." in message
    found = imageio.read_annotation(path, kind="instances")
    assert same_cells(found.labels[0], LABELS)
    assert found.labels.max() == 25  # numbered from 1
    assert "25 values of colours" in found.description
    assert not found.doubts
    order = np.argsort([int.from_bytes(bytes(colour)) for colour in COLOURS])
    np.testing.assert_array_equal(order[found.labels[0]], LABELS)  # by 0xRRGGBB, ascending


def test_a_stated_background_of_colours(tmp_path):
    colours = COLOURS.copy()
    colours[0], colours[3] = 255, 0
    path = save(tmp_path / "a.png", colours[LABELS])
    message = refused(path, "meaning is not stated")
    assert "set `dataset: {annotation_kind: instances, background: 0xFFFFFF}`." in message
    labels = imageio.read_annotation(path, kind="instances", background=0xFFFFFF).labels[0]
    assert same_cells(labels, LABELS)  # also the black cell


def test_colours_of_classes(tmp_path):
    inside = ndimage.minimum_filter(LABELS, 3)
    classes = np.where(LABELS == 0, 0, np.where(inside > 0, 1, 2))
    colours = np.array([[255, 255, 255], [200, 0, 0], [0, 0, 255]], np.uint8)
    path = save(tmp_path / "a.png", colours[classes])
    message = refused(path, r"found 3 colours.*0x0000FF: 10\.25% in 25 areas")
    stated = "classes: {background: 0xFFFFFF, cell: 0xC80000, border: 0x0000FF}"
    assert f"set `dataset: {{annotation_kind: classes, {stated}}}`" in message
    own = {"background": 0xFFFFFF, "cell": 0xC80000, "border": 0x0000FF}
    found = imageio.read_annotation(path, kind="classes", classes=own)
    assert same_cells(found.labels[0], LABELS)
    message = refused(
        path, "0x0000FF have no class", kind="classes", classes={"background": 0xFFFFFF, "cell": 0xC80000}
    )
    thick = np.array([[255, 255, 255], [200, 0, 0]], np.uint8)[np.minimum(classes, 1)]
    message = refused(save(path, thick), "found 2 colours")
    assert "classes: {background: 0xFFFFFF, cell: 0xC80000}}`" in message


def test_an_ignored_colour(tmp_path):
    picture = COLOURS[LABELS]
    picture[:20] = 128, 0, 128
    path = save(tmp_path / "a.png", picture)
    found = imageio.read_annotation(path, kind="instances", ignore=0x800080)
    np.testing.assert_array_equal(found.ignore[0], np.arange(128)[:, None] < 20 + np.zeros((1, 128)))
    expected = np.where(found.ignore[0], 0, LABELS)
    assert same_cells(found.labels[0], expected)


def test_membranes_cannot_have_colours(tmp_path):
    path = save(tmp_path / "a.png", COLOURS[LABELS])
    refused(path, "whose meaning is not stated", kind="black_membranes")


def test_anti_aliased_colours_are_noticed_and_the_line_removes_them(tmp_path):
    large = Image.new("RGB", (512, 512))
    draw = ImageDraw.Draw(large)
    expected = np.zeros((128, 128), int)
    for n, colour in enumerate(map(tuple, COLOURS[1:].tolist())):
        y, x = (50 + 100 * part for part in divmod(n, 5))
        draw.ellipse((x - 36, y - 36, x + 36, y + 36), fill=colour)
        expected[y // 4, x // 4] = n + 1
    picture = np.asarray(large.resize((128, 128), Image.Resampling.BOX))
    path = save(tmp_path / "a.png", picture)
    doubts = imageio.read_annotation(path, kind="instances").doubts
    doubt = next(doubt for doubt in doubts if doubt["name"] == "anti_aliasing")
    assert "of the colours fill no square of 3 x 3 px" in doubt["text"]
    message = refused(path, "as at the edges of a drawing with anti-aliasing")
    type_line(message)
    found = imageio.read_annotation(path, kind="instances")
    assert found.doubts == [] and found.labels.max() == 25
    assert len(np.unique(found.labels[0][expected > 0])) == 25
    # each pixel has the colour of one of the two areas that meet there
    kept = np.isin(picture.astype(int) @ [65536, 256, 1], COLOURS.astype(int) @ [65536, 256, 1])
    np.testing.assert_array_equal(np.asarray(Image.open(path))[kept], picture[kept])


def test_an_image_instead_of_an_annotation_is_recognised(tmp_path):
    path = save(tmp_path / "a.png", RNG.integers(0, 256, (64, 64, 3), np.uint8))
    refused(path, "as in an image. Check that this file is the annotation")


def test_colours_saved_as_jpeg_are_refused(tmp_path):
    path = save(tmp_path / "a.jpg", COLOURS[LABELS])
    refused(path, "found colours, which JPEG changes", kind="instances")


@pytest.mark.parametrize("quality", (40, 75, 95))
@pytest.mark.parametrize("mode", ("L", "RGB"))
def test_a_jpeg_with_two_clear_humps(tmp_path, quality, mode):
    mask = (LABELS > 0).astype(np.uint8) * 255
    path = tmp_path / "a.jpg"
    Image.fromarray(mask).convert(mode).save(path, quality=quality)
    stored = np.asarray(Image.open(path).convert("L"))
    assert len(np.unique(stored)) > 2
    found = imageio.read_annotation(path)
    np.testing.assert_array_equal(found.labels[0] > 0, LABELS > 0)
    assert same_cells(found.labels[0], LABELS)
    between = np.mean((stored >= 64) & (stored <= 191))
    assert "between two humps at 0 and 255" in found.description
    assert f"{between:.2%} of the pixels from 63.75 to 191.25" in found.description
    inverted = imageio.read_annotation(path, kind="white_membranes")
    np.testing.assert_array_equal(inverted.labels[0] > 0, LABELS == 0)


def test_the_threshold_is_between_the_humps(tmp_path):
    """Not at 128: a mask of 0 and 120 is below it."""
    path = save(tmp_path / "a.jpg", (LABELS > 0).astype(np.uint8) * 120)
    np.testing.assert_array_equal(imageio.read_annotation(path).labels[0] > 0, LABELS > 0)


def test_a_jpeg_without_two_clear_humps_is_refused(tmp_path):
    mask = (LABELS > 0) * 255.0
    path = save(tmp_path / "a.jpg", ndimage.gaussian_filter(mask, 1.5).astype(np.uint8))
    message = refused(path, "do not form two clear humps: most are 0 and 2")
    type_line(message)
    written = imageio.read_annotation(path.with_suffix(".png"))
    assert np.mean((written.labels[0] > 0) != (LABELS > 0)) < 0.05
    for bad in (
        LABELS * np.uint8(10),  # instance labels
        np.where(LABELS % 2, 255, np.where(LABELS, 128, 0)).astype(np.uint8),  # three classes
        (LABELS > 0).astype(np.uint8) * 30,  # JPEG may have changed so small a difference
        RNG.integers(0, 256, (64, 64), np.uint8),
    ):
        for kind in ("auto", "black_membranes", "instances"):
            refused(save(path, bad), "do not form two clear humps", kind=kind)


def test_a_dark_fluorescence_image_is_no_mask(tmp_path):
    """It has few bright pixels, so that few are between them and the background."""
    spots = np.zeros((256, 256))
    spots[RNG.integers(0, 256, 30), RNG.integers(0, 256, 30)] = 1
    image = ndimage.gaussian_filter(spots, 3)
    path = save(tmp_path / "a.jpg", (image / image.max() * 255).astype(np.uint8))
    refused(path, "do not form two clear humps")


def test_ignored_pixels_of_a_jpeg(tmp_path):
    annotation = save(tmp_path / "a.jpg", (LABELS > 0).astype(np.uint8) * 255)
    refused(annotation, "the value 128 of `dataset.ignore` cannot be found", ignore=128)
    mask = np.zeros((128, 128), np.uint8)
    mask[:30] = 255
    found = imageio.read_annotation(annotation, ignore_mask=save(tmp_path / "mask.jpg", mask, quality=50))
    np.testing.assert_array_equal(found.ignore[0], mask > 0)


def test_one_mask_per_cell_as_jpeg(tmp_path):
    for label in range(1, 6):
        save(tmp_path / f"{label}.jpg", (label == LABELS).astype(np.uint8) * 255)
    found = imageio.read_annotation(tmp_path, masks=True)
    np.testing.assert_array_equal(found.labels[0], np.where(LABELS <= 5, LABELS, 0))


def test_selected_rows_of_colours_and_of_a_jpeg(tmp_path):
    """Only the selected rows are read: here the others are gray, or have no two humps."""
    picture = COLOURS[LABELS]
    picture[:64] = 77
    path = save(tmp_path / "a.png", picture)
    found = imageio.read_annotation(path, kind="instances", rows="64-127")
    assert same_cells(found.labels[0], LABELS[64:])
    mask = (LABELS > 0).astype(np.uint8) * 255
    mask[:64] = RNG.integers(0, 256, (64, 128))
    path = save(tmp_path / "a.jpg", mask)
    found = imageio.read_annotation(path, kind="black_membranes", rows="64-127")
    np.testing.assert_array_equal(found.labels[0] > 0, LABELS[64:] > 0)
