import numpy as np
import pytest

from pipeline_lib.data import gray
from pipeline_lib.data.gray import GrayLevels, pool
from pipeline_lib.kernels.blocks import blocks


def summary(sections, block):
    levels = GrayLevels(sections.shape[0])
    hashes = []
    for z in range(sections.shape[1]):
        for area in blocks(sections.shape[2:], block):
            levels.add(sections[:, z, *area.write], area.write[0].start, area.write[1].start)
        hashes.append(levels.end_section().tobytes())
    return levels.to_dict(), hashes


def random_sections(shape=(2, 3, 300, 200)):
    return np.random.default_rng(0).integers(3, 200, shape, np.uint8)


@pytest.mark.parametrize("block", [128, 256, 1024])
def test_summary_and_hashes_do_not_depend_on_the_blocks(block):
    sections = random_sections()
    found, hashes = summary(sections, block)
    assert found["low"] == [3, 3] and found["high"] == [199, 199]
    assert found["mean"] == pytest.approx(sections.mean(axis=(1, 2, 3)), rel=1e-12)
    assert found["std"] == pytest.approx(sections.std(axis=(1, 2, 3)), rel=1e-12)
    assert hashes == summary(sections, 512)[1]


def test_equal_hashes_mean_equal_pixels():
    sections = random_sections()
    sections[:, 2] = sections[:, 0]
    _, hashes = summary(sections, 256)
    assert hashes[0] == hashes[2] != hashes[1]
    changed = sections.copy()
    changed[1, 2, 299, 199] += 1  # the last pixel
    swapped = sections.copy()
    swapped[:, 2, :128, :128], swapped[:, 2, 128:256, :128] = (
        sections[:, 2, 128:256, :128],
        sections[:, 2, :128, :128],
    )
    for other in (changed, swapped, sections[:, :, ::-1], sections[:, :, :299], sections.astype(np.uint16)):
        assert summary(other, 256)[1][2] != hashes[2]


def test_sections_of_one_gray_level_are_not_identified():
    sections = random_sections((1, 3, 20, 20))
    sections[0, 0], sections[0, 1] = 7, 7
    sections[0, 1, 0, 0] = 8
    _, hashes = summary(sections, 128)
    assert hashes[0] == bytes(32) and bytes(32) not in hashes[1:]


def test_summary_of_volumes_together_is_that_of_all_pixels():
    whole = random_sections()
    parts = [whole[:, :1], whole[:, 1:, :40], whole[:, 1:, 40:]]
    found = pool([gray.summary(part) for part in parts], [part[0].size for part in parts])
    expected = gray.summary(whole)
    for key, values in found.items():
        assert values == pytest.approx(expected[key], rel=1e-12)


@pytest.mark.parametrize("block", [128, 256, 1024])
def test_roughness_compares_neighbours_within_tiles(block):
    volume = np.random.default_rng(1).normal(100, 20, (2, 3, 200, 300)).astype(np.float32)
    volume[1] = np.cumsum(volume[1] - 100, axis=2)  # smooth
    squares, pairs = np.zeros(2), 0
    for x in range(299):
        if x % 128 != 127:
            squares += ((volume[..., x + 1].astype(float) - volume[..., x]) ** 2).sum(axis=(1, 2))
            pairs += 3 * 200
    found, _ = summary(volume, block)
    assert found["roughness"] == pytest.approx(squares / pairs / 2 / volume.var(axis=(1, 2, 3)), rel=1e-4)
    assert 0.95 < found["roughness"][0] < 1.05 and found["roughness"][1] < 0.02


def test_roughness_of_unsigned_and_narrow_images():
    assert gray.summary(np.array([[[[0, 255], [255, 0]]]], np.uint8))["roughness"] == [2]
    assert gray.summary(np.zeros((1, 1, 5, 1), np.uint8))["roughness"] == [0]
    assert gray.summary(np.arange(5, dtype=np.uint8).reshape(1, 1, 5, 1))["roughness"] == [0]
