"""Joining small regions of a section with a neighbour."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_lib.instances.regions import join_small
from pipeline_lib.kernels.components import equal_components
from tests.test_multicut import slow_boundaries
from tests.test_mutex_watershed import same_partition

SEEDS = st.integers(0, 2**32 - 1)


def random_regions(seed):
    """Return 4-connected regions that touch, some background, and a map with few different values."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 12, 2))
    regions = equal_components(rng.integers(0, 4, shape).astype(np.uint32))
    return regions, rng.integers(1, 4, shape) / np.float32(4)


def by_definition(regions, probability, smallest):
    """Return the regions, a round after the other."""
    while True:
        edges = slow_boundaries(regions, probability)
        choice = {}
        for own in np.unique(regions[regions > 0]).tolist():
            around = [
                (*edges[pair], -other)
                for pair in edges
                for other in pair
                if own in pair and other != own and (regions == own).sum() < smallest
            ]
            if around:
                choice[own] = -max(around)[2]
        if not choice:
            return regions
        regions = regions.copy()
        groups = {own: {own} for own in np.unique(regions).tolist()}
        for own, other in choice.items():
            both = groups[own] | groups[other]
            groups |= dict.fromkeys(both, both)
        # the number of the joined region is that of its large one, or the lower of two that chose each other
        for group in {tuple(sorted(group)) for group in groups.values()}:
            ends = [own for own in group if own not in choice]
            ends += [own for own in group if own in choice and choice.get(choice[own]) == own]
            regions[np.isin(regions, group)] = min(ends)


@given(SEEDS, st.integers(0, 30))
def test_small_regions_join_as_by_the_definition(seed, smallest):
    regions, probability = random_regions(seed)
    found = join_small(regions, probability, smallest)
    np.testing.assert_array_equal(found, by_definition(regions, probability, smallest))
    assert found.dtype == np.int32


@given(SEEDS, st.integers(0, 30))
def test_large_regions_stay_apart_and_small_ones_have_no_neighbour(seed, smallest):
    regions, probability = random_regions(seed)
    found = join_small(regions, probability, smallest)
    np.testing.assert_array_equal(found > 0, regions > 0)
    assert same_partition(found, equal_components(found))  # connected
    touching = {region for pair in slow_boundaries(found, probability) for region in pair}
    for region in np.unique(found[found > 0]):
        sizes = np.unique(regions[found == region], return_counts=True)[1]
        assert (sizes >= smallest).sum() <= 1
        assert (found == region).sum() >= smallest or region not in touching
    assert len(np.unique(regions)) >= len(np.unique(found))


def test_only_regions_below_the_size_join():
    regions = np.array([[1, 1, 1, 2, 2, 2, 2]], np.int32)
    for smallest, expected in ((3, regions), (4, np.full((1, 7), 2)), (100, np.full((1, 7), 1))):
        np.testing.assert_array_equal(join_small(regions, np.ones((1, 7)), smallest), expected)


@pytest.mark.parametrize(("gap", "joined"), [(0.5, 1), (0.9, 2)])
def test_of_equally_long_boundaries_the_one_with_the_higher_probability_counts(gap, joined):
    regions = np.array([[1, 1, 1, 3, 2, 2, 2]], np.int32)
    probability = np.array([[0.9, 0.9, 0.8, 0.95, gap, 0.9, 0.9]])
    assert join_small(regions, probability, 2)[0, 3] == joined
