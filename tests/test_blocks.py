"""Test the geometry of blocks and parts."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.kernels import blocks

SIZES = st.integers(1, 40)


@given(shape=st.tuples(SIZES, SIZES), side=st.integers(1, 50), halo=st.integers(0, 9))
def test_blocks_write_each_pixel_once_and_read_the_halo(shape, side, halo):
    section = np.arange(shape[0] * shape[1]).reshape(shape)
    written = np.full(shape, -1)
    for block in blocks.blocks(shape, side, halo):
        assert (written[block.write] == -1).all()
        written[block.write] = section[block.read][block.crop]
        for read, write, size in zip(block.read, block.write, shape, strict=True):
            assert (read.start, read.stop) == (max(write.start - halo, 0), min(write.stop + halo, size))
            assert write.stop - write.start <= side
    assert np.array_equal(written, section)


@given(shape=st.tuples(st.integers(1, 9), st.integers(1, 2000), SIZES), number=st.integers(1, 20))
def test_parts_cover_a_volume_once_and_start_at_the_alignment(shape, number):
    parts = blocks.parts(shape, number)
    covered = np.zeros(shape[:2], int)
    for part in parts:
        covered[part.sections, part.rows] += 1
        assert part.rows.start % blocks.ALIGNMENT == 0
        assert part.rows == slice(0, shape[1]) or part.sections.stop - part.sections.start == 1
    assert (covered == 1).all()
    # the stages that join parts rely on the order of sections and rows
    assert parts == sorted(parts, key=lambda part: (part.sections.start, part.rows.start))


@pytest.mark.parametrize(
    ("shape", "number", "expected"),
    [
        ((30, 512, 512), 1, [30]),
        ((30, 512, 512), 4, [7, 8, 7, 8]),
        ((1, 4096, 4096), 3, [1408, 1408, 1280]),
        ((2, 1024, 1024), 4, [512] * 4),
        ((1, 200, 200), 7, [128, 72]),
    ],
)
def test_parts_have_similar_sizes(shape, number, expected):
    parts = blocks.parts(shape, number)
    whole = all(part.rows == slice(0, shape[1]) for part in parts)
    sizes = [(p.sections if whole else p.rows).stop - (p.sections if whole else p.rows).start for p in parts]
    assert sizes == expected
    assert all(a.sections != b.sections or a.rows.stop == b.rows.start for a, b in itertools.pairwise(parts))
