import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline_lib.data import normalisation as module
from pipeline_lib.data.gray import pool, summary
from pipeline_lib.data.gray_scale import compare
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


DATA = Path(os.environ.get("BORDURE_DATA", Path(__file__).parents[2] / "shared/data"))
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images in {DATA}; set BORDURE_DATA to test on them"
)


def cells(seed=0, dark=60, bright=180):
    """Return bright squares on a dark background with noise, (1, 1, 96, 96) float64 in 0..255."""
    image = np.full((96, 96), dark)
    for y, x in np.ndindex(4, 4):
        image[24 * y + 3 : 24 * y + 21, 24 * x + 3 : 24 * x + 21] = bright
    image = image + np.random.default_rng(seed).normal(0, 8, image.shape)
    return np.clip(image, 0, 255).round()[None, None]


def times(found, factor, dtype, offset=0):
    """Return the summary of the volume after multiplication of its gray levels by `factor`."""
    levels = {key: [factor * value + offset for value in found[key]] for key in ("low", "high", "mean")}
    return found | levels | {"std": [factor * value for value in found["std"]], "dtype": dtype}


def verdict(training, found):
    """Return "same", "doubtful" or "other" scale."""
    doubt = compare(training, found)
    return {None: "same", 0.5: "doubtful", 1: "other"}[doubt and doubt["weight"]]


def stated(doubt):
    """Return the factor that a message names."""
    return float(re.search(r"column `scale` of the table of volumes: ([0-9.e-]+)", doubt["text"])[1])


# images to train on and new images: type, largest value of their scale, expected factor
SCALES = [
    ("float32", 1, "float32", 255, 1 / 255),
    ("float32", 1, "float32", 65535, 1 / 65535),
    ("float32", 255, "float32", 1, 255),
    ("float32", 255, "float32", 65535, 255 / 65535),
    ("float32", 65535, "float32", 1, 65535),
    ("float32", 65535, "float32", 255, 257),
    ("uint16", 4095, "uint16", 65535, 4095 / 65535),
    ("uint16", 255, "uint16", 65535, 255 / 65535),
    ("uint16", 65535, "uint16", 255, 257),
    ("uint8", 255, "uint8", 1, 255),
    ("uint8", 255, "float32", 1, 255),
    ("uint8", 255, "float32", 255, 1),
    ("uint8", 255, "uint16", 4095, 255 / 4095),
    ("uint16", 65535, "uint8", 255, 257),
    ("float32", 1, "uint8", 255, 1 / 255),
    ("int16", 4095, "uint16", 4095, 1),
]


@pytest.mark.parametrize(("trained", "full", "dtype", "new_full", "factor"), SCALES)
def test_another_gray_scale_is_refused_and_the_stated_factor_corrects_it(
    trained, full, dtype, new_full, factor
):
    training = measure("mean_std", [(cells(0) / 255 * full).astype(trained)])
    new = cells(1, bright=230) / 255 * new_full
    new = (new > 0.5 if (dtype, new_full) == ("uint8", 1) else new).astype(dtype)
    with pytest.raises(InputError, match=r"a\.h5: .*gray levels from .* but the training images ") as error:
        training.check(new, "a.h5", summary(new))
    scale = stated({"text": str(error.value)})
    assert scale == pytest.approx(factor, rel=1e-5)
    scaled = (new * scale).astype(np.float32)  # as `imageio.Images` reads it
    training.check(scaled, "a.h5", summary(scaled) | {"scale": scale})
    if (dtype, new_full) != ("uint8", 1):
        right = cells(1, bright=230) / 255 * full
        np.testing.assert_allclose(scaled, right, rtol=1e-5, atol=scale if dtype[0] != "f" else 0)
    training.check(new, "a.h5", summary(new) | {"scale": 1})  # the user states that the scale is the same


def test_a_wrong_stated_factor_is_refused_with_the_right_one():
    training = measure("mean_std", [(cells(0) / 255).astype(np.float32)])
    new = (cells(1) * 255).astype(np.float32)  # 0..255 times 255 instead of 1 / 255
    with pytest.raises(InputError, match="another gray scale") as error:
        training.check(new, "a.h5", summary(new) | {"scale": 255.0})
    assert stated({"text": str(error.value)}) == pytest.approx(1 / 255, rel=1e-5)


def test_factors_of_unusual_scales_come_from_the_ranges():
    training = summary(cells(0) * 1000) | {"dtype": "float64"}
    doubt = compare(training, times(training, 50, "float64"))
    assert stated(doubt) == pytest.approx(1 / 50, rel=1e-5)


