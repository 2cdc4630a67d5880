"""Copies and overlapping images have common fingerprints, different ones have none."""

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from pipeline_lib.data.fingerprint import RADIUS, WINDOWS, Fingerprint, window_codes
from pipeline_lib.kernels.blocks import blocks

DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them"
)
ORIENTATIONS = [
    lambda a, turn=turn, mirrored=mirrored: np.rot90(a.swapaxes(-1, -2) if mirrored else a, turn, (-2, -1))
    for turn in range(4)
    for mirrored in (False, True)
]
SCALES = [
    lambda a: a.astype(np.uint16),
    lambda a: a.astype(np.uint16) * 257,
    lambda a: (a.astype(np.int32) - 128).astype(np.int16),
    lambda a: (a.astype(np.uint16) * 257 * np.float64(0.00389105)).astype(np.float32),
    lambda a: (a / 255).astype(np.float32),
    lambda a: a.astype(np.float16),
    lambda a: (a - a.mean()) / a.std(),
]


def fingerprint(section, block=256):
    """Hash and window codes of a section (c, y, x)."""
    found = Fingerprint(len(section), section.shape[1:])
    for area in blocks(section.shape[1:], block):
        found.add(section[:, *area.write], area.write[0].start, area.write[1].start)
    return found.hash().tobytes(), {*found.windows().tolist()} - {0}


def image(seed=0, shape=(300, 200)):
    """Smooth structures with noise, uint8 (1, y, x)."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, shape), 4)
    return (128 + 300 * smooth + rng.normal(0, 6, shape)).clip(0, 255).astype(np.uint8)[None]


@pytest.mark.parametrize("change", SCALES)
def test_neither_type_nor_scale_nor_orientation_changes_a_hash(change):
    for section in (image(), image(1, (128, 131)), np.concatenate([image(), image(1)])):
        expected, windows = fingerprint(section)
        assert fingerprint(change(section)) == (expected, windows)
        for turned in ORIENTATIONS:
            found, codes = fingerprint(np.ascontiguousarray(turned(change(section))))
            assert found == expected and len(codes & windows) > 0.4 * len(windows) > 10


@pytest.mark.parametrize("block", [128, 1024])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_blocks_change_nothing(block, dtype):
    section = np.concatenate([image(), image(1)]).astype(dtype)
    assert fingerprint(section, block) == fingerprint(section, 256)


def test_equal_hashes_mean_equal_pixels():
    section = image()
    expected = fingerprint(section)[0]
    changed, exchanged, rolled = section.copy(), section.copy(), np.roll(section, 1, axis=2)
    changed[0, 150, 100] ^= 1
    exchanged[0, [7, 8]] = exchanged[0, [8, 7]]
    for other in (changed, exchanged, rolled, section[:, 1:], section.reshape(1, 200, 300), 255 - section):
        assert fingerprint(other)[0] != expected
    assert fingerprint(section[[0, 0]])[0] not in (expected, fingerprint(np.stack([section[0]] * 3))[0])
    swapped = np.concatenate([image(), image(1)])
    assert fingerprint(swapped)[0] != fingerprint(swapped[::-1])[0]


def test_sections_of_few_gray_levels_are_told_apart_by_place():
    hashes = set()
    for row, column in ((5, 5), (5, 6), (6, 5), (6, 6), (10, 12), (8, 13)):
        section = np.zeros((1, 40, 40), np.uint8)
        section[0, row : row + 3, column : column + 4] = 1
        hashes.add(fingerprint(section)[0])
        assert fingerprint(section)[0] == fingerprint(section[:, ::-1] * 2.5)[0]
    assert len(hashes) == 6


def test_sections_of_one_gray_level_are_not_identified():
    flat = np.full((1, 60, 60), 7, np.uint8)
    assert fingerprint(flat) == (bytes(32), set())
    flat[0, 59, 59] = 8
    assert fingerprint(flat)[0] != bytes(32)
    saturated = np.where(image() > 128, np.uint8(255), np.uint8(0))
    assert fingerprint(saturated)[1] == set()


def test_many_gray_levels_are_identified_by_windows():
    section = np.random.default_rng(0).random((1, 300, 300))
    assert fingerprint(section)[0] == bytes(32)
    assert len(fingerprint(section)[1] & fingerprint(section[:, 7:, 3:].astype(np.float32))[1]) > 100


def test_windows_are_around_the_brightest_pixel_of_their_neighbourhood():
    tile = image(2, (110, 80))[0]
    side = 2 * RADIUS + 1
    expected = set()
    for y, x in np.ndindex(110 - side + 1, 80 - side + 1):
        window = tile[y : y + side, x : x + side]
        middle = window[RADIUS, RADIUS]
        beside = [window[RADIUS + dy, RADIUS + dx] for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))]
        if middle == window.max() and middle > max(beside) and len(np.unique(window)) > 12:
            expected |= {*window_codes(np.ascontiguousarray(window)).tolist()}
            assert len(window_codes(window)) == 1
    assert {*window_codes(tile).tolist()} == expected and len(expected) > 10
    assert not len(window_codes(tile[:8]))


def test_overlapping_tiles_and_crops_share_windows_and_others_do_not():
    whole = image(3, (400, 400))
    tiles = [whole[:, y : y + 220, x : x + 220] for y in (0, 180) for x in (0, 180)]
    codes = [fingerprint(tile)[1] for tile in tiles]
    for beside in ((0, 1), (0, 2), (1, 3), (2, 3)):  # an overlap of 40 px
        assert len(codes[beside[0]] & codes[beside[1]]) >= 10
    assert not codes[0] & fingerprint(image(4, (220, 220)))[1]
    assert len(codes[3] & fingerprint(whole)[1]) >= 50 and len(fingerprint(whole)[1]) == WINDOWS


@needs_data
def test_different_real_images_share_no_window():
    sections = [tifffile.imread(path) for path in sorted((DATA / "nuclei/images").glob("*.tif"))]
    sections += [s for path in sorted(DATA.glob("isbi2012/*-volume.tif")) for s in tifffile.imread(path)]
    assert len(sections) == 120
    found = [fingerprint(section[None]) for section in sections]
    assert len({digest for digest, _ in found}) == 120
    for smooth in (0, 1.5):
        codes = [fingerprint(ndimage.gaussian_filter(s, smooth)[None])[1] for s in sections[:60]]
        if not smooth:
            assert min(map(len, codes)) >= 8
            codes += [windows for _, windows in found[60:]]
        assert len(set.union(*codes)) == sum(map(len, codes))
    for section, (_, windows) in zip(sections, found, strict=True):
        assert len(fingerprint(section[None, 7:, :-6])[1] & windows) >= 6
