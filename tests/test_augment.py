import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from pipeline_lib.data import augment
from pipeline_lib.data.augment import Augmentation, Transform
from pipeline_lib.inference.tiling import mirror

CPU = torch.device("cpu")
STILL = Transform(np.eye(2), np.zeros((2, 3, 3)), 1.0, 0.0, 1.0, 0.0)
TILE = 24


CENTRE = 30


def image(seed=0, shape=(1, 61, 61)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def centre(picture):
    first = CENTRE - TILE // 2
    return picture[..., first : first + TILE, first : first + TILE]


def position(transform, around=(CENTRE, CENTRE)):
    functions = augment.basis(TILE, transform.nodes.shape[-1], CPU).double().numpy()
    return functions @ augment.placement(transform, around) @ functions.T


def sampled(picture, transform, mode, around=(CENTRE, CENTRE)):
    functions = augment.basis(TILE, transform.nodes.shape[-1], CPU)
    return augment.sample(picture, augment.placement(transform, around), functions, mode)


@pytest.mark.parametrize("mode", ["bicubic", "nearest"])
def test_the_identity_changes_nothing(mode):
    torch.testing.assert_close(sampled(image(), STILL, mode), centre(image()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("quarter", range(4))
@pytest.mark.parametrize("mirror", [1, -1])
def test_quarter_turns_and_mirrors_move_whole_pixels(quarter, mirror):
    a = quarter * math.pi / 2
    matrix = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]]) @ np.diag([mirror, 1])
    transform = Transform(matrix, STILL.nodes, 1.0, 0.0, 1.0, 0.0)
    # the matrix maps patch to image coordinates, so the picture turns in the opposite direction
    expected = torch.rot90(image(), -quarter, (-2, -1))
    expected = expected.flip(-2) if mirror < 0 else expected
    assert torch.equal(sampled(image(), transform, "nearest"), centre(expected))


def cubic(picture, place):
    """Cubic convolution (Keys 1981, a = -0.75) of 4 x 4 mirrored pixels, one after the other."""

    def weight(t):
        t, a = np.abs(t), -0.75
        near = (a + 2) * t**3 - (a + 3) * t**2 + 1
        return np.where(t <= 1, near, np.where(t < 2, a * (t**3 - 5 * t**2 + 8 * t - 4), 0))

    first = np.floor(place).astype(int)
    total = np.zeros(place.shape[1:])
    for dy, dx in itertools.product(range(-1, 3), repeat=2):
        pixel = first + np.array([dy, dx])[:, None, None]
        rows, columns = (
            mirror(pixel[axis].min(), pixel[axis].max() + 1, size)[pixel[axis] - pixel[axis].min()]
            for axis, size in enumerate(picture.shape)
        )
        total += picture[rows, columns] * weight(place[0] - pixel[0]) * weight(place[1] - pixel[1])
    return total


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.tuples(*[st.integers(1, 80)] * 2))
def test_pixels_agree_with_a_slow_implementation_also_in_the_mirrored_surroundings(seed, shape):
    rng = np.random.default_rng(seed)
    transform = augment.draw(Augmentation(elastic_std=3), rng)
    picture, around = image(seed, (1, *shape)), tuple(int(rng.integers(n)) for n in shape)
    place = position(transform, around)
    np.testing.assert_allclose(
        sampled(picture, transform, "bicubic", around)[0], cubic(picture[0].numpy(), place), atol=1e-3
    )
    clear = (np.abs(place % 1 - 0.5) > 1e-3).all(axis=0)  # not halfway between two pixels
    nearest = sampled(picture, transform, "nearest", around)[0].numpy()
    expected = ndimage.map_coordinates(picture[0].numpy(), place.round(), order=0, mode="mirror")
    np.testing.assert_array_equal(nearest[clear], expected[clear])


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 30))
def test_reach_covers_all_positions_of_the_patch(seed, std):
    transform = augment.draw(Augmentation(elastic_std=std), np.random.default_rng(seed))
    assert np.abs(position(transform, (0, 0))).max() <= augment.reach(transform, TILE)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_positions_are_the_rotated_sum_of_grid_and_bicubic_displacement(seed, grid):
    transform = augment.draw(Augmentation(elastic_grid=grid), np.random.default_rng(seed))
    nodes = torch.as_tensor(transform.nodes, dtype=torch.float64)
    displacement = torch.nn.functional.interpolate(
        nodes[None], size=(TILE, TILE), mode="bicubic", align_corners=True
    )[0].numpy()
    moved = np.indices((TILE, TILE)) - TILE // 2 + displacement
    expected = np.tensordot(transform.matrix, moved, 1) + np.array([7, 9])[:, None, None]
    np.testing.assert_allclose(position(transform, (7, 9)), expected, atol=1e-4)