summaries = st.builds(
    lambda low, span, mean, std: {
        "low": [low],
        "high": [low + span],
        "mean": [low + mean * span],
        "std": [std * span],
        "roughness": [0.01],
        "scale": None,
    },
    st.sampled_from([0.0, 0.001, 1, 100]),
    st.sampled_from([0.3, 1, 90, 255, 4000, 60000, 1e6]),
    st.floats(0.01, 0.9),
    st.floats(0.01, 0.5),
)


# gray levels 0 to 255 of images to train on and of new images, in other files
OFFSETS = {
    "Fiji unsigned": (lambda p: (p * 10).astype(np.uint16), lambda p: (p * 10 + 32768).astype(np.uint16)),
    "from unsigned": (lambda p: (p * 10 + 32768).astype(np.uint16), lambda p: (p * 10).astype(np.uint16)),
    "other type": (lambda p: (p * 10 - 900).astype(np.int16), lambda p: (p * 10 + 31868).astype(np.uint16)),
    "Fiji signed": (lambda p: (p * 257).astype(np.uint16), lambda p: (p * 257 - 32768).astype(np.int16)),
    "mean 0": (lambda p: p / 255, lambda p: (p - p.mean()) / p.std()),
    "mean 0 after 8 bits": (lambda p: p.astype(np.uint8), lambda p: (p - p.mean()) / p.std()),
    "-1 to 1": (lambda p: p / 255, lambda p: p / 127.5 - 1),
    "-1 to 1 after 0 to 255": (lambda p: p, lambda p: p / 127.5 - 1),
    "+ 5": (lambda p: p / 255, lambda p: p / 255 + 5),
    "0 to 1 after -1 to 1": (lambda p: p / 127.5 - 1, lambda p: p / 255),
}


@pytest.mark.parametrize("name", OFFSETS)
def test_an_offset_is_detected_and_the_columns_in_the_message_correct_it(name):
    trained, made = OFFSETS[name]
    training, new = summary(trained(cells(0))), made(cells(1))
    doubt = compare(training, summary(new))
    assert doubt["weight"] == (0.5 if name == "0 to 1 after -1 to 1" else 1)
    columns = re.search(r"`offset`: (\S+?)(?: and `scale`: (\S+?))?, or only `scale`: 1 if", doubt["text"])
    offset, scale = float(columns[1]), float(columns[2] or 1)
    fixed = ((new - np.float64(offset)) * scale).astype(np.float32)  # as `imageio.Images` reads it
    assert compare(training, summary(fixed) | {"scale": scale, "offset": offset}) is None
    right, full = trained(cells(1)).astype(float), np.ptp(trained(cells(1)).astype(float))
    near = 0.05 if name in ("+ 5", "mean 0", "mean 0 after 8 bits", "0 to 1 after -1 to 1") else 1e-3
    np.testing.assert_allclose(fixed, right, rtol=0, atol=near * full)
    as_stated = summary(new.astype(np.float32)) | {"scale": 1.0}
    assert compare(training, as_stated)["weight"] == 0.5


def test_an_offset_of_the_wrong_sign_is_refused_with_the_right_one():
    training, new = summary((cells(0) * 10).astype(np.uint16)), cells(1) * 10 + 32768
    doubt = compare(training, summary((new + 32768).astype(np.float32)) | {"scale": 1.0, "offset": -32768.0})
    assert doubt["weight"] == 1 and "`offset`: 32768, or" in doubt["text"]


def test_few_negative_gray_levels_are_only_doubtful():
    """As after the subtraction of a background."""
    training, new = cells(0) / 255, cells(1) / 255 - 0.12
    new[0, 0, 0, 0] = -0.03
    assert verdict(summary(training), summary(new)) == "doubtful"
    new[0, 0, 0, 0] = -0.001
    assert verdict(summary(training), summary(np.maximum(new, -0.001))) == "same"


def test_percentages_and_the_8_bits_that_look_like_them_are_both_offered():
    training, new = summary(cells(0) / 255), summary(cells(1) / 2.55)
    text = compare(training, new)["text"]
    assert re.search(
        r"of volumes: 0\.01 if 100 here means 1 there, 0\.00392157 if 255 here means 1 there, or 1", text
    )
    for factor in (0.01, 0.00392157):
        assert compare(training, times(new, factor, "float32") | {"scale": factor}) is None


