"""Regions of a resampled image have exactly the values of the whole, and those of scikit-image."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize

from pipeline_lib.inference import resampling
from pipeline_lib.inference.resampling import Resampled

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 2**16, (2, 3, 90, 70), np.uint16)
ALL = slice(None)


@pytest.mark.parametrize(
    ("step", "size"), (((2, 3), (45, 23)), ((0.5, 0.25), (180, 280)), ((1.8, 0.7), (50, 100)))
)
def test_values_are_those_of_scikit_image(step, size):
    image = IMAGE[0, 0, :, :69] if step[1] == 3 else IMAGE[0, 0]  # whole pixels, so that the corners agree
    found = Resampled(image[None].astype(np.float32), step)[0, :, :]
    assert found.shape == size
    sigma = [max((by - 1) / 2, 0) for by in step]
    expected = resize(
        image.astype(np.float32), size, 1, "reflect", anti_aliasing=True, anti_aliasing_sigma=sigma
    )
    inner = slice(5, -5), slice(5, -5)  # at the edge scikit-image mirrors; here the nearest pixel is used
    np.testing.assert_allclose(found[inner], expected[inner], rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.floats(0.2, 5), st.floats(0.2, 5)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from((np.uint8, np.uint16, np.float32)),
)
def test_each_region_has_exactly_the_values_of_the_whole(step, part, dtype):
    resampled = Resampled(IMAGE.astype(dtype), step)
    whole = resampled[:, 1, :, :]
    assert (whole.dtype, whole.shape) == (dtype, (2, *resampled.shape[2:]))
    place = []
    for size, a, b in zip(whole.shape[1:], part[:2], part[2:], strict=True):
        first = int(a * (size - 1))
        place.append(slice(first, first + 1 + int(b * (size - 1 - first))))
    np.testing.assert_array_equal(resampled[:, 1, *place], whole[:, *place])


@pytest.mark.parametrize("step", ((3.3, 1.7), (0.4, 0.9)))
def test_sections_are_read_in_blocks_with_the_same_result(monkeypatch, tmp_path, step):
    whole = Resampled(IMAGE, step)[..., 2, ALL, ALL]
    monkeypatch.setattr(resampling, "BLOCK", 16)
    largest = 0

    class Recorded:
        shape, dtype = IMAGE.shape, IMAGE.dtype

        def __getitem__(self, index):
            nonlocal largest
            read = IMAGE[index]
            largest = max(largest, read[0].size)
            return read

    np.testing.assert_array_equal(Resampled(Recorded(), step)[..., 2, ALL, ALL], whole)
    reach = sum(4 * max((by - 1) / 2, 0) for by in step) + 3
    assert largest <= (16 + 2 * reach) ** 2
    with h5py.File(tmp_path / "a.h5", "w") as file:  # an HDF5 dataset is accepted like an array
        np.testing.assert_array_equal(
            Resampled(file.create_dataset("a", data=IMAGE), step)[..., 2, ALL, ALL], whole
        )


def test_positions_are_exact_in_very_wide_images():
    class Wide:
        """An image with columns of alternating large values, whose interpolation magnifies rounding."""

        shape, dtype = (1, 4, 3_000_000), np.dtype(np.float32)

        def __getitem__(self, index):
            columns = np.arange(index[2].start, index[2].stop)
            return np.tile(np.float32(1e6) * (1 - 2 * (columns % 2)), (4, 1))[index[1]]

    resampled = Resampled(Wide(), (1, 0.7001))
    a, b = (resampled[0, 0:1, slice(start, 4_002_000)] for start in (3_990_000, 3_990_003))
    np.testing.assert_array_equal(a[:, 3:], b)


def test_fine_detail_is_averaged_when_pixels_become_larger():
    checked = np.indices((64, 64)).sum(0) % 2 * 200.0
    shrunk = Resampled(checked[None], (4.0, 4.0))[0, ALL, ALL]
    assert np.abs(shrunk - 100).max() < 1
    assert np.ptp(Resampled(checked[None], (1.0, 1.0))[0, ALL, ALL]) == 200


def test_the_first_row_and_column_begin_at_the_same_place():
    ramp = np.arange(40.0)[None, None] + np.zeros((1, 40, 1))
    for step in (0.5, 2.0, 3.7):
        found = Resampled(ramp, (step, step))[0, 0:1, ALL][0]
        middles = (np.arange(len(found)) + 0.5) * step - 0.5
        inner = (middles > 8) & (middles < 31)
        np.testing.assert_allclose(found[inner], middles[inner], rtol=1e-5)


def test_a_given_shape_and_a_tiny_image():
    assert Resampled(IMAGE, (2, 2), (44, 36)).shape == (2, 3, 44, 36)
    assert Resampled(IMAGE[:, :, :1, :1], (9, 9))[0, 0, ALL, ALL] == IMAGE[0, 0, 0, 0]
