import json

import numpy as np
import pytest

from pipeline_lib.data.normalisation import Normalisation, measure
from pipeline_lib.runtime.errors import InputError

EVERY = (np.arange(7), np.arange(9))


@pytest.fixture
def volumes():
    rng = np.random.default_rng(3)
    return [rng.integers(0, 4000, (2, z, 7, 9), np.uint16) for z in (1, 4)]


def joined(volumes):
    return np.concatenate(volumes, axis=1).astype(float)


def test_mean_std_gives_the_training_split_mean_0_and_standard_deviation_1(volumes):
    normalisation = measure("mean_std", volumes)
    done = np.stack(
        [normalisation.apply(v[:, z], *EVERY) for v in volumes for z in range(v.shape[1])], axis=1
    )
    np.testing.assert_allclose(done.mean(axis=(1, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose(done.std(axis=(1, 2, 3)), 1, rtol=1e-6)


def test_mean_subtracts_the_mean_of_each_channel_and_divides_by_the_range(volumes):
    normalisation = measure("mean", volumes)
    expected = (volumes[1][:, 2] - joined(volumes).mean(axis=(1, 2, 3))[:, None, None]) / 65535
    np.testing.assert_allclose(normalisation.apply(volumes[1][:, 2], *EVERY), expected, atol=1e-7)


def test_mean_image_is_subtracted_at_the_same_place(volumes):
    normalisation = measure("mean_image", volumes)
    rows, columns = np.array([3, 2, 1]), np.array([0, 8])
    picked = volumes[0][:, 0][:, rows[:, None], columns]
    mean = joined(volumes).mean(axis=1)[:, rows[:, None], columns]
    np.testing.assert_allclose(normalisation.apply(picked, rows, columns), (picked - mean) / 65535, atol=1e-7)


def test_none_divides_gray_levels_by_the_range(volumes):
    assert measure("none", volumes).apply(np.full((2, 7, 9), 65535, np.uint16), *EVERY).max() == 1


def test_a_normalisation_survives_json(volumes):
    for kind in ("none", "mean", "mean_std", "mean_image"):
        before = measure(kind, volumes)
        after = Normalisation.from_dict(json.loads(json.dumps(before.to_dict())))
        np.testing.assert_array_equal(
            before.apply(volumes[0][:, 0], *EVERY), after.apply(volumes[0][:, 0], *EVERY)
        )


def test_images_unlike_the_training_images_raise_an_error(volumes):
    normalisation = measure("mean_std", volumes)
    normalisation.check(volumes[0], "a.h5")
    with pytest.raises(InputError, match=r"a\.h5: uint8 gray levels, but the model was trained on uint16"):
        normalisation.check(volumes[0].astype(np.uint8), "a.h5")
    with pytest.raises(InputError, match="1 channels, but the model was trained on 2"):
        normalisation.check(volumes[0][:1], "a.h5")
    with pytest.raises(InputError, match="mean_std`, which accepts any size"):
        measure("mean_image", volumes).check(volumes[0][..., 1:], "a.h5")


def test_training_volumes_must_agree(volumes):
    with pytest.raises(InputError, match="different types: uint16, uint8"):
        measure("mean_std", [volumes[0], volumes[1].astype(np.uint8)])
    with pytest.raises(InputError, match="different section sizes"):
        measure("mean_image", [volumes[0], volumes[1][..., :5]])
    with pytest.raises(InputError, match="one single gray level"):
        measure("mean_std", [np.ones((1, 2, 3, 3), np.uint8)])


@pytest.mark.parametrize("kind", ["mean", "mean_std", "mean_image"])
def test_the_result_does_not_depend_on_the_blocks(volumes, kind, monkeypatch):
    whole = measure(kind, volumes)
    monkeypatch.setattr("pipeline_lib.data.normalisation.STEP", 4)
    for found, expected in zip(*((n.offset, n.scale) for n in (measure(kind, volumes), whole)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_mean_image_larger_than_the_memory_raises_an_error(volumes):
    with pytest.raises(
        InputError, match=r"7 x 9 px takes .* `memory_gb` is 1e-06\. Set `normalisation: mean_std`"
    ):
        measure("mean_image", volumes, memory_gb=1e-6)
