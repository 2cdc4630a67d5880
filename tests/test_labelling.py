"""Compare labels made block by block or band by band with those of whole sections."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib import layout
from pipeline_lib.data.labels import separation_border
from pipeline_lib.instances.labelling import BYTES_PER_PIECE, find_pieces, labelled, number_components
from pipeline_lib.instances.postprocessing import PostProcessing, instances
from pipeline_lib.kernels.blocks import blocks
from pipeline_lib.memory import PROCESS_BYTES
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.tasks.segmentation.weights import halo, weight_map

SEEDS = st.integers(0, 2**32 - 1)


def number_through(sections):
    """Number the labels of whole sections through the volume: the simple implementation to compare with."""
    labels, used = np.zeros(sections.shape, np.uint32), 0
    for section, target in zip(sections, labels, strict=True):
        target[section > 0] = section[section > 0] + used
        used = max(used, target.max())
    return labels


def spiral(size):
    """Return one cell that passes through all blocks; its arms are 1 px apart."""
    cells = np.zeros((size, size), bool)
    y, x, dy, dx = 0, -1, 0, 1
    for length in (size, *(n for n in range(size - 1, 0, -2) for _ in range(2))):
        for _ in range(length):
            y, x = y + dy, x + dx
            cells[y, x] = True
        dy, dx = dx, -dy
    return cells


def comb(height, width, rng):
    """Return columns of cell that only the last row joins into one component; randomly rotated."""
    cells = np.zeros((height, width), bool)
    cells[:, :: rng.integers(2, 4)] = True
    cells[-1] = True
    return np.rot90(cells, rng.integers(4))


def drawn(seed):
    """Return sections of spirals, combs, or noise of densities around the percolation threshold (0.593)."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    kind = rng.integers(4)
    if kind == 0:
        section = spiral(max(height, 2))
    elif kind == 1:
        section = comb(height, width, rng)
    else:
        section = rng.random((height, width)) < rng.choice([0.1, 0.45, 0.593, 0.7, 1])
    noise = rng.random((rng.integers(1, 4), *section.shape)) < rng.choice([0, 0.02])
    return section ^ noise


def reader(array):
    return lambda z, rows, columns: array[z, rows, columns]


def label_in_bands(cells, heights, block, minimum_size, before=0):
    """Label one section in bands, as several jobs would; return the labels and the last label."""
    stored = np.zeros((1, *cells.shape), np.uint32)
    bands, edges = [], np.cumsum([0, *heights])
    for top, bottom in itertools.pairwise(edges):
        part = cells[None, top:bottom]
        bands.append(find_pieces(reader(part), stored[:, top:bottom], 0, block=block))
    seams = [(stored[0, edge - 1], stored[0, edge]) for edge in edges[1:-1]]
    lookups, used = number_components(bands, heights, seams, minimum_size=minimum_size, before=before)
    of_band = np.split(stored[0], edges[1:-1])
    return np.concatenate([lookup[pieces] for lookup, pieces in zip(lookups, of_band, strict=True)]), used


@settings(max_examples=50)
@given(SEEDS, st.integers(1, 70), st.integers(0, 20))
def test_labels_do_not_depend_on_the_size_of_blocks(tmp_path_factory, seed, block, minimum_size):
    cells = drawn(seed)
    post_processing = PostProcessing(0.5, minimum_size)
    expected = number_through(np.stack([instances(s.astype(float), post_processing) for s in cells]))
    folder = tmp_path_factory.mktemp("labels")
    with labelled(
        reader(cells), cells.shape, folder / "labels.tif", minimum_size=minimum_size, block=block
    ) as (labels, count):
        found = np.stack([labels[z, :, :] for z in range(len(cells))])
    assert found.dtype == np.uint32 and count == expected.max()
    np.testing.assert_array_equal(found, expected)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("block", [2, 8])  # pieces in a file, and in memory
