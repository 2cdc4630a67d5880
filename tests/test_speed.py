"""The measured speed of a training."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline_lib.networks import plan
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.training import speed
from pipeline_lib.training.speed import measure_speed

SMALL = {"depth": 1, "base_channels": 4}


@pytest.fixture
def work(monkeypatch):
    """A clock that counts the operations of torch instead of seconds, so that results are exact."""
    with FlopCounterMode(display=False) as counter:
        monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=counter.get_total_flops))
        yield counter


def operations(settings: dict, tile: int, channels: int = 1) -> int:
    """Return the operations of the forward and backward pass of a tile."""
    network = plan("unet", **settings, input_channels=channels).build()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, channels, tile, tile)).sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("settings", "tile", "batch", "channels"),
    [(SMALL, 32, 1, 1), ({"depth": 2, "base_channels": 6}, 60, 1, 1), (SMALL, 32, 4, 1), (SMALL, 44, 1, 3)],
)
def test_an_iteration_is_the_work_of_its_batch(work, settings, tile, batch, channels):
    training = {"tile": tile, "batch": batch, "device": "cpu", "precision": "float32"}
    found = measure_speed(settings, training, channels=channels, seconds=0)
    assert found == batch * operations(settings, tile, channels)


def test_the_measurement_ends_after_the_given_time_and_leaves_torch_as_it_was(work):
    own = operations(SMALL, 32)
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    training = {"tile": 32, "device": "cpu", "precision": "float32"}
    assert measure_speed(SMALL, training, threads=threads + 1, seconds=10 * own) == own
    assert work.get_total_flops() == (1 + 10 + 1) * own  # one that is not timed, ten, and `operations`
    assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), state)


def test_a_tile_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"training.tile: a tile of 33 px is not valid"):
        measure_speed(SMALL, {"tile": 33, "device": "cpu"})