def test_a_stated_factor_that_is_8_times_too_small_is_refused_with_the_right_one():
    """12 bits in a file of 16 bits, with the factor of 16 bits."""
    training, new = summary(cells(0).astype(np.uint8)), summary((cells(1) * 16).astype(np.uint16))
    for wrong in (255 / 65535, 16.0):
        doubt = compare(training, times(new, wrong, "float32") | {"scale": wrong})
        assert doubt["weight"] == 1 and stated(doubt) == pytest.approx(255 / 4095, rel=1e-5)
    right = stated(doubt)
    assert compare(training, times(new, right, "float32") | {"scale": right}) is None


@given(summaries, st.floats(1 / 4, 4), st.floats(0, 1), st.sampled_from(["uint8", "uint16", "float32"]))
def test_other_brightness_is_never_refused(found, factor, offset, dtype):
    training = found | {"dtype": dtype}
    span = found["high"][0] - found["low"][0]
    assert verdict(training, times(found, factor, dtype, offset * span)) == "same"


@given(summaries, st.floats(16, 1e5), st.floats(0, 1), st.sampled_from(["uint16", "float32"]))
def test_a_scale_at_least_16_times_as_large_is_always_refused(found, factor, offset, dtype):
    training = found | {"dtype": dtype}
    span = found["high"][0] - found["low"][0]
    new = times(found, factor, dtype, offset * span)
    doubt = compare(training, new)
    assert doubt["weight"] == 1
    corrected = times(new, stated(doubt), "float32") | {"scale": stated(doubt)}
    assert verdict(training, corrected) != "other"


@given(st.floats(0, 1), st.sampled_from([0.1, 1, 3, 30, 1000]), st.sampled_from([0, 100]), st.integers(0, 9))
def test_noise_of_a_dark_image_is_never_refused(background, photons, pedestal, seed):
    """The dark image has any share of the training images' range, down to single gray levels."""
    rng = np.random.default_rng(seed)
    for full, dtype in ((255, "uint8"), (65535, "uint16"), (255, "float32"), (1, "float32")):
        training = summary((cells(0) / 255 * full).astype(dtype))
        noise = rng.poisson(photons, (1, 1, 64, 64)) * background * full / 10 / max(photons, 1)
        dark = (noise + pedestal * full / 65535).astype(dtype)
        assume(dark.std() < training["std"][0])
        assert verdict(training, summary(dark)) != "other"


def test_brightness_of_8_bit_images_is_never_compared():
    dim, bright = ((factor * cells()).astype(np.uint8) for factor in (0.05, 1))
    assert verdict(summary(dim), summary(bright)) == verdict(summary(bright), summary(dim)) == "same"


def test_an_image_in_8_of_12_bits_may_be_dim():
    levels = [(cells() / 255 * full).astype(np.uint16) for full in (4095, 255)]
    assert verdict(*map(summary, levels)) == "doubtful"


def test_low_levels_are_another_scale_only_if_they_also_vary_less():
    training = summary((400 + 4 * cells()).astype(np.uint16))
    assert verdict(training, summary(cells(1).astype(np.uint16))) == "same"


def test_the_factor_comes_from_the_ranges_if_both_images_belong_to_one_usual_scale():
    training, new = (summary((cells() / 255 * full).astype(np.uint16)) for full in (6000, 64000))
    doubt = compare(training, new)
    assert doubt["weight"] == 1 and stated(doubt) == pytest.approx(6000 / 64000, rel=0.01)
    assert compare(training, times(new, stated(doubt), "float32") | {"scale": stated(doubt)}) is None


def test_images_of_one_gray_level_are_not_refused():
    training = summary((cells(0) / 255).astype(np.float32))
    assert verdict(training, summary(np.full((1, 1, 9, 9), 200, np.float32))) == "same"


def test_bright_pixels_alone_are_doubtful():
    image = cells(0).astype(np.uint16)
    training = summary(image)
    image[0, 0, 5, 5] = 3000
    assert verdict(training, summary(image)) == "doubtful"
    assert verdict(summary(image), summary(cells(1).astype(np.uint16))) == "same"
    assert verdict(summary(image), summary((16 * cells(1)).astype(np.uint16))) != "same"


def test_a_doubtful_scale_is_logged(caplog):
    training = measure("mean_std", [cells(0).astype(np.uint16) * 200])
    dim = (cells(1) * 10).astype(np.uint16)
    training.check(dim, "a.h5", summary(dim))
    (line,) = caplog.messages
    assert line.startswith("a.h5: gray levels from ") and "brightness" in line


