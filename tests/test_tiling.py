import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.inference.tiling import mirror, read_mirrored, tiles
from pipeline_lib.networks.unet import UPSAMPLING_LOSS, UNetPlan
from pipeline_lib.runtime.errors import InputError


def test_the_papers_network_takes_572_and_gives_388():
    geometry = UNetPlan().geometry
    assert geometry.output_size(572) == 388
    assert geometry.input_size(388) == 572
    assert geometry.stride == 16


@pytest.mark.parametrize("tile", [571, 573, 580, 12, 0])
def test_an_impossible_tile_names_the_nearest_possible_ones(tile):
    with pytest.raises(InputError, match=r"training\.tile: .* use \d+ or \d+") as error:
        UNetPlan().require_tile(tile, "training.tile")
    below, above = (int(word) for word in str(error.value).rstrip(".").split("use ")[1].split(" or "))
    for size in (below, above):
        UNetPlan().require_tile(size, "training.tile")
    assert above - below == 16


def level_sizes(size, depth, loss):
    """Walk through the network by hand; None where a pooling sees an odd size or too little is left."""
    stride = 2**depth
    for _ in range(depth):
        size -= 4
        if size <= 0 or size % 2:
            return None
        size //= 2
    size -= 4
    for _ in range(depth):
        size = 2 * size - loss - 4
    return size if size >= stride else None


@pytest.mark.parametrize(("upsampling", "loss"), [("up_convolution", 0), ("nearest", 2), ("bilinear", 4)])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_valid_sizes_are_those_found_by_walking_through_the_network(depth, upsampling, loss):
    geometry = UNetPlan(depth=depth, upsampling=upsampling).geometry
    for size in range(1, 420):
        expected = level_sizes(size, depth, loss)
        if expected is None:
            with pytest.raises(InputError):
                geometry.output_size(size)
        else:
            assert geometry.output_size(size) == expected


@given(st.integers(1, 30), st.integers(-70, 70), st.integers(1, 90))
def test_mirror_is_numpys_reflection(size, start, length):
    before, after = max(-start, 0), max(start + length - size, 0)
    padded = np.pad(np.arange(size), (before, after), mode="reflect")
    np.testing.assert_array_equal(
        mirror(start, start + length, size), padded[start + before : start + before + length]
    )


sizes = st.integers(1, 200)
geometries = st.builds(
    UNetPlan, depth=st.sampled_from([1, 2, 3]), upsampling=st.sampled_from(sorted(UPSAMPLING_LOSS))
).map(lambda plan: plan.geometry)


@given(sizes, sizes, st.integers(0, 8), geometries)
def test_every_pixel_is_written_once_from_its_own_position(height, width, larger, geometry):
    tile = geometry.smallest + larger * geometry.stride
    position = np.arange(height * width).reshape(1, height, width)
    written = np.full((height, width), -1)
    for part in tiles((height, width), tile, geometry):
        assert np.prod([stop - start for start, stop in part.read]) <= tile**2
        for start, stop in part.read:
            geometry.output_size(stop - start)  # valid for the network
            assert (
                start + geometry.context
            ) % geometry.stride == 0  # pooling sees the same squares everywhere
        image = read_mirrored(
            position,
            0,
            *(mirror(*span, size) for span, size in zip(part.read, position.shape[1:], strict=True)),
        )
        output = image[geometry.context : -geometry.context, geometry.context : -geometry.context]
        assert (written[part.write] == -1).all()
        written[part.write] = output[part.crop]
    np.testing.assert_array_equal(written, position[0])


def even_inputs(size, count, geometry):
    """What `count` tiles as even as the stride allows read along an axis."""
    step = size if count == 1 else -(-size // (count * geometry.stride)) * geometry.stride
    return [geometry.input_size(step)] * -(-size // step)


@given(sizes, sizes, st.integers(0, 8), geometries)
def test_no_other_division_into_even_tiles_reads_fewer_pixels(height, width, larger, geometry):
    tile = geometry.smallest + larger * geometry.stride
    least = min(
        sum(rows) * sum(columns)
        for rows in (even_inputs(height, n, geometry) for n in range(1, height // geometry.stride + 2))
        for columns in (even_inputs(width, n, geometry) for n in range(1, width // geometry.stride + 2))
        if max(rows) * max(columns) <= tile**2
    )
    read = [[stop - start for start, stop in part.read] for part in tiles((height, width), tile, geometry)]
    assert np.prod(read, axis=1).sum() == least


def test_a_tile_too_small_to_move_on_by_a_stride_is_refused_from_the_start():
    with pytest.raises(InputError, match=r"188 px does not fit this network.*use 204 or 220"):
        UNetPlan().require_tile(188, "training.tile")
    assert len(list(tiles((300, 300), 204, UNetPlan().geometry))) == 19**2


def test_tiles_are_even_in_size_so_that_the_last_one_is_not_a_sliver():
    found = tiles((10, 1500), 572, UNetPlan().geometry)
    widths = [part.write[1].stop - part.write[1].start for part in found]
    assert widths == [752, 748]


def test_tiles_have_one_size():
    found = [part.read for part in tiles((1000, 1500), 572, UNetPlan().geometry)]
    assert len({tuple(stop - start for start, stop in read) for read in found}) == 1 < len(found)


def test_tiles_are_long_where_that_reads_less():
    geometry = UNetPlan().geometry
    found = [part.read for part in tiles((2048, 2048), 1708, geometry)]  # squares would be four of 1212 px
    assert found == [((-92, 1120), (-92, 2144)), ((932, 2144), (-92, 2144))]
    assert len(list(tiles((2048, 2048), 1212, geometry))) == 4
