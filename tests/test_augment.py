import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib import augment
from pipeline_lib.augment import Augmentation, Transform

CPU = torch.device("cpu")
STILL = Transform(np.eye(2), np.zeros((2, 3, 3)), 1.0, 0.0, 1.0, 0.0)
TILE = 24


def region(transform, seed=0, channels=1):
    side = 2 * augment.reach(transform, TILE) + 1
    return torch.rand(channels, side, side, generator=torch.Generator().manual_seed(seed))


def centre(image):
    middle = image.shape[-1] // 2 - TILE // 2
    return image[..., middle : middle + TILE, middle : middle + TILE]


def test_standing_still_changes_nothing():
    image = region(STILL)
    offsets = augment.source_offsets(STILL, TILE, CPU)
    torch.testing.assert_close(augment.interpolate(image, offsets), centre(image), atol=1e-5, rtol=0)
    assert torch.equal(augment.pick(image, offsets), centre(image))


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("mirror", [1, -1])
def test_quarter_turns_and_mirrors_move_whole_pixels(quarter, mirror):
    a = quarter * math.pi / 2
    matrix = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) @ np.diag([mirror, 1])
    transform = Transform(matrix, STILL.nodes, 1.0, 0.0, 1.0, 0.0)
    image = region(transform)
    # rotation takes patch to image coordinates, hence turns the picture the other way
    expected = torch.rot90(image, -quarter, (-2, -1))
    expected = expected.flip(-2) if mirror < 0 else expected
    assert torch.equal(augment.pick(image, augment.source_offsets(transform, TILE, CPU)), centre(expected))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_interpolation_agrees_with_scipy(seed):
    transform = augment.draw(Augmentation(elastic_std=3), np.random.default_rng(seed))
    image = region(transform)
    offsets = augment.source_offsets(transform, TILE, CPU)
    middle = image.shape[-1] // 2
    expected = ndimage.map_coordinates(
        image[0].double().numpy(), (offsets + middle).double().numpy(), order=1
    )
    np.testing.assert_allclose(augment.interpolate(image, offsets)[0], expected, atol=2e-4)
    nearest = ndimage.map_coordinates(image[0].numpy(), (offsets + middle).numpy(), order=0)
    np.testing.assert_array_equal(augment.pick(image, offsets)[0], nearest)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 30))
def test_the_region_read_holds_everything_the_patch_looks_at(seed, std):
    transform = augment.draw(Augmentation(elastic_std=std), np.random.default_rng(seed))
    offsets = augment.source_offsets(transform, TILE, CPU)
    assert offsets.abs().max() <= augment.reach(transform, TILE)


def test_displacements_are_those_of_the_nodes_at_the_nodes():
    nodes = np.random.default_rng(0).normal(0, 10, (2, 3, 3))
    transform = Transform(np.eye(2), nodes, 1.0, 0.0, 1.0, 0.0)
    tile = 25
    moved = augment.source_offsets(transform, tile, CPU) - augment.source_offsets(STILL, tile, CPU)
    np.testing.assert_allclose(moved[:, ::12, ::12], nodes, atol=1e-4)
    between = moved[0, 6, 12].item()  # bicubic: not the mean of its neighbours, but near them
    assert between != pytest.approx((nodes[0, 0, 1] + nodes[0, 1, 1]) / 2, abs=1e-3)


def test_displacements_have_the_papers_standard_deviation_and_no_bound():
    nodes = np.concatenate(
        [augment.draw(Augmentation(), np.random.default_rng(i)).nodes.ravel() for i in range(500)]
    )
    assert nodes.std() == pytest.approx(10, rel=0.03)
    assert np.abs(nodes).max() > 30


def test_labels_keep_their_values_and_stay_with_their_weights():
    transform = augment.draw(Augmentation(elastic_std=3), np.random.default_rng(1))
    side = 2 * augment.reach(transform, TILE) + 1
    labels = torch.randint(0, 5, (side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    weights = labels.float() * 1.7 + 0.3
    offsets = augment.source_offsets(transform, TILE, CPU)
    picked = augment.pick(labels, offsets)
    assert picked.dtype == torch.uint8
    assert torch.equal(augment.pick(weights, offsets), picked.float() * 1.7 + 0.3)


def test_each_gray_value_setting_does_what_its_name_says():
    image = torch.linspace(-1, 3, 64).reshape(1, 8, 8)

    def varied(**kwargs):
        transform = Transform(**{**vars(STILL), **kwargs})
        return augment.vary_gray(image, transform, torch.Generator().manual_seed(0))

    torch.testing.assert_close(varied(), image)
    torch.testing.assert_close(varied(gain=1.5), image * 1.5)
    torch.testing.assert_close(varied(offset=0.25), image + 0.25)
    torch.testing.assert_close(varied(gamma=2.0), ((image + 1) / 4) ** 2 * 4 - 1)
    noise = varied(noise=0.5) - image
    assert noise.std().item() == pytest.approx(0.5, rel=0.2)


def test_draws_lie_in_their_ranges_and_settings_switch_off():
    settings = Augmentation(gain=0.5, offset=0.1, gamma=0.3, noise=0.2)
    draws = [augment.draw(settings, np.random.default_rng(i)) for i in range(300)]
    for name, low, high in (
        ("gain", 1 / 1.5, 1.5),
        ("gamma", 1 / 1.3, 1.3),
        ("offset", -0.1, 0.1),
        ("noise", 0, 0.2),
    ):
        values = [getattr(d, name) for d in draws]
        assert low <= min(values) < low + 0.1 * (high - low) and high >= max(values) > high - 0.1 * (
            high - low
        )
    determinants = {round(np.linalg.det(d.matrix)) for d in draws}
    assert determinants == {1, -1}
    off = Augmentation(rotate=False, mirror=False, elastic_std=0, gain=0, offset=0, gamma=0, noise=0)
    still = augment.draw(off, np.random.default_rng(5))
    np.testing.assert_array_equal(still.matrix, np.eye(2))
    assert not still.nodes.any() and (still.gain, still.offset, still.gamma, still.noise) == (1, 0, 1, 0)
