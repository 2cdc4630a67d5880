"""The measured speed of a training and of a prediction."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline_lib.networks import plan
from pipeline_lib.networks.cost import multiply_adds
from pipeline_lib.runtime.errors import InputError
from pipeline_lib.runtime.files import read_json
from pipeline_lib.stages.speed import measure
from pipeline_lib.training import speed
from pipeline_lib.training.speed import measure_prediction, measure_speed

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


def forward(network, size: int) -> int:
    """Return the operations of the forward pass of a tile."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.build().eval()(torch.zeros(1, network.input_channels, size, size))
    return counter.get_total_flops()


def test_a_prediction_is_the_work_of_its_pixels(work):
    network = plan("unet", **SMALL, input_channels=2)
    size = network.geometry.input_size(512)
    found = measure_prediction(network, device="cpu", precision="float32", seconds=0)
    assert found == pytest.approx(forward(network, size) / network.geometry.output_size(size) ** 2 * 1e6)
    # a large tile has little margin
    assert found / 1e6 == pytest.approx(2 * multiply_adds(network), rel=0.03)


def test_iterations_fit_into_the_given_time(work, tmp_path):
    """The time of an iteration is its work; 27.4 of them fit."""
    training = {"tile": 32, "device": "cpu", "precision": "float32"}
    own = operations(SMALL, 32)
    network = {"name": "unet"} | SMALL
    measure(tmp_path / "s.json", network=network, training=training, augmentation={}, minutes=27.4 * own / 60)
    found = read_json(tmp_path / "s.json")
    assert found["seconds_per_iteration"] == own
    assert found["schedule"] == {"iterations": 27, "validation_interval": 3}
    assert found["parameters"] == plan(**network).parameters
    assert found["multiply_adds"] == multiply_adds(plan(**network))
    measure(tmp_path / "s.json", network=network, training=training, augmentation={})
    assert read_json(tmp_path / "s.json")["schedule"] == {}


def test_the_classes_are_those_of_the_network(work, tmp_path):
    training = {"tile": 32, "device": "cpu", "precision": "float32"}
    names = ("background", "cell", "border")
    measure(
        tmp_path / "s.json",
        network={"name": "unet"} | SMALL,
        training=training,
        augmentation={},
        classes=names,
        cells=("cell",),
    )
    assert read_json(tmp_path / "s.json")["parameters"] == plan("unet", **SMALL, classes=3).parameters
