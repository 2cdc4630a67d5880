"""The measured speed of a training."""

import time

import pytest
import torch

from pipeline_lib.runtime.errors import InputError
from pipeline_lib.training.speed import measure_speed

SMALL = {"depth": 1, "base_channels": 4}


def test_larger_networks_and_tiles_take_longer():
    small = measure_speed(SMALL, {"tile": 32, "device": "cpu"}, seconds=0)
    large = measure_speed({"depth": 2, "base_channels": 24}, {"tile": 140, "device": "cpu"}, seconds=0)
    assert 0 < 4 * small < large < 5


def test_a_batch_is_one_iteration():
    one, four = (
        measure_speed(SMALL, {"tile": 200, "batch": batch, "device": "cpu"}, seconds=1) for batch in (1, 4)
    )
    assert 2 * one < four < 8 * one


def test_the_measurement_takes_about_the_given_time_and_leaves_torch_as_it_was():
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    start = time.perf_counter()
    measure_speed(SMALL, {"tile": 32, "device": "cpu"}, channels=3, threads=threads + 1, seconds=0.5)
    assert 0.5 < time.perf_counter() - start < 5
    assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), state)


def test_a_tile_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"training.tile: a tile of 33 px is not valid"):
        measure_speed(SMALL, {"tile": 33, "device": "cpu"})
