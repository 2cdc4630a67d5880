import numpy as np
import pytest

from pipeline_lib.data import gray
from pipeline_lib.data.gray import GrayLevels, pool
from pipeline_lib.kernels.blocks import blocks


def summary(sections, block):
    levels = GrayLevels(sections.shape[0])
    for z in range(sections.shape[1]):
        for area in blocks(sections.shape[2:], block):
            levels.add(sections[:, z, *area.write])
    return levels.to_dict()


def random_sections(shape=(2, 3, 300, 200)):
    return np.random.default_rng(0).integers(3, 200, shape, np.uint8)


@pytest.mark.parametrize("block", [128, 256, 1024])
def test_the_summary_does_not_depend_on_the_blocks(block):
    sections = random_sections()
    found = summary(sections, block)
    assert found["low"] == [3, 3] and found["high"] == [199, 199]
    assert found["mean"] == pytest.approx(sections.mean(axis=(1, 2, 3)), rel=1e-12)
    assert found["std"] == pytest.approx(sections.std(axis=(1, 2, 3)), rel=1e-12)


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
    found = summary(volume, block)
    assert found["roughness"] == pytest.approx(squares / pairs / 2 / volume.var(axis=(1, 2, 3)), rel=1e-4)
    assert 0.95 < found["roughness"][0] < 1.05 and found["roughness"][1] < 0.02


def test_roughness_of_unsigned_and_narrow_images():
    assert gray.summary(np.array([[[[0, 255], [255, 0]]]], np.uint8))["roughness"] == [2]
    assert gray.summary(np.zeros((1, 1, 5, 1), np.uint8))["roughness"] == [0]
    assert gray.summary(np.arange(5, dtype=np.uint8).reshape(1, 1, 5, 1))["roughness"] == [0]
