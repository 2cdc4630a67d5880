import pytest

from pipeline_lib import memory, networks
from pipeline_lib.memory import PROCESS_BYTES, threads_for
from pipeline_lib.networks.ssd import SSDPlan
from pipeline_lib.networks.unet import UNetPlan
from pipeline_lib.runtime.errors import InputError


@pytest.mark.parametrize(("gigabytes", "threads"), [(0.04, 1), (0.079, 1), (0.08, 2), (0.4, 10), (0.5, 10)])
def test_the_number_of_threads_that_fit_into_the_memory(gigabytes, threads):
    room = gigabytes + PROCESS_BYTES / 1e9 + 1e-9
    assert threads_for((1000, 1000), 40, room, threads=10) == threads


def test_the_message_for_no_thread_names_the_setting_and_the_next_step():
    with pytest.raises(
        InputError, match=r"1,000 x 2,000 px .* `memory_gb` is 0\.3\. Raise it .* crop the images"
    ):
        threads_for((1000, 2000), 40, 0.3, threads=8)


def test_the_largest_need_is_returned_or_its_message_names_both_remedies():
    needs = [
        memory.blockwise(2048),
        memory.scoring("vnc", (30_000, 20_000)),
        memory.validation("a", (512, 512)),
    ]
    assert memory.require(needs, 50).job.startswith("scoring volume vnc (sections of 30,000 x 20,000 px")
    with pytest.raises(
        InputError,
        match=r"`memory_gb`: 8, but scoring volume vnc .* needs 39\.2 GB\. Set `memory_gb: 40` .* cut its ",
    ):
        memory.require(needs, 8)


@pytest.mark.parametrize(
    ("method", "labelling", "scoring"),
    [("watershed", 20, 45), ("mutex_watershed", 68, 113), ("multicut", 40, 85)],
)
def test_a_method_adds_its_memory_to_that_of_the_scores(method, labelling, scoring):
    """The dry run knows what `threads_for` demands later."""
    offsets = ((-1, 0), (0, -1), (-9, 4))
    needs = [of("a", (1000, 1000), method, offsets) for of in (memory.labelling, memory.scoring)]
    assert [need.bytes - PROCESS_BYTES for need in needs] == [labelling * 1e6, max(scoring, 65) * 1e6]
    assert memory.with_method(memory.SCORING_BYTES_PER_PIXEL, method, offsets) == scoring


# (base channels, tile, batch, precision) -> measured peak memory of a training on the CPU in bytes
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
def test_the_estimate_for_training_is_an_upper_limit_and_at_most_35_percent_too_high(case):
    base_channels, tile, batch, precision = case
    plan = UNetPlan(base_channels=base_channels)
    given = {"precision": precision, "batch": batch, "volumes": 1, "pixels": 4 * 512**2}
    need = plan.training_memory(tile, on_gpu=False, **given)
    assert MEASURED[case] <= need.bytes <= 1.35 * MEASURED[case]
    on_gpu = plan.training_memory(tile, on_gpu=True, **given)
    assert on_gpu.bytes < need.bytes


SMALL = {"channels": (16, 32, 64, 64, 64)}
MANY = SMALL | {"sizes_per_level": 4, "aspect_ratios": (1.0, 2.0, 3.0)}
NORMALISED = SMALL | {"batch_normalisation": True}


@pytest.mark.parametrize(
    ("settings", "tile", "precision", "measured"),
    [
        (SMALL, 316, "float32", 560e6),
        (SMALL, 572, "float32", 744e6),
        (SMALL, 572, "bfloat16", 699e6),
        (SMALL, 1148, "float32", 1487e6),
        (MANY, 572, "float32", 819e6),
        (MANY, 572, "bfloat16", 747e6),
        (NORMALISED, 572, "float32", 871e6),
        (NORMALISED, 572, "bfloat16", 743e6),
        ({}, 572, "float32", 1439e6),
        ({}, 572, "bfloat16", 1173e6),
    ],
)
def test_the_same_estimate_for_ssd(settings, tile, precision, measured):
    """Measured: the peak memory of a process that calls `training.speed.measure_speed` with two threads."""
    given = {"precision": precision, "batch": 1, "volumes": 1, "pixels": 4 * tile**2}
    need = SSDPlan(**settings).example().training_memory(tile, on_gpu=False, **given)
    assert measured <= need.bytes <= 1.35 * measured


# (neighbours on each side, base channels, precision) -> what they add to the measured peak memory of a
# training of depth 2 with a tile of 652 px, in bytes
OF_NEIGHBOURS = {(3, 4, "float32"): 134e6, (10, 4, "float32"): 455e6, (10, 16, "float32"): 572e6}
OF_NEIGHBOURS[10, 4, "bfloat16"] = 550e6


@pytest.mark.parametrize("case", OF_NEIGHBOURS)
def test_what_neighbouring_sections_add_to_a_training(case):
    context, base_channels, precision = case
    given = {"precision": precision, "on_gpu": False, "batch": 1, "volumes": 1, "pixels": 4 * 652**2}
    alone, with_neighbours = (
        networks.plan("unet", depth=2, base_channels=base_channels, context_sections=k).training_memory(
            652, **given
        )
        for k in (0, context)
    )
    # the kernels of the first layer are included, too
    added = with_neighbours.bytes - alone.bytes
    assert OF_NEIGHBOURS[case] <= added <= 1.35 * OF_NEIGHBOURS[case]


@pytest.mark.parametrize(("context", "measured"), [(3, 89e6), (10, 293e6)])
def test_what_neighbouring_sections_add_to_a_prediction(context, measured):
    """Measured: peak memory with tiles of 1004 px."""
    plan = networks.plan("unet", depth=2, base_channels=4, context_sections=context)
    alone = networks.plan("unet", depth=2, base_channels=4)
    for size in (2, 4):  # bfloat16 or float32: the sections are read as float32
        more = plan.tile_bytes_per_pixel(size) - alone.tile_bytes_per_pixel(size)
        assert measured <= memory.KEPT * more * 1004**2 <= 1.35 * measured
    assert alone.tile_bytes_per_pixel(2) == 2 * alone.values_per_pixel
    difference = plan.prediction_memory().bytes - alone.prediction_memory().bytes
    assert difference == pytest.approx(memory.KEPT * more * plan.geometry.smallest**2)