def test_displacements_at_the_nodes_are_those_of_the_nodes():
    nodes = np.random.default_rng(0).normal(0, 10, (2, 3, 3))
    moved = position(Transform(np.eye(2), nodes, 1.0, 0.0, 1.0, 0.0)) - position(STILL)
    np.testing.assert_allclose(moved[:, ::23, ::23], nodes[:, ::2, ::2], atol=1e-4)
    between = moved[0, 0, 6]  # bicubic: not on the straight line between its neighbours
    assert abs(between - np.interp(6, [0, 11.5, 23], nodes[0, 0])) > 0.1


def test_displacements_have_the_standard_deviation_of_the_paper_and_no_limit():
    nodes = np.concatenate(
        [augment.draw(Augmentation(), np.random.default_rng(i)).nodes.ravel() for i in range(500)]
    )
    assert nodes.std() == pytest.approx(10, rel=0.03)
    assert np.abs(nodes).max() > 30


def test_labels_keep_their_values_and_their_weights():
    transform = augment.draw(Augmentation(elastic_std=3), np.random.default_rng(1))
    labels = torch.randint(0, 5, (1, 61, 47), generator=torch.Generator().manual_seed(0)).float()
    truth = torch.cat([labels, labels * 1.7 + 0.3])
    found, weights = sampled(truth, transform, "nearest", (40, 10))
    assert found.unique().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(weights, found * 1.7 + 0.3)


def test_the_effect_of_each_gray_value_setting():
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


def test_drawn_numbers_are_in_their_ranges_and_can_be_switched_off():
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


def test_a_setting_does_not_change_the_random_numbers_of_the_others():
    usual = augment.draw(Augmentation(), np.random.default_rng(3))
    for off in ({"rotate": False}, {"mirror": False}, {"elastic_std": 0.0}, {"gain": 0.0}, {"gamma": 0.0}):
        found = augment.draw(Augmentation(**off), np.random.default_rng(3))
        assert (found.offset, found.noise) == (usual.offset, usual.noise)
        if "elastic_std" not in off:
            np.testing.assert_array_equal(found.nodes, usual.nodes)


def test_rotations_have_all_directions():
    rng = np.random.default_rng(0)
    turned = np.array([augment.draw(Augmentation(mirror=False), rng).matrix[:, 0] for _ in range(200)])
    quadrants = np.unique(turned > 0, axis=0, return_counts=True)[1]
    assert len(quadrants) == 4 and quadrants.min() > 25


@pytest.mark.parametrize("tile", [9, 24])
@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 4, 2.0])
@pytest.mark.parametrize("amplitude", [0.0, 60.0])
def test_pixels_within_reach_determine_a_patch(tile, angle, amplitude):
    """Also where the bicubic displacement is larger than that of all nodes."""
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    nodes = amplitude * np.array([[[1, 1, -1], [1, 1, -1], [-1, -1, 1]]] * 2)
    transform = Transform(matrix, nodes, 1.0, 0.0, 1.0, 0.0)
    far, functions = augment.reach(transform, tile), augment.basis(tile, 3, CPU)
    whole = image(shape=(1, 601, 601))
    window = slice(300 - far, 300 + far + 1)
    near = whole[:, window, window]
    for mode in ("bicubic", "nearest"):
        expected = augment.sample(whole, augment.placement(transform, (300, 300)), functions, mode)
        found = augment.sample(near, augment.placement(transform, (far, far)), functions, mode)
        assert (found - expected).abs().mean() < 1e-3


def test_a_patch_of_one_gray_level_stays_finite():
    transform = Transform(np.eye(2), STILL.nodes, 1.1, 0.3, 0.9, 0.0)
    found = augment.vary_gray(torch.full((1, 8, 8), 2.0), transform, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, torch.full((1, 8, 8), 2.0 * 1.1 + 0.3))
