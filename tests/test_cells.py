"""Counts of annotated cells equal brute force, whatever the blocks, and lead to the right doubts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.data.cells import CellCounter, doubts_of_cells
from pipeline_lib.data.labels import separation_border


def count(labels, border, size, ignored=0):
    """Count the cells of sections (z, y, x) in blocks of a size."""
    counter = CellCounter()
    numbers = []
    for section, separating in zip(labels, border, strict=True):
        for y in range(0, labels.shape[1], size):
            for x in range(0, labels.shape[2], size):
                at = slice(y, y + size), slice(x, x + size)
                counter.add(section[at], separating[at])
        numbers.append(counter.end_section())
    return numbers, counter.to_dict(labels, ignored)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from([1, 2, 5]))
def test_counts_equal_brute_force(seed, size, most):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, most + 1, (3, 6, 7)) * rng.integers(0, 2, (3, 1, 1))
    border = np.stack([separation_border(section, 2) for section in labels])
    numbers, found = count(labels, border, size, ignored=9)
    cells = [(z, cell) for z, section in enumerate(labels) for cell in np.unique(section) if cell]
    sizes = [np.count_nonzero(labels[z] == cell) for z, cell in cells]
    assert numbers == [sum(at == z for at, _ in cells) for z in range(3)]
    assert found["number"] == len(cells)
    assert found["largest"] == max(sizes, default=0) and found["smallest"] == min(sizes, default=0)
    assert found["median"] == (np.median(sizes) if sizes else 0)
    assert found["in_border"] == sum(border[z][labels[z] == cell].all() for z, cell in cells)
    assert found["share"] == pytest.approx(sum(sizes) / (labels.size - 9))
    assert found["ignored"] == 9 / labels.size
    wide = max(sizes, default=0) > 21
    assert ("widest" in found) == wide
    if wide:
        z, cell = cells[int(np.argmax(sizes))]
        here = labels[z] == cell
        widest = found["widest"]
        assert (widest["section"], widest["share"]) == (z, max(sizes) / 42)
        assert widest["sides"] == sum(map(np.any, (here[0], here[-1], here[:, 0], here[:, -1])))


@pytest.mark.parametrize(
    ("holes", "areas", "sides"), [(4, 1, 4), (0, 1, 4), (0, 3, 3), (2, 3, 4)], ids=lambda value: f"{value}"
)
def test_holes_and_areas_of_the_widest_cell(holes, areas, sides):
    cell = np.ones((60, 60), int)
    for number in range(areas - 1):
        cell[:, 12 + 20 * number] = 0
    for number in range(holes):
        cell[5 + 12 * number : 9 + 12 * number, 50:54] = 0
    cell[58, 1] = 0  # a speck
    if sides == 3:
        cell[-1] = 0
    _, found = count(cell[None], np.zeros((1, 60, 60), bool), 16)
    assert found["widest"] | {"share": 0} == {
        "share": 0,
        "section": 0,
        "sides": sides,
        "parts": max(holes, areas),
    }
    (doubt,) = doubts_of_cells(found, 2)
    assert doubt["weight"] == (0.85 if max(holes, areas) >= 3 else 0.5)
