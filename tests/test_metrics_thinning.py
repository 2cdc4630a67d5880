"""Compare components and border thinning with scipy and with a slow implementation of the flooding."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from pipeline_lib import metrics
from pipeline_lib.kernels.components import equal_components
from pipeline_lib.runtime.errors import InputError

binaries = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14))


def slow_components(cells, ignore):
    """Label the components of the cells that are not ignored, in the order of columns."""
    return ndimage.label((cells & ~ignore).T)[0].T


def slow_flood(cells, ignore=None):
    """Flood a (y, x) array with two levels, on a dictionary (x, y) -> label in the order of columns.

    Ignored pixels are not in the dictionary. Parts without cells become one cell each.
    """
    ignore = np.zeros(cells.shape, bool) if ignore is None else ignore
    components = slow_components(cells, ignore)
    columns_first = [(x, y) for x in range(cells.shape[1]) for y in range(cells.shape[0]) if not ignore[y, x]]
    label = {(x, y): int(components[y, x]) if cells[y, x] else "membrane" for x, y in columns_first}

    def around(x, y):
        return [p for p in ((x - 1, y), (x, y - 1), (x + 1, y), (x, y + 1)) if p in label]

    queue = deque()
    for pixel in columns_first:
        if label[pixel] == "membrane" and any(isinstance(label[p], int) for p in around(*pixel)):
            label[pixel] = "queued"
            queue.append(pixel)
    flag = False
    while queue:
        pixel = queue.popleft()
        for other in around(*pixel):
            if isinstance(label[other], int) and label[other] > 0:
                if label[pixel] == "queued" or (label[pixel] == 0 and flag):
                    label[pixel] = label[other]
                elif label[pixel] > 0 and label[pixel] != label[other]:
                    label[pixel], flag = 0, False
            elif label[other] == 0 and label[pixel] == "queued":
                label[pixel], flag = 0, True
            elif label[other] == "membrane":
                label[other] = "queued"
                queue.append(other)
    flooded = np.zeros(cells.shape, int)
    for (x, y), value in label.items():
        flooded[y, x] = -1 if value == "membrane" else value
    rest = slow_components(flooded == -1, ignore)
    return np.where(rest > 0, components.max(initial=0) + rest, flooded)


@given(binaries)
def test_components_equal_those_of_scipy_in_the_order_of_columns(binary):
    labels = metrics.connected_components(binary)
    expected, count = ndimage.label(binary.T)
    np.testing.assert_array_equal(labels, expected.T)
    assert labels.max(initial=0) == count


def test_components_do_not_cross_sections():
    labels = metrics.connected_components(np.ones((3, 2, 2)))
    assert labels.dtype == np.int32
    assert (labels == 1).all()


def test_components_that_touch_at_a_corner_are_separate():
    assert metrics.connected_components(np.eye(3)).max() == 3


def test_many_provisional_labels_are_joined():
    comb = np.zeros((4001, 40), bool)
    comb[:, ::2] = True  # 20 teeth, each column a component until the last row joins them
    comb[-1] = True
    assert metrics.connected_components(comb).max() == 1
    checkerboard = np.indices((80, 80)).sum(axis=0) % 2 == 0
    assert metrics.connected_components(checkerboard).max() == 3200


@pytest.mark.parametrize("shape", [(300, 300), (1, 7)])
def test_each_pixel_is_a_component_if_no_neighbours_are_equal(shape):
    """There are twice as many labels as on a checkerboard, the most of a binary image."""
    values = np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint32).reshape(shape)
    expected = np.arange(1, values.size + 1).reshape(shape[::-1]).T
    for _ in range(5):  # a table that is too small damages other memory
        np.testing.assert_array_equal(equal_components(values), expected)


@given(binaries)
def test_thinning_equals_the_slow_implementation(binary):
    np.testing.assert_array_equal(metrics.thin_borders(binary), slow_flood(binary))


with_ignored = array_shapes(min_dims=2, max_dims=2, max_side=14).flatmap(
    lambda shape: st.tuples(
        arrays(bool, shape), arrays(np.int8, shape, elements=st.sampled_from([0, 0, 0, -1, 7]))
    )
)


@given(with_ignored)
def test_nothing_is_connected_or_grows_through_ignored_pixels(images):
    binary, ignore = images
    expected = slow_components(binary, ignore != 0)
    np.testing.assert_array_equal(metrics.connected_components(binary, ignore=ignore), expected)
    np.testing.assert_array_equal(
        metrics.thin_borders(binary, ignore=ignore), slow_flood(binary, ignore != 0)
    )


def test_part_without_cells_behind_ignored_pixels_is_one_cell():
    binary, ignore = np.array([[0, 1, 0, 0, 0, 0]]), np.array([[0, 0, 0, 1, 0, 0]])
    np.testing.assert_array_equal(metrics.thin_borders(binary, ignore=ignore), [[1, 1, 1, 0, 2, 2]])
    np.testing.assert_array_equal(metrics.thin_borders(0 * binary, ignore=ignore), [[1, 1, 1, 0, 2, 2]])


@given(binaries.filter(lambda binary: binary.any()), st.booleans())
def test_thinning_keeps_cells_separate_and_their_labels(binary, transposed):
    binary = binary.T if transposed else binary
    thinned, components = metrics.thin_borders(binary), metrics.connected_components(binary)
    np.testing.assert_array_equal(thinned[binary], components[binary])
    for axis in (0, 1):
        pairs = thinned.shape[axis] - 1
        one, other = (np.take(thinned, np.arange(pairs) + start, axis) for start in (0, 1))
        assert ((one == other) | (one == 0) | (other == 0)).all()


def test_membrane_of_three_pixels_becomes_a_dam_of_one():
    binary = np.ones((5, 9), bool)
    binary[:, 3:6] = False
    np.testing.assert_array_equal(metrics.thin_borders(binary), [[1, 1, 1, 1, 0, 2, 2, 2, 2]] * 5)


def test_prediction_without_cells_is_one_cell():
    assert (metrics.thin_borders(np.zeros((2, 4, 5))) == 1).all()


@pytest.mark.parametrize("function", [metrics.connected_components, metrics.thin_borders])
def test_array_with_another_number_of_axes_is_rejected(function):
    with pytest.raises(InputError, match="Expected"):
        function(np.ones(3))