def test_models_without_gray_levels_are_not_compared(caplog):
    caplog.set_level("INFO", "bordure")
    module._say_that_scales_are_not_compared.cache_clear()
    content = measure("mean_std", [(cells(0) / 255).astype(np.float32)]).to_dict()
    del content["gray"]
    old, new = Normalisation.from_dict(content), cells(1).astype(np.float32)
    for _ in range(2):
        old.check(new, "a.h5", summary(new))
    assert len(caplog.messages) == 1 and "gray scale of new images is not compared" in caplog.text
    with pytest.raises(InputError, match="float64 gray levels, but the model was trained on float32"):
        old.check(cells(1), "a.h5", summary(cells(1)))
    old.check(cells(1), "a.h5", summary(cells(1)) | {"scale": 1.0})


def test_gray_levels_of_a_model_must_be_numbers():
    content = measure("mean_std", [cells(0)]).to_dict()
    for wrong in (
        {"low": [0]},
        {key: ["x"] for key in module.MOMENTS},
        dict.fromkeys(module.MOMENTS, 1),
        3,
    ):
        with pytest.raises((KeyError, TypeError, ValueError)):
            Normalisation.from_dict(content | {"gray": wrong})


def test_volumes_with_a_stated_scale_may_have_another_type():
    volumes = [cells(0).astype(np.uint8), cells(1).astype(np.float32)]
    gray = [summary(volumes[0]), summary(volumes[1]) | {"scale": 255.0}]
    found = measure("none", volumes, gray)
    assert found.dtype == "uint8" and found.scale == 255
    assert found.gray == pool(gray, [96 * 96] * 2) | {"dtype": "uint8"}
    found = measure("mean_std", volumes[::-1], gray[::-1])
    assert found.dtype == "uint8"
    np.testing.assert_allclose(found.offset, np.mean(volumes), rtol=1e-6)
    assert measure("none", volumes[1:], gray[1:]).dtype == "float32"
    with pytest.raises(InputError, match=r"types: float32, uint8\. .* into the column `scale`"):
        measure("none", volumes)


@needs_data
@pytest.mark.parametrize(
    ("full", "dtype"), [(255, "uint8"), (4080, "uint16"), (65535, "uint16"), (1, "float32")]
)
def test_real_images_of_one_scale_are_never_doubtful(full, dtype):
    """Each image is compared with each other image, and with all of them."""
    images = [tifffile.imread(path)[None, None] for path in sorted((DATA / "nuclei/images").glob("*.tif"))]
    nuclei = [summary(image) for image in images]
    stack = tifffile.imread(DATA / "isbi2012/train-volume.tif")[None]
    found = [*nuclei, *(summary(stack[:, z : z + 1]) for z in range(30)), summary(stack)]
    trainings = [*found, pool(nuclei, [image.size for image in images])]
    assert len(nuclei) == 60
    found = [times(one, full / 255, dtype) for one in found]
    for training in trainings:
        training = times(training, full / 255, dtype)
        assert [verdict(training, one) for one in found] == ["same"] * 91


@needs_data
def test_real_images_of_other_scales_are_refused():
    """Of the nuclei, only images that use less than a quarter of their scale are merely doubtful."""
    images = [tifffile.imread(path)[None, None] for path in sorted((DATA / "nuclei/images").glob("*.tif"))]
    nuclei = [summary(image) for image in images]
    together = pool(nuclei, [image.size for image in images])
    stack = summary(tifffile.imread(DATA / "isbi2012/train-volume.tif")[None])
    for full, new_full in ((1, 255), (1, 65535), (255, 65535), (255, 1), (65535, 1), (65535, 255)):
        for training, volumes, expected in ((together, nuclei, 60), (stack, [stack], 1)):
            training = times(training, full / 255, "float32")
            verdicts = [verdict(training, times(one, new_full / 255, "float32")) for one in volumes]
            refused = verdicts.count("other")
            dim = sum(one["high"][0] < 255 / 4 for one in volumes) if new_full < full else 0
            assert refused == expected - dim and verdicts.count("same") == 0


def test_one_channel_of_a_single_gray_level_is_refused(volumes):
    for volume in volumes:
        volume[1] = 7
    with pytest.raises(InputError, match="one single gray level"):
        measure("mean_std", volumes)


def test_gray_levels_of_volumes_of_different_size_are_those_of_all_pixels(volumes):
    found, every = measure("none", volumes).gray, joined(volumes)
    np.testing.assert_allclose(found["mean"], every.mean(axis=(1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found["std"], every.std(axis=(1, 2, 3)), rtol=1e-6)
