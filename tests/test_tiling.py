import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.inference.tiling import mirror, read_mirrored, tiles
from pipeline_lib.networks import Geometry
from pipeline_lib.networks.unet import UPSAMPLING_LOSS, UNetPlan
from pipeline_lib.runtime.errors import InputError


def test_default_network_maps_572_px_to_388_px():
    geometry = UNetPlan().geometry
    assert geometry.output_size(572) == 388
    assert geometry.input_size(388) == 572
    assert geometry.stride == 16


@pytest.mark.parametrize("tile", [571, 573, 580, 12, 0])
def test_invalid_tile_is_rejected_with_the_nearest_sizes(tile):
    with pytest.raises(InputError, match=r"training\.tile: .* Use \d+ or \d+") as error:
        UNetPlan().require_tile(tile, "training.tile")
    below, above = (int(word) for word in str(error.value).rstrip(".").split("Use ")[1].split(" or "))
    for size in (below, above):
        UNetPlan().require_tile(size, "training.tile")
    assert above - below == 16


def level_sizes(size, depth, loss):
    """Compute the output size layer by layer; None if a pooling has an odd input or too little remains."""
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


@pytest.mark.parametrize(
    ("upsampling", "loss"),
    [("up_convolution", 0), ("nearest", 2), ("bilinear", 4), ("bed_of_nails", 2), ("max_unpooling", 0)],
)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_valid_sizes_are_those_computed_layer_by_layer(depth, upsampling, loss):
    geometry = UNetPlan(depth=depth, upsampling=upsampling).geometry
    for size in range(1, 420):
        expected = level_sizes(size, depth, loss)
        if expected is None:
            with pytest.raises(InputError):
                geometry.output_size(size)
        else:
            assert geometry.output_size(size) == expected


@given(st.integers(1, 30), st.integers(-70, 70), st.integers(1, 90))
def test_mirror_equals_reflection_padding_of_numpy(size, start, length):
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
def test_every_pixel_is_written_once_from_its_position(height, width, larger, geometry):
    tile = geometry.smallest + larger * geometry.stride
    position = np.arange(height * width).reshape(1, height, width)
    written = np.full((height, width), -1)
    for part in tiles((height, width), tile, geometry):
        assert np.prod([stop - start for start, stop in part.read]) <= tile**2
        for start, stop in part.read:
            geometry.output_size(stop - start)  # valid for the network
            # pooling sees the same squares in every tile
            assert (start + geometry.context) % geometry.stride == 0
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
    """Return the input sizes along an axis of `count` tiles, as even as the stride allows."""
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


def test_tile_with_an_output_smaller_than_a_stride_is_rejected():
    with pytest.raises(InputError, match=r"188 px is not valid for this network.*Use 204 or 220"):
        UNetPlan().require_tile(188, "training.tile")
    assert len(list(tiles((300, 300), 204, UNetPlan().geometry))) == 19**2


def test_last_tile_is_about_as_large_as_the_others():
    found = tiles((10, 1500), 572, UNetPlan().geometry)
    widths = [part.write[1].stop - part.write[1].start for part in found]
    assert widths == [752, 748]


def test_tiles_have_one_size():
    found = [part.read for part in tiles((1000, 1500), 572, UNetPlan().geometry)]
    assert len({tuple(stop - start for start, stop in read) for read in found}) == 1 < len(found)


def test_tiles_are_elongated_if_that_reads_fewer_pixels():
    geometry = UNetPlan().geometry
    # four square tiles of 1212 px would cover the section, too, but read more
    found = [part.read for part in tiles((2048, 2048), 1708, geometry)]
    assert found == [((-92, 1120), (-92, 2144)), ((932, 2144), (-92, 2144))]
    assert len(list(tiles((2048, 2048), 1212, geometry))) == 4


def test_a_section_without_pixels_has_no_tiles():
    geometry = UNetPlan().geometry
    assert [*tiles((0, 300), 572, geometry)] == [*tiles((300, 0), 572, geometry)] == []


def test_tiles_of_a_size_that_is_not_valid_are_refused():
    with pytest.raises(InputError, match="571 px is not valid"):
        next(tiles((300, 300), 571, UNetPlan().geometry))


@pytest.mark.parametrize(("height", "width", "context"), [(5, 7, 3), (4, 30, 11), (1, 1, 2), (40, 6, 6)])
def test_the_mirrored_part_is_that_of_the_squares_around_all_pixels(height, width, context):
    reach = range(-context, context + 1)
    rows, columns = (
        [sum(0 <= place + step < size for step in reach) for place in range(size)] for size in (height, width)
    )
    inside = np.outer(rows, columns).mean() / len(reach) ** 2
    geometry = Geometry(stride=2, smallest=2 * context + 2, context=context)
    assert geometry.mirrored(height, width) == pytest.approx(1 - inside)


def test_a_network_that_sees_more_mirrored_pixels_than_others_is_reported():
    plan = UNetPlan()
    side = next(size for size in range(1, 999) if plan.geometry.mirrored(size, size) <= 0.5)
    assert plan.mirror_warning({"a": (1, side, side)}) == ""
    assert "In 1 of 2 volumes" in plan.mirror_warning({"a": (1, side, side), "b": (1, side - 1, side - 1)})
