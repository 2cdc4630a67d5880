import pytest

from pipeline_lib import memory
from pipeline_lib.memory import PROCESS_BYTES, threads_for
from pipeline_lib.networks.unet import UNetPlan
from pipeline_lib.runtime.errors import InputError


@pytest.mark.parametrize(("gigabytes", "threads"), [(0.04, 1), (0.079, 1), (0.08, 2), (0.4, 10), (0.5, 10)])
def test_as_many_threads_as_the_memory_has_room_for(gigabytes, threads):
    room = gigabytes + PROCESS_BYTES / 1e9 + 1e-9
    assert threads_for((1000, 1000), 40, room, threads=10) == threads


def test_no_room_for_one_names_the_setting_and_the_way_out():
    with pytest.raises(
        InputError, match=r"1,000 x 2,000 px .* `memory_gb` is 0\.3\. Raise it .* crop or split"
    ):
        threads_for((1000, 2000), 40, 0.3, threads=8)


def test_the_largest_need_is_told_and_what_does_not_fit_is_refused_with_both_ways_out():
    needs = [
        memory.blockwise(2048),
        memory.scoring("vnc", (30_000, 20_000)),
        memory.validation("a", (512, 512)),
    ]
    assert memory.require(needs, 40).job.startswith("scoring volume vnc (sections of 30,000 x 20,000 px")
    with pytest.raises(
        InputError,
        match=r"`memory_gb`: 8, but scoring volume vnc .* takes 27\.2 GB\. Set `memory_gb: 28` .* cut its ",
    ):
        memory.require(needs, 8)


# (base channels, tile, batch, precision) -> bytes at most of a whole training on the CPU, measured
MEASURED = {
    (16, 572, 1, "float32"): 865e6,
    (16, 572, 1, "bfloat16"): 765e6,
    (16, 572, 8, "float32"): 1019e6,
    (16, 1148, 1, "float32"): 2020e6,
    (32, 572, 1, "float32"): 1235e6,
    (64, 572, 1, "bfloat16"): 2196e6,
    (64, 572, 1, "float32"): 2303e6,
}


@pytest.mark.parametrize("case", MEASURED)
def test_training_is_estimated_from_above_and_not_by_much(case):
    base_channels, tile, batch, precision = case
    plan = UNetPlan(base_channels=base_channels)
    given = {"precision": precision, "batch": batch, "volumes": 1, "pixels": 4 * 512**2}
    need = plan.training_memory(tile, on_gpu=False, **given)
    assert MEASURED[case] <= need.bytes <= 1.35 * MEASURED[case]
    on_gpu = plan.training_memory(tile, on_gpu=True, **given)
    assert on_gpu.bytes < need.bytes