def test_labels_are_counted_if_the_last_section_has_none(tmp_path, block):
    cells = np.zeros((3, 4, 4), bool)
    cells[0, :2, :2] = cells[1, 3, 3] = True
    with labelled(reader(cells), cells.shape, tmp_path / "labels.h5", block=block) as (labels, count):
        assert count == 2 == labels[1, :, :].max() and not labels[2, :, :].any()
        assert len(list(tmp_path.iterdir())) == (block == 2)


@given(SEEDS, st.integers(1, 40), st.integers(0, 20), st.data())
def test_labels_do_not_depend_on_the_bands(seed, block, minimum_size, data):
    cells = drawn(seed)[0]
    height = len(cells)
    edges = data.draw(st.sets(st.integers(1, max(height - 1, 1)), max_size=4)) - {height}
    heights = np.diff([0, *sorted(edges), height]).tolist()
    found, used = label_in_bands(cells, heights, block, minimum_size, before=7)
    expected = instances(cells.astype(float), PostProcessing(0.5, minimum_size))
    np.testing.assert_array_equal(found, np.where(expected, expected + 7, 0))
    assert used == 7 + expected.max()


def test_more_labels_than_uint32_can_number_are_rejected():
    pieces = find_pieces(reader(np.ones((1, 2, 3), bool)), np.zeros((1, 2, 3), np.uint32), 0)
    assert number_components([pieces], [2], before=2**32 - 2)[0][0][1] == 2**32 - 1
    with pytest.raises(InputError, match="4294967296 connected components"):
        number_components([pieces], [2], before=2**32 - 1)


def test_memory_depends_on_the_block_and_not_on_the_section(tmp_path):
    """Compute labels, border and weight map of 2048 x 2048 px; the labels of a whole section take 16 MB."""
    block, side, w_c = 128, 2048, np.array([2.0, 0.7])

    def cells(z, rows, columns):  # winding, 20 px wide
        y, x = np.ogrid[rows, columns]
        return np.sin(y / 7 + 2 * np.sin(x / 30)) > -0.7

    with layout.create(tmp_path / "out.h5", {}) as file:
        arrays = [layout.add(file, a, (1, side, side)) for a in (layout.SEPARATION_BORDER, layout.WEIGHT_MAP)]
        separation_border(np.zeros((3, 3), np.uint32), 2), weight_map(np.zeros((3, 3)), w_c, 10, 5)
        tracemalloc.start()
        with labelled(cells, (1, side, side), tmp_path / "out.h5", block=block) as (labels, count):
            for part in blocks((side, side), block, halo(w_c, 10, 5)):
                around = labels[0, *part.read]
                border = separation_border(around, 2)
                arrays[0][0, *part.write] = border[part.crop]
                weights = weight_map(np.where(border, 0, around), w_c, 10, 5)
                arrays[1][0, *part.write] = weights[part.crop]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert count > 40
    assert peak < 2e6


def test_too_many_pieces_for_the_memory_are_rejected_as_noise():
    cells = np.zeros((1, 8, 8), np.uint8)
    cells[0, ::2, ::2] = 1  # 16 of them
    room = (PROCESS_BYTES + 15 * BYTES_PER_PIECE) / 1e9
    with pytest.raises(InputError, match=r"at least 16 connected components, .* `memory_gb` is .* noise"):
        find_pieces(reader(cells), np.zeros(cells.shape, np.uint32), 0, memory_gb=room)
    found = find_pieces(reader(cells), np.zeros(cells.shape, np.uint32), 0, memory_gb=room + 1e-7)
    assert len(found.size) == 17


def test_the_pieces_of_all_blocks_count_for_the_memory():
    board = np.indices((16, 16)).sum(0) % 2 == 0
    limit = (PROCESS_BYTES + 100 * BYTES_PER_PIECE) / 1e9  # of 128 pieces, 32 in each block
    with pytest.raises(InputError, match="a section has at least 128 connected components"):
        find_pieces(
            lambda z, rows, columns: board[rows, columns],
            np.zeros((1, 16, 16), np.uint32),
            0,
            block=8,
            memory_gb=limit,
        )
